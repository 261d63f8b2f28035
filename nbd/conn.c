#include "nbd/conn.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/bytes.h"
#include "nbd/handshake.h"
#include "nbd/probe.h"
#include "nbd/read.h"
#include "nbd/reply.h"
#include "nbd/request.h"
#include "nbd/server_priv.h"
#include "nbd/tls.h"
#include "nbd/tls_creds.h"
#include "nbd/turns.h"

#define KEEPALIVE_IDLE_S     60
#define KEEPALIVE_INTERVAL_S 15
#define KEEPALIVE_PROBES     4
/* Unix sockets only, TCP tunes itself: large READs gain a third, small ones lose nothing to speak
 * of; what a WRITE gains is up to the client's own buffer. */
#define SOCKET_BUFFER (1 << 20)

/* --- blocking --------------------------------------------------------------------------------- */

bool nbd_conn_block(struct nbd_conn *conn, enum nbd_block why)
{
	conn->block = why;
	return false;
}

static void conn_post_wake(struct nbd_conn *conn)
{
	if (conn->wake_posted)
		return;
	conn->wake_posted = true;
	ring_post(&conn->worker->ring, &conn->wake_op, 0);
}

void nbd_conn_unblock(struct nbd_conn *conn, enum nbd_block why)
{
	if (conn->block != why || why == NBD_BLOCK_NONE)
		return;
	pool_cancel(&conn->waiter);
	conn->block = NBD_BLOCK_NONE;
	conn_post_wake(conn);
}

/* Inside pool_put(), or the export's equivalent. */
static void conn_woken(struct pool_waiter *waiter)
{
	struct nbd_conn *conn = container_of(waiter, struct nbd_conn, waiter);

	nbd_conn_unblock(conn, conn->block);
}

static void conn_wake_done(struct ring_op *op, int res)
{
	struct nbd_conn *conn = container_of(op, struct nbd_conn, wake_op);
	struct nbd_worker *worker = conn->worker;

	(void)res;
	conn->wake_posted = false;
	if (conn->dead)
		nbd_conn_settle(conn);
	else
		nbd_conn_run(conn);
	/* It may have been woken for a request slot and had no use for it. */
	pool_pass(&worker->slots);
}

/* --- the pump --------------------------------------------------------------------------------- */

/* Where bytes go that no staging buffer takes. */
static unsigned char *conn_home(struct nbd_conn *conn)
{
	return conn->tls ? conn->tls->home : conn->inbuf;
}

/* Bytes to ask for so that what remains behind @due bytes of payload fits a buffer of our own. */
static uint32_t conn_ask(const struct nbd_conn *conn, uint32_t due)
{
	uint32_t extra = conn->tls ? NBD_INBUF - MIN(conn->tls->partial, NBD_INBUF) : NBD_INBUF;

	return MIN(due + extra, NBD_STAGING_SIZE);
}

/* Blocked: what it sends has to wait. Who waits to be greeted sends nothing but its end. */
static bool conn_deaf(const struct nbd_conn *conn)
{
	return conn->block && !(conn->block == NBD_BLOCK_TURN && !conn->tls);
}

/* Payload goes through the worker's cache-hot buffers, everything else through the connection's. */
static void conn_receive(struct nbd_conn *conn)
{
	struct ring *ring = &conn->worker->ring;
	struct io_uring_sqe *sqe;
	uint32_t due = conn->payload.active ? conn->payload.left : 0;

	if (conn->receiving || conn->dead || conn->closing || conn_deaf(conn) || conn->in_len)
		return;
	if (conn->crumbs > NBD_CRUMBS && !conn->resumed) {
		nbd_worker_pace(conn->worker, &conn->paced);
		return;
	}
	conn->resumed = false;
	sqe = ring_get_sqe(ring);
	if (due > NBD_INBUF) {
		io_uring_prep_recv(sqe, conn->fd, NULL, conn_ask(conn, due), 0);
		sqe->flags |= IOSQE_BUFFER_SELECT;
		sqe->buf_group = 0;
	} else {
		io_uring_prep_recv(sqe, conn->fd, conn_home(conn), NBD_INBUF, 0);
	}
	/* Nothing was left last time: do not try in vain before waiting. */
	if (conn->quiet)
		sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
	ring_arm(ring, sqe, &conn->recv_op);
	conn->receiving = true;
}

/* Gives the staging buffer back as soon as what is left in it fits elsewhere. */
static void conn_stash(struct nbd_conn *conn)
{
	const unsigned char **left = conn->tls ? &conn->tls->raw : &conn->in;
	uint32_t len = conn->tls ? conn->tls->raw_len : conn->in_len;
	unsigned slot = conn->in_slot;

	if (conn->in_slot < 0 || len > NBD_INBUF)
		return;
	memcpy(conn_home(conn), *left, len);
	*left = conn_home(conn);
	conn->in_slot = -1;
	nbd_staging_put(conn->worker, slot);
}

/* Forgets what was received. */
static void conn_forget(struct nbd_conn *conn)
{
	conn->in_len = 0;
	if (conn->tls)
		conn->tls->raw_len = 0;
	conn_stash(conn);
}

/* True while there is something to go on with. */
static bool conn_step(struct nbd_conn *conn)
{
	if (conn->dead || conn->closing || conn->block || conn->move_to)
		return false;
	if (conn->hs)
		return nbd_handshake_step(conn);
	if (conn->payload.active)
		return nbd_payload_step(conn);
	return nbd_header_step(conn);
}

static void conn_move(struct nbd_conn *conn);

/* Nothing of it may be pending when it moves. */
static bool conn_may_move(struct nbd_conn *conn)
{
	struct iovec iov;

	return !conn->tls || !nbd_tls_unsent(conn->tls, &iov) ||
	       nbd_conn_block(conn, NBD_BLOCK_TLS);
}

void nbd_conn_run(struct nbd_conn *conn)
{
	do {
		while (conn_step(conn))
			;
	} while (conn->tls && nbd_tls_refill(conn));
	if (conn->move_to && conn_may_move(conn)) {
		conn_move(conn);
		return;
	}
	if (conn->dead || conn->closing)
		conn_forget(conn);
	conn_stash(conn);
	/* Replies go out with the submission that asks for more. */
	nbd_send_kick(conn);
	conn_receive(conn);
	nbd_conn_settle(conn);
}

/* No buffer of the kernel's was free. Parked only when all of them are held by connections: else
 * one has come back in the meantime, or is about to arrive with data in it. */
static void conn_starve(struct nbd_conn *conn)
{
	struct nbd_worker *worker = conn->worker;

	if (worker->staging_held == NBD_STAGING) {
		list_add_tail(&worker->starved, &conn->starved);
		worker->staging_waits++;
	} else {
		conn_receive(conn);
	}
}

void nbd_conn_unstarve(struct nbd_conn *conn)
{
	conn_receive(conn);
}

void nbd_conn_resume(struct nbd_conn *conn)
{
	conn->resumed = true;
	conn_receive(conn);
}

/* Looks back at the receive before this one. */
static void conn_weigh(struct nbd_conn *conn, int res)
{
	if (conn->useful)
		conn->crumbs = conn->crumbs < 4 ? 0 : conn->crumbs - 4;
	else if (conn->took < NBD_CRUMB && conn->crumbs < NBD_CRUMBS_MAX)
		conn->crumbs++;
	conn->useful = false;
	conn->took = res;
}

static void conn_take(struct nbd_conn *conn, unsigned char *buf, int slot, int res)
{
	conn_weigh(conn, res);
	conn->heard_ns = nbd_now_ns(conn->worker);
	conn->quiet = !(conn->recv_op.cqe_flags & IORING_CQE_F_SOCK_NONEMPTY);
	conn->in_slot = slot;
	if (conn->tls) {
		conn->tls->raw = buf;
		conn->tls->raw_len = res;
	} else {
		conn->in = buf;
		conn->in_len = res;
	}
}

static void conn_received(struct ring_op *op, int res)
{
	struct nbd_conn *conn = container_of(op, struct nbd_conn, recv_op);
	struct nbd_worker *worker = conn->worker;
	unsigned char *buf = conn_home(conn);
	int slot = -1;

	conn->receiving = false;
	if (op->cqe_flags & IORING_CQE_F_BUFFER) {
		slot = op->cqe_flags >> IORING_CQE_BUFFER_SHIFT;
		buf = nbd_staging_at(worker, slot);
		worker->staging_held++;
	}
	if (res > 0 && !conn->dead) {
		conn_take(conn, buf, slot, res);
		nbd_conn_run(conn);
		return;
	}
	if (slot >= 0)
		nbd_staging_put(worker, slot);
	if (conn->dead || conn->closing)
		;
	else if (res == 0)
		nbd_conn_finish(conn);
	else if (res == -ENOBUFS)
		conn_starve(conn);
	else if (res == -EINTR || res == -EAGAIN)
		conn_receive(conn);
	else
		nbd_conn_close(conn);
	nbd_conn_settle(conn);
}

/* --- moving to another worker ----------------------------------------------------------------- */

static void conn_arrive(struct nbd_worker *worker, struct nbd_mail *mail)
{
	struct nbd_conn *conn = container_of(mail, struct nbd_conn, mail);

	list_add_tail(&worker->conns, &conn->node);
	if (worker->stopping) {
		nbd_conn_close(conn);
		nbd_conn_settle(conn);
		return;
	}
	nbd_handshake_enter(conn);
	nbd_conn_run(conn);
}

/* The connection is the other worker's as soon as it is posted. What was received behind the option
 * travels along in inbuf. */
static void conn_move(struct nbd_conn *conn)
{
	struct nbd_worker *from = conn->worker, *to = conn->move_to;

	assert(!conn->receiving && !conn->send.busy && !conn->wake_posted && conn->in_slot < 0);
	conn->move_to = NULL;
	conn->worker = to;
	conn->mail.open = conn_arrive;
	list_del(&conn->node);
	list_del(&conn->paced);
	nbd_worker_post(to, &conn->mail);
	nbd_worker_conn_gone(from);
}

/* --- begin and end ---------------------------------------------------------------------------- */

static void conn_free(struct ring_op *op, int res)
{
	struct nbd_conn *conn = container_of(op, struct nbd_conn, free_op);
	struct nbd_worker *worker = conn->worker;

	(void)res;
	assert(list_empty(&conn->reqs) && !conn->reads_running && !conn->read_bufs &&
	       conn->in_slot < 0);
	NBD_PROBE_CLOSE(conn->id, conn->fd);
	close(conn->fd);
	nbd_handshake_free(conn->hs);
	nbd_tls_free(conn->tls);
	nbd_tls_creds_unref(conn->creds);
	free(conn->req_mem);
	list_del(&conn->node);
	nbd_admit_end(worker, conn->peer);
	free(conn);
	nbd_worker_conn_gone(worker);
}

/* All is answered; with TLS the end has to be told as well. */
static bool conn_ended(struct nbd_conn *conn)
{
	if (!list_empty(&conn->reqs) || !nbd_send_idle(conn))
		return false;
	if (!conn->tls || !nbd_tls_end(conn->tls))
		return true;
	nbd_send_kick(conn);
	return false;
}

/* A request or an option has begun to arrive. */
static bool conn_hears(const struct nbd_conn *conn)
{
	int unread = 0;

	if (conn->hs ? conn->hs->have || conn->hs->phase > NBD_HS_OPTION
		     : conn->header_have || conn->payload.active)
		return true;
	if (conn->in_len || (conn->tls && (conn->tls->raw_len || conn->tls->partial)))
		return true;
	return !ioctl(conn->fd, FIONREAD, &unread) && unread;
}

/* All it asked for is answered, and there is nothing it has begun to ask for. */
static bool conn_rests(const struct nbd_conn *conn)
{
	return !conn->block && list_empty(&conn->reqs) && nbd_send_idle(conn) && !conn_hears(conn);
}

void nbd_conn_settle(struct nbd_conn *conn)
{
	if (conn->end_ns && !conn->closing && conn_rests(conn))
		nbd_conn_finish(conn);
	if (conn->closing && !conn->dead && conn_ended(conn))
		nbd_conn_close(conn);
	if (!conn->dead || conn->freeing || conn->receiving || conn->send.busy ||
	    conn->send.cancelling || conn->wake_posted || conn->read_posted ||
	    !list_empty(&conn->reqs))
		return;
	conn->freeing = true;
	ring_post(&conn->worker->ring, &conn->free_op, 0);
}

void nbd_conn_finish(struct nbd_conn *conn)
{
	if (conn->closing)
		return;
	conn->closing = true;
	pool_cancel(&conn->waiter);
	list_del(&conn->starved);
	list_del(&conn->paced);
	nbd_turn_forget(conn);
	conn->block = NBD_BLOCK_NONE;
	nbd_payload_forget(conn); /* a WRITE without all of its bytes is not acknowledged */
	conn->move_to = NULL;
	conn_forget(conn);
}

void nbd_conn_end(struct nbd_conn *conn)
{
	if (!conn->end_ns)
		conn->end_ns = nbd_now_ns(conn->worker) + NBD_LINGER_MS * 1000000LL;
	if (conn->block == NBD_BLOCK_TURN)
		nbd_conn_close(conn);
	nbd_conn_settle(conn);
}

void nbd_conn_close(struct nbd_conn *conn)
{
	if (conn->dead)
		return;
	nbd_conn_finish(conn);
	conn->dead = true;
	/* What is pending on the socket comes back at once. */
	shutdown(conn->fd, SHUT_RDWR);
	pool_cancel(&conn->read_waiter);
	nbd_requests_shutdown(conn);
	nbd_send_drop(conn);
	nbd_conn_leave(conn);
}

void nbd_conn_join(struct nbd_conn *conn, struct nbd_export *export)
{
	struct nbd_export_counters *c = &export->counters;

	conn->export = export;
	conn->heard_ns = nbd_now_ns(conn->worker);
	list_add_tail(&export->conns, &conn->export_node);
	export->conn_count++;
	nbd_count(&c->connections_total, 1);
	atomic_store_explicit(&c->connections, export->conn_count, memory_order_relaxed);
	atomic_store_explicit(&c->last_active_ns, conn->heard_ns, memory_order_relaxed);
	log_debug(&conn->log, "serves export '%s'", export->name);
	NBD_PROBE_NEGOTIATED(conn->id, export->name, export->size,
			     conn->structured | conn->extended << 1, conn->contexts);
}

void nbd_conn_leave(struct nbd_conn *conn)
{
	struct nbd_export *export = conn->export;

	if (!export)
		return;
	conn->export = NULL;
	list_del(&conn->export_node);
	export->conn_count--;
	nbd_notice_clear(&export->full);
	atomic_store_explicit(&export->counters.connections, export->conn_count,
			      memory_order_relaxed);
	atomic_store_explicit(&export->counters.last_disconnect_ns, nbd_now_ns(conn->worker),
			      memory_order_relaxed);
	nbd_export_unref(export);
}

static bool conn_stalls(const struct nbd_conn *conn, int64_t timeout_ms)
{
	return conn->send.busy &&
	       nbd_now_ns(conn->worker) - conn->send.moved_ns > timeout_ms * 1000000LL;
}

/* It has had all of its answers, and whatever comes next is for the client to send. */
static bool conn_idles(const struct nbd_conn *conn, int64_t timeout_ms)
{
	return timeout_ms && conn->export && conn->receiving && list_empty(&conn->reqs) &&
	       !conn->send.busy &&
	       nbd_now_ns(conn->worker) - conn->heard_ns > timeout_ms * 1000000LL;
}

void nbd_conn_tick(struct nbd_conn *conn, bool pressure)
{
	struct nbd_worker *worker = conn->worker;
	const struct nbd_server_config *config = &worker->limits;

	if (conn->dead)
		return;
	if (conn->end_ns && nbd_now_ns(worker) > conn->end_ns) {
		nbd_conn_close(conn);
	} else if (conn->hs && nbd_now_ns(worker) > conn->hs->deadline_ns) {
		nbd_limit_met(worker, NBD_LIMIT_HANDSHAKE, &conn->log,
			      "negotiates for too long; closed");
		nbd_conn_close(conn);
	} else if (((pressure && conn->read_bufs) || conn->closing) &&
		   conn_stalls(conn, config->stall_timeout_ms)) {
		nbd_limit_met(
			worker, NBD_LIMIT_STALL, &conn->log,
			conn->closing
				? "takes no replies; closed"
				: "takes no replies, and others wait for its buffers; closed");
		nbd_conn_close(conn);
	} else if (conn_idles(conn, config->idle_timeout_ms)) {
		nbd_limit_met(worker, NBD_LIMIT_IDLE, &conn->log,
			      "has been idle for too long; closed");
		nbd_conn_close(conn);
	}
	nbd_conn_settle(conn);
}

static void set_option(int fd, int level, int name, int value)
{
	/* Hints: a socket without them works, if less well. */
	setsockopt(fd, level, name, &value, sizeof(value));
}

static void socket_tune(int fd)
{
	int family = 0;
	socklen_t len = sizeof(family);

	getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &len);
	if (family == AF_UNIX) {
		set_option(fd, SOL_SOCKET, SO_SNDBUF, SOCKET_BUFFER);
		return;
	}
	set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S);
	set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S);
	set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES);
}

/* Everything but the two byte buffers starts as zero; those stay untouched until they are used, so
 * that a connection that never says much costs little. */
static struct nbd_conn *conn_new(struct nbd_worker *worker, const struct nbd_listener *listener,
				 int fd)
{
	struct nbd_conn *conn = malloc(sizeof(*conn) + worker->limits.send_queue_bytes);

	if (!conn)
		return NULL;
	memset(conn, 0, offsetof(struct nbd_conn, inbuf));
	conn->req_mem = nbd_reqs_new();
	if (!conn->req_mem) {
		free(conn);
		return NULL;
	}
	conn->worker = worker;
	conn->creds = nbd_listener_creds(worker->server, listener);
	conn->fd = fd;
	conn->in = conn->inbuf;
	conn->in_slot = -1;
	conn->useful = true;
	conn->id = atomic_fetch_add(&worker->server->next_conn, 1) + 1;
	log_scope_init(&conn->log, "nbd conn %" PRIu64, conn->id);
	list_init(&conn->export_node);
	list_init(&conn->starved);
	list_init(&conn->paced);
	list_init(&conn->turn);
	list_init(&conn->reqs);
	list_init(&conn->free_reqs);
	list_init(&conn->reads);
	list_init(&conn->waiter.node);
	list_init(&conn->read_waiter.node);
	conn->recv_op.done = conn_received;
	conn->wake_op.done = conn_wake_done;
	conn->free_op.done = conn_free;
	conn->waiter.wake = conn_woken;
	conn->read_waiter.wake = nbd_read_wake;
	conn->read_op.done = nbd_read_woken;
	conn->read_allow = 1; /* who reads gets more (nbd_read_grow) */
	nbd_send_init(conn);
	return conn;
}

void nbd_conn_start(struct nbd_worker *worker, const struct nbd_listener *listener, int fd)
{
	struct nbd_peer *peer = NULL;
	struct nbd_conn *conn;

	if (!nbd_admit(worker, fd, &peer)) {
		close(fd);
		return;
	}
	conn = conn_new(worker, listener, fd);
	if (!conn || nbd_handshake_new(conn)) {
		log_warn(&worker->log, "no memory for another connection");
		if (conn) {
			nbd_tls_creds_unref(conn->creds);
			free(conn->req_mem);
		}
		free(conn);
		close(fd);
		nbd_admit_end(worker, peer);
		return;
	}
	conn->peer = peer;
	NBD_PROBE_ACCEPT(conn->id, fd);
	socket_tune(fd);
	list_add_tail(&worker->conns, &conn->node);
	nbd_conn_run(conn);
}
