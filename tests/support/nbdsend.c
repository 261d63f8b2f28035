#include "tests/support/nbdsend.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"

#define OPT_GO	      7
#define REP_ACK	      1
#define REP_INFO      3
#define CMD_WRITE     1
#define CMD_ZEROES    6
#define REQUEST_MAGIC 0x25609513U
#define REPLY_MAGIC   0x67446698U
#define OPTION_MAGIC  0x49484156454F5054ULL

static int take(int fd, void *buf, size_t len)
{
	unsigned char *p = buf;

	while (len) {
		ssize_t n = recv(fd, p, len, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -1;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

static int give(int fd, const void *buf, size_t len)
{
	const unsigned char *p = buf;

	while (len) {
		ssize_t n = send(fd, p, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -1;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

static int dial(const char *address)
{
	struct sockaddr_in to = {.sin_family = AF_INET};
	const char *colon = strrchr(address, ':');
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

	to.sin_port = htons((uint16_t)atoi(colon + 1));
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
		close(fd);
		return -1;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return fd;
}

static int ask_go(struct nbdsend *c, const char *name)
{
	unsigned char head[16], body[8];
	uint32_t len = (uint32_t)strlen(name);

	store_be64(head, OPTION_MAGIC);
	store_be32(head + 8, OPT_GO);
	store_be32(head + 12, len + 6);
	store_be32(body, len);
	store_be16(body + 4, 0); /* no information wanted in particular */
	return give(c->fd, head, 16) || give(c->fd, body, 4) || give(c->fd, name, len) ||
	       give(c->fd, body + 4, 2);
}

/* Replies to GO until ACK or an error. */
static int await_go(struct nbdsend *c)
{
	unsigned char head[20], info[4096];

	for (;;) {
		uint32_t type, len;

		if (take(c->fd, head, 20))
			return -1;
		type = load_be32(head + 12);
		len = load_be32(head + 16);
		if (len > sizeof(info) || take(c->fd, info, len))
			return -1;
		if (type == REP_INFO && len >= 12 && load_be16(info) == 0)
			c->size = load_be64(info + 2);
		if (type == REP_ACK)
			return 0;
		if (type & 0x80000000U)
			return (int)(type & 0x7fffffffU);
	}
}

int nbdsend_try_connect(struct nbdsend *c, const char *address, const char *export_name)
{
	unsigned char greeting[18], flags[4];
	int rc;

	*c = (struct nbdsend){.fd = dial(address)};
	if (c->fd < 0)
		return -1;
	store_be32(flags, 1 | 2); /* fixed newstyle, no zeroes */
	rc = take(c->fd, greeting, 18) || give(c->fd, flags, 4) || ask_go(c, export_name) ? -1 : 0;
	if (!rc)
		rc = await_go(c);
	if (rc)
		nbdsend_drop(c);
	return rc;
}

void nbdsend_connect(struct nbdsend *c, const char *address, const char *export_name)
{
	int rc = nbdsend_try_connect(c, address, export_name);

	if (rc) {
		fprintf(stderr, "no connection to %s/%s: %d\n", address, export_name, rc);
		abort();
	}
}

static int request(struct nbdsend *c, uint16_t cmd, uint64_t off, uint32_t len, const void *payload)
{
	unsigned char head[28], reply[16];

	store_be32(head, REQUEST_MAGIC);
	store_be16(head + 4, 0);
	store_be16(head + 6, cmd);
	store_be64(head + 8, ++c->handle);
	store_be64(head + 16, off);
	store_be32(head + 24, len);
	if (give(c->fd, head, 28) || (payload && give(c->fd, payload, len)) ||
	    take(c->fd, reply, 16))
		return -1;
	if (load_be32(reply) != REPLY_MAGIC || load_be64(reply + 8) != c->handle)
		return -1;
	return (int)load_be32(reply + 4);
}

int nbdsend_write(struct nbdsend *c, uint64_t off, const void *buf, uint32_t len)
{
	return request(c, CMD_WRITE, off, len, buf);
}

int nbdsend_zero(struct nbdsend *c, uint64_t off, uint32_t len)
{
	return request(c, CMD_ZEROES, off, len, NULL);
}

void nbdsend_drop(struct nbdsend *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
}
