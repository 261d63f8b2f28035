/*
 * Clients that ask for much and read late, or never, while others want to read: nobody waits for
 * them, nothing of theirs is lost, and memory stays what it was.
 */
#include <pthread.h>
#include <sys/stat.h>

#include "nbd/retract.h"
#include "tests/nbd/rig.h"
#include "tests/support/scratch.h"
#include "tests/support/tlspeer.h"

#define PSK  "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define MUCH (1U << 20)

enum style { SIMPLE, STRUCTURED, WHOLE, STATUS, STYLES };

/* One worker, and no client is ever hung up on for its slowness. */
static int setup(void **state)
{
	struct rig *rig = rig_start((struct nbd_server_config){
		.workers = 1, .batch_count = 2, .stall_timeout_ms = 3600000});

	rig_pattern(rig->mem.data, RIG_SIZE, 3);
	atomic_store(&rig->mem.extent_size, 4096);
	*state = rig;
	/* From here on the bytes are the worker's to read. */
	return nbd_export_flush(rig->export);
}

static uint64_t retracted(const struct rig *rig)
{
	struct nbd_server_stats stats;

	nbd_server_get_stats(rig->server, &stats);
	assert_int_equal(stats.met[NBD_LIMIT_STALL], 0);
	return stats.retracted;
}

static int enter(const char *address, enum style style)
{
	if (style == STATUS)
		return peer_enter_meta(address, RIG_NAME);
	return style == SIMPLE ? peer_enter(address, RIG_NAME)
			       : peer_enter_structured(address, RIG_NAME);
}

/* --- asking and reading ----------------------------------------------------------------------- */

#define ASKED_MAX 64

struct asked {
	uint64_t off;
	uint32_t len, got;
	bool done;
};

/* What a client has asked for and not yet read. */
struct session {
	struct rig *rig;
	int fd;
	enum style style;
	unsigned count, open;
	struct asked asked[ASKED_MAX];
};

static void ask(struct session *s, uint64_t off, uint32_t len)
{
	assert_true(s->count < ASKED_MAX);
	peer_request(s->fd, s->style == WHOLE ? NBD_CMD_FLAG_DF : 0,
		     s->style == STATUS ? NBD_CMD_BLOCK_STATUS : NBD_CMD_READ, s->count, off, len);
	s->asked[s->count++] = (struct asked){.off = off, .len = len};
	s->open++;
}

static struct asked *asked_of(struct session *s, uint64_t cookie)
{
	assert_true(cookie < s->count && !s->asked[cookie].done);
	return &s->asked[cookie];
}

static void close_asked(struct session *s, struct asked *a)
{
	assert_int_equal(a->got, a->len);
	a->done = true;
	s->open--;
}

static void read_simple(struct session *s)
{
	uint64_t cookie;
	uint32_t error = peer_simple(s->fd, &cookie);
	struct asked *a = asked_of(s, cookie);
	unsigned char *back = malloc(a->len);

	assert_int_equal(error, 0);
	assert_non_null(back);
	peer_recv(s->fd, back, a->len);
	assert_memory_equal(back, s->rig->mem.data + a->off, a->len);
	free(back);
	a->got = a->len;
	close_asked(s, a);
}

/* Extents of 4 KiB, data and holes in turn. */
static void check_status(struct asked *a, const struct peer_chunk *c)
{
	uint64_t at = a->off;
	uint32_t i;

	for (i = 4; i < c->len; i += 8) {
		assert_int_equal(load_be32(c->data + i + 4), at / 4096 % 2 ? 3 : 0);
		at += load_be32(c->data + i);
		assert_true(at % 4096 == 0 || at == a->off + a->len);
	}
	a->got = at - a->off;
}

static void read_chunk(struct session *s)
{
	struct peer_chunk c;
	struct asked *a;

	peer_chunk(s->fd, &c);
	a = asked_of(s, c.cookie);
	if (c.type == NBD_REPLY_TYPE_OFFSET_DATA) {
		assert_true(c.off >= a->off && c.off + c.data_len <= a->off + a->len);
		assert_memory_equal(c.data, s->rig->mem.data + c.off, c.data_len);
		a->got += c.data_len;
	} else if (c.type == NBD_REPLY_TYPE_BLOCK_STATUS) {
		check_status(a, &c);
	} else {
		assert_int_equal(c.type, NBD_REPLY_TYPE_NONE);
	}
	if (c.flags & NBD_REPLY_FLAG_DONE)
		close_asked(s, a);
	peer_chunk_free(&c);
}

static void read_some(struct session *s)
{
	if (s->style == SIMPLE)
		read_simple(s);
	else
		read_chunk(s);
}

static void read_all(struct session *s)
{
	while (s->open)
		read_some(s);
	s->count = 0;
}

/* --- deaf for good ---------------------------------------------------------------------------- */

static long resident_kib(void)
{
	FILE *f = fopen("/proc/self/statm", "r");
	long size, resident;

	assert_non_null(f);
	assert_int_equal(fscanf(f, "%ld %ld", &size, &resident), 2);
	fclose(f);
	return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

/* Sanitizers keep books of their own about every byte. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED		      true
#define assert_grew_less(before, mib) ((void)(before))
#else
#define SANITIZED		      false
#define assert_grew_less(before, mib) assert_true(resident_kib() - (before) < (mib) << 10)
#endif

static void deaf_clients_keep_nobody_from_reading(void **state)
{
	enum { DEAF = 40, EACH = 8 };
	static struct session deaf[DEAF];
	struct rig *rig = *state;
	struct session good = {.rig = rig};
	long before = resident_kib();
	unsigned i, j;

	for (i = 0; i < DEAF; i++) {
		deaf[i] = (struct session){.rig = rig, .style = i % STATUS};
		deaf[i].fd = enter(rig->address, deaf[i].style);
		for (j = 0; j < EACH; j++)
			ask(&deaf[i], (i + j * 5) % 47 * MUCH + i, MUCH);
	}
	for (i = 0; i < STYLES; i++) {
		good.style = i;
		good.fd = enter(rig->address, i);
		for (j = 0; j < 40; j++)
			ask(&good, j * MUCH, MUCH);
		read_all(&good);
		peer_close(good.fd);
	}
	assert_true(retracted(rig) > 0);
	assert_grew_less(before, 24);
	/* And not a byte of theirs is lost, should they ever want it. */
	for (i = 0; i < DEAF; i++) {
		read_all(&deaf[i]);
		peer_close(deaf[i].fd);
	}
	retracted(rig);
}

/* More of them than pieces may be set aside: the rest is hung up on in the end. */
static void beyond_what_can_be_set_aside_the_stall_timeout_decides(void **state)
{
	enum { DEAF = NBD_PARKED + 40 };
	struct rig *rig = rig_start((struct nbd_server_config){.workers = 1,
							       .batch_count = 2,
							       .stall_timeout_ms = 10000,
							       .max_connections_per_export = 500});
	static struct session deaf[DEAF];
	struct session good = {.rig = rig};
	struct nbd_server_stats stats;
	unsigned i, j;

	(void)state;
	rig_pattern(rig->mem.data, RIG_SIZE, 3);
	assert_int_equal(nbd_export_flush(rig->export), 0);
	for (i = 0; i < DEAF; i++) {
		deaf[i] = (struct session){.rig = rig, .style = STRUCTURED};
		deaf[i].fd = enter(rig->address, STRUCTURED);
		for (j = 0; j < 4; j++)
			ask(&deaf[i], j * MUCH, MUCH);
	}
	good.fd = enter(rig->address, SIMPLE);
	for (j = 0; j < 40; j++)
		ask(&good, j * MUCH, MUCH);
	read_all(&good);
	nbd_server_get_stats(rig->server, &stats);
	assert_true(stats.retracted + stats.met[NBD_LIMIT_STALL] > 0);
	for (i = 0; i < DEAF; i++)
		peer_close(deaf[i].fd);
	peer_close(good.fd);
	rig_await(rig_stats(rig).connections == 0);
	rig_stop(rig);
}

/* --- late ------------------------------------------------------------------------------------- */

struct late {
	pthread_t thread;
	struct session s;
	unsigned seed;
};

static unsigned dice(struct late *l, unsigned sides)
{
	l->seed = l->seed * 1103515245 + 12345;
	return (l->seed >> 8) % sides;
}

/* A failed assert ends the program: no other thread of cmocka's could catch it. */
static void *late_main(void *arg)
{
	struct late *l = arg;
	unsigned round, i, n;

	for (round = 0; round < 6; round++) {
		n = 1 + dice(l, 6);
		for (i = 0; i < n; i++) {
			uint32_t len = 1 + dice(l, dice(l, 3) ? 3 << 20 : 9000);

			ask(&l->s, dice(l, RIG_SIZE - len), len);
		}
		usleep(dice(l, 4) * 100000);
		/* In the middle of a reply as well as between two. */
		for (i = dice(l, 6); i && l->s.open; i--)
			read_some(&l->s);
		usleep(dice(l, 4) * 100000);
		read_all(&l->s);
	}
	peer_close(l->s.fd);
	return NULL;
}

static void run_late(struct rig *rig, int (*enter_one)(struct rig *rig, enum style style))
{
	enum { LATE = 24 };
	static struct late late[LATE];
	unsigned i;

	for (i = 0; i < LATE; i++) {
		late[i] = (struct late){.seed = i * 7919, .s = {.rig = rig, .style = i % STYLES}};
		late[i].s.fd = enter_one(rig, late[i].s.style);
		assert_int_equal(pthread_create(&late[i].thread, NULL, late_main, &late[i]), 0);
	}
	for (i = 0; i < LATE; i++)
		pthread_join(late[i].thread, NULL);
	rig_await(rig_stats(rig).connections == 0);
	assert_int_equal(rig_stats(rig).depth, 0);
	assert_int_equal(rig_stats(rig).errors, 0);
}

static int enter_plain(struct rig *rig, enum style style)
{
	return enter(rig->address, style);
}

static void late_readers_get_every_byte(void **state)
{
	run_late(*state, enter_plain);
	assert_true(retracted(*state) > 0);
}

static char tls_address[200];

static int enter_tls(struct rig *rig, enum style style)
{
	static const struct tlspeer_wish wish = {.user = "alice", .psk = PSK};
	static const char *const queries[] = {"base:allocation"};
	unsigned char data[8192];
	struct peer_rep rep;
	int fd = peer_connect(tls_address);
	SSL *ssl;

	(void)rig;
	peer_greet(fd, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	peer_option_expect(fd, NBD_OPT_STARTTLS, NULL, 0, NBD_REP_ACK);
	ssl = tlspeer_connect(fd, &wish);
	assert_non_null(ssl);
	fd = tlspeer_tunnel(ssl, 16384, false);
	if (style != SIMPLE)
		peer_option_expect(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
	if (style == STATUS) {
		peer_option(fd, NBD_OPT_SET_META_CONTEXT, data,
			    peer_meta_data(data, RIG_NAME, queries, 1));
		peer_rep(fd, &rep);
		assert_int_equal(rep.type, NBD_REP_META_CONTEXT);
		peer_rep(fd, &rep);
		assert_int_equal(rep.type, NBD_REP_ACK);
	}
	assert_true(peer_go(fd, RIG_NAME, NULL, NULL));
	return fd;
}

static void late_readers_get_every_byte_through_tls(void **state)
{
	struct rig *rig = *state;
	struct nbd_listen_config config = {.tls = {.policy = NBD_TLS_REQUIRE, .psk = "keys.psk"}};
	struct err err = ERR_INIT;
	FILE *f = fopen("keys.psk", "w");

	assert_non_null(f);
	assert_int_equal(fchmod(fileno(f), 0600), 0);
	fputs("alice:" PSK "\n", f);
	fclose(f);
	snprintf(tls_address, sizeof(tls_address), "unix:%s/tls", rig->dir);
	rig_ok(nbd_server_listen(rig->server, tls_address, &config, NULL, 0, &err), &err);
	run_late(rig, enter_tls);
	assert_true(retracted(rig) > 0);
}

/* --- slow ------------------------------------------------------------------------------------- */

#define SLOW	  40
#define SLOW_PART 50000 /* bytes, each every 20 ms */

struct slow {
	int fd[SLOW];
	atomic_bool stop;
	atomic_ullong got;
	pthread_t thread;
};

/* All of them, steadily: none is ever without a move for long. */
static void *slow_main(void *arg)
{
	static unsigned char drop[SLOW_PART];
	struct slow *slow = arg;
	unsigned i;

	while (!atomic_load(&slow->stop)) {
		for (i = 0; i < SLOW; i++) {
			ssize_t n = recv(slow->fd[i], drop, sizeof(drop), MSG_DONTWAIT);

			atomic_fetch_add(&slow->got, n > 0 ? n : 0);
		}
		usleep(20000);
	}
	return NULL;
}

#define ROUNDS 10

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* Compared with what they got, so that it does not depend on the machine: a tenth of what the good
 * one got, and three times as much as the good one got when buffers waited for slow clients: that
 * is so in every round, while a machine that lets the good one wait does so in some. A sanitizer
 * makes the server itself the slow one. */
static void slow_clients_get_what_they_read_and_no_more(void **state)
{
	struct rig *rig = *state;
	struct session good = {.rig = rig};
	static struct slow slow;
	uint64_t slow_got[ROUNDS], before;
	unsigned i, j;

	memset(&slow, 0, sizeof(slow));
	for (i = 0; i < SLOW; i++) {
		slow.fd[i] = enter(rig->address, SIMPLE);
		for (j = 0; j < 60; j++)
			peer_request(slow.fd[i], 0, NBD_CMD_READ, j, j % 40 * MUCH, MUCH);
	}
	assert_int_equal(pthread_create(&slow.thread, NULL, slow_main, &slow), 0);
	/* What the kernel holds for them is used up, and they are waited for. */
	rig_await(atomic_load(&slow.got) > 3 * MUCH * SLOW);
	good.style = STRUCTURED;
	good.fd = enter(rig->address, STRUCTURED);
	for (i = 0; i < ROUNDS; i++) {
		before = atomic_load(&slow.got);
		for (j = 0; j < ASKED_MAX; j++)
			ask(&good, (i * ASKED_MAX + j) * 65536, 65536);
		read_all(&good);
		slow_got[i] = atomic_load(&slow.got) - before;
	}
	atomic_store(&slow.stop, true);
	pthread_join(slow.thread, NULL);
	qsort(slow_got, ROUNDS, sizeof(slow_got[0]), by_size);
	print_message("# slow clients got %llu to %llu bytes while one that is not got %u\n",
		      (unsigned long long)slow_got[0], (unsigned long long)slow_got[ROUNDS - 1],
		      ASKED_MAX * 65536);
	if (!SANITIZED && slow_got[2] > 2ULL * ASKED_MAX * 65536)
		fail_msg("%llu bytes went to slow clients while one that is not got %u",
			 (unsigned long long)slow_got[2], ASKED_MAX * 65536);
	for (i = 0; i < SLOW; i++)
		peer_close(slow.fd[i]);
	peer_close(good.fd);
}

/* --- ends ------------------------------------------------------------------------------------- */

/* Set aside, then gone: by hanging up, or because the export goes. */
static void who_was_set_aside_may_leave(void **state)
{
	enum { DEAF = 20 };
	static struct session deaf[DEAF];
	struct rig *rig = *state;
	struct session good = {.rig = rig};
	unsigned i, j;

	for (i = 0; i < DEAF; i++) {
		deaf[i] = (struct session){.rig = rig, .style = i % STATUS};
		deaf[i].fd = enter(rig->address, deaf[i].style);
		for (j = 0; j < 8; j++)
			ask(&deaf[i], j * MUCH, MUCH);
	}
	good.fd = enter(rig->address, SIMPLE);
	for (j = 0; j < 40; j++)
		ask(&good, j * MUCH, MUCH);
	read_all(&good);
	assert_true(retracted(rig) > 0);
	for (i = 0; i < DEAF; i += 2)
		peer_close(deaf[i].fd);
	rig_await(rig_stats(rig).connections == 1 + DEAF / 2);
	assert_int_equal(nbd_export_remove(rig->export, false), 0);
	rig->export = NULL;
	assert_true(peer_at_end(good.fd));
	peer_close(good.fd);
	for (i = 1; i < DEAF; i += 2) {
		peer_drain_to_end(deaf[i].fd);
		peer_close(deaf[i].fd);
	}
}

static int group_setup(void **state)
{
	return scratch_setup(state);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, rig_teardown)
	const struct CMUnitTest tests[] = {
		T(deaf_clients_keep_nobody_from_reading),
		cmocka_unit_test(beyond_what_can_be_set_aside_the_stall_timeout_decides),
		T(late_readers_get_every_byte),
		T(late_readers_get_every_byte_through_tls),
		T(slow_clients_get_what_they_read_and_no_more),
		T(who_was_set_aside_may_leave),
	};

	return cmocka_run_group_tests(tests, group_setup, scratch_teardown);
}
