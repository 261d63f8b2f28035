/*
 * The image engine alone: sequential writes from a cache-hot buffer into a new image, until clean.
 * Shows what the disk side of an ingest costs without a network.
 *
 *     qcow2_write FILE GIB [CHUNK_BYTES [CLUSTER_BYTES [random|zero [sums]]]]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/pool.h"
#include "base/ring.h"
#include "qcow2/qcow2.h"

struct bench {
	struct ring ring;
	struct pool batches, bounces;
	struct qcow2_image *img;
	struct pool_waiter room;
	struct qcow2_op op;
	bool woken;
};

static double seconds(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void room_woken(struct pool_waiter *waiter)
{
	container_of(waiter, struct bench, room)->woken = true;
}

static void op_done(struct qcow2_op *op, int res)
{
	container_of(op, struct bench, op)->woken = true;
	if (res)
		fprintf(stderr, "flush: %s\n", strerror(-res));
}

static int wait_woken(struct bench *b)
{
	int r = 0;

	while (!b->woken && !r)
		r = ring_round(&b->ring);
	b->woken = false;
	return r;
}

static int stream(struct bench *b, uint64_t size, const unsigned char *src, size_t chunk)
{
	uint64_t off = 0;

	while (off < size) {
		size_t in = off % chunk;
		ssize_t n = qcow2_write(b->img, off, src + in, MIN(chunk - in, size - off));

		if (n > 0) {
			off += n;
			continue;
		}
		if (n != -EAGAIN)
			return n;
		qcow2_wait_room(b->img, &b->room);
		if (wait_woken(b))
			return -EIO;
	}
	b->op.kind = QCOW2_OP_FLUSH;
	b->op.done = op_done;
	qcow2_submit(b->img, &b->op);
	return wait_woken(b);
}

static int run(struct bench *b, const char *path, uint64_t size, const unsigned char *src,
	       size_t chunk, uint32_t cluster, bool sums, struct err *err)
{
	struct qcow2_create_opts create = {.size = size, .cluster_size = cluster};
	struct qcow2_open_opts open = {.writable = true, .sums = sums};
	struct qcow2_io io = {&b->ring, &b->batches, &b->bounces};
	int r;

	list_init(&b->room.node);
	b->room.wake = room_woken;
	if ((r = qcow2_create(path, &create, err)) || (r = qcow2_open(&b->img, path, &open, err)) ||
	    (r = qcow2_attach(b->img, &io, err)))
		return r;
	r = stream(b, size, src, chunk);
	if (r)
		return err_sys(err, r, "cannot write '%s'", path);
	qcow2_detach(b->img);
	r = qcow2_finalize(b->img, err);
	qcow2_close(b->img);
	return r;
}

int main(int argc, char **argv)
{
	size_t chunk = argc > 3 ? strtoul(argv[3], NULL, 0) : 128 * KIB;
	uint32_t cluster = argc > 4 ? strtoul(argv[4], NULL, 0) : 0;
	unsigned char *src = aligned_alloc(4096, align_up(chunk, 4096));
	struct bench *b = calloc(1, sizeof(*b));
	double wall, cpu, gib;
	struct rusage usage;
	struct err err;
	size_t i;

	if (argc < 3 || !src || !b || !chunk) {
		fprintf(stderr, "usage: %s FILE GIB [CHUNK [CLUSTER [random|zero [sums]]]]\n", argv[0]);
		return 2;
	}
	for (i = 0; i < chunk; i++)
		src[i] = argc > 5 && !strcmp(argv[5], "zero") ? 0 : random() | 1;
	gib = atof(argv[2]);
	if (ring_init(&b->ring, 256, &err) || pool_init(&b->batches, 20, QCOW2_BATCH_SIZE, &err) ||
	    pool_init(&b->bounces, 4, QCOW2_BOUNCE_SIZE, &err)) {
		fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	wall = seconds(CLOCK_MONOTONIC);
	cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
	if (run(b, argv[1], gib * GIB, src, chunk, cluster, argc > 6 && !strcmp(argv[6], "sums"),
		&err)) {
		fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	wall = seconds(CLOCK_MONOTONIC) - wall;
	cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
	getrusage(RUSAGE_SELF, &usage);
	printf("%.2f GiB/s, %.3f CPU s/GiB, %ld MiB RSS\n", gib / wall, cpu / gib,
	       usage.ru_maxrss / 1024);
	return 0;
}
