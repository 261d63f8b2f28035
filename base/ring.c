#include "base/ring.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"

static void ring_read_clock(struct ring *ring)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	ring->now_ns = now.tv_sec * 1000000000LL + now.tv_nsec;
}

int ring_init(struct ring *ring, unsigned entries, struct err *err)
{
	/* DEFER_TASKRUN keeps completions from interrupting the thread: they run inside
	 * ring_round(), where the caches are ours. */
	struct io_uring_params p = {
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
			 IORING_SETUP_COOP_TASKRUN | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
		.cq_entries = entries * 4,
	};
	int r;

	memset(ring, 0, sizeof(*ring));
	ring->ready_tail = &ring->ready;
	ring->remote_tail = &ring->remote;
	ring->poke_fd = -1;
	list_init(&ring->timers);
	ring_read_clock(ring);
	r = io_uring_queue_init_params(entries, &ring->uring, &p);
	if (r == -EINVAL) {
		/* A kernel without those hints still works, a little slower. */
		p.flags = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
		r = io_uring_queue_init_params(entries, &ring->uring, &p);
	}
	if (r == -EPERM)
		return err_set(err, r,
			       "io_uring is not permitted here: set kernel.io_uring_disabled=0 and "
			       "allow io_uring_* in the service's system call filter");
	if (r)
		return err_sys(err, r, "io_uring cannot be set up (Linux 6.1 or later is needed)");
	return 0;
}

void ring_deinit(struct ring *ring)
{
	io_uring_queue_exit(&ring->uring);
	if (ring->poke_fd >= 0) {
		close(ring->poke_fd);
		pthread_mutex_destroy(&ring->remote_lock);
	}
	ring->poke_fd = -1;
}

struct io_uring_sqe *ring_get_sqe(struct ring *ring)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->uring);

	while (!sqe) {
		int r = io_uring_submit(&ring->uring);

		/* -EBUSY: completions overflowed; making room needs no callback, only a reap by
		 * the kernel's own flush. Anything else is our own mistake. */
		assert(r >= 0 || r == -EBUSY || r == -EAGAIN || r == -EINTR);
		sqe = io_uring_get_sqe(&ring->uring);
	}
	return sqe;
}

void ring_arm(struct ring *ring, struct io_uring_sqe *sqe, struct ring_op *op)
{
	op->next = NULL;
	ring->pending++;
	io_uring_sqe_set_data(sqe, op);
}

static void ring_push(struct ring *ring, struct ring_op *op, int res, uint32_t cqe_flags)
{
	op->res = res;
	op->cqe_flags = cqe_flags;
	op->next = NULL;
	*ring->ready_tail = op;
	ring->ready_tail = &op->next;
}

void ring_post(struct ring *ring, struct ring_op *op, int res)
{
	ring_push(ring, op, res, 0);
}

static void ring_reap(struct ring *ring)
{
	struct io_uring_cqe *cqe;
	unsigned head, n = 0;

	io_uring_for_each_cqe (&ring->uring, head, cqe) {
		ring_push(ring, io_uring_cqe_get_data(cqe), cqe->res, cqe->flags);
		n++;
	}
	io_uring_cq_advance(&ring->uring, n);
	ring->pending -= n;
}

/* Runs what is ready now; what callbacks add waits for the next round. */
static void ring_run_ready(struct ring *ring)
{
	struct ring_op *op = ring->ready, *next;

	ring->ready = NULL;
	ring->ready_tail = &ring->ready;
	for (; op; op = next) {
		next = op->next;
		op->done(op, op->res);
	}
}

/* --- timers --------------------------------------------------------------------------------- */

static struct ring_timer *ring_first_timer(const struct ring *ring)
{
	return list_empty(&ring->timers) ? NULL
					 : list_entry(ring->timers.next, struct ring_timer, node);
}

void ring_set_timer(struct ring *ring, struct ring_timer *timer, int64_t in_ns)
{
	struct list *after = ring->timers.prev;

	timer->at_ns = ring->now_ns + in_ns;
	while (after != &ring->timers &&
	       list_entry(after, struct ring_timer, node)->at_ns > timer->at_ns)
		after = after->prev;
	list_add_head(after, &timer->node);
}

void ring_cancel_timer(struct ring_timer *timer)
{
	list_del(&timer->node);
}

static void ring_run_timers(struct ring *ring)
{
	struct ring_timer *timer;

	while ((timer = ring_first_timer(ring)) && timer->at_ns <= ring->now_ns) {
		list_del(&timer->node);
		timer->done(timer);
	}
}

/* --- the loop ------------------------------------------------------------------------------- */

/* Until something completes, or the first timer is due. */
static int ring_wait(struct ring *ring)
{
	const struct ring_timer *timer = ring_first_timer(ring);
	struct __kernel_timespec ts;
	struct io_uring_cqe *cqe;
	int64_t in_ns;

	if (!timer)
		return io_uring_submit_and_wait(&ring->uring, 1);
	in_ns = MAX(timer->at_ns - ring->now_ns, 0);
	ts.tv_sec = in_ns / 1000000000;
	ts.tv_nsec = in_ns % 1000000000;
	return io_uring_submit_and_wait_timeout(&ring->uring, &cqe, 1, &ts, NULL);
}

bool ring_expects(const struct ring *ring)
{
	return ring->ready || !list_empty(&ring->timers) ||
	       ring->pending > (unsigned)(ring->poke_fd >= 0);
}

static int ring_turn(struct ring *ring, bool wait)
{
	int r = wait ? ring_wait(ring) : io_uring_submit_and_get_events(&ring->uring);

	if (r < 0 && r != -EINTR && r != -EBUSY && r != -EAGAIN && r != -ETIME)
		return r;
	ring_reap(ring);
	ring_read_clock(ring);
	ring_run_timers(ring);
	ring_run_ready(ring);
	return 0;
}

int ring_round(struct ring *ring)
{
	return ring_turn(ring, !ring->ready);
}

int ring_pass(struct ring *ring)
{
	return ring_turn(ring, false);
}

static void ring_arm_poke(struct ring *ring)
{
	struct io_uring_sqe *sqe = ring_get_sqe(ring);

	io_uring_prep_read(sqe, ring->poke_fd, &ring->poke_value, sizeof(ring->poke_value), 0);
	ring_arm(ring, sqe, &ring->poke_op);
}

static void ring_take_remote(struct ring *ring)
{
	struct ring_op *op, *next;

	pthread_mutex_lock(&ring->remote_lock);
	op = ring->remote;
	ring->remote = NULL;
	ring->remote_tail = &ring->remote;
	pthread_mutex_unlock(&ring->remote_lock);
	for (; op; op = next) {
		next = op->next;
		ring_push(ring, op, op->res, 0);
	}
}

static void ring_poked(struct ring_op *op, int res)
{
	struct ring *ring = container_of(op, struct ring, poke_op);

	(void)res;
	ring_arm_poke(ring);
	ring_take_remote(ring);
	if (ring->on_poke)
		ring->on_poke(ring);
}

void ring_set_poke(struct ring *ring, void (*on_poke)(struct ring *ring))
{
	ring->on_poke = on_poke;
	if (ring->poke_fd >= 0)
		return;
	ring->poke_fd = eventfd(0, EFD_CLOEXEC);
	assert(ring->poke_fd >= 0);
	pthread_mutex_init(&ring->remote_lock, NULL);
	ring->poke_op.done = ring_poked;
	ring_arm_poke(ring);
}

void ring_poke(struct ring *ring)
{
	uint64_t one = 1;

	/* Fails only when the counter is full, and then the loop is awake anyway. */
	if (write(ring->poke_fd, &one, sizeof(one)) < 0)
		return;
}

void ring_post_from(struct ring *ring, struct ring_op *op, int res)
{
	bool first;

	op->res = res;
	op->next = NULL;
	pthread_mutex_lock(&ring->remote_lock);
	first = !ring->remote;
	*ring->remote_tail = op;
	ring->remote_tail = &op->next;
	pthread_mutex_unlock(&ring->remote_lock);
	if (first)
		ring_poke(ring);
}
