/*
 * Taking bytes in: guest clusters gathered in slots until they are whole.
 *
 * A slot gets a place in the open batch's 2 MiB buffer when it is made, unless its whole cluster
 * arrives at once and is zero. Bytes known to be zero are not copied: the place is filled in when
 * the first other byte arrives, so a stream of zeroes never touches the buffers. A batch out of
 * places is sealed, and stored as soon as none of its slots waits for the rest of its cluster; a
 * few batches may be sealed at once, so that several streams, or one that jumps, still write each
 * cluster once. Beyond that, on a flush, and when buffers run out, partial slots are completed from
 * what lies below them.
 */
#include <string.h>

#include "qcow2/image.h"

#define SEALED_MAX 4
/* A batch whose buffer others wait for is stored when no byte came for the one time, and after the
 * other whatever comes. */
#define GIVE_BACK_IDLE_NS  4000000
#define GIVE_BACK_AFTER_NS 50000000

/* --- slots ---------------------------------------------------------------------------------- */

static struct qcow2_slot **slot_bucket(struct qcow2_writer *w, uint64_t cluster)
{
	return &w->bucket[cluster & (w->buckets - 1)];
}

struct qcow2_slot *qcow2_slot_find(struct qcow2_image *img, uint64_t cluster)
{
	struct qcow2_slot *s;

	if (!img->writer.live)
		return NULL;
	s = *slot_bucket(&img->writer, cluster);
	while (s && s->cluster != cluster)
		s = s->hash_next;
	return s;
}

uint64_t qcow2_slots_clear(struct qcow2_image *img, uint64_t off, uint64_t max)
{
	const struct qcow2_writer *w = &img->writer;
	unsigned bits = img->geom.cluster_bits, i;
	uint64_t first = off >> bits, end = ((off + max - 1) >> bits) + 1, c;
	const struct qcow2_slot *s;

	if (!img->writable || !w->live)
		return max;
	if (end - first < w->buckets) {
		for (c = first; c < end; c++)
			if (qcow2_slot_find(img, c))
				end = c;
	} else {
		for (i = 0; i < w->buckets; i++)
			for (s = w->bucket[i]; s; s = s->hash_next)
				if (s->cluster >= first && s->cluster < end)
					end = s->cluster;
	}
	return end == first ? 0 : MIN(max, (end << bits) - off);
}

void qcow2_slot_kill(struct qcow2_slot *slot)
{
	struct qcow2_writer *w = &slot->batch->img->writer;
	struct qcow2_slot **p = slot_bucket(w, slot->cluster);

	while (*p != slot)
		p = &(*p)->hash_next;
	*p = slot->hash_next;
	w->live--;
}

static bool slot_whole(const struct qcow2_slot *s)
{
	return s->ranges == 1 && s->range[0].from == 0 &&
	       s->range[0].to == s->batch->img->geom.cluster_size;
}

bool qcow2_ranges_add(struct qcow2_range *range, uint32_t *ranges, uint32_t from, uint32_t to)
{
	unsigned n = *ranges, first = 0, last;

	while (first < n && range[first].to < from)
		first++;
	for (last = first; last < n && range[last].from <= to; last++)
		;
	if (first == last) {
		if (n == QCOW2_SLOT_RANGES)
			return false;
		memmove(&range[first + 1], &range[first], (n - first) * sizeof(*range));
		range[first] = (struct qcow2_range){from, to};
		*ranges = n + 1;
		return true;
	}
	range[first].from = MIN(from, range[first].from);
	range[first].to = MAX(to, range[last - 1].to);
	memmove(&range[first + 1], &range[last], (n - last) * sizeof(*range));
	*ranges = n - (last - first - 1);
	return true;
}

static bool slot_add_range(struct qcow2_slot *s, uint32_t from, uint32_t to)
{
	return qcow2_ranges_add(s->range, &s->ranges, from, to);
}

/* The last cluster of the disk may reach past its end: those bytes are zero and known. */
static uint32_t cluster_bytes(const struct qcow2_image *img, uint64_t cluster)
{
	uint64_t off = cluster << img->geom.cluster_bits;

	return MIN(img->geom.cluster_size, img->geom.size - off);
}

static struct qcow2_slot *slot_new(struct qcow2_batch *b, uint64_t cluster, bool with_place)
{
	struct qcow2_image *img = b->img;
	struct qcow2_writer *w = &img->writer;
	struct qcow2_slot *s = &b->slot[b->slots++], **bucket = slot_bucket(w, cluster);
	uint32_t bytes = cluster_bytes(img, cluster);

	s->batch = b;
	s->cluster = cluster;
	s->host = 0;
	s->place = with_place ? b->places++ : QCOW2_NO_PLACE;
	s->dead = s->in_place = s->parent = s->summed = false;
	s->zero = true;
	s->ranges = 0;
	s->fill_pos = 0;
	s->packed = 0;
	if (bytes < img->geom.cluster_size)
		slot_add_range(s, bytes, img->geom.cluster_size);
	b->partial++;
	s->hash_next = *bucket;
	*bucket = s;
	w->live++;
	return s;
}

/* The place of a slot that was all zero so far gets those zeroes. */
static void slot_materialise(struct qcow2_slot *s)
{
	unsigned i;

	for (i = 0; i < s->ranges; i++)
		memset(qcow2_slot_data(s) + s->range[i].from, 0, s->range[i].to - s->range[i].from);
	s->zero = false;
}

/* A whole slot of zeroes needs no place; the place last given out can be given out again. */
static void slot_drop_place(struct qcow2_slot *s)
{
	struct qcow2_batch *b = s->batch;

	if (s->place != QCOW2_NO_PLACE && s->place + 1 == b->places)
		b->places--;
	s->place = QCOW2_NO_PLACE;
}

void qcow2_slot_make_zero(struct qcow2_slot *s)
{
	qcow2_received_set(&s->batch->img->received, s->cluster);
	if (!slot_whole(s))
		s->batch->partial--;
	s->ranges = 1;
	s->range[0] = (struct qcow2_range){0, s->batch->img->geom.cluster_size};
	s->zero = true;
	s->summed = false;
	slot_drop_place(s);
}

/* --- batches: open, sealed, started --------------------------------------------------------- */

static void batch_start(struct qcow2_batch *b)
{
	struct qcow2_writer *w = &b->img->writer;
	unsigned i;

	if (b == w->open)
		w->open = NULL;
	if (b->state == QCOW2_BATCH_SEALED)
		w->sealed_count--;
	if (b->buf && --w->resting == 0)
		pool_release(&w->holder);
	for (i = 0; b->partial && i < b->slots; i++)
		if (!slot_whole(&b->slot[i]))
			qcow2_received_part(&b->slot[i]);
	list_del(&b->node);
	list_add_tail(&w->running, &b->node);
	b->seq = w->next_seq++;
	qcow2_batch_start(b);
}

static void batch_seal(struct qcow2_batch *b)
{
	struct qcow2_writer *w = &b->img->writer;

	if (!b->partial) {
		batch_start(b);
		return;
	}
	w->open = NULL;
	b->state = QCOW2_BATCH_SEALED;
	list_add_tail(&w->sealed, &b->node);
	if (++w->sealed_count > SEALED_MAX)
		batch_start(list_entry(w->sealed.next, struct qcow2_batch, node));
}

void qcow2_start_all_batches(struct qcow2_image *img)
{
	struct qcow2_writer *w = &img->writer;

	while (!list_empty(&w->sealed))
		batch_start(list_entry(w->sealed.next, struct qcow2_batch, node));
	if (w->open)
		batch_start(w->open);
}

/* An open batch with room for one more slot, or NULL: all batches are under way. */
static struct qcow2_batch *batch_open(struct qcow2_writer *w, bool with_place)
{
	struct qcow2_batch *b = w->open;
	struct list *node;

	if (b && b->slots < w->slots_per_batch && (!with_place || b->places < w->places_per_batch))
		return b;
	if (b)
		batch_seal(b);
	node = list_pop(&w->free);
	if (!node && !list_empty(&w->sealed)) {
		/* Nothing free: what was sealed has to go, complete or not. */
		batch_start(list_entry(w->sealed.next, struct qcow2_batch, node));
	}
	if (!node)
		return NULL;
	b = list_entry(node, struct qcow2_batch, node);
	b->state = QCOW2_BATCH_OPEN;
	w->open = b;
	return b;
}

static uint64_t taken_so_far(const struct qcow2_image *img)
{
	return atomic_load_explicit(&img->counters.received, memory_order_relaxed);
}

/* Others want a buffer. One that fills comes back by itself, with whole clusters in it, so that
 * many streams share few buffers at the price of a few; one that does not is started as it is. */
static void give_back_soon(struct qcow2_image *img)
{
	struct qcow2_writer *w = &img->writer;

	if (w->giving)
		return;
	w->giving = true;
	w->giving_seen = taken_so_far(img);
	w->giving_until_ns = img->io.ring->now_ns + GIVE_BACK_AFTER_NS;
	ring_set_timer(img->io.ring, &w->give_back, GIVE_BACK_IDLE_NS);
}

static void give_back_now(struct ring_timer *timer)
{
	struct qcow2_writer *w = container_of(timer, struct qcow2_writer, give_back);
	struct qcow2_image *img = container_of(w, struct qcow2_image, writer);

	if (taken_so_far(img) != w->giving_seen && img->io.ring->now_ns < w->giving_until_ns) {
		w->giving_seen = taken_so_far(img);
		ring_set_timer(img->io.ring, timer, GIVE_BACK_IDLE_NS);
		return;
	}
	w->giving = false;
	qcow2_start_all_batches(img);
}

/* Inside pool_wait() of somebody who starves: give back what is not full yet. */
static void buffers_wanted(struct pool_holder *holder)
{
	struct qcow2_writer *w = container_of(holder, struct qcow2_writer, holder);

	give_back_soon(container_of(w, struct qcow2_image, writer));
}

/* Gives @b its buffer; false: none to be had now, and somebody is waiting for one on our behalf. */
static bool batch_get_buffer(struct qcow2_batch *b)
{
	struct qcow2_image *img = b->img;
	struct qcow2_writer *w = &img->writer;

	if (b->buf)
		return true;
	b->buf = pool_get(img->io.batches);
	if (!b->buf) {
		if (list_empty(&w->buffer.node)) /* asking again keeps the place in the queue */
			pool_wait(img->io.batches, &w->buffer);
		return false;
	}
	w->resting++;
	pool_hold(img->io.batches, &w->holder);
	if (pool_wanted(img->io.batches))
		give_back_soon(img);
	return true;
}

/* Inside pool_put(): take the buffer at once, wake the writers (who only queue work). */
static void buffer_available(struct pool_waiter *waiter)
{
	struct qcow2_writer *w = container_of(waiter, struct qcow2_writer, buffer);
	struct qcow2_image *img = container_of(w, struct qcow2_image, writer);
	struct qcow2_batch *b = list_empty(&w->room) ? NULL : batch_open(w, true);

	qcow2_wake_all(&w->room);
	if (b && !b->buf)
		batch_get_buffer(b);
	else /* no use for it: the next one in the queue shall have it */
		pool_pass(img->io.batches);
}

/* --- qcow2_write() -------------------------------------------------------------------------- */

/* 0: the slot has the bytes. -EAGAIN: not now. */
static int slot_write(struct qcow2_slot *s, uint32_t in, const void *buf, uint32_t len)
{
	bool was_whole = slot_whole(s), zero = s->zero && bytes_all_zero(buf, len);
	struct qcow2_batch *b = s->batch;

	if (s->zero && !zero && s->place == QCOW2_NO_PLACE) {
		/* A zero cluster that gets data after all: its own batch may have no place left. */
		if (b->places == b->img->writer.places_per_batch) {
			batch_start(b);
			return -EAGAIN;
		}
		if (!batch_get_buffer(b))
			return -EAGAIN;
		s->place = b->places++;
	}
	if (s->zero && !zero)
		slot_materialise(s);
	if (!slot_add_range(s, in, in + len)) {
		batch_start(b);
		return -EAGAIN;
	}
	/* A cluster that comes in one piece is summed here, while the cache still holds it. */
	s->summed = !zero && len == b->img->geom.cluster_size && b->img->sumlog.file;
	if (s->summed)
		qcow2_sum_cluster(buf, len, &s->sum);
	if (!zero)
		bytes_copy_stream(qcow2_slot_data(s) + in, buf, len);
	if (slot_whole(s) && !was_whole) {
		qcow2_received_set(&b->img->received, s->cluster);
		b->partial--;
		if (s->zero)
			slot_drop_place(s);
		if (!b->partial && b->state == QCOW2_BATCH_SEALED)
			batch_start(b);
	} else if (!was_whole && qcow2_received_has_half(&b->img->received, s->cluster)) {
		qcow2_received_part(s); /* the rest may have been stored before */
	}
	return 0;
}

static int cluster_write(struct qcow2_image *img, uint64_t cluster, uint32_t in, const void *buf,
			 uint32_t len)
{
	struct qcow2_slot *s = qcow2_slot_find(img, cluster);
	struct qcow2_batch *b;
	bool with_place;

	if (s)
		return qcow2_slot_started(s) ? -EAGAIN : slot_write(s, in, buf, len);
	with_place = len < cluster_bytes(img, cluster) || !bytes_all_zero(buf, len);
	b = batch_open(&img->writer, with_place);
	if (!b || (with_place && !batch_get_buffer(b)))
		return -EAGAIN;
	return slot_write(slot_new(b, cluster, with_place), in, buf, len);
}

void qcow2_note_highest(struct qcow2_image *img, uint64_t end)
{
	if (end > atomic_load_explicit(&img->counters.highest, memory_order_relaxed))
		atomic_store_explicit(&img->counters.highest, end, memory_order_relaxed);
}

ssize_t qcow2_write_bytes(struct qcow2_image *img, uint64_t off, const void *buf, size_t len)
{
	const struct qcow2_geom *g = &img->geom;
	size_t taken = 0;
	int r = qcow2_error(img);

	assert(img->writable && img->io.ring && range_inside(off, len, g->size));
	while (!r && taken < len) {
		uint64_t at = off + taken;
		uint32_t in = at & (g->cluster_size - 1);
		uint32_t n = MIN(len - taken, g->cluster_size - in);

		r = cluster_write(img, at >> g->cluster_bits, in, (const char *)buf + taken, n);
		if (!r)
			taken += n;
	}
	return taken ? (ssize_t)taken : r;
}

ssize_t qcow2_write(struct qcow2_image *img, uint64_t off, const void *buf, size_t len)
{
	ssize_t taken = qcow2_write_bytes(img, off, buf, len);

	if (taken > 0) {
		qcow2_count(&img->counters.received, taken);
		qcow2_note_highest(img, off + taken);
	}
	return taken;
}

void qcow2_wait_room(struct qcow2_image *img, struct pool_waiter *waiter)
{
	qcow2_park(&img->writer.room, waiter);
}

/* --- attach --------------------------------------------------------------------------------- */

static int writer_alloc(struct qcow2_writer *w, struct err *err, const char *path)
{
	for (w->buckets = 64; w->buckets < w->batches * w->slots_per_batch; w->buckets *= 2)
		;
	w->batch = calloc(w->batches, sizeof(*w->batch));
	w->slot_mem = calloc((size_t)w->batches * w->slots_per_batch, sizeof(*w->slot_mem));
	w->bucket = calloc(w->buckets, sizeof(*w->bucket));
	w->fill = calloc(QCOW2_FILL_OPS, sizeof(*w->fill));
	if (!w->batch || !w->slot_mem || !w->bucket || !w->fill)
		return err_set(err, -ENOMEM, "no memory for the write buffers of '%s'", path);
	return 0;
}

int qcow2_writer_attach(struct qcow2_image *img, struct err *err)
{
	struct qcow2_writer *w = &img->writer;
	unsigned i;
	int r;

	list_init(&w->free);
	list_init(&w->sealed);
	list_init(&w->running);
	list_init(&w->room);
	list_init(&w->fills_free);
	list_init(&w->fill_waiters);
	list_init(&w->buffer.node);
	list_init(&w->holder.node);
	list_init(&w->give_back.node);
	w->buffer.wake = buffer_available;
	w->holder.reclaim = buffers_wanted;
	w->give_back.done = give_back_now;
	w->batches = MIN(img->io.batches->count, QCOW2_BATCHES_MAX);
	w->places_per_batch = QCOW2_BATCH_SIZE >> img->geom.cluster_bits;
	w->slots_per_batch = w->places_per_batch + QCOW2_ZERO_SLOTS;
	r = writer_alloc(w, err, img->path);
	if (r)
		return r;
	for (i = 0; i < w->batches; i++) {
		w->batch[i].img = img;
		w->batch[i].slot = w->slot_mem + (size_t)i * w->slots_per_batch;
		list_init(&w->batch[i].waiter.node);
		list_add_tail(&w->free, &w->batch[i].node);
	}
	for (i = 0; i < QCOW2_FILL_OPS; i++)
		list_add_tail(&w->fills_free, &w->fill[i].node);
	return 0;
}

void qcow2_writer_detach(struct qcow2_image *img)
{
	struct qcow2_writer *w = &img->writer;

	/* An open batch may sit on a buffer that no writer came to use. */
	if (w->open && w->open->buf) {
		assert(!w->open->slots);
		pool_put(img->io.batches, steal(&w->open->buf));
	}
	if (w->batch) {
		assert(list_empty(&w->running) && list_empty(&w->sealed) && !w->live);
		ring_cancel_timer(&w->give_back);
		pool_cancel(&w->buffer);
		pool_release(&w->holder);
	}
	free(w->batch);
	free(w->slot_mem);
	free(w->bucket);
	free(w->fill);
	memset(w, 0, sizeof(*w));
}
