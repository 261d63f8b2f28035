/*
 * "backup mount": a disk of a backup as a folder, by FUSE, served by this program over the hub's
 * API; and "backup unmount".
 *
 * The program forks: the child mounts, tells how that went, and serves until it is unmounted or
 * ended by a signal; then it ends the hub's mount. Every request is answered within the time-outs
 * of a call to the hub: one that is gone gives EIO. What was mounted for too long without use is
 * mounted at the hub again when it is used again. A point never changes, so the kernel may keep
 * what it has read.
 */
#define FUSE_USE_VERSION 35
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "files/files.h"
#include "tools/ctl_args.h"
#include "tools/ctl_lookup.h"
#include "tools/ctl_restore.h"

#define DISK_INDEX_MAX	1000000UL
#define KEPT_S		3600.0 /* what the kernel may remember */
#define CALL_TIMEOUT_S	40L    /* of one request; a hub's own answer takes 30 s at most */
#define UNMOUNT_WAIT_S	30
#define FILESYSTEM_NAME "sendense"

struct served {
	struct ctl *ctl;
	const char *backup_id;
	int disk;
	json_t *mount;
	char mount_id[80];
};

/* --- asking the hub -------------------------------------------------------------------------- */

static struct served *served(void)
{
	return fuse_get_context()->private_data;
}

static int errno_of(int res)
{
	return res == CTL_NOT_FOUND ? -ENOENT : res == CTL_DENIED ? -EACCES : -EIO;
}

static void take_mount(struct served *s, json_t *mount)
{
	json_decref(s->mount);
	s->mount = mount;
	snprintf(s->mount_id, sizeof(s->mount_id), "%s", ctl_text(mount, "mount_id"));
}

/*
 * What @res is about: CTL_NOT_FOUND is a file that is not there, or the mount that is not there any
 * more. Then there is a new one, and *@again; without one it is no answer about the file: the
 * kernel would remember for long that there is none.
 */
static int look_again(struct served *s, int res, bool *again)
{
	static const struct ctl_query root[] = {{"path", "/"}, {NULL, NULL}};
	_cleanup_(json_decrefp) json_t *info = NULL;
	json_t *mount = NULL;
	int there;

	*again = false;
	if (res != CTL_NOT_FOUND)
		return res;
	there = ctl_rest_get(s->ctl->rest, RESTORE, s->mount_id, "/file-info", root, &info, NULL);
	if (there != CTL_NOT_FOUND)
		return there ? CTL_FAILED : res;
	if (ctl_restore_mount(s->ctl, s->backup_id, s->disk, &mount, NULL))
		return CTL_FAILED;
	take_mount(s, mount);
	*again = true;
	return res;
}

/* The guest's bytes as the API shows them; the caller free()s. */
static char *shown_path(const char *path)
{
	size_t len = strlen(path), room = 3 * len + 1;
	char *shown = malloc(room);

	if (shown && !files_name_show(shown, room, path, len))
		free(steal(&shown));
	/* The parts were shown one by one, "/" stays what it is. */
	return shown;
}

static int ask_info(struct served *s, const char *path, json_t **info)
{
	_cleanup_(freep) char *shown = shown_path(path);
	const struct ctl_query query[] = {{"path", shown}, {NULL, NULL}};
	bool again;
	int res;

	if (!shown)
		return -ENOMEM;
	res = ctl_rest_get(s->ctl->rest, RESTORE, s->mount_id, "/file-info", query, info, NULL);
	res = look_again(s, res, &again);
	if (again)
		res = ctl_rest_get(s->ctl->rest, RESTORE, s->mount_id, "/file-info", query, info,
				   NULL);
	return res ? errno_of(res) : 0;
}

/* --- what a file is -------------------------------------------------------------------------- */

static void set_time(struct timespec *ts, const char *text)
{
	struct tm tm = {0};
	const char *rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);

	ts->tv_sec = rest ? timegm(&tm) : 0;
	ts->tv_nsec = rest && *rest == '.' ? strtol(rest + 1, NULL, 10) * 1000 : 0;
	if (ts->tv_nsec < 0 || ts->tv_nsec > 999999999)
		ts->tv_nsec = 0;
}

static void fill_stat(struct stat *st, const json_t *info)
{
	const char *type = ctl_text(info, "type");
	mode_t bits = (mode_t)strtoul(ctl_text(info, "mode"), NULL, 8) & 07777;

	*st = (struct stat){.st_nlink = 1};
	if (!strcmp(type, "directory"))
		st->st_mode = S_IFDIR | bits;
	else if (!strcmp(type, "symlink"))
		st->st_mode = S_IFLNK | 0777;
	else if (!strcmp(type, "file"))
		st->st_mode = S_IFREG | bits;
	else
		st->st_mode = S_IFREG; /* there is nothing to be had of a device */
	st->st_size = (off_t)MIN(ctl_number(info, "size"), (uint64_t)INT64_MAX);
	st->st_blocks = (st->st_size + 511) / 512;
	st->st_blksize = 128 << 10;
	st->st_uid = (uid_t)ctl_number(info, "uid");
	st->st_gid = (gid_t)ctl_number(info, "gid");
	set_time(&st->st_mtim, ctl_text(info, "modified_at"));
	st->st_atim = st->st_ctim = st->st_mtim;
}

static int op_getattr(const char *path, struct stat *st, struct fuse_file_info *fi)
{
	_cleanup_(json_decrefp) json_t *info = NULL;
	int res = ask_info(served(), path, &info);

	(void)fi;
	if (!res)
		fill_stat(st, info);
	return res;
}

static int op_readlink(const char *path, char *buf, size_t size)
{
	_cleanup_(json_decrefp) json_t *info = NULL;
	_cleanup_(freep) char *target = NULL;
	int res = ask_info(served(), path, &info);

	if (res)
		return res;
	if (strcmp(ctl_text(info, "type"), "symlink"))
		return -EINVAL;
	target = strdup(ctl_text(info, "target"));
	if (!target)
		return -ENOMEM;
	files_name_raw(target, target);
	snprintf(buf, size, "%s", target);
	return 0;
}

/* --- folders --------------------------------------------------------------------------------- */

struct filling {
	void *buf;
	fuse_fill_dir_t fill;
};

static int fill_one(void *arg, const json_t *file, struct err *err)
{
	const struct filling *f = arg;
	const char *shown = ctl_text(file, "name");
	char name[FILES_NAME_SIZE];
	struct stat st;

	(void)err;
	/* A name that cannot be one here is not shown. */
	if (strlen(shown) >= sizeof(name) || !files_name_raw(name, shown) ||
	    strlen(name) > NAME_MAX || strchr(name, '/') || !strcmp(name, ".") ||
	    !strcmp(name, ".."))
		return CTL_OK;
	fill_stat(&st, file);
	return f->fill(f->buf, name, &st, 0, FUSE_FILL_DIR_PLUS) ? CTL_FAILED : CTL_OK;
}

static int op_readdir(const char *path, void *buf, fuse_fill_dir_t fill, off_t off,
		      struct fuse_file_info *fi, enum fuse_readdir_flags flags)
{
	struct filling f = {buf, fill};
	struct served *s = served();
	_cleanup_(freep) char *shown = shown_path(path);
	bool again;
	int res;

	(void)off, (void)fi, (void)flags;
	if (!shown)
		return -ENOMEM;
	fill(buf, ".", NULL, 0, 0);
	fill(buf, "..", NULL, 0, 0);
	res = ctl_restore_folder(s->ctl, s->mount_id, shown, false, fill_one, &f, NULL);
	res = look_again(s, res, &again);
	if (again)
		res = ctl_restore_folder(s->ctl, s->mount_id, shown, false, fill_one, &f, NULL);
	return res ? errno_of(res) : 0;
}

/* --- content --------------------------------------------------------------------------------- */

static int op_open(const char *path, struct fuse_file_info *fi)
{
	(void)path;
	if ((fi->flags & O_ACCMODE) != O_RDONLY)
		return -EROFS;
	fi->keep_cache = 1;
	return 0;
}

struct piece {
	char *buf;
	size_t size, got;
};

static int take_piece(void *arg, const void *data, size_t len)
{
	struct piece *p = arg;

	if (len > p->size - p->got)
		return -1;
	memcpy(p->buf + p->got, data, len);
	p->got += len;
	return 0;
}

static int fetch_piece(struct served *s, const char *shown, off_t off, struct piece *p)
{
	const struct ctl_query query[] = {{"path", shown}, {NULL, NULL}};
	char range[64];

	p->got = 0;
	snprintf(range, sizeof(range), "%lld-%lld", (long long)off,
		 (long long)off + (long long)p->size - 1);
	return ctl_rest_fetch(s->ctl->rest, RESTORE, s->mount_id, "/download", query, range,
			      take_piece, p, NULL);
}

static int op_read(const char *path, char *buf, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct piece p = {.buf = buf, .size = MIN(size, (size_t)INT_MAX)};
	_cleanup_(freep) char *shown = shown_path(path);
	struct served *s = served();
	bool again;
	int res;

	(void)fi;
	if (!shown || !size)
		return shown ? 0 : -ENOMEM;
	res = look_again(s, fetch_piece(s, shown, off, &p), &again);
	if (again)
		res = fetch_piece(s, shown, off, &p);
	return res ? errno_of(res) : (int)p.got;
}

static void *op_init(struct fuse_conn_info *conn, struct fuse_config *config)
{
	(void)conn;
	config->entry_timeout = config->attr_timeout = config->negative_timeout = KEPT_S;
	config->kernel_cache = 1;
	config->nullpath_ok = 0;
	return served();
}

static const struct fuse_operations operations = {
	.init = op_init,
	.getattr = op_getattr,
	.readlink = op_readlink,
	.readdir = op_readdir,
	.open = op_open,
	.read = op_read,
};

/* --- serving --------------------------------------------------------------------------------- */

/* How it began, through a pipe to who waits. */
struct begun {
	int res;
	char text[sizeof(((struct err *)0)->text)];
};

static void tell(int fd, int res, const struct err *err)
{
	struct begun b = {.res = res};

	snprintf(b.text, sizeof(b.text), "%s", res ? err->text : "");
	/* Who waited may be gone: nobody is left to care. */
	if (write(fd, &b, sizeof(b)) != sizeof(b))
		return;
}

static int mount_refused(const char *path, struct err *err)
{
	return err_set(
		err, CTL_FAILED,
		"%s cannot be mounted on: is it an empty folder of yours, and are /dev/fuse and "
		"fusermount3 (package fuse3) there?",
		path);
}

static struct fuse *mount_fuse(struct served *s, const char *path, struct err *err)
{
	char options[200];
	char *argv[] = {"sendense-ctl", "-o", options, NULL};
	struct fuse_args args = FUSE_ARGS_INIT(3, argv);
	struct fuse *fuse;

	snprintf(options, sizeof(options),
		 "ro,nosuid,nodev,subtype=" FILESYSTEM_NAME ",fsname=%.64s#%d", s->backup_id,
		 (int)getpid());
	fuse = fuse_new(&args, &operations, sizeof(operations), s);
	fuse_opt_free_args(&args);
	if (fuse && fuse_mount(fuse, path)) {
		fuse_destroy(fuse);
		fuse = NULL;
	}
	if (!fuse)
		mount_refused(path, err);
	return fuse;
}

/* Serves until unmounted; @ready is told once. */
static int serve(struct served *s, const char *path, int ready, struct err *err)
{
	struct fuse *fuse;
	json_t *mount = NULL;
	int res = ctl_restore_mount(s->ctl, s->backup_id, s->disk, &mount, err);

	if (res)
		return res;
	take_mount(s, mount);
	fuse = mount_fuse(s, path, err);
	res = fuse ? CTL_OK : CTL_FAILED;
	if (!res) {
		fuse_set_signal_handlers(fuse_get_session(fuse));
		if (ready >= 0)
			tell(ready, CTL_OK, err);
		/* Its result is that of whoever ended it. */
		fuse_loop(fuse);
		fuse_remove_signal_handlers(fuse_get_session(fuse));
		fuse_unmount(fuse);
		fuse_destroy(fuse);
	}
	ctl_restore_unmount(s->ctl, steal(&s->mount));
	return res;
}

/* A life of its own: no terminal, no folder held, nothing said. */
static void leave_terminal(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	setsid();
	if (null >= 0) {
		dup2(null, STDIN_FILENO);
		dup2(null, STDOUT_FILENO);
		dup2(null, STDERR_FILENO);
		close(null);
	}
	if (chdir("/"))
		_exit(CTL_FAILED);
}

static int serve_in_background(struct served *s, const char *path, struct err *err)
{
	struct begun b = {.res = CTL_FAILED, .text = "the process that was to serve it died"};
	int pipe_fds[2];
	pid_t pid;
	ssize_t n;

	fflush(NULL);
	if (pipe2(pipe_fds, O_CLOEXEC) || (pid = fork()) < 0)
		return err_set(err, CTL_FAILED, "starting a process: %s", strerror(errno));
	if (!pid) {
		int res;

		close(pipe_fds[0]);
		leave_terminal();
		res = serve(s, path, pipe_fds[1], err);
		if (res)
			tell(pipe_fds[1], res, err);
		_exit(res < 0 ? CTL_FAILED : res);
	}
	close(pipe_fds[1]);
	do
		n = read(pipe_fds[0], &b, sizeof(b));
	while (n < 0 && errno == EINTR);
	close(pipe_fds[0]);
	b.text[sizeof(b.text) - 1] = '\0';
	if (n == sizeof(b) && !b.res)
		return CTL_OK;
	waitpid(pid, NULL, 0);
	return err_set(err, b.res, "%s", b.text);
}

int ctl_backup_mount(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	struct served s = {.ctl = ctl, .backup_id = ctl_option(args, "backup-id")};
	_cleanup_(freep) char *path = realpath(ctl_option(args, "path"), NULL);
	unsigned long disk = 0;
	struct stat st;
	int res = ctl_option_number(args, "disk", DISK_INDEX_MAX, &disk, err);

	if (res)
		return res;
	if (!path || stat(path, &st) || !S_ISDIR(st.st_mode))
		return err_set(err, CTL_NOT_FOUND, "there is no folder %s to mount on",
			       ctl_option(args, "path"));
	s.disk = (int)disk;
	ctl_rest_set_timeout(ctl->rest, CALL_TIMEOUT_S);
	if (ctl_option(args, "foreground"))
		return serve(&s, path, -1, err);
	res = serve_in_background(&s, path, err);
	if (!res && ctl->json) {
		json_t *reply = json_pack("{s:s, s:s, s:i}", "path", path, "backup_id", s.backup_id,
					  "disk_index", s.disk);

		ctl_print_json(reply);
		json_decref(reply);
	} else if (!res) {
		printf("disk %d of %s is mounted on %s; end it by: sendense-ctl backup unmount "
		       "--path "
		       "%s\n",
		       s.disk, s.backup_id, path, path);
	}
	return res;
}

/* --- backup unmount -------------------------------------------------------------------------- */

/* "\040" of /proc/self/mounts. */
static void unescape(char *text)
{
	char *to = text;

	for (const char *p = text; *p; p++) {
		unsigned c;

		if (*p == '\\' && sscanf(p + 1, "%3o", &c) == 1 && strlen(p) > 3) {
			*to++ = (char)c;
			p += 3;
		} else {
			*to++ = *p;
		}
	}
	*to = '\0';
}

/* Who serves what is mounted on @path: the last one of ours there; 0: none. */
static pid_t find_server(const char *path)
{
	FILE *f = fopen("/proc/self/mounts", "re");
	char *line = NULL;
	size_t room = 0;
	pid_t pid = 0;

	while (f && getline(&line, &room, f) > 0) {
		char *save, *source = strtok_r(line, " ", &save);
		char *target = strtok_r(NULL, " ", &save), *type = strtok_r(NULL, " ", &save);
		const char *mark;

		if (!type || strcmp(type, "fuse." FILESYSTEM_NAME))
			continue;
		unescape(source);
		unescape(target);
		mark = strrchr(source, '#');
		if (mark && !strcmp(target, path))
			pid = (pid_t)atol(mark + 1);
	}
	free(line);
	if (f)
		fclose(f);
	return pid;
}

/* Where @path leads, without touching what is mounted there: its hub may be gone. */
static char *absolute(const char *path)
{
	_cleanup_(freep) char *copy = strdup(path);
	_cleanup_(freep) char *parent = NULL;
	size_t len = copy ? strlen(copy) : 0;
	const char *name;
	char *slash, *out = NULL;

	while (len > 1 && copy[len - 1] == '/')
		copy[--len] = '\0';
	slash = copy ? strrchr(copy, '/') : NULL;
	name = slash ? slash + 1 : copy;
	if (!copy || !*name || !strcmp(name, ".") || !strcmp(name, ".."))
		return realpath(path, NULL);
	if (slash)
		*slash = '\0';
	parent = realpath(slash ? (*copy ? copy : "/") : ".", NULL);
	if (!parent || asprintf(&out, "%s/%s", strcmp(parent, "/") ? parent : "", name) < 0)
		return NULL;
	return out;
}

static int run_fusermount(const char *path, struct err *err)
{
	int status = 0;
	pid_t pid;

	if (geteuid() == 0 && !umount2(path, UMOUNT_NOFOLLOW))
		return CTL_OK;
	if (geteuid() == 0 && errno == EBUSY)
		return err_set(err, CTL_CONFLICT,
			       "%s is in use: end what has a file open or its folder there", path);
	pid = fork();
	if (!pid) {
		execlp("fusermount3", "fusermount3", "-u", "--", path, (char *)NULL);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return err_set(err, CTL_FAILED, "fusermount3 cannot be run");
	if (WEXITSTATUS(status) == 127)
		return err_set(err, CTL_FAILED, "fusermount3 (package fuse3) is not there");
	return WEXITSTATUS(status) ? err_set(err, CTL_CONFLICT,
					     "%s cannot be unmounted: is it in use, or mounted by "
					     "another user?",
					     path)
				   : CTL_OK;
}

int ctl_backup_unmount(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(freep) char *path = absolute(ctl_option(args, "path"));
	pid_t pid = path ? find_server(path) : 0;
	int res;

	if (!pid)
		return err_set(err, CTL_NOT_FOUND, "no backup is mounted on %s",
			       ctl_option(args, "path"));
	res = run_fusermount(path, err);
	/* Until the hub has heard of it, too. */
	for (int i = 0; !res && i < UNMOUNT_WAIT_S * 20 && pid > 0 && !kill(pid, 0); i++)
		nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
	if (!res && !ctl->json)
		printf("%s is unmounted\n", path);
	return res;
}
