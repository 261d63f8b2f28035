/*
 * backup_copies: a finished backup in one more repository. A copy is a point of its own there: one
 * file a disk, which needs no other.
 *
 * Life of a copy
 *
 *   catalog_copy_request   `pending`; or by a policy's rule, in the transaction that completes the
 *                          backup, so that none is forgotten
 *   catalog_copy_claim     one hub takes it: `copying`
 *   catalog_copy_set_disks, catalog_copy_progress
 *   catalog_copy_set_verifying  `verifying`
 *   catalog_copy_complete  `completed`
 *   catalog_copy_fail      `pending` again, to be tried at retry_at_us, or `failed`
 *   catalog_copy_release   `pending` again, as if it had not begun: the hub stops
 *
 * Who has claimed a copy holds it: it alone writes the row, and every write compares the number
 * of the claim, which grows with each. Without that: CATALOG_E_FENCED, and nothing was written.
 * When the hub is gone (its row in `hubs` is), another takes the copy (catalog_copies_take_over),
 * clears away what was half made, and releases it.
 *
 * A backup is copied while its job is `completed`, which the claim asks in its own transaction.
 * While a copy is pending, copying or verifying its backup must not be deleted.
 */
#ifndef CATALOG_COPIES_H
#define CATALOG_COPIES_H

#include "catalog/backups.h"

enum catalog_copy_status {
	CATALOG_COPY_PENDING,
	CATALOG_COPY_COPYING,
	CATALOG_COPY_VERIFYING,
	CATALOG_COPY_COMPLETED,
	CATALOG_COPY_FAILED,
	CATALOG_COPY_STATUSES,
};

enum catalog_copy_verification {
	CATALOG_COPY_UNVERIFIED, /* "pending": not read back since it was written */
	CATALOG_COPY_PASSED,
	CATALOG_COPY_DIFFERS, /* "failed" */
};

/* What there is to do, while it is pending, copying or verifying. */
enum catalog_copy_task {
	CATALOG_COPY_MAKE,
	CATALOG_COPY_VERIFY, /* what was completed before */
	CATALOG_COPY_REMOVE,
};

const char *catalog_copy_status_name(enum catalog_copy_status status);
const char *catalog_copy_verification_name(enum catalog_copy_verification verification);
bool catalog_copy_status_parse(const char *name, enum catalog_copy_status *out);

struct catalog_copy {
	char id[CATALOG_ID_SIZE]; /* "copy-..." */
	char backup_job_id[CATALOG_ID_SIZE];
	char repository_id[CATALOG_ID_SIZE]; /* where to */
	char copy_rule_id[CATALOG_ID_SIZE];  /* empty: asked for by hand, or the rule is gone */
	enum catalog_copy_status status;
	enum catalog_copy_task task;
	enum catalog_copy_verification verification;
	bool verify_after_copy;
	bool when_idle;	     /* not while a backup runs or another copy is made */
	int priority;	     /* >= 1; 1 goes first */
	int attempts;	     /* begun; since it was asked for, or for again */
	int64_t bytes_total; /* of the disks; as bytes_copied in guest bytes */
	int64_t bytes_copied;
	char error_message[CATALOG_ERROR_SIZE]; /* of the last attempt that failed */
	int64_t created_at_us;
	int64_t started_at_us; /* the last attempt */
	int64_t completed_at_us;
	int64_t verified_at_us; /* passed */
	int64_t retry_at_us;	/* 0: as soon as may be */
	int64_t claim;
	int64_t hub_token; /* CATALOG_NONE: nobody is at it */
	/* derived */
	char vm_name[CATALOG_NAME_SIZE];
	char repository_name[CATALOG_NAME_SIZE];
};

struct catalog_copy_disk {
	char copy_id[CATALOG_ID_SIZE];
	int disk_index;
	char qcow2_path[CATALOG_PATH_SIZE];
	char part_path[CATALOG_PATH_SIZE];
	int64_t bytes_total;  /* guest bytes */
	int64_t bytes_stored; /* size the image takes */
	char sha256[65];      /* of the image's file; empty: not read back */
};

/* --- asking for one -----------------------------------------------------------------------------
 */

/* Read from @copy: backup_job_id, repository_id, verify_after_copy, priority (0: 1). Written back:
 * the row. CATALOG_E_NOT_FOUND: no such backup or repository; CATALOG_E_STATE: the backup is not
 * completed, or is in that repository itself; CATALOG_E_EXISTS: there is one; its id is in @copy.
 */
int catalog_copy_request(struct catalog *cat, struct catalog_copy *copy, struct err *err);

/* Whether it could be: the same results, nothing is written. */
int catalog_copy_check(struct catalog *cat, struct catalog_copy *copy, struct err *err);

/* Tries one that failed anew, or now what waits for its next attempt. CATALOG_E_NOT_FOUND,
 * CATALOG_E_STATE. */
int catalog_copy_retry(struct catalog *cat, const char *id, struct err *err);

/* Reads one that is completed back once more. As above. */
int catalog_copy_verify(struct catalog *cat, const char *id, struct err *err);

/* One that nobody is at is the caller's from here on, who deletes its files and ends with
 * catalog_copy_remove(); else, *@held, who is at it does so. @copy is the row. CATALOG_E_NOT_FOUND;
 * CATALOG_E_STATE: it is finished and its repository keeps it, the sentence says until when. */
int catalog_copy_begin_remove(struct catalog *cat, const char *id, struct catalog_copy *copy,
			      bool *held, struct err *err);

/* --- looking ------------------------------------------------------------------------------------
 */

/* CATALOG_E_NOT_FOUND. */
int catalog_copy_get(struct catalog *cat, const char *id, struct catalog_copy *out,
		     struct err *err);
/* By disk index; none before the first attempt. */
int catalog_copy_disks_list(struct catalog *cat, const char *id, struct catalog_copy_disk **rows,
			    size_t *n, struct err *err);

struct catalog_copy_filter {
	const char *backup_job_id; /* NULL or "": any, as for the other */
	const char *repository_id;
	const enum catalog_copy_status *status; /* NULL: any */
	const char *sort; /* NULL or "": created_at; status, completed_at, bytes_total */
	bool descending;
	int64_t limit; /* 0: no limit */
	int64_t offset;
};

int catalog_copies_list(struct catalog *cat, const struct catalog_copy_filter *filter,
			struct catalog_copy **rows, size_t *n, int64_t *total, struct err *err);

/* All that somebody is at, this hub or another. */
int catalog_copies_held(struct catalog *cat, struct catalog_copy **rows, size_t *n,
			struct err *err);

/* --- doing it -----------------------------------------------------------------------------------
 */

/* Takes the copy whose turn it is. One whose backup is not `completed` any more fails here.
 * CATALOG_E_NOT_FOUND: there is nothing to do. */
int catalog_copy_claim(struct catalog *cat, struct catalog_copy *out, struct err *err);

/* Takes every copy whose hub is gone: they are the caller's, who clears their files away and
 * releases them. The caller free()s *@rows. */
int catalog_copies_take_over(struct catalog *cat, struct catalog_copy **rows, size_t *n,
			     struct err *err);

/* For who holds it; all of them CATALOG_E_FENCED. */

/* Replaces what is known of its files: before the first of them is made. Sets bytes_total.
 * @n 0: no file is left of it. */
int catalog_copy_set_disks(struct catalog *cat, const struct catalog_copy *copy,
			   const struct catalog_copy_disk *disks, size_t n, struct err *err);
/* *@remove: it is to go; stop, clear away, catalog_copy_remove(). */
int catalog_copy_progress(struct catalog *cat, const struct catalog_copy *copy,
			  int64_t bytes_copied, bool *remove, struct err *err);
int catalog_copy_set_verifying(struct catalog *cat, const struct catalog_copy *copy,
			       struct err *err);
/* @disks brings sizes and checksums. @verified: it was read back and is what the backup is.
 * Harmless when it was done before. */
int catalog_copy_complete(struct catalog *cat, const struct catalog_copy *copy,
			  const struct catalog_copy_disk *disks, size_t n, bool verified,
			  struct err *err);

struct catalog_copy_failure {
	const char *reason;
	bool differs;	     /* it was read back and is not what the backup is */
	int64_t retry_at_us; /* 0: that was the last attempt */
};
int catalog_copy_fail(struct catalog *cat, const struct catalog_copy *copy,
		      const struct catalog_copy_failure *failure, struct err *err);
/* A completed one could not be read back now: it stays completed. */
int catalog_copy_keep(struct catalog *cat, const struct catalog_copy *copy, const char *reason,
		      struct err *err);
int catalog_copy_release(struct catalog *cat, const struct catalog_copy *copy, struct err *err);
/* The row goes. */
int catalog_copy_remove(struct catalog *cat, const struct catalog_copy *copy, struct err *err);

#endif
