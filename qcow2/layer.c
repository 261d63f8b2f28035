#include "qcow2/layer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2/qcow2.h"

static int layer_read_header(struct qcow2_layer *layer, struct err *err)
{
	_cleanup_(freep) unsigned char *cluster = NULL;
	unsigned char probe[QCOW2_HEADER_PROBE];
	unsigned bits;
	ssize_t n = file_pread(layer->file, probe, sizeof(probe), 0);
	int r;

	if (n < 0)
		return err_sys(err, n, "cannot read the header");
	r = qcow2_header_probe(probe, n, &bits, err);
	if (r)
		return r;
	cluster = malloc(1ULL << bits);
	if (!cluster)
		return err_set(err, -ENOMEM, "no memory for the header");
	n = file_pread(layer->file, cluster, 1ULL << bits, 0);
	if (n < 0)
		return err_sys(err, n, "cannot read the header");
	return qcow2_header_decode(&layer->header, cluster, n, layer->file_size, err);
}

static int layer_read_l1(struct qcow2_layer *layer, struct err *err)
{
	size_t i, bytes = layer->header.l1_entries * sizeof(*layer->l1);
	ssize_t n;

	layer->l1 = calloc(layer->header.l1_entries + 1, sizeof(*layer->l1));
	if (!layer->l1)
		return err_set(err, -ENOMEM, "no memory for the L1 table");
	n = file_pread(layer->file, layer->l1, bytes, layer->header.l1_off);
	if (n < 0 || (size_t)n != bytes)
		return err_sys(err, n < 0 ? n : -EIO, "cannot read the L1 table");
	for (i = 0; i < layer->header.l1_entries; i++)
		layer->l1[i] = be64toh(layer->l1[i]);
	return 0;
}

int qcow2_layer_open(struct qcow2_layer **out, struct file *file, const char *path, struct err *err)
{
	_cleanup_(qcow2_layer_freep) struct qcow2_layer *layer = calloc(1, sizeof(*layer));
	int64_t size;
	int r;

	if (!layer) {
		file_close(file);
		return err_set(err, -ENOMEM, "no memory to open '%s'", path);
	}
	layer->file = file;
	layer->path = strdup(path);
	size = file_size(file);
	if (!layer->path || size < 0)
		return err_sys(err, size < 0 ? (int)size : -ENOMEM, "cannot open '%s'", path);
	layer->file_size = size;
	r = file_identity(file, &layer->dev, &layer->ino);
	if (r && r != -EOPNOTSUPP)
		return err_sys(err, r, "cannot open '%s'", path);
	if ((r = layer_read_header(layer, err)) || (r = layer_read_l1(layer, err)))
		return err_prefix(err, r, "'%s'", path);
	qcow2_geom_init(&layer->geom, layer->header.size, layer->header.cluster_bits,
			layer->header.incompatible & QCOW2_INCOMPAT_EXTENDED_L2);
	*out = steal(&layer);
	return 0;
}

void qcow2_layer_free(struct qcow2_layer *layer)
{
	if (!layer)
		return;
	file_close(layer->file);
	free(layer->path);
	free(layer->l1);
	free(layer);
}

int qcow2_layer_write_header(struct qcow2_layer *layer)
{
	unsigned char head[QCOW2_H_V3_LENGTH];
	size_t len = qcow2_header_length(&layer->header);
	ssize_t n = file_pread(layer->file, head, len, 0);
	int r;

	if (n != (ssize_t)len)
		return n < 0 ? n : -EIO;
	qcow2_header_patch(&layer->header, head);
	r = file_pwrite(layer->file, head, len, 0);
	return r ? r : file_datasync(layer->file);
}

int qcow2_layer_drop_whole(struct qcow2_layer *layer)
{
	unsigned char end[4];
	int r;

	if (!layer->header.whole_off)
		return 0;
	store_be32(end, QCOW2_EXT_END);
	r = file_pwrite(layer->file, end, sizeof(end), layer->header.whole_off);
	if (!r)
		r = file_datasync(layer->file);
	if (!r)
		layer->header.whole_off = 0;
	return r;
}

int qcow2_layer_l1_entry(const struct qcow2_layer *layer, uint64_t entry, uint64_t *off)
{
	*off = entry & QCOW2_ENTRY_OFFSET;
	if (entry & QCOW2_L1_RESERVED || !is_aligned(*off, layer->geom.cluster_size) ||
	    *off >= layer->file_size)
		return *off || entry & QCOW2_L1_RESERVED ? QCOW2_E_CORRUPT : 0;
	return 0;
}

int qcow2_layer_l2_table(const struct qcow2_layer *layer, uint64_t l1_index, uint64_t *off)
{
	return qcow2_layer_l1_entry(
		layer, l1_index < layer->header.l1_entries ? layer->l1[l1_index] : 0, off);
}

static enum qcow2_kind layer_data(const struct qcow2_layer *layer, uint64_t off, uint64_t *host)
{
	if (!off || !is_aligned(off, layer->geom.cluster_size) || off >= layer->file_size)
		return QCOW2_KIND_BAD;
	*host = off;
	return QCOW2_KIND_DATA;
}

static enum qcow2_kind layer_subcluster(const struct qcow2_layer *layer, uint64_t entry,
					uint64_t bitmap, unsigned sub, uint64_t *host)
{
	bool allocated = bitmap >> sub & 1, zero = bitmap >> (32 + sub) & 1;

	if (allocated && zero)
		return QCOW2_KIND_BAD;
	if (zero)
		return QCOW2_KIND_ZERO;
	if (!allocated)
		return QCOW2_KIND_NONE;
	return layer_data(layer, entry & QCOW2_ENTRY_OFFSET, host);
}

enum qcow2_kind qcow2_layer_entry(const struct qcow2_layer *layer, uint64_t entry, uint64_t bitmap,
				  unsigned sub, uint64_t *host)
{
	bool extended = layer->geom.entry_size == 16;

	if (entry & QCOW2_ENTRY_COMPRESSED) {
		*host = entry;
		return entry & QCOW2_ENTRY_COPIED || (extended && bitmap) ? QCOW2_KIND_BAD
									  : QCOW2_KIND_PACKED;
	}
	if (entry & QCOW2_L2_RESERVED)
		return QCOW2_KIND_BAD;
	if (extended)
		return entry & QCOW2_ENTRY_ZERO ? QCOW2_KIND_BAD
						: layer_subcluster(layer, entry, bitmap, sub, host);
	if (entry & QCOW2_ENTRY_ZERO)
		return layer->header.version >= 3 ? QCOW2_KIND_ZERO : QCOW2_KIND_BAD;
	if (!(entry & QCOW2_ENTRY_OFFSET))
		return QCOW2_KIND_NONE;
	return layer_data(layer, entry & QCOW2_ENTRY_OFFSET, host);
}
