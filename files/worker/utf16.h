#ifndef FILES_WORKER_UTF16_H
#define FILES_WORKER_UTF16_H

#include <stddef.h>

/* Little-endian UTF-16, up to @units units or a NUL, as UTF-8 in @out, cut where it is full. What
 * is no character becomes U+FFFD. Returns the length. */
size_t utf16_to_utf8(char *out, size_t size, const unsigned char *in, size_t units);

#endif
