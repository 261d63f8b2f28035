#include "catalog/migrate.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/bytes.h"
#include "catalog/catalog.h"

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

/* Version v is migrations[v - 1]. */
static const struct {
	const char *name, *up, *down;
} migrations[] = {
	MIGRATION(001, inventory),
	MIGRATION(002, repositories),
	MIGRATION(003, backups),
};

int64_t catalog_schema_latest(void)
{
	return ARRAY_SIZE(migrations);
}

static int read_version(struct db *db, int64_t *version, struct err *err)
{
	int r = db_query_i64(db, "SELECT MAX(version) FROM schema_version", DB_NO_ARGS, 0, version,
			     err);

	if (r)
		return r;
	if (*version > catalog_schema_latest())
		return err_set(err, CATALOG_E_SCHEMA,
			       "the catalog has schema %" PRId64 ", this program knows schemas up "
			       "to %" PRId64 ": run the newer program, or restore the copy made "
			       "before its first start",
			       *version, catalog_schema_latest());
	return 0;
}

int catalog_schema_version(struct db *db, int64_t *version, struct err *err)
{
	int r = db_script(db,
			  "CREATE TABLE IF NOT EXISTS schema_version ("
			  " version INT NOT NULL PRIMARY KEY,"
			  " name VARCHAR(64) NOT NULL,"
			  " applied_at BIGINT NOT NULL)",
			  err);

	return r ? r : read_version(db, version, err);
}

static int apply_up(struct db *db, int64_t version, struct err *err)
{
	int r = db_script(db, migrations[version - 1].up, err);

	if (r)
		return r;
	return db_run(db, "INSERT INTO schema_version (version, name, applied_at) VALUES (?, ?, ?)",
		      DB_ARGS(DB_I64(version), DB_TEXT(migrations[version - 1].name),
			      DB_I64(catalog_now_us())),
		      NULL, err);
}

static int apply_down(struct db *db, int64_t version, struct err *err)
{
	int r = db_script(db, migrations[version - 1].down, err);

	if (r)
		return r;
	return db_run(db, "DELETE FROM schema_version WHERE version = ?", DB_ARGS(DB_I64(version)),
		      NULL, err);
}

/* One migration towards @target, from wherever the database stands now: another program may have
 * moved it since the caller looked. */
static int step_inside(struct db *db, int64_t target, struct err *err)
{
	int64_t now;
	int r = read_version(db, &now, err);

	if (r || now == target)
		return r;
	r = now < target ? apply_up(db, now + 1, err) : apply_down(db, now, err);
	if (r)
		return err_prefix(err, r, "schema migration %s %s",
				  migrations[now < target ? now : now - 1].name,
				  now < target ? "up" : "down");
	return db_check(db, err);
}

static int step(struct db *db, int64_t target, struct err *err)
{
	int r = db_begin(db, true, err);

	if (r)
		return r;
	r = step_inside(db, target, err);
	if (!r)
		r = db_commit(db, err);
	if (r)
		db_rollback(db);
	return r;
}

int catalog_schema_migrate(struct db *db, int64_t version, struct err *err)
{
	int64_t now;
	int r;

	if (version < 0 || version > catalog_schema_latest())
		return err_set(err, CATALOG_E_INVALID, "there is no schema %" PRId64, version);
	r = catalog_schema_version(db, &now, err);
	if (!r && now != version && now > 0)
		r = db_backup(db, now, err);
	while (!r && now != version) {
		r = step(db, version, err);
		if (!r)
			r = read_version(db, &now, err);
	}
	return r;
}
