/*
 * restore_mounts: disks of points that are open for looking at their files (missions M75 to M84,
 * K25).
 *
 * A disk is mounted once, by one hub; `users` counts who asked for it. The session itself is in
 * that hub's memory: a row whose hub is gone (hubs.h) stands for nothing and is swept. While there
 * is a row the point cannot be deleted (deletions.h), and what begins a mount looks, in one
 * transaction, that the point is there and offered.
 */
#ifndef CATALOG_RESTORES_H
#define CATALOG_RESTORES_H

#include "catalog/backups.h"

enum catalog_mount_status {
	CATALOG_MOUNT_MOUNTING,
	CATALOG_MOUNT_MOUNTED,
	CATALOG_MOUNT_UNMOUNTING,
	CATALOG_MOUNT_FAILED,
};

struct catalog_mount {
	char id[CATALOG_ID_SIZE]; /* "mount-..." */
	int64_t backup_disk_id;
	enum catalog_mount_status status;
	char mount_path[CATALOG_PATH_SIZE];
	int users;
	char error_message[CATALOG_ERROR_SIZE];
	int64_t created_at_us;
	int64_t last_used_at_us;
	int64_t hub_token;
	/* Derived. */
	char backup_id[CATALOG_ID_SIZE];
	int disk_index;
	char vm_name[CATALOG_NAME_SIZE];
	char hub_name[CATALOG_NAME_SIZE]; /* empty: the hub is gone */
};

const char *catalog_mount_status_name(enum catalog_mount_status status);

/*
 * Begins a mount for this hub: *@out is the new row, MOUNTING, with one user; @mount_path is
 * made of @path_prefix and the new id.
 *
 * CATALOG_E_NOT_FOUND: no such backup or disk; CATALOG_E_STATE: the backup is not completed, or the
 * disk's point is not offered; CATALOG_E_EXISTS: this hub has it mounted, *@out is that row;
 * CATALOG_E_IN_USE: another hub has, the sentence names it; CATALOG_E_FENCED.
 */
int catalog_mount_begin(struct catalog *cat, const char *backup_id, int disk_index,
			const char *path_prefix, struct catalog_mount *out, struct err *err);

/* Of this hub's mounts. CATALOG_E_NOT_FOUND: there is no such one any more. */
int catalog_mount_set_mounted(struct catalog *cat, const char *id, struct err *err);
int catalog_mount_set_used(struct catalog *cat, const char *id, int users, int64_t last_used_at_us,
			   struct err *err);

/* Removes one of this hub's; one that is gone is no error. */
int catalog_mount_end(struct catalog *cat, const char *id, struct err *err);

/* CATALOG_E_NOT_FOUND. */
int catalog_mount_get(struct catalog *cat, const char *id, struct catalog_mount *out,
		      struct err *err);

/* All hubs', oldest first. */
int catalog_mounts_list(struct catalog *cat, struct catalog_mount **rows, size_t *n,
			struct err *err);

/* Removes those whose hub is gone; *@n is how many they were. */
int catalog_mounts_sweep(struct catalog *cat, int64_t *n, struct err *err);

#endif
