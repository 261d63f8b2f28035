/*
 * The backend-independent half of a connection: which backend a URL means, and the statement cache.
 *
 * Preparing costs more than running for our statements, so a connection keeps what it prepared,
 * keyed by text, most recently used first. The texts of the program are few; the bound below only
 * matters should one be built from data by mistake. A statement wanted while it is in use (a list
 * walked while another of the same text is asked for) is prepared a second time as a spare and
 * dropped on release.
 */
#include "catalog/db.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "catalog/db_backend.h"

static const struct log_scope catalog_log = {.name = "catalog"};

#define DB_CACHE_MAX 128

static const struct db_ops *const backends[] = {&db_sqlite_ops, &db_mariadb_ops};

static const struct db_ops *find_backend(const char *url, const char **rest, struct err *err)
{
	const char *colon = url ? strchr(url, ':') : NULL;

	for (size_t i = 0; colon && i < ARRAY_SIZE(backends); i++) {
		size_t len = strlen(backends[i]->scheme);

		if ((size_t)(colon - url) == len && !strncmp(url, backends[i]->scheme, len)) {
			*rest = colon + 1;
			return backends[i];
		}
	}
	/* Someone may have put a password into it: name its scheme only. */
	err_set(err, -EINVAL,
		"database URL scheme \"%.*s\" is not supported: use sqlite:PATH or "
		"mariadb://USER@HOST/NAME",
		colon ? (int)MIN(colon - url, 32) : 0, url ? url : "");
	return NULL;
}

bool db_url_valid(const char *url, struct err *err)
{
	const char *rest;
	const struct db_ops *ops = find_backend(url, &rest, err);

	return ops && ops->url_valid(rest, err);
}

int db_open(const char *url, unsigned int busy_timeout_ms, struct db **out, struct err *err)
{
	const struct db_ops *ops;
	const char *rest;
	int r;

	if (!db_url_valid(url, err))
		return -EINVAL;
	ops = find_backend(url, &rest, err);
	r = ops->open(rest, busy_timeout_ms, out, err);
	if (r)
		return r;
	(*out)->ops = ops;
	list_init(&(*out)->cache);
	return 0;
}

static void stmt_free(struct db_stmt *st)
{
	list_del(&st->node);
	free(st->sql);
	st->db->ops->finalize(st);
}

void db_close(struct db *db)
{
	struct list *pos, *tmp;

	if (!db)
		return;
	list_for_each_safe (pos, tmp, &db->cache)
		stmt_free(list_entry(pos, struct db_stmt, node));
	db->ops->close(db);
}

bool db_ddl_commits(const struct db *db)
{
	return db->ops->ddl_commits;
}

int db_schema_lock(struct db *db, struct err *err)
{
	return db->ops->schema_lock ? db->ops->schema_lock(db, err) : 0;
}

void db_schema_unlock(struct db *db)
{
	if (db->ops->schema_unlock)
		db->ops->schema_unlock(db);
}

int db_backup(struct db *db, int64_t schema_version, const char *dir, struct err *err)
{
	return db->ops->backup(db, schema_version, dir, err);
}

int db_check(struct db *db, struct err *err)
{
	return db->ops->check(db, err);
}

/* --- copies ----------------------------------------------------------------------------------- */

int db_copy_names(const char *stem, int64_t schema_version, const char *suffix, char **path,
		  char **tmp)
{
	struct timespec now;
	char stamp[32];
	struct tm tm;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	strftime(stamp, sizeof(stamp), "%Y%m%dT%H%M%S", &tm);
	*path = *tmp = NULL;
	if (asprintf(path, "%s.schema-%" PRId64 "-%s.%06ldZ.%s", stem, schema_version, stamp,
		     now.tv_nsec / 1000, suffix) < 0 ||
	    asprintf(tmp, "%s.tmp", *path) < 0)
		return -ENOMEM;
	return 0;
}

static int sync_file(const char *path)
{
	_cleanup_(closep) int fd = open(path, O_RDWR | O_CLOEXEC);

	return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

int db_copy_done(const char *tmp, const char *path, struct err *err)
{
	int r = sync_file(tmp);

	if (!r && rename(tmp, path) < 0)
		r = -errno;
	if (!r)
		r = file_sync_dir_of(path);
	if (!r) {
		log_info(&catalog_log, "the catalog database was copied to %s", path);
		return 0;
	}
	unlink(tmp);
	return err_sys(err, r, "cannot copy the catalog database to %s", path);
}

/* --- scripts ---------------------------------------------------------------------------------- */

bool db_script_next(const char **script, const char **statement, size_t *len)
{
	const char *start = *script + strspn(*script, " \t\n"), *end = start;

	if (!*start)
		return false;
	while ((end = strchr(end, ';')) && end[1] && end[1] != '\n')
		end++;
	*statement = start;
	*len = end ? (size_t)(end - start) : strlen(start);
	*script = start + *len + (end != NULL);
	return true;
}

static const struct db_word *find_word(const struct db_ops *ops, const char *at, size_t len)
{
	for (const struct db_word *w = ops->words; w->word; w++)
		if (strlen(w->word) == len && !strncmp(w->word, at, len))
			return w;
	return NULL;
}

/* Writes @sql with its $WORDs replaced; false when one is unknown. */
static bool expand(const struct db_ops *ops, const char *sql, size_t len, FILE *out)
{
	const char *end = sql + len, *p;

	while ((p = memchr(sql, '$', (size_t)(end - sql)))) {
		size_t n = 1 + strspn(p + 1, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_");
		const struct db_word *w = find_word(ops, p, n);

		if (!w)
			return false;
		fwrite(sql, 1, (size_t)(p - sql), out);
		fputs(w->text, out);
		sql = p + n;
	}
	fwrite(sql, 1, (size_t)(end - sql), out);
	return true;
}

/* The transaction that was open is gone: nothing more may happen in its name. */
static int check_doom(const struct db *db, struct err *err)
{
	return db->doom.code ? err_set(err, db->doom.code, "%s", db->doom.text) : 0;
}

int db_statement(struct db *db, const char *statement, size_t len, struct err *err)
{
	_cleanup_(freep) char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);
	bool known = out && expand(db->ops, statement, len, out);
	int r = check_doom(db, err);

	if (!out || fclose(out))
		return err_sys(err, -ENOMEM, "cannot prepare a database statement");
	if (!known)
		return err_set(err, -EINVAL, "unknown $ word in a database script");
	return r ? r : db->ops->exec(db, text, err);
}

int db_script(struct db *db, const char *sql, struct err *err)
{
	const char *statement;
	size_t len;
	int r = 0;

	while (!r && db_script_next(&sql, &statement, &len))
		r = db_statement(db, statement, len, err);
	return r;
}

/* --- transactions ----------------------------------------------------------------------------- */

static void tx_over(struct db *db)
{
	db->in_tx = false;
	db->savepoints = 0;
	db->doom = ERR_INIT;
}

int db_begin(struct db *db, struct err *err)
{
	int r;

	tx_over(db);
	db->in_tx = true;
	r = db->ops->begin(db, err);
	if (r)
		tx_over(db);
	return r;
}

int db_commit(struct db *db, struct err *err)
{
	int r = check_doom(db, err);

	if (!r)
		r = db->ops->commit(db, err);
	if (!r)
		tx_over(db);
	return r;
}

void db_rollback(struct db *db)
{
	db->ops->rollback(db);
	tx_over(db);
}

static int savepoint_sql(struct db *db, const char *verb, unsigned int depth, struct err *err)
{
	char sql[64];

	snprintf(sql, sizeof(sql), "%s sp%u", verb, depth);
	return db_statement(db, sql, strlen(sql), err);
}

int db_savepoint(struct db *db, struct err *err)
{
	int r = savepoint_sql(db, "SAVEPOINT", db->savepoints + 1, err);

	if (!r)
		db->savepoints++;
	return r;
}

int db_savepoint_release(struct db *db, struct err *err)
{
	int r = savepoint_sql(db, "RELEASE SAVEPOINT", db->savepoints, err);

	if (!r)
		db->savepoints--;
	return r;
}

void db_savepoint_rollback(struct db *db)
{
	/* A failure that ended the whole transaction took the savepoint along: these do nothing. */
	savepoint_sql(db, "ROLLBACK TO SAVEPOINT", db->savepoints, NULL);
	savepoint_sql(db, "RELEASE SAVEPOINT", db->savepoints, NULL);
	db->savepoints--;
}

/* --- statements ------------------------------------------------------------------------------- */

static void cache_trim(struct db *db)
{
	struct list *pos, *tmp;
	size_t n = 0;

	list_for_each_safe (pos, tmp, &db->cache) {
		struct db_stmt *st = list_entry(pos, struct db_stmt, node);

		if (++n > DB_CACHE_MAX && !st->in_use)
			stmt_free(st);
	}
}

/* The cached statement of @sql; *@known is set when there is one, even if it is in use (NULL then).
 */
static struct db_stmt *cache_find(struct db *db, const char *sql, bool *known)
{
	struct list *pos;

	*known = false;
	list_for_each (pos, &db->cache) {
		struct db_stmt *st = list_entry(pos, struct db_stmt, node);

		if (strcmp(st->sql, sql))
			continue;
		*known = true;
		if (st->in_use)
			return NULL;
		list_del(&st->node);
		list_add_head(&db->cache, &st->node);
		return st;
	}
	return NULL;
}

static int take_stmt(struct db *db, const char *sql, struct db_stmt **out, struct err *err)
{
	struct db_stmt *st;
	bool known;
	int r = check_doom(db, err);

	if (r)
		return r;
	*out = cache_find(db, sql, &known);
	if (*out)
		return 0;
	r = db->ops->prepare(db, sql, &st, err);
	if (r)
		return r;
	st->db = db;
	st->in_use = false;
	list_init(&st->node);
	st->sql = strdup(sql);
	if (!st->sql) {
		stmt_free(st);
		return err_sys(err, -ENOMEM, "cannot prepare a database statement");
	}
	if (!known) {
		list_add_head(&db->cache, &st->node);
		cache_trim(db);
	}
	*out = st;
	return 0;
}

int db_query(struct db *db, const char *sql, const struct db_arg *args, size_t n,
	     struct db_stmt **out, struct err *err)
{
	_cleanup_(db_releasep) struct db_stmt *st = NULL;
	int r = take_stmt(db, sql, &st, err);

	if (r)
		return r;
	st->in_use = true;
	for (size_t i = 0; i < n; i++) {
		r = db->ops->bind(st, i, &args[i], err);
		if (r)
			return r;
	}
	*out = steal(&st);
	return 0;
}

int db_step(struct db_stmt *st, struct err *err)
{
	int r = check_doom(st->db, err);

	return r ? r : st->db->ops->step(st, err);
}

void db_release(struct db_stmt *st)
{
	if (!st)
		return;
	st->db->ops->reset(st);
	st->in_use = false;
	if (list_empty(&st->node))
		stmt_free(st);
}

int db_run(struct db *db, const char *sql, const struct db_arg *args, size_t n, int64_t *changed,
	   struct err *err)
{
	_cleanup_(db_releasep) struct db_stmt *st = NULL;
	int r = db_query(db, sql, args, n, &st, err);

	if (r)
		return r;
	do {
		r = db_step(st, err);
	} while (r == DB_ROW);
	if (r == DB_DONE && changed)
		*changed = db->ops->changes(db);
	return r;
}

int db_query_i64(struct db *db, const char *sql, const struct db_arg *args, size_t n, int64_t none,
		 int64_t *out, struct err *err)
{
	_cleanup_(db_releasep) struct db_stmt *st = NULL;
	int r = db_query(db, sql, args, n, &st, err);

	if (r)
		return r;
	r = db_step(st, err);
	if (r != DB_ROW && r != DB_DONE)
		return r;
	*out = r == DB_ROW && !db_is_null(st, 0) ? db_col_i64(st, 0) : none;
	return 0;
}

int db_now_us(struct db *db, int64_t *out, struct err *err)
{
	char sql[128];

	snprintf(sql, sizeof(sql), "SELECT %s", db->ops->now);
	return db_query_i64(db, sql, DB_NO_ARGS, 0, out, err);
}

bool db_is_null(struct db_stmt *st, int col)
{
	return st->db->ops->is_null(st, col);
}

int64_t db_col_i64(struct db_stmt *st, int col)
{
	return st->db->ops->col_i64(st, col);
}

const char *db_col_text(struct db_stmt *st, int col, size_t *len)
{
	return st->db->ops->col_text(st, col, len);
}

int64_t db_insert_id(struct db *db)
{
	return db->ops->insert_id(db);
}
