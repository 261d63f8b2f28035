/*
 * What an image that lost its power says has arrived (qcow2_received()) did arrive, and is there:
 * the power is cut at operations of a workload, a client that asked before the cut included. SEED=n
 * repeats a run, K=n one cut of every shape, CUTS=n tries more.
 */
#include "tests/crash/workload.h"

#define CUTS_DEFAULT 40
#define EXTENTS	     4096

static uint64_t known; /* bytes that were said to have arrived, of all stories */

static const struct shape shapes[] = {
	SHAPE_SMALL_CLUSTERS,
	SHAPE_ORDINARY_CLUSTERS,
	SHAPE_OVER_A_PARENT,
	SHAPE_SUPPRESSED,
};

/* Every byte of [off, off + len) is what one of the requests from @first on sent there. */
static void judge_sent(const struct model *m, unsigned first, uint64_t off,
		       const unsigned char *have, uint64_t len)
{
	unsigned char *sent = calloc(1, len), *bytes = malloc(len);
	unsigned i;
	uint64_t k;

	assert_true(sent && bytes);
	for (i = first; i < m->count; i++) {
		const struct request *q = &m->request[i];
		uint64_t from = MAX(q->off, off), to = MIN(q->off + q->len, off + len);

		if (from >= to)
			continue;
		content(q->tag, from, bytes, to - from);
		for (k = from; k < to; k++)
			sent[k - off] |= bytes[k - from] == have[k - off];
	}
	for (k = 0; k < len; k++)
		if (!sent[k])
			story_fail("byte %llu is %02x and said to have arrived; nothing sent that",
				   (unsigned long long)(off + k), have[k]);
	free(bytes);
	free(sent);
}

static void judge_received(struct workload *w, unsigned first)
{
	static struct qcow2_extent e[EXTENTS];
	uint64_t off = 0, n;
	unsigned count, i;

	count = qcow2_received(loop.img, 0, w->shape->size, e, EXTENTS);
	for (i = 0; i < count; off += e[i++].len) {
		unsigned char *have;

		if (!e[i].flags)
			continue;
		n = e[i].len;
		have = aligned_alloc(FILE_ALIGN, align_up(n, FILE_ALIGN));
		assert_non_null(have);
		assert_int_equal(imgloop_read(&loop, off, have, n), 0);
		judge_sent(&w->model, first, off, have, n);
		free(have);
		known += n;
	}
	assert_true(off == w->shape->size);
}

static uint64_t cut_at(const struct workload *start, uint64_t k)
{
	struct faultfile_opts opts = {.seed = seed, .cut_at = k, .delay = start->shape->delay};
	struct faultfile *ff = faultfile_new(&opts);
	struct qcow2_open_opts open = {.writable = true, .wrap_file = faultfile_wrap};
	struct workload w;
	uint64_t ops;

	story_begin(start->shape->name, seed, k);
	workload_begin(&w, start);
	workload_run(&w, "start.qcow2", ff);
	ops = faultfile_ops(ff);
	faultfile_cut(ff);
	assert_int_equal(faultfile_dump(ff, "cut.qcow2", 0), 0);
	faultfile_free(ff);

	open.wrap_arg = ff = faultfile_new(&(struct faultfile_opts){.seed = seed});
	assert_int_equal(imgloop_open(&loop, "cut.qcow2", &open), 0);
	judge_received(&w, start->model.count);
	imgloop_drop(&loop);
	faultfile_cut(ff);
	faultfile_free(ff);
	workload_deinit(&w);
	alarm(0);
	return ops;
}

static void what_is_said_to_have_arrived_did_arrive(void **state)
{
	const char *k = getenv("K"), *env = getenv("CUTS");
	unsigned cuts = env ? strtoul(env, NULL, 0) : CUTS_DEFAULT, i, c;
	uint64_t rng = seed | 1;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(shapes); i++) {
		struct workload start;
		uint64_t ops;

		workload_init(&start, &shapes[i], &loop, seed);
		ops = cut_at(&start, k ? strtoull(k, NULL, 0) : 0);
		for (c = 0; !k && c < cuts; c++)
			cut_at(&start, 1 + rnd_next(&rng) % ops);
		workload_deinit(&start);
	}
	if (!k)
		assert_true(known > 0);
}

/* One cluster after the other in flushed pieces, a list now and then: what a list named when the
 * power failed later is on the disk, and is named again. */
static void what_a_list_named_is_on_the_disk(void **state)
{
	enum { CS = 65536, CLUSTERS = 40 };
	const struct shape shape = {.name = "lists", .size = CLUSTERS * CS, .cluster = CS};
	unsigned char *data = malloc(CS);
	uint64_t rng = seed | 1;
	unsigned round;

	(void)state;
	assert_non_null(data);
	for (round = 0; round < 30; round++) {
		struct faultfile_opts opts = {
			.seed = seed + round, .cut_at = 5 + rnd_next(&rng) % 90, .delay = 2};
		struct faultfile *ff = faultfile_new(&opts);
		struct qcow2_open_opts open = {
			.writable = true, .wrap_file = faultfile_wrap, .wrap_arg = ff};
		bool named[CLUSTERS] = {0};
		struct qcow2_extent e[CLUSTERS];
		unsigned i, k, n;
		int r = 0;

		story_begin("lists", seed, round);
		make_image(&shape, "start.qcow2", NULL);
		assert_int_equal(imgloop_open(&loop, "start.qcow2", &open), 0);
		for (i = 0; !r && i < CLUSTERS; i++) {
			unsigned at = i * 7 % CLUSTERS;
			uint64_t off = 0;

			content(1, (uint64_t)at * CS, data, CS);
			r = imgloop_write(&loop, (uint64_t)at * CS, data, i % 4 ? CS : CS / 2);
			if (r || i % 5 != 4)
				continue;
			r = imgloop_received(&loop, 0, shape.size, e, CLUSTERS, &n);
			for (k = 0; !r && k < n; off += e[k++].len)
				if (e[k].flags)
					memset(named + off / CS, 1, e[k].len / CS);
		}
		imgloop_drop(&loop);
		faultfile_cut(ff);
		assert_int_equal(faultfile_dump(ff, "cut.qcow2", 0), 0);
		faultfile_free(ff);

		open = (struct qcow2_open_opts){.writable = true};
		assert_int_equal(imgloop_open(&loop, "cut.qcow2", &open), 0);
		for (i = 0; i < CLUSTERS; i++) {
			unsigned char *have = aligned_alloc(FILE_ALIGN, CS);

			if (!named[i]) {
				free(have);
				continue;
			}
			known++;
			n = qcow2_received(loop.img, (uint64_t)i * CS, CS, e, 1);
			if (n != 1 || e[0].flags != QCOW2_EXTENT_RECEIVED)
				story_fail("cluster %u was on a list and is not any more", i);
			content(1, (uint64_t)i * CS, data, CS);
			assert_int_equal(imgloop_read(&loop, (uint64_t)i * CS, have, CS), 0);
			if (memcmp(have, data, CS))
				story_fail("cluster %u was on a list and is not on the disk", i);
			free(have);
		}
		imgloop_drop(&loop);
		alarm(0);
	}
	free(data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_said_to_have_arrived_did_arrive),
		cmocka_unit_test(what_a_list_named_is_on_the_disk),
	};

	return cmocka_run_group_tests(tests, crash_setup, crash_teardown);
}
