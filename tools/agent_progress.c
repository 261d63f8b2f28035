/*
 * How a job goes: measured twice a second, shown at /progress, posted to the hub every five seconds
 * and at every tenth of the way. Numbers of a job are the sums over its disks. `bytes_transferred`
 * is what went over the wire as data; percentages are of the disks' bytes that are dealt with, so
 * that an incremental with little to send moves too. Megabits are millions of bits per second.
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "tools/agent_job.h"
#include "tools/agent_json.h"

#define PROGRESS_TICK_MS   500
#define PROGRESS_POST_MS   5000
#define PROGRESS_STEP	   10.0 /* per cent */
#define PROGRESS_SMOOTHING 0.15 /* weight of a tick: about three seconds of memory */

struct totals {
	uint64_t size, done, sent, zeroed;
	double percent;
};

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

const char *agent_state_word(enum agent_state state)
{
	static const char *const words[] = {
		[AGENT_PENDING] = "pending",
		[AGENT_RUNNING] = "running",
		[AGENT_COMPLETED] = "completed",
		[AGENT_FAILED] = "failed",
	};

	return words[state];
}

static double percent_of(uint64_t done, uint64_t size, bool completed)
{
	if (completed)
		return 100;
	return size ? MIN(100.0 * (double)done / (double)size, 100.0) : 0;
}

/* Callers of what follows hold job->lock. */

static struct totals job_totals(struct agent_job *job)
{
	struct totals t = {0};

	for (size_t i = 0; i < job->disk_count; i++) {
		t.size += job->disks[i].size;
		t.done += atomic_load(&job->disks[i].counters.done);
		t.sent += atomic_load(&job->disks[i].counters.sent);
		t.zeroed += atomic_load(&job->disks[i].counters.zeroed);
	}
	t.percent = percent_of(t.done, t.size, job->state == AGENT_COMPLETED);
	return t;
}

static bool job_ended(const struct agent_job *job)
{
	return job->state == AGENT_COMPLETED || job->state == AGENT_FAILED;
}

static int64_t job_eta_seconds(const struct agent_job *job, const struct totals *t)
{
	if (job_ended(job) || job->rates.done < 1 || t->done >= t->size)
		return 0;
	return (int64_t)((double)(t->size - t->done) / job->rates.done);
}

static const char *job_sync_type(const struct agent_job *job)
{
	for (size_t i = 0; i < job->disk_count; i++)
		if (job->disks[i].incremental)
			return "incremental";
	return "full";
}

/* --- JSON ----------------------------------------------------------------------------------- */

static json_t *error_json(const struct agent_job *job)
{
	const char *name = job->err.code < 0 ? strerrorname_np(-job->err.code) : "REFUSED";
	char when[AGENT_TIME_SIZE];

	if (job->state != AGENT_FAILED)
		return NULL;
	return json_pack("{s:o,s:s,s:s}", "message", agent_text_json(job->err.text), "code",
			 name ? name : "ERROR", "timestamp", agent_time_text(job->ended_us, when));
}

static json_t *disk_json(const struct agent_job_disk *d)
{
	uint64_t done = atomic_load(&d->counters.done), sent = atomic_load(&d->counters.sent);
	uint64_t zeroed = atomic_load(&d->counters.zeroed);
	char id[32];

	snprintf(id, sizeof(id), "disk-%lld", (long long)d->key);
	return json_pack("{s:s,s:i,s:o,s:s,s:s,s:s,s:o,s:s,s:I,s:I,s:I,s:I,s:f,s:o*}", "id", id,
			 "disk_index", d->target.disk_index, "label", agent_text_json(d->label),
			 "status", agent_state_word(d->state), "phase", d->phase, "sync_type",
			 d->incremental ? "incremental" : "full", "reason",
			 agent_text_json(d->reason), "change_id", d->change_id, "total_bytes",
			 (json_int_t)d->size, "bytes_done", (json_int_t)done, "bytes_transferred",
			 (json_int_t)sent, "bytes_zeroed", (json_int_t)zeroed, "percentage",
			 percent_of(done, d->size, d->state == AGENT_COMPLETED), "error",
			 d->state == AGENT_FAILED ? agent_text_json(d->err.text) : NULL);
}

static json_t *disks_json(const struct agent_job *job)
{
	json_t *list = json_array();

	for (size_t i = 0; i < job->disk_count; i++)
		json_array_append_new(list, disk_json(&job->disks[i]));
	return list;
}

static void job_operation(const struct agent_job *job, char *out, size_t size)
{
	const struct agent_job_disk *d = &job->disks[job->current_disk];

	if (job->state == AGENT_RUNNING && d->state == AGENT_RUNNING)
		snprintf(out, size, "disk %d of %zu (%s): %s", d->target.disk_index,
			 job->disk_count, d->label, d->phase);
	else
		snprintf(out, size, "%s", job->phase);
}

static json_t *timing_json(const struct agent_job *job, const struct totals *t)
{
	int64_t now = job_ended(job) ? job->ended_us : agent_now_us();
	char start[AGENT_TIME_SIZE], update[AGENT_TIME_SIZE];

	return json_pack("{s:s,s:s,s:I,s:I}", "start_time", agent_time_text(job->started_us, start),
			 "last_update", agent_time_text(now, update), "elapsed_ms",
			 (json_int_t)((now - job->started_us) / 1000), "eta_seconds",
			 (json_int_t)job_eta_seconds(job, t));
}

static json_t *throughput_json(const struct agent_job *job, const struct totals *t)
{
	int64_t end = job_ended(job) ? job->ended_us : agent_now_us();
	double s = (double)(end - job->started_us) / 1e6;

	return json_pack("{s:f,s:f,s:f}", "current_mbps",
			 job_ended(job) ? 0.0 : job->rates.sent * 8 / 1e6, "average_mbps",
			 s > 0 ? (double)t->sent * 8 / 1e6 / s : 0.0, "peak_mbps",
			 job->rates.peak * 8 / 1e6);
}

json_t *agent_progress_json(struct agent_job *job)
{
	char operation[200];
	struct totals t;
	json_t *out;

	pthread_mutex_lock(&job->lock);
	t = job_totals(job);
	job_operation(job, operation, sizeof(operation));
	out = json_pack("{s:s,s:s,s:s,s:s,s:s,s:f,s:s,s:I,s:I,s:o,s:o,s:o,s:o*}", "job_id", job->id,
			"vm_name", job->vm_name, "status", agent_state_word(job->state),
			"sync_type", job_sync_type(job), "phase", job->phase, "percentage",
			t.percent, "current_operation", operation, "bytes_transferred",
			(json_int_t)t.sent, "total_bytes", (json_int_t)t.size, "throughput",
			throughput_json(job, &t), "timing", timing_json(job, &t), "disk_progresses",
			disks_json(job), "error", error_json(job));
	pthread_mutex_unlock(&job->lock);
	return out;
}

json_t *agent_status_json(struct agent_job *job)
{
	char when[AGENT_TIME_SIZE];
	json_t *out;

	pthread_mutex_lock(&job->lock);
	out = json_pack("{s:s,s:s,s:s,s:s,s:s,s:i,s:o*}", "job_id", job->id, "vm_name",
			job->vm_name, "status", agent_state_word(job->state), "phase", job->phase,
			"started_at", agent_time_text(job->started_us, when), "pid", (int)getpid(),
			"error", error_json(job));
	pthread_mutex_unlock(&job->lock);
	return out;
}

static json_t *telemetry_json(struct agent_job *job, double *percent)
{
	char when[AGENT_TIME_SIZE];
	struct totals t;
	json_t *out;

	pthread_mutex_lock(&job->lock);
	t = job_totals(job);
	*percent = t.percent;
	out = json_pack("{s:s,s:s,s:s,s:s,s:I,s:I,s:I,s:I,s:f,s:o,s:s,s:o*}", "job_id", job->id,
			"job_type", "backup", "status", agent_state_word(job->state),
			"current_phase", job->phase, "bytes_transferred", (json_int_t)t.sent,
			"total_bytes", (json_int_t)t.size, "transfer_speed_bps",
			(json_int_t)(job_ended(job) ? 0 : job->rates.sent), "eta_seconds",
			(json_int_t)job_eta_seconds(job, &t), "progress_percent", t.percent,
			"disks", disks_json(job), "timestamp",
			agent_time_text(agent_now_us(), when), "error", error_json(job));
	pthread_mutex_unlock(&job->lock);
	return out;
}

/* --- the thread ----------------------------------------------------------------------------- */

static double smooth(double old, uint64_t bytes, int64_t ms)
{
	double now = ms > 0 ? (double)bytes * 1000 / (double)ms : old;

	return old > 0 ? old + (now - old) * PROGRESS_SMOOTHING : now;
}

static void measure(struct agent_job *job, struct totals *last, int64_t ms)
{
	struct totals t;

	pthread_mutex_lock(&job->lock);
	t = job_totals(job);
	job->rates.sent = smooth(job->rates.sent, t.sent - last->sent, ms);
	job->rates.done = smooth(job->rates.done, t.done - last->done, ms);
	job->rates.peak = MAX(job->rates.peak, job->rates.sent);
	pthread_mutex_unlock(&job->lock);
	*last = t;
}

/* True when the job has ended. */
static bool wait_tick(struct agent_job *job)
{
	struct timespec until;
	bool ended;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += PROGRESS_TICK_MS * 1000000L;
	until.tv_sec += until.tv_nsec / 1000000000L;
	until.tv_nsec %= 1000000000L;
	pthread_mutex_lock(&job->lock);
	while (!job_ended(job) &&
	       pthread_cond_timedwait(&job->changed, &job->lock, &until) != ETIMEDOUT)
		continue;
	ended = job_ended(job);
	pthread_mutex_unlock(&job->lock);
	return ended;
}

/* The hub lives by its own eyes; telemetry it does not take is said once and tried again. */
static double post(struct agent_job *job, const struct agent_stop *stop, bool *complained)
{
	struct err err = ERR_INIT;
	double percent = 0;
	json_t *body = telemetry_json(job, &percent);
	int rc = agent_hub_telemetry(&job->jobs->hub, stop, job->id, body, &err);

	if (rc && rc != -ECANCELED && !*complained) {
		log_warn(&job->log, "%s", err.text);
		*complained = true;
	}
	json_decref(body);
	return percent;
}

void *agent_progress_thread(void *arg)
{
	struct agent_job *job = arg;
	struct agent_stop never = {.fd = -1}; /* the end is posted even while stopping */
	struct totals last = {0};
	int64_t measured = now_ms(), posted = 0, now;
	double percent = 0;
	bool complained = false;

	while (!wait_tick(job)) {
		now = now_ms();
		measure(job, &last, now - measured);
		measured = now;
		if (now - posted < PROGRESS_POST_MS && last.percent < percent + PROGRESS_STEP)
			continue;
		percent = post(job, &job->stop, &complained);
		posted = now;
	}
	post(job, &never, &complained);
	return NULL;
}
