#include "nbd/tls_creds.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "nbd/tls.h"

/* Server's choice, the fastest first. In TLS 1.2 nothing without authenticated encryption and
 * forward secrecy. */
#define SUITES_TLS13 "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
#define SUITES_X509  "ECDHE+AESGCM:ECDHE+CHACHA20"
#define SUITES_PSK   "ECDHE-PSK-CHACHA20-POLY1305:DHE-PSK-AES128-GCM-SHA256:DHE-PSK-AES256-GCM-SHA384"

#define CLIENT_CHAIN_MAX 32768 /* bytes of certificates a client may show */

#define PSK_FILE_MAX (1U << 20)
#define PSK_USER_MAX 128U
#define PSK_KEY_MIN  16U /* bytes: 128 bits */
#define PSK_KEY_MAX  64U

struct nbd_psk {
	char user[PSK_USER_MAX + 1];
	unsigned char key[PSK_KEY_MAX];
	unsigned key_len;
};

DEFINE_CLEANUP(struct nbd_tls_creds *, nbd_tls_creds_unref)
DEFINE_CLEANUP(X509_STORE_CTX *, X509_STORE_CTX_free)
DEFINE_CLEANUP(BIO *, BIO_free_all)

/* --- errors ----------------------------------------------------------------------------------- */

/* As err_set(), and appends what OpenSSL says about it. */
static int err_tls(struct err *err, const char *what, const char *path)
{
	unsigned long e = ERR_peek_last_error();
	const char *reason =
		ERR_SYSTEM_ERROR(e) ? strerror(ERR_GET_REASON(e)) : ERR_reason_error_string(e);

	ERR_clear_error();
	return err_set(err, -EINVAL, "TLS: %s '%s': %s", what, path,
		       reason ? reason : "not understood");
}

static int err_memory(struct err *err)
{
	ERR_clear_error();
	return err_set(err, -ENOMEM, "TLS: no memory for the credentials");
}

/* --- files ------------------------------------------------------------------------------------ */

/* Opens a file that must be readable. @secret: says so when others can read it, too. */
static int creds_open(const struct nbd_tls_creds *creds, const char *path, bool secret,
		      struct err *err)
{
	_cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	struct stat st;

	if (fd < 0 || fstat(fd, &st))
		return err_sys(err, -errno, "TLS: cannot read '%s'", path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "TLS: '%s' is not a file", path);
	if (secret && (st.st_mode & 077))
		log_warn(&creds->log,
			 "'%s' is a secret, but its mode %03o lets others at it: "
			 "chmod 600 it",
			 path, st.st_mode & 0777);
	return steal_fd(&fd);
}

static int creds_probe(const struct nbd_tls_creds *creds, const char *path, bool secret,
		       struct err *err)
{
	int fd = creds_open(creds, path, secret, err);

	if (fd < 0)
		return fd;
	close(fd);
	return 0;
}

static char *path_in(const char *folder, const char *name)
{
	char *path;

	return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

/* --- certificates ----------------------------------------------------------------------------- */

static int check_dates(X509 *cert, const char *path, struct err *err)
{
	const ASN1_TIME *from = X509_get0_notBefore(cert), *until = X509_get0_notAfter(cert);
	char date[32] = "?";
	struct tm tm;

	if (X509_cmp_current_time(until) < 0) {
		if (ASN1_TIME_to_tm(until, &tm))
			strftime(date, sizeof(date), "%F", &tm);
		return err_set(err, -EKEYEXPIRED,
			       "TLS: the certificate in '%s' expired on %s: renew it", path, date);
	}
	if (X509_cmp_current_time(from) > 0) {
		if (ASN1_TIME_to_tm(from, &tm))
			strftime(date, sizeof(date), "%F", &tm);
		return err_set(err, -EKEYREJECTED,
			       "TLS: the certificate in '%s' is valid from %s on: check the clock",
			       path, date);
	}
	return 0;
}

/* There is nobody to type it. */
static int no_passphrase(char *buf, int size, int writing, void *arg)
{
	(void)buf;
	(void)size;
	(void)writing;
	*(bool *)arg = true;
	return -1;
}

static int load_key(struct nbd_tls_creds *creds, const char *path, struct err *err)
{
	bool asked = false;
	int r = creds_probe(creds, path, true, err);

	if (r)
		return r;
	SSL_CTX_set_default_passwd_cb(creds->ctx, no_passphrase);
	SSL_CTX_set_default_passwd_cb_userdata(creds->ctx, &asked);
	r = SSL_CTX_use_PrivateKey_file(creds->ctx, path, SSL_FILETYPE_PEM);
	SSL_CTX_set_default_passwd_cb_userdata(creds->ctx, NULL);
	SSL_CTX_set_default_passwd_cb(creds->ctx, NULL);
	if (r == 1 && SSL_CTX_check_private_key(creds->ctx) == 1)
		return 0;
	if (!asked)
		return err_tls(err,
			       "the key does not belong to server-cert.pem, or is none:", path);
	ERR_clear_error();
	return err_set(err, -EINVAL, "TLS: '%s' is encrypted: store it without a pass phrase",
		       path);
}

static int load_own(struct nbd_tls_creds *creds, const char *folder, struct err *err)
{
	_cleanup_(freep) char *cert = path_in(folder, "server-cert.pem");
	_cleanup_(freep) char *key = path_in(folder, "server-key.pem");
	STACK_OF(X509) *chain = NULL;
	int r, i;

	if (!cert || !key)
		return err_memory(err);
	r = creds_probe(creds, cert, false, err);
	if (r)
		return r;
	if (SSL_CTX_use_certificate_chain_file(creds->ctx, cert) != 1)
		return err_tls(err, "cannot use the certificate", cert);
	r = load_key(creds, key, err);
	if (r)
		return r;
	r = check_dates(SSL_CTX_get0_certificate(creds->ctx), cert, err);
	SSL_CTX_get0_chain_certs(creds->ctx, &chain);
	for (i = 0; !r && i < sk_X509_num(chain); i++)
		r = check_dates(sk_X509_value(chain, i), cert, err);
	return r;
}

/* The lists of the revoked. With them, a certificate whose authority has no list is refused. */
static int load_revoked(struct nbd_tls_creds *creds, const char *folder, struct err *err)
{
	_cleanup_(freep) char *path = path_in(folder, "ca-crl.pem");
	X509_STORE *store = SSL_CTX_get_cert_store(creds->ctx);
	X509_LOOKUP *lookup = X509_STORE_add_lookup(store, X509_LOOKUP_file());
	int r;

	if (!path || !lookup)
		return err_memory(err);
	if (access(path, F_OK) && errno == ENOENT)
		return 0;
	r = creds_probe(creds, path, false, err);
	if (r)
		return r;
	if (X509_load_crl_file(lookup, path, X509_FILETYPE_PEM) < 1)
		return err_tls(err, "cannot use the revocation list", path);
	X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
	return 0;
}

/* Clients will check our certificate against the same authority: better we find the fault now. */
static int check_own(struct nbd_tls_creds *creds, const char *folder, struct err *err)
{
	_cleanup_(X509_STORE_CTX_freep) X509_STORE_CTX *sc = X509_STORE_CTX_new();
	STACK_OF(X509) *chain = NULL;

	SSL_CTX_get0_chain_certs(creds->ctx, &chain);
	if (!sc || !X509_STORE_CTX_init(sc, SSL_CTX_get_cert_store(creds->ctx),
					SSL_CTX_get0_certificate(creds->ctx), chain))
		return err_memory(err);
	X509_STORE_CTX_set_default(sc, "ssl_server");
	if (X509_verify_cert(sc) == 1)
		return 0;
	return err_set(err, -EKEYREJECTED,
		       "TLS: clients who trust '%s/ca-cert.pem' will not accept server-cert.pem "
		       "beside it: %s",
		       folder, X509_verify_cert_error_string(X509_STORE_CTX_get_error(sc)));
}

static int load_authority(struct nbd_tls_creds *creds, const struct nbd_tls_config *config,
			  struct err *err)
{
	_cleanup_(freep) char *path = path_in(config->certificates, "ca-cert.pem");
	int r;

	if (!path)
		return err_memory(err);
	if (!config->verify_peer && access(path, F_OK) && errno == ENOENT)
		return 0;
	r = creds_probe(creds, path, false, err);
	if (r)
		return r;
	if (SSL_CTX_load_verify_locations(creds->ctx, path, NULL) != 1)
		return err_tls(err, "cannot use the authority's certificate", path);
	r = load_revoked(creds, config->certificates, err);
	if (!r)
		r = check_own(creds, config->certificates, err);
	if (r || !config->verify_peer)
		return r;
	SSL_CTX_set_client_CA_list(creds->ctx, SSL_load_client_CA_file(path));
	return 0;
}

/* --- clients ---------------------------------------------------------------------------------- */

static bool subject_is(X509 *cert, const char *wanted)
{
	_cleanup_(BIO_free_allp) BIO *bio = BIO_new(BIO_s_mem());
	size_t len = strlen(wanted);
	char *text;
	long n;

	if (!bio || X509_NAME_print_ex(bio, X509_get_subject_name(cert), 0, XN_FLAG_RFC2253) < 0)
		return false;
	n = BIO_get_mem_data(bio, &text);
	return n >= 0 && (size_t)n == len && !memcmp(text, wanted, len);
}

static bool client_allowed(const struct nbd_tls_creds *creds, X509 *cert)
{
	size_t i;

	for (i = 0; i < creds->allow_count; i++) {
		const char *name = creds->allow[i];

		if (strchr(name, '=') ? subject_is(cert, name)
				      : X509_check_host(cert, name, 0, X509_CHECK_FLAG_NO_WILDCARDS,
							NULL) == 1)
			return true;
	}
	return !creds->allow_count;
}

/* Once for every certificate of the client's chain; the client's own is at depth 0. */
static int verify_client(int ok, X509_STORE_CTX *sc)
{
	const SSL *ssl = X509_STORE_CTX_get_ex_data(sc, SSL_get_ex_data_X509_STORE_CTX_idx());
	const struct nbd_tls_creds *creds = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));

	if (!ok || X509_STORE_CTX_get_error_depth(sc) ||
	    client_allowed(creds, X509_STORE_CTX_get_current_cert(sc)))
		return ok;
	X509_STORE_CTX_set_error(sc, X509_V_ERR_APPLICATION_VERIFICATION);
	return 0;
}

static int take_allowed(struct nbd_tls_creds *creds, const struct nbd_tls_config *config,
			struct err *err)
{
	size_t i;

	if (config->allow_count && !config->verify_peer)
		return err_set(err, -EINVAL,
			       "TLS: allowed clients are told by their certificates: ask for these "
			       "(verify peer)");
	creds->allow = calloc(config->allow_count + 1, sizeof(*creds->allow));
	if (!creds->allow)
		return err_memory(err);
	for (i = 0; i < config->allow_count; i++) {
		if (!*config->allow[i])
			return err_set(err, -EINVAL, "TLS: the name of an allowed client is empty");
		creds->allow[i] = strdup(config->allow[i]);
		if (!creds->allow[i])
			return err_memory(err);
		creds->allow_count++;
	}
	return 0;
}

static int load_x509(struct nbd_tls_creds *creds, const struct nbd_tls_config *config,
		     struct err *err)
{
	int r;

	if (SSL_CTX_set_cipher_list(creds->ctx, SUITES_X509) != 1)
		return err_memory(err);
	r = load_own(creds, config->certificates, err);
	if (!r)
		r = load_authority(creds, config, err);
	if (!r)
		r = take_allowed(creds, config, err);
	if (!r && config->verify_peer)
		SSL_CTX_set_verify(creds->ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT,
				   verify_client);
	return r;
}

/* --- pre-shared keys -------------------------------------------------------------------------- */

static const struct nbd_psk *psk_find(const struct nbd_tls_creds *creds, const char *user)
{
	size_t i;

	for (i = 0; i < creds->psk_count; i++)
		if (!strcmp(creds->psk[i].user, user))
			return &creds->psk[i];
	return NULL;
}

/* An unknown user fails exactly as one with a wrong key does: who exists is nobody's business. */
static unsigned psk_serve(SSL *ssl, const char *user, unsigned char *key, unsigned max)
{
	const struct nbd_tls_creds *creds = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
	const struct nbd_psk *psk = psk_find(creds, user);
	unsigned len = psk ? psk->key_len : sizeof(creds->decoy);

	if (len > max)
		return 0;
	memcpy(key, psk ? psk->key : creds->decoy, len);
	return len;
}

static int hex_digit(char c)
{
	return isdigit((unsigned char)c)	    ? c - '0'
	       : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
						    : -1;
}

/* False: not a key of a length that is accepted. */
static bool psk_key(struct nbd_psk *psk, const char *hex)
{
	size_t n = strlen(hex), i;

	if (n % 2 || n < PSK_KEY_MIN * 2 || n > PSK_KEY_MAX * 2)
		return false;
	for (i = 0; i < n; i += 2) {
		int high = hex_digit(hex[i]), low = hex_digit(hex[i + 1]);

		if (high < 0 || low < 0)
			return false;
		psk->key[i / 2] = high << 4 | low;
	}
	psk->key_len = n / 2;
	return true;
}

/* One line without its end, to be cut up. Errors tell its number, never what is in it. */
static int psk_line(struct nbd_tls_creds *creds, char *line, const char *path, unsigned number,
		    struct err *err)
{
	struct nbd_psk *psk = &creds->psk[creds->psk_count];
	char *colon = strchr(line, ':');

	if (!*line || *line == '#')
		return 0;
	if (!colon || colon == line || colon - line > PSK_USER_MAX)
		return err_set(err, -EINVAL,
			       "TLS: '%s' line %u: USER:HEXKEY is expected, as psktool writes it",
			       path, number);
	*colon = '\0';
	if (!psk_key(psk, colon + 1))
		return err_set(err, -EINVAL,
			       "TLS: '%s' line %u: the key must be %u to %u bytes in hexadecimal",
			       path, number, PSK_KEY_MIN, PSK_KEY_MAX);
	if (psk_find(creds, line))
		return err_set(err, -EINVAL, "TLS: '%s' line %u: this user is there already", path,
			       number);
	strcpy(psk->user, line);
	creds->psk_count++;
	return 0;
}

static unsigned count_lines(const char *text)
{
	unsigned n = 1;

	for (; *text; text++)
		n += *text == '\n';
	return n;
}

static int psk_parse(struct nbd_tls_creds *creds, char *text, const char *path, struct err *err)
{
	unsigned number = 0;
	char *line;
	int r = 0;

	creds->psk_room = count_lines(text);
	creds->psk = calloc(creds->psk_room, sizeof(*creds->psk));
	if (!creds->psk)
		return err_memory(err);
	while (!r && (line = strsep(&text, "\n"))) {
		line[strcspn(line, "\r")] = '\0';
		r = psk_line(creds, line, path, ++number, err);
	}
	if (!r && !creds->psk_count)
		return err_set(err, -EINVAL, "TLS: '%s' has no key in it", path);
	return r;
}

static ssize_t read_whole(int fd, char *text, size_t max)
{
	size_t got = 0;
	ssize_t n;

	while (got < max && (n = read(fd, text + got, max - got)) > 0)
		got += n;
	text[got] = '\0';
	return n < 0 ? -errno : (ssize_t)got;
}

static int psk_load(struct nbd_tls_creds *creds, const char *path, struct err *err)
{
	_cleanup_(closep) int fd = creds_open(creds, path, true, err);
	char *text;
	ssize_t n;
	int r;

	if (fd < 0)
		return fd;
	text = malloc(PSK_FILE_MAX + 1);
	if (!text)
		return err_memory(err);
	n = read_whole(fd, text, PSK_FILE_MAX);
	if (n < 0)
		r = err_sys(err, n, "TLS: cannot read '%s'", path);
	else if (n == PSK_FILE_MAX || strlen(text) != (size_t)n)
		r = err_set(err, -EINVAL, "TLS: '%s' is not a file of keys", path);
	else
		r = psk_parse(creds, text, path, err);
	OPENSSL_cleanse(text, PSK_FILE_MAX);
	free(text);
	return r;
}

static int load_psk(struct nbd_tls_creds *creds, const struct nbd_tls_config *config,
		    struct err *err)
{
	int r;

	if (config->verify_peer || config->allow_count)
		return err_set(err, -EINVAL,
			       "TLS: pre-shared keys prove who the client is: there is no "
			       "certificate to verify");
	r = psk_load(creds, config->psk, err);
	if (r)
		return r;
	if (RAND_bytes(creds->decoy, sizeof(creds->decoy)) != 1 ||
	    SSL_CTX_set_cipher_list(creds->ctx, SUITES_PSK) != 1)
		return err_memory(err);
	SSL_CTX_set_dh_auto(creds->ctx, 1);
	SSL_CTX_set_psk_server_callback(creds->ctx, psk_serve);
	return 0;
}

/* --- both ------------------------------------------------------------------------------------- */

bool nbd_tls_parse_policy(const char *text, enum nbd_tls_policy *policy)
{
	static const char *const names[] = {
		[NBD_TLS_OFF] = "off",
		[NBD_TLS_ALLOW] = "allow",
		[NBD_TLS_REQUIRE] = "require",
	};
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(text, names[i])) {
			*policy = i;
			return true;
		}
	return false;
}

static int context_new(struct nbd_tls_creds *creds, struct err *err)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());

	creds->ctx = ctx;
	creds->bio = nbd_tls_bio_new();
	if (!ctx || !creds->bio || SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) != 1 ||
	    SSL_CTX_set_ciphersuites(ctx, SUITES_TLS13) != 1 ||
	    SSL_CTX_set_num_tickets(ctx, 0) != 1)
		return err_memory(err);
	SSL_CTX_set_app_data(ctx, creds);
	SSL_CTX_set_options(ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET |
					 SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_max_cert_list(ctx, CLIENT_CHAIN_MAX);
	SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	return 0;
}

static int creds_load(struct nbd_tls_creds *creds, const struct nbd_tls_config *config,
		      struct err *err)
{
	int r;

	if (!config->certificates == !config->psk)
		return err_set(err, -EINVAL,
			       "TLS: either a folder of certificates or a file of pre-shared keys "
			       "is needed");
	r = context_new(creds, err);
	if (r)
		return r;
	return config->psk ? load_psk(creds, config, err) : load_x509(creds, config, err);
}

int nbd_tls_creds_load(struct nbd_tls_creds **out, const struct nbd_tls_config *config,
		       const char *name, struct err *err)
{
	_cleanup_(nbd_tls_creds_unrefp) struct nbd_tls_creds *creds = NULL;
	int r;

	*out = NULL;
	if (config->policy == NBD_TLS_OFF)
		return 0;
	creds = calloc(1, sizeof(*creds));
	if (!creds)
		return err_memory(err);
	atomic_store(&creds->refs, 1);
	creds->policy = config->policy;
	log_scope_init(&creds->log, "nbd tls %s", name);
	r = creds_load(creds, config, err);
	if (r)
		return r;
	*out = steal(&creds);
	return 0;
}

struct nbd_tls_creds *nbd_tls_creds_ref(struct nbd_tls_creds *creds)
{
	if (creds)
		atomic_fetch_add(&creds->refs, 1);
	return creds;
}

void nbd_tls_creds_unref(struct nbd_tls_creds *creds)
{
	size_t i;

	if (!creds || atomic_fetch_sub(&creds->refs, 1) > 1)
		return;
	SSL_CTX_free(creds->ctx);
	BIO_meth_free(creds->bio);
	for (i = 0; i < creds->allow_count; i++)
		free(creds->allow[i]);
	free(creds->allow);
	if (creds->psk)
		OPENSSL_cleanse(creds->psk, creds->psk_room * sizeof(*creds->psk));
	free(creds->psk);
	OPENSSL_cleanse(creds->decoy, sizeof(creds->decoy));
	free(creds);
}
