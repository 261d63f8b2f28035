/* What an export counts: by command, in time, and how deep. */
#include "tests/nbd/rig.h"

static struct nbd_command_stats command(const struct rig *rig, unsigned row)
{
	return rig_stats(rig).commands[row];
}

static uint64_t answered(const struct nbd_command_stats *c)
{
	uint64_t n = 0;
	unsigned i;

	for (i = 0; i < NBD_LATENCY_BUCKETS; i++)
		n += c->latency[i];
	return n;
}

static void every_command_has_its_own_row(void **state)
{
	static const struct {
		uint16_t command;
		uint32_t len;
	} asked[] = {
		{NBD_CMD_READ, 1000},
		{NBD_CMD_WRITE, 2000},
		{NBD_CMD_FLUSH, 0},
		{NBD_CMD_TRIM, 3000},
		{NBD_CMD_CACHE, 4000},
		{NBD_CMD_WRITE_ZEROES, 5000},
		{77, 0},
	};
	static unsigned char data[5000];
	struct rig *rig = *state;
	int fd = peer_enter(rig->address, RIG_NAME);
	unsigned i, round;

	for (i = 0; i < ARRAY_SIZE(asked); i++) {
		unsigned row = MIN(asked[i].command, NBD_STATS_COMMANDS - 1);
		bool known = asked[i].command < NBD_STATS_COMMANDS - 1;
		struct nbd_command_stats c;

		for (round = 0; round < 3; round++) {
			peer_request(fd, 0, asked[i].command, i, 0, asked[i].len);
			if (asked[i].command == NBD_CMD_WRITE)
				peer_send(fd, data, asked[i].len);
			assert_int_equal(peer_simple_to(fd, i), known ? 0 : NBD_EINVAL);
			if (asked[i].command == NBD_CMD_READ)
				peer_recv(fd, data, asked[i].len);
		}
		/* Out of range, or not to be understood: an error, and no bytes. */
		peer_request(fd, 0, asked[i].command, i, RIG_SIZE, 1000);
		if (asked[i].command == NBD_CMD_WRITE)
			peer_send(fd, data, 1000);
		assert_true(peer_simple_to(fd, i) != 0);
		c = command(rig, row);
		assert_int_equal(c.requests, 4);
		assert_int_equal(c.errors, known ? 1 : 4);
		assert_int_equal(c.bytes, 3 * asked[i].len);
		assert_int_equal(answered(&c), 4);
	}
	assert_int_equal(rig_stats(rig).requests, 4 * ARRAY_SIZE(asked));
	assert_int_equal(rig_stats(rig).errors, ARRAY_SIZE(asked) + 3);
	assert_int_equal(rig_stats(rig).bytes_zeroed, 3 * (3000 + 5000));
	assert_int_equal(rig_stats(rig).bytes_written, 3 * 2000);
	assert_int_equal(rig_stats(rig).bytes_read, 3 * 1000);
	assert_int_equal(rig_stats(rig).depth, 0);
	peer_close(fd);
	for (i = 0; i < NBD_STATS_COMMANDS; i++)
		assert_non_null(nbd_stats_command(i));
	assert_string_equal(nbd_stats_command(NBD_CMD_WRITE_ZEROES), "write_zeroes");
}

/* Held for 100 ms and more: not in a bucket of less. */
static void what_takes_long_is_in_a_late_bucket(void **state)
{
	static const uint16_t held[] = {NBD_CMD_READ, NBD_CMD_FLUSH, NBD_CMD_TRIM};
	struct rig *rig = *state;
	int fd = peer_enter(rig->address, RIG_NAME);
	char back[512];
	unsigned i, b;

	for (i = 0; i < ARRAY_SIZE(held); i++) {
		uint32_t len = held[i] == NBD_CMD_FLUSH ? 0 : sizeof(back);
		struct nbd_command_stats c;

		atomic_store(&rig->mem.hold, true);
		peer_request(fd, 0, held[i], i, 0, len);
		rig_await(rig_stats(rig).depth == 1);
		usleep(100000);
		atomic_store(&rig->mem.hold, false);
		assert_int_equal(peer_simple_to(fd, i), 0);
		if (held[i] == NBD_CMD_READ)
			peer_recv(fd, back, sizeof(back));
		c = command(rig, held[i]);
		assert_int_equal(answered(&c), 1);
		for (b = 0; b < 17; b++) /* to 65.5 ms */
			assert_int_equal(c.latency[b], 0);
	}
	peer_close(fd);
}

/* A WRITE lasts as long as its payload takes to come. */
static void a_write_begins_with_its_header(void **state)
{
	struct rig *rig = *state;
	int fd = peer_enter(rig->address, RIG_NAME);
	struct nbd_command_stats c;
	unsigned b;

	peer_request(fd, 0, NBD_CMD_WRITE, 1, 0, 2);
	peer_send(fd, "a", 1);
	rig_await(rig_stats(rig).depth == 1);
	usleep(100000);
	peer_send(fd, "b", 1);
	assert_int_equal(peer_simple_to(fd, 1), 0);
	c = command(rig, NBD_CMD_WRITE);
	assert_int_equal(answered(&c), 1);
	for (b = 0; b < 17; b++)
		assert_int_equal(c.latency[b], 0);
	peer_close(fd);
}

static void depth_is_what_is_outstanding_and_remembers_its_peak(void **state)
{
	struct rig *rig = *state;
	int a = peer_enter(rig->address, RIG_NAME), b = peer_enter(rig->address, RIG_NAME);
	struct nbd_command_stats c;
	uint64_t cookie;
	unsigned i;

	atomic_store(&rig->mem.hold, true);
	for (i = 0; i < 20; i++) /* more than have a buffer */
		peer_request(a, 0, NBD_CMD_READ, i, 0, 512);
	peer_request(a, 0, NBD_CMD_WRITE, 20, 0, 1000);
	peer_send(a, "half", 4);
	for (i = 0; i < 7; i++)
		peer_request(b, 0, NBD_CMD_FLUSH, i, 0, 0);
	rig_await(rig_stats(rig).depth == 28);
	/* Those of a client that leaves are not outstanding any more, once they have returned. */
	peer_close(a);
	atomic_store(&rig->mem.hold, false);
	for (i = 0; i < 7; i++)
		assert_int_equal(peer_simple(b, &cookie), 0);
	rig_await(rig_stats(rig).depth == 0);
	assert_int_equal(rig_stats(rig).depth_peak, 28);
	c = command(rig, NBD_CMD_WRITE);
	assert_int_equal(c.requests, 1);
	assert_int_equal(answered(&c) + c.errors + c.bytes, 0);
	peer_close(b);
}

/* A WRITE with FUA is one request in all of its stages. */
static void fua_counts_once(void **state)
{
	struct rig *rig = *state;
	int fd = peer_enter(rig->address, RIG_NAME);
	struct nbd_command_stats c;

	peer_write(fd, NBD_CMD_FLAG_FUA, 1, 0, "12345678", 8);
	assert_int_equal(peer_simple_to(fd, 1), 0);
	peer_request(fd, NBD_CMD_FLAG_FUA, NBD_CMD_WRITE_ZEROES, 2, 0, 4096);
	assert_int_equal(peer_simple_to(fd, 2), 0);
	c = command(rig, NBD_CMD_WRITE);
	assert_true(c.requests == 1 && answered(&c) == 1 && c.bytes == 8);
	c = command(rig, NBD_CMD_WRITE_ZEROES);
	assert_true(c.requests == 1 && answered(&c) == 1 && c.bytes == 4096);
	c = command(rig, NBD_CMD_FLUSH);
	assert_int_equal(c.requests, 0);
	assert_true(rig_stats(rig).depth == 0 && rig_stats(rig).depth_peak == 1);
	peer_close(fd);
}

static void counters_outlive_the_export_for_who_holds_it(void **state)
{
	struct rig *rig = *state;
	int fd = peer_enter(rig->address, RIG_NAME);
	struct nbd_export *export = nbd_export_ref(rig->export);

	peer_write(fd, 0, 1, 0, "12345678", 8);
	assert_int_equal(peer_simple_to(fd, 1), 0);
	assert_int_equal(nbd_export_remove(export, false), 0);
	assert_int_equal(rig_stats(rig).bytes_written, 8);
	assert_int_equal(rig_stats(rig).connections, 0);
	nbd_export_unref(export);
	rig->export = NULL;
	peer_close(fd);
}

static void the_server_counts_who_came(void **state)
{
	struct rig *rig = *state;
	struct nbd_server_stats stats;
	int fd[5];
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(fd); i++)
		fd[i] = peer_enter(rig->address, RIG_NAME);
	nbd_server_get_stats(rig->server, &stats);
	assert_int_equal(stats.accepted, 5);
	assert_int_equal(stats.connections, 5);
	for (i = 0; i < ARRAY_SIZE(fd); i++)
		peer_close(fd[i]);
	do {
		nbd_server_get_stats(rig->server, &stats);
		usleep(1000);
	} while (stats.connections);
	assert_int_equal(stats.accepted, 5);
	for (i = 0; i < NBD_LIMITS; i++) {
		assert_int_equal(stats.met[i], 0);
		assert_non_null(nbd_limit_name(i));
	}
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
	const struct CMUnitTest tests[] = {
		T(every_command_has_its_own_row),
		T(what_takes_long_is_in_a_late_bucket),
		T(a_write_begins_with_its_header),
		T(depth_is_what_is_outstanding_and_remembers_its_peak),
		T(fua_counts_once),
		T(counters_outlive_the_export_for_who_holds_it),
		T(the_server_counts_who_came),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
