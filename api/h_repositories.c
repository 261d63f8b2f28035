/* Repositories: create, list, look at one. */
#include <stdlib.h>
#include <string.h>

#include "api/json.h"
#include "api/list.h"
#include "api/routes.h"
#include "base/bytes.h"
#include "hub/repositories.h"

API_WORD_FN(catalog_repository_type_name, enum catalog_repository_type)

#define REPO struct catalog_repository
static const struct api_json_member storage_members[] = {
	API_AS("total_bytes", I64, REPO, total_size_bytes),
	API_AS("used_bytes", I64, REPO, used_size_bytes),
	API_AS("available_bytes", I64, REPO, available_size_bytes),
	API_BY_HAND("used_percent", REAL),
	API_AS("backup_count", I64, REPO, backup_count),
	API_AS("last_check_at", TIME, REPO, last_check_at_us),
};
static const struct api_shape storage_shape = API_SHAPE("RepositoryStorage", storage_members);

static const struct api_json_member repo_members[] = {
	API_TEXT(REPO, id),
	API_TEXT(REPO, name),
	API_AS("type", WORD, REPO, type,
	       API_WORDS(catalog_repository_type_name_int, CATALOG_REPOSITORY_AZURE)),
	API_BOOL(REPO, enabled),
	API_AS("config", RAW, REPO, config),
	API_BOOL(REPO, is_immutable),
	API_I64(REPO, min_retention_days),
	API_AS("created_at", TIME, REPO, created_at_us),
	API_AS("updated_at", TIME, REPO, updated_at_us),
	API_OBJECT("storage_info", &storage_shape),
};
static const struct api_shape repo_shape = API_SHAPE("Repository", repo_members);

static const struct api_json_member repo_asked[] = {
	API_TEXT(REPO, name, .required = true),
	API_BY_HAND("type", TEXT, .required = true, .one_of = "local|nfs|cifs|smb|s3|azure"),
	API_BY_HAND("config", ANY, .required = true,
		    .what = "of the type: local {path, compression}"),
	API_BOOL(REPO, enabled),
	API_BOOL(REPO, is_immutable),
	API_I64(REPO, min_retention_days),
};
static const struct api_shape create_shape = API_SHAPE("RepositoryCreate", repo_asked);

static json_t *shape_storage(const struct catalog_repository *repo)
{
	json_t *storage = api_json_encode(storage_members, ARRAY_SIZE(storage_members), repo);
	double percent = repo->total_size_bytes ? 100.0 * (double)repo->used_size_bytes /
							  (double)repo->total_size_bytes
						: 0;

	json_object_set_new(storage, "used_percent", json_real((int)(percent * 100) / 100.0));
	return storage;
}

static json_t *shape_repository(const struct catalog_repository *repo)
{
	json_t *obj = api_json_encode(repo_members, ARRAY_SIZE(repo_members), repo);

	json_object_set_new(obj, "storage_info", shape_storage(repo));
	return obj;
}

static int take_config(const json_t *body, char *text, size_t size, struct err *err)
{
	const json_t *config = json_object_get(body, "config");
	size_t n;

	if (!json_is_object(config))
		return err_set(err, HUB_E_INVALID, "config must be a JSON object");
	n = json_dumpb(config, text, size - 1, JSON_COMPACT);
	if (!n || n >= size)
		return err_set(err, HUB_E_INVALID, "config is larger than %zu bytes", size - 1);
	text[n] = '\0';
	return 0;
}

static int take_type_and_config(const json_t *body, struct catalog_repository *repo,
				struct err *err)
{
	const char *type = json_string_value(json_object_get(body, "type"));

	if (!type || !catalog_repository_type_parse(type, &repo->type))
		return err_set(err, HUB_E_INVALID,
			       "type must be one of local, nfs, cifs, s3, azure");
	return take_config(body, repo->config, sizeof(repo->config), err);
}

static int post_repository(struct api_request *req, struct err *err)
{
	struct catalog_repository repo = {.enabled = true};
	int rc = api_json_decode(req->body, repo_asked, ARRAY_SIZE(repo_asked), &repo, err);

	if (!rc)
		rc = take_type_and_config(req->body, &repo, err);
	/* Nobody may believe in a protection that is not there. */
	if (!rc && repo.is_immutable)
		rc = err_set(err, HUB_E_INVALID, "is_immutable is not supported in this version");
	if (!rc)
		rc = hub_repository_create(req->hub, &repo, err);
	if (rc)
		return rc;
	req->answer = shape_repository(&repo);
	return 0;
}

static int get_repositories(struct api_request *req, struct err *err)
{
	_cleanup_(freep) struct catalog_repository *rows = NULL;
	json_t *list;
	size_t n = 0;
	int rc = hub_repositories_list(req->hub, &rows, &n, err);

	if (rc)
		return rc;
	list = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, shape_repository(&rows[i]));
	return api_list_whole(req, "repositories", list, err);
}

static int get_repository(struct api_request *req, struct err *err)
{
	struct catalog_repository repo;
	int rc = hub_repository_get(req->hub, req->args[0], &repo, err);

	if (!rc)
		req->answer = shape_repository(&repo);
	return rc;
}

/* --- change, delete ------------------------------------------------------------------------- */

struct change_body {
	char name[CATALOG_NAME_SIZE];
	bool enabled;
	int64_t min_retention_days;
};

#define CHANGE struct change_body
static const struct api_json_member change_members[] = {
	API_TEXT(CHANGE, name),
	API_BOOL(CHANGE, enabled),
	API_I64(CHANGE, min_retention_days),
	API_BY_HAND("config", ANY, .what = "the whole of it; another place only without backups"),
};
static const struct api_shape change_shape = API_SHAPE("RepositoryChange", change_members);

static bool names(const json_t *body, const char *member)
{
	const json_t *v = json_object_get(body, member);

	return v && !json_is_null(v);
}

static int patch_repository(struct api_request *req, struct err *err)
{
	struct catalog_repository repo;
	struct hub_repository_change change = {.name = NULL};
	struct change_body body = {.name = ""};
	char config[CATALOG_CONFIG_SIZE];
	int rc = api_json_decode(req->body, change_members, ARRAY_SIZE(change_members), &body, err);

	if (!rc && names(req->body, "is_immutable") &&
	    !json_is_false(json_object_get(req->body, "is_immutable")))
		rc = err_set(err, HUB_E_INVALID, "is_immutable is not supported in this version");
	if (!rc && names(req->body, "type"))
		rc = err_set(err, HUB_E_INVALID, "the type of a repository cannot be changed");
	if (!rc && names(req->body, "config"))
		rc = take_config(req->body, config, sizeof(config), err);
	if (rc)
		return rc;
	change.name = names(req->body, "name") ? body.name : NULL;
	change.config = names(req->body, "config") ? config : NULL;
	change.enabled = names(req->body, "enabled") ? &body.enabled : NULL;
	change.min_retention_days =
		names(req->body, "min_retention_days") ? &body.min_retention_days : NULL;
	rc = hub_repository_update(req->hub, req->args[0], &change, err);
	if (!rc)
		rc = hub_repository_get(req->hub, req->args[0], &repo, err);
	if (!rc)
		req->answer = shape_repository(&repo);
	return rc;
}

static int delete_repository(struct api_request *req, struct err *err)
{
	int rc = hub_from_catalog(
		catalog_repository_delete(hub_catalog(req->hub), req->args[0], err));

	if (!rc)
		req->status = API_NO_CONTENT;
	return rc;
}

/* --- storage -------------------------------------------------------------------------------- */

/* That it does not work is what was asked for, no error. */
static int answer_test(struct api_request *req, const struct catalog_repository *repo)
{
	struct err why = ERR_INIT;
	int rc = hub_repository_test(req->hub, repo, &why);

	req->answer = json_pack("{s:b,s:o,s:o}", "success", !rc, "id",
				repo->id[0] ? api_json_text(repo->id) : json_null(), "error",
				api_json_text(rc ? why.text : ""));
	return 0;
}

static int post_test(struct api_request *req, struct err *err)
{
	struct catalog_repository repo;
	int rc = hub_from_catalog(
		catalog_repository_get(hub_catalog(req->hub), req->args[0], &repo, err));

	return rc ? rc : answer_test(req, &repo);
}

static int post_test_config(struct api_request *req, struct err *err)
{
	struct catalog_repository repo = {.name = "to be tested"};
	int rc = take_type_and_config(req->body, &repo, err);

	return rc ? rc : answer_test(req, &repo);
}

static int get_storage(struct api_request *req, struct err *err)
{
	struct catalog_repository repo;
	int rc = hub_repository_storage(req->hub, req->args[0], &repo, err);

	if (!rc)
		req->answer = shape_storage(&repo);
	return rc;
}

/* --- routes --------------------------------------------------------------------------------- */

static const struct api_json_member list_members[] = {
	API_LIST("repositories", &repo_shape),
	API_BY_HAND("total", I64),
};
static const struct api_shape list_shape = API_SHAPE("RepositoryList", list_members);

static const struct api_json_member test_members[] = {
	API_BY_HAND("type", TEXT, .required = true, .one_of = "local|nfs|cifs|smb|s3|azure"),
	API_BY_HAND("config", ANY, .required = true),
};
static const struct api_shape test_shape = API_SHAPE("RepositoryTest", test_members);

static const struct api_json_member tested_members[] = {
	API_BY_HAND("success", BOOL, .what = "a file was written, read and deleted"),
	API_BY_HAND("id", TEXT, .nullable = true),
	API_BY_HAND("error", TEXT, .what = "why not"),
};
static const struct api_shape tested_shape = API_SHAPE("RepositoryTested", tested_members);

#define ONE "/api/v1/repositories/{repository_id}"

static const struct api_list repository_list = {.sorts = "name|type|enabled|created_at|updated_at"};

static const struct api_route repository_routes[] = {
	API_ROUTE(POST, "/api/v1/repositories", post_repository, ADMIN,
		  "Create a repository: its storage is made and probed first", .creates = true,
		  .takes = &create_shape, .gives = &repo_shape, .status = 201),
	API_ROUTE(GET, "/api/v1/repositories", get_repositories, VIEWER, "List repositories",
		  .list = &repository_list, .gives = &list_shape),
	API_ROUTE(POST, "/api/v1/repositories/test", post_test_config, ADMIN,
		  "Whether a repository could be made so: write, read, delete",
		  .takes = &test_shape, .gives = &tested_shape),
	API_ROUTE(POST, "/api/v1/repositories/refresh-storage", get_repositories, OPERATOR,
		  "Look how much space there is in all of them", .list = &repository_list,
		  .gives = &list_shape),
	API_ROUTE(GET, ONE, get_repository, VIEWER, "One repository", .gives = &repo_shape),
	API_ROUTE(PATCH, ONE, patch_repository, ADMIN, "Change what is named of a repository",
		  .takes = &change_shape, .gives = &repo_shape),
	API_ROUTE(DELETE, ONE, delete_repository, ADMIN,
		  "Forget a repository that holds no backups; its folder stays",
		  .status = API_NO_CONTENT),
	API_ROUTE(POST, ONE "/test", post_test, OPERATOR, "Whether it works: write, read, delete",
		  .gives = &tested_shape),
	API_ROUTE(GET, ONE "/storage", get_storage, VIEWER, "How much space there is, now",
		  .gives = &storage_shape),
};
const struct api_noun api_repositories_noun =
	API_NOUN("Repositories", "Where backups are kept.", repository_routes);
