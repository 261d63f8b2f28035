/*
 * Clients nobody wants next door, as cheap for themselves as they can be: what they cost is what
 * the server spends on them. Until SIGTERM or SIGINT.
 *
 *   bad_neighbour ADDRESS KIND [CONNECTIONS [PER_SECOND]]
 *
 * ADDRESS: unix:PATH or 127.0.0.1:PORT.
 * KIND: deaf      asks for much and reads no reply
 *       silent    announces 32 MiB, sends a byte of it, and no more
 *       idle      enters and says nothing; from the 50th on it does not even enter
 *       dribble   sends a WRITE in single bytes, PER_SECOND of all connections together
 *       headers   sends requests in single bytes, as above
 *       churn     connects, negotiates and leaves, PER_SECOND
 *       hello     connects and begins TLS, with the same hello each time, PER_SECOND; the last
 *                 CONNECTIONS stay open
 *       slow      asks for much and reads PER_SECOND KiB of the replies, of all connections
 *       tiny      asks for what needs no disk, PER_SECOND requests, and reads the replies
 * Says "ready" when all connections stand.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <openssl/ssl.h>

#include "base/bytes.h"
#include "nbd/wire.h"

#define ENTERED_MAX 50

static const char *address;

static void die(const char *what)
{
	fprintf(stderr, "bad_neighbour: %s: %s\n", what, strerror(errno));
	exit(1);
}

static bool take(int fd, void *p, size_t len)
{
	return recv(fd, p, len, MSG_WAITALL) == (ssize_t)len;
}

static bool give(int fd, const void *p, size_t len)
{
	return send(fd, p, len, MSG_NOSIGNAL) == (ssize_t)len;
}

static int connected_unix(void)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strncpy(sun.sun_path, address + 5, sizeof(sun.sun_path) - 1);
	return connect(fd, (struct sockaddr *)&sun, sizeof(sun)) ? -1 : fd;
}

static int connected_tcp(void)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	const char *colon = strrchr(address, ':');
	int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;

	sin.sin_port = htons(colon ? atoi(colon + 1) : 0);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return connect(fd, (struct sockaddr *)&sin, sizeof(sin)) ? -1 : fd;
}

static int greeted(void)
{
	const unsigned char flags[4] = {0, 0, 0, 3};
	unsigned char greeting[NBD_GREETING_SIZE];
	int fd = strncmp(address, "unix:", 5) ? connected_tcp() : connected_unix();

	if (fd < 0 || !take(fd, greeting, sizeof(greeting)) || !give(fd, flags, sizeof(flags)))
		die("connect");
	return fd;
}

static int entered(void)
{
	unsigned char option[NBD_OPTION_SIZE + 6] = {0}, rep[NBD_REP_SIZE], data[256];
	int fd = greeted();

	store_be64(option, NBD_OPTION_MAGIC);
	store_be32(option + 8, NBD_OPT_GO);
	store_be32(option + 12, 6);
	if (!give(fd, option, sizeof(option)))
		die("GO");
	do {
		if (!take(fd, rep, sizeof(rep)) || load_be32(rep + 16) > sizeof(data) ||
		    (load_be32(rep + 16) && !take(fd, data, load_be32(rep + 16))))
			die("GO");
		if (load_be32(rep + 12) & 0x80000000U)
			die("GO is refused");
	} while (load_be32(rep + 12) != NBD_REP_ACK);
	return fd;
}

static void put_request(unsigned char *p, uint16_t type, uint64_t off, uint32_t len)
{
	memset(p, 0, NBD_REQUEST_SIZE);
	store_be32(p, NBD_REQUEST_MAGIC);
	store_be16(p + 6, type);
	store_be64(p + 16, off);
	store_be32(p + 24, len);
}

static void ask(int fd, uint16_t type, uint32_t len)
{
	unsigned char b[NBD_REQUEST_SIZE];

	put_request(b, type, 0, len);
	if (!give(fd, b, sizeof(b)))
		die("request");
}

static void ready(void)
{
	puts("ready");
	fflush(stdout);
}

/* Sleeps so that the @n-th event comes when it is due; in steps of a millisecond at least. */
static void pace(uint64_t n, unsigned per_second)
{
	static struct timespec began;
	struct timespec due;
	uint64_t ns;

	if (!began.tv_sec)
		clock_gettime(CLOCK_MONOTONIC, &began);
	if (n % (per_second / 1000 + 1))
		return;
	ns = n * 1000000000ULL / per_second + began.tv_nsec;
	due.tv_sec = began.tv_sec + ns / 1000000000ULL;
	due.tv_nsec = ns % 1000000000ULL;
	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
}

/* --- kinds ------------------------------------------------------------------------------------ */

static void deaf(const int *fd, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		for (unsigned j = 0; j < 64; j++)
			ask(fd[i], NBD_CMD_READ, 1 << 20);
	ready();
	pause();
}

static void silent(const int *fd, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		ask(fd[i], NBD_CMD_WRITE, 32 << 20);
		give(fd[i], "x", 1);
	}
	ready();
	pause();
}

static void dribble(const int *fd, unsigned count, unsigned per_second)
{
	for (unsigned i = 0; i < count; i++)
		ask(fd[i], NBD_CMD_WRITE, 32 << 20);
	ready();
	for (uint64_t n = 0;; n++) {
		give(fd[n % count], "x", 1);
		pace(n, per_second);
	}
}

/* FLUSHes outside the range they must have: refused, so that no disk is in it. */
static void headers(const int *fd, unsigned count, unsigned per_second)
{
	unsigned char b[NBD_REQUEST_SIZE], drop[4096];

	put_request(b, NBD_CMD_FLUSH, 1, 1);
	ready();
	for (uint64_t n = 0;; n++) {
		unsigned at = n / count % sizeof(b);

		give(fd[n % count], b + at, 1);
		if (!at)
			recv(fd[n % count], drop, sizeof(drop), MSG_DONTWAIT);
		pace(n, per_second);
	}
}

static void tiny(const int *fd, unsigned count, unsigned per_second)
{
	unsigned char b[NBD_REQUEST_SIZE], drop[4096];

	put_request(b, NBD_CMD_CACHE, 0, 512);
	ready();
	for (uint64_t n = 0;; n++) {
		give(fd[n % count], b, sizeof(b));
		if (n / count % 16 == 0)
			recv(fd[n % count], drop, sizeof(drop), MSG_DONTWAIT);
		pace(n, per_second);
	}
}

static void churn(unsigned per_second)
{
	ready();
	for (uint64_t n = 0;; n++) {
		close(entered());
		pace(n, per_second);
	}
}

static void starttls(int fd)
{
	unsigned char option[NBD_OPTION_SIZE] = {0}, rep[NBD_REP_SIZE];

	store_be64(option, NBD_OPTION_MAGIC);
	store_be32(option + 8, NBD_OPT_STARTTLS);
	if (!give(fd, option, sizeof(option)) || !take(fd, rep, sizeof(rep)) ||
	    load_be32(rep + 12) != NBD_REP_ACK)
		die("STARTTLS");
}

/* What a client of OpenSSL's says first. */
static int hello_make(unsigned char *p, int size)
{
	SSL *ssl = SSL_new(SSL_CTX_new(TLS_client_method()));

	SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
	SSL_connect(ssl);
	return BIO_read(SSL_get_wbio(ssl), p, size);
}

static void hello(int *fd, unsigned count, unsigned per_second)
{
	unsigned char b[4096];
	int len = hello_make(b, sizeof(b));

	ready();
	for (uint64_t n = 0;; n++) {
		int *slot = &fd[n % count];

		if (*slot)
			close(*slot);
		*slot = greeted();
		starttls(*slot);
		give(*slot, b, len);
		pace(n, per_second);
	}
}

static void slow(const int *fd, unsigned count, unsigned per_second)
{
	static unsigned char drop[1 << 20];
	unsigned steps = 50, part = MIN(per_second * 1024ULL / steps / count, sizeof(drop));
	uint64_t got[4096] = {0};

	for (unsigned i = 0; i < count; i++)
		for (unsigned j = 0; j < 64; j++)
			ask(fd[i], NBD_CMD_READ, 1 << 20);
	ready();
	for (uint64_t n = 0;; n++) {
		for (unsigned i = 0; i < count; i++) {
			ssize_t r = recv(fd[i], drop, part, MSG_DONTWAIT);

			got[i] += r > 0 ? r : 0;
			for (; got[i] > 1 << 20; got[i] -= 1 << 20)
				ask(fd[i], NBD_CMD_READ, 1 << 20);
		}
		pace(n, steps);
	}
}

int main(int argc, char **argv)
{
	const char *kind = argc > 2 ? argv[2] : "";
	unsigned count = argc > 3 ? atoi(argv[3]) : 16;
	unsigned per_second = argc > 4 ? atoi(argv[4]) : 1000;
	bool is_idle = !strcmp(kind, "idle"), is_churn = !strcmp(kind, "churn");
	bool is_hello = !strcmp(kind, "hello");
	int *fd = calloc(count, sizeof(*fd));

	address = argc > 1 ? argv[1] : "";
	for (unsigned i = 0; fd && i < count && !is_churn && !is_hello; i++)
		fd[i] = is_idle && i >= ENTERED_MAX ? greeted() : entered();
	if (!strcmp(kind, "deaf"))
		deaf(fd, count);
	else if (!strcmp(kind, "silent"))
		silent(fd, count);
	else if (is_idle)
		ready();
	else if (!strcmp(kind, "dribble"))
		dribble(fd, count, per_second);
	else if (!strcmp(kind, "headers"))
		headers(fd, count, per_second);
	else if (!strcmp(kind, "tiny"))
		tiny(fd, count, per_second);
	else if (!strcmp(kind, "slow"))
		slow(fd, MIN(count, 4096), per_second);
	else if (is_hello)
		hello(fd, count, per_second);
	else if (is_churn)
		churn(per_second);
	else {
		fprintf(stderr, "usage: bad_neighbour ADDRESS KIND [CONNECTIONS [PER_SECOND]]\n");
		return 2;
	}
	pause();
	return 0;
}
