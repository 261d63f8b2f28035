#include "tools/ctl_confirm.h"

#include <string.h>
#include <unistd.h>

int ctl_confirm(const struct ctl_args *args, const char *question, struct err *err)
{
	char answer[16] = "";

	if (ctl_option(args, "yes"))
		return CTL_OK;
	if (!isatty(STDIN_FILENO))
		return err_set(err, CTL_USAGE,
			       "nobody can be asked here whether that is meant: add --yes");
	fprintf(stderr, "%s? Type yes: ", question);
	fflush(stderr);
	if (fgets(answer, sizeof(answer), stdin) && strcmp(answer, "yes\n") == 0)
		return CTL_OK;
	return err_set(err, CTL_FAILED, "not confirmed: nothing was deleted");
}
