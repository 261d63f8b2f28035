/*
 * Inside of the server: what its workers share. The registry of exports and the list of listeners
 * are the only things two workers look at; both change on the control plane alone and are read
 * under one lock, never while data moves.
 */
#ifndef NBD_SERVER_PRIV_H
#define NBD_SERVER_PRIV_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/list.h"
#include "base/log.h"
#include "nbd/export_priv.h"
#include "nbd/limits.h"
#include "nbd/listener.h"
#include "nbd/server.h"
#include "nbd/worker.h"

#define NBD_WORKERS_MAX 64

struct nbd_server {
	struct nbd_server_config config; /* complete, as at the start; immutable */
	struct nbd_server_config limits; /* nbd_server_apply()'s: those that hold now */
	struct log_scope log;
	struct nbd_worker *workers; /* config.workers of them */

	pthread_mutex_t lock; /* what follows, and every export's `node` */
	struct list exports;
	struct list listeners;
	uint64_t next_serial;

	pthread_mutex_t call_lock; /* every nbd_call's `done` */
	pthread_cond_t call_done;

	/* What adopted connections came through: never opened, its settings are all zero. */
	struct nbd_listener adopted;

	struct nbd_admission admission;
	atomic_bool stopping;	    /* nobody is let in, nothing is negotiated */
	_Atomic int64_t serving_ns; /* when a request came, about: turns.h */
	atomic_ulong next_conn;	    /* number of the next connection, for the log */
	atomic_uint next_host;	    /* the worker that adopts the next one */
};

/* The export called @name (or with that alias), referenced; NULL: there is none. Any thread. */
struct nbd_export *nbd_server_find(struct nbd_server *server, const char *name, size_t len);

/* Calls @each for every export, under the registry's lock: it must not block. Any thread. */
void nbd_server_each(struct nbd_server *server,
		     void (*each)(void *arg, const struct nbd_export *export), void *arg);

/* Puts @export into the registry and gives it a worker. -EEXIST + err. */
int nbd_server_register(struct nbd_server *server, struct nbd_export *export, struct err *err);

/* No new connection finds @export from now on. */
void nbd_server_unregister(struct nbd_server *server, struct nbd_export *export);

#endif
