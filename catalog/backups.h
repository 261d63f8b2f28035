/*
 * Backups: vm_backup_contexts (a VM in a repository), backup_jobs (one run), backup_disks (one disk
 * of one run: a point, once everything is committed).
 *
 * Life of a job
 *
 *   catalog_backup_start        job `pending`, its disks `pending`; the VM is taken
 *   catalog_backup_set_running  the agent accepted it
 *   catalog_backup_disk_*       a disk runs, tells its progress, completes or fails
 *   (last disk ended)           job `completed` if all disks are, else `failed`
 *   catalog_backup_fail         any time before: job `failed` or `cancelled`, open disks `failed`
 *
 * Invariants, kept by transactions and by the schema, not by callers' discipline:
 *  - The job row is inserted before its disk rows, all in one transaction (M21).
 *  - A VM has at most one job that is pending or running: by VM name over all vCenters (agent
 *    contract 1.4 rule a), and by VM context, should a VM be renamed meanwhile. Unique columns that
 *    are NULL once the job has ended guarantee it, whichever process asks.
 *  - A job's state follows its disks in the same transaction (K30). It ends once, and its context's
 *    counters move once with it (M28, K29): total at the start, successful or failed at the end.
 *    last_backup_* name the last completed job.
 *  - A point is offered, enters a chain, and may be a parent only when its whole job is completed.
 *    A completed disk of a failed job keeps its row, change id and path, but is nobody's parent:
 *    the next incremental leans on the last completed job, whose change id is older, so it copies
 *    a superset. All disks of a VM therefore always go on from the same job.
 *  - Nothing is found by time (M22): a disk may complete hours or days after its job began.
 *  - A running job is written by the hub that holds it and by nobody else (hubs.h): every function
 *    below that changes one gives CATALOG_E_FENCED when the handle's hub is another.
 */
#ifndef CATALOG_BACKUPS_H
#define CATALOG_BACKUPS_H

#include "catalog/catalog.h"

enum catalog_backup_type {
	CATALOG_BACKUP_FULL,
	CATALOG_BACKUP_INCREMENTAL,
	CATALOG_BACKUP_DIFFERENTIAL, /* the schema takes it; nothing makes it yet (K14) */
};

enum catalog_job_status {
	CATALOG_JOB_PENDING,
	CATALOG_JOB_RUNNING,
	CATALOG_JOB_COMPLETED,
	CATALOG_JOB_FAILED,
	CATALOG_JOB_CANCELLED,
	CATALOG_JOB_STATUSES,
};

enum catalog_disk_status {
	CATALOG_DISK_PENDING,
	CATALOG_DISK_RUNNING,
	CATALOG_DISK_COMPLETED,
	CATALOG_DISK_FAILED,
};

/* The lower-case words of the API; parsing is exact and false for anything else. */
const char *catalog_backup_type_name(enum catalog_backup_type type);
const char *catalog_job_status_name(enum catalog_job_status status);
const char *catalog_disk_status_name(enum catalog_disk_status status);
bool catalog_backup_type_parse(const char *name, enum catalog_backup_type *out);
bool catalog_job_status_parse(const char *name, enum catalog_job_status *out);

/* --- vm_backup_contexts ----------------------------------------------------------------------- */

/* One VM in one repository: UNIQUE(vcenter_host, vmware_vm_id, repository_id) (K21). */
struct catalog_backup_context {
	char context_id[CATALOG_ID_SIZE];    /* "bctx-..." */
	char vm_context_id[CATALOG_ID_SIZE]; /* empty once the VM left the inventory */
	char vm_name[CATALOG_NAME_SIZE];
	char vmware_vm_id[CATALOG_NAME_SIZE];
	char vm_path[CATALOG_VM_PATH_SIZE];
	char vcenter_host[CATALOG_NAME_SIZE];
	char datacenter[CATALOG_NAME_SIZE];
	char repository_id[CATALOG_ID_SIZE];
	int64_t total_backups_run; /* started */
	int64_t successful_backups;
	int64_t failed_backups;			   /* failed or cancelled */
	char last_backup_id[CATALOG_ID_SIZE];	   /* last completed job; empty: none */
	enum catalog_backup_type last_backup_type; /* meaningful with last_backup_id */
	int64_t last_backup_at_us;
	int64_t created_at_us;
	int64_t updated_at_us;
};

/* Gets or makes the context of a VM in a repository, and takes over the VM's present name, path and
 * datacenter (M17). CATALOG_E_NOT_FOUND: no such VM context or repository. */
int catalog_backup_context_ensure(struct catalog *cat, const char *vm_context_id,
				  const char *repository_id, struct catalog_backup_context *out,
				  struct err *err);

/* CATALOG_E_NOT_FOUND. */
int catalog_backup_context_get(struct catalog *cat, const char *context_id,
			       struct catalog_backup_context *out, struct err *err);

/* Ordered by name. NULL or "" for any. */
int catalog_backup_contexts_list(struct catalog *cat, const char *vm_name,
				 const char *repository_id, struct catalog_backup_context **rows,
				 size_t *n, struct err *err);

/* --- backup_jobs ------------------------------------------------------------------------------ */

struct catalog_backup {
	char id[CATALOG_ID_SIZE];	     /* "backup-...", opaque (K20) */
	char vm_context_id[CATALOG_ID_SIZE]; /* empty once the VM left the inventory */
	char vm_backup_context_id[CATALOG_ID_SIZE];
	char vm_name[CATALOG_NAME_SIZE];
	char repository_id[CATALOG_ID_SIZE];
	char repository_type[CATALOG_ID_SIZE]; /* as they were at the start */
	char repository_path[CATALOG_PATH_SIZE];
	enum catalog_backup_type backup_type; /* as asked for; each disk has its own mode */
	enum catalog_job_status status;
	char parent_backup_id[CATALOG_ID_SIZE]; /* newest job its disks lean on; empty: none */
	char policy_id[CATALOG_ID_SIZE];
	char tags[CATALOG_TAGS_SIZE]; /* JSON, or empty */
	int64_t disk_count;
	int64_t total_bytes;	   /* sum of the disks' virtual sizes (M34) */
	int64_t bytes_transferred; /* sum over the disks, also while running */
	bool compression_enabled;
	char current_phase[CATALOG_ID_SIZE]; /* the agent's last word, for display */
	char error_message[CATALOG_ERROR_SIZE];
	int64_t last_telemetry_at_us;
	int64_t last_progress_at_us; /* a disk started, moved bytes, or ended */
	int64_t created_at_us;
	int64_t started_at_us;
	int64_t completed_at_us; /* the end, however it ended */
	int64_t hub_token; /* of the hub that runs it or ran it last; CATALOG_NONE: of none (hubs.h)
			    */
};

/* What a disk moved and kept. Counted by the NBD server; the agent's own figure is always 0. */
struct catalog_counters {
	int64_t bytes_transferred; /* data bytes received */
	int64_t bytes_zero;	   /* announced as zeroes, without data */
	int64_t bytes_unchanged;   /* received, equal to the parent's, not stored again */
	int64_t bytes_stored;	   /* size the image takes in the repository */
};

struct catalog_backup_disk {
	int64_t id;
	char vm_backup_context_id[CATALOG_ID_SIZE];
	char backup_job_id[CATALOG_ID_SIZE];
	int disk_index;			  /* stable index, catalog/disks.h; unique in the job */
	int hardware_order;		  /* the agent's order */
	char disk_id[CATALOG_NAME_SIZE];  /* the agent's id; identifies the disk over time */
	int64_t vmware_disk_key;	  /* or CATALOG_NONE */
	int unit_number;		  /* or CATALOG_NONE */
	int64_t virtual_size_bytes;	  /* exact capacity = qcow2 virtual size */
	int64_t size_gb;		  /* display only */
	enum catalog_backup_type mode;	  /* full or incremental: what is really made */
	char reason[CATALOG_REASON_SIZE]; /* why a full in an incremental job; else empty */
	int64_t parent_disk_id;		  /* row id of the parent point, or CATALOG_NONE */
	char chain_id[CATALOG_ID_SIZE];	  /* set when the job completed */
	char export_name[CATALOG_EXPORT_SIZE];
	char qcow2_path[CATALOG_PATH_SIZE];	/* final path, under the repository or absolute */
	char part_path[CATALOG_PATH_SIZE];	/* where it is written before it is final */
	char change_id[CATALOG_CHANGE_ID_SIZE]; /* byte for byte; empty until completed */
	struct catalog_counters bytes;
	enum catalog_disk_status status;
	char error_message[CATALOG_ERROR_SIZE];
	int64_t created_at_us;
	int64_t started_at_us;
	int64_t completed_at_us;
	/* Derived from the parent point; empty without one. */
	char parent_backup_id[CATALOG_ID_SIZE];
	char parent_change_id[CATALOG_CHANGE_ID_SIZE];
	char parent_qcow2_path[CATALOG_PATH_SIZE];
};

/*
 * Starts a job: inserts the job, then its disks, counts it in the context, takes the VM.
 *
 * Read from @job: vm_backup_context_id, backup_type, repository_type, repository_path, policy_id,
 * tags, compression_enabled, current_phase; id when given (it must begin with CATALOG_JOB_PREFIX,
 * have only [a-z0-9-] and no "-disk<digits>-" inside), else one is made. VM name, VM context and
 * repository come from the backup context.
 *
 * Read from each disk (@n >= 1): disk_index, hardware_order, disk_id, vmware_disk_key, unit_number,
 * virtual_size_bytes, size_gb, mode, reason, parent_disk_id (CATALOG_NONE for a full), export_name,
 * qcow2_path, part_path. Written back: the whole rows.
 *
 * A parent must be the latest offered point (catalog_point_latest()) of the same disk_id in the
 * same backup context, so that a chain never forks.
 * CATALOG_E_CONFLICT: it is not, or no longer: plan again; CATALOG_E_BUSY: the VM has a running
 * job, whose id is in @busy_id (may be NULL); CATALOG_E_NOT_FOUND: no such context;
 * CATALOG_E_EXISTS: the job id is taken; CATALOG_E_INVALID: the plan makes no sense, with the
 * reason; the VM left the inventory.
 */
int catalog_backup_start(struct catalog *cat, struct catalog_backup *job,
			 struct catalog_backup_disk *disks, size_t n, char busy_id[CATALOG_ID_SIZE],
			 struct err *err);

/* pending -> running; sets started_at. CATALOG_E_ALREADY if it runs, CATALOG_E_STATE if it ended,
 * CATALOG_E_NOT_FOUND. */
int catalog_backup_set_running(struct catalog *cat, const char *job_id, struct err *err);

/* Ends a job that is pending or running: @status is CATALOG_JOB_FAILED or CATALOG_JOB_CANCELLED.
 * Disks not completed become failed with the same @reason (cut to fit); completed ones stay as they
 * are. CATALOG_E_ALREADY: failed or cancelled before, the first reason stays; CATALOG_E_STATE:
 * completed; CATALOG_E_NOT_FOUND. */
int catalog_backup_fail(struct catalog *cat, const char *job_id, enum catalog_job_status status,
			const char *reason, struct err *err);

/* Telemetry arrived: sets last_telemetry_at and, when @phase is not empty, current_phase (cut to
 * fit). Liveness only; it never ends anything. CATALOG_E_STATE if the job ended,
 * CATALOG_E_NOT_FOUND. */
int catalog_backup_note_telemetry(struct catalog *cat, const char *job_id, const char *phase,
				  struct err *err);

/* CATALOG_E_NOT_FOUND. */
int catalog_backup_get(struct catalog *cat, const char *job_id, struct catalog_backup *out,
		       struct err *err);

/* The pending or running job of a VM name, of which there is at most one. The name is compared as
 * it stands: a caller that has it from an inventory path undoes the path's own escapes first.
 * CATALOG_E_NOT_FOUND. */
int catalog_backup_find_running(struct catalog *cat, const char *vm_name,
				struct catalog_backup *out, struct err *err);

/* Every pending or running job, oldest first: for the watch-dog, and for recovery after a restart.
 */
int catalog_backups_running(struct catalog *cat, struct catalog_backup **rows, size_t *n,
			    struct err *err);

struct catalog_backup_filter {
	const char *vm_name; /* NULL or "": any, as for the other texts */
	const char *vm_context_id;
	const char *vm_backup_context_id;
	const char *repository_id;
	const enum catalog_job_status *status;	     /* NULL: any */
	const enum catalog_backup_type *backup_type; /* NULL: any */
	const char *sort;			     /* NULL or "": created_at; vm_name, status,
						      * backup_type, started_at, completed_at,
						      * total_bytes, bytes_transferred */
	bool ascending;
	int64_t limit; /* 0: no limit */
	int64_t offset;
};

/* Newest first unless sorted otherwise. @filter and @total may be NULL; *@total counts all matches, whatever the limit. */
int catalog_backups_list(struct catalog *cat, const struct catalog_backup_filter *filter,
			 struct catalog_backup **rows, size_t *n, int64_t *total, struct err *err);

struct catalog_backup_stats {
	int64_t jobs[CATALOG_JOB_STATUSES]; /* by status */
	int64_t fulls, incrementals;	    /* whatever their status, as asked for */
	int64_t bytes_transferred;	    /* of all jobs */
	int64_t bytes_stored;		    /* of completed jobs: what their images took */
	int64_t last_backup_at_us;	    /* a job completed; 0: none did */
	int64_t completed_us;		    /* sum over completed jobs, from start to end */
};

/* Sums over the jobs @filter (may be NULL) matches; limit and offset are ignored. */
int catalog_backup_get_stats(struct catalog *cat, const struct catalog_backup_filter *filter,
			     struct catalog_backup_stats *out, struct err *err);

/* Jobs by status and no more: what a scrape may ask for at any size of the catalog. */
int catalog_backup_count(struct catalog *cat, int64_t jobs[CATALOG_JOB_STATUSES], struct err *err);

/* --- backup_disks ----------------------------------------------------------------------------- */

/* Disks of a job in hardware order. CATALOG_E_NOT_FOUND: no such job. */
int catalog_backup_disks_list(struct catalog *cat, const char *job_id,
			      struct catalog_backup_disk **rows, size_t *n, struct err *err);

/* CATALOG_E_NOT_FOUND, naming job id and disk index (M26). */
int catalog_backup_disk_get(struct catalog *cat, const char *job_id, int disk_index,
			    struct catalog_backup_disk *out, struct err *err);

/* The first disk of the job, in hardware order, that is neither completed nor failed: the one the
 * agent is at when it asks about "disk 0" (agent contract 1.4 rule c). CATALOG_E_NOT_FOUND: none is
 * open. */
int catalog_backup_disk_next_open(struct catalog *cat, const char *job_id,
				  struct catalog_backup_disk *out, struct err *err);

/* pending -> running. CATALOG_E_ALREADY, CATALOG_E_STATE (disk or job ended), CATALOG_E_NOT_FOUND.
 */
int catalog_backup_disk_set_running(struct catalog *cat, const char *job_id, int disk_index,
				    struct err *err);

/* Stores the counters so far of an open disk, the job's sum, and the job's last_progress_at.
 * CATALOG_E_STATE (disk or job ended), CATALOG_E_NOT_FOUND. */
int catalog_backup_disk_progress(struct catalog *cat, const char *job_id, int disk_index,
				 const struct catalog_counters *bytes, struct err *err);

/* What is known of a disk at its commit point. */
struct catalog_completion {
	const char *change_id;	/* 1 to 255 bytes, kept byte for byte */
	const char *qcow2_path; /* final path; NULL or "" keeps the one given at the start */
	const char *reason;	/* NULL or "" keeps the one given at the start */
	struct catalog_counters bytes;
};

struct catalog_completed {
	bool already; /* completed before with this change id: nothing changed */
	enum catalog_job_status job_status; /* after this call: running, completed, or failed when
					     * this was the last open disk and another had failed */
};

/*
 * Commits a disk: change id, path, counters, times; and when no disk of the job is open any more,
 * ends the job with it, in the same transaction: job state, chains, context counters,
 * last_backup_*. The image must be final and durable before. Repeating it with the same change id
 * succeeds with `already`. @out may be NULL. CATALOG_E_NOT_FOUND: unknown (job, disk), naming both;
 * CATALOG_E_STATE: the disk failed, or the job failed or was cancelled; CATALOG_E_CONFLICT:
 * completed before with another change id; CATALOG_E_INVALID: change id empty or too long.
 */
int catalog_backup_disk_complete(struct catalog *cat, const char *job_id, int disk_index,
				 const struct catalog_completion *point,
				 struct catalog_completed *out, struct err *err);

/*
 * Fails one open disk; the job goes on while other disks are open and ends `failed` with the last
 * of them, whatever they do. *@job_status (may be NULL) is the job's state after.
 * CATALOG_E_ALREADY: failed before; CATALOG_E_STATE: completed, or the job ended;
 * CATALOG_E_NOT_FOUND.
 */
int catalog_backup_disk_fail(struct catalog *cat, const char *job_id, int disk_index,
			     const char *reason, enum catalog_job_status *job_status,
			     struct err *err);

/* The latest offered point (completed disk of a completed job) of a disk in a backup context: the
 * one to lean the next incremental on. By the agent's disk id. CATALOG_E_NOT_FOUND: none. */
int catalog_point_latest(struct catalog *cat, const char *vm_backup_context_id, const char *disk_id,
			 struct catalog_backup_disk *out, struct err *err);

/* The latest offered point of a VM name's disk over all repositories: the answer to a change id
 * question while no job runs (agent contract 1.4 rule e). CATALOG_E_NOT_FOUND: none. */
int catalog_point_latest_of_vm(struct catalog *cat, const char *vm_name, int disk_index,
			       struct catalog_backup_disk *out, struct err *err);

#endif
