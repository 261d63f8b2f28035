/* Where sendense-ctl takes its token from, and whom it shows none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "tests/support/scratch.h"
#include "tools/ctl.h"
#include "tools/ctl_token.h"

static void only_a_hub_on_this_machine_is_local(void **state)
{
	static const char *const local[] = {
		"http://127.0.0.1:8080", "http://127.1.2.3",   "https://localhost:8443/",
		"http://LOCALHOST:1",	 "http://[::1]:8080/", "http://user@127.0.0.1:8080",
	};
	static const char *const other[] = {
		"http://hub:8080",
		"http://127.0.0.1.example.org:8080",
		"http://127.0.0.1@example.org:8080",
		"http://localhost.example.org",
		"http://example.org/127.0.0.1",
		"http://example.org#127.0.0.1",
		"http://[2001:db8::1]:8080",
		"http://0.0.0.0:8080",
		"http://128.0.0.1",
		"127.0.0.1:8080/",
		"",
		"http://",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(local); i++)
		if (!ctl_token_is_local(local[i]))
			fail_msg("%s is not local", local[i]);
	for (size_t i = 0; i < ARRAY_SIZE(other); i++)
		if (ctl_token_is_local(other[i]))
			fail_msg("%s is local", other[i]);
}

static void put(const char *text)
{
	FILE *f = fopen("token", "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void the_file_goes_before_the_environment(void **state)
{
	char token[CTL_TOKEN_MAX];
	struct err err = ERR_INIT;

	(void)state;
	put("sdn_file\n");
	setenv("SENDENSE_TOKEN", "sdn_env", 1);
	assert_int_equal(ctl_token_find("token", "http://hub", token, &err), CTL_OK);
	assert_string_equal(token, "sdn_file");
	assert_int_equal(ctl_token_find(NULL, "http://hub", token, &err), CTL_OK);
	assert_string_equal(token, "sdn_env");
	setenv("SENDENSE_TOKEN", "", 1);
	assert_int_equal(ctl_token_find(NULL, "http://hub", token, &err), CTL_OK);
	assert_string_equal(token, "");
	unsetenv("SENDENSE_TOKEN");
	assert_int_equal(ctl_token_find(NULL, "http://hub", token, &err), CTL_OK);
	assert_string_equal(token, "");
}

/* Nor may one carry a second header along. */
static void what_is_no_token_is_refused(void **state)
{
	static const char *const bad[] = {"", "\n", "two words\n", "tab\there\n", "\xc3\xa9\n"};
	char token[CTL_TOKEN_MAX], longer[400];
	struct err err = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		put(bad[i]);
		assert_int_equal(ctl_token_find("token", "http://hub", token, &err), CTL_USAGE);
		assert_string_equal(token, "");
	}
	assert_int_equal(ctl_token_find("missing", "http://hub", token, &err), CTL_USAGE);
	assert_non_null(strstr(err.text, "missing"));
	setenv("SENDENSE_TOKEN", "a\r\nX-Other: b", 1);
	assert_int_equal(ctl_token_find(NULL, "http://hub", token, &err), CTL_USAGE);
	assert_null(strstr(err.text, "X-Other"));
	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	setenv("SENDENSE_TOKEN", longer, 1);
	assert_int_equal(ctl_token_find(NULL, "http://hub", token, &err), CTL_USAGE);
	unsetenv("SENDENSE_TOKEN");
	put(longer);
	assert_int_equal(ctl_token_find("token", "http://hub", token, &err), CTL_USAGE);
	put("first\nsecond\n");
	assert_int_equal(ctl_token_find("token", "http://hub", token, &err), CTL_OK);
	assert_string_equal(token, "first");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(only_a_hub_on_this_machine_is_local),
		cmocka_unit_test(the_file_goes_before_the_environment),
		cmocka_unit_test(what_is_no_token_is_refused),
	};

	return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
