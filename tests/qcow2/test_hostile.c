/*
 * Images whose bytes lie. Each row damages one field of a sound image; the engine refuses the image
 * with a reason, or answers EIO for exactly what is touched, and never asks for memory the file
 * does not justify: the whole program runs under an address-space limit. What the engine refuses
 * sendense-ctl image refuses too, each of its verbs with the exit status for it.
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

static struct qcow2_session loop;
static char tool[600];

static int setup(void **state)
{
	struct rlimit limit = {512 << 20, RLIM_INFINITY}; /* lifted for QEMU's tools */
	ssize_t n = readlink("/proc/self/exe", tool, sizeof(tool) - 40);

	/* build/tests/qcow2/test_hostile > build/bin/sendense-ctl */
	if (n <= 0)
		return -1;
	tool[n] = 0;
	strcpy(strstr(tool, "/tests/qcow2/"), "/bin/sendense-ctl --json image");
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

static void build_image(const char *path)
{
	struct qcow2_create_opts create = {.size = SIZE, .cluster_size = CS};
	struct qcow2_open_opts opts = {.writable = true, .sums = true};
	unsigned char data[CS];
	struct err err;
	unsigned i;

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

/* A sound image and its checksum file. Made once and then copied. */
static void make_image(const char *path)
{
	char stem[64];

	snprintf(stem, sizeof(stem), "%.*s", (int)(strrchr(path, '.') - path), path);
	if (access("sound.qcow2", F_OK))
		build_image("sound.qcow2");
	assert_int_equal(scratch_run("cp sound.qcow2 %s && cp sound.sums %s.sums", path, stem), 0);
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

/* What sendense-ctl makes of a result of the engine. */
static int status_for(int r)
{
	return r == QCOW2_E_CORRUPT ? 6 : r == QCOW2_E_CHAIN ? 9 : r ? 8 : 0;
}

/* Every verb ends by itself with @status (a check with @check), says so, and leaves nothing. */
static void assert_tool_says(const char *path, int status, int check)
{
	if (scratch_run(
		    "w() { s=$1; shift; timeout 60 %s \"$@\" >out 2>why; r=$?; "
		    "[ $r = $s ] || { echo \"$*: $r: $(cat why)\"; exit 1; }; "
		    "[ $s = 0 ] || jq -e '.exit_status == '$s' and (.error | length > 9)' why "
		    ">/dev/null || { echo \"$*: $(cat why)\"; exit 1; }; }; "
		    "w %d info %s; w %d map %s; w %d verify %s; w %d convert %s x.raw --format "
		    "raw; "
		    "w %d convert %s made.qcow2; w %d check %s; w %d check --repair %s; "
		    "[ %d = 0 ] || { [ ! -e made.raw ] && [ ! -e made.qcow2 ]; } && rm -f made.*",
		    tool, status, path, status, path, status, path, status, path, status, path,
		    check, path, check, path, status))
		fail_msg("%s", path);
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
		{"a header longer than a cluster", 100, 4, CS + 8, QCOW2_E_FORMAT},
		{"a header of odd length", 100, 4, 105, QCOW2_E_FORMAT},
		{"an L1 in the header", 40, 8, 0, QCOW2_E_CORRUPT},
		{"every feature there may be", 72, 8, UINT64_MAX, QCOW2_E_UNSUPPORTED},
		{"an extension longer than the header", 116, 4, 0xfffffff9, QCOW2_E_FORMAT},
	};
	struct qcow2_check_result result;
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(row); i++) {
		struct err err = ERR_INIT;
		int r;

		make_image("h.qcow2");
		poke("h.qcow2", row[i].at, row[i].value, row[i].bytes);
		r = open_image("h.qcow2", false);
		if (r != row[i].want)
			fail_msg("%s: %d instead of %d", row[i].what, r, row[i].want);
		assert_int_not_equal(open_image("h.qcow2", true), 0);
		assert_int_equal(qcow2_check("h.qcow2", false, &result, &err), row[i].want);
		assert_true(err.text[0]);
		assert_tool_says("h.qcow2", status_for(row[i].want), status_for(row[i].want));
	}
}

static void what_is_refused_is_refused_by_name(void **state)
{
	static const struct {
		unsigned at, bytes;
		uint64_t value;
		const char *name;
	} row[] = {
		{72, 8, 4, "external data file"},
		{32, 4, 1, "encrypted"},
		{4, 4, 4, "version 4"},
		{72, 8, 1ULL << 40, "0x10000000000"},
		/* bit 63, for which the row of bit 4 in the image's feature name table is changed
		 */
		{72, 8, 1ULL << 63, "extended L2 entries"},
		{48, 8, 1ULL << 50, "refcount table at 1125899906842624"},
		{40, 8, 1ULL << 50, "L1 table at 1125899906842624"},
	};
	struct qcow2_image *img;
	struct qcow2_open_opts opts = {.writable = false};
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(row); i++) {
		struct err err = ERR_INIT;

		make_image("n.qcow2");
		poke("n.qcow2", row[i].at, row[i].value, row[i].bytes);
		if (row[i].value == 1ULL << 63)
			poke("n.qcow2", 112 + 8 + 4 * QCOW2_FEATURE_NAME_SIZE + 1, 63, 1);
		assert_int_not_equal(qcow2_open(&img, "n.qcow2", &opts, &err), 0);
		if (!strstr(err.text, row[i].name) || !strstr(err.text, "n.qcow2"))
			fail_msg("no word of %s: %s", row[i].name, err.text);
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
		make_image("e.qcow2");
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
		make_image("l1.qcow2");
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
		make_image("t.qcow2");
		poke("t.qcow2", L2_AT + 3 * 8, row[i], 8);
		assert_int_equal(open_image("t.qcow2", true), QCOW2_E_CORRUPT);
		assert_int_equal(qcow2_check("t.qcow2", false, &result, &err), 0);
		assert_true(result.refcount_errors > 0);
	}
}

/* Tables on top of each other. Reading goes on where it can; a check says that data is lost, and a
 * repair, which cannot know whose the cluster is, leaves the file as it is. */
static void metadata_with_two_users_is_damage(void **state)
{
	static const struct {
		const char *what;
		uint64_t at, value;
	} row[] = {
		{"an L2 entry to the header's L1", L2_AT + 3 * 8, OFLAG | L1_AT},
		{"an L2 entry to the refcount table", L2_AT + 3 * 8, OFLAG | CS},
		{"an L2 entry to the refcounts", L2_AT + 3 * 8, OFLAG | 2 * CS},
		{"an L2 entry to its own table", L2_AT + 3 * 8, OFLAG | L2_AT},
		{"an L2 entry to another's data", L2_AT + 3 * 8, OFLAG | 9 * CS},
		{"a compressed cluster in the header", L2_AT + 3 * 8, QCOW2_ENTRY_COMPRESSED | 512},
		{"a compressed cluster in another's data", L2_AT + 3 * 8,
		 QCOW2_ENTRY_COMPRESSED | 9 * CS},
		{"an L1 entry to itself", L1_AT, OFLAG | L1_AT},
		{"an L1 entry to the refcounts", L1_AT, OFLAG | 2 * CS},
		{"an L1 entry to data", L1_AT, OFLAG | 9 * CS},
		{"the L1 in the refcount table", 40, CS},
		{"the L1 in the L2 table", 40, L2_AT},
		{"the refcount table in the L1", 48, L1_AT},
		{"the refcount table in data", 48, 9 * CS},
		{"the refcounts in the L1", CS, L1_AT},
		{"the refcounts in data", CS, 9 * CS},
		{"the refcounts in their own table", CS, CS},
	};
	struct qcow2_check_result result;
	struct err err;
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(row); i++) {
		unsigned char buf[CS];
		unsigned k;

		make_image("m.qcow2");
		poke("m.qcow2", row[i].at, row[i].value, 8);
		assert_int_equal(scratch_run("cp m.qcow2 before.qcow2"), 0);
		assert_int_equal(qcow2_check("m.qcow2", true, &result, &err), 0);
		if (!result.corruptions)
			fail_msg("%s: no damage", row[i].what);
		assert_int_equal(scratch_run("cmp m.qcow2 before.qcow2"), 0);
		assert_int_equal(open_image("m.qcow2", false), 0);
		for (k = 0; k < FILLED; k++) {
			int r = imgloop_read(&loop, k * CS, buf, CS);

			assert_true(r == 0 || r == -EIO);
		}
		assert_int_equal(imgloop_close(&loop), 0);
		if (scratch_run("%s check m.qcow2 >/dev/null 2>&1; [ $? = 6 ]", tool))
			fail_msg("%s: not told by the tool", row[i].what);
	}
}

/* Streams that unpack to more than a cluster, ask for a window of gigabytes, or to nothing; and one
 * of a few bytes that fills a whole disk. */
static void compressed_bombs_stay_small(void **state)
{
	static const struct {
		const char *what, *bytes; /* at cluster 9 */
		size_t len;
		bool zstd;
		int want;
	} row[] = {
		/* one block of 128 KiB of 'x': magic, window of 128 KiB, run-length block */
		{"zstd, more than a cluster", "\x28\xb5\x2f\xfd\x00\x38\x03\x00\x10x", 10, true, 0},
		{"zstd, a window of 2 GiB", "\x28\xb5\x2f\xfd\x00\xa8\x03\x00\x10x", 10, true,
		 -EIO},
		{"zstd, a window of petabytes", "\x28\xb5\x2f\xfd\x00\xff\x03\x00\x10x", 10, true,
		 -EIO},
		{"zstd, a frame of 16 EiB", "\x28\xb5\x2f\xfd\xe0\xff\xff\xff\xff\xff\xff\xff\xff",
		 13, true, -EIO},
		{"zstd, empty blocks without end", "\x28\xb5\x2f\xfd\x00\x38", 6, true, -EIO},
		{"zstd, too little", "\x28\xb5\x2f\xfd\x00\x38\x23\x00\x00x", 10, true, -EIO},
		/* deflate: fixed codes, 'x', then a copy from in front of the window */
		{"deflate, a copy of nothing", "\xab\x00\xff\xff\xff\xff", 6, false, -EIO},
		{"deflate, a stored block cut short", "\x01\xff\xff\x00\x00", 5, false, -EIO},
	};
	unsigned char buf[CS], place[CS];
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(row); i++) {
		int r, fd;

		make_image("z.qcow2");
		if (row[i].zstd) {
			poke("z.qcow2", 72, QCOW2_INCOMPAT_COMPRESSION, 8);
			poke("z.qcow2", 104, 1, 1);
		}
		memset(place, 0, sizeof(place));
		memcpy(place, row[i].bytes, row[i].len);
		fd = open("z.qcow2", O_WRONLY);
		assert_int_equal(pwrite(fd, place, CS, 9 * CS), CS);
		close(fd);
		/* 8 sectors from cluster 9 on: the field above bit 62 - (12 - 8) */
		poke("z.qcow2", L2_AT + 3 * 8, QCOW2_ENTRY_COMPRESSED | 7ULL << 58 | 9 * CS, 8);
		assert_int_equal(open_image("z.qcow2", false), 0);
		r = imgloop_read(&loop, 3 * CS, buf, CS);
		if (r != row[i].want)
			fail_msg("%s: %d", row[i].what, r);
		if (!r)
			assert_int_equal(buf[0] + buf[CS - 1], 2 * 'x');
		assert_int_equal(imgloop_close(&loop), 0);
	}
}

/* Every entry of 64 GiB leads to one sector: unpacking it all takes no more than a cluster. */
static void a_sector_that_fills_a_disk_is_read_cluster_by_cluster(void **state)
{
	enum { CLUSTER = 2 << 20, ENTRIES = CLUSTER / 8 };
	uint64_t *l2 = malloc(CLUSTER), i;
	unsigned char *buf = aligned_alloc(4096, 8 << 20);
	unsigned k;
	int fd;

	(void)state;
	assert_int_equal(scratch_run("ulimit -Sv unlimited; rm -f bomb.qcow2; head -c 2M /dev/zero "
				     "| tr '\\0' x >x.raw; "
				     "qemu-img convert -c -O qcow2 -o cluster_size=2M x.raw "
				     "bomb.qcow2; rm x.raw; "
				     "qemu-img resize -q bomb.qcow2 64G"),
			 0);
	fd = open("bomb.qcow2", O_RDWR);
	assert_int_equal(pread(fd, &i, 8, 3 * CLUSTER), 8); /* L1 */
	i = be64toh(i) & QCOW2_ENTRY_OFFSET;
	assert_int_equal(pread(fd, l2, CLUSTER, i), CLUSTER);
	assert_true(be64toh(l2[0]) & QCOW2_ENTRY_COMPRESSED);
	for (k = 1; k < ENTRIES; k++)
		l2[k] = l2[0];
	assert_int_equal(pwrite(fd, l2, CLUSTER, i), CLUSTER);
	close(fd);
	assert_int_equal(open_image("bomb.qcow2", false), 0);
	for (i = 0; i < 8; i++) {
		assert_int_equal(imgloop_read(&loop, i * (8ULL << 30), buf, 8 << 20), 0);
		assert_int_equal(buf[0] + buf[(8 << 20) - 1], 2 * 'x');
	}
	assert_int_equal(imgloop_close(&loop), 0);
	free(buf);
	free(l2);
}

static void a_truncated_file_is_never_read_as_zeroes(void **state)
{
	uint64_t bad;
	unsigned keep;

	(void)state;
	for (keep = 6; keep < 5 + FILLED; keep++) {
		make_image("cut.qcow2");
		assert_int_equal(truncate("cut.qcow2", keep * CS), 0);
		bad = bad_clusters("cut.qcow2");
		/* guest cluster n > 0 lies at 5 + n: those at keep and behind are gone */
		assert_int_equal(bad, (0xffffULL << (keep - 5)) & 0xffff);
	}
	for (keep = 0; keep < L1_AT + 8; keep += 777) {
		make_image("cut.qcow2");
		assert_int_equal(truncate("cut.qcow2", keep), 0);
		assert_int_not_equal(open_image("cut.qcow2", false), 0);
	}
}

static void a_chain_deeper_than_the_limit_is_refused(void **state)
{
	struct qcow2_create_opts create = {.size = 4096, .cluster_size = CS};
	struct qcow2_open_opts opts = {.writable = false};
	unsigned char bytes[4 * CS];
	char name[32], backing[32];
	struct qcow2_image *img;
	struct err err;
	unsigned i;
	ssize_t n;
	int fd;

	(void)state;
	assert_int_equal(qcow2_create("deep-0000", &create, &err), 0);
	create.backing = "deep-0000";
	assert_int_equal(qcow2_create("deep", &create, &err), 0);
	fd = open("deep", O_RDONLY);
	n = read(fd, bytes, sizeof(bytes));
	close(fd);
	for (i = 1; i <= QCOW2_CHAIN_MAX; i++) { /* copies with another name: a create syncs */
		snprintf(name, sizeof(name), "deep-%04u", i);
		snprintf(backing, sizeof(backing), "deep-%04u", i - 1);
		memcpy(bytes + load_be64(bytes + QCOW2_H_BACKING_OFFSET), backing, strlen(backing));
		fd = open(name, O_WRONLY | O_CREAT, 0600);
		assert_int_equal(write(fd, bytes, n), n);
		close(fd);
	}
	assert_int_equal(qcow2_open(&img, name, &opts, &err), QCOW2_E_CHAIN);
	assert_int_equal(qcow2_open(&img, backing, &opts, &err), 0);
	qcow2_close(img);
}

static void make_overlay(const char *path, const char *backing)
{
	struct qcow2_create_opts create = {.size = SIZE, .cluster_size = CS, .backing = backing};
	struct err err;

	unlink(path);
	if (qcow2_create(path, &create, &err))
		fail_msg("%s", err.text);
	/* verify asks for the checksum file first */
	assert_int_equal(
		scratch_run("cp base.sums $(dirname %s)/$(basename %s .qcow2).sums", path, path),
		0);
}

static void assert_chain_refused(const char *path)
{
	assert_int_equal(open_image(path, false), QCOW2_E_CHAIN);
	assert_int_equal(open_image(path, true), QCOW2_E_CHAIN);
	/* a check is of the file alone; this one was never closed */
	assert_int_equal(scratch_run("%s check --repair %s >/dev/null", tool, path), 0);
	assert_tool_says(path, 9, 0);
}

static void odd_backing_names_are_refused(void **state)
{
	static const char *const row[] = {
		"json:{}",
		"json:{\"driver\":\"qcow2\",\"file.filename\":\"base.qcow2\"}",
		"nbd://x/",
		"file:base.qcow2",
		"a:b",
		"/etc/passwd",
		"/dev/zero",
		"../x.qcow2",
		"./../x.qcow2",
		"sub/../../x.qcow2",
		"sub/../../inside/base.qcow2",
		"missing",
		".",
		"..",
		"sub",
		"sub/",
		"base.qcow2/",
		"base.qcow2/.",
		"pipe",
		"odd.qcow2",
		"./odd.qcow2",
		"sub/../odd.qcow2",
		"x\x01y",
		"\xff\xfe",
		" ",
		"-"};
	char absolute[512];
	unsigned i;

	(void)state;
	assert_int_equal(scratch_run("mkdir -p inside/sub"), 0);
	assert_int_equal(chdir("inside"), 0);
	make_image("base.qcow2");
	assert_int_equal(scratch_run("cp base.qcow2 ../x.qcow2; mkfifo pipe"), 0);
	for (i = 0; i < ARRAY_SIZE(row); i++) {
		make_overlay("odd.qcow2", row[i]);
		assert_chain_refused("odd.qcow2");
	}
	/* even when it is inside */
	assert_non_null(getcwd(absolute, sizeof(absolute) - 20));
	make_overlay("odd.qcow2", strcat(absolute, "/base.qcow2"));
	assert_chain_refused("odd.qcow2");
	/* a name cannot hold what ends it, and none can be longer than the format allows */
	make_overlay("odd.qcow2", "base.qcow2");
	poke("odd.qcow2", 16, 0, 4);
	assert_int_equal(open_image("odd.qcow2", false), QCOW2_E_FORMAT);
	poke("odd.qcow2", 16, 1024, 4);
	assert_int_equal(open_image("odd.qcow2", false), QCOW2_E_FORMAT);
	poke("odd.qcow2", 16, 11, 4);
	assert_int_equal(open_image("odd.qcow2", false), QCOW2_E_FORMAT);
	assert_int_equal(chdir(".."), 0);
}

/* Links are followed inside the repository and never out of it, wherever in the path they are. */
static void links_do_not_leave_the_repository(void **state)
{
	static const struct {
		const char *what, *make, *backing;
		bool allowed;
	} row[] = {
		{"to a file beside it", "ln -s base.qcow2 l", "l", true},
		{"to a file below", "ln -s sub/base.qcow2 l", "l", true},
		{"through a folder", "ln -s sub l", "l/base.qcow2", true},
		{"from below", "ln -s ../base.qcow2 sub/l", "sub/l", true},
		{"out", "ln -s ../outside/base.qcow2 l", "l", false},
		{"out by a folder", "ln -s ../outside l", "l/base.qcow2", false},
		{"out and in again", "ln -s ../repo/base.qcow2 l", "l", false},
		{"absolute, inside", "ln -s \"$PWD/base.qcow2\" l", "l", false},
		{"absolute, outside", "ln -s /etc/passwd l", "l", false},
		{"a magic one", "ln -s /proc/self/fd/0 l", "l", false},
		{"to itself", "ln -s l l", "l", false},
		{"to nowhere", "ln -s gone l", "l", false},
		{"to the image itself", "ln -s top.qcow2 l", "l", false},
		{"a hard one to the image itself", "ln top.qcow2 l", "l", false},
		{"a hard one", "ln ../outside/base.qcow2 l", "l", true},
	};
	unsigned i;

	(void)state;
	assert_int_equal(scratch_run("mkdir -p repo/sub outside"), 0);
	assert_int_equal(chdir("repo"), 0);
	make_image("base.qcow2");
	assert_int_equal(scratch_run("cp base.qcow2 sub; cp base.qcow2 ../outside"), 0);
	for (i = 0; i < ARRAY_SIZE(row); i++) {
		unlink("l");
		unlink("sub/l");
		make_overlay("top.qcow2", row[i].backing);
		assert_int_equal(scratch_run("%s", row[i].make), 0);
		print_message("%s\n", row[i].what);
		if (!row[i].allowed) {
			assert_chain_refused("top.qcow2");
			continue;
		}
		assert_int_equal(bad_clusters("top.qcow2"), 0);
		assert_int_equal(scratch_run("%s info top.qcow2 >/dev/null", tool), 0);
	}
	assert_int_equal(chdir(".."), 0);
}

static void cycles_are_refused(void **state)
{
	(void)state;
	make_image("base.qcow2");
	make_overlay("c1.qcow2", "c2.qcow2");
	make_overlay("c2.qcow2", "c3.qcow2");
	make_overlay("c3.qcow2", "c1.qcow2");
	assert_chain_refused("c1.qcow2");
	make_overlay("c3.qcow2", "c2.qcow2"); /* not through the image opened */
	assert_chain_refused("c1.qcow2");
}

/* A window of the chain is as small as the smallest cluster: mapping must not need each of them. */
static void a_huge_disk_over_tiny_clusters_is_mapped_at_once(void **state)
{
	(void)state;
	assert_int_equal(
		scratch_run(
			"ulimit -Sv unlimited; "
			"qemu-img create -q -f qcow2 -o cluster_size=512 tiny.qcow2 1M && "
			"qemu-img create -q -f qcow2 -o cluster_size=512 -F qcow2 -b tiny.qcow2 "
			"empty.qcow2 100G && qemu-img create -q -f qcow2 -o cluster_size=2M "
			"-F qcow2 -b empty.qcow2 huge.qcow2 60T"),
		0);
	assert_int_equal(
		scratch_run("timeout 100 %s map huge.qcow2 | "
			    "jq -e 'length <= 4 and (map(.length) | add) == 65970697666560' && "
			    "timeout 100 %s convert huge.qcow2 small.qcow2 --no-sums",
			    tool, tool),
		0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(damaged_headers_are_refused_with_a_reason),
		cmocka_unit_test(damaged_entries_are_io_errors_for_what_they_map),
		cmocka_unit_test(damaged_l1_entries_are_io_errors_for_their_table),
		cmocka_unit_test(an_image_that_uses_a_cluster_twice_is_not_written),
		cmocka_unit_test(what_is_refused_is_refused_by_name),
		cmocka_unit_test(metadata_with_two_users_is_damage),
		cmocka_unit_test(compressed_bombs_stay_small),
		cmocka_unit_test(a_sector_that_fills_a_disk_is_read_cluster_by_cluster),
		cmocka_unit_test(a_truncated_file_is_never_read_as_zeroes),
		cmocka_unit_test(a_chain_deeper_than_the_limit_is_refused),
		cmocka_unit_test(odd_backing_names_are_refused),
		cmocka_unit_test(links_do_not_leave_the_repository),
		cmocka_unit_test(cycles_are_refused),
		cmocka_unit_test(a_huge_disk_over_tiny_clusters_is_mapped_at_once),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
