/* Sockets that outlive the program: while sendense-nbd or sendense-hub is restarted, nobody is
 * refused. Runs the programs of this build. */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "tests/nbd/rig.h"
#include "tests/support/activate.h"
#include "tests/support/scratch.h"

#define WAITING 40

static char nbd[512], hub[512];
static char line[512];

static pid_t start_nbd(const int *fds, unsigned count, const char *names)
{
	const char *made[] = {nbd, "--image", "disk.qcow2", "--create", "--size", "16M", NULL};
	const char *continued[] = {nbd, "--image", "disk.qcow2", NULL};

	return activate(access("disk.qcow2", F_OK) ? made : continued, fds, count, names, line,
			sizeof(line), "err.txt");
}

static void no_complaints(void)
{
	assert_int_equal(scratch_run("cat err.txt; ! grep -E ' (warn|error) ' err.txt"), 0);
}

static int greeted(const char *address)
{
	int fd = peer_connect(address);

	peer_greet(fd, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	assert_true(peer_go(fd, "", NULL, NULL));
	return fd;
}

static void write_page(int fd, unsigned char byte, uint64_t off)
{
	unsigned char page[4096];

	memset(page, byte, sizeof(page));
	peer_write(fd, NBD_CMD_FLAG_FUA, byte, off, page, sizeof(page));
	assert_int_equal(peer_simple_to(fd, byte), 0);
}

static void expect_page(int fd, unsigned char byte, uint64_t off)
{
	unsigned char page[4096];
	unsigned i;

	peer_request(fd, 0, NBD_CMD_READ, byte, off, sizeof(page));
	assert_int_equal(peer_simple_to(fd, byte), 0);
	peer_recv(fd, page, sizeof(page));
	for (i = 0; i < sizeof(page); i++)
		assert_int_equal(page[i], byte);
}

static void clients_that_come_during_a_restart_are_served_after_it(void **state)
{
	char tcp[64], line_wanted[128], unix_address[] = "unix:n.sock";
	int sockets[2], waiting[WAITING], fd, again;
	unsigned i;
	pid_t pid;

	(void)state;
	sockets[0] = activate_tcp(tcp, sizeof(tcp));
	sockets[1] = activate_unix("n.sock");
	pid = start_nbd(sockets, 2, "nbd:nbd");
	snprintf(line_wanted, sizeof(line_wanted), "sendense-nbd ready on nbd://%s/", tcp);
	assert_string_equal(line, line_wanted);
	fd = greeted(tcp);
	write_page(fd, 1, 0);
	again = greeted(unix_address);
	write_page(again, 2, 65536);
	assert_int_equal(activate_end(pid), 0);
	assert_true(peer_at_end(fd) && peer_at_end(again));
	peer_close(fd);
	peer_close(again);
	/* Nobody is there, and nobody is refused. */
	for (i = 0; i < WAITING; i++)
		waiting[i] = peer_connect(i % 2 ? tcp : unix_address);
	pid = start_nbd(sockets, 2, "nbd:nbd");
	assert_string_equal(line, line_wanted);
	for (i = 0; i < WAITING; i++) {
		peer_greet(waiting[i], NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
		assert_true(peer_go(waiting[i], "", NULL, NULL));
		expect_page(waiting[i], 1, 0);
		expect_page(waiting[i], 2, 65536);
		write_page(waiting[i], 3 + i, (2 + i) * 65536);
	}
	for (i = 0; i < WAITING; i++)
		peer_close(waiting[i]);
	fd = greeted(tcp);
	for (i = 0; i < WAITING; i++)
		expect_page(fd, 3 + i, (2 + i) * 65536);
	peer_close(fd);
	assert_int_equal(activate_end(pid), 0);
	no_complaints();
	assert_int_equal(scratch_run("qemu-img check -q disk.qcow2 && test -S n.sock"), 0);
	close(sockets[0]);
	close(sockets[1]);
	unlink("n.sock");
	unlink("disk.qcow2");
}

struct visitor {
	const char *address;
	atomic_bool stop;
	atomic_uint served;
	unsigned ended;
};

/* Comes again and again. Whoever has got a greeting from a program that then stops sees its session
 * end; nobody ever sees a door. */
static void *visit(void *arg)
{
	struct visitor *v = arg;

	while (!atomic_load(&v->stop)) {
		unsigned char greeting[NBD_GREETING_SIZE];
		int fd = peer_connect(v->address);

		if (recv(fd, greeting, sizeof(greeting), MSG_WAITALL) == sizeof(greeting))
			atomic_fetch_add(&v->served, 1);
		else
			v->ended++;
		peer_close(fd);
	}
	return NULL;
}

static void restart_after_restart_no_connect_fails(void **state)
{
	char tcp[64];
	struct visitor v = {.address = tcp};
	pthread_t thread;
	unsigned i;
	int fd;

	(void)state;
	fd = activate_tcp(tcp, sizeof(tcp));
	pthread_create(&thread, NULL, visit, &v);
	for (i = 0; i < 5; i++) {
		unsigned before = atomic_load(&v.served);
		pid_t pid = start_nbd(&fd, 1, NULL);

		assert_true(strstr(line, "ready") != NULL);
		peer_close(greeted(tcp));
		rig_await(atomic_load(&v.served) > before);
		if (i == 4) {
			atomic_store(&v.stop, true);
			pthread_join(thread, NULL);
		}
		assert_int_equal(activate_end(pid), 0);
	}
	assert_true(v.ended < 5);
	close(fd);
	no_complaints();
	unlink("disk.qcow2");
}

static void what_contradicts_what_was_passed_is_refused(void **state)
{
	const char *both[] = {nbd,  "--image",	"x.qcow2",     "--create", "--size",
			      "1M", "--listen", "127.0.0.1:0", NULL};
	const char *hub_names[] = {hub,		  "--data-dir",	    "d",   "--http",
				   "127.0.0.1:0", "--agent-listen", "off", NULL};
	int file = open("/dev/null", O_RDONLY | O_CLOEXEC), fd;
	char tcp[64];
	pid_t pid;

	(void)state;
	fd = activate_tcp(tcp, sizeof(tcp));
	pid = activate(both, &fd, 1, NULL, line, sizeof(line), "err.txt");
	assert_int_equal(activate_end(pid), 2);
	pid = start_nbd(&file, 1, NULL);
	assert_int_equal(activate_end(pid), 1);
	assert_int_equal(scratch_run("grep -q 'no listening stream socket' err.txt"), 0);
	assert_int_equal(scratch_run("! test -e x.qcow2 && ! test -e disk.qcow2"), 0);
	pid = activate(hub_names, &fd, 1, "something", line, sizeof(line), "err.txt");
	assert_int_equal(activate_end(pid), 1);
	assert_int_equal(scratch_run("grep -q 'FileDescriptorName=nbd, =http or =agent' err.txt"),
			 0);
	pid = activate(hub_names, &fd, 1, "http", line, sizeof(line), "err.txt");
	assert_int_equal(activate_end(pid), 1);
	assert_int_equal(scratch_run("grep -q 'there is one already' err.txt; rm err.txt"), 0);
	close(fd);
	close(file);
}

static void the_hub_takes_its_sockets_by_name(void **state)
{
	const char *argv[] = {hub, "--data-dir", "hub", NULL};
	char http[64], address[64], agents[64], wanted[300];
	int sockets[3], waiting;
	unsigned round;

	(void)state;
	sockets[0] = activate_tcp(http, sizeof(http));
	sockets[1] = activate_tcp(address, sizeof(address));
	sockets[2] = activate_tcp(agents, sizeof(agents));
	snprintf(wanted, sizeof(wanted), "sendense-hub ready http=%s agent=%s nbd=%s", http, agents,
		 address);
	for (round = 0; round < 3; round++) {
		pid_t pid;

		/* One client of each kind is there before the hub is. */
		assert_int_equal(scratch_run("(curl -s --noproxy '*' --max-time 120 "
					     "http://%s/health > health.json; echo $? > curl.rc) "
					     ">/dev/null 2>&1 & true",
					     http),
				 0);
		waiting = peer_connect(address);
		pid = activate(argv, sockets, 3, "http:nbd:agent", line, sizeof(line), "err.txt");
		assert_string_equal(line, wanted);
		peer_greet(waiting, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
		peer_option_expect(waiting, NBD_OPT_LIST, NULL, 0, NBD_REP_ACK);
		peer_close(waiting);
		assert_int_equal(scratch_run("for i in $(seq 2000); do test -s curl.rc && break; "
					     "sleep 0.05; done; grep -q healthy health.json && "
					     "grep -qx 0 curl.rc && rm curl.rc health.json"),
				 0);
		assert_int_equal(activate_end(pid), 0);
	}
	no_complaints();
	close(sockets[0]);
	close(sockets[1]);
	close(sockets[2]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(clients_that_come_during_a_restart_are_served_after_it),
		cmocka_unit_test(restart_after_restart_no_connect_fails),
		cmocka_unit_test(what_contradicts_what_was_passed_is_refused),
		cmocka_unit_test(the_hub_takes_its_sockets_by_name),
	};
	const char *build = getenv("BUILD");

	snprintf(nbd, sizeof(nbd), "%s/bin/sendense-nbd", build ? build : "");
	snprintf(hub, sizeof(hub), "%s/bin/sendense-hub", build ? build : "");
	if (!build || access(nbd, X_OK) || access(hub, X_OK)) {
		puts("set BUILD to the build folder, with bin/sendense-nbd in it");
		return 77;
	}
	return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
