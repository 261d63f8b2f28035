/*
 * HTTP by libmicrohttpd, one thread a connection.
 *
 * Why threads: a handler blocks for as long as its disks do (`complete` of a large image takes
 * seconds to minutes, a start waits for the agent), and nothing else may wait for it. With the
 * library's event loop that means suspending connections and a worker pool of our own, which a
 * handful of slow calls could fill; a thread blocks alone. Connections are few (agents behind one
 * tunnel, the dashboard, the CLI) and limited; a thread costs its stack, and the data path is not
 * here.
 *
 * The library's own timeout counts inactivity, also while a handler runs, and a peer that drips a
 * byte a second never meets it. So each connection carries a deadline of ours: for the request to
 * arrive, none while the handler runs, for the answer to be taken. A sweeper shuts late ones down.
 *
 * A request: target noted as it came (the library would decode it before it is split), body
 * gathered up to its limit, api_dispatch() once it is complete.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "api/api.h"
#include "api/json.h"
#include "api/routes.h"
#include "api/status.h"
#include "base/bytes.h"
#include "base/list.h"
#include "base/log.h"

#define HTTP_BODY_MAX	      (1U << 20)
#define HTTP_CONNECTIONS      256
#define HTTP_CONNECTION_BYTES (32U << 10) /* request line and headers */
#define HTTP_IO_TIMEOUT_MS    (60 * 1000)
#define HTTP_IDLE_TIMEOUT_MS  (120 * 1000) /* between requests; more than Go's 90 s */
#define HTTP_SWEEP_MS	      500
#define HTTP_RETIRE_MS	      2000
#define HTTP_RETIRED_MAX      16 /* servers that still have connections */
#define HTTP_PEM_MAX	      (1U << 20)
/* TLS 1.2 with forward secrecy, and 1.3. */
#define HTTP_TLS_PRIORITY "SECURE128:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:-RSA:%SERVER_PRECEDENCE"

/* What the library is told when it starts, and then for good. */
struct http_settings {
	unsigned max_connections, max_connections_per_peer, io_timeout_ms;
	char *certificate, *key; /* PEM texts; NULL: HTTP */
};

/* A server of the library's. Other settings mean another one on the same socket; who is connected
 * to the old one stays there until it is done. */
struct http_server {
	struct list node; /* api->retired */
	struct hub *hub;
	bool for_agents;
	struct http_settings settings;
	atomic_bool started; /* the library complains in any of its threads */
	char complaint[256]; /* the library's, while it starts */

	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct MHD_Daemon *daemon; /* lock; NULL: ended */
	struct list conns;	   /* struct http_conn; lock */
	bool stop;		   /* lock */
	int64_t retired_ns;	   /* lock; 0: it is the one that accepts */
	bool sweeper_runs;
	pthread_t sweeper;
	int quiet_fd; /* of a retired one: its socket, on which it accepts no more */
};

struct api {
	struct hub *hub;
	struct log_scope log;
	char address[96];
	bool for_agents;
	int fd; /* listens; every server has a descriptor of its own for it */
	struct http_server *server;
	struct list retired;
};

struct http_conn {
	struct list node;
	int fd;		     /* the library's */
	int64_t deadline_ns; /* 0: a handler runs; server->lock */
};

struct http_request {
	char *target;
	char *body;
	size_t body_len, body_room;
	bool begun;
	bool too_large;
};

/* --- deadlines ------------------------------------------------------------------------------ */

static int64_t http_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static void http_set_deadline(struct http_server *server, struct MHD_Connection *mhd, unsigned ms)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
	struct http_conn *conn = info ? info->socket_context : NULL;

	if (!conn)
		return;
	pthread_mutex_lock(&server->lock);
	conn->deadline_ns = ms ? http_now_ns() + ms * 1000000LL : 0;
	pthread_mutex_unlock(&server->lock);
}

/* The library tells of the end of a connection before it closes the socket: the number is ours as
 * long as the node is on the list. */
static void http_on_connection(void *arg, struct MHD_Connection *mhd, void **context,
			       enum MHD_ConnectionNotificationCode what)
{
	struct http_server *server = arg;
	struct http_conn *conn = *context;

	if (what == MHD_CONNECTION_NOTIFY_STARTED) {
		const union MHD_ConnectionInfo *info =
			MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);

		conn = calloc(1, sizeof(*conn));
		if (!conn || !info) {
			free(conn);
			return;
		}
		conn->fd = info->connect_fd;
		conn->deadline_ns = http_now_ns() + server->settings.io_timeout_ms * 1000000LL;
		*context = conn;
		pthread_mutex_lock(&server->lock);
		list_add_tail(&server->conns, &conn->node);
		pthread_mutex_unlock(&server->lock);
	} else if (conn) {
		pthread_mutex_lock(&server->lock);
		list_del(&conn->node);
		pthread_mutex_unlock(&server->lock);
		*context = NULL;
		free(conn);
	}
}

/* `lock` held. */
static void http_sweep(struct http_server *server)
{
	int64_t now = http_now_ns();
	struct list *pos;

	list_for_each (pos, &server->conns) {
		struct http_conn *conn = list_entry(pos, struct http_conn, node);

		if (conn->deadline_ns && now > conn->deadline_ns) {
			shutdown(conn->fd, SHUT_RDWR);
			conn->deadline_ns = 0;
		}
	}
}

/* A retired server whose last connection is gone is not needed any more. It may have taken one in
 * the moment it was told to stop accepting: that one shows up before long. `lock` held. */
static struct MHD_Daemon *http_take_idle(struct http_server *server)
{
	if (!server->retired_ns || !list_empty(&server->conns) ||
	    http_now_ns() - server->retired_ns < HTTP_RETIRE_MS * 1000000LL)
		return NULL;
	return steal(&server->daemon);
}

static void http_end_daemon(struct http_server *server, struct MHD_Daemon *daemon)
{
	if (!daemon)
		return;
	MHD_stop_daemon(daemon);
	if (server->quiet_fd >= 0)
		close(server->quiet_fd);
	server->quiet_fd = -1;
}

static void *http_sweeper_main(void *arg)
{
	struct http_server *server = arg;
	struct MHD_Daemon *idle;
	struct timespec until;

	pthread_mutex_lock(&server->lock);
	while (!server->stop) {
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_nsec += HTTP_SWEEP_MS * 1000000L;
		until.tv_sec += until.tv_nsec / 1000000000L;
		until.tv_nsec %= 1000000000L;
		pthread_cond_timedwait(&server->cond, &server->lock, &until);
		http_sweep(server);
		idle = http_take_idle(server);
		if (!idle)
			continue;
		pthread_mutex_unlock(&server->lock);
		http_end_daemon(server, idle);
		pthread_mutex_lock(&server->lock);
	}
	pthread_mutex_unlock(&server->lock);
	return NULL;
}

/* --- requests ------------------------------------------------------------------------------- */

static void *http_on_target(void *arg, const char *target, struct MHD_Connection *mhd)
{
	struct http_request *req = calloc(1, sizeof(*req));

	(void)arg, (void)mhd;
	if (req)
		req->target = strdup(target);
	return req;
}

static void http_on_completed(void *arg, struct MHD_Connection *mhd, void **context,
			      enum MHD_RequestTerminationCode why)
{
	struct http_request *req = *context;

	(void)why;
	http_set_deadline(arg, mhd, HTTP_IDLE_TIMEOUT_MS);
	*context = NULL;
	if (!req)
		return;
	free(req->target);
	free(req->body);
	free(req);
}

/* What is too much is read and forgotten, within the request's deadline: an answer cannot be queued
 * in the middle of a body. */
static bool http_take_body(struct http_request *req, const char *data, size_t len)
{
	size_t room = MAX(req->body_room, (size_t)4096);
	char *grown;

	if (len > HTTP_BODY_MAX - req->body_len)
		req->too_large = true;
	if (req->too_large)
		return true;
	while (room < req->body_len + len)
		room *= 2;
	if (room != req->body_room) {
		grown = realloc(req->body, room);
		if (!grown)
			return false;
		req->body = grown;
		req->body_room = room;
	}
	memcpy(req->body + req->body_len, data, len);
	req->body_len += len;
	return true;
}

/* A stream on its way out: what its reads need to know. */
struct http_stream {
	struct http_server *server;
	struct MHD_Connection *mhd;
	struct api_stream from;
};

/* As long as it takes to have something; each piece has its own time to be taken. */
static ssize_t http_read_stream(void *arg, uint64_t pos, char *buf, size_t max)
{
	struct http_stream *s = arg;
	ssize_t n;

	(void)pos;
	http_set_deadline(s->server, s->mhd, 0);
	n = s->from.read(s->from.arg, buf, max);
	http_set_deadline(s->server, s->mhd, s->server->settings.io_timeout_ms);
	return n > 0   ? n
	       : n < 0 ? MHD_CONTENT_READER_END_WITH_ERROR
		       : MHD_CONTENT_READER_END_OF_STREAM;
}

static void http_end_stream(void *arg)
{
	struct http_stream *s = arg;

	if (s->from.end)
		s->from.end(s->from.arg);
	free(s);
}

static struct MHD_Response *http_stream_response(struct http_server *server,
						 struct MHD_Connection *mhd,
						 const struct api_stream *from)
{
	struct http_stream *s = calloc(1, sizeof(*s));
	struct MHD_Response *answer;

	if (s) {
		*s = (struct http_stream){.server = server, .mhd = mhd, .from = *from};
		answer = MHD_create_response_from_callback(
			from->sized ? from->size : MHD_SIZE_UNKNOWN,
			from->piece ? from->piece : 4096, http_read_stream, s, http_end_stream);
		if (answer)
			return answer;
		http_end_stream(s);
	} else if (from->end) {
		from->end(from->arg);
	}
	return NULL;
}

static struct MHD_Response *http_text_response(struct api_exchange *x)
{
	static char no_memory[] =
		"{\"error\":\"out of memory\",\"details\":\"\",\"timestamp\":null}";
	struct MHD_Response *answer;

	if (!x->text) {
		x->status = MHD_HTTP_INTERNAL_SERVER_ERROR;
		return MHD_create_response_from_buffer(strlen(no_memory), no_memory,
						       MHD_RESPMEM_PERSISTENT);
	}
	answer = MHD_create_response_from_buffer(x->text_len, x->text, MHD_RESPMEM_MUST_FREE);
	if (!answer)
		free(x->text);
	return answer;
}

static bool http_is_retired(struct http_server *server)
{
	bool retired;

	pthread_mutex_lock(&server->lock);
	retired = server->retired_ns != 0;
	pthread_mutex_unlock(&server->lock);
	return retired;
}

/* What the exchange gives away is taken, whatever happens. */
static enum MHD_Result http_send(struct http_server *server, struct MHD_Connection *mhd,
				 struct api_exchange *x)
{
	struct MHD_Response *answer = x->stream.read ? http_stream_response(server, mhd, &x->stream)
						     : http_text_response(x);
	enum MHD_Result res;

	if (!answer)
		return MHD_NO;
	MHD_add_response_header(answer, "Content-Type",
				x->content_type ? x->content_type : "application/json");
	MHD_add_response_header(answer, "Cache-Control", "no-store");
	MHD_add_response_header(answer, "X-Content-Type-Options", "nosniff");
	if (http_is_retired(server))
		MHD_add_response_header(answer, "Connection", "close");
	for (size_t i = 0; i < x->header_count; i++)
		MHD_add_response_header(answer, x->headers[i].name, x->headers[i].value);
	res = MHD_queue_response(mhd, (unsigned)x->status, answer);
	MHD_destroy_response(answer);
	return res;
}

static enum MHD_Result http_refuse_large(struct http_server *server, struct MHD_Connection *mhd,
					 const struct http_request *req)
{
	struct api_exchange x = {.target = req->target};

	api_refuse(&x, API_STATUS(413), "the body is larger than 1 MiB", "");
	return http_send(server, mhd, &x);
}

static enum MHD_Result http_begin(struct http_server *server, struct MHD_Connection *mhd,
				  struct http_request *req)
{
	const char *length = MHD_lookup_connection_value(mhd, MHD_HEADER_KIND, "Content-Length");

	req->begun = true;
	http_set_deadline(server, mhd, server->settings.io_timeout_ms);
	if (length && strtoull(length, NULL, 10) > HTTP_BODY_MAX)
		return http_refuse_large(server, mhd, req);
	return MHD_YES;
}

static const char *http_header(const struct api_exchange *x, const char *name)
{
	return MHD_lookup_connection_value(x->header_arg, MHD_HEADER_KIND, name);
}

static void http_note_peer(struct MHD_Connection *mhd, char *out, size_t size)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
	const struct sockaddr *addr = info ? info->client_addr : NULL;
	const void *ip = NULL;

	if (addr && addr->sa_family == AF_INET)
		ip = &((const struct sockaddr_in *)addr)->sin_addr;
	else if (addr && addr->sa_family == AF_INET6)
		ip = &((const struct sockaddr_in6 *)addr)->sin6_addr;
	if (!ip || !inet_ntop(addr->sa_family, ip, out, (socklen_t)size))
		snprintf(out, size, "?");
}

static enum MHD_Result http_finish(struct http_server *server, struct MHD_Connection *mhd,
				   const char *method, struct http_request *req)
{
	struct api_exchange x = {
		.method = method,
		.target = req->target,
		.body = req->body,
		.body_len = req->body_len,
		.header = http_header,
		.header_arg = mhd,
	};
	enum MHD_Result res;

	http_set_deadline(server, mhd, 0);
	if (req->too_large) {
		http_set_deadline(server, mhd, server->settings.io_timeout_ms);
		return http_refuse_large(server, mhd, req);
	}
	http_note_peer(mhd, x.peer, sizeof(x.peer));
	x.for_agents = server->for_agents;
	api_dispatch(server->hub, &x);
	http_set_deadline(server, mhd, server->settings.io_timeout_ms);
	res = http_send(server, mhd, &x);
	api_exchange_deinit(&x);
	return res;
}

/* Called once for the headers, once for each piece of the body, and once more at its end. */
static enum MHD_Result http_on_request(void *arg, struct MHD_Connection *mhd, const char *url,
				       const char *method, const char *version, const char *data,
				       size_t *data_len, void **context)
{
	struct http_request *req = *context;

	(void)url, (void)version;
	if (!req || !req->target)
		return MHD_NO;
	if (!req->begun)
		return http_begin(arg, mhd, req);
	if (*data_len) {
		bool ok = http_take_body(req, data, *data_len);

		*data_len = 0;
		return ok ? MHD_YES : MHD_NO;
	}
	return http_finish(arg, mhd, method, req);
}

/* --- listening ------------------------------------------------------------------------------ */

static int http_parse_address(const char *text, struct sockaddr_storage *addr, socklen_t *len,
			      struct err *err)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)addr;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)addr;
	const char *colon = strrchr(text, ':');
	char host[64], *end = NULL;
	unsigned long port = colon ? strtoul(colon + 1, &end, 10) : 0;
	size_t n = colon ? (size_t)(colon - text) : 0;
	bool bracket = n > 2 && text[0] == '[' && text[n - 1] == ']';

	memset(addr, 0, sizeof(*addr));
	if (!colon || !colon[1] || *end || port > 65535 || n >= sizeof(host))
		return err_set(err, HUB_E_INVALID, "HTTP address \"%s\" is not ADDR:PORT", text);
	snprintf(host, sizeof(host), "%.*s", (int)(bracket ? n - 2 : n), text + bracket);
	if (bracket && inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons((uint16_t)port);
		*len = sizeof(*v6);
		return 0;
	}
	if (inet_pton(AF_INET, host, &v4->sin_addr) != 1)
		return err_set(err, HUB_E_INVALID, "HTTP address \"%s\" has no IP address", text);
	v4->sin_family = AF_INET;
	v4->sin_port = htons((uint16_t)port);
	*len = sizeof(*v4);
	return 0;
}

static void http_format_address(int fd, char *out, size_t size)
{
	struct sockaddr_storage addr;
	socklen_t len = sizeof(addr);
	char host[INET6_ADDRSTRLEN] = "?";

	getsockname(fd, (struct sockaddr *)&addr, &len);
	if (addr.ss_family == AF_INET6) {
		struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&addr;

		inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host));
		snprintf(out, size, "[%s]:%d", host, ntohs(v6->sin6_port));
	} else {
		struct sockaddr_in *v4 = (struct sockaddr_in *)&addr;

		inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host));
		snprintf(out, size, "%s:%d", host, ntohs(v4->sin_port));
	}
}

static bool http_is_loopback(const struct sockaddr_storage *addr)
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)addr;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)addr;

	if (addr->ss_family == AF_INET6)
		return IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
	return ntohl(v4->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
}

static int http_not_loopback(const char *address, struct err *err)
{
	return err_set(err, -EINVAL,
		       "the agents' listener asks nobody who they are, so its address must be a "
		       "loopback one, not \"%s\": agents come through their tunnel",
		       address);
}

/* One that was made elsewhere. */
static int http_listen_passed(struct api *api, const char *address, struct err *err)
{
	struct sockaddr_storage addr = {0};
	socklen_t len = sizeof(addr), listening_len = sizeof(int);
	char *end;
	long fd = strtol(address + 3, &end, 10);
	int listening = 0;

	if (!address[3] || *end || fd < 0 || fd > INT_MAX ||
	    getsockname(fd, (struct sockaddr *)&addr, &len) ||
	    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &listening_len) || !listening ||
	    (addr.ss_family != AF_INET && addr.ss_family != AF_INET6))
		return err_set(err, -EINVAL, "HTTP address \"%s\" is no listening TCP socket",
			       address);
	if (api->for_agents && !http_is_loopback(&addr))
		return http_not_loopback(address, err);
	fcntl((int)fd, F_SETFD, FD_CLOEXEC);
	http_format_address((int)fd, api->address, sizeof(api->address));
	return (int)fd;
}

/* A listening socket, or -errno. */
static int http_listen(struct api *api, const char *address, struct err *err)
{
	struct sockaddr_storage addr;
	socklen_t len = 0;
	_cleanup_(closep) int fd = -1;
	int on = 1, rc;

	if (strncmp(address, "fd:", 3) == 0)
		return http_listen_passed(api, address, err);
	rc = http_parse_address(address, &addr, &len, err);
	if (rc)
		return -EINVAL;
	if (api->for_agents && !http_is_loopback(&addr))
		return http_not_loopback(address, err);
	fd = socket(addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_sys(err, -errno, "socket for HTTP");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)&addr, len) < 0 || listen(fd, 128) < 0)
		return err_sys(err, -errno, "listening for HTTP on %s", address);
	http_format_address(fd, api->address, sizeof(api->address));
	return steal_fd(&fd);
}

/* What it says while it starts is why it does not; later it would only tell of clients. */
static void http_on_complaint(void *arg, const char *format, va_list ap)
{
	struct http_server *server = arg;

	if (!server->started && !server->complaint[0]) {
		vsnprintf(server->complaint, sizeof(server->complaint), format, ap);
		server->complaint[strcspn(server->complaint, "\r\n")] = '\0';
	}
}

static int http_read_pem(const char *path, char **out, struct err *err)
{
	_cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(err, -errno, "cannot read '%s'", path);
	if (!S_ISREG(st.st_mode) || st.st_size <= 0 || st.st_size > HTTP_PEM_MAX)
		return err_set(err, HUB_E_INVALID, "'%s' is no file of PEM text", path);
	*out = calloc(1, (size_t)st.st_size + 1);
	if (!*out)
		return err_sys(err, -ENOMEM, "'%s'", path);
	n = read(fd, *out, (size_t)st.st_size);
	return n == st.st_size ? 0 : err_sys(err, n < 0 ? -errno : -EIO, "cannot read '%s'", path);
}

static void http_settings_deinit(struct http_settings *settings)
{
	if (settings->key)
		explicit_bzero(settings->key, strlen(settings->key));
	free(settings->key);
	free(settings->certificate);
	*settings = (struct http_settings){0};
}

static int http_read_tls(struct http_settings *settings, const struct api_config *config,
			 struct err *err)
{
	int rc;

	if (!config->tls_certificate && !config->tls_key)
		return 0;
	if (!config->tls_certificate || !config->tls_key)
		return err_set(err, HUB_E_INVALID, "HTTPS needs a certificate and its key");
	rc = http_read_pem(config->tls_certificate, &settings->certificate, err);
	return rc ? rc : http_read_pem(config->tls_key, &settings->key, err);
}

static int http_read_settings(struct http_settings *settings, const struct api_config *config,
			      struct err *err)
{
	unsigned limit = config->max_connections ? config->max_connections : HTTP_CONNECTIONS;
	/* All agents come out of one tunnel. */
	unsigned half = config->for_agents ? limit : MAX(limit / 2, 1U);
	int rc;

	*settings = (struct http_settings){
		.max_connections = limit,
		.max_connections_per_peer =
			config->max_connections_per_peer ? config->max_connections_per_peer : half,
		.io_timeout_ms = config->io_timeout_ms ? config->io_timeout_ms : HTTP_IO_TIMEOUT_MS,
	};
	rc = http_read_tls(settings, config, err);
	if (rc)
		http_settings_deinit(settings);
	return rc;
}

static bool http_same_text(const char *a, const char *b)
{
	return !a || !b ? a == b : !strcmp(a, b);
}

static bool http_same_settings(const struct http_settings *a, const struct http_settings *b)
{
	return a->max_connections == b->max_connections &&
	       a->max_connections_per_peer == b->max_connections_per_peer &&
	       a->io_timeout_ms == b->io_timeout_ms &&
	       http_same_text(a->certificate, b->certificate) && http_same_text(a->key, b->key);
}

/* @fd is the library's when this succeeds. */
static int http_start_daemon(struct http_server *server, const char *certificate, int fd,
			     struct err *err)
{
	const struct http_settings *settings = &server->settings;
	/* With a channel of its own to be woken by: without, it may shut the listening socket down
	 * in order to stop, for everybody who has it, and cannot retire. */
	unsigned flags = MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL_INTERNAL_THREAD |
			 MHD_USE_ITC | MHD_USE_ERROR_LOG;
	struct MHD_OptionItem tls[] = {
		{MHD_OPTION_HTTPS_MEM_CERT, 0, settings->certificate},
		{MHD_OPTION_HTTPS_MEM_KEY, 0, settings->key},
		{MHD_OPTION_HTTPS_PRIORITIES, 0, (char *)HTTP_TLS_PRIORITY},
		{MHD_OPTION_END, 0, NULL},
	};

	if (settings->certificate)
		flags |= MHD_USE_TLS;
	else
		tls[0].option = MHD_OPTION_END;
	server->daemon = MHD_start_daemon(
		flags, 0, NULL, NULL, http_on_request, server, MHD_OPTION_EXTERNAL_LOGGER,
		http_on_complaint, server, MHD_OPTION_LISTEN_SOCKET, fd,
		MHD_OPTION_CONNECTION_LIMIT, settings->max_connections,
		MHD_OPTION_PER_IP_CONNECTION_LIMIT, settings->max_connections_per_peer,
		MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HTTP_CONNECTION_BYTES,
		MHD_OPTION_URI_LOG_CALLBACK, http_on_target, server, MHD_OPTION_NOTIFY_COMPLETED,
		http_on_completed, server, MHD_OPTION_NOTIFY_CONNECTION, http_on_connection, server,
		MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_ARRAY, tls, MHD_OPTION_END);
	server->started = true;
	if (server->daemon)
		return 0;
	return err_set(err, settings->certificate ? HUB_E_INVALID : -EIO,
		       "the HTTP server does not start%s%s: %s",
		       settings->certificate ? " with " : "",
		       settings->certificate ? certificate : "",
		       server->complaint[0] ? server->complaint : "no reason given");
}

/* --- a server's life ------------------------------------------------------------------------ */

/* Who is connected is answered what it has asked, and cut. */
static void http_server_stop(struct http_server *server)
{
	struct MHD_Daemon *daemon;

	if (!server)
		return;
	pthread_mutex_lock(&server->lock);
	daemon = steal(&server->daemon);
	pthread_mutex_unlock(&server->lock);
	http_end_daemon(server, daemon);
	pthread_mutex_lock(&server->lock);
	server->stop = true;
	pthread_cond_broadcast(&server->cond);
	pthread_mutex_unlock(&server->lock);
	if (server->sweeper_runs)
		pthread_join(server->sweeper, NULL);
	pthread_mutex_destroy(&server->lock);
	pthread_cond_destroy(&server->cond);
	http_settings_deinit(&server->settings);
	free(server);
}

DEFINE_CLEANUP(struct http_server *, http_server_stop)

/* Takes @settings over. */
static struct http_server *http_server_new(const struct api *api, struct http_settings *settings)
{
	struct http_server *server = calloc(1, sizeof(*server));
	pthread_condattr_t attr;

	if (!server) {
		http_settings_deinit(settings);
		return NULL;
	}
	server->hub = api->hub;
	server->for_agents = api->for_agents;
	server->settings = *settings;
	server->quiet_fd = -1;
	list_init(&server->node);
	list_init(&server->conns);
	pthread_mutex_init(&server->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&server->cond, &attr);
	pthread_condattr_destroy(&attr);
	return server;
}

/* Takes @settings over, also when it fails. @certificate names them in errors. */
static int http_server_start(struct http_server **out, const struct api *api,
			     struct http_settings *settings, const char *certificate,
			     struct err *err)
{
	_cleanup_(http_server_stopp) struct http_server *server = http_server_new(api, settings);
	int fd, rc;

	if (!server)
		return err_sys(err, -ENOMEM, "HTTP server");
	fd = fcntl(api->fd, F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		return err_sys(err, -errno, "HTTP server");
	/* The sweeper is first: once the daemon runs, somebody may be served. */
	rc = pthread_create(&server->sweeper, NULL, http_sweeper_main, server);
	if (rc) {
		close(fd);
		return err_sys(err, -rc, "starting a thread of the HTTP server");
	}
	server->sweeper_runs = true;
	rc = http_start_daemon(server, certificate, fd, err);
	if (rc) {
		close(fd);
		return rc;
	}
	*out = steal(&server);
	return 0;
}

/* Accepts no more; ends when its connections have. */
static void http_server_retire(struct http_server *server)
{
	int fd = MHD_quiesce_daemon(server->daemon);

	pthread_mutex_lock(&server->lock);
	server->quiet_fd = fd;
	server->retired_ns = http_now_ns();
	pthread_mutex_unlock(&server->lock);
}

static bool http_server_ended(struct http_server *server)
{
	bool ended;

	pthread_mutex_lock(&server->lock);
	ended = !server->daemon;
	pthread_mutex_unlock(&server->lock);
	return ended;
}

/* --- life ----------------------------------------------------------------------------------- */

/* Frees retired servers that have ended; how many are left. */
static unsigned api_reap(struct api *api)
{
	struct list *node, *next;
	unsigned left = 0;

	list_for_each_safe (node, next, &api->retired) {
		struct http_server *server = list_entry(node, struct http_server, node);

		if (!http_server_ended(server)) {
			left++;
			continue;
		}
		list_del(node);
		http_server_stop(server);
	}
	return left;
}

static int api_open(struct api *api, const struct api_config *config, struct err *err)
{
	struct http_settings settings;
	int rc = api_routes_check(err);

	if (!rc)
		rc = http_read_settings(&settings, config, err);
	if (rc)
		return rc;
	api->fd = http_listen(api, config->listen, err);
	if (api->fd < 0) {
		http_settings_deinit(&settings);
		return api->fd == -EINVAL ? HUB_E_INVALID : api->fd;
	}
	/* A client may be taken by another server on the same socket while one wakes up for it. */
	fcntl(api->fd, F_SETFL, fcntl(api->fd, F_GETFL) | O_NONBLOCK);
	return http_server_start(&api->server, api, &settings, config->tls_certificate, err);
}

int api_start(struct api **out, struct hub *hub, const struct api_config *config, struct err *err)
{
	_cleanup_(api_stopp) struct api *api = calloc(1, sizeof(*api));
	int rc;

	if (!api)
		return err_sys(err, -ENOMEM, "HTTP server");
	api->fd = -1;
	api->hub = hub;
	api->for_agents = config->for_agents;
	log_scope_init(&api->log, "api");
	list_init(&api->retired);
	rc = api_open(api, config, err);
	if (!rc)
		*out = steal(&api);
	return rc;
}

int api_change(struct api *api, const struct api_config *config, struct err *err)
{
	struct http_settings settings;
	struct http_server *server, *old = api->server;
	int rc = http_read_settings(&settings, config, err);

	if (rc)
		return rc;
	if (http_same_settings(&settings, &old->settings)) {
		http_settings_deinit(&settings);
		return 0;
	}
	if (api_reap(api) >= HTTP_RETIRED_MAX) {
		http_settings_deinit(&settings);
		return err_set(err, -EBUSY,
			       "%d earlier changes of HTTP's settings still have clients "
			       "connected: try again when they are gone",
			       HTTP_RETIRED_MAX);
	}
	rc = http_server_start(&server, api, &settings, config->tls_certificate, err);
	if (rc)
		return rc;
	api->server = server;
	http_server_retire(old);
	list_add_tail(&api->retired, &old->node);
	log_info(&api->log, "new connections to %s meet the new settings; those there are stay",
		 api->address);
	return 0;
}

const char *api_address(const struct api *api)
{
	return api->address;
}

void api_stop(struct api *api)
{
	struct list *node;

	if (!api)
		return;
	if (api->fd >= 0)
		close(api->fd);
	http_server_stop(api->server);
	while ((node = list_pop(&api->retired)))
		http_server_stop(list_entry(node, struct http_server, node));
	free(api);
}
