/*
 * Random workloads on an image beside a model in memory, with qemu-img as the judge of the file.
 * Everything random comes from one seed, which is printed; SEED=n repeats it.
 */
#ifndef TESTS_SUPPORT_ORACLE_H
#define TESTS_SUPPORT_ORACLE_H

#include <stddef.h>
#include <stdint.h>

#include "tests/support/imgloop.h"

void oracle_seed(void);
uint64_t oracle_rnd(void);
uint64_t oracle_below(uint64_t n);
void oracle_fill(unsigned char *p, size_t len); /* no byte of it is zero */

/* @steps random writes, zeroes, reads (compared) and flushes of up to @max bytes, on both. */
void oracle_workload(struct qcow2_session *loop, unsigned char *model, size_t size, unsigned steps,
		     size_t max);

/* The asserts of cmocka: they end the test. */
void oracle_assert_reads_as(struct qcow2_session *loop, const unsigned char *model, size_t size);
/* Neither QEMU's check nor ours finds anything. */
void oracle_assert_clean(const char *path);
/* Clean, and QEMU reads it whole as @model. Leaves model.raw in the current folder. */
void oracle_assert_qemu_agrees(const char *path, const unsigned char *model, size_t size);

#endif
