/*
 * Names as they are shown: always valid UTF-8, and nothing is lost.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/bytes.h"
#include "files/files.h"

static void shows_as(const char *raw, size_t len, const char *expect)
{
	char shown[256], back[256];

	assert_int_equal(files_name_show(shown, sizeof(shown), raw, len), strlen(expect));
	assert_string_equal(shown, expect);
	assert_int_equal(files_name_raw(back, shown), len);
	assert_memory_equal(back, raw, len);
	/* in place */
	assert_int_equal(files_name_raw(shown, shown), len);
	assert_memory_equal(shown, raw, len);
}

#define SHOWS_AS(raw, expect) shows_as(raw, sizeof(raw) - 1, expect)

static void test_shown(void **state)
{
	(void)state;
	SHOWS_AS("plain.txt", "plain.txt");
	SHOWS_AS("100%\\x41&", "100%\\x41&");
	SHOWS_AS("Schnee \xe2\x98\x83 \xf0\x9f\x8f\x94", "Schnee \xe2\x98\x83 \xf0\x9f\x8f\x94");
	SHOWS_AS("caf\xe9", "caf\xee\xbf\xa9"); /* U+EFE9 */
	SHOWS_AS("a\x07"
		 "b",
		 "a\xee\xbc\x87"
		 "b");
	/* overlong, a surrogate, beyond the last character, cut short */
	SHOWS_AS("\xc0\xaf", "\xee\xbf\x80\xee\xbe\xaf");
	SHOWS_AS("\xed\xa0\x80", "\xee\xbf\xad\xee\xbe\xa0\xee\xbe\x80");
	SHOWS_AS("\xf4\x90\x80\x80", "\xee\xbf\xb4\xee\xbe\x90\xee\xbe\x80\xee\xbe\x80");
	SHOWS_AS("\xe2\x98", "\xee\xbf\xa2\xee\xbe\x98");
	/* the characters of the mapping itself */
	SHOWS_AS("\xee\xbe\x80", "\xee\xbf\xae\xee\xbe\xbe\xee\xbe\x80");
}

/* What no name is shown as stays as it is: it does not become a "/". */
static void test_no_slash_from_nowhere(void **state)
{
	char raw[64];

	(void)state;
	assert_int_equal(files_name_raw(raw, "a\xee\xbc\xaf"
					     "b"),
			 5);
	assert_null(strchr(raw, '/'));
}

static void test_any_bytes(void **state)
{
	char raw[60], shown[sizeof(raw) * 3 + 1], back[sizeof(shown)];
	unsigned i, k, len;
	json_t *text;

	(void)state;
	srandom(7);
	for (i = 0; i < 20000; i++) {
		len = 1 + (unsigned)random() % sizeof(raw);
		for (k = 0; k < len; k++)
			raw[k] = (char)(random() % 3 ? 1 + random() % 255
						     : "\xee\xbc\xbf\x80\xaf\xe2"[random() % 6]);
		assert_int_not_equal(files_name_show(shown, sizeof(shown), raw, len), 0);
		text = json_string(shown); /* checks that it is UTF-8 */
		assert_non_null(text);
		json_decref(text);
		assert_int_equal(files_name_raw(back, shown), len);
		assert_memory_equal(back, raw, len);
	}
}

static void test_room(void **state)
{
	char shown[8];

	(void)state;
	assert_int_equal(files_name_show(shown, 5, "abcd", 4), 4);
	assert_int_equal(files_name_show(shown, 4, "abcd", 4), 0);
	assert_int_equal(files_name_show(shown, 7, "\xff\xff", 2), 6);
	assert_int_equal(files_name_show(shown, 6, "\xff\xff", 2), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_shown),
		cmocka_unit_test(test_no_slash_from_nowhere),
		cmocka_unit_test(test_any_bytes),
		cmocka_unit_test(test_room),
	};

	return cmocka_run_group_tests_name("files/names", tests, NULL, NULL);
}
