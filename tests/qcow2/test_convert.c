/*
 * Copies of a point as one file, what a chain is described as, and an image driven through a
 * session. The judge of the copies is qemu-img.
 */
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
#include "qcow2/convert.h"
#include "qcow2/session.h"
#include "tests/support/oracle.h"
#include "tests/support/scratch.h"

#define DISK ((9U << 20) + 512)

static unsigned char *model;

static void create(const char *path, const char *backing, bool zstd)
{
	struct qcow2_create_opts opts = {.size = DISK, .backing = backing, .zstd = zstd};
	struct err err;

	if (qcow2_create(path, &opts, &err))
		fail_msg("%s", err.text);
}

static void open_session(struct qcow2_session *s, const char *path, int zstd_level)
{
	struct qcow2_open_opts opts = {.writable = true, .sums = true, .zstd_level = zstd_level};
	struct err err;

	if (qcow2_session_init(s, 4, &err) || qcow2_session_open(s, path, &opts, &err))
		fail_msg("%s", err.text);
}

static void close_session(struct qcow2_session *s)
{
	struct err err;

	if (qcow2_session_close(s, &err))
		fail_msg("%s", err.text);
	qcow2_session_deinit(s);
}

/* full.qcow2 < incr.qcow2; the model is what the latter holds. */
static int setup(void **state)
{
	struct qcow2_session s;
	unsigned char back[4096];

	oracle_seed();
	if (scratch_setup(state))
		return -1;
	model = calloc(1, DISK);
	oracle_fill(model, 4 << 20);
	create("full.qcow2", NULL, false);
	open_session(&s, "full.qcow2", 0);
	assert_int_equal(qcow2_session_write(&s, 0, model, 4 << 20), 0);
	close_session(&s);

	create("incr.qcow2", "full.qcow2", true);
	open_session(&s, "incr.qcow2", 3);
	memset(model + (1 << 20), 'x', 300000);
	assert_int_equal(qcow2_session_write(&s, 1 << 20, model + (1 << 20), 300000), 0);
	memset(model + 200000, 0, 100000);
	assert_int_equal(qcow2_session_zero(&s, 200000, 100000), 0);
	assert_int_equal(qcow2_session_flush(&s), 0);
	assert_int_equal(qcow2_session_read(&s, 198000, back, sizeof(back)), 0);
	assert_memory_equal(back, model + 198000, sizeof(back));
	oracle_fill(model + DISK - 700, 700);
	assert_int_equal(qcow2_session_write(&s, DISK - 700, model + DISK - 700, 700), 0);
	close_session(&s);
	return 0;
}

static int teardown(void **state)
{
	free(model);
	return scratch_teardown(state);
}

/* --- describe ---------------------------------------------------------------------------------- */

static void chain_is_described_from_the_top_down(void **state)
{
	struct qcow2_file_info *files;
	struct err err;
	unsigned count;

	(void)state;
	assert_int_equal(qcow2_describe("incr.qcow2", NULL, &files, &count, &err), 0);
	assert_int_equal(count, 2);
	assert_string_equal(files[0].path, "incr.qcow2");
	assert_string_equal(files[0].backing, "full.qcow2");
	assert_true(files[0].zstd);
	assert_int_equal(files[0].size, DISK);
	assert_string_equal(files[1].path, "full.qcow2");
	assert_null(files[1].backing);
	assert_false(files[1].dirty);
	qcow2_describe_free(files, count);
	assert_int_equal(qcow2_describe("gone.qcow2", NULL, &files, &count, &err), -ENOENT);
}

/* --- convert ----------------------------------------------------------------------------------- */

static void copy(const char *dst, const struct qcow2_convert_opts *opts)
{
	struct err err;

	if (qcow2_convert("incr.qcow2", NULL, dst, opts, &err))
		fail_msg("%s", err.text);
}

static void copy_is_the_whole_point_in_one_file(void **state)
{
	static const uint32_t clusters[] = {0, 4096, 2 << 20};
	char path[32];
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(clusters); i++) {
		struct qcow2_convert_opts opts = {.cluster_size = clusters[i], .sums = i != 1};

		snprintf(path, sizeof(path), "copy-%u.qcow2", i);
		copy(path, &opts);
		oracle_assert_qemu_agrees(path, model, DISK);
		snprintf(path, sizeof(path), "copy-%u.sums", i);
		assert_int_equal(!access(path, F_OK), opts.sums);
	}
	copy("copy.raw", &(struct qcow2_convert_opts){.raw = true});
	assert_int_equal(scratch_run("cmp copy.raw model.raw"), 0);
}

static bool count_progress(void *arg, uint64_t done, uint64_t total)
{
	uint64_t *last = arg;

	assert_true(done > *last && done <= total);
	assert_int_equal(total, DISK);
	*last = done;
	return true;
}

static bool stop_at_once(void *arg, uint64_t done, uint64_t total)
{
	(void)arg;
	(void)done;
	(void)total;
	return false;
}

static void copy_tells_how_far_it_is(void **state)
{
	uint64_t last = 0;

	(void)state;
	copy("told.qcow2", &(struct qcow2_convert_opts){.progress = count_progress, .arg = &last});
	assert_int_equal(last, DISK);
}

static void copy_that_does_not_succeed_leaves_no_file(void **state)
{
	struct qcow2_convert_opts opts = {.progress = stop_at_once};
	struct err err;

	(void)state;
	for (opts.raw = false;; opts.raw = true) {
		assert_int_equal(qcow2_convert("incr.qcow2", NULL, "stopped", &opts, &err),
				 -ECANCELED);
		assert_int_not_equal(access("stopped", F_OK), 0);
		if (opts.raw)
			break;
	}
	opts = (struct qcow2_convert_opts){.cluster_size = 12345};
	assert_int_equal(qcow2_convert("incr.qcow2", NULL, "odd.qcow2", &opts, &err), -EINVAL);
	opts = (struct qcow2_convert_opts){0};
	assert_int_equal(qcow2_convert("gone.qcow2", NULL, "x.qcow2", &opts, &err), -ENOENT);
	assert_int_equal(qcow2_convert("incr.qcow2", NULL, "none/x.qcow2", &opts, &err), -ENOENT);
	opts.raw = true;
	assert_int_equal(qcow2_convert("incr.qcow2", NULL, "none/x.raw", &opts, &err), -ENOENT);
}

static void copy_takes_no_place_that_is_taken(void **state)
{
	struct qcow2_convert_opts opts = {.raw = false};
	struct err err;

	(void)state;
	assert_int_equal(scratch_run("echo mine > taken"), 0);
	assert_int_equal(qcow2_convert("incr.qcow2", NULL, "taken", &opts, &err), -EEXIST);
	opts.raw = true;
	assert_int_equal(qcow2_convert("incr.qcow2", NULL, "taken", &opts, &err), -EEXIST);
	assert_int_equal(scratch_run("grep -q mine taken"), 0);
}

/* An entry in the first L2 table of the copied chain's bottom points behind the file's end. */
static void copy_of_a_damaged_point_fails_and_names_the_place(void **state)
{
	struct qcow2_convert_opts opts = {.raw = true};
	struct err err;

	(void)state;
	assert_int_equal(scratch_run("mkdir -p bad && cp full.qcow2 incr.qcow2 bad && "
				     "l2=$(od -An -tu1 -j$((3 * 65536 + 4)) -N4 bad/full.qcow2 | "
				     "awk '{ print (($1 * 256 + $2) * 256 + $3) * 256 + $4 }') && "
				     "printf '\\200\\0\\177\\0\\0\\0\\0\\0' | dd of=bad/full.qcow2 "
				     "oflag=seek_bytes seek=$l2 conv=notrunc status=none"),
			 0);
	assert_int_equal(qcow2_convert("bad/incr.qcow2", NULL, "bad.raw", &opts, &err),
			 QCOW2_E_CORRUPT);
	assert_non_null(strstr(err.text, "guest offset 0 "));
	assert_int_not_equal(access("bad.raw", F_OK), 0);
}

/* --- sessions and words -------------------------------------------------------------------------- */

static void session_dropped_leaves_what_was_flushed(void **state)
{
	struct qcow2_session s;
	struct qcow2_extent extents[8];
	unsigned char byte = 9, got = 0;
	unsigned count;

	(void)state;
	create("drop.qcow2", NULL, false);
	open_session(&s, "drop.qcow2", 0);
	assert_int_equal(qcow2_session_write(&s, 70000, &byte, 1), 0);
	assert_int_equal(qcow2_session_flush(&s), 0);
	qcow2_session_drop(&s);
	qcow2_session_drop(&s); /* accepts no image */
	qcow2_session_deinit(&s);
	open_session(&s, "drop.qcow2", 0);
	assert_int_equal(qcow2_session_read(&s, 70000, &got, 1), 0);
	assert_int_equal(got, byte);
	assert_int_equal(qcow2_session_extents(&s, 0, DISK, extents, 8, &count), 0);
	assert_int_equal(count, 3);
	assert_int_equal(extents[1].flags, QCOW2_EXTENT_DATA);
	assert_int_equal(extents[0].len, 65536);
	close_session(&s);
	oracle_assert_clean("drop.qcow2");
}

/* What is still in memory is part of the map. */
static void map_tells_of_what_is_not_stored_yet(void **state)
{
	static const uint32_t flags[] = {QCOW2_EXTENT_DATA, QCOW2_EXTENT_ZERO, QCOW2_EXTENT_DATA};
	static const uint64_t lens[] = {65536, 2 * 65536, 65536};
	struct qcow2_session s;
	struct qcow2_extent extents[8];
	unsigned count, i;

	(void)state;
	create("early.qcow2", "full.qcow2", false);
	open_session(&s, "early.qcow2", 0);
	assert_int_equal(qcow2_session_write(&s, 0, model + 500000, 65536), 0);
	assert_int_equal(qcow2_session_write(&s, 65536, model + 200000, 65536), 0);
	assert_int_equal(qcow2_session_zero(&s, 65536, 2 * 65536), 0);
	assert_int_equal(qcow2_session_write(&s, 3 * 65536, model + 500000, 10), 0);
	assert_int_equal(qcow2_session_extents(&s, 0, 4 * 65536, extents, 8, &count), 0);
	assert_int_equal(count, 3);
	for (i = 0; i < count; i++) {
		assert_int_equal(extents[i].len, lens[i]);
		assert_int_equal(extents[i].flags & QCOW2_EXTENT_ZERO, flags[i]);
	}
	close_session(&s);
	oracle_assert_clean("early.qcow2");
}

static void words_for_compression_are_understood(void **state)
{
	static const struct {
		const char *text;
		bool good;
		int level;
	} row[] = {
		{"", true, 0},		{"none", true, 0},	{"zstd", true, 1},
		{"zstd:1", true, 1},	{"zstd:19", true, 19},	{"zstd:0", false, 0},
		{"zstd:20", false, 0},	{"zstd:-1", false, 0},	{"zstd:", false, 0},
		{"zstd:3x", false, 0},	{"zstd:+3", false, 0},	{"zstdx", false, 0},
		{"gzip", false, 0},	{"zstd:99999999999999999999", false, 0},
	};
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(row); i++) {
		int level = 7;

		assert_int_equal(qcow2_parse_compression(row[i].text, &level), row[i].good);
		if (row[i].good)
			assert_int_equal(level, row[i].level);
	}
}

static void creation_that_fails_leaves_no_file(void **state)
{
	struct qcow2_create_opts opts = {.size = 1 << 20};
	char name[1100];
	struct err err;

	(void)state;
	memset(name, 'n', sizeof(name));
	name[1024] = 0;
	opts.backing = name;
	assert_int_equal(qcow2_create("long.qcow2", &opts, &err), -ENAMETOOLONG);
	assert_int_not_equal(access("long.qcow2", F_OK), 0);
	opts.backing = NULL;
	assert_int_equal(qcow2_create("none/x.qcow2", &opts, &err), -ENOENT);
	assert_int_equal(qcow2_create("full.qcow2", &opts, &err), -EEXIST);
	oracle_assert_clean("full.qcow2");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(chain_is_described_from_the_top_down),
		cmocka_unit_test(copy_is_the_whole_point_in_one_file),
		cmocka_unit_test(copy_tells_how_far_it_is),
		cmocka_unit_test(copy_that_does_not_succeed_leaves_no_file),
		cmocka_unit_test(copy_takes_no_place_that_is_taken),
		cmocka_unit_test(copy_of_a_damaged_point_fails_and_names_the_place),
		cmocka_unit_test(session_dropped_leaves_what_was_flushed),
		cmocka_unit_test(map_tells_of_what_is_not_stored_yet),
		cmocka_unit_test(words_for_compression_are_understood),
		cmocka_unit_test(creation_that_fails_leaves_no_file),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
