/*
 * Copies of finished backups in other repositories (mission M67).
 *
 * A copy is a point that stands by itself: for each disk one image without a parent, the chain
 * merged while it is read, with checksums and a sidecar that says what it is a copy of. It is
 * written as .part, synced, compared with the checksums of the backup, read back if that is wanted,
 * and only then gets its name. A crash leaves the work to be begun anew; the row knows the files.
 *
 * Threads of the hub (copy_max_running of them) take what the catalog has to do (catalog/copies.h);
 * an attempt that fails is followed by others with growing pauses. What is found to differ from the
 * backup is not tried again by itself: a disk lies, and somebody should look.
 */
#ifndef HUB_COPIES_H
#define HUB_COPIES_H

#include "catalog/copies.h"
#include "hub/hub.h"

/* The repository as hub_repository_resolve() takes it. *@out is the row, `pending`; with
 * HUB_E_EXISTS that of the copy there is has its id. HUB_E_NOT_FOUND, HUB_E_INVALID; HUB_E_STATE:
 * the backup is not completed, or is in that repository itself, or the repository is disabled or
 * out of reach; -ENOSPC: there is no room for it. */
int hub_copy_request(struct hub *hub, const char *backup_id, const char *repository_id,
		     const char *repository, bool verify, struct catalog_copy *out,
		     struct err *err);

/* Deletes the files and then the row. A copy that somebody is at is told to stop, and goes then: it
 * may be there for a moment after this returned. HUB_E_NOT_FOUND; HUB_E_STATE: the repository is
 * immutable and keeps it for some time yet; -errno: tried again later. */
int hub_copy_remove(struct hub *hub, const char *id, struct err *err);

#endif
