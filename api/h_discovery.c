/* Discovery: ask the agent, list what it sees, take VMs under management. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "api/json.h"
#include "api/routes.h"
#include "api/shapes.h"
#include "base/bytes.h"
#include "hub/agent.h"
#include "hub/discovery.h"

#define VM_NAMES_MAX 10000

#define WHERE struct hub_discovery
static const struct api_json_member where_members[] = {
	API_TEXT(WHERE, vcenter),    API_TEXT(WHERE, username), API_TEXT(WHERE, password),
	API_TEXT(WHERE, datacenter), API_TEXT(WHERE, filter),	API_I64(WHERE, credential_id),
};

static int take_where(struct api_request *req, struct hub_discovery *where, struct err *err)
{
	*where = (struct hub_discovery){.credential_id = CATALOG_NONE};
	return api_json_decode(req->body, where_members, ARRAY_SIZE(where_members), where, err);
}

static int post_discover_vms(struct api_request *req, struct err *err)
{
	struct hub_discovery where;
	int rc = take_where(req, &where, err);

	if (!rc)
		rc = hub_discover(req->hub, &where, &req->answer, err);
	if (rc)
		return rc;
	json_object_set_new(
		req->answer, "total",
		json_integer((json_int_t)json_array_size(json_object_get(req->answer, "vms"))));
	return 0;
}

/* Borrowed from the body, in an array to free(). */
static int take_names(const json_t *body, const char ***out, size_t *n, struct err *err)
{
	const json_t *list = json_object_get(body, "vm_names"), *v;
	const char **names;
	size_t i;

	if (!json_is_array(list) || !json_array_size(list) || json_array_size(list) > VM_NAMES_MAX)
		return err_set(err, HUB_E_INVALID, "vm_names must be a list of 1 to %d names",
			       VM_NAMES_MAX);
	names = calloc(json_array_size(list), sizeof(*names));
	if (!names)
		return err_sys(err, -ENOMEM, "vm_names");
	json_array_foreach (list, i, v) {
		names[i] = json_string_value(v);
		if (names[i] && names[i][0])
			continue;
		free(names);
		return err_set(err, HUB_E_INVALID, "vm_names must hold non-empty strings");
	}
	*out = names;
	*n = json_array_size(list);
	return 0;
}

static json_t *added_answer(const struct hub_added_vm *rows, size_t n)
{
	json_t *list = json_array();
	json_int_t added = 0;

	for (size_t i = 0; i < n; i++) {
		json_t *vm = api_shape_vm(&rows[i].vm);

		added += !rows[i].error[0];
		json_object_set_new(vm, "status",
				    json_string(rows[i].error[0] ? "failed" : "added"));
		json_object_set_new(vm, "error", api_json_text(rows[i].error));
		json_array_append_new(list, vm);
	}
	return json_pack("{s:b,s:I,s:I,s:o}", "success", added == (json_int_t)n, "added", added,
			 "failed", (json_int_t)n - added, "added_vms", list);
}

static int post_add_vms(struct api_request *req, struct err *err)
{
	_cleanup_(freep) const char **names = NULL;
	_cleanup_(freep) struct hub_added_vm *rows = NULL;
	struct hub_discovery where;
	size_t n = 0;
	int rc = take_where(req, &where, err);

	if (!rc)
		rc = take_names(req->body, &names, &n, err);
	if (!rc)
		rc = hub_add_vms(req->hub, &where, names, n, &rows, err);
	if (rc)
		return rc;
	req->answer = added_answer(rows, n);
	return 0;
}

/* --- what could be, what is left over ------------------------------------------------------- */

static json_t *preview_vm(const json_t *vm)
{
	const char *known = hub_json_text(vm, "context_id");
	const json_t *disks = json_object_get(vm, "disks"), *disk;
	json_int_t bytes = 0;
	size_t i;

	json_array_foreach (disks, i, disk) {
		int64_t capacity = hub_json_i64(disk, "capacity_bytes", 0);

		bytes += capacity > 0 && capacity < INT64_MAX - bytes ? capacity : 0;
	}
	return json_pack("{s:o,s:o,s:o,s:o,s:I,s:I,s:o,s:s}", "id",
			 api_json_text(hub_json_text(vm, "id")), "name",
			 api_json_text(hub_json_text(vm, "name")), "path",
			 api_json_text(hub_json_text(vm, "path")), "power_state",
			 api_json_text(hub_json_text(vm, "power_state")), "disk_count",
			 (json_int_t)json_array_size(disks), "total_capacity_bytes", bytes,
			 "context_id", api_json_text(known), "status", known[0] ? "known" : "new");
}

static int post_preview(struct api_request *req, struct err *err)
{
	struct hub_discovery where;
	json_t *seen = NULL, *list, *vm;
	json_int_t fresh = 0;
	size_t i;
	int rc = take_where(req, &where, err);

	if (!rc)
		rc = hub_discover(req->hub, &where, &seen, err);
	if (rc)
		return rc;
	list = json_array();
	json_array_foreach (json_object_get(seen, "vms"), i, vm) {
		fresh += !hub_json_text(vm, "context_id")[0];
		json_array_append_new(list, preview_vm(vm));
	}
	req->answer = json_pack("{s:o,s:I,s:I}", "vms", list, "total",
				(json_int_t)json_array_size(list), "new", fresh);
	json_decref(seen);
	return 0;
}

static int get_ungrouped(struct api_request *req, struct err *err)
{
	struct catalog_vm_filter filter = {.without_policy = true};

	return api_answer_vms(req, &filter, err);
}

/* --- routes --------------------------------------------------------------------------------- */

static const struct api_shape where_shape = API_SHAPE("DiscoverVms", where_members);

static const struct api_json_member place_members[] = {
	API_BY_HAND("host", TEXT, .optional = true),
	API_BY_HAND("datacenter", TEXT, .optional = true),
};
static const struct api_shape place_shape =
	API_SHAPE("DiscoveredPlace", place_members, .open = true);

static const struct api_json_member seen_members[] = {
	API_BY_HAND("context_id", TEXT, .what = "empty when not under management"),
};
static const struct api_shape seen_shape = API_SHAPE("DiscoveredVm", seen_members, .open = true);

static const struct api_json_member discovered_members[] = {
	API_OBJECT("vcenter", &place_shape, .optional = true),
	API_LIST("vms", &seen_shape, .what = "as the capture agent describes them"),
	API_BY_HAND("total", I64),
};
static const struct api_shape discovered_shape =
	API_SHAPE("Discovered", discovered_members, .open = true);

static const struct api_json_member add_members[] = {
	API_TEXTS("vm_names", .required = true, .what = "names, or the agent's VM ids"),
};
static const struct api_shape add_shape = API_SHAPE("AddVms", add_members, .base = &where_shape);

static const struct api_json_member added_vm_members[] = {
	API_BY_HAND("status", TEXT, .one_of = "added|failed"),
	API_BY_HAND("error", TEXT, .what = "why it was not added"),
};
static const struct api_shape added_vm_shape =
	API_SHAPE("AddedVm", added_vm_members, .base = &api_vm_shape);

static const struct api_json_member added_members[] = {
	API_BY_HAND("success", BOOL, .what = "all were added"),
	API_BY_HAND("added", I64),
	API_BY_HAND("failed", I64),
	API_LIST("added_vms", &added_vm_shape),
};
static const struct api_shape added_shape = API_SHAPE("AddedVms", added_members);

static const struct api_json_member preview_vm_members[] = {
	API_BY_HAND("id", TEXT, .what = "the agent's"),
	API_BY_HAND("name", TEXT),
	API_BY_HAND("path", TEXT),
	API_BY_HAND("power_state", TEXT),
	API_BY_HAND("disk_count", I64),
	API_BY_HAND("total_capacity_bytes", I64),
	API_BY_HAND("context_id", TEXT),
	API_BY_HAND("status", TEXT, .one_of = "new|known"),
};
static const struct api_shape preview_vm_shape = API_SHAPE("PreviewedVm", preview_vm_members);

static const struct api_json_member preview_members[] = {
	API_LIST("vms", &preview_vm_shape),
	API_BY_HAND("total", I64),
	API_BY_HAND("new", I64, .what = "not under management yet"),
};
static const struct api_shape preview_shape = API_SHAPE("Preview", preview_members);

static const struct api_route discovery_routes[] = {
	API_ROUTE(POST, "/api/v1/discovery/discover-vms", post_discover_vms, OPERATOR,
		  "The VMs that the capture agent sees now", .takes = &where_shape,
		  .gives = &discovered_shape),
	API_ROUTE(POST, "/api/v1/discovery/add-vms", post_add_vms, OPERATOR,
		  "Take VMs under management, or refresh them", .creates = true,
		  .takes = &add_shape, .gives = &added_shape),
	API_ROUTE(POST, "/api/v1/discovery/bulk-add", post_add_vms, OPERATOR, "The same as add-vms",
		  .creates = true, .takes = &add_shape, .gives = &added_shape),
	API_ROUTE(POST, "/api/v1/discovery/preview", post_preview, OPERATOR,
		  "What adding would bring: the VMs in short, new and known", .takes = &where_shape,
		  .gives = &preview_shape),
	API_ROUTE(GET, "/api/v1/discovery/ungrouped-vms", get_ungrouped, VIEWER,
		  "VMs under management that no policy and no schedule cares for",
		  .list = &api_vm_list, .gives = &api_vm_list_shape),
};
const struct api_noun api_discovery_noun =
	API_NOUN("Discovery", "Find VMs and take them under management.", discovery_routes);
