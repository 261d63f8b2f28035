/* "Error values": which one a request gets. All of these are SHOULDs, and kept. */
#include <limits.h>
#include <pthread.h>

#include "tests/support/nbdspec.h"

static const unsigned char bytes[4096];

/* Each reply style has its own way to say it. */
static void expect(const char *export, uint16_t flags, uint16_t cmd, uint64_t off, uint32_t len,
		   uint32_t error)
{
	enum spec_style style;

	for (style = 0; style < SPEC_STYLES; style++) {
		int fd = spec_enter(export, style);

		if (cmd == NBD_CMD_WRITE)
			assert_int_equal(spec_write(fd, flags, off, bytes, len), error);
		else
			assert_int_equal(spec_do(fd, flags, cmd, off, len), error);
		spec_lives(fd);
		peer_close(fd);
	}
}

static void writes_past_the_end_find_no_space(void **state)
{
	(void)state;
	expect(RIG_NAME, 0, NBD_CMD_WRITE, RIG_SIZE, 1, NBD_ENOSPC);
	expect(RIG_NAME, 0, NBD_CMD_WRITE, RIG_SIZE - 511, 512, NBD_ENOSPC);
	expect(RIG_NAME, 0, NBD_CMD_WRITE, INT64_MAX, 512, NBD_ENOSPC);
	expect(RIG_NAME, 0, NBD_CMD_WRITE, UINT64_MAX - 511, 512, NBD_ENOSPC);
	expect(RIG_NAME, 0, NBD_CMD_WRITE, UINT64_MAX, 4096, NBD_ENOSPC);
}

static void zeroes_past_the_end_find_no_space(void **state)
{
	(void)state;
	expect(RIG_NAME, 0, NBD_CMD_WRITE_ZEROES, RIG_SIZE, 1, NBD_ENOSPC);
	expect(RIG_NAME, 0, NBD_CMD_WRITE_ZEROES, RIG_SIZE - 511, 512, NBD_ENOSPC);
	expect(RIG_NAME, NBD_CMD_FLAG_FAST_ZERO, NBD_CMD_WRITE_ZEROES, 0, 0xffffffffU, NBD_ENOSPC);
	expect(RIG_NAME, 0, NBD_CMD_WRITE_ZEROES, UINT64_MAX, 0xffffffffU, NBD_ENOSPC);
}

static void reads_and_trims_past_the_end_are_invalid(void **state)
{
	static const uint16_t cmds[] = {NBD_CMD_READ, NBD_CMD_TRIM};
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cmds); i++) {
		expect(RIG_NAME, 0, cmds[i], RIG_SIZE, 1, NBD_EINVAL);
		expect(RIG_NAME, 0, cmds[i], RIG_SIZE - 511, 512, NBD_EINVAL);
		expect(RIG_NAME, 0, cmds[i], UINT64_MAX, 1, NBD_EINVAL);
		expect(RIG_NAME, 0, cmds[i], UINT64_MAX - 4095, 4096, NBD_EINVAL);
	}
}

static void changes_of_a_read_only_export_are_not_permitted(void **state)
{
	(void)state;
	expect(SPEC_RO, 0, NBD_CMD_WRITE, 0, 512, NBD_EPERM);
	expect(SPEC_RO, NBD_CMD_FLAG_FUA, NBD_CMD_WRITE, 0, 4096, NBD_EPERM);
	expect(SPEC_RO, 0, NBD_CMD_WRITE, SPEC_SMALL, 512, NBD_EPERM);
	expect(SPEC_RO, 0, NBD_CMD_TRIM, 0, 512, NBD_EPERM);
}

static void zeroes_of_a_read_only_export_are_not_permitted(void **state)
{
	(void)state;
	expect(SPEC_RO, 0, NBD_CMD_WRITE_ZEROES, 0, 512, NBD_EPERM);
	expect(SPEC_RO, NBD_CMD_FLAG_FAST_ZERO, NBD_CMD_WRITE_ZEROES, 0, 512, NBD_EPERM);
}

static void unknown_commands_are_invalid(void **state)
{
	static const uint16_t cmds[] = {8, 9, 0x7fff, 0x8000, 0xffff};
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cmds); i++) {
		expect(RIG_NAME, 0, cmds[i], 0, 0, NBD_EINVAL);
		expect(SPEC_RO, 0, cmds[i], 0, 512, NBD_EINVAL);
	}
}

static void unknown_flags_are_invalid(void **state)
{
	static const uint16_t cmds[] = {NBD_CMD_READ, NBD_CMD_WRITE, NBD_CMD_TRIM, NBD_CMD_CACHE,
					NBD_CMD_WRITE_ZEROES};
	unsigned i, bit;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cmds); i++)
		for (bit = 6; bit < 16; bit++)
			expect(RIG_NAME, 1U << bit, cmds[i], 0, 512, NBD_EINVAL);
	expect(RIG_NAME, 0x8000, NBD_CMD_FLUSH, 0, 0, NBD_EINVAL);
}

static void flags_of_other_commands_are_invalid(void **state)
{
	static const struct {
		uint16_t cmd, flags; /* each of them */
	} rows[] = {
		{NBD_CMD_READ,
		 NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_REQ_ONE | NBD_CMD_FLAG_FAST_ZERO},
		{NBD_CMD_WRITE, NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_DF | NBD_CMD_FLAG_REQ_ONE |
					NBD_CMD_FLAG_FAST_ZERO},
		{NBD_CMD_TRIM, NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_DF | NBD_CMD_FLAG_REQ_ONE |
				       NBD_CMD_FLAG_FAST_ZERO},
		{NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_DF | NBD_CMD_FLAG_REQ_ONE},
	};
	unsigned i, bit;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++)
		for (bit = 0; bit < 16; bit++)
			if (rows[i].flags & 1U << bit)
				expect(RIG_NAME, 1U << bit, rows[i].cmd, 0, 512, NBD_EINVAL);
}

static void df_is_invalid_where_it_is_not_announced(void **state)
{
	int fd = spec_simple();

	(void)state;
	assert_int_equal(spec_do(fd, NBD_CMD_FLAG_DF, NBD_CMD_READ, 0, 512), NBD_EINVAL);
	spec_lives(fd);
	peer_close(fd);
}

/* What the disk says, in the protocol's words. */
static void errors_of_the_disk(int error, uint32_t wire)
{
	struct memexport *mem = &spec.rig->mem;
	int fds[] = {spec_simple(), spec_chunks(), spec_extended()};
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(fds); i++) {
		atomic_store(&mem->write_error, error);
		atomic_store(&mem->zero_error, error);
		atomic_store(&mem->flush_error, error);
		atomic_store(&mem->read_error, error);
		assert_int_equal(spec_write(fds[i], 0, 0, bytes, 512), wire);
		assert_int_equal(spec_do(fds[i], 0, NBD_CMD_WRITE_ZEROES, 0, 512), wire);
		assert_int_equal(spec_do(fds[i], 0, NBD_CMD_TRIM, 0, 512), wire);
		assert_int_equal(spec_do(fds[i], 0, NBD_CMD_FLUSH, 0, 0), wire);
		assert_int_equal(spec_do(fds[i], 0, NBD_CMD_READ, 0, 512), wire);
		spec_reset(NULL);
		assert_int_equal(spec_write(fds[i], NBD_CMD_FLAG_FUA, 0, bytes, 512), 0);
		spec_lives(fds[i]);
		peer_close(fds[i]);
	}
}

static void no_space_by_any_name_is_enospc(void **state)
{
	(void)state;
	errors_of_the_disk(-ENOSPC, NBD_ENOSPC);
	errors_of_the_disk(-EDQUOT, NBD_ENOSPC);
	errors_of_the_disk(-EFBIG, NBD_ENOSPC);
}

/* Whatever else goes wrong down there, only values of the protocol go out. */
static void only_defined_values_are_sent(void **state)
{
	static const struct {
		int error;
		uint32_t wire;
	} rows[] = {
		{-EPERM, NBD_EPERM},   {-EACCES, NBD_EPERM},	    {-EROFS, NBD_EPERM},
		{-EIO, NBD_EIO},       {-ENOMEM, NBD_ENOMEM},	    {-EINVAL, NBD_EIO},
		{-ENOTSUP, NBD_EIO},   {-EOVERFLOW, NBD_EIO},	    {-EBADMSG, NBD_EIO},
		{-ENODEV, NBD_EIO},    {-ETIMEDOUT, NBD_EIO},	    {-ESTALE, NBD_EIO},
		{-EREMOTEIO, NBD_EIO}, {-ECANCELED, NBD_ESHUTDOWN}, {-INT_MAX, NBD_EIO},
	};
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++)
		errors_of_the_disk(rows[i].error, rows[i].wire);
}

static void overflow_is_for_long_reads_alone(void **state)
{
	static const uint32_t lengths[] = {NBD_MAX_PAYLOAD + 1, RIG_SIZE};
	static const uint16_t cmds[] = {NBD_CMD_TRIM, NBD_CMD_CACHE, NBD_CMD_WRITE_ZEROES};
	int structured = spec_chunks(), simple = spec_simple();
	unsigned i, k;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(lengths); i++) {
		assert_int_equal(spec_do(structured, 0, NBD_CMD_READ, 0, lengths[i]),
				 NBD_EOVERFLOW);
		assert_int_equal(spec_do(simple, 0, NBD_CMD_READ, 0, lengths[i]), NBD_EINVAL);
		for (k = 0; k < ARRAY_SIZE(cmds); k++)
			assert_int_not_equal(spec_do(structured, 0, cmds[k], 0, lengths[i]),
					     NBD_EOVERFLOW);
	}
	peer_close(structured);
	peer_close(simple);
}

static void not_supported_is_for_fast_zeroes_alone(void **state)
{
	static const uint16_t cmds[] = {NBD_CMD_READ,
					NBD_CMD_FLUSH,
					NBD_CMD_TRIM,
					NBD_CMD_CACHE,
					NBD_CMD_WRITE_ZEROES,
					NBD_CMD_BLOCK_STATUS,
					8,
					99};
	int fd = spec_chunks();
	unsigned i, flags;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cmds); i++)
		for (flags = 0; flags < 32; flags++)
			if (!(flags & NBD_CMD_FLAG_FAST_ZERO))
				assert_int_not_equal(spec_do(fd, flags, cmds[i], 0,
							     cmds[i] == NBD_CMD_FLUSH ? 0 : 512),
						     NBD_ENOTSUP);
	peer_close(fd);
}

/* A WRITE may be refused, but its payload is not taken for requests. */
static void the_payload_of_a_refused_write_is_consumed(void **state)
{
	unsigned char *requests = malloc(100 * NBD_REQUEST_SIZE);
	int fd = spec_simple();
	unsigned i;

	(void)state;
	assert_non_null(requests);
	for (i = 0; i < 100; i++)
		peer_put_request(requests + i * NBD_REQUEST_SIZE, 0, NBD_CMD_DISC, i, 0, 0);
	assert_int_equal(spec_write(fd, 0, RIG_SIZE, requests, 100 * NBD_REQUEST_SIZE), NBD_ENOSPC);
	assert_int_equal(spec_write(fd, 0x8000, 0, requests, 100 * NBD_REQUEST_SIZE), NBD_EINVAL);
	spec_lives(fd);
	free(requests);
	peer_close(fd);
}

/* --- ESHUTDOWN -------------------------------------------------------------------------------- */

/* An export that is taken away while the test talks to it. */
struct leaving {
	struct nbd_export *export;
	struct memexport mem;
	pthread_t thread;
	int result;
};

static void leaving_add(struct leaving *l)
{
	struct nbd_export_config config = {.name = "leaving", .size = SPEC_SMALL};
	struct err err = ERR_INIT;

	memexport_init(&l->mem, SPEC_SMALL);
	memset(l->mem.data, 7, SPEC_SMALL);
	rig_ok(nbd_export_add(spec.rig->server, &config, &memexport_received_ops, &l->mem,
			      &l->export, &err),
	       &err);
	atomic_store(&l->mem.hold, true);
}

static void *remove_export(void *arg)
{
	struct leaving *l = arg;

	l->result = nbd_export_remove(l->export, false);
	return NULL;
}

/* Returns when requests on @fd hear of it. */
static void leaving_begins(struct leaving *l, int fd)
{
	pthread_create(&l->thread, NULL, remove_export, l);
	while (spec_do(fd, 0, NBD_CMD_CACHE, 0, 1) != NBD_ESHUTDOWN)
		usleep(1000);
}

static void leaving_ends(struct leaving *l, int fd)
{
	assert_true(peer_at_end(fd));
	pthread_join(l->thread, NULL);
	assert_int_equal(l->result, 0);
	memexport_deinit(&l->mem);
	peer_close(fd);
}

static void requests_of_a_leaving_export_hear_of_it(void **state)
{
	static const uint16_t cmds[] = {NBD_CMD_READ, NBD_CMD_FLUSH, NBD_CMD_TRIM, NBD_CMD_CACHE,
					NBD_CMD_WRITE_ZEROES};
	struct leaving l;
	unsigned i;
	int fd;

	(void)state;
	leaving_add(&l);
	fd = spec_enter("leaving", SPEC_CHUNKS);
	peer_request(fd, 0, NBD_CMD_FLUSH, 1, 0, 0); /* in flight when the end begins */
	rig_await(atomic_load(&l.mem.flushes) == 1);
	leaving_begins(&l, fd);
	for (i = 0; i < ARRAY_SIZE(cmds); i++)
		assert_int_equal(spec_do(fd, 0, cmds[i], 0, cmds[i] == NBD_CMD_FLUSH ? 0 : 512),
				 NBD_ESHUTDOWN);
	assert_int_equal(spec_write(fd, 0, 0, bytes, 512), NBD_ESHUTDOWN);
	atomic_store(&l.mem.hold, false);
	assert_int_equal(spec_answer(fd, 1), 0);
	leaving_ends(&l, fd);
}

/* Reads beyond those that may run at once have not begun: they are refused, the others finish. */
static void what_has_begun_is_finished(void **state)
{
	enum { READS = 20 };
	unsigned refused = 0, begun, i;
	struct leaving l;
	int fd;

	(void)state;
	leaving_add(&l);
	fd = spec_enter("leaving", SPEC_CHUNKS);
	for (i = 0; i < READS; i++)
		peer_request(fd, 0, NBD_CMD_READ, i, i * 512, 512);
	peer_write(fd, 0, READS, 0, bytes, 1); /* answered behind all of those */
	assert_int_equal(spec_answer(fd, READS), 0);
	begun = atomic_load(&l.mem.reads);
	assert_true(begun > 0 && begun < READS);
	pthread_create(&l.thread, NULL, remove_export, &l);
	for (i = 0; i < READS; i++) {
		struct spec_msg msg;

		spec_msg(fd, &msg);
		assert_true(msg.cookie < READS && msg.flags == NBD_REPLY_FLAG_DONE);
		if (msg.error) {
			assert_int_equal(msg.error, NBD_ESHUTDOWN);
			refused++;
		} else {
			assert_int_equal(msg.payload[8 + 511], 7);
		}
		spec_msg_free(&msg);
		if (refused == READS - begun)
			atomic_store(&l.mem.hold, false);
	}
	assert_int_equal(refused, READS - begun);
	leaving_ends(&l, fd);
}

/* The second context has not been asked for when the end begins. */
static void a_status_half_done_is_refused_whole(void **state)
{
	static const char *const names[] = {"base:allocation", "sendense:received"};
	struct spec_reps reps;
	struct leaving l;
	int fd;

	(void)state;
	leaving_add(&l);
	fd = spec_structured();
	assert_int_equal(spec_meta(fd, NBD_OPT_SET_META_CONTEXT, "leaving", names, 2, &reps),
			 NBD_REP_ACK);
	assert_true(peer_go(fd, "leaving", NULL, NULL));
	peer_request(fd, 0, NBD_CMD_BLOCK_STATUS, 1, 0, 4096);
	rig_await(atomic_load(&l.mem.extents) == 1);
	leaving_begins(&l, fd);
	atomic_store(&l.mem.hold, false);
	assert_int_equal(spec_answer(fd, 1), NBD_ESHUTDOWN);
	leaving_ends(&l, fd);
}

int main(void)
{
	static const struct CMUnitTest rules[] = {
		RULE("Error values",
		     "The server SHOULD return NBD_ENOSPC if it receives a write request "
		     "including sectors beyond the size of the device",
		     writes_past_the_end_find_no_space),
		RULE("Error values", "It also SHOULD map the EDQUOT and EFBIG errors to NBD_ENOSPC",
		     no_space_by_any_name_is_enospc),
		RULE("Error values",
		     "It SHOULD return NBD_EINVAL if it receives a read or trim request including "
		     "sectors beyond the size of the device",
		     reads_and_trims_past_the_end_are_invalid),
		RULE("Error values",
		     "it SHOULD return NBD_EPERM if it receives a write or trim request on a "
		     "read-only export",
		     changes_of_a_read_only_export_are_not_permitted),
		RULE("Error values",
		     "The server SHOULD NOT return NBD_EOVERFLOW except as documented",
		     overflow_is_for_long_reads_alone),
		RULE("Error values",
		     "The server SHOULD NOT return NBD_ENOTSUP except as documented",
		     not_supported_is_for_fast_zeroes_alone),
		RULE("Error values",
		     "The server SHOULD return NBD_EINVAL if it receives an unknown command",
		     unknown_commands_are_invalid),
		RULE("Error values",
		     "The server SHOULD return NBD_EINVAL if it receives an unknown command flag",
		     unknown_flags_are_invalid),
		RULE("Error values",
		     "SHOULD return NBD_EINVAL [for] a flag not explicitly documented as "
		     "applicable to the given request",
		     flags_of_other_commands_are_invalid),
		RULE("Error values", "the allowed values for the error field have been restricted",
		     only_defined_values_are_sent),
		RULE("NBD_CMD_WRITE_ZEROES",
		     "The server SHOULD return NBD_ENOSPC if it receives a write zeroes request "
		     "beyond the size of the device",
		     zeroes_past_the_end_find_no_space),
		RULE("NBD_CMD_WRITE_ZEROES",
		     "It SHOULD return NBD_EPERM if it receives a write zeroes request on a "
		     "read-only export",
		     zeroes_of_a_read_only_export_are_not_permitted),
		RULE("Command flags",
		     "[DF] MUST NOT be set unless the transmission flags include NBD_FLAG_SEND_DF",
		     df_is_invalid_where_it_is_not_announced),
		RULE("Request message", "length bytes of data if the request is NBD_CMD_WRITE",
		     the_payload_of_a_refused_write_is_consumed),
		RULE("Terminating the transmission phase",
		     "On a server shutdown, the error value SHOULD be NBD_ESHUTDOWN",
		     requests_of_a_leaving_export_hear_of_it),
		RULE("Terminating the transmission phase",
		     "the server SHOULD wait for inflight requests to be serviced prior to "
		     "initiating a hard disconnect",
		     what_has_begun_is_finished),
		RULE("Terminating the transmission phase",
		     "A server MAY speed this process up by issuing error replies",
		     a_status_half_done_is_refused_whole),
	};

	return spec_run("errors", rules, ARRAY_SIZE(rules));
}
