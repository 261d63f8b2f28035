/*
 * A catalog database of a test's own, and a second way in: raw SQL beside the catalog, to look at
 * what is really stored, to age rows, and to break things on purpose.
 *
 * Tests run once on each database: tmpdb_run_tests() in main(). SQLite's is a file in a directory
 * of the test's own; MariaDB's is a database on a server that the test program starts for itself.
 */
#ifndef TESTS_SUPPORT_TMPDB_H
#define TESTS_SUPPORT_TMPDB_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/mariadbd.h"

struct tmpdb {
	char dir[256];
	char path[300]; /* SQLite: of the database file */
	char name[64];	/* MariaDB: of the database */
	char url[700];
};

/* Runs tests on SQLite and then on MariaDB, or on @only one of "sqlite" and "mariadb", or on what
 * TEST_DB names alone; what main() returns. */
#define tmpdb_run_tests(name, tests, setup, teardown)                                              \
	tmpdb_run_tests_on(NULL, name, tests, setup, teardown)
#define tmpdb_run_tests_on(only, name, tests, setup, teardown)                                     \
	tmpdb_run_group(only, name, tests, sizeof(tests) / sizeof((tests)[0]), setup, teardown)
int tmpdb_run_group(const char *only, const char *name, const struct CMUnitTest *tests, size_t n,
		    CMFixtureFunction setup, CMFixtureFunction teardown);

/* The database of the present run. */
bool tmpdb_on_mariadb(void);
#define tmpdb_either(sqlite, mariadb) (tmpdb_on_mariadb() ? (mariadb) : (sqlite))

/* The server, for tests that stop it. */
struct mariadbd *tmpdb_server(void);

/* Makes directory and empty database. Fails the test on error. */
void tmpdb_init(struct tmpdb *t);
void tmpdb_deinit(struct tmpdb *t);

/* Each opens the database anew, foreign keys on. They fail the test when the database does. */
void tmpdb_sql(const struct tmpdb *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int64_t tmpdb_i64(const struct tmpdb *t, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* First column of the first row, "" if NULL or none; valid until the next call of this thread. */
const char *tmpdb_text(const struct tmpdb *t, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* Rows of all tables but @except (may be NULL) as one text, for comparing; the caller free()s it.
 */
char *tmpdb_dump(const struct tmpdb *t, const char *except);

/* Runs SQL that may fail: 0 or the database's own error number. */
int tmpdb_try(const struct tmpdb *t, const char *sql);

/* The database's own tables aside. */
bool tmpdb_has_table(const struct tmpdb *t, const char *table);
int64_t tmpdb_count_tables(const struct tmpdb *t);

/* How the tables and their triggers are defined, as one text; the caller free()s it. */
char *tmpdb_schema(const struct tmpdb *t);

/* Fails the test unless the database itself finds the database sound. */
void tmpdb_assert_sound(const struct tmpdb *t);

/* Runs SQL that the database would refuse with its checks and foreign keys on. */
void tmpdb_force(const struct tmpdb *t, const char *sql);

/* Makes every change of @table that comes when the counter in table `fault` reaches 0 fail, with
 * "injected" in its error: the statement, or the whole transaction (SQLite: rolled back; MariaDB:
 * the connection is killed). tmpdb_arm() sets the counter to the k-th change from now; 0: none. */
void tmpdb_add_fault(const struct tmpdb *t, const char *table, bool whole_transaction);
void tmpdb_arm(const struct tmpdb *t, int k);

#endif
