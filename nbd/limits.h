/*
 * The limits of a server: their bounds and defaults, who may connect, and what became known of a
 * limit that was met: it is counted, and the log hears of it once until there is room again.
 *
 * A peer is an IP address (IPv4 in IPv6 counts as IPv4). Clients on a unix socket have no limit of
 * their own: its mode lets in the owner alone, whom the total limits.
 */
#ifndef NBD_LIMITS_H
#define NBD_LIMITS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/list.h"
#include "base/log.h"
#include "nbd/server.h"

struct nbd_worker;

/* Whether the log is to hear of a limit. Has one owner, or a lock. */
struct nbd_notice {
	bool said;	 /* and there has been no room since */
	int64_t line_ns; /* when; CLOCK_MONOTONIC */
	int64_t met_ns;	 /* when the limit was last met */
};

/* True when a line is due: the limit has not been told of, or it was quiet for a minute. At most
 * one a second, so that a client that comes and goes cannot fill the log. */
bool nbd_notice_due(struct nbd_notice *notice, int64_t now_ns);

/* There is room again. */
static inline void nbd_notice_clear(struct nbd_notice *notice)
{
	notice->said = false;
}

#define NBD_PEER_BUCKETS 256

/* Connections of one address, while there are any. */
struct nbd_peer {
	struct list node; /* a bucket */
	unsigned char address[16];
	unsigned connections;
	_Atomic int64_t turn_ns; /* when one of them had its turn, or the first one came: turns.h */
	bool said;
};

/* Who is connected; any thread. */
struct nbd_admission {
	pthread_mutex_t lock;
	unsigned connections;
	unsigned max, max_per_peer;
	struct list peers[NBD_PEER_BUCKETS];
	struct nbd_notice total, peer;
};

void nbd_admission_init(struct nbd_admission *a);
/* How many it lets in from now on; who is in stays. */
void nbd_admission_set(struct nbd_admission *a, const struct nbd_server_config *config);

void nbd_admission_deinit(struct nbd_admission *a);

/* Lets @fd in, on behalf of @worker. False: it is not to be served; counted and told of.
 * *@peer is NULL for a unix socket. */
bool nbd_admit(struct nbd_worker *worker, int fd, struct nbd_peer **peer);

/* A connection that was let in is gone. */
void nbd_admit_end(struct nbd_worker *worker, struct nbd_peer *peer);

/* Counts, on the worker's thread. */
void nbd_limit_count(struct nbd_worker *worker, enum nbd_limit limit);

/* As that, for the limits of time and size: one line for all of this worker's connections. */
void nbd_limit_met(struct nbd_worker *worker, enum nbd_limit limit, const struct log_scope *scope,
		   const char *what);

/* Fills in defaults; what the process may open bounds the connections. */
void nbd_config_complete(struct nbd_server_config *config);

/* Says all of it in one line. */
void nbd_config_log(const struct nbd_server_config *config, const struct log_scope *scope);

#endif
