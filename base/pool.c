#include "base/pool.h"

#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE (2UL << 20)

/* Maps @size bytes on a huge-page boundary and asks for huge pages. */
static void *pool_map(size_t size)
{
	unsigned char *raw = mmap(NULL, size + HUGE_PAGE, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned char *mem;

	if (raw == MAP_FAILED)
		return NULL;
	mem = (unsigned char *)(((uintptr_t)raw + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
	if (mem > raw)
		munmap(raw, mem - raw);
	if (raw + size + HUGE_PAGE > mem + size)
		munmap(mem + size, raw + HUGE_PAGE - mem);
	/* A hint; a kernel without huge pages serves small ones. */
	madvise(mem, size, MADV_HUGEPAGE);
	return mem;
}

int pool_init_lazy(struct pool *pool, unsigned count, size_t slot_size, struct err *err)
{
	unsigned i;

	assert(count && slot_size && slot_size % 4096 == 0);
	memset(pool, 0, sizeof(*pool));
	list_init(&pool->waiters);
	list_init(&pool->holders);
	pool->map_size = (count * slot_size + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
	pool->free_slots = calloc(count, sizeof(*pool->free_slots));
	pool->mem = pool_map(pool->map_size);
	if (!pool->mem || !pool->free_slots) {
		pool_deinit(pool);
		return err_set(err, -ENOMEM, "no memory for a pool of %u buffers of %zu KiB", count,
			       slot_size >> 10);
	}
	pool->slot_size = slot_size;
	pool->count = pool->free_count = count;
	for (i = 0; i < count; i++)
		pool->free_slots[i] = count - 1 - i;
	return 0;
}

int pool_init(struct pool *pool, unsigned count, size_t slot_size, struct err *err)
{
	int r = pool_init_lazy(pool, count, slot_size, err);

	if (!r)
		memset(pool->mem, 0, pool->map_size);
	return r;
}

void pool_deinit(struct pool *pool)
{
	assert(pool->free_count == pool->count);
	if (pool->mem)
		munmap(pool->mem, pool->map_size);
	free(pool->free_slots);
	memset(pool, 0, sizeof(*pool));
}

void *pool_get(struct pool *pool)
{
	if (!pool->free_count)
		return NULL;
	return pool->mem + pool->free_slots[--pool->free_count] * pool->slot_size;
}

void pool_put(struct pool *pool, void *slot)
{
	size_t off = (unsigned char *)slot - pool->mem;

	assert(off % pool->slot_size == 0 && off / pool->slot_size < pool->count);
	assert(pool->free_count < pool->count);
	pool->free_slots[pool->free_count++] = off / pool->slot_size;
	pool_pass(pool);
}

void pool_pass(struct pool *pool)
{
	struct list *node = pool->free_count ? list_pop(&pool->waiters) : NULL;

	if (node) {
		struct pool_waiter *waiter = list_entry(node, struct pool_waiter, node);

		waiter->wake(waiter);
	}
}

void pool_wait(struct pool *pool, struct pool_waiter *waiter)
{
	list_del(&waiter->node);
	list_add_tail(&pool->waiters, &waiter->node);
	pool->waits++;
	if (!list_empty(&pool->holders)) {
		struct pool_holder *holder =
			list_entry(list_pop(&pool->holders), struct pool_holder, node);

		holder->reclaim(holder);
	}
}

void pool_cancel(struct pool_waiter *waiter)
{
	list_del(&waiter->node);
}

void pool_hold(struct pool *pool, struct pool_holder *holder)
{
	list_del(&holder->node);
	list_add_tail(&pool->holders, &holder->node);
}

void pool_release(struct pool_holder *holder)
{
	list_del(&holder->node);
}
