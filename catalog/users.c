#include "catalog/users.h"

#include <ctype.h>
#include <string.h>

#include "base/bytes.h"
#include "catalog/roles.h"
#include "catalog/session.h"

#define U struct catalog_user

#define USER_NAME_MAX 64

static const char *const role_names[] = {"viewer", "operator", "admin", "agent"};
const struct row_words catalog_roles = {role_names, ARRAY_SIZE(role_names)};

static const struct row_field fields[] = {
	TEXT_COL(U, id, "id"),
	TEXT_COL(U, name, "name"),
	ENUM_COL(U, role, "role", &catalog_roles),
	BOOL_COL(U, enabled, "enabled"),
	TIME_COL(U, created_at_us, "created_at"),
	TIME_COL(U, updated_at_us, "updated_at"),
	TIME_COL(U, last_login_at_us, "last_login_at", ROW_OPT),
	I64_COL(U, token_count,
		"(SELECT COUNT(*) FROM api_tokens t"
		" WHERE t.user_id = u.id AND t.revoked_at IS NULL AND t.parent_id IS NULL)",
		ROW_DERIVED),
};

static const struct row_map map = ROW_MAP(U, "users", "u", "", fields);

const char *catalog_role_name(enum catalog_role role)
{
	return role_names[role];
}

bool catalog_role_parse(const char *name, enum catalog_role *out)
{
	int i = row_word_find(&catalog_roles, name);

	if (i < 0)
		return false;
	*out = (enum catalog_role)i;
	return true;
}

bool catalog_user_name_valid(const char *name)
{
	size_t len = strlen(name);

	if (!len || len > USER_NAME_MAX || (unsigned char)name[0] >= 0x80 ||
	    !isalnum((unsigned char)name[0]))
		return false;
	return strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._@-") ==
	       len;
}

/* --- create ----------------------------------------------------------------------------------- */

static int get_user(struct db *db, const char *id, U *out, struct err *err)
{
	int r = row_get(db, &map, "WHERE u.id = ?", DB_ARGS(DB_TEXT(id)), out, err);

	if (r == DB_DONE)
		return err_set(err, CATALOG_E_NOT_FOUND, "there is no user %s", id);
	return r == DB_ROW ? 0 : r;
}

static int create_tx(struct catalog *tx, void *arg, struct err *err)
{
	U row = *(U *)arg;
	struct db *db = catalog_db(tx);
	int r;

	catalog_new_id(row.id, "user-");
	row.created_at_us = row.updated_at_us = catalog_now_us();
	row.last_login_at_us = 0;
	r = row_insert(db, &map, &row, err);
	if (r == DB_E_UNIQUE)
		return err_set(err, CATALOG_E_EXISTS, "a user named %s exists: choose another name",
			       row.name);
	return r ? r : get_user(db, row.id, arg, err);
}

int catalog_user_create(struct catalog *cat, struct catalog_user *user, struct err *err)
{
	if (!catalog_user_name_valid(user->name))
		return err_set(err, CATALOG_E_INVALID,
			       "a user's name is 1 to %d letters, digits and . _ @ -, beginning "
			       "with a letter or digit",
			       USER_NAME_MAX);
	if ((unsigned int)user->role >= ARRAY_SIZE(role_names))
		return err_set(err, CATALOG_E_INVALID, "user %s has an unknown role", user->name);
	return catalog_tx(cat, create_tx, user, err);
}

/* --- read ------------------------------------------------------------------------------------- */

int catalog_user_get(struct catalog *cat, const char *id, struct catalog_user *out, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_get(l.db, &map, "WHERE u.id = ?", DB_ARGS(DB_TEXT(id)), out, err);
	return catalog_found(cat, r, err, "there is no user %s", id);
}

int catalog_user_get_by_name(struct catalog *cat, const char *name, struct catalog_user *out,
			     struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_get(l.db, &map, "WHERE u.name = ?", DB_ARGS(DB_TEXT(name)), out, err);
	return catalog_found(cat, r, err, "there is no user named %s", name);
}

int catalog_users_list(struct catalog *cat, int64_t limit, int64_t offset,
		       struct catalog_user **rows, size_t *n, int64_t *total, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	struct row_where w = {0};
	int r = catalog_lease(cat, &l, err);

	row_where_tail(&w, "ORDER BY u.name");
	row_where_limit(&w, limit, offset);
	if (!r && total)
		r = db_query_i64(l.db, "SELECT COUNT(*) FROM users", DB_NO_ARGS, 0, total, err);
	if (!r)
		r = row_list(l.db, &map, w.sql, w.args, w.n, (void **)rows, n, err);
	return catalog_result(cat, r);
}

/* --- change ----------------------------------------------------------------------------------- */

struct change {
	const char *id;
	const enum catalog_role *role;
	const bool *enabled;
	U *out;
};

static bool rules(const U *user)
{
	return user->enabled && user->role == CATALOG_ROLE_ADMIN;
}

/* @user, who is an enabled administrator, is about to be none. */
static int check_other_admin(struct db *db, const U *user, struct err *err)
{
	int64_t others;
	int r = db_query_i64(db,
			     "SELECT COUNT(*) FROM users WHERE role = 'admin' AND enabled = 1 AND"
			     " id <> ?",
			     DB_ARGS(DB_TEXT(user->id)), 0, &others, err);

	if (!r && !others)
		r = err_set(err, CATALOG_E_IN_USE,
			    "%s is the last enabled administrator: make another one first",
			    user->name);
	return r;
}

static int update_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct change *c = arg;
	struct db *db = catalog_db(tx);
	bool ruled;
	U user;
	int r = get_user(db, c->id, &user, err);

	if (r)
		return r;
	ruled = rules(&user);
	if (c->role)
		user.role = *c->role;
	if (c->enabled)
		user.enabled = *c->enabled;
	user.updated_at_us = catalog_now_us();
	if (ruled && !rules(&user))
		r = check_other_admin(db, &user, err);
	if (!r)
		r = db_run(db,
			   "UPDATE users SET role = ?, enabled = ?, updated_at = ? WHERE id = ?",
			   DB_ARGS(DB_TEXT(role_names[user.role]), DB_I64(user.enabled),
				   DB_I64(user.updated_at_us), DB_TEXT(user.id)),
			   NULL, err);
	if (!r && c->out)
		*c->out = user;
	return r;
}

int catalog_user_update(struct catalog *cat, const char *id, const enum catalog_role *role,
			const bool *enabled, struct catalog_user *out, struct err *err)
{
	struct change c = {id, role, enabled, out};

	if (role && (unsigned int)*role >= ARRAY_SIZE(role_names))
		return err_set(err, CATALOG_E_INVALID, "user %s cannot have an unknown role", id);
	return catalog_tx(cat, update_tx, &c, err);
}

static int delete_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct db *db = catalog_db(tx);
	U user;
	int r = get_user(db, arg, &user, err);

	if (!r && rules(&user))
		r = check_other_admin(db, &user, err);
	if (!r)
		r = db_run(db, "DELETE FROM users WHERE id = ?", DB_ARGS(DB_TEXT(user.id)), NULL,
			   err);
	return r;
}

int catalog_user_delete(struct catalog *cat, const char *id, struct err *err)
{
	return catalog_tx(cat, delete_tx, (void *)id, err);
}
