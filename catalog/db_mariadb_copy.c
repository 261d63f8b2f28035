/*
 * What concerns a MariaDB database as a whole: the copy made before its schema changes, and the
 * look for rows that lost their parent.
 *
 * The copy is SQL text for the `mariadb` client, written by this program so that it needs no other
 * one, no second log-in and no password on a command line. It is read in one snapshot, row by row:
 * memory does not grow with the database. Tables of the catalog hold integers and texts only.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "catalog/db_mariadb.h"

#define ROWS_A_STATEMENT 200

static void free_resultp(MYSQL_RES **res)
{
	if (*res)
		mysql_free_result(*res);
}

static int query(struct maria_db *m, const char *sql, MYSQL_RES **res, struct err *err)
{
	*res = NULL;
	if (!mysql_real_query(m->h, sql, strlen(sql)))
		*res = mysql_store_result(m->h);
	return *res ? 0 : maria_fail(m, err);
}

/* --- copy ------------------------------------------------------------------------------------- */

static void put_text(FILE *out, const char *text, size_t len)
{
	fputc('\'', out);
	for (size_t i = 0; i < len; i++) {
		if (text[i] == '\'' || text[i] == '\\')
			fputc('\\', out);
		if (text[i])
			fputc(text[i], out);
		else
			fputs("\\0", out);
	}
	fputc('\'', out);
}

static void put_row(FILE *out, MYSQL_ROW row, const unsigned long *lens, const MYSQL_FIELD *fields,
		    unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		fputs(i ? "," : "(", out);
		if (!row[i])
			fputs("NULL", out);
		else if (IS_NUM(fields[i].type))
			fputs(row[i], out);
		else
			put_text(out, row[i], lens[i]);
	}
	fputc(')', out);
}

static int put_rows(struct maria_db *m, const char *table, FILE *out, struct err *err)
{
	_cleanup_(free_resultp) MYSQL_RES *res = NULL;
	char sql[256];
	MYSQL_ROW row;

	snprintf(sql, sizeof(sql), "SELECT * FROM \"%s\"", table);
	if (mysql_real_query(m->h, sql, strlen(sql)) || !(res = mysql_use_result(m->h)))
		return maria_fail(m, err);
	for (uint64_t n = 0; (row = mysql_fetch_row(res)); n++) {
		if (n % ROWS_A_STATEMENT == 0)
			fprintf(out, "%sINSERT INTO \"%s\" VALUES\n", n ? ";\n" : "", table);
		else
			fputs(",\n", out);
		put_row(out, row, mysql_fetch_lengths(res), mysql_fetch_fields(res),
			mysql_num_fields(res));
	}
	if (mysql_errno(m->h))
		return maria_fail(m, err);
	if (mysql_num_rows(res))
		fputs(";\n", out);
	return 0;
}

static int put_table(struct maria_db *m, const char *table, FILE *out, struct err *err)
{
	_cleanup_(free_resultp) MYSQL_RES *res = NULL;
	char sql[256];
	MYSQL_ROW row;
	int r;

	snprintf(sql, sizeof(sql), "SHOW CREATE TABLE \"%s\"", table);
	r = query(m, sql, &res, err);
	if (r)
		return r;
	row = mysql_fetch_row(res);
	if (!row || !row[1])
		return err_set(err, -EIO, "catalog database %s: table %s cannot be described",
			       m->url.shown, table);
	fprintf(out, "\nDROP TABLE IF EXISTS \"%s\";\n%s;\n", table, row[1]);
	return put_rows(m, table, out, err);
}

static int put_tables(struct maria_db *m, FILE *out, struct err *err)
{
	_cleanup_(free_resultp) MYSQL_RES *res = NULL;
	MYSQL_ROW row;
	int r = query(m,
		      "SELECT table_name FROM information_schema.tables"
		      " WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE' ORDER BY 1",
		      &res, err);

	while (!r && (row = mysql_fetch_row(res)))
		r = put_table(m, row[0], out, err);
	return r;
}

/* Without a definer: whoever loads the copy is it. Behind everything else, so that a server which
 * refuses them (DB_E_TRIGGER) has the rest, and so that they do not fire for rows of the copy. */
static int put_triggers(struct maria_db *m, FILE *out, struct err *err)
{
	enum { NAME, EVENT, TABLE, STATEMENT, TIMING, CREATED, SQL_MODE };
	_cleanup_(free_resultp) MYSQL_RES *res = NULL;
	MYSQL_ROW row;
	int r = query(m, "SHOW TRIGGERS", &res, err);

	while (!r && (row = mysql_fetch_row(res)))
		fprintf(out,
			"\nSET SESSION sql_mode = '%s';\nDELIMITER $$\n"
			"CREATE TRIGGER \"%s\" %s %s ON \"%s\" FOR EACH ROW\n%s$$\nDELIMITER ;\n",
			row[SQL_MODE], row[NAME], row[TIMING], row[EVENT], row[TABLE],
			row[STATEMENT]);
	return r;
}

static int put_database(struct maria_db *m, int64_t schema_version, FILE *out, struct err *err)
{
	int r = maria_exec(m, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", err);

	if (!r)
		r = maria_exec(m, "START TRANSACTION WITH CONSISTENT SNAPSHOT", err);
	if (r)
		return r;
	fprintf(out,
		"-- Catalog with schema %" PRId64 ". To return to it: stop the hub, make the "
		"database anew, and run\n-- mariadb DATABASE < this file\n"
		"SET NAMES utf8mb4;\nSET SESSION sql_mode = 'ANSI_QUOTES,NO_AUTO_VALUE_ON_ZERO';\n"
		"SET SESSION foreign_key_checks = 0;\n",
		schema_version);
	r = put_tables(m, out, err);
	fputs("\nSET SESSION foreign_key_checks = 1;\n", out);
	if (!r)
		r = put_triggers(m, out, err);
	if (m->h)
		mysql_rollback(m->h);
	return r;
}

static int write_copy(struct maria_db *m, int64_t schema_version, const char *path, struct err *err)
{
	_cleanup_(closep) int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	_cleanup_(fclosep) FILE *out = fd < 0 ? NULL : fdopen(fd, "w");
	int r;

	if (!out)
		return err_sys(err, -errno, "cannot copy the catalog database to %s", path);
	steal_fd(&fd);
	r = put_database(m, schema_version, out, err);
	if (!r && (fflush(out) || ferror(out)))
		r = err_sys(err, errno ? -errno : -EIO, "cannot copy the catalog database to %s",
			    path);
	return r;
}

int maria_backup(struct db *db, int64_t schema_version, const char *dir, struct err *err)
{
	struct maria_db *m = container_of(db, struct maria_db, base);
	_cleanup_(freep) char *stem = NULL;
	_cleanup_(freep) char *path = NULL;
	_cleanup_(freep) char *tmp = NULL;
	int r;

	if (!dir)
		return 0;
	if (asprintf(&stem, "%s/catalog", dir) < 0 ||
	    db_copy_names(stem, schema_version, "sql", &path, &tmp))
		return err_sys(err, -ENOMEM, "cannot copy the catalog database aside");
	r = write_copy(m, schema_version, tmp, err);
	if (r) {
		unlink(tmp);
		return r;
	}
	return db_copy_done(tmp, path, err);
}

/* --- check ------------------------------------------------------------------------------------ */

/* InnoDB keeps foreign keys by itself, unless somebody switched that off for a session. */
static int check_key(struct maria_db *m, MYSQL_ROW key, struct err *err)
{
	_cleanup_(free_resultp) MYSQL_RES *res = NULL;
	char sql[640];
	int r;

	snprintf(sql, sizeof(sql),
		 "SELECT 1 FROM \"%s\" c LEFT JOIN \"%s\" p ON p.\"%s\" = c.\"%s\""
		 " WHERE c.\"%s\" IS NOT NULL AND p.\"%s\" IS NULL LIMIT 1",
		 key[0], key[2], key[3], key[1], key[1], key[3]);
	r = query(m, sql, &res, err);
	if (!r && mysql_num_rows(res))
		r = err_set(err, -EUCLEAN,
			    "catalog database %s: table %s has a row whose %s row is gone",
			    m->url.shown, key[0], key[2]);
	return r;
}

/* All keys of the catalog are of one column. */
int maria_check(struct db *db, struct err *err)
{
	struct maria_db *m = container_of(db, struct maria_db, base);
	_cleanup_(free_resultp) MYSQL_RES *res = NULL;
	MYSQL_ROW key;
	int r = query(m,
		      "SELECT table_name, column_name, referenced_table_name,"
		      " referenced_column_name FROM information_schema.key_column_usage"
		      " WHERE table_schema = DATABASE() AND referenced_table_name IS NOT NULL"
		      " ORDER BY 1, 2",
		      &res, err);

	while (!r && (key = mysql_fetch_row(res)))
		r = check_key(m, key, err);
	return r;
}
