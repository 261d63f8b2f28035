/*
 * WRITE_ZEROES and TRIM. What already reads as zeroes is left alone; whole clusters change their
 * entry (a zero cluster over a parent, none at all without one); the unaligned ends are written as
 * bytes. Where a parent lies below, an entry is never merely cleared: that would bring its old data
 * back.
 */
#include "qcow2/image.h"

static const unsigned char zeroes[64 * 1024];

/* One whole cluster without a slot that does not read as zeroes yet. 0, -EAGAIN, -errno. */
static int zero_cluster(struct qcow2_op *op, uint64_t cluster)
{
	struct qcow2_image *img = op->img;
	struct qcow2_slice *slice;
	uint64_t old;
	struct qcow2_sumlog_entry entry = {
		.cluster = cluster, .kind = QCOW2_SUMLOG_ZERO, .count = 1};
	int r = qcow2_table_get(img, cluster, true, &op->waiter, &slice);

	if (!r)
		r = qcow2_sumlog_add(img, &entry, &op->waiter);
	if (r)
		return r;
	old = qcow2_slice_entry(slice, cluster);
	qcow2_slice_set(slice, cluster, img->chain ? QCOW2_ENTRY_ZERO : 0);
	qcow2_free_entry(img, old);
	return 0;
}

/* A cluster that has a slot in memory. */
static int zero_slot(struct qcow2_op *op, struct qcow2_slot *slot)
{
	if (qcow2_slot_started(slot)) {
		qcow2_wait_room(op->img, &op->waiter);
		return -EAGAIN;
	}
	qcow2_slot_make_zero(slot);
	return 0;
}

static int zero_bytes(struct qcow2_op *op, uint64_t off, uint64_t len, uint64_t *moved)
{
	ssize_t n = qcow2_write_bytes(op->img, off, zeroes, MIN(len, sizeof(zeroes)));

	if (n == -EAGAIN)
		qcow2_wait_room(op->img, &op->waiter);
	if (n < 0)
		return n;
	*moved = n;
	return 0;
}

/* Deals with the piece at the cursor: 0 and *@moved, -EAGAIN, or -errno. */
static int zero_piece(struct qcow2_op *op, uint64_t *moved)
{
	struct qcow2_image *img = op->img;
	const struct qcow2_geom *g = &img->geom;
	uint64_t off = op->off + op->cursor, left = op->len - op->cursor;
	uint64_t cluster = off >> g->cluster_bits, in = off & (g->cluster_size - 1);
	uint64_t piece = MIN(left, g->cluster_size - in);
	/* The disk's last cluster is whole when its last byte is reached. */
	bool whole = in == 0 && (piece == g->cluster_size || off + piece == g->size);
	struct qcow2_slot *slot = qcow2_slot_find(img, cluster);
	struct qcow2_run run;
	int r;

	*moved = piece;
	if (slot)
		return whole ? zero_slot(op, slot) : zero_bytes(op, off, piece, moved);
	r = qcow2_map_find(img, off, left, &op->waiter, &run);
	if (r)
		return r;
	if (run.kind == QCOW2_KIND_NONE || run.kind == QCOW2_KIND_ZERO) {
		*moved = qcow2_slots_clear(img, off, run.len);
		return 0;
	}
	return whole ? zero_cluster(op, cluster) : zero_bytes(op, off, piece, moved);
}

/* The cursor moves on; of a cluster it passed in pieces all that was asked for may be dealt with.
 */
static void zero_moved(struct qcow2_op *op, uint64_t moved)
{
	uint64_t from = align_down(op->off + op->cursor, op->img->geom.cluster_size);

	op->cursor += moved;
	from = MAX(from, op->off);
	qcow2_received_range(op->img, from, op->off + op->cursor - from);
}

void qcow2_zero_step(struct qcow2_op *op)
{
	struct qcow2_image *img = op->img;
	unsigned pieces = 0;

	while (op->cursor < op->len) {
		uint64_t moved;
		int r = qcow2_error(img);

		if (pieces++ == QCOW2_TURN_PIECES) {
			qcow2_op_yield(op);
			return;
		}
		if (!r)
			r = zero_piece(op, &moved);
		if (r == -EAGAIN)
			return;
		if (r) {
			qcow2_op_finish(op, r);
			return;
		}
		zero_moved(op, moved);
	}
	qcow2_count(&img->counters.received, op->len);
	qcow2_count(&img->counters.zero, op->len);
	qcow2_note_highest(img, op->off + op->len);
	qcow2_op_finish(op, 0);
}
