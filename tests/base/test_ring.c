/*
 * Timers of the loop: in order, never early, and nothing else has to happen for them to come.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/ring.h"

#define MS 1000000LL

struct alarm {
	struct ring_timer timer;
	struct ring *ring;
	int64_t set_ns, came_ns;
	unsigned came, *count;
	unsigned again; /* times it sets itself anew */
};

static void alarm_set(struct alarm *a, int64_t in_ns)
{
	a->set_ns = a->ring->now_ns + in_ns;
	ring_set_timer(a->ring, &a->timer, in_ns);
}

static void alarm_done(struct ring_timer *timer)
{
	struct alarm *a = container_of(timer, struct alarm, timer);

	a->came_ns = a->ring->now_ns;
	a->came = ++*a->count;
	if (a->again) {
		a->again--;
		alarm_set(a, 2 * MS);
	}
}

static void begin(struct ring *ring, struct alarm *alarms, unsigned n, unsigned *count)
{
	struct err err = ERR_INIT;
	unsigned i;

	assert_int_equal(ring_init(ring, 8, &err), 0);
	*count = 0;
	for (i = 0; i < n; i++) {
		alarms[i] = (struct alarm){.timer.done = alarm_done, .ring = ring, .count = count};
		list_init(&alarms[i].timer.node);
	}
}

static void timers_come_in_their_order_and_never_early(void **state)
{
	static const int64_t in_ms[] = {20, 5, 10, 5, 0};
	static const unsigned order[] = {5, 2, 4, 3, 1};
	struct alarm alarms[ARRAY_SIZE(in_ms)];
	struct ring ring;
	unsigned count, i;

	(void)state;
	begin(&ring, alarms, ARRAY_SIZE(alarms), &count);
	for (i = 0; i < ARRAY_SIZE(alarms); i++)
		alarm_set(&alarms[i], in_ms[i] * MS);
	while (count < ARRAY_SIZE(alarms))
		assert_int_equal(ring_round(&ring), 0);
	for (i = 0; i < ARRAY_SIZE(alarms); i++) {
		assert_int_equal(alarms[i].came, order[i]);
		assert_true(alarms[i].came_ns >= alarms[i].set_ns);
	}
	ring_deinit(&ring);
}

static void a_cancelled_timer_never_comes(void **state)
{
	struct alarm alarms[2];
	struct ring ring;
	unsigned count;

	(void)state;
	begin(&ring, alarms, 2, &count);
	ring_cancel_timer(&alarms[0].timer); /* was not set */
	alarm_set(&alarms[0], MS);
	alarm_set(&alarms[1], 5 * MS);
	ring_cancel_timer(&alarms[0].timer);
	while (!count)
		assert_int_equal(ring_round(&ring), 0);
	assert_int_equal(alarms[0].came, 0);
	assert_int_equal(alarms[1].came, 1);
	ring_deinit(&ring);
}

static void a_timer_may_set_itself_again(void **state)
{
	struct alarm alarm;
	struct ring ring;
	unsigned count;

	(void)state;
	begin(&ring, &alarm, 1, &count);
	alarm.again = 2;
	alarm_set(&alarm, MS);
	while (count < 3)
		assert_int_equal(ring_round(&ring), 0);
	assert_true(alarm.came_ns >= alarm.set_ns);
	ring_deinit(&ring);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(timers_come_in_their_order_and_never_early),
		cmocka_unit_test(a_cancelled_timer_never_comes),
		cmocka_unit_test(a_timer_may_set_itself_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
