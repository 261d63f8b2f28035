/*
 * Refcounts from the tree: what an image that was not closed cleanly really uses. The refcount
 * structures on disk are not even looked at; while the image is being written they say nothing.
 */
#include <string.h>

#include "base/cleanup.h"
#include "qcow2/image.h"

struct rebuild {
	const struct qcow2_layer *layer;
	struct qcow2_refs *refs;
	struct qcow2_received *received;
	struct qcow2_refs packed; /* of those: by compressed clusters, which alone may share one */
	uint64_t clusters;	  /* in the file, the last may be cut short */
	uint64_t end;		  /* cluster behind the last one used */
	bool flags_wrong;	  /* a COPIED flag is missing */
	struct err *err;
};

static int rebuild_use(struct rebuild *rb, uint64_t off, uint64_t len, bool packed)
{
	const struct qcow2_geom *g = &rb->layer->geom;
	uint64_t c, last = (off + len - 1) >> g->cluster_bits;

	for (c = off >> g->cluster_bits; c <= last; c++) {
		int r;

		if (c >= rb->clusters)
			return err_set(rb->err, QCOW2_E_CORRUPT,
				       "'%s' refers to offset %llu, behind the end of the file",
				       rb->layer->path, (unsigned long long)off);
		if (qcow2_refs_get(rb->refs, c) != (packed ? qcow2_refs_get(&rb->packed, c) : 0))
			return err_set(rb->err, QCOW2_E_CORRUPT,
				       "'%s' uses the cluster at offset %llu twice",
				       rb->layer->path, (unsigned long long)off);
		r = qcow2_refs_add(rb->refs, c, 1);
		if (!r && packed)
			r = qcow2_refs_add(&rb->packed, c, 1);
		if (r)
			return err_sys(rb->err, r, "cannot count the references of '%s'",
				       rb->layer->path);
	}
	rb->end = MAX(rb->end, last + 1);
	return 0;
}

static int rebuild_table(void *arg, uint64_t l1_index, uint64_t host)
{
	struct rebuild *rb = arg;

	rb->flags_wrong |= !(rb->layer->l1[l1_index] & QCOW2_ENTRY_COPIED);
	return rebuild_use(rb, host, rb->layer->geom.cluster_size, false);
}

static int rebuild_bad(void *arg, uint64_t l1_index, uint64_t host)
{
	struct rebuild *rb = arg;

	return err_set(rb->err, QCOW2_E_CORRUPT,
		       "L1 entry %llu of '%s' points to offset %llu, where no table can be",
		       (unsigned long long)l1_index, rb->layer->path, (unsigned long long)host);
}

static int rebuild_entry(void *arg, uint64_t guest_cluster, uint64_t entry, uint64_t bitmap)
{
	struct rebuild *rb = arg;
	const struct qcow2_geom *g = &rb->layer->geom;
	uint64_t host, len;
	enum qcow2_kind kind = qcow2_layer_entry(rb->layer, entry, 0, 0, &host);

	(void)bitmap;
	qcow2_received_found(rb->received, g, guest_cluster, kind, entry & QCOW2_ENTRY_COPIED);
	switch (kind) {
	case QCOW2_KIND_DATA:
	case QCOW2_KIND_ZERO: /* may keep a cluster of its own for later */
		host = entry & QCOW2_ENTRY_OFFSET;
		rb->flags_wrong |= host && !(entry & QCOW2_ENTRY_COPIED);
		return host ? rebuild_use(rb, host, g->cluster_size, false) : 0;
	case QCOW2_KIND_PACKED:
		qcow2_packed_place(g, entry, &host, &len);
		return rebuild_use(rb, host, len, true);
	default:
		return err_set(rb->err, QCOW2_E_CORRUPT,
			       "'%s' maps guest offset %llu through a damaged entry (0x%llx)",
			       rb->layer->path,
			       (unsigned long long)(guest_cluster << g->cluster_bits),
			       (unsigned long long)entry);
	}
}

int qcow2_rebuild_refs(const struct qcow2_layer *layer, struct qcow2_refs *refs,
		       struct qcow2_received *received, uint64_t *end_of_use, bool *flags_wrong,
		       struct err *err)
{
	struct rebuild rb = {
		.layer = layer,
		.refs = refs,
		.received = received,
		.clusters = div_up(layer->file_size, layer->geom.cluster_size),
		.err = err,
	};
	struct qcow2_walk walk = {
		.layer = layer,
		.arg = &rb,
		.table = rebuild_table,
		.entry = rebuild_entry,
		.bad = rebuild_bad,
	};
	int r = qcow2_refs_clear(refs, rb.clusters);

	if (!r)
		r = qcow2_refs_clear(&rb.packed, rb.clusters);
	if (!r)
		r = rebuild_use(&rb, 0, layer->geom.cluster_size, false);
	if (!r && layer->header.l1_entries)
		r = rebuild_use(&rb, layer->header.l1_off,
				align_up(layer->header.l1_entries * 8ULL, layer->geom.cluster_size),
				false);
	if (!r)
		r = qcow2_walk(&walk);
	qcow2_refs_deinit(&rb.packed);
	if (r < 0)
		return err_sys(err, r, "cannot read the tables of '%s'", layer->path);
	if (r)
		return r;
	if (qcow2_refs_compact(refs, rb.end))
		return err_set(err, -ENOMEM, "no memory for the references of '%s'", layer->path);
	*end_of_use = rb.end << layer->geom.cluster_bits;
	*flags_wrong = rb.flags_wrong;
	return 0;
}

/* --- the refcounts on disk ------------------------------------------------------------------ */

/* May the table stay, below the end of use and apart from everything that is used? */
static bool table_stays(const struct qcow2_image *img)
{
	const struct qcow2_header *h = &img->layer->header;
	uint64_t first = h->reftable_off >> h->cluster_bits, i;

	if (img->refblock0)
		return true;
	for (i = 0; i < h->reftable_clusters; i++)
		if (first + i >= img->alloc.tail >> h->cluster_bits ||
		    qcow2_refs_get(&img->alloc.refs, first + i))
			return false;
	return h->reftable_clusters;
}

/* A table of one cluster at the tail; finalize puts a real one elsewhere, so it counts as free. */
static int table_moves(struct qcow2_image *img)
{
	struct qcow2_header *h = &img->layer->header;

	h->reftable_off = qcow2_alloc(img, 1);
	h->reftable_clusters = 1;
	return qcow2_refs_add(&img->alloc.refs, h->reftable_off >> h->cluster_bits, -1);
}

int qcow2_void_refcounts(struct qcow2_image *img)
{
	struct qcow2_header *h = &img->layer->header;
	struct file *file = img->layer->file;
	bool stays = table_stays(img);
	int r = stays ? 0 : table_moves(img);
	size_t bytes = (size_t)h->reftable_clusters << h->cluster_bits;
	_cleanup_(freep) unsigned char *old = malloc(bytes), *void_table = calloc(1, bytes);

	if (r || !old || !void_table)
		return r ? r : -ENOMEM;
	if (img->refblock0)
		store_be64(void_table, img->refblock0);
	if (stays && file_pread(file, old, bytes, h->reftable_off) == (ssize_t)bytes &&
	    !memcmp(old, void_table, bytes))
		return 0;
	r = file_pwrite(file, void_table, bytes, h->reftable_off);
	if (!r)
		r = file_datasync(file);
	return r || stays ? r : qcow2_layer_write_header(img->layer);
}
