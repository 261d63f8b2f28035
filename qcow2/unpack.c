/*
 * Compressed clusters: raw deflate (window 2^12) or one zstd frame. The length of the stream is only
 * known to the sector, so bytes behind its end are normal; too few bytes out are not.
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
