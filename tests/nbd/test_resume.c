/*
 * A copy that is interrupted again and again and goes on each time with what sendense:received says
 * is missing: the server killed, the connection cut in the middle of a request. The image must end
 * as a byte-exact copy, and the work that was done must not be done again.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "tests/support/nbdpeer.h"
#include "tests/support/scratch.h"

#define CS	65536ULL
#define SIZE	(700 * CS + 5 * 512) /* the last cluster is a short one */
#define REQUEST (4 * CS)
#define WINDOW	6 /* requests in flight */

extern char **environ;

static char program[512];
static unsigned char *source;

/* --- the server ---------------------------------------------------------------------------------
 */

static pid_t server;
static char ready[512]; /* what it said */

/* Starts sendense-nbd and waits until it serves. */
static void start(char *const *args)
{
	posix_spawn_file_actions_t actions;
	int out[2];
	FILE *f;

	assert_int_equal(pipe(out), 0);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, out[1], 1);
	posix_spawn_file_actions_addclose(&actions, out[0]);
	posix_spawn_file_actions_addclose(&actions, out[1]);
	assert_int_equal(posix_spawn(&server, program, &actions, NULL, args, environ), 0);
	posix_spawn_file_actions_destroy(&actions);
	close(out[1]);
	f = fdopen(out[0], "r");
	if (!fgets(ready, sizeof(ready), f) || !strstr(ready, "ready"))
		fail_msg("sendense-nbd does not get ready");
	fclose(f);
}

static void start_new(const char *backing)
{
	char size[32];
	char *const full[] = {program,	  "--socket", "s",  "--image", "copy.qcow2",
			      "--create", "--size",   size, NULL};
	char *const overlay[] = {program,      "--socket",	"s",	  "--image",
				 "copy.qcow2", "--create",	"--size", size,
				 "--backing",  (char *)backing, NULL};

	snprintf(size, sizeof(size), "%llu", (unsigned long long)SIZE);
	unlink("copy.qcow2");
	start(backing ? overlay : full);
}

static void start_again(void)
{
	char *const args[] = {program, "--socket", "s", "--image", "copy.qcow2", NULL};

	start(args);
}

static void stop(int signal)
{
	int status;

	assert_int_equal(kill(server, signal), 0);
	assert_int_equal(waitpid(server, &status, 0), server);
	if (signal != SIGKILL)
		assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* --- the agent ----------------------------------------------------------------------------------
 */

struct agent {
	int fd;
	uint32_t received; /* id of the context */
	bool *missing;	   /* by cluster */
	uint64_t sent;	   /* bytes, ever */
};

static uint64_t clusters(void)
{
	return div_up(SIZE, CS);
}

static void connect_agent(struct agent *a)
{
	static const char *const contexts[] = {"sendense:received"};

	a->fd = peer_enter_extended("unix:s", "", contexts, 1, &a->received);
}

/* Asks for the whole disk at once; returns how many clusters are still to be sent. */
static unsigned ask(struct agent *a)
{
	unsigned n = 0, i, count;
	struct peer_chunk c;
	uint64_t off = 0, k;

	peer_ext_request(a->fd, 0, NBD_CMD_BLOCK_STATUS, 1, 0, SIZE);
	peer_ext_chunk(a->fd, &c, 0);
	assert_int_equal(c.type, NBD_REPLY_TYPE_BLOCK_STATUS_EXT);
	assert_int_equal(load_be32(c.data), a->received);
	count = load_be32(c.data + 4);
	for (i = 0; i < count; i++) {
		uint64_t len = load_be64(c.data + 8 + i * 16);
		uint64_t status = load_be64(c.data + 16 + i * 16);

		assert_true(status <= 1 && off % CS == 0);
		for (k = off / CS; k < div_up(off + len, CS); k++) {
			a->missing[k] = !status;
			n += !status;
		}
		off += len;
	}
	assert_true(off == SIZE);
	peer_chunk_free(&c);
	return n;
}

static void send_run(struct agent *a, uint64_t from, uint64_t to)
{
	uint64_t off = from * CS, len = MIN(to * CS, SIZE) - off;

	if (bytes_all_zero(source + off, len))
		peer_ext_request(a->fd, 0, NBD_CMD_WRITE_ZEROES, 2, off, len);
	else
		peer_ext_write(a->fd, 0, 2, off, source + off, len);
	a->sent += len;
}

static void await_reply(struct agent *a)
{
	unsigned char b[NBD_EXT_CHUNK_SIZE];

	peer_recv(a->fd, b, sizeof(b));
	assert_int_equal(load_be16(b + 6), NBD_REPLY_TYPE_NONE);
}

/* Sends what is missing, at most @most requests, some of them unanswered when it returns; flushes
 * every @flush requests (0: never). Returns how many are unanswered. */
static unsigned send_missing(struct agent *a, unsigned most, unsigned flush)
{
	unsigned requests = 0, open = 0;
	uint64_t c = 0, end;

	while (c < clusters() && requests < most) {
		if (!a->missing[c]) {
			c++;
			continue;
		}
		for (end = c; end < clusters() && a->missing[end] && end - c < REQUEST / CS; end++)
			;
		if (open == WINDOW) {
			await_reply(a);
			open--;
		}
		send_run(a, c, end);
		open++;
		if (flush && ++requests % flush == 0) {
			peer_ext_request(a->fd, 0, NBD_CMD_FLUSH, 3, 0, 0);
			open++;
			while (open) {
				await_reply(a);
				open--;
			}
		}
		c = end;
	}
	return open;
}

/* The connection breaks in the middle of a WRITE's payload. */
static void break_off(struct agent *a)
{
	uint64_t c = 0;

	while (c < clusters() && !(a->missing[c] && !bytes_all_zero(source + c * CS, CS)))
		c++;
	if (c < clusters() - 1) {
		peer_ext_request(a->fd, NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_WRITE, 4, c * CS, 2 * CS);
		peer_send(a->fd, source + c * CS, CS + CS / 3);
	}
	peer_close(a->fd);
}

static void finish(struct agent *a)
{
	unsigned open = send_missing(a, UINT32_MAX, 0);

	while (open--)
		await_reply(a);
	peer_close(a->fd);
	stop(SIGTERM);
	assert_int_equal(scratch_run("qemu-img check -q copy.qcow2"), 0);
	assert_int_equal(scratch_run("qemu-img compare -q -f raw -F qcow2 source.raw copy.qcow2"),
			 0);
}

/* --- stories ------------------------------------------------------------------------------------
 */

static void make_source(void)
{
	uint64_t c, i;
	FILE *f = fopen("source.raw", "w");

	source = calloc(1, SIZE);
	assert_true(source && f);
	for (c = 0; c < clusters(); c++) {
		if (c % 16 > 10) /* zeroes here and there */
			continue;
		for (i = c * CS; i < MIN((c + 1) * CS, SIZE); i++)
			source[i] = 1 + (i * 2654435761U >> 11) % 255;
	}
	assert_int_equal(fwrite(source, 1, SIZE, f), SIZE);
	fclose(f);
}

static struct agent agent_new(void)
{
	struct agent a = {.missing = malloc(clusters())};

	assert_non_null(a.missing);
	memset(a.missing, 1, clusters());
	return a;
}

static void a_copy_goes_on_after_the_server_was_killed(void **state)
{
	struct agent a = agent_new();
	unsigned round, left = clusters(), before;

	(void)state;
	start_new(NULL);
	connect_agent(&a);
	assert_int_equal(ask(&a), clusters());
	for (round = 0; round < 5; round++) {
		send_missing(&a, 30, 10);
		stop(SIGKILL); /* with requests in flight */
		peer_close(a.fd);
		start_again();
		connect_agent(&a);
		before = left;
		left = ask(&a);
		assert_true(left < before); /* what was flushed is there */
	}
	finish(&a);
	/* Zeroes and what was not flushed was sent again, the rest was not. */
	assert_true(a.sent < SIZE * 2);
	free(a.missing);
}

static void a_copy_over_a_parent_goes_on_after_the_server_was_killed(void **state)
{
	struct agent a = agent_new();
	unsigned round;

	(void)state;
	/* The parent has every third megabyte of it already, and other data elsewhere. */
	assert_int_equal(
		scratch_run("cp source.raw old.raw && for i in $(seq 0 3 43); do "
			    "dd if=/dev/urandom of=old.raw bs=1M seek=$i count=2 "
			    "conv=notrunc status=none; done && truncate -s %llu old.raw && "
			    "qemu-img convert -f raw -O qcow2 old.raw parent.qcow2",
			    (unsigned long long)SIZE),
		0);
	start_new("parent.qcow2");
	for (round = 0; round < 4; round++) {
		connect_agent(&a);
		ask(&a);
		send_missing(&a, 40, 10);
		stop(SIGKILL);
		peer_close(a.fd);
		start_again();
	}
	connect_agent(&a);
	ask(&a);
	finish(&a);
	free(a.missing);
}

/* The server has not gone away, so it knows everything: nothing acknowledged is sent twice. */
static void a_copy_goes_on_after_the_connection_was_lost(void **state)
{
	struct agent a = agent_new();
	unsigned round, open;

	(void)state;
	start_new(NULL);
	for (round = 0; round < 8; round++) {
		connect_agent(&a);
		ask(&a);
		open = send_missing(&a, 15, 4);
		while (open--)
			await_reply(&a);
		ask(&a);
		break_off(&a);
	}
	connect_agent(&a);
	ask(&a);
	finish(&a);
	assert_true(a.sent <= SIZE); /* a cluster of a broken WRITE may have arrived */
	free(a.missing);
}

/* Somebody who neither knows nor cares leaves halves of clusters behind; who comes next is not told
 * that they are there. */
static void another_clients_halves_are_not_taken_for_the_copy(void **state)
{
	struct agent a = agent_new();
	unsigned i;
	int fd;

	(void)state;
	start_new(NULL);
	fd = peer_enter("unix:s", "");
	for (i = 0; i < 50; i++) {
		uint64_t off = i * 13 % clusters() * CS + i * 512;

		peer_write(fd, i % 5 ? 0 : NBD_CMD_FLAG_FUA, 1, off, source + off, 4096);
		assert_int_equal(peer_simple_to(fd, 1), 0);
	}
	peer_request(fd, 0, NBD_CMD_FLUSH, 2, 0, 0);
	assert_int_equal(peer_simple_to(fd, 2), 0);
	peer_close(fd);
	for (i = 0; i < 2; i++) {
		connect_agent(&a);
		assert_int_equal(ask(&a), clusters());
		peer_close(a.fd);
		if (i == 0) {
			stop(SIGKILL);
			start_again();
		}
	}
	connect_agent(&a);
	ask(&a);
	finish(&a);
	free(a.missing);
}

/* --- the way there ------------------------------------------------------------------------------
 */

/* What a killed process had open stays until the kernel has ended its io_uring, which may be after
 * its parent has heard of its end. */
static void restart_at_once(const char *option, char *address, const char *peer)
{
	char *const args[] = {program, (char *)option, address, "--image", "again.qcow2", NULL};
	unsigned i;

	for (i = 0; i < 12; i++) {
		int fd[8];
		unsigned k;

		for (k = 0; k < 8; k++)
			fd[k] = peer_enter(peer, "");
		peer_request(fd[0], 0, NBD_CMD_WRITE, 1, 0, 1 << 20); /* never sent */
		stop(SIGKILL);
		start(args);
		for (k = 0; k < 8; k++)
			peer_close(fd[k]);
	}
	stop(SIGTERM);
}

static void a_killed_server_starts_again_at_once_on_its_address(void **state)
{
	char *const over_unix[] = {program,    "--socket", "s",	 "--image", "again.qcow2",
				   "--create", "--size",   "8M", NULL};
	/* An address of our own: between two servers the port is anybody's. */
	unsigned own = (unsigned)getpid();
	char any[32], address[64];
	char *const over_tcp[] = {program, "--listen", any, "--image", "again.qcow2", NULL};

	(void)state;
	snprintf(any, sizeof(any), "127.%u.%u.%u:0", 1 + (own >> 16) % 250, own >> 8 & 255,
		 own & 255);
	start(over_unix);
	restart_at_once("--socket", "s", "unix:s");
	start(over_tcp);
	assert_int_equal(sscanf(ready, "sendense-nbd ready on nbd://%63[^/]", address), 1);
	restart_at_once("--listen", address, address);
	assert_int_equal(unlink("again.qcow2"), 0);
}

static int setup(void **state)
{
	const char *build = getenv("BUILD");

	snprintf(program, sizeof(program), "%s/bin/sendense-nbd", build ? build : "build");
	if (program[0] != '/') {
		char *full = realpath(program, NULL);

		assert_non_null(full);
		snprintf(program, sizeof(program), "%s", full);
		free(full);
	}
	signal(SIGPIPE, SIG_IGN);
	if (scratch_setup(state))
		return -1;
	make_source();
	return 0;
}

static int teardown(void **state)
{
	free(source);
	return scratch_teardown(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_copy_goes_on_after_the_server_was_killed),
		cmocka_unit_test(a_copy_over_a_parent_goes_on_after_the_server_was_killed),
		cmocka_unit_test(a_copy_goes_on_after_the_connection_was_lost),
		cmocka_unit_test(another_clients_halves_are_not_taken_for_the_copy),
		cmocka_unit_test(a_killed_server_starts_again_at_once_on_its_address),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
