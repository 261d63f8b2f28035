#include "nbd/limits.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <arpa/inet.h>

#include "base/bytes.h"
#include "nbd/handshake.h"
#include "nbd/server_priv.h"

#define HOUR_MS (3600U * 1000)

/* --- bounds and defaults ---------------------------------------------------------------------- */

static const struct config_row {
	const char *name;
	size_t off; /* of an unsigned in struct nbd_server_config */
	unsigned min, max, preset;
} config_rows[] = {
#define ROW(field, min, max, preset)                                                               \
	{                                                                                          \
#field, offsetof(struct nbd_server_config, field), min, max, preset                \
	}
	ROW(workers, 1, NBD_WORKERS_MAX, 0),
	ROW(max_connections, 1, 65536, 1024),
	ROW(max_connections_per_peer, 1, 65536, 0),
	ROW(max_connections_per_export, 1, 65536, 64),
	ROW(handshake_percent, 1, 100, 2),
	ROW(handshake_timeout_ms, 10, HOUR_MS, 30000),
	ROW(idle_timeout_ms, 10, 30 * 24 * HOUR_MS, 0),
	ROW(stall_timeout_ms, 10, HOUR_MS, 10000),
	ROW(max_option_bytes, 512, 65536, 16384),
	ROW(max_inflight_bytes, NBD_SEGMENT, NBD_READS / 2 * NBD_SEGMENT,
	    NBD_READS / 2 * NBD_SEGMENT),
	ROW(send_queue_bytes, NBD_SEND_QUEUE_MIN, 1U << 20, NBD_SEND_QUEUE_MIN),
	ROW(batch_count, 1, 4096, 20),
#undef ROW
};

static unsigned *config_field(struct nbd_server_config *config, const struct config_row *row)
{
	return (unsigned *)((char *)config + row->off);
}

int nbd_server_config_check(const struct nbd_server_config *config, struct err *err)
{
	struct nbd_server_config copy = *config;
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(config_rows); i++) {
		const struct config_row *row = &config_rows[i];
		unsigned v = *config_field(&copy, row);

		if (v && (v < row->min || v > row->max))
			return err_set(err, -EINVAL,
				       "NBD limit %s is %u; it must be between %u and %u",
				       row->name, v, row->min, row->max);
	}
	return 0;
}

/* A quarter of what may be open is left for images and everything else. */
static unsigned connections_possible(unsigned wanted)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) || files.rlim_cur == RLIM_INFINITY ||
	    files.rlim_cur / 4 * 3 >= wanted)
		return wanted;
	return MAX(files.rlim_cur / 4 * 3, 1);
}

void nbd_config_complete(struct nbd_server_config *config)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(config_rows); i++) {
		unsigned *v = config_field(config, &config_rows[i]);

		if (!*v)
			*v = config_rows[i].preset;
	}
	if (!config->workers)
		config->workers = cpus > 0 ? MIN(cpus, NBD_WORKERS_MAX) : 1;
	config->max_connections = connections_possible(config->max_connections);
	if (!config->max_connections_per_peer)
		config->max_connections_per_peer = MAX(config->max_connections / 2, 1);
}

void nbd_config_log(const struct nbd_server_config *c, const struct log_scope *scope)
{
	char idle[32] = "off";

	if (c->idle_timeout_ms)
		snprintf(idle, sizeof(idle), "%u ms", c->idle_timeout_ms);
	log_info(scope,
		 "limits: %u workers with %u write buffers of 2 MiB; connections: %u, %u an IP "
		 "address, %u an export; handshake %u ms, idle %s, stall %u ms; a connection: "
		 "option %u bytes, %u requests and %u bytes of data in flight, send queue %u "
		 "bytes; new connections: %u %% of the time",
		 c->workers, c->batch_count, c->max_connections, c->max_connections_per_peer,
		 c->max_connections_per_export, c->handshake_timeout_ms, idle, c->stall_timeout_ms,
		 c->max_option_bytes, NBD_CONN_REQUESTS, c->max_inflight_bytes, c->send_queue_bytes,
		 c->handshake_percent);
}

/* --- telling ---------------------------------------------------------------------------------- */

#define NOTICE_EVERY_NS 1000000000LL
#define NOTICE_QUIET_NS (60 * 1000000000LL)

bool nbd_notice_due(struct nbd_notice *notice, int64_t now_ns)
{
	bool quiet = now_ns - notice->met_ns > NOTICE_QUIET_NS;

	notice->met_ns = now_ns;
	if (notice->said && !quiet)
		return false;
	if (notice->line_ns && now_ns - notice->line_ns < NOTICE_EVERY_NS)
		return false;
	notice->said = true;
	notice->line_ns = now_ns;
	return true;
}

const char *nbd_limit_name(enum nbd_limit limit)
{
	static const char *const names[] = {
		[NBD_LIMIT_CONNECTIONS] = "connections",
		[NBD_LIMIT_PEER] = "peer",
		[NBD_LIMIT_EXPORT] = "export",
		[NBD_LIMIT_HANDSHAKE] = "handshake",
		[NBD_LIMIT_IDLE] = "idle",
		[NBD_LIMIT_STALL] = "stall",
		[NBD_LIMIT_OPTION] = "option",
		[NBD_LIMIT_INFLIGHT] = "inflight",
		[NBD_LIMIT_SEND_QUEUE] = "send_queue",
	};

	return names[limit];
}

void nbd_limit_count(struct nbd_worker *worker, enum nbd_limit limit)
{
	nbd_count(&worker->counters.met[limit], 1);
}

void nbd_limit_met(struct nbd_worker *worker, enum nbd_limit limit, const struct log_scope *scope,
		   const char *what)
{
	nbd_limit_count(worker, limit);
	if (nbd_notice_due(&worker->notices[limit], nbd_now_ns(worker)))
		log_warn(scope,
			 "%s (limit \"%s\"; others like it in the next minute are counted only)",
			 what, nbd_limit_name(limit));
	else
		log_debug(scope, "%s (limit \"%s\")", what, nbd_limit_name(limit));
}

/* --- who may connect -------------------------------------------------------------------------- */

void nbd_admission_init(struct nbd_admission *a)
{
	unsigned i;

	pthread_mutex_init(&a->lock, NULL);
	for (i = 0; i < NBD_PEER_BUCKETS; i++)
		list_init(&a->peers[i]);
}

void nbd_admission_set(struct nbd_admission *a, const struct nbd_server_config *config)
{
	pthread_mutex_lock(&a->lock);
	a->max = config->max_connections;
	a->max_per_peer = config->max_connections_per_peer;
	pthread_mutex_unlock(&a->lock);
}

void nbd_admission_deinit(struct nbd_admission *a)
{
	pthread_mutex_destroy(&a->lock);
}

/* The peer's address as IPv6. 0: a unix socket, which has none; 1: it has one; -errno: it is gone.
 */
static int peer_address(int fd, unsigned char address[16])
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);

	memset(&ss, 0, sizeof(ss));
	if (getpeername(fd, (struct sockaddr *)&ss, &len))
		return -errno;
	memset(address, 0, 16);
	if (ss.ss_family == AF_INET6) {
		memcpy(address, &((struct sockaddr_in6 *)&ss)->sin6_addr, 16);
		return 1;
	}
	if (ss.ss_family != AF_INET)
		return 0;
	memset(address + 10, 0xff, 2);
	memcpy(address + 12, &((struct sockaddr_in *)&ss)->sin_addr, 4);
	return 1;
}

static void peer_print(const unsigned char address[16], char text[INET6_ADDRSTRLEN])
{
	struct in6_addr in6;
	bool v4;

	memcpy(&in6, address, 16);
	v4 = IN6_IS_ADDR_V4MAPPED(&in6);
	inet_ntop(v4 ? AF_INET : AF_INET6, v4 ? address + 12 : address, text, INET6_ADDRSTRLEN);
}

static struct list *peer_bucket(struct nbd_admission *a, const unsigned char address[16])
{
	uint32_t h = 2166136261U;
	unsigned i;

	for (i = 0; i < 16; i++)
		h = (h ^ address[i]) * 16777619U;
	return &a->peers[(h ^ h >> 16) % NBD_PEER_BUCKETS];
}

/* Finds or makes it; NULL: no memory. */
static struct nbd_peer *peer_get(struct nbd_admission *a, const unsigned char address[16],
				 int64_t now_ns)
{
	struct list *bucket = peer_bucket(a, address), *node;
	struct nbd_peer *peer;

	list_for_each (node, bucket) {
		peer = list_entry(node, struct nbd_peer, node);
		if (memcmp(peer->address, address, 16) == 0)
			return peer;
	}
	peer = calloc(1, sizeof(*peer));
	if (!peer)
		return NULL;
	memcpy(peer->address, address, 16);
	atomic_store_explicit(&peer->turn_ns, now_ns, memory_order_relaxed);
	list_add_tail(bucket, &peer->node);
	return peer;
}

static void peer_put(struct nbd_peer *peer)
{
	if (peer->connections)
		return;
	list_del(&peer->node);
	free(peer);
}

static bool total_has_room(struct nbd_worker *worker)
{
	struct nbd_server *server = worker->server;
	struct nbd_admission *a = &server->admission;

	if (a->connections < a->max)
		return true;
	nbd_limit_count(worker, NBD_LIMIT_CONNECTIONS);
	if (nbd_notice_due(&a->total, nbd_now_ns(worker)))
		log_warn(&server->log, "%u connections are open; further ones are refused", a->max);
	return false;
}

static bool peer_has_room(struct nbd_worker *worker, struct nbd_peer *peer)
{
	struct nbd_server *server = worker->server;
	struct nbd_admission *a = &server->admission;
	char text[INET6_ADDRSTRLEN];

	if (peer->connections < a->max_per_peer)
		return true;
	nbd_limit_count(worker, NBD_LIMIT_PEER);
	/* What is told of is the address; how often is bounded for all of them. */
	a->peer.said = peer->said;
	if (nbd_notice_due(&a->peer, nbd_now_ns(worker))) {
		peer_print(peer->address, text);
		log_warn(&server->log, "%s has %u connections open; further ones are refused", text,
			 peer->connections);
	}
	peer->said = a->peer.said;
	return false;
}

/* Under the lock. */
static bool admit(struct nbd_worker *worker, const unsigned char *address, struct nbd_peer **out)
{
	struct nbd_admission *a = &worker->server->admission;
	struct nbd_peer *peer = NULL;

	if (!total_has_room(worker))
		return false;
	if (address) {
		peer = peer_get(a, address, nbd_now_ns(worker));
		if (!peer) {
			log_warn(&worker->log, "no memory for another connection");
			return false;
		}
		if (!peer_has_room(worker, peer))
			return false;
		peer->connections++;
	}
	a->connections++;
	*out = peer;
	return true;
}

bool nbd_admit(struct nbd_worker *worker, int fd, struct nbd_peer **peer)
{
	struct nbd_admission *a = &worker->server->admission;
	unsigned char address[16];
	int known = peer_address(fd, address);
	bool in;

	if (known < 0)
		return false; /* gone already */
	pthread_mutex_lock(&a->lock);
	in = admit(worker, known ? address : NULL, peer);
	pthread_mutex_unlock(&a->lock);
	if (in)
		nbd_count(&worker->counters.accepted, 1);
	return in;
}

void nbd_admit_end(struct nbd_worker *worker, struct nbd_peer *peer)
{
	struct nbd_admission *a = &worker->server->admission;

	pthread_mutex_lock(&a->lock);
	a->connections--;
	nbd_notice_clear(&a->total);
	if (peer) {
		peer->connections--;
		peer->said = false;
		peer_put(peer);
	}
	pthread_mutex_unlock(&a->lock);
}

/* --- counters --------------------------------------------------------------------------------- */

void nbd_server_get_stats(struct nbd_server *server, struct nbd_server_stats *stats)
{
	unsigned i, j;

	*stats = (struct nbd_server_stats){0};
	pthread_mutex_lock(&server->admission.lock);
	stats->connections = server->admission.connections;
	pthread_mutex_unlock(&server->admission.lock);
	for (i = 0; i < server->config.workers; i++) {
		const struct nbd_worker_counters *c = &server->workers[i].counters;

		stats->waited += atomic_load_explicit(&c->waited, memory_order_relaxed);
		stats->paced += atomic_load_explicit(&c->paced, memory_order_relaxed);
		stats->retracted += atomic_load_explicit(&c->retracted, memory_order_relaxed);
		stats->accepted += atomic_load_explicit(&c->accepted, memory_order_relaxed);
		for (j = 0; j < NBD_LIMITS; j++)
			stats->met[j] += atomic_load_explicit(&c->met[j], memory_order_relaxed);
	}
}
