/*
 * A folder and all below it, one entry at a time. A frame a folder; of each folder a page of
 * entries is in memory, so that neither a folder of a million files nor one that a hostile guest
 * made takes more than a bounded amount. Each page begins with passing over those before it: pages
 * of a folder grow, so that a large one is not passed over too often.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "hub/restores.h"

#define WALK_PAGE     128 /* entries of a folder's first page; each is twice the one before */
#define WALK_PAGE_MAX 8192
#define WALK_BYTES    (32U << 20) /* of all pages, but for one entry of each */

struct walk_item {
	char *name;
	enum files_kind kind;
	uint64_t size, id;
	int64_t mtime;
	uint32_t mtime_ns, mode, uid, gid;
};

struct walk_page {
	size_t n, room, bytes;
	struct walk_item items[];
};

struct walk_frame {
	size_t path_len; /* of the folder, in walk->path */
	uint64_t id;	 /* of the folder, to notice one that holds itself */
	uint64_t seen;	 /* entries fetched so far */
	bool more;
	struct walk_page *page;
	size_t at;
};

struct hub_walk {
	struct hub_restore *restore;
	char path[FILES_PATH_SIZE];
	size_t begun_len; /* of the folder it began with; 0: "/" */
	struct walk_frame frames[HUB_WALK_DEPTH];
	size_t depth;
	uint64_t told;
	size_t bytes; /* of all pages */
	struct hub_walk_entry out;
	bool enter; /* the last one told is a folder, to be looked into */
};

static void walk_drop_page(struct hub_walk *w, struct walk_frame *f)
{
	struct walk_page *page = steal(&f->page);

	if (!page)
		return;
	w->bytes -= page->bytes;
	for (size_t i = 0; i < page->n; i++)
		free(page->items[i].name);
	free(page);
}

static int walk_new_page(struct hub_walk *w, struct walk_frame *f, struct err *err)
{
	size_t room = f->page ? MIN(2 * f->page->room, (size_t)WALK_PAGE_MAX) : WALK_PAGE;

	walk_drop_page(w, f);
	f->page = calloc(1, sizeof(*f->page) + room * sizeof(f->page->items[0]));
	if (!f->page)
		return err_sys(err, -ENOMEM, "listing a folder");
	f->page->room = room;
	return 0;
}

/* --- a page of a folder ---------------------------------------------------------------------- */

struct walk_filling {
	struct hub_walk *walk;
	struct walk_page *page;
	bool full; /* before its end */
};

static int page_add(void *arg, const struct files_entry *e)
{
	struct walk_filling *f = arg;
	struct walk_page *page = f->page;
	size_t bytes = sizeof(page->items[0]) + strlen(e->name) + 1;
	char *name;

	f->full = page->n == page->room || (page->n && f->walk->bytes + bytes > WALK_BYTES);
	if (f->full)
		return -ECANCELED;
	name = strdup(e->name);
	if (!name)
		return -ENOMEM;
	page->items[page->n++] = (struct walk_item){
		.name = name,
		.kind = e->kind,
		.size = e->size,
		.id = e->id,
		.mtime = e->mtime,
		.mtime_ns = e->mtime_ns,
		.mode = e->mode,
		.uid = e->uid,
		.gid = e->gid,
	};
	page->bytes += bytes;
	f->walk->bytes += bytes;
	return 0;
}

static const char *walk_folder(struct hub_walk *w, const struct walk_frame *f)
{
	w->path[f->path_len] = '\0';
	return f->path_len ? w->path : "/";
}

static int walk_fetch(struct hub_walk *w, struct walk_frame *f, struct err *err)
{
	struct walk_filling filling = {.walk = w};
	struct files_list list = {.skip = f->seen, .each = page_add, .arg = &filling};
	int rc = walk_new_page(w, f, err);

	f->at = 0;
	if (rc)
		return rc;
	filling.page = f->page;
	list.max = f->page->room;
	rc = hub_restore_list(w->restore, walk_folder(w, f), &list, err);
	if (filling.full)
		rc = 0;
	f->seen += f->page->n;
	f->more = !rc && (list.more || filling.full) && f->page->n;
	return rc;
}

static bool walk_is_within(const struct hub_walk *w, uint64_t id, size_t partition_depth)
{
	/* Ids are those of one partition. */
	for (size_t i = partition_depth; i < w->depth; i++)
		if (w->frames[i].id == id)
			return true;
	return false;
}

static int walk_enter(struct hub_walk *w, size_t path_len, uint64_t id, struct err *err)
{
	struct walk_frame *f = &w->frames[w->depth];
	int rc;

	if (w->depth == HUB_WALK_DEPTH || walk_is_within(w, id, w->begun_len ? 0 : 1))
		return err_set(err, HUB_E_STATE,
			       "%.200s: folders within folders without end: the file system is "
			       "damaged",
			       w->path);
	*f = (struct walk_frame){.path_len = path_len, .id = id};
	rc = walk_fetch(w, f, err);
	if (rc) {
		walk_drop_page(w, f);
		return rc;
	}
	w->depth++;
	return 0;
}

static void walk_leave(struct hub_walk *w)
{
	walk_drop_page(w, &w->frames[--w->depth]);
}

/* --- the walk -------------------------------------------------------------------------------- */

/* Looks into the folder that was told last. Of a whole disk, partitions that cannot be read are
 * told and passed over. */
static int walk_descend(struct hub_walk *w, struct err *err)
{
	int rc = walk_enter(w, strlen(w->path), w->out.entry.id, err);

	w->enter = false;
	return rc == HUB_E_STATE && w->depth == 1 && !w->begun_len ? 0 : rc;
}

/* The next one in the innermost folder that has one; NULL: there are no more. */
static int walk_find(struct hub_walk *w, struct walk_frame **out, struct err *err)
{
	int rc = 0;

	*out = NULL;
	while (!rc && w->depth) {
		struct walk_frame *f = &w->frames[w->depth - 1];

		if (f->at < f->page->n) {
			*out = f;
			return 0;
		}
		if (f->more)
			rc = walk_fetch(w, f, err);
		else
			walk_leave(w);
	}
	return rc;
}

static int walk_tell(struct hub_walk *w, struct walk_frame *f, struct err *err)
{
	struct files_entry *e = &w->out.entry;
	const struct walk_item *item = &f->page->items[f->at++];
	const char *name = item->name;
	size_t len = strlen(name);

	if (f->path_len + 1 + len >= sizeof(w->path) || len >= sizeof(e->name))
		return err_set(err, HUB_E_STATE, "%.*s: a path below it is too long",
			       (int)MIN(f->path_len, (size_t)200), w->path);
	w->path[f->path_len] = '/';
	memcpy(w->path + f->path_len + 1, name, len + 1);
	memcpy(e->name, name, len + 1);
	e->kind = item->kind;
	e->size = item->size;
	e->id = item->id;
	e->mtime = item->mtime;
	e->mtime_ns = item->mtime_ns;
	e->mode = item->mode;
	e->uid = item->uid;
	e->gid = item->gid;
	w->out.path = w->path;
	w->out.name = w->path + w->begun_len + 1;
	w->enter = e->kind == FILES_DIR;
	return 0;
}

int hub_walk_next(struct hub_walk *w, const struct hub_walk_entry **out, struct err *err)
{
	struct walk_frame *f = NULL;
	int rc = w->enter ? walk_descend(w, err) : 0;

	if (!rc)
		rc = walk_find(w, &f, err);
	if (!rc && f && ++w->told > HUB_WALK_ENTRIES)
		rc = err_set(err, HUB_E_STATE, "there are more than %d files below: take less",
			     HUB_WALK_ENTRIES);
	if (!rc && f)
		rc = walk_tell(w, f, err);
	if (!rc)
		*out = f ? &w->out : NULL;
	return rc;
}

int hub_walk_open(struct hub_restore *restore, const char *path, struct hub_walk **out,
		  struct err *err)
{
	_cleanup_(hub_walk_closep) struct hub_walk *w = calloc(1, sizeof(*w));
	struct files_entry *e;
	size_t len = strlen(path);
	int rc;

	if (!w)
		return err_sys(err, -ENOMEM, "listing a folder");
	w->restore = restore;
	e = &w->out.entry;
	rc = hub_restore_stat(restore, path, e, err);
	if (rc)
		return rc;
	if (e->kind != FILES_DIR)
		return err_set(err, HUB_E_INVALID, "%.300s is no folder", path);
	while (len && path[len - 1] == '/')
		len--;
	if (len >= sizeof(w->path))
		return err_set(err, HUB_E_INVALID, "the path is too long");
	memcpy(w->path, path, len);
	w->begun_len = len;
	rc = walk_enter(w, len, e->id, err);
	if (!rc)
		*out = steal(&w);
	return rc;
}

void hub_walk_close(struct hub_walk *w)
{
	if (!w)
		return;
	while (w->depth)
		walk_leave(w);
	free(w);
}
