/* The ring's loop and the file seam, on a real file. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/file.h"
#include "base/list.h"
#include "tests/support/scratch.h"

static struct ring ring;

static int setup(void **state)
{
	struct err err;

	if (ring_init(&ring, 8, &err))
		return -1;
	return scratch_setup(state);
}

static int teardown(void **state)
{
	ring_deinit(&ring);
	return scratch_teardown(state);
}

struct io {
	struct file_op op;
	bool done;
	int res;
};

static void io_done(struct file_op *op, int res)
{
	struct io *io = container_of(op, struct io, op);

	io->done = true;
	io->res = res;
}

static int io_run(struct file *file, enum file_op_kind kind, void *buf, size_t len, uint64_t off)
{
	struct io io = {.op = {.kind = kind, .buf = buf, .len = len, .off = off, .done = io_done}};

	file_submit(file, &io.op);
	assert_false(io.done); /* never from inside the call */
	while (!io.done)
		assert_int_equal(ring_round(&ring), 0);
	return io.res;
}

static void both_faces_see_the_same_bytes_aligned_or_not(void **state)
{
	unsigned char *a = aligned_alloc(4096, 65536), *b = aligned_alloc(4096, 65536);
	struct file *file;
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < 65536; i++)
		a[i] = random();
	assert_int_equal(file_open(&file, "both", FILE_RDWR | FILE_CREATE, &err), 0);
	file_bind(file, &ring);
	assert_int_equal(io_run(file, FILE_OP_WRITE, a, 65536, 0), 65536);
	assert_int_equal(io_run(file, FILE_OP_WRITE, a + 100, 333, 70001), 333);
	assert_int_equal(io_run(file, FILE_OP_DATASYNC, NULL, 0, 0), 0);
	assert_int_equal(file_pread(file, b, 65536, 0), 65536);
	assert_memory_equal(a, b, 65536);
	assert_int_equal(io_run(file, FILE_OP_READ, b + 1, 333, 70001), 333);
	assert_memory_equal(a + 100, b + 1, 333);
	/* short at the end of the file, and only there */
	assert_int_equal(io_run(file, FILE_OP_READ, b, 8192, 65536), 70334 - 65536);
	assert_int_equal(io_run(file, FILE_OP_READ, b, 4096, 1 << 20), 0);
	assert_int_equal(file_size(file), 70334);
	assert_int_equal(io_run(file, FILE_OP_ALLOCATE, NULL, 1 << 20, 0), 0);
	assert_int_equal(file_size(file), 1 << 20);
	assert_int_equal(io_run(file, FILE_OP_PUNCH, NULL, 4096, 4096), 0);
	assert_int_equal(file_pread(file, b, 4096, 4096), 4096);
	assert_true(bytes_all_zero(b, 4096));
	file_close(file);
	free(a);
	free(b);
}

static void an_existing_file_is_not_created_again(void **state)
{
	struct file *file, *second;
	struct err err;

	(void)state;
	assert_int_equal(file_open(&file, "one", FILE_RDWR | FILE_CREATE, &err), 0);
	assert_int_equal(file_open(&second, "one", FILE_RDWR | FILE_CREATE, &err), -EEXIST);
	file_close(file);
}

static void a_second_writer_is_refused_until_the_first_is_gone(void **state)
{
	struct file *file, *second;
	struct err err;

	(void)state;
	assert_int_equal(file_open(&file, "lock", FILE_RDWR | FILE_CREATE, &err), 0);
	assert_int_equal(file_open(&second, "lock", FILE_RDWR, &err), -EWOULDBLOCK);
	assert_non_null(strstr(err.text, "in use by another process"));
	file_close(file);
	assert_int_equal(file_open(&second, "lock", FILE_RDWR, &err), 0);
	file_close(second);
}

/* The kernel's own hold on a file may outlast the operation that needed it, until the ring is entered
 * again; who closes a file means the lock, too. */
static void a_closed_file_is_locked_by_nobody(void **state)
{
	struct file *file;
	struct err err;
	unsigned i;

	(void)state;
	assert_int_equal(file_open(&file, "held", FILE_RDWR | FILE_CREATE, &err), 0);
	for (i = 0; i < 20000; i++) {
		file_bind(file, &ring);
		assert_int_equal(io_run(file, FILE_OP_ALLOCATE, NULL, 4096, i % 2 * 4096), 0);
		file_bind(file, NULL);
		file_close(file);
		if (file_open(&file, "held", FILE_RDWR, &err))
			fail_msg("round %u: %s", i, err.text);
	}
	file_close(file);
}

static void only_regular_files_inside_the_folder_are_opened(void **state)
{
	static const char *const outside[] = {"../etc/passwd", "/etc/passwd", "link", "a/../../x"};
	struct file *file;
	struct err err;
	int dir, i;

	(void)state;
	assert_int_equal(scratch_run("mkdir -p dir/a && echo x >dir/a/in && "
				     "ln -s /etc/passwd dir/link && mkfifo dir/fifo"),
			 0);
	dir = open("dir", O_PATH | O_DIRECTORY);
	assert_int_equal(file_open_beneath(&file, dir, "a/../a/in", FILE_RDONLY, &err), 0);
	file_close(file);
	for (i = 0; i < 4; i++)
		assert_int_equal(file_open_beneath(&file, dir, outside[i], FILE_RDONLY, &err),
				 -EXDEV);
	assert_int_equal(file_open_beneath(&file, dir, "fifo", FILE_RDONLY, &err), -EINVAL);
	assert_int_equal(file_open_beneath(&file, dir, "a", FILE_RDONLY, &err), -EINVAL);
	assert_int_equal(file_open_beneath(&file, dir, "none", FILE_RDONLY, &err), -ENOENT);
	close(dir);
}

/* --- the ring ------------------------------------------------------------------------------- */

struct tick {
	struct ring_op op;
	unsigned runs, again;
	int res;
};

static void tick_done(struct ring_op *op, int res)
{
	struct tick *t = container_of(op, struct tick, op);

	t->runs++;
	t->res = res;
	if (t->again) {
		t->again--;
		ring_post(&ring, &t->op, res + 1);
	}
}

static void what_a_callback_posts_runs_in_the_next_round(void **state)
{
	struct tick t = {.op.done = tick_done, .again = 2};

	(void)state;
	ring_post(&ring, &t.op, 7);
	assert_int_equal(t.runs, 0);
	assert_int_equal(ring_round(&ring), 0);
	assert_int_equal(t.runs, 1);
	assert_int_equal(ring_round(&ring), 0);
	assert_int_equal(ring_round(&ring), 0);
	assert_int_equal(t.runs, 3);
	assert_int_equal(t.res, 9);
}

static void more_operations_than_the_queue_holds_all_complete(void **state)
{
	enum { OPS = 500 };
	struct io *io = calloc(OPS, sizeof(*io));
	struct file *file;
	struct err err;
	unsigned i, done;

	(void)state;
	assert_int_equal(file_open(&file, "many", FILE_RDWR | FILE_CREATE, &err), 0);
	file_bind(file, &ring);
	for (i = 0; i < OPS; i++) {
		io[i].op = (struct file_op){.kind = FILE_OP_WRITE,
					    .buf = &io[i],
					    .len = 16,
					    .off = i * 16,
					    .done = io_done};
		file_submit(file, &io[i].op);
	}
	do {
		assert_int_equal(ring_round(&ring), 0);
		for (done = i = 0; i < OPS; i++)
			done += io[i].done && io[i].res == 16;
	} while (done < OPS);
	file_close(file);
	free(io);
}

static void *post_from_outside(void *arg)
{
	ring_post_from(&ring, arg, 42);
	return NULL;
}

static void another_thread_can_post(void **state)
{
	struct tick t = {.op.done = tick_done};
	pthread_t thread;

	(void)state;
	ring_set_poke(&ring, NULL);
	assert_int_equal(pthread_create(&thread, NULL, post_from_outside, &t.op), 0);
	while (!t.runs)
		assert_int_equal(ring_round(&ring), 0);
	assert_int_equal(t.res, 42);
	pthread_join(thread, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_faces_see_the_same_bytes_aligned_or_not),
		cmocka_unit_test(an_existing_file_is_not_created_again),
		cmocka_unit_test(a_second_writer_is_refused_until_the_first_is_gone),
		cmocka_unit_test(a_closed_file_is_locked_by_nobody),
		cmocka_unit_test(only_regular_files_inside_the_folder_are_opened),
		cmocka_unit_test(what_a_callback_posts_runs_in_the_next_round),
		cmocka_unit_test(more_operations_than_the_queue_holds_all_complete),
		cmocka_unit_test(another_thread_can_post),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
