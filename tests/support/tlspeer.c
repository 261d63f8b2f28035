#include "tests/support/tlspeer.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"

/* --- handshake ----------------------------------------------------------------------------------
 */

static unsigned psk_client(SSL *ssl, const char *hint, char *user, unsigned user_max,
			   unsigned char *key, unsigned key_max)
{
	const struct tlspeer_wish *wish = SSL_get_app_data(ssl);
	unsigned i, n = strlen(wish->psk) / 2, byte;

	(void)hint;
	if (n > key_max || strlen(wish->user) >= user_max)
		return 0;
	strcpy(user, wish->user);
	for (i = 0; i < n; i++) {
		if (sscanf(wish->psk + 2 * i, "%2x", &byte) != 1)
			return 0;
		key[i] = byte;
	}
	return n;
}

static SSL_CTX *context(const struct tlspeer_wish *wish)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());

	assert_non_null(ctx);
	if (wish->cert) {
		assert_int_equal(SSL_CTX_use_certificate_chain_file(ctx, wish->cert), 1);
		assert_int_equal(SSL_CTX_use_PrivateKey_file(ctx, wish->key, SSL_FILETYPE_PEM), 1);
	}
	if (wish->ca) {
		assert_int_equal(SSL_CTX_load_verify_locations(ctx, wish->ca, NULL), 1);
		SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
	}
	if (wish->user)
		SSL_CTX_set_psk_client_callback(ctx, psk_client);
	if (wish->version) {
		SSL_CTX_set_min_proto_version(ctx, wish->version);
		SSL_CTX_set_max_proto_version(ctx, wish->version);
	}
	if (wish->ciphers)
		assert_int_equal(SSL_CTX_set_cipher_list(ctx, wish->ciphers), 1);
	return ctx;
}

SSL *tlspeer_connect(int fd, const struct tlspeer_wish *wish)
{
	SSL_CTX *ctx = context(wish);
	SSL *ssl = SSL_new(ctx);

	signal(SIGPIPE, SIG_IGN);
	SSL_CTX_free(ctx);
	assert_non_null(ssl);
	SSL_set_app_data(ssl, (void *)wish);
	SSL_set_fd(ssl, fd);
	ERR_clear_error();
	if (SSL_connect(ssl) == 1)
		return ssl;
	SSL_free(ssl);
	return NULL;
}

/* --- tunnel -------------------------------------------------------------------------------------
 */

struct tunnel {
	SSL *ssl;
	int plain, wire;
	size_t record;
	/* on their way: from the test to the server, and back */
	unsigned char up[65536], down[65536];
	size_t up_at, up_len, down_at, down_len;
};

/* Each of these: false when that direction is over. */
static bool take_plain(struct tunnel *t)
{
	ssize_t n;

	if (t->up_len)
		return true;
	n = recv(t->plain, t->up, sizeof(t->up), MSG_DONTWAIT);
	if (n > 0) {
		t->up_at = 0;
		t->up_len = n;
	}
	return n > 0 || (n < 0 && errno == EAGAIN);
}

static bool put_wire(struct tunnel *t)
{
	int n;

	while (t->up_len) {
		ERR_clear_error();
		n = SSL_write(t->ssl, t->up + t->up_at, MIN(t->up_len, t->record));
		if (n <= 0)
			return SSL_get_error(t->ssl, n) == SSL_ERROR_WANT_WRITE;
		t->up_at += n;
		t->up_len -= n;
	}
	return true;
}

static bool take_wire(struct tunnel *t)
{
	int n;

	if (t->down_len)
		return true;
	ERR_clear_error();
	n = SSL_read(t->ssl, t->down, sizeof(t->down));
	if (n <= 0)
		return SSL_get_error(t->ssl, n) == SSL_ERROR_WANT_READ;
	t->down_at = 0;
	t->down_len = n;
	return true;
}

static bool put_plain(struct tunnel *t)
{
	while (t->down_len) {
		ssize_t n = send(t->plain, t->down + t->down_at, t->down_len,
				 MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n <= 0)
			return n < 0 && errno == EAGAIN;
		t->down_at += n;
		t->down_len -= n;
	}
	return true;
}

static void wait_for_more(struct tunnel *t)
{
	struct pollfd fds[] = {
		{t->plain, (t->up_len ? 0 : POLLIN) | (t->down_len ? POLLOUT : 0), 0},
		{t->wire, (t->down_len ? 0 : POLLIN) | (t->up_len ? POLLOUT : 0), 0},
	};

	poll(fds, ARRAY_SIZE(fds), 1000);
}

static void *tunnel_main(void *arg)
{
	struct tunnel *t = arg;

	while (take_plain(t) && put_wire(t) && take_wire(t) && put_plain(t))
		wait_for_more(t);
	SSL_shutdown(t->ssl);
	close(t->plain);
	SSL_free(t->ssl);
	close(t->wire);
	free(t);
	return NULL;
}

/* A BIO that hands everything on in single bytes. */
static int dribble_write(BIO *bio, const char *p, int len)
{
	int n = BIO_write(BIO_next(bio), p, len ? 1 : 0);

	BIO_clear_retry_flags(bio);
	BIO_copy_next_retry(bio);
	return n;
}

static long dribble_ctrl(BIO *bio, int cmd, long num, void *ptr)
{
	return cmd == BIO_CTRL_DUP ? 0 : BIO_ctrl(BIO_next(bio), cmd, num, ptr);
}

static void dribble_on(SSL *ssl)
{
	static BIO_METHOD *method;
	BIO *bio;

	if (!method) {
		method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_FILTER, "dribble");
		BIO_meth_set_write(method, dribble_write);
		BIO_meth_set_ctrl(method, dribble_ctrl);
	}
	bio = BIO_new(method);
	assert_non_null(bio);
	BIO_set_init(bio, 1);
	BIO_up_ref(SSL_get_wbio(ssl));
	SSL_set0_wbio(ssl, BIO_push(bio, SSL_get_wbio(ssl)));
}

int tlspeer_tunnel(SSL *ssl, size_t record, bool dribble)
{
	const struct timeval limit = {.tv_sec = 30};
	struct tunnel *t = calloc(1, sizeof(*t));
	pthread_t thread;
	int pair[2];

	assert_non_null(t);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(pair[0], SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	t->ssl = ssl;
	t->plain = pair[1];
	t->wire = SSL_get_fd(ssl);
	t->record = record;
	fcntl(t->wire, F_SETFL, fcntl(t->wire, F_GETFL) | O_NONBLOCK);
	SSL_set_mode(ssl, SSL_MODE_ENABLE_PARTIAL_WRITE);
	if (dribble)
		dribble_on(ssl);
	assert_int_equal(pthread_create(&thread, NULL, tunnel_main, t), 0);
	pthread_detach(thread);
	return pair[0];
}
