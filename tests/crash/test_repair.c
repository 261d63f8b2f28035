/*
 * The power is cut at every write of a repair. What is left reads as before, its snapshots too, and
 * a second repair makes it sound; qemu-img is the judge of both. The seed is printed; SEED=n
 * repeats a run.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "qcow2/format.h"
#include "qcow2/repair.h"
#include "tests/support/faultfile.h"
#include "tests/support/oracle.h"
#include "tests/support/scratch.h"

#define RUN(...) assert_int_equal(scratch_run(__VA_ARGS__), 0)
#define CUTS	 10 /* of each shape: all, or other ones with every seed */

static const struct shape {
	const char *name, *options, *steps;
	bool rebuild; /* no refcount is left, instead of some being wrong */
} shapes[] = {
	{"snapshots", "cluster_size=4k",
	 "qemu-img snapshot -c one i && qemu-io -c 'write -P 1 100k 700k' i >/dev/null && "
	 "qemu-img snapshot -c two i && qemu-io -c 'write -P 2 0 200k' i >/dev/null",
	 false},
	{"snapshots, from nothing", "cluster_size=4k",
	 "qemu-img snapshot -c one i && qemu-io -c 'write -P 1 100k 700k' i >/dev/null", true},
	{"many refcount blocks", "cluster_size=512",
	 "qemu-img snapshot -c one i && qemu-io -c 'write -P 1 100k 700k' i >/dev/null", true},
	{"version 2", "compat=0.10,cluster_size=1k",
	 "qemu-img snapshot -c one i && qemu-io -c 'write -P 1 100k 90k' i >/dev/null", false},
	{"one-bit refcounts", "cluster_size=1k,refcount_bits=1", "true", true},
};

static int setup(void **state)
{
	int r = scratch_setup(state);

	oracle_seed();
	return r ? r
		 : scratch_run(
			   "truncate -s 2M r.raw && dd if=/dev/urandom of=r.raw bs=64k count=20 "
			   "conv=notrunc status=none");
}

/* Other refcounts, no COPIED flag in L1, and space at the end that nobody uses. */
static void damage(const struct shape *s)
{
	unsigned char b[8] = {0}, junk[512];
	uint64_t table, block, l1;
	int fd = open("i", O_RDWR);

	assert_int_equal(pread(fd, b, 8, QCOW2_H_REFTABLE_OFFSET), 8);
	table = load_be64(b);
	assert_int_equal(pread(fd, b, 8, table), 8);
	block = load_be64(b);
	assert_int_equal(pread(fd, b, 8, QCOW2_H_L1_OFFSET), 8);
	l1 = load_be64(b);
	assert_int_equal(pread(fd, b, 1, l1), 1);
	b[0] &= 0x7f;
	assert_int_equal(pwrite(fd, b, 1, l1), 1);
	if (s->rebuild) {
		memset(b, 0, 8);
		assert_int_equal(pwrite(fd, b, 8, table), 8);
	} else {
		oracle_fill(junk, sizeof(junk));
		assert_int_equal(pwrite(fd, junk, 64, block + 64), 64);
	}
	assert_int_equal(ftruncate(fd, lseek(fd, 0, SEEK_END) + (64 << 10)), 0);
	close(fd);
}

/* What QEMU reads of NAME and its snapshots, as PREFIX-*. */
static void read_all(const char *name, const char *prefix)
{
	RUN("rm -f %s-*; qemu-img convert -O raw %s %s-disk && "
	    "for s in $(qemu-img snapshot -l %s | awk 'NR > 2 {print $2}'); do "
	    "qemu-img convert -O raw -l snapshot.name=$s %s %s-$s || exit 1; done",
	    prefix, name, prefix, name, name, prefix);
}

/* Repairs a copy of i whose power is cut at operation @cut (0: never); the operations there were.
 */
static uint64_t repair(uint64_t cut, uint64_t seed, const char *left)
{
	struct faultfile_opts opts = {.seed = seed, .cut_at = cut};
	struct faultfile *ff = faultfile_new(&opts);
	struct err err = ERR_INIT;
	struct file *file;
	uint64_t ops;
	int r;

	assert_int_equal(file_open(&file, "i", FILE_RDONLY, &err), 0);
	r = qcow2_repair_file(faultfile_wrap(file, ff), "i", &err);
	if (cut ? !faultfile_is_cut(ff) : r)
		fail_msg("%s", err.text);
	faultfile_cut(ff);
	unlink(left);
	assert_int_equal(faultfile_dump(ff, left, 0), 0);
	ops = faultfile_ops(ff);
	faultfile_free(ff);
	return ops;
}

static void assert_reads_as_before(const char *what)
{
	read_all("left", "after");
	if (scratch_run("for f in before-*; do cmp $f after-${f#before-} || exit 1; done"))
		fail_msg("%s", what);
}

static void a_cut_repair_changes_nothing_and_can_be_repeated(void **state)
{
	struct qcow2_check_result c;
	unsigned i, k;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(shapes); i++) {
		const struct shape *s = &shapes[i];
		uint64_t ops;

		RUN("rm -f i; qemu-img convert -O qcow2 -o %s r.raw i && { %s; }", s->options,
		    s->steps);
		read_all("i", "before");
		damage(s);
		ops = repair(0, oracle_rnd(), "left");
		oracle_assert_clean("left");
		assert_reads_as_before(s->name);
		for (k = 1; k <= MIN(ops, CUTS); k++) {
			uint64_t cut = ops <= CUTS ? k : 1 + oracle_below(ops), seed = oracle_rnd();

			print_message("%s: cut at %llu of %llu\n", s->name, (unsigned long long)cut,
				      (unsigned long long)ops);
			repair(cut, seed, "left");
			assert_reads_as_before(s->name);
			assert_int_equal(qcow2_check("left", true, &c, NULL), 0);
			assert_int_equal(c.corruptions, 0);
			oracle_assert_clean("left");
			assert_reads_as_before(s->name);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_cut_repair_changes_nothing_and_can_be_repeated),
	};

	return cmocka_run_group_tests(tests, setup, scratch_teardown);
}
