#include "catalog/credentials.h"

#include <inttypes.h>

#include "base/bytes.h"
#include "catalog/row.h"
#include "catalog/session.h"

#define C struct catalog_credential

static const char *const kind_names[] = {"vcenter", "cifs", "s3", "azure"};
static const struct row_words kinds = {kind_names, ARRAY_SIZE(kind_names)};

static const struct row_field fields[] = {
	I64_COL(C, id, "c.id", ROW_DERIVED),
	TEXT_COL(C, name, "name"),
	ENUM_COL(C, kind, "kind", &kinds),
	TEXT_COL(C, host, "host"),
	TEXT_COL(C, username, "username"),
	TEXT_COL(C, datacenter, "datacenter"),
	TEXT_COL(C, secret, "secret"),
	TEXT_COL(C, key_id, "key_id"),
	BOOL_COL(C, is_default, "COALESCE(c.is_default, 0)", ROW_DERIVED),
	TIME_COL(C, created_at_us, "created_at"),
	TIME_COL(C, updated_at_us, "updated_at"),
	I64_COL(C, vm_count,
		"(SELECT COUNT(*) FROM vm_replication_contexts v WHERE v.credential_id = c.id)",
		ROW_DERIVED),
};

static const struct row_map map = ROW_MAP(C, "credentials", "c", "", fields);

const char *catalog_credential_kind_name(enum catalog_credential_kind kind)
{
	return kind_names[kind];
}

/* --- read ------------------------------------------------------------------------------------- */

int catalog_credential_get(struct catalog *cat, int64_t id, struct catalog_credential *out,
			   struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_get(l.db, &map, "WHERE c.id = ?", DB_ARGS(DB_I64(id)), out, err);
	return catalog_found(cat, r, err, "there is no credential %" PRId64, id);
}

int catalog_credential_get_default(struct catalog *cat, struct catalog_credential *out,
				   struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_get(l.db, &map, "WHERE c.is_default = 1", DB_NO_ARGS, out, err);
	return catalog_found(cat, r, err, "no credential is the default one");
}

int catalog_credentials_list(struct catalog *cat, struct catalog_credential **rows, size_t *n,
			     struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_list(l.db, &map, "ORDER BY c.name", DB_NO_ARGS, (void **)rows, n, err);
	return catalog_result(cat, r);
}

/* --- change ----------------------------------------------------------------------------------- */

static int found(int r, int64_t changed, int64_t id, struct err *err)
{
	if (!r && changed == 0)
		r = err_set(err, CATALOG_E_NOT_FOUND, "there is no credential %" PRId64, id);
	return r;
}

static int move_default(struct db *db, int64_t id, bool on, struct err *err)
{
	int64_t changed = 0;
	int r = 0;

	if (on)
		r = db_run(db, "UPDATE credentials SET is_default = NULL WHERE is_default = 1",
			   DB_NO_ARGS, NULL, err);
	if (!r)
		r = db_run(db, "UPDATE credentials SET is_default = ?, updated_at = ? WHERE id = ?",
			   DB_ARGS(on ? DB_I64(1) : DB_NULL, DB_I64(catalog_now_us()), DB_I64(id)),
			   &changed, err);
	return found(r, changed, id, err);
}

static int create_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct catalog_credential row = *(struct catalog_credential *)arg;
	struct db *db = catalog_db(tx);
	int r;

	row.created_at_us = row.updated_at_us = catalog_now_us();
	r = row_insert(db, &map, &row, err);
	if (r == DB_E_UNIQUE)
		return err_set(err, CATALOG_E_EXISTS,
			       "a credential named \"%s\" exists: choose another name", row.name);
	if (r == DB_E_CHECK)
		return err_set(err, CATALOG_E_INVALID, "credential \"%s\" has no secret or no key",
			       row.name);
	if (r)
		return r;
	row.id = db_insert_id(db);
	if (row.is_default)
		r = move_default(db, row.id, true, err);
	return r ? r : catalog_credential_get(tx, row.id, arg, err);
}

int catalog_credential_create(struct catalog *cat, struct catalog_credential *row, struct err *err)
{
	if (!*row->name)
		return err_set(err, CATALOG_E_INVALID, "a credential needs a name");
	if ((unsigned int)row->kind >= ARRAY_SIZE(kind_names))
		return err_set(err, CATALOG_E_INVALID, "credential \"%s\" has an unknown kind",
			       row->name);
	return catalog_tx(cat, create_tx, row, err);
}

struct update {
	int64_t id;
	const struct catalog_credential_change *c;
};

static struct db_arg or_keep(const char *text)
{
	return text ? DB_TEXT(text) : DB_NULL;
}

static int update_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct update *u = arg;
	const struct catalog_credential_change *c = u->c;
	int64_t changed = 0;
	int r = db_run(catalog_db(tx),
		       "UPDATE credentials SET name = COALESCE(?, name), host = COALESCE(?, host),"
		       " username = COALESCE(?, username), datacenter = COALESCE(?, datacenter),"
		       " secret = COALESCE(?, secret), key_id = COALESCE(?, key_id),"
		       " updated_at = ? WHERE id = ?",
		       DB_ARGS(or_keep(c->name), or_keep(c->host), or_keep(c->username),
			       or_keep(c->datacenter), or_keep(c->secret), or_keep(c->key_id),
			       DB_I64(catalog_now_us()), DB_I64(u->id)),
		       &changed, err);

	if (r == DB_E_UNIQUE)
		return err_set(err, CATALOG_E_EXISTS,
			       "a credential named \"%s\" exists: choose another name", c->name);
	if (r == DB_E_CHECK)
		return err_set(err, CATALOG_E_INVALID,
			       "a credential needs a name, a secret and a key");
	return found(r, changed, u->id, err);
}

int catalog_credential_update(struct catalog *cat, int64_t id,
			      const struct catalog_credential_change *change, struct err *err)
{
	struct update u = {id, change};

	return catalog_tx(cat, update_tx, &u, err);
}

struct set_default {
	int64_t id;
	bool on;
};

static int default_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct set_default *s = arg;

	return move_default(catalog_db(tx), s->id, s->on, err);
}

int catalog_credential_set_default(struct catalog *cat, int64_t id, bool on, struct err *err)
{
	struct set_default s = {id, on};

	return catalog_tx(cat, default_tx, &s, err);
}

static int delete_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct db *db = catalog_db(tx);
	int64_t id = *(int64_t *)arg, n = 0;
	int r = db_query_i64(db,
			     "SELECT COUNT(*) FROM vm_replication_contexts WHERE credential_id = ?",
			     DB_ARGS(DB_I64(id)), 0, &n, err);

	if (r)
		return r;
	if (n)
		return err_set(err, CATALOG_E_IN_USE,
			       "credential %" PRId64 " is used by %" PRId64
			       " VMs: give them another one first",
			       id, n);
	r = db_run(db, "DELETE FROM credentials WHERE id = ?", DB_ARGS(DB_I64(id)), &n, err);
	return found(r, n, id, err);
}

int catalog_credential_delete(struct catalog *cat, int64_t id, struct err *err)
{
	return catalog_tx(cat, delete_tx, &id, err);
}
