/*
 * Takes every byte, reads as zeroes, answers at once.
 */
#ifndef NBD_EXPORT_NULL_H
#define NBD_EXPORT_NULL_H

#include "nbd/export.h"

/* The target of an export with nbd_export_null_ops; zeroed by its owner. */
struct nbd_null {
	struct ring *ring;
};

extern const struct nbd_export_ops nbd_export_null_ops;

#endif
