#include "tests/support/activate.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define FDS_MAX	   16
#define FIRST_FD   3
#define BACKLOG	   128
#define OUT_OF_WAY 100

extern char **environ;

int activate_tcp(char *address, size_t size)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(sin);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
	assert_int_equal(listen(fd, BACKLOG), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&sin, &len), 0);
	snprintf(address, size, "127.0.0.1:%d", ntohs(sin.sin_port));
	return fd;
}

int activate_unix(const char *path)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(strlen(path) < sizeof(sun.sun_path));
	strcpy(sun.sun_path, path);
	assert_int_equal(bind(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	assert_int_equal(listen(fd, BACKLOG), 0);
	return fd;
}

/* After fork(): nothing but system calls. */
static void put_pid(char *to)
{
	char digits[16];
	unsigned n = 0;
	pid_t pid = getpid();

	do
		digits[n++] = '0' + pid % 10;
	while (pid /= 10);
	while (n)
		*to++ = digits[--n];
	*to = '\0';
}

static void child(const char *const *argv, char *const *env, char *pid_text, const int *fds,
		  unsigned count, int out, int err)
{
	int high[FDS_MAX];
	unsigned i;

	/* A test that fails half-way leaves nothing running. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	dup2(out, STDOUT_FILENO);
	dup2(err, STDERR_FILENO);
	for (i = 0; i < count; i++)
		high[i] = fcntl(fds[i], F_DUPFD, OUT_OF_WAY);
	for (i = 0; i < count; i++) {
		dup2(high[i], FIRST_FD + i);
		close(high[i]);
	}
	put_pid(pid_text);
	execve(argv[0], (char *const *)argv, env);
	_exit(127);
}

static void read_line(int fd, char *line, size_t size)
{
	size_t n = 0;

	while (n + 1 < size && read(fd, line + n, 1) == 1 && line[n] != '\n')
		n++;
	line[n] = '\0';
}

pid_t activate(const char *const *argv, const int *fds, unsigned count, const char *names,
	       char *line, size_t size, const char *log)
{
	char pid[64] = "LISTEN_PID=", number[32], all_names[256];
	int pipe_fds[2], err = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	unsigned n = 0, have = 0;
	char **env;
	pid_t child_pid;

	assert_true(count <= FDS_MAX && err >= 0);
	assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
	while (environ[have])
		have++;
	env = calloc(have + 4, sizeof(*env));
	assert_non_null(env);
	memcpy(env, environ, have * sizeof(*env));
	n = have;
	env[n++] = pid;
	snprintf(number, sizeof(number), "LISTEN_FDS=%u", count);
	env[n++] = number;
	snprintf(all_names, sizeof(all_names), "LISTEN_FDNAMES=%s", names ? names : "");
	if (names)
		env[n++] = all_names;
	child_pid = fork();
	if (!child_pid)
		child(argv, env, pid + strlen(pid), fds, count, pipe_fds[1], err);
	assert_true(child_pid > 0);
	close(pipe_fds[1]);
	close(err);
	free(env);
	read_line(pipe_fds[0], line, size);
	close(pipe_fds[0]);
	return child_pid;
}

int activate_end(pid_t pid)
{
	int status;

	kill(pid, SIGTERM);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
