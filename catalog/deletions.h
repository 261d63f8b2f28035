/*
 * backup_deletions: the journal of deletions. A backup is deleted in two steps.
 *
 * First, in one transaction, its rows go: job, disks, story, its place in the chains. From then on
 * it is nobody's point and nobody's parent, because it is not there. In the same transaction the
 * names of its files go into the journal. Then the files are removed, and when the disk has that
 * for certain, the journal's row goes too.
 *
 *   catalog_backup_delete           rows out, journal in; so catalog_vm_context_delete_all
 *   catalog_deletion_claim          this hub is at it, no other
 *   catalog_deletion_files_gone     no file is left (folders may be)
 *   catalog_deletion_done           nothing is: the row goes
 *   catalog_deletion_failed         something could not be removed: the reason, and when to try
 * again
 *
 * A crash anywhere leaves either the backup or its entry in the journal. Every step after the first
 * may be done again. An entry that a hub has claimed is another's once that hub's row is gone from
 * the hubs (hubs.h).
 */
#ifndef CATALOG_DELETIONS_H
#define CATALOG_DELETIONS_H

#include "catalog/backups.h"

struct catalog_deletion {
	int64_t id; /* grows: a point comes before what it leaned on */
	char backup_id[CATALOG_ID_SIZE];
	char vm_context_id[CATALOG_ID_SIZE]; /* empty: the VM had left the inventory */
	char vm_name[CATALOG_NAME_SIZE];
	char repository_id[CATALOG_ID_SIZE];
	enum catalog_backup_type backup_type;
	int64_t size_bytes; /* what its images took */
	bool files_gone;
	int64_t attempts;
	char error_message[CATALOG_ERROR_SIZE]; /* of the last attempt; empty: none failed */
	int64_t hub_token;			/* CATALOG_NONE: nobody is at it */
	int64_t backup_created_at_us;
	int64_t created_at_us;
	int64_t last_try_at_us; /* these two by the database's clock */
	int64_t retry_at_us;
	int64_t image_count; /* derived */
};

struct catalog_deletion_file {
	char qcow2_path[CATALOG_PATH_SIZE];
	bool committed; /* false: no point, only its folders are looked at */
};

/*
 * Deletes a backup that has ended; with @cascade everything that leans on it, too, all or nothing.
 * *@rows are the new entries of the journal, in the order to work on them; the caller free()s them.
 *
 * CATALOG_E_NOT_FOUND; CATALOG_E_BUSY: it runs, or one that leans on it does; CATALOG_E_IN_USE:
 * others lean on it (named; not with @cascade), it is mounted, or it has copies; CATALOG_E_STATE:
 * its repository keeps it, the sentence says until when.
 *
 * What counts as leaning: a disk of a running or completed job, by its parent. Of failed and
 * cancelled jobs no disk was ever offered.
 */
int catalog_backup_delete(struct catalog *cat, const char *job_id, bool cascade,
			  struct catalog_deletion **rows, size_t *n, struct err *err);

/* Deletes a VM with its disks, its backup contexts in all repositories, and all their backups. As
 * above; *@rows may be NULL with 0. */
int catalog_vm_context_delete_all(struct catalog *cat, const char *context_id,
				  struct catalog_deletion **rows, size_t *n, struct err *err);

/* In the order to work on them. @repository_id NULL or "": all. */
int catalog_deletions_list(struct catalog *cat, const char *repository_id,
			   struct catalog_deletion **rows, size_t *n, struct err *err);

/* How many there are, and of how many the last attempt failed. */
int catalog_deletions_count(struct catalog *cat, int64_t *all, int64_t *failed, struct err *err);

/* CATALOG_E_NOT_FOUND: no such entry; the backup may be there, or gone. */
int catalog_deletion_get(struct catalog *cat, const char *backup_id, struct catalog_deletion *out,
			 struct err *err);

/* The next entry that it is time to work on, and that no other hub is at. CATALOG_E_NOT_FOUND. */
int catalog_deletion_due(struct catalog *cat, struct catalog_deletion *out, struct err *err);

/* Takes an entry for this hub, whether it is time or not; it is time again after @retry_ms.
 * CATALOG_E_NOT_FOUND; CATALOG_E_BUSY: another hub, which lives, is at it. */
int catalog_deletion_claim(struct catalog *cat, const char *backup_id, int64_t retry_ms,
			   struct catalog_deletion *out, struct err *err);

/* The images of an entry. */
int catalog_deletion_files(struct catalog *cat, int64_t id, struct catalog_deletion_file **rows,
			   size_t *n, struct err *err);

/* Whether another entry of the same VM and repository was tried, and it is not known that no file
 * of it is left. */
int catalog_deletion_has_others(struct catalog *cat, const struct catalog_deletion *entry,
				bool *has, struct err *err);

/* Of an entry that this hub has claimed. CATALOG_E_FENCED: it is another's by now, or done. */
int catalog_deletion_files_gone(struct catalog *cat, int64_t id, struct err *err);
int catalog_deletion_done(struct catalog *cat, int64_t id, struct err *err);
/* Gives the entry back; any hub may try after @retry_ms. @reason is cut to fit. */
int catalog_deletion_failed(struct catalog *cat, int64_t id, const char *reason, int64_t retry_ms,
			    struct err *err);

#endif
