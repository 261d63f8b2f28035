/*
 * The way back to the client: small replies, chunks of data, and the send that carries them.
 */
#ifndef NBD_REPLY_H
#define NBD_REPLY_H

#include <stdbool.h>

#include "nbd/conn.h"
#include "nbd/wire.h"

/* The one map from our errors to those of the protocol. @res: 0 or -errno. */
enum nbd_error nbd_error_of(int res);

void nbd_send_init(struct nbd_conn *conn);

/* True when one more request can be answered, now or later, beside those that are running. */
bool nbd_reply_room(const struct nbd_conn *conn);

/* Queues the reply to a request that has no data to give. @res: 0 or -errno. */
void nbd_reply(struct nbd_conn *conn, const struct nbd_request *rq, int res);

/* Queues @chunk, which lies in a read buffer; that is given back once it is sent, and with the last
 * one the request. @stream: the reply is the one that must not be interleaved. */
void nbd_reply_chunk(struct nbd_conn *conn, struct nbd_chunk *chunk, bool stream);

/* The stream is over: what had to wait for it may go. */
void nbd_reply_stream_end(struct nbd_conn *conn);

/* True when nothing is queued or on its way. */
bool nbd_send_idle(const struct nbd_conn *conn);

/* Sends what is queued, unless a send is under way. */
void nbd_send_kick(struct nbd_conn *conn);

/* TLS: what is encrypted lies in a buffer of its own, and counts as sent from now on. */
void nbd_send_commit(struct nbd_conn *conn);

/* Forgets what is queued; a send under way keeps what it needs. */
void nbd_send_drop(struct nbd_conn *conn);

#endif
