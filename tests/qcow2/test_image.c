/*
 * Images written by us, read by us and by QEMU: random workloads against a model, and the cases
 * that have a story. Wider ground, with QEMU writing too, is test_oracle.c's.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "tests/support/imgloop.h"
#include "tests/support/oracle.h"
#include "tests/support/scratch.h"

static struct qcow2_session loop;

static int setup(void **state)
{
	oracle_seed();
	imgloop_start(&loop, 4);
	return scratch_setup(state);
}

static int teardown(void **state)
{
	imgloop_stop(&loop);
	return scratch_teardown(state);
}

static void create(const char *path, uint64_t size, uint32_t cluster_size, const char *backing)
{
	struct qcow2_create_opts opts = {
		.size = size, .cluster_size = cluster_size, .backing = backing};
	struct err err;

	if (qcow2_create(path, &opts, &err))
		fail_msg("%s", err.text);
}

static void open_rw(const char *path, bool suppress)
{
	struct qcow2_open_opts opts = {.writable = true, .suppress_unchanged = suppress};

	assert_int_equal(imgloop_open(&loop, path, &opts), 0);
}

static void open_ro(const char *path)
{
	struct qcow2_open_opts opts = {.writable = false};

	assert_int_equal(imgloop_open(&loop, path, &opts), 0);
}

/* --- workloads ------------------------------------------------------------------------------ */

static void new_image_is_clean_and_zero(void **state)
{
	static const uint32_t cluster_sizes[] = {4096, 8192, 65536, 1 << 20, 2 << 20};
	unsigned char *model = calloc(1, 5 << 20);
	char path[64];
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cluster_sizes); i++) {
		snprintf(path, sizeof(path), "new-%u.qcow2", cluster_sizes[i]);
		create(path, (5 << 20) - 512 * i, cluster_sizes[i], NULL);
		open_rw(path, false);
		oracle_assert_reads_as(&loop, model, (5 << 20) - 512 * i);
		assert_int_equal(imgloop_close(&loop), 0);
		oracle_assert_qemu_agrees(path, model, (5 << 20) - 512 * i);
	}
	free(model);
}

static void random_writes_match_the_model(void **state)
{
	static const struct {
		size_t size;
		uint32_t cluster;
		unsigned steps;
		size_t max;
	} row[] = {
		{512, 4096, 40, 512},
		{3 << 20, 4096, 400, 40000},
		{64 << 20, 65536, 400, 300000},
		{(33 << 20) + 512, 65536, 300, 3 << 20},
		{(21 << 20) + 1536, 1 << 20, 200, 5 << 20},
		{(40 << 20) + 512, 2 << 20, 150, 7 << 20},
	};
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(row); i++) {
		unsigned char *model = calloc(1, row[i].size);
		char path[64];

		snprintf(path, sizeof(path), "random-%u.qcow2", i);
		create(path, row[i].size, row[i].cluster, NULL);
		open_rw(path, false);
		oracle_workload(&loop, model, row[i].size, row[i].steps, row[i].max);
		oracle_assert_reads_as(&loop, model, row[i].size);
		assert_int_equal(imgloop_close(&loop), 0);
		oracle_assert_qemu_agrees(path, model, row[i].size);
		open_ro(path);
		oracle_assert_reads_as(&loop, model, row[i].size);
		assert_int_equal(imgloop_close(&loop), 0);
		free(model);
	}
}

static void chain_of_overlays_matches_the_model_at_every_point(void **state)
{
	enum { LINKS = 12 };
	size_t size = (9 << 20) + 512, max_size = 12 << 20;
	unsigned char *model[LINKS];
	char path[64], backing[64];
	unsigned i;

	(void)state;
	for (i = 0; i < LINKS; i++) {
		size_t new_size = i == 4 ? 5 << 20 : i == 7 ? 12 << 20 : size;

		model[i] = calloc(1, max_size);
		snprintf(path, sizeof(path), "chain-%u.qcow2", i);
		snprintf(backing, sizeof(backing), "chain-%u.qcow2", i - 1);
		if (i)
			memcpy(model[i], model[i - 1], MIN(size, new_size));
		size = new_size;
		create(path, size, i % 3 ? 65536 : 4096, i ? backing : NULL);
		open_rw(path, i % 2);
		oracle_workload(&loop, model[i], size, i ? 25 : 200, 200000);
		oracle_assert_reads_as(&loop, model[i], size);
		assert_int_equal(imgloop_close(&loop), 0);
		oracle_assert_qemu_agrees(path, model[i], size);
	}
	open_ro(path);
	oracle_assert_reads_as(&loop, model[LINKS - 1], size);
	assert_int_equal(imgloop_close(&loop), 0);
	for (i = 0; i < LINKS; i++)
		free(model[i]);
}

static void zero_request_hides_the_parent(void **state)
{
	size_t size = 4 << 20;
	unsigned char *model = malloc(size);

	(void)state;
	oracle_fill(model, size);
	create("parent.qcow2", size, 65536, NULL);
	open_rw("parent.qcow2", false);
	assert_int_equal(imgloop_write(&loop, 0, model, size), 0);
	assert_int_equal(imgloop_close(&loop), 0);

	create("child.qcow2", size, 65536, "parent.qcow2");
	open_rw("child.qcow2", false);
	assert_int_equal(imgloop_zero(&loop, 65536, 3 * 65536), 0);
	memset(model + 65536, 0, 3 * 65536);
	assert_int_equal(imgloop_zero(&loop, 1000000, 70001), 0);
	memset(model + 1000000, 0, 70001);
	/* a small write into a zeroed cluster must not bring the parent back */
	oracle_fill(model + 70000, 100);
	assert_int_equal(imgloop_write(&loop, 70000, model + 70000, 100), 0);
	oracle_assert_reads_as(&loop, model, size);
	assert_int_equal(imgloop_close(&loop), 0);
	oracle_assert_qemu_agrees("child.qcow2", model, size);
	free(model);
}

static void unchanged_data_is_not_stored_again(void **state)
{
	size_t size = 16 << 20;
	unsigned char *model = malloc(size);
	struct qcow2_stats stats;

	(void)state;
	oracle_fill(model, size);
	memset(model + (4 << 20), 0, 1 << 20);
	create("same-0.qcow2", size, 65536, NULL);
	open_rw("same-0.qcow2", false);
	assert_int_equal(imgloop_write(&loop, 0, model, size), 0);
	assert_int_equal(imgloop_close(&loop), 0);

	create("same-1.qcow2", size, 65536, "same-0.qcow2");
	open_rw("same-1.qcow2", true);
	model[123456]++;
	assert_int_equal(imgloop_write(&loop, 0, model, size), 0);
	assert_int_equal(imgloop_flush(&loop), 0);
	qcow2_get_stats(loop.img, &stats);
	assert_int_equal(stats.received, size);
	assert_int_equal(stats.stored, 65536);
	assert_int_equal(stats.zero, 1 << 20);
	assert_int_equal(stats.unchanged, size - 65536 - (1 << 20));
	assert_int_equal(imgloop_close(&loop), 0);
	oracle_assert_qemu_agrees("same-1.qcow2", model, size);
	free(model);
}

/* Bytes that compress somewhat, so that clusters of every packed length appear. */
static void fill_text(unsigned char *p, size_t len)
{
	size_t i;

	for (i = 0; i < len; i++)
		p[i] = oracle_below(4) ? 'a' + oracle_below(1 + i / 65536 % 24)
				       : 1 + oracle_below(200);
}

static void compressed_images_match_the_model(void **state)
{
	static const uint32_t cluster_sizes[] = {4096, 65536, 2 << 20};
	size_t size = (24 << 20) + 512;
	unsigned char *model = malloc(size);
	struct qcow2_stats stats;
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cluster_sizes); i++) {
		struct qcow2_create_opts create_opts = {
			.size = size, .cluster_size = cluster_sizes[i], .zstd = true};
		struct qcow2_open_opts opts = {.writable = true, .zstd_level = 1, .sums = true};
		char path[32];
		struct err err;

		snprintf(path, sizeof(path), "zstd-%u.qcow2", i);
		assert_int_equal(qcow2_create(path, &create_opts, &err), 0);
		assert_int_equal(imgloop_open(&loop, path, &opts), 0);
		fill_text(model, size);
		oracle_fill(model + (3 << 20), 1 << 20);
		assert_int_equal(imgloop_write(&loop, 0, model, size), 0);
		assert_int_equal(imgloop_flush(&loop), 0);
		qcow2_get_stats(loop.img, &stats);
		assert_true(stats.stored < size);
		oracle_assert_reads_as(&loop, model, size);
		/* over compressed clusters: whole, in part, as zeroes */
		oracle_workload(&loop, model, size, 40, 100000);
		oracle_assert_reads_as(&loop, model, size);
		assert_int_equal(imgloop_close(&loop), 0);
		oracle_assert_qemu_agrees(path, model, size);
		/* goes on where it was left: packed clusters are counted again */
		assert_int_equal(imgloop_open(&loop, path, &opts), 0);
		oracle_workload(&loop, model, size, 20, 100000);
		assert_int_equal(imgloop_close(&loop), 0);
		oracle_assert_qemu_agrees(path, model, size);
	}
	free(model);
}

/* A cluster that began as zeroes gets its place in the buffer later than those behind it. */
static void compressed_clusters_keep_apart_whatever_order_they_came_in(void **state)
{
	struct qcow2_create_opts create_opts = {.size = 1 << 20, .zstd = true};
	struct qcow2_open_opts opts = {.writable = true, .zstd_level = 1};
	unsigned char *model = calloc(1, 1 << 20);
	struct err err;

	(void)state;
	assert_int_equal(qcow2_create("zorder.qcow2", &create_opts, &err), 0);
	assert_int_equal(imgloop_open(&loop, "zorder.qcow2", &opts), 0);
	assert_int_equal(imgloop_write(&loop, 0, model, 65536), 0);
	fill_text(model, 2 * 65536);
	assert_int_equal(imgloop_write(&loop, 65536, model + 65536, 65536), 0);
	assert_int_equal(imgloop_write(&loop, 0, model, 65536), 0);
	assert_int_equal(imgloop_close(&loop), 0);
	oracle_assert_qemu_agrees("zorder.qcow2", model, 1 << 20);
	free(model);
}

static void compressed_parent_can_be_compared_with(void **state)
{
	size_t size = 24 << 20;
	unsigned char *model = malloc(size);
	struct qcow2_create_opts create_opts = {.size = size, .zstd = true};
	struct qcow2_open_opts opts = {.writable = true, .zstd_level = 1};
	struct qcow2_stats stats;
	struct err err;

	(void)state;
	fill_text(model, size);
	assert_int_equal(qcow2_create("zp.qcow2", &create_opts, &err), 0);
	assert_int_equal(imgloop_open(&loop, "zp.qcow2", &opts), 0);
	assert_int_equal(imgloop_write(&loop, 0, model, size), 0);
	assert_int_equal(imgloop_close(&loop), 0);
	create_opts.backing = "zp.qcow2";
	opts.suppress_unchanged = true;
	assert_int_equal(qcow2_create("zc.qcow2", &create_opts, &err), 0);
	assert_int_equal(imgloop_open(&loop, "zc.qcow2", &opts), 0);
	model[9 << 20]++;
	assert_int_equal(imgloop_write(&loop, 0, model, size), 0);
	assert_int_equal(imgloop_flush(&loop), 0);
	qcow2_get_stats(loop.img, &stats);
	assert_int_equal(stats.unchanged, size - 65536);
	assert_int_equal(imgloop_close(&loop), 0);
	oracle_assert_qemu_agrees("zc.qcow2", model, size);
	free(model);
}

static void interrupted_image_keeps_what_was_flushed_and_can_be_continued(void **state)
{
	size_t size = 8 << 20;
	unsigned char *model = calloc(1, size);
	struct qcow2_check_result result;
	struct err err;

	(void)state;
	oracle_fill(model, 3 << 20);
	create("cut.qcow2", size, 65536, NULL);
	open_rw("cut.qcow2", false);
	assert_int_equal(imgloop_write(&loop, 0, model, 3 << 20), 0);
	assert_int_equal(imgloop_flush(&loop), 0);
	imgloop_drop(&loop);

	assert_int_equal(qcow2_check("cut.qcow2", false, &result, &err), 0);
	assert_true(result.dirty);
	assert_int_equal(result.corruptions, 0);
	open_rw("cut.qcow2", false);
	oracle_assert_reads_as(&loop, model, size);
	oracle_fill(model + (5 << 20), 1 << 20);
	assert_int_equal(imgloop_write(&loop, 5 << 20, model + (5 << 20), 1 << 20), 0);
	assert_int_equal(imgloop_close(&loop), 0);
	oracle_assert_qemu_agrees("cut.qcow2", model, size);
	free(model);
}

static void repair_makes_an_interrupted_image_clean(void **state)
{
	size_t size = 8 << 20;
	unsigned char *model = calloc(1, size);
	struct qcow2_check_result result;
	struct err err;

	(void)state;
	oracle_fill(model, size);
	create("repair.qcow2", size, 4096, NULL);
	open_rw("repair.qcow2", false);
	assert_int_equal(imgloop_write(&loop, 0, model, size), 0);
	assert_int_equal(imgloop_flush(&loop), 0);
	imgloop_drop(&loop);
	assert_int_equal(qcow2_check("repair.qcow2", true, &result, &err), 0);
	assert_true(result.refcount_errors > 0);
	assert_int_equal(result.fixed,
			 result.refcount_errors + result.copied_errors + result.leaks);
	oracle_assert_qemu_agrees("repair.qcow2", model, size);
	free(model);
}

static void repair_sets_lost_copied_flags(void **state)
{
	size_t size = 1 << 20;
	unsigned char *model = malloc(size);
	struct qcow2_check_result result;
	struct err err;

	(void)state;
	oracle_fill(model, size);
	create("copied.qcow2", size, 65536, NULL);
	open_rw("copied.qcow2", false);
	assert_int_equal(imgloop_write(&loop, 0, model, size), 0);
	assert_int_equal(imgloop_close(&loop), 0);
	/* L1 lies in cluster 3; its first entry starts with the byte that holds COPIED */
	assert_int_equal(
		scratch_run(
			"printf '\\000' | dd of=copied.qcow2 bs=1 seek=%d conv=notrunc status=none",
			3 * 65536),
		0);
	assert_int_equal(qcow2_check("copied.qcow2", false, &result, &err), 0);
	assert_int_equal(result.copied_errors, 1);
	assert_int_equal(qcow2_check("copied.qcow2", true, &result, &err), 0);
	assert_int_equal(result.fixed, 1);
	oracle_assert_qemu_agrees("copied.qcow2", model, size);
	free(model);
}

static void second_writer_is_refused(void **state)
{
	struct qcow2_open_opts opts = {.writable = true};
	struct qcow2_image *img;
	struct err err;

	(void)state;
	create("locked.qcow2", 1 << 20, 0, NULL);
	open_rw("locked.qcow2", false);
	assert_int_equal(qcow2_open(&img, "locked.qcow2", &opts, &err), -EWOULDBLOCK);
	assert_int_equal(imgloop_close(&loop), 0);
}

static void chain_may_not_leave_the_repository(void **state)
{
	struct qcow2_open_opts opts = {.writable = false};
	struct qcow2_image *img;
	struct err err;

	(void)state;
	assert_int_equal(
		scratch_run("mkdir -p in && qemu-img create -q -f qcow2 out.qcow2 1M && "
			    "qemu-img create -q -f qcow2 -b ../out.qcow2 -F qcow2 in/a.qcow2 && "
			    "qemu-img create -q -f qcow2 -b $PWD/out.qcow2 -F qcow2 in/b.qcow2 && "
			    "qemu-img create -q -f qcow2 -u -b nbd:localhost:1 -F qcow2 in/c.qcow2 "
			    "1M && "
			    "qemu-img create -q -f qcow2 -u -b e.qcow2 -F qcow2 in/d.qcow2 1M && "
			    "qemu-img create -q -f qcow2 -u -b d.qcow2 -F qcow2 in/e.qcow2 1M && "
			    "mkfifo in/fifo && "
			    "qemu-img create -q -f qcow2 -u -b fifo -F qcow2 in/f.qcow2 1M"),
		0);
	for (const char *p = "abcdf"; *p; p++) {
		char path[16];

		snprintf(path, sizeof(path), "in/%c.qcow2", *p);
		assert_int_equal(qcow2_open(&img, path, &opts, &err), QCOW2_E_CHAIN);
		print_message("%s\n", err.text);
	}
	opts.repository = ".";
	assert_int_equal(qcow2_open(&img, "in/a.qcow2", &opts, &err), 0);
	qcow2_close(img);
}

static void images_made_by_qemu_read_the_same(void **state)
{
	static const char *const options[] = {
		"",
		"compat=0.10",
		"cluster_size=512",
		"cluster_size=2M",
		"extended_l2=on",
		"lazy_refcounts=on",
		"preallocation=metadata",
		"refcount_bits=1",
		"compression_type=zlib",
		"compression_type=zstd",
	};
	size_t size = (6 << 20) + 1024;
	unsigned char *model = calloc(1, size);
	char path[16];
	unsigned i;
	FILE *f;

	(void)state;
	oracle_fill(model, 1 << 20);
	memset(model + (2 << 20), 'x', 300000);
	oracle_fill(model + (4 << 20) + 777, 1234);
	f = fopen("src.raw", "wb");
	assert_int_equal(fwrite(model, 1, size, f), size);
	fclose(f);
	for (i = 0; i < ARRAY_SIZE(options); i++) {
		bool packed = strstr(options[i], "compression");

		assert_int_equal(
			scratch_run("qemu-img convert %s -f raw -O qcow2 %s%s src.raw q%u.qcow2",
				    packed ? "-c" : "", options[i][0] ? "-o " : "", options[i], i),
			0);
		snprintf(path, sizeof(path), "q%u.qcow2", i);
		open_ro(path);
		oracle_assert_reads_as(&loop, model, size);
		assert_int_equal(imgloop_close(&loop), 0);
	}
	free(model);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(new_image_is_clean_and_zero),
		cmocka_unit_test(random_writes_match_the_model),
		cmocka_unit_test(chain_of_overlays_matches_the_model_at_every_point),
		cmocka_unit_test(zero_request_hides_the_parent),
		cmocka_unit_test(unchanged_data_is_not_stored_again),
		cmocka_unit_test(compressed_images_match_the_model),
		cmocka_unit_test(compressed_clusters_keep_apart_whatever_order_they_came_in),
		cmocka_unit_test(compressed_parent_can_be_compared_with),
		cmocka_unit_test(interrupted_image_keeps_what_was_flushed_and_can_be_continued),
		cmocka_unit_test(repair_makes_an_interrupted_image_clean),
		cmocka_unit_test(repair_sets_lost_copied_flags),
		cmocka_unit_test(second_writer_is_refused),
		cmocka_unit_test(chain_may_not_leave_the_repository),
		cmocka_unit_test(images_made_by_qemu_read_the_same),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
