/*
 *     mark dirty -> sync -> COPIED flags, refcount blocks, refcount table -> sync
 *                -> header: table, clean -> sync -> cut the file to its end
 *
 * A refcount block stays where it is when nothing else uses its cluster, and so does the table when
 * it is large enough; what is missing goes behind the end of use. Version 2 has no dirty bit: there
 * a crash leaves some refcounts right and some as wrong as before.
 */
#include "qcow2/repair.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2/count.h"
#include "qcow2/qcow2.h"

/* --- COPIED flags --------------------------------------------------------------------------- */

static uint64_t right_entry(const struct qcow2_layer *layer, const struct qcow2_refs *refs,
			    uint64_t entry)
{
	uint64_t off = entry & QCOW2_ENTRY_OFFSET;
	bool copied = off && !(entry & QCOW2_ENTRY_COMPRESSED) &&
		      qcow2_refs_get(refs, off >> layer->geom.cluster_bits) == 1;

	return copied ? entry | QCOW2_ENTRY_COPIED : entry & ~QCOW2_ENTRY_COPIED;
}

static int fix_copied_table(struct qcow2_layer *layer, const struct qcow2_refs *refs, uint64_t host,
			    unsigned char *table)
{
	uint64_t i, cs = layer->geom.cluster_size;
	ssize_t n = file_pread(layer->file, table, cs, host);
	bool changed = false;

	if (n != (ssize_t)cs)
		return n < 0 ? n : -EIO;
	for (i = 0; i < cs; i += layer->geom.entry_size) {
		uint64_t entry = load_be64(table + i), right = right_entry(layer, refs, entry);

		changed |= right != entry;
		store_be64(table + i, right);
	}
	return changed ? file_pwrite(layer->file, table, cs, host) : 0;
}

static int fix_copied_l1(struct qcow2_layer *layer, const struct qcow2_refs *refs)
{
	size_t i, bytes = layer->header.l1_entries * 8ULL;
	_cleanup_(freep) unsigned char *l1 = malloc(bytes + 1);
	bool changed = false;

	if (!l1)
		return -ENOMEM;
	for (i = 0; i < layer->header.l1_entries; i++) {
		uint64_t right = right_entry(layer, refs, layer->l1[i]);

		changed |= right != layer->l1[i];
		layer->l1[i] = right;
		store_be64(l1 + i * 8, right);
	}
	return changed ? file_pwrite(layer->file, l1, bytes, layer->header.l1_off) : 0;
}

int qcow2_fix_copied(struct qcow2_layer *layer, const struct qcow2_refs *refs)
{
	uint64_t cs = layer->geom.cluster_size, i, host;
	_cleanup_(freep) unsigned char *table = aligned_alloc(FILE_ALIGN, MAX(cs, FILE_ALIGN));
	int r = table ? 0 : -ENOMEM;

	for (i = 0; !r && i < layer->header.l1_entries; i++)
		if (!qcow2_layer_l2_table(layer, i, &host) && host)
			r = fix_copied_table(layer, refs, host, table);
	return r ? r : fix_copied_l1(layer, refs);
}

/* --- where the refcounts go ----------------------------------------------------------------- */

struct repair {
	struct qcow2_layer *layer;
	struct qcow2_count count;
	struct qcow2_refs *refs;   /* of count; grows by the refcount structures themselves */
	unsigned order;		   /* refcounts will be 1 << order bits */
	uint64_t per_block, tail;  /* refcounts in a block; the first cluster behind the end */
	uint64_t *old, old_blocks; /* the table as found, host byte order */
	uint64_t *block, blocks;   /* the new one: offset of each block, 0: nothing to count */
	uint64_t table_off, table_clusters;
};

static uint64_t repair_cluster_size(const struct repair *rp)
{
	return rp->layer->geom.cluster_size;
}

/* The largest count decides whether the refcounts may keep their width; 16 bits hold any. */
static void repair_choose_order(struct repair *rp)
{
	uint64_t c, most = 1;

	for (c = 0; c < rp->count.clusters; c++) {
		if (qcow2_refs_none(rp->refs, c))
			c |= QCOW2_REFS_CHUNK - 1;
		else
			most = MAX(most, (uint64_t)qcow2_refs_get(rp->refs, c));
	}
	rp->order = rp->layer->header.refcount_order;
	if (rp->order < 4 && most >> (1U << rp->order))
		rp->order = 4;
	rp->per_block = repair_cluster_size(rp) * 8 >> rp->order;
}

static int repair_read_old_table(struct repair *rp)
{
	const struct qcow2_header *h = &rp->layer->header;
	size_t i, bytes = (size_t)h->reftable_clusters << h->cluster_bits;
	ssize_t n;

	rp->old = calloc(1, bytes + 1);
	if (!rp->old)
		return -ENOMEM;
	n = file_pread(rp->layer->file, rp->old, bytes, h->reftable_off);
	if (n < 0)
		return n;
	rp->old_blocks = bytes / 8;
	for (i = 0; i < rp->old_blocks; i++)
		rp->old[i] = be64toh(rp->old[i]);
	return 0;
}

/* Takes [off, off + len) for a refcount structure if it is whole, in the file and nobody's. */
static bool repair_keep(struct repair *rp, uint64_t off, uint64_t len)
{
	uint64_t cs = repair_cluster_size(rp), c;

	if (!off || !len || !is_aligned(off, cs) || !range_inside(off, len, rp->layer->file_size))
		return false;
	for (c = off / cs; c < (off + len) / cs; c++)
		if (qcow2_refs_get(rp->refs, c))
			return false;
	for (c = off / cs; c < (off + len) / cs; c++)
		if (qcow2_refs_add(rp->refs, c, 1))
			return false;
	rp->tail = MAX(rp->tail, c);
	return true;
}

static int repair_append(struct repair *rp, uint64_t clusters, uint64_t *off)
{
	int r = 0;

	*off = rp->tail * repair_cluster_size(rp);
	for (; !r && clusters; clusters--)
		r = qcow2_refs_add(rp->refs, rp->tail++, 1);
	return r;
}

static bool repair_block_needed(const struct repair *rp, uint64_t i)
{
	uint64_t c = i * rp->per_block, end = MIN(c + rp->per_block, rp->tail);

	for (; c < end; c++) {
		if (qcow2_refs_none(rp->refs, c))
			c |= QCOW2_REFS_CHUNK - 1;
		else if (qcow2_refs_get(rp->refs, c))
			return true;
	}
	return false;
}

/* Gives every block that has something to count a place. *@more: some got one just now. */
static int repair_place_blocks(struct repair *rp, bool *more)
{
	bool same_width = rp->order == rp->layer->header.refcount_order;
	uint64_t need = div_up(rp->tail, rp->per_block), i;
	int r = 0;

	if (need > rp->blocks) {
		uint64_t *grown = reallocarray(rp->block, need, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		memset(grown + rp->blocks, 0, (need - rp->blocks) * sizeof(*grown));
		rp->block = grown;
		rp->blocks = need;
	}
	for (i = 0; !r && i < rp->blocks; i++) {
		if (rp->block[i] || !repair_block_needed(rp, i))
			continue;
		*more = true;
		if (same_width && i < rp->old_blocks &&
		    repair_keep(rp, rp->old[i], repair_cluster_size(rp)))
			rp->block[i] = rp->old[i];
		else
			r = repair_append(rp, 1, &rp->block[i]);
	}
	return r;
}

/* Blocks and table count themselves, so this goes on until nothing is missing. */
static int repair_place(struct repair *rp, struct err *err)
{
	const struct qcow2_header *h = &rp->layer->header;
	uint64_t cs = repair_cluster_size(rp), need;
	bool more;
	int r = 0;

	rp->tail = rp->count.end_of_use / cs;
	if (repair_keep(rp, h->reftable_off, (uint64_t)h->reftable_clusters * cs)) {
		rp->table_off = h->reftable_off;
		rp->table_clusters = h->reftable_clusters;
	}
	do {
		more = false;
		r = repair_place_blocks(rp, &more);
		need = div_up(rp->blocks * 8, cs);
		if (!r && need > rp->table_clusters) { /* what was there before is free space */
			uint64_t c, first = rp->table_off / cs;

			for (c = 0; !r && c < rp->table_clusters; c++)
				r = qcow2_refs_add(rp->refs, first + c, -1);
			rp->table_clusters = need;
			if (!r)
				r = repair_append(rp, rp->table_clusters, &rp->table_off);
			more = true;
		}
	} while (!r && more);
	if (!r && rp->table_clusters * cs > QCOW2_REFTABLE_BYTES_MAX)
		return err_set(err, QCOW2_E_UNSUPPORTED,
			       "the file is too large for a refcount table");
	return r ? err_sys(err, r, "cannot lay out the refcounts") : 0;
}

/* --- writing -------------------------------------------------------------------------------- */

static void put_refcount(unsigned char *block, unsigned order, uint64_t k, uint64_t value)
{
	unsigned bytes, shift;

	if (order < 3) {
		shift = (k << order) % 8;
		block[(k << order) / 8] |= value << shift;
		return;
	}
	bytes = 1U << (order - 3);
	for (block += k * bytes + bytes; bytes; bytes--, value >>= 8)
		*--block = value;
}

static int repair_write_blocks(struct repair *rp, unsigned char *buf)
{
	uint64_t cs = repair_cluster_size(rp), i, k;
	int r = 0;

	for (i = 0; !r && i < rp->blocks; i++) {
		uint64_t first = i * rp->per_block;

		if (!rp->block[i])
			continue;
		memset(buf, 0, cs);
		for (k = 0; k < rp->per_block && first + k < rp->tail; k++)
			put_refcount(buf, rp->order, k, qcow2_refs_get(rp->refs, first + k));
		r = file_pwrite(rp->layer->file, buf, cs, rp->block[i]);
	}
	return r;
}

static int repair_write_table(struct repair *rp, unsigned char *buf)
{
	uint64_t cs = repair_cluster_size(rp), per = cs / 8, i, k;
	int r = 0;

	for (i = 0; !r && i < rp->table_clusters; i++) {
		memset(buf, 0, cs);
		for (k = 0; k < per && i * per + k < rp->blocks; k++)
			store_be64(buf + k * 8, rp->block[i * per + k]);
		r = file_pwrite(rp->layer->file, buf, cs, rp->table_off + i * cs);
	}
	return r;
}

/* Features we do not know may own clusters that are free now; of those we know bitmaps stay. */
static int repair_mark(struct repair *rp, bool dirty)
{
	struct qcow2_header *h = &rp->layer->header;

	if (dirty && h->version == 2)
		return 0;
	h->autoclear &= QCOW2_AUTOCLEAR_BITMAPS;
	if (dirty) {
		h->incompatible |= QCOW2_INCOMPAT_DIRTY;
	} else {
		h->incompatible &= ~(QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
		h->reftable_off = rp->table_off;
		h->reftable_clusters = rp->table_clusters;
		h->refcount_order = rp->order;
	}
	return qcow2_layer_write_header(rp->layer);
}

static int repair_write(struct repair *rp, struct err *err)
{
	uint64_t cs = repair_cluster_size(rp), end = rp->tail * cs;
	_cleanup_(freep) unsigned char *buf = aligned_alloc(FILE_ALIGN, MAX(cs, FILE_ALIGN));
	struct file *file = rp->layer->file;
	int r = buf ? 0 : -ENOMEM;

	if (!r && rp->layer->file_size < end)
		r = file_truncate(file, end);
	/* from here on COPIED means what it must, whatever becomes of the rest */
	if (r || (r = repair_mark(rp, true)) || (r = qcow2_layer_drop_whole(rp->layer)) ||
	    (r = qcow2_fix_copied(rp->layer, rp->refs)) || (r = repair_write_blocks(rp, buf)) ||
	    (r = repair_write_table(rp, buf)) || (r = file_datasync(file)) ||
	    (r = repair_mark(rp, false)) ||
	    (rp->layer->file_size > end && (r = file_truncate(file, end))))
		return err_sys(err, r, "cannot write the refcounts");
	return 0;
}

static int repair_run(struct repair *rp, struct err *err)
{
	int r = qcow2_count_all(&rp->count, rp->layer, err);

	if (r)
		return r;
	if (rp->count.corruptions)
		return err_set(err, QCOW2_E_CORRUPT, "references are damaged");
	rp->refs = &rp->count.refs;
	repair_choose_order(rp);
	if ((r = repair_read_old_table(rp)))
		return err_sys(err, r, "cannot read the refcount table");
	r = repair_place(rp, err);
	return r ? r : repair_write(rp, err);
}

int qcow2_repair(const char *path, struct err *err)
{
	struct file *file;
	int r = file_open(&file, path, FILE_RDWR | FILE_PATIENT, err);

	return r ? err_prefix(err, r, "cannot repair") : qcow2_repair_file(file, path, err);
}

int qcow2_repair_file(struct file *file, const char *path, struct err *err)
{
	struct repair rp = {0};
	int r = qcow2_layer_open(&rp.layer, file, path, err);

	if (r)
		return err_prefix(err, r, "cannot repair");
	r = repair_run(&rp, err);
	qcow2_layer_free(rp.layer);
	qcow2_count_deinit(&rp.count);
	free(rp.old);
	free(rp.block);
	return r ? err_prefix(err, r, "cannot repair '%s'", path) : 0;
}
