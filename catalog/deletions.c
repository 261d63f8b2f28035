/*
 * The rows of a backup go in one transaction, newest backup first, so that whatever is looked up on
 * the way (the latest point of a disk, the end of a chain) is what will be there afterwards. Chains
 * and the backup context are brought up to date from the rows that are left, never by counting
 * down.
 */
#include "catalog/deletions.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "catalog/backup_rows.h"
#include "catalog/contexts.h"
#include "catalog/repositories.h"
#include "catalog/session.h"

#define CHILDREN_MAX 5 /* that a refusal names */

#define X struct catalog_deletion

static const char *const type_names[] = {"full", "incremental", "differential"};
static const struct row_words types = {type_names, ARRAY_SIZE(type_names)};

static const struct row_field fields[] = {
	I64_COL(X, id, "x.id", ROW_DERIVED),
	TEXT_COL(X, backup_id, "backup_id"),
	TEXT_COL(X, vm_context_id, "vm_context_id"),
	TEXT_COL(X, vm_name, "vm_name"),
	TEXT_COL(X, repository_id, "repository_id"),
	ENUM_COL(X, backup_type, "backup_type", &types),
	I64_COL(X, size_bytes, "size_bytes"),
	BOOL_COL(X, files_gone, "files_gone"),
	I64_COL(X, attempts, "attempts"),
	TEXT_COL(X, error_message, "error_message", ROW_OPT),
	I64_COL(X, hub_token, "hub_token", ROW_OPT),
	TIME_COL(X, backup_created_at_us, "backup_created_at"),
	TIME_COL(X, created_at_us, "created_at"),
	TIME_COL(X, last_try_at_us, "last_try_at", ROW_OPT),
	TIME_COL(X, retry_at_us, "retry_at"),
	I64_COL(X, image_count,
		"(SELECT COUNT(*) FROM backup_deletion_files f"
		" WHERE f.deletion_id = x.id AND f.committed = 1)",
		ROW_DERIVED),
};

static const struct row_map map = ROW_MAP(X, "backup_deletions", "x", "", fields);

#define F struct catalog_deletion_file

static const struct row_field file_fields[] = {
	TEXT_COL(F, qcow2_path, "qcow2_path"),
	BOOL_COL(F, committed, "committed"),
};

static const struct row_map file_map = ROW_MAP(F, "backup_deletion_files", "f", "", file_fields);

/* --- what goes -------------------------------------------------------------------------------- */

struct doomed_job {
	char id[CATALOG_ID_SIZE];
	int64_t newest; /* the highest row id of its disks */
};

struct doomed {
	struct doomed_job *jobs;
	size_t n, room;
};

static bool is_doomed(const struct doomed *d, const char *id)
{
	for (size_t i = 0; i < d->n; i++)
		if (!strcmp(d->jobs[i].id, id))
			return true;
	return false;
}

static int doom(struct doomed *d, const char *id, int64_t newest, struct err *err)
{
	struct doomed_job job = {.newest = newest};

	if (!CATALOG_TEXT(job.id, id))
		return err_set(err, -EUCLEAN, "a backup job's id is too long");
	if (d->n == d->room) {
		size_t room = d->room ? 2 * d->room : 16;
		struct doomed_job *jobs = realloc(d->jobs, room * sizeof(*jobs));

		if (!jobs)
			return err_sys(err, -ENOMEM, "deleting backups");
		d->jobs = jobs;
		d->room = room;
	}
	d->jobs[d->n++] = job;
	return 0;
}

/* Dooms what @sql finds: ids of jobs, and of their newest disks. @known: some may be among the
 * doomed already. */
static int doom_found(struct db *db, const char *sql, const char *key, bool known, struct doomed *d,
		      struct err *err)
{
	_cleanup_(db_releasep) struct db_stmt *st = NULL;
	int r = db_query(db, sql, DB_ARGS(DB_TEXT(key)), &st, err);

	while (!r && (r = db_step(st, err)) == DB_ROW) {
		const char *id = db_col_text(st, 0, NULL);

		r = 0;
		if (id && (!known || !is_doomed(d, id)))
			r = doom(d, id, db_col_i64(st, 1), err);
	}
	return r;
}

static int newest_first(const void *a, const void *b)
{
	int64_t x = ((const struct doomed_job *)a)->newest;
	int64_t y = ((const struct doomed_job *)b)->newest;

	return (x < y) - (x > y);
}

#define NEWEST_DISK                                                                                \
	"(SELECT COALESCE(MAX(m.id), 0) FROM backup_disks m WHERE m.backup_job_id = j.id)"

/* By the very parent; and what stands behind it in its chain. */
#define BY_PARENT                                                                                  \
	"SELECT j.id, " NEWEST_DISK " FROM backup_jobs j WHERE j.id IN"                            \
	" (SELECT c.backup_job_id FROM backup_disks p JOIN backup_disks c"                         \
	"   ON c.parent_disk_id = p.id WHERE p.backup_job_id = ?)"                                 \
	" AND j.status IN ('pending', 'running', 'completed')"
#define BY_CHAIN                                                                                   \
	"SELECT j.id, " NEWEST_DISK " FROM backup_jobs j WHERE j.id IN"                            \
	" (SELECT c.backup_job_id FROM backup_disks p JOIN backup_disks c"                         \
	"   ON c.chain_id = p.chain_id AND c.id > p.id WHERE p.backup_job_id = ?)"

/* Everything that leans on the first of the doomed, and on that, and so on. */
static int doom_children(struct db *db, struct doomed *d, struct err *err)
{
	int r = 0;

	for (size_t i = 0; !r && i < d->n; i++) {
		char id[CATALOG_ID_SIZE];

		memcpy(id, d->jobs[i].id, sizeof(id)); /* the array may move */
		r = doom_found(db, BY_PARENT, id, true, d, err);
		if (!r)
			r = doom_found(db, BY_CHAIN, id, true, d, err);
	}
	return r;
}

static int refuse_children(const struct doomed *d, struct err *err)
{
	char names[CHILDREN_MAX * (CATALOG_ID_SIZE + 2)] = "", more[32] = "";
	size_t used = 0;

	for (size_t i = 1; i < d->n && i <= CHILDREN_MAX; i++)
		used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s",
					 i > 1 ? ", " : "", d->jobs[i].id);
	if (d->n > CHILDREN_MAX + 1)
		snprintf(more, sizeof(more), " and %zu more", d->n - 1 - CHILDREN_MAX);
	return err_set(err, CATALOG_E_IN_USE,
		       "backup %s is what %s%s lean%s on: delete %s first, or cascade",
		       d->jobs[0].id, names, more, d->n == 2 ? "s" : "",
		       d->n == 2 ? "that one" : "those");
}

/* --- what may go ------------------------------------------------------------------------------ */

static int check_ended(const struct catalog_backup *job, struct err *err)
{
	if (job->status != CATALOG_JOB_PENDING && job->status != CATALOG_JOB_RUNNING)
		return 0;
	return err_set(err, CATALOG_E_BUSY, "backup %s of VM %s runs: cancel it first", job->id,
		       job->vm_name);
}

/* A failed or cancelled backup is no point: nothing of it is kept for anybody. */
static int check_retention(struct db *db, const struct catalog_backup *job,
			   const struct catalog_repository *repo, struct err *err)
{
	return job->status != CATALOG_JOB_COMPLETED
		       ? 0
		       : catalog_repository_keeps(db, repo, "backup", job->id, job->completed_at_us,
						  err);
}

static int check_count(struct db *db, const char *job_id, const char *sql, const char *what,
		       struct err *err)
{
	int64_t n = 0;
	int r = db_query_i64(db, sql, DB_ARGS(DB_TEXT(job_id)), 0, &n, err);

	if (!r && n)
		r = err_set(err, CATALOG_E_IN_USE, "backup %s %s", job_id, what);
	return r;
}

/* A copy that failed counts while the catalog knows of files of it. */
static int check_unused(struct db *db, const char *job_id, struct err *err)
{
	int r = check_count(db, job_id,
			    "SELECT COUNT(*) FROM restore_mounts m"
			    " JOIN backup_disks d ON d.id = m.backup_disk_id"
			    " WHERE d.backup_job_id = ?"
			    " AND m.status IN ('mounting', 'mounted', 'unmounting')",
			    "is mounted for a restore: unmount it first", err);

	if (!r)
		r = check_count(db, job_id,
				"SELECT COUNT(*) FROM backup_copies WHERE backup_job_id = ?"
				" AND status IN ('pending', 'copying', 'verifying')",
				"has a copy that is being made or removed: wait for its end", err);
	if (!r)
		r = check_count(db, job_id,
				"SELECT COUNT(*) FROM backup_copies c WHERE c.backup_job_id = ?"
				" AND (c.status = 'completed' OR EXISTS (SELECT 1"
				"  FROM backup_copy_disks d WHERE d.copy_id = c.id))",
				"has copies in other repositories: delete them first", err);
	return r;
}

/* --- into the journal ------------------------------------------------------------------------- */

struct deleting {
	struct catalog *tx;
	struct catalog_repository repo; /* as last read */
	int64_t first;			/* the first entry made; 0: none */
};

static int find_job(struct deleting *g, const char *id, struct catalog_backup *job, struct err *err)
{
	int r = catalog_backup_get(g->tx, id, job, err);

	if (!r && strcmp(g->repo.id, job->repository_id))
		r = catalog_repository_get(g->tx, job->repository_id, &g->repo, err);
	return r;
}

/* A file that another point names as well stays; imported databases may have such. When all rows of
 * the VM go at the end, newer ones are still there but deleted already. */
static int journal_file(struct db *db, int64_t id, const struct catalog_backup_disk *d, bool whole,
			struct err *err)
{
	int64_t others = 0;
	const bool committed = d->status == CATALOG_DISK_COMPLETED;
	int r = db_query_i64(db,
			     "SELECT COUNT(*) FROM backup_disks WHERE vm_backup_context_id = ?"
			     " AND status = 'completed' AND qcow2_path = ? AND id <> ? AND id < ?",
			     DB_ARGS(DB_TEXT(d->vm_backup_context_id), DB_TEXT(d->qcow2_path),
				     DB_I64(d->id), DB_I64(whole ? d->id : INT64_MAX)),
			     0, &others, err);

	if (r || others)
		return r;
	return db_run(db,
		      "INSERT INTO backup_deletion_files (deletion_id, qcow2_path, committed)"
		      " VALUES (?, ?, ?)",
		      DB_ARGS(DB_I64(id), DB_TEXT(d->qcow2_path), DB_I64(committed)), NULL, err);
}

static int journal_job(struct deleting *g, const struct catalog_backup *job,
		       const struct catalog_backup_disk *disks, size_t n, bool whole,
		       struct err *err)
{
	const int64_t token = catalog_hub_token(g->tx);
	struct db *db = catalog_db(g->tx);
	struct catalog_deletion row = {
		.backup_type = job->backup_type,
		.hub_token = token ? token : CATALOG_NONE,
		.backup_created_at_us = job->created_at_us,
		.created_at_us = catalog_now_us(),
	};
	int64_t id = 0;
	int r = db_now_us(db, &row.retry_at_us, err);

	CATALOG_TEXT(row.backup_id, job->id);
	CATALOG_TEXT(row.vm_context_id, job->vm_context_id);
	CATALOG_TEXT(row.vm_name, job->vm_name);
	CATALOG_TEXT(row.repository_id, job->repository_id);
	for (size_t i = 0; i < n; i++)
		if (disks[i].status == CATALOG_DISK_COMPLETED)
			row.size_bytes += disks[i].bytes.bytes_stored;
	if (!r)
		r = row_insert(db, &map, &row, err);
	if (!r)
		id = db_insert_id(db);
	for (size_t i = 0; !r && i < n; i++)
		r = journal_file(db, id, &disks[i], whole, err);
	if (!r && !g->first)
		g->first = id;
	return r;
}

/* --- what is left ----------------------------------------------------------------------------- */

/* A chain ends where its last point but those of @job_id is, or is no more. */
static int cut_chain(struct db *db, const char *chain_id, const char *job_id, struct err *err)
{
	struct catalog_backup_disk last;
	int r = row_get(db, &catalog_backup_disk_map,
			"WHERE d.chain_id = ? AND d.backup_job_id <> ? ORDER BY d.id DESC LIMIT 1",
			DB_ARGS(DB_TEXT(chain_id), DB_TEXT(job_id)), &last, err);

	if (r == DB_DONE)
		return db_run(db, "DELETE FROM backup_chains WHERE id = ?",
			      DB_ARGS(DB_TEXT(chain_id)), NULL, err);
	if (r != DB_ROW)
		return r;
	return db_run(db,
		      "UPDATE backup_chains SET latest_backup_id = ?,"
		      " total_backups = (SELECT COUNT(*) FROM backup_disks d"
		      "  WHERE d.chain_id = backup_chains.id AND d.backup_job_id <> ?),"
		      " total_size_bytes = (SELECT COALESCE(SUM(d.bytes_stored), 0)"
		      "  FROM backup_disks d"
		      "  WHERE d.chain_id = backup_chains.id AND d.backup_job_id <> ?),"
		      " updated_at = ? WHERE id = ?",
		      DB_ARGS(DB_TEXT(last.backup_job_id), DB_TEXT(job_id), DB_TEXT(job_id),
			      DB_I64(catalog_now_us()), DB_TEXT(chain_id)),
		      NULL, err);
}

/* The active chain is the one the disk's latest point is in: that may be an earlier one again. */
static int choose_active(struct db *db, const struct catalog_backup_disk *d, struct err *err)
{
	struct catalog_backup_disk latest;
	int r = catalog_point_latest_row(db, d->vm_backup_context_id, d->disk_id, &latest, err);

	if (r != DB_ROW)
		return r;
	return db_run(db,
		      "UPDATE backup_chains SET active = 1, updated_at = ?"
		      " WHERE id = ? AND active IS NULL",
		      DB_ARGS(DB_I64(catalog_now_us()), DB_TEXT(latest.chain_id)), NULL, err);
}

static int choose_last(struct deleting *g, const char *context_id, struct err *err)
{
	struct db *db = catalog_db(g->tx);
	struct catalog_backup_disk newest;
	struct catalog_backup job = {.completed_at_us = 0};
	int r = row_get(db, &catalog_backup_disk_map,
			"JOIN backup_jobs j ON j.id = d.backup_job_id"
			" WHERE d.vm_backup_context_id = ? AND d.status = 'completed'"
			" AND j.status = 'completed' ORDER BY d.id DESC LIMIT 1",
			DB_ARGS(DB_TEXT(context_id)), &newest, err);

	if (r == DB_ROW)
		r = catalog_backup_get(g->tx, newest.backup_job_id, &job, err);
	if (r)
		return r;
	return db_run(
		db,
		"UPDATE vm_backup_contexts SET last_backup_id = ?, last_backup_type = ?,"
		" last_backup_at = ?, updated_at = ? WHERE context_id = ?",
		DB_ARGS(DB_OPT(job.id),
			*job.id ? DB_TEXT(catalog_backup_type_name(job.backup_type)) : DB_NULL,
			*job.id ? DB_I64(job.completed_at_us) : DB_NULL, DB_I64(catalog_now_us()),
			DB_TEXT(context_id)),
		NULL, err);
}

static int take_out(struct deleting *g, const struct catalog_backup *job,
		    const struct catalog_backup_disk *disks, size_t n, struct err *err)
{
	struct db *db = catalog_db(g->tx);
	int64_t was_last = 0;
	int r = db_query_i64(db,
			     "SELECT COUNT(*) FROM vm_backup_contexts"
			     " WHERE context_id = ? AND last_backup_id = ?",
			     DB_ARGS(DB_TEXT(job->vm_backup_context_id), DB_TEXT(job->id)), 0,
			     &was_last, err);

	for (size_t i = 0; !r && i < n; i++)
		if (*disks[i].chain_id)
			r = cut_chain(db, disks[i].chain_id, job->id, err);
	if (!r)
		r = db_run(db, "DELETE FROM backup_jobs WHERE id = ?", DB_ARGS(DB_TEXT(job->id)),
			   NULL, err);
	for (size_t i = 0; !r && i < n; i++)
		if (*disks[i].chain_id)
			r = choose_active(db, &disks[i], err);
	return r || !was_last ? r : choose_last(g, job->vm_backup_context_id, err);
}

/* --- one transaction -------------------------------------------------------------------------- */

/* @whole: the VM's contexts go afterwards, with all rows that are left. */
static int delete_job(struct deleting *g, const char *id, bool whole, struct err *err)
{
	_cleanup_(freep) struct catalog_backup_disk *disks = NULL;
	struct catalog_backup job;
	size_t n = 0;
	int r = find_job(g, id, &job, err);

	if (!r)
		r = check_ended(&job, err);
	if (!r)
		r = check_retention(catalog_db(g->tx), &job, &g->repo, err);
	if (!r)
		r = check_unused(catalog_db(g->tx), id, err);
	if (!r)
		r = row_list(catalog_db(g->tx), &catalog_backup_disk_map,
			     "WHERE d.backup_job_id = ? ORDER BY d.id", DB_ARGS(DB_TEXT(id)),
			     (void **)&disks, &n, err);
	if (!r)
		r = journal_job(g, &job, disks, n, whole, err);
	return r || whole ? r : take_out(g, &job, disks, n, err);
}

struct request {
	const char *id; /* of the job, or of the VM context */
	bool cascade;
	struct catalog_deletion *rows;
	size_t n;
};

/* The write lock is held: the entries from the first one on are this transaction's. */
static int read_entries(const struct deleting *g, struct request *q, struct err *err)
{
	free(steal(&q->rows)); /* it may run again */
	q->n = 0;
	if (!g->first)
		return 0;
	return row_list(catalog_db(g->tx), &map, "WHERE x.id >= ? ORDER BY x.id",
			DB_ARGS(DB_I64(g->first)), (void **)&q->rows, &q->n, err);
}

static int delete_doomed(struct deleting *g, struct doomed *d, bool whole, struct err *err)
{
	int r = 0;

	if (d->n)
		qsort(d->jobs, d->n, sizeof(d->jobs[0]), newest_first);
	for (size_t i = 0; !r && i < d->n; i++)
		r = delete_job(g, d->jobs[i].id, whole, err);
	return r;
}

static int delete_job_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct request *q = arg;
	struct deleting g = {.tx = tx};
	struct doomed d = {.n = 0};
	struct catalog_backup job;
	int r = catalog_hub_check(tx, err);

	if (!r)
		r = find_job(&g, q->id, &job, err);
	if (!r)
		r = check_ended(&job, err);
	if (!r)
		r = doom_found(catalog_db(tx),
			       "SELECT j.id, " NEWEST_DISK " FROM backup_jobs j WHERE j.id = ?",
			       q->id, false, &d, err);
	if (!r)
		r = doom_children(catalog_db(tx), &d, err);
	if (!r && d.n > 1 && !q->cascade)
		r = refuse_children(&d, err);
	if (!r)
		r = delete_doomed(&g, &d, false, err);
	if (!r)
		r = read_entries(&g, q, err);
	free(d.jobs);
	return r;
}

static int delete_vm_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct request *q = arg;
	struct deleting g = {.tx = tx};
	struct doomed d = {.n = 0};
	struct db *db = catalog_db(tx);
	struct catalog_vm_context vm;
	int r = catalog_hub_check(tx, err);

	if (!r)
		r = catalog_vm_context_get(tx, q->id, &vm, err);
	if (!r)
		r = doom_found(db,
			       "SELECT j.id, " NEWEST_DISK " FROM backup_jobs j"
			       " JOIN vm_backup_contexts c ON c.context_id = j.vm_backup_context_id"
			       " WHERE c.vm_context_id = ?",
			       q->id, false, &d, err);
	if (!r)
		r = delete_doomed(&g, &d, true, err);
	if (!r)
		r = db_run(db, "DELETE FROM vm_backup_contexts WHERE vm_context_id = ?",
			   DB_ARGS(DB_TEXT(q->id)), NULL, err);
	if (!r)
		r = catalog_vm_context_delete(tx, q->id, err);
	if (!r)
		r = read_entries(&g, q, err);
	free(d.jobs);
	return r;
}

static int run_request(struct catalog *cat, catalog_tx_fn *fn, struct request *q,
		       struct catalog_deletion **rows, size_t *n, struct err *err)
{
	int r = catalog_tx(cat, fn, q, err);

	if (r) {
		free(q->rows);
		return r;
	}
	*rows = q->rows;
	*n = q->n;
	return 0;
}

int catalog_backup_delete(struct catalog *cat, const char *job_id, bool cascade,
			  struct catalog_deletion **rows, size_t *n, struct err *err)
{
	struct request q = {.id = job_id, .cascade = cascade};

	return run_request(cat, delete_job_tx, &q, rows, n, err);
}

int catalog_vm_context_delete_all(struct catalog *cat, const char *context_id,
				  struct catalog_deletion **rows, size_t *n, struct err *err)
{
	struct request q = {.id = context_id};

	return run_request(cat, delete_vm_tx, &q, rows, n, err);
}

/* --- reading the journal ---------------------------------------------------------------------- */

int catalog_deletions_list(struct catalog *cat, const char *repository_id,
			   struct catalog_deletion **rows, size_t *n, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	struct row_where w = {.n = 0};
	int r = catalog_lease(cat, &l, err);

	row_where_text(&w, "x.repository_id = ?", repository_id);
	row_where_tail(&w, "ORDER BY x.id");
	if (!r)
		r = row_list(l.db, &map, w.sql, w.args, w.n, (void **)rows, n, err);
	return catalog_result(cat, r);
}

int catalog_deletions_count(struct catalog *cat, int64_t *all, int64_t *failed, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = db_query_i64(l.db, "SELECT COUNT(*) FROM backup_deletions", DB_NO_ARGS, 0, all,
				 err);
	if (!r)
		r = db_query_i64(l.db,
				 "SELECT COUNT(*) FROM backup_deletions"
				 " WHERE error_message IS NOT NULL",
				 DB_NO_ARGS, 0, failed, err);
	return catalog_result(cat, r);
}

int catalog_deletion_get(struct catalog *cat, const char *backup_id, struct catalog_deletion *out,
			 struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_get(l.db, &map, "WHERE x.backup_id = ?", DB_ARGS(DB_TEXT(backup_id)), out,
			    err);
	return catalog_found(cat, r, err, "backup %s is not being deleted", backup_id);
}

int catalog_deletion_files(struct catalog *cat, int64_t id, struct catalog_deletion_file **rows,
			   size_t *n, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_list(l.db, &file_map, "WHERE f.deletion_id = ? ORDER BY f.id",
			     DB_ARGS(DB_I64(id)), (void **)rows, n, err);
	return catalog_result(cat, r);
}

int catalog_deletion_has_others(struct catalog *cat, const struct catalog_deletion *entry,
				bool *has, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int64_t n = 0;
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = db_query_i64(l.db,
				 "SELECT COUNT(*) FROM backup_deletions WHERE repository_id = ?"
				 " AND vm_name = ? AND id <> ? AND files_gone = 0 AND attempts > 0",
				 DB_ARGS(DB_TEXT(entry->repository_id), DB_TEXT(entry->vm_name),
					 DB_I64(entry->id)),
				 0, &n, err);
	*has = n > 0;
	return catalog_result(cat, r);
}

/* Whose hub is gone: takes this hub's token. */
#define NOBODYS                                                                                    \
	"(x.hub_token IS NULL OR (x.hub_token <> ? AND NOT EXISTS"                                 \
	" (SELECT 1 FROM hubs h WHERE h.token = x.hub_token)))"

int catalog_deletion_due(struct catalog *cat, struct catalog_deletion *out, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	const int64_t token = catalog_hub_token(cat);
	int64_t now = 0;
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = db_now_us(l.db, &now, err);
	/* An entry that a hub died over does not wait for its time. */
	if (!r)
		r = row_get(l.db, &map,
			    "WHERE (x.retry_at <= ? AND (x.hub_token IS NULL OR x.hub_token = ?))"
			    " OR (x.hub_token IS NOT NULL AND " NOBODYS ") ORDER BY x.id LIMIT 1",
			    DB_ARGS(DB_I64(now), DB_I64(token), DB_I64(token)), out, err);
	return catalog_found(cat, r, err, "there is nothing to delete");
}

/* --- working on it ---------------------------------------------------------------------------- */

struct work {
	const char *backup_id;
	int64_t id, retry_us;
	const char *reason;
	struct catalog_deletion row;
};

static int claim_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct work *w = arg;
	struct db *db = catalog_db(tx);
	const int64_t token = catalog_hub_token(tx);
	int64_t now = 0, mine = 0;
	int r = catalog_hub_check(tx, err);

	if (!r)
		r = db_now_us(db, &now, err);
	if (!r)
		r = catalog_deletion_get(tx, w->backup_id, &w->row, err);
	if (!r)
		r = db_query_i64(db,
				 "SELECT COUNT(*) FROM backup_deletions x"
				 " WHERE x.id = ? AND (x.hub_token = ? OR " NOBODYS ")",
				 DB_ARGS(DB_I64(w->row.id), DB_I64(token), DB_I64(token)), 0, &mine,
				 err);
	if (!r && !mine)
		r = err_set(err, CATALOG_E_BUSY, "another hub is deleting backup %s", w->backup_id);
	if (!r)
		r = db_run(db,
			   "UPDATE backup_deletions SET hub_token = ?, attempts = attempts + 1,"
			   " last_try_at = ?, retry_at = ? WHERE id = ?",
			   DB_ARGS(token ? DB_I64(token) : DB_NULL, DB_I64(now),
				   DB_I64(now + w->retry_us), DB_I64(w->row.id)),
			   NULL, err);
	return r ? r : catalog_deletion_get(tx, w->backup_id, &w->row, err);
}

int catalog_deletion_claim(struct catalog *cat, const char *backup_id, int64_t retry_ms,
			   struct catalog_deletion *out, struct err *err)
{
	struct work w = {.backup_id = backup_id, .retry_us = retry_ms * 1000};
	int r = catalog_tx(cat, claim_tx, &w, err);

	if (!r)
		*out = w.row;
	return r;
}

static int held(int r, int64_t changed, int64_t id, struct err *err)
{
	if (r || changed)
		return r;
	return err_set(err, CATALOG_E_FENCED,
		       "entry %" PRId64 " of the deletions is not this hub's any more", id);
}

/* A condition: the entry is still this hub's. Takes its id and the hub's token. */
#define MINE "id = ? AND COALESCE(hub_token, 0) = ?"

static int files_gone_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct work *w = arg;
	int64_t n = 0;
	int r = db_run(catalog_db(tx),
		       "UPDATE backup_deletions SET files_gone = 1, error_message = NULL"
		       " WHERE " MINE,
		       DB_ARGS(DB_I64(w->id), DB_I64(catalog_hub_token(tx))), &n, err);

	return held(r, n, w->id, err);
}

int catalog_deletion_files_gone(struct catalog *cat, int64_t id, struct err *err)
{
	struct work w = {.id = id};

	return catalog_tx(cat, files_gone_tx, &w, err);
}

static int done_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct work *w = arg;
	int64_t n = 0;
	int r = db_run(catalog_db(tx), "DELETE FROM backup_deletions WHERE " MINE,
		       DB_ARGS(DB_I64(w->id), DB_I64(catalog_hub_token(tx))), &n, err);

	return held(r, n, w->id, err);
}

int catalog_deletion_done(struct catalog *cat, int64_t id, struct err *err)
{
	struct work w = {.id = id};

	return catalog_tx(cat, done_tx, &w, err);
}

static int failed_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct work *w = arg;
	int64_t n = 0, now = 0;
	int r = db_now_us(catalog_db(tx), &now, err);

	if (!r)
		r = db_run(catalog_db(tx),
			   "UPDATE backup_deletions SET error_message = ?, hub_token = NULL,"
			   " retry_at = ? WHERE " MINE,
			   DB_ARGS(DB_OPT(w->reason), DB_I64(now + w->retry_us), DB_I64(w->id),
				   DB_I64(catalog_hub_token(tx))),
			   &n, err);
	return held(r, n, w->id, err);
}

int catalog_deletion_failed(struct catalog *cat, int64_t id, const char *reason, int64_t retry_ms,
			    struct err *err)
{
	char text[CATALOG_ERROR_SIZE];
	struct work w = {.id = id, .retry_us = retry_ms * 1000, .reason = text};

	catalog_text_cut(text, sizeof(text), reason);
	return catalog_tx(cat, failed_tx, &w, err);
}
