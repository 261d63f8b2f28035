/*
 * Hubs: who runs jobs, when several of them use one catalog.
 *
 * A hub joins when it starts and gets a token, higher than any before it. From then on its handle
 * writes the token on each job it starts, and every write to a running job compares it, in the
 * write's own transaction: a job of another hub's gives CATALOG_E_FENCED and stays as it is. (A
 * handle that never joined has token 0 and may write jobs that no hub has: tools and tests.)
 *
 * A hub's lease lasts until a moment of the database's clock and is renewed well before it. Once it
 * is over, any other hub may take the jobs over; it then holds them and ends them. The hub whose
 * lease ran out is told at its next renewal. It may have been stopped or cut off in the meantime
 * and know nothing of it: the token, not the lease, is what keeps it from writing. A lease that is
 * over and that nobody took notice of is simply renewed.
 *
 * Who lost its lease must let go of every job it has in hand before it joins again: a token stands
 * for all jobs of a hub.
 */
#ifndef CATALOG_HUBS_H
#define CATALOG_HUBS_H

#include "catalog/backups.h"

struct catalog_hub {
	int64_t token;
	char id[CATALOG_ID_SIZE]; /* "hub-...", new with every catalog_hub_join() */
	char name[CATALOG_NAME_SIZE];
	char instance[CATALOG_ID_SIZE]; /* of the data folder; stays */
	int64_t started_at_us;		/* these four by the database's clock */
	int64_t heartbeat_at_us;
	int64_t steady_since_us; /* never over since */
	int64_t lease_until_us;
};

/*
 * Makes @cat the handle of a hub; @hub brings name and instance and takes the rest. A row of the
 * same instance is removed, so that its jobs can be taken over at once: the caller holds the data
 * folder, nobody else does. CATALOG_E_INVALID: no name or no instance.
 */
int catalog_hub_join(struct catalog *cat, struct catalog_hub *hub, int64_t lease_ms,
		     struct err *err);

/* A sign of life: the lease lasts @lease_ms from now. CATALOG_E_FENCED: the hub's jobs may have
 * been taken over, it is no hub any more. */
int catalog_hub_renew(struct catalog *cat, int64_t lease_ms, struct err *err);

/* The hub goes in order. Its row stays while jobs are running in its name, so that others notice.
 * The handle has token 0 afterwards. */
int catalog_hub_leave(struct catalog *cat, struct err *err);

/* Takes over every running job whose hub is gone: not there, or its lease is over; and forgets
 * those hubs. Of leases that are over only a hub takes notice that has kept its own for as long as
 * one lasts: after the database was away, or the hub itself, others are given time. *@jobs is what
 * was taken, as it was before: hub_token is that of the hub that is gone. The caller ends them, and
 * free()s the array. CATALOG_E_FENCED: this hub is none itself. */
int catalog_hub_take_over(struct catalog *cat, struct catalog_backup **jobs, size_t *n,
			  struct err *err);

/* By name. */
int catalog_hubs_list(struct catalog *cat, struct catalog_hub **rows, size_t *n, struct err *err);

struct catalog_hub_status {
	struct catalog_hub hub;
	bool self;	      /* @cat is its handle */
	bool live;	      /* its lease is not over, by the database's clock */
	int64_t running_jobs; /* backups in its name */
};

/* As that, and how they are. One whose lease is over is listed until another takes its place. */
int catalog_hubs_status(struct catalog *cat, struct catalog_hub_status **rows, size_t *n,
			struct err *err);

#endif
