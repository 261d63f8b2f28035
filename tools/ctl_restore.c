/*
 * Files out of backups: the verbs "backup files", "backup extract", and those of "restore".
 *
 * Each mounts what it needs at the hub and unmounts it again, whatever happens in between; signals
 * end the work, not the program, until that is done; a second one does not wait for it.
 */
#include "tools/ctl_restore.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "files/files.h"
#include "tools/ctl_args.h"
#include "tools/ctl_extract.h"
#include "tools/ctl_human.h"
#include "tools/ctl_lookup.h"
#include "tools/ctl_table.h"

#define DISK_INDEX_MAX 1000000UL
#define DISKS_MAX      256
#define LINKS_MAX      40 /* on the way to one file */

/* --- signals -------------------------------------------------------------------------------- */

static volatile sig_atomic_t stopped;

static void on_signal(int sig)
{
	(void)sig;
	stopped = 1;
}

bool ctl_restore_stopped(void)
{
	return stopped;
}

static void catch_signals(void)
{
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESETHAND},
			 ignore = {.sa_handler = SIG_IGN};

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
	/* "... | head": what is mounted is unmounted all the same. */
	sigaction(SIGPIPE, &ignore, NULL);
}

/* --- mounts --------------------------------------------------------------------------------- */

int ctl_restore_mount(struct ctl *ctl, const char *backup_id, int disk, json_t **mount,
		      struct err *err)
{
	return ctl_rest_post(ctl->rest, RESTORE "/mount",
			     json_pack("{s:s, s:i, s:s}", "backup_id", backup_id, "disk_index",
				       disk, "mode", "read-only"),
			     mount, err);
}

/* What went wrong before is what the user is to hear. */
void ctl_restore_unmount(struct ctl *ctl, json_t *mount)
{
	json_t *reply = NULL;

	if (!mount)
		return;
	ctl_rest_send(ctl->rest, "DELETE", RESTORE, ctl_text(mount, "mount_id"), NULL, NULL, &reply,
		      NULL);
	json_decref(reply);
	json_decref(mount);
}

/* The disks of a backup to look at: one, or all. */
static int choose_disks(struct ctl *ctl, const struct ctl_args *args, int disks[DISKS_MAX],
			size_t *n, struct err *err)
{
	_cleanup_(json_decrefp) json_t *backup = NULL;
	unsigned long index = 0;
	json_t *disk;
	size_t i;
	int res = ctl_option_number(args, "disk", DISK_INDEX_MAX, &index, err);

	*n = 1;
	disks[0] = (int)index;
	if (res || ctl_option(args, "disk"))
		return res;
	res = ctl_rest_get(ctl->rest, "/api/v1/backups", ctl_option(args, "backup-id"), NULL, NULL,
			   &backup, err);
	*n = 0;
	json_array_foreach (json_object_get(backup, "disks"), i, disk)
		if (*n < DISKS_MAX)
			disks[(*n)++] = (int)ctl_number(disk, "disk_index");
	if (!res && !*n)
		return err_set(err, CTL_NOT_FOUND, "backup %s has no disks",
			       ctl_option(args, "backup-id"));
	return res;
}

/* --- looking for a path ---------------------------------------------------------------------- */

static bool names_a_partition(const char *path)
{
	size_t n = strlen("/partition-");

	return !strncmp(path, "/partition-", n) && path[n] >= '0' && path[n] <= '9';
}

static int file_info(struct ctl *ctl, const json_t *mount, const char *path, json_t **info,
		     struct err *err)
{
	const struct ctl_query query[] = {{"path", path}, {NULL, NULL}};

	return ctl_rest_get(ctl->rest, RESTORE, ctl_text(mount, "mount_id"), "/file-info", query,
			    info, err);
}

/* --- links ---------------------------------------------------------------------------------- */

/* A path on its way through links, as a guest would resolve it: "/" is its partition, and nothing
 * leads out of that. The hub follows none. */
struct way {
	struct ctl *ctl;
	const json_t *mount;
	size_t root;	   /* length of "/partition-N" in `done` */
	char *done, *todo; /* what is resolved, and what is left of it */
	unsigned links;
};

static void way_up(struct way *w)
{
	char *slash = strrchr(w->done, '/');

	if (strlen(w->done) > w->root)
		*slash = '\0';
}

static int way_no_memory(struct err *err)
{
	return err_set(err, CTL_FAILED, "out of memory");
}

/* A link: its target stands in its place. */
static int way_follow(struct way *w, const json_t *info, const char *rest, struct err *err)
{
	const char *target = ctl_text(info, "target");
	char *todo;

	if (++w->links > LINKS_MAX)
		return err_set(err, CTL_NOT_FOUND, "%s: more than %d links on the way",
			       ctl_text(info, "path"), LINKS_MAX);
	if (asprintf(&todo, "%s/%s", target, rest) < 0)
		return way_no_memory(err);
	if (*target == '/')
		w->done[w->root] = '\0';
	free(w->todo);
	w->todo = todo;
	return CTL_OK;
}

/* One component, of @len bytes at the beginning of w->todo. */
static int way_step(struct way *w, size_t len, struct err *err)
{
	_cleanup_(json_decrefp) json_t *info = NULL;
	_cleanup_(freep) char *next = NULL;
	const char *name = w->todo, *rest = name + len + (name[len] == '/');
	int res;

	if (asprintf(&next, "%s/%.*s", w->done, (int)len, name) < 0)
		return way_no_memory(err);
	res = file_info(w->ctl, w->mount, next, &info, err);
	if (res)
		return res;
	if (!strcmp(ctl_text(info, "type"), "symlink"))
		return way_follow(w, info, rest, err);
	free(w->done);
	w->done = steal(&next);
	memmove(w->todo, rest, strlen(rest) + 1);
	return CTL_OK;
}

static int way_go(struct way *w, struct err *err)
{
	int res = CTL_OK;

	while (!res && *w->todo) {
		size_t len = strcspn(w->todo, "/");
		bool up = len == 2 && !strncmp(w->todo, "..", 2);

		if (len && !up && !(len == 1 && *w->todo == '.')) {
			res = way_step(w, len, err);
			continue;
		}
		if (up)
			way_up(w);
		len += w->todo[len] == '/';
		memmove(w->todo, w->todo + len, strlen(w->todo + len) + 1);
	}
	return res;
}

/* What "/partition-N/..." leads to, links and all; CTL_NOT_FOUND. */
static int follow_links(struct ctl *ctl, const json_t *mount, const char *path, json_t **info,
			struct err *err)
{
	struct way w = {.ctl = ctl, .mount = mount, .root = strcspn(path + 1, "/") + 1};
	int res;

	w.done = strndup(path, w.root);
	w.todo = strdup(path + w.root);
	res = w.done && w.todo ? way_go(&w, err) : way_no_memory(err);
	if (!res)
		res = file_info(ctl, mount, w.done, info, err);
	free(w.done);
	free(w.todo);
	return res;
}

/* --- looking for a path in all there is ------------------------------------------------------ */

struct search {
	struct ctl *ctl;
	const char *path; /* as it was asked for */
	json_t *mount;	  /* of the first one found; kept */
	json_t *info;
	size_t found;
	char others[300]; /* all that were found */
	char unread[200]; /* partitions that could not be looked into */
	int last_miss;
};

static void search_note(char *list, size_t size, const char *what, int disk)
{
	size_t used = strlen(list);

	snprintf(list + used, size - used, "%sdisk %d %s", used ? ", " : "", disk, what);
}

static int search_one(struct search *s, json_t *mount, int disk, const char *path, struct err *err)
{
	_cleanup_(json_decrefp) json_t *info = NULL;
	int res = follow_links(s->ctl, mount, path, &info, err);

	/* A link that leads nowhere stands for itself. */
	if (res == CTL_NOT_FOUND && !strstr(path, "/.."))
		res = file_info(s->ctl, mount, path, &info, err);
	if (res == CTL_NOT_FOUND)
		return CTL_OK;
	if (res)
		return res;
	if (!s->found++) {
		s->mount = json_incref(mount);
		s->info = steal(&info);
	}
	search_note(s->others, sizeof(s->others), path, disk);
	return CTL_OK;
}

static int search_disk(struct search *s, json_t *mount, int disk, struct err *err)
{
	const json_t *partitions = json_object_get(mount, "partitions"), *p;
	int res = CTL_OK;
	size_t i;

	if (names_a_partition(s->path) || !strcmp(s->path, "/"))
		return search_one(s, mount, disk, s->path, err);
	json_array_foreach (partitions, i, p) {
		_cleanup_(freep) char *path = NULL;

		if (!json_is_true(json_object_get(p, "readable"))) {
			search_note(s->unread, sizeof(s->unread), ctl_text(p, "path"), disk);
			continue;
		}
		if (asprintf(&path, "%s%s%s", ctl_text(p, "path"), *s->path == '/' ? "" : "/",
			     s->path) < 0)
			return err_set(err, CTL_FAILED, "out of memory");
		res = search_one(s, mount, disk, path, err);
		if (res)
			return res;
	}
	return res;
}

static int search_answer(const struct search *s, const char *backup_id, struct err *err)
{
	if (s->found == 1)
		return CTL_OK;
	if (s->found)
		return err_set(
			err, CTL_CONFLICT,
			"%s is in several places: %s; say which by --disk and the whole path",
			s->path, s->others);
	if (s->unread[0])
		return err_set(err, CTL_NOT_FOUND,
			       "there is no %s in what can be read of backup %s (not looked into: "
			       "%s)",
			       s->path, backup_id, s->unread);
	return err_set(err, CTL_NOT_FOUND,
		       "there is no %s in backup %s: \"backup files\" shows what is there", s->path,
		       backup_id);
}

/* Finds @path in the disks there are; s->mount stays mounted, whatever the result. */
static int search_backup(struct search *s, const struct ctl_args *args, struct err *err)
{
	const char *backup_id = ctl_option(args, "backup-id");
	int disks[DISKS_MAX];
	size_t n = 0;
	int res = choose_disks(s->ctl, args, disks, &n, err);

	for (size_t i = 0; !res && i < n && !stopped; i++) {
		json_t *mount = NULL;

		res = ctl_restore_mount(s->ctl, backup_id, disks[i], &mount, err);
		if (!res)
			res = search_disk(s, mount, disks[i], err);
		if (mount != s->mount)
			ctl_restore_unmount(s->ctl, mount);
		else
			json_decref(mount);
	}
	if (!res && stopped)
		return err_set(err, CTL_INTERRUPTED, "interrupted");
	return res ? res : search_answer(s, backup_id, err);
}

static void search_end(struct search *s)
{
	ctl_restore_unmount(s->ctl, steal(&s->mount));
	json_decref(steal(&s->info));
}

/* --- backup files --------------------------------------------------------------------------- */

int ctl_restore_folder(struct ctl *ctl, const char *mount_id, const char *path, bool recursive,
		       ctl_restore_each *each, void *arg, struct err *err)
{
	uint64_t offset = 0;
	bool more = true;
	int res = CTL_OK;

	while (!res && more && !stopped) {
		_cleanup_(json_decrefp) json_t *page = NULL;
		char from[24];
		const struct ctl_query query[] = {{"path", path},
						  {"recursive", recursive ? "true" : NULL},
						  {"offset", from},
						  {NULL, NULL}};
		const json_t *files;
		json_t *file;
		size_t i;

		snprintf(from, sizeof(from), "%llu", (unsigned long long)offset);
		res = ctl_rest_get(ctl->rest, RESTORE, mount_id, "/files", query, &page, err);
		if (res)
			return res;
		files = json_object_get(page, "files");
		json_array_foreach (files, i, file) {
			res = each(arg, file, err);
			if (res)
				return res;
		}
		offset += json_array_size(files);
		more = json_is_true(json_object_get(page, "more")) && json_array_size(files);
	}
	return stopped ? err_set(err, CTL_INTERRUPTED, "interrupted") : res;
}

static int print_partitions(const json_t *mount, struct err *err)
{
	static const char *const columns[] = {"PATH", "TYPE", ">SIZE", "LABEL", "NOTE", NULL};
	_cleanup_(ctl_table_freep) struct ctl_table *table = ctl_table_new(columns);
	char text[HUMAN_MAX];
	const json_t *p;
	size_t i;

	json_array_foreach (json_object_get(mount, "partitions"), i, p) {
		ctl_table_add(table, ctl_text(p, "path"));
		ctl_table_add(table, ctl_text(p, "filesystem_type"));
		ctl_table_add(table, human_bytes(text, ctl_number(p, "size_bytes")));
		ctl_table_add(table, ctl_text(p, "label"));
		ctl_table_add(table, ctl_text(p, "note"));
	}
	return ctl_table_print(table, stdout, err);
}

struct listing {
	struct ctl_table *table; /* NULL: as JSON */
	json_t *rows;
	bool recursive;
};

static int list_one(void *arg, const json_t *file, struct err *err)
{
	struct listing *l = arg;
	const char *type = ctl_text(file, "type");
	char text[HUMAN_MAX];

	if (!l->table)
		return json_array_append(l->rows, (json_t *)file)
			       ? err_set(err, CTL_FAILED, "out of memory")
			       : CTL_OK;
	ctl_table_addf(l->table, "%c%s",
		       !strcmp(type, "directory") ? 'd'
		       : !strcmp(type, "symlink") ? 'l'
		       : !strcmp(type, "file")	  ? '-'
						  : '?',
		       ctl_text(file, "mode"));
	ctl_table_addf(l->table, "%llu:%llu", (unsigned long long)ctl_number(file, "uid"),
		       (unsigned long long)ctl_number(file, "gid"));
	ctl_table_addf(l->table, "%llu", (unsigned long long)ctl_number(file, "size"));
	ctl_table_add(l->table, human_time(text, ctl_text(file, "modified_at")));
	ctl_table_add(l->table, ctl_text(file, l->recursive ? "path" : "name"));
	return CTL_OK;
}

static int list_found(const struct search *s, bool recursive, struct err *err)
{
	static const char *const columns[] = {"MODE", "OWNER", ">SIZE", "MODIFIED", "NAME", NULL};
	_cleanup_(ctl_table_freep) struct ctl_table *table = NULL;
	_cleanup_(json_decrefp) json_t *rows = json_array();
	struct listing l = {.rows = rows, .recursive = recursive};
	int res;

	if (!s->ctl->json)
		l.table = table = ctl_table_new(columns);
	if (!strcmp(ctl_text(s->info, "type"), "directory"))
		res = ctl_restore_folder(s->ctl, ctl_text(s->mount, "mount_id"),
					 ctl_text(s->info, "path"), recursive, list_one, &l, err);
	else
		res = list_one(&l, s->info, err);
	if (res || table)
		return res ? res : ctl_table_print(table, stdout, err);
	rows = json_pack("{s:s, s:o}", "path", ctl_text(s->info, "path"), "files", steal(&rows));
	ctl_print_json(rows);
	return CTL_OK;
}

static int list_disk(struct ctl *ctl, const char *backup_id, int disk, json_t *list,
		     struct err *err)
{
	json_t *mount = NULL;
	int res = ctl_restore_mount(ctl, backup_id, disk, &mount, err);

	if (!res && ctl->json) {
		json_array_append(list, mount);
	} else if (!res) {
		printf("disk %d (%s)\n", disk, ctl_text(mount, "partition_table"));
		res = print_partitions(mount, err);
	}
	ctl_restore_unmount(ctl, mount);
	return res;
}

static int list_disks(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(json_decrefp) json_t *list = json_array();
	int disks[DISKS_MAX];
	size_t n = 0;
	int res = choose_disks(ctl, args, disks, &n, err);

	for (size_t i = 0; !res && i < n && !stopped; i++)
		res = list_disk(ctl, ctl_option(args, "backup-id"), disks[i], list, err);
	if (!res && stopped)
		return err_set(err, CTL_INTERRUPTED, "interrupted");
	if (!res && ctl->json)
		ctl_print_json(list);
	return res;
}

int ctl_backup_files(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	struct search s = {.ctl = ctl, .path = ctl_option(args, "path")};
	int res;

	catch_signals();
	if (!s.path || !strcmp(s.path, "/"))
		return list_disks(ctl, args, err);
	res = search_backup(&s, args, err);
	if (!res)
		res = list_found(&s, ctl_option(args, "recursive") != NULL, err);
	search_end(&s);
	return res;
}

/* --- backup extract ------------------------------------------------------------------------- */

int ctl_backup_extract(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	struct search s = {.ctl = ctl, .path = ctl_option(args, "file")};
	struct ctl_extracted done = {.files = 0};
	const char *output = ctl_option(args, "output");
	char bytes[HUMAN_MAX];
	int res;

	catch_signals();
	ctl_rest_set_stop(ctl->rest, ctl_restore_stopped);
	res = search_backup(&s, args, err);
	if (!res)
		res = ctl_extract(ctl, ctl_text(s.mount, "mount_id"), s.info, output,
				  ctl_option(args, "force") != NULL, &done, err);
	search_end(&s);
	if (res || !strcmp(output, "-"))
		return res;
	if (ctl->json) {
		json_t *reply = json_pack("{s:s, s:I, s:I, s:I}", "output", output, "files",
					  (json_int_t)done.files, "bytes", (json_int_t)done.bytes,
					  "left_out", (json_int_t)done.left_out);

		ctl_print_json(reply);
		json_decref(reply);
		return CTL_OK;
	}
	printf("%llu file%s (%s) in %s\n", (unsigned long long)done.files,
	       done.files == 1 ? "" : "s", human_bytes(bytes, done.bytes), output);
	return CTL_OK;
}

/* --- restore list, restore unmount ---------------------------------------------------------- */

static int restore_list(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	static const char *const columns[] = {"MOUNT",	"VM",	  "BACKUP", ">DISK",   "TYPE",
					      "STATUS", ">USERS", "HUB",    "EXPIRES", NULL};
	_cleanup_(ctl_table_freep) struct ctl_table *table = NULL;
	_cleanup_(json_decrefp) json_t *reply = NULL;
	char text[HUMAN_MAX];
	const json_t *row;
	size_t i;
	int res = ctl_rest_list(ctl->rest, RESTORE "/mounts", "mounts", NULL, &reply, err);

	(void)args;
	if (res)
		return res;
	if (ctl->json) {
		ctl_print_json(reply);
		return CTL_OK;
	}
	table = ctl_table_new(columns);
	json_array_foreach (json_object_get(reply, "mounts"), i, row) {
		ctl_table_add(table, ctl_text(row, "mount_id"));
		ctl_table_add(table, ctl_text(row, "vm_name"));
		ctl_table_add(table, ctl_text(row, "backup_id"));
		ctl_table_addf(table, "%llu", (unsigned long long)ctl_number(row, "disk_index"));
		ctl_table_add(table, ctl_text(row, "filesystem_type"));
		ctl_table_add(table, ctl_text(row, "status"));
		ctl_table_addf(table, "%llu", (unsigned long long)ctl_number(row, "users"));
		ctl_table_add(table, ctl_text(row, "hub_name"));
		ctl_table_add(table, human_time(text, ctl_text(row, "expires_at")));
	}
	return ctl_table_print(table, stdout, err);
}

static int restore_unmount(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	json_t *reply = NULL;
	int res =
		ctl_rest_send(ctl->rest, "DELETE", RESTORE, args->argv[0], NULL, NULL, &reply, err);

	json_decref(reply);
	if (!res && !ctl->json)
		printf("mount %s has one user less\n", args->argv[0]);
	return res;
}

const struct ctl_verb ctl_restore_verbs[] = {
	{
		.noun = "restore",
		.name = "list",
		.operands = "",
		.summary = "list the backups that are open for their files",
		.example = "sendense-ctl restore list",
		.run = restore_list,
	},
	{
		.noun = "restore",
		.name = "unmount",
		.operands = "MOUNT",
		.min_args = 1,
		.max_args = 1,
		.summary = "end a mount by its id",
		.detail = "Of one with several users, one goes; the last one ends it.",
		.example = "sendense-ctl restore unmount mount-01j9zk3v7q",
		.run = restore_unmount,
	},
	{0},
};
