#include "catalog/downgrade.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "catalog/migrate.h"

#define BUSY_TIMEOUT_MS 10000

/* --- may it be done? -------------------------------------------------------------------------- */

static int check_target(int64_t now, int64_t version, struct err *err)
{
	if (version < 1)
		return err_set(err, CATALOG_E_INVALID, "there is no schema %" PRId64, version);
	if (now <= version)
		return err_set(err, CATALOG_E_ALREADY,
			       "the catalog has schema %" PRId64 ": there is nothing to undo", now);
	return 0;
}

/* A hub that stopped in order has no row any more, or one that does not count for long. */
static int refuse_while_used(struct db *db, struct err *err)
{
	_cleanup_(db_releasep) struct db_stmt *st = NULL;
	int64_t leases = 0, now = 0;
	int r = db_query_i64(db, "SELECT COUNT(*) FROM schema_version WHERE name = '008_hubs'",
			     DB_NO_ARGS, 0, &leases, err);

	if (r || !leases)
		return r;
	r = db_now_us(db, &now, err);
	if (!r)
		r = db_query(db,
			     "SELECT name, lease_until FROM hubs WHERE lease_until > ?"
			     " ORDER BY lease_until DESC",
			     DB_ARGS(DB_I64(now)), &st, err);
	if (!r)
		r = db_step(st, err);
	if (r != DB_ROW)
		return r;
	return err_set(
		err, CATALOG_E_BUSY,
		"hub \"%s\" uses this catalog: stop it first; if it was killed, its lease is "
		"over in %" PRId64 " s",
		db_col_text(st, 0, NULL), (db_col_i64(st, 1) - now) / 1000000 + 1);
}

/* --- what goes -------------------------------------------------------------------------------- */

struct loss {
	struct db *db;
	const char *migration;
	catalog_tell_fn *tell;
	void *arg;
};

/* "with 7 rows", or "" when that cannot be counted: a migration was left half done. */
static void count(struct db *db, const char *sql, const char *what, char *out, size_t size)
{
	int64_t n = 0;

	out[0] = '\0';
	if (!db_query_i64(db, sql, DB_NO_ARGS, 0, &n, NULL))
		snprintf(out, size, " with %" PRId64 " %s", n, what);
}

static void tell_table(const struct loss *l, const char *table)
{
	char sql[128], rows[64], line[256];

	snprintf(sql, sizeof(sql), "SELECT COUNT(*) FROM %s", table);
	count(l->db, sql, "rows", rows, sizeof(rows));
	snprintf(line, sizeof(line), "%s: table %s%s", l->migration, table, rows);
	l->tell(l->arg, line);
}

static void tell_column(const struct loss *l, const char *table, const char *column)
{
	char sql[256], values[64], line[256];

	snprintf(sql, sizeof(sql), "SELECT COUNT(NULLIF(%s, '')) FROM %s", column, table);
	count(l->db, sql, "values", values, sizeof(values));
	snprintf(line, sizeof(line), "%s: column %s of %s%s", l->migration, column, table, values);
	l->tell(l->arg, line);
}

/* @rest of "DELETE FROM table WHERE ..." is what stands behind the first word. */
static void tell_rows(const struct loss *l, const char *table, const char *rest)
{
	char sql[600], rows[64], line[256];

	snprintf(sql, sizeof(sql), "SELECT COUNT(*) %s", rest);
	count(l->db, sql, "rows", rows, sizeof(rows));
	snprintf(line, sizeof(line), "%s: part of %s%s", l->migration, table, rows);
	l->tell(l->arg, line);
}

#define NAME "%63[a-z0-9_]"

static void tell_statement(const struct loss *l, const char *statement, size_t len)
{
	char text[512], table[64], column[64];

	/* Comments stand on lines of their own, before a statement. */
	while (len > 2 && !strncmp(statement, "--", 2)) {
		const char *end = memchr(statement, '\n', len);
		size_t n = end ? (size_t)(end - statement) + 1 : len;

		statement += n;
		len -= n;
	}
	snprintf(text, sizeof(text), "%.*s", (int)MIN(len, sizeof(text) - 1), statement);
	if (sscanf(text, "DROP TABLE " NAME, table) == 1)
		tell_table(l, table);
	else if (sscanf(text, "ALTER TABLE " NAME " DROP COLUMN " NAME, table, column) == 2)
		tell_column(l, table, column);
	else if (sscanf(text, "DELETE FROM " NAME, table) == 1)
		tell_rows(l, table, text + strlen("DELETE "));
}

static void tell_losses(struct db *db, int64_t version, catalog_tell_fn *tell, void *arg)
{
	const char *script = catalog_schema_down(version), *statement;
	const struct loss l = {db, catalog_schema_name(version), tell, arg};
	size_t len;

	while (db_script_next(&script, &statement, &len))
		tell_statement(&l, statement, len);
}

/* --- the way down ----------------------------------------------------------------------------- */

int catalog_downgrade(const char *url, const char *copy_dir, int64_t version, catalog_tell_fn *tell,
		      void *arg, struct err *err)
{
	_cleanup_(db_closep) struct db *db = NULL;
	int64_t now = 0;
	bool begun;
	int r;

	if (!catalog_url_valid(url, err))
		return CATALOG_E_URL;
	r = db_open(url, BUSY_TIMEOUT_MS, &db, err);
	if (!r)
		r = catalog_schema_version(db, &now, err);
	if (!r)
		r = check_target(now, version, err);
	/* One that was cut off has let no hub in since, and may have taken what is asked here. */
	if (!r)
		r = catalog_schema_begun(db, &begun, err);
	if (!r && !begun)
		r = refuse_while_used(db, err);
	if (r)
		return r == DB_E_BUSY ? -EBUSY : r;
	for (int64_t v = now; v > version; v--)
		tell_losses(db, v, tell, arg);
	/* A hub may have come since. */
	r = catalog_schema_migrate_if(db, version, copy_dir, refuse_while_used, err);
	return r == DB_E_BUSY ? -EBUSY : r;
}
