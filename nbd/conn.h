/*
 * One client: a socket and what is going on with it. Belongs to one worker at a time and to its
 * thread; while it negotiates it may move to another worker, whole, with nothing pending.
 *
 * Receiving is one pump (conn.c) that feeds whoever is next: the handshake, a request header, the
 * payload of a WRITE. Nobody else knows about short receives. A step that cannot go on blocks the
 * connection for one reason at a time; while it is blocked nothing is received, so that TCP
 * throttles the client, and whoever removes the reason unblocks it.
 *
 * Payload reaches the export in whole sectors, however it arrives: a flush of somebody else, or a
 * crash, finds each sector of a WRITE under way either as it was or as it will be.
 *
 * What was received and not consumed stays where it came to be: in `inbuf`, or, for payload, in a
 * staging buffer of the worker. A receive into a staging buffer asks for at most NBD_INBUF bytes
 * more than the payload still due, so that whatever is left once the payload is through fits into
 * `inbuf`: no client that blocks by its own doing sits on a staging buffer.
 *
 * With TLS (tls.h) the same is true of ciphertext, `tls->raw` and `tls->home`; it is decrypted into
 * `inbuf` when what was there is consumed.
 */
#ifndef NBD_CONN_H
#define NBD_CONN_H

#include <sys/socket.h>
#include <sys/uio.h>

#include "base/list.h"
#include "base/log.h"
#include "base/pool.h"
#include "base/ring.h"
#include "nbd/metactx.h"
#include "nbd/wire.h"
#include "nbd/worker.h"

#define NBD_INBUF	  16384U
#define NBD_SECTOR	  512U		  /* never torn, whatever happens while it arrives */
#define NBD_REPLY_MAX	  40U		  /* largest reply without data, rounded up */
#define NBD_CONN_REQUESTS 64		  /* running at once, per connection */
#define NBD_CONN_READS	  (NBD_READS / 2) /* read buffers at most, per connection */
/* Holds the replies to all requests that run, one that arrives, and a spare one. */
#define NBD_SEND_QUEUE_MIN 4096U
#define NBD_IOV		   (2 + NBD_CONN_READS)

/*
 * A receive costs the same for a byte as for 100 KiB. Clients that send in crumbs, many receives in
 * a row that are small and complete nothing, have to wait for their turn to receive, so that
 * several crumbs come at once: all of them together get NBD_PACE_BATCH receives every NBD_PACE_MS.
 */
#define NBD_CRUMB      512U
#define NBD_CRUMBS     8U /* so many are normal */
#define NBD_CRUMBS_MAX 32U
#define NBD_PACE_MS    2
#define NBD_PACE_BATCH 8

struct nbd_export;
struct nbd_handshake;
struct nbd_req;
struct nbd_tls;
struct nbd_tls_creds;

enum nbd_block {
	NBD_BLOCK_NONE,
	NBD_BLOCK_ANSWER,   /* handshake: the answer has to be sent first */
	NBD_BLOCK_ROOM,	    /* the export takes no payload now */
	NBD_BLOCK_SLOT,	    /* the worker has no request slot */
	NBD_BLOCK_REQUESTS, /* this connection has enough requests running */
	NBD_BLOCK_REPLIES,  /* this client has enough replies to read */
	NBD_BLOCK_TLS,	    /* what TLS has to say has to be sent first */
	NBD_BLOCK_TURN,	    /* it begins, and it is not its turn */
};

/* The request whose payload is arriving: a WRITE, or a BLOCK_STATUS limited to some contexts. */
struct nbd_payload {
	struct nbd_request rq;
	uint64_t off;  /* where the next byte the export gets goes */
	uint32_t left; /* bytes still to come */
	uint32_t held; /* came and wait for the rest of their sector, in conn->sector */
	int64_t began_ns;
	bool active; /* until it is replied to, or has become a request */
	int error;   /* 0 or -errno: the rest is drained */
	/* of a BLOCK_STATUS */
	unsigned char body[NBD_STATUS_PAYLOAD_MAX];
	uint32_t contexts; /* what it narrowed the request down to: NBD_META_BITs */
};

/* Head of a read buffer: one piece of a reply, waiting to be sent. */
struct nbd_chunk {
	struct list node; /* send.chunks or send.later */
	const unsigned char *p;
	uint32_t len;
	struct nbd_req *req; /* whose reply it is */
	uint64_t at;	     /* bytes of that reply's data before it */
	bool last;	     /* nothing of that reply follows: @req ends with it */
	bool more;	     /* the next chunk must follow without anything in between */
	bool parked;	     /* not in a read buffer: see retract.h */
};

/* The way out: at most one send at a time. Replies without data lie in a ring of bytes; replies
 * with data are chunks. Between two complete chunks anything may go out, inside a stream nothing
 * may. */
struct nbd_send {
	struct ring_op op;
	bool busy;
	bool mid; /* what was sent last wants its continuation first */
	unsigned char *small;
	uint32_t small_size; /* the send queue of the configuration */
	uint32_t small_head, small_used;
	uint32_t small_sending; /* of the send under way */
	struct list chunks, later;
	struct msghdr msg;
	struct iovec iov[NBD_IOV];
	int64_t moved_ns; /* when it started, or last moved */
	int64_t began_ns; /* of the send under way */
	/* how fast the client reads, lately: bytes, and the time they took */
	uint64_t pace_bytes;
	int64_t pace_ns;
	const struct nbd_chunk *piece; /* first of `chunks` when last looked at, since... */
	int64_t piece_ns;
	bool retract; /* what is queued is about to be taken back */
	struct ring_op cancel;
	bool cancelling;
};

struct nbd_conn {
	struct list node;	 /* worker->conns */
	struct list export_node; /* export->conns */
	struct nbd_worker *worker;
	struct nbd_worker *move_to;  /* hand-off: after the current step */
	struct nbd_tls_creds *creds; /* of its listener when it came: referenced; NULL: no TLS */
	struct nbd_export *export;   /* in transmission: referenced */
	struct nbd_handshake *hs;    /* while negotiating: owned */
	struct nbd_tls *tls;	     /* owned; NULL: what is received is plain */
	struct nbd_mail mail;	     /* hand-off */
	struct log_scope log;
	uint64_t id; /* 1, 2, ...: for the log and the probes */
	int fd;
	struct nbd_peer *peer; /* NULL: not counted */

	/* agreed on */
	bool structured;   /* replies come in chunks, */
	bool extended;	   /* and all headers are the extended ones */
	uint32_t contexts; /* selected: NBD_META_BITs */

	int64_t end_ns; /* not 0: it ends when it comes to rest, and then at the latest */
	bool closing;	/* receives nothing more, ends when all is answered */
	bool dead;	/* hung up: waits for what is pending, answers nothing */

	/* the pump */
	struct ring_op recv_op;
	bool receiving;
	bool quiet;	  /* the last receive took all there was */
	int64_t heard_ns; /* when it came */
	const unsigned char *in;
	uint32_t in_len;
	int in_slot;	     /* staging buffer `in` points into; -1: inbuf */
	struct list starved; /* worker->starved */
	struct list paced;   /* worker->paced */
	struct list turn;    /* worker->turns.waiting */
	unsigned crumbs;     /* how much it sends in pieces that are good for nothing */
	bool useful;	     /* what was received last completed something */
	bool resumed;	     /* it is its turn */
	uint32_t took;	     /* bytes of the last receive */

	enum nbd_block block;
	struct pool_waiter waiter; /* for ROOM and SLOT */
	struct ring_op wake_op;
	bool wake_posted;

	/* requests (request.c) */
	unsigned char header[NBD_EXT_REQUEST_SIZE];
	unsigned header_have;
	struct nbd_request rq; /* decoded from a full header */
	struct nbd_payload payload;
	unsigned char sector[NBD_SECTOR];
	struct list reqs;	 /* struct nbd_req.node: not answered */
	unsigned req_count;	 /* of them */
	struct nbd_req *req_mem; /* NBD_CONN_REQUESTS; owned */
	unsigned reqs_used;	 /* of them, from the first on */
	struct list free_reqs;	 /* of those */

	/* replies with data (read.c) */
	struct list reads;	/* struct nbd_req.read_node: waiting for a buffer, in order */
	unsigned reads_running; /* have had a buffer, have not queued their last chunk */
	unsigned read_bufs;	/* held: being filled, queued or being sent */
	unsigned read_ops;	/* of them being filled */
	unsigned read_allow;	/* so many it may hold: few after it let us wait, then more */
	bool stuck;		/* gets none until what is left to be sent is sent */
	struct nbd_req *stream; /* the reply that must not be interleaved */
	struct pool_waiter read_waiter;
	struct ring_op read_op;
	bool read_posted;

	struct nbd_send send;
	struct ring_op free_op;
	bool freeing;

	unsigned char inbuf[NBD_INBUF];
	unsigned char small[]; /* send.small_size */
};

/* Takes @fd, accepted from @listener, over and starts the handshake. */
void nbd_conn_start(struct nbd_worker *worker, const struct nbd_listener *listener, int fd);

/* Goes on with whatever was received, then receives. The last thing its caller does with @conn. */
void nbd_conn_run(struct nbd_conn *conn);

/* Stops the pump for @why; returns false, for the step to return. */
bool nbd_conn_block(struct nbd_conn *conn, enum nbd_block why);

/* Lets the pump go on in the next round, if @why is what blocks it. */
void nbd_conn_unblock(struct nbd_conn *conn, enum nbd_block why);

/* No more requests; closes once all is answered. */
void nbd_conn_finish(struct nbd_conn *conn);

/*
 * Nothing is done for it any more, but what it has sent is answered (its export is gone: with
 * ESHUTDOWN): closing a socket with unread bytes in it would throw away replies that are on their
 * way. It closes when it comes to rest, at once if it is at rest, or NBD_LINGER_MS from now.
 */
#define NBD_LINGER_MS 2000
void nbd_conn_end(struct nbd_conn *conn);

/* Hangs up now. The connection goes away when nothing of it is pending. */
void nbd_conn_close(struct nbd_conn *conn);

/* Goes on with what nbd_conn_end() or _finish() began, and frees what nbd_conn_close() left, when
 * it is time. */
void nbd_conn_settle(struct nbd_conn *conn);

/* Enters transmission: @export's reference becomes the connection's. On its owner's thread. */
void nbd_conn_join(struct nbd_conn *conn, struct nbd_export *export);
void nbd_conn_leave(struct nbd_conn *conn);

/* Once a tick: hangs up on those that are out of time. @pressure: somebody waits for a buffer. */
void nbd_conn_tick(struct nbd_conn *conn, bool pressure);

/* Its turn to receive: see NBD_CRUMB. */
void nbd_conn_resume(struct nbd_conn *conn);

/* A staging buffer is free again. */
void nbd_conn_unstarve(struct nbd_conn *conn);

#endif
