/* Base64, strictly: RFC 4648's own examples, and that a value has one text only. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/base64.h"
#include "base/bytes.h"

/* RFC 4648 §10 */
static const struct {
	const char *value, *text;
} examples[] = {
	{"f", "Zg=="},	      {"fo", "Zm8="},	     {"foo", "Zm9v"},
	{"foob", "Zm9vYg=="}, {"fooba", "Zm9vYmE="}, {"foobar", "Zm9vYmFy"},
};

static void the_examples_of_the_rfc(void **state)
{
	char text[BASE64_SIZE(6)];
	uint8_t bytes[6];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(examples); i++) {
		size_t len = strlen(examples[i].value);

		base64_encode(examples[i].value, len, text);
		assert_string_equal(text, examples[i].text);
		assert_int_equal(base64_decode(text, strlen(text), bytes, len), len);
		assert_memory_equal(bytes, examples[i].value, len);
	}
}

static void what_is_no_base64_is_refused(void **state)
{
	static const char *const bad[] = {
		"",
		"AAE",
		"AAE=\n",
		" AAE=",
		"AAE\n",
		"A===",
		"====",
		"AA-=",
		"AA=A",
		"=AAA",
		"A=AA",
		"AA==AAAA",
		"AAF=", /* a bit behind the end */
		"AB==",
		"AAA=AAA=",
		"AAAAAA\n\n",
		"\xc3\xa4"
		"AA",
	};
	uint8_t bytes[16];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (base64_decode(bad[i], strlen(bad[i]), bytes, sizeof(bytes)))
			fail_msg("taken for base64: \"%s\"", bad[i]);
}

static void more_than_there_is_room_for_is_refused(void **state)
{
	uint8_t bytes[4] = {0, 0, 0, 0x5a};

	(void)state;
	assert_int_equal(base64_decode("AAEC", 4, bytes, 2), 0);
	assert_int_equal(base64_decode("AAECAwQF", 8, bytes, 5), 0);
	assert_int_equal(base64_decode("AAEC", 4, bytes, 3), 3);
	assert_int_equal(bytes[3], 0x5a);
}

/* Every text of one group either has no value, or is the only text of its value. */
static void a_value_has_one_text(void **state)
{
	static const char letters[] = "AQgwBz9+/=-\n ";
	char text[4], again[BASE64_SIZE(3)];
	uint8_t bytes[3];

	(void)state;
	for (size_t i = 0; i < 13 * 13 * 13 * 13; i++) {
		size_t n, rest = i;

		for (size_t k = 0; k < 4; k++, rest /= 13)
			text[k] = letters[rest % 13];
		n = base64_decode(text, 4, bytes, 3);
		if (!n)
			continue;
		base64_encode(bytes, n, again);
		assert_memory_equal(text, again, 4);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_examples_of_the_rfc),
		cmocka_unit_test(what_is_no_base64_is_refused),
		cmocka_unit_test(more_than_there_is_room_for_is_refused),
		cmocka_unit_test(a_value_has_one_text),
	};

	return cmocka_run_group_tests_name("base/base64", tests, NULL, NULL);
}
