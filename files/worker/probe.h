/*
 * What lies on a stretch of disk, told by the first bytes of it.
 */
#ifndef FILES_WORKER_PROBE_H
#define FILES_WORKER_PROBE_H

#include <stdbool.h>

#include "files/worker/fs.h"

/* Fills type, label (if it is empty, or the file system has one), readable, needs_recovery and note
 * of @part from what lies at part->off. */
void probe(struct disk *disk, struct proto_partition *part);

/* True when there is something that probe() has a name for and that is no partition table. */
bool probe_known(struct disk *disk, uint64_t off, uint64_t size);

/* How to read what probe() said is readable; NULL: it is not. */
const struct fs_ops *probe_ops(const struct proto_partition *part);

#endif
