/*
 * ext4 as a running machine leaves it: the newest state is in the journal alone. debugfs, of the
 * file system's own tools, writes the journals; nothing of it may end up in the backup.
 */
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
#include "tests/files/rig.h"
#include "tests/support/scratch.h"

static const char *const lost_found[] = {"lost+found", NULL};

/* old.raw with the tree "old"; new.raw, the same after changes, with the tree "new". A new file has
 * blocks that begin as the journal's own do. */
static int setup(void **state)
{
	int r = scratch_setup(state);

	return r ? r
		 : scratch_run(
			   "mkdir -p old/d && for i in $(seq 40); do echo $i >old/d/f$i; done && "
			   "seq 5000 >old/numbers && cp -a old new && rm new/d/f7 && "
			   "echo moved >new/d/g && "
			   "for i in 1 2 3; do printf '\\300\\073\\071\\230' && head -c 4092 "
			   "/dev/urandom; "
			   "done >new/magic && truncate -s 20M base.raw && "
			   "mke2fs -q -F -b 4096 -t ext4 -J size=4 -d old base.raw && "
			   "cp base.raw new.raw && printf 'rm d/f7\\nwrite new/d/g d/g\\n"
			   "write new/magic magic\\n' | debugfs -w -f - new.raw 2>&1 && "
			   "touch new/d/g new/magic");
}

/* What of @to differs from @from goes into the journal of @raw, a transaction each. */
static void journal_difference(const char *raw, const char *from, const char *to,
			       const char *options)
{
	if (scratch_run("cat >difference.py <<'EOF'\n"
			"import sys\n"
			"a, b = open('%s', 'rb').read(), open('%s', 'rb').read()\n"
			"print('jo %s')\n"
			"for n in range(0, len(a), 4096):\n"
			"    if a[n:n + 4096] != b[n:n + 4096] and n:\n"
			"        open('block-%%d' %% n, 'wb').write(b[n:n + 4096])\n"
			"        print('jw -b %%d block-%%d' %% (n // 4096, n))\n"
			"print('jc')\n"
			"EOF\n"
			"python3 difference.py >commands && grep -q jw commands && "
			"debugfs -w -f commands %s 2>&1",
			from, to, options, raw))
		fail_msg("no journal");
}

static struct files *open_raw(const char *raw)
{
	const struct files_partition *p;
	struct files *s;
	unsigned n;

	unlink("disk.qcow2");
	rig_write_qcow2(raw, "disk.qcow2", NULL, NULL);
	s = rig_open("disk.qcow2");
	p = files_partitions(s, &n);
	assert_true(p->needs_recovery);
	assert_true(p->readable);
	return s;
}

static void newest_state(const char *options)
{
	char *before, *after;
	struct files *s;

	assert_int_equal(scratch_run("cp base.raw run.raw"), 0);
	journal_difference("run.raw", "base.raw", "new.raw", options);
	s = open_raw("run.raw");
	before = scratch_output("sha256sum disk.qcow2");
	assert_true(rig_compare(s, "/partition-1", "new", false, lost_found) > 40);
	files_close(s);
	after = scratch_output("sha256sum disk.qcow2");
	assert_string_equal(before, after);
	free(before);
	free(after);
}

static void test_newest(void **state)
{
	(void)state;
	newest_state("");
}

static void test_newest_with_checksums(void **state)
{
	(void)state;
	newest_state("-c");
}

/* The kernel's own: what is in the journal at a moment of work. */
static void test_by_the_kernel(void **state)
{
	struct files *s;

	(void)state;
	if (scratch_run("mkdir -p mnt && cp base.raw live.raw && mount -o loop live.raw mnt "
			"2>/dev/null")) {
		print_message("nothing can be mounted here\n");
		skip();
	}
	if (scratch_run(
		    "trap 'umount mnt' EXIT; rm mnt/d/f9 && mkdir mnt/fresh && "
		    "cp old/numbers mnt/fresh/ && mv mnt/d/f10 mnt/fresh/ && sync -f mnt && "
		    "for i in $(seq 200); do echo $i >mnt/fresh/n$i; done && rm mnt/fresh/n*7 && "
		    "mkdir mnt/later && echo end >mnt/later/end && sync mnt/later/end && "
		    "blockdev --flushbufs $(findmnt -n -o SOURCE mnt) && cp live.raw copy.raw && "
		    "cp -a mnt seen"))
		fail_msg("no live file system");
	s = open_raw("copy.raw");
	assert_true(rig_compare(s, "/partition-1", "seen", true, NULL) > 200);
	files_close(s);
}

/* Committed, and then revoked: the block has another use since. */
static void test_revoked(void **state)
{
	struct files *s;

	(void)state;
	if (scratch_run("cp base.raw run.raw && head -c 4096 /dev/urandom >noise && "
			"B=$(debugfs -R 'bmap numbers 0' run.raw 2>/dev/null) && "
			"printf \"jo\\njw -b $B noise\\njc\\njo\\njw -r $B\\njc\\n\" | "
			"debugfs -w -f - run.raw 2>&1"))
		fail_msg("no journal");
	s = open_raw("run.raw");
	assert_true(rig_compare(s, "/partition-1", "old", false, lost_found) > 40);
	files_close(s);
}

/* A block in the journal that is not what was written there: nothing is guessed. */
static void test_damaged(void **state)
{
	struct err err = ERR_INIT;
	struct files_entry e;
	struct files *s;

	(void)state;
	assert_int_equal(scratch_run("cp base.raw run.raw"), 0);
	journal_difference("run.raw", "base.raw", "new.raw", "-c");
	assert_int_equal(scratch_run("B=$(debugfs -R 'bmap <8> 2' run.raw 2>/dev/null) && "
				     "printf X | dd of=run.raw bs=1 seek=$((B * 4096 + 1000)) "
				     "conv=notrunc status=none"),
			 0);
	s = open_raw("run.raw");
	assert_int_equal(files_stat(s, "/partition-1/numbers", &e, &err), FILES_E_DAMAGED);
	print_message("%s\n", err.text);
	assert_non_null(strstr(err.text, "journal"));
	assert_true(files_alive(s));
	files_close(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_newest),	      cmocka_unit_test(test_newest_with_checksums),
		cmocka_unit_test(test_revoked),	      cmocka_unit_test(test_damaged),
		cmocka_unit_test(test_by_the_kernel),
	};

	return cmocka_run_group_tests_name("files/journal", tests, setup, scratch_teardown);
}
