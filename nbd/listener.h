/*
 * A listening socket: made, described, closed. The workers accept on it (worker.c); a connection
 * remembers the one it came through. Constant from opening to closing, so that any thread may look
 * (the socket itself, which only accepting looks at, excepted).
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
	char *path;		   /* of a unix socket we made, to be removed at the end; or NULL */
	struct nbd_tls_creds *tls; /* NULL: without TLS */
	struct nbd_acceptor *acceptors; /* one for each worker, which uses it; owned */
};

/* @address and @config (may be NULL) as for nbd_server_listen(). */
int nbd_listener_open(struct nbd_listener **out, const char *address,
		      const struct nbd_listen_config *config, struct err *err);

/* Nobody can connect any more. When no worker accepts on it; may be called again. */
void nbd_listener_shut(struct nbd_listener *l);

/* When none of its connections is left, either. */
void nbd_listener_close(struct nbd_listener *l);

/* The address as it came out: the kernel may have chosen the port. */
void nbd_listener_describe(const struct nbd_listener *l, char *bound, size_t size);

#endif
