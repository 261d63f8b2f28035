#include "nbd/request.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "nbd/export_priv.h"
#include "nbd/probe.h"
#include "nbd/read.h"
#include "nbd/reply.h"
#include "nbd/turns.h"

enum nbd_range {
	NBD_RANGE_ANY,	  /* not looked at */
	NBD_RANGE_NONE,	  /* offset and length must be zero */
	NBD_RANGE_INSIDE, /* must lie inside the export */
};

struct nbd_command {
	uint16_t flags;		 /* accepted, beside FUA, which every command accepts, */
	uint16_t extended_flags; /* and with extended headers */
	enum nbd_range range;
	int past_end;	/* -errno for a range that leaves the export */
	bool changes;	/* refused on a read-only export */
	bool payload;	/* longest length is NBD_MAX_PAYLOAD */
	bool describes; /* needs a metadata context and a length */
	/* Runs a request that holds a slot; NULL: answered at once, or as its payload goes. */
	void (*start)(struct nbd_req *req);
};

static void flush_start(struct nbd_req *req);
static void zero_start(struct nbd_req *req);

/* CACHE is a hint without effect. Zeroing whole clusters changes tables only and is always faster
 * than writing, so FAST_ZERO is always honoured; a qcow2 file reserves no space for zeroes, so
 * NO_HOLE changes nothing. */
/* clang-format off */
static const struct nbd_command commands[] = {
	[NBD_CMD_READ] = {
		.flags = NBD_CMD_FLAG_DF,
		.range = NBD_RANGE_INSIDE,
		.past_end = -EINVAL,
		.payload = true,
		.start = nbd_read_queue,
	},
	[NBD_CMD_WRITE] = {
		.extended_flags = NBD_CMD_FLAG_PAYLOAD_LEN,
		.range = NBD_RANGE_INSIDE,
		.past_end = -ENOSPC,
		.changes = true,
		.payload = true,
	},
	[NBD_CMD_DISC] = {
		.range = NBD_RANGE_ANY,
	},
	[NBD_CMD_FLUSH] = {
		.range = NBD_RANGE_NONE,
		.start = flush_start,
	},
	[NBD_CMD_TRIM] = {
		.range = NBD_RANGE_INSIDE,
		.past_end = -EINVAL,
		.changes = true,
		.start = zero_start,
	},
	[NBD_CMD_CACHE] = {
		.range = NBD_RANGE_INSIDE,
		.past_end = -EINVAL,
	},
	[NBD_CMD_WRITE_ZEROES] = {
		.flags = NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO,
		.range = NBD_RANGE_INSIDE,
		.past_end = -ENOSPC,
		.changes = true,
		.start = zero_start,
	},
	[NBD_CMD_BLOCK_STATUS] = {
		.flags = NBD_CMD_FLAG_REQ_ONE,
		.extended_flags = NBD_CMD_FLAG_PAYLOAD_LEN,
		.range = NBD_RANGE_INSIDE,
		.past_end = -EINVAL,
		.describes = true,
		.start = nbd_read_queue,
	},
};
/* clang-format on */

/* --- validate --------------------------------------------------------------------------------- */

static int validate_range(const struct nbd_command *cmd, const struct nbd_request *rq,
			  uint64_t size)
{
	switch (cmd->range) {
	case NBD_RANGE_ANY:
		return 0;
	case NBD_RANGE_NONE:
		return rq->off || rq->len ? -EINVAL : 0;
	case NBD_RANGE_INSIDE:
		break;
	}
	return range_inside(rq->off, rq->len, size) ? 0 : cmd->past_end;
}

/* Bytes that follow the header. */
static uint64_t request_payload(const struct nbd_request *rq)
{
	bool follows =
		rq->extended ? rq->flags & NBD_CMD_FLAG_PAYLOAD_LEN : rq->type == NBD_CMD_WRITE;

	return follows ? rq->len : 0;
}

static bool flags_accepted(const struct nbd_conn *conn, const struct nbd_command *cmd,
			   const struct nbd_request *rq)
{
	uint16_t accepted = cmd->flags | NBD_CMD_FLAG_FUA;

	if (conn->extended)
		accepted |= cmd->extended_flags;
	if (rq->flags & ~accepted)
		return false;
	if ((rq->flags & NBD_CMD_FLAG_DF) && !conn->structured)
		return false;
	/* An extended WRITE that announces no payload has nothing to write. */
	return !(conn->extended && rq->type == NBD_CMD_WRITE) ||
	       rq->flags & NBD_CMD_FLAG_PAYLOAD_LEN;
}

/* A BLOCK_STATUS with a payload that has not been looked at yet. */
static bool status_limited(const struct nbd_request *rq)
{
	return rq->type == NBD_CMD_BLOCK_STATUS && rq->flags & NBD_CMD_FLAG_PAYLOAD_LEN;
}

/* 0: may be executed; nobody checks again. Otherwise the error to answer with. */
static int request_validate(const struct nbd_conn *conn, const struct nbd_request *rq)
{
	const struct nbd_export *export = conn->export;
	const struct nbd_command *cmd;
	int r;

	if (rq->type >= ARRAY_SIZE(commands))
		return -EINVAL;
	cmd = &commands[rq->type];
	if (export->state != NBD_EXPORT_LIVE)
		return -ESHUTDOWN;
	if (!flags_accepted(conn, cmd, rq))
		return -EINVAL;
	if (cmd->changes && export->read_only)
		return -EPERM;
	if (cmd->describes && (!conn->contexts || !rq->len))
		return -EINVAL;
	if (status_limited(rq)) /* what it is about is in the payload: status_narrow() */
		return rq->len <= NBD_STATUS_PAYLOAD_MAX ? 0 : -EINVAL;
	r = validate_range(cmd, rq, export->size);
	if (!r && cmd->payload && rq->len > NBD_MAX_PAYLOAD)
		r = rq->type == NBD_CMD_READ && conn->structured ? -EOVERFLOW : -EINVAL;
	return r;
}

/* --- requests ------------------------------------------------------------------------------------
 */

struct nbd_req *nbd_reqs_new(void)
{
	return malloc(NBD_CONN_REQUESTS * sizeof(struct nbd_req));
}

static struct nbd_req *req_take(struct nbd_conn *conn)
{
	struct list *node = list_pop(&conn->free_reqs);

	return node ? list_entry(node, struct nbd_req, node) : &conn->req_mem[conn->reqs_used++];
}

/* A slot for what does not get one with a read buffer. False: the connection is blocked until there
 * is one. */
static bool slot_get(struct nbd_conn *conn, const struct nbd_request *rq, struct nbd_slot **slot)
{
	struct pool *pool = &conn->worker->slots;

	_Static_assert(sizeof(struct nbd_slot) <= NBD_SLOT_SIZE, "an operation fits its slot");
	*slot = NULL;
	if (rq->type == NBD_CMD_READ || rq->type == NBD_CMD_BLOCK_STATUS)
		return true;
	*slot = pool_get(pool);
	if (*slot)
		return true;
	pool_wait(pool, &conn->waiter);
	return nbd_conn_block(conn, NBD_BLOCK_SLOT);
}

/* NULL: the connection is blocked until @rq can be taken up. */
static struct nbd_req *req_get(struct nbd_conn *conn, const struct nbd_request *rq,
			       int64_t began_ns)
{
	struct nbd_slot *slot;
	struct nbd_req *req;

	if (conn->req_count >= NBD_CONN_REQUESTS) {
		nbd_conn_block(conn, NBD_BLOCK_REQUESTS);
		return NULL;
	}
	if (!slot_get(conn, rq, &slot))
		return NULL;
	req = req_take(conn);
	*req = (struct nbd_req){
		.conn = conn,
		.export = conn->export,
		.rq = *rq,
		.contexts = conn->contexts,
		.began_ns = began_ns,
		.slot = slot,
	};
	if (slot) {
		slot->req = req;
		req->io = &slot->io;
	}
	list_init(&req->read_node);
	list_add_tail(&conn->reqs, &req->node);
	conn->req_count++;
	return req;
}

void nbd_req_drop(struct nbd_req *req)
{
	struct nbd_conn *conn = req->conn;

	assert(!req->running);
	if (req->buf)
		nbd_read_put(conn, req->buf);
	if (req->started && !req->queued)
		conn->reads_running--;
	list_del(&req->read_node);
	list_del(&req->node);
	list_add_head(&conn->free_reqs, &req->node);
	conn->req_count--;
	if (!req->counted) /* the export may be gone otherwise */
		nbd_export_count_end(req->export);
	if (req->slot)
		pool_put(&conn->worker->slots, req->slot);
	nbd_conn_unblock(conn, NBD_BLOCK_REQUESTS);
}

/* The request is about to be answered. */
static void request_answered(struct nbd_conn *conn, struct nbd_export *export,
			     const struct nbd_request *rq, int64_t began_ns, int res)
{
	int64_t took_ns = nbd_now_ns(conn->worker) - began_ns;

	nbd_export_count_answer(export, rq, res, took_ns);
	NBD_PROBE_REQUEST_DONE(conn->id, rq->cookie, rq->type, rq->len, -res, took_ns);
}

void nbd_req_finish(struct nbd_req *req, int res)
{
	if (!req->counted)
		request_answered(req->conn, req->export, &req->rq, req->began_ns, res);
	nbd_reply(req->conn, &req->rq, res);
	nbd_req_drop(req);
}

void nbd_req_queued(struct nbd_req *req, int res)
{
	req->queued = true;
	req->conn->reads_running--;
	if (req->counted)
		return;
	req->counted = true;
	request_answered(req->conn, req->export, &req->rq, req->began_ns, res);
	nbd_export_count_end(req->export);
}

/* --- execute ---------------------------------------------------------------------------------- */

void nbd_req_submit(struct nbd_req *req, void (*op)(void *target, struct nbd_io *io),
		    void (*done)(struct nbd_io *io, int res))
{
	assert(!req->running);
	req->running = true;
	req->export->running++;
	req->io->done = done;
	op(req->export->target, req->io);
}

/* These three blame the request, which was found to be in order; a disk that says so is broken. */
static int disk_result(int res)
{
	return res == -EINVAL || res == -ENOTSUP || res == -EOVERFLOW ? -EIO : res;
}

int nbd_req_returned(struct nbd_req *req, int res)
{
	assert(req->running);
	req->running = false;
	return disk_result(res);
}

/* The last stage of everything that is answered without data. */
static void req_done(struct nbd_io *io, int res)
{
	struct nbd_req *req = nbd_req_of(io);
	struct nbd_export *export = req->export;
	struct nbd_conn *conn = req->conn;

	nbd_req_finish(req, nbd_req_returned(req, res));
	nbd_send_kick(conn);
	nbd_conn_settle(conn);
	nbd_export_op_done(export);
}

static void flush_start(struct nbd_req *req)
{
	nbd_req_submit(req, req->export->ops->flush, req_done);
}

static void zero_done(struct nbd_io *io, int res)
{
	struct nbd_req *req = nbd_req_of(io);
	struct nbd_export *export = req->export;

	if (res || !(req->rq.flags & NBD_CMD_FLAG_FUA)) {
		req_done(io, res);
		return;
	}
	nbd_req_returned(req, res);
	flush_start(req);
	nbd_export_op_done(export);
}

static void zero_start(struct nbd_req *req)
{
	req->io->off = req->rq.off;
	req->io->len = req->rq.len;
	nbd_req_submit(req, req->export->ops->zero, zero_done);
}

/* --- payload ---------------------------------------------------------------------------------- */

/* The payload says what the request is about: from here on it is one like others. */
static int status_narrow(struct nbd_conn *conn)
{
	struct nbd_payload *p = &conn->payload;

	if (!nbd_metactx_payload(p->body, p->rq.len, conn->contexts, &p->rq.len, &p->contexts))
		return -EINVAL;
	p->rq.flags &= ~NBD_CMD_FLAG_PAYLOAD_LEN;
	return request_validate(conn, &p->rq);
}

/* All bytes are in and there is more to do than to reply. False: blocked for want of a slot. */
static bool payload_execute(struct nbd_conn *conn)
{
	struct nbd_payload *p = &conn->payload;
	struct nbd_req *req = req_get(conn, &p->rq, p->began_ns);

	if (!req)
		return false;
	p->active = false;
	if (p->rq.type == NBD_CMD_WRITE) {
		flush_start(req);
	} else {
		req->contexts = p->contexts;
		commands[p->rq.type].start(req);
	}
	return true;
}

/* All bytes are in, or were drained. */
static bool payload_end(struct nbd_conn *conn)
{
	struct nbd_payload *p = &conn->payload;

	conn->useful = true;
	if (!p->error && status_limited(&p->rq))
		p->error = status_narrow(conn);
	if (!p->error && (p->rq.type == NBD_CMD_BLOCK_STATUS || p->rq.flags & NBD_CMD_FLAG_FUA))
		return payload_execute(conn);
	p->active = false;
	request_answered(conn, conn->export, &p->rq, p->began_ns, p->error);
	nbd_export_count_end(conn->export);
	nbd_reply(conn, &p->rq, p->error);
	return true;
}

/* Bytes for the export, from wherever they lie: how many it took. 0: the connection is blocked, or
 * the rest will be drained. */
static uint32_t payload_give(struct nbd_conn *conn, const unsigned char *buf, uint32_t n)
{
	struct nbd_payload *p = &conn->payload;
	struct nbd_export *export = conn->export;
	ssize_t took = export->ops->write(export->target, p->off, buf, n);

	if (took == -EAGAIN) {
		export->ops->wait_room(export->target, &conn->waiter);
		nbd_conn_block(conn, NBD_BLOCK_ROOM);
		return 0;
	}
	if (took < 0) {
		p->error = disk_result(took);
		return 0;
	}
	p->off += took;
	return took;
}

static void payload_consume(struct nbd_conn *conn, uint32_t n)
{
	conn->in += n;
	conn->in_len -= n;
	conn->payload.left -= n;
}

/* --- sectors: received in parts, given on whole ----------------------------------------------- */

/* Of the @n bytes at hand those at the end that begin a sector whose rest is still to come. */
static uint32_t sector_part(const struct nbd_payload *p, uint32_t n)
{
	return n == p->left ? 0 : MIN(n, (p->off + n) % NBD_SECTOR);
}

static void sector_hold(struct nbd_conn *conn, uint32_t n)
{
	struct nbd_payload *p = &conn->payload;

	memcpy(conn->sector + p->held, conn->in, n);
	p->held += n;
	payload_consume(conn, n);
}

static bool sector_complete(const struct nbd_payload *p)
{
	return !p->left || (p->off + p->held) % NBD_SECTOR == 0;
}

static void sector_give(struct nbd_conn *conn)
{
	struct nbd_payload *p = &conn->payload;
	uint32_t took = payload_give(conn, conn->sector, p->held);

	p->held -= took;
	memmove(conn->sector, conn->sector + took, p->held);
}

void nbd_payload_forget(struct nbd_conn *conn)
{
	if (conn->payload.active)
		nbd_export_count_end(conn->export);
	conn->payload.active = false;
}

/* @n bytes have come, at least one. */
static void payload_take(struct nbd_conn *conn, uint32_t n)
{
	struct nbd_payload *p = &conn->payload;
	uint32_t part;

	if (p->error) {
		payload_consume(conn, n);
	} else if (p->rq.type == NBD_CMD_BLOCK_STATUS) {
		memcpy(p->body + p->rq.len - p->left, conn->in, n);
		payload_consume(conn, n);
	} else if (p->held) {
		sector_hold(conn, MIN(n, NBD_SECTOR - (p->off + p->held) % NBD_SECTOR));
	} else {
		part = sector_part(p, n);
		if (part < n)
			payload_consume(conn, payload_give(conn, conn->in, n - part));
		else
			sector_hold(conn, n);
	}
}

bool nbd_payload_step(struct nbd_conn *conn)
{
	struct nbd_payload *p = &conn->payload;
	uint32_t n = MIN(conn->in_len, p->left);

	if (p->error)
		p->held = 0; /* as is everything behind it */
	if (p->held && sector_complete(p))
		sector_give(conn);
	else if (n)
		payload_take(conn, n);
	else
		return !p->left && payload_end(conn);
	return !conn->block;
}

/* --- headers ---------------------------------------------------------------------------------- */

/* Nothing is to be done for an empty range, nor to flush where nobody can have written. */
static bool request_needs_slot(const struct nbd_conn *conn, const struct nbd_request *rq)
{
	if (rq->type == NBD_CMD_FLUSH)
		return !conn->export->read_only;
	return commands[rq->type].start && rq->len;
}

static void request_note(struct nbd_conn *conn)
{
	const struct nbd_request *rq = &conn->rq;

	conn->header_have = 0;
	conn->useful = true;
	nbd_turns_serving(conn->worker);
	nbd_export_count_begin(conn->export, rq->type, nbd_now_ns(conn->worker));
	NBD_PROBE_REQUEST_START(conn->id, rq->cookie, rq->type, rq->off, rq->len, rq->flags);
}

/* A whole header is in conn->rq. False: blocked, to be called again, or nothing more to come. */
static bool request_begin(struct nbd_conn *conn)
{
	const struct nbd_request *rq = &conn->rq;
	uint64_t payload = request_payload(rq);
	struct nbd_req *req = NULL;
	int res;

	if (rq->type == NBD_CMD_DISC) {
		nbd_conn_finish(conn);
		return false;
	}
	if (payload > NBD_MAX_PAYLOAD && conn->extended) {
		log_warn(&conn->log, "announces a payload of %llu bytes; closed",
			 (unsigned long long)payload);
		nbd_conn_close(conn);
		return false;
	}
	if (!nbd_reply_room(conn)) {
		nbd_limit_count(conn->worker, NBD_LIMIT_SEND_QUEUE);
		return nbd_conn_block(conn, NBD_BLOCK_REPLIES);
	}
	res = request_validate(conn, rq);
	if (!res && !payload && request_needs_slot(conn, rq)) {
		req = req_get(conn, rq, nbd_now_ns(conn->worker));
		if (!req)
			return false;
	}
	request_note(conn);
	if (rq->type == NBD_CMD_WRITE || payload) {
		conn->payload = (struct nbd_payload){
			.rq = *rq,
			.off = rq->off,
			.left = payload,
			.began_ns = nbd_now_ns(conn->worker),
			.active = true,
			.error = res,
		};
	} else if (req) {
		commands[rq->type].start(req);
	} else {
		request_answered(conn, conn->export, rq, nbd_now_ns(conn->worker), res);
		nbd_export_count_end(conn->export);
		nbd_reply(conn, rq, res);
	}
	return true;
}

static bool header_decode(struct nbd_conn *conn)
{
	return conn->extended ? nbd_get_ext_request(conn->header, &conn->rq)
			      : nbd_get_request(conn->header, &conn->rq);
}

bool nbd_header_step(struct nbd_conn *conn)
{
	uint32_t size = conn->extended ? NBD_EXT_REQUEST_SIZE : NBD_REQUEST_SIZE;
	uint32_t n = MIN(conn->in_len, size - conn->header_have);

	if (conn->header_have == size)
		return request_begin(conn);
	if (!n)
		return false;
	memcpy(conn->header + conn->header_have, conn->in, n);
	conn->header_have += n;
	conn->in += n;
	conn->in_len -= n;
	if (conn->header_have < size)
		return false;
	if (!header_decode(conn)) {
		log_warn(&conn->log, "sent something that is no request; closed");
		nbd_conn_close(conn);
		return false;
	}
	return request_begin(conn);
}

/* --- shutdown --------------------------------------------------------------------------------- */

/* A reply of which a part is queued cannot be taken back: the connection ends with it. */
static bool req_half_answered(const struct nbd_req *req)
{
	return req->next > 0;
}

void nbd_requests_shutdown(struct nbd_conn *conn)
{
	struct list *node;

	if (conn->payload.active && !conn->payload.error)
		conn->payload.error = -ESHUTDOWN;
	while ((node = list_pop(&conn->reads))) {
		struct nbd_req *req = list_entry(node, struct nbd_req, read_node);

		if (!conn->dead && req_half_answered(req)) {
			list_add_head(&conn->reads, &req->read_node);
			nbd_conn_close(conn);
			return;
		}
		if (conn->dead)
			nbd_req_drop(req);
		else
			nbd_req_finish(req, -ESHUTDOWN);
	}
	nbd_conn_unblock(conn, conn->block == NBD_BLOCK_ANSWER ? NBD_BLOCK_NONE : conn->block);
	nbd_send_kick(conn);
}
