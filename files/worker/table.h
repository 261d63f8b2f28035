/*
 * Partition tables: GPT (UEFI 2.10, 5.3), MBR with logical partitions, or none.
 */
#ifndef FILES_WORKER_TABLE_H
#define FILES_WORKER_TABLE_H

#include "files/worker/fs.h"

struct table {
	char kind[8]; /* "gpt", "mbr", "none" */
	unsigned count;
	struct proto_partition parts[FILES_PARTITIONS_MAX]; /* number, off, size, label */
};

/* 0, or -EIO: the disk cannot be read. Entries that lie outside the disk are left out. */
int table_read(struct disk *disk, struct table *out);

#endif
