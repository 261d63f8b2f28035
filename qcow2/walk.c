/*
 * The whole L1/L2 tree of one file, in guest order, blocking. Whatever the bytes, the walk follows
 * only tables that lie cluster-aligned inside the file, one cluster of memory at a time.
 */
#include "base/cleanup.h"
#include "qcow2/image.h"

static int walk_table(const struct qcow2_walk *walk, uint64_t l1_index, uint64_t host,
		      unsigned char *buf)
{
	const struct qcow2_geom *g = &walk->layer->geom;
	uint64_t per_table = 1ULL << g->l2_bits, i;
	ssize_t n = file_pread(walk->layer->file, buf, g->cluster_size, host);
	int r;

	if (n < 0)
		return n;
	if ((uint64_t)n < g->cluster_size)
		return walk->bad(walk->arg, l1_index, host);
	r = walk->table(walk->arg, l1_index, host);
	for (i = 0; !r && i < per_table; i++) {
		uint64_t entry = load_be64(buf + i * g->entry_size);
		uint64_t bitmap = g->entry_size == 16 ? load_be64(buf + i * 16 + 8) : 0;

		if (entry || bitmap)
			r = walk->entry(walk->arg, l1_index * per_table + i, entry, bitmap);
	}
	return r;
}

int qcow2_walk(const struct qcow2_walk *walk)
{
	const struct qcow2_layer *layer = walk->layer;
	_cleanup_(freep) unsigned char *buf = NULL;
	uint64_t i, host;
	int r = 0;

	buf = aligned_alloc(FILE_ALIGN, MAX(layer->geom.cluster_size, (uint64_t)FILE_ALIGN));
	if (!buf)
		return -ENOMEM;
	for (i = 0; !r && i < layer->header.l1_entries; i++) {
		if (qcow2_layer_l2_table(layer, i, &host))
			r = walk->bad(walk->arg, i, host);
		else if (host)
			r = walk_table(walk, i, host, buf);
	}
	return r;
}
