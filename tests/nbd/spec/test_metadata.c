/* Metadata contexts: "Metadata querying", "The base: metadata namespace", LIST_META_CONTEXT,
 * SET_META_CONTEXT, BLOCK_STATUS. */
#include "tests/support/nbdspec.h"

#define ALLOCATION "base:allocation"
#define PIECE	   65536U /* data, hole, data ... */

static const char *const allocation[] = {ALLOCATION};

/* --- which contexts there are ----------------------------------------------------------------- */

/* How many contexts @reps has; -1: the last reply is an error. */
static int contexts(const struct spec_reps *reps)
{
	unsigned i;

	for (i = 0; i + 1 < reps->count; i++)
		assert_int_equal(reps->rep[i].type, NBD_REP_META_CONTEXT);
	return reps->rep[i].type == NBD_REP_ACK ? (int)i : -1;
}

static bool rep_names(const struct peer_rep *rep, const char *name)
{
	return rep->len - 4 == strlen(name) && memcmp(rep->data + 4, name, rep->len - 4) == 0;
}

static bool has_context(const struct spec_reps *reps, const char *name)
{
	unsigned i;

	for (i = 0; i + 1 < reps->count; i++)
		if (rep_names(&reps->rep[i], name))
			return true;
	return false;
}

/* Calls @check with every name the server knows. */
static void each_context(void (*check)(const char *name))
{
	struct spec_reps reps;
	int fd = spec_structured(), n, i;

	spec_meta(fd, NBD_OPT_LIST_META_CONTEXT, SPEC_TWO, NULL, 0, &reps);
	n = contexts(&reps);
	assert_int_equal(n, 2);
	for (i = 0; i < n; i++) {
		char name[4097];
		uint32_t len = reps.rep[i].len - 4;

		assert_true(len < sizeof(name));
		memcpy(name, reps.rep[i].data + 4, len);
		name[len] = '\0';
		assert_int_equal(strlen(name), len);
		check(name);
	}
	spec_can_go(fd);
}

static void check_namespace(const char *name)
{
	const char *colon = strchr(name, ':');

	assert_non_null(colon);
	assert_true(colon > name && colon[1]);
}

static void names_have_a_namespace_and_a_leaf(void **state)
{
	(void)state;
	each_context(check_namespace);
}

static void check_printable(const char *name)
{
	assert_true(strlen(name) <= 4096);
	for (; *name; name++)
		assert_true(*name > ' ' && *name < 0x7f);
}

static void names_are_strings(void **state)
{
	(void)state;
	each_context(check_printable);
}

/* --- LIST_META_CONTEXT ------------------------------------------------------------------------ */

static int list(const char *const *queries, unsigned count, struct spec_reps *reps)
{
	int fd = spec_structured();

	spec_meta(fd, NBD_OPT_LIST_META_CONTEXT, RIG_NAME, queries, count, reps);
	spec_can_go(fd);
	return contexts(reps);
}

/* Every way in which the lengths of a *_META_CONTEXT may be wrong. */
static void lengths_must_add_up(uint32_t code)
{
	unsigned char data[256];
	size_t n = peer_meta_data(data, RIG_NAME, allocation, 1), i;
	struct spec_reps reps;
	int fd = spec_structured();

	for (i = 0; i < n; i++)
		assert_int_equal(spec_option(fd, code, data, i, &reps), NBD_REP_ERR_INVALID);
	data[n] = 0;
	assert_int_equal(spec_option(fd, code, data, n + 1, &reps), NBD_REP_ERR_INVALID);
	store_be32(data, 0xffffffffU); /* the name */
	assert_int_equal(spec_option(fd, code, data, n, &reps), NBD_REP_ERR_INVALID);
	peer_meta_data(data, RIG_NAME, allocation, 1);
	store_be32(data + 4 + strlen(RIG_NAME), 2); /* the number of queries */
	assert_int_equal(spec_option(fd, code, data, n, &reps), NBD_REP_ERR_INVALID);
	peer_meta_data(data, RIG_NAME, allocation, 1);
	store_be32(data + 8 + strlen(RIG_NAME), strlen(ALLOCATION) + 1); /* the query */
	assert_int_equal(spec_option(fd, code, data, n, &reps), NBD_REP_ERR_INVALID);
	store_be32(data + 8 + strlen(RIG_NAME), 0xfffffffcU);
	assert_int_equal(spec_option(fd, code, data, n, &reps), NBD_REP_ERR_INVALID);
	spec_can_go(fd);
}

static void malformed_lists_are_invalid(void **state)
{
	(void)state;
	lengths_must_add_up(NBD_OPT_LIST_META_CONTEXT);
}

static void unknown_namespaces_are_ignored(void **state)
{
	static const char *const queries[] = {"x-nobody:thing", ALLOCATION, "qemu:dirty-bitmap:b"};
	struct spec_reps reps;

	(void)state;
	assert_int_equal(list(queries, 3, &reps), 1);
	assert_true(has_context(&reps, ALLOCATION));
}

static void no_match_is_a_single_ack(void **state)
{
	static const char *const queries[] = {"x-nobody:thing", "x-nobody:", "base:unheard-of"};
	struct spec_reps reps;

	(void)state;
	assert_int_equal(list(queries, 3, &reps), 0);
	assert_int_equal(reps.count, 1);
}

static void contexts_are_followed_by_an_ack(void **state)
{
	struct spec_reps reps;

	(void)state;
	assert_true(list(allocation, 1, &reps) == 1);
	assert_int_equal(reps.rep[1].len, 0);
}

static void no_query_lists_all(void **state)
{
	struct spec_reps reps;

	(void)state;
	assert_true(list(NULL, 0, &reps) >= 1);
	assert_true(has_context(&reps, ALLOCATION));
}

static void queries_list_what_they_match(void **state)
{
	struct spec_reps all, one;
	unsigned i;

	(void)state;
	list(NULL, 0, &all);
	for (i = 0; i + 1 < all.count; i++) {
		char name[256] = {0};
		const char *query = name;

		memcpy(name, all.rep[i].data + 4, all.rep[i].len - 4);
		assert_int_equal(list(&query, 1, &one), 1);
		assert_true(has_context(&one, name));
	}
}

static void listed_ids_are_zero(void **state)
{
	struct spec_reps reps;
	unsigned i;

	(void)state;
	list(NULL, 0, &reps);
	for (i = 0; i + 1 < reps.count; i++)
		assert_int_equal(load_be32(reps.rep[i].data), 0);
}

static void base_is_a_wildcard_for_lists(void **state)
{
	static const char *const wildcard[] = {"base:"};
	struct spec_reps reps;

	(void)state;
	assert_int_equal(list(wildcard, 1, &reps), 1);
	assert_true(has_context(&reps, ALLOCATION));
}

/* --- SET_META_CONTEXT ------------------------------------------------------------------------- */

static void set_without_structured_replies_is_invalid(void **state)
{
	struct spec_reps reps;
	int fd = spec_greeted();

	(void)state;
	assert_int_equal(spec_meta(fd, NBD_OPT_SET_META_CONTEXT, RIG_NAME, allocation, 1, &reps),
			 NBD_REP_ERR_INVALID);
	spec_can_go(fd);
}

static void malformed_sets_are_invalid(void **state)
{
	(void)state;
	lengths_must_add_up(NBD_OPT_SET_META_CONTEXT);
}

/* Sets @queries, enters, asks for the status; its error. @reps: what was selected. */
static uint32_t set_then_ask(const char *const *queries, unsigned count, struct spec_reps *reps)
{
	int fd = spec_structured();
	uint32_t error;

	spec_meta(fd, NBD_OPT_SET_META_CONTEXT, RIG_NAME, queries, count, reps);
	assert_true(peer_go(fd, RIG_NAME, NULL, NULL));
	error = spec_do(fd, 0, NBD_CMD_BLOCK_STATUS, 0, PIECE);
	peer_close(fd);
	return error;
}

static void base_selects_nothing(void **state)
{
	static const char *const wildcard[] = {"base:"};
	struct spec_reps reps;

	(void)state;
	assert_int_equal(set_then_ask(wildcard, 1, &reps), NBD_EINVAL);
	assert_int_equal(contexts(&reps), 0);
}

static void unknown_leaves_are_ignored(void **state)
{
	static const char *const queries[] = {"base:unheard-of", ALLOCATION, "base:allocation2",
					      "base:alloc"};
	struct spec_reps reps;

	(void)state;
	assert_int_equal(set_then_ask(queries, 4, &reps), 0);
	assert_int_equal(contexts(&reps), 1);
	assert_int_equal(list(queries, 4, &reps), 1);
}

static void no_query_selects_nothing(void **state)
{
	struct spec_reps reps;

	(void)state;
	assert_int_equal(set_then_ask(NULL, 0, &reps), NBD_EINVAL);
	assert_int_equal(contexts(&reps), 0);
}

static void each_selected_context_is_told_once(void **state)
{
	static const char *const twice[] = {ALLOCATION, ALLOCATION};
	struct spec_reps reps;

	(void)state;
	assert_int_equal(set_then_ask(twice, 2, &reps), 0);
	assert_int_equal(contexts(&reps), 1);
	assert_true(rep_names(&reps.rep[0], ALLOCATION));
	assert_int_equal(reps.rep[1].type, NBD_REP_ACK);
	assert_int_equal(reps.rep[1].len, 0);
}

static void each_selected_context_has_an_id_of_its_own(void **state)
{
	uint32_t ids[2];
	int fd = spec_two(SPEC_CHUNKS, ids);

	(void)state;
	assert_int_not_equal(ids[0], ids[1]);
	peer_close(fd);
}

/* After ALLOCATION was selected, the option with @data; then the error of BLOCK_STATUS. */
static uint32_t replaced_by(const void *data, size_t len)
{
	struct spec_reps reps;
	int fd = spec_structured();
	uint32_t error;

	spec_meta(fd, NBD_OPT_SET_META_CONTEXT, RIG_NAME, allocation, 1, &reps);
	assert_int_equal(contexts(&reps), 1);
	spec_option(fd, NBD_OPT_SET_META_CONTEXT, data, len, &reps);
	assert_true(peer_go(fd, RIG_NAME, NULL, NULL));
	error = spec_do(fd, 0, NBD_CMD_BLOCK_STATUS, 0, PIECE);
	peer_close(fd);
	return error;
}

static void set_replaces_even_when_it_fails(void **state)
{
	static const unsigned char junk[20000];
	unsigned char data[256];

	(void)state;
	assert_int_equal(replaced_by(data, peer_meta_data(data, RIG_NAME, allocation, 1)), 0);
	assert_int_equal(replaced_by(data, peer_meta_data(data, RIG_NAME, NULL, 0)), NBD_EINVAL);
	assert_int_equal(replaced_by(data, peer_meta_data(data, "nothing", allocation, 1)),
			 NBD_EINVAL);
	assert_int_equal(replaced_by(data, peer_meta_data(data, SPEC_RO, allocation, 1)),
			 NBD_EINVAL);
	assert_int_equal(replaced_by(junk, 3), NBD_EINVAL);
	assert_int_equal(replaced_by(junk, sizeof(junk)), NBD_EINVAL);
}

/* --- BLOCK_STATUS ----------------------------------------------------------------------------- */

struct status {
	struct spec_chunks *chunks;
	uint32_t error, id;
	unsigned count;
	struct {
		uint32_t len, flags;
	} extent[8192];
};

/* One request, answered with one chunk. */
static void status(int fd, uint16_t flags, uint64_t off, uint32_t len, struct status *s)
{
	const struct spec_msg *c;
	unsigned i;

	peer_request(fd, flags, NBD_CMD_BLOCK_STATUS, 77, off, len);
	s->chunks = spec_gather(fd, 77);
	s->count = 0;
	c = &s->chunks->chunk[0];
	s->error = c->error;
	if (c->type != NBD_REPLY_TYPE_BLOCK_STATUS)
		return;
	s->id = load_be32(c->payload);
	s->count = (c->len - 4) / 8;
	for (i = 0; i < s->count; i++) {
		s->extent[i].len = load_be32(c->payload + 4 + i * 8);
		s->extent[i].flags = load_be32(c->payload + 8 + i * 8);
	}
}

static void in_pieces(void)
{
	atomic_store(&spec.rig->mem.extent_size, PIECE);
}

/* Ranges that begin and end anywhere. */
static const struct {
	uint64_t off;
	uint32_t len;
} ranges[] = {
	{0, 1},
	{0, PIECE},
	{0, PIECE + 1},
	{1, 10 * PIECE},
	{PIECE - 1, 2},
	{PIECE + 512, 3 * PIECE},
	{RIG_SIZE - 1, 1},
	{RIG_SIZE - 5 * PIECE + 7, 5 * PIECE - 7},
	{0, RIG_SIZE},
};

/* Calls @check with the status of each range. */
static void each_status(uint16_t flags, void (*check)(const struct status *s, uint32_t len))
{
	struct status *s = calloc(1, sizeof(*s));
	int fd = spec_allocation();
	unsigned i, pieces;

	assert_non_null(s);
	for (pieces = 0; pieces < 2; pieces++) {
		atomic_store(&spec.rig->mem.extent_size, pieces ? PIECE : 0);
		for (i = 0; i < ARRAY_SIZE(ranges); i++) {
			status(fd, flags, ranges[i].off, ranges[i].len, s);
			assert_int_equal(s->error, 0);
			check(s, ranges[i].len);
			spec_chunks_free(s->chunks);
		}
	}
	free(s);
	peer_close(fd);
}

static void check_one_chunk(const struct status *s, uint32_t len)
{
	unsigned i, found = 0;

	(void)len;
	for (i = 0; i < s->chunks->count; i++)
		found += s->chunks->chunk[i].type == NBD_REPLY_TYPE_BLOCK_STATUS;
	assert_int_equal(found, 1);
}

static void one_chunk_a_context(void **state)
{
	struct spec_chunks *c;
	uint32_t ids[2], got[2];
	int fd = spec_two(SPEC_CHUNKS, ids);

	(void)state;
	each_status(0, check_one_chunk);
	each_status(NBD_CMD_FLAG_REQ_ONE, check_one_chunk);
	spec_request(fd, 0, NBD_CMD_BLOCK_STATUS, 4, 0, PIECE);
	c = spec_gather(fd, 4);
	assert_int_equal(c->count, 2);
	got[0] = load_be32(c->chunk[0].payload);
	got[1] = load_be32(c->chunk[1].payload);
	assert_true((got[0] == ids[0] && got[1] == ids[1]) ||
		    (got[0] == ids[1] && got[1] == ids[0]));
	spec_chunks_free(c);
	peer_close(fd);
}

static void the_chunk_has_the_id_of_the_context(void **state)
{
	struct status *s = calloc(1, sizeof(*s));
	struct spec_reps reps;
	int fd = spec_structured();

	(void)state;
	assert_non_null(s);
	spec_meta(fd, NBD_OPT_SET_META_CONTEXT, RIG_NAME, allocation, 1, &reps);
	assert_true(peer_go(fd, RIG_NAME, NULL, NULL));
	status(fd, 0, 0, PIECE, s);
	assert_int_equal(s->id, load_be32(reps.rep[0].data));
	spec_chunks_free(s->chunks);
	free(s);
	peer_close(fd);
}

static void status_without_structured_replies_is_refused(void **state)
{
	struct spec_msg msg;
	int fd = spec_simple();

	(void)state;
	peer_request(fd, 0, NBD_CMD_BLOCK_STATUS, 3, 0, PIECE);
	spec_msg(fd, &msg);
	assert_int_equal(msg.magic, NBD_SIMPLE_MAGIC);
	assert_int_equal(msg.error, NBD_EINVAL);
	spec_lives(fd);
	peer_close(fd);
}

static void status_without_a_context_is_invalid(void **state)
{
	int fd = spec_chunks();

	(void)state;
	assert_int_equal(spec_do(fd, 0, NBD_CMD_BLOCK_STATUS, 0, PIECE), NBD_EINVAL);
	spec_lives(fd);
	peer_close(fd);
}

static void check_length(const struct status *s, uint32_t len)
{
	uint32_t n = s->chunks->chunk[0].len;

	(void)len;
	assert_true(n >= 12 && (n - 4) % 8 == 0);
}

static void status_length_is_4_and_8s(void **state)
{
	(void)state;
	each_status(0, check_length);
}

static void check_nonzero(const struct status *s, uint32_t len)
{
	unsigned i;

	(void)len;
	for (i = 0; i < s->count; i++)
		assert_int_not_equal(s->extent[i].len, 0);
}

static void no_extent_is_empty(void **state)
{
	(void)state;
	each_status(0, check_nonzero);
	each_status(NBD_CMD_FLAG_REQ_ONE, check_nonzero);
}

static void check_one_extent(const struct status *s, uint32_t len)
{
	(void)len;
	assert_int_equal(s->count, 1);
}

static void req_one_is_one_extent(void **state)
{
	(void)state;
	each_status(NBD_CMD_FLAG_REQ_ONE, check_one_extent);
}

static void check_not_longer(const struct status *s, uint32_t len)
{
	assert_true(s->extent[0].len <= len);
}

static void req_one_is_not_longer_than_the_request(void **state)
{
	(void)state;
	each_status(NBD_CMD_FLAG_REQ_ONE, check_not_longer);
}

static void check_sum(const struct status *s, uint32_t len)
{
	uint64_t sum = 0;
	unsigned i;

	for (i = 0; i + 1 < s->count; i++)
		sum += s->extent[i].len;
	assert_true(sum < len);
}

static void all_but_the_last_extent_lie_inside(void **state)
{
	(void)state;
	each_status(0, check_sum);
}

static void check_progress(const struct status *s, uint32_t len)
{
	(void)len;
	assert_true(s->count >= 1);
}

static void there_is_at_least_one_extent(void **state)
{
	(void)state;
	each_status(0, check_progress);
}

static void check_reserved(const struct status *s, uint32_t len)
{
	unsigned i;

	(void)len;
	for (i = 0; i < s->count; i++)
		assert_int_equal(s->extent[i].flags & ~3U, 0);
}

static void reserved_flags_are_zero(void **state)
{
	(void)state;
	each_status(0, check_reserved);
}

static void extents_follow_each_other_from_the_offset_on(void **state)
{
	struct status *s = calloc(1, sizeof(*s));
	int fd = spec_allocation();
	unsigned i, k;

	(void)state;
	assert_non_null(s);
	in_pieces();
	for (i = 0; i < ARRAY_SIZE(ranges); i++) {
		uint64_t at = ranges[i].off;

		status(fd, 0, ranges[i].off, ranges[i].len, s);
		for (k = 0; k < s->count; k++) {
			assert_int_equal(s->extent[k].flags, at / PIECE % 2 ? 3 : 0);
			at += s->extent[k].len;
			if (k + 1 < s->count)
				assert_int_equal(at % PIECE, 0);
		}
		assert_true(at == ranges[i].off + ranges[i].len);
		spec_chunks_free(s->chunks);
	}
	free(s);
	peer_close(fd);
}

static void a_reply_has_few_extents(void **state)
{
	struct status *s = calloc(1, sizeof(*s));
	int fd = spec_allocation();

	(void)state;
	assert_non_null(s);
	atomic_store(&spec.rig->mem.extent_size, 512); /* of which there are 98304 */
	status(fd, 0, 0, RIG_SIZE, s);
	assert_true(s->count > 0 && s->count <= 1U << 20);
	spec_chunks_free(s->chunks);
	free(s);
	peer_close(fd);
}

static void status_past_the_end_is_invalid(void **state)
{
	int fd = spec_allocation();

	(void)state;
	assert_int_equal(spec_do(fd, 0, NBD_CMD_BLOCK_STATUS, RIG_SIZE, 1), NBD_EINVAL);
	assert_int_equal(spec_do(fd, 0, NBD_CMD_BLOCK_STATUS, RIG_SIZE - 511, 512), NBD_EINVAL);
	assert_int_equal(spec_do(fd, 0, NBD_CMD_BLOCK_STATUS, UINT64_MAX, 512), NBD_EINVAL);
	spec_lives(fd);
	peer_close(fd);
}

static void status_of_nothing_keeps_the_connection(void **state)
{
	int fd = spec_allocation();

	(void)state;
	spec_do(fd, 0, NBD_CMD_BLOCK_STATUS, 0, 0);
	spec_lives(fd);
	peer_close(fd);
}

int main(void)
{
	static const struct CMUnitTest rules[] = {
		RULE("Metadata querying",
		     "On success, the server MUST respond with one structured reply chunk per "
		     "metadata context",
		     one_chunk_a_context),
		RULE("Metadata querying",
		     "The reply to NBD_CMD_BLOCK_STATUS MUST be sent as a structured reply",
		     one_chunk_a_context),
		RULE("Metadata querying", "structured replies MUST be negotiated first",
		     status_without_structured_replies_is_refused),
		RULE("Metadata querying",
		     "Servers SHOULD reply with NBD_EINVAL to NBD_CMD_BLOCK_STATUS without "
		     "selecting at least one metadata context",
		     status_without_a_context_is_invalid),
		RULE("Metadata querying",
		     "The name MUST consist of a namespace, followed by a colon, followed by a "
		     "leaf-name",
		     names_have_a_namespace_and_a_leaf),
		RULE("Metadata querying",
		     "The entire name MUST follow the restrictions for strings", names_are_strings),
		RULE("The base: metadata namespace",
		     "the server MUST ignore [base:] during NBD_OPT_SET_META_CONTEXT",
		     base_selects_nothing),
		RULE("The base: metadata namespace",
		     "and MUST support this as a wildcard during NBD_OPT_LIST_META_CONTEXT",
		     base_is_a_wildcard_for_lists),
		RULE("The base: metadata namespace",
		     "If a leaf-name is not recognized, the server MUST ignore it rather than "
		     "report an error",
		     unknown_leaves_are_ignored),
		RULE("base:allocation metadata context",
		     "the remainder of the flags field is reserved. Servers SHOULD set it to "
		     "all-zero",
		     reserved_flags_are_zero),
		RULE("NBD_OPT_LIST_META_CONTEXT",
		     "If the option request is syntactically invalid, the server MUST fail the "
		     "request with NBD_REP_ERR_INVALID",
		     malformed_lists_are_invalid),
		RULE("NBD_OPT_LIST_META_CONTEXT",
		     "the server MUST ignore query strings belonging to an unknown namespace",
		     unknown_namespaces_are_ignored),
		RULE("NBD_OPT_LIST_META_CONTEXT",
		     "If none of the query strings find any metadata contexts, the server MUST "
		     "send a single reply of type NBD_REP_ACK",
		     no_match_is_a_single_ack),
		RULE("NBD_OPT_LIST_META_CONTEXT",
		     "The server MUST reply with zero or more NBD_REP_META_CONTEXT, followed by "
		     "NBD_REP_ACK or by an error",
		     contexts_are_followed_by_an_ack),
		RULE("NBD_OPT_LIST_META_CONTEXT",
		     "If zero queries are sent, then the server MUST return all the metadata "
		     "contexts that are available",
		     no_query_lists_all),
		RULE("NBD_OPT_LIST_META_CONTEXT",
		     "If one or more queries are sent, then the server MUST return those which "
		     "match one or more of the queries",
		     queries_list_what_they_match),
		RULE("NBD_OPT_LIST_META_CONTEXT",
		     "each namespace returned MUST begin with the relevant namespace, followed by "
		     "a colon",
		     names_have_a_namespace_and_a_leaf),
		RULE("NBD_OPT_LIST_META_CONTEXT",
		     "The metadata context ID in these replies SHOULD be set to zero",
		     listed_ids_are_zero),
		RULE("NBD_OPT_SET_META_CONTEXT",
		     "[without structured replies] a server SHOULD send NBD_REP_ERR_INVALID",
		     set_without_structured_replies_is_invalid),
		RULE("NBD_OPT_SET_META_CONTEXT",
		     "[data that is syntactically invalid] fails with NBD_REP_ERR_INVALID",
		     malformed_sets_are_invalid),
		RULE("NBD_OPT_SET_META_CONTEXT",
		     "If zero queries are sent, the server MUST select no metadata contexts",
		     no_query_selects_nothing),
		RULE("NBD_OPT_SET_META_CONTEXT",
		     "the server MUST reply with one NBD_REP_META_CONTEXT for each selected "
		     "context, followed by NBD_REP_ACK",
		     each_selected_context_is_told_once),
		RULE("NBD_OPT_SET_META_CONTEXT", "each with a unique metadata context ID",
		     each_selected_context_has_an_id_of_its_own),
		RULE("NBD_OPT_SET_META_CONTEXT",
		     "Issuing this command replaces all previously-set metadata contexts "
		     "(including when this command fails)",
		     set_replaces_even_when_it_fails),
		RULE("NBD_REP_META_CONTEXT", "[the name] MUST be valid UTF-8 data",
		     names_are_strings),
		RULE("Command flags",
		     "[with REQ_ONE] the server MUST NOT send metadata on more than one extent",
		     req_one_is_one_extent),
		RULE("NBD_REPLY_TYPE_BLOCK_STATUS",
		     "length MUST be 4 + (a positive integer multiple of 8)",
		     status_length_is_4_and_8s),
		RULE("NBD_REPLY_TYPE_BLOCK_STATUS",
		     "A successful block status request MUST have exactly one status chunk per "
		     "negotiated metadata context ID",
		     the_chunk_has_the_id_of_the_context),
		RULE("NBD_REPLY_TYPE_BLOCK_STATUS", "length of the extent MUST be nonzero",
		     no_extent_is_empty),
		RULE("NBD_REPLY_TYPE_BLOCK_STATUS",
		     "[with REQ_ONE] every reply chunk MUST contain exactly one descriptor",
		     req_one_is_one_extent),
		RULE("NBD_REPLY_TYPE_BLOCK_STATUS",
		     "[with REQ_ONE] that descriptor MUST NOT exceed the length of the original "
		     "request",
		     req_one_is_not_longer_than_the_request),
		RULE("NBD_REPLY_TYPE_BLOCK_STATUS",
		     "the sum of the length fields of the first N-1 extents MUST be less than the "
		     "requested length",
		     all_but_the_last_extent_lie_inside),
		RULE("NBD_REPLY_TYPE_BLOCK_STATUS",
		     "Servers SHOULD NOT send more than 2^20 extents in a single reply chunk",
		     a_reply_has_few_extents),
		RULE("NBD_CMD_BLOCK_STATUS",
		     "For a successful return, the server MUST use a structured reply, containing "
		     "exactly one chunk per selected context id",
		     one_chunk_a_context),
		RULE("NBD_CMD_BLOCK_STATUS",
		     "descriptors represent consecutive portions of the export starting from "
		     "offset",
		     extents_follow_each_other_from_the_offset_on),
		RULE("NBD_CMD_BLOCK_STATUS",
		     "[with REQ_ONE] the length of the descriptor MUST NOT be greater than the "
		     "length of the request",
		     req_one_is_not_longer_than_the_request),
		RULE("NBD_CMD_BLOCK_STATUS",
		     "the server MUST return at least one status descriptor",
		     there_is_at_least_one_extent),
		RULE("NBD_CMD_BLOCK_STATUS",
		     "The server SHOULD return NBD_EINVAL for sectors beyond the size of the "
		     "device",
		     status_past_the_end_is_invalid),
		RULE("NBD_CMD_BLOCK_STATUS",
		     "[a length of 0] is unspecified although the server SHOULD NOT disconnect",
		     status_of_nothing_keeps_the_connection),
	};

	return spec_run("metadata", rules, ARRAY_SIZE(rules));
}
