/* nbd_targets: which entries are taken, and what is read from them. */
#include "tests/tools/agent_kit.h"
#include "tools/agent_targets.h"

static void a_list_tells_key_uri_and_disk_index(void **state)
{
	struct agent_target *t = NULL;
	struct err err = ERR_INIT;
	size_t n = 0;

	(void)state;
	assert_int_equal(agent_targets_parse("2000:nbd://127.0.0.1:10100/backup-x-disk0,"
					     "2016:nbd://h/a.b_c-disk12,"
					     "0:nbd+unix:///disk3?socket=/run/hub.sock",
					     &t, &n, &err),
			 0);
	assert_int_equal(n, 3);
	assert_int_equal(t[0].key, 2000);
	assert_int_equal(t[0].disk_index, 0);
	assert_string_equal(t[0].uri, "nbd://127.0.0.1:10100/backup-x-disk0");
	assert_string_equal(t[0].export, "backup-x-disk0");
	assert_int_equal(t[1].disk_index, 12);
	assert_string_equal(t[1].export, "a.b_c-disk12");
	assert_int_equal(t[2].key, 0);
	assert_string_equal(t[2].export, "disk3");
	assert_ptr_equal(agent_targets_find(t, n, 2016), &t[1]);
	assert_null(agent_targets_find(t, n, 2001));
	free(t);
}

static void malformed_lists_are_refused(void **state)
{
	static const char *const bad[] = {
		"",
		",",
		"2000",
		"2000:",
		":nbd://h/x-disk0",
		"-1:nbd://h/x-disk0",
		"+1:nbd://h/x-disk0",
		" 1:nbd://h/x-disk0",
		"0x1:nbd://h/x-disk0",
		"99999999999:nbd://h/x-disk0",
		"4294967296:nbd://h/x-disk0",
		"1:nbds://h/x-disk0",
		"1:http://h/x-disk0",
		"1:nbd://h",
		"1:nbd://h/",
		"1:nbd:///x-disk0",
		"1:nbd://h/x",
		"1:nbd://h/x-disk",
		"1:nbd://h/x-disk0/",
		"1:nbd://h/x-disk99999999999999999999",
		"1:nbd://h/x-disk0?tls=1",
		"1:nbd://h/x%2fdisk0",
		"1:nbd://h/x y-disk0",
		"1:nbd+unix:///x-disk0",
		"1:nbd+unix://h/x-disk0?socket=/s",
		"1:nbd://h/x-disk0,",
		"1:nbd://h/x-disk0,1:nbd://h/x-disk1",
		"1:nbd://h/x-disk0,2:nbd://h/y-disk0",
		"1:nbd://h/"
		"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-disk0",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct agent_target *t = NULL;
		struct err err = ERR_INIT;
		size_t n;

		if (agent_targets_parse(bad[i], &t, &n, &err) != -EINVAL)
			fail_msg("taken: %s", bad[i]);
		assert_non_null(strstr(err.text, "nbd_targets"));
	}
}

static void lists_and_uris_are_bounded(void **state)
{
	_cleanup_(freep) char *text = calloc(1, 64 * KIB);
	struct agent_target *t = NULL;
	struct err err = ERR_INIT;
	size_t n;

	(void)state;
	for (int i = 0; i < AGENT_TARGETS_MAX; i++)
		sprintf(text + strlen(text), "%s%d:nbd://h/x-disk%d", i ? "," : "", i, i);
	assert_int_equal(agent_targets_parse(text, &t, &n, &err), 0);
	assert_int_equal(n, AGENT_TARGETS_MAX);
	free(t);
	strcat(text, ",5000:nbd://h/x-disk5000");
	assert_int_equal(agent_targets_parse(text, &t, &n, &err), -EINVAL);

	strcpy(text, "1:nbd+unix:///x-disk0?socket=/");
	memset(text + strlen(text), 'a', AGENT_URI_MAX);
	assert_int_equal(agent_targets_parse(text, &t, &n, &err), -EINVAL);
	assert_non_null(strstr(err.text, "too long"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_list_tells_key_uri_and_disk_index),
		cmocka_unit_test(malformed_lists_are_refused),
		cmocka_unit_test(lists_and_uris_are_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
