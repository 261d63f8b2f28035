/* Hubs: who runs backups, when several share one catalog. */
#include <stdlib.h>
#include <string.h>

#include "api/json.h"
#include "api/routes.h"
#include "base/bytes.h"
#include "catalog/hubs.h"

#define HUB struct catalog_hub_status
static const struct api_json_member hub_members[] = {
	API_AS("id", TEXT, HUB, hub.id, .what = "new with every start"),
	API_AS("name", TEXT, HUB, hub.name),
	API_AS("token", I64, HUB, hub.token, .what = "its fencing token: higher is younger"),
	API_BY_HAND("state", TEXT, .one_of = "live|expired"),
	API_BY_HAND("this", BOOL, .what = "the one that answers"),
	API_BY_HAND("version", TEXT, .what = "of the program; empty: not known of another hub"),
	API_AS("running_backups", I64, HUB, running_jobs),
	API_AS("started_at", TIME, HUB, hub.started_at_us),
	API_AS("heartbeat_at", TIME, HUB, hub.heartbeat_at_us),
	API_AS("lease_until", TIME, HUB, hub.lease_until_us),
};
static const struct api_shape hub_shape = API_SHAPE("Hub", hub_members);

static const struct api_json_member list_members[] = {
	API_LIST("hubs", &hub_shape),
	API_BY_HAND("total", I64),
};
static const struct api_shape list_shape = API_SHAPE("HubList", list_members);

static json_t *shape_hub(const struct catalog_hub_status *row)
{
	json_t *obj = api_json_encode(hub_members, ARRAY_SIZE(hub_members), row);

	json_object_set_new(obj, "state", json_string(row->live ? "live" : "expired"));
	json_object_set_new(obj, "this", json_boolean(row->self));
	json_object_set_new(obj, "version", json_string(row->self ? SENDENSE_VERSION : ""));
	return obj;
}

static int get_hubs(struct api_request *req, struct err *err)
{
	_cleanup_(freep) struct catalog_hub_status *rows = NULL;
	json_t *list;
	size_t n = 0;
	int rc = hub_from_catalog(catalog_hubs_status(hub_catalog(req->hub), &rows, &n, err));

	if (rc)
		return rc;
	list = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, shape_hub(&rows[i]));
	req->answer = json_pack("{s:o,s:I}", "hubs", list, "total", (json_int_t)n);
	return 0;
}

static const struct api_route hub_routes[] = {
	API_ROUTE(GET, "/api/v1/hubs", get_hubs, VIEWER,
		  "The hubs of this catalog, by name, and whether their leases last",
		  .gives = &list_shape),
};
const struct api_noun api_hubs_noun =
	API_NOUN("Hubs", "Who runs backups, when several share one catalog.", hub_routes);
