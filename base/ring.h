/*
 * One io_uring and the loop around it. A ring belongs to one thread: the one that called
 * ring_init(); nobody else may touch it (ring_poke() and ring_post_from() excepted).
 *
 * A completion is a `struct ring_op` embedded in whatever waits for it. A round submits what was
 * prepared, reaps every completion first and only then runs the callbacks, in order of arrival:
 * no recursion, and a callback may prepare or post as much as it likes for the next round.
 *
 * The clock is read once a round, behind the wait: whatever a round runs happens at ring->now_ns.
 *
 * Operations are single-shot (one SQE, one CQE): an op may be armed again from its own callback,
 * never while it is pending.
 */
#ifndef BASE_RING_H
#define BASE_RING_H

#include <liburing.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/list.h"

struct ring_op {
	void (*done)(struct ring_op *op, int res); /* @res: the CQE's result, or what was posted */
	struct ring_op *next;			   /* while completed and not yet run */
	int res;
	uint32_t cqe_flags; /* IORING_CQE_F_*; 0 for posted completions */
};

/* Runs done(timer) once, in the round in which its time has come. */
struct ring_timer {
	void (*done)(struct ring_timer *timer);
	struct list node; /* ring->timers */
	int64_t at_ns;
};

struct ring {
	struct io_uring uring;
	struct ring_op *ready, **ready_tail; /* completed, callbacks not yet run */
	unsigned pending;		     /* armed, completion not yet reaped */
	int64_t now_ns;			     /* CLOCK_MONOTONIC, read once a round */
	struct list timers;		     /* by time */
	int poke_fd;			     /* eventfd: other threads wake the loop */
	uint64_t poke_value;
	struct ring_op poke_op;
	void (*on_poke)(struct ring *ring);
	/* posted by other threads, taken over when the poke arrives */
	pthread_mutex_t remote_lock;
	struct ring_op *remote, **remote_tail;
};

/* @entries is the submission queue size. Needs Linux 6.1 or later; says so otherwise. */
int ring_init(struct ring *ring, unsigned entries, struct err *err);

/* Nothing may be pending except the poke. */
void ring_deinit(struct ring *ring);

/* A fresh SQE, never NULL: a full queue is submitted first. Prepare it with io_uring_prep_*(), then
 * hand it to ring_arm(). */
struct io_uring_sqe *ring_get_sqe(struct ring *ring);
void ring_arm(struct ring *ring, struct io_uring_sqe *sqe, struct ring_op *op);

/* Runs op->done(op, res) in the next round, without the kernel. */
void ring_post(struct ring *ring, struct ring_op *op, int res);

/* @timer is not set, and not zero memory: list_init() its node. */
void ring_set_timer(struct ring *ring, struct ring_timer *timer, int64_t in_ns);
/* Set or not. */
void ring_cancel_timer(struct ring_timer *timer);

/* Whether anything will ever happen: something is ready, pending or set. Listening to pokes does
 * not count. */
bool ring_expects(const struct ring *ring);

/* One round: submit, wait for at least one completion unless something is ready already, reap, run.
 * 0 or -errno (the ring is unusable then). */
int ring_round(struct ring *ring);

/* A round that waits for nothing: what was prepared is on its way while its owner does other
 * things. */
int ring_pass(struct ring *ring);

/* Lets other threads wake the loop; on_poke() (may be NULL) runs once in a following round. A
 * second call only replaces on_poke. */
void ring_set_poke(struct ring *ring, void (*on_poke)(struct ring *ring));
void ring_poke(struct ring *ring);

/* As ring_post(), from any thread; after ring_set_poke(). */
void ring_post_from(struct ring *ring, struct ring_op *op, int res);

#endif
