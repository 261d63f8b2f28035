/*
 * Host clusters. New ones come from the end of the file, in order of arrival, so that a stream of
 * any pattern becomes sequential writes; file space is reserved ahead in large steps, because
 * extending a file write by write costs more than the writes. A cluster that is freed while the
 * image is being written is not used again: once the metadata that freed it is durable its space is
 * punched out, and finalize leaves it unreferenced.
 */
#include <string.h>

#include "qcow2/image.h"

#define STEP_MIN (16 * MIB)
#define STEP_MAX (1 * GIB)
/* Extents remembered until the next flush; what is freed beyond stays allocated, unused, in the
 * file. */
#define FREED_MAX 65536U

uint64_t qcow2_alloc(struct qcow2_image *img, uint64_t n)
{
	uint64_t host = img->alloc.tail;

	img->alloc.tail += n << img->geom.cluster_bits;
	return host;
}

static void grow_start(struct qcow2_image *img, uint64_t to);

/* The disk, the quota or the file is full: less may still fit. */
static bool no_space(int res)
{
	return res == -ENOSPC || res == -EDQUOT || res == -EFBIG;
}

static void grow_done(struct file_op *op, int res)
{
	struct qcow2_image *img = container_of(op, struct qcow2_image, alloc.grow);
	struct qcow2_alloc *a = &img->alloc;

	/* Generous steps are a convenience; near the end of the disk ask for the bare need. */
	if (no_space(res) && a->grow_to > a->must) {
		a->tight = true;
		if (a->must > a->reserved) {
			grow_start(img, a->must);
			return;
		}
		res = 0;
		a->grow_to = a->reserved;
	}
	a->growing = false;
	if (res)
		qcow2_fail(img, res);
	else
		img->layer->file_size = a->reserved = a->grow_to;
	qcow2_wake_all(&a->waiters);
	qcow2_flush_step(img);
}

static void grow_start(struct qcow2_image *img, uint64_t to)
{
	struct qcow2_alloc *a = &img->alloc;

	a->growing = true;
	a->grow_to = to;
	a->grow = (struct file_op){
		.kind = FILE_OP_ALLOCATE,
		.off = a->reserved,
		.len = to - a->reserved,
		.done = grow_done,
	};
	file_submit(img->layer->file, &a->grow);
}

/* A quarter of what is there, within bounds: small images stay small, large ones grow calmly. */
static uint64_t grow_step(const struct qcow2_alloc *a)
{
	return align_up(MIN(MAX(a->tail / 4, STEP_MIN), STEP_MAX), QCOW2_CLUSTER_MAX);
}

int qcow2_reserve(struct qcow2_image *img, uint64_t end, struct pool_waiter *waiter)
{
	struct qcow2_alloc *a = &img->alloc;
	uint64_t step = grow_step(a);
	int error = atomic_load_explicit(&img->error, memory_order_relaxed);

	if (error)
		return error;
	if (a->tight)
		step = 0;
	if (end + step / 2 > a->reserved && !a->growing) {
		a->must = end;
		grow_start(img, MAX(a->reserved, end) + step);
	}
	if (end <= a->reserved)
		return 0;
	qcow2_park(&a->waiters, waiter);
	return -EAGAIN;
}

static void freed_add(struct qcow2_alloc *a, uint64_t off, uint64_t len)
{
	struct qcow2_extent_host *last =
		a->freed_count > a->freed_sealed ? &a->freed[a->freed_count - 1] : NULL;

	if (last && last->off + last->len == off) {
		last->len += len;
		return;
	}
	if (a->freed_count == a->freed_max) {
		unsigned max = a->freed_max ? a->freed_max * 2 : 64;
		struct qcow2_extent_host *grown =
			max <= FREED_MAX ? realloc(a->freed, max * sizeof(*grown)) : NULL;

		if (!grown)
			return;
		a->freed = grown;
		a->freed_max = max;
	}
	a->freed[a->freed_count++] = (struct qcow2_extent_host){.off = off, .len = len};
}

static void free_clusters(struct qcow2_image *img, uint64_t off, uint64_t len)
{
	uint64_t cs = img->geom.cluster_size, at;

	for (at = align_down(off, cs); at < off + len; at += cs) {
		uint64_t cluster = at >> img->geom.cluster_bits;
		int r = qcow2_refs_add(&img->alloc.refs, cluster, -1);

		if (r) {
			qcow2_fail(img, r);
			return;
		}
		if (!qcow2_refs_get(&img->alloc.refs, cluster))
			freed_add(&img->alloc, at, cs);
	}
}

int qcow2_share_cluster(struct qcow2_image *img, uint64_t host, unsigned n)
{
	if (n == 1)
		return 0;
	return qcow2_refs_add(&img->alloc.refs, host >> img->geom.cluster_bits, (int)n - 1);
}

void qcow2_free_entry(struct qcow2_image *img, uint64_t entry)
{
	uint64_t off, len;

	if (entry & QCOW2_ENTRY_COMPRESSED) {
		qcow2_packed_place(&img->geom, entry, &off, &len);
		free_clusters(img, off, len);
	} else if (entry & QCOW2_ENTRY_OFFSET) {
		free_clusters(img, entry & QCOW2_ENTRY_OFFSET, img->geom.cluster_size);
	}
}
