/* Files out of backups: mounts, folders, downloads. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/json.h"
#include "api/list.h"
#include "api/routes.h"
#include "base/bytes.h"
#include "base/log.h"
#include "hub/restores.h"

#define RESTORE_ROWS	     1000 /* entries of a folder in one answer */
#define RESTORE_FLAT_MAX     1000000
#define RESTORE_PIECE	     (256U << 10) /* of a download */
#define RESTORE_ARCHIVE_PART (64U << 10)
#define RESTORE_ACCESS_MS    5000

static const struct log_scope restore_log = {.name = "restore"};

/* --- mounts --------------------------------------------------------------------------------- */

API_WORD_FN(catalog_mount_status_name, enum catalog_mount_status)

static const struct api_json_member partition_members[] = {
	API_BY_HAND("number", INT),
	API_BY_HAND("path", TEXT, .what = "where its files are"),
	API_BY_HAND("offset_bytes", I64, .what = "on the disk"),
	API_BY_HAND("size_bytes", I64),
	API_BY_HAND("filesystem_type", TEXT, .what = "ext4, ntfs, ..., or unknown"),
	API_BY_HAND("label", TEXT),
	API_BY_HAND("readable", BOOL),
	API_BY_HAND("needs_recovery", BOOL,
		    .what = "its journal holds changes that are newer than the files shown"),
	API_BY_HAND("note", TEXT, .what = "why it cannot be read, or what to know; may be empty"),
};
static const struct api_shape partition_shape = API_SHAPE("RestorePartition", partition_members);

#define MOUNT struct hub_mount
static const struct api_json_member mount_members[] = {
	API_AS("mount_id", TEXT, MOUNT, row.id),
	API_AS("backup_id", TEXT, MOUNT, row.backup_id),
	API_AS("backup_disk_id", I64, MOUNT, row.backup_disk_id),
	API_AS("disk_index", INT, MOUNT, row.disk_index),
	API_AS("vm_name", TEXT, MOUNT, row.vm_name),
	API_AS("mount_path", TEXT, MOUNT, row.mount_path,
	       .what = "of this API: .../files lists it; nothing is mounted on the hub's machine"),
	API_BY_HAND("nbd_device", TEXT, .what = "always empty: no device is needed"),
	API_AS("filesystem_type", TEXT, MOUNT, filesystem_type,
	       .what = "of the largest partition that can be read; of another hub's mount: empty"),
	API_AS("partition_table", TEXT, MOUNT, table, .what = "gpt, mbr or none"),
	API_AS("status", WORD, MOUNT, row.status,
	       API_WORDS(catalog_mount_status_name_int, CATALOG_MOUNT_FAILED)),
	API_AS("users", INT, MOUNT, row.users, .what = "who mounted it and has not unmounted it"),
	API_AS("hub_name", TEXT, MOUNT, row.hub_name, .what = "which hub holds it"),
	API_AS("here", BOOL, MOUNT, here, .what = "this hub does"),
	API_AS("created_at", TIME, MOUNT, row.created_at_us),
	API_AS("last_used_at", TIME, MOUNT, row.last_used_at_us),
	API_AS("expires_at", TIME, MOUNT, expires_at_us,
	       .what = "it is unmounted then, unless somebody uses it before"),
	API_LIST("partitions", &partition_shape),
};
static const struct api_shape mount_shape = API_SHAPE("RestoreMount", mount_members);

static json_t *shape_partition(const struct files_partition *p)
{
	return json_pack("{s:i,s:o,s:I,s:I,s:o,s:o,s:b,s:b,s:o}", "number", (int)p->number, "path",
			 json_sprintf("/partition-%u", p->number), "offset_bytes",
			 (json_int_t)p->off, "size_bytes", (json_int_t)p->size, "filesystem_type",
			 api_json_text(p->type), "label", api_json_text(p->label), "readable",
			 p->readable, "needs_recovery", p->needs_recovery, "note",
			 api_json_text(p->note));
}

static json_t *shape_mount(const struct hub_mount *mount)
{
	json_t *out = api_json_encode(mount_members, ARRAY_SIZE(mount_members), mount);
	json_t *list = json_array();

	for (unsigned i = 0; i < mount->partition_count; i++)
		json_array_append_new(list, shape_partition(&mount->partitions[i]));
	json_object_set_new(out, "nbd_device", json_string(""));
	json_object_set_new(out, "partitions", list);
	return out;
}

struct mount_body {
	char backup_id[CATALOG_ID_SIZE];
	int disk_index;
	char mode[16];
};

#define BODY struct mount_body
static const struct api_json_member asked_members[] = {
	API_TEXT(BODY, backup_id, .required = true),
	API_INT(BODY, disk_index, .what = "0 unless said"),
	API_TEXT(BODY, mode, .one_of = "read-only"),
};
static const struct api_shape asked_shape = API_SHAPE("RestoreMountCreate", asked_members);

static int post_mount(struct api_request *req, struct err *err)
{
	struct hub_mount mount = {.here = false};
	BODY body = {.disk_index = 0};
	int rc = api_json_decode(req->body, asked_members, ARRAY_SIZE(asked_members), &body, err);

	if (rc)
		return rc;
	if (body.mode[0] && strcmp(body.mode, "read-only"))
		return err_set(err, HUB_E_INVALID,
			       "mode must be read-only, not \"%s\": backups are never written",
			       body.mode);
	if (body.disk_index < 0)
		return err_set(err, HUB_E_INVALID, "disk_index must not be negative");
	rc = hub_restore_mount(req->hub, body.backup_id, body.disk_index, &mount, err);
	if (!rc)
		req->answer = shape_mount(&mount);
	hub_mount_deinit(&mount);
	return rc;
}

static int get_mounts(struct api_request *req, struct err *err)
{
	struct hub_mount *rows;
	json_t *list;
	size_t n = 0;
	int rc = hub_restore_mounts(req->hub, &rows, &n, err);

	if (rc)
		return rc;
	list = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, shape_mount(&rows[i]));
	hub_mounts_free(rows, n);
	return api_list_whole(req, "mounts", list, err);
}

static int delete_mount(struct api_request *req, struct err *err)
{
	int rc = hub_restore_unmount(req->hub, req->args[0], err);

	if (!rc)
		req->status = API_NO_CONTENT;
	return rc;
}

/* --- what there is -------------------------------------------------------------------------- */

#define STATE struct hub_restore_state
static const struct api_json_member resources_members[] = {
	API_BY_HAND("active_mounts", INT, .what = "of this hub"),
	API_BY_HAND("max_mounts", INT),
	API_BY_HAND("available_slots", INT),
};
static const struct api_shape resources_shape = API_SHAPE("RestoreResources", resources_members);

static int get_resources(struct api_request *req, struct err *err)
{
	STATE state;

	hub_restore_state(req->hub, &state);
	req->answer = json_pack("{s:i,s:i,s:i}", "active_mounts", (int)state.mounted, "max_mounts",
				(int)state.max_mounts, "available_slots",
				(int)(state.max_mounts - MIN(state.mounted, state.max_mounts)));
	return req->answer ? 0 : err_sys(err, -ENOMEM, "resources");
}

static const struct api_json_member cleanup_members[] = {
	API_AS("idle_timeout_seconds", I64, STATE, idle_s,
	       .what = "a mount that nobody used for so long is unmounted"),
	API_AS("cleanup_interval_seconds", I64, STATE, interval_s,
	       .what = "how often idle mounts are looked for"),
	API_AS("last_cleanup_at", TIME, STATE, last_look_at_us),
	API_AS("total_cleaned", I64, STATE, cleaned, .what = "since this hub started"),
	API_BY_HAND("active_mounts", INT),
};
static const struct api_shape cleanup_shape = API_SHAPE("RestoreCleanup", cleanup_members);

static int get_cleanup(struct api_request *req, struct err *err)
{
	STATE state;

	hub_restore_state(req->hub, &state);
	req->answer = api_json_encode(cleanup_members, ARRAY_SIZE(cleanup_members), &state);
	json_object_set_new(req->answer, "active_mounts", json_integer(state.mounted));
	return req->answer ? 0 : err_sys(err, -ENOMEM, "state of the clean-up");
}

/* --- folders -------------------------------------------------------------------------------- */

static const char *const kind_names[] = {
	[FILES_FILE] = "file",
	[FILES_DIR] = "directory",
	[FILES_SYMLINK] = "symlink",
	[FILES_OTHER] = "other",
};

static const struct api_json_member file_members[] = {
	API_BY_HAND("name", TEXT),
	API_BY_HAND("path", TEXT, .what = "whole; for path= of these routes"),
	API_BY_HAND("type", TEXT, .one_of = "file|directory|symlink|other",
		    .what = "other: a device, pipe or socket, which has no content here"),
	API_BY_HAND("size", I64, .what = "bytes"),
	API_BY_HAND("mode", TEXT, .what = "permission bits, octal"),
	API_BY_HAND("uid", I64),
	API_BY_HAND("gid", I64),
	API_BY_HAND("inode", I64, .what = "equal for two names of one file of a partition"),
	API_BY_HAND("modified_at", TIME, .nullable = true),
	API_BY_HAND("target", TEXT, .optional = true, .what = "of a symlink, of file-info alone"),
};
static const struct api_shape file_shape = API_SHAPE("RestoreFile", file_members);

static json_t *shape_file(const char *path, const struct files_entry *e)
{
	int64_t us = 0;

	if (__builtin_mul_overflow(e->mtime, 1000000, &us) ||
	    __builtin_add_overflow(us, e->mtime_ns / 1000, &us))
		us = 0;
	return json_pack("{s:o,s:o,s:s,s:I,s:o,s:I,s:I,s:I,s:o}", "name", api_json_text(e->name),
			 "path", api_json_text(path), "type", kind_names[e->kind], "size",
			 (json_int_t)e->size, "mode", json_sprintf("%04o", e->mode & 07777U), "uid",
			 (json_int_t)e->uid, "gid", (json_int_t)e->gid, "inode", (json_int_t)e->id,
			 "modified_at", api_json_time(us));
}

static int hold(struct api_request *req, struct hub_restore **out, struct err *err)
{
	return hub_restore_hold(req->hub, req->args[0], out, err);
}

/* The parameter, or @otherwise; "" where one is needed and absent. */
static int take_path(const struct api_request *req, const char *otherwise, const char **out,
		     struct err *err)
{
	const char *path = api_uri_query(&req->uri, "path");

	*out = path[0] ? path : otherwise;
	return *out ? 0 : err_set(err, HUB_E_INVALID, "path is missing: which file?");
}

struct folder {
	const char *path;
	json_t *rows;
};

static int add_row(void *arg, const struct files_entry *e)
{
	struct folder *f = arg;
	char path[FILES_PATH_SIZE + FILES_NAME_SIZE];
	size_t len = strlen(f->path);

	while (len && f->path[len - 1] == '/')
		len--;
	snprintf(path, sizeof(path), "%.*s/%s", (int)len, f->path, e->name);
	return json_array_append_new(f->rows, shape_file(path, e)) ? -ENOMEM : 0;
}

static int list_folder(struct hub_restore *restore, struct folder *f, int64_t offset, int64_t limit,
		       bool *more, struct err *err)
{
	struct files_list list = {
		.skip = (uint64_t)offset, .max = (uint64_t)limit, .each = add_row, .arg = f};
	int rc = hub_restore_list(restore, f->path, &list, err);

	*more = list.more;
	return rc;
}

/* Walks past what earlier pages had. */
static int list_below(struct hub_restore *restore, struct folder *f, int64_t offset, int64_t limit,
		      bool *more, struct err *err)
{
	_cleanup_(hub_walk_closep) struct hub_walk *walk = NULL;
	const struct hub_walk_entry *e = NULL;
	int rc = hub_walk_open(restore, f->path, &walk, err);

	*more = false;
	for (int64_t i = 0; !rc; i++) {
		rc = hub_walk_next(walk, &e, err);
		if (rc || !e)
			break;
		*more = i == offset + limit;
		if (*more)
			break;
		if (i >= offset && json_array_append_new(f->rows, shape_file(e->path, &e->entry)))
			rc = err_sys(err, -ENOMEM, "files");
	}
	return rc;
}

static int get_files(struct api_request *req, struct err *err)
{
	_cleanup_(hub_restore_releasep) struct hub_restore *restore = NULL;
	const char *recursive = api_uri_query(&req->uri, "recursive");
	int64_t limit = RESTORE_ROWS, offset = 0;
	struct folder f = {.rows = NULL};
	bool all = !strcmp(recursive, "true"), more = false;
	int rc = take_path(req, "/", &f.path, err);

	if (!rc && recursive[0] && !all && strcmp(recursive, "false"))
		rc = err_set(err, HUB_E_INVALID, "recursive must be true or false");
	if (!rc)
		rc = api_query_int(req, "limit", 1, RESTORE_ROWS, &limit, err);
	if (!rc)
		rc = api_query_int(req, "offset", 0, all ? RESTORE_FLAT_MAX : INT64_MAX / 2,
				   &offset, err);
	if (!rc)
		rc = hold(req, &restore, err);
	if (rc)
		return rc;
	f.rows = json_array();
	rc = all ? list_below(restore, &f, offset, limit, &more, err)
		 : list_folder(restore, &f, offset, limit, &more, err);
	if (rc) {
		json_decref(f.rows);
		return rc;
	}
	req->answer =
		json_pack("{s:s,s:o,s:b,s:o,s:b}", "mount_id", req->args[0], "path",
			  api_json_text(f.path), "recursive", all, "files", f.rows, "more", more);
	return req->answer ? 0 : err_sys(err, -ENOMEM, "files");
}

static int get_file_info(struct api_request *req, struct err *err)
{
	_cleanup_(hub_restore_releasep) struct hub_restore *restore = NULL;
	_cleanup_(freep) char *target = NULL;
	struct files_entry entry;
	const char *path;
	int rc = take_path(req, NULL, &path, err);

	if (!rc)
		rc = hold(req, &restore, err);
	if (!rc)
		rc = hub_restore_stat(restore, path, &entry, err);
	if (rc)
		return rc;
	req->answer = shape_file(path, &entry);
	if (entry.kind != FILES_SYMLINK)
		return 0;
	target = malloc(FILES_LINK_SIZE);
	if (!target)
		return err_sys(err, -ENOMEM, "link");
	rc = hub_restore_readlink(restore, path, target, FILES_LINK_SIZE, err);
	if (!rc)
		json_object_set_new(req->answer, "target", api_json_text(target));
	return rc;
}

/* --- downloads ------------------------------------------------------------------------------ */

struct download {
	struct hub *hub;
	struct hub_caller caller;
	const struct api_route *route;
	struct hub_restore *restore;
	struct hub_archive *archive; /* NULL: a file */
	char *path;
	uint64_t at, end; /* of the file */
	int64_t allowed_ms;
};

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

static void download_end(void *arg)
{
	struct download *d = arg;

	hub_archive_close(d->archive);
	hub_restore_release(d->restore);
	free(d->path);
	free(d);
}

/* A download lasts: its token may be worth nothing any more meanwhile. */
static bool download_may_go_on(struct download *d)
{
	if (hub_is_stopping(d->hub))
		return false;
	if (now_ms() - d->allowed_ms < RESTORE_ACCESS_MS)
		return true;
	d->allowed_ms = now_ms();
	return api_may_go_on(d->hub, &d->caller, d->route, "restore");
}

/* What was promised cannot be held any more: who reads sees a connection that breaks. */
static ssize_t download_read(void *arg, char *buf, size_t size)
{
	struct download *d = arg;
	struct err err = ERR_INIT;
	int64_t n;

	if (!download_may_go_on(d))
		return -1;
	if (d->archive)
		n = hub_archive_read(d->archive, buf, size, &err);
	else
		n = hub_restore_read(d->restore, d->path, d->at, buf,
				     (size_t)MIN(d->end - d->at, (uint64_t)size), &err);
	if (n < 0 || (!n && !d->archive && d->at < d->end)) {
		log_warn(&restore_log, "a download of %s was cut off: %s", d->path,
			 n ? err.text : "the file ends early");
		return -1;
	}
	d->at += (uint64_t)n;
	return (ssize_t)n;
}

/* @restore is given away. */
static struct download *download_new(struct api_request *req, const char *path,
				     struct hub_restore **restore)
{
	struct download *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->path = strdup(path);
	if (!d->path) {
		free(d);
		return NULL;
	}
	d->hub = req->hub;
	d->caller = req->user;
	d->route = req->route;
	d->restore = steal(restore);
	d->allowed_ms = now_ms();
	return d;
}

/* RFC 6266: a name for old readers, and the name. */
static void reply_name(struct api_request *req, const char *name, const char *suffix)
{
	char plain[128], *coded = malloc(3 * strlen(name) + 1), *to = coded;
	size_t n = 0;

	for (const unsigned char *p = (const unsigned char *)name; coded && *p; p++) {
		bool safe = (*p >= '0' && *p <= '9') || (*p >= 'A' && *p <= 'Z') ||
			    (*p >= 'a' && *p <= 'z') || strchr("-._", *p);

		if (n < sizeof(plain) - 1)
			plain[n++] = safe ? (char)*p : '_';
		to += safe ? sprintf(to, "%c", *p) : sprintf(to, "%%%02X", *p);
	}
	plain[n] = '\0';
	if (coded) {
		*to = '\0';
		api_reply_header(req, "Content-Disposition",
				 "attachment; filename=\"%s%s\"; filename*=UTF-8''%s%s", plain,
				 suffix, coded, suffix);
	}
	free(coded);
}

/* "/" and "/partition-1/" have names, too. */
static const char *name_of(const char *path, char *buf, size_t size)
{
	size_t len = strlen(path), from;

	while (len && path[len - 1] == '/')
		len--;
	for (from = len; from && path[from - 1] != '/';)
		from--;
	snprintf(buf, size, "%.*s", (int)(len - from), path + from);
	return buf[0] ? buf : "disk";
}

static int reply_archive(struct api_request *req, const char *path, enum hub_archive_format format,
			 struct hub_restore **restore, struct err *err)
{
	bool zip = format == HUB_ARCHIVE_ZIP;
	struct download *d = download_new(req, path, restore);
	char name[FILES_NAME_SIZE];
	int rc;

	if (!d)
		return err_sys(err, -ENOMEM, "download");
	rc = hub_archive_open(d->restore, path, format, &d->archive, err);
	if (rc) {
		download_end(d);
		return rc;
	}
	req->told = api_uri_query(&req->uri, "path");
	reply_name(req, name_of(path, name, sizeof(name)), zip ? ".zip" : ".tar.gz");
	return api_reply_stream(req, zip ? "application/zip" : "application/gzip",
				(struct api_stream){.read = download_read,
						    .end = download_end,
						    .arg = d,
						    .piece = RESTORE_ARCHIVE_PART});
}

/* --- a file, or a part of it ---------------------------------------------------------------- */

enum range { RANGE_NONE, RANGE_PART, RANGE_BEYOND };

/* A decimal number; false: none, or too large. */
static bool take_number(const char **p, uint64_t *out)
{
	const char *from = *p;

	for (*out = 0; **p >= '0' && **p <= '9'; (*p)++)
		if (__builtin_mul_overflow(*out, 10, out) ||
		    __builtin_add_overflow(*out, (uint64_t)(**p - '0'), out))
			return false;
	return *p != from;
}

/* "FROM-TO", "FROM-", "-LAST" of @size bytes, as [*from, *to). */
static enum range parse_one(const char *text, uint64_t size, uint64_t *from, uint64_t *to)
{
	uint64_t last = UINT64_MAX;

	*to = size;
	if (*text == '-') {
		text++;
		if (!take_number(&text, &last) || *text)
			return RANGE_NONE;
		*from = last < size ? size - last : 0;
		return last && size ? RANGE_PART : RANGE_BEYOND;
	}
	if (!take_number(&text, from) || *text++ != '-')
		return RANGE_NONE;
	if (*text && (!take_number(&text, &last) || *text || last < *from))
		return RANGE_NONE;
	if (last < size)
		*to = last + 1;
	return *from < size ? RANGE_PART : RANGE_BEYOND;
}

/* RFC 9110, 14.2: one range of bytes. Several, or another unit, are answered as if none had been
 * asked for. */
static enum range parse_range(const char *text, uint64_t size, uint64_t *from, uint64_t *to)
{
	enum range range = RANGE_NONE;

	if (text && !strncmp(text, "bytes=", 6) && !strchr(text, ','))
		range = parse_one(text + 6, size, from, to);
	if (range == RANGE_NONE) {
		*from = 0;
		*to = size;
	}
	return range;
}

/* A point never changes: path and disk say which bytes these are. */
static void make_etag(const struct hub_restore *restore, const struct files_entry *e, char *out,
		      size_t size)
{
	snprintf(out, size, "\"%" PRIx64 "-%" PRIx64 "-%" PRIx64 "\"",
		 (uint64_t)hub_restore_disk_id(restore), e->id, e->size);
}

static int reply_file(struct api_request *req, const char *path, const struct files_entry *e,
		      struct hub_restore **restore, struct err *err)
{
	const char *asked = api_request_header(req, "Range");
	const char *only_if = api_request_header(req, "If-Range");
	uint64_t from, to;
	enum range range;
	struct download *d;
	char etag[80];

	make_etag(*restore, e, etag, sizeof(etag));
	range = parse_range(only_if && strcmp(only_if, etag) ? NULL : asked, e->size, &from, &to);
	api_reply_header(req, "Accept-Ranges", "bytes");
	if (range == RANGE_BEYOND) {
		api_reply_header(req, "Content-Range", "bytes */%" PRIu64, e->size);
		return err_set(err, API_STATUS(416), "%.300s has %" PRIu64 " bytes: there is no %s",
			       path, e->size, asked);
	}
	d = download_new(req, path, restore);
	if (!d)
		return err_sys(err, -ENOMEM, "download");
	d->at = from;
	d->end = to;
	api_reply_header(req, "ETag", "%s", etag);
	if (range == RANGE_PART) {
		req->status = 206;
		api_reply_header(req, "Content-Range", "bytes %" PRIu64 "-%" PRIu64 "/%" PRIu64,
				 from, to - 1, e->size);
	} else {
		/* Who reads in parts mounted it, which is in the audit log. */
		req->told = api_uri_query(&req->uri, "path");
	}
	reply_name(req, e->name, "");
	return api_reply_stream(req, "application/octet-stream",
				(struct api_stream){.read = download_read,
						    .end = download_end,
						    .arg = d,
						    .piece = RESTORE_PIECE,
						    .sized = true,
						    .size = to - from});
}

static int get_download(struct api_request *req, struct err *err)
{
	_cleanup_(hub_restore_releasep) struct hub_restore *restore = NULL;
	struct files_entry entry;
	const char *path;
	int rc = take_path(req, NULL, &path, err);

	if (!rc)
		rc = hold(req, &restore, err);
	if (!rc)
		rc = hub_restore_stat(restore, path, &entry, err);
	if (rc)
		return rc;
	switch (entry.kind) {
	case FILES_DIR:
		return reply_archive(req, path, HUB_ARCHIVE_ZIP, &restore, err);
	case FILES_FILE:
		return reply_file(req, path, &entry, &restore, err);
	case FILES_SYMLINK:
		return err_set(err, HUB_E_INVALID,
			       "%.300s is a symbolic link, which is not followed: /file-info tells "
			       "its target",
			       path);
	default:
		return err_set(err, HUB_E_INVALID,
			       "%.300s is a device, a pipe or a socket: it has no content", path);
	}
}

static int get_download_directory(struct api_request *req, struct err *err)
{
	_cleanup_(hub_restore_releasep) struct hub_restore *restore = NULL;
	const char *word = api_uri_query(&req->uri, "format"), *path;
	bool zip = !word[0] || !strcmp(word, "zip");
	int rc = take_path(req, NULL, &path, err);

	if (!rc && !zip && strcmp(word, "tar.gz"))
		rc = err_set(err, HUB_E_INVALID, "format must be zip or tar.gz");
	if (!rc)
		rc = hold(req, &restore, err);
	return rc ? rc
		  : reply_archive(req, path, zip ? HUB_ARCHIVE_ZIP : HUB_ARCHIVE_TAR_GZ, &restore,
				  err);
}

/* --- routes --------------------------------------------------------------------------------- */

static const struct api_json_member mount_list_members[] = {
	API_LIST("mounts", &mount_shape),
	API_BY_HAND("total", I64),
};
static const struct api_shape mount_list_shape = API_SHAPE("RestoreMountList", mount_list_members);
static const struct api_list mount_list = {.sorts = "created_at|last_used_at|vm_name|backup_id"};

static const struct api_json_member file_list_members[] = {
	API_BY_HAND("mount_id", TEXT),
	API_BY_HAND("path", TEXT),
	API_BY_HAND("recursive", BOOL),
	API_LIST("files", &file_shape, .what = "in the file system's order, which stays the same"),
	API_BY_HAND("more", BOOL, .what = "there are others, behind these: take another offset"),
};
static const struct api_shape file_list_shape = API_SHAPE("RestoreFileList", file_list_members);

#define ONE	  "/api/v1/restore/{mount_id}"
#define PATH_WHAT "\"/partition-1/etc/fstab\"; a link on the way is not followed"

static const struct api_route restore_routes[] = {
	API_ROUTE(POST, "/api/v1/restore/mount", post_mount, OPERATOR,
		  "Open a disk of a completed backup for its files", .creates = true,
		  .takes = &asked_shape, .gives = &mount_shape, .status = 201,
		  .details = "Read-only: the backup is never written. A disk that is mounted gets "
			     "one more user and the same mount; it goes with the last of them, or "
			     "when nobody has used it for a while. As many as restore_max_mounts "
			     "(429). The point cannot be deleted meanwhile."),
	API_ROUTE(GET, "/api/v1/restore/mounts", get_mounts, VIEWER, "The mounts there are",
		  .list = &mount_list, .gives = &mount_list_shape),
	API_ROUTE(GET, "/api/v1/restore/resources", get_resources, VIEWER,
		  "How many mounts there are and may be", .gives = &resources_shape),
	API_ROUTE(GET, "/api/v1/restore/cleanup-status", get_cleanup, VIEWER,
		  "How mounts that nobody uses are unmounted", .gives = &cleanup_shape),
	API_ROUTE(GET, ONE "/files", get_files, OPERATOR, "What is in a folder",
		  .details = "\"/\" lists the partitions. With recursive=true all that is below "
			     "it, folders before what is in them.",
		  .query = API_PARAMS({"path", API_JSON_TEXT, PATH_WHAT},
				      {"recursive", API_JSON_BOOL, "all that is below it"},
				      {"limit", API_JSON_INT, "at most so many (1000)"},
				      {"offset", API_JSON_INT, "without the first so many"}),
		  .gives = &file_list_shape),
	API_ROUTE(GET, ONE "/file-info", get_file_info, OPERATOR, "What a file is",
		  .query = API_PARAMS({"path", API_JSON_TEXT, PATH_WHAT, .required = true}),
		  .gives = &file_shape),
	API_ROUTE(GET, ONE "/download", get_download, OPERATOR,
		  "The content of a file; of a folder, a zip archive",
		  .details = "A file may be asked for in part (Range, RFC 9110).",
		  .query = API_PARAMS({"path", API_JSON_TEXT, PATH_WHAT, .required = true}),
		  .content_type = "application/octet-stream|application/zip", .ranges = true),
	API_ROUTE(
		GET, ONE "/download-directory", get_download_directory, OPERATOR,
		"A folder with all that is below it, as an archive",
		.details = "Files, folders and symbolic links; devices, pipes and sockets are left "
			   "out. Made while it is read: an error in the midst of it cuts the "
			   "connection.",
		.query =
			API_PARAMS({"path", API_JSON_TEXT, PATH_WHAT, .required = true},
				   {"format", API_JSON_TEXT, "of the archive (zip)", "zip|tar.gz"}),
		.content_type = "application/zip|application/gzip"),
	API_ROUTE(DELETE, ONE, delete_mount, OPERATOR,
		  "Unmount: one user less, the last one ends it", .status = API_NO_CONTENT),
};
const struct api_noun api_restore_noun =
	API_NOUN("Restore", "Files out of backups.", restore_routes);
