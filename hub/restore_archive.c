/*
 * Archives by libarchive, which pushes, read by HTTP, which pulls: each read does as many steps as
 * it takes to have bytes, a step being one header or one piece of a file. What libarchive pushes
 * meanwhile waits in a buffer that is never larger than what one step makes.
 */
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "hub/job.h"
#include "hub/restores.h"

#define ARCHIVE_PIECE FILES_READ_BEST
/* Fast: what is saved by more is less than what is waited for. */
#define ARCHIVE_LEVEL "1"

struct hub_archive {
	struct hub_restore *restore;
	struct hub_walk *walk;
	struct archive *archive;
	bool zip;
	locale_t locale; /* names are UTF-8 in here, whatever the program's locale is */
	char top[FILES_NAME_SIZE];

	char *file; /* being copied; NULL: none */
	uint64_t file_size, file_at;
	char *piece;

	char *out; /* made and not yet read */
	size_t out_len, out_at, out_room;
	bool ended;
};

/* --- what libarchive pushes ------------------------------------------------------------------- */

static la_ssize_t archive_push(struct archive *a, void *arg, const void *data, size_t len)
{
	struct hub_archive *h = arg;

	if (h->out_len + len > h->out_room) {
		size_t room = MAX(2 * h->out_room, h->out_len + len);
		char *grown = realloc(h->out, room);

		if (!grown) {
			archive_set_error(a, ENOMEM, "out of memory");
			return -1;
		}
		h->out = grown;
		h->out_room = room;
	}
	memcpy(h->out + h->out_len, data, len);
	h->out_len += len;
	return (la_ssize_t)len;
}

static int archive_failed(struct hub_archive *h, const char *what, struct err *err)
{
	const char *why = archive_error_string(h->archive);

	return err_set(err, -EIO, "archive of %.200s: %s", what, why ? why : "it cannot be made");
}

/* A zip's names are UTF-8, and "\\" parts folders for those who unpack it on Windows: it is shown
 * as files/files.h shows bytes. A tar's names are bytes. */
static void archive_name(const struct hub_archive *h, const char *shown, char *out, size_t size)
{
	size_t n = 0;

	if (!h->zip) {
		files_name_raw(out, shown);
		return;
	}
	for (; *shown && n + 4 <= size; shown++) {
		if (*shown == '\\')
			n += (size_t)sprintf(out + n, "\xee\xbd\x9c");
		else
			out[n++] = *shown;
	}
	out[n] = '\0';
}

/* --- steps ------------------------------------------------------------------------------------ */

static int archive_put_header(struct hub_archive *h, const char *shown, const char *link,
			      const struct files_entry *e, struct err *err)
{
	struct archive_entry *entry = archive_entry_new();
	char name[3 * (FILES_PATH_SIZE + FILES_NAME_SIZE) + 1];
	int rc;

	if (!entry)
		return err_sys(err, -ENOMEM, "archive");
	archive_name(h, shown, name, sizeof(name));
	archive_entry_set_pathname(entry, name);
	archive_entry_set_filetype(entry, e->kind == FILES_DIR	     ? AE_IFDIR
					  : e->kind == FILES_SYMLINK ? AE_IFLNK
								     : AE_IFREG);
	archive_entry_set_perm(entry, e->mode & 07777);
	archive_entry_set_mtime(entry, (time_t)e->mtime, (long)e->mtime_ns);
	archive_entry_set_uid(entry, e->uid);
	archive_entry_set_gid(entry, e->gid);
	archive_entry_set_size(entry, e->kind == FILES_FILE ? (la_int64_t)e->size : 0);
	if (link)
		archive_entry_set_symlink(entry, link);
	rc = archive_write_header(h->archive, entry);
	archive_entry_free(entry);
	/* A warning is about a name's characters. */
	return rc >= ARCHIVE_WARN ? 0 : archive_failed(h, shown, err);
}

static int archive_put_link(struct hub_archive *h, const char *shown,
			    const struct hub_walk_entry *w, struct err *err)
{
	_cleanup_(freep) char *target = malloc(FILES_LINK_SIZE);
	int rc;

	if (!target)
		return err_sys(err, -ENOMEM, "archive");
	rc = hub_restore_readlink(h->restore, w->path, target, FILES_LINK_SIZE, err);
	if (rc)
		return rc;
	if (!h->zip)
		files_name_raw(target, target);
	return archive_put_header(h, shown, target, &w->entry, err);
}

static int archive_begin_file(struct hub_archive *h, const char *shown,
			      const struct hub_walk_entry *w, struct err *err)
{
	int rc = archive_put_header(h, shown, NULL, &w->entry, err);

	if (rc)
		return rc;
	h->file = strdup(w->path);
	h->file_size = w->entry.size;
	h->file_at = 0;
	return h->file ? 0 : err_sys(err, -ENOMEM, "archive");
}

static int archive_next(struct hub_archive *h, struct err *err)
{
	char shown[FILES_NAME_SIZE + FILES_PATH_SIZE];
	const struct hub_walk_entry *w;
	int rc = hub_walk_next(h->walk, &w, err);

	if (rc)
		return rc;
	if (!w) {
		h->ended = true;
		return archive_write_close(h->archive) == ARCHIVE_OK
			       ? 0
			       : archive_failed(h, h->top, err);
	}
	snprintf(shown, sizeof(shown), "%s%s%s", h->top, h->top[0] ? "/" : "", w->name);
	if (w->entry.kind == FILES_FILE)
		return archive_begin_file(h, shown, w, err);
	if (w->entry.kind == FILES_DIR)
		return archive_put_header(h, shown, NULL, &w->entry, err);
	return w->entry.kind == FILES_SYMLINK ? archive_put_link(h, shown, w, err) : 0;
}

static int archive_copy(struct hub_archive *h, struct err *err)
{
	size_t want = (size_t)MIN(h->file_size - h->file_at, (uint64_t)ARCHIVE_PIECE);
	int64_t n =
		want ? hub_restore_read(h->restore, h->file, h->file_at, h->piece, want, err) : 0;

	if (n < 0)
		return (int)n;
	if ((size_t)n != want)
		return err_set(err, -EIO, "%.200s is shorter than its folder says", h->file);
	if (n && archive_write_data(h->archive, h->piece, (size_t)n) != n)
		return archive_failed(h, h->file, err);
	h->file_at += (uint64_t)n;
	if (h->file_at == h->file_size)
		free(steal(&h->file));
	return 0;
}

/* --- the face --------------------------------------------------------------------------------- */

static int archive_start(struct hub_archive *h, enum hub_archive_format format, struct err *err)
{
	struct archive *a = h->archive = archive_write_new();
	int rc = a ? ARCHIVE_OK : ARCHIVE_FATAL;

	h->piece = malloc(ARCHIVE_PIECE);
	h->locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
	if (!a || !h->piece || !h->locale)
		return err_sys(err, -ENOMEM, "archive");
	h->zip = format == HUB_ARCHIVE_ZIP;
	if (h->zip) {
		rc = archive_write_set_format_zip(a);
		if (rc == ARCHIVE_OK)
			rc = archive_write_set_options(a, "zip:compression-level=" ARCHIVE_LEVEL);
	} else {
		rc = archive_write_set_format_pax_restricted(a);
		if (rc == ARCHIVE_OK)
			rc = archive_write_add_filter_gzip(a);
		if (rc == ARCHIVE_OK)
			rc = archive_write_set_options(a, "gzip:compression-level=" ARCHIVE_LEVEL);
	}
	if (rc == ARCHIVE_OK)
		rc = archive_write_set_bytes_per_block(a, 0);
	if (rc == ARCHIVE_OK)
		rc = archive_write_set_bytes_in_last_block(a, 1);
	if (rc == ARCHIVE_OK)
		rc = archive_write_open(a, h, NULL, archive_push, NULL);
	return rc == ARCHIVE_OK ? 0 : archive_failed(h, h->top, err);
}

int hub_archive_open(struct hub_restore *restore, const char *path, enum hub_archive_format format,
		     struct hub_archive **out, struct err *err)
{
	_cleanup_(hub_archive_closep) struct hub_archive *h = calloc(1, sizeof(*h));
	size_t len = strlen(path), from;
	int rc;

	if (!h)
		return err_sys(err, -ENOMEM, "archive");
	if (!hub_restore_archive_enter(restore))
		return err_set(err, HUB_E_LIMIT,
			       "%d archives of folders are being made: try again when one is done",
			       HUB_ARCHIVES_MAX);
	h->restore = restore;
	rc = hub_walk_open(restore, path, &h->walk, err);
	if (rc)
		return rc;
	while (len && path[len - 1] == '/')
		len--;
	for (from = len; from && path[from - 1] != '/';)
		from--;
	snprintf(h->top, sizeof(h->top), "%.*s", (int)(len - from), path + from);
	rc = archive_start(h, format, err);
	if (!rc)
		*out = steal(&h);
	return rc;
}

void hub_archive_close(struct hub_archive *h)
{
	if (!h)
		return;
	if (h->archive) {
		archive_write_fail(h->archive); /* nothing more is to be pushed */
		archive_write_free(h->archive);
	}
	hub_walk_close(h->walk);
	if (h->restore)
		hub_restore_archive_leave(h->restore);
	if (h->locale)
		freelocale(h->locale);
	free(h->file);
	free(h->piece);
	free(h->out);
	free(h);
}

int64_t hub_archive_read(struct hub_archive *h, void *buf, size_t len, struct err *err)
{
	locale_t before = uselocale(h->locale);
	int rc = 0;
	size_t n;

	while (!rc && h->out_at == h->out_len && !h->ended) {
		h->out_at = h->out_len = 0;
		rc = h->file ? archive_copy(h, err) : archive_next(h, err);
	}
	uselocale(before);
	if (rc)
		return rc < 0 ? rc : -EIO;
	n = MIN(len, h->out_len - h->out_at);
	memcpy(buf, h->out + h->out_at, n);
	h->out_at += n;
	return (int64_t)n;
}
