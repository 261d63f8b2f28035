/*
 * Storing a batch: from slots in memory to clusters the tables point to. One function a stage; a
 * stage returns true when it is through and false when something is pending, and is entered again
 * when that has happened. Slots of a started batch do not change under it: writers stay away.
 */
#include <string.h>

#include "base/cleanup.h"
#include "qcow2/image.h"

static void batch_step(struct qcow2_batch *b);

static void batch_fail(struct qcow2_batch *b, int error)
{
	if (!b->error)
		b->error = error;
}

static uint64_t cluster_size(const struct qcow2_batch *b)
{
	return b->img->geom.cluster_size;
}

static bool slot_has_data(const struct qcow2_slot *s)
{
	return !s->dead && !s->zero;
}

static bool slot_partial(const struct qcow2_batch *b, const struct qcow2_slot *s)
{
	return s->ranges != 1 || s->range[0].from != 0 || s->range[0].to != cluster_size(b);
}

/* To be completed from below, and never received as a whole: its entry will say so. */
static bool slot_half(const struct qcow2_batch *b, const struct qcow2_slot *s)
{
	const struct qcow2_received *received = &b->img->received;

	return received->marked && slot_partial(b, s) && !qcow2_received_get(received, s->cluster);
}

/* --- CLASSIFY: does the guest cluster have a host cluster of its own? ----------------------- */

static int slot_classify(struct qcow2_batch *b, struct qcow2_slot *s)
{
	struct qcow2_image *img = b->img;
	struct qcow2_slice *slice;
	enum qcow2_kind kind = QCOW2_KIND_NONE;
	int r = qcow2_table_get(img, s->cluster, false, &b->waiter, &slice);

	if (r)
		return r;
	s->entry = slice ? qcow2_slice_entry(slice, s->cluster) : 0;
	if (slice)
		kind = qcow2_layer_entry(img->layer, s->entry, 0, 0, &s->host);
	if (kind == QCOW2_KIND_BAD)
		return -EIO;
	s->in_place = kind == QCOW2_KIND_DATA;
	s->parent = kind == QCOW2_KIND_NONE && img->chain;
	return 0;
}

static bool batch_classify(struct qcow2_batch *b)
{
	for (; b->cursor < b->slots; b->cursor++) {
		int r = slot_classify(b, &b->slot[b->cursor]);

		if (r == -EAGAIN)
			return false;
		if (r) {
			batch_fail(b, r);
			break;
		}
	}
	return true;
}

/* --- FILL: copy-on-write of the bytes nobody wrote ------------------------------------------ */

/* The part of the cluster that will be written: all of it, or for an overwrite in place the blocks
 * that hold new bytes. */
static struct qcow2_range slot_hull(const struct qcow2_batch *b, const struct qcow2_slot *s)
{
	if (!s->in_place)
		return (struct qcow2_range){0, cluster_size(b)};
	return (struct qcow2_range){align_down(s->range[0].from, FILE_ALIGN),
				    align_up(s->range[s->ranges - 1].to, FILE_ALIGN)};
}

/* The next stretch of the hull, from fill_pos on, that holds no valid bytes. */
static bool slot_next_gap(const struct qcow2_batch *b, struct qcow2_slot *s,
			  struct qcow2_range *gap)
{
	struct qcow2_range hull = slot_hull(b, s);
	uint32_t pos = MAX(s->fill_pos, hull.from);
	unsigned i;

	for (i = 0; i < s->ranges && s->range[i].from <= pos; i++)
		pos = MAX(pos, s->range[i].to);
	if (pos >= hull.to)
		return false;
	*gap = (struct qcow2_range){pos, i < s->ranges ? MIN(s->range[i].from, hull.to) : hull.to};
	return true;
}

static struct qcow2_fill *fill_get(struct qcow2_batch *b, struct qcow2_slot *s)
{
	struct list *node = list_pop(&b->img->writer.fills_free);
	struct qcow2_fill *fill;

	if (!node) {
		qcow2_park(&b->img->writer.fill_waiters, &b->waiter);
		return NULL;
	}
	fill = list_entry(node, struct qcow2_fill, node);
	fill->batch = b;
	fill->slot = s;
	return fill;
}

static void fill_put(struct qcow2_fill *fill)
{
	struct qcow2_writer *w = &fill->batch->img->writer;

	list_add_tail(&w->fills_free, &fill->node);
	qcow2_wake_all(&w->fill_waiters);
}

static void fill_start(struct qcow2_fill *fill, enum qcow2_view view, uint64_t off, uint64_t len,
		       void *buf, void (*done)(struct qcow2_op *, int))
{
	fill->op.kind = QCOW2_OP_READ;
	fill->op.off = off;
	fill->op.len = len;
	fill->op.buf = buf;
	fill->op.done = done;
	fill->batch->pending++;
	qcow2_op_start(fill->batch->img, &fill->op, view);
}

static void fill_done(struct qcow2_op *op, int res)
{
	struct qcow2_fill *fill = container_of(op, struct qcow2_fill, op);
	struct qcow2_batch *b = fill->batch;

	if (res)
		batch_fail(b, res);
	b->pending--;
	fill_put(fill);
	batch_step(b);
}

/* Starts the reads for one slot; false when it ran out of fill operations. */
static bool slot_fill(struct qcow2_batch *b, struct qcow2_slot *s)
{
	struct qcow2_range gap;

	if (s->zero) { /* partly written with zeroes: the rest decides what it becomes */
		unsigned i;

		for (i = 0; i < s->ranges; i++)
			memset(qcow2_slot_data(s) + s->range[i].from, 0,
			       s->range[i].to - s->range[i].from);
		s->zero = false;
	}
	while (slot_next_gap(b, s, &gap)) {
		struct qcow2_fill *fill = fill_get(b, s);

		if (!fill)
			return false;
		fill_start(fill, QCOW2_VIEW_STORED,
			   (s->cluster << b->img->geom.cluster_bits) + gap.from, gap.to - gap.from,
			   qcow2_slot_data(s) + gap.from, fill_done);
		s->fill_pos = gap.to;
	}
	return true;
}

static bool batch_fill(struct qcow2_batch *b)
{
	for (; b->cursor < b->slots && !b->error; b->cursor++) {
		struct qcow2_slot *s = &b->slot[b->cursor];

		if (!s->dead && slot_partial(b, s) && !slot_fill(b, s))
			return false;
	}
	return !b->pending;
}

/* Clusters that were put together from pieces may turn out to be zero after all. */
static void batch_find_zeroes(struct qcow2_batch *b)
{
	unsigned i;

	for (i = 0; i < b->slots; i++) {
		struct qcow2_slot *s = &b->slot[i];

		if (slot_has_data(s) && !s->in_place && slot_partial(b, s))
			s->zero = bytes_all_zero(qcow2_slot_data(s), cluster_size(b));
	}
}

/* --- SUM ------------------------------------------------------------------------------------ */

static bool slot_whole_write(const struct qcow2_batch *b, const struct qcow2_slot *s)
{
	struct qcow2_range hull = slot_hull(b, s);

	return hull.from == 0 && hull.to == cluster_size(b);
}

static bool batch_sum(struct qcow2_batch *b)
{
	unsigned i;

	batch_find_zeroes(b);
	if (!b->img->sumlog.file)
		return true;
	for (i = 0; i < b->slots; i++) {
		struct qcow2_slot *s = &b->slot[i];

		/* zeroes of a half may become data: slot_compare_zero() */
		if (!s->summed && slot_whole_write(b, s) &&
		    (slot_has_data(s) || (!s->dead && slot_half(b, s))))
			qcow2_sum_cluster(qcow2_slot_data(s), cluster_size(b), &s->sum);
	}
	return true;
}

/* --- COMPARE: what equals the parent need not be stored ------------------------------------- */

static void compare_done(struct qcow2_op *op, int res)
{
	struct qcow2_fill *fill = container_of(op, struct qcow2_fill, op);
	struct qcow2_batch *b = fill->batch;
	struct qcow2_slot *s = fill->slot;

	/* A parent that cannot be read is no reason to fail: then the cluster is stored. */
	if (!res && !memcmp(op->buf, qcow2_slot_data(s), op->len)) {
		s->dead = true;
		qcow2_count(&b->img->counters.unchanged, op->len);
	}
	b->pending--;
	fill_put(fill);
	batch_step(b);
}

/* A zero cluster over a parent that reads as zeroes there: 0, or as qcow2_chain_find(). A zero
 * entry cannot say that only a half arrived: over other data that needs an entry with a cluster. */
static int slot_compare_zero(struct qcow2_batch *b, struct qcow2_slot *s)
{
	const struct qcow2_geom *g = &b->img->geom;
	uint64_t off = s->cluster << g->cluster_bits, len = MIN(g->cluster_size, g->size - off);
	struct qcow2_run run;
	int r = qcow2_chain_find(b->img->chain, off, len, &b->waiter, &run);

	if (r)
		return r;
	if ((run.kind == QCOW2_KIND_NONE || run.kind == QCOW2_KIND_ZERO) && run.len == len) {
		s->dead = true;
		qcow2_count(&b->img->counters.zero, g->cluster_size);
	} else if (slot_half(b, s)) {
		s->zero = false;
	}
	return 0;
}

/* The parent's checksum tells changed clusters apart without reading them. 0: it differs; 1: it may
 * be the same; -EAGAIN. */
static int slot_may_equal_parent(struct qcow2_batch *b, const struct qcow2_slot *s)
{
	struct qcow2_sum sum;
	int r;

	if (!b->img->sumlog.file)
		return 1;
	r = qcow2_parent_sum(b->img, s->cluster, &b->waiter, &sum);
	if (r)
		return r == -EAGAIN ? r : 1;
	return qcow2_sum_equal(&sum, &s->sum);
}

static bool slot_compare_data(struct qcow2_batch *b, struct qcow2_slot *s)
{
	const struct qcow2_geom *g = &b->img->geom;
	uint64_t off = s->cluster << g->cluster_bits;
	struct qcow2_fill *fill = fill_get(b, s);

	if (!fill)
		return false;
	fill_start(fill, QCOW2_VIEW_PARENT, off, MIN(g->cluster_size, g->size - off),
		   b->side + ((uint64_t)s->place << g->cluster_bits), compare_done);
	return true;
}

static bool batch_get_side(struct qcow2_batch *b)
{
	if (!b->side)
		b->side = pool_get(b->img->io.bounces);
	if (b->side) /* a batch that fails waits for its waiter: none may be left behind */
		pool_cancel(&b->waiter);
	else
		pool_wait(b->img->io.bounces, &b->waiter);
	return b->side;
}

static bool batch_compare(struct qcow2_batch *b)
{
	for (; b->cursor < b->slots; b->cursor++) {
		struct qcow2_slot *s = &b->slot[b->cursor];

		if (!s->parent)
			continue;
		if (s->zero) {
			if (slot_compare_zero(b, s))
				return false;
			continue;
		}
		if (!b->img->suppress)
			continue;
		switch (slot_may_equal_parent(b, s)) {
		case -EAGAIN:
			return false;
		case 0:
			continue;
		default:
			if (!batch_get_side(b) || !slot_compare_data(b, s))
				return false;
		}
	}
	return !b->pending;
}

static void batch_drop_side(struct qcow2_batch *b)
{
	if (b->side)
		pool_put(b->img->io.bounces, steal(&b->side));
}

/* --- COMPRESS ------------------------------------------------------------------------------- */

static void compress_done(struct ring_op *op, int res)
{
	struct qcow2_slot *s = container_of(op, struct qcow2_slot, pack.back);
	struct qcow2_batch *b = s->batch;

	s->packed = res;
	b->pending--;
	batch_step(b);
}

static bool batch_compress(struct qcow2_batch *b)
{
	if (!b->img->compressor.level)
		return true;
	for (; b->cursor < b->slots; b->cursor++) {
		struct qcow2_slot *s = &b->slot[b->cursor];

		if (!slot_has_data(s) || s->in_place)
			continue;
		if (!batch_get_side(b))
			return false;
		s->pack.src = qcow2_slot_data(s);
		s->pack.dst = b->side + ((uint64_t)s->place << b->img->geom.cluster_bits);
		s->pack.back.done = compress_done;
		b->pending++;
		qcow2_compress(b->img, &s->pack);
	}
	return !b->pending;
}

/* --- ALLOCATE and WRITE --------------------------------------------------------------------- */

/* Packed clusters lie back to back, whatever their length. Moves them together in the side buffer,
 * in the order they lie there (not that of the slots: a place is given out when data comes), gives
 * them host clusters, and counts how many streams touch each. */
static void allocate_packed(struct qcow2_batch *b, uint64_t bytes)
{
	const struct qcow2_geom *g = &b->img->geom;
	uint64_t clusters = div_up(bytes, g->cluster_size), at = 0, c;
	struct qcow2_slot *at_place[QCOW2_BATCH_SIZE / QCOW2_CLUSTER_MIN] = {0};
	unsigned i, users[QCOW2_BATCH_SIZE / QCOW2_CLUSTER_MIN] = {0};
	unsigned shift = 62 - (g->cluster_bits - 8);

	b->packed_host = qcow2_alloc(b->img, clusters);
	for (i = 0; i < b->slots; i++)
		if (slot_has_data(&b->slot[i]) && b->slot[i].packed)
			at_place[b->slot[i].place] = &b->slot[i];
	for (i = 0; i < b->places; i++) {
		struct qcow2_slot *s = at_place[i];
		uint64_t host = b->packed_host + at, sectors;

		if (!s)
			continue;
		memmove(b->side + at, s->pack.dst, s->packed);
		sectors = ((host & 511) + s->packed - 1) / 512; /* behind the first */
		s->entry = QCOW2_ENTRY_COMPRESSED | sectors << shift | host;
		/* a descriptor reaches to the end of its last sector */
		for (c = at >> g->cluster_bits;
		     c <= (align_up(at + s->packed, 512) - 1) >> g->cluster_bits; c++)
			users[c]++;
		at += s->packed;
	}
	for (c = 0; c < clusters; c++) {
		int r = qcow2_share_cluster(b->img, b->packed_host + (c << g->cluster_bits),
					    users[c]);

		if (r)
			batch_fail(b, r);
	}
	memset(b->side + at, 0, align_up(at, FILE_ALIGN) - at);
}

static bool batch_allocate(struct qcow2_batch *b)
{
	uint64_t packed = 0;
	unsigned i;

	for (i = 0; i < b->slots && !b->error; i++) {
		struct qcow2_slot *s = &b->slot[i];

		if (!slot_has_data(s) || s->in_place)
			continue;
		packed += s->packed;
		if (s->packed)
			continue;
		s->host = qcow2_alloc(b->img, 1);
		s->entry = s->host;
		if (slot_half(b, s))
			b->img->received.halves = true;
		else
			s->entry |= QCOW2_ENTRY_COPIED;
	}
	b->packed_io.len = align_up(packed, FILE_ALIGN);
	if (packed)
		allocate_packed(b, packed);
	else
		batch_drop_side(b);
	return true;
}

/* Goes to the disk as it is, from the slot's place. */
static bool slot_plain(const struct qcow2_slot *s)
{
	return slot_has_data(s) && !s->packed;
}

static void write_done(struct file_op *op, int res)
{
	struct qcow2_slot *s = container_of(op, struct qcow2_slot, io);
	struct qcow2_batch *b = s->batch;

	if (res < 0)
		batch_fail(b, res);
	else
		qcow2_count(&b->img->counters.stored, res);
	b->pending--;
	batch_step(b);
}

static bool slot_follows(const struct qcow2_batch *b, const struct qcow2_slot *prev,
			 const struct qcow2_slot *s)
{
	return slot_plain(s) && s->place == prev->place + 1 &&
	       s->host == prev->host + cluster_size(b);
}

/* Writes slot @i and the slots behind it that lie next to it in memory and on disk; returns how
 * many slots that took care of. */
static unsigned batch_write_run(struct qcow2_batch *b, unsigned i)
{
	struct qcow2_slot *s = &b->slot[i];
	struct qcow2_range hull = slot_hull(b, s);
	unsigned n = 1;

	while (slot_whole_write(b, &b->slot[i + n - 1]) && i + n < b->slots &&
	       slot_follows(b, &b->slot[i + n - 1], &b->slot[i + n]) &&
	       slot_whole_write(b, &b->slot[i + n])) {
		hull.to += cluster_size(b);
		n++;
	}
	s->io = (struct file_op){
		.kind = FILE_OP_WRITE,
		.buf = qcow2_slot_data(s) + hull.from,
		.len = hull.to - hull.from,
		.off = s->host + hull.from,
		.done = write_done,
	};
	b->pending++;
	file_submit(b->img->layer->file, &s->io);
	return n;
}

static void packed_written(struct file_op *op, int res)
{
	struct qcow2_batch *b = container_of(op, struct qcow2_batch, packed_io);

	if (res < 0)
		batch_fail(b, res);
	else
		qcow2_count(&b->img->counters.stored, res);
	b->pending--;
	batch_step(b);
}

static void batch_write_packed(struct qcow2_batch *b)
{
	b->packed_io.kind = FILE_OP_WRITE;
	b->packed_io.buf = b->side;
	b->packed_io.off = b->packed_host;
	b->packed_io.done = packed_written;
	b->pending++;
	file_submit(b->img->layer->file, &b->packed_io);
}

static bool batch_write(struct qcow2_batch *b)
{
	if (b->cursor == 0 && !b->pending && !b->error) {
		int r = qcow2_reserve(b->img, b->img->alloc.tail, &b->waiter);

		if (r == -EAGAIN)
			return false;
		if (r)
			batch_fail(b, r);
		else if (b->packed_io.len)
			batch_write_packed(b);
	}
	while (b->cursor < b->slots && !b->error) {
		if (slot_plain(&b->slot[b->cursor]))
			b->cursor += batch_write_run(b, b->cursor);
		else
			b->cursor++;
	}
	return !b->pending;
}

/* --- LINK: the tables learn where the data is ----------------------------------------------- */

static int slot_log_sum(struct qcow2_batch *b, struct qcow2_slot *s)
{
	struct qcow2_sumlog_entry entry = {
		.cluster = s->cluster,
		.kind = QCOW2_SUMLOG_SUM,
		.count = 1,
		.sum = s->sum,
	};

	if (s->zero)
		entry.kind = QCOW2_SUMLOG_ZERO;
	else if (!slot_whole_write(b, s))
		entry.kind = QCOW2_SUMLOG_UNKNOWN;
	return qcow2_sumlog_add(b->img, &entry, &b->waiter);
}

/* Stays where it is; what was half before may be whole now. */
static int slot_link_in_place(struct qcow2_batch *b, struct qcow2_slot *s)
{
	const struct qcow2_received *received = &b->img->received;
	struct qcow2_slice *slice = NULL;
	int r = 0;

	if (received->marked && !(s->entry & QCOW2_ENTRY_COPIED) &&
	    qcow2_received_get(received, s->cluster))
		r = qcow2_table_get(b->img, s->cluster, false, &b->waiter, &slice);
	if (!r)
		r = slot_log_sum(b, s);
	if (!r && slice)
		qcow2_slice_set(slice, s->cluster, s->entry | QCOW2_ENTRY_COPIED);
	return r;
}

static int slot_link(struct qcow2_batch *b, struct qcow2_slot *s)
{
	struct qcow2_image *img = b->img;
	/* Without a parent a zero cluster is one that has no entry. */
	uint64_t entry = s->zero ? (img->chain ? QCOW2_ENTRY_ZERO : 0) : s->entry;
	struct qcow2_slice *slice;
	uint64_t old;
	int r;

	if (s->in_place && !s->zero)
		return slot_link_in_place(b, s);
	r = qcow2_table_get(img, s->cluster, entry != 0, &b->waiter, &slice);
	if (!r)
		r = slot_log_sum(b, s);
	if (r)
		return r;
	old = slice ? qcow2_slice_entry(slice, s->cluster) : 0;
	if (old == entry)
		return 0;
	qcow2_slice_set(slice, s->cluster, entry);
	qcow2_free_entry(img, old);
	return 0;
}

static bool batch_link(struct qcow2_batch *b)
{
	for (; b->cursor < b->slots && !b->error; b->cursor++) {
		struct qcow2_slot *s = &b->slot[b->cursor];
		int r = s->dead ? 0 : slot_link(b, s);

		if (r == -EAGAIN)
			return false;
		if (r)
			batch_fail(b, r);
		else if (!s->dead && s->zero)
			qcow2_count(&b->img->counters.zero, cluster_size(b));
	}
	return true;
}

/* --- the machine ---------------------------------------------------------------------------- */

static const struct {
	bool (*run)(struct qcow2_batch *b);
} batch_stages[] = {
	[QCOW2_BATCH_CLASSIFY] = {batch_classify}, [QCOW2_BATCH_FILL] = {batch_fill},
	[QCOW2_BATCH_SUM] = {batch_sum},	   [QCOW2_BATCH_COMPARE] = {batch_compare},
	[QCOW2_BATCH_COMPRESS] = {batch_compress}, [QCOW2_BATCH_ALLOCATE] = {batch_allocate},
	[QCOW2_BATCH_WRITE] = {batch_write},	   [QCOW2_BATCH_LINK] = {batch_link},
};

static void batch_step(struct qcow2_batch *b)
{
	int error = qcow2_error(b->img);

	if (error)
		batch_fail(b, error);
	while (b->state < QCOW2_BATCH_DONE) {
		bool through = !b->error && batch_stages[b->state].run(b);

		if (b->error) { /* nothing new begins; what is under way has to end, loads too */
			if (b->pending || !list_empty(&b->waiter.node))
				return;
			break;
		}
		if (!through)
			return;
		b->state++;
		b->cursor = 0;
	}
	batch_drop_side(b);
	if (b->error)
		qcow2_fail(b->img, b->error);
	qcow2_batch_release(b);
}

static void batch_wake(struct pool_waiter *waiter)
{
	struct qcow2_batch *b = container_of(waiter, struct qcow2_batch, waiter);

	/* Possibly inside pool_put(): only queue. A stage's own completions may run it first; then
	 * the kick finds it waiting again and merely asks once more. */
	if (!b->kicked) {
		b->kicked = true;
		ring_post(b->img->io.ring, &b->kick, 0);
	}
}

static void batch_kicked(struct ring_op *op, int res)
{
	struct qcow2_batch *b = container_of(op, struct qcow2_batch, kick);

	(void)res;
	b->kicked = false;
	if (b->state >= QCOW2_BATCH_CLASSIFY)
		batch_step(b);
}

void qcow2_batch_start(struct qcow2_batch *b)
{
	b->state = QCOW2_BATCH_CLASSIFY;
	b->cursor = b->pending = 0;
	b->error = 0;
	b->waiter.wake = batch_wake;
	b->kick.done = batch_kicked;
	batch_wake(&b->waiter);
}

void qcow2_batch_release(struct qcow2_batch *b)
{
	struct qcow2_image *img = b->img;
	struct qcow2_writer *w = &img->writer;
	unsigned i;

	for (i = 0; i < b->slots; i++)
		qcow2_slot_kill(&b->slot[i]);
	pool_cancel(&b->waiter);
	b->state = QCOW2_BATCH_FREE;
	b->slots = b->places = b->partial = 0;
	list_del(&b->node);
	list_add_tail(&w->free, &b->node);
	if (b->buf)
		pool_put(img->io.batches, steal(&b->buf));
	/* It may have failed between being woken for a bounce buffer and taking it. */
	pool_pass(img->io.bounces);
	qcow2_wake_all(&w->room);
	qcow2_flush_step(img);
}
