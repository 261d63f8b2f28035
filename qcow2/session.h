/*
 * An image on a ring of its own, driven by blocking calls: for tools and long hub work that touch
 * one image from one thread. Servers use the asynchronous face of qcow2.h.
 */
#ifndef QCOW2_SESSION_H
#define QCOW2_SESSION_H

#include "qcow2/qcow2.h"

struct qcow2_session {
	struct ring ring;
	struct pool batches, bounces;
	struct qcow2_image *img; /* attached; owned; NULL when closed */
};

/* Ring and buffers (@batches of 2 MiB, and half as many to compare and compress), no image yet.
 * Deinit accepts a zeroed session. */
int qcow2_session_init(struct qcow2_session *s, unsigned batches, struct err *err);
void qcow2_session_deinit(struct qcow2_session *s);

/* Opens and attaches. 0, or as qcow2_open(). */
int qcow2_session_open(struct qcow2_session *s, const char *path,
		       const struct qcow2_open_opts *opts, struct err *err);

/* Flushes and finalizes a writable image, closes it in any case. 0 or the first failure. */
int qcow2_session_close(struct qcow2_session *s, struct err *err);

/* Closes without flushing or finalizing: as a crash would leave the file. Accepts no image. */
void qcow2_session_drop(struct qcow2_session *s);

/* 0 or -errno. */
int qcow2_session_write(struct qcow2_session *s, uint64_t off, const void *buf, size_t len);
int qcow2_session_read(struct qcow2_session *s, uint64_t off, void *buf, size_t len);
int qcow2_session_zero(struct qcow2_session *s, uint64_t off, uint64_t len);
int qcow2_session_flush(struct qcow2_session *s);

/* Describes [off, off + len), or the front of it: *@count extents in @extents. 0 or -errno. */
int qcow2_session_extents(struct qcow2_session *s, uint64_t off, uint64_t len,
			  struct qcow2_extent *extents, unsigned max, unsigned *count);

#endif
