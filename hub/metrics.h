/*
 * What the hub has done since it started, in numbers that only grow; for /metrics.
 */
#ifndef HUB_METRICS_H
#define HUB_METRICS_H

#include <stdint.h>

#include "catalog/backups.h"
#include "nbd/server.h"

struct hub;

/* Upper bounds in seconds; one bucket more is open. */
#define HUB_DURATIONS 12
extern const unsigned hub_duration_bounds[HUB_DURATIONS];

enum hub_copy_outcome { HUB_COPY_COMPLETED, HUB_COPY_FAILED, HUB_COPY_OUTCOMES };

struct hub_totals {
	uint64_t copies[HUB_COPY_OUTCOMES];    /* attempts at copies of backups */
	uint64_t copied_bytes;		       /* size of the images completed ones are */
	uint64_t ended[CATALOG_JOB_STATUSES];  /* backups; completed, failed, cancelled */
	uint64_t durations[HUB_DURATIONS + 1]; /* of completed ones, not cumulative */
	double duration_sum_s;
	struct catalog_counters bytes; /* of all disks; stored: of committed ones */
	struct nbd_command_stats nbd[NBD_STATS_COMMANDS];
	uint64_t nbd_connections; /* to exports */
	uint64_t nbd_depth;	  /* requests taken up and not answered, now */
};

/* Totals with what is under way laid on top, so that they never step back. */
void hub_get_totals(struct hub *hub, struct hub_totals *out);

void hub_get_nbd_stats(struct hub *hub, struct nbd_server_stats *out);
/* Buffers of the NBD workers, by their number: < hub_nbd_workers(). */
unsigned hub_nbd_workers(struct hub *hub);
void hub_get_nbd_pools(struct hub *hub, unsigned worker, struct nbd_pool_stats out[NBD_POOLS]);
unsigned hub_followers(struct hub *hub);

#endif
