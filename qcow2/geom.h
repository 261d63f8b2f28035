/*
 * Shifts, masks and counts of one image, computed once and constant from then on.
 */
#ifndef QCOW2_GEOM_H
#define QCOW2_GEOM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "qcow2/format.h"

struct qcow2_geom {
	uint64_t size; /* guest bytes */
	unsigned cluster_bits;
	uint64_t cluster_size;
	unsigned entry_size; /* bytes of an L2 entry: 8, or 16 with subclusters */
	unsigned l2_bits;    /* log2 of entries in an L2 table */
	uint64_t l1_entries; /* needed for @size */
	uint64_t clusters;   /* guest clusters, the last may be partial */
	unsigned unit_bits;  /* log2 of the smallest piece mapped alone: cluster or subcluster */
};

static inline void qcow2_geom_init(struct qcow2_geom *g, uint64_t size, unsigned cluster_bits,
				   bool extended_l2)
{
	g->size = size;
	g->cluster_bits = cluster_bits;
	g->cluster_size = 1ULL << cluster_bits;
	g->entry_size = extended_l2 ? 16 : 8;
	g->l2_bits = cluster_bits - (extended_l2 ? 4 : 3);
	g->clusters = div_up(size, g->cluster_size);
	g->l1_entries = div_up(size, 1ULL << (cluster_bits + g->l2_bits));
	g->unit_bits = extended_l2 ? cluster_bits - 5 : cluster_bits;
}

/* Index into L1 of the table that maps @guest_off. */
static inline uint64_t qcow2_l1_index(const struct qcow2_geom *g, uint64_t guest_off)
{
	return guest_off >> (g->cluster_bits + g->l2_bits);
}

/* Index into that L2 table. */
static inline uint64_t qcow2_l2_index(const struct qcow2_geom *g, uint64_t guest_off)
{
	return (guest_off >> g->cluster_bits) & ((1ULL << g->l2_bits) - 1);
}

/* A compressed cluster's place: @entry has QCOW2_ENTRY_COMPRESSED. *@len counts to the end of its
 * last 512-byte sector, so it may be more than the stream. */
static inline void qcow2_packed_place(const struct qcow2_geom *g, uint64_t entry,
				      uint64_t *host_off, uint64_t *len)
{
	unsigned shift = 62 - (g->cluster_bits - 8);
	uint64_t sectors = ((entry >> shift) & ((1ULL << (g->cluster_bits - 8)) - 1)) + 1;

	*host_off = entry & ((1ULL << shift) - 1);
	*len = sectors * 512 - (*host_off & 511);
}

#endif
