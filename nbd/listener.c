#include "nbd/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "nbd/server_priv.h"
#include "nbd/tls_creds.h"

#define BACKLOG 256

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

/* "fd:N". Only a socket that is in order is taken. */
static int listen_passed(int *out, const char *address, struct err *err)
{
	int type = 0, listening = 0, fd;
	socklen_t len = sizeof(int);
	char *end;
	long n = strtol(address + 3, &end, 10);

	if (address[3] < '0' || address[3] > '9' || *end || n > INT_MAX)
		return err_set(err, -EINVAL, "'%s': fd: and the number of a descriptor is expected",
			       address);
	fd = n;
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) ||
	    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len))
		return err_sys(err, -errno, "cannot listen on '%s'", address);
	if (type != SOCK_STREAM || !listening)
		return err_set(err, -EINVAL, "'%s' is no listening stream socket", address);
	/* The ring waits by itself; on a socket that does not block it would be told to ask again.
	 */
	if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK) || fcntl(fd, F_SETFD, FD_CLOEXEC))
		return err_sys(err, -errno, "cannot listen on '%s'", address);
	*out = fd;
	return 0;
}

static bool describe_unix(int fd, char *bound, size_t size)
{
	struct sockaddr_un sun = {0};
	socklen_t len = sizeof(sun) - 1; /* the path ends in a zero whatever comes */

	if (getsockname(fd, (struct sockaddr *)&sun, &len) || sun.sun_family != AF_UNIX)
		return false;
	snprintf(bound, size, "unix:%s", sun.sun_path);
	return true;
}

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

void nbd_listener_describe(const struct nbd_listener *l, char *bound, size_t size)
{
	if (!describe_unix(l->fd, bound, size))
		describe_tcp(l->fd, bound, size);
}

struct nbd_tls_creds *nbd_listener_creds(struct nbd_server *server, const struct nbd_listener *l)
{
	struct nbd_tls_creds *creds;

	pthread_mutex_lock(&server->lock);
	creds = nbd_tls_creds_ref(l->tls);
	pthread_mutex_unlock(&server->lock);
	return creds;
}

void nbd_listener_shut(struct nbd_listener *l)
{
	if (l->fd < 0)
		return;
	if (l->path)
		unlink(l->path);
	close(l->fd);
	l->fd = -1;
}

void nbd_listener_close(struct nbd_listener *l)
{
	nbd_listener_shut(l);
	nbd_tls_creds_unref(l->tls);
	free(l->acceptors);
	free(l->path);
	free(l->address);
	free(l);
}

DEFINE_CLEANUP(struct nbd_listener *, nbd_listener_close)

static int listen_once(struct nbd_listener *l, const char *address, struct err *err)
{
	if (strncmp(address, "fd:", 3) == 0)
		return listen_passed(&l->fd, address, err);
	return l->path ? listen_unix(&l->fd, l->path, err) : listen_tcp(&l->fd, address, err);
}

#define BUSY_WAIT_MS 3000
#define BUSY_TRY_MS  10

/* The listening socket of a killed process stays until the kernel has ended its io_uring, which may
 * be after its parent has heard of its end: who restarts it at once waits for that. */
static int listener_listen(struct nbd_listener *l, const char *address, struct err *err)
{
	const struct timespec pause = {.tv_nsec = BUSY_TRY_MS * 1000000L};
	unsigned waited = 0;
	int r;

	for (;;) {
		r = listen_once(l, address, err);
		if (r != -EADDRINUSE || waited >= BUSY_WAIT_MS)
			return r;
		nanosleep(&pause, NULL);
		waited += BUSY_TRY_MS;
	}
}

int nbd_listener_open(struct nbd_listener **out, const char *address,
		      const struct nbd_listen_config *config, struct err *err)
{
	_cleanup_(nbd_listener_closep) struct nbd_listener *l = calloc(1, sizeof(*l));
	int r = 0;

	if (!l)
		return err_set(err, -ENOMEM, "no memory to listen on '%s'", address);
	l->fd = -1;
	l->address = strdup(address);
	if (!l->address)
		return err_set(err, -ENOMEM, "no memory to listen on '%s'", address);
	if (strncmp(address, "unix:", 5) == 0 && !(l->path = strdup(address + 5)))
		return err_set(err, -ENOMEM, "no memory to listen on '%s'", address);
	if (config)
		r = nbd_tls_creds_load(&l->tls, &config->tls, address, err);
	if (!r)
		r = listener_listen(l, address, err);
	if (!r)
		*out = steal(&l);
	return r;
}
