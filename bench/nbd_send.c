/*
 * A sender of disks over NBD that costs little itself: one thread a connection, requests in flight
 * up to a depth, payload from memory that is made once. Where fio's own work would be the limit,
 * this shows the server's.
 *
 *   nbd_send [OPTIONS] ADDRESS[@EXPORT]...
 *   nbd_send --idle N ADDRESS[@EXPORT]    opens N connections, says so, and waits to be killed
 *
 * ADDRESS is unix:PATH or HOST:PORT. All exports are written at once, each by --connections
 * connections that share it in stripes. A FLUSH an export ends the run and is inside the time.
 * Prints {"gib_s","seconds","bytes","slowest","mean","client_cpu_s_gib"}; slowest and mean are
 * GiB/s of single exports.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "nbd/wire.h"

#define MAX_STREAMS 1024
#define SOURCE	    (64 * MIB)
#define STREAM_STEP (64 * KIB) /* zero-mixed: every second one of these is zeroes */

static uint64_t size_each = GIB, block = MIB, skew;
static unsigned depth = 16, connections = 1, idle;
static bool at_random, zero_mixed;
static unsigned char *source;

struct stream {
	pthread_t thread;
	const char *target; /* ADDRESS[@EXPORT] */
	uint64_t from, to;
	unsigned index;
	int fd;
	double ended; /* CLOCK_MONOTONIC seconds */
};

static struct stream streams[MAX_STREAMS];
static unsigned stream_count;
static pthread_barrier_t ready;

static void die(const char *what, const char *detail)
{
	fprintf(stderr, "nbd_send: %s: %s\n", what, detail);
	exit(1);
}

static double now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/* --- the wire ------------------------------------------------------------------------------- */

static void give(int fd, struct iovec *iov, int n)
{
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = n};

	while (msg.msg_iovlen) {
		ssize_t done = sendmsg(fd, &msg, MSG_NOSIGNAL);

		if (done < 0)
			die("send", strerror(errno));
		while (msg.msg_iovlen && (size_t)done >= msg.msg_iov->iov_len) {
			done -= msg.msg_iov->iov_len;
			msg.msg_iov++;
			msg.msg_iovlen--;
		}
		if (msg.msg_iovlen) {
			msg.msg_iov->iov_base = (char *)msg.msg_iov->iov_base + done;
			msg.msg_iov->iov_len -= done;
		}
	}
}

static void take(int fd, void *buf, size_t len)
{
	ssize_t n = len ? recv(fd, buf, len, MSG_WAITALL) : 0;

	if (n != (ssize_t)len)
		die("receive", n < 0 ? strerror(errno) : "the server hung up");
}

static int dial(const char *address)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	struct sockaddr_in in = {.sin_family = AF_INET};
	const char *colon = strrchr(address, ':');
	char host[64];
	int fd, one = 1;

	if (!strncmp(address, "unix:", 5)) {
		if (strlen(address + 5) >= sizeof(un.sun_path))
			die(address, "the path is too long");
		memcpy(un.sun_path, address + 5, strlen(address + 5));
		fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (connect(fd, (struct sockaddr *)&un, sizeof(un)))
			die(address, strerror(errno));
		return fd;
	}
	if (!colon || (size_t)(colon - address) >= sizeof(host))
		die(address, "not unix:PATH or HOST:PORT");
	snprintf(host, sizeof(host), "%.*s", (int)(colon - address), address);
	in.sin_port = htons(atoi(colon + 1));
	if (inet_pton(AF_INET, host, &in.sin_addr) != 1)
		die(address, "not an address");
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(fd, (struct sockaddr *)&in, sizeof(in)))
		die(address, strerror(errno));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

static void negotiate(int fd, const char *name)
{
	unsigned char b[64 + NBD_STRING_MAX];
	uint32_t len = strlen(name);

	take(fd, b, NBD_GREETING_SIZE);
	store_be32(b, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	store_be64(b + 4, NBD_OPTION_MAGIC);
	store_be32(b + 12, NBD_OPT_GO);
	store_be32(b + 16, len + 6);
	store_be32(b + 20, len);
	memcpy(b + 24, name, len);
	store_be16(b + 24 + len, 0);
	give(fd, &(struct iovec){b, 26 + len}, 1);
	for (;;) {
		uint32_t type, more;

		take(fd, b, NBD_REP_SIZE);
		type = load_be32(b + 12);
		more = load_be32(b + 16);
		if (more > sizeof(b))
			die("handshake", "an answer out of bounds");
		take(fd, b, more);
		if (type == NBD_REP_ACK)
			return;
		if (type & 0x80000000U)
			die("handshake", "the export was refused");
	}
}

static void connect_stream(struct stream *s)
{
	const char *at = strrchr(s->target, '@');
	char address[256];

	snprintf(address, sizeof(address), "%.*s",
		 at ? (int)(at - s->target) : (int)strlen(s->target), s->target);
	s->fd = dial(address);
	negotiate(s->fd, at ? at + 1 : "");
}

/* --- one connection ------------------------------------------------------------------------- */

static void put_request(unsigned char *head, uint16_t type, uint64_t off, uint32_t len)
{
	store_be32(head, NBD_REQUEST_MAGIC);
	store_be16(head + 4, 0);
	store_be16(head + 6, type);
	store_be64(head + 8, off);
	store_be64(head + 16, off);
	store_be32(head + 24, len);
}

static void take_reply(int fd)
{
	unsigned char reply[NBD_SIMPLE_SIZE];

	take(fd, reply, sizeof(reply));
	if (load_be32(reply) != NBD_SIMPLE_MAGIC)
		die("reply", "bad magic");
	if (load_be32(reply + 4))
		die("reply", "the server reports an error");
}

static uint64_t place(const struct stream *s, uint64_t i, uint64_t count, uint64_t *rng)
{
	if (!at_random)
		return s->from + skew + i * block;
	*rng = *rng * 6364136223846793005ULL + 1442695040888963407ULL;
	return s->from + skew + (*rng >> 20) % count * block;
}

static void *run(void *arg)
{
	struct stream *s = arg;
	uint64_t count = (s->to - s->from - skew) / block, i, rng = s->index + 1;
	unsigned char head[NBD_REQUEST_SIZE];
	unsigned in_flight = 0;

	connect_stream(s);
	pthread_barrier_wait(&ready);
	for (i = 0; i < count; i++) {
		uint64_t off = place(s, i, count, &rng);
		uint64_t at = (off + s->index * 4096) % (SOURCE - block + 1);
		struct iovec iov[2] = {{head, sizeof(head)},
				       {source + align_down(at, STREAM_STEP), block}};

		if (in_flight == depth) {
			take_reply(s->fd);
			in_flight--;
		}
		put_request(head, NBD_CMD_WRITE, off, block);
		give(s->fd, iov, 2);
		in_flight++;
	}
	for (; in_flight; in_flight--)
		take_reply(s->fd);
	put_request(head, NBD_CMD_FLUSH, 0, 0);
	give(s->fd, &(struct iovec){head, sizeof(head)}, 1);
	take_reply(s->fd);
	s->ended = now(CLOCK_MONOTONIC);
	put_request(head, NBD_CMD_DISC, 0, 0);
	give(s->fd, &(struct iovec){head, sizeof(head)}, 1);
	close(s->fd);
	return NULL;
}

/* --- all of them ---------------------------------------------------------------------------- */

static void make_source(void)
{
	uint64_t x = 88172645463325252ULL, i;

	source = mmap(NULL, SOURCE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (source == MAP_FAILED)
		die("memory", strerror(errno));
	for (i = 0; i < SOURCE; i += 8) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		memcpy(source + i, &x, 8);
		if (zero_mixed && i / STREAM_STEP % 2)
			memset(source + i, 0, 8);
	}
}

static uint64_t number(const char *text)
{
	char *end;
	uint64_t n = strtoull(text, &end, 10);

	switch (*end) {
	case 'G':
		return n * GIB;
	case 'M':
		return n * MIB;
	case 'K':
	case 'k':
		return n * KIB;
	default:
		return n;
	}
}

static void parse(int argc, char **argv)
{
	static const struct option options[] = {
		{"size", required_argument, NULL, 's'},
		{"block", required_argument, NULL, 'b'},
		{"depth", required_argument, NULL, 'd'},
		{"connections", required_argument, NULL, 'c'},
		{"random", no_argument, NULL, 'r'},
		{"zero-mixed", no_argument, NULL, 'z'},
		{"skew", required_argument, NULL, 'k'},
		{"idle", required_argument, NULL, 'i'},
		{0},
	};
	unsigned i;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 's':
			size_each = number(optarg);
			break;
		case 'b':
			block = number(optarg);
			break;
		case 'd':
			depth = number(optarg);
			break;
		case 'c':
			connections = number(optarg);
			break;
		case 'r':
			at_random = true;
			break;
		case 'z':
			zero_mixed = true;
			break;
		case 'k':
			skew = number(optarg);
			break;
		case 'i':
			idle = number(optarg);
			break;
		default:
			exit(2);
		}
	}
	for (; optind < argc; optind++)
		for (i = 0; i < connections && stream_count < MAX_STREAMS; i++) {
			uint64_t stripe = align_down(size_each / connections, 2 * MIB);

			streams[stream_count] = (struct stream){
				.target = argv[optind],
				.from = i * stripe,
				.to = i + 1 == connections ? size_each : (i + 1) * stripe,
				.index = stream_count,
			};
			stream_count++;
		}
	if (!stream_count || !block || block > 32 * MIB || !depth || !connections)
		die("usage", "nbd_send [--size N] [--block N] [--depth N] [--connections N] "
			     "[--random] [--zero-mixed] [--skew N] ADDRESS[@EXPORT]...");
}

static int be_idle(const char *target)
{
	struct stream s = {.target = target};
	unsigned i;

	for (i = 0; i < idle; i++)
		connect_stream(&s);
	printf("%u connections\n", idle);
	fflush(stdout);
	pause();
	return 0;
}

int main(int argc, char **argv)
{
	double start, end = 0, slowest = 1e99, mean = 0, gib = 0;
	unsigned i, k, exports;

	parse(argc, argv);
	if (idle)
		return be_idle(streams[0].target);
	make_source();
	pthread_barrier_init(&ready, NULL, stream_count + 1);
	for (i = 0; i < stream_count; i++)
		if (pthread_create(&streams[i].thread, NULL, run, &streams[i]))
			die("threads", "cannot start one");
	pthread_barrier_wait(&ready);
	start = now(CLOCK_MONOTONIC);
	for (i = 0; i < stream_count; i++)
		pthread_join(streams[i].thread, NULL);
	exports = stream_count / connections;
	for (i = 0; i < exports; i++) {
		double done = 0, its;

		for (k = 0; k < connections; k++)
			done = MAX(done, streams[i * connections + k].ended);
		its = (double)size_each / GIB / (done - start);
		slowest = MIN(slowest, its);
		mean += its / exports;
		gib += (double)size_each / GIB;
		end = MAX(end, done);
	}
	printf("{\"gib_s\": %.4f, \"seconds\": %.4f, \"bytes\": %.0f, \"slowest\": %.4f, "
	       "\"mean\": %.4f, \"client_cpu_s_gib\": %.4f}\n",
	       gib / (end - start), end - start, gib * GIB, slowest, mean,
	       now(CLOCK_PROCESS_CPUTIME_ID) / gib);
	return 0;
}
