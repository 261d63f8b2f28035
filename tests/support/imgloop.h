/*
 * An image on its own ring, driven by blocking calls: what a worker does, one operation at a time.
 */
#ifndef TESTS_SUPPORT_IMGLOOP_H
#define TESTS_SUPPORT_IMGLOOP_H

#include "base/pool.h"
#include "base/ring.h"
#include "qcow2/qcow2.h"

struct imgloop {
	struct ring ring;
	struct pool batches, bounces;
	struct qcow2_image *img; /* attached; owned */
};

/* Asserts on failure: tests have nothing to clean up after that. */
void imgloop_start(struct imgloop *loop, unsigned batches);
void imgloop_stop(struct imgloop *loop);

/* Opens and attaches; 0 or what qcow2_open() said. */
int imgloop_open(struct imgloop *loop, const char *path, const struct qcow2_open_opts *opts);

/* Flushes, detaches and finalizes (writable images), closes. 0 or the first failure. */
int imgloop_close(struct imgloop *loop);

/* Detaches and closes as a crash would leave it: nothing flushed or finalized. */
void imgloop_drop(struct imgloop *loop);

/* 0 or -errno. */
int imgloop_write(struct imgloop *loop, uint64_t off, const void *buf, size_t len);
int imgloop_read(struct imgloop *loop, uint64_t off, void *buf, size_t len);
int imgloop_zero(struct imgloop *loop, uint64_t off, uint64_t len);
int imgloop_flush(struct imgloop *loop);
/* Asks qcow2_received(), then flushes: what it named is durable. */
int imgloop_received(struct imgloop *loop, uint64_t off, uint64_t len, struct qcow2_extent *extents,
		     unsigned max, unsigned *count);
int imgloop_extents(struct imgloop *loop, uint64_t off, uint64_t len, struct qcow2_extent *extents,
		    unsigned max, unsigned *count);

#endif
