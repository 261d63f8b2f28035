/*
 * From the smallest disk to the largest, with every cluster size that can map it; and random writes
 * all over 16 TiB in bounded memory. The files are sparse: little is stored.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "tests/support/imgloop.h"
#include "tests/support/oracle.h"
#include "tests/support/scratch.h"

static int setup(void **state)
{
	oracle_seed();
	return scratch_setup(state);
}

static void create(const char *path, uint64_t size, uint32_t cluster)
{
	struct qcow2_create_opts opts = {.size = size, .cluster_size = cluster};
	struct err err;

	unlink(path);
	if (qcow2_create(path, &opts, &err))
		fail_msg("%s", err.text);
}

/* A sector's content tells where it belongs. */
static void stamp(unsigned char *sector, uint64_t off)
{
	unsigned i;

	for (i = 0; i < 512; i += 8)
		store_be64(sector + i, off + i + 1);
}

static void write_stamp(struct qcow2_session *loop, uint64_t off)
{
	unsigned char sector[512];

	stamp(sector, off);
	assert_int_equal(imgloop_write(loop, off, sector, 512), 0);
}

static void assert_stamp(struct qcow2_session *loop, uint64_t off)
{
	_Alignas(4096) unsigned char got[512];
	unsigned char want[512];

	stamp(want, off);
	assert_int_equal(imgloop_read(loop, off, got, 512), 0);
	assert_memory_equal(got, want, 512);
}

static void assert_zeroes(struct qcow2_session *loop, uint64_t off)
{
	_Alignas(4096) unsigned char got[512], want[512] = {0};

	assert_int_equal(imgloop_read(loop, off, got, 512), 0);
	assert_memory_equal(got, want, 512);
}

/* First, middle and last sector, written and read back, by us and by QEMU. */
static void prove_size(uint64_t size, uint32_t cluster)
{
	const uint64_t at[] = {0, align_down(size / 2, 512), size - 512};
	struct qcow2_open_opts rw = {.writable = true}, ro = {.writable = false};
	struct qcow2_session loop;
	unsigned i;

	imgloop_start(&loop, QCOW2_BATCHES_MIN);
	create("disk.qcow2", size, cluster);
	assert_int_equal(imgloop_open(&loop, "disk.qcow2", &rw), 0);
	for (i = 0; i < ARRAY_SIZE(at); i++)
		write_stamp(&loop, at[i]);
	assert_int_equal(imgloop_zero(&loop, size - 512, 512), 0);
	write_stamp(&loop, size - 512);
	assert_int_equal(imgloop_close(&loop), 0);
	assert_int_equal(imgloop_open(&loop, "disk.qcow2", &ro), 0);
	for (i = 0; i < ARRAY_SIZE(at); i++)
		assert_stamp(&loop, at[i]);
	if (size > 4096)
		assert_zeroes(&loop, align_down(size / 4, 512));
	assert_int_equal(imgloop_close(&loop), 0);
	imgloop_stop(&loop);
	oracle_assert_clean("disk.qcow2");
	assert_int_equal(scratch_run("test $(qemu-img info --output=json disk.qcow2 | jq "
				     "'.\"virtual-size\"') = %llu",
				     (unsigned long long)size),
			 0);
	for (i = 0; i < ARRAY_SIZE(at); i++) /* the sixteenth byte, by QEMU */
		assert_int_equal(
			scratch_run("qemu-io -r -f qcow2 -c 'read -v %llu 512' disk.qcow2 | "
				    "head -1 | grep -q '%02x  '",
				    (unsigned long long)at[i], (unsigned)((at[i] + 8 + 1) & 0xff)),
			0);
}

static void every_size_and_cluster_size_is_written_at_start_middle_and_end(void **state)
{
	static const struct {
		uint64_t size;
		uint32_t cluster; /* 0: chosen */
	} row[] = {
		{512, 4096},	     {512, 2 << 20},	     {512, 0},
		{4096, 4096},	     {4096 + 512, 4096},     {65536 - 512, 65536},
		{1 << 20, 8192},     {(1 << 20) + 512, 0},   {(2ULL << 30) + 1536, 4096},
		{64ULL << 30, 4096}, {100ULL << 30, 16384},  {1 * TIB, 0},
		{2 * TIB, 4096},     {2 * TIB + 512, 65536}, {16 * TIB, 0},
		{16 * TIB, 32768},   {64 * TIB - 512, 0},    {64 * TIB, 0},
		{64 * TIB, 65536},   {64 * TIB, 2 << 20},
	};
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(row); i++) {
		print_message("# %llu bytes, clusters of %u\n", (unsigned long long)row[i].size,
			      row[i].cluster);
		prove_size(row[i].size, row[i].cluster);
	}
}

static void sizes_outside_the_format_are_refused(void **state)
{
	static const struct qcow2_create_opts refused[] = {
		{.size = 0},
		{.size = 64 * TIB + 1},
		{.size = UINT64_MAX},
		{.size = 64 * TIB, .cluster_size = 4096}, /* its L1 would be too large */
		{.size = 1 << 20, .cluster_size = 2048},
		{.size = 1 << 20, .cluster_size = 4 << 20},
		{.size = 1 << 20, .cluster_size = 65535},
	};
	struct err err;
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(refused); i++) {
		assert_int_equal(qcow2_create("refused.qcow2", &refused[i], &err), -EINVAL);
		assert_int_not_equal(access("refused.qcow2", F_OK), 0);
	}
}

static void odd_sizes_are_rounded_up_to_sectors(void **state)
{
	struct qcow2_open_opts opts = {.writable = true};
	struct qcow2_info info;
	struct qcow2_session loop;

	(void)state;
	imgloop_start(&loop, QCOW2_BATCHES_MIN);
	create("odd.qcow2", 1000001, 0);
	assert_int_equal(imgloop_open(&loop, "odd.qcow2", &opts), 0);
	qcow2_get_info(loop.img, &info);
	assert_int_equal(info.size, 1000448);
	assert_int_equal(imgloop_close(&loop), 0);
	imgloop_stop(&loop);
	oracle_assert_clean("odd.qcow2");
}

/* --- memory --------------------------------------------------------------------------------- */

/* In a process of its own, whose peak is then its parent's to read. */
static void write_all_over(uint32_t cluster, unsigned writes)
{
	uint64_t *at = malloc(writes * sizeof(*at)), size = 16 * TIB;
	struct qcow2_open_opts rw = {.writable = true, .sums = true}, ro = {.writable = false};
	struct qcow2_session loop;
	unsigned i;

	imgloop_start(&loop, 4);
	create("wide.qcow2", size, cluster);
	assert_int_equal(imgloop_open(&loop, "wide.qcow2", &rw), 0);
	for (i = 0; i < writes; i++) {
		at[i] = align_down(oracle_below(size), 512);
		if (i % 3 == 2)
			assert_int_equal(imgloop_zero(&loop, at[i], 512), 0);
		write_stamp(&loop, at[i]);
	}
	for (i = 0; i < writes; i += 5)
		assert_stamp(&loop, at[i]);
	assert_int_equal(imgloop_flush(&loop), 0);
	imgloop_drop(&loop);
	/* and once more from the interrupted image, whose tables are walked */
	rw.sums = false;
	assert_int_equal(imgloop_open(&loop, "wide.qcow2", &rw), 0);
	assert_int_equal(imgloop_close(&loop), 0);
	assert_int_equal(imgloop_open(&loop, "wide.qcow2", &ro), 0);
	for (i = 0; i < writes; i += 5)
		assert_stamp(&loop, at[i]);
	assert_int_equal(imgloop_close(&loop), 0);
	imgloop_stop(&loop);
	free(at);
}

static void random_writes_all_over_16_tib_take_bounded_memory(void **state)
{
	static const struct {
		uint32_t cluster;
		unsigned writes;
	} row[] = {{65536, 6000}, {0, 2500}};
	struct stat st;
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(row); i++) {
		struct rusage usage;
		int status;
		pid_t pid = fork();

		if (!pid) {
			write_all_over(row[i].cluster, row[i].writes);
			_exit(0);
		}
		assert_int_equal(wait4(pid, &status, 0, &usage), pid);
		assert_int_equal(status, 0);
		assert_int_equal(stat("wide.qcow2", &st), 0);
		print_message("# clusters of %u: peak %ld MiB, file %lld MiB\n", row[i].cluster,
			      usage.ru_maxrss / 1024, (long long)st.st_blocks / 2048);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
		assert_true(usage.ru_maxrss <= 256 * 1024);
#endif
		oracle_assert_clean("wide.qcow2");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_size_and_cluster_size_is_written_at_start_middle_and_end),
		cmocka_unit_test(sizes_outside_the_format_are_refused),
		cmocka_unit_test(odd_sizes_are_rounded_up_to_sectors),
		cmocka_unit_test(random_writes_all_over_16_tib_take_bounded_memory),
	};

	return cmocka_run_group_tests(tests, setup, scratch_teardown);
}
