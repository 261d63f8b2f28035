#include "base/base64.h"

#include <openssl/evp.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

void base64_encode(const void *data, size_t len, char *out)
{
	EVP_EncodeBlock((unsigned char *)out, data, (int)len);
}

/* What OpenSSL takes loosely (white space, bits behind the end, no padding) shows when it is
 * encoded again. */
static size_t decode_group(const char text[4], uint8_t out[3])
{
	char again[BASE64_SIZE(3)];
	size_t n = text[3] != '=' ? 3 : text[2] != '=' ? 2 : 1;

	if (EVP_DecodeBlock(out, (const unsigned char *)text, 4) != 3)
		return 0;
	base64_encode(out, n, again);
	return memcmp(again, text, 4) ? 0 : n;
}

size_t base64_decode(const char *text, size_t len, void *out, size_t max)
{
	uint8_t *to = out;
	size_t total = 0;

	if (len % 4)
		return 0;
	for (size_t at = 0; at < len; at += 4) {
		uint8_t group[3];
		bool last = at + 4 == len;
		size_t n = decode_group(text + at, group);

		if (!n || (n < 3 && !last) || n > max - total)
			return 0;
		memcpy(to + total, group, n);
		total += n;
	}
	return total;
}
