/*
 * The disk as the worker sees it: a socket to ask for blocks, and a bounded cache of what came.
 */
#ifndef FILES_WORKER_DISK_H
#define FILES_WORKER_DISK_H

#include <stddef.h>
#include <stdint.h>

struct disk;

struct disk *disk_new(int fd, uint64_t size); /* NULL: no memory */
uint64_t disk_size(const struct disk *disk);

/* All of [off, off + len), or -EIO: outside, or the hub could not read it. A socket that ends ends
 * the process: nobody is left to answer. */
int disk_read(struct disk *disk, uint64_t off, void *buf, size_t len);

#endif
