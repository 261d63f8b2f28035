/*
 * The crash promise of qcow2/qcow2.h: the power is cut at every operation of a workload, and what
 * is left is opened again. The seed is printed; SEED=n repeats a run, K=n one cut of every
 * shape, SHAPE=text those with the text in their name.
 */
#include "tests/crash/workload.h"

/* Cuts tried per shape, other ones with every seed. CUTS=n tries more, all of them when it is
 * large. What a sanitizer watches is the same code with every cut. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CUTS_DEFAULT 3
#else
#define CUTS_DEFAULT 12
#endif
/* What may be left of one cut, looked at; the last is also continued. */
#define OUTCOMES 4

static const struct shape shapes[] = {
	SHAPE_SMALL_CLUSTERS,
	SHAPE_ORDINARY_CLUSTERS,
	SHAPE_OVER_A_PARENT,
	{.name = "over a parent, large requests",
	 .size = 12 * MIB,
	 .cluster = 65536,
	 .parent = true,
	 .steps = 25,
	 .max = 4 * MIB,
	 .delay = 8},
	SHAPE_SUPPRESSED,
	{.name = "continued, several refcount blocks",
	 .size = 11 * MIB,
	 .cluster = 4096,
	 .continued = true,
	 .steps = 25,
	 .max = 500000,
	 .delay = 2},
	{.name = "compressed",
	 .size = 5 * MIB,
	 .cluster = 65536,
	 .zstd = true,
	 .steps = 40,
	 .max = 300000,
	 .delay = 2},
	{.name = "compressed, small clusters, continued",
	 .size = 3 * MIB + 512,
	 .cluster = 4096,
	 .zstd = true,
	 .continued = true,
	 .steps = 30,
	 .max = 60000,
	 .delay = 2},
	{.name = "compressed, over a parent, suppressed, large requests",
	 .size = 6 * MIB,
	 .cluster = 65536,
	 .zstd = true,
	 .parent = true,
	 .suppress = true,
	 .steps = 25,
	 .max = 3 * MIB,
	 .delay = 8},
	{.name = "over a parent, busy",
	 .size = 4 * MIB + 1536,
	 .cluster = 65536,
	 .parent = true,
	 .steps = 80,
	 .max = 150000,
	 .delay = 8,
	 .busy = true},
	{.name = "compressed, busy",
	 .size = 3 * MIB,
	 .cluster = 16384,
	 .zstd = true,
	 .parent = true,
	 .steps = 80,
	 .max = 100000,
	 .delay = 8,
	 .busy = true},
	{.name = "small clusters over a parent, busy",
	 .size = 2 * MIB + 512,
	 .cluster = 4096,
	 .parent = true,
	 .steps = 80,
	 .max = 40000,
	 .delay = 8,
	 .busy = true},
	{.name = "large clusters",
	 .size = 8 * MIB,
	 .cluster = 2 * MIB,
	 .steps = 25,
	 .max = 3 * MIB,
	 .delay = 3},
};

/* More tables than the cache holds: 3200 slices of 2 MiB of guest disk each. Compressed, so that
 * clusters written again move, in tables that are on the disk already. */
static const struct shape wide = {
	.name = "wide disk",
	.zstd = true,
	.continued = true,
	.size = 3200 * 4096,
	.cluster = 4096,
	.chunk = 4096,
	.stride = 2 * MIB,
	.steps = 14,
	.max = 3200 * 4096,
	.delay = 1,
};

static unsigned cuts_wanted(void)
{
	const char *env = getenv("CUTS");

	return env ? strtoul(env, NULL, 0) : CUTS_DEFAULT;
}

/* One story: the power fails at operation @k (0: never). Returns the operations carried out. */
static uint64_t cut_at(const struct workload *start, uint64_t k, bool ask_qemu)
{
	const struct shape *shape = start->shape;
	struct faultfile_opts opts = {.seed = seed, .cut_at = k, .delay = shape->delay};
	struct faultfile *ff = faultfile_new(&opts);
	struct workload w;
	unsigned outcome;
	uint64_t ops;
	int r;

	story_begin(shape->name, seed, k);
	workload_begin(&w, start);
	r = workload_run(&w, "start.qcow2", ff);
	if (!r && faultfile_is_cut(ff))
		story_fail("nobody noticed the power cut");
	if (r && !faultfile_is_cut(ff))
		story_fail("fails without a power cut: %s", strerror(-r));
	ops = faultfile_ops(ff);
	faultfile_cut(ff);
	for (outcome = r ? OUTCOMES - 1 : 0; outcome; outcome--) {
		assert_int_equal(faultfile_dump(ff, "cut.qcow2", outcome), 0);
		judge_left(&w, "cut.qcow2");
	}
	assert_int_equal(faultfile_dump(ff, "cut.qcow2", 0), 0);
	faultfile_free(ff);

	judge_check("cut.qcow2", !r);
	if (ask_qemu)
		judge_qemu_repair(&w, "cut.qcow2");
	judge_reopened(&w, "cut.qcow2");
	workload_deinit(&w);
	alarm(0);
	return ops;
}

/* The one asked for, or all of them, or as many as there is time for: one somewhere in each of as
 * many parts of the story. */
static void cut_everywhere(const struct shape *shape, unsigned cuts)
{
	const char *env = getenv("K"), *only = getenv("SHAPE");
	uint64_t ops, k, rng = seed * 2 + 1;
	struct workload start;
	unsigned i;

	if (only && !strstr(shape->name, only))
		return;
	workload_init(&start, shape, &loop, seed);
	ops = cut_at(&start, env ? strtoull(env, NULL, 0) : 0, true);
	print_message("%s: %llu operations\n", shape->name, (unsigned long long)ops);
	cuts = MIN(cuts, ops);
	for (i = 0; !env && i < cuts; i++) {
		uint64_t from = ops * i / cuts, to = ops * (i + 1) / cuts;

		k = 1 + from + rnd_next(&rng) % (to - from);
		cut_at(&start, k, i % 8 == seed % 8);
	}
	workload_deinit(&start);
}

static void nothing_flushed_is_lost_and_nothing_foreign_appears(void **state)
{
	unsigned i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(shapes); i++)
		cut_everywhere(&shapes[i], cuts_wanted());
}

static void a_disk_with_more_tables_than_memory_survives_too(void **state)
{
	(void)state;
	cut_everywhere(&wide, cuts_wanted() / 3);
}

/* The power fails, and fails again while the interrupted image is being continued. */
static void a_second_cut_while_continuing_is_survived(void **state)
{
	const struct shape *shape = &shapes[3];
	uint64_t rng = seed * 2 + 1;
	struct workload start;
	unsigned i;

	(void)state;
	workload_init(&start, shape, &loop, seed);
	for (i = 0; i < cuts_wanted(); i++) {
		struct faultfile_opts opts = {.seed = seed + i, .delay = 2};
		struct faultfile *ff;
		struct workload w;

		opts.cut_at = 1 + rnd_next(&rng) % 120;
		story_begin("cut twice", seed, i);
		workload_begin(&w, &start);
		ff = faultfile_new(&opts);
		workload_run(&w, "start.qcow2", ff);
		faultfile_cut(ff);
		assert_int_equal(faultfile_dump(ff, "once.qcow2", 0), 0);
		faultfile_free(ff);

		/* What the first cut left is on the disk, and stays the least there is. */
		assert_int_equal(imgloop_open(&loop, "once.qcow2", &(struct qcow2_open_opts){0}),
				 0);
		judge_content(&w);
		model_settle(&w);
		assert_int_equal(imgloop_close(&loop), 0);

		opts.cut_at = 1 + rnd_next(&rng) % 60;
		ff = faultfile_new(&opts);
		workload_run(&w, "once.qcow2", ff);
		faultfile_cut(ff);
		assert_int_equal(faultfile_dump(ff, "twice.qcow2", 0), 0);
		faultfile_free(ff);
		judge_check("twice.qcow2", false);
		judge_reopened(&w, "twice.qcow2");
		workload_deinit(&w);
		alarm(0);
	}
	workload_deinit(&start);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_flushed_is_lost_and_nothing_foreign_appears),
		cmocka_unit_test(a_disk_with_more_tables_than_memory_survives_too),
		cmocka_unit_test(a_second_cut_while_continuing_is_survived),
	};

	return cmocka_run_group_tests(tests, crash_setup, crash_teardown);
}
