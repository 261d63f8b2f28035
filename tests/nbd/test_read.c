/* Replies with data: simple and structured READs, BLOCK_STATUS. */
#include "tests/nbd/rig.h"

static int read_setup(void **state)
{
	struct rig *rig;

	rig_setup(state);
	rig = *state;
	rig_pattern(rig->mem.data, RIG_SIZE, 77);
	/* From here on the bytes are the worker's to read. */
	return nbd_export_flush(rig->export);
}

static unsigned char *buffer(size_t len)
{
	unsigned char *p = malloc(len);

	assert_non_null(p);
	return p;
}

/* --- content ---------------------------------------------------------------------------------- */

static const struct {
	uint64_t off;
	uint32_t len;
} ranges[] = {
	{0, 1},
	{4095, 2},
	{511, 4096},
	{0, 262144},
	{1, 262144},
	{4000, 262240},
	{0, 262145},
	{RIG_SIZE - 1, 1},
	{123, 999999},
	{4096, 8 << 20},
	{777, NBD_MAX_PAYLOAD},
	{RIG_SIZE - 5000, 5000},
};

static void simple_reads_return_the_bytes_of_the_export(void **state)
{
	struct rig *rig = *state;
	int fd = peer_enter(rig->address, RIG_NAME);
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(ranges); i++) {
		unsigned char *back = buffer(ranges[i].len);

		peer_request(fd, 0, NBD_CMD_READ, i, ranges[i].off, ranges[i].len);
		assert_int_equal(peer_simple_to(fd, i), 0);
		peer_recv(fd, back, ranges[i].len);
		assert_memory_equal(back, rig->mem.data + ranges[i].off, ranges[i].len);
		free(back);
	}
	peer_close(fd);
}

static void structured_reads(struct rig *rig, uint16_t flags, bool one_chunk)
{
	int fd = peer_enter_structured(rig->address, RIG_NAME);
	unsigned i, chunks;

	for (i = 0; i < ARRAY_SIZE(ranges); i++) {
		unsigned char *back = buffer(ranges[i].len);

		peer_request(fd, flags, NBD_CMD_READ, i, ranges[i].off, ranges[i].len);
		assert_int_equal(
			peer_read_structured(fd, i, ranges[i].off, ranges[i].len, back, &chunks),
			0);
		assert_memory_equal(back, rig->mem.data + ranges[i].off, ranges[i].len);
		if (one_chunk)
			assert_int_equal(chunks, 1);
		free(back);
	}
	peer_close(fd);
}

static void structured_reads_return_the_bytes_of_the_export(void **state)
{
	structured_reads(*state, 0, false);
}

static void reads_that_must_not_be_fragmented_come_in_one_chunk(void **state)
{
	structured_reads(*state, NBD_CMD_FLAG_DF, true);
}

static void a_structured_read_of_nothing_is_an_empty_answer(void **state)
{
	struct rig *rig = *state;
	int fd = peer_enter_structured(rig->address, RIG_NAME);
	unsigned chunks;
	char nothing;

	peer_request(fd, 0, NBD_CMD_READ, 1, 100, 0);
	assert_int_equal(peer_read_structured(fd, 1, 100, 0, &nothing, &chunks), 0);
	assert_int_equal(chunks, 0);
	peer_close(fd);
}

/* --- many at once ----------------------------------------------------------------------------- */

struct expected {
	uint64_t off;
	uint32_t len, got;
	bool done, whole;
};

/* Small and large, fragmentable and not, with other requests between them, all in flight. */
static void chunks_of_many_reads_interleave_and_never_break_a_stream(void **state)
{
	struct rig *rig = *state;
	int fd = peer_enter_structured(rig->address, RIG_NAME);
	struct expected expected[40] = {0};
	unsigned i, left = 0;

	for (i = 0; i < ARRAY_SIZE(expected); i++) {
		struct expected *e = &expected[i];

		e->off = i * 5003;
		e->len = i % 4 == 0 ? 100 : i % 4 == 1 ? 3000000 : i % 4 == 2 ? 700000 : 262144;
		e->whole = i % 4 == 2;
		peer_request(fd, e->whole ? NBD_CMD_FLAG_DF : 0, NBD_CMD_READ, i, e->off, e->len);
		left++;
		if (i % 5 == 0) {
			peer_request(fd, 0, NBD_CMD_FLUSH, 1000 + i, 0, 0);
			left++;
		}
	}
	while (left) {
		unsigned char head[NBD_SIMPLE_SIZE];
		struct peer_chunk c;

		/* A simple reply (to a FLUSH) and a chunk are told apart by their magic. */
		assert_int_equal(recv(fd, head, 4, MSG_PEEK | MSG_WAITALL), 4);
		if (load_be32(head) == NBD_SIMPLE_MAGIC) {
			peer_recv(fd, head, sizeof(head));
			left--;
			continue;
		}
		peer_chunk(fd, &c);
		assert_true(c.cookie < ARRAY_SIZE(expected) && !expected[c.cookie].done);
		if (c.type == NBD_REPLY_TYPE_OFFSET_DATA) {
			struct expected *e = &expected[c.cookie];

			assert_memory_equal(c.data, rig->mem.data + c.off, c.data_len);
			e->got += c.data_len;
			if (e->whole)
				assert_int_equal(e->got, e->len);
		}
		if (c.flags & NBD_REPLY_FLAG_DONE) {
			expected[c.cookie].done = true;
			assert_int_equal(expected[c.cookie].got, expected[c.cookie].len);
			left--;
		}
		peer_chunk_free(&c);
	}
	peer_close(fd);
}

static void simple_reads_in_flight_come_whole_among_other_replies(void **state)
{
	struct rig *rig = *state;
	int fd = peer_enter(rig->address, RIG_NAME);
	unsigned char *back = buffer(2000000);
	unsigned i, left = 60;

	for (i = 0; i < 30; i++) {
		peer_request(fd, 0, NBD_CMD_READ, i, i * 7001, i % 2 ? 2000000 : 4096);
		peer_request(fd, 0, NBD_CMD_CACHE, 100 + i, 0, 4096);
	}
	while (left--) {
		uint64_t cookie;
		uint32_t len;

		assert_int_equal(peer_simple(fd, &cookie), 0);
		if (cookie >= 100)
			continue;
		len = cookie % 2 ? 2000000 : 4096;
		peer_recv(fd, back, len);
		assert_memory_equal(back, rig->mem.data + cookie * 7001, len);
	}
	free(back);
	peer_close(fd);
}

/* --- errors ----------------------------------------------------------------------------------- */

static void a_structured_error_is_the_last_chunk_of_its_answer(void **state)
{
	struct rig *rig = *state;
	int fd = peer_enter_structured(rig->address, RIG_NAME);
	unsigned char *back = buffer(2 << 20);
	unsigned chunks;

	atomic_store(&rig->mem.read_error, -EIO);
	atomic_store(&rig->mem.fail_from, 1 << 20);
	peer_request(fd, 0, NBD_CMD_READ, 1, 0, 2 << 20);
	assert_int_equal(peer_read_structured(fd, 1, 0, 2 << 20, back, &chunks), NBD_EIO);
	assert_int_equal(chunks, 4);
	assert_memory_equal(back, rig->mem.data, 1 << 20);
	peer_request(fd, 0, NBD_CMD_READ, 2, 1 << 20, 512);
	assert_int_equal(peer_read_structured(fd, 2, 1 << 20, 512, back, &chunks), NBD_EIO);
	assert_int_equal(chunks, 0);
	peer_request(fd, 0, NBD_CMD_READ, 3, 0, 512);
	assert_int_equal(peer_read_structured(fd, 3, 0, 512, back, &chunks), 0);
	free(back);
	peer_close(fd);
}

static void an_unfragmented_answer_that_fails_is_completed_and_then_says_so(void **state)
{
	struct rig *rig = *state;
	int fd = peer_enter_structured(rig->address, RIG_NAME);
	unsigned char *back = buffer(2 << 20);
	unsigned chunks;

	atomic_store(&rig->mem.read_error, -EIO);
	atomic_store(&rig->mem.fail_from, 1 << 20);
	peer_request(fd, NBD_CMD_FLAG_DF, NBD_CMD_READ, 1, 0, 2 << 20);
	assert_int_equal(peer_read_structured(fd, 1, 0, 2 << 20, back, &chunks), NBD_EIO);
	assert_int_equal(chunks, 1);
	atomic_store(&rig->mem.fail_from, 0);
	peer_request(fd, NBD_CMD_FLAG_DF, NBD_CMD_READ, 2, 0, 2 << 20);
	assert_int_equal(peer_read_structured(fd, 2, 0, 2 << 20, back, &chunks), NBD_EIO);
	assert_int_equal(chunks, 0);
	atomic_store(&rig->mem.read_error, 0);
	peer_request(fd, NBD_CMD_FLAG_DF, NBD_CMD_READ, 3, 0, 2 << 20);
	assert_int_equal(peer_read_structured(fd, 3, 0, 2 << 20, back, &chunks), 0);
	free(back);
	peer_close(fd);
}

static void a_simple_answer_that_fails_halfway_ends_the_connection(void **state)
{
	struct rig *rig = *state;
	int fd = peer_enter(rig->address, RIG_NAME);

	atomic_store(&rig->mem.read_error, -EIO);
	peer_request(fd, 0, NBD_CMD_READ, 1, 0, 2 << 20); /* fails at once: a plain error */
	assert_int_equal(peer_simple_to(fd, 1), NBD_EIO);
	atomic_store(&rig->mem.fail_from, 1 << 20);
	peer_request(fd, 0, NBD_CMD_READ, 2, 0, 2 << 20);
	peer_drain_to_end(fd);
	peer_close(fd);
	fd = peer_enter(rig->address, RIG_NAME);
	peer_request(fd, 0, NBD_CMD_FLUSH, 3, 0, 0);
	assert_int_equal(peer_simple_to(fd, 3), 0);
	peer_close(fd);
}

static void structured_errors_are_structured_and_too_long_is_overflow(void **state)
{
	struct rig *rig = *state;
	int fd = peer_enter_structured(rig->address, RIG_NAME);
	struct peer_chunk c;

	peer_request(fd, 0, NBD_CMD_READ, 1, 0, NBD_MAX_PAYLOAD + 1);
	peer_chunk(fd, &c);
	assert_int_equal(c.error, NBD_EOVERFLOW);
	assert_int_equal(c.flags, NBD_REPLY_FLAG_DONE);
	peer_chunk_free(&c);
	peer_request(fd, 0, NBD_CMD_READ, 2, RIG_SIZE, 1);
	peer_chunk(fd, &c);
	assert_int_equal(c.error, NBD_EINVAL);
	assert_true(c.cookie == 2);
	peer_chunk_free(&c);
	peer_close(fd);
}

/* --- BLOCK_STATUS ----------------------------------------------------------------------------- */

static uint32_t status(int fd, uint16_t flags, uint64_t off, uint32_t len, struct peer_chunk *c)
{
	peer_request(fd, flags, NBD_CMD_BLOCK_STATUS, 7, off, len);
	peer_chunk(fd, c);
	assert_true(c->cookie == 7 && (c->flags & NBD_REPLY_FLAG_DONE));
	if (c->type == NBD_REPLY_TYPE_ERROR)
		return c->error;
	assert_int_equal(c->type, NBD_REPLY_TYPE_BLOCK_STATUS);
	assert_int_equal((c->len - 4) % 8, 0);
	return 0;
}

static void block_status_describes_the_range_and_no_more(void **state)
{
	struct rig *rig = *state;
	int fd = peer_enter_meta(rig->address, RIG_NAME);
	struct peer_chunk c;

	atomic_store(&rig->mem.extent_size, 65536);
	assert_int_equal(status(fd, 0, 1000, 200000, &c), 0);
	assert_int_equal(c.len, 4 + 4 * 8);
	assert_int_equal(load_be32(c.data + 4), 65536 - 1000);
	assert_int_equal(load_be32(c.data + 8), 0);
	assert_int_equal(load_be32(c.data + 12), 65536);
	assert_int_equal(load_be32(c.data + 16), 3);
	assert_int_equal(load_be32(c.data + 28), 1000 + 200000 - 3 * 65536);
	peer_chunk_free(&c);
	peer_close(fd);
}

static void block_status_may_be_asked_for_one_extent(void **state)
{
	struct rig *rig = *state;
	int fd = peer_enter_meta(rig->address, RIG_NAME);
	struct peer_chunk c;

	atomic_store(&rig->mem.extent_size, 65536);
	assert_int_equal(status(fd, NBD_CMD_FLAG_REQ_ONE, 65536, 1 << 20, &c), 0);
	assert_int_equal(c.len, 4 + 8);
	assert_int_equal(load_be32(c.data + 4), 65536);
	assert_int_equal(load_be32(c.data + 8), 3);
	peer_chunk_free(&c);
	peer_close(fd);
}

static void block_status_of_many_extents_is_cut_short_but_makes_progress(void **state)
{
	struct rig *rig = *state;
	int fd = peer_enter_meta(rig->address, RIG_NAME);
	uint64_t off = 0;
	unsigned replies = 0;

	atomic_store(&rig->mem.extent_size, 512);
	while (off < RIG_SIZE) {
		struct peer_chunk c;
		uint32_t i;

		assert_int_equal(status(fd, 0, off, RIG_SIZE - off, &c), 0);
		assert_true(c.len > 4);
		for (i = 4; i < c.len; i += 8)
			off += load_be32(c.data + i);
		replies++;
		peer_chunk_free(&c);
	}
	assert_true(off == RIG_SIZE);
	assert_true(replies > 1 && replies < 100);
	peer_close(fd);
}

static void block_status_of_almost_4_gib_is_answered(void **state)
{
	struct nbd_export_config config = {.name = "huge", .size = 1ULL << 50};
	struct rig *rig = *state;
	struct nbd_export *export;
	struct err err = ERR_INIT;
	struct memexport mem;
	struct peer_chunk c;
	int fd;

	memexport_init(&mem, 4096);
	mem.size = config.size; /* described, never read */
	rig_ok(nbd_export_add(rig->server, &config, &memexport_ops, &mem, &export, &err), &err);
	fd = peer_enter_meta(rig->address, "huge");
	assert_int_equal(status(fd, 0, 512, 0xffffffffU, &c), 0);
	assert_int_equal(c.len, 4 + 8);
	assert_int_equal(load_be32(c.data + 4), 0xffffffffU);
	peer_chunk_free(&c);
	atomic_store(&mem.extent_size, 65536);
	assert_int_equal(status(fd, 0, 0, 0xfffffe00U, &c), 0);
	assert_int_equal(c.len, 4 + 8192 * 8);
	peer_chunk_free(&c);
	peer_close(fd);
	nbd_export_remove(export, false);
	memexport_deinit(&mem);
}

static void block_status_of_nothing_or_past_the_end_is_invalid(void **state)
{
	struct rig *rig = *state;
	int fd = peer_enter_meta(rig->address, RIG_NAME);
	struct peer_chunk c;

	assert_int_equal(status(fd, 0, 0, 0, &c), NBD_EINVAL);
	peer_chunk_free(&c);
	assert_int_equal(status(fd, 0, RIG_SIZE - 1, 2, &c), NBD_EINVAL);
	peer_chunk_free(&c);
	assert_int_equal(status(fd, NBD_CMD_FLAG_DF, 0, 512, &c), NBD_EINVAL);
	peer_chunk_free(&c);
	peer_close(fd);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, read_setup, rig_teardown)
	const struct CMUnitTest tests[] = {
		T(simple_reads_return_the_bytes_of_the_export),
		T(structured_reads_return_the_bytes_of_the_export),
		T(reads_that_must_not_be_fragmented_come_in_one_chunk),
		T(a_structured_read_of_nothing_is_an_empty_answer),
		T(chunks_of_many_reads_interleave_and_never_break_a_stream),
		T(simple_reads_in_flight_come_whole_among_other_replies),
		T(a_structured_error_is_the_last_chunk_of_its_answer),
		T(an_unfragmented_answer_that_fails_is_completed_and_then_says_so),
		T(a_simple_answer_that_fails_halfway_ends_the_connection),
		T(structured_errors_are_structured_and_too_long_is_overflow),
		T(block_status_describes_the_range_and_no_more),
		T(block_status_may_be_asked_for_one_extent),
		T(block_status_of_many_extents_is_cut_short_but_makes_progress),
		T(block_status_of_almost_4_gib_is_answered),
		T(block_status_of_nothing_or_past_the_end_is_invalid),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
