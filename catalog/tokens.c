#include "catalog/tokens.h"

#include <string.h>

#include "base/bytes.h"
#include "catalog/roles.h"
#include "catalog/session.h"

#define T struct catalog_token

static const struct row_field fields[] = {
	TEXT_COL(T, id, "id"),
	TEXT_COL(T, user_id, "user_id"),
	TEXT_COL(T, name, "name"),
	TEXT_COL(T, token_hash, "token_hash"),
	TEXT_COL(T, scopes, "scopes"),
	TIME_COL(T, created_at_us, "created_at"),
	TIME_COL(T, expires_at_us, "expires_at", ROW_OPT),
	TIME_COL(T, revoked_at_us, "revoked_at", ROW_OPT),
	TIME_COL(T, last_used_at_us, "last_used_at", ROW_OPT),
	TEXT_COL(T, parent_id, "parent_id", ROW_OPT),
	TEXT_COL(T, user_name, "u.name", ROW_DERIVED),
	ENUM_COL(T, user_role, "u.role", &catalog_roles, ROW_DERIVED),
	BOOL_COL(T, user_enabled, "u.enabled", ROW_DERIVED),
	TIME_COL(T, parent_revoked_at_us, "p.revoked_at", ROW_DERIVED, ROW_OPT),
};

static const struct row_map map = ROW_MAP(
	T, "api_tokens", "t",
	"JOIN users u ON u.id = t.user_id LEFT JOIN api_tokens p ON p.id = t.parent_id", fields);

/* --- create ----------------------------------------------------------------------------------- */

static int delete_oldest_session(struct db *db, const char *parent_id, struct err *err)
{
	T oldest;
	int r = row_get(db, &map, "WHERE t.parent_id = ? ORDER BY t.created_at, t.id LIMIT 1",
			DB_ARGS(DB_TEXT(parent_id)), &oldest, err);

	if (r != DB_ROW)
		return r == DB_DONE ? 0 : r;
	return db_run(db, "DELETE FROM api_tokens WHERE id = ?", DB_ARGS(DB_TEXT(oldest.id)), NULL,
		      err);
}

/* Room for one more session. */
static int prune_sessions(struct db *db, const char *parent_id, struct err *err)
{
	int64_t n = 0;
	int r = db_run(db, "DELETE FROM api_tokens WHERE parent_id = ? AND expires_at <= ?",
		       DB_ARGS(DB_TEXT(parent_id), DB_I64(catalog_now_us())), NULL, err);

	if (!r)
		r = db_query_i64(db, "SELECT COUNT(*) FROM api_tokens WHERE parent_id = ?",
				 DB_ARGS(DB_TEXT(parent_id)), 0, &n, err);
	for (; !r && n >= CATALOG_SESSIONS_MAX; n--)
		r = delete_oldest_session(db, parent_id, err);
	return r;
}

static int create_tx(struct catalog *tx, void *arg, struct err *err)
{
	T row = *(T *)arg;
	struct db *db = catalog_db(tx);
	int r = *row.parent_id ? prune_sessions(db, row.parent_id, err) : 0;

	if (r)
		return r;

	catalog_new_id(row.id, "token-");
	row.created_at_us = catalog_now_us();
	row.revoked_at_us = row.last_used_at_us = 0;
	r = row_insert(db, &map, &row, err);
	if (r == DB_E_FOREIGN)
		return err_set(err, CATALOG_E_NOT_FOUND, "there is no user %s", row.user_id);
	if (r == DB_E_CHECK)
		return err_set(err, CATALOG_E_INVALID, "the scopes of token %s are not JSON",
			       row.name);
	if (r)
		return r;
	r = row_get(db, &map, "WHERE t.id = ?", DB_ARGS(DB_TEXT(row.id)), arg, err);
	return r == DB_ROW ? 0 : r;
}

int catalog_token_create(struct catalog *cat, struct catalog_token *token, struct err *err)
{
	if (!*token->name)
		return err_set(err, CATALOG_E_INVALID,
			       "a token needs a name that says what it is for");
	if (strlen(token->token_hash) != SHA256_HEX_SIZE - 1)
		return err_set(err, CATALOG_E_INVALID, "token %s has no hash", token->name);
	if (!*token->scopes)
		CATALOG_TEXT(token->scopes, "[]");
	return catalog_tx(cat, create_tx, token, err);
}

/* --- read ------------------------------------------------------------------------------------- */

int catalog_token_get(struct catalog *cat, const char *id, struct catalog_token *out,
		      struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_get(l.db, &map, "WHERE t.id = ?", DB_ARGS(DB_TEXT(id)), out, err);
	return catalog_found(cat, r, err, "there is no token %s", id);
}

int catalog_token_get_by_hash(struct catalog *cat, const char *token_hash,
			      struct catalog_token *out, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_get(l.db, &map, "WHERE t.token_hash = ?", DB_ARGS(DB_TEXT(token_hash)), out,
			    err);
	return catalog_found(cat, r, err, "there is no such token");
}

int catalog_tokens_list(struct catalog *cat, const char *user_id, struct catalog_token **rows,
			size_t *n, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	struct row_where w = {0};
	int r = catalog_lease(cat, &l, err);

	row_where_text(&w, "t.user_id = ?", user_id);
	row_where_tail(&w, "ORDER BY t.id");
	if (!r)
		r = row_list(l.db, &map, w.sql, w.args, w.n, (void **)rows, n, err);
	return catalog_result(cat, r);
}

/* --- change ----------------------------------------------------------------------------------- */

static int revoke_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct db *db = catalog_db(tx);
	const char *id = arg;
	int64_t revoked_at;
	int r = db_query_i64(db, "SELECT COALESCE(revoked_at, 0) FROM api_tokens WHERE id = ?",
			     DB_ARGS(DB_TEXT(id)), CATALOG_NONE, &revoked_at, err);

	if (r)
		return r;
	if (revoked_at == CATALOG_NONE)
		return err_set(err, CATALOG_E_NOT_FOUND, "there is no token %s", id);
	if (revoked_at)
		return err_set(err, CATALOG_E_ALREADY, "token %s was revoked before", id);
	return db_run(db, "UPDATE api_tokens SET revoked_at = ? WHERE id = ?",
		      DB_ARGS(DB_I64(catalog_now_us()), DB_TEXT(id)), NULL, err);
}

int catalog_token_revoke(struct catalog *cat, const char *id, struct err *err)
{
	return catalog_tx(cat, revoke_tx, (void *)id, err);
}

struct use {
	const char *id;
	int64_t at_us, grain_us;
};

static int used_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct use *u = arg;
	struct db *db = catalog_db(tx);
	int64_t changed = 0;
	int r = db_run(db,
		       "UPDATE api_tokens SET last_used_at = ? WHERE id = ?"
		       " AND (last_used_at IS NULL OR last_used_at < ?)",
		       DB_ARGS(DB_I64(u->at_us), DB_TEXT(u->id), DB_I64(u->at_us - u->grain_us)),
		       &changed, err);

	if (r || !changed)
		return r;
	return db_run(db,
		      "UPDATE users SET last_login_at = ? WHERE id ="
		      " (SELECT user_id FROM api_tokens WHERE id = ?)",
		      DB_ARGS(DB_I64(u->at_us), DB_TEXT(u->id)), NULL, err);
}

int catalog_token_used(struct catalog *cat, const char *id, int64_t at_us, int64_t grain_us,
		       struct err *err)
{
	struct use u = {id, at_us, grain_us};

	return catalog_tx(cat, used_tx, &u, err);
}
