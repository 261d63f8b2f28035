/*
 * After a crash: of this hub, before anything starts, or of another one on the same catalog, once
 * its lease is over (lease.c). A backup cannot go on in another run of a hub: its agent wrote into
 * exports that are gone. So every backup whose hub is gone failed, and of its disks whatever is not
 * committed is a leftover, under a .part or a final name: rows are written before files and name
 * both. A point without a row is none of these and is never touched: it may be the last thing left
 * of a lost catalog.
 *
 * The backup is taken over first, so that the hub it belonged to, should it be alive after all,
 * cannot commit it any more; then files, then the catalog: a crash in here leaves the same work to
 * the next.
 */
#include <stdlib.h>
#include <string.h>

#include "hub/job.h"

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

static const char *recover_reason(const struct hub *hub, const struct catalog_backup *job)
{
	return job->hub_token == CATALOG_NONE || job->hub_token == hub->previous_token
		       ? "hub was restarted while this backup ran"
		       : "the hub that ran this backup is gone";
}

static int recover_job(struct hub *hub, const struct catalog_backup *job, struct err *err)
{
	const char *reason = recover_reason(hub, job);
	int rc;

	log_warn(&hub->log, "%s of VM \"%s\" failed: %s", job->id, job->vm_name, reason);
	recover_files(hub, job);
	rc = catalog_backup_fail(hub->catalog, job->id, CATALOG_JOB_FAILED, reason, err);
	/* Ended by itself, or taken over from this hub: nothing is wrong. */
	return rc < 0 ? rc : 0;
}

/* What was taken and could not be ended waits in hub->taken: it is this hub's, so nobody else comes
 * for it while this hub lives. */
int hub_take_over(struct hub *hub, struct err *err)
{
	int rc = 0;

	if (!hub->taken_count) {
		free(steal(&hub->taken));
		rc = catalog_hub_take_over(hub->catalog, &hub->taken, &hub->taken_count, err);
	}
	while (!rc && hub->taken_count) {
		rc = recover_job(hub, &hub->taken[hub->taken_count - 1], err);
		if (!rc)
			hub->taken_count--;
	}
	return rc;
}

struct recover_users {
	struct catalog_backup *jobs;
	struct catalog_copy *copies;
	size_t job_count, copy_count;
};

static bool recover_is_used(const char *repository_id, const struct recover_users *users)
{
	for (size_t i = 0; i < users->job_count; i++)
		if (!strcmp(users->jobs[i].repository_id, repository_id))
			return true;
	for (size_t i = 0; i < users->copy_count; i++)
		if (!strcmp(users->copies[i].repository_id, repository_id))
			return true;
	return false;
}

static void recover_sweep_one(struct hub *hub, const struct catalog_repository *row)
{
	_cleanup_(repo_closep) struct repo *repo = NULL;
	struct err why = ERR_INIT;
	unsigned count = 0;
	int64_t bytes = 0;

	if (repo_open(&repo, row, false, &why) || repo->ops->sweep(repo, &count, &bytes, &why))
		log_warn(&hub->log, "%s", why.text);
	else if (count)
		log_warn(&hub->log,
			 "repository \"%s\": %u partial images of %lld bytes are in the "
			 "quarantine",
			 repo->name, count, (long long)bytes);
}

/* Partials no row leads to any more. A repository out of reach is told, and waits for its use. One
 * that another hub is writing to is left alone: a partial there is most likely its own. */
static int recover_sweep(struct hub *hub, struct err *err)
{
	_cleanup_(freep) struct catalog_repository *rows = NULL;
	struct recover_users users = {.jobs = NULL};
	size_t n = 0;
	int rc = catalog_repositories_list(hub->catalog, &rows, &n, err);

	if (!rc)
		rc = catalog_backups_running(hub->catalog, &users.jobs, &users.job_count, err);
	if (!rc)
		rc = catalog_copies_held(hub->catalog, &users.copies, &users.copy_count, err);
	for (size_t i = 0; !rc && i < n; i++)
		if (!recover_is_used(rows[i].id, &users))
			recover_sweep_one(hub, &rows[i]);
	free(users.jobs);
	free(users.copies);
	return rc;
}

int hub_recover(struct hub *hub, struct err *err)
{
	int rc = hub_take_over(hub, err);

	if (!rc)
		hub_copies_take_over(hub); /* the files it knows go, before all others are swept */
	if (!rc)
		rc = recover_sweep(hub, err);
	return hub_from_catalog(rc);
}
