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
#include "base/bytes.h"
#include "base/descriptors.h"
#include "base/log.h"
#include "base/notify.h"
#include "base/stop.h"
#include "catalog/catalog.h"
#include "catalog/legacy.h"
#include "hub/access.h"
#include "hub/hub.h"
#include "hub/tunnel.h"
#include "tools/hub_config.h"

static const struct log_scope hub_log = {.name = "sendense-hub"};

static const char usage[] =
	"Usage: sendense-hub [OPTION...]\n"
	"Backup hub: takes disk streams from capture agents over NBD and keeps them as qcow2.\n"
	"\n"
	"  --data-dir DIR       lock and catalog (default /var/lib/sendense)\n"
	"  --config FILE        JSON with the options' names as keys (data_dir, http, "
	"agent_listen,\n"
	"                       nbd, agent_url, db, name, workers, tls, tls_certificates, "
	"tls_psk,\n"
	"                       tls_verify_peer, tls_allow) and start_timeout_s, "
	"disconnect_grace_s,\n"
	"                       silence_timeout_s, stall_warning_s, schedule_max_running, tick_ms, "
	"progress_poll_ms, "
	"agent_timeout_s,\n"
	"                       copy_max_running, copy_retry_s,\n"
	"                       restore_max_mounts, restore_idle_s, files_worker,\n"
	"                       discovery_timeout_s, lease_s, vcenter_user, vcenter_password,\n"
	"                       cancel_keeps_partial, pairing_code_s, enrollment_s, session_s,\n"
	"                       tunnel_authorized_keys, tunnel_user, tunnel_host_key, tunnel_port\n"
	"                       (docs/tunnel.md),\n"
	"                       credentials_key (default DATA-DIR/credentials.key), and the NBD\n"
	"                       limits: nbd_max_connections, nbd_max_connections_per_peer,\n"
	"                       nbd_max_connections_per_export, nbd_handshake_percent,\n"
	"                       nbd_handshake_timeout_s,\n"
	"                       nbd_idle_timeout_s, nbd_stall_timeout_s, nbd_max_option_bytes,\n"
	"                       nbd_max_inflight_bytes, nbd_send_queue_bytes (docs/nbd.md);\n"
	"                       the command line wins, then the environment\n"
	"                       (SENDENSE_START_TIMEOUT_S for start_timeout_s), then the file\n"
	"  --http ADDR:PORT     REST API (default 127.0.0.1:8080)\n"
	"  --agent-listen ADDR:PORT|off\n"
	"                       what capture agents call, without a token: a loopback address,\n"
	"                       where their tunnel ends (default 127.0.0.1:8082)\n"
	"  --new-admin-token    make another token for the user \"admin\", in "
	"DATA-DIR/admin-token, and\n"
	"                       go on: for who has lost the old one\n"
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
	"  --import-legacy mariadb://USER@HOST[:PORT]/NAME[?OPTION=VALUE&...]\n"
	"                       takes the backups of an old database into the catalog, and ends\n"
	"  --migrate-down-to N  takes the catalog down to the schema of an older program, after\n"
	"                       copying it aside, and ends: docs/admin-guide.md, Going back.\n"
	"                       --version tells a program's schema\n"
	"  --log-level error|warn|info|debug\n"
	"                       (default info; --verbose: debug)\n"
	"  --log-format auto|text|json|journal\n"
	"                       lines on stderr (default auto: journal under systemd, else text)\n"
	"  --check-config       read and check all settings, print them, and end: 0, or 1 with "
	"the\n"
	"                       file and line that is wrong\n"
	"  --help, --version\n"
	"\n"
	"Ports may be 0: chosen, and printed when ready. SIGTERM stops in order,\n"
	"exit 0; a second one at once, exit 3. SIGHUP reads the settings again: what\n"
	"can change changes, the log says what cannot.\n"
	"Sockets that systemd passes (FileDescriptorName=nbd, =http, =agent) come in addition to\n"
	"--nbd, and instead of the defaults.\n"
	"\n"
	"Example: sendense-hub --data-dir /srv/hub --nbd 127.0.0.1:10100 --nbd "
	"unix:/run/hub.sock\n";

enum {
	OPT_HELP = 1000,
	OPT_VERSION,
	OPT_VERBOSE,
	OPT_IMPORT_LEGACY,
	OPT_MIGRATE_DOWN_TO,
	OPT_CHECK_CONFIG,
};

static const struct option options[] = {
	{"data-dir", required_argument, NULL, HUB_OPT_DATA_DIR},
	{"config", required_argument, NULL, HUB_OPT_CONFIG},
	{"http", required_argument, NULL, HUB_OPT_HTTP},
	{"agent-listen", required_argument, NULL, HUB_OPT_AGENT_LISTEN},
	{"new-admin-token", no_argument, NULL, HUB_OPT_NEW_ADMIN_TOKEN},
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
	{"import-legacy", required_argument, NULL, OPT_IMPORT_LEGACY},
	{"migrate-down-to", required_argument, NULL, OPT_MIGRATE_DOWN_TO},
	{"log-level", required_argument, NULL, HUB_OPT_LOG_LEVEL},
	{"log-format", required_argument, NULL, HUB_OPT_LOG_FORMAT},
	{"check-config", no_argument, NULL, OPT_CHECK_CONFIG},
	{"verbose", no_argument, NULL, OPT_VERBOSE},
	{"help", no_argument, NULL, OPT_HELP},
	{"version", no_argument, NULL, OPT_VERSION},
	{0},
};

static bool parse_version(const char *text, long *version)
{
	char *end;

	errno = 0;
	*version = strtol(text, &end, 10);
	if (!errno && *text && !*end && *version > 0)
		return true;
	fprintf(stderr,
		"sendense-hub: --migrate-down-to takes the schema of the older program, a number: "
		"its --version, or what it says of this catalog\n");
	return false;
}

/* 0: go on; else the exit status plus one. */
static int parse_options(struct hub_settings *settings, int argc, char **argv, struct err *err)
{
	int c;

	optind = 0; /* from the beginning: settings are read again on SIGHUP */
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case OPT_HELP:
			fputs(usage, stdout);
			return 1;
		case OPT_VERSION:
			printf("sendense-hub " SENDENSE_VERSION ", catalog schema %lld\n",
			       (long long)catalog_schema_latest());
			return 1;
		case OPT_VERBOSE:
			hub_settings_option(settings, HUB_OPT_LOG_LEVEL, "debug", err);
			break;
		case OPT_CHECK_CONFIG:
			settings->check_only = true;
			break;
		case OPT_IMPORT_LEGACY:
			settings->import_legacy = optarg;
			break;
		case OPT_MIGRATE_DOWN_TO:
			if (!parse_version(optarg, &settings->migrate_down_to))
				return 3;
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
	sigaddset(set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, set, NULL);
	signal(SIGPIPE, SIG_IGN);
}

/* Shown to somebody who sits there; a log keeps what it is told. */
static void show_first_token(const struct hub *hub)
{
	const char *path = hub_access_new_token_path(hub);
	char token[HUB_TOKEN_SIZE + 1] = "";
	FILE *f;

	if (!path)
		return;
	log_info(&hub_log, "the user \"admin\" has a new token, in %s", path);
	f = isatty(STDERR_FILENO) ? fopen(path, "re") : NULL;
	if (f && fgets(token, sizeof(token), f))
		fprintf(stderr, "The administrator's token, shown this once: %s\n", token);
	if (f)
		fclose(f);
	explicit_bzero(token, sizeof(token));
}

static void apply_http(const struct hub_settings *settings, struct api_config *config)
{
	if (settings->http_tls_certificate[0])
		config->tls_certificate = settings->http_tls_certificate;
	if (settings->http_tls_key[0])
		config->tls_key = settings->http_tls_key;
	config->max_connections = (unsigned)MAX(settings->http_max_connections, 0);
	config->max_connections_per_peer =
		(unsigned)MAX(settings->http_max_connections_per_peer, 0);
	config->io_timeout_ms = (unsigned)MAX(settings->http_timeout_s, 0) * 1000;
}

/* The listeners; the agents' may be off. */
struct faces {
	struct api *control, *agents;
};

static int start_faces(const struct hub_settings *settings, struct hub *hub, struct faces *faces,
		       struct err *err)
{
	const struct api_config agents = {.listen = settings->agent_listen, .for_agents = true};
	struct api_config control = {.listen = settings->http};
	int rc;

	apply_http(settings, &control);
	rc = api_start(&faces->control, hub, &control, err);

	if (!rc && strcmp(settings->agent_listen, "off"))
		rc = api_start(&faces->agents, hub, &agents, err);
	if (!rc)
		hub_tunnel_open(hub, faces->agents ? api_address(faces->agents) : NULL);
	return rc;
}

static int start(const struct hub_settings *settings, struct hub **hub, struct faces *faces,
		 struct err *err)
{
	struct hub_config config;
	int rc;

	hub_settings_apply(settings, &config);
	rc = hub_start(hub, &config, err);
	if (rc)
		return rc;
	show_first_token(*hub);
	return start_faces(settings, *hub, faces, err);
}

static int import_legacy(const struct hub_settings *settings, struct err *err)
{
	struct catalog_legacy done;
	struct hub_config config;
	int rc;

	hub_settings_apply(settings, &config);
	rc = hub_import_legacy(&config, settings->import_legacy, &done, err);
	if (rc)
		return rc;
	printf("imported repositories=%lld vms=%lld contexts=%lld jobs=%lld disks=%lld points=%lld "
	       "unusable=%lld present=%lld\n",
	       (long long)done.repositories, (long long)done.vms, (long long)done.contexts,
	       (long long)done.jobs, (long long)done.disks, (long long)done.points,
	       (long long)done.unusable, (long long)done.present);
	if (done.unusable)
		log_warn(&hub_log,
			 "%lld disks have no change id in the old database: their backups are "
			 "failed in the catalog, their files stay where they are",
			 (long long)done.unusable);
	return 0;
}

static void say_loss(void *arg, const char *line)
{
	(void)arg;
	printf("goes: %s\n", line);
}

static int migrate_down(const struct hub_settings *settings, struct err *err)
{
	struct hub_config config;
	int rc;

	hub_settings_apply(settings, &config);
	rc = hub_migrate_down(&config, settings->migrate_down_to, say_loss, NULL, err);
	if (!rc)
		printf("the catalog has schema %ld now: start the program that knows it, for this "
		       "one would bring it up again\n",
		       settings->migrate_down_to);
	return rc;
}

/* --- settings, and settings again ----------------------------------------------------------- */

static struct activation passed; /* by the service manager; taken once */

/* What the options leave open is read and checked. */
static int read_settings(struct hub_settings *settings, struct err *err)
{
	int rc = hub_settings_passed(settings, &passed, err);

	if (!rc)
		rc = hub_settings_read(settings, err);
	if (!rc && settings->db[0] && !catalog_url_valid(settings->db, err))
		rc = -EINVAL;
	return rc;
}

static void tell_change(const char *key, bool live)
{
	if (live)
		log_info(&hub_log, "%s has changed", key);
	else
		log_warn(&hub_log, "%s has changed: it takes effect at the next start", key);
}

static int change_settings(struct hub *hub, struct faces *faces,
			   const struct hub_settings *settings, struct err *err)
{
	struct api_config control = {0};
	struct hub_change *change;
	struct hub_config config;
	int rc;

	hub_settings_apply(settings, &config);
	apply_http(settings, &control);
	rc = hub_prepare(hub, &config, &change, err);
	if (rc)
		return rc;
	rc = api_change(faces->control, &control, err);
	if (rc)
		hub_change_free(change);
	else
		hub_apply(hub, change);
	return rc;
}

static int reload(struct hub *hub, struct faces *faces, struct hub_settings **settings, int argc,
		  char **argv, struct err *err)
{
	struct hub_settings *now = hub_settings_new();
	int rc = now ? 0 : -ENOMEM;

	if (!rc && parse_options(now, argc, argv, err))
		rc = -EINVAL;
	if (!rc)
		rc = read_settings(now, err);
	if (!rc)
		rc = change_settings(hub, faces, now, err);
	if (rc) {
		hub_settings_free(now);
		return rc;
	}
	hub_settings_apply_log(now);
	hub_settings_compare(*settings, now, tell_change);
	hub_settings_free(*settings);
	*settings = now;
	return 0;
}

static void on_hangup(struct hub *hub, struct faces *faces, struct hub_settings **settings,
		      int argc, char **argv)
{
	struct err err = ERR_INIT;

	log_info(&hub_log, "SIGHUP: reading the settings again");
	notify_reloading();
	if (reload(hub, faces, settings, argc, argv, &err))
		log_error(&hub_log, "the settings stay as they were: %s", err.text);
	notify("READY=1");
}

/* --- running -------------------------------------------------------------------------------- */

/* The service manager's watchdog hears of us as long as the list of backups can be looked at. */
static int next_signal(const sigset_t *set, struct hub *hub)
{
	unsigned ms = notify_watchdog_ms();
	const struct timespec patience = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
	int sig;

	while ((sig = ms ? sigtimedwait(set, NULL, &patience) : sigwaitinfo(set, NULL)) < 0) {
		if (errno != EAGAIN)
			continue;
		hub_running_backups(hub);
		notify("WATCHDOG=1");
	}
	return sig;
}

static void serve(struct hub *hub, struct faces *faces, struct hub_settings **settings, int argc,
		  char **argv, const sigset_t *set)
{
	int sig;

	notify("READY=1");
	while ((sig = next_signal(set, hub)) == SIGHUP)
		on_hangup(hub, faces, settings, argc, argv);
	log_info(&hub_log, "%s: stopping", sig == SIGINT ? "SIGINT" : "SIGTERM");
	notify("STOPPING=1");
}

static int check_config(const struct hub_settings *settings, int rc, const struct err *err)
{
	if (rc) {
		fprintf(stderr, "sendense-hub: %s\n", err->text);
		return 1;
	}
	hub_settings_print(settings, stdout);
	return 0;
}

int main(int argc, char **argv)
{
	struct hub_settings *settings = hub_settings_new();
	struct hub *hub = NULL;
	struct faces faces = {NULL};
	struct err err = ERR_INIT;
	sigset_t signals;
	int rc = settings ? parse_options(settings, argc, argv, &err) : 3;

	if (rc) {
		hub_settings_free(settings);
		return rc - 1;
	}
	block_signals(&signals);
	descriptors_raise();
	rc = activation_take(&passed, &err);
	if (!rc)
		rc = read_settings(settings, &err);
	if (settings->check_only) {
		rc = check_config(settings, rc, &err);
		hub_settings_free(settings);
		return rc;
	}
	if (!rc)
		hub_settings_apply_log(settings);
	if (!rc && (settings->import_legacy || settings->migrate_down_to)) {
		rc = settings->import_legacy ? import_legacy(settings, &err)
					     : migrate_down(settings, &err);
		if (rc)
			log_error(&hub_log, "%s", err.text);
		hub_settings_free(settings);
		return rc ? 1 : 0;
	}
	if (!rc)
		rc = start(settings, &hub, &faces, &err);
	if (!rc) {
		printf("sendense-hub ready http=%s agent=%s nbd=%s\n", api_address(faces.control),
		       faces.agents ? api_address(faces.agents) : "off", hub_nbd_addresses(hub));
		fflush(stdout);
		serve(hub, &faces, &settings, argc, argv, &signals);
		stop_at_next_signal();
		hub_interrupt(hub);
	} else {
		log_error(&hub_log, "%s", err.text);
	}
	api_stop(faces.agents);
	api_stop(faces.control);
	hub_stop(hub, "hub was stopped while this backup ran");
	hub_settings_free(settings);
	return rc ? 1 : 0;
}
