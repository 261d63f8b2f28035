/*
 * A catalog database of a test's own, in a directory of its own, and a second way in: raw SQL
 * beside the catalog, to look at what is really stored, to age rows, and to break things on
 * purpose.
 */
#ifndef TESTS_SUPPORT_TMPDB_H
#define TESTS_SUPPORT_TMPDB_H

#include <stdint.h>

struct tmpdb {
	char dir[256];
	char path[300]; /* of the database file */
	char url[320];
};

/* Makes the directory; the database appears when something opens @url. Fails the test on error. */
void tmpdb_init(struct tmpdb *t);
void tmpdb_deinit(struct tmpdb *t);

/* Each opens the file anew, foreign keys on. They fail the test when SQLite does. */
void tmpdb_sql(const struct tmpdb *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int64_t tmpdb_i64(const struct tmpdb *t, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* First column of the first row, "" if NULL or none; valid until the next call of this thread. */
const char *tmpdb_text(const struct tmpdb *t, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* All rows of all tables but @except (may be NULL) as one text, for comparing; the caller free()s
 * it. */
char *tmpdb_dump(const struct tmpdb *t, const char *except);

/* Runs SQL that may fail: 0 or the extended SQLite code. */
int tmpdb_try(const struct tmpdb *t, const char *sql);

#endif
