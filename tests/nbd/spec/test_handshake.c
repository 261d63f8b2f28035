/* From the greeting to the transmission flags: "Newstyle negotiation", "Fixed newstyle
 * negotiation", "Termination of the session during option haggling", "Handshake flags", "Client
 * flags", "Transmission flags", "Conventions". */
#include "tests/support/nbdspec.h"

/* --- strings ---------------------------------------------------------------------------------- */

/* Calls @check for every string the server sends while it negotiates. */
static void each_string(void (*check)(const unsigned char *s, uint32_t len))
{
	static const uint16_t infos[] = {NBD_INFO_NAME, NBD_INFO_DESCRIPTION};
	static const uint32_t refused[] = {NBD_OPT_INFO, NBD_OPT_GO, NBD_OPT_LIST, 77,
					   NBD_OPT_SET_META_CONTEXT};
	struct spec_reps reps;
	int fd = spec_structured();
	unsigned i, seen = 0;
	uint32_t n;

	spec_option(fd, NBD_OPT_LIST, NULL, 0, &reps);
	for (i = 0; i + 1 < reps.count; i++) {
		n = load_be32(reps.rep[i].data);
		check(reps.rep[i].data + 4, n);
		check(reps.rep[i].data + 4 + n, reps.rep[i].len - 4 - n);
		seen++;
	}
	assert_int_equal(spec_info(fd, NBD_OPT_INFO, SPEC_RO, infos, 2, &reps), NBD_REP_ACK);
	for (i = 0; i < reps.count; i++)
		if (reps.rep[i].type == NBD_REP_INFO && load_be16(reps.rep[i].data)) {
			check(reps.rep[i].data + 2, reps.rep[i].len - 2);
			seen++;
		}
	spec_meta(fd, NBD_OPT_LIST_META_CONTEXT, RIG_NAME, NULL, 0, &reps);
	for (i = 0; i + 1 < reps.count; i++) {
		check(reps.rep[i].data + 4, reps.rep[i].len - 4);
		seen++;
	}
	for (i = 0; i < ARRAY_SIZE(refused); i++) {
		assert_true(spec_option(fd, refused[i], "x", 1, &reps) & 0x80000000U);
		assert_true(reps.rep[0].len > 0);
		check(reps.rep[0].data, reps.rep[0].len);
		seen++;
	}
	assert_true(seen >= 3 + 2 + 1 + ARRAY_SIZE(refused));
	spec_can_go(fd);
}

static void check_no_nul(const unsigned char *s, uint32_t len)
{
	assert_null(memchr(s, 0, len));
}

static void strings_have_no_nul(void **state)
{
	(void)state;
	each_string(check_no_nul);
}

static void check_length(const unsigned char *s, uint32_t len)
{
	(void)s;
	assert_true(len <= 4096);
}

static struct nbd_export_config named(const char *name, const char *description)
{
	return (struct nbd_export_config){.name = name, .description = description, .size = 512};
}

static int refused(struct nbd_export_config config)
{
	struct nbd_export *export;
	struct err err = ERR_INIT;

	return nbd_export_add(spec.rig->server, &config, &memexport_ops, &spec.small, &export,
			      &err);
}

static void strings_are_short(void **state)
{
	char *longest = calloc(1, 4098);

	(void)state;
	assert_non_null(longest);
	each_string(check_length);
	memset(longest, 'x', 4097);
	assert_true(refused(named(longest, NULL)) < 0);
	assert_true(refused(named("x", longest)) < 0);
	free(longest);
}

/* An export of that name is offered, and entered by it. */
static void list_gives_back(const char *name)
{
	struct nbd_export_config config = named(name, name);
	struct nbd_export *export;
	struct err err = ERR_INIT;
	struct spec_reps reps;
	struct memexport mem;
	int fd = spec_greeted();

	memexport_init(&mem, config.size);
	rig_ok(nbd_export_add(spec.rig->server, &config, &memexport_ops, &mem, &export, &err),
	       &err);
	spec_option(fd, NBD_OPT_LIST, NULL, 0, &reps);
	assert_memory_equal(reps.rep[reps.count - 2].data + 4, name, strlen(name));
	assert_true(peer_go(fd, name, NULL, NULL));
	peer_close(fd);
	nbd_export_remove(export, false);
	memexport_deinit(&mem);
}

static void strings_are_utf8(void **state)
{
	static const char *const wrong[] = {
		"\xff",	    "a\x80",	       "\xc3", "\xc0\xaf", "\xed\xa0\x80",
		"\xe2\x82", "\xf4\x90\x80\x80"};
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(wrong); i++) {
		assert_true(refused(named(wrong[i], NULL)) < 0);
		assert_true(refused(named("x", wrong[i])) < 0);
	}
	list_gives_back("gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xed\x9f\xbf \xf0\x90\x80\x80");
}

/* --- greeting --------------------------------------------------------------------------------- */

static uint16_t greeting_flags(void)
{
	unsigned char b[NBD_GREETING_SIZE];
	int fd = spec_connect();

	peer_recv(fd, b, sizeof(b));
	assert_memory_equal(b, "NBDMAGICIHAVEOPT", 16);
	peer_close(fd);
	return load_be16(b + 16);
}

static void the_greeting_is_two_magics_and_flags(void **state)
{
	(void)state;
	greeting_flags();
}

static void fixed_newstyle_is_set(void **state)
{
	(void)state;
	assert_true(greeting_flags() & NBD_FLAG_FIXED_NEWSTYLE);
}

static void no_other_handshake_flag_is_set(void **state)
{
	(void)state;
	assert_int_equal(greeting_flags() & ~(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES), 0);
}

static void unknown_client_flags_end_the_session(void **state)
{
	unsigned bit;

	(void)state;
	for (bit = 2; bit < 32; bit++) {
		int fd = spec_connect();

		peer_greet(fd, SPEC_FLAGS | 1U << bit);
		assert_true(peer_at_end(fd));
		peer_close(fd);
	}
}

/* What came after EXPORT_NAME, until a first reply. */
static size_t export_name_reply(uint32_t client_flags)
{
	unsigned char b[NBD_EXPORT_NAME_REPLY_SIZE + NBD_EXPORT_NAME_ZEROES + NBD_SIMPLE_SIZE];
	int fd = spec_connect();
	size_t n = NBD_EXPORT_NAME_REPLY_SIZE;

	peer_greet(fd, client_flags);
	peer_option(fd, NBD_OPT_EXPORT_NAME, RIG_NAME, strlen(RIG_NAME));
	peer_recv(fd, b, NBD_EXPORT_NAME_REPLY_SIZE);
	assert_true(load_be64(b) == RIG_SIZE);
	peer_request(fd, 0, NBD_CMD_FLUSH, 7, 0, 0);
	do
		peer_recv(fd, b + n++, 1);
	while (n < NBD_EXPORT_NAME_REPLY_SIZE + 4 || load_be32(b + n - 4) != NBD_SIMPLE_MAGIC);
	peer_close(fd);
	return n - 4;
}

static void no_zeroes_means_none(void **state)
{
	(void)state;
	assert_int_equal(export_name_reply(SPEC_FLAGS), NBD_EXPORT_NAME_REPLY_SIZE);
	assert_int_equal(export_name_reply(NBD_FLAG_FIXED_NEWSTYLE),
			 NBD_EXPORT_NAME_REPLY_SIZE + NBD_EXPORT_NAME_ZEROES);
}

/* --- options in general ----------------------------------------------------------------------- */

static void replies_have_the_magic_and_the_option(void **state)
{
	static const uint32_t codes[] = {NBD_OPT_LIST, NBD_OPT_INFO, NBD_OPT_STRUCTURED_REPLY,
					 NBD_OPT_LIST_META_CONTEXT, 4711};
	struct spec_reps reps;
	int fd = spec_greeted();
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(codes); i++)
		spec_option(fd, codes[i], "", 0, &reps); /* peer_rep() looks at the magic */
	spec_can_go(fd);
}

static void an_export_name_that_cannot_be_served_ends_the_session(void **state)
{
	int fd = spec_greeted();

	(void)state;
	peer_option(fd, NBD_OPT_EXPORT_NAME, "nothing", 7);
	assert_true(peer_at_end(fd));
	peer_close(fd);
}

static void refusals_keep_the_session(void **state)
{
	static const char long_name[5000];
	struct spec_reps reps;
	unsigned char data[8192];
	int fd = spec_greeted();

	(void)state;
	peer_option_expect(fd, NBD_OPT_LIST, "x", 1, NBD_REP_ERR_INVALID);
	peer_option_expect(fd, NBD_OPT_STRUCTURED_REPLY, "x", 1, NBD_REP_ERR_INVALID);
	peer_option_expect(fd, NBD_OPT_SET_META_CONTEXT, data, 0, NBD_REP_ERR_INVALID);
	peer_option_expect(fd, 0xdead, long_name, 5000, NBD_REP_ERR_UNSUP);
	peer_option_expect(fd, NBD_OPT_GO, "", 0, NBD_REP_ERR_INVALID);
	assert_int_equal(spec_info(fd, NBD_OPT_GO, "nothing", NULL, 0, &reps), NBD_REP_ERR_UNKNOWN);
	spec_can_go(fd);
}

static void options_are_refused_for_as_long_as_they_come(void **state)
{
	struct spec_reps reps;
	int fd = spec_greeted();
	unsigned i;

	(void)state;
	for (i = 0; i < 500; i++)
		assert_int_equal(spec_info(fd, NBD_OPT_GO, "nothing", NULL, 0, &reps),
				 NBD_REP_ERR_UNKNOWN);
	spec_can_go(fd);
}

static void what_is_not_implemented_is_unsupported(void **state)
{
	static const uint32_t codes[] = {0, 4, 12, 99, 0x7fffffffU, 0xffffffffU};
	int fd = spec_greeted();
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(codes); i++)
		peer_option_expect(fd, codes[i], NULL, 0, NBD_REP_ERR_UNSUP);
	spec_can_go(fd);
}

static void the_message_after_an_unknown_one_is_understood(void **state)
{
	static const unsigned char data[70000];
	static const uint32_t lengths[] = {1, 20, 16383, 16384, 16385, 70000};
	struct spec_reps reps;
	int fd = spec_greeted();
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(lengths); i++) {
		peer_option_expect(fd, 99, data, lengths[i], NBD_REP_ERR_UNSUP);
		assert_int_equal(spec_option(fd, NBD_OPT_LIST, NULL, 0, &reps), NBD_REP_ACK);
	}
	spec_can_go(fd);
}

/* On a server of its own, which stops. */
static void options_are_refused_when_the_server_stops(void **state)
{
	static const uint32_t codes[] = {NBD_OPT_LIST, NBD_OPT_STRUCTURED_REPLY,
					 NBD_OPT_EXTENDED_HEADERS, 99};
	struct rig *rig = rig_start((struct nbd_server_config){.workers = 2, .batch_count = 2});
	struct spec_reps reps;
	int fd = peer_connect(rig->address);
	unsigned i;

	(void)state;
	peer_greet(fd, SPEC_FLAGS);
	nbd_server_shutdown(rig->server);
	for (i = 0; i < ARRAY_SIZE(codes); i++)
		peer_option_expect(fd, codes[i], NULL, 0, NBD_REP_ERR_SHUTDOWN);
	assert_int_equal(spec_info(fd, NBD_OPT_INFO, RIG_NAME, NULL, 0, &reps),
			 NBD_REP_ERR_SHUTDOWN);
	assert_int_equal(spec_info(fd, NBD_OPT_GO, RIG_NAME, NULL, 0, &reps), NBD_REP_ERR_SHUTDOWN);
	peer_option_expect(fd, NBD_OPT_ABORT, NULL, 0, NBD_REP_ACK);
	assert_true(peer_at_end(fd));
	peer_close(fd);
	rig_stop(rig);
}

/* --- transmission flags ----------------------------------------------------------------------- */

/* The flags of @name in the answers to INFO, GO and EXPORT_NAME, which must be the same. */
static uint16_t transmission_flags(const char *name, bool structured)
{
	unsigned char b[NBD_EXPORT_NAME_REPLY_SIZE];
	struct peer_export export;
	struct spec_reps reps;
	int fd = structured ? spec_structured() : spec_greeted();

	assert_int_equal(spec_info(fd, NBD_OPT_INFO, name, NULL, 0, &reps), NBD_REP_ACK);
	assert_true(peer_go(fd, name, &export, NULL));
	assert_int_equal(load_be16(reps.rep[0].data + 10), export.flags);
	peer_close(fd);
	fd = structured ? spec_structured() : spec_greeted();
	peer_option(fd, NBD_OPT_EXPORT_NAME, name, strlen(name));
	peer_recv(fd, b, sizeof(b));
	assert_int_equal(load_be16(b + 8), export.flags);
	peer_close(fd);
	return export.flags;
}

static void has_flags_is_always_set(void **state)
{
	static const char *const names[] = {RIG_NAME, SPEC_RO, SPEC_DEFAULT};
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(names); i++) {
		assert_true(transmission_flags(names[i], false) & NBD_FLAG_HAS_FLAGS);
		assert_true(transmission_flags(names[i], true) & NBD_FLAG_HAS_FLAGS);
	}
}

static void every_flag_that_is_set_is_true(void **state)
{
	static const struct {
		uint16_t flag, cmd_flags, cmd;
		uint32_t len;
	} rows[] = {
		{NBD_FLAG_SEND_FLUSH, 0, NBD_CMD_FLUSH, 0},
		{NBD_FLAG_SEND_FUA, NBD_CMD_FLAG_FUA, NBD_CMD_WRITE_ZEROES, 512},
		{NBD_FLAG_SEND_TRIM, 0, NBD_CMD_TRIM, 512},
		{NBD_FLAG_SEND_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE, NBD_CMD_WRITE_ZEROES, 512},
		{NBD_FLAG_SEND_CACHE, 0, NBD_CMD_CACHE, 512},
		{NBD_FLAG_SEND_FAST_ZERO, NBD_CMD_FLAG_FAST_ZERO, NBD_CMD_WRITE_ZEROES, 512},
		{NBD_FLAG_SEND_DF, NBD_CMD_FLAG_DF, NBD_CMD_READ, 512},
	};
	uint16_t flags = transmission_flags(RIG_NAME, true);
	uint16_t proven = NBD_FLAG_HAS_FLAGS | NBD_FLAG_CAN_MULTI_CONN; /* the latter: "commands" */
	int fd = spec_chunks();
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		if (!(flags & rows[i].flag))
			continue;
		assert_int_equal(spec_do(fd, rows[i].cmd_flags, rows[i].cmd, 0, rows[i].len), 0);
		proven |= rows[i].flag;
	}
	assert_int_equal(flags & ~proven, 0);
	peer_close(fd);
}

static void a_read_only_export_refuses_writes(void **state)
{
	unsigned char byte = 1;
	int fd = spec_enter(SPEC_RO, SPEC_CHUNKS);

	(void)state;
	assert_true(transmission_flags(SPEC_RO, false) & NBD_FLAG_READ_ONLY);
	assert_int_not_equal(spec_write(fd, 0, 0, &byte, 1), 0);
	assert_int_not_equal(spec_do(fd, 0, NBD_CMD_TRIM, 0, 512), 0);
	assert_int_not_equal(spec_do(fd, 0, NBD_CMD_WRITE_ZEROES, 0, 512), 0);
	assert_int_equal(atomic_load(&spec.ro.writes) + atomic_load(&spec.ro.zeroes), 0);
	spec_lives(fd);
	peer_close(fd);
}

static void df_is_announced_where_it_works(void **state)
{
	int fd = spec_chunks();

	(void)state;
	assert_true(transmission_flags(RIG_NAME, true) & NBD_FLAG_SEND_DF);
	assert_int_equal(spec_do(fd, NBD_CMD_FLAG_DF, NBD_CMD_READ, 0, 4096), 0);
	peer_close(fd);
}

static void df_needs_structured_replies(void **state)
{
	(void)state;
	assert_false(transmission_flags(RIG_NAME, false) & NBD_FLAG_SEND_DF);
	assert_false(transmission_flags(SPEC_RO, false) & NBD_FLAG_SEND_DF);
}

static void fast_zero_is_announced_where_it_works(void **state)
{
	int fd = spec_simple();

	(void)state;
	assert_true(transmission_flags(RIG_NAME, false) & NBD_FLAG_SEND_FAST_ZERO);
	assert_int_equal(spec_do(fd, NBD_CMD_FLAG_FAST_ZERO, NBD_CMD_WRITE_ZEROES, 0, 4096), 0);
	peer_close(fd);
}

static void fast_zero_implies_write_zeroes(void **state)
{
	static const char *const names[] = {RIG_NAME, SPEC_RO, SPEC_DEFAULT};
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(names); i++) {
		uint16_t flags = transmission_flags(names[i], false);

		assert_true((flags & NBD_FLAG_SEND_WRITE_ZEROES) ||
			    !(flags & NBD_FLAG_SEND_FAST_ZERO));
	}
}

/* --- baseline --------------------------------------------------------------------------------- */

static void the_baseline_serves_a_whole_session(void **state)
{
	unsigned char data[512], back[512];
	struct spec_reps reps;
	int fd = spec_greeted();

	(void)state;
	rig_pattern(data, sizeof(data), 3);
	assert_int_equal(spec_option(fd, NBD_OPT_LIST, NULL, 0, &reps), NBD_REP_ACK);
	assert_int_equal(spec_info(fd, NBD_OPT_INFO, RIG_NAME, NULL, 0, &reps), NBD_REP_ACK);
	assert_true(peer_go(fd, RIG_NAME, NULL, NULL));
	assert_int_equal(spec_write(fd, 0, 1024, data, sizeof(data)), 0);
	peer_request(fd, 0, NBD_CMD_READ, 5, 1024, sizeof(back));
	assert_int_equal(peer_simple_to(fd, 5), 0);
	peer_recv(fd, back, sizeof(back));
	assert_memory_equal(back, data, sizeof(back));
	peer_request(fd, 0, NBD_CMD_DISC, 6, 0, 0);
	assert_true(peer_at_end(fd));
	peer_close(fd);
}

int main(void)
{
	static const struct CMUnitTest rules[] = {
		RULE("Conventions", "[a string] is a sequence of UTF-8 code points",
		     strings_are_utf8),
		RULE("Conventions", "[a string] MUST NOT contain NUL characters",
		     strings_have_no_nul),
		RULE("Conventions", "[a string] MUST be no longer than 4096 bytes",
		     strings_are_short),
		RULE("Newstyle negotiation", "S: NBDMAGIC, IHAVEOPT, 16 bits of handshake flags",
		     the_greeting_is_two_magics_and_flags),
		RULE("Newstyle negotiation",
		     "the server MUST close the TCP connection if it does not recognize the "
		     "client's flags",
		     unknown_client_flags_end_the_session),
		RULE("Newstyle negotiation",
		     "If the server is unwilling to allow the export, it MUST terminate the "
		     "session",
		     an_export_name_that_cannot_be_served_ends_the_session),
		RULE("Fixed newstyle negotiation",
		     "The server will reply to any option apart from NBD_OPT_EXPORT_NAME with "
		     "reply packets",
		     replies_have_the_magic_and_the_option),
		RULE("Termination of the session during option haggling",
		     "A party that is mandated to terminate the session MUST initiate a hard "
		     "disconnect if it is not possible to use a soft disconnect",
		     an_export_name_that_cannot_be_served_ends_the_session),
		RULE("Termination of the session during option haggling",
		     "A party MUST NOT initiate a hard disconnect save where set out",
		     refusals_keep_the_session),
		RULE("Termination of the session during option haggling",
		     "it MUST simply error inbound options until the client gets the hint",
		     options_are_refused_for_as_long_as_they_come),
		RULE("Termination of the session during option haggling",
		     "[being shut down] it SHOULD error further options (other than an "
		     "NBD_OPT_ABORT) with NBD_REP_ERR_SHUTDOWN",
		     options_are_refused_when_the_server_stops),
		RULE("Handshake flags", "NBD_FLAG_FIXED_NEWSTYLE MUST be set",
		     fixed_newstyle_is_set),
		RULE("Handshake flags",
		     "if the client replies with NBD_FLAG_C_NO_ZEROES, the server MUST NOT send "
		     "the 124 bytes of zero",
		     no_zeroes_means_none),
		RULE("Handshake flags", "The server MUST NOT set any other flags",
		     no_other_handshake_flag_is_set),
		RULE("Client flags",
		     "If [NO_ZEROES is] set, the server MUST NOT send the 124 bytes of zeroes",
		     no_zeroes_means_none),
		RULE("Client flags",
		     "the server MUST drop the TCP connection if the client sets an unknown flag",
		     unknown_client_flags_end_the_session),
		RULE("Transmission flags",
		     "The server MUST NOT set the flag for features it does not support",
		     every_flag_that_is_set_is_true),
		RULE("Transmission flags", "NBD_FLAG_HAS_FLAGS MUST always be 1",
		     has_flags_is_always_set),
		RULE("Transmission flags",
		     "If [READ_ONLY] is set, the server MUST error subsequent write operations",
		     a_read_only_export_refuses_writes),
		RULE("Transmission flags",
		     "The server MUST set [SEND_DF] if NBD_CMD_READ supports NBD_CMD_FLAG_DF",
		     df_is_announced_where_it_works),
		RULE("Transmission flags",
		     "and MUST leave [SEND_DF] clear if structured replies have not been "
		     "negotiated",
		     df_needs_structured_replies),
		RULE("Transmission flags",
		     "The server MUST set [SEND_FAST_ZERO] if NBD_CMD_WRITE_ZEROES supports "
		     "NBD_CMD_FLAG_FAST_ZERO",
		     fast_zero_is_announced_where_it_works),
		RULE("Transmission flags",
		     "and MUST set [SEND_FAST_ZERO] to 0 if NBD_FLAG_SEND_WRITE_ZEROES is not set",
		     fast_zero_implies_write_zeroes),
		RULE("Baseline", "The following MUST be implemented by all implementations",
		     the_baseline_serves_a_whole_session),
		RULE("Baseline",
		     "Servers that receive messages which they do not implement MUST reply with "
		     "NBD_REP_ERR_UNSUP",
		     what_is_not_implemented_is_unsupported),
		RULE("Baseline", "and MUST NOT fail to parse the next message received",
		     the_message_after_an_unknown_one_is_understood),
	};

	return spec_run("handshake", rules, ARRAY_SIZE(rules));
}
