/* Limits that are set: each holds, is counted, and is in the log once until there is room again. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/resource.h>

#include "nbd/conn.h"
#include "tests/nbd/rig.h"

/* --- the log ---------------------------------------------------------------------------------- */

/* Between the two, what is logged goes to a file; how many lines have @text in them. */
struct log_file {
	char path[256];
	int before;
};

static void log_begin(struct log_file *log)
{
	const char *tmp = getenv("TMPDIR");
	int fd;

	snprintf(log->path, sizeof(log->path), "%s/nbd-log.XXXXXX", tmp ? tmp : "/tmp");
	fd = mkstemp(log->path);
	assert_true(fd >= 0);
	fflush(stderr);
	log->before = dup(STDERR_FILENO);
	dup2(fd, STDERR_FILENO);
	close(fd);
	log_set_level(LOG_LEVEL_INFO);
}

static unsigned log_count(const struct log_file *log, const char *text)
{
	FILE *f = fopen(log->path, "r");
	char line[2048];
	unsigned n = 0;

	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		n += strstr(line, text) != NULL;
	fclose(f);
	return n;
}

static void log_end(struct log_file *log)
{
	log_set_level(LOG_LEVEL_ERROR);
	dup2(log->before, STDERR_FILENO);
	close(log->before);
	unlink(log->path);
}

/* --- help ------------------------------------------------------------------------------------- */

static struct rig *start(struct nbd_server_config config)
{
	config.workers = 1;
	config.batch_count = 2;
	return rig_start(config);
}

static uint64_t met(const struct rig *rig, enum nbd_limit limit)
{
	struct nbd_server_stats stats;

	nbd_server_get_stats(rig->server, &stats);
	return stats.met[limit];
}

static unsigned connections(const struct rig *rig)
{
	struct nbd_server_stats stats;

	nbd_server_get_stats(rig->server, &stats);
	return stats.connections;
}

static void listen_tcp(struct rig *rig, char *bound, size_t size)
{
	struct err err = ERR_INIT;

	rig_ok(nbd_server_listen(rig->server, "127.0.0.1:0", NULL, bound, size, &err), &err);
}

/* From 127.0.0.@last to the loopback address in @to. */
static int connect_from(unsigned last, const char *to)
{
	struct sockaddr_in sin = {.sin_family = AF_INET};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK - 1 + last);
	assert_int_equal(bind(fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
	sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	sin.sin_port = htons(atoi(strrchr(to, ':') + 1));
	assert_int_equal(connect(fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
	return fd;
}

static void assert_greets(int fd)
{
	peer_greet(fd, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
}

/* --- bounds ----------------------------------------------------------------------------------- */

static void a_value_out_of_bounds_is_refused_by_name(void **state)
{
	static const struct {
		struct nbd_server_config config;
		const char *name;
	} wrong[] = {
		{{.workers = 65}, "workers"},
		{{.max_connections = 65537}, "max_connections "},
		{{.max_connections_per_peer = 65537}, "max_connections_per_peer"},
		{{.max_connections_per_export = 65537}, "max_connections_per_export"},
		{{.handshake_percent = 101}, "handshake_percent"},
		{{.handshake_timeout_ms = 9}, "handshake_timeout_ms"},
		{{.handshake_timeout_ms = 3600001}, "handshake_timeout_ms"},
		{{.idle_timeout_ms = 9}, "idle_timeout_ms"},
		{{.idle_timeout_ms = UINT32_MAX}, "idle_timeout_ms"},
		{{.stall_timeout_ms = 9}, "stall_timeout_ms"},
		{{.stall_timeout_ms = UINT32_MAX}, "stall_timeout_ms"},
		{{.max_option_bytes = 511}, "max_option_bytes"},
		{{.max_option_bytes = 65537}, "max_option_bytes"},
		{{.max_inflight_bytes = (256 << 10) - 1}, "max_inflight_bytes"},
		{{.max_inflight_bytes = (3 << 20) + 1}, "max_inflight_bytes"},
		{{.send_queue_bytes = 4095}, "send_queue_bytes"},
		{{.send_queue_bytes = (1 << 20) + 1}, "send_queue_bytes"},
		{{.batch_count = 4097}, "batch_count"},
	};
	struct nbd_server *server = NULL;
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(wrong); i++) {
		struct err err = ERR_INIT;

		assert_int_equal(nbd_server_config_check(&wrong[i].config, &err), -EINVAL);
		if (!strstr(err.text, wrong[i].name) || !strstr(err.text, "between"))
			fail_msg("%s: %s", wrong[i].name, err.text);
		assert_int_equal(nbd_server_start(&server, &wrong[i].config, &err), -EINVAL);
		assert_null(server);
	}
}

static void one_line_tells_all_limits(void **state)
{
	struct log_file log;
	struct rig *rig;

	(void)state;
	log_begin(&log);
	log_set_level(LOG_LEVEL_INFO);
	{
		struct nbd_server_config config = {
			.workers = 1,
			.max_connections = 11,
			.max_connections_per_peer = 12,
			.max_connections_per_export = 13,
			.handshake_percent = 21,
			.handshake_timeout_ms = 14000,
			.idle_timeout_ms = 15000,
			.stall_timeout_ms = 16000,
			.max_option_bytes = 17000,
			.max_inflight_bytes = 1800000,
			.send_queue_bytes = 19000,
			.batch_count = 20,
		};
		struct nbd_server *server;
		struct err err = ERR_INIT;

		rig_ok(nbd_server_start(&server, &config, &err), &err);
		nbd_server_stop(server);
	}
	assert_int_equal(log_count(&log, "limits: 1 workers with 20 write buffers of 2 MiB; "
					 "connections: 11, 12 an IP address, 13 an export; "
					 "handshake 14000 ms, idle 15000 ms, stall 16000 ms; "
					 "a connection: option 17000 bytes, 64 requests and "
					 "1800000 bytes of data in flight, send queue 19000 bytes; "
					 "new connections: 21 % of the time"),
			 1);
	log_end(&log);
	rig = start((struct nbd_server_config){0});
	rig_stop(rig);
}

/* --- connections ------------------------------------------------------------------------------ */

static void a_full_server_says_so_once_until_there_is_room(void **state)
{
	struct rig *rig = start((struct nbd_server_config){.max_connections = 2});
	struct log_file log;
	unsigned i, round;

	(void)state;
	log_begin(&log);
	for (round = 1; round <= 2; round++) {
		int a = peer_connect(rig->address), b = peer_connect(rig->address);

		assert_greets(a);
		assert_greets(b);
		for (i = 0; i < 5; i++) {
			int c = peer_connect(rig->address);

			assert_true(peer_at_end(c));
			peer_close(c);
		}
		assert_int_equal(met(rig, NBD_LIMIT_CONNECTIONS), 5 * round);
		assert_int_equal(log_count(&log, "2 connections are open"), round);
		peer_close(a);
		peer_close(b);
		rig_await(connections(rig) == 0);
		usleep(1100000); /* one line a second, whatever happens */
	}
	log_end(&log);
	rig_stop(rig);
}

static void one_address_cannot_take_it_all(void **state)
{
	struct rig *rig = start((struct nbd_server_config){.max_connections_per_peer = 2});
	char tcp[64];
	int fd[5], i;
	struct log_file log;

	(void)state;
	listen_tcp(rig, tcp, sizeof(tcp));
	log_begin(&log);
	for (i = 0; i < 2; i++)
		assert_greets(fd[i] = connect_from(1, tcp));
	for (i = 0; i < 3; i++) {
		int refused = connect_from(1, tcp);

		assert_true(peer_at_end(refused));
		peer_close(refused);
	}
	assert_int_equal(met(rig, NBD_LIMIT_PEER), 3);
	assert_int_equal(log_count(&log, "127.0.0.1 has 2 connections open"), 1);
	/* Another address, and any number on the unix socket. */
	assert_greets(fd[2] = connect_from(2, tcp));
	assert_greets(fd[3] = peer_connect(rig->address));
	assert_greets(fd[4] = peer_connect(rig->address));
	peer_close(peer_enter(rig->address, RIG_NAME));
	peer_close(fd[0]);
	rig_await(connections(rig) == 4);
	assert_greets(fd[0] = connect_from(1, tcp));
	for (i = 0; i < 5; i++)
		peer_close(fd[i]);
	log_end(&log);
	rig_stop(rig);
}

static void half_of_all_connections_is_what_an_address_gets_unless_told(void **state)
{
	struct rig *rig = start((struct nbd_server_config){.max_connections = 4});
	int fd[3], i;
	char tcp[64];

	(void)state;
	listen_tcp(rig, tcp, sizeof(tcp));
	for (i = 0; i < 3; i++)
		fd[i] = connect_from(1, tcp);
	assert_greets(fd[0]);
	assert_greets(fd[1]);
	assert_true(peer_at_end(fd[2]));
	for (i = 0; i < 3; i++)
		peer_close(fd[i]);
	rig_stop(rig);
}

static void an_export_that_is_full_is_counted(void **state)
{
	struct rig *rig = start((struct nbd_server_config){.max_connections_per_export = 1});
	int in = peer_enter(rig->address, RIG_NAME), out = peer_connect(rig->address), i;
	struct log_file log;

	(void)state;
	log_begin(&log);
	assert_greets(out);
	for (i = 0; i < 3; i++)
		assert_false(peer_go(out, RIG_NAME, NULL, NULL));
	assert_int_equal(met(rig, NBD_LIMIT_EXPORT), 3);
	assert_int_equal(log_count(&log, "1 connections are open"), 1);
	log_end(&log);
	peer_close(in);
	peer_close(out);
	rig_stop(rig);
}

static void connections_leave_room_for_other_files(void **state)
{
	struct rlimit before, few;
	struct log_file log;
	struct rig *rig;
	int fd[13], i;

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	few = before;
	few.rlim_cur = 16;
	log_begin(&log);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	{
		struct nbd_server_config config = {.workers = 1, .max_connections = 20};
		struct nbd_server *server;
		struct err err = ERR_INIT;
		int r = nbd_server_start(&server, &config, &err);

		assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
		rig_ok(r, &err);
		nbd_server_stop(server);
	}
	assert_int_equal(log_count(&log, "12 connections instead of 20"), 1);
	assert_int_equal(log_count(&log, "connections: 12, 6 an IP"), 1);
	log_end(&log);
	rig = start((struct nbd_server_config){.max_connections = 12});
	for (i = 0; i < 13; i++)
		fd[i] = peer_connect(rig->address);
	for (i = 0; i < 12; i++)
		assert_greets(fd[i]);
	assert_true(peer_at_end(fd[12]));
	for (i = 0; i < 13; i++)
		peer_close(fd[i]);
	rig_stop(rig);
}

/* --- time ------------------------------------------------------------------------------------- */

static void who_is_idle_for_too_long_is_hung_up_on(void **state)
{
	struct rig *rig = start((struct nbd_server_config){0});
	int silent = peer_enter(rig->address, RIG_NAME), half = peer_enter(rig->address, RIG_NAME);
	int writing = peer_enter(rig->address, RIG_NAME);
	int waiting = peer_enter(rig->address, RIG_NAME);
	unsigned i;

	(void)state;
	/* In the middle of a header, in the middle of a payload, and one that waits for us. */
	peer_send(half, "\x25\x60\x95", 3);
	peer_request(writing, 0, NBD_CMD_WRITE, 1, 0, 1 << 20);
	peer_send(writing, "half", 4);
	atomic_store(&rig->mem.hold, true);
	peer_request(waiting, 0, NBD_CMD_READ, 2, 0, 512);
	rig_await(rig_stats(rig).depth == 2);
	assert_int_equal(rig_stats(rig).connections, 4);
	/* Only now, so that nobody is too late for what it has to say. */
	rig_change_limits(rig, (struct nbd_server_config){.idle_timeout_ms = 1000});
	assert_true(peer_at_end(silent));
	assert_true(peer_at_end(half));
	assert_true(peer_at_end(writing));
	assert_int_equal(met(rig, NBD_LIMIT_IDLE), 3);
	usleep(1500000);
	assert_int_equal(rig_stats(rig).connections, 1);
	atomic_store(&rig->mem.hold, false);
	assert_int_equal(peer_simple_to(waiting, 2), 0);
	for (i = 0; i < 512; i += 16) {
		char back[16];

		peer_recv(waiting, back, sizeof(back));
	}
	assert_true(peer_at_end(waiting)); /* and now its own time is up */
	peer_close(silent);
	peer_close(half);
	peer_close(writing);
	peer_close(waiting);
	rig_stop(rig);
}

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

#define IDLE_MS 1000

/* Talks for longer than it may be idle. False: the machine made it idle, and it was hung up on. */
static bool talks_now_and_then(struct rig *rig)
{
	unsigned char request[NBD_REQUEST_SIZE], reply[NBD_SIMPLE_SIZE];
	int64_t heard = now_ms(), said; /* at the earliest; before what is said now */
	int fd = peer_enter(rig->address, RIG_NAME);
	bool ended = false;
	unsigned i;

	for (i = 0; i < 8 && !ended; i++, heard = said) {
		usleep(IDLE_MS / 5 * 1000);
		said = now_ms();
		peer_put_request(request, 0, NBD_CMD_FLUSH, i, 0, 0);
		ended = send(fd, request, sizeof(request), MSG_NOSIGNAL) < 0 ||
			recv(fd, reply, sizeof(reply), MSG_WAITALL) != sizeof(reply);
		if (ended && now_ms() - heard < IDLE_MS)
			fail_msg("hung up on after %lld ms", (long long)(now_ms() - heard));
		if (!ended)
			assert_true(load_be64(reply + 8) == i && !load_be32(reply + 4));
	}
	peer_close(fd);
	return !ended;
}

static void who_talks_now_and_then_is_not_idle(void **state)
{
	struct rig *rig = start((struct nbd_server_config){.idle_timeout_ms = IDLE_MS});
	unsigned ended = 0;

	(void)state;
	while (!talks_now_and_then(rig))
		assert_true(++ended < 20);
	assert_int_equal(met(rig, NBD_LIMIT_IDLE), ended);
	rig_stop(rig);
}

static void a_slow_handshake_is_counted_and_told_of_once(void **state)
{
	struct rig *rig = start((struct nbd_server_config){.handshake_timeout_ms = 100});
	struct log_file log;
	int fd[4], i;

	(void)state;
	log_begin(&log);
	for (i = 0; i < 4; i++)
		fd[i] = peer_connect(rig->address);
	for (i = 0; i < 4; i++) {
		peer_drain_to_end(fd[i]);
		peer_close(fd[i]);
	}
	rig_await(met(rig, NBD_LIMIT_HANDSHAKE) == 4);
	assert_int_equal(log_count(&log, "negotiates for too long"), 1);
	log_end(&log);
	rig_stop(rig);
}

/* --- sizes ------------------------------------------------------------------------------------ */

static void an_option_may_be_as_long_as_it_was_set(void **state)
{
	struct rig *rig = start((struct nbd_server_config){.max_option_bytes = 600});
	int fd = peer_connect(rig->address);
	unsigned char data[601] = {0};

	(void)state;
	assert_greets(fd);
	peer_option_expect(fd, NBD_OPT_LIST_META_CONTEXT, data, 600, NBD_REP_ERR_INVALID);
	assert_int_equal(met(rig, NBD_LIMIT_OPTION), 0);
	peer_option_expect(fd, NBD_OPT_LIST_META_CONTEXT, data, 601, NBD_REP_ERR_TOO_BIG);
	assert_int_equal(met(rig, NBD_LIMIT_OPTION), 1);
	assert_true(peer_go(fd, RIG_NAME, NULL, NULL));
	peer_close(fd);
	rig_stop(rig);
}

static void take_holes(int fd, unsigned n, uint32_t len) /* in any order */
{
	while (n--) {
		struct peer_chunk c;

		peer_chunk(fd, &c);
		assert_int_equal(c.type, NBD_REPLY_TYPE_OFFSET_HOLE); /* an empty disk */
		assert_int_equal(c.flags, NBD_REPLY_FLAG_DONE);
		assert_int_equal(c.data_len, len);
		peer_chunk_free(&c);
	}
}

/* How many of 20 READs the export has at once, of a client that has read @before already. Once the
 * WRITE behind them is answered, all READs have been looked at. */
static unsigned reads_in_memory(struct rig *rig, unsigned before)
{
	int fd = peer_enter_structured(rig->address, RIG_NAME);
	unsigned i, reads;
	const uint32_t len = 1000;

	for (i = 0; i < before; i++)
		peer_request(fd, 0, NBD_CMD_READ, 100 + i, i * len, len);
	take_holes(fd, before, len);
	reads = atomic_load(&rig->mem.reads);
	atomic_store(&rig->mem.hold, true);
	for (i = 0; i < 20; i++)
		peer_request(fd, 0, NBD_CMD_READ, i, i * len, len);
	peer_write(fd, 0, 99, 64 << 10, "x", 1);
	assert_int_equal(peer_simple_to(fd, 99), 0);
	reads = atomic_load(&rig->mem.reads) - reads;
	atomic_store(&rig->mem.hold, false);
	take_holes(fd, 20, len);
	peer_close(fd);
	return reads;
}

static void data_in_flight_is_bounded_per_connection(void **state)
{
	struct rig *rig = start((struct nbd_server_config){.max_inflight_bytes = 600 << 10});

	(void)state;
	assert_int_equal(reads_in_memory(rig, 10), 2); /* buffers are 256 KiB */
	assert_true(met(rig, NBD_LIMIT_INFLIGHT) >= 18);
	rig_stop(rig);
	rig = start((struct nbd_server_config){0});
	assert_int_equal(reads_in_memory(rig, 20), 12);
	rig_stop(rig);
}

/* So that many who come at once and read nothing do not hold all buffers. */
static void a_client_has_more_in_flight_as_it_reads(void **state)
{
	struct rig *rig = start((struct nbd_server_config){0});

	(void)state;
	assert_int_equal(reads_in_memory(rig, 0), 1);
	assert_int_equal(reads_in_memory(rig, 3), 4);
	rig_stop(rig);
}

/* Streams need two buffers to overlap, and one to get through. */
static void one_buffer_is_enough_for_any_reply(void **state)
{
	struct rig *rig = start((struct nbd_server_config){.max_inflight_bytes = 256 << 10});
	const uint32_t len = 3 << 20;
	unsigned char *back = malloc(len);
	unsigned i;
	int fd;

	(void)state;
	assert_non_null(back);
	rig_pattern(rig->mem.data, RIG_SIZE, 7);
	assert_int_equal(nbd_export_flush(rig->export), 0); /* the worker's to read from here on */
	fd = peer_enter(rig->address, RIG_NAME);
	for (i = 0; i < 4; i++)
		peer_request(fd, 0, NBD_CMD_READ, i, i * 4000001, i % 2 ? 5 : len);
	for (i = 0; i < 4; i++) {
		uint32_t n = i % 2 ? 5 : len;

		assert_int_equal(peer_simple_to(fd, i), 0);
		peer_recv(fd, back, n);
		assert_memory_equal(back, rig->mem.data + i * 4000001, n);
	}
	free(back);
	peer_close(fd);
	rig_stop(rig);
}

/* As many requests as one receive takes, answered in one go: 9360 bytes of replies. */
static void the_send_queue_has_the_size_it_was_given(void **state)
{
	enum { BURST = NBD_INBUF / NBD_REQUEST_SIZE };
	static const unsigned sizes[] = {0, 4097, 9300, 9500, 100001};
	static unsigned char b[BURST * NBD_REQUEST_SIZE];
	unsigned i, round, size;

	(void)state;
	for (i = 0; i < BURST; i++)
		peer_put_request(b + i * NBD_REQUEST_SIZE, 0, NBD_CMD_CACHE, i, 0, 512);
	for (size = 0; size < ARRAY_SIZE(sizes); size++) {
		struct rig *rig =
			start((struct nbd_server_config){.send_queue_bytes = sizes[size]});
		int fd = peer_enter(rig->address, RIG_NAME);

		/* None is lost, and the ring wraps in the right places. */
		for (round = 0; round < 50; round++) {
			peer_send(fd, b, sizeof(b));
			for (i = 0; i < BURST; i++)
				assert_int_equal(peer_simple_to(fd, i), 0);
		}
		assert_int_equal(met(rig, NBD_LIMIT_SEND_QUEUE) > 0, sizes[size] < 9400);
		peer_close(fd);
		rig_stop(rig);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_value_out_of_bounds_is_refused_by_name),
		cmocka_unit_test(one_line_tells_all_limits),
		cmocka_unit_test(a_full_server_says_so_once_until_there_is_room),
		cmocka_unit_test(one_address_cannot_take_it_all),
		cmocka_unit_test(half_of_all_connections_is_what_an_address_gets_unless_told),
		cmocka_unit_test(an_export_that_is_full_is_counted),
		cmocka_unit_test(connections_leave_room_for_other_files),
		cmocka_unit_test(who_is_idle_for_too_long_is_hung_up_on),
		cmocka_unit_test(who_talks_now_and_then_is_not_idle),
		cmocka_unit_test(a_slow_handshake_is_counted_and_told_of_once),
		cmocka_unit_test(an_option_may_be_as_long_as_it_was_set),
		cmocka_unit_test(data_in_flight_is_bounded_per_connection),
		cmocka_unit_test(a_client_has_more_in_flight_as_it_reads),
		cmocka_unit_test(one_buffer_is_enough_for_any_reply),
		cmocka_unit_test(the_send_queue_has_the_size_it_was_given),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
