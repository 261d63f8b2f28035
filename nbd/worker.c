#include "nbd/worker.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "nbd/conn.h"
#include "nbd/retract.h"
#include "nbd/listener.h"
#include "nbd/server_priv.h"

#define STAGING_GROUP 0

/* --- mail ------------------------------------------------------------------------------------- */

void nbd_worker_post(struct nbd_worker *worker, struct nbd_mail *mail)
{
	pthread_mutex_lock(&worker->mail_lock);
	list_add_tail(&worker->mail, &mail->node);
	/* Inside the lock: a worker that has seen its last mail closes the ring. */
	ring_poke(&worker->ring);
	pthread_mutex_unlock(&worker->mail_lock);
}

static void worker_open_mail(struct ring *ring)
{
	struct nbd_worker *worker = container_of(ring, struct nbd_worker, ring);
	struct list mails, *node;

	list_init(&mails);
	pthread_mutex_lock(&worker->mail_lock);
	list_splice(&mails, &worker->mail);
	pthread_mutex_unlock(&worker->mail_lock);
	while ((node = list_pop(&mails))) {
		struct nbd_mail *mail = list_entry(node, struct nbd_mail, node);

		mail->open(worker, mail);
	}
}

static int call_wait(struct nbd_server *server, struct nbd_call *call)
{
	pthread_mutex_lock(&server->call_lock);
	while (!call->done)
		pthread_cond_wait(&server->call_done, &server->call_lock);
	pthread_mutex_unlock(&server->call_lock);
	return call->result;
}

int nbd_worker_call(struct nbd_worker *worker, struct nbd_call *call)
{
	nbd_worker_post(worker, &call->mail);
	return call_wait(worker->server, call);
}

void nbd_call_answer(struct nbd_worker *worker, struct nbd_call *call, int result)
{
	struct nbd_server *server = worker->server;

	pthread_mutex_lock(&server->call_lock);
	call->result = result;
	call->done = true;
	pthread_cond_broadcast(&server->call_done);
	pthread_mutex_unlock(&server->call_lock);
}

/* --- staging ---------------------------------------------------------------------------------- */

void *nbd_staging_at(struct nbd_worker *worker, unsigned index)
{
	return worker->staging.mem + (size_t)index * NBD_STAGING_SIZE;
}

static void staging_lend(struct nbd_worker *worker, unsigned index)
{
	int mask = io_uring_buf_ring_mask(NBD_STAGING);

	io_uring_buf_ring_add(worker->staging_ring, nbd_staging_at(worker, index), NBD_STAGING_SIZE,
			      index, mask, 0);
	io_uring_buf_ring_advance(worker->staging_ring, 1);
}

/* All of the starved try again: one that has nothing to receive now must not keep the others from
 * the buffer. */
void nbd_staging_put(struct nbd_worker *worker, unsigned index)
{
	struct list starved, *node;

	assert(worker->staging_held > 0);
	worker->staging_held--;
	staging_lend(worker, index);
	list_init(&starved);
	list_splice(&starved, &worker->starved);
	while ((node = list_pop(&starved)))
		nbd_conn_unstarve(list_entry(node, struct nbd_conn, starved));
}

/* The kernel picks a buffer when bytes arrive, so that a connection that waits holds none. */
static int staging_init(struct nbd_worker *worker, struct err *err)
{
	struct io_uring_buf_reg reg = {.ring_entries = NBD_STAGING, .bgid = STAGING_GROUP};
	void *mem;
	unsigned i;
	int r;

	_Static_assert((NBD_STAGING & (NBD_STAGING - 1)) == 0, "a buffer ring is a power of two");
	if (posix_memalign(&mem, 4096, NBD_STAGING * sizeof(struct io_uring_buf)))
		return err_set(err, -ENOMEM, "no memory for the receive buffers");
	memset(mem, 0, NBD_STAGING * sizeof(struct io_uring_buf));
	reg.ring_addr = (uintptr_t)mem;
	r = io_uring_register_buf_ring(&worker->ring.uring, &reg, 0);
	if (r) {
		free(mem);
		return err_sys(err, r,
			       "the kernel takes no receive buffers (Linux 6.1 or later is "
			       "needed)");
	}
	worker->staging_ring = mem;
	io_uring_buf_ring_init(worker->staging_ring);
	for (i = 0; i < NBD_STAGING; i++)
		staging_lend(worker, i);
	return 0;
}

/* --- accepting -------------------------------------------------------------------------------- */

static void acceptor_arm(struct nbd_acceptor *a)
{
	struct io_uring_sqe *sqe;

	if (a->worker->deaf)
		return;
	sqe = ring_get_sqe(&a->worker->ring);
	io_uring_prep_accept(sqe, a->listener->fd, NULL, NULL, SOCK_CLOEXEC);
	ring_arm(&a->worker->ring, sqe, &a->op);
	a->armed = true;
}

static bool accept_error_passes(int res)
{
	return res == -ECONNABORTED || res == -EINTR || res == -EAGAIN || res == -EPROTO;
}

static void worker_settle(struct nbd_worker *worker);

static void accepted(struct ring_op *op, int res)
{
	struct nbd_acceptor *a = container_of(op, struct nbd_acceptor, op);
	struct nbd_worker *worker = a->worker;

	a->armed = false;
	if (worker->stopping) {
		if (res >= 0)
			close(res);
		worker_settle(worker);
		return;
	}
	if (res >= 0)
		nbd_conn_start(worker, a->listener, res);
	else if (!accept_error_passes(res) && !worker->deaf) {
		/* Out of descriptors or memory: the tick tries again, clients queue up. */
		if (!a->fault_said)
			log_warn(&worker->log, "cannot accept connections: %s", strerror(-res));
		a->fault_said = true;
		return;
	}
	a->fault_said = false;
	acceptor_arm(a);
	worker_settle(worker);
}

static void accept_cancelled(struct ring_op *op, int res)
{
	struct nbd_acceptor *a = container_of(op, struct nbd_acceptor, cancel);

	(void)res;
	a->cancelling = false;
	worker_settle(a->worker);
}

static void acceptor_cancel(struct nbd_acceptor *a)
{
	struct io_uring_sqe *sqe;

	if (!a->armed || a->cancelling)
		return;
	sqe = ring_get_sqe(&a->worker->ring);
	io_uring_prep_cancel(sqe, &a->op, 0);
	ring_arm(&a->worker->ring, sqe, &a->cancel);
	a->cancelling = true;
}

struct listen_call {
	struct nbd_call call;
	struct nbd_acceptor *acceptor;
};

static void worker_add_acceptor(struct nbd_worker *worker, struct nbd_mail *mail)
{
	struct listen_call *l = container_of(mail, struct listen_call, call.mail);

	list_add_tail(&worker->acceptors, &l->acceptor->node);
	acceptor_arm(l->acceptor);
	nbd_call_answer(worker, &l->call, 0);
}

void nbd_worker_listen(struct nbd_worker *worker, const struct nbd_listener *listener,
		       struct nbd_acceptor *acceptor)
{
	struct listen_call l = {.call.mail.open = worker_add_acceptor, .acceptor = acceptor};

	acceptor->worker = worker;
	acceptor->listener = listener;
	acceptor->op.done = accepted;
	acceptor->cancel.done = accept_cancelled;
	nbd_worker_call(worker, &l.call);
}

struct adopt_call {
	struct nbd_call call;
	int fd;
};

static void worker_adopt(struct nbd_worker *worker, struct nbd_mail *mail)
{
	struct adopt_call *adopt = container_of(mail, struct adopt_call, call.mail);

	if (worker->stopping)
		close(adopt->fd);
	else
		nbd_conn_start(worker, &worker->server->adopted, adopt->fd);
	nbd_call_answer(worker, &adopt->call, 0);
}

void nbd_worker_adopt(struct nbd_worker *worker, int fd)
{
	struct adopt_call adopt = {.call.mail.open = worker_adopt, .fd = fd};

	nbd_worker_call(worker, &adopt.call);
}

/* --- the tick --------------------------------------------------------------------------------- */

static void tick_arm(struct nbd_worker *worker)
{
	struct io_uring_sqe *sqe = ring_get_sqe(&worker->ring);

	io_uring_prep_timeout(sqe, &worker->tick_period, 0, 0);
	ring_arm(&worker->ring, sqe, &worker->tick);
	worker->ticking = true;
}

static void pace_arm(struct nbd_worker *worker)
{
	struct io_uring_sqe *sqe = ring_get_sqe(&worker->ring);

	io_uring_prep_timeout(sqe, &worker->pace_period, 0, 0);
	ring_arm(&worker->ring, sqe, &worker->pace);
	worker->pacing = true;
}

static void paced(struct ring_op *op, int res)
{
	struct nbd_worker *worker = container_of(op, struct nbd_worker, pace);
	struct list *node;
	unsigned i;

	(void)res;
	worker->pacing = false;
	for (i = 0; i < NBD_PACE_BATCH && (node = list_pop(&worker->paced)); i++)
		nbd_conn_resume(list_entry(node, struct nbd_conn, paced));
	if (!list_empty(&worker->paced))
		pace_arm(worker);
}

void nbd_worker_pace(struct nbd_worker *worker, struct list *node)
{
	nbd_count(&worker->counters.paced, 1);
	list_del(node);
	list_add_tail(&worker->paced, node);
	if (!worker->pacing)
		pace_arm(worker);
}

static void relief_arm(struct nbd_worker *worker)
{
	struct io_uring_sqe *sqe = ring_get_sqe(&worker->ring);

	io_uring_prep_timeout(sqe, &worker->relief_period, 0, 0);
	ring_arm(&worker->ring, sqe, &worker->relief);
	worker->relieving = true;
}

static void relieved(struct ring_op *op, int res)
{
	struct nbd_worker *worker = container_of(op, struct nbd_worker, relief);
	struct list *node, *next;

	(void)res;
	worker->relieving = false;
	if (!worker->relief_wanted && !pool_wanted(&worker->reads))
		return;
	worker->relief_wanted = false;
	list_for_each_safe (node, next, &worker->conns)
		nbd_retract_begin(list_entry(node, struct nbd_conn, node));
	relief_arm(worker);
}

void nbd_worker_relieve(struct nbd_worker *worker)
{
	worker->relief_wanted = true;
	if (!worker->relieving)
		relief_arm(worker);
}

static unsigned list_length(const struct list *list)
{
	const struct list *node;
	unsigned n = 0;

	list_for_each (node, list)
		n++;
	return n;
}

static void tell_pool(struct nbd_pool_counters *c, unsigned free, const struct list *waiters,
		      uint64_t waits)
{
	atomic_store_explicit(&c->free, free, memory_order_relaxed);
	atomic_store_explicit(&c->waiters, list_length(waiters), memory_order_relaxed);
	atomic_store_explicit(&c->waits, waits, memory_order_relaxed);
}

/* The pools are the worker's own: who watches gets to see what they were like at the tick. */
static void tell_pools(struct nbd_worker *worker)
{
	const struct pool *pools[NBD_POOLS] = {
		[NBD_POOL_BATCHES] = &worker->batches,
		[NBD_POOL_BOUNCES] = &worker->bounces,
		[NBD_POOL_READS] = &worker->reads,
		[NBD_POOL_SLOTS] = &worker->slots,
	};
	struct nbd_pool_counters *c = worker->counters.pools;

	for (unsigned i = 0; i < NBD_POOLS; i++)
		if (pools[i])
			tell_pool(&c[i], pools[i]->free_count, &pools[i]->waiters, pools[i]->waits);
	tell_pool(&c[NBD_POOL_STAGING], NBD_STAGING - worker->staging_held, &worker->starved,
		  worker->staging_waits);
}

static void ticked(struct ring_op *op, int res)
{
	struct nbd_worker *worker = container_of(op, struct nbd_worker, tick);
	/* Somebody waits for a buffer that a client may be sitting on. */
	bool pressure = pool_wanted(&worker->reads);
	struct list *node, *next;

	(void)res;
	worker->ticking = false;
	tell_pools(worker);
	list_for_each_safe (node, next, &worker->conns)
		nbd_conn_tick(list_entry(node, struct nbd_conn, node), pressure);
	if (!worker->deaf)
		list_for_each (node, &worker->acceptors) {
			struct nbd_acceptor *a = list_entry(node, struct nbd_acceptor, node);

			if (!a->armed)
				acceptor_arm(a);
		}
	if (!worker->leaving)
		tick_arm(worker);
}

static void tick_cancelled(struct ring_op *op, int res)
{
	(void)res;
	container_of(op, struct nbd_worker, tick_cancel)->tick_cancelling = false;
}

/* Fine enough for the timeouts, rare enough to cost nothing. */
static struct __kernel_timespec tick_period(const struct nbd_server_config *config)
{
	unsigned ms = MIN(config->handshake_timeout_ms, config->stall_timeout_ms) / 4;

	if (config->idle_timeout_ms)
		ms = MIN(ms, config->idle_timeout_ms / 4);
	ms = ms < 20 ? 20 : ms > 1000 ? 1000 : ms;
	return (struct __kernel_timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
}

struct limit_call {
	struct nbd_call call;
	const struct nbd_server_config *limits;
};

/* What a connection may have in flight shrinks at once; it grows again as for any. */
static void worker_limit(struct nbd_worker *worker, struct nbd_mail *mail)
{
	struct limit_call *limit = container_of(mail, struct limit_call, call.mail);
	unsigned reads = limit->limits->max_inflight_bytes / NBD_SEGMENT;
	struct list *node;

	worker->limits = *limit->limits;
	worker->tick_period = tick_period(&worker->limits);
	list_for_each (node, &worker->conns) {
		struct nbd_conn *conn = list_entry(node, struct nbd_conn, node);

		conn->read_allow = MIN(conn->read_allow, reads);
	}
	nbd_call_answer(worker, &limit->call, 0);
}

void nbd_worker_limit(struct nbd_worker *worker, const struct nbd_server_config *limits)
{
	struct limit_call limit = {.call.mail.open = worker_limit, .limits = limits};

	nbd_worker_call(worker, &limit.call);
}

/* --- stopping --------------------------------------------------------------------------------- */

static bool acceptors_idle(struct nbd_worker *worker)
{
	struct list *node;

	list_for_each (node, &worker->acceptors) {
		struct nbd_acceptor *a = list_entry(node, struct nbd_acceptor, node);

		if (a->armed || a->cancelling)
			return false;
	}
	return true;
}

static void worker_settle(struct nbd_worker *worker)
{
	if (worker->deafen && acceptors_idle(worker))
		nbd_call_answer(worker, steal(&worker->deafen), 0);
	if (worker->quiesce && list_empty(&worker->conns))
		nbd_call_answer(worker, steal(&worker->quiesce), 0);
}

void nbd_worker_conn_gone(struct nbd_worker *worker)
{
	worker_settle(worker);
}

static void worker_begin_deafen(struct nbd_worker *worker, struct nbd_mail *mail)
{
	struct list *node;

	worker->deaf = true;
	worker->deafen = container_of(mail, struct nbd_call, mail);
	list_for_each (node, &worker->acceptors)
		acceptor_cancel(list_entry(node, struct nbd_acceptor, node));
	worker_settle(worker);
}

void nbd_worker_stop_accepting(struct nbd_worker *worker)
{
	struct nbd_call call = {.mail.open = worker_begin_deafen};

	nbd_worker_call(worker, &call);
}

static void worker_end_conns(struct nbd_worker *worker, struct nbd_mail *mail)
{
	struct list *node, *next;

	worker->stopping = true;
	list_for_each_safe (node, next, &worker->conns)
		nbd_conn_end(list_entry(node, struct nbd_conn, node));
	nbd_call_answer(worker, container_of(mail, struct nbd_call, mail), 0);
}

void nbd_worker_end_conns(struct nbd_worker *worker)
{
	struct nbd_call call = {.mail.open = worker_end_conns};

	nbd_worker_call(worker, &call);
}

static void worker_begin_quiesce(struct nbd_worker *worker, struct nbd_mail *mail)
{
	worker->quiesce = container_of(mail, struct nbd_call, mail);
	worker_settle(worker);
}

void nbd_worker_quiesce(struct nbd_worker *worker)
{
	struct nbd_call call = {.mail.open = worker_begin_quiesce};

	nbd_worker_call(worker, &call);
}

static void worker_leave(struct nbd_worker *worker, struct nbd_mail *mail)
{
	worker->leaving = true;
	if (worker->ticking) {
		struct io_uring_sqe *sqe = ring_get_sqe(&worker->ring);

		io_uring_prep_timeout_remove(sqe, (uintptr_t)&worker->tick, 0);
		ring_arm(&worker->ring, sqe, &worker->tick_cancel);
		worker->tick_cancelling = true;
	}
	nbd_call_answer(worker, container_of(mail, struct nbd_call, mail), 0);
}

/* --- the thread ------------------------------------------------------------------------------- */

static int worker_pools(struct nbd_worker *worker, struct err *err)
{
	const struct {
		struct pool *pool;
		unsigned count;
		size_t size;
	} rows[] = {
		{&worker->batches, worker->server->config.batch_count, NBD_BATCH_SIZE},
		{&worker->bounces, NBD_BOUNCES, NBD_BOUNCE_SIZE},
		{&worker->staging, NBD_STAGING, NBD_STAGING_SIZE},
		{&worker->reads, NBD_READS, NBD_READ_SIZE},
		{&worker->slots, NBD_SLOTS, NBD_SLOT_SIZE},
	};
	unsigned i;
	int r;

	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		r = pool_init(rows[i].pool, rows[i].count, rows[i].size, err);
		if (r)
			return r;
	}
	return 0;
}

static int worker_init(struct nbd_worker *worker, struct err *err)
{
	int r = ring_init(&worker->ring, NBD_RING_ENTRIES, err);

	if (r)
		return r;
	r = worker_pools(worker, err);
	if (!r)
		r = staging_init(worker, err);
	if (r) {
		ring_deinit(&worker->ring);
		return r;
	}
	ring_set_poke(&worker->ring, worker_open_mail);
	worker->io = (struct nbd_worker_io){
		.ring = &worker->ring,
		.batches = &worker->batches,
		.bounces = &worker->bounces,
	};
	worker->tick.done = ticked;
	worker->tick_cancel.done = tick_cancelled;
	worker->pace.done = paced;
	worker->pace_period.tv_nsec = NBD_PACE_MS * 1000000L;
	worker->relief.done = relieved;
	worker->relief_period.tv_nsec = NBD_RELIEF_MS * 1000000L;
	nbd_turns_init(worker);
	worker->tick_period = tick_period(&worker->limits);
	tell_pools(worker);
	tick_arm(worker);
	return 0;
}

/* A ring that fails a round is out of memory at worst: it may do the next one. */
static void worker_loop(struct nbd_worker *worker)
{
	bool said = false;

	while (!worker->leaving || worker->ticking || worker->tick_cancelling ||
	       worker->relieving || worker->pacing || worker->turns.armed ||
	       !list_empty(&worker->conns)) {
		int r = ring_round(&worker->ring);

		if (!r)
			continue;
		if (!said)
			log_error(&worker->log, "io_uring fails: %s", strerror(-r));
		said = true;
		usleep(10000);
	}
}

static void *worker_main(void *arg)
{
	struct nbd_call *call = arg;
	struct nbd_worker *worker = container_of(call, struct nbd_worker, start);
	int r = worker_init(worker, call->err);

	nbd_call_answer(worker, call, r);
	if (r)
		return NULL;
	worker_loop(worker);
	assert(list_empty(&worker->conns) && list_empty(&worker->exports));
	io_uring_unregister_buf_ring(&worker->ring.uring, STAGING_GROUP);
	ring_deinit(&worker->ring);
	return NULL;
}

/* Signals are the program's business, on a thread of its choice. */
static int thread_create_quiet(pthread_t *thread, void *(*main)(void *), void *arg)
{
	sigset_t all, before;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(thread, NULL, main, arg);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -r;
}

static void worker_free(struct nbd_worker *worker)
{
	pool_deinit(&worker->batches);
	pool_deinit(&worker->bounces);
	pool_deinit(&worker->staging);
	pool_deinit(&worker->reads);
	pool_deinit(&worker->slots);
	free(worker->staging_ring);
	pthread_mutex_destroy(&worker->mail_lock);
}

int nbd_worker_start(struct nbd_worker *worker, struct nbd_server *server, unsigned index,
		     struct err *err)
{
	char name[16];
	int r;

	worker->server = server;
	worker->limits = server->config;
	log_scope_init(&worker->log, "nbd worker %u", index);
	list_init(&worker->starved);
	list_init(&worker->paced);
	list_init(&worker->conns);
	list_init(&worker->exports);
	list_init(&worker->acceptors);
	list_init(&worker->mail);
	pthread_mutex_init(&worker->mail_lock, NULL);
	worker->start.err = err;
	r = thread_create_quiet(&worker->thread, worker_main, &worker->start);
	if (r) {
		worker_free(worker);
		return err_sys(err, r, "cannot start an NBD worker thread");
	}
	r = call_wait(server, &worker->start);
	if (r) {
		pthread_join(worker->thread, NULL);
		worker_free(worker);
		return r;
	}
	snprintf(name, sizeof(name), "nbd-%u", index);
	pthread_setname_np(worker->thread, name);
	worker->started = true;
	return 0;
}

void nbd_worker_stop(struct nbd_worker *worker)
{
	struct nbd_call call = {.mail.open = worker_leave};

	if (!worker->started)
		return;
	nbd_worker_call(worker, &call);
	pthread_join(worker->thread, NULL);
	worker->started = false;
	worker_free(worker);
}
