/* Extended headers, of the specification's branch extension-ext-header: how they are agreed on, how
 * messages look then, 64-bit lengths, BLOCK_STATUS with a payload. */
#include "nbd/export_null.h"
#include "tests/support/nbdspec.h"

#define PIECE 65536U

static const char *const allocation[] = {"base:allocation"};

/* Extended headers agreed on, still negotiating. */
static int agreed(void)
{
	int fd = spec_greeted();

	peer_option_expect(fd, NBD_OPT_EXTENDED_HEADERS, NULL, 0, NBD_REP_ACK);
	return fd;
}

/* --- negotiation ------------------------------------------------------------------------------ */

static void data_with_the_option_is_invalid(void **state)
{
	struct spec_reps reps;
	int fd = spec_greeted();

	(void)state;
	assert_int_equal(spec_option(fd, NBD_OPT_EXTENDED_HEADERS, "x", 1, &reps),
			 NBD_REP_ERR_INVALID);
	spec_can_go(fd);
}

static void go_works_with_extended_headers(void **state)
{
	struct peer_export export;
	int fd = agreed();

	(void)state;
	assert_true(peer_go(fd, RIG_NAME, &export, NULL));
	assert_true(export.size == RIG_SIZE);
	peer_close(fd);
}

static void structured_replies_are_no_precondition(void **state)
{
	struct spec_msg msg;
	int fd = spec_extended();

	(void)state;
	spec_request(fd, 0, NBD_CMD_READ, 1, 0, 512);
	spec_msg(fd, &msg);
	assert_int_equal(msg.magic, NBD_EXT_CHUNK_MAGIC);
	assert_int_equal(msg.type, NBD_REPLY_TYPE_OFFSET_HOLE); /* of an empty disk */
	spec_msg_free(&msg);
	peer_close(fd);
}

static void there_is_no_way_back_to_structured_replies(void **state)
{
	int fd = agreed();

	(void)state;
	peer_option_expect(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ERR_EXT_HEADER_REQD);
	assert_true(peer_go(fd, RIG_NAME, NULL, NULL));
	peer_close(fd);
}

/* LIST and SET without extended headers never ask for them. */
static void base_contexts_need_no_extended_headers(uint32_t code)
{
	struct spec_reps reps;
	int fd = spec_structured();

	assert_int_equal(spec_meta(fd, code, RIG_NAME, allocation, 1, &reps), NBD_REP_ACK);
	assert_int_equal(spec_meta(fd, code, RIG_NAME, NULL, 0, &reps), NBD_REP_ACK);
	spec_can_go(fd);
}

static void lists_need_no_extended_headers(void **state)
{
	(void)state;
	base_contexts_need_no_extended_headers(NBD_OPT_LIST_META_CONTEXT);
}

static void sets_need_no_extended_headers(void **state)
{
	(void)state;
	base_contexts_need_no_extended_headers(NBD_OPT_SET_META_CONTEXT);
}

/* Transmission flags of RIG_NAME after @option (0: none), with a context or without. */
static uint16_t flags_after(uint32_t option, bool context)
{
	struct peer_export export;
	struct spec_reps reps;
	int fd = spec_greeted();

	if (option)
		peer_option_expect(fd, option, NULL, 0, NBD_REP_ACK);
	if (context)
		assert_int_equal(
			spec_meta(fd, NBD_OPT_SET_META_CONTEXT, RIG_NAME, allocation, 1, &reps),
			NBD_REP_ACK);
	assert_true(peer_go(fd, RIG_NAME, &export, NULL));
	peer_close(fd);
	return export.flags;
}

static void df_is_announced_with_either(void **state)
{
	(void)state;
	assert_false(flags_after(0, false) & NBD_FLAG_SEND_DF);
	assert_true(flags_after(NBD_OPT_STRUCTURED_REPLY, false) & NBD_FLAG_SEND_DF);
	assert_true(flags_after(NBD_OPT_EXTENDED_HEADERS, false) & NBD_FLAG_SEND_DF);
}

static void status_payload_needs_extended_headers(void **state)
{
	(void)state;
	assert_false(flags_after(0, false) & NBD_FLAG_BLOCK_STATUS_PAYLOAD);
	assert_false(flags_after(NBD_OPT_STRUCTURED_REPLY, true) & NBD_FLAG_BLOCK_STATUS_PAYLOAD);
	assert_true(flags_after(NBD_OPT_EXTENDED_HEADERS, true) & NBD_FLAG_BLOCK_STATUS_PAYLOAD);
}

static void status_payload_needs_a_context(void **state)
{
	(void)state;
	assert_false(flags_after(NBD_OPT_EXTENDED_HEADERS, false) & NBD_FLAG_BLOCK_STATUS_PAYLOAD);
}

/* --- messages --------------------------------------------------------------------------------- */

static unsigned char bytes[4096];

/* One request of every kind, right and wrong, at odd offsets; each message of its answer. */
static void each_message(void (*check)(const struct spec_msg *msg, uint64_t off))
{
	static const struct {
		uint16_t flags, cmd;
		uint64_t off, len;
	} rows[] = {
		{0, NBD_CMD_READ, 12345, 512},
		{0, NBD_CMD_READ, 12345, 600000},
		{0, NBD_CMD_READ, 12345, 0},
		{NBD_CMD_FLAG_DF, NBD_CMD_READ, 12345, 600000},
		{0, NBD_CMD_READ, UINT64_MAX, 512},
		{0, NBD_CMD_FLUSH, 0, 0},
		{0, NBD_CMD_TRIM, 777, 512},
		{0, NBD_CMD_CACHE, 778, 512},
		{0, NBD_CMD_WRITE_ZEROES, 779, 512},
		{0, NBD_CMD_WRITE_ZEROES, 0x123456789abcdef0, 1ULL << 40},
		{0, NBD_CMD_BLOCK_STATUS, 780, 512},
		{0x8000, NBD_CMD_BLOCK_STATUS, 781, 512},
		{0, 4711, 0x8000000000000001, UINT64_MAX},
	};
	uint32_t ids[2];
	int fds[] = {spec_extended(), spec_two(SPEC_EXTENDED, ids)};
	struct spec_msg msg;
	bool done;
	unsigned i;

	for (i = 0; i < 2 * ARRAY_SIZE(rows); i++) {
		int fd = fds[i % 2];

		spec_request(fd, rows[i / 2].flags, rows[i / 2].cmd, i, rows[i / 2].off,
			     rows[i / 2].len);
		do {
			spec_msg(fd, &msg);
			assert_true(msg.cookie == i);
			check(&msg, rows[i / 2].off);
			done = msg.flags & NBD_REPLY_FLAG_DONE;
			spec_msg_free(&msg);
		} while (!done);
	}
	peer_ext_write(fds[0], 0, 99, 4096, bytes, sizeof(bytes));
	spec_msg(fds[0], &msg);
	check(&msg, 4096);
	spec_msg_free(&msg);
	peer_close(fds[0]);
	peer_close(fds[1]);
}

static void check_magic(const struct spec_msg *msg, uint64_t off)
{
	(void)off;
	assert_int_equal(msg->magic, NBD_EXT_CHUNK_MAGIC);
}

static void every_message_is_an_extended_chunk(void **state)
{
	(void)state;
	each_message(check_magic);
}

static void check_offset(const struct spec_msg *msg, uint64_t off)
{
	assert_true(msg->off == off);
}

static void every_message_repeats_the_offset(void **state)
{
	(void)state;
	each_message(check_offset);
}

static void cookies_come_back(void **state)
{
	static const uint64_t cookies[] = {0, UINT64_MAX, 0x6e8a278c6e8a278cULL};
	int fd = spec_extended();
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cookies); i++) {
		spec_request(fd, 0, NBD_CMD_READ, cookies[i], 5, 4096);
		assert_int_equal(spec_answer(fd, cookies[i]), 0);
		spec_request(fd, 0, 99, cookies[i], 5, 4096);
		assert_int_equal(spec_answer(fd, cookies[i]), NBD_EINVAL);
	}
	peer_close(fd);
}

static void unwanted_payload_is_consumed(void **state)
{
	static const uint16_t cmds[] = {NBD_CMD_READ,  NBD_CMD_FLUSH,	     NBD_CMD_TRIM,
					NBD_CMD_CACHE, NBD_CMD_WRITE_ZEROES, 99};
	static const uint32_t lengths[] = {1, 28, 512, 16384, 16385, 300000};
	unsigned char *junk = calloc(1, 300000);
	int fd = spec_extended();
	unsigned i, k;

	(void)state;
	assert_non_null(junk);
	for (i = 0; i < ARRAY_SIZE(cmds); i++)
		for (k = 0; k < ARRAY_SIZE(lengths); k++) {
			spec_request(fd, NBD_CMD_FLAG_PAYLOAD_LEN, cmds[i], k, 0, lengths[k]);
			peer_send(fd, junk, lengths[k]);
			assert_int_equal(spec_answer(fd, k), NBD_EINVAL);
		}
	spec_lives(fd);
	free(junk);
	peer_close(fd);
}

static void an_absurd_payload_ends_the_connection(void **state)
{
	static const uint64_t lengths[] = {NBD_MAX_PAYLOAD + 1ULL, 1ULL << 32, UINT64_MAX};
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(lengths); i++) {
		int fd = spec_extended();

		spec_request(fd, NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_WRITE, 1, 0, lengths[i]);
		assert_true(peer_at_end(fd));
		peer_close(fd);
	}
}

static void a_write_without_payload_is_invalid(void **state)
{
	int fd = spec_extended();

	(void)state;
	assert_int_equal(spec_do(fd, 0, NBD_CMD_WRITE, 0, 512), NBD_EINVAL);
	assert_int_equal(spec_write(fd, 0, 0, bytes, 512), 0);
	peer_close(fd);
}

static void payload_len_is_invalid_without_extended_headers(void **state)
{
	int fd = spec_chunks();

	(void)state;
	assert_int_equal(spec_write(fd, NBD_CMD_FLAG_PAYLOAD_LEN, 0, bytes, 512), NBD_EINVAL);
	assert_int_equal(spec_do(fd, NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_READ, 0, 512), NBD_EINVAL);
	spec_lives(fd);
	peer_close(fd);
}

static void long_effects_are_served(void **state)
{
	static const uint16_t cmds[] = {NBD_CMD_CACHE, NBD_CMD_TRIM, NBD_CMD_WRITE_ZEROES};
	const uint64_t size = 1ULL << 40, len = size - 4096;
	struct nbd_export_config config = {.name = "large", .size = size};
	struct nbd_null null = {0};
	struct nbd_export *export;
	struct err err = ERR_INIT;
	struct spec_chunks *c;
	uint32_t id;
	unsigned i;
	int fd;

	(void)state;
	rig_ok(nbd_export_add(spec.rig->server, &config, &nbd_export_null_ops, &null, &export,
			      &err),
	       &err);
	fd = peer_enter_extended(spec.rig->address, "large", allocation, 1, &id);
	spec_style(fd, SPEC_EXTENDED);
	for (i = 0; i < ARRAY_SIZE(cmds); i++) {
		assert_int_equal(spec_do(fd, 0, cmds[i], 4096, len), 0);
		assert_int_not_equal(spec_do(fd, 0, cmds[i], 4097, len), 0);
	}
	spec_request(fd, 0, NBD_CMD_BLOCK_STATUS, 1, 4096, len);
	c = spec_gather(fd, 1);
	assert_int_equal(c->count, 1);
	assert_int_equal(load_be32(c->chunk[0].payload + 4), 1);
	assert_true(load_be64(c->chunk[0].payload + 8) == len);
	assert_true(load_be64(c->chunk[0].payload + 16) == 3);
	spec_chunks_free(c);
	assert_int_equal(spec_write(fd, NBD_CMD_FLAG_FUA, size - 512, bytes, 512), 0);
	assert_int_equal(spec_do(fd, 0, NBD_CMD_READ, size - 512, 512), 0);
	assert_int_equal(spec_do(fd, 0, NBD_CMD_READ, 0, len), NBD_EOVERFLOW);
	peer_close(fd);
	assert_int_equal(nbd_export_remove(export, false), 0);
}

/* --- BLOCK_STATUS ----------------------------------------------------------------------------- */

static const struct {
	uint64_t off, len;
} ranges[] = {
	{0, 1},		{0, PIECE + 1},	     {1, SPEC_SMALL - 1},
	{PIECE - 1, 2}, {SPEC_SMALL - 1, 1}, {0, SPEC_SMALL},
};

/* Calls @check with each chunk of each range's answer, both contexts selected. */
static void each_status(uint16_t flags,
			void (*check)(const struct spec_msg *c, uint64_t off, uint64_t len))
{
	uint32_t ids[2];
	int fd = spec_two(SPEC_EXTENDED, ids);
	unsigned i, k, pieces;

	for (pieces = 0; pieces < 2; pieces++) {
		atomic_store(&spec.two.extent_size, pieces ? PIECE : 0);
		atomic_store(&spec.two.received_size, pieces ? 3 * PIECE : 0);
		for (i = 0; i < ARRAY_SIZE(ranges); i++) {
			struct spec_chunks *c;

			spec_request(fd, flags, NBD_CMD_BLOCK_STATUS, i, ranges[i].off,
				     ranges[i].len);
			c = spec_gather(fd, i);
			assert_int_equal(c->count, 2);
			assert_int_not_equal(load_be32(c->chunk[0].payload),
					     load_be32(c->chunk[1].payload));
			for (k = 0; k < c->count; k++)
				check(&c->chunk[k], ranges[i].off, ranges[i].len);
			spec_chunks_free(c);
		}
	}
	peer_close(fd);
}

static unsigned extent_count(const struct spec_msg *c)
{
	return (c->len - 8) / 16;
}

static uint64_t extent_len(const struct spec_msg *c, unsigned i)
{
	return load_be64(c->payload + 8 + i * 16);
}

static void check_type(const struct spec_msg *c, uint64_t off, uint64_t len)
{
	(void)off;
	(void)len;
	assert_int_equal(c->type, NBD_REPLY_TYPE_BLOCK_STATUS_EXT);
}

static void status_is_the_extended_chunk(void **state)
{
	(void)state;
	each_status(0, check_type);
	each_status(NBD_CMD_FLAG_REQ_ONE, check_type);
}

static void status_without_extended_headers_is_the_other_chunk(void **state)
{
	struct spec_chunks *c;
	uint32_t ids[2];
	int fd = spec_two(SPEC_CHUNKS, ids);

	(void)state;
	spec_request(fd, 0, NBD_CMD_BLOCK_STATUS, 1, 0, PIECE);
	c = spec_gather(fd, 1);
	assert_int_equal(c->count, 2);
	assert_int_equal(c->chunk[0].type, NBD_REPLY_TYPE_BLOCK_STATUS);
	assert_int_equal(c->chunk[1].type, NBD_REPLY_TYPE_BLOCK_STATUS);
	spec_chunks_free(c);
	peer_close(fd);
}

static void check_length(const struct spec_msg *c, uint64_t off, uint64_t len)
{
	(void)off;
	(void)len;
	assert_true(c->len >= 24 && (c->len - 8) % 16 == 0);
}

static void status_length_is_8_and_16s(void **state)
{
	(void)state;
	each_status(0, check_length);
}

static void check_count(const struct spec_msg *c, uint64_t off, uint64_t len)
{
	(void)off;
	(void)len;
	assert_int_equal(load_be32(c->payload + 4), extent_count(c));
}

static void the_count_is_that_of_the_descriptors(void **state)
{
	(void)state;
	each_status(0, check_count);
}

static void check_not_none(const struct spec_msg *c, uint64_t off, uint64_t len)
{
	(void)off;
	(void)len;
	assert_int_not_equal(load_be32(c->payload + 4), 0);
}

static void the_count_is_not_zero(void **state)
{
	(void)state;
	each_status(0, check_not_none);
}

static void check_extents(const struct spec_msg *c, uint64_t off, uint64_t len)
{
	uint64_t sum = 0;
	unsigned i;

	(void)off;
	for (i = 0; i < extent_count(c); i++) {
		assert_true(extent_len(c, i) > 0);
		assert_true(sum < len); /* of those before */
		sum += extent_len(c, i);
	}
}

static void no_extent_is_empty(void **state)
{
	(void)state;
	each_status(0, check_extents);
}

static void check_status_bits(const struct spec_msg *c, uint64_t off, uint64_t len)
{
	unsigned i;

	(void)off;
	(void)len;
	for (i = 0; i < extent_count(c); i++)
		assert_int_equal(load_be32(c->payload + 16 + i * 16), 0);
}

static void the_upper_half_of_a_status_is_zero(void **state)
{
	(void)state;
	each_status(0, check_status_bits);
}

static void check_one(const struct spec_msg *c, uint64_t off, uint64_t len)
{
	(void)off;
	assert_int_equal(extent_count(c), 1);
	assert_true(extent_len(c, 0) <= len);
}

static void req_one_is_one_extent_of_each_context(void **state)
{
	(void)state;
	each_status(NBD_CMD_FLAG_REQ_ONE, check_one);
}

/* --- BLOCK_STATUS with a payload -------------------------------------------------------------- */

/* Asks for @count of the contexts; the answer's chunks. */
static struct spec_chunks *ask_for(int fd, const uint32_t *ids, unsigned count)
{
	unsigned char b[8 + 16 * 4];
	unsigned i;

	store_be64(b, PIECE);
	for (i = 0; i < count; i++)
		store_be32(b + 8 + i * 4, ids[i]);
	spec_request(fd, NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_BLOCK_STATUS, 5, 0, 8 + count * 4);
	peer_send(fd, b, 8 + count * 4);
	return spec_gather(fd, 5);
}

static void a_payload_limits_the_answer(void **state)
{
	struct spec_chunks *c;
	uint32_t ids[2];
	int fd = spec_two(SPEC_EXTENDED, ids);
	unsigned i;

	(void)state;
	for (i = 0; i < 2; i++) {
		c = ask_for(fd, &ids[i], 1);
		assert_int_equal(c->count, 1);
		assert_int_equal(load_be32(c->chunk[0].payload), ids[i]);
		assert_true(extent_len(&c->chunk[0], 0) <= PIECE);
		spec_chunks_free(c);
	}
	c = ask_for(fd, ids, 2);
	assert_int_equal(c->count, 2);
	spec_chunks_free(c);
	peer_close(fd);
}

static void expect_invalid(int fd, const uint32_t *ids, unsigned count)
{
	struct spec_chunks *c = ask_for(fd, ids, count);

	assert_int_equal(c->count, 1);
	assert_int_equal(c->chunk[0].error, NBD_EINVAL);
	spec_chunks_free(c);
}

static void unknown_and_repeated_ids_are_consumed_and_invalid(void **state)
{
	uint32_t ids[2], wrong[16] = {0};
	int fd = spec_two(SPEC_EXTENDED, ids);

	(void)state;
	expect_invalid(fd, wrong, 1);
	wrong[0] = wrong[1] = ids[0];
	expect_invalid(fd, wrong, 2);
	wrong[0] = ids[0];
	wrong[1] = 0xffffffffU;
	expect_invalid(fd, wrong, 2);
	expect_invalid(fd, wrong, 16);
	spec_lives(fd);
	peer_close(fd);
}

static void a_payload_of_another_length_is_invalid(void **state)
{
	static const uint32_t lengths[] = {1, 4, 7, 9, 11, 13, 15, 100, 70000};
	static const unsigned char junk[70000];
	uint32_t ids[2];
	int fd = spec_two(SPEC_EXTENDED, ids);
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(lengths); i++) {
		spec_request(fd, NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_BLOCK_STATUS, i, 0, lengths[i]);
		peer_send(fd, junk, lengths[i]);
		assert_int_equal(spec_answer(fd, i), NBD_EINVAL);
	}
	spec_lives(fd);
	peer_close(fd);
}

static void a_payload_where_it_is_not_announced_is_consumed_and_invalid(void **state)
{
	unsigned char b[12] = {0};
	int fd = spec_extended(); /* without a context */

	(void)state;
	b[7] = 1;
	b[11] = 1;
	spec_request(fd, NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_BLOCK_STATUS, 3, 0, sizeof(b));
	peer_send(fd, b, sizeof(b));
	assert_int_equal(spec_answer(fd, 3), NBD_EINVAL);
	spec_lives(fd);
	peer_close(fd);
}

int main(void)
{
	static const struct CMUnitTest rules[] = {
		RULE("ext: NBD_OPT_EXTENDED_HEADERS",
		     "the server SHOULD reject a request that includes data with "
		     "NBD_REP_ERR_INVALID",
		     data_with_the_option_is_invalid),
		RULE("ext: NBD_OPT_EXTENDED_HEADERS",
		     "When successful, the server MUST also support NBD_OPT_GO",
		     go_works_with_extended_headers),
		RULE("ext: NBD_OPT_EXTENDED_HEADERS",
		     "a server SHOULD support this option even if structured replies are not "
		     "negotiated",
		     structured_replies_are_no_precondition),
		RULE("ext: NBD_OPT_EXTENDED_HEADERS",
		     "the server MUST use the 32-byte extended reply header",
		     every_message_is_an_extended_chunk),
		RULE("ext: NBD_OPT_INFO and NBD_OPT_GO",
		     "[with extended headers] the server MUST NOT fail NBD_OPT_GO with "
		     "NBD_REP_ERR_UNSUP",
		     go_works_with_extended_headers),
		RULE("ext: NBD_OPT_STRUCTURED_REPLY",
		     "NBD_REP_ERR_EXT_HEADER_REQD: The client has already successfully negotiated "
		     "extended headers",
		     there_is_no_way_back_to_structured_replies),
		RULE("ext: NBD_OPT_LIST_META_CONTEXT",
		     "a server MUST NOT use [NBD_REP_ERR_EXT_HEADER_REQD] when the response is "
		     "limited to the base: namespace",
		     lists_need_no_extended_headers),
		RULE("ext: NBD_OPT_SET_META_CONTEXT",
		     "The server MUST NOT use [NBD_REP_ERR_EXT_HEADER_REQD] for a request limited "
		     "to the base: namespace",
		     sets_need_no_extended_headers),
		RULE("ext: Transmission flags",
		     "MUST leave [SEND_DF] clear if neither structured replies nor extended "
		     "headers have been negotiated",
		     df_is_announced_with_either),
		RULE("ext: Transmission flags",
		     "Servers MUST NOT advertise [BLOCK_STATUS_PAYLOAD] unless the client "
		     "negotiates extended headers",
		     status_payload_needs_extended_headers),
		RULE("ext: Transmission flags",
		     "and SHOULD NOT advertise this bit if the client does not negotiate "
		     "metacontexts",
		     status_payload_needs_a_context),
		RULE("ext: Request message",
		     "A server SHOULD initiate hard disconnect [for a payload] larger than the "
		     "maximum payload length",
		     an_absurd_payload_ends_the_connection),
		RULE("ext: Request message",
		     "in all other cases, a server SHOULD gracefully consume length bytes of "
		     "payload",
		     unwanted_payload_is_consumed),
		RULE("ext: Request message", "NBD_CMD_WRITE MUST use the flag PAYLOAD_LEN",
		     a_write_without_payload_is_invalid),
		RULE("ext: Request message",
		     "only when length is used as an effect length will it utilize a full 64-bit "
		     "value",
		     long_effects_are_served),
		RULE("ext: Simple reply message",
		     "If extended headers have been negotiated, a simple reply MUST NOT be used",
		     every_message_is_an_extended_chunk),
		RULE("ext: Extended reply chunk message",
		     "all server replies MUST use an extended reply; the server MUST NOT use "
		     "simple replies even when there is no payload",
		     every_message_is_an_extended_chunk),
		RULE("ext: Extended reply chunk message", "cookie MUST match the request",
		     cookies_come_back),
		RULE("ext: Extended reply chunk message",
		     "offset MUST match the offset of the client's request",
		     every_message_repeats_the_offset),
		RULE("ext: Command flags",
		     "for other commands, [PAYLOAD_LEN] will trigger an NBD_EINVAL error",
		     unwanted_payload_is_consumed),
		RULE("ext: Command flags",
		     "NBD_CMD_FLAG_PAYLOAD_LEN; only valid if extended headers were negotiated",
		     payload_len_is_invalid_without_extended_headers),
		RULE("ext: NBD_REPLY_TYPE_BLOCK_STATUS",
		     "a server may only use this type if extended headers were not negotiated",
		     status_is_the_extended_chunk),
		RULE("ext: NBD_REPLY_TYPE_BLOCK_STATUS_EXT",
		     "length MUST be 8 + (a positive multiple of 16)", status_length_is_8_and_16s),
		RULE("ext: NBD_REPLY_TYPE_BLOCK_STATUS_EXT",
		     "This chunk type MUST NOT be used unless extended headers were negotiated",
		     status_without_extended_headers_is_the_other_chunk),
		RULE("ext: NBD_REPLY_TYPE_BLOCK_STATUS_EXT",
		     "descriptor count MUST correspond to the number of subsequent descriptors",
		     the_count_is_that_of_the_descriptors),
		RULE("ext: NBD_REPLY_TYPE_BLOCK_STATUS_EXT", "descriptor count MUST be nonzero",
		     the_count_is_not_zero),
		RULE("ext: NBD_REPLY_TYPE_BLOCK_STATUS_EXT", "length of the extent MUST be nonzero",
		     no_extent_is_empty),
		RULE("ext: NBD_REPLY_TYPE_BLOCK_STATUS_EXT",
		     "the extended reply chunk MUST be used, regardless of whether [lengths fit "
		     "32 bits]",
		     status_is_the_extended_chunk),
		RULE("ext: NBD_REPLY_TYPE_BLOCK_STATUS_EXT",
		     "For [base:], the most-significant 32 bits of status MUST be all zeroes",
		     the_upper_half_of_a_status_is_zero),
		RULE("ext: NBD_CMD_READ",
		     "a read request MUST result in a reply with one or more structured chunks "
		     "[of the magic] negotiated",
		     structured_replies_are_no_precondition),
		RULE("ext: NBD_CMD_BLOCK_STATUS",
		     "the server MUST use one reply chunk per selected context id (only "
		     "NBD_REPLY_TYPE_BLOCK_STATUS_EXT)",
		     status_is_the_extended_chunk),
		RULE("ext: NBD_CMD_BLOCK_STATUS",
		     "[with REQ_ONE] the length of the descriptor MUST NOT be greater than the "
		     "length of the request",
		     req_one_is_one_extent_of_each_context),
		RULE("ext: NBD_CMD_BLOCK_STATUS",
		     "[a payload] informs the server to limit its replies to the metacontext "
		     "id(s)",
		     a_payload_limits_the_answer),
		RULE("ext: NBD_CMD_BLOCK_STATUS",
		     "If the server does not support the payload form, the server MUST gracefully "
		     "consume the payload before failing with NBD_EINVAL",
		     a_payload_where_it_is_not_announced_is_consumed_and_invalid),
		RULE("ext: NBD_CMD_BLOCK_STATUS",
		     "or detects duplicate or unknown metacontext ids, [the same]",
		     unknown_and_repeated_ids_are_consumed_and_invalid),
		RULE("ext: NBD_CMD_BLOCK_STATUS", "The payload form MUST occupy 8 + n*4 bytes",
		     a_payload_of_another_length_is_invalid),
	};

	return spec_run("extended", rules, ARRAY_SIZE(rules));
}
