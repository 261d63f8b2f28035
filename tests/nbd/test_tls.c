/* TLS as a client meets it: who is let in, what is refused, and that what goes through it is what
 * would have gone without. */
#include <openssl/err.h>
#include <openssl/pem.h>
#include <sys/stat.h>

#include "nbd/export_null.h"
#include "tests/nbd/rig.h"
#include "tests/support/pki.h"
#include "tests/support/scratch.h"
#include "tests/support/tlspeer.h"

#define ANY_RECORD 16384
#define ALICE_KEY  "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define MALLORYS   "ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

/* --- certificates, once for all tests --------------------------------------------------------- */

static struct pki ca, other_ca;

static void issue(const struct pki *by, struct pki_wish wish, const char *folder, const char *name)
{
	struct pki p;

	pki_issue(&p, by, &wish);
	pki_write(&p, folder, name);
	pki_free(&p);
}

static void put_text(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	assert_int_equal(fchmod(fileno(f), 0600), 0);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

/* A folder as a server wants it: authority, certificate, key. */
static void server_folder(const char *folder, const struct pki *by, struct pki_wish wish)
{
	mkdir(folder, 0700);
	pki_write(&ca, folder, "ca");
	issue(by, wish, folder, "server");
}

static int make_all(void **state)
{
	if (scratch_setup(state))
		return -1;
	pki_authority(&ca, "test authority");
	pki_authority(&other_ca, "another authority");
	server_folder("server", &ca, (struct pki_wish){.cn = "localhost", .usage = "serverAuth"});
	issue(&ca, (struct pki_wish){.cn = "agent1", .o = "Example", .usage = "clientAuth"},
	      "clients", "agent1");
	issue(&ca,
	      (struct pki_wish){.cn = "agent2", .dns = "agent2.example.com", .usage = "clientAuth"},
	      "clients", "agent2");
	issue(&ca, (struct pki_wish){.cn = "old", .from_s = -7200, .until_s = -60}, "clients",
	      "old");
	issue(&ca, (struct pki_wish){.cn = "a server", .usage = "serverAuth"}, "clients", "server");
	issue(&other_ca, (struct pki_wish){.cn = "agent1", .o = "Example"}, "clients", "stranger");
	put_text("keys.psk", "# who may\n\nbob:" MALLORYS "\r\nalice:" ALICE_KEY "\n");
	return 0;
}

static int drop_all(void **state)
{
	pki_free(&ca);
	pki_free(&other_ca);
	return scratch_teardown(state);
}

/* --- a server with a listener that does TLS --------------------------------------------------- */

static const struct nbd_tls_config required = {.policy = NBD_TLS_REQUIRE, .certificates = "server"};
static const struct nbd_tls_config allowed = {.policy = NBD_TLS_ALLOW, .certificates = "server"};
static const struct nbd_tls_config with_psk = {.policy = NBD_TLS_REQUIRE, .psk = "keys.psk"};
static const struct nbd_tls_config verifying = {
	.policy = NBD_TLS_REQUIRE, .certificates = "server", .verify_peer = true};

static char address[200]; /* of the listener that does TLS */

static int try_listen(struct rig *rig, struct nbd_tls_config tls, struct err *err)
{
	struct nbd_listen_config config = {.tls = tls};
	static unsigned number;

	snprintf(address, sizeof(address), "unix:%s/%u", rig->dir, ++number);
	return nbd_server_listen(rig->server, address, &config, NULL, 0, err);
}

static void listen_with(struct rig *rig, struct nbd_tls_config tls)
{
	struct err err = ERR_INIT;

	rig_ok(try_listen(rig, tls, &err), &err);
}

static int greeted(void)
{
	int fd = peer_connect(address);

	peer_greet(fd, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	return fd;
}

/* Up to where the handshake starts. */
static int tls_begun(void)
{
	int fd = greeted();

	peer_option_expect(fd, NBD_OPT_STARTTLS, NULL, 0, NBD_REP_ACK);
	return fd;
}

/* The same where little time is given; -1: it was hung up on before, as who is held up by the
 * machine is. */
static int tls_try_begun(void)
{
	unsigned char b[NBD_GREETING_SIZE + NBD_REP_SIZE];
	int fd = peer_connect(address);

	store_be32(b, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	store_be64(b + 4, NBD_OPTION_MAGIC);
	store_be32(b + 12, NBD_OPT_STARTTLS);
	store_be32(b + 16, 0);
	send(fd, b, 4 + NBD_OPTION_SIZE, MSG_NOSIGNAL);
	if (recv(fd, b, sizeof(b), MSG_WAITALL) == sizeof(b)) {
		assert_int_equal(load_be32(b + NBD_GREETING_SIZE + 12), NBD_REP_ACK);
		return fd;
	}
	peer_close(fd);
	return -1;
}

static const struct tlspeer_wish anybody = {.ca = "server/ca-cert.pem"};
static const struct tlspeer_wish alice = {.user = "alice", .psk = ALICE_KEY};

static SSL *tls_connected(const struct tlspeer_wish *wish)
{
	SSL *ssl = tlspeer_connect(tls_begun(), wish);

	assert_non_null(ssl);
	return ssl;
}

static SSL *tls_try_connected(const struct tlspeer_wish *wish)
{
	int fd = tls_try_begun();
	SSL *ssl = fd < 0 ? NULL : tlspeer_connect(fd, wish);

	if (!ssl && fd >= 0)
		peer_close(fd);
	return ssl;
}

/* Ready for options, through TLS. */
static int tls_open(const struct tlspeer_wish *wish)
{
	return tlspeer_tunnel(tls_connected(wish), ANY_RECORD, false);
}

/* Into transmission, through TLS. */
static int tls_entered(const struct tlspeer_wish *wish, size_t record, bool dribble)
{
	int fd = tlspeer_tunnel(tls_connected(wish), record, dribble);

	assert_true(peer_go(fd, RIG_NAME, NULL, NULL));
	return fd;
}

static void assert_reads_and_writes(int fd, uint32_t len)
{
	unsigned char *data = malloc(len), *back = malloc(len);

	assert_true(data && back);
	rig_pattern(data, len, len);
	peer_write(fd, 0, 1, 4321, data, len);
	assert_int_equal(peer_simple_to(fd, 1), 0);
	peer_request(fd, 0, NBD_CMD_READ, 2, 4321, len);
	assert_int_equal(peer_simple_to(fd, 2), 0);
	peer_recv(fd, back, len);
	assert_memory_equal(data, back, len);
	free(data);
	free(back);
}

static void assert_let_in(const struct tlspeer_wish *wish)
{
	int fd = tls_entered(wish, ANY_RECORD, false);

	assert_reads_and_writes(fd, 70000);
	peer_close(fd);
}

/* The handshake fails, or, in TLS 1.3, what the server has to say about it comes next; no export is
 * told of in either case. */
static void assert_kept_out(const struct tlspeer_wish *wish)
{
	unsigned char b[NBD_OPTION_SIZE];
	int fd = tls_begun(), n;
	SSL *ssl = tlspeer_connect(fd, wish);

	if (ssl) {
		store_be64(b, NBD_OPTION_MAGIC);
		store_be32(b + 8, NBD_OPT_LIST);
		store_be32(b + 12, 0);
		SSL_write(ssl, b, sizeof(b));
		n = SSL_read(ssl, b, sizeof(b));
		assert_true(n <= 0);
		assert_int_equal(SSL_get_error(ssl, n), SSL_ERROR_SSL);
		SSL_free(ssl);
	}
	peer_drain_to_end(fd);
	peer_close(fd);
}

/* --- policy ----------------------------------------------------------------------------------- */

static void before_tls_nothing_is_told_where_it_is_required(void **state)
{
	static const uint32_t codes[] = {NBD_OPT_LIST,
					 NBD_OPT_INFO,
					 NBD_OPT_GO,
					 NBD_OPT_STRUCTURED_REPLY,
					 NBD_OPT_EXTENDED_HEADERS,
					 NBD_OPT_SET_META_CONTEXT,
					 NBD_OPT_LIST_META_CONTEXT,
					 4,
					 0xffffffffU};
	static const unsigned char junk[100000];
	struct rig *rig = *state;
	unsigned i;
	int fd;

	listen_with(rig, required);
	fd = greeted();
	for (i = 0; i < ARRAY_SIZE(codes); i++) {
		peer_option_expect(fd, codes[i], NULL, 0, NBD_REP_ERR_TLS_REQD);
		peer_option_expect(fd, codes[i], junk, 9, NBD_REP_ERR_TLS_REQD);
		peer_option_expect(fd, codes[i], junk, sizeof(junk), NBD_REP_ERR_TLS_REQD);
	}
	peer_option_expect(fd, NBD_OPT_ABORT, NULL, 0, NBD_REP_ACK);
	assert_true(peer_at_end(fd));
	peer_close(fd);
	fd = greeted();
	peer_option(fd, NBD_OPT_EXPORT_NAME, RIG_NAME, strlen(RIG_NAME));
	assert_true(peer_at_end(fd));
	peer_close(fd);
}

static void a_client_of_old_cannot_come_where_tls_is_required(void **state)
{
	struct rig *rig = *state;
	int fd;

	listen_with(rig, required);
	fd = peer_connect(address);
	peer_greet(fd, 0);
	assert_true(peer_at_end(fd));
	peer_close(fd);

	listen_with(rig, allowed);
	fd = peer_connect(address);
	peer_greet(fd, 0);
	peer_option_expect(fd, NBD_OPT_STARTTLS, NULL, 0, NBD_REP_ERR_POLICY);
	assert_true(peer_go(fd, RIG_NAME, NULL, NULL));
	peer_close(fd);
}

static void within_tls_everything_works_and_starttls_is_invalid(void **state)
{
	struct rig *rig = *state;
	struct peer_rep rep;
	int fd;

	listen_with(rig, required);
	fd = tls_open(&anybody);
	peer_option(fd, NBD_OPT_LIST, NULL, 0);
	peer_rep(fd, &rep);
	assert_int_equal(rep.type, NBD_REP_SERVER);
	peer_rep(fd, &rep);
	assert_int_equal(rep.type, NBD_REP_ACK);
	peer_option_expect(fd, NBD_OPT_STARTTLS, NULL, 0, NBD_REP_ERR_INVALID);
	peer_option_expect(fd, 77, NULL, 0, NBD_REP_ERR_UNSUP);
	peer_option_expect(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
	assert_true(peer_go(fd, RIG_NAME, NULL, NULL));
	peer_close(fd);
	fd = tls_open(&anybody);
	peer_option_expect(fd, NBD_OPT_ABORT, NULL, 0, NBD_REP_ACK);
	assert_true(peer_at_end(fd));
	peer_close(fd);
}

static void where_tls_is_allowed_both_kinds_of_clients_are_served(void **state)
{
	struct rig *rig = *state;
	int fd;

	listen_with(rig, allowed);
	fd = peer_enter(address, RIG_NAME);
	assert_reads_and_writes(fd, 1000);
	peer_close(fd);
	assert_let_in(&anybody);
}

static void starttls_with_data_is_invalid_and_leaves_all_as_it_was(void **state)
{
	struct rig *rig = *state;
	int fd;

	listen_with(rig, allowed);
	fd = greeted();
	peer_option_expect(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
	peer_option_expect(fd, NBD_OPT_STARTTLS, "data", 4, NBD_REP_ERR_INVALID);
	assert_true(peer_go(fd, RIG_NAME, NULL, NULL));
	peer_request(fd, 0, NBD_CMD_READ, 5, 0, 0);
	peer_read_structured(fd, 5, 0, 0, NULL, NULL);
	peer_close(fd);
}

static void what_was_negotiated_before_tls_is_forgotten(void **state)
{
	static const char *const queries[] = {"base:allocation"};
	unsigned char data[512];
	struct peer_export info;
	struct rig *rig = *state;
	struct peer_rep rep;
	SSL *ssl;
	int fd;

	listen_with(rig, allowed);
	fd = greeted();
	peer_option_expect(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
	peer_option_expect(fd, NBD_OPT_EXTENDED_HEADERS, NULL, 0, NBD_REP_ACK);
	peer_option(fd, NBD_OPT_SET_META_CONTEXT, data, peer_meta_data(data, RIG_NAME, queries, 1));
	peer_rep(fd, &rep);
	assert_int_equal(rep.type, NBD_REP_META_CONTEXT);
	peer_rep(fd, &rep);
	assert_int_equal(rep.type, NBD_REP_ACK);
	peer_option_expect(fd, NBD_OPT_STARTTLS, NULL, 0, NBD_REP_ACK);
	ssl = tlspeer_connect(fd, &anybody);
	assert_non_null(ssl);
	fd = tlspeer_tunnel(ssl, ANY_RECORD, false);
	peer_option_expect(fd, NBD_OPT_SET_META_CONTEXT, data,
			   peer_meta_data(data, RIG_NAME, queries, 1), NBD_REP_ERR_INVALID);
	assert_true(peer_go(fd, RIG_NAME, &info, NULL));
	assert_false(info.flags & NBD_FLAG_SEND_DF);
	assert_reads_and_writes(fd, 512); /* compact headers, simple replies */
	peer_request(fd, 0, NBD_CMD_BLOCK_STATUS, 9, 0, 512);
	assert_int_equal(peer_simple_to(fd, 9), NBD_EINVAL);
	peer_close(fd);
}

/* --- what is slipped in from outside ---------------------------------------------------------- */

static void what_stands_behind_starttls_unencrypted_ends_the_session(void **state)
{
	unsigned char b[2 * NBD_OPTION_SIZE];
	struct rig *rig = *state;
	int fd;

	listen_with(rig, allowed);
	fd = greeted();
	store_be64(b, NBD_OPTION_MAGIC);
	store_be32(b + 8, NBD_OPT_STARTTLS);
	store_be32(b + 12, 0);
	memcpy(b + NBD_OPTION_SIZE, b, NBD_OPTION_SIZE);
	store_be32(b + NBD_OPTION_SIZE + 8, NBD_OPT_STRUCTURED_REPLY);
	peer_send(fd, b, sizeof(b));
	assert_true(peer_at_end(fd));
	peer_close(fd);
	/* One byte is as bad. */
	fd = greeted();
	peer_send(fd, b, NBD_OPTION_SIZE + 1);
	assert_true(peer_at_end(fd));
	peer_close(fd);
	assert_let_in(&anybody);
}

/* Bytes of the server's up to its end; how many of them look like an answer to an option. */
static unsigned answers_until_end(int fd)
{
	unsigned char b[4096], magic[8];
	unsigned found = 0;
	ssize_t n, i;

	store_be64(magic, NBD_REP_MAGIC);
	while ((n = recv(fd, b, sizeof(b), 0)) > 0)
		for (i = 0; i + 8 <= n; i++)
			found += !memcmp(b + i, magic, 8);
	return found;
}

static void what_is_no_tls_after_the_answer_ends_the_session(void **state)
{
	static const unsigned char hello_no_more[] = {22, 3, 1, 0xff, 0xff, 1, 2, 3};
	unsigned char junk[70000];
	struct rig *rig = *state;
	unsigned i;
	int fd;

	listen_with(rig, allowed);
	fd = tls_begun();
	peer_option(fd, NBD_OPT_LIST, NULL, 0);
	assert_int_equal(answers_until_end(fd), 0);
	peer_close(fd);
	fd = tls_begun();
	peer_send(fd, hello_no_more, sizeof(hello_no_more));
	assert_int_equal(answers_until_end(fd), 0);
	peer_close(fd);
	for (i = 0; i < 20; i++) {
		rig_pattern(junk, sizeof(junk), i);
		junk[0] = 22; /* a handshake record in TLS, of no length, of some, of too much */
		junk[1] = 3;
		junk[2] = 1;
		junk[3] = i * 8;
		fd = tls_begun();
		/* The server may hang up before it has read everything. */
		for (size_t at = 0; at < sizeof(junk); at += 7000)
			if (send(fd, junk + at, 7000, MSG_NOSIGNAL) < 0)
				break;
		shutdown(fd, SHUT_WR);
		peer_drain_to_end(fd);
		peer_close(fd);
	}
	assert_let_in(&anybody);
}

static void put_go(SSL *ssl);

/* What @ssl encrypts of [p, p + len), one bit of it turned over on the way to the server. */
static void send_tampered(SSL *ssl, const void *p, size_t len)
{
	unsigned char record[4096];
	int pair[2];
	ssize_t n;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	SSL_set0_wbio(ssl, BIO_new_socket(pair[0], BIO_NOCLOSE));
	assert_int_equal(SSL_write(ssl, p, len), len);
	n = recv(pair[1], record, sizeof(record), 0);
	assert_true(n > (ssize_t)len);
	record[n / 2] ^= 0x40;
	peer_send(SSL_get_rfd(ssl), record, n);
	close(pair[0]);
	close(pair[1]);
}

static void a_record_that_was_tampered_with_ends_the_session_unapplied(void **state)
{
	unsigned char b[2000];
	struct rig *rig = *state;
	SSL *ssl;
	int fd;

	listen_with(rig, required);
	ssl = tls_connected(&anybody);
	fd = SSL_get_fd(ssl);
	put_go(ssl);
	peer_put_request(b, 0, NBD_CMD_WRITE, 1, 0, sizeof(b));
	SSL_write(ssl, b, NBD_REQUEST_SIZE);
	memset(b, 0xee, sizeof(b));
	send_tampered(ssl, b, sizeof(b));
	peer_drain_to_end(fd);
	SSL_free(ssl);
	peer_close(fd);
	assert_int_equal(atomic_load(&rig->mem.writes), 0);
	assert_let_in(&anybody);
}

/* --- who takes no end ------------------------------------------------------------------------- */

static void a_handshake_that_does_not_go_on_is_ended(void **state)
{
	static const unsigned char hello[] = {22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3};
	struct rig *rig = rig_start((struct nbd_server_config){
		.workers = 1, .batch_count = 2, .handshake_timeout_ms = 300});
	int silent, half;

	(void)state;
	listen_with(rig, required);
	rig_await((silent = tls_try_begun()) >= 0);
	rig_await((half = tls_try_begun()) >= 0);
	send(half, hello, sizeof(hello), MSG_NOSIGNAL);
	/* Who comes from here on may take its time. */
	rig_change_limits(rig, (struct nbd_server_config){0});
	assert_let_in(&anybody);
	peer_drain_to_end(silent);
	peer_drain_to_end(half);
	peer_close(silent);
	peer_close(half);
	rig_stop(rig);
}

static void after_a_handshake_the_deadline_still_counts(void **state)
{
	struct rig *rig = rig_start((struct nbd_server_config){
		.workers = 1, .batch_count = 2, .handshake_timeout_ms = 300});
	SSL *ssl;
	int fd;

	(void)state;
	listen_with(rig, required);
	rig_await((ssl = tls_try_connected(&anybody)) != NULL);
	fd = tlspeer_tunnel(ssl, ANY_RECORD, false);
	peer_drain_to_end(fd);
	peer_close(fd);
	rig_stop(rig);
}

/* --- who may come ----------------------------------------------------------------------------- */

static struct tlspeer_wish client(const char *name)
{
	static char paths[4][2][64];
	static unsigned next;
	unsigned i = next++ % 4;

	snprintf(paths[i][0], sizeof(paths[i][0]), "clients/%s-cert.pem", name);
	snprintf(paths[i][1], sizeof(paths[i][1]), "clients/%s-key.pem", name);
	return (struct tlspeer_wish){
		.ca = "server/ca-cert.pem", .cert = paths[i][0], .key = paths[i][1]};
}

static void a_client_must_show_a_certificate_of_the_authority(void **state)
{
	static const char *const strangers[] = {"old", "server", "stranger"};
	static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
	struct tlspeer_wish wish;
	struct rig *rig = *state;
	unsigned i, v;

	listen_with(rig, verifying);
	for (v = 0; v < ARRAY_SIZE(versions); v++) {
		wish = client("agent1");
		wish.version = versions[v];
		assert_let_in(&wish);
		wish = anybody;
		wish.version = versions[v];
		assert_kept_out(&wish);
		for (i = 0; i < ARRAY_SIZE(strangers); i++) {
			wish = client(strangers[i]);
			wish.version = versions[v];
			assert_kept_out(&wish);
		}
	}
}

static void only_clients_that_are_allowed_by_name_come_in(void **state)
{
	static const char *const subject[] = {"CN=nobody", "CN=agent1,O=Example"};
	static const char *const host[] = {"agent2.example.com"};
	static const char *const common_name[] = {"agent1"};
	static const char *const part[] = {"CN=agent1", "agent", "O=Example"};
	struct tlspeer_wish agent1 = client("agent1"), agent2 = client("agent2");
	struct nbd_tls_config tls = verifying;
	struct rig *rig = *state;

	tls.allow = subject;
	tls.allow_count = ARRAY_SIZE(subject);
	listen_with(rig, tls);
	assert_let_in(&agent1);
	assert_kept_out(&agent2);
	tls.allow = host;
	tls.allow_count = ARRAY_SIZE(host);
	listen_with(rig, tls);
	assert_kept_out(&agent1);
	assert_let_in(&agent2);
	tls.allow = common_name;
	listen_with(rig, tls);
	assert_let_in(&agent1);
	assert_kept_out(&agent2);
	tls.allow = part;
	tls.allow_count = ARRAY_SIZE(part);
	listen_with(rig, tls);
	assert_kept_out(&agent1);
	assert_kept_out(&agent2);
}

static void a_revoked_client_stays_out(void **state)
{
	struct nbd_tls_config tls = verifying;
	struct tlspeer_wish wish = {.cert = "revoked/v-cert.pem", .key = "revoked/v-key.pem"};
	struct tlspeer_wish good = client("agent1");
	struct rig *rig = *state;
	struct pki victim;

	pki_issue(&victim, &ca, &(struct pki_wish){.cn = "victim"});
	pki_write(&victim, "revoked", "v");
	server_folder("revoked", &ca, (struct pki_wish){.cn = "localhost"});
	tls.certificates = "revoked";
	listen_with(rig, tls);
	assert_let_in(&wish);
	pki_write_crl(&ca, &victim, 3600, "revoked/ca-crl.pem");
	listen_with(rig, tls);
	assert_kept_out(&wish);
	good.ca = "revoked/ca-cert.pem";
	assert_let_in(&good);
	pki_free(&victim);
}

static void a_shared_key_lets_in_whoever_has_it(void **state)
{
	static const struct tlspeer_wish wrong_key = {.user = "alice", .psk = MALLORYS};
	static const struct tlspeer_wish wrong_user = {.user = "mallory", .psk = MALLORYS};
	static const struct tlspeer_wish longer = {.user = "alices", .psk = ALICE_KEY};
	static const struct tlspeer_wish no_key = {.ca = NULL};
	static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
	struct rig *rig = *state;
	unsigned v;

	listen_with(rig, with_psk);
	for (v = 0; v < ARRAY_SIZE(versions); v++) {
		const struct tlspeer_wish *out[] = {&wrong_key, &wrong_user, &longer, &no_key};
		struct tlspeer_wish wish = alice;
		unsigned i;

		wish.version = versions[v];
		assert_let_in(&wish);
		for (i = 0; i < ARRAY_SIZE(out); i++) {
			wish = *out[i];
			wish.version = versions[v];
			assert_kept_out(&wish);
		}
	}
}

/* Who exists is nobody's business: the same alert for a wrong name as for a wrong key. */
static void an_unknown_user_fails_like_one_with_a_wrong_key(void **state)
{
	static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
	struct rig *rig = *state;
	unsigned v, i;

	listen_with(rig, with_psk);
	for (v = 0; v < ARRAY_SIZE(versions); v++) {
		unsigned long said[2];

		for (i = 0; i < 2; i++) {
			struct tlspeer_wish wish = {.user = i ? "alice" : "nobody",
						    .psk = MALLORYS,
						    .version = versions[v]};
			int fd = tls_begun();

			assert_null(tlspeer_connect(fd, &wish));
			said[i] = ERR_peek_error();
			peer_close(fd);
		}
		assert_true(said[0] && said[0] == said[1]);
	}
}

static void old_tls_and_weak_ciphers_are_not_spoken(void **state)
{
	struct tlspeer_wish wish = {.version = TLS1_1_VERSION, .ciphers = "ALL:@SECLEVEL=0"};
	struct rig *rig = *state;

	listen_with(rig, required);
	assert_kept_out(&wish);
	wish.version = TLS1_2_VERSION;
	wish.ciphers = "ECDHE+SHA:AES128-GCM-SHA256:@SECLEVEL=0";
	assert_kept_out(&wish);
	wish.ciphers = "ECDHE+AESGCM";
	assert_let_in(&wish);
	wish.ciphers = "ECDHE+CHACHA20";
	assert_let_in(&wish);
	listen_with(rig, with_psk);
	wish = alice;
	wish.version = TLS1_2_VERSION;
	wish.ciphers = "PSK-AES128-GCM-SHA256:ECDHE-PSK-AES128-CBC-SHA256:@SECLEVEL=0";
	assert_kept_out(&wish);
	wish.ciphers = "ECDHE-PSK-CHACHA20-POLY1305";
	assert_let_in(&wish);
	wish.ciphers = "DHE-PSK-AES128-GCM-SHA256";
	assert_let_in(&wish);
}

/* --- bytes ------------------------------------------------------------------------------------ */

static void records_of_one_byte_are_understood(void **state)
{
	struct rig *rig = *state;
	int fd;

	listen_with(rig, required);
	fd = tls_entered(&anybody, 1, false);
	assert_reads_and_writes(fd, 30000);
	peer_close(fd);
}

static void records_that_come_byte_by_byte_are_understood(void **state)
{
	struct rig *rig = *state;
	int fd;

	listen_with(rig, required);
	fd = tls_entered(&anybody, 1000, true);
	assert_reads_and_writes(fd, 60000);
	peer_close(fd);
}

/* Everything at once: large and small writes, of all alignments, each read back, replies in order
 * of whoever is first. The whole is sent before any reply is read. */
static void many_large_requests_at_once_arrive_whole(void **state)
{
	static const uint32_t sizes[] = {1,	 16383,	 16384,	  16385,   32768,  65536,
					 100000, 262144, 1048576, 3000001, 4194304};
	const unsigned count = ARRAY_SIZE(sizes);
	unsigned char *data = malloc(RIG_SIZE), *back = malloc(RIG_SIZE);
	uint64_t off[ARRAY_SIZE(sizes)], at = 7;
	struct rig *rig = *state;
	bool seen[ARRAY_SIZE(sizes)] = {false};
	unsigned i;
	int fd;

	assert_true(data && back);
	listen_with(rig, required);
	fd = tlspeer_tunnel(tls_connected(&anybody), ANY_RECORD, false);
	peer_option_expect(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
	assert_true(peer_go(fd, RIG_NAME, NULL, NULL));
	rig_pattern(data, RIG_SIZE, 3);
	for (i = 0; i < count; i++) {
		off[i] = at;
		peer_write(fd, i % 3 ? 0 : NBD_CMD_FLAG_FUA, i, at, data + at, sizes[i]);
		at += sizes[i];
	}
	for (i = 0; i < count; i++) {
		uint64_t cookie;

		assert_int_equal(peer_simple(fd, &cookie), 0);
		assert_true(cookie < count && !seen[cookie]);
		seen[cookie] = true;
	}
	for (i = 0; i < count; i++)
		peer_request(fd, 0, NBD_CMD_READ, i, off[i], sizes[i]);
	/* Replies to different requests come interleaved. */
	for (i = 0; i < count;) {
		struct peer_chunk c;

		peer_chunk(fd, &c);
		assert_int_equal(c.type, NBD_REPLY_TYPE_OFFSET_DATA);
		memcpy(back + c.off, c.data, c.data_len);
		i += c.flags & NBD_REPLY_FLAG_DONE ? 1 : 0;
		peer_chunk_free(&c);
	}
	assert_memory_equal(data + 7, back + 7, at - 7);
	assert_memory_equal(data + 7, rig->mem.data + 7, at - 7);
	peer_close(fd);
	free(data);
	free(back);
}

/* Payload in the server's hands while the export takes nothing: it waits, encrypted and not. */
static void payload_waits_for_an_export_without_room(void **state)
{
	unsigned char *data = malloc(8 << 20);
	struct rig *rig = *state;
	int fd;

	assert_non_null(data);
	listen_with(rig, required);
	atomic_store(&rig->mem.bite, 1000);
	atomic_store(&rig->mem.eagain_every, 3);
	fd = tls_entered(&anybody, ANY_RECORD, false);
	rig_pattern(data, 8 << 20, 5);
	peer_write(fd, NBD_CMD_FLAG_FUA, 1, 100, data, 2 << 20);
	assert_int_equal(peer_simple_to(fd, 1), 0);
	assert_memory_equal(rig->mem.data + 100, data, 2 << 20);
	atomic_store(&rig->mem.bite, 0);
	atomic_store(&rig->mem.eagain_every, 0);
	atomic_store(&rig->mem.choked, true);
	peer_write(fd, 0, 2, 0, data, 100000);
	peer_request(fd, 0, NBD_CMD_FLUSH, 3, 0, 0);
	rig_await(atomic_load(&rig->mem.eagains) > 1);
	atomic_store(&rig->mem.choked, false);
	assert_int_equal(peer_simple_to(fd, 2), 0);
	assert_int_equal(peer_simple_to(fd, 3), 0);
	assert_memory_equal(rig->mem.data, data, 100000);
	peer_close(fd);
	free(data);
}

static void a_client_that_reads_late_gets_all_its_replies(void **state)
{
	unsigned char *back = malloc(1 << 20);
	struct rig *rig = *state;
	unsigned i;
	int fd;

	assert_non_null(back);
	listen_with(rig, required);
	rig_pattern(rig->mem.data, 1 << 20, 1);
	fd = tls_entered(&anybody, ANY_RECORD, false);
	for (i = 0; i < 40; i++)
		peer_request(fd, 0, NBD_CMD_READ, i, 0, 1 << 20);
	for (i = 0; i < 200; i++)
		peer_request(fd, 0, NBD_CMD_CACHE, 1000 + i, 0, 512);
	usleep(300000);
	for (i = 0; i < 240; i++) {
		uint64_t cookie;

		assert_int_equal(peer_simple(fd, &cookie), 0);
		if (cookie >= 1000)
			continue;
		peer_recv(fd, back, 1 << 20);
		assert_memory_equal(rig->mem.data, back, 1 << 20);
	}
	peer_close(fd);
	free(back);
}

/* A handshake longer than all buffers of the TLS layer. */
static void a_long_chain_of_the_servers_comes_whole(void **state)
{
	struct nbd_tls_config tls = required;
	struct rig *rig = *state;
	unsigned i;
	FILE *f;

	server_folder("long", &ca, (struct pki_wish){.cn = "localhost"});
	f = fopen("long/server-cert.pem", "a");
	assert_non_null(f);
	for (i = 0; i < 200; i++)
		assert_int_equal(PEM_write_X509(f, ca.cert), 1);
	assert_true(ftell(f) > 100000);
	assert_int_equal(fclose(f), 0);
	tls.certificates = "long";
	listen_with(rig, tls);
	assert_let_in(&anybody);
}

/* An answer longer than all buffers of the TLS layer. */
static void a_long_list_of_exports_comes_whole(void **state)
{
	char name[32], description[4000];
	struct nbd_export *exports[300];
	struct nbd_null null[300] = {0};
	struct rig *rig = *state;
	struct err err = ERR_INIT;
	struct peer_rep rep;
	unsigned i;
	int fd;

	listen_with(rig, required);
	memset(description, 'd', sizeof(description) - 1);
	description[sizeof(description) - 1] = '\0';
	for (i = 0; i < ARRAY_SIZE(exports); i++) {
		struct nbd_export_config config = {
			.name = name, .size = 4096, .description = description};

		snprintf(name, sizeof(name), "export %u", i);
		rig_ok(nbd_export_add(rig->server, &config, &nbd_export_null_ops, &null[i],
				      &exports[i], &err),
		       &err);
	}
	fd = tls_open(&anybody);
	peer_option(fd, NBD_OPT_LIST, NULL, 0);
	for (i = 0; i < ARRAY_SIZE(exports) + 1; i++) {
		peer_rep(fd, &rep);
		assert_int_equal(rep.type, NBD_REP_SERVER);
	}
	peer_rep(fd, &rep);
	assert_int_equal(rep.type, NBD_REP_ACK);
	peer_close(fd);
	for (i = 0; i < ARRAY_SIZE(exports); i++)
		nbd_export_remove(exports[i], true);
}

static void connections_with_tls_move_to_their_exports_worker(void **state)
{
	struct memexport mem[4];
	struct nbd_export *export[4];
	struct rig *rig = *state;
	char name[8];
	unsigned i, round;
	int fd[4];

	listen_with(rig, required);
	for (i = 0; i < 4; i++) {
		memexport_init(&mem[i], 1 << 20);
		snprintf(name, sizeof(name), "e%u", i);
		export[i] = rig_add(rig, &mem[i], name);
	}
	for (round = 0; round < 5; round++) {
		for (i = 0; i < 4; i++) {
			snprintf(name, sizeof(name), "e%u", i);
			fd[i] = tls_open(&anybody);
			assert_true(peer_go(fd[i], name, NULL, NULL));
		}
		for (i = 0; i < 4; i++) {
			assert_reads_and_writes(fd[i], 200000);
			peer_close(fd[i]);
		}
	}
	for (i = 0; i < 4; i++) {
		assert_int_equal(nbd_export_remove(export[i], false), 0);
		memexport_deinit(&mem[i]);
	}
}

/* Handshake's end, options, requests: all in one write of the client's. */
static void a_whole_session_behind_the_handshake_survives_the_hand_off(void **state)
{
	unsigned char b[4096], *p = b;
	struct rig *rig = *state;
	unsigned round, i;
	size_t n;

	listen_with(rig, required);
	n = peer_info_data(p + NBD_OPTION_SIZE, RIG_NAME, NULL, 0);
	store_be64(p, NBD_OPTION_MAGIC);
	store_be32(p + 8, NBD_OPT_GO);
	store_be32(p + 12, n);
	p += NBD_OPTION_SIZE + n;
	for (i = 0; i < 20; i++, p += NBD_REQUEST_SIZE)
		peer_put_request(p, 0, NBD_CMD_FLUSH, i, 0, 0);
	for (round = 0; round < 20; round++) {
		int fd = tls_open(&anybody);
		struct peer_rep rep;

		peer_send(fd, b, p - b);
		do
			peer_rep(fd, &rep);
		while (rep.type == NBD_REP_INFO);
		assert_int_equal(rep.type, NBD_REP_ACK);
		for (i = 0; i < 20; i++) {
			uint64_t cookie;

			assert_int_equal(peer_simple(fd, &cookie), 0);
		}
		peer_close(fd);
	}
}

/* --- keys and goodbyes ------------------------------------------------------------------------ */

static void put_go(SSL *ssl)
{
	unsigned char b[512];
	size_t n = peer_info_data(b + NBD_OPTION_SIZE, RIG_NAME, NULL, 0);

	store_be64(b, NBD_OPTION_MAGIC);
	store_be32(b + 8, NBD_OPT_GO);
	store_be32(b + 12, n);
	assert_int_equal(SSL_write(ssl, b, NBD_OPTION_SIZE + n), NBD_OPTION_SIZE + n);
	do {
		assert_int_equal(SSL_read(ssl, b, NBD_REP_SIZE), NBD_REP_SIZE);
		n = load_be32(b + 16);
		if (n)
			assert_int_equal(SSL_read(ssl, b + NBD_REP_SIZE, n), n);
	} while (load_be32(b + 12) != NBD_REP_ACK);
}

static void flush_once(SSL *ssl, uint64_t cookie)
{
	unsigned char b[NBD_REQUEST_SIZE];

	peer_put_request(b, 0, NBD_CMD_FLUSH, cookie, 0, 0);
	assert_int_equal(SSL_write(ssl, b, sizeof(b)), sizeof(b));
	assert_int_equal(SSL_read(ssl, b, NBD_SIMPLE_SIZE), NBD_SIMPLE_SIZE);
	assert_true(load_be64(b + 8) == cookie);
}

static void keys_are_changed_while_requests_run(void **state)
{
	struct rig *rig = *state;
	unsigned i;
	SSL *ssl;
	int fd;

	listen_with(rig, required);
	ssl = tls_connected(&anybody);
	fd = SSL_get_fd(ssl);
	assert_int_equal(SSL_key_update(ssl, SSL_KEY_UPDATE_REQUESTED), 1);
	put_go(ssl);
	for (i = 0; i < 100; i++) {
		assert_int_equal(SSL_key_update(ssl, i % 2 ? SSL_KEY_UPDATE_REQUESTED
							   : SSL_KEY_UPDATE_NOT_REQUESTED),
				 1);
		flush_once(ssl, i);
	}
	SSL_free(ssl);
	peer_close(fd);
}

/* OpenSSL does not count; the deadline of the negotiation does. */
static void who_changes_keys_and_does_nothing_else_is_out_of_time(void **state)
{
	struct rig *rig = rig_start((struct nbd_server_config){
		.workers = 1, .batch_count = 2, .handshake_timeout_ms = 300});
	SSL *ssl;
	int fd;

	(void)state;
	listen_with(rig, required);
	rig_await((ssl = tls_try_connected(&anybody)) != NULL);
	fd = SSL_get_fd(ssl);
	do
		SSL_key_update(ssl, SSL_KEY_UPDATE_REQUESTED);
	while (SSL_do_handshake(ssl) == 1);
	peer_drain_to_end(fd);
	SSL_free(ssl);
	peer_close(fd);
	rig_change_limits(rig, (struct nbd_server_config){0});
	assert_let_in(&anybody);
	rig_stop(rig);
}

static void both_sides_say_goodbye(void **state)
{
	unsigned char b[NBD_REQUEST_SIZE];
	struct rig *rig = *state;
	SSL *ssl;
	int fd, n;

	listen_with(rig, required);
	/* The server after DISC, what was outstanding being answered before. */
	ssl = tls_connected(&anybody);
	fd = SSL_get_fd(ssl);
	put_go(ssl);
	flush_once(ssl, 1);
	peer_put_request(b, 0, NBD_CMD_DISC, 2, 0, 0);
	SSL_write(ssl, b, sizeof(b));
	n = SSL_read(ssl, b, sizeof(b));
	assert_int_equal(SSL_get_error(ssl, n), SSL_ERROR_ZERO_RETURN);
	assert_true(peer_at_end(fd));
	SSL_free(ssl);
	peer_close(fd);
	/* The client: the server answers in kind. */
	ssl = tls_connected(&anybody);
	fd = SSL_get_fd(ssl);
	put_go(ssl);
	assert_int_equal(SSL_shutdown(ssl), 0);
	n = SSL_read(ssl, b, sizeof(b));
	assert_int_equal(SSL_get_error(ssl, n), SSL_ERROR_ZERO_RETURN);
	assert_true(peer_at_end(fd));
	SSL_free(ssl);
	peer_close(fd);
	rig_await(rig_stats(rig).connections == 0);
}

static void a_removed_export_says_goodbye_in_tls(void **state)
{
	struct rig *rig = *state;
	unsigned char c;
	SSL *ssl;
	int fd, n;

	listen_with(rig, required);
	ssl = tls_connected(&anybody);
	fd = SSL_get_fd(ssl);
	put_go(ssl);
	assert_int_equal(nbd_export_remove(rig->export, false), 0);
	rig->export = NULL;
	n = SSL_read(ssl, &c, 1);
	assert_int_equal(SSL_get_error(ssl, n), SSL_ERROR_ZERO_RETURN);
	SSL_free(ssl);
	peer_close(fd);
}

static void sessions_broken_off_anywhere_leave_nothing_behind(void **state)
{
	struct rig *rig = *state;
	unsigned i;

	listen_with(rig, required);
	for (i = 0; i < 40; i++) {
		unsigned char request[NBD_REQUEST_SIZE + 5000] = {0};
		SSL *ssl = tls_connected(&anybody);
		int fd = SSL_get_fd(ssl);

		put_go(ssl);
		peer_put_request(request, 0, i % 2 ? NBD_CMD_WRITE : NBD_CMD_READ, i, 0,
				 NBD_MAX_PAYLOAD);
		SSL_write(ssl, request, NBD_REQUEST_SIZE + (i % 2 ? i * 100 : 0));
		SSL_free(ssl);
		peer_close(fd);
	}
	rig_await(rig_stats(rig).connections == 0);
	assert_let_in(&anybody);
}

/* --- cost ------------------------------------------------------------------------------------- */

static long resident_kib(void)
{
	FILE *f = fopen("/proc/self/statm", "r");
	long size, resident;

	assert_non_null(f);
	assert_int_equal(fscanf(f, "%ld %ld", &size, &resident), 2);
	fclose(f);
	return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

/* Both ends are in this process: the bound is for two. */
static void connections_with_tls_cost_what_is_documented(void **state)
{
	enum { COUNT = 60 };
	struct rig *rig = *state;
	SSL *ssl[COUNT];
	long before;
	unsigned i;

	listen_with(rig, required);
	assert_let_in(&anybody);
	before = resident_kib();
	for (i = 0; i < COUNT; i++) {
		ssl[i] = tls_connected(&anybody);
		put_go(ssl[i]);
		flush_once(ssl[i], i);
	}
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	assert_true(resident_kib() - before < COUNT * (24 + 130 + 100));
#else
	(void)before;
#endif
	for (i = 0; i < COUNT; i++) {
		int fd = SSL_get_fd(ssl[i]);

		SSL_free(ssl[i]);
		peer_close(fd);
	}
}

/* --- credentials ------------------------------------------------------------------------------ */

static void refused(struct rig *rig, struct nbd_tls_config tls, const char *what)
{
	struct err err = ERR_INIT;
	int r = try_listen(rig, tls, &err);

	if (!r)
		fail_msg("taken, where '%s' was expected", what);
	if (!strstr(err.text, what))
		fail_msg("'%s' does not say '%s'", err.text, what);
	assert_null(strstr(err.text, "aabbccdd")); /* no key in any message */
}

static void refused_folder(struct rig *rig, const char *folder, const char *what)
{
	refused(rig, (struct nbd_tls_config){.policy = NBD_TLS_REQUIRE, .certificates = folder},
		what);
}

static void refused_keys(struct rig *rig, const char *text, const char *what)
{
	put_text("wrong.psk", text);
	refused(rig, (struct nbd_tls_config){.policy = NBD_TLS_ALLOW, .psk = "wrong.psk"}, what);
}

static void certificates_that_are_not_in_order_are_refused(void **state)
{
	static const struct pki_wish plain = {.cn = "localhost"};
	struct rig *rig = *state;
	struct pki p;
	FILE *f;

	refused_folder(rig, "nowhere", "nowhere/server-cert.pem");
	server_folder("no-key", &ca, plain);
	unlink("no-key/server-key.pem");
	refused_folder(rig, "no-key", "no-key/server-key.pem");
	server_folder("other-key", &ca, plain);
	assert_int_equal(rename("clients/agent2-key.pem", "other-key/server-key.pem"), 0);
	refused_folder(rig, "other-key", "does not belong");
	server_folder("expired", &ca,
		      (struct pki_wish){.cn = "localhost", .from_s = -7200, .until_s = -3600});
	refused_folder(rig, "expired", "expired on");
	server_folder("early", &ca,
		      (struct pki_wish){.cn = "localhost", .from_s = 7200, .until_s = 90000});
	refused_folder(rig, "early", "valid from");
	server_folder("foreign", &other_ca, plain);
	refused_folder(rig, "foreign", "will not accept");
	server_folder("client", &ca, (struct pki_wish){.cn = "localhost", .usage = "clientAuth"});
	refused_folder(rig, "client", "will not accept");
	server_folder("junk", &ca, plain);
	put_text("junk/server-cert.pem", "junk\n");
	refused_folder(rig, "junk", "junk/server-cert.pem");
	server_folder("junk-ca", &ca, plain);
	put_text("junk-ca/ca-cert.pem", "junk\n");
	refused_folder(rig, "junk-ca", "junk-ca/ca-cert.pem");
	server_folder("junk-crl", &ca, plain);
	put_text("junk-crl/ca-crl.pem", "junk\n");
	refused_folder(rig, "junk-crl", "junk-crl/ca-crl.pem");
	server_folder("old-crl", &ca, plain);
	pki_write_crl(&ca, NULL, -60, "old-crl/ca-crl.pem");
	refused_folder(rig, "old-crl", "CRL has expired");
	pki_issue(&p, &ca, &plain);
	pki_write(&ca, "self-revoked", "ca");
	pki_write(&p, "self-revoked", "server");
	pki_write_crl(&ca, &p, 3600, "self-revoked/ca-crl.pem");
	refused_folder(rig, "self-revoked", "revoked");
	pki_write(&p, "locked", "server");
	f = fopen("locked/server-key.pem", "w");
	assert_non_null(f);
	assert_int_equal(PEM_write_PrivateKey(f, p.key, EVP_aes_128_cbc(), NULL, 0, NULL, "pw"), 1);
	fclose(f);
	refused_folder(rig, "locked", "pass phrase");
	pki_free(&p);
	/* Put back for the tests behind this one. */
	issue(&ca,
	      (struct pki_wish){.cn = "agent2", .dns = "agent2.example.com", .usage = "clientAuth"},
	      "clients", "agent2");
}

static void settings_that_contradict_each_other_are_refused(void **state)
{
	static const char *const names[] = {"a"}, *const empty[] = {""};
	struct rig *rig = *state;
	struct nbd_tls_config tls = required;

	tls.allow = names;
	tls.allow_count = 1;
	refused(rig, tls, "verify peer");
	tls.verify_peer = true;
	tls.allow = empty;
	refused(rig, tls, "empty");
	server_folder("no-ca", &ca, (struct pki_wish){.cn = "localhost"});
	unlink("no-ca/ca-cert.pem");
	tls = verifying;
	tls.certificates = "no-ca";
	refused(rig, tls, "no-ca/ca-cert.pem");
	tls.verify_peer = false; /* nobody to check, nothing to check with */
	listen_with(rig, tls);
	assert_let_in(&(struct tlspeer_wish){.ca = NULL});
	tls = with_psk;
	tls.verify_peer = true;
	refused(rig, tls, "certificate");
	tls = with_psk;
	tls.certificates = "server";
	refused(rig, tls, "either");
	refused(rig, (struct nbd_tls_config){.policy = NBD_TLS_ALLOW}, "either");
	/* Off is off, whatever else is said. */
	tls.policy = NBD_TLS_OFF;
	listen_with(rig, tls);
	peer_option_expect(greeted(), NBD_OPT_STARTTLS, NULL, 0, NBD_REP_ERR_UNSUP);
}

static void key_files_that_are_not_in_order_are_refused(void **state)
{
	struct rig *rig = *state;
	char *big = malloc(3 << 20);

	refused_keys(rig, "", "no key");
	refused_keys(rig, "# nobody\n", "no key");
	refused_keys(rig, "alice\n", "line 1");
	refused_keys(rig, "alice:" ALICE_KEY "\n:" ALICE_KEY "\n", "line 2");
	refused_keys(rig, "alice:aabbccdd\n", "line 1: the key must be 16 to 64 bytes");
	refused_keys(rig, "alice:" ALICE_KEY "0\n", "line 1: the key");
	refused_keys(rig, "alice:" ALICE_KEY ALICE_KEY ALICE_KEY "\n", "line 1: the key");
	refused_keys(rig, "alice:0011223344556677_899aabbccddeeff\n", "line 1: the key");
	refused_keys(rig, "alice:" ALICE_KEY "\nbob:" MALLORYS "\nalice:" MALLORYS "\n",
		     "line 3: this user");
	assert_non_null(big);
	memset(big, 'a', 3 << 20);
	big[(3 << 20) - 1] = '\0';
	refused_keys(rig, big, "not a file of keys");
	big[300] = '\0';
	memcpy(big + 200, ":" ALICE_KEY, 65);
	refused_keys(rig, big, "line 1");
	free(big);
	refused(rig, (struct nbd_tls_config){.policy = NBD_TLS_ALLOW, .psk = "none.psk"},
		"none.psk");
	refused(rig, (struct nbd_tls_config){.policy = NBD_TLS_ALLOW, .psk = "server"}, "server");
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
	const struct CMUnitTest tests[] = {
		T(before_tls_nothing_is_told_where_it_is_required),
		T(a_client_of_old_cannot_come_where_tls_is_required),
		T(within_tls_everything_works_and_starttls_is_invalid),
		T(where_tls_is_allowed_both_kinds_of_clients_are_served),
		T(starttls_with_data_is_invalid_and_leaves_all_as_it_was),
		T(what_was_negotiated_before_tls_is_forgotten),
		T(what_stands_behind_starttls_unencrypted_ends_the_session),
		T(what_is_no_tls_after_the_answer_ends_the_session),
		T(a_record_that_was_tampered_with_ends_the_session_unapplied),
		cmocka_unit_test(a_handshake_that_does_not_go_on_is_ended),
		cmocka_unit_test(after_a_handshake_the_deadline_still_counts),
		T(a_client_must_show_a_certificate_of_the_authority),
		T(only_clients_that_are_allowed_by_name_come_in),
		T(a_revoked_client_stays_out),
		T(a_shared_key_lets_in_whoever_has_it),
		T(an_unknown_user_fails_like_one_with_a_wrong_key),
		T(old_tls_and_weak_ciphers_are_not_spoken),
		T(records_of_one_byte_are_understood),
		T(records_that_come_byte_by_byte_are_understood),
		T(many_large_requests_at_once_arrive_whole),
		T(payload_waits_for_an_export_without_room),
		T(a_client_that_reads_late_gets_all_its_replies),
		T(a_long_chain_of_the_servers_comes_whole),
		T(a_long_list_of_exports_comes_whole),
		T(connections_with_tls_move_to_their_exports_worker),
		T(a_whole_session_behind_the_handshake_survives_the_hand_off),
		T(keys_are_changed_while_requests_run),
		cmocka_unit_test(who_changes_keys_and_does_nothing_else_is_out_of_time),
		T(both_sides_say_goodbye),
		T(a_removed_export_says_goodbye_in_tls),
		T(sessions_broken_off_anywhere_leave_nothing_behind),
		T(connections_with_tls_cost_what_is_documented),
		T(certificates_that_are_not_in_order_are_refused),
		T(settings_that_contradict_each_other_are_refused),
		T(key_files_that_are_not_in_order_are_refused),
	};

	return cmocka_run_group_tests(tests, make_all, drop_all);
}
