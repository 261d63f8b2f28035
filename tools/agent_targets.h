/*
 * `nbd_targets`, as a hub sends it with a start: "KEY:URI,KEY:URI,...", one entry a disk. KEY is
 * the disk's key of the inventory; URI is nbd://HOST[:PORT]/EXPORT or
 * nbd+unix:///EXPORT?socket=PATH. EXPORT ends in "disk<N>", and that N is how the hub calls the
 * disk in everything that follows. (agent contract 1.3)
 */
#ifndef TOOLS_AGENT_TARGETS_H
#define TOOLS_AGENT_TARGETS_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define AGENT_TARGETS_MAX 256
#define AGENT_URI_MAX	  600
#define AGENT_EXPORT_MAX  63

struct agent_target {
	int64_t key;
	int disk_index;
	char uri[AGENT_URI_MAX + 1];
	char export[AGENT_EXPORT_MAX + 1];
};

/* *@out is an array of *@n, which the caller free()s. -EINVAL with a sentence naming the entry:
 * malformed, a key or a disk index twice, an export name that does not tell its disk. */
int agent_targets_parse(const char *text, struct agent_target **out, size_t *n, struct err *err);

/* NULL: no entry for that disk. */
const struct agent_target *agent_targets_find(const struct agent_target *targets, size_t n,
					      int64_t key);

#endif
