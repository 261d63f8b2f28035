#include "catalog/migrate.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/bytes.h"
#include "base/log.h"
#include "catalog/catalog.h"

static const struct log_scope catalog_log = {.name = "catalog"};

/* The text of a file, NUL-terminated, as read-only data. Paths are relative to the repository root,
 * where the compiler runs. */
#define EMBED(symbol, path)                                                                        \
	__asm__(".pushsection .rodata\n" #symbol ":\n\t.incbin \"" path                            \
		"\"\n\t.byte 0\n\t.popsection\n");                                                 \
	extern const char symbol[]

#define EMBED_MIGRATION(number, name)                                                              \
	EMBED(migration_##number##_up, "catalog/schema/" #number "_" #name ".up.sql");             \
	EMBED(migration_##number##_down, "catalog/schema/" #number "_" #name ".down.sql")

#define MIGRATION(number, name)                                                                    \
	{                                                                                          \
#number "_" #name, migration_##number##_up, migration_##number##_down              \
	}

EMBED_MIGRATION(001, inventory);
EMBED_MIGRATION(002, repositories);
EMBED_MIGRATION(003, backups);
EMBED_MIGRATION(004, policies);
EMBED_MIGRATION(005, operations);
EMBED_MIGRATION(006, access);
EMBED_MIGRATION(007, idempotency);
EMBED_MIGRATION(008, hubs);
EMBED_MIGRATION(010, nouns);
EMBED_MIGRATION(012, deletions);
EMBED_MIGRATION(013, copies);
EMBED_MIGRATION(014, appliances);
EMBED_MIGRATION(015, old_columns);
EMBED_MIGRATION(016, restores);

/* Version v is migrations[v - 1]. */
static const struct {
	const char *name, *up, *down;
} migrations[] = {
	MIGRATION(001, inventory),   MIGRATION(002, repositories), MIGRATION(003, backups),
	MIGRATION(004, policies),    MIGRATION(005, operations),   MIGRATION(006, access),
	MIGRATION(007, idempotency), MIGRATION(008, hubs),	   MIGRATION(010, nouns),
	MIGRATION(012, deletions),   MIGRATION(013, copies),	   MIGRATION(014, appliances),
	MIGRATION(015, old_columns), MIGRATION(016, restores),
};

int64_t catalog_schema_latest(void)
{
	return ARRAY_SIZE(migrations);
}

const char *catalog_schema_name(int64_t version)
{
	return migrations[version - 1].name;
}

const char *catalog_schema_down(int64_t version)
{
	return migrations[version - 1].down;
}

/* A migration that has begun and is not recorded, where DDL commits: the row of schema_step. */
struct schema_step {
	int64_t version; /* 0: none */
	int64_t up;	 /* 1, or 0 for down */
	int64_t done;	 /* statements of it that are done for certain */
	int64_t started; /* 1: the next one was begun */
};

static const char *script_of(const struct schema_step *s)
{
	return s->up ? migrations[s->version - 1].up : migrations[s->version - 1].down;
}

static int name_failure(const struct schema_step *s, int r, struct err *err)
{
	return err_prefix(err, r, "schema migration %s %s", migrations[s->version - 1].name,
			  s->up ? "up" : "down");
}

/* --- where the database stands ---------------------------------------------------------------- */

static int too_new(int64_t version, struct err *err)
{
	return err_set(err, CATALOG_E_SCHEMA,
		       "the catalog has schema %" PRId64 ", this program knows schemas up to "
		       "%" PRId64 ": run the newer program, or let it go back (its "
		       "--migrate-down-to %" PRId64 "), or restore the copy made before its first "
		       "start",
		       version, catalog_schema_latest(), catalog_schema_latest());
}

static int read_version(struct db *db, int64_t *version, struct err *err)
{
	int r = db_query_i64(db, "SELECT MAX(version) FROM schema_version", DB_NO_ARGS, 0, version,
			     err);

	if (!r && *version > catalog_schema_latest())
		r = too_new(*version, err);
	return r;
}

static int read_step(struct db *db, struct schema_step *s, struct err *err)
{
	_cleanup_(db_releasep) struct db_stmt *st = NULL;
	int r;

	*s = (struct schema_step){0};
	if (!db_ddl_commits(db))
		return 0;
	r = db_query(db, "SELECT version, up, done, started FROM schema_step WHERE id = 1",
		     DB_NO_ARGS, &st, err);
	if (!r)
		r = db_step(st, err);
	if (r != DB_ROW)
		return r;
	*s = (struct schema_step){db_col_i64(st, 0), db_col_i64(st, 1), db_col_i64(st, 2),
				  db_col_i64(st, 3)};
	return s->version > catalog_schema_latest() ? too_new(s->version, err) : 0;
}

static int make_tables(struct db *db, struct err *err)
{
	int r = db_script(db,
			  "CREATE TABLE IF NOT EXISTS schema_version ("
			  " version INT NOT NULL PRIMARY KEY,"
			  " name VARCHAR(64) NOT NULL,"
			  " applied_at BIGINT NOT NULL) $OPTIONS",
			  err);

	if (!r && db_ddl_commits(db))
		r = db_script(db,
			      "CREATE TABLE IF NOT EXISTS schema_step ("
			      " id INT NOT NULL PRIMARY KEY, version INT NOT NULL, up INT NOT NULL,"
			      " done INT NOT NULL, started INT NOT NULL) $OPTIONS",
			      err);
	return r;
}

static int look(struct db *db, int64_t *version, struct schema_step *s, struct err *err)
{
	int r = read_step(db, s, err);

	return r ? r : read_version(db, version, err);
}

int catalog_schema_version(struct db *db, int64_t *version, struct err *err)
{
	struct schema_step s;
	int r = make_tables(db, err);

	return r ? r : look(db, version, &s, err);
}

int catalog_schema_begun(struct db *db, bool *begun, struct err *err)
{
	struct schema_step s;
	int r = read_step(db, &s, err);

	*begun = !r && s.version;
	return r;
}

/* A newer program that takes it up, and leaves this one's behind, does no harm. */
int catalog_schema_check(struct db *db, struct err *err)
{
	int64_t version, down = 0;
	int r = db_query_i64(db, "SELECT MAX(version) FROM schema_version", DB_NO_ARGS, 0, &version,
			     err);

	if (!r && db_ddl_commits(db))
		r = db_query_i64(db, "SELECT COUNT(*) FROM schema_step WHERE up = 0", DB_NO_ARGS, 0,
				 &down, err);
	if (r || (version >= catalog_schema_latest() && !down))
		return r;
	return err_set(err, CATALOG_E_SCHEMA,
		       "the catalog goes back to an older schema, or went (--migrate-down-to): "
		       "start the program that it is for, or this one again");
}

/* The next migration on the way from @now to @target. */
static struct schema_step next_step(int64_t now, int64_t target)
{
	const bool up = now < target;

	return (struct schema_step){.version = up ? now + 1 : now, .up = up};
}

/* The row that says the migration happened, or the end of it. */
static int record(struct db *db, const struct schema_step *s, struct err *err)
{
	if (!s->up)
		return db_run(db, "DELETE FROM schema_version WHERE version = ?",
			      DB_ARGS(DB_I64(s->version)), NULL, err);
	return db_run(db, "INSERT INTO schema_version (version, name, applied_at) VALUES (?, ?, ?)",
		      DB_ARGS(DB_I64(s->version), DB_TEXT(migrations[s->version - 1].name),
			      DB_I64(catalog_now_us())),
		      NULL, err);
}

/* --- a migration in one transaction ----------------------------------------------------------- */

/* One migration towards @target, from wherever the database stands now: another program may have
 * moved it since the caller looked. */
static int whole_inside(struct db *db, int64_t target, catalog_schema_gate_fn *gate,
			struct err *err)
{
	struct schema_step s;
	int64_t now;
	int r = read_version(db, &now, err);

	if (!r && now != target && gate)
		r = gate(db, err);
	if (r || now == target)
		return r;
	s = next_step(now, target);
	r = db_script(db, script_of(&s), err);
	if (!r)
		r = record(db, &s, err);
	return r ? name_failure(&s, r, err) : db_check(db, err);
}

static int step_whole(struct db *db, int64_t target, catalog_schema_gate_fn *gate, struct err *err)
{
	int r = db_begin(db, err);

	if (r)
		return r;
	r = whole_inside(db, target, gate, err);
	if (!r)
		r = db_commit(db, err);
	if (r)
		db_rollback(db);
	return r;
}

/* --- a migration statement by statement ------------------------------------------------------- */

static int mark(struct db *db, const struct schema_step *s, struct err *err)
{
	return db_run(db, "UPDATE schema_step SET done = ?, started = ? WHERE id = 1",
		      DB_ARGS(DB_I64(s->done), DB_I64(s->started)), NULL, err);
}

/* Triggers copy for other programs what they still read in its old place. That a server keeps its
 * users from making them is no reason not to start; that they stay when their columns go would be
 * the end of every backup. */
static int without_trigger(struct db *db, const struct schema_step *s, struct err *err)
{
	int64_t left = 0;
	int r;

	if (s->up) {
		log_warn(&catalog_log,
			 "schema migration %s goes on without a trigger, so that programs which "
			 "read its old columns find nothing new there (docs/catalog.md, Old "
			 "columns): %s",
			 migrations[s->version - 1].name, err ? err->text : "");
		return 0;
	}
	r = db_query_i64(db,
			 "SELECT COUNT(*) FROM information_schema.triggers"
			 " WHERE trigger_schema = DATABASE()",
			 DB_NO_ARGS, 0, &left, err);
	if (r || !left)
		return r;
	return err_set(err, -EPERM,
		       "the database server does not let this user drop triggers: have its "
		       "administrator drop those of the tables of this catalog, or SET GLOBAL "
		       "log_bin_trust_function_creators = 1 for as long as this takes");
}

/* A statement that changes rows is undone with its transaction; one that changes the schema has
 * committed by then, and the mark follows on its own. */
static int run_and_mark(struct db *db, const struct schema_step *s, const char *statement,
			size_t len, bool again, struct err *err)
{
	const struct schema_step after = {.done = s->done + 1};
	int r = db_begin(db, err);

	if (r)
		return r;
	r = db_statement(db, statement, len, err);
	if (r == DB_E_ALREADY && again)
		r = 0;
	if (r == DB_E_TRIGGER)
		r = without_trigger(db, s, err);
	if (!r)
		r = mark(db, &after, err);
	if (!r)
		r = db_commit(db, err);
	if (r)
		db_rollback(db);
	return r;
}

static int one_statement(struct db *db, struct schema_step *s, const char *statement, size_t len,
			 struct err *err)
{
	const bool again = s->started;
	int r;

	s->started = 1;
	r = mark(db, s, err);
	if (r)
		return r;
	r = run_and_mark(db, s, statement, len, again, err);
	s->started = 0;
	if (!r)
		s->done++;
	else if (r != -ENOTCONN && r != -ECONNABORTED && r != DB_E_BUSY)
		mark(db, s, NULL); /* the database itself said that it is not done */
	return r;
}

static int begin_step(struct db *db, catalog_schema_gate_fn *gate, const struct schema_step *s,
		      struct err *err)
{
	int r = db_begin(db, err);

	if (r)
		return r;
	if (gate)
		r = gate(db, err);
	if (!r)
		r = db_run(db,
			   "INSERT INTO schema_step (id, version, up, done, started)"
			   " VALUES (1, ?, ?, 0, 0)",
			   DB_ARGS(DB_I64(s->version), DB_I64(s->up)), NULL, err);
	if (!r)
		r = db_commit(db, err);
	if (r)
		db_rollback(db);
	return r;
}

static int end_step(struct db *db, const struct schema_step *s, struct err *err)
{
	int r = db_check(db, err);

	if (!r)
		r = db_begin(db, err);
	if (r)
		return r;
	r = record(db, s, err);
	if (!r)
		r = db_run(db, "DELETE FROM schema_step", DB_NO_ARGS, NULL, err);
	if (!r)
		r = db_commit(db, err);
	if (r)
		db_rollback(db);
	return r;
}

/* One migration: the one that was begun, else the next towards @target. */
static int step_by_statement(struct db *db, int64_t now, int64_t target,
			     catalog_schema_gate_fn *gate, struct err *err)
{
	const char *script, *statement;
	struct schema_step s;
	size_t len;
	int r = read_step(db, &s, err);

	if (!r && !s.version) {
		s = next_step(now, target);
		r = begin_step(db, gate, &s, err);
	}
	if (r)
		return r;
	script = script_of(&s);
	for (int64_t i = 0; !r && db_script_next(&script, &statement, &len); i++)
		if (i >= s.done)
			r = one_statement(db, &s, statement, len, err);
	if (!r)
		r = end_step(db, &s, err);
	return r ? name_failure(&s, r, err) : 0;
}

/* --- all of them ------------------------------------------------------------------------------ */

/* With the lock, where there is one. */
static int migrate(struct db *db, int64_t version, const char *copy_dir,
		   catalog_schema_gate_fn *gate, struct err *err)
{
	struct schema_step s;
	int64_t now;
	int r = look(db, &now, &s, err);

	if (!r && now > 0 && now != version && !s.version)
		r = db_backup(db, now, copy_dir, err);
	while (!r && (now != version || s.version)) {
		r = db_ddl_commits(db) ? step_by_statement(db, now, version, gate, err)
				       : step_whole(db, version, gate, err);
		if (!r)
			r = look(db, &now, &s, err);
	}
	return r;
}

int catalog_schema_migrate(struct db *db, int64_t version, const char *copy_dir, struct err *err)
{
	return catalog_schema_migrate_if(db, version, copy_dir, NULL, err);
}

int catalog_schema_migrate_if(struct db *db, int64_t version, const char *copy_dir,
			      catalog_schema_gate_fn *gate, struct err *err)
{
	struct schema_step s;
	int64_t now;
	int r;

	if (version < 0 || version > catalog_schema_latest())
		return err_set(err, CATALOG_E_INVALID, "there is no schema %" PRId64, version);
	r = make_tables(db, err);
	if (!r)
		r = look(db, &now, &s, err);
	if (r || (now == version && !s.version))
		return r;
	r = db_schema_lock(db, err);
	if (r)
		return r;
	r = migrate(db, version, copy_dir, gate, err);
	db_schema_unlock(db);
	return r == DB_E_ALREADY ? -EIO : r;
}
