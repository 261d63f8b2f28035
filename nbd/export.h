/*
 * What a worker needs from whatever stands behind an export: a disk image, nothing at all
 * (export_null.c), or a test's own.
 *
 * All calls run on the one worker that owns the export, except where noted; no call blocks; no
 * done() runs from inside the call that started the operation. The request layer has validated
 * ranges, flags and writability before it calls.
 */
#ifndef NBD_EXPORT_H
#define NBD_EXPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/pool.h"
#include "base/ring.h"

/* What a worker lends to the exports it owns. */
struct nbd_worker_io {
	struct ring *ring;
	struct pool *batches; /* 2 MiB slots: write-behind */
	struct pool *bounces; /* 2 MiB slots: what write-behind is compared with */
};

/* Room inside every request slot for the export's own operation state, bytes. */
#define NBD_OP_SPACE 4096

/* As on the wire: base:allocation 1: hole, 2: reads as zero; sendense:received 1: received. */
struct nbd_extent {
	uint64_t len; /* bytes */
	uint32_t flags;
};

/* One running operation; embedded in the request. The caller sets the first part. */
struct nbd_io {
	uint64_t off, len;	    /* bytes */
	void *buf;		    /* READ: len bytes, FILE_ALIGN-aligned */
	struct nbd_extent *extents; /* EXTENTS: room for extent_max; extent_count is filled */
	unsigned extent_max, extent_count;
	void (*done)(struct nbd_io *io, int res); /* 0 or -errno */
	_Alignas(16) unsigned char op[NBD_OP_SPACE];
};

/* The operation whose `op` space starts at @op. */
static inline struct nbd_io *nbd_io_of(void *op)
{
	return (struct nbd_io *)((unsigned char *)op - offsetof(struct nbd_io, op));
}

struct nbd_export_ops {
	/* Called on the owning worker's thread before first and after last use. @target is what
	 * nbd_export_add() was given. attach: 0 or -errno + err. */
	int (*attach)(void *target, const struct nbd_worker_io *io, struct err *err);
	void (*detach)(void *target);

	/*
	 * A byte sink for WRITE payload as it arrives: takes up to @len bytes, returns how many
	 * (> 0); -EAGAIN: park @waiter with wait_room() and retry when woken; -errno: refused, and
	 * so is the rest of this request. Bytes taken count as written once the request is
	 * acknowledged; durable after flush. Room wakes every waiter that is parked, so that one
	 * that has gone away in the meantime takes nobody's turn.
	 */
	ssize_t (*write)(void *target, uint64_t off, const void *buf, size_t len);
	void (*wait_room)(void *target, struct pool_waiter *waiter);

	void (*read)(void *target, struct nbd_io *io);
	void (*zero)(void *target, struct nbd_io *io);	/* WRITE_ZEROES and TRIM */
	void (*flush)(void *target, struct nbd_io *io); /* also the last call before detach */
	/* What base:allocation says about [off, off + len), or about the front of it. */
	void (*extents)(void *target, struct nbd_io *io);

	/* Optional: the export has sendense:received, and this is what it says, in the same way.
	 * What is called received is on the disk when done() runs. Never called on a read-only
	 * export. */
	void (*received)(void *target, struct nbd_io *io);

	/* Optional. The data will be thrown away: what is running ends early, a flush merely waits
	 * for it. Without this, an abandoned export is detached without a flush. */
	void (*abandon)(void *target);
};

#endif
