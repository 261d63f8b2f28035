/*
 * File systems whose metadata was damaged, some hundred ways: whatever the worker makes of them,
 * this side goes on, every call ends with a result, and nothing is left behind. The damage comes
 * from one seed, which is printed; SEED=n repeats it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "qcow2/session.h"
#include "tests/files/rig.h"
#include "tests/support/oracle.h"
#include "tests/support/scratch.h"

#define ROUNDS	     60U
#define SECONDS	     12.0 /* for one kind; a busy machine does fewer rounds */
#define ROUNDS_LEAST 5U
#define PIECE	     65536U

static int setup(void **state)
{
	int r = scratch_setup(state);

	oracle_seed();
	return r ? r
		 : scratch_run("mkdir -p t/sub/sub && for i in $(seq 30); do echo $i >t/sub/f$i; "
			       "done && "
			       "seq 20000 >t/numbers && ln -s numbers t/link && "
			       "ln -s $(printf 'x/%%.0s' $(seq 60)) t/long");
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* --- damage --------------------------------------------------------------------------------- */

struct victim {
	unsigned char *raw;
	size_t size, used; /* bytes; sectors that hold something */
	uint32_t *sector;
};

static void load(struct victim *v, const char *path)
{
	int fd = open(path, O_RDONLY);
	struct stat st;
	size_t i;

	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	v->size = (size_t)st.st_size;
	v->raw = malloc(v->size);
	v->sector = calloc(v->size / 512, sizeof(*v->sector));
	assert_true(v->raw && v->sector);
	assert_int_equal(read(fd, v->raw, v->size), v->size);
	close(fd);
	for (v->used = i = 0; i < v->size / 512; i++)
		if (!bytes_all_zero(v->raw + i * 512, 512))
			v->sector[v->used++] = (uint32_t)i;
}

/* An overlay in which one to four stretches of up to 64 bytes are different. */
static void damage(const struct victim *v, const char *overlay)
{
	struct qcow2_create_opts create = {.size = v->size, .backing = "base.qcow2"};
	struct qcow2_open_opts opts = {.writable = true};
	struct qcow2_session s;
	unsigned n = 1 + (unsigned)oracle_below(4);
	struct err err;

	unlink(overlay);
	if (qcow2_create(overlay, &create, &err) || qcow2_session_init(&s, 2, &err) ||
	    qcow2_session_open(&s, overlay, &opts, &err))
		fail_msg("%s", err.text);
	while (n--) {
		uint64_t off = v->sector[oracle_below(v->used)] * 512ULL + oracle_below(512);
		size_t len = 1 + oracle_below(64), i;
		unsigned char bytes[64];
		unsigned how = (unsigned)oracle_below(3);

		len = MIN(len, v->size - off);
		for (i = 0; i < len; i++)
			bytes[i] = how ? how == 1 ? 0xff : 0 : (unsigned char)oracle_rnd();
		assert_int_equal(qcow2_session_write(&s, off, bytes, len), 0);
	}
	if (qcow2_session_close(&s, &err))
		fail_msg("%s", err.text);
	qcow2_session_deinit(&s);
}

/* --- looking at everything ------------------------------------------------------------------ */

struct tour {
	struct files *s;
	unsigned entries, failed;
	uint64_t bytes;
};

struct found {
	char path[FILES_PATH_SIZE];
	enum files_kind kind;
	uint64_t size;
};

struct finds {
	const char *folder;
	struct found found[40];
	unsigned count;
};

static int find(void *arg, const struct files_entry *e)
{
	struct finds *f = arg;
	struct found *one = &f->found[f->count];

	if (snprintf(one->path, sizeof(one->path), "%s/%s", f->folder, e->name) <
	    (int)sizeof(one->path)) {
		one->kind = e->kind;
		one->size = e->size;
		f->count++;
	}
	return f->count == ARRAY_SIZE(f->found);
}

static void look_at(struct tour *t, const char *folder, unsigned depth);

static void look_at_one(struct tour *t, const struct found *f, unsigned depth)
{
	static char buf[256 << 10];
	char target[FILES_LINK_SIZE];
	struct files_entry e;
	struct err err = ERR_INIT;
	int64_t n;

	t->entries++;
	t->failed += files_stat(t->s, f->path, &e, &err) != 0;
	if (f->kind == FILES_DIR && depth < 5)
		look_at(t, f->path, depth + 1);
	t->failed += files_readlink(t->s, f->path, target, sizeof(target), &err) < 0;
	n = files_read(t->s, f->path, 0, buf, sizeof(buf), &err);
	assert_true(n <= (int64_t)sizeof(buf));
	t->bytes += n > 0 ? (uint64_t)n : 0;
	t->failed += n < 0;
	if (f->size > sizeof(buf)) /* the end of what may claim to be very long */
		files_read(t->s, f->path, f->size - 100, buf, 4096, &err);
}

static void look_at(struct tour *t, const char *folder, unsigned depth)
{
	struct finds *f = calloc(1, sizeof(*f));
	struct files_list list = {.each = find, .arg = f};
	struct err err = ERR_INIT;
	unsigned i;

	assert_non_null(f);
	f->folder = folder;
	files_list(t->s, *folder ? folder : "/", &list, &err);
	for (i = 0; i < f->count && t->entries < 300 && files_alive(t->s); i++)
		look_at_one(t, &f->found[i], depth);
	free(f);
}

static unsigned open_descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void torment(const char *raw)
{
	struct files_opts opts = {
		.image = "hurt.qcow2", .worker = rig_worker(), .call_timeout_ms = 5000};
	unsigned rounds, lost = 0, refused = 0, entries = 0, before = open_descriptors();
	double start = now();
	struct victim v;
	struct err err;

	load(&v, raw);
	unlink("base.qcow2");
	rig_write_qcow2(raw, "base.qcow2", NULL, NULL);
	for (rounds = 0; rounds < ROUNDS && (rounds < ROUNDS_LEAST || now() - start < SECONDS);
	     rounds++) {
		struct tour t = {0};

		damage(&v, "hurt.qcow2");
		if (files_open(&t.s, &opts, &err)) {
			refused++;
			continue;
		}
		look_at(&t, "", 0);
		entries += t.entries;
		lost += !files_alive(t.s);
		files_close(t.s);
	}
	free(v.raw);
	free(v.sector);
	print_message("%s: %u disks, %u entries seen, %u workers lost, %u not opened, %.1f s\n",
		      raw, rounds, entries, lost, refused, now() - start);
	assert_true(refused < rounds);
	assert_true(entries >= rounds - refused); /* its partition at least */
	assert_int_equal(open_descriptors(), before);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
}

static void made(int r)
{
	assert_int_equal(r, 0);
}

static void test_ext4(void **state)
{
	(void)state;
	made(scratch_run("truncate -s 4M e && mke2fs -q -F -t ext4 -O ^metadata_csum -d t e"));
	torment("e");
}

static void test_ext4_checksums(void **state)
{
	(void)state;
	made(scratch_run("truncate -s 4M c && mke2fs -q -F -t ext4 -O metadata_csum,inline_data "
			 "-I 256 -d t c"));
	torment("c");
}

static void test_ext2(void **state)
{
	(void)state;
	made(scratch_run("truncate -s 4M o && mke2fs -q -F -t ext2 -b 1024 -d t o"));
	torment("o");
}

static void test_ntfs(void **state)
{
	(void)state;
	made(scratch_run(
		"truncate -s 4M n && mkntfs -q -F n && for f in numbers sub/f1 sub/f2 sub/f3; "
		"do ntfscp -q -f n t/$f $(basename $f) || exit 1; done"));
	torment("n");
}

static void test_fat(void **state)
{
	(void)state;
	made(scratch_run("truncate -s 4M f && mkfs.fat f && mcopy -s -i f t/sub t/numbers ::/"));
	torment("f");
}

static void test_exfat(void **state)
{
	(void)state;
	made(scratch_run("truncate -s 4M x && mkfs.exfat x"));
	torment("x");
}

static void test_table(void **state)
{
	(void)state;
	made(scratch_run("truncate -s 8M g && printf 'label: dos\\nsize=2048\\ntype=5\\n"
			 "size=1024\\nsize=1024\\n' | sfdisk -q g && truncate -s 8M h && "
			 "printf 'label: gpt\\nsize=2048\\nsize=2048\\n' | sfdisk -q h"));
	torment("g");
	torment("h");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ext4),  cmocka_unit_test(test_ext4_checksums),
		cmocka_unit_test(test_ext2),  cmocka_unit_test(test_ntfs),
		cmocka_unit_test(test_fat),   cmocka_unit_test(test_exfat),
		cmocka_unit_test(test_table),
	};

	return cmocka_run_group_tests_name("files/hostile", tests, setup, scratch_teardown);
}
