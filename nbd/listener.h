/*
 * A listening socket: made, described, closed. The workers accept on it (worker.c); a connection
 * takes what it needs of the one it came through. Constant from opening to closing, so that any
 * thread may look (the socket itself, which only accepting looks at, and `tls` excepted).
 */
#ifndef NBD_LISTENER_H
#define NBD_LISTENER_H

#include <stddef.h>

#include "base/err.h"
#include "base/list.h"
#include "nbd/server.h"

struct nbd_acceptor;
struct nbd_tls_creds;

struct nbd_listener {
	struct list node; /* server->listeners */
	int fd;
	char *path;    /* of a unix socket we made, to be removed at the end; or NULL */
	char *address; /* as it was asked for */
	/* Of those who come from now on; NULL: without TLS. Under the server's lock. */
	struct nbd_tls_creds *tls;
	struct nbd_acceptor *acceptors; /* one for each worker, which uses it; owned */
};

/* @address and @config (may be NULL) as for nbd_server_listen(). */
int nbd_listener_open(struct nbd_listener **out, const char *address,
		      const struct nbd_listen_config *config, struct err *err);

struct nbd_server;

/* What a connection through @l that begins now needs for TLS: referenced; NULL: without. */
struct nbd_tls_creds *nbd_listener_creds(struct nbd_server *server, const struct nbd_listener *l);

/* Nobody can connect any more. When no worker accepts on it; may be called again. */
void nbd_listener_shut(struct nbd_listener *l);

/* When none of its connections is left, either. */
void nbd_listener_close(struct nbd_listener *l);

/* The address as it came out: the kernel may have chosen the port. */
void nbd_listener_describe(const struct nbd_listener *l, char *bound, size_t size);

#endif
