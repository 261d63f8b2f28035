/*
 * The types of repository this program has, and what is common to all of them. A new type is one
 * file with its table, and one row here.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "hub/repo/repo.h"
#include "hub/repo/repo_types.h"
#include "qcow2/qcow2.h"

static const struct repo_ops *const repo_types[] = {
	&repo_local_ops,
};

const struct repo_ops *repo_ops_of(enum catalog_repository_type type)
{
	for (size_t i = 0; i < ARRAY_SIZE(repo_types); i++)
		if (repo_types[i]->type == type)
			return repo_types[i];
	return NULL;
}

static json_t *repo_parse_config(const struct catalog_repository *row, struct err *err)
{
	json_error_t jerr;
	json_t *config = json_loads(row->config, JSON_REJECT_DUPLICATES, &jerr);

	if (!config)
		err_set(err, -EINVAL, "configuration of repository \"%s\" is not JSON: %s",
			row->name, jerr.text);
	else if (!json_is_object(config)) {
		err_set(err, -EINVAL, "configuration of repository \"%s\" is not a JSON object",
			row->name);
		json_decref(config);
		config = NULL;
	}
	return config;
}

/* "compression" is understood by every type. */
static int repo_take_compression(struct repo *repo, const json_t *config, struct err *err)
{
	const json_t *value = json_object_get(config, "compression");

	if (!value || json_is_null(value))
		return 0;
	if (json_is_string(value) &&
	    qcow2_parse_compression(json_string_value(value), &repo->zstd_level))
		return 0;
	return err_set(
		err, -EINVAL,
		"config.compression must be \"none\", \"zstd\" or \"zstd:LEVEL\" with LEVEL 1 "
		"to 19");
}

int repo_open(struct repo **out, const struct catalog_repository *row, bool create, struct err *err)
{
	_cleanup_(freep) struct repo *repo = NULL;
	const struct repo_ops *ops = repo_ops_of(row->type);
	json_t *config;
	int rc;

	if (!ops)
		return err_set(
			err, -ENOTSUP,
			"repository type \"%s\" is not supported in this version: use type "
			"\"local\", a folder of the hub's machine, where network storage may "
			"be mounted",
			catalog_repository_type_name(row->type));
	repo = calloc(1, sizeof(*repo));
	if (!repo)
		return err_sys(err, -ENOMEM, "opening repository \"%s\"", row->name);
	repo->ops = ops;
	CATALOG_TEXT(repo->id, row->id);
	CATALOG_TEXT(repo->name, row->name);
	config = repo_parse_config(row, err);
	if (!config)
		return -EINVAL;
	rc = repo_take_compression(repo, config, err);
	if (!rc)
		rc = ops->open(repo, config, create, err);
	json_decref(config);
	if (rc)
		return rc;
	*out = steal(&repo);
	return 0;
}

void repo_close(struct repo *repo)
{
	if (!repo)
		return;
	repo->ops->close(repo);
	free(repo);
}

bool repo_contains(const struct repo *repo, const char *path)
{
	size_t n = strlen(repo->root);

	return strncmp(path, repo->root, n) == 0 && path[n] == '/' && !strstr(path, "/../");
}

/* Steps up once for every folder of @path that is not also @parent's, then down to @parent. */
bool repo_relative(const struct repo *repo, const char *path, const char *parent, char *out,
		   size_t size)
{
	size_t common = strlen(repo->root) + 1, used = 0, n;

	if (!repo_contains(repo, path) || !repo_contains(repo, parent))
		return false;
	for (size_t i = common; path[i] && path[i] == parent[i]; i++)
		if (path[i] == '/')
			common = i + 1;
	for (const char *p = path + common; (p = strchr(p, '/')); p++, used += 3) {
		if (used + 3 >= size)
			return false;
		memcpy(out + used, "../", 3);
	}
	n = strlen(parent + common);
	if (!n || used + n >= size)
		return false;
	memcpy(out + used, parent + common, n + 1);
	return true;
}
