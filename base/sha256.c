#include "base/sha256.h"

#include <openssl/evp.h>
#include <stdio.h>

bool sha256_begin(struct sha256 *h)
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();

	*h = (struct sha256){.ctx = ctx};
	if (!ctx)
		return false;
	h->failed = EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) != 1;
	return true;
}

void sha256_add(struct sha256 *h, const void *data, size_t len)
{
	if (EVP_DigestUpdate(h->ctx, data, len) != 1)
		h->failed = true;
}

bool sha256_end(struct sha256 *h, char hex[SHA256_HEX_SIZE])
{
	unsigned char md[EVP_MAX_MD_SIZE];
	unsigned int n = 0;

	if (EVP_DigestFinal_ex(h->ctx, md, &n) != 1 || n != (SHA256_HEX_SIZE - 1) / 2)
		h->failed = true;
	EVP_MD_CTX_free(h->ctx);
	h->ctx = NULL;
	hex[0] = '\0';
	for (unsigned int i = 0; !h->failed && i < n; i++)
		snprintf(hex + (size_t)2 * i, 3, "%02x", md[i]);
	return !h->failed;
}

bool sha256_hex(const void *data, size_t len, char hex[SHA256_HEX_SIZE])
{
	struct sha256 h;

	hex[0] = '\0';
	if (!sha256_begin(&h))
		return false;
	sha256_add(&h, data, len);
	return sha256_end(&h, hex);
}
