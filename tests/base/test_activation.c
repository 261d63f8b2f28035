/* What a service manager passes, in order and not. Each case is a process of its own: descriptors
 * from 3 on and the environment are what it is about. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/activation.h"
#include "tests/support/activate.h"

enum made { STREAM, DATAGRAM, CONNECTED, FILE_ON_DISK, NOTHING };

struct passed {
	const char *count, *names; /* NULL: not set */
	enum made what[3];
	unsigned have;
	bool other_pid, no_pid;
};

static int make(enum made what)
{
	char address[64];
	int pair[2];

	switch (what) {
	case STREAM:
		return activate_tcp(address, sizeof(address));
	case DATAGRAM:
		return socket(AF_INET, SOCK_DGRAM, 0);
	case CONNECTED:
		return socketpair(AF_UNIX, SOCK_STREAM, 0, pair) ? -1 : pair[0];
	case FILE_ON_DISK:
		return open("/dev/null", O_RDONLY);
	default:
		return -1;
	}
}

static void set_or_not(const char *name, const char *value)
{
	if (value)
		setenv(name, value, 1);
	else
		unsetenv(name);
}

static void pass(const struct passed *p)
{
	char pid[32];
	int fd[3];
	unsigned i;

	for (i = 0; i < p->have; i++)
		fd[i] = fcntl(make(p->what[i]), F_DUPFD, 50);
	for (i = 0; i < p->have; i++) {
		close(3 + i);
		if (fd[i] >= 0)
			dup2(fd[i], 3 + i);
	}
	snprintf(pid, sizeof(pid), "%d", getpid() + p->other_pid);
	set_or_not("LISTEN_PID", p->no_pid ? NULL : pid);
	set_or_not("LISTEN_FDS", p->count);
	set_or_not("LISTEN_FDNAMES", p->names);
}

/* Runs @check in a child that was passed @p; it says 0 when all is well. */
static void in_child(const struct passed *p,
		     int (*check)(int r, const struct activation *a, const struct err *err))
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (!pid) {
		struct activation a;
		struct err err = ERR_INIT;
		int r;

		pass(p);
		r = activation_take(&a, &err);
		if (getenv("LISTEN_PID") || getenv("LISTEN_FDS") || getenv("LISTEN_FDNAMES"))
			_exit(99);
		_exit(check(r, &a, &err));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static int is_none(int r, const struct activation *a, const struct err *err)
{
	(void)err;
	return r || a->count;
}

static int is_refused(int r, const struct activation *a, const struct err *err)
{
	return r != -EINVAL || a->count || !err->text[0];
}

static int are_two(int r, const struct activation *a, const struct err *err)
{
	unsigned i;

	(void)err;
	if (r || a->count != 2 || a->fds[0].fd != 3 || a->fds[1].fd != 4)
		return 1;
	for (i = 0; i < 2; i++)
		if (!(fcntl(a->fds[i].fd, F_GETFD) & FD_CLOEXEC) ||
		    !(fcntl(a->fds[i].fd, F_GETFL) & O_NONBLOCK))
			return 2;
	return 0;
}

static int are_nbd_and_http(int r, const struct activation *a, const struct err *err)
{
	return are_two(r, a, err) || strcmp(a->fds[0].name, "nbd") ||
	       strcmp(a->fds[1].name, "http");
}

static int are_unknown(int r, const struct activation *a, const struct err *err)
{
	return are_two(r, a, err) || strcmp(a->fds[0].name, "unknown") ||
	       strcmp(a->fds[1].name, "unknown");
}

static void nothing_is_taken_where_nothing_was_passed(void **state)
{
	(void)state;
	in_child(&(struct passed){.no_pid = true}, is_none);
	in_child(&(struct passed){.count = "0"}, is_none);
	in_child(&(struct passed){.have = 1}, is_none);
	in_child(&(struct passed){.count = "1", .have = 1, .no_pid = true}, is_none);
	in_child(&(struct passed){.count = "1", .have = 1, .other_pid = true}, is_none);
}

static void sockets_are_taken_by_name(void **state)
{
	(void)state;
	in_child(&(struct passed){.count = "2", .names = "nbd:http", .have = 2}, are_nbd_and_http);
	in_child(&(struct passed){.count = "2", .have = 2}, are_unknown);
}

static void what_does_not_add_up_is_refused(void **state)
{
	static const char *const counts[] = {"", "-1", "one", "1x", "33", "99999999999999999999"};
	static const char *const names[] = {"", "nbd", "nbd:http:", "nbd:http:more"};
	static char long_name[400];
	unsigned i;

	(void)state;
	for (i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
		in_child(&(struct passed){.count = counts[i], .have = 1}, is_refused);
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		in_child(&(struct passed){.count = "2", .names = names[i], .have = 2}, is_refused);
	memset(long_name, 'n', sizeof(long_name) - 1);
	in_child(&(struct passed){.count = "1", .names = long_name, .have = 1}, is_refused);
}

static void what_is_no_listening_stream_socket_is_refused(void **state)
{
	static const enum made wrong[] = {DATAGRAM, CONNECTED, FILE_ON_DISK, NOTHING};
	unsigned i;

	(void)state;
	for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		in_child(&(struct passed){.count = "2", .what = {STREAM, wrong[i]}, .have = 2},
			 is_refused);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_is_taken_where_nothing_was_passed),
		cmocka_unit_test(sockets_are_taken_by_name),
		cmocka_unit_test(what_does_not_add_up_is_refused),
		cmocka_unit_test(what_is_no_listening_stream_socket_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
