/* Orderly stops: of an export, of a server, of sendense-nbd. What was acknowledged is there, what
 * comes too late is told so, and nobody can make it wait. */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "tests/nbd/rig.h"
#include "tests/support/scratch.h"

#define LONG_S	 60  /* the server waits for two seconds at most; this is for slow machines */
#define LINGER_S 2.0 /* how long it waits for the rest of what has begun to come */

static double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int greeted(const char *address)
{
	int fd = peer_connect(address);

	peer_greet(fd, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	return fd;
}

static bool can_connect(const char *path)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), r;

	strncpy(sun.sun_path, path, sizeof(sun.sun_path) - 1);
	r = connect(fd, (struct sockaddr *)&sun, sizeof(sun));
	close(fd);
	return !r;
}

/* --- the server ------------------------------------------------------------------------------- */

static void new_connections_are_refused_and_old_ones_served(void **state)
{
	struct rig *rig = *state;
	int fd = peer_enter(rig->address, RIG_NAME);

	assert_true(can_connect(rig->address + strlen("unix:")));
	nbd_server_shutdown(rig->server);
	assert_false(can_connect(rig->address + strlen("unix:")));
	peer_write(fd, NBD_CMD_FLAG_FUA, 1, 0, "still", 5);
	assert_int_equal(peer_simple_to(fd, 1), 0);
	nbd_server_shutdown(rig->server); /* once more does no harm */
	assert_memory_equal(rig->mem.data, "still", 5);
	peer_close(fd);
}

static void who_negotiates_is_told_err_shutdown(void **state)
{
	struct rig *rig = *state;
	int fd = greeted(rig->address), name = greeted(rig->address);
	uint32_t error = 0;

	nbd_server_shutdown(rig->server);
	peer_option_expect(fd, NBD_OPT_LIST, NULL, 0, NBD_REP_ERR_SHUTDOWN);
	peer_option_expect(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ERR_SHUTDOWN);
	assert_false(peer_go(fd, RIG_NAME, NULL, &error));
	assert_int_equal(error, NBD_REP_ERR_SHUTDOWN);
	assert_false(peer_go(fd, "no such thing", NULL, &error));
	assert_int_equal(error, NBD_REP_ERR_SHUTDOWN);
	peer_option_expect(fd, NBD_OPT_ABORT, NULL, 0, NBD_REP_ACK);
	assert_true(peer_at_end(fd));
	/* This one cannot be told in words. */
	peer_option(name, NBD_OPT_EXPORT_NAME, RIG_NAME, strlen(RIG_NAME));
	assert_true(peer_at_end(name));
	peer_close(fd);
	peer_close(name);
}

/* The export takes nothing, so that all of it waits in the socket when the export goes. */
static void what_was_sent_too_late_is_answered_before_the_end(void **state)
{
	static unsigned char data[3000];
	struct rig *rig = *state;
	int fd = peer_enter(rig->address, RIG_NAME);
	unsigned i;

	atomic_store(&rig->mem.choked, true);
	for (i = 0; i < 30; i++)
		peer_write(fd, 0, i, i * sizeof(data), data, sizeof(data));
	peer_request(fd, 0, NBD_CMD_FLUSH, 30, 0, 0);
	peer_request(fd, 0, NBD_CMD_READ, 31, 0, 512);
	rig_await(atomic_load(&rig->mem.eagains) > 0);
	assert_int_equal(nbd_export_remove(rig->export, false), 0);
	rig->export = NULL;
	for (i = 0; i < 32; i++)
		assert_int_equal(peer_simple_to(fd, i), NBD_ESHUTDOWN);
	assert_true(peer_at_end(fd));
	peer_close(fd);
}

/* The answer to @cookie. False when there is none, which it may be only when LINGER_S has gone by
 * since @began: then the machine has held us up. */
static bool answered_in_time(int fd, uint64_t cookie, double began)
{
	unsigned char reply[NBD_SIMPLE_SIZE];

	if (recv(fd, reply, sizeof(reply), MSG_WAITALL) != sizeof(reply)) {
		assert_true(now_s() - began >= LINGER_S);
		return false;
	}
	assert_int_equal(load_be32(reply), NBD_SIMPLE_MAGIC);
	assert_int_equal(load_be32(reply + 4), NBD_ESHUTDOWN);
	assert_true(load_be64(reply + 8) == cookie);
	return true;
}

/* It gets an answer when the rest has come, and the end when it does not come. */
static void half_a_request_is_waited_for_but_not_for_long(void **state)
{
	struct rig *rig = *state;
	bool answered = false;
	unsigned tries;

	for (tries = 0; !answered && tries < 10; tries++) {
		int late = peer_enter(rig->address, RIG_NAME);
		int never = peer_enter(rig->address, RIG_NAME);
		double began;

		peer_request(late, 0, NBD_CMD_WRITE, 7, 0, 10);
		peer_send(late, "12345", 5);
		peer_request(never, 0, NBD_CMD_WRITE, 8, 0, 10);
		peer_send(never, "12345", 5);
		rig_await(rig_stats(rig).depth == 2);
		began = now_s();
		assert_int_equal(nbd_export_remove(rig->export, false), 0);
		assert_true(now_s() - began < LONG_S); /* clients are not waited for */
		send(late, "67890", 5, MSG_NOSIGNAL);
		answered = answered_in_time(late, 7, began);
		assert_true(peer_at_end(late));
		assert_true(peer_at_end(never));
		assert_true(now_s() - began < LONG_S);
		peer_close(late);
		peer_close(never);
		rig->export = rig_add(rig, &rig->mem, RIG_NAME);
	}
	assert_true(answered);
}

static void nobody_can_keep_a_server_from_stopping(void **state)
{
	struct rig *rig = *state;
	int deaf, half, idle, option, silent;
	unsigned i;
	double began;

	rig_change_limits(rig, (struct nbd_server_config){.handshake_timeout_ms = 3600 * 1000,
							  .stall_timeout_ms = 3600 * 1000});
	deaf = peer_enter(rig->address, RIG_NAME);
	half = peer_enter(rig->address, RIG_NAME);
	idle = peer_enter(rig->address, RIG_NAME);
	option = greeted(rig->address);
	silent = peer_connect(rig->address);
	for (i = 0; i < 8; i++)
		peer_request(deaf, 0, NBD_CMD_READ, i, 0, 32 << 20);
	peer_request(half, 0, NBD_CMD_WRITE, 1, 0, 1 << 20);
	peer_send(half, "x", 1);
	peer_send(option, "IHAVEOPT\0", 9);
	rig_await(rig_stats(rig).depth == 9);
	began = now_s();
	rig_stop(rig);
	assert_true(now_s() - began < LONG_S);
	peer_close(deaf);
	peer_close(half);
	peer_close(idle);
	peer_close(option);
	peer_close(silent);
	*state = rig_start((struct nbd_server_config){.workers = 1, .batch_count = 2});
}

/* Whoever rests is let go at once: no grace is spent on it. */
static void resting_clients_cost_no_time(void **state)
{
	struct rig *rig = *state;
	int fd[20];
	unsigned i, j;

	for (i = 0; i < ARRAY_SIZE(fd); i++) {
		fd[i] = i % 2 ? peer_enter(rig->address, RIG_NAME) : greeted(rig->address);
		for (j = 0; i % 2 && j < 5; j++) {
			peer_write(fd[i], 0, j, 0, "x", 1);
			assert_int_equal(peer_simple_to(fd[i], j), 0);
		}
	}
	nbd_export_ref(rig->export);
	assert_int_equal(nbd_export_remove(rig->export, false), 0);
	assert_int_equal(rig_stats(rig).connections, 0);
	nbd_export_unref(rig->export);
	rig->export = NULL;
	for (i = 1; i < ARRAY_SIZE(fd); i += 2)
		assert_true(peer_at_end(fd[i]));
	for (i = 0; i < ARRAY_SIZE(fd); i++)
		peer_close(fd[i]);
}

/* --- sendense-nbd ----------------------------------------------------------------------------- */

#define BLOCK	(64U << 10)
#define BLOCKS	8192U /* 512 MiB, far more than will be written */
#define SERVED	"unix:s"
#define GO_SOON 200 /* acknowledged WRITEs before the signal */

static char program[512];

struct served {
	pid_t pid;
};

/* Starts sendense-nbd on socket `s` in the scratch folder, output in out.txt, log in err.txt. */
static void serve(struct served *served, const char *image, bool create)
{
	const char *args[] = {
		program, "--socket",	    "s",    "--image",	image,	  "--handshake-timeout",
		"3600",	 "--stall-timeout", "3600", "--create", "--size", "512M",
		NULL};
	unsigned tries;

	if (!create)
		args[9] = NULL;
	scratch_run("rm -f out.txt");
	served->pid = fork();
	assert_true(served->pid >= 0);
	if (!served->pid) {
		int out = open("out.txt", O_WRONLY | O_CREAT, 0600);
		int err = open("err.txt", O_WRONLY | O_CREAT | O_APPEND, 0600);

		dup2(out, STDOUT_FILENO);
		dup2(err, STDERR_FILENO);
		execv(program, (char **)args);
		_exit(127);
	}
	for (tries = 0; tries < PEER_TIMEOUT_S * 100; tries++) {
		struct stat st;

		if (!stat("out.txt", &st) && st.st_size)
			return;
		usleep(10000);
	}
	scratch_run("cat err.txt; false");
	fail_msg("sendense-nbd does not start");
}

/* Its exit status; fails when it takes too long. */
static int ended(struct served *served)
{
	double began = now_s();
	int status;

	while (waitpid(served->pid, &status, WNOHANG) == 0) {
		if (now_s() - began > 2 * LONG_S) {
			kill(served->pid, SIGKILL);
			fail_msg("sendense-nbd does not end");
		}
		usleep(5000);
	}
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

/* A client that writes as fast as it is let, and remembers what became of each block. */
struct load {
	int fd;
	atomic_bool enough;
	unsigned sent; /* complete WRITEs, the writer's until it is joined */
	pthread_t writer;
	unsigned answered, acknowledged, too_late;
	unsigned char fate[BLOCKS]; /* 1: acknowledged, 2: ESHUTDOWN */
};

static void block_fill(unsigned char *p, unsigned n)
{
	rig_pattern(p, BLOCK, 1 + n * 977);
}

static void *load_write(void *arg)
{
	struct load *load = arg;
	unsigned char *b = malloc(NBD_REQUEST_SIZE + BLOCK);

	while (load->sent < BLOCKS && !atomic_load(&load->enough)) {
		size_t at = 0, len = NBD_REQUEST_SIZE + BLOCK;

		peer_put_request(b, 0, NBD_CMD_WRITE, load->sent, (uint64_t)load->sent * BLOCK,
				 BLOCK);
		block_fill(b + NBD_REQUEST_SIZE, load->sent);
		while (at < len) {
			ssize_t n = send(load->fd, b + at, len - at, MSG_NOSIGNAL);

			if (n <= 0)
				goto out;
			at += n;
		}
		load->sent++;
	}
out:
	free(b);
	return NULL;
}

static void load_start(struct load *load)
{
	memset(load, 0, sizeof(*load));
	load->fd = peer_enter(SERVED, "");
	assert_int_equal(pthread_create(&load->writer, NULL, load_write, load), 0);
}

/* One reply; false at the end. */
static bool load_read(struct load *load)
{
	unsigned char b[NBD_SIMPLE_SIZE];
	size_t at = 0;
	uint64_t n;

	while (at < sizeof(b)) {
		ssize_t r = recv(load->fd, b + at, sizeof(b) - at, 0);

		if (r <= 0 && at)
			fail_msg("a reply ends in the middle");
		if (r <= 0)
			return false;
		at += r;
	}
	assert_int_equal(load_be32(b), NBD_SIMPLE_MAGIC);
	n = load_be64(b + 8);
	assert_true(n < BLOCKS && !load->fate[n]);
	load->answered++;
	if (load_be32(b + 4) == 0) {
		load->fate[n] = 1;
		load->acknowledged++;
		return true;
	}
	assert_int_equal(load_be32(b + 4), NBD_ESHUTDOWN);
	load->fate[n] = 2;
	load->too_late++;
	atomic_store(&load->enough, true);
	return true;
}

static void load_end(struct load *load)
{
	while (load_read(load))
		;
	atomic_store(&load->enough, true);
	shutdown(load->fd, SHUT_RDWR);
	pthread_join(load->writer, NULL);
	peer_close(load->fd);
}

/* Every acknowledged block is in the image, which is clean. */
static void assert_kept(const struct load *load, const char *image)
{
	unsigned char *wanted = malloc(BLOCK), *got = malloc(BLOCK);
	unsigned n, kept = 0;
	int raw;

	assert_int_equal(scratch_run("qemu-img check -q %s", image), 0);
	assert_int_equal(scratch_run("qemu-img convert -O raw %s raw", image), 0);
	raw = open("raw", O_RDONLY);
	assert_true(raw >= 0);
	for (n = 0; n < BLOCKS; n++) {
		if (load->fate[n] != 1)
			continue;
		block_fill(wanted, n);
		assert_int_equal(pread(raw, got, BLOCK, (off_t)n * BLOCK), BLOCK);
		assert_memory_equal(wanted, got, BLOCK);
		kept++;
	}
	assert_int_equal(kept, load->acknowledged);
	close(raw);
	unlink("raw");
	free(wanted);
	free(got);
}

/* Answered is what was sent to its end, in the order of sending; but for a block, perhaps, that
 * came into the socket after the server had looked for the last time. */
static void assert_answered(const struct load *load)
{
	unsigned n;

	assert_true(load->answered <= load->sent && load->sent - load->answered <= 1);
	for (n = 0; n < load->sent; n++)
		assert_true(!load->fate[n] == (n >= load->answered));
}

/* Ends under a load; how much of it came too late. */
static unsigned end_under_load(void)
{
	static struct load load;
	struct served served;
	int idle;

	unlink("a.qcow2");
	serve(&served, "a.qcow2", true);
	idle = greeted(SERVED);
	load_start(&load);
	while (load.acknowledged < GO_SOON)
		assert_true(load_read(&load));
	kill(served.pid, SIGTERM);
	load_end(&load);
	assert_int_equal(ended(&served), 0);
	assert_answered(&load);
	assert_false(can_connect("s"));
	assert_true(peer_at_end(idle));
	peer_close(idle);
	assert_kept(&load, "a.qcow2");
	assert_int_equal(scratch_run("! grep -E ' (warn|error) ' err.txt && "
				     "qemu-img info --output=json a.qcow2 | "
				     "grep -q '\"dirty-flag\": false'"),
			 0);
	return load.too_late;
}

/* The writer has blocks under way at nearly every moment, so that some come too late; where the
 * machine let it rest just then, there was nobody to tell. */
static void what_was_acknowledged_is_in_the_image(void **state)
{
	unsigned tries = 0;

	(void)state;
	while (!end_under_load())
		assert_true(++tries < 10);
}

static void two_signals_end_it_at_once_and_the_image_can_be_repaired(void **state)
{
	static struct load load;
	struct served served;
	unsigned char *wanted = malloc(BLOCK);

	(void)state;
	serve(&served, "b.qcow2", true);
	/* Flushed before the load begins: this must survive whatever comes. */
	assert_int_equal(scratch_run("qemu-io -f raw -c 'write -P 77 500M 1M' -c flush "
				     "'nbd+unix:///?socket=s'"),
			 0);
	load_start(&load);
	while (load.acknowledged < GO_SOON)
		assert_true(load_read(&load));
	/* Both are there when it goes on, so that the second cannot come too late. */
	kill(served.pid, SIGSTOP);
	kill(served.pid, SIGTERM);
	kill(served.pid, SIGINT);
	kill(served.pid, SIGCONT);
	load_end(&load);
	assert_int_equal(ended(&served), 3);
	assert_int_equal(scratch_run("grep -q 'second signal' err.txt"), 0);
	assert_int_equal(scratch_run("cp b.qcow2 c.qcow2 && qemu-img check -q -r all c.qcow2 && "
				     "qemu-io -r -c 'read -P 77 500M 1M' c.qcow2"),
			 0);
	/* Ours does the same on opening. */
	serve(&served, "b.qcow2", false);
	assert_int_equal(scratch_run("qemu-io -f raw -c 'read -P 77 500M 1M' "
				     "'nbd+unix:///?socket=s'"),
			 0);
	kill(served.pid, SIGTERM);
	assert_int_equal(ended(&served), 0);
	assert_int_equal(scratch_run("qemu-img check -q b.qcow2"), 0);
	free(wanted);
}

static void stuck_clients_do_not_hold_it_up(void **state)
{
	struct served served;
	int deaf, half, option, i;
	double began;

	(void)state;
	serve(&served, "d.qcow2", true);
	deaf = peer_enter(SERVED, "");
	for (i = 0; i < 8; i++)
		peer_request(deaf, 0, NBD_CMD_READ, i, 0, 32 << 20);
	half = peer_enter(SERVED, "");
	peer_request(half, 0, NBD_CMD_WRITE, 1, 0, 32 << 20);
	peer_send(half, "x", 1);
	option = greeted(SERVED);
	peer_send(option, "IHAVEOPT\0", 9);
	began = now_s();
	kill(served.pid, SIGTERM);
	assert_int_equal(ended(&served), 0);
	assert_true(now_s() - began < LONG_S);
	assert_int_equal(scratch_run("qemu-img check -q d.qcow2"), 0);
	peer_close(deaf);
	peer_close(half);
	peer_close(option);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
	const struct CMUnitTest server_tests[] = {
		T(new_connections_are_refused_and_old_ones_served),
		T(who_negotiates_is_told_err_shutdown),
		T(what_was_sent_too_late_is_answered_before_the_end),
		T(half_a_request_is_waited_for_but_not_for_long),
		T(nobody_can_keep_a_server_from_stopping),
		T(resting_clients_cost_no_time),
	};
	const struct CMUnitTest program_tests[] = {
		cmocka_unit_test(what_was_acknowledged_is_in_the_image),
		cmocka_unit_test(two_signals_end_it_at_once_and_the_image_can_be_repaired),
		cmocka_unit_test(stuck_clients_do_not_hold_it_up),
	};
	const char *build = getenv("BUILD");
	int failed = cmocka_run_group_tests(server_tests, NULL, NULL);

	snprintf(program, sizeof(program), "%s/bin/sendense-nbd", build ? build : "");
	if (!build || access(program, X_OK)) {
		puts("set BUILD to the build folder, with bin/sendense-nbd in it");
		return failed ? 1 : 77;
	}
	return failed + cmocka_run_group_tests(program_tests, scratch_setup, scratch_teardown);
}
