#include "qcow2/sums.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/xxh3.h"
#include "qcow2/scan.h"
#include "qcow2/sums_file.h"

void qcow2_sum_cluster(const void *data, size_t len, struct qcow2_sum *out)
{
	XXH128_canonical_t canonical;

	if (bytes_all_zero(data, len)) {
		memset(out, 0, sizeof(*out));
		return;
	}
	XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, len));
	memcpy(out->b, canonical.digest, sizeof(out->b));
}

bool qcow2_sum_is_zero(const struct qcow2_sum *sum)
{
	return bytes_all_zero(sum->b, sizeof(sum->b));
}

bool qcow2_sums_path(const char *image, char *out, size_t out_size)
{
	size_t n = strlen(image), suffix = strlen(".qcow2");

	if (n > suffix && !strcmp(image + n - suffix, ".qcow2"))
		n -= suffix;
	return snprintf(out, out_size, "%.*s" QCOW2_SUMS_SUFFIX, (int)n, image) < (int)out_size;
}

/* --- header --------------------------------------------------------------------------------- */

static const char sums_magic[8] = "SDSUMS01";

void qcow2_sums_encode_header(const struct qcow2_sums *sums, unsigned char *b)
{
	memset(b, 0, QCOW2_SUMS_HEADER);
	memcpy(b, sums_magic, sizeof(sums_magic));
	store_be32(b + 8, sums->cluster_bits);
	store_be32(b + 12, 1);
	store_be64(b + 16, sums->size);
	store_be64(b + 24, sums->clusters);
	memcpy(b + 32, sums->root.b, QCOW2_SUM_BYTES);
	store_be64(b + 48, sums->source_size);
	store_be64(b + 56, XXH3_64bits(b, 56));
}

static int decode_header(struct qcow2_sums *sums, const unsigned char *b, int64_t file_size)
{
	if (memcmp(b, sums_magic, sizeof(sums_magic)) || load_be32(b + 12) != 1 ||
	    load_be64(b + 56) != XXH3_64bits(b, 56))
		return -EBADMSG;
	sums->cluster_bits = load_be32(b + 8);
	sums->size = load_be64(b + 16);
	sums->clusters = load_be64(b + 24);
	sums->source_size = load_be64(b + 48);
	memcpy(sums->root.b, b + 32, QCOW2_SUM_BYTES);
	if (sums->cluster_bits < 9 || sums->cluster_bits > 21 || sums->size > QCOW2_SIZE_MAX ||
	    sums->clusters != div_up(sums->size, 1ULL << sums->cluster_bits) ||
	    sums->source_size > sums->size || sums->size - sums->source_size >= 512 ||
	    (uint64_t)file_size != qcow2_sums_off(sums->clusters))
		return -EBADMSG;
	return 0;
}

int qcow2_sums_open(struct qcow2_sums *sums, const char *path, struct err *err)
{
	unsigned char header[QCOW2_SUMS_HEADER];
	int64_t size;
	ssize_t n;
	int r;

	memset(sums, 0, sizeof(*sums));
	r = file_open(&sums->file, path, FILE_RDONLY | FILE_BUFFERED, err);
	if (r)
		return r;
	size = file_size(sums->file);
	n = file_pread(sums->file, header, sizeof(header), 0);
	r = n == sizeof(header) && size >= 0 ? decode_header(sums, header, size)
	    : n < 0			     ? (int)n
					     : -EBADMSG;
	if (r) {
		qcow2_sums_close(sums);
		return err_set(err, r, "'%s' is not a sound checksum file", path);
	}
	return 0;
}

void qcow2_sums_close(struct qcow2_sums *sums)
{
	file_close(sums->file);
	memset(sums, 0, sizeof(*sums));
}

int qcow2_sums_root(struct file *file, uint64_t clusters, struct qcow2_sum *root)
{
	_cleanup_(freep) unsigned char *buf = malloc(MIB);
	XXH3_state_t *state = XXH3_createState();
	XXH128_canonical_t canonical;
	uint64_t off = qcow2_sums_off(0), end = qcow2_sums_off(clusters);
	int r = buf && state ? 0 : -ENOMEM;

	if (!r)
		XXH3_128bits_reset(state);
	while (!r && off < end) {
		ssize_t n = file_pread(file, buf, MIN(MIB, end - off), off);

		if (n <= 0) {
			r = n ? (int)n : -EBADMSG;
			break;
		}
		XXH3_128bits_update(state, buf, n);
		off += n;
	}
	if (!r) {
		XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state));
		memcpy(root->b, canonical.digest, sizeof(root->b));
	}
	XXH3_freeState(state);
	return r;
}

/* --- verify --------------------------------------------------------------------------------- */

struct verify {
	const struct qcow2_verify_ops *ops;
	void *arg;
	struct qcow2_sums sums;
	struct qcow2_sum *want; /* of one stretch of clusters */
	uint64_t differing;
	uint64_t bad_off, bad_len; /* range being joined */
	int bad_res;
	unsigned char *padded; /* one cluster, for the disk's last */
};

#define VERIFY_STRETCH 4096U /* sums read at once */

static void verify_report(struct verify *v)
{
	if (v->bad_len && v->ops->differs)
		v->ops->differs(v->arg, v->bad_off, v->bad_len, v->bad_res);
	v->bad_len = 0;
}

static void verify_bad(struct verify *v, uint64_t off, uint64_t len, int res)
{
	v->differing++;
	if (v->bad_len && v->bad_off + v->bad_len == off && v->bad_res == res) {
		v->bad_len += len;
		return;
	}
	verify_report(v);
	v->bad_off = off;
	v->bad_len = len;
	v->bad_res = res;
}

static void verify_cluster(struct verify *v, const struct qcow2_sum *want, uint64_t off,
			   const unsigned char *data, uint64_t len, int res)
{
	uint64_t cs = 1ULL << v->sums.cluster_bits;
	struct qcow2_sum have = {{0}};

	if (data && len < cs) {
		memset(v->padded, 0, cs);
		data = memcpy(v->padded, data, len);
	}
	if (data)
		qcow2_sum_cluster(data, cs, &have);
	if (res || !qcow2_sum_equal(&have, want))
		verify_bad(v, off, len, res);
}

static int verify_piece(void *arg, uint64_t off, const void *data, uint64_t len, int res)
{
	struct verify *v = arg;
	uint64_t cs = 1ULL << v->sums.cluster_bits, at = 0;

	while (at < len) {
		uint64_t first = (off + at) >> v->sums.cluster_bits, i;
		uint64_t n = MIN(div_up(len - at, cs), VERIFY_STRETCH);
		size_t bytes = n * sizeof(*v->want);
		ssize_t got = file_pread(v->sums.file, v->want, bytes, qcow2_sums_off(first));

		if (got != (ssize_t)bytes)
			return got < 0 ? got : -EBADMSG;
		for (i = 0; i < n; i++, at += MIN(cs, len - at))
			verify_cluster(v, &v->want[i], off + at,
				       data ? (const unsigned char *)data + at : NULL,
				       MIN(cs, len - at), res);
	}
	if (v->ops->progress && !v->ops->progress(v->arg, off + len, v->sums.size))
		return -ECANCELED;
	return 0;
}

static int verify_run(struct verify *v, const char *path, const char *repository, struct err *err)
{
	static const struct qcow2_scan_ops scan = {.piece = verify_piece};
	struct qcow2_open_opts opts = {.repository = repository};
	struct qcow2_image *img;
	struct qcow2_info info;
	struct qcow2_sum root;
	int r = qcow2_open(&img, path, &opts, err);

	if (r)
		return r;
	qcow2_get_info(img, &info);
	qcow2_close(img);
	if (info.size != v->sums.size)
		return err_set(err, -EBADMSG, "the checksums of '%s' are for a disk of %llu bytes",
			       path, (unsigned long long)v->sums.size);
	r = qcow2_sums_root(v->sums.file, v->sums.clusters, &root);
	if (!r && !qcow2_sum_equal(&root, &v->sums.root))
		r = -EBADMSG;
	if (r)
		return err_set(err, r, "the checksum file of '%s' is damaged", path);
	return qcow2_scan(path, repository, 0, info.size, &scan, v, err);
}

int qcow2_verify(const char *path, const char *repository, const struct qcow2_verify_ops *ops,
		 void *arg, uint64_t *differing, struct err *err)
{
	struct verify v = {.ops = ops, .arg = arg};
	char name[4096];
	int r;

	*differing = 0;
	if (access(path, R_OK)) /* before its sidecar is missed */
		return err_sys(err, -errno, "cannot open '%s'", path);
	if (!qcow2_sums_path(path, name, sizeof(name)))
		return err_set(err, -ENAMETOOLONG, "the path '%s' is too long", path);
	r = qcow2_sums_open(&v.sums, name, err);
	if (r)
		return r;
	v.want = malloc(VERIFY_STRETCH * sizeof(*v.want));
	v.padded = malloc(1ULL << v.sums.cluster_bits);
	r = v.want && v.padded ? verify_run(&v, path, repository, err)
			       : err_set(err, -ENOMEM, "no memory to verify '%s'", path);
	verify_report(&v);
	*differing = v.differing;
	free(v.want);
	free(v.padded);
	qcow2_sums_close(&v.sums);
	return r;
}
