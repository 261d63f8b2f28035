/*
 * The TLS of a scripted client: the handshake on a connected socket, and a tunnel, so that all of
 * nbdpeer.h works through it.
 */
#ifndef TESTS_SUPPORT_TLSPEER_H
#define TESTS_SUPPORT_TLSPEER_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>

struct tlspeer_wish {
	const char *cert, *key; /* shown to the server; NULL: none */
	const char *ca;		/* the server must be of its; NULL: whoever it is */
	const char *user;	/* pre-shared key; NULL: certificates */
	const char *psk;	/* in hexadecimal */
	int version;		/* TLS1_2_VERSION, ...: no other; 0: any */
	const char *ciphers;	/* of TLS 1.2; NULL: the library's */
};

/* The client's half of the handshake on @fd; NULL: it failed. TLS 1.3 clients learn of a failure on
 * the server's side when they read next. Ends with SSL_free(); @fd stays the caller's. */
SSL *tlspeer_connect(int fd, const struct tlspeer_wish *wish);

/*
 * A socket whose bytes go through @ssl and its socket in both directions; takes both over. Closing
 * it says goodbye in TLS and closes the other; when the server ends, so does it.
 * @record: bytes of plaintext in a record at most; @dribble: ciphertext goes out byte by byte.
 */
int tlspeer_tunnel(SSL *ssl, size_t record, bool dribble);

#endif
