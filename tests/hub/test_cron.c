/* Cron expressions and time zones: what is read, what is refused, and the moments they name, over
 * changes of clocks too. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "hub/cron.h"

/* "2026-03-29T01:00" is UTC. */
static int64_t at(const char *text)
{
	struct tm tm = {0};

	assert_non_null(strptime(text, "%Y-%m-%dT%H:%M", &tm));
	return timegm(&tm);
}

static const char *shown(int64_t s, char buf[32])
{
	time_t t = (time_t)s;
	struct tm tm;

	gmtime_r(&t, &tm);
	strftime(buf, 32, "%Y-%m-%dT%H:%M", &tm);
	return buf;
}

struct moments {
	const char *cron, *zone, *after;
	const char *next[6]; /* one after the other, UTC; NULL ends */
};

static void check(const struct moments *m)
{
	_cleanup_(zone_closep) struct zone *zone = NULL;
	struct err err = ERR_INIT;
	struct cron cron;
	int64_t t = at(m->after);
	char buf[32];

	if (cron_parse(&cron, m->cron, &err) || zone_open(&zone, m->zone, &err))
		fail_msg("%s", err.text);
	for (int i = 0; i < 6 && m->next[i]; i++) {
		if (!cron_next(&cron, zone, t, &t))
			fail_msg("%s in %s: nothing after %s", m->cron, m->zone, m->after);
		if (t != at(m->next[i]))
			fail_msg("%s in %s after %s: step %d is %s, not %s", m->cron, m->zone,
				 m->after, i + 1, shown(t, buf), m->next[i]);
	}
}

static void expressions_name_moments(void **state)
{
	static const struct moments cases[] = {
		{"* * * * *", "UTC", "2026-01-31T23:58", {"2026-01-31T23:59", "2026-02-01T00:00"}},
		{"0 3 * * *", "UTC", "2026-01-01T03:00", {"2026-01-02T03:00", "2026-01-03T03:00"}},
		{"0 3 * * *", "UTC", "2026-01-01T02:59", {"2026-01-01T03:00"}},
		{"*/15 * * * *",
		 "UTC",
		 "2026-01-01T00:01",
		 {"2026-01-01T00:15", "2026-01-01T00:30", "2026-01-01T00:45", "2026-01-01T01:00"}},
		{"5/20 1 * * *",
		 "UTC",
		 "2026-01-01T00:00",
		 {"2026-01-01T01:05", "2026-01-01T01:25", "2026-01-01T01:45", "2026-01-02T01:05"}},
		{"0 9-17/4 * * *",
		 "UTC",
		 "2026-01-01T00:00",
		 {"2026-01-01T09:00", "2026-01-01T13:00", "2026-01-01T17:00", "2026-01-02T09:00"}},
		{"30 22 * * 1-5", "UTC", "2026-01-02T23:00", {"2026-01-05T22:30"}}, /* a Friday */
		{"0 0 * * sun", "UTC", "2026-01-01T00:00", {"2026-01-04T00:00"}},
		{"0 0 * * 7", "UTC", "2026-01-01T00:00", {"2026-01-04T00:00"}},
		{"0 0 * * 0,WED",
		 "UTC",
		 "2026-01-01T00:00",
		 {"2026-01-04T00:00", "2026-01-07T00:00"}},
		{"0 0 * * 5-7",
		 "UTC",
		 "2026-01-01T00:00",
		 {"2026-01-02T00:00", "2026-01-03T00:00", "2026-01-04T00:00", "2026-01-09T00:00"}},
		{"0 0 1 * *", "UTC", "2026-01-01T00:00", {"2026-02-01T00:00", "2026-03-01T00:00"}},
		{"0 0 31 * *", "UTC", "2026-01-31T00:00", {"2026-03-31T00:00", "2026-05-31T00:00"}},
		{"0 0 29 2 *", "UTC", "2026-01-01T00:00", {"2028-02-29T00:00", "2032-02-29T00:00"}},
		{"0 0 29 2 *", "UTC", "2096-03-01T00:00", {"2104-02-29T00:00"}},
		{"0 12 * jan,Dec *", "UTC", "2026-01-31T12:00", {"2026-12-01T12:00"}},
		/* Both days restricted: either. */
		{"0 0 13 * 5",
		 "UTC",
		 "2026-01-01T00:00",
		 {"2026-01-02T00:00", "2026-01-09T00:00", "2026-01-13T00:00", "2026-01-16T00:00"}},
		/* One of them with a star: both. */
		{"0 0 */2 * 1",
		 "UTC",
		 "2026-01-01T00:00",
		 {"2026-01-05T00:00", "2026-01-19T00:00"}},
		{"@hourly", "UTC", "2026-01-01T00:00", {"2026-01-01T01:00"}},
		{"@daily", "UTC", "2026-01-01T00:00", {"2026-01-02T00:00"}},
		{"@Weekly", "UTC", "2026-01-01T00:00", {"2026-01-04T00:00"}},
		{"@monthly", "UTC", "2026-01-01T00:00", {"2026-02-01T00:00"}},
		{"@yearly", "UTC", "2026-01-01T00:00", {"2027-01-01T00:00"}},
		{" 0\t3  * * * ", "UTC", "2026-01-01T00:00", {"2026-01-01T03:00"}},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		check(&cases[i]);
}

static void moments_are_those_of_the_zone(void **state)
{
	static const struct moments cases[] = {
		{"0 3 * * *", "Europe/Berlin", "2026-01-01T00:00", {"2026-01-01T02:00"}},
		{"0 3 * * *", "Europe/Berlin", "2026-07-01T00:00", {"2026-07-01T01:00"}},
		{"0 3 * * *", "America/New_York", "2026-01-01T00:00", {"2026-01-01T08:00"}},
		{"15 0 * * *", "Asia/Kolkata", "2026-01-01T00:00", {"2026-01-01T18:45"}},
		{"0 0 * * 1", "Pacific/Auckland", "2026-01-01T00:00", {"2026-01-04T11:00"}},
		{"0 0 1 * *", "Pacific/Kiritimati", "2026-01-01T00:00", {"2026-01-31T10:00"}},
		/* Years from now the rules still hold. */
		{"0 3 1 7 *", "Europe/Berlin", "2060-01-01T00:00", {"2060-07-01T01:00"}},
		{"0 3 1 1 *", "Europe/Berlin", "2060-01-02T00:00", {"2061-01-01T02:00"}},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		check(&cases[i]);
}

/* Berlin: forward at 2026-03-29 01:00 UTC (02:00 shows 03:00), back at 2026-10-25 01:00 UTC (03:00
 * shows 02:00). */
static void clocks_that_go_forward_lose_no_run(void **state)
{
	static const struct moments cases[] = {
		/* 02:30 does not exist: at the change. And the next day as ever. */
		{"30 2 * * *",
		 "Europe/Berlin",
		 "2026-03-28T01:30",
		 {"2026-03-29T01:00", "2026-03-30T00:30"}},
		{"0 2 * * *",
		 "Europe/Berlin",
		 "2026-03-28T01:00",
		 {"2026-03-29T01:00", "2026-03-30T00:00"}},
		/* Once, not once a moment that was left out. */
		{"*/10 2 * * *",
		 "Europe/Berlin",
		 "2026-03-28T02:00",
		 {"2026-03-29T01:00", "2026-03-30T00:00", "2026-03-30T00:10"}},
		{"30 1,3 * * *",
		 "Europe/Berlin",
		 "2026-03-28T23:00",
		 {"2026-03-29T00:30", "2026-03-29T01:30", "2026-03-29T23:30"}},
		/* Any hour: as the clock shows it. */
		{"30 * * * *",
		 "Europe/Berlin",
		 "2026-03-29T00:00",
		 {"2026-03-29T00:30", "2026-03-29T01:30", "2026-03-29T02:30"}},
		{"0 */2 * * *",
		 "Europe/Berlin",
		 "2026-03-28T22:00",
		 {"2026-03-28T23:00", "2026-03-29T02:00"}},
		/* Sao Paulo once changed at midnight: 2018-11-04 had no 00:00. */
		{"0 0 * * *",
		 "America/Sao_Paulo",
		 "2018-11-03T12:00",
		 {"2018-11-04T03:00", "2018-11-05T02:00"}},
		/* Samoa left out 2011-12-30 altogether. */
		{"0 12 30 12 *", "Pacific/Apia", "2011-12-29T00:00", {"2011-12-30T10:00"}},
		/* Lord Howe Island: by half an hour. */
		{"15 2 * * *",
		 "Australia/Lord_Howe",
		 "2026-10-02T16:00",
		 {"2026-10-03T15:30", "2026-10-04T15:15"}},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		check(&cases[i]);
}

static void clocks_that_go_back_repeat_no_run(void **state)
{
	static const struct moments cases[] = {
		{"30 2 * * *",
		 "Europe/Berlin",
		 "2026-10-24T12:00",
		 {"2026-10-25T00:30", "2026-10-26T01:30"}},
		{"0 3 * * *",
		 "Europe/Berlin",
		 "2026-10-24T12:00",
		 {"2026-10-25T02:00", "2026-10-26T02:00"}},
		/* In between the two 02:30: the first one is over. */
		{"30 2 * * *", "Europe/Berlin", "2026-10-25T00:45", {"2026-10-26T01:30"}},
		{"*/30 2 * * *",
		 "Europe/Berlin",
		 "2026-10-24T12:00",
		 {"2026-10-25T00:00", "2026-10-25T00:30", "2026-10-26T01:00"}},
		/* Any hour: both. */
		{"30 * * * *",
		 "Europe/Berlin",
		 "2026-10-25T00:00",
		 {"2026-10-25T00:30", "2026-10-25T01:30", "2026-10-25T02:30"}},
		{"59 23 * * *",
		 "America/Sao_Paulo",
		 "2018-02-17T12:00", /* 24:00 showed 23:00 */
		 {"2018-02-18T01:59", "2018-02-19T02:59"}},
		{"*/30 * 17 2 *",
		 "America/Sao_Paulo",
		 "2018-02-18T01:00",
		 {"2018-02-18T01:30", "2018-02-18T02:00", "2018-02-18T02:30", "2019-02-17T03:00"}},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		check(&cases[i]);
}

/* Over a year, whatever the expression: forward, at least a minute on, and of the right minute. */
static void moments_never_go_back(void **state)
{
	static const char *const crons[] = {"*/7 * * * *", "30 2 * * *", "13 */5 * * 1,3",
					    "0 0-6 1,15 * *"};
	static const char *const zones[] = {"UTC", "Europe/Berlin", "America/New_York",
					    "Australia/Lord_Howe", "Asia/Tehran"};

	(void)state;
	for (size_t c = 0; c < ARRAY_SIZE(crons); c++)
		for (size_t z = 0; z < ARRAY_SIZE(zones); z++) {
			_cleanup_(zone_closep) struct zone *zone = NULL;
			int64_t t = at("2026-01-01T00:00"), end = at("2027-01-01T00:00"), next;
			struct err err = ERR_INIT;
			struct cron cron;

			assert_int_equal(cron_parse(&cron, crons[c], &err), 0);
			assert_int_equal(zone_open(&zone, zones[z], &err), 0);
			while (t < end) {
				assert_true(cron_next(&cron, zone, t, &next));
				assert_true(next >= t + 60 || t == at("2026-01-01T00:00"));
				/* Nothing was left out between: from anywhere it is the same. */
				if (next - t > 120) {
					int64_t again;

					assert_true(cron_next(&cron, zone, next - 60, &again));
					assert_true(again == next);
					assert_true(cron_next(&cron, zone, (t + next) / 2, &again));
					assert_true(again == next);
				}
				t = next;
			}
		}
}

static void what_is_no_expression_is_refused_with_the_field(void **state)
{
	static const struct {
		const char *text, *says;
	} cases[] = {
		{"", "five fields"},
		{"* * * *", "not 4"},
		{"* * * * * *", "not 6"},
		{"60 * * * *", "no minute"},
		{"-1 * * * *", "no minute"},
		{"* 24 * * *", "no hour"},
		{"* * 0 * *", "no day of month"},
		{"* * 32 * *", "no day of month"},
		{"* * * 13 *", "no month"},
		{"* * * 0 *", "no month"},
		{"* * * * 8", "no day of week"},
		{"* * * * mon-", "no day of week"},
		{"* * * * fri-mon", "no day of week"},
		{"* * * foo *", "no month"},
		{"1- * * * *", "no minute"},
		{"5-1 * * * *", "no minute"},
		{"*/0 * * * *", "no minute"},
		{"*/x * * * *", "no minute"},
		{"*/100 * * * *", "no minute"},
		{"1,,2 * * * *", "no minute"},
		{"1, * * * *", "no minute"},
		{"1;2 * * * *", "no minute"},
		{"001 * * * *", "no minute"},
		{"@reboot", "five fields"},
	};
	char longest[300];
	struct cron cron;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct err err = ERR_INIT;

		if (cron_parse(&cron, cases[i].text, &err) != -EINVAL ||
		    !strstr(err.text, cases[i].says))
			fail_msg("\"%s\": %s", cases[i].text, err.text);
	}
	memset(longest, '1', sizeof(longest));
	longest[sizeof(longest) - 1] = '\0';
	assert_int_equal(cron_parse(&cron, longest, NULL), -EINVAL);
}

static void a_day_that_never_comes_has_no_moment(void **state)
{
	_cleanup_(zone_closep) struct zone *zone = NULL;
	struct cron cron;
	int64_t t;

	(void)state;
	assert_int_equal(zone_open(&zone, "UTC", NULL), 0);
	assert_int_equal(cron_parse(&cron, "0 0 30 2 *", NULL), 0);
	assert_false(cron_next(&cron, zone, at("2026-01-01T00:00"), &t));
}

static void a_zone_is_a_name_this_system_knows(void **state)
{
	static const char *const wrong[] = {
		"",	     "Mars/Olympus",  "+02:00",		"UTC+2",
		"CET-1CEST", "../etc/passwd", "/etc/localtime", "Europe/../UTC",
		"02:00",     "Europe",	      "zone.tab",	":UTC"};
	struct zone *zone;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		struct err err = ERR_INIT;

		if (zone_open(&zone, wrong[i], &err) != -EINVAL)
			fail_msg("\"%s\" is taken for a time zone", wrong[i]);
		assert_non_null(strstr(err.text, "no time zone"));
	}
	assert_int_equal(zone_open(&zone, NULL, NULL), -EINVAL);
	zone_close(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(expressions_name_moments),
		cmocka_unit_test(moments_are_those_of_the_zone),
		cmocka_unit_test(clocks_that_go_forward_lose_no_run),
		cmocka_unit_test(clocks_that_go_back_repeat_no_run),
		cmocka_unit_test(moments_never_go_back),
		cmocka_unit_test(what_is_no_expression_is_refused_with_the_field),
		cmocka_unit_test(a_day_that_never_comes_has_no_moment),
		cmocka_unit_test(a_zone_is_a_name_this_system_knows),
	};

	return cmocka_run_group_tests_name("hub/cron", tests, NULL, NULL);
}
