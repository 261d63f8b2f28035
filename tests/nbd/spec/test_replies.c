/* What comes back: "Transmission", "Simple reply message", "Structured reply chunk message",
 * "Structured reply flags", "Structured reply types", NBD_CMD_READ. */
#include "tests/support/nbdspec.h"

/* --- cookies and simple replies --------------------------------------------------------------- */

static const uint64_t cookies[] = {
	0, 1, UINT64_MAX, 0x8000000000000000ULL, 0x0123456789abcdefULL, 0x6744669867446698ULL,
};

static void cookies_come_back(int fd)
{
	static const uint16_t cmds[] = {NBD_CMD_FLUSH, NBD_CMD_WRITE_ZEROES, NBD_CMD_TRIM,
					NBD_CMD_CACHE, 99};
	unsigned i, k;

	for (i = 0; i < ARRAY_SIZE(cookies); i++) {
		for (k = 0; k < ARRAY_SIZE(cmds); k++) {
			peer_request(fd, 0, cmds[k], cookies[i], 0, k ? 512 : 0);
			spec_answer(fd, cookies[i]);
		}
		peer_write(fd, NBD_CMD_FLAG_FUA, cookies[i], 0, &cookies[i], 8);
		assert_int_equal(spec_answer(fd, cookies[i]), 0);
	}
	peer_close(fd);
}

static void replies_have_the_cookie_of_their_request(void **state)
{
	unsigned char b[512];
	int fd = spec_simple();
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cookies); i++) {
		peer_request(fd, 0, NBD_CMD_READ, cookies[i], 0, sizeof(b));
		assert_int_equal(peer_simple_to(fd, cookies[i]), 0);
		peer_recv(fd, b, sizeof(b));
	}
	cookies_come_back(fd);
	fd = spec_chunks();
	for (i = 0; i < ARRAY_SIZE(cookies); i++) {
		peer_request(fd, 0, NBD_CMD_READ, cookies[i], 0, sizeof(b));
		assert_int_equal(spec_answer(fd, cookies[i]), 0);
	}
	cookies_come_back(fd);
}

/* One request of every kind, right and wrong; each must be answered by a message of @magic. */
static void every_reply_is(int fd, uint32_t magic)
{
	static const struct {
		uint16_t flags, cmd;
		uint32_t len;
	} rows[] = {
		{0, NBD_CMD_READ, 512},		{0, NBD_CMD_READ, NBD_MAX_PAYLOAD + 1},
		{0x8000, NBD_CMD_READ, 512},	{0, NBD_CMD_FLUSH, 0},
		{0, NBD_CMD_TRIM, 512},		{0, NBD_CMD_CACHE, 512},
		{0, NBD_CMD_WRITE_ZEROES, 512}, {0, NBD_CMD_WRITE_ZEROES, 0xffffffffU},
		{0, NBD_CMD_BLOCK_STATUS, 512}, {0, 4711, 512},
	};
	unsigned char b[512];
	struct spec_msg msg;
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		peer_request(fd, rows[i].flags, rows[i].cmd, i, 0, rows[i].len);
		spec_msg(fd, &msg);
		assert_int_equal(msg.magic, magic);
		if (rows[i].cmd == NBD_CMD_READ && !msg.error)
			peer_recv(fd, b, sizeof(b));
		spec_msg_free(&msg);
	}
	peer_write(fd, 0, 1, RIG_SIZE, b, sizeof(b));
	spec_msg(fd, &msg);
	assert_int_equal(msg.magic, magic);
	spec_msg_free(&msg);
	peer_close(fd);
}

static void without_negotiation_all_replies_are_simple(void **state)
{
	(void)state;
	every_reply_is(spec_simple(), NBD_SIMPLE_MAGIC);
}

static void a_simple_reply_to_a_read_has_all_its_bytes(void **state)
{
	static const uint32_t lengths[] = {1, 511, 65536, 262145, 3 * MIB + 7};
	unsigned char *back = malloc(4 * MIB), *want = malloc(4 * MIB);
	int fd = spec_simple();
	unsigned i;

	(void)state;
	assert_true(back && want);
	rig_pattern(want, 4 * MIB, 11);
	assert_int_equal(spec_write(fd, 0, 5, want, 4 * MIB), 0);
	for (i = 0; i < ARRAY_SIZE(lengths); i++) {
		peer_request(fd, 0, NBD_CMD_READ, i, 5, lengths[i]);
		assert_int_equal(peer_simple_to(fd, i), 0);
		peer_recv(fd, back, lengths[i]);
		assert_memory_equal(back, want, lengths[i]);
	}
	assert_int_equal(spec_do(fd, 0, NBD_CMD_FLUSH, 0, 0), 0);
	free(back);
	free(want);
	peer_close(fd);
}

static void an_error_has_no_payload(void **state)
{
	int fd = spec_simple();

	(void)state;
	assert_int_equal(spec_do(fd, 0, NBD_CMD_READ, RIG_SIZE, 512), NBD_EINVAL);
	assert_int_equal(spec_do(fd, 0, NBD_CMD_FLUSH, 0, 0), 0);
	atomic_store(&spec.rig->mem.read_error, -EIO);
	assert_int_equal(spec_do(fd, 0, NBD_CMD_READ, 0, 512), NBD_EIO);
	assert_int_equal(spec_do(fd, 0, NBD_CMD_FLUSH, 0, 0), 0);
	peer_close(fd);
}

static void an_error_after_the_header_ends_the_connection(void **state)
{
	struct memexport *mem = &spec.rig->mem;
	unsigned char b[NBD_SIMPLE_SIZE], rest[65536];
	size_t total = 0;
	ssize_t n;
	int fd = spec_simple();

	(void)state;
	atomic_store(&mem->read_error, -EIO);
	atomic_store(&mem->fail_from, 4 * MIB); /* what lies before is on its way by then */
	peer_request(fd, 0, NBD_CMD_READ, 9, 0, 16 * MIB);
	peer_recv(fd, b, sizeof(b));
	assert_int_equal(load_be32(b), NBD_SIMPLE_MAGIC);
	assert_int_equal(load_be32(b + 4), 0);
	while ((n = recv(fd, rest, sizeof(rest), 0)) > 0)
		total += n;
	assert_true(n == 0 || errno == ECONNRESET);
	assert_true(total <= 4 * MIB);
	peer_close(fd);
}

/* --- structured replies ----------------------------------------------------------------------- */

static void reads_are_never_answered_simply(void **state)
{
	static const struct {
		uint16_t flags;
		uint64_t off;
		uint32_t len;
	} rows[] = {
		{0, 0, 512},	      {0, 0, 0},	  {0x8000, 0, 512},
		{0, RIG_SIZE, 512},   {0, 0, 0xffffffff}, {NBD_CMD_FLAG_NO_HOLE, 0, 512},
		{0, UINT64_MAX, 512},
	};
	int fd = spec_chunks();
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		peer_request(fd, rows[i].flags, NBD_CMD_READ, i, rows[i].off, rows[i].len);
		spec_chunks_free(spec_gather(fd, i)); /* which asserts that these are chunks */
	}
	peer_close(fd);
}

static void payload_comes_in_chunks(void **state)
{
	struct spec_msg msg;
	int fd = spec_allocation();

	(void)state;
	peer_request(fd, 0, NBD_CMD_READ, 1, 0, 512);
	spec_msg(fd, &msg);
	assert_int_equal(msg.magic, NBD_CHUNK_MAGIC);
	spec_msg_free(&msg);
	peer_request(fd, 0, NBD_CMD_BLOCK_STATUS, 2, 0, 512);
	spec_msg(fd, &msg);
	assert_int_equal(msg.magic, NBD_CHUNK_MAGIC);
	spec_msg_free(&msg);
	peer_close(fd);
}

/* Answers to reads of many shapes, each with what was asked. */
static const struct shape {
	uint16_t flags;
	uint64_t off;
	uint32_t len;
} shapes[] = {
	{0, 0, 1},
	{0, 0, 512},
	{0, 4095, 2},
	{0, 13, 262144},
	{0, 0, 262145},
	{0, 4097, 3 * MIB},
	{0, RIG_SIZE - 7, 7},
	{NBD_CMD_FLAG_DF, 0, 512},
	{NBD_CMD_FLAG_DF, 1, 65536},
	{NBD_CMD_FLAG_DF, 4097, 3 * MIB},
	/* into the zeroes, over them, and in the middle of them */
	{0, 4 * MIB - 300000, 600000},
	{0, 3 * MIB, 3 * MIB},
	{0, 4 * MIB + 13, 512},
	{NBD_CMD_FLAG_DF, 4 * MIB, 4096},
};

/* The answers to all of them in both styles, taken once and looked at by every rule. */
static struct spec_chunks *answers[2 * ARRAY_SIZE(shapes)];

static void take_answers(void)
{
	int fds[] = {spec_chunks(), spec_extended()};
	unsigned char *data = malloc(6 * MIB);
	unsigned i;

	assert_non_null(data);
	rig_pattern(data, 6 * MIB, 77);
	assert_int_equal(spec_write(fds[0], 0, 0, data, 6 * MIB), 0);
	assert_int_equal(spec_write(fds[0], 0, RIG_SIZE - 512, data, 512), 0);
	assert_int_equal(spec_do(fds[0], 0, NBD_CMD_WRITE_ZEROES, 4 * MIB, MIB), 0);
	free(data);
	for (i = 0; i < ARRAY_SIZE(answers); i++) {
		const struct shape *s = &shapes[i / 2];

		spec_request(fds[i % 2], s->flags, NBD_CMD_READ, i, s->off, s->len);
		answers[i] = spec_gather(fds[i % 2], i);
	}
	for (i = 0; i < 2; i++) { /* what nobody asked for would come before this */
		assert_int_equal(spec_do(fds[i], 0, NBD_CMD_FLUSH, 0, 0), 0);
		peer_close(fds[i]);
	}
}

static void each_read(void (*check)(const struct spec_chunks *c, const struct shape *shape))
{
	unsigned i;

	if (!answers[0])
		take_answers();
	for (i = 0; i < ARRAY_SIZE(answers); i++)
		check(answers[i], &shapes[i / 2]);
}

/* Reads that fail from some place on, in data that is not zero. */
static const struct failing {
	struct shape shape;
	uint64_t from;
} failing[] = {
	{{0, 0, 512}, 0},
	{{0, 0, 2 * MIB}, 0},
	{{0, 0, 2 * MIB}, 300000},
	{{0, 0, 2 * MIB}, 2 * MIB - 1},
	{{0, 100, 3 * MIB + 1}, 2 * MIB - 1},
	{{0, MIB, 3 * MIB}, MIB},
	{{NBD_CMD_FLAG_DF, 0, 512}, 1},
	{{NBD_CMD_FLAG_DF, 5, 3 * MIB}, 0},
	{{NBD_CMD_FLAG_DF, 5, 3 * MIB}, 300000},
	{{NBD_CMD_FLAG_DF, 5, 3 * MIB}, 3 * MIB},
};

static struct spec_chunks *failures[2 * ARRAY_SIZE(failing)];

static void take_failures(void)
{
	struct memexport *mem = &spec.rig->mem;
	int fds[] = {spec_chunks(), spec_extended()};
	unsigned char *ones = malloc(4 * MIB);
	unsigned i;

	assert_non_null(ones);
	memset(ones, 1, 4 * MIB);
	assert_int_equal(spec_write(fds[0], 0, 0, ones, 4 * MIB), 0);
	free(ones);
	atomic_store(&mem->read_error, -EIO);
	for (i = 0; i < ARRAY_SIZE(failures); i++) {
		const struct shape *s = &failing[i / 2].shape;

		atomic_store(&mem->fail_from, failing[i / 2].from);
		spec_request(fds[i % 2], s->flags, NBD_CMD_READ, i, s->off, s->len);
		failures[i] = spec_gather(fds[i % 2], i);
	}
	atomic_store(&mem->read_error, 0);
	for (i = 0; i < 2; i++) {
		spec_lives(fds[i]);
		peer_close(fds[i]);
	}
}

static void each_failing_read(void (*check)(const struct spec_chunks *c,
					    const struct failing *failing))
{
	unsigned i;

	if (!failures[0])
		take_failures();
	for (i = 0; i < ARRAY_SIZE(failures); i++)
		check(failures[i], &failing[i / 2]);
}

static bool is_content(const struct spec_msg *c)
{
	return c->type == NBD_REPLY_TYPE_OFFSET_DATA || c->type == NBD_REPLY_TYPE_OFFSET_HOLE;
}

/* The bytes a content chunk describes. */
static void content_range(const struct spec_msg *c, uint64_t *off, uint64_t *len)
{
	*off = load_be64(c->payload);
	*len = c->type == NBD_REPLY_TYPE_OFFSET_DATA ? c->len - 8 : load_be32(c->payload + 8);
}

static void check_done_is_last(const struct spec_chunks *c, const struct shape *shape)
{
	unsigned i;

	(void)shape;
	for (i = 0; i < c->count; i++)
		assert_int_equal(c->chunk[i].flags & NBD_REPLY_FLAG_DONE, i + 1 == c->count);
}

static void done_is_sent_last(void **state)
{
	(void)state;
	each_read(check_done_is_last); /* and what would come after it, spec_gather() trips over */
}

static void check_error_before_done(const struct spec_chunks *c, const struct failing *f)
{
	unsigned i, errors = 0;

	(void)f;
	for (i = 0; i < c->count; i++)
		errors += c->chunk[i].error == NBD_EIO;
	assert_int_equal(errors, 1);
}

static void no_chunk_is_final_while_an_error_is_possible(void **state)
{
	(void)state;
	each_failing_read(check_error_before_done);
}

static void check_flags(const struct spec_chunks *c, const struct shape *shape)
{
	unsigned i;

	(void)shape;
	for (i = 0; i < c->count; i++)
		assert_int_equal(c->chunk[i].flags & ~NBD_REPLY_FLAG_DONE, 0);
}

static void no_other_reply_flag_is_set(void **state)
{
	(void)state;
	each_read(check_flags);
}

static void check_size(const struct spec_chunks *c, const struct shape *shape)
{
	unsigned i;

	(void)shape;
	for (i = 0; i < c->count; i++)
		assert_true(c->chunk[i].len <= NBD_MAX_PAYLOAD + 8);
}

static void no_chunk_exceeds_the_maximum_payload(void **state)
{
	struct spec_chunks *c;
	int fd = spec_chunks();

	(void)state;
	each_read(check_size);
	peer_request(fd, NBD_CMD_FLAG_DF, NBD_CMD_READ, 5, 0, NBD_MAX_PAYLOAD);
	c = spec_gather(fd, 5);
	assert_int_equal(c->chunk[c->count - 1].error, 0);
	check_size(c, NULL);
	spec_chunks_free(c);
	assert_int_equal(spec_do(fd, NBD_CMD_FLAG_DF, NBD_CMD_READ, 0, NBD_MAX_PAYLOAD + 1),
			 NBD_EOVERFLOW);
	peer_close(fd);
}

static void check_none(const struct spec_chunks *c, const struct shape *shape)
{
	unsigned i;

	(void)shape;
	for (i = 0; i < c->count; i++)
		if (c->chunk[i].type == NBD_REPLY_TYPE_NONE)
			assert_int_equal(c->chunk[i].len, 0);
}

static void none_is_empty(void **state)
{
	struct spec_chunks *c;
	int fd = spec_chunks();

	(void)state;
	each_read(check_none);
	peer_request(fd, 0, NBD_CMD_READ, 5, 0, 0);
	c = spec_gather(fd, 5);
	assert_int_equal(c->count, 1);
	assert_int_equal(c->chunk[0].type, NBD_REPLY_TYPE_NONE);
	check_none(c, NULL);
	spec_chunks_free(c);
	peer_close(fd);
}

static void check_none_is_done(const struct spec_chunks *c, const struct shape *shape)
{
	unsigned i, seen = 0;

	for (i = 0; i < c->count; i++)
		if (c->chunk[i].type == NBD_REPLY_TYPE_NONE) {
			assert_int_equal(c->chunk[i].flags, NBD_REPLY_FLAG_DONE);
			seen++;
		}
	/* A reply of one long chunk cannot be marked before it is read whole. */
	assert_true(seen == (shape->flags && shape->len > 262144));
}

static void none_is_always_final(void **state)
{
	(void)state;
	each_read(check_none_is_done);
}

static void check_data_length(const struct spec_chunks *c, const struct shape *shape)
{
	unsigned i;

	(void)shape;
	for (i = 0; i < c->count; i++)
		if (c->chunk[i].type == NBD_REPLY_TYPE_OFFSET_DATA)
			assert_true(c->chunk[i].len >= 9);
}

static void data_has_at_least_a_byte(void **state)
{
	(void)state;
	each_read(check_data_length);
}

/* Bytes the holes of an answer stand for. */
static uint64_t holes_of(const struct spec_chunks *c)
{
	uint64_t off, len, sum = 0;
	unsigned i;

	for (i = 0; i < c->count; i++) {
		if (c->chunk[i].type != NBD_REPLY_TYPE_OFFSET_HOLE)
			continue;
		assert_int_equal(c->chunk[i].len, 12);
		content_range(&c->chunk[i], &off, &len);
		assert_true(len > 0);
		sum += len;
	}
	return sum;
}

/* What lies in the zeroes that answers[] has, and whole segments of 256 KiB at that. */
static void check_holes(const struct spec_chunks *c, const struct shape *shape)
{
	bool inside = shape->off >= 4 * MIB && shape->off + shape->len <= 5 * MIB;
	uint64_t holes = holes_of(c);

	if (shape->flags)
		assert_int_equal(holes, 0);
	else if (inside)
		assert_int_equal(holes, shape->len);
	else if (shape->off == 3 * MIB)
		assert_int_equal(holes, MIB);
	else if (shape->off + shape->len <= 4 * MIB)
		assert_int_equal(holes, 0);
}

static void holes_are_twelve_bytes(void **state)
{
	(void)state;
	each_read(check_holes);
}

static void check_bounds(const struct spec_chunks *c, const struct shape *shape)
{
	uint64_t off, len;
	unsigned i;

	for (i = 0; i < c->count; i++) {
		if (!is_content(&c->chunk[i]))
			continue;
		content_range(&c->chunk[i], &off, &len);
		assert_true(off >= shape->off && off + len <= shape->off + shape->len);
	}
}

static void data_lies_within_the_request(void **state)
{
	(void)state;
	each_read(check_bounds);
}

/* Marks what is described, once each; returns how many bytes that is. */
static uint64_t described(const struct spec_chunks *c, const struct shape *shape)
{
	unsigned char *seen = calloc(1, shape->len);
	uint64_t off, len, total = 0;
	unsigned i;

	assert_non_null(seen);
	for (i = 0; i < c->count; i++) {
		if (!is_content(&c->chunk[i]))
			continue;
		content_range(&c->chunk[i], &off, &len);
		assert_true(bytes_all_zero(seen + (off - shape->off), len));
		memset(seen + (off - shape->off), 1, len);
		total += len;
	}
	free(seen);
	return total;
}

static void check_no_overlap(const struct spec_chunks *c, const struct shape *shape)
{
	described(c, shape);
}

static void data_does_not_overlap(void **state)
{
	(void)state;
	each_read(check_no_overlap);
}

/* What take_answers() wrote: one run of bytes at the start with zeroes in it, the same at the end.
 */
static void expect_pattern(const unsigned char *p, uint64_t off, uint64_t len)
{
	unsigned char *want = malloc(len);
	uint64_t end = RIG_SIZE - 512, i;

	assert_non_null(want);
	rig_pattern(want, len, 77 + (off >= end ? off - end : off));
	for (i = 0; i < len; i++)
		if (off + i >= 4 * MIB && off + i < 5 * MIB)
			want[i] = 0;
	assert_memory_equal(p, want, len);
	free(want);
}

static void check_all_described(const struct spec_chunks *c, const struct shape *shape)
{
	uint64_t off, len;
	unsigned i;

	assert_true(described(c, shape) == shape->len);
	for (i = 0; i < c->count; i++) {
		if (c->chunk[i].type != NBD_REPLY_TYPE_OFFSET_DATA)
			continue;
		content_range(&c->chunk[i], &off, &len);
		expect_pattern(c->chunk[i].payload + 8, off, len);
	}
}

static void chunks_cover_the_whole_request(void **state)
{
	(void)state;
	each_read(check_all_described);
}

static void check_error_length(const struct spec_chunks *c, const struct failing *f)
{
	unsigned i;

	(void)f;
	for (i = 0; i < c->count; i++)
		if (c->chunk[i].type & 0x8000)
			assert_true(c->chunk[i].len >= 6);
}

static void error_chunks_have_6_bytes(void **state)
{
	(void)state;
	each_failing_read(check_error_length);
}

/* Error chunks of requests of every kind. */
static void each_error(void (*check)(const struct spec_msg *c))
{
	static const struct {
		uint16_t flags, cmd;
		uint64_t off;
		uint32_t len;
	} rows[] = {
		{0, NBD_CMD_READ, RIG_SIZE, 1},	   {0, NBD_CMD_READ, 0, 0xffffffffU},
		{0, NBD_CMD_TRIM, RIG_SIZE, 1},	   {0, NBD_CMD_WRITE_ZEROES, RIG_SIZE, 1},
		{0, NBD_CMD_CACHE, RIG_SIZE, 1},   {0x4000, NBD_CMD_FLUSH, 0, 0},
		{0, NBD_CMD_BLOCK_STATUS, 0, 512}, {0, 99, 0, 0},
	};
	struct spec_msg msg;
	int fd = spec_chunks();
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		peer_request(fd, rows[i].flags, rows[i].cmd, i, rows[i].off, rows[i].len);
		spec_msg(fd, &msg);
		assert_true(msg.cookie == i);
		assert_int_not_equal(msg.error, 0);
		if (msg.magic == NBD_CHUNK_MAGIC)
			check(&msg);
		spec_msg_free(&msg);
	}
	peer_close(fd);
}

static void check_message(const struct spec_msg *c)
{
	uint32_t len = load_be16(c->payload + 4);

	assert_true(len <= 4096 && len <= c->len - 6);
}

static void error_messages_are_short(void **state)
{
	(void)state;
	each_error(check_message);
}

static void check_error_value(const struct spec_msg *c)
{
	assert_int_not_equal(load_be32(c->payload), 0);
}

static void error_chunks_have_an_error(void **state)
{
	(void)state;
	each_error(check_error_value);
}

static void check_done(const struct spec_msg *c)
{
	assert_int_equal(c->flags, NBD_REPLY_FLAG_DONE);
}

static void an_only_chunk_is_final(void **state)
{
	(void)state;
	each_error(check_done);
}

/* --- READ ------------------------------------------------------------------------------------- */

static void check_padding(const struct spec_chunks *c, const struct failing *f)
{
	uint64_t off, len, zeroes;
	unsigned i;

	for (i = 0; i < c->count; i++) {
		const struct spec_msg *m = &c->chunk[i];

		if (!is_content(m))
			continue;
		content_range(m, &off, &len);
		if (f->shape.flags & NBD_CMD_FLAG_DF)
			assert_true(len == f->shape.len);	  /* begun, so completed */
		zeroes = MAX(off, align_up(f->from + 1, 262144)); /* a segment */
		if (zeroes < off + len)
			assert_true(bytes_all_zero(m->payload + 8 + (zeroes - off),
						   off + len - zeroes));
	}
}

static void a_chunk_that_fails_is_completed_with_padding(void **state)
{
	(void)state;
	each_failing_read(check_padding);
}

static void check_error_included(const struct spec_chunks *c, const struct failing *f)
{
	(void)f;
	assert_int_equal(c->chunk[c->count - 1].error, NBD_EIO);
}

static void an_error_is_told_in_a_subsequent_chunk(void **state)
{
	(void)state;
	each_failing_read(check_error_included);
}

static void check_content_before_error(const struct spec_chunks *c, const struct failing *f)
{
	unsigned i;

	(void)f;
	for (i = 0; i + 1 < c->count; i++)
		assert_true(is_content(&c->chunk[i]));
}

static void content_precedes_its_error(void **state)
{
	(void)state;
	each_failing_read(check_content_before_error);
}

static void check_df(const struct spec_chunks *c, const struct shape *shape)
{
	unsigned i, content = 0;

	if (!(shape->flags & NBD_CMD_FLAG_DF))
		return;
	for (i = 0; i < c->count; i++)
		content += is_content(&c->chunk[i]);
	assert_int_equal(content, 1);
}

static void df_means_one_content_chunk(void **state)
{
	(void)state;
	each_read(check_df);
}

static void df_has_zeroes_explicitly(void **state)
{
	unsigned char data[4096];
	struct spec_chunks *c;
	unsigned i;
	int fd = spec_chunks();

	(void)state;
	memset(data, 9, sizeof(data));
	assert_int_equal(spec_write(fd, 0, 40 * MIB, data, sizeof(data)), 0);
	assert_int_equal(spec_do(fd, 0, NBD_CMD_WRITE_ZEROES, 40 * MIB + 4096, MIB), 0);
	peer_request(fd, NBD_CMD_FLAG_DF, NBD_CMD_READ, 5, 40 * MIB, 65536);
	c = spec_gather(fd, 5);
	assert_int_equal(c->chunk[0].type, NBD_REPLY_TYPE_OFFSET_DATA);
	assert_int_equal(c->chunk[0].len, 65536 + 8);
	assert_memory_equal(c->chunk[0].payload + 8, data, sizeof(data));
	for (i = 4096; i < 65536; i++)
		assert_int_equal(c->chunk[0].payload[8 + i], 0);
	spec_chunks_free(c);
	peer_close(fd);
}

static void df_too_long_has_no_content(void **state)
{
	struct spec_chunks *c;
	int fd = spec_chunks();

	(void)state;
	peer_request(fd, NBD_CMD_FLAG_DF, NBD_CMD_READ, 5, 0, NBD_MAX_PAYLOAD + 1);
	c = spec_gather(fd, 5);
	assert_int_equal(c->count, 1);
	assert_int_equal(c->chunk[0].error, NBD_EOVERFLOW);
	spec_chunks_free(c);
	spec_lives(fd);
	peer_close(fd);
}

static void df_of_64_kib_is_served(void **state)
{
	static const uint32_t lengths[] = {1, 512, 65535, 65536};
	int fd = spec_chunks();
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(lengths); i++)
		assert_int_equal(spec_do(fd, NBD_CMD_FLAG_DF, NBD_CMD_READ, 3, lengths[i]), 0);
	peer_close(fd);
}

/* A long unfragmented reply among short ones: nothing may come between its pieces. */
static void chunks_of_replies_may_interleave_but_not_tear(void **state)
{
	struct spec_msg msg;
	unsigned left = 9, i;
	int fd = spec_chunks();

	(void)state;
	for (i = 0; i < 4; i++)
		peer_request(fd, 0, NBD_CMD_READ, i, i * 4096, MIB);
	peer_request(fd, NBD_CMD_FLAG_DF, NBD_CMD_READ, 4, 0, 8 * MIB);
	for (i = 5; i < 9; i++)
		peer_request(fd, 0, i % 2 ? NBD_CMD_READ : NBD_CMD_FLUSH, i, 0, i % 2 ? MIB : 0);
	while (left) {
		spec_msg(fd, &msg);
		assert_true(msg.cookie < 9);
		assert_int_equal(msg.error, 0);
		left -= msg.magic == NBD_SIMPLE_MAGIC || (msg.flags & NBD_REPLY_FLAG_DONE);
		spec_msg_free(&msg);
	}
	peer_close(fd);
}

static void a_read_of_nothing_keeps_the_connection(void **state)
{
	int fd = spec_chunks();

	(void)state;
	spec_do(fd, 0, NBD_CMD_READ, 0, 0);
	spec_lives(fd);
	peer_close(fd);
	fd = spec_simple();
	spec_do(fd, 0, NBD_CMD_READ, 0, 0);
	spec_lives(fd);
	peer_close(fd);
}

int main(void)
{
	static const struct CMUnitTest rules[] = {
		RULE("Transmission",
		     "without client negotiation, the server MUST use only simple replies",
		     without_negotiation_all_replies_are_simple),
		RULE("Transmission",
		     "In each reply message, the server MUST use the same value for cookie as was "
		     "sent by the client",
		     replies_have_the_cookie_of_their_request),
		RULE("Simple reply message",
		     "The simple reply message MUST be sent in response to all requests if "
		     "structured replies have not been negotiated",
		     without_negotiation_all_replies_are_simple),
		RULE("Structured reply chunk message",
		     "The server MUST NOT send this reply type unless the client has successfully "
		     "negotiated structured replies",
		     without_negotiation_all_replies_are_simple),
		RULE("Structured reply chunk message",
		     "the server MUST use a structured reply for any response with a payload",
		     payload_comes_in_chunks),
		RULE("Structured reply chunk message",
		     "and MUST NOT use a simple reply for NBD_CMD_READ (even for an early "
		     "NBD_EINVAL)",
		     reads_are_never_answered_simply),
		RULE("Structured reply chunk message",
		     "the chunk with the flag NBD_REPLY_FLAG_DONE MUST be sent last",
		     done_is_sent_last),
		RULE("Structured reply chunk message",
		     "but MUST NOT mark a chunk as final if there is still a possibility of "
		     "detecting an error",
		     no_chunk_is_final_while_an_error_is_possible),
		RULE("Structured reply chunk message",
		     "it is always safe to interleave chunks with messages related to other "
		     "requests",
		     chunks_of_replies_may_interleave_but_not_tear),
		RULE("Structured reply flags",
		     "the server MUST clear [DONE] if more structured reply chunks will be sent "
		     "for the same client request",
		     done_is_sent_last),
		RULE("Structured reply flags", "and MUST set this bit if this is the final reply",
		     an_only_chunk_is_final),
		RULE("Structured reply flags",
		     "This bit MUST always be set for the NBD_REPLY_TYPE_NONE chunk",
		     none_is_always_final),
		RULE("Structured reply flags", "The server MUST NOT set any other flags",
		     no_other_reply_flag_is_set),
		RULE("Structured reply types",
		     "A server MUST NOT send a chunk where any variable-length portion is larger "
		     "than any advertised maximum payload size",
		     no_chunk_exceeds_the_maximum_payload),
		RULE("NBD_REPLY_TYPE_NONE", "length MUST be 0", none_is_empty),
		RULE("NBD_REPLY_TYPE_NONE",
		     "This chunk type MUST always be used with the NBD_REPLY_FLAG_DONE bit set",
		     none_is_always_final),
		RULE("NBD_REPLY_TYPE_OFFSET_DATA", "length MUST be at least 9",
		     data_has_at_least_a_byte),
		RULE("NBD_REPLY_TYPE_OFFSET_DATA",
		     "The data MUST lie within the bounds of the original offset and length",
		     data_lies_within_the_request),
		RULE("NBD_REPLY_TYPE_OFFSET_DATA",
		     "and MUST NOT overlap with any earlier content chunk or error chunk",
		     data_does_not_overlap),
		RULE("NBD_REPLY_TYPE_OFFSET_HOLE", "length MUST be exactly 12",
		     holes_are_twelve_bytes),
		RULE("NBD_REPLY_TYPE_OFFSET_HOLE",
		     "The hole MUST lie within the bounds of the original offset and length",
		     data_lies_within_the_request),
		RULE("NBD_REPLY_TYPE_OFFSET_HOLE",
		     "and MUST NOT overlap with any earlier content chunk or error chunk",
		     data_does_not_overlap),
		RULE("NBD_REPLY_TYPE_OFFSET_HOLE", "hole size MUST be nonzero",
		     holes_are_twelve_bytes),
		RULE("NBD_REPLY_TYPE_ERROR", "length MUST be at least 6",
		     error_chunks_have_6_bytes),
		RULE("NBD_REPLY_TYPE_ERROR",
		     "message length MUST NOT exceed the 4096 bytes string length limit",
		     error_messages_are_short),
		RULE("NBD_REPLY_TYPE_ERROR", "error MUST be nonzero", error_chunks_have_an_error),
		RULE("NBD_CMD_READ",
		     "The server MUST reply with either a simple reply or a structured reply, "
		     "according to [negotiation]",
		     reads_are_never_answered_simply),
		RULE("NBD_CMD_READ",
		     "If structured replies were not negotiated, then a read request MUST always "
		     "be answered by a simple reply",
		     a_simple_reply_to_a_read_has_all_its_bytes),
		RULE("NBD_CMD_READ",
		     "[an error in a simple reply] it MUST NOT send any payload for this request",
		     an_error_has_no_payload),
		RULE("NBD_CMD_READ",
		     "If an error occurs after the reply header, the server MUST immediately "
		     "initiate a hard disconnect; it MUST NOT send any further data",
		     an_error_after_the_header_ends_the_connection),
		RULE("NBD_CMD_READ",
		     "If structured replies are negotiated, then a read request MUST result in a "
		     "structured reply",
		     reads_are_never_answered_simply),
		RULE("NBD_CMD_READ", "each chunk MUST describe at least one byte",
		     data_has_at_least_a_byte),
		RULE("NBD_CMD_READ",
		     "The server MUST NOT send content chunks that overlap with any earlier "
		     "content or error chunk",
		     data_does_not_overlap),
		RULE("NBD_CMD_READ",
		     "and MUST NOT send chunks that describe data outside the offset and length "
		     "of the request",
		     data_lies_within_the_request),
		RULE("NBD_CMD_READ",
		     "When no error is detected, the server MUST send enough data chunks to cover "
		     "the entire region",
		     chunks_cover_the_whole_request),
		RULE("NBD_CMD_READ",
		     "MUST NOT [set DONE] for a content chunk if it would still be possible to "
		     "detect an error",
		     no_chunk_is_final_while_an_error_is_possible),
		RULE("NBD_CMD_READ",
		     "If an error is detected, the server MUST still complete the transmission of "
		     "any current chunk",
		     a_chunk_that_fails_is_completed_with_padding),
		RULE("NBD_CMD_READ", "it MUST use padding bytes which SHOULD be zero",
		     a_chunk_that_fails_is_completed_with_padding),
		RULE("NBD_CMD_READ",
		     "The server MUST include an error chunk as one of the subsequent chunks",
		     an_error_is_told_in_a_subsequent_chunk),
		RULE("NBD_CMD_READ",
		     "MUST ensure that the content chunk is sent first if a content and error "
		     "chunk cover the same offset",
		     content_precedes_its_error),
		RULE("NBD_CMD_READ", "[with DF] the server MUST send at most one content chunk",
		     df_means_one_content_chunk),
		RULE("NBD_CMD_READ",
		     "[with DF] the server MUST use NBD_REPLY_TYPE_OFFSET_DATA with the zeroes "
		     "explicitly present",
		     df_has_zeroes_explicitly),
		RULE("NBD_CMD_READ",
		     "NBD_EOVERFLOW [with DF], in which case it MUST NOT send a content chunk",
		     df_too_long_has_no_content),
		RULE("NBD_CMD_READ",
		     "the server MUST support unfragmented reads [of up to] 65,536 bytes",
		     df_of_64_kib_is_served),
		RULE("NBD_CMD_READ",
		     "[a length of 0] is unspecified although the server SHOULD NOT disconnect",
		     a_read_of_nothing_keeps_the_connection),
	};

	return spec_run("replies", rules, ARRAY_SIZE(rules));
}
