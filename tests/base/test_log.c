/* Log lines as their readers get them: text, JSON, the journal's prefix; hostile texts in each. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/log.h"

static char line[8192];

/* What one call writes to stderr. */
static const char *logged(enum log_level level, const char *scope_name, const char *text)
{
	struct log_scope scope;
	FILE *f = tmpfile();
	int old = dup(STDERR_FILENO);
	size_t n;

	log_scope_init(&scope, "%s", scope_name);
	fflush(stderr);
	dup2(fileno(f), STDERR_FILENO);
	log_line(level, &scope, "%s", text);
	dup2(old, STDERR_FILENO);
	close(old);
	rewind(f);
	n = fread(line, 1, sizeof(line) - 1, f);
	line[n] = '\0';
	fclose(f);
	return line;
}

static int setup(void **state)
{
	(void)state;
	unsetenv("JOURNAL_STREAM");
	log_set_level(LOG_LEVEL_INFO);
	log_set_format(LOG_FORMAT_AUTO);
	return 0;
}

static void text_has_a_time_a_level_and_a_scope(void **state)
{
	(void)state;
	logged(LOG_LEVEL_WARN, "nbd", "hello \"you\"");
	assert_int_equal(line[4], '-');
	assert_string_equal(line + strlen("2026-01-01T00:00:00.000Z"),
			    " warn  nbd: hello \"you\"\n");
	assert_string_equal(logged(LOG_LEVEL_DEBUG, "nbd", "too much"), "");
	log_set_level(LOG_LEVEL_DEBUG);
	assert_string_not_equal(logged(LOG_LEVEL_DEBUG, "nbd", "enough"), "");
}

static void the_journal_gets_priorities(void **state)
{
	(void)state;
	setenv("JOURNAL_STREAM", "8:1", 1);
	assert_string_equal(logged(LOG_LEVEL_ERROR, "hub", "x"), "<3>hub: x\n");
	assert_string_equal(logged(LOG_LEVEL_INFO, "hub", "x"), "<6>hub: x\n");
	unsetenv("JOURNAL_STREAM");
	log_set_format(LOG_FORMAT_JOURNAL);
	assert_string_equal(logged(LOG_LEVEL_WARN, "hub", "x"), "<4>hub: x\n");
}

/* The message comes back whole from a JSON parser, whatever stood in it. */
static void expect_json(const char *text, const char *message)
{
	json_error_t err;
	json_t *v = json_loads(logged(LOG_LEVEL_INFO, "a \"b\"\\", text), 0, &err);

	if (!v)
		fail_msg("%s: %s", err.text, line);
	assert_int_equal(json_object_size(v), 4);
	assert_string_equal(json_string_value(json_object_get(v, "level")), "info");
	assert_string_equal(json_string_value(json_object_get(v, "scope")), "a \"b\"\\");
	assert_string_equal(json_string_value(json_object_get(v, "message")), message);
	assert_int_equal(strlen(json_string_value(json_object_get(v, "time"))), 24);
	json_decref(v);
}

static void json_is_json_whatever_is_logged(void **state)
{
	char longest[4000], *end = longest;

	(void)state;
	log_set_format(LOG_FORMAT_JSON);
	expect_json("plain", "plain");
	expect_json("a \"quoted\" \\ path", "a \"quoted\" \\ path");
	expect_json("line\nfeed\ttab\x7f", "line?feed?tab?");
	expect_json("\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80");
	/* cut characters, overlong forms, surrogates, beyond Unicode */
	expect_json("x\xc3", "x?");
	expect_json("\xc0\xaf|\xe0\x80\xaf|\xed\xa0\x80|\xf4\x90\x80\x80|\xff",
		    "?\?|??\?|??\?|???\?|?");
	for (int i = 0; i < 1999; i++)
		*end++ = i % 2 ? '"' : '\\';
	*end = '\0';
	longest[1023] = '\0';
	expect_json(longest, longest);
}

static void words_are_parsed_exactly(void **state)
{
	enum log_level level;
	enum log_format format;

	(void)state;
	assert_true(log_parse_level("debug", &level) && level == LOG_LEVEL_DEBUG);
	assert_false(log_parse_level("Debug", &level));
	assert_true(log_parse_format("json", &format) && format == LOG_FORMAT_JSON);
	assert_false(log_parse_format("", &format));
}

#define T(name) cmocka_unit_test_setup(name, setup)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(text_has_a_time_a_level_and_a_scope),
		T(the_journal_gets_priorities),
		T(json_is_json_whatever_is_logged),
		T(words_are_parsed_exactly),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
