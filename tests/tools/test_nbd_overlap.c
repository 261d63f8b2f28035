/*
 * Many connections on one image through the real server: halves of one cluster, overlapping
 * requests in flight, one cluster over and over, interleaved streams; with zeroes, trims, flushes
 * and reads in between, over a backing file. Where requests did not overlap the image holds the
 * last one; where they did, every byte is of one of them. The seed is printed; SEED=n repeats it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <libnbd.h>

#include "base/bytes.h"
#include "nbd/export_qcow2.h"
#include "nbd/server.h"
#include "tests/support/oracle.h"
#include "tests/support/scratch.h"

#define DISK	  (8U << 20)
#define UNIT	  256U /* requests begin and end on this; not a sector, so sectors are shared too */
#define UNITS	  (DISK / UNIT)
#define CLUSTER	  65536U
#define CONNS_MAX 6
#define DEPTH_MAX 8
#define LEN_MAX	  (192U << 10)

/* What a unit may hold: one bit a byte value. While nothing is under way, mostly one bit. */
struct unit {
	uint64_t may[4];
	uint32_t busy; /* requests under way */
	uint32_t version;
};

enum kind { WRITE, ZERO, TRIM, READ, FLUSH };

struct request {
	int64_t cookie; /* 0: free */
	enum kind kind;
	uint32_t off, len;
	uint64_t versions; /* READ: as model_versions() had it when it was sent */
	unsigned char *buf;
};

struct conn {
	struct nbd_handle *nbd;
	struct request request[DEPTH_MAX];
	uint32_t stream; /* next offset of a stream */
};

struct load {
	const char *name;
	unsigned conns, depth, requests;
	uint32_t region; /* of the disk, from its start, bytes */
	uint32_t max_len;
	bool halves;  /* connection k keeps to its share of each cluster */
	bool streams; /* in order, cluster by cluster, connection k every k-th */
	bool plain;   /* writes and flushes only */
	bool backed, zstd;
};

static struct unit unit[UNITS];
static struct conn conn[CONNS_MAX];
static struct nbd_server *server;
static char address[128], socket_path[128];

static int setup(void **state)
{
	const struct nbd_server_config config = {.workers = 2};
	struct err err;

	oracle_seed();
	if (scratch_setup(state) || !getcwd(socket_path, sizeof(socket_path) - 8))
		return -1;
	strcat(socket_path, "/s");
	snprintf(address, sizeof(address), "unix:%.120s", socket_path);
	return nbd_server_start(&server, &config, &err) ||
	       nbd_server_listen(server, address, NULL, NULL, 0, &err);
}

static int teardown(void **state)
{
	nbd_server_stop(server);
	return scratch_teardown(state);
}

/* --- the model ------------------------------------------------------------------------------ */

static void unit_may(struct unit *u, unsigned char value, bool alone)
{
	if (alone)
		memset(u->may, 0, sizeof(u->may));
	u->may[value / 64] |= 1ULL << value % 64;
}

static bool unit_allows(const struct unit *u, const unsigned char *bytes)
{
	unsigned i;

	for (i = 0; i < UNIT; i++)
		if (!(u->may[bytes[i] / 64] >> bytes[i] % 64 & 1))
			return false;
	return true;
}

static void model_change(const struct request *r, unsigned char value)
{
	uint32_t i;

	for (i = r->off / UNIT; i < (r->off + r->len) / UNIT; i++) {
		unit_may(&unit[i], value, !unit[i].busy);
		unit[i].busy++;
		unit[i].version++;
	}
}

/* Grows with every change; MODEL_BUSY while there is one under way. */
#define MODEL_BUSY UINT64_MAX

static uint64_t model_versions(const struct request *r)
{
	uint64_t sum = 0;
	uint32_t i;

	for (i = r->off / UNIT; i < (r->off + r->len) / UNIT; i++) {
		if (unit[i].busy)
			return MODEL_BUSY;
		sum += unit[i].version;
	}
	return sum;
}

static void assert_allowed(uint32_t off, const unsigned char *data, uint32_t len)
{
	uint32_t i;

	for (i = 0; i < len / UNIT; i++)
		if (!unit_allows(&unit[off / UNIT + i], data + i * UNIT))
			fail_msg("bytes at %u are of no request (first: %02x)", off + i * UNIT,
				 data[i * UNIT]);
}

/* --- requests ------------------------------------------------------------------------------- */

static void choose_range(const struct load *load, struct conn *c, struct request *r)
{
	unsigned k = c - conn;
	uint32_t share = align_down(CLUSTER / load->conns, UNIT), cluster, in_share;

	if (load->streams) {
		r->len = align_up(1 + oracle_below(CLUSTER / 2), UNIT);
		r->len = MIN(r->len, CLUSTER - c->stream % CLUSTER);
		r->off = c->stream;
		c->stream += r->len;
		if (!(c->stream % CLUSTER))
			c->stream += CLUSTER * (load->conns - 1);
		if (c->stream >= load->region)
			c->stream = CLUSTER * k;
		return;
	}
	if (load->halves) {
		cluster = align_down(oracle_below(load->region), CLUSTER);
		in_share = align_down(oracle_below(share), UNIT);
		r->off = cluster + k * share + in_share;
		r->len = align_up(1 + oracle_below(share - in_share), UNIT);
		return;
	}
	r->off = align_down(oracle_below(load->region), UNIT);
	r->len = align_up(1 + oracle_below(MIN(load->max_len, load->region - r->off)), UNIT);
}

static enum kind choose_kind(const struct load *load)
{
	unsigned n = oracle_below(40);

	if (n == 0)
		return FLUSH;
	if (load->plain || n > 16)
		return WRITE;
	return n < 5 ? ZERO : n < 9 ? TRIM : READ;
}

static void send_request(const struct load *load, struct conn *c, struct request *r)
{
	unsigned char value = 1 + oracle_below(255);

	r->kind = choose_kind(load);
	choose_range(load, c, r);
	switch (r->kind) {
	case WRITE:
		if (!oracle_below(8))
			value = 0; /* zeroes as data */
		memset(r->buf, value, r->len);
		model_change(r, value);
		r->cookie = nbd_aio_pwrite(c->nbd, r->buf, r->len, r->off, NBD_NULL_COMPLETION,
					   oracle_below(50) ? 0 : LIBNBD_CMD_FLAG_FUA);
		break;
	case ZERO:
		model_change(r, 0);
		r->cookie = nbd_aio_zero(c->nbd, r->len, r->off, NBD_NULL_COMPLETION,
					 oracle_below(2) ? 0 : LIBNBD_CMD_FLAG_NO_HOLE);
		break;
	case TRIM:
		model_change(r, 0);
		r->cookie = nbd_aio_trim(c->nbd, r->len, r->off, NBD_NULL_COMPLETION, 0);
		break;
	case READ:
		r->versions = model_versions(r);
		r->cookie = nbd_aio_pread(c->nbd, r->buf, r->len, r->off, NBD_NULL_COMPLETION, 0);
		break;
	default:
		r->cookie = nbd_aio_flush(c->nbd, NBD_NULL_COMPLETION, 0);
	}
	assert_true(r->cookie > 0);
}

/* True when the request is over. */
static bool reap_request(struct conn *c, struct request *r)
{
	int done = nbd_aio_command_completed(c->nbd, r->cookie);
	uint32_t i;

	if (done < 0)
		fail_msg("%s", nbd_get_error());
	if (!done)
		return false;
	r->cookie = 0;
	if (r->kind <= TRIM)
		for (i = r->off / UNIT; i < (r->off + r->len) / UNIT; i++)
			unit[i].busy--;
	/* A read beside which nothing changed is held to the model. */
	if (r->kind == READ && r->versions != MODEL_BUSY && r->versions == model_versions(r))
		assert_allowed(r->off, r->buf, r->len);
	return true;
}

static void run_load(const struct load *load)
{
	unsigned sent = 0, done = 0, i, k;

	while (done < load->requests) {
		for (i = 0; i < load->conns; i++) {
			for (k = 0; k < load->depth; k++) {
				struct request *r = &conn[i].request[k];

				if (r->cookie && reap_request(&conn[i], r))
					done++;
				if (!r->cookie && sent < load->requests && oracle_below(3)) {
					send_request(load, &conn[i], r);
					sent++;
				}
			}
			if (nbd_poll(conn[i].nbd, 0) < 0)
				fail_msg("%s", nbd_get_error());
		}
	}
}

/* --- one load from an empty image to the judge ---------------------------------------------- */

static void connect_all(const struct load *load)
{
	unsigned i, k;

	for (i = 0; i < load->conns; i++) {
		conn[i] = (struct conn){.nbd = nbd_create(), .stream = CLUSTER * i};
		for (k = 0; k < load->depth; k++)
			conn[i].request[k].buf = malloc(LEN_MAX);
		if (nbd_set_export_name(conn[i].nbd, "disk") ||
		    nbd_connect_unix(conn[i].nbd, socket_path))
			fail_msg("%s", nbd_get_error());
	}
}

static void disconnect_all(const struct load *load)
{
	unsigned i, k;

	for (i = 0; i < load->conns; i++) {
		nbd_shutdown(conn[i].nbd, 0);
		nbd_close(conn[i].nbd);
		for (k = 0; k < load->depth; k++)
			free(conn[i].request[k].buf);
	}
}

static struct qcow2_image *open_image(const struct load *load, bool sums)
{
	struct qcow2_create_opts create_opts = {.size = DISK,
						.cluster_size = CLUSTER,
						.backing = load->backed ? "parent.qcow2" : NULL,
						.zstd = load->zstd};
	struct qcow2_open_opts opts = {.writable = true,
				       .sums = sums,
				       .suppress_unchanged = load->backed,
				       .zstd_level = load->zstd};
	struct qcow2_image *img;
	struct err err;

	unlink("disk.qcow2");
	unlink("disk.sums");
	if (qcow2_create("disk.qcow2", &create_opts, &err) ||
	    qcow2_open(&img, "disk.qcow2", &opts, &err))
		fail_msg("%s", err.text);
	return img;
}

static void judge(void)
{
	unsigned char *data = malloc(DISK);
	FILE *f;

	oracle_assert_clean("disk.qcow2");
	assert_int_equal(scratch_run("qemu-img convert -O raw disk.qcow2 disk.raw"), 0);
	f = fopen("disk.raw", "rb");
	assert_int_equal(fread(data, 1, DISK, f), DISK);
	fclose(f);
	assert_allowed(0, data, DISK);
	free(data);
}

static void run(const struct load *load)
{
	struct nbd_export_config config = {
		.name = "disk", .size = DISK, .preferred_block = CLUSTER};
	struct qcow2_image *img = open_image(load, true);
	struct nbd_export *export;
	uint32_t i;
	struct err err;

	memset(unit, 0, sizeof(unit));
	for (i = 0; i < UNITS; i++)
		unit_may(&unit[i], load->backed ? 0xee : 0, true);
	if (nbd_export_add(server, &config, &nbd_export_qcow2_ops, img, &export, &err))
		fail_msg("%s", err.text);
	connect_all(load);
	run_load(load);
	disconnect_all(load);
	assert_int_equal(nbd_export_remove(export, false), 0);
	if (qcow2_finalize(img, &err))
		fail_msg("%s", err.text);
	qcow2_close(img);
	judge();
}

static void what_connections_write_at_once_is_what_the_image_holds(void **state)
{
	static const struct load loads[] = {
		{"halves of clusters", 2, 8, 6000, DISK, 0, .halves = true, .plain = true},
		{"halves over a parent", 2, 8, 6000, DISK, 0, .halves = true, .backed = true},
		{"six shares of few clusters", 6, 4, 8000, 4 * CLUSTER, 0, .halves = true,
		 .backed = true},
		{"one cluster, thousands of times", 3, 8, 9000, CLUSTER, 20000},
		{"one cluster over a parent", 3, 8, 6000, CLUSTER, 20000, .backed = true},
		{"streams", 4, 8, 4000, DISK, 0, .streams = true, .plain = true},
		{"streams over a parent", 4, 8, 4000, DISK, 0, .streams = true, .backed = true},
		{"everything overlaps", 6, 8, 5000, 20 * CLUSTER + UNIT, LEN_MAX},
		{"everything overlaps, over a parent", 6, 8, 5000, 20 * CLUSTER + UNIT, LEN_MAX,
		 .backed = true},
		{"everything overlaps, compressed", 4, 8, 3000, 20 * CLUSTER, LEN_MAX,
		 .backed = true, .zstd = true},
	};
	unsigned i;

	(void)state;
	assert_int_equal(scratch_run("qemu-img create -q -f qcow2 parent.qcow2 %u && "
				     "qemu-io -c 'write -P 0xee 0 %u' parent.qcow2",
				     DISK, DISK),
			 0);
	for (i = 0; i < ARRAY_SIZE(loads); i++) {
		print_message("# %s\n", loads[i].name);
		run(&loads[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_connections_write_at_once_is_what_the_image_holds),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
