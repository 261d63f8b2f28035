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
#define HTTP_PEM_MAX	      (1U << 20)
/* TLS 1.2 with forward secrecy, and 1.3. */
#define HTTP_TLS_PRIORITY "SECURE128:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:-RSA:%SERVER_PRECEDENCE"

struct api {
	struct hub *hub;
	struct MHD_Daemon *daemon;
	struct log_scope log;
	char address[96];
	bool for_agents;
	unsigned io_timeout_ms;
	char *certificate, *key; /* PEM texts, for the library */
	char complaint[256];	 /* the library's, while it starts */

	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct list conns; /* struct http_conn; lock */
	bool stop;	   /* lock */
	bool sweeper_runs;
	pthread_t sweeper;
};

struct http_conn {
	struct list node;
	int fd;		     /* the library's */
	int64_t deadline_ns; /* 0: a handler runs; api->lock */
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

static void http_set_deadline(struct api *api, struct MHD_Connection *mhd, unsigned ms)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
	struct http_conn *conn = info ? info->socket_context : NULL;

	if (!conn)
		return;
	pthread_mutex_lock(&api->lock);
	conn->deadline_ns = ms ? http_now_ns() + ms * 1000000LL : 0;
	pthread_mutex_unlock(&api->lock);
}

/* The library tells of the end of a connection before it closes the socket: the number is ours as
 * long as the node is on the list. */
static void http_on_connection(void *arg, struct MHD_Connection *mhd, void **context,
			       enum MHD_ConnectionNotificationCode what)
{
	struct api *api = arg;
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
		conn->deadline_ns = http_now_ns() + api->io_timeout_ms * 1000000LL;
		*context = conn;
		pthread_mutex_lock(&api->lock);
		list_add_tail(&api->conns, &conn->node);
		pthread_mutex_unlock(&api->lock);
	} else if (conn) {
		pthread_mutex_lock(&api->lock);
		list_del(&conn->node);
		pthread_mutex_unlock(&api->lock);
		*context = NULL;
		free(conn);
	}
}

/* `lock` held. */
static void http_sweep(struct api *api)
{
	int64_t now = http_now_ns();
	struct list *pos;

	list_for_each (pos, &api->conns) {
		struct http_conn *conn = list_entry(pos, struct http_conn, node);

		if (conn->deadline_ns && now > conn->deadline_ns) {
			shutdown(conn->fd, SHUT_RDWR);
			conn->deadline_ns = 0;
		}
	}
}

static void *http_sweeper_main(void *arg)
{
	struct api *api = arg;
	struct timespec until;

	pthread_mutex_lock(&api->lock);
	while (!api->stop) {
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_nsec += HTTP_SWEEP_MS * 1000000L;
		until.tv_sec += until.tv_nsec / 1000000000L;
		until.tv_nsec %= 1000000000L;
		pthread_cond_timedwait(&api->cond, &api->lock, &until);
		http_sweep(api);
	}
	pthread_mutex_unlock(&api->lock);
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
	struct api *api;
	struct MHD_Connection *mhd;
	struct api_stream from;
};

/* As long as it takes to have something; each piece has its own time to be taken. */
static ssize_t http_read_stream(void *arg, uint64_t pos, char *buf, size_t max)
{
	struct http_stream *s = arg;
	ssize_t n;

	(void)pos;
	http_set_deadline(s->api, s->mhd, 0);
	n = s->from.read(s->from.arg, buf, max);
	http_set_deadline(s->api, s->mhd, s->api->io_timeout_ms);
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

static struct MHD_Response *http_stream_response(struct api *api, struct MHD_Connection *mhd,
						 const struct api_stream *from)
{
	struct http_stream *s = calloc(1, sizeof(*s));
	struct MHD_Response *answer;

	if (s) {
		*s = (struct http_stream){.api = api, .mhd = mhd, .from = *from};
		answer = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 4096, http_read_stream,
							   s, http_end_stream);
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

/* What the exchange gives away is taken, whatever happens. */
static enum MHD_Result http_send(struct api *api, struct MHD_Connection *mhd,
				 struct api_exchange *x)
{
	struct MHD_Response *answer =
		x->stream.read ? http_stream_response(api, mhd, &x->stream) : http_text_response(x);
	enum MHD_Result res;

	if (!answer)
		return MHD_NO;
	MHD_add_response_header(answer, "Content-Type",
				x->content_type ? x->content_type : "application/json");
	MHD_add_response_header(answer, "Cache-Control", "no-store");
	MHD_add_response_header(answer, "X-Content-Type-Options", "nosniff");
	for (size_t i = 0; i < x->header_count; i++)
		MHD_add_response_header(answer, x->headers[i].name, x->headers[i].value);
	res = MHD_queue_response(mhd, (unsigned)x->status, answer);
	MHD_destroy_response(answer);
	return res;
}

static enum MHD_Result http_refuse_large(struct api *api, struct MHD_Connection *mhd,
					 const struct http_request *req)
{
	struct api_exchange x = {.target = req->target};

	api_refuse(&x, API_STATUS(413), "the body is larger than 1 MiB", "");
	return http_send(api, mhd, &x);
}

static enum MHD_Result http_begin(struct api *api, struct MHD_Connection *mhd,
				  struct http_request *req)
{
	const char *length = MHD_lookup_connection_value(mhd, MHD_HEADER_KIND, "Content-Length");

	req->begun = true;
	http_set_deadline(api, mhd, api->io_timeout_ms);
	if (length && strtoull(length, NULL, 10) > HTTP_BODY_MAX)
		return http_refuse_large(api, mhd, req);
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

static enum MHD_Result http_finish(struct api *api, struct MHD_Connection *mhd, const char *method,
				   struct http_request *req)
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

	http_set_deadline(api, mhd, 0);
	if (req->too_large) {
		http_set_deadline(api, mhd, api->io_timeout_ms);
		return http_refuse_large(api, mhd, req);
	}
	http_note_peer(mhd, x.peer, sizeof(x.peer));
	x.for_agents = api->for_agents;
	api_dispatch(api->hub, &x);
	http_set_deadline(api, mhd, api->io_timeout_ms);
	res = http_send(api, mhd, &x);
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
	http_format_address(fd, api->address, sizeof(api->address));
	return fd;
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
	struct api *api = arg;

	if (!api->daemon && !api->complaint[0]) {
		vsnprintf(api->complaint, sizeof(api->complaint), format, ap);
		api->complaint[strcspn(api->complaint, "\r\n")] = '\0';
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

static int http_read_tls(struct api *api, const struct api_config *config, struct err *err)
{
	int rc;

	if (!config->tls_certificate && !config->tls_key)
		return 0;
	if (!config->tls_certificate || !config->tls_key)
		return err_set(err, HUB_E_INVALID, "HTTPS needs a certificate and its key");
	rc = http_read_pem(config->tls_certificate, &api->certificate, err);
	return rc ? rc : http_read_pem(config->tls_key, &api->key, err);
}

static int http_start_daemon(struct api *api, const struct api_config *config, int fd,
			     struct err *err)
{
	unsigned limit = config->max_connections ? config->max_connections : HTTP_CONNECTIONS;
	/* All agents come out of one tunnel. */
	unsigned half = config->for_agents ? limit : MAX(limit / 2, 1U);
	unsigned peer = config->max_connections_per_peer ? config->max_connections_per_peer : half;
	/* With a channel of its own to be woken by: without, it may shut the listening socket down
	 * in order to stop, for everybody who has it. */
	unsigned flags = MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL_INTERNAL_THREAD |
			 MHD_USE_ITC | MHD_USE_ERROR_LOG;
	struct MHD_OptionItem tls[] = {
		{MHD_OPTION_HTTPS_MEM_CERT, 0, api->certificate},
		{MHD_OPTION_HTTPS_MEM_KEY, 0, api->key},
		{MHD_OPTION_HTTPS_PRIORITIES, 0, (char *)HTTP_TLS_PRIORITY},
		{MHD_OPTION_END, 0, NULL},
	};

	if (api->certificate)
		flags |= MHD_USE_TLS;
	else
		tls[0].option = MHD_OPTION_END;
	api->daemon = MHD_start_daemon(
		flags, 0, NULL, NULL, http_on_request, api, MHD_OPTION_EXTERNAL_LOGGER,
		http_on_complaint, api, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT,
		limit, MHD_OPTION_PER_IP_CONNECTION_LIMIT, peer, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
		(size_t)HTTP_CONNECTION_BYTES, MHD_OPTION_URI_LOG_CALLBACK, http_on_target, api,
		MHD_OPTION_NOTIFY_COMPLETED, http_on_completed, api, MHD_OPTION_NOTIFY_CONNECTION,
		http_on_connection, api, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_ARRAY, tls,
		MHD_OPTION_END);
	if (api->daemon)
		return 0;
	return err_set(err, api->certificate ? HUB_E_INVALID : -EIO,
		       "the HTTP server does not start%s%s: %s", api->certificate ? " with " : "",
		       api->certificate ? config->tls_certificate : "",
		       api->complaint[0] ? api->complaint : "no reason given");
}

/* --- life ----------------------------------------------------------------------------------- */

static struct api *api_new(struct hub *hub, const struct api_config *config)
{
	struct api *api = calloc(1, sizeof(*api));
	pthread_condattr_t attr;

	if (!api)
		return NULL;
	api->hub = hub;
	api->for_agents = config->for_agents;
	api->io_timeout_ms = config->io_timeout_ms ? config->io_timeout_ms : HTTP_IO_TIMEOUT_MS;
	log_scope_init(&api->log, "api");
	list_init(&api->conns);
	pthread_mutex_init(&api->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&api->cond, &attr);
	pthread_condattr_destroy(&attr);
	return api;
}

int api_start(struct api **out, struct hub *hub, const struct api_config *config, struct err *err)
{
	_cleanup_(api_stopp) struct api *api = api_new(hub, config);
	int fd, rc;

	if (!api)
		return err_sys(err, -ENOMEM, "HTTP server");
	rc = api_routes_check(err);
	if (rc)
		return rc;
	rc = http_read_tls(api, config, err);
	if (rc)
		return rc;
	fd = http_listen(api, config->listen, err);
	if (fd < 0)
		return fd == -EINVAL ? HUB_E_INVALID : fd;
	rc = http_start_daemon(api, config, fd, err);
	if (rc) {
		close(fd);
		return rc;
	}
	rc = pthread_create(&api->sweeper, NULL, http_sweeper_main, api);
	if (rc)
		return err_sys(err, -rc, "starting a thread of the HTTP server");
	api->sweeper_runs = true;
	*out = steal(&api);
	return 0;
}

const char *api_address(const struct api *api)
{
	return api->address;
}

void api_stop(struct api *api)
{
	if (!api)
		return;
	if (api->daemon)
		MHD_stop_daemon(api->daemon); /* closes the listening socket as well */
	pthread_mutex_lock(&api->lock);
	api->stop = true;
	pthread_cond_broadcast(&api->cond);
	pthread_mutex_unlock(&api->lock);
	if (api->sweeper_runs)
		pthread_join(api->sweeper, NULL);
	pthread_mutex_destroy(&api->lock);
	pthread_cond_destroy(&api->cond);
	if (api->key)
		explicit_bzero(api->key, strlen(api->key));
	free(api->key);
	free(api->certificate);
	free(api);
}
