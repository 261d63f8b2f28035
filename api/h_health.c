/* GET /health: the process answers and the catalog can be read. */
#include "api/json.h"
#include "api/routes.h"
#include "catalog/backups.h"

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

static const struct api_json_member health_members[] = {
	API_BY_HAND("status", TEXT, .one_of = "healthy"),
	API_BY_HAND("version", TEXT),
	API_BY_HAND("uptime_seconds", I64),
	API_BY_HAND("running_backups", INT),
	API_BY_HAND("timestamp", TIME),
};
static const struct api_shape health_shape = API_SHAPE("Health", health_members);

static const struct api_route health_routes[] = {
	API_ROUTE(GET, "/health", get_health, PUBLIC, "The hub answers and its catalog can be read",
		  .gives = &health_shape),
	API_ROUTE(GET, "/api/v1/health", get_health, PUBLIC, "The same", .gives = &health_shape),
};
const struct api_noun api_health_noun = API_NOUN("Health", "Is the hub well?", health_routes);
