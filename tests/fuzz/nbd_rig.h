/*
 * A running NBD server for fuzz targets: two disks in memory on two workers, a good client on each
 * that stays connected throughout, and sessions that say whatever a target wants said over a
 * socketpair. The server starts with the first session and stops at exit.
 */
#ifndef FUZZ_NBD_RIG_H
#define FUZZ_NBD_RIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "base/ring.h"
#include "nbd/server.h"

#define RIG_SIZE      ((1U << 20) + 513) /* bytes of each disk: several read buffers, and odd */
#define RIG_BLOCK     4096U		 /* base:allocation: every other block is a hole */
#define RIG_RECEIVED  10000U		 /* sendense:received: every other so many bytes are */
#define RIG_BAD	      (600U << 10)	 /* here begin ... */
#define RIG_BAD_LEN   4096U		 /* ... bytes that are errors, when manners say so */
#define RIG_REPLY_MAX (8U << 20)
#define RIG_DISKS     2

/* How disks behave during a session. */
struct rig_manners {
	unsigned bite;	       /* most bytes one write() takes; 0: all */
	unsigned eagain_every; /* every n-th write() has to wait; 0: none */
	unsigned delay;	       /* rounds until an operation is done, at most */
	bool bad;	       /* the bad bytes are errors */
};

struct rig_disk {
	const char *name;
	bool read_only;
	/* What the disk holds, what it should hold (the judge's), what it holds at the start of
	 * every session: RIG_SIZE bytes each. */
	unsigned char *data, *model, *start;

	/* the worker's */
	struct ring *ring;
	struct list waiters;
	struct ring_op room_op;
	bool room_posted;
	unsigned writes, ops;
};

/* "disk", writable, and "fixed", read-only. */
extern struct rig_disk rig_disks[RIG_DISKS];

struct rig_session {
	/* What the client says, and in pieces of which size: 0 to 63: so many and one more bytes,
	 * 64 to 127: 2^(n % 16) bytes; above: as n - 128, and the server reads it before more is
	 * said. The list is gone through again and again; without one, all is said at once. */
	const unsigned char *said, *pieces;
	size_t said_len, pieces_len;
	enum nbd_tls_policy tls; /* the server's, with a pre-shared key nobody here knows */
	bool hang_up;		 /* having said all, the client goes away without reading on */
	struct rig_manners manners;

	/* what came back */
	unsigned char *replies; /* static, good until the next session */
	size_t replies_len;
	bool cut; /* there was more, and the client went away: hang_up, or RIG_REPLY_MAX */
};

/* Runs one to its end. Fails unless the server ends it in time, with nothing left of it, and still
 * serves the good clients. */
void rig_run(struct rig_session *session);

#endif
