/*
 * An export in memory that does as the test tells it: takes payload in small bites or not at all,
 * holds operations back, fails. Knobs are atomics, to be turned while the server runs.
 */
#ifndef TESTS_MEMEXPORT_H
#define TESTS_MEMEXPORT_H

#include <stdatomic.h>

#include "base/list.h"
#include "nbd/export.h"

struct memexport {
	unsigned char *data;
	uint64_t size;

	/* knobs */
	atomic_uint bite;	  /* most bytes one write() takes; 0: all */
	atomic_uint eagain_every; /* every n-th write() says -EAGAIN; 0: none */
	atomic_bool choked;	  /* every write() says -EAGAIN until this is false again */
	atomic_bool hold;	  /* operations finish when this is false again */
	atomic_int write_error, read_error, zero_error, flush_error, received_error; /* -errno */
	_Atomic uint64_t fail_from; /* write and read fail for ranges reaching past this offset */
	atomic_uint extent_size;    /* data, hole, data ... of this length; 0: one data extent */
	atomic_uint received_size;  /* the same for received, not, received ... */

	/* what happened */
	atomic_uint writes, eagains, reads, flushes, zeroes, extents, attached, detached, abandoned;

	/* the worker's */
	struct ring *ring;
	struct list waiters;
	struct ring_op room_op;
	bool room_posted;
};

extern const struct nbd_export_ops memexport_ops;
/* The same with sendense:received. */
extern const struct nbd_export_ops memexport_received_ops;

/* Fails the test when there is no memory. Deinit after the server has stopped. */
void memexport_init(struct memexport *mem, uint64_t size);
void memexport_deinit(struct memexport *mem);

#endif
