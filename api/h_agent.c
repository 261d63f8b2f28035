/*
 * What the capture agent calls while it copies (agent contract 1.4). Its expectations are exact: a
 * flat object of strings for the change id question, status 200 and no other for `complete`.
 */
#include <stdio.h>
#include <string.h>

#include "api/json.h"
#include "api/routes.h"
#include "base/bytes.h"
#include "hub/backup.h"

int api_get_change_id(struct api_request *req, struct err *err)
{
	const char *vm_name = api_uri_query(&req->uri, "vm_name");
	struct hub_change_id answer;
	int64_t disk = 0;
	char number[24];
	int rc = api_query_int(req, "disk_id", 0, INT32_MAX, &disk, err);

	if (!rc && !vm_name[0])
		rc = err_set(err, HUB_E_INVALID, "vm_name is missing");
	if (!rc)
		rc = hub_backup_change_id(req->hub, vm_name, (int)disk, &answer, err);
	if (rc)
		return rc;
	snprintf(number, sizeof(number), "%lld", (long long)disk);
	req->answer = json_pack("{s:o,s:s,s:o,s:s}", "vm_name", api_json_text(vm_name), "disk_id",
				number, "change_id", api_json_text(answer.change_id), "message",
				answer.change_id[0] ? "Previous change_id found"
						    : "No previous backup found");
	return 0;
}

struct complete_body {
	char change_id[CATALOG_CHANGE_ID_SIZE];
	int disk_id;
};

static const struct api_json_member complete_members[] = {
	API_TEXT(struct complete_body, change_id, .required = true),
	API_INT(struct complete_body, disk_id),
};

int api_post_complete(struct api_request *req, struct err *err)
{
	struct complete_body body = {.disk_id = CATALOG_NONE};
	struct catalog_completed done;
	int rc = api_json_decode(req->body, complete_members, ARRAY_SIZE(complete_members), &body,
				 err);

	if (!rc && body.disk_id < 0 && json_is_integer(json_object_get(req->body, "disk_id")))
		rc = err_set(err, HUB_E_INVALID, "disk_id must not be negative");
	if (!rc)
		rc = hub_backup_complete(req->hub, req->args[0], body.disk_id, body.change_id,
					 &done, err);
	if (rc)
		return rc;
	req->answer =
		json_pack("{s:s,s:o,s:o,s:o,s:s,s:b}", "status", "completed", "backup_id",
			  api_json_text(req->args[0]), "disk_id",
			  body.disk_id == CATALOG_NONE ? json_null() : json_integer(body.disk_id),
			  "change_id", api_json_text(body.change_id), "backup_status",
			  catalog_job_status_name(done.job_status), "already", done.already);
	return 0;
}

/* Bounded by the members' sizes; what is longer or of another type is not worth an error to a
 * peer that could do nothing about it. */
int api_post_telemetry(struct api_request *req, struct err *err)
{
	const char *phase = json_string_value(json_object_get(req->body, "current_phase"));
	const json_t *total = json_object_get(req->body, "total_bytes");
	struct hub_telemetry t = {.total_bytes = json_integer_value(total)};
	int rc;

	if (phase)
		snprintf(t.current_phase, sizeof(t.current_phase), "%s", phase);
	rc = hub_backup_telemetry(req->hub, req->args[0], &t, err);
	if (!rc)
		req->answer = json_pack("{s:s}", "status", "ok");
	return rc;
}
