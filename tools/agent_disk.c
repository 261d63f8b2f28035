/*
 * The backup of one prepared disk, in the order that keeps its point safe:
 *
 *   copy -> index sealed as pending -> complete answered -> index kept
 *
 * The connections to the hub stay open until complete is answered: a hub takes their end without a
 * complete for the end of the agent.
 */
#include <errno.h>
#include <string.h>

#include "tools/agent_job.h"
#include "tools/agent_track.h"

/* A hub that hears of the agent by its telemetry alone waits a minute for a connection. */
#define RESUME_MS 45000

struct disk_run {
	struct agent_job_disk *d;
	const struct agent_job_config *config;
	struct agent_sink *sink;
	struct agent_copy *copy;
};

void agent_disk_phase(struct agent_job_disk *d, const char *phase)
{
	pthread_mutex_lock(&d->job->lock);
	d->phase = phase;
	pthread_mutex_unlock(&d->job->lock);
}

/*
 * Zeroes may be left out where the target is known to be empty: in a full. An incremental job's
 * target may lie over the last point, which a hole left out would let shine through.
 */
static int disk_copy(struct disk_run *r, struct err *err)
{
	struct agent_job_disk *d = r->d;
	struct agent_track *t = &d->track;
	bool hashed = t->next.id.kind == AGENT_INDEX_HASH;
	struct agent_copy_config config = {
		.source = d->source,
		.sink = r->sink,
		.next = hashed ? &t->next : NULL,
		.base = hashed && t->incremental ? &t->base : NULL,
		.dirty = !hashed && t->incremental,
		.skip_zeroes = d->job->full && !t->incremental,
		.request_size = r->config->request_size,
		.resume_ms = RESUME_MS,
		.counters = &d->counters,
		.stop = &d->job->stop,
		.log = &d->job->log,
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
	rc = agent_track_seal(&r->d->track, err);
	if (rc)
		return rc;
	agent_disk_phase(d, "completing");
	rc = agent_hub_complete(&d->job->jobs->hub, &d->job->stop, d->job->id, d->target.disk_index,
				r->d->track.change_id, atomic_load(&d->counters.sent), err);
	if (rc == AGENT_HUB_E_REFUSED)
		agent_track_refused(&r->d->track);
	if (rc)
		return rc;
	/* The backup stands; an index that stays pending is found by the next one. */
	if (agent_track_commit(&r->d->track, r->config->keep_indexes, &kept))
		log_warn(&d->job->log, "disk %d: %s", d->target.disk_index, kept.text);
	return 0;
}

static int disk_steps(struct disk_run *r, struct err *err)
{
	int rc = disk_connect(r, err);

	if (!rc)
		rc = disk_copy(r, err);
	if (!rc)
		rc = disk_complete(r, err);
	return rc;
}

int agent_disk_backup(struct agent_job_disk *d, struct err *err)
{
	struct disk_run r = {.d = d, .config = &d->job->jobs->config};
	int rc = disk_steps(&r, err);

	/* Reads and writes may still use the copy's buffers until these two are closed. */
	agent_sink_close(r.sink);
	agent_source_close(d->source);
	d->source = NULL;
	agent_copy_free(r.copy);
	if (rc)
		return agent_disk_error(d, rc, err);
	pthread_mutex_lock(&d->job->lock);
	memcpy(d->change_id, d->track.change_id, sizeof(d->change_id));
	pthread_mutex_unlock(&d->job->lock);
	return 0;
}
