/*
 * A fixed number of equal buffers, mapped at start; get may return NULL, never grows.
 * Huge pages where the system gives them: the payload pool is what the disk reads from by DMA.
 *
 * Whoever needs a slot and gets none parks a `struct pool_waiter`; each returned slot wakes one, in
 * order. A woken waiter is off the list and may park again. wake() runs inside pool_put(): it only
 * queues work (ring_post()), so that returning a slot never runs somebody else's code. One thread.
 */
#ifndef BASE_POOL_H
#define BASE_POOL_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/list.h"

struct pool_waiter {
	struct list node; /* list_init() it before first use; linked to itself while not waiting */
	void (*wake)(struct pool_waiter *waiter);
};

/*
 * Somebody who sits on a slot it could give back early (a half-filled write buffer). When a waiter
 * parks, the holder that registered first is asked: reclaim() only queues work, and the holder is
 * off the list. A waiter asks once, when it parks: be registered only while there is something to
 * give back, and who takes a slot while others wait (pool_wanted()) owes it without being asked.
 */
struct pool_holder {
	struct list node; /* list_init() before first use */
	void (*reclaim)(struct pool_holder *holder);
};

struct pool {
	unsigned char *mem;
	size_t slot_size, map_size;
	unsigned count, free_count;
	unsigned long waits;  /* how often somebody parked */
	unsigned *free_slots; /* a stack: the slot returned last is the warmest in cache */
	struct list waiters;
	struct list holders;
};

/* @slot_size is a multiple of 4096; slots are at least 4096-aligned. Every page is touched, so that
 * the data path never takes a page fault. */
int pool_init(struct pool *pool, unsigned count, size_t slot_size, struct err *err);
/* Not touched: a slot takes memory when it is first used. For work that comes and goes. */
int pool_init_lazy(struct pool *pool, unsigned count, size_t slot_size, struct err *err);
void pool_deinit(struct pool *pool); /* accepts a zeroed pool */

void *pool_get(struct pool *pool); /* NULL when empty */
void pool_put(struct pool *pool, void *slot);

void pool_wait(struct pool *pool, struct pool_waiter *waiter);
void pool_cancel(struct pool_waiter *waiter); /* harmless when not waiting */

static inline bool pool_wanted(const struct pool *pool) /* somebody waits */
{
	return !list_empty(&pool->waiters);
}

/* A woken waiter that found no use for the slot hands the chance to the next one. */
void pool_pass(struct pool *pool);

void pool_hold(struct pool *pool, struct pool_holder *holder);
void pool_release(struct pool_holder *holder); /* harmless when not registered */

#endif
