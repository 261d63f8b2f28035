/*
 * The one bridge between nbd/ and qcow2/: serves an open image as an export.
 */
#ifndef NBD_EXPORT_QCOW2_H
#define NBD_EXPORT_QCOW2_H

#include "nbd/export.h"
#include "qcow2/qcow2.h"

/* For nbd_export_add(); the target is a `struct qcow2_image *`, which stays the caller's: after
 * nbd_export_remove() it is detached, ready for qcow2_finalize() and qcow2_close(). */
extern const struct nbd_export_ops nbd_export_qcow2_ops;

#endif
