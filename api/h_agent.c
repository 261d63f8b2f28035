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

API_WORD_FN(catalog_job_status_name, enum catalog_job_status)

static int get_change_id(struct api_request *req, struct err *err)
{
	const char *vm_name = api_uri_query(&req->uri, "vm_name");
	struct hub_change_id answer;
	int64_t disk = 0;
	char number[24];
	bool first;
	int rc = api_query_int(req, "disk_id", 0, INT32_MAX, &disk, err);

	if (!rc && !vm_name[0])
		rc = err_set(err, HUB_E_INVALID, "vm_name is missing");
	if (!rc)
		rc = api_admit_agent(req, API_AGENT_VM, vm_name, &first, err);
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
	API_INT(struct complete_body, disk_id, .what = "may be missing if the VM has one disk"),
	API_BY_HAND("bytes_transferred", I64, .what = "ignored: the hub counts"),
};

static int post_complete(struct api_request *req, struct err *err)
{
	struct complete_body body = {.disk_id = CATALOG_NONE};
	struct catalog_completed done;
	bool first;
	int rc = api_admit_agent(req, API_AGENT_BACKUP, req->args[0], &first, err);

	if (!rc)
		rc = api_json_decode(req->body, complete_members, ARRAY_SIZE(complete_members),
				     &body, err);
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
static int post_telemetry(struct api_request *req, struct err *err)
{
	const char *phase = json_string_value(json_object_get(req->body, "current_phase"));
	const json_t *total = json_object_get(req->body, "total_bytes");
	struct hub_telemetry t = {.total_bytes = json_integer_value(total)};
	bool first;
	int rc = api_admit_agent(req, API_AGENT_BACKUP, req->args[0], &first, err);

	if (phase)
		snprintf(t.current_phase, sizeof(t.current_phase), "%s", phase);
	if (!rc)
		rc = hub_backup_telemetry(req->hub, req->args[0], &t, err);
	/* One every few seconds: that an agent is there is worth an entry, not that it still is. */
	req->minor = !first;
	if (!rc)
		req->answer = json_pack("{s:s}", "status", "ok");
	return rc;
}

/* --- routes --------------------------------------------------------------------------------- */

static const struct api_json_member change_id_members[] = {
	API_BY_HAND("vm_name", TEXT),
	API_BY_HAND("disk_id", TEXT, .what = "a number in a string"),
	API_BY_HAND("change_id", TEXT, .what = "empty: copy in full"),
	API_BY_HAND("message", TEXT),
};
static const struct api_shape change_id_shape = API_SHAPE("ChangeId", change_id_members);

static const struct api_shape complete_shape = API_SHAPE("Complete", complete_members);

static const struct api_json_member completed_members[] = {
	API_BY_HAND("status", TEXT, .one_of = "completed"),
	API_BY_HAND("backup_id", TEXT),
	API_BY_HAND("disk_id", INT, .nullable = true),
	API_BY_HAND("change_id", TEXT),
	API_BY_HAND("backup_status", WORD,
		    API_WORDS(catalog_job_status_name_int, CATALOG_JOB_CANCELLED)),
	API_BY_HAND("already", BOOL, .what = "it was completed before, with this change id"),
};
static const struct api_shape completed_shape = API_SHAPE("Completed", completed_members);

static const struct api_json_member telemetry_members[] = {
	API_BY_HAND("current_phase", ANY, .what = "a text"),
	API_BY_HAND("total_bytes", ANY, .what = "a number"),
};
static const struct api_shape telemetry_shape = API_SHAPE("Telemetry", telemetry_members);

static const struct api_json_member taken_members[] = {
	API_BY_HAND("status", TEXT, .one_of = "ok"),
};
static const struct api_shape taken_shape = API_SHAPE("TelemetryTaken", taken_members);

static const struct api_route agent_routes[] = {
	API_ROUTE(GET, "/api/v1/backups/changeid", get_change_id, AGENT,
		  "The change id from which a disk's changes are to be copied",
		  .query =
			  API_PARAMS({"vm_name", API_JSON_TEXT, "the VM's name", .required = true},
				     {"disk_id", API_JSON_INT, "index of the disk; 0 unless said"}),
		  .gives = &change_id_shape),
	API_ROUTE(POST, "/api/v1/backups/{backup_id}/complete", post_complete, AGENT,
		  "All of a disk was sent: make it durable and commit it", .takes = &complete_shape,
		  .gives = &completed_shape),
	API_ROUTE(POST, "/api/v1/telemetry/backup/{backup_id}", post_telemetry, AGENT,
		  "A sign of life; no state changes by it", .takes = &telemetry_shape,
		  .gives = &taken_shape),
};
const struct api_noun api_agent_noun =
	API_NOUN("Capture agent", "What the capture agent calls while it copies.", agent_routes);
