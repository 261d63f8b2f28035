/* Asking before something is destroyed. */
#ifndef TOOLS_CTL_CONFIRM_H
#define TOOLS_CTL_CONFIRM_H

#include "tools/ctl_args.h"

/* The option that answers in advance; for a verb's table. */
#define CTL_YES_OPTION                                                                             \
	{                                                                                          \
		"yes", NULL, "do not ask", false                                                   \
	}

/* Asks @question (it ends without a mark) on the terminal; only "yes" is yes. CTL_OK; CTL_FAILED:
 * it was not; CTL_USAGE: stdin is no terminal, and --yes was not given. */
int ctl_confirm(const struct ctl_args *args, const char *question, struct err *err);

#endif
