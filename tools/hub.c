/*
 * sendense-hub: the daemon. Options and configuration file, start, signals, stop, in that order.
 *
 * One line on stdout tells that it serves, and where; everything else is log on stderr. SIGTERM and
 * SIGINT stop it in order: no new request, running backups fail with the reason, exit 0. A second
 * signal ends it at once, exit 3; the next start finds out what that left.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/api.h"
#include "base/descriptors.h"
#include "base/log.h"
#include "base/stop.h"
#include "hub/hub.h"
#include "tools/hub_config.h"

static const struct log_scope hub_log = {.name = "sendense-hub"};

static const char usage[] =
	"Usage: sendense-hub [OPTION...]\n"
	"Backup hub: takes disk streams from capture agents over NBD and keeps them as qcow2.\n"
	"\n"
	"  --data-dir DIR       lock and catalog (default /var/lib/sendense)\n"
	"  --config FILE        JSON with the options' names as keys (data_dir, http, nbd,\n"
	"                       agent_url, db, name, workers, tls, tls_certificates, tls_psk,\n"
	"                       tls_verify_peer, tls_allow) and start_timeout_s, "
	"disconnect_grace_s,\n"
	"                       silence_timeout_s, stall_warning_s, tick_ms, progress_poll_ms, "
	"agent_timeout_s,\n"
	"                       discovery_timeout_s, lease_s, vcenter_user, vcenter_password,\n"
	"                       cancel_keeps_partial,\n"
	"                       credentials_key (default DATA-DIR/credentials.key), and the NBD\n"
	"                       limits: nbd_max_connections, nbd_max_connections_per_peer,\n"
	"                       nbd_max_connections_per_export, nbd_handshake_timeout_s,\n"
	"                       nbd_idle_timeout_s, nbd_stall_timeout_s, nbd_max_option_bytes,\n"
	"                       nbd_max_inflight_bytes, nbd_send_queue_bytes (docs/nbd.md);\n"
	"                       what is given on the command line wins\n"
	"  --http ADDR:PORT     REST API (default 127.0.0.1:8082)\n"
	"  --nbd ADDR:PORT|unix:PATH\n"
	"                       NBD listener; may be repeated\n"
	"                       (default 127.0.0.1:10809 and 127.0.0.1:10100)\n"
	"  --agent-url URL      capture agent (default http://127.0.0.1:9081)\n"
	"  --db sqlite:PATH | mariadb://USER@HOST[:PORT]/NAME[?OPTION=VALUE&...]\n"
	"                       catalog (default sqlite:DATA-DIR/catalog.db); OPTIONs of MariaDB:\n"
	"                       socket=PATH, password-file=PATH (or SENDENSE_DB_PASSWORD in the\n"
	"                       environment), tls=off|on|verify, tls-ca=, tls-cert=, tls-key=,\n"
	"                       timeout=SECONDS\n"
	"  --name NAME          among several hubs on one database (default: the machine's name)\n"
	"  --workers N          NBD worker threads (default: one a core)\n"
	"  --tls off|allow|require\n"
	"                       STARTTLS on NBD listeners (default: off); --nbd "
	"ADDRESS,tls=POLICY\n"
	"                       says it for one of them; with one of:\n"
	"  --tls-certificates DIR\n"
	"                       server-cert.pem, server-key.pem, ca-cert.pem[, ca-crl.pem]\n"
	"  --tls-psk FILE       pre-shared keys, as psktool makes them\n"
	"  --tls-verify-peer    clients must show a certificate of ca-cert.pem's\n"
	"  --tls-allow NAME     of such a client, by its subject (CN=a,O=b) or host name; may be\n"
	"                       repeated (default: all of them)\n"
	"  --verbose            log more\n"
	"  --help, --version\n"
	"\n"
	"Ports may be 0: chosen, and printed when ready. SIGTERM stops in order,\n"
	"exit 0; a second one at once, exit 3.\n"
	"Sockets that systemd passes (FileDescriptorName=nbd or =http) come in addition to\n"
	"--nbd, and instead of the defaults.\n"
	"\n"
	"Example: sendense-hub --data-dir /srv/hub --nbd 127.0.0.1:10100 --nbd "
	"unix:/run/hub.sock\n";

enum { OPT_HELP = 1000, OPT_VERSION, OPT_VERBOSE };

static const struct option options[] = {
	{"data-dir", required_argument, NULL, HUB_OPT_DATA_DIR},
	{"config", required_argument, NULL, HUB_OPT_CONFIG},
	{"http", required_argument, NULL, HUB_OPT_HTTP},
	{"nbd", required_argument, NULL, HUB_OPT_NBD},
	{"agent-url", required_argument, NULL, HUB_OPT_AGENT_URL},
	{"db", required_argument, NULL, HUB_OPT_DB},
	{"name", required_argument, NULL, HUB_OPT_NAME},
	{"workers", required_argument, NULL, HUB_OPT_WORKERS},
	{"tls", required_argument, NULL, HUB_OPT_TLS},
	{"tls-certificates", required_argument, NULL, HUB_OPT_TLS_CERTIFICATES},
	{"tls-psk", required_argument, NULL, HUB_OPT_TLS_PSK},
	{"tls-verify-peer", no_argument, NULL, HUB_OPT_TLS_VERIFY_PEER},
	{"tls-allow", required_argument, NULL, HUB_OPT_TLS_ALLOW},
	{"verbose", no_argument, NULL, OPT_VERBOSE},
	{"help", no_argument, NULL, OPT_HELP},
	{"version", no_argument, NULL, OPT_VERSION},
	{0},
};

/* 0: go on; else the exit status plus one. */
static int parse_options(struct hub_settings *settings, int argc, char **argv, struct err *err)
{
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case OPT_HELP:
			fputs(usage, stdout);
			return 1;
		case OPT_VERSION:
			puts("sendense-hub " SENDENSE_VERSION);
			return 1;
		case OPT_VERBOSE:
			log_set_level(LOG_LEVEL_DEBUG);
			break;
		case '?':
			return 3;
		default:
			if (hub_settings_option(settings, c, optarg, err)) {
				fprintf(stderr, "sendense-hub: %s\n", err->text);
				return 3;
			}
		}
	}
	if (optind < argc) {
		fprintf(stderr, "sendense-hub: \"%s\" is no option; see --help\n", argv[optind]);
		return 3;
	}
	return 0;
}

/* Blocked before the first thread starts, so that every thread inherits it and main alone takes
 * them. A client that goes away is an error of its socket, not a signal. */
static void block_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
	pthread_sigmask(SIG_BLOCK, set, NULL);
	signal(SIGPIPE, SIG_IGN);
}

static int take_passed(struct hub_settings *settings, struct err *err)
{
	struct activation passed;
	int rc = activation_take(&passed, err);

	return rc ? rc : hub_settings_passed(settings, &passed, err);
}

static int start(const struct hub_settings *settings, struct hub **hub, struct api **api,
		 struct err *err)
{
	struct hub_config config;
	struct api_config api_config = {.listen = settings->http};
	int rc;

	hub_settings_apply(settings, &config);
	rc = hub_start(hub, &config, err);
	return rc ? rc : api_start(api, *hub, &api_config, err);
}

static void wait_for_signal(const sigset_t *set)
{
	int sig = 0;

	while (sigwait(set, &sig))
		;
	log_info(&hub_log, "%s: stopping", sig == SIGINT ? "SIGINT" : "SIGTERM");
}

int main(int argc, char **argv)
{
	struct hub_settings *settings = hub_settings_new();
	struct hub *hub = NULL;
	struct api *api = NULL;
	struct err err = ERR_INIT;
	sigset_t signals;
	int rc = settings ? parse_options(settings, argc, argv, &err) : 3;

	if (rc) {
		hub_settings_free(settings);
		return rc - 1;
	}
	block_signals(&signals);
	descriptors_raise();
	rc = take_passed(settings, &err);
	if (!rc)
		rc = hub_settings_read(settings, &err);
	if (!rc)
		rc = start(settings, &hub, &api, &err);
	if (!rc) {
		printf("sendense-hub ready http=%s nbd=%s\n", api_address(api),
		       hub_nbd_addresses(hub));
		fflush(stdout);
		wait_for_signal(&signals);
		stop_at_next_signal();
		hub_interrupt(hub);
	} else {
		log_error(&hub_log, "%s", err.text);
	}
	api_stop(api);
	hub_stop(hub, "hub was stopped while this backup ran");
	hub_settings_free(settings);
	return rc ? 1 : 0;
}
