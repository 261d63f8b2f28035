/*
 * Inside of an open image: what the modules of qcow2/ share.
 *
 * How a write travels (each step is a function that runs until it has to wait, and is called
 * again):
 *
 *   write.c   qcow2_write(): bytes into slots. A slot is one guest cluster on its way to the disk,
 *             with a place in a 2 MiB batch buffer. Clusters may arrive in pieces; a zero cluster
 *             needs no place. A full batch is closed and
 *   batch.c   stored: CLASSIFY (new cluster or in place?) > FILL (copy-on-write of what was not
 *             written) > SUM (checksums) > COMPARE (equal to the parent: drop) > COMPRESS >
 *             ALLOCATE at the end of the file >
 *             WRITE (neighbours as one large write) > LINK (L2 entries in the table cache).
 *   table.c   L2 slices, cached; dirty ones reach the disk only through
 *   flush.c   data > sync > L2 slices > sync > L1 > sync.
 *
 * While a guest cluster has a slot in a closed batch nobody else may change it: writers wait for
 * room, zero requests wait for the batch. So no two operations ever write one host cluster at once.
 */
#ifndef QCOW2_IMAGE_H
#define QCOW2_IMAGE_H

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "qcow2/chain.h"
#include "qcow2/layer.h"
#include "qcow2/qcow2.h"
#include "qcow2/refs.h"
#include "qcow2/sums_file.h"

/* --- table.c: cache of L2 slices of the image being written --------------------------------- */

#define QCOW2_SLICE_ENTRIES 512U
#define QCOW2_SLICE_BYTES   4096U

enum qcow2_slice_state { QCOW2_SLICE_EMPTY, QCOW2_SLICE_LOADING, QCOW2_SLICE_READY };

struct qcow2_slice {
	struct qcow2_image *img;
	uint64_t key;	 /* guest cluster / QCOW2_SLICE_ENTRIES */
	uint64_t *entry; /* QCOW2_SLICE_ENTRIES, big-endian as on disk */
	enum qcow2_slice_state state;
	bool dirty;   /* differs from the disk */
	bool writing; /* an older copy is on its way to the disk: must not be reloaded */
	int error;    /* why loading failed; cleared by eviction */
	struct list lru;
	struct list waiters;
	struct qcow2_slice *hash_next;
	struct file_op io;
};

struct qcow2_tables {
	struct qcow2_slice *slice;
	unsigned char *mem;
	unsigned count, dirty;
	struct qcow2_slice **bucket;
	unsigned buckets;
	struct list lru;	 /* oldest first */
	struct list stalled;	 /* waiters that found no slice to evict */
	unsigned char *l1_dirty; /* a byte per 512 L1 entries */
	unsigned l1_blocks, l1_dirty_count;
};

int qcow2_tables_attach(struct qcow2_image *img, struct err *err);
void qcow2_tables_detach(struct qcow2_image *img);

/*
 * The slice that maps @guest_cluster. 0: *@out is set, or NULL when no table exists and @create is
 * false. -EAGAIN: @waiter wakes when asking again makes sense. -errno: it cannot be had.
 * The slice stays valid until the caller returns to the loop.
 */
int qcow2_table_get(struct qcow2_image *img, uint64_t guest_cluster, bool create,
		    struct pool_waiter *waiter, struct qcow2_slice **out);

static inline uint64_t qcow2_slice_entry(const struct qcow2_slice *slice, uint64_t guest_cluster)
{
	return be64toh(slice->entry[guest_cluster % QCOW2_SLICE_ENTRIES]);
}

void qcow2_slice_set(struct qcow2_slice *slice, uint64_t guest_cluster, uint64_t entry);

/* Where the slice lives in the file; its table exists. */
uint64_t qcow2_slice_host(const struct qcow2_slice *slice);

/* Wakes everybody on a list of pool_waiters. */
void qcow2_wake_all(struct list *waiters);

/* Parks @waiter (wherever it was) on @list. */
static inline void qcow2_park(struct list *list, struct pool_waiter *waiter)
{
	list_del(&waiter->node);
	list_add_tail(list, &waiter->node);
}

/* --- alloc.c: host clusters ----------------------------------------------------------------- */

struct qcow2_extent_host {
	uint64_t off, len;
};

struct qcow2_alloc {
	uint64_t tail;	   /* next new cluster; everything below is used or was freed */
	uint64_t reserved; /* the file has space up to here */
	bool growing;
	bool tight;		/* the disk is nearly full: ask for the bare need only */
	uint64_t grow_to, must; /* what is being asked for; the least that helps somebody */
	struct file_op grow;
	struct list waiters;
	struct qcow2_refs refs;
	/* freed since the last flush: given back to the file system once that is durable */
	struct qcow2_extent_host *freed;
	unsigned freed_count, freed_max;
	unsigned freed_sealed; /* of those: a flush under way covers their freeing */
};

/* @n clusters at the end of the file. Their space may not exist yet: qcow2_reserve(). */
uint64_t qcow2_alloc(struct qcow2_image *img, uint64_t n);

/* 0: the file has space up to @end. -EAGAIN: @waiter wakes. -errno: there is none (ENOSPC, ...). */
int qcow2_reserve(struct qcow2_image *img, uint64_t end, struct pool_waiter *waiter);

/* Counts @n streams in a freshly allocated cluster instead of one user. 0 or -errno. */
int qcow2_share_cluster(struct qcow2_image *img, uint64_t host, unsigned n);

/* Drops one reference to what an L2 entry pointed to. */
void qcow2_free_entry(struct qcow2_image *img, uint64_t entry);

/* --- write.c / batch.c: data on its way ----------------------------------------------------- */

#define QCOW2_SLOT_RANGES 8
#define QCOW2_NO_PLACE	  UINT32_MAX
#define QCOW2_BATCHES_MAX 16  /* an image never has more under way */
#define QCOW2_ZERO_SLOTS  64U /* room in a batch for clusters that need no place */
#define QCOW2_FILL_OPS	  16

struct qcow2_range {
	uint32_t from, to; /* bytes inside the cluster */
};

/* A cluster being compressed; see compress.c. */
struct qcow2_pack {
	struct list node;
	struct ring_op back; /* on the image's thread again */
	const void *src;
	void *dst;
};

struct qcow2_slot {
	struct qcow2_batch *batch;
	struct qcow2_slot *hash_next;
	uint64_t cluster; /* guest */
	uint64_t host;	  /* where it goes; set by CLASSIFY (in place) or ALLOCATE */
	uint32_t place;	  /* index in the batch's buffer, or QCOW2_NO_PLACE */
	bool dead;	  /* superseded, unchanged, or done: skip it */
	bool zero;	  /* every byte known so far is zero; the place holds nothing yet */
	bool in_place;	  /* overwrites the host cluster it already has */
	bool parent;	  /* nothing of its own yet and a parent may hold it: COMPARE looks */
	bool summed;	  /* @sum is that of the whole cluster as it is now */
	uint32_t ranges;
	struct qcow2_range range[QCOW2_SLOT_RANGES]; /* valid bytes, ascending, apart */
	uint32_t fill_pos;			     /* FILL looked up to here */
	uint32_t packed; /* bytes of its compressed form, 0: stored plain */
	uint64_t entry;	 /* in place: the one it has; ALLOCATE: what LINK puts into the table */
	struct qcow2_pack pack;
	struct qcow2_sum sum; /* SUM: of the whole cluster, unless it is overwritten in part */
	struct file_op io;
};

enum qcow2_batch_state {
	QCOW2_BATCH_FREE,
	QCOW2_BATCH_OPEN,   /* takes new slots */
	QCOW2_BATCH_SEALED, /* full, but some slots still wait for the rest of their cluster */
	QCOW2_BATCH_CLASSIFY,
	QCOW2_BATCH_FILL,
	QCOW2_BATCH_SUM,
	QCOW2_BATCH_COMPARE,
	QCOW2_BATCH_COMPRESS,
	QCOW2_BATCH_ALLOCATE,
	QCOW2_BATCH_WRITE,
	QCOW2_BATCH_LINK,
	QCOW2_BATCH_DONE,
};

struct qcow2_batch {
	struct qcow2_image *img;
	enum qcow2_batch_state state;
	struct list node; /* free, or under way in order of closing */
	unsigned char *buf;
	unsigned char
		*side; /* COMPARE: the parent's clusters; COMPRESS: packed ones, to be written */
	uint64_t packed_host; /* where the packed clusters go */
	struct file_op packed_io;
	struct qcow2_slot *slot;
	uint64_t seq;		/* order of starting */
	unsigned slots, places; /* used */
	unsigned partial;	/* slots that are not whole yet */
	unsigned cursor, pending;
	int error;
	struct pool_waiter waiter;
	struct ring_op kick;
	bool kicked; /* @kick is queued */
};

struct qcow2_fill {
	struct qcow2_op op;
	struct qcow2_batch *batch;
	struct qcow2_slot *slot;
	struct list node;
};

struct qcow2_writer {
	struct qcow2_batch *batch; /* all */
	unsigned batches, slots_per_batch, places_per_batch;
	struct qcow2_slot *slot_mem;
	struct qcow2_batch *open;
	struct list free, sealed, running; /* running: in order of seq */
	unsigned sealed_count;
	uint64_t next_seq;
	struct qcow2_slot **bucket;
	unsigned buckets;
	unsigned live;		     /* slots in the hash */
	struct list room;	     /* writers waiting */
	struct pool_waiter buffer;   /* for a batch buffer, on behalf of @room */
	struct pool_holder holder;   /* registered while buffers rest */
	unsigned resting;	     /* buffers of batches that are not started */
	struct ring_timer give_back; /* starts them: others need buffers */
	bool giving;		     /* @give_back is set */
	uint64_t giving_seen;	     /* bytes taken when it was set */
	int64_t giving_until_ns;     /* no patience after that */
	struct qcow2_fill *fill;     /* QCOW2_FILL_OPS */
	struct list fills_free, fill_waiters;
};

int qcow2_writer_attach(struct qcow2_image *img, struct err *err);
void qcow2_writer_detach(struct qcow2_image *img);

/* Adds [from, to) to at most QCOW2_SLOT_RANGES ranges, ascending and apart, joining what touches.
 * False: one too many. */
bool qcow2_ranges_add(struct qcow2_range *range, uint32_t *ranges, uint32_t from, uint32_t to);

struct qcow2_slot *qcow2_slot_find(struct qcow2_image *img, uint64_t cluster);
/* How many of @max bytes from @off on lie before the first cluster that has a slot. */
uint64_t qcow2_slots_clear(struct qcow2_image *img, uint64_t off, uint64_t max);
void qcow2_slot_kill(struct qcow2_slot *slot); /* takes it out of the hash */

/* As qcow2_write(), without counting: zero requests write their ends with it. */
ssize_t qcow2_write_bytes(struct qcow2_image *img, uint64_t off, const void *buf, size_t len);
void qcow2_note_highest(struct qcow2_image *img, uint64_t end);

/* Makes a slot one of nothing but zeroes, whatever it held. It must not be under way yet. */
void qcow2_slot_make_zero(struct qcow2_slot *slot);
static inline bool qcow2_slot_started(const struct qcow2_slot *slot);

/* Starts storing everything that is in memory. */
void qcow2_start_all_batches(struct qcow2_image *img);
void qcow2_batch_start(struct qcow2_batch *batch);
void qcow2_batch_release(struct qcow2_batch *batch); /* done: buffers back, waiters on */

/* --- compress.c: threads that compress clusters --------------------------------------------- */

struct qcow2_compressor {
	int level; /* 0: off */
	pthread_t *thread;
	unsigned threads;
	pthread_mutex_t lock;
	pthread_cond_t work;
	struct list todo; /* struct qcow2_pack */
	bool stop;
};

int qcow2_compressor_attach(struct qcow2_image *img, struct err *err);
void qcow2_compressor_detach(struct qcow2_image *img);
/* Compresses a cluster; pack->back.done(res) runs on the image's thread: its length, or 0 when it
 * does not get smaller. @dst has room for a whole cluster. */
void qcow2_compress(struct qcow2_image *img, struct qcow2_pack *pack);

/* --- flush.c -------------------------------------------------------------------------------- */

#define QCOW2_WRITEBACK_BLOCKS 256U /* 4 KiB table blocks copied and written in one round */

struct qcow2_writeback_block {
	struct qcow2_image *img;
	struct qcow2_slice *slice; /* NULL: a block of L1 */
	struct file_op io;
};

enum qcow2_flush_stage {
	QCOW2_FLUSH_IDLE,
	QCOW2_FLUSH_DRAIN,  /* batches started before the pass are being stored */
	QCOW2_FLUSH_SLICES, /* rounds of: sync, write L2 slices */
	QCOW2_FLUSH_L1,	    /* rounds of: sync, write L1 blocks */
	QCOW2_FLUSH_SYNC,   /* the last one */
	QCOW2_FLUSH_PUNCH,
	QCOW2_FLUSH_SETTLE, /* until nothing else of the image is under way */
};

struct qcow2_flusher {
	struct list waiting;	       /* flushes that need a pass which has not begun */
	struct list served;	       /* flushes the pass under way will complete */
	struct pool_waiter read_ahead; /* for the chain to be idle, at the end of a pass */
	enum qcow2_flush_stage stage;
	bool pressure; /* the table cache needs clean slices */
	bool busy;     /* a round, sync or punch is under way */
	uint64_t until_seq;
	unsigned cursor;	  /* slices or L1 blocks the pass has dealt with */
	unsigned pressure_pos;	  /* where the next pressure round looks first */
	unsigned blocks, pending; /* of the round under way */
	struct qcow2_writeback_block *block;
	unsigned char *staging;
	struct file_op io; /* sync, punch */
};

int qcow2_flusher_attach(struct qcow2_image *img, struct err *err);
void qcow2_flusher_detach(struct qcow2_image *img);
void qcow2_flush_submit(struct qcow2_op *op);
/* The table cache is full of dirty slices: write them. */
void qcow2_flush_tables(struct qcow2_image *img);
/* A batch is done: a flush may have waited for it. */
void qcow2_flush_step(struct qcow2_image *img);

/* --- received.c: which clusters arrived whole ------------------------------------------------ */

/* A cluster of which a part was stored: which bytes of it have arrived. */
struct qcow2_half {
	uint64_t cluster;
	uint32_t ranges; /* 0: no entry */
	struct qcow2_range range[QCOW2_SLOT_RANGES];
};

#define QCOW2_HALVES 1024U /* remembered; one takes the place of another now and then */

struct qcow2_received {
	uint64_t *bit;		 /* a bit per guest cluster; NULL: not writable */
	struct qcow2_half *half; /* QCOW2_HALVES */
	bool marked;		 /* entries without COPIED tell of clusters that did not */
	bool halves;		 /* there are such entries, or may be */
};

int qcow2_received_init(struct qcow2_image *img, struct err *err);
/* An entry that was there when the image was opened. */
void qcow2_received_found(struct qcow2_received *received, const struct qcow2_geom *g,
			  uint64_t cluster, enum qcow2_kind kind, bool copied);
/* What was there says nothing after all. */
void qcow2_received_forget(struct qcow2_image *img);
/* @slot is stored before all of it has arrived; the rest may follow, or have come, in others. */
void qcow2_received_part(const struct qcow2_slot *slot);
/* All of the clusters that lie in [off, off + len). */
void qcow2_received_range(struct qcow2_image *img, uint64_t off, uint64_t len);

static inline bool qcow2_received_get(const struct qcow2_received *received, uint64_t cluster)
{
	return received->bit[cluster / 64] >> cluster % 64 & 1;
}

/* Where the half of @cluster is remembered if it is: it may be another's. */
static inline struct qcow2_half *qcow2_received_half(const struct qcow2_received *received,
						     uint64_t cluster)
{
	return &received->half[cluster % QCOW2_HALVES];
}

static inline bool qcow2_received_has_half(const struct qcow2_received *received, uint64_t cluster)
{
	const struct qcow2_half *h = qcow2_received_half(received, cluster);

	return h->ranges && h->cluster == cluster;
}

static inline void qcow2_received_set(struct qcow2_received *received, uint64_t cluster)
{
	received->bit[cluster / 64] |= 1ULL << cluster % 64;
}

/* --- unpack.c ------------------------------------------------------------------------------- */

#define QCOW2_UNPACK_BUFS 8

/* Buffers compressed clusters are read into. Of the image's own, because a batch may hold the last
 * bounce buffer of the thread while the parent it is compared with is compressed. */
struct qcow2_unpacker {
	unsigned char *mem, *out; /* out: one unpacked cluster */
	size_t slot_size;
	uint32_t busy; /* bit i: slot i is in use */
	struct list waiters;
};

/* --- the image ------------------------------------------------------------------------------ */

struct qcow2_counters {
	_Atomic uint64_t received, zero, unchanged, stored, highest;
};

struct qcow2_image {
	char *path;
	bool writable, suppress, found_dirty;
	struct qcow2_layer *layer; /* writable: this file; read-only: NULL, it is chain layer 0 */
	struct qcow2_chain *chain; /* what lies behind @layer, or everything; may be NULL */
	struct qcow2_geom geom;
	struct qcow2_io io; /* ring NULL: detached */
	_Atomic int error;  /* first write-behind failure, -errno */
	struct qcow2_counters counters;
	unsigned ops;	   /* running operations and fills */
	struct list turns; /* operations that gave others a turn */
	struct ring_op turn;
	bool turning; /* @turn is queued */
	/* File reads of @layer under way, begun in this epoch and the one before: space is given
	 * back when nobody who found it in use can be reading it any more. */
	unsigned reading[2], epoch;
	struct qcow2_unpacker unpacker;
	struct qcow2_tables tables;
	struct qcow2_alloc alloc;
	struct qcow2_writer writer;
	struct qcow2_flusher flusher;
	struct qcow2_sumlog sumlog;
	struct qcow2_compressor compressor;
	struct qcow2_parent_sums parent_sums;
	struct qcow2_received received;
	uint64_t source_size; /* bytes, as qcow2_open() was told; 0: not told */
	bool found_data;      /* it held clusters already when it was opened for writing */
	char *repository;     /* as qcow2_open() was told; may be NULL */
	uint64_t refblock0;   /* place of the first refcount block laid out at creation; 0: none */
};

static inline unsigned char *qcow2_slot_data(const struct qcow2_slot *slot)
{
	const struct qcow2_batch *b = slot->batch;

	return b->buf + ((uint64_t)slot->place << b->img->geom.cluster_bits);
}

static inline void qcow2_count(_Atomic uint64_t *counter, uint64_t n)
{
	/* One writer: no read-modify-write needed, only tear-free publication. */
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
			      memory_order_relaxed);
}

void qcow2_fail(struct qcow2_image *img, int error); /* latches the first */

static inline bool qcow2_slot_started(const struct qcow2_slot *slot)
{
	return slot->batch->state > QCOW2_BATCH_SEALED;
}

/* What lies at @off as stored on disk, memory slots not considered. As qcow2_chain_find(). */
int qcow2_map_find(struct qcow2_image *img, uint64_t off, uint64_t max, struct pool_waiter *waiter,
		   struct qcow2_run *run);

/* Which truth an operation asks for. */
enum qcow2_view {
	QCOW2_VIEW_GUEST,  /* what the guest disk holds now, memory included */
	QCOW2_VIEW_STORED, /* what is on disk: for copy-on-write of a cluster that has a slot */
	QCOW2_VIEW_PARENT, /* what the backing chain holds */
};

void qcow2_op_start(struct qcow2_image *img, struct qcow2_op *op, enum qcow2_view view);
void qcow2_op_finish(struct qcow2_op *op, int res);

/*
 * Requests as large as the disk. A step that has dealt with QCOW2_TURN_PIECES pieces without having
 * to wait gives up its turn; the operations of one image that did so go on one after the other, one
 * a round, so that they cost the thread's other work a fraction of a millisecond together.
 */
#define QCOW2_TURN_PIECES 32
void qcow2_op_yield(struct qcow2_op *op);
void qcow2_read_step(struct qcow2_op *op);
void qcow2_zero_step(struct qcow2_op *op);
void qcow2_extents_step(struct qcow2_op *op);

/* One compressed cluster of @layer from @src into @dst (a whole cluster). 0 or -EIO. */
int qcow2_unpack(const struct qcow2_layer *layer, const void *src, size_t src_len, void *dst);
int qcow2_unpacker_attach(struct qcow2_image *img, struct err *err);
void qcow2_unpacker_detach(struct qcow2_image *img);
unsigned char *qcow2_unpacker_get(struct qcow2_image *img, struct pool_waiter *waiter);
void qcow2_unpacker_put(struct qcow2_image *img, unsigned char *buf);

/* walk.c: what an L1/L2 tree references; used by open (rebuild), check and finalize. */
struct qcow2_walk {
	const struct qcow2_layer *layer;
	void *arg;
	/* Each may stop the walk by returning non-zero. @table: a sound L2 table. */
	int (*table)(void *arg, uint64_t l1_index, uint64_t host);
	/* A non-zero entry of a sound table. */
	int (*entry)(void *arg, uint64_t guest_cluster, uint64_t entry, uint64_t bitmap);
	/* An L1 entry or L2 table that cannot be followed. */
	int (*bad)(void *arg, uint64_t l1_index, uint64_t host);
};
int qcow2_walk(const struct qcow2_walk *walk);

/* rebuild.c: counts every reference of @layer into @refs, notes what arrived in @received and finds
 * the end of use. @flags_wrong: not every used cluster is marked COPIED, as it must be where each
 * has one user. QCOW2_E_CORRUPT + err when writing to the image would not be safe. */
int qcow2_rebuild_refs(const struct qcow2_layer *layer, struct qcow2_refs *refs,
		       struct qcow2_received *received, uint64_t *end_of_use, bool *flags_wrong,
		       struct err *err);
/* Empties the refcount table of an image that is marked dirty: what it points to will be cut off or
 * become data. Takes a cluster at the tail when the table cannot stay where it is. 0 or -errno. */
int qcow2_void_refcounts(struct qcow2_image *img);

#endif
