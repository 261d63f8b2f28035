/* sendense-hub as its users meet it: options, configuration file, ready line, signals, lock. Runs
 * the program of this build. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/scratch.h"

static char hub[512];

/* Exit status of the hub with these arguments; stdout and stderr in out.txt. */
static int run(const char *args)
{
	char *text;
	int status;

	scratch_run("timeout 120 %s %s >out.txt 2>&1; echo $? >status", hub, args);
	text = scratch_output("cat status");
	status = atoi(text);
	free(text);
	return status;
}

static bool said(const char *text)
{
	char *out = scratch_output("cat out.txt");
	bool yes = strstr(out, text) != NULL;

	free(out);
	return yes;
}

static void help_and_version_tell_and_succeed(void **state)
{
	(void)state;
	assert_int_equal(run("--help"), 0);
	assert_true(said("--data-dir") && said("--agent-url") && said("Example:"));
	assert_int_equal(run("--version"), 0);
	assert_true(said("sendense-hub "));
}

static void what_it_does_not_understand_it_refuses_by_name(void **state)
{
	(void)state;
	assert_int_equal(run("--frobnicate"), 2);
	assert_int_equal(run("word"), 2);
	assert_int_equal(run("--workers many"), 2);
	assert_true(said("workers takes a number"));
	assert_int_equal(run("--data-dir d --db mysql:x --http 127.0.0.1:0 --nbd 127.0.0.1:0"), 1);
	assert_int_equal(run("--data-dir d --agent-url nonsense"), 1);
	assert_true(said("agent URL"));
	assert_int_equal(run("--data-dir d --http here --nbd 127.0.0.1:0"), 1);
	assert_true(said("ADDR:PORT"));
	assert_int_equal(run("--data-dir d --http fd:99 --nbd 127.0.0.1:0"), 1);
	assert_true(said("no listening TCP socket"));
	assert_int_equal(
		run("--data-dir d --http 127.0.0.1:0 --agent-listen 0.0.0.0:0 --nbd 127.0.0.1:0"),
		1);
	assert_true(said("must be a loopback one, not \"0.0.0.0:0\""));
}

static void a_configuration_file_is_read_strictly(void **state)
{
	(void)state;
	assert_int_equal(run("--config missing.json"), 1);
	scratch_run("echo '{\"disconect_grace_s\":3}' > c.json");
	assert_int_equal(run("--config c.json"), 1);
	assert_true(said("unknown key \"disconect_grace_s\""));
	scratch_run("echo '{\"start_timeout_s\":\"3\"}' > c.json");
	assert_int_equal(run("--config c.json"), 1);
	assert_true(said("start_timeout_s must be an integer"));
	scratch_run("echo '{\"start_timeout_s\":0}' > c.json");
	assert_int_equal(run("--config c.json"), 1);
	assert_true(said("between 1 and"));
	scratch_run("echo '{\"nbd_max_option_bytes\":100}' > c.json");
	assert_int_equal(run("--config c.json"), 1);
	assert_true(said("max_option_bytes is 100; it must be between 512 and 65536"));
	scratch_run("echo '{\"nbd_max_connections\":-1}' > c.json");
	assert_int_equal(run("--config c.json"), 1);
	assert_true(said("nbd_max_connections must be between"));
	scratch_run("echo '{\"tls\":\"on\",\"tls_psk\":\"x\"}' > c.json");
	assert_int_equal(run("--config c.json"), 1);
	assert_true(said("tls must be off, allow or require, not \"on\""));
	scratch_run("echo '{\"tls_verify_peer\":1}' > c.json");
	assert_int_equal(run("--config c.json"), 1);
	assert_true(said("tls_verify_peer must be true or false"));
	scratch_run("echo '{\"tls_psk\":\"keys.psk\"}' > c.json");
	assert_int_equal(run("--config c.json"), 1);
	assert_true(said("no NBD listener does it"));
	scratch_run("echo '{\"tls\":\"require\",\"tls_psk\":\"keys.psk\"}' > c.json");
	assert_int_equal(run("--config c.json --data-dir d --http 127.0.0.1:0 --nbd 127.0.0.1:0"),
			 1);
	assert_true(said("cannot read 'keys.psk'"));
	assert_int_equal(run("--nbd 127.0.0.1:0,tls=maybe"), 2);
	assert_true(said("not \"maybe\""));
	scratch_run("echo '{' > c.json");
	assert_int_equal(run("--config c.json"), 1);
}

static void settings_have_one_precedence_and_say_where_they_are_from(void **state)
{
	(void)state;
	scratch_run(
		"printf '{\"start_timeout_s\":5,\\n\"disconnect_grace_s\":6,\\n"
		"\"tick_ms\" : 50,\"silence_timeout_s\":8,\\n\"vcenter_password\":\"hunter2\"}\\n'"
		" > c.json");
	setenv("SENDENSE_CONFIG", "c.json", 1);
	setenv("SENDENSE_START_TIMEOUT_S", "7", 1);
	setenv("SENDENSE_DATA_DIR", "elsewhere", 1);
	setenv("SENDENSE_TLS_VERIFY_PEER", "false", 1);
	setenv("SENDENSE_NBD", "127.0.0.1:1 unix:x.sock", 1);
	assert_int_equal(run("--check-config --data-dir here"), 0);
	assert_true(said("data_dir = here (command line)\n"));
	assert_true(said("start_timeout_s = 7 (environment)\n"));
	assert_true(said("disconnect_grace_s = 6 (file line 2)\n"));
	assert_true(said("tick_ms = 50 (file line 3)\n"));
	assert_true(said("http = 127.0.0.1:8080 (default)\n"));
	assert_true(said("nbd = unix:x.sock\n"));
	assert_true(said("vcenter_password = (not shown)") && !said("hunter2"));
	setenv("SENDENSE_TICK_MS", "fast", 1);
	assert_int_equal(run("--check-config"), 1);
	assert_true(said("environment, setting tick_ms: tick_ms takes a number, not \"fast\""));
	for (const char *const *p =
		     (const char *const[]){"CONFIG", "START_TIMEOUT_S", "DATA_DIR",
					   "TLS_VERIFY_PEER", "NBD", "TICK_MS", NULL};
	     *p; p++) {
		char name[64];

		snprintf(name, sizeof(name), "SENDENSE_%s", *p);
		unsetenv(name);
	}
}

/* Where agents look without being told. */
static void without_settings_it_listens_where_agents_look(void **state)
{
	(void)state;
	assert_int_equal(run("--check-config"), 0);
	assert_true(said("agent_listen = 127.0.0.1:8082 (default)\n"));
	assert_true(said("nbd = 127.0.0.1:10809\n"));
	assert_true(said("nbd = 127.0.0.1:10100\n"));
	assert_true(said("agent_url = http://127.0.0.1:9081 (default)\n"));
}

static void a_wrong_configuration_is_named_by_file_and_line(void **state)
{
	(void)state;
	scratch_run("printf '{\"tick_ms\":50,\\n\\n\"start_timeout_s\":0}' > c.json");
	assert_int_equal(run("--check-config --config c.json"), 1);
	assert_true(said("configuration file c.json line 3: start_timeout_s must be between"));
	scratch_run("printf '{\"tick_ms\":50,\\n\"tick\":1}' > c.json");
	assert_int_equal(run("--check-config --config c.json"), 1);
	assert_true(said("configuration file c.json line 2: unknown key \"tick\""));
	scratch_run("printf '{\"tick_ms\":50,\\n}' > c.json");
	assert_int_equal(run("--check-config --config c.json"), 1);
	assert_true(said("configuration file c.json line 2: "));
	assert_int_equal(run("--check-config --config none.json"), 1);
	assert_true(said("none.json"));
	assert_int_equal(run("--check-config --db oracle:x"), 1);
	assert_int_equal(run("--check-config --log-level loud"), 1);
	assert_true(said("log_level must be"));
	assert_int_equal(run("--check-config --log-format xml"), 1);
	assert_int_equal(run("--check-config --nonsense"), 2);
	assert_int_equal(scratch_run("[ ! -e data ] && [ ! -e /var/lib/sendense/hub.lock ]"), 0);
}

/* "no CMD": it must fail. A '!' would do for a reader, but not for set -e. */
static void run_story(const char *story)
{
	FILE *f = fopen("story.sh", "w");

	assert_non_null(f);
	fputs("no() { if \"$@\"; then echo \"should have failed: $*\"; exit 1; fi; }\n", f);
	fputs(story, f);
	fclose(f);
	setenv("HUB", hub, 1);
	assert_int_equal(scratch_run("sh -e story.sh"), 0);
}

/* A shell story, because it is about processes. */
static void it_says_when_it_serves_and_stops_in_order(void **state)
{
	static const char story[] =
		"set -e\n"
		"echo "
		"'{\"http\":\"127.0.0.1:0\",\"agent_listen\":\"127.0.0.1:0\",\"nbd\":[\"127.0.0.1:"
		"0\",\"unix:hub.sock\"],"
		"\"data_dir\":\"elsewhere\",\"disconnect_grace_s\":5,"
		"\"nbd_max_connections\":70,\"nbd_idle_timeout_s\":90,"
		"\"nbd_handshake_percent\":7,"
		"\"nbd_max_inflight_bytes\":1000000}' > c.json\n"
		"$HUB --config c.json --data-dir data >out 2>err & pid=$!\n"
		"for i in $(seq 1200); do [ -s out ] && break; sleep 0.05; done\n"
		"cat out err\n"
		"[ $(wc -l < out) = 1 ]\n"
		"grep -Eq '^sendense-hub ready http=127\\.0\\.0\\.1:[0-9]+ "
		"agent=127\\.0\\.0\\.1:[0-9]+ "
		"nbd=127\\.0\\.0\\.1:[0-9]+,unix:.*hub\\.sock$' out\n"
		"[ -e data/catalog.db ]; no [ -e elsewhere ]\n"
		"no $HUB --config c.json --data-dir data >out2 2>err2\n"
		"grep -q 'another hub' err2; no [ -s out2 ]\n"
		"no grep sdn_ out err\n"
		"[ $(stat -c %a data/admin-token) = 600 ]\n"
		"url=$(sed 's/.*http=\\([^ ]*\\).*/\\1/' out)\n"
		"curl -sf --noproxy '*' http://$url/health | grep -q healthy\n"
		"kill -TERM $pid; wait $pid\n"
		"grep -q 'connections: 70, 35 an IP address, 64 an export; handshake 30000 ms, "
		"idle 90000 ms, .* 1000000 bytes of data.* new connections: 7 %' err\n"
		"grep -q SIGTERM err\n";

	(void)state;
	run_story(story);
}

static void a_hangup_changes_what_can_change_and_says_what_cannot(void **state)
{
	(void)state;
	run_story(
		"set -e\n"
		"await() { for i in $(seq 1200); do grep -q \"$1\" err && return; sleep 0.05; done;"
		" cat err; false; }\n"
		"conf() { echo \"{\\\"http\\\":\\\"127.0.0.1:$1\\\",\\\"log_format\\\":\\\"$2\\\","
		"\\\"start_timeout_s\\\":$3}\" > c.json; }\n"
		"conf 0 json 60\n"
		"$HUB --config c.json --data-dir data --agent-listen off --nbd unix:x.sock >out "
		"2>err & pid=$!\n"
		"for i in $(seq 1200); do [ -s out ] && break; sleep 0.05; done\n"
		"url=$(sed 's/.*http=\\([^ ]*\\).*/\\1/' out)\n"
		"jq -e '.time and .level and .scope and .message' err >/dev/null\n"
		"conf 1 text 90\n"
		"kill -HUP $pid\n"
		"await 'info  sendense-hub: log_format has changed$'\n"
		"await 'info  sendense-hub: start_timeout_s has changed$'\n"
		"await 'warn  sendense-hub: http has changed: it takes effect at the next start'\n"
		"echo '{' > c.json\n"
		"kill -HUP $pid\n"
		"await 'the settings stay as they were: configuration file c.json line'\n"
		"curl -sf --noproxy '*' http://$url/health | grep -q healthy\n"
		"kill -TERM $pid; wait $pid\n");
}

/* Certificates of two authorities in turn: who trusts the new one is served after the hangup, who
 * is connected stays, and what is broken changes nothing. */
static void a_hangup_brings_new_certificates_and_limits(void **state)
{
	(void)state;
	run_story(
		"set -e\n"
		"await() { for i in $(seq 1200); do grep -q \"$1\" err && return; sleep 0.05; done;"
		" cat err; false; }\n"
		"ca() { openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days "
		"2 -subj \"/CN=$1\" -keyout $1.key -out $1.pem 2>/dev/null; }\n"
		/* The names are the hub's, so that the same configuration brings other files. */
		"issue() { openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "
		"/CN=localhost -keyout k.new -out r.csr 2>/dev/null\n"
		"  echo 'subjectAltName=DNS:localhost,IP:127.0.0.1' > ext\n"
		"  openssl x509 -req -in r.csr -CA $1.pem -CAkey $1.key -days 2 -extfile ext -out "
		"c.new 2>/dev/null\n"
		"  cp $1.pem tls/ca-cert.pem; mv c.new tls/server-cert.pem; mv k.new "
		"tls/server-key.pem; }\n"
		"conf() { echo \"{\\\"tls\\\":\\\"require\\\",\\\"tls_certificates\\\":\\\"tls\\\","
		"\\\"http_tls_certificate\\\":\\\"tls/server-cert.pem\\\","
		"\\\"http_tls_key\\\":\\\"tls/server-key.pem\\\",\\\"nbd_max_connections\\\":$1,"
		"\\\"http_max_connections\\\":$2,\\\"schedule_max_running\\\":$2}\" > c.json; }\n"
		"mkdir -p tls one two; ca first; ca second; cp first.pem one/ca-cert.pem; cp "
		"second.pem two/ca-cert.pem\n"
		"issue first; conf 20 30\n"
		"$HUB --config c.json --data-dir data --http 127.0.0.1:0 --agent-listen off --nbd "
		"127.0.0.1:0 >out 2>err & pid=$!\n"
		"for i in $(seq 1200); do [ -s out ] && break; sleep 0.05; done; cat out err\n"
		"http=$(sed 's/.*http=\\([^ ]*\\).*/\\1/' out)\n"
		"nbd=$(sed 's/.*nbd=127.0.0.1:\\([^ ]*\\).*/\\1/' out)\n"
		"get() { curl -sf --noproxy '*' --cacert $1.pem https://$http/health >/dev/null; "
		"}\n"
		"list() { nbdinfo --list \"nbds://localhost:$nbd/?tls-certificates=$1\"; }\n"
		"get first; no get second; list one; no list two\n"
		/* A connection of each kind that lasts: the hangup must not end it. */
		"mkfifo say\n"
		"openssl s_client -quiet -connect $http -CAfile first.pem <say >https 2>/dev/null "
		"& "
		"client=$!\n"
		"exec 8>say\n"
		"get='GET /health HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n'\n"
		"printf \"$get\" >&8\n"
		"for i in $(seq 1200); do grep -q healthy https && break; sleep 0.05; done\n"
		"issue second; conf 21 31\n"
		"get first\n"
		"kill -HUP $pid\n"
		"await 'info  sendense-hub: schedule_max_running has changed$'\n"
		"grep -q 'info  sendense-hub: nbd_max_connections has changed$' err\n"
		"grep -q 'limits: .* connections: 21, 10 an IP' err\n"
		"no grep 'next start' err\n"
		"get second; no get first; list two; no list one\n"
		"printf \"$get\" >&8\n"
		"for i in $(seq 1200); do [ $(grep -c healthy https) = 2 ] && break; sleep 0.05; "
		"done\n"
		"[ $(grep -c healthy https) = 2 ]; grep -qi 'connection: close' https\n"
		"exec 8>&-; wait $client\n"
		/* Broken: for NBD the first to be looked at, then for HTTPS alone. */
		"echo nonsense > tls/server-cert.pem; conf 22 32\n"
		"kill -HUP $pid\n"
		"await 'the settings stay as they were: .*server-cert.pem'\n"
		"get second; list two\n"
		"issue second; echo nonsense > other.pem\n"
		"sed -i "
		"'s#http_tls_certificate\":\"tls/"
		"server-cert.pem#http_tls_certificate\":\"other.pem#' "
		"c.json\n"
		"kill -HUP $pid\n"
		"await 'the settings stay as they were: .*other.pem'\n"
		"get second; list two\n"
		"no grep 'connections: 22' err\n"
		"kill -TERM $pid; wait $pid\n");
}

static void a_tunnel_that_leads_nowhere_is_told_of(void **state)
{
	(void)state;
	run_story("set -e\n"
		  "start() { : >out; $HUB --data-dir data --http 127.0.0.1:0 \"$@\" >out 2>err & "
		  "pid=$!\n"
		  "  for i in $(seq 1200); do [ -s out ] && break; sleep 0.05; done; cat err; "
		  "kill -TERM $pid; wait $pid; }\n"
		  "start --agent-listen off --nbd unix:x.sock\n"
		  "grep -q 'tunnel/authorized_keys stays empty, whoever is approved' err\n"
		  "start --agent-listen off --nbd unix:x.sock --nbd 127.0.0.1:0\n"
		  "no grep 'stays empty' err\n");
}

/* An agent that never answers holds a call that changes something; the hub is killed in it. */
static void a_call_the_hub_did_not_live_to_tell_of_is_in_the_audit_log(void **state)
{
	(void)state;
	run_story(
		"set -e\n"
		"python3 -c 'import socket, time\n"
		"s = socket.create_server((\"127.0.0.1\", 0))\n"
		"print(s.getsockname()[1], flush=True)\n"
		"time.sleep(280)' >port & mute=$!\n"
		"trap 'kill $mute' EXIT\n"
		"for i in $(seq 1200); do [ -s port ] && break; sleep 0.05; done\n"
		"start() { : >out; $HUB --data-dir data --http 127.0.0.1:0 --agent-listen off "
		"--nbd "
		"unix:x.sock --agent-url http://127.0.0.1:$(cat port) >out 2>err & pid=$!\n"
		"  for i in $(seq 1200); do [ -s out ] && break; sleep 0.05; done\n"
		"  url=http://$(sed 's/.*http=\\([^ ]*\\).*/\\1/' out); }\n"
		"ask() { curl -s --noproxy '*' -H \"Authorization: Bearer $(cat "
		"data/admin-token)\" "
		"\"$@\"; }\n"
		"start\n"
		"ask -f -d '{\"name\":\"ann\",\"role\":\"viewer\"}' $url/api/v1/users\n"
		"no grep -q users data/audit-pending\n"
		"ask -d '{}' $url/api/v1/discovery/discover-vms & client=$!\n"
		"for i in $(seq 1200); do grep -q discover-vms data/audit-pending && break; sleep "
		"0.05; done\n"
		"[ $(stat -c %a data/audit-pending) = 600 ]\n"
		"no grep -q sdn_ data/audit-pending\n"
		"kill -KILL $pid; wait $pid || true; wait $client || true\n"
		"start\n"
		"grep 'the last run ended during POST /api/v1/discovery/discover-vms' err\n"
		"ask -f \"$url/api/v1/audit?outcome=failed\" >audit\n"
		"jq -e '.total == 1 and .entries[0].user_name == \"admin\" and "
		"(.entries[0].detail | tostring | test(\"may have been done\"))' audit || { cat "
		"audit; "
		"exit 1; }\n"
		"ask -f $url/api/v1/audit/verify | jq -e .ok\n"
		"[ ! -s data/audit-pending ]\n"
		"kill -TERM $pid; wait $pid\n"
		"start\n"
		"no grep -q 'the last run ended during' err\n"
		"ask -f \"$url/api/v1/audit?outcome=failed\" | jq -e '.total == 1'\n"
		"kill -TERM $pid; wait $pid\n");
}

/* What the service manager is told: a socket of ours stands in for its own. */
static bool manager_hears(int fd, const char *what)
{
	char text[256];

	for (int i = 0; i < 200; i++) {
		ssize_t n = recv(fd, text, sizeof(text) - 1, 0);

		if (n < 0)
			return false;
		text[n] = '\0';
		if (!strncmp(text, what, strlen(what)))
			return true;
	}
	return false;
}

static void the_service_manager_hears_of_every_turn(void **state)
{
	const struct timeval patience = {.tv_sec = 60};
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int n = snprintf(at.sun_path + 1, sizeof(at.sun_path) - 1, "sendense-%ld", (long)getpid());

	(void)state;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	assert_int_equal(bind(fd, (struct sockaddr *)&at,
			      (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n)),
			 0);
	scratch_run("NOTIFY_SOCKET=@%s WATCHDOG_USEC=200000 %s --data-dir data --http 127.0.0.1:0"
		    " --agent-listen off --nbd unix:x.sock >out 2>err & echo $! > pid",
		    at.sun_path + 1, hub);
	assert_true(manager_hears(fd, "READY=1"));
	assert_true(manager_hears(fd, "WATCHDOG=1"));
	assert_true(manager_hears(fd, "WATCHDOG=1"));
	scratch_run("kill -HUP $(cat pid)");
	assert_true(manager_hears(fd, "RELOADING=1\nMONOTONIC_USEC="));
	assert_true(manager_hears(fd, "READY=1"));
	scratch_run("kill -TERM $(cat pid)");
	assert_true(manager_hears(fd, "STOPPING=1"));
	assert_int_equal(scratch_run("for i in $(seq 1200); do kill -0 $(cat pid) 2>/dev/null ||"
				     " exit 0; sleep 0.05; done; exit 1"),
			 0);
	close(fd);
}

/* One listener for everybody on this machine, one for those who have a key. */
static void each_nbd_listener_has_a_policy_of_its_own(void **state)
{
	static const char story[] =
		"set -e\n"
		"psktool -u alice -p keys.psk >/dev/null\n"
		"echo "
		"'{\"nbd\":[\"unix:safe.sock\",\"unix:open.sock,tls=off\"],\"tls\":\"require\","
		"\"tls_psk\":\"keys.psk\"}' > c.json\n"
		"$HUB --config c.json --data-dir data --http 127.0.0.1:0 --agent-listen off >out "
		"2>err & pid=$!\n"
		"for i in $(seq 1200); do [ -s out ] && break; sleep 0.05; done\n"
		"cat out err\n"
		"nbdinfo --list \"nbds+unix://alice@/?socket=safe.sock&tls-psk-file=keys.psk\" |"
		" grep 'with TLS'\n"
		"no nbdinfo --list 'nbd+unix:///?socket=safe.sock'\n"
		"nbdinfo --list 'nbd+unix:///?socket=open.sock' | grep 'without TLS'\n"
		"no nbdinfo --list \"nbds+unix://alice@/?socket=open.sock&tls-psk-file=keys.psk\"\n"
		"no grep 'capture agents' err\n"
		"kill -TERM $pid; wait $pid\n"
		"$HUB --nbd unix:safe.sock --tls require --tls-psk keys.psk --data-dir data"
		" --http 127.0.0.1:0 --agent-listen off >out 2>err & pid=$!\n"
		"for i in $(seq 1200); do [ -s out ] && break; sleep 0.05; done\n"
		"grep 'capture agents' err\n"
		"kill -TERM $pid; wait $pid\n";

	(void)state;
	run_story(story);
}

#define T(name) cmocka_unit_test_setup_teardown(name, scratch_setup, scratch_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(help_and_version_tell_and_succeed),
		T(what_it_does_not_understand_it_refuses_by_name),
		T(a_configuration_file_is_read_strictly),
		T(settings_have_one_precedence_and_say_where_they_are_from),
		T(without_settings_it_listens_where_agents_look),
		T(a_wrong_configuration_is_named_by_file_and_line),
		T(a_hangup_changes_what_can_change_and_says_what_cannot),
		T(a_hangup_brings_new_certificates_and_limits),
		T(a_tunnel_that_leads_nowhere_is_told_of),
		T(a_call_the_hub_did_not_live_to_tell_of_is_in_the_audit_log),
		T(the_service_manager_hears_of_every_turn),
		T(it_says_when_it_serves_and_stops_in_order),
		T(each_nbd_listener_has_a_policy_of_its_own),
	};
	const char *build = getenv("BUILD");

	snprintf(hub, sizeof(hub), "%s/bin/sendense-hub", build ? build : "");
	if (!build || access(hub, X_OK)) {
		puts("set BUILD to the build folder, with bin/sendense-hub in it");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
