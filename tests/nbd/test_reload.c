/* Other limits, certificates and keys while clients are connected, and at work. */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "tests/nbd/rig.h"
#include "tests/support/pki.h"
#include "tests/support/scratch.h"
#include "tests/support/tlspeer.h"

#define ANY_RECORD 16384

static struct pki ca, next_ca;
static char address[200]; /* of the listener that does TLS */

static const struct nbd_tls_config required = {.policy = NBD_TLS_REQUIRE, .certificates = "server"};
static const struct tlspeer_wish old_wish = {.ca = "old/ca-cert.pem"};
static const struct tlspeer_wish new_wish = {.ca = "new/ca-cert.pem"};

/* --- fixture ---------------------------------------------------------------------------------- */

static void put_server(const struct pki *by)
{
	struct pki server;

	pki_issue(&server, by, &(struct pki_wish){.cn = "localhost", .usage = "serverAuth"});
	pki_write(&server, "server", "server");
	pki_write(by, "server", "ca");
	pki_free(&server);
}

static int setup(void **state)
{
	if (scratch_setup(state))
		return -1;
	pki_authority(&ca, "test authority");
	pki_authority(&next_ca, "next authority");
	mkdir("server", 0700);
	pki_write(&ca, "old", "ca");
	pki_write(&next_ca, "new", "ca");
	put_server(&ca);
	return rig_setup(state);
}

static int teardown(void **state)
{
	rig_stop(*state);
	pki_free(&ca);
	pki_free(&next_ca);
	return scratch_teardown(state);
}

static void listen_tls(struct rig *rig)
{
	const struct nbd_listen_config config = {.tls = required};
	struct err err = ERR_INIT;

	snprintf(address, sizeof(address), "unix:%s/tls", rig->dir);
	rig_ok(nbd_server_listen(rig->server, address, &config, NULL, 0, &err), &err);
}

/* The TLS listener gets @tls, the server @limits; what comes out. */
static int change(struct rig *rig, struct nbd_server_config limits, struct nbd_tls_config tls,
		  struct err *err)
{
	const struct nbd_listen_config listener = {.tls = tls};
	const char *addresses[] = {address};
	struct nbd_change *c;
	int rc = nbd_server_prepare(rig->server, &limits, addresses, &listener, 1, &c, err);

	if (!rc)
		nbd_server_apply(rig->server, c);
	return rc;
}

static SSL *shaken(const struct tlspeer_wish *wish)
{
	int fd = peer_connect(address);
	SSL *ssl;

	peer_greet(fd, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	peer_option_expect(fd, NBD_OPT_STARTTLS, NULL, 0, NBD_REP_ACK);
	ssl = tlspeer_connect(fd, wish);
	if (!ssl)
		peer_close(fd);
	return ssl;
}

static int entered(const struct tlspeer_wish *wish)
{
	SSL *ssl = shaken(wish);
	int fd;

	assert_non_null(ssl);
	fd = tlspeer_tunnel(ssl, ANY_RECORD, false);
	assert_true(peer_go(fd, RIG_NAME, NULL, NULL));
	return fd;
}

static void assert_refused(const struct tlspeer_wish *wish)
{
	SSL *ssl = shaken(wish);

	assert_null(ssl);
}

static void write_and_read(int fd, uint64_t at)
{
	unsigned char data[65536], back[65536];

	rig_pattern(data, sizeof(data), at);
	peer_write(fd, 0, 1, at, data, sizeof(data));
	assert_int_equal(peer_simple_to(fd, 1), 0);
	peer_request(fd, 0, NBD_CMD_READ, 2, at, sizeof(back));
	assert_int_equal(peer_simple_to(fd, 2), 0);
	peer_recv(fd, back, sizeof(back));
	assert_memory_equal(data, back, sizeof(data));
}

/* --- certificates ----------------------------------------------------------------------------- */

static void a_new_certificate_is_for_new_connections(void **state)
{
	struct rig *rig = *state;
	struct err err = ERR_INIT;
	int old, fd, begun;

	listen_tls(rig);
	old = entered(&old_wish);
	begun = peer_connect(address); /* came before, shakes hands after */
	write_and_read(old, 0);
	assert_refused(&new_wish);
	put_server(&next_ca);
	assert_refused(&new_wish); /* not before it is told to */
	rig_ok(change(rig, (struct nbd_server_config){0}, required, &err), &err);
	fd = entered(&new_wish);
	assert_refused(&old_wish);
	write_and_read(old, 1 << 20);
	write_and_read(fd, 2 << 20);
	peer_greet(begun, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	peer_option_expect(begun, NBD_OPT_STARTTLS, NULL, 0, NBD_REP_ACK);
	begun = tlspeer_tunnel(tlspeer_connect(begun, &old_wish), ANY_RECORD, false);
	assert_true(peer_go(begun, RIG_NAME, NULL, NULL));
	peer_close(begun);
	peer_close(old);
	peer_close(fd);
}

static void a_broken_certificate_changes_nothing(void **state)
{
	struct nbd_tls_config missing = required;
	struct rig *rig = *state;
	struct err err = ERR_INIT;
	struct pki other;
	int fd;

	listen_tls(rig);
	pki_issue(&other, &ca, &(struct pki_wish){.cn = "localhost"});
	pki_write(&other, "other", "server");
	pki_free(&other);
	scratch_run("cp other/server-key.pem server/");
	assert_true(change(rig, (struct nbd_server_config){.max_connections = 1}, required, &err) <
		    0);
	assert_non_null(strstr(err.text, "the key does not belong to server-cert.pem"));
	scratch_run("echo nonsense > server/server-cert.pem");
	assert_true(change(rig, (struct nbd_server_config){.max_connections = 1}, required, &err) <
		    0);
	missing.certificates = "nowhere";
	assert_true(change(rig, (struct nbd_server_config){.max_connections = 1}, missing, &err) <
		    0);
	assert_non_null(strstr(err.text, "nowhere/server-cert.pem"));
	fd = entered(&old_wish);
	write_and_read(fd, 0);
	peer_close(entered(&old_wish)); /* a second one: the limit has not changed either */
	peer_close(fd);
}

static void a_listener_may_begin_and_cease_to_require_it(void **state)
{
	const struct nbd_tls_config off = {.policy = NBD_TLS_OFF};
	struct rig *rig = *state;
	struct err err = ERR_INIT;
	int tls, plain;

	listen_tls(rig);
	tls = entered(&old_wish);
	rig_ok(change(rig, (struct nbd_server_config){0}, off, &err), &err);
	plain = peer_enter(address, RIG_NAME);
	write_and_read(tls, 0);
	rig_ok(change(rig, (struct nbd_server_config){0}, required, &err), &err);
	write_and_read(plain, 1 << 20);
	peer_close(entered(&old_wish));
	peer_close(plain);
	peer_close(tls);
}

/* --- limits ----------------------------------------------------------------------------------- */

/* The server hangs up on, or greets, who comes now. */
static bool let_in(const char *at)
{
	int fd = peer_connect(at);
	char magic[18];
	bool in = recv(fd, magic, sizeof(magic), MSG_WAITALL) == (ssize_t)sizeof(magic);

	peer_close(fd);
	return in;
}

static void new_limits_are_met_by_who_comes_and_by_who_idles(void **state)
{
	struct rig *rig = *state;
	struct nbd_server_stats stats;
	int a, b, third;
	char byte;

	a = peer_enter(rig->address, RIG_NAME);
	b = peer_enter(rig->address, RIG_NAME);
	rig_change_limits(rig, (struct nbd_server_config){.max_connections = 2});
	assert_false(let_in(rig->address));
	write_and_read(a, 0); /* who is in stays */
	rig_change_limits(rig, (struct nbd_server_config){.max_connections = 3});
	assert_true(let_in(rig->address));
	rig_change_limits(rig, (struct nbd_server_config){.max_connections_per_export = 2});
	third = peer_connect(rig->address);
	peer_greet(third, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	assert_false(peer_go(third, RIG_NAME, NULL, NULL));
	peer_close(third);
	rig_change_limits(rig, (struct nbd_server_config){.idle_timeout_ms = 50});
	assert_int_equal(recv(a, &byte, 1, 0), 0);
	assert_int_equal(recv(b, &byte, 1, 0), 0);
	nbd_server_get_stats(rig->server, &stats);
	assert_true(stats.met[NBD_LIMIT_CONNECTIONS] >= 1 && stats.met[NBD_LIMIT_EXPORT] == 1 &&
		    stats.met[NBD_LIMIT_IDLE] >= 2);
	peer_close(a);
	peer_close(b);
}

static void a_limit_out_of_bounds_is_refused(void **state)
{
	const struct nbd_server_config wrong = {.max_option_bytes = 1};
	struct rig *rig = *state;
	struct err err = ERR_INIT;
	struct nbd_change *c;

	assert_int_equal(nbd_server_prepare(rig->server, &wrong, NULL, NULL, 0, &c, &err), -EINVAL);
	assert_non_null(strstr(err.text, "max_option_bytes"));
}

/* --- under load ------------------------------------------------------------------------------- */

struct mover {
	const char *at;
	const struct tlspeer_wish *wish; /* NULL: no TLS */
	uint64_t from;
	atomic_bool *stop;
	atomic_uint rounds;
	pthread_t thread;
};

static void *move(void *arg)
{
	struct mover *m = arg;
	int fd = m->wish ? entered(m->wish) : peer_enter(m->at, RIG_NAME);

	for (unsigned i = 0; !atomic_load(m->stop); i++) {
		write_and_read(fd, m->from + i % 64 * 65536);
		atomic_fetch_add(&m->rounds, 1);
	}
	peer_close(fd);
	return NULL;
}

static void transfers_go_on_while_all_of_it_changes(void **state)
{
	struct rig *rig = *state;
	struct err err = ERR_INIT;
	atomic_bool stop = false;
	struct mover movers[4];

	listen_tls(rig);
	for (unsigned i = 0; i < ARRAY_SIZE(movers); i++) {
		movers[i] = (struct mover){.at = rig->address,
					   .wish = i % 2 ? &old_wish : NULL,
					   .from = (uint64_t)i << 23,
					   .stop = &stop};
		assert_int_equal(pthread_create(&movers[i].thread, NULL, move, &movers[i]), 0);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(movers); i++)
		rig_await(atomic_load(&movers[i].rounds) > 0);
	for (unsigned i = 0; i < 50; i++) {
		put_server(i % 2 ? &ca : &next_ca);
		rig_ok(change(rig,
			      (struct nbd_server_config){
				      .max_inflight_bytes = (1 + i % 8) << 18,
				      .handshake_percent = 1 + i % 100,
				      .idle_timeout_ms = 60000 + i,
				      .max_connections = 4 + i % 3,
			      },
			      required, &err),
		       &err);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(movers); i++) {
		unsigned now = atomic_load(&movers[i].rounds);

		rig_await(atomic_load(&movers[i].rounds) > now);
	}
	atomic_store(&stop, true);
	for (unsigned i = 0; i < ARRAY_SIZE(movers); i++)
		assert_int_equal(pthread_join(movers[i].thread, NULL), 0);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_new_certificate_is_for_new_connections),
		T(a_broken_certificate_changes_nothing),
		T(a_listener_may_begin_and_cease_to_require_it),
		T(new_limits_are_met_by_who_comes_and_by_who_idles),
		T(a_limit_out_of_bounds_is_refused),
		T(transfers_go_on_while_all_of_it_changes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
