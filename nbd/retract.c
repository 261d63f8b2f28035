#include "nbd/retract.h"

#include <stdlib.h>
#include <string.h>

#include "nbd/export_priv.h"
#include "nbd/read.h"
#include "nbd/reply.h"
#include "nbd/worker.h"

static void cancelled(struct ring_op *op, int res)
{
	struct nbd_conn *conn = container_of(op, struct nbd_conn, send.cancel);

	conn->send.cancelling = false;
	if (res < 0 && conn->send.busy) {
		/* It is being taken after all; if that lasts, the next turn tries again. */
		conn->send.retract = false;
		nbd_reads_kick(conn);
	}
	nbd_retract_go(conn);
	nbd_conn_settle(conn);
}

void nbd_retract_init(struct nbd_conn *conn)
{
	conn->send.cancel.done = cancelled;
}

/* --- how fast a client reads ------------------------------------------------------------------ */

#define PACE_MIN_NS 20000000LL	/* less says nothing */
#define PACE_MAX_NS 256000000LL /* what was before counts less and less */

void nbd_retract_pace(struct nbd_conn *conn, uint32_t n)
{
	struct nbd_send *send = &conn->send;

	send->pace_bytes += n;
	send->pace_ns += nbd_now_ns(conn->worker) - send->began_ns;
	while (send->pace_ns > PACE_MAX_NS) {
		send->pace_ns /= 2;
		send->pace_bytes /= 2;
	}
}

bool nbd_retract_slow(const struct nbd_conn *conn)
{
	const struct nbd_send *send = &conn->send;
	uint64_t ns = send->pace_ns;

	if (send->busy)
		ns += nbd_now_ns(conn->worker) - send->began_ns;
	return ns > PACE_MIN_NS && send->pace_bytes < ns / 1000 * (NBD_SLOW_RATE / 1000) / 1000;
}

/* --- taking back ------------------------------------------------------------------------------ */

/* It has held others up for long enough: not long, when it has not read anything yet. */
static bool is_due(const struct nbd_conn *conn)
{
	const struct nbd_send *send = &conn->send;
	bool doubtful = !send->pace_bytes || nbd_retract_slow(conn);
	int64_t now = nbd_now_ns(conn->worker);

	if (doubtful && send->piece && now - send->piece_ns >= NBD_SLOW_MS * 1000000LL)
		return true;
	return now - send->moved_ns >= NBD_RETRACT_MS * 1000000LL;
}

void nbd_retract_begin(struct nbd_conn *conn)
{
	struct nbd_send *send = &conn->send;
	struct io_uring_sqe *sqe;

	if (conn->dead || send->retract || send->cancelling || !send->busy || !conn->read_bufs ||
	    conn->worker->parked >= NBD_PARKED || !is_due(conn))
		return;
	send->retract = true;
	if (conn->tls) { /* the kernel has nothing of ours but ciphertext */
		nbd_retract_go(conn);
		return;
	}
	sqe = ring_get_sqe(&conn->worker->ring);
	io_uring_prep_cancel(sqe, &send->op, 0);
	ring_arm(&conn->worker->ring, sqe, &send->cancel);
	send->cancelling = true;
}

void nbd_retract_free(struct nbd_conn *conn, struct nbd_chunk *chunk)
{
	conn->worker->parked--;
	free(chunk);
}

/* Moves what is left of @chunk out of its read buffer; false: no memory. */
static bool chunk_park(struct nbd_conn *conn, struct nbd_chunk *chunk)
{
	struct nbd_chunk *parked = malloc(sizeof(*parked) + chunk->len);

	if (!parked)
		return false;
	*parked = *chunk;
	parked->p = memcpy(parked + 1, chunk->p, chunk->len);
	parked->parked = true;
	conn->worker->parked++;
	conn->send.piece = NULL;
	list_del(&chunk->node);
	list_add_head(&conn->send.chunks, &parked->node);
	nbd_read_put(conn, chunk);
	return true;
}

static struct nbd_chunk *last_chunk(const struct list *chunks)
{
	return list_empty(chunks) ? NULL : list_entry(chunks->prev, struct nbd_chunk, node);
}

/* Everything behind what is parked, from the last one on: each goes in front of those behind it. */
static void rewind_queue(struct nbd_conn *conn, struct list *chunks)
{
	struct nbd_chunk *chunk;

	while ((chunk = last_chunk(chunks)) && !chunk->parked)
		nbd_read_rewind(conn, chunk);
}

static void retract(struct nbd_conn *conn)
{
	struct nbd_send *send = &conn->send;
	struct nbd_chunk *head;

	nbd_send_commit(conn);
	if (!list_empty(&send->chunks)) {
		head = list_entry(send->chunks.next, struct nbd_chunk, node);
		if (!head->parked && !chunk_park(conn, head))
			return;
		head = list_entry(send->chunks.next, struct nbd_chunk, node);
		/* What must follow it comes before all others; no other reply has begun. */
		conn->stream = head->more ? head->req : NULL;
	}
	rewind_queue(conn, &send->later);
	rewind_queue(conn, &send->chunks);
	if (conn->stream) {
		list_del(&conn->stream->read_node);
		list_add_head(&conn->reads, &conn->stream->read_node);
	}
	conn->read_allow = 1;
	nbd_count(&conn->worker->counters.retracted, 1);
}

void nbd_retract_go(struct nbd_conn *conn)
{
	struct nbd_send *send = &conn->send;
	int64_t moved_ns = send->moved_ns;

	if (!send->retract || send->cancelling || conn->read_ops || (send->busy && !conn->tls))
		return;
	send->retract = false;
	if (conn->dead)
		return;
	/* An export that goes away reads nothing again; the connection ends soon. */
	if (conn->export && conn->export->state == NBD_EXPORT_LIVE)
		retract(conn);
	nbd_send_kick(conn);
	send->moved_ns = moved_ns; /* nothing has */
	conn->stuck = send->busy;
}

void nbd_retract_moved(struct nbd_conn *conn)
{
	conn->send.retract = false;
	if (list_empty(&conn->send.chunks))
		conn->stuck = false;
}
