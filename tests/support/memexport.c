#include "tests/support/memexport.h"

#include <assert.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"

struct mem_op {
	struct ring_op post;
	struct memexport *mem;
	int res;
};

/* --- waiting, by asking again every round ------------------------------------------------------
 */

static void mem_room_round(struct ring_op *op, int res)
{
	struct memexport *mem = container_of(op, struct memexport, room_op);
	struct list *node;

	(void)res;
	mem->room_posted = false;
	if (!atomic_load(&mem->choked))
		while ((node = list_pop(&mem->waiters))) {
			struct pool_waiter *w = list_entry(node, struct pool_waiter, node);

			w->wake(w);
		}
	if (!list_empty(&mem->waiters)) {
		mem->room_posted = true;
		ring_post(mem->ring, op, 0);
	}
}

static void mem_wait_room(void *target, struct pool_waiter *waiter)
{
	struct memexport *mem = target;

	list_del(&waiter->node);
	list_add_tail(&mem->waiters, &waiter->node);
	if (mem->room_posted)
		return;
	mem->room_posted = true;
	ring_post(mem->ring, &mem->room_op, 0);
}

static void mem_op_round(struct ring_op *post, int res)
{
	struct mem_op *op = container_of(post, struct mem_op, post);
	struct nbd_io *io = nbd_io_of(op);

	(void)res;
	if (atomic_load(&op->mem->hold))
		ring_post(op->mem->ring, post, 0);
	else
		io->done(io, op->res);
}

static void mem_finish(struct memexport *mem, struct nbd_io *io, int res)
{
	struct mem_op *op = (struct mem_op *)io->op;

	op->mem = mem;
	op->res = res;
	op->post.done = mem_op_round;
	ring_post(mem->ring, &op->post, 0);
}

/* --- operations ------------------------------------------------------------------------------- */

static int mem_attach(void *target, const struct nbd_worker_io *io, struct err *err)
{
	struct memexport *mem = target;

	(void)err;
	mem->ring = io->ring;
	atomic_fetch_add(&mem->attached, 1);
	return 0;
}

static void mem_detach(void *target)
{
	struct memexport *mem = target;

	atomic_fetch_add(&mem->detached, 1);
}

static bool mem_past(const struct memexport *mem, uint64_t off, uint64_t len)
{
	return off + len > atomic_load(&mem->fail_from);
}

static ssize_t mem_write(void *target, uint64_t off, const void *buf, size_t len)
{
	struct memexport *mem = target;
	unsigned n = atomic_fetch_add(&mem->writes, 1) + 1;
	unsigned every = atomic_load(&mem->eagain_every), bite = atomic_load(&mem->bite);
	int error = atomic_load(&mem->write_error);

	assert(range_inside(off, len, mem->size) && len > 0);
	if (atomic_load(&mem->choked) || (every && n % every == 0)) {
		atomic_fetch_add(&mem->eagains, 1);
		return -EAGAIN;
	}
	if (error && mem_past(mem, off, len))
		return error;
	if (bite && len > bite)
		len = bite;
	memcpy(mem->data + off, buf, len);
	return len;
}

static void mem_read(void *target, struct nbd_io *io)
{
	struct memexport *mem = target;
	int error = atomic_load(&mem->read_error);

	assert(range_inside(io->off, io->len, mem->size));
	assert(is_aligned((uintptr_t)io->buf, 4096));
	atomic_fetch_add(&mem->reads, 1);
	memcpy(io->buf, mem->data + io->off, io->len);
	mem_finish(mem, io, error && mem_past(mem, io->off, io->len) ? error : 0);
}

static void mem_zero(void *target, struct nbd_io *io)
{
	struct memexport *mem = target;
	int error = atomic_load(&mem->zero_error);

	assert(range_inside(io->off, io->len, mem->size));
	atomic_fetch_add(&mem->zeroes, 1);
	if (!error)
		memset(mem->data + io->off, 0, io->len);
	mem_finish(mem, io, error);
}

static void mem_flush(void *target, struct nbd_io *io)
{
	struct memexport *mem = target;

	atomic_fetch_add(&mem->flushes, 1);
	mem_finish(mem, io, atomic_load(&mem->flush_error));
}

/* Extents of @size each, from offset 0 of the export on, every other one with @flags. */
static void mem_describe(struct memexport *mem, struct nbd_io *io, unsigned size, unsigned odd,
			 uint32_t flags)
{
	uint64_t off = io->off, end = io->off + io->len;

	assert(range_inside(io->off, io->len, mem->size));
	io->extent_count = 0;
	while (off < end && io->extent_count < io->extent_max) {
		uint64_t next = size ? MIN(align_down(off, size) + size, end) : end;

		io->extents[io->extent_count++] = (struct nbd_extent){
			.len = next - off,
			.flags = (size && (off / size) % 2) == odd ? flags : 0,
		};
		off = next;
	}
	atomic_fetch_add(&mem->extents, 1);
}

static void mem_extents(void *target, struct nbd_io *io)
{
	struct memexport *mem = target;

	mem_describe(mem, io, atomic_load(&mem->extent_size), 1, 3);
	mem_finish(mem, io, 0);
}

static void mem_received(void *target, struct nbd_io *io)
{
	struct memexport *mem = target;

	mem_describe(mem, io, atomic_load(&mem->received_size), 0, 1);
	mem_finish(mem, io, atomic_load(&mem->received_error));
}

static void mem_abandon(void *target)
{
	struct memexport *mem = target;

	atomic_fetch_add(&mem->abandoned, 1);
}

#define MEM_OPS                                                                                    \
	.attach = mem_attach, .detach = mem_detach, .write = mem_write,                            \
	.wait_room = mem_wait_room, .read = mem_read, .zero = mem_zero, .flush = mem_flush,        \
	.extents = mem_extents, .abandon = mem_abandon

const struct nbd_export_ops memexport_ops = {MEM_OPS};
const struct nbd_export_ops memexport_received_ops = {MEM_OPS, .received = mem_received};

void memexport_init(struct memexport *mem, uint64_t size)
{
	memset(mem, 0, sizeof(*mem));
	mem->data = calloc(1, size + 1);
	assert_non_null(mem->data);
	mem->size = size;
	list_init(&mem->waiters);
	mem->room_op.done = mem_room_round;
}

void memexport_deinit(struct memexport *mem)
{
	free(mem->data);
	mem->data = NULL;
}
