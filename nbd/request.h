/*
 * Requests: decode, validate, execute, finish.
 *
 * A WRITE needs nothing: its payload goes into the export as it arrives, and the reply follows when
 * the last byte was taken. Everything that takes longer is a `struct nbd_req`, one of those its
 * connection has, until its reply is queued (one with data: sent). While the export works on it,
 * its operation lies in a `struct nbd_slot`: of the worker's pool, or, for replies with data, in
 * the read buffer. So a request that waits for its client holds nothing others might need.
 */
#ifndef NBD_REQUEST_H
#define NBD_REQUEST_H

#include <stdbool.h>

#include "base/list.h"
#include "nbd/conn.h"
#include "nbd/export.h"
#include "nbd/wire.h"

struct nbd_req {
	struct list node;      /* conn->reqs */
	struct list read_node; /* conn->reads, or linked to itself */
	struct nbd_conn *conn;
	struct nbd_export *export; /* where it runs; the removal waits for running ones */
	struct nbd_request rq;
	int64_t began_ns;      /* when it was taken up */
	bool running;	       /* the export owes us done() */
	struct nbd_slot *slot; /* out of the worker's pool, until the end; NULL: read.c's */
	struct nbd_io *io;     /* in a slot, this one or a read buffer's */

	/* read.c: the reply made of segments */
	unsigned char *buf; /* a read buffer, from taking it until it is queued */
	uint64_t next;	    /* bytes asked for so far */
	uint32_t seg;	    /* bytes of the current segment */
	bool whole;	    /* more than one segment, and nothing may come between them */
	bool started;	    /* has had a buffer */
	bool queued;	    /* all of the reply is */
	bool counted;	    /* as answered */
	int error;	    /* whole: the rest is padding, the trailer says why */
	uint32_t contexts;  /* BLOCK_STATUS: those still to be described, NBD_META_BITs */
	uint32_t asked;	    /* and all of them */
	uint32_t filled;    /* BLOCK_STATUS: bytes of the reply so far */
};

/* Where an operation of the export lives. */
struct nbd_slot {
	struct nbd_req *req;
	struct nbd_io io;
};

/* In every done() of an operation that was submitted with nbd_req_submit(). */
static inline struct nbd_req *nbd_req_of(struct nbd_io *io)
{
	return container_of(io, struct nbd_slot, io)->req;
}

/* The requests of a connection; NULL: no memory. They are touched as they are used. */
struct nbd_req *nbd_reqs_new(void);

/* One step of the pump each; false when there is nothing to do with what is there. */
bool nbd_header_step(struct nbd_conn *conn);
bool nbd_payload_step(struct nbd_conn *conn);

/* The WRITE whose payload was arriving will not be answered. */
void nbd_payload_forget(struct nbd_conn *conn);

/* Calls an operation of the export for @req. */
void nbd_req_submit(struct nbd_req *req, void (*op)(void *target, struct nbd_io *io),
		    void (*done)(struct nbd_io *io, int res));

/* To be called first in every done(), with what it was told: what to tell the client. */
int nbd_req_returned(struct nbd_req *req, int res);

/* Queues the reply (@res: 0 or -errno) and ends @req. */
void nbd_req_finish(struct nbd_req *req, int res);

/* All of the reply is queued, as chunks: @req ends when the last one is sent. */
void nbd_req_queued(struct nbd_req *req, int res);

/* As that, when nobody is there to read a reply. */
void nbd_req_drop(struct nbd_req *req);

/* Refuses what has not started, lets run what runs. */
void nbd_requests_shutdown(struct nbd_conn *conn);

#endif
