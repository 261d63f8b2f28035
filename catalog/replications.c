#include "catalog/replications.h"

#include <errno.h>

#include "base/bytes.h"
#include "catalog/row.h"
#include "catalog/session.h"

#define R struct catalog_replication

static const char *const type_names[] = {"initial", "incremental"};
static const struct row_words types = {type_names, ARRAY_SIZE(type_names)};
static const char *const status_names[] = {"pending", "running", "completed", "failed",
					   "cancelled"};
static const struct row_words statuses = {status_names, ARRAY_SIZE(status_names)};

static const struct row_field fields[] = {
	TEXT_COL(R, id, "id"),
	TEXT_COL(R, vm_context_id, "vm_context_id"),
	TEXT_COL(R, vm_name, "v.vm_name", ROW_DERIVED),
	TEXT_COL(R, vm_path, "v.vm_path", ROW_DERIVED),
	ENUM_COL(R, type, "replication_type", &types),
	ENUM_COL(R, status, "status", &statuses),
	TEXT_COL(R, error_message, "error_message", ROW_OPT),
	TIME_COL(R, created_at_us, "created_at"),
	TIME_COL(R, updated_at_us, "updated_at"),
	TIME_COL(R, completed_at_us, "completed_at", ROW_OPT),
	I64_COL(R, disk_count, "(SELECT COUNT(*) FROM vm_disks d WHERE d.job_id = j.id)",
		ROW_DERIVED),
};

#define JOIN_VM "JOIN vm_replication_contexts v ON v.context_id = j.vm_context_id"

static const struct row_map map = ROW_MAP(R, "replication_jobs", "j", JOIN_VM, fields);

const char *catalog_replication_type_name(enum catalog_replication_type type)
{
	return type_names[type];
}

bool catalog_replication_type_parse(const char *name, enum catalog_replication_type *out)
{
	int i = row_word_find(&types, name ? name : "");

	if (i < 0)
		return false;
	*out = (enum catalog_replication_type)i;
	return true;
}

static bool has_ended(enum catalog_job_status status)
{
	return status != CATALOG_JOB_PENDING && status != CATALOG_JOB_RUNNING;
}

/* --- read ------------------------------------------------------------------------------------- */

int catalog_replication_get(struct catalog *cat, const char *id, struct catalog_replication *out,
			    struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_get(l.db, &map, "WHERE j.id = ?", DB_ARGS(DB_TEXT(id)), out, err);
	return catalog_found(cat, r, err, "there is no replication %s", id);
}

static int list(struct db *db, const struct catalog_replication_filter *f,
		struct catalog_replication **rows, size_t *n, int64_t *total, struct err *err)
{
	struct row_where w = {.n = 0};
	struct row_where count = {.sql = "SELECT COUNT(*) FROM replication_jobs j " JOIN_VM};
	int r = 0;

	row_where_text(&w, "j.vm_context_id = ?", f->vm_context_id);
	row_where_text(&w, "v.vm_name = ?", f->vm_name);
	row_where_text(&w, "j.status = ?", f->status ? status_names[*f->status] : NULL);
	if (total) {
		row_where_tail(&count, w.sql);
		r = db_query_i64(db, count.sql, w.args, w.n, 0, total, err);
	}
	if (r)
		return r;
	row_where_tail(&w, "ORDER BY j.created_at DESC, j.id DESC");
	row_where_limit(&w, f->limit, f->offset);
	return row_list(db, &map, w.sql, w.args, w.n, (void **)rows, n, err);
}

int catalog_replications_list(struct catalog *cat, const struct catalog_replication_filter *filter,
			      struct catalog_replication **rows, size_t *n, int64_t *total,
			      struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = list(l.db, filter, rows, n, total, err);
	return catalog_result(cat, r);
}

/* --- a job's life ----------------------------------------------------------------------------- */

#define NOT_ENDED "j.status IN ('pending', 'running')"

static int check_vm(struct catalog *tx, const char *vm_context_id, struct err *err)
{
	struct db *db = catalog_db(tx);
	struct catalog_replication other;
	int64_t n = 0;
	int r = db_query_i64(db,
			     "SELECT COUNT(*) FROM vm_replication_contexts WHERE context_id = ?",
			     DB_ARGS(DB_TEXT(vm_context_id)), 0, &n, err);

	if (!r && !n)
		r = err_set(err, CATALOG_E_NOT_FOUND, "there is no VM context %s", vm_context_id);
	if (r)
		return r;
	r = row_get(db, &map, "WHERE j.vm_context_id = ? AND " NOT_ENDED,
		    DB_ARGS(DB_TEXT(vm_context_id)), &other, err);
	if (r == DB_ROW)
		r = err_set(err, CATALOG_E_BUSY, "replication %s of VM %s has not ended", other.id,
			    other.vm_name);
	return r;
}

static int create_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct catalog_replication row = *(struct catalog_replication *)arg;
	struct db *db = catalog_db(tx);
	int64_t disks = 0;
	int r = check_vm(tx, row.vm_context_id, err);

	if (r)
		return r;
	if (!row.id[0])
		catalog_new_id(row.id, "repl-");
	row.status = CATALOG_JOB_PENDING;
	row.created_at_us = row.updated_at_us = catalog_now_us();
	row.completed_at_us = 0;
	r = row_insert(db, &map, &row, err);
	if (!r)
		r = db_run(db,
			   "UPDATE vm_disks SET job_id = ?, updated_at = ?"
			   " WHERE vm_context_id = ? AND missing = 0",
			   DB_ARGS(DB_TEXT(row.id), DB_I64(row.created_at_us),
				   DB_TEXT(row.vm_context_id)),
			   &disks, err);
	if (!r && !disks)
		r = err_set(err, CATALOG_E_INVALID, "VM context %s has no disks",
			    row.vm_context_id);
	return r ? r : catalog_replication_get(tx, row.id, arg, err);
}

int catalog_replication_create(struct catalog *cat, struct catalog_replication *row,
			       struct err *err)
{
	if ((size_t)row->type >= ARRAY_SIZE(type_names))
		return err_set(err, CATALOG_E_INVALID, "unknown replication type");
	return catalog_tx(cat, create_tx, row, err);
}

struct change {
	const char *id, *error, *disk_id, *change_id;
	enum catalog_job_status status;
};

static int status_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct change *c = arg;
	struct catalog_replication row;
	int64_t now = catalog_now_us();
	int r = catalog_replication_get(tx, c->id, &row, err);

	if (r)
		return r;
	if (has_ended(row.status) && c->status != row.status)
		return err_set(err, CATALOG_E_STATE, "replication %s ended before as %s", c->id,
			       status_names[row.status]);
	return db_run(catalog_db(tx),
		      "UPDATE replication_jobs SET status = ?, error_message = COALESCE(?,"
		      " error_message), updated_at = ?, completed_at = COALESCE(completed_at, ?)"
		      " WHERE id = ?",
		      DB_ARGS(DB_TEXT(status_names[c->status]), DB_OPT(c->error), DB_I64(now),
			      has_ended(c->status) ? DB_I64(now) : DB_NULL, DB_TEXT(c->id)),
		      NULL, err);
}

int catalog_replication_set_status(struct catalog *cat, const char *id,
				   enum catalog_job_status status, const char *error_message,
				   struct err *err)
{
	struct change c = {.id = id, .error = error_message, .status = status};

	if ((size_t)status >= ARRAY_SIZE(status_names))
		return err_set(err, CATALOG_E_INVALID, "unknown status");
	return catalog_tx(cat, status_tx, &c, err);
}

static int delete_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct catalog_replication row;
	int r = catalog_replication_get(tx, arg, &row, err);

	if (!r && row.status == CATALOG_JOB_RUNNING)
		r = err_set(err, CATALOG_E_STATE, "replication %s runs: end it first", row.id);
	if (!r)
		r = db_run(catalog_db(tx), "DELETE FROM replication_jobs WHERE id = ?",
			   DB_ARGS(DB_TEXT(row.id)), NULL, err);
	return r;
}

int catalog_replication_delete(struct catalog *cat, const char *id, struct err *err)
{
	return catalog_tx(cat, delete_tx, (void *)id, err);
}

/* --- change ids ------------------------------------------------------------------------------- */

static int change_id_of(struct db *db, const char *vm_path, const char *disk_id, char *change_id,
			size_t size, struct err *err)
{
	_cleanup_(db_releasep) struct db_stmt *st = NULL;
	int found = 0;
	int r = db_query(db,
			 "SELECT d.replication_change_id FROM vm_replication_contexts v"
			 " JOIN vm_disks d ON d.vm_context_id = v.context_id"
			 " WHERE v.vm_path = ? AND d.disk_id = ? AND NOT EXISTS (SELECT 1"
			 " FROM replication_jobs j WHERE j.vm_context_id = v.context_id"
			 " AND j.replication_type = 'initial' AND " NOT_ENDED ")",
			 DB_ARGS(DB_TEXT(vm_path), DB_TEXT(disk_id)), &st, err);

	while (!r && (r = db_step(st, err)) == DB_ROW) {
		const char *text = db_col_text(st, 0, NULL);

		if (!catalog_text_copy(change_id, size, text ? text : ""))
			return err_set(err, -EUCLEAN, "the change id of disk %s is too long",
				       disk_id);
		found++;
		r = 0;
	}
	if (!r && found > 1) /* whose it is cannot be told: all of it is never wrong */
		change_id[0] = '\0';
	return r;
}

int catalog_replication_change_id(struct catalog *cat, const char *vm_path, const char *disk_id,
				  char change_id[CATALOG_CHANGE_ID_SIZE], struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	change_id[0] = '\0';
	if (!r)
		r = change_id_of(l.db, vm_path, disk_id, change_id, CATALOG_CHANGE_ID_SIZE, err);
	return catalog_result(cat, r);
}

static int change_id_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct change *c = arg;
	struct catalog_replication row;
	int64_t changed = 0;
	int r = catalog_replication_get(tx, c->id, &row, err);

	if (!r)
		r = db_run(catalog_db(tx),
			   "UPDATE vm_disks SET replication_change_id = ?, updated_at = ?"
			   " WHERE vm_context_id = ? AND disk_id = ? AND job_id = ?",
			   DB_ARGS(DB_TEXT(c->change_id), DB_I64(catalog_now_us()),
				   DB_TEXT(row.vm_context_id), DB_TEXT(c->disk_id), DB_TEXT(c->id)),
			   &changed, err);
	if (!r && !changed)
		r = err_set(err, CATALOG_E_NOT_FOUND, "replication %s has no disk %s", c->id,
			    c->disk_id);
	return r;
}

int catalog_replication_set_change_id(struct catalog *cat, const char *id, const char *disk_id,
				      const char *change_id, struct err *err)
{
	struct change c = {.id = id, .disk_id = disk_id, .change_id = change_id};

	if (!*change_id || strlen(change_id) >= CATALOG_CHANGE_ID_SIZE)
		return err_set(err, CATALOG_E_INVALID, "a change id is between 1 and %d bytes long",
			       CATALOG_CHANGE_ID_SIZE - 1);
	return catalog_tx(cat, change_id_tx, &c, err);
}
