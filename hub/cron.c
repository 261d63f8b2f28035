#include "hub/cron.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/bytes.h"

#define TEXT_MAX 255
#define DAYS_MAX (10 * 366) /* a leap day comes at least that often */
#define DAY_S	 86400

/* --- reading -------------------------------------------------------------------------------- */

static const char *const month_names[] = {"jan", "feb", "mar", "apr", "may", "jun",
					  "jul", "aug", "sep", "oct", "nov", "dec"};
static const char *const day_names[] = {"sun", "mon", "tue", "wed", "thu", "fri", "sat"};

struct field {
	const char *name;
	unsigned min, max;
	const char *const *words;
	unsigned word_count;
};

enum { MINUTE, HOUR, DAY, MONTH, WEEKDAY, FIELDS };

static const struct field field_table[FIELDS] = {
	{"minute", 0, 59, NULL, 0},	     {"hour", 0, 23, NULL, 0},
	{"day of month", 1, 31, NULL, 0},    {"month", 1, 12, month_names, 12},
	{"day of week", 0, 7, day_names, 7},
};

static const struct {
	const char *name, *means;
} nicknames[] = {
	{"@hourly", "0 * * * *"},   {"@daily", "0 0 * * *"},   {"@midnight", "0 0 * * *"},
	{"@weekly", "0 0 * * 0"},   {"@monthly", "0 0 1 * *"}, {"@yearly", "0 0 1 1 *"},
	{"@annually", "0 0 1 1 *"},
};

/* A number or a word of the field; moves *@p behind it. */
static bool read_value(const char **p, const struct field *f, unsigned *value)
{
	size_t n = strspn(*p, "0123456789");

	if (n > 2)
		return false;
	if (n) {
		*value = 0;
		for (; n; n--)
			*value = 10 * *value + (unsigned)(*(*p)++ - '0');
		return *value >= f->min && *value <= f->max;
	}
	for (unsigned i = 0; i < f->word_count; i++) {
		if (strncasecmp(*p, f->words[i], 3))
			continue;
		*p += 3;
		*value = f->min + i;
		return true;
	}
	return false;
}

/* "*", "5", "1-5", each with "/2" behind it or not ("5/2" is from 5 on). */
static bool read_range(const char **p, const struct field *f, uint64_t *bits)
{
	unsigned from = f->min, to = f->max, step = 1;

	if (**p == '*') {
		++*p;
		to = f->max == 7 ? 6 : f->max;
	} else {
		if (!read_value(p, f, &from))
			return false;
		to = from;
		if (**p == '-') {
			++*p;
			if (!read_value(p, f, &to) || to < from)
				return false;
		} else if (**p == '/') {
			to = f->max == 7 ? 6 : f->max;
		}
	}
	if (**p == '/') {
		const struct field number = {.min = 1, .max = 99};

		++*p;
		if (!read_value(p, &number, &step))
			return false;
	}
	for (unsigned v = from; v <= to; v += step)
		*bits |= 1ULL << v;
	return true;
}

static int read_field(const char *text, const struct field *f, uint64_t *bits, struct err *err)
{
	const char *p = text;
	bool ok;

	*bits = 0;
	while ((ok = read_range(&p, f, bits)) && *p == ',')
		p++;
	if (ok && !*p)
		return 0;
	return err_set(err, -EINVAL,
		       "cron expression: \"%s\" is no %s (%u to %u, lists, ranges, steps, *)", text,
		       f->name, f->min, f->max);
}

static int split(char *text, char *fields[FIELDS], struct err *err)
{
	char *save = NULL;
	int n = 0;

	for (char *w = strtok_r(text, " \t", &save); w; w = strtok_r(NULL, " \t", &save)) {
		if (n < FIELDS)
			fields[n] = w;
		n++;
	}
	if (n == FIELDS)
		return 0;
	return err_set(err, -EINVAL,
		       "a cron expression has five fields (minute, hour, day of month, month, day "
		       "of week), not %d",
		       n);
}

int cron_parse(struct cron *cron, const char *text, struct err *err)
{
	char copy[TEXT_MAX + 1], *fields[FIELDS];
	uint64_t bits[FIELDS];
	int rc;

	for (size_t i = 0; i < ARRAY_SIZE(nicknames); i++)
		if (!strcasecmp(text, nicknames[i].name))
			text = nicknames[i].means;
	if (strlen(text) > TEXT_MAX)
		return err_set(err, -EINVAL, "a cron expression has at most %d bytes", TEXT_MAX);
	strcpy(copy, text);
	rc = split(copy, fields, err);
	for (int i = 0; !rc && i < FIELDS; i++)
		rc = read_field(fields[i], &field_table[i], &bits[i], err);
	if (rc)
		return rc;
	*cron = (struct cron){
		.minutes = bits[MINUTE],
		.hours = (uint32_t)bits[HOUR],
		.days = (uint32_t)bits[DAY],
		.months = (uint32_t)bits[MONTH],
		.weekdays = (uint32_t)((bits[WEEKDAY] | bits[WEEKDAY] >> 7) & 0x7f),
		.any_hour = fields[HOUR][0] == '*',
		.any_day = fields[DAY][0] == '*',
		.any_weekday = fields[WEEKDAY][0] == '*',
	};
	return 0;
}

/* --- the next moment ------------------------------------------------------------------------ */

static bool day_matches(const struct cron *c, int64_t local_midnight)
{
	time_t t = (time_t)local_midnight;
	struct tm tm;
	bool day, weekday;

	gmtime_r(&t, &tm);
	if (!(c->months & 1U << (tm.tm_mon + 1)))
		return false;
	day = c->days & 1U << tm.tm_mday;
	weekday = c->weekdays & 1U << tm.tm_wday;
	/* crontab(5): either, if both are restricted. */
	return c->any_day || c->any_weekday ? day && weekday : day || weekday;
}

/* Hours that are said: the clock times of the day, in order. */
static bool next_said(const struct cron *c, const struct zone *zone, int64_t midnight,
		      int64_t after_s, int64_t *out_s)
{
	for (int h = 0; h < 24; h++) {
		if (!(c->hours & 1U << h))
			continue;
		for (int m = 0; m < 60; m++) {
			if (!(c->minutes & 1ULL << m))
				continue;
			*out_s = zone_to_utc(zone, midnight + h * 3600 + m * 60);
			if (*out_s > after_s)
				return true;
		}
	}
	return false;
}

/* Any hour: minute by minute, as clocks show them; a day has up to 25 hours. */
static bool next_shown(const struct cron *c, const struct zone *zone, int64_t midnight,
		       int64_t after_s, int64_t *out_s)
{
	int64_t t = zone_to_utc(zone, midnight);
	int64_t end = zone_to_utc(zone, midnight + DAY_S);

	if (t <= after_s)
		t = after_s - (after_s % 60 + 60) % 60 + 60;
	for (; t < end; t += 60) {
		int64_t local = t + zone_offset(zone, t) - midnight;

		if (local >= 0 && local < DAY_S && (c->hours & 1U << (local / 3600)) &&
		    (c->minutes & 1ULL << (local / 60 % 60))) {
			*out_s = t;
			return true;
		}
	}
	return false;
}

bool cron_next(const struct cron *cron, const struct zone *zone, int64_t after_s, int64_t *out_s)
{
	int64_t local = after_s + zone_offset(zone, after_s);
	/* From the day before on: clocks that go back at midnight show that day again. */
	int64_t midnight = local - (local % DAY_S + DAY_S) % DAY_S - DAY_S;

	for (int i = 0; i < DAYS_MAX; i++, midnight += DAY_S) {
		if (!day_matches(cron, midnight))
			continue;
		if (cron->any_hour ? next_shown(cron, zone, midnight, after_s, out_s)
				   : next_said(cron, zone, midnight, after_s, out_s))
			return true;
	}
	return false;
}
