#include "tools/ctl_human.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <wchar.h>
#include <wctype.h>

#include "base/bytes.h"

static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};

/* Three significant digits: 1.46, 14.6, 146, 1023. */
static int decimals_of(double value)
{
	if (value >= 100)
		return 0;
	return value >= 10 ? 1 : 2;
}

static void scale(double value, const char *suffix, char buf[HUMAN_MAX])
{
	unsigned unit = 0;

	/* What would print as 1024 belongs to the next unit. */
	while (value >= 1023.5 && unit + 1 < ARRAY_SIZE(units)) {
		value /= 1024;
		unit++;
	}
	snprintf(buf, HUMAN_MAX, "%.*f %s%s", unit ? decimals_of(value) : 0, value, units[unit],
		 suffix);
}

char *human_bytes(char buf[HUMAN_MAX], uint64_t bytes)
{
	scale((double)bytes, "", buf);
	return buf;
}

char *human_rate(char buf[HUMAN_MAX], double bytes_per_s)
{
	if (!(bytes_per_s >= 0))
		snprintf(buf, HUMAN_MAX, "-");
	else
		scale(bytes_per_s, "/s", buf);
	return buf;
}

char *human_duration(char buf[HUMAN_MAX], double seconds)
{
	uint64_t s;

	if (!(seconds >= 0) || seconds > 1e12) {
		snprintf(buf, HUMAN_MAX, "-");
		return buf;
	}
	s = (uint64_t)llround(seconds);
	if (s >= 86400)
		snprintf(buf, HUMAN_MAX, "%llu d %llu h", (unsigned long long)(s / 86400),
			 (unsigned long long)(s % 86400 / 3600));
	else if (s >= 3600)
		snprintf(buf, HUMAN_MAX, "%u:%02u:%02u", (unsigned)(s / 3600),
			 (unsigned)(s % 3600 / 60), (unsigned)(s % 60));
	else
		snprintf(buf, HUMAN_MAX, "%u:%02u", (unsigned)(s / 60), (unsigned)(s % 60));
	return buf;
}

/* Accepts fractions of a second and the two spellings of UTC. */
static bool parse_utc(const char *text, double *out)
{
	struct tm tm = {0};
	double fraction = 0;
	const char *rest;
	int used = 0;

	if (!text)
		return false;
	rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
	if (!rest)
		return false;
	if (*rest == '.') {
		if (sscanf(rest, "%lf%n", &fraction, &used) != 1)
			return false;
		rest += used;
	}
	if (strcmp(rest, "Z") != 0 && strcmp(rest, "+00:00") != 0)
		return false;
	*out = (double)timegm(&tm) + fraction;
	return true;
}

char *human_time(char buf[HUMAN_MAX], const char *rfc3339)
{
	double seconds;
	struct tm tm;
	time_t when;

	if (!rfc3339 || !*rfc3339) {
		snprintf(buf, HUMAN_MAX, "-");
		return buf;
	}
	if (!parse_utc(rfc3339, &seconds))
		return human_printable(buf, HUMAN_MAX, rfc3339);
	when = (time_t)seconds;
	if (!localtime_r(&when, &tm) || !strftime(buf, HUMAN_MAX, "%Y-%m-%d %H:%M:%S", &tm))
		return human_printable(buf, HUMAN_MAX, rfc3339);
	return buf;
}

double human_seconds_between(const char *from, const char *to)
{
	double a, b;

	if (!parse_utc(from, &a) || !parse_utc(to, &b) || b < a)
		return -1;
	return b - a;
}

/* One character of @text into @wc; its length in bytes, 0 at the end. A byte that starts no
 * character counts as one unprintable character. */
static size_t next_char(const char *text, wchar_t *wc)
{
	mbstate_t state = {0};
	size_t n = mbrtowc(wc, text, strlen(text), &state);

	if (n == (size_t)-1 || n == (size_t)-2) {
		*wc = L'\0';
		return 1;
	}
	return n;
}

char *human_printable(char *buf, size_t size, const char *text)
{
	size_t used = 0, n;
	wchar_t wc;

	while (*text && (n = next_char(text, &wc)) > 0) {
		bool good = iswprint((wint_t)wc);
		size_t len = good ? n : 1;

		if (used + len + 1 > size)
			break;
		memcpy(buf + used, good ? text : "?", len);
		used += len;
		text += n;
	}
	buf[used] = '\0';
	return buf;
}

size_t human_width(const char *text)
{
	size_t width = 0, n;
	wchar_t wc;

	while (*text && (n = next_char(text, &wc)) > 0) {
		int w = wcwidth(wc);

		width += w >= 0 ? (size_t)w : 1;
		text += n;
	}
	return width;
}
