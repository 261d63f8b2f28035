/*
 * Many images on one worker, which has fewer buffers than they would like: whoever waits gets on,
 * and nobody sits on what others need. A ring with nothing under way while somebody waits has lost
 * a wake-up; that is noticed at once.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "qcow2/qcow2.h"
#include "tests/support/scratch.h"

#define IMAGES	12
#define CLUSTER 65536U
#define DISK	(32 * MIB)
#define PIECE	(192 * KIB) /* as much as a sender hands over at once */

static struct ring ring;
static struct pool batches, bounces;
static unsigned char data[MIB], back[MIB];

/* Somebody who sends to one image, piece by piece, waiting for room when there is none. */
struct sender {
	struct qcow2_image *img;
	uint64_t off, end;
	struct pool_waiter room;
	struct ring_op step;
	struct qcow2_op flush;
	bool posted, flushing, done;
	int res;
};

static struct sender sender[IMAGES];

static void sender_flushed(struct qcow2_op *op, int res)
{
	struct sender *s = container_of(op, struct sender, flush);

	s->flushing = false;
	s->done = true;
	s->res = res;
}

static void sender_step(struct ring_op *op, int res)
{
	struct sender *s = container_of(op, struct sender, step);
	uint64_t in = s->off % sizeof(data);
	ssize_t n;

	(void)res;
	s->posted = false;
	if (s->off == s->end) {
		s->done = true;
		assert_int_equal(s->res, 0);
		return;
	}
	n = qcow2_write(s->img, s->off, data + in,
			MIN(MIN(PIECE, s->end - s->off), sizeof(data) - in));
	if (n == -EAGAIN) {
		qcow2_wait_room(s->img, &s->room);
		return;
	}
	if (n < 0) {
		s->done = true;
		s->res = n;
		return;
	}
	s->off += n;
	s->posted = true;
	ring_post(&ring, &s->step, 0);
}

static void sender_woken(struct pool_waiter *waiter)
{
	struct sender *s = container_of(waiter, struct sender, room);

	if (!s->posted)
		ring_post(&ring, &s->step, 0);
	s->posted = true;
}

static void sender_start(struct sender *s, uint64_t off, uint64_t len)
{
	s->off = off;
	s->end = off + len;
	s->done = false;
	list_init(&s->room.node);
	s->room.wake = sender_woken;
	s->step.done = sender_step;
	s->posted = true;
	ring_post(&ring, &s->step, 0);
}

static void sender_flush(struct sender *s)
{
	s->done = false;
	s->flushing = true;
	s->flush = (struct qcow2_op){.kind = QCOW2_OP_FLUSH, .done = sender_flushed};
	qcow2_submit(s->img, &s->flush);
}

/* Rounds until @n senders from @first on are done; fails when nothing can happen any more. */
static void run_until_done(unsigned first, unsigned n)
{
	unsigned i, left;

	for (;;) {
		for (left = 0, i = first; i < first + n; i++)
			left += !sender[i].done;
		if (!left)
			return;
		if (!ring_expects(&ring))
			fail_msg("%u of %u senders wait and nobody will wake them", left, n);
		assert_int_equal(ring_round(&ring), 0);
	}
}

static void open_image(unsigned i, const char *backing, bool suppress)
{
	struct qcow2_create_opts create = {
		.size = DISK, .cluster_size = CLUSTER, .backing = backing};
	struct qcow2_open_opts opts = {.writable = true, .suppress_unchanged = suppress};
	struct qcow2_io io = {&ring, &batches, &bounces};
	struct err err = ERR_INIT;
	char path[32];

	snprintf(path, sizeof(path), "%u.qcow2", i);
	unlink(path);
	sender[i] = (struct sender){.done = true};
	if (qcow2_create(path, &create, &err) || qcow2_open(&sender[i].img, path, &opts, &err) ||
	    qcow2_attach(sender[i].img, &io, &err))
		fail_msg("%s", err.text);
}

static void read_done(struct qcow2_op *op, int res)
{
	op->extent_count = 1;
	op->res = res;
}

static void assert_holds(unsigned i, uint64_t off, uint64_t len)
{
	static struct qcow2_op op;
	uint64_t n;

	for (; len; off += n, len -= n) {
		n = MIN(len, sizeof(data) - off % sizeof(data));
		op = (struct qcow2_op){.kind = QCOW2_OP_READ,
				       .off = off,
				       .len = n,
				       .buf = back,
				       .done = read_done};
		qcow2_submit(sender[i].img, &op);
		while (!op.extent_count)
			assert_int_equal(ring_round(&ring), 0);
		assert_int_equal(op.res, 0);
		assert_memory_equal(back, data + off % sizeof(data), n);
	}
}

static void close_images(unsigned n)
{
	struct err err = ERR_INIT;
	unsigned i;

	for (i = 0; i < n; i++) {
		sender_flush(&sender[i]);
		run_until_done(i, 1);
		assert_int_equal(sender[i].res, 0);
		qcow2_detach(sender[i].img);
		if (qcow2_finalize(sender[i].img, &err))
			fail_msg("%s", err.text);
		qcow2_close(sender[i].img);
	}
}

static void pools_start(unsigned n)
{
	struct err err = ERR_INIT;

	if (ring_init(&ring, 64, &err) || pool_init(&batches, n, QCOW2_BATCH_SIZE, &err) ||
	    pool_init(&bounces, QCOW2_BOUNCES_MIN, QCOW2_BOUNCE_SIZE, &err))
		fail_msg("%s", err.text);
}

static void pools_stop(void)
{
	pool_deinit(&batches);
	pool_deinit(&bounces);
	ring_deinit(&ring);
}

/* --- the sentences -------------------------------------------------------------------------------
 */

static void more_senders_than_buffers_all_get_through(void **state)
{
	unsigned i;

	(void)state;
	pools_start(2);
	for (i = 0; i < IMAGES; i++)
		open_image(i, NULL, false);
	for (i = 0; i < IMAGES; i++)
		sender_start(&sender[i], 0, 7 * MIB + 512 * i);
	run_until_done(0, IMAGES);
	for (i = 0; i < IMAGES; i++)
		assert_holds(i, 0, 7 * MIB + 512 * i);
	close_images(IMAGES);
	pools_stop();
}

static void images_at_rest_give_their_buffers_to_those_who_write(void **state)
{
	unsigned i;

	(void)state;
	pools_start(2);
	for (i = 0; i < 6; i++)
		open_image(i, NULL, false);
	/* one that wrote and flushed, two that stopped in the middle of a cluster */
	sender_start(&sender[0], 0, 1000);
	run_until_done(0, 1);
	sender_flush(&sender[0]);
	run_until_done(0, 1);
	for (i = 1; i < 6; i++) {
		sender_start(&sender[i], 0, 1000);
		run_until_done(i, 1);
	}
	for (i = 1; i < 6; i++)
		assert_holds(i, 0, 1000);
	close_images(6);
	pools_stop();
}

static void who_waited_before_a_buffer_was_taken_is_not_forgotten(void **state)
{
	unsigned i;

	(void)state;
	pools_start(2);
	for (i = 0; i < 6; i++)
		open_image(i, NULL, false);
	/* All but the first want a buffer while the first has every one on its way to the disk, and
	 * stop after a few bytes once they have it. */
	sender_start(&sender[0], 0, 4 * MIB);
	for (i = 1; i < 6; i++)
		sender_start(&sender[i], 0, 1000);
	run_until_done(0, 6);
	close_images(6);
	pools_stop();
}

static void senders_that_come_and_go_never_wait_for_ever(void **state)
{
	const char *env = getenv("SEED");
	uint64_t rng = env ? strtoull(env, NULL, 0) : (uint64_t)time(NULL) * 2654435761U;
	unsigned i, round;

	(void)state;
	print_message("SEED=%llu\n", (unsigned long long)rng);
	pools_start(3);
	for (i = 0; i < IMAGES; i++)
		open_image(i, NULL, false);
	for (round = 0; round < 25; round++) {
		for (i = 0; i < IMAGES; i++) {
			rng = (rng | 1) * 6364136223846793005ULL + 1442695040888963407ULL;
			if (rng >> 60 < 6)
				sender_start(&sender[i], rng >> 20 & 0xffffff, rng >> 44 & 0x1fff);
			else if (rng >> 60 < 10)
				sender_start(&sender[i], rng >> 20 & 0xffffff,
					     rng >> 33 & 0x3fffff);
			else if (rng >> 60 < 12)
				sender_flush(&sender[i]);
		}
		run_until_done(0, IMAGES);
	}
	close_images(IMAGES);
	pools_stop();
}

/* Every compressed cluster of a parent needs a bounce buffer while batches hold some themselves. */
static void suppression_over_a_compressed_parent_does_not_starve(void **state)
{
	FILE *f = fopen("parent.raw", "wb");
	unsigned i;

	(void)state;
	assert_non_null(f);
	for (i = 0; i < DISK / sizeof(data); i++)
		assert_int_equal(fwrite(data, 1, sizeof(data), f), sizeof(data));
	fclose(f);
	assert_int_equal(scratch_run("qemu-img convert -c -f raw -O qcow2 parent.raw parent.qcow2"),
			 0);
	pools_start(4);
	for (i = 0; i < 4; i++) {
		open_image(i, "parent.qcow2", true);
		sender_start(&sender[i], 0, 8 * MIB);
	}
	run_until_done(0, 4);
	for (i = 0; i < 4; i++)
		assert_holds(i, 0, DISK);
	close_images(4);
	pools_stop();
}

static int setup(void **state)
{
	size_t i;

	/* compressible, but not to nothing */
	for (i = 0; i < sizeof(data); i++)
		data[i] = i % 7 ? i / 4096 + 1 : i * 2654435761U >> 11;
	return scratch_setup(state);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(more_senders_than_buffers_all_get_through),
		cmocka_unit_test(images_at_rest_give_their_buffers_to_those_who_write),
		cmocka_unit_test(who_waited_before_a_buffer_was_taken_is_not_forgotten),
		cmocka_unit_test(senders_that_come_and_go_never_wait_for_ever),
		cmocka_unit_test(suppression_over_a_compressed_parent_does_not_starve),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, setup, scratch_teardown);
}
