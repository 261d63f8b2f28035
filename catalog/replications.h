/*
 * replication_jobs: copying a VM to another platform, by the agent and an engine of its own. The
 * catalog lends a job the VM's disk rows, as discovery made them (mission M7), and keeps for each
 * disk the change id of its latest copy.
 */
#ifndef CATALOG_REPLICATIONS_H
#define CATALOG_REPLICATIONS_H

#include "catalog/backups.h"
#include "catalog/catalog.h"

enum catalog_replication_type {
	CATALOG_REPLICATION_INITIAL,
	CATALOG_REPLICATION_INCREMENTAL,
};

/* "initial", "incremental". */
const char *catalog_replication_type_name(enum catalog_replication_type type);
bool catalog_replication_type_parse(const char *name, enum catalog_replication_type *out);

struct catalog_replication {
	char id[CATALOG_ID_SIZE]; /* "repl-..."; never "backup-..." (agent contract 1.3) */
	char vm_context_id[CATALOG_ID_SIZE];
	char vm_name[CATALOG_NAME_SIZE];    /* derived */
	char vm_path[CATALOG_VM_PATH_SIZE]; /* derived */
	enum catalog_replication_type type;
	enum catalog_job_status status;
	char error_message[CATALOG_ERROR_SIZE];
	int64_t created_at_us;
	int64_t updated_at_us;
	int64_t completed_at_us;
	int64_t disk_count; /* derived: rows that are lent to it */
};

/* Read from @row: vm_context_id, type; id when given. Takes the VM's disks that are not missing.
 * CATALOG_E_NOT_FOUND (VM); CATALOG_E_BUSY: one of the VM has not ended, its id in the sentence;
 * CATALOG_E_INVALID: the VM has no disks. */
int catalog_replication_create(struct catalog *cat, struct catalog_replication *row,
			       struct err *err);

/* CATALOG_E_NOT_FOUND. */
int catalog_replication_get(struct catalog *cat, const char *id, struct catalog_replication *out,
			    struct err *err);

struct catalog_replication_filter {
	const char *vm_context_id, *vm_name; /* NULL or "": any */
	const enum catalog_job_status *status;
	int64_t limit, offset;
};

/* Newest first. @total may be NULL. */
int catalog_replications_list(struct catalog *cat, const struct catalog_replication_filter *filter,
			      struct catalog_replication **rows, size_t *n, int64_t *total,
			      struct err *err);

/* How it stands now; what has ended stays as it is. CATALOG_E_NOT_FOUND, CATALOG_E_STATE. */
int catalog_replication_set_status(struct catalog *cat, const char *id,
				   enum catalog_job_status status, const char *error_message,
				   struct err *err);

/* The job goes, the disks stay and are nobody's. CATALOG_E_NOT_FOUND; CATALOG_E_STATE while it
 * runs. */
int catalog_replication_delete(struct catalog *cat, const char *id, struct err *err);

/*
 * Since when a disk (by the agent's id, "disk-2000") of the VM at @vm_path has to be copied: the
 * change id of its latest copy; "" (all of it) when there is none, an initial replication of the VM
 * has not ended, no VM is there or several without one.
 */
int catalog_replication_change_id(struct catalog *cat, const char *vm_path, const char *disk_id,
				  char change_id[CATALOG_CHANGE_ID_SIZE], struct err *err);

/* A disk was copied up to there. CATALOG_E_NOT_FOUND: no such job, or none of its disks. */
int catalog_replication_set_change_id(struct catalog *cat, const char *id, const char *disk_id,
				      const char *change_id, struct err *err);

#endif
