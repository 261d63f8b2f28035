/*
 * The NBD server as the rest of the program sees it: start, listen, add and remove exports, stop.
 * Implements the baseline and extensions of the NBD specification (doc/proto.md) listed in
 * docs/nbd.md. Every function may be called from any thread unless noted; they block until the
 * worker concerned has answered, never on a client.
 *
 * Threads: `workers` NBD workers, one io_uring each. Any worker accepts and negotiates; at
 * NBD_OPT_GO/EXPORT_NAME the connection moves to the worker that owns the export. All connections
 * of one export run there, so an export needs no lock and CAN_MULTI_CONN is true.
 */
#ifndef NBD_SERVER_H
#define NBD_SERVER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "nbd/export.h"

#define NBD_EXPORT_NAME_MAX 255 /* bytes; the protocol allows 4096, file names and logs do not */
#define NBD_MAX_PAYLOAD	    (32U << 20) /* largest READ/WRITE, bytes: what agents send */

struct nbd_server;
struct nbd_export;

/*
 * What a server may spend. 0 is the default, which for the limits that can be off is off; anything
 * outside the bounds is refused by nbd_server_start(). docs/nbd.md says what each is for.
 */
struct nbd_server_config {
	unsigned workers;		     /* 0: one per online CPU; up to 64 */
	unsigned max_connections;	     /* in total; 0: 1024; up to 65536 */
	unsigned max_connections_per_peer;   /* one IP address; 0: half of the total */
	unsigned max_connections_per_export; /* 0: 64 */
	unsigned handshake_percent;    /* of a worker's time for clients that begin, while there are
					* others; 1 to 100; 0: 2 */
	unsigned handshake_timeout_ms; /* 10 ms to an hour; 0: 30 s */
	unsigned
		idle_timeout_ms; /* a client that owes us its next byte; 10 ms to 30 days; 0: off */
	unsigned stall_timeout_ms; /* a client that reads no reply for so long while others wait for
				    * the buffers it holds is hung up on; 10 ms to an hour; 0: 10 s
				    */
	unsigned max_option_bytes; /* of data; 512 to 65536; 0: 16384 */
	unsigned max_inflight_bytes; /* data of replies between disk and socket, per connection, in
				      * steps of 256 KiB; 256 KiB to 3 MiB, half of a worker's; 0: 3
				      * MiB */
	unsigned
		send_queue_bytes; /* replies without data, per connection; 4096 to 1 MiB; 0: 4096 */
	unsigned batch_count;	  /* write-behind buffers of 2 MiB per worker; up to 4096; 0: 20 */
};

#define NBD_SERVER_CONFIG_INIT ((struct nbd_server_config){0})

/* 0, or -EINVAL + err naming what is out of bounds. */
int nbd_server_config_check(const struct nbd_server_config *config, struct err *err);

/* Starts the workers; nothing listens yet. */
int nbd_server_start(struct nbd_server **out, const struct nbd_server_config *config,
		     struct err *err);

enum nbd_tls_policy {
	NBD_TLS_OFF,	 /* STARTTLS is an option like any unknown one */
	NBD_TLS_ALLOW,	 /* clients may */
	NBD_TLS_REQUIRE, /* nothing is told or served without ("FORCEDTLS") */
};

/* "off", "allow", "require"; false: none of these. */
bool nbd_tls_parse_policy(const char *text, enum nbd_tls_policy *policy);

/* Of one listener; read and checked by nbd_server_listen(), not kept. One of `certificates` and
 * `psk`. */
struct nbd_tls_config {
	enum nbd_tls_policy policy;
	/* Folder with server-cert.pem, server-key.pem, ca-cert.pem (needed for verify_peer; without
	 * that merely the server's own certificate is checked against it) and, where there are
	 * any, the revoked in ca-crl.pem. */
	const char *certificates;
	const char *psk;  /* file with one USER:HEXKEY a line, as psktool makes it */
	bool verify_peer; /* clients must show a certificate of ca-cert.pem's */
	/* With verify_peer: clients that may come. With '=' in it: the whole subject as RFC 2253
	 * writes it ("CN=agent1,O=Example"); else the host name of the certificate, or its CN where
	 * it has none. Empty: all whom the authority vouches for. */
	const char *const *allow;
	size_t allow_count;
};

/* How a listener treats its clients. */
struct nbd_listen_config {
	struct nbd_tls_config tls;
};

/*
 * Listens on "ADDR:PORT" ("127.0.0.1:10809", "[::1]:10809"; port 0: chosen by the kernel),
 * "unix:PATH" (a stale socket file is replaced, a living one refused after 3 s: a killed one may
 * linger; mode 0600), or "fd:N", a stream socket that listens already, one the service manager
 * passed (base/activation.h): it becomes the server's when this succeeds, and a socket file stays
 * in the end.
 * @config may be NULL: all zero. @bound (may be NULL) gets the address as it came out, in one of
 * the first two forms.
 */
int nbd_server_listen(struct nbd_server *server, const char *address,
		      const struct nbd_listen_config *config, char *bound, size_t bound_size,
		      struct err *err);

/*
 * Changes a server that serves, in two steps so that a caller with more to change can make all of
 * it or nothing. nbd_server_prepare() reads and checks: the limits (`workers` and `batch_count` are
 * memory taken at the start, and left alone), and for each of the @count listeners, told by the
 * address nbd_server_listen() was given, what it does about TLS from now on: certificates and keys
 * are read again. Listeners that are not among them stay as they are, addresses nobody listens on
 * are ignored. -EINVAL and whatever else nbd_server_listen() may return; nothing has changed.
 *
 * nbd_server_apply() cannot fail, and frees @change. Connections that come from then on meet the
 * new settings; those there are keep their TLS session and their place, but the idle and stall
 * times and the bytes in flight are the new ones for them, too. Control plane, one at a time.
 */
struct nbd_change;
int nbd_server_prepare(struct nbd_server *server, const struct nbd_server_config *limits,
		       const char *const *addresses, const struct nbd_listen_config *listeners,
		       size_t count, struct nbd_change **out, struct err *err);
void nbd_server_apply(struct nbd_server *server, struct nbd_change *change);
void nbd_change_free(struct nbd_change *change); /* one that is not applied; accepts NULL */

/*
 * Serves the client at the other end of @fd, a connected stream socket, as if it had been accepted:
 * one that somebody else accepted, or one end of a socketpair. @fd is the server's from here on,
 * and closed when this fails. Limits apply as to any client: one too many is hung up on, which is
 * no failure. -ENOTSOCK, -EINVAL: no connected stream socket.
 */
int nbd_server_adopt(struct nbd_server *server, int fd, struct err *err);

/* What a limit that is met does is in docs/nbd.md. */
enum nbd_limit {
	NBD_LIMIT_CONNECTIONS,
	NBD_LIMIT_PEER,
	NBD_LIMIT_EXPORT,
	NBD_LIMIT_HANDSHAKE,
	NBD_LIMIT_IDLE,
	NBD_LIMIT_STALL,
	NBD_LIMIT_OPTION,
	NBD_LIMIT_INFLIGHT,
	NBD_LIMIT_SEND_QUEUE,
	NBD_LIMITS,
};

/* "connections", "peer", ...: for logs and metrics. */
const char *nbd_limit_name(enum nbd_limit limit);

struct nbd_server_stats {
	unsigned connections;	  /* now, those that negotiate included */
	uint64_t accepted;	  /* ever, refused ones not included */
	uint64_t met[NBD_LIMITS]; /* how often a limit was met */
	uint64_t waited;	  /* how often a client that begins had to wait for its turn */
	uint64_t paced;	    /* how often a client that sends crumbs had to wait for its turn to */
	uint64_t retracted; /* how often replies were taken back from a client that did not read */
};

/* Never waits for a worker. */
void nbd_server_get_stats(struct nbd_server *server, struct nbd_server_stats *stats);

/* The kinds of buffers a worker has: worker.h says who needs them. */
enum nbd_pool {
	NBD_POOL_BATCHES,
	NBD_POOL_BOUNCES,
	NBD_POOL_STAGING,
	NBD_POOL_READS,
	NBD_POOL_SLOTS,
	NBD_POOLS,
};

/* "batches", ...: for metrics. */
const char *nbd_pool_name(enum nbd_pool pool);

struct nbd_pool_stats {
	unsigned count, free; /* free: a moment ago, a second at most */
	unsigned waiters;     /* who waited for one then */
	uint64_t waits;	      /* how often somebody had to, ever */
};

unsigned nbd_server_workers(const struct nbd_server *server);

/* Of the worker with that number, from 0 on. Never waits for it. */
void nbd_server_get_pool_stats(const struct nbd_server *server, unsigned worker,
			       struct nbd_pool_stats stats[NBD_POOLS]);

/*
 * An orderly stop, first half: the listening sockets are closed, so that new connections are
 * refused (one that was passed by the service manager lives on there, and who comes waits in its
 * queue for the program's successor); who negotiates is answered NBD_REP_ERR_SHUTDOWN from now on.
 * Exports serve on: the caller removes them, then calls nbd_server_stop(). May be called again.
 */
void nbd_server_shutdown(struct nbd_server *server);

/*
 * The second half (the first is done if it was not): what clients have sent already is still
 * answered, for two seconds at most; then everything is freed. Exports must have been removed.
 */
void nbd_server_stop(struct nbd_server *server); /* accepts NULL */

struct nbd_export_config {
	/* Texts are UTF-8 and copied. */
	const char *name;	  /* unique among names and aliases */
	const char *alias;	  /* a second name for the same export, or NULL */
	const char *description;  /* shown by LIST/INFO, or NULL */
	uint64_t size;		  /* bytes */
	uint32_t preferred_block; /* bytes, power of two: the cluster size */
	bool read_only;
};

/*
 * Adds an export while others stream. @target is passed to @ops and must outlive the export.
 * -EEXIST: a name is taken; -EINVAL: @config is wrong. The export is returned referenced; end it
 * with nbd_export_remove().
 */
int nbd_export_add(struct nbd_server *server, const struct nbd_export_config *config,
		   const struct nbd_export_ops *ops, void *target, struct nbd_export **out,
		   struct err *err);

/*
 * Takes an export away: new connections are refused, requests that arrive from now on get
 * ESHUTDOWN, running ones finish, what was acknowledged is flushed, the target is detached. Its
 * connections end when they have their answers, which nobody waits for. @abandon: no flush (the
 * data will be thrown away). Takes over the reference nbd_export_add() gave. 0, or the -errno with
 * which the flush (or an earlier write-behind) failed.
 */
int nbd_export_remove(struct nbd_export *export, bool abandon);

/* Keeps @export readable for nbd_export_get_stats(), also after its removal. */
struct nbd_export *nbd_export_ref(struct nbd_export *export);
void nbd_export_unref(struct nbd_export *export);

/* Flushes as a client's FLUSH would, without disturbing anyone. 0 or -errno. */
int nbd_export_flush(struct nbd_export *export);

/* Rows of the statistics: the number of the NBD command, and one for all that are none. */
#define NBD_STATS_COMMANDS 9

/* "read", "write", ..., "other": for logs and metrics. */
const char *nbd_stats_command(unsigned row);

/* Bucket 0: under a microsecond; bucket i: from 2^(i-1) to 2^i microseconds; the last one is open:
 * from 67 s. Time is read once a round of the worker, so that what is answered in the round in
 * which it came is in bucket 0. */
#define NBD_LATENCY_BUCKETS 28

struct nbd_command_stats {
	uint64_t requests; /* taken up */
	uint64_t errors;   /* answered with an error */
	uint64_t bytes;	   /* lengths of those that succeeded: payload, zeroed, or described */
	/* Those that were answered: from the header to the reply being queued. */
	uint64_t latency[NBD_LATENCY_BUCKETS];
	uint64_t took_ns; /* all of those together */
};

struct nbd_export_stats {
	unsigned connections;	    /* now */
	uint64_t connections_total; /* ever */
	uint64_t bytes_written;	    /* payload of acknowledged WRITEs */
	uint64_t bytes_zeroed;	    /* lengths of acknowledged WRITE_ZEROES and TRIMs */
	uint64_t bytes_read;
	uint64_t requests, errors;  /* sums of the commands' */
	unsigned depth, depth_peak; /* requests taken up and not answered: now, and at most */
	int64_t last_active_ns;	    /* CLOCK_MONOTONIC of the last request or connect; 0: never */
	int64_t last_disconnect_ns; /* CLOCK_MONOTONIC; 0: never */
	struct nbd_command_stats commands[NBD_STATS_COMMANDS];
};

/* Never waits for the worker, so that counters may be of slightly different moments. */
void nbd_export_get_stats(const struct nbd_export *export, struct nbd_export_stats *stats);

#endif
