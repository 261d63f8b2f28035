#include "nbd/turns.h"

#include "base/bytes.h"
#include "nbd/conn.h"
#include "nbd/server_priv.h"

#define SERVING_STEP_NS 10000000LL
#define PERIOD_MIN_NS	1000000LL
#define PERIOD_MAX_NS	100000000LL /* somebody may have stopped being served meanwhile */

static int64_t percent(const struct nbd_worker *worker)
{
	return worker->limits.handshake_percent;
}

void nbd_turns_serving(struct nbd_worker *worker)
{
	int64_t now = nbd_now_ns(worker);

	if (now - worker->serving_ns < SERVING_STEP_NS)
		return;
	worker->serving_ns = now;
	atomic_store_explicit(&worker->server->serving_ns, now, memory_order_relaxed);
}

static bool is_serving(const struct nbd_worker *worker)
{
	int64_t last = atomic_load_explicit(&worker->server->serving_ns, memory_order_relaxed);

	return last && nbd_now_ns(worker) - last < NBD_TURN_QUIET_NS;
}

/* --- credit ----------------------------------------------------------------------------------- */

static void credit(struct nbd_worker *worker)
{
	struct nbd_turns *turns = &worker->turns;
	int64_t now = nbd_now_ns(worker), max = NBD_TURN_SAVED_S * 10000000LL * percent(worker);
	int64_t more = (now - turns->credited_ns) / 100 * percent(worker);

	turns->credited_ns = now;
	turns->credit_ns = MIN(turns->credit_ns + more, max);
}

static bool is_open(struct nbd_worker *worker)
{
	credit(worker);
	return worker->turns.credit_ns > 0 || !is_serving(worker);
}

/* --- whose turn it is ------------------------------------------------------------------------- */

static int64_t last_turn(const struct nbd_conn *conn)
{
	return conn->peer ? atomic_load_explicit(&conn->peer->turn_ns, memory_order_relaxed)
			  : conn->worker->turns.local_ns;
}

static void note_turn(struct nbd_conn *conn)
{
	int64_t now = nbd_now_ns(conn->worker);

	if (conn->peer)
		atomic_store_explicit(&conn->peer->turn_ns, now, memory_order_relaxed);
	else
		conn->worker->turns.local_ns = now;
}

static struct nbd_conn *next_conn(struct nbd_turns *turns)
{
	struct nbd_conn *next = NULL;
	struct list *node;

	list_for_each (node, &turns->waiting) {
		struct nbd_conn *conn = list_entry(node, struct nbd_conn, turn);

		if (!next || last_turn(conn) < last_turn(next))
			next = conn;
	}
	return next;
}

static void turns_arm(struct nbd_worker *worker)
{
	struct nbd_turns *turns = &worker->turns;
	int64_t ns = -turns->credit_ns / percent(worker) * 100;
	struct io_uring_sqe *sqe = ring_get_sqe(&worker->ring);

	ns = MIN(MAX(ns, PERIOD_MIN_NS), PERIOD_MAX_NS);
	turns->period = (struct __kernel_timespec){.tv_nsec = ns};
	io_uring_prep_timeout(sqe, &turns->period, 0, 0);
	ring_arm(&worker->ring, sqe, &turns->op);
	turns->armed = true;
}

/* One at a time: what it costs is known when it is over. */
static void grant(struct nbd_worker *worker)
{
	struct nbd_turns *turns = &worker->turns;

	if (turns->granted || list_empty(&turns->waiting))
		return;
	if (is_open(worker)) {
		turns->granted = next_conn(turns);
		list_del(&turns->granted->turn);
		note_turn(turns->granted);
		nbd_conn_unblock(turns->granted, NBD_BLOCK_TURN);
	} else if (!turns->armed) {
		turns_arm(worker);
	}
}

static void turns_due(struct ring_op *op, int res)
{
	struct nbd_worker *worker = container_of(op, struct nbd_worker, turns.op);

	(void)res;
	worker->turns.armed = false;
	grant(worker);
}

void nbd_turns_init(struct nbd_worker *worker)
{
	list_init(&worker->turns.waiting);
	worker->turns.op.done = turns_due;
	worker->turns.credited_ns = nbd_now_ns(worker);
	worker->turns.credit_ns = NBD_TURN_SAVED_S * 10000000LL * percent(worker);
}

/* --- the connection's side -------------------------------------------------------------------- */

bool nbd_turn_take(struct nbd_conn *conn)
{
	struct nbd_worker *worker = conn->worker;
	struct nbd_turns *turns = &worker->turns;

	if (turns->granted == conn) {
		turns->granted = NULL;
		return true;
	}
	if (!turns->granted && list_empty(&turns->waiting) && is_open(worker)) {
		note_turn(conn);
		return true;
	}
	nbd_count(&worker->counters.waited, 1);
	list_add_tail(&turns->waiting, &conn->turn);
	nbd_conn_block(conn, NBD_BLOCK_TURN);
	grant(worker);
	return false;
}

void nbd_turn_cost(struct nbd_worker *worker, int64_t ns)
{
	worker->turns.credit_ns -= ns;
	grant(worker);
}

void nbd_turn_forget(struct nbd_conn *conn)
{
	struct nbd_turns *turns = &conn->worker->turns;

	list_del(&conn->turn);
	if (turns->granted != conn)
		return;
	turns->granted = NULL;
	grant(conn->worker);
}
