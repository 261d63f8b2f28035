#include "qcow2/convert.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "qcow2/image.h"
#include "qcow2/scan.h"
#include "qcow2/session.h"
#include "qcow2/sums.h"

DEFINE_CLEANUP(struct qcow2_image *, qcow2_close)

/* --- describe ------------------------------------------------------------------------------- */

void qcow2_describe_free(struct qcow2_file_info *files, unsigned count)
{
	unsigned i;

	for (i = 0; files && i < count; i++) {
		free(files[i].path);
		free(files[i].backing);
	}
	free(files);
}

static bool describe_layer(const struct qcow2_layer *layer, struct qcow2_file_info *f)
{
	const struct qcow2_header *h = &layer->header;

	*f = (struct qcow2_file_info){
		.path = strdup(layer->path),
		.backing = h->backing[0] ? strdup(h->backing) : NULL,
		.version = h->version,
		.size = h->size,
		.file_size = layer->file_size,
		.cluster_size = layer->geom.cluster_size,
		.refcount_bits = 1U << h->refcount_order,
		.snapshots = h->snapshots,
		.dirty = h->incompatible & QCOW2_INCOMPAT_DIRTY,
		.corrupt = h->incompatible & QCOW2_INCOMPAT_CORRUPT,
		.extended_l2 = h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2,
		.zstd = h->compression == QCOW2_COMPRESSION_ZSTD,
	};
	return f->path && (f->backing || !h->backing[0]);
}

int qcow2_describe(const char *path, const char *repository, struct qcow2_file_info **out,
		   unsigned *count, struct err *err)
{
	struct qcow2_open_opts opts = {.repository = repository};
	_cleanup_(qcow2_closep) struct qcow2_image *img = NULL;
	unsigned i;
	int r = qcow2_open(&img, path, &opts, err);

	if (r)
		return r;
	*count = qcow2_chain_depth(img->chain);
	*out = calloc(*count, sizeof(**out));
	for (i = 0; *out && i < *count; i++) {
		if (describe_layer(qcow2_chain_layer(img->chain, i), &(*out)[i]))
			continue;
		qcow2_describe_free(*out, *count);
		*out = NULL;
	}
	return *out ? 0 : err_set(err, -ENOMEM, "no memory to describe '%s'", path);
}

/* --- convert -------------------------------------------------------------------------------- */

#define CONVERT_BATCHES 12
#define RAW_BLOCK	65536U

struct convert {
	const struct qcow2_convert_opts *opts;
	uint64_t size, source_size; /* bytes; see qcow2/sums.h */
	struct file *raw;
	struct qcow2_session session;
	struct err *err;
	const char *src, *dst;
};

/* The new file reads as zeroes already: only what is none takes space. */
static int write_raw(struct file *raw, const unsigned char *data, uint64_t len, uint64_t off)
{
	uint64_t from = 0, to;
	int r = 0;

	while (!r && from < len) {
		for (to = from; to < len && !bytes_all_zero(data + to, MIN(len - to, RAW_BLOCK));)
			to = MIN(len, to + RAW_BLOCK);
		if (to > from)
			r = file_pwrite(raw, data + from, to - from, off + from);
		from = to + RAW_BLOCK;
	}
	return r;
}

static int convert_piece(void *arg, uint64_t off, const void *data, uint64_t len, int res)
{
	struct convert *c = arg;

	if (res)
		return err_set(c->err, res == -EIO ? QCOW2_E_CORRUPT : res,
			       "cannot read guest offset %llu of '%s': %s", (unsigned long long)off,
			       c->src, strerror(-res));
	if (data && c->raw)
		res = write_raw(c->raw, data, len, off);
	else if (data)
		res = qcow2_session_write(&c->session, off, data, len);
	if (res)
		return err_sys(c->err, res, "cannot write '%s'", c->dst);
	if (c->opts->progress && !c->opts->progress(c->opts->arg, off + len, c->size))
		return err_set(c->err, -ECANCELED, "stopped");
	return 0;
}

static int convert_scan(struct convert *c, const char *repository, struct err *err)
{
	static const struct qcow2_scan_ops ops = {.piece = convert_piece};
	struct err why = ERR_INIT;
	int r;

	c->err = &why;
	r = qcow2_scan(c->src, repository, 0, c->size, &ops, c, err);
	if (r && why.code) /* the piece knows better than the scan */
		*err = why;
	return r;
}

static int convert_to_raw(struct convert *c, const char *repository, struct err *err)
{
	int r = file_open(&c->raw, c->dst, FILE_RDWR | FILE_CREATE, err);

	if (r)
		return r;
	r = file_truncate(c->raw, c->size);
	if (r)
		err_sys(err, r, "cannot write '%s'", c->dst);
	else
		r = convert_scan(c, repository, err);
	/* what lies behind the end of the source is no part of it */
	if (!r && ((r = file_truncate(c->raw, c->source_size)) || (r = file_datasync(c->raw))))
		err_sys(err, r, "cannot write '%s'", c->dst);
	file_close(c->raw);
	if (r)
		unlink(c->dst);
	return r;
}

static int convert_to_qcow2(struct convert *c, const char *repository, struct err *err)
{
	struct qcow2_create_opts create = {.size = c->size,
					   .cluster_size = c->opts->cluster_size,
					   .zstd = c->opts->zstd_level};
	struct qcow2_open_opts open = {.writable = true,
				       .sums = c->opts->sums,
				       .source_size = c->source_size,
				       .zstd_level = c->opts->zstd_level};
	int r = qcow2_create(c->dst, &create, err);

	if (r)
		return r;
	r = qcow2_session_init(&c->session, CONVERT_BATCHES, err);
	if (!r)
		r = qcow2_session_open(&c->session, c->dst, &open, err);
	if (!r)
		r = convert_scan(c, repository, err);
	if (!r)
		r = qcow2_session_close(&c->session, err);
	qcow2_session_drop(&c->session);
	qcow2_session_deinit(&c->session);
	if (r)
		unlink(c->dst);
	return r;
}

/* As the sidecar remembers it; the disk's own size where there is none. */
static uint64_t source_size_of(const char *image, uint64_t size)
{
	struct qcow2_sums sums;
	char path[4096];
	uint64_t source = size;

	if (!qcow2_sums_path(image, path, sizeof(path)) || qcow2_sums_open(&sums, path, NULL))
		return size;
	if (sums.size == size)
		source = sums.source_size;
	qcow2_sums_close(&sums);
	return source;
}

int qcow2_convert(const char *src, const char *repository, const char *dst,
		  const struct qcow2_convert_opts *opts, struct err *err)
{
	struct convert c = {.opts = opts, .src = src, .dst = dst};
	struct qcow2_file_info *files;
	unsigned count;
	int r = qcow2_describe(src, repository, &files, &count, err);

	if (r)
		return r;
	c.size = files[0].size;
	c.source_size = source_size_of(src, c.size);
	qcow2_describe_free(files, count);
	return opts->raw ? convert_to_raw(&c, repository, err)
			 : convert_to_qcow2(&c, repository, err);
}
