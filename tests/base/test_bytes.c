/* Bytes at every alignment. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"

static void one_set_byte_anywhere_is_found(void **state)
{
	static unsigned char buf[512];
	size_t from, len, at;

	(void)state;
	for (from = 0; from < 16; from++) {
		for (len = 0; len < 300; len += 7) {
			assert_true(bytes_all_zero(buf + from, len));
			for (at = 0; at < len; at += 1 + len / 40) {
				buf[from + at] = 1;
				assert_false(bytes_all_zero(buf + from, len));
				buf[from + at] = 0;
			}
			buf[from + len] = 1; /* behind the end does not count */
			assert_true(bytes_all_zero(buf + from, len));
			buf[from + len] = 0;
		}
	}
}

static void streaming_copy_copies_exactly(void **state)
{
	enum { SIZE = 20000 };
	unsigned char *src = malloc(SIZE + 64), *dst = malloc(SIZE + 64), *want = malloc(SIZE + 64);
	size_t i, s, d;

	(void)state;
	for (i = 0; i < SIZE + 64; i++)
		src[i] = random();
	for (s = 0; s < 40; s += 3) {
		for (d = 0; d < 40; d += 3) {
			size_t len = random() % SIZE;

			memset(dst, 0xee, SIZE + 64);
			memset(want, 0xee, SIZE + 64);
			memcpy(want + d, src + s, len);
			bytes_copy_stream(dst + d, src + s, len);
			assert_memory_equal(dst, want, SIZE + 64);
		}
	}
	free(src);
	free(dst);
	free(want);
}

static void ranges_are_judged_without_wrapping(void **state)
{
	(void)state;
	assert_true(range_inside(0, 0, 0));
	assert_true(range_inside(10, 0, 10));
	assert_true(range_inside(0, UINT64_MAX, UINT64_MAX));
	assert_false(range_inside(11, 0, 10));
	assert_false(range_inside(5, 6, 10));
	assert_false(range_inside(UINT64_MAX, 2, 10));
	assert_false(range_inside(1, UINT64_MAX, UINT64_MAX));
}

static void big_endian_at_any_address(void **state)
{
	unsigned char b[9] = {0};

	(void)state;
	store_be64(b + 1, 0x0102030405060708);
	assert_int_equal(b[1], 1);
	assert_int_equal(b[8], 8);
	assert_true(load_be64(b + 1) == 0x0102030405060708);
	assert_int_equal(load_be32(b + 3), 0x03040506);
	assert_int_equal(load_be16(b + 7), 0x0708);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_set_byte_anywhere_is_found),
		cmocka_unit_test(streaming_copy_copies_exactly),
		cmocka_unit_test(ranges_are_judged_without_wrapping),
		cmocka_unit_test(big_endian_at_any_address),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
