/* Bad clients, of every kind we know. What they do to themselves is their business: most results
 * are not looked at. What a server owes even to them is checked: an error for each request that
 * makes sense as a message, an end to those who do not negotiate. */
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "nbd/wire.h"
#include "tests/soak/soak.h"
#include "tests/support/nbdpeer.h"

#define FLOOD	   96
#define PATIENCE_S 40 /* many times SOAK_HANDSHAKE */

struct foe {
	struct soak *soak;
	uint64_t random;
};

static uint64_t below(struct foe *f, uint64_t n)
{
	return soak_random(&f->random) % n;
}

/* --- sockets ---------------------------------------------------------------------------------- */

static int try_connect(struct foe *f)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	struct sockaddr_in sin = {
		.sin_family = AF_INET,
		.sin_port = htons(f->soak->port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	const struct timeval limit = {.tv_sec = 5};
	bool tcp = below(f, 2);
	int fd = socket(tcp ? AF_INET : AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int r;

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	memcpy(sun.sun_path, f->soak->socket, sizeof(f->soak->socket));
	r = tcp ? connect(fd, (struct sockaddr *)&sin, sizeof(sin))
		: connect(fd, (struct sockaddr *)&sun, sizeof(sun));
	if (!r)
		return fd;
	close(fd);
	return -1;
}

/* Politely, or with a reset. */
static void leave(struct foe *f, int fd)
{
	const struct linger now = {.l_onoff = 1};

	if (below(f, 2))
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(fd);
}

static bool say(int fd, const void *p, size_t len)
{
	const char *b = p;

	while (len) {
		ssize_t n = send(fd, b, len, MSG_NOSIGNAL);

		if (n <= 0)
			return false;
		b += n;
		len -= n;
	}
	return true;
}

static bool hear(int fd, void *p, size_t len)
{
	return !len || recv(fd, p, len, MSG_WAITALL) == (ssize_t)len;
}

static void rest(struct foe *f, unsigned ms)
{
	int left = below(f, ms);

	for (; left > 0 && !atomic_load(&f->soak->stop); left -= 10)
		usleep(10000);
}

/* --- negotiation ------------------------------------------------------------------------------ */

/* All that a client says on its way into an export. */
static size_t put_negotiation(unsigned char *p, const char *name)
{
	size_t len = peer_info_data(p + 20, name, NULL, 0);

	store_be32(p, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	store_be64(p + 4, NBD_OPTION_MAGIC);
	store_be32(p + 12, NBD_OPT_GO);
	store_be32(p + 16, len);
	return 20 + len;
}

static int enter(struct foe *f, const char *name)
{
	unsigned char b[128], data[512];
	int fd = try_connect(f);
	size_t len = put_negotiation(b, name);

	if (fd < 0)
		return -1;
	if (!say(fd, b, len) || !hear(fd, b, NBD_GREETING_SIZE))
		goto out;
	while (hear(fd, b, NBD_REP_SIZE) && load_be64(b) == NBD_REP_MAGIC) {
		uint32_t type = load_be32(b + 12);

		len = load_be32(b + 16);
		if (type & 0x80000000U || len > sizeof(data) || !hear(fd, data, len))
			break;
		if (type == NBD_REP_ACK)
			return fd;
	}
out:
	close(fd);
	return -1;
}

static int enter_writable(struct foe *f, struct soak_disk **disk)
{
	*disk = &f->soak->disks[below(f, SOAK_FIXED)];
	return enter(f, (*disk)->name);
}

/* --- kinds ------------------------------------------------------------------------------------ */

static void aborts_a_write(struct foe *f)
{
	static const unsigned char junk[65536] = {[0 ... 65535] = SOAK_JUNK};
	unsigned char b[NBD_REQUEST_SIZE];
	struct soak_disk *disk;
	uint64_t len = 1 + below(f, MIB), left;
	int fd = enter_writable(f, &disk);

	if (fd < 0)
		return;
	peer_put_request(b, below(f, 2), NBD_CMD_WRITE, 1,
			 disk->size - SOAK_SCRATCH + below(f, SOAK_SCRATCH - len), len);
	if (say(fd, b, sizeof(b)))
		for (left = below(f, len); left;) {
			size_t n = 1 + below(f, MIN(left, sizeof(junk)));

			if (!say(fd, junk, n))
				break;
			left -= n;
		}
	leave(f, fd);
}

static void talks_garbage(struct foe *f)
{
	unsigned char b[4096];
	unsigned i, times = 1 + below(f, 16);
	int fd = below(f, 2) ? try_connect(f) : enter(f, f->soak->disks[below(f, 4)].name);

	if (fd < 0)
		return;
	while (times--) {
		for (i = 0; i < sizeof(b); i += 8) {
			uint64_t v = soak_random(&f->random);

			memcpy(b + i, &v, 8);
		}
		if (!say(fd, b, 1 + below(f, sizeof(b))))
			break;
	}
	leave(f, fd);
}

static void leaves_in_the_middle_of_the_negotiation(struct foe *f)
{
	unsigned char b[128];
	size_t len = put_negotiation(b, f->soak->disks[below(f, 4)].name);
	int fd = try_connect(f);

	if (fd < 0)
		return;
	say(fd, b, below(f, len));
	rest(f, 300);
	leave(f, fd);
}

/* The one promise it gets: an end, which it waits for even when the round is over. */
static void says_nothing(struct foe *f)
{
	const struct timeval limit = {.tv_sec = PATIENCE_S};
	unsigned char b[64];
	int fd = try_connect(f);
	ssize_t n;

	if (fd < 0)
		return;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	while ((n = recv(fd, b, sizeof(b), 0)) > 0)
		;
	if (n < 0 && errno == EAGAIN)
		soak_violation(f->soak, "who does not negotiate is not hung up on in %d s",
			       PATIENCE_S);
	leave(f, fd);
}

static void stops_in_the_middle_of_a_header(struct foe *f)
{
	unsigned char b[NBD_REQUEST_SIZE];
	struct soak_disk *disk;
	int fd = enter_writable(f, &disk);

	if (fd < 0)
		return;
	peer_put_request(b, 0, NBD_CMD_FLUSH, 1, 0, 0);
	say(fd, b, below(f, sizeof(b)));
	rest(f, 500);
	leave(f, fd);
}

static void reads_slowly(struct foe *f)
{
	unsigned char b[16 * NBD_REQUEST_SIZE];
	struct soak_disk *disk = &f->soak->disks[below(f, SOAK_DISKS)];
	unsigned i;
	int fd = enter(f, disk->name);

	if (fd < 0)
		return;
	for (i = 0; i < 16; i++)
		peer_put_request(b + i * NBD_REQUEST_SIZE, 0, NBD_CMD_READ, i, i * MIB, MIB);
	say(fd, b, sizeof(b));
	for (i = 0; i < 100 && !atomic_load(&f->soak->stop); i++) {
		if (recv(fd, b, 1 + below(f, sizeof(b)), 0) <= 0)
			break;
		usleep(5000);
	}
	leave(f, fd);
}

static void reads_no_replies(struct foe *f)
{
	unsigned char b[64 * NBD_REQUEST_SIZE];
	struct soak_disk *disk;
	unsigned i;
	int fd = enter_writable(f, &disk);

	if (fd < 0)
		return;
	for (i = 0; i < 64; i++)
		peer_put_request(b + i * NBD_REQUEST_SIZE, 0,
				 i % 4	       ? NBD_CMD_CACHE
				 : below(f, 2) ? NBD_CMD_READ
					       : NBD_CMD_FLUSH,
				 i, 0, i % 4 ? 4096 : 0);
	for (i = 0; i < 2000; i++)
		if (send(fd, b, sizeof(b), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
			break;
	rest(f, 400);
	leave(f, fd);
}

static void come_in_floods(struct foe *f)
{
	unsigned char b[128];
	size_t len = put_negotiation(b, f->soak->disks[below(f, 4)].name);
	int fd[FLOOD];
	unsigned i;

	for (i = 0; i < FLOOD; i++) {
		fd[i] = try_connect(f);
		if (fd[i] >= 0 && below(f, 2))
			say(fd[i], b, len);
	}
	rest(f, 200);
	for (i = 0; i < FLOOD; i++)
		if (fd[i] >= 0)
			leave(f, fd[i]);
}

static void sends_single_bytes(struct foe *f)
{
	unsigned char b[NBD_REQUEST_SIZE], reply[NBD_SIMPLE_SIZE];
	struct soak_disk *disk;
	unsigned i;
	int fd = enter_writable(f, &disk);

	if (fd < 0)
		return;
	peer_put_request(b, 0, NBD_CMD_CACHE, 7, 0, 512);
	for (i = 0; i < sizeof(b); i++) {
		if (!say(fd, b + i, 1))
			goto out;
		usleep(below(f, 1000));
	}
	if (hear(fd, reply, sizeof(reply)) && (load_be32(reply) != NBD_SIMPLE_MAGIC ||
					       load_be32(reply + 4) || load_be64(reply + 8) != 7))
		soak_violation(f->soak, "a request in single bytes is answered wrongly");
out:
	leave(f, fd);
}

/* Each of these is refused, in order or not, and costs nothing else. */
static void asks_for_what_is_not_there(struct foe *f)
{
	unsigned char b[8 * NBD_REQUEST_SIZE], reply[NBD_SIMPLE_SIZE];
	struct soak_disk *disk;
	unsigned i, seen = 0;
	int fd = enter_writable(f, &disk);
	const struct {
		uint16_t flags, type;
		uint64_t off;
		uint32_t len;
	} asked[8] = {
		{0, NBD_CMD_READ, disk->size, 1},
		{0, NBD_CMD_READ, ~0ULL, 4096},
		{0, NBD_CMD_READ, 0, ~0U},
		{0, NBD_CMD_TRIM, disk->size - 5, 6},
		{0, NBD_CMD_WRITE_ZEROES, 1ULL << 63, 1},
		{0, 0x4242, 0, 0},
		{0xff00, NBD_CMD_FLUSH, 0, 0},
		{0, NBD_CMD_BLOCK_STATUS, 0, 512},
	};

	if (fd < 0)
		return;
	for (i = 0; i < ARRAY_SIZE(asked); i++)
		peer_put_request(b + i * NBD_REQUEST_SIZE, asked[i].flags, asked[i].type, i,
				 asked[i].off, asked[i].len);
	if (!say(fd, b, sizeof(b)))
		goto out;
	for (i = 0; i < 8; i++) {
		if (!hear(fd, reply, sizeof(reply)))
			goto out;
		if (load_be32(reply) != NBD_SIMPLE_MAGIC || !load_be32(reply + 4) ||
		    load_be64(reply + 8) > 7)
			break;
		seen |= 1U << load_be64(reply + 8);
	}
	if (seen != 0xff)
		soak_violation(f->soak, "nonsense is not refused: replies to 0x%x of 0xff", seen);
out:
	leave(f, fd);
}

static void visits_the_guest(struct foe *f)
{
	unsigned char b[NBD_REQUEST_SIZE + 4096] = {0};
	int fd = enter(f, SOAK_GUEST);

	if (fd < 0)
		return;
	while (!atomic_load(&f->soak->stop)) {
		peer_put_request(b, NBD_CMD_FLAG_FUA, NBD_CMD_WRITE, 1, 0, 4096);
		if (!say(fd, b, sizeof(b)) || !hear(fd, b, NBD_SIMPLE_SIZE))
			break;
	}
	leave(f, fd);
}

static void offers_what_is_too_long(struct foe *f)
{
	static const unsigned char data[65536];
	unsigned char b[NBD_CLIENT_FLAGS_SIZE + NBD_OPTION_SIZE];
	uint32_t len = 16384 + below(f, 1 << 20), n;
	int fd = try_connect(f);

	if (fd < 0)
		return;
	store_be32(b, NBD_FLAG_FIXED_NEWSTYLE);
	store_be64(b + 4, NBD_OPTION_MAGIC);
	store_be32(b + 12, 1 + below(f, 12));
	store_be32(b + 16, len);
	if (say(fd, b, sizeof(b)))
		for (; len; len -= n) {
			n = MIN(len, sizeof(data));
			if (!say(fd, data, n) || below(f, 10) == 0)
				break;
		}
	leave(f, fd);
}

/* A hello, or what begins like one, and an end somewhere in it. */
static void begins_tls_with_nonsense(struct foe *f)
{
	unsigned char b[NBD_CLIENT_FLAGS_SIZE + NBD_OPTION_SIZE] = {0}, data[600];
	int fd = try_connect(f);
	size_t i, len = below(f, sizeof(data));

	if (fd < 0)
		return;
	store_be32(b, NBD_FLAG_FIXED_NEWSTYLE);
	store_be64(b + 4, NBD_OPTION_MAGIC);
	store_be32(b + 12, NBD_OPT_STARTTLS);
	for (i = 0; i < sizeof(data); i++)
		data[i] = below(f, 256);
	memcpy(data, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", below(f, 12));
	if (hear(fd, data + 100, NBD_GREETING_SIZE) && say(fd, b, sizeof(b)) &&
	    hear(fd, b, NBD_REP_SIZE) && say(fd, data, len))
		rest(f, 50);
	leave(f, fd);
}

void *soak_hostile(void *arg)
{
	static void (*const kinds[])(struct foe *) = {
		aborts_a_write,
		aborts_a_write,
		talks_garbage,
		leaves_in_the_middle_of_the_negotiation,
		says_nothing,
		stops_in_the_middle_of_a_header,
		reads_slowly,
		reads_no_replies,
		come_in_floods,
		sends_single_bytes,
		visits_the_guest,
		asks_for_what_is_not_there,
		talks_garbage,
		offers_what_is_too_long,
		begins_tls_with_nonsense,
	};
	struct soak_thread *t = arg;
	struct foe f = {.soak = t->soak, .random = t->seed};

	while (!atomic_load(&f.soak->stop)) {
		kinds[below(&f, ARRAY_SIZE(kinds))](&f);
		soak_count(f.soak, SOAK_HOSTILE, 1);
	}
	return NULL;
}
