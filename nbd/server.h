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

struct nbd_server_config {
	unsigned workers;		     /* 0: one per online CPU */
	unsigned max_connections;	     /* in total; 0: 1024 */
	unsigned max_connections_per_export; /* 0: 64 */
	unsigned handshake_timeout_ms;	     /* 0: 30 s */
	unsigned stall_timeout_ms; /* a client that reads no reply for so long while others wait for
				    * the buffers it holds is hung up on; 0: 10 s */
	unsigned batch_count;	   /* write-behind buffers of 2 MiB per worker; 0: 20 */
};

#define NBD_SERVER_CONFIG_INIT ((struct nbd_server_config){0})

/* Starts the workers; nothing listens yet. */
int nbd_server_start(struct nbd_server **out, const struct nbd_server_config *config,
		     struct err *err);

/*
 * Listens on "ADDR:PORT" ("127.0.0.1:10809", "[::1]:10809"; port 0: chosen by the kernel) or
 * "unix:PATH" (a stale socket file is replaced, a living one refused; mode 0600).
 * @bound (may be NULL) gets the address as it came out, in the same form.
 */
int nbd_server_listen(struct nbd_server *server, const char *address, char *bound,
		      size_t bound_size, struct err *err);

/*
 * Serves the client at the other end of @fd, a connected stream socket, as if it had been accepted:
 * one that somebody else accepted, or one end of a socketpair. @fd is the server's from here on,
 * and closed when this fails. Limits apply as to any client: one too many is hung up on, which is
 * no failure. -ENOTSOCK, -EINVAL: no connected stream socket.
 */
int nbd_server_adopt(struct nbd_server *server, int fd, struct err *err);

/* Stops accepting, closes connections, frees everything. Exports must have been removed. */
void nbd_server_stop(struct nbd_server *server); /* accepts NULL */

struct nbd_export_config {
	const char *name;	  /* unique among names and aliases; copied */
	const char *alias;	  /* a second name for the same export, or NULL; copied */
	const char *description;  /* shown by LIST/INFO, or NULL; copied */
	uint64_t size;		  /* bytes */
	uint32_t preferred_block; /* bytes, power of two: the cluster size */
	bool read_only;
};

/*
 * Adds an export while others stream. @target is passed to @ops and must outlive the export.
 * -EEXIST: a name is taken. The export is returned referenced; end it with nbd_export_remove().
 */
int nbd_export_add(struct nbd_server *server, const struct nbd_export_config *config,
		   const struct nbd_export_ops *ops, void *target, struct nbd_export **out,
		   struct err *err);

/*
 * Takes an export away: new connections are refused, requests that arrive from now on get
 * ESHUTDOWN, running ones finish, what was acknowledged is flushed, the target is detached, its
 * connections are closed. @abandon: no flush (the data will be thrown away).
 * Frees @export. 0, or the -errno with which the flush (or an earlier write-behind) failed.
 */
int nbd_export_remove(struct nbd_export *export, bool abandon);

/* Flushes as a client's FLUSH would, without disturbing anyone. 0 or -errno. */
int nbd_export_flush(struct nbd_export *export);

struct nbd_export_stats {
	unsigned connections;	    /* now */
	uint64_t connections_total; /* ever */
	uint64_t bytes_written;	    /* payload of acknowledged WRITEs */
	uint64_t bytes_zeroed;	    /* lengths of acknowledged WRITE_ZEROES and TRIMs */
	uint64_t bytes_read;
	uint64_t requests, errors;
	int64_t last_active_ns;	    /* CLOCK_MONOTONIC of the last request or connect; 0: never */
	int64_t last_disconnect_ns; /* CLOCK_MONOTONIC; 0: never */
};

/* Never waits for the worker. */
void nbd_export_get_stats(const struct nbd_export *export, struct nbd_export_stats *stats);

#endif
