#include "files/worker/worker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "files/worker/probe.h"
#include "files/worker/sandbox.h"
#include "files/worker/table.h"
#include "files/worker/wire.h"

#define OPEN_FILES 4U

/* A file somebody reads: found again by its path, with what its file system remembers. */
struct open_file {
	struct fs_file *file; /* NULL: free */
	uint32_t partition;
	uint64_t size, used;
	char path[PROTO_PATH_MAX + 1];
};

struct worker {
	struct disk *disk; /* NULL until OPEN */
	struct table table;
	struct fs *fs[FILES_PARTITIONS_MAX]; /* opened when first asked for */
	struct open_file files[OPEN_FILES];
	uint64_t clock;
	struct proto_request req;
	char path[PROTO_PATH_MAX + 1];
	unsigned char data[PROTO_DATA_MAX];
};

/* --- answers -------------------------------------------------------------------------------- */

static void done_with(const struct proto_done *done, const struct err *err)
{
	size_t len = done->code ? strnlen(err->text, PROTO_TEXT_MAX) : 0;

	wire_answer(PROTO_DONE, done, sizeof(*done), err->text, len);
}

static void finish(int code, const struct err *err)
{
	struct proto_done done = {.code = code};

	done_with(&done, err);
}

/* --- finding -------------------------------------------------------------------------------- */

static const struct fs_ops *ops_of(const struct worker *w)
{
	return probe_ops(&w->table.parts[w->req.partition]);
}

static int open_fs(struct worker *w, struct err *err)
{
	const struct fs_ops *ops;
	struct fs **fs;

	if (!w->disk || w->req.partition >= w->table.count || !(ops = ops_of(w)))
		return err_set(err, FILES_E_UNSUPPORTED, "this partition cannot be read here");
	fs = &w->fs[w->req.partition];
	return *fs ? 0 : ops->open(fs, w->disk, &w->table.parts[w->req.partition], err);
}

static int stat_node(struct worker *w, uint64_t node, struct proto_entry *e, struct err *err)
{
	memset(e, 0, sizeof(*e));
	return ops_of(w)->stat(w->fs[w->req.partition], node, e, err);
}

static int lookup(struct worker *w, uint64_t dir, const char *name, size_t len, uint64_t *node,
		  struct err *err)
{
	struct proto_entry e;
	int r = stat_node(w, dir, &e, err);

	if (r)
		return r;
	if (e.kind != FILES_DIR)
		return err_set(
			err, FILES_E_NOT_FOUND,
			e.kind == FILES_SYMLINK
				? "the path leads through a symbolic link; those are not followed"
				: "the path leads through something that is no folder");
	return ops_of(w)->lookup(w->fs[w->req.partition], dir, name, len, node, err);
}

static int resolve(struct worker *w, uint64_t *node, struct err *err)
{
	const char *at = w->path, *end;
	int r = open_fs(w, err);

	if (r)
		return r;
	*node = ops_of(w)->root(w->fs[w->req.partition]);
	for (; !r && *at; at = *end ? end + 1 : end) {
		end = strchrnul(at, '/');
		r = lookup(w, *node, at, (size_t)(end - at), node, err);
	}
	return r;
}

/* The last component; "" for the root. */
static const char *last_name(const struct worker *w)
{
	const char *slash = strrchr(w->path, '/');

	return slash ? slash + 1 : w->path;
}

/* --- calls ---------------------------------------------------------------------------------- */

static void do_stat(struct worker *w)
{
	struct err err = ERR_INIT;
	struct proto_entry e;
	const char *name = last_name(w);
	uint64_t node;
	int r = resolve(w, &node, &err);

	if (!r)
		r = stat_node(w, node, &e, &err);
	if (!r)
		wire_answer(PROTO_ENTRY, &e, sizeof(e), name, strlen(name));
	finish(r, &err);
}

struct listing {
	struct worker *w;
	struct proto_done done;
	uint64_t reported;
	struct err err;
};

enum { LIST_ENOUGH = 1000 };

static int list_entry(void *arg, const char *name, size_t len, uint64_t node)
{
	struct listing *l = arg;
	const struct proto_request *req = &l->w->req;
	struct proto_entry e;

	if (!len || len > PROTO_NAME_MAX || memchr(name, '/', len) || memchr(name, '\0', len)) {
		l->done.unusable++;
		return 0;
	}
	if (l->done.seen < req->off) {
		l->done.seen++;
		return 0;
	}
	if (req->len && l->reported == req->len) {
		l->done.more = 1;
		return LIST_ENOUGH;
	}
	/* one damaged inode does not hide its neighbours */
	if (stat_node(l->w, node, &e, &l->err)) {
		memset(&e, 0, sizeof(e));
		e.kind = FILES_OTHER;
		e.id = node;
	}
	wire_answer(PROTO_ENTRY, &e, sizeof(e), name, len);
	l->done.seen++;
	l->reported++;
	return 0;
}

static void do_list(struct worker *w)
{
	struct listing l = {.w = w};
	struct err err = ERR_INIT;
	struct proto_entry e;
	uint64_t node;
	int r = resolve(w, &node, &err);

	if (!r)
		r = stat_node(w, node, &e, &err);
	if (!r && e.kind != FILES_DIR)
		r = err_set(&err, FILES_E_KIND, "this is no folder");
	if (!r)
		r = ops_of(w)->list(w->fs[w->req.partition], node, list_entry, &l, &err);
	l.done.code = r == LIST_ENOUGH ? 0 : r;
	done_with(&l.done, &err);
}

static void do_readlink(struct worker *w)
{
	struct err err = ERR_INIT;
	size_t len = PROTO_LINK_MAX;
	struct proto_entry e;
	uint64_t node;
	int r = resolve(w, &node, &err);

	if (!r)
		r = stat_node(w, node, &e, &err);
	if (!r && e.kind != FILES_SYMLINK)
		r = err_set(&err, FILES_E_KIND, "this is no symbolic link");
	if (!r)
		r = ops_of(w)->readlink(w->fs[w->req.partition], node, (char *)w->data, &len, &err);
	if (!r && memchr(w->data, '\0', len))
		r = err_set(&err, FILES_E_DAMAGED, "the symbolic link's target makes no sense");
	if (!r)
		wire_answer(PROTO_DATA, w->data, len, NULL, 0);
	finish(r, &err);
}

static struct open_file *find_file(struct worker *w)
{
	unsigned i;

	for (i = 0; i < OPEN_FILES; i++)
		if (w->files[i].file && w->files[i].partition == w->req.partition &&
		    !strcmp(w->files[i].path, w->path))
			return &w->files[i];
	return NULL;
}

static struct open_file *free_file(struct worker *w)
{
	struct open_file *f = &w->files[0];
	unsigned i;

	for (i = 1; i < OPEN_FILES; i++)
		if (w->files[i].used < f->used)
			f = &w->files[i];
	if (f->file)
		probe_ops(&w->table.parts[f->partition])->close_file(w->fs[f->partition], f->file);
	memset(f, 0, sizeof(*f));
	return f;
}

static int open_file(struct worker *w, struct open_file **out, struct err *err)
{
	struct open_file *f = find_file(w);
	struct proto_entry e;
	uint64_t node;
	int r;

	if (!f) {
		r = resolve(w, &node, err);
		if (!r)
			r = stat_node(w, node, &e, err);
		if (r)
			return r;
		if (e.kind != FILES_FILE)
			return err_set(err, FILES_E_KIND,
				       e.kind == FILES_DIR ? "this is a folder, not a file"
				       : e.kind == FILES_SYMLINK
					       ? "this is a symbolic link, not a file"
					       : "this has no contents that can be given out");
		f = free_file(w);
		r = ops_of(w)->open_file(w->fs[w->req.partition], node, &f->file, err);
		if (r) {
			f->file = NULL;
			return r;
		}
		f->partition = w->req.partition;
		f->size = e.size;
		strcpy(f->path, w->path);
	}
	f->used = ++w->clock;
	*out = f;
	return 0;
}

static void do_read(struct worker *w)
{
	uint64_t off = w->req.off, end;
	struct err err = ERR_INIT;
	struct open_file *f = NULL;
	size_t n;
	int r = open_file(w, &f, &err);

	if (!r) {
		end = off >= f->size ? off : off + MIN(w->req.len, f->size - off);
		for (; !r && off < end; off += n) {
			n = MIN(end - off, PROTO_DATA_MAX);
			r = ops_of(w)->read(w->fs[w->req.partition], f->file, off, w->data, n,
					    &err);
			if (!r)
				wire_answer(PROTO_DATA, w->data, n, NULL, 0);
		}
	}
	finish(r, &err);
}

static void do_open(struct worker *w, const struct sandbox_state *sb)
{
	struct proto_hello hello = {.landlock = sb->landlock, .own_uid = sb->own_uid};
	struct err err = ERR_INIT;
	unsigned i;
	int r;

	if (w->disk)
		_exit(1);
	w->disk = disk_new(PROTO_BLOCK_FD, w->req.len);
	if (!w->disk) {
		finish(-ENOMEM, &err);
		return;
	}
	r = table_read(w->disk, &w->table);
	if (r)
		err_set(&err, FILES_E_DAMAGED, "the first sectors of the disk cannot be read");
	memcpy(hello.table, w->table.kind, sizeof(hello.table));
	wire_answer(PROTO_HELLO, &hello, sizeof(hello), NULL, 0);
	for (i = 0; !r && i < w->table.count; i++) {
		probe(w->disk, &w->table.parts[i]);
		wire_answer(PROTO_PARTITION, &w->table.parts[i], sizeof(w->table.parts[i]), NULL,
			    0);
	}
	finish(r ? FILES_E_DAMAGED : 0, &err);
}

/* --- the loop ------------------------------------------------------------------------------- */

static void serve(struct worker *w, const struct sandbox_state *sb)
{
	wire_recv(PROTO_CALL_FD, &w->req, sizeof(w->req));
	if (w->req.path_len > PROTO_PATH_MAX)
		_exit(1);
	wire_recv(PROTO_CALL_FD, w->path, w->req.path_len);
	w->path[w->req.path_len] = '\0';
	switch (w->req.op) {
	case PROTO_OPEN:
		do_open(w, sb);
		break;
	case PROTO_STAT:
		do_stat(w);
		break;
	case PROTO_LIST:
		do_list(w);
		break;
	case PROTO_READLINK:
		do_readlink(w);
		break;
	case PROTO_READ:
		do_read(w);
		break;
	default:
		_exit(1);
	}
}

void worker_run(void)
{
	struct worker *w = calloc(1, sizeof(*w));
	struct sandbox_state sb;
	struct err err = ERR_INIT;
	int r = sandbox_enter(&sb, &err);

	if (!w)
		return;
	if (r) { /* nothing is read without it */
		wire_recv(PROTO_CALL_FD, &w->req, sizeof(w->req));
		finish(r, &err);
		return;
	}
	for (;;)
		serve(w, &sb);
}
