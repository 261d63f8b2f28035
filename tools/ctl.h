/*
 * sendense-ctl as a whole: what a verb is given, what it returns, and where the verbs are.
 *
 * A verb is one row of a table (ctl_args.h) and one function: it asks the hub over REST
 * (ctl_rest.h), then either prints the hub's answer as it came (--json) or a table for people
 * (ctl_table.h, ctl_human.h). Verbs return a CTL_* value, which is also the exit status of the
 * program; the sentence about what went wrong is in `struct err`, and main() alone prints it.
 */
#ifndef TOOLS_CTL_H
#define TOOLS_CTL_H

#include <stdbool.h>

#include "base/err.h"

#define CTL_DEFAULT_HUB "http://127.0.0.1:8080"

/* Exit statuses; documented by --help, relied upon by scripts. */
enum {
	CTL_OK = 0,
	CTL_FAILED = 1,	       /* the hub refused or failed, or the backup waited for failed */
	CTL_USAGE = 2,	       /* the command line makes no sense */
	CTL_UNREACHABLE = 3,   /* no answer from the hub */
	CTL_NOT_FOUND = 4,     /* no such VM, repository, backup or file */
	CTL_CONFLICT = 5,      /* exists already, is in use, or a backup of the VM is running */
	CTL_DAMAGED = 6,       /* an image has lost data */
	CTL_REPAIRABLE = 7,    /* an image needs repair, nothing is lost */
	CTL_UNUSABLE = 8,      /* no image, or one with a feature that is refused */
	CTL_BROKEN_CHAIN = 9,  /* a backing file is missing, outside the repository, or a cycle */
	CTL_DENIED = 10,       /* no valid token, or one that may not do this */
	CTL_INTERRUPTED = 130, /* Ctrl-C while waiting; the backup goes on in the hub */
};

struct ctl_rest;

struct ctl {
	struct ctl_rest *rest; /* owned by main() */
	bool json;
};

#endif
