#include "tests/support/nbdspec.h"

#define TABLE "docs/nbd-conformance.md"

struct spec spec;

/* --- the table -------------------------------------------------------------------------------- */

struct program {
	const char *file; /* as the document calls it */
	const struct CMUnitTest *rules;
	size_t count;
};

static const struct program *program;

static char *table; /* of the document */

static char *table_load(void)
{
	FILE *f = fopen(TABLE, "r");
	char *text = calloc(1, 1 << 20);

	if (!f || !text || !fread(text, 1, (1 << 20) - 1, f)) {
		fprintf(stderr, "cannot read " TABLE ": run this in the top folder\n");
		exit(1);
	}
	fclose(f);
	return text;
}

/* Cuts the next cell, without the space around it, off a row "| a | b | c |". */
static bool row_cell(char **row, char **cell)
{
	char *end = strchr(*row, '|'), *p = end;

	if (!end)
		return false;
	while (p > *row && p[-1] == ' ')
		p--;
	*p = '\0';
	*cell = *row + strspn(*row, " ");
	*row = end + 1;
	return true;
}

static bool rule_is_known(const char *section, const char *sentence)
{
	size_t n = strlen(section), i;

	for (i = 0; i < program->count; i++) {
		const char *name = program->rules[i].name;

		if (strncmp(name, section, n) == 0 && strncmp(name + n, ": ", 2) == 0 &&
		    strcmp(name + n + 2, sentence) == 0)
			return true;
	}
	return false;
}

/* Rows of this program: each is a rule, and there are as many of them as rules. */
static void the_table_of_the_document_and_that_of_the_program_agree(void **state)
{
	char *copy = strdup(table), *save = NULL, *row;
	size_t rows = 0;

	(void)state;
	assert_non_null(copy);
	for (row = strtok_r(copy, "\n", &save); row; row = strtok_r(NULL, "\n", &save)) {
		char *p = row + 1, *section, *sentence, *where;

		if (*row != '|' || !row_cell(&p, &section) || !row_cell(&p, &sentence) ||
		    !row_cell(&p, &where) || strcmp(where, program->file) != 0)
			continue;
		if (!rule_is_known(section, sentence))
			fail_msg("only in " TABLE ": %s: %s", section, sentence);
		rows++;
	}
	free(copy);
	if (rows != program->count)
		fail_msg("%zu rules, of which %zu are in " TABLE, program->count, rows);
}

/* --- the server ------------------------------------------------------------------------------- */

static struct nbd_export *spec_add(struct memexport *mem, const struct nbd_export_ops *ops,
				   struct nbd_export_config config)
{
	struct err err = ERR_INIT;
	struct nbd_export *export;

	memexport_init(mem, SPEC_SMALL);
	config.size = SPEC_SMALL;
	rig_ok(nbd_export_add(spec.rig->server, &config, ops, mem, &export, &err), &err);
	return export;
}

int spec_start(void **state)
{
	(void)state;
	spec.rig = rig_start((struct nbd_server_config){.workers = 2, .batch_count = 2});
	spec.ro_export = spec_add(&spec.ro, &memexport_ops,
				  (struct nbd_export_config){
					  .name = SPEC_RO,
					  .description = SPEC_DESCRIPTION,
					  .read_only = true,
				  });
	spec.small_export = spec_add(&spec.small, &memexport_ops,
				     (struct nbd_export_config){.name = SPEC_DEFAULT});
	spec.two_export = spec_add(&spec.two, &memexport_received_ops,
				   (struct nbd_export_config){.name = SPEC_TWO});
	return 0;
}

int spec_stop(void **state)
{
	spec_reset(state); /* what a failed test holds back must not hold up the end */
	nbd_export_remove(spec.ro_export, false);
	nbd_export_remove(spec.small_export, false);
	nbd_export_remove(spec.two_export, false);
	rig_stop(spec.rig);
	memexport_deinit(&spec.ro);
	memexport_deinit(&spec.small);
	memexport_deinit(&spec.two);
	return 0;
}

int spec_reset(void **state)
{
	struct memexport *mem = &spec.rig->mem;

	(void)state;
	atomic_store(&mem->bite, 0);
	atomic_store(&mem->eagain_every, 0);
	atomic_store(&mem->choked, false);
	atomic_store(&mem->hold, false);
	atomic_store(&mem->write_error, 0);
	atomic_store(&mem->read_error, 0);
	atomic_store(&mem->zero_error, 0);
	atomic_store(&mem->flush_error, 0);
	atomic_store(&mem->fail_from, 0);
	atomic_store(&mem->extent_size, 0);
	return 0;
}

int spec_run_own(const char *file, const struct CMUnitTest *rules, size_t count,
		 CMFixtureFunction setup, CMFixtureFunction teardown)
{
	const struct program this = {file, rules, count};
	const struct CMUnitTest document[] = {
		cmocka_unit_test(the_table_of_the_document_and_that_of_the_program_agree),
	};
	int failed;

	program = &this;
	table = table_load();
	failed = _cmocka_run_group_tests(file, rules, count, setup, teardown);
	failed += cmocka_run_group_tests(document, NULL, NULL);
	free(table);
	return failed;
}

int spec_run(const char *file, const struct CMUnitTest *rules, size_t count)
{
	return spec_run_own(file, rules, count, spec_start, spec_stop);
}

/* --- negotiation ------------------------------------------------------------------------------ */

static bool is_extended[1024]; /* by descriptor */

int spec_style(int fd, enum spec_style style)
{
	assert_true(fd >= 0 && (size_t)fd < ARRAY_SIZE(is_extended));
	is_extended[fd] = style == SPEC_EXTENDED;
	return fd;
}

int spec_connect(void)
{
	return spec_style(peer_connect(spec.rig->address), SPEC_SIMPLE);
}

int spec_greeted(void)
{
	int fd = spec_connect();

	peer_greet(fd, SPEC_FLAGS);
	return fd;
}

int spec_structured(void)
{
	int fd = spec_greeted();

	peer_option_expect(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
	return fd;
}

void spec_can_go(int fd)
{
	struct peer_export export;

	assert_true(peer_go(fd, RIG_NAME, &export, NULL));
	assert_true(export.size == RIG_SIZE);
	assert_int_equal(spec_do(fd, 0, NBD_CMD_FLUSH, 0, 0), 0);
	peer_close(fd);
}

static bool rep_is_final(uint32_t type)
{
	return type == NBD_REP_ACK || type & 0x80000000U;
}

uint32_t spec_option(int fd, uint32_t code, const void *data, size_t len, struct spec_reps *reps)
{
	struct peer_rep *rep;

	peer_option(fd, code, data, len);
	reps->count = 0;
	do {
		assert_true(reps->count < ARRAY_SIZE(reps->rep));
		rep = &reps->rep[reps->count++];
		peer_rep(fd, rep);
		assert_int_equal(rep->option, code);
	} while (!rep_is_final(rep->type));
	return rep->type;
}

uint32_t spec_info(int fd, uint32_t code, const char *name, const uint16_t *infos, unsigned count,
		   struct spec_reps *reps)
{
	unsigned char data[8192];

	return spec_option(fd, code, data, peer_info_data(data, name, infos, count), reps);
}

uint32_t spec_meta(int fd, uint32_t code, const char *name, const char *const *queries,
		   unsigned count, struct spec_reps *reps)
{
	unsigned char data[8192];

	return spec_option(fd, code, data, peer_meta_data(data, name, queries, count), reps);
}

/* --- transmission ----------------------------------------------------------------------------- */

int spec_enter(const char *name, enum spec_style style)
{
	const char *address = spec.rig->address;

	if (style == SPEC_EXTENDED)
		return spec_style(peer_enter_extended(address, name, NULL, 0, NULL), style);
	return spec_style(style == SPEC_CHUNKS ? peer_enter_structured(address, name)
					       : peer_enter(address, name),
			  style);
}

int spec_simple(void)
{
	return spec_enter(RIG_NAME, SPEC_SIMPLE);
}

int spec_chunks(void)
{
	return spec_enter(RIG_NAME, SPEC_CHUNKS);
}

int spec_extended(void)
{
	return spec_enter(RIG_NAME, SPEC_EXTENDED);
}

int spec_allocation(void)
{
	return spec_style(peer_enter_meta(spec.rig->address, RIG_NAME), SPEC_CHUNKS);
}

int spec_two(enum spec_style style, uint32_t ids[2])
{
	static const char *const names[] = {"base:allocation", "sendense:received"};
	struct spec_reps reps;
	int fd = spec_greeted();
	unsigned i;

	peer_option_expect(
		fd, style == SPEC_EXTENDED ? NBD_OPT_EXTENDED_HEADERS : NBD_OPT_STRUCTURED_REPLY,
		NULL, 0, NBD_REP_ACK);
	assert_int_equal(spec_meta(fd, NBD_OPT_SET_META_CONTEXT, SPEC_TWO, names, 2, &reps),
			 NBD_REP_ACK);
	assert_int_equal(reps.count, 3);
	for (i = 0; i < 2; i++)
		ids[i] = load_be32(reps.rep[i].data);
	assert_true(peer_go(fd, SPEC_TWO, NULL, NULL));
	return spec_style(fd, style);
}

void spec_request(int fd, uint16_t flags, uint16_t type, uint64_t cookie, uint64_t off,
		  uint64_t len)
{
	if (is_extended[fd]) {
		peer_ext_request(fd, flags, type, cookie, off, len);
		return;
	}
	assert_true(len <= UINT32_MAX);
	peer_request(fd, flags, type, cookie, off, len);
}

/* The rest of a header of which NBD_SIMPLE_SIZE bytes are there, and the payload's length. */
static uint64_t chunk_header(int fd, struct spec_msg *msg, unsigned char *b)
{
	bool extended = msg->magic == NBD_EXT_CHUNK_MAGIC;

	assert_true(extended || msg->magic == NBD_CHUNK_MAGIC);
	assert_int_equal(is_extended[fd], extended);
	peer_recv(fd, b + NBD_SIMPLE_SIZE, nbd_chunk_size(extended) - NBD_SIMPLE_SIZE);
	msg->flags = load_be16(b + 4);
	msg->type = load_be16(b + 6);
	if (!extended)
		return load_be32(b + 16);
	msg->off = load_be64(b + 16);
	return load_be64(b + 24);
}

void spec_msg(int fd, struct spec_msg *msg)
{
	unsigned char b[NBD_EXT_CHUNK_SIZE];
	uint64_t len;

	*msg = (struct spec_msg){0};
	peer_recv(fd, b, NBD_SIMPLE_SIZE);
	msg->magic = load_be32(b);
	msg->cookie = load_be64(b + 8);
	if (msg->magic == NBD_SIMPLE_MAGIC) {
		assert_false(is_extended[fd]);
		msg->error = load_be32(b + 4);
		return;
	}
	len = chunk_header(fd, msg, b);
	assert_true(len <= NBD_MAX_PAYLOAD + 8);
	msg->len = len;
	msg->payload = malloc(msg->len + 1);
	assert_non_null(msg->payload);
	peer_recv(fd, msg->payload, msg->len);
	if (msg->type & 0x8000)
		msg->error = load_be32(msg->payload);
}

void spec_msg_free(struct spec_msg *msg)
{
	free(msg->payload);
	msg->payload = NULL;
}

uint32_t spec_answer(int fd, uint64_t cookie)
{
	struct spec_msg msg;
	uint32_t error = 0;
	bool more;

	do {
		spec_msg(fd, &msg);
		assert_true(msg.cookie == cookie);
		more = msg.magic != NBD_SIMPLE_MAGIC && !(msg.flags & NBD_REPLY_FLAG_DONE);
		error = msg.error ? msg.error : error;
		spec_msg_free(&msg);
	} while (more);
	return error;
}

static uint64_t next_cookie(void)
{
	static uint64_t cookie = 0xc00c1e00c00c1e00ULL;

	return ++cookie;
}

uint32_t spec_do(int fd, uint16_t flags, uint16_t type, uint64_t off, uint64_t len)
{
	uint64_t cookie = next_cookie();

	spec_request(fd, flags, type, cookie, off, len);
	return spec_answer(fd, cookie);
}

uint32_t spec_write(int fd, uint16_t flags, uint64_t off, const void *p, uint32_t len)
{
	uint64_t cookie = next_cookie();

	if (is_extended[fd])
		flags |= NBD_CMD_FLAG_PAYLOAD_LEN;
	spec_request(fd, flags, NBD_CMD_WRITE, cookie, off, len);
	peer_send(fd, p, len);
	return spec_answer(fd, cookie);
}

void spec_lives(int fd)
{
	const uint64_t cookie = 0x11f311f311f3ULL;
	unsigned char byte;
	struct spec_msg msg;

	spec_request(fd, 0, NBD_CMD_READ, cookie, 0, 1);
	spec_msg(fd, &msg);
	assert_true(msg.cookie == cookie);
	assert_int_equal(msg.error, 0);
	if (msg.magic == NBD_SIMPLE_MAGIC)
		peer_recv(fd, &byte, 1);
	else
		assert_true(msg.flags & NBD_REPLY_FLAG_DONE);
	spec_msg_free(&msg);
}

struct spec_chunks *spec_gather(int fd, uint64_t cookie)
{
	struct spec_chunks *chunks = calloc(1, sizeof(*chunks));
	struct spec_msg *c;

	assert_non_null(chunks);
	do {
		assert_true(chunks->count < ARRAY_SIZE(chunks->chunk));
		c = &chunks->chunk[chunks->count++];
		spec_msg(fd, c);
		assert_int_not_equal(c->magic, NBD_SIMPLE_MAGIC);
		assert_true(c->cookie == cookie);
	} while (!(c->flags & NBD_REPLY_FLAG_DONE));
	return chunks;
}

void spec_chunks_free(struct spec_chunks *chunks)
{
	unsigned i;

	for (i = 0; i < chunks->count; i++)
		spec_msg_free(&chunks->chunk[i]);
	free(chunks);
}
