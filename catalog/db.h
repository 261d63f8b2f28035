/*
 * A database connection: one small interface, one table of functions a backend.
 *
 * This layer knows SQL statements and values, no table of ours. Above it sit the nouns (contexts.c,
 * backups.c, ...) which own their SQL; below it the backends (db_sqlite.c, db_mariadb.c). Nothing
 * above knows which it is:
 *  - SQL is the common subset: `?` parameters, text with CHECK instead of enum, times as BIGINT
 *    microseconds, ids made in C, no RETURNING, no upsert statement: look, then insert or
 *    update, in a transaction. The few words that differ are written as $WORD in the schema files.
 *  - A transaction is one for writing and begins with the database's one write lock taken (SQLite:
 *    BEGIN IMMEDIATE; MariaDB: a row of its own), so what it reads stays true until it commits.
 *    There is no other kind: what only reads is one statement.
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
	DB_E_ALREADY, /* db_statement(): what it would make is there, what it would drop is not */
	DB_E_TRIGGER, /* db_statement(): the server lets this user make or drop no triggers */
};

struct db;	/* connection */
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

/* True when @url names a backend of this program; else @err says which there are. */
bool db_url_valid(const char *url, struct err *err);

/* Opens @url. The caller closes *@out. A URL no backend takes is -EINVAL. A server that is not
 * there is waited for as long as a lock, then -ENOTCONN: here, and whenever a connection was lost.
 */
int db_open(const char *url, unsigned int busy_timeout_ms, struct db **out, struct err *err);
void db_close(struct db *db);
DEFINE_CLEANUP(struct db *, db_close)

/* True when a statement that changes the schema commits, whatever transaction it stands in. */
bool db_ddl_commits(const struct db *db);

/* Keeps other programs from changing the schema meanwhile, on a database where DDL commits. It ends
 * with the connection, which is not made anew while it is held. DB_E_BUSY. */
int db_schema_lock(struct db *db, struct err *err);
void db_schema_unlock(struct db *db);

/* Copies the database aside before its schema changes from @schema_version: SQLite beside the
 * database, MariaDB as SQL text into @dir (NULL: no copy). */
int db_backup(struct db *db, int64_t schema_version, const char *dir, struct err *err);

/* Fails with -EUCLEAN when a foreign key points nowhere. */
int db_check(struct db *db, struct err *err);

/* Runs a script: statements without parameters or results, each of which ends in a ';' at the end
 * of a line; nothing but white space follows the last. */
int db_script(struct db *db, const char *sql, struct err *err);
/* Takes the next statement from *@script; false at the end. */
bool db_script_next(const char **script, const char **statement, size_t *len);
/* Runs one of them. */
int db_statement(struct db *db, const char *statement, size_t len, struct err *err);

/*
 * A transaction. When the database ends it by itself (a deadlock, a full disk, a lost connection),
 * whatever is tried in it afterwards fails with the same result until db_rollback(): nothing can
 * slip out of a transaction that is gone.
 *
 * db_commit() returning -ECONNABORTED: the connection broke while committing and no new one could
 * be had to look; it is not known whether the transaction happened. With any other result but 0 it
 * did not.
 */
int db_begin(struct db *db, struct err *err);
int db_commit(struct db *db, struct err *err);
/* Never fails: a transaction that cannot be rolled back is not open. */
void db_rollback(struct db *db);

/* A transaction inside the open one: release keeps its changes, rollback undoes them. */
int db_savepoint(struct db *db, struct err *err);
int db_savepoint_release(struct db *db, struct err *err);
void db_savepoint_rollback(struct db *db);

/* Takes the statement of @sql from the connection's cache (or prepares it) and binds @args; step
 * it, then give it back with db_release(). */
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

/* The database's own clock, microseconds since 1970 UTC: the same for all who use the database. */
int db_now_us(struct db *db, int64_t *out, struct err *err);

bool db_is_null(struct db_stmt *st, int col);
int64_t db_col_i64(struct db_stmt *st, int col);
/* Borrowed until the next step or release. NULL for SQL NULL; @len may be NULL. */
const char *db_col_text(struct db_stmt *st, int col, size_t *len);
int64_t db_insert_id(struct db *db);

#endif
