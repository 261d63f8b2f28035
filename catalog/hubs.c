#include "catalog/hubs.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "catalog/backup_rows.h"
#include "catalog/migrate.h"
#include "catalog/session.h"

#define H struct catalog_hub

static const struct row_field fields[] = {
	I64_COL(H, token, "token"),
	TEXT_COL(H, id, "id"),
	TEXT_COL(H, name, "name"),
	TEXT_COL(H, instance, "instance"),
	I64_COL(H, started_at_us, "started_at"),
	I64_COL(H, heartbeat_at_us, "heartbeat_at"),
	I64_COL(H, steady_since_us, "steady_since"),
	I64_COL(H, lease_until_us, "lease_until"),
};

static const struct row_map map = ROW_MAP(H, "hubs", "h", "", fields);

static int no_hub(int64_t token, struct err *err)
{
	return err_set(err, CATALOG_E_FENCED,
		       "this hub (token %" PRId64 ") was not heard of for longer than its lease: "
		       "others took its place",
		       token);
}

/* --- joining and leaving ---------------------------------------------------------------------- */

struct join {
	struct catalog_hub *hub;
	int64_t lease_us;
};

static int next_token(struct db *db, int64_t *token, struct err *err)
{
	int64_t changed = 0;
	int r = db_run(db, "UPDATE hub_tokens SET last_token = last_token + 1 WHERE id = 1",
		       DB_NO_ARGS, &changed, err);

	if (!r && !changed)
		r = db_run(db, "INSERT INTO hub_tokens (id, last_token) VALUES (1, 1)", DB_NO_ARGS,
			   NULL, err);
	return r ? r
		 : db_query_i64(db, "SELECT last_token FROM hub_tokens WHERE id = 1", DB_NO_ARGS, 0,
				token, err);
}

static int join_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct join *j = arg;
	struct catalog_hub *hub = j->hub;
	struct db *db = catalog_db(tx);
	int r = catalog_schema_check(db, err);

	if (!r)
		r = db_now_us(db, &hub->started_at_us, err);
	if (!r)
		r = next_token(db, &hub->token, err);
	if (!r)
		r = db_run(db, "DELETE FROM hubs WHERE instance = ?",
			   DB_ARGS(DB_TEXT(hub->instance)), NULL, err);
	hub->heartbeat_at_us = hub->steady_since_us = hub->started_at_us;
	hub->lease_until_us = hub->started_at_us + j->lease_us;
	return r ? r : row_insert(db, &map, hub, err);
}

int catalog_hub_join(struct catalog *cat, struct catalog_hub *hub, int64_t lease_ms,
		     struct err *err)
{
	struct catalog_hub joined = *hub;
	struct join j = {&joined, lease_ms * 1000};
	int r;

	if (!*hub->name || !*hub->instance)
		return err_set(err, CATALOG_E_INVALID, "a hub without a name is refused");
	catalog_new_id(joined.id, "hub-");
	r = catalog_tx(cat, join_tx, &j, err);
	if (r)
		return r;
	catalog_set_hub_token(cat, joined.token);
	*hub = joined;
	return 0;
}

static int leave_tx(struct catalog *tx, void *arg, struct err *err)
{
	const int64_t *token = arg;

	return db_run(catalog_db(tx),
		      "DELETE FROM hubs WHERE token = ? AND NOT EXISTS (SELECT 1 FROM backup_jobs j"
		      " WHERE j.hub_token = hubs.token AND j." JOB_RUNS ")",
		      DB_ARGS(DB_I64(*token)), NULL, err);
}

int catalog_hub_leave(struct catalog *cat, struct err *err)
{
	int64_t token = catalog_hub_token(cat);
	int r = catalog_tx(cat, leave_tx, &token, err);

	if (!r)
		catalog_set_hub_token(cat, 0);
	return r;
}

/* --- staying ---------------------------------------------------------------------------------- */

struct renew {
	int64_t token, lease_us;
};

static int renew_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct renew *n = arg;
	struct db *db = catalog_db(tx);
	int64_t now = 0, changed = 0;
	int r = db_now_us(db, &now, err);

	if (!r)
		/* In this order: one database reads what it has just set. */
		r = db_run(db,
			   "UPDATE hubs SET heartbeat_at = ?, steady_since ="
			   " CASE WHEN lease_until < ? THEN ? ELSE steady_since END,"
			   " lease_until = ? WHERE token = ?",
			   DB_ARGS(DB_I64(now), DB_I64(now), DB_I64(now), DB_I64(now + n->lease_us),
				   DB_I64(n->token)),
			   &changed, err);
	return r || changed ? r : no_hub(n->token, err);
}

int catalog_hub_renew(struct catalog *cat, int64_t lease_ms, struct err *err)
{
	struct renew n = {catalog_hub_token(cat), lease_ms * 1000};

	return catalog_tx(cat, renew_tx, &n, err);
}

int catalog_hub_check(struct catalog *tx, struct err *err)
{
	int64_t token = catalog_hub_token(tx), there = 0;
	int r;

	if (!token)
		return 0;
	r = db_query_i64(catalog_db(tx), "SELECT token FROM hubs WHERE token = ?",
			 DB_ARGS(DB_I64(token)), 0, &there, err);
	return r || there ? r : no_hub(token, err);
}

int catalog_hub_fenced(struct catalog *tx, const char *job_id, int64_t holder, struct err *err)
{
	struct catalog_hub hub;
	int r = row_get(catalog_db(tx), &map, "WHERE h.token = ?", DB_ARGS(DB_I64(holder)), &hub,
			err);

	if (r == DB_DONE)
		return err_set(err, CATALOG_E_FENCED,
			       "backup job %s belongs to a hub that is gone: one of the others "
			       "will end it",
			       job_id);
	if (r != DB_ROW)
		return r;
	return err_set(err, CATALOG_E_FENCED,
		       "backup job %s is held by hub \"%s\" (token %" PRId64 "), not by this one "
		       "(token %" PRId64 "): ask there",
		       job_id, hub.name, holder, catalog_hub_token(tx));
}

/* --- taking over ------------------------------------------------------------------------------ */

/* A running job whose hub is gone: takes this hub's token and the database's time. */
#define HUB_IS_GONE                                                                                \
	" j." JOB_RUNS " AND (j.hub_token IS NULL OR (j.hub_token <> ? AND NOT EXISTS"             \
	" (SELECT 1 FROM hubs h WHERE h.token = j.hub_token AND h.lease_until > ?)))"

struct take_over {
	struct catalog_backup *jobs;
	size_t n;
};

/* Leases that ended before @until are over: 0, while this hub cannot tell. */
static int lapsed_until(struct db *db, int64_t token, int64_t *until, struct err *err)
{
	int64_t now = 0, steady = 0;
	int r = db_now_us(db, &now, err);

	if (!r)
		r = db_query_i64(db,
				 "SELECT token FROM hubs WHERE token = ? AND lease_until > ?"
				 " AND ? - steady_since >= lease_until - heartbeat_at",
				 DB_ARGS(DB_I64(token), DB_I64(now), DB_I64(now)), 0, &steady, err);
	*until = steady ? now : 0;
	return r;
}

static int claim_jobs(struct db *db, int64_t token, const struct take_over *t, struct err *err)
{
	int r = 0;

	for (size_t i = 0; !r && i < t->n; i++)
		r = db_run(db, "UPDATE backup_jobs SET hub_token = ? WHERE id = ?",
			   DB_ARGS(DB_I64(token), DB_TEXT(t->jobs[i].id)), NULL, err);
	return r;
}

static int take_over_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct take_over *t = arg;
	struct db *db = catalog_db(tx);
	const int64_t token = catalog_hub_token(tx);
	int64_t now = 0;
	int r = catalog_hub_check(tx, err);

	/* It may run again. */
	free(steal(&t->jobs));
	t->n = 0;
	if (!r)
		r = lapsed_until(db, token, &now, err);
	if (!r)
		r = row_list(db, &catalog_backup_map,
			     "WHERE" HUB_IS_GONE " ORDER BY j.running_vm_name",
			     DB_ARGS(DB_I64(token), DB_I64(now)), (void **)&t->jobs, &t->n, err);
	if (!r)
		r = claim_jobs(db, token, t, err);
	return r ? r
		 : db_run(db, "DELETE FROM hubs WHERE token <> ? AND lease_until <= ?",
			  DB_ARGS(DB_I64(token), DB_I64(now)), NULL, err);
}

/* Looking costs no lock; mostly there is nothing. */
static int someone_is_gone(struct catalog *cat, bool *gone, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	const int64_t token = catalog_hub_token(cat);
	int64_t now = 0, n = 0;
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = lapsed_until(l.db, token, &now, err);
	if (!r)
		r = db_query_i64(l.db, "SELECT COUNT(*) FROM backup_jobs j WHERE" HUB_IS_GONE,
				 DB_ARGS(DB_I64(token), DB_I64(now)), 0, &n, err);
	if (!r && !n)
		r = db_query_i64(l.db,
				 "SELECT COUNT(*) FROM hubs WHERE token <> ? AND lease_until <= ?",
				 DB_ARGS(DB_I64(token), DB_I64(now)), 0, &n, err);
	*gone = n > 0;
	return catalog_result(cat, r);
}

int catalog_hub_take_over(struct catalog *cat, struct catalog_backup **jobs, size_t *n,
			  struct err *err)
{
	struct take_over t = {.jobs = NULL};
	bool gone = false;
	int r = someone_is_gone(cat, &gone, err);

	*jobs = NULL;
	*n = 0;
	if (r || !gone)
		return r;
	r = catalog_tx(cat, take_over_tx, &t, err);
	if (r) {
		free(t.jobs);
		return r;
	}
	*jobs = t.jobs;
	*n = t.n;
	return 0;
}

int catalog_hubs_list(struct catalog *cat, struct catalog_hub **rows, size_t *n, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_list(l.db, &map, "ORDER BY h.name, h.token", DB_NO_ARGS, (void **)rows, n,
			     err);
	return catalog_result(cat, r);
}

static int count_running(struct db *db, struct catalog_hub_status *out, struct err *err)
{
	return db_query_i64(
		db, "SELECT COUNT(*) FROM backup_jobs j WHERE j.hub_token = ? AND j." JOB_RUNS,
		DB_ARGS(DB_I64(out->hub.token)), 0, &out->running_jobs, err);
}

int catalog_hubs_status(struct catalog *cat, struct catalog_hub_status **rows, size_t *n,
			struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	_cleanup_(freep) struct catalog_hub_status *out = NULL;
	_cleanup_(freep) struct catalog_hub *hubs = NULL;
	int64_t now = 0;
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_list(l.db, &map, "ORDER BY h.name, h.token", DB_NO_ARGS, (void **)&hubs, n,
			     err);
	if (!r)
		r = db_now_us(l.db, &now, err);
	if (!r) {
		out = calloc(*n + 1, sizeof(*out));
		r = out ? 0 : err_sys(err, -ENOMEM, "hubs");
	}
	for (size_t i = 0; !r && i < *n; i++) {
		out[i] = (struct catalog_hub_status){
			.hub = hubs[i],
			.self = hubs[i].token == catalog_hub_token(cat),
			.live = hubs[i].lease_until_us > now,
		};
		r = count_running(l.db, &out[i], err);
	}
	if (!r)
		*rows = steal(&out);
	return catalog_result(cat, r);
}
