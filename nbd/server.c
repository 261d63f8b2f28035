/*
 * The server as a whole: workers, listeners, the registry of exports. Control plane throughout; the
 * threads that do the work are in worker.c.
 *
 * Every worker has an accept of its own on every listening socket: the kernel wakes one of them for
 * a client, and which one does not matter, since the connection moves to the worker of its export.
 */
#include "nbd/server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "nbd/listener.h"
#include "nbd/server_priv.h"

/* --- registry --------------------------------------------------------------------------------- */

static bool name_is(const char *name, const char *wanted, size_t len)
{
	return name && strlen(name) == len && memcmp(name, wanted, len) == 0;
}

/* Under the lock. */
static struct nbd_export *find_locked(struct nbd_server *server, const char *name, size_t len)
{
	struct list *node;

	list_for_each (node, &server->exports) {
		struct nbd_export *export = list_entry(node, struct nbd_export, node);

		if (name_is(export->name, name, len) || name_is(export->alias, name, len))
			return export;
	}
	return NULL;
}

struct nbd_export *nbd_server_find(struct nbd_server *server, const char *name, size_t len)
{
	struct nbd_export *export;

	pthread_mutex_lock(&server->lock);
	export = find_locked(server, name, len);
	if (export)
		nbd_export_ref(export);
	pthread_mutex_unlock(&server->lock);
	return export;
}

void nbd_server_each(struct nbd_server *server,
		     void (*each)(void *arg, const struct nbd_export *export), void *arg)
{
	struct list *node;

	pthread_mutex_lock(&server->lock);
	list_for_each (node, &server->exports)
		each(arg, list_entry(node, struct nbd_export, node));
	pthread_mutex_unlock(&server->lock);
}

/* The worker with the fewest exports. Under the lock. */
static struct nbd_worker *pick_worker(struct nbd_server *server)
{
	unsigned exports[NBD_WORKERS_MAX] = {0}, best = 0, i;
	struct list *node;

	list_for_each (node, &server->exports)
		exports[list_entry(node, struct nbd_export, node)->worker - server->workers]++;
	for (i = 1; i < server->config.workers; i++)
		if (exports[i] < exports[best])
			best = i;
	return &server->workers[best];
}

int nbd_server_register(struct nbd_server *server, struct nbd_export *export, struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&server->lock);
	if (find_locked(server, export->name, strlen(export->name)))
		r = err_set(err, -EEXIST, "an export named '%s' exists already", export->name);
	else if (export->alias && find_locked(server, export->alias, strlen(export->alias)))
		r = err_set(err, -EEXIST, "an export named '%s' exists already", export->alias);
	if (!r) {
		export->serial = ++server->next_serial;
		export->worker = pick_worker(server);
		list_add_tail(&server->exports, &export->node);
	}
	pthread_mutex_unlock(&server->lock);
	return r;
}

void nbd_server_unregister(struct nbd_server *server, struct nbd_export *export)
{
	pthread_mutex_lock(&server->lock);
	list_del(&export->node);
	pthread_mutex_unlock(&server->lock);
}

/* --- watching --------------------------------------------------------------------------------- */

unsigned nbd_server_workers(const struct nbd_server *server)
{
	return server->config.workers;
}

const char *nbd_pool_name(enum nbd_pool pool)
{
	static const char *const names[] = {
		[NBD_POOL_BATCHES] = "batches", [NBD_POOL_BOUNCES] = "bounces",
		[NBD_POOL_STAGING] = "staging", [NBD_POOL_READS] = "reads",
		[NBD_POOL_SLOTS] = "slots",
	};

	return names[pool];
}

void nbd_server_get_pool_stats(const struct nbd_server *server, unsigned worker,
			       struct nbd_pool_stats stats[NBD_POOLS])
{
	const struct nbd_pool_counters *c = server->workers[worker].counters.pools;
	const unsigned counts[NBD_POOLS] = {
		[NBD_POOL_BATCHES] = server->config.batch_count,
		[NBD_POOL_BOUNCES] = NBD_BOUNCES,
		[NBD_POOL_STAGING] = NBD_STAGING,
		[NBD_POOL_READS] = NBD_READS,
		[NBD_POOL_SLOTS] = NBD_SLOTS,
	};

	for (unsigned i = 0; i < NBD_POOLS; i++)
		stats[i] = (struct nbd_pool_stats){
			.count = counts[i],
			.free = atomic_load_explicit(&c[i].free, memory_order_relaxed),
			.waiters = atomic_load_explicit(&c[i].waiters, memory_order_relaxed),
			.waits = atomic_load_explicit(&c[i].waits, memory_order_relaxed),
		};
}

/* --- start and stop --------------------------------------------------------------------------- */

void nbd_server_shutdown(struct nbd_server *server)
{
	struct list *node;
	unsigned i;

	atomic_store(&server->stopping, true);
	for (i = 0; i < server->config.workers; i++)
		if (server->workers[i].started)
			nbd_worker_stop_accepting(&server->workers[i]);
	pthread_mutex_lock(&server->lock);
	list_for_each (node, &server->listeners)
		nbd_listener_shut(list_entry(node, struct nbd_listener, node));
	pthread_mutex_unlock(&server->lock);
}

/* What was started so far. */
static void server_free(struct nbd_server *server)
{
	struct list *node;
	unsigned i;

	nbd_server_shutdown(server);
	for (i = 0; i < server->config.workers; i++)
		if (server->workers[i].started)
			nbd_worker_end_conns(&server->workers[i]);
	for (i = 0; i < server->config.workers; i++)
		if (server->workers[i].started)
			nbd_worker_quiesce(&server->workers[i]);
	/* No worker has a connection any more that could move to another one. */
	for (i = 0; i < server->config.workers; i++)
		nbd_worker_stop(&server->workers[i]);
	while ((node = list_pop(&server->listeners)))
		nbd_listener_close(list_entry(node, struct nbd_listener, node));
	nbd_admission_deinit(&server->admission);
	pthread_mutex_destroy(&server->lock);
	pthread_mutex_destroy(&server->call_lock);
	pthread_cond_destroy(&server->call_done);
	free(server->workers);
	free(server);
}

static struct nbd_server *server_new(const struct nbd_server_config *config)
{
	struct nbd_server *server = calloc(1, sizeof(*server));

	if (!server)
		return NULL;
	server->config = *config;
	nbd_config_complete(&server->config);
	server->limits = server->config;
	server->workers = calloc(server->config.workers, sizeof(*server->workers));
	if (!server->workers) {
		free(server);
		return NULL;
	}
	log_scope_init(&server->log, "nbd");
	pthread_mutex_init(&server->lock, NULL);
	pthread_mutex_init(&server->call_lock, NULL);
	pthread_cond_init(&server->call_done, NULL);
	nbd_admission_init(&server->admission);
	nbd_admission_set(&server->admission, &server->config);
	list_init(&server->exports);
	list_init(&server->listeners);
	return server;
}

int nbd_server_start(struct nbd_server **out, const struct nbd_server_config *config,
		     struct err *err)
{
	struct nbd_server *server;
	unsigned i;
	int r = nbd_server_config_check(config, err);

	if (r)
		return r;
	server = server_new(config);
	if (!server)
		return err_set(err, -ENOMEM, "no memory for the NBD server");
	if (server->config.max_connections < config->max_connections)
		log_warn(&server->log,
			 "%u connections instead of %u: this process may not open more files "
			 "(LimitNOFILE, ulimit -n)",
			 server->config.max_connections, config->max_connections);
	for (i = 0; i < server->config.workers; i++) {
		r = nbd_worker_start(&server->workers[i], server, i, err);
		if (r) {
			server_free(server);
			return r;
		}
	}
	nbd_config_log(&server->config, &server->log);
	*out = server;
	return 0;
}

void nbd_server_stop(struct nbd_server *server)
{
	if (server)
		server_free(server);
}

/* --- listening -------------------------------------------------------------------------------- */

int nbd_server_listen(struct nbd_server *server, const char *address,
		      const struct nbd_listen_config *config, char *bound, size_t bound_size,
		      struct err *err)
{
	struct nbd_listener *l;
	int r = nbd_listener_open(&l, address, config, err);
	unsigned i;

	if (r)
		return r;
	l->acceptors = calloc(server->config.workers, sizeof(*l->acceptors));
	if (!l->acceptors) {
		nbd_listener_close(l);
		return err_set(err, -ENOMEM, "no memory to listen on '%s'", address);
	}
	if (bound)
		nbd_listener_describe(l, bound, bound_size);
	/* From here on it is the server's, to be closed when its workers have let go of it. */
	pthread_mutex_lock(&server->lock);
	list_add_tail(&server->listeners, &l->node);
	pthread_mutex_unlock(&server->lock);
	for (i = 0; i < server->config.workers; i++)
		nbd_worker_listen(&server->workers[i], l, &l->acceptors[i]);
	return 0;
}

/* --- adopting --------------------------------------------------------------------------------- */

static int check_connected(int fd, struct err *err)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(int);
	int type;

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len))
		return err_sys(err, -errno, "descriptor %d cannot be served", fd);
	len = sizeof(ss);
	if (type != SOCK_STREAM || getpeername(fd, (struct sockaddr *)&ss, &len))
		return err_set(err, -EINVAL, "descriptor %d is no connected stream socket", fd);
	return 0;
}

int nbd_server_adopt(struct nbd_server *server, int fd, struct err *err)
{
	unsigned host = atomic_fetch_add(&server->next_host, 1) % server->config.workers;
	int r = check_connected(fd, err);
	int flags;

	if (r) {
		close(fd);
		return r;
	}
	/* The ring waits by itself; on a socket that does not block it would be told to ask again.
	 */
	flags = fcntl(fd, F_GETFL);
	fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	nbd_worker_adopt(&server->workers[host], fd);
	return 0;
}
