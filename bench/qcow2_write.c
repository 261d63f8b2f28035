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

#include "base/bytes.h"
#include "qcow2/session.h"

static double seconds(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static int stream(struct qcow2_session *s, uint64_t size, const unsigned char *src, size_t chunk,
		  struct err *err)
{
	uint64_t off;

	for (off = 0; off < size; off += chunk) {
		int r = qcow2_session_write(s, off, src, MIN(chunk, size - off));

		if (r)
			return err_sys(err, r, "writing at %llu", (unsigned long long)off);
	}
	return qcow2_session_close(s, err);
}

static int run(const char *path, uint64_t size, const unsigned char *src, size_t chunk,
	       uint32_t cluster, bool sums, struct err *err)
{
	struct qcow2_create_opts create = {.size = size, .cluster_size = cluster};
	struct qcow2_open_opts open = {.writable = true, .sums = sums};
	struct qcow2_session s;
	int r = qcow2_create(path, &create, err);

	if (r)
		return r;
	r = qcow2_session_init(&s, 20, err);
	if (r)
		return r;
	r = qcow2_session_open(&s, path, &open, err);
	if (!r)
		r = stream(&s, size, src, chunk, err);
	qcow2_session_drop(&s);
	qcow2_session_deinit(&s);
	return r;
}

int main(int argc, char **argv)
{
	size_t i, chunk = argc > 3 ? strtoul(argv[3], NULL, 0) : 128 * KIB;
	uint32_t cluster = argc > 4 ? strtoul(argv[4], NULL, 0) : 0;
	bool zero = argc > 5 && !strcmp(argv[5], "zero"), sums = argc > 6;
	unsigned char *src = aligned_alloc(4096, align_up(chunk, 4096));
	double gib = argc > 2 ? atof(argv[2]) : 0, wall, cpu;
	struct rusage usage;
	struct err err;

	if (gib <= 0 || !chunk || !src) {
		fprintf(stderr, "usage: %s FILE GIB [CHUNK [CLUSTER [random|zero [sums]]]]\n",
			argv[0]);
		return 2;
	}
	for (i = 0; i < chunk; i++)
		src[i] = zero ? 0 : random() | 1;
	wall = seconds(CLOCK_MONOTONIC);
	cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
	if (run(argv[1], gib * GIB, src, chunk, cluster, sums, &err)) {
		fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	wall = seconds(CLOCK_MONOTONIC) - wall;
	cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
	getrusage(RUSAGE_SELF, &usage);
	printf("%.2f GiB/s, %.3f CPU s/GiB, %ld MiB RSS\n", gib / wall, cpu / gib,
	       usage.ru_maxrss / 1024);
	free(src);
	return 0;
}
