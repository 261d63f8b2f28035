/*
 * Starting a job: everything is checked, then the job row goes in, then its disks, then the
 * context's counter, in one transaction. The VM is taken by the job row itself: its running_vm_name
 * and running_vm_context_id columns are unique (schema/003). The look for a running job comes first
 * only to name it in the refusal.
 */
#include <ctype.h>
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "catalog/backup_rows.h"
#include "catalog/session.h"

#define DISKS_MAX 4096

struct start {
	struct catalog_backup *job;
	struct catalog_backup_disk *disks;
	size_t n;
	char *busy_id;
};

/* --- what the caller gave --------------------------------------------------------------------- */

/* The agent takes the disk index from "-disk<N>-" wherever it stands in a job id. */
static bool has_disk_number(const char *id)
{
	for (const char *p = id; (p = strstr(p, "-disk")); p++) {
		const char *digits = p + 5, *end = digits;

		while (isdigit((unsigned char)*end))
			end++;
		if (end > digits && *end == '-')
			return true;
	}
	return false;
}

static int check_job(const struct catalog_backup *job, struct err *err)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789-";
	const size_t prefix = strlen(CATALOG_JOB_PREFIX);

	if (*job->id && (strncmp(job->id, CATALOG_JOB_PREFIX, prefix) || !job->id[prefix] ||
			 strspn(job->id, allowed) != strlen(job->id) || has_disk_number(job->id)))
		return err_set(err, CATALOG_E_INVALID,
			       "job id \"%s\" is refused: it must be %s followed by a-z, 0-9 and "
			       "-, without -disk<number>- inside",
			       job->id, CATALOG_JOB_PREFIX);
	if ((unsigned int)job->backup_type > CATALOG_BACKUP_DIFFERENTIAL)
		return err_set(err, CATALOG_E_INVALID, "a backup of an unknown type is refused");
	return 0;
}

static const char *disk_fault(const struct catalog_backup_disk *d)
{
	if (!*d->disk_id)
		return "it has no id";
	if (d->disk_index < 0)
		return "its index is negative";
	if (d->virtual_size_bytes <= 0)
		return "it has no size";
	if (!*d->export_name || !*d->qcow2_path)
		return "export name and image path must be known";
	if (d->mode == CATALOG_BACKUP_FULL && d->parent_disk_id != CATALOG_NONE)
		return "a full has no parent";
	if (d->mode == CATALOG_BACKUP_INCREMENTAL && d->parent_disk_id == CATALOG_NONE)
		return "an incremental needs a parent";
	if (d->mode != CATALOG_BACKUP_FULL && d->mode != CATALOG_BACKUP_INCREMENTAL)
		return "its mode is neither full nor incremental";
	return NULL;
}

static bool same_disk(const struct catalog_backup_disk *a, const struct catalog_backup_disk *b)
{
	return a->disk_index == b->disk_index || !strcmp(a->disk_id, b->disk_id) ||
	       !strcmp(a->export_name, b->export_name) || !strcmp(a->qcow2_path, b->qcow2_path);
}

static int check_disks(const struct start *s, struct err *err)
{
	int64_t total = 0;

	if (s->n == 0 || s->n > DISKS_MAX)
		return err_set(err, CATALOG_E_INVALID, "a backup of %zu disks is refused", s->n);
	for (size_t i = 0; i < s->n; i++) {
		const struct catalog_backup_disk *d = &s->disks[i];
		const char *fault = disk_fault(d);

		if (!fault && __builtin_add_overflow(total, d->virtual_size_bytes, &total))
			fault = "the sizes add up to more than can be counted";
		for (size_t k = 0; !fault && k < i; k++)
			if (same_disk(d, &s->disks[k]))
				fault = "index, id, export name or path repeat another disk's";
		if (fault)
			return err_set(err, CATALOG_E_INVALID, "disk %d (%s) is refused: %s",
				       d->disk_index, d->disk_id, fault);
	}
	return 0;
}

/* --- what the catalog says -------------------------------------------------------------------- */

static int check_context(const struct catalog_backup_context *ctx, struct err *err)
{
	if (!*ctx->vm_context_id)
		return err_set(err, CATALOG_E_INVALID,
			       "VM %s is no longer in the inventory: run discovery first",
			       ctx->vm_name);
	return 0;
}

/* Two questions, not one with OR: each is answered by its unique key. */
static int find_running(struct db *db, const struct catalog_backup_context *ctx,
			struct catalog_backup *running, struct err *err)
{
	int r = row_get(db, &catalog_backup_map, "WHERE j.running_vm_name = ?",
			DB_ARGS(DB_TEXT(ctx->vm_name)), running, err);

	if (r != DB_DONE)
		return r;
	return row_get(db, &catalog_backup_map, "WHERE j.running_vm_context_id = ?",
		       DB_ARGS(DB_TEXT(ctx->vm_context_id)), running, err);
}

static int check_free(struct db *db, const struct start *s,
		      const struct catalog_backup_context *ctx, struct err *err)
{
	struct catalog_backup running;
	int r = find_running(db, ctx, &running, err);

	if (r != DB_ROW)
		return r;
	if (s->busy_id)
		memcpy(s->busy_id, running.id, CATALOG_ID_SIZE);
	return err_set(err, CATALOG_E_BUSY, "VM %s is being backed up by job %s", ctx->vm_name,
		       running.id);
}

static int check_parent(struct db *db, const char *context_id, const struct catalog_backup_disk *d,
			char parent_job[CATALOG_ID_SIZE], struct err *err)
{
	struct catalog_backup_disk latest;
	int r;

	if (d->parent_disk_id == CATALOG_NONE)
		return 0;
	r = catalog_point_latest_row(db, context_id, d->disk_id, &latest, err);
	if (r != DB_ROW && r != DB_DONE)
		return r;
	if (r == DB_DONE || latest.id != d->parent_disk_id)
		return err_set(err, CATALOG_E_CONFLICT,
			       "disk %d (%s): its parent is not, or no longer, the latest point of "
			       "this disk in this repository: plan the backup again",
			       d->disk_index, d->disk_id);
	memcpy(parent_job, latest.backup_job_id, CATALOG_ID_SIZE);
	return 0;
}

/* What is being deleted goes by its name: that name is not free yet. */
static int check_path(struct db *db, const struct catalog_backup_disk *d, struct err *err)
{
	int64_t n = 0;
	int r = db_query_i64(db,
			     "SELECT COUNT(*) FROM backup_deletion_files"
			     " WHERE qcow2_path = ? AND committed = 1",
			     DB_ARGS(DB_TEXT(d->qcow2_path)), 0, &n, err);

	if (!r && n)
		r = err_set(err, CATALOG_E_CONFLICT,
			    "disk %d (%s): %s is still being deleted: plan the backup again",
			    d->disk_index, d->disk_id, d->qcow2_path);
	return r;
}

static int check_paths(struct db *db, const struct start *s, struct err *err)
{
	int r = 0;

	for (size_t i = 0; !r && i < s->n; i++)
		r = check_path(db, &s->disks[i], err);
	return r;
}

/* The job's parent is the newest job a disk leans on; usually all lean on the same one. */
static int find_parent_job(struct db *db, const struct start *s, const char *context_id,
			   char parent_job[CATALOG_ID_SIZE], struct err *err)
{
	int64_t newest = 0;
	int r = 0;

	parent_job[0] = 0;
	for (size_t i = 0; !r && i < s->n; i++) {
		char candidate[CATALOG_ID_SIZE] = "";

		r = check_parent(db, context_id, &s->disks[i], candidate, err);
		if (*candidate && s->disks[i].parent_disk_id > newest) {
			newest = s->disks[i].parent_disk_id;
			memcpy(parent_job, candidate, CATALOG_ID_SIZE);
		}
	}
	return r;
}

/* --- rows ------------------------------------------------------------------------------------- */

/* Hand-written, because the columns that take the VM have no member in the row struct. */
static int insert_job(struct db *db, const struct catalog_backup *job, struct err *err)
{
	int r = db_run(db,
		       "INSERT INTO backup_jobs (id, vm_context_id, vm_backup_context_id, vm_name,"
		       " repository_id, repository_type, repository_path, backup_type, status,"
		       " running_vm_name, running_vm_context_id, parent_backup_id, policy_id, tags,"
		       " disk_count, total_bytes, compression_enabled, current_phase, created_at,"
		       " hub_token) VALUES"
		       " (?, ?, ?, ?, ?, ?, ?, ?, 'pending', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		       DB_ARGS(DB_TEXT(job->id), DB_TEXT(job->vm_context_id),
			       DB_TEXT(job->vm_backup_context_id), DB_TEXT(job->vm_name),
			       DB_TEXT(job->repository_id), DB_TEXT(job->repository_type),
			       DB_TEXT(job->repository_path),
			       DB_TEXT(catalog_backup_type_name(job->backup_type)),
			       DB_TEXT(job->vm_name), DB_TEXT(job->vm_context_id),
			       DB_OPT(job->parent_backup_id), DB_OPT(job->policy_id),
			       DB_OPT(job->tags), DB_I64(job->disk_count), DB_I64(job->total_bytes),
			       DB_I64(job->compression_enabled), DB_TEXT(job->current_phase),
			       DB_I64(job->created_at_us),
			       job->hub_token ? DB_I64(job->hub_token) : DB_NULL),
		       NULL, err);

	if (r == DB_E_UNIQUE)
		return err_set(err, CATALOG_E_EXISTS, "there is already a job %s", job->id);
	if (r == DB_E_CHECK)
		return err_set(err, CATALOG_E_INVALID, "the tags of the backup are not JSON");
	return r;
}

static int insert_disks(struct db *db, const struct start *s, const struct catalog_backup *job,
			struct err *err)
{
	int r = 0;

	for (size_t i = 0; !r && i < s->n; i++) {
		struct catalog_backup_disk row = s->disks[i];

		CATALOG_TEXT(row.vm_backup_context_id, job->vm_backup_context_id);
		CATALOG_TEXT(row.backup_job_id, job->id);
		row.chain_id[0] = row.change_id[0] = row.error_message[0] = 0;
		row.bytes = (struct catalog_counters){0};
		row.status = CATALOG_DISK_PENDING;
		row.created_at_us = job->created_at_us;
		row.started_at_us = row.completed_at_us = 0;
		r = row_insert(db, &catalog_backup_disk_map, &row, err);
	}
	return r;
}

static int read_back(struct db *db, const struct start *s, const char *job_id, struct err *err)
{
	int r = row_get(db, &catalog_backup_map, "WHERE j.id = ?", DB_ARGS(DB_TEXT(job_id)), s->job,
			err);

	for (size_t i = 0; r == DB_ROW && i < s->n; i++)
		r = row_get(db, &catalog_backup_disk_map,
			    "WHERE d.backup_job_id = ? AND d.disk_index = ?",
			    DB_ARGS(DB_TEXT(job_id), DB_I64(s->disks[i].disk_index)), &s->disks[i],
			    err);
	return r == DB_ROW ? 0 : r;
}

static void fill_job(struct catalog_backup *job, const struct start *s,
		     const struct catalog_backup_context *ctx)
{
	CATALOG_TEXT(job->vm_context_id, ctx->vm_context_id);
	CATALOG_TEXT(job->vm_name, ctx->vm_name);
	CATALOG_TEXT(job->repository_id, ctx->repository_id);
	if (!*job->id)
		catalog_new_id(job->id, CATALOG_JOB_PREFIX);
	job->disk_count = (int64_t)s->n;
	job->total_bytes = 0;
	for (size_t i = 0; i < s->n; i++)
		job->total_bytes += s->disks[i].virtual_size_bytes;
	job->created_at_us = catalog_now_us();
}

static int tell_disk(struct db *db, const struct catalog_backup *job,
		     const struct catalog_backup_disk *d, struct err *err)
{
	const struct catalog_job_at at = {job->id, d->disk_index, CATALOG_LOG_INFO, "start"};

	return catalog_job_log_put(db, &at, job->created_at_us, err, "%s of %" PRId64 " bytes%s%s",
				   catalog_backup_type_name(d->mode), d->virtual_size_bytes,
				   *d->reason ? ", because " : "", d->reason);
}

static int tell_start(struct db *db, const struct start *s, const struct catalog_backup *job,
		      struct err *err)
{
	const struct catalog_job_at at = {job->id, CATALOG_NONE, CATALOG_LOG_INFO, "start"};
	int r = catalog_job_log_put(db, &at, job->created_at_us, err,
				    "%s backup of VM \"%s\" begins: %zu disks, %" PRId64 " bytes",
				    catalog_backup_type_name(job->backup_type), job->vm_name, s->n,
				    job->total_bytes);

	for (size_t i = 0; !r && i < s->n; i++)
		r = tell_disk(db, job, &s->disks[i], err);
	return r;
}

static int start_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct start *s = arg;
	struct catalog_backup job = *s->job;
	struct catalog_backup_context ctx;
	struct db *db = catalog_db(tx);
	int r = catalog_hub_check(tx, err);

	if (!r)
		r = catalog_backup_context_get(tx, job.vm_backup_context_id, &ctx, err);
	if (!r)
		r = check_context(&ctx, err);
	if (!r)
		r = check_free(db, s, &ctx, err);
	if (!r)
		r = find_parent_job(db, s, ctx.context_id, job.parent_backup_id, err);
	if (!r)
		r = check_paths(db, s, err);
	if (r)
		return r;
	fill_job(&job, s, &ctx);
	job.hub_token = catalog_hub_token(tx);
	r = insert_job(db, &job, err);
	if (!r)
		r = insert_disks(db, s, &job, err);
	if (!r)
		r = db_run(
			db,
			"UPDATE vm_backup_contexts SET total_backups_run = total_backups_run + 1,"
			" updated_at = ? WHERE context_id = ?",
			DB_ARGS(DB_I64(job.created_at_us), DB_TEXT(ctx.context_id)), NULL, err);
	if (!r)
		r = tell_start(db, s, &job, err);
	return r ? r : read_back(db, s, job.id, err);
}

int catalog_backup_start(struct catalog *cat, struct catalog_backup *job,
			 struct catalog_backup_disk *disks, size_t n, char busy_id[CATALOG_ID_SIZE],
			 struct err *err)
{
	struct start s = {job, disks, n, busy_id};
	int r = check_job(job, err);

	if (!r)
		r = check_disks(&s, err);
	return r ? r : catalog_tx(cat, start_tx, &s, err);
}
