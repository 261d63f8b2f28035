/*
 * Checksums while an image is written: a log of what was linked, in order; and the parent's sums,
 * a page at a time, for suppression. Neither holds up the data path unless the disk does.
 */
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "qcow2/image.h"

/* --- the log -------------------------------------------------------------------------------- */

int qcow2_sumlog_open(struct qcow2_image *img, const char *path, struct err *err)
{
	struct qcow2_sumlog *log = &img->sumlog;
	char name[4096];
	unsigned i;
	int r;

	/* Named for a moment only: unlinked while open, it cannot outlive the process. */
	if (snprintf(name, sizeof(name), "%s.sumlog", path) >= (int)sizeof(name))
		return err_set(err, -ENAMETOOLONG, "the path '%s' is too long", path);
	unlink(name);
	r = file_open(&log->file, name, FILE_RDWR | FILE_CREATE, err);
	if (r)
		return r;
	unlink(name);
	for (i = 0; i < 2; i++) {
		log->block[i] =
			aligned_alloc(FILE_ALIGN, QCOW2_SUMLOG_BLOCK * sizeof(**log->block));
		if (!log->block[i])
			return err_set(err, -ENOMEM, "no memory for the checksums of '%s'", path);
	}
	list_init(&log->waiters);
	return 0;
}

void qcow2_sumlog_close(struct qcow2_image *img)
{
	struct qcow2_sumlog *log = &img->sumlog;

	file_close(log->file);
	free(log->block[0]);
	free(log->block[1]);
	memset(log, 0, sizeof(*log));
}

static void log_written(struct file_op *op, int res)
{
	struct qcow2_image *img = container_of(op, struct qcow2_image, sumlog.io);

	img->sumlog.writing = false;
	if (res < 0)
		qcow2_fail(img, res);
	qcow2_wake_all(&img->sumlog.waiters);
	qcow2_flush_step(img);
}

static void log_write(struct qcow2_image *img)
{
	struct qcow2_sumlog *log = &img->sumlog;

	log->io = (struct file_op){
		.kind = FILE_OP_WRITE,
		.buf = log->block[log->active],
		.len = QCOW2_SUMLOG_BLOCK * sizeof(**log->block),
		.off = log->written,
		.done = log_written,
	};
	log->written += log->io.len;
	log->writing = true;
	log->active = !log->active;
	log->used = 0;
	file_submit(log->file, &log->io);
}

int qcow2_sumlog_add(struct qcow2_image *img, const struct qcow2_sumlog_entry *entry,
		     struct pool_waiter *waiter)
{
	struct qcow2_sumlog *log = &img->sumlog;

	if (!log->file)
		return 0;
	if (log->used == QCOW2_SUMLOG_BLOCK) {
		if (log->writing) {
			qcow2_park(&log->waiters, waiter);
			return -EAGAIN;
		}
		log_write(img);
	}
	log->block[log->active][log->used++] = *entry;
	return 0;
}

/* --- the parent's sums ---------------------------------------------------------------------- */

struct qcow2_sum_page {
	struct qcow2_image *img;
	uint64_t number; /* cluster / QCOW2_PARENT_SUM_COUNT */
	bool valid, loading;
	int error;
	struct qcow2_sum sum[QCOW2_PARENT_SUM_COUNT];
	struct file_op io;
};

/* A parent without sums, or with clusters of another size, is compared by reading it. */
int qcow2_parent_sums_attach(struct qcow2_image *img, struct err *err)
{
	struct qcow2_parent_sums *ps = &img->parent_sums;
	unsigned i;

	list_init(&ps->waiters);
	if (!ps->sums.file)
		return 0;
	ps->page = calloc(QCOW2_PARENT_SUM_PAGES, sizeof(*ps->page));
	if (!ps->page)
		return err_set(err, -ENOMEM, "no memory for the checksums of the parent of '%s'",
			       img->path);
	for (i = 0; i < QCOW2_PARENT_SUM_PAGES; i++)
		ps->page[i].img = img;
	file_bind(ps->sums.file, img->io.ring);
	return 0;
}

void qcow2_parent_sums_detach(struct qcow2_image *img)
{
	struct qcow2_parent_sums *ps = &img->parent_sums;

	free(ps->page);
	ps->page = NULL;
	if (ps->sums.file)
		file_bind(ps->sums.file, NULL);
}

static void page_loaded(struct file_op *op, int res)
{
	struct qcow2_sum_page *page = container_of(op, struct qcow2_sum_page, io);

	page->loading = false;
	page->valid = true;
	page->error = res < 0 ? res : 0;
	qcow2_wake_all(&page->img->parent_sums.waiters);
}

static void page_load(struct qcow2_sum_page *page, uint64_t number)
{
	struct qcow2_parent_sums *ps = &page->img->parent_sums;
	uint64_t first = number * QCOW2_PARENT_SUM_COUNT;

	page->number = number;
	page->valid = false;
	page->loading = true;
	page->io = (struct file_op){
		.kind = FILE_OP_READ,
		.buf = page->sum,
		.off = qcow2_sums_off(first),
		.len = MIN(ps->sums.clusters - first, QCOW2_PARENT_SUM_COUNT) * QCOW2_SUM_BYTES,
		.done = page_loaded,
	};
	file_submit(ps->sums.file, &page->io);
}

int qcow2_parent_sum(struct qcow2_image *img, uint64_t cluster, struct pool_waiter *waiter,
		     struct qcow2_sum *out)
{
	struct qcow2_parent_sums *ps = &img->parent_sums;
	uint64_t number = cluster / QCOW2_PARENT_SUM_COUNT;
	struct qcow2_sum_page *page;

	if (!ps->sums.file || cluster >= ps->sums.clusters)
		return -ENOENT;
	page = &ps->page[number % QCOW2_PARENT_SUM_PAGES];
	if (!page->loading && (!page->valid || page->number != number))
		page_load(page, number);
	if (page->loading) {
		qcow2_park(&ps->waiters, waiter);
		return -EAGAIN;
	}
	if (page->error)
		return -ENOENT;
	*out = page->sum[cluster % QCOW2_PARENT_SUM_COUNT];
	return 0;
}
