#include "catalog/repositories.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/bytes.h"
#include "catalog/backup_rows.h"
#include "catalog/copies.h"
#include "catalog/session.h"

#define DAY_US (24 * 3600 * INT64_C(1000000))

#define R struct catalog_repository

static const char *const type_names[] = {"local", "nfs", "cifs", "s3", "azure"};
static const struct row_words types = {type_names, ARRAY_SIZE(type_names)};

static const struct row_field fields[] = {
	TEXT_COL(R, id, "id"),
	TEXT_COL(R, name, "name"),
	ENUM_COL(R, type, "repository_type", &types),
	TEXT_COL(R, config, "config"),
	BOOL_COL(R, enabled, "enabled"),
	BOOL_COL(R, is_immutable, "is_immutable"),
	I64_COL(R, min_retention_days, "min_retention_days"),
	I64_COL(R, total_size_bytes, "total_size_bytes"),
	I64_COL(R, used_size_bytes, "used_size_bytes"),
	I64_COL(R, available_size_bytes, "available_size_bytes"),
	TIME_COL(R, last_check_at_us, "last_check_at", ROW_OPT),
	TIME_COL(R, created_at_us, "created_at"),
	TIME_COL(R, updated_at_us, "updated_at"),
	I64_COL(R, backup_count,
		"(SELECT COUNT(*) FROM backup_jobs j WHERE j.repository_id = r.id)", ROW_DERIVED),
	I64_COL(R, copy_count,
		"(SELECT COUNT(*) FROM backup_copies c WHERE c.repository_id = r.id)", ROW_DERIVED),
};

static const struct row_map map = ROW_MAP(R, "backup_repositories", "r", "", fields);

const char *catalog_repository_type_name(enum catalog_repository_type type)
{
	return type_names[type];
}

bool catalog_repository_type_parse(const char *name, enum catalog_repository_type *out)
{
	int i = name && !strcmp(name, "smb") ? CATALOG_REPOSITORY_CIFS
					     : row_word_find(&types, name);

	if (i < 0)
		return false;
	*out = (enum catalog_repository_type)i;
	return true;
}

/* --- create ----------------------------------------------------------------------------------- */

static int create_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct catalog_repository row = *(struct catalog_repository *)arg;
	struct db *db = catalog_db(tx);
	int r;

	if (!*row.id)
		catalog_new_id(row.id, "repo-");
	row.created_at_us = row.updated_at_us = catalog_now_us();
	row.last_check_at_us = 0;
	row.total_size_bytes = row.used_size_bytes = row.available_size_bytes = 0;
	r = row_insert(db, &map, &row, err);
	if (r == DB_E_UNIQUE)
		return err_set(err, CATALOG_E_EXISTS,
			       "a repository named %s exists: choose another name", row.name);
	if (r == DB_E_CHECK)
		return err_set(err, CATALOG_E_INVALID,
			       "the configuration of repository %s is not JSON, or a number is "
			       "negative",
			       row.name);
	if (r)
		return r;
	r = row_get(db, &map, "WHERE r.id = ?", DB_ARGS(DB_TEXT(row.id)), arg, err);
	return r == DB_ROW ? 0 : r;
}

int catalog_repository_create(struct catalog *cat, struct catalog_repository *repo, struct err *err)
{
	if (!*repo->name)
		return err_set(err, CATALOG_E_INVALID, "a repository needs a name");
	if ((unsigned int)repo->type >= ARRAY_SIZE(type_names))
		return err_set(err, CATALOG_E_INVALID, "repository %s has an unknown type",
			       repo->name);
	return catalog_tx(cat, create_tx, repo, err);
}

/* --- read ------------------------------------------------------------------------------------- */

int catalog_repository_get(struct catalog *cat, const char *id, struct catalog_repository *out,
			   struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_get(l.db, &map, "WHERE r.id = ?", DB_ARGS(DB_TEXT(id)), out, err);
	return catalog_found(cat, r, err, "there is no repository %s", id);
}

int catalog_repository_get_by_name(struct catalog *cat, const char *name,
				   struct catalog_repository *out, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_get(l.db, &map, "WHERE r.name = ?", DB_ARGS(DB_TEXT(name)), out, err);
	return catalog_found(cat, r, err, "there is no repository named %s", name);
}

int catalog_repositories_list(struct catalog *cat, struct catalog_repository **rows, size_t *n,
			      struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_list(l.db, &map, "ORDER BY r.name", DB_NO_ARGS, (void **)rows, n, err);
	return catalog_result(cat, r);
}

/* --- change ----------------------------------------------------------------------------------- */

struct sizes {
	const char *id;
	int64_t total, used, available;
};

static int one_repository(int r, int64_t changed, const char *id, struct err *err)
{
	if (!r && changed == 0)
		r = err_set(err, CATALOG_E_NOT_FOUND, "there is no repository %s", id);
	return r;
}

static int sizes_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct sizes *s = arg;
	int64_t changed = 0, now = catalog_now_us();
	int r = db_run(catalog_db(tx),
		       "UPDATE backup_repositories SET total_size_bytes = ?, used_size_bytes = ?,"
		       " available_size_bytes = ?, last_check_at = ?, updated_at = ? WHERE id = ?",
		       DB_ARGS(DB_I64(s->total), DB_I64(s->used), DB_I64(s->available), DB_I64(now),
			       DB_I64(now), DB_TEXT(s->id)),
		       &changed, err);

	return one_repository(r, changed, s->id, err);
}

int catalog_repository_set_sizes(struct catalog *cat, const char *id, int64_t total_bytes,
				 int64_t used_bytes, int64_t available_bytes, struct err *err)
{
	struct sizes s = {id, total_bytes, used_bytes, available_bytes};

	return catalog_tx(cat, sizes_tx, &s, err);
}

struct enable {
	const char *id;
	bool enabled;
};

static int enable_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct enable *e = arg;
	int64_t changed = 0;
	int r = db_run(catalog_db(tx),
		       "UPDATE backup_repositories SET enabled = ?, updated_at = ? WHERE id = ?",
		       DB_ARGS(DB_I64(e->enabled), DB_I64(catalog_now_us()), DB_TEXT(e->id)),
		       &changed, err);

	return one_repository(r, changed, e->id, err);
}

int catalog_repository_set_enabled(struct catalog *cat, const char *id, bool enabled,
				   struct err *err)
{
	struct enable e = {id, enabled};

	return catalog_tx(cat, enable_tx, &e, err);
}

struct update {
	const char *id;
	const struct catalog_repository_change *c;
};

static int update_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct update *u = arg;
	const struct catalog_repository_change *c = u->c;
	int64_t changed = 0;
	int r = db_run(catalog_db(tx),
		       "UPDATE backup_repositories SET name = COALESCE(?, name),"
		       " config = COALESCE(?, config), enabled = COALESCE(?, enabled),"
		       " min_retention_days = COALESCE(?, min_retention_days), updated_at = ?"
		       " WHERE id = ?",
		       DB_ARGS(c->name ? DB_TEXT(c->name) : DB_NULL,
			       c->config ? DB_TEXT(c->config) : DB_NULL,
			       c->enabled ? DB_I64(*c->enabled) : DB_NULL,
			       c->min_retention_days ? DB_I64(*c->min_retention_days) : DB_NULL,
			       DB_I64(catalog_now_us()), DB_TEXT(u->id)),
		       &changed, err);

	if (r == DB_E_UNIQUE)
		return err_set(err, CATALOG_E_EXISTS,
			       "a repository named %s exists: choose another name", c->name);
	if (r == DB_E_CHECK)
		return err_set(err, CATALOG_E_INVALID,
			       "the name is empty, the configuration is not JSON, or a number is "
			       "negative");
	return one_repository(r, changed, u->id, err);
}

int catalog_repository_update(struct catalog *cat, const char *id,
			      const struct catalog_repository_change *change, struct err *err)
{
	struct update u = {id, change};

	return catalog_tx(cat, update_tx, &u, err);
}

#define COPIES_NAMED 3

/* Which copies keep the repository: some of them by name. */
static int check_copies(struct catalog *tx, const char *id, struct err *err)
{
	const struct catalog_copy_filter in_it = {.repository_id = id, .limit = COPIES_NAMED};
	_cleanup_(freep) struct catalog_copy *rows = NULL;
	char names[COPIES_NAMED * (CATALOG_ID_SIZE + 2) + 8] = "";
	int64_t total = 0;
	size_t n = 0, used = 0;
	int r = catalog_copies_list(tx, &in_it, &rows, &n, &total, err);

	if (r || !total)
		return r;
	for (size_t i = 0; i < n; i++)
		used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s", i ? ", " : "",
					 rows[i].id);
	if (total > (int64_t)n)
		snprintf(names + used, sizeof(names) - used, ", ...");
	return err_set(err, CATALOG_E_IN_USE,
		       "repository %s holds %" PRId64 " copies of backups (%s): delete them first",
		       id, total, names);
}

/* Contexts without a job hold nothing: they go with the repository. */
static int delete_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct db *db = catalog_db(tx);
	const char *id = arg;
	int64_t n = 0;
	int r;

	r = db_query_i64(db, "SELECT COUNT(*) FROM backup_jobs WHERE repository_id = ?",
			 DB_ARGS(DB_TEXT(id)), 0, &n, err);
	if (r)
		return r;
	if (n)
		return err_set(err, CATALOG_E_IN_USE,
			       "repository %s holds %" PRId64 " backups: delete them first", id, n);
	r = db_query_i64(db, "SELECT COUNT(*) FROM backup_deletions WHERE repository_id = ?",
			 DB_ARGS(DB_TEXT(id)), 0, &n, err);
	if (r)
		return r;
	if (n)
		return err_set(err, CATALOG_E_IN_USE,
			       "repository %s has files of %" PRId64 " deleted backups that could "
			       "not be removed yet",
			       id, n);
	r = check_copies(tx, id, err);
	if (r)
		return r;
	r = db_query_i64(db,
			 "SELECT (SELECT COUNT(*) FROM backup_policies"
			 " WHERE primary_repository_id = ?) + (SELECT COUNT(*)"
			 " FROM backup_copy_rules WHERE repository_id = ?)",
			 DB_ARGS(DB_TEXT(id), DB_TEXT(id)), 0, &n, err);
	if (r)
		return r;
	if (n)
		return err_set(err, CATALOG_E_IN_USE,
			       "repository %s is where %" PRId64 " policies and copy rules put "
			       "backups: change those first",
			       id, n);
	r = db_run(db, "DELETE FROM vm_backup_contexts WHERE repository_id = ?",
		   DB_ARGS(DB_TEXT(id)), NULL, err);
	if (!r)
		r = db_run(db, "DELETE FROM backup_repositories WHERE id = ?", DB_ARGS(DB_TEXT(id)),
			   &n, err);
	return one_repository(r, n, id, err);
}

int catalog_repository_delete(struct catalog *cat, const char *id, struct err *err)
{
	return catalog_tx(cat, delete_tx, (void *)id, err);
}

/* --- what it keeps ---------------------------------------------------------------------------- */

int catalog_repository_keeps(struct db *db, const struct catalog_repository *repo, const char *what,
			     const char *id, int64_t since_us, struct err *err)
{
	int64_t now = 0, until;
	char when[32] = "";
	time_t s;
	struct tm tm;
	int r;

	if (!repo->min_retention_days)
		return !repo->is_immutable
			       ? 0
			       : err_set(err, CATALOG_E_STATE,
					 "%s %s is in the immutable repository \"%s\", which keeps "
					 "it for good",
					 what, id, repo->name);
	r = db_now_us(db, &now, err);
	if (r)
		return r;
	if (__builtin_mul_overflow(repo->min_retention_days, DAY_US, &until) ||
	    __builtin_add_overflow(until, since_us, &until))
		until = INT64_MAX;
	if (now >= until)
		return 0;
	s = until / 1000000;
	if (until < INT64_MAX && gmtime_r(&s, &tm))
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S UTC", &tm);
	return err_set(err, CATALOG_E_STATE,
		       "%s %s is kept by repository \"%s\" for %" PRId64 " days: %s%s", what, id,
		       repo->name, repo->min_retention_days, when[0] ? "until " : "for good", when);
}
