/*
 * Checks and repairs of images QEMU made: snapshots, compressed and zero clusters, subclusters,
 * bitmaps, every version and refcount width. qemu-img check is the judge: both must count the same
 * faults, sound or damaged, and after a repair neither the disk nor any snapshot may have changed.
 */
#include <fcntl.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "qcow2/format.h"
#include "qcow2/qcow2.h"
#include "tests/support/oracle.h"
#include "tests/support/scratch.h"

#define RUN(...) assert_int_equal(scratch_run(__VA_ARGS__), 0)

/* --- images --------------------------------------------------------------------------------- */

#define SNAP(name) "qemu-img snapshot -c " name " i.qcow2"
#define IO(what)   "qemu-io -c '" what "' i.qcow2 >/dev/null"

static const struct shape {
	const char *name, *options, *steps;
	bool compressed; /* starts as a compressed copy of r.raw */
} shapes[] = {
	{"plain", "", "true", false},
	{"compressed", "", "true", true},
	{"snapshot of an empty disk", "", "qemu-img create -q -f qcow2 i.qcow2 3M && " SNAP("one"),
	 false},
	{"one snapshot", "", SNAP("one"), false},
	{"written after the snapshot", "", SNAP("one") " && " IO("write -P 1 100k 700k"), false},
	{"three snapshots, the middle one gone", "",
	 SNAP("one") " && " IO("write -P 1 0 300k") " && " SNAP("two") " && " IO(
		 "write -P 2 200k "
		 "1M") " && " SNAP("three") " && " IO("write -P 3 64k 128k") " && qemu-img "
									     "snapshot -d two "
									     "i.qcow2",
	 false},
	{"went back to a snapshot", "",
	 SNAP("one") " && " IO("write -P 1 0 300k") " && " SNAP(
		 "two") " && qemu-img snapshot -a one i.qcow2",
	 false},
	{"zeroes and discards", "",
	 IO("write -z 0 256k") " && " SNAP("one") " && " IO("write -z -u 512k 256k") " && " IO(
		 "discard 1M 256k") " && " SNAP("two") " && " IO("write -z 1M 64k"),
	 false},
	{"compressed, snapshot", "",
	 SNAP("one") " && " IO("write -P 7 0 200k") " && " SNAP("two") " && " IO(
		 "write -c -P 9 2816k 64k"),
	 true},
	{"zstd, snapshot", "compression_type=zstd", SNAP("one") " && " IO("write -P 7 0 200k"),
	 true},
	{"version 2", "compat=0.10", SNAP("one") " && " IO("write -P 7 0 200k"), false},
	{"clusters of 512", "cluster_size=512", SNAP("one") " && " IO("write -P 7 0 200k"), false},
	{"clusters of 2M", "cluster_size=2M", SNAP("one") " && " IO("write -P 7 0 200k"), false},
	{"refcounts of 1 bit", "refcount_bits=1", "true", false},
	{"refcounts of 2 bits", "refcount_bits=2", SNAP("one") " && " IO("write -P 7 0 9k"), false},
	{"refcounts of 64 bits", "refcount_bits=64", SNAP("one") " && " IO("write -P 7 0 9k"),
	 false},
	{"subclusters", "extended_l2=on",
	 IO("write -z 300k 4k") " && " SNAP("one") " && " IO("write -P 7 9k 20k") " && " IO(
		 "write -z 1M 3k"),
	 false},
	{"bitmaps", "",
	 "qemu-img bitmap --add -g 4096 i.qcow2 b1 && " IO("write -P 7 0 200k") " && " SNAP(
		 "one") " && qemu-img bitmap --add i.qcow2 b2 && " IO("write -P 8 1M 200k"),
	 false},
	{"grown between snapshots", "",
	 SNAP("one") " && qemu-img resize -q i.qcow2 40M && " IO("write -P 7 39M 200k") " && " SNAP(
		 "two"),
	 false},
	{"lazy refcounts", "lazy_refcounts=on", SNAP("one") " && " IO("write -P 7 0 200k"), false},
	{"preallocated", "preallocation=metadata", SNAP("one"), false},
};

/* i.qcow2 */
static void make(const struct shape *s)
{
	RUN("rm -f i.qcow2; qemu-img convert -O qcow2 %s -o size=3M%s%s r.raw i.qcow2 && { %s; }",
	    s->compressed ? "-c" : "", *s->options ? "," : "", s->options, s->steps);
}

static int setup(void **state)
{
	int r = scratch_setup(state);

	oracle_seed();
	return r ? r
		 : scratch_run(
			   "truncate -s 3M r.raw && dd if=/dev/urandom of=r.raw bs=64k count=20 "
			   "conv=notrunc status=none && yes words | dd of=r.raw bs=64k seek=30 "
			   "count=9 iflag=fullblock conv=notrunc status=none");
}

/* --- both checks ---------------------------------------------------------------------------- */

struct verdict {
	json_int_t leaks, errors, compressed, total;
};

static json_int_t number(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

static struct verdict qemu_check(const char *path)
{
	char *text = scratch_output("qemu-img check --output=json %s 2>/dev/null || true", path);
	json_t *v = json_loads(text, 0, NULL);
	struct verdict verdict;

	assert_non_null(v);
	assert_int_equal(number(v, "check-errors"), 0);
	verdict = (struct verdict){number(v, "leaks"), number(v, "corruptions"),
				   number(v, "compressed-clusters"), number(v, "total-clusters")};
	json_decref(v);
	free(text);
	return verdict;
}

static struct qcow2_check_result our_check(const char *path, bool repair)
{
	struct qcow2_check_result c;
	struct err err = ERR_INIT;

	if (qcow2_check(path, repair, &c, &err))
		fail_msg("%s", err.text);
	return c;
}

/* Both say the same about i.qcow2. */
static struct verdict agree(const char *what)
{
	struct qcow2_check_result ours = our_check("i.qcow2", false);
	struct verdict qemu = qemu_check("i.qcow2");
	json_int_t errors = ours.refcount_errors + ours.copied_errors + ours.corruptions;

	if ((json_int_t)ours.leaks != qemu.leaks || errors != qemu.errors)
		fail_msg(
			"%s: %llu leaks, %llu refcounts, %llu flags, %llu damaged; QEMU finds %lld "
			"leaks, %lld errors",
			what, (unsigned long long)ours.leaks,
			(unsigned long long)ours.refcount_errors,
			(unsigned long long)ours.copied_errors,
			(unsigned long long)ours.corruptions, (long long)qemu.leaks,
			(long long)qemu.errors);
	assert_int_equal(ours.total_clusters, qemu.total);
	assert_int_equal(ours.compressed_clusters, qemu.compressed);
	return qemu;
}

static void sound_images_have_no_faults(void **state)
{
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(shapes); i++) {
		struct verdict v;

		make(&shapes[i]);
		v = agree(shapes[i].name);
		if (v.leaks || v.errors)
			fail_msg("%s: QEMU finds faults in its own image", shapes[i].name);
		RUN("cp i.qcow2 same.qcow2");
		assert_int_equal(our_check("i.qcow2", true).fixed, 0);
		RUN("cmp i.qcow2 same.qcow2");
	}
}

/* --- damage --------------------------------------------------------------------------------- */

static uint64_t get(int fd, uint64_t off, unsigned bytes)
{
	unsigned char b[8] = {0};

	assert_int_equal(pread(fd, b + 8 - bytes, bytes, off), bytes);
	return load_be64(b);
}

static void put(int fd, uint64_t off, uint64_t value, unsigned bytes)
{
	unsigned char b[8];

	store_be64(b, value);
	assert_int_equal(pwrite(fd, b + 8 - bytes, bytes, off), bytes);
}

static uint64_t file_clusters(int fd, unsigned bits)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return div_up(st.st_size, 1ULL << bits);
}

/* Another refcount for some cluster that the first block covers; never that of the header, whose
 * loss QEMU does not survive. */
static void damage_refcount(int fd)
{
	unsigned bits = get(fd, QCOW2_H_CLUSTER_BITS, 4);
	unsigned order = get(fd, QCOW2_H_VERSION, 4) == 2 ? 4 : get(fd, QCOW2_H_REFCOUNT_ORDER, 4);
	uint64_t block = get(fd, get(fd, QCOW2_H_REFTABLE_OFFSET, 8), 8);
	uint64_t n = MIN(file_clusters(fd, bits), (8ULL << bits) >> order);
	uint64_t k = 1 + oracle_below(n - 1);

	if (order >= 3)
		put(fd, block + (k << (order - 3)), oracle_below(4), 1U << (order - 3));
	else
		put(fd, block + ((k << order) / 8), oracle_below(256), 1);
}

/* The COPIED flag of some entry of the active map that points somewhere. */
static void damage_flag(int fd)
{
	unsigned bits = get(fd, QCOW2_H_CLUSTER_BITS, 4);
	bool extended = get(fd, QCOW2_H_VERSION, 4) == 3 &&
			get(fd, QCOW2_H_INCOMPATIBLE, 8) & QCOW2_INCOMPAT_EXTENDED_L2;
	uint64_t l1 = get(fd, QCOW2_H_L1_OFFSET, 8), n = get(fd, QCOW2_H_L1_SIZE, 4), at, entry;
	unsigned tries;

	for (tries = 0; tries < 50; tries++) {
		at = l1 + oracle_below(n) * 8;
		entry = get(fd, at, 8);
		if (entry && oracle_below(4)) {
			at = (entry & QCOW2_ENTRY_OFFSET) +
			     oracle_below((1ULL << bits) / (extended ? 16 : 8)) *
				     (extended ? 16 : 8);
			entry = get(fd, at, 8);
		}
		if (!(entry & QCOW2_ENTRY_OFFSET) || entry & QCOW2_ENTRY_COMPRESSED)
			continue;
		put(fd, at, entry ^ QCOW2_ENTRY_COPIED, 8);
		return;
	}
}

static void damage(const char *path)
{
	unsigned i, n = 1 + oracle_below(8);
	int fd = open(path, O_RDWR);

	if (!oracle_below(3)) { /* space at the end that nothing mentions, or half a cluster */
		struct stat st;

		assert_int_equal(fstat(fd, &st), 0);
		assert_int_equal(ftruncate(fd, st.st_size + 512 * (1 + oracle_below(400))), 0);
	}
	for (i = 0; i < n; i++)
		(oracle_below(3) ? damage_refcount : damage_flag)(fd);
	close(fd);
}

/* Everything a reader can ask for, as raw files PREFIX-*. */
static void read_all(const char *prefix)
{
	RUN("rm -f %s-*; qemu-img convert -O raw i.qcow2 %s-disk && "
	    "qemu-img info -U --output=json i.qcow2 | jq -r '.snapshots // [] | .[].name' | "
	    "while read s; do qemu-img convert -O raw -l snapshot.name=$s i.qcow2 %s-$s; done",
	    prefix, prefix, prefix);
}

static void assert_reads_as_before(void)
{
	read_all("after");
	RUN("for f in before-*; do cmp $f after-${f#before-} || exit 1; done; "
	    "[ $(ls before-* | wc -l) = $(ls after-* | wc -l) ]");
}

static void faults_are_counted_as_by_qemu_and_repaired(void **state)
{
	unsigned i, round;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(shapes); i++) {
		make(&shapes[i]);
		read_all("before");
		RUN("cp i.qcow2 sound.qcow2");
		for (round = 0; round < 2; round++) {
			struct qcow2_check_result c;
			struct verdict v;

			RUN("cp sound.qcow2 i.qcow2");
			damage("i.qcow2");
			agree(shapes[i].name);
			c = our_check("i.qcow2", true);
			assert_int_equal(c.fixed, c.leaks + c.refcount_errors + c.copied_errors);
			v = agree(shapes[i].name);
			if (v.leaks || v.errors)
				fail_msg("%s: not repaired", shapes[i].name);
		}
		assert_reads_as_before();
		/* QEMU goes on with it */
		RUN("qemu-io -c 'write -P 77 0 1M' i.qcow2 >/dev/null && "
		    "qemu-img snapshot -l i.qcow2 | awk 'NR > 2 {print $2}' | "
		    "while read s; do qemu-img snapshot -d $s i.qcow2; done && "
		    "qemu-img check -q i.qcow2");
	}
}

/* All refcounts gone, as a power cut may leave them behind QEMU's lazy refcounts. */
static void refcounts_are_rebuilt_from_nothing(void **state)
{
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(shapes); i++) {
		bool v2 = strstr(shapes[i].options, "0.10");
		int fd;

		make(&shapes[i]);
		read_all("before");
		fd = open("i.qcow2", O_RDWR);
		put(fd, get(fd, QCOW2_H_REFTABLE_OFFSET, 8), 0, 8);
		if (!v2)
			put(fd, QCOW2_H_INCOMPATIBLE,
			    get(fd, QCOW2_H_INCOMPATIBLE, 8) | QCOW2_INCOMPAT_DIRTY, 8);
		close(fd);
		assert_int_equal(our_check("i.qcow2", false).dirty, !v2);
		our_check("i.qcow2", true);
		RUN("qemu-img check -q i.qcow2");
		assert_int_equal(our_check("i.qcow2", false).dirty, false);
		assert_reads_as_before();
	}
}

static void a_corrupt_mark_without_cause_is_taken_back(void **state)
{
	struct qcow2_check_result c;
	int fd;

	(void)state;
	make(&shapes[4]);
	fd = open("i.qcow2", O_RDWR);
	put(fd, QCOW2_H_INCOMPATIBLE, QCOW2_INCOMPAT_CORRUPT, 8);
	close(fd);
	c = our_check("i.qcow2", true);
	assert_true(c.corrupt);
	assert_false(our_check("i.qcow2", false).corrupt);
	RUN("qemu-io -c 'write 0 64k' i.qcow2 >/dev/null && qemu-img check -q i.qcow2");
}

/* --- tables that lie ------------------------------------------------------------------------ */

#define CS 65536ULL

/* Damage to "three snapshots": header fields, the snapshot table, what it points to. */
static void damaged_snapshots_are_reported_and_left_alone(void **state)
{
	static const struct {
		const char *what;
		unsigned at, bytes; /* in the header, or from the table on */
		uint64_t value;
		bool table;
	} row[] = {
		{"4 billion snapshots", QCOW2_H_SNAPSHOTS, 4, UINT32_MAX, false},
		{"one more than there are", QCOW2_H_SNAPSHOTS, 4, 3, false},
		{"a table in the header", QCOW2_H_SNAPSHOTS_OFFSET, 8, 0, false},
		{"a table at an odd place", QCOW2_H_SNAPSHOTS_OFFSET, 8, 5 * CS + 8, false},
		{"a table behind the end", QCOW2_H_SNAPSHOTS_OFFSET, 8, 1ULL << 50, false},
		{"a table that wraps", QCOW2_H_SNAPSHOTS_OFFSET, 8, UINT64_MAX - 7, false},
		{"an L1 in the header", 0, 8, 0, true},
		{"an L1 at an odd place", 0, 8, 8 * CS + 512, true},
		{"an L1 behind the end", 0, 8, 1ULL << 40, true},
		{"an L1 that wraps", 0, 8, UINT64_MAX - CS + 1, true},
		{"an L1 of 32 GiB", 8, 4, UINT32_MAX, true},
		{"an L1 of 32 MiB in a small file", 8, 4, 4 << 20, true},
		{"the active L1 again", 0, 8, 3 * CS, true},
		{"extra data of 4 GiB", 36, 4, UINT32_MAX, true},
		{"a name that runs over the table", 14, 2, UINT16_MAX, true},
	};
	struct qcow2_check_result c;
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(row); i++) {
		int fd;

		make(&shapes[5]);
		fd = open("i.qcow2", O_RDWR);
		put(fd, row[i].at + (row[i].table ? get(fd, QCOW2_H_SNAPSHOTS_OFFSET, 8) : 0),
		    row[i].value, row[i].bytes);
		close(fd);
		RUN("cp i.qcow2 before.qcow2");
		c = our_check("i.qcow2", true);
		if (!c.corruptions || c.fixed)
			fail_msg("%s: %llu corruptions, %llu fixed", row[i].what,
				 (unsigned long long)c.corruptions, (unsigned long long)c.fixed);
		RUN("cmp i.qcow2 before.qcow2");
	}
}

/* Many maps that all point to one table: what counting costs is bounded by the file. */
static void a_table_used_from_everywhere_is_read_once(void **state)
{
	enum { ENTRIES = 4 << 20 };
	struct qcow2_check_result c;
	unsigned char *l1 = malloc(ENTRIES * 8ULL);
	int fd;
	size_t i;

	(void)state;
	RUN("rm -f i.qcow2; qemu-img create -q -f qcow2 -o cluster_size=2M i.qcow2 1T && "
	    "qemu-io -c 'write 0 4k' i.qcow2 >/dev/null");
	fd = open("i.qcow2", O_RDWR);
	for (i = 0; i < ENTRIES; i++)
		store_be64(l1 + i * 8, get(fd, get(fd, QCOW2_H_L1_OFFSET, 8), 8));
	assert_int_equal(pwrite(fd, l1, ENTRIES * 8ULL, 64 << 20), ENTRIES * 8LL);
	put(fd, QCOW2_H_L1_OFFSET, 64 << 20, 8);
	put(fd, QCOW2_H_L1_SIZE, ENTRIES, 4);
	close(fd);
	c = our_check("i.qcow2", false); /* ten terabytes, were each walked */
	assert_true(c.corruptions > 0);
	free(l1);
}

/* A hole of a petabyte costs neither memory nor time. */
static void a_file_that_is_mostly_a_hole_is_checked_at_once(void **state)
{
	struct qcow2_check_result c;

	(void)state;
	make(&shapes[4]);
	if (truncate("i.qcow2", 8LL << 40)) {
		print_message("no file of 8 TiB here\n");
		assert_int_equal(truncate("i.qcow2", 1LL << 40), 0);
	}
	c = our_check("i.qcow2", true);
	assert_int_equal(c.corruptions + c.leaks + c.refcount_errors, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sound_images_have_no_faults),
		cmocka_unit_test(faults_are_counted_as_by_qemu_and_repaired),
		cmocka_unit_test(refcounts_are_rebuilt_from_nothing),
		cmocka_unit_test(a_corrupt_mark_without_cause_is_taken_back),
		cmocka_unit_test(damaged_snapshots_are_reported_and_left_alone),
		cmocka_unit_test(a_table_used_from_everywhere_is_read_once),
		cmocka_unit_test(a_file_that_is_mostly_a_hole_is_checked_at_once),
	};

	return cmocka_run_group_tests(tests, setup, scratch_teardown);
}
