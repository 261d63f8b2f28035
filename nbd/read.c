#include "nbd/read.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "nbd/export_priv.h"
#include "nbd/metactx.h"
#include "nbd/reply.h"
#include "nbd/retract.h"
#include "nbd/server_priv.h"

#define HOLE_MIN 512U /* bytes of zeroes that are worth a chunk of their own kind */

/* A read buffer: this ... wire header | data | wire trailer. */
struct read_head {
	struct nbd_chunk chunk; /* while it is sent */
	struct nbd_slot slot;	/* while it is filled */
};

_Static_assert(sizeof(struct read_head) + NBD_READ_HEADER_MAX <= NBD_READ_HEAD,
	       "both fit in front of the data");

static unsigned char *buf_data(const struct nbd_req *req)
{
	return req->buf + NBD_READ_HEAD;
}

void nbd_read_put(struct nbd_conn *conn, void *buf)
{
	assert(conn->read_bufs > 0);
	conn->read_bufs--;
	pool_put(&conn->worker->reads, buf);
}

/* @at: bytes of the reply's data in front of [p, p + len). */
static void reply_queue(struct nbd_req *req, const void *p, uint32_t len, uint64_t at, bool last)
{
	struct nbd_chunk *chunk = (struct nbd_chunk *)steal(&req->buf);

	*chunk = (struct nbd_chunk){
		.p = p,
		.len = len,
		.req = req,
		.at = at,
		.last = last,
		.more = req->whole && !last,
	};
	nbd_reply_chunk(req->conn, chunk, req->whole);
}

/* --- BLOCK_STATUS -----------------------------------------------------------------------------
 *
 * One context after the other, each described by a chunk behind the one before, in one read buffer:
 * the reply goes out whole or, if one of them fails, as an error.
 */

_Static_assert((NBD_META_END - 1) * (NBD_EXTENTS_MAX * sizeof(struct nbd_extent) +
				     NBD_EXT_CHUNK_SIZE + 8) <=
		       NBD_SEGMENT + NBD_READ_TAIL,
	       "all contexts fit a read buffer");

static void segment_done(struct nbd_io *io, int res);

/* Where the next chunk goes: the first one's descriptors lie where data lies. Heads and descriptors
 * are multiples of 8 bytes, so extents are aligned wherever they begin. */
static unsigned char *status_chunk(const struct nbd_req *req)
{
	return buf_data(req) - nbd_chunk_status_size(req->rq.extended) + req->filled;
}

static void status_start(struct nbd_req *req)
{
	const struct nbd_export_ops *ops = req->export->ops;
	bool received = __builtin_ctz(req->contexts) == NBD_META_RECEIVED;
	bool one = req->rq.flags & NBD_CMD_FLAG_REQ_ONE;

	req->io->off = req->rq.off;
	req->io->len = req->rq.len;
	req->io->extents =
		(struct nbd_extent *)(status_chunk(req) + nbd_chunk_status_size(req->rq.extended));
	req->io->extent_max = one ? 1 : NBD_EXTENTS_MAX;
	req->io->extent_count = 0;
	req->conn->read_ops++;
	nbd_req_submit(req, received ? ops->received : ops->extents, segment_done);
}

/* Turns what the export said into a chunk; false: it said nothing. */
static bool status_encode(struct nbd_req *req)
{
	const struct nbd_request *rq = &req->rq;
	unsigned id = __builtin_ctz(req->contexts);
	unsigned n =
		nbd_metactx_encode(req->io->extents, req->io->extent_count, rq->len, rq->extended);

	req->contexts &= ~NBD_META_BIT(id);
	nbd_put_chunk_status(status_chunk(req), rq, req->contexts ? 0 : NBD_REPLY_FLAG_DONE, id, n);
	req->filled += nbd_chunk_status_size(rq->extended) + n * nbd_descriptor_size(rq->extended);
	return n;
}

static void status_ready(struct nbd_req *req, int res)
{
	unsigned char *reply = buf_data(req) - nbd_chunk_status_size(req->rq.extended);

	if (!res && !status_encode(req))
		res = -EIO;
	if (!res && req->contexts && req->export->state != NBD_EXPORT_LIVE)
		res = -ESHUTDOWN;
	if (res) {
		nbd_req_finish(req, res);
		return;
	}
	if (req->contexts) {
		status_start(req);
		return;
	}
	reply_queue(req, reply, req->filled, 0, true);
	nbd_req_queued(req, 0);
}

/* --- READ ------------------------------------------------------------------------------------- */

static bool req_last_segment(const struct nbd_req *req)
{
	return req->next == req->rq.len;
}

/* What stands in front of the segment just read; 0: nothing, the stream goes on. */
static size_t segment_header(const struct nbd_req *req, unsigned char *data)
{
	const struct nbd_request *rq = &req->rq;
	uint64_t at = req->next - req->seg;
	uint16_t done = req_last_segment(req) ? NBD_REPLY_FLAG_DONE : 0;

	if (!req->conn->structured) {
		if (at)
			return 0;
		return nbd_put_simple(data - NBD_SIMPLE_SIZE, rq, NBD_SUCCESS);
	}
	data -= nbd_chunk_data_size(rq->extended);
	if (!req->whole)
		return nbd_put_chunk_data(data, rq, done, rq->off + at, req->seg);
	if (at)
		return 0;
	/* Not marked as the last one: what is still to be read may fail. */
	return nbd_put_chunk_data(data, rq, 0, rq->off, rq->len);
}

/* A structured stream ends with a chunk that says how it went. */
static size_t segment_trailer(const struct nbd_req *req, unsigned char *p)
{
	if (!req->whole || !req->conn->structured || !req_last_segment(req))
		return 0;
	if (req->error)
		return nbd_put_chunk_error(p, &req->rq, nbd_error_of(req->error));
	return nbd_put_chunk(p, &req->rq, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_NONE, 0);
}

/* Zeroes need not travel, unless the client wants one chunk (DF) or can take nothing else. */
static bool segment_hole(const struct nbd_req *req)
{
	return req->conn->structured && !(req->rq.flags & NBD_CMD_FLAG_DF) &&
	       req->seg >= HOLE_MIN && bytes_all_zero(buf_data(req), req->seg);
}

static void segment_queue_hole(struct nbd_req *req)
{
	const struct nbd_request *rq = &req->rq;
	uint16_t done = req_last_segment(req) ? NBD_REPLY_FLAG_DONE : 0;
	unsigned char *p = buf_data(req);
	size_t len = nbd_put_chunk_hole(p, rq, done, rq->off + req->next - req->seg, req->seg);

	reply_queue(req, p, len, req->next - req->seg, req_last_segment(req));
}

static void segment_queue_data(struct nbd_req *req)
{
	unsigned char *data = buf_data(req);
	size_t header = segment_header(req, data);
	size_t trailer = segment_trailer(req, data + req->seg);

	reply_queue(req, data - header, header + req->seg + trailer, req->next - req->seg,
		    req_last_segment(req));
}

static void segment_queue(struct nbd_req *req)
{
	struct nbd_conn *conn = req->conn;

	if (segment_hole(req))
		segment_queue_hole(req);
	else
		segment_queue_data(req);
	if (!req_last_segment(req)) {
		list_add_head(&conn->reads, &req->read_node);
		return;
	}
	if (req->whole)
		nbd_reply_stream_end(conn);
	nbd_req_queued(req, req->error);
}

/* The error takes the place of the segment, behind those that are queued already. */
static void segment_fail_chunk(struct nbd_req *req, int res)
{
	unsigned char *data = buf_data(req);
	size_t len = nbd_put_chunk_error(data, &req->rq, nbd_error_of(res));

	reply_queue(req, data, len, req->next - req->seg, true);
	nbd_req_queued(req, res);
}

static void segment_fail(struct nbd_req *req, int res)
{
	struct nbd_conn *conn = req->conn;
	bool begun = req->next > req->seg;

	if (req->whole && begun && conn->structured) {
		/* The chunk has to be completed; its trailer tells the truth about it. */
		req->error = res;
		memset(buf_data(req), 0, req->seg);
		segment_queue(req);
	} else if (req->whole && begun) {
		log_warn(&conn->log, "read error inside a reply that has begun; closed");
		nbd_conn_close(conn);
		nbd_req_drop(req);
	} else if (begun) {
		segment_fail_chunk(req, res);
	} else {
		if (req->whole)
			nbd_reply_stream_end(conn);
		nbd_req_finish(req, res);
	}
}

static void segment_ready(struct nbd_req *req, int res)
{
	if (req->rq.type == NBD_CMD_BLOCK_STATUS)
		status_ready(req, res);
	else if (res)
		segment_fail(req, res);
	else
		segment_queue(req);
}

static void segment_done(struct nbd_io *io, int res)
{
	struct nbd_req *req = nbd_req_of(io);
	struct nbd_export *export = req->export;
	struct nbd_conn *conn = req->conn;

	conn->read_ops--;
	res = nbd_req_returned(req, res);
	if (conn->dead)
		nbd_req_drop(req);
	else
		segment_ready(req, res);
	/* What is left of a long read has not started yet, as far as a removal is concerned. */
	if (export->state != NBD_EXPORT_LIVE)
		nbd_requests_shutdown(conn);
	nbd_retract_go(conn);
	nbd_reads_kick(conn);
	nbd_send_kick(conn);
	nbd_conn_settle(conn);
	nbd_export_op_done(export);
}

/* Later segments start on a page of the export, whatever the first one does. */
static uint32_t segment_size(const struct nbd_req *req)
{
	uint64_t off = req->rq.off + req->next;

	return MIN(req->rq.len - req->next, NBD_SEGMENT - (off & (FILE_ALIGN - 1)));
}

static void segment_start(struct nbd_req *req)
{
	req->io->off = req->rq.off + req->next;
	req->seg = segment_size(req);
	req->next += req->seg;
	req->io->len = req->seg;
	req->io->buf = buf_data(req);
	if (req->error) { /* padding */
		memset(req->io->buf, 0, req->seg);
		segment_queue(req);
		return;
	}
	req->conn->read_ops++;
	nbd_req_submit(req, req->export->ops->read, segment_done);
}

/* --- buffers ---------------------------------------------------------------------------------- */

/* True when @req, the first in line, may have a buffer now: see read.h about streams. */
static bool read_may_start(const struct nbd_conn *conn, const struct nbd_req *req)
{
	if (req->whole && !req->started)
		return !conn->reads_running;
	return !conn->stream || conn->stream == req || req_last_segment(conn->stream);
}

static void read_start(struct nbd_req *req, void *buf)
{
	struct nbd_conn *conn = req->conn;
	struct read_head *head = buf;

	head->slot.req = req;
	req->io = &head->slot.io;
	req->buf = buf;
	conn->read_bufs++;
	if (!req->started) {
		req->started = true;
		conn->reads_running++;
		if (req->whole)
			conn->stream = req;
	}
	if (req->rq.type == NBD_CMD_BLOCK_STATUS)
		status_start(req);
	else
		segment_start(req);
}

static bool conn_read_room(const struct nbd_conn *conn)
{
	return conn->read_bufs < conn->read_allow;
}

static unsigned read_allow_max(const struct nbd_conn *conn)
{
	return conn->worker->limits.max_inflight_bytes / NBD_SEGMENT;
}

void nbd_read_grow(struct nbd_conn *conn)
{
	if (conn->read_allow < read_allow_max(conn) && !nbd_retract_slow(conn))
		conn->read_allow++;
}

void nbd_read_rewind(struct nbd_conn *conn, struct nbd_chunk *chunk)
{
	struct nbd_req *req = chunk->req;

	req->next = chunk->at;
	req->contexts = req->asked;
	req->filled = 0;
	if (req->queued) {
		req->queued = false;
		conn->reads_running++;
	}
	if (!req->next) {
		req->started = false;
		conn->reads_running--;
	}
	list_del(&req->read_node);
	list_add_head(&conn->reads, &req->read_node);
	list_del(&chunk->node);
	nbd_read_put(conn, chunk);
}

/* Nobody takes more than is left for all others, unless that is a quarter of all, so that a few who
 * read no replies leave something to who comes next. Who holds a buffer is asked again when it is
 * through with it. */
static bool conn_read_share(const struct nbd_conn *conn)
{
	unsigned left = conn->worker->reads.free_count;

	return !conn->read_bufs || conn->read_bufs < left || left > NBD_READS / 4;
}

void nbd_reads_kick(struct nbd_conn *conn)
{
	struct pool *pool = &conn->worker->reads;

	if (conn->dead || conn->stuck || conn->send.retract)
		return;
	while (!list_empty(&conn->reads) && conn_read_room(conn)) {
		struct nbd_req *req = list_entry(conn->reads.next, struct nbd_req, read_node);
		void *buf;

		if (!read_may_start(conn, req))
			return;
		if (!conn_read_share(conn)) {
			nbd_worker_relieve(conn->worker);
			return;
		}
		buf = pool_get(pool);
		if (!buf) {
			if (list_empty(&conn->read_waiter.node) && !conn->read_posted)
				pool_wait(pool, &conn->read_waiter);
			nbd_worker_relieve(conn->worker);
			return;
		}
		list_del(&req->read_node);
		read_start(req, buf);
	}
}

void nbd_read_wake(struct pool_waiter *waiter)
{
	struct nbd_conn *conn = container_of(waiter, struct nbd_conn, read_waiter);

	conn->read_posted = true;
	ring_post(&conn->worker->ring, &conn->read_op, 0);
}

void nbd_read_woken(struct ring_op *op, int res)
{
	struct nbd_conn *conn = container_of(op, struct nbd_conn, read_op);
	struct nbd_worker *worker = conn->worker;

	(void)res;
	conn->read_posted = false;
	nbd_reads_kick(conn);
	/* It may have had no use for the buffer, or there may be several. */
	pool_pass(&worker->reads);
	nbd_send_kick(conn);
	nbd_conn_settle(conn);
}

void nbd_read_queue(struct nbd_req *req)
{
	struct nbd_conn *conn = req->conn;

	req->whole = req->rq.type == NBD_CMD_READ && segment_size(req) < req->rq.len &&
		     (!conn->structured || (req->rq.flags & NBD_CMD_FLAG_DF));
	req->asked = req->contexts;
	list_add_tail(&conn->reads, &req->read_node);
	if (conn->read_bufs >= read_allow_max(conn))
		nbd_limit_count(conn->worker, NBD_LIMIT_INFLIGHT);
	nbd_reads_kick(conn);
}
