/*
 * The backup of one disk, in the order that keeps its point safe:
 *
 *   ask the hub since when -> copy -> index sealed as pending -> complete answered -> index kept
 *
 * The connections to the hub stay open until complete is answered: a hub takes their end without a
 * complete for the end of the agent.
 */
#include <errno.h>
#include <string.h>

#include "tools/agent_job.h"
#include "tools/agent_track.h"

struct disk_run {
	struct agent_job_disk *d;
	const struct agent_job_config *config;
	char hub_change_id[AGENT_HUB_CHANGE_MAX];
	bool hub_answered;
	struct agent_track track;
	struct agent_sink *sink;
	struct agent_copy *copy;
};

void agent_disk_phase(struct agent_job_disk *d, const char *phase)
{
	pthread_mutex_lock(&d->job->lock);
	d->phase = phase;
	pthread_mutex_unlock(&d->job->lock);
}

/* A hub that does not answer now may take the data later; the price is a full copy. */
static void disk_ask(struct disk_run *r)
{
	struct agent_job *job = r->d->job;
	struct err err = ERR_INIT;

	agent_disk_phase(r->d, "asking");
	r->hub_answered = agent_hub_change_id(&job->jobs->hub, &job->stop, job->vm_name,
					      r->d->target.disk_index, r->hub_change_id, &err) == 0;
	if (!r->hub_answered)
		log_warn(&job->log, "disk %d: %s", r->d->target.disk_index, err.text);
}

static int disk_track(struct disk_run *r, struct err *err)
{
	const struct agent_job_disk *d = r->d;
	struct agent_track_want want = {
		.state_fd = r->config->state_fd,
		.vm_id = d->job->vm->id,
		.disk_key = d->key,
		.disk_size = d->source->size,
		.source = d->disk->source,
		.bitmap = d->disk->bitmap,
		.bitmap_served = d->source->has_bitmap,
		.hub_change_id = r->hub_answered ? r->hub_change_id : NULL,
	};

	return agent_track_begin(&r->track, &want, err);
}

static void disk_show_decision(struct disk_run *r)
{
	struct agent_job *job = r->d->job;

	pthread_mutex_lock(&job->lock);
	r->d->incremental = r->track.incremental;
	snprintf(r->d->reason, sizeof(r->d->reason), "%s", r->track.reason);
	pthread_mutex_unlock(&job->lock);
	log_info(&job->log, "disk %d (%s): %s; the new point is %s", r->d->target.disk_index,
		 r->d->disk->source, r->track.reason, r->track.change_id);
}

/*
 * Zeroes may be left out where the target is known to be empty: in a full. An incremental job's
 * target may lie over the last point, which a hole left out would let shine through.
 */
static int disk_copy(struct disk_run *r, struct err *err)
{
	struct agent_job_disk *d = r->d;
	bool hashed = r->track.next.id.kind == AGENT_INDEX_HASH;
	struct agent_copy_config config = {
		.source = d->source,
		.sink = r->sink,
		.next = hashed ? &r->track.next : NULL,
		.base = hashed && r->track.incremental ? &r->track.base : NULL,
		.dirty = !hashed && r->track.incremental,
		.skip_zeroes = d->job->full && !r->track.incremental,
		.request_size = r->config->request_size,
		.counters = &d->counters,
		.stop = &d->job->stop,
	};
	int rc = agent_copy_new(&r->copy, &config, err);

	agent_disk_phase(d, "copying");
	return rc ? rc : agent_copy_run(r->copy, err);
}

static int disk_connect(struct disk_run *r, struct err *err)
{
	struct agent_sink_config config = {
		.uri = r->d->target.uri,
		.export = r->d->target.export,
		.disk_size = r->d->source->size,
		.connections = r->config->connections,
		.stop = &r->d->job->stop,
	};

	agent_disk_phase(r->d, "connecting");
	return agent_sink_open(&r->sink, &config, err);
}

/* From here on the hub may have the point, whatever happens to us. */
static int disk_complete(struct disk_run *r, struct err *err)
{
	struct agent_job_disk *d = r->d;
	struct err kept = ERR_INIT;
	int rc;

	agent_disk_phase(d, "sealing");
	rc = agent_track_seal(&r->track, err);
	if (rc)
		return rc;
	agent_disk_phase(d, "completing");
	rc = agent_hub_complete(&d->job->jobs->hub, &d->job->stop, d->job->id, d->target.disk_index,
				r->track.change_id, atomic_load(&d->counters.sent), err);
	if (rc == AGENT_HUB_E_REFUSED)
		agent_track_refused(&r->track);
	if (rc)
		return rc;
	/* The backup stands; an index that stays pending is found by the next one. */
	if (agent_track_commit(&r->track, r->config->keep_indexes, &kept))
		log_warn(&d->job->log, "disk %d: %s", d->target.disk_index, kept.text);
	return 0;
}

static int disk_steps(struct disk_run *r, struct err *err)
{
	int rc;

	disk_ask(r);
	rc = disk_track(r, err);
	if (rc)
		return rc;
	disk_show_decision(r);
	rc = disk_connect(r, err);
	if (!rc)
		rc = disk_copy(r, err);
	if (!rc)
		rc = disk_complete(r, err);
	if (!rc) {
		pthread_mutex_lock(&r->d->job->lock);
		memcpy(r->d->change_id, r->track.change_id, sizeof(r->d->change_id));
		pthread_mutex_unlock(&r->d->job->lock);
	}
	return rc;
}

int agent_disk_backup(struct agent_job_disk *d, struct err *err)
{
	struct disk_run r = {
		.d = d,
		.config = &d->job->jobs->config,
		.track = {.base = AGENT_INDEX_INIT, .next = AGENT_INDEX_INIT, .dir_fd = -1},
	};
	int rc = disk_steps(&r, err);

	/* Reads and writes may still use the copy's buffers until these two are closed. */
	agent_sink_close(r.sink);
	agent_source_close(d->source);
	d->source = NULL;
	agent_copy_free(r.copy);
	agent_track_end(&r.track);
	if (rc)
		err_prefix(err, rc, "disk %d (key %lld, %s)", d->target.disk_index,
			   (long long)d->key, d->disk->source);
	return rc;
}
