/*
 * Which guest clusters have arrived whole, for whoever goes on with an interrupted copy.
 *
 * In memory it is a bit a cluster, set when the last byte of the cluster was taken, whatever
 * becomes of it then: data, a zero entry, or nothing, where it equals the parent or reads as zeroes
 * anyway. So what a bit stands for is durable after the next flush. A cluster may be stored
 * before all of it has arrived, by a flush in the middle of a WRITE or for want of buffers: which
 * bytes it had is remembered for the last thousand such clusters, and the bit set when the others
 * come.
 *
 * On disk an entry cannot tell a cluster that arrived whole from one that was completed by
 * copy-on-write. While an image is being written its COPIED flags can: they mean nothing as long as
 * the image is dirty (refcounts are not on disk), clearing one merely asks a writer for a copy, and
 * every repair sets them again. So a cluster of which only a part arrived is linked without COPIED,
 * and the empty header extension QCOW2_EXT_WHOLE says that the flags tell. It counts only while the
 * image is dirty and is taken out at the clean close, which sets what flags are missing: neither a
 * finished image nor one that another program repaired makes claims about what arrived.
 *
 * Compressed entries have no such flag; an image made for them has no such extension.
 */
#include "qcow2/image.h"

#define WORD_BITS      64U
#define QUERY_CLUSTERS (64ULL << 20) /* looked at in one go: a millisecond */

int qcow2_received_init(struct qcow2_image *img, struct err *err)
{
	struct qcow2_received *received = &img->received;

	received->bit = calloc(div_up(img->geom.clusters, WORD_BITS), sizeof(*received->bit));
	received->half = calloc(QCOW2_HALVES, sizeof(*received->half));
	if (!received->bit || !received->half)
		return err_set(err, -ENOMEM, "no memory for the map of '%s'", img->path);
	return 0;
}

void qcow2_received_part(const struct qcow2_slot *s)
{
	struct qcow2_image *img = s->batch->img;
	struct qcow2_half *h = qcow2_received_half(&img->received, s->cluster);
	unsigned i;

	if (qcow2_received_get(&img->received, s->cluster))
		return;
	if (h->cluster != s->cluster)
		*h = (struct qcow2_half){.cluster = s->cluster};
	/* A range too many is forgotten: too little is known then, never too much. */
	for (i = 0; i < s->ranges; i++)
		qcow2_ranges_add(h->range, &h->ranges, s->range[i].from, s->range[i].to);
	if (h->ranges == 1 && h->range[0].from == 0 && h->range[0].to == img->geom.cluster_size) {
		qcow2_received_set(&img->received, s->cluster);
		h->ranges = 0;
	}
}

void qcow2_received_found(struct qcow2_received *received, const struct qcow2_geom *g,
			  uint64_t cluster, enum qcow2_kind kind, bool copied)
{
	if (kind == QCOW2_KIND_NONE || (kind == QCOW2_KIND_DATA && !copied))
		return;
	if (cluster < g->clusters)
		qcow2_received_set(received, cluster);
}

void qcow2_received_forget(struct qcow2_image *img)
{
	memset(img->received.bit, 0, div_up(img->geom.clusters, WORD_BITS) * sizeof(uint64_t));
}

void qcow2_received_range(struct qcow2_image *img, uint64_t off, uint64_t len)
{
	const struct qcow2_geom *g = &img->geom;
	uint64_t c = div_up(off, g->cluster_size), end = (off + len) >> g->cluster_bits;

	if (off + len == g->size)
		end = g->clusters;
	for (; c < end && c % WORD_BITS; c++)
		qcow2_received_set(&img->received, c);
	if (c < end) {
		uint64_t words = (end - c) / WORD_BITS;

		memset(img->received.bit + c / WORD_BITS, 0xff, words * sizeof(uint64_t));
		c += words * WORD_BITS;
	}
	for (; c < end; c++)
		qcow2_received_set(&img->received, c);
}

/* The first cluster from @c on, before @end, whose bit is not @set. */
static uint64_t run_end(const uint64_t *bit, uint64_t c, uint64_t end, bool set)
{
	while (c < end) {
		uint64_t word = bit[c / WORD_BITS] ^ (set ? UINT64_MAX : 0);

		word &= UINT64_MAX << c % WORD_BITS;
		if (word)
			return MIN(end, align_down(c, WORD_BITS) + __builtin_ctzll(word));
		c = align_down(c, WORD_BITS) + WORD_BITS;
	}
	return end;
}

unsigned qcow2_received(const struct qcow2_image *img, uint64_t off, uint64_t len,
			struct qcow2_extent *extents, unsigned max)
{
	const struct qcow2_geom *g = &img->geom;
	uint64_t c = off >> g->cluster_bits, end = div_up(off + len, g->cluster_size);
	unsigned n = 0;

	assert(img->writable && range_inside(off, len, g->size));
	end = MIN(end, c + QUERY_CLUSTERS);
	for (; c < end && n < max; n++) {
		bool set = qcow2_received_get(&img->received, c);
		uint64_t stop;

		c = run_end(img->received.bit, c, end, set);
		stop = MIN(c << g->cluster_bits, off + len);
		extents[n] = (struct qcow2_extent){
			.len = stop - off,
			.flags = set ? QCOW2_EXTENT_RECEIVED : 0,
		};
		len -= stop - off;
		off = stop;
	}
	return n;
}
