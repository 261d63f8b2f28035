/*
 * The sidecar of a finished image.
 *
 * The array starts as what lies below (the parent's sidecar), or as what is known of this image
 * itself, or, where neither is there, as "unknown"; the log is applied on top; then the clusters
 * still unknown are read through the chain. The file appears under its name only when it is whole
 * and synced.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "qcow2/image.h"
#include "qcow2/scan.h"

#define PAGE_SUMS 256U
#define REREAD_GAP                                                                                 \
	(256 * KIB) /* less than this between two stretches is cheaper read than skipped */
static const struct qcow2_sum sum_unknown = {{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
					      0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};

struct build {
	struct qcow2_image *img;
	struct file *file;
	struct qcow2_sums sums;
	/* one page of the array, written back when another is needed */
	uint64_t page;
	bool loaded, dirty;
	struct qcow2_sum sum[PAGE_SUMS];
	uint64_t reread; /* the cluster from which on nobody has looked for unknown ones */
	unsigned char *padded;
};

DEFINE_CLEANUP(struct file *, file_close)

/* --- the array, a page at a time ------------------------------------------------------------ */

static size_t page_bytes(const struct build *b)
{
	uint64_t first = b->page * PAGE_SUMS;

	return MIN(b->sums.clusters - first, PAGE_SUMS) * QCOW2_SUM_BYTES;
}

static int page_store(struct build *b)
{
	int r = 0;

	if (b->dirty)
		r = file_pwrite(b->file, b->sum, page_bytes(b),
				qcow2_sums_off(b->page * PAGE_SUMS));
	b->dirty = false;
	return r;
}

static int sum_at(struct build *b, uint64_t cluster, struct qcow2_sum **out)
{
	uint64_t page = cluster / PAGE_SUMS;
	ssize_t n;
	int r;

	if (!b->loaded || page != b->page) {
		r = page_store(b);
		if (r)
			return r;
		b->page = page;
		n = file_pread(b->file, b->sum, page_bytes(b), qcow2_sums_off(page * PAGE_SUMS));
		if (n != (ssize_t)page_bytes(b))
			return n < 0 ? n : -EIO;
		b->loaded = true;
	}
	*out = &b->sum[cluster % PAGE_SUMS];
	return 0;
}

static int sum_set(struct build *b, uint64_t cluster, const struct qcow2_sum *sum)
{
	struct qcow2_sum *at;
	int r = sum_at(b, cluster, &at);

	if (!r && !qcow2_sum_equal(at, sum)) {
		*at = *sum;
		b->dirty = true;
	}
	return r;
}

/* --- where it starts ------------------------------------------------------------------------ */

static int fill_unknown(struct build *b)
{
	uint64_t i;
	int r = 0;

	for (i = 0; !r && i < b->sums.clusters; i++)
		r = sum_set(b, i, &sum_unknown);
	return r;
}

/* Copies the sums of @from, as far as both reach. A cluster that this disk cuts, or that @from's
 * disk filled only in part while this one goes on, keeps its meaning: zeroes behind the end. */
static int copy_sums(struct build *b, const struct qcow2_sums *from)
{
	_cleanup_(freep) unsigned char *buf = malloc(MIB);
	uint64_t off = qcow2_sums_off(0),
		 end = qcow2_sums_off(MIN(from->clusters, b->sums.clusters));
	int r = buf ? 0 : -ENOMEM;

	while (!r && off < end) {
		ssize_t n = file_pread(from->file, buf, MIN(MIB, end - off), off);

		if (n <= 0)
			return n ? n : -EIO;
		if (!bytes_all_zero(buf, n)) /* holes stay holes */
			r = file_pwrite(b->file, buf, n, off);
		off += n;
	}
	if (!r && b->sums.size < from->size && b->sums.size % b->img->geom.cluster_size)
		r = sum_set(b, b->sums.clusters - 1, &sum_unknown);
	return r;
}

/* The size of the source is that of the point before, unless somebody said so or it was resized. */
static void take_source_size(struct build *b, const struct qcow2_sums *from)
{
	if (!b->img->source_size && from->size == b->sums.size)
		b->sums.source_size = from->source_size;
}

static int start_array(struct build *b, const char *name)
{
	struct qcow2_sums own;
	int r;

	if (b->img->found_data) {
		/* A continued image: its own sidecar counts if the image was clean. */
		if (qcow2_sums_open(&own, name, NULL))
			return fill_unknown(b);
		take_source_size(b, &own);
		r = !b->img->found_dirty && own.cluster_bits == b->sums.cluster_bits
			    ? copy_sums(b, &own)
			    : fill_unknown(b);
		qcow2_sums_close(&own);
		return r;
	}
	if (!b->img->chain)
		return 0; /* an array of zeroes */
	if (!b->img->parent_sums.sums.file)
		return fill_unknown(b);
	take_source_size(b, &b->img->parent_sums.sums);
	return copy_sums(b, &b->img->parent_sums.sums);
}

/* --- the log -------------------------------------------------------------------------------- */

static int apply_entry(struct build *b, const struct qcow2_sumlog_entry *e)
{
	static const struct qcow2_sum zero;
	uint32_t i;
	int r = 0;

	switch (e->kind) {
	case QCOW2_SUMLOG_SUM:
		return sum_set(b, e->cluster, &e->sum);
	case QCOW2_SUMLOG_UNKNOWN:
		return sum_set(b, e->cluster, &sum_unknown);
	default:
		for (i = 0; !r && i < e->count; i++)
			r = sum_set(b, e->cluster + i, &zero);
		return r;
	}
}

static int apply_block(struct build *b, const struct qcow2_sumlog_entry *e, unsigned n)
{
	int r = 0;

	for (; !r && n; n--)
		r = apply_entry(b, e++);
	return r;
}

static int apply_log(struct build *b)
{
	struct qcow2_sumlog *log = &b->img->sumlog;
	struct qcow2_sumlog_entry *other = log->block[!log->active];
	size_t bytes = QCOW2_SUMLOG_BLOCK * sizeof(*other);
	uint64_t off;
	int r = 0;

	for (off = 0; !r && off < log->written; off += bytes) {
		ssize_t n = file_pread(log->file, other, bytes, off);

		r = n == (ssize_t)bytes ? apply_block(b, other, QCOW2_SUMLOG_BLOCK)
		    : n < 0		? (int)n
					: -EIO;
	}
	return r ? r : apply_block(b, log->block[log->active], log->used);
}

/* --- what has to be read -------------------------------------------------------------------- */

static int reread_piece(void *arg, uint64_t off, const void *data, uint64_t len, int res)
{
	struct build *b = arg;
	uint64_t cs = b->img->geom.cluster_size, at;
	int r = res;

	for (at = 0; !r && at < len; at += cs) {
		const unsigned char *p = data ? (const unsigned char *)data + at : NULL;
		struct qcow2_sum *sum, now = {{0}};

		r = sum_at(b, (off + at) / cs, &sum);
		if (r || !qcow2_sum_equal(sum, &sum_unknown))
			continue;
		if (p && len - at < cs) {
			memset(b->padded, 0, cs);
			p = memcpy(b->padded, p, len - at);
		}
		if (p)
			qcow2_sum_cluster(p, cs, &now);
		r = sum_set(b, (off + at) / cs, &now);
	}
	return r;
}

/* The next stretch with unknown clusters; small gaps of known ones are read along. */
static int next_unknown(void *arg, uint64_t *from, uint64_t *to)
{
	struct build *b = arg;
	uint64_t cs = b->img->geom.cluster_size, gap = div_up(REREAD_GAP, cs), first, last, i;
	struct qcow2_sum *sum;
	bool found = false;
	int r = 0;

	for (i = b->reread, first = last = i; i < b->sums.clusters && i - last <= gap; i++) {
		r = sum_at(b, i, &sum);
		if (r)
			return r;
		if (qcow2_sum_equal(sum, &sum_unknown)) {
			first = found ? first : i;
			found = true;
			last = i + 1;
		} else if (!found) {
			last = i;
		}
	}
	b->reread = i;
	*from = first * cs;
	*to = MIN(last * cs, b->sums.size);
	return found;
}

static int reread_unknown(struct build *b, struct err *err)
{
	static const struct qcow2_scan_ops ops = {.piece = reread_piece, .next = next_unknown};
	uint64_t from, to;
	int found = next_unknown(b, &from, &to);

	/* Mostly there is nothing: no need to open the image again, with a reader's memory. */
	if (found <= 0)
		return found;
	b->reread = from / b->img->geom.cluster_size;
	return qcow2_scan(b->img->path, b->img->repository, 0, b->sums.size, &ops, b, err);
}

/* --- all of it ------------------------------------------------------------------------------ */

static int build_run(struct build *b, const char *name, struct err *err)
{
	unsigned char header[QCOW2_SUMS_HEADER];
	int r;

	if ((r = file_truncate(b->file, qcow2_sums_off(b->sums.clusters))) ||
	    (r = start_array(b, name)) || (r = apply_log(b)))
		return r;
	if ((r = reread_unknown(b, err)) || (r = page_store(b)) ||
	    (r = qcow2_sums_root(b->file, b->sums.clusters, &b->sums.root)))
		return r;
	qcow2_sums_encode_header(&b->sums, header);
	if ((r = file_pwrite(b->file, header, sizeof(header), 0)))
		return r;
	return file_datasync(b->file);
}

int qcow2_sums_build(struct qcow2_image *img, struct err *err)
{
	struct build b = {
		.img = img,
		.sums = {.cluster_bits = img->geom.cluster_bits,
			 .size = img->geom.size,
			 .source_size = img->source_size ? img->source_size : img->geom.size,
			 .clusters = img->geom.clusters},
	};
	_cleanup_(file_closep) struct file *file = NULL;
	char name[4096], part[4104];
	int r;

	if (!img->sumlog.file)
		return 0;
	if (!qcow2_sums_path(img->path, name, sizeof(name)))
		return err_set(err, -ENAMETOOLONG, "the path '%s' is too long", img->path);
	snprintf(part, sizeof(part), "%s.part", name);
	unlink(part);
	r = file_open(&file, part, FILE_RDWR | FILE_CREATE | FILE_BUFFERED, err);
	if (r)
		return r;
	b.file = file;
	b.padded = malloc(img->geom.cluster_size);
	r = b.padded ? build_run(&b, name, err) : -ENOMEM;
	free(b.padded);
	if (!r && rename(part, name))
		r = -errno;
	if (!r)
		r = file_sync_dir_of(name);
	if (r) {
		unlink(part);
		return err_sys(err, r, "cannot write the checksums '%s'", name);
	}
	return 0;
}
