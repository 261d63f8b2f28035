/*
 * SQLite behind catalog/db.h.
 *
 * WAL, so that readers and the writer do not wait for each other; synchronous=FULL, so that a
 * commit is on disk when it returns; foreign keys on (SQLite's default is off, per connection). The
 * database file is created with mode 0600 before SQLite sees it, because the -wal and -shm files
 * take their mode from it. Connections are opened NOMUTEX: the pool gives each to one thread at a
 * time.
 */
#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/file.h"
#include "catalog/db_backend.h"

struct sqlite_db {
	struct db base;
	sqlite3 *h;
	char *path;
};

struct sqlite_stmt {
	struct db_stmt base;
	sqlite3_stmt *h;
};

static struct sqlite_db *of_db(struct db *db)
{
	return container_of(db, struct sqlite_db, base);
}

static sqlite3_stmt *of_stmt(struct db_stmt *st)
{
	return container_of(st, struct sqlite_stmt, base)->h;
}

/* --- errors ----------------------------------------------------------------------------------- */

static int map_constraint(sqlite3 *h, int extended)
{
	switch (extended) {
	case SQLITE_CONSTRAINT_UNIQUE:
	case SQLITE_CONSTRAINT_PRIMARYKEY:
	case SQLITE_CONSTRAINT_ROWID:
		return DB_E_UNIQUE;
	case SQLITE_CONSTRAINT_FOREIGNKEY:
		return DB_E_FOREIGN;
	case SQLITE_CONSTRAINT_TRIGGER:
		/* ON DELETE RESTRICT is reported like a trigger's RAISE(). */
		return !strncmp(sqlite3_errmsg(h), "FOREIGN KEY", 11) ? DB_E_FOREIGN : -EIO;
	default:
		return DB_E_CHECK;
	}
}

static int map_io_errno(sqlite3 *h)
{
	int e = sqlite3_system_errno(h);

	return e == ENOSPC || e == EDQUOT || e == EACCES || e == ENOENT || e == EROFS ? -e : -EIO;
}

static int map_code(sqlite3 *h)
{
	int extended = sqlite3_extended_errcode(h);

	switch (extended & 0xff) {
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return DB_E_BUSY;
	case SQLITE_CONSTRAINT:
		return map_constraint(h, extended);
	case SQLITE_FULL:
		return -ENOSPC;
	case SQLITE_READONLY:
		return -EROFS;
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		return -EUCLEAN;
	case SQLITE_NOMEM:
		return -ENOMEM;
	case SQLITE_PERM:
		return -EACCES;
	case SQLITE_TOOBIG:
		return -E2BIG;
	default:
		return map_io_errno(h);
	}
}

static int fail(struct sqlite_db *s, struct err *err)
{
	int code = map_code(s->h);

	/* A full disk and some other failures roll back by themselves. */
	if (s->base.in_tx && !s->base.doom.code && sqlite3_get_autocommit(s->h))
		err_set(&s->base.doom, code, "catalog database %s: %s", s->path,
			sqlite3_errmsg(s->h));
	return err_set(err, code, "catalog database %s: %s", s->path, sqlite3_errmsg(s->h));
}

/* --- open and close --------------------------------------------------------------------------- */

static bool sqlite_url_valid(const char *rest, struct err *err)
{
	if (!*rest)
		err_set(err, -EINVAL, "database URL names no file: use sqlite:PATH");
	return *rest;
}

/* A file that exists is never opened here: closing it again would drop the locks that this process'
 * other connections have on it, and the next program to close the database would take itself for
 * the last one and remove the log they write to (sqlite.org/howtocorrupt.html, 2.2). */
static int create_file(const char *path, struct err *err)
{
	_cleanup_(closep) int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	struct stat st;

	if (fd < 0 && errno != EEXIST)
		return err_sys(err, -errno, "cannot open the catalog database %s", path);
	if (stat(path, &st) < 0)
		return err_sys(err, -errno, "cannot stat the catalog database %s", path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "catalog database %s is not a regular file", path);
	if (st.st_size == 0 && file_sync_dir_of(path))
		return err_sys(err, -EIO, "cannot sync the directory of %s", path);
	return 0;
}

/* The switch to WAL needs the file alone and does not wait by itself: two programs starting at once
 * on a new database meet here. */
static int set_wal(struct sqlite_db *s, unsigned int busy_timeout_ms, struct err *err)
{
	const struct timespec pause = {.tv_nsec = 10 * 1000 * 1000};
	unsigned int waited_ms = 0;
	int r;

	for (;;) {
		r = sqlite3_exec(s->h, "PRAGMA journal_mode=WAL", NULL, NULL, NULL);
		if (r == SQLITE_OK)
			return 0;
		if (map_code(s->h) != DB_E_BUSY || waited_ms >= busy_timeout_ms)
			return fail(s, err);
		nanosleep(&pause, NULL);
		waited_ms += 10;
	}
}

static int is_wal(void *arg, int n, char **values, char **names)
{
	(void)names;
	*(bool *)arg = n == 1 && values[0] && !strcmp(values[0], "wal");
	return 0;
}

static int configure(struct sqlite_db *s, unsigned int busy_timeout_ms, struct err *err)
{
	bool wal = false;
	int r;

	sqlite3_extended_result_codes(s->h, 1);
	sqlite3_busy_timeout(s->h, (int)MIN(busy_timeout_ms, 3600U * 1000));
	sqlite3_db_config(s->h, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
	r = set_wal(s, busy_timeout_ms, err);
	if (r)
		return r;
	if (sqlite3_exec(s->h, "PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;", NULL, NULL,
			 NULL) ||
	    sqlite3_exec(s->h, "PRAGMA journal_mode", is_wal, &wal, NULL))
		return fail(s, err);
	if (!wal)
		return err_set(err, -EOPNOTSUPP,
			       "catalog database %s: its file system cannot share a write-ahead "
			       "log: use a local one",
			       s->path);
	return 0;
}

static void sqlite_close(struct db *db)
{
	struct sqlite_db *s = of_db(db);

	sqlite3_close(s->h);
	free(s->path);
	free(s);
}

static void sqlite_dbp(struct sqlite_db **s)
{
	if (*s)
		sqlite_close(&(*s)->base);
}

static int sqlite_open(const char *rest, unsigned int busy_timeout_ms, struct db **out,
		       struct err *err)
{
	_cleanup_(sqlite_dbp) struct sqlite_db *s = calloc(1, sizeof(*s));
	int r;

	if (!s || !(s->path = strdup(rest)))
		return err_sys(err, -ENOMEM, "cannot open the catalog database");
	r = create_file(s->path, err);
	if (r)
		return r;
	r = sqlite3_open_v2(s->path, &s->h, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
	if (r != SQLITE_OK)
		return s->h ? fail(s, err)
			    : err_sys(err, -ENOMEM, "cannot open the catalog database");
	r = configure(s, busy_timeout_ms, err);
	if (r)
		return r;
	*out = &steal(&s)->base;
	return 0;
}

/* --- whole database --------------------------------------------------------------------------- */

static int sqlite_exec(struct db *db, const char *sql, struct err *err)
{
	struct sqlite_db *s = of_db(db);

	return sqlite3_exec(s->h, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : fail(s, err);
}

static int vacuum_into(struct sqlite_db *s, const char *path, struct err *err)
{
	sqlite3_stmt *st = NULL;
	int r = 0;

	if (sqlite3_prepare_v2(s->h, "VACUUM INTO ?", -1, &st, NULL) ||
	    sqlite3_bind_text(st, 1, path, -1, SQLITE_STATIC) || sqlite3_step(st) != SQLITE_DONE)
		r = fail(s, err);
	sqlite3_finalize(st);
	return r;
}

static int sqlite_backup(struct db *db, int64_t schema_version, const char *dir, struct err *err)
{
	_cleanup_(freep) char *path = NULL;
	_cleanup_(freep) char *tmp = NULL;
	struct sqlite_db *s = of_db(db);
	int r = db_copy_names(s->path, schema_version, "bak", &path, &tmp);

	(void)dir;
	if (r)
		return err_sys(err, r, "cannot copy the catalog database aside");
	r = create_file(tmp, err); /* empty and private: VACUUM INTO accepts that */
	if (!r)
		r = vacuum_into(s, tmp, err);
	if (r) {
		unlink(tmp);
		return r;
	}
	return db_copy_done(tmp, path, err);
}

static int sqlite_check(struct db *db, struct err *err)
{
	struct sqlite_db *s = of_db(db);
	sqlite3_stmt *st = NULL;
	int r;

	if (sqlite3_prepare_v2(s->h, "PRAGMA foreign_key_check", -1, &st, NULL))
		return fail(s, err);
	r = sqlite3_step(st);
	if (r == SQLITE_ROW)
		r = err_set(err, -EUCLEAN,
			    "catalog database %s: table %s has a row whose %s row is gone", s->path,
			    (const char *)sqlite3_column_text(st, 0),
			    (const char *)sqlite3_column_text(st, 2));
	else
		r = r == SQLITE_DONE ? 0 : fail(s, err);
	sqlite3_finalize(st);
	return r;
}

static int sqlite_begin(struct db *db, struct err *err)
{
	return sqlite_exec(db, "BEGIN IMMEDIATE", err);
}

static int sqlite_commit(struct db *db, struct err *err)
{
	return sqlite_exec(db, "COMMIT", err);
}

static void sqlite_rollback(struct db *db)
{
	if (!sqlite3_get_autocommit(of_db(db)->h))
		sqlite3_exec(of_db(db)->h, "ROLLBACK", NULL, NULL, NULL);
}

static int64_t sqlite_changes(struct db *db)
{
	return sqlite3_changes64(of_db(db)->h);
}

static int64_t sqlite_insert_id(struct db *db)
{
	return sqlite3_last_insert_rowid(of_db(db)->h);
}

/* --- statements ------------------------------------------------------------------------------- */

static int sqlite_prepare(struct db *db, const char *sql, struct db_stmt **out, struct err *err)
{
	struct sqlite_stmt *st = calloc(1, sizeof(*st));

	if (!st)
		return err_sys(err, -ENOMEM, "cannot prepare a database statement");
	if (sqlite3_prepare_v3(of_db(db)->h, sql, -1, SQLITE_PREPARE_PERSISTENT, &st->h, NULL)) {
		free(st);
		return fail(of_db(db), err);
	}
	*out = &st->base;
	return 0;
}

static void sqlite_finalize(struct db_stmt *st)
{
	sqlite3_finalize(of_stmt(st));
	free(container_of(st, struct sqlite_stmt, base));
}

static int sqlite_bind(struct db_stmt *st, size_t index, const struct db_arg *arg, struct err *err)
{
	int pos = (int)index + 1, r;

	switch (arg->type) {
	case DB_ARG_I64:
		r = sqlite3_bind_int64(of_stmt(st), pos, arg->i64);
		break;
	case DB_ARG_TEXT:
		r = sqlite3_bind_text(of_stmt(st), pos, arg->text, -1, SQLITE_STATIC);
		break;
	default:
		r = sqlite3_bind_null(of_stmt(st), pos);
		break;
	}
	return r == SQLITE_OK ? 0 : fail(of_db(st->db), err);
}

static int sqlite_step(struct db_stmt *st, struct err *err)
{
	switch (sqlite3_step(of_stmt(st))) {
	case SQLITE_ROW:
		return DB_ROW;
	case SQLITE_DONE:
		return DB_DONE;
	default:
		return fail(of_db(st->db), err);
	}
}

static void sqlite_reset(struct db_stmt *st)
{
	sqlite3_reset(of_stmt(st));
	/* The arguments were borrowed. */
	sqlite3_clear_bindings(of_stmt(st));
}

static bool sqlite_is_null(struct db_stmt *st, int col)
{
	return sqlite3_column_type(of_stmt(st), col) == SQLITE_NULL;
}

static int64_t sqlite_col_i64(struct db_stmt *st, int col)
{
	return sqlite3_column_int64(of_stmt(st), col);
}

static const char *sqlite_col_text(struct db_stmt *st, int col, size_t *len)
{
	const char *text = (const char *)sqlite3_column_text(of_stmt(st), col);

	if (len)
		*len = (size_t)sqlite3_column_bytes(of_stmt(st), col);
	return text;
}

static const struct db_word words[] = {
	{"$AUTO_ID", "INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT"},
	{"$OPTIONS", ""},
	{"$REBUILD", ""},
	{NULL, NULL},
};

const struct db_ops db_sqlite_ops = {
	.scheme = "sqlite",
	.words = words,
	.now = "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)",
	.url_valid = sqlite_url_valid,
	.open = sqlite_open,
	.close = sqlite_close,
	.backup = sqlite_backup,
	.check = sqlite_check,
	.exec = sqlite_exec,
	.begin = sqlite_begin,
	.commit = sqlite_commit,
	.rollback = sqlite_rollback,
	.prepare = sqlite_prepare,
	.finalize = sqlite_finalize,
	.bind = sqlite_bind,
	.step = sqlite_step,
	.reset = sqlite_reset,
	.is_null = sqlite_is_null,
	.col_i64 = sqlite_col_i64,
	.col_text = sqlite_col_text,
	.changes = sqlite_changes,
	.insert_id = sqlite_insert_id,
};
