/*
 * The header of a qcow2 image: bytes to struct and back. Pure functions, no I/O.
 */
#ifndef QCOW2_HEADER_H
#define QCOW2_HEADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "qcow2/format.h"

struct qcow2_header {
	unsigned version; /* 2 or 3 */
	unsigned cluster_bits;
	uint64_t size; /* guest bytes */
	uint32_t l1_entries;
	uint64_t l1_off;
	uint64_t reftable_off;
	uint32_t reftable_clusters;
	uint32_t snapshots;
	uint64_t snapshots_off; /* not validated, like the next three: only a check follows them */
	uint32_t bitmaps;	/* 0 also when they are not kept up to date */
	uint64_t bitmaps_off, bitmaps_len;	      /* their directory, bytes */
	uint64_t incompatible, compatible, autoclear; /* QCOW2_INCOMPAT_*, QCOW2_COMPAT_* */
	unsigned refcount_order;		      /* refcounts are 1 << order bits */
	unsigned compression;			      /* QCOW2_COMPRESSION_* */
	char backing[QCOW2_BACKING_NAME_MAX + 1];     /* "": none */
	char backing_format[16];		      /* "": not said */
	/* Where the last extension, an empty one, says what COPIED means (received.c); 0: none.
	 * Zeroes in place of its type end the list before it. */
	uint64_t whole_off;
};

/* The bytes needed to decode a header: one cluster, once its size is known. */
#define QCOW2_HEADER_PROBE 512

/* Reads cluster_bits out of the first QCOW2_HEADER_PROBE bytes. 0 or QCOW2_E_FORMAT. */
int qcow2_header_probe(const void *buf, size_t len, unsigned *cluster_bits, struct err *err);

/*
 * Decodes and validates a header. @buf holds the first @len bytes of the file (a whole cluster, or
 * the whole file where that is shorter), @file_size bounds every offset in it.
 * 0, QCOW2_E_FORMAT, QCOW2_E_UNSUPPORTED or QCOW2_E_CORRUPT.
 */
int qcow2_header_decode(struct qcow2_header *h, const void *buf, size_t len, uint64_t file_size,
			struct err *err);

/* Encodes a version 3 header with its extensions (the one of @whole_off where that is not 0) and
 * backing name into @cluster, one zeroed cluster. -ENAMETOOLONG when the backing name does not fit.
 */
int qcow2_header_encode(const struct qcow2_header *h, unsigned char *cluster);

/* Overwrites only the fields that change while an image is written (reftable, feature bits) in the
 * first qcow2_header_length() bytes of an encoded header. */
void qcow2_header_patch(const struct qcow2_header *h, unsigned char *bytes);

/* The bytes every header of this version has. */
static inline size_t qcow2_header_length(const struct qcow2_header *h)
{
	return h->version == 2 ? QCOW2_H_V2_LENGTH : QCOW2_H_V3_LENGTH;
}

#endif
