/*
 * Images that were closed cleanly, by us or by QEMU, are opened for writing again and not closed:
 * what stands in the header and the refcount table must not lead anywhere it did not lead before.
 */
#include "tests/crash/workload.h"

static void open_rw(const char *path)
{
	struct qcow2_open_opts opts = {.writable = true};

	assert_int_equal(imgloop_open(&loop, path, &opts), 0);
}

static void write_some(uint64_t off, uint64_t len, uint64_t tag)
{
	unsigned char *buf = malloc(len);

	assert_non_null(buf);
	content(tag, off, buf, len);
	assert_int_equal(imgloop_write(&loop, off, buf, len), 0);
	free(buf);
}

static void assert_holds(uint64_t off, uint64_t len, uint64_t tag)
{
	unsigned char *have = malloc(len), *want = malloc(len);

	assert_true(have && want);
	content(tag, off, want, len);
	assert_int_equal(imgloop_read(&loop, off, have, len), 0);
	assert_memory_equal(have, want, len);
	free(have);
	free(want);
}

/* Left as a crash leaves it, with and without having written: sound, repairable, to be continued.
 */
static void assert_survives_crashes(const char *path, uint64_t len)
{
	story_begin(path, 0, 0);
	open_rw(path);
	imgloop_drop(&loop);
	judge_check(path, false);
	open_rw(path);
	assert_holds(0, len, 1);
	/* new clusters come to lie where the refcounts were */
	write_some(len, 3 * MIB, 2);
	assert_int_equal(imgloop_flush(&loop), 0);
	imgloop_drop(&loop);
	judge_check(path, false);
	assert_int_equal(scratch_run("cp %s copy.qcow2 && qemu-img check -q -r all copy.qcow2 && "
				     "qemu-img check -q copy.qcow2",
				     path),
			 0);
	assert_int_equal(imgloop_open(&loop, "copy.qcow2", &(struct qcow2_open_opts){0}), 0);
	assert_holds(0, len, 1);
	assert_holds(len, 3 * MIB, 2);
	assert_int_equal(imgloop_close(&loop), 0);
	open_rw(path);
	assert_holds(0, len, 1);
	assert_holds(len, 3 * MIB, 2);
	assert_int_equal(imgloop_close(&loop), 0);
	judge_check(path, true);
	assert_int_equal(scratch_run("qemu-img check -q %s", path), 0);
	alarm(0);
}

static void an_image_with_several_refcount_blocks(void **state)
{
	struct qcow2_create_opts opts = {.size = 64 * MIB, .cluster_size = 4096};
	struct err err = ERR_INIT;

	(void)state;
	if (qcow2_create("blocks.qcow2", &opts, &err))
		fail_msg("%s", err.text);
	open_rw("blocks.qcow2");
	write_some(0, 30 * MIB, 1);
	assert_int_equal(imgloop_close(&loop), 0);
	assert_survives_crashes("blocks.qcow2", 30 * MIB);
}

/* Refcounts of another width are replaced by ours, which then lie behind the data. */
static void an_image_whose_refcount_table_lies_behind_the_data(void **state)
{
	(void)state;
	assert_int_equal(
		scratch_run("qemu-img create -q -f qcow2 -o refcount_bits=32 table.qcow2 64M"), 0);
	open_rw("table.qcow2");
	write_some(0, 5 * MIB, 1);
	assert_int_equal(imgloop_close(&loop), 0);
	assert_int_equal(scratch_run("qemu-img check -q table.qcow2"), 0);
	assert_survives_crashes("table.qcow2", 5 * MIB);
}

static void an_image_that_qemu_grew(void **state)
{
	(void)state;
	/* the refcount table outgrows its place: 512-byte refcount blocks would be needed for less
	 */
	assert_int_equal(
		scratch_run("qemu-img create -q -f qcow2 -o cluster_size=4096,refcount_bits=64 "
			    "grew.qcow2 64M"),
		0);
	open_rw("grew.qcow2");
	write_some(0, 2 * MIB, 1);
	assert_int_equal(imgloop_close(&loop), 0);
	assert_int_equal(scratch_run("qemu-io -c 'discard 0 1M' grew.qcow2 >/dev/null && "
				     "qemu-io -c 'write -P 7 10M 12M' grew.qcow2 >/dev/null"),
			 0);
	open_rw("grew.qcow2");
	write_some(0, 2 * MIB, 1);
	assert_int_equal(imgloop_close(&loop), 0);
	assert_survives_crashes("grew.qcow2", 2 * MIB);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_image_with_several_refcount_blocks),
		cmocka_unit_test(an_image_whose_refcount_table_lies_behind_the_data),
		cmocka_unit_test(an_image_that_qemu_grew),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, crash_setup, crash_teardown);
}
