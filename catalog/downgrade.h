/*
 * Back to the schema of an older program, which refuses a newer one's database.
 *
 * Migrations are undone one after the other (catalog/migrate.h), after a copy of the database was
 * put aside as before an upgrade. What the older schema has no place for is dropped; what it is, is
 * told before anything changes.
 */
#ifndef CATALOG_DOWNGRADE_H
#define CATALOG_DOWNGRADE_H

#include "catalog/catalog.h"

/* A line of what goes: "014_appliances: table appliance_pairings with 2 rows". */
typedef void catalog_tell_fn(void *arg, const char *line);

/*
 * Takes the database at @url down to schema @version; @copy_dir is where a copy of a MariaDB
 * database goes. No handle of it may be open, and no hub may use it: CATALOG_E_BUSY names one whose
 * lease lasts. CATALOG_E_ALREADY: the schema is that one, or an older one. CATALOG_E_INVALID: there
 * is no such version. CATALOG_E_SCHEMA: a newer program's database, which that program takes down.
 * After a failure half way, the same call goes on.
 */
int catalog_downgrade(const char *url, const char *copy_dir, int64_t version, catalog_tell_fn *tell,
		      void *arg, struct err *err);

#endif
