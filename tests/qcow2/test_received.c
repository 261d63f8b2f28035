/* What an image says has arrived whole: while it is open, after a crash, after a clean close. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "tests/support/imgloop.h"
#include "tests/support/oracle.h"
#include "tests/support/scratch.h"

#define CS	 65536ULL
#define CLUSTERS 100U
#define SIZE	 (CLUSTERS * CS - 5 * 512) /* the last one is cut short */

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

static void create(const char *path, const char *backing, bool zstd)
{
	struct qcow2_create_opts opts = {.size = SIZE, .backing = backing, .zstd = zstd};
	struct err err;

	unlink(path);
	if (qcow2_create(path, &opts, &err))
		fail_msg("%s", err.text);
}

static void open_rw(const char *path, int zstd_level)
{
	struct qcow2_open_opts opts = {
		.writable = true, .suppress_unchanged = true, .zstd_level = zstd_level};

	assert_int_equal(imgloop_open(&loop, path, &opts), 0);
}

/* As an agent would read it: clusters [from, to) and no other have arrived. */
static void expect(uint64_t from, uint64_t to)
{
	struct qcow2_extent e[CLUSTERS];
	uint64_t at = 0;
	unsigned n, i;

	assert_int_equal(imgloop_received(&loop, 0, SIZE, e, CLUSTERS, &n), 0);
	for (i = 0; i < n; i++) {
		bool in = at >= from * CS && at < to * CS;
		uint64_t end = in ? MIN(to * CS, SIZE) : at < from * CS ? from * CS : SIZE;

		if (from == to)
			end = SIZE;
		if (e[i].flags != (in ? QCOW2_EXTENT_RECEIVED : 0) || at + e[i].len != end)
			fail_msg("extent %u: %llu bytes at %llu, flags %u", i,
				 (unsigned long long)e[i].len, (unsigned long long)at, e[i].flags);
		at += e[i].len;
	}
	assert_true(at == SIZE);
}

static void write_at(uint64_t off, uint64_t len)
{
	unsigned char *data = malloc(len);

	oracle_fill(data, len);
	assert_int_equal(imgloop_write(&loop, off, data, len), 0);
	free(data);
}

/* As killed; flushed before or not is up to the caller. */
static void crash_and_reopen(const char *path)
{
	imgloop_drop(&loop);
	open_rw(path, 0);
}

/* --- while it is open ------------------------------------------------------------------------- */

static void a_cluster_counts_when_its_last_byte_has_arrived(void **state)
{
	(void)state;
	create("a.qcow2", NULL, false);
	open_rw("a.qcow2", 0);
	expect(0, 0);
	write_at(10 * CS, 3 * CS);
	expect(10, 13);
	write_at(13 * CS, CS - 1);
	expect(10, 13);
	write_at(9 * CS + 1, CS - 1);
	expect(10, 13);
	assert_int_equal(imgloop_close(&loop), 0);
}

static void pieces_add_up_whatever_was_stored_in_between(void **state)
{
	unsigned i;

	(void)state;
	create("a.qcow2", NULL, false);
	open_rw("a.qcow2", 0);
	for (i = 64; i-- > 0;)
		write_at(20 * CS + i * 1024, 1024);
	expect(20, 21);
	/* The list of the first half is made durable, and with it the half. */
	write_at(21 * CS, CS / 2);
	expect(20, 21);
	write_at(21 * CS + CS / 2, CS / 2);
	expect(20, 22);
	for (i = 0; i < 16; i++) { /* each stored apart, in any order */
		write_at(22 * CS + i * 7 % 16 * 4096, 4096);
		assert_int_equal(imgloop_flush(&loop), 0);
	}
	write_at(23 * CS + 4096, CS - 4096);
	expect(20, 23);
	assert_int_equal(imgloop_zero(&loop, 23 * CS, 4096), 0);
	expect(20, 24);
	crash_and_reopen("a.qcow2");
	expect(20, 24);
	write_at(24 * CS, CS / 2);
	crash_and_reopen("a.qcow2"); /* the half was not flushed */
	write_at(24 * CS + CS / 2, CS / 2);
	expect(20, 24);
	assert_int_equal(imgloop_close(&loop), 0);
	oracle_assert_clean("a.qcow2");
}

static void zeroes_and_the_short_last_cluster_count(void **state)
{
	(void)state;
	create("a.qcow2", NULL, false);
	open_rw("a.qcow2", 0);
	assert_int_equal(imgloop_zero(&loop, 97 * CS + 512, SIZE - 97 * CS - 512), 0);
	expect(98, CLUSTERS);
	write_at(97 * CS, CS);
	expect(97, CLUSTERS);
	assert_int_equal(imgloop_zero(&loop, 0, SIZE), 0);
	expect(0, CLUSTERS);
	assert_int_equal(imgloop_close(&loop), 0);
	create("b.qcow2", NULL, false);
	open_rw("b.qcow2", 0);
	write_at(99 * CS, SIZE - 99 * CS);
	expect(99, CLUSTERS);
	assert_int_equal(imgloop_close(&loop), 0);
}

static void the_list_is_cut_to_what_was_asked_for(void **state)
{
	struct qcow2_extent e[4];
	unsigned n;

	(void)state;
	create("a.qcow2", NULL, false);
	open_rw("a.qcow2", 0);
	write_at(10 * CS, 2 * CS);
	assert_int_equal(imgloop_received(&loop, 9 * CS + 100, 2 * CS, e, 4, &n), 0);
	assert_int_equal(n, 2);
	assert_true(e[0].len == CS - 100 && e[0].flags == 0);
	assert_true(e[1].len == CS + 100 && e[1].flags == QCOW2_EXTENT_RECEIVED);
	assert_int_equal(imgloop_received(&loop, 10 * CS + 5, 7, e, 4, &n), 0);
	assert_int_equal(n, 1);
	assert_true(e[0].len == 7 && e[0].flags == QCOW2_EXTENT_RECEIVED);
	assert_int_equal(imgloop_received(&loop, 0, SIZE, e, 2, &n), 0);
	assert_int_equal(n, 2);
	assert_true(e[0].len == 10 * CS && e[1].len == 2 * CS);
	assert_int_equal(imgloop_close(&loop), 0);
}

/* --- after a crash ---------------------------------------------------------------------------- */

static void what_a_flush_covered_is_known_after_a_crash(void **state)
{
	(void)state;
	create("a.qcow2", NULL, false);
	open_rw("a.qcow2", 0);
	write_at(10 * CS, 5 * CS);
	assert_int_equal(imgloop_flush(&loop), 0);
	write_at(30 * CS, 5 * CS); /* stays in memory */
	crash_and_reopen("a.qcow2");
	expect(10, 15);
	crash_and_reopen("a.qcow2");
	expect(10, 15);
	write_at(15 * CS, CS);
	expect(10, 16);
	assert_int_equal(imgloop_close(&loop), 0);
	oracle_assert_clean("a.qcow2");
}

/* It lies in the file as a cluster like any other; half of it is not the client's. */
static void a_cluster_of_which_a_part_arrived_is_not_known_after_a_crash(void **state)
{
	unsigned char back[512];

	(void)state;
	create("a.qcow2", NULL, false);
	open_rw("a.qcow2", 0);
	write_at(10 * CS, 2 * CS + 4096);
	write_at(40 * CS + 512, 512);
	assert_int_equal(imgloop_zero(&loop, 50 * CS + 1, 100), 0);
	assert_int_equal(imgloop_flush(&loop), 0);
	crash_and_reopen("a.qcow2");
	expect(10, 12);
	assert_int_equal(imgloop_read(&loop, 40 * CS + 512, back, sizeof(back)), 0);
	assert_true(back[0] && back[511]);
	write_at(12 * CS + 4096, CS - 4096); /* the rest, which nobody can know */
	assert_int_equal(imgloop_flush(&loop), 0);
	expect(10, 12);
	write_at(12 * CS, CS);
	assert_int_equal(imgloop_flush(&loop), 0);
	crash_and_reopen("a.qcow2");
	expect(10, 13);
	assert_int_equal(imgloop_close(&loop), 0);
	oracle_assert_clean("a.qcow2");
}

static void over_a_parent_the_image_knows_its_own(void **state)
{
	unsigned char *data = malloc(4 * CS);

	(void)state;
	assert_non_null(data);
	create("parent.qcow2", NULL, false);
	open_rw("parent.qcow2", 0);
	oracle_fill(data, 4 * CS);
	assert_int_equal(imgloop_write(&loop, 10 * CS, data, 4 * CS), 0);
	assert_int_equal(imgloop_close(&loop), 0);
	create("a.qcow2", "parent.qcow2", false);
	open_rw("a.qcow2", 0);
	expect(0, 0); /* the parent's are not received */
	assert_int_equal(imgloop_write(&loop, 10 * CS, data, 4 * CS), 0); /* unchanged */
	expect(10, 14);
	assert_int_equal(imgloop_zero(&loop, 14 * CS, CS), 0); /* zero there, too */
	expect(10, 15);
	assert_int_equal(imgloop_zero(&loop, 12 * CS, CS), 0);
	write_at(13 * CS, CS);
	write_at(11 * CS, 512);
	expect(10, 15);
	/* What is stored is known again: a zero entry, a new cluster, and the one that was
	 * unchanged and then changed in part. */
	crash_and_reopen("a.qcow2");
	expect(11, 14);
	assert_int_equal(imgloop_close(&loop), 0);
	oracle_assert_clean("a.qcow2");
	free(data);
}

/* The parent stores zeroes as data. Zeroes for a part of it make it all zero, but not received. */
static void zeroes_for_a_part_of_the_parents_zeroes_are_no_whole_cluster(void **state)
{
	unsigned char *zeroes = calloc(1, CS);
	char entry[512];

	(void)state;
	create("parent.qcow2", NULL, false);
	open_rw("parent.qcow2", 0);
	write_at(0, 3 * CS);
	assert_int_equal(imgloop_close(&loop), 0);
	snprintf(entry, sizeof(entry),
		 "qemu-io -f qcow2 -c 'write -P 0 %llu %llu' parent.qcow2 >/dev/null", CS, CS);
	assert_int_equal(scratch_run("%s", entry), 0);
	create("a.qcow2", "parent.qcow2", false);
	assert_int_equal(
		imgloop_open(&loop, "a.qcow2", &(struct qcow2_open_opts){.writable = true}), 0);
	assert_int_equal(imgloop_write(&loop, CS, zeroes, 4096), 0);
	expect(0, 0);
	crash_and_reopen("a.qcow2");
	expect(0, 0);
	assert_int_equal(imgloop_read(&loop, CS, zeroes, CS), 0);
	assert_true(bytes_all_zero(zeroes, CS));
	assert_int_equal(imgloop_close(&loop), 0);
	oracle_assert_clean("a.qcow2");
	free(zeroes);
}

static void compressed_clusters_are_known_until_a_crash(void **state)
{
	(void)state;
	create("a.qcow2", NULL, true);
	open_rw("a.qcow2", 1);
	write_at(10 * CS, 5 * CS);
	expect(10, 15);
	imgloop_drop(&loop);
	open_rw("a.qcow2", 1);
	expect(0, 0);
	write_at(10 * CS, CS);
	expect(10, 11);
	assert_int_equal(imgloop_close(&loop), 0);
}

/* --- after the end ---------------------------------------------------------------------------- */

static void a_finished_image_makes_no_claims(void **state)
{
	(void)state;
	create("a.qcow2", NULL, false);
	open_rw("a.qcow2", 0);
	write_at(10 * CS + 100, 5 * CS);
	expect(11, 15);
	assert_int_equal(imgloop_close(&loop), 0);
	oracle_assert_clean("a.qcow2"); /* all COPIED flags are there */
	open_rw("a.qcow2", 0);
	expect(0, 0);
	write_at(20 * CS, CS);
	expect(20, 21);
	crash_and_reopen("a.qcow2"); /* nor does it later, half of it being gone */
	expect(0, 0);
	assert_int_equal(imgloop_close(&loop), 0);
	oracle_assert_clean("a.qcow2");
}

static void a_repaired_image_makes_no_claims(void **state)
{
	static const char *const repairs[] = {
		"qemu-img check -q -r all a.qcow2",
		"qemu-io -f qcow2 -c 'read 0 512' a.qcow2 >/dev/null"};
	struct qcow2_check_result result;
	struct err err;
	unsigned i;

	(void)state;
	for (i = 0; i < 3; i++) {
		create("a.qcow2", NULL, false);
		open_rw("a.qcow2", 0);
		write_at(10 * CS + 100, 5 * CS);
		assert_int_equal(imgloop_flush(&loop), 0);
		imgloop_drop(&loop);
		if (i < 2)
			assert_int_equal(scratch_run("%s", repairs[i]), 0);
		else
			assert_int_equal(qcow2_check("a.qcow2", true, &result, &err), 0);
		oracle_assert_clean("a.qcow2");
		open_rw("a.qcow2", 0);
		expect(0, 0);
		crash_and_reopen("a.qcow2");
		expect(0, 0);
		assert_int_equal(imgloop_close(&loop), 0);
		oracle_assert_clean("a.qcow2");
	}
}

/* --- anything, in any order ------------------------------------------------------------------- */

static unsigned char *model, *seen; /* bytes of the disk; which of them were ever sent */

static void story_step(void)
{
	uint64_t len = 1 + oracle_below(oracle_below(3) ? 20000 : 6 * CS);
	uint64_t off = oracle_below(SIZE);

	if (oracle_below(3) == 0) { /* on cluster boundaries, as those who want to resume do */
		off = align_down(off, CS);
		len = align_up(len, CS);
	}
	len = MIN(len, SIZE - off);
	if (oracle_below(4)) {
		oracle_fill(model + off, len);
		if (oracle_below(3) == 0)
			memset(model + off, 0, len);
		assert_int_equal(imgloop_write(&loop, off, model + off, len), 0);
	} else {
		memset(model + off, 0, len);
		assert_int_equal(imgloop_zero(&loop, off, len), 0);
	}
	memset(seen + off, 1, len);
}

/* Every byte that is called received was sent; returns how many bytes are. */
static uint64_t assert_only_what_was_sent(void)
{
	struct qcow2_extent e[CLUSTERS];
	uint64_t at = 0, bytes = 0;
	unsigned n, i;

	assert_int_equal(imgloop_received(&loop, 0, SIZE, e, CLUSTERS, &n), 0);
	for (i = 0; i < n; at += e[i++].len) {
		if (!e[i].flags)
			continue;
		bytes += e[i].len;
		if (memchr(seen + at, 0, e[i].len))
			fail_msg("%llu bytes at %llu were not all sent",
				 (unsigned long long)e[i].len, (unsigned long long)at);
	}
	assert_true(at == SIZE);
	return bytes;
}

static void whatever_happens_nothing_is_called_received_that_was_not_sent(void **state)
{
	unsigned round, i;
	uint64_t known = 0;

	(void)state;
	model = calloc(1, SIZE);
	seen = calloc(1, SIZE);
	create("parent.qcow2", NULL, false);
	open_rw("parent.qcow2", 0);
	oracle_workload(&loop, model, SIZE, 60, 5 * CS);
	assert_int_equal(imgloop_close(&loop), 0);
	for (round = 0; round < 12; round++) {
		unsigned char *parent = malloc(SIZE);

		memcpy(parent, model, SIZE);
		if (round % 2 == 0)
			memset(model, 0, SIZE);
		create("story.qcow2", round % 2 ? "parent.qcow2" : NULL, false);
		memset(seen, 0, SIZE);
		open_rw("story.qcow2", 0);
		for (i = 0; i < 60; i++) {
			story_step();
			if (oracle_below(8) == 0)
				assert_only_what_was_sent();
			if (oracle_below(15) == 0) {
				assert_int_equal(imgloop_flush(&loop), 0);
				crash_and_reopen("story.qcow2");
				known += assert_only_what_was_sent();
				oracle_assert_reads_as(&loop, model, SIZE);
			}
		}
		assert_int_equal(imgloop_close(&loop), 0);
		oracle_assert_qemu_agrees("story.qcow2", model, SIZE);
		memcpy(model, parent, SIZE);
		free(parent);
	}
	assert_true(known > 0);
	free(model);
	free(seen);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_cluster_counts_when_its_last_byte_has_arrived),
		cmocka_unit_test(pieces_add_up_whatever_was_stored_in_between),
		cmocka_unit_test(zeroes_and_the_short_last_cluster_count),
		cmocka_unit_test(the_list_is_cut_to_what_was_asked_for),
		cmocka_unit_test(what_a_flush_covered_is_known_after_a_crash),
		cmocka_unit_test(a_cluster_of_which_a_part_arrived_is_not_known_after_a_crash),
		cmocka_unit_test(over_a_parent_the_image_knows_its_own),
		cmocka_unit_test(zeroes_for_a_part_of_the_parents_zeroes_are_no_whole_cluster),
		cmocka_unit_test(compressed_clusters_are_known_until_a_crash),
		cmocka_unit_test(a_finished_image_makes_no_claims),
		cmocka_unit_test(a_repaired_image_makes_no_claims),
		cmocka_unit_test(whatever_happens_nothing_is_called_received_that_was_not_sent),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
