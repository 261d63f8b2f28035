/* The negotiation, by a client that says exactly what it is told to say. */
#include <pthread.h>

#include "tests/nbd/rig.h"

static int greeted(struct rig *rig)
{
	int fd = peer_connect(rig->address);

	peer_greet(fd, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	return fd;
}

/* The connection still negotiates, and GO works. */
static void assert_can_go(int fd)
{
	struct peer_export export;

	assert_true(peer_go(fd, RIG_NAME, &export, NULL));
	assert_true(export.size == RIG_SIZE);
	peer_request(fd, 0, NBD_CMD_FLUSH, 1, 0, 0);
	assert_int_equal(peer_simple_to(fd, 1), 0);
	peer_close(fd);
}

/* --- greeting --------------------------------------------------------------------------------- */

static void the_greeting_offers_fixed_newstyle_without_zeroes(void **state)
{
	struct rig *rig = *state;
	int fd = peer_connect(rig->address);

	assert_int_equal(peer_greet(fd, NBD_FLAG_FIXED_NEWSTYLE),
			 NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	assert_can_go(fd);
}

static void unknown_client_flags_end_the_session(void **state)
{
	struct rig *rig = *state;
	int fd = peer_connect(rig->address);

	peer_greet(fd, 4 | NBD_FLAG_FIXED_NEWSTYLE);
	assert_true(peer_at_end(fd));
	peer_close(fd);
}

static void a_wrong_option_magic_ends_the_session(void **state)
{
	struct rig *rig = *state;
	int fd = greeted(rig);

	peer_send(fd, "GET / HTTP/1.1\r\n\r\n", 18);
	peer_drain_to_end(fd);
	peer_close(fd);
}

static void a_handshake_that_takes_too_long_is_ended(void **state)
{
	struct rig *rig = rig_start((struct nbd_server_config){
		.workers = 1, .batch_count = 2, .handshake_timeout_ms = 150});
	static const unsigned char half[] = "\0\0\0\3IHAVEOPT\0";
	int silent = peer_connect(rig->address), halfway = peer_connect(rig->address), entered;
	unsigned char greeting[NBD_GREETING_SIZE];

	(void)state;
	/* Not said, if the machine rested for longer than the limit; then it is silent. */
	send(halfway, half, sizeof(half) - 1, MSG_NOSIGNAL);
	rig_await((entered = peer_try_enter(rig->address, RIG_NAME)) >= 0);
	peer_drain_to_end(silent);
	peer_recv(halfway, greeting, sizeof(greeting));
	assert_true(peer_at_end(halfway));
	usleep(300000); /* twice the limit, which is not for those who are in */
	peer_request(entered, 0, NBD_CMD_FLUSH, 9, 0, 0);
	assert_int_equal(peer_simple_to(entered, 9), 0);
	peer_close(silent);
	peer_close(halfway);
	peer_close(entered);
	rig_stop(rig);
}

/* --- EXPORT_NAME ------------------------------------------------------------------------------ */

static void enter_by_export_name(struct rig *rig, uint32_t client_flags, size_t zeroes)
{
	unsigned char b[NBD_EXPORT_NAME_REPLY_SIZE + NBD_EXPORT_NAME_ZEROES];
	int fd = peer_connect(rig->address);
	size_t i;

	peer_greet(fd, client_flags);
	peer_option(fd, NBD_OPT_EXPORT_NAME, RIG_NAME, strlen(RIG_NAME));
	peer_recv(fd, b, NBD_EXPORT_NAME_REPLY_SIZE + zeroes);
	assert_true(load_be64(b) == RIG_SIZE);
	assert_int_equal(load_be16(b + 8) & NBD_FLAG_HAS_FLAGS, NBD_FLAG_HAS_FLAGS);
	for (i = 0; i < zeroes; i++)
		assert_int_equal(b[NBD_EXPORT_NAME_REPLY_SIZE + i], 0);
	peer_request(fd, 0, NBD_CMD_FLUSH, 5, 0, 0);
	assert_int_equal(peer_simple_to(fd, 5), 0);
	peer_close(fd);
}

static void export_name_enters_with_and_without_zeroes(void **state)
{
	enter_by_export_name(*state, NBD_FLAG_FIXED_NEWSTYLE, NBD_EXPORT_NAME_ZEROES);
	enter_by_export_name(*state, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES, 0);
	enter_by_export_name(*state, 0, NBD_EXPORT_NAME_ZEROES);
}

static void export_name_of_an_unknown_export_ends_the_session(void **state)
{
	struct rig *rig = *state;
	int fd = greeted(rig);

	peer_option(fd, NBD_OPT_EXPORT_NAME, "nothing", 7);
	assert_true(peer_at_end(fd));
	peer_close(fd);
}

/* --- LIST, ABORT, what is not there ------------------------------------------------------------
 */

static void list_names_every_export_once(void **state)
{
	struct rig *rig = *state;
	struct memexport mem[2];
	struct nbd_export *more[2];
	struct peer_rep rep;
	unsigned seen = 0;
	int fd = greeted(rig);

	memexport_init(&mem[0], 4096);
	memexport_init(&mem[1], 4096);
	more[0] = rig_add(rig, &mem[0], "");
	more[1] = rig_add(rig, &mem[1], "zz");
	peer_option(fd, NBD_OPT_LIST, NULL, 0);
	for (;;) {
		uint32_t n;

		peer_rep(fd, &rep);
		if (rep.type == NBD_REP_ACK)
			break;
		assert_int_equal(rep.type, NBD_REP_SERVER);
		n = load_be32(rep.data);
		assert_true(n + 4 == rep.len);
		seen |= n == 0 ? 1 : n == 2 ? 2 : 4;
	}
	assert_int_equal(seen, 7);
	assert_can_go(fd);
	nbd_export_remove(more[0], false);
	nbd_export_remove(more[1], false);
	fd = greeted(rig);
	peer_option(fd, NBD_OPT_LIST, NULL, 0);
	peer_rep(fd, &rep);
	assert_int_equal(rep.type, NBD_REP_SERVER);
	peer_rep(fd, &rep);
	assert_int_equal(rep.type, NBD_REP_ACK);
	peer_close(fd);
	memexport_deinit(&mem[0]);
	memexport_deinit(&mem[1]);
}

static void list_with_data_is_invalid(void **state)
{
	struct rig *rig = *state;
	int fd = greeted(rig);

	peer_option_expect(fd, NBD_OPT_LIST, "x", 1, NBD_REP_ERR_INVALID);
	peer_option_expect(fd, NBD_OPT_STRUCTURED_REPLY, "x", 1, NBD_REP_ERR_INVALID);
	assert_can_go(fd);
}

static void abort_is_acknowledged_and_ends_the_session(void **state)
{
	struct rig *rig = *state;
	int fd = greeted(rig);

	peer_option_expect(fd, NBD_OPT_ABORT, "bye", 3, NBD_REP_ACK);
	assert_true(peer_at_end(fd));
	peer_close(fd);
}

static void what_is_not_supported_is_refused_politely(void **state)
{
	static const uint32_t codes[] = {NBD_OPT_STARTTLS, 4, 0, 12, 0xffffffffU};
	struct rig *rig = *state;
	int fd = greeted(rig);
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(codes); i++) {
		peer_option_expect(fd, codes[i], NULL, 0, NBD_REP_ERR_UNSUP);
		peer_option_expect(fd, codes[i], "some data", 9, NBD_REP_ERR_UNSUP);
	}
	assert_can_go(fd);
}

static void a_long_option_is_drained_and_refused(void **state)
{
	static const unsigned char junk[200000];
	struct rig *rig = *state;
	int fd = greeted(rig);

	peer_option_expect(fd, NBD_OPT_INFO, junk, sizeof(junk), NBD_REP_ERR_TOO_BIG);
	peer_option_expect(fd, 77, junk, sizeof(junk), NBD_REP_ERR_UNSUP);
	assert_can_go(fd);
}

static void an_absurdly_long_option_ends_the_session(void **state)
{
	struct rig *rig = *state;
	int fd = greeted(rig);
	unsigned char b[NBD_OPTION_SIZE];

	store_be64(b, NBD_OPTION_MAGIC);
	store_be32(b + 8, NBD_OPT_INFO);
	store_be32(b + 12, 0xffffffffU);
	peer_send(fd, b, sizeof(b));
	assert_true(peer_at_end(fd));
	peer_close(fd);
}

/* --- INFO and GO ------------------------------------------------------------------------------ */

static void info_answers_what_was_asked(void **state)
{
	static const uint16_t infos[] = {NBD_INFO_BLOCK_SIZE, NBD_INFO_NAME, 4711,
					 NBD_INFO_DESCRIPTION};
	struct rig *rig = *state;
	unsigned char data[256];
	struct peer_rep rep;
	unsigned seen = 0;
	int fd = greeted(rig);

	peer_option(fd, NBD_OPT_INFO, data, peer_info_data(data, RIG_NAME, infos, 4));
	for (;;) {
		peer_rep(fd, &rep);
		if (rep.type == NBD_REP_ACK)
			break;
		assert_int_equal(rep.type, NBD_REP_INFO);
		seen |= 1U << load_be16(rep.data);
		if (load_be16(rep.data) == NBD_INFO_NAME)
			assert_memory_equal(rep.data + 2, RIG_NAME, rep.len - 2);
		if (load_be16(rep.data) != NBD_INFO_BLOCK_SIZE)
			continue;
		assert_int_equal(rep.len, 14);
		assert_int_equal(load_be32(rep.data + 2), 1);
		assert_int_equal(load_be32(rep.data + 6), 65536);
		assert_int_equal(load_be32(rep.data + 10), NBD_MAX_PAYLOAD);
	}
	assert_int_equal(seen,
			 1U << NBD_INFO_EXPORT | 1U << NBD_INFO_NAME | 1U << NBD_INFO_BLOCK_SIZE);
	assert_can_go(fd);
}

static void the_flags_say_what_the_server_can_do(void **state)
{
	const uint16_t always = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA |
				NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES |
				NBD_FLAG_CAN_MULTI_CONN | NBD_FLAG_SEND_CACHE |
				NBD_FLAG_SEND_FAST_ZERO;
	struct rig *rig = *state;
	struct peer_export export;
	int fd = greeted(rig);

	assert_true(peer_go(fd, RIG_NAME, &export, NULL));
	assert_int_equal(export.flags, always);
	peer_close(fd);
	fd = greeted(rig);
	peer_option_expect(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
	assert_true(peer_go(fd, RIG_NAME, &export, NULL));
	assert_int_equal(export.flags, always | NBD_FLAG_SEND_DF);
	peer_close(fd);
}

static void an_unknown_export_is_refused_and_negotiation_goes_on(void **state)
{
	struct rig *rig = *state;
	unsigned char data[8192];
	uint32_t error = 0;
	int fd = greeted(rig);

	assert_false(peer_go(fd, "nothing", NULL, &error));
	assert_int_equal(error, NBD_REP_ERR_UNKNOWN);
	assert_false(peer_go(fd, "", NULL, &error));
	assert_int_equal(error, NBD_REP_ERR_UNKNOWN);
	memset(data, 'x', sizeof(data));
	store_be32(data, 5000); /* longer than any string may be */
	store_be16(data + 5004, 0);
	peer_option_expect(fd, NBD_OPT_INFO, data, 5006, NBD_REP_ERR_INVALID);
	assert_can_go(fd);
}

static void info_whose_lengths_do_not_add_up_is_invalid(void **state)
{
	static const uint16_t infos[] = {NBD_INFO_NAME};
	struct rig *rig = *state;
	unsigned char data[256];
	size_t n = peer_info_data(data, RIG_NAME, infos, 1), i;
	int fd = greeted(rig);

	for (i = 0; i < n; i++)
		peer_option_expect(fd, i % 2 ? NBD_OPT_INFO : NBD_OPT_GO, data, i,
				   NBD_REP_ERR_INVALID);
	peer_option_expect(fd, NBD_OPT_GO, data, n + 1, NBD_REP_ERR_INVALID);
	store_be32(data, 0xffffffffU);
	peer_option_expect(fd, NBD_OPT_GO, data, n, NBD_REP_ERR_INVALID);
	peer_info_data(data, RIG_NAME, infos, 1);
	store_be16(data + 4 + strlen(RIG_NAME), 0xffff);
	peer_option_expect(fd, NBD_OPT_GO, data, n, NBD_REP_ERR_INVALID);
	assert_can_go(fd);
}

static void an_alias_opens_the_same_export(void **state)
{
	struct rig *rig = *state;
	struct memexport mem;
	struct nbd_export_config config = {.name = "long-name", .alias = "short", .size = 8192};
	struct nbd_export *export, *other;
	struct err err = ERR_INIT;
	struct peer_export info;
	int fd = greeted(rig);

	memexport_init(&mem, 8192);
	rig_ok(nbd_export_add(rig->server, &config, &memexport_ops, &mem, &export, &err), &err);
	assert_true(peer_go(fd, "short", &info, NULL));
	assert_true(info.size == 8192);
	peer_close(fd);
	config.name = "short";
	config.alias = NULL;
	assert_int_equal(nbd_export_add(rig->server, &config, &memexport_ops, &mem, &other, &err),
			 -EEXIST);
	config.name = "third";
	config.alias = "long-name";
	assert_int_equal(nbd_export_add(rig->server, &config, &memexport_ops, &mem, &other, &err),
			 -EEXIST);
	nbd_export_remove(export, false);
	memexport_deinit(&mem);
}

/* --- metadata contexts ------------------------------------------------------------------------ */

/* Number of contexts in the answer, the last one's id in *@id; -1: an error. */
static int contexts(int fd, uint32_t option, const char *name, const char *const *queries,
		    unsigned count, uint32_t *id)
{
	unsigned char data[8192];
	struct peer_rep rep;
	int n = 0;

	peer_option(fd, option, data, peer_meta_data(data, name, queries, count));
	for (;;) {
		peer_rep(fd, &rep);
		if (rep.type == NBD_REP_ACK)
			return n;
		if (rep.type != NBD_REP_META_CONTEXT)
			return -1;
		*id = load_be32(rep.data);
		assert_memory_equal(rep.data + 4, "base:allocation", rep.len - 4);
		n++;
	}
}

static void contexts_are_listed_by_name_wildcard_or_all(void **state)
{
	static const char *const exact[] = {"x-other:foo", "base:allocation"};
	static const char *const wild[] = {"base:"};
	static const char *const other[] = {"qemu:dirty-bitmap:b"};
	struct rig *rig = *state;
	uint32_t id = 99;
	int fd = greeted(rig);

	peer_option_expect(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
	assert_int_equal(contexts(fd, NBD_OPT_LIST_META_CONTEXT, RIG_NAME, NULL, 0, &id), 1);
	assert_int_equal(id, 0);
	assert_int_equal(contexts(fd, NBD_OPT_LIST_META_CONTEXT, RIG_NAME, exact, 2, &id), 1);
	assert_int_equal(contexts(fd, NBD_OPT_LIST_META_CONTEXT, RIG_NAME, wild, 1, &id), 1);
	assert_int_equal(contexts(fd, NBD_OPT_LIST_META_CONTEXT, RIG_NAME, other, 1, &id), 0);
	assert_int_equal(contexts(fd, NBD_OPT_LIST_META_CONTEXT, "nothing", NULL, 0, &id), -1);
	assert_can_go(fd);
}

static void a_context_is_selected_by_its_full_name_alone(void **state)
{
	static const char *const exact[] = {"base:allocation"};
	static const char *const wild[] = {"base:"};
	struct rig *rig = *state;
	uint32_t id = 0;
	int fd = greeted(rig);

	assert_int_equal(contexts(fd, NBD_OPT_SET_META_CONTEXT, RIG_NAME, exact, 1, &id), -1);
	peer_option_expect(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
	assert_int_equal(contexts(fd, NBD_OPT_SET_META_CONTEXT, RIG_NAME, wild, 1, &id), 0);
	assert_int_equal(contexts(fd, NBD_OPT_SET_META_CONTEXT, RIG_NAME, NULL, 0, &id), 0);
	assert_int_equal(contexts(fd, NBD_OPT_SET_META_CONTEXT, RIG_NAME, exact, 1, &id), 1);
	assert_int_not_equal(id, 0);
	peer_close(fd);
}

/* BLOCK_STATUS after SET_META_CONTEXT, what then followed, and GO. */
static uint32_t status_error(int fd)
{
	struct peer_chunk c;
	uint32_t error;

	assert_true(peer_go(fd, RIG_NAME, NULL, NULL));
	peer_request(fd, 0, NBD_CMD_BLOCK_STATUS, 3, 0, 65536);
	peer_chunk(fd, &c);
	error = c.error;
	peer_chunk_free(&c);
	peer_close(fd);
	return error;
}

static void a_selection_counts_for_its_export_and_until_replaced(void **state)
{
	static const char *const exact[] = {"base:allocation"};
	struct rig *rig = *state;
	struct memexport mem;
	struct nbd_export *other;
	uint32_t id;
	int fd = greeted(rig);

	memexport_init(&mem, 65536);
	other = rig_add(rig, &mem, "other");
	peer_option_expect(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
	assert_int_equal(contexts(fd, NBD_OPT_SET_META_CONTEXT, RIG_NAME, exact, 1, &id), 1);
	assert_int_equal(status_error(fd), 0);

	fd = greeted(rig);
	peer_option_expect(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
	assert_int_equal(contexts(fd, NBD_OPT_SET_META_CONTEXT, "other", exact, 1, &id), 1);
	assert_int_equal(status_error(fd), NBD_EINVAL);

	fd = greeted(rig);
	peer_option_expect(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
	assert_int_equal(contexts(fd, NBD_OPT_SET_META_CONTEXT, RIG_NAME, exact, 1, &id), 1);
	peer_option_expect(fd, NBD_OPT_SET_META_CONTEXT, "junk", 4, NBD_REP_ERR_INVALID);
	assert_int_equal(status_error(fd), NBD_EINVAL);
	nbd_export_remove(other, false);
	memexport_deinit(&mem);
}

static void junk_behind_the_last_query_is_invalid(void **state)
{
	static const char *const exact[] = {"base:allocation"};
	struct rig *rig = *state;
	unsigned char data[256];
	size_t n = peer_meta_data(data, RIG_NAME, exact, 1);
	int fd = greeted(rig);

	peer_option_expect(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
	memset(data + n, 'j', 7);
	peer_option_expect(fd, NBD_OPT_SET_META_CONTEXT, data, n + 7, NBD_REP_ERR_INVALID);
	peer_option_expect(fd, NBD_OPT_LIST_META_CONTEXT, data, n + 7, NBD_REP_ERR_INVALID);
	peer_option_expect(fd, NBD_OPT_LIST_META_CONTEXT, data, n - 1, NBD_REP_ERR_INVALID);
	assert_can_go(fd);
}

/* --- arrival ---------------------------------------------------------------------------------- */

/* Greeting's answer, STRUCTURED_REPLY, GO, a WRITE with payload and a FLUSH, all in one stream. */
static size_t whole_session(unsigned char *p)
{
	unsigned char *start = p;
	size_t n;

	store_be32(p, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	p += 4;
	store_be64(p, NBD_OPTION_MAGIC);
	store_be32(p + 8, NBD_OPT_STRUCTURED_REPLY);
	store_be32(p + 12, 0);
	p += NBD_OPTION_SIZE;
	store_be64(p, NBD_OPTION_MAGIC);
	store_be32(p + 8, NBD_OPT_GO);
	n = peer_info_data(p + NBD_OPTION_SIZE, RIG_NAME, NULL, 0);
	store_be32(p + 12, n);
	p += NBD_OPTION_SIZE + n;
	peer_put_request(p, 0, NBD_CMD_WRITE, 100, 4096, 1000);
	rig_pattern(p + NBD_REQUEST_SIZE, 1000, 7);
	p += NBD_REQUEST_SIZE + 1000;
	peer_put_request(p, 0, NBD_CMD_FLUSH, 101, 0, 0);
	return p + NBD_REQUEST_SIZE - start;
}

static void assert_whole_session_answered(struct rig *rig, int fd)
{
	unsigned char greeting[NBD_GREETING_SIZE], expect[1000];
	struct peer_rep rep;

	peer_recv(fd, greeting, sizeof(greeting));
	peer_rep(fd, &rep);
	assert_int_equal(rep.type, NBD_REP_ACK);
	peer_rep(fd, &rep);
	assert_int_equal(rep.type, NBD_REP_INFO);
	peer_rep(fd, &rep);
	assert_int_equal(rep.type, NBD_REP_ACK);
	assert_int_equal(peer_simple_to(fd, 100), 0);
	assert_int_equal(peer_simple_to(fd, 101), 0);
	peer_close(fd);
	rig_pattern(expect, sizeof(expect), 7);
	assert_int_equal(nbd_export_flush(rig->export), 0);
	assert_memory_equal(rig->mem.data + 4096, expect, sizeof(expect));
}

/* Connections land on either worker; every other one moves to the export's, with what follows. */
static void a_whole_session_in_one_write_survives_the_hand_off(void **state)
{
	unsigned char session[4096];
	size_t n = whole_session(session);
	struct rig *rig = *state;
	int i;

	for (i = 0; i < 40; i++) {
		int fd = peer_connect(rig->address);

		peer_send(fd, session, n);
		assert_whole_session_answered(rig, fd);
	}
}

static void a_whole_session_byte_by_byte_is_understood(void **state)
{
	unsigned char session[4096];
	size_t n = whole_session(session), i;
	struct rig *rig = *state;
	int fd = peer_connect(rig->address);

	for (i = 0; i < n; i++)
		peer_send(fd, session + i, 1);
	assert_whole_session_answered(rig, fd);
}

static void a_handshake_broken_off_anywhere_leaves_nothing_behind(void **state)
{
	unsigned char session[4096];
	size_t n = whole_session(session), i;
	struct rig *rig = *state;

	for (i = 0; i < n; i += 7) {
		int fd = peer_connect(rig->address);

		peer_send(fd, session, i);
		peer_close(fd);
	}
	rig_await(rig_stats(rig).connections == 0);
	assert_can_go(greeted(rig));
}

/* --- limits ----------------------------------------------------------------------------------- */

static void an_export_with_enough_connections_refuses_in_words(void **state)
{
	struct rig *rig = rig_start((struct nbd_server_config){
		.workers = 1, .batch_count = 2, .max_connections_per_export = 2});
	int a = peer_enter(rig->address, RIG_NAME), b = peer_enter(rig->address, RIG_NAME);
	int c = greeted(rig);
	uint32_t error;

	(void)state;
	assert_false(peer_go(c, RIG_NAME, NULL, &error));
	assert_int_equal(error, NBD_REP_ERR_POLICY);
	peer_close(a);
	rig_await(rig_stats(rig).connections == 1);
	assert_can_go(c);
	peer_close(b);
	rig_stop(rig);
}

static void too_many_connections_are_closed_at_once(void **state)
{
	struct rig *rig = rig_start(
		(struct nbd_server_config){.workers = 1, .batch_count = 2, .max_connections = 2});
	int a = greeted(rig), b = greeted(rig), c = peer_connect(rig->address);

	(void)state;
	assert_true(peer_at_end(c));
	peer_close(c);
	peer_close(a);
	assert_can_go(b);
	rig_stop(rig);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
	const struct CMUnitTest tests[] = {
		T(the_greeting_offers_fixed_newstyle_without_zeroes),
		T(unknown_client_flags_end_the_session),
		T(a_wrong_option_magic_ends_the_session),
		cmocka_unit_test(a_handshake_that_takes_too_long_is_ended),
		T(export_name_enters_with_and_without_zeroes),
		T(export_name_of_an_unknown_export_ends_the_session),
		T(list_names_every_export_once),
		T(list_with_data_is_invalid),
		T(abort_is_acknowledged_and_ends_the_session),
		T(what_is_not_supported_is_refused_politely),
		T(a_long_option_is_drained_and_refused),
		T(an_absurdly_long_option_ends_the_session),
		T(info_answers_what_was_asked),
		T(the_flags_say_what_the_server_can_do),
		T(an_unknown_export_is_refused_and_negotiation_goes_on),
		T(info_whose_lengths_do_not_add_up_is_invalid),
		T(an_alias_opens_the_same_export),
		T(contexts_are_listed_by_name_wildcard_or_all),
		T(a_context_is_selected_by_its_full_name_alone),
		T(a_selection_counts_for_its_export_and_until_replaced),
		T(junk_behind_the_last_query_is_invalid),
		T(a_whole_session_in_one_write_survives_the_hand_off),
		T(a_whole_session_byte_by_byte_is_understood),
		T(a_handshake_broken_off_anywhere_leaves_nothing_behind),
		cmocka_unit_test(an_export_with_enough_connections_refuses_in_words),
		cmocka_unit_test(too_many_connections_are_closed_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
