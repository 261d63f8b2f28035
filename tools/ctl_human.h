/*
 * Numbers and texts as people read them. All write into the caller's buffer, always terminated,
 * and return it, so that they can stand in an argument list.
 */
#ifndef TOOLS_CTL_HUMAN_H
#define TOOLS_CTL_HUMAN_H

#include <stddef.h>
#include <stdint.h>

#define HUMAN_MAX 32 /* room enough for any of the numbers below */

/* "0 B", "512 B", "1.5 KiB", "300 MiB", "1.46 GiB": three significant digits. */
char *human_bytes(char buf[HUMAN_MAX], uint64_t bytes);

/* "1.24 GiB/s"; "-" when unknown (negative or not a number). */
char *human_rate(char buf[HUMAN_MAX], double bytes_per_s);

/* "0:07", "2:05", "1:02:05", "3 d 4 h"; "-" when negative. */
char *human_duration(char buf[HUMAN_MAX], double seconds);

/* "2025-10-05T12:00:00Z" as local time "2025-10-05 14:00:00"; "-" for NULL or empty; a text that
 * is no RFC 3339 UTC time comes back as it is, cut to fit. */
char *human_time(char buf[HUMAN_MAX], const char *rfc3339);

/* Seconds between two such times, or -1 when either is missing or malformed. */
double human_seconds_between(const char *from, const char *to);

/* Copies @text with everything a terminal might act upon replaced by '?': names come from other
 * machines. Needs a UTF-8 LC_CTYPE for more than ASCII. */
char *human_printable(char *buf, size_t size, const char *text);

/* Columns @text takes on a terminal. */
size_t human_width(const char *text);

#endif
