/*
 * TLS as a transform between the socket and everybody else ("TLS support" in the specification).
 *
 * What a connection with TLS receives is ciphertext: it waits in `raw`, a staging buffer or the
 * connection's own, and nbd_tls_refill() decrypts it, a record at a time, into conn->inbuf,
 * whenever the pump has used up what was there. What it sends is what a connection without TLS
 * would send, encrypted into `out` by nbd_tls_seal() as far as it fits; more is encrypted when that
 * is sent. OpenSSL sees neither socket nor ring: it reads from `raw` and writes to `out` through a
 * BIO of our own, which unlike OpenSSL's memory BIO neither allocates nor copies once more.
 *
 * Memory of such a connection, beside that of any: 84 KiB here, touched as used, and OpenSSL's
 * state with two record buffers, about 55 KiB. During the handshake OpenSSL also holds the client's
 * hello (128 KiB at most) and chain of certificates (32 KiB at most). The handshake is part of the
 * negotiation, and so of its deadline.
 *
 * Belongs to its connection, and with it to one worker at a time.
 */
#ifndef NBD_TLS_H
#define NBD_TLS_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct nbd_conn;

#define NBD_TLS_RECORD	 16384U /* plaintext in one record, at most */
#define NBD_TLS_OVERHEAD 256U	/* of one record, at most; and of what TLS has to say between */
#define NBD_TLS_OUT	 (4 * (NBD_TLS_RECORD + NBD_TLS_OVERHEAD))
#define NBD_TLS_HOME	 16384U

struct nbd_tls {
	SSL *ssl;
	bool open;  /* the handshake is done */
	bool ended; /* failed, or said goodbye: nothing more to encrypt */

	/* received, not yet given to OpenSSL */
	const unsigned char *raw;
	uint32_t raw_len;
	uint32_t partial; /* given to OpenSSL since the last record came out, at most */

	/* to be sent: [out_head, out_len) */
	uint32_t out_head, out_len;
	uint32_t sealed; /* plaintext bytes in there */

	unsigned char home[NBD_TLS_HOME]; /* where ciphertext lies that has no staging buffer */
	unsigned char out[NBD_TLS_OUT];
};

/* Makes @conn speak TLS from now on, as its listener says; nothing may be received or to be sent.
 * 0 or -ENOMEM. */
int nbd_tls_start(struct nbd_conn *conn);
void nbd_tls_free(struct nbd_tls *tls); /* accepts NULL */

/* Decrypts the next record for the pump; false: there is none, or the pump has to stop. Goes on
 * with the handshake before. */
bool nbd_tls_refill(struct nbd_conn *conn);

/* Encrypts what @iov holds as far as there is room; nothing else may be waiting to be sent. False:
 * it cannot, the connection must end. */
bool nbd_tls_seal(struct nbd_tls *tls, const struct iovec *iov, unsigned count);

/* What is to be sent, as one piece; 0: nothing. */
unsigned nbd_tls_unsent(const struct nbd_tls *tls, struct iovec *iov);

/* @n bytes are sent. Returns how many bytes of plaintext have thereby gone out; 0: some of the
 * ciphertext is left. */
uint32_t nbd_tls_sent(struct nbd_tls *tls, uint32_t n);

/* The plaintext of what is still to be sent is not needed any more: how many bytes it was. */
uint32_t nbd_tls_commit(struct nbd_tls *tls);

/* Says goodbye (close_notify) unless that is done; true when it has to be sent. */
bool nbd_tls_end(struct nbd_tls *tls);

/* For the credentials: what OpenSSL reads and writes through. NULL: no memory. */
BIO_METHOD *nbd_tls_bio_new(void);

#endif
