/*
 * NBD requests as image operations, one to one. The image's own operation lives inside the request.
 */
#include "nbd/export_qcow2.h"

_Static_assert(sizeof(struct qcow2_op) <= NBD_OP_SPACE, "an image operation fits the request");
_Static_assert(sizeof(struct nbd_extent) == sizeof(struct qcow2_extent) &&
		       offsetof(struct nbd_extent, len) == offsetof(struct qcow2_extent, len) &&
		       offsetof(struct nbd_extent, flags) == offsetof(struct qcow2_extent, flags),
	       "extents are handed through as they are");

/* base:allocation says hole = 1, zero = 2; the image says it the other way round. */
static uint32_t extent_flags(uint32_t flags)
{
	return (flags & QCOW2_EXTENT_HOLE ? 1 : 0) | (flags & QCOW2_EXTENT_ZERO ? 2 : 0);
}

static void op_done(struct qcow2_op *op, int res)
{
	struct nbd_io *io = nbd_io_of(op);

	io->done(io, res);
}

static void extents_done(struct qcow2_op *op, int res)
{
	struct nbd_io *io = nbd_io_of(op);
	unsigned i;

	io->extent_count = op->extent_count;
	for (i = 0; !res && i < io->extent_count; i++)
		io->extents[i].flags = extent_flags(io->extents[i].flags);
	io->done(io, res);
}

static void op_submit(void *target, struct nbd_io *io, enum qcow2_op_kind kind)
{
	struct qcow2_op *op = (struct qcow2_op *)io->op;

	op->kind = kind;
	op->off = io->off;
	op->len = io->len;
	op->done = op_done;
	switch (kind) {
	case QCOW2_OP_READ:
		op->buf = io->buf;
		break;
	case QCOW2_OP_EXTENTS:
		op->extents = (struct qcow2_extent *)io->extents;
		op->extent_max = io->extent_max;
		op->extent_count = 0;
		op->done = extents_done;
		break;
	case QCOW2_OP_ZERO:
		break;
	case QCOW2_OP_FLUSH:
		op->off = op->len = 0;
		break;
	}
	qcow2_submit(target, op);
}

static int image_attach(void *target, const struct nbd_worker_io *io, struct err *err)
{
	const struct qcow2_io lent = {
		.ring = io->ring,
		.batches = io->batches,
		.bounces = io->bounces,
	};

	return qcow2_attach(target, &lent, err);
}

static void image_detach(void *target)
{
	qcow2_detach(target);
}

static ssize_t image_write(void *target, uint64_t off, const void *buf, size_t len)
{
	return qcow2_write(target, off, buf, len);
}

static void image_wait_room(void *target, struct pool_waiter *waiter)
{
	qcow2_wait_room(target, waiter);
}

static void image_read(void *target, struct nbd_io *io)
{
	op_submit(target, io, QCOW2_OP_READ);
}

static void image_zero(void *target, struct nbd_io *io)
{
	op_submit(target, io, QCOW2_OP_ZERO);
}

static void image_flush(void *target, struct nbd_io *io)
{
	op_submit(target, io, QCOW2_OP_FLUSH);
}

static void image_extents(void *target, struct nbd_io *io)
{
	op_submit(target, io, QCOW2_OP_EXTENTS);
}

/* First the list, then the flush that makes it true. */
static void image_received(void *target, struct nbd_io *io)
{
	_Static_assert(QCOW2_EXTENT_RECEIVED == 1, "as on the wire");
	io->extent_count = qcow2_received(target, io->off, io->len,
					  (struct qcow2_extent *)io->extents, io->extent_max);
	op_submit(target, io, QCOW2_OP_FLUSH);
}

static void image_abandon(void *target)
{
	qcow2_abandon(target);
}

const struct nbd_export_ops nbd_export_qcow2_ops = {
	.attach = image_attach,
	.detach = image_detach,
	.write = image_write,
	.wait_room = image_wait_room,
	.read = image_read,
	.zero = image_zero,
	.flush = image_flush,
	.extents = image_extents,
	.received = image_received,
	.abandon = image_abandon,
};
