/*
 * What comes before the first byte: the hub is asked for every disk, every source is opened, and
 * for every disk it is decided whether to copy all or what changed.
 *
 * Of a VM under QEMU the decisions come before the snapshot, because the snapshot has to freeze the
 * bitmap of the point each disk builds on, and to start one for the point that is being made.
 */
#include <string.h>

#include "tools/agent_job.h"

/* Named so in the identity of an index: these bitmaps are the agent's own. */
#define LIVE_BITMAP "sendense"

static void job_phase(struct agent_job *job, const char *phase)
{
	pthread_mutex_lock(&job->lock);
	job->phase = phase;
	pthread_mutex_unlock(&job->lock);
}

int agent_disk_error(const struct agent_job_disk *d, int rc, struct err *err)
{
	return err_prefix(err, rc, "disk %d (key %lld, %s)", d->target.disk_index,
			  (long long)d->key, d->disk->source);
}

/* A hub that does not answer now may take the data later; the price is a full copy. */
static void disk_ask(struct agent_job_disk *d)
{
	struct agent_job *job = d->job;
	struct err err = ERR_INIT;

	agent_disk_phase(d, "asking");
	d->hub_answered = agent_hub_change_id(&job->jobs->hub, &job->stop, job->vm_name,
					      d->target.disk_index, d->hub_change_id, &err) == 0;
	if (!d->hub_answered)
		log_warn(&job->log, "disk %d: %s", d->target.disk_index, err.text);
	agent_disk_phase(d, "waiting");
}

static int disk_open(struct agent_job_disk *d, const struct agent_disk *disk, struct err *err)
{
	struct agent_source_config config = {
		.connections = d->job->jobs->config.connections,
		.stop = &d->job->stop,
	};

	return agent_source_open(&d->source, disk, &config, err);
}

static void disk_show_decision(struct agent_job_disk *d)
{
	struct agent_job *job = d->job;

	pthread_mutex_lock(&job->lock);
	d->size = d->track.next.id.disk_size;
	d->incremental = d->track.incremental;
	snprintf(d->reason, sizeof(d->reason), "%s", d->track.reason);
	pthread_mutex_unlock(&job->lock);
	log_info(&job->log, "disk %d (%s): %s; the new point is %s", d->target.disk_index,
		 d->disk->source, d->track.reason, d->track.change_id);
}

static int disk_decide(struct agent_job_disk *d, uint64_t size, const char *bitmap, bool served,
		       struct err *err)
{
	struct agent_track_want want = {
		.state_fd = d->job->jobs->config.state_fd,
		.vm_id = d->job->vm->id,
		.disk_key = d->key,
		.disk_size = size,
		.source = d->disk->source,
		.bitmap = bitmap,
		.bitmap_served = served,
		.hub_change_id = d->hub_answered ? d->hub_change_id : NULL,
	};
	int rc = agent_track_begin(&d->track, &want, err);

	if (!rc)
		disk_show_decision(d);
	return rc;
}

/* --- disks that are files or behind a server ------------------------------------------------ */

static int prepare_disks(struct agent_job *job, struct err *err)
{
	int rc = 0;

	for (size_t i = 0; !rc && i < job->disk_count; i++) {
		struct agent_job_disk *d = &job->disks[i];

		rc = disk_open(d, d->disk, err);
		if (rc)
			agent_disk_error(d, rc, err);
	}
	for (size_t i = 0; !rc && i < job->disk_count; i++) {
		struct agent_job_disk *d = &job->disks[i];

		rc = disk_decide(d, d->source->size, d->disk->bitmap, d->source->has_bitmap, err);
		if (rc)
			agent_disk_error(d, rc, err);
	}
	return rc;
}

/* --- disks of a running QEMU ---------------------------------------------------------------- */

static int live_decide(struct agent_job_disk *d, struct err *err)
{
	struct agent_live *live = d->job->live;
	struct agent_live_disk *face = agent_live_disk(live, d->number);
	bool knows = d->hub_answered && agent_live_knows(live, d->number, d->hub_change_id);
	int rc = disk_decide(d, face->size, LIVE_BITMAP, knows, err);

	if (rc)
		return agent_disk_error(d, rc, err);
	strcpy(face->next, d->track.change_id);
	if (d->track.incremental)
		strcpy(face->since, d->hub_change_id);
	return 0;
}

static int live_open(struct agent_job_disk *d, struct err *err)
{
	struct agent_live_disk *face = agent_live_disk(d->job->live, d->number);
	struct agent_disk disk = {
		.key = d->key,
		.label = "",
		.source = face->uri,
		.bitmap = d->track.incremental ? AGENT_LIVE_BITMAP : NULL,
		.format = AGENT_FORMAT_NBD,
	};
	int rc = disk_open(d, &disk, err);

	if (!rc && d->source->size != d->track.next.id.disk_size)
		rc = err_set(err, -ESTALE, "its size has changed while it was prepared");
	if (!rc && disk.bitmap && !d->source->has_bitmap)
		rc = err_set(err, -EPROTO, "QEMU does not export the bitmap it was asked for");
	return rc ? agent_disk_error(d, rc, err) : 0;
}

/* A bitmap is kept as long as the point it records since. */
static bool point_known(void *ctx, size_t number, const char *point)
{
	struct agent_job *job = ctx;

	for (size_t i = 0; i < job->disk_count; i++)
		if (job->disks[i].number == number)
			return job->disks[i].track.dir_fd < 0 ||
			       agent_track_has(&job->disks[i].track, point);
	return true;
}

static int prepare_live(struct agent_job *job, struct err *err)
{
	struct agent_live_points points = {point_known, job};
	int rc = agent_live_open(&job->live, job->vm, job->jobs->config.scratch, &job->stop, err);

	for (size_t i = 0; !rc && i < job->disk_count; i++)
		rc = live_decide(&job->disks[i], err);
	job_phase(job, "snapshot");
	if (!rc)
		rc = agent_live_snapshot(job->live, &points, &job->stop, err);
	for (size_t i = 0; !rc && i < job->disk_count; i++)
		rc = live_open(&job->disks[i], err);
	return rc;
}

int agent_job_prepare(struct agent_job *job, struct err *err)
{
	job_phase(job, "preparing");
	for (size_t i = 0; i < job->disk_count; i++)
		disk_ask(&job->disks[i]);
	return job->vm->qmp ? prepare_live(job, err) : prepare_disks(job, err);
}

/* --- the end -------------------------------------------------------------------------------- */

void agent_job_dismantle(struct agent_job *job)
{
	struct agent_live_points points = {point_known, job};
	struct err err = ERR_INIT;

	for (size_t i = 0; i < job->disk_count; i++) {
		agent_source_close(job->disks[i].source);
		job->disks[i].source = NULL;
	}
	if (agent_live_close(job->live, &points, &err))
		log_warn(&job->log, "clearing away the snapshot is left to the next backup: %s",
			 err.text);
	job->live = NULL;
	for (size_t i = 0; i < job->disk_count; i++)
		agent_track_end(&job->disks[i].track);
}
