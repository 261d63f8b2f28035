/*
 * SHA-256 (FIPS 180-4) of bytes that come in pieces, as hexadecimal text. For hashes that must not
 * be forged; what only has to be told apart is hashed by base/xxh3.h.
 *
 *	struct sha256 h;
 *	char hex[SHA256_HEX_SIZE];
 *
 *	if (!sha256_begin(&h))
 *		return err_sys(err, -ENOMEM, ...);
 *	sha256_add(&h, data, len);
 *	sha256_end(&h, hex);
 */
#ifndef BASE_SHA256_H
#define BASE_SHA256_H

#include <stdbool.h>
#include <stddef.h>

#define SHA256_HEX_SIZE 65 /* 64 digits in lower case, and the terminator */

struct sha256 {
	void *ctx;   /* the library's */
	bool failed; /* sha256_end() says so */
};

bool sha256_begin(struct sha256 *h); /* false: no memory */
void sha256_add(struct sha256 *h, const void *data, size_t len);
/* Ends it in any case; false, and @hex empty: the library failed. */
bool sha256_end(struct sha256 *h, char hex[SHA256_HEX_SIZE]);

/* All at once. */
bool sha256_hex(const void *data, size_t len, char hex[SHA256_HEX_SIZE]);

#endif
