/*
 * A disk that fails: a `struct file` (base/file.h) in memory, put in front of an image's own file
 * with qcow2_open_opts.wrap_file = faultfile_wrap, wrap_arg = the faultfile. It starts with what
 * the real file holds; the real file is never written.
 *
 * What was written is volatile until a datasync, submitted after the write's completion was seen,
 * has completed. At the @cut_at-th operation the power fails: every operation fails with -EIO from
 * then on, and what remains is the synced state plus a random part of what was not synced (writes
 * in flight included), some of it torn between 512-byte sectors. The durable state can then be put
 * into a real file and opened again.
 *
 * Asynchronous operations complete some rounds later, in random order. Operations that count are
 * those that change the file or sync it, in the order in which they are carried out. One seed, one
 * story, as long as nothing else runs on the ring.
 */
#ifndef TESTS_SUPPORT_FAULTFILE_H
#define TESTS_SUPPORT_FAULTFILE_H

#include "base/file.h"

#define FAULTFILE_KINDS (FILE_OP_PUNCH + 1)

struct faultfile_opts {
	uint64_t seed;
	uint64_t cut_at; /* the power fails in this operation, counted from 1; 0: never */
	/* Operations fail_at .. fail_at + fail_count - 1 fail with fail_error (-errno; -EIO when
	 * 0). A write that fails leaves a part of its bytes behind. fail_at 0: none. */
	uint64_t fail_at, fail_count;
	int fail_error;
	uint64_t fail_read_at; /* this read fails with -EIO, counted apart, from 1; 0: none */
	uint64_t space;	       /* bytes the file may grow to before space_error; 0: any */
	int space_error;       /* -errno; -ENOSPC when 0 */
	unsigned delay;	       /* an operation takes up to this many rounds longer */
	unsigned slow[FAULTFILE_KINDS]; /* further rounds for operations of one kind */
};

struct faultfile;

/* Aborts when there is no memory: tests have nothing to clean up after that. */
struct faultfile *faultfile_new(const struct faultfile_opts *opts);
void faultfile_free(struct faultfile *ff); /* accepts NULL; the file must be closed */

/* For qcow2_open_opts.wrap_file: reads @file, closes it, returns the faultfile in its place. */
struct file *faultfile_wrap(struct file *file, void *ff);

uint64_t faultfile_ops(const struct faultfile *ff);   /* carried out so far */
uint64_t faultfile_reads(const struct faultfile *ff); /* the same, of reads */
bool faultfile_is_cut(const struct faultfile *ff);
uint64_t faultfile_punched(const struct faultfile *ff); /* bytes given back by PUNCH */

/* Cuts the power now, unless it is cut already. */
void faultfile_cut(struct faultfile *ff);

/* Writes what survived to a new file at @path; the power must be cut. What a cut leaves is chance:
 * each @outcome is another throw of the dice. 0 or -errno. */
int faultfile_dump(struct faultfile *ff, const char *path, unsigned outcome);

#endif
