/*
 * Offline views and copies of a point: what its chain consists of, and the whole of it as one
 * stand-alone image or raw file. Blocking.
 */
#ifndef QCOW2_CONVERT_H
#define QCOW2_CONVERT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct qcow2_file_info {
	char *path;    /* owned; relative to the repository */
	char *backing; /* owned; as the header has it, NULL: none */
	unsigned version;
	uint64_t size;	       /* guest bytes */
	uint64_t file_size;    /* bytes */
	uint32_t cluster_size; /* bytes */
	unsigned refcount_bits;
	uint32_t snapshots;
	bool dirty, corrupt, extended_l2, zstd;
};

/* The files of the chain of @path, the image itself first, in a malloc()ed array to be freed with
 * qcow2_describe_free(). 0, -errno, QCOW2_E_*. */
int qcow2_describe(const char *path, const char *repository, struct qcow2_file_info **out,
		   unsigned *count, struct err *err);
void qcow2_describe_free(struct qcow2_file_info *files, unsigned count);

struct qcow2_convert_opts {
	bool raw;	       /* a sparse raw file instead of a qcow2 image */
	uint32_t cluster_size; /* qcow2; 0: chosen by size */
	bool sums;	       /* qcow2: write the checksum sidecar too */
	int zstd_level;	       /* qcow2: compress its clusters, 1..19; 0: store them plain */
	/* May be NULL; returns false to stop. */
	bool (*progress)(void *arg, uint64_t done, uint64_t total);
	void *arg;
};

/*
 * Copies the guest disk at @src, its chain merged, into the new file @dst (it must not exist).
 * 0, -errno, QCOW2_E_* (QCOW2_E_CORRUPT: some of it cannot be read); -ECANCELED: stopped. On
 * failure @dst is removed.
 */
int qcow2_convert(const char *src, const char *repository, const char *dst,
		  const struct qcow2_convert_opts *opts, struct err *err);

#endif
