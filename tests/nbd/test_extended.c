/* Extended headers: how they are agreed on, and every command with 64-bit lengths. */
#include "tests/nbd/rig.h"

static const char *const allocation[] = {"base:allocation"};

static int greeted(struct rig *rig)
{
	int fd = peer_connect(rig->address);

	peer_greet(fd, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	return fd;
}

static int extended(struct rig *rig)
{
	return peer_enter_extended(rig->address, RIG_NAME, NULL, 0, NULL);
}

static void flush_expect(int fd)
{
	peer_ext_request(fd, 0, NBD_CMD_FLUSH, 4242, 0, 0);
	assert_int_equal(peer_ext_reply(fd, 4242, 0), 0);
}

static const unsigned char *content(struct rig *rig)
{
	assert_int_equal(nbd_export_flush(rig->export), 0);
	return rig->mem.data;
}

/* --- agreeing --------------------------------------------------------------------------------- */

static void assert_goes_extended(int fd)
{
	struct peer_export export;

	assert_true(peer_go(fd, RIG_NAME, &export, NULL));
	assert_true(export.flags & NBD_FLAG_SEND_DF);
	flush_expect(fd);
	peer_close(fd);
}

static void extended_headers_are_agreed_on_with_or_without_structured_replies(void **state)
{
	struct rig *rig = *state;
	int fd = greeted(rig);

	peer_option_expect(fd, NBD_OPT_EXTENDED_HEADERS, NULL, 0, NBD_REP_ACK);
	assert_goes_extended(fd);
	fd = greeted(rig);
	peer_option_expect(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
	peer_option_expect(fd, NBD_OPT_EXTENDED_HEADERS, NULL, 0, NBD_REP_ACK);
	peer_option_expect(fd, NBD_OPT_EXTENDED_HEADERS, NULL, 0, NBD_REP_ACK);
	assert_goes_extended(fd);
}

static void extended_headers_with_data_are_invalid_and_not_agreed_on(void **state)
{
	struct rig *rig = *state;
	int fd = greeted(rig);

	peer_option_expect(fd, NBD_OPT_EXTENDED_HEADERS, "x", 1, NBD_REP_ERR_INVALID);
	assert_true(peer_go(fd, RIG_NAME, NULL, NULL));
	peer_request(fd, 0, NBD_CMD_FLUSH, 1, 0, 0);
	assert_int_equal(peer_simple_to(fd, 1), 0);
	peer_close(fd);
}

static void structured_replies_cannot_be_had_instead_once_headers_are_extended(void **state)
{
	struct rig *rig = *state;
	int fd = greeted(rig);

	peer_option_expect(fd, NBD_OPT_EXTENDED_HEADERS, NULL, 0, NBD_REP_ACK);
	peer_option_expect(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ERR_EXT_HEADER_REQD);
	assert_goes_extended(fd);
}

static void export_name_after_extended_headers_ends_the_session(void **state)
{
	struct rig *rig = *state;
	int fd = greeted(rig);

	peer_option_expect(fd, NBD_OPT_EXTENDED_HEADERS, NULL, 0, NBD_REP_ACK);
	peer_option(fd, NBD_OPT_EXPORT_NAME, RIG_NAME, strlen(RIG_NAME));
	assert_true(peer_at_end(fd));
	peer_close(fd);
}

/* --- commands --------------------------------------------------------------------------------- */

static void bytes_written_are_read_back_and_every_reply_is_an_extended_chunk(void **state)
{
	struct rig *rig = *state;
	unsigned char *data = malloc(3 << 20), *back = malloc(3 << 20);
	unsigned chunks;
	int fd = extended(rig);

	rig_pattern(data, 3 << 20, 11);
	peer_ext_write(fd, 0, 1, 12345, data, 3 << 20);
	assert_int_equal(peer_ext_reply(fd, 1, 12345), 0);
	peer_ext_write(fd, NBD_CMD_FLAG_FUA, 2, 12345, data, 4096);
	assert_int_equal(peer_ext_reply(fd, 2, 12345), 0);
	assert_int_equal(atomic_load(&rig->mem.flushes), 1);
	peer_ext_request(fd, 0, NBD_CMD_READ, 3, 12345, 3 << 20);
	assert_int_equal(peer_read_extended(fd, 3, 12345, 3 << 20, back, &chunks), 0);
	assert_true(chunks > 1);
	assert_memory_equal(back, data, 3 << 20);
	peer_ext_request(fd, NBD_CMD_FLAG_DF, NBD_CMD_READ, 4, 12345, 3 << 20);
	assert_int_equal(peer_read_extended(fd, 4, 12345, 3 << 20, back, &chunks), 0);
	assert_int_equal(chunks, 1);
	assert_memory_equal(back, data, 3 << 20);
	peer_ext_request(fd, NBD_CMD_FLAG_FAST_ZERO | NBD_CMD_FLAG_NO_HOLE, NBD_CMD_WRITE_ZEROES, 5,
			 20000, 1000);
	assert_int_equal(peer_ext_reply(fd, 5, 20000), 0);
	peer_ext_request(fd, 0, NBD_CMD_TRIM, 6, 30000, 1000);
	assert_int_equal(peer_ext_reply(fd, 6, 30000), 0);
	peer_ext_request(fd, 0, NBD_CMD_CACHE, 7, 0, RIG_SIZE);
	assert_int_equal(peer_ext_reply(fd, 7, 0), 0);
	memset(data + 20000 - 12345, 0, 1000);
	memset(data + 30000 - 12345, 0, 1000);
	assert_memory_equal(content(rig) + 12345, data, 3 << 20);
	free(data);
	free(back);
	peer_close(fd);
}

static void requests_byte_by_byte_are_understood(void **state)
{
	struct rig *rig = *state;
	unsigned char b[NBD_EXT_REQUEST_SIZE + 300];
	int fd = extended(rig);
	unsigned round, i;

	for (round = 0; round < 3; round++) {
		peer_put_ext_request(b, NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_WRITE, round,
				     round * 1000, 300);
		rig_pattern(b + NBD_EXT_REQUEST_SIZE, 300, round);
		for (i = 0; i < sizeof(b); i++)
			peer_send(fd, b + i, 1);
		assert_int_equal(peer_ext_reply(fd, round, round * 1000), 0);
		assert_memory_equal(content(rig) + round * 1000, b + NBD_EXT_REQUEST_SIZE, 300);
	}
	peer_close(fd);
}

struct wrong {
	uint16_t flags, type;
	uint64_t off, len;
	uint32_t error;
};

static void every_wrong_request_has_its_error_and_the_connection_lives_on(void **state)
{
	static const struct wrong rows[] = {
		{0, NBD_CMD_READ, RIG_SIZE, 1, NBD_EINVAL},
		{0, NBD_CMD_READ, UINT64_MAX, 2, NBD_EINVAL},
		{0, NBD_CMD_READ, 1, UINT64_MAX, NBD_EINVAL},
		{0, NBD_CMD_READ, 0, 1ULL << 32, NBD_EINVAL},
		{0, NBD_CMD_READ, 0, NBD_MAX_PAYLOAD + 1, NBD_EOVERFLOW},
		{NBD_CMD_FLAG_DF, NBD_CMD_READ, 0, NBD_MAX_PAYLOAD + 1, NBD_EOVERFLOW},
		{NBD_CMD_FLAG_NO_HOLE, NBD_CMD_READ, 0, 512, NBD_EINVAL},
		{0x8000, NBD_CMD_READ, 0, 512, NBD_EINVAL},
		{0, NBD_CMD_WRITE, 0, 512, NBD_EINVAL}, /* no payload announced, none comes */
		{0, NBD_CMD_WRITE, 0, 1ULL << 40, NBD_EINVAL},
		{0, NBD_CMD_TRIM, RIG_SIZE, 512, NBD_EINVAL},
		{0, NBD_CMD_TRIM, 0, 1ULL << 32, NBD_EINVAL},
		{0, NBD_CMD_TRIM, 4096, UINT64_MAX - 4095, NBD_EINVAL},
		{0, NBD_CMD_WRITE_ZEROES, RIG_SIZE - 1, 2, NBD_ENOSPC},
		{0, NBD_CMD_WRITE_ZEROES, 0, 1ULL << 32, NBD_ENOSPC},
		{0, NBD_CMD_WRITE_ZEROES, UINT64_MAX, UINT64_MAX, NBD_ENOSPC},
		{NBD_CMD_FLAG_DF, NBD_CMD_WRITE_ZEROES, 0, 512, NBD_EINVAL},
		{0, NBD_CMD_CACHE, RIG_SIZE, 1, NBD_EINVAL},
		{0, NBD_CMD_CACHE, 0, 1ULL << 63, NBD_EINVAL},
		{0, NBD_CMD_FLUSH, 512, 0, NBD_EINVAL},
		{0, NBD_CMD_FLUSH, 0, 1ULL << 32, NBD_EINVAL},
		{0, NBD_CMD_BLOCK_STATUS, 0, 512, NBD_EINVAL}, /* no context */
		{0, 8, 0, 0, NBD_EINVAL},
		{0, 0xffff, 0, 512, NBD_EINVAL},
	};
	struct rig *rig = *state;
	int fd = extended(rig);
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		peer_ext_request(fd, rows[i].flags, rows[i].type, i, rows[i].off, rows[i].len);
		if (peer_ext_reply(fd, i, rows[i].off) != rows[i].error)
			fail_msg("row %u has another error", i);
	}
	flush_expect(fd);
	assert_int_equal(rig_stats(rig).errors, ARRAY_SIZE(rows));
	peer_close(fd);
}

/* Whatever announces a payload has it consumed, also where none was expected. */
static void a_refused_payload_is_drained(void **state)
{
	static const struct wrong rows[] = {
		{0, NBD_CMD_WRITE, RIG_SIZE, 1, NBD_ENOSPC},
		{0, NBD_CMD_WRITE, UINT64_MAX, 100000, NBD_ENOSPC},
		{0, NBD_CMD_WRITE, RIG_SIZE - 4096, NBD_MAX_PAYLOAD, NBD_ENOSPC},
		{NBD_CMD_FLAG_DF, NBD_CMD_WRITE, 0, 4096, NBD_EINVAL},
		{0, NBD_CMD_READ, 0, 4096, NBD_EINVAL},
		{0, NBD_CMD_FLUSH, 0, 100, NBD_EINVAL},
		{0, NBD_CMD_TRIM, 0, 300000, NBD_EINVAL},
		{0, NBD_CMD_CACHE, 0, 1, NBD_EINVAL},
		{0, NBD_CMD_WRITE_ZEROES, 0, NBD_MAX_PAYLOAD, NBD_EINVAL},
		{0, NBD_CMD_BLOCK_STATUS, 0, 12, NBD_EINVAL},
		{0, 4711, 0, 77777, NBD_EINVAL},
	};
	struct rig *rig = *state;
	unsigned char *junk = calloc(1, NBD_MAX_PAYLOAD);
	int fd = extended(rig);
	unsigned i;

	assert_non_null(junk);
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		peer_ext_request(fd, rows[i].flags | NBD_CMD_FLAG_PAYLOAD_LEN, rows[i].type, i,
				 rows[i].off, rows[i].len);
		peer_send(fd, junk, rows[i].len);
		if (peer_ext_reply(fd, i, rows[i].off) != rows[i].error)
			fail_msg("row %u has another error", i);
		flush_expect(fd);
	}
	assert_int_equal(atomic_load(&rig->mem.writes), 0);
	assert_int_equal(atomic_load(&rig->mem.zeroes), 0);
	free(junk);
	peer_close(fd);
}

static void a_payload_nobody_may_send_ends_the_connection(void **state)
{
	static const struct wrong rows[] = {
		{0, NBD_CMD_WRITE, 0, NBD_MAX_PAYLOAD + 1, 0},
		{0, NBD_CMD_WRITE, 0, 1ULL << 32, 0},
		{0, NBD_CMD_WRITE, 0, UINT64_MAX, 0},
		{0, NBD_CMD_READ, 0, NBD_MAX_PAYLOAD + 1, 0},
		{0, NBD_CMD_BLOCK_STATUS, 0, 1ULL << 40, 0},
	};
	struct rig *rig = *state;
	int other = extended(rig);
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		int fd = extended(rig);

		peer_ext_request(fd, rows[i].flags | NBD_CMD_FLAG_PAYLOAD_LEN, rows[i].type, i,
				 rows[i].off, rows[i].len);
		assert_true(peer_at_end(fd));
		peer_close(fd);
	}
	flush_expect(other);
	peer_close(other);
}

static void a_compact_header_where_an_extended_one_is_due_ends_the_connection(void **state)
{
	struct rig *rig = *state;
	int fd = extended(rig), compact = peer_enter(rig->address, RIG_NAME);

	peer_request(fd, 0, NBD_CMD_FLUSH, 1, 0, 0);
	peer_send(fd, "\0\0\0", 4); /* what lacks to 32 bytes */
	peer_drain_to_end(fd);
	peer_ext_request(compact, 0, NBD_CMD_FLUSH, 1, 0, 0);
	peer_drain_to_end(compact);
	peer_close(fd);
	peer_close(compact);
}

static void a_compact_request_has_no_payload_flag(void **state)
{
	static const unsigned char data[4096] = {1};
	struct rig *rig = *state;
	int fd = peer_enter_structured(rig->address, RIG_NAME);
	struct peer_chunk c;

	peer_write(fd, NBD_CMD_FLAG_PAYLOAD_LEN, 1, 0, data, sizeof(data));
	peer_chunk(fd, &c);
	assert_int_equal(c.error, NBD_EINVAL);
	peer_chunk_free(&c);
	peer_request(fd, NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_TRIM, 2, 0, 4096);
	peer_chunk(fd, &c);
	assert_int_equal(c.error, NBD_EINVAL);
	peer_chunk_free(&c);
	peer_request(fd, 0, NBD_CMD_FLUSH, 3, 0, 0);
	assert_int_equal(peer_simple_to(fd, 3), 0);
	assert_int_equal(atomic_load(&rig->mem.writes), 0);
	peer_close(fd);
}

static void requests_of_no_length_succeed_up_to_the_end(void **state)
{
	static const uint16_t types[] = {NBD_CMD_READ, NBD_CMD_TRIM, NBD_CMD_CACHE,
					 NBD_CMD_WRITE_ZEROES};
	struct rig *rig = *state;
	int fd = extended(rig);
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(types); i++) {
		peer_ext_request(fd, 0, types[i], i, RIG_SIZE, 0);
		assert_int_equal(peer_ext_reply(fd, i, RIG_SIZE), 0);
		peer_ext_request(fd, 0, types[i], i, RIG_SIZE + 1, 0);
		assert_int_not_equal(peer_ext_reply(fd, i, RIG_SIZE + 1), 0);
	}
	peer_ext_write(fd, 0, 9, RIG_SIZE, "", 0);
	assert_int_equal(peer_ext_reply(fd, 9, RIG_SIZE), 0);
	peer_ext_write(fd, 0, 9, RIG_SIZE + 1, "", 0);
	assert_int_equal(peer_ext_reply(fd, 9, RIG_SIZE + 1), NBD_ENOSPC);
	flush_expect(fd);
	peer_close(fd);
}

static void many_requests_in_flight_are_all_answered(void **state)
{
	struct rig *rig = *state;
	unsigned char b[500 * NBD_EXT_REQUEST_SIZE], seen[500] = {0};
	int fd = extended(rig);
	unsigned i;

	atomic_store(&rig->mem.hold, true);
	for (i = 0; i < 500; i++)
		peer_put_ext_request(b + i * NBD_EXT_REQUEST_SIZE, 0,
				     i % 3 == 0	  ? NBD_CMD_FLUSH
				     : i % 3 == 1 ? NBD_CMD_WRITE_ZEROES
						  : 4711,
				     i, 0, i % 3 == 1 ? 4096 : 0);
	peer_send(fd, b, sizeof(b));
	rig_await(atomic_load(&rig->mem.flushes) >= 15);
	atomic_store(&rig->mem.hold, false);
	for (i = 0; i < 500; i++) {
		struct peer_chunk c;

		peer_ext_chunk(fd, &c, 0);
		assert_true(c.cookie < 500 && !seen[c.cookie]++);
		assert_int_equal(c.error, c.cookie % 3 == 2 ? NBD_EINVAL : 0);
		peer_chunk_free(&c);
	}
	peer_close(fd);
}

static void a_read_error_in_the_middle_is_an_error_chunk(void **state)
{
	struct rig *rig = *state;
	unsigned char *back = malloc(2 << 20);
	int fd = extended(rig);

	atomic_store(&rig->mem.read_error, -EIO);
	atomic_store(&rig->mem.fail_from, 1 << 20);
	peer_ext_request(fd, 0, NBD_CMD_READ, 1, 4096, 2 << 20);
	assert_int_equal(peer_read_extended(fd, 1, 4096, 2 << 20, back, NULL), NBD_EIO);
	peer_ext_request(fd, NBD_CMD_FLAG_DF, NBD_CMD_READ, 2, 4096, 2 << 20);
	assert_int_equal(peer_read_extended(fd, 2, 4096, 2 << 20, back, NULL), NBD_EIO);
	flush_expect(fd);
	free(back);
	peer_close(fd);
}

/* --- BLOCK_STATUS ----------------------------------------------------------------------------- */

static void block_status_has_64_bit_descriptors_and_their_number(void **state)
{
	struct rig *rig = *state;
	struct peer_chunk c;
	uint32_t id;
	int fd = peer_enter_extended(rig->address, RIG_NAME, allocation, 1, &id);

	atomic_store(&rig->mem.extent_size, 1 << 20);
	peer_ext_request(fd, 0, NBD_CMD_BLOCK_STATUS, 1, 512 << 10, 2 << 20);
	peer_ext_chunk(fd, &c, 512 << 10);
	assert_int_equal(c.type, NBD_REPLY_TYPE_BLOCK_STATUS_EXT);
	assert_int_equal(c.flags, NBD_REPLY_FLAG_DONE);
	assert_int_equal(c.len, 8 + 3 * 16);
	assert_int_equal(load_be32(c.data), id);
	assert_int_equal(load_be32(c.data + 4), 3);
	assert_true(load_be64(c.data + 8) == 512 << 10 && load_be64(c.data + 16) == 0);
	assert_true(load_be64(c.data + 24) == 1 << 20 && load_be64(c.data + 32) == 3);
	assert_true(load_be64(c.data + 40) == 512 << 10 && load_be64(c.data + 48) == 0);
	peer_chunk_free(&c);
	peer_ext_request(fd, NBD_CMD_FLAG_REQ_ONE, NBD_CMD_BLOCK_STATUS, 2, 4096, 8192);
	peer_ext_chunk(fd, &c, 4096);
	assert_int_equal(c.len, 8 + 16);
	assert_true(load_be64(c.data + 8) == 8192);
	peer_chunk_free(&c);
	peer_close(fd);
}

static void block_status_outside_the_export_or_of_nothing_is_invalid(void **state)
{
	static const uint64_t rows[][2] = {
		{0, 0},		 {RIG_SIZE, 1},	  {0, RIG_SIZE + 1},
		{0, 1ULL << 32}, {1, UINT64_MAX}, {UINT64_MAX, UINT64_MAX}};
	struct rig *rig = *state;
	uint32_t id;
	int fd = peer_enter_extended(rig->address, RIG_NAME, allocation, 1, &id);
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		peer_ext_request(fd, 0, NBD_CMD_BLOCK_STATUS, i, rows[i][0], rows[i][1]);
		assert_int_equal(peer_ext_reply(fd, i, rows[i][0]), NBD_EINVAL);
	}
	flush_expect(fd);
	peer_close(fd);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
	const struct CMUnitTest tests[] = {
		T(extended_headers_are_agreed_on_with_or_without_structured_replies),
		T(extended_headers_with_data_are_invalid_and_not_agreed_on),
		T(structured_replies_cannot_be_had_instead_once_headers_are_extended),
		T(export_name_after_extended_headers_ends_the_session),
		T(bytes_written_are_read_back_and_every_reply_is_an_extended_chunk),
		T(requests_byte_by_byte_are_understood),
		T(every_wrong_request_has_its_error_and_the_connection_lives_on),
		T(a_refused_payload_is_drained),
		T(a_payload_nobody_may_send_ends_the_connection),
		T(a_compact_header_where_an_extended_one_is_due_ends_the_connection),
		T(a_compact_request_has_no_payload_flag),
		T(requests_of_no_length_succeed_up_to_the_end),
		T(many_requests_in_flight_are_all_answered),
		T(a_read_error_in_the_middle_is_an_error_chunk),
		T(block_status_has_64_bit_descriptors_and_their_number),
		T(block_status_outside_the_export_or_of_nothing_is_invalid),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
