#include "nbd/reply.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "nbd/export_priv.h"
#include "nbd/handshake.h"
#include "nbd/read.h"
#include "nbd/retract.h"
#include "nbd/server_priv.h"
#include "nbd/tls.h"

static const struct {
	int error;
	enum nbd_error wire;
} error_map[] = {
	{EPERM, NBD_EPERM},	{EROFS, NBD_EPERM},	    {EACCES, NBD_EPERM},
	{ENOMEM, NBD_ENOMEM},	{EINVAL, NBD_EINVAL},	    {ENOSPC, NBD_ENOSPC},
	{EDQUOT, NBD_ENOSPC},	{EFBIG, NBD_ENOSPC},	    {EOVERFLOW, NBD_EOVERFLOW},
	{ENOTSUP, NBD_ENOTSUP}, {ESHUTDOWN, NBD_ESHUTDOWN}, {ECANCELED, NBD_ESHUTDOWN},
};

enum nbd_error nbd_error_of(int res)
{
	unsigned i;

	if (res >= 0)
		return NBD_SUCCESS;
	for (i = 0; i < ARRAY_SIZE(error_map); i++)
		if (error_map[i].error == -res)
			return error_map[i].wire;
	return NBD_EIO;
}

/* --- queueing --------------------------------------------------------------------------------- */

bool nbd_reply_room(const struct nbd_conn *conn)
{
	/* Each request that runs will need its reply, and so will the payload that arrives. */
	_Static_assert((NBD_CONN_REQUESTS + 2) * NBD_REPLY_MAX <= NBD_SEND_QUEUE_MIN,
		       "a client that reads its replies is never blocked for good");
	uint32_t promised = (conn->req_count + 1) * NBD_REPLY_MAX;

	return conn->send.small_used + promised + NBD_REPLY_MAX <= conn->send.small_size;
}

/* Where in the ring the byte @n behind its head lies. */
static uint32_t small_at(const struct nbd_send *send, uint32_t n)
{
	uint32_t at = send->small_head + n;

	return at < send->small_size ? at : at - send->small_size;
}

static void small_add(struct nbd_send *send, const unsigned char *p, uint32_t len)
{
	uint32_t at = small_at(send, send->small_used);
	uint32_t first = MIN(len, send->small_size - at);

	assert(send->small_used + len <= send->small_size);
	memcpy(send->small + at, p, first);
	memcpy(send->small, p + first, len - first);
	send->small_used += len;
}

void nbd_reply(struct nbd_conn *conn, const struct nbd_request *rq, int res)
{
	unsigned char b[NBD_REPLY_MAX];
	uint32_t len;

	if (conn->dead)
		return;
	if (res && conn->structured)
		len = nbd_put_chunk_error(b, rq, nbd_error_of(res));
	else if (conn->extended || (conn->structured && rq->type == NBD_CMD_READ))
		len = nbd_put_chunk(b, rq, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_NONE, 0);
	else
		len = nbd_put_simple(b, rq, nbd_error_of(res));
	small_add(&conn->send, b, len);
}

void nbd_reply_chunk(struct nbd_conn *conn, struct nbd_chunk *chunk, bool stream)
{
	list_add_tail(conn->stream && !stream ? &conn->send.later : &conn->send.chunks,
		      &chunk->node);
}

void nbd_reply_stream_end(struct nbd_conn *conn)
{
	conn->stream = NULL;
	list_splice(&conn->send.chunks, &conn->send.later);
}

/* --- sending ---------------------------------------------------------------------------------- */

bool nbd_send_idle(const struct nbd_conn *conn)
{
	const struct nbd_send *send = &conn->send;
	struct iovec iov;

	return !send->busy && !send->small_used && list_empty(&send->chunks) &&
	       list_empty(&send->later) && !(conn->tls && nbd_tls_unsent(conn->tls, &iov)) &&
	       !(conn->hs && conn->hs->answer.sent < conn->hs->answer.len);
}

static unsigned iov_small(struct nbd_send *send, struct iovec *iov)
{
	uint32_t first = MIN(send->small_used, send->small_size - send->small_head);

	send->small_sending = send->small_used;
	iov[0] = (struct iovec){send->small + send->small_head, first};
	iov[1] = (struct iovec){send->small, send->small_used - first};
	return iov[1].iov_len ? 2 : 1;
}

static unsigned iov_chunks(struct nbd_send *send, struct iovec *iov, unsigned max)
{
	struct list *node;
	unsigned n = 0;

	list_for_each (node, &send->chunks) {
		const struct nbd_chunk *chunk = list_entry(node, struct nbd_chunk, node);

		if (n == max)
			break;
		iov[n++] = (struct iovec){(void *)chunk->p, chunk->len};
	}
	return n;
}

static unsigned send_build(struct nbd_conn *conn)
{
	struct nbd_send *send = &conn->send;
	unsigned n = 0;

	send->small_sending = 0;
	if (conn->hs) {
		struct nbd_answer *answer = &conn->hs->answer;

		if (answer->sent == answer->len)
			return 0;
		send->iov[0] = (struct iovec){answer->p + answer->sent, answer->len - answer->sent};
		return 1;
	}
	if (send->small_used && !send->mid)
		n = iov_small(send, send->iov);
	return n + iov_chunks(send, send->iov + n, NBD_IOV - n);
}

/* As send_build(), encrypted: one piece, what is left of the last one first. */
static unsigned send_build_sealed(struct nbd_conn *conn)
{
	struct nbd_send *send = &conn->send;
	unsigned n = nbd_tls_unsent(conn->tls, send->iov);

	if (n)
		return n;
	if (!nbd_tls_seal(conn->tls, send->iov, send_build(conn))) {
		nbd_conn_close(conn);
		return 0;
	}
	return nbd_tls_unsent(conn->tls, send->iov);
}

static void piece_note(struct nbd_send *send)
{
	struct list *first = send->chunks.next;

	if (first == &send->chunks || send->piece == list_entry(first, struct nbd_chunk, node))
		return;
	send->piece = list_entry(first, struct nbd_chunk, node);
	send->piece_ns = send->began_ns;
}

void nbd_send_kick(struct nbd_conn *conn)
{
	struct ring *ring = &conn->worker->ring;
	struct nbd_send *send = &conn->send;
	struct io_uring_sqe *sqe;
	unsigned n;

	if (send->busy || send->retract || conn->dead)
		return;
	n = conn->tls ? send_build_sealed(conn) : send_build(conn);
	if (!n)
		return;
	sqe = ring_get_sqe(ring);
	if (n == 1) {
		io_uring_prep_send(sqe, conn->fd, send->iov[0].iov_base, send->iov[0].iov_len,
				   MSG_NOSIGNAL);
	} else {
		send->msg.msg_iovlen = n;
		io_uring_prep_sendmsg(sqe, conn->fd, &send->msg, MSG_NOSIGNAL);
	}
	ring_arm(ring, sqe, &send->op);
	send->busy = true;
	send->moved_ns = send->began_ns = nbd_now_ns(conn->worker);
	piece_note(send);
}

static void chunk_free(struct nbd_conn *conn, struct nbd_chunk *chunk)
{
	struct nbd_req *req = chunk->last ? chunk->req : NULL;

	list_del(&chunk->node);
	if (conn->send.piece == chunk)
		conn->send.piece = NULL;
	if (chunk->parked)
		nbd_retract_free(conn, chunk);
	else
		nbd_read_put(conn, chunk);
	if (req)
		nbd_req_drop(req);
}

/* Takes @n sent bytes off the queues, in the order in which send_build() put them there. */
static void send_consume(struct nbd_conn *conn, uint32_t n)
{
	struct nbd_send *send = &conn->send;
	uint32_t small = MIN(n, send->small_sending);

	send->small_head = small_at(send, small);
	send->small_used -= small;
	n -= small;
	while (n) {
		struct nbd_chunk *chunk = list_entry(send->chunks.next, struct nbd_chunk, node);
		uint32_t part = MIN(n, chunk->len);

		chunk->p += part;
		chunk->len -= part;
		n -= part;
		send->mid = chunk->len || chunk->more;
		if (!chunk->len) {
			chunk_free(conn, chunk);
			nbd_read_grow(conn);
		}
	}
}

void nbd_send_commit(struct nbd_conn *conn)
{
	if (conn->tls)
		send_consume(conn, nbd_tls_commit(conn->tls));
}

static void send_drop_list(struct nbd_conn *conn, struct list *chunks)
{
	while (!list_empty(chunks))
		chunk_free(conn, list_entry(chunks->next, struct nbd_chunk, node));
}

void nbd_send_drop(struct nbd_conn *conn)
{
	struct nbd_send *send = &conn->send;

	send_drop_list(conn, &send->later);
	if (send->busy)
		return;
	send_drop_list(conn, &send->chunks);
	send->small_used = 0;
}

static void sent(struct ring_op *op, int res)
{
	struct nbd_conn *conn = container_of(op, struct nbd_conn, send.op);

	conn->send.busy = false;
	nbd_retract_pace(conn, MAX(res, 0));
	if (conn->dead) {
		nbd_send_drop(conn);
	} else if (res > 0) {
		if (conn->tls)
			res = nbd_tls_sent(conn->tls, res);
		if (conn->hs)
			nbd_handshake_sent(conn, res);
		else
			send_consume(conn, res);
		nbd_retract_moved(conn);
		nbd_conn_unblock(conn, NBD_BLOCK_REPLIES);
		nbd_conn_unblock(conn, NBD_BLOCK_TLS);
		nbd_reads_kick(conn);
		nbd_send_kick(conn);
	} else if (res == -EINTR || res == -EAGAIN || res == -ECANCELED) {
		nbd_retract_go(conn);
		nbd_send_kick(conn);
	} else {
		nbd_conn_close(conn);
	}
	nbd_conn_settle(conn);
}

void nbd_send_init(struct nbd_conn *conn)
{
	struct nbd_send *send = &conn->send;

	list_init(&send->chunks);
	list_init(&send->later);
	send->small = conn->small;
	send->small_size = conn->worker->limits.send_queue_bytes;
	send->msg.msg_iov = send->iov;
	send->op.done = sent;
	nbd_retract_init(conn);
}
