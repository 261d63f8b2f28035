/*
 * The I/O seam: all a disk image needs from a file, so that tests can stand a failing or lossy file
 * in its place.
 *
 * Two faces. Asynchronous: `struct file_op`, embedded in whoever waits, submitted to the ring the
 * file is bound to; used by the data path. Blocking: file_pread() and friends, any thread, for the
 * cold path (open, create, finalize, check). A file has one user thread at a time.
 *
 * Partial transfers exist in this module only: a write either transfers all of its bytes or fails,
 * a read is short at the end of the file and nowhere else.
 */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/ring.h"

/* Buffers, offsets and lengths aligned to this can be transferred past the page cache. */
#define FILE_ALIGN 4096

enum file_op_kind {
	FILE_OP_READ,	  /* buf, len, off; res = bytes read, < len at the end of the file */
	FILE_OP_WRITE,	  /* buf, len, off; res = len */
	FILE_OP_DATASYNC, /* res = 0 */
	FILE_OP_ALLOCATE, /* off, len: space for a range, zero-filled, extends the file; res = 0 */
	FILE_OP_PUNCH,	  /* off, len: give the space of a range back, reads as zeroes; res = 0 */
};

struct file_op {
	/* set by the caller; buf stays the caller's and untouched until done */
	enum file_op_kind kind;
	bool cached; /* READ: through the page cache even when aligned (metadata, read again soon)
		      */
	void *buf;
	size_t len;
	uint64_t off;
	void (*done)(struct file_op *op, int res); /* @res as above, or -errno */
	/* the file's own */
	struct file *file;
	struct ring_op ring;
	size_t moved;
};

struct file;

struct file_ops {
	void (*submit)(struct file *file, struct file_op *op);
	ssize_t (*pread)(struct file *file, void *buf, size_t len, uint64_t off);
	int (*pwrite)(struct file *file, const void *buf, size_t len, uint64_t off);
	int (*datasync)(struct file *file);
	int (*truncate)(struct file *file, uint64_t size);
	int (*punch)(struct file *file, uint64_t off, uint64_t len);
	int64_t (*size)(struct file *file);
	void (*close)(struct file *file);
};

/* Implementations embed this as their first member. */
struct file {
	const struct file_ops *ops;
	struct ring *ring; /* set by file_bind(); NULL: blocking calls only */
};

enum {
	FILE_RDONLY = 0,
	FILE_RDWR = 1 << 0,
	FILE_CREATE = 1 << 1,	/* must not exist yet (O_EXCL); mode 0600 */
	FILE_BUFFERED = 1 << 2, /* never past the page cache */
	FILE_PATIENT = 1 << 3,	/* with FILE_RDWR: wait up to three seconds for the lock */
};

/*
 * Opens a regular file. FILE_RDWR takes an exclusive open-file-description lock on the whole file,
 * so that a second writer, and QEMU, are refused while we write; readers take none.
 * A file system without O_DIRECT is used through the page cache.
 * -EWOULDBLOCK: another process has the file open for writing. The lock of a killed one stays until
 * the kernel has ended the writes it had under way, which may be after its parent has heard of its
 * end: who comes at once is FILE_PATIENT. -EINVAL: not a regular file.
 */
int file_open(struct file **out, const char *path, unsigned flags, struct err *err);

/* As file_open(), @path below @dirfd only: no absolute path, no `..` out of it, no link out of it.
 */
int file_open_beneath(struct file **out, int dirfd, const char *path, unsigned flags,
		      struct err *err);

void file_close(struct file *file); /* accepts NULL; no operation may be pending */

/* Gives up the lock of FILE_RDWR early: readers, QEMU among them, may open the file now. */
void file_unlock(struct file *file);

/* Device and inode, to recognise the same file under two names. */
int file_identity(struct file *file, uint64_t *dev, uint64_t *ino);

static inline void file_bind(struct file *file, struct ring *ring)
{
	file->ring = ring;
}

static inline void file_submit(struct file *file, struct file_op *op)
{
	op->file = file;
	op->moved = 0;
	file->ops->submit(file, op);
}

/* Blocking. Bytes read (short at the end of the file only), or -errno. */
static inline ssize_t file_pread(struct file *file, void *buf, size_t len, uint64_t off)
{
	return file->ops->pread(file, buf, len, off);
}

/* Blocking; 0 or -errno. */
static inline int file_pwrite(struct file *file, const void *buf, size_t len, uint64_t off)
{
	return file->ops->pwrite(file, buf, len, off);
}

static inline int file_datasync(struct file *file)
{
	return file->ops->datasync(file);
}

static inline int file_truncate(struct file *file, uint64_t size)
{
	return file->ops->truncate(file, size);
}

static inline int file_punch(struct file *file, uint64_t off, uint64_t len)
{
	return file->ops->punch(file, off, len);
}

static inline int64_t file_size(struct file *file)
{
	return file->ops->size(file);
}

/* fsync() of the folder that holds @path, so that a create or rename in it survives a power cut. */
int file_sync_dir_of(const char *path);

#endif
