/* Copies of backups in other repositories. */
#include <stdlib.h>
#include <string.h>

#include "api/json.h"
#include "api/list.h"
#include "api/routes.h"
#include "base/bytes.h"
#include "hub/copies.h"

API_WORD_FN(catalog_copy_status_name, enum catalog_copy_status)
API_WORD_FN(catalog_copy_verification_name, enum catalog_copy_verification)

#define DISK struct catalog_copy_disk
static const struct api_json_member disk_members[] = {
	API_INT(DISK, disk_index),
	API_TEXT(DISK, qcow2_path, .what = "in the copy's repository; it needs no other file"),
	API_I64(DISK, bytes_total, .what = "size of the disk"),
	API_I64(DISK, bytes_stored),
	API_TEXT(DISK, sha256,
		 .what = "of the image's file, as sha256sum gives it; empty: not read back yet"),
};
static const struct api_shape disk_shape = API_SHAPE("CopyDisk", disk_members);

#define COPY struct catalog_copy
static const struct api_json_member copy_members[] = {
	API_TEXT(COPY, id),
	API_AS("backup_id", TEXT, COPY, backup_job_id),
	API_TEXT(COPY, vm_name),
	API_TEXT(COPY, repository_id, .what = "where the copy is"),
	API_TEXT(COPY, repository_name),
	API_TEXT(COPY, copy_rule_id, .what = "empty: it was asked for by hand"),
	API_AS("status", WORD, COPY, status,
	       API_WORDS(catalog_copy_status_name_int, CATALOG_COPY_FAILED)),
	API_AS("verification", WORD, COPY, verification,
	       API_WORDS(catalog_copy_verification_name_int, CATALOG_COPY_DIFFERS),
	       .what = "whether it was read back and is what was backed up"),
	API_BOOL(COPY, verify_after_copy),
	API_BOOL(COPY, when_idle, .what = "it waits until no backup runs and no copy is made"),
	API_INT(COPY, priority, .what = "1 goes first"),
	API_INT(COPY, attempts),
	API_I64(COPY, bytes_total, .what = "size of its disks"),
	API_I64(COPY, bytes_copied, .what = "of it done, holes included"),
	API_TEXT(COPY, error_message, .what = "why the last attempt failed"),
	API_AS("created_at", TIME, COPY, created_at_us),
	API_AS("started_at", TIME, COPY, started_at_us),
	API_AS("completed_at", TIME, COPY, completed_at_us),
	API_AS("verified_at", TIME, COPY, verified_at_us),
	API_AS("retry_at", TIME, COPY, retry_at_us, .what = "not before"),
	API_BY_HAND("removing", BOOL, .what = "it goes as soon as who is at it has stopped"),
	API_LIST("disks", &disk_shape, .what = "none before the first attempt"),
};
static const struct api_shape copy_shape = API_SHAPE("Copy", copy_members);

static int shape_copy(struct api_request *req, const struct catalog_copy *row, json_t **out,
		      struct err *err)
{
	_cleanup_(freep) struct catalog_copy_disk *disks = NULL;
	json_t *list = json_array();
	size_t n = 0;
	int rc = catalog_copy_disks_list(hub_catalog(req->hub), row->id, &disks, &n, err);

	for (size_t i = 0; !rc && i < n; i++)
		json_array_append_new(
			list, api_json_encode(disk_members, ARRAY_SIZE(disk_members), &disks[i]));
	*out = api_json_encode(copy_members, ARRAY_SIZE(copy_members), row);
	json_object_set_new(*out, "removing", json_boolean(row->task == CATALOG_COPY_REMOVE));
	json_object_set_new(*out, "disks", list);
	return hub_from_catalog(rc);
}

static int answer_copy(struct api_request *req, const char *id, struct err *err)
{
	struct catalog_copy row;
	int rc = hub_from_catalog(catalog_copy_get(hub_catalog(req->hub), id, &row, err));

	return rc ? rc : shape_copy(req, &row, &req->answer, err);
}

/* --- making --------------------------------------------------------------------------------- */

struct copy_body {
	char repository_id[CATALOG_ID_SIZE];
	char repository[CATALOG_NAME_SIZE];
	bool verify;
};

#define BODY struct copy_body
static const struct api_json_member asked_members[] = {
	API_TEXT(BODY, repository_id),
	API_TEXT(BODY, repository, .what = "instead: its name"),
	API_BOOL(BODY, verify, .what = "read it back afterwards (true)"),
};
static const struct api_shape asked_shape = API_SHAPE("CopyCreate", asked_members);

static int post_copy(struct api_request *req, struct err *err)
{
	BODY body = {.verify = true};
	struct catalog_copy copy;
	int rc = api_json_decode(req->body, asked_members, ARRAY_SIZE(asked_members), &body, err);

	if (!rc)
		rc = hub_copy_request(req->hub, req->args[0], body.repository_id, body.repository,
				      body.verify, &copy, err);
	/* As it was asked for: a thread may have it by now. */
	return rc ? rc : shape_copy(req, &copy, &req->answer, err);
}

static int post_retry(struct api_request *req, struct err *err)
{
	int rc = hub_from_catalog(catalog_copy_retry(hub_catalog(req->hub), req->args[0], err));

	return rc ? rc : answer_copy(req, req->args[0], err);
}

static int post_verify(struct api_request *req, struct err *err)
{
	int rc = hub_from_catalog(catalog_copy_verify(hub_catalog(req->hub), req->args[0], err));

	return rc ? rc : answer_copy(req, req->args[0], err);
}

static int delete_copy(struct api_request *req, struct err *err)
{
	int rc = hub_copy_remove(req->hub, req->args[0], err);

	if (!rc)
		req->status = API_NO_CONTENT;
	return rc;
}

/* --- looking -------------------------------------------------------------------------------- */

static int answer_list(struct api_request *req, struct catalog_copy_filter *filter, struct err *err)
{
	_cleanup_(freep) struct catalog_copy *rows = NULL;
	struct api_page page;
	int64_t total = 0;
	json_t *list, *row;
	size_t n = 0;
	int rc = api_list_take(req, &page, err);

	if (rc)
		return rc;
	filter->limit = page.limit;
	filter->offset = page.offset;
	filter->sort = page.sort;
	filter->descending = page.descending;
	rc = hub_from_catalog(
		catalog_copies_list(hub_catalog(req->hub), filter, &rows, &n, &total, err));
	if (rc)
		return rc;
	list = json_array();
	for (size_t i = 0; !rc && i < n; i++) {
		rc = shape_copy(req, &rows[i], &row, err);
		json_array_append_new(list, row);
	}
	if (rc) {
		json_decref(list);
		return rc;
	}
	return api_list_answer(req, &page, "copies", list, total, err);
}

static int get_copies_of(struct api_request *req, struct err *err)
{
	struct catalog_copy_filter filter = {.backup_job_id = req->args[0]};
	struct catalog_backup job;
	int rc = hub_from_catalog(
		catalog_backup_get(hub_catalog(req->hub), req->args[0], &job, err));

	return rc ? rc : answer_list(req, &filter, err);
}

static int get_copies(struct api_request *req, struct err *err)
{
	struct catalog_copy_filter filter = {
		.backup_job_id = api_uri_query(&req->uri, "backup_id"),
		.repository_id = api_uri_query(&req->uri, "repository_id"),
	};
	const char *word = api_uri_query(&req->uri, "status");
	enum catalog_copy_status status;

	if (word[0] && !catalog_copy_status_parse(word, &status))
		return err_set(err, HUB_E_INVALID,
			       "status must be pending, copying, verifying, completed or failed");
	filter.status = word[0] ? &status : NULL;
	return answer_list(req, &filter, err);
}

static int get_copy(struct api_request *req, struct err *err)
{
	return answer_copy(req, req->args[0], err);
}

/* --- routes --------------------------------------------------------------------------------- */

static const struct api_json_member list_members[] = {
	API_LIST("copies", &copy_shape),
	API_BY_HAND("total", I64),
};
static const struct api_shape list_shape = API_SHAPE("CopyList", list_members);

static const struct api_list copy_list = {.sorts = "created_at|status|completed_at|bytes_total",
					  .descending = true};

#define OF_BACKUP "/api/v1/backups/{backup_id}"
#define ONE	  "/api/v1/copies/{copy_id}"

static const struct api_route copy_routes[] = {
	API_ROUTE(POST, OF_BACKUP "/copy", post_copy, OPERATOR,
		  "Copy a completed backup to another repository", .creates = true,
		  .takes = &asked_shape, .gives = &copy_shape, .status = 202),
	API_ROUTE(GET, OF_BACKUP "/copies", get_copies_of, VIEWER, "The copies of a backup",
		  .list = &copy_list, .gives = &list_shape),
	API_ROUTE(GET, "/api/v1/copies", get_copies, VIEWER, "List copies",
		  .query = API_PARAMS({"backup_id", API_JSON_TEXT, "of this backup"},
				      {"repository_id", API_JSON_TEXT, "in this repository"},
				      {"status", API_JSON_TEXT, "in this state",
				       "pending|copying|verifying|completed|failed"}),
		  .list = &copy_list, .gives = &list_shape),
	API_ROUTE(GET, ONE, get_copy, VIEWER, "One copy, and how far it is", .gives = &copy_shape),
	API_ROUTE(POST, ONE "/retry", post_retry, OPERATOR,
		  "Try a copy that failed again, or one that waits for its next attempt now",
		  .gives = &copy_shape, .status = 202),
	API_ROUTE(POST, ONE "/verify", post_verify, OPERATOR,
		  "Read a completed copy back and compare its checksums", .gives = &copy_shape,
		  .status = 202),
	API_ROUTE(DELETE, ONE, delete_copy, ADMIN,
		  "Delete a copy: its files, then what is known of it",
		  .details = "One that is being made is stopped first and goes a moment later.",
		  .status = API_NO_CONTENT),
};
const struct api_noun api_copies_noun =
	API_NOUN("Copies", "Backups in one more repository.", copy_routes);
