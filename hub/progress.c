/*
 * How backups stand: rows of the catalog, with live counters laid over those that run.
 *
 * Percent of a full: how far into the disk writing has come, which for agents that skip holes says
 * more than bytes received. Of an incremental: bytes against what the agent announces for the disk
 * it is at, when it does. A disk is at 100 when it is completed, and not before.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "hub/job.h"

static double view_percent(int64_t done, int64_t total)
{
	double p = total > 0 ? 100.0 * (double)done / (double)total : 0;

	return p > 99.9 ? 99.9 : p;
}

/* What of an open disk is done, in the unit of bytes_total. `face` held. */
static int64_t view_done(const struct hub_disk *disk)
{
	if (disk->row.mode == CATALOG_BACKUP_FULL)
		return (int64_t)MAX(disk->data.highest, disk->data.received);
	return (int64_t)disk->data.received;
}

/* The disk the agent's telemetry speaks of: the first open one. `face` held. */
static bool view_is_current(const struct hub_job *job, const struct hub_disk *disk)
{
	for (size_t i = 0; i < job->disk_count; i++)
		if (job->disks[i].state == HUB_DISK_OPEN)
			return &job->disks[i] == disk;
	return false;
}

static int64_t view_total(const struct hub_job *job, const struct hub_disk *disk)
{
	int64_t announced = job->telemetry.total_bytes;

	if (disk->row.mode == CATALOG_BACKUP_FULL)
		return disk->row.virtual_size_bytes;
	if (!view_is_current(job, disk) || announced <= 0 ||
	    announced > disk->row.virtual_size_bytes)
		return 0;
	return announced;
}

/* --- of a running job ----------------------------------------------------------------------- */

static int64_t view_left(int64_t total, double percent)
{
	return (int64_t)((double)total * (100.0 - percent) / 100.0);
}

static int64_t view_eta(int64_t left, double bps)
{
	return bps >= 1 ? (int64_t)((double)left / bps) : CATALOG_NONE;
}

/* `face` held. */
static void view_live_disk(struct hub_job *job, struct hub_disk *disk, struct hub_disk_view *out)
{
	if (disk->state != HUB_DISK_OPEN)
		return;
	hub_disk_refresh(disk);
	hub_disk_counters(disk, &out->row.bytes);
	out->connections = disk->net.connections;
	out->bytes_total = view_total(job, disk);
	out->percent = view_percent(view_done(disk), out->bytes_total);
	out->speed_bps = (int64_t)disk->rate.bps;
	if (out->bytes_total)
		out->eta_seconds =
			view_eta(view_left(out->bytes_total, out->percent), disk->rate.bps);
	if (disk->net.connections_total && out->row.status == CATALOG_DISK_PENDING)
		out->row.status = CATALOG_DISK_RUNNING;
}

/* Over all disks. An open one whose total is unknown counts as a whole, and leaves no ETA. */
struct view_sum {
	int64_t total, done, left, received;
	bool unknown;
};

/* `face` held. */
static void view_add_disk(struct hub_job *job, struct hub_disk *disk, struct view_sum *sum)
{
	struct hub_disk_view one = {.row = disk->row};
	int64_t left;

	view_live_disk(job, disk, &one);
	if (disk->state == HUB_DISK_COMPLETED)
		one.percent = 100;
	else if (!one.bytes_total)
		sum->unknown = true;
	if (!one.bytes_total)
		one.bytes_total = disk->row.virtual_size_bytes;
	left = view_left(one.bytes_total, one.percent);
	sum->total += one.bytes_total;
	sum->done += one.bytes_total - left;
	sum->left += left;
	sum->received += one.row.bytes.bytes_transferred;
}

static void view_live_job(struct hub_job *job, struct hub_backup_view *view)
{
	struct view_sum sum = {.total = 0};

	pthread_mutex_lock(&job->face);
	for (size_t i = 0; i < job->disk_count; i++)
		view_add_disk(job, &job->disks[i], &sum);
	view->job.bytes_transferred = sum.received;
	view->bytes_total = sum.total;
	view->percent = view_percent(sum.done, sum.total);
	view->speed_bps = (int64_t)job->rate.bps;
	if (!sum.unknown)
		view->eta_seconds = view_eta(sum.left, job->rate.bps);
	if (job->telemetry.current_phase[0])
		strcpy(view->job.current_phase, job->telemetry.current_phase);
	if (job->telemetry_ns)
		view->job.last_telemetry_at_us =
			catalog_now_us() - (hub_now_ns() - job->telemetry_ns) / 1000;
	pthread_mutex_unlock(&job->face);
}

/* --- views ---------------------------------------------------------------------------------- */

static void view_from_row(struct hub *hub, const struct catalog_backup *row,
			  struct hub_backup_view *view)
{
	struct hub_job *job = NULL;

	view->job = *row;
	view->bytes_total = row->total_bytes;
	view->eta_seconds = CATALOG_NONE;
	if (row->status == CATALOG_JOB_COMPLETED)
		view->percent = 100;
	if (row->status == CATALOG_JOB_RUNNING || row->status == CATALOG_JOB_PENDING)
		job = hub_job_find(hub, row->id);
	else
		CATALOG_TEXT(view->job.current_phase, catalog_job_status_name(row->status));
	if (job) {
		view_live_job(job, view);
		hub_job_unref(hub, job);
	}
}

static void view_labels(struct hub *hub, struct hub_backup_view *view)
{
	_cleanup_(freep) struct catalog_vm_disk *rows = NULL;
	size_t n = 0;

	if (catalog_vm_disks_list(hub->catalog, view->job.vm_context_id, true, &rows, &n, NULL))
		return;
	for (size_t i = 0; i < view->disk_count; i++)
		for (size_t k = 0; k < n; k++)
			if (!strcmp(view->disks[i].row.disk_id, rows[k].disk_id))
				strcpy(view->disks[i].label, rows[k].label);
}

static void view_disk_from_row(const struct catalog_backup_disk *row, struct hub_disk_view *out)
{
	out->row = *row;
	out->eta_seconds = CATALOG_NONE;
	if (row->mode == CATALOG_BACKUP_FULL)
		out->bytes_total = row->virtual_size_bytes;
	if (row->status == CATALOG_DISK_COMPLETED)
		out->percent = 100;
}

static void view_live_disks(struct hub *hub, struct hub_backup_view *view)
{
	struct hub_job *job = hub_job_find(hub, view->job.id);

	if (!job)
		return;
	pthread_mutex_lock(&job->face);
	for (size_t i = 0; i < job->disk_count; i++)
		for (size_t k = 0; k < view->disk_count; k++)
			if (job->disks[i].row.disk_index == view->disks[k].row.disk_index)
				view_live_disk(job, &job->disks[i], &view->disks[k]);
	pthread_mutex_unlock(&job->face);
	hub_job_unref(hub, job);
}

void hub_backup_view_deinit(struct hub_backup_view *view)
{
	free(steal(&view->disks));
	view->disk_count = 0;
}

int hub_backup_get(struct hub *hub, const char *job_id, struct hub_backup_view *out,
		   struct err *err)
{
	_cleanup_(freep) struct catalog_backup_disk *rows = NULL;
	struct catalog_backup row;
	size_t n = 0;
	int rc = catalog_backup_get(hub->catalog, job_id, &row, err);

	*out = (struct hub_backup_view){.disks = NULL};
	if (!rc)
		rc = catalog_backup_disks_list(hub->catalog, row.id, &rows, &n, err);
	if (rc)
		return hub_from_catalog(rc);
	out->disks = calloc(MAX(n, (size_t)1), sizeof(*out->disks));
	if (!out->disks)
		return err_sys(err, -ENOMEM, "backup %s", job_id);
	out->disk_count = n;
	for (size_t i = 0; i < n; i++)
		view_disk_from_row(&rows[i], &out->disks[i]);
	view_from_row(hub, &row, out);
	view_labels(hub, out);
	view_live_disks(hub, out);
	return 0;
}

int hub_backups_list(struct hub *hub, const struct catalog_backup_filter *filter,
		     struct hub_backup_view **rows, size_t *n, int64_t *total, struct err *err)
{
	_cleanup_(freep) struct catalog_backup *jobs = NULL;
	size_t count = 0;
	int rc = catalog_backups_list(hub->catalog, filter, &jobs, &count, total, err);

	if (rc)
		return hub_from_catalog(rc);
	*rows = calloc(MAX(count, (size_t)1), sizeof(**rows));
	if (!*rows)
		return err_sys(err, -ENOMEM, "list of backups");
	*n = count;
	for (size_t i = 0; i < count; i++)
		view_from_row(hub, &jobs[i], &(*rows)[i]);
	return 0;
}

/* --- telemetry ------------------------------------------------------------------------------ */

int hub_backup_telemetry(struct hub *hub, const char *job_id, const struct hub_telemetry *t,
			 struct err *err)
{
	struct hub_job *job = hub_job_find(hub, job_id);
	struct catalog_backup row;

	if (!job) /* a last word after the end is heard and forgotten */
		return hub_from_catalog(catalog_backup_get(hub->catalog, job_id, &row, err));
	pthread_mutex_lock(&job->face);
	job->telemetry = *t;
	job->telemetry_ns = hub_now_ns();
	job->telemetry_fresh = true;
	pthread_mutex_unlock(&job->face);
	hub_job_unref(hub, job);
	return 0;
}
