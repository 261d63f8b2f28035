/*
 * Reading: guest bytes from memory slots, this file, or the chain behind it; and the same walk
 * without the bytes for extents. An operation keeps several file reads in flight, one a lane.
 */
#include <string.h>

#include "base/cleanup.h"
#include "qcow2/image.h"

/* --- where a guest offset lives ------------------------------------------------------------- */

static bool own_continues(enum qcow2_kind kind, uint64_t host, enum qcow2_kind next_kind,
			  uint64_t next_host, uint64_t bytes)
{
	if (kind != next_kind || kind == QCOW2_KIND_PACKED || kind == QCOW2_KIND_BAD)
		return false;
	return kind != QCOW2_KIND_DATA || next_host == host + bytes;
}

/* The longest run at @off that one slice describes alike. */
static void slice_find(const struct qcow2_slice *s, uint64_t off, uint64_t max,
		       struct qcow2_run *run)
{
	const struct qcow2_image *img = s->img;
	const struct qcow2_geom *g = &img->geom;
	uint64_t cluster = off >> g->cluster_bits, in = off & (g->cluster_size - 1), host = 0;
	enum qcow2_kind kind =
		qcow2_layer_entry(img->layer, qcow2_slice_entry(s, cluster), 0, 0, &host);
	uint64_t len = g->cluster_size - in, n = 1;

	while (len < max && (cluster + n) % QCOW2_SLICE_ENTRIES) {
		uint64_t next_host = 0;
		enum qcow2_kind next = qcow2_layer_entry(
			img->layer, qcow2_slice_entry(s, cluster + n), 0, 0, &next_host);

		if (!own_continues(kind, host, next, next_host, n << g->cluster_bits))
			break;
		len += g->cluster_size;
		n++;
	}
	*run = (struct qcow2_run){
		.kind = kind,
		.layer = img->layer,
		.host = kind == QCOW2_KIND_DATA ? host + in : host,
		.len = MIN(len, max),
	};
}

int qcow2_map_find(struct qcow2_image *img, uint64_t off, uint64_t max, struct pool_waiter *waiter,
		   struct qcow2_run *run)
{
	const struct qcow2_geom *g = &img->geom;
	uint64_t table_span = g->cluster_size << g->l2_bits;
	struct qcow2_slice *slice;
	int r;

	if (!img->writable)
		return qcow2_chain_find(img->chain, off, max, waiter, run);
	r = qcow2_table_get(img, off >> g->cluster_bits, false, waiter, &slice);
	if (r)
		return r;
	if (!slice)
		run->len = MIN(max, table_span - (off & (table_span - 1)));
	else
		slice_find(slice, off, max, run);
	if (slice && run->kind != QCOW2_KIND_NONE)
		return 0;
	return qcow2_chain_find(img->chain, off, run->len, waiter, run);
}

/* --- slots in memory ------------------------------------------------------------------------ */

enum slot_answer {
	SLOT_ABSENT, /* nothing in memory for *max bytes at least */
	SLOT_WAIT,   /* only a part is in memory: it has to be stored first */
	SLOT_ZERO,
	SLOT_DATA,
};

/* What memory knows about guest offset @off; cuts *@max to what the answer covers. */
static enum slot_answer slot_look(struct qcow2_image *img, uint64_t off, uint64_t *max,
				  struct qcow2_slot **out)
{
	const struct qcow2_geom *g = &img->geom;
	uint64_t in = off & (g->cluster_size - 1);
	struct qcow2_slot *s;

	if (!img->writable || !img->writer.live)
		return SLOT_ABSENT;
	*max = MIN(*max, g->cluster_size - in);
	s = qcow2_slot_find(img, off >> g->cluster_bits);
	if (!s)
		return SLOT_ABSENT;
	*out = s;
	if (s->ranges != 1 || s->range[0].from > in || s->range[0].to < in + *max)
		return SLOT_WAIT;
	return s->zero ? SLOT_ZERO : SLOT_DATA;
}

/* --- one operation -------------------------------------------------------------------------- */

static void op_step(struct qcow2_op *op)
{
	switch (op->kind) {
	case QCOW2_OP_READ:
		qcow2_read_step(op);
		break;
	case QCOW2_OP_ZERO:
		qcow2_zero_step(op);
		break;
	case QCOW2_OP_EXTENTS:
		qcow2_extents_step(op);
		break;
	case QCOW2_OP_FLUSH:
		qcow2_flush_submit(op);
		break;
	}
}

static void op_posted(struct ring_op *ring_op, int res)
{
	struct qcow2_op *op = container_of(ring_op, struct qcow2_op, post);

	(void)res;
	op->posted = false;
	if (op->finished) {
		op->img->ops--;
		op->done(op, op->res);
	} else {
		op_step(op);
	}
}

/* Runs the operation in the next round: completions and wakers must not run it themselves. */
static void op_post(struct qcow2_op *op)
{
	if (op->posted)
		return;
	op->posted = true;
	op->post.done = op_posted;
	ring_post(op->img->io.ring, &op->post, 0);
}

static void op_wake(struct pool_waiter *waiter)
{
	op_post(container_of(waiter, struct qcow2_op, waiter));
}

void qcow2_op_start(struct qcow2_image *img, struct qcow2_op *op, enum qcow2_view view)
{
	op->img = img;
	op->view = view;
	op->cursor = 0;
	op->res = 0;
	op->lanes_busy = 0;
	op->finished = op->posted = false;
	op->extent_count = 0;
	list_init(&op->node);
	list_init(&op->waiter.node);
	op->waiter.wake = op_wake;
	img->ops++;
	op_post(op);
}

static void turn_post(struct qcow2_image *img);

static void turn_come(struct ring_op *ring_op, int res)
{
	struct qcow2_image *img = container_of(ring_op, struct qcow2_image, turn);

	(void)res;
	img->turning = false;
	op_step(list_entry(list_pop(&img->turns), struct qcow2_op, node));
	if (!list_empty(&img->turns))
		turn_post(img);
}

static void turn_post(struct qcow2_image *img)
{
	if (img->turning)
		return;
	img->turning = true;
	img->turn.done = turn_come;
	ring_post(img->io.ring, &img->turn, 0);
}

void qcow2_op_yield(struct qcow2_op *op)
{
	list_add_tail(&op->img->turns, &op->node);
	turn_post(op->img);
}

void qcow2_submit(struct qcow2_image *img, struct qcow2_op *op)
{
	assert(img->io.ring);
	qcow2_op_start(img, op, QCOW2_VIEW_GUEST);
}

void qcow2_op_finish(struct qcow2_op *op, int res)
{
	list_del(&op->waiter.node);
	op->res = res;
	op->finished = true;
	op_post(op);
}

/* --- READ ----------------------------------------------------------------------------------- */

static struct qcow2_lane *lane_get(struct qcow2_op *op)
{
	unsigned i = __builtin_ctz(~op->lanes_busy);

	if (i >= QCOW2_OP_LANES)
		return NULL;
	op->lanes_busy |= 1U << i;
	op->lane[i].op = op;
	return &op->lane[i];
}

/* A flush may wait for the reads of the epoch before. */
static void reading_done(struct qcow2_image *img, unsigned *reading)
{
	if (--*reading == 0 && reading != &img->reading[img->epoch])
		qcow2_flush_step(img);
}

static void lane_put(struct qcow2_lane *lane, int res)
{
	struct qcow2_op *op = lane->op;

	op->lanes_busy &= ~(1U << (lane - op->lane));
	if (lane->reading)
		reading_done(op->img, lane->reading);
	if (res < 0 && !op->res)
		op->res = res;
	/* Only when it is needed: every lane taken, or the last one back. */
	if (!op->lanes_busy || op->cursor < op->len)
		op_post(op);
}

static void lane_submit(struct qcow2_lane *lane, const struct qcow2_layer *layer)
{
	struct qcow2_image *img = lane->op->img;

	lane->reading = layer == img->layer ? &img->reading[img->epoch] : NULL;
	if (lane->reading)
		++*lane->reading;
	file_submit(layer->file, &lane->file);
}

static void data_done(struct file_op *file_op, int res)
{
	struct qcow2_lane *lane = container_of(file_op, struct qcow2_lane, file);

	/* The last cluster of a file may be cut short: the rest of it was never written. */
	if (res >= 0 && (size_t)res < file_op->len)
		memset((unsigned char *)file_op->buf + res, 0, file_op->len - res);
	lane_put(lane, res);
}

static void lane_read(struct qcow2_lane *lane, const struct qcow2_run *run, void *buf)
{
	lane->file = (struct file_op){
		.kind = FILE_OP_READ,
		.buf = buf,
		.len = run->len,
		.off = run->host,
		.done = data_done,
	};
	lane_submit(lane, run->layer);
}

static void packed_done(struct file_op *file_op, int res)
{
	struct qcow2_lane *lane = container_of(file_op, struct qcow2_lane, file);
	struct qcow2_image *img = lane->op->img;
	unsigned head = (lane->packed_off & 511);

	if (res >= 0 && (unsigned)res > head) {
		res = qcow2_unpack(lane->layer, lane->packed + head, res - head, img->unpacker.out);
		if (!res)
			memcpy(lane->dst, img->unpacker.out + lane->skip, lane->want);
	} else if (res >= 0) {
		res = -EIO;
	}
	qcow2_unpacker_put(img, steal(&lane->packed));
	lane_put(lane, res);
}

/* A compressed cluster: read the sectors it lies in, then unpack. False: no buffer now. */
static bool lane_read_packed(struct qcow2_lane *lane, const struct qcow2_run *run, uint64_t off,
			     void *buf)
{
	const struct qcow2_geom *g = &run->layer->geom;
	struct qcow2_image *img = lane->op->img;
	uint64_t host, len;

	lane->packed = qcow2_unpacker_get(img, &lane->op->waiter);
	if (!lane->packed)
		return false;
	qcow2_packed_place(g, run->host, &host, &len);
	lane->layer = run->layer;
	lane->dst = buf;
	lane->skip = off & (g->cluster_size - 1);
	lane->want = run->len;
	lane->packed_off = host;
	lane->file = (struct file_op){
		.kind = FILE_OP_READ,
		.cached = true,
		.buf = lane->packed,
		.off = align_down(host, 512),
		.len = MIN(len + (host & 511), img->unpacker.slot_size),
		.done = packed_done,
	};
	lane_submit(lane, run->layer);
	return true;
}

/* Starts or finishes one piece at the cursor. False: it has to wait. */
static bool read_piece(struct qcow2_op *op)
{
	struct qcow2_image *img = op->img;
	uint64_t off = op->off + op->cursor, max = op->len - op->cursor;
	unsigned char *buf = (unsigned char *)op->buf + op->cursor;
	struct qcow2_lane *lane;
	struct qcow2_slot *slot;
	struct qcow2_run run;
	int r;

	if (op->view == QCOW2_VIEW_GUEST) {
		switch (slot_look(img, off, &max, &slot)) {
		case SLOT_WAIT:
			qcow2_start_all_batches(img);
			qcow2_wait_room(img, &op->waiter);
			return false;
		case SLOT_DATA:
			memcpy(buf, qcow2_slot_data(slot) + (off & (img->geom.cluster_size - 1)),
			       max);
			op->cursor += max;
			return true;
		case SLOT_ZERO:
			memset(buf, 0, max);
			op->cursor += max;
			return true;
		case SLOT_ABSENT:
			break;
		}
	}
	if (op->view == QCOW2_VIEW_PARENT)
		r = qcow2_chain_find(img->chain, off, max, &op->waiter, &run);
	else
		r = qcow2_map_find(img, off, max, &op->waiter, &run);
	if (r == -EAGAIN)
		return false;
	if (r || run.kind == QCOW2_KIND_BAD) {
		op->res = r ? r : -EIO;
		return true;
	}
	if (run.kind == QCOW2_KIND_NONE || run.kind == QCOW2_KIND_ZERO) {
		memset(buf, 0, run.len);
		op->cursor += run.len;
		return true;
	}
	lane = lane_get(op);
	if (!lane)
		return false;
	if (run.kind == QCOW2_KIND_DATA) {
		lane_read(lane, &run, buf);
	} else if (!lane_read_packed(lane, &run, off, buf)) {
		op->lanes_busy &= ~(1U << (lane - op->lane));
		return false;
	}
	op->cursor += run.len;
	return true;
}

/* What a failed image lost of the writes it took nobody knows: what the guest would see is unknown.
 */
static int op_trust(const struct qcow2_op *op)
{
	return op->view == QCOW2_VIEW_GUEST ? qcow2_error(op->img) : 0;
}

void qcow2_read_step(struct qcow2_op *op)
{
	if (!op->res)
		op->res = op_trust(op);
	while (op->cursor < op->len && !op->res)
		if (!read_piece(op))
			return;
	/* A failed read that still waits has started loading a table: that has to end first. */
	if (!op->lanes_busy && (!op->res || list_empty(&op->waiter.node)))
		qcow2_op_finish(op, op->res);
}

/* --- EXTENTS -------------------------------------------------------------------------------- */

static uint32_t extent_flags(enum qcow2_kind kind)
{
	if (kind == QCOW2_KIND_NONE)
		return QCOW2_EXTENT_HOLE | QCOW2_EXTENT_ZERO;
	return kind == QCOW2_KIND_ZERO ? QCOW2_EXTENT_ZERO : QCOW2_EXTENT_DATA;
}

/* False: no room for another extent. */
static bool extent_add(struct qcow2_op *op, uint64_t len, uint32_t flags)
{
	struct qcow2_extent *last = op->extents + op->extent_count - 1;

	if (op->extent_count && last->flags == flags) {
		last->len += len;
		return true;
	}
	if (op->extent_count == op->extent_max)
		return false;
	op->extents[op->extent_count++] = (struct qcow2_extent){.len = len, .flags = flags};
	return true;
}

/* Describes the piece at the cursor: 0, or as qcow2_map_find(). */
static int extents_piece(struct qcow2_op *op, uint64_t *len, uint32_t *flags)
{
	uint64_t off = op->off + op->cursor, left = op->len - op->cursor, max = left;
	struct qcow2_slot *slot;
	struct qcow2_run run;
	int r;

	switch (slot_look(op->img, off, &max, &slot)) {
	case SLOT_ABSENT:
		r = qcow2_map_find(op->img, off, left, &op->waiter, &run);
		if (r)
			return r;
		*len = qcow2_slots_clear(op->img, off, run.len);
		*flags = extent_flags(run.kind);
		return 0;
	case SLOT_ZERO:
		*flags = QCOW2_EXTENT_ZERO;
		break;
	default:
		*flags = QCOW2_EXTENT_DATA;
	}
	*len = max;
	return 0;
}

void qcow2_extents_step(struct qcow2_op *op)
{
	unsigned pieces = 0;
	int r = op_trust(op);

	while (!r && op->cursor < op->len) {
		uint64_t len;
		uint32_t flags;

		if (pieces++ == QCOW2_TURN_PIECES) {
			qcow2_op_yield(op);
			return;
		}
		r = extents_piece(op, &len, &flags);
		if (r == -EAGAIN)
			return;
		if (r || !extent_add(op, len, flags))
			break;
		op->cursor += len;
	}
	qcow2_op_finish(op, r);
}
