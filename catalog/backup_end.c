/*
 * How disks and jobs move on and end.
 *
 * All roads to the end of a job lead through end_job(), which moves a job out of pending/running
 * with one UPDATE that matches only such a job: whoever comes second changes no row, so the
 * context's counters cannot move twice. settle() is the only place that decides that a job has
 * ended by itself, and it does so from the disks' rows, in the transaction that changed one of
 * them.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "catalog/backup_rows.h"
#include "catalog/session.h"

/* --- looking at what is there ----------------------------------------------------------------- */

static int find_job(struct db *db, const char *job_id, struct catalog_backup *job, struct err *err)
{
	int r = row_get(db, &catalog_backup_map, "WHERE j.id = ?", DB_ARGS(DB_TEXT(job_id)), job,
			err);

	if (r == DB_DONE)
		return err_set(err, CATALOG_E_NOT_FOUND, "there is no backup job %s", job_id);
	return r == DB_ROW ? 0 : r;
}

static int find_disk(struct db *db, const char *job_id, int disk_index,
		     struct catalog_backup_disk *disk, struct err *err)
{
	int r = row_get(db, &catalog_backup_disk_map,
			"WHERE d.backup_job_id = ? AND d.disk_index = ?",
			DB_ARGS(DB_TEXT(job_id), DB_I64(disk_index)), disk, err);

	if (r == DB_DONE)
		return err_set(err, CATALOG_E_NOT_FOUND, "backup job %s has no disk %d", job_id,
			       disk_index);
	return r == DB_ROW ? 0 : r;
}

static bool job_active(const struct catalog_backup *job)
{
	return job->status == CATALOG_JOB_PENDING || job->status == CATALOG_JOB_RUNNING;
}

static bool disk_open(const struct catalog_backup_disk *d)
{
	return d->status == CATALOG_DISK_PENDING || d->status == CATALOG_DISK_RUNNING;
}

static int job_ended(const struct catalog_backup *job, struct err *err)
{
	return err_set(err, CATALOG_E_STATE, "backup job %s is %s%s%s", job->id,
		       catalog_job_status_name(job->status), *job->error_message ? ": " : "",
		       job->error_message);
}

/* The job runs, and it is this handle's hub that runs it. Asked in the transaction that writes: a
 * hub that was stopped for a while and lost its job cannot know otherwise. */
static int check_held(struct catalog *tx, const struct catalog_backup *job, struct err *err)
{
	const int64_t holder = job->hub_token == CATALOG_NONE ? 0 : job->hub_token;

	if (!job_active(job))
		return job_ended(job, err);
	if (holder == catalog_hub_token(tx))
		return 0;
	return catalog_hub_fenced(tx, job->id, holder, err);
}

/* A disk may change only while it and its job are open, and by the job's hub. */
static int find_open_disk(struct catalog *tx, const char *job_id, int disk_index,
			  struct catalog_backup *job, struct catalog_backup_disk *disk,
			  struct err *err)
{
	struct db *db = catalog_db(tx);
	int r = find_disk(db, job_id, disk_index, disk, err);

	if (!r)
		r = find_job(db, job_id, job, err);
	if (!r)
		r = check_held(tx, job, err);
	if (r)
		return r;
	if (!disk_open(disk))
		return err_set(err, CATALOG_E_STATE, "disk %d of backup job %s is %s", disk_index,
			       job_id, catalog_disk_status_name(disk->status));
	return 0;
}

/* --- the end of a job ------------------------------------------------------------------------- */

static int count_end(struct db *db, const struct catalog_backup *job,
		     enum catalog_job_status status, int64_t now, struct err *err)
{
	if (status == CATALOG_JOB_COMPLETED)
		return db_run(db,
			      "UPDATE vm_backup_contexts SET"
			      " successful_backups = successful_backups + 1, last_backup_id = ?,"
			      " last_backup_type = ?, last_backup_at = ?, updated_at = ?"
			      " WHERE context_id = ?",
			      DB_ARGS(DB_TEXT(job->id),
				      DB_TEXT(catalog_backup_type_name(job->backup_type)),
				      DB_I64(now), DB_I64(now), DB_TEXT(job->vm_backup_context_id)),
			      NULL, err);
	return db_run(db,
		      "UPDATE vm_backup_contexts SET failed_backups = failed_backups + 1,"
		      " updated_at = ? WHERE context_id = ?",
		      DB_ARGS(DB_I64(now), DB_TEXT(job->vm_backup_context_id)), NULL, err);
}

static int extend_chains(struct db *db, const char *job_id, int64_t now, struct err *err)
{
	_cleanup_(freep) struct catalog_backup_disk *disks = NULL;
	size_t n;
	int r = row_list(db, &catalog_backup_disk_map, "WHERE d.backup_job_id = ? ORDER BY d.id",
			 DB_ARGS(DB_TEXT(job_id)), (void **)&disks, &n, err);

	return r ? r : catalog_chains_extend(db, disks, n, now, err);
}

static int tell_end(struct db *db, const char *job_id, enum catalog_job_status status,
		    const char *reason, int64_t now, struct err *err)
{
	static const enum catalog_log_level levels[] = {
		[CATALOG_JOB_COMPLETED] = CATALOG_LOG_INFO,
		[CATALOG_JOB_FAILED] = CATALOG_LOG_ERROR,
		[CATALOG_JOB_CANCELLED] = CATALOG_LOG_WARNING,
	};
	const struct catalog_job_at at = {job_id, CATALOG_NONE, levels[status], "end"};
	bool why = reason && *reason;

	return catalog_job_log_put(db, &at, now, err, "backup %s%s%s",
				   catalog_job_status_name(status), why ? ": " : "",
				   why ? reason : "");
}

static int end_job(struct db *db, const struct catalog_backup *job, enum catalog_job_status status,
		   const char *reason, int64_t now, struct err *err)
{
	int64_t changed = 0;
	int r = db_run(db,
		       "UPDATE backup_jobs SET status = ?, error_message = ?, completed_at = ?,"
		       " running_vm_name = NULL, running_vm_context_id = NULL,"
		       " bytes_transferred = (SELECT COALESCE(SUM(d.bytes_transferred), 0)"
		       "  FROM backup_disks d WHERE d.backup_job_id = backup_jobs.id)"
		       " WHERE id = ? AND " JOB_ACTIVE,
		       DB_ARGS(DB_TEXT(catalog_job_status_name(status)), DB_OPT(reason),
			       DB_I64(now), DB_TEXT(job->id)),
		       &changed, err);

	if (!r && !changed)
		r = job_ended(job, err);
	if (!r && status == CATALOG_JOB_COMPLETED)
		r = extend_chains(db, job->id, now, err);
	if (!r)
		r = count_end(db, job, status, now, err);
	return r ? r : tell_end(db, job->id, status, reason, now, err);
}

/* Why a job failed whose disks have all ended: the first of them that did. */
static int first_failure(struct db *db, const char *job_id, char reason[CATALOG_ERROR_SIZE],
			 struct err *err)
{
	struct catalog_backup_disk d;
	char text[CATALOG_ERROR_SIZE + 32];
	int r = row_get(db, &catalog_backup_disk_map,
			"WHERE d.backup_job_id = ? AND d.status = 'failed'"
			" ORDER BY d.id LIMIT 1",
			DB_ARGS(DB_TEXT(job_id)), &d, err);

	if (r != DB_ROW)
		return r;
	snprintf(text, sizeof(text), "disk %d: %s", d.disk_index, d.error_message);
	catalog_text_cut(reason, CATALOG_ERROR_SIZE, text);
	return 0;
}

static int go_on(struct db *db, const char *job_id, int64_t now, struct err *err)
{
	return db_run(db,
		      "UPDATE backup_jobs SET status = 'running',"
		      " started_at = COALESCE(started_at, ?), last_progress_at = ?,"
		      " bytes_transferred = (SELECT COALESCE(SUM(d.bytes_transferred), 0)"
		      "  FROM backup_disks d WHERE d.backup_job_id = backup_jobs.id)"
		      " WHERE id = ? AND " JOB_ACTIVE,
		      DB_ARGS(DB_I64(now), DB_I64(now), DB_TEXT(job_id)), NULL, err);
}

static int count_disks(struct db *db, const char *job_id, const char *sql, int64_t *n,
		       struct err *err)
{
	return db_query_i64(db, sql, DB_ARGS(DB_TEXT(job_id)), 0, n, err);
}

/* Derives the job's state from its disks after one of them changed (K30). */
static int settle(struct db *db, const struct catalog_backup *job, int64_t now,
		  enum catalog_job_status *status, struct err *err)
{
	char reason[CATALOG_ERROR_SIZE] = "";
	int64_t open = 0, failed = 0;
	int r = go_on(db, job->id, now, err);

	if (!r)
		r = count_disks(db, job->id,
				"SELECT COUNT(*) FROM backup_disks"
				" WHERE backup_job_id = ? AND " DISK_OPEN,
				&open, err);
	if (!r)
		r = count_disks(db, job->id,
				"SELECT COUNT(*) FROM backup_disks"
				" WHERE backup_job_id = ? AND status = 'failed'",
				&failed, err);
	if (r)
		return r;
	*status = open ? CATALOG_JOB_RUNNING : failed ? CATALOG_JOB_FAILED : CATALOG_JOB_COMPLETED;
	if (open)
		return 0;
	if (failed)
		r = first_failure(db, job->id, reason, err);
	return r ? r : end_job(db, job, *status, reason, now, err);
}

/* --- a disk completes ------------------------------------------------------------------------- */

struct complete {
	const char *job_id;
	int disk_index;
	const struct catalog_completion *point;
	struct catalog_completed *out;
};

static int store_point(struct db *db, const struct complete *c, const struct catalog_backup_disk *d,
		       int64_t now, struct err *err)
{
	const struct catalog_completion *p = c->point;
	const bool new_path = p->qcow2_path && *p->qcow2_path;

	return db_run(db,
		      "UPDATE backup_disks SET status = 'completed', disk_change_id = ?,"
		      " qcow2_path = ?, bytes_transferred = ?, bytes_zero = ?, bytes_unchanged = ?,"
		      " bytes_stored = ?, started_at = COALESCE(started_at, ?), completed_at = ?,"
		      " reason = COALESCE(?, reason) WHERE id = ?",
		      DB_ARGS(DB_TEXT(p->change_id),
			      DB_TEXT(new_path ? p->qcow2_path : d->qcow2_path),
			      DB_I64(p->bytes.bytes_transferred), DB_I64(p->bytes.bytes_zero),
			      DB_I64(p->bytes.bytes_unchanged), DB_I64(p->bytes.bytes_stored),
			      DB_I64(now), DB_I64(now), DB_OPT(p->reason), DB_I64(d->id)),
		      NULL, err);
}

/* The disk is completed already, and its job has not failed. */
static int complete_again(const struct complete *c, const struct catalog_backup *job,
			  const struct catalog_backup_disk *d, struct err *err)
{
	if (strcmp(d->change_id, c->point->change_id))
		return err_set(err, CATALOG_E_CONFLICT,
			       "disk %d of backup job %s was completed before with change id %s",
			       c->disk_index, c->job_id, d->change_id);
	*c->out = (struct catalog_completed){.already = true, .job_status = job->status};
	return 0;
}

static int tell_point(struct db *db, const struct complete *c, int64_t now, struct err *err)
{
	const struct catalog_job_at at = {c->job_id, c->disk_index, CATALOG_LOG_INFO, "commit"};
	const struct catalog_counters *b = &c->point->bytes;

	return catalog_job_log_put(db, &at, now, err,
				   "committed: %" PRId64 " bytes received, %" PRId64
				   " zero, %" PRId64 " unchanged, %" PRId64 " stored",
				   b->bytes_transferred, b->bytes_zero, b->bytes_unchanged,
				   b->bytes_stored);
}

static int complete_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct complete *c = arg;
	struct db *db = catalog_db(tx);
	struct catalog_backup_disk d;
	struct catalog_backup job;
	int64_t now = catalog_now_us();
	int r = find_disk(db, c->job_id, c->disk_index, &d, err);

	if (!r)
		r = find_job(db, c->job_id, &job, err);
	if (r)
		return r;
	if (job_active(&job))
		r = check_held(tx, &job, err);
	if (r)
		return r;
	if (d.status == CATALOG_DISK_COMPLETED &&
	    (job_active(&job) || job.status == CATALOG_JOB_COMPLETED))
		return complete_again(c, &job, &d, err);
	r = find_open_disk(tx, c->job_id, c->disk_index, &job, &d, err);
	if (!r)
		r = store_point(db, c, &d, now, err);
	if (!r)
		r = tell_point(db, c, now, err);
	if (r)
		return r;
	c->out->already = false;
	r = settle(db, &job, now, &c->out->job_status, err);
	if (!r && c->out->job_status == CATALOG_JOB_COMPLETED)
		r = catalog_copies_plan(tx, &job, err);
	return r;
}

static int check_point(const struct complete *c, struct err *err)
{
	const char *change_id = c->point->change_id;

	if (!change_id || !*change_id)
		return err_set(err, CATALOG_E_INVALID,
			       "disk %d of backup job %s cannot be completed without a change id",
			       c->disk_index, c->job_id);
	if (strlen(change_id) >= CATALOG_CHANGE_ID_SIZE)
		return err_set(err, CATALOG_E_INVALID,
			       "the change id of disk %d of backup job %s is longer than 255 bytes",
			       c->disk_index, c->job_id);
	if (c->point->qcow2_path && strlen(c->point->qcow2_path) >= CATALOG_PATH_SIZE)
		return err_set(err, CATALOG_E_INVALID,
			       "the image path of disk %d of backup job %s is too long",
			       c->disk_index, c->job_id);
	return 0;
}

int catalog_backup_disk_complete(struct catalog *cat, const char *job_id, int disk_index,
				 const struct catalog_completion *point,
				 struct catalog_completed *out, struct err *err)
{
	struct catalog_completed result = {0};
	struct complete c = {job_id, disk_index, point, &result};
	int r = check_point(&c, err);

	if (!r)
		r = catalog_tx(cat, complete_tx, &c, err);
	if (!r && out)
		*out = result;
	return r;
}

/* --- a disk fails ----------------------------------------------------------------------------- */

struct disk_fail {
	const char *job_id;
	int disk_index;
	char reason[CATALOG_ERROR_SIZE];
	enum catalog_job_status status;
};

static int disk_fail_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct disk_fail *f = arg;
	struct db *db = catalog_db(tx);
	struct catalog_backup_disk d;
	struct catalog_backup job;
	int64_t now = catalog_now_us();
	int r = find_disk(db, f->job_id, f->disk_index, &d, err);

	if (r)
		return r;
	if (d.status == CATALOG_DISK_FAILED)
		return err_set(err, CATALOG_E_ALREADY, "disk %d of backup job %s failed before: %s",
			       f->disk_index, f->job_id, d.error_message);
	r = find_open_disk(tx, f->job_id, f->disk_index, &job, &d, err);
	if (!r)
		r = db_run(db,
			   "UPDATE backup_disks SET status = 'failed', error_message = ?,"
			   " completed_at = ? WHERE id = ?",
			   DB_ARGS(DB_TEXT(f->reason), DB_I64(now), DB_I64(d.id)), NULL, err);
	if (!r)
		r = catalog_job_log_put(db,
					&(const struct catalog_job_at){f->job_id, f->disk_index,
								       CATALOG_LOG_ERROR, "copy"},
					now, err, "failed: %s", f->reason);
	return r ? r : settle(db, &job, now, &f->status, err);
}

int catalog_backup_disk_fail(struct catalog *cat, const char *job_id, int disk_index,
			     const char *reason, enum catalog_job_status *job_status,
			     struct err *err)
{
	struct disk_fail f = {.job_id = job_id, .disk_index = disk_index};
	int r;

	catalog_text_cut(f.reason, sizeof(f.reason), reason);
	r = catalog_tx(cat, disk_fail_tx, &f, err);
	if (!r && job_status)
		*job_status = f.status;
	return r;
}

/* --- the whole job fails or is cancelled ------------------------------------------------------ */

struct job_fail {
	const char *job_id;
	enum catalog_job_status status;
	char reason[CATALOG_ERROR_SIZE];
};

static int job_fail_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct job_fail *f = arg;
	struct db *db = catalog_db(tx);
	struct catalog_backup job;
	int64_t now = catalog_now_us();
	int r = find_job(db, f->job_id, &job, err);

	if (r)
		return r;
	if (job.status == CATALOG_JOB_FAILED || job.status == CATALOG_JOB_CANCELLED)
		return err_set(err, CATALOG_E_ALREADY, "backup job %s ended before as %s: %s",
			       job.id, catalog_job_status_name(job.status), job.error_message);
	r = check_held(tx, &job, err);
	if (r)
		return r;
	r = db_run(db,
		   "UPDATE backup_disks SET status = 'failed', error_message = ?, completed_at = ?"
		   " WHERE backup_job_id = ? AND " DISK_OPEN,
		   DB_ARGS(DB_TEXT(f->reason), DB_I64(now), DB_TEXT(f->job_id)), NULL, err);
	return r ? r : end_job(db, &job, f->status, f->reason, now, err);
}

int catalog_backup_fail(struct catalog *cat, const char *job_id, enum catalog_job_status status,
			const char *reason, struct err *err)
{
	struct job_fail f = {.job_id = job_id, .status = status};

	if (status != CATALOG_JOB_FAILED && status != CATALOG_JOB_CANCELLED)
		return err_set(err, CATALOG_E_INVALID, "a job can fail or be cancelled, not be %s",
			       catalog_job_status_name(status));
	catalog_text_cut(f.reason, sizeof(f.reason), reason);
	return catalog_tx(cat, job_fail_tx, &f, err);
}

/* --- on the way ------------------------------------------------------------------------------- */

static int job_running_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct db *db = catalog_db(tx);
	const char *job_id = arg;
	const struct catalog_job_at at = {job_id, CATALOG_NONE, CATALOG_LOG_INFO, "running"};
	struct catalog_backup job;
	int64_t now = catalog_now_us();
	int r = find_job(db, job_id, &job, err);

	if (!r)
		r = check_held(tx, &job, err);
	if (r)
		return r;
	if (job.status == CATALOG_JOB_RUNNING)
		return err_set(err, CATALOG_E_ALREADY, "backup job %s is running already", job_id);
	r = go_on(db, job_id, now, err);
	return r ? r
		 : catalog_job_log_put(db, &at, now, err, "the capture agent accepted the backup");
}

int catalog_backup_set_running(struct catalog *cat, const char *job_id, struct err *err)
{
	return catalog_tx(cat, job_running_tx, (void *)job_id, err);
}

struct telemetry {
	const char *job_id;
	char phase[CATALOG_ID_SIZE];
};

static int telemetry_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct telemetry *t = arg;
	struct db *db = catalog_db(tx);
	struct catalog_backup job;
	int r = find_job(db, t->job_id, &job, err);

	if (!r)
		r = check_held(tx, &job, err);
	if (r)
		return r;
	return db_run(db,
		      "UPDATE backup_jobs SET last_telemetry_at = ?,"
		      " current_phase = COALESCE(?, current_phase) WHERE id = ?",
		      DB_ARGS(DB_I64(catalog_now_us()), DB_OPT(t->phase), DB_TEXT(t->job_id)), NULL,
		      err);
}

int catalog_backup_note_telemetry(struct catalog *cat, const char *job_id, const char *phase,
				  struct err *err)
{
	struct telemetry t = {.job_id = job_id};

	catalog_text_cut(t.phase, sizeof(t.phase), phase);
	return catalog_tx(cat, telemetry_tx, &t, err);
}

struct progress {
	const char *job_id;
	int disk_index;
	const struct catalog_counters *bytes; /* NULL: only mark the disk running */
};

static int progress_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct progress *p = arg;
	struct db *db = catalog_db(tx);
	struct catalog_backup_disk d;
	const struct catalog_job_at at = {p->job_id, p->disk_index, CATALOG_LOG_INFO, "copy"};
	struct catalog_backup job;
	int64_t now = catalog_now_us();
	int r = find_open_disk(tx, p->job_id, p->disk_index, &job, &d, err);

	if (r)
		return r;
	if (!p->bytes && d.status == CATALOG_DISK_RUNNING)
		return err_set(err, CATALOG_E_ALREADY, "disk %d of backup job %s runs already",
			       p->disk_index, p->job_id);
	if (p->bytes)
		d.bytes = *p->bytes;
	r = db_run(db,
		   "UPDATE backup_disks SET status = 'running',"
		   " started_at = COALESCE(started_at, ?), bytes_transferred = ?, bytes_zero = ?,"
		   " bytes_unchanged = ?, bytes_stored = ? WHERE id = ?",
		   DB_ARGS(DB_I64(now), DB_I64(d.bytes.bytes_transferred),
			   DB_I64(d.bytes.bytes_zero), DB_I64(d.bytes.bytes_unchanged),
			   DB_I64(d.bytes.bytes_stored), DB_I64(d.id)),
		   NULL, err);
	if (!r && d.status == CATALOG_DISK_PENDING)
		r = catalog_job_log_put(db, &at, now, err, "the agent has connected");
	return r ? r : go_on(db, p->job_id, now, err);
}

int catalog_backup_disk_set_running(struct catalog *cat, const char *job_id, int disk_index,
				    struct err *err)
{
	struct progress p = {job_id, disk_index, NULL};

	return catalog_tx(cat, progress_tx, &p, err);
}

int catalog_backup_disk_progress(struct catalog *cat, const char *job_id, int disk_index,
				 const struct catalog_counters *bytes, struct err *err)
{
	struct progress p = {job_id, disk_index, bytes};

	return catalog_tx(cat, progress_tx, &p, err);
}
