/*
 * L2 tables of the image being written, cached in slices of 512 entries so that memory follows the
 * area being touched and not the size of the disk. A slice is read when first asked for, changed in
 * memory, and written by flush.c alone: order is decided in one place.
 */
#include <string.h>

#include "qcow2/image.h"

/* 8 MiB of entries map 64 GiB at 64 KiB clusters; a smaller disk needs fewer. */
#define TABLES_MAX 2048U
#define TABLES_MIN 16U

void qcow2_wake_all(struct list *waiters)
{
	struct list woken, *node;

	/* Those who park again meanwhile wait for the next time. */
	list_init(&woken);
	list_splice(&woken, waiters);
	while ((node = list_pop(&woken))) {
		struct pool_waiter *waiter = list_entry(node, struct pool_waiter, node);

		waiter->wake(waiter);
	}
}

int qcow2_tables_attach(struct qcow2_image *img, struct err *err)
{
	struct qcow2_tables *t = &img->tables;
	uint64_t all = div_up(img->geom.clusters, QCOW2_SLICE_ENTRIES);
	unsigned i;

	t->count = MAX(MIN(all, TABLES_MAX), TABLES_MIN);
	for (t->buckets = 16; t->buckets < t->count; t->buckets *= 2)
		;
	t->l1_blocks = div_up(img->layer->header.l1_entries, QCOW2_SLICE_ENTRIES);
	t->slice = calloc(t->count, sizeof(*t->slice));
	t->mem = aligned_alloc(FILE_ALIGN, (size_t)t->count * QCOW2_SLICE_BYTES);
	t->bucket = calloc(t->buckets, sizeof(*t->bucket));
	t->l1_dirty = calloc(t->l1_blocks + 1, 1);
	list_init(&t->lru);
	list_init(&t->stalled);
	t->dirty = t->l1_dirty_count = 0;
	if (!t->slice || !t->mem || !t->bucket || !t->l1_dirty)
		return err_set(err, -ENOMEM, "no memory for the table cache of '%s'", img->path);
	for (i = 0; i < t->count; i++) {
		struct qcow2_slice *s = &t->slice[i];

		s->img = img;
		s->entry = (uint64_t *)(t->mem + (size_t)i * QCOW2_SLICE_BYTES);
		list_init(&s->waiters);
		list_init(&s->lru);
		list_add_tail(&t->lru, &s->lru);
	}
	return 0;
}

void qcow2_tables_detach(struct qcow2_image *img)
{
	struct qcow2_tables *t = &img->tables;

	free(t->slice);
	free(t->mem);
	free(t->bucket);
	free(t->l1_dirty);
	memset(t, 0, sizeof(*t));
}

static struct qcow2_slice **table_bucket(struct qcow2_tables *t, uint64_t key)
{
	return &t->bucket[key & (t->buckets - 1)];
}

static struct qcow2_slice *table_lookup(struct qcow2_tables *t, uint64_t key)
{
	struct qcow2_slice *s = *table_bucket(t, key);

	while (s && s->key != key)
		s = s->hash_next;
	return s;
}

static void table_unhash(struct qcow2_tables *t, struct qcow2_slice *s)
{
	struct qcow2_slice **p = table_bucket(t, s->key);

	while (*p != s)
		p = &(*p)->hash_next;
	*p = s->hash_next;
}

/* The least recently used slice that is on disk as it is; NULL: there is none now. */
static struct qcow2_slice *table_evict(struct qcow2_tables *t)
{
	struct list *pos;

	list_for_each (pos, &t->lru) {
		struct qcow2_slice *s = list_entry(pos, struct qcow2_slice, lru);

		if (s->state == QCOW2_SLICE_LOADING || s->dirty || s->writing)
			continue;
		if (s->state == QCOW2_SLICE_READY)
			table_unhash(t, s);
		s->state = QCOW2_SLICE_EMPTY;
		return s;
	}
	return NULL;
}

static uint64_t l1_index_of(const struct qcow2_image *img, uint64_t guest_cluster)
{
	return guest_cluster >> img->geom.l2_bits;
}

uint64_t qcow2_slice_host(const struct qcow2_slice *s)
{
	const struct qcow2_image *img = s->img;
	uint64_t first = s->key * QCOW2_SLICE_ENTRIES;
	uint64_t table = img->layer->l1[l1_index_of(img, first)] & QCOW2_ENTRY_OFFSET;

	return table + (first & ((1ULL << img->geom.l2_bits) - 1)) * 8;
}

static void slice_loaded(struct file_op *op, int res)
{
	struct qcow2_slice *s = container_of(op, struct qcow2_slice, io);
	struct qcow2_image *img = s->img;

	/* A new table may lie in space that was never written: short means zeroes. */
	if (res >= 0)
		memset((unsigned char *)s->entry + res, 0, QCOW2_SLICE_BYTES - res);
	s->error = res < 0 ? res : 0;
	s->state = QCOW2_SLICE_READY;
	qcow2_wake_all(&s->waiters);
	qcow2_wake_all(&img->tables.stalled);
}

static void slice_load(struct qcow2_slice *s)
{
	s->state = QCOW2_SLICE_LOADING;
	s->io = (struct file_op){
		.kind = FILE_OP_READ,
		.buf = s->entry,
		.len = QCOW2_SLICE_BYTES,
		.off = qcow2_slice_host(s),
		.done = slice_loaded,
	};
	file_submit(s->img->layer->file, &s->io);
}

/* Gives the L1 entry of @guest_cluster a new, empty table. 0, -EAGAIN, -errno. */
static int table_create(struct qcow2_image *img, uint64_t l1_index, struct pool_waiter *waiter)
{
	uint64_t host = img->alloc.tail;
	int r = qcow2_reserve(img, host + img->geom.cluster_size, waiter);

	if (r)
		return r;
	host = qcow2_alloc(img, 1);
	img->layer->l1[l1_index] = host | QCOW2_ENTRY_COPIED;
	if (!img->tables.l1_dirty[l1_index / QCOW2_SLICE_ENTRIES]) {
		img->tables.l1_dirty[l1_index / QCOW2_SLICE_ENTRIES] = 1;
		img->tables.l1_dirty_count++;
	}
	return 0;
}

/* A slice that just was not in the cache: 0 with *@out, or as qcow2_table_get(). */
static int table_miss(struct qcow2_image *img, uint64_t key, bool fresh, struct pool_waiter *waiter,
		      struct qcow2_slice **out)
{
	struct qcow2_tables *t = &img->tables;
	struct qcow2_slice *s = table_evict(t);
	int error = qcow2_error(img);

	if (!s && error) /* nothing gets clean any more */
		return error;
	if (!s) {
		qcow2_park(&t->stalled, waiter);
		qcow2_flush_tables(img);
		return -EAGAIN;
	}
	s->key = key;
	s->error = 0;
	s->hash_next = *table_bucket(t, key);
	*table_bucket(t, key) = s;
	if (fresh) {
		memset(s->entry, 0, QCOW2_SLICE_BYTES);
		s->state = QCOW2_SLICE_READY;
		*out = s;
		return 0;
	}
	slice_load(s);
	qcow2_park(&s->waiters, waiter);
	return -EAGAIN;
}

int qcow2_table_get(struct qcow2_image *img, uint64_t guest_cluster, bool create,
		    struct pool_waiter *waiter, struct qcow2_slice **out)
{
	struct qcow2_tables *t = &img->tables;
	uint64_t key = guest_cluster / QCOW2_SLICE_ENTRIES,
		 l1_index = l1_index_of(img, guest_cluster);
	bool fresh = !(img->layer->l1[l1_index] & QCOW2_ENTRY_OFFSET);
	struct qcow2_slice *s;
	int r;

	*out = NULL;
	if (fresh && !create)
		return 0;
	if (fresh) {
		r = table_create(img, l1_index, waiter);
		if (r)
			return r;
	}
	s = table_lookup(t, key);
	if (!s) {
		r = table_miss(img, key, fresh, waiter, &s);
		if (r)
			return r;
	}
	if (s->state == QCOW2_SLICE_LOADING) {
		qcow2_park(&s->waiters, waiter);
		return -EAGAIN;
	}
	if (s->error)
		return s->error;
	list_del(&s->lru);
	list_add_tail(&t->lru, &s->lru);
	*out = s;
	return 0;
}

void qcow2_slice_set(struct qcow2_slice *s, uint64_t guest_cluster, uint64_t entry)
{
	s->entry[guest_cluster % QCOW2_SLICE_ENTRIES] = htobe64(entry);
	if (!s->dirty) {
		s->dirty = true;
		s->img->tables.dirty++;
	}
}
