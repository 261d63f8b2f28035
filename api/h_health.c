/* GET /health: the process answers and the catalog can be read. GET /ready: a backup could start.
 */
#include <stdlib.h>

#include "api/json.h"
#include "api/routes.h"
#include "base/bytes.h"
#include "catalog/backups.h"
#include "hub/ready.h"

static int get_health(struct api_request *req, struct err *err)
{
	const struct catalog_backup_filter filter = {.limit = 1};
	struct catalog_backup *rows = NULL;
	size_t n = 0;
	int rc = hub_from_catalog(
		catalog_backups_list(hub_catalog(req->hub), &filter, &rows, &n, NULL, err));

	free(rows);
	if (rc)
		return rc;
	req->answer = json_pack(
		"{s:s,s:s,s:I,s:i,s:o}", "status", "healthy", "version", SENDENSE_VERSION,
		"uptime_seconds", (json_int_t)hub_uptime_s(req->hub), "running_backups",
		(int)hub_running_backups(req->hub), "timestamp", api_json_time(catalog_now_us()));
	return 0;
}

#define CHECK struct hub_check
static const struct api_json_member check_members[] = {
	API_TEXT(CHECK, kind, .one_of = "catalog|nbd|repository"),
	API_TEXT(CHECK, name),
	API_BOOL(CHECK, ok),
	API_TEXT(CHECK, detail),
};

static int get_ready(struct api_request *req, struct err *err)
{
	_cleanup_(freep) struct hub_check *checks = NULL;
	size_t n = 0;
	bool ready = hub_ready(req->hub, &checks, &n);
	json_t *list = json_array();

	(void)err;
	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, api_json_encode(check_members,
							    ARRAY_SIZE(check_members), &checks[i]));
	req->answer = json_pack("{s:b,s:o,s:o}", "ready", ready, "checks", list, "timestamp",
				api_json_time(catalog_now_us()));
	req->status = ready ? 200 : 503;
	return 0;
}

static const struct api_json_member health_members[] = {
	API_BY_HAND("status", TEXT, .one_of = "healthy"),
	API_BY_HAND("version", TEXT),
	API_BY_HAND("uptime_seconds", I64),
	API_BY_HAND("running_backups", INT),
	API_BY_HAND("timestamp", TIME),
};
static const struct api_shape health_shape = API_SHAPE("Health", health_members);

static const struct api_shape check_shape = API_SHAPE("Check", check_members);

static const struct api_json_member ready_members[] = {
	API_BY_HAND("ready", BOOL),
	API_LIST("checks", &check_shape, .what = "what was tried"),
	API_BY_HAND("timestamp", TIME),
};
static const struct api_shape ready_shape = API_SHAPE("Ready", ready_members);

static const struct api_route health_routes[] = {
	API_ROUTE(GET, "/health", get_health, PUBLIC, "The hub answers and its catalog can be read",
		  .gives = &health_shape),
	API_ROUTE(
		GET, "/ready", get_ready, PUBLIC, "A backup could start now", .gives = &ready_shape,
		.details =
			"503 with the same answer when it could not: the catalog is away, the NBD "
			"server does not greet, or no repository can be reached."),
	API_ROUTE(GET, "/api/v1/health", get_health, PUBLIC, "The same", .gives = &health_shape),
};
const struct api_noun api_health_noun = API_NOUN("Health", "Is the hub well?", health_routes);
