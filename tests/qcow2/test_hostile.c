/*
 * Images whose bytes lie. Each row damages one field of a sound image; the engine refuses the image
 * with a reason, or answers EIO for exactly what is touched, and never asks for memory the file
 * does not justify: the whole program runs under an address-space limit.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/descriptors.h"
#include "qcow2/format.h"
#include "tests/support/imgloop.h"
#include "tests/support/scratch.h"

#define CS   4096U
#define SIZE (1U << 20)
/* The image of make_image(): header, reftable, refblock, L1 in clusters 0..3, then in order of
 * writing guest cluster 0 at 4, its L2 table at 5, guest cluster n at 5 + n. */
#define L1_AT  (3 * CS)
#define L2_AT  (5 * CS)
#define OFLAG  QCOW2_ENTRY_COPIED
#define FILLED 16U /* guest clusters with data */

static struct imgloop loop;

static int setup(void **state)
{
	struct rlimit limit = {512 << 20, 512 << 20};

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	if (setrlimit(RLIMIT_AS, &limit))
		return -1;
#else
	(void)limit;
#endif
	descriptors_raise(); /* for the deepest chain */
	imgloop_start(&loop, 2);
	return scratch_setup(state);
}

static int teardown(void **state)
{
	imgloop_stop(&loop);
	return scratch_teardown(state);
}

static void make_image(const char *path, const char *backing)
{
	struct qcow2_create_opts create = {.size = SIZE, .cluster_size = CS, .backing = backing};
	struct qcow2_open_opts opts = {.writable = true};
	unsigned char data[CS];
	struct err err;
	unsigned i;

	unlink(path);
	assert_int_equal(qcow2_create(path, &create, &err), 0);
	assert_int_equal(imgloop_open(&loop, path, &opts), 0);
	for (i = 0; i < FILLED; i++) {
		memset(data, 'a' + i, CS);
		assert_int_equal(imgloop_write(&loop, i * CS, data, CS), 0);
		if (i == 0)
			assert_int_equal(imgloop_flush(&loop), 0);
	}
	assert_int_equal(imgloop_close(&loop), 0);
}

static void poke(const char *path, uint64_t at, uint64_t value, unsigned bytes)
{
	unsigned char b[8];
	int fd = open(path, O_WRONLY);

	store_be64(b, value);
	assert_int_equal(pwrite(fd, b + 8 - bytes, bytes, at), bytes);
	close(fd);
}

static int open_image(const char *path, bool writable)
{
	struct qcow2_open_opts opts = {.writable = writable};

	return imgloop_open(&loop, path, &opts);
}

static void damaged_headers_are_refused_with_a_reason(void **state)
{
	static const struct {
		const char *what;
		unsigned at, bytes;
		uint64_t value;
		int want;
	} row[] = {
		{"magic", 0, 4, 0x12345678, QCOW2_E_FORMAT},
		{"version 1", 4, 4, 1, QCOW2_E_UNSUPPORTED},
		{"version 4", 4, 4, 4, QCOW2_E_UNSUPPORTED},
		{"backing name outside the cluster", 8, 8, CS - 1, QCOW2_E_FORMAT},
		{"clusters of 256 bytes", 20, 4, 8, QCOW2_E_FORMAT},
		{"clusters of 4 MiB", 20, 4, 22, QCOW2_E_FORMAT},
		{"clusters of 2^255", 20, 4, 255, QCOW2_E_FORMAT},
		{"a disk of 2^63 bytes", 24, 8, 1ULL << 63, QCOW2_E_UNSUPPORTED},
		{"a disk its L1 cannot map", 24, 8, 1ULL << 40, QCOW2_E_FORMAT},
		{"encryption", 32, 4, 1, QCOW2_E_UNSUPPORTED},
		{"an empty L1", 36, 4, 0, QCOW2_E_FORMAT},
		{"an L1 of 32 GiB", 36, 4, UINT32_MAX, QCOW2_E_FORMAT},
		{"an L1 of 16 MiB in a small file", 36, 4, 2 << 20, QCOW2_E_CORRUPT},
		{"a misaligned L1", 40, 8, L1_AT + 8, QCOW2_E_CORRUPT},
		{"an L1 behind the end", 40, 8, 1ULL << 40, QCOW2_E_CORRUPT},
		{"an L1 that wraps", 40, 8, UINT64_MAX - CS + 1, QCOW2_E_CORRUPT},
		{"a misaligned refcount table", 48, 8, CS + 1, QCOW2_E_CORRUPT},
		{"a refcount table behind the end", 48, 8, 1ULL << 50, QCOW2_E_CORRUPT},
		{"a refcount table of 16 TiB", 56, 4, UINT32_MAX, QCOW2_E_CORRUPT},
		{"unknown incompatible features", 72, 8, 1ULL << 40, QCOW2_E_UNSUPPORTED},
		{"an external data file", 72, 8, 4, QCOW2_E_UNSUPPORTED},
		{"subclusters of 128 bytes", 72, 8, 16, QCOW2_E_FORMAT},
		{"an announced zlib compression type", 72, 8, 8, QCOW2_E_UNSUPPORTED},
		{"an unannounced compression type", 104, 1, 1, QCOW2_E_FORMAT},
		{"refcounts of 128 bits", 96, 4, 7, QCOW2_E_FORMAT},
		{"a header of 8 bytes", 100, 4, 8, QCOW2_E_FORMAT},
		{"a header of 4 GiB", 100, 4, 0xfffffff8, QCOW2_E_FORMAT},
		{"an extension longer than the header", 116, 4, 0xfffffff9, QCOW2_E_FORMAT},
	};
	struct qcow2_check_result result;
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(row); i++) {
		struct err err = ERR_INIT;
		int r;

		make_image("h.qcow2", NULL);
		poke("h.qcow2", row[i].at, row[i].value, row[i].bytes);
		r = open_image("h.qcow2", false);
		if (r != row[i].want)
			fail_msg("%s: %d instead of %d", row[i].what, r, row[i].want);
		assert_int_not_equal(open_image("h.qcow2", true), 0);
		assert_int_not_equal(qcow2_check("h.qcow2", false, &result, &err), 0);
		assert_true(err.text[0]);
	}
}

/* Reads cluster by cluster; bit i of the result: cluster i is an I/O error. Others must be right.
 */
static uint64_t bad_clusters(const char *path)
{
	unsigned char *buf = aligned_alloc(4096, CS);
	uint64_t bad = 0;
	unsigned i, k;

	assert_int_equal(open_image(path, false), 0);
	for (i = 0; i < 32; i++) {
		int r = imgloop_read(&loop, i * CS, buf, CS);

		assert_true(r == 0 || r == -EIO);
		if (r) {
			bad |= 1ULL << i;
			continue;
		}
		for (k = 0; k < CS; k++)
			if (buf[k] != (i < FILLED ? 'a' + i : 0))
				fail_msg("cluster %u byte %u is %02x", i, k, buf[k]);
	}
	assert_int_equal(imgloop_close(&loop), 0);
	free(buf);
	return bad;
}

static void damaged_entries_are_io_errors_for_what_they_map(void **state)
{
	static const struct {
		const char *what;
		uint64_t entry;
	} row[] = {
		{"misaligned", OFLAG | (9 * CS + 512)},
		{"behind the end", OFLAG | 1ULL << 40},
		{"reserved low bits", OFLAG | 9 * CS | 4},
		{"reserved high bits", OFLAG | 9 * CS | 1ULL << 58},
		{"compressed and COPIED", OFLAG | QCOW2_ENTRY_COMPRESSED | 9 * CS},
		{"compressed, behind the end", QCOW2_ENTRY_COMPRESSED | 1ULL << 45},
		{"compressed, of nothing sensible", QCOW2_ENTRY_COMPRESSED | 9 * CS},
		{"all ones", UINT64_MAX},
	};
	struct qcow2_check_result result;
	struct err err;
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(row); i++) {
		make_image("e.qcow2", NULL);
		poke("e.qcow2", L2_AT + 3 * 8, row[i].entry, 8);
		if (bad_clusters("e.qcow2") != 1ULL << 3)
			fail_msg("%s: not only cluster 3", row[i].what);
		/* our check must call it anything but clean */
		assert_int_equal(qcow2_check("e.qcow2", false, &result, &err), 0);
		assert_true(result.corruptions + result.leaks + result.refcount_errors +
				    result.copied_errors >
			    0);
	}
}

static void damaged_l1_entries_are_io_errors_for_their_table(void **state)
{
	static const uint64_t row[] = {OFLAG | (L2_AT + 512), OFLAG | 1ULL << 45, OFLAG | L2_AT | 1,
				       UINT64_MAX};
	struct qcow2_check_result result;
	struct err err;
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(row); i++) {
		make_image("l1.qcow2", NULL);
		poke("l1.qcow2", L1_AT, row[i], 8);
		assert_int_equal(bad_clusters("l1.qcow2"), 0xffffffff);
		assert_int_equal(open_image("l1.qcow2", true), QCOW2_E_CORRUPT);
		assert_int_equal(qcow2_check("l1.qcow2", false, &result, &err), 0);
		assert_true(result.corruptions > 0);
	}
}

/* Writing to it could overwrite what another entry needs. */
static void an_image_that_uses_a_cluster_twice_is_not_written(void **state)
{
	static const uint64_t row[] = {OFLAG | 9 * CS, OFLAG | L2_AT, OFLAG | L1_AT};
	struct qcow2_check_result result;
	struct err err;
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(row); i++) {
		make_image("t.qcow2", NULL);
		poke("t.qcow2", L2_AT + 3 * 8, row[i], 8);
		assert_int_equal(open_image("t.qcow2", true), QCOW2_E_CORRUPT);
		assert_int_equal(qcow2_check("t.qcow2", false, &result, &err), 0);
		assert_true(result.refcount_errors > 0);
	}
}

static void a_truncated_file_is_never_read_as_zeroes(void **state)
{
	uint64_t bad;
	unsigned keep;

	(void)state;
	for (keep = 6; keep < 5 + FILLED; keep++) {
		make_image("cut.qcow2", NULL);
		assert_int_equal(truncate("cut.qcow2", keep * CS), 0);
		bad = bad_clusters("cut.qcow2");
		/* guest cluster n > 0 lies at 5 + n: those at keep and behind are gone */
		assert_int_equal(bad, (0xffffULL << (keep - 5)) & 0xffff);
	}
	for (keep = 0; keep < L1_AT + 8; keep += 777) {
		make_image("cut.qcow2", NULL);
		assert_int_equal(truncate("cut.qcow2", keep), 0);
		assert_int_not_equal(open_image("cut.qcow2", false), 0);
	}
}

static void a_chain_deeper_than_the_limit_is_refused(void **state)
{
	struct qcow2_open_opts opts = {.writable = false};
	struct qcow2_image *img;
	char name[32], backing[32];
	struct err err;
	unsigned i;

	(void)state;
	for (i = 0; i <= QCOW2_CHAIN_MAX; i++) {
		struct qcow2_create_opts create = {.size = 4096, .cluster_size = CS};

		snprintf(name, sizeof(name), "deep-%u", i);
		snprintf(backing, sizeof(backing), "deep-%u", i - 1);
		create.backing = i ? backing : NULL;
		assert_int_equal(qcow2_create(name, &create, &err), 0);
	}
	assert_int_equal(qcow2_open(&img, name, &opts, &err), QCOW2_E_CHAIN);
	assert_int_equal(qcow2_open(&img, backing, &opts, &err), 0);
	qcow2_close(img);
}

static void odd_backing_names_are_refused(void **state)
{
	static const char *const row[] = {"json:{}",	"nbd://x/", "a:b", "/etc/passwd",
					  "../x.qcow2", "missing",  ".",   ""};
	unsigned i;

	(void)state;
	make_image("base.qcow2", NULL);
	for (i = 0; i < ARRAY_SIZE(row); i++) {
		struct qcow2_create_opts create = {
			.size = SIZE, .cluster_size = CS, .backing = row[i][0] ? row[i] : "x\x01y"};
		struct err err;

		unlink("odd.qcow2");
		assert_int_equal(qcow2_create("odd.qcow2", &create, &err), 0);
		assert_int_equal(open_image("odd.qcow2", false), QCOW2_E_CHAIN);
		assert_int_equal(open_image("odd.qcow2", true), QCOW2_E_CHAIN);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(damaged_headers_are_refused_with_a_reason),
		cmocka_unit_test(damaged_entries_are_io_errors_for_what_they_map),
		cmocka_unit_test(damaged_l1_entries_are_io_errors_for_their_table),
		cmocka_unit_test(an_image_that_uses_a_cluster_twice_is_not_written),
		cmocka_unit_test(a_truncated_file_is_never_read_as_zeroes),
		cmocka_unit_test(a_chain_deeper_than_the_limit_is_refused),
		cmocka_unit_test(odd_backing_names_are_refused),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
