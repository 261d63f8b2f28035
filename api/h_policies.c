/* Policies: where backups go, how long they are kept, where they are copied to. */
#include <stdlib.h>
#include <string.h>

#include "api/json.h"
#include "api/routes.h"
#include "base/bytes.h"
#include "catalog/policies.h"

API_WORD_FN(catalog_copy_mode_name, enum catalog_copy_mode)

#define DEFAULT_KEEP_DAYS 30

#define RULE struct catalog_copy_rule
static const struct api_json_member rule_members[] = {
	API_TEXT(RULE, id),
	API_AS("destination_repository_id", TEXT, RULE, repository_id),
	API_AS("copy_mode", WORD, RULE, copy_mode,
	       API_WORDS(catalog_copy_mode_name_int, CATALOG_COPY_MANUAL)),
	API_INT(RULE, priority, .what = "1 goes first"),
	API_BOOL(RULE, enabled),
	API_BOOL(RULE, verify_after_copy),
};
static const struct api_shape rule_shape = API_SHAPE("CopyRule", rule_members);

#define POLICY struct catalog_policy
static const struct api_json_member policy_members[] = {
	API_TEXT(POLICY, id),
	API_TEXT(POLICY, name),
	API_BOOL(POLICY, enabled),
	API_TEXT(POLICY, primary_repository_id),
	API_AS("retention_days", I64, POLICY, keep_days, .what = "the same as keep_days"),
	API_I64(POLICY, keep_days, .what = "all points of so many days; 0: not for this reason"),
	API_I64(POLICY, keep_last, .what = "so many of the newest points"),
	API_I64(POLICY, keep_daily, .what = "the newest point of each of so many days"),
	API_I64(POLICY, keep_weekly),
	API_I64(POLICY, keep_monthly),
	API_I64(POLICY, keep_yearly),
	API_I64(POLICY, vm_count, .what = "VM contexts that have it"),
	API_I64(POLICY, schedule_count),
	API_AS("created_at", TIME, POLICY, created_at_us),
	API_AS("updated_at", TIME, POLICY, updated_at_us),
	API_LIST("copy_rules", &rule_shape),
};
static const struct api_shape policy_shape = API_SHAPE("Policy", policy_members);

/* --- what comes in -------------------------------------------------------------------------- */

struct rule_body {
	struct catalog_copy_rule row;
	char mode[16];
};

#define RULE_BODY struct rule_body
static const struct api_json_member rule_asked[] = {
	API_AS("destination_repository_id", TEXT, RULE_BODY, row.repository_id, .required = true),
	API_AS("copy_mode", TEXT, RULE_BODY, mode, .one_of = "immediate|scheduled|manual"),
	API_AS("priority", INT, RULE_BODY, row.priority),
	API_AS("enabled", BOOL, RULE_BODY, row.enabled),
	API_AS("verify_after_copy", BOOL, RULE_BODY, row.verify_after_copy),
};
static const struct api_shape rule_asked_shape = API_SHAPE("CopyRuleWrite", rule_asked);

static const struct api_json_member create_members[] = {
	API_TEXT(POLICY, name, .required = true),
	API_BOOL(POLICY, enabled),
	API_TEXT(POLICY, primary_repository_id, .required = true),
	API_AS("retention_days", I64, POLICY, keep_days, .what = "the same as keep_days"),
	API_I64(POLICY, keep_days, .what = "30, when no keep number is given"),
	API_I64(POLICY, keep_last),
	API_I64(POLICY, keep_daily),
	API_I64(POLICY, keep_weekly),
	API_I64(POLICY, keep_monthly),
	API_I64(POLICY, keep_yearly),
	API_LIST("copy_rules", &rule_asked_shape),
};
static const struct api_shape create_shape = API_SHAPE("PolicyCreate", create_members);

static const struct api_json_member change_members[] = {
	API_TEXT(POLICY, name),
	API_BOOL(POLICY, enabled),
	API_TEXT(POLICY, primary_repository_id),
	API_AS("retention_days", I64, POLICY, keep_days, .what = "the same as keep_days"),
	API_I64(POLICY, keep_days),
	API_I64(POLICY, keep_last),
	API_I64(POLICY, keep_daily),
	API_I64(POLICY, keep_weekly),
	API_I64(POLICY, keep_monthly),
	API_I64(POLICY, keep_yearly),
	API_LIST("copy_rules", &rule_asked_shape, .what = "all of them; those left out go"),
};
static const struct api_shape change_shape = API_SHAPE("PolicyChange", change_members);

static bool names_a_keep(const json_t *body)
{
	static const char *const words[] = {"retention_days", "keep_days",   "keep_last",
					    "keep_daily",     "keep_weekly", "keep_monthly",
					    "keep_yearly"};

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (json_is_integer(json_object_get(body, words[i])))
			return true;
	return false;
}

static int take_rule(const json_t *from, struct catalog_copy_rule *to, struct err *err)
{
	RULE_BODY body = {.row = {.enabled = true, .verify_after_copy = true, .priority = 1},
			  .mode = "immediate"};
	int rc;

	if (!json_is_object(from))
		return err_set(err, HUB_E_INVALID, "copy_rules must hold JSON objects");
	rc = api_json_decode(from, rule_asked, ARRAY_SIZE(rule_asked), &body, err);
	if (!rc && !catalog_copy_mode_parse(body.mode, &body.row.copy_mode))
		rc = err_set(err, HUB_E_INVALID,
			     "copy_mode must be immediate, scheduled or manual, not \"%s\"",
			     body.mode);
	*to = body.row;
	return rc;
}

/* *@given is false when the body says nothing of rules. */
static int take_rules(const json_t *body, struct catalog_copy_rule *rules, size_t *n, bool *given,
		      struct err *err)
{
	const json_t *list = json_object_get(body, "copy_rules");
	int rc = 0;

	*n = json_array_size(list);
	*given = list && !json_is_null(list);
	if (*given && !json_is_array(list))
		return err_set(err, HUB_E_INVALID, "copy_rules must be a list");
	if (*n > CATALOG_COPY_RULES_MAX)
		return err_set(err, HUB_E_INVALID, "a policy has at most %d copy rules",
			       CATALOG_COPY_RULES_MAX);
	for (size_t i = 0; !rc && i < *n; i++)
		rc = take_rule(json_array_get(list, i), &rules[i], err);
	return rc;
}

/* --- answers -------------------------------------------------------------------------------- */

/* With those of @rules (all policies', perhaps) that are its own. */
static json_t *shape_policy(const struct catalog_policy *row, const struct catalog_copy_rule *rules,
			    size_t n)
{
	json_t *obj = api_json_encode(policy_members, ARRAY_SIZE(policy_members), row);
	json_t *list = json_array();

	for (size_t i = 0; i < n; i++)
		if (!strcmp(rules[i].policy_id, row->id))
			json_array_append_new(
				list,
				api_json_encode(rule_members, ARRAY_SIZE(rule_members), &rules[i]));
	json_object_set_new(obj, "copy_rules", list);
	return obj;
}

static int answer_policy(struct api_request *req, const char *id, struct err *err)
{
	_cleanup_(freep) struct catalog_copy_rule *rules = NULL;
	struct catalog *cat = hub_catalog(req->hub);
	struct catalog_policy row;
	size_t n = 0;
	int rc = catalog_policy_get(cat, id, &row, err);

	if (!rc)
		rc = catalog_copy_rules_list(cat, id, &rules, &n, err);
	if (!rc)
		req->answer = shape_policy(&row, rules, n);
	return hub_from_catalog(rc);
}

/* --- handlers ------------------------------------------------------------------------------- */

static int post_policy(struct api_request *req, struct err *err)
{
	struct catalog_copy_rule rules[CATALOG_COPY_RULES_MAX];
	struct catalog_policy row = {.enabled = true};
	bool given;
	size_t n;
	int rc = api_json_decode(req->body, create_members, ARRAY_SIZE(create_members), &row, err);

	if (!rc && !names_a_keep(req->body))
		row.keep_days = DEFAULT_KEEP_DAYS;
	if (!rc)
		rc = take_rules(req->body, rules, &n, &given, err);
	if (!rc)
		rc = hub_from_catalog(
			catalog_policy_create(hub_catalog(req->hub), &row, rules, n, err));
	return rc ? rc : answer_policy(req, row.id, err);
}

static int get_policies(struct api_request *req, struct err *err)
{
	_cleanup_(freep) struct catalog_copy_rule *rules = NULL;
	_cleanup_(freep) struct catalog_policy *rows = NULL;
	size_t n = 0, n_rules = 0;
	json_t *list;
	int rc = catalog_policies_list(hub_catalog(req->hub), &rows, &n, err);

	if (!rc)
		rc = catalog_copy_rules_list(hub_catalog(req->hub), NULL, &rules, &n_rules, err);
	if (rc)
		return hub_from_catalog(rc);
	list = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, shape_policy(&rows[i], rules, n_rules));
	req->answer = json_pack("{s:o,s:I}", "policies", list, "total", (json_int_t)n);
	return 0;
}

static int get_policy(struct api_request *req, struct err *err)
{
	return answer_policy(req, req->args[0], err);
}

static int patch_policy(struct api_request *req, struct err *err)
{
	struct catalog_copy_rule rules[CATALOG_COPY_RULES_MAX];
	struct catalog *cat = hub_catalog(req->hub);
	struct catalog_policy row;
	bool given = false;
	size_t n = 0;
	int rc = hub_from_catalog(catalog_policy_get(cat, req->args[0], &row, err));

	if (!rc)
		rc = api_json_decode(req->body, change_members, ARRAY_SIZE(change_members), &row,
				     err);
	if (!rc)
		rc = take_rules(req->body, rules, &n, &given, err);
	if (!rc)
		rc = hub_from_catalog(
			catalog_policy_update(cat, &row, given ? rules : NULL, n, err));
	return rc ? rc : answer_policy(req, row.id, err);
}

static int delete_policy(struct api_request *req, struct err *err)
{
	int rc = hub_from_catalog(catalog_policy_delete(hub_catalog(req->hub), req->args[0], err));

	if (!rc)
		req->status = API_NO_CONTENT;
	return rc;
}

/* --- routes --------------------------------------------------------------------------------- */

static const struct api_json_member list_members[] = {
	API_LIST("policies", &policy_shape),
	API_BY_HAND("total", I64),
};
static const struct api_shape list_shape = API_SHAPE("PolicyList", list_members);

#define ONE "/api/v1/policies/{policy_id}"

static const struct api_route policy_routes[] = {
	API_ROUTE(POST, "/api/v1/policies", post_policy, ADMIN, "Create a policy", .creates = true,
		  .takes = &create_shape, .gives = &policy_shape, .status = 201),
	API_ROUTE(GET, "/api/v1/policies", get_policies, VIEWER, "List policies",
		  .gives = &list_shape),
	API_ROUTE(GET, ONE, get_policy, VIEWER, "One policy", .gives = &policy_shape),
	API_ROUTE(PATCH, ONE, patch_policy, ADMIN, "Change what is named of a policy",
		  .takes = &change_shape, .gives = &policy_shape),
	API_ROUTE(PUT, ONE, patch_policy, ADMIN, "The same as PATCH", .takes = &change_shape,
		  .gives = &policy_shape),
	API_ROUTE(DELETE, ONE, delete_policy, ADMIN,
		  "Delete a policy that no VM and no schedule has", .status = API_NO_CONTENT),
};
const struct api_noun api_policies_noun =
	API_NOUN("Policies", "Where backups go, how long they are kept, where they are copied to.",
		 policy_routes);
