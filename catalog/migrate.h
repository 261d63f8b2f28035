/*
 * Numbered schema migrations. Each is catalog/schema/NNN_name.up.sql and .down.sql, carried inside
 * the program. Table schema_version has one row for each migration applied; the schema's version is
 * the highest.
 *
 * Where the database takes schema changes back with a transaction (SQLite), a migration and its row
 * are one: after a crash the database is at one version or the other, and going on is simply
 * migrating again.
 *
 * Where each such statement commits by itself (MariaDB), table schema_step says how far a migration
 * came: its row is written before each statement and moved on after it, in the statement's own
 * transaction if that has one. Migrating again goes on behind the last statement that is known to
 * be done. The one that was under way may be done or not, never half: so for it, and for no other,
 * "it is there already" counts as done. Programs take turns by a lock of the database.
 */
#ifndef CATALOG_MIGRATE_H
#define CATALOG_MIGRATE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "catalog/db.h"

/* The migration that leads to @version, 1 to catalog_schema_latest(): "008_hubs", and the script
 * that undoes it. */
const char *catalog_schema_name(int64_t version);
const char *catalog_schema_down(int64_t version);

/* The database's version; 0 for an empty one. CATALOG_E_SCHEMA if newer than this program, or if a
 * newer program has begun to change it. */
int catalog_schema_version(struct db *db, int64_t *version, struct err *err);

/*
 * Brings the schema to @version, upwards or downwards, one migration after the other, after copying
 * a database that has a schema aside (db_backup(), to @copy_dir). Going down drops what the newer
 * schema had: it is for returning to an older program. Several programs may do it at once.
 * CATALOG_E_SCHEMA, CATALOG_E_INVALID: no such version.
 */
int catalog_schema_migrate(struct db *db, int64_t version, const char *copy_dir, struct err *err);

/* May it be done? In the transaction that begins it. */
typedef int catalog_schema_gate_fn(struct db *db, struct err *err);

/* The same, if @gate gives 0, which is asked before each migration that was not begun before. */
int catalog_schema_migrate_if(struct db *db, int64_t version, const char *copy_dir,
			      catalog_schema_gate_fn *gate, struct err *err);

/* Whether a migration has begun and is not done. */
int catalog_schema_begun(struct db *db, bool *begun, struct err *err);

/* Whether the schema is still there that this program found or made. In a transaction: what it
 * writes before its end is written before the schema goes, or not at all. CATALOG_E_SCHEMA. */
int catalog_schema_check(struct db *db, struct err *err);

#endif
