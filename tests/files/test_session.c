/*
 * The face of a session: paths, listings in pieces, what is refused and how; chains of points; and
 * workers that die, hang or lie: this program plays them, under other names.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "files/proto.h"
#include "tests/files/rig.h"
#include "tests/support/scratch.h"

static int setup(void **state)
{
	int r = scratch_setup(state);

	if (r)
		return r;
	rig_make_tree("tree", 20, false);
	if (scratch_run("truncate -s 100M fs.raw && mke2fs -q -F -t ext4 -d tree fs.raw && "
			"debugfs -w -R 'sif empty mtime_extra 3156049380' fs.raw 2>&1"))
		return -1;
	rig_write_qcow2("fs.raw", "fs.qcow2", NULL, NULL);
	return 0;
}

static void refused(struct files *s, const char *path, int code)
{
	struct err err = ERR_INIT;
	struct files_entry e;
	int r = files_stat(s, path, &e, &err);

	if (r != code || err.code != code || !err.text[0])
		fail_msg("\"%s\": %d %s", path, r, err.text);
}

static void test_paths(void **state)
{
	struct files *s = rig_open("fs.qcow2");
	char path[FILES_PATH_SIZE + 10];
	struct files_entry e;

	(void)state;
	refused(s, "", FILES_E_PATH);
	refused(s, "partition-1", FILES_E_PATH);
	refused(s, "//", FILES_E_PATH);
	refused(s, "/partition-1//deep", FILES_E_PATH);
	refused(s, "/partition-1/./deep", FILES_E_PATH);
	refused(s, "/partition-1/../partition-1", FILES_E_PATH);
	refused(s, "/..", FILES_E_PATH);
	refused(s, "/partition-1/deep/..", FILES_E_PATH);
	refused(s, "/partition-2", FILES_E_NOT_FOUND);
	refused(s, "/partition-01", FILES_E_NOT_FOUND);
	refused(s, "/partition-1/nothing", FILES_E_NOT_FOUND);
	refused(s, "/partition-1/hello.txt/below", FILES_E_NOT_FOUND);
	/* through a link, which leads to a folder that is there */
	refused(s, "/partition-1/deep/up/hello.txt", FILES_E_NOT_FOUND);
	memset(path, 'a', sizeof(path));
	memcpy(path, "/partition-1/", 13);
	path[sizeof(path) - 1] = '\0';
	refused(s, path, FILES_E_PATH);
	path[13 + 1200] = '\0';
	refused(s, path, FILES_E_PATH);
	path[13 + 300] = '\0';
	refused(s, path, FILES_E_NOT_FOUND);

	rig_stat(s, "/", &e);
	assert_int_equal(e.kind, FILES_DIR);
	assert_string_equal(e.name, "/");
	rig_stat(s, "/partition-1", &e);
	assert_int_equal(e.kind, FILES_DIR);
	assert_string_equal(e.name, "partition-1");
	rig_stat(s, "/partition-1/deep/a/", &e);
	assert_string_equal(e.name, "a");
	rig_stat(s, "/partition-1/caf\xee\xbf\xa9", &e);
	assert_int_equal(e.size, 6);
	assert_string_equal(e.name, "caf\xee\xbf\xa9");
	rig_stat(s, "/partition-1/empty", &e);
	assert_int_equal(e.mtime_ns, 789012345);
	assert_true(files_alive(s));
	files_close(s);
}

static void test_kinds(void **state)
{
	struct files *s = rig_open("fs.qcow2");
	char target[FILES_LINK_SIZE], buf[16];
	struct files_list list = {.max = 1};
	struct err err = ERR_INIT;
	struct files_entry e;

	(void)state;
	assert_int_equal(files_read(s, "/partition-1/deep", 0, buf, 16, &err), -EIO);
	assert_int_equal(err.code, FILES_E_KIND);
	assert_int_equal(files_read(s, "/partition-1", 0, buf, 16, &err), -EIO);
	assert_int_equal(files_read(s, "/", 0, buf, 16, &err), -EIO);
	assert_int_equal(files_read(s, "/partition-1/short", 0, buf, 16, &err), -EIO);
	assert_int_equal(err.code, FILES_E_KIND);
	rig_stat(s, "/partition-1/pipe", &e);
	assert_int_equal(e.kind, FILES_OTHER);
	assert_int_equal(files_read(s, "/partition-1/pipe", 0, buf, 16, &err), -EIO);
	assert_int_equal(err.code, FILES_E_KIND);
	assert_int_equal(files_read(s, "/partition-1/nothing", 0, buf, 16, &err), -EIO);
	assert_int_equal(err.code, FILES_E_NOT_FOUND);
	assert_int_equal(files_list(s, "/partition-1/hello.txt", &list, &err), FILES_E_KIND);
	assert_int_equal(files_list(s, "/partition-1/short", &list, &err), FILES_E_KIND);
	assert_int_equal(files_readlink(s, "/partition-1/deep", target, sizeof(target), &err),
			 FILES_E_KIND);
	assert_int_equal(files_readlink(s, "/partition-1/short", target, 4, &err), -ENAMETOOLONG);
	/* at, behind and far behind the end */
	assert_int_equal(files_read(s, "/partition-1/hello.txt", 4, buf, 16, &err), 2);
	assert_int_equal(files_read(s, "/partition-1/hello.txt", 6, buf, 16, &err), 0);
	assert_int_equal(files_read(s, "/partition-1/hello.txt", UINT64_MAX, buf, 16, &err), 0);
	assert_true(files_alive(s));
	files_close(s);
}

/* --- listing -------------------------------------------------------------------------------- */

static int count_up(void *arg, const struct files_entry *e)
{
	assert_true(e->name[0]);
	(*(unsigned *)arg)++;
	return 0;
}

static int stop_at_three(void *arg, const struct files_entry *e)
{
	(void)e;
	return ++*(unsigned *)arg == 3 ? 42 : 0;
}

static int remember(void *arg, const struct files_entry *e)
{
	strcpy(arg, e->name);
	return 0;
}

static void test_listing(void **state)
{
	struct files *s = rig_open("fs.qcow2");
	char first[FILES_NAME_SIZE], again[FILES_NAME_SIZE];
	struct err err = ERR_INIT;
	unsigned n = 0, pages;
	struct files_list list = {.max = 300, .each = count_up, .arg = &n};

	(void)state;
	for (pages = 0; !pages || list.more; pages++) {
		list.skip = list.seen;
		assert_int_equal(files_list(s, "/partition-1/many", &list, &err), 0);
	}
	assert_int_equal(pages, 7);
	assert_int_equal(n, 2000);
	assert_int_equal(list.seen, 2000);
	/* the order is the same each time */
	list = (struct files_list){.skip = 1234, .max = 1, .each = remember, .arg = first};
	assert_int_equal(files_list(s, "/partition-1/many", &list, &err), 0);
	list.arg = again;
	assert_int_equal(files_list(s, "/partition-1/many", &list, &err), 0);
	assert_string_equal(first, again);
	/* exactly all, and more than there are */
	list = (struct files_list){.max = 2000, .each = count_up, .arg = &n};
	assert_int_equal(files_list(s, "/partition-1/many", &list, &err), 0);
	assert_false(list.more);
	list.skip = 5000;
	assert_int_equal(files_list(s, "/partition-1/many", &list, &err), 0);
	assert_false(list.more);
	assert_int_equal(list.seen, 2000);
	/* who has seen enough; the next call is not disturbed */
	n = 0;
	list = (struct files_list){.each = stop_at_three, .arg = &n};
	assert_int_equal(files_list(s, "/partition-1/many", &list, &err), 42);
	assert_int_equal(n, 3);
	n = 0;
	list = (struct files_list){.each = count_up, .arg = &n};
	assert_int_equal(files_list(s, "/", &list, &err), 0);
	assert_int_equal(n, 1);
	assert_false(list.more);
	list.skip = 7;
	assert_int_equal(files_list(s, "/", &list, &err), 0);
	assert_int_equal(n, 1);
	files_close(s);
}

/* --- chains --------------------------------------------------------------------------------- */

/* A full point and an incremental one: each shows its own files. */
static void test_chain(void **state)
{
	static const char *const lost_found[] = {"lost+found", NULL};
	struct files *s;

	(void)state;
	if (scratch_run("cp fs.raw fs2.raw && cp -a tree tree2 && echo new >tree2/new.txt && "
			"head -c 3M /dev/urandom >tree2/new.bin && rm tree2/hello.txt && "
			"printf 'rm hello.txt\\nwrite tree2/new.txt new.txt\\nwrite tree2/new.bin "
			"new.bin\\n' "
			"| debugfs -w -f - fs2.raw 2>&1"))
		fail_msg("no second state");
	scratch_run("touch tree2/new.txt tree2/new.bin");
	rig_write_qcow2("fs2.raw", "incr.qcow2", "fs.qcow2", "fs.raw");
	s = rig_open("incr.qcow2");
	assert_true(rig_compare(s, "/partition-1", "tree2", false, lost_found) > 2000);
	files_close(s);
	s = rig_open("fs.qcow2");
	assert_true(rig_compare(s, "/partition-1", "tree", true, lost_found) > 2000);
	files_close(s);
	/* QEMU's compressed image with QEMU's overlay */
	if (scratch_run("qemu-img convert -q -c -O qcow2 fs2.raw packed.qcow2 && "
			"qemu-img create -q -f qcow2 -b packed.qcow2 -F qcow2 over.qcow2"))
		fail_msg("no images");
	s = rig_open("over.qcow2");
	assert_true(rig_compare(s, "/partition-1", "tree2", false, lost_found) > 2000);
	files_close(s);
}

/* Opening changes nothing, not even what a journal would. */
static void test_untouched(void **state)
{
	char *before = scratch_output("sha256sum fs.qcow2; stat -c %%Y%%Z fs.qcow2"), *after;
	struct files *s = rig_open("fs.qcow2");

	(void)state;
	rig_compare(s, "/partition-1/deep", "tree/deep", true, NULL);
	files_close(s);
	after = scratch_output("sha256sum fs.qcow2; stat -c %%Y%%Z fs.qcow2");
	assert_string_equal(before, after);
	free(before);
	free(after);
}

static void test_no_image(void **state)
{
	struct files_opts opts = {.image = "missing.qcow2", .worker = rig_worker()};
	struct err err = ERR_INIT;
	struct files *s;

	(void)state;
	assert_int_not_equal(files_open(&s, &opts, &err), 0);
	assert_non_null(strstr(err.text, "missing.qcow2"));
	opts.image = "fs.raw";
	assert_int_equal(files_open(&s, &opts, &err), FILES_E_DAMAGED);
	assert_int_equal(err.code, FILES_E_DAMAGED);
	opts = (struct files_opts){.image = "fs.qcow2", .worker = "/nowhere/sendense-files"};
	assert_int_equal(files_open(&s, &opts, &err), -ENOENT);
	assert_non_null(strstr(err.text, "/nowhere/sendense-files"));
	opts.worker = "/bin/true";
	assert_int_equal(files_open(&s, &opts, &err), FILES_E_LOST);
}

/* --- workers that go wrong ------------------------------------------------------------------ */

/* What the player says after it has opened the disk as an honest worker does. */
static const char *const roles[] = {
	"honest", "hang",	  "exit",	"crash",   "long-message", "too-much-data",
	"slash",  "nul",	  "dots",	"no-name", "wrong-kind",   "wrong-answer",
	"code",	  "block-beyond", "block-huge", "flood",   "empty-data",   "drip",
};

static void put_fd(int fd, const void *p, size_t len)
{
	if (write(fd, p, len) != (ssize_t)len)
		_exit(1);
}

static void get_fd(int fd, void *p, size_t len)
{
	size_t at = 0;
	ssize_t n;

	while (at < len) {
		n = read(fd, (char *)p + at, len - at);
		if (n <= 0)
			_exit(1);
		at += (size_t)n;
	}
}

static void say(enum proto_answer answer, const void *a, size_t a_len, const void *b, size_t b_len)
{
	struct proto_head head = {.answer = answer, .len = (uint32_t)(a_len + b_len)};

	put_fd(PROTO_CALL_FD, &head, sizeof(head));
	put_fd(PROTO_CALL_FD, a, a_len);
	put_fd(PROTO_CALL_FD, b, b_len);
}

static void say_done(int code)
{
	struct proto_done done = {.code = code};

	say(PROTO_DONE, &done, sizeof(done), NULL, 0);
}

static void say_entry(const char *name, size_t len, uint32_t kind)
{
	struct proto_entry e = {.kind = kind};

	say(PROTO_ENTRY, &e, sizeof(e), name, len);
}

static void ask_block(uint64_t off, uint32_t len)
{
	struct proto_block_request req = {.off = off, .len = len};
	struct proto_block_answer ans;

	put_fd(PROTO_BLOCK_FD, &req, sizeof(req));
	get_fd(PROTO_BLOCK_FD, &ans, sizeof(ans));
	_exit(77); /* it was answered */
}

static void lie(const char *role, const struct proto_request *req)
{
	struct proto_head head = {.answer = PROTO_ENTRY, .len = UINT32_MAX};
	static char data[64 << 10];

	if (!strcmp(role, "hang"))
		pause();
	else if (!strcmp(role, "exit"))
		_exit(3);
	else if (!strcmp(role, "crash"))
		raise(SIGSEGV);
	else if (!strcmp(role, "long-message"))
		put_fd(PROTO_CALL_FD, &head, sizeof(head));
	else if (!strcmp(role, "too-much-data") && req->op == PROTO_READ)
		say(PROTO_DATA, data, sizeof(data), NULL, 0);
	else if (!strcmp(role, "slash"))
		say_entry("a/b", 3, FILES_FILE);
	else if (!strcmp(role, "nul"))
		say_entry("a\0b", 3, FILES_FILE);
	else if (!strcmp(role, "dots"))
		say_entry("..", 2, FILES_FILE);
	else if (!strcmp(role, "no-name"))
		say_entry("", 0, FILES_FILE);
	else if (!strcmp(role, "wrong-kind"))
		say_entry("a", 1, 17);
	else if (!strcmp(role, "wrong-answer"))
		say(PROTO_HELLO, data, 16, NULL, 0);
	else if (!strcmp(role, "code"))
		say_done(FILES_E_LOST + 100);
	else if (!strcmp(role, "block-beyond"))
		ask_block(UINT64_MAX - 100, 4096);
	else if (!strcmp(role, "block-huge"))
		ask_block(0, 64 << 20);
	else if (!strcmp(role, "flood"))
		for (;;)
			say_entry("again", 5, FILES_FILE);
	else if (!strcmp(role, "drip"))
		for (;;) {
			say_entry("again", 5, FILES_FILE);
			usleep(100000);
		}
	else if (!strcmp(role, "empty-data"))
		say(PROTO_DATA, NULL, 0, NULL, 0);
	say_done(0);
}

/* What came with the program. */
static void tell_belongings(char *note, size_t size)
{
	size_t at = 0;
	char **env;
	int fd;

	for (fd = 0; fd < 4096; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			at += (size_t)snprintf(note + at, size - at, "%d ", fd);
	for (env = environ; *env; env++)
		at += (size_t)snprintf(note + at, size - at, "%.20s ", *env);
}

static __attribute__((noreturn)) void play(const char *role)
{
	struct proto_partition part = {.size = 4096, .number = 1, .readable = 1, .type = "ext4"};
	struct proto_hello hello = {.table = "none"};
	struct proto_request req;
	static char path[PROTO_PATH_MAX];

	signal(SIGPIPE, SIG_IGN);
	if (!strcmp(role, "partition"))
		part.off = UINT64_MAX - 10;
	if (!strcmp(role, "text"))
		memset(part.note, 'x', sizeof(part.note));
	if (!strcmp(role, "belongings"))
		tell_belongings(part.note, sizeof(part.note));
	get_fd(PROTO_CALL_FD, &req, sizeof(req));
	say(PROTO_HELLO, &hello, sizeof(hello), NULL, 0);
	say(PROTO_PARTITION, &part, sizeof(part), NULL, 0);
	say_done(0);
	for (;;) {
		get_fd(PROTO_CALL_FD, &req, sizeof(req));
		get_fd(PROTO_CALL_FD, path, req.path_len);
		if (strcmp(role, "honest"))
			lie(role, &req);
		else
			say_done(FILES_E_NOT_FOUND);
	}
}

/* This program under the name of the role. */
static const char *player(const char *role)
{
	static char path[PATH_MAX];
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	assert_true(n > 0);
	self[n] = '\0';
	assert_non_null(getcwd(path, sizeof(path) - 64));
	strcat(path, "/play-");
	strcat(path, role);
	unlink(path);
	assert_int_equal(symlink(self, path), 0);
	return path;
}

static double seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void call_role(struct files *s, const char *role)
{
	unsigned n = 0;
	struct files_list list = {.max = 100, .each = count_up, .arg = &n};
	struct err err = ERR_INIT;
	char buf[16];
	int r;

	if (!strcmp(role, "drip"))
		list.max = 0;
	if (strstr(role, "data"))
		r = files_read(s, "/partition-1/x", 0, buf, sizeof(buf), &err) < 0 ? err.code : 0;
	else
		r = files_list(s, "/partition-1/x", &list, &err);
	if (!strcmp(role, "honest")) {
		assert_int_equal(r, FILES_E_NOT_FOUND);
		assert_true(files_alive(s));
		return;
	}
	print_message("%s: %s\n", role, err.text);
	assert_int_equal(r, FILES_E_LOST);
	assert_true(n <= 100);
	assert_non_null(strstr(err.text, "open the disk again"));
	assert_false(files_alive(s));
	assert_int_equal(files_list(s, "/partition-1/x", &list, &err), FILES_E_LOST);
}

static void test_roles(void **state)
{
	struct files_opts opts = {.image = "fs.qcow2", .call_timeout_ms = 3000};
	struct err err = ERR_INIT;
	struct files *s;
	double start;
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(roles); i++) {
		opts.worker = player(roles[i]);
		opts.call_timeout_ms =
			!strcmp(roles[i], "hang") || !strcmp(roles[i], "drip") ? 2000 : 20000;
		start = seconds();
		if (files_open(&s, &opts, &err))
			fail_msg("%s: %s", roles[i], err.text);
		call_role(s, roles[i]);
		files_close(s);
		assert_true(seconds() - start < 15);
	}
	opts.worker = player("partition");
	assert_int_equal(files_open(&s, &opts, &err), FILES_E_LOST);
	opts.worker = player("text");
	assert_int_equal(files_open(&s, &opts, &err), FILES_E_LOST);
}

/* Nothing but its two sockets comes with the worker, whatever the hub has. */
static void test_belongings(void **state)
{
	int leak = open("/dev/null", O_RDONLY); /* not close-on-exec */
	struct files_opts opts = {.image = "fs.qcow2", .worker = player("belongings")};
	struct err err = ERR_INIT;
	struct files *s;
	unsigned n;

	(void)state;
	assert_true(leak >= 0);
	if (files_open(&s, &opts, &err))
		fail_msg("%s", err.text);
	assert_string_equal(files_partitions(s, &n)->note, "0 1 2 3 4 ");
	files_close(s);
	close(leak);
}

/* --- killed in the middle ------------------------------------------------------------------- */

struct reader {
	struct files *s;
	atomic_uint reads;
	struct err err;
};

static void *read_on(void *arg)
{
	struct reader *r = arg;
	static char buf[FILES_READ_BEST];
	uint64_t off = 0;

	while (files_read(r->s, "/partition-1/random", off, buf, sizeof(buf), &r->err) > 0) {
		off = (off + sizeof(buf)) % (20 * MIB);
		atomic_fetch_add(&r->reads, 1);
	}
	return NULL;
}

static void test_killed(void **state)
{
	struct reader r = {.s = rig_open("fs.qcow2"), .err = ERR_INIT};
	struct timespec pause = {.tv_nsec = 1000000};
	struct files_sandbox sb;
	struct files_entry e;
	pthread_t thread;

	(void)state;
	files_sandbox(r.s, &sb);
	assert_int_equal(pthread_create(&thread, NULL, read_on, &r), 0);
	while (atomic_load(&r.reads) < 30)
		nanosleep(&pause, NULL);
	assert_int_equal(kill(sb.pid, SIGKILL), 0);
	pthread_join(thread, NULL);
	print_message("%s\n", r.err.text);
	assert_int_equal(r.err.code, FILES_E_LOST);
	assert_non_null(strstr(r.err.text, "signal 9"));
	assert_false(files_alive(r.s));
	assert_int_equal(files_stat(r.s, "/partition-1/empty", &e, &r.err), FILES_E_LOST);
	files_close(r.s);
}

/* Several threads on one session, several sessions on one image. */
struct user {
	struct files *s;
	unsigned seed, wrong;
};

static void *use(void *arg)
{
	struct user *u = arg;
	char path[64], expect[16], buf[16];
	struct err err;
	unsigned i, k;
	int64_t n;

	for (i = 0; i < 300; i++) {
		k = 1 + (u->seed = u->seed * 1103515245 + 12345) / 65536 % 2000;
		snprintf(path, sizeof(path), "/partition-1/many/file-number-%u.txt", k);
		snprintf(expect, sizeof(expect), "%u\n", k);
		n = files_read(u->s, path, 0, buf, sizeof(buf), &err);
		u->wrong += n != (int64_t)strlen(expect) || memcmp(buf, expect, (size_t)n);
	}
	return NULL;
}

static void test_threads(void **state)
{
	struct files *s[2] = {rig_open("fs.qcow2"), rig_open("fs.qcow2")};
	pthread_t thread[4];
	struct user user[4];
	unsigned i;

	(void)state;
	for (i = 0; i < 4; i++) {
		user[i] = (struct user){.s = s[i / 2], .seed = i};
		assert_int_equal(pthread_create(&thread[i], NULL, use, &user[i]), 0);
	}
	for (i = 0; i < 4; i++) {
		pthread_join(thread[i], NULL);
		assert_int_equal(user[i].wrong, 0);
	}
	files_close(s[0]);
	files_close(s[1]);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_paths),	  cmocka_unit_test(test_kinds),
		cmocka_unit_test(test_listing),	  cmocka_unit_test(test_chain),
		cmocka_unit_test(test_untouched), cmocka_unit_test(test_no_image),
		cmocka_unit_test(test_roles),	  cmocka_unit_test(test_killed),
		cmocka_unit_test(test_threads),	  cmocka_unit_test(test_belongings),
	};
	const char *role = argc ? strstr(basename(argv[0]), "play-") : NULL;

	if (role)
		play(role + 5);
	return cmocka_run_group_tests_name("files/session", tests, setup, scratch_teardown);
}
