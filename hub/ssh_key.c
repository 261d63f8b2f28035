#include "hub/ssh_key.h"

#include <errno.h>
#include <openssl/evp.h>
#include <string.h>

#include "base/base64.h"
#include "base/bytes.h"
#include "hub/hub.h"

#define KEY_TYPE     "ssh-ed25519"
#define BLOB_BYTES   (4 + 11 + 4 + SSH_KEY_BYTES)
#define BLOB_MAX     4096 /* of any key: RSA with 16384 bits is half of it */
#define DIGEST_BYTES 32

_Static_assert(sizeof(KEY_TYPE " ") - 1 + BASE64_SIZE(BLOB_BYTES) == SSH_KEY_TEXT_SIZE, "text");
_Static_assert(sizeof("SHA256:") - 1 + 43 + 1 == SSH_FINGERPRINT_SIZE, "fingerprint");

/* --- fingerprints ----------------------------------------------------------------------------- */

static bool fingerprint_of(const uint8_t *blob, size_t len, char out[SSH_FINGERPRINT_SIZE])
{
	char text[BASE64_SIZE(DIGEST_BYTES)];
	uint8_t digest[DIGEST_BYTES];

	if (EVP_Digest(blob, len, digest, NULL, EVP_sha256(), NULL) != 1)
		return false;
	base64_encode(digest, sizeof(digest), text);
	memcpy(stpcpy(out, "SHA256:"), text, 43);
	out[SSH_FINGERPRINT_SIZE - 1] = '\0';
	return true;
}

bool ssh_fingerprint(const char *line, char out[SSH_FINGERPRINT_SIZE])
{
	size_t type = strcspn(line, " \t\r\n");
	const char *base64 = line + type + strspn(line + type, " ");
	uint8_t blob[BLOB_MAX];
	size_t n = base64_decode(base64, strcspn(base64, " \t\r\n"), blob, sizeof(blob));

	/* The blob says the type once more. */
	if (!type || n < 4 + type || load_be32(blob) != type || memcmp(blob + 4, line, type))
		return false;
	return fingerprint_of(blob, n, out);
}

/* --- keys ------------------------------------------------------------------------------------- */

static int refuse(struct err *err, const char *why)
{
	return err_set(err, HUB_E_INVALID,
		       "the public key %s: send one line of the form \"ssh-ed25519 AAAA... "
		       "comment\", as in the .pub file that ssh-keygen -t ed25519 makes",
		       why);
}

/* Printable, one line: also of the comment, although nothing of it is kept. */
static bool is_line(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
			return false;
	return true;
}

static bool take_blob(const uint8_t *blob, struct ssh_key *out)
{
	if (load_be32(blob) != strlen(KEY_TYPE) ||
	    memcmp(blob + 4, KEY_TYPE, strlen(KEY_TYPE)) != 0 ||
	    load_be32(blob + 4 + strlen(KEY_TYPE)) != SSH_KEY_BYTES)
		return false;
	memcpy(out->bytes, blob + BLOB_BYTES - SSH_KEY_BYTES, SSH_KEY_BYTES);
	return true;
}

int ssh_key_parse(const char *line, struct ssh_key *out, struct err *err)
{
	static const char type[] = KEY_TYPE " ";
	size_t len = strnlen(line, SSH_KEY_LINE_MAX + 1);
	uint8_t blob[BLOB_BYTES];
	const char *base64;

	if (len > SSH_KEY_LINE_MAX)
		return refuse(err, "is too long");
	/* A file's last line has an end. */
	while (len && (line[len - 1] == '\n' || line[len - 1] == '\r'))
		len--;
	if (!is_line(line, len))
		return refuse(err, "is not one line of text");
	if (len < sizeof(type) - 1 || memcmp(line, type, sizeof(type) - 1) != 0)
		return refuse(err, "is no Ed25519 key of OpenSSH's form");
	base64 = line + sizeof(type) - 1;
	len -= sizeof(type) - 1;
	if (base64_decode(base64, MIN(strcspn(base64, " "), len), blob, sizeof(blob)) !=
		    sizeof(blob) ||
	    !take_blob(blob, out))
		return refuse(err, "does not hold an Ed25519 key");
	base64_encode(blob, sizeof(blob), stpcpy(out->text, type));
	if (!fingerprint_of(blob, sizeof(blob), out->fingerprint))
		return err_sys(err, -EIO, "the public key could not be hashed");
	return 0;
}

bool ssh_key_verify(const struct ssh_key *key, const void *message, size_t len,
		    const uint8_t signature[SSH_SIGNATURE_BYTES])
{
	EVP_PKEY *pkey =
		EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, key->bytes, SSH_KEY_BYTES);
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	bool good = pkey && ctx && EVP_DigestVerifyInit(ctx, NULL, NULL, NULL, pkey) == 1 &&
		    EVP_DigestVerify(ctx, signature, SSH_SIGNATURE_BYTES, message, len) == 1;

	EVP_MD_CTX_free(ctx);
	EVP_PKEY_free(pkey);
	return good;
}
