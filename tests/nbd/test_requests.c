/* Requests of a client that is right, wrong, slow, hasty, or gone. */
#include <pthread.h>

#include "tests/nbd/rig.h"

static void flush_expect(int fd)
{
	peer_request(fd, 0, NBD_CMD_FLUSH, 4242, 0, 0);
	assert_int_equal(peer_simple_to(fd, 4242), 0);
}

/* What a flush has made visible: bytes of the export, by way of the worker's own answer. */
static const unsigned char *content(struct rig *rig)
{
	assert_int_equal(nbd_export_flush(rig->export), 0);
	return rig->mem.data;
}

static void assert_pattern(struct rig *rig, uint64_t off, size_t len, uint64_t seed)
{
	unsigned char *expect = malloc(len);

	assert_non_null(expect);
	rig_pattern(expect, len, seed);
	assert_memory_equal(content(rig) + off, expect, len);
	free(expect);
}

static unsigned char *pattern(size_t len, uint64_t seed)
{
	unsigned char *p = malloc(len);

	assert_non_null(p);
	rig_pattern(p, len, seed);
	return p;
}

/* --- each error value ------------------------------------------------------------------------- */

struct wrong {
	uint16_t flags, type;
	uint64_t off;
	uint32_t len;
	uint32_t error;
};

static void every_wrong_request_has_its_error_and_the_connection_lives_on(void **state)
{
	static const struct wrong rows[] = {
		{0, NBD_CMD_READ, RIG_SIZE, 1, NBD_EINVAL},
		{0, NBD_CMD_READ, RIG_SIZE - 511, 512, NBD_EINVAL},
		{0, NBD_CMD_READ, UINT64_MAX, 2, NBD_EINVAL},
		{0, NBD_CMD_READ, UINT64_MAX - 511, 512, NBD_EINVAL},
		{0, NBD_CMD_READ, 0, NBD_MAX_PAYLOAD + 1, NBD_EINVAL},
		{0, NBD_CMD_READ, 0, 0xffffffffU, NBD_EINVAL},
		{NBD_CMD_FLAG_DF, NBD_CMD_READ, 0, 512, NBD_EINVAL}, /* not negotiated */
		{NBD_CMD_FLAG_NO_HOLE, NBD_CMD_READ, 0, 512, NBD_EINVAL},
		{0x8000, NBD_CMD_READ, 0, 512, NBD_EINVAL},
		{0, NBD_CMD_TRIM, RIG_SIZE, 512, NBD_EINVAL},
		{NBD_CMD_FLAG_NO_HOLE, NBD_CMD_TRIM, 0, 512, NBD_EINVAL},
		{0, NBD_CMD_WRITE_ZEROES, RIG_SIZE - 1, 2, NBD_ENOSPC},
		{0, NBD_CMD_WRITE_ZEROES, UINT64_MAX, 0xffffffffU, NBD_ENOSPC},
		{NBD_CMD_FLAG_DF, NBD_CMD_WRITE_ZEROES, 0, 512, NBD_EINVAL},
		{0, NBD_CMD_CACHE, RIG_SIZE, 1, NBD_EINVAL},
		{NBD_CMD_FLAG_DF, NBD_CMD_CACHE, 0, 1, NBD_EINVAL},
		{0, NBD_CMD_FLUSH, 512, 0, NBD_EINVAL},
		{0, NBD_CMD_FLUSH, 0, 512, NBD_EINVAL},
		{0, NBD_CMD_BLOCK_STATUS, 0, 512, NBD_EINVAL}, /* no context */
		{0, 8, 0, 0, NBD_EINVAL},
		{0, 0xffff, 0, 512, NBD_EINVAL},
	};
	struct rig *rig = *state;
	int fd = peer_enter(rig->address, RIG_NAME);
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		peer_request(fd, rows[i].flags, rows[i].type, i, rows[i].off, rows[i].len);
		if (peer_simple_to(fd, i) != rows[i].error)
			fail_msg("row %u has another error", i);
	}
	flush_expect(fd);
	assert_int_equal(rig_stats(rig).errors, ARRAY_SIZE(rows));
	peer_close(fd);
}

static void a_refused_write_is_drained_whatever_its_length(void **state)
{
	static const struct wrong rows[] = {
		{0, NBD_CMD_WRITE, RIG_SIZE, 1, NBD_ENOSPC},
		{0, NBD_CMD_WRITE, RIG_SIZE - 511, 512, NBD_ENOSPC},
		{0, NBD_CMD_WRITE, UINT64_MAX, 100000, NBD_ENOSPC},
		{0, NBD_CMD_WRITE, 0, NBD_MAX_PAYLOAD + 1, NBD_EINVAL},
		{NBD_CMD_FLAG_DF, NBD_CMD_WRITE, 0, 4096, NBD_EINVAL},
		{0x4000, NBD_CMD_WRITE, 0, 300000, NBD_EINVAL},
	};
	struct rig *rig = *state;
	int fd = peer_enter(rig->address, RIG_NAME);
	unsigned char *junk = calloc(1, NBD_MAX_PAYLOAD + 1);
	unsigned i;

	assert_non_null(junk);
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		peer_write(fd, rows[i].flags, i, rows[i].off, junk, rows[i].len);
		if (peer_simple_to(fd, i) != rows[i].error)
			fail_msg("row %u has another error", i);
		flush_expect(fd);
	}
	assert_int_equal(atomic_load(&rig->mem.writes), 0);
	free(junk);
	peer_close(fd);
}

static void requests_of_no_length_succeed_up_to_the_end(void **state)
{
	static const uint16_t types[] = {NBD_CMD_READ, NBD_CMD_WRITE, NBD_CMD_TRIM, NBD_CMD_CACHE,
					 NBD_CMD_WRITE_ZEROES};
	struct rig *rig = *state;
	int fd = peer_enter(rig->address, RIG_NAME);
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(types); i++) {
		peer_request(fd, 0, types[i], i, RIG_SIZE, 0);
		assert_int_equal(peer_simple_to(fd, i), 0);
		peer_request(fd, 0, types[i], i, 4711, 0);
		assert_int_equal(peer_simple_to(fd, i), 0);
		peer_request(fd, 0, types[i], i, RIG_SIZE + 1, 0);
		assert_int_not_equal(peer_simple_to(fd, i), 0);
	}
	flush_expect(fd);
	peer_close(fd);
}

static void a_read_only_export_refuses_every_change(void **state)
{
	struct nbd_export_config config = {.name = "ro", .size = 65536, .read_only = true};
	static const unsigned char junk[4096];
	struct rig *rig = *state;
	struct nbd_export *export;
	struct err err = ERR_INIT;
	struct peer_export info;
	struct memexport mem;
	unsigned char back[512];
	int fd;

	memexport_init(&mem, 65536);
	rig_ok(nbd_export_add(rig->server, &config, &memexport_ops, &mem, &export, &err), &err);
	fd = peer_connect(rig->address);
	peer_greet(fd, NBD_FLAG_FIXED_NEWSTYLE);
	assert_true(peer_go(fd, "ro", &info, NULL));
	assert_true(info.flags & NBD_FLAG_READ_ONLY);
	peer_write(fd, 0, 1, 0, junk, sizeof(junk));
	assert_int_equal(peer_simple_to(fd, 1), NBD_EPERM);
	peer_request(fd, 0, NBD_CMD_TRIM, 2, 0, 4096);
	assert_int_equal(peer_simple_to(fd, 2), NBD_EPERM);
	peer_request(fd, 0, NBD_CMD_WRITE_ZEROES, 3, 0, 4096);
	assert_int_equal(peer_simple_to(fd, 3), NBD_EPERM);
	flush_expect(fd); /* nothing to flush, and nobody is asked to */
	peer_request(fd, 0, NBD_CMD_READ, 4, 0, sizeof(back));
	assert_int_equal(peer_simple_to(fd, 4), 0);
	peer_recv(fd, back, sizeof(back));
	peer_close(fd);
	assert_int_equal(nbd_export_flush(export), 0);
	assert_int_equal(atomic_load(&mem.flushes), 0);
	assert_int_equal(nbd_export_remove(export, false), 0);
	assert_int_equal(atomic_load(&mem.flushes),
			 1); /* what was begun ahead ends before detach */
	assert_int_equal(atomic_load(&mem.detached), 1);
	memexport_deinit(&mem);
}

static void what_the_disk_says_is_what_the_client_hears(void **state)
{
	static const unsigned char data[200000] = {1};
	struct rig *rig = *state;
	int fd = peer_enter(rig->address, RIG_NAME);

	atomic_store(&rig->mem.write_error, -ENOSPC);
	atomic_store(&rig->mem.fail_from, 150000); /* in the middle of it */
	peer_write(fd, 0, 1, 0, data, sizeof(data));
	assert_int_equal(peer_simple_to(fd, 1), NBD_ENOSPC);
	peer_write(fd, 0, 2, 0, data, 1000);
	assert_int_equal(peer_simple_to(fd, 2), 0);
	atomic_store(&rig->mem.zero_error, -EIO);
	peer_request(fd, 0, NBD_CMD_WRITE_ZEROES, 3, 0, 4096);
	assert_int_equal(peer_simple_to(fd, 3), NBD_EIO);
	atomic_store(&rig->mem.flush_error, -EBADMSG);
	peer_request(fd, 0, NBD_CMD_FLUSH, 4, 0, 0);
	assert_int_equal(peer_simple_to(fd, 4), NBD_EIO);
	peer_write(fd, NBD_CMD_FLAG_FUA, 5, 0, data, 1000);
	assert_int_equal(peer_simple_to(fd, 5), NBD_EIO);
	atomic_store(&rig->mem.read_error, -EIO);
	peer_request(fd, 0, NBD_CMD_READ, 6, 149999, 10);
	assert_int_equal(peer_simple_to(fd, 6), NBD_EIO);
	assert_int_equal(rig_stats(rig).errors, 5);
	atomic_store(&rig->mem.flush_error, 0);
	flush_expect(fd);
	peer_close(fd);
}

/* Errors that blame the request are not the disk's to give. */
static void a_disk_cannot_say_what_only_a_request_can_be_told(void **state)
{
	static const int errors[] = {-EINVAL, -ENOTSUP, -EOVERFLOW};
	static const unsigned char data[4096] = {1};
	struct rig *rig = *state;
	int fd = peer_enter(rig->address, RIG_NAME);
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(errors); i++) {
		atomic_store(&rig->mem.write_error, errors[i]);
		atomic_store(&rig->mem.zero_error, errors[i]);
		atomic_store(&rig->mem.flush_error, errors[i]);
		atomic_store(&rig->mem.read_error, errors[i]);
		peer_write(fd, 0, 1, 0, data, sizeof(data));
		assert_int_equal(peer_simple_to(fd, 1), NBD_EIO);
		peer_request(fd, NBD_CMD_FLAG_FAST_ZERO, NBD_CMD_WRITE_ZEROES, 2, 0, 4096);
		assert_int_equal(peer_simple_to(fd, 2), NBD_EIO);
		peer_request(fd, 0, NBD_CMD_TRIM, 3, 0, 4096);
		assert_int_equal(peer_simple_to(fd, 3), NBD_EIO);
		peer_request(fd, 0, NBD_CMD_FLUSH, 4, 0, 0);
		assert_int_equal(peer_simple_to(fd, 4), NBD_EIO);
		peer_request(fd, 0, NBD_CMD_READ, 5, 0, 512);
		assert_int_equal(peer_simple_to(fd, 5), NBD_EIO);
	}
	peer_close(fd);
}

/* --- what requests do ------------------------------------------------------------------------- */

static void bytes_written_are_read_back_and_zeroes_replace_them(void **state)
{
	struct rig *rig = *state;
	int fd = peer_enter(rig->address, RIG_NAME);
	unsigned char *data = pattern(100000, 3), back[100000];

	peer_write(fd, 0, 1, 12345, data, 100000);
	assert_int_equal(peer_simple_to(fd, 1), 0);
	peer_request(fd, 0, NBD_CMD_WRITE_ZEROES, 2, 20000, 1000);
	assert_int_equal(peer_simple_to(fd, 2), 0);
	peer_request(fd, NBD_CMD_FLAG_FAST_ZERO | NBD_CMD_FLAG_NO_HOLE, NBD_CMD_WRITE_ZEROES, 3,
		     30000, 1000);
	assert_int_equal(peer_simple_to(fd, 3), 0);
	peer_request(fd, 0, NBD_CMD_TRIM, 4, 40000, 1000);
	assert_int_equal(peer_simple_to(fd, 4), 0);
	peer_request(fd, 0, NBD_CMD_READ, 5, 12345, 100000);
	assert_int_equal(peer_simple_to(fd, 5), 0);
	peer_recv(fd, back, sizeof(back));
	memset(data + 20000 - 12345, 0, 1000);
	memset(data + 30000 - 12345, 0, 1000);
	memset(data + 40000 - 12345, 0, 1000);
	assert_memory_equal(back, data, sizeof(back));
	assert_true(rig_stats(rig).bytes_written == 100000);
	assert_true(rig_stats(rig).bytes_zeroed == 3000);
	assert_true(rig_stats(rig).bytes_read == 100000);
	assert_true(rig_stats(rig).requests == 5);
	assert_true(rig_stats(rig).last_active_ns > 0);
	free(data);
	peer_close(fd);
}

static void fua_is_answered_after_a_flush_and_accepted_everywhere(void **state)
{
	struct rig *rig = *state;
	int fd = peer_enter(rig->address, RIG_NAME);
	static const unsigned char data[4096];
	unsigned char back[16];

	peer_write(fd, NBD_CMD_FLAG_FUA, 1, 0, data, sizeof(data));
	assert_int_equal(peer_simple_to(fd, 1), 0);
	assert_int_equal(atomic_load(&rig->mem.flushes), 1);
	peer_request(fd, NBD_CMD_FLAG_FUA, NBD_CMD_WRITE_ZEROES, 2, 0, 4096);
	assert_int_equal(peer_simple_to(fd, 2), 0);
	assert_int_equal(atomic_load(&rig->mem.flushes), 2);
	peer_request(fd, NBD_CMD_FLAG_FUA, NBD_CMD_TRIM, 3, 0, 4096);
	assert_int_equal(peer_simple_to(fd, 3), 0);
	assert_int_equal(atomic_load(&rig->mem.flushes), 3);
	peer_request(fd, NBD_CMD_FLAG_FUA, NBD_CMD_FLUSH, 4, 0, 0);
	assert_int_equal(peer_simple_to(fd, 4), 0);
	peer_request(fd, NBD_CMD_FLAG_FUA, NBD_CMD_READ, 5, 0, sizeof(back));
	assert_int_equal(peer_simple_to(fd, 5), 0);
	peer_recv(fd, back, sizeof(back));
	peer_request(fd, NBD_CMD_FLAG_FUA, NBD_CMD_CACHE, 6, 0, 4096);
	assert_int_equal(peer_simple_to(fd, 6), 0);
	assert_int_equal(atomic_load(&rig->mem.flushes), 4);
	peer_close(fd);
}

static void a_write_is_acknowledged_before_the_disk_has_it_but_not_with_fua(void **state)
{
	struct rig *rig = *state;
	int fd = peer_enter(rig->address, RIG_NAME);
	static const unsigned char data[4096];
	uint64_t cookie;

	atomic_store(&rig->mem.hold, true);
	peer_write(fd, NBD_CMD_FLAG_FUA, 1, 0, data, sizeof(data));
	peer_write(fd, 0, 2, 8192, data, sizeof(data));
	assert_int_equal(peer_simple(fd, &cookie), 0);
	assert_true(cookie == 2);
	atomic_store(&rig->mem.hold, false);
	assert_int_equal(peer_simple_to(fd, 1), 0);
	peer_close(fd);
}

/* --- arrival ---------------------------------------------------------------------------------- */

static void requests_byte_by_byte_are_understood(void **state)
{
	struct rig *rig = *state;
	int fd = peer_enter(rig->address, RIG_NAME);
	unsigned char b[NBD_REQUEST_SIZE + 300];
	unsigned round, i;

	for (round = 0; round < 3; round++) {
		peer_put_request(b, 0, NBD_CMD_WRITE, round, round * 1000, 300);
		rig_pattern(b + NBD_REQUEST_SIZE, 300, round);
		for (i = 0; i < sizeof(b); i++)
			peer_send(fd, b + i, 1);
		assert_int_equal(peer_simple_to(fd, round), 0);
		assert_pattern(rig, round * 1000, 300, round);
	}
	peer_close(fd);
}

/* Odd lengths from tiny to 32 MiB in one stream, so that every boundary of every buffer is met. */
static void writes_of_any_length_straddle_every_buffer(void **state)
{
	static const uint32_t lengths[] = {1,	   27,	    511,    16355,  16356,  16357,
					   131071, 131072,  131073, 131100, 262143, 262144,
					   262145, 1048577, 147455, 147456, 147457, 33554432};
	struct rig *rig = *state;
	int fd = peer_enter(rig->address, RIG_NAME);
	uint64_t off = 13;
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(lengths); i++) {
		unsigned char *data = pattern(lengths[i], i);

		peer_write(fd, 0, i, off, data, lengths[i]);
		free(data);
		off += lengths[i] + 1;
	}
	for (i = 0; i < ARRAY_SIZE(lengths); i++)
		assert_int_equal(peer_simple_to(fd, i), 0);
	off = 13;
	for (i = 0; i < ARRAY_SIZE(lengths); i++) {
		assert_pattern(rig, off, lengths[i], i);
		assert_int_equal(rig->mem.data[off + lengths[i]], 0);
		off += lengths[i] + 1;
	}
	peer_close(fd);
}

static void an_export_that_takes_little_and_often_nothing_loses_nothing(void **state)
{
	struct rig *rig = *state;
	int a = peer_enter(rig->address, RIG_NAME), b = peer_enter(rig->address, RIG_NAME);
	unsigned char *data = pattern(3 << 20, 5);
	unsigned i;

	atomic_store(&rig->mem.bite, 4099);
	atomic_store(&rig->mem.eagain_every, 3);
	for (i = 0; i < 4; i++) {
		peer_write(a, 0, i, i * (3ULL << 20), data, 3 << 20);
		peer_write(b, 0, i, (i + 4) * (3ULL << 20), data, 3 << 20);
	}
	for (i = 0; i < 4; i++) {
		assert_int_equal(peer_simple_to(a, i), 0);
		assert_int_equal(peer_simple_to(b, i), 0);
	}
	assert_true(atomic_load(&rig->mem.eagains) > 100);
	for (i = 0; i < 8; i++)
		assert_memory_equal(content(rig) + i * (3ULL << 20), data, 3 << 20);
	free(data);
	peer_close(a);
	peer_close(b);
}

struct sender {
	int fd;
	unsigned count;
	uint32_t len;
};

static void *send_many(void *arg)
{
	struct sender *s = arg;
	unsigned char *b = malloc(NBD_REQUEST_SIZE + s->len);
	unsigned i;

	for (i = 0; i < s->count; i++) {
		uint64_t off = (uint64_t)i * s->len % RIG_SIZE;

		peer_put_request(b, 0, NBD_CMD_WRITE, i, off, s->len);
		rig_pattern(b + NBD_REQUEST_SIZE, s->len, i);
		if (send(s->fd, b, NBD_REQUEST_SIZE + s->len, MSG_NOSIGNAL) < 0)
			break;
	}
	free(b);
	return NULL;
}

static void thousands_of_requests_in_flight_are_all_answered_once(void **state)
{
	struct rig *rig = *state;
	struct sender s = {.fd = peer_enter(rig->address, RIG_NAME), .count = 8000, .len = 777};
	unsigned char *seen = calloc(1, s.count);
	pthread_t thread;
	uint64_t cookie;
	unsigned i;

	assert_non_null(seen);
	pthread_create(&thread, NULL, send_many, &s);
	for (i = 0; i < s.count; i++) {
		assert_int_equal(peer_simple(s.fd, &cookie), 0);
		assert_true(cookie < s.count && !seen[cookie]);
		seen[cookie] = 1;
	}
	pthread_join(thread, NULL);
	assert_pattern(rig, 777ULL * 100, 777, 100);
	free(seen);
	peer_close(s.fd);
}

/* More requests that take time than the connection may have running, replies unread meanwhile. */
static void hundreds_of_flushes_at_once_are_all_answered(void **state)
{
	struct rig *rig = *state;
	int fd = peer_enter(rig->address, RIG_NAME);
	unsigned char b[500 * NBD_REQUEST_SIZE];
	unsigned i, answered = 0;
	uint64_t cookie;

	atomic_store(&rig->mem.hold, true);
	for (i = 0; i < 500; i++)
		peer_put_request(b + i * NBD_REQUEST_SIZE, 0,
				 i % 2 ? NBD_CMD_FLUSH : NBD_CMD_WRITE_ZEROES, i, 0,
				 i % 2 ? 0 : 4096);
	peer_send(fd, b, sizeof(b));
	rig_await(atomic_load(&rig->mem.flushes) >= 20);
	atomic_store(&rig->mem.hold, false);
	for (i = 0; i < 500; i++) {
		assert_int_equal(peer_simple(fd, &cookie), 0);
		answered++;
	}
	assert_int_equal(answered, 500);
	peer_close(fd);
}

/* --- ends ------------------------------------------------------------------------------------- */

static void a_connection_cut_anywhere_acknowledges_nothing_and_harms_nobody(void **state)
{
	struct rig *rig = *state;
	unsigned char b[NBD_REQUEST_SIZE + 40000];
	int other = peer_enter(rig->address, RIG_NAME);
	size_t n;

	peer_put_request(b, 0, NBD_CMD_WRITE, 1, 0, 40000);
	memset(b + NBD_REQUEST_SIZE, 7, 40000);
	for (n = 1; n < sizeof(b); n += 1501) {
		int fd = peer_enter(rig->address, RIG_NAME);

		peer_send(fd, b, n);
		peer_close(fd);
	}
	rig_await(rig_stats(rig).connections == 1);
	assert_true(rig_stats(rig).bytes_written == 0);
	assert_true(rig_stats(rig).last_disconnect_ns > 0);
	flush_expect(other);
	peer_close(other);
}

static void a_client_that_leaves_with_work_in_flight_leaves_no_slot_behind(void **state)
{
	struct rig *rig = *state;
	unsigned round, i;
	int fd;

	for (round = 0; round < 12; round++) { /* 12 x 64 is more than a worker has slots */
		atomic_store(&rig->mem.hold, true);
		fd = peer_enter(rig->address, RIG_NAME);
		for (i = 0; i < 64; i++)
			peer_request(fd, 0, i % 3 ? NBD_CMD_FLUSH : NBD_CMD_READ, i, 0,
				     i % 3 ? 0 : 9999);
		rig_await(atomic_load(&rig->mem.flushes) >= (round + 1) * 42);
		peer_close(fd);
		atomic_store(&rig->mem.hold, false);
		rig_await(rig_stats(rig).connections == 0);
	}
	fd = peer_enter(rig->address, RIG_NAME);
	flush_expect(fd);
	peer_close(fd);
}

static void requests_outstanding_at_disc_are_carried_out_and_answered(void **state)
{
	struct rig *rig = *state;
	int fd = peer_enter(rig->address, RIG_NAME);
	unsigned char *data = pattern(500000, 9), *back = malloc(2 << 20);
	unsigned left = 0x1f;
	uint64_t cookie;

	atomic_store(&rig->mem.hold, true);
	peer_write(fd, NBD_CMD_FLAG_FUA, 0, 0, data, 500000);
	peer_request(fd, 0, NBD_CMD_READ, 1, 0, 2 << 20);
	peer_request(fd, 0, NBD_CMD_WRITE_ZEROES, 2, 10 << 20, 4096);
	peer_request(fd, 0, NBD_CMD_FLUSH, 3, 0, 0);
	peer_write(fd, 0, 4, 20 << 20, data, 500000);
	peer_request(fd, 0, NBD_CMD_DISC, 5, 0, 0);
	rig_await(atomic_load(&rig->mem.zeroes) == 1);
	atomic_store(&rig->mem.hold, false);
	while (left) {
		assert_int_equal(peer_simple(fd, &cookie), 0);
		assert_true(cookie < 5 && (left & 1U << cookie));
		left &= ~(1U << cookie);
		if (cookie == 1)
			peer_recv(fd, back, 2 << 20);
	}
	assert_true(peer_at_end(fd));
	assert_memory_equal(back, data, 500000);
	free(data);
	free(back);
	peer_close(fd);
}

static void a_half_closed_client_still_gets_its_answers(void **state)
{
	struct rig *rig = *state;
	int fd = peer_enter(rig->address, RIG_NAME);

	atomic_store(&rig->mem.hold, true);
	peer_request(fd, 0, NBD_CMD_FLUSH, 1, 0, 0);
	shutdown(fd, SHUT_WR);
	rig_await(atomic_load(&rig->mem.flushes) == 1);
	usleep(20000);
	atomic_store(&rig->mem.hold, false);
	assert_int_equal(peer_simple_to(fd, 1), 0);
	assert_true(peer_at_end(fd));
	peer_close(fd);
}

static void junk_instead_of_a_request_ends_the_connection(void **state)
{
	struct rig *rig = *state;
	int other = peer_enter(rig->address, RIG_NAME);
	unsigned seed = 1, round;

	for (round = 0; round < 50; round++) {
		int fd = peer_enter(rig->address, RIG_NAME);
		unsigned char junk[300];
		unsigned i;

		for (i = 0; i < sizeof(junk); i++)
			junk[i] = (seed = seed * 1103515245 + 12345) >> 16;
		peer_send(fd, junk, sizeof(junk));
		peer_drain_to_end(fd);
		peer_close(fd);
	}
	flush_expect(other);
	peer_close(other);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
	const struct CMUnitTest tests[] = {
		T(every_wrong_request_has_its_error_and_the_connection_lives_on),
		T(a_refused_write_is_drained_whatever_its_length),
		T(requests_of_no_length_succeed_up_to_the_end),
		T(a_read_only_export_refuses_every_change),
		T(what_the_disk_says_is_what_the_client_hears),
		T(a_disk_cannot_say_what_only_a_request_can_be_told),
		T(bytes_written_are_read_back_and_zeroes_replace_them),
		T(fua_is_answered_after_a_flush_and_accepted_everywhere),
		T(a_write_is_acknowledged_before_the_disk_has_it_but_not_with_fua),
		T(requests_byte_by_byte_are_understood),
		T(writes_of_any_length_straddle_every_buffer),
		T(an_export_that_takes_little_and_often_nothing_loses_nothing),
		T(thousands_of_requests_in_flight_are_all_answered_once),
		T(hundreds_of_flushes_at_once_are_all_answered),
		T(a_connection_cut_anywhere_acknowledges_nothing_and_harms_nobody),
		T(a_client_that_leaves_with_work_in_flight_leaves_no_slot_behind),
		T(requests_outstanding_at_disc_are_carried_out_and_answered),
		T(a_half_closed_client_still_gets_its_answers),
		T(junk_instead_of_a_request_ends_the_connection),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
