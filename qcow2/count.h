/*
 * Every reference in one image file, counted: what its header, active map, internal snapshots and
 * bitmaps use (the spec's "Snapshots" and "Bitmaps"). Refcount structures are not counted here:
 * they are what is compared with the result, or made from it.
 *
 * Whatever the bytes, every table is read once, however often it is referenced, and memory follows
 * the areas of the file that are in use. Blocking.
 */
#ifndef QCOW2_COUNT_H
#define QCOW2_COUNT_H

#include "qcow2/layer.h"
#include "qcow2/refs.h"

/* An L2 table. */
struct qcow2_table_use {
	uint64_t host;	 /* bytes */
	uint32_t uses;	 /* L1 entries that point to it, of all maps together */
	uint32_t active; /* of those: entries of the active L1 */
};

struct qcow2_span {
	uint64_t off, len; /* bytes */
};

struct qcow2_count {
	const struct qcow2_layer *layer;
	uint64_t clusters;	       /* in the file, the last may be cut short */
	struct qcow2_refs refs;	       /* by everything */
	struct qcow2_refs packed;      /* of those: by compressed clusters */
	struct qcow2_table_use *table; /* ascending by host */
	size_t tables, tables_max;
	struct qcow2_span *span; /* what must have one user: header, L1 tables, ... */
	size_t spans, spans_max;
	uint64_t maps;	      /* L1 tables: the most users a cluster may rightly have */
	uint64_t corruptions; /* references that cannot be, and clusters with too many users */
	uint64_t end_of_use;  /* bytes */
	uint64_t data_clusters, zero_clusters, compressed_clusters; /* of the active map */
};

/* Counts. 0, or -errno and @err; *@count is to be freed in any case. */
int qcow2_count_all(struct qcow2_count *count, const struct qcow2_layer *layer, struct err *err);
void qcow2_count_deinit(struct qcow2_count *count); /* accepts a zeroed one */

/* One more user of [off, off + len). False: outside the file, or too many to count; a corruption
 * then. */
bool qcow2_count_use(struct qcow2_count *count, uint64_t off, uint64_t len);

/* True when every cluster of [off, off + len) has exactly one user. */
bool qcow2_count_alone(const struct qcow2_count *count, uint64_t off, uint64_t len);

/* What one L2 entry maps, subclusters taken together. */
enum qcow2_kind qcow2_count_kind(const struct qcow2_layer *layer, uint64_t entry, uint64_t bitmap,
				 uint64_t *host);

#endif
