/*
 * One thread a connection, because a handler may look at disks; there are few connections, and a
 * bound on them. A request is collected whole, handed to the row of the table that matches, and
 * answered at once.
 *
 * Errors are JSON, {"error","timestamp"}, but for a refused start: that is plain text, which is
 * what hubs put into their own message.
 */
#include "tools/agent_api.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <string.h>

#include "base/bytes.h"
#include "tools/agent_discover.h"
#include "tools/agent_json.h"

#define API_BODY_MAX	 (256 * KIB)
#define API_CONNECTIONS	 32
#define API_TIMEOUT_S	 30
#define API_CONN_MEMORY	 (32 * KIB)
#define API_PREFIX	 "/api/v1"
#define API_ADDRESS_SIZE 64

struct agent_api {
	struct MHD_Daemon *daemon;
	struct agent_jobs *jobs;
	const char *inventory;
	struct agent_stop stop; /* for discoveries under way */
	struct log_scope log;
	char address[API_ADDRESS_SIZE];
};

/* A request being collected. */
struct api_request {
	char *body;
	size_t len;
	bool too_long;
};

/* What a handler gets and gives. */
struct api_call {
	struct agent_api *api;
	const char *rest;   /* of the path, behind the route's */
	const json_t *body; /* an object, for routes that want one */
	unsigned status;
	json_t *answer; /* or */
	char *text;	/* plain */
};

static void answer_error(struct api_call *call, unsigned status, const char *text)
{
	char when[AGENT_TIME_SIZE];

	call->status = status;
	call->answer = json_pack("{s:o,s:s}", "error", agent_text_json(text), "timestamp",
				 agent_time_text(agent_now_us(), when));
}

static void answer_text(struct api_call *call, unsigned status, const char *text)
{
	call->status = status;
	call->text = strdup(text);
}

/* "" when it is absent or no text. */
static const char *member(const json_t *obj, const char *key)
{
	const char *s = json_string_value(json_object_get(obj, key));

	return s ? s : "";
}

/* --- handlers ------------------------------------------------------------------------------- */

static void handle_health(struct api_call *call)
{
	char when[AGENT_TIME_SIZE];

	call->answer = json_pack("{s:s,s:s,s:s,s:s}", "status", "healthy", "service",
				 "sendense-agent", "version", SENDENSE_VERSION, "timestamp",
				 agent_time_text(agent_now_us(), when));
}

static void handle_discover(struct api_call *call)
{
	_cleanup_(agent_inventory_freep) struct agent_inventory *inv = NULL;
	struct agent_discover what = {
		.vcenter = member(call->body, "vcenter"),
		.datacenter = member(call->body, "datacenter"),
		.filter = member(call->body, "filter"),
	};
	struct err err = ERR_INIT;
	int rc = agent_inventory_load(&inv, call->api->inventory, &err);

	if (!rc)
		rc = agent_discover(inv, &what, &call->api->stop, &call->answer, &err);
	if (!rc)
		return;
	log_error(&call->api->log, "discover: %s", err.text);
	answer_error(call, MHD_HTTP_INTERNAL_SERVER_ERROR, err.text);
}

/* The fields a hub must send; credentials among them, which nobody looks at beyond this. */
static const char *start_missing(const json_t *body)
{
	static const char *const needed[] = {
		"job_id",	    "vm_name", "vcenter_host", "vcenter_user",
		"vcenter_password", "vm_path", "nbd_targets",  "backup_type",
	};

	for (size_t i = 0; i < ARRAY_SIZE(needed); i++)
		if (!member(body, needed[i])[0])
			return needed[i];
	if (strcmp(member(body, "backup_type"), "incremental") == 0 &&
	    !member(body, "previous_change_id")[0])
		return "previous_change_id";
	return NULL;
}

static void start_refused(struct api_call *call, int rc, const struct err *err)
{
	log_warn(&call->api->log, "start refused: %s", err->text);
	if (rc == AGENT_JOB_E_INVALID)
		answer_text(call, MHD_HTTP_BAD_REQUEST, err->text);
	else if (rc == AGENT_JOB_E_BUSY)
		answer_error(call, MHD_HTTP_CONFLICT, err->text);
	else if (rc == -ESHUTDOWN)
		answer_error(call, MHD_HTTP_SERVICE_UNAVAILABLE, err->text);
	else
		answer_error(call, MHD_HTTP_INTERNAL_SERVER_ERROR, err->text);
}

static void handle_start(struct api_call *call)
{
	const char *type = member(call->body, "backup_type");
	const char *missing = start_missing(call->body);
	struct agent_start start = {
		.job_id = member(call->body, "job_id"),
		.vm_path = member(call->body, "vm_path"),
		.nbd_targets = member(call->body, "nbd_targets"),
		.full = strcmp(type, "full") == 0,
	};
	struct err err = ERR_INIT;
	char when[AGENT_TIME_SIZE];
	int rc = 0;

	if (missing)
		rc = err_set(&err, AGENT_JOB_E_INVALID, "%s is required", missing);
	else if (!start.full && strcmp(type, "incremental") != 0)
		rc = err_set(&err, AGENT_JOB_E_INVALID,
			     "backup_type must be \"full\" or \"incremental\"");
	if (!rc)
		rc = agent_jobs_start(call->api->jobs, &start, &err);
	if (rc) {
		start_refused(call, rc, &err);
		return;
	}
	call->answer = json_pack("{s:s,s:s,s:s,s:s,s:i}", "job_id", start.job_id, "status",
				 "started", "message", "backup started", "started_at",
				 agent_time_text(agent_now_us(), when), "pid", (int)getpid());
}

static void handle_progress(struct api_call *call)
{
	call->answer = agent_jobs_progress(call->api->jobs, call->rest);
	if (!call->answer)
		answer_error(call, MHD_HTTP_NOT_FOUND, "no such job");
}

static void handle_status(struct api_call *call)
{
	call->answer = agent_jobs_status(call->api->jobs, call->rest);
	if (!call->answer)
		answer_error(call, MHD_HTTP_NOT_FOUND, "no such job");
}

/* There are no snapshots of this agent's to delete, and nothing of it to clean up. */
static void handle_cleanup(struct api_call *call)
{
	const char *action = member(call->body, "action");

	if (strcmp(action, "cleanup_all") == 0)
		call->answer = json_pack("{s:s,s:s}", "status", "success", "message",
					 "nothing to clean up");
	else if (strcmp(action, "delete_snapshot") == 0)
		answer_error(call, MHD_HTTP_INTERNAL_SERVER_ERROR,
			     "delete_snapshot: this agent makes no snapshots");
	else
		answer_error(call, MHD_HTTP_BAD_REQUEST,
			     "action must be \"cleanup_all\" or \"delete_snapshot\"");
}

static void handle_not_implemented(struct api_call *call)
{
	answer_error(call, MHD_HTTP_NOT_IMPLEMENTED, "this agent backs up VMs only");
}

/* --- routes --------------------------------------------------------------------------------- */

enum api_body { BODY_NONE, BODY_OBJECT };

static const struct api_route {
	const char *method; /* NULL: any */
	const char *path;   /* behind API_PREFIX; one that ends in '/' takes what follows */
	enum api_body body;
	void (*handle)(struct api_call *call);
} routes[] = {
	{"GET", "/health", BODY_NONE, handle_health},
	{"POST", "/discover", BODY_OBJECT, handle_discover},
	{"POST", "/backup/start", BODY_OBJECT, handle_start},
	{"GET", "/progress/", BODY_NONE, handle_progress},
	{"GET", "/status/", BODY_NONE, handle_status},
	{"POST", "/cleanup", BODY_OBJECT, handle_cleanup},
	{NULL, "/replicate", BODY_NONE, handle_not_implemented},
	{NULL, "/vms/", BODY_NONE, handle_not_implemented},
	{NULL, "/vm/", BODY_NONE, handle_not_implemented},
	{NULL, "/vm-spec-changes", BODY_NONE, handle_not_implemented},
	{NULL, "/config", BODY_NONE, handle_not_implemented},
	{NULL, "/enrollment/", BODY_NONE, handle_not_implemented},
};

static const char *route_match(const struct api_route *r, const char *path)
{
	size_t n = strlen(r->path);

	if (r->path[n - 1] == '/')
		return strncmp(path, r->path, n) == 0 && path[n] ? path + n : NULL;
	return strcmp(path, r->path) == 0 ? path + n : NULL;
}

static void call_route(struct api_call *call, const struct api_route *r,
		       const struct api_request *req)
{
	json_error_t jerr = {.text = "empty body"};
	json_t *body = NULL;
	char why[sizeof(jerr.text) + 64];

	if (r->body == BODY_OBJECT) {
		body = req->body ? json_loadb(req->body, req->len, 0, &jerr) : NULL;
		if (!json_is_object(body)) {
			snprintf(why, sizeof(why), "the body is no JSON object: %s", jerr.text);
			answer_error(call, MHD_HTTP_BAD_REQUEST, why);
			json_decref(body);
			return;
		}
	}
	call->body = body;
	r->handle(call);
	json_decref(body);
}

static void call_dispatch(struct api_call *call, const char *method, const char *path,
			  const struct api_request *req)
{
	size_t n = strlen(API_PREFIX);
	bool known = false;

	if (req->too_long) {
		answer_error(call, MHD_HTTP_CONTENT_TOO_LARGE, "the body is too long");
		return;
	}
	if (strncmp(path, API_PREFIX, n) == 0 && path[n] == '/')
		path += n;
	for (size_t i = 0; i < ARRAY_SIZE(routes); i++) {
		call->rest = route_match(&routes[i], path);
		if (!call->rest)
			continue;
		known = true;
		if (routes[i].method && strcmp(routes[i].method, method) != 0)
			continue;
		call_route(call, &routes[i], req);
		return;
	}
	if (known)
		answer_error(call, MHD_HTTP_METHOD_NOT_ALLOWED, "this path takes another method");
	else
		answer_error(call, MHD_HTTP_NOT_FOUND, "no such path");
}

/* --- the library ---------------------------------------------------------------------------- */

static enum MHD_Result send_answer(struct MHD_Connection *conn, struct api_call *call)
{
	char *body = call->answer ? json_dumps(call->answer, JSON_COMPACT) : steal(&call->text);
	const char *type = call->answer ? "application/json" : "text/plain; charset=utf-8";
	struct MHD_Response *response;
	enum MHD_Result rc;

	json_decref(call->answer);
	if (!body)
		return MHD_NO; /* out of memory, or text that is no JSON: the connection closes */
	response = MHD_create_response_from_buffer(strlen(body), body, MHD_RESPMEM_MUST_FREE);
	if (!response) {
		free(body);
		return MHD_NO;
	}
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
	rc = MHD_queue_response(conn, call->status, response);
	MHD_destroy_response(response);
	return rc;
}

static enum MHD_Result request_grow(struct api_request *req, const char *data, size_t len)
{
	char *grown;

	if (req->too_long || len > API_BODY_MAX - req->len) {
		req->too_long = true;
		return MHD_YES;
	}
	/* Not realloc(): what it would leave behind may be a password. */
	grown = malloc(req->len + len);
	if (!grown)
		return MHD_NO;
	if (req->body) {
		memcpy(grown, req->body, req->len);
		explicit_bzero(req->body, req->len);
		free(req->body);
	}
	memcpy(grown + req->len, data, len);
	req->body = grown;
	req->len += len;
	return MHD_YES;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *conn, const char *url,
				  const char *method, const char *version, const char *upload,
				  size_t *upload_len, void **state)
{
	struct api_request *req = *state;
	struct api_call call = {.api = cls, .status = MHD_HTTP_OK};
	enum MHD_Result rc;

	(void)version;
	if (!req) {
		*state = calloc(1, sizeof(*req));
		return *state ? MHD_YES : MHD_NO;
	}
	if (*upload_len) {
		rc = request_grow(req, upload, *upload_len);
		*upload_len = 0;
		return rc;
	}
	call_dispatch(&call, method, url, req);
	return send_answer(conn, &call);
}

static void on_completed(void *cls, struct MHD_Connection *conn, void **state,
			 enum MHD_RequestTerminationCode code)
{
	struct api_request *req = *state;

	(void)cls, (void)conn, (void)code;
	if (!req)
		return;
	if (req->body)
		explicit_bzero(req->body, req->len);
	free(req->body);
	free(req);
	*state = NULL;
}

/* "ADDR:PORT", "[ADDR]:PORT" for IPv6. */
static int parse_listen(const char *listen, struct sockaddr_storage *out, socklen_t *len,
			struct err *err)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)out;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
	const char *colon = strrchr(listen, ':');
	char host[INET6_ADDRSTRLEN + 2] = "", *end;
	unsigned long port;

	memset(out, 0, sizeof(*out));
	port = colon && colon[1] >= '0' && colon[1] <= '9' ? strtoul(colon + 1, &end, 10) : 65536;
	if (port > 65535 || *end || (size_t)(colon - listen) >= sizeof(host))
		return err_set(err, -EINVAL, "--listen \"%s\" is not ADDR:PORT", listen);
	memcpy(host, listen, (size_t)(colon - listen));
	*len = sizeof(*v4);
	v4->sin_family = AF_INET;
	v4->sin_port = htons((uint16_t)port);
	if (inet_pton(AF_INET, host, &v4->sin_addr) == 1)
		return 0;
	*len = sizeof(*v6);
	v6->sin6_family = AF_INET6;
	v6->sin6_port = htons((uint16_t)port);
	if (host[0] == '[' && host[strlen(host) - 1] == ']') {
		host[strlen(host) - 1] = '\0';
		if (inet_pton(AF_INET6, host + 1, &v6->sin6_addr) == 1)
			return 0;
	}
	return err_set(err, -EINVAL, "--listen \"%s\": not an IP address", listen);
}

static void api_remember_address(struct agent_api *api, const struct sockaddr_storage *sa)
{
	const union MHD_DaemonInfo *info =
		MHD_get_daemon_info(api->daemon, MHD_DAEMON_INFO_BIND_PORT);
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)sa;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)sa;
	char host[INET6_ADDRSTRLEN] = "";
	bool is_v6 = sa->ss_family == AF_INET6;

	inet_ntop(sa->ss_family, is_v6 ? (const void *)&v6->sin6_addr : &v4->sin_addr, host,
		  sizeof(host));
	snprintf(api->address, sizeof(api->address), is_v6 ? "[%s]:%u" : "%s:%u", host,
		 info ? info->port : 0u);
}

int agent_api_start(struct agent_api **out, const char *listen, const char *inventory,
		    struct agent_jobs *jobs, struct err *err)
{
	struct agent_api *api = calloc(1, sizeof(*api));
	struct sockaddr_storage sa;
	socklen_t len;
	int rc;

	if (!api)
		return err_sys(err, -ENOMEM, "HTTP server");
	api->jobs = jobs;
	api->inventory = inventory;
	log_scope_init(&api->log, "api");
	rc = agent_stop_init(&api->stop);
	if (!rc)
		rc = parse_listen(listen, &sa, &len, err);
	if (rc) {
		agent_api_stop(api);
		return rc;
	}
	api->daemon = MHD_start_daemon(
		MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL |
			(sa.ss_family == AF_INET6 ? MHD_USE_IPv6 : 0),
		0, NULL, NULL, on_request, api, MHD_OPTION_SOCK_ADDR, &sa,
		MHD_OPTION_CONNECTION_LIMIT, (unsigned)API_CONNECTIONS,
		MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)API_TIMEOUT_S,
		MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)API_CONN_MEMORY,
		MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL, MHD_OPTION_END);
	if (!api->daemon) {
		rc = errno ? -errno : -EADDRINUSE;
		agent_api_stop(api);
		return err_sys(err, rc, "cannot listen on %s", listen);
	}
	api_remember_address(api, &sa);
	*out = api;
	return 0;
}

const char *agent_api_address(const struct agent_api *api)
{
	return api->address;
}

void agent_api_stop(struct agent_api *api)
{
	if (!api)
		return;
	if (api->stop.fd > 0)
		agent_stop_ask(&api->stop);
	if (api->daemon)
		MHD_stop_daemon(api->daemon);
	agent_stop_deinit(&api->stop);
	free(api);
}
