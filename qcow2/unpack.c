/*
 * Compressed clusters: raw deflate (window 2^12) or one zstd frame. The length of the stream is
 * only known to the sector, so bytes behind its end are normal; too few bytes out are not.
 */
#include <zlib.h>
#include <zstd.h>

#include "qcow2/image.h"

static int unpack_deflate(const void *src, size_t src_len, void *dst, size_t dst_len)
{
	z_stream z = {
		.next_in = (unsigned char *)src,
		.avail_in = src_len,
		.next_out = dst,
		.avail_out = dst_len,
	};
	int r;

	if (inflateInit2(&z, -12) != Z_OK)
		return -EIO;
	r = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	/* QEMU writes streams whose end mark may fall behind the last sector counted. */
	return (r == Z_STREAM_END || r == Z_BUF_ERROR) && !z.avail_out ? 0 : -EIO;
}

static int unpack_zstd(const void *src, size_t src_len, void *dst, size_t dst_len)
{
	ZSTD_inBuffer in = {.src = src, .size = src_len};
	ZSTD_outBuffer out = {.dst = dst, .size = dst_len};
	ZSTD_DStream *stream = ZSTD_createDStream();
	size_t r = 1;

	if (!stream)
		return -EIO;
	/* A cluster never needs a larger window than itself. */
	ZSTD_DCtx_setParameter(stream, ZSTD_d_windowLogMax, 21);
	while (out.pos < out.size && in.pos < in.size && r) {
		r = ZSTD_decompressStream(stream, &out, &in);
		if (ZSTD_isError(r))
			break;
	}
	ZSTD_freeDStream(stream);
	return !ZSTD_isError(r) && out.pos == out.size ? 0 : -EIO;
}

int qcow2_unpack(const struct qcow2_layer *layer, const void *src, size_t src_len, void *dst)
{
	size_t dst_len = layer->geom.cluster_size;

	if (layer->header.compression == QCOW2_COMPRESSION_ZSTD)
		return unpack_zstd(src, src_len, dst, dst_len);
	return unpack_deflate(src, src_len, dst, dst_len);
}

/* --- buffers -------------------------------------------------------------------------------- */

static uint64_t largest_cluster(const struct qcow2_image *img)
{
	uint64_t largest = img->geom.cluster_size;
	unsigned i;

	for (i = 0; i < qcow2_chain_depth(img->chain); i++)
		largest = MAX(largest, qcow2_chain_layer(img->chain, i)->geom.cluster_size);
	return largest;
}

/* Memory nobody touches unless a cluster is compressed. */
int qcow2_unpacker_attach(struct qcow2_image *img, struct err *err)
{
	struct qcow2_unpacker *u = &img->unpacker;
	uint64_t cluster = largest_cluster(img);

	list_init(&u->waiters);
	u->busy = 0;
	/* The stream may begin anywhere in its first sector. */
	u->slot_size = align_up(cluster, FILE_ALIGN) + FILE_ALIGN;
	u->mem = aligned_alloc(FILE_ALIGN, QCOW2_UNPACK_BUFS * u->slot_size);
	u->out = malloc(cluster);
	if (!u->mem || !u->out)
		return err_set(err, -ENOMEM, "no memory to unpack clusters of '%s'", img->path);
	return 0;
}

void qcow2_unpacker_detach(struct qcow2_image *img)
{
	struct qcow2_unpacker *u = &img->unpacker;

	assert(!u->busy);
	free(u->mem);
	free(u->out);
	*u = (struct qcow2_unpacker){0};
}

unsigned char *qcow2_unpacker_get(struct qcow2_image *img, struct pool_waiter *waiter)
{
	struct qcow2_unpacker *u = &img->unpacker;
	unsigned i = __builtin_ctz(~u->busy);

	if (i >= QCOW2_UNPACK_BUFS) {
		qcow2_park(&u->waiters, waiter);
		return NULL;
	}
	u->busy |= 1U << i;
	return u->mem + i * u->slot_size;
}

void qcow2_unpacker_put(struct qcow2_image *img, unsigned char *buf)
{
	struct qcow2_unpacker *u = &img->unpacker;

	u->busy &= ~(1U << ((buf - u->mem) / u->slot_size));
	qcow2_wake_all(&u->waiters);
}
