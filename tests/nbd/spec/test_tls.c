/* "TLS support", seen from a client: one listener that requires TLS (FORCEDTLS), one that allows it
 * (SELECTIVETLS without TLS-only exports). Who is let in with which credentials is the
 * implementation's business, and tested in tests/nbd/test_tls.c. */
#include "tests/support/nbdspec.h"
#include "tests/support/pki.h"
#include "tests/support/scratch.h"
#include "tests/support/tlspeer.h"

#define ANY_RECORD 16384
#define WEAK	   "ALL:@SECLEVEL=0" /* the client's library would not offer the like */

static char required[200], allowed[200]; /* addresses */

static const struct tlspeer_wish wish = {.ca = "certs/ca-cert.pem"};

/* --- fixture ---------------------------------------------------------------------------------- */

static void listen_with(char *address, size_t size, const char *name, enum nbd_tls_policy policy)
{
	struct nbd_listen_config config = {.tls = {.policy = policy, .certificates = "certs"}};
	struct err err = ERR_INIT;

	snprintf(address, size, "unix:%s/%s", spec.rig->dir, name);
	rig_ok(nbd_server_listen(spec.rig->server, address, &config, NULL, 0, &err), &err);
}

static int setup(void **state)
{
	struct pki ca, other, server;

	if (scratch_setup(state) || spec_start(state))
		return -1;
	pki_authority(&ca, "test authority");
	pki_issue(&server, &ca, &(struct pki_wish){.cn = "localhost"});
	pki_authority(&other, "another authority");
	pki_write(&other, "others", "ca");
	pki_free(&other);
	pki_write(&ca, "certs", "ca");
	pki_write(&server, "certs", "server");
	pki_free(&server);
	pki_free(&ca);
	listen_with(required, sizeof(required), "required", NBD_TLS_REQUIRE);
	listen_with(allowed, sizeof(allowed), "allowed", NBD_TLS_ALLOW);
	return 0;
}

static int teardown(void **state)
{
	return spec_stop(state) | scratch_teardown(state);
}

static int greeted(const char *address, uint32_t flags)
{
	int fd = peer_connect(address);

	peer_greet(fd, flags);
	return fd;
}

static SSL *connected(int fd)
{
	SSL *ssl;

	peer_option_expect(fd, NBD_OPT_STARTTLS, NULL, 0, NBD_REP_ACK);
	ssl = tlspeer_connect(fd, &wish);
	assert_non_null(ssl);
	return ssl;
}

/* Ready for options, through TLS. */
static int upgraded(int fd)
{
	return tlspeer_tunnel(connected(fd), ANY_RECORD, false);
}

static int inside(const char *address)
{
	return upgraded(greeted(address, SPEC_FLAGS));
}

static const char *both(unsigned i)
{
	return i ? required : allowed;
}

/* --- modes ------------------------------------------------------------------------------------ */

/* A whole session, which any of the modes has to offer. */
static void session(int fd)
{
	unsigned char data[70000], back[70000];

	assert_true(peer_go(fd, RIG_NAME, NULL, NULL));
	rig_pattern(data, sizeof(data), 9);
	peer_write(fd, NBD_CMD_FLAG_FUA, 1, 999, data, sizeof(data));
	assert_int_equal(peer_simple_to(fd, 1), 0);
	peer_request(fd, 0, NBD_CMD_READ, 2, 999, sizeof(back));
	assert_int_equal(peer_simple_to(fd, 2), 0);
	peer_recv(fd, back, sizeof(back));
	assert_memory_equal(back, data, sizeof(back));
	peer_request(fd, 0, NBD_CMD_DISC, 3, 0, 0);
	assert_true(peer_at_end(fd));
	peer_close(fd);
}

static void each_mode_is_offered(void **state)
{
	(void)state;
	session(spec_greeted());
	session(inside(required));
	session(inside(allowed));
	session(greeted(allowed, SPEC_FLAGS));
}

static void the_mode_stays(void **state)
{
	struct spec_reps reps;
	int fd = greeted(required, SPEC_FLAGS);
	unsigned i;

	(void)state;
	for (i = 0; i < 3; i++) {
		peer_option_expect(fd, NBD_OPT_LIST, NULL, 0, NBD_REP_ERR_TLS_REQD);
		peer_option_expect(fd, NBD_OPT_STARTTLS, "x", 1, NBD_REP_ERR_INVALID);
	}
	fd = upgraded(fd);
	for (i = 0; i < 3; i++)
		assert_int_equal(spec_option(fd, NBD_OPT_LIST, NULL, 0, &reps), NBD_REP_ACK);
	peer_close(fd);
}

static void there_is_no_tls_without_fixed_newstyle(void **state)
{
	int fd = greeted(allowed, NBD_FLAG_NO_ZEROES);

	(void)state;
	peer_option_expect(fd, NBD_OPT_STARTTLS, NULL, 0, NBD_REP_ERR_POLICY);
	assert_true(peer_go(fd, RIG_NAME, NULL, NULL));
	peer_close(fd);
	fd = greeted(required, NBD_FLAG_NO_ZEROES); /* which it cannot serve, then */
	assert_true(peer_at_end(fd));
	peer_close(fd);
}

/* --- STARTTLS --------------------------------------------------------------------------------- */

static void starttls_is_acknowledged(const char *address)
{
	int fd = greeted(address, SPEC_FLAGS);

	peer_option_expect(fd, NBD_OPT_STARTTLS, NULL, 0, NBD_REP_ACK);
	peer_close(fd);
	fd = greeted(address, SPEC_FLAGS); /* nor is it too late for it */
	peer_option_expect(fd, NBD_OPT_STARTTLS, "data", 4, NBD_REP_ERR_INVALID);
	session(upgraded(fd));
}

static void starttls_is_acknowledged_where_it_is_required(void **state)
{
	(void)state;
	starttls_is_acknowledged(required);
}

static void starttls_is_acknowledged_where_it_is_allowed(void **state)
{
	(void)state;
	starttls_is_acknowledged(allowed);
}

static void starttls_within_tls_is_invalid(const char *address)
{
	int fd = inside(address);

	peer_option_expect(fd, NBD_OPT_STARTTLS, NULL, 0, NBD_REP_ERR_INVALID);
	session(fd);
}

static void starttls_within_required_tls_is_invalid(void **state)
{
	(void)state;
	starttls_within_tls_is_invalid(required);
}

static void starttls_within_allowed_tls_is_invalid(void **state)
{
	(void)state;
	starttls_within_tls_is_invalid(allowed);
}

static void starttls_with_data_is_invalid(void **state)
{
	unsigned i;

	(void)state;
	for (i = 0; i < 2; i++) {
		int fd = greeted(both(i), SPEC_FLAGS);

		peer_option_expect(fd, NBD_OPT_STARTTLS, "x", 1, NBD_REP_ERR_INVALID);
		session(upgraded(fd));
	}
}

/* What @option agreed on, with a context selected, is not agreed on within TLS. */
static void forgotten(uint32_t option)
{
	static const char *const contexts[] = {"base:allocation"};
	struct peer_export export;
	struct spec_reps reps;
	int fd = greeted(allowed, SPEC_FLAGS);

	peer_option_expect(fd, option, NULL, 0, NBD_REP_ACK);
	assert_int_equal(spec_meta(fd, NBD_OPT_SET_META_CONTEXT, RIG_NAME, contexts, 1, &reps),
			 NBD_REP_ACK);
	fd = upgraded(fd);
	/* Structured replies are needed for this, and for what it selected. */
	assert_int_equal(spec_meta(fd, NBD_OPT_SET_META_CONTEXT, RIG_NAME, contexts, 1, &reps),
			 NBD_REP_ERR_INVALID);
	assert_true(peer_go(fd, RIG_NAME, &export, NULL));
	assert_false(export.flags & (NBD_FLAG_SEND_DF | NBD_FLAG_BLOCK_STATUS_PAYLOAD));
	peer_request(fd, 0, NBD_CMD_BLOCK_STATUS, 1, 0, 512);
	assert_int_equal(peer_simple_to(fd, 1), NBD_EINVAL);
	peer_close(fd);
}

static void starttls_forgets_structured_replies_and_contexts(void **state)
{
	struct spec_reps reps;
	int fd = greeted(allowed, SPEC_FLAGS);

	(void)state;
	forgotten(NBD_OPT_STRUCTURED_REPLY);
	/* A context that was selected before is not there after the replies have been had again. */
	peer_option_expect(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
	assert_int_equal(spec_meta(fd, NBD_OPT_SET_META_CONTEXT, RIG_NAME,
				   (const char *const[]){"base:allocation"}, 1, &reps),
			 NBD_REP_ACK);
	fd = upgraded(fd);
	peer_option_expect(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
	assert_true(peer_go(fd, RIG_NAME, NULL, NULL));
	peer_request(fd, 0, NBD_CMD_BLOCK_STATUS, 1, 0, 512);
	assert_int_equal(spec_answer(fd, 1), NBD_EINVAL);
	peer_close(fd);
}

static void starttls_forgets_extended_headers(void **state)
{
	(void)state;
	forgotten(NBD_OPT_EXTENDED_HEADERS);
}

/* --- after the acknowledgement ---------------------------------------------------------------- */

static void put_option(unsigned char b[NBD_OPTION_SIZE], uint32_t code)
{
	store_be64(b, NBD_OPTION_MAGIC);
	store_be32(b + 8, code);
	store_be32(b + 12, 0);
}

/* Bytes as they come from the socket: records of application data, and nothing else. */
static void all_data_is_sent_over_tls(void **state)
{
	unsigned char b[16384 + 256], magic[8];
	SSL *ssl = connected(greeted(required, SPEC_FLAGS));
	int fd = SSL_get_fd(ssl);
	uint32_t len, at;

	(void)state;
	put_option(b, NBD_OPT_LIST);
	assert_int_equal(SSL_write(ssl, b, NBD_OPTION_SIZE), NBD_OPTION_SIZE);
	peer_recv(fd, b, 5);
	assert_int_equal(b[0], 23); /* application data */
	assert_int_equal(b[1], 3);
	len = load_be16(b + 3);
	assert_true(len >= NBD_REP_SIZE && len <= sizeof(b));
	peer_recv(fd, b, len);
	store_be64(magic, NBD_REP_MAGIC);
	for (at = 0; at + sizeof(magic) <= len; at++)
		assert_memory_not_equal(b + at, magic, sizeof(magic));
	SSL_free(ssl);
	peer_close(fd);
}

static void nothing_is_received_but_by_tls(void **state)
{
	unsigned char b[NBD_OPTION_SIZE], magic[8], c[256];
	ssize_t n, got = 0;
	unsigned late;

	(void)state;
	put_option(b, NBD_OPT_LIST);
	store_be64(magic, NBD_REP_MAGIC);
	for (late = 0; late < 2; late++) { /* instead of the handshake, and after it */
		int fd = greeted(allowed, SPEC_FLAGS);
		SSL *ssl = NULL;

		if (late)
			ssl = connected(fd);
		else
			peer_option_expect(fd, NBD_OPT_STARTTLS, NULL, 0, NBD_REP_ACK);
		peer_send(fd, b, sizeof(b));
		shutdown(fd, SHUT_WR); /* or it would wait for the rest of a record */
		while ((n = recv(fd, c, sizeof(c), 0)) > 0) {
			got += n;
			assert_null(memmem(c, n, magic, sizeof(magic)));
		}
		assert_true(got < 1024); /* alerts, tickets */
		SSL_free(ssl);
		peer_close(fd);
	}
}

static void a_failed_handshake_ends_the_session(void **state)
{
	static const struct tlspeer_wish wrong[] = {
		{.ca = "certs/ca-cert.pem", .version = TLS1_1_VERSION, .ciphers = WEAK},
		{.ca = "certs/ca-cert.pem",
		 .version = TLS1_2_VERSION,
		 .ciphers = "NULL:@SECLEVEL=0"},
		{.ca = "others/ca-cert.pem"}, /* the client does not want this server */
	};
	unsigned i, k;

	(void)state;
	for (k = 0; k < 2; k++)
		for (i = 0; i < ARRAY_SIZE(wrong); i++) {
			int fd = greeted(both(k), SPEC_FLAGS);

			peer_option_expect(fd, NBD_OPT_STARTTLS, NULL, 0, NBD_REP_ACK);
			assert_null(tlspeer_connect(fd, &wrong[i]));
			peer_drain_to_end(fd);
			peer_close(fd);
		}
}

/* --- TLS_REQD --------------------------------------------------------------------------------- */

static void other_options_are_refused_before_required_tls(void **state)
{
	static const uint32_t codes[] = {NBD_OPT_LIST,
					 NBD_OPT_INFO,
					 NBD_OPT_STRUCTURED_REPLY,
					 NBD_OPT_EXTENDED_HEADERS,
					 NBD_OPT_LIST_META_CONTEXT,
					 NBD_OPT_SET_META_CONTEXT,
					 4,
					 99};
	struct spec_reps reps;
	int fd = greeted(required, SPEC_FLAGS);
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(codes); i++)
		peer_option_expect(fd, codes[i], NULL, 0, NBD_REP_ERR_TLS_REQD);
	assert_int_equal(spec_info(fd, NBD_OPT_INFO, RIG_NAME, NULL, 0, &reps),
			 NBD_REP_ERR_TLS_REQD);
	peer_option_expect(fd, NBD_OPT_ABORT, NULL, 0, NBD_REP_ACK);
	peer_close(fd);
}

static void export_name_before_required_tls_ends_the_session(void **state)
{
	int fd = greeted(required, SPEC_FLAGS);

	(void)state;
	peer_option(fd, NBD_OPT_EXPORT_NAME, RIG_NAME, strlen(RIG_NAME));
	assert_true(peer_at_end(fd));
	peer_close(fd);
}

static void go_before_required_tls_is_refused(void **state)
{
	uint32_t error = 0;
	int fd = greeted(required, SPEC_FLAGS);

	(void)state;
	assert_false(peer_go(fd, RIG_NAME, NULL, &error));
	assert_int_equal(error, NBD_REP_ERR_TLS_REQD);
	assert_false(peer_go(fd, "nothing", NULL, &error));
	assert_int_equal(error, NBD_REP_ERR_TLS_REQD);
	session(upgraded(fd));
}

static void nothing_is_told_before_required_tls(void **state)
{
	struct spec_reps reps;
	int fd = greeted(required, SPEC_FLAGS);

	(void)state;
	assert_int_equal(spec_info(fd, NBD_OPT_INFO, RIG_NAME, NULL, 0, &reps),
			 NBD_REP_ERR_TLS_REQD);
	assert_int_equal(reps.count, 1);
	assert_int_equal(spec_info(fd, NBD_OPT_GO, RIG_NAME, NULL, 0, &reps), NBD_REP_ERR_TLS_REQD);
	assert_int_equal(reps.count, 1);
	peer_close(fd);
}

/* No option of any kind is answered TLS_REQD on @fd, which is closed. */
static void never_tls_reqd(int fd)
{
	static const uint32_t codes[] = {NBD_OPT_LIST,
					 NBD_OPT_STRUCTURED_REPLY,
					 NBD_OPT_LIST_META_CONTEXT,
					 NBD_OPT_SET_META_CONTEXT,
					 NBD_OPT_INFO,
					 NBD_OPT_GO,
					 4,
					 99};
	struct spec_reps reps;
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(codes); i++)
		assert_int_not_equal(spec_option(fd, codes[i], NULL, 0, &reps),
				     NBD_REP_ERR_TLS_REQD);
	assert_int_equal(spec_info(fd, NBD_OPT_INFO, "nothing", NULL, 0, &reps),
			 NBD_REP_ERR_UNKNOWN);
	assert_int_equal(spec_info(fd, NBD_OPT_GO, RIG_NAME, NULL, 0, &reps), NBD_REP_ACK);
	peer_close(fd);
}

static void tls_reqd_is_not_sent_within_required_tls(void **state)
{
	(void)state;
	never_tls_reqd(inside(required));
}

static void tls_reqd_is_not_sent_within_allowed_tls(void **state)
{
	(void)state;
	never_tls_reqd(inside(allowed));
}

static void tls_reqd_is_not_sent_where_no_export_requires_it(void **state)
{
	(void)state;
	never_tls_reqd(greeted(allowed, SPEC_FLAGS));
}

/* --- versions and the end --------------------------------------------------------------------- */

static SSL *of_version(int version)
{
	const struct tlspeer_wish v = {
		.ca = "certs/ca-cert.pem", .version = version, .ciphers = WEAK};
	int fd = greeted(required, SPEC_FLAGS);

	peer_option_expect(fd, NBD_OPT_STARTTLS, NULL, 0, NBD_REP_ACK);
	return tlspeer_connect(fd, &v);
}

static void tls_1_2_is_spoken(void **state)
{
	SSL *ssl = of_version(TLS1_2_VERSION);

	(void)state;
	assert_non_null(ssl);
	assert_int_equal(SSL_version(ssl), TLS1_2_VERSION);
	session(tlspeer_tunnel(ssl, ANY_RECORD, false));
}

static void tls_1_3_is_spoken(void **state)
{
	SSL *ssl = of_version(TLS1_3_VERSION);

	(void)state;
	assert_non_null(ssl);
	assert_int_equal(SSL_version(ssl), TLS1_3_VERSION);
	session(tlspeer_tunnel(ssl, ANY_RECORD, false));
}

static void older_versions_are_not_spoken(void **state)
{
	(void)state;
	assert_null(of_version(TLS1_VERSION));
	assert_null(of_version(TLS1_1_VERSION));
}

/* GO and one request, without a tunnel; returns what SSL_read() says next. */
static int error_after(SSL *ssl, uint16_t cmd)
{
	unsigned char b[256], *p = b;
	size_t n = peer_info_data(p + NBD_OPTION_SIZE, RIG_NAME, NULL, 0);

	put_option(p, NBD_OPT_GO);
	store_be32(p + 12, n);
	p += NBD_OPTION_SIZE + n;
	assert_int_equal(SSL_write(ssl, b, p - b), p - b);
	n = 2 * NBD_REP_SIZE + 12; /* INFO_EXPORT, ACK */
	for (p = b; p < b + n;) {
		int r = SSL_read(ssl, p, b + n - p);

		assert_true(r > 0);
		p += r;
	}
	peer_put_request(b, 0, cmd, 1, 0, 0);
	assert_int_equal(SSL_write(ssl, b, NBD_REQUEST_SIZE), NBD_REQUEST_SIZE);
	return SSL_get_error(ssl, SSL_read(ssl, b, sizeof(b)));
}

static void disc_closes_down_tls_first(void **state)
{
	SSL *ssl = connected(greeted(required, SPEC_FLAGS));
	int fd = SSL_get_fd(ssl);

	(void)state;
	assert_int_equal(error_after(ssl, NBD_CMD_DISC), SSL_ERROR_ZERO_RETURN); /* close_notify */
	assert_true(peer_at_end(fd));
	SSL_free(ssl);
	peer_close(fd);
}

int main(void)
{
	static const struct CMUnitTest rules[] = {
		RULE("Server-side requirements", "The server MUST support one of these modes",
		     each_mode_is_offered),
		RULE("Server-side requirements",
		     "it MUST be consistent in its mode of operation across the lifespan of a "
		     "single TCP connection",
		     the_mode_stays),
		RULE("Server-side requirements",
		     "The server MUST operate in NOTLS mode unless [both sides set "
		     "FIXED_NEWSTYLE]",
		     there_is_no_tls_without_fixed_newstyle),
		RULE("FORCEDTLS mode",
		     "If the server receives NBD_OPT_STARTTLS prior to negotiating TLS, it MUST "
		     "reply with NBD_REP_ACK",
		     starttls_is_acknowledged_where_it_is_required),
		RULE("FORCEDTLS mode",
		     "[STARTTLS] when TLS has already been negotiated, it MUST reply with "
		     "NBD_REP_ERR_INVALID",
		     starttls_within_required_tls_is_invalid),
		RULE("FORCEDTLS mode",
		     "After NBD_REP_ACK, the server MUST be prepared for a TLS handshake",
		     each_mode_is_offered),
		RULE("FORCEDTLS mode", "and all further data MUST be sent [over TLS]",
		     all_data_is_sent_over_tls),
		RULE("FORCEDTLS mode", "and received over TLS", nothing_is_received_but_by_tls),
		RULE("FORCEDTLS mode",
		     "If the handshake is unsuccessful the server MUST terminate the session",
		     a_failed_handshake_ends_the_session),
		RULE("FORCEDTLS mode",
		     "If the server receives any other option, it MUST reply with "
		     "NBD_REP_ERR_TLS_REQD if TLS has not been initiated",
		     other_options_are_refused_before_required_tls),
		RULE("FORCEDTLS mode",
		     "[NBD_OPT_EXPORT_NAME] when TLS has not been initiated, it MUST terminate "
		     "the session",
		     export_name_before_required_tls_ends_the_session),
		RULE("FORCEDTLS mode",
		     "[NBD_OPT_GO] when TLS has not been initiated, it MUST error with "
		     "NBD_REP_ERR_TLS_REQD",
		     go_before_required_tls_is_refused),
		RULE("FORCEDTLS mode",
		     "The server MUST NOT send NBD_REP_ERR_TLS_REQD if TLS has already been "
		     "initiated",
		     tls_reqd_is_not_sent_within_required_tls),
		RULE("SELECTIVETLS mode",
		     "If the server receives NBD_OPT_STARTTLS prior to negotiating TLS, it MUST "
		     "reply with NBD_REP_ACK and initiate TLS",
		     starttls_is_acknowledged_where_it_is_allowed),
		RULE("SELECTIVETLS mode",
		     "[STARTTLS] when TLS has already been negotiated, it MUST reply with "
		     "NBD_REP_ERR_INVALID",
		     starttls_within_allowed_tls_is_invalid),
		RULE("SELECTIVETLS mode",
		     "The server MUST NOT send NBD_REP_ERR_TLS_REQD if TLS has already been "
		     "negotiated",
		     tls_reqd_is_not_sent_within_allowed_tls),
		RULE("SELECTIVETLS mode",
		     "The server MUST NOT send NBD_REP_ERR_TLS_REQD [but] in respect of a "
		     "TLS-only or non-existent export",
		     tls_reqd_is_not_sent_where_no_export_requires_it),
		RULE("TLS versions",
		     "NBD implementations supporting TLS MUST support TLS version 1.2",
		     tls_1_2_is_spoken),
		RULE("TLS versions", "SHOULD support any later versions", tls_1_3_is_spoken),
		RULE("TLS versions", "MAY support older versions but SHOULD NOT do so by default",
		     older_versions_are_not_spoken),
		RULE("NBD_OPT_STARTTLS",
		     "The server MUST either reply with NBD_REP_ACK or an error reply (for "
		     "example, NBD_REP_ERR_INVALID if the client included data)",
		     starttls_with_data_is_invalid),
		RULE("NBD_OPT_STARTTLS",
		     "When this command succeeds, the server MUST NOT preserve any negotiation "
		     "state",
		     starttls_forgets_structured_replies_and_contexts),
		RULE("ext: NBD_OPT_STARTTLS",
		     "the server MUST NOT preserve [NBD_OPT_EXTENDED_HEADERS]",
		     starttls_forgets_extended_headers),
		RULE("NBD_OPT_INFO and NBD_OPT_GO",
		     "a FORCEDTLS server MUST NOT send NBD_REP_INFO replies",
		     nothing_is_told_before_required_tls),
		RULE("Terminating the transmission phase",
		     "[after NBD_CMD_DISC] the server MUST close down the TLS session and then "
		     "close the TCP connection",
		     disc_closes_down_tls_first),
		RULE("NBD_CMD_DISC",
		     "The server MUST shut down the TLS session (if one is running)",
		     disc_closes_down_tls_first),
	};

	return spec_run_own("tls", rules, ARRAY_SIZE(rules), setup, teardown);
}
