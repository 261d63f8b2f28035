/*
 * An export as the server knows it: identity, state, counters.
 *
 * References are held by whoever added it, by every connection in transmission, and by a connection
 * that moves to the owning worker. Running requests hold none: the removal waits for them.
 */
#ifndef NBD_EXPORT_PRIV_H
#define NBD_EXPORT_PRIV_H

#include <stdatomic.h>

#include "base/list.h"
#include "base/log.h"
#include "nbd/export.h"
#include "nbd/limits.h"
#include "nbd/server.h"

struct nbd_worker;
struct nbd_call;
struct nbd_request;

enum nbd_export_state {
	NBD_EXPORT_NEW, /* in the registry, not attached yet: clients are told it is unknown */
	NBD_EXPORT_LIVE,
	NBD_EXPORT_DRAINING, /* being removed: late requests get ESHUTDOWN, running ones finish */
	NBD_EXPORT_GONE,     /* the target is detached; only references are left */
};

/* All counters are written by the owning worker alone, and read by anybody. */
struct nbd_command_counters {
	_Atomic uint64_t requests, errors, bytes, took_ns, latency[NBD_LATENCY_BUCKETS];
};

struct nbd_export_counters {
	atomic_uint connections;
	_Atomic uint64_t connections_total;
	atomic_uint depth, depth_peak;
	_Atomic int64_t last_active_ns, last_disconnect_ns;
	struct nbd_command_counters commands[NBD_STATS_COMMANDS];
};

struct nbd_export {
	/* constant from nbd_export_add() on */
	struct nbd_server *server;
	struct nbd_worker *worker;	  /* the owner */
	uint64_t serial;		  /* never used twice, unlike a name or an address */
	char *name, *alias, *description; /* the latter two may be NULL */
	uint64_t size;
	uint32_t preferred_block;
	bool read_only;
	const struct nbd_export_ops *ops;
	void *target;
	struct log_scope log;

	struct list node; /* server->exports, under its lock */
	atomic_uint refs;
	struct nbd_export_counters counters;

	/* the owning worker's */
	struct list owned; /* worker->exports */
	enum nbd_export_state state;
	struct list conns; /* struct nbd_conn.export_node */
	unsigned conn_count;
	unsigned running;	  /* operations the target has not finished */
	struct nbd_notice full;	  /* "too many connections" */
	struct nbd_call *removal; /* while draining */
};

struct nbd_conn;

/* The metadata contexts it has: NBD_META_BITs. */
uint32_t nbd_export_contexts(const struct nbd_export *export);

/* NBD transmission flags of @export for a client that agreed on what @conn says. */
uint16_t nbd_export_flags(const struct nbd_export *export, const struct nbd_conn *conn);

/* A request of type @type was taken up at @now_ns. */
void nbd_export_count_begin(struct nbd_export *export, uint16_t type, int64_t now_ns);

/* It was answered. @res: 0 or -errno. */
void nbd_export_count_answer(struct nbd_export *export, const struct nbd_request *rq, int res,
			     int64_t took_ns);

/* It is not outstanding any more, answered or not. */
void nbd_export_count_end(struct nbd_export *export);

/* One operation less is running; may go on with a removal. On the owner's thread. */
void nbd_export_op_done(struct nbd_export *export);

/* Adds to a counter only this thread writes. */
static inline void nbd_count(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
			      memory_order_relaxed);
}

#endif
