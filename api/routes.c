#include "api/routes.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/idempotency.h"
#include "api/json.h"
#include "api/openapi.h"
#include "api/status.h"
#include "base/bytes.h"
#include "base/log.h"

const struct api_noun *const api_nouns[] = {
	&api_health_noun,
	&api_discovery_noun,
	&api_credentials_noun,
	&api_vm_contexts_noun,
	&api_repositories_noun,
	&api_policies_noun,
	&api_schedules_noun,
	&api_replications_noun,
	&api_backups_noun,
	&api_copies_noun,
	&api_restore_noun,
	&api_jobs_noun,
	&api_events_noun,
	&api_metrics_noun,
	&api_chains_noun,
	&api_docs_noun,
	&api_agent_noun,
	&api_deletions_noun,
	&api_access_noun,
	&api_appliances_noun,
	&api_audit_noun,
	&api_hubs_noun,
	NULL,
};

static const struct log_scope api_log = {.name = "api"};

/* --- matching ------------------------------------------------------------------------------- */

/* How well a path fits: a bit for each of its segments that is a word, the first the highest, and
 * one below them all. 0: it does not. */
static unsigned route_fit(const char *path, const struct api_uri *uri, const char **args)
{
	size_t at = 0, n_args = 0;
	unsigned fit = 1;

	while (*path == '/') {
		size_t len = strcspn(++path, "/");
		bool word = path[0] != '{';

		if (at == uri->segment_count)
			return 0;
		if (!word && n_args < API_ARGS_MAX)
			args[n_args++] = uri->segments[at];
		else if (strncmp(path, uri->segments[at], len) || uri->segments[at][len])
			return 0;
		fit |= word ? 1U << (API_SEGMENTS_MAX - at) : 0;
		path += len;
		at++;
	}
	return at == uri->segment_count ? fit : 0;
}

static bool method_matches(const char *asked, const char *offered)
{
	return !strcmp(asked, offered) || (!strcmp(asked, "HEAD") && !strcmp(offered, "GET"));
}

struct route_search {
	const struct api_route *best;
	unsigned fit;
	char allow[64]; /* the methods of all rows with this path */
};

static void route_consider(struct route_search *search, const struct api_request *req,
			   const struct api_route *r)
{
	const char *args[API_ARGS_MAX];
	unsigned fit = route_fit(r->path, &req->uri, args);
	size_t used = strlen(search->allow);

	/* By the agents' listener there is nothing else. */
	if (!fit || (req->out->for_agents && r->role != API_AGENT && !r->agents_too))
		return;
	if (!strstr(search->allow, r->method))
		snprintf(search->allow + used, sizeof(search->allow) - used, "%s%s",
			 used ? ", " : "", r->method);
	if (fit > search->fit && method_matches(req->method, r->method)) {
		search->best = r;
		search->fit = fit;
	}
}

/* No best: no such path, or (allow not empty) not with this method. */
static void route_find(struct api_request *req, struct route_search *search)
{
	*search = (struct route_search){.best = NULL};
	for (size_t n = 0; api_nouns[n]; n++)
		for (size_t i = 0; i < api_nouns[n]->route_count; i++)
			route_consider(search, req, &api_nouns[n]->routes[i]);
	if (search->best)
		route_fit(search->best->path, &req->uri, req->args);
}

/* --- looking through the table -------------------------------------------------------------- */

static bool paths_are_one(const char *a, const char *b)
{
	while (*a == '/' && *b == '/') {
		size_t n = strcspn(++a, "/"), m = strcspn(++b, "/");

		if ((a[0] == '{') != (b[0] == '{') || (a[0] != '{' && (n != m || memcmp(a, b, n))))
			return false;
		a += n;
		b += m;
	}
	return *a == *b;
}

static bool route_is_first(const struct api_route *r)
{
	for (size_t n = 0; api_nouns[n]; n++)
		for (size_t i = 0; i < api_nouns[n]->route_count; i++) {
			const struct api_route *other = &api_nouns[n]->routes[i];

			if (other == r)
				return true;
			if (paths_are_one(other->path, r->path) &&
			    (!strcmp(other->method, r->method) || strcmp(other->path, r->path)))
				return false;
		}
	return true;
}

static int route_check(const struct api_route *r, struct err *err)
{
	const char *wrong = NULL;

	if (!r->handle || !r->summary)
		wrong = "has no handler or no summary";
	else if (r->role == API_ROLE_UNSET)
		wrong = "has no role";
	else if (!!r->gives + !!r->content_type + (r->status == API_NO_CONTENT) != 1)
		wrong = "must say one of: the shape of its answer, its content type, that there is "
			"none";
	else if (!route_is_first(r))
		wrong = "is there twice, or its {names} are others in another row";
	return wrong ? err_set(err, -EINVAL, "route %s %s %s", r->method, r->path, wrong) : 0;
}

int api_routes_check(struct err *err)
{
	json_t *document = NULL;
	int rc = 0;

	for (size_t n = 0; api_nouns[n] && !rc; n++)
		for (size_t i = 0; i < api_nouns[n]->route_count && !rc; i++)
			rc = route_check(&api_nouns[n]->routes[i], err);
	if (!rc)
		rc = api_openapi(&document, err);
	json_decref(document);
	return rc;
}

/* --- answering ------------------------------------------------------------------------------ */

const char *api_request_header(const struct api_request *req, const char *name)
{
	const struct api_exchange *x = req->out;

	return x->header ? x->header(x, name) : NULL;
}

static void add_header(struct api_exchange *x, const char *name, char *value)
{
	if (!value || x->header_count == API_HEADERS_MAX) {
		free(value);
		return;
	}
	x->headers[x->header_count].name = name;
	x->headers[x->header_count++].value = value;
}

void api_reply_header(struct api_request *req, const char *name, const char *format, ...)
{
	char *value = NULL;
	va_list ap;

	va_start(ap, format);
	if (vasprintf(&value, format, ap) < 0)
		value = NULL;
	va_end(ap);
	add_header(req->out, name, value);
}

int api_reply_text(struct api_request *req, const char *content_type, char *text, struct err *err)
{
	if (!text)
		return err_sys(err, -ENOMEM, "answer");
	req->out->text = text;
	req->out->text_len = strlen(text);
	req->out->content_type = content_type;
	return 0;
}

int api_reply_stream(struct api_request *req, const char *content_type, struct api_stream stream)
{
	req->out->stream = stream;
	req->out->content_type = content_type;
	return 0;
}

static bool has_answer(const struct api_request *req)
{
	return req->answer || req->out->text || req->out->stream.read ||
	       req->status == API_NO_CONTENT;
}

static void drop_answer(struct api_request *req)
{
	struct api_exchange *x = req->out;

	json_decref(steal(&req->answer));
	free(steal(&x->text));
	if (x->stream.read && x->stream.end)
		x->stream.end(x->stream.arg);
	x->stream = (struct api_stream){.read = NULL};
	x->content_type = NULL;
}

static void answer_json(struct api_exchange *x, int status, json_t *answer)
{
	x->status = status;
	x->text = answer ? json_dumps(answer, JSON_COMPACT) : NULL;
	x->text_len = x->text ? strlen(x->text) : 0;
	json_decref(answer);
}

void api_refuse(struct api_exchange *x, int rc, const char *error, const char *details)
{
	const struct api_problem problem = {
		.type = api_problem_type(rc),
		.status = api_status_of(rc),
		.error = error,
		.details = details,
		.instance = x->target,
	};

	answer_json(x, problem.status, api_problem_body(&problem));
	x->content_type = API_PROBLEM_TYPE;
}

static int parse_body(const struct api_exchange *x, bool may_be_bare, json_t **body,
		      struct err *err)
{
	json_error_t jerr;

	if (!x->body_len && may_be_bare) {
		*body = json_object();
		return *body ? 0 : err_sys(err, -ENOMEM, "body");
	}
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
		       struct api_idem *idem, struct err *err)
{
	json_t *body = NULL;
	bool replayed = false;
	int rc = api_authorise(req, route, err);

	if (!rc && route->takes)
		rc = parse_body(req->out, route->may_be_bare, &body, err);
	req->body = body;
	if (!rc && route->creates)
		rc = api_idem_begin(req, idem, &replayed, err);
	if (!rc && !replayed) {
		api_audit_begin(req);
		rc = route->handle(req, err);
	}
	req->body = NULL;
	json_decref(body);
	if (!rc && !has_answer(req))
		rc = err_sys(err, -ENOMEM, "answer");
	return rc;
}

static void finish(struct api_exchange *x, struct api_request *req, int rc, const struct err *err)
{
	int status = api_status_of(rc);

	if (!rc && req->answer) {
		answer_json(x, req->status, steal(&req->answer));
		return;
	}
	if (!rc) {
		x->status = req->status;
		if (x->status == API_NO_CONTENT)
			x->text = strdup("");
		return;
	}
	drop_answer(req);
	if (status >= 500)
		log_warn(&api_log, "%s %s: %d: %s", x->method, x->target, status, err->text);
	api_refuse(x, rc, err->text, req->details);
}

/* RFC 9745; since when is a constant of the product: the mirrored API's early routes. */
static void add_deprecation(struct api_request *req)
{
	api_reply_header(req, "Deprecation", "@1759622400");
	if (!strchr(req->route->instead, '{'))
		api_reply_header(req, "Link", "<%s>; rel=\"successor-version\"",
				 req->route->instead);
}

static void dispatch(struct api_request *req, struct api_exchange *x)
{
	struct api_idem idem = {.begun = false};
	struct route_search found;
	struct err err = ERR_INIT;
	int rc = api_uri_parse(&req->uri, x->target, &err);

	if (rc) {
		finish(x, req, rc, &err);
		return;
	}
	route_find(req, &found);
	if (found.best) {
		req->route = found.best;
		req->status = found.best->status ? found.best->status : 200;
		if (found.best->instead)
			add_deprecation(req);
		rc = run_handler(found.best, req, &idem, &err);
		api_audit(req, rc ? api_status_of(rc) : req->status, err.text);
		finish(x, req, rc, &err);
		api_idem_end(req, &idem);
	} else if (found.allow[0]) {
		add_header(x, "Allow", strdup(found.allow));
		api_refuse(x, API_STATUS(405), "this path does not take that method", found.allow);
	} else {
		api_refuse(x, API_STATUS(404), "there is no such path", "");
	}
	if (!found.best && x->for_agents)
		api_audit_stranger(req, x->status);
}

void api_dispatch(struct hub *hub, struct api_exchange *x)
{
	struct api_request *req = calloc(1, sizeof(*req));

	if (!req) {
		x->status = 500;
		return;
	}
	req->hub = hub;
	req->method = x->method;
	req->pending = -1;
	req->out = x;
	dispatch(req, x);
	free(req);
}

void api_exchange_deinit(struct api_exchange *x)
{
	while (x->header_count)
		free(x->headers[--x->header_count].value);
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
