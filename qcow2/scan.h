/*
 * A whole disk, front to back, as a reader of the chain sees it: for verify, checksums, conversion.
 */
#ifndef QCOW2_SCAN_H
#define QCOW2_SCAN_H

#include "qcow2/qcow2.h"

/* A piece never crosses this boundary, which is one of every cluster size, unless it is zeroes. */
#define QCOW2_SCAN_PIECE QCOW2_CLUSTER_MAX

struct qcow2_scan_ops {
	/* @len bytes at guest offset @off, in ascending order. @data NULL: all zeroes
	 * (@len may then be longer than a piece). @res: 0, or the -errno with which reading
	 * the piece failed (@data NULL too). Returns 0 to go on; anything else ends the scan. */
	int (*piece)(void *arg, uint64_t off, const void *data, uint64_t len, int res);
	/* Optional: only parts of [from, from + len) are wanted. Sets [*@from, *@to) to the next
	 * one, behind those before it and beginning at a cluster; 1, 0 when there are no more, or
	 * what is to end the scan. It is called ahead of the pieces. */
	int (*next)(void *arg, uint64_t *from, uint64_t *to);
};

/*
 * Reads [from, from + len) of the image at @path (@from where a cluster begins) on a ring of its
 * own, several reads in flight. Blocking; allocates about 40 MiB. 0, -errno, QCOW2_E_*, or what
 * piece() returned.
 */
int qcow2_scan(const char *path, const char *repository, uint64_t from, uint64_t len,
	       const struct qcow2_scan_ops *ops, void *arg, struct err *err);

#endif
