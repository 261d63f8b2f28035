/* Backups: start, list, look at one, delete. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/json.h"
#include "api/list.h"
#include "api/routes.h"
#include "api/shapes.h"
#include "base/bytes.h"
#include "catalog/contexts.h"
#include "hub/backup.h"

API_WORD_FN(catalog_backup_type_name, enum catalog_backup_type)
API_WORD_FN(catalog_job_status_name, enum catalog_job_status)
API_WORD_FN(catalog_disk_status_name, enum catalog_disk_status)

#define VIEW struct hub_backup_view
static const struct api_json_member backup_members[] = {
	API_AS("backup_id", TEXT, VIEW, job.id),
	API_AS("vm_context_id", TEXT, VIEW, job.vm_context_id),
	API_AS("vm_backup_context_id", TEXT, VIEW, job.vm_backup_context_id),
	API_AS("vm_name", TEXT, VIEW, job.vm_name),
	API_AS("repository_id", TEXT, VIEW, job.repository_id),
	API_AS("policy_id", TEXT, VIEW, job.policy_id),
	API_AS("backup_type", WORD, VIEW, job.backup_type,
	       API_WORDS(catalog_backup_type_name_int, CATALOG_BACKUP_DIFFERENTIAL)),
	API_AS("status", WORD, VIEW, job.status,
	       API_WORDS(catalog_job_status_name_int, CATALOG_JOB_CANCELLED)),
	API_AS("parent_backup_id", TEXT, VIEW, job.parent_backup_id),
	API_AS("disks_count", I64, VIEW, job.disk_count),
	API_AS("bytes_transferred", I64, VIEW, job.bytes_transferred),
	API_AS("total_bytes", I64, VIEW, job.total_bytes),
	API_AS("current_phase", TEXT, VIEW, job.current_phase),
	API_AS("transfer_speed_bps", I64, VIEW, speed_bps),
	API_AS("progress_percent", REAL, VIEW, percent),
	API_AS("eta_seconds", I64, VIEW, eta_seconds),
	API_AS("error_message", TEXT, VIEW, job.error_message),
	API_AS("last_telemetry_at", TIME, VIEW, job.last_telemetry_at_us),
	API_AS("created_at", TIME, VIEW, job.created_at_us),
	API_AS("started_at", TIME, VIEW, job.started_at_us),
	API_AS("completed_at", TIME, VIEW, job.completed_at_us),
	API_AS("compression_enabled", BOOL, VIEW, job.compression_enabled),
	API_AS("tags", RAW, VIEW, job.tags),
};

#define DISK struct hub_disk_view
static const struct api_json_member disk_members[] = {
	API_AS("disk_index", INT, DISK, row.disk_index),
	API_AS("disk_id", TEXT, DISK, row.disk_id),
	API_AS("vmware_disk_key", I64, DISK, row.vmware_disk_key),
	API_AS("label", TEXT, DISK, label),
	API_AS("status", WORD, DISK, row.status,
	       API_WORDS(catalog_disk_status_name_int, CATALOG_DISK_FAILED)),
	API_AS("mode", WORD, DISK, row.mode,
	       API_WORDS(catalog_backup_type_name_int, CATALOG_BACKUP_DIFFERENTIAL)),
	API_AS("reason", TEXT, DISK, row.reason),
	API_AS("change_id", TEXT, DISK, row.change_id),
	API_AS("parent_backup_id", TEXT, DISK, row.parent_backup_id),
	API_AS("virtual_size_bytes", I64, DISK, row.virtual_size_bytes),
	API_AS("bytes_received", I64, DISK, row.bytes.bytes_transferred),
	API_AS("bytes_zero", I64, DISK, row.bytes.bytes_zero),
	API_AS("bytes_unchanged", I64, DISK, row.bytes.bytes_unchanged),
	API_AS("bytes_stored", I64, DISK, row.bytes.bytes_stored),
	API_AS("bytes_total", I64, DISK, bytes_total),
	API_AS("progress_percent", REAL, DISK, percent),
	API_AS("transfer_speed_bps", I64, DISK, speed_bps),
	API_AS("eta_seconds", I64, DISK, eta_seconds),
	API_AS("export_name", TEXT, DISK, row.export_name),
	API_AS("qcow2_path", TEXT, DISK, row.qcow2_path),
	API_AS("error", TEXT, DISK, row.error_message),
	API_AS("started_at", TIME, DISK, row.started_at_us),
	API_AS("completed_at", TIME, DISK, row.completed_at_us),
};
static const struct api_shape disk_shape = API_SHAPE("BackupDisk", disk_members);

static json_t *shape_backup(const struct hub_backup_view *view)
{
	json_t *obj = api_json_encode(backup_members, ARRAY_SIZE(backup_members), view);
	json_t *disks;

	if (!obj || !view->disks)
		return obj;
	disks = json_array();
	for (size_t i = 0; i < view->disk_count; i++)
		json_array_append_new(disks, api_json_encode(disk_members, ARRAY_SIZE(disk_members),
							     &view->disks[i]));
	json_object_set_new(obj, "disks", disks);
	return obj;
}

/* --- start ---------------------------------------------------------------------------------- */

struct start_body {
	char vm_name[CATALOG_NAME_SIZE];
	char vm_context_id[CATALOG_ID_SIZE];
	char repository_id[CATALOG_ID_SIZE];
	char repository[CATALOG_NAME_SIZE];
	char backup_type[CATALOG_ID_SIZE];
	char policy_id[CATALOG_ID_SIZE];
	char compression[16];
	int64_t credential_id;
	char tags[CATALOG_TAGS_SIZE];
};

#define START struct start_body
static const struct api_json_member start_members[] = {
	API_TEXT(START, vm_name),
	API_TEXT(START, vm_context_id),
	API_TEXT(START, repository_id),
	API_TEXT(START, repository),
	API_TEXT(START, backup_type, .required = true, .one_of = "full|incremental"),
	API_TEXT(START, policy_id),
	API_TEXT(START, compression),
	API_I64(START, credential_id),
	API_BY_HAND("tags", ANY, .what = "an object or a list, of your own"),
};
static const struct api_shape start_shape = API_SHAPE("BackupStart", start_members);

static int take_tags(const json_t *body, struct start_body *start, struct err *err)
{
	const json_t *tags = json_object_get(body, "tags");
	size_t n;

	if (!tags || json_is_null(tags))
		return 0;
	if (!json_is_object(tags) && !json_is_array(tags))
		return err_set(err, HUB_E_INVALID, "tags must be a JSON object or list");
	n = json_dumpb(tags, start->tags, sizeof(start->tags) - 1, JSON_COMPACT);
	if (!n || n >= sizeof(start->tags))
		return err_set(err, HUB_E_INVALID, "tags are larger than %zu bytes",
			       sizeof(start->tags) - 1);
	start->tags[n] = '\0';
	return 0;
}

static int take_start(const json_t *body, struct start_body *start, enum catalog_backup_type *type,
		      struct err *err)
{
	int rc;

	/* Mission K2. */
	if (json_object_get(body, "disk_id"))
		return err_set(err, HUB_E_INVALID,
			       "disk_id is not accepted: a backup takes all disks of the VM from "
			       "one snapshot; leave it out");
	rc = api_json_decode(body, start_members, ARRAY_SIZE(start_members), start, err);
	if (!rc)
		rc = take_tags(body, start, err);
	if (!rc && !catalog_backup_type_parse(start->backup_type, type))
		rc = err_set(err, HUB_E_INVALID,
			     "backup_type must be \"full\" or \"incremental\", not \"%s\"",
			     start->backup_type);
	return rc;
}

/* What start adds to the view of a backup: the mirrored API's words for disks. */
static void add_start_fields(json_t *obj, const struct hub_backup_view *view,
			     const struct hub_started *started)
{
	json_t *results = json_array();

	for (size_t i = 0; i < view->disk_count; i++) {
		const struct catalog_backup_disk *row = &view->disks[i].row;

		json_array_append_new(
			results,
			json_pack("{s:i,s:i,s:s,s:s,s:i,s:s,s:s,s:s}", "disk_id", row->disk_index,
				  "nbd_port", started->nbd_port, "nbd_export_name",
				  row->export_name, "qcow2_path", row->qcow2_path, "qemu_nbd_pid",
				  0, "status", "started", "mode",
				  catalog_backup_type_name(row->mode), "error_message", ""));
	}
	json_object_set_new(obj, "disk_results", results);
	json_object_set_new(obj, "nbd_targets_string", api_json_text(started->nbd_targets));
	json_object_set_new(obj, "status", json_string("started"));
}

static int post_backup(struct api_request *req, struct err *err)
{
	struct start_body body = {.vm_name = ""};
	struct hub_start_request start = {
		.vm_name = body.vm_name,
		.vm_context_id = body.vm_context_id,
		.repository_id = body.repository_id,
		.repository = body.repository,
		.policy_id = body.policy_id,
		.compression = body.compression,
		.tags = body.tags,
	};
	struct hub_started started = {.nbd_targets = NULL};
	struct hub_backup_view view = {.disks = NULL};
	int rc = take_start(req->body, &body, &start.backup_type, err);

	start.credential_id = body.credential_id;
	if (!rc)
		rc = hub_backup_start(req->hub, &start, &started, err);
	if (rc) {
		if (rc != HUB_E_BUSY && started.backup_id[0])
			snprintf(req->details, sizeof(req->details), "recorded as %s",
				 started.backup_id);
		return rc;
	}
	rc = hub_backup_get(req->hub, started.backup_id, &view, err);
	if (!rc) {
		req->answer = shape_backup(&view);
		add_start_fields(req->answer, &view, &started);
	}
	hub_backup_view_deinit(&view);
	free(started.nbd_targets);
	return rc;
}

/* --- the early form of start ----------------------------------------------------------------- */

/* The disk as early callers name it: its index, as a number or in a text, or the agent's id. */
static bool disk_is_meant(const struct catalog_vm_disk *disk, const json_t *wanted)
{
	char index[24];

	if (json_is_integer(wanted))
		return json_integer_value(wanted) == disk->disk_index;
	snprintf(index, sizeof(index), "%d", disk->disk_index);
	return !strcmp(json_string_value(wanted), index) ||
	       !strcmp(json_string_value(wanted), disk->disk_id);
}

static int find_meant_vm(struct api_request *req, struct catalog_vm_context *vm, struct err *err)
{
	struct start_body body = {.vm_name = ""};
	struct catalog *cat = hub_catalog(req->hub);
	int rc = api_json_decode(req->body, start_members, ARRAY_SIZE(start_members), &body, err);

	if (rc)
		return rc;
	return hub_from_catalog(body.vm_context_id[0]
					? catalog_vm_context_get(cat, body.vm_context_id, vm, err)
					: catalog_vm_context_find(cat, body.vm_name, "", vm, err));
}

/* Mission K2: a disk that is named must be there; all of them are backed up. */
static int check_meant_disk(struct api_request *req, const json_t *wanted, struct err *err)
{
	_cleanup_(freep) struct catalog_vm_disk *disks = NULL;
	struct catalog_vm_context vm;
	size_t n = 0;
	int rc;

	if (!json_is_integer(wanted) && !json_is_string(wanted))
		return err_set(err, HUB_E_INVALID, "disk_id must be a number or a string");
	rc = find_meant_vm(req, &vm, err);
	if (!rc)
		rc = hub_from_catalog(catalog_vm_disks_list(hub_catalog(req->hub), vm.context_id,
							    false, &disks, &n, err));
	if (rc)
		return rc;
	for (size_t i = 0; i < n; i++)
		if (disk_is_meant(&disks[i], wanted))
			return 0;
	return err_set(err, HUB_E_NOT_FOUND, "VM \"%s\" has no such disk as disk_id says",
		       vm.vm_name);
}

static int post_start(struct api_request *req, struct err *err)
{
	const json_t *wanted = json_object_get(req->body, "disk_id");
	json_t *body;
	int rc = wanted ? check_meant_disk(req, wanted, err) : 0;

	if (rc)
		return rc;
	body = json_copy((json_t *)req->body);
	json_object_del(body, "disk_id");
	req->body = body;
	rc = post_backup(req, err);
	json_decref(body);
	if (!rc)
		json_object_set_new(req->answer, "message",
				    json_string("all disks of the VM are backed up, from one "
						"snapshot; disk_id chooses none"));
	return rc;
}

/* --- list, get ------------------------------------------------------------------------------ */

static int take_filter(struct api_request *req, struct catalog_backup_filter *filter,
		       enum catalog_job_status *status, enum catalog_backup_type *type,
		       struct err *err)
{
	const char *word = api_uri_query(&req->uri, "status");

	filter->vm_name = api_uri_query(&req->uri, "vm_name");
	filter->vm_context_id = api_uri_query(&req->uri, "vm_context_id");
	filter->repository_id = api_uri_query(&req->uri, "repository_id");
	if (word[0]) {
		if (!catalog_job_status_parse(word, status))
			return err_set(err, HUB_E_INVALID,
				       "status must be pending, running, completed, failed or "
				       "cancelled");
		filter->status = status;
	}
	word = api_uri_query(&req->uri, "backup_type");
	if (word[0]) {
		if (!catalog_backup_type_parse(word, type))
			return err_set(err, HUB_E_INVALID,
				       "backup_type must be full or incremental");
		filter->backup_type = type;
	}
	return 0;
}

static int get_backups(struct api_request *req, struct err *err)
{
	_cleanup_(freep) struct hub_backup_view *rows = NULL;
	struct catalog_backup_filter filter = {.limit = 0};
	enum catalog_backup_type type;
	enum catalog_job_status status;
	struct api_page page;
	int64_t total = 0;
	json_t *list;
	size_t n = 0;
	int rc = take_filter(req, &filter, &status, &type, err);

	if (!rc)
		rc = api_list_take(req, &page, err);
	if (rc)
		return rc;
	filter.limit = page.limit;
	filter.offset = page.offset;
	filter.sort = page.sort;
	filter.ascending = !page.descending;
	rc = hub_backups_list(req->hub, &filter, &rows, &n, &total, err);
	if (rc)
		return rc;
	list = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, shape_backup(&rows[i]));
	return api_list_answer(req, &page, "backups", list, total, err);
}

/* One that was deleted is not found; what became of its files is worth a word. */
static int tell_deletion(struct api_request *req, struct err *err)
{
	struct catalog_deletion row;

	if (catalog_deletion_get(hub_catalog(req->hub), req->args[0], &row, NULL))
		return HUB_E_NOT_FOUND;
	return err_set(err, HUB_E_NOT_FOUND, "backup %s is deleted; files of it remain%s%s",
		       row.backup_id, row.error_message[0] ? ": " : "", row.error_message);
}

static int get_backup(struct api_request *req, struct err *err)
{
	struct hub_backup_view view = {.disks = NULL};
	int rc = hub_backup_get(req->hub, req->args[0], &view, err);

	if (!rc)
		req->answer = shape_backup(&view);
	hub_backup_view_deinit(&view);
	return rc == HUB_E_NOT_FOUND ? tell_deletion(req, err) : rc;
}

static int delete_backup(struct api_request *req, struct err *err)
{
	const char *word = api_uri_query(&req->uri, "cascade");
	struct hub_deleted deleted = {.n = 0};
	int rc;

	if (word[0] && strcmp(word, "true") && strcmp(word, "false"))
		return err_set(err, HUB_E_INVALID, "cascade must be true or false");
	rc = hub_backup_delete(req->hub, req->args[0], !strcmp(word, "true"), &deleted, err);
	if (!rc)
		api_answer_deleted(req, &deleted);
	hub_deleted_deinit(&deleted);
	return rc;
}

/* --- routes --------------------------------------------------------------------------------- */

static const struct api_shape backup_shape = API_SHAPE("Backup", backup_members);

static const struct api_json_member full_view_members[] = {
	API_LIST("disks", &disk_shape),
};
static const struct api_shape full_view_shape =
	API_SHAPE("BackupWithDisks", full_view_members, .base = &backup_shape);

static const struct api_json_member result_members[] = {
	API_BY_HAND("disk_id", INT),
	API_BY_HAND("nbd_port", INT),
	API_BY_HAND("nbd_export_name", TEXT),
	API_BY_HAND("qcow2_path", TEXT),
	API_BY_HAND("qemu_nbd_pid", INT, .what = "always 0: the hub serves NBD itself"),
	API_BY_HAND("status", TEXT, .one_of = "started"),
	API_BY_HAND("mode", WORD,
		    API_WORDS(catalog_backup_type_name_int, CATALOG_BACKUP_DIFFERENTIAL)),
	API_BY_HAND("error_message", TEXT),
};
static const struct api_shape result_shape = API_SHAPE("BackupDiskResult", result_members);

static const struct api_json_member started_members[] = {
	API_BY_HAND("status", TEXT, .one_of = "started"),
	API_LIST("disk_results", &result_shape),
	API_BY_HAND("nbd_targets_string", TEXT),
};
static const struct api_shape started_shape =
	API_SHAPE("BackupStarted", started_members, .base = &full_view_shape);

static const struct api_json_member early_start_members[] = {
	API_BY_HAND("disk_id", ANY, .what = "must be one of the VM's; all of them are backed up"),
};
static const struct api_shape early_start_shape =
	API_SHAPE("BackupEarlyStart", early_start_members, .base = &start_shape);

static const struct api_json_member early_started_members[] = {
	API_BY_HAND("message", TEXT),
};
static const struct api_shape early_started_shape =
	API_SHAPE("BackupEarlyStarted", early_started_members, .base = &started_shape);

static const struct api_json_member list_members[] = {
	API_LIST("backups", &backup_shape),
	API_BY_HAND("total", I64),
};
static const struct api_shape list_shape = API_SHAPE("BackupList", list_members);

static const struct api_list backup_list = {
	.sorts = "created_at|vm_name|status|backup_type|started_at|completed_at|total_bytes|"
		 "bytes_transferred",
	.descending = true,
};

static const struct api_param backup_filters[] = {

	{"vm_name", API_JSON_TEXT, "of this VM"},
	{"vm_context_id", API_JSON_TEXT, "of this VM"},
	{"repository_id", API_JSON_TEXT, "in this repository"},
	{"status", API_JSON_TEXT, "in this state", "pending|running|completed|failed|cancelled"},
	{"backup_type", API_JSON_TEXT, "of this type", "full|incremental"},
	{.name = NULL},
};

static const struct api_route backup_routes[] = {
	API_ROUTE(POST, "/api/v1/backups", post_backup, OPERATOR,
		  "Start a backup of all disks of a VM", .creates = true, .takes = &start_shape,
		  .gives = &started_shape),
	API_ROUTE(GET, "/api/v1/backups", get_backups, VIEWER, "List backups",
		  .query = backup_filters, .list = &backup_list, .gives = &list_shape),
	API_ROUTE(GET, "/api/v1/backups/{backup_id}", get_backup, VIEWER,
		  "One backup, and its disks", .gives = &full_view_shape),
	API_ROUTE(DELETE, "/api/v1/backups/{backup_id}", delete_backup, ADMIN,
		  "Delete a backup and its files; 409 while others lean on it, it runs, or is kept",
		  .query = API_PARAMS({"cascade", API_JSON_BOOL,
				       "true: and everything that leans on it, newest first"}),
		  .gives = &api_deleted_shape, .later = &api_deleted_shape,
		  .details =
			  "The backup is gone with the answer. 202: files of it could not be "
			  "removed yet; the hub tries again (GET /api/v1/deletions), and so does "
			  "the same call."),
	API_ROUTE(POST, "/api/v1/backup/start", post_start, OPERATOR,
		  "Start a backup of all disks of a VM", .creates = true,
		  .takes = &early_start_shape, .gives = &early_started_shape,
		  .instead = "/api/v1/backups"),
	API_ROUTE(GET, "/api/v1/backup/list", get_backups, VIEWER, "List backups",
		  .query = backup_filters, .list = &backup_list, .gives = &list_shape,
		  .instead = "/api/v1/backups"),
	API_ROUTE(GET, "/api/v1/backup/{backup_id}", get_backup, VIEWER,
		  "One backup, and its disks", .gives = &full_view_shape,
		  .instead = "/api/v1/backups/{backup_id}"),
};
const struct api_noun api_backups_noun =
	API_NOUN("Backups", "Start backups and look at them.", backup_routes);
