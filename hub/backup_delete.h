/*
 * Deleting backups, with their files.
 *
 * A deletion happens in the catalog at once (catalog/deletions.h); the files follow, right away if
 * they can be reached, else by a thread that tries again every HUB_DELETE_RETRY_MS, in this run of
 * the hub, the next one, or another hub on the same catalog.
 */
#ifndef HUB_BACKUP_DELETE_H
#define HUB_BACKUP_DELETE_H

#include "catalog/deletions.h"
#include "hub/hub.h"

#define HUB_DELETE_RETRY_MS (60 * 1000)

/* What a call has deleted, newest first. `gone` of an entry: no file is left; else `row` says why
 * not, or nobody has tried yet. */
struct hub_deleted {
	struct hub_deletion {
		struct catalog_deletion row;
		bool gone;
	} * entries;
	size_t n, gone;
};

void hub_deleted_deinit(struct hub_deleted *deleted); /* accepts a zeroed one */

/* Deletes a backup; with @cascade what leans on it as well. One whose files are still there is
 * tried again at once. HUB_E_NOT_FOUND; HUB_E_BUSY: it runs; HUB_E_STATE: others lean on it, it is
 * kept by its repository, mounted or copied. */
int hub_backup_delete(struct hub *hub, const char *backup_id, bool cascade, struct hub_deleted *out,
		      struct err *err);

/* Deletes a VM with all its backups. As above. */
int hub_vm_delete_all(struct hub *hub, const char *vm_context_id, struct hub_deleted *out,
		      struct err *err);

#endif
