/* How bytes arrive and in which order replies leave. The specification leaves both open: TCP is a
 * stream, and a server may reply out of order. */
#include <linux/sockios.h>
#include <pthread.h>
#include <sys/ioctl.h>

#include "nbd/conn.h"
#include "tests/support/nbdspec.h"

/* Sends [p, p + len) and waits until the server has received all of it, so that what is sent next
 * is another receive. */
static void send_apart(int fd, const void *p, size_t len)
{
	int unread = 1;

	peer_send(fd, p, len);
	while (!ioctl(fd, SIOCOUTQ, &unread) && unread)
		sched_yield();
	assert_int_equal(unread, 0);
}

static size_t put_request(unsigned char *p, enum spec_style style, uint16_t type, uint64_t cookie,
			  uint64_t off, uint32_t len)
{
	if (style != SPEC_EXTENDED) {
		peer_put_request(p, 0, type, cookie, off, len);
		return NBD_REQUEST_SIZE;
	}
	peer_put_ext_request(p, type == NBD_CMD_WRITE ? NBD_CMD_FLAG_PAYLOAD_LEN : 0, type, cookie,
			     off, len);
	return NBD_EXT_REQUEST_SIZE;
}

/* WRITE, its payload, FLUSH, and the WRITE_ZEROES that follows: as one run of bytes. */
struct run {
	unsigned char *p;
	size_t size;
	uint64_t off;
	uint32_t len; /* of the payload */
};

static void run_make(struct run *run, enum spec_style style, uint64_t off, uint32_t len)
{
	unsigned char *p = malloc(len + 3 * NBD_EXT_REQUEST_SIZE);

	assert_non_null(p);
	*run = (struct run){.p = p, .off = off, .len = len};
	p += put_request(p, style, NBD_CMD_WRITE, 1, off, len) + len;
	p += put_request(p, style, NBD_CMD_FLUSH, 2, 0, 0);
	p += put_request(p, style, NBD_CMD_WRITE_ZEROES, 3, off + len, 7);
	run->size = p - run->p;
}

/* Sends it in two parts, with other payload each time, and looks at what came of it. */
static void run_cut_at(const struct run *run, int fd, enum spec_style style, size_t cut)
{
	unsigned char *payload =
		run->p + (style == SPEC_EXTENDED ? NBD_EXT_REQUEST_SIZE : NBD_REQUEST_SIZE);
	unsigned left = 3;

	rig_pattern(payload, run->len, cut);
	memset(spec.rig->mem.data + run->off, 0xee, run->len + 8);
	send_apart(fd, run->p, cut);
	peer_send(fd, run->p + cut, run->size - cut);
	while (left--) {
		struct spec_msg msg;

		spec_msg(fd, &msg);
		assert_true(msg.cookie >= 1 && msg.cookie <= 3);
		assert_int_equal(msg.error, 0);
		spec_msg_free(&msg);
	}
	assert_int_equal(nbd_export_flush(spec.rig->export), 0);
	assert_memory_equal(spec.rig->mem.data + run->off, payload, run->len);
	assert_true(bytes_all_zero(spec.rig->mem.data + run->off + run->len, 7));
	assert_int_equal(spec.rig->mem.data[run->off + run->len + 7], 0xee);
}

static void any_byte_may_be_the_last_of_a_receive(void **state)
{
	enum spec_style style;

	(void)state;
	for (style = 0; style < SPEC_STYLES; style++) {
		int fd = spec_enter(RIG_NAME, style);
		struct run run;
		size_t cut;

		run_make(&run, style, 4093, 100);
		for (cut = 1; cut < run.size; cut++)
			run_cut_at(&run, fd, style, cut);
		free(run.p);
		peer_close(fd);
	}
}

/* The server's buffers hold 16 KiB and 256 KiB: cuts around every place where one may end. */
static void long_cuts(enum spec_style style)
{
	static const uint32_t lengths[] = {16384, 300000, 540000};
	static const size_t edges[] = {32, 16384, 32768, 262144, 278528, 524288};
	int fd = spec_enter(RIG_NAME, style);
	unsigned i, k;

	for (i = 0; i < ARRAY_SIZE(lengths); i++) {
		struct run run;
		size_t d;

		run_make(&run, style, 1 << 20, lengths[i]);
		for (k = 0; k < ARRAY_SIZE(edges); k++)
			for (d = 0; d < 64; d += 3)
				if (edges[k] - 32 + d > 0 && edges[k] - 32 + d < run.size)
					run_cut_at(&run, fd, style, edges[k] - 32 + d);
		for (d = 1; d < 96; d += 3)
			run_cut_at(&run, fd, style, run.size - d);
		free(run.p);
	}
	peer_close(fd);
}

static void payload_may_end_on_any_boundary(void **state)
{
	(void)state;
	long_cuts(SPEC_SIMPLE);
	long_cuts(SPEC_EXTENDED);
}

static void payload_may_end_on_any_boundary_while_the_disk_is_busy(void **state)
{
	(void)state;
	atomic_store(&spec.rig->mem.bite, 40001);
	atomic_store(&spec.rig->mem.eagain_every, 3);
	long_cuts(SPEC_CHUNKS);
}

static void a_payload_may_come_in_single_bytes(void **state)
{
	int fd = spec_chunks();
	unsigned char *data;
	struct run run;
	size_t i;

	(void)state;
	run_make(&run, SPEC_CHUNKS, 77, 20000); /* longer than the connection's own buffer */
	data = run.p + NBD_REQUEST_SIZE;
	rig_pattern(data, run.len, 5);
	for (i = 0; i < run.size; i++)
		peer_send(fd, run.p + i, 1);
	for (i = 0; i < 3; i++) {
		struct spec_msg msg;

		spec_msg(fd, &msg);
		assert_int_equal(msg.error, 0);
		spec_msg_free(&msg);
	}
	assert_int_equal(nbd_export_flush(spec.rig->export), 0);
	assert_memory_equal(spec.rig->mem.data + 77, data, run.len);
	free(run.p);
	peer_close(fd);
}

static size_t put_option(unsigned char *p, uint32_t code, const void *data, size_t len)
{
	store_be64(p, NBD_OPTION_MAGIC);
	store_be32(p + 8, code);
	store_be32(p + 12, len);
	memcpy(p + NBD_OPTION_SIZE, data, len);
	return NBD_OPTION_SIZE + len;
}

/* Client flags, an unknown option, SET_META_CONTEXT, GO, BLOCK_STATUS, on either worker. */
static void a_session_may_be_cut_at_any_byte(void **state)
{
	static const char *const contexts[] = {"base:allocation"};
	unsigned char session[512], data[128], *p = session;
	size_t cut;

	(void)state;
	store_be32(p, SPEC_FLAGS);
	p += 4;
	p += put_option(p, 99, "whatever", 8);
	p += put_option(p, NBD_OPT_STRUCTURED_REPLY, "", 0);
	p += put_option(p, NBD_OPT_SET_META_CONTEXT, data,
			peer_meta_data(data, RIG_NAME, contexts, 1));
	p += put_option(p, NBD_OPT_GO, data, peer_info_data(data, RIG_NAME, NULL, 0));
	peer_put_request(p, 0, NBD_CMD_BLOCK_STATUS, 9, 0, 512);
	p += NBD_REQUEST_SIZE;
	for (cut = 1; cut < (size_t)(p - session); cut++) {
		static const uint32_t types[] = {NBD_REP_ERR_UNSUP,    NBD_REP_ACK,
						 NBD_REP_META_CONTEXT, NBD_REP_ACK,
						 NBD_REP_INFO,	       NBD_REP_ACK};
		unsigned char greeting[NBD_GREETING_SIZE];
		int fd = spec_connect();
		struct peer_rep rep;
		unsigned i;

		send_apart(fd, session, cut);
		peer_send(fd, session + cut, p - session - cut);
		peer_recv(fd, greeting, sizeof(greeting));
		for (i = 0; i < ARRAY_SIZE(types); i++) {
			peer_rep(fd, &rep);
			assert_int_equal(rep.type, types[i]);
		}
		assert_int_equal(spec_answer(fd, 9), 0);
		peer_close(fd);
	}
}

/* --- order ------------------------------------------------------------------------------------ */

#define MANY 20000
#define SLOT 512U /* of the export, one a request */

struct sender {
	int fd;
	enum spec_style style;
};

/* By turns: a WRITE, and something else that leaves its slot alone or makes it zero. */
static void *send_many(void *arg)
{
	static const uint16_t others[] = {NBD_CMD_READ, NBD_CMD_WRITE_ZEROES, NBD_CMD_CACHE,
					  NBD_CMD_FLUSH, NBD_CMD_TRIM};
	const struct sender *s = arg;
	unsigned char b[NBD_EXT_REQUEST_SIZE + SLOT];
	unsigned i;

	for (i = 0; i < MANY; i++) {
		uint16_t cmd = i % 2 ? others[i / 2 % ARRAY_SIZE(others)] : NBD_CMD_WRITE;
		size_t n = put_request(b, s->style, cmd, i,
				       cmd == NBD_CMD_FLUSH ? 0 : (uint64_t)i * SLOT,
				       cmd == NBD_CMD_FLUSH ? 0 : SLOT);

		if (cmd == NBD_CMD_WRITE) {
			rig_pattern(b + n, SLOT, i);
			n += SLOT;
		}
		if (send(s->fd, b, n, MSG_NOSIGNAL) != (ssize_t)n)
			break;
	}
	return NULL;
}

static void many_in_flight(enum spec_style style)
{
	struct sender s = {.fd = spec_enter(RIG_NAME, style), .style = style};
	unsigned char *seen = calloc(1, MANY), want[SLOT];
	unsigned left = MANY, i;
	pthread_t thread;

	assert_non_null(seen);
	assert_true(MANY * (uint64_t)SLOT <= RIG_SIZE);
	memset(spec.rig->mem.data, 0, MANY * (uint64_t)SLOT);
	pthread_create(&thread, NULL, send_many, &s);
	while (left) {
		struct spec_msg msg;

		spec_msg(s.fd, &msg);
		assert_true(msg.cookie < MANY && !seen[msg.cookie]);
		assert_int_equal(msg.error, 0);
		if (msg.magic == NBD_SIMPLE_MAGIC || msg.flags & NBD_REPLY_FLAG_DONE) {
			seen[msg.cookie] = 1;
			left--;
		}
		spec_msg_free(&msg);
	}
	pthread_join(thread, NULL);
	assert_int_equal(nbd_export_flush(spec.rig->export), 0);
	for (i = 0; i < MANY; i++) {
		memset(want, 0, sizeof(want));
		if (i % 2 == 0)
			rig_pattern(want, SLOT, i);
		assert_memory_equal(spec.rig->mem.data + (uint64_t)i * SLOT, want, SLOT);
	}
	free(seen);
	peer_close(s.fd);
}

static void thousands_in_flight_are_answered_once_each(void **state)
{
	(void)state;
	many_in_flight(SPEC_CHUNKS);
	many_in_flight(SPEC_EXTENDED);
}

/* What is quick overtakes what is slow, on the same connection and on others. */
static void replies_leave_as_requests_complete(void **state)
{
	unsigned char byte = 1;
	int a = spec_chunks(), b = spec_extended();
	unsigned slow = 0x7, i;

	(void)state;
	atomic_store(&spec.rig->mem.hold, true);
	spec_request(a, 0, NBD_CMD_FLUSH, 0, 0, 0);
	spec_request(a, 0, NBD_CMD_READ, 1, 0, 4096);
	spec_request(a, 0, NBD_CMD_WRITE_ZEROES, 2, 0, 4096);
	for (i = 0; i < 5; i++) {
		assert_int_equal(spec_write(a, 0, 8192, &byte, 1), 0);
		assert_int_equal(spec_write(b, 0, 8193, &byte, 1), 0);
		assert_int_equal(spec_do(a, 0, NBD_CMD_CACHE, 0, 512), 0);
		assert_int_equal(spec_do(b, 0, 99, 0, 512), NBD_EINVAL);
	}
	atomic_store(&spec.rig->mem.hold, false);
	while (slow) {
		struct spec_msg msg;

		spec_msg(a, &msg);
		assert_true(msg.cookie < 3 && (slow & 1U << msg.cookie));
		slow &= ~(1U << msg.cookie);
		spec_msg_free(&msg);
	}
	peer_close(a);
	peer_close(b);
}

static unsigned operations(void)
{
	return atomic_load(&spec.rig->mem.flushes) + atomic_load(&spec.rig->mem.zeroes);
}

/* More of what takes its time than the server keeps room for: 512 requests at once, 16 receive
 * buffers. The others wait, and none is lost. */
static void more_requests_than_room_wait(void **state)
{
	enum { CLIENTS = 12, EACH = 64 };
	unsigned before = operations(), i, k;
	int fds[CLIENTS];

	(void)state;
	atomic_store(&spec.rig->mem.hold, true);
	for (i = 0; i < CLIENTS; i++) {
		fds[i] = spec_enter(RIG_NAME, i % SPEC_STYLES);
		for (k = 0; k < EACH; k++)
			spec_request(fds[i], 0, k % 2 ? NBD_CMD_FLUSH : NBD_CMD_WRITE_ZEROES, k, 0,
				     k % 2 ? 0 : 512);
	}
	rig_await(operations() - before == NBD_SLOTS);
	atomic_store(&spec.rig->mem.hold, false);
	for (i = 0; i < CLIENTS; i++) {
		uint64_t seen = 0;

		for (k = 0; k < EACH; k++) {
			struct spec_msg msg;

			spec_msg(fds[i], &msg);
			assert_true(msg.cookie < EACH && !(seen & 1ULL << msg.cookie));
			assert_int_equal(msg.error, 0);
			seen |= 1ULL << msg.cookie;
			spec_msg_free(&msg);
		}
		peer_close(fds[i]);
	}
}

struct writer {
	pthread_t thread;
	int fd;
	uint64_t off;
	unsigned char *data;
};

#define WRITERS 24
#define LENGTH	600000U
#define FIRST	(NBD_INBUF - NBD_REQUEST_SIZE)

static void *write_rest(void *arg)
{
	struct writer *w = arg;

	send(w->fd, w->data + FIRST, LENGTH - FIRST, MSG_NOSIGNAL);
	return NULL;
}

/* So that what comes next goes through a receive buffer. */
static void write_first(struct writer *w, unsigned i)
{
	unsigned char b[NBD_REQUEST_SIZE];

	*w = (struct writer){.fd = spec_simple(), .off = i * (uint64_t)LENGTH};
	w->data = malloc(LENGTH);
	assert_non_null(w->data);
	memset(w->data, i + 1, LENGTH);
	peer_put_request(b, 0, NBD_CMD_WRITE, w->off, w->off, LENGTH);
	peer_send(w->fd, b, sizeof(b));
	peer_send(w->fd, w->data, FIRST);
	do
		assert_int_equal(nbd_export_flush(spec.rig->export), 0);
	while (spec.rig->mem.data[align_down(w->off + FIRST, NBD_SECTOR) - 1] != i + 1);
}

static void more_writers_than_room_wait(void **state)
{
	static struct writer writers[WRITERS];
	unsigned i, before;
	int other = spec_simple();

	(void)state;
	memset(spec.rig->mem.data, 0, WRITERS * (uint64_t)LENGTH);
	for (i = 0; i < WRITERS; i++)
		write_first(&writers[i], i);
	before = atomic_load(&spec.rig->mem.eagains);
	atomic_store(&spec.rig->mem.choked, true);
	for (i = 0; i < WRITERS; i++)
		pthread_create(&writers[i].thread, NULL, write_rest, &writers[i]);
	rig_await(atomic_load(&spec.rig->mem.eagains) - before == NBD_STAGING);
	spec_lives(other); /* who needs none of them */
	peer_close(other);
	atomic_store(&spec.rig->mem.choked, false);
	for (i = 0; i < WRITERS; i++) {
		struct writer *w = &writers[i];

		assert_int_equal(peer_simple_to(w->fd, w->off), 0);
		pthread_join(w->thread, NULL);
		assert_int_equal(nbd_export_flush(spec.rig->export), 0);
		assert_memory_equal(spec.rig->mem.data + w->off, w->data, LENGTH);
		free(w->data);
		peer_close(w->fd);
	}
}

int main(void)
{
	static const struct CMUnitTest rules[] = {
		RULE("Arrival", "a header, a payload and what follows may be cut at any byte",
		     any_byte_may_be_the_last_of_a_receive),
		RULE("Arrival", "a long payload may be cut at the end of any buffer",
		     payload_may_end_on_any_boundary),
		RULE("Arrival", "the same while the disk takes little at a time",
		     payload_may_end_on_any_boundary_while_the_disk_is_busy),
		RULE("Arrival", "a payload may come in single bytes",
		     a_payload_may_come_in_single_bytes),
		RULE("Arrival", "a negotiation and what follows may be cut at any byte",
		     a_session_may_be_cut_at_any_byte),
		RULE("Arrival", "thousands of requests in flight are answered once each",
		     thousands_in_flight_are_answered_once_each),
		RULE("Arrival", "more requests than there is room for wait",
		     more_requests_than_room_wait),
		RULE("Arrival", "more writers than there are receive buffers wait",
		     more_writers_than_room_wait),
		RULE("Arrival", "replies leave as requests complete, out of order",
		     replies_leave_as_requests_complete),
	};

	return spec_run("arrival", rules, ARRAY_SIZE(rules));
}
