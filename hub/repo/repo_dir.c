/*
 * Points as files in a folder: what local and mounted repositories have in common.
 *
 * A point is offered by the catalog, never by the name of a file: a final name without a completed
 * row is a leftover of a crash, and goes to the quarantine with the .part files. Nothing here
 * overwrites or deletes a point (that is repo_remove.c); the quarantine is one rename away in the
 * same file system, so that it works when the disk is full.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"
#include "hub/repo/repo.h"
#include "qcow2/sums.h"

#define REPO_NAME_TRIES 1000

/* --- folders -------------------------------------------------------------------------------- */

static int repo_mkdir(const char *path, struct err *err)
{
	int rc;

	if (mkdir(path, 0750) < 0)
		return errno == EEXIST ? 0 : err_sys(err, -errno, "making folder %s", path);
	rc = file_sync_dir_of(path);
	return rc ? err_sys(err, rc, "syncing the folder that holds %s", path) : 0;
}

int repo_dir_make(const char *path, struct err *err)
{
	char buf[CATALOG_PATH_SIZE];
	int rc = 0;

	if (!CATALOG_TEXT(buf, path))
		return err_set(err, -ENAMETOOLONG, "folder name longer than %d bytes",
			       CATALOG_PATH_SIZE - 1);
	for (char *p = buf + 1; !rc && (p = strchr(p, '/')); p++) {
		*p = '\0';
		rc = repo_mkdir(buf, err);
		*p = '/';
	}
	return rc ? rc : repo_mkdir(buf, err);
}

/* --- probe and size ------------------------------------------------------------------------- */

static int repo_probe_file(int fd)
{
	unsigned char out[4096], in[sizeof(out)];
	ssize_t n;

	for (size_t i = 0; i < sizeof(out); i++)
		out[i] = (unsigned char)(i * 7 + i / 256);
	n = pwrite(fd, out, sizeof(out), 0);
	if (n != (ssize_t)sizeof(out))
		return n < 0 ? -errno : -ENOSPC;
	if (fsync(fd) < 0)
		return -errno;
	n = pread(fd, in, sizeof(in), 0);
	if (n < 0)
		return -errno;
	return n == (ssize_t)sizeof(in) && !memcmp(in, out, sizeof(in)) ? 0 : -EIO;
}

int repo_dir_probe(struct repo *repo, struct err *err)
{
	char path[CATALOG_PATH_SIZE + 32];
	int fd, rc;

	snprintf(path, sizeof(path), "%s/.probe-XXXXXX", repo->root);
	fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, -errno, "repository \"%s\": cannot write below %s", repo->name,
			       repo->root);
	rc = repo_probe_file(fd);
	close(fd);
	if (unlink(path) < 0 && !rc)
		rc = -errno;
	if (!rc)
		rc = repo_mkdir(strcat(strcpy(path, repo->root), "/" REPO_QUARANTINE), NULL);
	return rc ? err_sys(err, rc, "repository \"%s\": write, read and delete below %s",
			    repo->name, repo->root)
		  : 0;
}

int repo_dir_storage(struct repo *repo, struct repo_storage *out, struct err *err)
{
	struct statvfs v;

	if (statvfs(repo->root, &v) < 0)
		return err_sys(err, -errno, "size of repository \"%s\" at %s", repo->name,
			       repo->root);
	out->total_bytes = (int64_t)(v.f_blocks * v.f_frsize);
	out->available_bytes = (int64_t)(v.f_bavail * v.f_frsize);
	out->used_bytes = (int64_t)((v.f_blocks - v.f_bfree) * v.f_frsize);
	return 0;
}

/* --- new points ----------------------------------------------------------------------------- */

/* A VM's folder is its context id; anything that could leave the repository is refused. */
static bool repo_vm_name_ok(const char *vm)
{
	size_t n = strspn(vm, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.");

	return n && !vm[n] && vm[0] != '.' && strcmp(vm, REPO_QUARANTINE) != 0;
}

static bool repo_exists(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0 || errno != ENOENT;
}

bool repo_companion(const char *path, enum repo_companion which, char *out, size_t size)
{
	const char *dot = strrchr(path, '.');
	int n;

	if (which == REPO_SUMS)
		return qcow2_sums_path(path, out, size);
	if (!dot || strchr(dot, '/'))
		dot = path + strlen(path);
	n = snprintf(out, size, "%.*s.json", (int)(dot - path), path);
	return n > 0 && (size_t)n < size;
}

static bool repo_name_free(const struct repo_point *point)
{
	char name[CATALOG_PATH_SIZE];

	for (enum repo_companion c = REPO_SIDECAR; c <= REPO_SUMS; c++)
		if (!repo_companion(point->path, c, name, sizeof(name)) || repo_exists(name))
			return false;
	return !repo_exists(point->path) && !repo_exists(point->part);
}

static bool repo_format_point(const char *dir, const struct repo_point_key *key, int attempt,
			      struct repo_point *out)
{
	char again[16] = "";
	int n;

	if (attempt > 1)
		snprintf(again, sizeof(again), "-%d", attempt);
	n = snprintf(out->path, sizeof(out->path), "%s/%s-%s%s.qcow2", dir,
		     key->mode == CATALOG_BACKUP_FULL ? "full" : "incr", key->stamp, again);
	if (n < 0 || n >= (int)sizeof(out->path))
		return false;
	n = snprintf(out->part, sizeof(out->part), "%s" REPO_PART_SUFFIX, out->path);
	return n > 0 && n < (int)sizeof(out->part);
}

int repo_dir_new_point(struct repo *repo, const struct repo_point_key *key, struct repo_point *out,
		       struct err *err)
{
	char dir[CATALOG_PATH_SIZE];
	int n, rc;

	if (!repo_vm_name_ok(key->vm) || key->disk_index < 0)
		return err_set(err, -EINVAL, "\"%s\" disk %d makes no folder name", key->vm,
			       key->disk_index);
	n = snprintf(dir, sizeof(dir), "%s/%s/disk-%d", repo->root, key->vm, key->disk_index);
	if (n >= (int)sizeof(dir))
		return err_set(err, -ENAMETOOLONG, "path below %s is too long", repo->root);
	rc = repo_dir_make(dir, err);
	if (rc)
		return rc;
	for (int attempt = 1; attempt <= REPO_NAME_TRIES; attempt++) {
		if (!repo_format_point(dir, key, attempt, out))
			return err_set(err, -ENAMETOOLONG, "path below %s is too long", dir);
		if (repo_name_free(out))
			return 0;
	}
	return err_set(err, -EEXIST, "no free name for %s in %s", key->stamp, dir);
}

int repo_dir_make_folder(struct repo *repo, const struct repo_point *point, struct err *err)
{
	char dir[CATALOG_PATH_SIZE];
	const char *slash = strrchr(point->path, '/');

	if (!repo_contains(repo, point->path) || !slash)
		return err_set(err, -EINVAL, "%s is not below repository \"%s\" at %s", point->path,
			       repo->name, repo->root);
	snprintf(dir, sizeof(dir), "%.*s", (int)(slash - point->path), point->path);
	return repo_dir_make(dir, err);
}

/* Without the flag (some network file systems): a hard link refuses an existing name as well. */
static int repo_rename_noreplace(const char *from, const char *to)
{
	if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EINVAL && errno != ENOSYS)
		return -errno;
	if (link(from, to) < 0 || unlink(from) < 0)
		return -errno;
	return 0;
}

/* The checksums go first: an image with its final name and none beside it would be trusted less
 * than it deserves, the reverse is a leftover. */
int repo_dir_commit(struct repo *repo, const struct repo_point *point, struct err *err)
{
	char from[CATALOG_PATH_SIZE + 16], to[CATALOG_PATH_SIZE];
	int rc = 0;

	if (!repo_companion(point->part, REPO_SUMS, from, sizeof(from)) ||
	    !repo_companion(point->path, REPO_SUMS, to, sizeof(to)))
		return err_set(err, -ENAMETOOLONG, "checksums of %s", point->path);
	if (repo_exists(from))
		rc = repo_rename_noreplace(from, to);
	if (!rc)
		rc = repo_rename_noreplace(point->part, point->path);
	if (!rc)
		rc = file_sync_dir_of(point->path);
	return rc ? err_sys(err, rc, "repository \"%s\": renaming %s to its final name", repo->name,
			    point->part)
		  : 0;
}

static int repo_write_synced(const char *path, const char *text, size_t len)
{
	_cleanup_(closep) int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	size_t done = 0;

	if (fd < 0)
		return -errno;
	while (done < len) {
		ssize_t n = write(fd, text + done, len - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		done += (size_t)n;
	}
	return fsync(fd) < 0 ? -errno : 0;
}

int repo_dir_put_sidecar(struct repo *repo, const char *path, const char *text, size_t len,
			 struct err *err)
{
	char name[CATALOG_PATH_SIZE], tmp[CATALOG_PATH_SIZE + 8];
	int rc;

	if (!repo_companion(path, REPO_SIDECAR, name, sizeof(name)))
		return err_set(err, -ENAMETOOLONG, "sidecar of %s", path);
	snprintf(tmp, sizeof(tmp), "%s.tmp", name);
	rc = repo_write_synced(tmp, text, len);
	if (!rc && rename(tmp, name) < 0)
		rc = -errno;
	if (!rc)
		rc = file_sync_dir_of(name);
	if (rc) {
		unlink(tmp);
		return err_sys(err, rc, "repository \"%s\": writing sidecar %s", repo->name, name);
	}
	return 0;
}

int64_t repo_dir_stored_size(struct repo *repo, const char *path)
{
	struct stat st;

	(void)repo;
	return stat(path, &st) == 0 ? (int64_t)st.st_blocks * 512 : 0;
}

/* --- quarantine ----------------------------------------------------------------------------- */

/* {root}/ctx-1/disk-0/full-1.qcow2.part -> {root}/quarantine/ctx-1_disk-0_full-1.qcow2.part */
static bool repo_quarantine_name(const struct repo *repo, const char *path, int attempt, char *out,
				 size_t size)
{
	const char *below = path + strlen(repo->root) + 1;
	int head = snprintf(out, size, "%s/" REPO_QUARANTINE "/", repo->root);
	int n;

	if (head < 0 || (size_t)head >= size)
		return false;
	if (attempt > 1)
		n = snprintf(out + head, size - (size_t)head, "%s-%d", below, attempt);
	else
		n = snprintf(out + head, size - (size_t)head, "%s", below);
	if (n <= 0 || (size_t)n >= size - (size_t)head)
		return false;
	for (char *p = out + head; *p; p++)
		if (*p == '/')
			*p = '_';
	return true;
}

/* Moves or deletes one file when it is there. *@moved_bytes grows by the space it took. */
static int repo_quarantine_file(struct repo *repo, const char *path, enum repo_leftover what,
				int64_t *moved_bytes, struct err *err)
{
	char to[CATALOG_PATH_SIZE + 32];
	struct stat st;
	int rc = -EEXIST;

	if (!path[0])
		return 0;
	if (!repo_contains(repo, path))
		return err_set(err, -EINVAL, "%s is not below repository \"%s\" at %s", path,
			       repo->name, repo->root);
	if (lstat(path, &st) < 0)
		return errno == ENOENT || errno == ENOTDIR
			       ? 0
			       : err_sys(err, -errno, "looking at %s", path);
	if (what == REPO_REMOVE) {
		if (unlink(path) < 0)
			return err_sys(err, -errno, "deleting %s", path);
		*moved_bytes += (int64_t)st.st_blocks * 512;
		return 0;
	}
	for (int attempt = 1; rc == -EEXIST && attempt <= REPO_NAME_TRIES; attempt++) {
		if (!repo_quarantine_name(repo, path, attempt, to, sizeof(to)))
			return err_set(err, -ENAMETOOLONG, "quarantine name of %s", path);
		rc = repo_rename_noreplace(path, to);
	}
	if (rc)
		return err_sys(err, rc, "moving %s to the quarantine", path);
	*moved_bytes += (int64_t)st.st_blocks * 512;
	if (what == REPO_EMPTY && S_ISREG(st.st_mode) && truncate(to, 0) < 0)
		return err_sys(err, -errno, "emptying %s", to);
	return 0;
}

static int repo_quarantine_folder(struct repo *repo, struct err *err)
{
	char dir[CATALOG_PATH_SIZE + 16];

	snprintf(dir, sizeof(dir), "%s/" REPO_QUARANTINE, repo->root);
	return repo_mkdir(dir, err);
}

/* An image and what lies beside it; @image may be empty. */
static int repo_quarantine_image(struct repo *repo, const char *image, enum repo_leftover what,
				 int64_t *moved_bytes, struct err *err)
{
	enum repo_leftover beside = what == REPO_EMPTY ? REPO_KEEP : what;
	char name[CATALOG_PATH_SIZE + 32], part[CATALOG_PATH_SIZE + 48];
	int rc;

	if (!image[0])
		return 0;
	rc = repo_quarantine_file(repo, image, what, moved_bytes, err);
	for (enum repo_companion c = REPO_SIDECAR; !rc && c <= REPO_SUMS; c++) {
		if (!repo_companion(image, c, name, sizeof(name)))
			return err_set(err, -ENAMETOOLONG, "what belongs to %s", image);
		rc = repo_quarantine_file(repo, name, beside, moved_bytes, err);
		if (rc)
			break;
		/* Half-written ones of a crash. */
		snprintf(part, sizeof(part), "%s%s", name,
			 c == REPO_SUMS ? REPO_PART_SUFFIX : ".tmp");
		rc = repo_quarantine_file(repo, part, beside, moved_bytes, err);
	}
	return rc;
}

int repo_dir_quarantine(struct repo *repo, const struct repo_point *point, enum repo_leftover what,
			int64_t *moved_bytes, struct err *err)
{
	int rc = repo_quarantine_folder(repo, err);

	*moved_bytes = 0;
	if (!rc)
		rc = repo_quarantine_image(repo, point->part, what, moved_bytes, err);
	if (!rc)
		rc = repo_quarantine_image(repo, point->path,
					   what == REPO_REMOVE ? REPO_KEEP : what, moved_bytes,
					   err);
	return rc;
}

/* --- sweep ---------------------------------------------------------------------------------- */

/* Partial images, and what lies beside them. Another hub may be writing below the same root: the
 * lock on the image tells. */
static bool repo_is_abandoned(const char *path)
{
	static const char suffix[] = ".qcow2" REPO_PART_SUFFIX;
	const char *found = strstr(strrchr(path, '/'), suffix);
	char image[CATALOG_PATH_SIZE];
	struct file *file = NULL;
	int rc;

	if (!found)
		return false;
	snprintf(image, sizeof(image), "%.*s", (int)(found + strlen(suffix) - path), path);
	rc = file_open(&file, image, FILE_RDWR | FILE_BUFFERED, NULL);
	file_close(file);
	return rc != -EWOULDBLOCK;
}

static int repo_sweep_disk(struct repo *repo, const char *dir, unsigned *count, int64_t *bytes,
			   struct err *err)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	int rc = 0;

	if (!d)
		return errno == ENOENT || errno == ENOTDIR
			       ? 0
			       : err_sys(err, -errno, "reading folder %s", dir);
	while (!rc && (e = readdir(d))) {
		char path[CATALOG_PATH_SIZE];
		int n = snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);

		if (n >= (int)sizeof(path) || !repo_is_abandoned(path))
			continue;
		rc = repo_quarantine_file(repo, path, REPO_KEEP, bytes, err);
		*count += !rc;
	}
	closedir(d);
	return rc;
}

static int repo_sweep_vm(struct repo *repo, const char *vm_dir, unsigned *count, int64_t *bytes,
			 struct err *err)
{
	DIR *d = opendir(vm_dir);
	struct dirent *e;
	int rc = 0;

	if (!d)
		return errno == ENOENT || errno == ENOTDIR
			       ? 0
			       : err_sys(err, -errno, "reading folder %s", vm_dir);
	while (!rc && (e = readdir(d))) {
		char path[CATALOG_PATH_SIZE];
		int n = snprintf(path, sizeof(path), "%s/%s", vm_dir, e->d_name);

		if (strncmp(e->d_name, "disk-", 5) == 0 && n < (int)sizeof(path))
			rc = repo_sweep_disk(repo, path, count, bytes, err);
	}
	closedir(d);
	return rc;
}

int repo_dir_sweep(struct repo *repo, unsigned *count, int64_t *bytes, struct err *err)
{
	DIR *d;
	struct dirent *e;
	int rc = repo_quarantine_folder(repo, err);

	*count = 0;
	*bytes = 0;
	if (rc)
		return rc;
	d = opendir(repo->root);
	if (!d)
		return err_sys(err, -errno, "reading folder %s", repo->root);
	while (!rc && (e = readdir(d))) {
		char path[CATALOG_PATH_SIZE];
		int n = snprintf(path, sizeof(path), "%s/%s", repo->root, e->d_name);

		if (repo_vm_name_ok(e->d_name) && n < (int)sizeof(path))
			rc = repo_sweep_vm(repo, path, count, bytes, err);
	}
	closedir(d);
	return rc;
}
