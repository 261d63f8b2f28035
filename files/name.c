#include <string.h>

#include "files/files.h"

/* The characters that stand for a byte: U+EF00 to U+EFFF, in UTF-8 EE BC 80 to EE BF BF. */
static bool stands_for_byte(const unsigned char *s, size_t len)
{
	return len >= 3 && s[0] == 0xee && s[1] >= 0xbc && s[1] <= 0xbf && s[2] >= 0x80 &&
	       s[2] <= 0xbf;
}

static bool is_control(unsigned char c)
{
	return c < 0x20 || c == 0x7f;
}

static bool continues(const unsigned char *s, size_t n)
{
	size_t i;

	for (i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return false;
	return true;
}

/* Bytes of the character at @s (RFC 3629: shortest form, no surrogates); 0: there is none. */
static size_t utf8_length(const unsigned char *s, size_t len)
{
	size_t n = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;

	if (!n || n > len || s[0] > 0xf4 || !continues(s, n))
		return 0;
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
	    (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return n;
}

size_t files_name_show(char *shown, size_t size, const void *raw, size_t len)
{
	const unsigned char *s = raw;
	size_t at = 0, n;

	for (; len; s += n, len -= n) {
		n = utf8_length(s, len);
		if (n && !is_control(*s) && !stands_for_byte(s, len)) {
			if (size - at <= n)
				return 0;
			memcpy(shown + at, s, n);
			at += n;
			continue;
		}
		n = 1;
		if (size - at <= 3)
			return 0;
		shown[at++] = (char)0xee;
		shown[at++] = (char)(0xbc | *s >> 6);
		shown[at++] = (char)(0x80 | (*s & 0x3f));
	}
	if (size == at)
		return 0;
	shown[at] = '\0';
	return at;
}

size_t files_name_raw(char *raw, const char *name)
{
	const unsigned char *s = (const unsigned char *)name;
	size_t left = strlen(name), at = 0;

	while (left) {
		unsigned char byte = *s;
		size_t n = 1;

		if (stands_for_byte(s, left)) {
			byte = (unsigned char)((s[1] & 0x03) << 6 | (s[2] & 0x3f));
			n = 3;
			/* only what files_name_show() makes: never a "/" out of nowhere */
			if (!byte || (byte < 0x80 && !is_control(byte))) {
				byte = *s;
				n = 1;
			}
		}
		raw[at++] = (char)byte;
		s += n;
		left -= n;
	}
	raw[at] = '\0';
	return at;
}
