/*
 * `complete`: the commit point of one disk (design.md section 6). In this order:
 *
 *   export removed (drained, flushed) -> image finalized, closed -> .part renamed to its final name
 *   -> sidecar -> catalog transaction -> 0 (the API's 200)
 *
 * A crash after any of these steps but the last leaves a row that is not completed, and
 * hub/recover.c quarantines the file whatever its name. The catalog's transaction for the last open
 * disk completes the job as well.
 *
 * Two calls for one disk, or for two disks of one job, go one after the other (job->work); calls
 * for other jobs are not held up. The second of two equal calls finds the disk completed: the same
 * answer.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hub/job.h"

#define COMPLETE_MUCH 20 /* percent of a disk, for an incremental */

/* --- arguments ------------------------------------------------------------------------------ */

static int complete_check_change_id(const char *change_id, struct err *err)
{
	size_t n = strlen(change_id);

	if (!n)
		return err_set(
			err, HUB_E_INVALID,
			"change_id is empty: a disk without a change id cannot be completed");
	if (n >= CATALOG_CHANGE_ID_SIZE)
		return err_set(err, HUB_E_INVALID, "change_id is longer than %d bytes",
			       CATALOG_CHANGE_ID_SIZE - 1);
	for (const char *p = change_id; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return err_set(err, HUB_E_INVALID, "change_id has control characters");
	return 0;
}

static int complete_unknown(const char *job_id, int disk_index, struct err *err)
{
	return err_set(err, HUB_E_NOT_FOUND, "backup disk not found: job_id=%s disk_index=%d",
		       job_id, disk_index);
}

/* Mission K6: no disk_id is understood for a VM with one disk. */
static int complete_only_disk(const char *job_id, size_t n, int first, int *disk_index,
			      struct err *err)
{
	if (*disk_index != CATALOG_NONE)
		return 0;
	if (n != 1)
		return err_set(err, HUB_E_INVALID,
			       "disk_id is missing and backup %s has %zu disks: say which", job_id,
			       n);
	*disk_index = first;
	return 0;
}

/* --- a job that is over --------------------------------------------------------------------- */

/* The catalog alone knows. Completing again what was completed is fine at any later time. */
static int complete_from_catalog(struct hub *hub, const char *job_id, int disk_index,
				 const char *change_id, struct catalog_completed *out,
				 struct err *err)
{
	_cleanup_(freep) struct catalog_backup_disk *rows = NULL;
	struct catalog_backup job;
	size_t n = 0;
	int rc = catalog_backup_get(hub->catalog, job_id, &job, NULL);

	if (rc == CATALOG_E_NOT_FOUND)
		return complete_unknown(job_id, disk_index == CATALOG_NONE ? 0 : disk_index, err);
	if (!rc)
		rc = catalog_backup_disks_list(hub->catalog, job_id, &rows, &n, err);
	if (rc)
		return hub_from_catalog(rc);
	rc = complete_only_disk(job_id, n, n ? rows[0].disk_index : 0, &disk_index, err);
	if (rc)
		return rc;
	for (size_t i = 0; i < n; i++) {
		if (rows[i].disk_index != disk_index)
			continue;
		if (rows[i].status == CATALOG_DISK_COMPLETED &&
		    !strcmp(rows[i].change_id, change_id)) {
			*out = (struct catalog_completed){.already = true,
							  .job_status = job.status};
			return 0;
		}
		if (rows[i].status == CATALOG_DISK_COMPLETED)
			return err_set(err, HUB_E_STATE,
				       "disk %d of %s was completed with another change id",
				       disk_index, job_id);
		if (job.status == CATALOG_JOB_PENDING || job.status == CATALOG_JOB_RUNNING)
			return err_set(err, HUB_E_STATE,
				       "backup %s is run by another hub: complete it there",
				       job_id);
		return err_set(err, HUB_E_STATE,
			       "backup %s is %s, what was written of disk %d is deleted or in the "
			       "quarantine and cannot be completed any more: %s",
			       job_id, catalog_job_status_name(job.status), disk_index,
			       job.error_message);
	}
	return complete_unknown(job_id, disk_index, err);
}

/* --- a running job -------------------------------------------------------------------------- */

static struct hub_disk *complete_find_disk(struct hub_job *job, int disk_index)
{
	for (size_t i = 0; i < job->disk_count; i++)
		if (job->disks[i].row.disk_index == disk_index)
			return &job->disks[i];
	return NULL;
}

/* Everything up to a finished image under its final name. */
static int complete_image(struct hub_job *job, struct hub_disk *disk, struct err *err)
{
	struct qcow2_image *img;
	int rc = hub_disk_unexport(job, disk, false);

	img = hub_disk_take_image(job, disk);
	if (rc)
		err_sys(err, rc, "writing disk %d to repository \"%s\" at %s", disk->row.disk_index,
			job->repo->name, job->repo->root);
	else {
		rc = qcow2_finalize(img, err);
		if (rc)
			err_prefix(err, rc, "finishing disk %d in repository \"%s\" at %s",
				   disk->row.disk_index, job->repo->name, job->repo->root);
	}
	qcow2_close(img);
	if (rc)
		return rc < 0 ? rc : -EIO;
	return job->repo->ops->commit(job->repo, &disk->point, err);
}

static int complete_sidecar(struct hub *hub, struct hub_job *job, struct hub_disk *disk,
			    const char *change_id, const struct catalog_counters *bytes,
			    struct err *err)
{
	_cleanup_(freep) char *text =
		hub_sidecar_text(hub, job, disk, change_id, bytes, catalog_now_us());

	if (!text)
		return err_sys(err, -ENOMEM, "sidecar of disk %d", disk->row.disk_index);
	return job->repo->ops->put_sidecar(job->repo, disk->point.path, text, strlen(text), err);
}

/* A commit that reports failure may have happened: if the catalog has it now, it has. Else, while
 * the catalog says nothing, or a commit of unknown outcome (-ECONNABORTED) may still be on its way,
 * the file stays where it is: backup_fail.c decides once it has written behind it. */
static int complete_commit_unsure(struct hub *hub, struct hub_job *job, struct hub_disk *disk,
				  const char *change_id, int rc, struct catalog_completed *out)
{
	struct catalog_backup_disk row;
	struct catalog_backup now;
	bool known;

	if (rc >= 0)
		return rc;
	known = !catalog_backup_disk_get(hub->catalog, job->row.id, disk->row.disk_index, &row,
					 NULL) &&
		!catalog_backup_get(hub->catalog, job->row.id, &now, NULL);
	if (known && row.status == CATALOG_DISK_COMPLETED && !strcmp(row.change_id, change_id)) {
		*out = (struct catalog_completed){.job_status = now.status};
		return 0;
	}
	if (!known || rc == -ECONNABORTED) {
		pthread_mutex_lock(&job->face);
		disk->state = HUB_DISK_UNSURE;
		pthread_mutex_unlock(&job->face);
	}
	return rc;
}

static int complete_commit(struct hub *hub, struct hub_job *job, struct hub_disk *disk,
			   const char *change_id, const struct catalog_counters *bytes,
			   struct catalog_completed *out, struct err *err)
{
	struct catalog_completion point = {
		.change_id = change_id,
		.qcow2_path = disk->point.path,
		.reason = disk->row.reason,
		.bytes = *bytes,
	};
	int rc = catalog_backup_disk_complete(hub->catalog, job->row.id, disk->row.disk_index,
					      &point, out, err);

	if (rc)
		rc = complete_commit_unsure(hub, job, disk, change_id, rc, out);
	return hub_from_catalog(rc);
}

static void complete_mark(struct hub_job *job, struct hub_disk *disk, const char *change_id,
			  const struct catalog_counters *bytes)
{
	pthread_mutex_lock(&job->face);
	disk->state = HUB_DISK_COMPLETED;
	disk->row.bytes = *bytes;
	CATALOG_TEXT(disk->completed_with, change_id);
	job->touched_ns = hub_now_ns();
	pthread_mutex_unlock(&job->face);
}

/* The part of a change id that names the disk's tracking: "UUID/N". 0: it has none. */
static size_t complete_tracking_len(const char *change_id)
{
	const char *slash = strrchr(change_id, '/');

	return slash ? (size_t)(slash - change_id) : 0;
}

/* A new UUID says that tracking began anew since the parent: the agent has copied the disk in full,
 * into an overlay. Nobody asked for that, so the row says why. */
static void complete_note_reset(struct hub_job *job, struct hub_disk *disk, const char *change_id)
{
	size_t n = complete_tracking_len(change_id),
	       m = complete_tracking_len(disk->row.parent_change_id);

	if (disk->row.mode != CATALOG_BACKUP_INCREMENTAL || !n || !m ||
	    (n == m && !memcmp(change_id, disk->row.parent_change_id, n)))
		return;
	pthread_mutex_lock(&job->face);
	snprintf(disk->row.reason, sizeof(disk->row.reason),
		 "changed block tracking was reset: the agent copied the disk in full");
	pthread_mutex_unlock(&job->face);
}

/* What does not look right and may be. A full whose highest written byte is far below the disk's
 * end: the agent may have taken the disk for smaller than it is (agent contract 1.7-3); a trailing
 * hole looks the same. An incremental that moved much: worth a look, if nothing explains it. */
static void complete_warn(struct hub *hub, struct hub_job *job, const struct hub_disk *disk,
			  const struct catalog_counters *bytes)
{
	int64_t size = disk->row.virtual_size_bytes;
	int64_t moved = bytes->bytes_transferred + bytes->bytes_zero;

	if (disk->row.mode == CATALOG_BACKUP_FULL && disk->data.highest < (uint64_t)size)
		hub_job_note(hub, job, CATALOG_LOG_WARNING, disk->row.disk_index, "commit",
			     "nothing was written behind byte %llu of %lld; if the disk has data "
			     "there, the agent cut it",
			     (unsigned long long)disk->data.highest, (long long)size);
	if (disk->row.mode == CATALOG_BACKUP_INCREMENTAL && moved / COMPLETE_MUCH >= size / 100)
		hub_job_note(hub, job, CATALOG_LOG_WARNING, disk->row.disk_index, "commit",
			     "an incremental moved %lld of %lld bytes%s%s", (long long)moved,
			     (long long)size, disk->row.reason[0] ? ": " : "", disk->row.reason);
}

static int complete_disk(struct hub *hub, struct hub_job *job, struct hub_disk *disk,
			 const char *change_id, struct catalog_completed *out, struct err *err)
{
	struct catalog_counters bytes;
	int rc = complete_image(job, disk, err);

	if (rc)
		return rc;
	complete_note_reset(job, disk, change_id);
	hub_disk_counters(disk, &bytes);
	bytes.bytes_stored = job->repo->ops->stored_size(job->repo, disk->point.path);
	complete_warn(hub, job, disk, &bytes);
	rc = complete_sidecar(hub, job, disk, change_id, &bytes, err);
	if (!rc)
		rc = complete_commit(hub, job, disk, change_id, &bytes, out, err);
	if (rc)
		return rc;
	complete_mark(job, disk, change_id, &bytes);
	log_info(
		&job->log,
		"disk %d is committed: %lld bytes received, %lld zero, %lld unchanged, %lld stored",
		disk->row.disk_index, (long long)bytes.bytes_transferred,
		(long long)bytes.bytes_zero, (long long)bytes.bytes_unchanged,
		(long long)bytes.bytes_stored);
	return 0;
}

/* With `work` held and the job running. */
static int complete_running(struct hub *hub, struct hub_job *job, int disk_index,
			    const char *change_id, struct catalog_completed *out, struct err *err)
{
	struct hub_disk *disk;
	int rc = complete_only_disk(job->row.id, job->disk_count,
				    job->disk_count ? job->disks[0].row.disk_index : 0, &disk_index,
				    err);

	if (rc)
		return rc;
	disk = complete_find_disk(job, disk_index);
	if (!disk)
		return complete_unknown(job->row.id, disk_index, err);
	if (disk->state == HUB_DISK_COMPLETED) {
		if (strcmp(disk->completed_with, change_id))
			return err_set(err, HUB_E_STATE,
				       "disk %d of %s was completed with another change id",
				       disk_index, job->row.id);
		*out = (struct catalog_completed){.already = true,
						  .job_status = CATALOG_JOB_RUNNING};
		return 0;
	}
	rc = complete_disk(hub, job, disk, change_id, out, err);
	if (rc) {
		hub_job_fail_with(hub, job, err);
		return rc;
	}
	if (out->job_status != CATALOG_JOB_RUNNING) {
		hub_job_set_outcome(job, out->job_status);
		hub_job_end(hub, job);
		log_info(&job->log, "backup of VM \"%s\" is %s", job->vm_name,
			 catalog_job_status_name(out->job_status));
	}
	return 0;
}

int hub_backup_complete(struct hub *hub, const char *job_id, int disk_index, const char *change_id,
			struct catalog_completed *out, struct err *err)
{
	struct hub_job *job;
	bool running;
	int rc = complete_check_change_id(change_id, err);

	*out = (struct catalog_completed){.already = false};
	if (rc)
		return rc;
	job = hub_job_find(hub, job_id);
	if (!job)
		return complete_from_catalog(hub, job_id, disk_index, change_id, out, err);
	pthread_mutex_lock(&job->work);
	running = job->state == HUB_JOB_RUNNING;
	if (running)
		rc = complete_running(hub, job, disk_index, change_id, out, err);
	pthread_mutex_unlock(&job->work);
	hub_job_unref(hub, job);
	/* It ended while this call waited for its turn. */
	return running ? rc : complete_from_catalog(hub, job_id, disk_index, change_id, out, err);
}
