/*
 * One thread of the server: one ring, its buffers, its exports, its connections.
 *
 * Everything in here belongs to the worker's own thread, the mailbox excepted: other threads put a
 * `struct nbd_mail` there and poke the ring; the worker runs it between two rounds. Whoever needs
 * an answer wraps the mail into a `struct nbd_call` and sleeps until the worker has given one, at
 * once or after any number of rounds.
 */
#ifndef NBD_WORKER_H
#define NBD_WORKER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/log.h"
#include "base/pool.h"
#include "base/ring.h"
#include "nbd/export.h"
#include "nbd/limits.h"
#include "nbd/server.h"
#include "nbd/turns.h"

struct nbd_listener;
struct nbd_server;
struct nbd_worker;

/*
 * Memory of a worker, taken at start and touched, so that the data path neither allocates nor
 * faults. With the default of 20 batches (sizes in KiB):
 *
 *   who needs it                                         slots x size       sum
 *   batches   write-behind: what was acknowledged and
 *             is on its way to the disk                   20 x 2048      40 960
 *   bounces   parent data under partial writes,
 *             compressed clusters                          4 x 2052       8 208
 *   staging   payload on its way from a socket into the
 *             export; small enough to stay in cache       16 x 256        4 096
 *   reads     READ and BLOCK_STATUS replies between disk
 *             and socket: headers, data, trailer          24 x 268        6 432
 *   slots     operations of the export that need no
 *             read buffer                                512 x 8          4 096
 *                                                                        ~62 MiB
 * Outside of that sum, on the control plane: 36 KiB for a connection, most of it untouched, and
 * while it negotiates the option it sends and the answer to it (64 KiB at most, LIST excepted).
 *
 * What keeps this free of deadlock: a slot is held only while the export or the socket owes us
 * something. Staging and slots wait for the export; an export's batches wait for the disk; a
 * read buffer waits for the disk, then for its client to read:
 * one connection may hold half of them, and a client that stops reading while others wait for a
 * buffer is hung up on after a while (nbd_server_config.stall_timeout_ms). No slot is ever held
 * while a client owes us payload.
 */
#define NBD_BATCH_SIZE	    (2U << 20)
#define NBD_BOUNCE_SIZE	    ((2U << 20) + 4096)
#define NBD_BOUNCES	    4
#define NBD_STAGING_SIZE    (256U << 10)
#define NBD_STAGING	    16
#define NBD_SEGMENT	    (256U << 10) /* of READ data */
#define NBD_READ_HEAD	    8192U	 /* in front of it: bookkeeping, wire header at its end */
#define NBD_READ_HEADER_MAX 256U
#define NBD_READ_TAIL	    4096U /* behind it: the reply's last chunk */
#define NBD_READ_SIZE	    (NBD_READ_HEAD + NBD_SEGMENT + NBD_READ_TAIL)
#define NBD_READS	    24
#define NBD_SLOT_SIZE	    8192U
#define NBD_SLOTS	    512
#define NBD_RING_ENTRIES    512

struct nbd_mail {
	struct list node; /* worker->mail */
	/* On the worker's thread; the mail is its sender's. */
	void (*open)(struct nbd_worker *worker, struct nbd_mail *mail);
};

struct nbd_call {
	struct nbd_mail mail;
	bool done; /* server->call_lock */
	int result;
	struct err *err; /* may be NULL */
};

/* One accept operation on one listening socket. */
struct nbd_acceptor {
	struct list node; /* worker->acceptors */
	struct nbd_worker *worker;
	struct ring_op op, cancel;
	const struct nbd_listener *listener; /* the server's */
	bool armed, cancelling;
	bool fault_said; /* why it cannot accept is in the log */
};

/* Written by the worker alone, read by anybody. */
struct nbd_pool_counters {
	atomic_uint free, waiters;
	_Atomic uint64_t waits;
};

struct nbd_worker_counters {
	struct nbd_pool_counters pools[NBD_POOLS]; /* as of the last tick */
	_Atomic uint64_t accepted, retracted, paced, waited, met[NBD_LIMITS];
};

struct nbd_worker {
	struct nbd_server *server;
	struct nbd_server_config limits; /* complete; new ones come by mail */
	struct log_scope log;
	pthread_t thread;
	struct nbd_call start; /* answered by the new thread */
	bool started;	       /* the thread exists */

	struct ring ring;
	struct pool batches, bounces, staging, reads, slots;
	struct nbd_worker_io io; /* what exports borrow of those */
	struct io_uring_buf_ring *staging_ring;
	unsigned staging_held;	/* by connections; the others are the kernel's */
	uint64_t staging_waits; /* how often one was starved */
	struct list starved;	/* connections that found no staging buffer */
	struct list paced;	/* and those that have to wait for their turn */
	struct ring_op pace;
	struct __kernel_timespec pace_period;
	bool pacing;

	struct nbd_turns turns;
	int64_t serving_ns; /* when a request came, about */

	unsigned parked;     /* pieces of replies: retract.h */
	struct list conns;   /* struct nbd_conn.node */
	struct list exports; /* struct nbd_export.owned */
	struct list acceptors;
	struct nbd_worker_counters counters;
	struct nbd_notice notices[NBD_LIMITS];

	struct ring_op tick, tick_cancel;
	struct __kernel_timespec tick_period;
	bool ticking, tick_cancelling;
	struct ring_op relief; /* while somebody waits for a read buffer */
	struct __kernel_timespec relief_period;
	bool relieving, relief_wanted;

	bool deaf;		  /* accepts nothing more */
	struct nbd_call *deafen;  /* answered when no accept is pending */
	bool stopping;		  /* no new connections by any way, and what there is has to end */
	bool leaving;		  /* and out as soon as nothing is pending */
	struct nbd_call *quiesce; /* answered when the last connection is gone */

	pthread_mutex_t mail_lock;
	struct list mail;
};

/* Starts the thread and waits until it has its ring and pools. @worker: zeroed, then the server's.
 * Control plane. */
int nbd_worker_start(struct nbd_worker *worker, struct nbd_server *server, unsigned index,
		     struct err *err);

/* Ends the thread (nothing of it is left to do) and frees what it had. Accepts one that never
 * started. Control plane. */
void nbd_worker_stop(struct nbd_worker *worker);

/* From any thread. */
void nbd_worker_post(struct nbd_worker *worker, struct nbd_mail *mail);

/* Posts @call and waits for its answer: the result. From any thread but a worker's. */
int nbd_worker_call(struct nbd_worker *worker, struct nbd_call *call);

/* Gives the answer; @call may be gone when this returns. On the worker's thread. */
void nbd_call_answer(struct nbd_worker *worker, struct nbd_call *call, int result);

/* Accepts connections from @listener as well, by means of @acceptor, which is zeroed and the
 * listener's. Control plane. */
void nbd_worker_listen(struct nbd_worker *worker, const struct nbd_listener *listener,
		       struct nbd_acceptor *acceptor);

/* Takes the connected socket @fd over as if it had been accepted. Control plane. */
void nbd_worker_adopt(struct nbd_worker *worker, int fd);

/* Goes by @limits (complete) from now on. Control plane. */
void nbd_worker_limit(struct nbd_worker *worker, const struct nbd_server_config *limits);

/* Accepts no more; returns when none is pending. Control plane, as what follows; may be called
 * again. */
void nbd_worker_stop_accepting(struct nbd_worker *worker);

/* Tells every connection to end. */
void nbd_worker_end_conns(struct nbd_worker *worker);

/* Returns when the last connection is gone, which it soon is. */
void nbd_worker_quiesce(struct nbd_worker *worker);

/* Resumes the connection whose `paced` @node is when it is its turn. */
void nbd_worker_pace(struct nbd_worker *worker, struct list *node);

/* Somebody has fewer read buffers than it could use: those who hold some and do not read may lose
 * them. */
void nbd_worker_relieve(struct nbd_worker *worker);

/* The worker's side of a staging buffer: taken by the kernel for a receive, given back here. */
void *nbd_staging_at(struct nbd_worker *worker, unsigned index);
void nbd_staging_put(struct nbd_worker *worker, unsigned index);

/* A connection is gone. */
void nbd_worker_conn_gone(struct nbd_worker *worker);

/* CLOCK_MONOTONIC at the beginning of this round. */
static inline int64_t nbd_now_ns(const struct nbd_worker *worker)
{
	return worker->ring.now_ns;
}

#endif
