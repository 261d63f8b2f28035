/*
 * Reading costs the same at depth 1 and at depth 100: the map of a chain is merged once. And a
 * chain as deep as allowed opens, one deeper does not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "qcow2/scan.h"
#include "tests/support/imgloop.h"
#include "base/descriptors.h"
#include "tests/support/oracle.h"
#include "tests/support/scratch.h"

#define CLUSTER 65536U
#define DISK	(192U << 20)
#define DEPTH	100U
#define TRIES	10

static struct qcow2_session loop;
static unsigned char *model;

static int setup(void **state)
{
	descriptors_raise(); /* the deepest chain is more files than some shells allow */
	oracle_seed();
	imgloop_start(&loop, 4);
	model = malloc(DISK);
	return scratch_setup(state);
}

static int teardown(void **state)
{
	free(model);
	imgloop_stop(&loop);
	return scratch_teardown(state);
}

static void link_name(char *out, size_t size, const char *chain, unsigned i)
{
	snprintf(out, size, "%s-%u.qcow2", chain, i);
}

static void create_link(const char *chain, unsigned i, uint64_t size, uint32_t cluster)
{
	char path[32], backing[32];
	struct qcow2_create_opts opts = {.size = size, .cluster_size = cluster};
	struct err err;

	link_name(path, sizeof(path), chain, i);
	link_name(backing, sizeof(backing), chain, i - 1);
	if (i)
		opts.backing = backing;
	if (qcow2_create(path, &opts, &err))
		fail_msg("%s", err.text);
}

static void open_link(const char *chain, unsigned i)
{
	struct qcow2_open_opts opts = {.writable = true};
	char path[32];

	link_name(path, sizeof(path), chain, i);
	assert_int_equal(imgloop_open(&loop, path, &opts), 0);
}

/* A full disk, and overlays that change half of it between them, cluster by cluster, at random. */
static void build_chain(const char *chain, unsigned depth)
{
	unsigned i, k, each = depth > 1 ? DISK / CLUSTER / 2 / (depth - 1) : 0;

	oracle_fill(model, DISK);
	for (i = 0; i < depth; i++) {
		create_link(chain, i, DISK, CLUSTER);
		open_link(chain, i);
		if (!i)
			assert_int_equal(imgloop_write(&loop, 0, model, DISK), 0);
		for (k = 0; i && k < each; k++) {
			uint64_t off = oracle_below(DISK / CLUSTER) * CLUSTER;

			oracle_fill(model + off, 4096);
			assert_int_equal(imgloop_write(&loop, off, model + off, CLUSTER), 0);
		}
		assert_int_equal(imgloop_close(&loop), 0);
	}
}

static int check_piece(void *arg, uint64_t off, const void *data, uint64_t len, int res)
{
	(void)arg;
	assert_int_equal(res, 0);
	assert_non_null(data);
	assert_memory_equal(data, model + off, len);
	return 0;
}

static int take_piece(void *arg, uint64_t off, const void *data, uint64_t len, int res)
{
	(void)arg;
	(void)off;
	(void)data;
	(void)len;
	return res;
}

static void scan(const char *chain, unsigned depth, const struct qcow2_scan_ops *ops)
{
	struct err err = ERR_INIT;
	char path[32];

	link_name(path, sizeof(path), chain, depth - 1);
	if (qcow2_scan(path, NULL, 0, DISK, ops, NULL, &err))
		fail_msg("%s", err.text);
}

/* What a whole read takes, in seconds. */
static double time_reading(const char *chain, unsigned depth)
{
	static const struct qcow2_scan_ops take = {.piece = take_piece};
	struct timespec from, to;

	clock_gettime(CLOCK_MONOTONIC, &from);
	scan(chain, depth, &take);
	clock_gettime(CLOCK_MONOTONIC, &to);
	return (to.tv_sec - from.tv_sec) + (to.tv_nsec - from.tv_nsec) / 1e9;
}

/* Half of the deep chain's clusters lie scattered, which costs a little whatever the depth; the
 * bound leaves room for that and for a busy machine, not for a look into every layer. In turns,
 * so that what else the machine does weighs on both, and the best of each. */
static void reading_costs_the_same_at_depth_1_and_100(void **state)
{
	static const struct qcow2_scan_ops check = {.piece = check_piece};
	double shallow = 1e9, deep = 1e9;
	unsigned i;

	(void)state;
	build_chain("flat", 1);
	scan("flat", 1, &check);
	build_chain("deep", DEPTH);
	scan("deep", DEPTH, &check);
	for (i = 0; i < TRIES; i++) {
		shallow = MIN(shallow, time_reading("flat", 1));
		deep = MIN(deep, time_reading("deep", DEPTH));
	}
	print_message("# depth 1: %.3f s, depth %u: %.3f s\n", shallow, DEPTH, deep);
	assert_true(deep < shallow * 3);
}

static void chain_as_deep_as_allowed_opens_and_one_deeper_does_not(void **state)
{
	struct qcow2_open_opts opts = {.writable = false};
	unsigned char byte = 7, got = 0;
	struct qcow2_image *img;
	char path[32];
	struct err err;
	unsigned i;

	(void)state;
	for (i = 0; i <= QCOW2_CHAIN_MAX; i++) {
		create_link("far", i, 4096, 4096);
		if (i)
			continue;
		open_link("far", 0);
		assert_int_equal(imgloop_write(&loop, 0, &byte, 1), 0);
		assert_int_equal(imgloop_close(&loop), 0);
	}
	link_name(path, sizeof(path), "far", QCOW2_CHAIN_MAX - 1);
	assert_int_equal(imgloop_open(&loop, path, &opts), 0);
	assert_int_equal(imgloop_read(&loop, 0, &got, 1), 0);
	assert_int_equal(got, byte);
	assert_int_equal(imgloop_close(&loop), 0);
	link_name(path, sizeof(path), "far", QCOW2_CHAIN_MAX);
	assert_int_equal(qcow2_open(&img, path, &opts, &err), QCOW2_E_CHAIN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reading_costs_the_same_at_depth_1_and_100),
		cmocka_unit_test(chain_as_deep_as_allowed_opens_and_one_deeper_does_not),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
