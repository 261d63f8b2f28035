/*
 * Jobs: one is the backup of one VM, all disks, as a hub started it.
 *
 *   start -> ask the hub since when, every disk -> open every source -> decide, every disk
 *         -> disk after disk: copy, seal, complete -> completed
 *                   any failure: the other disks stop too -> failed, with the reason
 *
 * A job has a thread of its own (more with --parallel-disks) and one that measures and posts
 * telemetry. Sources are all opened before the first is read, so that the disks belong together:
 * files stay locked against a VM starting on some of them, and of a running QEMU all disks are
 * snapshot at one instant.
 *
 * A job is on the registry's list from start until it is pushed out by newer finished ones. Fields
 * of a job under `lock` may be read by any thread holding it; counters by any thread at all; the
 * rest is written before the threads start and belongs to the job thread from then on.
 */
#ifndef TOOLS_AGENT_JOB_H
#define TOOLS_AGENT_JOB_H

#include <jansson.h>
#include <pthread.h>

#include "base/list.h"
#include "base/log.h"
#include "tools/agent_copy.h"
#include "tools/agent_hub.h"
#include "tools/agent_inventory.h"
#include "tools/agent_live.h"
#include "tools/agent_targets.h"
#include "tools/agent_track.h"

#define AGENT_JOB_ID_MAX 64

/* Named conditions of agent_jobs_start(). */
enum agent_job_cond {
	AGENT_JOB_E_INVALID = 1, /* the request, or the VM is not in the inventory */
	AGENT_JOB_E_BUSY,	 /* the job id is known, or the VM is being backed up */
};

struct agent_job_config {
	const char *inventory; /* file */
	const char *hub_url;
	const char *scratch;  /* absolute folder, for snapshots of running VMs */
	int state_fd;	      /* the state folder, locked by this process */
	unsigned connections; /* to a hub's export, if it is coherent over several */
	uint32_t request_size;
	unsigned parallel_disks;
	unsigned keep_indexes;
};

enum agent_state { AGENT_PENDING, AGENT_RUNNING, AGENT_COMPLETED, AGENT_FAILED };

struct agent_job;

struct agent_job_disk {
	struct agent_job *job;
	const struct agent_disk *disk; /* of the job's inventory; gone when the job has ended */
	size_t number;		       /* in the inventory's order */
	struct agent_target target;
	char label[64];
	int64_t key;
	char hub_change_id[AGENT_HUB_CHANGE_MAX];
	bool hub_answered;
	struct agent_track track;
	struct agent_source *source;
	struct agent_counters counters;
	/* under job->lock */
	enum agent_state state;
	const char *phase; /* a word, static */
	uint64_t size;	   /* 0: not known yet */
	bool incremental;
	char reason[600];
	char change_id[AGENT_CHANGE_SIZE];
	struct err err;
};

/* Bytes per second, smoothed; measured by the telemetry thread, under job->lock. */
struct agent_rates {
	double sent, done, peak;
};

struct agent_jobs;

struct agent_job {
	struct list node;
	struct agent_jobs *jobs;
	struct log_scope log;
	char id[AGENT_JOB_ID_MAX + 1];
	char vm_name[AGENT_NAME_MAX + 1];
	bool full; /* the hub asked for a full: its images are new and empty */
	struct agent_inventory *inventory;
	const struct agent_vm *vm;
	struct agent_job_disk *disks; /* by the hub's disk index, rising */
	size_t disk_count;
	struct agent_live *live; /* of a VM under QEMU */
	struct agent_stop stop;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed; /* state or a disk's state; CLOCK_MONOTONIC */
	/* under lock */
	enum agent_state state;
	const char *phase;
	struct err err;
	size_t next_disk, current_disk;
	int64_t started_us, ended_us; /* wall clock */
	struct agent_rates rates;
};

struct agent_jobs {
	struct agent_job_config config;
	struct agent_hub hub;
	pthread_mutex_t lock;
	struct list list; /* oldest first */
	bool stopping;
};

/* What a start says, as far as this agent uses it: credentials are not even looked at. Borrowed. */
struct agent_start {
	const char *job_id, *vm_path, *nbd_targets;
	bool full;
};

int agent_jobs_new(struct agent_jobs **out, const struct agent_job_config *config, struct err *err);

/* Clears away, in the QEMUs of running VMs, what an agent left there that was killed. Before the
 * first start. */
int agent_jobs_recover(struct agent_jobs *jobs, struct err *err);

/* Returns once the job runs. AGENT_JOB_E_*, -errno. */
int agent_jobs_start(struct agent_jobs *jobs, const struct agent_start *start, struct err *err);

/* New references, or NULL: no such job. */
json_t *agent_jobs_progress(struct agent_jobs *jobs, const char *job_id);
json_t *agent_jobs_status(struct agent_jobs *jobs, const char *job_id);

/* Running jobs fail with "stopped"; returns when their threads are gone. NULL is fine. */
void agent_jobs_free(struct agent_jobs *jobs);

/* --- between the files of this module ------------------------------------------------------- */

/* All disks, from the questions to the decisions: sources are open and tracks begun. The sentence
 * names the disk. (agent_prepare.c) */
int agent_job_prepare(struct agent_job *job, struct err *err);
/* Ends what prepare began; the sentences are logged. */
void agent_job_dismantle(struct agent_job *job);

/* One prepared disk, from the copy to the commit. 0 or a failure with its sentence. (agent_disk.c)
 */
int agent_disk_backup(struct agent_job_disk *d, struct err *err);
void agent_disk_phase(struct agent_job_disk *d, const char *phase);
/* "disk 0 (key 2000, /img/a.raw): " in front of the sentence; returns @rc. */
int agent_disk_error(const struct agent_job_disk *d, int rc, struct err *err);

/* Measures and posts until the job has ended, then posts the end. (agent_progress.c) */
void *agent_progress_thread(void *job);
json_t *agent_progress_json(struct agent_job *job);
json_t *agent_status_json(struct agent_job *job);
const char *agent_state_word(enum agent_state state);

DEFINE_CLEANUP(struct agent_jobs *, agent_jobs_free)

#endif
