/*
 * Secrets at rest: AES-256-GCM with keys from a file beside the database, so that neither the
 * database nor a copy of it is enough to read them. OpenSSL does the cryptography.
 *
 * The key file has a line a key, "KEY-ID HEX", the one for new secrets first; mode 0600. The id is
 * taken from the key's hash, so a wrong file is told apart from a damaged secret. It is made when
 * the first secret is sealed, and never overwritten then. Several hubs on one database share one
 * file; what another one added is noticed.
 *
 * A sealed secret is "v1:" and base64 of nonce, ciphertext and tag. It opens only together with the
 * context it was sealed with (for whom it is), so that it cannot be moved to another row.
 *
 * Any thread.
 */
#ifndef HUB_SECRETS_H
#define HUB_SECRETS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/cleanup.h"
#include "base/err.h"

#define SECRETS_KEY_ID_SIZE 65
#define SECRETS_SEALED_SIZE 1024
#define SECRETS_PLAIN_MAX   512 /* bytes */

struct secrets;

/* @path is where the file is, or will be: copied. Reads nothing. NULL: no memory. */
struct secrets *secrets_new(const char *path);
void secrets_free(struct secrets *s); /* accepts NULL */
DEFINE_CLEANUP(struct secrets *, secrets_free)

const char *secrets_path(const struct secrets *s);

/* Reads the file. -ENOENT: there is none; -EACCES: others may read it; -EINVAL: what is in it. */
int secrets_load(struct secrets *s, struct err *err);

/* Seals with the first key of the file, which is made with one key when it is absent and @may_make.
 * -ENOKEY: there is no file and none may be made. */
int secrets_seal(struct secrets *s, bool may_make, const char *context, const char *plain,
		 char sealed[SECRETS_SEALED_SIZE], char key_id[SECRETS_KEY_ID_SIZE],
		 struct err *err);

/* Opens to @plain, of @size bytes. -ENOKEY: the file has no such key; -EBADMSG: the secret is
 * damaged, or not for this context. */
int secrets_open(struct secrets *s, const char *context, const char *sealed, const char *key_id,
		 char *plain, size_t size, struct err *err);

/* Puts a new key in front of the others. Durable when it returns. */
int secrets_add_key(struct secrets *s, struct err *err);

/* Takes out every key for which @used is false; the first one always stays. Durable. */
int secrets_drop_keys(struct secrets *s, bool (*used)(void *arg, const char *key_id), void *arg,
		      struct err *err);

/* Removes what a killed hub may have left beside the file: half written new ones, a minute old or
 * older. */
void secrets_sweep(const struct secrets *s);

/* How many keys the file had when it was last read, and the first one's id ("": none). */
size_t secrets_count(struct secrets *s, char first[SECRETS_KEY_ID_SIZE]);

#endif
