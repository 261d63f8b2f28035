#include "tools/agent_job.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "tools/agent_json.h"

#define JOBS_KEPT 64 /* finished ones, for /progress */

/* --- one job: make, free -------------------------------------------------------------------- */

static void job_free(struct agent_job *job)
{
	if (!job)
		return;
	free(job->disks);
	agent_inventory_free(job->inventory);
	agent_stop_deinit(&job->stop);
	pthread_cond_destroy(&job->changed);
	pthread_mutex_destroy(&job->lock);
	free(job);
}

DEFINE_CLEANUP(struct agent_job *, job_free)

static struct agent_job *job_alloc(struct agent_jobs *jobs, const struct agent_start *start)
{
	struct agent_job *job = calloc(1, sizeof(*job));
	pthread_condattr_t attr;

	if (!job)
		return NULL;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&job->changed, &attr);
	pthread_condattr_destroy(&attr);
	pthread_mutex_init(&job->lock, NULL);
	job->jobs = jobs;
	job->full = start->full;
	job->state = AGENT_RUNNING;
	job->phase = "starting";
	job->started_us = agent_now_us();
	snprintf(job->id, sizeof(job->id), "%s", start->job_id);
	log_scope_init(&job->log, "job %.55s", start->job_id);
	if (agent_stop_init(&job->stop) == 0)
		return job;
	job_free(job);
	return NULL;
}

static int by_disk_index(const void *a, const void *b)
{
	const struct agent_job_disk *x = a, *y = b;

	return x->target.disk_index - y->target.disk_index;
}

/* Every disk of the VM must have its target: a point without one of them is no point. */
static int job_disks(struct agent_job *job, const struct agent_target *targets, size_t n,
		     struct err *err)
{
	job->disks = calloc(job->vm->disk_count, sizeof(*job->disks));
	if (!job->disks)
		return err_sys(err, -ENOMEM, "job %s", job->id);
	for (size_t i = 0; i < job->vm->disk_count; i++) {
		const struct agent_disk *disk = &job->vm->disks[i];
		const struct agent_target *t = agent_targets_find(targets, n, disk->key);
		struct agent_job_disk *d = &job->disks[i];

		if (!t)
			return err_set(err, AGENT_JOB_E_INVALID,
				       "nbd_targets has no entry for disk %lld of VM \"%s\": run "
				       "discovery again, the hub does not know that disk",
				       (long long)disk->key, job->vm->name);
		*d = (struct agent_job_disk){
			.job = job,
			.disk = disk,
			.number = i,
			.target = *t,
			.key = disk->key,
			.track = AGENT_TRACK_INIT,
			.phase = "waiting",
		};
		if (disk->label[0])
			snprintf(d->label, sizeof(d->label), "%s", disk->label);
		else
			snprintf(d->label, sizeof(d->label), "Hard disk %zu", i + 1);
		job->disk_count++;
	}
	qsort(job->disks, job->disk_count, sizeof(*job->disks), by_disk_index);
	return 0;
}

static bool job_id_good(const char *id)
{
	static const char plain[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";

	return strncmp(id, "backup-", 7) == 0 && strlen(id) <= AGENT_JOB_ID_MAX &&
	       strspn(id, plain) == strlen(id);
}

static int job_new(struct agent_job **out, struct agent_jobs *jobs, const struct agent_start *start,
		   struct err *err)
{
	_cleanup_(job_freep) struct agent_job *job = NULL;
	_cleanup_(freep) struct agent_target *targets = NULL;
	size_t n;
	int rc;

	if (!job_id_good(start->job_id))
		return err_set(err, AGENT_JOB_E_INVALID,
			       "job_id must start with \"backup-\" and have at most %d of A-Z a-z "
			       "0-9 . _ -",
			       AGENT_JOB_ID_MAX);
	if (agent_targets_parse(start->nbd_targets, &targets, &n, err))
		return AGENT_JOB_E_INVALID;
	job = job_alloc(jobs, start);
	if (!job)
		return err_sys(err, -ENOMEM, "job %s", start->job_id);
	rc = agent_inventory_load(&job->inventory, jobs->config.inventory, err);
	if (rc)
		return rc;
	job->vm = agent_inventory_find(job->inventory, start->vm_path);
	if (!job->vm)
		return err_set(err, AGENT_JOB_E_INVALID,
			       "VM \"%s\" is not in this agent's inventory", start->vm_path);
	snprintf(job->vm_name, sizeof(job->vm_name), "%s", job->vm->name);
	rc = job_disks(job, targets, n, err);
	if (rc)
		return rc;
	*out = steal(&job);
	return 0;
}

/* --- one job: run --------------------------------------------------------------------------- */

static void job_phase(struct agent_job *job, const char *phase)
{
	pthread_mutex_lock(&job->lock);
	job->phase = phase;
	pthread_mutex_unlock(&job->lock);
}

/* The next disk nobody has taken, or NULL: none, or one has failed. */
static struct agent_job_disk *job_next_disk(struct agent_job *job)
{
	struct agent_job_disk *d = NULL;

	pthread_mutex_lock(&job->lock);
	if (!job->err.code && job->next_disk < job->disk_count) {
		job->current_disk = job->next_disk++;
		d = &job->disks[job->current_disk];
		d->state = AGENT_RUNNING;
	}
	pthread_mutex_unlock(&job->lock);
	return d;
}

static void job_disk_ended(struct agent_job *job, struct agent_job_disk *d, const struct err *err)
{
	pthread_mutex_lock(&job->lock);
	d->state = err->code ? AGENT_FAILED : AGENT_COMPLETED;
	d->phase = err->code ? "failed" : "done";
	d->err = *err;
	if (err->code && !job->err.code)
		job->err = *err;
	pthread_mutex_unlock(&job->lock);
}

static void *job_disk_thread(void *arg)
{
	struct agent_job *job = arg;
	struct agent_job_disk *d;

	while ((d = job_next_disk(job))) {
		struct err err = ERR_INIT;

		agent_disk_backup(d, &err);
		job_disk_ended(job, d, &err);
		if (err.code) {
			log_error(&job->log, "%s", err.text);
			agent_stop_ask(&job->stop); /* the other disks' copies */
		} else {
			log_info(&job->log, "disk %d: completed, %llu bytes sent",
				 d->target.disk_index,
				 (unsigned long long)atomic_load(&d->counters.sent));
		}
	}
	return NULL;
}

static void job_copy_disks(struct agent_job *job)
{
	unsigned want = MIN(job->jobs->config.parallel_disks, (unsigned)job->disk_count), n = 0;
	pthread_t helpers[AGENT_DISKS_MAX];

	job_phase(job, "transferring");
	/* This thread is one of them; fewer than wanted do the work too. */
	while (n + 1 < want && pthread_create(&helpers[n], NULL, job_disk_thread, job) == 0)
		n++;
	job_disk_thread(job);
	while (n)
		pthread_join(helpers[--n], NULL);
}

static void job_end(struct agent_job *job)
{
	pthread_mutex_lock(&job->lock);
	job->state = job->err.code ? AGENT_FAILED : AGENT_COMPLETED;
	job->phase = job->err.code ? "failed" : "completed";
	job->ended_us = agent_now_us();
	pthread_cond_broadcast(&job->changed);
	pthread_mutex_unlock(&job->lock);
	log_info(&job->log, "VM \"%s\": %s", job->vm_name, agent_state_word(job->state));
}

/* What only a running job needs goes with it; /progress needs none of it. */
static void job_release(struct agent_job *job)
{
	agent_job_dismantle(job);
	for (size_t i = 0; i < job->disk_count; i++)
		job->disks[i].disk = NULL;
	job->vm = NULL;
	agent_inventory_free(job->inventory);
	job->inventory = NULL;
}

static void *job_thread(void *arg)
{
	struct agent_job *job = arg;
	pthread_t progress;
	bool measured = pthread_create(&progress, NULL, agent_progress_thread, job) == 0;
	struct err err = ERR_INIT;

	log_info(&job->log, "VM \"%s\": %s backup of %zu disks", job->vm_name,
		 job->full ? "full" : "incremental", job->disk_count);
	if (agent_job_prepare(job, &err) == 0) {
		job_copy_disks(job);
	} else {
		log_error(&job->log, "%s", err.text);
		pthread_mutex_lock(&job->lock);
		job->err = err;
		pthread_mutex_unlock(&job->lock);
	}
	job_release(job);
	job_end(job);
	if (measured)
		pthread_join(progress, NULL);
	return NULL;
}

/* --- the registry --------------------------------------------------------------------------- */

static struct agent_job *find_locked(struct agent_jobs *jobs, const char *id)
{
	struct list *pos;

	list_for_each (pos, &jobs->list) {
		struct agent_job *job = list_entry(pos, struct agent_job, node);

		if (strcmp(job->id, id) == 0)
			return job;
	}
	return NULL;
}

static bool job_running(struct agent_job *job)
{
	bool running;

	pthread_mutex_lock(&job->lock);
	running = job->state == AGENT_RUNNING;
	pthread_mutex_unlock(&job->lock);
	return running;
}

/* One job a VM: two would write one index, and no hub starts two. */
static int check_free_locked(struct agent_jobs *jobs, const struct agent_job *new, struct err *err)
{
	struct list *pos;

	if (find_locked(jobs, new->id))
		return err_set(err, AGENT_JOB_E_BUSY, "job %s is known already", new->id);
	list_for_each (pos, &jobs->list) {
		struct agent_job *job = list_entry(pos, struct agent_job, node);

		if (strcmp(job->vm_name, new->vm_name) == 0 && job_running(job))
			return err_set(err, AGENT_JOB_E_BUSY,
				       "VM \"%s\" is being backed up by job %s", new->vm_name,
				       job->id);
	}
	return 0;
}

static void forget_old_locked(struct agent_jobs *jobs)
{
	struct list *pos, *tmp;
	size_t n = 0;

	list_for_each (pos, &jobs->list)
		n++;
	list_for_each_safe (pos, tmp, &jobs->list) {
		struct agent_job *job = list_entry(pos, struct agent_job, node);

		if (n <= JOBS_KEPT)
			return;
		if (job_running(job))
			continue;
		pthread_join(job->thread, NULL);
		list_del(&job->node);
		job_free(job);
		n--;
	}
}

int agent_jobs_new(struct agent_jobs **out, const struct agent_job_config *config, struct err *err)
{
	struct agent_jobs *jobs = calloc(1, sizeof(*jobs));
	int rc;

	if (!jobs)
		return err_sys(err, -ENOMEM, "jobs");
	pthread_mutex_init(&jobs->lock, NULL);
	list_init(&jobs->list);
	jobs->config = *config;
	rc = agent_hub_init(&jobs->hub, config->hub_url, err);
	if (rc) {
		agent_jobs_free(jobs);
		return rc;
	}
	*out = jobs;
	return 0;
}

int agent_jobs_recover(struct agent_jobs *jobs, struct err *err)
{
	static const struct log_scope log = {"recover"};
	_cleanup_(agent_inventory_freep) struct agent_inventory *inv = NULL;
	int rc = agent_inventory_load(&inv, jobs->config.inventory, err);

	for (size_t i = 0; !rc && i < agent_inventory_count(inv); i++) {
		const struct agent_vm *vm = agent_inventory_vm(inv, i);
		struct err why = ERR_INIT;

		if (!vm->qmp || !agent_live_left(vm, jobs->config.scratch))
			continue;
		if (agent_live_clear(vm, jobs->config.scratch, &why))
			log_warn(&log, "VM \"%s\": its snapshot stays until its next backup: %s",
				 vm->name, why.text);
		else
			log_info(&log,
				 "VM \"%s\": cleared the snapshot of a backup that did not end",
				 vm->name);
	}
	return rc;
}

static int start_locked(struct agent_jobs *jobs, struct agent_job *job, struct err *err)
{
	int rc;

	if (jobs->stopping)
		return err_set(err, -ESHUTDOWN, "this agent is stopping");
	rc = check_free_locked(jobs, job, err);
	if (rc)
		return rc;
	rc = pthread_create(&job->thread, NULL, job_thread, job);
	if (rc)
		return err_sys(err, -rc, "no thread for job %s", job->id);
	list_add_tail(&jobs->list, &job->node);
	forget_old_locked(jobs);
	return 0;
}

int agent_jobs_start(struct agent_jobs *jobs, const struct agent_start *start, struct err *err)
{
	_cleanup_(job_freep) struct agent_job *job = NULL;
	int rc = job_new(&job, jobs, start, err);

	if (rc)
		return rc;
	pthread_mutex_lock(&jobs->lock);
	rc = start_locked(jobs, job, err);
	pthread_mutex_unlock(&jobs->lock);
	if (!rc)
		(void)steal(&job); /* the list's */
	return rc;
}

static json_t *view(struct agent_jobs *jobs, const char *id, json_t *(*make)(struct agent_job *))
{
	struct agent_job *job;
	json_t *out;

	pthread_mutex_lock(&jobs->lock);
	job = find_locked(jobs, id);
	out = job ? make(job) : NULL;
	pthread_mutex_unlock(&jobs->lock);
	return out;
}

json_t *agent_jobs_progress(struct agent_jobs *jobs, const char *job_id)
{
	return view(jobs, job_id, agent_progress_json);
}

json_t *agent_jobs_status(struct agent_jobs *jobs, const char *job_id)
{
	return view(jobs, job_id, agent_status_json);
}

void agent_jobs_free(struct agent_jobs *jobs)
{
	struct list *pos, *node;

	if (!jobs)
		return;
	pthread_mutex_lock(&jobs->lock);
	jobs->stopping = true;
	list_for_each (pos, &jobs->list)
		agent_stop_ask(&list_entry(pos, struct agent_job, node)->stop);
	pthread_mutex_unlock(&jobs->lock);
	/* Nobody adds or removes any more. */
	while ((node = list_pop(&jobs->list))) {
		struct agent_job *job = list_entry(node, struct agent_job, node);

		pthread_join(job->thread, NULL);
		job_free(job);
	}
	pthread_mutex_destroy(&jobs->lock);
	free(jobs);
}
