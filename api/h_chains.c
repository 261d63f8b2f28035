/* Chains: the points of one disk of a VM in a repository, the full first. */
#include <stdlib.h>
#include <string.h>

#include "api/json.h"
#include "api/routes.h"
#include "base/bytes.h"
#include "catalog/chains.h"

API_WORD_FN(catalog_backup_type_name, enum catalog_backup_type)
API_WORD_FN(catalog_disk_status_name, enum catalog_disk_status)

#define CHAIN struct catalog_chain
static const struct api_json_member chain_members[] = {
	API_AS("chain_id", TEXT, CHAIN, id),
	API_TEXT(CHAIN, vm_context_id),
	API_TEXT(CHAIN, vm_name),
	API_AS("disk_id", INT, CHAIN, disk_index),
	API_TEXT(CHAIN, repository_id),
	API_TEXT(CHAIN, full_backup_id),
	API_TEXT(CHAIN, latest_backup_id),
	API_AS("backup_count", I64, CHAIN, total_backups),
	API_I64(CHAIN, total_size_bytes),
	API_BOOL(CHAIN, active),
	API_AS("created_at", TIME, CHAIN, created_at_us),
	API_AS("updated_at", TIME, CHAIN, updated_at_us),
};

#define POINT struct catalog_backup_disk
static const struct api_json_member point_members[] = {
	API_AS("backup_id", TEXT, POINT, backup_job_id),
	API_INT(POINT, disk_index),
	API_AS("mode", WORD, POINT, mode,
	       API_WORDS(catalog_backup_type_name_int, CATALOG_BACKUP_DIFFERENTIAL)),
	API_AS("status", WORD, POINT, status,
	       API_WORDS(catalog_disk_status_name_int, CATALOG_DISK_FAILED)),
	API_TEXT(POINT, parent_backup_id),
	API_TEXT(POINT, change_id),
	API_I64(POINT, virtual_size_bytes),
	API_AS("bytes_received", I64, POINT, bytes.bytes_transferred),
	API_AS("bytes_zero", I64, POINT, bytes.bytes_zero),
	API_AS("bytes_unchanged", I64, POINT, bytes.bytes_unchanged),
	API_AS("bytes_stored", I64, POINT, bytes.bytes_stored),
	API_TEXT(POINT, qcow2_path),
	API_AS("completed_at", TIME, POINT, completed_at_us),
};

/* One active chain a disk and repository: more than one match means more than one repository, or
 * two VMs of one name. */
static int find_chain(struct api_request *req, const struct catalog_chain_filter *filter,
		      struct catalog_chain *out, struct err *err)
{
	_cleanup_(freep) struct catalog_chain *rows = NULL;
	size_t n = 0;
	int rc = catalog_chains_list(hub_catalog(req->hub), filter, &rows, &n, err);

	if (rc)
		return hub_from_catalog(rc);
	if (!n)
		return err_set(err, HUB_E_NOT_FOUND, "no completed backup of disk %d of VM \"%s\"",
			       filter->disk_index,
			       filter->vm_name[0] ? filter->vm_name : filter->vm_context_id);
	if (n > 1 && strcmp(rows[0].repository_id, rows[1].repository_id))
		return err_set(err, HUB_E_INVALID,
			       "VM \"%s\" has backups in more than one repository: say "
			       "repository_id",
			       rows[0].vm_name);
	if (n > 1)
		return err_set(err, HUB_E_INVALID,
			       "more than one VM is called \"%s\": say vm_context_id",
			       rows[0].vm_name);
	*out = rows[0];
	return 0;
}

static int answer_chain(struct api_request *req, const struct catalog_chain *chain, struct err *err)
{
	_cleanup_(freep) struct catalog_backup_disk *rows = NULL;
	json_t *list;
	size_t n = 0;
	int rc = catalog_chain_points(hub_catalog(req->hub), chain->id, &rows, &n, err);

	if (rc)
		return hub_from_catalog(rc);
	list = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(
			list, api_json_encode(point_members, ARRAY_SIZE(point_members), &rows[i]));
	req->answer = api_json_encode(chain_members, ARRAY_SIZE(chain_members), chain);
	json_object_set_new(req->answer, "backups", list);
	return 0;
}

static int get_chain(struct api_request *req, const char *vm_name, struct err *err)
{
	struct catalog_chain_filter filter = {
		.vm_name = vm_name,
		.vm_context_id = api_uri_query(&req->uri, "vm_context_id"),
		.repository_id = api_uri_query(&req->uri, "repository_id"),
		.active_only = true,
	};
	struct catalog_chain chain;
	int64_t disk = 0;
	int rc = api_query_int(req, "disk_id", 0, INT32_MAX, &disk, err);

	if (rc)
		return rc;
	if (!filter.vm_name[0] && !filter.vm_context_id[0])
		return err_set(err, HUB_E_INVALID, "vm_name or vm_context_id is missing");
	filter.disk_index = (int)disk;
	rc = find_chain(req, &filter, &chain, err);
	return rc ? rc : answer_chain(req, &chain, err);
}

static int get_named_chain(struct api_request *req, struct err *err)
{
	return get_chain(req, api_uri_query(&req->uri, "vm_name"), err);
}

static int get_vm_chain(struct api_request *req, struct err *err)
{
	return get_chain(req, req->args[0], err);
}

/* --- routes --------------------------------------------------------------------------------- */

static const struct api_shape point_shape = API_SHAPE("ChainPoint", point_members);
static const struct api_shape chain_row_shape = API_SHAPE("ChainHead", chain_members);

static const struct api_json_member chain_answer_members[] = {
	API_LIST("backups", &point_shape, .what = "the full backup first"),
};
static const struct api_shape chain_shape =
	API_SHAPE("Chain", chain_answer_members, .base = &chain_row_shape);

#define CHAIN_PARAMS                                                                               \
	{"repository_id", API_JSON_TEXT, "needed when the VM has chains in several repositories"}, \
	{                                                                                          \
		"disk_id", API_JSON_INT, "index of the disk; 0 unless said"                        \
	}

static const struct api_param chain_params[] = {
	{"vm_name", API_JSON_TEXT, "this or vm_context_id"},
	{"vm_context_id", API_JSON_TEXT, "this or vm_name"},
	CHAIN_PARAMS,
	{.name = NULL},
};

static const struct api_route chain_routes[] = {
	API_ROUTE(GET, "/api/v1/backup/chain", get_named_chain, VIEWER,
		  "The active chain of a VM's disk", .query = chain_params, .gives = &chain_shape,
		  .instead = "/api/v1/backups/chain"),
	API_ROUTE(GET, "/api/v1/backups/chain", get_named_chain, VIEWER,
		  "The active chain of a VM's disk", .query = chain_params, .gives = &chain_shape),
	API_ROUTE(GET, "/api/v1/backups/{vm_name}/chain", get_vm_chain, VIEWER, "The same",
		  .query = API_PARAMS(CHAIN_PARAMS), .gives = &chain_shape),
};
const struct api_noun api_chains_noun = API_NOUN(
	"Chains", "A full backup of a disk and the incremental ones on top of it.", chain_routes);
