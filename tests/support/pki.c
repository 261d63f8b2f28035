#include "tests/support/pki.h"

#include <fcntl.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#define HOUR 3600L

static void add_name(X509_NAME *name, const char *field, const char *value)
{
	if (value)
		assert_int_equal(X509_NAME_add_entry_by_txt(name, field, MBSTRING_ASC,
							    (const unsigned char *)value, -1, -1,
							    0),
				 1);
}

static void add_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
	X509_EXTENSION *ext;
	X509V3_CTX ctx;

	X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
	ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	assert_non_null(ext);
	assert_int_equal(X509_add_ext(cert, ext, -1), 1);
	X509_EXTENSION_free(ext);
}

/* Everything but issuer and signature. */
static void begin(struct pki *p, const struct pki_wish *wish)
{
	static long serial = 1000;
	X509_NAME *name;

	p->key = EVP_EC_gen("P-256");
	p->cert = X509_new();
	assert_true(p->key && p->cert);
	X509_set_version(p->cert, X509_VERSION_3);
	ASN1_INTEGER_set(X509_get_serialNumber(p->cert), ++serial);
	X509_gmtime_adj(X509_getm_notBefore(p->cert), wish->from_s ? wish->from_s : -HOUR);
	X509_gmtime_adj(X509_getm_notAfter(p->cert), wish->until_s ? wish->until_s : 24 * HOUR);
	X509_set_pubkey(p->cert, p->key);
	name = X509_get_subject_name(p->cert);
	add_name(name, "O", wish->o);
	add_name(name, "CN", wish->cn);
}

static void sign(struct pki *p, const struct pki *ca)
{
	X509_set_issuer_name(p->cert, X509_get_subject_name(ca->cert));
	add_extension(p->cert, ca->cert, NID_subject_key_identifier, "hash");
	assert_true(X509_sign(p->cert, ca->key, EVP_sha256()) > 0);
}

void pki_authority(struct pki *ca, const char *cn)
{
	begin(ca, &(struct pki_wish){.cn = cn});
	add_extension(ca->cert, ca->cert, NID_basic_constraints, "critical,CA:TRUE");
	add_extension(ca->cert, ca->cert, NID_key_usage, "critical,keyCertSign,cRLSign");
	sign(ca, ca);
}

void pki_issue(struct pki *out, const struct pki *ca, const struct pki_wish *wish)
{
	char dns[300];

	begin(out, wish);
	add_extension(out->cert, ca->cert, NID_basic_constraints, "critical,CA:FALSE");
	if (wish->usage)
		add_extension(out->cert, ca->cert, NID_ext_key_usage, wish->usage);
	if (wish->dns) {
		snprintf(dns, sizeof(dns), "DNS:%s", wish->dns);
		add_extension(out->cert, ca->cert, NID_subject_alt_name, dns);
	}
	sign(out, ca);
}

void pki_free(struct pki *p)
{
	X509_free(p->cert);
	EVP_PKEY_free(p->key);
}

static FILE *create(const char *folder, const char *name, const char *suffix, mode_t mode)
{
	char path[512];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s%s", folder, name, suffix);
	f = fopen(path, "w");
	assert_non_null(f);
	assert_int_equal(fchmod(fileno(f), mode), 0);
	return f;
}

void pki_write(const struct pki *p, const char *folder, const char *name)
{
	FILE *f;

	mkdir(folder, 0700);
	f = create(folder, name, "-cert.pem", 0644);
	assert_int_equal(PEM_write_X509(f, p->cert), 1);
	assert_int_equal(fclose(f), 0);
	f = create(folder, name, "-key.pem", 0600);
	assert_int_equal(PEM_write_PrivateKey(f, p->key, NULL, NULL, 0, NULL, NULL), 1);
	assert_int_equal(fclose(f), 0);
}

static void add_revoked(X509_CRL *crl, const struct pki *p)
{
	X509_REVOKED *entry = X509_REVOKED_new();
	ASN1_TIME *when = X509_gmtime_adj(NULL, -60);

	assert_true(entry && when);
	X509_REVOKED_set_serialNumber(entry, X509_get_serialNumber(p->cert));
	X509_REVOKED_set_revocationDate(entry, when);
	ASN1_TIME_free(when);
	assert_int_equal(X509_CRL_add0_revoked(crl, entry), 1);
}

void pki_write_crl(const struct pki *ca, const struct pki *revoked, long until_s, const char *path)
{
	ASN1_TIME *since = X509_gmtime_adj(NULL, -2 * HOUR),
		  *until = X509_gmtime_adj(NULL, until_s);
	X509_CRL *crl = X509_CRL_new();
	FILE *f = fopen(path, "w");

	assert_true(crl && f && since && until);
	X509_CRL_set_version(crl, X509_CRL_VERSION_2);
	X509_CRL_set_issuer_name(crl, X509_get_subject_name(ca->cert));
	X509_CRL_set1_lastUpdate(crl, since);
	X509_CRL_set1_nextUpdate(crl, until);
	if (revoked)
		add_revoked(crl, revoked);
	assert_true(X509_CRL_sign(crl, ca->key, EVP_sha256()) > 0);
	assert_int_equal(PEM_write_X509_CRL(f, crl), 1);
	assert_int_equal(fclose(f), 0);
	ASN1_TIME_free(since);
	ASN1_TIME_free(until);
	X509_CRL_free(crl);
}
