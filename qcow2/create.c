/*
 * A new image: header, refcount table, one refcount block, L1, in clusters 0, 1, 2, 3... The first
 * refcount block is enough for small images; finalize puts what more is needed behind the data.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "qcow2/image.h"

DEFINE_CLEANUP(struct file *, file_close)

/* Tables stay small: an L1 of at most 512 KiB, 2 MiB clusters from 64 TiB on. */
uint32_t qcow2_choose_cluster_size(uint64_t size)
{
	uint32_t cs = QCOW2_CLUSTER_DEFAULT;

	while (cs < QCOW2_CLUSTER_MAX && size / cs > (512ULL << 20) / 8)
		cs *= 2;
	return cs;
}

static int create_header(struct qcow2_header *h, const struct qcow2_create_opts *opts,
			 struct err *err)
{
	uint32_t cs =
		opts->cluster_size ? opts->cluster_size : qcow2_choose_cluster_size(opts->size);
	uint64_t size = align_up(opts->size, 512);
	struct qcow2_geom g;

	if (!is_power_of_2(cs) || cs < QCOW2_CLUSTER_MIN || cs > QCOW2_CLUSTER_MAX)
		return err_set(err, -EINVAL,
			       "cluster size %u is not a power of two between 4 KiB and 2 MiB", cs);
	if (opts->size > QCOW2_SIZE_MAX || opts->size == 0)
		return err_set(err, -EINVAL, "a disk of %llu bytes is outside 1 byte .. 64 TiB",
			       (unsigned long long)opts->size);
	if (opts->backing && strlen(opts->backing) > QCOW2_BACKING_NAME_MAX)
		return err_set(err, -ENAMETOOLONG,
			       "the backing file name is longer than %d bytes: '%s'",
			       QCOW2_BACKING_NAME_MAX, opts->backing);
	qcow2_geom_init(&g, size, __builtin_ctz(cs), false);
	if (g.l1_entries * 8 > QCOW2_L1_BYTES_MAX)
		return err_set(err, -EINVAL,
			       "clusters of %u bytes are too small for a disk of %llu bytes", cs,
			       (unsigned long long)opts->size);
	*h = (struct qcow2_header){
		.version = 3,
		.cluster_bits = g.cluster_bits,
		.size = size,
		.l1_entries = g.l1_entries,
		.l1_off = 3ULL * cs,
		.reftable_off = cs,
		.reftable_clusters = 1,
		.incompatible = QCOW2_INCOMPAT_DIRTY,
		.compatible = QCOW2_COMPAT_LAZY_REFCOUNTS,
		.refcount_order = 4,
		.whole_off = !opts->zstd,
	};
	if (opts->zstd) {
		h->incompatible |= QCOW2_INCOMPAT_COMPRESSION;
		h->compression = QCOW2_COMPRESSION_ZSTD;
	}
	if (opts->backing) {
		snprintf(h->backing, sizeof(h->backing), "%s", opts->backing);
		snprintf(h->backing_format, sizeof(h->backing_format), "qcow2");
	}
	return 0;
}

/* Writes the metadata clusters and syncs; the header goes last, so that a torn creation is no
 * image. */
static int create_write(struct file *file, const struct qcow2_header *h, struct err *err)
{
	uint64_t cs = 1ULL << h->cluster_bits, used, i;
	uint64_t total = h->l1_off + align_up(h->l1_entries * 8ULL, cs);
	_cleanup_(freep) unsigned char *cluster = aligned_alloc(FILE_ALIGN, cs);
	int r;

	if (!cluster)
		return err_set(err, -ENOMEM, "no memory");
	used = MIN(total >> h->cluster_bits, cs / 2);
	memset(cluster, 0, cs);
	for (i = 0; i < used; i++)
		store_be16(cluster + i * 2, 1);
	if ((r = file_truncate(file, total)) || (r = file_pwrite(file, cluster, cs, 2 * cs)))
		return err_sys(err, r, "cannot write the tables");
	memset(cluster, 0, cs);
	store_be64(cluster, 2 * cs);
	if ((r = file_pwrite(file, cluster, cs, cs)) || (r = file_datasync(file)))
		return err_sys(err, r, "cannot write the tables");
	memset(cluster, 0, cs);
	r = qcow2_header_encode(h, cluster);
	if (r)
		return err_sys(err, r, "the backing file name does not fit into the header");
	if ((r = file_pwrite(file, cluster, cs, 0)) || (r = file_datasync(file)))
		return err_sys(err, r, "cannot write the header");
	return 0;
}

int qcow2_create(const char *path, const struct qcow2_create_opts *opts, struct err *err)
{
	_cleanup_(file_closep) struct file *file = NULL;
	struct qcow2_header h;
	int r = create_header(&h, opts, err);

	if (r)
		return err_prefix(err, r, "cannot create '%s'", path);
	r = file_open(&file, path, FILE_RDWR | FILE_CREATE, err);
	if (r)
		return r;
	r = create_write(file, &h, err);
	if (!r)
		r = file_sync_dir_of(path);
	if (r) {
		unlink(path);
		return err_prefix(err, r, "cannot create '%s'", path);
	}
	return 0;
}
