#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static _Atomic enum log_level log_max = LOG_LEVEL_INFO;

static const struct {
	const char *word;
	int syslog_priority;
} log_levels[] = {
	[LOG_LEVEL_ERROR] = {"error", 3},
	[LOG_LEVEL_WARN] = {"warn", 4},
	[LOG_LEVEL_INFO] = {"info", 6},
	[LOG_LEVEL_DEBUG] = {"debug", 7},
};

void log_set_level(enum log_level level)
{
	atomic_store_explicit(&log_max, level, memory_order_relaxed);
}

void log_scope_init(struct log_scope *scope, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(scope->name, sizeof(scope->name), fmt, ap);
	va_end(ap);
}

/* Control bytes (a client may have chosen them) must not forge lines or drive a terminal. */
static void log_scrub(char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s < 0x20 || *s == 0x7f)
			*s = '?';
}

void log_line(enum log_level level, const struct log_scope *scope, const char *fmt, ...)
{
	char text[1024], line[1280];
	va_list ap;
	int n;

	if (level > atomic_load_explicit(&log_max, memory_order_relaxed))
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	log_scrub(text);

	if (getenv("JOURNAL_STREAM")) {
		n = snprintf(line, sizeof(line), "<%d>%s: %s\n", log_levels[level].syslog_priority,
			     scope->name, text);
	} else {
		struct timespec now;
		struct tm tm;
		char when[32];

		clock_gettime(CLOCK_REALTIME, &now);
		gmtime_r(&now.tv_sec, &tm);
		strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", &tm);
		n = snprintf(line, sizeof(line), "%s.%03ldZ %-5s %s: %s\n", when,
			     now.tv_nsec / 1000000, log_levels[level].word, scope->name, text);
	}
	if (n > (int)sizeof(line) - 1)
		n = sizeof(line) - 1;
	/* Nobody is left to tell when stderr itself fails. */
	if (write(STDERR_FILENO, line, n) < 0)
		return;
}
