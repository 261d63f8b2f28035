#include "catalog/copies.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "catalog/backup_rows.h"
#include "catalog/policies.h"
#include "catalog/repositories.h"
#include "catalog/session.h"

#define C struct catalog_copy
#define D struct catalog_copy_disk

static const char *const status_names[] = {"pending", "copying", "verifying", "completed",
					   "failed"};
static const struct row_words statuses = {status_names, ARRAY_SIZE(status_names)};
static const char *const verification_names[] = {"pending", "passed", "failed"};
static const struct row_words verifications = {verification_names, ARRAY_SIZE(verification_names)};
static const char *const task_names[] = {"copy", "verify", "remove"};
static const struct row_words tasks = {task_names, ARRAY_SIZE(task_names)};

static const struct row_field fields[] = {
	TEXT_COL(C, id, "id"),
	TEXT_COL(C, backup_job_id, "backup_job_id"),
	TEXT_COL(C, repository_id, "repository_id"),
	TEXT_COL(C, copy_rule_id, "copy_rule_id", ROW_OPT),
	ENUM_COL(C, status, "status", &statuses),
	ENUM_COL(C, task, "task", &tasks),
	ENUM_COL(C, verification, "verification", &verifications),
	BOOL_COL(C, verify_after_copy, "verify_after_copy"),
	BOOL_COL(C, when_idle, "when_idle"),
	INT_COL(C, priority, "priority"),
	INT_COL(C, attempts, "attempts"),
	I64_COL(C, bytes_total, "bytes_total"),
	I64_COL(C, bytes_copied, "bytes_copied"),
	TEXT_COL(C, error_message, "error_message", ROW_OPT),
	TIME_COL(C, created_at_us, "created_at"),
	TIME_COL(C, started_at_us, "started_at", ROW_OPT),
	TIME_COL(C, completed_at_us, "completed_at", ROW_OPT),
	TIME_COL(C, verified_at_us, "verified_at", ROW_OPT),
	TIME_COL(C, retry_at_us, "retry_at", ROW_OPT),
	I64_COL(C, claim, "claim"),
	I64_COL(C, hub_token, "hub_token", ROW_OPT),
	TEXT_COL(C, vm_name, "j.vm_name", ROW_DERIVED),
	TEXT_COL(C, repository_name, "r.name", ROW_DERIVED),
};

#define JOINS                                                                                      \
	"JOIN backup_jobs j ON j.id = c.backup_job_id"                                             \
	" JOIN backup_repositories r ON r.id = c.repository_id"

static const struct row_map map = ROW_MAP(C, "backup_copies", "c", JOINS, fields);

static const struct row_field disk_fields[] = {
	TEXT_COL(D, copy_id, "copy_id"),	INT_COL(D, disk_index, "disk_index"),
	TEXT_COL(D, qcow2_path, "qcow2_path"),	TEXT_COL(D, part_path, "part_path"),
	I64_COL(D, bytes_total, "bytes_total"), I64_COL(D, bytes_stored, "bytes_stored"),
	TEXT_COL(D, sha256, "sha256"),
};
static const struct row_map disk_map = ROW_MAP(D, "backup_copy_disks", "d", "", disk_fields);

/* There is something to do; few rows are so. */
#define COPY_OPEN "c.status IN ('pending', 'copying', 'verifying')"

const char *catalog_copy_status_name(enum catalog_copy_status status)
{
	return status_names[status];
}

const char *catalog_copy_verification_name(enum catalog_copy_verification verification)
{
	return verification_names[verification];
}

bool catalog_copy_status_parse(const char *name, enum catalog_copy_status *out)
{
	int i = row_word_find(&statuses, name ? name : "");

	if (i < 0)
		return false;
	*out = (enum catalog_copy_status)i;
	return true;
}

/* --- read ------------------------------------------------------------------------------------- */

static int find(struct catalog *tx, const char *id, struct catalog_copy *out, struct err *err)
{
	int r = row_get(catalog_db(tx), &map, "WHERE c.id = ?", DB_ARGS(DB_TEXT(id)), out, err);

	return catalog_found(tx, r, err, "there is no copy %s", id);
}

int catalog_copy_get(struct catalog *cat, const char *id, struct catalog_copy *out, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_get(l.db, &map, "WHERE c.id = ?", DB_ARGS(DB_TEXT(id)), out, err);
	return catalog_found(cat, r, err, "there is no copy %s", id);
}

int catalog_copy_disks_list(struct catalog *cat, const char *id, struct catalog_copy_disk **rows,
			    size_t *n, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_list(l.db, &disk_map, "WHERE d.copy_id = ? ORDER BY d.disk_index",
			     DB_ARGS(DB_TEXT(id)), (void **)rows, n, err);
	return catalog_result(cat, r);
}

static const struct row_sort sorts[] = {
	{"created_at", "c.created_at"},
	{"status", "c.status"},
	{"completed_at", "c.completed_at"},
	{"bytes_total", "c.bytes_total"},
};

static int list(struct db *db, const struct catalog_copy_filter *f, struct catalog_copy **rows,
		size_t *n, int64_t *total, struct err *err)
{
	struct row_where w = {.n = 0};
	struct row_where count = {.sql = "SELECT COUNT(*) FROM backup_copies c"};
	int r = 0;

	row_where_text(&w, "c.backup_job_id = ?", f->backup_job_id);
	row_where_text(&w, "c.repository_id = ?", f->repository_id);
	row_where_text(&w, "c.status = ?", f->status ? status_names[*f->status] : NULL);
	if (total) {
		row_where_tail(&count, w.sql);
		r = db_query_i64(db, count.sql, w.args, w.n, 0, total, err);
	}
	if (!r)
		r = row_where_order(&w, sorts, ARRAY_SIZE(sorts), f->sort, f->descending, "c.id",
				    err);
	if (r)
		return r;
	row_where_limit(&w, f->limit, f->offset);
	return row_list(db, &map, w.sql, w.args, w.n, (void **)rows, n, err);
}

int catalog_copies_list(struct catalog *cat, const struct catalog_copy_filter *filter,
			struct catalog_copy **rows, size_t *n, int64_t *total, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = list(l.db, filter, rows, n, total, err);
	return catalog_result(cat, r);
}

int catalog_copies_held(struct catalog *cat, struct catalog_copy **rows, size_t *n, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_list(l.db, &map, "WHERE " COPY_OPEN " AND c.hub_token IS NOT NULL",
			     DB_NO_ARGS, (void **)rows, n, err);
	return catalog_result(cat, r);
}

/* --- asking ----------------------------------------------------------------------------------- */

static int tell(struct db *db, const struct catalog_copy *c, enum catalog_log_level level,
		const char *what, struct err *err)
{
	const struct catalog_job_at at = {c->backup_job_id, CATALOG_NONE, level, "copy"};

	return catalog_job_log_put(db, &at, catalog_now_us(), err, "copy in repository \"%s\": %s",
				   c->repository_name, what);
}

/* @new: what the caller wants to know of the one that is there. */
static int insert_copy(struct catalog *tx, struct catalog_copy *new, struct err *err)
{
	catalog_new_id(new->id, "copy-");
	new->status = CATALOG_COPY_PENDING;
	new->task = CATALOG_COPY_MAKE;
	new->verification = CATALOG_COPY_UNVERIFIED;
	new->hub_token = CATALOG_NONE;
	new->created_at_us = catalog_now_us();
	return row_insert(catalog_db(tx), &map, new, err);
}

static int check_none_there(struct catalog *tx, struct catalog_copy *copy, struct err *err)
{
	struct catalog_copy there;
	int r = row_get(catalog_db(tx), &map, "WHERE c.backup_job_id = ? AND c.repository_id = ?",
			DB_ARGS(DB_TEXT(copy->backup_job_id), DB_TEXT(copy->repository_id)), &there,
			err);

	if (r != DB_ROW)
		return r;
	CATALOG_TEXT(copy->id, there.id);
	return err_set(err, CATALOG_E_EXISTS,
		       "backup %s has a copy in repository \"%s\" already: %s, which is %s%s",
		       there.backup_job_id, there.repository_name, there.id,
		       status_names[there.status],
		       there.status == CATALOG_COPY_FAILED ? ": retry or delete it" : "");
}

static int check_request(struct catalog *tx, struct catalog_copy *copy, struct catalog_backup *out,
			 struct err *err)
{
	struct catalog_repository repo;
	struct catalog_backup job;
	int r = catalog_backup_get(tx, copy->backup_job_id, &job, err);

	if (!r)
		r = catalog_repository_get(tx, copy->repository_id, &repo, err);
	if (r)
		return r;
	if (job.status != CATALOG_JOB_COMPLETED)
		return err_set(err, CATALOG_E_STATE,
			       "backup %s is %s: only a completed backup can be copied", job.id,
			       catalog_job_status_name(job.status));
	if (!strcmp(job.repository_id, repo.id))
		return err_set(err, CATALOG_E_STATE,
			       "backup %s is in repository \"%s\" itself: name another one", job.id,
			       repo.name);
	*out = job;
	return check_none_there(tx, copy, err);
}

static int check_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct catalog_backup job;

	return check_request(tx, arg, &job, err);
}

int catalog_copy_check(struct catalog *cat, struct catalog_copy *copy, struct err *err)
{
	return catalog_tx(cat, check_tx, copy, err);
}

static int request_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct catalog_copy *copy = arg;
	struct catalog_copy row = {
		.verify_after_copy = copy->verify_after_copy,
		.priority = copy->priority ? copy->priority : 1,
	};
	struct catalog_backup job;
	int r = check_request(tx, copy, &job, err);

	if (r)
		return r;
	CATALOG_TEXT(row.backup_job_id, job.id);
	CATALOG_TEXT(row.repository_id, copy->repository_id);
	row.bytes_total = job.total_bytes;
	r = insert_copy(tx, &row, err);
	if (!r)
		r = find(tx, row.id, copy, err);
	return r ? r : tell(catalog_db(tx), copy, CATALOG_LOG_INFO, "asked for", err);
}

int catalog_copy_request(struct catalog *cat, struct catalog_copy *copy, struct err *err)
{
	return catalog_tx(cat, request_tx, copy, err);
}

static int plan_one(struct catalog *tx, const struct catalog_backup *job,
		    const struct catalog_copy_rule *rule, struct err *err)
{
	struct catalog_copy row = {
		.verify_after_copy = rule->verify_after_copy,
		.priority = rule->priority,
		.when_idle = rule->copy_mode == CATALOG_COPY_SCHEDULED,
		.bytes_total = job->total_bytes,
	};
	int r;

	if (!rule->enabled || rule->copy_mode == CATALOG_COPY_MANUAL ||
	    !strcmp(rule->repository_id, job->repository_id))
		return 0;
	CATALOG_TEXT(row.backup_job_id, job->id);
	CATALOG_TEXT(row.repository_id, rule->repository_id);
	CATALOG_TEXT(row.copy_rule_id, rule->id);
	r = insert_copy(tx, &row, err);
	if (!r)
		r = find(tx, row.id, &row, err);
	return r ? r
		 : tell(catalog_db(tx), &row, CATALOG_LOG_INFO,
			row.when_idle ? "to be made when nothing else runs" : "to be made now",
			err);
}

int catalog_copies_plan(struct catalog *tx, const struct catalog_backup *job, struct err *err)
{
	_cleanup_(freep) struct catalog_copy_rule *rules = NULL;
	int64_t enabled = 0;
	size_t n = 0;
	int r;

	if (!job->policy_id[0])
		return 0;
	r = db_query_i64(catalog_db(tx), "SELECT enabled FROM backup_policies WHERE id = ?",
			 DB_ARGS(DB_TEXT(job->policy_id)), 0, &enabled, err);
	if (r || !enabled)
		return r;
	r = catalog_copy_rules_list(tx, job->policy_id, &rules, &n, err);
	for (size_t i = 0; !r && i < n; i++)
		r = plan_one(tx, job, &rules[i], err);
	return r;
}

static int retry_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct catalog_copy c;
	int r = find(tx, arg, &c, err);

	if (r)
		return r;
	if (c.status != CATALOG_COPY_FAILED &&
	    !(c.status == CATALOG_COPY_PENDING && c.task == CATALOG_COPY_MAKE))
		return err_set(
			err, CATALOG_E_STATE, "copy %s is %s: there is nothing to try again", c.id,
			c.task == CATALOG_COPY_REMOVE ? "being removed" : status_names[c.status]);
	return db_run(catalog_db(tx),
		      "UPDATE backup_copies SET status = 'pending', task = 'copy', attempts = 0,"
		      " retry_at = NULL, when_idle = 0 WHERE id = ?",
		      DB_ARGS(DB_TEXT(c.id)), NULL, err);
}

int catalog_copy_retry(struct catalog *cat, const char *id, struct err *err)
{
	return catalog_tx(cat, retry_tx, (void *)id, err);
}

static int verify_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct catalog_copy c;
	int r = find(tx, arg, &c, err);

	if (!r && c.status != CATALOG_COPY_COMPLETED)
		r = err_set(err, CATALOG_E_STATE,
			    "copy %s is %s: only a completed copy can be verified", c.id,
			    status_names[c.status]);
	return r ? r
		 : db_run(catalog_db(tx),
			  "UPDATE backup_copies SET status = 'verifying', task = 'verify',"
			  " verification = 'pending', attempts = 0, retry_at = NULL WHERE id = ?",
			  DB_ARGS(DB_TEXT(c.id)), NULL, err);
}

int catalog_copy_verify(struct catalog *cat, const char *id, struct err *err)
{
	return catalog_tx(cat, verify_tx, (void *)id, err);
}

/* --- taking ----------------------------------------------------------------------------------- */

/* The row is the handle's hub's from here on. */
static int take(struct catalog *tx, struct catalog_copy *c, struct err *err)
{
	c->claim++;
	c->hub_token = catalog_hub_token(tx);
	return db_run(catalog_db(tx),
		      "UPDATE backup_copies SET claim = ?, hub_token = ? WHERE id = ?",
		      DB_ARGS(DB_I64(c->claim), DB_I64(c->hub_token), DB_TEXT(c->id)), NULL, err);
}

struct begin_remove {
	const char *id;
	struct catalog_copy row;
	bool held;
};

/* What was completed is kept, also while it is read back; what is to go anyway, or has turned out
 * bad, is not. */
static int check_kept(struct catalog *tx, const struct catalog_copy *c, struct err *err)
{
	struct catalog_repository repo;
	int r;

	if (c->status != CATALOG_COPY_COMPLETED &&
	    !(c->status == CATALOG_COPY_VERIFYING && c->task == CATALOG_COPY_VERIFY))
		return 0;
	r = catalog_repository_get(tx, c->repository_id, &repo, err);
	return r ? r
		 : catalog_repository_keeps(catalog_db(tx), &repo, "copy", c->id,
					    c->completed_at_us, err);
}

static int begin_remove_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct begin_remove *b = arg;
	int r = find(tx, b->id, &b->row, err);

	if (!r)
		r = check_kept(tx, &b->row, err);
	if (r)
		return r;
	b->held = b->row.hub_token != CATALOG_NONE;
	r = db_run(catalog_db(tx),
		   b->held ? "UPDATE backup_copies SET task = 'remove' WHERE id = ?"
			   : "UPDATE backup_copies SET task = 'remove', status = 'pending',"
			     " retry_at = NULL WHERE id = ?",
		   DB_ARGS(DB_TEXT(b->id)), NULL, err);
	if (r || b->held)
		return r;
	b->row.task = CATALOG_COPY_REMOVE;
	b->row.status = CATALOG_COPY_PENDING;
	return take(tx, &b->row, err);
}

int catalog_copy_begin_remove(struct catalog *cat, const char *id, struct catalog_copy *copy,
			      bool *held, struct err *err)
{
	struct begin_remove b = {.id = id};
	int r = catalog_tx(cat, begin_remove_tx, &b, err);

	if (r)
		return r;
	*copy = b.row;
	*held = b.held;
	return 0;
}

/* Nobody is at it and its time has come. What writes to a repository waits until that is enabled,
 * and what is for idle times until nothing else is done on any hub. */
#define COPY_DUE                                                                                   \
	COPY_OPEN " AND c.hub_token IS NULL AND (c.retry_at IS NULL OR c.retry_at <= ?)"           \
		  " AND (c.task <> 'copy' OR (r.enabled = 1 AND (c.when_idle = 0 OR (NOT EXISTS"   \
		  " (SELECT 1 FROM backup_jobs b WHERE b." JOB_RUNS ") AND NOT EXISTS"             \
		  " (SELECT 1 FROM backup_copies o WHERE o.status IN ('copying', 'verifying')"     \
		  " AND o.hub_token IS NOT NULL)))))"

static int fail_without_backup(struct catalog *tx, const struct catalog_copy *c, struct err *err)
{
	return db_run(catalog_db(tx),
		      "UPDATE backup_copies SET status = 'failed', error_message = ? WHERE id = ?",
		      DB_ARGS(DB_TEXT("its backup is not completed any more: it was deleted, or is "
				      "being deleted"),
			      DB_TEXT(c->id)),
		      NULL, err);
}

static int begin(struct catalog *tx, struct catalog_copy *c, struct err *err)
{
	struct db *db = catalog_db(tx);
	int r = take(tx, c, err);

	if (r)
		return r;
	c->started_at_us = catalog_now_us();
	c->attempts++;
	if (c->task == CATALOG_COPY_MAKE) {
		c->status = CATALOG_COPY_COPYING;
		c->bytes_copied = 0;
	}
	return db_run(db,
		      "UPDATE backup_copies SET status = ?, attempts = ?, bytes_copied = ?,"
		      " started_at = ?, retry_at = NULL WHERE id = ?",
		      DB_ARGS(DB_TEXT(status_names[c->status]), DB_I64(c->attempts),
			      DB_I64(c->bytes_copied), DB_I64(c->started_at_us), DB_TEXT(c->id)),
		      NULL, err);
}

struct claim {
	struct catalog_copy row;
	bool got;
};

static int claim_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct claim *claim = arg;
	struct catalog_copy *c = &claim->row;
	struct catalog_backup job;
	int r;

	claim->got = false;
	while (!claim->got) {
		r = row_get(catalog_db(tx), &map,
			    "WHERE " COPY_DUE " ORDER BY c.priority, c.created_at, c.id LIMIT 1",
			    DB_ARGS(DB_I64(catalog_now_us())), c, err);
		if (r == DB_DONE) /* those that failed here are to be committed */
			return 0;
		if (r == DB_ROW)
			r = catalog_backup_get(tx, c->backup_job_id, &job, err);
		if (r)
			return r;
		claim->got = c->task != CATALOG_COPY_MAKE || job.status == CATALOG_JOB_COMPLETED;
		r = claim->got ? begin(tx, c, err) : fail_without_backup(tx, c, err);
		if (r)
			return r;
	}
	return 0;
}

/* Looking costs no lock; mostly there is nothing. */
static int anything(struct catalog *cat, const char *from_where, const struct db_arg *args,
		    size_t n_args, bool *found, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int64_t n = 0;
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = db_query_i64(l.db, from_where, args, n_args, 0, &n, err);
	*found = n > 0;
	return catalog_result(cat, r);
}

int catalog_copy_claim(struct catalog *cat, struct catalog_copy *out, struct err *err)
{
	struct claim claim = {.got = false};
	bool due = false;
	int r = anything(cat, "SELECT COUNT(*) FROM backup_copies c " JOINS " WHERE " COPY_DUE,
			 DB_ARGS(DB_I64(catalog_now_us())), &due, err);

	if (!r && due)
		r = catalog_tx(cat, claim_tx, &claim, err);
	if (!r && !claim.got)
		r = err_set(err, CATALOG_E_NOT_FOUND, "there is no copy to make");
	if (!r)
		*out = claim.row;
	return r;
}

/* A hub that is gone has no row: catalog_hub_take_over() of another removes it when its lease is
 * over, its own next start at once. */
#define HUB_IS_GONE                                                                                \
	COPY_OPEN " AND c.hub_token IS NOT NULL AND c.hub_token <> ? AND NOT EXISTS"               \
		  " (SELECT 1 FROM hubs h WHERE h.token = c.hub_token)"

struct take_over {
	struct catalog_copy *rows;
	size_t n;
};

static int take_over_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct take_over *t = arg;
	int r;

	/* It may run again. */
	free(steal(&t->rows));
	t->n = 0;
	r = catalog_hub_check(tx, err);
	if (!r)
		r = row_list(catalog_db(tx), &map, "WHERE " HUB_IS_GONE " ORDER BY c.id",
			     DB_ARGS(DB_I64(catalog_hub_token(tx))), (void **)&t->rows, &t->n, err);
	for (size_t i = 0; !r && i < t->n; i++)
		r = take(tx, &t->rows[i], err);
	return r;
}

int catalog_copies_take_over(struct catalog *cat, struct catalog_copy **rows, size_t *n,
			     struct err *err)
{
	struct take_over t = {.rows = NULL};
	bool gone = false;
	int r = anything(cat, "SELECT COUNT(*) FROM backup_copies c WHERE " HUB_IS_GONE,
			 DB_ARGS(DB_I64(catalog_hub_token(cat))), &gone, err);

	*rows = NULL;
	*n = 0;
	if (r || !gone)
		return r;
	r = catalog_tx(cat, take_over_tx, &t, err);
	if (r) {
		free(t.rows);
		return r;
	}
	*rows = t.rows;
	*n = t.n;
	return 0;
}

/* --- for who holds it ------------------------------------------------------------------------- */

struct hold {
	const struct catalog_copy *copy;
	const struct catalog_copy_disk *disks;
	size_t n;
	int64_t bytes;
	bool verified, remove;
	struct catalog_copy_failure failure;
};

static int check_held(struct catalog *tx, const struct catalog_copy *copy, struct catalog_copy *now,
		      struct err *err)
{
	int r = find(tx, copy->id, now, err);

	if (r && r != CATALOG_E_NOT_FOUND)
		return r;
	if (!r && now->claim == copy->claim && now->hub_token != CATALOG_NONE)
		return 0;
	return err_set(err, CATALOG_E_FENCED, "copy %s was taken over by another hub", copy->id);
}

static int store_disks(struct db *db, const struct hold *h, struct err *err)
{
	int r = db_run(db, "DELETE FROM backup_copy_disks WHERE copy_id = ?",
		       DB_ARGS(DB_TEXT(h->copy->id)), NULL, err);

	for (size_t i = 0; !r && i < h->n; i++)
		r = row_insert(db, &disk_map, &h->disks[i], err);
	return r;
}

static int set_disks_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct hold *h = arg;
	struct catalog_copy now;
	int64_t total = 0;
	int r = check_held(tx, h->copy, &now, err);

	for (size_t i = 0; i < h->n; i++)
		total += h->disks[i].bytes_total;
	if (!r)
		r = store_disks(catalog_db(tx), h, err);
	return r || !h->n ? r
			  : db_run(catalog_db(tx),
				   "UPDATE backup_copies SET bytes_total = ? WHERE id = ?",
				   DB_ARGS(DB_I64(total), DB_TEXT(now.id)), NULL, err);
}

int catalog_copy_set_disks(struct catalog *cat, const struct catalog_copy *copy,
			   const struct catalog_copy_disk *disks, size_t n, struct err *err)
{
	struct hold h = {.copy = copy, .disks = disks, .n = n};

	return catalog_tx(cat, set_disks_tx, &h, err);
}

/* The token too: a hub that lost its place and has another now goes on with what nobody took. */
static int progress_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct hold *h = arg;
	struct catalog_copy now;
	int r = check_held(tx, h->copy, &now, err);

	if (r)
		return r;
	h->remove = now.task == CATALOG_COPY_REMOVE && h->copy->task != CATALOG_COPY_REMOVE;
	return db_run(catalog_db(tx),
		      "UPDATE backup_copies SET bytes_copied = ?, hub_token = ? WHERE id = ?",
		      DB_ARGS(DB_I64(h->bytes), DB_I64(catalog_hub_token(tx)), DB_TEXT(now.id)),
		      NULL, err);
}

int catalog_copy_progress(struct catalog *cat, const struct catalog_copy *copy,
			  int64_t bytes_copied, bool *remove, struct err *err)
{
	struct hold h = {.copy = copy, .bytes = bytes_copied};
	int r = catalog_tx(cat, progress_tx, &h, err);

	*remove = !r && h.remove;
	return r;
}

static int verifying_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct hold *h = arg;
	struct catalog_copy now;
	int r = check_held(tx, h->copy, &now, err);

	return r ? r
		 : db_run(catalog_db(tx),
			  "UPDATE backup_copies SET status = 'verifying', bytes_copied = "
			  "bytes_total"
			  " WHERE id = ?",
			  DB_ARGS(DB_TEXT(now.id)), NULL, err);
}

int catalog_copy_set_verifying(struct catalog *cat, const struct catalog_copy *copy,
			       struct err *err)
{
	struct hold h = {.copy = copy};

	return catalog_tx(cat, verifying_tx, &h, err);
}

static int complete_row(struct catalog *tx, const struct hold *h, struct err *err)
{
	const struct db_arg at = DB_I64(catalog_now_us());
	bool again = h->copy->task == CATALOG_COPY_VERIFY;

	return db_run(catalog_db(tx),
		      "UPDATE backup_copies SET status = 'completed', verification = ?,"
		      " error_message = NULL, bytes_copied = bytes_total, attempts = ?,"
		      " completed_at = COALESCE(?, completed_at),"
		      " verified_at = COALESCE(?, verified_at), hub_token = NULL WHERE id = ?",
		      DB_ARGS(DB_TEXT(verification_names[h->verified ? CATALOG_COPY_PASSED
								     : CATALOG_COPY_UNVERIFIED]),
			      DB_I64(h->copy->attempts), again ? DB_NULL : at,
			      h->verified ? at : DB_NULL, DB_TEXT(h->copy->id)),
		      NULL, err);
}

static int complete_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct hold *h = arg;
	struct catalog_copy now;
	int r = find(tx, h->copy->id, &now, NULL);

	if (!r && now.claim == h->copy->claim && now.status == CATALOG_COPY_COMPLETED)
		return 0;
	r = check_held(tx, h->copy, &now, err);
	if (r)
		return r;
	r = store_disks(catalog_db(tx), h, err);
	if (!r)
		r = complete_row(tx, h, err);
	/* Whoever wants it removed meanwhile finds nobody at it. */
	if (!r && now.task == CATALOG_COPY_REMOVE)
		return db_run(catalog_db(tx),
			      "UPDATE backup_copies SET status = 'pending' WHERE id = ?",
			      DB_ARGS(DB_TEXT(now.id)), NULL, err);
	return r ? r
		 : tell(catalog_db(tx), &now, CATALOG_LOG_INFO,
			h->copy->task == CATALOG_COPY_VERIFY ? "verified again"
			: h->verified			     ? "completed and verified"
							     : "completed",
			err);
}

int catalog_copy_complete(struct catalog *cat, const struct catalog_copy *copy,
			  const struct catalog_copy_disk *disks, size_t n, bool verified,
			  struct err *err)
{
	struct hold h = {.copy = copy, .disks = disks, .n = n, .verified = verified};

	return catalog_tx(cat, complete_tx, &h, err);
}

static int fail_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct hold *h = arg;
	const struct catalog_copy_failure *f = &h->failure;
	struct catalog_copy now;
	char reason[CATALOG_ERROR_SIZE], told[CATALOG_ERROR_SIZE + 64];
	bool last = !f->retry_at_us;
	int r = check_held(tx, h->copy, &now, err);

	if (r)
		return r;
	catalog_text_cut(reason, sizeof(reason), f->reason);
	snprintf(told, sizeof(told), "attempt %d failed%s: %s", now.attempts,
		 last ? ", there is no other" : "", reason);
	last = last && now.task != CATALOG_COPY_REMOVE;
	r = db_run(catalog_db(tx),
		   "UPDATE backup_copies SET status = ?, error_message = ?, retry_at = ?,"
		   " verification = ?, hub_token = NULL WHERE id = ?",
		   DB_ARGS(DB_TEXT(last ? "failed" : "pending"), DB_TEXT(reason),
			   f->retry_at_us ? DB_I64(f->retry_at_us) : DB_NULL,
			   DB_TEXT(verification_names[f->differs ? CATALOG_COPY_DIFFERS
								 : CATALOG_COPY_UNVERIFIED]),
			   DB_TEXT(now.id)),
		   NULL, err);
	return r ? r
		 : tell(catalog_db(tx), &now, last ? CATALOG_LOG_ERROR : CATALOG_LOG_WARNING, told,
			err);
}

int catalog_copy_fail(struct catalog *cat, const struct catalog_copy *copy,
		      const struct catalog_copy_failure *failure, struct err *err)
{
	struct hold h = {.copy = copy, .failure = *failure};

	return catalog_tx(cat, fail_tx, &h, err);
}

static int keep_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct hold *h = arg;
	struct catalog_copy now;
	char reason[CATALOG_ERROR_SIZE];
	int r = check_held(tx, h->copy, &now, err);

	if (r)
		return r;
	catalog_text_cut(reason, sizeof(reason), h->failure.reason);
	r = db_run(catalog_db(tx),
		   "UPDATE backup_copies SET status = ?, error_message = ?, hub_token = NULL WHERE "
		   "id = ?",
		   DB_ARGS(DB_TEXT(now.task == CATALOG_COPY_REMOVE ? "pending" : "completed"),
			   DB_TEXT(reason), DB_TEXT(now.id)),
		   NULL, err);
	return r ? r : tell(catalog_db(tx), &now, CATALOG_LOG_WARNING, reason, err);
}

int catalog_copy_keep(struct catalog *cat, const struct catalog_copy *copy, const char *reason,
		      struct err *err)
{
	struct hold h = {.copy = copy, .failure = {.reason = reason}};

	return catalog_tx(cat, keep_tx, &h, err);
}

static int release_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct hold *h = arg;
	struct catalog_copy now;
	int r = check_held(tx, h->copy, &now, err);

	if (r)
		return r;
	return db_run(catalog_db(tx),
		      "UPDATE backup_copies SET status = ?, bytes_copied = ?, attempts = ?,"
		      " hub_token = NULL WHERE id = ?",
		      DB_ARGS(DB_TEXT(now.task == CATALOG_COPY_VERIFY ? "verifying" : "pending"),
			      DB_I64(now.task == CATALOG_COPY_VERIFY ? now.bytes_copied : 0),
			      DB_I64(MAX(now.attempts - 1, 0)), DB_TEXT(now.id)),
		      NULL, err);
}

int catalog_copy_release(struct catalog *cat, const struct catalog_copy *copy, struct err *err)
{
	struct hold h = {.copy = copy};

	return catalog_tx(cat, release_tx, &h, err);
}

static int remove_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct hold *h = arg;
	struct catalog_copy now;
	int r = check_held(tx, h->copy, &now, err);

	if (!r)
		r = db_run(catalog_db(tx), "DELETE FROM backup_copies WHERE id = ?",
			   DB_ARGS(DB_TEXT(now.id)), NULL, err);
	return r ? r : tell(catalog_db(tx), &now, CATALOG_LOG_INFO, "removed", err);
}

int catalog_copy_remove(struct catalog *cat, const struct catalog_copy *copy, struct err *err)
{
	struct hold h = {.copy = copy};

	return catalog_tx(cat, remove_tx, &h, err);
}
