/*
 * sendense-nbd: serves one image on one socket, without hub or catalog: for tests, measurements and
 * rescue. Options, start, signals, stop, in that order; in the foreground, one process.
 *
 * One line on stdout tells that it serves, and where. SIGTERM, SIGINT and SIGHUP take the export
 * away (what was acknowledged is flushed), finalize the image and exit 0. SIGUSR1 writes a summary
 * of what was done so far to the log, and so does the end.
 */
#include <errno.h>
#include <getopt.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/activation.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/descriptors.h"
#include "base/log.h"
#include "base/stop.h"
#include "nbd/export_qcow2.h"
#include "nbd/server.h"
#include "qcow2/qcow2.h"
#include "tools/nbd_summary.h"

static const char usage[] =
	"Usage: sendense-nbd (--socket PATH | --listen ADDR:PORT) --image FILE [OPTION...]\n"
	"Serves one qcow2 image over NBD, in the foreground, until SIGTERM or SIGINT.\n"
	"\n"
	"  --socket PATH        listen on a unix socket\n"
	"  --listen ADDR:PORT   listen on TCP; port 0: chosen, and printed when ready\n"
	"                       (neither when systemd passes sockets: LISTEN_FDS)\n"
	"  --image FILE         the image; without --create an existing one is continued\n"
	"  --create             make the image; it must not exist\n"
	"  --size N[K|M|G|T]    its size in bytes (default: that of --backing)\n"
	"  --backing FILE       its parent; relative names are relative to the image\n"
	"  --cluster-size N[K|M]\n"
	"                       its cluster size (default: chosen by size)\n"
	"  --repository DIR     folder that holds all of the chain (default: the image's)\n"
	"  --no-suppress        store clusters that equal the parent's, too\n"
	"  --no-sums            keep no checksum file beside the image\n"
	"  --compress zstd[:LEVEL]\n"
	"                       compress new clusters, level 1 to 19 (default 1); an image that\n"
	"                       exists must have been created so\n"
	"  --read-only          refuse writes; the file is not changed at all\n"
	"  --export NAME        name of the export (default: the empty name)\n"
	"  --workers N          threads (default: 1)\n"
	"\n"
	"  --tls off|allow|require\n"
	"                       encryption by STARTTLS (default: off), with one of:\n"
	"  --tls-certificates DIR\n"
	"                       server-cert.pem, server-key.pem, ca-cert.pem[, ca-crl.pem]\n"
	"  --tls-psk FILE       pre-shared keys, as psktool makes them\n"
	"  --tls-verify-peer    clients must show a certificate of ca-cert.pem's\n"
	"  --tls-allow NAME     of such a client, by its subject (CN=a,O=b) or host name; may be\n"
	"                       repeated (default: all of them)\n"
	"\n"
	"Limits; those of a connection bound what one client costs (docs/nbd.md):\n"
	"  --max-connections N  in total (default 1024)\n"
	"  --max-connections-per-peer N\n"
	"                       from one IP address (default: half of the total)\n"
	"  --max-connections-per-export N\n"
	"                       (default 64)\n"
	"  --handshake-percent N\n"
	"                       of a thread's time for new connections, while others are\n"
	"                       served (default 2)\n"
	"  --handshake-timeout SECONDS\n"
	"                       for the negotiation (default 30)\n"
	"  --idle-timeout SECONDS\n"
	"                       without a byte from the client (default 0: off)\n"
	"  --stall-timeout SECONDS\n"
	"                       without reading replies while others wait (default 10)\n"
	"  --max-option-bytes N[K]\n"
	"                       data of one option (default 16K)\n"
	"  --max-inflight-bytes N[K|M]\n"
	"                       reply data in memory, a connection (default 3M, the most)\n"
	"  --send-queue-bytes N[K|M]\n"
	"                       replies without data, a connection (default 4K, the least)\n"
	"\n"
	"  --verbose            log more\n"
	"  --help, --version\n"
	"\n"
	"SIGUSR1 writes a summary of requests, bytes and latencies to the log; so does the end.\n"
	"\n"
	"SIGTERM, SIGINT and SIGHUP end it in order; a second one at once.\n"
	"\n"
	"Exit: 0 ended cleanly, 1 failure, 2 usage, 3 ended at once.\n"
	"\n"
	"Example: sendense-nbd --socket /run/disk.sock --image disk.qcow2 --create --size 10G\n";

DEFINE_CLEANUP(struct qcow2_image *, qcow2_close)

static const struct log_scope nbd_log = {.name = "sendense-nbd"};

#define TLS_ALLOW_MAX 64

struct settings {
	const char *socket, *listen, *image, *backing, *repository, *export;
	uint64_t size, cluster_size;
	struct nbd_server_config limits;
	int zstd_level; /* 0: no compression */
	struct nbd_listen_config listener;
	const char *tls_allow[TLS_ALLOW_MAX]; /* listener.tls.allow */
	const struct activation *passed;
	bool create, sized, read_only, no_suppress, no_sums, verbose;
};

enum {
	OPT_SOCKET = 1000,
	OPT_LISTEN,
	OPT_IMAGE,
	OPT_CREATE,
	OPT_SIZE,
	OPT_BACKING,
	OPT_CLUSTER_SIZE,
	OPT_REPOSITORY,
	OPT_NO_SUPPRESS,
	OPT_NO_SUMS,
	OPT_COMPRESS,
	OPT_READ_ONLY,
	OPT_EXPORT,
	OPT_WORKERS,
	OPT_TLS,
	OPT_TLS_CERTIFICATES,
	OPT_TLS_PSK,
	OPT_TLS_VERIFY_PEER,
	OPT_TLS_ALLOW,
	OPT_MAX_CONNECTIONS,
	OPT_MAX_PER_PEER,
	OPT_MAX_PER_EXPORT,
	OPT_HANDSHAKE_PERCENT,
	OPT_HANDSHAKE_TIMEOUT,
	OPT_IDLE_TIMEOUT,
	OPT_STALL_TIMEOUT,
	OPT_MAX_OPTION,
	OPT_MAX_INFLIGHT,
	OPT_SEND_QUEUE,
	OPT_VERBOSE,
	OPT_HELP,
	OPT_VERSION,
};

static const struct option options[] = {
	{"socket", required_argument, NULL, OPT_SOCKET},
	{"listen", required_argument, NULL, OPT_LISTEN},
	{"image", required_argument, NULL, OPT_IMAGE},
	{"create", no_argument, NULL, OPT_CREATE},
	{"size", required_argument, NULL, OPT_SIZE},
	{"backing", required_argument, NULL, OPT_BACKING},
	{"cluster-size", required_argument, NULL, OPT_CLUSTER_SIZE},
	{"repository", required_argument, NULL, OPT_REPOSITORY},
	{"no-suppress", no_argument, NULL, OPT_NO_SUPPRESS},
	{"no-sums", no_argument, NULL, OPT_NO_SUMS},
	{"compress", required_argument, NULL, OPT_COMPRESS},
	{"read-only", no_argument, NULL, OPT_READ_ONLY},
	{"export", required_argument, NULL, OPT_EXPORT},
	{"workers", required_argument, NULL, OPT_WORKERS},
	{"tls", required_argument, NULL, OPT_TLS},
	{"tls-certificates", required_argument, NULL, OPT_TLS_CERTIFICATES},
	{"tls-psk", required_argument, NULL, OPT_TLS_PSK},
	{"tls-verify-peer", no_argument, NULL, OPT_TLS_VERIFY_PEER},
	{"tls-allow", required_argument, NULL, OPT_TLS_ALLOW},
	{"max-connections", required_argument, NULL, OPT_MAX_CONNECTIONS},
	{"max-connections-per-peer", required_argument, NULL, OPT_MAX_PER_PEER},
	{"max-connections-per-export", required_argument, NULL, OPT_MAX_PER_EXPORT},
	{"handshake-percent", required_argument, NULL, OPT_HANDSHAKE_PERCENT},
	{"handshake-timeout", required_argument, NULL, OPT_HANDSHAKE_TIMEOUT},
	{"idle-timeout", required_argument, NULL, OPT_IDLE_TIMEOUT},
	{"stall-timeout", required_argument, NULL, OPT_STALL_TIMEOUT},
	{"max-option-bytes", required_argument, NULL, OPT_MAX_OPTION},
	{"max-inflight-bytes", required_argument, NULL, OPT_MAX_INFLIGHT},
	{"send-queue-bytes", required_argument, NULL, OPT_SEND_QUEUE},
	{"verbose", no_argument, NULL, OPT_VERBOSE},
	{"help", no_argument, NULL, OPT_HELP},
	{"version", no_argument, NULL, OPT_VERSION},
	{0},
};

/* --- options -------------------------------------------------------------------------------- */

/* Digits and at most one of K, M, G, T; false for anything else, overflow included. */
static bool parse_size(const char *text, uint64_t *out)
{
	static const char suffixes[] = "KMGT";
	const char *at;
	char *end;
	unsigned shift = 0;
	uint64_t v;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	v = strtoull(text, &end, 10);
	if (errno)
		return false;
	if (*end) {
		at = strchr(suffixes, *end >= 'a' ? *end - 'a' + 'A' : *end);
		if (!at || end[1])
			return false;
		shift = 10 * (at - suffixes + 1);
	}
	if (v > UINT64_MAX >> shift)
		return false;
	*out = v << shift;
	return true;
}

/* A limit is zero only where that means off; the server knows the other bounds. */
static bool parse_limit(const char *text, unsigned factor, bool may_be_off, unsigned *out)
{
	uint64_t v;

	if (!parse_size(text, &v) || (!v && !may_be_off) || v > UINT32_MAX / factor)
		return false;
	*out = v * factor;
	return true;
}

static bool take_tls_allow(struct settings *s)
{
	struct nbd_tls_config *tls = &s->listener.tls;

	if (tls->allow_count == TLS_ALLOW_MAX)
		return false;
	s->tls_allow[tls->allow_count++] = optarg;
	tls->allow = s->tls_allow;
	return true;
}

static bool take_tls_option(struct settings *s, int option)
{
	struct nbd_tls_config *tls = &s->listener.tls;

	switch (option) {
	case OPT_TLS:
		return nbd_tls_parse_policy(optarg, &tls->policy);
	case OPT_TLS_CERTIFICATES:
		tls->certificates = optarg;
		return true;
	case OPT_TLS_PSK:
		tls->psk = optarg;
		return true;
	case OPT_TLS_VERIFY_PEER:
		tls->verify_peer = true;
		return true;
	default:
		return take_tls_allow(s);
	}
}

static bool take_limit(struct nbd_server_config *limits, int option)
{
	switch (option) {
	case OPT_WORKERS:
		return parse_limit(optarg, 1, false, &limits->workers);
	case OPT_MAX_CONNECTIONS:
		return parse_limit(optarg, 1, false, &limits->max_connections);
	case OPT_MAX_PER_PEER:
		return parse_limit(optarg, 1, false, &limits->max_connections_per_peer);
	case OPT_MAX_PER_EXPORT:
		return parse_limit(optarg, 1, false, &limits->max_connections_per_export);
	case OPT_HANDSHAKE_PERCENT:
		return parse_limit(optarg, 1, false, &limits->handshake_percent);
	case OPT_HANDSHAKE_TIMEOUT:
		return parse_limit(optarg, 1000, false, &limits->handshake_timeout_ms);
	case OPT_IDLE_TIMEOUT:
		return parse_limit(optarg, 1000, true, &limits->idle_timeout_ms);
	case OPT_STALL_TIMEOUT:
		return parse_limit(optarg, 1000, false, &limits->stall_timeout_ms);
	case OPT_MAX_OPTION:
		return parse_limit(optarg, 1, false, &limits->max_option_bytes);
	case OPT_MAX_INFLIGHT:
		return parse_limit(optarg, 1, false, &limits->max_inflight_bytes);
	default:
		return parse_limit(optarg, 1, false, &limits->send_queue_bytes);
	}
}

/* One option; false: its value makes no sense. */
static bool take_option(struct settings *s, int option)
{
	switch (option) {
	case OPT_TLS:
	case OPT_TLS_CERTIFICATES:
	case OPT_TLS_PSK:
	case OPT_TLS_VERIFY_PEER:
	case OPT_TLS_ALLOW:
		return take_tls_option(s, option);
	case OPT_SOCKET:
		s->socket = optarg;
		return true;
	case OPT_LISTEN:
		s->listen = optarg;
		return true;
	case OPT_IMAGE:
		s->image = optarg;
		return true;
	case OPT_CREATE:
		s->create = true;
		return true;
	case OPT_SIZE:
		s->sized = true;
		return parse_size(optarg, &s->size);
	case OPT_BACKING:
		s->backing = optarg;
		return true;
	case OPT_CLUSTER_SIZE:
		return parse_size(optarg, &s->cluster_size) && s->cluster_size <= UINT32_MAX;
	case OPT_REPOSITORY:
		s->repository = optarg;
		return true;
	case OPT_NO_SUPPRESS:
		s->no_suppress = true;
		return true;
	case OPT_NO_SUMS:
		s->no_sums = true;
		return true;
	case OPT_COMPRESS:
		return qcow2_parse_compression(optarg, &s->zstd_level);
	case OPT_READ_ONLY:
		s->read_only = true;
		return true;
	case OPT_EXPORT:
		s->export = optarg;
		return true;
	case OPT_VERBOSE:
		s->verbose = true;
		return true;
	default:
		return take_limit(&s->limits, option);
	}
}

static const char *tls_fault(const struct nbd_tls_config *tls)
{
	bool off = tls->policy == NBD_TLS_OFF;

	if (off && (tls->certificates || tls->psk || tls->verify_peer || tls->allow_count))
		return "the --tls-* options go with --tls allow or --tls require";
	if (!off && !tls->certificates == !tls->psk)
		return "--tls needs one of --tls-certificates and --tls-psk";
	if (tls->verify_peer && !tls->certificates)
		return "--tls-verify-peer goes with --tls-certificates";
	if (tls->allow_count && !tls->verify_peer)
		return "--tls-allow goes with --tls-verify-peer";
	return NULL;
}

static const char *settings_fault(const struct settings *s)
{
	if (!s->image)
		return "--image is missing";
	if (s->passed->count && (s->socket || s->listen))
		return "--socket and --listen exclude the sockets that systemd has passed";
	if (!s->passed->count && !s->socket == !s->listen)
		return "one of --socket and --listen is needed";
	if (s->create && s->read_only)
		return "--create and --read-only exclude each other";
	if (s->read_only && s->zstd_level)
		return "--compress and --read-only exclude each other";
	if (!s->create && (s->sized || s->backing || s->cluster_size))
		return "--size, --backing and --cluster-size go with --create";
	if (s->create && !s->sized && !s->backing)
		return "--create needs --size, or a --backing to take it from";
	return tls_fault(&s->listener.tls);
}

static int usage_fault(const char *fault, const char *detail)
{
	fprintf(stderr, "sendense-nbd: %s%s%s\nTry 'sendense-nbd --help'.\n", fault,
		detail ? ": " : "", detail ? detail : "");
	return 2;
}

/* 0: go on; otherwise the exit status plus one. */
static int parse_options(struct settings *s, int argc, char **argv)
{
	struct err err = ERR_INIT;
	const char *fault;
	char what[64];
	int c, index = 0;

	while ((c = getopt_long(argc, argv, "", options, &index)) >= 0) {
		if (c == OPT_HELP || c == OPT_VERSION) {
			if (c == OPT_HELP)
				fputs(usage, stdout);
			else
				puts("sendense-nbd " SENDENSE_VERSION);
			return 1;
		}
		if (c == '?') {
			fputs("Try 'sendense-nbd --help'.\n", stderr);
			return 3;
		}
		if (!take_option(s, c)) {
			snprintf(what, sizeof(what), "--%s takes no such value",
				 options[index].name);
			return usage_fault(what, optarg) + 1;
		}
	}
	if (optind < argc)
		return usage_fault("unexpected argument", argv[optind]) + 1;
	fault = settings_fault(s);
	if (!fault && nbd_server_config_check(&s->limits, &err))
		fault = err.text;
	return fault ? usage_fault(fault, NULL) + 1 : 0;
}

/* --- the image ------------------------------------------------------------------------------ */

/* --backing as this process can open it: relative names are relative to the image. */
static char *backing_path(const struct settings *s)
{
	_cleanup_(freep) char *copy = strdup(s->image);
	char *path;

	if (*s->backing == '/')
		return strdup(s->backing);
	if (!copy || asprintf(&path, "%s/%s", dirname(copy), s->backing) < 0)
		return NULL;
	return path;
}

static int backing_size(const struct settings *s, uint64_t *size, struct err *err)
{
	const struct qcow2_open_opts opts = {.repository = s->repository};
	_cleanup_(freep) char *path = backing_path(s);
	struct qcow2_image *img;
	struct qcow2_info info;
	int r;

	if (!path)
		return err_set(err, -ENOMEM, "no memory to open '%s'", s->backing);
	r = qcow2_open(&img, path, &opts, err);
	if (r)
		return r;
	qcow2_get_info(img, &info);
	qcow2_close(img);
	*size = info.size;
	return 0;
}

static int image_create(const struct settings *s, struct err *err)
{
	struct qcow2_create_opts opts = {
		.size = s->size,
		.cluster_size = s->cluster_size,
		.backing = s->backing,
		.zstd = s->zstd_level,
	};
	int r = s->sized ? 0 : backing_size(s, &opts.size, err);

	return r ? r : qcow2_create(s->image, &opts, err);
}

static int image_open(const struct settings *s, struct qcow2_image **out, struct err *err)
{
	const struct qcow2_open_opts opts = {
		.writable = !s->read_only,
		.repository = s->repository,
		.suppress_unchanged = !s->read_only && !s->no_suppress,
		.sums = !s->read_only && !s->no_sums,
		.source_size = s->create && s->sized ? s->size : 0,
		.zstd_level = s->zstd_level,
	};
	int r = s->create ? image_create(s, err) : 0;

	if (r)
		return r;
	r = qcow2_open(out, s->image, &opts, err);
	if (r && s->create)
		unlink(s->image); /* made a moment ago, by us */
	return r;
}

/* --- serving -------------------------------------------------------------------------------- */

/* Everything but what a URI leaves alone becomes %XX. */
static void print_escaped(const char *s)
{
	for (; *s; s++) {
		if ((*s >= '0' && *s <= '9') || (*s >= 'a' && *s <= 'z') ||
		    (*s >= 'A' && *s <= 'Z') || strchr("-._~/", *s))
			putchar(*s);
		else
			printf("%%%02X", (unsigned char)*s);
	}
}

static void print_ready(const struct settings *s, const char *bound)
{
	const char *path = strncmp(bound, "unix:", 5) == 0 ? bound + 5 : NULL;

	printf("sendense-nbd ready on nbd%s", s->listener.tls.policy == NBD_TLS_REQUIRE ? "s" : "");
	if (path)
		fputs("+unix:///", stdout);
	else
		printf("://%s/", bound);
	print_escaped(s->export);
	if (path) {
		fputs("?socket=", stdout);
		print_escaped(path);
	}
	putchar('\n');
	fflush(stdout);
}

static int server_listen(struct nbd_server *server, const struct settings *s, char *bound,
			 size_t size, struct err *err)
{
	_cleanup_(freep) char *address = NULL;

	if (s->listen)
		return nbd_server_listen(server, s->listen, &s->listener, bound, size, err);
	if (asprintf(&address, "unix:%s", s->socket) < 0)
		return err_set(err, -ENOMEM, "no memory to listen");
	return nbd_server_listen(server, address, &s->listener, bound, size, err);
}

static void log_summary(struct nbd_server *server, const struct nbd_export *export)
{
	struct nbd_server_stats ss;
	struct nbd_export_stats es;
	char text[1000];

	nbd_export_get_stats(export, &es);
	nbd_server_get_stats(server, &ss);
	log_info(&nbd_log, "summary: %s", nbd_summary(text, sizeof(text), &es, &ss));
}

/* On every socket that was passed; @bound becomes the address of the first one. */
static int listen_passed(struct nbd_server *server, const struct settings *s, char *bound,
			 size_t size, struct err *err)
{
	char address[16];
	unsigned i;
	int r = 0;

	for (i = 0; !r && i < s->passed->count; i++) {
		snprintf(address, sizeof(address), "fd:%d", s->passed->fds[i].fd);
		r = nbd_server_listen(server, address, &s->listener, i ? NULL : bound, size, err);
	}
	return r;
}

/* From the open image to the finalized one. Takes @img over. On a passed socket clients may be
 * waiting: they are let in when there is something to serve, and who comes when that is over waits
 * for the next start. */
static int serve_image(struct nbd_server *server, const struct settings *s, struct qcow2_image *img,
		       char *bound, size_t bound_size, const sigset_t *signals, struct err *err)
{
	_cleanup_(qcow2_closep) struct qcow2_image *owned = img;
	struct nbd_export *export;
	struct qcow2_info info;
	int r, sig;

	qcow2_get_info(img, &info);
	r = nbd_export_add(server,
			   &(struct nbd_export_config){
				   .name = s->export,
				   .size = info.size,
				   .preferred_block = info.cluster_size,
				   .read_only = s->read_only,
			   },
			   &nbd_export_qcow2_ops, owned, &export, err);
	if (r)
		return r;
	r = listen_passed(server, s, bound, bound_size, err);
	if (r) {
		nbd_export_remove(export, false);
		return r;
	}
	print_ready(s, bound);
	while (sigwait(signals, &sig) || sig == SIGUSR1)
		log_summary(server, export);
	stop_at_next_signal();
	nbd_server_shutdown(server);
	nbd_export_ref(export);
	r = nbd_export_remove(export, false);
	log_summary(server, export);
	nbd_export_unref(export);
	if (r)
		return err_sys(err, r, "'%s' could not be written completely", s->image);
	return s->read_only ? 0 : qcow2_finalize(owned, err);
}

/* The socket comes first: with nowhere to listen, no image is made. */
static int serve(struct nbd_server *server, const struct settings *s, const sigset_t *signals,
		 struct err *err)
{
	char bound[256] = "";
	struct qcow2_image *img;
	int r = 0;

	if (!s->passed->count)
		r = server_listen(server, s, bound, sizeof(bound), err);
	if (!r)
		r = image_open(s, &img, err);
	return r ? r : serve_image(server, s, img, bound, sizeof(bound), signals, err);
}

/* Threads inherit the mask: every signal waits for sigwait(). */
static void block_signals(sigset_t *signals)
{
	sigemptyset(signals);
	sigaddset(signals, SIGTERM);
	sigaddset(signals, SIGINT);
	sigaddset(signals, SIGHUP);
	sigaddset(signals, SIGUSR1);
	sigprocmask(SIG_BLOCK, signals, NULL);
	signal(SIGPIPE, SIG_IGN);
}

int main(int argc, char **argv)
{
	struct activation passed;
	struct settings s = {.export = "", .limits.workers = 1, .passed = &passed};
	struct nbd_server *server = NULL;
	struct err err = ERR_INIT;
	sigset_t signals;
	int r = activation_take(&passed, &err);

	if (r) {
		log_error(&nbd_log, "%s", err.text);
		return 1;
	}
	r = parse_options(&s, argc, argv);
	if (r)
		return r - 1;
	if (s.verbose)
		log_set_level(LOG_LEVEL_DEBUG);
	block_signals(&signals);
	descriptors_raise();
	r = nbd_server_start(&server, &s.limits, &err);
	if (!r)
		r = serve(server, &s, &signals, &err);
	nbd_server_stop(server);
	if (!r)
		return 0;
	log_error(&nbd_log, "%s", err.text);
	return 1;
}
