/*
 * Removing points. The one place that deletes what was once good, so it goes step by step: a path
 * is followed from the root one name at a time, through real folders only, and what is removed is a
 * regular file. A link put anywhere into a repository leads nowhere.
 *
 * A file that is not there counts as removed: this may be a second attempt. But a root that has not
 * even the first folder of the path may be the mount point of something that is away, and then
 * nothing is known of the files.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "hub/repo/repo.h"

struct place {
	int dir; /* the folder of the file; -1: it is not there, but the one above the first is */
	const char *name;
};

static void place_deinit(struct place *at)
{
	if (at->dir >= 0)
		close(at->dir);
}

static bool is_plain_name(const char *name, size_t len)
{
	return len && len < 256 && !(len == 1 && name[0] == '.') &&
	       !(len == 2 && name[0] == '.' && name[1] == '.');
}

static int open_folder(int above, const char *name, struct err *err, const char *path)
{
	int fd = openat(above, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd >= 0)
		return fd;
	if (errno == ENOENT)
		return -ENOENT;
	if (errno == ELOOP || errno == ENOTDIR)
		return err_set(err, -ENOTDIR, "%s: \"%s\" in its path is no folder (a link?)", path,
			       name);
	return err_sys(err, -errno, "opening folder \"%s\" of %s", name, path);
}

static int open_root(const struct repo *repo, struct err *err)
{
	int fd = open(repo->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd >= 0 ? fd
		       : err_sys(err, -errno, "folder %s of repository \"%s\"", repo->root,
				 repo->name);
}

static int not_mounted(const struct repo *repo, const char *path, struct err *err)
{
	return err_set(err, -ENOENT,
		       "there is nothing of %s below %s: is repository \"%s\" mounted? If the "
		       "folder was removed by hand, make it again",
		       path, repo->root, repo->name);
}

/* To the folder of @path. */
static int place_find(const struct repo *repo, const char *path, struct place *at, struct err *err)
{
	const char *name = path + strlen(repo->root) + 1, *slash;
	bool first = true;
	char folder[256];
	int fd = open_root(repo, err);

	*at = (struct place){.dir = -1};
	if (fd < 0)
		return fd;
	for (; (slash = strchr(name, '/')); name = slash + 1, first = false) {
		int next;

		if (!is_plain_name(name, (size_t)(slash - name))) {
			close(fd);
			return err_set(err, -EINVAL, "%s is no path that can be trusted", path);
		}
		snprintf(folder, sizeof(folder), "%.*s", (int)(slash - name), name);
		next = open_folder(fd, folder, err, path);
		close(fd);
		if (next == -ENOENT)
			return first ? not_mounted(repo, path, err) : 0;
		if (next < 0)
			return next;
		fd = next;
	}
	if (!is_plain_name(name, strlen(name))) {
		close(fd);
		return err_set(err, -EINVAL, "%s is no path that can be trusted", path);
	}
	*at = (struct place){fd, name};
	return 0;
}

int repo_dir_check_there(struct repo *repo, const char *path, struct err *err)
{
	struct place at;
	int rc;

	if (!repo_contains(repo, path))
		return err_set(err, -EINVAL, "%s is not below repository \"%s\" at %s", path,
			       repo->name, repo->root);
	rc = place_find(repo, path, &at, err);
	place_deinit(&at);
	return rc;
}

/* --- files ---------------------------------------------------------------------------------- */

static int remove_file(const struct place *at, const char *name, const char *path, struct err *err)
{
	struct stat st;

	if (fstatat(at->dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : err_sys(err, -errno, "looking at %s (%s)", name, path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "%s beside %s is no regular file: it is left alone",
			       name, path);
	if (unlinkat(at->dir, name, 0) < 0 && errno != ENOENT)
		return err_sys(err, -errno, "deleting %s (%s)", name, path);
	return 0;
}

/* The sidecar goes first: without it nothing takes the image for a point, whatever happens next.
 * The checksums go last: while they are there the name is not given to another image. */
static int remove_files(const struct place *at, const char *path, struct err *err)
{
	const size_t folder = (size_t)(strrchr(path, '/') + 1 - path);
	char json[CATALOG_PATH_SIZE], sums[CATALOG_PATH_SIZE], name[CATALOG_PATH_SIZE + 16];
	int rc;

	if (!repo_companion(path, REPO_SIDECAR, json, sizeof(json)) ||
	    !repo_companion(path, REPO_SUMS, sums, sizeof(sums)))
		return err_set(err, -ENAMETOOLONG, "what belongs to %s", path);
	snprintf(name, sizeof(name), "%s.tmp", json + folder);
	rc = remove_file(at, name, path, err);
	if (!rc)
		rc = remove_file(at, json + folder, path, err);
	if (!rc)
		rc = remove_file(at, at->name, path, err);
	snprintf(name, sizeof(name), "%s" REPO_PART_SUFFIX, sums + folder);
	if (!rc)
		rc = remove_file(at, name, path, err);
	return rc ? rc : remove_file(at, sums + folder, path, err);
}

/* A path outside is never touched; gone is gone, though. */
static int outside(const struct repo *repo, const char *path, struct err *err)
{
	struct stat st;

	if (path[0] == '/' && lstat(path, &st) < 0 && errno == ENOENT)
		return 0;
	return err_set(err, -EINVAL, "%s is not below repository \"%s\" at %s: delete it by hand",
		       path, repo->name, repo->root);
}

int repo_dir_remove_point(struct repo *repo, const char *path, struct err *err)
{
	struct place at;
	int rc;

	if (!repo_contains(repo, path))
		return outside(repo, path, err);
	rc = place_find(repo, path, &at, err);
	if (rc || at.dir < 0)
		return rc;
	rc = remove_files(&at, path, err);
	if (!rc && fsync(at.dir) < 0)
		rc = err_sys(err, -errno, "syncing the folder of %s", path);
	place_deinit(&at);
	return rc;
}

/* --- folders -------------------------------------------------------------------------------- */

/* "/r/vm/disk-0/x.qcow2" -> "/r/vm/disk-0"; false at the root. */
static bool one_up(const struct repo *repo, char *path)
{
	char *slash = strrchr(path, '/');

	if (!slash || (size_t)(slash - path) <= strlen(repo->root))
		return false;
	*slash = '\0';
	return true;
}

static int remove_folder(const struct repo *repo, const char *path, bool *gone, struct err *err)
{
	struct place at;
	int rc = place_find(repo, path, &at, NULL), e;

	*gone = true;
	if (rc == -ENOENT || (!rc && at.dir < 0))
		return 0;
	if (rc)
		return err_set(err, rc, "folder %s cannot be reached", path);
	e = unlinkat(at.dir, at.name, AT_REMOVEDIR) < 0 ? errno : 0;
	if (!e && fsync(at.dir) < 0)
		e = errno;
	place_deinit(&at);
	if (!e || e == ENOENT)
		return 0;
	*gone = false;
	return e == ENOTEMPTY || e == EEXIST ? 0 : err_sys(err, -e, "removing folder %s", path);
}

int repo_dir_remove_folders(struct repo *repo, const char *path, struct err *err)
{
	char folder[CATALOG_PATH_SIZE];
	bool gone = true;
	int rc = 0;

	if (!repo_contains(repo, path) || !CATALOG_TEXT(folder, path))
		return 0;
	while (!rc && gone && one_up(repo, folder))
		rc = remove_folder(repo, folder, &gone, err);
	return rc;
}
