/*
 * The checksum sidecar of an image: one XXH3-128 per guest cluster of the whole point (what the
 * parent holds included), and a root over all of them. It catches bit rot and misplaced data, in
 * this image or in any below it; it is no proof against a forger.
 *
 * File layout, integers big-endian:
 *
 *     0   magic "SDSUMS01"          32  root: XXH3-128 of the array
 *     8   u32 log2(cluster size)    48  u64 size of the source, bytes
 *     12  u32 algorithm: 1          56  XXH3-64 of bytes 0..55
 *     16  u64 guest size, bytes     4096 the array: 16 bytes a cluster, in guest order
 *     24  u64 clusters                   all zero: the cluster reads as zeroes
 *
 * The checksum covers a whole cluster; behind the end of the disk it counts zeroes.
 */
#ifndef QCOW2_SUMS_H
#define QCOW2_SUMS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/file.h"

#define QCOW2_SUMS_HEADER 4096U
#define QCOW2_SUM_BYTES	  16U
#define QCOW2_SUMS_SUFFIX ".sums"

struct qcow2_sum {
	unsigned char b[QCOW2_SUM_BYTES]; /* canonical (big-endian) */
};

/* Of one whole cluster. Data that is all zero has the all-zero sum, whatever XXH3 says. */
void qcow2_sum_cluster(const void *data, size_t len, struct qcow2_sum *out);

static inline bool qcow2_sum_equal(const struct qcow2_sum *a, const struct qcow2_sum *b)
{
	return !__builtin_memcmp(a->b, b->b, sizeof(a->b));
}

bool qcow2_sum_is_zero(const struct qcow2_sum *sum);

/* "full-1.qcow2" -> "full-1.sums"; other names get the suffix appended. False: @out too small. */
bool qcow2_sums_path(const char *image, char *out, size_t out_size);

struct qcow2_sums {
	struct file *file; /* owned */
	unsigned cluster_bits;
	uint64_t size, clusters;
	uint64_t source_size; /* bytes: @size, or up to 511 less when the source had an odd one */
	struct qcow2_sum root;
};

/* Opens and validates a sidecar's header. Blocking. 0, -errno; -EBADMSG: not a sound sidecar. */
int qcow2_sums_open(struct qcow2_sums *sums, const char *path, struct err *err);
void qcow2_sums_close(struct qcow2_sums *sums); /* accepts a zeroed one */

/* Where cluster @i's sum is in the file. */
static inline uint64_t qcow2_sums_off(uint64_t i)
{
	return QCOW2_SUMS_HEADER + i * QCOW2_SUM_BYTES;
}

/* --- sidecars among themselves -------------------------------------------------------------- */

struct qcow2_sums_difference {
	uint64_t clusters; /* that differ */
	uint64_t first;	   /* guest offset of the first of them */
};

/* Compares two sidecars of images that should hold the same disk in clusters of one size, each
 * checked against its own root first. Blocking. 0: done, see @out. -ENOENT: one is missing.
 * -EBADMSG: one is damaged. -EINVAL: disks or clusters of different sizes. */
int qcow2_sums_compare(const char *a, const char *b, struct qcow2_sums_difference *out,
		       struct err *err);

/* How many bytes the clusters have that are not all zero: what the point takes when it stands
 * alone, uncompressed. Blocking. As above. */
int qcow2_sums_data(const char *path, uint64_t *bytes, struct err *err);

/* --- verify --------------------------------------------------------------------------------- */

struct qcow2_verify_ops {
	/* Guest range [off, off + len) is not what was stored: its bytes differ (@res 0) or cannot
	 * be read (-errno). Neighbouring ranges are joined. */
	void (*differs)(void *arg, uint64_t off, uint64_t len, int res);
	/* May be NULL; returns false to stop. */
	bool (*progress)(void *arg, uint64_t done, uint64_t total);
};

/*
 * Reads a point of any depth whole and compares every cluster with the image's sidecar. Blocking.
 * 0: done, *@differing clusters differ. -ENOENT: there is no sidecar. -ECANCELED: stopped.
 * -EBADMSG: the sidecar itself is damaged. Other -errno, QCOW2_E_*: the image cannot be opened.
 */
int qcow2_verify(const char *path, const char *repository, const struct qcow2_verify_ops *ops,
		 void *arg, uint64_t *differing, struct err *err);

#endif
