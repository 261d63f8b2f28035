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
	bool in_tx;
	struct err
		doom; /* why the open transaction is gone; set by the backend; code 0: it is not */
};

/* A backend's statement struct begins with this one. */
struct db_stmt {
	struct db *db;
	struct list node; /* in db->cache; linked to itself when the statement is a spare */
	char *sql;
	bool in_use;
};

/* A $WORD of the schema files and what it stands for. */
struct db_word {
	const char *word, *text;
};

/*
 * Functions return 0, -errno or a db_cond, and write @err whenever it is not 0 (step: when it is
 * neither DB_ROW nor DB_DONE).
 */
struct db_ops {
	const char *scheme;	     /* URL part before ":" */
	const struct db_word *words; /* the last has no word */
	const char *now;	     /* SQL expression: microseconds since 1970 UTC */
	bool ddl_commits;
	bool (*url_valid)(const char *rest, struct err *err);
	int (*open)(const char *rest, unsigned int busy_timeout_ms, struct db **out,
		    struct err *err);
	void (*close)(struct db *db); /* statements are finalized before */
	int (*backup)(struct db *db, int64_t schema_version, const char *dir, struct err *err);
	int (*check)(struct db *db, struct err *err);
	int (*schema_lock)(struct db *db, struct err *err); /* both with ddl_commits */
	void (*schema_unlock)(struct db *db);
	int (*exec)(struct db *db, const char *sql, struct err *err); /* one statement */
	int (*begin)(struct db *db, struct err *err);
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

/* Names for a copy of the database: "<stem>.schema-<version>-<time>.<suffix>", a new one each time,
 * because a copy made before an earlier change is still worth having; and a temporary one to write
 * it under, so that a file of the first name is always whole. The caller free()s both. */
int db_copy_names(const char *stem, int64_t schema_version, const char *suffix, char **path,
		  char **tmp);
/* Makes @tmp durable and gives it its name; unlinks it when it fails. */
int db_copy_done(const char *tmp, const char *path, struct err *err);

extern const struct db_ops db_sqlite_ops;
extern const struct db_ops db_mariadb_ops;

#endif
