/*
 * A file system as the worker knows it. Nodes are numbers of the file system's own (inodes, MFT
 * entries). Any bytes on the disk are to end in a result, never in a guess: what is unknown is
 * FILES_E_UNSUPPORTED, what makes no sense FILES_E_DAMAGED. One thread.
 */
#ifndef FILES_WORKER_FS_H
#define FILES_WORKER_FS_H

#include "base/err.h"
#include "files/files.h"
#include "files/proto.h"
#include "files/worker/disk.h"

struct fs;
struct fs_file;

/* An entry of a folder: its raw name and node. Not 0 ends the listing. */
typedef int (*fs_each)(void *arg, const char *name, size_t len, uint64_t node);

struct fs_ops {
	/* Partitions of the type given by @type (probe.h) that lie at [off, off + size). */
	int (*open)(struct fs **out, struct disk *disk, const struct proto_partition *part,
		    struct err *err);
	uint64_t (*root)(const struct fs *fs);
	/* FILES_E_NOT_FOUND: @dir has none of that name. @dir is known to be a folder. */
	int (*lookup)(struct fs *fs, uint64_t dir, const char *name, size_t len, uint64_t *node,
		      struct err *err);
	int (*stat)(struct fs *fs, uint64_t node, struct proto_entry *out, struct err *err);
	/* Without "." and "..", and without what is deleted. */
	int (*list)(struct fs *fs, uint64_t dir, fs_each each, void *arg, struct err *err);
	/* *@len: in the room, out the bytes. */
	int (*readlink)(struct fs *fs, uint64_t node, char *buf, size_t *len, struct err *err);
	/* A regular file. */
	int (*open_file)(struct fs *fs, uint64_t node, struct fs_file **out, struct err *err);
	/* All of [off, off + len), which lies in the file. */
	int (*read)(struct fs *fs, struct fs_file *file, uint64_t off, void *buf, size_t len,
		    struct err *err);
	void (*close_file)(struct fs *fs, struct fs_file *file);
};

extern const struct fs_ops fs_ext, fs_tsk;

#endif
