/*
 * What the processor and its memory give at this moment, to tell a slower program from a slower machine.
 *
 *   machine
 *
 * One line: GiB/s of memory copied by one core (64 MiB, larger than any cache share, in large pages),
 * and the nanoseconds of a system call. Best of what a fifth of a second allows, so that somebody else's
 * slice of time does not count, and somebody else's use of memory and power does.
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define BYTES	 (64u << 20)
#define CALLS	 10000
#define FIFTH_NS 200000000

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void *touched(int fill)
{
	void *p = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	madvise(p, BYTES, MADV_HUGEPAGE);
	memset(p, fill, BYTES);
	return p;
}

int main(void)
{
	uint64_t copy = UINT64_MAX, calls = UINT64_MAX;
	void *from = touched(1), *to = touched(2);

	if (!from || !to) {
		fprintf(stderr, "machine: no memory\n");
		return 1;
	}
	for (uint64_t start = now_ns(), t = start; t - start < FIFTH_NS;) {
		uint64_t before = t;

		memcpy(to, from, BYTES);
		t = now_ns();
		if (t - before < copy)
			copy = t - before;
	}
	for (uint64_t start = now_ns(), t = start; t - start < FIFTH_NS / 4;) {
		uint64_t before = t;

		for (int i = 0; i < CALLS; i++)
			syscall(SYS_getppid);
		t = now_ns();
		if (t - before < calls)
			calls = t - before;
	}
	printf("%.2f %.0f\n", (double)BYTES / (1 << 30) / ((double)copy / 1e9), (double)calls / CALLS);
	return ((char *)to)[BYTES - 1] != 1;
}
