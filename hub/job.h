/*
 * Private to hub/: the running backups, and what the use cases share.
 *
 * A `struct hub_job` is a backup between its reservation and its end; ended ones live in the
 * catalog alone. It is found through hub->jobs and held by reference.
 *
 * Locks, in the order they may be taken:
 *   job->work   one step of a job's life at a time: start, complete of a disk, fail. Held during
 *               I/O, possibly for minutes, so only those steps take it; who merely looks
 * (watch-dog, agent's poll) tries it and comes back later. hub->lock   the list of jobs and their
 * references. For moments. job->face   what others read while a step is under way: disk states,
 * counters, telemetry, and the pointers to export and image as long as their counters may be read.
 * For moments. Writers of those members hold `work` as well, except telemetry's.
 */
#ifndef HUB_JOB_H
#define HUB_JOB_H

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "base/list.h"
#include "base/log.h"
#include "base/sha256.h"
#include "catalog/backups.h"
#include "catalog/contexts.h"
#include "catalog/copies.h"
#include "catalog/hubs.h"
#include "catalog/job_log.h"
#include "hub/agent.h"
#include "hub/backup.h"
#include "hub/hub.h"
#include "hub/look.h"
#include "hub/metrics.h"
#include "hub/repo/repo.h"
#include "hub/secrets.h"
#include "nbd/server.h"
#include "qcow2/qcow2.h"

#define HUB_NBD_ADDRESSES_MAX 1024
#define HUB_LISTENERS_MAX     16
#define HUB_COPIERS_MAX	      16
#define HUB_SECRET_SIZE	      256
#define HUB_STAMP_SIZE	      16 /* "YYYYMMDD-HHMMSS" */

/* Where NBD is served. */
struct hub_address {
	char text[256]; /* "127.0.0.1:10100", or "unix:PATH" */
	int port;	/* of it; 0: a unix socket */
	bool tls;	/* it requires TLS */
};

struct hub_listener {
	char given[512], bound[160];
	enum nbd_tls_policy tls; /* lock */
};

struct hub {
	/* Its texts point into the members below; what hub_reconfigure() may change is under
	 * `lock`, and read by hub_config_now(). */
	struct hub_config config;
	char data_dir[CATALOG_PATH_SIZE];
	char identity[SHA256_HEX_SIZE];
	char vcenter_user[HUB_SECRET_SIZE], vcenter_password[HUB_SECRET_SIZE];
	int lock_fd; /* of the data folder */
	struct catalog *catalog;
	struct hub_audit *audit;		     /* audit.c */
	struct hub_limits *limits;		     /* access.c */
	struct hub_tunnel *tunnel;		     /* tunnel.c */
	struct hub_restores *restores;		     /* restores.c */
	char files_worker[CATALOG_PATH_SIZE];	     /* "": beside the running program */
	char new_token_path[CATALOG_PATH_SIZE + 32]; /* the first run's; "": this was none */
	struct catalog_hub self; /* lease.c; constant for others but for its token and id */
	int64_t previous_token;	 /* of the last run on this data folder; CATALOG_NONE: unknown */
	struct catalog_backup *taken; /* recover.c: taken over and not ended yet */
	size_t taken_count;
	struct hub_looks *looks; /* at repositories */
	struct nbd_server *nbd;
	struct hub_agent *agent;
	struct secrets *secrets;
	struct log_scope log;
	int64_t started_ns; /* CLOCK_MONOTONIC */
	atomic_bool stopping;
	atomic_uint followers;
	struct hub_totals totals; /* lock */

	char nbd_addresses[HUB_NBD_ADDRESSES_MAX];
	struct hub_listener listeners[HUB_LISTENERS_MAX];
	size_t listener_count;
	struct hub_address advertised; /* lock */

	pthread_mutex_t lock;
	struct list jobs; /* struct hub_job */

	pthread_mutex_t tick_lock; /* the housekeeping threads sleep on it */
	pthread_cond_t tick_cond;
	bool tick_stop;
	bool watchdog_runs, poller_runs, lease_runs, takeover_runs, scheduler_runs, deleter_runs;
	pthread_t watchdog, poller, lease, takeover, scheduler, deleter;
	pthread_mutex_t deleting;	    /* one entry of the journal of deletions at a time */
	pthread_t copiers[HUB_COPIERS_MAX]; /* copies.c */
	unsigned copier_count;
};

/* Bytes per second, smoothed over a few seconds; fed by the watch-dog. */
struct hub_rate {
	int64_t at_ns, bytes; /* last sample */
	double bps;
};

enum hub_disk_state {
	HUB_DISK_OPEN,
	HUB_DISK_COMPLETED,
	HUB_DISK_UNSURE, /* final, but the catalog did not say whether it has it; job is FAILING */
	HUB_DISK_FAILED,
};

struct hub_disk {
	struct catalog_backup_disk row; /* as inserted; the parent's change id among the rest */
	struct repo_point point;
	char label[CATALOG_NAME_SIZE];
	enum hub_disk_state state;
	char completed_with[CATALOG_CHANGE_ID_SIZE];
	uint64_t export_size; /* bytes: the image's virtual size */

	struct qcow2_image *img;     /* NULL before and after */
	struct nbd_export *export;   /* the same */
	struct nbd_export_stats net; /* as last seen; stays when the export is gone */
	struct qcow2_stats data;     /* the same for the image */
	struct hub_rate rate;
	bool told_running;  /* the catalog knows the disk runs; watch-dog only */
	int64_t told_bytes; /* counters the catalog has; watch-dog only */
};

enum hub_job_state {
	HUB_JOB_STARTING, /* reserved; being made */
	HUB_JOB_RUNNING,  /* the agent accepted */
	HUB_JOB_FAILING,  /* over, but the catalog could not be told yet */
	HUB_JOB_ENDED,
};

struct hub_job {
	struct list node;
	unsigned refs; /* hub->lock */
	struct log_scope log;
	pthread_mutex_t work, face;

	/* constant once the job is on the list */
	char vm_name[CATALOG_NAME_SIZE];
	char vm_path_name[CATALOG_NAME_SIZE]; /* last part of the inventory path: the agent's name
					       */

	enum hub_job_state state; /* face, work */
	struct catalog_backup row;
	struct catalog_vm_context vm;
	struct catalog_backup_context context;
	struct repo *repo;
	char stamp[HUB_STAMP_SIZE]; /* of its files and exports */
	int zstd_level;		    /* of its images; 0: not compressed */
	struct hub_disk *disks; /* hardware order; the array is constant once state is RUNNING */
	size_t disk_count;
	char fail_reason[CATALOG_ERROR_SIZE]; /* FAILING: what the catalog has yet to hear */
	enum catalog_job_status fail_status;

	enum catalog_job_status outcome; /* PENDING: not known, counts nowhere; face */
	atomic_bool
		cancel_asked; /* before `work` can be had: a start that waits for its agent ends */
	bool cancel_keep;     /* what was half written goes to the quarantine; work */
	char cancel_reason[CATALOG_REASON_SIZE]; /* face */

	/* watched by the watch-dog; face */
	int64_t reserved_ns;  /* its beginning */
	int64_t accepted_ns;  /* the agent said yes */
	int64_t touched_ns;   /* last step of ours that took its time */
	int64_t telemetry_ns; /* last telemetry; 0: never */
	bool telemetry_fresh; /* the catalog has not heard of it */
	bool ever_connected;
	struct hub_telemetry telemetry;
	char agent_error[CATALOG_REASON_SIZE]; /* what the agent says went wrong */
	bool told_stalled;		       /* watch-dog only */
	struct hub_rate rate;
	int64_t told_ns; /* when the catalog heard of counters */
};

int64_t hub_now_ns(void); /* CLOCK_MONOTONIC */
struct hub_config hub_config_now(struct hub *hub);

/* --- job.c ---------------------------------------------------------------------------------- */

/* Makes a job for the VM and puts it on the list, STARTING, with an id, `work` held. HUB_E_BUSY:
 * one is there, its id in @busy_id; HUB_E_STOPPING. */
int hub_job_reserve(struct hub *hub, const struct catalog_vm_context *vm, struct hub_job **out,
		    char busy_id[CATALOG_ID_SIZE], struct err *err);
/* By id, referenced; NULL: not running. */
struct hub_job *hub_job_find(struct hub *hub, const char *job_id);
/* The running job of a VM by the name an agent uses, referenced. */
struct hub_job *hub_job_find_vm(struct hub *hub, const char *vm_name);
/* All of them, referenced, in a malloc()ed array. NULL: none. */
struct hub_job **hub_jobs_snapshot(struct hub *hub, size_t *n);
void hub_job_unref(struct hub *hub, struct hub_job *job); /* accepts NULL */
/* Takes the job off the list: the VM is free. `work` held. */
void hub_job_end(struct hub *hub, struct hub_job *job);
/* How it ended, for the totals: before hub_job_end(). */
void hub_job_set_outcome(struct hub_job *job, enum catalog_job_status status);
void hub_job_set_state(struct hub_job *job, enum hub_job_state state);

/* Tells of something worth knowing, in the hub's log and in the job's. @disk_index may be
 * CATALOG_NONE. A catalog that does not take it is no failure. */
void hub_job_note(struct hub *hub, struct hub_job *job, enum catalog_log_level level,
		  int disk_index, const char *phase, const char *fmt, ...)
	__attribute__((format(printf, 6, 7)));

/* Reads the counters of whatever of @disk is open into disk->net and disk->data. `face` held. */
void hub_disk_refresh(struct hub_disk *disk);
/* The disk's counters in the catalog's terms. `face` held. */
void hub_disk_counters(const struct hub_disk *disk, struct catalog_counters *out);
/* Takes the export away from readers and from clients: flushed, or abandoned. `work` held. 0, or
 * why what was acknowledged is not on disk. */
int hub_disk_unexport(struct hub_job *job, struct hub_disk *disk, bool abandon);
/* Takes the image away from readers; the caller closes it. `work` held. */
struct qcow2_image *hub_disk_take_image(struct hub_job *job, struct hub_disk *disk);

/* --- metrics.c ------------------------------------------------------------------------------ */

/* The job leaves the list: its numbers stay. hub->lock held. */
void hub_totals_add_job(struct hub *hub, struct hub_job *job);

/* --- names.c -------------------------------------------------------------------------------- */

/* "YYYYMMDD-HHMMSS" of @us, UTC. */
void hub_stamp(int64_t us, char out[HUB_STAMP_SIZE]);
/* Export name (mission K15) and the seed's form as alias. */
#define HUB_ALIAS_SIZE 192
void hub_export_names(const struct hub_job *job, const struct catalog_backup_disk *disk,
		      char name[CATALOG_EXPORT_SIZE], char alias[HUB_ALIAS_SIZE]);
/* Last part of an inventory path. */
const char *hub_path_name(const char *vm_path);
/* "2000:nbd://127.0.0.1:10100/NAME,2001:..." in a malloc()ed string; NULL: no memory. */
char *hub_nbd_targets(struct hub *hub, const struct hub_job *job);
/* Chooses what to advertise of the listeners: of those that require no TLS, if any, the first TCP
 * port in 10100-10200, else the first TCP one, else the first. `lock` held, or nobody else there.
 */
void hub_choose_advertised(struct hub *hub);
/* What agents are told now. */
struct hub_address hub_advertised(struct hub *hub);

/* --- backup_plan.c -------------------------------------------------------------------------- */

/* Decides for each of the VM's disks how it is copied, and where to; fills job->disks, anew if it
 * was before. */
int hub_plan(struct hub *hub, struct hub_job *job, const struct catalog_vm_disk *vm_disks, size_t n,
	     enum catalog_backup_type type, struct err *err);

/* --- backup_fail.c -------------------------------------------------------------------------- */

/*
 * Ends a job badly: exports abandoned, images closed, what was written quarantined, catalog told,
 * VM freed. @reason is a sentence; what the agent or a full disk had to say is added. `work` held.
 * Harmless when the job has ended.
 */
void hub_job_fail(struct hub *hub, struct hub_job *job, enum catalog_job_status status,
		  const char *reason);
/* As above with an error of ours: @code tells a full disk. */
void hub_job_fail_with(struct hub *hub, struct hub_job *job, const struct err *err);
/* Ends a job whose cancelling was asked for: `cancelled`, with the reason given. `work` held. */
void hub_job_cancel(struct hub *hub, struct hub_job *job);
/* Tells the catalog of a job that is FAILING, once more. `work` held. */
void hub_job_fail_retry(struct hub *hub, struct hub_job *job);

/* --- sidecar.c ------------------------------------------------------------------------------ */

/* The sidecar of a point as text; the caller free()s it. NULL: no memory. */
char *hub_sidecar_text(struct hub *hub, struct hub_job *job, const struct hub_disk *disk,
		       const char *change_id, const struct catalog_counters *bytes,
		       int64_t completed_at_us);

struct hub_backup_view;
/* Of disk @i of @view, copied from @from to @to. As above. */
char *hub_sidecar_of_copy(struct hub *hub, const struct catalog_copy *copy,
			  const struct catalog_copy_disk *disk, const struct hub_backup_view *view,
			  size_t i, const struct repo *from, const struct repo *to);

/* --- backup_copy.c, copies.c ---------------------------------------------------------------- */

/* Does what there is to do with a copy that was claimed, to its end. Takes its time. */
void hub_copy_run(struct hub *hub, const struct catalog_copy *copy);
/* One that was begun by a hub that is gone: its files go, and it begins anew. */
void hub_copy_clear(struct hub *hub, const struct catalog_copy *copy);
/* One that is to be removed, and held. On failure the row stays and says when it is tried again. */
int hub_copy_delete(struct hub *hub, const struct catalog_copy *copy, struct err *err);
/* -ENOSPC: there is no room in @to for the backup, with the numbers. */
int hub_copy_check_room(struct hub *hub, const char *backup_id, struct repo *to, struct err *err);
void hub_copies_take_over(struct hub *hub);
int hub_copies_start(struct hub *hub, struct err *err);
void hub_copies_stop(struct hub *hub); /* waits for them; they end with the hub's ticks */

/* --- restores.c ----------------------------------------------------------------------------- */

/* Forgets mounts of hubs that are gone, and looks after those of this one. */
int hub_restores_start(struct hub *hub, struct err *err);
void hub_restores_stop(struct hub *hub); /* its thread, which ends with the hub's ticks */
void hub_restores_free(struct hub *hub); /* unmounts all; nobody holds one */
struct hub_restore;
/* One more archive is being made; false: there are HUB_ARCHIVES_MAX. */
bool hub_restore_archive_enter(struct hub_restore *restore);
void hub_restore_archive_leave(struct hub_restore *restore);

/* --- recover.c ------------------------------------------------------------------------------ */

/* Ends what a crash of this or another hub left running and quarantines what it left behind. Before
 * anything starts. */
int hub_recover(struct hub *hub, struct err *err);
/* Takes over the jobs of hubs that are gone, and ends them. */
int hub_take_over(struct hub *hub, struct err *err);

/* --- lease.c -------------------------------------------------------------------------------- */

/* Makes the catalog's handle that of this hub. */
int hub_lease_join(struct hub *hub, struct err *err);
/* Renews the lease from here on. Before anything that takes its time. */
int hub_lease_start(struct hub *hub, struct err *err);
/* After hub_recover(). */
int hub_takeover_start(struct hub *hub, struct err *err);
/* Last of all: what still runs in its name is for others to end. */
void hub_lease_leave(struct hub *hub);

/* --- backup_delete.c ------------------------------------------------------------------------ */

/* Finishes deletions: of this run, the last one, and hubs that are gone. After hub_recover(). */
int hub_deleter_start(struct hub *hub, struct err *err);

/* --- watchdog.c, agent_poll.c --------------------------------------------------------------- */

int hub_watchdog_start(struct hub *hub, struct err *err);
int hub_poller_start(struct hub *hub, struct err *err);
int hub_scheduler_start(struct hub *hub, struct err *err); /* schedules.c */
void hub_threads_stop(struct hub *hub);
/* Sleeps @ms, or until the threads are told to stop: false. */
bool hub_tick(struct hub *hub, unsigned ms);

#endif
