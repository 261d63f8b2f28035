/*
 * backup_chains: one chain is a full and the incrementals that lean on it, of one disk of one VM in
 * one repository. A disk may have many chains; at most one is active: the one its latest point is
 * in.
 *
 * A chain holds points that are offered, and a point is offered when the whole job is completed. So
 * chains change in one place, the transaction that completes a job (catalog/backups.h): a full
 * opens a chain and makes it the active one, an incremental joins its parent's chain.
 */
#ifndef CATALOG_CHAINS_H
#define CATALOG_CHAINS_H

#include "catalog/backups.h"
#include "catalog/catalog.h"

struct catalog_chain {
	char id[CATALOG_ID_SIZE]; /* "chain-..." */
	char vm_backup_context_id[CATALOG_ID_SIZE];
	int disk_index;
	char disk_id[CATALOG_NAME_SIZE]; /* the agent's id of the disk */
	char full_backup_id[CATALOG_ID_SIZE];
	char latest_backup_id[CATALOG_ID_SIZE];
	int64_t total_backups;
	int64_t total_size_bytes; /* sum of bytes_stored of its points */
	bool active;
	int64_t created_at_us;
	int64_t updated_at_us;
	char vm_name[CATALOG_NAME_SIZE];     /* derived, from the backup context */
	char vm_context_id[CATALOG_ID_SIZE]; /* derived */
	char repository_id[CATALOG_ID_SIZE]; /* derived */
};

struct catalog_chain_filter {
	const char *vm_name; /* NULL or "": any, as for the other texts */
	const char *vm_context_id;
	const char *vm_backup_context_id;
	const char *repository_id;
	int disk_index; /* CATALOG_NONE: any. Mind that {0} asks for disk 0. */
	bool active_only;
};

/* Ordered by backup context, disk_index, then oldest first. @filter may be NULL. */
int catalog_chains_list(struct catalog *cat, const struct catalog_chain_filter *filter,
			struct catalog_chain **rows, size_t *n, struct err *err);

/* CATALOG_E_NOT_FOUND. */
int catalog_chain_get(struct catalog *cat, const char *chain_id, struct catalog_chain *out,
		      struct err *err);

/* The points of a chain, the full first. The rows' backup_job_id leads to the job. */
int catalog_chain_points(struct catalog *cat, const char *chain_id,
			 struct catalog_backup_disk **rows, size_t *n, struct err *err);

#endif
