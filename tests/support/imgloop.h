/*
 * qcow2/session.h for tests: what cannot be prepared aborts, and a failure to open says why.
 */
#ifndef TESTS_SUPPORT_IMGLOOP_H
#define TESTS_SUPPORT_IMGLOOP_H

#include "qcow2/session.h"

void imgloop_start(struct qcow2_session *loop, unsigned batches);
void imgloop_stop(struct qcow2_session *loop);

/* Opens and attaches; 0 or what qcow2_open() said. */
int imgloop_open(struct qcow2_session *loop, const char *path, const struct qcow2_open_opts *opts);

/* Flushes, detaches and finalizes (writable images), closes. 0 or the first failure. */
int imgloop_close(struct qcow2_session *loop);

/* Asks qcow2_received(), then flushes: what it named is durable. */
int imgloop_received(struct qcow2_session *loop, uint64_t off, uint64_t len,
		     struct qcow2_extent *extents, unsigned max, unsigned *count);

#define imgloop_drop	qcow2_session_drop
#define imgloop_write	qcow2_session_write
#define imgloop_read	qcow2_session_read
#define imgloop_zero	qcow2_session_zero
#define imgloop_flush	qcow2_session_flush
#define imgloop_extents qcow2_session_extents

#endif
