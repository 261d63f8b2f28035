/* "Option types" and "Option reply types" up to GO: EXPORT_NAME, ABORT, LIST, STARTTLS without TLS,
 * INFO, GO, STRUCTURED_REPLY; "Size constraints" as they are announced. */
#include "tests/support/nbdspec.h"

/* --- EXPORT_NAME ------------------------------------------------------------------------------ */

static void an_unknown_export_name_ends_the_session(void **state)
{
	static const char long_name[5000] = "disk";
	static const struct {
		const char *name;
		size_t len;
	} rows[] = {
		{"nothing", 7}, {"dis", 3}, {"disk\0", 5}, {"Disk", 4}, {long_name, 5000},
	};
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		int fd = spec_greeted();

		peer_option(fd, NBD_OPT_EXPORT_NAME, rows[i].name, rows[i].len);
		assert_true(peer_at_end(fd));
		peer_close(fd);
	}
}

static void the_empty_name_is_the_default_export(void **state)
{
	unsigned char b[NBD_EXPORT_NAME_REPLY_SIZE];
	int fd = spec_greeted();

	(void)state;
	peer_option(fd, NBD_OPT_EXPORT_NAME, NULL, 0);
	peer_recv(fd, b, sizeof(b));
	assert_true(load_be64(b) == SPEC_SMALL);
	peer_close(fd);
}

static void fixed_newstyle_is_there_for_the_other_options(void **state)
{
	struct spec_reps reps;
	int fd = spec_connect();

	(void)state;
	assert_true(peer_greet(fd, NBD_FLAG_FIXED_NEWSTYLE) & NBD_FLAG_FIXED_NEWSTYLE);
	assert_int_equal(spec_option(fd, NBD_OPT_LIST, NULL, 0, &reps), NBD_REP_ACK);
	spec_can_go(fd);
}

/* --- ABORT ------------------------------------------------------------------------------------ */

static void abort_with(size_t len)
{
	static const unsigned char data[100000];
	int fd = spec_greeted();

	peer_option_expect(fd, NBD_OPT_ABORT, data, len, NBD_REP_ACK);
	assert_true(peer_at_end(fd));
	peer_close(fd);
}

static void abort_is_acknowledged(void **state)
{
	(void)state;
	abort_with(0);
}

static void abort_takes_any_data(void **state)
{
	(void)state;
	abort_with(1);
	abort_with(16384);
	abort_with(16385);
	abort_with(100000);
}

static void abort_without_waiting_harms_nobody(void **state)
{
	unsigned i;

	(void)state;
	for (i = 0; i < 20; i++) {
		int fd = spec_greeted();

		peer_option(fd, NBD_OPT_ABORT, NULL, 0);
		peer_close(fd);
	}
	spec_can_go(spec_greeted());
}

/* --- LIST ------------------------------------------------------------------------------------- */

static void list_describes_every_export_once(void **state)
{
	static const char *const names[] = {RIG_NAME, SPEC_RO, SPEC_DEFAULT, SPEC_TWO};
	struct spec_reps reps;
	unsigned seen = 0, i, k;
	int fd = spec_greeted();

	(void)state;
	assert_int_equal(spec_option(fd, NBD_OPT_LIST, NULL, 0, &reps), NBD_REP_ACK);
	assert_int_equal(reps.count, ARRAY_SIZE(names) + 1);
	assert_int_equal(reps.rep[reps.count - 1].len, 0);
	for (i = 0; i + 1 < reps.count; i++) {
		const struct peer_rep *rep = &reps.rep[i];
		uint32_t n = load_be32(rep->data);

		assert_int_equal(rep->type, NBD_REP_SERVER);
		assert_true(n + 4 <= rep->len);
		for (k = 0; k < ARRAY_SIZE(names); k++)
			if (n == strlen(names[k]) && memcmp(rep->data + 4, names[k], n) == 0)
				seen |= 1U << k;
	}
	assert_int_equal(seen, 15);
	spec_can_go(fd);
}

static void list_lengths_add_up(void **state)
{
	struct spec_reps reps;
	unsigned i, described = 0;
	int fd = spec_greeted();

	(void)state;
	spec_option(fd, NBD_OPT_LIST, NULL, 0, &reps);
	for (i = 0; i + 1 < reps.count; i++) {
		uint32_t n = load_be32(reps.rep[i].data), len = reps.rep[i].len;

		assert_true(n <= len - 4);
		if (n == len - 4)
			continue;
		assert_int_equal(len - 4 - n, strlen(SPEC_DESCRIPTION));
		assert_memory_equal(reps.rep[i].data + 4 + n, SPEC_DESCRIPTION, len - 4 - n);
		described++;
	}
	assert_int_equal(described, 1);
	spec_can_go(fd);
}

static void data_where_there_is_none_is_invalid(uint32_t code)
{
	static const unsigned char data[70000];
	struct spec_reps reps;
	int fd = spec_greeted();

	assert_int_equal(spec_option(fd, code, data, 1, &reps), NBD_REP_ERR_INVALID);
	assert_int_equal(spec_option(fd, code, data, 4096, &reps), NBD_REP_ERR_INVALID);
	assert_int_equal(spec_option(fd, code, data, sizeof(data), &reps), NBD_REP_ERR_INVALID);
	spec_can_go(fd);
}

static void list_with_data_is_invalid(void **state)
{
	(void)state;
	data_where_there_is_none_is_invalid(NBD_OPT_LIST);
}

/* --- STARTTLS where there is no TLS ------------------------------------------------------------
 */

static void starttls_is_refused_without_tls(void **state)
{
	struct spec_reps reps;
	int fd = spec_greeted();
	uint32_t type = spec_option(fd, NBD_OPT_STARTTLS, NULL, 0, &reps);

	(void)state;
	assert_true(type == NBD_REP_ERR_UNSUP || type == NBD_REP_ERR_POLICY);
	spec_can_go(fd);
}

static void nothing_asks_for_tls_without_tls(void **state)
{
	static const uint32_t codes[] = {NBD_OPT_LIST,
					 NBD_OPT_INFO,
					 NBD_OPT_GO,
					 NBD_OPT_STRUCTURED_REPLY,
					 NBD_OPT_LIST_META_CONTEXT,
					 NBD_OPT_SET_META_CONTEXT,
					 NBD_OPT_STARTTLS,
					 NBD_OPT_EXTENDED_HEADERS,
					 99};
	struct spec_reps reps;
	int fd = spec_greeted();
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(codes); i++)
		assert_int_not_equal(spec_option(fd, codes[i], NULL, 0, &reps), NBD_REP_ERR(5));
	assert_int_not_equal(spec_info(fd, NBD_OPT_INFO, "nothing", NULL, 0, &reps),
			     NBD_REP_ERR(5));
	peer_close(fd);
}

/* --- INFO and GO ------------------------------------------------------------------------------ */

/* The information of @type in @reps; NULL: there is none. Fails when there are two. */
static const struct peer_rep *info_of(const struct spec_reps *reps, uint16_t type)
{
	const struct peer_rep *found = NULL;
	unsigned i;

	for (i = 0; i < reps->count; i++) {
		const struct peer_rep *rep = &reps->rep[i];

		if (rep->type != NBD_REP_INFO)
			continue;
		assert_true(rep->len >= 2);
		if (load_be16(rep->data) != type)
			continue;
		assert_null(found);
		found = rep;
	}
	return found;
}

/* All there is to know about @name, by INFO or GO. */
static void all_infos(int fd, uint32_t code, const char *name, struct spec_reps *reps)
{
	static const uint16_t infos[] = {NBD_INFO_BLOCK_SIZE, NBD_INFO_DESCRIPTION, NBD_INFO_NAME,
					 NBD_INFO_EXPORT};

	assert_int_equal(spec_info(fd, code, name, infos, 4, reps), NBD_REP_ACK);
}

static void a_name_longer_than_the_data_is_invalid(void **state)
{
	unsigned char data[64];
	size_t n = peer_info_data(data, RIG_NAME, NULL, 0);
	struct spec_reps reps;
	int fd = spec_greeted();

	(void)state;
	store_be32(data, n - 6 + 1);
	assert_int_equal(spec_option(fd, NBD_OPT_GO, data, n, &reps), NBD_REP_ERR_INVALID);
	store_be32(data, 0xfffffffeU);
	assert_int_equal(spec_option(fd, NBD_OPT_INFO, data, n, &reps), NBD_REP_ERR_INVALID);
	spec_can_go(fd);
}

static void unknown_information_requests_are_ignored(void **state)
{
	static const uint16_t infos[] = {4, 31, 32, 33, 0x8000, 0xffff, NBD_INFO_NAME};
	struct spec_reps reps;
	int fd = spec_greeted();

	(void)state;
	assert_int_equal(spec_info(fd, NBD_OPT_INFO, RIG_NAME, infos, ARRAY_SIZE(infos), &reps),
			 NBD_REP_ACK);
	assert_non_null(info_of(&reps, NBD_INFO_EXPORT));
	assert_non_null(info_of(&reps, NBD_INFO_NAME));
	assert_int_equal(reps.count, 3);
	spec_can_go(fd);
}

static void success_says_info_export(void **state)
{
	struct spec_reps reps;
	int fd = spec_greeted();

	(void)state;
	assert_int_equal(spec_info(fd, NBD_OPT_INFO, RIG_NAME, NULL, 0, &reps), NBD_REP_ACK);
	assert_non_null(info_of(&reps, NBD_INFO_EXPORT));
	assert_int_equal(spec_info(fd, NBD_OPT_GO, RIG_NAME, NULL, 0, &reps), NBD_REP_ACK);
	assert_non_null(info_of(&reps, NBD_INFO_EXPORT));
	peer_close(fd);
}

static void an_unknown_export_has_no_infos(void **state)
{
	struct spec_reps reps;
	int fd = spec_greeted();

	(void)state;
	assert_int_equal(spec_info(fd, NBD_OPT_INFO, "nothing", NULL, 0, &reps),
			 NBD_REP_ERR_UNKNOWN);
	assert_int_equal(reps.count, 1);
	assert_int_equal(spec_info(fd, NBD_OPT_GO, "nothing", NULL, 0, &reps), NBD_REP_ERR_UNKNOWN);
	assert_int_equal(reps.count, 1);
	spec_can_go(fd);
}

static void nobody_is_made_to_ask_for_block_sizes(void **state)
{
	static const uint16_t infos[] = {NBD_INFO_BLOCK_SIZE};
	struct spec_reps reps;
	int fd = spec_greeted();

	(void)state;
	assert_int_equal(spec_info(fd, NBD_OPT_INFO, RIG_NAME, infos, 1, &reps), NBD_REP_ACK);
	assert_int_equal(spec_info(fd, NBD_OPT_INFO, RIG_NAME, NULL, 0, &reps), NBD_REP_ACK);
	assert_int_equal(spec_info(fd, NBD_OPT_GO, RIG_NAME, infos, 1, &reps), NBD_REP_ACK);
	peer_close(fd);
}

static void go_says_what_info_said(void **state)
{
	static const char *const names[] = {RIG_NAME, SPEC_RO, SPEC_DEFAULT};
	static const uint16_t types[] = {NBD_INFO_EXPORT, NBD_INFO_NAME, NBD_INFO_DESCRIPTION,
					 NBD_INFO_BLOCK_SIZE};
	struct spec_reps info, go;
	unsigned i, k;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(names); i++) {
		int fd = i % 2 ? spec_greeted() : spec_structured();

		all_infos(fd, NBD_OPT_INFO, names[i], &info);
		all_infos(fd, NBD_OPT_GO, names[i], &go);
		assert_int_equal(info.count, go.count);
		for (k = 0; k < ARRAY_SIZE(types); k++) {
			const struct peer_rep *a = info_of(&info, types[k]);
			const struct peer_rep *b = info_of(&go, types[k]);

			assert_int_equal(!a, !b);
			if (!a)
				continue;
			assert_int_equal(a->len, b->len);
			assert_memory_equal(a->data, b->data, a->len);
		}
		peer_close(fd);
	}
}

static void nothing_follows_the_ack_of_go(void **state)
{
	struct spec_reps reps;
	int fd = spec_connect();

	(void)state;
	peer_greet(fd, NBD_FLAG_FIXED_NEWSTYLE); /* NO_ZEROES is not negotiated */
	assert_int_equal(spec_info(fd, NBD_OPT_GO, RIG_NAME, NULL, 0, &reps), NBD_REP_ACK);
	assert_int_equal(spec_do(fd, 0, NBD_CMD_FLUSH, 0, 0), 0);
	peer_close(fd);
}

static void info_export_has_12_bytes(void **state)
{
	struct spec_reps reps;
	int fd = spec_greeted();
	const struct peer_rep *rep;

	(void)state;
	all_infos(fd, NBD_OPT_INFO, SPEC_RO, &reps);
	rep = info_of(&reps, NBD_INFO_EXPORT);
	assert_int_equal(rep->len, 12);
	assert_true(load_be64(rep->data + 2) == SPEC_SMALL);
	assert_true(load_be16(rep->data + 10) & NBD_FLAG_READ_ONLY);
	spec_can_go(fd);
}

static void info_name_is_the_name(void **state)
{
	struct spec_reps reps;
	int fd = spec_greeted();
	const struct peer_rep *rep;

	(void)state;
	all_infos(fd, NBD_OPT_INFO, SPEC_RO, &reps);
	rep = info_of(&reps, NBD_INFO_NAME);
	assert_int_equal(rep->len, 2 + strlen(SPEC_RO));
	assert_memory_equal(rep->data + 2, SPEC_RO, strlen(SPEC_RO));
	all_infos(fd, NBD_OPT_INFO, SPEC_DEFAULT, &reps);
	assert_int_equal(info_of(&reps, NBD_INFO_NAME)->len, 2);
	spec_can_go(fd);
}

static void info_description_is_the_description(void **state)
{
	struct spec_reps reps;
	int fd = spec_greeted();
	const struct peer_rep *rep;

	(void)state;
	all_infos(fd, NBD_OPT_INFO, SPEC_RO, &reps);
	rep = info_of(&reps, NBD_INFO_DESCRIPTION);
	assert_int_equal(rep->len, 2 + strlen(SPEC_DESCRIPTION));
	assert_memory_equal(rep->data + 2, SPEC_DESCRIPTION, strlen(SPEC_DESCRIPTION));
	spec_can_go(fd);
}

static void block_size_is_sent_when_asked_for(void **state)
{
	static const uint16_t infos[] = {NBD_INFO_BLOCK_SIZE};
	struct spec_reps reps;
	int fd = spec_greeted();

	(void)state;
	assert_int_equal(spec_info(fd, NBD_OPT_INFO, RIG_NAME, infos, 1, &reps), NBD_REP_ACK);
	assert_non_null(info_of(&reps, NBD_INFO_BLOCK_SIZE));
	assert_int_equal(spec_info(fd, NBD_OPT_GO, RIG_NAME, infos, 1, &reps), NBD_REP_ACK);
	assert_non_null(info_of(&reps, NBD_INFO_BLOCK_SIZE));
	peer_close(fd);
}

/* Minimum, preferred, maximum of RIG_NAME. */
static void block_sizes(uint32_t sizes[3])
{
	struct spec_reps reps;
	int fd = spec_greeted();
	const struct peer_rep *rep;
	unsigned i;

	all_infos(fd, NBD_OPT_INFO, RIG_NAME, &reps);
	rep = info_of(&reps, NBD_INFO_BLOCK_SIZE);
	assert_non_null(rep);
	assert_int_equal(rep->len, 14);
	for (i = 0; i < 3; i++)
		sizes[i] = load_be32(rep->data + 2 + i * 4);
	spec_can_go(fd);
}

static void block_size_has_14_bytes(void **state)
{
	uint32_t sizes[3];

	(void)state;
	block_sizes(sizes);
}

static bool power_of_two(uint32_t n)
{
	return n && !(n & (n - 1));
}

static void the_minimum_block_is_a_power_of_two(void **state)
{
	uint32_t sizes[3];

	(void)state;
	block_sizes(sizes);
	assert_true(power_of_two(sizes[0]) && sizes[0] <= 65536);
}

static void the_preferred_block_is_a_power_of_two(void **state)
{
	static const uint32_t wrong[] = {1, 256, 511, 513, 65537, 3 << 16};
	uint32_t sizes[3];
	unsigned i;

	(void)state;
	block_sizes(sizes);
	assert_true(power_of_two(sizes[1]) && sizes[1] >= sizes[0] && sizes[1] >= 512);
	for (i = 0; i < ARRAY_SIZE(wrong); i++) {
		struct nbd_export_config config = {.name = "x", .size = 512};
		struct nbd_export *export;
		struct err err = ERR_INIT;

		config.preferred_block = wrong[i];
		assert_true(nbd_export_add(spec.rig->server, &config, &memexport_ops, &spec.small,
					   &export, &err) < 0);
	}
}

static void the_maximum_payload_holds_a_preferred_block(void **state)
{
	uint32_t sizes[3];

	(void)state;
	block_sizes(sizes);
	assert_true(sizes[2] >= sizes[1] && sizes[2] >= 1U << 20);
}

/* Any offset, any length. */
static void the_smallest_requests_are_served(void **state)
{
	unsigned char data[3] = {1, 2, 3};
	int fd = spec_chunks();
	uint64_t off;

	(void)state;
	for (off = 510; off < 516; off++) {
		assert_int_equal(spec_write(fd, 0, off, data, 1 + off % 3), 0);
		assert_int_equal(spec_do(fd, 0, NBD_CMD_READ, off, 1), 0);
		assert_int_equal(spec_do(fd, 0, NBD_CMD_WRITE_ZEROES, off, 3), 0);
	}
	peer_close(fd);
}

/* --- STRUCTURED_REPLY ------------------------------------------------------------------------- */

static void structured_reply_with_data_is_invalid(void **state)
{
	(void)state;
	data_where_there_is_none_is_invalid(NBD_OPT_STRUCTURED_REPLY);
}

static void structured_reply_changes_reads(void **state)
{
	struct spec_msg msg;
	int fd = spec_chunks();

	(void)state;
	peer_request(fd, 0, NBD_CMD_READ, 3, 0, 512);
	spec_msg(fd, &msg);
	assert_int_equal(msg.magic, NBD_CHUNK_MAGIC);
	spec_msg_free(&msg);
	peer_close(fd);
}

int main(void)
{
	static const struct CMUnitTest rules[] = {
		RULE("NBD_OPT_EXPORT_NAME",
		     "If the chosen export does not exist or requirements are not met, the server "
		     "MUST terminate the session",
		     an_unknown_export_name_ends_the_session),
		RULE("NBD_OPT_EXPORT_NAME", "the empty name is reserved for a default export",
		     the_empty_name_is_the_default_export),
		RULE("NBD_OPT_EXPORT_NAME",
		     "A server which wishes to use any other option MUST support fixed newstyle",
		     fixed_newstyle_is_there_for_the_other_options),
		RULE("NBD_OPT_ABORT", "The server MUST reply with NBD_REP_ACK",
		     abort_is_acknowledged),
		RULE("NBD_OPT_ABORT", "a server SHOULD ignore any data sent by the client",
		     abort_takes_any_data),
		RULE("NBD_OPT_ABORT",
		     "the server SHOULD gracefully handle the client closing the connection "
		     "without waiting for a reply",
		     abort_without_waiting_harms_nobody),
		RULE("NBD_OPT_LIST",
		     "Return zero or more NBD_REP_SERVER replies, one for each export, followed "
		     "by NBD_REP_ACK",
		     list_describes_every_export_once),
		RULE("NBD_OPT_LIST",
		     "the server SHOULD reject a request that includes data with "
		     "NBD_REP_ERR_INVALID",
		     list_with_data_is_invalid),
		RULE("NBD_REP_SERVER",
		     "length of name MUST be no larger than the reply packet header length - 4",
		     list_lengths_add_up),
		RULE("NOTLS mode",
		     "If the server receives NBD_OPT_STARTTLS it MUST respond with "
		     "NBD_REP_ERR_POLICY, NBD_REP_ERR_UNSUP or another error",
		     starttls_is_refused_without_tls),
		RULE("NOTLS mode",
		     "The server MUST NOT respond to any option request with "
		     "NBD_REP_ERR_TLS_REQD",
		     nothing_asks_for_tls_without_tls),
		RULE("NBD_OPT_INFO and NBD_OPT_GO",
		     "length of name MUST be no larger than the option data length - 6",
		     a_name_longer_than_the_data_is_invalid),
		RULE("NBD_OPT_INFO and NBD_OPT_GO",
		     "The server MUST ignore any information requests it does not understand",
		     unknown_information_requests_are_ignored),
		RULE("NBD_OPT_INFO and NBD_OPT_GO",
		     "[with NBD_REP_ACK] the server MUST send at least one NBD_REP_INFO, with an "
		     "NBD_INFO_EXPORT",
		     success_says_info_export),
		RULE("NBD_OPT_INFO and NBD_OPT_GO",
		     "[with NBD_REP_ERR_UNKNOWN] the server SHOULD NOT send NBD_REP_INFO replies",
		     an_unknown_export_has_no_infos),
		RULE("NBD_OPT_INFO and NBD_OPT_GO",
		     "The server MUST NOT send [BLOCK_SIZE_REQD] if size constraints were "
		     "requested",
		     nobody_is_made_to_ask_for_block_sizes),
		RULE("NBD_OPT_INFO and NBD_OPT_GO",
		     "[GO after INFO] the server MUST reply with the same set of information",
		     go_says_what_info_said),
		RULE("NBD_OPT_INFO and NBD_OPT_GO",
		     "The server MUST NOT send any zero padding bytes after the NBD_REP_ACK",
		     nothing_follows_the_ack_of_go),
		RULE("NBD_REP_INFO",
		     "The server MUST send an NBD_INFO_EXPORT at some point before sending an "
		     "NBD_REP_ACK",
		     success_says_info_export),
		RULE("NBD_REP_INFO", "[NBD_INFO_EXPORT] length MUST be 12",
		     info_export_has_12_bytes),
		RULE("NBD_REP_INFO", "[NBD_INFO_NAME] The length MUST be at least 2",
		     info_name_is_the_name),
		RULE("NBD_REP_INFO", "[NBD_INFO_DESCRIPTION] The length MUST be at least 2",
		     info_description_is_the_description),
		RULE("NBD_REP_INFO",
		     "The server MUST send [NBD_INFO_BLOCK_SIZE] if it is requested and it "
		     "intends to enforce size constraints",
		     block_size_is_sent_when_asked_for),
		RULE("NBD_REP_INFO", "[NBD_INFO_BLOCK_SIZE] The length MUST be 14",
		     block_size_has_14_bytes),
		RULE("Size constraints",
		     "[A server with other size constraints] MUST [advertise them via "
		     "NBD_INFO_BLOCK_SIZE]",
		     block_size_is_sent_when_asked_for),
		RULE("Size constraints",
		     "minimum block size MUST be a power of 2, MUST NOT be larger than 2^16",
		     the_minimum_block_is_a_power_of_two),
		RULE("Size constraints",
		     "preferred block size MUST be a power of 2 at least as large as the minimum "
		     "block size and 2^9",
		     the_preferred_block_is_a_power_of_two),
		RULE("Size constraints",
		     "maximum payload size MUST be at least as large as the preferred block size",
		     the_maximum_payload_holds_a_preferred_block),
		RULE("Size constraints",
		     "a server SHOULD support a default minimum block size of 1",
		     the_smallest_requests_are_served),
		RULE("NBD_OPT_STRUCTURED_REPLY",
		     "the server SHOULD reject a request that includes data with "
		     "NBD_REP_ERR_INVALID",
		     structured_reply_with_data_is_invalid),
		RULE("NBD_OPT_STRUCTURED_REPLY",
		     "the server MUST use structured replies to the NBD_CMD_READ transmission "
		     "request",
		     structured_reply_changes_reads),
	};

	return spec_run("options", rules, ARRAY_SIZE(rules));
}
