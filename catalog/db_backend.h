/*
 * What a database backend provides, and what db.c keeps for it. Included by db.c and
 * db_<backend>.c.
 */
#ifndef CATALOG_DB_BACKEND_H
#define CATALOG_DB_BACKEND_H

#include "base/list.h"
#include "catalog/db.h"

/* A backend's connection struct begins with this one. */
struct db {
	const struct db_ops *ops;
	struct list cache;	 /* db_stmt, most recently used first */
	unsigned int savepoints; /* open ones */
};

/* A backend's statement struct begins with this one. */
struct db_stmt {
	struct db *db;
	struct list node; /* in db->cache; linked to itself when the statement is a spare */
	char *sql;
	bool in_use;
};

/*
 * Functions return 0, -errno or a db_cond, and write @err whenever it is not 0 (step: when it is
 * neither DB_ROW nor DB_DONE).
 */
struct db_ops {
	const char *scheme; /* URL part before ":" */
	bool single_writer;
	int (*open)(const char *rest, unsigned int busy_timeout_ms, struct db **out,
		    struct err *err);
	void (*close)(struct db *db); /* statements are finalized before */
	int (*backup)(struct db *db, int64_t schema_version, struct err *err);
	int (*check)(struct db *db, struct err *err);
	int (*script)(struct db *db, const char *sql, struct err *err);
	int (*begin)(struct db *db, bool write, struct err *err);
	int (*commit)(struct db *db, struct err *err);
	void (*rollback)(struct db *db);
	int (*prepare)(struct db *db, const char *sql, struct db_stmt **out, struct err *err);
	void (*finalize)(struct db_stmt *st);
	int (*bind)(struct db_stmt *st, size_t index, const struct db_arg *arg, struct err *err);
	int (*step)(struct db_stmt *st, struct err *err);
	void (*reset)(struct db_stmt *st);
	bool (*is_null)(struct db_stmt *st, int col);
	int64_t (*col_i64)(struct db_stmt *st, int col);
	const char *(*col_text)(struct db_stmt *st, int col, size_t *len);
	int64_t (*changes)(struct db *db);   /* rows matched by the last INSERT, UPDATE, DELETE */
	int64_t (*insert_id)(struct db *db); /* id the last INSERT generated */
};

extern const struct db_ops db_sqlite_ops;

#endif
