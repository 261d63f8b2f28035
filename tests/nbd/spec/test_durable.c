/* What a reply to FLUSH or to a request with FUA promises: the real server is killed as soon as the
 * reply is there, and QEMU reads the image it leaves. (That the disk has it, too, when the power
 * goes, is shown in tests/crash.) */
#include <signal.h>
#include <sys/wait.h>

#include "tests/support/nbdspec.h"
#include "tests/support/scratch.h"

#define SOCKET	"unix:s"
#define CLIENTS 6

static char program[512];

/* Starts the program and waits until it says that it is ready. @args end with NULL. */
static pid_t serve(const char *const *args)
{
	char *argv[16] = {program, "--socket", "s"};
	char line[256];
	int out[2];
	unsigned n = 3;
	FILE *f;
	pid_t pid;

	while (*args)
		argv[n++] = (char *)*args++;
	assert_int_equal(pipe(out), 0);
	pid = fork();
	if (!pid) {
		dup2(out[1], STDOUT_FILENO);
		close(out[0]);
		close(out[1]);
		execv(program, argv);
		_exit(127);
	}
	assert_true(pid > 0);
	close(out[1]);
	f = fdopen(out[0], "r");
	assert_non_null(f);
	assert_non_null(fgets(line, sizeof(line), f));
	assert_non_null(strstr(line, "ready"));
	fclose(f);
	return pid;
}

#define SERVE(...) serve((const char *const[]){__VA_ARGS__, NULL})

/* No time for anything: what is not in the file now never will be. */
static void killed(pid_t pid, int *fds, unsigned count)
{
	int status;
	unsigned i;

	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	for (i = 0; i < count; i++) {
		peer_drain_to_end(fds[i]);
		peer_close(fds[i]);
	}
}

/* By QEMU, as it is and repaired: the count of references is only brought up to date at the end. */
static void assert_image_reads(const char *image, const char *qemu_io)
{
	assert_int_equal(scratch_run("cp --sparse=always %s fixed.qcow2 && "
				     "qemu-img check -q -r all fixed.qcow2 && "
				     "qemu-img check -q fixed.qcow2",
				     image),
			 0);
	assert_int_equal(scratch_run("for i in %s fixed.qcow2; do "
				     "qemu-io -r -f qcow2 %s $i >io.txt || exit 1; "
				     "! grep -i 'fail\\|error' io.txt || exit 1; done",
				     image, qemu_io),
			 0);
}

static void write_filled(int fd, uint16_t flags, uint64_t off, uint32_t len, int fill)
{
	unsigned char *p = malloc(len);

	assert_non_null(p);
	memset(p, fill, len);
	peer_write(fd, flags, off, off, p, len);
	assert_int_equal(peer_simple_to(fd, off), 0);
	free(p);
}

static void expect_ok(int fd, uint16_t flags, uint16_t cmd, uint64_t off, uint32_t len)
{
	peer_request(fd, flags, cmd, 4711, off, len);
	assert_int_equal(peer_simple_to(fd, 4711), 0);
}

/* --- rules ------------------------------------------------------------------------------------ */

static void flush_covers_all_connections(void **state)
{
	pid_t pid = SERVE("--image", "flush.qcow2", "--create", "--size", "64M");
	int fds[CLIENTS];
	unsigned i;

	(void)state;
	for (i = 0; i < CLIENTS; i++)
		fds[i] = peer_enter(SOCKET, "");
	for (i = 0; i + 1 < CLIENTS; i++) {
		write_filled(fds[i], 0, i * 4096 + 1, 4095, 10 + i);
		write_filled(fds[i], 0, (1 + i) * (8ULL << 20), 3000001, 20 + i);
	}
	expect_ok(fds[0], 0, NBD_CMD_WRITE_ZEROES, 8 << 20, 65536);
	expect_ok(fds[1], 0, NBD_CMD_TRIM, 16 << 20, 65536);
	/* The last one has written nothing. */
	expect_ok(fds[CLIENTS - 1], 0, NBD_CMD_FLUSH, 0, 0);
	killed(pid, fds, CLIENTS);
	assert_image_reads("flush.qcow2", "-c 'read -P 10 1 4095' -c 'read -P 11 4097 4095' "
					  "-c 'read -P 12 8193 4095' -c 'read -P 13 12289 4095' "
					  "-c 'read -P 14 16385 4095' -c 'read -P 0 8M 64k' "
					  "-c 'read -P 20 8454144 2934465' -c 'read -P 0 16M 64k' "
					  "-c 'read -P 22 24M 3000001' -c 'read -P 23 32M 3000001' "
					  "-c 'read -P 24 40M 3000001'");
}

static void fua_covers_its_own_write(void **state)
{
	pid_t pid = SERVE("--image", "fua.qcow2", "--create", "--size", "64M");
	int fds[] = {peer_enter(SOCKET, ""), peer_enter(SOCKET, "")};

	(void)state;
	write_filled(fds[0], NBD_CMD_FLAG_FUA, 12345, 100000, 7);
	write_filled(fds[1], NBD_CMD_FLAG_FUA, 30 << 20, 5, 8);
	killed(pid, fds, 2);
	assert_image_reads("fua.qcow2", "-c 'read -P 7 12345 100000' -c 'read -P 8 30M 5'");
}

static void fua_covers_zeroes_and_trims(void **state)
{
	pid_t pid;
	int fd;

	(void)state;
	assert_int_equal(scratch_run("qemu-img create -q -f qcow2 p.qcow2 16M && "
				     "qemu-io -c 'write -P 5 0 16M' p.qcow2 >io.txt"),
			 0);
	pid = SERVE("--image", "o.qcow2", "--create", "--backing", "p.qcow2");
	fd = peer_enter(SOCKET, "");
	expect_ok(fd, NBD_CMD_FLAG_FUA, NBD_CMD_WRITE_ZEROES, 1 << 20, 1 << 20);
	expect_ok(fd, NBD_CMD_FLAG_FUA, NBD_CMD_TRIM, 4 << 20, 1 << 20);
	expect_ok(fd, NBD_CMD_FLAG_FUA, NBD_CMD_WRITE_ZEROES, (8 << 20) + 100, 1000);
	killed(pid, &fd, 1);
	assert_image_reads("o.qcow2", "-c 'read -P 5 0 1M' -c 'read -P 0 1M 1M' "
				      "-c 'read -P 0 4M 1M' -c 'read -P 5 8M 100' "
				      "-c 'read -P 0 8388708 1000' -c 'read -P 5 8389708 1000'");
}

/* Whatever was under way at the end, what was flushed before it is as it was. */
static void what_was_flushed_survives_what_was_not(void **state)
{
	pid_t pid = SERVE("--image", "rest.qcow2", "--create", "--size", "64M");
	int fds[] = {peer_enter(SOCKET, ""), peer_enter(SOCKET, "")};
	unsigned char half[NBD_REQUEST_SIZE + 1000] = {0};

	(void)state;
	write_filled(fds[0], 0, 0, 5 << 20, 3);
	expect_ok(fds[1], 0, NBD_CMD_FLUSH, 0, 0);
	write_filled(fds[0], 0, 10 << 20, 5 << 20, 4);
	peer_put_request(half, 0, NBD_CMD_WRITE, 9, 20 << 20, 4096);
	peer_send(fds[1], half, sizeof(half));
	killed(pid, fds, 2);
	assert_image_reads("rest.qcow2", "-c 'read -P 3 0 5M'");
	/* And the next server goes on from there. */
	pid = SERVE("--image", "rest.qcow2");
	fds[0] = peer_enter(SOCKET, "");
	write_filled(fds[0], 0, 10 << 20, 5 << 20, 6);
	expect_ok(fds[0], 0, NBD_CMD_FLUSH, 0, 0);
	killed(pid, fds, 1);
	assert_image_reads("rest.qcow2", "-c 'read -P 3 0 5M' -c 'read -P 6 10M 5M'");
}

int main(void)
{
	static const struct CMUnitTest rules[] = {
		OWN_RULE("Durability",
			 "FLUSH on one connection covers writes acknowledged on all others",
			 flush_covers_all_connections),
		OWN_RULE("Durability", "a WRITE with FUA is stored when it is acknowledged",
			 fua_covers_its_own_write),
		OWN_RULE("Durability", "so are WRITE_ZEROES and TRIM", fua_covers_zeroes_and_trims),
		OWN_RULE("Durability", "what was flushed survives a crash during what follows",
			 what_was_flushed_survives_what_was_not),
	};
	const char *build = getenv("BUILD");

	snprintf(program, sizeof(program), "%s/bin/sendense-nbd", build ? build : "");
	if (!build || access(program, X_OK)) {
		puts("set BUILD to the build folder, with bin/sendense-nbd in it");
		return 77;
	}
	return spec_run_own("durable", rules, ARRAY_SIZE(rules), scratch_setup, scratch_teardown);
}
