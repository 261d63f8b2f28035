#include "tests/files/rig.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "qcow2/session.h"
#include "tests/support/scratch.h"

#define PIECE (64U << 10)

/* --- what is on the disks ------------------------------------------------------------------- */

static void make(const char *cmd, const char *tree)
{
	if (scratch_run("cd '%s' && { %s; }", tree, cmd))
		fail_msg("cannot make the tree: %s", cmd);
}

void rig_make_tree(const char *tree, unsigned random_mib, bool plain)
{
	assert_int_equal(mkdir(tree, 0755), 0);
	make("mkdir -p many deep/a/b/c/d/e/f; echo hello >hello.txt; : >empty", tree);
	make("for i in $(seq 2000); do echo $i >many/file-number-$i.txt; done", tree);
	make("echo low >deep/a/b/c/d/e/f/low.txt; echo blank >'with a blank.txt'", tree);
	make("echo snow >'Schnee ☃ \xf0\x9f\x8f\x94.txt'", tree);
	make("truncate -s 2500000 sparse; echo mid | dd of=sparse bs=1 seek=700000 conv=notrunc "
	     "2>&1",
	     tree);
	make("echo end >>sparse", tree);
	if (scratch_run("head -c %uM /dev/urandom >'%s/random'", random_mib, tree))
		fail_msg("no random file");
	if (plain)
		return;
	make("ln -s hello.txt short; ln -s /nowhere/at/all dangling; ln -s ../.. deep/up", tree);
	make("ln -s $(printf 'long/%.0s' $(seq 40)) long; ln hello.txt hard; mkfifo pipe", tree);
	make("chmod 4711 hello.txt; chmod 0 empty; touch -d '2001-02-03 04:05:06.789012345' empty",
	     tree);
	make("echo latin >\"$(printf 'caf\\351')\"; echo bell >\"$(printf 'a\\007b')\"", tree);
	make("echo private >\"$(printf '\\356\\276\\200')\"", tree);
	make("truncate -s 6G holes; echo end >>holes", tree);
}

/* --- images --------------------------------------------------------------------------------- */

static unsigned char *piece_of(int fd, unsigned char *buf, uint64_t off, size_t len)
{
	memset(buf, 0, len);
	if (fd >= 0 && pread(fd, buf, len, (off_t)off) < 0)
		fail_msg("cannot read a raw file");
	return buf;
}

static void write_difference(struct qcow2_session *s, int fd, int before, uint64_t size)
{
	static unsigned char now[PIECE], then[PIECE];
	uint64_t off, len;

	for (off = 0; off < size; off += PIECE) {
		len = MIN(PIECE, size - off);
		if (memcmp(piece_of(fd, now, off, len), piece_of(before, then, off, len), len))
			assert_int_equal(qcow2_session_write(s, off, now, len), 0);
	}
}

void rig_write_qcow2(const char *raw, const char *image, const char *backing,
		     const char *backing_raw)
{
	int fd = open(raw, O_RDONLY), before = backing ? open(backing_raw, O_RDONLY) : -1;
	struct qcow2_create_opts create = {.backing = backing};
	struct qcow2_open_opts opts = {.writable = true};
	struct qcow2_session s;
	struct stat st;
	struct err err;

	assert_true(fd >= 0 && (!backing || before >= 0));
	assert_int_equal(fstat(fd, &st), 0);
	create.size = (uint64_t)st.st_size;
	if (qcow2_create(image, &create, &err) || qcow2_session_init(&s, 4, &err) ||
	    qcow2_session_open(&s, image, &opts, &err))
		fail_msg("%s", err.text);
	write_difference(&s, fd, before, create.size);
	if (qcow2_session_close(&s, &err))
		fail_msg("%s", err.text);
	qcow2_session_deinit(&s);
	close(fd);
	if (before >= 0)
		close(before);
}

const char *rig_worker(void)
{
	const char *build = getenv("BUILD");
	static char path[PATH_MAX];

	if (!build)
		fail_msg("BUILD is not set: run by make test");
	snprintf(path, sizeof(path), "%s/bin/sendense-files", build);
	return path;
}

struct files *rig_open(const char *image)
{
	struct files_opts opts = {.image = image, .worker = rig_worker()};
	struct files *s;
	struct err err = ERR_INIT;

	if (files_open(&s, &opts, &err))
		fail_msg("%s", err.text);
	return s;
}

void rig_stat(struct files *s, const char *path, struct files_entry *out)
{
	struct err err = ERR_INIT;

	if (files_stat(s, path, out, &err))
		fail_msg("%s: %s", path, err.text);
}

/* --- comparing ------------------------------------------------------------------------------ */

struct compare {
	struct files *s;
	bool unix_like;
	unsigned count;
};

struct names {
	char **name;
	size_t count, room;
};

static int collect(void *arg, const struct files_entry *e)
{
	struct names *n = arg;

	if (n->count == n->room) {
		n->room = n->room ? 2 * n->room : 64;
		n->name = realloc(n->name, n->room * sizeof(*n->name));
		assert_non_null(n->name);
	}
	n->name[n->count++] = strdup(e->name);
	return 0;
}

static void names_deinit(struct names *n)
{
	while (n->count)
		free(n->name[--n->count]);
	free(n->name);
}

static bool among(const char *name, const char *const *list)
{
	for (; list && *list; list++)
		if (!strcmp(name, *list))
			return true;
	return false;
}

static void compare_file(struct compare *c, const char *path, const char *local)
{
	static char ours[FILES_READ_BEST + 1000], theirs[sizeof(ours)];
	struct err err = ERR_INIT;
	int fd = open(local, O_RDONLY);
	struct stat st;
	off_t off = 0, data;
	int64_t n;

	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	for (;; off += n) {
		/* of a very large hole, the last piece will do */
		data = lseek(fd, off, SEEK_DATA);
		if (data > off + (64 << 20))
			off = data - 5000;
		n = files_read(c->s, path, (uint64_t)off, ours, sizeof(ours), &err);
		if (n < 0) {
			fail_msg("%s: %s", path, err.text);
			break; /* never: the compiler is to know it */
		}
		assert_int_equal(pread(fd, theirs, sizeof(theirs), off), n);
		if (memcmp(ours, theirs, (size_t)n))
			fail_msg("%s differs within %zu bytes of %lld", path, (size_t)n,
				 (long long)off);
		if (n < (int64_t)sizeof(ours))
			break;
	}
	assert_int_equal(off + n, st.st_size);
	close(fd);
}

static void compare_link(struct compare *c, const char *path, const char *local)
{
	char shown[FILES_LINK_SIZE], raw[FILES_LINK_SIZE], theirs[PATH_MAX];
	struct err err = ERR_INIT;
	ssize_t n = readlink(local, theirs, sizeof(theirs));

	if (files_readlink(c->s, path, shown, sizeof(shown), &err))
		fail_msg("%s: %s", path, err.text);
	assert_int_equal(files_name_raw(raw, shown), n);
	assert_memory_equal(raw, theirs, (size_t)n);
}

static void compare_attributes(struct compare *c, const char *path, const struct files_entry *e,
			       const struct stat *st)
{
	enum files_kind kind = S_ISREG(st->st_mode)   ? FILES_FILE
			       : S_ISDIR(st->st_mode) ? FILES_DIR
			       : S_ISLNK(st->st_mode) ? FILES_SYMLINK
						      : FILES_OTHER;

	if (e->kind != kind)
		fail_msg("%s is of kind %d", path, e->kind);
	if (kind == FILES_FILE || kind == FILES_SYMLINK)
		assert_int_equal(e->size, st->st_size);
	if (!c->unix_like)
		return;
	assert_int_equal(e->mode, st->st_mode & 07777);
	assert_int_equal(e->uid, st->st_uid);
	assert_int_equal(e->gid, st->st_gid);
	/* a link may be made anew */
	if (kind == FILES_FILE)
		assert_int_equal(e->mtime, st->st_mtim.tv_sec);
}

static void compare_folder(struct compare *c, const char *path, const char *local,
			   const char *const *extra);

static void compare_one(struct compare *c, const char *path, const char *local)
{
	struct files_entry e;
	struct stat st;

	if (lstat(local, &st))
		fail_msg("%s is in the backup, and not in %s", path, local);
	rig_stat(c->s, path, &e);
	compare_attributes(c, path, &e, &st);
	c->count++;
	if (e.kind == FILES_DIR)
		compare_folder(c, path, local, NULL);
	else if (e.kind == FILES_FILE)
		compare_file(c, path, local);
	else if (e.kind == FILES_SYMLINK)
		compare_link(c, path, local);
}

static size_t count_local(const char *folder)
{
	DIR *d = opendir(folder);
	size_t n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2; /* "." and ".." */
}

static void compare_folder(struct compare *c, const char *path, const char *local,
			   const char *const *extra)
{
	struct names n = {0};
	struct files_list list = {.each = collect, .arg = &n};
	char guest[FILES_PATH_SIZE], here[PATH_MAX], raw[FILES_NAME_SIZE];
	struct err err = ERR_INIT;
	size_t i, seen = 0;

	if (files_list(c->s, path, &list, &err))
		fail_msg("%s: %s", path, err.text);
	assert_int_equal(list.seen, n.count);
	assert_int_equal(list.unusable, 0);
	assert_false(list.more);
	for (i = 0; i < n.count; i++) {
		if (among(n.name[i], extra))
			continue;
		files_name_raw(raw, n.name[i]);
		snprintf(guest, sizeof(guest), "%s/%s", path, n.name[i]);
		snprintf(here, sizeof(here), "%s/%s", local, raw);
		compare_one(c, guest, here);
		seen++;
	}
	if (seen != count_local(local))
		fail_msg("%s has %zu entries, %s has %zu", path, seen, local, count_local(local));
	names_deinit(&n);
}

unsigned rig_compare(struct files *s, const char *path, const char *folder, bool unix_like,
		     const char *const *extra)
{
	struct compare c = {.s = s, .unix_like = unix_like};

	compare_folder(&c, path, folder, extra);
	return c.count;
}
