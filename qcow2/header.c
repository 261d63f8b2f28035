#include "qcow2/header.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "qcow2/qcow2.h"

int qcow2_header_probe(const void *buf, size_t len, unsigned *cluster_bits, struct err *err)
{
	const unsigned char *b = buf;
	uint32_t version, bits;

	if (len < QCOW2_H_V2_LENGTH || load_be32(b) != QCOW2_MAGIC)
		return err_set(err, QCOW2_E_FORMAT, "not a qcow2 image");
	version = load_be32(b + QCOW2_H_VERSION);
	if (version != 2 && version != 3)
		return err_set(err, QCOW2_E_UNSUPPORTED, "qcow2 version %u is not known", version);
	bits = load_be32(b + QCOW2_H_CLUSTER_BITS);
	if (bits < 9 || bits > 21)
		return err_set(err, QCOW2_E_FORMAT, "cluster size 2^%u is outside 512 B..2 MiB",
			       bits);
	*cluster_bits = bits;
	return 0;
}

/* --- decode, one concern a function --------------------------------------------------------- */

static int decode_features(struct qcow2_header *h, const unsigned char *b, size_t len,
			   struct err *err)
{
	uint32_t header_length;

	if (h->version == 2) {
		h->refcount_order = 4;
		return 0;
	}
	if (len < QCOW2_H_V3_LENGTH)
		return err_set(err, QCOW2_E_FORMAT, "the header is cut short");
	h->incompatible = load_be64(b + QCOW2_H_INCOMPATIBLE);
	h->compatible = load_be64(b + QCOW2_H_COMPATIBLE);
	h->autoclear = load_be64(b + QCOW2_H_AUTOCLEAR);
	h->refcount_order = load_be32(b + QCOW2_H_REFCOUNT_ORDER);
	header_length = load_be32(b + QCOW2_H_HEADER_LENGTH);
	if (header_length < QCOW2_H_V3_LENGTH || header_length > len || header_length % 8)
		return err_set(err, QCOW2_E_FORMAT, "header length %u makes no sense",
			       header_length);
	if (h->refcount_order > 6)
		return err_set(err, QCOW2_E_FORMAT, "refcount width 2^%u is above 64 bits",
			       h->refcount_order);
	if (h->incompatible & QCOW2_INCOMPAT_COMPRESSION) {
		if (header_length <= QCOW2_H_COMPRESSION_TYPE)
			return err_set(err, QCOW2_E_FORMAT,
				       "a compression type is announced but absent");
		h->compression = b[QCOW2_H_COMPRESSION_TYPE];
		if (h->compression != QCOW2_COMPRESSION_ZSTD)
			return err_set(err, QCOW2_E_UNSUPPORTED, "compression type %u is not known",
				       h->compression);
	} else if (header_length > QCOW2_H_COMPRESSION_TYPE && b[QCOW2_H_COMPRESSION_TYPE]) {
		return err_set(err, QCOW2_E_FORMAT,
			       "a compression type is set but not announced as a feature");
	}
	return 0;
}

/* Extensions lie between the header and the backing name, or the end of the cluster. */
struct extension {
	uint64_t pos, end;
	uint32_t type, len;
};

static struct extension first_extension(const struct qcow2_header *h, const unsigned char *b,
					size_t len)
{
	uint64_t backing_off = load_be64(b + QCOW2_H_BACKING_OFFSET);

	return (struct extension){
		.pos = h->version == 2 ? QCOW2_H_V2_LENGTH : load_be32(b + QCOW2_H_HEADER_LENGTH),
		.end = backing_off && backing_off < len ? backing_off : len,
	};
}

/* Data of the next one; NULL: no more, or (*@runs_out) it is longer than the header. */
static const unsigned char *next_extension(struct extension *e, const unsigned char *b,
					   bool *runs_out)
{
	const unsigned char *data;

	if (e->pos > e->end || e->end - e->pos < 8)
		return NULL;
	e->type = load_be32(b + e->pos);
	e->len = load_be32(b + e->pos + 4);
	if (e->type == QCOW2_EXT_END)
		return NULL;
	*runs_out = e->len > e->end - e->pos - 8;
	if (*runs_out)
		return NULL;
	data = b + e->pos + 8;
	e->pos += 8 + align_up(e->len, 8);
	return data;
}

/* What the image itself calls incompatible feature @bit; "" when it does not say. */
static void feature_name(const struct qcow2_header *h, const unsigned char *b, size_t len,
			 unsigned bit, char name[QCOW2_FEATURE_NAME_SIZE])
{
	struct extension e = first_extension(h, b, len);
	const unsigned char *data;
	bool runs_out;
	uint32_t i;

	name[0] = 0;
	while ((data = next_extension(&e, b, &runs_out)))
		for (i = 0;
		     e.type == QCOW2_EXT_FEATURE_NAMES && i + QCOW2_FEATURE_NAME_SIZE <= e.len;
		     i += QCOW2_FEATURE_NAME_SIZE)
			if (data[i] == 0 && data[i + 1] == bit)
				snprintf(name, QCOW2_FEATURE_NAME_SIZE, "%.*s",
					 (int)QCOW2_FEATURE_NAME_SIZE - 2, data + i + 2);
}

static int check_features(const struct qcow2_header *h, const unsigned char *b, size_t len,
			  struct err *err)
{
	uint64_t unknown = h->incompatible & ~QCOW2_INCOMPAT_KNOWN;
	char name[QCOW2_FEATURE_NAME_SIZE];

	if (unknown) {
		feature_name(h, b, len, __builtin_ctzll(unknown), name);
		return err_set(
			err, QCOW2_E_UNSUPPORTED,
			"the image needs features this program does not know (bits 0x%llx%s%s)",
			(unsigned long long)unknown, name[0] ? ", among them: " : "", name);
	}
	if (h->incompatible & QCOW2_INCOMPAT_DATA_FILE)
		return err_set(err, QCOW2_E_UNSUPPORTED,
			       "images with an external data file are not supported");
	if (load_be32(b + QCOW2_H_CRYPT_METHOD))
		return err_set(err, QCOW2_E_UNSUPPORTED, "encrypted images are not supported");
	if ((h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2) && h->cluster_bits < 14)
		return err_set(err, QCOW2_E_FORMAT, "subclusters need clusters of at least 16 KiB");
	return 0;
}

/* [off, off + len) must be cluster-aligned and inside the file. */
static bool table_fits(const struct qcow2_header *h, uint64_t off, uint64_t len, uint64_t file_size)
{
	return is_aligned(off, 1ULL << h->cluster_bits) && range_inside(off, len, file_size);
}

static int decode_tables(struct qcow2_header *h, const unsigned char *b, uint64_t file_size,
			 struct err *err)
{
	unsigned entry_bits = h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2 ? 4 : 3;
	uint64_t covered_bits = h->cluster_bits + (h->cluster_bits - entry_bits), needed;

	h->size = load_be64(b + QCOW2_H_SIZE);
	h->l1_entries = load_be32(b + QCOW2_H_L1_SIZE);
	h->l1_off = load_be64(b + QCOW2_H_L1_OFFSET);
	h->reftable_off = load_be64(b + QCOW2_H_REFTABLE_OFFSET);
	h->reftable_clusters = load_be32(b + QCOW2_H_REFTABLE_CLUSTERS);
	h->snapshots = load_be32(b + QCOW2_H_SNAPSHOTS);
	h->snapshots_off = load_be64(b + QCOW2_H_SNAPSHOTS_OFFSET);
	if (h->size > QCOW2_SIZE_MAX)
		return err_set(err, QCOW2_E_UNSUPPORTED, "the disk is larger than 64 TiB");
	needed = div_up(h->size, 1ULL << covered_bits);
	if (h->l1_entries < needed || h->l1_entries * 8ULL > QCOW2_L1_BYTES_MAX)
		return err_set(err, QCOW2_E_FORMAT,
			       "an L1 table of %u entries cannot map %llu bytes", h->l1_entries,
			       (unsigned long long)h->size);
	if (h->l1_entries &&
	    (!h->l1_off || !table_fits(h, h->l1_off, h->l1_entries * 8ULL, file_size)))
		return err_set(err, QCOW2_E_CORRUPT, "the L1 table at %llu is outside the file",
			       (unsigned long long)h->l1_off);
	if ((uint64_t)h->reftable_clusters << h->cluster_bits > QCOW2_REFTABLE_BYTES_MAX ||
	    !table_fits(h, h->reftable_off, (uint64_t)h->reftable_clusters << h->cluster_bits,
			file_size))
		return err_set(err, QCOW2_E_CORRUPT,
			       "the refcount table at %llu is outside the file or too large",
			       (unsigned long long)h->reftable_off);
	return 0;
}

static int decode_extensions(struct qcow2_header *h, const unsigned char *b, size_t len,
			     struct err *err)
{
	struct extension e = first_extension(h, b, len);
	const unsigned char *data;
	bool runs_out = false;

	while ((data = next_extension(&e, b, &runs_out))) {
		if (e.type == QCOW2_EXT_BACKING_FORMAT) {
			if (e.len >= sizeof(h->backing_format))
				return err_set(err, QCOW2_E_FORMAT, "backing format name too long");
			memcpy(h->backing_format, data, e.len);
			h->backing_format[e.len] = 0;
		} else if (e.type == QCOW2_EXT_BITMAPS && e.len == QCOW2_EXT_BITMAPS_LENGTH &&
			   h->autoclear & QCOW2_AUTOCLEAR_BITMAPS) {
			h->bitmaps = load_be32(data);
			h->bitmaps_len = load_be64(data + 8);
			h->bitmaps_off = load_be64(data + 16);
		} else if (e.type == QCOW2_EXT_WHOLE && !e.len && e.end - e.pos >= 8 &&
			   load_be32(b + e.pos) == QCOW2_EXT_END) {
			h->whole_off = e.pos - 8;
		}
	}
	if (runs_out)
		return err_set(err, QCOW2_E_FORMAT,
			       "header extension 0x%08x runs out of the header", e.type);
	return 0;
}

static int decode_backing(struct qcow2_header *h, const unsigned char *b, size_t len,
			  uint64_t backing_off, struct err *err)
{
	uint32_t name_len = load_be32(b + QCOW2_H_BACKING_SIZE);

	if (!backing_off)
		return 0;
	if (!name_len || name_len > QCOW2_BACKING_NAME_MAX ||
	    !range_inside(backing_off, name_len, len))
		return err_set(err, QCOW2_E_FORMAT,
			       "the backing file name lies outside the first cluster");
	if (memchr(b + backing_off, 0, name_len))
		return err_set(err, QCOW2_E_FORMAT, "the backing file name holds a NUL byte");
	memcpy(h->backing, b + backing_off, name_len);
	h->backing[name_len] = 0;
	return 0;
}

int qcow2_header_decode(struct qcow2_header *h, const void *buf, size_t len, uint64_t file_size,
			struct err *err)
{
	const unsigned char *b = buf;
	uint64_t backing_off;
	int r;

	memset(h, 0, sizeof(*h));
	r = qcow2_header_probe(buf, len, &h->cluster_bits, err);
	if (r)
		return r;
	h->version = load_be32(b + QCOW2_H_VERSION);
	backing_off = load_be64(b + QCOW2_H_BACKING_OFFSET);
	if ((r = decode_features(h, b, len, err)) || (r = check_features(h, b, len, err)) ||
	    (r = decode_tables(h, b, file_size, err)) || (r = decode_extensions(h, b, len, err)))
		return r;
	return decode_backing(h, b, len, backing_off, err);
}

/* --- encode --------------------------------------------------------------------------------- */

/* Feature names let an older QEMU say what it misses instead of showing a bit number. */
static const struct {
	uint8_t type, bit; /* type 0: incompatible, 1: compatible */
	const char *name;
} feature_names[] = {
	{0, 0, "dirty bit"},	    {0, 1, "corrupt bit"},	   {0, 2, "external data file"},
	{0, 3, "compression type"}, {0, 4, "extended L2 entries"}, {1, 0, "lazy refcounts"},
};

static size_t put_extension(unsigned char *p, uint32_t type, const void *data, uint32_t len)
{
	store_be32(p, type);
	store_be32(p + 4, len);
	if (len)
		memcpy(p + 8, data, len);
	return 8 + align_up(len, 8);
}

static size_t put_feature_names(unsigned char *p)
{
	unsigned char table[ARRAY_SIZE(feature_names) * QCOW2_FEATURE_NAME_SIZE] = {0};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(feature_names); i++) {
		unsigned char *row = table + i * QCOW2_FEATURE_NAME_SIZE;

		row[0] = feature_names[i].type;
		row[1] = feature_names[i].bit;
		memcpy(row + 2, feature_names[i].name, strlen(feature_names[i].name));
	}
	return put_extension(p, QCOW2_EXT_FEATURE_NAMES, table, sizeof(table));
}

void qcow2_header_patch(const struct qcow2_header *h, unsigned char *b)
{
	store_be64(b + QCOW2_H_REFTABLE_OFFSET, h->reftable_off);
	store_be32(b + QCOW2_H_REFTABLE_CLUSTERS, h->reftable_clusters);
	if (h->version == 2)
		return;
	store_be64(b + QCOW2_H_INCOMPATIBLE, h->incompatible);
	store_be64(b + QCOW2_H_COMPATIBLE, h->compatible);
	store_be64(b + QCOW2_H_AUTOCLEAR, h->autoclear);
	store_be32(b + QCOW2_H_REFCOUNT_ORDER, h->refcount_order);
}

int qcow2_header_encode(const struct qcow2_header *h, unsigned char *b)
{
	size_t name_len = strlen(h->backing), pos = QCOW2_H_OUR_LENGTH;
	struct qcow2_header as_v3 = *h;

	as_v3.version = 3;
	store_be32(b + QCOW2_H_MAGIC, QCOW2_MAGIC);
	store_be32(b + QCOW2_H_VERSION, 3);
	store_be32(b + QCOW2_H_CLUSTER_BITS, h->cluster_bits);
	store_be64(b + QCOW2_H_SIZE, h->size);
	store_be32(b + QCOW2_H_L1_SIZE, h->l1_entries);
	store_be64(b + QCOW2_H_L1_OFFSET, h->l1_off);
	store_be32(b + QCOW2_H_HEADER_LENGTH, QCOW2_H_OUR_LENGTH);
	b[QCOW2_H_COMPRESSION_TYPE] = h->compression;
	qcow2_header_patch(&as_v3, b);
	if (h->backing_format[0])
		pos += put_extension(b + pos, QCOW2_EXT_BACKING_FORMAT, h->backing_format,
				     strlen(h->backing_format));
	pos += put_feature_names(b + pos);
	if (h->whole_off)
		pos += put_extension(b + pos, QCOW2_EXT_WHOLE, NULL, 0);
	pos += put_extension(b + pos, QCOW2_EXT_END, NULL, 0);
	if (!name_len)
		return 0;
	if (name_len > QCOW2_BACKING_NAME_MAX || pos + name_len > 1ULL << h->cluster_bits)
		return -ENAMETOOLONG;
	store_be64(b + QCOW2_H_BACKING_OFFSET, pos);
	store_be32(b + QCOW2_H_BACKING_SIZE, name_len);
	memcpy(b + pos, h->backing, name_len);
	return 0;
}
