/*
 * Reading jobs, their disks, and the points they left. Nothing here compares times: a job is found
 * by its id or by what it holds, and the latest point is the one with the highest row id.
 */
#include <stdio.h>

#include "base/bytes.h"
#include "catalog/backup_rows.h"
#include "catalog/session.h"

/* --- jobs ------------------------------------------------------------------------------------- */

int catalog_backup_get(struct catalog *cat, const char *job_id, struct catalog_backup *out,
		       struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_get(l.db, &catalog_backup_map, "WHERE j.id = ?", DB_ARGS(DB_TEXT(job_id)),
			    out, err);
	return catalog_found(cat, r, err, "there is no backup job %s", job_id);
}

int catalog_backup_find_running(struct catalog *cat, const char *vm_name,
				struct catalog_backup *out, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_get(l.db, &catalog_backup_map, "WHERE j.running_vm_name = ?",
			    DB_ARGS(DB_TEXT(vm_name)), out, err);
	return catalog_found(cat, r, err, "no backup of VM %s is running", vm_name);
}

int catalog_backups_running(struct catalog *cat, struct catalog_backup **rows, size_t *n,
			    struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_list(l.db, &catalog_backup_map,
			     "WHERE j." JOB_RUNS " ORDER BY +j.created_at, j.id", DB_NO_ARGS,
			     (void **)rows, n, err);
	return catalog_result(cat, r);
}

static void where_jobs(struct row_where *w, const struct catalog_backup_filter *f)
{
	row_where_text(w, "j.vm_name = ?", f->vm_name);
	row_where_text(w, "j.vm_context_id = ?", f->vm_context_id);
	row_where_text(w, "j.vm_backup_context_id = ?", f->vm_backup_context_id);
	row_where_text(w, "j.repository_id = ?", f->repository_id);
	if (f->status)
		row_where_text(w, "j.status = ?", catalog_job_status_name(*f->status));
	if (f->backup_type)
		row_where_text(w, "j.backup_type = ?", catalog_backup_type_name(*f->backup_type));
}

static const struct row_sort job_sorts[] = {
	{"created_at", "j.created_at"},	  {"vm_name", "j.vm_name"},
	{"status", "j.status"},		  {"backup_type", "j.backup_type"},
	{"started_at", "j.started_at"},	  {"completed_at", "j.completed_at"},
	{"total_bytes", "j.total_bytes"}, {"bytes_transferred", "j.bytes_transferred"},
};

static int list_jobs(struct db *db, const struct catalog_backup_filter *f,
		     struct catalog_backup **rows, size_t *n, int64_t *total, struct err *err)
{
	struct row_where count = {.sql = "SELECT COUNT(*) FROM backup_jobs j"};
	struct row_where w = {0};
	int r = 0;

	where_jobs(&w, f);
	if (total) {
		row_where_tail(&count, w.sql);
		r = db_query_i64(db, count.sql, w.args, w.n, 0, total, err);
	}
	if (r)
		return r;
	r = row_where_order(&w, job_sorts, ARRAY_SIZE(job_sorts), f->sort, !f->ascending, "j.id",
			    err);
	if (r)
		return r;
	row_where_limit(&w, f->limit, f->offset);
	return row_list(db, &catalog_backup_map, w.sql, w.args, w.n, (void **)rows, n, err);
}

int catalog_backups_list(struct catalog *cat, const struct catalog_backup_filter *filter,
			 struct catalog_backup **rows, size_t *n, int64_t *total, struct err *err)
{
	static const struct catalog_backup_filter any = {0};
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = list_jobs(l.db, filter ? filter : &any, rows, n, total, err);
	return catalog_result(cat, r);
}

/* --- sums ------------------------------------------------------------------------------------- */

/* A sum over integers is a DECIMAL in MariaDB. */
#define SUM(what) "CAST(COALESCE(SUM(" what "), 0) AS SIGNED)"

static int sum_jobs(struct db *db, const struct row_where *w, struct catalog_backup_stats *out,
		    struct err *err)
{
	_cleanup_(db_releasep) struct db_stmt *st = NULL;
	enum catalog_job_status status;
	char sql[2048];
	int r;

	snprintf(
		sql, sizeof(sql),
		"SELECT j.status, COUNT(*)," SUM("CASE WHEN j.backup_type = 'full' THEN 1 ELSE 0 "
						 "END") "," SUM(
			"j.bytes_transferred") ", COALESCE(MAX(j.completed_at), 0)," SUM("j."
											 "completed"
											 "_at - "
											 "COALESCE("
											 "j."
											 "started_"
											 "at, "
											 "j."
											 "created_"
											 "at)") " F"
												"RO"
												"M "
												"ba"
												"ck"
												"up"
												"_j"
												"ob"
												"s "
												"j%"
												"s "
												"GR"
												"OU"
												"P "
												"BY"
												" j"
												".s"
												"ta"
												"tu"
												"s",
		w->sql);
	r = db_query(db, sql, w->args, w->n, &st, err);
	while (!r && (r = db_step(st, err)) == DB_ROW) {
		int64_t n = db_col_i64(st, 1), fulls = db_col_i64(st, 2);

		r = 0;
		if (!catalog_job_status_parse(db_col_text(st, 0, NULL), &status))
			continue;
		out->jobs[status] = n;
		out->fulls += fulls;
		out->incrementals += n - fulls;
		out->bytes_transferred += db_col_i64(st, 3);
		if (status != CATALOG_JOB_COMPLETED)
			continue;
		out->last_backup_at_us = db_col_i64(st, 4);
		out->completed_us = db_col_i64(st, 5);
	}
	return r;
}

static int sum_disks(struct db *db, const struct row_where *w, int64_t *stored, struct err *err)
{
	char sql[1280];

	snprintf(sql, sizeof(sql),
		 "SELECT " SUM("d.bytes_stored") " FROM backup_jobs j JOIN backup_disks d ON "
						"d.backup_job_id = j.id%s %s"
						" j.status = 'completed'",
		 w->sql, w->n ? "AND" : "WHERE");
	return db_query_i64(db, sql, w->args, w->n, 0, stored, err);
}

int catalog_backup_get_stats(struct catalog *cat, const struct catalog_backup_filter *filter,
			     struct catalog_backup_stats *out, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	struct catalog_backup_stats stats = {.fulls = 0};
	struct row_where w = {0};
	int r = catalog_lease(cat, &l, err);

	if (filter)
		where_jobs(&w, filter);
	if (!r)
		r = sum_jobs(l.db, &w, &stats, err);
	if (!r)
		r = sum_disks(l.db, &w, &stats.bytes_stored, err);
	if (!r)
		*out = stats;
	return catalog_result(cat, r);
}

int catalog_backup_count(struct catalog *cat, int64_t jobs[CATALOG_JOB_STATUSES], struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	for (int i = 0; !r && i < CATALOG_JOB_STATUSES; i++)
		r = db_query_i64(
			l.db, "SELECT COUNT(*) FROM backup_jobs WHERE status = ?",
			DB_ARGS(DB_TEXT(catalog_job_status_name((enum catalog_job_status)i))), 0,
			&jobs[i], err);
	return catalog_result(cat, r);
}

/* --- disks ------------------------------------------------------------------------------------ */

int catalog_backup_disks_list(struct catalog *cat, const char *job_id,
			      struct catalog_backup_disk **rows, size_t *n, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	struct catalog_backup job;
	int r = catalog_backup_get(cat, job_id, &job, err);

	if (!r)
		r = catalog_lease(cat, &l, err);
	if (!r)
		r = row_list(l.db, &catalog_backup_disk_map,
			     "WHERE d.backup_job_id = ? ORDER BY d.hardware_order, d.disk_index",
			     DB_ARGS(DB_TEXT(job_id)), (void **)rows, n, err);
	return catalog_result(cat, r);
}

int catalog_backup_disk_get(struct catalog *cat, const char *job_id, int disk_index,
			    struct catalog_backup_disk *out, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_get(l.db, &catalog_backup_disk_map,
			    "WHERE d.backup_job_id = ? AND d.disk_index = ?",
			    DB_ARGS(DB_TEXT(job_id), DB_I64(disk_index)), out, err);
	return catalog_found(cat, r, err, "backup job %s has no disk %d", job_id, disk_index);
}

int catalog_backup_disk_next_open(struct catalog *cat, const char *job_id,
				  struct catalog_backup_disk *out, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_get(l.db, &catalog_backup_disk_map,
			    "WHERE d.backup_job_id = ? AND d." DISK_OPEN
			    " ORDER BY d.hardware_order, d.disk_index LIMIT 1",
			    DB_ARGS(DB_TEXT(job_id)), out, err);
	return catalog_found(cat, r, err, "backup job %s has no open disk", job_id);
}

/* --- points ----------------------------------------------------------------------------------- */

/* The joined job row is not among the columns read; it only says whether the point is offered. */
#define LATEST_POINT(key)                                                                          \
	"JOIN backup_jobs j ON j.id = d.backup_job_id WHERE d.vm_backup_context_id = ?"            \
	" AND d." key " = ? AND d.status = 'completed' AND j.status = 'completed'"                 \
	" ORDER BY d.id DESC LIMIT 1"

int catalog_point_latest_row(struct db *db, const char *vm_backup_context_id, const char *disk_id,
			     struct catalog_backup_disk *out, struct err *err)
{
	return row_get(db, &catalog_backup_disk_map, LATEST_POINT("disk_id"),
		       DB_ARGS(DB_TEXT(vm_backup_context_id), DB_TEXT(disk_id)), out, err);
}

int catalog_point_latest(struct catalog *cat, const char *vm_backup_context_id, const char *disk_id,
			 struct catalog_backup_disk *out, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = catalog_point_latest_row(l.db, vm_backup_context_id, disk_id, out, err);
	return catalog_found(cat, r, err, "disk %s has no point in backup context %s", disk_id,
			     vm_backup_context_id);
}

/* One context after the other: joined in one statement, the planner is free to walk all points. */
static int latest_of_vm(struct db *db, const char *vm_name, int disk_index,
			struct catalog_backup_disk *out, struct err *err)
{
	_cleanup_(freep) struct catalog_backup_context *contexts = NULL;
	struct catalog_backup_disk d;
	bool found = false;
	size_t n;
	int r = row_list(db, &catalog_backup_context_map, "WHERE c.vm_name = ?",
			 DB_ARGS(DB_TEXT(vm_name)), (void **)&contexts, &n, err);

	for (size_t i = 0; !r && i < n; i++) {
		r = row_get(db, &catalog_backup_disk_map, LATEST_POINT("disk_index"),
			    DB_ARGS(DB_TEXT(contexts[i].context_id), DB_I64(disk_index)), &d, err);
		if (r == DB_ROW && (!found || d.id > out->id)) {
			*out = d;
			found = true;
		}
		if (r == DB_ROW)
			r = 0;
	}
	return r ? r : found ? DB_ROW : DB_DONE;
}

int catalog_point_latest_of_vm(struct catalog *cat, const char *vm_name, int disk_index,
			       struct catalog_backup_disk *out, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = latest_of_vm(l.db, vm_name, disk_index, out, err);
	return catalog_found(cat, r, err, "disk %d of VM %s has no point", disk_index, vm_name);
}
