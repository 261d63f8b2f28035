/*
 * After a crash, before anything starts. A backup cannot go on across a restart of the hub: its
 * agent wrote into exports that are gone. So every backup the catalog has as running failed, and of
 * its disks whatever is not committed is a leftover, under a .part or a final name: rows are
 * written before files and name both. A point without a row is none of these and is never touched:
 * it may be the last thing left of a lost catalog.
 *
 * Files first, then the catalog: a crash in here finds the same work again.
 */
#include <stdlib.h>
#include <string.h>

#include "hub/job.h"

#define RECOVER_REASON "hub was restarted while this backup ran"

static void recover_disk(struct hub *hub, struct repo *repo, const struct catalog_backup_disk *row)
{
	struct repo_point point;
	struct err err = ERR_INIT;
	int64_t moved = 0;

	if (row->status == CATALOG_DISK_COMPLETED)
		return;
	CATALOG_TEXT(point.path, row->qcow2_path);
	CATALOG_TEXT(point.part, row->part_path);
	if (repo->ops->quarantine(repo, &point, REPO_KEEP, &moved, &err))
		log_error(&hub->log, "%s disk %d: %s", row->backup_job_id, row->disk_index,
			  err.text);
	else if (moved)
		log_warn(&hub->log, "%s disk %d: %lld bytes of %s are in the quarantine",
			 row->backup_job_id, row->disk_index, (long long)moved, row->qcow2_path);
}

static void recover_files(struct hub *hub, const struct catalog_backup *job)
{
	_cleanup_(freep) struct catalog_backup_disk *disks = NULL;
	_cleanup_(repo_closep) struct repo *repo = NULL;
	struct catalog_repository row;
	struct err err = ERR_INIT;
	size_t n = 0;

	if (catalog_repository_get(hub->catalog, job->repository_id, &row, &err) ||
	    repo_open(&repo, &row, false, &err) ||
	    catalog_backup_disks_list(hub->catalog, job->id, &disks, &n, &err)) {
		log_error(&hub->log, "what %s left cannot be quarantined: %s", job->id, err.text);
		return;
	}
	for (size_t i = 0; i < n; i++)
		recover_disk(hub, repo, &disks[i]);
}

static int recover_jobs(struct hub *hub, struct err *err)
{
	_cleanup_(freep) struct catalog_backup *jobs = NULL;
	size_t n = 0;
	int rc = catalog_backups_running(hub->catalog, &jobs, &n, err);

	for (size_t i = 0; !rc && i < n; i++) {
		log_warn(&hub->log, "%s of VM \"%s\" failed: " RECOVER_REASON, jobs[i].id,
			 jobs[i].vm_name);
		recover_files(hub, &jobs[i]);
		rc = catalog_backup_fail(hub->catalog, jobs[i].id, CATALOG_JOB_FAILED,
					 RECOVER_REASON, err);
		if (rc > 0) /* ended by itself: nothing is wrong */
			rc = 0;
	}
	return rc;
}

/* Partials no row leads to any more. A repository out of reach is told, and waits for its use. */
static int recover_sweep(struct hub *hub, struct err *err)
{
	_cleanup_(freep) struct catalog_repository *rows = NULL;
	size_t n = 0;
	int rc = catalog_repositories_list(hub->catalog, &rows, &n, err);

	for (size_t i = 0; !rc && i < n; i++) {
		_cleanup_(repo_closep) struct repo *repo = NULL;
		struct err why = ERR_INIT;
		unsigned count = 0;
		int64_t bytes = 0;

		if (repo_open(&repo, &rows[i], false, &why) ||
		    repo->ops->sweep(repo, &count, &bytes, &why))
			log_warn(&hub->log, "%s", why.text);
		else if (count)
			log_warn(&hub->log,
				 "repository \"%s\": %u partial images of %lld bytes are in the "
				 "quarantine",
				 repo->name, count, (long long)bytes);
	}
	return rc;
}

int hub_recover(struct hub *hub, struct err *err)
{
	int rc = recover_jobs(hub, err);

	if (!rc)
		rc = recover_sweep(hub, err);
	return hub_from_catalog(rc);
}
