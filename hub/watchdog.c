/*
 * The housekeeping thread. The agent never reports a failure (agent contract 1.6), so the hub looks
 * at every running backup once a tick and fails it when
 *
 *   an image has latched a disk error;
 *   nobody connected within the start timeout after the agent's yes;
 *   a disk had connections, has none now and is not completed, nobody is connected to any other
 *     disk, and neither connection nor telemetry was seen for the disconnect grace;
 *   NBD and telemetry were both silent for the silence timeout.
 *
 * Telemetry is a sign of life and never more. Between two disks an agent may be silent for long (it
 * asks vSphere what changed): only the silence timeout counts there. All times are of the monotonic
 * clock; nothing is measured against a row's date, so a `complete` is as good after 48 hours.
 *
 * The same round samples the speed, and tells the catalog now and then what has moved. A backup
 * whose step is under way (job->work is taken) is left for the next tick.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "hub/job.h"
#include "hub/tunnel.h"

#define NS_PER_MS	 1000000LL
#define TELL_PERIOD_NS	 (10 * 1000 * NS_PER_MS)
#define RATE_PERIOD_S	 0.2
#define RATE_SMOOTHING_S 3.0

/* --- what is seen --------------------------------------------------------------------------- */

struct watch {
	int64_t now_ns;
	int latched;	  /* -errno of the first image that failed */
	int latched_disk; /* its disk index */
	unsigned connections;
	bool lost; /* an open disk had connections and has none */
	int64_t last_disconnect_ns;
	int64_t last_active_ns;
	int64_t received;
};

/* `face` held. */
static void watch_rate(struct hub_rate *rate, int64_t now_ns, int64_t bytes)
{
	double dt = (double)(now_ns - rate->at_ns) / 1e9, weight;

	if (rate->at_ns && dt < RATE_PERIOD_S)
		return;
	if (rate->at_ns) {
		weight = rate->bps > 0 ? dt / (dt + RATE_SMOOTHING_S) : 1;
		rate->bps += weight * ((double)(bytes - rate->bytes) / dt - rate->bps);
	}
	rate->at_ns = now_ns;
	rate->bytes = bytes;
}

/* `face` held. */
static void watch_disk(struct hub_job *job, struct hub_disk *disk, struct watch *w)
{
	int latched = disk->img ? qcow2_error(disk->img) : 0;

	hub_disk_refresh(disk);
	w->received += (int64_t)disk->data.received;
	w->last_active_ns = MAX(w->last_active_ns, disk->net.last_active_ns);
	w->last_disconnect_ns = MAX(w->last_disconnect_ns, disk->net.last_disconnect_ns);
	job->ever_connected |= disk->net.connections_total > 0;
	if (disk->state != HUB_DISK_OPEN)
		return;
	watch_rate(&disk->rate, w->now_ns, (int64_t)disk->data.received);
	w->connections += disk->net.connections;
	w->lost |= disk->net.connections_total > 0 && !disk->net.connections;
	if (latched && !w->latched) {
		w->latched = latched;
		w->latched_disk = disk->row.disk_index;
	}
}

/* --- what is concluded ---------------------------------------------------------------------- */

static int64_t ms_between(int64_t now_ns, int64_t then_ns)
{
	return (now_ns - then_ns) / NS_PER_MS;
}

/* When the agent was last heard of. `face` held. */
static int64_t watch_last_sign(const struct hub_job *job, const struct watch *w)
{
	return MAX(w->last_active_ns, MAX(job->telemetry_ns, job->touched_ns));
}

/* `face` held. True when the job is to fail, with the reason. */
static bool watch_overdue(const struct hub_config *config, const struct hub_job *job,
			  const struct watch *w, char *reason, size_t size)
{
	int64_t sign = MAX(job->telemetry_ns, job->touched_ns);

	if (w->latched) {
		snprintf(reason, size,
			 "writing disk %d to repository \"%.64s\" at %.200s failed: %.100s",
			 w->latched_disk, job->repo->name, job->repo->root, strerror(-w->latched));
		return true;
	}
	if (!job->ever_connected) {
		if (ms_between(w->now_ns, job->accepted_ns) < config->start_timeout_ms)
			return false;
		snprintf(reason, size,
			 "the agent accepted the backup but did not connect within %u s",
			 config->start_timeout_ms / 1000);
		return true;
	}
	if (w->lost && !w->connections &&
	    ms_between(w->now_ns, MAX(w->last_disconnect_ns, sign)) >=
		    config->disconnect_grace_ms) {
		snprintf(reason, size,
			 "the agent closed all connections without completing the disk, and was "
			 "not heard of for %u s",
			 config->disconnect_grace_ms / 1000);
		return true;
	}
	if (ms_between(w->now_ns, watch_last_sign(job, w)) < config->silence_timeout_ms)
		return false;
	snprintf(reason, size, "neither data nor telemetry from the agent for %u s",
		 config->silence_timeout_ms / 1000);
	return true;
}

/* Silence that is no failure yet, said once. `face` held. */
static bool watch_stalled(const struct hub_config *config, struct hub_job *job,
			  const struct watch *w)
{
	bool stalled = config->stall_warning_ms && job->ever_connected &&
		       ms_between(w->now_ns, watch_last_sign(job, w)) >= config->stall_warning_ms;
	bool news = stalled && !job->told_stalled;

	job->told_stalled = stalled;
	return news;
}

/* --- what the catalog hears ----------------------------------------------------------------- */

/* Failures to tell are no failures of the backup; the next period tries again. */
static void tell_disk(struct hub *hub, struct hub_job *job, struct hub_disk *disk)
{
	struct catalog_counters bytes;
	bool connected;

	pthread_mutex_lock(&job->face);
	hub_disk_counters(disk, &bytes);
	connected = disk->net.connections_total > 0;
	pthread_mutex_unlock(&job->face);
	if (disk->state != HUB_DISK_OPEN)
		return;
	if (connected && !disk->told_running) {
		if (catalog_backup_disk_set_running(hub->catalog, job->row.id, disk->row.disk_index,
						    NULL) >= 0)
			disk->told_running = true;
	}
	if (bytes.bytes_transferred + bytes.bytes_zero == disk->told_bytes)
		return;
	if (!catalog_backup_disk_progress(hub->catalog, job->row.id, disk->row.disk_index, &bytes,
					  NULL))
		disk->told_bytes = bytes.bytes_transferred + bytes.bytes_zero;
}

/* `work` held. */
static void tell_catalog(struct hub *hub, struct hub_job *job, int64_t now_ns)
{
	char phase[CATALOG_ID_SIZE];
	bool fresh;

	if (now_ns - job->told_ns < TELL_PERIOD_NS)
		return;
	job->told_ns = now_ns;
	for (size_t i = 0; i < job->disk_count; i++)
		tell_disk(hub, job, &job->disks[i]);
	pthread_mutex_lock(&job->face);
	fresh = job->telemetry_fresh;
	job->telemetry_fresh = false;
	strcpy(phase, job->telemetry.current_phase);
	pthread_mutex_unlock(&job->face);
	if (fresh)
		catalog_backup_note_telemetry(hub->catalog, job->row.id, phase, NULL);
}

/* --- the round ------------------------------------------------------------------------------ */

/* `work` held, job running. */
static void watch_job(struct hub *hub, const struct hub_config *config, struct hub_job *job)
{
	struct watch w = {.now_ns = hub_now_ns()};
	char reason[CATALOG_ERROR_SIZE];
	bool overdue, stalled;

	pthread_mutex_lock(&job->face);
	for (size_t i = 0; i < job->disk_count; i++)
		watch_disk(job, &job->disks[i], &w);
	watch_rate(&job->rate, w.now_ns, w.received);
	overdue = watch_overdue(config, job, &w, reason, sizeof(reason));
	stalled = watch_stalled(config, job, &w);
	pthread_mutex_unlock(&job->face);
	if (stalled && !overdue)
		hub_job_note(hub, job, CATALOG_LOG_WARNING, CATALOG_NONE, "copy",
			     "neither data nor telemetry from the agent for %u s",
			     config->stall_warning_ms / 1000);
	if (overdue)
		hub_job_fail(hub, job, CATALOG_JOB_FAILED, reason);
	else
		tell_catalog(hub, job, w.now_ns);
}

static void watch_round(struct hub *hub)
{
	size_t n;
	struct hub_job **jobs = hub_jobs_snapshot(hub, &n);
	const struct hub_config config = hub_config_now(hub);

	for (size_t i = 0; i < n; i++) {
		if (pthread_mutex_trylock(&jobs[i]->work) == 0) {
			if (jobs[i]->state == HUB_JOB_RUNNING)
				watch_job(hub, &config, jobs[i]);
			else if (jobs[i]->state == HUB_JOB_FAILING)
				hub_job_fail_retry(hub, jobs[i]);
			pthread_mutex_unlock(&jobs[i]->work);
		}
		hub_job_unref(hub, jobs[i]);
	}
	free(jobs);
}

static void *watchdog_main(void *arg)
{
	struct hub *hub = arg;

	while (hub_tick(hub, hub_config_now(hub).tick_ms)) {
		watch_round(hub);
		hub_tunnel_tick(hub);
	}
	return NULL;
}

/* --- threads -------------------------------------------------------------------------------- */

bool hub_tick(struct hub *hub, unsigned ms)
{
	struct timespec until;
	bool go_on;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += ms / 1000;
	until.tv_nsec += (long)(ms % 1000) * NS_PER_MS;
	if (until.tv_nsec >= 1000000000L) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000L;
	}
	pthread_mutex_lock(&hub->tick_lock);
	while (!hub->tick_stop &&
	       pthread_cond_timedwait(&hub->tick_cond, &hub->tick_lock, &until) != ETIMEDOUT)
		;
	go_on = !hub->tick_stop;
	pthread_mutex_unlock(&hub->tick_lock);
	return go_on;
}

int hub_watchdog_start(struct hub *hub, struct err *err)
{
	int rc = pthread_create(&hub->watchdog, NULL, watchdog_main, hub);

	if (rc)
		return err_sys(err, -rc, "starting the housekeeping thread");
	hub->watchdog_runs = true;
	return 0;
}

void hub_threads_stop(struct hub *hub)
{
	pthread_mutex_lock(&hub->tick_lock);
	hub->tick_stop = true;
	pthread_cond_broadcast(&hub->tick_cond);
	pthread_mutex_unlock(&hub->tick_lock);
	if (hub->watchdog_runs)
		pthread_join(hub->watchdog, NULL);
	if (hub->poller_runs)
		pthread_join(hub->poller, NULL);
	if (hub->scheduler_runs)
		pthread_join(hub->scheduler, NULL);
	hub_copies_stop(hub);
	hub_restores_stop(hub);
	if (hub->lease_runs)
		pthread_join(hub->lease, NULL);
	if (hub->takeover_runs)
		pthread_join(hub->takeover, NULL);
	if (hub->deleter_runs)
		pthread_join(hub->deleter, NULL);
	hub->watchdog_runs = hub->poller_runs = hub->lease_runs = hub->takeover_runs = false;
	hub->scheduler_runs = hub->deleter_runs = false;
}
