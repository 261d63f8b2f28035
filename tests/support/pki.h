/*
 * Certificates for one test: an authority, whom it vouches for, whom it has revoked; written as the
 * files a server or a client reads. Fails the test on trouble.
 */
#ifndef TESTS_SUPPORT_PKI_H
#define TESTS_SUPPORT_PKI_H

#include <openssl/x509.h>

struct pki {
	X509 *cert;
	EVP_PKEY *key;
};

struct pki_wish {
	const char *cn;
	const char *o;	      /* NULL: none */
	const char *dns;      /* subject alternative name; NULL: none */
	const char *usage;    /* "serverAuth", "clientAuth"; NULL: anything */
	long from_s, until_s; /* relative to now; 0: an hour ago, in a day */
};

/* An authority with a certificate of its own making. */
void pki_authority(struct pki *ca, const char *cn);
void pki_issue(struct pki *out, const struct pki *ca, const struct pki_wish *wish);
void pki_free(struct pki *p);

/* FOLDER/NAME-cert.pem and FOLDER/NAME-key.pem (mode 0600); makes the folder. */
void pki_write(const struct pki *p, const char *folder, const char *name);

/* PATH: the authority's list with @revoked (may be NULL) in it, good until now + @until_s. */
void pki_write_crl(const struct pki *ca, const struct pki *revoked, long until_s, const char *path);

#endif
