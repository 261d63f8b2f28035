/* The audit log: read it, and check that it is whole. */
#include <errno.h>
#include <stdlib.h>

#include "api/json.h"
#include "api/routes.h"
#include "base/bytes.h"
#include "hub/audit.h"

API_WORD_FN(catalog_audit_outcome_name, enum catalog_audit_outcome)

#define ENTRY struct catalog_audit
static const struct api_json_member entry_members[] = {
	API_I64(ENTRY, id),
	API_AS("created_at", TIME, ENTRY, created_at_us),
	API_TEXT(ENTRY, user_name, .what = "a user, or in brackets what else it was"),
	API_TEXT(ENTRY, action, .what = "method and route"),
	API_TEXT(ENTRY, object, .what = "the path that was asked for"),
	API_AS("outcome", WORD, ENTRY, outcome,
	       API_WORDS(catalog_audit_outcome_name_int, CATALOG_AUDIT_FAILED)),
	API_TEXT(ENTRY, remote, .what = "the address it came from"),
	API_AS("detail", RAW, ENTRY, detail),
	API_TEXT(ENTRY, previous_hash),
	API_TEXT(ENTRY, entry_hash),
};
static const struct api_shape entry_shape = API_SHAPE("AuditEntry", entry_members);

static const struct api_json_member list_members[] = {
	API_LIST("entries", &entry_shape),
	API_BY_HAND("total", I64),
};
static const struct api_shape list_shape = API_SHAPE("AuditList", list_members);

static const char *asked(const struct api_request *req, const char *name)
{
	return api_uri_query(&req->uri, name);
}

static int list_audit(struct api_request *req, const char *action_like, struct err *err)
{
	struct catalog_audit_filter filter = {
		.action_like = action_like,
		.user_name = asked(req, "user_name"),
		.object = asked(req, "object"),
		.outcome = asked(req, "outcome"),
		.limit = 100,
	};
	_cleanup_(freep) ENTRY *rows = NULL;
	enum catalog_audit_outcome outcome;
	int64_t total = 0;
	json_t *list;
	size_t n = 0;
	int rc = api_query_int(req, "limit", 1, 1000, &filter.limit, err);

	if (!rc)
		rc = api_query_int(req, "offset", 0, INT64_MAX, &filter.offset, err);
	if (!rc && filter.outcome[0] && !catalog_audit_outcome_parse(filter.outcome, &outcome))
		rc = err_set(err, HUB_E_INVALID, "outcome must be allowed, denied or failed");
	if (!rc)
		rc = hub_from_catalog(
			catalog_audit_list(hub_catalog(req->hub), &filter, &rows, &n, &total, err));
	if (rc)
		return rc;
	list = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(
			list, api_json_encode(entry_members, ARRAY_SIZE(entry_members), &rows[i]));
	req->answer = json_pack("{s:o,s:I}", "entries", list, "total", (json_int_t)total);
	return 0;
}

static int get_audit(struct api_request *req, struct err *err)
{
	return list_audit(req, NULL, err);
}

/* Under the path where an administrator of appliances looks for it. */
static int get_appliance_audit(struct api_request *req, struct err *err)
{
	return list_audit(req, "% /api/v1/%vma/%", err);
}

/* --- verify ----------------------------------------------------------------------------------- */

static const struct api_json_member finding_members[] = {
	API_BY_HAND("id", I64, .what = "the entry it is about"),
	API_BY_HAND("problem", TEXT),
};
static const struct api_shape finding_shape = API_SHAPE("AuditFinding", finding_members);

static const struct api_json_member report_members[] = {
	API_BY_HAND("ok", BOOL),
	API_BY_HAND("entries", I64),
	API_BY_HAND("last_id", I64),
	API_BY_HAND("last_hash", TEXT),
	API_BY_HAND("finding_count", I64),
	API_LIST("findings", &finding_shape, .what = "at most the first hundred"),
};
static const struct api_shape report_shape = API_SHAPE("AuditReport", report_members);

static json_t *shape_findings(const struct catalog_audit_report *report)
{
	json_t *list = json_array();

	for (int64_t i = 0; i < report->finding_count && i < CATALOG_AUDIT_FINDINGS_MAX; i++)
		json_array_append_new(list, json_pack("{s:I,s:o}", "id",
						      (json_int_t)report->findings[i].id, "problem",
						      api_json_text(report->findings[i].problem)));
	return list;
}

static int get_verify(struct api_request *req, struct err *err)
{
	_cleanup_(freep) struct catalog_audit_report *report = calloc(1, sizeof(*report));
	int rc = report ? hub_audit_verify(req->hub, report, err)
			: err_sys(err, -ENOMEM, "audit report");

	if (rc)
		return rc;
	req->answer =
		json_pack("{s:b,s:I,s:I,s:o,s:I,s:o}", "ok", report->finding_count == 0, "entries",
			  (json_int_t)report->entries, "last_id", (json_int_t)report->last_id,
			  "last_hash", api_json_text(report->last_hash), "finding_count",
			  (json_int_t)report->finding_count, "findings", shape_findings(report));
	return 0;
}

/* --- routes ----------------------------------------------------------------------------------- */

static const struct api_param list_params[] = {
	{"user_name", API_JSON_TEXT, "of this user alone"},
	{"object", API_JSON_TEXT, "of this path alone"},
	{"outcome", API_JSON_TEXT, "of this outcome alone", "allowed|denied|failed"},
	{"limit", API_JSON_INT, "100 unless said, at most 1000"},
	{"offset", API_JSON_I64, "how many to leave out"},
	{.name = NULL},
};

static const struct api_route audit_routes[] = {
	API_ROUTE(GET, "/api/v1/audit", get_audit, ADMIN, "What was done and refused, newest first",
		  .query = list_params, .gives = &list_shape),
	API_ROUTE(GET, "/api/v1/admin/vma/audit", get_appliance_audit, ADMIN,
		  "The same, of the enrollment of capture appliances", .query = list_params,
		  .gives = &list_shape),
	API_ROUTE(GET, "/api/v1/audit/verify", get_verify, ADMIN,
		  "Is the log whole? Names each entry that was changed, removed or moved",
		  .gives = &report_shape),
};
const struct api_noun api_audit_noun =
	API_NOUN("Audit", "What was done, and what was refused.", audit_routes);
