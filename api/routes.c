#include "api/routes.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/json.h"
#include "api/status.h"
#include "base/bytes.h"
#include "base/log.h"

enum api_body { NO_BODY, BODY, MAY_HAVE_BODY };

/* First match wins: words before {}. */
static const struct api_route {
	const char *method, *path;
	api_handler *handle;
	enum api_body body;
} api_routes[] = {
	{"GET", "/health", api_get_health, NO_BODY},
	{"GET", "/api/v1/health", api_get_health, NO_BODY},

	{"POST", "/api/v1/discovery/add-vms", api_post_add_vms, BODY},
	{"POST", "/api/v1/discovery/discover-vms", api_post_discover_vms, BODY},
	{"GET", "/api/v1/vm-contexts", api_get_vm_contexts, NO_BODY},
	{"GET", "/api/v1/vm-contexts/{}", api_get_vm_context, NO_BODY},
	{"GET", "/api/v1/vm-contexts/{}/disks", api_get_vm_context_disks, NO_BODY},

	{"POST", "/api/v1/repositories", api_post_repository, BODY},
	{"GET", "/api/v1/repositories", api_get_repositories, NO_BODY},
	{"GET", "/api/v1/repositories/{}", api_get_repository, NO_BODY},

	{"POST", "/api/v1/backups", api_post_backup, BODY},
	{"GET", "/api/v1/backups", api_get_backups, NO_BODY},
	{"GET", "/api/v1/backups/changeid", api_get_change_id, NO_BODY},
	{"GET", "/api/v1/backups/chain", api_get_chain, NO_BODY},
	{"GET", "/api/v1/backups/stats", api_get_stats, NO_BODY},
	{"GET", "/api/v1/backups/{}/chain", api_get_vm_chain, NO_BODY},
	{"GET", "/api/v1/backups/{}", api_get_backup, NO_BODY},
	{"GET", "/api/v1/backups/{}/progress", api_get_progress, NO_BODY},
	{"GET", "/api/v1/backups/{}/log", api_get_log, NO_BODY},
	{"POST", "/api/v1/backups/{}/cancel", api_post_cancel, MAY_HAVE_BODY},

	{"POST", "/api/v1/backups/{}/complete", api_post_complete, BODY},
	{"POST", "/api/v1/telemetry/backup/{}", api_post_telemetry, BODY},
};

static const struct log_scope api_log = {.name = "api"};

/* --- matching ------------------------------------------------------------------------------- */

static bool route_matches(const char *path, const struct api_uri *uri, const char **args)
{
	size_t at = 0, n_args = 0;

	while (*path == '/') {
		size_t len = strcspn(++path, "/");

		if (at == uri->segment_count)
			return false;
		if (len == 2 && path[0] == '{')
			args[n_args++] = uri->segments[at];
		else if (strncmp(path, uri->segments[at], len) || uri->segments[at][len])
			return false;
		path += len;
		at++;
	}
	return at == uri->segment_count;
}

static bool method_matches(const char *asked, const char *offered)
{
	return !strcmp(asked, offered) || (!strcmp(asked, "HEAD") && !strcmp(offered, "GET"));
}

/* NULL: no such path, or (@allow not empty) not with this method. */
static const struct api_route *route_find(struct api_request *req, char *allow, size_t size)
{
	for (size_t i = 0; i < ARRAY_SIZE(api_routes); i++) {
		const struct api_route *r = &api_routes[i];

		if (!route_matches(r->path, &req->uri, req->args))
			continue;
		if (method_matches(req->method, r->method))
			return r;
		if (!strstr(allow, r->method))
			snprintf(allow + strlen(allow), size - strlen(allow), "%s%s",
				 allow[0] ? ", " : "", r->method);
	}
	return NULL;
}

/* --- answering ------------------------------------------------------------------------------ */

static void answer_json(struct api_exchange *x, int status, json_t *answer)
{
	x->status = status;
	x->text = answer ? json_dumps(answer, JSON_COMPACT) : NULL;
	json_decref(answer);
}

static void answer_error(struct api_exchange *x, int status, const char *error, const char *details)
{
	answer_json(x, status, api_error_body(error, details));
}

static int parse_body(const struct api_exchange *x, json_t **body, struct err *err)
{
	json_error_t jerr;

	*body = json_loadb(x->body ? x->body : "", x->body_len, JSON_REJECT_DUPLICATES, &jerr);
	if (!*body)
		return err_set(err, HUB_E_INVALID, "the body is not JSON: %s", jerr.text);
	if (!json_is_object(*body)) {
		json_decref(steal(body));
		return err_set(err, HUB_E_INVALID, "the body must be a JSON object");
	}
	return 0;
}

static int run_handler(const struct api_route *route, struct api_request *req,
		       const struct api_exchange *x, struct err *err)
{
	json_t *body = NULL;
	int rc = 0;

	if (route->body == BODY || (route->body == MAY_HAVE_BODY && x->body_len))
		rc = parse_body(x, &body, err);
	req->body = body;
	if (!rc)
		rc = route->handle(req, err);
	json_decref(body);
	if (!rc && !req->answer)
		rc = err_sys(err, -ENOMEM, "answer");
	return rc;
}

static void finish(struct api_exchange *x, struct api_request *req, int rc, const struct err *err)
{
	int status = api_status_of(rc);

	if (!rc) {
		answer_json(x, req->status, req->answer);
		return;
	}
	json_decref(req->answer);
	if (status >= 500)
		log_warn(&api_log, "%s %s: %d: %s", x->method, x->target, status, err->text);
	answer_error(x, status, err->text, req->details);
}

void api_dispatch(struct hub *hub, struct api_exchange *x)
{
	struct api_request *req = calloc(1, sizeof(*req));
	const struct api_route *route;
	struct err err = ERR_INIT;
	int rc;

	if (!req) {
		x->status = 500;
		return;
	}
	req->hub = hub;
	req->method = x->method;
	req->status = 200;
	rc = api_uri_parse(&req->uri, x->target, &err);
	route = rc ? NULL : route_find(req, x->allow, sizeof(x->allow));
	if (route)
		rc = run_handler(route, req, x, &err);
	if (route || rc)
		finish(x, req, rc, &err);
	else if (x->allow[0])
		answer_error(x, 405, "this path does not take that method", x->allow);
	else
		answer_error(x, 404, "there is no such path", "");
	free(req);
}

/* --- reading parameters --------------------------------------------------------------------- */

int api_query_int(const struct api_request *req, const char *name, int64_t min, int64_t max,
		  int64_t *out, struct err *err)
{
	const char *text = api_uri_query(&req->uri, name);
	long long v;
	char *end;

	if (!text[0])
		return 0;
	errno = 0;
	v = strtoll(text, &end, 10);
	if (*end || errno || v < min || v > max)
		return err_set(err, HUB_E_INVALID,
			       "%s must be an integer between %lld and %lld, not \"%.40s\"", name,
			       (long long)min, (long long)max, text);
	*out = v;
	return 0;
}
