/*
 * The NBD protocol as bytes: constants, structs, encode and decode. No I/O, no state, nothing that
 * trusts what it reads. Sections named below are those of the specification, doc/proto.md.
 * Everything on the wire is big-endian; everything in these structs is in host order.
 */
#ifndef NBD_WIRE_H
#define NBD_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* --- handshake ("Newstyle negotiation") ------------------------------------------------------ */

#define NBD_MAGIC		   0x4e42444d41474943ULL /* "NBDMAGIC" */
#define NBD_OPTION_MAGIC	   0x49484156454f5054ULL /* "IHAVEOPT" */
#define NBD_REP_MAGIC		   0x0003e889045565a9ULL
#define NBD_GREETING_SIZE	   18U /* both magics, handshake flags */
#define NBD_CLIENT_FLAGS_SIZE	   4U
#define NBD_OPTION_SIZE		   16U /* magic, option, length of data */
#define NBD_REP_SIZE		   20U /* magic, option, reply type, length of data */
#define NBD_EXPORT_NAME_REPLY_SIZE 10U /* size, transmission flags */
#define NBD_EXPORT_NAME_ZEROES	   124U

/* Longest string the protocol allows ("Conventions"). */
#define NBD_STRING_MAX 4096U

/* True when @s may go out as a string: UTF-8 of at most NBD_STRING_MAX bytes. */
bool nbd_string_valid(const char *s);

/* Handshake flags, and the client's answer bit for bit. */
enum {
	NBD_FLAG_FIXED_NEWSTYLE = 1 << 0,
	NBD_FLAG_NO_ZEROES = 1 << 1,
};

enum nbd_opt {
	NBD_OPT_EXPORT_NAME = 1,
	NBD_OPT_ABORT = 2,
	NBD_OPT_LIST = 3,
	NBD_OPT_STARTTLS = 5,
	NBD_OPT_INFO = 6,
	NBD_OPT_GO = 7,
	NBD_OPT_STRUCTURED_REPLY = 8,
	NBD_OPT_LIST_META_CONTEXT = 9,
	NBD_OPT_SET_META_CONTEXT = 10,
	NBD_OPT_EXTENDED_HEADERS = 11,
};

#define NBD_REP_ERR(n) (0x80000000U | (n))

enum nbd_rep {
	NBD_REP_ACK = 1,
	NBD_REP_SERVER = 2,
	NBD_REP_INFO = 3,
	NBD_REP_META_CONTEXT = 4,
};

#define NBD_REP_ERR_UNSUP	    NBD_REP_ERR(1)
#define NBD_REP_ERR_POLICY	    NBD_REP_ERR(2)
#define NBD_REP_ERR_INVALID	    NBD_REP_ERR(3)
#define NBD_REP_ERR_TLS_REQD	    NBD_REP_ERR(5)
#define NBD_REP_ERR_UNKNOWN	    NBD_REP_ERR(6)
#define NBD_REP_ERR_SHUTDOWN	    NBD_REP_ERR(7)
#define NBD_REP_ERR_TOO_BIG	    NBD_REP_ERR(9)
#define NBD_REP_ERR_EXT_HEADER_REQD NBD_REP_ERR(10)

enum nbd_info {
	NBD_INFO_EXPORT = 0,
	NBD_INFO_NAME = 1,
	NBD_INFO_DESCRIPTION = 2,
	NBD_INFO_BLOCK_SIZE = 3,
};

/* Transmission flags. */
enum {
	NBD_FLAG_HAS_FLAGS = 1 << 0,
	NBD_FLAG_READ_ONLY = 1 << 1,
	NBD_FLAG_SEND_FLUSH = 1 << 2,
	NBD_FLAG_SEND_FUA = 1 << 3,
	NBD_FLAG_SEND_TRIM = 1 << 5,
	NBD_FLAG_SEND_WRITE_ZEROES = 1 << 6,
	NBD_FLAG_SEND_DF = 1 << 7,
	NBD_FLAG_CAN_MULTI_CONN = 1 << 8,
	NBD_FLAG_SEND_CACHE = 1 << 10,
	NBD_FLAG_SEND_FAST_ZERO = 1 << 11,
	NBD_FLAG_BLOCK_STATUS_PAYLOAD = 1 << 12,
};

/* The header of an option a client sends. */
struct nbd_option {
	uint32_t code; /* enum nbd_opt, or anything at all */
	uint32_t len;  /* of the data behind it, bytes */
};

void nbd_put_greeting(void *p, uint16_t flags);
/* False: the magic is wrong, this is no NBD client. */
bool nbd_get_option(const void *p, struct nbd_option *option);
void nbd_put_rep(void *p, uint32_t option, uint32_t type, uint32_t len);

/* --- transmission ----------------------------------------------------------------------------
 *
 * Two shapes of header. Compact: requests of 28 bytes, answered by simple replies or structured
 * chunks. Extended (NBD_OPT_EXTENDED_HEADERS): requests and chunks of 32 bytes with 64-bit lengths,
 * and nothing but chunks. A reply has the shape of its request, which nbd_request.extended tells.
 */

#define NBD_REQUEST_MAGIC	0x25609513U
#define NBD_SIMPLE_MAGIC	0x67446698U
#define NBD_CHUNK_MAGIC		0x668e33efU
#define NBD_EXT_REQUEST_MAGIC	0x21e41c71U
#define NBD_EXT_CHUNK_MAGIC	0x6e8a278cU
#define NBD_REQUEST_SIZE	28U
#define NBD_EXT_REQUEST_SIZE	32U
#define NBD_SIMPLE_SIZE		16U
#define NBD_CHUNK_SIZE		20U
#define NBD_EXT_CHUNK_SIZE	32U
#define NBD_DESCRIPTOR_SIZE	8U
#define NBD_EXT_DESCRIPTOR_SIZE 16U
/* Payload of BLOCK_STATUS: effect length, then context ids of 4 bytes each. */
#define NBD_STATUS_PAYLOAD_MIN 8U

enum nbd_cmd {
	NBD_CMD_READ = 0,
	NBD_CMD_WRITE = 1,
	NBD_CMD_DISC = 2,
	NBD_CMD_FLUSH = 3,
	NBD_CMD_TRIM = 4,
	NBD_CMD_CACHE = 5,
	NBD_CMD_WRITE_ZEROES = 6,
	NBD_CMD_BLOCK_STATUS = 7,
};

/* Command flags. */
enum {
	NBD_CMD_FLAG_FUA = 1 << 0,
	NBD_CMD_FLAG_NO_HOLE = 1 << 1,
	NBD_CMD_FLAG_DF = 1 << 2,
	NBD_CMD_FLAG_REQ_ONE = 1 << 3,
	NBD_CMD_FLAG_FAST_ZERO = 1 << 4,
	NBD_CMD_FLAG_PAYLOAD_LEN = 1 << 5,
};

enum {
	NBD_REPLY_FLAG_DONE = 1 << 0,
};

enum nbd_chunk_type {
	NBD_REPLY_TYPE_NONE = 0,
	NBD_REPLY_TYPE_OFFSET_DATA = 1,
	NBD_REPLY_TYPE_OFFSET_HOLE = 2,
	NBD_REPLY_TYPE_BLOCK_STATUS = 5,
	NBD_REPLY_TYPE_BLOCK_STATUS_EXT = 6,
	NBD_REPLY_TYPE_ERROR = 0x8001,
};

enum nbd_error {
	NBD_SUCCESS = 0,
	NBD_EPERM = 1,
	NBD_EIO = 5,
	NBD_ENOMEM = 12,
	NBD_EINVAL = 22,
	NBD_ENOSPC = 28,
	NBD_EOVERFLOW = 75,
	NBD_ENOTSUP = 95,
	NBD_ESHUTDOWN = 108,
};

struct nbd_request {
	uint16_t flags;	 /* NBD_CMD_FLAG_* */
	uint16_t type;	 /* enum nbd_cmd, or anything at all */
	bool extended;	 /* its shape, and that of its reply */
	uint64_t len;	 /* bytes: effect length, or payload length as @flags and @type say */
	uint64_t off;	 /* bytes */
	uint64_t cookie; /* the client's, opaque: stored as the bytes came */
};

/* False: the magic is wrong, we no longer know where a message starts. */
bool nbd_get_request(const void *p, struct nbd_request *request);
bool nbd_get_ext_request(const void *p, struct nbd_request *request);

static inline uint32_t nbd_chunk_size(bool extended)
{
	return extended ? NBD_EXT_CHUNK_SIZE : NBD_CHUNK_SIZE;
}

/* With the offset of OFFSET_DATA. */
static inline uint32_t nbd_chunk_data_size(bool extended)
{
	return nbd_chunk_size(extended) + 8;
}

/* With the context id, and the number of descriptors of the extended form. */
static inline uint32_t nbd_chunk_status_size(bool extended)
{
	return nbd_chunk_size(extended) + (extended ? 8 : 4);
}

static inline uint32_t nbd_descriptor_size(bool extended)
{
	return extended ? NBD_EXT_DESCRIPTOR_SIZE : NBD_DESCRIPTOR_SIZE;
}

/* Each returns how many bytes it wrote at @p. @rq is the request that is being answered. */
size_t nbd_put_simple(void *p, const struct nbd_request *rq, enum nbd_error error);
size_t nbd_put_chunk(void *p, const struct nbd_request *rq, uint16_t flags, uint16_t type,
		     uint32_t len);
/* Without a message; the last of its reply. */
size_t nbd_put_chunk_error(void *p, const struct nbd_request *rq, enum nbd_error error);
/* Header of @len data bytes of the export at @off. */
size_t nbd_put_chunk_data(void *p, const struct nbd_request *rq, uint16_t flags, uint64_t off,
			  uint32_t len);
/* @len bytes of the export at @off that are zeroes, and need not travel. */
size_t nbd_put_chunk_hole(void *p, const struct nbd_request *rq, uint16_t flags, uint64_t off,
			  uint32_t len);
/* Header of @count descriptors. */
size_t nbd_put_chunk_status(void *p, const struct nbd_request *rq, uint16_t flags, uint32_t context,
			    uint32_t count);
size_t nbd_put_descriptor(void *p, bool extended, uint64_t len, uint32_t flags);

#endif
