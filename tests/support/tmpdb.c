#include "tests/support/tmpdb.h"

#include <ftw.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"

static bool on_mariadb;
static struct mariadbd server;

/* --- both ------------------------------------------------------------------------------------- */

bool tmpdb_on_mariadb(void)
{
	return on_mariadb;
}

struct mariadbd *tmpdb_server(void)
{
	return &server;
}

static bool wanted(const char *database, const char *only)
{
	const char *env = getenv("TEST_DB");

	return (!only || !strcmp(only, database)) && (!env || !*env || !strcmp(env, database));
}

int tmpdb_run_group(const char *only, const char *name, const struct CMUnitTest *tests, size_t n,
		    CMFixtureFunction setup, CMFixtureFunction teardown)
{
	static const char *const names[] = {"sqlite", "mariadb"};
	int failed = 0;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		char full[128];

		if (!wanted(names[i], only))
			continue;
		snprintf(full, sizeof(full), "%s on %s", name, names[i]);
		on_mariadb = i == 1;
		if (on_mariadb) {
			mariadbd_init(&server, 0);
			mariadbd_start(&server);
		}
		failed += _cmocka_run_group_tests(full, tests, n, setup, teardown);
		if (on_mariadb)
			mariadbd_deinit(&server);
	}
	return failed;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static void mariadb_sql(const char *database, const char *sql)
{
	MYSQL *h = mariadbd_connect(&server, database);

	if (mysql_query(h, sql))
		fail_msg("%s: %s", sql, mysql_error(h));
	mysql_close(h);
}

void tmpdb_init(struct tmpdb *t)
{
	static int serial;
	const char *base = getenv("TMPDIR");
	char sql[128];

	snprintf(t->dir, sizeof(t->dir), "%s/sendense-db-XXXXXX", base && *base ? base : "/tmp");
	if (!mkdtemp(t->dir))
		fail_msg("cannot make a directory like %s", t->dir);
	snprintf(t->path, sizeof(t->path), "%s/catalog.db", t->dir);
	snprintf(t->url, sizeof(t->url), "sqlite:%s", t->path);
	if (!on_mariadb)
		return;
	snprintf(t->name, sizeof(t->name), "test%d", ++serial);
	snprintf(t->path, sizeof(t->path), "%s/catalog", t->dir);
	snprintf(t->url, sizeof(t->url), "mariadb://root@localhost/%s?socket=%s", t->name,
		 server.sock);
	/* As an administrator's default may well be. */
	snprintf(sql, sizeof(sql), "CREATE DATABASE %s CHARACTER SET latin1", t->name);
	mariadb_sql(NULL, sql);
}

void tmpdb_deinit(struct tmpdb *t)
{
	char sql[128];

	nftw(t->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	if (!on_mariadb)
		return;
	snprintf(sql, sizeof(sql), "DROP DATABASE %s", t->name);
	mariadb_sql(NULL, sql);
}

/* --- raw SQL ---------------------------------------------------------------------------------- */

/* What a query gave: all values as text. */
struct answer {
	int error;
	char why[300];
	char **cells; /* row by row; NULL for NULL */
	size_t rows, cols;
};

static void answer_free(struct answer *a)
{
	for (size_t i = 0; i < a->rows * a->cols; i++)
		free(a->cells[i]);
	free(a->cells);
}

static void add_row(struct answer *a, const char *const *row, size_t n)
{
	a->cols = n;
	a->cells = realloc(a->cells, (a->rows + 1) * n * sizeof(a->cells[0]));
	for (size_t i = 0; i < n; i++)
		a->cells[a->rows * n + i] = row[i] ? strdup(row[i]) : NULL;
	a->rows++;
}

static int add_sqlite_row(void *arg, int n, char **row, char **names)
{
	(void)names;
	add_row(arg, (const char *const *)row, (size_t)n);
	return 0;
}

static void ask_sqlite(const struct tmpdb *t, const char *sql, struct answer *a)
{
	sqlite3 *h = NULL;

	if (sqlite3_open_v2(t->path, &h, SQLITE_OPEN_READWRITE, NULL))
		fail_msg("cannot open %s: %s", t->path, sqlite3_errmsg(h));
	sqlite3_extended_result_codes(h, 1);
	sqlite3_busy_timeout(h, 10000);
	sqlite3_exec(h, "PRAGMA foreign_keys=ON", NULL, NULL, NULL);
	a->error = sqlite3_exec(h, sql, add_sqlite_row, a, NULL);
	snprintf(a->why, sizeof(a->why), "%s", sqlite3_errmsg(h));
	sqlite3_close(h);
}

static void ask_mariadb(const struct tmpdb *t, const char *sql, struct answer *a)
{
	MYSQL *h = mariadbd_connect(&server, t->name);
	int more = mysql_query(h, sql);

	while (more == 0) {
		MYSQL_RES *res = mysql_store_result(h);
		MYSQL_ROW row;

		while (res && (row = mysql_fetch_row(res)))
			add_row(a, (const char *const *)row, mysql_num_fields(res));
		mysql_free_result(res);
		more = mysql_next_result(h);
	}
	a->error = (int)mysql_errno(h);
	snprintf(a->why, sizeof(a->why), "%s", mysql_error(h));
	mysql_close(h);
}

static struct answer try_ask(const struct tmpdb *t, const char *sql)
{
	struct answer a = {0};

	if (on_mariadb)
		ask_mariadb(t, sql, &a);
	else
		ask_sqlite(t, sql, &a);
	return a;
}

static struct answer ask(const struct tmpdb *t, const char *sql)
{
	struct answer a = try_ask(t, sql);

	if (a.error)
		fail_msg("%s: %s", sql, a.why);
	return a;
}

int tmpdb_try(const struct tmpdb *t, const char *sql)
{
	struct answer a = try_ask(t, sql);

	answer_free(&a);
	return a.error;
}

static struct answer vask(const struct tmpdb *t, const char *fmt, va_list ap)
{
	char *sql = sqlite3_vmprintf(fmt, ap);
	struct answer a = ask(t, sql);

	sqlite3_free(sql);
	return a;
}

void tmpdb_sql(const struct tmpdb *t, const char *fmt, ...)
{
	struct answer a;
	va_list ap;

	va_start(ap, fmt);
	a = vask(t, fmt, ap);
	va_end(ap);
	answer_free(&a);
}

static const char *first_cell(const struct answer *a)
{
	return a->rows && a->cells[0] ? a->cells[0] : "";
}

int64_t tmpdb_i64(const struct tmpdb *t, const char *fmt, ...)
{
	struct answer a;
	va_list ap;
	int64_t v;

	va_start(ap, fmt);
	a = vask(t, fmt, ap);
	va_end(ap);
	v = strtoll(first_cell(&a), NULL, 10);
	answer_free(&a);
	return v;
}

const char *tmpdb_text(const struct tmpdb *t, const char *fmt, ...)
{
	static _Thread_local char buf[2048];
	struct answer a;
	va_list ap;

	va_start(ap, fmt);
	a = vask(t, fmt, ap);
	va_end(ap);
	snprintf(buf, sizeof(buf), "%s", first_cell(&a));
	answer_free(&a);
	return buf;
}

/* --- tables ----------------------------------------------------------------------------------- */

/* What the backend of catalog/ keeps for itself is no business of the tests. */
static struct answer tables(const struct tmpdb *t)
{
	return ask(t, on_mariadb ? "SELECT table_name FROM information_schema.tables"
				   " WHERE table_schema = DATABASE() AND table_name NOT IN"
				   " ('catalog_writer', 'schema_step') ORDER BY 1"
				 : "SELECT name FROM sqlite_master WHERE type = 'table'"
				   " AND name NOT LIKE 'sqlite_%' ORDER BY 1");
}

int64_t tmpdb_count_tables(const struct tmpdb *t)
{
	struct answer a = tables(t);

	answer_free(&a);
	return (int64_t)a.rows;
}

bool tmpdb_has_table(const struct tmpdb *t, const char *table)
{
	struct answer a = tables(t);
	bool found = false;

	for (size_t i = 0; i < a.rows; i++)
		found |= !strcmp(a.cells[i], table);
	answer_free(&a);
	return found;
}

static void dump_table(const struct tmpdb *t, const char *table, FILE *out)
{
	char sql[128];
	struct answer a;

	snprintf(sql, sizeof(sql), "SELECT * FROM \"%s\" ORDER BY 1", table);
	a = ask(t, sql);
	fputs(table, out);
	for (size_t i = 0; i < a.rows * a.cols; i++)
		fprintf(out, "%s|%s", i % a.cols ? "" : "\n", a.cells[i] ?: "NULL");
	fputc('\n', out);
	answer_free(&a);
}

char *tmpdb_dump(const struct tmpdb *t, const char *except)
{
	struct answer names = tables(t);
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	for (size_t i = 0; i < names.rows; i++)
		if (!except || strcmp(names.cells[i], except))
			dump_table(t, names.cells[i], out);
	answer_free(&names);
	fclose(out);
	return text;
}

char *tmpdb_schema(const struct tmpdb *t)
{
	struct answer names = tables(t), a;
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	for (size_t i = 0; i < names.rows; i++) {
		char sql[256];

		snprintf(sql, sizeof(sql),
			 on_mariadb ? "SHOW CREATE TABLE %s"
				    : "SELECT 0, sql FROM sqlite_master WHERE tbl_name = '%s'"
				      " ORDER BY name",
			 names.cells[i]);
		a = ask(t, sql);
		for (size_t k = 0; k < a.rows; k++)
			fprintf(out, "%s\n", a.cells[k * a.cols + 1] ?: "");
		answer_free(&a);
	}
	if (on_mariadb) {
		a = ask(t, "SELECT trigger_name, event_object_table, action_timing,"
			   " event_manipulation, action_statement FROM information_schema.triggers"
			   " WHERE trigger_schema = DATABASE() ORDER BY 1");
		for (size_t k = 0; k < a.rows * a.cols; k++)
			fprintf(out, "%s\n", a.cells[k]);
		answer_free(&a);
	}
	answer_free(&names);
	fclose(out);
	return text;
}

/* --- soundness and faults --------------------------------------------------------------------- */

void tmpdb_assert_sound(const struct tmpdb *t)
{
	struct answer names;

	if (!on_mariadb) {
		assert_string_equal(tmpdb_text(t, "PRAGMA integrity_check"), "ok");
		assert_string_equal(tmpdb_text(t, "PRAGMA foreign_key_check"), "");
		return;
	}
	names = tables(t);
	for (size_t i = 0; i < names.rows; i++) {
		struct answer a;
		char sql[128];

		snprintf(sql, sizeof(sql), "CHECK TABLE \"%s\" EXTENDED", names.cells[i]);
		a = ask(t, sql);
		assert_string_equal(a.cells[a.cols - 1], "OK");
		answer_free(&a);
	}
	answer_free(&names);
}

void tmpdb_force(const struct tmpdb *t, const char *sql)
{
	tmpdb_sql(t, "%s %s",
		  on_mariadb ? "SET SESSION foreign_key_checks = 0; SET SESSION"
			       " check_constraint_checks = 0;"
			     : "PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = 1;",
		  sql);
}

static void add_sqlite_fault(const struct tmpdb *t, const char *table, const char *event,
			     const char *how)
{
	tmpdb_sql(t,
		  "DROP TRIGGER IF EXISTS fault_%s_%s; CREATE TRIGGER fault_%s_%s AFTER %s ON %s"
		  " BEGIN UPDATE fault SET k = k - 1;"
		  " SELECT RAISE(%s, 'injected') FROM fault WHERE k = 0; END",
		  table, event, table, event, event, table, how);
}

static void add_mariadb_fault(const struct tmpdb *t, const char *table, const char *event,
			      const char *how)
{
	tmpdb_sql(t,
		  "CREATE OR REPLACE TRIGGER fault_%s_%s AFTER %s ON %s FOR EACH ROW BEGIN"
		  " UPDATE fault SET k = k - 1; IF (SELECT k FROM fault) = 0 THEN %s; END IF; END",
		  table, event, event, table, how);
}

void tmpdb_add_fault(const struct tmpdb *t, const char *table, bool whole_transaction)
{
	static const char *const events[] = {"INSERT", "UPDATE", "DELETE"};

	if (!tmpdb_has_table(t, "fault"))
		tmpdb_sql(t, "CREATE TABLE fault (k INT); INSERT INTO fault VALUES (0)");
	for (size_t i = 0; i < ARRAY_SIZE(events); i++)
		if (on_mariadb)
			add_mariadb_fault(t, table, events[i],
					  whole_transaction
						  ? "KILL CONNECTION CONNECTION_ID()"
						  : "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT ="
						    " 'injected'");
		else
			add_sqlite_fault(t, table, events[i],
					 whole_transaction ? "ROLLBACK" : "ABORT");
}

void tmpdb_arm(const struct tmpdb *t, int k)
{
	tmpdb_sql(t, "UPDATE fault SET k = %d", k);
}
