/*
 * Offline repair of one image file: refcounts and COPIED flags made from what the tables reference.
 */
#ifndef QCOW2_REPAIR_H
#define QCOW2_REPAIR_H

#include "qcow2/layer.h"
#include "qcow2/refs.h"

/*
 * Rewrites the refcounts of the image at @path from its tables, its snapshots and bitmaps, sets
 * COPIED flags to match, gives the space behind the end of use back, clears the dirty bit. Guest
 * data is not touched, and neither is an image with references that cannot be (QCOW2_E_CORRUPT): a
 * check says which it is. Takes the writer's lock. A crash in between leaves an image that reads
 * the same and can be repaired again. Blocking. 0, -errno, QCOW2_E_*.
 */
int qcow2_repair(const char *path, struct err *err);

/* The same of @file, which is taken over; @path is for messages. */
int qcow2_repair_file(struct file *file, const char *path, struct err *err);

/*
 * Makes the COPIED flags of the active L1 and of its L2 tables say what @refs says. Writes what
 * changes, does not sync. Every table must be in the L1 once. 0 or -errno.
 */
int qcow2_fix_copied(struct qcow2_layer *layer, const struct qcow2_refs *refs);

#endif
