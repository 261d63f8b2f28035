/*
 * QEMU and this engine on each other's images. What QEMU's tools wrote is read back by QEMU and by
 * us; what they left behind is continued by us and judged by them; long chains that both wrote are
 * compared at every link. Seeds are printed; SEED=n repeats one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "tests/support/imgloop.h"
#include "tests/support/oracle.h"
#include "tests/support/scratch.h"

static struct qcow2_session loop;

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

static void create(const char *path, const struct qcow2_create_opts *opts)
{
	struct err err;

	if (qcow2_create(path, opts, &err))
		fail_msg("%s", err.text);
}

static void assert_we_read(const char *path, const unsigned char *model, size_t size)
{
	struct qcow2_open_opts opts = {.writable = false};

	assert_int_equal(imgloop_open(&loop, path, &opts), 0);
	oracle_assert_reads_as(&loop, model, size);
	assert_int_equal(imgloop_close(&loop), 0);
}

/* Opens @path for writing, does @steps at random, closes it; QEMU must find what we meant. */
static void write_at_random(const char *path, const struct qcow2_open_opts *opts,
			    unsigned char *model, size_t size, unsigned steps)
{
	assert_int_equal(imgloop_open(&loop, path, opts), 0);
	oracle_assert_reads_as(&loop, model, size);
	oracle_workload(&loop, model, size, steps, 200000);
	oracle_assert_reads_as(&loop, model, size);
	assert_int_equal(imgloop_close(&loop), 0);
	oracle_assert_qemu_agrees(path, model, size);
}

/* --- QEMU's hand ---------------------------------------------------------------------------- */

enum {
	IO_DISCARD = 1 << 0,
	IO_PACK = 1 << 1, /* compressed clusters first */
	IO_KILL = 1 << 2, /* flushes and dies */
};

static int io_byte(void)
{
	return 1 + oracle_below(255);
}

static void io_step(FILE *cmds, size_t size, unsigned flags)
{
	size_t off = align_down(oracle_below(size), 512);
	size_t len = align_up(1 + oracle_below(150000), 512);
	unsigned kind = oracle_below(8);

	len = MIN(len, size - off);
	if (kind == 0)
		fprintf(cmds, "write -z %s %zu %zu\n", oracle_below(2) ? "-u" : "", off, len);
	else if (kind == 1 && flags & IO_DISCARD)
		fprintf(cmds, "discard %zu %zu\n", off, len);
	else if (kind == 3)
		fprintf(cmds, "write -P %d %zu 512\n", io_byte(), off);
	else
		fprintf(cmds, "write -P %d %zu %zu\n", io_byte(), off, len);
}

/* QEMU packs clusters only where there are no plain ones, and complains otherwise. Not in the same
 * process as other writes: QEMU 7.2 may pack into a cluster it has given to plain data meanwhile.
 */
static void qemu_packs(const char *path, size_t size, size_t cluster)
{
	FILE *f = fopen("pack.cmds", "w");
	size_t off = oracle_below(4) * cluster;

	for (; off < size; off += (1 + oracle_below(size / cluster / 4 + 1)) * cluster)
		fprintf(f, "write -c -P %d %zu %zu\n", io_byte(), off, MIN(cluster, size - off));
	fclose(f);
	assert_int_equal(scratch_run("qemu-io -t unsafe -f qcow2 %s < pack.cmds || true", path), 0);
}

/* @steps of qemu-io on @path, then what QEMU reads there into @model. */
static void qemu_writes(const char *path, unsigned char *model, size_t size, size_t cluster,
			unsigned steps, unsigned flags)
{
	FILE *f = fopen("io.cmds", "w");

	if (flags & IO_PACK)
		qemu_packs(path, size, cluster);
	while (steps--)
		io_step(f, size, flags);
	if (flags & IO_KILL)
		fprintf(f, "flush\nsigraise 9\n");
	fclose(f);
	assert_int_equal(scratch_run("qemu-io -t unsafe -f qcow2 %s < io.cmds > io.log 2>&1; "
				     "! grep -i -e fail -e error io.log",
				     path),
			 0);
	if (flags & IO_KILL) /* marked so: in the lowest byte of the incompatible features */
		assert_int_equal(scratch_run("test $(($(od -An -tu1 -j79 -N1 %s) & 1)) = 1", path),
				 0);
	assert_int_equal(scratch_run("qemu-img convert -f qcow2 -O raw %s truth.raw", path), 0);
	f = fopen("truth.raw", "rb");
	assert_int_equal(fread(model, 1, size, f), size);
	fclose(f);
}

/* A chain's bottom and middle for images that are not alone. */
static void make_parent(const char *path, unsigned char *model, size_t size, uint32_t cluster)
{
	struct qcow2_create_opts create_opts = {.size = size, .cluster_size = cluster};
	struct qcow2_open_opts opts = {.writable = true};

	unlink(path);
	create(path, &create_opts);
	memset(model, 0, size);
	write_at_random(path, &opts, model, size, 40);
}

/* --- ours, then QEMU's, then ours ----------------------------------------------------------- */

static void qemu_io_goes_on_in_our_images_and_we_go_on_after_it(void **state)
{
	static const struct {
		uint32_t cluster;
		bool backing, zstd;
	} row[] = {
		{4096, false, false},	{4096, true, false},  {65536, false, false},
		{65536, true, false},	{65536, true, true},  {2 << 20, false, false},
		{2 << 20, true, false}, {16384, false, true},
	};
	size_t size = (6 << 20) + 1536;
	unsigned char *model = malloc(size);
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(row); i++) {
		struct qcow2_create_opts create_opts = {
			.size = size, .cluster_size = row[i].cluster, .zstd = row[i].zstd};
		struct qcow2_open_opts opts = {.writable = true,
					       .sums = i % 2,
					       .suppress_unchanged = i % 2,
					       .zstd_level = row[i].zstd};
		char path[32];

		memset(model, 0, size);
		if (row[i].backing) {
			make_parent("under.qcow2", model, size, 65536);
			create_opts.backing = "under.qcow2";
		}
		snprintf(path, sizeof(path), "ours-%u.qcow2", i);
		create(path, &create_opts);
		write_at_random(path, &opts, model, size, 30);
		qemu_writes(path, model, size, row[i].cluster, 40, IO_DISCARD | IO_PACK);
		oracle_assert_clean(path);
		assert_we_read(path, model, size);
		write_at_random(path, &opts, model, size, 30);
	}
	free(model);
}

/* --- QEMU's, then ours ---------------------------------------------------------------------- */

static void our_writer_goes_on_in_images_qemu_made(void **state)
{
	static const struct {
		const char *options;
		size_t cluster;
		unsigned flags;
		bool backing;
	} row[] = {
		{"cluster_size=4K", 4096, IO_DISCARD | IO_PACK, false},
		{"cluster_size=8K", 8192, IO_DISCARD, true},
		{"cluster_size=16K", 16384, IO_PACK, true},
		{"cluster_size=32K", 32768, IO_DISCARD, false},
		{"cluster_size=64K", 65536, IO_DISCARD | IO_PACK, true},
		{"cluster_size=128K", 131072, IO_DISCARD, false},
		{"cluster_size=256K", 262144, IO_DISCARD | IO_PACK, true},
		{"cluster_size=512K", 524288, 0, false},
		{"cluster_size=1M", 1 << 20, IO_DISCARD, true},
		{"cluster_size=2M", 2 << 20, IO_DISCARD | IO_PACK, false},
		{"preallocation=metadata", 65536, IO_DISCARD, false},
		{"preallocation=metadata,cluster_size=4K", 4096, IO_DISCARD, false},
		{"preallocation=falloc", 65536, 0, false},
		{"preallocation=full,cluster_size=16K", 16384, IO_DISCARD, false},
		{"refcount_bits=1", 65536, IO_DISCARD, false},
		{"refcount_bits=2", 65536, 0, true},
		{"refcount_bits=8,cluster_size=4K", 4096, IO_PACK, false},
		{"refcount_bits=32", 65536, IO_DISCARD, true},
		{"refcount_bits=64,cluster_size=4K", 4096, IO_PACK, true},
		{"lazy_refcounts=on", 65536, IO_KILL, false},
		{"lazy_refcounts=on,cluster_size=4K", 4096, IO_KILL | IO_DISCARD, true},
		{"lazy_refcounts=on,refcount_bits=64", 65536, IO_KILL | IO_PACK, false},
		{"compression_type=zstd", 65536, IO_PACK, false},
		{"compression_type=zstd,cluster_size=2M", 2 << 20, IO_PACK, true},
	};
	struct qcow2_open_opts opts = {.writable = true};
	size_t size = (5 << 20) + 2560;
	unsigned char *model = malloc(size);
	unsigned i;

	(void)state;
	make_parent("below.qcow2", model, size, 65536);
	for (i = 0; i < ARRAY_SIZE(row); i++) {
		char path[32];

		print_message("# %s%s\n", row[i].options, row[i].backing ? ", backed" : "");
		snprintf(path, sizeof(path), "theirs-%u.qcow2", i);
		assert_int_equal(scratch_run("qemu-img create -q -f qcow2 %s -o %s %s %zu",
					     row[i].backing ? "-b below.qcow2 -F qcow2" : "",
					     row[i].options, path, size),
				 0);
		qemu_writes(path, model, size, row[i].cluster, 30, row[i].flags);
		assert_we_read(path, model, size);
		opts.suppress_unchanged = i % 2;
		write_at_random(path, &opts, model, size, 30);
	}
	free(model);
}

static void persistent_bitmaps_are_given_up_by_our_writer(void **state)
{
	struct qcow2_open_opts opts = {.writable = true};
	size_t size = 4 << 20;
	unsigned char *model = malloc(size);

	(void)state;
	assert_int_equal(scratch_run("qemu-img create -q -f qcow2 bitmap.qcow2 %zu && "
				     "qemu-img bitmap --add bitmap.qcow2 b0",
				     size),
			 0);
	qemu_writes("bitmap.qcow2", model, size, 65536, 10, 0);
	write_at_random("bitmap.qcow2", &opts, model, size, 30);
	free(model);
}

/* --- reading what QEMU made ----------------------------------------------------------------- */

static void every_kind_of_image_reads_as_qemu_reads_it(void **state)
{
	static const struct {
		const char *options;
		size_t cluster;
		unsigned flags;
	} row[] = {
		{"compat=0.10", 65536, IO_PACK},
		{"compat=0.10,cluster_size=512", 512, IO_PACK},
		{"cluster_size=512", 512, IO_DISCARD | IO_PACK},
		{"cluster_size=1K", 1024, IO_DISCARD},
		{"cluster_size=2M", 2 << 20, IO_DISCARD | IO_PACK},
		{"preallocation=metadata", 65536, IO_DISCARD},
		{"preallocation=falloc", 65536, IO_DISCARD},
		{"preallocation=full", 65536, IO_DISCARD},
		{"lazy_refcounts=on", 65536, IO_KILL | IO_DISCARD},
		{"extended_l2=on,cluster_size=16K", 16384, IO_DISCARD | IO_PACK},
		{"extended_l2=on,cluster_size=64K", 65536, IO_DISCARD | IO_PACK},
		{"extended_l2=on,cluster_size=128K,preallocation=metadata", 131072, IO_DISCARD},
		{"extended_l2=on,cluster_size=2M", 2 << 20, IO_DISCARD | IO_PACK},
		{"extended_l2=on,lazy_refcounts=on", 65536, IO_KILL | IO_DISCARD},
		{"compression_type=zstd,cluster_size=4K", 4096, IO_PACK},
	};
	size_t size = (4 << 20) + 1024;
	unsigned char *model = malloc(size);
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(row); i++) {
		print_message("# %s\n", row[i].options);
		assert_int_equal(scratch_run("qemu-img create -q -f qcow2 -o %s read-%u.qcow2 %zu",
					     row[i].options, i, size),
				 0);
		char path[32];

		snprintf(path, sizeof(path), "read-%u.qcow2", i);
		qemu_writes(path, model, size, row[i].cluster, 40, row[i].flags);
		assert_we_read(path, model, size);
	}
	free(model);
}

static void internal_snapshots_leave_the_active_state_readable(void **state)
{
	static const char *const options[] = {"compat=1.1", "compat=0.10", "extended_l2=on",
					      "cluster_size=4K"};
	size_t size = (4 << 20) + 512;
	unsigned char *model = malloc(size);
	struct qcow2_open_opts opts = {.writable = true};
	struct qcow2_image *img;
	struct err err;
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(options); i++) {
		char path[32];

		snprintf(path, sizeof(path), "snap-%u.qcow2", i);
		assert_int_equal(scratch_run("qemu-img create -q -f qcow2 -o %s %s %zu", options[i],
					     path, size),
				 0);
		qemu_writes(path, model, size, 65536, 20, 0);
		assert_int_equal(scratch_run("qemu-img snapshot -c first %s", path), 0);
		assert_we_read(path, model, size);
		qemu_writes(path, model, size, 65536, 20, 0);
		assert_int_equal(scratch_run("qemu-img snapshot -c second %s", path), 0);
		qemu_writes(path, model, size, 65536, 5, 0);
		assert_we_read(path, model, size);
		assert_int_equal(qcow2_open(&img, path, &opts, &err), QCOW2_E_UNSUPPORTED);
		assert_int_equal(scratch_run("qemu-img snapshot -a first %s", path), 0);
		qemu_writes(path, model, size, 65536, 0, 0);
		assert_we_read(path, model, size);
	}
	free(model);
}

/* Options of one link, at random; QEMU rejects small clusters with subclusters. */
static const char *random_options(size_t *cluster, bool *discard)
{
	static char text[96];
	bool extended = oracle_below(3) == 0, old = !extended && oracle_below(5) == 0;
	unsigned bits = extended ? 14 + oracle_below(6) : 9 + oracle_below(13);

	*cluster = 1UL << bits;
	*discard = !old;
	snprintf(text, sizeof(text), "cluster_size=%zu%s%s", *cluster,
		 extended ? ",extended_l2=on" : "", old ? ",compat=0.10" : "");
	return text;
}

static void chains_of_mixed_images_made_by_qemu_read_the_same(void **state)
{
	enum { CHAINS = 3, LINKS = 7 };
	size_t max_size = 5 << 20;
	unsigned char *model = malloc(max_size);
	unsigned c, i;

	(void)state;
	for (c = 0; c < CHAINS; c++) {
		for (i = 0; i < LINKS; i++) {
			size_t cluster, size = align_down(max_size - oracle_below(2 << 20), 512);
			bool discard;
			const char *options = random_options(&cluster, &discard);
			char path[32], backing[48] = "";

			snprintf(path, sizeof(path), "mix-%u-%u.qcow2", c, i);
			if (i)
				snprintf(backing, sizeof(backing), "-b mix-%u-%u.qcow2 -F qcow2", c,
					 i - 1);
			print_message("# %s: %s, %zu bytes\n", path, options, size);
			assert_int_equal(scratch_run("qemu-img create -q -f qcow2 %s -o %s %s %zu",
						     backing, options, path, size),
					 0);
			qemu_writes(path, model, size, cluster, i ? 10 : 40,
				    IO_PACK | (discard ? IO_DISCARD : 0));
			assert_we_read(path, model, size);
		}
	}
	free(model);
}

/* --- a long chain --------------------------------------------------------------------------- */

/* What link @i is made with: sizes go up and down, clusters and options alternate. */
static void make_link(unsigned i, const char *path, const char *backing, size_t size)
{
	static const uint32_t clusters[] = {65536, 4096, 16384, 65536, 262144};
	struct qcow2_create_opts opts = {
		.size = size,
		.cluster_size = clusters[i % ARRAY_SIZE(clusters)],
		.backing = i ? backing : NULL,
		.zstd = i % 4 == 1,
	};

	create(path, &opts);
}

static void chain_of_thirty_links_equals_the_model_at_each(void **state)
{
	enum { LINKS = 30 };
	size_t size = (3 << 20) + 512, max_size = 4 << 20;
	unsigned char *model[LINKS];
	size_t sizes[LINKS];
	char path[32], backing[32] = "";
	unsigned i;

	(void)state;
	for (i = 0; i < LINKS; i++) {
		struct qcow2_open_opts opts = {.writable = true,
					       .suppress_unchanged = i % 2,
					       .sums = i % 3 == 0,
					       .zstd_level = i % 4 == 1};

		sizes[i] =
			oracle_below(4) ? size : align_down(2 * MIB + oracle_below(2 << 20), 512);
		model[i] = calloc(1, max_size);
		if (i)
			memcpy(model[i], model[i - 1], MIN(size, sizes[i]));
		size = sizes[i];
		snprintf(path, sizeof(path), "link-%u.qcow2", i);
		make_link(i, path, backing, size);
		write_at_random(path, &opts, model[i], size, i ? 12 : 60);
		strcpy(backing, path);
	}
	for (i = 0; i < LINKS; i++) {
		snprintf(path, sizeof(path), "link-%u.qcow2", i);
		assert_we_read(path, model[i], sizes[i]);
		free(model[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(qemu_io_goes_on_in_our_images_and_we_go_on_after_it),
		cmocka_unit_test(our_writer_goes_on_in_images_qemu_made),
		cmocka_unit_test(persistent_bitmaps_are_given_up_by_our_writer),
		cmocka_unit_test(every_kind_of_image_reads_as_qemu_reads_it),
		cmocka_unit_test(internal_snapshots_leave_the_active_state_readable),
		cmocka_unit_test(chains_of_mixed_images_made_by_qemu_read_the_same),
		cmocka_unit_test(chain_of_thirty_links_equals_the_model_at_each),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
