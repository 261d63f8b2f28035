/*
 * One open image file of a chain: the file, its validated header and geometry, its L1 table.
 * Immutable once open (the writable image keeps its own, growing L1).
 */
#ifndef QCOW2_LAYER_H
#define QCOW2_LAYER_H

#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "qcow2/geom.h"
#include "qcow2/header.h"

struct qcow2_layer {
	struct file *file; /* owned */
	char *path;	   /* owned; relative to the repository, or as it was opened */
	struct qcow2_header header;
	struct qcow2_geom geom;
	uint64_t file_size;
	uint64_t dev, ino; /* which file it is, whatever its name; 0, 0: not a plain file */
	uint64_t *l1;	   /* owned; header.l1_entries values in host byte order */
};

/* Takes @file over, also on failure. Blocking. 0, -errno, QCOW2_E_*. */
int qcow2_layer_open(struct qcow2_layer **out, struct file *file, const char *path,
		     struct err *err);
void qcow2_layer_free(struct qcow2_layer *layer); /* accepts NULL */

DEFINE_CLEANUP(struct qcow2_layer *, qcow2_layer_free)

/* Puts the fields of layer->header that change while an image is written (qcow2_header_patch())
 * into the file and syncs it. Blocking. 0 or -errno. */
int qcow2_layer_write_header(struct qcow2_layer *layer);

/* Takes QCOW2_EXT_WHOLE out of the file, if it is there, and syncs. Blocking. 0 or -errno. */
int qcow2_layer_drop_whole(struct qcow2_layer *layer);

/* What the L1 entry @entry of any L1 table in this file points to, as qcow2_layer_l2_table(). */
int qcow2_layer_l1_entry(const struct qcow2_layer *layer, uint64_t entry, uint64_t *off);

/* Where the entry at @l1_index points: 0 for no table, or the table's host offset in *@off.
 * QCOW2_E_CORRUPT: reserved bits, misaligned, or outside the file. */
int qcow2_layer_l2_table(const struct qcow2_layer *layer, uint64_t l1_index, uint64_t *off);

enum qcow2_kind {
	QCOW2_KIND_NONE,   /* nothing here: look at the layer below */
	QCOW2_KIND_ZERO,   /* reads as zeroes */
	QCOW2_KIND_DATA,   /* at a host offset */
	QCOW2_KIND_PACKED, /* compressed cluster */
	QCOW2_KIND_BAD,	   /* the entry is damaged: reading it is an I/O error */
};

/*
 * What an L2 entry (@entry, and @bitmap where subclusters are on) says about subcluster @sub (0
 * without subclusters). *@host is set for DATA: offset of the cluster; and for PACKED: the entry.
 * Never looks at more than the values given: any bytes are safe.
 */
enum qcow2_kind qcow2_layer_entry(const struct qcow2_layer *layer, uint64_t entry, uint64_t bitmap,
				  unsigned sub, uint64_t *host);

#endif
