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
	uint16_t **chunk; /* [i] NULL: all of its clusters have one reference; or one that all
			   * share: none has a reference */
	uint64_t chunks;
	bool counting; /* what lies behind the last chunk has no reference, instead of one */
};

#define QCOW2_REFS_INIT ((struct qcow2_refs){0})

void qcow2_refs_deinit(struct qcow2_refs *refs);

/* Makes everything unreferenced: the start of a walk that counts, over @clusters as a rule. Takes
 * no memory for areas that stay so. 0 or -ENOMEM. */
int qcow2_refs_clear(struct qcow2_refs *refs, uint64_t clusters);

/* True when nothing in the chunk that holds @cluster has a reference; known without looking. */
bool qcow2_refs_none(const struct qcow2_refs *refs, uint64_t cluster);

uint16_t qcow2_refs_get(const struct qcow2_refs *refs, uint64_t cluster);

/* 0, or -ENOMEM, or -EOVERFLOW when the counter would leave 0..65535. */
int qcow2_refs_add(struct qcow2_refs *refs, uint64_t cluster, int delta);

/* The end of that walk: clusters from @clusters on have one reference. Frees chunks that say what
 * an absent chunk says. 0 or -ENOMEM. */
int qcow2_refs_compact(struct qcow2_refs *refs, uint64_t clusters);

#endif
