/*
 * Old databases: backups of the flat layout, where a run was one row of backup_jobs and each of its
 * disks another, with nothing but their times to say that they belong together.
 *
 * What becomes of them (M30, K28):
 *  - Each old row becomes a job of the same id. A row whose path lies in a folder "disk-N" is one
 * disk's, whatever its disk_id column says (that may have been made 0 for all rows); it gets a
 * disk, N. The others were the parents of runs and get none. Nothing is joined by time.
 *  - VM, disks and repository come along when this catalog does not know them; a repository of the
 * same name, type and configuration is the same one. Sizes and ids of disks are those of the VM's
 * N-th disk in the old inventory: never estimated.
 *  - A completed disk is a point of its chain: behind its parent where that is the latest point of
 * the disk, else in a chain that begins with it. A point without a change id cannot be one: it
 * becomes failed and says why, its file stays.
 *  - What was running becomes failed: whoever ran it does not any more.
 *
 * Everything happens in one transaction. Jobs that are here already are left as they are, so
 * importing again adds only what is new, and mostly nothing.
 */
#ifndef CATALOG_LEGACY_H
#define CATALOG_LEGACY_H

#include "catalog/catalog.h"

/* What was added. */
struct catalog_legacy {
	int64_t repositories;
	int64_t vms;
	int64_t contexts;
	int64_t jobs;
	int64_t disks;
	int64_t points;	  /* of the disks: those that can be restored */
	int64_t unusable; /* of the disks: completed, but without a change id */
	int64_t present;  /* jobs that were here before */
};

/* Imports from the MariaDB database at @source ("mariadb://...", catalog/catalog.h), which is only
 * read. No program may be writing to it. CATALOG_E_URL; CATALOG_E_SCHEMA: it has no such layout;
 * CATALOG_E_CONFLICT: it contradicts itself or this catalog. */
int catalog_import_legacy(struct catalog *cat, const char *source, struct catalog_legacy *out,
			  struct err *err);

#endif
