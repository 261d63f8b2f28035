/* Copying what is in a mount of the hub to here. */
#ifndef TOOLS_CTL_EXTRACT_H
#define TOOLS_CTL_EXTRACT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "tools/ctl.h"

struct ctl_extracted {
	uint64_t files, bytes;
	uint64_t left_out; /* devices, pipes, sockets */
};

/*
 * Copies @info, an answer of /file-info, to @output; "-" is stdout, a folder that is there takes it
 * in under its own name (a folder's content, when @info is a folder). Files are written under
 * another name and then renamed; what is there stays, unless @force; a folder that is there keeps
 * its mode and times in any case. Names that come from the guest cannot lead out of @output: each
 * is one component, and no link on the way is followed. CTL_CONFLICT: a file is there;
 * CTL_INTERRUPTED.
 */
int ctl_extract(struct ctl *ctl, const char *mount_id, const json_t *info, const char *output,
		bool force, struct ctl_extracted *done, struct err *err);

#endif
