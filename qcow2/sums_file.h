/* Private to qcow2/: writing the sidecar described in sums.h. */
#ifndef QCOW2_SUMS_FILE_H
#define QCOW2_SUMS_FILE_H

#include "base/list.h"
#include "qcow2/sums.h"

void qcow2_sums_encode_header(const struct qcow2_sums *sums, unsigned char *header);
int qcow2_sums_root(struct file *file, uint64_t clusters, struct qcow2_sum *root);

/*
 * While an image is written, the checksum of every cluster that is linked goes to a log: an unnamed
 * file in the image's folder, appended in large blocks. qcow2_finalize() turns it into the sidecar.
 */
struct qcow2_image;
struct pool_waiter;

#define QCOW2_SUMLOG_BLOCK 4096U /* entries */

enum qcow2_sumlog_kind {
	QCOW2_SUMLOG_SUM,     /* one cluster has this sum */
	QCOW2_SUMLOG_ZERO,    /* @count clusters read as zeroes */
	QCOW2_SUMLOG_UNKNOWN, /* one cluster was changed in part: read it again at the end */
};

struct qcow2_sumlog_entry {
	uint64_t cluster;
	uint32_t kind, count;
	struct qcow2_sum sum;
};

struct qcow2_sumlog {
	struct file *file; /* NULL: no checksums are wanted */
	struct qcow2_sumlog_entry *block[2];
	unsigned active, used; /* block being filled */
	bool writing;	       /* the other one is on its way */
	uint64_t written;      /* bytes in the file, or on their way */
	struct file_op io;
	struct list waiters;
};

/* Opening: starts the log beside @path. Blocking. */
int qcow2_sumlog_open(struct qcow2_image *img, const char *path, struct err *err);
void qcow2_sumlog_close(struct qcow2_image *img);

/* The data path. 0, or -EAGAIN: @waiter wakes. */
int qcow2_sumlog_add(struct qcow2_image *img, const struct qcow2_sumlog_entry *entry,
		     struct pool_waiter *waiter);

/* After finalize: log, parent's sidecar and what has to be read again become @img's sidecar.
 * Blocking. 0, -errno, QCOW2_E_*. */
int qcow2_sums_build(struct qcow2_image *img, struct err *err);

/* --- the parent's sums, looked up while writing --------------------------------------------- */

#define QCOW2_PARENT_SUM_PAGES 64
#define QCOW2_PARENT_SUM_COUNT 256U /* sums in a page */

struct qcow2_parent_sums {
	struct qcow2_sums sums; /* file NULL: the parent has none */
	struct qcow2_sum_page *page;
	struct list waiters;
};

/* 0 with *@out; -EAGAIN: @waiter wakes; -ENOENT: not known. */
int qcow2_parent_sum(struct qcow2_image *img, uint64_t cluster, struct pool_waiter *waiter,
		     struct qcow2_sum *out);
int qcow2_parent_sums_attach(struct qcow2_image *img, struct err *err);
void qcow2_parent_sums_detach(struct qcow2_image *img);

#endif
