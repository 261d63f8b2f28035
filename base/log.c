#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LOG_TEXT_MAX 1024
#define LOG_LINE_MAX (2 * LOG_TEXT_MAX + 384) /* JSON may double what it escapes */

static _Atomic enum log_level log_max = LOG_LEVEL_INFO;
static _Atomic enum log_format log_form = LOG_FORMAT_AUTO;

static const struct {
	const char *word;
	int syslog_priority;
} log_levels[] = {
	[LOG_LEVEL_ERROR] = {"error", 3},
	[LOG_LEVEL_WARN] = {"warn", 4},
	[LOG_LEVEL_INFO] = {"info", 6},
	[LOG_LEVEL_DEBUG] = {"debug", 7},
};

static const char *const log_formats[] = {
	[LOG_FORMAT_AUTO] = "auto",
	[LOG_FORMAT_TEXT] = "text",
	[LOG_FORMAT_JSON] = "json",
	[LOG_FORMAT_JOURNAL] = "journal",
};

void log_set_level(enum log_level level)
{
	log_max = level;
}

void log_set_format(enum log_format format)
{
	log_form = format;
}

bool log_parse_level(const char *word, enum log_level *out)
{
	for (int i = LOG_LEVEL_ERROR; i <= LOG_LEVEL_DEBUG; i++)
		if (!strcmp(word, log_levels[i].word)) {
			*out = (enum log_level)i;
			return true;
		}
	return false;
}

bool log_parse_format(const char *word, enum log_format *out)
{
	for (int i = LOG_FORMAT_AUTO; i <= LOG_FORMAT_JOURNAL; i++)
		if (!strcmp(word, log_formats[i])) {
			*out = (enum log_format)i;
			return true;
		}
	return false;
}

void log_scope_init(struct log_scope *scope, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(scope->name, sizeof(scope->name), fmt, ap);
	va_end(ap);
}

/* --- what may stand in a line --------------------------------------------------------------- */

/* Bytes of the UTF-8 character at @s; 0: it is none (RFC 3629: no overlong forms, no surrogates).
 */
static int log_utf8_len(const unsigned char *s)
{
	int n = s[0] < 0x80   ? 1
		: s[0] < 0xc2 ? 0
		: s[0] < 0xe0 ? 2
		: s[0] < 0xf0 ? 3
		: s[0] < 0xf5 ? 4
			      : 0;

	for (int i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
	    (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return n;
}

/* Control bytes (a client may have chosen them) must not forge lines or drive a terminal, and what
 * is no UTF-8 (a text cut in the middle of a character) must not spoil a reader's whole file. */
static void log_scrub(char *text)
{
	unsigned char *s = (unsigned char *)text;

	while (*s) {
		int n = log_utf8_len(s);

		if (n == 1 && (*s < 0x20 || *s == 0x7f))
			*s = '?';
		if (!n) {
			*s = '?';
			n = 1;
		}
		s += n;
	}
}

/* A scrubbed text inside JSON's quotes: two characters are left to escape. */
static void log_quote(char *out, size_t size, const char *text)
{
	size_t n = 0;

	for (; *text && n + 2 < size; text++) {
		if (*text == '"' || *text == '\\')
			out[n++] = '\\';
		out[n++] = *text;
	}
	out[n] = '\0';
}

/* --- lines ---------------------------------------------------------------------------------- */

static void log_time(char *out, size_t size)
{
	struct timespec now;
	struct tm tm;
	size_t n;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	n = strftime(out, size, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(out + n, size - n, ".%03ldZ", now.tv_nsec / 1000000);
}

static int log_json(char *line, size_t size, enum log_level level, const char *scope,
		    const char *text)
{
	char when[40], quoted[2 * LOG_TEXT_MAX], name[2 * sizeof(struct log_scope)];

	log_time(when, sizeof(when));
	log_quote(quoted, sizeof(quoted), text);
	log_quote(name, sizeof(name), scope);
	return snprintf(line, size,
			"{\"time\":\"%s\",\"level\":\"%s\",\"scope\":\"%s\",\"message\":\"%s\"}\n",
			when, log_levels[level].word, name, quoted);
}

static int log_compose(char *line, size_t size, enum log_level level, const char *scope,
		       const char *text)
{
	enum log_format format = log_form;
	char when[40];

	if (format == LOG_FORMAT_AUTO)
		format = getenv("JOURNAL_STREAM") ? LOG_FORMAT_JOURNAL : LOG_FORMAT_TEXT;
	if (format == LOG_FORMAT_JSON)
		return log_json(line, size, level, scope, text);
	if (format == LOG_FORMAT_JOURNAL)
		return snprintf(line, size, "<%d>%s: %s\n", log_levels[level].syslog_priority,
				scope, text);
	log_time(when, sizeof(when));
	return snprintf(line, size, "%s %-5s %s: %s\n", when, log_levels[level].word, scope, text);
}

void log_line(enum log_level level, const struct log_scope *scope, const char *fmt, ...)
{
	char text[LOG_TEXT_MAX], name[sizeof(scope->name)], line[LOG_LINE_MAX];
	va_list ap;
	int n;

	if (level > log_max)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	snprintf(name, sizeof(name), "%s", scope->name);
	log_scrub(text);
	log_scrub(name);
	n = log_compose(line, sizeof(line), level, name, text);
	if (n > (int)sizeof(line) - 1)
		n = sizeof(line) - 1;
	/* Nobody is left to tell when stderr itself fails. */
	if (write(STDERR_FILENO, line, (size_t)n) < 0)
		return;
}
