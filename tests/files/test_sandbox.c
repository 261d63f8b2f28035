/*
 * The cage: what a process can do after sandbox_enter(), and that the worker is in it.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/landlock.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "files/worker/sandbox.h"
#include "tests/files/rig.h"
#include "tests/support/scratch.h"

enum { WORKS = 10, REFUSED = 11, NO_CAGE = 12 };

/* How @deed ends in the cage: its exit status, or minus the signal. */
static int in_the_cage(int (*deed)(void))
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (!pid) {
		struct sandbox_state state;
		struct err err;

		if (sandbox_enter(&state, &err)) {
			fprintf(stderr, "%s\n", err.text);
			_exit(NO_CAGE);
		}
		_exit(deed());
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

static int result(int fd)
{
	return fd >= 0 ? WORKS : REFUSED;
}

static int nothing(void)
{
	return WORKS;
}

static int use_memory(void)
{
	char *p = malloc(16 << 20);

	if (!p)
		return REFUSED;
	memset(p, 1, 16 << 20);
	free(p);
	return WORKS;
}

static int use_too_much(void)
{
	return malloc(2UL << 30) ? WORKS : REFUSED;
}

static int open_file(void)
{
	return result(open("/etc/hostname", O_RDONLY));
}

static int make_file(void)
{
	return result(open("made-in-the-cage", O_WRONLY | O_CREAT, 0600));
}

static int make_socket(void)
{
	return result(socket(AF_INET, SOCK_STREAM, 0));
}

static int run_program(void)
{
	execl("/bin/true", "true", NULL);
	return REFUSED;
}

static int make_process(void)
{
	return result(fork());
}

static int kill_somebody(void)
{
	return result(kill(getppid(), 0));
}

static int look_at_somebody(void)
{
	return result((int)ptrace(PTRACE_SEIZE, getppid(), 0, 0));
}

static int map_code(void)
{
	return mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
			       MAP_FAILED
		       ? REFUSED
		       : WORKS;
}

/* A hub may lock what it likes. */
static int lock_memory(void)
{
	return mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0) ==
			       MAP_FAILED
		       ? REFUSED
		       : WORKS;
}

static int become_root(void)
{
	return setuid(0) ? REFUSED : WORKS;
}

/* A sanitizer's build refuses where the real one kills. */
static void is_stopped(int (*deed)(void))
{
	int r = in_the_cage(deed);

	if (r != REFUSED && r != -SIGSYS)
		fail_msg("ended with %d", r);
}

static void test_cage(void **state)
{
	(void)state;
	assert_int_equal(in_the_cage(nothing), WORKS);
	assert_int_equal(in_the_cage(use_memory), WORKS);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	assert_int_equal(in_the_cage(use_too_much), REFUSED);
#else
	(void)use_too_much;
#endif
	is_stopped(open_file);
	is_stopped(make_file);
	is_stopped(make_socket);
	is_stopped(run_program);
	is_stopped(make_process);
	is_stopped(kill_somebody);
	is_stopped(look_at_somebody);
	is_stopped(map_code);
	is_stopped(lock_memory);
	is_stopped(become_root);
}

static long status_of(int pid, const char *key)
{
	char path[64], line[256];
	long value = -1;
	size_t len = strlen(key);
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = fopen(path, "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (!strncmp(line, key, len) && line[len] == ':')
			value = strtol(line + len + 1, NULL, 10);
	fclose(f);
	return value;
}

static void assert_first_for_oom_killer(int pid)
{
	char *out = scratch_output("cat /proc/%d/oom_score_adj", pid);

	assert_string_equal(out, "1000\n");
	free(out);
}

/* The program itself, as the hub starts it. */
static void test_worker(void **state)
{
	struct files_sandbox sb;
	struct files *s;

	(void)state;
	if (scratch_run("truncate -s 8M fs.raw && mke2fs -q -F -t ext4 fs.raw"))
		fail_msg("no file system");
	rig_write_qcow2("fs.raw", "fs.qcow2", NULL, NULL);
	s = rig_open("fs.qcow2");
	files_sandbox(s, &sb);
	assert_true(sb.pid > 0);
	assert_int_equal(status_of(sb.pid, "Seccomp"), 2);
	assert_int_equal(status_of(sb.pid, "NoNewPrivs"), 1);
	assert_int_equal(sb.own_uid, geteuid() == 0);
	assert_int_equal(status_of(sb.pid, "Uid"), geteuid() == 0 ? 65534 : (long)geteuid());
	assert_int_equal(status_of(sb.pid, "Threads"), 1);
	assert_first_for_oom_killer(sb.pid);
	assert_int_equal(sb.landlock, syscall(SYS_landlock_create_ruleset, NULL, 0,
					      LANDLOCK_CREATE_RULESET_VERSION) > 0);
	files_close(s);
	/* it is gone, and nobody's child */
	assert_int_equal(kill(sb.pid, 0), -1);
	assert_int_equal(errno, ESRCH);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cage),
		cmocka_unit_test(test_worker),
	};

	return cmocka_run_group_tests_name("files/sandbox", tests, scratch_setup, scratch_teardown);
}
