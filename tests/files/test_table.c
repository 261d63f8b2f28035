/*
 * Partition tables made by sfdisk: GPT, MBR with logical partitions, none, damaged ones; and the
 * names of what cannot be read.
 */
#include <fcntl.h>
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

static int setup(void **state)
{
	int r = scratch_setup(state);

	if (r)
		return r;
	if (scratch_run("mkdir t1 t2 && echo one >t1/one.txt && echo two >t2/two.txt && "
			"truncate -s 8M e1 && mke2fs -q -F -t ext4 -L first -d t1 e1 && "
			"truncate -s 8M e2 && mke2fs -q -F -t ext2 -d t2 e2 && "
			"truncate -s 8M f1 && mkfs.fat -n FATTY f1 && mcopy -i f1 t1/one.txt ::/"))
		return -1;
	return 0;
}

/* A disk of 64 MiB with what sfdisk is told. */
static void make_disk(const char *raw, const char *script)
{
	if (scratch_run("rm -f %s; truncate -s 64M %s && printf '%s' | sfdisk -q %s", raw, raw,
			script, raw))
		fail_msg("no disk: %s", script);
}

static void put(const char *raw, const char *fs, unsigned mib)
{
	if (scratch_run("dd if=%s of=%s bs=1M seek=%u conv=notrunc status=none", fs, raw, mib))
		fail_msg("cannot place %s", fs);
}

static struct files *open_raw(const char *raw)
{
	unlink("disk.qcow2");
	rig_write_qcow2(raw, "disk.qcow2", NULL, NULL);
	return rig_open("disk.qcow2");
}

static const struct files_partition *partition(struct files *s, unsigned index, unsigned number,
					       const char *type, uint64_t mib)
{
	const struct files_partition *p;
	unsigned n;

	p = files_partitions(s, &n);
	assert_true(index < n);
	p += index;
	assert_int_equal(p->number, number);
	assert_string_equal(p->type, type);
	assert_int_equal(p->off, mib * MIB);
	return p;
}

static void has_file(struct files *s, const char *path, const char *content)
{
	struct err err = ERR_INIT;
	char buf[64];
	int64_t n = files_read(s, path, 0, buf, sizeof(buf), &err);

	if (n < 0)
		fail_msg("%s: %s", path, err.text);
	assert_int_equal(n, strlen(content));
	assert_memory_equal(buf, content, (size_t)n);
}

static unsigned count(struct files *s)
{
	unsigned n;

	files_partitions(s, &n);
	return n;
}

#define GPT_SCRIPT                                                                                 \
	"label: gpt\\nstart=2048,size=16384,name=\"the first\"\\n"                                 \
	"3: start=20480,size=16384,name=\"Daten \\xe2\\x98\\x83\"\\n5: start=40960,size=16384\\n"

static void check_gpt(struct files *s)
{
	const struct files_partition *p;

	assert_string_equal(files_table(s), "gpt");
	assert_int_equal(count(s), 3);
	p = partition(s, 0, 1, "ext4", 1);
	assert_string_equal(p->label, "first");
	assert_int_equal(p->size, 8 * MIB);
	p = partition(s, 1, 3, "ext2", 10);
	assert_string_equal(p->label, "Daten \xe2\x98\x83");
	p = partition(s, 2, 5, "fat12", 20);
	assert_string_equal(p->label, "FATTY");
	has_file(s, "/partition-1/one.txt", "one\n");
	has_file(s, "/partition-3/two.txt", "two\n");
	has_file(s, "/partition-5/ONE.TXT", "one\n");
}

static void make_gpt(void)
{
	make_disk("gpt.raw", GPT_SCRIPT);
	put("gpt.raw", "e1", 1);
	put("gpt.raw", "e2", 10);
	put("gpt.raw", "f1", 20);
}

static void test_gpt(void **state)
{
	struct files *s;

	(void)state;
	make_gpt();
	s = open_raw("gpt.raw");
	check_gpt(s);
	files_close(s);
	/* the front is gone: the copy at the end is read */
	assert_int_equal(
		scratch_run("dd if=/dev/zero of=gpt.raw bs=512 seek=1 count=1 conv=notrunc "
			    "status=none"),
		0);
	s = open_raw("gpt.raw");
	check_gpt(s);
	files_close(s);
}

static void test_mbr(void **state)
{
	struct files *s;

	(void)state;
	make_disk("mbr.raw", "label: dos\\nstart=2048,size=16384,type=83\\n"
			     "start=20480,size=80000,type=5\\nstart=22528,size=16384,type=83\\n"
			     "start=40960,size=16384,type=c\\n");
	put("mbr.raw", "e1", 1);
	put("mbr.raw", "e2", 11);
	put("mbr.raw", "f1", 20);
	s = open_raw("mbr.raw");
	assert_string_equal(files_table(s), "mbr");
	assert_int_equal(count(s), 3);
	partition(s, 0, 1, "ext4", 1);
	partition(s, 1, 5, "ext2", 11);
	partition(s, 2, 6, "fat12", 20);
	has_file(s, "/partition-1/one.txt", "one\n");
	has_file(s, "/partition-5/two.txt", "two\n");
	has_file(s, "/partition-6/one.txt", "one\n");
	files_close(s);
}

static const unsigned char *le(uint32_t v)
{
	static unsigned char b[4];

	b[0] = (unsigned char)v;
	b[1] = (unsigned char)(v >> 8);
	b[2] = (unsigned char)(v >> 16);
	b[3] = (unsigned char)(v >> 24);
	return b;
}

static void patch(const char *raw, off_t at, const void *bytes, size_t len);

/* An entry of the table in sector @sector: @type, at @start, @size sectors. */
static void set_entry(const char *raw, off_t sector, unsigned index, unsigned char type,
		      uint32_t start, uint32_t size)
{
	off_t at = sector * 512 + 446 + 16 * (off_t)index;

	patch(raw, at, "\0\0\0\0\0\0\0\0", 8);
	patch(raw, at + 4, &type, 1);
	patch(raw, at + 8, le(start), 4);
	patch(raw, at + 12, le(size), 4);
}

/* A logical partition that was made in a gap is the last of the chain, and not of the disk. */
static void test_logical_out_of_order(void **state)
{
	struct files *s;

	(void)state;
	make_disk("gap.raw", "label: dos\\nstart=20480,size=80000,type=5\\n"
			     "start=22528,size=16384,type=83\\n"
			     "start=40960,size=16384,type=83\\n"
			     "start=63488,size=16384,type=83\\n");
	put("gap.raw", "e1", 11);
	put("gap.raw", "e2", 20);
	put("gap.raw", "f1", 31);
	/* first -> third -> second; sfdisk puts each link 2048 sectors before its partition */
	set_entry("gap.raw", 20480, 1, 5, 61440 - 20480, 18432);
	set_entry("gap.raw", 61440, 1, 5, 38912 - 20480, 18432);
	set_entry("gap.raw", 38912, 1, 0, 0, 0);
	s = open_raw("gap.raw");
	assert_int_equal(count(s), 3);
	partition(s, 0, 5, "ext4", 11);
	partition(s, 1, 6, "fat12", 31);
	partition(s, 2, 7, "ext2", 20);
	has_file(s, "/partition-7/two.txt", "two\n");
	files_close(s);
	/* one that does not lie on the disk keeps its number */
	set_entry("gap.raw", 61440, 0, 0x83, 0x7fffffff, 16384);
	s = open_raw("gap.raw");
	assert_int_equal(count(s), 2);
	partition(s, 1, 7, "ext2", 20);
	files_close(s);
}

/* Two extended partitions: every number is given once, as Linux does. */
static void test_two_extended(void **state)
{
	struct files *s;

	(void)state;
	make_disk("two.raw", "label: dos\\nstart=20480,size=20480,type=5\\n"
			     "start=22528,size=16384,type=83\\n");
	put("two.raw", "e1", 11);
	put("two.raw", "e2", 31);
	set_entry("two.raw", 0, 1, 5, 61440, 20480);
	set_entry("two.raw", 61440, 0, 0x83, 2048, 16384);
	patch("two.raw", 61440 * 512 + 510, "\x55\xaa", 2);
	s = open_raw("two.raw");
	assert_int_equal(count(s), 2);
	partition(s, 0, 5, "ext4", 11);
	partition(s, 1, 6, "ext2", 31);
	has_file(s, "/partition-6/two.txt", "two\n");
	files_close(s);
}

/* What the whole disk held before it got partitions is still there in the gap before the first. */
static void test_left_over(void **state)
{
	struct files *s;

	(void)state;
	make_disk("left.raw", "label: dos\\nstart=2048,size=16384,type=83\\n");
	put("left.raw", "e1", 1);
	patch("left.raw", 512, "LABELONE", 8);
	patch("left.raw", 512 + 24, "LVM2 001", 8);
	s = open_raw("left.raw");
	assert_string_equal(files_table(s), "mbr");
	partition(s, 0, 1, "ext4", 1);
	has_file(s, "/partition-1/one.txt", "one\n");
	files_close(s);
	/* the other way round: the table is what is left over */
	assert_int_equal(scratch_run("dd if=/dev/zero of=left.raw bs=1M seek=1 count=8 "
				     "conv=notrunc status=none"),
			 0);
	s = open_raw("left.raw");
	assert_string_equal(files_table(s), "none");
	partition(s, 0, 1, "lvm2", 0);
	files_close(s);
}

/* Disks of sectors of 4096 bytes. */
static void test_large_sectors(void **state)
{
	struct files *s;
	unsigned i;

	(void)state;
	if (scratch_run("rm -f large.raw; truncate -s 64M large.raw && "
			"printf 'g\\nn\\n1\\n256\\n+2048\\nn\\n3\\n2560\\n+2048\\nw\\n' | "
			"fdisk -b 4096 large.raw"))
		fail_msg("no disk");
	put("large.raw", "e1", 1);
	put("large.raw", "f1", 10);
	for (i = 0; i < 2; i++) {
		s = open_raw("large.raw");
		assert_string_equal(files_table(s), "gpt");
		assert_int_equal(count(s), 2);
		partition(s, 0, 1, "ext4", 1);
		partition(s, 1, 3, "fat12", 10);
		has_file(s, "/partition-1/one.txt", "one\n");
		files_close(s);
		/* and by the copy at the end */
		patch("large.raw", 4096, "\0\0\0\0\0\0\0\0", 8);
	}
}

/* FAT's own first sector looks like an MBR's. */
static void test_no_table(void **state)
{
	static const char *const fs[][2] = {{"e1", "ext4"}, {"e2", "ext2"}, {"f1", "fat12"}};
	struct files *s;
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(fs); i++) {
		s = open_raw(fs[i][0]);
		assert_string_equal(files_table(s), "none");
		assert_int_equal(count(s), 1);
		partition(s, 0, 1, fs[i][1], 0);
		files_close(s);
	}
}

static void test_empty_disks(void **state)
{
	static const char *const size[] = {"512", "4096", "1M", "100G"};
	const struct files_partition *p;
	struct files_entry e;
	struct err err = ERR_INIT;
	struct files *s;
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(size); i++) {
		scratch_run("rm -f empty.qcow2");
		assert_int_equal(scratch_run("qemu-img create -q -f qcow2 empty.qcow2 %s", size[i]),
				 0);
		s = rig_open("empty.qcow2");
		assert_int_equal(count(s), 1);
		p = partition(s, 0, 1, "unknown", 0);
		assert_false(p->readable);
		assert_non_null(strstr(p->note, "restore the whole disk"));
		assert_int_equal(files_stat(s, "/partition-1", &e, &err), FILES_E_UNSUPPORTED);
		assert_non_null(strstr(err.text, "restore the whole disk"));
		assert_true(files_alive(s));
		files_close(s);
	}
}

/* Named, with what to do. */
static void test_unreadable(void **state)
{
	static const struct {
		const char *type, *make;
	} kinds[] = {
		{"swap", "mkswap -q x"},
		{"luks", "printf 'LUKS\\272\\276\\0\\2' | dd of=x conv=notrunc status=none"},
		{"lvm2", "printf 'LABELONE\\1\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\040\\0\\0\\0LVM2 "
			 "001' | dd of=x "
			 "seek=1 conv=notrunc status=none"},
		{"xfs", "printf XFSB | dd of=x conv=notrunc status=none"},
		{"bitlocker",
		 "printf '\\353\\130\\220-FVE-FS-' | dd of=x conv=notrunc status=none"},
		/* an incompatible feature of tomorrow */
		{"ext4",
		 "cp e1 x && printf '\\200' | dd of=x bs=1 seek=$((1024 + 96 + 3)) conv=notrunc "
		 "status=none"},
	};
	const struct files_partition *p;
	struct files *s;
	unsigned i, n;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (scratch_run("rm -f x; truncate -s 8M x; %s", kinds[i].make))
			fail_msg("no %s", kinds[i].type);
		s = open_raw("x");
		p = files_partitions(s, &n);
		assert_int_equal(n, 1);
		assert_string_equal(p->type, kinds[i].type);
		assert_false(p->readable);
		assert_true(*p->note);
		files_close(s);
	}
}

/* Partitions that lie outside the disk, chains of logical ones that do not end, headers whose
 * checksum is wrong: what makes sense is shown. */
static void patch(const char *raw, off_t at, const void *bytes, size_t len)
{
	int fd = open(raw, O_WRONLY);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, bytes, len, at), len);
	close(fd);
}

static void test_nonsense(void **state)
{
	static const unsigned char loop[16] = {0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0};
	static const unsigned char far_off[8] = {0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff};
	struct files *s;

	(void)state;
	make_disk("bad.raw", "label: dos\\nstart=2048,size=16384,type=83\\n"
			     "start=20480,size=80000,type=5\\nstart=22528,size=16384,type=83\\n");
	put("bad.raw", "e1", 1);
	patch("bad.raw", 20480 * 512 + 446 + 16, loop, sizeof(loop)); /* the next link: itself */
	s = open_raw("bad.raw");
	assert_int_equal(count(s), 2);
	has_file(s, "/partition-1/one.txt", "one\n");
	files_close(s);
	patch("bad.raw", 446 + 8, far_off, sizeof(far_off));
	s = open_raw("bad.raw");
	assert_int_equal(count(s), 1);
	partition(s, 0, 5, "unknown", 11);
	files_close(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_gpt),	      cmocka_unit_test(test_mbr),
		cmocka_unit_test(test_no_table),      cmocka_unit_test(test_empty_disks),
		cmocka_unit_test(test_unreadable),    cmocka_unit_test(test_nonsense),
		cmocka_unit_test(test_two_extended),  cmocka_unit_test(test_left_over),
		cmocka_unit_test(test_large_sectors), cmocka_unit_test(test_logical_out_of_order),
	};

	return cmocka_run_group_tests_name("files/table", tests, setup, scratch_teardown);
}
