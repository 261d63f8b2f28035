/*
 * The server as a whole: workers, listeners, the registry of exports. Control plane throughout; the
 * threads that do the work are in worker.c.
 *
 * Every worker has an accept of its own on every listening socket: the kernel wakes one of them for
 * a client, and which one does not matter, since the connection moves to the worker of its export.
 */
#include "nbd/server.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "nbd/server_priv.h"

#define DEFAULT_CONNECTIONS	   1024
#define DEFAULT_EXPORT_CONNECTIONS 64
#define DEFAULT_HANDSHAKE_MS	   30000
#define DEFAULT_STALL_MS	   10000
#define DEFAULT_BATCHES		   20
#define WORKERS_MAX		   64
#define BACKLOG			   256

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
	unsigned exports[WORKERS_MAX] = {0}, best = 0, i;
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

/* --- start and stop --------------------------------------------------------------------------- */

static void config_defaults(struct nbd_server_config *c)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	if (!c->workers)
		c->workers = cpus > 0 ? cpus : 1;
	if (c->workers > WORKERS_MAX)
		c->workers = WORKERS_MAX;
	if (!c->max_connections)
		c->max_connections = DEFAULT_CONNECTIONS;
	if (!c->max_connections_per_export)
		c->max_connections_per_export = DEFAULT_EXPORT_CONNECTIONS;
	if (!c->handshake_timeout_ms)
		c->handshake_timeout_ms = DEFAULT_HANDSHAKE_MS;
	if (!c->stall_timeout_ms)
		c->stall_timeout_ms = DEFAULT_STALL_MS;
	if (!c->batch_count)
		c->batch_count = DEFAULT_BATCHES;
}

/* What was started so far; the listeners go first, so that nobody connects to a closing house. */
static void server_free(struct nbd_server *server)
{
	struct list *node;
	unsigned i;

	for (i = 0; i < server->config.workers; i++)
		if (server->workers[i].started)
			nbd_worker_quiesce(&server->workers[i]);
	/* No worker has a connection any more that could move to another one. */
	for (i = 0; i < server->config.workers; i++)
		nbd_worker_stop(&server->workers[i]);
	while ((node = list_pop(&server->listeners))) {
		struct nbd_listener *l = list_entry(node, struct nbd_listener, node);

		close(l->fd);
		if (l->path)
			unlink(l->path);
		free(l->path);
		free(l);
	}
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
	config_defaults(&server->config);
	server->workers = calloc(server->config.workers, sizeof(*server->workers));
	if (!server->workers) {
		free(server);
		return NULL;
	}
	log_scope_init(&server->log, "nbd");
	pthread_mutex_init(&server->lock, NULL);
	pthread_mutex_init(&server->call_lock, NULL);
	pthread_cond_init(&server->call_done, NULL);
	list_init(&server->exports);
	list_init(&server->listeners);
	return server;
}

int nbd_server_start(struct nbd_server **out, const struct nbd_server_config *config,
		     struct err *err)
{
	struct nbd_server *server = server_new(config);
	unsigned i;
	int r;

	if (!server)
		return err_set(err, -ENOMEM, "no memory for the NBD server");
	for (i = 0; i < server->config.workers; i++) {
		r = nbd_worker_start(&server->workers[i], server, i, err);
		if (r) {
			server_free(server);
			return r;
		}
	}
	log_info(&server->log,
		 "workers: %u; write buffers: %u x 2 MiB a worker; connections: %u, "
		 "%u an export",
		 server->config.workers, server->config.batch_count, server->config.max_connections,
		 server->config.max_connections_per_export);
	*out = server;
	return 0;
}

void nbd_server_stop(struct nbd_server *server)
{
	if (server)
		server_free(server);
}

/* --- listening -------------------------------------------------------------------------------- */

/* A socket file nobody listens on is what a crash left; anything else is not ours to remove. */
static int unix_clear(const struct sockaddr_un *sun, struct err *err)
{
	_cleanup_(closep) int fd = -1;
	struct stat st;

	if (lstat(sun->sun_path, &st))
		return errno == ENOENT ? 0
				       : err_sys(err, -errno, "cannot examine '%s'", sun->sun_path);
	if (!S_ISSOCK(st.st_mode))
		return err_set(err, -EEXIST, "'%s' exists and is not a socket", sun->sun_path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_sys(err, -errno, "cannot make a socket");
	if (!connect(fd, (const struct sockaddr *)sun, sizeof(*sun)) || errno == EAGAIN)
		return err_set(err, -EADDRINUSE, "another process listens on '%s'", sun->sun_path);
	if (unlink(sun->sun_path) && errno != ENOENT)
		return err_sys(err, -errno, "cannot remove the old socket '%s'", sun->sun_path);
	return 0;
}

static int listen_unix(int *out, const char *path, struct err *err)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	_cleanup_(closep) int fd = -1;
	int r;

	if (!*path || strlen(path) >= sizeof(sun.sun_path))
		return err_set(err, -ENAMETOOLONG,
			       "'%s' cannot be a socket: its path must have 1 to %zu bytes", path,
			       sizeof(sun.sun_path) - 1);
	strcpy(sun.sun_path, path);
	r = unix_clear(&sun, err);
	if (r)
		return r;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	/* The mode of an unbound socket becomes that of the file: at no time may others connect. */
	if (fd < 0 || fchmod(fd, 0600) || bind(fd, (struct sockaddr *)&sun, sizeof(sun)) ||
	    listen(fd, BACKLOG))
		return err_sys(err, -errno, "cannot listen on 'unix:%s'", path);
	*out = steal_fd(&fd);
	return 0;
}

/* Splits "HOST:PORT" or "[HOST]:PORT"; @host is cut out of the caller's copy. */
static bool split_address(char *copy, char **host, char **port)
{
	char *colon = strrchr(copy, ':');

	if (!colon || colon == copy || !colon[1])
		return false;
	*colon = '\0';
	*port = colon + 1;
	*host = copy;
	if (*copy == '[') {
		if (colon[-1] != ']')
			return false;
		colon[-1] = '\0';
		*host = copy + 1;
	}
	return true;
}

static int bind_tcp(const struct addrinfo *ai)
{
	_cleanup_(closep) int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int on = 1;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (ai->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) || listen(fd, BACKLOG))
		return -errno;
	return steal_fd(&fd);
}

static int listen_tcp(int *out, const char *address, struct err *err)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *ai;
	_cleanup_(freep) char *copy = strdup(address);
	char *host, *port;
	int r;

	if (!copy)
		return err_set(err, -ENOMEM, "no memory to listen on '%s'", address);
	if (!split_address(copy, &host, &port))
		return err_set(
			err, -EINVAL,
			"'%s' is no address: ADDR:PORT, [ADDR]:PORT or unix:PATH is expected",
			address);
	r = getaddrinfo(host, port, &hints, &ai);
	if (r)
		return err_set(err, -EINVAL, "cannot listen on '%s': %s", address, gai_strerror(r));
	r = bind_tcp(ai);
	freeaddrinfo(ai);
	if (r < 0)
		return err_sys(err, r, "cannot listen on '%s'", address);
	*out = r;
	return 0;
}

/* The address as it came out: the kernel may have chosen the port. */
static void describe_tcp(int fd, char *bound, size_t size)
{
	char host[64] = "?", port[16] = "?";
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);

	if (!getsockname(fd, (struct sockaddr *)&ss, &len))
		getnameinfo((struct sockaddr *)&ss, len, host, sizeof(host), port, sizeof(port),
			    NI_NUMERICHOST | NI_NUMERICSERV);
	snprintf(bound, size, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
}

static int server_accept_on(struct nbd_server *server, int fd, struct err *err)
{
	unsigned i;
	int r = 0;

	for (i = 0; i < server->config.workers && !r; i++)
		r = nbd_worker_listen(&server->workers[i], fd);
	return r ? err_set(err, r, "no memory to listen") : 0;
}

int nbd_server_listen(struct nbd_server *server, const char *address, char *bound,
		      size_t bound_size, struct err *err)
{
	const char *path = strncmp(address, "unix:", 5) == 0 ? address + 5 : NULL;
	struct nbd_listener *l = calloc(1, sizeof(*l));
	int r;

	if (!l || (path && !(l->path = strdup(path)))) {
		free(l);
		return err_set(err, -ENOMEM, "no memory to listen on '%s'", address);
	}
	r = path ? listen_unix(&l->fd, path, err) : listen_tcp(&l->fd, address, err);
	if (r) {
		free(l->path);
		free(l);
		return r;
	}
	if (bound && path)
		snprintf(bound, bound_size, "%s", address);
	else if (bound)
		describe_tcp(l->fd, bound, bound_size);
	/* From here on it is the server's, to be closed when its workers have let go of it. */
	pthread_mutex_lock(&server->lock);
	list_add_tail(&server->listeners, &l->node);
	pthread_mutex_unlock(&server->lock);
	return server_accept_on(server, l->fd, err);
}
