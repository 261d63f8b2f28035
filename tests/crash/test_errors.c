/*
 * Disks that fail without a power cut: EIO, ENOSPC, short writes, reads that fail. The error is
 * latched, the flush says so, what was flushed earlier is there after reopening, and nothing hangs.
 * The seed is printed; SEED=n repeats a run, K=n one failure of it.
 */
#include "tests/crash/workload.h"

static const struct shape small = SHAPE_SMALL_CLUSTERS;
static const struct shape overlay = SHAPE_OVER_A_PARENT;

/* Opens the start image behind a faultfile. */
static struct faultfile *open_behind(const struct faultfile_opts *opts)
{
	struct faultfile *ff = faultfile_new(opts);
	struct qcow2_open_opts open = {
		.writable = true, .wrap_file = faultfile_wrap, .wrap_arg = ff};

	assert_int_equal(imgloop_open(&loop, "start.qcow2", &open), 0);
	return ff;
}

/* --- one failing operation, at every place
 * ----------------------------------------------------------- */

static uint64_t fail_at(const struct workload *start, uint64_t k, int error)
{
	const struct shape *shape = start->shape;
	struct faultfile_opts opts = {
		.seed = seed, .fail_at = k, .fail_error = error, .delay = shape->delay};
	struct faultfile *ff = faultfile_new(&opts);
	struct workload w;
	uint64_t ops;
	int r;

	story_begin(shape->name, seed, k);
	workload_begin(&w, start);
	r = workload_run(&w, "start.qcow2", ff);
	if (r && r != error)
		story_fail("failed with %s instead of %s", strerror(-r), strerror(-error));
	ops = faultfile_ops(ff);
	faultfile_cut(ff);
	assert_int_equal(faultfile_dump(ff, "left.qcow2", 0), 0);
	faultfile_free(ff);
	judge_check("left.qcow2", !r);
	judge_reopened(&w, "left.qcow2");
	workload_deinit(&w);
	alarm(0);
	return ops;
}

static void fail_everywhere(const struct shape *shape, int error)
{
	const char *env = getenv("K");
	struct workload start;
	uint64_t ops, k;

	workload_init(&start, shape, &loop, seed);
	ops = fail_at(&start, env ? strtoull(env, NULL, 0) : 0, error);
	for (k = 1; !env && k <= MIN(ops, 100U); k++)
		fail_at(&start, k, error);
	workload_deinit(&start);
}

static void an_io_error_anywhere_costs_nothing_that_was_flushed(void **state)
{
	(void)state;
	fail_everywhere(&small, -EIO);
	fail_everywhere(&overlay, -EIO);
}

static void a_full_disk_anywhere_costs_nothing_that_was_flushed(void **state)
{
	(void)state;
	fail_everywhere(&overlay, -ENOSPC);
}

/* --- reads that fail
 * ------------------------------------------------------------------------------------ */

static void a_failing_read_fails_its_request_and_hangs_nobody(void **state)
{
	/* tables and data that have to be read back */
	struct shape shape = overlay;
	struct workload start;
	uint64_t k, reads = 0;

	(void)state;
	shape.continued = true;
	workload_init(&start, &shape, &loop, seed);
	for (k = 0; k <= reads; k++) {
		struct faultfile_opts opts = {.seed = seed, .fail_read_at = k, .delay = 2};
		struct faultfile *ff;
		struct workload w;
		int r;

		story_begin("failing reads", seed, k);
		workload_begin(&w, &start);
		ff = faultfile_new(&opts);
		r = workload_run(&w, "start.qcow2", ff);
		if (r && r != -EIO)
			story_fail("failed with %s", strerror(-r));
		if (k == 0)
			reads = MIN(faultfile_reads(ff), 100U);
		faultfile_cut(ff);
		assert_int_equal(faultfile_dump(ff, "left.qcow2", 0), 0);
		faultfile_free(ff);
		judge_check("left.qcow2", !r);
		judge_reopened(&w, "left.qcow2");
		workload_deinit(&w);
		alarm(0);
	}
	workload_deinit(&start);
}

/* --- the latch
 * ---------------------------------------------------------------------------------------------- */

static void a_latched_error_fails_everything_that_follows(void **state)
{
	struct faultfile_opts opts = {.seed = seed};
	struct qcow2_extent extent;
	struct faultfile *ff;
	struct err err = ERR_INIT;
	unsigned count;
	char byte = 1;

	(void)state;
	story_begin("latch", seed, 0);
	make_image(&small, "start.qcow2", NULL);
	ff = open_behind(&opts);
	assert_int_equal(imgloop_write(&loop, 0, &byte, 1), 0);
	faultfile_cut(ff);
	assert_int_equal(imgloop_flush(&loop), -EIO);
	assert_int_equal(imgloop_write(&loop, 5000, &byte, 1), -EIO);
	assert_int_equal(imgloop_zero(&loop, 0, 4096), -EIO);
	assert_int_equal(imgloop_read(&loop, 0, &byte, 1), -EIO);
	assert_int_equal(imgloop_extents(&loop, 0, 4096, &extent, 1, &count), -EIO);
	assert_int_equal(imgloop_flush(&loop), -EIO);
	assert_int_equal(qcow2_error(loop.img), -EIO);
	qcow2_detach(loop.img);
	assert_int_equal(qcow2_finalize(loop.img, &err), -EIO);
	assert_true(strlen(err.text) > 10);
	qcow2_close(loop.img);
	faultfile_free(ff);
	alarm(0);
}

/* --- space
 * ----------------------------------------------------------------------------------------------------
 */

/* The steps in which space is reserved are larger than what is left: all of it can be used still.
 */
static void use_to_the_end(int error)
{
	struct faultfile_opts opts = {
		.seed = seed, .space = 5 * MIB, .space_error = error, .delay = 1};
	unsigned char *data = malloc(4 * MIB);
	struct workload w;
	struct faultfile *ff;
	int r = 0;
	unsigned i;

	story_begin("nearly full", seed, -error);
	assert_non_null(data);
	content(1, 0, data, 4 * MIB);
	make_image(&overlay, "start.qcow2", NULL);
	ff = open_behind(&opts);
	assert_int_equal(imgloop_write(&loop, 0, data, 4 * MIB), 0);
	assert_int_equal(imgloop_flush(&loop), 0);
	/* 4 MiB of data and 4 + 1 clusters of tables; now one cluster after the other is replaced
	 */
	for (i = 0; !r && i < 64; i++) {
		r = imgloop_zero(&loop, i * 65536, 65536);
		if (!r)
			r = imgloop_write(&loop, i * 65536, data, 65536);
		if (!r)
			r = imgloop_flush(&loop);
	}
	assert_int_equal(r, error);
	assert_int_equal(i, 12); /* the 80 clusters that fit, less 69, and the one that did not */
	imgloop_drop(&loop);
	faultfile_cut(ff);
	assert_int_equal(faultfile_dump(ff, "left.qcow2", 0), 0);
	faultfile_free(ff);
	w = (struct workload){.shape = &overlay, .loop = &loop};
	assert_int_equal(imgloop_open(&loop, "left.qcow2", &(struct qcow2_open_opts){0}), 0);
	assert_int_equal(imgloop_read(&loop, 2 * MIB, data, MIB), 0);
	model_init(&w.model, overlay.size);
	content(1, 0, w.model.flushed, 4 * MIB);
	assert_memory_equal(data, w.model.flushed + 2 * MIB, MIB);
	assert_int_equal(imgloop_close(&loop), 0);
	model_deinit(&w.model);
	free(data);
	alarm(0);
}

static void a_nearly_full_disk_is_used_to_its_end(void **state)
{
	(void)state;
	use_to_the_end(-ENOSPC);
	use_to_the_end(-EDQUOT);
	use_to_the_end(-EFBIG);
}

/* --- nothing is under way when an operation says it is done
 * ------------------------------------------------- */

static void a_flush_waits_for_space_that_is_being_reserved(void **state)
{
	struct faultfile_opts opts = {.seed = seed, .slow = {[FILE_OP_ALLOCATE] = 60}};
	struct faultfile *ff;
	char byte = 1;
	unsigned i;

	(void)state;
	story_begin("slow growth", seed, 0);
	for (i = 0; i < 2; i++) { /* flushed, and given up */
		make_image(&small, "start.qcow2", NULL);
		ff = open_behind(&opts);
		/* the first batch waits for space; 9 MiB of the 16 later, more is reserved ahead */
		assert_int_equal(imgloop_write(&loop, 0, &byte, 1), 0);
		if (i)
			imgloop_drop(&loop);
		else
			assert_int_equal(imgloop_close(&loop), 0);
		faultfile_free(ff);
	}
	alarm(0);
}

static void a_flush_waits_for_space_that_is_reserved_ahead(void **state)
{
	static const struct shape wide = {.name = "ahead", .size = 20 * MIB, .cluster = 65536};
	struct faultfile_opts opts = {.seed = seed, .slow = {[FILE_OP_ALLOCATE] = 60}};
	unsigned char *data = malloc(12 * MIB);
	struct faultfile *ff;
	unsigned i;

	(void)state;
	story_begin("slow growth ahead", seed, 0);
	assert_non_null(data);
	content(1, 0, data, 12 * MIB);
	for (i = 0; i < 2; i++) {
		make_image(&wide, "start.qcow2", NULL);
		ff = open_behind(&opts);
		assert_int_equal(imgloop_write(&loop, 0, data, 12 * MIB), 0);
		if (i)
			imgloop_drop(&loop);
		else
			assert_int_equal(imgloop_close(&loop), 0);
		faultfile_free(ff);
	}
	free(data);
	alarm(0);
}

/* One cluster cannot be read while the table for the next is on its way: the read does not end
 * before. */
static void a_failed_read_waits_for_what_it_started(void **state)
{
	static const struct shape two_tables = {
		.name = "two tables", .size = 8 * MIB, .cluster = 4096};
	unsigned char *data = malloc(8 * MIB);
	uint64_t k, opening = 0;

	(void)state;
	assert_non_null(data);
	content(1, 0, data, 8 * MIB);
	make_image(&two_tables, "start.qcow2", NULL);
	assert_int_equal(
		imgloop_open(&loop, "start.qcow2", &(struct qcow2_open_opts){.writable = true}), 0);
	/* no two clusters side by side, so that there are many reads */
	for (k = 4096 * 510; k < 4096 * 530; k += 8192)
		assert_int_equal(imgloop_write(&loop, k, data, 4096), 0);
	assert_int_equal(imgloop_close(&loop), 0);
	for (k = 0; k < 20; k++) {
		struct faultfile_opts opts = {.seed = seed + k, .delay = 60};
		struct faultfile *ff;

		story_begin("two tables", seed, k);
		opts.fail_read_at = k ? opening + 1 + k % 3 : 0;
		ff = open_behind(&opts);
		if (!k)
			opening = faultfile_reads(ff);
		imgloop_read(&loop, 4096 * 508, data, 4096 * 20);
		imgloop_drop(&loop);
		faultfile_free(ff);
	}
	free(data);
	alarm(0);
}

struct slow_read {
	struct qcow2_op op;
	bool done;
	int res;
};

static void slow_read_done(struct qcow2_op *op, int res)
{
	struct slow_read *r = container_of(op, struct slow_read, op);

	r->done = true;
	r->res = res;
}

/* A compressed cluster that is overwritten moves, and its old place is given back to the file
 * system: not while somebody reads it. */
static void space_that_is_being_read_is_not_given_back(void **state)
{
	static const struct shape packed = {
		.name = "slow read", .size = 4 * MIB, .cluster = 65536, .zstd = true};
	struct faultfile_opts opts = {.seed = seed, .slow = {[FILE_OP_READ] = 500}};
	struct faultfile *ff = faultfile_new(&opts);
	struct qcow2_open_opts open = {.writable = true, .zstd_level = 1};
	enum { LEN = 512 * KIB }; /* clusters that are unpacked at once */
	unsigned char *data = malloc(LEN), *back = malloc(LEN);
	struct slow_read r = {
		.op = {.kind = QCOW2_OP_READ, .len = LEN, .buf = back, .done = slow_read_done}};
	unsigned i;

	(void)state;
	story_begin(packed.name, seed, 0);
	assert_true(data && back);
	make_image(&packed, "start.qcow2", NULL);
	assert_int_equal(imgloop_open(&loop, "start.qcow2", &open), 0);
	content(1, 0, data, LEN);
	assert_int_equal(imgloop_write(&loop, 0, data, LEN), 0);
	assert_int_equal(imgloop_close(&loop), 0);

	/* plain from now on: nothing but rounds tells the time */
	open = (struct qcow2_open_opts){
		.writable = true, .wrap_file = faultfile_wrap, .wrap_arg = ff};
	assert_int_equal(imgloop_open(&loop, "start.qcow2", &open), 0);
	/* the table is read, then the clusters */
	qcow2_submit(loop.img, &r.op);
	for (i = 0; i < 600; i++)
		assert_int_equal(ring_round(&loop.ring), 0);
	assert_false(r.done);
	content(2, 0, data, LEN);
	assert_int_equal(imgloop_write(&loop, 0, data, LEN), 0);
	assert_false(r.done);
	assert_int_equal(imgloop_flush(&loop), 0);
	while (!r.done)
		assert_int_equal(ring_round(&loop.ring), 0);
	assert_int_equal(r.res, 0);
	content(1, 0, data, LEN);
	assert_memory_equal(back, data, LEN);
	assert_true(faultfile_punched(ff) > 0);
	assert_int_equal(imgloop_close(&loop), 0);
	faultfile_free(ff);
	free(data);
	free(back);
	alarm(0);
}

static void a_flush_of_a_read_only_image_is_done_at_once(void **state)
{
	struct qcow2_open_opts opts = {.writable = false};

	(void)state;
	make_image(&small, "start.qcow2", NULL);
	assert_int_equal(imgloop_open(&loop, "start.qcow2", &opts), 0);
	assert_int_equal(imgloop_flush(&loop), 0);
	assert_int_equal(imgloop_close(&loop), 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_io_error_anywhere_costs_nothing_that_was_flushed),
		cmocka_unit_test(a_full_disk_anywhere_costs_nothing_that_was_flushed),
		cmocka_unit_test(a_failing_read_fails_its_request_and_hangs_nobody),
		cmocka_unit_test(a_latched_error_fails_everything_that_follows),
		cmocka_unit_test(a_nearly_full_disk_is_used_to_its_end),
		cmocka_unit_test(a_flush_waits_for_space_that_is_being_reserved),
		cmocka_unit_test(a_flush_waits_for_space_that_is_reserved_ahead),
		cmocka_unit_test(a_failed_read_waits_for_what_it_started),
		cmocka_unit_test(space_that_is_being_read_is_not_given_back),
		cmocka_unit_test(a_flush_of_a_read_only_image_is_done_at_once),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, crash_setup, crash_teardown);
}
