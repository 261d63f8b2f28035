/*
 * Log lines on stderr: one line an event, said once, by whoever handled it.
 *
 * A scope names the object a line is about ("nbd", "export backup-x-disk0"); it is embedded in the
 * object, so that no line has to print a pointer. Cold by design: nothing on the data path logs.
 * Any thread may log; a line is written by one write(2).
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

enum log_format {
	LOG_FORMAT_AUTO,    /* JOURNAL when stderr is systemd's (JOURNAL_STREAM), else TEXT */
	LOG_FORMAT_TEXT,    /* "2026-01-31T12:00:00.000Z info  nbd: text" */
	LOG_FORMAT_JSON,    /* {"time":...,"level":...,"scope":...,"message":...} */
	LOG_FORMAT_JOURNAL, /* "<6>nbd: text": sd-daemon(3); the journal has a clock of its own */
};

struct log_scope {
	char name[64];
};

/* Lines above @level are dropped; the default is LOG_LEVEL_INFO. At any time, as the next. */
void log_set_level(enum log_level level);
void log_set_format(enum log_format format);
/* "error", "warn", "info", "debug"; "auto", "text", "json", "journal". False: none of these. */
bool log_parse_level(const char *word, enum log_level *out);
bool log_parse_format(const char *word, enum log_format *out);

void log_scope_init(struct log_scope *scope, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

void log_line(enum log_level level, const struct log_scope *scope, const char *fmt, ...)
	__attribute__((format(printf, 3, 4), cold));

#define log_error(scope, ...) log_line(LOG_LEVEL_ERROR, scope, __VA_ARGS__)
#define log_warn(scope, ...)  log_line(LOG_LEVEL_WARN, scope, __VA_ARGS__)
#define log_info(scope, ...)  log_line(LOG_LEVEL_INFO, scope, __VA_ARGS__)
#define log_debug(scope, ...) log_line(LOG_LEVEL_DEBUG, scope, __VA_ARGS__)

#endif
