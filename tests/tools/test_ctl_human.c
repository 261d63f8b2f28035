/* Numbers and texts as sendense-ctl shows them, and tables made of them. */
#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "tools/ctl_human.h"
#include "tools/ctl_table.h"

static void bytes_have_three_significant_digits_and_a_binary_unit(void **state)
{
	static const struct {
		uint64_t bytes;
		const char *text;
	} cases[] = {
		{0, "0 B"},
		{512, "512 B"},
		{1023, "1023 B"},
		{1024, "1.00 KiB"},
		{1536, "1.50 KiB"},
		{300 * MIB, "300 MiB"},
		{1023 * MIB + 800 * KIB, "1.00 GiB"},
		{1500 * MIB, "1.46 GiB"},
		{64 * TIB, "64.0 TiB"},
		{UINT64_MAX, "16.0 EiB"},
	};
	char buf[HUMAN_MAX];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_string_equal(human_bytes(buf, cases[i].bytes), cases[i].text);
}

static void rates_and_durations_unknown_are_a_dash(void **state)
{
	char buf[HUMAN_MAX];

	(void)state;
	assert_string_equal(human_rate(buf, -1), "-");
	assert_string_equal(human_rate(buf, 1.25 * GIB), "1.25 GiB/s");
	assert_string_equal(human_duration(buf, -1), "-");
	assert_string_equal(human_duration(buf, 1e300), "-");
	assert_string_equal(human_duration(buf, 6.7), "0:07");
	assert_string_equal(human_duration(buf, 125), "2:05");
	assert_string_equal(human_duration(buf, 3725), "1:02:05");
	assert_string_equal(human_duration(buf, 3 * 86400 + 4 * 3600), "3 d 4 h");
}

static void utc_times_are_shown_in_local_time(void **state)
{
	char buf[HUMAN_MAX];

	(void)state;
	setenv("TZ", "XYZ-2", 1);
	tzset();
	assert_string_equal(human_time(buf, "2025-10-05T12:00:00Z"), "2025-10-05 14:00:00");
	assert_string_equal(human_time(buf, "2025-10-05T12:00:00.123456Z"), "2025-10-05 14:00:00");
	assert_string_equal(human_time(buf, ""), "-");
	assert_string_equal(human_time(buf, NULL), "-");
	assert_string_equal(human_time(buf, "yesterday\033[2J"), "yesterday?[2J");
}

static void a_duration_needs_two_times_in_order(void **state)
{
	(void)state;
	assert_true(human_seconds_between("2025-10-05T12:00:00Z", "2025-10-05T12:00:01.5Z") == 1.5);
	assert_true(human_seconds_between("2025-10-05T12:00:00Z", "") < 0);
	assert_true(human_seconds_between("2025-10-05T12:00:00Z", "2025-10-05T11:00:00Z") < 0);
	assert_true(human_seconds_between("2025-10-05T12:00:00+02:00", "2025-10-05T12:00:00Z") < 0);
}

static void nothing_a_terminal_acts_upon_gets_through(void **state)
{
	char buf[16];

	(void)state;
	assert_string_equal(human_printable(buf, sizeof(buf), "a\033[2Jb\r\n"), "a?[2Jb??");
	assert_string_equal(human_printable(buf, sizeof(buf), "gr\303\274n"), "gr\303\274n");
	assert_string_equal(human_printable(buf, sizeof(buf), "\302\233A\377"), "?A?");
	assert_string_equal(human_printable(buf, 4, "ab\303\274"), "ab");
}

static char *printed(const struct ctl_table *table)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	assert_non_null(out);
	assert_int_equal(ctl_table_print(table, out, NULL), 0);
	fclose(out);
	return text;
}

static void columns_align_by_what_is_seen_not_by_bytes(void **state)
{
	static const char *const columns[] = {"VM", ">SIZE", "NOTE", NULL};
	struct ctl_table *table = ctl_table_new(columns);
	char *text;

	(void)state;
	ctl_table_add(table, "gr\303\274n");
	ctl_table_add(table, "5 GiB");
	ctl_table_add(table, "");
	ctl_table_add(table, "blue-one");
	ctl_table_addf(table, "%d B", 12);
	ctl_table_add(table, "x\ty");
	text = printed(table);
	assert_string_equal(text, "VM         SIZE  NOTE\n"
				  "gr\303\274n      5 GiB  -\n"
				  "blue-one   12 B  x?y\n");
	free(text);
	ctl_table_free(table);
}

static void a_long_text_is_cut_between_characters(void **state)
{
	static const char *const columns[] = {"T", NULL};
	struct ctl_table *table = ctl_table_new(columns);
	char *text;

	(void)state;
	ctl_table_add_cut(table, "12345678", 8);
	ctl_table_add_cut(table, "123456789", 8);
	ctl_table_add_cut(table, "1234\303\274\303\274\303\274\303\274\303\274", 8);
	text = printed(table);
	assert_string_equal(text, "T\n12345678\n12345...\n1234\303\274...\n");
	free(text);
	ctl_table_free(table);
}

static void a_table_of_thousands_of_rows_grows(void **state)
{
	static const char *const columns[] = {">N", NULL};
	struct ctl_table *table = ctl_table_new(columns);
	char *text;

	(void)state;
	for (int i = 0; i < 5000; i++)
		ctl_table_addf(table, "%d", i);
	text = printed(table);
	assert_int_equal(strlen(text), 5001 * 5);
	free(text);
	ctl_table_free(table);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes_have_three_significant_digits_and_a_binary_unit),
		cmocka_unit_test(rates_and_durations_unknown_are_a_dash),
		cmocka_unit_test(utc_times_are_shown_in_local_time),
		cmocka_unit_test(a_duration_needs_two_times_in_order),
		cmocka_unit_test(nothing_a_terminal_acts_upon_gets_through),
		cmocka_unit_test(columns_align_by_what_is_seen_not_by_bytes),
		cmocka_unit_test(a_long_text_is_cut_between_characters),
		cmocka_unit_test(a_table_of_thousands_of_rows_grows),
	};

	setlocale(LC_CTYPE, "C.UTF-8");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
