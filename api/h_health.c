/* GET /health: the process answers and the catalog can be read. */
#include "api/json.h"
#include "api/routes.h"
#include "catalog/backups.h"

int api_get_health(struct api_request *req, struct err *err)
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
