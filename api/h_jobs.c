/* The life of a backup while it runs, and its story: progress, log, cancel; and sums over many. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/json.h"
#include "api/routes.h"
#include "api/shapes.h"
#include "base/bytes.h"
#include "catalog/job_log.h"
#include "hub/backup.h"

API_WORD_FN(catalog_job_status_name, enum catalog_job_status)
API_WORD_FN(catalog_disk_status_name, enum catalog_disk_status)
API_WORD_FN(catalog_backup_type_name, enum catalog_backup_type)
API_WORD_FN(catalog_log_level_name, enum catalog_log_level)

/* --- progress ------------------------------------------------------------------------------- */

#define VIEW struct hub_backup_view
static const struct api_json_member progress_members[] = {
	API_AS("backup_id", TEXT, VIEW, job.id),
	API_AS("vm_name", TEXT, VIEW, job.vm_name),
	API_AS("status", WORD, VIEW, job.status,
	       API_WORDS(catalog_job_status_name_int, CATALOG_JOB_CANCELLED)),
	API_AS("current_phase", TEXT, VIEW, job.current_phase),
	API_AS("progress_percent", REAL, VIEW, percent),
	API_AS("bytes_transferred", I64, VIEW, job.bytes_transferred),
	API_AS("total_bytes", I64, VIEW, job.total_bytes),
	API_AS("bytes_total", I64, VIEW, bytes_total),
	API_AS("transfer_speed_bps", I64, VIEW, speed_bps),
	API_AS("eta_seconds", I64, VIEW, eta_seconds),
	API_AS("error_message", TEXT, VIEW, job.error_message),
	API_AS("last_telemetry_at", TIME, VIEW, job.last_telemetry_at_us),
	API_AS("started_at", TIME, VIEW, job.started_at_us),
	API_AS("completed_at", TIME, VIEW, job.completed_at_us),
};

#define DISK struct hub_disk_view
static const struct api_json_member disk_members[] = {
	API_AS("disk_index", INT, DISK, row.disk_index),
	API_AS("status", WORD, DISK, row.status,
	       API_WORDS(catalog_disk_status_name_int, CATALOG_DISK_FAILED)),
	API_AS("mode", WORD, DISK, row.mode,
	       API_WORDS(catalog_backup_type_name_int, CATALOG_BACKUP_DIFFERENTIAL)),
	API_AS("progress_percent", REAL, DISK, percent),
	API_AS("bytes_received", I64, DISK, row.bytes.bytes_transferred),
	API_AS("bytes_zero", I64, DISK, row.bytes.bytes_zero),
	API_AS("bytes_total", I64, DISK, bytes_total),
	API_AS("transfer_speed_bps", I64, DISK, speed_bps),
	API_AS("eta_seconds", I64, DISK, eta_seconds),
	API_AS("connections", INT, DISK, connections),
};

json_t *api_shape_progress(const struct hub_backup_view *view)
{
	json_t *obj = api_json_encode(progress_members, ARRAY_SIZE(progress_members), view);
	json_t *disks = json_array();

	for (size_t i = 0; i < view->disk_count; i++)
		json_array_append_new(disks, api_json_encode(disk_members, ARRAY_SIZE(disk_members),
							     &view->disks[i]));
	if (!obj || json_object_set_new(obj, "disks", disks)) {
		json_decref(obj);
		return NULL;
	}
	return obj;
}

static int get_progress(struct api_request *req, struct err *err)
{
	struct hub_backup_view view = {.disks = NULL};
	int rc = hub_backup_get(req->hub, req->args[0], &view, err);

	if (!rc)
		req->answer = api_shape_progress(&view);
	hub_backup_view_deinit(&view);
	return rc;
}

/* --- log ------------------------------------------------------------------------------------ */

#define LINE struct catalog_job_line
static const struct api_json_member line_members[] = {
	API_I64(LINE, id),
	API_INT(LINE, disk_index),
	API_AS("level", WORD, LINE, level, API_WORDS(catalog_log_level_name_int, CATALOG_LOG_INFO)),
	API_TEXT(LINE, phase),
	API_TEXT(LINE, message),
	API_AS("created_at", TIME, LINE, created_at_us),
};

json_t *api_shape_line(const struct catalog_job_line *line)
{
	return api_json_encode(line_members, ARRAY_SIZE(line_members), line);
}

/* Pages by the last id seen: lines may be added between two of them. */
static int get_log(struct api_request *req, struct err *err)
{
	_cleanup_(freep) struct catalog_job_line *rows = NULL;
	struct catalog_backup job;
	int64_t after = 0, limit = 100;
	json_t *lines;
	size_t n = 0;
	int rc = api_query_int(req, "after", 0, INT64_MAX, &after, err);

	if (!rc)
		rc = api_query_int(req, "limit", 1, CATALOG_LOG_LINES_MAX, &limit, err);
	if (!rc)
		rc = hub_from_catalog(
			catalog_backup_get(hub_catalog(req->hub), req->args[0], &job, err));
	if (!rc)
		rc = hub_from_catalog(catalog_job_log_list(hub_catalog(req->hub), job.id, after,
							   limit, &rows, &n, err));
	if (rc)
		return rc;
	lines = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(lines, api_shape_line(&rows[i]));
	req->answer = json_pack("{s:s,s:o,s:I}", "backup_id", job.id, "lines", lines, "next",
				(json_int_t)(n ? rows[n - 1].id : after));
	return 0;
}

/* --- cancel --------------------------------------------------------------------------------- */

struct cancel_body {
	char reason[CATALOG_REASON_SIZE];
	bool keep_partial;
};

static const struct api_json_member cancel_members[] = {
	API_TEXT(struct cancel_body, reason),
	API_BOOL(struct cancel_body, keep_partial),
};

static int post_cancel(struct api_request *req, struct err *err)
{
	struct cancel_body body = {.reason = ""};
	struct hub_cancel_request cancel = {.reason = body.reason};
	bool already = false;
	int rc = api_json_decode(req->body, cancel_members, ARRAY_SIZE(cancel_members), &body, err);

	if (rc)
		return rc;
	if (json_is_boolean(json_object_get(req->body, "keep_partial")))
		cancel.keep_partial = &body.keep_partial;
	rc = hub_backup_cancel(req->hub, req->args[0], &cancel, &already, err);
	if (!rc)
		req->answer = json_pack("{s:o,s:s,s:b}", "backup_id", api_json_text(req->args[0]),
					"status", catalog_job_status_name(CATALOG_JOB_CANCELLED),
					"already", already);
	return rc;
}

/* --- sums ----------------------------------------------------------------------------------- */

static json_t *shape_stats(const struct catalog_backup_stats *s)
{
	json_t *obj = json_object();
	int64_t total = 0, ended, completed = s->jobs[CATALOG_JOB_COMPLETED];

	for (int i = 0; i < CATALOG_JOB_STATUSES; i++)
		total += s->jobs[i];
	ended = completed + s->jobs[CATALOG_JOB_FAILED] + s->jobs[CATALOG_JOB_CANCELLED];
	json_object_set_new(obj, "total_backups", json_integer(total));
	for (int i = 0; i < CATALOG_JOB_STATUSES; i++) {
		char name[32];

		snprintf(name, sizeof(name), "%s_backups",
			 catalog_job_status_name((enum catalog_job_status)i));
		json_object_set_new(obj, name, json_integer(s->jobs[i]));
	}
	json_object_set_new(obj, "full_backups", json_integer(s->fulls));
	json_object_set_new(obj, "incremental_backups", json_integer(s->incrementals));
	json_object_set_new(obj, "bytes_transferred", json_integer(s->bytes_transferred));
	json_object_set_new(obj, "bytes_stored", json_integer(s->bytes_stored));
	json_object_set_new(obj, "success_percent",
			    ended ? json_real(100.0 * (double)completed / (double)ended)
				  : json_null());
	json_object_set_new(obj, "average_duration_seconds",
			    completed ? json_real((double)s->completed_us / 1e6 / (double)completed)
				      : json_null());
	json_object_set_new(obj, "last_backup_at", api_json_time(s->last_backup_at_us));
	return obj;
}

static int get_stats(struct api_request *req, struct err *err)
{
	struct catalog_backup_filter filter = {
		.vm_name = api_uri_query(&req->uri, "vm_name"),
		.vm_context_id = api_uri_query(&req->uri, "vm_context_id"),
		.repository_id = api_uri_query(&req->uri, "repository_id"),
	};
	struct catalog_backup_stats stats;
	int rc = hub_from_catalog(
		catalog_backup_get_stats(hub_catalog(req->hub), &filter, &stats, err));

	if (!rc)
		req->answer = shape_stats(&stats);
	return rc;
}

/* --- routes --------------------------------------------------------------------------------- */

static const struct api_shape disk_shape = API_SHAPE("DiskProgress", disk_members);
static const struct api_shape head_shape = API_SHAPE("ProgressHead", progress_members);

static const struct api_json_member progress_answer_members[] = {
	API_LIST("disks", &disk_shape),
};
static const struct api_shape progress_shape =
	API_SHAPE("Progress", progress_answer_members, .base = &head_shape);

static const struct api_shape line_shape = API_SHAPE("LogLine", line_members);

static const struct api_json_member log_members[] = {
	API_BY_HAND("backup_id", TEXT),
	API_LIST("lines", &line_shape, .what = "the oldest first"),
	API_BY_HAND("next", I64, .what = "where the next page begins: its \"after\""),
};
static const struct api_shape log_shape = API_SHAPE("Log", log_members);

static const struct api_shape cancel_shape = API_SHAPE("Cancel", cancel_members);

static const struct api_json_member cancelled_members[] = {
	API_BY_HAND("backup_id", TEXT),
	API_BY_HAND("status", TEXT, .one_of = "cancelled"),
	API_BY_HAND("already", BOOL),
};
static const struct api_shape cancelled_shape = API_SHAPE("Cancelled", cancelled_members);

static const struct api_json_member stats_members[] = {
	API_BY_HAND("total_backups", I64),
	API_BY_HAND("pending_backups", I64),
	API_BY_HAND("running_backups", I64),
	API_BY_HAND("completed_backups", I64),
	API_BY_HAND("failed_backups", I64),
	API_BY_HAND("cancelled_backups", I64),
	API_BY_HAND("full_backups", I64),
	API_BY_HAND("incremental_backups", I64),
	API_BY_HAND("bytes_transferred", I64),
	API_BY_HAND("bytes_stored", I64),
	API_BY_HAND("success_percent", REAL, .nullable = true),
	API_BY_HAND("average_duration_seconds", REAL, .nullable = true),
	API_BY_HAND("last_backup_at", TIME, .nullable = true),
};
static const struct api_shape stats_shape = API_SHAPE("BackupStats", stats_members);

static const struct api_route job_routes[] = {
	API_ROUTE(GET, "/api/v1/backups/{backup_id}/progress", get_progress, VIEWER,
		  "How far a backup is", .gives = &progress_shape),
	API_ROUTE(GET, "/api/v1/backups/{backup_id}/log", get_log, VIEWER,
		  "What happened to a backup, step by step",
		  .query = API_PARAMS({"after", API_JSON_INT, "lines after the one with this id"},
				      {"limit", API_JSON_INT, "at most so many lines"}),
		  .gives = &log_shape),
	API_ROUTE(POST, "/api/v1/backups/{backup_id}/cancel", post_cancel, OPERATOR,
		  "Cancel a running backup", .takes = &cancel_shape, .may_be_bare = true,
		  .gives = &cancelled_shape),
	API_ROUTE(GET, "/api/v1/backups/stats", get_stats, VIEWER, "Sums over backups",
		  .query = API_PARAMS({"vm_name", API_JSON_TEXT, "of this VM"},
				      {"vm_context_id", API_JSON_TEXT, "of this VM"},
				      {"repository_id", API_JSON_TEXT, "in this repository"}),
		  .gives = &stats_shape),
};
const struct api_noun api_jobs_noun = API_NOUN(
	"Jobs", "The life of a backup: progress, log, cancel, and sums over many.", job_routes);
