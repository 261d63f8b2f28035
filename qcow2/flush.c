/*
 * The order in which things reach the disk, in one place:
 *
 *     data (batches) -> sync -> L2 slices -> sync -> L1 blocks -> sync
 *
 * so that no table on disk ever points to something that is not there yet. A pass serves all
 * flushes that were waiting when it began: it drains the batches started before, sweeps once over
 * the slices and then over L1, in rounds of at most QCOW2_WRITEBACK_BLOCKS. Each round copies its
 * blocks first, syncs, and writes the copies: what is linked meanwhile is not in them. At the end
 * the space of clusters freed before the pass is given back to the file system, once the reads that
 * began before are through, and the flush is done when nothing it has to do with is under way any
 * more: then the image may be detached.
 *
 * When the table cache has no clean slice to evict, a single round runs in between (`pressure`); a
 * batch may be waiting for just that, so it must not wait for the batches.
 */
#include <string.h>

#include "qcow2/image.h"

static void read_ahead_over(struct pool_waiter *waiter)
{
	qcow2_flush_step(container_of(waiter, struct qcow2_image, flusher.read_ahead));
}

int qcow2_flusher_attach(struct qcow2_image *img, struct err *err)
{
	struct qcow2_flusher *f = &img->flusher;
	unsigned i;

	list_init(&f->waiting);
	list_init(&f->served);
	list_init(&f->read_ahead.node);
	f->read_ahead.wake = read_ahead_over;
	f->block = calloc(QCOW2_WRITEBACK_BLOCKS, sizeof(*f->block));
	f->staging = aligned_alloc(FILE_ALIGN, QCOW2_WRITEBACK_BLOCKS * QCOW2_SLICE_BYTES);
	if (!f->block || !f->staging)
		return err_set(err, -ENOMEM, "no memory to flush '%s'", img->path);
	for (i = 0; i < QCOW2_WRITEBACK_BLOCKS; i++)
		f->block[i].img = img;
	return 0;
}

void qcow2_flusher_detach(struct qcow2_image *img)
{
	free(img->flusher.block);
	free(img->flusher.staging);
	memset(&img->flusher, 0, sizeof(img->flusher));
}

/* --- a round: copy, sync, write ------------------------------------------------------------- */

static unsigned char *round_add(struct qcow2_image *img, struct qcow2_slice *slice, uint64_t host)
{
	struct qcow2_flusher *f = &img->flusher;
	unsigned char *copy = f->staging + (size_t)f->blocks * QCOW2_SLICE_BYTES;
	struct qcow2_writeback_block *block = &f->block[f->blocks++];

	block->slice = slice;
	block->io = (struct file_op){
		.kind = FILE_OP_WRITE, .buf = copy, .len = QCOW2_SLICE_BYTES, .off = host};
	return copy;
}

/* Copies dirty slices from position *@pos on into the round, until it is full. */
static void round_pick_slices(struct qcow2_image *img, unsigned *pos)
{
	struct qcow2_tables *t = &img->tables;

	for (; *pos < t->count && img->flusher.blocks < QCOW2_WRITEBACK_BLOCKS; ++*pos) {
		struct qcow2_slice *s = &t->slice[*pos];

		if (!s->dirty)
			continue;
		memcpy(round_add(img, s, qcow2_slice_host(s)), s->entry, QCOW2_SLICE_BYTES);
		s->dirty = false;
		s->writing = true;
		t->dirty--;
	}
}

static void round_pick_l1(struct qcow2_image *img, unsigned *pos)
{
	struct qcow2_tables *t = &img->tables;
	const struct qcow2_layer *layer = img->layer;

	for (; *pos < t->l1_blocks && img->flusher.blocks < QCOW2_WRITEBACK_BLOCKS; ++*pos) {
		uint64_t first = (uint64_t)*pos * QCOW2_SLICE_ENTRIES, i;
		unsigned char *copy;

		if (!t->l1_dirty[*pos])
			continue;
		t->l1_dirty[*pos] = 0;
		t->l1_dirty_count--;
		copy = round_add(img, NULL, layer->header.l1_off + first * 8);
		memset(copy, 0, QCOW2_SLICE_BYTES);
		for (i = 0; i < QCOW2_SLICE_ENTRIES && first + i < layer->header.l1_entries; i++)
			store_be64(copy + i * 8, layer->l1[first + i]);
	}
}

static void flush_idle(struct qcow2_image *img, int error);

static void round_block_done(struct file_op *op, int res)
{
	struct qcow2_writeback_block *block = container_of(op, struct qcow2_writeback_block, io);
	struct qcow2_image *img = block->img;

	if (block->slice)
		block->slice->writing = false;
	if (--img->flusher.pending == 0 || res < 0)
		flush_idle(img, res < 0 ? res : 0);
}

static void round_synced(struct file_op *op, int res)
{
	struct qcow2_image *img = container_of(op, struct qcow2_image, flusher.io);
	struct qcow2_flusher *f = &img->flusher;
	unsigned i;

	if (res < 0) {
		flush_idle(img, res);
		return;
	}
	f->pending = f->blocks;
	for (i = 0; i < f->blocks; i++) {
		f->block[i].io.done = round_block_done;
		file_submit(img->layer->file, &f->block[i].io);
	}
}

static void flush_sync(struct qcow2_image *img, void (*done)(struct file_op *, int))
{
	struct qcow2_flusher *f = &img->flusher;

	f->busy = true;
	f->io = (struct file_op){.kind = FILE_OP_DATASYNC, .done = done};
	file_submit(img->layer->file, &f->io);
}

/* --- the pass ------------------------------------------------------------------------------- */

static void plain_done(struct file_op *op, int res)
{
	flush_idle(container_of(op, struct qcow2_image, flusher.io), res);
}

/* A file system that cannot punch keeps the space; nothing else depends on it. */
static void punch_done(struct file_op *op, int res)
{
	(void)res;
	flush_idle(container_of(op, struct qcow2_image, flusher.io), 0);
}

static bool pass_drained(struct qcow2_image *img)
{
	struct qcow2_writer *w = &img->writer;

	return list_empty(&w->running) ||
	       list_entry(w->running.next, struct qcow2_batch, node)->seq >= img->flusher.until_seq;
}

static void pass_begin(struct qcow2_image *img)
{
	struct qcow2_flusher *f = &img->flusher;

	list_splice(&f->served, &f->waiting);
	f->stage = QCOW2_FLUSH_DRAIN;
	qcow2_start_all_batches(img);
	f->until_seq = img->writer.next_seq;
}

static void pass_end(struct qcow2_image *img, int res)
{
	struct qcow2_flusher *f = &img->flusher;
	struct list *node;

	f->stage = QCOW2_FLUSH_IDLE;
	img->alloc.freed_sealed = 0;
	while ((node = list_pop(&f->served)))
		qcow2_op_finish(list_entry(node, struct qcow2_op, node), res);
}

/* Stages with rounds: true when a round was started, false when the sweep is over. */
static bool pass_round(struct qcow2_image *img,
		       void (*pick)(struct qcow2_image *img, unsigned *pos))
{
	struct qcow2_flusher *f = &img->flusher;

	f->blocks = 0;
	pick(img, &f->cursor);
	if (f->blocks)
		flush_sync(img, round_synced);
	return f->blocks;
}

static bool pass_punch(struct qcow2_image *img)
{
	struct qcow2_flusher *f = &img->flusher;
	struct qcow2_alloc *a = &img->alloc;

	if (f->cursor == a->freed_sealed) {
		a->freed_count -= a->freed_sealed;
		if (a->freed_sealed)
			memmove(a->freed, a->freed + a->freed_sealed,
				a->freed_count * sizeof(*a->freed));
		return false;
	}
	f->busy = true;
	f->io = (struct file_op){
		.kind = FILE_OP_PUNCH,
		.off = a->freed[f->cursor].off,
		.len = a->freed[f->cursor].len,
		.done = punch_done,
	};
	f->cursor++;
	file_submit(img->layer->file, &f->io);
	return true;
}

static void pass_next(struct qcow2_image *img, enum qcow2_flush_stage stage)
{
	img->flusher.stage = stage;
	img->flusher.cursor = 0;
}

/* Does somebody who flushes and then detaches have to wait for what was read ahead? Who flushes in
 * the middle of other work does not. */
static bool reading_ahead(struct qcow2_image *img, struct pool_waiter *waiter)
{
	return img->ops == 1 && qcow2_chain_busy(img->chain, waiter);
}

/* Neither space being reserved ahead nor checksums being logged nor the chain being read: who
 * detaches after a flush leaves nothing behind. */
static bool settled(struct qcow2_image *img)
{
	return !img->alloc.growing && !img->sumlog.writing &&
	       !reading_ahead(img, &img->flusher.read_ahead);
}

/* Runs the pass until it has to wait. */
static void pass_step(struct qcow2_image *img)
{
	struct qcow2_flusher *f = &img->flusher;

	if (f->stage == QCOW2_FLUSH_DRAIN) {
		if (!pass_drained(img))
			return;
		img->alloc.freed_sealed = img->alloc.freed_count;
		pass_next(img, QCOW2_FLUSH_SLICES);
	}
	if (f->stage == QCOW2_FLUSH_SLICES) {
		if (pass_round(img, round_pick_slices))
			return;
		pass_next(img, QCOW2_FLUSH_L1);
	}
	if (f->stage == QCOW2_FLUSH_L1) {
		if (pass_round(img, round_pick_l1))
			return;
		pass_next(img, QCOW2_FLUSH_SYNC);
		flush_sync(img, plain_done);
		return;
	}
	if (f->stage == QCOW2_FLUSH_SYNC) {
		pass_next(img, QCOW2_FLUSH_PUNCH);
		if (img->alloc.freed_sealed)
			img->epoch = !img->epoch;
	}
	if (f->stage == QCOW2_FLUSH_PUNCH) {
		/* A read may have found a cluster before it was freed. */
		if (img->reading[!img->epoch] || pass_punch(img))
			return;
		pass_next(img, QCOW2_FLUSH_SETTLE);
	}
	if (f->stage == QCOW2_FLUSH_SETTLE && settled(img))
		pass_end(img, 0);
}

/* One round on behalf of the table cache, wherever the dirty slices are. */
static bool pressure_round(struct qcow2_image *img)
{
	struct qcow2_flusher *f = &img->flusher;
	unsigned start = f->pressure_pos < img->tables.count ? f->pressure_pos : 0;

	f->pressure = false;
	f->blocks = 0;
	f->pressure_pos = start;
	round_pick_slices(img, &f->pressure_pos);
	if (!f->blocks) {
		f->pressure_pos = 0;
		round_pick_slices(img, &f->pressure_pos);
	}
	if (f->blocks)
		flush_sync(img, round_synced);
	return f->blocks;
}

/* After an image failed nothing more is written; waiting flushes learn it once nothing is pending.
 */
static void fail_step(struct qcow2_image *img, int error)
{
	struct qcow2_flusher *f = &img->flusher;

	qcow2_start_all_batches(img);
	if (!list_empty(&img->writer.running) || !settled(img))
		return;
	list_splice(&f->served, &f->waiting);
	pass_end(img, error);
}

void qcow2_flush_step(struct qcow2_image *img)
{
	struct qcow2_flusher *f = &img->flusher;
	int error = qcow2_error(img);

	if (f->busy)
		return;
	if (error) {
		if (!list_empty(&f->waiting) || !list_empty(&f->served))
			fail_step(img, error);
		return;
	}
	if (f->pressure && pressure_round(img))
		return;
	if (f->stage == QCOW2_FLUSH_IDLE && !list_empty(&f->waiting))
		pass_begin(img);
	if (f->stage != QCOW2_FLUSH_IDLE)
		pass_step(img);
	/* Flushes that came meanwhile get a pass of their own. */
	if (f->stage == QCOW2_FLUSH_IDLE && !list_empty(&f->waiting) && !f->busy)
		qcow2_flush_step(img);
}

/* What was under way is done (or failed): go on. */
static void flush_idle(struct qcow2_image *img, int error)
{
	struct qcow2_flusher *f = &img->flusher;

	if (error)
		qcow2_fail(img, error);
	if (f->pending)
		return;
	f->busy = false;
	qcow2_wake_all(&img->tables.stalled);
	qcow2_flush_step(img);
}

void qcow2_flush_submit(struct qcow2_op *op)
{
	if (!op->img->writable) { /* nothing can be waiting to be stored */
		if (!reading_ahead(op->img, &op->waiter))
			qcow2_op_finish(op, 0);
		return;
	}
	list_add_tail(&op->img->flusher.waiting, &op->node);
	qcow2_flush_step(op->img);
}

void qcow2_flush_tables(struct qcow2_image *img)
{
	img->flusher.pressure = true;
	qcow2_flush_step(img);
}
