/*
 * Opening, lending to a thread, closing.
 */
#include "qcow2/image.h"

#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "qcow2/repair.h"

DEFINE_CLEANUP(struct qcow2_image *, qcow2_close)

/* --- opening -------------------------------------------------------------------------------- */

/* Opens the repository folder and says what @path is called below it. */
static int open_repository(const char *path, const char *repository, int *root_fd, char *relative,
			   struct err *err)
{
	char real_path[PATH_MAX], root[PATH_MAX];
	size_t n;

	if (!realpath(path, real_path))
		return err_sys(err, -errno, "cannot open '%s'", path);
	if (!repository)
		dirname(strcpy(root, real_path)); /* an absolute path is cut in place */
	else if (!realpath(repository, root))
		return err_sys(err, -errno, "cannot open the repository '%s'", repository);
	n = strcmp(root, "/") ? strlen(root) : 0;
	if (strncmp(real_path, root, n) || real_path[n] != '/')
		return err_set(err, QCOW2_E_CHAIN, "'%s' is not inside the repository '%s'", path,
			       root);
	strcpy(relative, real_path + n + 1);
	*root_fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (*root_fd < 0)
		return err_sys(err, -errno, "cannot open the repository '%s'", root);
	return 0;
}

/* What we write must be ours alone to change. */
static int check_writable(const struct qcow2_image *img, struct err *err)
{
	const struct qcow2_layer *layer = img->layer;
	const struct qcow2_header *h = &layer->header;

	if (h->version < 3)
		return err_set(err, QCOW2_E_UNSUPPORTED,
			       "'%s' is a version 2 image; those can be read, not written",
			       layer->path);
	if (h->snapshots)
		return err_set(
			err, QCOW2_E_UNSUPPORTED,
			"'%s' holds internal snapshots; such images can be read, not written",
			layer->path);
	if (h->incompatible & (QCOW2_INCOMPAT_EXTENDED_L2 | QCOW2_INCOMPAT_CORRUPT))
		return err_set(err, QCOW2_E_UNSUPPORTED,
			       "'%s' is marked corrupt or uses subclusters; it can be read, not "
			       "written",
			       layer->path);
	if (img->compressor.level && h->compression != QCOW2_COMPRESSION_ZSTD)
		return err_set(err, QCOW2_E_UNSUPPORTED,
			       "'%s' was not created for zstd clusters; it cannot get some now",
			       layer->path);
	if (layer->geom.cluster_size < QCOW2_CLUSTER_MIN)
		return err_set(err, QCOW2_E_UNSUPPORTED,
			       "'%s' has clusters below 4 KiB; it can be read, not written",
			       layer->path);
	return 0;
}

/* From here on a crash leaves an image that says it needs repair. */
static int mark_dirty(struct qcow2_layer *layer, struct err *err)
{
	int r;

	layer->header.incompatible |= QCOW2_INCOMPAT_DIRTY;
	layer->header.compatible |= QCOW2_COMPAT_LAZY_REFCOUNTS;
	layer->header.autoclear = 0; /* we keep none of those promises */
	r = qcow2_layer_write_header(layer);
	return r ? err_sys(err, r, "cannot mark '%s' as being written", layer->path) : 0;
}

/* The refcount block that qcow2_create() lays out right behind the table, if this image has it. */
static uint64_t find_refblock0(const struct qcow2_layer *layer)
{
	uint64_t cs = layer->geom.cluster_size;

	return layer->header.reftable_off == cs && layer->header.reftable_clusters == 1 &&
			       layer->header.l1_off == 3 * cs && layer->header.refcount_order == 4
		       ? 2 * cs
		       : 0;
}

/* Takes stock of what is used, drops leaks behind it, marks the image dirty. */
static int prepare_writing(struct qcow2_image *img, struct err *err)
{
	struct qcow2_layer *layer = img->layer;
	struct qcow2_alloc *a = &img->alloc;
	bool flags_wrong;
	int r;

	r = qcow2_rebuild_refs(layer, &a->refs, &img->received, &a->tail, &flags_wrong, err);
	if (r)
		return r;
	if (img->received.marked) {
		img->received.halves = flags_wrong;
		flags_wrong = false; /* on purpose, until the clean close */
	} else {
		qcow2_received_forget(img);
		r = qcow2_layer_drop_whole(layer);
		if (r)
			return err_sys(err, r, "cannot change the header of '%s'", img->path);
	}
	img->refblock0 = find_refblock0(layer);
	if (img->refblock0 && !qcow2_refs_get(&a->refs, 1) && !qcow2_refs_get(&a->refs, 2)) {
		a->tail = MAX(a->tail, img->refblock0 + layer->geom.cluster_size);
		if (qcow2_refs_add(&a->refs, 1, 1) || qcow2_refs_add(&a->refs, 2, 1) ||
		    qcow2_refs_compact(&a->refs, a->tail >> layer->geom.cluster_bits))
			return err_set(err, -ENOMEM, "no memory for the references of '%s'",
				       img->path);
	} else {
		img->refblock0 = 0;
	}
	r = mark_dirty(layer, err);
	if (r)
		return r;
	if (flags_wrong) {
		r = qcow2_fix_copied(layer, &a->refs);
		if (r)
			return err_sys(err, r, "cannot set the COPIED flags of '%s'", img->path);
	}
	r = qcow2_void_refcounts(img);
	if (r)
		return err_sys(err, r, "cannot reset the refcounts of '%s'", img->path);
	r = file_truncate(layer->file, a->tail);
	if (r)
		return err_sys(err, r, "cannot cut '%s' to what it uses", img->path);
	layer->file_size = a->reserved = a->tail;
	return 0;
}

/* Did the image map anything before we came? */
static bool holds_tables(const struct qcow2_layer *layer)
{
	uint64_t i;

	for (i = 0; i < layer->header.l1_entries; i++)
		if (layer->l1[i])
			return true;
	return false;
}

/* Starts the log, and opens the parent's sidecar if it has a usable one. */
static int open_sums(struct qcow2_image *img, int root_fd, struct err *err)
{
	struct qcow2_sums *parent = &img->parent_sums.sums;
	char parent_path[PATH_MAX], name[PATH_MAX];

	img->found_data = holds_tables(img->layer);
	if (img->chain) {
		snprintf(parent_path, sizeof(parent_path), "/proc/self/fd/%d/%s", root_fd,
			 qcow2_chain_layer(img->chain, 0)->path);
		if (qcow2_sums_path(parent_path, name, sizeof(name)) &&
		    !qcow2_sums_open(parent, name, NULL) &&
		    (parent->cluster_bits != img->geom.cluster_bits ||
		     parent->size != qcow2_chain_layer(img->chain, 0)->geom.size))
			qcow2_sums_close(parent);
	}
	return qcow2_sumlog_open(img, img->path, err);
}

static int open_writable(struct qcow2_image *img, int root_fd, const char *relative,
			 const struct qcow2_open_opts *opts, struct err *err)
{
	struct file *file;
	int r = file_open_beneath(&file, root_fd, relative, FILE_RDWR | FILE_PATIENT, err);

	if (!r && opts->wrap_file)
		file = opts->wrap_file(file, opts->wrap_arg);
	if (!r)
		r = qcow2_layer_open(&img->layer, file, relative, err);
	if (!r)
		r = check_writable(img, err);
	if (!r)
		r = qcow2_chain_open_backing(&img->chain, root_fd, img->layer, err);
	if (r)
		return r;
	img->geom = img->layer->geom;
	img->found_dirty = img->layer->header.incompatible & QCOW2_INCOMPAT_DIRTY;
	img->received.marked = img->found_dirty && img->layer->header.whole_off;
	if (opts->sums && (r = open_sums(img, root_fd, err)))
		return r;
	r = qcow2_received_init(img, err);
	return r ? r : prepare_writing(img, err);
}

static int open_readable(struct qcow2_image *img, int root_fd, const char *relative,
			 struct err *err)
{
	const struct qcow2_layer *top;
	int r = qcow2_chain_open(&img->chain, root_fd, relative, err);

	if (r)
		return r;
	top = qcow2_chain_layer(img->chain, 0);
	img->geom = top->geom;
	img->found_dirty = top->header.incompatible & QCOW2_INCOMPAT_DIRTY;
	return 0;
}

int qcow2_open(struct qcow2_image **out, const char *path, const struct qcow2_open_opts *opts,
	       struct err *err)
{
	_cleanup_(qcow2_closep) struct qcow2_image *img = calloc(1, sizeof(*img));
	_cleanup_(closep) int root_fd = -1;
	char relative[PATH_MAX];
	int r;

	if (!img || !(img->path = strdup(path)))
		return err_set(err, -ENOMEM, "no memory to open '%s'", path);
	img->writable = opts->writable;
	img->suppress = opts->suppress_unchanged;
	img->source_size = opts->source_size;
	img->compressor.level = opts->zstd_level;
	if (opts->repository && !(img->repository = strdup(opts->repository)))
		return err_set(err, -ENOMEM, "no memory to open '%s'", path);
	r = open_repository(path, opts->repository, &root_fd, relative, err);
	if (!r)
		r = opts->writable ? open_writable(img, root_fd, relative, opts, err)
				   : open_readable(img, root_fd, relative, err);
	if (r)
		return r;
	if (img->source_size && align_up(img->source_size, 512) != img->geom.size)
		return err_set(err, -EINVAL,
			       "a source of %llu bytes does not make a disk of %llu, that of '%s'",
			       (unsigned long long)img->source_size,
			       (unsigned long long)img->geom.size, path);
	*out = steal(&img);
	return 0;
}

void qcow2_close(struct qcow2_image *img)
{
	if (!img)
		return;
	assert(!img->io.ring);
	qcow2_layer_free(img->layer);
	qcow2_chain_free(img->chain);
	qcow2_sumlog_close(img);
	qcow2_sums_close(&img->parent_sums.sums);
	qcow2_refs_deinit(&img->alloc.refs);
	free(img->alloc.freed);
	free(img->received.bit);
	free(img->received.half);
	free(img->repository);
	free(img->path);
	free(img);
}

/* --- asking --------------------------------------------------------------------------------- */

void qcow2_get_info(const struct qcow2_image *img, struct qcow2_info *info)
{
	*info = (struct qcow2_info){
		.size = img->geom.size,
		.cluster_size = img->geom.cluster_size,
		.depth = qcow2_chain_depth(img->chain) + (img->writable ? 1 : 0),
		.dirty = img->found_dirty,
		.writable = img->writable,
	};
}

void qcow2_get_stats(const struct qcow2_image *img, struct qcow2_stats *stats)
{
	const struct qcow2_counters *c = &img->counters;

	*stats = (struct qcow2_stats){
		.received = atomic_load_explicit(&c->received, memory_order_relaxed),
		.zero = atomic_load_explicit(&c->zero, memory_order_relaxed),
		.unchanged = atomic_load_explicit(&c->unchanged, memory_order_relaxed),
		.stored = atomic_load_explicit(&c->stored, memory_order_relaxed),
		.highest = atomic_load_explicit(&c->highest, memory_order_relaxed),
	};
}

int qcow2_error(const struct qcow2_image *img)
{
	return atomic_load_explicit(&img->error, memory_order_relaxed);
}

void qcow2_fail(struct qcow2_image *img, int error)
{
	int none = 0;

	atomic_compare_exchange_strong(&img->error, &none, error);
	if (img->io.ring && img->writable)
		qcow2_wake_all(&img->writer.room);
}

void qcow2_abandon(struct qcow2_image *img)
{
	qcow2_fail(img, -ECANCELED);
}

/* --- lending to a thread -------------------------------------------------------------------- */

static void detach_parts(struct qcow2_image *img)
{
	if (img->writable) {
		qcow2_flusher_detach(img);
		qcow2_writer_detach(img);
		qcow2_tables_detach(img);
		qcow2_compressor_detach(img);
		qcow2_parent_sums_detach(img);
		file_bind(img->layer->file, NULL);
		if (img->sumlog.file)
			file_bind(img->sumlog.file, NULL);
	}
	if (img->chain)
		qcow2_chain_detach(img->chain);
	qcow2_unpacker_detach(img);
	img->io = (struct qcow2_io){0};
}

int qcow2_attach(struct qcow2_image *img, const struct qcow2_io *io, struct err *err)
{
	int r;

	assert(!img->io.ring);
	assert(!img->writable || (io->batches->slot_size == QCOW2_BATCH_SIZE &&
				  io->bounces->slot_size >= QCOW2_BOUNCE_SIZE));
	img->io = *io;
	list_init(&img->turns);
	r = qcow2_unpacker_attach(img, err);
	if (!r && img->chain)
		r = qcow2_chain_attach(img->chain, io->ring, err);
	if (!r && img->writable) {
		list_init(&img->alloc.waiters);
		file_bind(img->layer->file, io->ring);
		if (img->sumlog.file)
			file_bind(img->sumlog.file, io->ring);
		if (!(r = qcow2_compressor_attach(img, err)) &&
		    !(r = qcow2_parent_sums_attach(img, err)) &&
		    !(r = qcow2_tables_attach(img, err)) && !(r = qcow2_writer_attach(img, err)))
			r = qcow2_flusher_attach(img, err);
	}
	if (r)
		detach_parts(img);
	return r;
}

void qcow2_detach(struct qcow2_image *img)
{
	assert(img->io.ring && !img->ops);
	assert(!img->alloc.growing);
	assert(qcow2_error(img) || (!img->tables.dirty && !img->tables.l1_dirty_count));
	detach_parts(img);
}
