/*
 * What the agent's tests share: files with known content, and real NBD servers as children that die
 * with the test. Paths are relative to the test's scratch folder (tests/support/scratch.h).
 */
#ifndef TESTS_TOOLS_AGENT_KIT_H
#define TESTS_TOOLS_AGENT_KIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "tests/support/scratch.h"

#define KIT		static inline __attribute__((unused))
#define KIT_DEADLINE_MS 120000

KIT int64_t kit_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Looks again every few milliseconds until it is so; fails the test when it never is. */
#define kit_wait_until(condition)                                                                  \
	do {                                                                                       \
		int64_t deadline_ = kit_now_ms() + KIT_DEADLINE_MS;                                \
		while (!(condition)) {                                                             \
			if (kit_now_ms() > deadline_)                                              \
				fail_msg("never happened: %s", #condition);                        \
			poll(NULL, 0, 5);                                                          \
		}                                                                                  \
	} while (0)

/* The scratch folder's absolute path and a name in it. */
KIT const char *kit_path(const char *name, char *buf, size_t size)
{
	char cwd[400];

	assert_non_null(getcwd(cwd, sizeof(cwd)));
	assert_in_range(snprintf(buf, size, "%s/%s", cwd, name), 1, (int)size - 1);
	return buf;
}

/* --- files ------------------------------------------------------------------------------------ */

KIT int kit_open(const char *name)
{
	int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	return fd;
}

/* A file of @size bytes, all hole. */
KIT void kit_make(const char *name, uint64_t size)
{
	_cleanup_(closep) int fd = kit_open(name);

	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
}

KIT void kit_write(const char *name, uint64_t off, const void *data, size_t len)
{
	_cleanup_(closep) int fd = kit_open(name);

	assert_int_equal(pwrite(fd, data, len, (off_t)off), (ssize_t)len);
}

/* Bytes nobody would guess, the same for the same @seed. */
KIT void kit_random(const char *name, uint64_t off, size_t len, uint64_t seed)
{
	_cleanup_(freep) unsigned char *buf = malloc(len);

	assert_non_null(buf);
	for (size_t i = 0; i < len; i++) {
		seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
		buf[i] = (unsigned char)(seed >> 56);
	}
	kit_write(name, off, buf, len);
}

KIT void kit_zeroes(const char *name, uint64_t off, size_t len)
{
	_cleanup_(freep) unsigned char *buf = calloc(1, len);

	assert_non_null(buf);
	kit_write(name, off, buf, len);
}

KIT void kit_punch(const char *name, uint64_t off, uint64_t len)
{
	_cleanup_(closep) int fd = kit_open(name);

	assert_int_equal(
		fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len),
		0);
}

/* The first @size bytes of both are equal; what follows in the longer one is zeroes. */
KIT void kit_assert_equal_files(const char *a, const char *b)
{
	_cleanup_(closep) int fa = kit_open(a), fb = kit_open(b);
	_cleanup_(freep) char *x = malloc(MIB), *y = malloc(MIB);
	ssize_t n = 1, m = 1;

	for (uint64_t at = 0; n > 0 || m > 0; at += MIB) {
		memset(x, 0, MIB);
		memset(y, 0, MIB);
		n = pread(fa, x, MIB, (off_t)at);
		m = pread(fb, y, MIB, (off_t)at);
		assert_true(n >= 0 && m >= 0);
		if (memcmp(x, y, MIB) != 0)
			fail_msg("%s and %s differ in the MiB at %llu", a, b,
				 (unsigned long long)at);
	}
}

/* --- children --------------------------------------------------------------------------------- */

/* Starts argv[0]; stdout goes to @out when it is not negative. */
KIT pid_t kit_spawn(char *const argv[], int out)
{
	pid_t parent = getpid(), pid = fork();

	assert_true(pid >= 0);
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127);
	if (out >= 0)
		dup2(out, STDOUT_FILENO);
	execvp(argv[0], argv);
	_exit(127);
}

/* Exit status, or 128 + the signal. */
KIT int kit_reap(pid_t pid)
{
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

KIT int kit_kill(pid_t pid, int sig)
{
	kill(pid, sig);
	return kit_reap(pid);
}

/* With its greeting: qemu-nbd listens before it has opened, and locked, its image. */
KIT bool kit_socket_answers(const char *path)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	char greeting[8];
	_cleanup_(closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(strlen(path) < sizeof(sa.sun_path));
	strcpy(sa.sun_path, path);
	return connect(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0 &&
	       recv(fd, greeting, sizeof(greeting), MSG_WAITALL) == (ssize_t)sizeof(greeting);
}

/* Starts an NBD server that makes the unix socket @sock (relative: it may be short). */
KIT pid_t kit_server(const char *sock, char *const argv[])
{
	pid_t pid;

	unlink(sock);
	pid = kit_spawn(argv, -1);
	kit_wait_until(kit_socket_answers(sock));
	return pid;
}

/* As kit_server(), for one that says "... ready ..." on its standard output when it serves. */
KIT pid_t kit_server_ready(char *const argv[])
{
	char line[512];
	int out[2];
	pid_t pid;
	FILE *f;

	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	pid = kit_spawn(argv, out[1]);
	close(out[1]);
	f = fdopen(out[0], "r");
	assert_non_null(f);
	if (!fgets(line, sizeof(line), f) || !strstr(line, "ready"))
		fail_msg("%s does not get ready", argv[0]);
	fclose(f);
	return pid;
}

/* "nbd+unix:///EXPORT?socket=ABSOLUTE" */
KIT const char *kit_uri(const char *sock, const char *export, char *buf, size_t size)
{
	char path[500];

	kit_path(sock, path, sizeof(path));
	assert_in_range(snprintf(buf, size, "nbd+unix:///%s?socket=%s", export, path), 1,
			(int)size - 1);
	return buf;
}

#endif
