/*
 * Repository type "local": a folder of this machine. Configuration: {"path": "/absolute/folder"},
 * and optionally "compression". `auto_mount` and `mount_options` are understood in their empty form
 * only: mounting is the system's business for this type.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "hub/repo/repo_types.h"

static int repo_local_check_members(const json_t *config, struct err *err)
{
	const char *key;
	json_t *value;

	json_object_foreach ((json_t *)config, key, value) {
		if (strcmp(key, "path") == 0 || strcmp(key, "compression") == 0)
			continue;
		if (strcmp(key, "auto_mount") == 0 && !json_is_true(value))
			continue;
		if (strcmp(key, "mount_options") == 0 &&
		    (json_is_null(value) || (json_is_string(value) && !*json_string_value(value))))
			continue;
		return err_set(
			err, -EINVAL,
			"a local repository takes \"path\" and \"compression\": \"%s\" is not "
			"supported",
			key);
	}
	return 0;
}

static int repo_local_path(struct repo *repo, const json_t *config, struct err *err)
{
	const char *path = json_string_value(json_object_get(config, "path"));
	size_t n;

	if (!path || path[0] != '/')
		return err_set(err, -EINVAL,
			       "config.path of a local repository must be an absolute path");
	if (strstr(path, "/../") || (strlen(path) >= 3 && !strcmp(path + strlen(path) - 3, "/..")))
		return err_set(err, -EINVAL, "config.path %s must not contain \"..\"", path);
	/* Room for the names below it: vm, disk, file. */
	if (strlen(path) > sizeof(repo->root) - 160)
		return err_set(err, -EINVAL, "config.path is longer than %zu bytes",
			       sizeof(repo->root) - 160);
	strcpy(repo->root, path);
	for (n = strlen(repo->root); n > 1 && repo->root[n - 1] == '/'; n--)
		repo->root[n - 1] = '\0';
	if (!strcmp(repo->root, "/"))
		return err_set(err, -EINVAL, "config.path must be a folder below \"/\"");
	return 0;
}

static int repo_local_open(struct repo *repo, const json_t *config, bool create, struct err *err)
{
	struct stat st;
	int rc = repo_local_check_members(config, err);

	if (!rc)
		rc = repo_local_path(repo, config, err);
	if (rc)
		return rc;
	if (create) {
		rc = repo_dir_make(repo->root, err);
		if (rc)
			return rc;
	}
	if (stat(repo->root, &st) < 0)
		return err_sys(err, -errno, "folder %s of repository \"%s\"", repo->root,
			       repo->name);
	if (!S_ISDIR(st.st_mode))
		return err_set(err, -ENOTDIR, "%s of repository \"%s\" is not a folder", repo->root,
			       repo->name);
	return 0;
}

static void repo_local_close(struct repo *repo)
{
	(void)repo; /* nothing is held open between calls */
}

const struct repo_ops repo_local_ops = {
	.type = CATALOG_REPOSITORY_LOCAL,
	.open = repo_local_open,
	.close = repo_local_close,
	.probe = repo_dir_probe,
	.storage = repo_dir_storage,
	.new_point = repo_dir_new_point,
	.make_folder = repo_dir_make_folder,
	.commit = repo_dir_commit,
	.put_sidecar = repo_dir_put_sidecar,
	.stored_size = repo_dir_stored_size,
	.quarantine = repo_dir_quarantine,
	.check_there = repo_dir_check_there,
	.remove_point = repo_dir_remove_point,
	.remove_folders = repo_dir_remove_folders,
	.sweep = repo_dir_sweep,
};
