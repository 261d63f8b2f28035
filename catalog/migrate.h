/*
 * Numbered schema migrations. Each is catalog/schema/NNN_name.up.sql and .down.sql, carried inside
 * the program. Table schema_version has one row for each migration applied; the schema's version is
 * the highest. A migration and its row are one transaction: after a crash the database is at one
 * version or the other, and going on is simply migrating again.
 */
#ifndef CATALOG_MIGRATE_H
#define CATALOG_MIGRATE_H

#include <stdint.h>

#include "base/err.h"
#include "catalog/db.h"

/* The version this program's queries are written for. */
int64_t catalog_schema_latest(void);

/* The database's version; 0 for an empty one. CATALOG_E_SCHEMA if newer than this program. */
int catalog_schema_version(struct db *db, int64_t *version, struct err *err);

/*
 * Brings the schema to @version, upwards or downwards, one migration after the other, after copying
 * a database that has a schema aside (db_backup()). Going down drops what the newer schema had: it
 * is for returning to an older program. Several programs may do it at once. CATALOG_E_SCHEMA,
 * CATALOG_E_INVALID: no such version.
 */
int catalog_schema_migrate(struct db *db, int64_t version, struct err *err);

#endif
