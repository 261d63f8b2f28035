/* Clients that cost more than they bring: memory stays what it was at start, nobody else waits. */
#include <linux/sockios.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

#include "tests/nbd/rig.h"

static long resident_kib(void)
{
	FILE *f = fopen("/proc/self/statm", "r");
	long size, resident;

	assert_non_null(f);
	assert_int_equal(fscanf(f, "%ld %ld", &size, &resident), 2);
	fclose(f);
	return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

/* Sanitizers keep books of their own about every byte. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define assert_grew_less(before, mib) ((void)(before))
#else
#define assert_grew_less(before, mib) assert_true(resident_kib() - (before) < (mib) << 10)
#endif

static void assert_served(struct rig *rig)
{
	int fd = peer_enter(rig->address, RIG_NAME);
	unsigned char back[70000];

	peer_request(fd, 0, NBD_CMD_READ, 1, 0, sizeof(back));
	assert_int_equal(peer_simple_to(fd, 1), 0);
	peer_recv(fd, back, sizeof(back));
	peer_write(fd, NBD_CMD_FLAG_FUA, 2, 0, back, sizeof(back));
	assert_int_equal(peer_simple_to(fd, 2), 0);
	peer_close(fd);
}

static void sixty_clients_that_announce_much_and_send_one_byte_cost_nothing(void **state)
{
	struct rig *rig = *state;
	int fd[60];
	unsigned i;
	long before = resident_kib();

	for (i = 0; i < ARRAY_SIZE(fd); i++) {
		fd[i] = peer_enter(rig->address, RIG_NAME);
		peer_request(fd[i], NBD_CMD_FLAG_FUA, NBD_CMD_WRITE, i, 0, NBD_MAX_PAYLOAD);
		peer_send(fd[i], "x", 1);
	}
	assert_served(rig);
	assert_grew_less(before, 8);
	for (i = 0; i < ARRAY_SIZE(fd); i++)
		peer_close(fd[i]);
}

static void sixty_clients_in_the_middle_of_a_choked_write_stop_only_writes(void **state)
{
	static unsigned char data[60000];
	struct rig *rig = *state;
	struct memexport mem;
	struct nbd_export *other;
	unsigned i;
	int fd[60], reader;

	/* All 16 staging buffers end up with clients whose export takes nothing. */
	atomic_store(&rig->mem.choked, true);
	for (i = 0; i < ARRAY_SIZE(fd); i++) {
		fd[i] = peer_enter(rig->address, RIG_NAME);
		peer_request(fd[i], 0, NBD_CMD_WRITE, i, i * 65536, 65536);
		peer_send(fd[i], data, sizeof(data));
	}
	rig_await(atomic_load(&rig->mem.eagains) >= 16);
	memexport_init(&mem, 1 << 20);
	other = rig_add(rig, &mem, "a");	     /* the other worker's ... */
	reader = peer_enter(rig->address, RIG_NAME); /* ... and this one still reads */
	peer_request(reader, 0, NBD_CMD_READ, 1, 0, 512);
	assert_int_equal(peer_simple_to(reader, 1), 0);
	peer_recv(reader, data, 512);
	peer_close(reader);
	atomic_store(&rig->mem.choked, false);
	for (i = 0; i < ARRAY_SIZE(fd); i++) {
		peer_send(fd[i], data, 5536);
		assert_int_equal(peer_simple_to(fd[i], i), 0);
		peer_close(fd[i]);
	}
	assert_int_equal(nbd_export_remove(other, false), 0);
	memexport_deinit(&mem);
}

static void clients_that_read_no_replies_are_throttled_not_served_from_memory(void **state)
{
	struct rig *rig = *state;
	int fd = peer_enter(rig->address, RIG_NAME);
	unsigned char b[64 * NBD_REQUEST_SIZE];
	long before = resident_kib();
	unsigned i, sent = 0;

	for (i = 0; i < 64; i++)
		peer_put_request(b + i * NBD_REQUEST_SIZE, 0, NBD_CMD_CACHE, i, 0, 512);
	/* Requests go in until replies have filled every buffer on the way back. */
	for (i = 0; i < 100000; i++) {
		ssize_t n = send(fd, b, sizeof(b), MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0) {
			usleep(1000);
			n = send(fd, b, sizeof(b), MSG_NOSIGNAL | MSG_DONTWAIT);
		}
		if (n <= 0)
			break;
		sent += n;
	}
	assert_true(i < 100000);
	assert_served(rig);
	assert_grew_less(before, 8);
	for (i = 0; i < sent / NBD_REQUEST_SIZE; i++)
		assert_int_equal(peer_simple_to(fd, i % 64), 0);
	peer_close(fd);
}

static void be_deaf(const struct rig *rig, int *fd, unsigned count)
{
	unsigned i, k;

	for (i = 0; i < count; i++) {
		fd[i] = peer_enter_structured(rig->address, RIG_NAME);
		for (k = 0; k < 32; k++)
			peer_request(fd[i], 0, NBD_CMD_READ, k, 0, NBD_MAX_PAYLOAD);
	}
}

static void a_few_clients_that_read_no_replies_leave_buffers_to_others(void **state)
{
	struct rig *rig = rig_start((struct nbd_server_config){
		.workers = 1, .batch_count = 2, .stall_timeout_ms = 3600 * 1000});
	unsigned char *back = malloc(8 << 20);
	unsigned round;
	int deaf[4], fd;

	(void)state;
	assert_non_null(back);
	be_deaf(rig, deaf, ARRAY_SIZE(deaf));
	rig_await(atomic_load(&rig->mem.reads) >= 20);
	fd = peer_enter_structured(rig->address, RIG_NAME);
	for (round = 0; round < 3; round++) {
		peer_request(fd, 0, NBD_CMD_READ, 1, 0, 8 << 20);
		assert_int_equal(peer_read_structured(fd, 1, 0, 8 << 20, back, NULL), 0);
	}
	free(back);
	peer_close(fd);
	for (round = 0; round < ARRAY_SIZE(deaf); round++)
		peer_close(deaf[round]);
	rig_stop(rig);
}

static void a_client_that_rests_in_the_middle_of_a_reply_is_left_alone(void **state)
{
	struct rig *rig = rig_start((struct nbd_server_config){
		.workers = 1, .batch_count = 2, .stall_timeout_ms = 100});
	int fd = peer_enter_structured(rig->address, RIG_NAME);
	unsigned char *back = malloc(8 << 20);

	(void)state;
	assert_non_null(back);
	peer_request(fd, 0, NBD_CMD_READ, 1, 0, 8 << 20);
	usleep(400000);
	assert_served(rig); /* there is still a buffer for others: no pressure */
	assert_int_equal(peer_read_structured(fd, 1, 0, 8 << 20, back, NULL), 0);
	free(back);
	peer_close(fd);
	rig_stop(rig);
}

static void a_thousand_idle_connections_cost_little(void **state)
{
	const unsigned count = 1000;
	struct rlimit limit;
	struct rig *rig;
	long before;
	unsigned i;
	int *fd;

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur < 2 * count + 100) {
		print_message("only %lu descriptors allowed\n", (unsigned long)limit.rlim_cur);
		skip();
	}
	rig = rig_start((struct nbd_server_config){
		.workers = 2, .batch_count = 2, .max_connections_per_export = count + 1});
	fd = calloc(count, sizeof(*fd));
	assert_non_null(fd);
	before = resident_kib();
	for (i = 0; i < count; i++)
		fd[i] = peer_enter(rig->address, RIG_NAME);
	assert_grew_less(before, 32);
	assert_served(rig);
	for (i = 0; i < count; i += 37) {
		peer_request(fd[i], 0, NBD_CMD_FLUSH, i, 0, 0);
		assert_int_equal(peer_simple_to(fd[i], i), 0);
	}
	for (i = 0; i < count; i++)
		peer_close(fd[i]);
	free(fd);
	rig_stop(rig);
}

static uint64_t paced(struct rig *rig)
{
	struct nbd_server_stats stats;

	nbd_server_get_stats(rig->server, &stats);
	return stats.paced;
}

/* Sends a byte and waits until the server has received it, so that the next is another receive. */
static void send_crumb(int fd, const unsigned char *p)
{
	int unread = 1;

	peer_send(fd, p, 1);
	while (!ioctl(fd, SIOCOUTQ, &unread) && unread)
		sched_yield();
}

static void who_sends_crumbs_waits_for_its_turn_and_nobody_else_does(void **state)
{
	struct rig *rig = *state;
	int crumbs = peer_enter(rig->address, RIG_NAME), i;
	int fd = peer_enter(rig->address, RIG_NAME);
	unsigned char data[64], header[NBD_REQUEST_SIZE];

	/* One request after the other, each in a receive of its own and small: that is normal. */
	rig_pattern(data, sizeof(data), 9);
	for (i = 0; i < 100; i++) {
		peer_write(fd, 0, i, 4096, data, sizeof(data));
		assert_int_equal(peer_simple_to(fd, i), 0);
	}
	assert_int_equal(paced(rig), 0);
	peer_put_request(header, 0, NBD_CMD_WRITE, 7, 8192, sizeof(data));
	for (i = 0; i < (int)sizeof(header); i++)
		send_crumb(crumbs, header + i);
	for (i = 0; i < (int)sizeof(data); i++)
		send_crumb(crumbs, data + i);
	assert_int_equal(peer_simple_to(crumbs, 7), 0);
	assert_memory_equal(rig->mem.data + 8192, data, sizeof(data));
	assert_true(paced(rig) > 10);
	assert_served(rig);
	/* It may leave while it waits. */
	for (i = 0; i < 20; i++)
		send_crumb(crumbs, header + i);
	peer_send(crumbs, header + 20, 1);
	peer_close(crumbs);
	peer_close(fd);
	rig_await(rig_stats(rig).connections == 0);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
	const struct CMUnitTest tests[] = {
		T(sixty_clients_that_announce_much_and_send_one_byte_cost_nothing),
		T(sixty_clients_in_the_middle_of_a_choked_write_stop_only_writes),
		T(clients_that_read_no_replies_are_throttled_not_served_from_memory),
		cmocka_unit_test(a_few_clients_that_read_no_replies_leave_buffers_to_others),
		T(who_sends_crumbs_waits_for_its_turn_and_nobody_else_does),
		cmocka_unit_test(a_client_that_rests_in_the_middle_of_a_reply_is_left_alone),
		cmocka_unit_test(a_thousand_idle_connections_cost_little),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
