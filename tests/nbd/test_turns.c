/*
 * Clients that begin, by the hundred, while others are being served: who is served and who comes
 * from elsewhere does not wait for them, and none of them is forgotten.
 */
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "nbd/turns.h"
#include "tests/nbd/rig.h"
#include "tests/support/pki.h"
#include "tests/support/scratch.h"
#include "tests/support/tlspeer.h"

/* Three times what a worker's saved time is enough for where this was written. */
#define FLOOD 1200
#define TRIES 10

static struct rig *rig;
static char tcp[100];	 /* the listener that allows TLS */
static int flood[FLOOD]; /* connections of 127.0.0.1, each with a hello sent */
static unsigned char hello[4096];
static int hello_len;

static struct nbd_server_stats stats(void)
{
	struct nbd_server_stats s;

	nbd_server_get_stats(rig->server, &s);
	return s;
}

/* --- somebody who is served ------------------------------------------------------------------- */

static pthread_t served_thread;
static atomic_bool served_stop;
static atomic_uint served;
static atomic_llong served_ns, rested_ns; /* when last; the longest time between two */

static long long now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void *served_main(void *arg)
{
	int fd = peer_enter(rig->address, RIG_NAME);

	(void)arg;
	while (!atomic_load(&served_stop)) {
		long long rested;

		peer_request(fd, 0, NBD_CMD_CACHE, 1, 0, 512);
		assert_int_equal(peer_simple_to(fd, 1), 0);
		rested = now_ns() - atomic_load(&served_ns);
		if (rested > atomic_load(&rested_ns))
			atomic_store(&rested_ns, rested);
		atomic_store(&served_ns, now_ns());
		atomic_fetch_add(&served, 1);
		usleep(1000);
	}
	peer_close(fd);
	return NULL;
}

/* Nobody is served who has not asked for a second, and then a flood need not wait. Half of that,
 * since the server reckons by its own looks at the clock. */
static bool served_rested(void)
{
	long long since = now_ns() - atomic_load(&served_ns);

	return since > NBD_TURN_QUIET_NS / 2 || atomic_load(&rested_ns) > NBD_TURN_QUIET_NS / 2;
}

static void served_begin(void)
{
	atomic_store(&served_stop, false);
	atomic_store(&served, 0);
	atomic_store(&served_ns, now_ns());
	atomic_store(&rested_ns, 0);
	assert_int_equal(pthread_create(&served_thread, NULL, served_main, NULL), 0);
	rig_await(atomic_load(&served) > 20);
}

static void served_end(void)
{
	atomic_store(&served_stop, true);
	pthread_join(served_thread, NULL);
}

/* --- the flood -------------------------------------------------------------------------------- */

static int connect_from(unsigned last)
{
	struct sockaddr_in sin = {.sin_family = AF_INET};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK - 1 + last);
	assert_int_equal(bind(fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
	sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	sin.sin_port = htons(atoi(strrchr(tcp, ':') + 1));
	assert_int_equal(connect(fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
	return fd;
}

static int starttls_from(unsigned last)
{
	int fd = connect_from(last);

	peer_greet(fd, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	peer_option_expect(fd, NBD_OPT_STARTTLS, NULL, 0, NBD_REP_ACK);
	return fd;
}

/* With nobody served, so that it is quick. */
static void flood_connect(void)
{
	for (unsigned i = 0; i < FLOOD; i++)
		flood[i] = starttls_from(1);
}

static void flood_hello(void)
{
	for (unsigned i = 0; i < FLOOD; i++)
		peer_send(flood[i], hello, hello_len);
}

/* How many have had an answer to their hello. */
static unsigned flood_answered(void)
{
	unsigned n = 0;
	int unread;

	for (unsigned i = 0; i < FLOOD; i++)
		n += ioctl(flood[i], FIONREAD, &unread) == 0 && unread > 0;
	return n;
}

/* Some of it waits. False: it does not have to, since the machine did not let the one be served who
 * is. */
static bool flood_waits(void)
{
	if (flood_answered() < FLOOD)
		return true;
	assert_true(served_rested());
	return false;
}

static void flood_end(void)
{
	for (unsigned i = 0; i < FLOOD; i++)
		peer_close(flood[i]);
}

/* --- tests ------------------------------------------------------------------------------------ */

/* A percent of one worker was forty hellos a second where this was written, and all that may be
 * saved up, two hundred. */
static int setup(void **state)
{
	struct nbd_listen_config config = {
		.tls = {.policy = NBD_TLS_ALLOW, .certificates = "server"}};
	struct err err = ERR_INIT;

	(void)state;
	rig = rig_start((struct nbd_server_config){.workers = 1,
						   .batch_count = 2,
						   .max_connections = 2 * FLOOD,
						   .max_connections_per_peer = FLOOD + 10,
						   .handshake_percent = 1,
						   .handshake_timeout_ms = 600000});
	rig_ok(nbd_server_listen(rig->server, "127.0.0.1:0", &config, tcp, sizeof(tcp), &err),
	       &err);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	if (rig)
		rig_stop(rig);
	return 0;
}

/* False: inconclusive, see flood_waits(). */
static bool comes_from_elsewhere(void)
{
	static const struct tlspeer_wish wish = {.ca = "server/ca-cert.pem"};
	unsigned before;
	bool waits;
	SSL *ssl;
	int fd;

	flood_connect();
	served_begin();
	flood_hello();
	fd = starttls_from(2);
	ssl = tlspeer_connect(fd, &wish);
	assert_non_null(ssl);
	waits = flood_waits();
	fd = tlspeer_tunnel(ssl, 16384, false);
	assert_true(peer_go(fd, RIG_NAME, NULL, NULL));
	peer_close(fd);
	/* Who is served goes on being served, and the flood waits. */
	before = atomic_load(&served);
	rig_await(atomic_load(&served) > before + 100);
	waits = waits && flood_waits();
	/* With nobody served there is nobody to keep it from its answers. */
	served_end();
	rig_await(flood_answered() == FLOOD);
	flood_end();
	rig_await(stats().connections == 0);
	return waits;
}

static void who_comes_from_elsewhere_does_not_wait_for_a_flood(void **state)
{
	unsigned tries = 0;

	(void)state;
	while (!comes_from_elsewhere())
		assert_true(++tries < TRIES);
	assert_true(stats().waited > 0);
}

static void who_waits_may_leave(void **state)
{
	unsigned tries = 0;
	bool waits;

	(void)state;
	do {
		flood_connect();
		served_begin();
		flood_hello();
		waits = flood_waits();
		flood_end();
		served_end();
		rig_await(stats().connections == 0);
		assert_true(++tries < TRIES);
	} while (!waits);
}

/* It would not stop, or lose the memory. */
static void a_server_that_stops_forgets_who_waits(void **state)
{
	unsigned tries = 0;

	(void)state;
	flood_connect();
	served_begin();
	flood_hello();
	while (!flood_waits()) {
		assert_true(++tries < TRIES);
		served_end();
		flood_end();
		rig_await(stats().connections == 0);
		flood_connect();
		served_begin();
		flood_hello();
	}
	served_end();
	rig_stop(rig);
	rig = NULL;
	flood_end();
}

static void hello_make(void)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	SSL *ssl = SSL_new(ctx);

	SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
	SSL_connect(ssl);
	hello_len = BIO_read(SSL_get_wbio(ssl), hello, sizeof(hello));
	assert_true(hello_len > 0);
	SSL_free(ssl);
	SSL_CTX_free(ctx);
}

/* Both ends of the flood are ours. */
static void files_raise(void)
{
	struct rlimit files;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
	files.rlim_cur = MIN(files.rlim_max, 8 * FLOOD);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
}

static int make_all(void **state)
{
	struct pki ca, server;

	files_raise();
	if (scratch_setup(state))
		return -1;
	pki_authority(&ca, "test authority");
	mkdir("server", 0700);
	pki_write(&ca, "server", "ca");
	pki_issue(&server, &ca, &(struct pki_wish){.cn = "localhost", .usage = "serverAuth"});
	pki_write(&server, "server", "server");
	pki_free(&server);
	pki_free(&ca);
	hello_make();
	return 0;
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(who_comes_from_elsewhere_does_not_wait_for_a_flood),
		T(who_waits_may_leave),
		T(a_server_that_stops_forgets_who_waits),
	};

	return cmocka_run_group_tests(tests, make_all, scratch_teardown);
}
