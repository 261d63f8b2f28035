#include "tests/support/imgloop.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct wait {
	struct qcow2_op op;
	struct pool_waiter room;
	bool done;
	int res;
};

void imgloop_start(struct imgloop *loop, unsigned batches)
{
	struct err err;

	memset(loop, 0, sizeof(*loop));
	if (ring_init(&loop->ring, 64, &err) ||
	    pool_init(&loop->batches, batches, QCOW2_BATCH_SIZE, &err) ||
	    pool_init(&loop->bounces, QCOW2_BOUNCES_MIN, QCOW2_BOUNCE_SIZE, &err)) {
		fprintf(stderr, "imgloop: %s\n", err.text);
		abort();
	}
}

void imgloop_stop(struct imgloop *loop)
{
	pool_deinit(&loop->batches);
	pool_deinit(&loop->bounces);
	ring_deinit(&loop->ring);
}

int imgloop_open(struct imgloop *loop, const char *path, const struct qcow2_open_opts *opts)
{
	struct qcow2_io io = {&loop->ring, &loop->batches, &loop->bounces};
	struct err err = ERR_INIT;
	int r = qcow2_open(&loop->img, path, opts, &err);

	if (r) {
		printf("# open: %s\n", err.text);
		loop->img = NULL;
		return r;
	}
	r = qcow2_attach(loop->img, &io, &err);
	assert(!r);
	return 0;
}

static void op_done(struct qcow2_op *op, int res)
{
	struct wait *w = container_of(op, struct wait, op);

	w->done = true;
	w->res = res;
}

static int run(struct imgloop *loop, struct wait *w)
{
	int r;

	w->done = false;
	w->op.done = op_done;
	qcow2_submit(loop->img, &w->op);
	while (!w->done) {
		r = ring_round(&loop->ring);
		assert(!r);
	}
	return w->res;
}

static void room_woken(struct pool_waiter *waiter)
{
	container_of(waiter, struct wait, room)->done = true;
}

int imgloop_write(struct imgloop *loop, uint64_t off, const void *buf, size_t len)
{
	size_t taken = 0;

	while (taken < len) {
		ssize_t n =
			qcow2_write(loop->img, off + taken, (const char *)buf + taken, len - taken);
		struct wait w = {.room.wake = room_woken};

		if (n > 0)
			taken += n;
		else if (n != -EAGAIN)
			return n;
		else {
			list_init(&w.room.node);
			qcow2_wait_room(loop->img, &w.room);
			while (!w.done)
				if (ring_round(&loop->ring))
					abort();
		}
	}
	return 0;
}

int imgloop_read(struct imgloop *loop, uint64_t off, void *buf, size_t len)
{
	struct wait *w = calloc(1, sizeof(*w));
	int r;

	w->op.kind = QCOW2_OP_READ;
	w->op.off = off;
	w->op.len = len;
	w->op.buf = buf;
	r = run(loop, w);
	free(w);
	return r;
}

int imgloop_zero(struct imgloop *loop, uint64_t off, uint64_t len)
{
	struct wait w = {.op = {.kind = QCOW2_OP_ZERO, .off = off, .len = len}};

	return run(loop, &w);
}

int imgloop_flush(struct imgloop *loop)
{
	struct wait w = {.op = {.kind = QCOW2_OP_FLUSH}};

	return run(loop, &w);
}

int imgloop_received(struct imgloop *loop, uint64_t off, uint64_t len, struct qcow2_extent *extents,
		     unsigned max, unsigned *count)
{
	*count = qcow2_received(loop->img, off, len, extents, max);
	return imgloop_flush(loop);
}

int imgloop_extents(struct imgloop *loop, uint64_t off, uint64_t len, struct qcow2_extent *extents,
		    unsigned max, unsigned *count)
{
	struct wait w = {.op = {.kind = QCOW2_OP_EXTENTS,
				.off = off,
				.len = len,
				.extents = extents,
				.extent_max = max}};
	int r = run(loop, &w);

	*count = w.op.extent_count;
	return r;
}

int imgloop_close(struct imgloop *loop)
{
	struct qcow2_info info;
	struct err err = ERR_INIT;
	int r = imgloop_flush(loop);

	qcow2_get_info(loop->img, &info);
	qcow2_detach(loop->img);
	if (info.writable && !r)
		r = qcow2_finalize(loop->img, &err);
	qcow2_close(loop->img);
	loop->img = NULL;
	return r;
}

void imgloop_drop(struct imgloop *loop)
{
	qcow2_abandon(loop->img);
	imgloop_flush(loop);
	qcow2_detach(loop->img);
	qcow2_close(loop->img);
	loop->img = NULL;
}
