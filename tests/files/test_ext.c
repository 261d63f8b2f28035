/*
 * ext2, ext3 and ext4: everything mke2fs put on a disk is read back through qcow2, the same.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "tests/files/rig.h"
#include "tests/support/scratch.h"

static const char *const lost_found[] = {"lost+found", NULL};

static int setup(void **state)
{
	int r = scratch_setup(state);

	if (r)
		return r;
	rig_make_tree("tree", 220, false);
	rig_make_tree("small", 3, false);
	return 0;
}

static void make_fs(const char *type, const char *options, const char *size, const char *tree,
		    const char *raw)
{
	if (scratch_run("truncate -s %s %s && mke2fs -q -F -t %s %s -L label-%s -d %s %s 2>&1",
			size, raw, type, options, type, tree, raw))
		fail_msg("no %s", type);
}

static void one_partition(struct files *s, const char *type, const char *label)
{
	const struct files_partition *p;
	unsigned n;

	p = files_partitions(s, &n);
	assert_int_equal(n, 1);
	assert_int_equal(p[0].number, 1);
	assert_string_equal(p[0].type, type);
	assert_string_equal(p[0].label, label);
	assert_true(p[0].readable);
	assert_false(p[0].needs_recovery);
	assert_string_equal(p[0].note, "");
	assert_string_equal(files_table(s), "none");
}

static void check(const char *image, const char *type, const char *label, const char *tree)
{
	struct files *s = rig_open(image);

	one_partition(s, type, label);
	assert_true(rig_compare(s, "/partition-1", tree, true, lost_found) > 2015);
	assert_true(files_alive(s));
	files_close(s);
}

static void test_ext4(void **state)
{
	(void)state;
	make_fs("ext4", "-m 0", "400M", "tree", "ext4.raw");
	rig_write_qcow2("ext4.raw", "ext4.qcow2", NULL, NULL);
	check("ext4.qcow2", "ext4", "label-ext4", "tree");
}

static void test_older_and_stranger(void **state)
{
	static const char *const kinds[][3] = {
		{"ext2", "-b 1024", "ext2"},
		{"ext3", "-b 1024", "ext3"},
		{"ext4", "-O inline_data,metadata_csum,64bit -I 512", "ext4"},
		{"ext4", "-O bigalloc,^resize_inode -C 65536", "ext4"},
		{"ext4", "-O ^extents,^64bit,^flex_bg,^metadata_csum -b 2048", "ext3"},
		{"ext4", "-O metadata_csum,metadata_csum_seed,ea_inode,large_dir,casefold", "ext4"},
	};
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		char label[32];

		print_message("%s %s\n", kinds[i][0], kinds[i][1]);
		scratch_run("rm -f odd.raw odd.qcow2");
		make_fs(kinds[i][0], kinds[i][1], "300M", "small", "odd.raw");
		if (scratch_run("qemu-img convert -q -c -O qcow2 odd.raw odd.qcow2"))
			fail_msg("no image");
		snprintf(label, sizeof(label), "label-%s", kinds[i][0]);
		check("odd.qcow2", kinds[i][2], label, "small");
	}
}

/* As a machine leaves it that was running: read, and said. */
static void test_needs_recovery(void **state)
{
	const struct files_partition *p;
	struct files *s;
	unsigned n;

	(void)state;
	make_fs("ext4", "-m 0", "100M", "small", "run.raw");
	assert_int_equal(scratch_run("debugfs -w -R 'feature needs_recovery' run.raw 2>&1"), 0);
	rig_write_qcow2("run.raw", "run.qcow2", NULL, NULL);
	s = rig_open("run.qcow2");
	p = files_partitions(s, &n);
	assert_true(p[0].readable);
	assert_true(p[0].needs_recovery);
	assert_non_null(strstr(p[0].note, "journal"));
	assert_true(rig_compare(s, "/partition-1", "small", true, lost_found) > 2015);
	files_close(s);
}

/* A link that makes no sense costs itself, not the session. */
static void test_damaged_link(void **state)
{
	char target[FILES_LINK_SIZE];
	struct err err = ERR_INIT;
	struct files *s;

	(void)state;
	make_fs("ext4", "-m 0 -b 1024", "100M", "small", "link.raw");
	if (scratch_run("b=$(debugfs -R 'blocks long' link.raw 2>/dev/null) && "
			"dd if=/dev/zero of=link.raw bs=1 count=1 seek=$((b * 1024 + 10)) "
			"conv=notrunc status=none"))
		fail_msg("no damage");
	rig_write_qcow2("link.raw", "link.qcow2", NULL, NULL);
	s = rig_open("link.qcow2");
	assert_int_equal(files_readlink(s, "/partition-1/long", target, sizeof(target), &err),
			 FILES_E_DAMAGED);
	assert_true(files_alive(s));
	assert_int_equal(files_readlink(s, "/partition-1/short", target, sizeof(target), &err), 0);
	assert_string_equal(target, "hello.txt");
	files_close(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ext4),
		cmocka_unit_test(test_older_and_stranger),
		cmocka_unit_test(test_needs_recovery),
		cmocka_unit_test(test_damaged_link),
	};

	return cmocka_run_group_tests_name("files/ext", tests, setup, scratch_teardown);
}
