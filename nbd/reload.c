/*
 * A server that serves gets other limits, certificates and keys. What can fail is done first, into
 * a `struct nbd_change`; the workers then take the limits over one after the other, by mail, so
 * that their data path reads them without a lock. A connection that moves to another worker
 * meanwhile meets the old limits once more, or the new ones already.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "nbd/limits.h"
#include "nbd/listener.h"
#include "nbd/server_priv.h"
#include "nbd/tls_creds.h"

struct listener_change {
	struct nbd_listener *listener;
	struct nbd_tls_creds *tls;
};

struct nbd_change {
	struct nbd_server_config config;
	struct listener_change *listeners;
	size_t count;
};

DEFINE_CLEANUP(struct nbd_change *, nbd_change_free)

void nbd_change_free(struct nbd_change *change)
{
	if (!change)
		return;
	for (size_t i = 0; i < change->count; i++)
		nbd_tls_creds_unref(change->listeners[i].tls);
	free(change->listeners);
	free(change);
}

static bool is_taken(const struct nbd_change *change, const struct nbd_listener *l)
{
	for (size_t i = 0; i < change->count; i++)
		if (change->listeners[i].listener == l)
			return true;
	return false;
}

/* The first one asked for with @address that has no change yet: several may have port 0. */
static struct nbd_listener *find_listener(struct nbd_server *server,
					  const struct nbd_change *change, const char *address)
{
	struct nbd_listener *found = NULL;
	struct list *node;

	pthread_mutex_lock(&server->lock);
	list_for_each (node, &server->listeners) {
		struct nbd_listener *l = list_entry(node, struct nbd_listener, node);

		if (!found && !strcmp(l->address, address) && !is_taken(change, l))
			found = l;
	}
	pthread_mutex_unlock(&server->lock);
	return found;
}

static int prepare_listener(struct nbd_server *server, struct nbd_change *change,
			    const char *address, const struct nbd_listen_config *config,
			    struct err *err)
{
	struct listener_change *lc = &change->listeners[change->count];
	struct nbd_listener *l = find_listener(server, change, address);
	int r;

	if (!l)
		return 0;
	r = nbd_tls_creds_load(&lc->tls, &config->tls, address, err);
	if (r)
		return r;
	lc->listener = l;
	change->count++;
	return 0;
}

static void prepare_limits(const struct nbd_server *server, const struct nbd_server_config *limits,
			   struct nbd_server_config *out)
{
	*out = *limits;
	nbd_config_complete(out);
	out->workers = server->config.workers;
	out->batch_count = server->config.batch_count;
}

int nbd_server_prepare(struct nbd_server *server, const struct nbd_server_config *limits,
		       const char *const *addresses, const struct nbd_listen_config *listeners,
		       size_t count, struct nbd_change **out, struct err *err)
{
	_cleanup_(nbd_change_freep) struct nbd_change *change = NULL;
	int r = nbd_server_config_check(limits, err);

	if (r)
		return r;
	change = calloc(1, sizeof(*change));
	if (change)
		change->listeners = calloc(count + 1, sizeof(*change->listeners));
	if (!change || !change->listeners)
		return err_set(err, -ENOMEM, "no memory for the NBD server's settings");
	prepare_limits(server, limits, &change->config);
	for (size_t i = 0; i < count && !r; i++)
		r = prepare_listener(server, change, addresses[i], &listeners[i], err);
	if (!r)
		*out = steal(&change);
	return r;
}

/* The old credentials end up in @change, to be let go of with it. */
static void exchange_creds(struct nbd_server *server, struct nbd_change *change)
{
	pthread_mutex_lock(&server->lock);
	for (size_t i = 0; i < change->count; i++) {
		struct listener_change *lc = &change->listeners[i];
		struct nbd_tls_creds *old = lc->listener->tls;

		lc->listener->tls = lc->tls;
		lc->tls = old;
	}
	pthread_mutex_unlock(&server->lock);
}

void nbd_server_apply(struct nbd_server *server, struct nbd_change *change)
{
	bool other = memcmp(&server->limits, &change->config, sizeof(change->config)) != 0;

	for (size_t i = 0; i < change->count; i++)
		if (change->listeners[i].tls)
			log_info(&server->log, "TLS on '%s': read again, for new connections",
				 change->listeners[i].listener->address);
	exchange_creds(server, change);
	if (other) {
		server->limits = change->config;
		nbd_admission_set(&server->admission, &server->limits);
		for (unsigned i = 0; i < server->config.workers; i++)
			nbd_worker_limit(&server->workers[i], &server->limits);
		nbd_config_log(&server->limits, &server->log);
	}
	nbd_change_free(change);
}
