#include "nbd/wire.h"

#include <string.h>

#include "base/bytes.h"

/* --- strings ---------------------------------------------------------------------------------- */

/* Bytes of the UTF-8 character that begins at @s; 0: there is none (RFC 3629). */
static unsigned utf8_length(const unsigned char *s)
{
	unsigned n = s[0] < 0x80 ? 1 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4, i;
	/* What the second byte may be keeps out surrogates, overlong forms and what is too large.
	 */
	unsigned char low = s[0] == 0xe0 ? 0xa0 : s[0] == 0xf0 ? 0x90 : 0x80;
	unsigned char high = s[0] == 0xed ? 0x9f : s[0] == 0xf4 ? 0x8f : 0xbf;

	if (n == 1)
		return 1;
	if (s[0] < 0xc2 || s[0] > 0xf4 || s[1] < low || s[1] > high)
		return 0;
	for (i = 2; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	return n;
}

bool nbd_string_valid(const char *s)
{
	const unsigned char *p = (const unsigned char *)s;
	unsigned n;

	for (; *p; p += n) {
		n = utf8_length(p);
		if (!n)
			return false;
	}
	return strlen(s) <= NBD_STRING_MAX;
}

/* --- handshake -------------------------------------------------------------------------------- */

void nbd_put_greeting(void *p, uint16_t flags)
{
	unsigned char *b = p;

	store_be64(b, NBD_MAGIC);
	store_be64(b + 8, NBD_OPTION_MAGIC);
	store_be16(b + 16, flags);
}

bool nbd_get_option(const void *p, struct nbd_option *option)
{
	const unsigned char *b = p;

	option->code = load_be32(b + 8);
	option->len = load_be32(b + 12);
	return load_be64(b) == NBD_OPTION_MAGIC;
}

void nbd_put_rep(void *p, uint32_t option, uint32_t type, uint32_t len)
{
	unsigned char *b = p;

	store_be64(b, NBD_REP_MAGIC);
	store_be32(b + 8, option);
	store_be32(b + 12, type);
	store_be32(b + 16, len);
}

bool nbd_get_request(const void *p, struct nbd_request *request)
{
	const unsigned char *b = p;

	request->flags = load_be16(b + 4);
	request->type = load_be16(b + 6);
	request->extended = false;
	memcpy(&request->cookie, b + 8, sizeof(request->cookie));
	request->off = load_be64(b + 16);
	request->len = load_be32(b + 24);
	return load_be32(b) == NBD_REQUEST_MAGIC;
}

bool nbd_get_ext_request(const void *p, struct nbd_request *request)
{
	const unsigned char *b = p;

	request->flags = load_be16(b + 4);
	request->type = load_be16(b + 6);
	request->extended = true;
	memcpy(&request->cookie, b + 8, sizeof(request->cookie));
	request->off = load_be64(b + 16);
	request->len = load_be64(b + 24);
	return load_be32(b) == NBD_EXT_REQUEST_MAGIC;
}

size_t nbd_put_simple(void *p, const struct nbd_request *rq, enum nbd_error error)
{
	unsigned char *b = p;

	store_be32(b, NBD_SIMPLE_MAGIC);
	store_be32(b + 4, error);
	memcpy(b + 8, &rq->cookie, sizeof(rq->cookie));
	return NBD_SIMPLE_SIZE;
}

size_t nbd_put_chunk(void *p, const struct nbd_request *rq, uint16_t flags, uint16_t type,
		     uint32_t len)
{
	unsigned char *b = p;

	store_be32(b, rq->extended ? NBD_EXT_CHUNK_MAGIC : NBD_CHUNK_MAGIC);
	store_be16(b + 4, flags);
	store_be16(b + 6, type);
	memcpy(b + 8, &rq->cookie, sizeof(rq->cookie));
	if (rq->extended) {
		store_be64(b + 16, rq->off);
		store_be64(b + 24, len);
	} else {
		store_be32(b + 16, len);
	}
	return nbd_chunk_size(rq->extended);
}

size_t nbd_put_chunk_error(void *p, const struct nbd_request *rq, enum nbd_error error)
{
	unsigned char *b = p;
	size_t n = nbd_put_chunk(b, rq, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_ERROR, 6);

	store_be32(b + n, error);
	store_be16(b + n + 4, 0);
	return n + 6;
}

size_t nbd_put_chunk_data(void *p, const struct nbd_request *rq, uint16_t flags, uint64_t off,
			  uint32_t len)
{
	unsigned char *b = p;
	size_t n = nbd_put_chunk(b, rq, flags, NBD_REPLY_TYPE_OFFSET_DATA, len + 8);

	store_be64(b + n, off);
	return n + 8;
}

size_t nbd_put_chunk_hole(void *p, const struct nbd_request *rq, uint16_t flags, uint64_t off,
			  uint32_t len)
{
	unsigned char *b = p;
	size_t n = nbd_put_chunk(b, rq, flags, NBD_REPLY_TYPE_OFFSET_HOLE, 12);

	store_be64(b + n, off);
	store_be32(b + n + 8, len);
	return n + 12;
}

size_t nbd_put_chunk_status(void *p, const struct nbd_request *rq, uint16_t flags, uint32_t context,
			    uint32_t count)
{
	uint32_t head = nbd_chunk_status_size(rq->extended) - nbd_chunk_size(rq->extended);
	uint32_t len = head + count * nbd_descriptor_size(rq->extended);
	unsigned char *b = p;
	size_t n = nbd_put_chunk(
		b, rq, flags,
		rq->extended ? NBD_REPLY_TYPE_BLOCK_STATUS_EXT : NBD_REPLY_TYPE_BLOCK_STATUS, len);

	store_be32(b + n, context);
	if (rq->extended)
		store_be32(b + n + 4, count);
	return n + head;
}

size_t nbd_put_descriptor(void *p, bool extended, uint64_t len, uint32_t flags)
{
	unsigned char *b = p;

	if (extended) {
		store_be64(b, len);
		store_be64(b + 8, flags);
	} else {
		store_be32(b, len);
		store_be32(b + 4, flags);
	}
	return nbd_descriptor_size(extended);
}
