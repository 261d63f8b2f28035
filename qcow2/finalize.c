/*
 * The clean close: refcounts of everything in use, then a header without the dirty bit.
 *
 *     COPIED where it is missing (received.c) -> cut the file to its end
 *         -> refcount blocks and table -> sync -> header -> sync
 *
 * Until the header is written the image is dirty and a repair rebuilds all of this from the tables.
 */
#include <string.h>

#include "base/cleanup.h"
#include "qcow2/image.h"
#include "qcow2/repair.h"

struct reflayout {
	uint64_t clusters; /* in the finished file */
	uint64_t blocks;   /* refcount blocks */
	uint64_t table_clusters;
	uint64_t blocks_off; /* the new blocks, behind the data; block 0 may live elsewhere */
	uint64_t table_off;
	bool keep_table; /* the table laid out at creation is large enough */
};

static uint64_t counters_per_block(const struct qcow2_geom *g)
{
	return g->cluster_size / 2;
}

/* Blocks and table describe themselves too: grow until they fit. */
static struct reflayout plan_refcounts(const struct qcow2_image *img)
{
	const struct qcow2_geom *g = &img->geom;
	uint64_t used = img->alloc.tail >> g->cluster_bits, extra = 0, n;
	struct reflayout l = {0};

	do {
		n = extra;
		l.clusters = used + extra;
		l.blocks = div_up(l.clusters, counters_per_block(g));
		l.table_clusters = div_up(l.blocks * 8, g->cluster_size);
		l.keep_table = img->refblock0 && l.table_clusters == 1;
		extra = l.blocks - (img->refblock0 ? 1 : 0) + (l.keep_table ? 0 : l.table_clusters);
	} while (extra != n);
	l.blocks_off = used << g->cluster_bits;
	l.table_off = l.keep_table ? g->cluster_size
				   : l.blocks_off + ((l.blocks - (img->refblock0 ? 1 : 0))
						     << g->cluster_bits);
	return l;
}

static uint64_t block_off(const struct qcow2_image *img, const struct reflayout *l, uint64_t i)
{
	if (img->refblock0)
		return i ? l->blocks_off + ((i - 1) << img->geom.cluster_bits) : img->refblock0;
	return l->blocks_off + (i << img->geom.cluster_bits);
}

static int write_blocks(struct qcow2_image *img, const struct reflayout *l, unsigned char *buf)
{
	const struct qcow2_geom *g = &img->geom;
	uint64_t per = counters_per_block(g), i, k;
	int r = 0;

	for (i = 0; !r && i < l->blocks; i++) {
		memset(buf, 0, g->cluster_size);
		for (k = 0; k < per && i * per + k < l->clusters; k++)
			store_be16(buf + k * 2, qcow2_refs_get(&img->alloc.refs, i * per + k));
		r = file_pwrite(img->layer->file, buf, g->cluster_size, block_off(img, l, i));
	}
	return r;
}

static int write_table(struct qcow2_image *img, const struct reflayout *l, unsigned char *buf)
{
	const struct qcow2_geom *g = &img->geom;
	uint64_t per = g->cluster_size / 8, i, k;
	int r = 0;

	for (i = 0; !r && i < l->table_clusters; i++) {
		memset(buf, 0, g->cluster_size);
		for (k = 0; k < per && i * per + k < l->blocks; k++)
			store_be64(buf + k * 8, block_off(img, l, i * per + k));
		r = file_pwrite(img->layer->file, buf, g->cluster_size,
				l->table_off + (i << g->cluster_bits));
	}
	return r;
}

static int write_clean_header(struct qcow2_image *img, const struct reflayout *l)
{
	struct qcow2_layer *layer = img->layer;

	layer->header.reftable_off = l->table_off;
	layer->header.reftable_clusters = l->table_clusters;
	layer->header.refcount_order = 4;
	layer->header.incompatible &= ~QCOW2_INCOMPAT_DIRTY;
	layer->header.compatible &= ~QCOW2_COMPAT_LAZY_REFCOUNTS;
	return qcow2_layer_write_header(layer);
}

static int write_refcounts(struct qcow2_image *img, const struct reflayout *l)
{
	_cleanup_(freep) unsigned char *buf = aligned_alloc(FILE_ALIGN, img->geom.cluster_size);
	int r;

	if (!buf)
		return -ENOMEM;
	/* The table of the creation, when it is too small now, is free space. */
	if (img->refblock0 && !l->keep_table && (r = qcow2_refs_add(&img->alloc.refs, 1, -1)))
		return r;
	if ((r = file_truncate(img->layer->file, l->clusters << img->geom.cluster_bits)) ||
	    (r = write_blocks(img, l, buf)) || (r = write_table(img, l, buf)))
		return r;
	return file_datasync(img->layer->file);
}

/* What tells whole clusters from others goes first: from then on COPIED means what it must. */
static int end_marks(struct qcow2_image *img)
{
	int r = qcow2_layer_drop_whole(img->layer);

	return r || !img->received.halves ? r : qcow2_fix_copied(img->layer, &img->alloc.refs);
}

int qcow2_finalize(struct qcow2_image *img, struct err *err)
{
	struct reflayout l;
	int r = qcow2_error(img);

	assert(img->writable && !img->io.ring);
	if (r)
		return err_sys(err, r, "'%s' was not stored completely", img->path);
	l = plan_refcounts(img);
	r = end_marks(img);
	if (!r)
		r = write_refcounts(img, &l);
	if (!r)
		r = write_clean_header(img, &l);
	if (!r) {
		file_unlock(img->layer->file); /* the sidecar's reader opens the image */
		r = qcow2_sums_build(img, err);
		if (r)
			return r;
	}
	if (r) {
		qcow2_fail(img, r);
		return err_sys(err, r, "cannot close '%s' cleanly", img->path);
	}
	return 0;
}
