#include "nbd/tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "nbd/conn.h"
#include "nbd/listener.h"
#include "nbd/tls_creds.h"
#include "nbd/turns.h"

_Static_assert(NBD_INBUF >= NBD_TLS_RECORD, "a record fits the buffer it is decrypted into");
_Static_assert(NBD_INBUF == NBD_TLS_HOME, "a receive fits either buffer");

/* --- what OpenSSL reads and writes --------------------------------------------------------------
 */

static int bio_read(BIO *bio, char *p, size_t len, size_t *done)
{
	struct nbd_tls *tls = BIO_get_data(bio);
	uint32_t n = MIN(len, tls->raw_len);

	BIO_clear_retry_flags(bio);
	*done = n;
	if (!n) {
		BIO_set_retry_read(bio);
		return 0;
	}
	memcpy(p, tls->raw, n);
	tls->raw += n;
	tls->raw_len -= n;
	tls->partial += n;
	return 1;
}

static int bio_write(BIO *bio, const char *p, size_t len, size_t *done)
{
	struct nbd_tls *tls = BIO_get_data(bio);
	uint32_t n = MIN(len, NBD_TLS_OUT - tls->out_len);

	BIO_clear_retry_flags(bio);
	*done = n;
	if (!n) {
		BIO_set_retry_write(bio);
		return 0;
	}
	memcpy(tls->out + tls->out_len, p, n);
	tls->out_len += n;
	return 1;
}

/* "Flushed" is all it has to know: the pump sends. */
static long bio_ctrl(BIO *bio, int cmd, long num, void *ptr)
{
	(void)bio;
	(void)num;
	(void)ptr;
	return cmd == BIO_CTRL_FLUSH;
}

BIO_METHOD *nbd_tls_bio_new(void)
{
	BIO_METHOD *method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "nbd");

	if (method && BIO_meth_set_read_ex(method, bio_read) &&
	    BIO_meth_set_write_ex(method, bio_write) && BIO_meth_set_ctrl(method, bio_ctrl))
		return method;
	BIO_meth_free(method);
	return NULL;
}

/* --- begin and end ------------------------------------------------------------------------------
 */

DEFINE_CLEANUP(struct nbd_tls *, nbd_tls_free)

int nbd_tls_start(struct nbd_conn *conn)
{
	const struct nbd_tls_creds *creds = conn->creds;
	_cleanup_(nbd_tls_freep) struct nbd_tls *tls = malloc(sizeof(*tls));
	BIO *bio;

	if (!tls)
		return -ENOMEM;
	/* The buffers stay untouched until they are used. */
	memset(tls, 0, offsetof(struct nbd_tls, home));
	ERR_clear_error();
	tls->ssl = SSL_new(creds->ctx);
	bio = tls->ssl ? BIO_new(creds->bio) : NULL;
	if (!bio)
		return -ENOMEM;
	BIO_set_data(bio, tls);
	BIO_set_init(bio, 1);
	SSL_set_bio(tls->ssl, bio, bio);
	SSL_set_accept_state(tls->ssl);
	conn->tls = steal(&tls);
	return 0;
}

void nbd_tls_free(struct nbd_tls *tls)
{
	if (!tls)
		return;
	SSL_free(tls->ssl);
	free(tls);
}

bool nbd_tls_end(struct nbd_tls *tls)
{
	if (tls->ended || !tls->open)
		return false;
	tls->ended = true;
	ERR_clear_error();
	SSL_shutdown(tls->ssl);
	return tls->out_len > 0;
}

/* --- receiving ----------------------------------------------------------------------------------
 */

static const char *failure_reason(const struct nbd_tls *tls)
{
	long verified = SSL_get_verify_result(tls->ssl);
	const char *reason = ERR_reason_error_string(ERR_peek_error());

	if (verified == X509_V_ERR_APPLICATION_VERIFICATION)
		return "the client is not among those allowed";
	if (verified != X509_V_OK)
		return X509_verify_cert_error_string(verified);
	return reason ? reason : "what came is no TLS";
}

/* What can be said in TLS about the failure (an alert) goes out before the connection ends. Said
 * once until a handshake succeeds: anybody can fail at will. */
static void tls_fail(struct nbd_conn *conn)
{
	struct nbd_tls_creds *creds = conn->creds;
	struct nbd_tls *tls = conn->tls;
	bool quiet = !tls->open && atomic_exchange(&creds->failure_said, true);

	log_line(quiet ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARN, &conn->log, "TLS failed: %s; closed",
		 failure_reason(tls));
	ERR_clear_error();
	tls->ended = true;
	nbd_conn_finish(conn);
}

/* Why OpenSSL did not do what it was asked to: always false, for the caller to return. */
static bool tls_stuck(struct nbd_conn *conn, int result)
{
	switch (SSL_get_error(conn->tls->ssl, result)) {
	case SSL_ERROR_WANT_READ:
		return false;
	case SSL_ERROR_WANT_WRITE:
		return nbd_conn_block(conn, NBD_BLOCK_TLS);
	case SSL_ERROR_ZERO_RETURN:
		nbd_conn_finish(conn);
		return false;
	default:
		tls_fail(conn);
		return false;
	}
}

static int64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static bool tls_handshake(struct nbd_conn *conn)
{
	struct nbd_tls *tls = conn->tls;
	int64_t began_ns;
	int r;

	/* Without more of the client's it has merely waited for what it says to be sent. */
	if (tls->raw_len && !nbd_turn_take(conn))
		return false;
	began_ns = cpu_ns();
	r = SSL_do_handshake(tls->ssl);
	nbd_turn_cost(conn->worker, cpu_ns() - began_ns);
	if (r != 1)
		return tls_stuck(conn, r);
	tls->open = true;
	tls->partial = 0;
	atomic_store(&conn->creds->failure_said, false);
	log_debug(&conn->log, "%s with %s", SSL_get_version(tls->ssl),
		  SSL_get_cipher_name(tls->ssl));
	return true;
}

bool nbd_tls_refill(struct nbd_conn *conn)
{
	struct nbd_tls *tls = conn->tls;
	size_t n;
	int r;

	if (conn->dead || conn->closing || conn->block || conn->move_to || conn->in_len)
		return false;
	ERR_clear_error();
	if (!tls->open && !tls_handshake(conn))
		return false;
	if (!tls->raw_len)
		return false;
	r = SSL_read_ex(tls->ssl, conn->inbuf, NBD_INBUF, &n);
	if (r != 1)
		return tls_stuck(conn, r);
	tls->partial = 0;
	conn->in = conn->inbuf;
	conn->in_len = n;
	return true;
}

/* --- sending ------------------------------------------------------------------------------------
 */

static uint32_t out_room(const struct nbd_tls *tls)
{
	return NBD_TLS_OUT - tls->out_len;
}

/* One record. There is room for it and for what TLS may have to say in front of it. */
static bool seal_record(struct nbd_tls *tls, const void *p, uint32_t len)
{
	size_t n;

	if (SSL_write_ex(tls->ssl, p, len, &n) != 1 || n != len)
		return false;
	tls->sealed += len;
	return true;
}

bool nbd_tls_seal(struct nbd_tls *tls, const struct iovec *iov, unsigned count)
{
	unsigned i;

	if (count && (tls->ended || !tls->open))
		return false;
	ERR_clear_error();
	for (i = 0; i < count; i++) {
		const unsigned char *p = iov[i].iov_base, *end = p + iov[i].iov_len;

		while (p < end) {
			uint32_t len = MIN((size_t)(end - p), NBD_TLS_RECORD);

			if (out_room(tls) < len + 2 * NBD_TLS_OVERHEAD)
				return true;
			if (!seal_record(tls, p, len))
				return false;
			p += len;
		}
	}
	return true;
}

unsigned nbd_tls_unsent(const struct nbd_tls *tls, struct iovec *iov)
{
	*iov = (struct iovec){(void *)(tls->out + tls->out_head), tls->out_len - tls->out_head};
	return iov->iov_len ? 1 : 0;
}

uint32_t nbd_tls_commit(struct nbd_tls *tls)
{
	uint32_t n = tls->sealed;

	tls->sealed = 0;
	return n;
}

uint32_t nbd_tls_sent(struct nbd_tls *tls, uint32_t n)
{
	tls->out_head += n;
	if (tls->out_head < tls->out_len)
		return 0;
	n = tls->sealed;
	tls->out_head = tls->out_len = tls->sealed = 0;
	return n;
}
