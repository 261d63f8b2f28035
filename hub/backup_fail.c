/*
 * The bad end of a backup. Whatever the cause (the agent, the disk, a crash of ours found at the
 * next start), it leaves: the previous points and their change ids as they were, disks of this
 * backup that were committed before in place but not offered (catalog/backups.h), what was half
 * written in the quarantine (of a cancelled backup: nothing, unless it is to be kept), and the
 * reason on the job.
 *
 * Files go before the catalog is told: a crash in between finds the job still running, and
 * hub/recover.c does it again. If the catalog cannot be told, the job stays on the list as FAILING,
 * the VM stays taken, and the watch-dog tries again.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "hub/job.h"

/* Closes what is open of a disk; returns the -errno latched on its image, or 0. */
static int fail_close_disk(struct hub_job *job, struct hub_disk *disk)
{
	/* Asked before the export goes: abandoning it leaves an error of its own. */
	int latched = disk->img ? qcow2_error(disk->img) : 0;

	hub_disk_unexport(job, disk, true);
	qcow2_close(hub_disk_take_image(job, disk));
	return latched;
}

static void fail_quarantine_disk(struct hub_job *job, struct hub_disk *disk,
				 enum repo_leftover what)
{
	static const char *const words[] = {
		[REPO_KEEP] = "are in the quarantine",
		[REPO_EMPTY] = "are in the quarantine, emptied because the repository is full",
		[REPO_REMOVE] = "are deleted",
	};
	struct err err = ERR_INIT;
	int64_t moved = 0;

	if (job->repo->ops->quarantine(job->repo, &disk->point, what, &moved, &err))
		log_error(&job->log, "disk %d: %s", disk->row.disk_index, err.text);
	else if (moved)
		log_warn(&job->log, "disk %d: %lld bytes of %s %s", disk->row.disk_index,
			 (long long)moved, disk->point.path, words[what]);
}

/* " (what the disk said; what the agent said)" as far as known and not said already. */
static void fail_compose(struct hub_job *job, int latched, int latched_disk, const char *reason,
			 char out[CATALOG_ERROR_SIZE])
{
	char from_disk[CATALOG_PATH_SIZE + 128] = "", agent[CATALOG_REASON_SIZE] = "";

	if (latched && job->repo && !strstr(reason, strerror(-latched)))
		snprintf(from_disk, sizeof(from_disk),
			 "; writing disk %d to repository \"%.64s\" at %s failed: %s", latched_disk,
			 job->repo->name, job->repo->root, strerror(-latched));
	pthread_mutex_lock(&job->face);
	if (job->agent_error[0] && !strstr(reason, job->agent_error))
		snprintf(agent, sizeof(agent), "; agent: %.*s", (int)sizeof(agent) - 16,
			 job->agent_error);
	pthread_mutex_unlock(&job->face);
	/* Cut what is cut from the middle: each part has its share. */
	snprintf(out, CATALOG_ERROR_SIZE, "%.*s%.*s%s", 300, reason, 200, from_disk, agent);
}

/* Closes every disk; returns the -errno that matters most, a full disk before all, and whose. */
static int fail_close_disks(struct hub_job *job, int *latched_disk)
{
	int latched = 0;

	for (size_t i = 0; i < job->disk_count; i++) {
		int rc = fail_close_disk(job, &job->disks[i]);

		if (rc && (!latched || rc == -ENOSPC)) {
			latched = rc;
			*latched_disk = job->disks[i].row.disk_index;
		}
	}
	return latched;
}

static void fail_quarantine_disks(struct hub_job *job, enum repo_leftover what)
{
	for (size_t i = 0; i < job->disk_count; i++) {
		struct hub_disk *disk = &job->disks[i];

		if (disk->state != HUB_DISK_OPEN)
			continue;
		pthread_mutex_lock(&job->face);
		disk->state = HUB_DISK_FAILED;
		pthread_mutex_unlock(&job->face);
		fail_quarantine_disk(job, disk, what);
	}
}

/* The catalog answers again: a disk whose commit it may have missed is a point, or is not. */
static void fail_settle_unsure(struct hub *hub, struct hub_job *job)
{
	for (size_t i = 0; i < job->disk_count; i++) {
		struct hub_disk *disk = &job->disks[i];
		struct catalog_backup_disk row;

		if (disk->state == HUB_DISK_UNSURE &&
		    !catalog_backup_disk_get(hub->catalog, job->row.id, disk->row.disk_index, &row,
					     NULL) &&
		    row.status != CATALOG_DISK_COMPLETED)
			fail_quarantine_disk(job, disk, REPO_KEEP);
	}
}

static void fail_tell_catalog(struct hub *hub, struct hub_job *job)
{
	struct err err = ERR_INIT;
	int rc = catalog_backup_fail(hub->catalog, job->row.id, job->fail_status, job->fail_reason,
				     &err);

	if (!rc || rc == CATALOG_E_ALREADY || rc == CATALOG_E_STATE || rc == CATALOG_E_NOT_FOUND ||
	    rc == CATALOG_E_FENCED) {
		fail_settle_unsure(hub, job);
		hub_job_set_outcome(job, job->fail_status);
		hub_job_end(hub, job);
		return;
	}
	if (job->state != HUB_JOB_FAILING)
		log_error(&job->log, "the catalog cannot record its end, trying again: %s",
			  err.text);
	hub_job_set_state(job, HUB_JOB_FAILING);
}

static enum repo_leftover fail_leftover(const struct hub_job *job, int latched)
{
	if (job->fail_status == CATALOG_JOB_CANCELLED && !job->cancel_keep)
		return REPO_REMOVE;
	if (latched == -ENOSPC || strstr(job->fail_reason, strerror(ENOSPC)))
		return REPO_EMPTY;
	return REPO_KEEP;
}

void hub_job_fail(struct hub *hub, struct hub_job *job, enum catalog_job_status status,
		  const char *reason)
{
	int latched, latched_disk = 0;

	if (job->state == HUB_JOB_ENDED || job->state == HUB_JOB_FAILING)
		return;
	latched = fail_close_disks(job, &latched_disk);
	fail_compose(job, latched, latched_disk, reason, job->fail_reason);
	job->fail_status = status;
	log_line(status == CATALOG_JOB_CANCELLED ? LOG_LEVEL_WARN : LOG_LEVEL_ERROR, &job->log,
		 "backup of VM \"%s\" %s: %s", job->vm_name, catalog_job_status_name(status),
		 job->fail_reason);
	fail_quarantine_disks(job, fail_leftover(job, latched));
	fail_tell_catalog(hub, job);
}

void hub_job_fail_with(struct hub *hub, struct hub_job *job, const struct err *err)
{
	hub_job_fail(hub, job, CATALOG_JOB_FAILED, err->text);
}

void hub_job_fail_retry(struct hub *hub, struct hub_job *job)
{
	if (job->state == HUB_JOB_FAILING)
		fail_tell_catalog(hub, job);
}
