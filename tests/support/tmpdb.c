#include "tests/support/tmpdb.h"

#include <ftw.h>
#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

void tmpdb_init(struct tmpdb *t)
{
	const char *base = getenv("TMPDIR");

	snprintf(t->dir, sizeof(t->dir), "%s/sendense-db-XXXXXX", base && *base ? base : "/tmp");
	if (!mkdtemp(t->dir))
		fail_msg("cannot make a directory like %s", t->dir);
	snprintf(t->path, sizeof(t->path), "%s/catalog.db", t->dir);
	snprintf(t->url, sizeof(t->url), "sqlite:%s", t->path);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

void tmpdb_deinit(struct tmpdb *t)
{
	nftw(t->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static sqlite3 *open_raw(const struct tmpdb *t)
{
	sqlite3 *h = NULL;

	if (sqlite3_open_v2(t->path, &h, SQLITE_OPEN_READWRITE, NULL))
		fail_msg("cannot open %s: %s", t->path, sqlite3_errmsg(h));
	sqlite3_extended_result_codes(h, 1);
	sqlite3_busy_timeout(h, 10000);
	sqlite3_exec(h, "PRAGMA foreign_keys=ON", NULL, NULL, NULL);
	return h;
}

int tmpdb_try(const struct tmpdb *t, const char *sql)
{
	sqlite3 *h = open_raw(t);
	int r = sqlite3_exec(h, sql, NULL, NULL, NULL);

	sqlite3_close(h);
	return r;
}

void tmpdb_sql(const struct tmpdb *t, const char *fmt, ...)
{
	sqlite3 *h = open_raw(t);
	va_list ap;
	char *sql;

	va_start(ap, fmt);
	sql = sqlite3_vmprintf(fmt, ap);
	va_end(ap);
	if (sqlite3_exec(h, sql, NULL, NULL, NULL))
		fail_msg("%s: %s", sql, sqlite3_errmsg(h));
	sqlite3_free(sql);
	sqlite3_close(h);
}

static void first_value(const struct tmpdb *t, char *sql, char *buf, size_t cap)
{
	sqlite3 *h = open_raw(t);
	sqlite3_stmt *st = NULL;
	int r;

	buf[0] = 0;
	if (sqlite3_prepare_v2(h, sql, -1, &st, NULL))
		fail_msg("%s: %s", sql, sqlite3_errmsg(h));
	r = sqlite3_step(st);
	if (r == SQLITE_ROW && sqlite3_column_text(st, 0))
		snprintf(buf, cap, "%s", (const char *)sqlite3_column_text(st, 0));
	else if (r != SQLITE_ROW && r != SQLITE_DONE)
		fail_msg("%s: %s", sql, sqlite3_errmsg(h));
	sqlite3_finalize(st);
	sqlite3_free(sql);
	sqlite3_close(h);
}

int64_t tmpdb_i64(const struct tmpdb *t, const char *fmt, ...)
{
	char buf[64];
	va_list ap;
	char *sql;

	va_start(ap, fmt);
	sql = sqlite3_vmprintf(fmt, ap);
	va_end(ap);
	first_value(t, sql, buf, sizeof(buf));
	return strtoll(buf, NULL, 10);
}

const char *tmpdb_text(const struct tmpdb *t, const char *fmt, ...)
{
	static _Thread_local char buf[2048];
	va_list ap;
	char *sql;

	va_start(ap, fmt);
	sql = sqlite3_vmprintf(fmt, ap);
	va_end(ap);
	first_value(t, sql, buf, sizeof(buf));
	return buf;
}

static void dump_table(sqlite3 *h, const char *table, FILE *out)
{
	char *sql = sqlite3_mprintf("SELECT * FROM \"%w\"", table);
	sqlite3_stmt *st = NULL;

	if (sqlite3_prepare_v2(h, sql, -1, &st, NULL))
		fail_msg("%s: %s", sql, sqlite3_errmsg(h));
	while (sqlite3_step(st) == SQLITE_ROW) {
		fputs(table, out);
		for (int i = 0; i < sqlite3_column_count(st); i++)
			fprintf(out, "|%s", (const char *)sqlite3_column_text(st, i) ?: "NULL");
		fputc('\n', out);
	}
	sqlite3_finalize(st);
	sqlite3_free(sql);
}

char *tmpdb_dump(const struct tmpdb *t, const char *except)
{
	sqlite3 *h = open_raw(t);
	sqlite3_stmt *st = NULL;
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	if (sqlite3_prepare_v2(h,
			       "SELECT name FROM sqlite_master WHERE type = 'table'"
			       " AND name NOT LIKE 'sqlite_%' ORDER BY name",
			       -1, &st, NULL))
		fail_msg("%s", sqlite3_errmsg(h));
	while (sqlite3_step(st) == SQLITE_ROW) {
		const char *table = (const char *)sqlite3_column_text(st, 0);

		if (!except || strcmp(table, except))
			dump_table(h, table, out);
	}
	sqlite3_finalize(st);
	sqlite3_close(h);
	fclose(out);
	return text;
}
