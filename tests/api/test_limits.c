/* What the API does to clients that want too much or give too little, and HTTPS. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "tests/support/apirig.h"
#include "tests/support/pki.h"

/* --- raw connections ------------------------------------------------------------------------ */

/* From an address of this machine. */
static int dial_from(const char *source)
{
	struct sockaddr_in to = {.sin_family = AF_INET}, from = {.sin_family = AF_INET};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	inet_pton(AF_INET, source, &from.sin_addr);
	assert_int_equal(bind(fd, (struct sockaddr *)&from, sizeof(from)), 0);
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	to.sin_port = htons((uint16_t)atoi(strrchr(api_address(api), ':') + 1));
	assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	return fd;
}

static void say(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

/* Status of the answer that comes; 0: the connection ends without one. */
static int status_of(int fd)
{
	char head[64] = "";
	size_t n = 0;
	int status = 0;

	while (n < 12) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		ssize_t got;

		assert_int_equal(poll(&p, 1, 30000), 1);
		got = recv(fd, head + n, 12 - n, 0);
		if (got <= 0)
			return 0;
		n += (size_t)got;
	}
	assert_int_equal(sscanf(head, "HTTP/1.1 %3d", &status), 1);
	return status;
}

static const char ask_health[] = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";

static int health_from(const char *source)
{
	int fd = dial_from(source), status;

	send(fd, ask_health, sizeof(ask_health) - 1, MSG_NOSIGNAL);
	status = status_of(fd);
	close(fd);
	return status;
}

/* True when the peer ends the connection within 30 s, whatever comes before. */
static bool is_ended(int fd)
{
	char buf[65536];

	for (;;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};

		if (poll(&p, 1, 30000) != 1)
			return false;
		if (recv(fd, buf, sizeof(buf), 0) <= 0)
			return true;
	}
}

/* --- connections ---------------------------------------------------------------------------- */

static void one_address_cannot_take_all_connections(void **state)
{
	int held[2];

	(void)state;
	apirig_listen((struct api_config){.max_connections = 4, .max_connections_per_peer = 2});
	for (int i = 0; i < 2; i++) {
		held[i] = dial_from("127.0.0.1");
		say(held[i], ask_health);
		assert_int_equal(status_of(held[i]), 200);
	}
	assert_int_equal(health_from("127.0.0.1"), 0);
	assert_int_equal(health_from("127.0.0.2"), 200);
	close(held[0]);
	for (int i = 0; health_from("127.0.0.1") != 200; i++) {
		assert_true(i < 1000);
		poll(NULL, 0, 10);
	}
	close(held[1]);
}

static void connections_are_limited_and_come_free(void **state)
{
	int held[3];

	(void)state;
	apirig_listen((struct api_config){.max_connections = 3, .max_connections_per_peer = 3});
	for (int i = 0; i < 3; i++) {
		held[i] = dial_from("127.0.0.1");
		say(held[i], ask_health);
		assert_int_equal(status_of(held[i]), 200);
	}
	assert_int_equal(health_from("127.0.0.2"), 0);
	close(held[0]);
	for (int i = 0; health_from("127.0.0.2") != 200; i++) {
		assert_true(i < 1000);
		poll(NULL, 0, 10);
	}
	close(held[1]);
	close(held[2]);
}

/* --- pace ----------------------------------------------------------------------------------- */

static void who_says_nothing_is_cut_off(void **state)
{
	int fd;

	(void)state;
	apirig_listen((struct api_config){.io_timeout_ms = 300});
	fd = dial_from("127.0.0.1");
	assert_true(is_ended(fd));
	close(fd);
}

static void who_drips_headers_is_cut_off(void **state)
{
	bool cut = false;
	int fd;

	(void)state;
	apirig_listen((struct api_config){.io_timeout_ms = 300});
	fd = dial_from("127.0.0.1");
	say(fd, "GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ");
	for (int i = 0; i < 300 && !cut; i++) {
		char c;

		poll(NULL, 0, 50);
		cut = send(fd, "x", 1, MSG_NOSIGNAL) < 0 || recv(fd, &c, 1, MSG_DONTWAIT) == 0;
	}
	assert_true(cut);
	close(fd);
}

/* Hundreds of answers asked for, none taken: the thread that would give them comes free. */
static void who_does_not_take_the_answer_is_cut_off(void **state)
{
	static const char question[] = "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n";
	int small = 4096, fd;

	(void)state;
	apirig_listen((struct api_config){
		.io_timeout_ms = 300, .max_connections = 2, .max_connections_per_peer = 1});
	fd = dial_from("127.0.0.1");
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	for (int i = 0; i < 400; i++)
		if (send(fd, question, sizeof(question) - 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
			break;
	for (int i = 0; health_from("127.0.0.1") != 200; i++) {
		assert_true(i < 300);
		poll(NULL, 0, 100);
	}
	close(fd);
}

/* --- sizes ---------------------------------------------------------------------------------- */

static int status_of_text(const char *head, size_t filler, const char *tail)
{
	char *text = malloc(strlen(head) + filler + strlen(tail) + 1), *p;
	int fd = dial_from("127.0.0.1"), status;

	p = stpcpy(text, head);
	memset(p, 'x', filler);
	strcpy(p + filler, tail);
	for (size_t at = 0, n = strlen(text); at < n;) {
		ssize_t sent = send(fd, text + at, n - at, MSG_NOSIGNAL);

		if (sent <= 0)
			break;
		at += (size_t)sent;
	}
	status = status_of(fd);
	free(text);
	close(fd);
	return status;
}

static void requests_have_a_largest_size(void **state)
{
	static const char end[] = " HTTP/1.1\r\nHost: x\r\n\r\n";
	static const char chunked[] = "POST /api/v1/backups HTTP/1.1\r\nHost: x\r\n"
				      "Transfer-Encoding: chunked\r\n\r\n180000\r\n";

	(void)state;
	apirig_listen((struct api_config){.listen = NULL});
	assert_int_equal(status_of_text("GET /health?", 1000, end), 200);
	assert_int_equal(status_of_text("GET /health?", 9000, end), 400);
	assert_int_equal(status_of_text("GET /health?", 100000, end), 414);
	assert_int_equal(
		status_of_text("GET /health HTTP/1.1\r\nHost: x\r\nX-Long: ", 20000, "\r\n\r\n"),
		200);
	assert_int_equal(
		status_of_text("GET /health HTTP/1.1\r\nHost: x\r\nX-Long: ", 100000, "\r\n\r\n"),
		431);
	assert_int_equal(status_of_text("POST /api/v1/backups HTTP/1.1\r\nHost: x\r\n"
					"Content-Length: 1048577\r\n\r\n",
					0, ""),
			 413);
	assert_int_equal(status_of_text("POST /api/v1/backups HTTP/1.1\r\nHost: x\r\n"
					"Content-Length: 99999999999999999999\r\n\r\n",
					0, ""),
			 413);
	assert_int_equal(status_of_text(chunked, 0x180000, "\r\n0\r\n\r\n"), 413);
	assert_int_equal(health_from("127.0.0.1"), 200);
}

static void what_is_no_http_is_refused(void **state)
{
	int fd;

	(void)state;
	apirig_listen((struct api_config){.listen = NULL});
	assert_int_equal(status_of_text("\x16\x03\x01\x02", 0, "\r\n\r\n"), 0);
	fd = dial_from("127.0.0.1");
	say(fd, "GET /health HTTP/1.1\r\n\r\n"); /* without a host */
	assert_int_equal(status_of(fd), 400);
	close(fd);
	assert_int_equal(health_from("127.0.0.1"), 200);
}

/* --- HTTPS ---------------------------------------------------------------------------------- */

static char cert_path[300], key_path[300], ca_path[300];

static void make_certificates(void)
{
	struct pki ca, server;

	pki_authority(&ca, "Test authority");
	pki_issue(&server, &ca,
		  &(struct pki_wish){.cn = "hub", .dns = "localhost", .usage = "serverAuth"});
	pki_write(&ca, rig.dir, "ca");
	pki_write(&server, rig.dir, "server");
	pki_free(&server);
	pki_free(&ca);
	snprintf(cert_path, sizeof(cert_path), "%s/server-cert.pem", rig.dir);
	snprintf(key_path, sizeof(key_path), "%s/server-key.pem", rig.dir);
	snprintf(ca_path, sizeof(ca_path), "%s/ca-cert.pem", rig.dir);
}

static const char *port(void)
{
	return strrchr(api_address(api), ':') + 1;
}

static void it_speaks_https_when_it_has_a_certificate(void **state)
{
	struct apiclient_reply reply;
	char base[64];

	(void)state;
	make_certificates();
	apirig_listen((struct api_config){.tls_certificate = cert_path, .tls_key = key_path});
	snprintf(base, sizeof(base), "https://localhost:%s", port());
	apiclient_run(
		&(struct apiclient_call){
			.base = base, .method = "GET", .path = "/health", .ca_file = ca_path},
		&reply);
	assert_int_equal(reply.status, 200);
	apiclient_deinit(&reply);
#define CURL(options, scheme)                                                                      \
	scratch_run("curl -s --noproxy '*' --cacert '%s' " options " " scheme                      \
		    "://localhost:%s/health >/dev/null",                                           \
		    ca_path, port())
	assert_int_equal(CURL("", "https"), 0);
	assert_int_equal(CURL("--tlsv1.3", "https"), 0);
	assert_int_equal(CURL("--tls-max 1.2", "https"), 0);
	assert_int_not_equal(CURL("--tls-max 1.1 --ciphers DEFAULT@SECLEVEL=0", "https"), 0);
	assert_int_not_equal(CURL("", "http"), 0);
	assert_int_equal(scratch_run("curl -s --noproxy '*' https://localhost:%s/health", port()),
			 60); /* nobody known vouches for it */
	assert_int_equal(CURL("", "https"), 0);
}

static void a_handshake_has_its_time_too(void **state)
{
	int fd;

	(void)state;
	make_certificates();
	apirig_listen((struct api_config){
		.tls_certificate = cert_path, .tls_key = key_path, .io_timeout_ms = 300});
	fd = dial_from("127.0.0.1");
	say(fd, "\x16\x03\x01");
	assert_true(is_ended(fd));
	close(fd);
}

static void refuse_tls(const char *certificate, const char *key, const char *sentence)
{
	struct err err = ERR_INIT;
	int rc = apirig_try_listen(
		(struct api_config){.tls_certificate = certificate, .tls_key = key}, &err);

	assert_int_not_equal(rc, 0);
	if (!strstr(err.text, sentence))
		fail_msg("\"%s\" is not in \"%s\"", sentence, err.text);
}

static void credentials_that_make_no_sense_are_named(void **state)
{
	(void)state;
	make_certificates();
	refuse_tls(cert_path, NULL, "needs a certificate and its key");
	refuse_tls(NULL, key_path, "needs a certificate and its key");
	refuse_tls("/nowhere/cert.pem", key_path, "/nowhere/cert.pem");
	refuse_tls(cert_path, rig.dir, "no file of PEM text");
	refuse_tls(cert_path, ca_path, "server-cert.pem");
	apirig_listen((struct api_config){.tls_certificate = cert_path, .tls_key = key_path});
}

#define T(name) cmocka_unit_test_setup_teardown(name, apirig_setup_hub, apirig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(one_address_cannot_take_all_connections),
		T(connections_are_limited_and_come_free),
		T(who_says_nothing_is_cut_off),
		T(who_drips_headers_is_cut_off),
		T(who_does_not_take_the_answer_is_cut_off),
		T(requests_have_a_largest_size),
		T(what_is_no_http_is_refused),
		T(it_speaks_https_when_it_has_a_certificate),
		T(a_handshake_has_its_time_too),
		T(credentials_that_make_no_sense_are_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
