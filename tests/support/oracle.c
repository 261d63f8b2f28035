#include "tests/support/oracle.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "tests/support/scratch.h"

static uint64_t rng = 1;

void oracle_seed(void)
{
	const char *env = getenv("SEED");

	rng = env ? strtoull(env, NULL, 0) : (uint64_t)time(NULL) * 2654435761U ^ getpid();
	rng |= 1;
	print_message("SEED=%llu\n", (unsigned long long)rng);
}

uint64_t oracle_rnd(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng;
}

uint64_t oracle_below(uint64_t n)
{
	return oracle_rnd() % n;
}

void oracle_fill(unsigned char *p, size_t len)
{
	size_t i;

	for (i = 0; i < len; i++)
		p[i] = oracle_rnd() >> 13 | 1;
}

static void random_step(struct qcow2_session *loop, unsigned char *model, size_t size,
			unsigned char *data, size_t max)
{
	size_t off = oracle_below(size), len = 1 + oracle_below(MIN(max, size - off));
	unsigned char *buf;

	if (oracle_below(2)) { /* mostly aligned, as guests are */
		off = align_down(off, 512);
		len = MIN(align_up(len, 512), size - off);
	}
	switch (oracle_below(10)) {
	case 0:
		assert_int_equal(imgloop_zero(loop, off, len), 0);
		memset(model + off, 0, len);
		break;
	case 1:
		memset(model + off, 0, len);
		assert_int_equal(imgloop_write(loop, off, model + off, len), 0);
		break;
	case 2:
		buf = malloc(len);
		assert_int_equal(imgloop_read(loop, off, buf, len), 0);
		assert_memory_equal(buf, model + off, len);
		free(buf);
		break;
	case 3:
		if (!oracle_below(4))
			assert_int_equal(imgloop_flush(loop), 0);
		break;
	default:
		oracle_fill(data, MIN(len, 4096));
		memcpy(model + off, data + oracle_below(1024), len);
		assert_int_equal(imgloop_write(loop, off, model + off, len), 0);
	}
}

void oracle_workload(struct qcow2_session *loop, unsigned char *model, size_t size, unsigned steps,
		     size_t max)
{
	unsigned char *data = malloc(max + 4096);

	oracle_fill(data, max + 4096);
	while (steps--)
		random_step(loop, model, size, data, max);
	free(data);
}

void oracle_assert_reads_as(struct qcow2_session *loop, const unsigned char *model, size_t size)
{
	unsigned char *buf = aligned_alloc(4096, align_up(size, 4096));

	assert_int_equal(imgloop_read(loop, 0, buf, size), 0);
	if (memcmp(buf, model, size)) {
		size_t i = 0;

		while (buf[i] == model[i])
			i++;
		fail_msg("differs at %zu: have %02x, want %02x", i, buf[i], model[i]);
	}
	free(buf);
}

void oracle_assert_clean(const char *path)
{
	struct qcow2_check_result result;
	struct err err = ERR_INIT;

	assert_int_equal(scratch_run("qemu-img check -q %s", path), 0);
	if (qcow2_check(path, false, &result, &err))
		fail_msg("%s", err.text);
	assert_int_equal(result.corruptions + result.leaks + result.refcount_errors +
				 result.copied_errors + result.dirty,
			 0);
}

void oracle_assert_qemu_agrees(const char *path, const unsigned char *model, size_t size)
{
	FILE *f = fopen("model.raw", "wb");

	assert_int_equal(fwrite(model, 1, size, f), size);
	fclose(f);
	oracle_assert_clean(path);
	assert_int_equal(scratch_run("qemu-img compare -f raw -F qcow2 model.raw %s", path), 0);
}
