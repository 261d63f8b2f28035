/* What the server does when it cannot have what it asks for: every allocation it makes fails once,
 * and descriptors run out. The session concerned may end, the call may be refused; nobody else
 * notices, nothing is lost, and the next try succeeds. */
#include <openssl/err.h>
#include <sys/resource.h>
#include <sys/un.h>

#include "tests/nbd/rig.h"
#include "tests/support/pki.h"
#include "tests/support/scratch.h"
#include "tests/support/tlspeer.h"

/* --- memory that can be told to run out ------------------------------------------------------- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define OWN_MALLOC 0 /* the sanitizer has its own */
#else
#define OWN_MALLOC 1
#endif

/* Whose allocations count. The client's part of a test is in the same program. */
enum whose { NOBODY, WORKERS, EVERYBODY };

static atomic_int whose;
static atomic_bool own; /* only what the server's own code asks for, not its libraries */
static atomic_long seen, fail_at, live;

#if OWN_MALLOC
#include <sys/prctl.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t size);
void *__libc_memalign(size_t align, size_t size);
void __libc_free(void *p);

static bool on_worker(void)
{
	char name[16] = "";

	prctl(PR_GET_NAME, name);
	return strncmp(name, "nbd-", 4) == 0;
}

extern const char __executable_start[], etext[];

static bool must_fail(const void *caller)
{
	int w = atomic_load(&whose);
	const char *c = caller;

	if (w == NOBODY || (w == WORKERS && !on_worker()))
		return false;
	if (atomic_load(&own) && (c < __executable_start || c >= etext))
		return false;
	return atomic_fetch_add(&seen, 1) + 1 == atomic_load(&fail_at);
}

static void *counted(void *p)
{
	if (p)
		atomic_fetch_add(&live, 1);
	return p;
}

void *malloc(size_t size)
{
	if (must_fail(__builtin_return_address(0))) {
		errno = ENOMEM;
		return NULL;
	}
	return counted(__libc_malloc(size));
}

void *calloc(size_t n, size_t size)
{
	if (must_fail(__builtin_return_address(0))) {
		errno = ENOMEM;
		return NULL;
	}
	return counted(__libc_calloc(n, size));
}

void *realloc(void *p, size_t size)
{
	if (must_fail(__builtin_return_address(0))) {
		errno = ENOMEM;
		return NULL;
	}
	return p ? __libc_realloc(p, size) : counted(__libc_realloc(NULL, size));
}

int posix_memalign(void **out, size_t align, size_t size)
{
	if (must_fail(__builtin_return_address(0)))
		return ENOMEM;
	*out = counted(__libc_memalign(align, size));
	return *out ? 0 : ENOMEM;
}

char *strdup(const char *s)
{
	size_t n = strlen(s) + 1;
	char *copy = must_fail(__builtin_return_address(0)) ? NULL : counted(__libc_malloc(n));

	return copy ? memcpy(copy, s, n) : NULL;
}

void free(void *p)
{
	if (p)
		atomic_fetch_sub(&live, 1);
	__libc_free(p);
}
#endif

/* From now on the @n-th allocation of these threads fails; all the others do not. */
static void run_out(enum whose w, long n)
{
	atomic_store(&seen, 0);
	atomic_store(&fail_at, n);
	atomic_store(&whose, w);
}

/* True when the allocation that was to fail has been asked for. */
static bool ran_out(void)
{
	atomic_store(&whose, NOBODY);
	return atomic_load(&seen) >= atomic_load(&fail_at);
}

/* --- calls ------------------------------------------------------------------------------------ */

/* A call, its undoing; both are repeated for every allocation of the call. */
struct call {
	int (*make)(struct rig *rig, struct err *err);
	void (*undo)(struct rig *rig);
};

/* Which allocations fail: all of the server's own, or every @step-th of all. OpenSSL makes
 * thousands of them for a certificate, and loses a few bytes when it cannot finish reading it. */
struct which {
	bool own;
	long step;
};

static const struct which all = {.step = 1}, all_own = {.own = true, .step = 1};

static void each_failure_is_told_and_leaves_nothing(struct rig *rig, const struct call *call,
						    struct which which)
{
	struct err err = ERR_INIT;
	bool hit = true;
	long n;

	/* Once for what libraries do the first time only. */
	rig_ok(call->make(rig, &err), &err);
	call->undo(rig);
	atomic_store(&own, which.own);
	for (n = 1; hit; n += which.step) {
		long before = atomic_load(&live), after;
		int r;

		err = (struct err)ERR_INIT;
		run_out(EVERYBODY, n);
		r = call->make(rig, &err);
		hit = ran_out();
		ERR_clear_error(); /* what OpenSSL remembers of it */
		if (!r) {
			call->undo(rig); /* it could do without */
			continue;
		}
		after = atomic_load(&live);
		assert_true(hit && r < 0);
		assert_true(err.text[0] != '\0');
		if (after != before && which.step == 1)
			fail_msg("allocation %ld: %ld are left: %s", n, after - before, err.text);
	}
	assert_true(n > 3);
	rig_ok(call->make(rig, &err), &err);
	call->undo(rig);
}

static struct nbd_export *added;
static struct memexport added_mem;

static int add_export(struct rig *rig, struct err *err)
{
	const struct nbd_export_config config = {
		.name = "more", .alias = "same", .description = "one more", .size = 4096};

	return nbd_export_add(rig->server, &config, &memexport_ops, &added_mem, &added, err);
}

static void remove_export(struct rig *rig)
{
	(void)rig;
	assert_int_equal(nbd_export_remove(added, false), 0);
}

static void an_export_that_finds_no_memory_is_not_added(void **state)
{
	memexport_init(&added_mem, 4096);
	each_failure_is_told_and_leaves_nothing(
		*state, &(const struct call){add_export, remove_export}, all);
	memexport_deinit(&added_mem);
}

static struct nbd_server *second;
static char address[200];

static int start_server(struct rig *rig, struct err *err)
{
	const struct nbd_server_config config = {.workers = 1, .batch_count = 1};

	(void)rig;
	return nbd_server_start(&second, &config, err);
}

static void stop_server(struct rig *rig)
{
	(void)rig;
	nbd_server_stop(second);
}

static void a_server_that_finds_no_memory_does_not_start(void **state)
{
	each_failure_is_told_and_leaves_nothing(
		*state, &(const struct call){start_server, stop_server}, all);
}

static const struct nbd_listen_config plain;
static struct nbd_listen_config tls_config;

/* On a server of its own, since a listener goes when its server does and not before. */
static int listen_on(const char *name, const struct nbd_listen_config *config, struct err *err)
{
	return nbd_server_listen(second, name, config, NULL, 0, err);
}

static void keep(struct rig *rig)
{
	(void)rig;
}

static void next_address(const struct rig *rig)
{
	static unsigned n;

	snprintf(address, sizeof(address), "unix:%s/%u", rig->dir, ++n);
}

static int listen_unix(struct rig *rig, struct err *err)
{
	next_address(rig);
	return listen_on(address, &plain, err);
}

static int listen_tcp(struct rig *rig, struct err *err)
{
	(void)rig;
	return listen_on("127.0.0.1:0", &plain, err);
}

static int listen_tls(struct rig *rig, struct err *err)
{
	next_address(rig);
	return listen_on(address, &tls_config, err);
}

static void no_listener_without_memory(struct rig *rig,
				       int (*listen)(struct rig *rig, struct err *err),
				       struct which which)
{
	const struct call call = {listen, keep};
	struct err err = ERR_INIT;

	rig_ok(start_server(rig, &err), &err);
	each_failure_is_told_and_leaves_nothing(rig, &call, which);
	stop_server(rig);
}

static void a_listener_that_finds_no_memory_is_refused(void **state)
{
	no_listener_without_memory(*state, listen_unix, all);
	no_listener_without_memory(*state, listen_tcp, all);
}

static void a_listener_that_finds_no_memory_for_tls_is_refused(void **state)
{
	static const char *const allow[] = {"agent1", "CN=agent2,O=Example"};
	const struct which some = {.step = 101};

	tls_config.tls = (struct nbd_tls_config){
		.policy = NBD_TLS_ALLOW,
		.certificates = "certs",
		.verify_peer = true,
		.allow = allow,
		.allow_count = ARRAY_SIZE(allow),
	};
	no_listener_without_memory(*state, listen_tls, all_own);
	no_listener_without_memory(*state, listen_tls, some);
	tls_config.tls = (struct nbd_tls_config){.policy = NBD_TLS_REQUIRE, .psk = "keys.psk"};
	no_listener_without_memory(*state, listen_tls, all_own);
	no_listener_without_memory(*state, listen_tls, some);
}

/* --- sessions --------------------------------------------------------------------------------- */

static size_t put_option(unsigned char *p, uint32_t code, const void *data, size_t len)
{
	store_be64(p, NBD_OPTION_MAGIC);
	store_be32(p + 8, code);
	store_be32(p + 12, len);
	memcpy(p + NBD_OPTION_SIZE, data, len);
	return NBD_OPTION_SIZE + len;
}

/* All options there are, then requests of every kind, as one run of bytes. Returns its length. */
static size_t whole_session(unsigned char *p)
{
	static const char *const queries[] = {"base:allocation"};
	static const uint16_t infos[] = {NBD_INFO_NAME, NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE};
	unsigned char data[512], *start = p;
	size_t n = peer_meta_data(data, RIG_NAME, queries, 1);

	p += put_option(p, NBD_OPT_LIST, "", 0);
	p += put_option(p, 99, "what", 4);
	p += put_option(p, NBD_OPT_STRUCTURED_REPLY, "", 0);
	p += put_option(p, NBD_OPT_LIST_META_CONTEXT, data, n);
	p += put_option(p, NBD_OPT_SET_META_CONTEXT, data, n);
	n = peer_info_data(data, RIG_NAME, infos, 3);
	p += put_option(p, NBD_OPT_INFO, data, n);
	p += put_option(p, NBD_OPT_GO, data, n);
	peer_put_request(p, NBD_CMD_FLAG_FUA, NBD_CMD_WRITE, 1, 4096, 100);
	rig_pattern(p + NBD_REQUEST_SIZE, 100, 3);
	p += NBD_REQUEST_SIZE + 100;
	peer_put_request(p, 0, NBD_CMD_READ, 2, 0, 70000);
	peer_put_request(p + NBD_REQUEST_SIZE, 0, NBD_CMD_BLOCK_STATUS, 3, 0, 70000);
	peer_put_request(p + 2 * NBD_REQUEST_SIZE, 0, NBD_CMD_DISC, 4, 0, 0);
	return p + 3 * NBD_REQUEST_SIZE - start;
}

/* Whatever comes until the server ends it; the client does not care. */
static void drain(int fd)
{
	char b[4096];

	while (recv(fd, b, sizeof(b), 0) > 0)
		;
	peer_close(fd);
}

static void try_plain(struct rig *rig)
{
	unsigned char b[4096];
	int fd = peer_connect(rig->address);

	store_be32(b, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	send(fd, b, 4 + whole_session(b + 4), MSG_NOSIGNAL);
	drain(fd);
}

static void try_tls(struct rig *rig)
{
	static const struct tlspeer_wish wish = {.ca = "certs/ca-cert.pem"};
	unsigned char b[4096];
	int fd = peer_connect(address);
	SSL *ssl = NULL;

	(void)rig;
	store_be32(b, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	send(fd, b, 4 + put_option(b + 4, NBD_OPT_STARTTLS, "", 0), MSG_NOSIGNAL);
	if (recv(fd, b, NBD_GREETING_SIZE + NBD_REP_SIZE, MSG_WAITALL) ==
	    NBD_GREETING_SIZE + NBD_REP_SIZE)
		ssl = tlspeer_connect(fd, &wish);
	if (ssl) {
		SSL_write(ssl, b, whole_session(b));
		while (SSL_read(ssl, b, sizeof(b)) > 0)
			;
		SSL_free(ssl);
	}
	drain(fd);
}

static void expect_served(int fd, uint64_t cookie)
{
	unsigned char b[512];

	peer_request(fd, 0, NBD_CMD_READ, cookie, 0, sizeof(b));
	assert_int_equal(peer_simple_to(fd, cookie), 0);
	peer_recv(fd, b, sizeof(b));
}

static void each_failure_ends_one_session_at_most(struct rig *rig, void (*try)(struct rig *rig),
						  struct which which)
{
	int other = peer_enter(rig->address, RIG_NAME);
	unsigned char want[100];
	uint64_t written = 0;
	bool hit = true;
	long n;

	try(rig);
	atomic_store(&own, which.own);
	for (n = 1; hit; n += which.step) {
		run_out(WORKERS, n);
		try(rig);
		hit = ran_out();
		expect_served(other, n);
	}
	assert_true(n > 3);
	/* The last one had all it wanted. */
	written = rig_stats(rig).bytes_written;
	assert_true(written > 0);
	try(rig);
	assert_true(rig_stats(rig).bytes_written == written + 100);
	assert_int_equal(nbd_export_flush(rig->export), 0);
	rig_pattern(want, sizeof(want), 3);
	assert_memory_equal(rig->mem.data + 4096, want, sizeof(want));
	rig_await(rig_stats(rig).connections == 1);
	peer_close(other);
}

static void a_session_that_finds_no_memory_harms_nobody(void **state)
{
	each_failure_ends_one_session_at_most(*state, try_plain, all);
}

static void a_tls_session_that_finds_no_memory_harms_nobody(void **state)
{
	struct rig *rig = *state;
	struct err err = ERR_INIT;

	next_address(rig);
	tls_config.tls = (struct nbd_tls_config){.policy = NBD_TLS_ALLOW, .certificates = "certs"};
	rig_ok(nbd_server_listen(rig->server, address, &tls_config, NULL, 0, &err), &err);
	each_failure_ends_one_session_at_most(rig, try_tls, all_own);
	each_failure_ends_one_session_at_most(rig, try_tls, (struct which){.step = 7});
}

/* --- descriptors ------------------------------------------------------------------------------ */

/* No greeting comes, for long enough to have been tried several times. */
static void assert_waits(int fd)
{
	const struct timeval brief = {.tv_usec = 300000};
	const struct timeval limit = {.tv_sec = PEER_TIMEOUT_S};
	char c;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &brief, sizeof(brief));
	assert_int_equal(recv(fd, &c, 1, 0), -1);
	assert_int_equal(errno, EAGAIN);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
}

static void connect_to(const struct rig *rig, int fd)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};

	strcpy(sun.sun_path, rig->address + strlen("unix:"));
	assert_int_equal(connect(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
}

static void without_descriptors_clients_wait_and_are_served_later(void **state)
{
	struct rig *rig = rig_start((struct nbd_server_config){
		.workers = 1, .batch_count = 2, .handshake_timeout_ms = 200}); /* ticks of 50 ms */
	int entered = peer_enter(rig->address, RIG_NAME), first_free;
	int last = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int late = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct rlimit limit, used_up;

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	first_free = dup(late);
	close(first_free);
	used_up = (struct rlimit){.rlim_cur = first_free + 1, .rlim_max = limit.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &used_up), 0);
	/* The accept that is under way goes by the limit of its time. */
	connect_to(rig, last);
	peer_greet(last, NBD_FLAG_FIXED_NEWSTYLE);
	assert_true(peer_go(last, RIG_NAME, NULL, NULL));
	connect_to(rig, late);
	assert_waits(late);
	expect_served(entered, 1);
	expect_served(last, 2);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	peer_greet(late, NBD_FLAG_FIXED_NEWSTYLE);
	assert_true(peer_go(late, RIG_NAME, NULL, NULL));
	expect_served(late, 3);
	peer_close(late);
	peer_close(last);
	peer_close(entered);
	rig_stop(rig);
}

/* --- fixture ---------------------------------------------------------------------------------- */

static int make_certificates(void **state)
{
	struct pki ca, server;
	FILE *keys;

	if (scratch_setup(state))
		return -1;
	pki_authority(&ca, "test authority");
	pki_issue(&server, &ca, &(struct pki_wish){.cn = "localhost"});
	pki_write(&ca, "certs", "ca");
	pki_write(&server, "certs", "server");
	pki_free(&server);
	pki_free(&ca);
	keys = fopen("keys.psk", "w");
	assert_non_null(keys);
	fputs("alice:00112233445566778899aabbccddeeff\nbob:ff112233445566778899aabbccddeeff\n",
	      keys);
	fclose(keys);
	return 0;
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
	const struct CMUnitTest tests[] = {
		T(an_export_that_finds_no_memory_is_not_added),
		T(a_server_that_finds_no_memory_does_not_start),
		T(a_listener_that_finds_no_memory_is_refused),
		T(a_listener_that_finds_no_memory_for_tls_is_refused),
		T(a_session_that_finds_no_memory_harms_nobody),
		T(a_tls_session_that_finds_no_memory_harms_nobody),
		cmocka_unit_test(without_descriptors_clients_wait_and_are_served_later),
	};

	if (!OWN_MALLOC) {
		puts("with a sanitizer, memory cannot be told to run out");
		return 77;
	}
	return cmocka_run_group_tests(tests, make_certificates, scratch_teardown);
}
