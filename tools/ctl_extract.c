/*
 * Everything goes through descriptors of folders: a path is opened once, at the beginning, and then
 * only single names below it. A guest's tree can hold anything, also a link where a folder was a
 * moment ago in another backup extracted to the same place.
 */
#include "tools/ctl_extract.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "files/files.h"
#include "tools/ctl_human.h"
#include "tools/ctl_lookup.h"
#include "tools/ctl_restore.h"

#define EXTRACT_DEPTH 256
#define TEMP_SIZE     48

struct extract {
	struct ctl *ctl;
	const char *mount_id;
	bool force;
	struct ctl_extracted *done;
};

/* --- what the hub says of a file ------------------------------------------------------------- */

static bool is_a(const json_t *file, const char *type)
{
	return !strcmp(ctl_text(file, "type"), type);
}

static mode_t mode_of(const json_t *file)
{
	return (mode_t)strtoul(ctl_text(file, "mode"), NULL, 8) & 0777;
}

/* "2025-10-05T12:00:00.123456Z". */
static struct timespec time_of(const json_t *file)
{
	struct timespec ts = {.tv_nsec = UTIME_NOW};
	const char *text = ctl_text(file, "modified_at"), *rest;
	struct tm tm = {0};

	rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
	if (!rest)
		return ts;
	ts.tv_sec = timegm(&tm);
	ts.tv_nsec = *rest == '.' ? strtol(rest + 1, NULL, 10) * 1000 : 0;
	if (ts.tv_nsec < 0 || ts.tv_nsec > 999999999)
		ts.tv_nsec = 0;
	return ts;
}

static void set_times(int fd, const char *name, const json_t *file)
{
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, time_of(file)};

	/* A file system that keeps no such times is no reason to fail. */
	if (name)
		utimensat(fd, name, times, AT_SYMLINK_NOFOLLOW);
	else
		futimens(fd, times);
}

/* The name a file gets here: one component, whatever the guest or the hub calls it. */
static int local_name(const json_t *file, char *out, size_t size, struct err *err)
{
	const char *shown = ctl_text(file, "name");
	size_t n = strlen(shown) < size ? files_name_raw(out, shown) : 0;

	if (!n || n != strlen(out) || n > NAME_MAX || strchr(out, '/') || !strcmp(out, ".") ||
	    !strcmp(out, ".."))
		return err_set(err, CTL_FAILED,
			       "\"%.200s\" cannot be a file's name here: extract it by itself, "
			       "with a name for --output",
			       ctl_text(file, "path"));
	return CTL_OK;
}

static int failed(struct err *err, const char *what, const char *name)
{
	int error = errno;

	return err_set(err, CTL_FAILED, "%s %s: %s", what, name, strerror(error));
}

/* --- a file ---------------------------------------------------------------------------------- */

struct sink {
	int fd;
	uint64_t written;
	int error;
};

static int sink_write(void *arg, const void *data, size_t len)
{
	struct sink *s = arg;

	while (len) {
		ssize_t n = write(s->fd, data, len);

		if (n < 0 && errno == EINTR && !ctl_restore_stopped())
			continue;
		if (n <= 0) {
			s->error = n ? errno : EIO;
			return -1;
		}
		data = (const char *)data + n;
		len -= (size_t)n;
		s->written += (uint64_t)n;
	}
	return ctl_restore_stopped() ? -1 : 0;
}

/* The content of @file, whole, or an error. */
static int fetch(struct extract *x, const json_t *file, int fd, const char *name, struct err *err)
{
	const struct ctl_query query[] = {{"path", ctl_text(file, "path")}, {NULL, NULL}};
	struct sink sink = {.fd = fd};
	int res = ctl_rest_fetch(x->ctl->rest, RESTORE, x->mount_id, "/download", query, NULL,
				 sink_write, &sink, err);

	if (ctl_restore_stopped())
		return err_set(err, CTL_INTERRUPTED, "interrupted");
	if (sink.error) {
		errno = sink.error;
		return failed(err, "writing", name);
	}
	if (!res && sink.written != ctl_number(file, "size"))
		res = err_set(err, CTL_FAILED, "%s ended after %llu of %llu bytes",
			      ctl_text(file, "path"), (unsigned long long)sink.written,
			      (unsigned long long)ctl_number(file, "size"));
	if (!res) {
		x->done->files++;
		x->done->bytes += sink.written;
	}
	return res;
}

/* A file nobody else has, beside where it will be. */
static int make_temp(int dir, char name[TEMP_SIZE], struct err *err)
{
	uint64_t noise = 0;
	int fd = -1;

	for (int i = 0; i < 16 && fd < 0; i++) {
		if (getrandom(&noise, sizeof(noise), 0) != sizeof(noise))
			break;
		snprintf(name, TEMP_SIZE, ".sendense-%016llx", (unsigned long long)noise);
		fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (fd < 0 && errno != EEXIST)
			break;
	}
	return fd >= 0 ? fd : -failed(err, "making a file in the folder of", "--output");
}

static int is_there(const char *name, struct err *err)
{
	return err_set(err, CTL_CONFLICT, "%s is there already: add --force to overwrite it", name);
}

/* Gives a finished file its name. */
static int put_in_place(struct extract *x, int dir, const char *temp, const char *name,
			struct err *err)
{
	if (!renameat2(dir, temp, dir, name, x->force ? 0 : RENAME_NOREPLACE))
		return CTL_OK;
	if (errno == EEXIST)
		return is_there(name, err);
	/* A file system without that flag. */
	if (errno == EINVAL && !x->force) {
		if (!linkat(dir, temp, dir, name, 0)) {
			unlinkat(dir, temp, 0);
			return CTL_OK;
		}
		if (errno == EEXIST)
			return is_there(name, err);
	}
	return failed(err, "naming", name);
}

static int put_file(struct extract *x, const json_t *file, int dir, const char *name,
		    struct err *err)
{
	char temp[TEMP_SIZE];
	struct stat st;
	int res, fd;

	/* Before gigabytes are fetched for nothing. */
	if (!x->force && !fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW))
		return is_there(name, err);
	fd = make_temp(dir, temp, err);
	if (fd < 0)
		return -fd;
	res = fetch(x, file, fd, name, err);
	if (!res) {
		mode_t mask = umask(0);

		umask(mask);
		fchmod(fd, mode_of(file) & ~mask);
		set_times(fd, NULL, file);
	}
	if (close(fd) && !res)
		res = failed(err, "writing", name);
	if (!res)
		res = put_in_place(x, dir, temp, name, err);
	if (res)
		unlinkat(dir, temp, 0);
	return res;
}

/* --- links and folders ----------------------------------------------------------------------- */

static int put_link(struct extract *x, const json_t *file, int dir, const char *name,
		    struct err *err)
{
	const struct ctl_query query[] = {{"path", ctl_text(file, "path")}, {NULL, NULL}};
	_cleanup_(json_decrefp) json_t *info = NULL;
	_cleanup_(freep) char *target = NULL;
	int res = ctl_rest_get(x->ctl->rest, RESTORE, x->mount_id, "/file-info", query, &info, err);

	if (res)
		return res;
	target = strdup(ctl_text(info, "target"));
	if (!target)
		return err_set(err, CTL_FAILED, "out of memory");
	files_name_raw(target, target);
	if (!symlinkat(target, dir, name)) {
		set_times(dir, name, file);
		return CTL_OK;
	}
	if (errno != EEXIST)
		return failed(err, "making the link", name);
	if (!x->force)
		return is_there(name, err);
	if (unlinkat(dir, name, 0) || symlinkat(target, dir, name))
		return failed(err, "making the link", name);
	return CTL_OK;
}

/* @made: it was not there before. */
static int open_folder(int dir, const char *name, bool *made, struct err *err)
{
	int fd;

	*made = !mkdirat(dir, name, 0700);
	if (!*made && errno != EEXIST)
		return -failed(err, "making the folder", name);
	fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd >= 0 ? fd : -failed(err, "opening the folder", name);
}

struct folder {
	struct extract *x;
	int fd;
	unsigned depth;
	json_t *folders; /* to be looked into when this one has been listed */
};

static int put_folder(struct extract *x, const json_t *file, int fd, unsigned depth, bool made,
		      struct err *err);

static int put_entry(void *arg, const json_t *file, struct err *err)
{
	struct folder *f = arg;
	char name[FILES_NAME_SIZE], shown[FILES_NAME_SIZE];
	int res = local_name(file, name, sizeof(name), err);

	if (res)
		return res;
	if (is_a(file, "file"))
		return put_file(f->x, file, f->fd, name, err);
	if (is_a(file, "symlink"))
		return put_link(f->x, file, f->fd, name, err);
	if (is_a(file, "directory"))
		return json_array_append(f->folders, (json_t *)file)
			       ? err_set(err, CTL_FAILED, "out of memory")
			       : CTL_OK;
	f->x->done->left_out++;
	human_printable(shown, sizeof(shown), ctl_text(file, "name"));
	fprintf(stderr, "left out: %s is a device, a pipe or a socket\n", shown);
	return CTL_OK;
}

static int put_below(struct folder *f, const json_t *file, struct err *err)
{
	char name[FILES_NAME_SIZE];
	int fd, res = local_name(file, name, sizeof(name), err);
	bool made;

	if (res)
		return res;
	fd = open_folder(f->fd, name, &made, err);
	if (fd < 0)
		return -fd;
	res = put_folder(f->x, file, fd, f->depth + 1, made, err);
	close(fd);
	return res;
}

/* All that is in a folder of the guest, into the one open as @fd. One that was there keeps its mode
 * and times: it may be a home, or /tmp. */
static int put_folder(struct extract *x, const json_t *file, int fd, unsigned depth, bool made,
		      struct err *err)
{
	_cleanup_(json_decrefp) json_t *folders = json_array();
	struct folder f = {.x = x, .fd = fd, .depth = depth, .folders = folders};
	const json_t *sub;
	size_t i;
	int res;

	if (depth == EXTRACT_DEPTH)
		return err_set(err, CTL_FAILED, "%.200s: folders within folders without end",
			       ctl_text(file, "path"));
	res = ctl_restore_folder(x->ctl, x->mount_id, ctl_text(file, "path"), false, put_entry, &f,
				 err);
	json_array_foreach (folders, i, sub)
		if (!res)
			res = put_below(&f, sub, err);
	if (!res && made) {
		mode_t mask = umask(0);

		umask(mask);
		/* Its owner can always empty it again. */
		fchmod(fd, (mode_of(file) | 0700) & ~mask);
		set_times(fd, NULL, file);
	}
	return res;
}

/* --- where to -------------------------------------------------------------------------------- */

/* Splits "a/b/c" into an open "a/b" and "c". */
static int open_parent(const char *output, char *name, size_t size, struct err *err)
{
	_cleanup_(freep) char *copy = strdup(output);
	size_t len = copy ? strlen(copy) : 0;
	char *slash;
	int fd;

	while (len > 1 && copy[len - 1] == '/')
		copy[--len] = '\0';
	slash = copy ? strrchr(copy, '/') : NULL;
	if (!copy || strlen(slash ? slash + 1 : copy) >= size)
		return -err_set(err, CTL_USAGE, "--output %.200s is too long", output);
	strcpy(name, slash ? slash + 1 : copy);
	if (slash)
		slash[slash == copy ? 1 : 0] = '\0';
	fd = open(slash ? copy : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd >= 0 ? fd : -failed(err, "opening the folder of", output);
}

static bool is_folder(const char *path)
{
	struct stat st;

	return !stat(path, &st) && S_ISDIR(st.st_mode);
}

static int extract_folder(struct extract *x, const json_t *info, const char *output,
			  struct err *err)
{
	bool made = !mkdir(output, 0700);
	int fd, res;

	if (!made && errno != EEXIST)
		return failed(err, "making the folder", output);
	fd = open(output, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return failed(err, "opening the folder", output);
	res = put_folder(x, info, fd, 0, made, err);
	close(fd);
	return res;
}

static int extract_file(struct extract *x, const json_t *info, const char *output, struct err *err)
{
	bool into = is_folder(output);
	char name[FILES_NAME_SIZE];
	int dir, res = CTL_OK;

	if (into) {
		res = local_name(info, name, sizeof(name), err);
		if (res)
			return res;
		dir = open(output, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (dir < 0)
			return failed(err, "opening the folder", output);
	} else {
		dir = open_parent(output, name, sizeof(name), err);
		if (dir < 0)
			return -dir;
	}
	res = put_file(x, info, dir, name, err);
	close(dir);
	return res;
}

int ctl_extract(struct ctl *ctl, const char *mount_id, const json_t *info, const char *output,
		bool force, struct ctl_extracted *done, struct err *err)
{
	struct extract x = {.ctl = ctl, .mount_id = mount_id, .force = force, .done = done};
	bool to_stdout = !strcmp(output, "-");

	if (is_a(info, "file"))
		return to_stdout ? fetch(&x, info, STDOUT_FILENO, "stdout", err)
				 : extract_file(&x, info, output, err);
	if (is_a(info, "symlink"))
		return err_set(
			err, CTL_FAILED,
			"%s is a symbolic link to %s, and there is no such file on its partition",
			ctl_text(info, "path"), ctl_text(info, "target"));
	if (!is_a(info, "directory"))
		return err_set(err, CTL_FAILED,
			       "%s is a device, a pipe or a socket: it has no content",
			       ctl_text(info, "path"));
	if (to_stdout)
		return err_set(err, CTL_USAGE,
			       "%s is a folder: name a folder for --output, stdout takes one file",
			       ctl_text(info, "path"));
	return extract_folder(&x, info, output, err);
}
