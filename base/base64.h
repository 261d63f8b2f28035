/*
 * Base64 (RFC 4648 §4), strictly: padding, no white space, no bits behind the end. A value has
 * exactly one text, so that a text which was changed in any letter is never taken for the same.
 */
#ifndef SENDENSE_BASE_BASE64_H
#define SENDENSE_BASE_BASE64_H

#include <stddef.h>

/* Room for the text of @n bytes, with its end. */
#define BASE64_SIZE(n) (4 * (((n) + 2) / 3) + 1)

/* @out has room for BASE64_SIZE(@len). */
void base64_encode(const void *data, size_t len, char *out);

/* Bytes written to @out. 0: the @len characters are no base64, or are more than @max bytes. */
size_t base64_decode(const char *text, size_t len, void *out, size_t max);

#endif
