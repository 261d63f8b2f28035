#include "qcow2/session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

struct wait {
	struct qcow2_op op;
	struct pool_waiter room;
	bool done;
	int res;
};

int qcow2_session_init(struct qcow2_session *s, unsigned batches, struct err *err)
{
	int r;

	memset(s, 0, sizeof(*s));
	r = ring_init(&s->ring, 128, err);
	if (r) {
		memset(s, 0, sizeof(*s));
		return r;
	}
	if ((r = pool_init(&s->batches, batches, QCOW2_BATCH_SIZE, err)) ||
	    (r = pool_init(&s->bounces, MAX(batches / 2, QCOW2_BOUNCES_MIN), QCOW2_BOUNCE_SIZE,
			   err)))
		qcow2_session_deinit(s);
	return r;
}

void qcow2_session_deinit(struct qcow2_session *s)
{
	bool started = s->ring.ready_tail;

	pool_deinit(&s->batches);
	pool_deinit(&s->bounces);
	if (started)
		ring_deinit(&s->ring);
	memset(s, 0, sizeof(*s));
}

int qcow2_session_open(struct qcow2_session *s, const char *path,
		       const struct qcow2_open_opts *opts, struct err *err)
{
	struct qcow2_io io = {&s->ring, &s->batches, &s->bounces};
	int r = qcow2_open(&s->img, path, opts, err);

	if (r) {
		s->img = NULL;
		return r;
	}
	r = qcow2_attach(s->img, &io, err);
	if (r) {
		qcow2_close(s->img);
		s->img = NULL;
	}
	return r;
}

static int wait_for(struct qcow2_session *s, struct wait *w)
{
	int r = 0;

	while (!w->done && !r)
		r = ring_round(&s->ring);
	return r ? r : w->res;
}

static void op_done(struct qcow2_op *op, int res)
{
	struct wait *w = container_of(op, struct wait, op);

	w->done = true;
	w->res = res;
}

static int run(struct qcow2_session *s, struct wait *w)
{
	w->done = false;
	w->op.done = op_done;
	qcow2_submit(s->img, &w->op);
	return wait_for(s, w);
}

static void room_woken(struct pool_waiter *waiter)
{
	container_of(waiter, struct wait, room)->done = true;
}

static int wait_room(struct qcow2_session *s)
{
	struct wait w = {.room.wake = room_woken};

	list_init(&w.room.node);
	qcow2_wait_room(s->img, &w.room);
	return wait_for(s, &w);
}

int qcow2_session_write(struct qcow2_session *s, uint64_t off, const void *buf, size_t len)
{
	size_t taken = 0;

	while (taken < len) {
		ssize_t n =
			qcow2_write(s->img, off + taken, (const char *)buf + taken, len - taken);
		int r = n == -EAGAIN ? wait_room(s) : n < 0 ? (int)n : 0;

		if (r)
			return r;
		if (n > 0)
			taken += n;
	}
	return 0;
}

int qcow2_session_read(struct qcow2_session *s, uint64_t off, void *buf, size_t len)
{
	struct wait w = {.op = {.kind = QCOW2_OP_READ, .off = off, .len = len, .buf = buf}};

	return run(s, &w);
}

int qcow2_session_zero(struct qcow2_session *s, uint64_t off, uint64_t len)
{
	struct wait w = {.op = {.kind = QCOW2_OP_ZERO, .off = off, .len = len}};

	return run(s, &w);
}

int qcow2_session_flush(struct qcow2_session *s)
{
	struct wait w = {.op = {.kind = QCOW2_OP_FLUSH}};

	return run(s, &w);
}

int qcow2_session_extents(struct qcow2_session *s, uint64_t off, uint64_t len,
			  struct qcow2_extent *extents, unsigned max, unsigned *count)
{
	struct wait w = {.op = {.kind = QCOW2_OP_EXTENTS,
				.off = off,
				.len = len,
				.extents = extents,
				.extent_max = max}};
	int r = run(s, &w);

	*count = w.op.extent_count;
	return r;
}

int qcow2_session_close(struct qcow2_session *s, struct err *err)
{
	struct qcow2_info info;
	int r = qcow2_session_flush(s);

	qcow2_get_info(s->img, &info);
	if (r)
		err_sys(err, r, "the image could not be stored");
	qcow2_detach(s->img);
	if (info.writable && !r)
		r = qcow2_finalize(s->img, err);
	qcow2_close(s->img);
	s->img = NULL;
	return r;
}

void qcow2_session_drop(struct qcow2_session *s)
{
	if (!s->img)
		return;
	qcow2_abandon(s->img);
	qcow2_session_flush(s); /* -ECANCELED; waits for what is on its way */
	qcow2_detach(s->img);
	qcow2_close(s->img);
	s->img = NULL;
}
