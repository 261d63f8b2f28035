/*
 * The REST face of a hub over HTTP or HTTPS (docs/api.md): listen, serve, stop. The routes are in
 * routes.c; the HTTP library is known to http.c alone.
 */
#ifndef API_API_H
#define API_API_H

#include <stdbool.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "hub/hub.h"

struct api;

struct api_config {
	/* "ADDR:PORT", "[v6]:PORT"; port 0: chosen by the kernel. "fd:N": a TCP socket that listens
	 * already, taken over when api_start() succeeds. */
	const char *listen;
	bool for_agents; /* the capture agents' routes alone, without tokens: on loopback only */
	unsigned max_connections;	   /* 0: 256 */
	unsigned max_connections_per_peer; /* one IP address; 0: half of them */
	/* PEM files: HTTPS instead of HTTP. Both or none. */
	const char *tls_certificate, *tls_key;
	unsigned io_timeout_ms; /* for a request to arrive, an answer to be taken; 0: 60 s */
};

/* Serves @hub, which must outlive it. HUB_E_INVALID: the address; -EADDRINUSE and its like. */
int api_start(struct api **out, struct hub *hub, const struct api_config *config, struct err *err);

/*
 * Serves those who come from now on by @config: limits, time, certificate (read again), HTTPS or
 * not; its address is left alone. Who is connected stays so, is answered as before, and asked to
 * come back on a new connection. HUB_E_INVALID, -errno: nothing has changed. One thread at a time.
 */
int api_change(struct api *api, const struct api_config *config, struct err *err);

/* "127.0.0.1:8080", as it came out. */
const char *api_address(const struct api *api);

/* Refuses new requests and returns when the running ones are answered: call hub_interrupt() before,
 * so that those which wait for the agent come home. NULL is fine. */
void api_stop(struct api *api);
DEFINE_CLEANUP(struct api *, api_stop)

#endif
