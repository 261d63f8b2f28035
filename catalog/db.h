/*
 * A database connection: one small interface, one table of functions a backend.
 *
 * This layer knows SQL statements and values, no table of ours. Above it sit the nouns (contexts.c,
 * backups.c, ...) which own their SQL; below it one file a backend (db_sqlite.c). What differs
 * between databases is kept here and in the schema files:
 *  - SQL is the common subset: `?` parameters, text with CHECK instead of enum, BIGINT
 * microseconds, ids made in C, no upsert statement (update, then insert, in a write transaction: a
 * race with another hub ends in DB_E_UNIQUE), no RETURNING.
 *  - A write transaction begins with the lock taken (SQLite: BEGIN IMMEDIATE), so that what it
 * reads stays true until it commits.
 *
 * A connection belongs to one thread at a time. The pool in catalog.c sees to that.
 */
#ifndef CATALOG_DB_H
#define CATALOG_DB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"

/* What db_step() found. "No row" and "failed" are never the same value. */
enum { DB_DONE = 0, DB_ROW = 1 };

/* Conditions of db_run(), db_script(), db_step() and the transaction functions. */
enum db_cond {
	DB_E_BUSY = 100, /* locked or deadlocked: roll back and run the transaction again */
	DB_E_UNIQUE,	 /* a unique key or primary key is taken */
	DB_E_FOREIGN,	 /* a foreign key points nowhere, or is still pointed at */
	DB_E_CHECK,	 /* a CHECK or NOT NULL of the schema refused the values */
};

struct db;	/* connection; a backend's struct begins with it */
struct db_stmt; /* prepared statement; owned by its connection */

/* A value for a `?`. */
struct db_arg {
	enum { DB_ARG_NULL, DB_ARG_I64, DB_ARG_TEXT } type;
	int64_t i64;
	const char *text; /* borrowed until the statement is released */
};

#define DB_NULL	   ((struct db_arg){.type = DB_ARG_NULL})
#define DB_I64(v)  ((struct db_arg){.type = DB_ARG_I64, .i64 = (v)})
#define DB_TEXT(v) ((struct db_arg){.type = DB_ARG_TEXT, .text = (v)})
/* "" or NULL as SQL NULL. */
#define DB_OPT(v) db_arg_opt(v)
#define DB_ARGS(...)                                                                               \
	(const struct db_arg[]){__VA_ARGS__},                                                      \
		(sizeof((const struct db_arg[]){__VA_ARGS__}) / sizeof(struct db_arg))
#define DB_NO_ARGS NULL, 0

static inline struct db_arg db_arg_opt(const char *v)
{
	return v && *v ? DB_TEXT(v) : DB_NULL;
}

/*
 * What a backend provides. Functions return 0, -errno or a db_cond, and write @err. A statement
 * runs to its end or is reset before the connection commits.
 */
struct db_ops {
	const char *scheme; /* URL part before ":" */
	bool single_writer; /* one write transaction at a time: callers queue instead of colliding
			     */
	int (*open)(const char *rest, unsigned int busy_timeout_ms, struct db **out,
		    struct err *err);
	void (*close)(struct db *db);
	/* Copies the database aside before its schema changes; the name is the backend's. */
	int (*backup)(struct db *db, int64_t schema_version, struct err *err);
	int (*script)(struct db *db, const char *sql, struct err *err);
	int (*begin)(struct db *db, bool write, struct err *err);
	int (*commit)(struct db *db, struct err *err);
	void (*rollback)(struct db *db);
	int (*prepare)(struct db *db, const char *sql, struct db_stmt **out, struct err *err);
	void (*finalize)(struct db_stmt *st);
	int (*bind)(struct db_stmt *st, int index, const struct db_arg *arg, struct err *err);
	int (*step)(struct db_stmt *st, struct err *err);
	void (*reset)(struct db_stmt *st);
	int (*columns)(struct db_stmt *st);
	bool (*is_null)(struct db_stmt *st, int col);
	int64_t (*col_i64)(struct db_stmt *st, int col);
	const char *(*col_text)(struct db_stmt *st, int col, size_t *len);
	int64_t (*changes)(struct db *db);   /* rows matched by the last UPDATE/DELETE/INSERT */
	int64_t (*insert_id)(struct db *db); /* id the last INSERT generated */
};

extern const struct db_ops db_sqlite_ops;

/* Finds the backend of @url; *@rest points behind the scheme. NULL with @err set if there is none.
 */
const struct db_ops *db_backend(const char *url, const char **rest, struct err *err);

/* Opens @url. The caller closes *@out. */
int db_open(const char *url, unsigned int busy_timeout_ms, struct db **out, struct err *err);
void db_close(struct db *db);
DEFINE_CLEANUP(struct db *, db_close)

const struct db_ops *db_ops_of(const struct db *db);

/* Runs a text of several statements without parameters or results: migrations. */
int db_script(struct db *db, const char *sql, struct err *err);

int db_begin(struct db *db, bool write, struct err *err);
int db_commit(struct db *db, struct err *err);
/* Never fails: a transaction that cannot be rolled back is not open. */
void db_rollback(struct db *db);

/* Takes the statement of @sql from the connection's cache (or prepares it) and binds @args; step
 * it, then give it back with db_release(). One text is in use once at a time per connection. */
int db_query(struct db *db, const char *sql, const struct db_arg *args, size_t n,
	     struct db_stmt **out, struct err *err);
/* DB_ROW, DB_DONE, or an error. */
int db_step(struct db_stmt *st, struct err *err);
void db_release(struct db_stmt *st);
DEFINE_CLEANUP(struct db_stmt *, db_release)

/* Query, step to the end, release: for statements without rows. *@changed (may be NULL) counts
 * rows. */
int db_run(struct db *db, const char *sql, const struct db_arg *args, size_t n, int64_t *changed,
	   struct err *err);
/* The first column of the first row, or @none when there is no row or it is NULL. */
int db_query_i64(struct db *db, const char *sql, const struct db_arg *args, size_t n, int64_t none,
		 int64_t *out, struct err *err);

int db_columns(struct db_stmt *st);
bool db_is_null(struct db_stmt *st, int col);
int64_t db_col_i64(struct db_stmt *st, int col);
/* Borrowed until the next step or release. NULL for SQL NULL; @len may be NULL. */
const char *db_col_text(struct db_stmt *st, int col, size_t *len);
int64_t db_insert_id(struct db *db);

#endif
