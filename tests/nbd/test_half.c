/*
 * A WRITE of which a part has arrived when its client goes, by any way of going: it is not
 * acknowledged, touches nothing outside its range, tears no sector, disturbs nobody, and can be
 * done again.
 */
#include <sys/socket.h>

#include "nbd/export_qcow2.h"
#include "tests/nbd/rig.h"
#include "tests/support/scratch.h"

#define SIZE  (64ULL << 20)
#define AT    ((16ULL << 20) + 12345)
#define LEN   NBD_MAX_PAYLOAD
#define AFTER (56ULL << 20) /* where the neighbour lives */

struct half {
	struct nbd_server *server;
	struct nbd_export *export;
	struct qcow2_image *img;
	char tcp[64];
	int neighbour;
	unsigned round;
	unsigned char *model, *payload, *back; /* the disk; what is written; LEN + margins */
};

/* --- the rig ---------------------------------------------------------------------------------- */

static void attach(struct half *h)
{
	const struct qcow2_open_opts open = {.writable = true};
	struct nbd_export_config config = {.name = "", .size = SIZE, .preferred_block = 65536};
	struct err err = ERR_INIT;

	rig_ok(qcow2_open(&h->img, "half.qcow2", &open, &err), &err);
	rig_ok(nbd_export_add(h->server, &config, &nbd_export_qcow2_ops, h->img, &h->export, &err),
	       &err);
	h->neighbour = peer_enter("unix:s", "");
}

/* The export goes, with whatever its clients are in the middle of. */
static void detach(struct half *h)
{
	struct err err = ERR_INIT;

	assert_int_equal(nbd_export_remove(h->export, false), 0);
	rig_ok(qcow2_finalize(h->img, &err), &err);
	qcow2_close(h->img);
}

static void start(struct half *h)
{
	const struct nbd_server_config config = {.workers = 2, .batch_count = 4};
	const struct qcow2_create_opts create = {.size = SIZE};
	struct err err = ERR_INIT;

	memset(h, 0, sizeof(*h));
	log_set_level(LOG_LEVEL_ERROR);
	h->model = malloc(SIZE);
	h->payload = malloc(LEN);
	h->back = malloc(LEN + 2);
	assert_true(h->model && h->payload && h->back);
	rig_ok(qcow2_create("half.qcow2", &create, &err), &err);
	rig_ok(nbd_server_start(&h->server, &config, &err), &err);
	rig_ok(nbd_server_listen(h->server, "unix:s", NULL, NULL, 0, &err), &err);
	rig_ok(nbd_server_listen(h->server, "127.0.0.1:0", NULL, h->tcp, sizeof(h->tcp), &err),
	       &err);
	attach(h);
	rig_pattern(h->model, SIZE, 1);
	for (uint64_t off = 0; off < SIZE; off += LEN) {
		peer_write(h->neighbour, 0, off, off, h->model + off, LEN);
		assert_int_equal(peer_simple_to(h->neighbour, off), 0);
	}
}

static void stop(struct half *h)
{
	char *sum;

	peer_close(h->neighbour);
	detach(h);
	nbd_server_stop(h->server);
	/* QEMU has the last word. */
	assert_int_equal(scratch_run("qemu-img check -q half.qcow2 && "
				     "qemu-img convert -O raw half.qcow2 half.raw"),
			 0);
	FILE *f = fopen("half.raw", "r");

	assert_non_null(f);
	for (uint64_t off = 0; off < SIZE; off += LEN) {
		assert_int_equal(fread(h->back, 1, LEN, f), LEN);
		assert_memory_equal(h->back, h->model + off, LEN);
	}
	fclose(f);
	sum = scratch_output("rm -f half.raw half.qcow2*");
	free(sum);
	free(h->model);
	free(h->payload);
	free(h->back);
}

/* --- the story -------------------------------------------------------------------------------- */

/* Somebody else's session goes on as if nothing were. */
static void neighbour_works(struct half *h)
{
	unsigned char *at = h->model + AFTER + h->round * 70000;
	char back[70000];

	h->round++;
	rig_pattern(at, sizeof(back), 1000 + h->round);
	peer_write(h->neighbour, 0, 1, at - h->model, at, sizeof(back));
	assert_int_equal(peer_simple_to(h->neighbour, 1), 0);
	peer_request(h->neighbour, 0, NBD_CMD_READ, 2, at - h->model, sizeof(back));
	assert_int_equal(peer_simple_to(h->neighbour, 2), 0);
	peer_recv(h->neighbour, back, sizeof(back));
	assert_memory_equal(back, at, sizeof(back));
}

static uint64_t answered(const struct nbd_export *export)
{
	struct nbd_export_stats stats;
	uint64_t n = 0;
	unsigned i;

	nbd_export_get_stats(export, &stats);
	for (i = 0; i < NBD_LATENCY_BUCKETS; i++)
		n += stats.commands[NBD_CMD_WRITE].latency[i];
	return n;
}

static unsigned depth(const struct nbd_export *export)
{
	struct nbd_export_stats stats;

	nbd_export_get_stats(export, &stats);
	return stats.depth;
}

static int begin_write(struct half *h, const char *address, uint16_t flags, uint32_t sent)
{
	int fd = peer_enter(address, "");

	rig_pattern(h->payload, LEN, 5000 + h->round);
	peer_request(fd, flags, NBD_CMD_WRITE, 99, AT, LEN);
	peer_send(fd, h->payload, sent);
	rig_await(depth(h->export) == 1);
	return fd;
}

static void read_back(struct half *h, uint64_t off, uint32_t len)
{
	uint32_t at, n;

	for (at = 0; at < len; at += n) {
		n = MIN(len - at, LEN);
		peer_request(h->neighbour, 0, NBD_CMD_READ, 3, off + at, n);
		assert_int_equal(peer_simple_to(h->neighbour, 3), 0);
		peer_recv(h->neighbour, h->back + at, n);
	}
}

/* Around the range all is old. Inside, a sector is what it was or what was sent, never some of
 * both, and nothing that was never sent is there. */
static void assert_nothing_worse(struct half *h, uint32_t sent)
{
	const unsigned char *old = h->model + AT, *now = h->back + 1;
	uint32_t i, n;

	read_back(h, AT - 1, LEN + 2);
	assert_int_equal(now[-1], old[-1]);
	assert_int_equal(now[LEN], old[LEN]);
	for (i = 0; i < LEN; i += n) {
		n = MIN(512 - (AT + i) % 512, LEN - i);
		if (memcmp(now + i, old + i, n) &&
		    (i + n > sent || memcmp(now + i, h->payload + i, n)))
			fail_msg("the sector at byte %u of a write of which %u came", i, sent);
	}
}

/* Once more and whole: it is there as if nothing had happened. */
static void write_again(struct half *h)
{
	int fd = peer_enter("unix:s", "");

	peer_write(fd, 0, 99, AT, h->payload, LEN);
	assert_int_equal(peer_simple_to(fd, 99), 0);
	peer_close(fd);
	memcpy(h->model + AT, h->payload, LEN);
	read_back(h, AT - 1, LEN + 2);
	assert_memory_equal(h->back, h->model + AT - 1, LEN + 2);
}

enum { CLOSE, RESET, HALF_CLOSE };

static void client_goes(struct half *h, int how, uint16_t flags, uint32_t sent)
{
	const struct linger reset = {.l_onoff = 1, .l_linger = 0};
	uint64_t before = answered(h->export);
	int fd = begin_write(h, how == RESET ? h->tcp : "unix:s", flags, sent);

	neighbour_works(h);
	if (how == RESET)
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	if (how == HALF_CLOSE) {
		/* It could still hear an answer, and must not get one. */
		shutdown(fd, SHUT_WR);
		assert_true(peer_at_end(fd));
	}
	peer_close(fd);
	rig_await(depth(h->export) == 0);
	assert_int_equal(answered(h->export), before + 1); /* the neighbour's */
	neighbour_works(h);
	assert_nothing_worse(h, sent);
	write_again(h);
}

static void a_client_that_hangs_up(void **state)
{
	struct half h;

	(void)state;
	start(&h);
	client_goes(&h, CLOSE, 0, 1);
	client_goes(&h, CLOSE, 0, LEN / 2);
	client_goes(&h, CLOSE, 0, LEN - 1);
	client_goes(&h, CLOSE, NBD_CMD_FLAG_FUA, LEN / 2);
	stop(&h);
}

static void a_client_that_resets_its_connection(void **state)
{
	struct half h;

	(void)state;
	start(&h);
	client_goes(&h, RESET, 0, LEN / 2);
	client_goes(&h, RESET, 0, LEN - 1);
	stop(&h);
}

static void a_client_that_says_no_more_but_listens(void **state)
{
	struct half h;

	(void)state;
	start(&h);
	client_goes(&h, HALF_CLOSE, 0, LEN / 2);
	client_goes(&h, HALF_CLOSE, NBD_CMD_FLAG_FUA, LEN - 1);
	stop(&h);
}

/* The server waits for the rest for a while: who comes in time hears ESHUTDOWN, others hear
 * nothing. */
static void send_rest(int fd, const unsigned char *p, size_t len)
{
	unsigned char reply[NBD_SIMPLE_SIZE];
	ssize_t n = 1;

	while (len && n > 0) {
		n = send(fd, p, len, MSG_NOSIGNAL);
		p += MAX(n, 0);
		len -= MAX(n, 0);
	}
	n = recv(fd, reply, sizeof(reply), MSG_WAITALL);
	if (n <= 0)
		return;
	assert_int_equal(n, sizeof(reply));
	assert_int_equal(load_be32(reply + 4), NBD_ESHUTDOWN);
}

static void export_goes(struct half *h, uint16_t flags, uint32_t sent, bool rest)
{
	int fd = begin_write(h, "unix:s", flags, sent);

	neighbour_works(h);
	detach(h);
	if (rest)
		send_rest(fd, h->payload + sent, LEN - sent);
	assert_true(peer_at_end(fd));
	peer_close(fd);
	assert_true(peer_at_end(h->neighbour));
	peer_close(h->neighbour);
	assert_int_equal(scratch_run("qemu-img check -q half.qcow2"), 0);
	attach(h);
	assert_nothing_worse(h, sent);
	write_again(h);
}

static void an_export_that_goes_away(void **state)
{
	struct half h;

	(void)state;
	start(&h);
	export_goes(&h, 0, LEN / 2, false);
	export_goes(&h, 0, LEN / 2, true);
	export_goes(&h, NBD_CMD_FLAG_FUA, LEN - 1, true);
	stop(&h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_client_that_hangs_up),
		cmocka_unit_test(a_client_that_resets_its_connection),
		cmocka_unit_test(a_client_that_says_no_more_but_listens),
		cmocka_unit_test(an_export_that_goes_away),
	};

	return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
