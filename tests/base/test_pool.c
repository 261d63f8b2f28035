/* Buffers that never grow, and those who wait for them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/pool.h"

struct client {
	struct pool_waiter waiter;
	struct pool_holder holder;
	unsigned woken, asked;
};

static void woken(struct pool_waiter *waiter)
{
	struct client *c = container_of(waiter, struct client, waiter);

	c->woken++;
}

static void asked(struct pool_holder *holder)
{
	container_of(holder, struct client, holder)->asked++;
}

static void client_init(struct client *c)
{
	memset(c, 0, sizeof(*c));
	list_init(&c->waiter.node);
	list_init(&c->holder.node);
	c->waiter.wake = woken;
	c->holder.reclaim = asked;
}

static void slots_are_aligned_and_apart_and_run_out(void **state)
{
	struct pool pool;
	void *slot[5];
	int i;

	(void)state;
	assert_int_equal(pool_init(&pool, 4, 8192, NULL), 0);
	for (i = 0; i < 4; i++) {
		slot[i] = pool_get(&pool);
		assert_non_null(slot[i]);
		assert_int_equal((uintptr_t)slot[i] % 4096, 0);
		memset(slot[i], i, 8192);
	}
	assert_null(pool_get(&pool));
	for (i = 0; i < 4; i++) {
		assert_int_equal(((unsigned char *)slot[i])[8191], i);
		pool_put(&pool, slot[i]);
	}
	pool_deinit(&pool);
}

static void one_waiter_is_woken_for_each_slot_in_order(void **state)
{
	struct client c[3];
	struct pool pool;
	void *slot[2];
	int i;

	(void)state;
	assert_int_equal(pool_init(&pool, 2, 4096, NULL), 0);
	slot[0] = pool_get(&pool);
	slot[1] = pool_get(&pool);
	for (i = 0; i < 3; i++) {
		client_init(&c[i]);
		pool_wait(&pool, &c[i].waiter);
	}
	pool_wait(&pool, &c[0].waiter); /* parking again moves to the end */
	pool_cancel(&c[2].waiter);
	pool_put(&pool, slot[0]);
	assert_int_equal(c[1].woken, 1);
	assert_int_equal(c[0].woken + c[2].woken, 0);
	pool_pass(&pool); /* it found no use for it */
	assert_int_equal(c[0].woken, 1);
	pool_put(&pool, slot[1]);
	assert_int_equal(c[0].woken + c[1].woken + c[2].woken, 2);
	pool_deinit(&pool);
}

static void who_starves_makes_the_oldest_holder_give_back(void **state)
{
	struct client c[3];
	struct pool pool;
	void *slot;
	int i;

	(void)state;
	assert_int_equal(pool_init(&pool, 1, 4096, NULL), 0);
	slot = pool_get(&pool);
	for (i = 0; i < 3; i++)
		client_init(&c[i]);
	pool_hold(&pool, &c[0].holder);
	pool_hold(&pool, &c[1].holder);
	pool_wait(&pool, &c[2].waiter);
	assert_int_equal(c[0].asked, 1);
	assert_int_equal(c[1].asked, 0);
	pool_wait(&pool, &c[2].waiter); /* the first is off the list: the next is asked */
	assert_int_equal(c[0].asked, 1);
	assert_int_equal(c[1].asked, 1);
	pool_release(&c[0].holder); /* harmless */
	pool_put(&pool, slot);
	assert_int_equal(c[2].woken, 1);
	pool_deinit(&pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(slots_are_aligned_and_apart_and_run_out),
		cmocka_unit_test(one_waiter_is_woken_for_each_slot_in_order),
		cmocka_unit_test(who_starves_makes_the_oldest_holder_give_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
