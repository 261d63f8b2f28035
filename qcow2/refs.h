/*
 * How often each host cluster of the image being written is referenced: the refcounts that
 * qcow2_finalize() puts on disk. While an image only grows, every cluster below its end has exactly
 * one reference, so a chunk of counters exists only where something else is true; a stream of any
 * length costs no memory here.
 */
#ifndef QCOW2_REFS_H
#define QCOW2_REFS_H

#include <stdbool.h>
#include <stdint.h>

#define QCOW2_REFS_CHUNK 32768U /* counters a chunk holds */

struct qcow2_refs {
	uint16_t **chunk; /* [i] NULL: all of its clusters have one reference */
	uint64_t chunks;
};

#define QCOW2_REFS_INIT ((struct qcow2_refs){0})

void qcow2_refs_deinit(struct qcow2_refs *refs);

/* Makes [0, clusters) explicit and unreferenced: the start of a walk that counts. 0 or -ENOMEM. */
int qcow2_refs_clear(struct qcow2_refs *refs, uint64_t clusters);

uint16_t qcow2_refs_get(const struct qcow2_refs *refs, uint64_t cluster);

/* 0, or -ENOMEM, or -EOVERFLOW when the counter would leave 0..65535. */
int qcow2_refs_add(struct qcow2_refs *refs, uint64_t cluster, int delta);

/* Frees chunks that say what an absent chunk says, for clusters below @clusters. */
void qcow2_refs_compact(struct qcow2_refs *refs, uint64_t clusters);

#endif
