/* VM contexts: the VMs under management, and their disks. */
#include <string.h>

#include "api/json.h"
#include "api/list.h"
#include "api/routes.h"
#include "api/shapes.h"
#include "base/bytes.h"
#include "catalog/backups.h"
#include "catalog/replications.h"

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
	API_TEXT(VM, policy_id),
	API_TEXT(VM, notes),
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

const struct api_list api_vm_list = {.sorts = "name|capacity|created_at|last_discovered_at"};

static void take_page(const struct api_page *page, struct catalog_vm_filter *filter)
{
	static const char *const words[] = {
		[CATALOG_VM_BY_NAME] = "name",
		[CATALOG_VM_BY_CAPACITY] = "capacity",
		[CATALOG_VM_BY_CREATED] = "created_at",
		[CATALOG_VM_BY_DISCOVERED] = "last_discovered_at",
	};

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (!strcmp(page->sort, words[i]))
			filter->order = (enum catalog_vm_order)i;
	filter->descending = page->descending;
	filter->limit = page->limit;
	filter->offset = page->offset;
}

static int get_vm_contexts(struct api_request *req, struct err *err)
{
	struct catalog_vm_filter filter = {
		.vm_name = api_uri_query(&req->uri, "vm_name"),
		.vcenter_host = api_uri_query(&req->uri, "vcenter_host"),
		.policy_id = api_uri_query(&req->uri, "policy_id"),
		.search = api_uri_query(&req->uri, "search"),
	};
	int rc = api_query_int(req, "credential_id", 1, INT64_MAX, &filter.credential_id, err);

	return rc ? rc : api_answer_vms(req, &filter, err);
}

/* The VMs of @filter, in the order and with the limits of the request. */
int api_answer_vms(struct api_request *req, struct catalog_vm_filter *filter, struct err *err)
{
	_cleanup_(freep) struct catalog_vm_context *rows = NULL;
	struct api_page page;
	int64_t total = 0;
	json_t *list;
	size_t n = 0;
	int rc = api_list_take(req, &page, err);

	if (rc)
		return rc;
	take_page(&page, filter);
	rc = catalog_vm_contexts_list(hub_catalog(req->hub), filter, &rows, &n, &total, err);
	if (rc)
		return hub_from_catalog(rc);
	list = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, api_shape_vm(&rows[i]));
	return api_list_answer(req, &page, "vm_contexts", list, total, err);
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

/* --- recent jobs ---------------------------------------------------------------------------- */

#define RECENT_DEFAULT 20
#define RECENT_MAX     200

API_WORD_FN(catalog_job_status_name, enum catalog_job_status)

/* A job of either kind, as far as they are alike. */
struct recent_job {
	const char *kind, *type;
	char id[CATALOG_ID_SIZE];
	enum catalog_job_status status;
	char error_message[CATALOG_ERROR_SIZE];
	int64_t created_at_us, started_at_us, completed_at_us;
};

#define RECENT struct recent_job
static const struct api_json_member recent_members[] = {
	API_BY_HAND("kind", TEXT, .one_of = "backup|replication"),
	API_AS("id", TEXT, RECENT, id),
	API_BY_HAND("type", TEXT, .one_of = "full|incremental|differential|initial"),
	API_AS("status", WORD, RECENT, status,
	       API_WORDS(catalog_job_status_name_int, CATALOG_JOB_CANCELLED)),
	API_AS("error_message", TEXT, RECENT, error_message),
	API_AS("created_at", TIME, RECENT, created_at_us),
	API_AS("started_at", TIME, RECENT, started_at_us,
	       .what = "null: not yet, or a replication"),
	API_AS("completed_at", TIME, RECENT, completed_at_us),
};
static const struct api_shape recent_shape = API_SHAPE("RecentJob", recent_members);

static const struct api_json_member recent_list_members[] = {
	API_BY_HAND("vm_context_id", TEXT),
	API_BY_HAND("vm_name", TEXT),
	API_LIST("jobs", &recent_shape),
	API_BY_HAND("total", I64, .what = "jobs there are, whatever the limit"),
};
static const struct api_shape recent_list_shape = API_SHAPE("RecentJobs", recent_list_members);

static void recent_backup(const struct catalog_backup *row, struct recent_job *out)
{
	*out = (struct recent_job){
		.kind = "backup",
		.type = catalog_backup_type_name(row->backup_type),
		.status = row->status,
		.created_at_us = row->created_at_us,
		.started_at_us = row->started_at_us,
		.completed_at_us = row->completed_at_us,
	};
	CATALOG_TEXT(out->id, row->id);
	CATALOG_TEXT(out->error_message, row->error_message);
}

static void recent_replication(const struct catalog_replication *row, struct recent_job *out)
{
	*out = (struct recent_job){
		.kind = "replication",
		.type = catalog_replication_type_name(row->type),
		.status = row->status,
		.created_at_us = row->created_at_us,
		.completed_at_us = row->completed_at_us,
	};
	CATALOG_TEXT(out->id, row->id);
	CATALOG_TEXT(out->error_message, row->error_message);
}

static json_t *shape_recent(const struct recent_job *job)
{
	json_t *obj = api_json_encode(recent_members, ARRAY_SIZE(recent_members), job);

	json_object_set_new(obj, "kind", json_string(job->kind));
	json_object_set_new(obj, "type", json_string(job->type));
	return obj;
}

/* Newest first, of two lists that are; no more than @limit. */
static json_t *merge_recent(const struct catalog_backup *backups, size_t backups_n,
			    const struct catalog_replication *replications, size_t replications_n,
			    int64_t limit)
{
	json_t *list = json_array();
	struct recent_job job;
	size_t b = 0, r = 0;

	while ((b < backups_n || r < replications_n) && (int64_t)(b + r) < limit) {
		bool backup = r == replications_n ||
			      (b < backups_n &&
			       backups[b].created_at_us >= replications[r].created_at_us);

		if (backup)
			recent_backup(&backups[b++], &job);
		else
			recent_replication(&replications[r++], &job);
		json_array_append_new(list, shape_recent(&job));
	}
	return list;
}

static int get_recent_jobs(struct api_request *req, struct err *err)
{
	_cleanup_(freep) struct catalog_backup *backups = NULL;
	_cleanup_(freep) struct catalog_replication *replications = NULL;
	struct catalog_backup_filter of_backups = {.limit = RECENT_DEFAULT};
	struct catalog_replication_filter of_replications;
	struct catalog *catalog = hub_catalog(req->hub);
	int64_t backups_total = 0, replications_total = 0;
	size_t backups_n = 0, replications_n = 0;
	struct catalog_vm_context vm;
	int rc = api_query_int(req, "limit", 1, RECENT_MAX, &of_backups.limit, err);

	if (!rc)
		rc = find_vm(req, &vm, err);
	if (rc)
		return rc;
	of_backups.vm_context_id = vm.context_id;
	of_replications = (struct catalog_replication_filter){
		.vm_context_id = vm.context_id,
		.limit = of_backups.limit,
	};
	rc = catalog_backups_list(catalog, &of_backups, &backups, &backups_n, &backups_total, err);
	if (!rc)
		rc = catalog_replications_list(catalog, &of_replications, &replications,
					       &replications_n, &replications_total, err);
	if (rc)
		return hub_from_catalog(rc);
	req->answer = json_pack(
		"{s:o,s:o,s:o,s:I}", "vm_context_id", api_json_text(vm.context_id), "vm_name",
		api_json_text(vm.vm_name), "jobs",
		merge_recent(backups, backups_n, replications, replications_n, of_backups.limit),
		"total", (json_int_t)(backups_total + replications_total));
	return 0;
}

/* --- change, delete ------------------------------------------------------------------------- */

struct change_body {
	char notes[CATALOG_NOTES_SIZE];
	char policy_id[CATALOG_ID_SIZE];
	int64_t credential_id;
};

#define CHANGE struct change_body
static const struct api_json_member change_members[] = {
	API_TEXT(CHANGE, notes),
	API_TEXT(CHANGE, policy_id, .what = "empty: none"),
	API_I64(CHANGE, credential_id, .what = "0: none"),
};
static const struct api_shape change_shape = API_SHAPE("VmChange", change_members);

/* null takes away, as an empty value does. */
static int patch_vm_context(struct api_request *req, struct err *err)
{
	struct change_body body = {.credential_id = CATALOG_NONE};
	struct catalog_vm_change change = {.notes = NULL};
	struct catalog_vm_context vm;
	int rc = api_json_decode(req->body, change_members, ARRAY_SIZE(change_members), &body, err);

	if (rc)
		return rc;
	if (body.credential_id <= 0)
		body.credential_id = CATALOG_NONE;
	change.notes = json_object_get(req->body, "notes") ? body.notes : NULL;
	change.policy_id = json_object_get(req->body, "policy_id") ? body.policy_id : NULL;
	change.credential_id =
		json_object_get(req->body, "credential_id") ? &body.credential_id : NULL;
	rc = hub_from_catalog(
		catalog_vm_context_change(hub_catalog(req->hub), req->args[0], &change, err));
	if (!rc)
		rc = find_vm(req, &vm, err);
	if (!rc)
		req->answer = api_shape_vm(&vm);
	return rc;
}

static int delete_vm_and_backups(struct api_request *req, struct err *err)
{
	struct hub_deleted deleted = {.n = 0};
	int rc = hub_vm_delete_all(req->hub, req->args[0], &deleted, err);

	if (!rc && deleted.gone == deleted.n)
		req->status = API_NO_CONTENT;
	else if (!rc)
		api_answer_deleted(req, &deleted);
	hub_deleted_deinit(&deleted);
	return rc;
}

static int delete_vm_context(struct api_request *req, struct err *err)
{
	const struct catalog_backup_filter of_vm = {
		.vm_context_id = req->args[0],
		.status = &(enum catalog_job_status){CATALOG_JOB_COMPLETED},
		.limit = 1,
	};
	const char *word = api_uri_query(&req->uri, "backups");
	bool keep = !strcmp(word, "keep");
	_cleanup_(freep) struct catalog_backup *rows = NULL;
	int64_t total = 0;
	size_t n = 0;
	int rc;

	if (!strcmp(word, "delete"))
		return delete_vm_and_backups(req, err);
	if (word[0] && !keep)
		return err_set(err, HUB_E_INVALID, "backups must be keep or delete");
	rc = catalog_backups_list(hub_catalog(req->hub), &of_vm, &rows, &n, &total, err);
	if (!rc && total && !keep)
		return err_set(err, HUB_E_STATE,
			       "VM context %s has %lld completed backups: with ?backups=keep it "
			       "goes and they stay, with ?backups=delete they go too",
			       req->args[0], (long long)total);
	if (!rc)
		rc = catalog_vm_context_delete(hub_catalog(req->hub), req->args[0], err);
	if (!rc)
		req->status = API_NO_CONTENT;
	return hub_from_catalog(rc);
}

/* --- routes --------------------------------------------------------------------------------- */

static const struct api_json_member list_members[] = {
	API_LIST("vm_contexts", &api_vm_shape),
	API_BY_HAND("total", I64),
};
const struct api_shape api_vm_list_shape = API_SHAPE("VmList", list_members);

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
				      {"policy_id", API_JSON_TEXT, "with this policy"},
				      {"credential_id", API_JSON_INT, "with this credential"},
				      {"search", API_JSON_TEXT, "with this in the name"}),
		  .list = &api_vm_list, .gives = &api_vm_list_shape),
	API_ROUTE(GET, "/api/v1/vm-contexts/{context_id}", get_vm_context, VIEWER,
		  "One VM, its disks and networks", .gives = &detail_shape),
	API_ROUTE(PATCH, "/api/v1/vm-contexts/{context_id}", patch_vm_context, OPERATOR,
		  "Change notes, policy or credential of a VM", .takes = &change_shape,
		  .gives = &api_vm_shape),
	API_ROUTE(DELETE, "/api/v1/vm-contexts/{context_id}", delete_vm_context, ADMIN,
		  "Take a VM out of management; 409 while it is backed up, or has backups",
		  .query = API_PARAMS({"backups", API_JSON_TEXT,
				       "keep: they stay; delete: they go, in all repositories, "
				       "with their files",
				       "keep|delete"}),
		  .status = API_NO_CONTENT, .later = &api_deleted_shape,
		  .details = "202, with backups=delete: files could not be removed yet; the hub "
			     "tries again (GET /api/v1/deletions)."),
	API_ROUTE(GET, "/api/v1/vm-contexts/{context_id}/disks", get_vm_context_disks, VIEWER,
		  "The disks of a VM, those marked that were missing at the latest discovery",
		  .gives = &disk_list_shape),
	API_ROUTE(GET, "/api/v1/vm-contexts/{context_id}/recent-jobs", get_recent_jobs, VIEWER,
		  "The latest backups and replications of a VM, newest first",
		  .query = API_PARAMS({"limit", API_JSON_INT, "20 unless said, at most 200"}),
		  .gives = &recent_list_shape),
};
const struct api_noun api_vm_contexts_noun =
	API_NOUN("VM contexts", "The VMs under management.", vm_routes);
