#include "nbd/wire.h"

#include "base/bytes.h"

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
	memcpy(&request->cookie, b + 8, sizeof(request->cookie));
	request->off = load_be64(b + 16);
	request->len = load_be32(b + 24);
	return load_be32(b) == NBD_REQUEST_MAGIC;
}

size_t nbd_put_simple(void *p, uint64_t cookie, enum nbd_error error)
{
	unsigned char *b = p;

	store_be32(b, NBD_SIMPLE_MAGIC);
	store_be32(b + 4, error);
	memcpy(b + 8, &cookie, sizeof(cookie));
	return NBD_SIMPLE_SIZE;
}

size_t nbd_put_chunk(void *p, uint16_t flags, uint16_t type, uint64_t cookie, uint32_t len)
{
	unsigned char *b = p;

	store_be32(b, NBD_CHUNK_MAGIC);
	store_be16(b + 4, flags);
	store_be16(b + 6, type);
	memcpy(b + 8, &cookie, sizeof(cookie));
	store_be32(b + 16, len);
	return NBD_CHUNK_SIZE;
}

size_t nbd_put_chunk_error(void *p, uint64_t cookie, enum nbd_error error)
{
	unsigned char *b = p;

	nbd_put_chunk(b, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_ERROR, cookie, 6);
	store_be32(b + NBD_CHUNK_SIZE, error);
	store_be16(b + NBD_CHUNK_SIZE + 4, 0);
	return NBD_CHUNK_ERROR_SIZE;
}

size_t nbd_put_chunk_data(void *p, uint16_t flags, uint64_t cookie, uint64_t off, uint32_t len)
{
	unsigned char *b = p;

	nbd_put_chunk(b, flags, NBD_REPLY_TYPE_OFFSET_DATA, cookie, len + 8);
	store_be64(b + NBD_CHUNK_SIZE, off);
	return NBD_CHUNK_DATA_SIZE;
}

size_t nbd_put_chunk_status(void *p, uint64_t cookie, uint32_t context, uint32_t count)
{
	unsigned char *b = p;

	nbd_put_chunk(b, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_BLOCK_STATUS, cookie,
		      4 + count * NBD_DESCRIPTOR_SIZE);
	store_be32(b + NBD_CHUNK_SIZE, context);
	return NBD_CHUNK_STATUS_SIZE;
}

size_t nbd_put_descriptor(void *p, uint32_t len, uint32_t flags)
{
	unsigned char *b = p;

	store_be32(b, len);
	store_be32(b + 4, flags);
	return NBD_DESCRIPTOR_SIZE;
}
