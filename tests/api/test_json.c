/* The pieces below the handlers: struct members as JSON, and URLs taken apart. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "api/json.h"
#include "api/routes.h"
#include "api/status.h"
#include "api/uri.h"
#include "base/bytes.h"
#include "hub/hub.h"

struct thing {
	char name[8];
	int number;
	int64_t big;
	bool flag;
	double real;
	int64_t when_us;
	char raw[32];
};

static const char *word(int value)
{
	return value == 7 ? "seven" : "other";
}

static const struct api_json_member in_members[] = {
	API_TEXT(struct thing, name, .required = true),
	API_INT(struct thing, number),
	API_I64(struct thing, big),
	API_BOOL(struct thing, flag),
};

static const struct api_json_member out_members[] = {
	API_TEXT(struct thing, name),
	API_AS("word", WORD, struct thing, number, .word = word),
	API_I64(struct thing, big),
	API_BOOL(struct thing, flag),
	API_AS("real", REAL, struct thing, real),
	API_AS("when", TIME, struct thing, when_us),
	API_AS("raw", RAW, struct thing, raw),
};

static int decode(const char *text, struct thing *out, struct err *err)
{
	json_t *obj = json_loads(text, 0, NULL);
	int rc;

	assert_non_null(obj);
	rc = api_json_decode(obj, in_members, ARRAY_SIZE(in_members), out, err);
	json_decref(obj);
	return rc;
}

static void expect_refused(const char *text, const char *sentence)
{
	struct thing t = {.name = ""};
	struct err err = ERR_INIT;

	assert_int_equal(decode(text, &t, &err), HUB_E_INVALID);
	assert_string_equal(err.text, sentence);
}

static void members_are_taken_and_absent_ones_keep_their_value(void **state)
{
	struct thing t = {.number = 5, .big = 6};
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(decode("{\"name\":\"1234567\",\"big\":-9000000000,\"flag\":true,"
				"\"number\":null,\"unknown\":[1]}",
				&t, &err),
			 0);
	assert_string_equal(t.name, "1234567");
	assert_int_equal(t.number, 5);
	assert_true(t.big == -9000000000LL);
	assert_true(t.flag);
}

static void a_wrong_member_is_named(void **state)
{
	(void)state;
	expect_refused("{}", "name is missing");
	expect_refused("{\"name\":\"\"}", "name is missing");
	expect_refused("{\"name\":null}", "name is missing");
	expect_refused("{\"name\":1}", "name must be a string");
	expect_refused("{\"name\":\"12345678\"}", "name is longer than 7 bytes");
	expect_refused("{\"name\":\"a\",\"number\":\"1\"}", "number must be an integer");
	expect_refused("{\"name\":\"a\",\"number\":1.5}", "number must be an integer");
	expect_refused("{\"name\":\"a\",\"number\":3000000000}", "number is out of range");
	expect_refused("{\"name\":\"a\",\"flag\":1}", "flag must be true or false");
}

static void every_kind_has_its_form(void **state)
{
	struct thing t = {.name = "a\xff\"",
			  .number = 7,
			  .big = -1,
			  .real = 1.0 / 3,
			  .when_us = 1759924800000001LL,
			  .raw = "{\"x\":[1]}"};
	json_t *obj = api_json_encode(out_members, ARRAY_SIZE(out_members), &t);
	char *text = json_dumps(obj, JSON_COMPACT | JSON_REAL_PRECISION(6));

	(void)state;
	assert_string_equal(text, "{\"name\":\"a?\\\"\",\"word\":\"seven\",\"big\":null,"
				  "\"flag\":false,\"real\":0.33,"
				  "\"when\":\"2025-10-08T12:00:00.000001Z\",\"raw\":{\"x\":[1]}}");
	free(text);
	json_decref(obj);
}

static void times_and_texts_that_are_not_there_are_null(void **state)
{
	struct thing t = {.name = ""};
	json_t *obj = api_json_encode(out_members, ARRAY_SIZE(out_members), &t);

	(void)state;
	assert_true(json_is_null(json_object_get(obj, "when")));
	assert_true(json_is_null(json_object_get(obj, "raw")));
	assert_string_equal(json_string_value(json_object_get(obj, "name")), "");
	json_decref(obj);
}

/* --- URLs ----------------------------------------------------------------------------------- */

static void a_url_is_split_before_it_is_decoded(void **state)
{
	static struct api_uri uri;
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(
		api_uri_parse(&uri, "/api/v1/backups/a%2Fb%20c/chain?x=1%262&y=a+b&z&=q", &err), 0);
	assert_int_equal(uri.segment_count, 5);
	assert_string_equal(uri.segments[3], "a/b c");
	assert_string_equal(api_uri_query(&uri, "x"), "1&2");
	assert_string_equal(api_uri_query(&uri, "y"), "a b");
	assert_string_equal(api_uri_query(&uri, "z"), "");
	assert_string_equal(api_uri_query(&uri, "nothing"), "");
}

static void urls_that_make_no_sense_are_refused(void **state)
{
	static struct api_uri uri;
	static char longest[API_URI_MAX + 10], parts[200];
	static const char *const bad[] = {"/%",	    "/%2",	"/%zz", "/%00",
					  "/a?b=%", "/a?%00=1", parts,	longest};
	struct err err = ERR_INIT;

	(void)state;
	memset(longest, 'a', sizeof(longest) - 1);
	for (int i = 0; i < 40; i++)
		strcat(parts, "/a");
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(api_uri_parse(&uri, bad[i], &err), HUB_E_INVALID);
}

static void every_result_has_a_status(void **state)
{
	(void)state;
	assert_int_equal(api_status_of(0), 200);
	assert_int_equal(api_status_of(HUB_E_INVALID), 400);
	assert_int_equal(api_status_of(HUB_E_NOT_FOUND), 404);
	assert_int_equal(api_status_of(HUB_E_BUSY), 409);
	assert_int_equal(api_status_of(HUB_E_STATE), 409);
	assert_int_equal(api_status_of(HUB_E_AGENT), 502);
	assert_int_equal(api_status_of(HUB_E_STOPPING), 503);
	assert_int_equal(api_status_of(-28), 507);
	assert_int_equal(api_status_of(-5), 500);
	assert_int_equal(api_status_of(999), 500);
	assert_int_equal(api_status_of(API_STATUS(422)), 422);
	assert_string_equal(api_problem_type(HUB_E_BUSY), "urn:sendense:problem:busy");
	assert_string_equal(api_problem_type(API_STATUS(405)), "about:blank");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(members_are_taken_and_absent_ones_keep_their_value),
		cmocka_unit_test(a_wrong_member_is_named),
		cmocka_unit_test(every_kind_has_its_form),
		cmocka_unit_test(times_and_texts_that_are_not_there_are_null),
		cmocka_unit_test(a_url_is_split_before_it_is_decoded),
		cmocka_unit_test(urls_that_make_no_sense_are_refused),
		cmocka_unit_test(every_result_has_a_status),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
