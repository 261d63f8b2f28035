/* VM contexts: the VMs under management, and their disks. */
#include <string.h>

#include "api/json.h"
#include "api/routes.h"
#include "api/shapes.h"
#include "base/bytes.h"

#define VM struct catalog_vm_context
static const struct api_json_member vm_members[] = {
	API_TEXT(VM, context_id),
	API_TEXT(VM, vm_name),
	API_TEXT(VM, vmware_vm_id),
	API_TEXT(VM, vm_path),
	API_TEXT(VM, vcenter_host),
	API_TEXT(VM, datacenter),
	API_TEXT(VM, power_state),
	API_TEXT(VM, os_type),
	API_TEXT(VM, vmx_version),
	API_I64(VM, cpu_count),
	API_I64(VM, memory_mb),
	API_I64(VM, credential_id),
	API_I64(VM, disk_count),
	API_I64(VM, total_capacity_bytes),
	API_AS("created_at", TIME, VM, created_at_us),
	API_AS("updated_at", TIME, VM, updated_at_us),
	API_AS("last_discovered_at", TIME, VM, last_discovered_at_us),
};

#define DISK struct catalog_vm_disk
static const struct api_json_member disk_members[] = {
	API_INT(DISK, disk_index),
	API_INT(DISK, hardware_order),
	API_TEXT(DISK, disk_id),
	API_I64(DISK, vmware_disk_key),
	API_TEXT(DISK, label),
	API_TEXT(DISK, path),
	API_TEXT(DISK, datastore),
	API_I64(DISK, capacity_bytes),
	API_I64(DISK, size_gb),
	API_INT(DISK, unit_number),
	API_TEXT(DISK, provisioning_type),
	API_TEXT(DISK, controller),
	API_TEXT(DISK, job_id),
	API_BOOL(DISK, missing),
	API_AS("created_at", TIME, DISK, created_at_us),
	API_AS("updated_at", TIME, DISK, updated_at_us),
};

const struct api_shape api_vm_shape = API_SHAPE("Vm", vm_members);
static const struct api_shape disk_shape = API_SHAPE("VmDisk", disk_members);

json_t *api_shape_vm(const struct catalog_vm_context *vm)
{
	return api_json_encode(vm_members, ARRAY_SIZE(vm_members), vm);
}

/* The VM's disks, those missing at the latest discovery included and marked. */
static int disks_array(struct api_request *req, const char *context_id, json_t **out,
		       struct err *err)
{
	_cleanup_(freep) struct catalog_vm_disk *rows = NULL;
	size_t n = 0;
	int rc = catalog_vm_disks_list(hub_catalog(req->hub), context_id, true, &rows, &n, err);

	if (rc)
		return hub_from_catalog(rc);
	*out = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(
			*out, api_json_encode(disk_members, ARRAY_SIZE(disk_members), &rows[i]));
	return 0;
}

static int find_vm(struct api_request *req, struct catalog_vm_context *vm, struct err *err)
{
	return hub_from_catalog(
		catalog_vm_context_get(hub_catalog(req->hub), req->args[0], vm, err));
}

static int get_vm_contexts(struct api_request *req, struct err *err)
{
	_cleanup_(freep) struct catalog_vm_context *rows = NULL;
	struct catalog_vm_filter filter = {
		.vm_name = api_uri_query(&req->uri, "vm_name"),
		.vcenter_host = api_uri_query(&req->uri, "vcenter_host"),
	};
	int64_t total = 0;
	json_t *list;
	size_t n = 0;
	int rc = api_query_int(req, "limit", 0, INT32_MAX, &filter.limit, err);

	if (!rc)
		rc = api_query_int(req, "offset", 0, INT32_MAX, &filter.offset, err);
	if (rc)
		return rc;
	rc = catalog_vm_contexts_list(hub_catalog(req->hub), &filter, &rows, &n, &total, err);
	if (rc)
		return hub_from_catalog(rc);
	list = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, api_shape_vm(&rows[i]));
	req->answer = json_pack("{s:o,s:I}", "vm_contexts", list, "total", (json_int_t)total);
	return 0;
}

static int get_vm_context(struct api_request *req, struct err *err)
{
	_cleanup_(freep) char *networks = NULL;
	struct catalog_vm_context vm;
	json_t *disks = NULL, *nets;
	int rc = find_vm(req, &vm, err);

	if (!rc)
		rc = hub_from_catalog(catalog_vm_context_networks(hub_catalog(req->hub),
								  vm.context_id, &networks, err));
	if (!rc)
		rc = disks_array(req, vm.context_id, &disks, err);
	if (rc)
		return rc;
	nets = json_loads(networks, 0, NULL);
	req->answer = api_shape_vm(&vm);
	json_object_set_new(req->answer, "disks", disks);
	json_object_set_new(req->answer, "networks", nets ? nets : json_array());
	return 0;
}

static int get_vm_context_disks(struct api_request *req, struct err *err)
{
	struct catalog_vm_context vm;
	json_t *disks = NULL;
	int rc = find_vm(req, &vm, err);

	if (!rc)
		rc = disks_array(req, vm.context_id, &disks, err);
	if (rc)
		return rc;
	req->answer = json_pack("{s:o,s:o,s:o,s:I}", "vm_context_id", api_json_text(vm.context_id),
				"vm_name", api_json_text(vm.vm_name), "disks", disks, "total",
				(json_int_t)json_array_size(disks));
	return 0;
}

/* --- routes --------------------------------------------------------------------------------- */

static const struct api_json_member list_members[] = {
	API_LIST("vm_contexts", &api_vm_shape),
	API_BY_HAND("total", I64),
};
static const struct api_shape list_shape = API_SHAPE("VmList", list_members);

static const struct api_json_member network_members[] = {
	API_BY_HAND("label", TEXT, .optional = true),
	API_BY_HAND("network_name", TEXT, .optional = true),
};
static const struct api_shape network_shape = API_SHAPE("VmNetwork", network_members, .open = true);

static const struct api_json_member detail_members[] = {
	API_LIST("disks", &disk_shape),
	API_LIST("networks", &network_shape),
};
static const struct api_shape detail_shape =
	API_SHAPE("VmWithDisks", detail_members, .base = &api_vm_shape);

static const struct api_json_member disk_list_members[] = {
	API_BY_HAND("vm_context_id", TEXT),
	API_BY_HAND("vm_name", TEXT),
	API_LIST("disks", &disk_shape),
	API_BY_HAND("total", I64),
};
static const struct api_shape disk_list_shape = API_SHAPE("VmDiskList", disk_list_members);

static const struct api_route vm_routes[] = {
	API_ROUTE(GET, "/api/v1/vm-contexts", get_vm_contexts, VIEWER, "List VMs under management",
		  .query = API_PARAMS({"vm_name", API_JSON_TEXT, "of this name"},
				      {"vcenter_host", API_JSON_TEXT, "of this vCenter"},
				      {"limit", API_JSON_INT, "at most so many"},
				      {"offset", API_JSON_INT, "without the first so many"}),
		  .gives = &list_shape),
	API_ROUTE(GET, "/api/v1/vm-contexts/{context_id}", get_vm_context, VIEWER,
		  "One VM, its disks and networks", .gives = &detail_shape),
	API_ROUTE(GET, "/api/v1/vm-contexts/{context_id}/disks", get_vm_context_disks, VIEWER,
		  "The disks of a VM, those marked that were missing at the latest discovery",
		  .gives = &disk_list_shape),
};
const struct api_noun api_vm_contexts_noun =
	API_NOUN("VM contexts", "The VMs under management.", vm_routes);
