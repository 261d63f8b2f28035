/* The life of exports and of the server, while clients do as they like. */
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "tests/nbd/rig.h"

#include "base/cleanup.h"
#include "nbd/export_null.h"

/* --- many connections, both workers ------------------------------------------------------------
 */

static void twenty_connections_share_one_export(void **state)
{
	struct rig *rig = *state;
	unsigned char data[5000], back[5000];
	int fd[20];
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(fd); i++)
		fd[i] = peer_enter(rig->address, RIG_NAME);
	assert_int_equal(rig_stats(rig).connections, ARRAY_SIZE(fd));
	for (i = 0; i < ARRAY_SIZE(fd); i++) {
		rig_pattern(data, sizeof(data), i);
		peer_write(fd[i], 0, i, i * 7000, data, sizeof(data));
	}
	for (i = 0; i < ARRAY_SIZE(fd); i++)
		assert_int_equal(peer_simple_to(fd[i], i), 0);
	for (i = 0; i < ARRAY_SIZE(fd); i++) { /* what one wrote, the next one reads */
		int next = fd[(i + 1) % ARRAY_SIZE(fd)];

		rig_pattern(data, sizeof(data), i);
		peer_request(next, 0, NBD_CMD_READ, 50, i * 7000, sizeof(back));
		assert_int_equal(peer_simple_to(next, 50), 0);
		peer_recv(next, back, sizeof(back));
		assert_memory_equal(back, data, sizeof(data));
	}
	for (i = 0; i < ARRAY_SIZE(fd); i++)
		peer_close(fd[i]);
	rig_await(rig_stats(rig).connections == 0);
	assert_true(rig_stats(rig).connections_total == ARRAY_SIZE(fd));
}

static void exports_spread_over_workers_and_every_one_is_reached(void **state)
{
	struct rig *rig = rig_start((struct nbd_server_config){.workers = 4, .batch_count = 2});
	struct memexport mem[8];
	struct nbd_export *export[8];
	unsigned i, round;
	char name[16];

	(void)state;
	for (i = 0; i < 8; i++) {
		memexport_init(&mem[i], 65536);
		snprintf(name, sizeof(name), "e%u", i);
		export[i] = rig_add(rig, &mem[i], name);
	}
	for (round = 0; round < 5; round++)
		for (i = 0; i < 8; i++) {
			int fd;

			snprintf(name, sizeof(name), "e%u", i);
			fd = peer_enter(rig->address, name);
			peer_write(fd, 0, 1, round, name, 2);
			assert_int_equal(peer_simple_to(fd, 1), 0);
			peer_close(fd);
		}
	for (i = 0; i < 8; i++) {
		assert_int_equal(nbd_export_remove(export[i], false), 0);
		assert_int_equal(atomic_load(&mem[i].flushes), 1);
		assert_int_equal(mem[i].data[5], '0' + i);
		memexport_deinit(&mem[i]);
	}
	rig_stop(rig);
}

/* --- removal ---------------------------------------------------------------------------------- */

static void remove_it(struct rig *rig, int expect, bool abandon)
{
	assert_int_equal(nbd_export_remove(steal(&rig->export), abandon), expect);
}

static void a_removed_export_is_flushed_detached_and_its_connections_end(void **state)
{
	struct rig *rig = *state;
	int idle = peer_enter(rig->address, RIG_NAME), busy = peer_enter(rig->address, RIG_NAME);
	uint32_t error;
	int fd;

	peer_write(busy, 0, 1, 0, "data", 4);
	assert_int_equal(peer_simple_to(busy, 1), 0);
	remove_it(rig, 0, false);
	assert_int_equal(atomic_load(&rig->mem.flushes), 1);
	assert_int_equal(atomic_load(&rig->mem.detached), 1);
	assert_int_equal(atomic_load(&rig->mem.abandoned), 0);
	assert_true(peer_at_end(idle));
	assert_true(peer_at_end(busy));
	fd = peer_connect(rig->address);
	peer_greet(fd, NBD_FLAG_FIXED_NEWSTYLE);
	assert_false(peer_go(fd, RIG_NAME, NULL, &error));
	assert_int_equal(error, NBD_REP_ERR_UNKNOWN);
	peer_close(fd);
	peer_close(idle);
	peer_close(busy);
}

static void the_error_of_the_last_flush_is_the_removers(void **state)
{
	struct rig *rig = *state;

	atomic_store(&rig->mem.flush_error, -ENOSPC);
	assert_int_equal(nbd_export_flush(rig->export), -ENOSPC);
	remove_it(rig, -ENOSPC, false);
}

static void an_abandoned_export_is_told_so_and_succeeds(void **state)
{
	struct rig *rig = *state;

	atomic_store(&rig->mem.flush_error, -ENOSPC);
	remove_it(rig, 0, true);
	assert_int_equal(atomic_load(&rig->mem.abandoned), 1);
	assert_int_equal(atomic_load(&rig->mem.detached), 1);
}

struct remover {
	struct rig *rig;
	atomic_bool done;
	int result;
};

static void *remove_in_thread(void *arg)
{
	struct remover *r = arg;

	r->result = nbd_export_remove(steal(&r->rig->export), false);
	atomic_store(&r->done, true);
	return NULL;
}

static void running_requests_finish_and_late_ones_hear_of_the_shutdown(void **state)
{
	struct rig *rig = *state;
	struct remover r = {.rig = rig};
	int running = peer_enter(rig->address, RIG_NAME), late = peer_enter(rig->address, RIG_NAME);
	pthread_t thread;
	uint32_t error;
	int fd;

	atomic_store(&rig->mem.hold, true);
	peer_write(running, NBD_CMD_FLAG_FUA, 1, 0, "data", 4);
	rig_await(atomic_load(&rig->mem.flushes) == 1);
	pthread_create(&thread, NULL, remove_in_thread, &r);
	do { /* until the removal has begun */
		fd = peer_connect(rig->address);
		peer_greet(fd, NBD_FLAG_FIXED_NEWSTYLE);
		error = 0;
		peer_go(fd, RIG_NAME, NULL, &error);
		peer_close(fd);
	} while (error != NBD_REP_ERR_UNKNOWN);
	do {
		peer_request(late, 0, NBD_CMD_CACHE, 2, 0, 512);
		error = peer_simple_to(late, 2);
	} while (!error);
	assert_int_equal(error, NBD_ESHUTDOWN);
	peer_write(late, 0, 3, 0, "late", 4);
	assert_int_equal(peer_simple_to(late, 3), NBD_ESHUTDOWN);
	assert_false(atomic_load(&r.done));
	atomic_store(&rig->mem.hold, false);
	assert_int_equal(peer_simple_to(running, 1), 0);
	pthread_join(thread, NULL);
	assert_int_equal(r.result, 0);
	assert_true(peer_at_end(running));
	assert_true(peer_at_end(late));
	peer_close(running);
	peer_close(late);
}

static void a_client_that_owes_payload_or_reads_nothing_delays_no_removal(void **state)
{
	struct rig *rig = *state;
	int half = peer_enter(rig->address, RIG_NAME), deaf = peer_enter(rig->address, RIG_NAME);
	int choked = peer_enter(rig->address, RIG_NAME);
	static unsigned char data[100000]; /* fits the socket: nobody reads it */
	unsigned i;

	peer_request(half, NBD_CMD_FLAG_FUA, NBD_CMD_WRITE, 1, 0, NBD_MAX_PAYLOAD);
	peer_send(half, data, 1000);
	for (i = 0; i < 8; i++)
		peer_request(deaf, 0, NBD_CMD_READ, i, 0, NBD_MAX_PAYLOAD);
	rig_await(atomic_load(&rig->mem.reads) >= 12);
	atomic_store(&rig->mem.choked, true);
	peer_request(choked, 0, NBD_CMD_WRITE, 2, 0, 300000);
	peer_send(choked, data, sizeof(data));
	rig_await(atomic_load(&rig->mem.eagains) >= 1);
	remove_it(rig, 0, false);
	peer_close(half);
	peer_close(deaf);
	peer_close(choked);
}

/* Clients of both kinds hammer the export until they are told to stop, or the door closes. */
struct hammer {
	const char *address;
	atomic_bool *stop;
	unsigned seed;
};

static void *hammer_writes(void *arg)
{
	static const unsigned char data[70000];
	struct hammer *h = arg;
	unsigned char request[NBD_REQUEST_SIZE], reply[NBD_SIMPLE_SIZE];
	int fd = peer_enter(h->address, RIG_NAME);
	unsigned i;

	for (i = 0; !atomic_load(h->stop); i++) {
		uint32_t len = 1 + (i * 7919 + h->seed) % sizeof(data);

		peer_put_request(request, i % 5 ? 0 : NBD_CMD_FLAG_FUA, NBD_CMD_WRITE, i,
				 (i * 65537ULL + h->seed) % (RIG_SIZE - len), len);
		if (send(fd, request, sizeof(request), MSG_NOSIGNAL) < 0 ||
		    send(fd, data, len, MSG_NOSIGNAL) < 0 ||
		    recv(fd, reply, sizeof(reply), MSG_WAITALL) <= 0)
			break;
	}
	peer_close(fd);
	return NULL;
}

static void exports_come_and_go_under_load_again_and_again(void **state)
{
	struct rig *rig = *state;
	unsigned round, i;

	for (round = 0; round < 15; round++) {
		struct hammer h[6];
		pthread_t thread[6];
		atomic_bool stop = false;

		if (!rig->export)
			rig->export = rig_add(rig, &rig->mem, RIG_NAME);
		for (i = 0; i < ARRAY_SIZE(h); i++) {
			h[i] = (struct hammer){rig->address, &stop, i * 131 + round};
			pthread_create(&thread[i], NULL, hammer_writes, &h[i]);
		}
		rig_await(rig_stats(rig).requests > 50 &&
			  rig_stats(rig).connections_total == ARRAY_SIZE(h));
		remove_it(rig, 0, round % 3 == 0);
		atomic_store(&stop, true);
		for (i = 0; i < ARRAY_SIZE(h); i++)
			pthread_join(thread[i], NULL);
	}
	assert_int_equal(atomic_load(&rig->mem.attached), 15);
	assert_int_equal(atomic_load(&rig->mem.detached), 15);
}

static void an_export_streams_on_while_others_come_and_go(void **state)
{
	struct rig *rig = *state;
	atomic_bool stop = false;
	struct hammer h = {rig->address, &stop, 1};
	struct memexport mem;
	pthread_t thread;
	unsigned i;

	memexport_init(&mem, 65536);
	pthread_create(&thread, NULL, hammer_writes, &h);
	for (i = 0; i < 100; i++) {
		struct nbd_export *export = rig_add(rig, &mem, "guest");

		if (i % 2)
			peer_close(peer_enter(rig->address, "guest"));
		assert_int_equal(nbd_export_remove(export, i % 3), 0);
	}
	rig_await(rig_stats(rig).requests > 20);
	atomic_store(&stop, true);
	pthread_join(thread, NULL);
	assert_true(rig_stats(rig).errors == 0);
	memexport_deinit(&mem);
}

static void entering_while_the_export_goes_away_is_refused_or_ended(void **state)
{
	struct rig *rig = *state;
	unsigned i;

	for (i = 0; i < 60; i++) {
		int fd = peer_connect(rig->address), other = peer_connect(rig->address);
		unsigned char data[64];

		peer_greet(fd, NBD_FLAG_FIXED_NEWSTYLE);
		peer_greet(other, NBD_FLAG_FIXED_NEWSTYLE);
		peer_option(fd, NBD_OPT_GO, data, peer_info_data(data, RIG_NAME, NULL, 0));
		peer_option(other, NBD_OPT_EXPORT_NAME, RIG_NAME, strlen(RIG_NAME));
		if (i % 3 == 0)
			usleep(i * 10);
		remove_it(rig, 0, false);
		peer_close(fd);
		peer_close(other);
		rig->export = rig_add(rig, &rig->mem, RIG_NAME);
	}
}

/* --- adding ----------------------------------------------------------------------------------- */

static int attach_fails(void *target, const struct nbd_worker_io *io, struct err *err)
{
	(void)io;
	return err_set(err, -ENODEV, "'%s' is not there", (const char *)target);
}

static sem_t attaching, may_fail;

static int attach_fails_late(void *target, const struct nbd_worker_io *io, struct err *err)
{
	sem_post(&attaching);
	sem_wait(&may_fail);
	return attach_fails(target, io, err);
}

static void *add_in_vain(void *arg)
{
	static const struct nbd_export_ops ops = {.attach = attach_fails_late};
	struct nbd_export_config config = {.name = "nearly", .size = 4096};
	struct rig *rig = arg;
	struct nbd_export *export;
	struct err err = ERR_INIT;

	return (void *)(intptr_t)nbd_export_add(rig->server, &config, &ops, "nearly", &export,
						&err);
}

/* Connections that found it before it turned out to be none, on either worker. */
static void who_enters_an_export_that_fails_to_attach_hears_that_there_is_none(void **state)
{
	struct rig *rig = *state;
	unsigned char data[64];
	size_t n = peer_info_data(data, "nearly", NULL, 0);
	pthread_t thread;
	struct peer_rep rep;
	int fds[16];
	void *result;
	unsigned i;

	sem_init(&attaching, 0, 0);
	sem_init(&may_fail, 0, 0);
	for (i = 0; i < ARRAY_SIZE(fds); i++) {
		fds[i] = peer_connect(rig->address);
		peer_greet(fds[i], NBD_FLAG_FIXED_NEWSTYLE);
	}
	pthread_create(&thread, NULL, add_in_vain, rig);
	sem_wait(&attaching);
	for (i = 0; i < ARRAY_SIZE(fds); i++)
		if (i % 2)
			peer_option(fds[i], NBD_OPT_GO, data, n);
		else
			peer_option(fds[i], NBD_OPT_EXPORT_NAME, "nearly", 6);
	usleep(20000); /* for those on the other worker to find it */
	sem_post(&may_fail);
	pthread_join(thread, &result);
	assert_int_equal((intptr_t)result, -ENODEV);
	for (i = 0; i < ARRAY_SIZE(fds); i++) {
		if (i % 2) {
			peer_rep(fds[i], &rep);
			assert_int_equal(rep.type, NBD_REP_ERR_UNKNOWN);
			assert_true(peer_go(fds[i], RIG_NAME, NULL, NULL));
		} else {
			assert_true(peer_at_end(fds[i]));
		}
		peer_close(fds[i]);
	}
}

static void an_export_that_cannot_be_attached_is_not_there(void **state)
{
	static const struct nbd_export_ops ops = {.attach = attach_fails};
	struct nbd_export_config config = {.name = "broken", .size = 512};
	struct rig *rig = *state;
	struct err err = ERR_INIT;
	struct nbd_export *export;
	uint32_t error;
	int fd;

	assert_int_equal(nbd_export_add(rig->server, &config, &ops, "disk", &export, &err),
			 -ENODEV);
	assert_string_equal(err.text, "'disk' is not there");
	fd = peer_connect(rig->address);
	peer_greet(fd, NBD_FLAG_FIXED_NEWSTYLE);
	assert_false(peer_go(fd, "broken", NULL, &error));
	assert_int_equal(error, NBD_REP_ERR_UNKNOWN);
	peer_close(fd);
}

static int add(struct rig *rig, const char *name, uint64_t size, uint32_t block)
{
	struct nbd_export_config config = {.name = name, .size = size, .preferred_block = block};
	struct nbd_export *export;
	struct err err = ERR_INIT;
	struct nbd_null null;
	int r = nbd_export_add(rig->server, &config, &nbd_export_null_ops, &null, &export, &err);

	assert_true(r == 0 || err.text[0]);
	if (!r)
		nbd_export_remove(export, false);
	return r;
}

static void settings_that_make_no_sense_are_refused(void **state)
{
	struct rig *rig = *state;
	char longest[NBD_EXPORT_NAME_MAX + 2];

	memset(longest, 'n', sizeof(longest));
	longest[NBD_EXPORT_NAME_MAX + 1] = '\0';
	assert_int_equal(add(rig, longest, 512, 512), -ENAMETOOLONG);
	longest[NBD_EXPORT_NAME_MAX] = '\0';
	assert_int_equal(add(rig, longest, 512, 512), 0);
	assert_int_equal(add(rig, RIG_NAME, 512, 512), -EEXIST);
	assert_int_equal(add(rig, "x", 1ULL << 63, 512), -EFBIG);
	assert_int_equal(add(rig, "x", 512, 256), -EINVAL);
	assert_int_equal(add(rig, "x", 512, 768), -EINVAL);
	assert_int_equal(add(rig, "x", 512, 64 << 20), -EINVAL);
	assert_int_equal(add(rig, "x", 0, 0), 0);
}

/* --- listening -------------------------------------------------------------------------------- */

static void assert_serves(const char *address)
{
	int fd = peer_enter(address, RIG_NAME);

	peer_request(fd, 0, NBD_CMD_FLUSH, 1, 0, 0);
	assert_int_equal(peer_simple_to(fd, 1), 0);
	peer_close(fd);
}

static void every_export_is_reached_on_every_listener(void **state)
{
	struct rig *rig = *state;
	struct err err = ERR_INIT;
	char bound[128];

	rig_ok(nbd_server_listen(rig->server, "127.0.0.1:0", NULL, bound, sizeof(bound), &err),
	       &err);
	assert_true(strncmp(bound, "127.0.0.1:", 10) == 0 && strcmp(bound, "127.0.0.1:0") != 0);
	assert_serves(bound);
	/* Not every machine has IPv6. */
	if (!nbd_server_listen(rig->server, "[::1]:0", NULL, bound, sizeof(bound), &err)) {
		assert_true(strncmp(bound, "[::1]:", 6) == 0);
		assert_serves(bound);
	}
	assert_serves(rig->address);
}

static void addresses_that_are_none_are_refused(void **state)
{
	static const char *const wrong[] = {"",
					    "127.0.0.1",
					    ":10809",
					    "127.0.0.1:",
					    "[::1:5",
					    "unix:",
					    "127.0.0.1:no-port",
					    "no.such.host.invalid:1",
					    "fd:",
					    "fd:-3",
					    "fd:3x",
					    "fd:1000000",
					    "fd:99999999999999999999"};
	struct rig *rig = *state;
	char taken[128];
	struct err err = ERR_INIT;
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(wrong); i++) {
		err = ERR_INIT;
		assert_int_not_equal(nbd_server_listen(rig->server, wrong[i], NULL, NULL, 0, &err),
				     0);
		assert_true(err.text[0] != '\0');
	}
	rig_ok(nbd_server_listen(rig->server, "127.0.0.1:0", NULL, taken, sizeof(taken), &err),
	       &err);
	assert_int_equal(nbd_server_listen(rig->server, taken, NULL, NULL, 0, &err), -EADDRINUSE);
}

static void a_socket_that_listens_already_is_taken_over(void **state)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	struct rig *rig = *state;
	struct err err = ERR_INIT;
	char address[32], bound[200], wanted[200], path[160];
	int fd, other;

	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	other = dup(fd);
	snprintf(path, sizeof(path), "%s/passed", rig->dir);
	assert_true(strlen(path) < sizeof(sun.sun_path));
	strcpy(sun.sun_path, path);
	assert_int_equal(bind(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	snprintf(address, sizeof(address), "fd:%d", fd);
	assert_int_equal(nbd_server_listen(rig->server, address, NULL, NULL, 0, &err), -EINVAL);
	assert_int_equal(listen(fd, 5), 0);
	rig_ok(nbd_server_listen(rig->server, address, NULL, bound, sizeof(bound), &err), &err);
	snprintf(wanted, sizeof(wanted), "unix:%s", path);
	assert_string_equal(bound, wanted);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	assert_serves(bound);
	assert_serves(rig->address);
	nbd_server_shutdown(rig->server);
	peer_close(peer_connect(bound)); /* waits in the queue of whoever else has the socket */
	close(other);
	assert_int_equal(nbd_export_remove(steal(&rig->export), false), 0);
	unlink(path);
}

static void a_stale_socket_file_is_replaced_and_a_living_one_is_not(void **state)
{
	struct rig *rig = *state;
	struct err err = ERR_INIT;
	char path[160], address[168];
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	struct stat st;
	FILE *file;
	int fd;

	assert_int_equal(nbd_server_listen(rig->server, rig->address, NULL, NULL, 0, &err),
			 -EADDRINUSE);
	assert_serves(rig->address);

	snprintf(path, sizeof(path), "%s/stale", rig->dir);
	snprintf(address, sizeof(address), "unix:%s", path);
	assert_true(strlen(path) < sizeof(sun.sun_path));
	strcpy(sun.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	close(fd);
	rig_ok(nbd_server_listen(rig->server, address, NULL, NULL, 0, &err), &err);
	assert_serves(address);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);

	snprintf(path, sizeof(path), "%s/file", rig->dir);
	snprintf(address, sizeof(address), "unix:%s", path);
	file = fopen(path, "w");
	assert_non_null(file);
	fclose(file);
	assert_int_equal(nbd_server_listen(rig->server, address, NULL, NULL, 0, &err), -EEXIST);
	assert_int_equal(unlink(path), 0);
}

/* --- adopting --------------------------------------------------------------------------------- */

static void a_connected_socket_is_adopted_and_served(void **state)
{
	struct rig *rig = *state;
	struct err err = ERR_INIT;
	unsigned char back[512];
	unsigned i;
	int pair[2];

	for (i = 0; i < 4; i++) { /* each worker has its turn, and O_NONBLOCK is no hindrance */
		assert_int_equal(
			socketpair(AF_UNIX, SOCK_STREAM | (i & 1 ? SOCK_NONBLOCK : 0), 0, pair), 0);
		fcntl(pair[0], F_SETFL, fcntl(pair[0], F_GETFL) & ~O_NONBLOCK);
		rig_ok(nbd_server_adopt(rig->server, pair[1], &err), &err);
		peer_greet(pair[0], NBD_FLAG_FIXED_NEWSTYLE);
		assert_true(peer_go(pair[0], RIG_NAME, NULL, NULL));
		peer_request(pair[0], 0, NBD_CMD_READ, i, 0, sizeof(back));
		assert_int_equal(peer_simple_to(pair[0], i), 0);
		peer_recv(pair[0], back, sizeof(back));
		peer_close(pair[0]);
	}
	rig_await(rig_stats(rig).connections == 0);
	assert_int_equal(rig_stats(rig).connections_total, 4);
}

static void what_is_no_connected_socket_is_not_adopted(void **state)
{
	struct rig *rig = *state;
	int wrong[3], i, pair[2];

	assert_int_equal(pipe(pair), 0);
	close(pair[1]);
	wrong[0] = pair[0];
	wrong[1] = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair), 0);
	close(pair[1]);
	wrong[2] = pair[0];
	for (i = 0; i < 3; i++) {
		struct err err = ERR_INIT;

		assert_int_equal(nbd_server_adopt(rig->server, wrong[i], &err),
				 i ? -EINVAL : -ENOTSOCK);
		assert_true(err.text[0] != '\0');
		assert_int_equal(fcntl(wrong[i], F_GETFD), -1); /* it was given away all the same */
	}
}

/* --- stopping --------------------------------------------------------------------------------- */

static void a_server_stops_with_clients_in_every_state(void **state)
{
	struct rig *rig = rig_start((struct nbd_server_config){.workers = 3, .batch_count = 2});
	int silent = peer_connect(rig->address), halfway = peer_connect(rig->address);
	int inside = peer_enter(rig->address, RIG_NAME);

	(void)state;
	peer_greet(halfway, NBD_FLAG_FIXED_NEWSTYLE);
	peer_send(halfway, "IHAVE", 5);
	peer_request(inside, 0, NBD_CMD_WRITE, 1, 0, 1 << 20);
	rig_stop(rig);
	peer_drain_to_end(silent);
	peer_drain_to_end(halfway);
	peer_drain_to_end(inside);
	peer_close(silent);
	peer_close(halfway);
	peer_close(inside);
}

static void a_server_that_never_listened_stops(void **state)
{
	struct nbd_server_config config = {.workers = 2, .batch_count = 2};
	struct nbd_server *server;
	struct err err = ERR_INIT;

	(void)state;
	rig_ok(nbd_server_start(&server, &config, &err), &err);
	nbd_server_stop(server);
	nbd_server_stop(NULL);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
	const struct CMUnitTest tests[] = {
		T(twenty_connections_share_one_export),
		cmocka_unit_test(exports_spread_over_workers_and_every_one_is_reached),
		T(a_removed_export_is_flushed_detached_and_its_connections_end),
		T(the_error_of_the_last_flush_is_the_removers),
		T(an_abandoned_export_is_told_so_and_succeeds),
		T(running_requests_finish_and_late_ones_hear_of_the_shutdown),
		T(a_client_that_owes_payload_or_reads_nothing_delays_no_removal),
		T(exports_come_and_go_under_load_again_and_again),
		T(an_export_streams_on_while_others_come_and_go),
		T(entering_while_the_export_goes_away_is_refused_or_ended),
		T(an_export_that_cannot_be_attached_is_not_there),
		T(who_enters_an_export_that_fails_to_attach_hears_that_there_is_none),
		T(settings_that_make_no_sense_are_refused),
		T(every_export_is_reached_on_every_listener),
		T(addresses_that_are_none_are_refused),
		T(a_socket_that_listens_already_is_taken_over),
		T(a_stale_socket_file_is_replaced_and_a_living_one_is_not),
		T(a_connected_socket_is_adopted_and_served),
		T(what_is_no_connected_socket_is_not_adopted),
		cmocka_unit_test(a_server_stops_with_clients_in_every_state),
		cmocka_unit_test(a_server_that_never_listened_stops),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
