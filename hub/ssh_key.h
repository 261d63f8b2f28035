/*
 * Ed25519 keys as OpenSSH writes them (RFC 8709): one line of text from a stranger becomes a key
 * that may stand in an authorized_keys file. Of the line nothing is kept but the key itself: what
 * is written later is made of its 32 bytes.
 */
#ifndef HUB_SSH_KEY_H
#define HUB_SSH_KEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define SSH_KEY_BYTES	     32
#define SSH_KEY_LINE_MAX     1024 /* of what comes in, comment included */
#define SSH_KEY_TEXT_SIZE    81	  /* "ssh-ed25519 " and 68 characters */
#define SSH_FINGERPRINT_SIZE 51	  /* "SHA256:" and 43 characters */
#define SSH_SIGNATURE_BYTES  64

struct ssh_key {
	uint8_t bytes[SSH_KEY_BYTES];
	char text[SSH_KEY_TEXT_SIZE]; /* without a comment */
	char fingerprint[SSH_FINGERPRINT_SIZE];
};

/* "ssh-ed25519 BASE64[ COMMENT]", one line, nothing in front. HUB_E_INVALID. */
int ssh_key_parse(const char *line, struct ssh_key *out, struct err *err);

/* Did the key's owner sign exactly these bytes (RFC 8032, plain Ed25519)? */
bool ssh_key_verify(const struct ssh_key *key, const void *message, size_t len,
		    const uint8_t signature[SSH_SIGNATURE_BYTES]);

/* "SHA256:..." of any public key's line, as ssh-keygen -l prints it. False: it is none. */
bool ssh_fingerprint(const char *line, char out[SSH_FINGERPRINT_SIZE]);

#endif
