/* The protocol as bytes, and what a metadata context is in bytes. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "nbd/metactx.h"
#include "nbd/reply.h"
#include "nbd/wire.h"

static void a_request_decodes_field_by_field(void **state)
{
	static const unsigned char b[NBD_REQUEST_SIZE] = {
		0x25, 0x60, 0x95, 0x13, 0x00, 0x05, 0x00, 0x06, 1,    2,    3,	  4,	5,    6,
		7,    8,    0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x20, 0x21, 0x22, 0x23,
	};
	static const unsigned char cookie[8] = {1, 2, 3, 4, 5, 6, 7, 8};
	struct nbd_request rq;

	(void)state;
	assert_true(nbd_get_request(b, &rq));
	assert_int_equal(rq.flags, 5);
	assert_int_equal(rq.type, NBD_CMD_WRITE_ZEROES);
	assert_memory_equal(&rq.cookie, cookie, 8);
	assert_true(rq.off == 0x1011121314151617ULL);
	assert_true(rq.len == 0x20212223);
	assert_false(rq.extended);
}

static void an_extended_request_has_a_length_of_64_bits(void **state)
{
	static const unsigned char b[NBD_EXT_REQUEST_SIZE] = {
		0x21, 0xe4, 0x1c, 0x71, 0x00, 0x25, 0x00, 0x06, 1,    2,    3,
		4,    5,    6,	  7,	8,    0x10, 0x11, 0x12, 0x13, 0x14, 0x15,
		0x16, 0x17, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27,
	};
	static const unsigned char cookie[8] = {1, 2, 3, 4, 5, 6, 7, 8};
	struct nbd_request rq;

	(void)state;
	assert_true(nbd_get_ext_request(b, &rq));
	assert_int_equal(rq.flags, 0x25);
	assert_int_equal(rq.type, NBD_CMD_WRITE_ZEROES);
	assert_memory_equal(&rq.cookie, cookie, 8);
	assert_true(rq.off == 0x1011121314151617ULL);
	assert_true(rq.len == 0x2021222324252627ULL);
	assert_true(rq.extended);
	assert_false(nbd_get_request(b, &rq));
}

static void a_request_with_another_magic_is_refused(void **state)
{
	unsigned char b[NBD_REQUEST_SIZE] = {0x25, 0x60, 0x95, 0x14};
	struct nbd_request rq;

	(void)state;
	assert_false(nbd_get_request(b, &rq));
}

static void an_option_decodes_and_its_magic_is_checked(void **state)
{
	unsigned char b[NBD_OPTION_SIZE] = "IHAVEOPT\0\0\0\7\0\1\2";
	struct nbd_option option;

	(void)state;
	b[15] = 3;
	assert_true(nbd_get_option(b, &option));
	assert_int_equal(option.code, NBD_OPT_GO);
	assert_int_equal(option.len, 0x00010203);
	b[0] = 'i';
	assert_false(nbd_get_option(b, &option));
}

static void replies_have_the_bytes_of_the_specification(void **state)
{
	static const unsigned char simple[] = {0x67, 0x44, 0x66, 0x98, 0, 0, 0, 28,
					       9,    8,	   7,	 6,    5, 4, 3, 2};
	static const unsigned char error[] = {0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 0x01, 9,
					      8,    7,	  6,	5,    4, 3, 2,	  0,	0,
					      0,    6,	  0,	0,    0, 5, 0,	  0};
	static const unsigned char data[] = {0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 1, 9, 8, 7, 6, 5, 4,
					     3,	   2,	 0,    0,    2, 8, 0, 0, 0, 0, 0, 1, 0, 0};
	static const unsigned char cookie_bytes[8] = {9, 8, 7, 6, 5, 4, 3, 2};
	struct nbd_request rq = {.type = NBD_CMD_READ};
	unsigned char b[64];

	(void)state;
	memcpy(&rq.cookie, cookie_bytes, 8);
	assert_int_equal(nbd_put_simple(b, &rq, NBD_ENOSPC), sizeof(simple));
	assert_memory_equal(b, simple, sizeof(simple));
	assert_int_equal(nbd_put_chunk_error(b, &rq, NBD_EIO), sizeof(error));
	assert_memory_equal(b, error, sizeof(error));
	assert_int_equal(nbd_put_chunk_data(b, &rq, NBD_REPLY_FLAG_DONE, 65536, 512), sizeof(data));
	assert_memory_equal(b, data, sizeof(data));
}

static void extended_replies_repeat_the_offset_of_the_request(void **state)
{
	static const unsigned char error[] = {
		0x6e, 0x8a, 0x27, 0x8c, 0, 1, 0x80, 0x01, 9, 8, 7, 6, 5, 4, 3, 2, 0, 0, 0,
		1,    0,    0,	  0x0f, 0, 0, 0,    0,	  0, 0, 0, 0, 6, 0, 0, 0, 5, 0, 0};
	static const unsigned char status[] = {
		0x6e, 0x8a, 0x27, 0x8c, 0, 1, 0, 6, 9, 8, 7, 6,	 5, 4, 3, 2, 0, 0, 0, 1,
		0,    0,    0x0f, 0,	0, 0, 0, 0, 0, 0, 0, 40, 0, 0, 0, 1, 0, 0, 0, 2};
	static const unsigned char descriptor[] = {0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3};
	static const unsigned char cookie_bytes[8] = {9, 8, 7, 6, 5, 4, 3, 2};
	struct nbd_request rq = {.extended = true, .off = 0x100000f00};
	unsigned char b[64];

	(void)state;
	memcpy(&rq.cookie, cookie_bytes, 8);
	assert_int_equal(nbd_put_chunk_error(b, &rq, NBD_EIO), sizeof(error));
	assert_memory_equal(b, error, sizeof(error));
	assert_int_equal(nbd_put_chunk_status(b, &rq, NBD_REPLY_FLAG_DONE, 1, 2), sizeof(status));
	assert_memory_equal(b, status, sizeof(status));
	assert_int_equal(nbd_put_descriptor(b, true, 1ULL << 40, 3), sizeof(descriptor));
	assert_memory_equal(b, descriptor, sizeof(descriptor));
	rq.off = 7;
	assert_int_equal(nbd_put_chunk_data(b, &rq, 0, 65536, 512), 40);
	assert_true(load_be64(b + 16) == 7 && load_be64(b + 32) == 65536);
	assert_true(load_be64(b + 24) == 520);
}

static void every_errno_has_one_of_the_eight_errors(void **state)
{
	static const struct {
		int res;
		enum nbd_error wire;
	} rows[] = {
		{0, NBD_SUCCESS},	 {-EPERM, NBD_EPERM},
		{-EROFS, NBD_EPERM},	 {-EIO, NBD_EIO},
		{-ENOMEM, NBD_ENOMEM},	 {-EINVAL, NBD_EINVAL},
		{-ENOSPC, NBD_ENOSPC},	 {-EDQUOT, NBD_ENOSPC},
		{-EFBIG, NBD_ENOSPC},	 {-EOVERFLOW, NBD_EOVERFLOW},
		{-ENOTSUP, NBD_ENOTSUP}, {-ESHUTDOWN, NBD_ESHUTDOWN},
		{-ENOENT, NBD_EIO},	 {-EBADMSG, NBD_EIO},
		{-ESTALE, NBD_EIO},
	};
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++)
		assert_int_equal(nbd_error_of(rows[i].res), rows[i].wire);
}

/* --- metadata contexts ------------------------------------------------------------------------ */

static size_t put_string(unsigned char *p, const char *s)
{
	store_be32(p, strlen(s));
	memcpy(p + 4, s, strlen(s));
	return 4 + strlen(s);
}

static size_t put_query(unsigned char *p, const char *name, unsigned count, const char *a,
			const char *b)
{
	size_t n = put_string(p, name);

	store_be32(p + n, count);
	n += 4;
	if (a)
		n += put_string(p + n, a);
	if (b)
		n += put_string(p + n, b);
	return n;
}

static void a_context_query_is_understood(void **state)
{
	struct nbd_metactx_query q;
	unsigned char b[256];

	(void)state;
	assert_true(nbd_metactx_parse(b, put_query(b, "x", 1, "base:allocation", NULL), &q));
	assert_true(q.queries == 1 && q.name_len == 1);
	assert_int_equal(q.named, NBD_META_BIT(NBD_META_ALLOCATION));
	assert_int_equal(q.matched, q.named);
	assert_true(nbd_metactx_parse(b, put_query(b, "", 2, "qemu:foo", "base:"), &q));
	assert_true(q.queries == 2 && q.name_len == 0 && !q.named);
	assert_int_equal(q.matched, NBD_META_BIT(NBD_META_ALLOCATION));
	assert_true(nbd_metactx_parse(b, put_query(b, "", 2, "sendense:", "base:allocation"), &q));
	assert_int_equal(q.named, NBD_META_BIT(NBD_META_ALLOCATION));
	assert_int_equal(q.matched,
			 NBD_META_BIT(NBD_META_ALLOCATION) | NBD_META_BIT(NBD_META_RECEIVED));
	assert_true(nbd_metactx_parse(b, put_query(b, "", 2, "base:allocations", "bas"), &q));
	assert_true(!q.named && !q.matched);
	assert_true(nbd_metactx_parse(b, put_query(b, "", 2, "", "base:allocatio"), &q));
	assert_true(!q.named && !q.matched);
	assert_true(nbd_metactx_parse(b, put_query(b, "", 0, NULL, NULL), &q));
	assert_int_equal(q.queries, 0);
}

static void a_status_payload_names_selected_contexts_once(void **state)
{
	const uint32_t both = NBD_META_BIT(NBD_META_ALLOCATION) | NBD_META_BIT(NBD_META_RECEIVED);
	unsigned char b[8 + 4 * 4];
	uint32_t contexts = 0;
	uint64_t len = 0;

	(void)state;
	store_be64(b, 1ULL << 40);
	store_be32(b + 8, NBD_META_RECEIVED);
	store_be32(b + 12, NBD_META_ALLOCATION);
	store_be32(b + 16, NBD_META_RECEIVED);
	assert_true(nbd_metactx_payload(b, 12, both, &len, &contexts));
	assert_true(len == 1ULL << 40 && contexts == NBD_META_BIT(NBD_META_RECEIVED));
	assert_true(nbd_metactx_payload(b, 16, both, &len, &contexts));
	assert_true(contexts == both);
	assert_false(
		nbd_metactx_payload(b, 16, NBD_META_BIT(NBD_META_ALLOCATION), &len, &contexts));
	assert_false(nbd_metactx_payload(b, 20, both, &len, &contexts)); /* one of them twice */
	assert_false(nbd_metactx_payload(b, 8, both, &len, &contexts));
	assert_false(nbd_metactx_payload(b, 13, both, &len, &contexts));
	assert_false(nbd_metactx_payload(b, 4, both, &len, &contexts));
	store_be32(b + 12, NBD_META_RECEIVED);
	assert_false(nbd_metactx_payload(b, 16, both, &len, &contexts));
	store_be32(b + 8, 0);
	assert_false(nbd_metactx_payload(b, 12, both, &len, &contexts));
	store_be32(b + 8, 32 + NBD_META_ALLOCATION); /* no shift goes that far */
	assert_false(nbd_metactx_payload(b, 12, both, &len, &contexts));
}

static void a_context_query_that_does_not_add_up_is_malformed(void **state)
{
	struct nbd_metactx_query q;
	unsigned char b[256];
	size_t n = put_query(b, "disk", 2, "base:allocation", "base:"), i;

	(void)state;
	for (i = 0; i < n; i++)
		assert_false(nbd_metactx_parse(b, i, &q));
	assert_true(nbd_metactx_parse(b, n, &q));
	b[n] = 0;
	assert_false(nbd_metactx_parse(b, n + 1, &q)); /* junk behind the last query */
	store_be32(b, 0xffffffffU);
	assert_false(nbd_metactx_parse(b, n, &q));
	put_query(b, "disk", 0xffffffffU, "base:", NULL);
	assert_false(nbd_metactx_parse(b, n, &q));
}

static unsigned encode(struct nbd_extent *e, unsigned n, uint32_t len, unsigned char *out)
{
	unsigned count = nbd_metactx_encode(e, n, len, false);

	memcpy(out, e, (size_t)count * NBD_DESCRIPTOR_SIZE);
	return count;
}

static void equal_neighbours_become_one_extent(void **state)
{
	struct nbd_extent e[] = {{4096, 0}, {4096, 0}, {512, 3}, {512, 3}, {0, 1}, {1024, 2}};
	unsigned char out[64];

	(void)state;
	assert_int_equal(encode(e, ARRAY_SIZE(e), 1 << 20, out), 3);
	assert_int_equal(load_be32(out), 8192);
	assert_int_equal(load_be32(out + 4), 0);
	assert_int_equal(load_be32(out + 8), 1024);
	assert_int_equal(load_be32(out + 12), 3);
	assert_int_equal(load_be32(out + 16), 1024);
	assert_int_equal(load_be32(out + 20), 2);
}

static void no_extent_reaches_past_the_request(void **state)
{
	struct nbd_extent e[] = {{1ULL << 40, 3}};
	struct nbd_extent f[] = {{100, 0}, {100, 1}, {100, 0}};
	unsigned char out[64];

	(void)state;
	assert_int_equal(encode(e, 1, 0xfffffe00U, out), 1);
	assert_int_equal(load_be32(out), 0xfffffe00U);
	assert_int_equal(encode(f, 3, 150, out), 2);
	assert_int_equal(load_be32(out + 8), 50);
	assert_int_equal(nbd_metactx_encode(f, 0, 150, false), 0);
}

static void extended_extents_are_as_long_as_64_bits_allow(void **state)
{
	struct nbd_extent e[] = {{1ULL << 40, 0}, {1ULL << 40, 0}, {5, 2}, {1ULL << 62, 3}};
	unsigned char *out = (unsigned char *)e;

	(void)state;
	assert_int_equal(nbd_metactx_encode(e, 4, 1ULL << 60, true), 3);
	assert_true(load_be64(out) == 1ULL << 41 && load_be64(out + 8) == 0);
	assert_true(load_be64(out + 16) == 5 && load_be64(out + 24) == 2);
	assert_true(load_be64(out + 32) == (1ULL << 60) - (1ULL << 41) - 5);
	assert_true(load_be64(out + 40) == 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_request_decodes_field_by_field),
		cmocka_unit_test(an_extended_request_has_a_length_of_64_bits),
		cmocka_unit_test(a_request_with_another_magic_is_refused),
		cmocka_unit_test(an_option_decodes_and_its_magic_is_checked),
		cmocka_unit_test(replies_have_the_bytes_of_the_specification),
		cmocka_unit_test(extended_replies_repeat_the_offset_of_the_request),
		cmocka_unit_test(every_errno_has_one_of_the_eight_errors),
		cmocka_unit_test(a_context_query_is_understood),
		cmocka_unit_test(a_context_query_that_does_not_add_up_is_malformed),
		cmocka_unit_test(a_status_payload_names_selected_contexts_once),
		cmocka_unit_test(equal_neighbours_become_one_extent),
		cmocka_unit_test(no_extent_reaches_past_the_request),
		cmocka_unit_test(extended_extents_are_as_long_as_64_bits_allow),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
