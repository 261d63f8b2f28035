/*
 * What the files of backups.h and chains.h share: inside the folder only.
 */
#ifndef CATALOG_BACKUP_ROWS_H
#define CATALOG_BACKUP_ROWS_H

#include "catalog/backups.h"
#include "catalog/chains.h"
#include "catalog/job_log.h"
#include "catalog/repositories.h"
#include "catalog/row.h"

extern const struct row_map catalog_backup_context_map; /* alias c */
extern const struct row_map catalog_backup_map;		/* alias j; reads jobs, inserts none */
extern const struct row_map catalog_backup_disk_map;	/* alias d, its parent p */
extern const struct row_map catalog_chain_map;		/* alias ch, its context c */

/* SQL conditions. */
#define JOB_ACTIVE "status IN ('pending', 'running')"
#define DISK_OPEN  "status IN ('pending', 'running')"
/* The same as JOB_ACTIVE, for finding such jobs among all: by a unique column that few rows have.
 * To a planner that has counted, an index on a state which nearly all rows share is none;
 * nor must one be tempted by an index to sort by. */
#define JOB_RUNS "running_vm_name > ''"

/* DB_ROW, DB_DONE or an error. */
int catalog_point_latest_row(struct db *db, const char *vm_backup_context_id, const char *disk_id,
			     struct catalog_backup_disk *out, struct err *err);

/* Enters the disks of a job that is just being completed into their chains. */
int catalog_chains_extend(struct db *db, const struct catalog_backup_disk *disks, size_t n,
			  int64_t now_us, struct err *err);

/* copies.c: the copies that the policy of a job that is just being completed wants of it. */
int catalog_copies_plan(struct catalog *tx, const struct catalog_backup *job, struct err *err);

/* repositories.c: CATALOG_E_STATE while the repository keeps what was completed in it at @since_us,
 * with a sentence about "@what @id". In the transaction that would take it away. */
int catalog_repository_keeps(struct db *db, const struct catalog_repository *repo, const char *what,
			     const char *id, int64_t since_us, struct err *err);

/* A line of the job's story, in the transaction of the step it tells of. */
struct catalog_job_at {
	const char *job_id;
	int disk_index; /* or CATALOG_NONE */
	enum catalog_log_level level;
	const char *phase;
};

int catalog_job_log_put(struct db *db, const struct catalog_job_at *at, int64_t now_us,
			struct err *err, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));

/* Copies as much of @src as fits, never half a UTF-8 character; what is none becomes '?', because a
 * database may refuse it, and a job must be able to fail whatever its reason is made of. For
 * sentences, not for names. */
void catalog_text_cut(char *dst, size_t cap, const char *src);

#endif
