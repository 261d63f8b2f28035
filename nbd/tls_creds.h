/*
 * What a listener needs to speak TLS: policy, certificate or pre-shared keys, and who may come.
 * Loaded and checked when the listener is made and when its settings change, constant from then on,
 * shared by all workers: a connection keeps those it came with.
 *
 * X.509 is the folder QEMU, nbdkit and libnbd use: server-cert.pem (chain, leaf first),
 * server-key.pem, ca-cert.pem, and optionally ca-crl.pem. PSK is the file psktool makes: one
 * USER:HEXKEY a line. TLS 1.2 with authenticated encryption and forward secrecy is the least that
 * is spoken; sessions are not resumed, so that every connection shows its credentials.
 */
#ifndef NBD_TLS_CREDS_H
#define NBD_TLS_CREDS_H

#include <openssl/ssl.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "base/err.h"
#include "base/log.h"
#include "nbd/server.h"

struct nbd_psk;

struct nbd_tls_creds {
	atomic_uint refs;
	enum nbd_tls_policy policy; /* ALLOW or REQUIRE */
	SSL_CTX *ctx;
	BIO_METHOD *bio; /* for the connections: tls.c */
	struct log_scope log;
	atomic_bool failure_said; /* a failed handshake is in the log, until one succeeds */

	char **allow; /* subjects and host names of clients; none: any the authority vouches for */
	size_t allow_count;

	struct nbd_psk *psk; /* in the file's order */
	size_t psk_count, psk_room;
	unsigned char decoy[32]; /* the key of users who do not exist */
};

/*
 * Loads what @config names. A file that is missing, unreadable, expired or does not fit the others
 * is refused in words; a key others may read is warned of in the log. *@out is NULL for policy OFF.
 * @name is that of the listener, for the log.
 */
int nbd_tls_creds_load(struct nbd_tls_creds **out, const struct nbd_tls_config *config,
		       const char *name, struct err *err);

/* Both accept NULL. Any thread. */
struct nbd_tls_creds *nbd_tls_creds_ref(struct nbd_tls_creds *creds);
void nbd_tls_creds_unref(struct nbd_tls_creds *creds);

#endif
