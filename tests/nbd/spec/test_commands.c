/* What requests do: "Ordering of messages and writes", "Command flags", WRITE, DISC, FLUSH, TRIM,
 * CACHE, WRITE_ZEROES; "Terminating the transmission phase". */
#include "tests/support/nbdspec.h"

static struct memexport *mem(void)
{
	return &spec.rig->mem;
}

/* What the export holds, as its worker has made it visible. */
static const unsigned char *content(void)
{
	assert_int_equal(nbd_export_flush(spec.rig->export), 0);
	return mem()->data;
}

/* A READ by @fd (simple replies) of what was written there. */
static void assert_reads(int fd, uint64_t off, const void *want, uint32_t len)
{
	unsigned char *back = malloc(len);

	assert_non_null(back);
	peer_request(fd, 0, NBD_CMD_READ, 12, off, len);
	assert_int_equal(peer_simple_to(fd, 12), 0);
	peer_recv(fd, back, len);
	assert_memory_equal(back, want, len);
	free(back);
}

/* Nothing comes while the export holds its operations back; returns with @fd still silent. */
static void assert_silent(int fd)
{
	char c;

	usleep(20000);
	assert_int_equal(recv(fd, &c, 1, MSG_DONTWAIT | MSG_PEEK), -1);
}

/* --- flush and FUA ---------------------------------------------------------------------------- */

static const unsigned char ones[MIB] = {1, 1, 1, 1};

/* The export is told to flush after everything that was answered before. */
static void flush_waits_for_the_disk(void **state)
{
	unsigned before;
	int fd = spec_simple();

	(void)state;
	assert_int_equal(spec_write(fd, 0, 0, ones, 4096), 0);
	assert_int_equal(spec_do(fd, 0, NBD_CMD_WRITE_ZEROES, 4096, 4096), 0);
	assert_int_equal(spec_do(fd, 0, NBD_CMD_TRIM, 8192, 4096), 0);
	before = atomic_load(&mem()->flushes);
	atomic_store(&mem()->hold, true);
	peer_request(fd, 0, NBD_CMD_FLUSH, 3, 0, 0);
	rig_await(atomic_load(&mem()->flushes) == before + 1);
	assert_silent(fd);
	atomic_store(&mem()->hold, false);
	assert_int_equal(peer_simple_to(fd, 3), 0);
	peer_close(fd);
}

static void flush_tells_of_a_failure(void **state)
{
	int fd = spec_simple();

	(void)state;
	assert_int_equal(spec_write(fd, 0, 0, ones, 4096), 0);
	atomic_store(&mem()->flush_error, -ENOSPC);
	assert_int_equal(spec_do(fd, 0, NBD_CMD_FLUSH, 0, 0), NBD_ENOSPC);
	atomic_store(&mem()->flush_error, -EIO);
	assert_int_equal(spec_do(fd, 0, NBD_CMD_FLUSH, 0, 0), NBD_EIO);
	atomic_store(&mem()->flush_error, 0);
	assert_int_equal(spec_do(fd, 0, NBD_CMD_FLUSH, 0, 0), 0);
	peer_close(fd);
}

static void fua_waits_for_the_disk(void **state)
{
	static const uint16_t cmds[] = {NBD_CMD_WRITE, NBD_CMD_WRITE_ZEROES, NBD_CMD_TRIM};
	int fd = spec_simple();
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cmds); i++) {
		unsigned flushes = atomic_load(&mem()->flushes);
		unsigned zeroes = atomic_load(&mem()->zeroes);

		atomic_store(&mem()->hold, true);
		if (cmds[i] == NBD_CMD_WRITE) {
			peer_write(fd, NBD_CMD_FLAG_FUA, i, 0, ones, 4096);
			rig_await(atomic_load(&mem()->flushes) == flushes + 1);
		} else {
			peer_request(fd, NBD_CMD_FLAG_FUA, cmds[i], i, 0, 4096);
			rig_await(atomic_load(&mem()->zeroes) == zeroes + 1);
		}
		assert_silent(fd);
		atomic_store(&mem()->hold, false);
		assert_int_equal(peer_simple_to(fd, i), 0);
		assert_int_equal(atomic_load(&mem()->flushes), flushes + 1);
	}
	peer_close(fd);
}

static void fua_tells_of_a_failure(void **state)
{
	int fd = spec_simple();

	(void)state;
	atomic_store(&mem()->flush_error, -EIO);
	assert_int_equal(spec_write(fd, NBD_CMD_FLAG_FUA, 0, ones, 4096), NBD_EIO);
	assert_int_equal(spec_do(fd, NBD_CMD_FLAG_FUA, NBD_CMD_WRITE_ZEROES, 0, 4096), NBD_EIO);
	assert_int_equal(spec_do(fd, NBD_CMD_FLAG_FUA, NBD_CMD_TRIM, 0, 4096), NBD_EIO);
	assert_int_equal(spec_write(fd, 0, 0, ones, 4096), 0);
	peer_close(fd);
}

static void fua_is_accepted_with_every_command(void **state)
{
	static const struct {
		uint16_t cmd;
		uint32_t len;
	} rows[] = {
		{NBD_CMD_READ, 512},  {NBD_CMD_FLUSH, 0},	   {NBD_CMD_TRIM, 512},
		{NBD_CMD_CACHE, 512}, {NBD_CMD_WRITE_ZEROES, 512}, {NBD_CMD_BLOCK_STATUS, 512},
	};
	int fd = spec_allocation();
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++)
		assert_int_equal(spec_do(fd, NBD_CMD_FLAG_FUA, rows[i].cmd, 0, rows[i].len), 0);
	assert_int_equal(spec_write(fd, NBD_CMD_FLAG_FUA, 0, ones, 512), 0);
	peer_request(fd, NBD_CMD_FLAG_FUA, NBD_CMD_DISC, 1, 0, 0);
	assert_true(peer_at_end(fd));
	peer_close(fd);
}

/* Several connections: what one was told is written, all of them see and one of them flushes. */
static void flush_and_fua_count_for_all_connections(void **state)
{
	unsigned char data[3][4096];
	int a = spec_simple(), b = spec_simple(), c = spec_simple();
	unsigned before = atomic_load(&mem()->flushes);

	(void)state;
	rig_pattern(data[0], sizeof(data), 21);
	assert_int_equal(spec_write(a, 0, MIB, data[0], 4096), 0);
	assert_int_equal(spec_write(b, 0, MIB + 4096, data[1], 4096), 0);
	assert_int_equal(spec_do(c, 0, NBD_CMD_FLUSH, 0, 0), 0);
	assert_int_equal(atomic_load(&mem()->flushes), before + 1);
	assert_memory_equal(content() + MIB, data, 8192);
	assert_reads(c, MIB, data, 8192);
	assert_int_equal(spec_write(a, NBD_CMD_FLAG_FUA, MIB + 8192, data[2], 4096), 0);
	assert_memory_equal(content() + MIB + 8192, data[2], 4096);
	assert_reads(b, MIB, data, sizeof(data));
	assert_reads(c, MIB, data, sizeof(data));
	peer_close(a);
	peer_close(b);
	peer_close(c);
}

/* --- WRITE ------------------------------------------------------------------------------------ */

static void an_acknowledged_write_is_there(void **state)
{
	static const struct {
		uint64_t off;
		uint32_t len;
	} rows[] = {{0, 1}, {511, 2}, {4096, 4096}, {12345, 300000}, {RIG_SIZE - 513, 513}};
	unsigned char *data = malloc(300000);
	int fd = spec_simple();
	unsigned i;

	(void)state;
	assert_non_null(data);
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		rig_pattern(data, rows[i].len, i);
		assert_int_equal(spec_write(fd, 0, rows[i].off, data, rows[i].len), 0);
		assert_reads(fd, rows[i].off, data, rows[i].len);
		assert_memory_equal(content() + rows[i].off, data, rows[i].len);
	}
	free(data);
	peer_close(fd);
}

static void a_failed_write_says_so(void **state)
{
	int fd = spec_simple();

	(void)state;
	atomic_store(&mem()->write_error, -ENOSPC);
	assert_int_equal(spec_write(fd, 0, 0, ones, 4096), NBD_ENOSPC);
	atomic_store(&mem()->fail_from, 70000); /* the first piece is taken */
	assert_int_equal(spec_write(fd, 0, 0, ones, 100000), NBD_ENOSPC);
	atomic_store(&mem()->write_error, -EIO);
	assert_int_equal(spec_write(fd, 0, 70000, ones, 1), NBD_EIO);
	assert_int_equal(spec_write(fd, 0, 0, ones, 512), 0);
	peer_close(fd);
}

/* --- DISC and the end ------------------------------------------------------------------------- */

static void disc_closes_the_connection(void **state)
{
	int fd = spec_simple();

	(void)state;
	peer_request(fd, 0, NBD_CMD_DISC, 1, 0, 0);
	assert_true(peer_at_end(fd)); /* which is the case only if there is no reply */
	peer_close(fd);
}

static void disc_handles_outstanding_requests(void **state)
{
	unsigned char back[4096];
	unsigned left = 0x1f;
	uint64_t cookie;
	int fd = spec_simple();

	(void)state;
	atomic_store(&mem()->hold, true);
	peer_request(fd, 0, NBD_CMD_READ, 0, 0, sizeof(back));
	peer_request(fd, 0, NBD_CMD_WRITE_ZEROES, 1, 0, 4096);
	peer_request(fd, 0, NBD_CMD_FLUSH, 2, 0, 0);
	peer_write(fd, 0, 3, 5 * MIB, ones, MIB);
	peer_write(fd, NBD_CMD_FLAG_FUA, 4, 6 * MIB, ones, MIB);
	peer_request(fd, 0, NBD_CMD_DISC, 5, 0, 0);
	usleep(10000);
	atomic_store(&mem()->hold, false);
	while (left) {
		assert_int_equal(peer_simple(fd, &cookie), 0);
		assert_true(cookie < 5 && left & 1U << cookie);
		left &= ~(1U << cookie);
		if (cookie == 0)
			peer_recv(fd, back, sizeof(back));
	}
	assert_true(peer_at_end(fd));
	peer_close(fd);
	assert_memory_equal(content() + 5 * MIB, ones, MIB);
	assert_memory_equal(content() + 6 * MIB, ones, MIB);
}

static void errors_never_end_the_connection(void **state)
{
	static const struct {
		uint16_t flags, cmd;
		uint64_t off;
		uint32_t len;
	} rows[] = {
		{0, NBD_CMD_READ, 0, 0xffffffffU},
		{0, NBD_CMD_READ, UINT64_MAX, 1},
		{0xffdf, NBD_CMD_READ, 0, 512},
		{0, NBD_CMD_FLUSH, 1, 1},
		{0xffde, NBD_CMD_FLUSH, 0, 0},
		{0, NBD_CMD_TRIM, 0, 0xffffffffU},
		{0, NBD_CMD_WRITE_ZEROES, 0, 0xffffffffU},
		{0, NBD_CMD_CACHE, 0, 0xffffffffU},
		{0, NBD_CMD_BLOCK_STATUS, 0, 512},
		{0, 8, 0, 0},
		{0, 0xffff, UINT64_MAX, 0xffffffffU},
	};
	int fds[] = {spec_simple(), spec_chunks(), spec_allocation(), spec_extended(),
		     spec_enter(SPEC_RO, SPEC_CHUNKS)};
	unsigned i, k;

	(void)state;
	for (k = 0; k < ARRAY_SIZE(fds); k++) {
		for (i = 0; i < ARRAY_SIZE(rows); i++)
			if (k != 2 || rows[i].cmd != NBD_CMD_BLOCK_STATUS)
				assert_int_not_equal(spec_do(fds[k], rows[i].flags, rows[i].cmd,
							     rows[i].off, rows[i].len),
						     0);
		assert_int_not_equal(spec_write(fds[k], 0, RIG_SIZE, ones, MIB), 0);
		spec_lives(fds[k]);
		peer_close(fds[k]);
	}
}

/* Of all that is no request, the one thing that may: nobody knows where the next one starts. */
static void junk_may_end_the_connection(void **state)
{
	unsigned char b[NBD_REQUEST_SIZE];
	int fd = spec_simple(), other = spec_simple();

	(void)state;
	peer_put_request(b, 0, NBD_CMD_READ, 1, 0, 512);
	b[0] ^= 1;
	peer_send(fd, b, sizeof(b));
	assert_true(peer_at_end(fd));
	spec_lives(other);
	peer_close(fd);
	peer_close(other);
}

/* --- TRIM, CACHE, WRITE_ZEROES ---------------------------------------------------------------- */

static void empty_requests_keep_the_connection(void **state)
{
	static const uint16_t cmds[] = {NBD_CMD_WRITE, NBD_CMD_TRIM, NBD_CMD_CACHE,
					NBD_CMD_WRITE_ZEROES};
	int fd = spec_simple();
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(cmds); i++) {
		spec_do(fd, 0, cmds[i], 0, 0);
		spec_lives(fd);
	}
	peer_close(fd);
}

static void trim_touches_nothing_else(void **state)
{
	unsigned char data[12288];
	int fd = spec_simple();

	(void)state;
	rig_pattern(data, sizeof(data), 4);
	assert_int_equal(spec_write(fd, 0, 20 * MIB, data, sizeof(data)), 0);
	assert_int_equal(spec_do(fd, 0, NBD_CMD_TRIM, 20 * MIB + 5000, 1000), 0);
	assert_reads(fd, 20 * MIB, data, 5000);
	assert_reads(fd, 20 * MIB + 6000, data + 6000, sizeof(data) - 6000);
	peer_close(fd);
}

static void cache_changes_nothing(void **state)
{
	unsigned char data[8192];
	int fd = spec_simple();
	unsigned writes, zeroes;

	(void)state;
	rig_pattern(data, sizeof(data), 6);
	assert_int_equal(spec_write(fd, 0, 0, data, sizeof(data)), 0);
	writes = atomic_load(&mem()->writes);
	zeroes = atomic_load(&mem()->zeroes);
	assert_int_equal(spec_do(fd, 0, NBD_CMD_CACHE, 100, 5000), 0);
	assert_int_equal(spec_do(fd, 0, NBD_CMD_CACHE, 0, RIG_SIZE), 0);
	assert_reads(fd, 0, data, sizeof(data));
	assert_int_equal(spec_write(fd, 0, 100, data, 4096), 0);
	assert_reads(fd, 100, data, 4096);
	assert_int_equal(atomic_load(&mem()->writes), writes + 1);
	assert_int_equal(atomic_load(&mem()->zeroes), zeroes);
	peer_close(fd);
}

static void cache_past_the_end_is_an_error(void **state)
{
	int fd = spec_simple();

	(void)state;
	assert_int_equal(spec_do(fd, 0, NBD_CMD_CACHE, RIG_SIZE, 1), NBD_EINVAL);
	spec_lives(fd); /* which reads */
	peer_close(fd);
}

static void cache_refuses_unknown_flags(void **state)
{
	int fd = spec_simple();
	unsigned bit;

	(void)state;
	for (bit = 1; bit < 16; bit++)
		assert_int_equal(spec_do(fd, 1U << bit, NBD_CMD_CACHE, 0, 512), NBD_EINVAL);
	peer_close(fd);
}

/* Zeroes with @flags amid data, of lengths that are no multiple of anything. */
static void zeroes_read_back(uint16_t flags)
{
	unsigned char *data = malloc(200000);
	int fd = spec_simple();

	assert_non_null(data);
	memset(data, 0xaa, 200000);
	assert_int_equal(spec_write(fd, 0, 30 * MIB, data, 200000), 0);
	assert_int_equal(spec_do(fd, flags, NBD_CMD_WRITE_ZEROES, 30 * MIB + 777, 150001), 0);
	memset(data + 777, 0, 150001);
	assert_reads(fd, 30 * MIB, data, 200000);
	assert_memory_equal(content() + 30 * MIB, data, 200000);
	free(data);
	peer_close(fd);
}

static void zeroes_are_written_before_the_reply(void **state)
{
	(void)state;
	zeroes_read_back(0);
	zeroes_read_back(NBD_CMD_FLAG_FUA);
}

static void zeroes_by_trimming_read_as_zero(void **state)
{
	(void)state;
	zeroes_read_back(0);
	zeroes_read_back(NBD_CMD_FLAG_FAST_ZERO);
}

static void no_hole_is_supported(void **state)
{
	(void)state;
	zeroes_read_back(NBD_CMD_FLAG_NO_HOLE);
	zeroes_read_back(NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO | NBD_CMD_FLAG_FUA);
}

static void zeroes_without_fast_zero_are_never_refused_as_slow(void **state)
{
	static const uint32_t lengths[] = {1, 511, 65537, RIG_SIZE};
	int fd = spec_simple();
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(lengths); i++)
		assert_int_equal(spec_do(fd, 0, NBD_CMD_WRITE_ZEROES, 0, lengths[i]), 0);
	peer_close(fd);
}

/* All of it in one request: fast, or the error that says that it is not. */
static void fast_zero_is_fast_or_not_supported(void **state)
{
	int fd = spec_simple();
	uint32_t error = spec_do(fd, NBD_CMD_FLAG_FAST_ZERO, NBD_CMD_WRITE_ZEROES, 0, RIG_SIZE);

	(void)state;
	assert_true(error == 0 || error == NBD_ENOTSUP);
	peer_close(fd);
}

static void failed_zeroes_say_so(void **state)
{
	int fd = spec_simple();

	(void)state;
	atomic_store(&mem()->zero_error, -ENOSPC);
	assert_int_equal(spec_do(fd, 0, NBD_CMD_WRITE_ZEROES, 0, 4096), NBD_ENOSPC);
	atomic_store(&mem()->zero_error, -EIO);
	assert_int_equal(spec_do(fd, 0, NBD_CMD_WRITE_ZEROES, 0, 4096), NBD_EIO);
	assert_int_equal(spec_do(fd, 0, NBD_CMD_TRIM, 0, 4096), NBD_EIO);
	spec_lives(fd);
	peer_close(fd);
}

static void slow_zeroes_do_not_hold_up_others(void **state)
{
	uint64_t cookie;
	int fd = spec_simple();

	(void)state;
	atomic_store(&mem()->hold, true);
	peer_request(fd, 0, NBD_CMD_WRITE_ZEROES, 1, 0, 4096);
	peer_request(fd, 0, NBD_CMD_FLUSH, 2, 0, 0);
	peer_request(fd, 0, NBD_CMD_CACHE, 3, 0, 4096);
	peer_write(fd, 0, 4, 4096, ones, 512);
	assert_int_equal(peer_simple(fd, &cookie), 0);
	assert_true(cookie == 3);
	assert_int_equal(peer_simple(fd, &cookie), 0);
	assert_true(cookie == 4);
	atomic_store(&mem()->hold, false);
	assert_int_equal(peer_simple(fd, &cookie), 0);
	assert_int_equal(peer_simple(fd, &cookie), 0);
	peer_close(fd);
}

int main(void)
{
	static const struct CMUnitTest rules[] = {
		RULE("Ordering of messages and writes",
		     "The server MAY process commands out of order, and MAY reply out of order",
		     slow_zeroes_do_not_hold_up_others),
		RULE("Ordering of messages and writes",
		     "All write commands that the server completes prior to a NBD_CMD_FLUSH MUST "
		     "be written to non-volatile storage prior to replying",
		     flush_waits_for_the_disk),
		RULE("Ordering of messages and writes",
		     "A server MUST NOT reply to a command that has NBD_CMD_FLAG_FUA until the "
		     "data is persisted",
		     fua_waits_for_the_disk),
		RULE("Transmission flags",
		     "[with CAN_MULTI_CONN] the effects of NBD_CMD_FLUSH and NBD_CMD_FLAG_FUA "
		     "MUST be visible across all connections",
		     flush_and_fua_count_for_all_connections),
		RULE("Command flags",
		     "the server MUST accept all commands with [NBD_CMD_FLAG_FUA] set",
		     fua_is_accepted_with_every_command),
		RULE("Command flags",
		     "[with FUA] it MUST NOT send its reply until all write operations have been "
		     "completed and persisted",
		     fua_tells_of_a_failure),
		RULE("Command flags",
		     "The server MUST support [NO_HOLE] if it advertises "
		     "NBD_FLAG_SEND_WRITE_ZEROES",
		     no_hole_is_supported),
		RULE("Command flags",
		     "[with FAST_ZERO, if not faster] the server MUST fail quickly with "
		     "NBD_ENOTSUP",
		     fast_zero_is_fast_or_not_supported),
		RULE("NBD_CMD_WRITE",
		     "The server MUST write the data to disk, and then send the reply message",
		     an_acknowledged_write_is_there),
		RULE("NBD_CMD_WRITE",
		     "If an error occurs, the server MUST set the appropriate error code",
		     a_failed_write_says_so),
		RULE("NBD_CMD_WRITE",
		     "[a length of 0] is unspecified although the server SHOULD NOT disconnect",
		     empty_requests_keep_the_connection),
		RULE("NBD_CMD_DISC",
		     "The server MUST handle all outstanding requests and close the TCP session",
		     disc_handles_outstanding_requests),
		RULE("NBD_CMD_DISC", "There is no reply to an NBD_CMD_DISC",
		     disc_closes_the_connection),
		RULE("Terminating the transmission phase",
		     "[after NBD_CMD_DISC] the server MUST close the TCP connection",
		     disc_closes_the_connection),
		RULE("Terminating the transmission phase",
		     "The server MUST NOT initiate any form of disconnect other than in one of "
		     "the above circumstances",
		     errors_never_end_the_connection),
		RULE("Terminating the transmission phase",
		     "Either side MAY initiate a hard disconnect if it detects a violation of a "
		     "mandatory condition",
		     junk_may_end_the_connection),
		RULE("NBD_CMD_FLUSH",
		     "The server MUST NOT send a successful reply before all write requests for "
		     "which a reply has been sent have reached permanent storage",
		     flush_tells_of_a_failure),
		RULE("NBD_CMD_TRIM",
		     "A server MAY discard length bytes starting at offset [and no others]",
		     trim_touches_nothing_else),
		RULE("NBD_CMD_CACHE",
		     "If an error occurs, the server MUST set the appropriate error code",
		     cache_past_the_end_is_an_error),
		RULE("NBD_CMD_CACHE",
		     "there MUST NOT be any difference in semantics compared to if the client had "
		     "not used this command",
		     cache_changes_nothing),
		RULE("NBD_CMD_CACHE",
		     "the server MUST reject any command flags it does not recognize",
		     cache_refuses_unknown_flags),
		RULE("NBD_CMD_WRITE_ZEROES",
		     "The server MUST zero out the data on disk, and then send the reply message",
		     zeroes_are_written_before_the_reply),
		RULE("NBD_CMD_WRITE_ZEROES",
		     "the server MAY use trimming, but it MUST ensure that the data reads back as "
		     "zero",
		     zeroes_by_trimming_read_as_zero),
		RULE("NBD_CMD_WRITE_ZEROES",
		     "[without FAST_ZERO] the server MUST NOT fail with NBD_ENOTSUP",
		     zeroes_without_fast_zero_are_never_refused_as_slow),
		RULE("NBD_CMD_WRITE_ZEROES",
		     "[with FAST_ZERO] MUST fail quickly with NBD_ENOTSUP unless it takes less "
		     "time than a corresponding NBD_CMD_WRITE",
		     fast_zero_is_fast_or_not_supported),
		RULE("NBD_CMD_WRITE_ZEROES",
		     "If an error occurs, the server MUST set the appropriate error code",
		     failed_zeroes_say_so),
	};

	return spec_run("commands", rules, ARRAY_SIZE(rules));
}
