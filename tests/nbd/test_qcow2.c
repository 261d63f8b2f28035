/* Real images behind the real server: many clients at once, QEMU's tools as the judge. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/log.h"
#include "nbd/export_qcow2.h"
#include "nbd/server.h"
#include "tests/support/memexport.h"
#include "tests/support/nbdpeer.h"
#include "tests/support/scratch.h"

#define CLIENTS	   6
#define REGION	   (3 * 1000 * 1000) /* bytes a client owns: neighbours share clusters */
#define SIZE	   ((uint64_t)CLIENTS * REGION + 480) /* a multiple of 512 */
#define OPERATIONS 300
#define LONGEST	   300000
#define SOCKET	   "unix:s"

static void ok(int r, const struct err *err)
{
	if (r)
		fail_msg("%d: %s", r, err->text);
}

/* --- clients ---------------------------------------------------------------------------------- */

struct client {
	pthread_t thread;
	const char *address, *export;
	uint64_t start;
	unsigned seed;
	unsigned char *model; /* REGION bytes: what it must read */
};

static unsigned dice(struct client *c, unsigned sides)
{
	c->seed = c->seed * 1103515245 + 12345;
	return (c->seed >> 8) % sides;
}

static void client_write(struct client *c, int fd, uint32_t at, uint32_t len, uint16_t flags)
{
	uint32_t i;

	for (i = 0; i < len; i++)
		c->model[at + i] = c->seed >> (i % 20);
	peer_write(fd, flags, 1, c->start + at, c->model + at, len);
	assert_int_equal(peer_simple_to(fd, 1), 0);
}

static void client_zero(struct client *c, int fd, uint32_t at, uint32_t len, uint16_t type)
{
	memset(c->model + at, 0, len);
	peer_request(fd, 0, type, 2, c->start + at, len);
	assert_int_equal(peer_simple_to(fd, 2), 0);
}

static void client_read(struct client *c, int fd, uint32_t at, uint32_t len)
{
	unsigned char *back = malloc(len);

	peer_request(fd, 0, NBD_CMD_READ, 3, c->start + at, len);
	assert_int_equal(peer_read_structured(fd, 3, c->start + at, len, back, NULL), 0);
	assert_memory_equal(back, c->model + at, len);
	free(back);
}

/* Whatever the dice say, in its own region; a failed assert ends the program (no other thread of
 * cmocka's could catch it). */
static void *client_main(void *arg)
{
	struct client *c = arg;
	int fd = peer_enter_structured(c->address, c->export);
	unsigned i;

	for (i = 0; i < OPERATIONS; i++) {
		uint32_t len = 1 + dice(c, dice(c, 4) ? 9000 : LONGEST);
		uint32_t at = dice(c, REGION - len);

		switch (dice(c, 8)) {
		case 0:
			client_zero(c, fd, at, len, NBD_CMD_WRITE_ZEROES);
			break;
		case 1:
			client_zero(c, fd, at, len, NBD_CMD_TRIM);
			break;
		case 2:
		case 3:
			client_read(c, fd, at, len);
			break;
		default:
			client_write(c, fd, at, len, i % 32 ? 0 : NBD_CMD_FLAG_FUA);
			break;
		}
	}
	client_read(c, fd, 0, REGION);
	peer_close(fd);
	return NULL;
}

/* --- one generation of an image ----------------------------------------------------------------
 */

static unsigned char *model; /* the whole disk */

static struct qcow2_image *image_make(const char *path, const char *backing)
{
	const struct qcow2_create_opts create = {.size = SIZE, .backing = backing};
	const struct qcow2_open_opts open = {.writable = true, .suppress_unchanged = true};
	struct qcow2_image *img;
	struct err err = ERR_INIT;

	ok(qcow2_create(path, &create, &err), &err);
	ok(qcow2_open(&img, path, &open, &err), &err);
	return img;
}

static void run_clients(const char *export, unsigned seed)
{
	struct client client[CLIENTS];
	unsigned i;

	for (i = 0; i < CLIENTS; i++) {
		client[i] = (struct client){
			.address = SOCKET,
			.export = export,
			.start = (uint64_t)i * REGION,
			.seed = seed * 100 + i,
			.model = model + (size_t)i * REGION,
		};
		pthread_create(&client[i].thread, NULL, client_main, &client[i]);
	}
	for (i = 0; i < CLIENTS; i++)
		pthread_join(client[i].thread, NULL);
}

static void assert_image_is_model(const char *path)
{
	FILE *f = fopen("model.raw", "w");

	assert_non_null(f);
	assert_int_equal(fwrite(model, 1, SIZE, f), SIZE);
	fclose(f);
	assert_int_equal(scratch_run("qemu-img check -q %s", path), 0);
	assert_int_equal(scratch_run("qemu-img compare -q -f raw -F qcow2 model.raw %s", path), 0);
}

static void generation(struct nbd_server *server, const char *path, const char *backing,
		       unsigned seed)
{
	struct qcow2_image *img = image_make(path, backing);
	struct nbd_export_config config = {.name = path, .size = SIZE, .preferred_block = 65536};
	struct nbd_export *export;
	struct err err = ERR_INIT;

	ok(nbd_export_add(server, &config, &nbd_export_qcow2_ops, img, &export, &err), &err);
	run_clients(path, seed);
	assert_int_equal(nbd_export_remove(export, false), 0);
	ok(qcow2_finalize(img, &err), &err);
	qcow2_close(img);
	assert_image_is_model(path);
}

static struct nbd_server *server_new(unsigned workers, unsigned batches)
{
	const struct nbd_server_config config = {.workers = workers, .batch_count = batches};
	struct nbd_server *server;
	struct err err = ERR_INIT;

	log_set_level(LOG_LEVEL_ERROR);
	ok(nbd_server_start(&server, &config, &err), &err);
	ok(nbd_server_listen(server, SOCKET, NULL, NULL, 0, &err), &err);
	return server;
}

static void many_clients_on_a_chain_of_three_leave_what_they_wrote(void **state)
{
	struct nbd_server *server = server_new(2, 4);

	(void)state;
	model = calloc(1, SIZE);
	assert_non_null(model);
	generation(server, "a.qcow2", NULL, 1);
	generation(server, "b.qcow2", "a.qcow2", 2);
	generation(server, "c.qcow2", "b.qcow2", 3);
	free(model);
	nbd_server_stop(server);
}

static void block_status_of_an_overlay_tells_data_zero_and_hole_apart(void **state)
{
	struct nbd_server *server = server_new(1, 4);
	struct qcow2_image *img = image_make("map.qcow2", NULL);
	struct nbd_export_config config = {.name = "map", .size = SIZE, .preferred_block = 65536};
	static const unsigned char ones[131072] = {[0 ... 131071] = 1};
	struct nbd_export *export;
	struct err err = ERR_INIT;
	struct peer_chunk c;
	int fd;

	(void)state;
	ok(nbd_export_add(server, &config, &nbd_export_qcow2_ops, img, &export, &err), &err);
	fd = peer_enter_meta(SOCKET, "map");
	peer_write(fd, 0, 1, 65536, ones, sizeof(ones));
	assert_int_equal(peer_simple_to(fd, 1), 0);
	peer_request(fd, 0, NBD_CMD_FLUSH, 2, 0, 0);
	assert_int_equal(peer_simple_to(fd, 2), 0);
	peer_request(fd, 0, NBD_CMD_BLOCK_STATUS, 3, 0, 1 << 20);
	peer_chunk(fd, &c);
	assert_int_equal(c.type, NBD_REPLY_TYPE_BLOCK_STATUS);
	assert_int_equal(c.len, 4 + 3 * 8);
	assert_int_equal(load_be32(c.data + 4), 65536);
	assert_int_equal(load_be32(c.data + 8), 3);
	assert_int_equal(load_be32(c.data + 12), sizeof(ones));
	assert_int_equal(load_be32(c.data + 16), 0);
	assert_int_equal(load_be32(c.data + 24), 3);
	peer_chunk_free(&c);
	peer_close(fd);
	assert_int_equal(nbd_export_remove(export, false), 0);
	qcow2_close(img);
	nbd_server_stop(server);
}

/* The data goes away with the export; running writes are no obstacle. */
static void an_image_in_use_is_abandoned_without_waiting_for_its_clients(void **state)
{
	struct nbd_server *server = server_new(1, 4);
	struct qcow2_image *img = image_make("gone.qcow2", NULL);
	struct nbd_export_config config = {.name = "gone", .size = SIZE};
	unsigned char *data = calloc(1, 8 << 20);
	struct nbd_export *export;
	struct err err = ERR_INIT;
	int fd;

	(void)state;
	assert_non_null(data);
	memset(data, 3, 8 << 20);
	ok(nbd_export_add(server, &config, &nbd_export_qcow2_ops, img, &export, &err), &err);
	fd = peer_enter(SOCKET, "gone");
	peer_write(fd, 0, 1, 0, data, 8 << 20);
	peer_request(fd, 0, NBD_CMD_WRITE, 2, 1 << 20, 1 << 20);
	assert_int_equal(nbd_export_remove(export, true), 0);
	peer_drain_to_end(fd);
	peer_close(fd);
	free(data);
	qcow2_close(img);
	nbd_server_stop(server);
}

/* --- requests as large as the disk ------------------------------------------------------------ */

#define HUGE (1ULL << 40) /* in clusters of 4 KiB, to make it long work */

struct huge {
	struct nbd_server *server;
	struct qcow2_image *img;
	struct nbd_export *export, *other_export;
	struct memexport other;
	int fd, other_fd;
	uint32_t id;
};

static void huge_start(struct huge *h)
{
	static const char *const allocation[] = {"base:allocation"};
	const struct qcow2_create_opts create = {.size = HUGE, .cluster_size = 4096};
	const struct qcow2_open_opts open = {.writable = true};
	struct nbd_export_config config = {.name = "huge", .size = HUGE};
	struct err err = ERR_INIT;

	h->server = server_new(1, 4); /* one worker for both exports */
	ok(qcow2_create("huge.qcow2", &create, &err), &err);
	ok(qcow2_open(&h->img, "huge.qcow2", &open, &err), &err);
	ok(nbd_export_add(h->server, &config, &nbd_export_qcow2_ops, h->img, &h->export, &err),
	   &err);
	memexport_init(&h->other, 65536);
	config = (struct nbd_export_config){.name = "other", .size = 65536};
	ok(nbd_export_add(h->server, &config, &memexport_ops, &h->other, &h->other_export, &err),
	   &err);
	h->fd = peer_enter_extended(SOCKET, "huge", allocation, 1, &h->id);
	h->other_fd = peer_enter(SOCKET, "other");
}

static void huge_stop(struct huge *h)
{
	peer_close(h->fd);
	peer_close(h->other_fd);
	assert_int_equal(nbd_export_remove(h->export, false), 0);
	assert_int_equal(nbd_export_remove(h->other_export, false), 0);
	memexport_deinit(&h->other);
	qcow2_close(h->img);
	nbd_server_stop(h->server);
	assert_int_equal(unlink("huge.qcow2"), 0);
}

/* Requests the other export answers, one at a time, until the large one has its answer. */
static unsigned served_meanwhile(struct huge *h)
{
	struct pollfd p = {.fd = h->fd, .events = POLLIN};
	unsigned n = 0;

	while (poll(&p, 1, 0) == 0) {
		peer_request(h->other_fd, 0, NBD_CMD_FLUSH, n, 0, 0);
		assert_int_equal(peer_simple_to(h->other_fd, n), 0);
		n++;
	}
	return n;
}

static void assert_all_zero(struct huge *h, uint64_t off)
{
	static const unsigned char zeroes[4096];
	unsigned char back[4096];

	peer_ext_request(h->fd, 0, NBD_CMD_READ, 9, off, sizeof(back));
	assert_int_equal(peer_read_extended(h->fd, 9, off, sizeof(back), back, NULL), 0);
	assert_memory_equal(back, zeroes, sizeof(back));
}

/* Something else may have kept us from asking; a worker that is held up is so each time. */
#define TRIES 30

static bool left_to_others(unsigned served, unsigned *tries)
{
	if (served < 20 && ++*tries == TRIES)
		fail_msg("the worker was held up, %u times of %u", TRIES, TRIES);
	return served >= 20;
}

static bool zero_huge(struct huge *h, uint16_t type, bool flush, unsigned *tries)
{
	static const unsigned char data[4096] = {1};
	unsigned served;

	peer_ext_write(h->fd, 0, 1, 5ULL << 37, data, sizeof(data));
	assert_int_equal(peer_ext_reply(h->fd, 1, 5ULL << 37), 0);
	if (flush) {
		peer_ext_request(h->fd, 0, NBD_CMD_FLUSH, 2, 0, 0);
		assert_int_equal(peer_ext_reply(h->fd, 2, 0), 0);
	}
	peer_ext_request(h->fd, 0, type, 3, 0, HUGE);
	served = served_meanwhile(h);
	assert_int_equal(peer_ext_reply(h->fd, 3, 0), 0);
	assert_all_zero(h, 5ULL << 37);
	return left_to_others(served, tries);
}

static void a_request_for_the_whole_of_a_huge_disk_leaves_the_worker_to_others(void **state)
{
	static const uint16_t types[] = {NBD_CMD_WRITE_ZEROES, NBD_CMD_TRIM};
	struct huge h;
	unsigned i;

	(void)state;
	huge_start(&h);
	for (i = 0; i < 4; i++) { /* twice from the disk, twice out of memory */
		unsigned tries = 0;

		while (!zero_huge(&h, types[i % 2], i < 2, &tries))
			continue;
	}
	huge_stop(&h);
}

static bool map_huge(struct huge *h, uint64_t at, unsigned *tries)
{
	struct peer_chunk c;
	unsigned served;

	peer_ext_request(h->fd, 0, NBD_CMD_BLOCK_STATUS, 3, 0, HUGE);
	served = served_meanwhile(h);
	peer_ext_chunk(h->fd, &c, 0);
	assert_int_equal(c.type, NBD_REPLY_TYPE_BLOCK_STATUS_EXT);
	assert_int_equal(c.len, 8 + 3 * 16);
	assert_true(load_be64(c.data + 8) == at && load_be64(c.data + 16) == 3);
	assert_true(load_be64(c.data + 24) == 8192 && load_be64(c.data + 32) == 0);
	assert_true(load_be64(c.data + 40) == HUGE - at - 8192);
	peer_chunk_free(&c);
	return left_to_others(served, tries);
}

static void the_map_of_a_huge_disk_comes_at_once_and_leaves_the_worker_to_others(void **state)
{
	static const unsigned char data[8192] = {[0 ... 8191] = 1};
	const uint64_t at = 5ULL << 37;
	struct huge h;
	unsigned i;

	(void)state;
	huge_start(&h);
	for (i = 0; i < 2; i++) { /* in memory, then on the disk */
		unsigned tries = 0;

		peer_ext_write(h.fd, i ? NBD_CMD_FLAG_FUA : 0, 1, at, data, sizeof(data));
		assert_int_equal(peer_ext_reply(h.fd, 1, at), 0);
		while (!map_huge(&h, at, &tries))
			continue;
	}
	huge_stop(&h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(many_clients_on_a_chain_of_three_leave_what_they_wrote),
		cmocka_unit_test(block_status_of_an_overlay_tells_data_zero_and_hole_apart),
		cmocka_unit_test(an_image_in_use_is_abandoned_without_waiting_for_its_clients),
		cmocka_unit_test(
			a_request_for_the_whole_of_a_huge_disk_leaves_the_worker_to_others),
		cmocka_unit_test(
			the_map_of_a_huge_disk_comes_at_once_and_leaves_the_worker_to_others),
	};

	return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
