/*
 * References counted from the tables, compared with the refcounts on disk. Reads everything, trusts
 * nothing; repairs by opening the image for writing, which rebuilds the refcounts, and finalizing.
 */
#include <string.h>

#include "base/cleanup.h"
#include "qcow2/image.h"

struct check {
	struct qcow2_layer *layer;
	struct qcow2_refs refs; /* as the tables have it */
	uint64_t clusters;	/* in the file */
	uint64_t *reftable;	/* host byte order; NULL for the empty table */
	uint64_t reftable_entries;
	uint64_t block_index; /* of the refcount block in @block; UINT64_MAX: none */
	unsigned char *block;
	bool counting; /* first walk counts, the second looks at COPIED flags */
	struct qcow2_check_result *result;
};

static void check_use(struct check *ck, uint64_t off, uint64_t len)
{
	const struct qcow2_geom *g = &ck->layer->geom;
	uint64_t c, last = (off + len - 1) >> g->cluster_bits;

	for (c = off >> g->cluster_bits; c <= last; c++) {
		if (c >= ck->clusters || qcow2_refs_add(&ck->refs, c, 1)) {
			ck->result->corruptions++;
			return;
		}
	}
	ck->result->end_of_use = MAX(ck->result->end_of_use, (last + 1) << g->cluster_bits);
}

/* The refcount on disk; 0 for what no block covers. */
static uint64_t check_disk_refcount(struct check *ck, uint64_t cluster)
{
	const struct qcow2_geom *g = &ck->layer->geom;
	unsigned order = ck->layer->header.refcount_order;
	uint64_t per_block = g->cluster_size * 8 >> order, index = cluster / per_block;
	uint64_t k = cluster % per_block, off, value = 0;
	const unsigned char *p;

	if (index >= ck->reftable_entries)
		return 0;
	off = ck->reftable[index] & QCOW2_REFTABLE_OFFSET;
	if (!off || !is_aligned(off, g->cluster_size) || off >= ck->layer->file_size)
		return 0;
	if (ck->block_index != index) {
		memset(ck->block, 0, g->cluster_size);
		if (file_pread(ck->layer->file, ck->block, g->cluster_size, off) < 0)
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

static void check_copied(struct check *ck, uint64_t host, uint64_t entry)
{
	bool copied = entry & QCOW2_ENTRY_COPIED;

	if (copied != (check_disk_refcount(ck, host >> ck->layer->geom.cluster_bits) == 1))
		ck->result->copied_errors++;
}

static int check_table(void *arg, uint64_t l1_index, uint64_t host)
{
	struct check *ck = arg;

	if (ck->counting)
		check_use(ck, host, ck->layer->geom.cluster_size);
	else
		check_copied(ck, host, ck->layer->l1[l1_index]);
	return 0;
}

static int check_bad(void *arg, uint64_t l1_index, uint64_t host)
{
	struct check *ck = arg;

	(void)l1_index;
	(void)host;
	ck->result->corruptions += ck->counting;
	return 0;
}

/* What one L2 entry maps, subclusters taken together. */
static enum qcow2_kind check_kind(const struct qcow2_layer *layer, uint64_t entry, uint64_t bitmap,
				  uint64_t *host)
{
	enum qcow2_kind kind = QCOW2_KIND_NONE;
	unsigned sub;

	if (layer->geom.entry_size == 8 || entry & QCOW2_ENTRY_COMPRESSED)
		return qcow2_layer_entry(layer, entry, bitmap, 0, host);
	for (sub = 0; sub < QCOW2_SUBCLUSTERS; sub++) {
		enum qcow2_kind k = qcow2_layer_entry(layer, entry, bitmap, sub, host);

		if (k == QCOW2_KIND_BAD || k == QCOW2_KIND_DATA)
			return k;
		if (k != QCOW2_KIND_NONE)
			kind = k;
	}
	return kind;
}

static int check_entry(void *arg, uint64_t guest_cluster, uint64_t entry, uint64_t bitmap)
{
	struct check *ck = arg;
	const struct qcow2_geom *g = &ck->layer->geom;
	uint64_t host = 0, len;
	enum qcow2_kind kind = check_kind(ck->layer, entry, bitmap, &host);

	(void)guest_cluster;
	if (kind == QCOW2_KIND_PACKED) {
		qcow2_packed_place(g, entry, &host, &len);
		if (ck->counting) {
			check_use(ck, host, len);
			ck->result->compressed_clusters++;
		}
		return 0;
	}
	if (kind == QCOW2_KIND_BAD) {
		ck->result->corruptions += ck->counting;
		return 0;
	}
	host = entry & QCOW2_ENTRY_OFFSET;
	if (ck->counting) {
		ck->result->data_clusters += kind == QCOW2_KIND_DATA;
		ck->result->zero_clusters += kind == QCOW2_KIND_ZERO;
		if (host)
			check_use(ck, host, g->cluster_size);
	} else if (host) {
		check_copied(ck, host, entry);
	}
	return 0;
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
	for (i = 0; i < ck->reftable_entries; i++) {
		uint64_t off;

		ck->reftable[i] = be64toh(ck->reftable[i]);
		off = ck->reftable[i] & QCOW2_REFTABLE_OFFSET;
		if (!is_aligned(off, ck->layer->geom.cluster_size) ||
		    ck->reftable[i] & QCOW2_REFTABLE_RESERVED)
			ck->result->corruptions++;
		else if (off)
			check_use(ck, off, ck->layer->geom.cluster_size);
	}
	if (h->reftable_clusters)
		check_use(ck, h->reftable_off, bytes);
	return 0;
}

static void check_compare(struct check *ck)
{
	uint64_t c;

	for (c = 0; c < ck->clusters; c++) {
		uint64_t want = qcow2_refs_get(&ck->refs, c), have = check_disk_refcount(ck, c);

		if (have > want)
			ck->result->leaks++;
		else if (have < want)
			ck->result->refcount_errors++;
	}
}

static int check_run(struct check *ck, struct err *err)
{
	const struct qcow2_header *h = &ck->layer->header;
	struct qcow2_walk walk = {
		.layer = ck->layer,
		.arg = ck,
		.table = check_table,
		.entry = check_entry,
		.bad = check_bad,
	};
	int r;

	ck->result->dirty = h->incompatible & QCOW2_INCOMPAT_DIRTY;
	ck->result->file_size = ck->layer->file_size;
	ck->result->total_clusters = ck->layer->geom.clusters;
	ck->clusters = div_up(ck->layer->file_size, ck->layer->geom.cluster_size);
	if (h->snapshots)
		return err_set(err, QCOW2_E_UNSUPPORTED,
			       "checking images with internal snapshots is not supported; use "
			       "qemu-img check");
	if (qcow2_refs_clear(&ck->refs, ck->clusters))
		return err_set(err, -ENOMEM, "no memory to count references");
	check_use(ck, 0, ck->layer->geom.cluster_size);
	if (h->l1_entries)
		check_use(ck, h->l1_off,
			  align_up(h->l1_entries * 8ULL, ck->layer->geom.cluster_size));
	ck->counting = true;
	if ((r = check_load_reftable(ck, err)))
		return r;
	if ((r = qcow2_walk(&walk)))
		return err_sys(err, r, "cannot read the tables");
	check_compare(ck);
	ck->counting = false;
	if ((r = qcow2_walk(&walk)))
		return err_sys(err, r, "cannot read the tables");
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
	qcow2_refs_deinit(&ck.refs);
	free(ck.reftable);
	free(ck.block);
	return r ? err_prefix(err, r, "cannot check '%s'", path) : 0;
}

/* --- repair --------------------------------------------------------------------------------- */

/* In an image open for writing every cluster but compressed ones has one reference, so every entry
 * with an offset carries COPIED. */
static int repair_table(void *arg, uint64_t l1_index, uint64_t host)
{
	struct qcow2_layer *layer = arg;
	uint64_t i, cs = layer->geom.cluster_size;
	_cleanup_(freep) unsigned char *table = aligned_alloc(FILE_ALIGN, cs);
	bool changed = false;
	ssize_t n;

	if (!table)
		return -ENOMEM;
	n = file_pread(layer->file, table, cs, host);
	if (n != (ssize_t)cs)
		return n < 0 ? n : -EIO;
	for (i = 0; i < cs; i += 8) {
		uint64_t entry = load_be64(table + i);
		bool copied = entry & QCOW2_ENTRY_OFFSET && !(entry & QCOW2_ENTRY_COMPRESSED);
		uint64_t right = copied ? entry | QCOW2_ENTRY_COPIED : entry & ~QCOW2_ENTRY_COPIED;

		if (right != entry) {
			store_be64(table + i, right);
			changed = true;
		}
	}
	layer->l1[l1_index] |= QCOW2_ENTRY_COPIED;
	return changed ? file_pwrite(layer->file, table, cs, host) : 0;
}

static int repair_nothing(void *arg, uint64_t a, uint64_t b)
{
	(void)arg;
	(void)a;
	(void)b;
	return 0;
}

static int repair_no_entry(void *arg, uint64_t cluster, uint64_t entry, uint64_t bitmap)
{
	(void)bitmap;
	return repair_nothing(arg, cluster, entry);
}

static int repair_copied(struct qcow2_layer *layer, struct err *err)
{
	struct qcow2_walk walk = {
		.layer = layer,
		.arg = layer,
		.table = repair_table,
		.entry = repair_no_entry,
		.bad = repair_nothing,
	};
	size_t i, bytes = layer->header.l1_entries * 8ULL;
	_cleanup_(freep) unsigned char *l1 = malloc(bytes + 1);
	int r = l1 ? qcow2_walk(&walk) : -ENOMEM;

	for (i = 0; !r && i < layer->header.l1_entries; i++)
		store_be64(l1 + i * 8, layer->l1[i]);
	if (!r)
		r = file_pwrite(layer->file, l1, bytes, layer->header.l1_off);
	if (!r)
		r = file_datasync(layer->file);
	return r ? err_sys(err, r, "cannot rewrite the tables of '%s'", layer->path) : 0;
}

/* Opening for writing rebuilds the refcounts from the tables; the clean close stores them. */
static int check_repair(const char *path, struct err *err)
{
	struct qcow2_open_opts opts = {.writable = true};
	struct qcow2_image *img;
	int r = qcow2_open(&img, path, &opts, err);

	if (r)
		return err_prefix(err, r, "cannot repair");
	r = repair_copied(img->layer, err);
	if (!r)
		r = qcow2_finalize(img, err);
	qcow2_close(img);
	return r;
}

int qcow2_check(const char *path, bool repair, struct qcow2_check_result *result, struct err *err)
{
	struct qcow2_check_result after;
	uint64_t before;
	int r = check_file(path, result, err);

	before = result->leaks + result->refcount_errors + result->copied_errors;
	if (r || !repair || (!before && !result->dirty))
		return r;
	if ((r = check_repair(path, err)) || (r = check_file(path, &after, err)))
		return r;
	result->fixed =
		before - MIN(before, after.leaks + after.refcount_errors + after.copied_errors);
	return 0;
}
