/*
 * Reads run ahead in a small circle of pieces; pieces are handed out in order. What the map calls
 * zero is not read at all, so an empty terabyte costs its tables only.
 */
#include "qcow2/scan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"

#define SCAN_DEPTH   8
#define SCAN_EXTENTS 128
/* Mapped at once: little enough to be known already, see chain.h. */
#define SCAN_STRETCH (64 * MIB)

struct piece {
	struct qcow2_op op;
	uint64_t off, len;
	unsigned char *buf;
	bool zero, done;
	int res;
};

struct scan {
	struct ring ring;
	struct pool bufs;
	struct qcow2_image *img;
	const struct qcow2_scan_ops *ops;
	void *arg;
	uint64_t limit;	   /* nothing from here on will be asked for */
	uint64_t pos, end; /* next piece to start; where this part stops */
	struct piece piece[SCAN_DEPTH];
	unsigned first, count; /* the circle */
	struct qcow2_op map;
	struct qcow2_extent extent[SCAN_EXTENTS];
	bool mapped;
	uint64_t mapped_from, mapped_to;
};

static void map_done(struct qcow2_op *op, int res)
{
	struct scan *s = container_of(op, struct scan, map);

	op->res = res;
	s->mapped = true;
}

static void piece_done(struct qcow2_op *op, int res)
{
	struct piece *p = container_of(op, struct piece, op);

	p->res = res;
	p->done = true;
}

/* Learns what [pos, pos + stretch) holds. A map that cannot be read is read as data, and fails
 * there. */
static int scan_map(struct scan *s)
{
	uint64_t i, len = MIN(s->limit - s->pos, SCAN_STRETCH), sum = 0;
	int r = 0;

	s->mapped = false;
	s->map = (struct qcow2_op){
		.kind = QCOW2_OP_EXTENTS,
		.off = s->pos,
		.len = len,
		.extents = s->extent,
		.extent_max = SCAN_EXTENTS,
		.done = map_done,
	};
	qcow2_submit(s->img, &s->map);
	while (!s->mapped && !r)
		r = ring_round(&s->ring);
	for (i = 0; i < s->map.extent_count; i++)
		sum += s->extent[i].len;
	s->mapped_from = s->pos;
	s->mapped_to = s->pos + (sum ? MIN(sum, len) : len);
	return r;
}

/* Up to where [off, ...) is known to be zero; @off itself when it is not. */
static uint64_t zero_until(const struct scan *s, uint64_t off)
{
	uint64_t at = s->mapped_from;
	unsigned i;

	for (i = 0; i < s->map.extent_count; i++) {
		at += s->extent[i].len;
		if (at <= off)
			continue;
		if (!(s->extent[i].flags & QCOW2_EXTENT_ZERO))
			return off;
		off = MIN(at, s->mapped_to);
	}
	return off;
}

/* Starts the piece at pos: as large a zero piece as is known, or one read. */
static int scan_start_piece(struct scan *s)
{
	struct piece *p = &s->piece[(s->first + s->count) % SCAN_DEPTH];
	uint64_t zero, end = MIN(s->end, align_down(s->pos, QCOW2_SCAN_PIECE) + QCOW2_SCAN_PIECE);

	if (s->pos < s->mapped_from || s->pos >= s->mapped_to) {
		int r = scan_map(s);

		if (r)
			return r;
	}
	zero = MIN(zero_until(s, s->pos), s->end);
	if (zero < s->end)
		zero = align_down(zero, QCOW2_SCAN_PIECE);
	p->off = s->pos;
	p->zero = zero > s->pos;
	p->done = p->zero;
	p->res = 0;
	p->len = (p->zero ? zero : end) - s->pos;
	s->pos += p->len;
	s->count++;
	if (p->zero)
		return 0;
	p->op.kind = QCOW2_OP_READ;
	p->op.off = p->off;
	p->op.len = p->len;
	p->op.buf = p->buf = pool_get(&s->bufs);
	p->op.done = piece_done;
	qcow2_submit(s->img, &p->op);
	return 0;
}

/* A piece that failed is read again cluster by cluster, so that only what is lost is called lost.
 */
static int scan_in_small(struct scan *s, struct piece *p)
{
	uint64_t end = p->off + p->len;
	struct qcow2_info info;
	int r = 0;

	qcow2_get_info(s->img, &info);
	for (p->op.off = p->off; !r && p->op.off < end; p->op.off += info.cluster_size) {
		p->op.len = MIN(end - p->op.off, info.cluster_size);
		p->done = false;
		qcow2_submit(s->img, &p->op);
		while (!p->done && !r)
			r = ring_round(&s->ring);
		if (!r)
			r = s->ops->piece(s->arg, p->op.off, p->res ? NULL : p->buf, p->op.len,
					  p->res);
	}
	return r;
}

/* The first piece makes room for another. */
static void scan_drop_piece(struct scan *s)
{
	struct piece *p = &s->piece[s->first];

	if (p->buf)
		pool_put(&s->bufs, steal(&p->buf));
	s->first = (s->first + 1) % SCAN_DEPTH;
	s->count--;
}

static int scan_hand_out(struct scan *s)
{
	struct piece *p = &s->piece[s->first];
	int r;

	if (p->res)
		r = scan_in_small(s, p);
	else
		r = s->ops->piece(s->arg, p->off, p->buf, p->len, 0);
	scan_drop_piece(s);
	return r;
}

/* Waits for the pieces nobody will be given, and for what was read ahead. */
static void scan_drain(struct scan *s)
{
	int r = 0;

	while (s->count && !r) {
		while (!s->piece[s->first].done && !r)
			r = ring_round(&s->ring);
		scan_drop_piece(s);
	}
	while (s->count) /* the ring is broken: nothing will come any more */
		scan_drop_piece(s);
	s->mapped = false;
	s->map = (struct qcow2_op){.kind = QCOW2_OP_FLUSH, .done = map_done};
	qcow2_submit(s->img, &s->map);
	while (!s->mapped && !r)
		r = ring_round(&s->ring);
}

/* Moves on to the next part that is wanted; none: pos stays at the end. */
static int scan_next(struct scan *s)
{
	int r;

	if (s->pos < s->end || !s->ops->next)
		return 0;
	r = s->ops->next(s->arg, &s->pos, &s->end);
	if (!r)
		s->pos = s->end;
	return MIN(r, 0);
}

static int scan_run(struct scan *s)
{
	int r = scan_next(s);

	while (!r && (s->pos < s->end || s->count)) {
		while (!r && s->pos < s->end && s->count < SCAN_DEPTH) {
			r = scan_start_piece(s);
			if (!r)
				r = scan_next(s);
		}
		if (!r) /* reads run while a piece is dealt with */
			r = ring_pass(&s->ring);
		while (!r && !s->piece[s->first].done)
			r = ring_round(&s->ring);
		if (!r)
			r = scan_hand_out(s);
	}
	scan_drain(s);
	return r;
}

int qcow2_scan(const char *path, const char *repository, uint64_t from, uint64_t len,
	       const struct qcow2_scan_ops *ops, void *arg, struct err *err)
{
	struct qcow2_open_opts opts = {.repository = repository};
	_cleanup_(freep) struct scan *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return err_set(err, -ENOMEM, "no memory to read '%s'", path);
	s->ops = ops;
	s->arg = arg;
	s->pos = ops->next ? from + len : from;
	s->end = s->limit = from + len;
	if ((r = ring_init(&s->ring, 128, err)))
		return r;
	r = qcow2_open(&s->img, path, &opts, err);
	if (!r)
		r = pool_init_lazy(&s->bufs, SCAN_DEPTH, QCOW2_SCAN_PIECE, err);
	if (!r)
		r = qcow2_attach(s->img, &(struct qcow2_io){.ring = &s->ring}, err);
	if (!r) {
		r = scan_run(s);
		if (r < 0)
			err_sys(err, r, "cannot read '%s'", path);
		qcow2_detach(s->img);
	}
	qcow2_close(s->img);
	pool_deinit(&s->bufs);
	ring_deinit(&s->ring);
	return r;
}
