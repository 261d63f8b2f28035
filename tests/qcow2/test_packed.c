/*
 * Compressed clusters on their way through a batch: streams are moved together, share host
 * clusters, and leave some clusters behind that are stored plain, zero, or not at all. Random
 * requests that hit the clusters of one batch again and again before they are stored, with content
 * that compresses well, hardly, and not at all; a model in memory and QEMU say what is right. The
 * seed is printed; SEED=n repeats a run, ROUNDS=n asks for more of it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "qcow2/sums.h"
#include "tests/support/imgloop.h"
#include "tests/support/oracle.h"
#include "tests/support/scratch.h"

static struct qcow2_session loop;

/* Clusters of one disk; few, so that slots are met again while they are in memory. */
static const struct {
	uint32_t cluster;
	unsigned clusters;
	bool parent, suppress;
} disks[] = {
	{4096, 700, false, false}, {4096, 300, true, true},  {16384, 150, true, false},
	{65536, 40, false, false}, {65536, 60, true, true},  {65536, 20, true, true},
	{1 << 20, 6, true, true},  {2 << 20, 5, true, true},
};

struct disk {
	uint32_t cluster;
	size_t size;
	unsigned char *model, *parent; /* parent: NULL when there is none */
};

/* --- content -------------------------------------------------------------------------------- */

/* Bytes of which @noisy in 256 are random: 0 packs to nearly nothing, 256 does not pack. */
static void fill_noisy(unsigned char *p, size_t len, unsigned noisy)
{
	unsigned char base = 1 + oracle_below(255);
	size_t i;

	for (i = 0; i < len; i++) {
		uint64_t r = oracle_rnd();

		p[i] = (r >> 8 & 255) < noisy ? r >> 20 : base;
	}
}

static void fill_some(unsigned char *p, size_t len)
{
	static const unsigned noisy[] = {0, 1, 16, 64, 128, 200, 240, 256, 256};

	fill_noisy(p, len, noisy[oracle_below(ARRAY_SIZE(noisy))]);
}

/* Every cluster of a range gets a character of its own. */
static void fill_range(const struct disk *d, unsigned char *p, size_t off, size_t len)
{
	size_t n;

	for (; len; off += n, p += n, len -= n) {
		n = MIN(len, d->cluster - off % d->cluster);
		switch (oracle_below(8)) {
		case 0:
			memset(p, 0, n);
			break;
		case 1: /* as the parent has it */
			if (d->parent) {
				memcpy(p, d->parent + off, n);
				break;
			}
			/* fall through */
		default:
			fill_some(p, n);
		}
	}
}

/* --- requests ------------------------------------------------------------------------------- */

static void pick_range(const struct disk *d, size_t *off, size_t *len)
{
	size_t cluster = oracle_below(div_up(d->size, d->cluster)) * d->cluster;

	switch (oracle_below(4)) {
	case 0: /* inside a cluster */
		*off = cluster + align_down(oracle_below(d->cluster), 512);
		*off = MIN(*off, d->size - 512);
		*len = 512 * (1 + oracle_below(d->cluster / 512));
		break;
	case 1: /* any bytes of a few clusters */
		*off = cluster + oracle_below(d->cluster);
		*off = MIN(*off, d->size - 1);
		*len = 1 + oracle_below(5 * d->cluster);
		break;
	default: /* whole clusters */
		*off = cluster;
		*len = (1 + oracle_below(6)) * d->cluster;
	}
	*len = MIN(*len, d->size - *off);
}

static void one_request(const struct disk *d)
{
	unsigned char *at;
	size_t off, len;

	pick_range(d, &off, &len);
	at = d->model + off;
	switch (oracle_below(16)) {
	case 0:
	case 1:
		memset(at, 0, len);
		assert_int_equal(imgloop_zero(&loop, off, len), 0);
		break;
	case 2:
	case 3:
		memset(at, 0, len);
		assert_int_equal(imgloop_write(&loop, off, at, len), 0);
		break;
	default:
		fill_range(d, at, off, len);
		assert_int_equal(imgloop_write(&loop, off, at, len), 0);
	}
}

/* Every cluster as zeroes, then with data in random order: places are given out in that order. */
static void fill_out_of_order(const struct disk *d)
{
	size_t clusters = div_up(d->size, d->cluster), i, n;
	size_t first = oracle_below(clusters), step = 1 + oracle_below(6);

	for (i = 0; i < clusters; i += 1 + oracle_below(4)) {
		n = MIN(d->cluster, d->size - i * d->cluster);
		memset(d->model + i * d->cluster, 0, n);
		assert_int_equal(imgloop_write(&loop, i * d->cluster, d->model + i * d->cluster, n),
				 0);
	}
	for (i = 0; i < clusters; i += step) {
		size_t off = (clusters - 1 - (first + i) % clusters) * d->cluster;

		n = MIN(d->cluster, d->size - off);
		fill_range(d, d->model + off, off, n);
		assert_int_equal(imgloop_write(&loop, off, d->model + off, n), 0);
	}
}

/* --- the story of one image ----------------------------------------------------------------- */

static void differs(void *arg, uint64_t off, uint64_t len, int res)
{
	(void)arg;
	(void)res;
	print_message("# %llu bytes at %llu do not have their checksum\n", (unsigned long long)len,
		      (unsigned long long)off);
}

static void assert_sums_hold(const char *path)
{
	static const struct qcow2_verify_ops ops = {.differs = differs};
	uint64_t differing = 0;
	struct err err = ERR_INIT;

	if (qcow2_verify(path, NULL, &ops, NULL, &differing, &err))
		fail_msg("%s", err.text);
	assert_int_equal(differing, 0);
}

/* What became of the clusters, over all disks: a test of nothing but plain ones would prove little.
 */
static struct {
	uint64_t packed, plain, zero, unchanged;
} seen;

static void count_clusters(const char *path)
{
	struct qcow2_check_result c;
	struct err err = ERR_INIT;

	if (qcow2_check(path, false, &c, &err))
		fail_msg("%s", err.text);
	seen.packed += c.compressed_clusters;
	seen.plain += c.data_clusters;
	seen.zero += c.zero_clusters;
}

static void make(const struct disk *d, const char *path, const char *backing)
{
	struct qcow2_create_opts opts = {
		.size = d->size, .cluster_size = d->cluster, .backing = backing, .zstd = true};
	struct err err;

	if (qcow2_create(path, &opts, &err))
		fail_msg("%s", err.text);
}

/* Opened, used in bursts that end with a flush, a comparison, or nothing, and closed; then QEMU is
 * asked. */
static void use(const struct disk *d, const char *path, bool suppress, unsigned bursts)
{
	struct qcow2_open_opts opts = {
		.writable = true, .suppress_unchanged = suppress, .sums = true, .zstd_level = 1};
	struct qcow2_stats stats;
	unsigned n;

	assert_int_equal(imgloop_open(&loop, path, &opts), 0);
	while (bursts--) {
		if (oracle_below(3) == 0)
			fill_out_of_order(d);
		for (n = oracle_below(40); n; n--)
			one_request(d);
		if (oracle_below(2))
			assert_int_equal(imgloop_flush(&loop), 0);
		if (oracle_below(2))
			oracle_assert_reads_as(&loop, d->model, d->size);
	}
	assert_int_equal(imgloop_flush(&loop), 0);
	oracle_assert_reads_as(&loop, d->model, d->size);
	qcow2_get_stats(loop.img, &stats);
	seen.unchanged += stats.unchanged;
	assert_int_equal(imgloop_close(&loop), 0);
	oracle_assert_qemu_agrees(path, d->model, d->size);
	assert_sums_hold(path);
	count_clusters(path);
}

static void one_disk(unsigned i)
{
	struct disk d = {.cluster = disks[i].cluster,
			 .size = (size_t)disks[i].cluster * disks[i].clusters -
				 512 * oracle_below(disks[i].cluster / 512)};

	print_message("# clusters of %u, %zu bytes%s\n", d.cluster, d.size,
		      disks[i].parent ? ", over a parent" : "");
	scratch_run("rm -f *.qcow2 *.sums");
	d.model = calloc(1, d.size);
	assert_non_null(d.model);
	if (disks[i].parent) {
		make(&d, "parent.qcow2", NULL);
		use(&d, "parent.qcow2", false, 2);
		d.parent = malloc(d.size);
		assert_non_null(d.parent);
		memcpy(d.parent, d.model, d.size);
	}
	make(&d, "packed.qcow2", disks[i].parent ? "parent.qcow2" : NULL);
	use(&d, "packed.qcow2", disks[i].suppress, 5);
	use(&d, "packed.qcow2", disks[i].suppress, 2); /* continued */
	free(d.parent);
	free(d.model);
}

static void packed_clusters_equal_the_model_whatever_happens_to_a_batch(void **state)
{
	const char *env = getenv("ROUNDS");
	unsigned round, rounds = env ? strtoul(env, NULL, 0) : 1, i;

	(void)state;
	for (round = 0; round < rounds; round++)
		for (i = 0; i < ARRAY_SIZE(disks); i++)
			one_disk(i);
	assert_true(seen.packed && seen.plain && seen.zero && seen.unchanged);
	print_message("# %llu packed, %llu plain, %llu zero, %llu bytes unchanged\n",
		      (unsigned long long)seen.packed, (unsigned long long)seen.plain,
		      (unsigned long long)seen.zero, (unsigned long long)seen.unchanged);
}

static int setup(void **state)
{
	oracle_seed();
	imgloop_start(&loop, 4);
	return scratch_setup(state);
}

static int teardown(void **state)
{
	imgloop_stop(&loop);
	return scratch_teardown(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(packed_clusters_equal_the_model_whatever_happens_to_a_batch),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
