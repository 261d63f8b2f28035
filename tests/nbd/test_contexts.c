/* Metadata contexts: listed, selected, several at once, limited by a payload. */
#include "nbd/metactx.h"
#include "tests/nbd/rig.h"

#define NAME "both" /* an export with both contexts */
#define SIZE (16ULL << 20)

static const char *const both[] = {"base:allocation", "sendense:received"};
static const char *const received[] = {"sendense:received"};

struct contexts {
	struct rig *rig;
	struct memexport mem;
	struct nbd_export *export;
};

static struct nbd_export *add(struct rig *rig, struct memexport *mem, const char *name,
			      bool read_only)
{
	struct nbd_export_config config = {.name = name, .size = mem->size, .read_only = read_only};
	struct err err = ERR_INIT;
	struct nbd_export *export;

	rig_ok(nbd_export_add(rig->server, &config, &memexport_received_ops, mem, &export, &err),
	       &err);
	return export;
}

static int contexts_setup(void **state)
{
	struct contexts *c = calloc(1, sizeof(*c));
	void *rig;

	assert_non_null(c);
	rig_setup(&rig);
	c->rig = rig;
	memexport_init(&c->mem, SIZE);
	c->export = add(c->rig, &c->mem, NAME, false);
	atomic_store(&c->mem.extent_size, 1 << 20);
	atomic_store(&c->mem.received_size, 4 << 20);
	*state = c;
	return 0;
}

static int contexts_teardown(void **state)
{
	struct contexts *c = *state;

	nbd_export_remove(c->export, false);
	memexport_deinit(&c->mem);
	rig_stop(c->rig);
	free(c);
	return 0;
}

static int greeted(struct contexts *c, uint32_t mode)
{
	int fd = peer_connect(c->rig->address);

	peer_greet(fd, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	if (mode)
		peer_option_expect(fd, mode, NULL, 0, NBD_REP_ACK);
	return fd;
}

/* --- listing and selecting -------------------------------------------------------------------- */

/* The contexts in the answer as NBD_META_BITs, UINT32_MAX for an error; ids[] may be NULL. */
static uint32_t answered(int fd, uint32_t option, const char *name, const char *const *queries,
			 unsigned count, uint32_t *ids)
{
	unsigned char data[8192];
	uint32_t found = 0;
	struct peer_rep rep;
	unsigned id;

	peer_option(fd, option, data, peer_meta_data(data, name, queries, count));
	for (;;) {
		peer_rep(fd, &rep);
		if (rep.type == NBD_REP_ACK)
			return found;
		if (rep.type != NBD_REP_META_CONTEXT)
			return UINT32_MAX;
		for (id = 1; id < NBD_META_END; id++)
			if (strlen(nbd_metactx_name(id)) == rep.len - 4 &&
			    memcmp(nbd_metactx_name(id), rep.data + 4, rep.len - 4) == 0)
				break;
		assert_true(id < NBD_META_END && !(found & NBD_META_BIT(id)));
		found |= NBD_META_BIT(id);
		if (ids)
			ids[id] = load_be32(rep.data);
	}
}

#define ALLOCATION NBD_META_BIT(NBD_META_ALLOCATION)
#define RECEIVED   NBD_META_BIT(NBD_META_RECEIVED)

static void contexts_are_listed_by_name_by_namespace_or_all(void **state)
{
	static const struct {
		const char *query[3];
		unsigned count;
		uint32_t expect;
	} rows[] = {
		{{0}, 0, ALLOCATION | RECEIVED},
		{{"base:"}, 1, ALLOCATION},
		{{"sendense:"}, 1, RECEIVED},
		{{"sendense:", "base:"}, 2, ALLOCATION | RECEIVED},
		{{"base:allocation", "base:", "base:allocation"}, 3, ALLOCATION},
		{{"qemu:", "sendense:received", "x-unknown:leaf"}, 3, RECEIVED},
		{{"qemu:dirty-bitmap:b"}, 1, 0},
		{{"sendense"}, 1, 0},
		{{"sendense:sent"}, 1, 0},
		{{""}, 1, 0},
	};
	struct contexts *c = *state;
	int fd = greeted(c, NBD_OPT_STRUCTURED_REPLY);
	uint32_t ids[NBD_META_END] = {0};
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(rows); i++)
		if (answered(fd, NBD_OPT_LIST_META_CONTEXT, NAME, rows[i].query, rows[i].count,
			     ids) != rows[i].expect)
			fail_msg("row %u has another answer", i);
	assert_int_equal(ids[NBD_META_ALLOCATION], 0);
	assert_int_equal(ids[NBD_META_RECEIVED], 0);
	peer_close(fd);
}

static void contexts_are_selected_together_and_each_has_an_id_of_its_own(void **state)
{
	static const char *const wild[] = {"sendense:", "base:"};
	static const char *const mixed[] = {"qemu:allocation-depth", "sendense:received", "base:"};
	struct contexts *c = *state;
	int fd = greeted(c, NBD_OPT_STRUCTURED_REPLY);
	uint32_t ids[NBD_META_END] = {0};

	assert_int_equal(answered(fd, NBD_OPT_SET_META_CONTEXT, NAME, both, 2, ids),
			 ALLOCATION | RECEIVED);
	assert_int_not_equal(ids[NBD_META_ALLOCATION], ids[NBD_META_RECEIVED]);
	assert_int_equal(answered(fd, NBD_OPT_SET_META_CONTEXT, NAME, wild, 2, ids), 0);
	assert_int_equal(answered(fd, NBD_OPT_SET_META_CONTEXT, NAME, mixed, 3, ids), RECEIVED);
	peer_close(fd);
}

static void an_export_without_it_or_read_only_does_not_offer_received(void **state)
{
	struct contexts *c = *state;
	struct memexport mem;
	struct nbd_export *ro;
	int fd = greeted(c, NBD_OPT_STRUCTURED_REPLY);

	memexport_init(&mem, 65536);
	ro = add(c->rig, &mem, "ro", true);
	assert_int_equal(answered(fd, NBD_OPT_LIST_META_CONTEXT, RIG_NAME, NULL, 0, NULL),
			 ALLOCATION);
	assert_int_equal(answered(fd, NBD_OPT_SET_META_CONTEXT, RIG_NAME, both, 2, NULL),
			 ALLOCATION);
	assert_int_equal(answered(fd, NBD_OPT_LIST_META_CONTEXT, "ro", received, 1, NULL), 0);
	assert_int_equal(answered(fd, NBD_OPT_SET_META_CONTEXT, "ro", both, 2, NULL), ALLOCATION);
	peer_close(fd);
	nbd_export_remove(ro, false);
	memexport_deinit(&mem);
}

static uint16_t go_flags(int fd)
{
	struct peer_export export;

	assert_true(peer_go(fd, NAME, &export, NULL));
	peer_close(fd);
	return export.flags;
}

static void limiting_block_status_is_offered_where_there_is_something_to_limit(void **state)
{
	struct contexts *c = *state;
	int fd = greeted(c, NBD_OPT_EXTENDED_HEADERS);

	assert_false(go_flags(fd) & NBD_FLAG_BLOCK_STATUS_PAYLOAD);
	fd = greeted(c, NBD_OPT_EXTENDED_HEADERS);
	answered(fd, NBD_OPT_SET_META_CONTEXT, NAME, both, 2, NULL);
	assert_true(go_flags(fd) & NBD_FLAG_BLOCK_STATUS_PAYLOAD);
	fd = greeted(c, NBD_OPT_EXTENDED_HEADERS);
	answered(fd, NBD_OPT_SET_META_CONTEXT, RIG_NAME, both, 2, NULL);
	assert_false(go_flags(fd) & NBD_FLAG_BLOCK_STATUS_PAYLOAD);
	fd = greeted(c, NBD_OPT_STRUCTURED_REPLY);
	answered(fd, NBD_OPT_SET_META_CONTEXT, NAME, both, 2, NULL);
	assert_false(go_flags(fd) & NBD_FLAG_BLOCK_STATUS_PAYLOAD);
}

/* --- BLOCK_STATUS ----------------------------------------------------------------------------- */

/* What a chunk says: its context, and whether it describes [off, off + len) as mem_describe() does:
 * pieces of @size, every other one with @flags. Returns the id. */
static uint32_t assert_described(const struct peer_chunk *c, bool ext, uint64_t off, uint64_t len,
				 uint64_t size, bool odd, uint32_t flags)
{
	unsigned head = ext ? 8 : 4, each = ext ? 16 : 8, n = (c->len - head) / each, i;

	assert_int_equal(c->type,
			 ext ? NBD_REPLY_TYPE_BLOCK_STATUS_EXT : NBD_REPLY_TYPE_BLOCK_STATUS);
	assert_int_equal(c->len, head + n * each);
	if (ext)
		assert_int_equal(load_be32(c->data + 4), n);
	for (i = 0; i < n; i++) {
		const unsigned char *d = c->data + head + i * each;
		uint64_t piece = ext ? load_be64(d) : load_be32(d);
		uint64_t status = ext ? load_be64(d + 8) : load_be32(d + 4);
		uint64_t want = MIN(size - off % size, len);

		assert_true(piece == want);
		assert_int_equal(status, (off / size) % 2 == odd ? flags : 0);
		off += piece;
		len -= piece;
	}
	assert_true(len == 0);
	return load_be32(c->data);
}

static int enter_compact(struct contexts *c, uint32_t *ids)
{
	int fd = greeted(c, NBD_OPT_STRUCTURED_REPLY);

	assert_int_equal(answered(fd, NBD_OPT_SET_META_CONTEXT, NAME, both, 2, ids),
			 ALLOCATION | RECEIVED);
	assert_true(peer_go(fd, NAME, NULL, NULL));
	return fd;
}

static void each_selected_context_is_answered_by_one_chunk(void **state)
{
	struct contexts *c = *state;
	uint32_t ids[NBD_META_END], ext_ids[2];
	int compact = enter_compact(c, ids);
	int ext = peer_enter_extended(c->rig->address, NAME, both, 2, ext_ids);
	const uint64_t off = 700000, len = 9000000;
	struct peer_chunk chunk;
	unsigned i;

	peer_request(compact, 0, NBD_CMD_BLOCK_STATUS, 1, off, len);
	peer_ext_request(ext, 0, NBD_CMD_BLOCK_STATUS, 1, off, len);
	for (i = 0; i < 2; i++) {
		peer_chunk(compact, &chunk);
		assert_int_equal(chunk.flags, i ? NBD_REPLY_FLAG_DONE : 0);
		assert_int_equal(assert_described(&chunk, false, off, len, i ? 4 << 20 : 1 << 20,
						  !i, i ? 1 : 3),
				 ids[i ? NBD_META_RECEIVED : NBD_META_ALLOCATION]);
		peer_chunk_free(&chunk);
		peer_ext_chunk(ext, &chunk, off);
		assert_int_equal(chunk.flags, i ? NBD_REPLY_FLAG_DONE : 0);
		assert_int_equal(assert_described(&chunk, true, off, len, i ? 4 << 20 : 1 << 20, !i,
						  i ? 1 : 3),
				 ext_ids[i]);
		peer_chunk_free(&chunk);
	}
	peer_close(compact);
	peer_close(ext);
}

static void one_extent_each_when_only_one_is_wanted(void **state)
{
	struct contexts *c = *state;
	uint32_t ids[NBD_META_END];
	int fd = enter_compact(c, ids);
	struct peer_chunk chunk;
	unsigned i;

	for (i = 0; i < 2; i++) { /* longer than the extents, then shorter */
		uint64_t len = i ? 1000 : SIZE;

		peer_request(fd, NBD_CMD_FLAG_REQ_ONE, NBD_CMD_BLOCK_STATUS, 1, 0, len);
		peer_chunk(fd, &chunk);
		assert_described(&chunk, false, 0, MIN(len, 1 << 20), 1 << 20, 1, 3);
		peer_chunk_free(&chunk);
		peer_chunk(fd, &chunk);
		assert_described(&chunk, false, 0, MIN(len, 4 << 20), 4 << 20, 0, 1);
		peer_chunk_free(&chunk);
	}
	peer_close(fd);
}

/* More extents than a reply holds: each context is cut, and both still fit. */
static void a_reply_holds_a_bounded_number_of_extents_of_each_context(void **state)
{
	struct contexts *c = *state;
	uint32_t ids[NBD_META_END], ext_ids[2];
	int compact = enter_compact(c, ids);
	int ext = peer_enter_extended(c->rig->address, NAME, both, 2, ext_ids);
	struct peer_chunk chunk;
	unsigned i;

	atomic_store(&c->mem.extent_size, 512);
	atomic_store(&c->mem.received_size, 1024);
	peer_request(compact, 0, NBD_CMD_BLOCK_STATUS, 1, 0, SIZE);
	peer_ext_request(ext, 0, NBD_CMD_BLOCK_STATUS, 1, 0, SIZE);
	for (i = 0; i < 2; i++) {
		uint64_t size = i ? 1024 : 512;

		peer_chunk(compact, &chunk);
		assert_described(&chunk, false, 0, NBD_EXTENTS_MAX * size, size, !i, i ? 1 : 3);
		peer_chunk_free(&chunk);
		peer_ext_chunk(ext, &chunk, 0);
		assert_described(&chunk, true, 0, NBD_EXTENTS_MAX * size, size, !i, i ? 1 : 3);
		peer_chunk_free(&chunk);
	}
	peer_close(compact);
	peer_close(ext);
}

static void a_context_that_fails_fails_the_whole_reply(void **state)
{
	struct contexts *c = *state;
	uint32_t ids[2];
	int fd = peer_enter_extended(c->rig->address, NAME, both, 2, ids);

	atomic_store(&c->mem.received_error, -EIO);
	peer_ext_request(fd, 0, NBD_CMD_BLOCK_STATUS, 1, 0, 4096);
	assert_int_equal(peer_ext_reply(fd, 1, 0), NBD_EIO);
	peer_ext_request(fd, 0, NBD_CMD_FLUSH, 2, 0, 0);
	assert_int_equal(peer_ext_reply(fd, 2, 0), 0);
	peer_close(fd);
}

/* --- limited by a payload --------------------------------------------------------------------- */

static size_t status_payload(unsigned char *p, uint64_t len, const uint32_t *ids, unsigned n)
{
	unsigned i;

	store_be64(p, len);
	for (i = 0; i < n; i++)
		store_be32(p + 8 + i * 4, ids[i]);
	return 8 + n * 4;
}

static void send_limited(int fd, uint16_t flags, uint64_t off, const void *payload, size_t len)
{
	peer_ext_request(fd, flags | NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_BLOCK_STATUS, 7, off, len);
	peer_send(fd, payload, len);
}

static void a_payload_limits_the_reply_to_the_contexts_it_names(void **state)
{
	struct contexts *c = *state;
	const uint64_t off = 700000, len = 9000000;
	unsigned char payload[64];
	struct peer_chunk chunk;
	uint32_t ids[2], swapped[2];
	int fd = peer_enter_extended(c->rig->address, NAME, both, 2, ids);
	unsigned i;

	for (i = 0; i < 2; i++) {
		send_limited(fd, 0, off, payload, status_payload(payload, len, &ids[i], 1));
		peer_ext_chunk(fd, &chunk, off);
		assert_int_equal(chunk.flags, NBD_REPLY_FLAG_DONE);
		assert_int_equal(assert_described(&chunk, true, off, len, i ? 4 << 20 : 1 << 20, !i,
						  i ? 1 : 3),
				 ids[i]);
		peer_chunk_free(&chunk);
	}
	swapped[0] = ids[1];
	swapped[1] = ids[0];
	send_limited(fd, NBD_CMD_FLAG_REQ_ONE | NBD_CMD_FLAG_FUA, 0, payload,
		     status_payload(payload, SIZE, swapped, 2));
	for (i = 0; i < 2; i++) {
		peer_ext_chunk(fd, &chunk, 0);
		assert_int_equal(chunk.len, 8 + 16);
		peer_chunk_free(&chunk);
	}
	peer_close(fd);
}

static void a_payload_byte_by_byte_is_understood(void **state)
{
	struct contexts *c = *state;
	unsigned char b[NBD_EXT_REQUEST_SIZE + 12];
	struct peer_chunk chunk;
	uint32_t ids[2];
	int fd = peer_enter_extended(c->rig->address, NAME, both, 2, ids);
	unsigned i;

	peer_put_ext_request(b, NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_BLOCK_STATUS, 7, 4096, 12);
	status_payload(b + NBD_EXT_REQUEST_SIZE, 8192, &ids[1], 1);
	for (i = 0; i < sizeof(b); i++)
		peer_send(fd, b + i, 1);
	peer_ext_chunk(fd, &chunk, 4096);
	assert_int_equal(assert_described(&chunk, true, 4096, 8192, 4 << 20, 0, 1), ids[1]);
	peer_chunk_free(&chunk);
	peer_close(fd);
}

static void a_payload_that_is_none_is_consumed_and_invalid(void **state)
{
	static const struct {
		uint64_t off, len;
		uint32_t ids[4]; /* 0, 1: the selected ones; others as they are */
		unsigned count, cut;
	} rows[] = {
		{0, 4096, {0}, 0, 0},	       /* no id */
		{0, 4096, {0}, 1, 1},	       /* not a multiple of four */
		{0, 4096, {0}, 1, 8},	       /* shorter than a length */
		{0, 4096, {0, 0}, 2, 0},       /* twice the same */
		{0, 4096, {0, 1, 0}, 3, 0},    /* more than there are */
		{0, 4096, {0, 77}, 2, 0},      /* never selected */
		{0, 4096, {0x80000001}, 1, 0}, /* nor could it be */
		{0, 0, {0}, 1, 0},	       /* of nothing */
		{0, SIZE + 1, {0}, 1, 0},      /* past the end */
		{SIZE, 1, {1}, 1, 0},
		{1, UINT64_MAX, {1}, 1, 0},
		{UINT64_MAX, UINT64_MAX, {1}, 1, 0},
	};
	struct contexts *c = *state;
	unsigned char payload[64] = {0}, junk[5000] = {0};
	uint32_t ids[2], named[4];
	int fd = peer_enter_extended(c->rig->address, NAME, both, 2, ids);
	unsigned i, k;

	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		for (k = 0; k < 4; k++)
			named[k] = rows[i].ids[k] < 2 ? ids[rows[i].ids[k]] : rows[i].ids[k];
		status_payload(payload, rows[i].len, named, rows[i].count);
		send_limited(fd, 0, rows[i].off, payload, 8 + rows[i].count * 4 - rows[i].cut);
		if (peer_ext_reply(fd, 7, rows[i].off) != NBD_EINVAL)
			fail_msg("row %u is not invalid", i);
	}
	send_limited(fd, 0, 0, junk, sizeof(junk));
	assert_int_equal(peer_ext_reply(fd, 7, 0), NBD_EINVAL);
	assert_int_equal(atomic_load(&c->mem.extents), 0);
	peer_ext_request(fd, 0, NBD_CMD_FLUSH, 2, 0, 0);
	assert_int_equal(peer_ext_reply(fd, 2, 0), 0);
	peer_close(fd);
}

static void a_context_that_was_not_selected_cannot_be_asked_for(void **state)
{
	struct contexts *c = *state;
	unsigned char payload[64];
	uint32_t ids[2], other = NBD_META_ALLOCATION;
	int fd = peer_enter_extended(c->rig->address, NAME, received, 1, ids);

	send_limited(fd, 0, 0, payload, status_payload(payload, 4096, &other, 1));
	assert_int_equal(peer_ext_reply(fd, 7, 0), NBD_EINVAL);
	peer_close(fd);
	fd = peer_enter_extended(c->rig->address, NAME, NULL, 0, NULL);
	send_limited(fd, 0, 0, payload, status_payload(payload, 4096, &other, 1));
	assert_int_equal(peer_ext_reply(fd, 7, 0), NBD_EINVAL);
	peer_ext_request(fd, 0, NBD_CMD_FLUSH, 2, 0, 0);
	assert_int_equal(peer_ext_reply(fd, 2, 0), 0);
	peer_close(fd);
}

#define MANY 200

static void ask_many(int fd, const uint32_t ids[2])
{
	unsigned char b[MANY][NBD_EXT_REQUEST_SIZE + 12];

	for (unsigned i = 0; i < MANY; i++) {
		peer_put_ext_request(b[i], NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_BLOCK_STATUS, i, 0,
				     12);
		status_payload(b[i] + NBD_EXT_REQUEST_SIZE, 4096, &ids[i % 2], 1);
	}
	peer_send(fd, b, sizeof(b));
}

static void take_many(int fd, const uint32_t ids[2])
{
	unsigned char seen[MANY] = {0};
	struct peer_chunk chunk;

	for (unsigned i = 0; i < MANY; i++) {
		peer_ext_chunk(fd, &chunk, 0);
		assert_true(chunk.cookie < MANY && !seen[chunk.cookie]++);
		assert_int_equal(load_be32(chunk.data), ids[chunk.cookie % 2]);
		peer_chunk_free(&chunk);
	}
}

/* More limited queries at once than a connection may have running: each waits for its slot with its
 * payload already read. Who has read replies before may have as many running as anybody. */
static void many_limited_queries_in_flight_are_all_answered(void **state)
{
	struct contexts *c = *state;
	uint32_t ids[2];
	int fd = peer_enter_extended(c->rig->address, NAME, both, 2, ids);
	uint64_t before;

	ask_many(fd, ids);
	take_many(fd, ids);
	before = atomic_load(&c->mem.extents);
	atomic_store(&c->mem.hold, true);
	ask_many(fd, ids);
	rig_await(atomic_load(&c->mem.extents) >= before + 12);
	usleep(20000);
	atomic_store(&c->mem.hold, false);
	take_many(fd, ids);
	peer_close(fd);
}

static void a_query_under_way_when_the_export_goes_is_told_so(void **state)
{
	struct contexts *c = *state;
	struct memexport mem;
	struct nbd_export *gone;
	uint32_t ids[2], error;
	int fd;

	memexport_init(&mem, 65536);
	gone = add(c->rig, &mem, "gone", false);
	fd = peer_enter_extended(c->rig->address, "gone", both, 2, ids);
	atomic_store(&mem.extent_size, 4096);
	atomic_store(&mem.hold, true);
	peer_ext_request(fd, 0, NBD_CMD_BLOCK_STATUS, 1, 0, 65536);
	rig_await(atomic_load(&mem.extents) == 1);
	atomic_store(&mem.hold, false);
	nbd_export_remove(gone, true);
	/* Either it was through before, or it ends there. */
	{
		struct peer_chunk chunk;

		peer_ext_chunk(fd, &chunk, 0);
		error = chunk.error;
		if (!error) {
			peer_chunk_free(&chunk);
			peer_ext_chunk(fd, &chunk, 0);
		}
		assert_int_equal(chunk.flags, NBD_REPLY_FLAG_DONE);
		peer_chunk_free(&chunk);
	}
	assert_true(!error || error == NBD_ESHUTDOWN);
	assert_true(peer_at_end(fd));
	peer_close(fd);
	memexport_deinit(&mem);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, contexts_setup, contexts_teardown)
	const struct CMUnitTest tests[] = {
		T(contexts_are_listed_by_name_by_namespace_or_all),
		T(contexts_are_selected_together_and_each_has_an_id_of_its_own),
		T(an_export_without_it_or_read_only_does_not_offer_received),
		T(limiting_block_status_is_offered_where_there_is_something_to_limit),
		T(each_selected_context_is_answered_by_one_chunk),
		T(one_extent_each_when_only_one_is_wanted),
		T(a_reply_holds_a_bounded_number_of_extents_of_each_context),
		T(a_context_that_fails_fails_the_whole_reply),
		T(a_payload_limits_the_reply_to_the_contexts_it_names),
		T(a_payload_byte_by_byte_is_understood),
		T(a_payload_that_is_none_is_consumed_and_invalid),
		T(a_context_that_was_not_selected_cannot_be_asked_for),
		T(many_limited_queries_in_flight_are_all_answered),
		T(a_query_under_way_when_the_export_goes_is_told_so),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
