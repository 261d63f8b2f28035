/*
 * A whole disk, front to back, as a reader of the chain sees it: for verify, checksums, conversion.
 */
#ifndef QCOW2_SCAN_H
#define QCOW2_SCAN_H

#include "qcow2/qcow2.h"

/* Pieces begin on this boundary, which is one of every cluster size; the last may be shorter. */
#define QCOW2_SCAN_PIECE QCOW2_CLUSTER_MAX

struct qcow2_scan_ops {
	/* @len bytes at guest offset @off, in ascending order without gaps. @data NULL: all zeroes
	 * (@len may then be any multiple of the piece). @res: 0, or the -errno with which reading
	 * the piece failed (@data NULL too). Returns 0 to go on; anything else ends the scan. */
	int (*piece)(void *arg, uint64_t off, const void *data, uint64_t len, int res);
};

/*
 * Reads [from, from + len) of the image at @path (@from a multiple of the piece) on a ring of its
 * own, several reads in flight. Blocking; allocates about 40 MiB. 0, -errno, QCOW2_E_*, or what
 * piece() returned.
 */
int qcow2_scan(const char *path, const char *repository, uint64_t from, uint64_t len,
	       const struct qcow2_scan_ops *ops, void *arg, struct err *err);

#endif
