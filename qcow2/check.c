/*
 * References counted from the tables (count.c), compared with the refcounts on disk. Reads
 * everything, trusts nothing.
 */
#include <string.h>

#include "base/cleanup.h"
#include "qcow2/count.h"
#include "qcow2/image.h"
#include "qcow2/repair.h"

struct check {
	struct qcow2_layer *layer;
	struct qcow2_count count;
	uint64_t *reftable; /* host byte order; NULL for the empty table */
	uint64_t reftable_entries;
	uint64_t block_index; /* of the refcount block in @block; UINT64_MAX: none */
	unsigned char *block;
	struct qcow2_refs one; /* a bit a cluster: its refcount on disk is 1 */
	struct qcow2_check_result *result;
};

/* --- the refcounts on disk ------------------------------------------------------------------ */

/* Where the refcount block is; 0: there is none. */
static uint64_t check_block_off(const struct check *ck, uint64_t index)
{
	uint64_t entry = index < ck->reftable_entries ? ck->reftable[index] : 0;
	uint64_t off = entry & QCOW2_REFTABLE_OFFSET;

	if (entry & QCOW2_REFTABLE_RESERVED || !is_aligned(off, ck->layer->geom.cluster_size) ||
	    off >= ck->layer->file_size)
		return 0;
	return off;
}

static uint64_t check_per_block(const struct check *ck)
{
	return ck->layer->geom.cluster_size * 8 >> ck->layer->header.refcount_order;
}

/* 0 for what no block covers. Ask in ascending order: one block is kept. */
static uint64_t check_disk_refcount(struct check *ck, uint64_t cluster)
{
	unsigned order = ck->layer->header.refcount_order;
	uint64_t per_block = check_per_block(ck), index = cluster / per_block;
	uint64_t k = cluster % per_block, off = check_block_off(ck, index), value = 0;
	const unsigned char *p;

	if (!off)
		return 0;
	if (ck->block_index != index) {
		memset(ck->block, 0, ck->layer->geom.cluster_size);
		if (file_pread(ck->layer->file, ck->block, ck->layer->geom.cluster_size, off) < 0)
			ck->result->corruptions++;
		ck->block_index = index;
	}
	if (order < 3)
		return ck->block[(k << order) / 8] >> ((k << order) % 8) &
		       ((1U << (1U << order)) - 1);
	for (p = ck->block + (k << (order - 3)); p < ck->block + ((k + 1) << (order - 3)); p++)
		value = value << 8 | *p;
	return value;
}

static int check_load_reftable(struct check *ck, struct err *err)
{
	const struct qcow2_header *h = &ck->layer->header;
	size_t i, bytes = (size_t)h->reftable_clusters << h->cluster_bits;
	ssize_t n;

	ck->reftable_entries = bytes / 8;
	ck->reftable = calloc(1, bytes + 1);
	ck->block = aligned_alloc(FILE_ALIGN, MAX(ck->layer->geom.cluster_size, FILE_ALIGN));
	ck->block_index = UINT64_MAX;
	if (!ck->reftable || !ck->block)
		return err_set(err, -ENOMEM, "no memory for the refcount table");
	n = file_pread(ck->layer->file, ck->reftable, bytes, h->reftable_off);
	if (n < 0)
		return err_sys(err, n, "cannot read the refcount table");
	for (i = 0; i < ck->reftable_entries; i++)
		ck->reftable[i] = be64toh(ck->reftable[i]);
	return 0;
}

/* They use clusters as well. While an image is being written they say nothing, and may lie. */
static void check_count_refcounts(struct check *ck)
{
	const struct qcow2_header *h = &ck->layer->header;
	uint64_t cs = ck->layer->geom.cluster_size, i;
	bool trusted = !ck->result->dirty;

	for (i = 0; i < ck->reftable_entries; i++) {
		uint64_t off = check_block_off(ck, i);

		if (off)
			qcow2_count_use(&ck->count, off, cs);
		else if (ck->reftable[i])
			ck->result->refcount_errors++;
	}
	if (h->reftable_clusters)
		qcow2_count_use(&ck->count, h->reftable_off, ck->reftable_entries * 8);
	for (i = 0; trusted && i < ck->reftable_entries; i++)
		if (check_block_off(ck, i) &&
		    !qcow2_count_alone(&ck->count, check_block_off(ck, i), cs))
			ck->count.corruptions++;
	if (trusted && h->reftable_clusters &&
	    !qcow2_count_alone(&ck->count, h->reftable_off, ck->reftable_entries * 8))
		ck->count.corruptions++;
}

/* --- comparing ------------------------------------------------------------------------------ */

static int check_cluster(struct check *ck, uint64_t c)
{
	uint64_t want = qcow2_refs_get(&ck->count.refs, c), have = check_disk_refcount(ck, c);

	if (have > want)
		ck->result->leaks++;
	else if (have < want)
		ck->result->refcount_errors++;
	/* sixteen clusters a counter: bits are all that is needed */
	return have == 1 ? qcow2_refs_add(&ck->one, c / 16, 1 << (c % 16)) : 0;
}

/* What neither side mentions is not looked at: a file may be mostly a hole. */
static int check_compare(struct check *ck)
{
	uint64_t c = 0, end, per_block = check_per_block(ck);
	int r = qcow2_refs_clear(&ck->one, div_up(ck->count.clusters, 16));

	while (!r && c < ck->count.clusters) {
		end = MIN(align_down(c, QCOW2_REFS_CHUNK) + QCOW2_REFS_CHUNK,
			  (c / per_block + 1) * per_block);
		end = MIN(end, ck->count.clusters);
		if (qcow2_refs_none(&ck->count.refs, c) && !check_block_off(ck, c / per_block))
			c = end;
		for (; !r && c < end; c++)
			r = check_cluster(ck, c);
	}
	return r;
}

static void check_copied(struct check *ck, uint64_t host, uint64_t entry)
{
	uint64_t c = host >> ck->layer->geom.cluster_bits;
	bool one = qcow2_refs_get(&ck->one, c / 16) >> (c % 16) & 1;

	if (one != !!(entry & QCOW2_ENTRY_COPIED))
		ck->result->copied_errors++;
}

static int check_copied_table(struct check *ck, uint64_t host, unsigned char *buf)
{
	const struct qcow2_geom *g = &ck->layer->geom;
	ssize_t n = file_pread(ck->layer->file, buf, g->cluster_size, host);
	uint64_t i, at;

	if (n < 0)
		return n;
	for (i = 0; i + g->entry_size <= (uint64_t)n; i += g->entry_size) {
		uint64_t entry = load_be64(buf + i);
		uint64_t bitmap = g->entry_size == 16 ? load_be64(buf + i + 8) : 0;
		enum qcow2_kind kind = qcow2_count_kind(ck->layer, entry, bitmap, &at);

		at = entry & QCOW2_ENTRY_OFFSET;
		if (kind != QCOW2_KIND_BAD && kind != QCOW2_KIND_PACKED && at &&
		    is_aligned(at, g->cluster_size) && at < ck->layer->file_size)
			check_copied(ck, at, entry);
	}
	return 0;
}

/* Only in what the active L1 leads to do the flags mean anything. */
static int check_flags(struct check *ck)
{
	_cleanup_(freep) unsigned char *buf = malloc(ck->layer->geom.cluster_size);
	uint64_t i, host;
	int r = buf ? 0 : -ENOMEM;

	for (i = 0; !r && i < ck->layer->header.l1_entries; i++)
		if (!qcow2_layer_l2_table(ck->layer, i, &host) && host)
			check_copied(ck, host, ck->layer->l1[i]);
	for (i = 0; !r && i < ck->count.tables; i++)
		if (ck->count.table[i].active)
			r = check_copied_table(ck, ck->count.table[i].host, buf);
	return r;
}

static int check_run(struct check *ck, struct err *err)
{
	struct qcow2_check_result *result = ck->result;
	int r;

	result->dirty = ck->layer->header.incompatible & QCOW2_INCOMPAT_DIRTY;
	result->file_size = ck->layer->file_size;
	result->total_clusters = ck->layer->geom.clusters;
	result->corrupt = ck->layer->header.incompatible & QCOW2_INCOMPAT_CORRUPT;
	result->snapshots = ck->layer->header.snapshots;
	if ((r = qcow2_count_all(&ck->count, ck->layer, err)) || (r = check_load_reftable(ck, err)))
		return r;
	check_count_refcounts(ck);
	if ((r = check_compare(ck)) || (r = check_flags(ck)))
		return err_sys(err, r, "cannot compare the refcounts");
	result->corruptions += ck->count.corruptions;
	result->end_of_use = ck->count.end_of_use;
	result->data_clusters = ck->count.data_clusters;
	result->zero_clusters = ck->count.zero_clusters;
	result->compressed_clusters = ck->count.compressed_clusters;
	return 0;
}

static int check_file(const char *path, struct qcow2_check_result *result, struct err *err)
{
	struct check ck = {.result = result};
	struct file *file;
	int r = file_open(&file, path, FILE_RDONLY, err);

	memset(result, 0, sizeof(*result));
	if (r)
		return r;
	r = qcow2_layer_open(&ck.layer, file, path, err);
	if (r)
		return r;
	r = check_run(&ck, err);
	qcow2_layer_free(ck.layer);
	qcow2_count_deinit(&ck.count);
	qcow2_refs_deinit(&ck.one);
	free(ck.reftable);
	free(ck.block);
	return r ? err_prefix(err, r, "cannot check '%s'", path) : 0;
}

int qcow2_check(const char *path, bool repair, struct qcow2_check_result *result, struct err *err)
{
	struct qcow2_check_result after;
	uint64_t before;
	int r = check_file(path, result, err);

	before = result->leaks + result->refcount_errors + result->copied_errors;
	if (r || !repair || result->corruptions || (!before && !result->dirty && !result->corrupt))
		return r;
	if ((r = qcow2_repair(path, err)) || (r = check_file(path, &after, err)))
		return r;
	result->fixed =
		before - MIN(before, after.leaks + after.refcount_errors + after.copied_errors);
	return 0;
}
