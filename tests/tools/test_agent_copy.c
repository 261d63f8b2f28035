/*
 * The copy itself: every kind of source into every kind of server, compared byte for byte; what is
 * sent and what is left out; and each way it can fail. The servers are nbdkit and qemu-nbd.
 */
#include <pthread.h>

#include "tests/tools/agent_kit.h"
#include "tools/agent_copy.h"

#define SIZE (40 * MIB + 33 * 512) /* no multiple of a block, nor of a request */

static struct agent_stop stop;
static struct agent_counters counters;
static atomic_uint serial;

/* Data, zeroes that are written, and holes, with edges off any block's. */
static void make_source(const char *name)
{
	kit_make(name, SIZE);
	kit_random(name, 0, 3 * MIB + 4096, 1);
	kit_zeroes(name, 3 * MIB + 4096, 2 * MIB);
	kit_random(name, 9 * MIB + 512, 100, 2);
	kit_random(name, 16 * MIB, 8 * MIB, 3);
	kit_random(name, SIZE - 700, 700, 4);
}

static struct agent_disk raw_disk(const char *name, char path[500])
{
	return (struct agent_disk){
		.key = 2000,
		.label = "",
		.source = kit_path(name, path, 500),
		.format = AGENT_FORMAT_RAW,
	};
}

/* --- one copy --------------------------------------------------------------------------------- */

struct run {
	const struct agent_disk *disk;
	const char *sock; /* of the server that is written to */
	struct agent_index *next, *base;
	bool dirty, skip_zeroes;
	uint32_t request_size;
	unsigned connections, resume_ms;
};

static int run_copy(const struct run *r, struct err *err)
{
	struct agent_source_config sc = {.connections = 4, .stop = &stop};
	struct agent_sink_config kc = {.export = "disk0", .stop = &stop};
	struct agent_copy_config cc = {
		.next = r->next,
		.base = r->base,
		.dirty = r->dirty,
		.skip_zeroes = r->skip_zeroes,
		.request_size = r->request_size ? r->request_size : MIB,
		.counters = &counters,
		.stop = &stop,
	};
	struct agent_copy *copy = NULL;
	struct log_scope log;
	char uri[600];
	int rc;

	log_scope_init(&log, "copy");
	cc.log = &log;
	cc.resume_ms = r->resume_ms;
	memset(&counters, 0, sizeof(counters));
	kc.uri = kit_uri(r->sock, "disk0", uri, sizeof(uri));
	kc.connections = r->connections ? r->connections : 2;
	rc = agent_source_open(&cc.source, r->disk, &sc, err);
	if (!rc) {
		kc.disk_size = cc.source->size;
		rc = agent_sink_open(&cc.sink, &kc, err);
	}
	if (!rc)
		rc = agent_copy_new(&copy, &cc, err);
	if (!rc)
		rc = agent_copy_run(copy, err);
	agent_sink_close(cc.sink);
	agent_source_close(cc.source);
	agent_copy_free(copy);
	return rc;
}

static void assert_copies(const struct run *r)
{
	struct err err = ERR_INIT;

	if (run_copy(r, &err))
		fail_msg("%s", err.text);
	assert_int_equal(atomic_load(&counters.done), align_up(SIZE, 512));
}

/* --- servers ---------------------------------------------------------------------------------- */

#define SINK_ARGS 8

/* nbdkit on @file behind filters; the socket's name is the answer. */
static pid_t nbdkit(const char *file, char *const filters[], char sock[32])
{
	char target[100], *argv[24] = {"nbdkit", "-f", "-U", sock};
	size_t n = 4;

	snprintf(sock, 32, "s%u", atomic_fetch_add(&serial, 1));
	snprintf(target, sizeof(target), "file=%s", file);
	for (size_t i = 0; filters && filters[i] && filters[i][0] == '-'; i++)
		argv[n++] = filters[i];
	argv[n++] = "file";
	argv[n++] = target;
	for (size_t i = 0; filters && filters[i]; i++)
		if (filters[i][0] != '-')
			argv[n++] = filters[i];
	return kit_server(sock, argv);
}

static const struct {
	const char *name;
	char *filters[SINK_ARGS];
} sinks[] = {
	{"plain", {NULL}},
	{"without zeroes", {"--filter=nozero", NULL}},
	{"without multi-conn", {"--filter=multi-conn", "multi-conn-mode=disable", NULL}},
	{"small writes",
	 {"--filter=blocksize-policy", "blocksize-maximum=65536", "blocksize-error-policy=error",
	  NULL}},
	{"no zeroes and small writes",
	 {"--filter=blocksize-policy", "--filter=nozero", "blocksize-maximum=131072",
	  "blocksize-error-policy=error", NULL}},
	{"slow and out of order", {"--filter=delay", "delay-write=3ms", NULL}},
};

/* The target starts full of something else: what is not written shows. */
static void every_server_ends_up_with_the_source(void **state)
{
	char path[500], sock[32];
	struct agent_disk disk = raw_disk("src", path);

	(void)state;
	make_source("src");
	for (size_t i = 0; i < ARRAY_SIZE(sinks); i++) {
		struct run r = {.disk = &disk, .sock = sock};
		pid_t pid;

		print_message("    %s\n", sinks[i].name);
		kit_make("dst", SIZE + 1024);
		kit_random("dst", 0, SIZE, 99);
		pid = nbdkit("dst", (char *const *)sinks[i].filters, sock);
		assert_copies(&r);
		kit_assert_equal_files("src", "dst");
		kit_kill(pid, SIGTERM);
	}
}

static void every_request_size_gives_the_same_disk(void **state)
{
	static const uint32_t sizes[] = {AGENT_REQUEST_MIN, 192 << 10, 4 << 20, AGENT_REQUEST_MAX};
	char path[500], sock[32];
	struct agent_disk disk = raw_disk("src", path);

	(void)state;
	make_source("src");
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct run r = {.disk = &disk,
				.sock = sock,
				.request_size = sizes[i],
				.connections = (unsigned)i + 1};
		pid_t pid;

		kit_make("dst", SIZE);
		kit_random("dst", 0, SIZE, 99);
		pid = nbdkit("dst", NULL, sock);
		assert_copies(&r);
		kit_assert_equal_files("src", "dst");
		kit_kill(pid, SIGTERM);
	}
}

/* --- sources ---------------------------------------------------------------------------------- */

static void an_empty_target_gets_data_only(void **state)
{
	char path[500], sock[32];
	struct agent_disk disk = raw_disk("src", path);
	struct run r = {.disk = &disk, .sock = sock, .skip_zeroes = true};
	pid_t pid;

	(void)state;
	make_source("src");
	kit_make("dst", SIZE);
	pid = nbdkit("dst", NULL, sock);
	assert_copies(&r);
	kit_assert_equal_files("src", "dst");
	assert_int_equal(atomic_load(&counters.zeroed), 0);
	/* 3 MiB + 4 KiB, 100 bytes, 8 MiB and the tail, in blocks of 64 KiB. */
	assert_in_range(atomic_load(&counters.sent), 11 * MIB, 11 * MIB + 4 * AGENT_BLOCK);
	kit_kill(pid, SIGTERM);
}

static void a_qcow2_file_is_read_through_its_chain(void **state)
{
	char path[500], sock[32];
	struct agent_disk disk = {.key = 1, .label = "", .format = AGENT_FORMAT_QCOW2};
	struct run r = {.disk = &disk, .sock = sock, .skip_zeroes = true};
	uint64_t size;
	pid_t pid;

	(void)state;
	make_source("src");
	assert_int_equal(
		scratch_run("qemu-img convert -f raw -O qcow2 -o preallocation=off "
			    "src base.qcow2 && "
			    "qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2 && "
			    "qemu-io -c 'write -P 7 30M 1M' -c 'write -z 16M 1M' top.qcow2 && "
			    "qemu-img convert -f qcow2 -O raw top.qcow2 want"),
		0);
	disk.source = kit_path("top.qcow2", path, sizeof(path));
	assert_int_equal(agent_source_probe(&disk, &stop, &size, NULL), 0);
	assert_int_equal(size, align_up(SIZE, 512));
	kit_make("dst", SIZE);
	pid = nbdkit("dst", NULL, sock);
	assert_copies(&r);
	kit_assert_equal_files("want", "dst");
	assert_in_range(atomic_load(&counters.sent), 11 * MIB, 12 * MIB);
	kit_kill(pid, SIGTERM);
}

static void an_nbd_source_is_read_with_or_without_block_status(void **state)
{
	static char *const variants[][SINK_ARGS] = {
		{NULL},
		{"--filter=noextents", NULL},
		{"--filter=multi-conn", "multi-conn-mode=disable", NULL},
		{"--no-sr", NULL},
		{"--filter=delay", "delay-read=5ms", "delay-extents=5ms", NULL},
	};
	char from[32], to[32], uri[600];
	struct agent_disk disk = {.key = 1, .label = "", .source = uri, .format = AGENT_FORMAT_NBD};
	struct run r = {.disk = &disk, .sock = to, .skip_zeroes = true};

	(void)state;
	make_source("src");
	for (size_t i = 0; i < ARRAY_SIZE(variants); i++) {
		pid_t source = nbdkit("src", variants[i], from), sink;

		kit_uri(from, "", uri, sizeof(uri));
		kit_make("dst", SIZE);
		sink = nbdkit("dst", NULL, to);
		assert_copies(&r);
		kit_assert_equal_files("src", "dst");
		kit_kill(source, SIGTERM);
		kit_kill(sink, SIGTERM);
	}
}

/* --- incremental ------------------------------------------------------------------------------ */

static struct agent_index_id index_id(uint64_t seq)
{
	return (struct agent_index_id){
		.kind = AGENT_INDEX_HASH,
		.disk_size = align_up(SIZE, 512),
		.sequence = seq,
		.generation = seq,
		.seed = 77,
	};
}

static void a_second_copy_sends_what_changed(void **state)
{
	struct agent_index one = AGENT_INDEX_INIT, two = AGENT_INDEX_INIT;
	struct agent_index_id id1 = index_id(1), id2 = index_id(2);
	char path[500], sock[32];
	struct agent_disk disk = raw_disk("src", path);
	struct run full = {.disk = &disk, .sock = sock, .next = &one, .skip_zeroes = true};
	struct run incr = {.disk = &disk, .sock = sock, .next = &two, .base = &one};
	_cleanup_(closep) int dir = open(".", O_RDONLY | O_DIRECTORY);
	pid_t pid;

	(void)state;
	make_source("src");
	kit_make("dst", SIZE);
	pid = nbdkit("dst", NULL, sock);
	assert_int_equal(agent_index_create(&one, dir, &id1, NULL), 0);
	assert_copies(&full);

	kit_random("src", 20 * MIB + 512, 512, 50); /* one block of data changes */
	kit_random("src", 30 * MIB - 256, 512, 51); /* a hole gets data, over a block's edge */
	kit_zeroes("src", 17 * MIB, MIB);	    /* data becomes zeroes */
	kit_punch("src", 18 * MIB + 4096, MIB);	    /* data becomes a hole, off a block's edge */
	kit_punch("src", 3 * MIB + 4096, 2 * MIB);  /* zeroes become a hole: no change */
	kit_zeroes("src", 34 * MIB, MIB);	    /* a hole becomes zeroes: no change */
	kit_random("src", SIZE - 1, 1, 52);	    /* the last byte */
	assert_int_equal(agent_index_create(&two, dir, &id2, NULL), 0);
	assert_copies(&incr);
	kit_assert_equal_files("src", "dst");
	/* 1 + 2 + the hole's two edges + the tail */
	assert_in_range(atomic_load(&counters.sent), 5 * AGENT_BLOCK + 512, 6 * AGENT_BLOCK);
	assert_int_equal(atomic_load(&counters.zeroed), 2 * MIB - AGENT_BLOCK);

	/* Nothing has changed since: nothing is sent. */
	agent_index_close(&one);
	assert_int_equal(agent_index_create(&one, dir, &id1, NULL), 0);
	incr.next = &one;
	incr.base = &two;
	assert_copies(&incr);
	assert_int_equal(atomic_load(&counters.sent), 0);
	assert_int_equal(atomic_load(&counters.zeroed), 0);
	agent_index_close(&one);
	agent_index_close(&two);
	kit_kill(pid, SIGTERM);
}

static void a_dirty_bitmap_tells_what_to_read(void **state)
{
	char path[500], sock[32], from[32], uri[600];
	struct agent_disk disk = {
		.key = 1, .label = "", .bitmap = "b0", .format = AGENT_FORMAT_QCOW2};
	struct run r = {.disk = &disk, .sock = sock, .skip_zeroes = true};
	char *server[] = {"qemu-nbd",	"--read-only", "--persistent", "--format=qcow2",
			  "--shared=4", "--bitmap=b0", "--socket",     NULL,
			  "disk.qcow2", NULL};
	char full_path[500];
	pid_t sink, source;

	(void)state;
	make_source("src");
	assert_int_equal(scratch_run("qemu-img convert -f raw -O qcow2 src disk.qcow2 && "
				     "qemu-img bitmap --add -g 65536 disk.qcow2 b0"),
			 0);
	disk.source = kit_path("disk.qcow2", path, sizeof(path));
	kit_make("dst", SIZE);
	sink = nbdkit("dst", NULL, sock);
	assert_copies(&r);
	kit_assert_equal_files("src", "dst");

	assert_int_equal(scratch_run("qemu-io -c 'write -P 1 1M 64k' -c 'write -P 2 25M 100k' "
				     "-c 'write -z 17M 512k' disk.qcow2 && "
				     "qemu-img convert -f qcow2 -O raw disk.qcow2 want"),
			 0);
	r.skip_zeroes = false;
	r.dirty = true;
	assert_copies(&r);
	kit_assert_equal_files("want", "dst");
	assert_int_equal(atomic_load(&counters.sent), 3 * AGENT_BLOCK);
	assert_int_equal(atomic_load(&counters.zeroed), 512 * KIB);

	/* The same bitmap from somebody else's server. */
	snprintf(from, sizeof(from), "s%u", atomic_fetch_add(&serial, 1));
	server[7] = (char *)kit_path(from, full_path, sizeof(full_path));
	source = kit_server(from, server);
	disk.source = kit_uri(from, "", uri, sizeof(uri));
	disk.format = AGENT_FORMAT_NBD;
	kit_make("dst", SIZE);
	assert_int_equal(scratch_run("qemu-img convert -f raw -O raw src dst2 && cp dst2 dst"), 0);
	assert_copies(&r);
	kit_assert_equal_files("want", "dst");
	assert_int_equal(atomic_load(&counters.sent), 3 * AGENT_BLOCK);
	kit_kill(source, SIGTERM);
	kit_kill(sink, SIGTERM);
}

/* --- failures --------------------------------------------------------------------------------- */

static void assert_fails(const struct run *r, int code, const char *says)
{
	struct err err = ERR_INIT;

	assert_int_equal(run_copy(r, &err), code);
	if (!strstr(err.text, says))
		fail_msg("\"%s\" does not say \"%s\"", err.text, says);
}

static void a_failed_write_is_named_with_offset_and_errno(void **state)
{
	char *filters[] = {"--filter=error", "error-pwrite=ENOSPC", "error-pwrite-rate=100%", NULL};
	char path[500], sock[32];
	struct agent_disk disk = raw_disk("src", path);
	struct run r = {.disk = &disk, .sock = sock};
	pid_t pid;

	(void)state;
	make_source("src");
	kit_make("dst", SIZE);
	pid = nbdkit("dst", filters, sock);
	assert_fails(&r, -ENOSPC, " bytes at offset ");
	assert_fails(&r, -ENOSPC, "ENOSPC (No space left on device)");
	kit_kill(pid, SIGTERM);
	filters[1] = "error-zero=EIO";
	filters[2] = "error-zero-rate=100%";
	pid = nbdkit("dst", filters, sock);
	assert_fails(&r, -EIO, "zeroing of ");
	kit_kill(pid, SIGTERM);
}

static void a_target_smaller_than_the_disk_is_refused(void **state)
{
	char path[500], sock[32];
	struct agent_disk disk = raw_disk("src", path);
	struct run r = {.disk = &disk, .sock = sock};
	char *read_only[] = {"-r", NULL};
	pid_t pid;

	(void)state;
	make_source("src");
	kit_make("dst", SIZE - 512);
	pid = nbdkit("dst", NULL, sock);
	assert_fails(&r, -ENOSPC, "run discovery again");
	kit_kill(pid, SIGTERM);
	kit_make("dst", SIZE);
	pid = nbdkit("dst", read_only, sock);
	assert_fails(&r, -EROFS, "read-only");
	kit_kill(pid, SIGTERM);
	assert_fails(&r, -ECONNREFUSED, "disk0");
}

struct victim {
	pid_t pid;
	int (*act)(struct victim *v);
};

/* Acts once the copy under way has sent something. */
static void *act_when_it_moves(void *arg)
{
	struct victim *v = arg;

	while (!atomic_load(&counters.sent))
		poll(NULL, 0, 1);
	v->act(v);
	return NULL;
}

static int kill_server(struct victim *v)
{
	return kit_kill(v->pid, SIGKILL);
}

static int touch_source(struct victim *v)
{
	(void)v;
	kit_random("src", 0, 512, 1000);
	return 0;
}

static int ask_stop(struct victim *v)
{
	(void)v;
	agent_stop_ask(&stop);
	return 0;
}

static void run_with_victim(struct victim *v, int code, const char *says)
{
	char path[500], sock[32];
	/* Seconds go by between the first answer and the last: the act is in between. */
	char *slow[] = {"--filter=delay", "delay-write=300ms", NULL};
	struct agent_disk disk = raw_disk("src", path);
	struct run r = {.disk = &disk, .sock = sock, .request_size = AGENT_REQUEST_MIN};
	struct err err = ERR_INIT;
	pthread_t thread;
	int rc;

	make_source("src");
	kit_make("dst", SIZE);
	v->pid = nbdkit("dst", slow, sock);
	memset(&counters, 0, sizeof(counters));
	assert_int_equal(pthread_create(&thread, NULL, act_when_it_moves, v), 0);
	rc = run_copy(&r, &err);
	pthread_join(thread, NULL);
	if (rc == 0 || (code && rc != code) || !strstr(err.text, says))
		fail_msg("%d, \"%s\" is not %d, \"%s\"", rc, err.text, code, says);
	if (v->act != kill_server)
		kit_kill(v->pid, SIGTERM);
}

static void a_server_that_dies_fails_the_copy(void **state)
{
	struct victim v = {.act = kill_server};

	(void)state;
	run_with_victim(&v, 0, "");
}

static void a_source_written_to_meanwhile_fails_the_copy(void **state)
{
	struct victim v = {.act = touch_source};

	(void)state;
	run_with_victim(&v, -ESTALE, "was written to while it was read");
}

static void a_stop_ends_the_copy_at_once(void **state)
{
	struct victim v = {.act = ask_stop};

	(void)state;
	run_with_victim(&v, -ECANCELED, "stopped");
	agent_stop_deinit(&stop);
	assert_int_equal(agent_stop_init(&stop), 0);
}

/* --- lost connections ------------------------------------------------------------------------- */

#define RELAY_PAIRS 8

/*
 * Stands between a copy and its server, and hangs up on both each time `cut_after` bytes more have
 * gone to the server: in the middle of whatever is under way. A failure in its thread ends the
 * program.
 */
struct relay {
	const char *sock, *to;
	uint64_t cut_after;
	unsigned cuts;			/* left */
	void (*on_cut)(struct relay *); /* after that; may be NULL */
	uint64_t passed;		/* to the server, ever */
	uint64_t budget;
	int listener, end[2];
	struct pollfd pfd[2 + 2 * RELAY_PAIRS]; /* end, listener, then client and server in turn */
	pthread_t thread;
	char *const *server;
	pid_t pid;
};

static int sock_open(const char *path, bool to_listen)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strncpy(sa.sun_path, path, sizeof(sa.sun_path) - 1);
	if (to_listen)
		unlink(path);
	if (to_listen ? bind(fd, (void *)&sa, sizeof(sa)) || listen(fd, 16)
		      : connect(fd, (void *)&sa, sizeof(sa))) {
		close(fd);
		return -1;
	}
	return fd;
}

static void relay_accept(struct relay *r)
{
	int from = accept(r->listener, NULL, NULL), to = sock_open(r->to, false);

	for (unsigned i = 2; to >= 0 && i < ARRAY_SIZE(r->pfd); i += 2)
		if (r->pfd[i].fd < 0) {
			r->pfd[i] = (struct pollfd){.fd = from, .events = POLLIN};
			r->pfd[i + 1] = (struct pollfd){.fd = to, .events = POLLIN};
			return;
		}
	close(from);
	close(to);
}

static void relay_hang_up(struct relay *r, unsigned i)
{
	for (unsigned j = i & ~1U; j <= (i | 1); j++) {
		close(r->pfd[j].fd);
		r->pfd[j].fd = -1;
	}
}

static void relay_cut(struct relay *r)
{
	for (unsigned i = 2; i < ARRAY_SIZE(r->pfd); i += 2)
		if (r->pfd[i].fd >= 0)
			relay_hang_up(r, i);
	r->cuts--;
	r->budget = r->cut_after;
	if (r->on_cut)
		r->on_cut(r);
}

static void relay_pass(struct relay *r, unsigned i)
{
	static char buf[65536];
	bool up = !(i & 1);
	size_t max = up && r->cuts ? MIN(sizeof(buf), r->budget) : sizeof(buf);
	ssize_t n = recv(r->pfd[i].fd, buf, max, 0);

	if (n <= 0 || send(r->pfd[i ^ 1].fd, buf, (size_t)n, MSG_NOSIGNAL) != n) {
		relay_hang_up(r, i);
		return;
	}
	if (!up)
		return;
	r->passed += (uint64_t)n;
	if (r->cuts && !(r->budget -= (uint64_t)n))
		relay_cut(r);
}

static void *relay_main(void *arg)
{
	struct relay *r = arg;

	for (;;) {
		poll(r->pfd, ARRAY_SIZE(r->pfd), -1);
		if (r->pfd[0].revents)
			return NULL;
		for (unsigned i = 2; i < ARRAY_SIZE(r->pfd); i++)
			if (r->pfd[i].fd >= 0 && r->pfd[i].revents)
				relay_pass(r, i);
		if (r->pfd[1].revents)
			relay_accept(r);
		for (unsigned i = 2; i < ARRAY_SIZE(r->pfd); i++)
			r->pfd[i].revents = 0;
	}
}

static void relay_start(struct relay *r)
{
	r->listener = sock_open(r->sock, true);
	assert_true(r->listener >= 0);
	assert_int_equal(pipe2(r->end, O_CLOEXEC), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(r->pfd); i++)
		r->pfd[i] = (struct pollfd){.fd = -1};
	r->pfd[0] = (struct pollfd){.fd = r->end[0], .events = POLLIN};
	r->pfd[1] = (struct pollfd){.fd = r->listener, .events = POLLIN};
	r->budget = r->cut_after;
	assert_int_equal(pthread_create(&r->thread, NULL, relay_main, r), 0);
}

static void relay_stop(struct relay *r)
{
	close(r->end[1]);
	pthread_join(r->thread, NULL);
	for (unsigned i = 2; i < ARRAY_SIZE(r->pfd); i += 2)
		if (r->pfd[i].fd >= 0)
			relay_hang_up(r, i);
	close(r->end[0]);
	close(r->listener);
}

static const char *sendense_nbd(char buf[500])
{
	const char *build = getenv("BUILD");

	assert_non_null(build);
	snprintf(buf, 500, "%s/bin/sendense-nbd", build);
	return buf;
}

/* sendense-nbd on a new image "dst.qcow2", and the relay in front of it. */
static void start_cut(struct relay *r, char program[500])
{
	static char size[32];
	char *create[] = {(char *)sendense_nbd(program),
			  "--socket",
			  "hub",
			  "--export",
			  "disk0",
			  "--image",
			  "dst.qcow2",
			  "--create",
			  "--size",
			  size,
			  NULL};

	snprintf(size, sizeof(size), "%llu", (unsigned long long)SIZE);
	unlink("dst.qcow2");
	make_source("src");
	r->sock = "cut";
	r->to = "hub";
	r->pid = kit_server_ready(create);
	relay_start(r);
}

static void assert_image_is_source(struct relay *r)
{
	/* In this order: a server that was restarted dies with the thread that did it. */
	assert_int_equal(kit_kill(r->pid, SIGTERM), 0);
	relay_stop(r);
	assert_int_equal(scratch_run("qemu-img compare -q -f raw -F qcow2 src dst.qcow2"), 0);
}

/* Bytes of data the source has, rounded to blocks: what must be sent at least. */
#define DATA (11 * MIB + 4 * AGENT_BLOCK)

static void a_copy_goes_on_after_cuts_and_sends_little_again(void **state)
{
	struct relay r = {.cut_after = 2 * MIB + 12345, .cuts = 4};
	char path[500], program[500];
	struct agent_disk disk = raw_disk("src", path);
	struct run run = {.disk = &disk,
			  .sock = "cut",
			  .request_size = AGENT_REQUEST_MIN,
			  .resume_ms = 30000};

	(void)state;
	start_cut(&r, program);
	assert_copies(&run);
	assert_image_is_source(&r);
	assert_int_equal(r.cuts, 0);
	/* Acknowledged once each; what was on its way at a cut, 16 requests at most, went twice. */
	assert_in_range(atomic_load(&counters.sent), 11 * MIB, DATA);
	assert_in_range(r.passed, 11 * MIB, DATA + 4 * 16 * (AGENT_BLOCK + 64) + 64 * KIB);
}

static void kill_and_restart(struct relay *r)
{
	kit_kill(r->pid, SIGKILL);
	r->pid = kit_server_ready(r->server);
}

/* What the server had not flushed is gone with it. */
static void a_copy_goes_on_after_the_server_was_killed(void **state)
{
	struct agent_index one = AGENT_INDEX_INIT, two = AGENT_INDEX_INIT;
	struct agent_index_id id1 = index_id(1), id2 = index_id(2);
	_cleanup_(closep) int dir = open(".", O_RDONLY | O_DIRECTORY);
	char path[500], program[500];
	char *again[] = {program, "--socket", "hub",	   "--export",
			 "disk0", "--image",  "dst.qcow2", NULL};
	struct relay r = {
		.cut_after = 5 * MIB, .cuts = 3, .on_cut = kill_and_restart, .server = again};
	struct agent_disk disk = raw_disk("src", path);
	struct run run = {.disk = &disk, .sock = "cut", .next = &one, .resume_ms = 30000};

	(void)state;
	assert_int_equal(agent_index_create(&one, dir, &id1, NULL), 0);
	start_cut(&r, program);
	assert_copies(&run);
	assert_true(atomic_load(&counters.sent) >= 11 * MIB);
	/* The index is right as well: nothing has changed since. */
	assert_int_equal(agent_index_create(&two, dir, &id2, NULL), 0);
	run.next = &two;
	run.base = &one;
	assert_copies(&run);
	assert_int_equal(atomic_load(&counters.sent), 0);
	agent_index_close(&one);
	agent_index_close(&two);
	assert_image_is_source(&r);
	assert_int_equal(r.cuts, 0);
}

static void kill_for_good(struct relay *r)
{
	kit_kill(r->pid, SIGKILL);
}

static void a_server_that_stays_away_fails_the_copy(void **state)
{
	struct relay r = {.cut_after = 5 * MIB, .cuts = 1, .on_cut = kill_for_good};
	char path[500], program[500];
	struct agent_disk disk = raw_disk("src", path);
	struct run run = {.disk = &disk, .sock = "cut", .resume_ms = 1500};
	struct err err = ERR_INIT;

	(void)state;
	start_cut(&r, program);
	assert_true(run_copy(&run, &err) < 0);
	assert_true(err.text[0]);
	relay_stop(&r);
	assert_int_equal(r.cuts, 0);
}

static void an_image_of_a_running_vm_is_refused(void **state)
{
	char path[500], sock[32], full[500];
	char *writer[] = {"qemu-nbd", "--persistent", "--format=raw", "--socket", NULL, "src",
			  NULL};
	struct agent_disk disk = raw_disk("src", path);
	struct run r = {.disk = &disk, .sock = sock};
	pid_t pid;

	(void)state;
	make_source("src");
	snprintf(sock, sizeof(sock), "s%u", atomic_fetch_add(&serial, 1));
	writer[4] = (char *)kit_path(sock, full, sizeof(full));
	pid = kit_server(sock, writer);
	assert_fails(&r, -EBUSY, "running VM");
	kit_kill(pid, SIGTERM);
}

static void a_source_is_kept_from_vms_while_it_is_open(void **state)
{
	char path[500];
	struct agent_disk disk = raw_disk("src", path);
	struct agent_source_config config = {.connections = 1, .stop = &stop};
	struct agent_source *src = NULL;

	(void)state;
	make_source("src");
	assert_int_equal(agent_source_open(&src, &disk, &config, NULL), 0);
	assert_int_not_equal(scratch_run("qemu-io -f raw -c 'write 0 512' src >/dev/null 2>&1"), 0);
	assert_int_equal(scratch_run("qemu-io -r -f raw -c 'read 0 512' src >/dev/null"), 0);
	agent_source_close(src);
	assert_int_equal(scratch_run("qemu-io -f raw -c 'write 0 512' src >/dev/null"), 0);
}

static void sources_that_are_none_are_named(void **state)
{
	struct agent_source_config config = {.connections = 1, .stop = &stop};
	struct agent_disk disk = {.key = 1, .label = "", .source = "/nowhere/x.raw"};
	struct agent_source *src = NULL;
	struct err err = ERR_INIT;
	char path[500];
	uint64_t size;

	(void)state;
	assert_int_equal(agent_source_open(&src, &disk, &config, &err), -ENOENT);
	assert_non_null(strstr(err.text, "/nowhere/x.raw"));
	disk.format = AGENT_FORMAT_QCOW2;
	assert_int_equal(agent_source_open(&src, &disk, &config, &err), -ENOENT);
	kit_make("empty", 0);
	disk.source = kit_path("empty", path, sizeof(path));
	assert_int_not_equal(agent_source_open(&src, &disk, &config, &err), 0);
	assert_non_null(strstr(err.text, "qemu-nbd"));
	assert_int_equal(agent_source_probe(&disk, &stop, &size, &err), -EINVAL);
	disk.format = AGENT_FORMAT_RAW;
	assert_int_equal(agent_source_open(&src, &disk, &config, &err), -EINVAL);
	disk.source = "/dev/null";
	assert_int_equal(agent_source_open(&src, &disk, &config, &err), -EINVAL);
	disk.source = "nbd+unix:///?socket=/nowhere/s";
	disk.format = AGENT_FORMAT_NBD;
	assert_int_not_equal(agent_source_open(&src, &disk, &config, &err), 0);
	assert_int_not_equal(agent_source_probe(&disk, &stop, &size, &err), 0);
	disk.capacity_bytes = 1 << 20;
	assert_int_equal(agent_source_probe(&disk, &stop, &size, &err), 0);
	assert_int_equal(size, 1 << 20);
}

static int setup(void **state)
{
	return agent_stop_init(&stop) ? -1 : scratch_setup(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_server_ends_up_with_the_source),
		cmocka_unit_test(every_request_size_gives_the_same_disk),
		cmocka_unit_test(an_empty_target_gets_data_only),
		cmocka_unit_test(a_qcow2_file_is_read_through_its_chain),
		cmocka_unit_test(an_nbd_source_is_read_with_or_without_block_status),
		cmocka_unit_test(a_second_copy_sends_what_changed),
		cmocka_unit_test(a_dirty_bitmap_tells_what_to_read),
		cmocka_unit_test(a_failed_write_is_named_with_offset_and_errno),
		cmocka_unit_test(a_target_smaller_than_the_disk_is_refused),
		cmocka_unit_test(a_server_that_dies_fails_the_copy),
		cmocka_unit_test(a_source_written_to_meanwhile_fails_the_copy),
		cmocka_unit_test(a_stop_ends_the_copy_at_once),
		cmocka_unit_test(a_copy_goes_on_after_cuts_and_sends_little_again),
		cmocka_unit_test(a_copy_goes_on_after_the_server_was_killed),
		cmocka_unit_test(a_server_that_stays_away_fails_the_copy),
		cmocka_unit_test(an_image_of_a_running_vm_is_refused),
		cmocka_unit_test(a_source_is_kept_from_vms_while_it_is_open),
		cmocka_unit_test(sources_that_are_none_are_named),
	};

	return cmocka_run_group_tests(tests, setup, scratch_teardown);
}
