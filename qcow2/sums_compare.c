/* Checksum sidecars among themselves, without a look at any image. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "qcow2/sums.h"
#include "qcow2/sums_file.h"

#define COMPARE_SUMS 65536U /* read at once: 1 MiB */

/* Opens a sidecar and checks it against its root. */
static int compare_open(struct qcow2_sums *sums, const char *path, struct err *err)
{
	struct qcow2_sum root;
	int r = qcow2_sums_open(sums, path, err);

	if (r)
		return r;
	r = qcow2_sums_root(sums->file, sums->clusters, &root);
	if (!r && !qcow2_sum_equal(&root, &sums->root))
		r = -EBADMSG;
	if (r) {
		qcow2_sums_close(sums);
		return err_set(err, r, "the checksum file '%s' is damaged", path);
	}
	return 0;
}

static int compare_read(const struct qcow2_sums *sums, uint64_t first, uint64_t n,
			struct qcow2_sum *out)
{
	size_t bytes = n * sizeof(*out);
	ssize_t got = file_pread(sums->file, out, bytes, qcow2_sums_off(first));

	return got == (ssize_t)bytes ? 0 : got < 0 ? (int)got : -EBADMSG;
}

static int compare_all(const struct qcow2_sums *a, const struct qcow2_sums *b,
		       struct qcow2_sums_difference *out)
{
	_cleanup_(freep) struct qcow2_sum *of_a = malloc(COMPARE_SUMS * sizeof(*of_a));
	_cleanup_(freep) struct qcow2_sum *of_b = malloc(COMPARE_SUMS * sizeof(*of_b));
	uint64_t at = 0, i, n;
	int r = of_a && of_b ? 0 : -ENOMEM;

	for (; !r && at < a->clusters; at += n) {
		n = MIN(a->clusters - at, (uint64_t)COMPARE_SUMS);
		r = compare_read(a, at, n, of_a);
		if (!r)
			r = compare_read(b, at, n, of_b);
		for (i = 0; !r && i < n; i++) {
			if (qcow2_sum_equal(&of_a[i], &of_b[i]))
				continue;
			if (!out->clusters++)
				out->first = (at + i) << a->cluster_bits;
		}
	}
	return r;
}

int qcow2_sums_compare(const char *a, const char *b, struct qcow2_sums_difference *out,
		       struct err *err)
{
	struct qcow2_sums of_a = {0}, of_b = {0};
	int r = compare_open(&of_a, a, err);

	memset(out, 0, sizeof(*out));
	if (!r)
		r = compare_open(&of_b, b, err);
	if (!r && (of_a.cluster_bits != of_b.cluster_bits || of_a.size != of_b.size))
		r = err_set(err, -EINVAL,
			    "'%s' and '%s' are of disks or clusters of different sizes", a, b);
	else if (!r && (r = compare_all(&of_a, &of_b, out)))
		err_sys(err, r, "comparing '%s' with '%s'", a, b);
	qcow2_sums_close(&of_a);
	qcow2_sums_close(&of_b);
	return r;
}

int qcow2_sums_data(const char *path, uint64_t *bytes, struct err *err)
{
	_cleanup_(freep) struct qcow2_sum *buf = malloc(COMPARE_SUMS * sizeof(*buf));
	struct qcow2_sums sums;
	uint64_t at = 0, i, n;
	int r = qcow2_sums_open(&sums, path, err);

	*bytes = 0;
	if (r)
		return r;
	if (!buf)
		r = -ENOMEM;
	for (; !r && at < sums.clusters; at += n) {
		n = MIN(sums.clusters - at, (uint64_t)COMPARE_SUMS);
		r = compare_read(&sums, at, n, buf);
		for (i = 0; !r && i < n; i++)
			*bytes += qcow2_sum_is_zero(&buf[i]) ? 0 : 1ULL << sums.cluster_bits;
	}
	qcow2_sums_close(&sums);
	return r ? err_sys(err, r, "reading '%s'", path) : 0;
}
