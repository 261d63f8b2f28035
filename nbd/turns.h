/*
 * Turns: what clients that begin may take from those that are being served.
 *
 * A connection is cheaper to ask for than to give, most of all with TLS, where a hello of some
 * hundred bytes costs a signature. So while a server serves anybody, beginnings (a connection's
 * first step, each step of a TLS handshake) get handshake_percent of each worker's time and what
 * they left unused in the NBD_TURN_SAVED_S before. What comes beyond that waits for its turn, which
 * is given to the peer that has had none for longest, or came first: who floods waits for himself,
 * and new addresses do not come before known ones. While nobody is served all have their turns at
 * once, one after the other.
 */
#ifndef NBD_TURNS_H
#define NBD_TURNS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/ring.h"

#define NBD_TURN_SAVED_S  5	       /* of unused time */
#define NBD_TURN_BEGIN_NS 70000	       /* a connection without TLS, from accepting to closing */
#define NBD_TURN_QUIET_NS 1000000000LL /* without a request: nobody is served */

struct nbd_conn;
struct nbd_worker;

/* One a worker. */
struct nbd_turns {
	struct list waiting;	  /* struct nbd_conn.turn, in order of arrival */
	struct nbd_conn *granted; /* its turn, which it has not taken yet */
	int64_t credit_ns;	  /* time that may be spent; less than 0: was overspent */
	int64_t credited_ns;	  /* when that was reckoned */
	int64_t local_ns;	  /* the last turn of clients without an address */
	struct ring_op op;	  /* until there is credit */
	struct __kernel_timespec period;
	bool armed;
};

void nbd_turns_init(struct nbd_worker *worker);

/* A request has come. On the worker's thread. */
void nbd_turns_serving(struct nbd_worker *worker);

/* True: it is @conn's turn; what it does has to be paid with nbd_turn_cost(). False: @conn is
 * blocked until it is. */
bool nbd_turn_take(struct nbd_conn *conn);
void nbd_turn_cost(struct nbd_worker *worker, int64_t ns);

/* @conn waits no longer, whatever for. */
void nbd_turn_forget(struct nbd_conn *conn);

#endif
