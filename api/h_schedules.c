/* Schedules: backups at times of their own. */
#include <stdlib.h>
#include <string.h>

#include "api/json.h"
#include "api/routes.h"
#include "base/bytes.h"
#include "hub/schedules.h"

API_WORD_FN(catalog_backup_type_name, enum catalog_backup_type)

#define SCHEDULE struct catalog_schedule
static const struct api_json_member schedule_members[] = {
	API_TEXT(SCHEDULE, id),
	API_TEXT(SCHEDULE, name),
	API_BOOL(SCHEDULE, enabled),
	API_TEXT(SCHEDULE, policy_id),
	API_TEXT(SCHEDULE, vm_context_id, .what = "empty: all VMs that have the policy"),
	API_AS("backup_type", WORD, SCHEDULE, backup_type,
	       API_WORDS(catalog_backup_type_name_int, CATALOG_BACKUP_INCREMENTAL)),
	API_TEXT(SCHEDULE, cron_expression),
	API_TEXT(SCHEDULE, timezone),
	API_AS("next_run_at", TIME, SCHEDULE, next_run_at_us),
	API_AS("last_run_at", TIME, SCHEDULE, last_run_at_us),
	API_AS("created_at", TIME, SCHEDULE, created_at_us),
	API_AS("updated_at", TIME, SCHEDULE, updated_at_us),
};
static const struct api_shape schedule_shape = API_SHAPE("Schedule", schedule_members);

struct schedule_body {
	struct catalog_schedule row;
	char type[16];
};

#define BODY struct schedule_body
static const struct api_json_member create_members[] = {
	API_AS("name", TEXT, BODY, row.name, .required = true),
	API_AS("enabled", BOOL, BODY, row.enabled),
	API_AS("policy_id", TEXT, BODY, row.policy_id, .required = true),
	API_AS("vm_context_id", TEXT, BODY, row.vm_context_id,
	       .what = "left out: all VMs that have the policy"),
	API_AS("backup_type", TEXT, BODY, type, .one_of = "full|incremental"),
	API_AS("cron_expression", TEXT, BODY, row.cron_expression, .required = true,
	       .what = "minute, hour, day of month, month, day of week; or @daily and its like"),
	API_AS("timezone", TEXT, BODY, row.timezone, .what = "UTC, Europe/Berlin, ..."),
};
static const struct api_shape create_shape = API_SHAPE("ScheduleCreate", create_members);

static const struct api_json_member change_members[] = {
	API_AS("name", TEXT, BODY, row.name),
	API_AS("enabled", BOOL, BODY, row.enabled),
	API_AS("policy_id", TEXT, BODY, row.policy_id),
	API_AS("vm_context_id", TEXT, BODY, row.vm_context_id),
	API_AS("backup_type", TEXT, BODY, type, .one_of = "full|incremental"),
	API_AS("cron_expression", TEXT, BODY, row.cron_expression),
	API_AS("timezone", TEXT, BODY, row.timezone),
};
static const struct api_shape change_shape = API_SHAPE("ScheduleChange", change_members);

static int take_body(const struct api_request *req, const struct api_shape *shape, BODY *body,
		     struct err *err)
{
	int rc;

	strcpy(body->type, catalog_backup_type_name(body->row.backup_type));
	rc = api_json_decode(req->body, shape->members, shape->member_count, body, err);
	if (rc)
		return rc;
	if (!catalog_backup_type_parse(body->type, &body->row.backup_type) ||
	    body->row.backup_type == CATALOG_BACKUP_DIFFERENTIAL)
		return err_set(err, HUB_E_INVALID,
			       "backup_type must be \"full\" or \"incremental\", not \"%s\"",
			       body->type);
	return 0;
}

static int answer_schedule(struct api_request *req, const char *id, struct err *err)
{
	struct catalog_schedule row;
	int rc = catalog_schedule_get(hub_catalog(req->hub), id, &row, err);

	if (!rc)
		req->answer = api_json_encode(schedule_members, ARRAY_SIZE(schedule_members), &row);
	return hub_from_catalog(rc);
}

static int post_schedule(struct api_request *req, struct err *err)
{
	BODY body = {.row = {.enabled = true,
			     .backup_type = CATALOG_BACKUP_INCREMENTAL,
			     .timezone = "UTC"}};
	int rc = take_body(req, &create_shape, &body, err);

	if (!rc)
		rc = hub_schedule_create(req->hub, &body.row, err);
	return rc ? rc : answer_schedule(req, body.row.id, err);
}

static int get_schedules(struct api_request *req, struct err *err)
{
	_cleanup_(freep) struct catalog_schedule *rows = NULL;
	json_t *list;
	size_t n = 0;
	int rc = catalog_schedules_list(hub_catalog(req->hub),
					api_uri_query(&req->uri, "policy_id"), &rows, &n, err);

	if (rc)
		return hub_from_catalog(rc);
	list = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(
			list,
			api_json_encode(schedule_members, ARRAY_SIZE(schedule_members), &rows[i]));
	req->answer = json_pack("{s:o,s:I}", "schedules", list, "total", (json_int_t)n);
	return 0;
}

static int get_schedule(struct api_request *req, struct err *err)
{
	return answer_schedule(req, req->args[0], err);
}

static int patch_schedule(struct api_request *req, struct err *err)
{
	BODY body;
	int rc = hub_from_catalog(
		catalog_schedule_get(hub_catalog(req->hub), req->args[0], &body.row, err));

	if (!rc)
		rc = take_body(req, &change_shape, &body, err);
	if (!rc)
		rc = hub_schedule_update(req->hub, &body.row, err);
	return rc ? rc : answer_schedule(req, body.row.id, err);
}

static int post_run(struct api_request *req, struct err *err)
{
	int rc = hub_schedule_run_now(req->hub, req->args[0], err);

	return rc ? rc : answer_schedule(req, req->args[0], err);
}

static int delete_schedule(struct api_request *req, struct err *err)
{
	int rc =
		hub_from_catalog(catalog_schedule_delete(hub_catalog(req->hub), req->args[0], err));

	if (!rc)
		req->status = API_NO_CONTENT;
	return rc;
}

/* --- routes --------------------------------------------------------------------------------- */

static const struct api_json_member list_members[] = {
	API_LIST("schedules", &schedule_shape),
	API_BY_HAND("total", I64),
};
static const struct api_shape list_shape = API_SHAPE("ScheduleList", list_members);

#define ONE "/api/v1/schedules/{schedule_id}"

static const struct api_route schedule_routes[] = {
	API_ROUTE(POST, "/api/v1/schedules", post_schedule, OPERATOR,
		  "Back up a VM, or all VMs of a policy, at times", .takes = &create_shape,
		  .creates = true, .gives = &schedule_shape, .status = 201),
	API_ROUTE(GET, "/api/v1/schedules", get_schedules, VIEWER, "List schedules",
		  .query = API_PARAMS({"policy_id", API_JSON_TEXT, "of this policy"}),
		  .gives = &list_shape),
	API_ROUTE(GET, ONE, get_schedule, VIEWER, "One schedule", .gives = &schedule_shape),
	API_ROUTE(PATCH, ONE, patch_schedule, OPERATOR, "Change what is named of a schedule",
		  .takes = &change_shape, .gives = &schedule_shape),
	API_ROUTE(PUT, ONE, patch_schedule, OPERATOR, "The same as PATCH", .takes = &change_shape,
		  .gives = &schedule_shape),
	API_ROUTE(POST, ONE "/run", post_run, OPERATOR, "Run it now, whatever its time",
		  .creates = true, .gives = &schedule_shape, .status = 202),
	API_ROUTE(DELETE, ONE, delete_schedule, OPERATOR, "Delete a schedule",
		  .status = API_NO_CONTENT),
};
const struct api_noun api_schedules_noun =
	API_NOUN("Schedules", "Backups at times of their own.", schedule_routes);
