#include "tests/support/nbdpeer.h"

#include <errno.h>
#include <netdb.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"

/* --- bytes ------------------------------------------------------------------------------------ */

static int connect_unix(const char *path)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strncpy(sun.sun_path, path, sizeof(sun.sun_path) - 1);
	assert_int_equal(connect(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	return fd;
}

static int connect_tcp(const char *address)
{
	char host[256], *port;
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *ai;
	size_t n;
	int fd;

	strncpy(host, address, sizeof(host) - 1);
	host[sizeof(host) - 1] = '\0';
	port = strrchr(host, ':');
	assert_non_null(port);
	*port++ = '\0';
	n = strlen(host);
	if (host[0] == '[') {
		memmove(host, host + 1, n);
		host[n - 2] = '\0';
	}
	assert_int_equal(getaddrinfo(host, port, &hints, &ai), 0);
	fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fd, ai->ai_addr, ai->ai_addrlen), 0);
	freeaddrinfo(ai);
	return fd;
}

int peer_connect(const char *address)
{
	const struct timeval limit = {.tv_sec = PEER_TIMEOUT_S};
	int fd = strncmp(address, "unix:", 5) == 0 ? connect_unix(address + 5)
						   : connect_tcp(address);

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	return fd;
}

void peer_close(int fd)
{
	close(fd);
}

void peer_send(int fd, const void *p, size_t len)
{
	const char *b = p;

	while (len) {
		ssize_t n = send(fd, b, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			fail_msg("send: %s", strerror(errno));
		b += n;
		len -= n;
	}
}

void peer_recv(int fd, void *p, size_t len)
{
	char *b = p;

	while (len) {
		ssize_t n = recv(fd, b, len, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			fail_msg("%zu bytes did not come: %s", len,
				 n ? strerror(errno) : "connection closed");
		b += n;
		len -= n;
	}
}

bool peer_at_end(int fd)
{
	char c;
	ssize_t n = recv(fd, &c, 1, 0);

	if (n < 0 && errno == EAGAIN)
		fail_msg("the server does not close the connection");
	return n <= 0;
}

void peer_drain_to_end(int fd)
{
	char b[4096];
	ssize_t n;

	while ((n = recv(fd, b, sizeof(b), 0)) > 0)
		;
	if (n < 0 && errno == EAGAIN)
		fail_msg("the server does not close the connection");
}

/* --- handshake -------------------------------------------------------------------------------- */

uint16_t peer_greet(int fd, uint32_t flags)
{
	unsigned char b[NBD_GREETING_SIZE], f[4];

	peer_recv(fd, b, sizeof(b));
	assert_true(load_be64(b) == NBD_MAGIC);
	assert_true(load_be64(b + 8) == NBD_OPTION_MAGIC);
	store_be32(f, flags);
	peer_send(fd, f, sizeof(f));
	return load_be16(b + 16);
}

void peer_option(int fd, uint32_t code, const void *data, size_t len)
{
	unsigned char b[NBD_OPTION_SIZE];

	store_be64(b, NBD_OPTION_MAGIC);
	store_be32(b + 8, code);
	store_be32(b + 12, len);
	peer_send(fd, b, sizeof(b));
	peer_send(fd, data, len);
}

void peer_rep(int fd, struct peer_rep *rep)
{
	unsigned char b[NBD_REP_SIZE];

	peer_recv(fd, b, sizeof(b));
	assert_true(load_be64(b) == NBD_REP_MAGIC);
	rep->option = load_be32(b + 8);
	rep->type = load_be32(b + 12);
	rep->len = load_be32(b + 16);
	assert_true(rep->len <= sizeof(rep->data));
	peer_recv(fd, rep->data, rep->len);
}

void peer_option_expect(int fd, uint32_t code, const void *data, size_t len, uint32_t type)
{
	struct peer_rep rep;

	peer_option(fd, code, data, len);
	peer_rep(fd, &rep);
	assert_int_equal(rep.option, code);
	assert_int_equal(rep.type, type);
}

size_t peer_info_data(unsigned char *p, const char *name, const uint16_t *infos, unsigned count)
{
	size_t n = strlen(name);
	unsigned i;

	store_be32(p, n);
	memcpy(p + 4, name, n);
	store_be16(p + 4 + n, count);
	for (i = 0; i < count; i++)
		store_be16(p + 6 + n + i * 2, infos[i]);
	return 6 + n + count * 2;
}

size_t peer_meta_data(unsigned char *p, const char *name, const char *const *queries,
		      unsigned count)
{
	unsigned char *start = p;
	unsigned i;

	store_be32(p, strlen(name));
	memcpy(p + 4, name, strlen(name));
	p += 4 + strlen(name);
	store_be32(p, count);
	p += 4;
	for (i = 0; i < count; i++) {
		store_be32(p, strlen(queries[i]));
		memcpy(p + 4, queries[i], strlen(queries[i]));
		p += 4 + strlen(queries[i]);
	}
	return p - start;
}

bool peer_go(int fd, const char *name, struct peer_export *export, uint32_t *error)
{
	unsigned char data[8192];
	struct peer_rep rep;

	peer_option(fd, NBD_OPT_GO, data, peer_info_data(data, name, NULL, 0));
	for (;;) {
		peer_rep(fd, &rep);
		assert_int_equal(rep.option, NBD_OPT_GO);
		if (rep.type == NBD_REP_ACK)
			return true;
		if (rep.type & 0x80000000U) {
			if (error)
				*error = rep.type;
			return false;
		}
		assert_int_equal(rep.type, NBD_REP_INFO);
		if (load_be16(rep.data) == NBD_INFO_EXPORT && export) {
			assert_int_equal(rep.len, 12);
			export->size = load_be64(rep.data + 2);
			export->flags = load_be16(rep.data + 10);
		}
	}
}

int peer_try_enter(const char *address, const char *name)
{
	unsigned char b[512], info[64];
	int fd = peer_connect(address);
	size_t n = peer_info_data(b + 20, name, NULL, 0);
	uint32_t len;

	store_be32(b, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	store_be64(b + 4, NBD_OPTION_MAGIC);
	store_be32(b + 12, NBD_OPT_GO);
	store_be32(b + 16, n);
	send(fd, b, 20 + n, MSG_NOSIGNAL);
	if (recv(fd, b, NBD_GREETING_SIZE, MSG_WAITALL) != NBD_GREETING_SIZE)
		goto out;
	while (recv(fd, b, NBD_REP_SIZE, MSG_WAITALL) == NBD_REP_SIZE) {
		if (load_be32(b + 12) == NBD_REP_ACK)
			return fd;
		assert_int_equal(load_be32(b + 12), NBD_REP_INFO);
		len = load_be32(b + 16);
		assert_true(len <= sizeof(info));
		if (recv(fd, info, len, MSG_WAITALL) != (ssize_t)len)
			break;
	}
out:
	close(fd);
	return -1;
}

int peer_enter(const char *address, const char *name)
{
	int fd = peer_connect(address);

	peer_greet(fd, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	assert_true(peer_go(fd, name, NULL, NULL));
	return fd;
}

int peer_enter_structured(const char *address, const char *name)
{
	int fd = peer_connect(address);

	peer_greet(fd, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	peer_option_expect(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
	assert_true(peer_go(fd, name, NULL, NULL));
	return fd;
}

int peer_enter_meta(const char *address, const char *name)
{
	static const char *const queries[] = {"base:allocation"};
	unsigned char data[8192];
	struct peer_rep rep;
	int fd = peer_connect(address);

	peer_greet(fd, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	peer_option_expect(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
	peer_option(fd, NBD_OPT_SET_META_CONTEXT, data, peer_meta_data(data, name, queries, 1));
	peer_rep(fd, &rep);
	assert_int_equal(rep.type, NBD_REP_META_CONTEXT);
	peer_rep(fd, &rep);
	assert_int_equal(rep.type, NBD_REP_ACK);
	assert_true(peer_go(fd, name, NULL, NULL));
	return fd;
}

int peer_enter_extended(const char *address, const char *name, const char *const *contexts,
			unsigned count, uint32_t *ids)
{
	int fd = peer_connect(address);
	unsigned char data[8192];
	struct peer_rep rep;
	unsigned i, k;

	peer_greet(fd, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	peer_option_expect(fd, NBD_OPT_EXTENDED_HEADERS, NULL, 0, NBD_REP_ACK);
	if (count)
		peer_option(fd, NBD_OPT_SET_META_CONTEXT, data,
			    peer_meta_data(data, name, contexts, count));
	for (i = 0; i < count; i++) {
		peer_rep(fd, &rep);
		assert_int_equal(rep.type, NBD_REP_META_CONTEXT);
		for (k = 0; k < count; k++)
			if (rep.len - 4 == strlen(contexts[k]) &&
			    memcmp(rep.data + 4, contexts[k], rep.len - 4) == 0)
				break;
		assert_true(k < count);
		ids[k] = load_be32(rep.data);
	}
	if (count) {
		peer_rep(fd, &rep);
		assert_int_equal(rep.type, NBD_REP_ACK);
	}
	assert_true(peer_go(fd, name, NULL, NULL));
	return fd;
}

/* --- transmission ----------------------------------------------------------------------------- */

void peer_put_request(unsigned char *p, uint16_t flags, uint16_t type, uint64_t cookie,
		      uint64_t off, uint32_t len)
{
	store_be32(p, NBD_REQUEST_MAGIC);
	store_be16(p + 4, flags);
	store_be16(p + 6, type);
	store_be64(p + 8, cookie);
	store_be64(p + 16, off);
	store_be32(p + 24, len);
}

void peer_request(int fd, uint16_t flags, uint16_t type, uint64_t cookie, uint64_t off,
		  uint32_t len)
{
	unsigned char b[NBD_REQUEST_SIZE];

	peer_put_request(b, flags, type, cookie, off, len);
	peer_send(fd, b, sizeof(b));
}

void peer_write(int fd, uint16_t flags, uint64_t cookie, uint64_t off, const void *p, uint32_t len)
{
	peer_request(fd, flags, NBD_CMD_WRITE, cookie, off, len);
	peer_send(fd, p, len);
}

void peer_put_ext_request(unsigned char *p, uint16_t flags, uint16_t type, uint64_t cookie,
			  uint64_t off, uint64_t len)
{
	store_be32(p, NBD_EXT_REQUEST_MAGIC);
	store_be16(p + 4, flags);
	store_be16(p + 6, type);
	store_be64(p + 8, cookie);
	store_be64(p + 16, off);
	store_be64(p + 24, len);
}

void peer_ext_request(int fd, uint16_t flags, uint16_t type, uint64_t cookie, uint64_t off,
		      uint64_t len)
{
	unsigned char b[NBD_EXT_REQUEST_SIZE];

	peer_put_ext_request(b, flags, type, cookie, off, len);
	peer_send(fd, b, sizeof(b));
}

void peer_ext_write(int fd, uint16_t flags, uint64_t cookie, uint64_t off, const void *p,
		    uint32_t len)
{
	peer_ext_request(fd, flags | NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_WRITE, cookie, off, len);
	peer_send(fd, p, len);
}

uint32_t peer_simple(int fd, uint64_t *cookie)
{
	unsigned char b[NBD_SIMPLE_SIZE];

	peer_recv(fd, b, sizeof(b));
	assert_int_equal(load_be32(b), NBD_SIMPLE_MAGIC);
	*cookie = load_be64(b + 8);
	return load_be32(b + 4);
}

uint32_t peer_simple_to(int fd, uint64_t cookie)
{
	uint64_t got;
	uint32_t error = peer_simple(fd, &got);

	assert_true(got == cookie);
	return error;
}

static void chunk_head(struct peer_chunk *chunk, const unsigned char *b)
{
	memset(chunk, 0, sizeof(*chunk));
	chunk->flags = load_be16(b + 4);
	chunk->type = load_be16(b + 6);
	chunk->cookie = load_be64(b + 8);
}

/* Shown as the data it stands for. */
static void chunk_hole(struct peer_chunk *chunk)
{
	unsigned char *payload = chunk->data;

	assert_int_equal(chunk->len, 12);
	chunk->off = load_be64(payload);
	chunk->data_len = load_be32(payload + 8);
	assert_true(chunk->data_len > 0 && chunk->data_len <= 32U << 20);
	chunk->data = calloc(1, chunk->data_len);
	assert_non_null(chunk->data);
	free(payload);
}

static void chunk_payload(int fd, struct peer_chunk *chunk, uint64_t len)
{
	uint32_t skip;

	assert_true(len <= (33U << 20));
	chunk->len = len;
	chunk->data = malloc(chunk->len + 1);
	assert_non_null(chunk->data);
	peer_recv(fd, chunk->data, chunk->len);
	skip = chunk->type == NBD_REPLY_TYPE_OFFSET_DATA ? 8 : 0;
	if (skip)
		chunk->off = load_be64(chunk->data);
	if (chunk->type == NBD_REPLY_TYPE_ERROR)
		chunk->error = load_be32(chunk->data);
	if (chunk->type == NBD_REPLY_TYPE_OFFSET_HOLE) {
		chunk_hole(chunk);
		return;
	}
	chunk->data_len = chunk->len - skip;
	memmove(chunk->data, chunk->data + skip, chunk->data_len);
}

void peer_chunk(int fd, struct peer_chunk *chunk)
{
	unsigned char b[NBD_CHUNK_SIZE];

	peer_recv(fd, b, sizeof(b));
	assert_int_equal(load_be32(b), NBD_CHUNK_MAGIC);
	chunk_head(chunk, b);
	chunk_payload(fd, chunk, load_be32(b + 16));
}

void peer_ext_chunk(int fd, struct peer_chunk *chunk, uint64_t off)
{
	unsigned char b[NBD_EXT_CHUNK_SIZE];

	peer_recv(fd, b, sizeof(b));
	assert_int_equal(load_be32(b), NBD_EXT_CHUNK_MAGIC);
	chunk_head(chunk, b);
	assert_true(load_be64(b + 16) == off);
	chunk_payload(fd, chunk, load_be64(b + 24));
}

uint32_t peer_ext_reply(int fd, uint64_t cookie, uint64_t off)
{
	struct peer_chunk c;
	uint32_t error;

	peer_ext_chunk(fd, &c, off);
	assert_true(c.cookie == cookie);
	assert_int_equal(c.flags, NBD_REPLY_FLAG_DONE);
	if (c.type == NBD_REPLY_TYPE_NONE) {
		assert_int_equal(c.len, 0);
	} else {
		assert_int_equal(c.type, NBD_REPLY_TYPE_ERROR);
		assert_true(c.error != 0);
	}
	error = c.error;
	peer_chunk_free(&c);
	return error;
}

void peer_chunk_free(struct peer_chunk *chunk)
{
	free(chunk->data);
	chunk->data = NULL;
}

static uint32_t read_chunks(int fd, bool extended, uint64_t cookie, uint64_t off, uint32_t len,
			    void *buf, unsigned *data_chunks)
{
	struct peer_chunk c;
	uint32_t got = 0, error = 0;
	bool done;

	if (data_chunks)
		*data_chunks = 0;
	do {
		if (extended)
			peer_ext_chunk(fd, &c, off);
		else
			peer_chunk(fd, &c);
		assert_true(c.cookie == cookie);
		done = c.flags & NBD_REPLY_FLAG_DONE;
		if (c.type == NBD_REPLY_TYPE_OFFSET_DATA || c.type == NBD_REPLY_TYPE_OFFSET_HOLE) {
			assert_true(c.off >= off && c.off + c.data_len <= off + len);
			memcpy((char *)buf + (c.off - off), c.data, c.data_len);
			got += c.data_len;
			if (data_chunks)
				++*data_chunks;
		} else if (c.type == NBD_REPLY_TYPE_ERROR) {
			assert_true(c.error != 0);
			error = c.error;
		} else {
			assert_int_equal(c.type, NBD_REPLY_TYPE_NONE);
			assert_true(done);
		}
		peer_chunk_free(&c);
	} while (!done);
	if (!error)
		assert_int_equal(got, len);
	return error;
}

uint32_t peer_read_structured(int fd, uint64_t cookie, uint64_t off, uint32_t len, void *buf,
			      unsigned *data_chunks)
{
	return read_chunks(fd, false, cookie, off, len, buf, data_chunks);
}

uint32_t peer_read_extended(int fd, uint64_t cookie, uint64_t off, uint32_t len, void *buf,
			    unsigned *data_chunks)
{
	return read_chunks(fd, true, cookie, off, len, buf, data_chunks);
}
