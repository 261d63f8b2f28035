/*
 * An export without anything behind it: takes every byte, reads as zeroes, answers at once. What is
 * left is the protocol, which makes it the speed of light of bench/ and a simple target for tests.
 */
#include "nbd/export_null.h"

#include <string.h>

#include "base/list.h"

struct null_op {
	struct ring_op post;
};

static struct null_op *null_op(struct nbd_io *io)
{
	_Static_assert(sizeof(struct null_op) <= NBD_OP_SPACE, "fits the request");
	return (struct null_op *)io->op;
}

static void null_done(struct ring_op *op, int res)
{
	struct nbd_io *io = nbd_io_of(container_of(op, struct null_op, post));

	io->done(io, res);
}

static int null_attach(void *target, const struct nbd_worker_io *io, struct err *err)
{
	struct nbd_null *null = target;

	(void)err;
	null->ring = io->ring;
	return 0;
}

static void null_detach(void *target)
{
	((struct nbd_null *)target)->ring = NULL;
}

static ssize_t null_write(void *target, uint64_t off, const void *buf, size_t len)
{
	(void)target;
	(void)off;
	(void)buf;
	return len;
}

/* Never full: nobody waits. */
static void null_wait_room(void *target, struct pool_waiter *waiter)
{
	(void)target;
	(void)waiter;
}

static void null_finish(void *target, struct nbd_io *io)
{
	struct nbd_null *null = target;

	null_op(io)->post.done = null_done;
	ring_post(null->ring, &null_op(io)->post, 0);
}

static void null_read(void *target, struct nbd_io *io)
{
	memset(io->buf, 0, io->len);
	null_finish(target, io);
}

static void null_extents(void *target, struct nbd_io *io)
{
	io->extents[0] = (struct nbd_extent){.len = io->len, .flags = 3};
	io->extent_count = 1;
	null_finish(target, io);
}

const struct nbd_export_ops nbd_export_null_ops = {
	.attach = null_attach,
	.detach = null_detach,
	.write = null_write,
	.wait_room = null_wait_room,
	.read = null_read,
	.zero = null_finish,
	.flush = null_finish,
	.extents = null_extents,
};
