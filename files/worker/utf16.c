#include "files/worker/utf16.h"

#include <stdbool.h>
#include <stdint.h>

static uint32_t unit(const unsigned char *in, size_t i)
{
	return in[2 * i] | (uint32_t)in[2 * i + 1] << 8;
}

static size_t put(char out[4], uint32_t c)
{
	if (c < 0x80) {
		out[0] = (char)c;
		return 1;
	}
	if (c < 0x800) {
		out[0] = (char)(0xc0 | c >> 6);
		out[1] = (char)(0x80 | (c & 0x3f));
		return 2;
	}
	if (c < 0x10000) {
		out[0] = (char)(0xe0 | c >> 12);
		out[1] = (char)(0x80 | (c >> 6 & 0x3f));
		out[2] = (char)(0x80 | (c & 0x3f));
		return 3;
	}
	out[0] = (char)(0xf0 | c >> 18);
	out[1] = (char)(0x80 | (c >> 12 & 0x3f));
	out[2] = (char)(0x80 | (c >> 6 & 0x3f));
	out[3] = (char)(0x80 | (c & 0x3f));
	return 4;
}

size_t utf16_to_utf8(char *out, size_t size, const unsigned char *in, size_t units)
{
	size_t at = 0, i, n, k;
	char text[4];

	for (i = 0; i < units && unit(in, i); i++) {
		uint32_t c = unit(in, i);
		bool low = c < 0xdc00 && i + 1 < units && unit(in, i + 1) >= 0xdc00 &&
			   unit(in, i + 1) <= 0xdfff;

		if (c >= 0xd800 && c <= 0xdfff) {
			c = low ? 0x10000 + ((c - 0xd800) << 10) + (unit(in, i + 1) - 0xdc00)
				: 0xfffd;
			i += low;
		}
		n = put(text, c);
		if (size - at <= n)
			break;
		for (k = 0; k < n; k++)
			out[at++] = text[k];
	}
	out[at] = '\0';
	return at;
}
