#include "nbd_rig.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <linux/sockios.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/log.h"
#include "kit.h"
#include "nbd/server.h"
#include "nbd/wire.h"

#define TIMEOUT_S 60
/* Of a session; what comes after so many of them is spared the trouble, which shows nothing new. */
#define PIECE_WAITS 16 /* each costs two switches of context */
#define PIECES	    512
#define BITES	    512

struct rig_disk rig_disks[RIG_DISKS] = {{.name = "disk"}, {.name = "fixed", .read_only = true}};

static struct nbd_server *server;
static struct nbd_export *exports[RIG_DISKS];
static char *tls_sockets[3]; /* by policy; without TLS the server adopts */
static int neighbours[RIG_DISKS];
static struct rig_manners manners; /* changes while no session runs */

/* --- disks ------------------------------------------------------------------------------------ */

struct rig_op {
	struct ring_op post;
	struct rig_disk *disk;
	unsigned rounds;
	int res;
};

static bool is_bad(uint64_t off, uint64_t len)
{
	return manners.bad && off < RIG_BAD + RIG_BAD_LEN && off + len > RIG_BAD;
}

static int disk_attach(void *target, const struct nbd_worker_io *io, struct err *err)
{
	struct rig_disk *disk = target;

	(void)err;
	disk->ring = io->ring;
	return 0;
}

static void disk_detach(void *target)
{
	(void)target;
}

static ssize_t disk_write(void *target, uint64_t off, const void *buf, size_t len)
{
	struct rig_disk *disk = target;

	KIT_CHECK(!disk->read_only && len && range_inside(off, len, RIG_SIZE));
	if (is_bad(off, len))
		return -EIO;
	if (++disk->writes > BITES)
		;
	else if (manners.eagain_every && disk->writes % manners.eagain_every == 0)
		return -EAGAIN;
	else if (manners.bite)
		len = MIN(len, manners.bite);
	memcpy(disk->data + off, buf, len);
	return len;
}

static void room_round(struct ring_op *op, int res)
{
	struct rig_disk *disk = container_of(op, struct rig_disk, room_op);
	struct list *node;

	(void)res;
	disk->room_posted = false;
	while ((node = list_pop(&disk->waiters))) {
		struct pool_waiter *waiter = list_entry(node, struct pool_waiter, node);

		waiter->wake(waiter);
	}
}

static void disk_wait_room(void *target, struct pool_waiter *waiter)
{
	struct rig_disk *disk = target;

	list_del(&waiter->node);
	list_add_tail(&disk->waiters, &waiter->node);
	if (!disk->room_posted)
		ring_post(disk->ring, &disk->room_op, 0);
	disk->room_posted = true;
}

static void op_round(struct ring_op *post, int res)
{
	struct rig_op *op = container_of(post, struct rig_op, post);
	struct nbd_io *io = nbd_io_of(op);

	(void)res;
	if (op->rounds--)
		ring_post(op->disk->ring, post, 0);
	else
		io->done(io, op->res);
}

/* Operations take effect when they are submitted and are done later, out of order. */
static void op_finish(struct rig_disk *disk, struct nbd_io *io, int res)
{
	struct rig_op *op = (struct rig_op *)io->op;

	op->disk = disk;
	op->res = res;
	op->rounds = manners.delay ? ++disk->ops * 7 % (manners.delay + 1) : 0;
	op->post.done = op_round;
	ring_post(disk->ring, &op->post, 0);
}

static void disk_read(void *target, struct nbd_io *io)
{
	struct rig_disk *disk = target;

	KIT_CHECK(io->len && range_inside(io->off, io->len, RIG_SIZE));
	memcpy(io->buf, disk->data + io->off, io->len);
	op_finish(disk, io, is_bad(io->off, io->len) ? -EIO : 0);
}

static void disk_zero(void *target, struct nbd_io *io)
{
	struct rig_disk *disk = target;
	int r = is_bad(io->off, io->len) ? -EIO : 0;

	KIT_CHECK(!disk->read_only && io->len && range_inside(io->off, io->len, RIG_SIZE));
	if (!r)
		memset(disk->data + io->off, 0, io->len);
	op_finish(disk, io, r);
}

static void disk_flush(void *target, struct nbd_io *io)
{
	op_finish(target, io, 0);
}

/* Runs of @block bytes that say 0 and @flags in turn. */
static void disk_runs(void *target, struct nbd_io *io, uint64_t block, uint32_t flags)
{
	uint64_t off = io->off, end = io->off + io->len;

	KIT_CHECK(io->len && io->extent_max && range_inside(io->off, io->len, RIG_SIZE));
	for (io->extent_count = 0; off < end && io->extent_count < io->extent_max;) {
		uint64_t next = MIN((off / block + 1) * block, end);

		io->extents[io->extent_count++] = (struct nbd_extent){
			.len = next - off, .flags = off / block % 2 ? flags : 0};
		off = next;
	}
	op_finish(target, io, 0);
}

static void disk_extents(void *target, struct nbd_io *io)
{
	disk_runs(target, io, RIG_BLOCK, 3);
}

static void disk_received(void *target, struct nbd_io *io)
{
	KIT_CHECK(!((struct rig_disk *)target)->read_only);
	disk_runs(target, io, RIG_RECEIVED, 1);
}

static const struct nbd_export_ops disk_ops = {
	.attach = disk_attach,
	.detach = disk_detach,
	.write = disk_write,
	.wait_room = disk_wait_room,
	.read = disk_read,
	.zero = disk_zero,
	.flush = disk_flush,
	.extents = disk_extents,
	.received = disk_received,
};

static void disk_init(struct rig_disk *disk)
{
	unsigned i;

	disk->data = malloc(RIG_SIZE);
	disk->model = malloc(RIG_SIZE);
	disk->start = malloc(RIG_SIZE);
	KIT_CHECK(disk->data && disk->model && disk->start);
	for (i = 0; i < RIG_SIZE; i++)
		disk->start[i] = (i + disk->read_only) * 2654435761U >> 11;
	memcpy(disk->data, disk->start, RIG_SIZE);
	memcpy(disk->model, disk->start, RIG_SIZE);
	list_init(&disk->waiters);
	disk->room_op.done = room_round;
}

/* --- the good clients ------------------------------------------------------------------------- */

static void say(int fd, const void *p, size_t len)
{
	KIT_CHECK(send(fd, p, len, MSG_NOSIGNAL) == (ssize_t)len);
}

static void hear(int fd, void *p, size_t len)
{
	KIT_CHECK(recv(fd, p, len, MSG_WAITALL) == (ssize_t)len);
}

static int adopted(void)
{
	int pair[2];

	KIT_CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	KIT_CHECK(!nbd_server_adopt(server, pair[1], NULL));
	return pair[0];
}

static int neighbour_enter(const char *name)
{
	const struct timeval limit = {.tv_sec = TIMEOUT_S};
	unsigned char b[64], reply[NBD_EXPORT_NAME_REPLY_SIZE];
	size_t len = strlen(name);
	int fd = adopted();

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	hear(fd, b, NBD_GREETING_SIZE);
	store_be32(b, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	store_be64(b + 4, NBD_OPTION_MAGIC);
	store_be32(b + 12, NBD_OPT_EXPORT_NAME);
	store_be32(b + 16, len);
	memcpy(b + 20, name, len);
	say(fd, b, 20 + len);
	hear(fd, reply, sizeof(reply));
	KIT_CHECK(load_be64(reply) == RIG_SIZE);
	return fd;
}

static void put_request(unsigned char *b, uint16_t type, uint64_t cookie, uint64_t off,
			uint32_t len)
{
	store_be32(b, NBD_REQUEST_MAGIC);
	store_be16(b + 4, 0);
	store_be16(b + 6, type);
	store_be64(b + 8, cookie);
	store_be64(b + 16, off);
	store_be32(b + 24, len);
}

/* Reads what the disk holds, wherever it is this time. */
static void neighbour_works(unsigned i)
{
	unsigned char b[NBD_REQUEST_SIZE], back[NBD_SIMPLE_SIZE + 512];
	static uint64_t cookie;
	uint64_t off = ++cookie * 512 % (RIG_SIZE - 512);

	put_request(b, NBD_CMD_READ, cookie, off, 512);
	say(neighbours[i], b, sizeof(b));
	hear(neighbours[i], back, sizeof(back));
	KIT_CHECK(load_be32(back) == NBD_SIMPLE_MAGIC && !load_be32(back + 4) &&
		  load_be64(back + 8) == cookie);
	KIT_CHECK(!memcmp(back + NBD_SIMPLE_SIZE, rig_disks[i].data + off, 512));
}

/* --- the server ------------------------------------------------------------------------------- */

static void rig_stop(void)
{
	unsigned i;

	for (i = 0; i < RIG_DISKS; i++) {
		close(neighbours[i]);
		KIT_CHECK(!nbd_export_remove(exports[i], false));
		free(rig_disks[i].data);
		free(rig_disks[i].model);
		free(rig_disks[i].start);
	}
	nbd_server_stop(server);
	free(tls_sockets[NBD_TLS_ALLOW]);
	free(tls_sockets[NBD_TLS_REQUIRE]);
}

static void listen_tls(enum nbd_tls_policy policy)
{
	static const char key[] = "nobody:00112233445566778899aabbccddeeff\n";
	struct nbd_listen_config config = {.tls.policy = policy};
	char *address;

	kit_store("keys", key, strlen(key), 0);
	config.tls.psk = kit_path("keys");
	KIT_CHECK(asprintf(&address, "unix:%s/tls%d", kit_folder(), policy) > 0);
	KIT_CHECK(!nbd_server_listen(server, address, &config, NULL, 0, NULL));
	tls_sockets[policy] = address;
}

static int connected(enum nbd_tls_policy policy)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strncpy(sun.sun_path, tls_sockets[policy] + strlen("unix:"), sizeof(sun.sun_path) - 1);
	KIT_CHECK(fd >= 0 && !connect(fd, (struct sockaddr *)&sun, sizeof(sun)));
	return fd;
}

/* Timeouts out of the way: what a session does is its own doing. */
static void rig_start(void)
{
	const struct nbd_server_config config = {.workers = RIG_DISKS,
						 .batch_count = 1,
						 .handshake_timeout_ms = 60000,
						 .stall_timeout_ms = 60000};
	unsigned i;

	log_set_level(LOG_LEVEL_ERROR);
	KIT_CHECK(!nbd_server_start(&server, &config, NULL));
	for (i = 0; i < RIG_DISKS; i++) {
		struct nbd_export_config export = {.name = rig_disks[i].name,
						   .size = RIG_SIZE,
						   .preferred_block = RIG_BLOCK,
						   .read_only = rig_disks[i].read_only};

		disk_init(&rig_disks[i]);
		KIT_CHECK(!nbd_export_add(server, &export, &disk_ops, &rig_disks[i], &exports[i],
					  NULL));
		neighbours[i] = neighbour_enter(rig_disks[i].name);
	}
	listen_tls(NBD_TLS_ALLOW);
	listen_tls(NBD_TLS_REQUIRE);
	atexit(rig_stop);
}

/* --- sessions --------------------------------------------------------------------------------- */

struct talk {
	struct rig_session *s;
	int fd;
	size_t said;
	unsigned waits;
};

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

/* Reads what is there; false: that was all there will be. */
static bool talk_hear(struct talk *t)
{
	struct rig_session *s = t->s;

	while (s->replies_len < RIG_REPLY_MAX) {
		ssize_t n = recv(t->fd, s->replies + s->replies_len, RIG_REPLY_MAX - s->replies_len,
				 MSG_DONTWAIT);

		if (n < 0 && errno == EAGAIN)
			return true;
		if (n <= 0)
			return false;
		s->replies_len += n;
	}
	s->cut = true;
	return false;
}

/* Sends up to @len bytes without waiting for more than room; false: nobody listens any more. */
static bool talk_say(struct talk *t, size_t len)
{
	struct rig_session *s = t->s;

	while (len) {
		struct pollfd p = {.fd = t->fd, .events = POLLIN | POLLOUT};
		ssize_t n = send(t->fd, s->said + t->said, len, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno != EAGAIN)
			return false;
		if (n > 0) {
			t->said += n;
			len -= n;
			continue;
		}
		KIT_CHECK(poll(&p, 1, TIMEOUT_S * 1000) == 1);
		if (!talk_hear(t))
			return false;
	}
	return true;
}

/* Until the server has read all that was said, as long as it does. */
static bool talk_await_read(struct talk *t)
{
	int64_t end = now_ms() + 2;
	int unread;

	while (!ioctl(t->fd, SIOCOUTQ, &unread) && unread && now_ms() < end) {
		if (!talk_hear(t))
			return false;
		sched_yield();
	}
	return true;
}

static size_t piece_size(unsigned char n)
{
	return (n & 64) ? (size_t)1 << (n % 16) : (n & 63) + 1U;
}

static bool talk_say_all(struct talk *t)
{
	const struct rig_session *s = t->s;
	size_t i;

	for (i = 0; t->said < s->said_len; i++) {
		unsigned char n = s->pieces_len ? s->pieces[i % s->pieces_len] : 0;
		size_t left = s->said_len - t->said;

		if (!talk_say(t, s->pieces_len && i < PIECES ? MIN(piece_size(n), left) : left))
			return false;
		if (n & 128 && t->waits++ < PIECE_WAITS && !talk_await_read(t))
			return false;
	}
	return true;
}

static void talk_hear_all(struct talk *t)
{
	struct pollfd p = {.fd = t->fd, .events = POLLIN};

	shutdown(t->fd, SHUT_WR);
	while (talk_hear(t))
		KIT_CHECK(poll(&p, 1, TIMEOUT_S * 1000) == 1);
}

/* The good clients alone are left. */
static void await_gone(void)
{
	int64_t end = now_ms() + TIMEOUT_S * 1000;
	struct nbd_server_stats stats;

	for (;;) {
		nbd_server_get_stats(server, &stats);
		if (stats.connections == RIG_DISKS)
			return;
		KIT_CHECK(now_ms() < end);
		sched_yield();
	}
}

void rig_run(struct rig_session *s)
{
	static unsigned char replies[RIG_REPLY_MAX];
	struct talk t = {.s = s};
	unsigned i;

	if (!server)
		rig_start();
	manners = s->manners;
	for (i = 0; i < RIG_DISKS; i++)
		rig_disks[i].writes = rig_disks[i].ops = 0;
	s->replies = replies;
	s->replies_len = 0;
	s->cut = false;
	t.fd = s->tls == NBD_TLS_OFF ? adopted() : connected(s->tls);
	if (talk_say_all(&t) && s->hang_up)
		s->cut = true;
	if (!s->cut)
		talk_hear_all(&t);
	close(t.fd);
	await_gone();
	memset(&manners, 0, sizeof(manners));
	for (i = 0; i < RIG_DISKS; i++)
		neighbour_works(i);
}
