/*
 * Taking replies back from a client that does not read them while others wait for a read buffer.
 *
 * What the kernel has not taken after a while is cancelled. The piece that is being sent goes into
 * memory of its own, *parked*, so that the client sees no break in it; everything behind it is
 * forgotten, to be read from the export again when the client has read. So a client that reads
 * nothing holds no buffer, whatever it asked for, and one that is merely slow, or pauses, loses
 * nothing but the time its data takes to be read once more. Clients that are known to be slow, or
 * have read nothing yet, have their pieces set aside almost at once: a buffer is there to read from
 * the disk, not to wait. Who begins holds one, so that many at once do not take all of them.
 *
 * A worker parks NBD_PARKED pieces at most. With more clients than that holding everything up,
 * those that stall for longer than stall_timeout_ms are hung up on.
 */
#ifndef NBD_RETRACT_H
#define NBD_RETRACT_H

#include "nbd/conn.h"

#define NBD_PARKED     128 /* pieces of at most NBD_READ_SIZE, a worker */
#define NBD_RETRACT_MS 100 /* of not reading */
/* A client that reads less than NBD_SLOW_RATE lately is known to be slow: it may take no longer
 * than NBD_SLOW_MS for a piece, nor may one that has read nothing yet, and holds one buffer at a
 * time. */
#define NBD_SLOW_RATE (16ULL << 20) /* bytes a second, of the time in which it had some to read */
#define NBD_SLOW_MS   10
#define NBD_RELIEF_MS 5 /* how often is looked, while somebody waits */

void nbd_retract_init(struct nbd_conn *conn);

/* Somebody waits for a read buffer: begins, if @conn holds some and does not read. */
void nbd_retract_begin(struct nbd_conn *conn);

/* Goes on, if that was begun and nothing is pending any more. */
void nbd_retract_go(struct nbd_conn *conn);

/* A send has ended, with @n bytes. */
void nbd_retract_pace(struct nbd_conn *conn, uint32_t n);

/* Whether the client is known to be slow. */
bool nbd_retract_slow(const struct nbd_conn *conn);

/* Something was sent. */
void nbd_retract_moved(struct nbd_conn *conn);

/* Gives a parked chunk back, sent or not. */
void nbd_retract_free(struct nbd_conn *conn, struct nbd_chunk *chunk);

#endif
