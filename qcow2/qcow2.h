/*
 * Standard qcow2 images, read and written natively. The format is QEMU's docs/interop/qcow2.
 *
 * An image is opened together with its backing chain. It belongs to one thread at a time: the
 * thread that opened it may use the blocking calls; qcow2_attach() hands it to a ring's thread,
 * which then alone may call the data path; qcow2_detach() gives it back. Nothing in here locks.
 *
 *     create -> open -> attach -> write/zero/flush/read/extents ... -> flush -> detach
 *            -> finalize -> close
 *
 * Crash promise. After a crash or power cut at any instant, an image that was being written opens
 * again (qcow2_open() repairs it when writable, qcow2_check() with repair otherwise) and holds:
 *   - everything a completed qcow2_flush() covered, unless overwritten or zeroed since;
 *   - for anything newer, per cluster, either the old or the new content or a mix of both where one
 *     cluster was being overwritten in place, as with a disk; never data of another place, never
 *     stale data of an earlier use;
 *   - at most unreferenced clusters (leaks), which the repair gives back.
 * Until qcow2_finalize() the header carries the `dirty` bit: refcounts are not on disk yet.
 *
 * Write-behind. qcow2_write() returns when the bytes are in the image's bounded memory. A failure
 * to store them later is latched: every following write, zero, read, flush and finalize fails with
 * it.
 */
#ifndef QCOW2_QCOW2_H
#define QCOW2_QCOW2_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/file.h"
#include "base/list.h"
#include "base/pool.h"
#include "base/ring.h"

struct qcow2_image;
struct qcow2_layer;

/* Named conditions (positive results). The err text says where and what. */
enum {
	QCOW2_E_FORMAT = 1, /* not a qcow2 image, or its header makes no sense */
	QCOW2_E_UNSUPPORTED =
		2,	     /* a feature we refuse by name: encryption, external data file, ... */
	QCOW2_E_CORRUPT = 3, /* metadata points outside the file, onto itself, or misaligned */
	QCOW2_E_CHAIN = 4,   /* a backing file is missing, outside the repository, or a cycle */
};

#define QCOW2_CLUSTER_MIN     4096U
#define QCOW2_CLUSTER_MAX     (2U << 20)
#define QCOW2_CLUSTER_DEFAULT 65536U
#define QCOW2_SIZE_MAX	      (64ULL << 40)
#define QCOW2_CHAIN_MAX	      1024 /* images in a chain */

struct qcow2_create_opts {
	uint64_t size;	       /* bytes; rounded up to 512 by the format */
	uint32_t cluster_size; /* bytes, a power of two; 0: chosen by size */
	const char *backing;   /* name as the header stores it, relative to the image; NULL: none */
	bool zstd;	       /* compressed clusters will be zstd streams (QEMU 5.1 reads them) */
};

/*
 * Makes a new, empty image file (it must not exist) and syncs it. The header is marked dirty: the
 * image is being written. Blocking. 0, -errno, QCOW2_E_*; on failure no file is left behind.
 */
int qcow2_create(const char *path, const struct qcow2_create_opts *opts, struct err *err);

/* "none" (or empty), "zstd", "zstd:LEVEL" with LEVEL 1..19: *@level is 0 for none. False: other
 * text. */
bool qcow2_parse_compression(const char *text, int *level);

/* The cluster size qcow2_create() picks for a disk of @size bytes. */
uint32_t qcow2_choose_cluster_size(uint64_t size);

struct qcow2_open_opts {
	bool writable;
	/* Folder the whole chain must stay in; NULL: the image's own folder. */
	const char *repository;
	/* Writable only: read the parent when a whole cluster arrives and do not store what equals
	 * it. */
	bool suppress_unchanged;
	/* Writable only: keep checksums; qcow2_finalize() writes them to the image's sidecar
	 * (qcow2/sums.h), and suppression asks the parent's before it reads the parent. */
	bool sums;
	/* With @sums: the size of the source, if that is no multiple of 512 as every disk's is; the
	 * sidecar remembers it. 0: as the sidecar before (its own, the parent's) says, or the
	 * disk's size. */
	uint64_t source_size;
	/* Writable only: compress new clusters with zstd at this level (1..19), on threads of the
	 * image's own; 0: store them plain. Needs an image created with `zstd`. */
	int zstd_level;
	/* Puts another file in front of the image's own (not its parents'), taking it over: where
	 * tests make I/O fail. NULL: none. */
	struct file *(*wrap_file)(struct file *file, void *arg);
	void *wrap_arg;
};

/*
 * Opens an image and validates its whole chain. Writable: takes the lock against a second writer
 * (waiting at most three seconds for one that was just killed) and repairs what a crash left
 * (leaks, refcounts); refuses internal snapshots. Blocking. 0, -errno, QCOW2_E_*.
 */
int qcow2_open(struct qcow2_image **out, const char *path, const struct qcow2_open_opts *opts,
	       struct err *err);

/* Detached images only. Does not flush or finalize: what was not flushed may be lost. */
void qcow2_close(struct qcow2_image *img); /* accepts NULL */

struct qcow2_info {
	uint64_t size;	       /* virtual size, bytes */
	uint32_t cluster_size; /* bytes */
	unsigned depth;	       /* images in the chain, this one included */
	bool dirty;	       /* marked as being written, when it was opened */
	bool writable;
};

void qcow2_get_info(const struct qcow2_image *img, struct qcow2_info *info);

/* Byte counters since open; any thread may read them while the image is in use. */
struct qcow2_stats {
	uint64_t received;  /* payload of writes and lengths of zero requests */
	uint64_t zero;	    /* of those: stored as zeroes, without data */
	uint64_t unchanged; /* of those: equal to the parent, not stored */
	uint64_t stored;    /* data bytes written to the file, copy-on-write included */
	uint64_t highest;   /* end of the highest byte ever written or zeroed */
};

void qcow2_get_stats(const struct qcow2_image *img, struct qcow2_stats *stats);

/* --- the data path: the attached thread only ------------------------------------------------ */

/* What an image borrows from the thread that runs it. One that is only read needs the ring alone.
 */
struct qcow2_io {
	struct ring *ring;
	struct pool *batches; /* QCOW2_BATCH_SIZE slots: data on its way to the disk */
	struct pool *bounces; /* QCOW2_BOUNCE_SIZE slots: what batches are compared with */
};

#define QCOW2_BATCH_SIZE  (2U << 20)
#define QCOW2_BOUNCE_SIZE QCOW2_BATCH_SIZE
/* Fewer slots than these cannot make progress. */
#define QCOW2_BATCHES_MIN 2
#define QCOW2_BOUNCES_MIN 1

/* Both allocate or free; neither waits. Detach: no operation may be pending, and the last one must
 * have been a FLUSH, also of a read-only or failed image: it waits for what was begun ahead. */
int qcow2_attach(struct qcow2_image *img, const struct qcow2_io *io, struct err *err);
void qcow2_detach(struct qcow2_image *img);

/*
 * Takes up to @len bytes at guest offset @off into the image's memory and returns how many it took
 * (> 0), or -EAGAIN: nothing now, park a waiter with qcow2_wait_room() and call again when it
 * wakes, or -errno: the image has failed. Range and writability are the caller's to check. The
 * bytes are visible to every operation started later; they are durable after a flush.
 */
ssize_t qcow2_write(struct qcow2_image *img, uint64_t off, const void *buf, size_t len);

/* Wakes once, from the ring's loop, when qcow2_write() is worth another try. One list, in order. */
void qcow2_wait_room(struct qcow2_image *img, struct pool_waiter *waiter);

enum qcow2_op_kind {
	QCOW2_OP_READ,	  /* fills buf with len bytes at off; buf best FILE_ALIGN-aligned */
	QCOW2_OP_ZERO,	  /* makes a range read as zeroes, whatever lies below */
	QCOW2_OP_FLUSH,	  /* everything taken before it is durable when it is done */
	QCOW2_OP_EXTENTS, /* describes [off, off + len): see below */
};

enum {
	QCOW2_EXTENT_DATA = 0,
	QCOW2_EXTENT_ZERO = 1 << 0, /* reads as zeroes */
	QCOW2_EXTENT_HOLE = 1 << 1, /* no image of the chain has clusters for it */
	/* of qcow2_received() */
	QCOW2_EXTENT_RECEIVED = 1 << 0,
};

struct qcow2_extent {
	uint64_t len; /* bytes */
	uint32_t flags;
};

#define QCOW2_OP_LANES 16 /* file reads one operation keeps in flight */

struct qcow2_lane {
	struct file_op file;
	struct qcow2_op *op;
	unsigned *reading; /* the count it is in, of reads of the image's own file; or NULL */
	/* a compressed cluster: where it is read to, which of its bytes go where */
	unsigned char *packed;
	const struct qcow2_layer *layer;
	unsigned char *dst;
	uint32_t skip, want;
	uint64_t packed_off;
};

/* One asynchronous operation, embedded in the caller's request. Set the first part; done() runs
 * from the ring's loop, never from inside qcow2_submit(). Several may run at once, in any order. */
struct qcow2_op {
	enum qcow2_op_kind kind;
	uint64_t off, len;
	void *buf; /* READ */
	struct qcow2_extent
		*extents; /* EXTENTS: room for @extent_max; done: @extent_count filled, */
	unsigned extent_max, extent_count; /* neighbours differ; they may end before off + len */
	void (*done)(struct qcow2_op *op, int res); /* 0 or -errno */

	/* qcow2's own */
	struct qcow2_image *img;
	struct list node;
	struct ring_op post;
	struct pool_waiter waiter; /* for a table, a window, an unpack buffer, or room */
	uint64_t cursor;	   /* bytes dealt with */
	int res;
	uint32_t lanes_busy; /* bit i: lane[i] is reading */
	bool finished, posted;
	uint8_t view; /* enum qcow2_view */
	struct qcow2_lane lane[QCOW2_OP_LANES];
};

void qcow2_submit(struct qcow2_image *img, struct qcow2_op *op);

/*
 * Which clusters of [off, off + len) of a writable image were written or zeroed as a whole: while
 * it has been open, and, when a crash interrupted that, before. Those a crash left are named when
 * the image itself stores them as data or zeroes (not what equals the parent, nor zeroes without
 * one); compressed images, finished ones and those another program repaired name none. What is
 * named is durable when a QCOW2_OP_FLUSH submitted after this call is done. Returns how many of
 * @max extents it filled, RECEIVED or 0 in turn; they may end before off + len. The attached
 * thread.
 */
unsigned qcow2_received(const struct qcow2_image *img, uint64_t off, uint64_t len,
			struct qcow2_extent *extents, unsigned max);

/* 0, or the -errno a write-behind failure left on the image. Any thread. */
int qcow2_error(const struct qcow2_image *img);

/* Gives the image up: from now on everything fails with -ECANCELED, and a flush merely waits for
 * what is on its way to the disk. For an image that will be thrown away. */
void qcow2_abandon(struct qcow2_image *img);

/* --- finishing: detached, blocking ---------------------------------------------------------- */

/*
 * Turns a flushed image into a clean one: refcounts from the map, file cut to its end, dirty bit
 * off, everything synced. 0, -errno, QCOW2_E_*. The image may only be closed afterwards.
 */
int qcow2_finalize(struct qcow2_image *img, struct err *err);

/* --- checking ------------------------------------------------------------------------------- */

struct qcow2_check_result {
	uint64_t corruptions; /* entries that point outside the file, overlap, or are malformed */
	uint64_t leaks;	      /* clusters with a higher refcount than they have references */
	uint64_t refcount_errors; /* clusters referenced more often than their refcount says,
				     damaged entries of the refcount table */
	uint64_t copied_errors;	  /* COPIED flags that disagree with the refcount */
	uint64_t fixed;		  /* of all those: repaired */
	uint64_t data_clusters, zero_clusters, compressed_clusters, total_clusters;
	uint64_t snapshots;		/* internal ones; what they use is counted */
	bool dirty, corrupt;		/* header bits, as found */
	uint64_t file_size, end_of_use; /* bytes */
};

/*
 * Compares what the maps of one image file (the active one, internal snapshots, bitmaps) reference
 * with its refcounts; its chain is not opened. @repair: rewrites refcounts and COPIED flags, gives
 * leaks back, clears the dirty and corrupt bits; guest data stays as it is, and so does an image
 * with corruptions. Blocking.
 * 0: the walk was done, see @result; -errno or QCOW2_E_*: it could not be.
 */
int qcow2_check(const char *path, bool repair, struct qcow2_check_result *result, struct err *err);

#endif
