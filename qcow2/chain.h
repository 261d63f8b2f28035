/*
 * A read-only stack of image files seen as one disk.
 *
 * Opening validates every link: a regular qcow2 file inside the repository, no cycle, bounded
 * depth. Reading goes through windows: a window covers 512 units (the smallest piece any layer maps
 * alone) of the guest disk and says for each unit which layer holds it and where. A window is built
 * once, by reading the stretch of L2 table it covers in every layer that has one, top down, until
 * no unit is open; from then on a read costs the same whatever the depth. Windows live in a bounded
 * cache. Who reads on from one window into the next finds the ones after it loaded ahead, so that a
 * stream does not wait for the tables of a deep chain.
 *
 * A layer shorter than the one above ends in zeroes: what lies below it is never looked at beyond
 * that end. `limit[k]` is the smallest size among layers 0..k; a unit found in layer k reads as
 * zeroes from there on.
 */
#ifndef QCOW2_CHAIN_H
#define QCOW2_CHAIN_H

#include "base/list.h"
#include "base/pool.h"
#include "qcow2/layer.h"

#define QCOW2_WINDOW_UNITS 512

struct qcow2_chain;

/* A stretch of guest disk that is found in one piece. */
struct qcow2_run {
	enum qcow2_kind kind;		 /* NONE reads as zeroes: no layer has it */
	const struct qcow2_layer *layer; /* DATA, PACKED */
	uint64_t host;			 /* DATA: host offset; PACKED: the L2 entry */
	uint64_t len;			 /* guest bytes */
};

/*
 * Opens the chain whose top is @path, relative to the repository folder @root_fd, and everything
 * behind it. Blocking. 0, -errno, QCOW2_E_*.
 */
int qcow2_chain_open(struct qcow2_chain **out, int root_fd, const char *path, struct err *err);

/* The chain behind @overlay (whose own layer stays the caller's); *@out is NULL when it has none.
 */
int qcow2_chain_open_backing(struct qcow2_chain **out, int root_fd,
			     const struct qcow2_layer *overlay, struct err *err);

void qcow2_chain_free(struct qcow2_chain *chain); /* accepts NULL; must be detached */

unsigned qcow2_chain_depth(const struct qcow2_chain *chain); /* accepts NULL: 0 */
const struct qcow2_layer *qcow2_chain_layer(const struct qcow2_chain *chain, unsigned i);

/* Binds the files to @ring and allocates the window cache; frees it again. At detach the chain must
 * not be busy. */
int qcow2_chain_attach(struct qcow2_chain *chain, struct ring *ring, struct err *err);
void qcow2_chain_detach(struct qcow2_chain *chain);

/*
 * Finds what holds guest offset @off, at most @max bytes. 0: *@run is set. -EAGAIN: the window has
 * to be read first; @waiter wakes when asking again makes sense. @chain NULL: all zeroes.
 */
int qcow2_chain_find(struct qcow2_chain *chain, uint64_t off, uint64_t max,
		     struct pool_waiter *waiter, struct qcow2_run *run);

/* True while windows are being read, for somebody or ahead of a stream; @waiter wakes when that is
 * over. @chain may be NULL. */
bool qcow2_chain_busy(struct qcow2_chain *chain, struct pool_waiter *waiter);

#endif
