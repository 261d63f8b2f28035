/* Replications: jobs of an engine beside the hub, and what the agent asks while it copies for them
 * (agent contract 1.4, 4 and 5). */
#include <stdlib.h>
#include <string.h>

#include "api/json.h"
#include "api/routes.h"
#include "base/bytes.h"
#include "hub/replications.h"

API_WORD_FN(catalog_replication_type_name, enum catalog_replication_type)
API_WORD_FN(catalog_job_status_name, enum catalog_job_status)

#define JOB struct catalog_replication
static const struct api_json_member job_members[] = {
	API_TEXT(JOB, id),
	API_TEXT(JOB, vm_context_id),
	API_TEXT(JOB, vm_name),
	API_TEXT(JOB, vm_path),
	API_AS("replication_type", WORD, JOB, type,
	       API_WORDS(catalog_replication_type_name_int, CATALOG_REPLICATION_INCREMENTAL)),
	API_AS("status", WORD, JOB, status,
	       API_WORDS(catalog_job_status_name_int, CATALOG_JOB_CANCELLED)),
	API_TEXT(JOB, error_message),
	API_I64(JOB, disk_count, .what = "rows of vm_disks that are lent to it"),
	API_AS("created_at", TIME, JOB, created_at_us),
	API_AS("updated_at", TIME, JOB, updated_at_us),
	API_AS("completed_at", TIME, JOB, completed_at_us),
};
static const struct api_shape job_shape = API_SHAPE("Replication", job_members);

struct create_body {
	char vm_name[CATALOG_NAME_SIZE];
	char vm_context_id[CATALOG_ID_SIZE];
	char replication_type[16];
};

static const struct api_json_member create_members[] = {
	API_TEXT(struct create_body, vm_name),
	API_TEXT(struct create_body, vm_context_id),
	API_TEXT(struct create_body, replication_type, .one_of = "initial|incremental"),
};
static const struct api_shape create_shape = API_SHAPE("ReplicationCreate", create_members);

static json_t *shape_job(const struct catalog_replication *row)
{
	return api_json_encode(job_members, ARRAY_SIZE(job_members), row);
}

static int post_replication(struct api_request *req, struct err *err)
{
	struct create_body body = {.replication_type = "initial"};
	enum catalog_replication_type type;
	struct catalog_replication row;
	int rc = api_json_decode(req->body, create_members, ARRAY_SIZE(create_members), &body, err);

	if (!rc && !catalog_replication_type_parse(body.replication_type, &type))
		rc = err_set(err, HUB_E_INVALID,
			     "replication_type must be initial or incremental, not \"%s\"",
			     body.replication_type);
	if (!rc)
		rc = hub_replication_create(req->hub, body.vm_name, body.vm_context_id, type, &row,
					    err);
	if (!rc)
		req->answer = shape_job(&row);
	return rc;
}

static int get_replications(struct api_request *req, struct err *err)
{
	struct catalog_replication_filter filter = {
		.vm_context_id = api_uri_query(&req->uri, "vm_context_id"),
		.vm_name = api_uri_query(&req->uri, "vm_name"),
	};
	const char *word = api_uri_query(&req->uri, "status");
	_cleanup_(freep) struct catalog_replication *rows = NULL;
	enum catalog_job_status status;
	int64_t total = 0;
	json_t *list;
	size_t n = 0;
	int rc = api_query_int(req, "limit", 0, INT32_MAX, &filter.limit, err);

	if (!rc)
		rc = api_query_int(req, "offset", 0, INT32_MAX, &filter.offset, err);
	if (!rc && word[0] && !catalog_job_status_parse(word, &status))
		rc = err_set(err, HUB_E_INVALID,
			     "status must be pending, running, completed, failed or cancelled");
	filter.status = word[0] ? &status : NULL;
	if (!rc)
		rc = hub_from_catalog(catalog_replications_list(hub_catalog(req->hub), &filter,
								&rows, &n, &total, err));
	if (rc)
		return rc;
	list = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, shape_job(&rows[i]));
	req->answer = json_pack("{s:o,s:I}", "replications", list, "total", (json_int_t)total);
	return 0;
}

static int get_replication(struct api_request *req, struct err *err)
{
	struct catalog_replication row;
	int rc = catalog_replication_get(hub_catalog(req->hub), req->args[0], &row, err);

	if (!rc)
		req->answer = shape_job(&row);
	return hub_from_catalog(rc);
}

struct status_body {
	char status[16];
	char error_message[CATALOG_ERROR_SIZE];
};

static const struct api_json_member status_members[] = {
	API_TEXT(struct status_body, status, .required = true,
		 .one_of = "pending|running|completed|failed|cancelled"),
	API_TEXT(struct status_body, error_message),
};
static const struct api_shape status_shape = API_SHAPE("ReplicationStatus", status_members);

static int put_replication(struct api_request *req, struct err *err)
{
	struct status_body body = {.status = ""};
	enum catalog_job_status status;
	int rc = api_json_decode(req->body, status_members, ARRAY_SIZE(status_members), &body, err);

	if (!rc && !catalog_job_status_parse(body.status, &status))
		rc = err_set(err, HUB_E_INVALID,
			     "status must be pending, running, completed, failed or cancelled");
	if (!rc)
		rc = hub_from_catalog(catalog_replication_set_status(
			hub_catalog(req->hub), req->args[0], status, body.error_message, err));
	return rc ? rc : get_replication(req, err);
}

static int delete_replication(struct api_request *req, struct err *err)
{
	int rc = hub_from_catalog(
		catalog_replication_delete(hub_catalog(req->hub), req->args[0], err));

	/* An appliance takes 200 alone for done. */
	if (!rc)
		req->answer = json_pack("{s:o,s:s}", "id", api_json_text(req->args[0]), "status",
					"deleted");
	return rc;
}

/* --- the agent ------------------------------------------------------------------------------ */

/* All values are strings: the agent takes anything else for an error, and copies everything. */
static int get_change_id(struct api_request *req, struct err *err)
{
	const char *vm_path = api_uri_query(&req->uri, "vm_path");
	const char *disk_id = api_uri_query(&req->uri, "disk_id");
	char change_id[CATALOG_CHANGE_ID_SIZE];
	int rc;

	if (!vm_path[0] || !disk_id[0])
		return err_set(err, HUB_E_INVALID, "%s is missing",
			       vm_path[0] ? "disk_id" : "vm_path");
	rc = hub_from_catalog(catalog_replication_change_id(hub_catalog(req->hub), vm_path, disk_id,
							    change_id, err));
	if (rc)
		return rc;
	req->answer =
		json_pack("{s:o,s:o,s:o,s:s}", "vm_path", api_json_text(vm_path), "disk_id",
			  api_json_text(disk_id), "change_id", api_json_text(change_id), "message",
			  change_id[0] ? "Previous change_id found" : "No previous copy found");
	return 0;
}

struct change_id_body {
	char change_id[CATALOG_CHANGE_ID_SIZE];
	char disk_id[CATALOG_NAME_SIZE];
};

static const struct api_json_member change_id_members[] = {
	API_TEXT(struct change_id_body, change_id, .required = true),
	API_TEXT(struct change_id_body, disk_id, .required = true, .what = "disk-2000"),
};
static const struct api_shape change_id_shape = API_SHAPE("ReplicationDone", change_id_members);

static int post_change_id(struct api_request *req, struct err *err)
{
	struct change_id_body body = {.change_id = ""};
	int rc = api_json_decode(req->body, change_id_members, ARRAY_SIZE(change_id_members), &body,
				 err);

	if (!rc)
		rc = hub_from_catalog(catalog_replication_set_change_id(
			hub_catalog(req->hub), req->args[0], body.disk_id, body.change_id, err));
	if (!rc)
		req->answer = json_pack("{s:s,s:o,s:o,s:o}", "status", "stored", "job_id",
					api_json_text(req->args[0]), "disk_id",
					api_json_text(body.disk_id), "change_id",
					api_json_text(body.change_id));
	return rc;
}

/* --- routes --------------------------------------------------------------------------------- */

static const struct api_json_member list_members[] = {
	API_LIST("replications", &job_shape),
	API_BY_HAND("total", I64),
};
static const struct api_shape list_shape = API_SHAPE("ReplicationList", list_members);

static const struct api_json_member since_members[] = {
	API_BY_HAND("vm_path", TEXT),
	API_BY_HAND("disk_id", TEXT),
	API_BY_HAND("change_id", TEXT, .what = "empty: copy everything"),
	API_BY_HAND("message", TEXT),
};
static const struct api_shape since_shape = API_SHAPE("ReplicationSince", since_members);

static const struct api_json_member stored_members[] = {
	API_BY_HAND("status", TEXT, .one_of = "stored"),
	API_BY_HAND("job_id", TEXT),
	API_BY_HAND("disk_id", TEXT),
	API_BY_HAND("change_id", TEXT),
};
static const struct api_shape stored_shape = API_SHAPE("ReplicationStored", stored_members);

static const struct api_json_member deleted_members[] = {
	API_BY_HAND("id", TEXT),
	API_BY_HAND("status", TEXT, .one_of = "deleted"),
};
static const struct api_shape deleted_shape = API_SHAPE("ReplicationDeleted", deleted_members);

#define ONE "/api/v1/replications/{replication_id}"

static const struct api_route replication_routes[] = {
	API_ROUTE(POST, "/api/v1/replications", post_replication, OPERATOR,
		  "Begin a replication with the disks that discovery found", .takes = &create_shape,
		  .creates = true, .gives = &job_shape, .status = 201, .agents_too = true),
	API_ROUTE(GET, "/api/v1/replications", get_replications, VIEWER, "List replications",
		  .query = API_PARAMS({"vm_context_id", API_JSON_TEXT, "of this VM"},
				      {"vm_name", API_JSON_TEXT, "of VMs of this name"},
				      {"status", API_JSON_TEXT, "in this state",
				       "pending|running|completed|failed|cancelled"},
				      {"limit", API_JSON_INT, "at most so many"},
				      {"offset", API_JSON_INT, "without the first so many"}),
		  .gives = &list_shape),
	API_ROUTE(GET, "/api/v1/replications/changeid", get_change_id, AGENT,
		  "Since when a disk is to be copied",
		  .query = API_PARAMS({"vm_path", API_JSON_TEXT, "inventory path", NULL, true},
				      {"disk_id", API_JSON_TEXT, "disk-2000", NULL, true}),
		  .gives = &since_shape),
	API_ROUTE(GET, ONE, get_replication, VIEWER, "One replication", .gives = &job_shape),
	API_ROUTE(PUT, ONE, put_replication, OPERATOR, "Say how it stands", .takes = &status_shape,
		  .gives = &job_shape, .agents_too = true),
	API_ROUTE(DELETE, ONE, delete_replication, OPERATOR,
		  "Forget a replication that does not run; the VM's disks stay",
		  .gives = &deleted_shape, .agents_too = true),
	API_ROUTE(POST, ONE "/changeid", post_change_id, AGENT, "A disk was copied up to there",
		  .takes = &change_id_shape, .gives = &stored_shape),
};
const struct api_noun api_replications_noun = API_NOUN(
	"Replications", "Jobs of a replication engine beside the hub.", replication_routes);
