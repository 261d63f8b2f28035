/*
 * The checksum sidecar: right after every kind of write, right along a chain, and quick to tell
 * which guest ranges of a damaged point are lost.
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
#include "qcow2/convert.h"
#include "qcow2/sums.h"
#include "tests/support/imgloop.h"
#include "tests/support/scratch.h"

#define CS 65536

static struct qcow2_session loop;

static int setup(void **state)
{
	srandom(1);
	imgloop_start(&loop, 4);
	return scratch_setup(state);
}

static int teardown(void **state)
{
	imgloop_stop(&loop);
	return scratch_teardown(state);
}

static void create(const char *path, uint64_t size, const char *backing)
{
	struct qcow2_create_opts opts = {.size = size, .cluster_size = CS, .backing = backing};
	struct err err;

	if (qcow2_create(path, &opts, &err))
		fail_msg("%s", err.text);
}

static void open_rw(const char *path, bool suppress)
{
	struct qcow2_open_opts opts = {
		.writable = true, .suppress_unchanged = suppress, .sums = true};

	assert_int_equal(imgloop_open(&loop, path, &opts), 0);
}

static void write_random(uint64_t off, size_t len)
{
	unsigned char *buf = malloc(len);
	size_t i;

	for (i = 0; i < len; i++)
		buf[i] = random() | 1;
	assert_int_equal(imgloop_write(&loop, off, buf, len), 0);
	free(buf);
}

struct found {
	unsigned count;
	uint64_t off[8], len[8];
	int res[8];
};

static void differs(void *arg, uint64_t off, uint64_t len, int res)
{
	struct found *f = arg;

	if (f->count < 8) {
		f->off[f->count] = off;
		f->len[f->count] = len;
		f->res[f->count] = res;
	}
	f->count++;
}

static uint64_t verify(const char *path, struct found *found)
{
	static const struct qcow2_verify_ops ops = {.differs = differs};
	uint64_t differing;
	struct err err = ERR_INIT;
	int r;

	memset(found, 0, sizeof(*found));
	r = qcow2_verify(path, NULL, &ops, found, &differing, &err);
	if (r)
		fail_msg("verify %s: %d %s", path, r, err.text);
	return differing;
}

static void assert_verifies(const char *path)
{
	struct found found;

	if (verify(path, &found))
		fail_msg("%s: %u ranges differ, first at %llu", path, found.count,
			 (unsigned long long)found.off[0]);
}

static void every_kind_of_write_keeps_the_sums_right(void **state)
{
	uint64_t size = (9 << 20) + 1536;
	unsigned i;

	(void)state;
	create("kinds.qcow2", size, NULL);
	open_rw("kinds.qcow2", false);
	write_random(0, 3 << 20);	    /* whole clusters */
	write_random((4 << 20) + 777, 100); /* a fragment */
	write_random(size - 700, 700);	    /* the end of a disk of odd size */
	assert_int_equal(imgloop_flush(&loop), 0);
	write_random(CS + 5000, 3000); /* in place, in part */
	write_random(3 * CS, CS);      /* in place, whole */
	assert_int_equal(imgloop_zero(&loop, 5 * CS - 10, 2 * CS), 0);
	for (i = 0; i < 5000; i++) /* more than one block of the log */
		write_random((6 << 20) + i % 7 * CS + i % 1000, 1);
	assert_int_equal(imgloop_close(&loop), 0);
	assert_verifies("kinds.qcow2");
}

/* What is read again at the end lies scattered: near and far, over pieces, in holes, at the end. */
static void clusters_overwritten_in_part_here_and_there_are_summed_again(void **state)
{
	static const unsigned at[] = {0,  1,  3,   7,	12,  31,  32,  33,
				      34, 90, 100, 150, 255, 256, 300, 384};
	uint64_t size = 384 * (uint64_t)CS + 12288;
	unsigned i, round;

	(void)state;
	create("scattered.qcow2", size, NULL);
	open_rw("scattered.qcow2", false);
	for (i = 0; i < 384; i += 8)
		write_random((uint64_t)i * CS, 8 * CS);
	write_random((uint64_t)384 * CS, 12288);
	assert_int_equal(imgloop_zero(&loop, 120ULL * CS, 80ULL * CS), 0);
	assert_int_equal(imgloop_flush(&loop), 0);
	for (round = 0; round < 2; round++) {
		for (i = 0; i < ARRAY_SIZE(at); i++)
			write_random((uint64_t)at[i] * CS + 1000 + 3000 * round, 700);
		assert_int_equal(imgloop_flush(&loop), 0);
	}
	assert_int_equal(imgloop_close(&loop), 0);
	assert_verifies("scattered.qcow2");
}

static uint64_t source_size_in(const char *sidecar)
{
	struct qcow2_sums sums;
	struct err err = ERR_INIT;
	uint64_t size;

	if (qcow2_sums_open(&sums, sidecar, &err))
		fail_msg("%s", err.text);
	size = sums.source_size;
	qcow2_sums_close(&sums);
	return size;
}

static void write_and_close(const char *path, uint64_t source_size)
{
	struct qcow2_open_opts opts = {.writable = true, .sums = true, .source_size = source_size};

	assert_int_equal(imgloop_open(&loop, path, &opts), 0);
	write_random(0, 4096);
	assert_int_equal(imgloop_close(&loop), 0);
	assert_verifies(path);
}

static unsigned long memory_kib(const char *what)
{
	char line[128];
	unsigned long kib = 0;
	FILE *f = fopen("/proc/self/status", "r");

	assert_non_null(f);
	while (!kib && fgets(line, sizeof(line), f))
		if (!strncmp(line, what, strlen(what)))
			kib = strtoul(line + strlen(what), NULL, 10);
	fclose(f);
	return kib;
}

/* A hub closes a hundred images at once when a hundred streams end at once. */
static void closing_takes_next_to_no_memory(void **state)
{
	FILE *peak = fopen("/proc/self/clear_refs", "w");
	unsigned long before;

	(void)state;
	create("lean.qcow2", 64 * MIB, NULL);
	open_rw("lean.qcow2", false);
	write_random(0, 64 * MIB);
	before = memory_kib("VmRSS:");
	assert_non_null(peak);
	assert_true(fputs("5", peak) >= 0 && !fclose(peak)); /* the peak starts again from here */
	assert_int_equal(imgloop_close(&loop), 0);
	if (memory_kib("VmHWM:") > before + 4096)
		fail_msg("%lu KiB before, %lu at the peak", before, memory_kib("VmHWM:"));
	assert_verifies("lean.qcow2");
}

static void the_sidecar_remembers_a_source_of_odd_size(void **state)
{
	const uint64_t odd = 3 * CS + 1000;
	struct qcow2_open_opts wrong = {.writable = true, .sums = true, .source_size = odd - 600};

	(void)state;
	create("odd.qcow2", odd, NULL);
	write_and_close("odd.qcow2", odd);
	assert_int_equal(source_size_in("odd.sums"), odd);
	write_and_close("odd.qcow2", 0); /* continued */
	assert_int_equal(source_size_in("odd.sums"), odd);
	create("odd-1.qcow2", odd, "odd.qcow2");
	write_and_close("odd-1.qcow2", 0);
	assert_int_equal(source_size_in("odd-1.sums"), odd);
	create("odd-2.qcow2", odd + CS, "odd-1.qcow2"); /* resized */
	write_and_close("odd-2.qcow2", 0);
	assert_int_equal(source_size_in("odd-2.sums"), align_up(odd + CS, 512));
	assert_int_not_equal(imgloop_open(&loop, "odd.qcow2", &wrong), 0);
}

static void a_chain_verifies_at_every_point(void **state)
{
	uint64_t size = (8 << 20) + 512;
	char path[32], backing[32];
	unsigned i;

	(void)state;
	for (i = 0; i < 6; i++) {
		snprintf(path, sizeof(path), "link-%u.qcow2", i);
		snprintf(backing, sizeof(backing), "link-%u.qcow2", i - 1);
		/* one link shorter, one longer than what lies below */
		create(path, i == 3 ? (5 << 20) + 1024 : size, i ? backing : NULL);
		open_rw(path, i % 2);
		write_random(i * 700000, i ? 100000 : 6 << 20);
		assert_int_equal(imgloop_zero(&loop, (2 << 20) + i * CS, 2 * CS), 0);
		assert_int_equal(imgloop_close(&loop), 0);
		assert_verifies(path);
	}
}

static void a_parent_without_sidecar_is_read_instead(void **state)
{
	(void)state;
	create("bare.qcow2", 4 << 20, NULL);
	open_rw("bare.qcow2", false);
	write_random(0, 2 << 20);
	assert_int_equal(imgloop_close(&loop), 0);
	assert_int_equal(unlink("bare.sums"), 0);
	create("over.qcow2", 4 << 20, "bare.qcow2");
	open_rw("over.qcow2", true);
	write_random(1 << 20, 200000);
	assert_int_equal(imgloop_close(&loop), 0);
	assert_verifies("over.qcow2");
}

static void a_continued_image_gets_right_sums(void **state)
{
	(void)state;
	create("again.qcow2", 4 << 20, NULL);
	open_rw("again.qcow2", false);
	write_random(0, 1 << 20);
	assert_int_equal(imgloop_close(&loop), 0);
	open_rw("again.qcow2", false); /* clean: its own sidecar is the base */
	write_random(2 << 20, 1 << 20);
	assert_int_equal(imgloop_close(&loop), 0);
	assert_verifies("again.qcow2");
	open_rw("again.qcow2", false);
	write_random(1 << 20, 100000);
	assert_int_equal(imgloop_flush(&loop), 0);
	imgloop_drop(&loop);
	open_rw("again.qcow2", false); /* interrupted: everything is read again */
	write_random(3 << 20, 100000);
	assert_int_equal(imgloop_close(&loop), 0);
	assert_verifies("again.qcow2");
}

static void verify_names_the_ranges_that_differ(void **state)
{
	struct found found;

	(void)state;
	create("rot.qcow2", 8 << 20, NULL);
	open_rw("rot.qcow2", false);
	write_random(0, CS);
	assert_int_equal(imgloop_flush(&loop), 0);
	write_random(CS, (8 << 20) - CS);
	assert_int_equal(imgloop_close(&loop), 0);
	/* host clusters: 4 guest cluster 0, 5 the L2 table, 5 + n guest cluster n */
	assert_int_equal(
		scratch_run("printf 'x' | dd of=rot.qcow2 bs=1 seek=%d conv=notrunc status=none",
			    (5 + 2) * CS + 100),
		0);
	assert_int_equal(verify("rot.qcow2", &found), 1);
	assert_int_equal(found.count, 1);
	assert_int_equal(found.off[0], 2 * CS);
	assert_int_equal(found.len[0], CS);
	assert_int_equal(found.res[0], 0);
	/* cut the file: what is gone is an I/O error, what is left still compares */
	assert_int_equal(truncate("rot.qcow2", 60 * CS), 0);
	assert_true(verify("rot.qcow2", &found) > 1);
	assert_int_equal(found.off[0], 2 * CS);
	assert_int_equal(found.res[1], -EIO);
}

static void damage_in_a_parent_shows_in_every_point_above(void **state)
{
	struct found found;

	(void)state;
	create("low.qcow2", 4 << 20, NULL);
	open_rw("low.qcow2", false);
	write_random(0, 4 << 20);
	assert_int_equal(imgloop_close(&loop), 0);
	create("high.qcow2", 4 << 20, "low.qcow2");
	open_rw("high.qcow2", false);
	write_random(0, CS);
	assert_int_equal(imgloop_close(&loop), 0);
	assert_int_equal(
		scratch_run("printf 'xyz' | dd of=low.qcow2 bs=1 seek=%d conv=notrunc status=none",
			    (4 + 9) * CS),
		0);
	assert_int_equal(verify("high.qcow2", &found), 1);
	assert_int_equal(found.off[0], 9 * CS);
}

static void a_damaged_sidecar_is_called_damaged(void **state)
{
	static const struct qcow2_verify_ops ops = {.differs = differs};
	struct found found;
	uint64_t differing;
	struct err err;

	(void)state;
	create("side.qcow2", 4 << 20, NULL);
	open_rw("side.qcow2", false);
	write_random(0, 4 << 20);
	assert_int_equal(imgloop_close(&loop), 0);
	assert_int_equal(
		scratch_run("printf 'x' | dd of=side.sums bs=1 seek=5000 conv=notrunc status=none"),
		0);
	assert_int_equal(qcow2_verify("side.qcow2", NULL, &ops, &found, &differing, &err),
			 -EBADMSG);
	assert_int_equal(truncate("side.sums", 4500), 0);
	assert_int_equal(qcow2_verify("side.qcow2", NULL, &ops, &found, &differing, &err),
			 -EBADMSG);
	assert_int_equal(unlink("side.sums"), 0);
	assert_int_equal(qcow2_verify("side.qcow2", NULL, &ops, &found, &differing, &err), -ENOENT);
}

/* Images of the same data have the same sums however they came by it; others are told apart by the
 * sidecars alone. */
static void sidecars_are_compared_without_their_images(void **state)
{
	const struct qcow2_convert_opts whole = {.cluster_size = CS, .sums = true};
	struct qcow2_sums_difference d;
	uint64_t data;
	struct err err;

	(void)state;
	create("low-1.qcow2", 4 << 20, NULL);
	open_rw("low-1.qcow2", false);
	write_random(0, 2 << 20);
	assert_int_equal(imgloop_close(&loop), 0);
	create("high-1.qcow2", 4 << 20, "low-1.qcow2");
	open_rw("high-1.qcow2", false);
	write_random(3 << 20, 100);
	assert_int_equal(imgloop_close(&loop), 0);
	assert_int_equal(qcow2_convert("high-1.qcow2", NULL, "whole.qcow2", &whole, &err), 0);
	assert_int_equal(qcow2_sums_compare("high-1.sums", "whole.sums", &d, &err), 0);
	assert_int_equal(d.clusters, 0);
	assert_int_equal(qcow2_sums_compare("low-1.sums", "whole.sums", &d, &err), 0);
	assert_int_equal(d.clusters, 1);
	assert_int_equal(d.first, 3 << 20);
	assert_int_equal(qcow2_sums_data("whole.sums", &data, &err), 0);
	assert_int_equal(data, (2 << 20) + CS);

	create("other.qcow2", 8 << 20, NULL);
	open_rw("other.qcow2", false);
	write_random(0, 100);
	assert_int_equal(imgloop_close(&loop), 0);
	assert_int_equal(qcow2_sums_compare("other.sums", "whole.sums", &d, &err), -EINVAL);
	assert_int_equal(qcow2_sums_compare("none.sums", "whole.sums", &d, &err), -ENOENT);
	assert_int_equal(qcow2_sums_compare("whole.sums", "none.sums", &d, &err), -ENOENT);
	assert_int_equal(qcow2_sums_data("none.sums", &data, &err), -ENOENT);
	assert_int_equal(scratch_run("printf 'x' | dd of=whole.sums bs=1 seek=5000 conv=notrunc "
				     "status=none"),
			 0);
	assert_int_equal(qcow2_sums_compare("high-1.sums", "whole.sums", &d, &err), -EBADMSG);
	assert_int_equal(truncate("whole.sums", 4500), 0);
	assert_int_equal(qcow2_sums_data("whole.sums", &data, &err), -EBADMSG);
}

static void changed_clusters_are_told_apart_without_reading_the_parent(void **state)
{
	struct qcow2_stats stats;
	unsigned char *data = malloc(8 << 20);
	size_t i;

	(void)state;
	for (i = 0; i < 8 << 20; i++)
		data[i] = random() | 1;
	create("p.qcow2", 8 << 20, NULL);
	open_rw("p.qcow2", false);
	assert_int_equal(imgloop_write(&loop, 0, data, 8 << 20), 0);
	assert_int_equal(imgloop_close(&loop), 0);
	create("c.qcow2", 8 << 20, "p.qcow2");
	open_rw("c.qcow2", true);
	data[5 * CS]++;
	assert_int_equal(imgloop_write(&loop, 0, data, 8 << 20), 0);
	assert_int_equal(imgloop_flush(&loop), 0);
	qcow2_get_stats(loop.img, &stats);
	assert_int_equal(stats.stored, CS);
	assert_int_equal(stats.unchanged, (8 << 20) - CS);
	assert_int_equal(imgloop_close(&loop), 0);
	assert_verifies("c.qcow2");
	free(data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_kind_of_write_keeps_the_sums_right),
		cmocka_unit_test(clusters_overwritten_in_part_here_and_there_are_summed_again),
		cmocka_unit_test(closing_takes_next_to_no_memory),
		cmocka_unit_test(the_sidecar_remembers_a_source_of_odd_size),
		cmocka_unit_test(a_chain_verifies_at_every_point),
		cmocka_unit_test(a_parent_without_sidecar_is_read_instead),
		cmocka_unit_test(a_continued_image_gets_right_sums),
		cmocka_unit_test(verify_names_the_ranges_that_differ),
		cmocka_unit_test(damage_in_a_parent_shows_in_every_point_above),
		cmocka_unit_test(a_damaged_sidecar_is_called_damaged),
		cmocka_unit_test(sidecars_are_compared_without_their_images),
		cmocka_unit_test(changed_clusters_are_told_apart_without_reading_the_parent),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
