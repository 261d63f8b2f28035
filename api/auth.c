/*
 * Who may call what, and the record of it.
 *
 * The control listener asks every route but the public ones for a bearer token (RFC 6750) whose
 * user's role, and whose scopes, cover the route's role. The agents' listener asks for nothing,
 * because the capture agent brings nothing: it is on loopback alone, where agents arrive through
 * their tunnel, has the agents' routes alone, and of those a handler admits what concerns a backup
 * that runs (api_admit_agent()). What the appliance around the agent calls is there as well, and
 * needs a token there as well (agents_too).
 *
 * The audit log gets an entry for every request that changes something, when it was done, for those
 * that read what was backed up, and for every one that is refused. Who is refused over and over
 * fills a log: past a rate such requests are counted, and the next entry tells how many.
 */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "api/routes.h"
#include "api/status.h"
#include "base/bytes.h"
#include "hub/audit.h"

/* --- tokens ----------------------------------------------------------------------------------- */

static const enum catalog_role role_of[] = {
	[API_VIEWER] = CATALOG_ROLE_VIEWER,
	[API_OPERATOR] = CATALOG_ROLE_OPERATOR,
	[API_ADMIN] = CATALOG_ROLE_ADMIN,
	[API_AGENT] = CATALOG_ROLE_AGENT,
};

/* What stands behind "Bearer"; NULL: nothing that begins like that. */
static const char *bearer_token(const struct api_request *req)
{
	const char *value = api_request_header(req, "Authorization");

	if (!value || strncasecmp(value, "Bearer ", 7))
		return NULL;
	return value + 7 + strspn(value + 7, " ");
}

/* The noun that scopes name: the word behind /api/v1/, or the first. */
static const char *noun_of(const struct api_uri *uri)
{
	size_t at = uri->segment_count > 2 && !strcmp(uri->segments[0], "api") ? 2 : 0;

	return uri->segment_count > at ? uri->segments[at] : "";
}

int api_refuse_stranger(struct api_request *req, int status, struct err *err)
{
	req->denied = true;
	if (hub_access_refusal(req->hub, req->out->peer))
		return status;
	req->unlisted = true;
	api_reply_header(req, "Retry-After", "1");
	return err_set(err, API_STATUS(429),
		       "too many requests without a valid token come from %s: wait a second",
		       req->out->peer);
}

/* Somebody who is not known. */
static int refuse_stranger(struct api_request *req, bool has_token, struct err *err)
{
	int rc = api_refuse_stranger(req, API_STATUS(401), err);

	if (rc != API_STATUS(401))
		return rc;
	api_reply_header(req, "WWW-Authenticate", "Bearer realm=\"sendense\"%s",
			 has_token ? ", error=\"invalid_token\"" : "");
	if (has_token)
		return API_STATUS(401);
	return err_set(err, API_STATUS(401),
		       "this call needs a token: send it as \"Authorization: Bearer TOKEN\" "
		       "(the first one is in DATA-DIR/admin-token)");
}

static int refuse_user(struct api_request *req, const struct api_route *route, struct err *err)
{
	const struct hub_caller *user = &req->user;
	const char *needed = catalog_role_name(role_of[route->role]);

	req->denied = true;
	req->unlisted = !hub_access_refusal(req->hub, user->user_id);
	api_reply_header(req, "WWW-Authenticate",
			 "Bearer realm=\"sendense\", error=\"insufficient_scope\"");
	if (hub_role_covers(user->role, role_of[route->role]))
		return err_set(
			err, API_STATUS(403),
			"this call needs the scope %s or %s:%s, which token %s does not have",
			needed, needed, noun_of(&req->uri), user->token_id);
	return err_set(err, API_STATUS(403), "this call needs the role %s; user %s has the role %s",
		       needed, user->user_name, catalog_role_name(user->role));
}

static bool caller_may(const struct api_request *req, const struct api_route *route)
{
	const char *noun = noun_of(&req->uri);

	return (!req->out->for_agents && hub_caller_may(&req->user, role_of[route->role], noun)) ||
	       (route->agents_too && hub_caller_may(&req->user, CATALOG_ROLE_AGENT, noun));
}

static int authorise_by_token(struct api_request *req, const struct api_route *route,
			      struct err *err)
{
	const char *token = bearer_token(req);
	int rc = HUB_E_TOKEN;

	if (token)
		rc = hub_access_authenticate(req->hub, token, &req->user, err);
	if (rc == HUB_E_TOKEN)
		return refuse_stranger(req, token != NULL, err);
	if (rc)
		return rc;
	snprintf(req->caller, sizeof(req->caller), "%.*s", (int)sizeof(req->caller) - 1,
		 req->user.user_name);
	return caller_may(req, route) ? 0 : refuse_user(req, route, err);
}

bool api_may_go_on(struct hub *hub, struct hub_caller *caller, const struct api_route *route,
		   const char *noun)
{
	int rc;

	if (!caller->token_id[0])
		return true;
	rc = hub_access_again(hub, caller, NULL);
	return rc ? rc != HUB_E_TOKEN : hub_caller_may(caller, role_of[route->role], noun);
}

/* --- the capture agent ------------------------------------------------------------------------ */

static int too_fast(struct api_request *req, const char *what, struct err *err)
{
	req->denied = true;
	req->unlisted = !hub_access_refusal(req->hub, req->out->peer);
	api_reply_header(req, "Retry-After", "1");
	return err_set(err, API_STATUS(429), "too many calls %s: wait a second", what);
}

int api_authorise(struct api_request *req, const struct api_route *route, struct err *err)
{
	if (route->role == API_PUBLIC)
		return 0;
	if (!req->out->for_agents || route->agents_too)
		return authorise_by_token(req, route, err);
	snprintf(req->caller, sizeof(req->caller), "(agent at %s)", req->out->peer);
	return 0;
}

static int refuse_agent(struct api_request *req, int rc, struct err *err)
{
	req->denied = true;
	if (hub_access_refusal(req->hub, req->out->peer))
		return rc;
	req->unlisted = true;
	api_reply_header(req, "Retry-After", "1");
	return err_set(err, API_STATUS(429),
		       "too many calls about backups that do not run come "
		       "from %s: wait a second",
		       req->out->peer);
}

/* All agents may come from one address, that of a tunnel's end. So what is limited is each call
 * about each backup, and what is refused: nobody can use up what a backup that runs needs without
 * knowing its id. */
int api_admit_agent(struct api_request *req, enum api_agent_object kind, const char *name,
		    bool *first, struct err *err)
{
	bool stranger = req->out->for_agents, in_time;
	char key[CATALOG_ID_SIZE + API_URI_MAX + 300];
	int rc;

	snprintf(key, sizeof(key), "%s %d %s %s", stranger ? req->out->peer : req->user.token_id,
		 kind, req->route->path, name);
	in_time = hub_access_agent_call(req->hub, key, first);
	if (!stranger)
		return 0;
	if (!in_time)
		return too_fast(req, "for this backup", err);
	rc = kind == API_AGENT_VM ? hub_access_agent_vm(req->hub, name, err)
				  : hub_access_agent_backup(req->hub, name, err);
	return rc == HUB_E_STATE || rc == HUB_E_NOT_FOUND ? refuse_agent(req, rc, err) : rc;
}

/* --- the record ------------------------------------------------------------------------------- */

/* Printable ASCII, whatever came. */
static void put_text(char *out, size_t size, const char *text, size_t len)
{
	size_t n = MIN(len, size - 1);

	for (size_t i = 0; i < n; i++)
		out[i] = text[i] >= ' ' && text[i] < 0x7f ? text[i] : '?';
	out[n] = '\0';
}

/* The id of what was made, when the answer tells one. */
static const char *answered_id(const struct api_request *req)
{
	static const char *const keys[] = {"id", "mount_id", "backup_id", "context_id",
					   "enrollment_id"};
	const char *id = NULL;

	for (size_t i = 0; !id && i < ARRAY_SIZE(keys); i++)
		id = json_string_value(json_object_get(req->answer, keys[i]));
	return id;
}

static void put_detail(struct catalog_audit *e, const struct api_request *req, int status,
		       const char *error)
{
	json_t *obj = json_pack("{s:i}", "status", status);
	const char *id = answered_id(req);
	unsigned unlisted = hub_access_unlisted(req->hub);
	size_t n;

	if (id)
		json_object_set_new(obj, "id", api_json_text(id));
	if (req->told)
		json_object_set_new(obj, "read", api_json_text(req->told));
	if (req->user.token_id[0])
		json_object_set_new(obj, "token", json_string(req->user.token_id));
	if (unlisted)
		json_object_set_new(obj, "refusals_not_listed", json_integer(unlisted));
	if (error[0])
		json_object_set_new(obj, "error", api_json_text(error));
	n = json_dumpb(obj, e->detail, sizeof(e->detail) - 1, JSON_COMPACT);
	if (n >= sizeof(e->detail)) {
		json_object_del(obj, "error");
		n = json_dumpb(obj, e->detail, sizeof(e->detail) - 1, JSON_COMPACT);
	}
	e->detail[n < sizeof(e->detail) ? n : 0] = '\0';
	json_decref(obj);
}

static const char *caller_of(const struct api_request *req)
{
	if (req->caller[0])
		return req->caller;
	return req->out->for_agents ? "(agent)" : "(nobody)";
}

static bool reads_only(const struct api_request *req)
{
	return !strcmp(req->method, "GET") || !strcmp(req->method, "HEAD");
}

static void put_who_and_what(struct catalog_audit *e, const struct api_request *req)
{
	char action[sizeof(e->action)];

	snprintf(e->user_name, sizeof(e->user_name), "%s", caller_of(req));
	snprintf(action, sizeof(action), "%.8s %.50s", req->method,
		 req->route ? req->route->path : "(no such path)");
	put_text(e->action, sizeof(e->action), action, strlen(action));
	put_text(e->object, sizeof(e->object), req->out->target, strcspn(req->out->target, "?"));
	snprintf(e->remote, sizeof(e->remote), "%s", req->out->peer);
}

/* What agents say of a backup is in its own story, in the transaction that does it. Strangers have
 * no disk to write to before it is known who they are. */
void api_audit_begin(struct api_request *req)
{
	struct catalog_audit e = {.id = 0};

	if (reads_only(req) || !req->caller[0] || req->route->role == API_AGENT)
		return;
	put_who_and_what(&e, req);
	req->pending = hub_audit_begin(req->hub, &e);
}

static bool is_told(const struct api_request *req, int status, bool denied)
{
	if (req->unlisted || (!denied && !req->told && (reads_only(req) || req->minor)))
		return false;
	/* The catalog could not say who it is: nothing was done, and it would not take this either.
	 */
	return denied || req->caller[0] || status < 500;
}

void api_audit(struct api_request *req, int status, const char *error)
{
	bool denied = req->denied || status == 401 || status == 403, added = true;
	struct catalog_audit e = {.outcome = denied	    ? CATALOG_AUDIT_DENIED
					     : status < 400 ? CATALOG_AUDIT_ALLOWED
							    : CATALOG_AUDIT_FAILED};

	if (is_told(req, status, denied)) {
		put_who_and_what(&e, req);
		put_detail(&e, req, status, error);
		added = hub_audit_add(req->hub, &e);
	}
	if (added)
		hub_audit_end(req->hub, req->pending);
	else
		hub_audit_keep(req->hub, req->pending, e.outcome, status);
}

void api_audit_stranger(struct api_request *req, int status)
{
	req->denied = true;
	req->unlisted = !hub_access_refusal(req->hub, req->out->peer);
	api_audit(req, status, "");
}
