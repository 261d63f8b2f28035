/*
 * Seeded workloads on an image whose file may fail at any moment, and the judgement of what is
 * left.
 *
 * The model knows every request in order of its start, and how many of them a completed flush
 * covers. A byte of the disk is right when it has the value of the last covered request that wrote
 * it (or, if none did, of the parent), or of any later one. Each request writes bytes that depend
 * on the request and on the place, so data of another place or another time is told apart.
 */
#ifndef TESTS_CRASH_WORKLOAD_H
#define TESTS_CRASH_WORKLOAD_H

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "tests/support/faultfile.h"
#include "tests/support/imgloop.h"
#include "tests/support/scratch.h"

#define NUDGES 4 /* under way at once */

/* What disk, and how it is used. The model's bytes are dense; on the guest disk every @chunk of
 * them is @stride apart, so that a huge disk can be touched everywhere. */
struct shape {
	const char *name;
	uint64_t size; /* model bytes */
	uint32_t cluster;
	uint64_t chunk, stride; /* 0: dense */
	bool parent, suppress;
	bool zstd;	/* compressed clusters, the parent's too */
	bool continued; /* the image was written and closed before */
	unsigned steps;
	uint64_t max;	/* bytes a request */
	unsigned delay; /* rounds an operation of the file may take */
	bool busy;	/* nobody waits: batches are stored while flushes are under way */
};

/* Those that more than one test tries. */
#define SHAPE_SMALL_CLUSTERS                                                                       \
	{                                                                                          \
		.name = "small clusters", .size = 3 * MIB + 512, .cluster = 4096, .steps = 40,     \
		.max = 70000, .delay = 2                                                           \
	}
#define SHAPE_ORDINARY_CLUSTERS                                                                    \
	{                                                                                          \
		.name = "ordinary clusters", .size = 5 * MIB, .cluster = 65536, .steps = 40,       \
		.max = 300000, .delay = 3                                                          \
	}
#define SHAPE_OVER_A_PARENT                                                                        \
	{                                                                                          \
		.name = "over a parent", .size = 4 * MIB + 1536, .cluster = 65536, .parent = true, \
		.steps = 40, .max = 200000, .delay = 2                                             \
	}
#define SHAPE_SUPPRESSED                                                                           \
	{                                                                                          \
		.name = "over a parent, small clusters, suppressed", .size = 3 * MIB,              \
		.cluster = 4096, .parent = true, .suppress = true, .steps = 40, .max = 60000,      \
		.delay = 2                                                                         \
	}

struct request {
	uint64_t off, len; /* model */
	uint64_t tag;	   /* 0: zeroes */
};

struct model {
	uint64_t size;
	unsigned char *flushed; /* what the last completed flush covers */
	unsigned char *now;	/* all requests carried out */
	struct request *request;
	unsigned count, covered; /* requests; of those, in @flushed */
	uint64_t next_tag;
};

struct nudge {
	struct qcow2_op op;
	bool busy;
	unsigned char bytes[512];
};

struct workload {
	const struct shape *shape;
	struct model model;
	struct qcow2_session *loop;
	uint64_t rng;
	struct qcow2_op flush;
	bool flushing;
	struct nudge nudge[NUDGES];
	unsigned flush_covers;
	unsigned flushes; /* completed well */
};

/* --- what a failing case says ------------------------------------------------------------------
 */

static struct {
	const char *name;
	uint64_t seed, k;
} story;

static inline void story_hangs(int sig)
{
	char text[200];
	int n = snprintf(text, sizeof(text), "hangs: %s SEED=%llu K=%llu\n", story.name,
			 (unsigned long long)story.seed, (unsigned long long)story.k);

	(void)sig;
	if (write(2, text, n) < 0)
		_exit(3);
	abort();
}

static inline void story_begin(const char *name, uint64_t seed, uint64_t k)
{
	story.name = name;
	story.seed = seed;
	story.k = k;
	signal(SIGALRM, story_hangs);
	alarm(240); /* a disk may take seconds for each of some syncs */
}

#define story_fail(fmt, ...)                                                                       \
	fail_msg("%s SEED=%llu K=%llu: " fmt, story.name, (unsigned long long)story.seed,          \
		 (unsigned long long)story.k, ##__VA_ARGS__)

static inline uint64_t seed_from_env(void)
{
	const char *env = getenv("SEED");

	return env ? strtoull(env, NULL, 0) : (uint64_t)time(NULL) * 2654435761U ^ getpid();
}

static inline uint64_t rnd_next(uint64_t *rng)
{
	*rng ^= *rng << 13;
	*rng ^= *rng >> 7;
	*rng ^= *rng << 17;
	return *rng >> 9;
}

/* --- the model -----------------------------------------------------------------------------------
 */

/* Eight bytes at 8 * @i of what request @tag writes. One in four does not compress at all. */
static inline uint64_t content_word(uint64_t tag, uint64_t i)
{
	uint64_t word = (i + 1) * 0x9e3779b97f4a7c15ULL ^ tag * 0xc2b2ae3d27d4eb4fULL;

	word = (word ^ word >> 29) * 0xbf58476d1ce4e5b9ULL;
	if (tag % 4 == 3)
		return word ^ word >> 32;
	return word >> 32 | (tag & 0xffff) << 32 | (i >> 9 & 0xffff) << 48;
}

static inline void content(uint64_t tag, uint64_t off, unsigned char *out, uint64_t len)
{
	uint64_t word, n;

	if (!tag) {
		memset(out, 0, len);
		return;
	}
	for (; len; out += n, off += n, len -= n) {
		n = MIN(len, 8 - off % 8);
		word = htole64(content_word(tag, off / 8) >> off % 8 * 8);
		if (n == 8)
			memcpy(out, &word, 8);
		else
			memcpy(out, &word, n);
	}
}

static inline void model_init(struct model *m, uint64_t size)
{
	*m = (struct model){.size = size, .next_tag = 1};
	m->flushed = calloc(1, size);
	m->now = calloc(1, size);
	assert_true(m->flushed && m->now);
}

static inline void model_deinit(struct model *m)
{
	free(m->flushed);
	free(m->now);
	free(m->request);
	memset(m, 0, sizeof(*m));
}

static inline const struct request *model_push(struct model *m, struct request q)
{
	if (m->count % 64 == 0)
		m->request = realloc(m->request, (m->count + 128) * sizeof(*m->request));
	assert_non_null(m->request);
	m->request[m->count] = q;
	return &m->request[m->count++];
}

static inline const struct request *model_add(struct model *m, uint64_t off, uint64_t len,
					      bool zero)
{
	return model_push(m, (struct request){off, len, zero ? 0 : m->next_tag++});
}

static inline void model_cover(struct model *m, unsigned count)
{
	for (; m->covered < count; m->covered++) {
		const struct request *q = &m->request[m->covered];

		content(q->tag, q->off, m->flushed + q->off, q->len);
	}
}

/* Is @value at @pos what a request newer than the last flush wrote there? */
static inline bool model_newer(const struct model *m, uint64_t pos, unsigned char value)
{
	unsigned i;

	for (i = m->covered; i < m->count; i++) {
		const struct request *q = &m->request[i];
		unsigned char b;

		if (pos < q->off || pos >= q->off + q->len)
			continue;
		content(q->tag, pos, &b, 1);
		if (b == value)
			return true;
	}
	return false;
}

static inline void model_judge(const struct model *m, uint64_t off, const unsigned char *have,
			       uint64_t len)
{
	uint64_t i;

	if (!memcmp(have, m->flushed + off, len))
		return;
	for (i = 0; i < len; i++)
		if (have[i] != m->flushed[off + i] && !model_newer(m, off + i, have[i]))
			story_fail("byte %llu is %02x; flushed %02x, and nothing newer wrote that "
				   "(%u requests, %u of them flushed)",
				   (unsigned long long)(off + i), have[i], m->flushed[off + i],
				   m->count, m->covered);
}

/* --- model bytes on the guest disk
 * ----------------------------------------------------------------- */

static inline uint64_t guest_size(const struct shape *s)
{
	return s->chunk ? div_up(s->size, s->chunk) * s->stride : s->size;
}

static inline uint64_t guest_off(const struct shape *s, uint64_t off)
{
	return s->chunk ? off / s->chunk * s->stride + off % s->chunk : off;
}

/* How much of [off, off + len) lies in one piece on the guest disk. */
static inline uint64_t guest_piece(const struct shape *s, uint64_t off, uint64_t len)
{
	return s->chunk ? MIN(len, s->chunk - off % s->chunk) : len;
}

/* --- carrying requests out
 * ------------------------------------------------------------------------- */

static inline int carry_out(struct workload *w, const struct request *q, bool as_zero_op)
{
	const struct shape *s = w->shape;
	unsigned char *buf = malloc(q->len);
	uint64_t at, n;
	int r = 0;

	assert_non_null(buf);
	content(q->tag, q->off, buf, q->len);
	memcpy(w->model.now + q->off, buf, q->len);
	for (at = 0; !r && at < q->len; at += n) {
		uint64_t off = guest_off(s, q->off + at);

		n = guest_piece(s, q->off + at, q->len - at);
		r = as_zero_op ? imgloop_zero(w->loop, off, n)
			       : imgloop_write(w->loop, off, buf + at, n);
	}
	free(buf);
	return r;
}

static inline void flush_done(struct qcow2_op *op, int res)
{
	struct workload *w = container_of(op, struct workload, flush);

	w->flushing = false;
	if (!res) {
		model_cover(&w->model, w->flush_covers);
		w->flushes++;
	}
}

static inline void flush_start(struct workload *w, unsigned covers)
{
	if (w->flushing)
		return;
	w->flushing = true;
	w->flush_covers = covers;
	w->flush = (struct qcow2_op){.kind = QCOW2_OP_FLUSH, .done = flush_done};
	qcow2_submit(w->loop->img, &w->flush);
}

static inline void flush_wait(struct workload *w)
{
	while (w->flushing)
		assert_int_equal(ring_round(&w->loop->ring), 0);
}

static inline void nudge_done(struct qcow2_op *op, int res)
{
	struct nudge *n = container_of(op, struct nudge, op);

	(void)res; /* the image's error, if any, is told to others */
	n->busy = false;
}

/* A read nobody waits for, best of a cluster that is known in part: then everything in memory
 * starts on its way to the disk. */
static inline void nudge(struct workload *w)
{
	const struct model *m = &w->model;
	struct nudge *n = w->nudge;

	while (n < w->nudge + NUDGES && n->busy)
		n++;
	if (n == w->nudge + NUDGES || !m->count)
		return;
	n->busy = true;
	n->op = (struct qcow2_op){
		.kind = QCOW2_OP_READ,
		.off = align_down(guest_off(w->shape, m->request[m->count - 1].off),
				  w->shape->cluster),
		.len = sizeof(n->bytes),
		.buf = n->bytes,
		.done = nudge_done,
	};
	qcow2_submit(w->loop->img, &n->op);
}

static inline void nudges_wait(struct workload *w)
{
	unsigned i;

	for (i = 0; i < NUDGES; i++)
		while (w->nudge[i].busy)
			assert_int_equal(ring_round(&w->loop->ring), 0);
}

static inline int read_back(struct workload *w, uint64_t off, uint64_t len)
{
	unsigned char *buf = aligned_alloc(FILE_ALIGN, align_up(len, FILE_ALIGN));
	uint64_t at, n;
	int r = 0;

	assert_non_null(buf);
	for (at = 0; !r && at < len; at += n) {
		n = guest_piece(w->shape, off + at, len - at);
		r = imgloop_read(w->loop, guest_off(w->shape, off + at), buf + at, n);
	}
	if (!r && memcmp(buf, w->model.now + off, len))
		story_fail("a read of %llu bytes at %llu returns other data than was written",
			   (unsigned long long)len, (unsigned long long)off);
	free(buf);
	return r;
}

static inline int workload_step(struct workload *w)
{
	const struct shape *s = w->shape;
	unsigned what = rnd_next(&w->rng) % 16;
	uint64_t off = rnd_next(&w->rng) % s->size, len;

	if (what < 3) /* a few clusters that are written again and again */
		off = (off % 4) * s->cluster + rnd_next(&w->rng) % s->cluster;
	off = MIN(off, s->size - 1);
	len = 1 + rnd_next(&w->rng) % MIN(s->max, s->size - off);
	if (rnd_next(&w->rng) % 4) {
		off = align_down(off, 512);
		len = MIN(align_up(len, 512), s->size - off);
	}
	if (rnd_next(&w->rng) % 3 == 0) {
		off = align_down(off, s->cluster);
		len = MIN(align_up(len, s->cluster), s->size - off);
	}
	switch (what) {
	case 8:
	case 9:
		if (!s->suppress)
			return carry_out(w, model_add(&w->model, off, len, false), false);
		/* what was written before, by the parent perhaps, once more */
		off = rnd_next(&w->rng) % w->model.count;
		return carry_out(w, model_push(&w->model, w->model.request[off]), false);
	case 10:
		return carry_out(w, model_add(&w->model, off, len, true), true);
	case 11:
		return carry_out(w, model_add(&w->model, off, len, true), false);
	case 12:
	case 13:
		flush_start(w, w->model.count);
		return 0;
	case 14:
		flush_start(w, w->model.count);
		if (!s->busy)
			flush_wait(w);
		return 0;
	case 15:
		if (s->busy) {
			nudge(w);
			return 0;
		}
		return read_back(w, off, len);
	default:
		return carry_out(w, model_add(&w->model, off, len, false), false);
	}
}

/* A few rounds, so that requests meet flushes and batches in every state. */
static inline void let_time_pass(struct workload *w)
{
	unsigned most = w->shape->busy ? w->shape->delay / 2 : w->shape->delay * 2 + 1;
	unsigned rounds = rnd_next(&w->rng) % (most + 1);
	struct ring *ring = &w->loop->ring;

	/* an armed poke is no reason to wait */
	while (rounds-- && ring_expects(ring))
		assert_int_equal(ring_round(ring), 0);
}

/*
 * Opens @path with the faultfile in front, runs the workload and closes the image in the ordinary
 * way. 0, or the first error met; the image is closed either way.
 */
static inline int workload_run(struct workload *w, const char *path, struct faultfile *ff)
{
	struct qcow2_open_opts opts = {
		.writable = true,
		.suppress_unchanged = w->shape->suppress,
		.zstd_level = w->shape->zstd,
		.wrap_file = ff ? faultfile_wrap : NULL,
		.wrap_arg = ff,
	};
	struct err err = ERR_INIT;
	unsigned i;
	int r = imgloop_open(w->loop, path, &opts);

	if (r)
		return r;
	for (i = 0; !r && i < w->shape->steps; i++) {
		r = workload_step(w);
		if (w->shape->busy && rnd_next(&w->rng) % 2)
			nudge(w);
		if (w->shape->busy && rnd_next(&w->rng) % 2)
			flush_start(w, w->model.count);
		let_time_pass(w);
	}
	nudges_wait(w);
	flush_wait(w);
	/* a request that failed was not taken: it may have been carried out or not */
	flush_start(w, w->model.count - (r && w->model.count > w->model.covered));
	flush_wait(w);
	if (!r)
		r = qcow2_error(w->loop->img);
	if (r) {
		imgloop_drop(w->loop);
		return r;
	}
	assert_int_equal(w->model.covered, w->model.count);
	qcow2_detach(w->loop->img);
	r = qcow2_finalize(w->loop->img, &err);
	qcow2_close(w->loop->img);
	w->loop->img = NULL;
	return r;
}

/* --- making the images a workload starts from
 * --------------------------------------------------------- */

static inline void make_image(const struct shape *s, const char *path, const char *backing)
{
	struct qcow2_create_opts opts = {
		.size = guest_size(s),
		.cluster_size = s->cluster,
		.backing = backing,
		.zstd = s->zstd,
	};
	struct err err;

	unlink(path);
	if (qcow2_create(path, &opts, &err))
		fail_msg("%s", err.text);
}

/* A parent with something in about half of its places; the model starts from it. */
static inline void make_parent(struct workload *w, const char *path)
{
	uint64_t step = w->shape->cluster * 3 + 1536, off;
	struct qcow2_open_opts opts = {.writable = true, .zstd_level = w->shape->zstd};

	make_image(w->shape, path, NULL);
	assert_int_equal(imgloop_open(w->loop, path, &opts), 0);
	for (off = 0; off < w->shape->size; off += 2 * step)
		assert_int_equal(
			carry_out(w,
				  model_add(&w->model, off, MIN(step, w->shape->size - off), false),
				  false),
			0);
	assert_int_equal(imgloop_close(w->loop), 0);
	model_cover(&w->model, w->model.count);
}

/* The model, and the image "start.qcow2" (over "parent.qcow2") that stories begin with. */
static inline void workload_init(struct workload *w, const struct shape *shape,
				 struct qcow2_session *loop, uint64_t seed)
{
	*w = (struct workload){.shape = shape, .loop = loop, .rng = seed * 2 + 1};
	model_init(&w->model, shape->size);
	if (shape->parent)
		make_parent(w, "parent.qcow2");
	make_image(shape, "start.qcow2", shape->parent ? "parent.qcow2" : NULL);
	if (shape->continued)
		assert_int_equal(workload_run(w, "start.qcow2", NULL), 0);
}

static inline void workload_deinit(struct workload *w)
{
	model_deinit(&w->model);
}

/* One story that begins there; the image itself is only read, behind a faultfile. */
static inline void workload_begin(struct workload *w, const struct workload *start)
{
	struct model *m = &w->model;

	*w = *start;
	m->flushed = malloc(m->size);
	m->now = malloc(m->size);
	m->request = malloc((m->count + 64) * sizeof(*m->request));
	assert_true(m->flushed && m->now && m->request);
	memcpy(m->flushed, start->model.flushed, m->size);
	memcpy(m->now, start->model.now, m->size);
	if (m->count)
		memcpy(m->request, start->model.request, m->count * sizeof(*m->request));
}

/* --- judging what is left
 * --------------------------------------------------------------------------- */

/* Reads the open image whole. */
static inline void judge_content(struct workload *w)
{
	const struct shape *s = w->shape;
	unsigned char *buf = aligned_alloc(FILE_ALIGN, MIB);
	uint64_t off, n;
	int r;

	assert_non_null(buf);
	for (off = 0; off < s->size; off += n) {
		n = guest_piece(s, off, MIN(MIB, s->size - off));
		r = imgloop_read(w->loop, guest_off(s, off), buf, n);
		if (r)
			story_fail("reading at %llu fails: %s", (unsigned long long)off,
				   strerror(-r));
		model_judge(&w->model, off, buf, n);
	}
	free(buf);
}

/* From here on the model is what the disk now holds. */
static inline void model_settle(struct workload *w)
{
	uint64_t off, n;

	for (off = 0; off < w->shape->size; off += n) {
		n = guest_piece(w->shape, off, MIN(MIB, w->shape->size - off));
		assert_int_equal(
			imgloop_read(w->loop, guest_off(w->shape, off), w->model.flushed + off, n),
			0);
	}
	memcpy(w->model.now, w->model.flushed, w->model.size);
	w->model.covered = w->model.count;
}

static inline void judge_check(const char *path, bool clean)
{
	struct qcow2_check_result c;
	struct err err = ERR_INIT;

	if (qcow2_check(path, false, &c, &err))
		story_fail("the check cannot run: %s", err.text);
	if (c.corruptions)
		story_fail("the check finds %llu corruptions", (unsigned long long)c.corruptions);
	/* without the dirty bit QEMU believes the refcounts */
	if (!c.dirty && c.refcount_errors + c.copied_errors)
		story_fail("marked clean, with %llu wrong refcounts and %llu wrong flags",
			   (unsigned long long)c.refcount_errors,
			   (unsigned long long)c.copied_errors);
	if (clean && c.leaks + c.refcount_errors + c.copied_errors + c.dirty)
		story_fail("not clean: %llu leaks, %llu refcounts, %llu flags, dirty %d",
			   (unsigned long long)c.leaks, (unsigned long long)c.refcount_errors,
			   (unsigned long long)c.copied_errors, c.dirty);
}

/* Sound as it lies there. */
static inline void judge_left(struct workload *w, const char *path)
{
	judge_check(path, false);
	if (imgloop_open(w->loop, path, &(struct qcow2_open_opts){0}))
		story_fail("it does not open any more");
	judge_content(w);
	assert_int_equal(imgloop_close(w->loop), 0);
}

/* QEMU repairs a copy, and what it then holds is right too. */
static inline void judge_qemu_repair(struct workload *w, const char *path)
{
	struct qcow2_open_opts opts = {.writable = false};

	if (scratch_run(
		    "cp --sparse=always %s copy.qcow2 && qemu-img check -q -r all copy.qcow2 && "
		    "qemu-img check -q copy.qcow2",
		    path))
		story_fail("qemu-img cannot repair it");
	assert_int_equal(imgloop_open(w->loop, "copy.qcow2", &opts), 0);
	judge_content(w);
	assert_int_equal(imgloop_close(w->loop), 0);
}

/* Opens the image for writing (which repairs it), judges it, goes on writing, ends clean. All of it
 * in memory, on a file that does not fail: hundreds of real syncs take minutes. */
static inline void judge_reopened(struct workload *w, const char *path)
{
	struct faultfile *ff = faultfile_new(&(struct faultfile_opts){.seed = story.seed});
	struct qcow2_open_opts opts = {
		.writable = true,
		.suppress_unchanged = w->shape->suppress,
		.zstd_level = w->shape->zstd,
		.wrap_file = faultfile_wrap,
		.wrap_arg = ff,
	};
	unsigned i;

	if (imgloop_open(w->loop, path, &opts))
		story_fail("it does not open for writing any more");
	judge_content(w);
	model_settle(w);
	for (i = 0; i < 6; i++)
		assert_int_equal(workload_step(w), 0);
	nudges_wait(w);
	flush_wait(w);
	assert_int_equal(imgloop_close(w->loop), 0);
	model_cover(&w->model, w->model.count);
	faultfile_cut(ff);
	assert_int_equal(faultfile_dump(ff, "ended.qcow2", 0), 0);
	faultfile_free(ff);
	judge_check("ended.qcow2", true);
	assert_int_equal(imgloop_open(w->loop, "ended.qcow2", &(struct qcow2_open_opts){0}), 0);
	judge_content(w);
	assert_int_equal(imgloop_close(w->loop), 0);
}

/* --- set-up of a test program ---------------------------------------------------------------- */

static struct qcow2_session loop;
static uint64_t seed;

static inline int crash_setup(void **state)
{
	seed = seed_from_env();
	print_message("SEED=%llu\n", (unsigned long long)seed);
	imgloop_start(&loop, 4);
	return scratch_setup(state);
}

static inline int crash_teardown(void **state)
{
	imgloop_stop(&loop);
	return scratch_teardown(state);
}

#endif
