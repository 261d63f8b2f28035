#include "catalog/schedules.h"

#include "base/bytes.h"
#include "catalog/row.h"
#include "catalog/session.h"

#define S struct catalog_schedule

static const char *const type_names[] = {"full", "incremental"};
static const struct row_words types = {type_names, ARRAY_SIZE(type_names)};

static const struct row_field fields[] = {
	TEXT_COL(S, id, "id"),
	TEXT_COL(S, name, "name"),
	BOOL_COL(S, enabled, "enabled"),
	TEXT_COL(S, policy_id, "policy_id"),
	TEXT_COL(S, vm_context_id, "vm_context_id", ROW_OPT),
	ENUM_COL(S, backup_type, "backup_type", &types),
	TEXT_COL(S, cron_expression, "cron_expression"),
	TEXT_COL(S, timezone, "timezone"),
	TIME_COL(S, next_run_at_us, "next_run_at", ROW_OPT),
	TIME_COL(S, last_run_at_us, "last_run_at", ROW_OPT),
	TEXT_COL(S, claimed_by, "claimed_by", ROW_OPT),
	TIME_COL(S, claimed_until_us, "claimed_until", ROW_OPT),
	TIME_COL(S, created_at_us, "created_at"),
	TIME_COL(S, updated_at_us, "updated_at"),
};

static const struct row_map map = ROW_MAP(S, "schedules", "s", "", fields);

/* --- read ------------------------------------------------------------------------------------- */

int catalog_schedule_get(struct catalog *cat, const char *id, struct catalog_schedule *out,
			 struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_get(l.db, &map, "WHERE s.id = ?", DB_ARGS(DB_TEXT(id)), out, err);
	return catalog_found(cat, r, err, "there is no schedule %s", id);
}

int catalog_schedules_list(struct catalog *cat, const char *policy_id,
			   struct catalog_schedule **rows, size_t *n, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	struct row_where w = {.n = 0};
	int r = catalog_lease(cat, &l, err);

	row_where_text(&w, "s.policy_id = ?", policy_id);
	row_where_tail(&w, "ORDER BY s.name");
	if (!r)
		r = row_list(l.db, &map, w.sql, w.args, w.n, (void **)rows, n, err);
	return catalog_result(cat, r);
}

/* --- write ------------------------------------------------------------------------------------ */

struct write {
	struct catalog_schedule *row;
	bool create;
};

static int exists(struct db *db, const char *sql, const char *what, const char *id, struct err *err)
{
	int64_t n = 0;
	int r = db_query_i64(db, sql, DB_ARGS(DB_TEXT(id)), 0, &n, err);

	if (!r && !n)
		r = err_set(err, CATALOG_E_INVALID, "there is no %s %s", what, id);
	return r;
}

static struct db_arg time_or_null(int64_t us)
{
	return us ? DB_I64(us) : DB_NULL;
}

static int update_row(struct db *db, const struct catalog_schedule *s, struct err *err)
{
	int64_t changed = 0;
	int r = db_run(db,
		       "UPDATE schedules SET name = ?, enabled = ?, policy_id = ?,"
		       " vm_context_id = ?, backup_type = ?, cron_expression = ?, timezone = ?,"
		       " next_run_at = ?, claimed_by = NULL, claimed_until = NULL, updated_at = ?"
		       " WHERE id = ?",
		       DB_ARGS(DB_TEXT(s->name), DB_I64(s->enabled), DB_TEXT(s->policy_id),
			       DB_OPT(s->vm_context_id), DB_TEXT(type_names[s->backup_type]),
			       DB_TEXT(s->cron_expression), DB_TEXT(s->timezone),
			       time_or_null(s->next_run_at_us), DB_I64(s->updated_at_us),
			       DB_TEXT(s->id)),
		       &changed, err);

	if (!r && !changed)
		r = err_set(err, CATALOG_E_NOT_FOUND, "there is no schedule %s", s->id);
	return r;
}

static int write_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct write *w = arg;
	struct db *db = catalog_db(tx);
	struct catalog_schedule *row = w->row;
	int r = exists(db, "SELECT COUNT(*) FROM backup_policies WHERE id = ?", "policy",
		       row->policy_id, err);

	if (!r && row->vm_context_id[0])
		r = exists(db, "SELECT COUNT(*) FROM vm_replication_contexts WHERE context_id = ?",
			   "VM context", row->vm_context_id, err);
	if (r)
		return r;
	row->updated_at_us = catalog_now_us();
	if (w->create) {
		row->created_at_us = row->updated_at_us;
		row->last_run_at_us = row->claimed_until_us = 0;
		row->claimed_by[0] = '\0';
	}
	r = w->create ? row_insert(db, &map, row, err) : update_row(db, row, err);
	if (r == DB_E_UNIQUE)
		return err_set(err, CATALOG_E_EXISTS,
			       "a schedule named \"%s\" exists: choose another name", row->name);
	return r ? r : catalog_schedule_get(tx, row->id, row, err);
}

static int schedule_write(struct catalog *cat, struct write *w, struct err *err)
{
	if (!*w->row->name)
		return err_set(err, CATALOG_E_INVALID, "a schedule needs a name");
	if ((size_t)w->row->backup_type >= ARRAY_SIZE(type_names))
		return err_set(err, CATALOG_E_INVALID,
			       "a schedule's backup_type is full or incremental");
	return catalog_tx(cat, write_tx, w, err);
}

int catalog_schedule_create(struct catalog *cat, struct catalog_schedule *row, struct err *err)
{
	struct write w = {row, .create = true};

	if (!*row->id)
		catalog_new_id(row->id, "schedule-");
	return schedule_write(cat, &w, err);
}

int catalog_schedule_update(struct catalog *cat, struct catalog_schedule *row, struct err *err)
{
	struct write w = {row, .create = false};

	return schedule_write(cat, &w, err);
}

static int delete_tx(struct catalog *tx, void *arg, struct err *err)
{
	int64_t n = 0;
	int r = db_run(catalog_db(tx), "DELETE FROM schedules WHERE id = ?", DB_ARGS(DB_TEXT(arg)),
		       &n, err);

	if (!r && !n)
		r = err_set(err, CATALOG_E_NOT_FOUND, "there is no schedule %s", (const char *)arg);
	return r;
}

int catalog_schedule_delete(struct catalog *cat, const char *id, struct err *err)
{
	return catalog_tx(cat, delete_tx, (void *)id, err);
}

/* --- runs ------------------------------------------------------------------------------------- */

struct claim {
	const char *id, *hub;
	int64_t now, until, next;
	struct catalog_schedule row;
};

static int claim_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct claim *c = arg;
	struct db *db = catalog_db(tx);
	int r = row_get(db, &map,
			"WHERE s.enabled = 1 AND s.next_run_at <= ?"
			" AND (s.claimed_until IS NULL OR s.claimed_until <= ?)"
			" AND EXISTS (SELECT 1 FROM backup_policies p WHERE p.id = s.policy_id"
			" AND p.enabled = 1) ORDER BY s.next_run_at, s.id LIMIT 1",
			DB_ARGS(DB_I64(c->now), DB_I64(c->now)), &c->row, err);

	r = catalog_found(tx, r, err, "no schedule is due");
	if (r)
		return r;
	CATALOG_TEXT(c->row.claimed_by, c->hub);
	c->row.claimed_until_us = c->until;
	return db_run(db, "UPDATE schedules SET claimed_by = ?, claimed_until = ? WHERE id = ?",
		      DB_ARGS(DB_TEXT(c->hub), DB_I64(c->until), DB_TEXT(c->row.id)), NULL, err);
}

int catalog_schedule_claim(struct catalog *cat, const char *hub, int64_t now_us, int64_t until_us,
			   struct catalog_schedule *out, struct err *err)
{
	struct claim c = {.hub = hub, .now = now_us, .until = until_us};
	int r = catalog_tx(cat, claim_tx, &c, err);

	if (!r)
		*out = c.row;
	return r;
}

static int still_mine(int r, int64_t changed, const struct claim *c, struct err *err)
{
	if (!r && !changed)
		r = err_set(err, CATALOG_E_STATE,
			    "schedule %s was changed, deleted or claimed by another hub meanwhile",
			    c->id);
	return r;
}

static int renew_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct claim *c = arg;
	int64_t changed = 0;
	int r = db_run(catalog_db(tx),
		       "UPDATE schedules SET claimed_until = ? WHERE id = ? AND claimed_by = ?",
		       DB_ARGS(DB_I64(c->until), DB_TEXT(c->id), DB_TEXT(c->hub)), &changed, err);

	return still_mine(r, changed, c, err);
}

int catalog_schedule_renew(struct catalog *cat, const char *id, const char *hub, int64_t until_us,
			   struct err *err)
{
	struct claim c = {.id = id, .hub = hub, .until = until_us};

	return catalog_tx(cat, renew_tx, &c, err);
}

static int done_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct claim *c = arg;
	int64_t changed = 0;
	int r = db_run(
		catalog_db(tx),
		"UPDATE schedules SET last_run_at = ?, next_run_at = ?, claimed_by = NULL,"
		" claimed_until = NULL WHERE id = ? AND claimed_by = ?",
		DB_ARGS(DB_I64(c->now), time_or_null(c->next), DB_TEXT(c->id), DB_TEXT(c->hub)),
		&changed, err);

	return still_mine(r, changed, c, err);
}

int catalog_schedule_done(struct catalog *cat, const char *id, const char *hub, int64_t ran_at_us,
			  int64_t next_at_us, struct err *err)
{
	struct claim c = {.id = id, .hub = hub, .now = ran_at_us, .next = next_at_us};

	return catalog_tx(cat, done_tx, &c, err);
}
