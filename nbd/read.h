/*
 * Replies with data: READ and BLOCK_STATUS.
 *
 * A READ is answered in segments of NBD_SEGMENT bytes, each in a read buffer that goes from the
 * disk to the socket and back to the pool; the next segment is read while this one is sent. With
 * structured replies every segment is a chunk of its own and requests overlap freely.
 *
 * A reply that is one run of bytes (simple, or structured with DF) and longer than a segment is a
 * stream: it starts when the READs before it have been queued, and READs behind it get buffers when
 * its last segment has one. So a stream never waits for a buffer that waits for the stream.
 */
#ifndef NBD_READ_H
#define NBD_READ_H

#include "nbd/request.h"

/* Queues @req (READ with a length, or BLOCK_STATUS) and starts what can be started. */
void nbd_read_queue(struct nbd_req *req);

/* Starts what can be started: a buffer came back, or may have. */
void nbd_reads_kick(struct nbd_conn *conn);

/* One more may be held from now on, up to the limit: something was sent. */
void nbd_read_grow(struct nbd_conn *conn);

/* Takes back @chunk, the last one queued of its reply, which will be read again from there on. */
void nbd_read_rewind(struct nbd_conn *conn, struct nbd_chunk *chunk);

/* Gives a read buffer back. */
void nbd_read_put(struct nbd_conn *conn, void *buf);

/* The worker's pool has a buffer for @waiter (conn->read_waiter). */
void nbd_read_wake(struct pool_waiter *waiter);
void nbd_read_woken(struct ring_op *op, int res);

#endif
