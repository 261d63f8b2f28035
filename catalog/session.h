/*
 * How the nouns reach a connection: inside the folder only.
 *
 * A read takes a lease, runs, and turns its result into the public one:
 *
 *	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
 *	int r = catalog_lease(cat, &l, err);
 *
 *	if (!r)
 *		r = row_get(l.db, ...);
 *	return catalog_found(cat, r, err, "no ... %s", id);
 *
 * A write runs a function under catalog_tx() and takes its connection from catalog_db().
 */
#ifndef CATALOG_SESSION_H
#define CATALOG_SESSION_H

#include "catalog/catalog.h"
#include "catalog/db.h"

struct catalog_lease {
	struct catalog *pool; /* to give db back to; NULL inside a transaction */
	struct db *db;
};

/* A connection for reading: the transaction's own inside one, else one of the pool's. */
int catalog_lease(struct catalog *cat, struct catalog_lease *l, struct err *err);
void catalog_lease_end(struct catalog_lease *l);

/* The connection of a transaction's handle. */
struct db *catalog_db(struct catalog *tx);

/* The token of the hub the handle speaks for; 0: of none (catalog/hubs.h). */
int64_t catalog_hub_token(struct catalog *cat);
void catalog_set_hub_token(struct catalog *cat, int64_t token);
/* CATALOG_E_FENCED: the handle's hub has lost its place. In a transaction. */
int catalog_hub_check(struct catalog *tx, struct err *err);
/* CATALOG_E_FENCED with a sentence that names who holds the job. */
int catalog_hub_fenced(struct catalog *tx, const char *job_id, int64_t holder, struct err *err);

/* Turns a db_cond into what callers of the catalog may see; other results pass. In a transaction a
 * busy database is noted, so that the whole runs again even if its function ignores the result. */
int catalog_result(struct catalog *cat, int r);

/* The result of row_get(): 0 for DB_ROW, CATALOG_E_NOT_FOUND with this sentence for DB_DONE. */
int catalog_found(struct catalog *cat, int r, struct err *err, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

#endif
