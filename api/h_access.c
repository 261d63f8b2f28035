/* Users, their tokens, and who the caller is. */
#include <stdlib.h>
#include <string.h>

#include "api/json.h"
#include "api/routes.h"
#include "base/bytes.h"
#include "hub/access.h"

#define EXPIRY_MAX_S (100LL * 366 * 24 * 3600)

API_WORD_FN(catalog_role_name, enum catalog_role)

#define ROLE_WORDS "viewer|operator|admin|agent"

/* --- users ------------------------------------------------------------------------------------ */

#define USER struct catalog_user
static const struct api_json_member user_members[] = {
	API_TEXT(USER, id),
	API_TEXT(USER, name),
	API_AS("role", WORD, USER, role, API_WORDS(catalog_role_name_int, CATALOG_ROLE_AGENT)),
	API_BOOL(USER, enabled, .what = "the tokens of a disabled user are worth nothing"),
	API_I64(USER, token_count, .what = "those not revoked"),
	API_AS("created_at", TIME, USER, created_at_us),
	API_AS("updated_at", TIME, USER, updated_at_us),
	API_AS("last_login_at", TIME, USER, last_login_at_us, .what = "to about ten minutes"),
};
static const struct api_shape user_shape = API_SHAPE("User", user_members);

static const struct api_json_member user_asked[] = {
	API_TEXT(USER, name, .required = true,
		 .what = "1 to 64 letters, digits and . _ @ -, beginning with a letter or digit"),
	API_BOOL(USER, enabled, .what = "true unless said"),
	API_BY_HAND("role", TEXT, .required = true, .one_of = ROLE_WORDS),
};
static const struct api_shape user_create_shape = API_SHAPE("UserCreate", user_asked);

static const struct api_json_member user_change[] = {
	API_BY_HAND("role", TEXT, .one_of = ROLE_WORDS),
	API_BY_HAND("enabled", BOOL),
};
static const struct api_shape user_change_shape = API_SHAPE("UserChange", user_change);

static const struct api_json_member user_list_members[] = {
	API_LIST("users", &user_shape),
	API_BY_HAND("total", I64),
};
static const struct api_shape user_list_shape = API_SHAPE("UserList", user_list_members);

static json_t *shape_user(const USER *user)
{
	return api_json_encode(user_members, ARRAY_SIZE(user_members), user);
}

/* Makes and changes who may do what: not with a token that was narrowed down, for it could be made
 * wide again. */
static int need_whole_token(const struct api_request *req, struct err *err)
{
	if (!strcmp(req->user.scopes, "[]"))
		return 0;
	return err_set(err, API_STATUS(403),
		       "a token with scopes makes and changes no users and no tokens");
}

static int take_role(const json_t *body, enum catalog_role *role, struct err *err)
{
	if (catalog_role_parse(json_string_value(json_object_get(body, "role")), role))
		return 0;
	return err_set(err, HUB_E_INVALID, "role must be one of viewer, operator, admin, agent");
}

static int post_user(struct api_request *req, struct err *err)
{
	USER user = {.enabled = true};
	int rc = need_whole_token(req, err);

	if (!rc)
		rc = api_json_decode(req->body, user_asked, ARRAY_SIZE(user_asked), &user, err);
	if (!rc)
		rc = take_role(req->body, &user.role, err);
	if (!rc)
		rc = hub_user_create(req->hub, &user, err);
	if (!rc)
		req->answer = shape_user(&user);
	return rc;
}

static int get_users(struct api_request *req, struct err *err)
{
	_cleanup_(freep) USER *rows = NULL;
	int64_t limit = 100, offset = 0, total = 0;
	json_t *list;
	size_t n = 0;
	int rc = api_query_int(req, "limit", 1, 1000, &limit, err);

	if (!rc)
		rc = api_query_int(req, "offset", 0, INT64_MAX, &offset, err);
	if (!rc)
		rc = hub_from_catalog(catalog_users_list(hub_catalog(req->hub), limit, offset,
							 &rows, &n, &total, err));
	if (rc)
		return rc;
	list = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, shape_user(&rows[i]));
	req->answer = json_pack("{s:o,s:I}", "users", list, "total", (json_int_t)total);
	return 0;
}

static int get_user(struct api_request *req, struct err *err)
{
	USER user;
	int rc =
		hub_from_catalog(catalog_user_get(hub_catalog(req->hub), req->args[0], &user, err));

	if (!rc)
		req->answer = shape_user(&user);
	return rc;
}

static int patch_user(struct api_request *req, struct err *err)
{
	const json_t *enabled = json_object_get(req->body, "enabled");
	const bool on = json_is_true(enabled);
	bool has_role = json_object_get(req->body, "role") != NULL;
	enum catalog_role role;
	USER user;
	int rc = need_whole_token(req, err);

	if (!rc && has_role)
		rc = take_role(req->body, &role, err);
	if (!rc && enabled && !json_is_boolean(enabled))
		rc = err_set(err, HUB_E_INVALID, "enabled must be true or false");
	if (!rc)
		rc = hub_user_update(req->hub, req->args[0], has_role ? &role : NULL,
				     enabled ? &on : NULL, &user, err);
	if (!rc)
		req->answer = shape_user(&user);
	return rc;
}

static const struct api_json_member deleted_members[] = {
	API_BY_HAND("id", TEXT),
	API_BY_HAND("status", TEXT, .one_of = "deleted"),
};
static const struct api_shape user_deleted_shape = API_SHAPE("UserDeleted", deleted_members);

static int delete_user(struct api_request *req, struct err *err)
{
	int rc = need_whole_token(req, err);

	if (!rc)
		rc = hub_user_delete(req->hub, req->args[0], err);
	if (!rc)
		req->answer = json_pack("{s:o,s:s}", "id", api_json_text(req->args[0]), "status",
					"deleted");
	return rc;
}

/* --- tokens ----------------------------------------------------------------------------------- */

#define TOKEN struct catalog_token
static const struct api_json_member token_members[] = {
	API_TEXT(TOKEN, id),
	API_TEXT(TOKEN, user_id),
	API_TEXT(TOKEN, user_name),
	API_TEXT(TOKEN, name, .what = "what it is for"),
	API_TEXTS("scopes", .what = "ROLE or ROLE:NOUN; none: all its user may do"),
	API_BY_HAND("state", TEXT, .one_of = "valid|expired|revoked|disabled",
		    .what = "disabled: its user is"),
	API_AS("created_at", TIME, TOKEN, created_at_us),
	API_AS("expires_at", TIME, TOKEN, expires_at_us, .what = "null: never"),
	API_AS("revoked_at", TIME, TOKEN, revoked_at_us),
	API_AS("last_used_at", TIME, TOKEN, last_used_at_us, .what = "to about ten minutes"),
	API_AS("session_of", TEXT, TOKEN, parent_id,
	       .what = "the token it was logged in to with; empty: it is no session"),
};
static const struct api_shape token_shape = API_SHAPE("Token", token_members);

static const struct api_json_member new_token_members[] = {
	API_BY_HAND("token", TEXT, .what = "its text, told this once"),
};
static const struct api_shape new_token_shape =
	API_SHAPE("TokenCreated", new_token_members, .base = &token_shape);

static const struct api_json_member token_asked[] = {
	API_TEXT(TOKEN, name, .required = true, .what = "what it is for"),
	API_TEXTS("scopes", .what = "ROLE or ROLE:NOUN, like \"viewer\" or \"operator:backups\""),
	API_BY_HAND("expires_in_s", I64, .what = "seconds from now; absent: never"),
};
static const struct api_shape token_create_shape = API_SHAPE("TokenCreate", token_asked);

static const struct api_json_member token_list_members[] = {
	API_LIST("tokens", &token_shape),
	API_BY_HAND("total", I64),
};
static const struct api_shape token_list_shape = API_SHAPE("TokenList", token_list_members);

static const char *state_of(const TOKEN *token)
{
	if (token->revoked_at_us || token->parent_revoked_at_us)
		return "revoked";
	if (token->expires_at_us && token->expires_at_us <= catalog_now_us())
		return "expired";
	return token->user_enabled ? "valid" : "disabled";
}

static json_t *shape_token(const TOKEN *token)
{
	json_t *obj = api_json_encode(token_members, ARRAY_SIZE(token_members), token);
	json_t *scopes = json_loads(token->scopes, 0, NULL);

	json_object_set_new(obj, "scopes", scopes ? scopes : json_array());
	json_object_set_new(obj, "state", json_string(state_of(token)));
	return obj;
}

static int take_scopes(const json_t *body, TOKEN *token, struct err *err)
{
	const json_t *scopes = json_object_get(body, "scopes");
	size_t n;

	if (!scopes || json_is_null(scopes))
		return 0;
	if (!json_is_array(scopes))
		return err_set(err, HUB_E_INVALID, "scopes must be a list of texts");
	n = json_dumpb(scopes, token->scopes, sizeof(token->scopes) - 1, JSON_COMPACT);
	if (!n || n >= sizeof(token->scopes))
		return err_set(err, HUB_E_INVALID, "scopes are larger than %zu bytes",
			       sizeof(token->scopes) - 1);
	token->scopes[n] = '\0';
	return 0;
}

static int take_expiry(const json_t *body, TOKEN *token, struct err *err)
{
	const json_t *in = json_object_get(body, "expires_in_s");
	json_int_t s = json_integer_value(in);

	if (!in || json_is_null(in))
		return 0;
	if (!json_is_integer(in) || s < 1 || s > EXPIRY_MAX_S)
		return err_set(err, HUB_E_INVALID, "expires_in_s must be between 1 and %lld",
			       EXPIRY_MAX_S);
	token->expires_at_us = catalog_now_us() + s * 1000000;
	return 0;
}

static int post_token(struct api_request *req, struct err *err)
{
	char text[HUB_TOKEN_SIZE] = "";
	TOKEN token = {.name = ""};
	int rc = need_whole_token(req, err);

	if (!rc)
		rc = api_json_decode(req->body, token_asked, ARRAY_SIZE(token_asked), &token, err);
	if (!rc)
		rc = take_scopes(req->body, &token, err);
	if (!rc)
		rc = take_expiry(req->body, &token, err);
	if (!rc && !CATALOG_TEXT(token.user_id, req->args[0]))
		rc = err_set(err, HUB_E_NOT_FOUND, "there is no such user");
	if (!rc)
		rc = hub_token_create(req->hub, &token, text, err);
	if (rc)
		return rc;
	req->answer = shape_token(&token);
	json_object_set_new(req->answer, "token", json_string(text));
	explicit_bzero(text, sizeof(text));
	return 0;
}

static int get_tokens(struct api_request *req, struct err *err)
{
	struct catalog *cat = hub_catalog(req->hub);
	_cleanup_(freep) TOKEN *rows = NULL;
	json_t *list;
	size_t n = 0;
	USER user;
	int rc = hub_from_catalog(catalog_user_get(cat, req->args[0], &user, err));

	if (!rc)
		rc = hub_from_catalog(catalog_tokens_list(cat, user.id, &rows, &n, err));
	if (rc)
		return rc;
	list = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, shape_token(&rows[i]));
	req->answer = json_pack("{s:o,s:I}", "tokens", list, "total", (json_int_t)n);
	return 0;
}

static int delete_token(struct api_request *req, struct err *err)
{
	TOKEN token;
	int rc = need_whole_token(req, err);

	if (!rc)
		rc = hub_token_revoke(req->hub, req->args[0], err);
	if (!rc)
		rc = hub_from_catalog(
			catalog_token_get(hub_catalog(req->hub), req->args[0], &token, err));
	if (!rc)
		req->answer = shape_token(&token);
	return rc;
}

/* --- the caller ------------------------------------------------------------------------------- */

#define CALLER struct hub_caller
static const struct api_json_member caller_members[] = {
	API_TEXT(CALLER, user_id),
	API_TEXT(CALLER, user_name),
	API_AS("role", WORD, CALLER, role, API_WORDS(catalog_role_name_int, CATALOG_ROLE_AGENT)),
	API_TEXT(CALLER, token_id),
	API_TEXT(CALLER, token_name),
	API_TEXTS("scopes"),
	API_AS("expires_at", TIME, CALLER, expires_at_us, .what = "null: never"),
};
static const struct api_shape caller_shape = API_SHAPE("Caller", caller_members);

static int get_whoami(struct api_request *req, struct err *err)
{
	json_t *scopes = json_loads(req->user.scopes, 0, NULL);

	(void)err;
	req->answer = api_json_encode(caller_members, ARRAY_SIZE(caller_members), &req->user);
	json_object_set_new(req->answer, "scopes", scopes ? scopes : json_array());
	return 0;
}

/* --- routes ----------------------------------------------------------------------------------- */

static const struct api_route access_routes[] = {
	API_ROUTE(GET, "/api/v1/auth/whoami", get_whoami, VIEWER,
		  "Whose token this is, and what it is good for", .gives = &caller_shape),
	API_ROUTE(POST, "/api/v1/users", post_user, ADMIN, "Create a user", .creates = true,
		  .takes = &user_create_shape, .gives = &user_shape, .status = 201),
	API_ROUTE(GET, "/api/v1/users", get_users, ADMIN, "List users, by name",
		  .query = API_PARAMS({"limit", API_JSON_INT, "100 unless said, at most 1000"},
				      {"offset", API_JSON_I64, "how many to leave out"}),
		  .gives = &user_list_shape),
	API_ROUTE(GET, "/api/v1/users/{user_id}", get_user, ADMIN, "One user",
		  .gives = &user_shape),
	API_ROUTE(PATCH, "/api/v1/users/{user_id}", patch_user, ADMIN,
		  "Disable or enable a user, or give another role", .takes = &user_change_shape,
		  .gives = &user_shape,
		  .details = "The last enabled administrator stays one: 409."),
	API_ROUTE(DELETE, "/api/v1/users/{user_id}", delete_user, ADMIN,
		  "Delete a user and all its tokens", .gives = &user_deleted_shape),
	API_ROUTE(POST, "/api/v1/users/{user_id}/tokens", post_token, ADMIN,
		  "Create a token: its text is in this answer and never told again",
		  .takes = &token_create_shape, .gives = &new_token_shape, .status = 201),
	API_ROUTE(GET, "/api/v1/users/{user_id}/tokens", get_tokens, ADMIN,
		  "A user's tokens, revoked and expired ones as well", .gives = &token_list_shape),
	API_ROUTE(DELETE, "/api/v1/tokens/{token_id}", delete_token, ADMIN,
		  "Revoke a token, from now on", .gives = &token_shape),
};
const struct api_noun api_access_noun =
	API_NOUN("Access", "Users, their tokens, and who the caller is.", access_routes);
