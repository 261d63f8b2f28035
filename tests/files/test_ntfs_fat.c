/*
 * NTFS, FAT and exFAT, filled by drivers that are not ours, read back the same.
 */
#include <errno.h>
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
#include "tests/files/rig.h"
#include "tests/support/scratch.h"

static int setup(void **state)
{
	int r = scratch_setup(state);

	if (r)
		return r;
	rig_make_tree("tree", 30, true);
	rig_make_tree("small", 3, true);
	/* mtools take minutes for thousands of names, and know no character beyond U+FFFF */
	return scratch_run(
		"rm small/many/*[0-9][0-9][0-9].txt && mv small/Schnee* small/Schnee☃.txt");
}

/* Copies @tree into the file system in @raw through a driver of user space. */
static void fill(const char *mount, const char *raw, const char *tree)
{
	if (access("/dev/fuse", R_OK | W_OK)) {
		print_message("no FUSE here\n");
		skip();
	}
	assert_true(!mkdir("mnt", 0755) || !access("mnt", F_OK));
	if (scratch_run("%s %s mnt 2>&1 && cp -r --sparse=always %s/. mnt/", mount, raw, tree)) {
		scratch_run("umount mnt 2>&1");
		fail_msg("cannot fill %s", raw);
	}
}

/* The driver goes on writing to @device for a moment after the unmount. */
static void done_filling(const char *device)
{
	if (scratch_run("for i in $(seq 50); do umount mnt 2>/dev/null && exit 0; sleep 0.1; done; "
			"fusermount3 -u mnt 2>&1"))
		fail_msg("cannot unmount");
	if (scratch_run("for i in $(seq 600); do ls -l /proc/[0-9]*/fd 2>/dev/null | "
			"grep -q -- \"-> $(realpath %s)\\$\" || exit 0; sleep 0.1; done; exit 1",
			device))
		fail_msg("%s is still in use", device);
}

static struct files *open_as(const char *raw, const char *type, const char *label)
{
	const struct files_partition *p;
	struct files *s;
	unsigned n;

	unlink("disk.qcow2");
	rig_write_qcow2(raw, "disk.qcow2", NULL, NULL);
	s = rig_open("disk.qcow2");
	p = files_partitions(s, &n);
	assert_int_equal(n, 1);
	assert_string_equal(p[0].type, type);
	assert_string_equal(p[0].label, label);
	assert_true(p[0].readable);
	return s;
}

/* Reparse points, as Windows writes them: a symbolic link, a junction, a deduplicated file, and a
 * link whose lengths lie. */
static void make_reparse_points(void)
{
	if (scratch_run("cat >reparse.py <<'EOF'\n"
			"import os, struct\n"
			"def put(name, tag, body):\n"
			"    os.setxattr('mnt/' + name, 'system.ntfs_reparse_data',\n"
			"                struct.pack('<IHH', tag, len(body), 0) + body)\n"
			"def names(text, lie=0):\n"
			"    t = text.encode('utf-16le')\n"
			"    return struct.pack('<HHHH', 0, len(t), len(t), len(t) + lie), t + t\n"
			"for n in ('symlink', 'dedup', 'liar'):\n"
			"    open('mnt/' + n, 'w').close()\n"
			"os.mkdir('mnt/junction')\n"
			"n, t = names('..\\\\data\\\\\u2603.txt')\n"
			"put('symlink', 0xa000000c, n + struct.pack('<I', 1) + t)\n"
			"n, t = names('C:\\\\data')\n"
			"put('junction', 0xa0000003, n + t)\n"
			"put('dedup', 0x80000013, b'elsewhere' * 8)\n"
			"n, t = names('data', 4000)\n"
			"put('liar', 0xa000000c, n + struct.pack('<I', 1) + t)\n"
			"EOF\n"
			"python3 reparse.py"))
		fail_msg("no reparse points");
}

/* In a folder that is marked so files are compressed (LZNT1). */
static void make_compressed(void)
{
	if (scratch_run(
		    "mkdir packed mnt/packed && seq 400000 >packed/text && "
		    "head -c 300000 /dev/urandom >packed/noise && truncate -s 5M packed/text && "
		    "python3 -c \"import os; os.setxattr('mnt/packed', 'system.ntfs_attrib_be', "
		    "bytes((0, 0, 8, 0)))\" && cp packed/* mnt/packed/ && "
		    "test $(stat -c %%b mnt/packed/text) -lt 5000"))
		fail_msg("nothing compressed");
}

static void links_to(struct files *s, const char *path, const char *target)
{
	char shown[FILES_LINK_SIZE];
	struct err err = ERR_INIT;
	struct files_entry e;

	rig_stat(s, path, &e);
	assert_int_equal(e.kind, FILES_SYMLINK);
	assert_int_equal(e.size, strlen(target));
	if (files_readlink(s, path, shown, sizeof(shown), &err))
		fail_msg("%s: %s", path, err.text);
	assert_string_equal(shown, target);
}

/* What would read as empty, or as zeroes, is not given out. */
static void is_kept_back(struct files *s, const char *path)
{
	struct err err = ERR_INIT;
	struct files_entry e;
	char buf[16];

	rig_stat(s, path, &e);
	assert_int_equal(e.kind, FILES_OTHER);
	assert_int_equal(files_read(s, path, 0, buf, sizeof(buf), &err), -EIO);
	assert_int_equal(err.code, FILES_E_KIND);
}

static void test_ntfs(void **state)
{
	static const char *const reparse[] = {"symlink", "junction", "dedup",
					      "liar",	 "packed",   NULL};
	struct files_entry e;
	struct files *s;

	(void)state;
	assert_int_equal(scratch_run("truncate -s 100M ntfs.raw && mkntfs -q -F -L Daten ntfs.raw"),
			 0);
	fill("ntfs-3g -o compression", "ntfs.raw", "tree");
	make_reparse_points();
	make_compressed();
	done_filling("ntfs.raw");
	s = open_as("ntfs.raw", "ntfs", "");
	assert_true(rig_compare(s, "/partition-1", "tree", false, reparse) > 2010);
	assert_int_equal(rig_compare(s, "/partition-1/packed", "packed", false, NULL), 2);
	links_to(s, "/partition-1/symlink", "../data/\u2603.txt");
	links_to(s, "/partition-1/junction", "C:/data");
	is_kept_back(s, "/partition-1/dedup");
	is_kept_back(s, "/partition-1/liar");
	/* as Windows does it */
	rig_stat(s, "/partition-1/HELLO.TXT", &e);
	assert_int_equal(e.size, 6);
	files_close(s);
}

/* A file of so many pieces that its map fills several entries of the MFT, most of which are lost:
 * it is not to be read as one with zeroes where those pieces were. */
static void test_ntfs_lost_map(void **state)
{
	static char buf[FILES_READ_BEST];
	struct err err = ERR_INIT;
	struct files *s;
	struct files_entry e;
	uint64_t off;
	int64_t n, i;

	(void)state;
	assert_int_equal(
		scratch_run("truncate -s 100M parts.raw && mkntfs -q -F -c 4096 parts.raw"), 0);
	fill("ntfs-3g", "parts.raw", "small");
	assert_int_equal(scratch_run("cat >parts.py <<'EOF'\n"
				     "with open('mnt/parts', 'wb') as f:\n"
				     "    for i in range(3000):\n"
				     "        f.seek(i * 8192)\n"
				     "        f.write(b'x' * 4096)\n"
				     "EOF\n"
				     "python3 parts.py && stat -c %%i mnt/parts >inode"),
			 0);
	done_filling("parts.raw");
	assert_int_equal(
		scratch_run("cat >lose.py <<'EOF'\n"
			    "n = int(open('inode').read())\n"
			    "f = open('parts.raw', 'r+b')\n"
			    "d = f.read()\n"
			    "at = [i for i in range(0, len(d), 1024) if d[i:i+4] == b'FILE'\n"
			    "      and int.from_bytes(d[i+32:i+38], 'little') == n]\n"
			    "assert len(at) > 3\n"
			    "for i in at[1:-1]:\n"
			    "    f.seek(i + 510)\n"
			    "    f.write(b'XX')\n"
			    "EOF\n"
			    "python3 lose.py"),
		0);
	s = open_as("parts.raw", "ntfs", "");
	rig_stat(s, "/partition-1/parts", &e);
	assert_int_equal(e.size, 2999 * 8192 + 4096);
	for (n = 1, off = 0; n > 0; off += (uint64_t)n) {
		n = files_read(s, "/partition-1/parts", off, buf, sizeof(buf), &err);
		for (i = 0; i < n; i += 8192)
			if (buf[i] != 'x')
				fail_msg("zeroes at %llu", (unsigned long long)(off + (uint64_t)i));
	}
	assert_int_equal(n, -EIO);
	assert_int_equal(err.code, FILES_E_DAMAGED);
	assert_true(files_alive(s));
	files_close(s);
}

static void test_fat(void **state)
{
	static const char *const bits[] = {"12", "16", "32"};
	char type[8];
	struct files *s;
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(bits); i++) {
		unlink("fat.raw");
		if (scratch_run("truncate -s %s fat.raw && mkfs.fat -F %s -n DATEN%s %s fat.raw && "
				"mcopy -s -i fat.raw small/* ::/",
				i == 0 ? "20M" : "300M", bits[i], bits[i], i == 0 ? "-s 16" : ""))
			fail_msg("no FAT%s", bits[i]);
		snprintf(type, sizeof(type), "DATEN%s", bits[i]);
		snprintf(type, sizeof(type), "fat%s", bits[i]);
		s = open_as("fat.raw", type, i == 0 ? "DATEN12" : i == 1 ? "DATEN16" : "DATEN32");
		assert_true(rig_compare(s, "/partition-1", "small", false, NULL) > 100);
		files_close(s);
	}
}

/* Its driver of user space wants a block device. */
static void test_exfat(void **state)
{
	char *loop;
	struct files *s;

	(void)state;
	assert_int_equal(scratch_run("truncate -s 100M exfat.raw && mkfs.exfat -L Daten exfat.raw"),
			 0);
	loop = scratch_output("losetup --show -f exfat.raw 2>/dev/null");
	loop[strcspn(loop, "\n")] = '\0';
	if (!*loop) {
		free(loop);
		print_message("no loop device to be had\n");
		skip();
	}
	fill("mount.exfat-fuse", loop, "tree");
	done_filling(loop);
	scratch_run("losetup -d %s", loop);
	free(loop);
	s = open_as("exfat.raw", "exfat", "");
	assert_true(rig_compare(s, "/partition-1", "tree", false, NULL) > 2010);
	files_close(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ntfs),
		cmocka_unit_test(test_ntfs_lost_map),
		cmocka_unit_test(test_fat),
		cmocka_unit_test(test_exfat),
	};

	return cmocka_run_group_tests_name("files/ntfs_fat", tests, setup, scratch_teardown);
}
