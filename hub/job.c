#include "hub/job.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"

int64_t hub_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

int hub_from_catalog(int rc)
{
	static const int map[] = {
		[CATALOG_E_NOT_FOUND] = HUB_E_NOT_FOUND, [CATALOG_E_BUSY] = HUB_E_BUSY,
		[CATALOG_E_EXISTS] = HUB_E_EXISTS,	 [CATALOG_E_IN_USE] = HUB_E_STATE,
		[CATALOG_E_STATE] = HUB_E_STATE,	 [CATALOG_E_CONFLICT] = HUB_E_STATE,
		[CATALOG_E_ALREADY] = HUB_E_STATE,	 [CATALOG_E_AMBIGUOUS] = HUB_E_INVALID,
		[CATALOG_E_INVALID] = HUB_E_INVALID,	 [CATALOG_E_SCHEMA] = HUB_E_STATE,
		[CATALOG_E_URL] = HUB_E_INVALID,	 [CATALOG_E_FENCED] = HUB_E_STATE,
	};

	if (rc <= 0)
		return rc;
	return (size_t)rc < ARRAY_SIZE(map) && map[rc] ? map[rc] : -EIO;
}

/* --- life ----------------------------------------------------------------------------------- */

static struct hub_job *hub_job_new(const struct catalog_vm_context *vm)
{
	struct hub_job *job = calloc(1, sizeof(*job));

	if (!job)
		return NULL;
	job->refs = 2; /* the list's and the caller's */
	job->state = HUB_JOB_STARTING;
	job->reserved_ns = hub_now_ns();
	job->vm = *vm;
	catalog_new_id(job->row.id, CATALOG_JOB_PREFIX);
	CATALOG_TEXT(job->vm_name, vm->vm_name);
	CATALOG_TEXT(job->vm_path_name, hub_path_name(vm->vm_path));
	log_scope_init(&job->log, "backup of %s", vm->vm_name);
	pthread_mutex_init(&job->work, NULL);
	pthread_mutex_init(&job->face, NULL);
	return job;
}

static void hub_job_free(struct hub_job *job)
{
	repo_close(job->repo);
	pthread_mutex_destroy(&job->work);
	pthread_mutex_destroy(&job->face);
	free(job->disks);
	free(job);
}

static struct hub_job *hub_job_of_vm(struct hub *hub, const struct catalog_vm_context *vm)
{
	struct list *pos;

	list_for_each (pos, &hub->jobs) {
		struct hub_job *job = list_entry(pos, struct hub_job, node);

		if (!strcmp(job->vm_name, vm->vm_name) ||
		    !strcmp(job->vm.context_id, vm->context_id))
			return job;
	}
	return NULL;
}

static void hub_job_busy_id(struct hub_job *job, char busy_id[CATALOG_ID_SIZE])
{
	pthread_mutex_lock(&job->face);
	strcpy(busy_id, job->row.id);
	pthread_mutex_unlock(&job->face);
}

int hub_job_reserve(struct hub *hub, const struct catalog_vm_context *vm, struct hub_job **out,
		    char busy_id[CATALOG_ID_SIZE], struct err *err)
{
	struct hub_job *job = hub_job_new(vm), *other;
	bool stopping;

	busy_id[0] = '\0';
	if (!job)
		return err_sys(err, -ENOMEM, "backup of \"%s\"", vm->vm_name);
	pthread_mutex_lock(&job->work);
	pthread_mutex_lock(&hub->lock);
	stopping = atomic_load(&hub->stopping);
	other = hub_job_of_vm(hub, vm);
	if (other)
		hub_job_busy_id(other, busy_id);
	else if (!stopping)
		list_add_tail(&hub->jobs, &job->node);
	pthread_mutex_unlock(&hub->lock);
	if (!other && !stopping) {
		*out = job;
		return 0;
	}
	pthread_mutex_unlock(&job->work);
	hub_job_free(job);
	if (!other)
		return err_set(err, HUB_E_STOPPING, "the hub is stopping: no new backup starts");
	return err_set(err, HUB_E_BUSY, "VM \"%s\" is being backed up already, by %s", vm->vm_name,
		       busy_id);
}

void hub_job_unref(struct hub *hub, struct hub_job *job)
{
	unsigned left;

	if (!job)
		return;
	pthread_mutex_lock(&hub->lock);
	left = --job->refs;
	pthread_mutex_unlock(&hub->lock);
	if (!left)
		hub_job_free(job);
}

void hub_job_end(struct hub *hub, struct hub_job *job)
{
	hub_job_set_state(job, HUB_JOB_ENDED);
	pthread_mutex_lock(&hub->lock);
	if (!list_empty(&job->node)) {
		hub_totals_add_job(hub, job);
		list_del(&job->node);
		job->refs--; /* the list's; the caller holds another */
	}
	pthread_mutex_unlock(&hub->lock);
}

void hub_job_set_outcome(struct hub_job *job, enum catalog_job_status status)
{
	pthread_mutex_lock(&job->face);
	job->outcome = status;
	pthread_mutex_unlock(&job->face);
}

void hub_job_set_state(struct hub_job *job, enum hub_job_state state)
{
	pthread_mutex_lock(&job->face);
	job->state = state;
	pthread_mutex_unlock(&job->face);
}

void hub_job_note(struct hub *hub, struct hub_job *job, enum catalog_log_level level,
		  int disk_index, const char *phase, const char *fmt, ...)
{
	static const enum log_level levels[] = {
		[CATALOG_LOG_ERROR] = LOG_LEVEL_ERROR,
		[CATALOG_LOG_WARNING] = LOG_LEVEL_WARN,
		[CATALOG_LOG_INFO] = LOG_LEVEL_INFO,
	};
	struct catalog_job_line line = {.disk_index = disk_index, .level = level};
	struct err err = ERR_INIT;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line.message, sizeof(line.message), fmt, ap);
	va_end(ap);
	CATALOG_TEXT(line.phase, phase);
	CATALOG_TEXT(line.backup_job_id, job->row.id);
	if (disk_index == CATALOG_NONE)
		log_line(levels[level], &job->log, "%s", line.message);
	else
		log_line(levels[level], &job->log, "disk %d: %s", disk_index, line.message);
	if (catalog_job_log_add(hub->catalog, &line, &err))
		log_debug(&job->log, "the catalog does not take a line: %s", err.text);
}

/* --- finding -------------------------------------------------------------------------------- */

static bool hub_job_has_id(struct hub_job *job, const char *id)
{
	bool same;

	pthread_mutex_lock(&job->face);
	same = !strcmp(job->row.id, id);
	pthread_mutex_unlock(&job->face);
	return same;
}

struct hub_job *hub_job_find(struct hub *hub, const char *job_id)
{
	struct hub_job *found = NULL;
	struct list *pos;

	if (!job_id[0])
		return NULL;
	pthread_mutex_lock(&hub->lock);
	list_for_each (pos, &hub->jobs) {
		struct hub_job *job = list_entry(pos, struct hub_job, node);

		if (hub_job_has_id(job, job_id)) {
			found = job;
			found->refs++;
			break;
		}
	}
	pthread_mutex_unlock(&hub->lock);
	return found;
}

/* An agent names a VM by the last part of its path, where a '/' of the name is escaped: the VM's
 * own name goes first, the path's form second. */
struct hub_job *hub_job_find_vm(struct hub *hub, const char *vm_name)
{
	struct hub_job *found = NULL;
	struct list *pos;

	pthread_mutex_lock(&hub->lock);
	list_for_each (pos, &hub->jobs) {
		struct hub_job *job = list_entry(pos, struct hub_job, node);

		if (!strcmp(job->vm_name, vm_name)) {
			found = job;
			break;
		}
		if (!found && !strcmp(job->vm_path_name, vm_name))
			found = job;
	}
	if (found)
		found->refs++;
	pthread_mutex_unlock(&hub->lock);
	return found;
}

struct hub_job **hub_jobs_snapshot(struct hub *hub, size_t *n)
{
	struct hub_job **jobs = NULL;
	struct list *pos;
	size_t count = 0;

	pthread_mutex_lock(&hub->lock);
	list_for_each (pos, &hub->jobs)
		count++;
	if (count)
		jobs = calloc(count, sizeof(struct hub_job *));
	*n = 0;
	if (jobs) {
		list_for_each (pos, &hub->jobs) {
			jobs[*n] = list_entry(pos, struct hub_job, node);
			jobs[(*n)++]->refs++;
		}
	}
	pthread_mutex_unlock(&hub->lock);
	return jobs;
}

/* --- disks of a job ------------------------------------------------------------------------- */

void hub_disk_refresh(struct hub_disk *disk)
{
	if (disk->export)
		nbd_export_get_stats(disk->export, &disk->net);
	if (disk->img)
		qcow2_get_stats(disk->img, &disk->data);
}

void hub_disk_counters(const struct hub_disk *disk, struct catalog_counters *out)
{
	*out = (struct catalog_counters){
		.bytes_transferred = (int64_t)disk->net.bytes_written,
		.bytes_zero = (int64_t)disk->net.bytes_zeroed,
		.bytes_unchanged = (int64_t)disk->data.unchanged,
		.bytes_stored = (int64_t)disk->data.stored,
	};
}

int hub_disk_unexport(struct hub_job *job, struct hub_disk *disk, bool abandon)
{
	struct nbd_export *export;
	int rc = 0;

	pthread_mutex_lock(&job->face);
	hub_disk_refresh(disk);
	export = disk->export;
	disk->export = NULL;
	disk->net.connections = 0;
	pthread_mutex_unlock(&job->face);
	if (export)
		rc = nbd_export_remove(export, abandon);
	return rc;
}

struct qcow2_image *hub_disk_take_image(struct hub_job *job, struct hub_disk *disk)
{
	struct qcow2_image *img;

	pthread_mutex_lock(&job->face);
	hub_disk_refresh(disk);
	img = disk->img;
	disk->img = NULL;
	pthread_mutex_unlock(&job->face);
	return img;
}
