/* Deletions: what was deleted and whose files are not all gone yet; and the answer of the calls
 * that delete. */
#include "api/json.h"
#include "api/list.h"
#include "api/routes.h"
#include "api/shapes.h"
#include "base/bytes.h"
#include "hub/backup_delete.h"

API_WORD_FN(catalog_backup_type_name, enum catalog_backup_type)

#define D struct catalog_deletion
static const struct api_json_member deletion_members[] = {
	API_TEXT(D, backup_id),
	API_TEXT(D, vm_context_id),
	API_TEXT(D, vm_name),
	API_TEXT(D, repository_id),
	API_AS("backup_type", WORD, D, backup_type,
	       API_WORDS(catalog_backup_type_name_int, CATALOG_BACKUP_DIFFERENTIAL)),
	API_BY_HAND("status", TEXT, .one_of = "deleting|deleted",
		    .what = "deleting: files are still there"),
	API_I64(D, size_bytes),
	API_I64(D, image_count),
	API_I64(D, attempts),
	API_TEXT(D, error_message, .what = "why the last attempt to remove its files failed"),
	API_AS("backup_created_at", TIME, D, backup_created_at_us),
	API_AS("requested_at", TIME, D, created_at_us),
	API_AS("last_try_at", TIME, D, last_try_at_us),
	API_AS("retry_at", TIME, D, retry_at_us),
};
static const struct api_shape deletion_shape = API_SHAPE("Deletion", deletion_members);

static json_t *shape_deletion(const struct catalog_deletion *row, bool gone)
{
	json_t *obj = api_json_encode(deletion_members, ARRAY_SIZE(deletion_members), row);

	json_object_set_new(obj, "status", json_string(gone ? "deleted" : "deleting"));
	return obj;
}

static const struct api_json_member deleted_members[] = {
	API_BY_HAND("status", TEXT, .one_of = "deleting|deleted"),
	API_LIST("deletions", &deletion_shape),
	API_BY_HAND("total", I64, .what = "backups that were deleted"),
	API_BY_HAND("remaining", I64, .what = "of those, with files still to be removed"),
};
const struct api_shape api_deleted_shape = API_SHAPE("Deleted", deleted_members);

void api_answer_deleted(struct api_request *req, const struct hub_deleted *deleted)
{
	const bool all = deleted->gone == deleted->n;
	json_t *list = json_array();

	for (size_t i = 0; i < deleted->n; i++)
		json_array_append_new(
			list, shape_deletion(&deleted->entries[i].row, deleted->entries[i].gone));
	req->answer = json_pack("{s:s,s:o,s:I,s:I}", "status", all ? "deleted" : "deleting",
				"deletions", list, "total", (json_int_t)deleted->n, "remaining",
				(json_int_t)(deleted->n - deleted->gone));
	if (!all)
		req->status = API_ACCEPTED;
}

static int get_deletions(struct api_request *req, struct err *err)
{
	_cleanup_(freep) struct catalog_deletion *rows = NULL;
	json_t *list;
	size_t n = 0;
	int rc = catalog_deletions_list(hub_catalog(req->hub),
					api_uri_query(&req->uri, "repository_id"), &rows, &n, err);

	if (rc)
		return hub_from_catalog(rc);
	list = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, shape_deletion(&rows[i], false));
	return api_list_whole(req, "deletions", list, err);
}

/* --- routes --------------------------------------------------------------------------------- */

static const struct api_json_member list_members[] = {
	API_LIST("deletions", &deletion_shape),
	API_BY_HAND("total", I64),
};
static const struct api_shape list_shape = API_SHAPE("DeletionList", list_members);

static const struct api_list deletion_list = {
	.sorts = "requested_at|vm_name|size_bytes|attempts|last_try_at",
};

static const struct api_route deletion_routes[] = {
	API_ROUTE(GET, "/api/v1/deletions", get_deletions, VIEWER,
		  "Deleted backups whose files are not all gone yet, and why",
		  .query = API_PARAMS({"repository_id", API_JSON_TEXT, "in this repository"}),
		  .list = &deletion_list, .gives = &list_shape),
};
const struct api_noun api_deletions_noun =
	API_NOUN("Deletions", "Deleted backups with files left.", deletion_routes);
