#include "hub/secrets.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/base64.h"
#include "base/bytes.h"
#include "base/file.h"

#define KEY_BYTES   32
#define NONCE_BYTES 12
#define TAG_BYTES   16
#define KEYS_MAX    16
#define FILE_MAX    8192 /* bytes */
#define SEALED_MARK "v1:"

struct key {
	char id[SECRETS_KEY_ID_SIZE];
	unsigned char bytes[KEY_BYTES];
};

struct secrets {
	pthread_mutex_t lock;
	char *path;
	struct key keys[KEYS_MAX]; /* lock; the first seals */
	size_t n;
};

struct secrets *secrets_new(const char *path)
{
	struct secrets *s = calloc(1, sizeof(*s));

	if (s)
		s->path = strdup(path);
	if (!s || !s->path) {
		free(s);
		return NULL;
	}
	pthread_mutex_init(&s->lock, NULL);
	return s;
}

void secrets_free(struct secrets *s)
{
	if (!s)
		return;
	OPENSSL_cleanse(s->keys, sizeof(s->keys));
	pthread_mutex_destroy(&s->lock);
	free(s->path);
	free(s);
}

const char *secrets_path(const struct secrets *s)
{
	return s->path;
}

/* --- the key file --------------------------------------------------------------------------- */

/* "k-" and 16 digits of a hash that says nothing about the key. */
static void key_name(struct key *key)
{
	static const char label[] = "sendense key id";
	unsigned char text[sizeof(label) + KEY_BYTES], digest[EVP_MAX_MD_SIZE];

	memcpy(text, label, sizeof(label));
	memcpy(text + sizeof(label), key->bytes, KEY_BYTES);
	EVP_Digest(text, sizeof(text), digest, NULL, EVP_sha256(), NULL);
	OPENSSL_cleanse(text, sizeof(text));
	strcpy(key->id, "k-");
	for (size_t i = 0; i < 8; i++)
		sprintf(key->id + 2 + 2 * i, "%02x", digest[i]);
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* "KEY-ID HEX" */
static bool key_parse(const char *line, size_t len, struct key *key)
{
	const char *hex = memchr(line, ' ', len);
	size_t id_len = hex ? (size_t)(hex - line) : 0;

	if (!hex || len - id_len - 1 != 2 * KEY_BYTES)
		return false;
	hex++;
	for (size_t i = 0; i < KEY_BYTES; i++) {
		int high = hex_digit(hex[2 * i]), low = hex_digit(hex[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		key->bytes[i] = (unsigned char)(high << 4 | low);
	}
	key_name(key);
	return strlen(key->id) == id_len && !memcmp(key->id, line, id_len);
}

static int parse_file(struct secrets *s, const char *text, struct err *err)
{
	struct key keys[KEYS_MAX];
	size_t n = 0;
	int line = 0, rc = 0;

	while (!rc && *text) {
		size_t len = strcspn(text, "\n");

		line++;
		if (len && text[0] != '#' && (n == KEYS_MAX || !key_parse(text, len, &keys[n++])))
			rc = err_set(err, -EINVAL,
				     "key file %s line %d is damaged: restore the file from a copy",
				     s->path, line);
		text += len + (text[len] == '\n');
	}
	if (!rc && !n)
		rc = err_set(err, -EINVAL, "key file %s has no key: restore it from a copy",
			     s->path);
	if (!rc) {
		memcpy(s->keys, keys, sizeof(keys[0]) * n);
		s->n = n;
	}
	OPENSSL_cleanse(keys, sizeof(keys));
	return rc;
}

static int open_key_file(const char *path, struct err *err)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

	if (fd < 0)
		return err_sys(err, -errno, "key file %s", path);
	if (!fstat(fd, &st) && S_ISREG(st.st_mode) && !(st.st_mode & 077))
		return fd;
	close(fd);
	return err_set(err, -EACCES,
		       "key file %s must be a file that nobody but its owner may read: chmod 600",
		       path);
}

/* lock held */
static int load(struct secrets *s, struct err *err)
{
	char text[FILE_MAX + 1];
	_cleanup_(closep) int fd = open_key_file(s->path, err);
	size_t len = 0;
	ssize_t got;
	int rc;

	if (fd < 0)
		return fd;
	while ((got = read(fd, text + len, FILE_MAX - len)) > 0)
		len += (size_t)got;
	if (got < 0)
		rc = err_sys(err, -errno, "reading key file %s", s->path);
	else if (len == FILE_MAX || memchr(text, '\0', len))
		rc = err_set(err, -EINVAL, "%s is no key file", s->path);
	else {
		text[len] = '\0';
		rc = parse_file(s, text, err);
	}
	OPENSSL_cleanse(text, sizeof(text));
	return rc;
}

int secrets_load(struct secrets *s, struct err *err)
{
	int rc;

	pthread_mutex_lock(&s->lock);
	rc = load(s, err);
	pthread_mutex_unlock(&s->lock);
	return rc;
}

static int print_keys(FILE *f, const struct key *keys, size_t n)
{
	fputs("# Keys of the credentials in the catalog; the first one is for new secrets.\n"
	      "# Keep a copy of this file, and keep it apart from copies of the database.\n",
	      f);
	for (size_t i = 0; i < n; i++) {
		fprintf(f, "%s ", keys[i].id);
		for (size_t b = 0; b < KEY_BYTES; b++)
			fprintf(f, "%02x", keys[i].bytes[b]);
		fputc('\n', f);
	}
	if (fflush(f) || fsync(fileno(f)))
		return -errno;
	return 0;
}

/* Whole and durable, or as it was. @fresh: never over a file that is there (-EEXIST). */
static int write_file(const char *path, const struct key *keys, size_t n, bool fresh,
		      struct err *err)
{
	char tmp[4096], buffer[FILE_MAX];
	FILE *f;
	int fd, rc;

	if (snprintf(tmp, sizeof(tmp), "%s.XXXXXX", path) >= (int)sizeof(tmp))
		return err_set(err, -ENAMETOOLONG, "key file %s: its name is too long", path);
	fd = mkostemp(tmp, O_CLOEXEC); /* mode 0600 */
	f = fd < 0 ? NULL : fdopen(fd, "w");
	if (!f)
		return err_sys(err, -errno, "writing key file %s", tmp);
	setvbuf(f, buffer, _IOFBF, sizeof(buffer)); /* ours, to be wiped */
	rc = print_keys(f, keys, n);
	fclose(f);
	OPENSSL_cleanse(buffer, sizeof(buffer));
	if (!rc && (fresh ? link(tmp, path) : rename(tmp, path)))
		rc = -errno;
	if (rc || fresh)
		unlink(tmp);
	if (!rc)
		rc = file_sync_dir_of(path);
	return rc ? err_sys(err, rc, "writing key file %s", path) : 0;
}

void secrets_sweep(const struct secrets *s)
{
	const char *slash = strrchr(s->path, '/'), *name = slash ? slash + 1 : s->path;
	_cleanup_(freep) char *dir =
		slash ? strndup(s->path, (size_t)(slash - s->path) + 1) : strdup(".");
	size_t n = strlen(name);
	DIR *d = dir ? opendir(dir) : NULL;
	struct dirent *e;
	struct stat st;

	while (d && (e = readdir(d))) {
		/* As mkostemp() names them: NAME.XXXXXX */
		if (strncmp(e->d_name, name, n) || e->d_name[n] != '.' ||
		    strlen(e->d_name) != n + 7)
			continue;
		if (!fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) &&
		    S_ISREG(st.st_mode) && (st.st_mode & 0777) == 0600 &&
		    st.st_mtime < time(NULL) - 60)
			unlinkat(dirfd(d), e->d_name, 0);
	}
	if (d)
		closedir(d);
}

/* lock held */
static int add_key(struct secrets *s, bool fresh, struct err *err)
{
	struct key keys[KEYS_MAX];
	int rc = 0;

	if (s->n == KEYS_MAX)
		return err_set(err, -ENOSPC, "key file %s has %d keys: that is the limit", s->path,
			       KEYS_MAX);
	memcpy(keys + 1, s->keys, sizeof(keys[0]) * s->n);
	if (RAND_bytes(keys[0].bytes, KEY_BYTES) != 1)
		rc = err_set(err, -EIO, "the system has no random numbers for a key");
	if (!rc) {
		key_name(&keys[0]);
		rc = write_file(s->path, keys, s->n + 1, fresh, err);
	}
	if (!rc)
		memcpy(s->keys, keys, sizeof(keys[0]) * ++s->n);
	OPENSSL_cleanse(keys, sizeof(keys));
	return rc;
}

/* The file as it is now, made if need be. lock held. */
static int load_or_make(struct secrets *s, bool may_make, struct err *err)
{
	int rc = load(s, err);

	if (rc != -ENOENT)
		return rc;
	if (!may_make)
		return err_set(err, -ENOKEY,
			       "key file %s is missing, and there are credentials encrypted with "
			       "it: restore it from a copy, or delete those credentials",
			       s->path);
	s->n = 0;
	rc = add_key(s, true, err);
	return rc == -EEXIST ? load(s, err) : rc; /* another hub was faster */
}

int secrets_add_key(struct secrets *s, struct err *err)
{
	int rc;

	pthread_mutex_lock(&s->lock);
	rc = load(s, err);
	if (!rc)
		rc = add_key(s, false, err);
	pthread_mutex_unlock(&s->lock);
	return rc;
}

int secrets_drop_keys(struct secrets *s, bool (*used)(void *arg, const char *key_id), void *arg,
		      struct err *err)
{
	struct key keys[KEYS_MAX];
	size_t n = 0;
	int rc;

	pthread_mutex_lock(&s->lock);
	rc = load(s, err);
	for (size_t i = 0; !rc && i < s->n; i++)
		if (i == 0 || used(arg, s->keys[i].id))
			keys[n++] = s->keys[i];
	if (!rc && n < s->n) {
		rc = write_file(s->path, keys, n, false, err);
		if (!rc) {
			memcpy(s->keys, keys, sizeof(keys[0]) * n);
			s->n = n;
		}
	}
	pthread_mutex_unlock(&s->lock);
	OPENSSL_cleanse(keys, sizeof(keys));
	return rc;
}

size_t secrets_count(struct secrets *s, char first[SECRETS_KEY_ID_SIZE])
{
	size_t n;

	pthread_mutex_lock(&s->lock);
	n = s->n;
	strcpy(first, n ? s->keys[0].id : "");
	pthread_mutex_unlock(&s->lock);
	return n;
}

/* --- AES-256-GCM ---------------------------------------------------------------------------- */

static bool encrypt(const struct key *key, const char *context, const char *plain, size_t len,
		    unsigned char *out)
{
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	unsigned char *nonce = out, *text = out + NONCE_BYTES;
	int n = 0, rest = 0;
	bool ok = ctx && RAND_bytes(nonce, NONCE_BYTES) == 1 &&
		  EVP_EncryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, key->bytes, nonce) == 1 &&
		  EVP_EncryptUpdate(ctx, NULL, &n, (const unsigned char *)context,
				    (int)strlen(context)) == 1 &&
		  EVP_EncryptUpdate(ctx, text, &n, (const unsigned char *)plain, (int)len) == 1 &&
		  EVP_EncryptFinal_ex(ctx, text + n, &rest) == 1 && n + rest == (int)len &&
		  EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG, TAG_BYTES, text + len) == 1;

	EVP_CIPHER_CTX_free(ctx);
	return ok;
}

static bool decrypt(const struct key *key, const char *context, const unsigned char *in, size_t len,
		    unsigned char *out)
{
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	const unsigned char *text = in + NONCE_BYTES;
	int n = 0, rest = 0;
	bool ok = ctx && EVP_DecryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, key->bytes, in) == 1 &&
		  EVP_DecryptUpdate(ctx, NULL, &n, (const unsigned char *)context,
				    (int)strlen(context)) == 1 &&
		  EVP_DecryptUpdate(ctx, out, &n, text, (int)len) == 1 &&
		  EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_TAG, TAG_BYTES, (void *)(text + len)) ==
			  1 &&
		  EVP_DecryptFinal_ex(ctx, out + n, &rest) == 1 && n + rest == (int)len;

	EVP_CIPHER_CTX_free(ctx);
	return ok;
}

int secrets_seal(struct secrets *s, bool may_make, const char *context, const char *plain,
		 char sealed[SECRETS_SEALED_SIZE], char key_id[SECRETS_KEY_ID_SIZE],
		 struct err *err)
{
	unsigned char raw[NONCE_BYTES + SECRETS_PLAIN_MAX + TAG_BYTES];
	size_t len = strlen(plain);
	int rc;

	if (!len || len > SECRETS_PLAIN_MAX)
		return err_set(err, -EINVAL, "a secret has between 1 and %d bytes",
			       SECRETS_PLAIN_MAX);
	pthread_mutex_lock(&s->lock);
	rc = load_or_make(s, may_make, err);
	if (!rc && !encrypt(&s->keys[0], context, plain, len, raw))
		rc = err_set(err, -EIO, "the secret could not be encrypted");
	if (!rc)
		strcpy(key_id, s->keys[0].id);
	pthread_mutex_unlock(&s->lock);
	if (rc)
		return rc;
	strcpy(sealed, SEALED_MARK);
	base64_encode(raw, NONCE_BYTES + len + TAG_BYTES, sealed + strlen(SEALED_MARK));
	return 0;
}

/* Bytes in @raw, or 0: that is no sealed secret. */
static size_t unwrap(const char *sealed, unsigned char *raw, size_t size)
{
	size_t mark = strlen(SEALED_MARK), n;

	if (strncmp(sealed, SEALED_MARK, mark))
		return 0;
	n = base64_decode(sealed + mark, strlen(sealed + mark), raw, size);
	return n > NONCE_BYTES + TAG_BYTES ? n : 0;
}

/* lock held */
static const struct key *find_key(const struct secrets *s, const char *key_id)
{
	for (size_t i = 0; i < s->n; i++)
		if (!strcmp(s->keys[i].id, key_id))
			return &s->keys[i];
	return NULL;
}

/* What another hub put into the file is found by reading it again. lock held. */
static int need_key(struct secrets *s, const char *key_id, const struct key **out, struct err *err)
{
	struct err why = ERR_INIT;

	*out = find_key(s, key_id);
	if (!*out && load(s, &why))
		return err_set(err, -ENOKEY, "the key %s is needed: %s", key_id, why.text);
	if (!*out)
		*out = find_key(s, key_id);
	if (!*out)
		return err_set(err, -ENOKEY,
			       "key file %s has no key %s: it is another hub's, or an old copy",
			       s->path, key_id);
	return 0;
}

int secrets_open(struct secrets *s, const char *context, const char *sealed, const char *key_id,
		 char *plain, size_t size, struct err *err)
{
	unsigned char raw[SECRETS_SEALED_SIZE], text[SECRETS_SEALED_SIZE];
	size_t n = unwrap(sealed, raw, sizeof(raw));
	size_t len = n ? n - NONCE_BYTES - TAG_BYTES : 0;
	const struct key *key;
	int rc = 0;

	pthread_mutex_lock(&s->lock);
	rc = need_key(s, key_id, &key, err);
	if (!rc && (!n || len >= size || !decrypt(key, context, raw, len, text)))
		rc = err_set(err, -EBADMSG,
			     "the stored secret is damaged, or not the one of this credential: "
			     "set it again");
	pthread_mutex_unlock(&s->lock);
	if (!rc) {
		memcpy(plain, text, len);
		plain[len] = '\0';
	}
	OPENSSL_cleanse(text, sizeof(text));
	return rc;
}
