/*
 * What source and sink share of libnbd: connecting with a deadline and a way out, and letting a
 * poll loop of ours drive handles. libnbd's own loops wait for ever and know one handle at a time.
 *
 * A handle belongs to one thread at a time. No call on a handle from inside its own callbacks.
 */
#ifndef TOOLS_AGENT_NBD_H
#define TOOLS_AGENT_NBD_H

#include <libnbd.h>
#include <poll.h>

#include "base/err.h"
#include "tools/agent_stop.h"

#define AGENT_NBD_META 2 /* base:allocation and a dirty bitmap */

/* NBD_STATE_* bits of base:allocation, and the one bit of qemu:dirty-bitmap:NAME. */
#define AGENT_NBD_ZERO	(1u << 1)
#define AGENT_NBD_DIRTY (1u << 0)

struct agent_nbd_peer {
	const char *uri;   /* nbd:// or nbd+unix://; or */
	char *const *argv; /* a server to run, which gets a listening socket (as from systemd) */
	const char *meta[AGENT_NBD_META]; /* contexts to ask for; NULL: none */
	const struct agent_stop *stop;
	unsigned timeout_ms;
};

/* *@out is connected and ready; nbd_close() it. -ECANCELED when stopped, -ETIMEDOUT, -errno. */
int agent_nbd_connect(struct nbd_handle **out, const struct agent_nbd_peer *peer, struct err *err);

/* Fills @pfd with what the handle waits for now. */
void agent_nbd_prepare(struct nbd_handle *h, struct pollfd *pfd);

/* After poll(): lets the handle move; its callbacks run here. -errno (see agent_nbd_error()) when
 * the connection has died. */
int agent_nbd_dispatch(struct nbd_handle *h, const struct pollfd *pfd);

/* -errno of this thread's last failed libnbd call, never 0. */
int agent_nbd_errno(void);

/* "EIO (Input/output error)"; @code negative. */
const char *agent_errno_text(int code, char *buf, size_t size);

#endif
