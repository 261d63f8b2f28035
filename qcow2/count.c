/*
 * In this order: the tables that say where maps are (header, L1 tables, snapshots, bitmaps), then
 * each L2 table once, weighed with the number of L1 entries that point to it. A hundred snapshots
 * of one disk cost little more than one, and no image makes us read anything twice.
 */
#include "qcow2/count.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2/image.h"

/* QEMU's bounds; a table that claims more is damaged. */
#define SNAPSHOTS_MAX	     65536U
#define SNAPSHOT_EXTRA_MAX   1024U
#define BITMAPS_MAX	     65535U
#define BITMAP_DIRECTORY_MAX (64U << 20)
#define BITMAP_TABLE_MAX     (64U << 20) /* bytes */

#define CHUNK 65536U /* of a table read at once */

/* --- users of clusters ---------------------------------------------------------------------- */

static bool use_weighed(struct qcow2_count *ct, struct qcow2_refs *refs, uint64_t off, uint64_t len,
			unsigned weight)
{
	unsigned bits = ct->layer->geom.cluster_bits;
	uint64_t c = off >> bits, end;

	/* the last cluster of a file may be partial, so what counts is where clusters begin */
	if (!len || off + len < off || (off + len - 1) >> bits >= ct->clusters) {
		ct->corruptions++;
		return false;
	}
	end = ((off + len - 1) >> bits) + 1;
	for (; c < end; c++) {
		if (qcow2_refs_add(refs, c, weight)) {
			ct->corruptions++;
			return false;
		}
	}
	ct->end_of_use = MAX(ct->end_of_use, end << bits);
	return true;
}

bool qcow2_count_use(struct qcow2_count *ct, uint64_t off, uint64_t len)
{
	return use_weighed(ct, &ct->refs, off, len, 1);
}

bool qcow2_count_alone(const struct qcow2_count *ct, uint64_t off, uint64_t len)
{
	unsigned bits = ct->layer->geom.cluster_bits;
	uint64_t c, last = (off + len - 1) >> bits;

	for (c = off >> bits; c <= last; c++)
		if (qcow2_refs_get(&ct->refs, c) != 1)
			return false;
	return true;
}

/* Room for one more element of an array that doubles. 0 or -ENOMEM. */
static int make_room(void *array, size_t size, size_t used, size_t *max)
{
	size_t more = MAX(*max * 2, (size_t)64);
	void *grown;

	if (used < *max)
		return 0;
	grown = reallocarray(*(void **)array, more, size);
	if (!grown)
		return -ENOMEM;
	*(void **)array = grown;
	*max = more;
	return 0;
}

/*
 * A table that must be nobody else's. 0: it may be read. 1: it may not, which is counted. -ENOMEM.
 * Tables that overlap are not read, so that reading all of them costs no more than the file.
 */
static int use_alone(struct qcow2_count *ct, uint64_t off, uint64_t len)
{
	if (!is_aligned(off, ct->layer->geom.cluster_size)) {
		ct->corruptions++;
		return 1;
	}
	if (!qcow2_count_use(ct, off, len))
		return 1;
	if (make_room(&ct->span, sizeof(*ct->span), ct->spans, &ct->spans_max))
		return -ENOMEM;
	ct->span[ct->spans++] = (struct qcow2_span){off, len};
	if (!range_inside(off, len, ct->layer->file_size)) {
		ct->corruptions++;
		return 1;
	}
	return qcow2_count_alone(ct, off, len) ? 0 : 1;
}

/* --- L1 tables ------------------------------------------------------------------------------ */

static int add_l1_entry(struct qcow2_count *ct, uint64_t entry, bool active)
{
	uint64_t host;

	if (qcow2_layer_l1_entry(ct->layer, entry, &host)) {
		ct->corruptions++;
		return 0;
	}
	if (!host)
		return 0;
	if (make_room(&ct->table, sizeof(*ct->table), ct->tables, &ct->tables_max))
		return -ENOMEM;
	ct->table[ct->tables++] = (struct qcow2_table_use){host, 1, active};
	return 0;
}

static int add_active_l1(struct qcow2_count *ct)
{
	const struct qcow2_header *h = &ct->layer->header;
	uint64_t i;
	int r;

	ct->maps = 1;
	if (!h->l1_entries)
		return 0;
	r = use_alone(ct, h->l1_off, h->l1_entries * 8ULL);
	for (i = 0; r >= 0 && i < h->l1_entries; i++)
		r = add_l1_entry(ct, ct->layer->l1[i], true);
	return MIN(r, 0);
}

/* Reads [off, off + len), which lies inside the file, in pieces, for @each 8-byte entry. */
static int each_entry(struct qcow2_count *ct, uint64_t off, uint64_t len,
		      int (*each)(struct qcow2_count *ct, uint64_t entry))
{
	_cleanup_(freep) unsigned char *buf = malloc(CHUNK);
	int r = buf ? 0 : -ENOMEM;

	while (!r && len) {
		size_t n = MIN(len, CHUNK), i;
		ssize_t got = file_pread(ct->layer->file, buf, n, off);

		if (got != (ssize_t)n)
			return got < 0 ? got : -EIO;
		for (i = 0; !r && i + 8 <= n; i += 8)
			r = each(ct, load_be64(buf + i));
		off += n;
		len -= n;
	}
	return r;
}

static int snapshot_l1_entry(struct qcow2_count *ct, uint64_t entry)
{
	return add_l1_entry(ct, entry, false);
}

/* --- snapshots ------------------------------------------------------------------------------ */

enum { /* an entry of the snapshot table: byte offsets */
       SNAPSHOT_L1_OFFSET = 0,
       SNAPSHOT_L1_SIZE = 8,
       SNAPSHOT_ID_LEN = 12,
       SNAPSHOT_NAME_LEN = 14,
       SNAPSHOT_EXTRA_LEN = 36,
       SNAPSHOT_FIXED = 40,
};

static int add_snapshot(struct qcow2_count *ct, const unsigned char *fixed)
{
	uint64_t off = load_be64(fixed + SNAPSHOT_L1_OFFSET);
	uint64_t len = load_be32(fixed + SNAPSHOT_L1_SIZE) * 8ULL;
	int r;

	if (!len) /* of an empty disk */
		return 0;
	ct->maps++;
	if (len > QCOW2_L1_BYTES_MAX) {
		ct->corruptions++;
		return 0;
	}
	r = use_alone(ct, off, len);
	if (!r)
		r = each_entry(ct, off, len, snapshot_l1_entry);
	return MIN(r, 0);
}

/* Entries have no fixed length: each says where the next begins. */
static int add_snapshots(struct qcow2_count *ct)
{
	const struct qcow2_header *h = &ct->layer->header;
	uint64_t pos = h->snapshots_off, end = pos, file_size = ct->layer->file_size;
	unsigned char fixed[SNAPSHOT_FIXED];
	uint32_t i, extra;
	int r = 0;

	if (!h->snapshots)
		return 0;
	for (i = 0; !r && i < MIN(h->snapshots, SNAPSHOTS_MAX); i++) {
		ssize_t n = range_inside(pos, sizeof(fixed), file_size)
				    ? file_pread(ct->layer->file, fixed, sizeof(fixed), pos)
				    : 0;

		if (n < 0)
			return n;
		extra = n < SNAPSHOT_FIXED ? UINT32_MAX : load_be32(fixed + SNAPSHOT_EXTRA_LEN);
		if (extra > SNAPSHOT_EXTRA_MAX)
			break;
		end = pos + SNAPSHOT_FIXED + extra + load_be16(fixed + SNAPSHOT_ID_LEN) +
		      load_be16(fixed + SNAPSHOT_NAME_LEN);
		if (end > file_size) /* what a repair appends would lie in it */
			break;
		r = add_snapshot(ct, fixed);
		pos = align_up(end, 8);
	}
	if (!r && i < h->snapshots) /* the rest cannot be found */
		ct->corruptions++;
	if (!r && i) /* QEMU does not write the padding of the last one */
		r = use_alone(ct, h->snapshots_off, MIN(end, file_size) - h->snapshots_off);
	return MIN(r, 0);
}

/* --- bitmaps -------------------------------------------------------------------------------- */

enum { /* an entry of the bitmap directory */
       BITMAP_TABLE_OFFSET = 0,
       BITMAP_TABLE_SIZE = 8,
       BITMAP_NAME_LEN = 18,
       BITMAP_EXTRA_LEN = 20,
       BITMAP_FIXED = 24,
};

#define BITMAP_ENTRY_RESERVED 0xff000000000001feULL

static int add_bitmap_entry(struct qcow2_count *ct, uint64_t entry)
{
	uint64_t host = entry & QCOW2_ENTRY_OFFSET;

	if (entry & BITMAP_ENTRY_RESERVED || !is_aligned(host, ct->layer->geom.cluster_size))
		ct->corruptions++;
	else if (host)
		return MIN(use_alone(ct, host, ct->layer->geom.cluster_size), 0);
	return 0;
}

static int add_bitmap(struct qcow2_count *ct, const unsigned char *fixed)
{
	uint64_t off = load_be64(fixed + BITMAP_TABLE_OFFSET);
	uint64_t len = load_be32(fixed + BITMAP_TABLE_SIZE) * 8ULL;
	int r;

	if (!len)
		return 0;
	if (len > BITMAP_TABLE_MAX) {
		ct->corruptions++;
		return 0;
	}
	r = use_alone(ct, off, len);
	if (!r)
		r = each_entry(ct, off, len, add_bitmap_entry);
	return MIN(r, 0);
}

static int add_bitmaps(struct qcow2_count *ct)
{
	const struct qcow2_header *h = &ct->layer->header;
	uint64_t pos = h->bitmaps_off, end = pos + h->bitmaps_len;
	unsigned char fixed[BITMAP_FIXED];
	uint32_t i;
	int r;

	if (!h->bitmaps)
		return 0;
	if (!h->bitmaps_len || h->bitmaps_len > BITMAP_DIRECTORY_MAX || h->bitmaps > BITMAPS_MAX) {
		ct->corruptions++;
		return 0;
	}
	r = use_alone(ct, pos, h->bitmaps_len);
	for (i = 0; !r && i < h->bitmaps; i++) {
		ssize_t n = range_inside(pos, sizeof(fixed), end)
				    ? file_pread(ct->layer->file, fixed, sizeof(fixed), pos)
				    : 0;

		if (n < 0)
			return n;
		if (n < BITMAP_FIXED) {
			ct->corruptions++;
			break;
		}
		r = add_bitmap(ct, fixed);
		pos = align_up(pos + BITMAP_FIXED + load_be16(fixed + BITMAP_NAME_LEN) +
				       load_be32(fixed + BITMAP_EXTRA_LEN),
			       8);
	}
	return MIN(r, 0);
}

/* --- L2 tables ------------------------------------------------------------------------------ */

static int by_host(const void *a, const void *b)
{
	const struct qcow2_table_use *x = a, *y = b;

	return x->host < y->host ? -1 : x->host > y->host;
}

/* One element a table instead of one an L1 entry. */
static void merge_tables(struct qcow2_count *ct)
{
	size_t i, n = 0;

	if (ct->tables)
		qsort(ct->table, ct->tables, sizeof(*ct->table), by_host);
	for (i = 0; i < ct->tables; i++) {
		if (n && ct->table[n - 1].host == ct->table[i].host) {
			ct->table[n - 1].uses++;
			ct->table[n - 1].active += ct->table[i].active;
		} else {
			ct->table[n++] = ct->table[i];
		}
	}
	ct->tables = n;
}

enum qcow2_kind qcow2_count_kind(const struct qcow2_layer *layer, uint64_t entry, uint64_t bitmap,
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

static void add_entry(struct qcow2_count *ct, const struct qcow2_table_use *t, uint64_t entry,
		      uint64_t bitmap)
{
	const struct qcow2_geom *g = &ct->layer->geom;
	uint64_t host = 0, len;
	enum qcow2_kind kind = qcow2_count_kind(ct->layer, entry, bitmap, &host);

	if (kind == QCOW2_KIND_BAD) {
		ct->corruptions++;
	} else if (kind == QCOW2_KIND_PACKED) {
		qcow2_packed_place(g, entry, &host, &len);
		if (use_weighed(ct, &ct->refs, host, len, t->uses))
			use_weighed(ct, &ct->packed, host, len, t->uses);
		ct->compressed_clusters += t->active;
	} else {
		host = entry & QCOW2_ENTRY_OFFSET; /* a zero cluster may keep one */
		if (host && !is_aligned(host, g->cluster_size))
			ct->corruptions++;
		else if (host)
			use_weighed(ct, &ct->refs, host, g->cluster_size, t->uses);
		ct->data_clusters += kind == QCOW2_KIND_DATA ? t->active : 0;
		ct->zero_clusters += kind == QCOW2_KIND_ZERO ? t->active : 0;
	}
}

static int add_table(struct qcow2_count *ct, const struct qcow2_table_use *t, unsigned char *buf)
{
	const struct qcow2_geom *g = &ct->layer->geom;
	ssize_t n = file_pread(ct->layer->file, buf, g->cluster_size, t->host);
	uint64_t i;

	if (n < 0)
		return n;
	/* no L1 has one table twice, and no table is cut short */
	if (!use_weighed(ct, &ct->refs, t->host, g->cluster_size, t->uses))
		return 0;
	if (t->active > 1 || t->uses > ct->maps || (uint64_t)n < g->cluster_size) {
		ct->corruptions++;
		return 0;
	}
	for (i = 0; i < g->cluster_size; i += g->entry_size) {
		uint64_t entry = load_be64(buf + i);
		uint64_t bitmap = g->entry_size == 16 ? load_be64(buf + i + 8) : 0;

		if (entry || bitmap)
			add_entry(ct, t, entry, bitmap);
	}
	return 0;
}

static int add_tables(struct qcow2_count *ct)
{
	_cleanup_(freep) unsigned char *buf = malloc(ct->layer->geom.cluster_size);
	int r = buf ? 0 : -ENOMEM;
	size_t i;

	merge_tables(ct);
	for (i = 0; !r && i < ct->tables; i++)
		r = add_table(ct, &ct->table[i], buf);
	return r;
}

/* --- too many users ------------------------------------------------------------------------- */

/* Metadata is alone; a table has no users but L1 entries; data has one a map, unless compressed. */
static void judge_users(struct qcow2_count *ct)
{
	unsigned bits = ct->layer->geom.cluster_bits;
	uint64_t c, next;
	size_t i;

	for (i = 0; i < ct->spans; i++)
		ct->corruptions += !qcow2_count_alone(ct, ct->span[i].off, ct->span[i].len);
	for (i = 0; i < ct->tables; i++)
		ct->corruptions +=
			qcow2_refs_get(&ct->refs, ct->table[i].host >> bits) != ct->table[i].uses;
	for (c = 0; c < ct->clusters; c = next) {
		next = MIN(align_down(c, QCOW2_REFS_CHUNK) + QCOW2_REFS_CHUNK, ct->clusters);
		for (; c < next && !qcow2_refs_none(&ct->refs, c); c++) {
			unsigned uses = qcow2_refs_get(&ct->refs, c);
			unsigned packed = qcow2_refs_get(&ct->packed, c);

			ct->corruptions += packed ? uses != packed : uses > ct->maps;
		}
	}
}

int qcow2_count_all(struct qcow2_count *ct, const struct qcow2_layer *layer, struct err *err)
{
	int r;

	memset(ct, 0, sizeof(*ct));
	ct->layer = layer;
	ct->clusters = div_up(layer->file_size, layer->geom.cluster_size);
	if (qcow2_refs_clear(&ct->refs, ct->clusters) ||
	    qcow2_refs_clear(&ct->packed, ct->clusters))
		return err_set(err, -ENOMEM, "no memory to count references");
	if ((r = use_alone(ct, 0, MIN(layer->geom.cluster_size, layer->file_size))) < 0 ||
	    (r = add_active_l1(ct)) || (r = add_snapshots(ct)) || (r = add_bitmaps(ct)) ||
	    (r = add_tables(ct)))
		return err_sys(err, r, "cannot read the tables");
	judge_users(ct);
	return 0;
}

void qcow2_count_deinit(struct qcow2_count *ct)
{
	qcow2_refs_deinit(&ct->refs);
	qcow2_refs_deinit(&ct->packed);
	free(ct->table);
	free(ct->span);
}
