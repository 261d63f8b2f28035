/*
 * Two copies of the file, `now` and `durable`, and between them the log of changes that are not
 * synced yet. Both are large sparse mappings, so that a file can grow without copying.
 */
#include "tests/support/faultfile.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/list.h"

#define CAPACITY (1 * GIB)
#define SECTOR	 512U

struct state {
	unsigned char *bytes; /* CAPACITY; zero from @size on */
	uint64_t size;
};

enum change_kind { CHANGE_WRITE, CHANGE_GROW, CHANGE_PUNCH, CHANGE_TRUNCATE };

struct change {
	struct list node;
	enum change_kind kind;
	uint64_t off, len;
	bool seen;     /* its completion has been delivered */
	uint64_t sync; /* the sync under way that covers it; 0: none */
	unsigned char *data;
};

/* An operation between submit and completion. */
struct pending {
	struct list node;
	struct file_op *op;
	unsigned wait; /* rounds */
	uint64_t sync;
	struct change *change;
	bool carried_out;
	int res;
};

struct faultfile {
	struct file file; /* first: the seam's view */
	struct faultfile_opts opts;
	struct state now, durable;
	struct list changes; /* not synced, in order */
	struct list pending;
	struct ring_op tick;
	bool ticking, cut, open;
	uint64_t rng, ops, reads, syncs, punched;
};

static struct faultfile *to_fault(struct file *file)
{
	return container_of(file, struct faultfile, file);
}

static uint64_t rnd(struct faultfile *ff)
{
	ff->rng ^= ff->rng << 13;
	ff->rng ^= ff->rng >> 7;
	ff->rng ^= ff->rng << 17;
	return ff->rng >> 11;
}

/* --- applying changes ----------------------------------------------------------------------- */

static void state_resize(struct state *s, uint64_t size)
{
	if (size < s->size)
		memset(s->bytes + size, 0, s->size - size);
	s->size = size;
}

static void state_write(struct state *s, uint64_t off, const void *data, uint64_t len)
{
	memcpy(s->bytes + off, data, len);
	s->size = MAX(s->size, off + len);
}

static void state_apply(struct state *s, const struct change *c)
{
	switch (c->kind) {
	case CHANGE_WRITE:
		state_write(s, c->off, c->data, c->len);
		break;
	case CHANGE_GROW:
		state_resize(s, MAX(s->size, c->off + c->len));
		break;
	case CHANGE_PUNCH:
		if (c->off < s->size)
			memset(s->bytes + c->off, 0, MIN(c->len, s->size - c->off));
		break;
	case CHANGE_TRUNCATE:
		state_resize(s, c->len);
		break;
	}
}

static struct change *change_add(struct faultfile *ff, enum change_kind kind, uint64_t off,
				 uint64_t len, const void *data)
{
	struct change *c = calloc(1, sizeof(*c));

	assert(c);
	c->kind = kind;
	c->off = off;
	c->len = len;
	if (data) {
		c->data = malloc(len);
		assert(c->data);
		memcpy(c->data, data, len);
	}
	list_add_tail(&ff->changes, &c->node);
	return c;
}

static void change_free(struct change *c)
{
	list_del(&c->node);
	free(c->data);
	free(c);
}

/* --- the power cut -------------------------------------------------------------------------- */

/* Some sectors of a write reach the disk: a beginning, or any. */
static void survive_torn(struct faultfile *ff, struct state *left, const struct change *c)
{
	uint64_t off = c->off, end = c->off + c->len, next;
	bool prefix = rnd(ff) % 2, stop = false;

	for (; off < end; off = next) {
		next = MIN(align_down(off, SECTOR) + SECTOR, end);
		if (prefix)
			stop = stop || rnd(ff) % 4 == 0;
		else
			stop = rnd(ff) % 2;
		if (!stop)
			state_write(left, off, c->data + (off - c->off), next - off);
	}
}

static void survive(struct faultfile *ff, struct state *left, const struct change *c)
{
	switch (rnd(ff) % 3) {
	case 0:
		return;
	case 1:
		if (c->kind == CHANGE_WRITE) {
			survive_torn(ff, left, c);
			return;
		}
		/* fall through */
	default:
		state_apply(left, c);
	}
}

static struct change *change_of(struct faultfile *ff, const struct file_op *op)
{
	switch (op->kind) {
	case FILE_OP_WRITE:
		return change_add(ff, CHANGE_WRITE, op->off, op->len, op->buf);
	case FILE_OP_ALLOCATE:
		return change_add(ff, CHANGE_GROW, op->off, op->len, NULL);
	case FILE_OP_PUNCH:
		return change_add(ff, CHANGE_PUNCH, op->off, op->len, NULL);
	default:
		return NULL;
	}
}

void faultfile_cut(struct faultfile *ff)
{
	struct list *pos;

	if (ff->cut)
		return;
	ff->cut = true;
	/* What was on its way may have got there, or in part. */
	list_for_each (pos, &ff->pending) {
		struct pending *p = list_entry(pos, struct pending, node);

		if (!p->carried_out)
			change_of(ff, p->op);
	}
}

/* Nobody reads `now` after a cut: it takes what is left. */
static const struct state *what_is_left(struct faultfile *ff, unsigned outcome)
{
	struct list *pos;

	ff->rng = (ff->opts.seed * 31 + ff->ops) * 31 + outcome;
	ff->rng = ff->rng * 0x9e3779b97f4a7c15ULL | 1;
	state_resize(&ff->now, 0);
	state_write(&ff->now, 0, ff->durable.bytes, ff->durable.size);
	list_for_each (pos, &ff->changes)
		survive(ff, &ff->now, list_entry(pos, struct change, node));
	return &ff->now;
}

/* --- carrying operations out ---------------------------------------------------------------- */

/* Counts an operation; 0, or the error it shall have. */
static int count_op(struct faultfile *ff)
{
	const struct faultfile_opts *o = &ff->opts;

	if (ff->cut)
		return -EIO;
	ff->ops++;
	if (ff->ops == o->cut_at) {
		faultfile_cut(ff);
		return -EIO;
	}
	if (o->fail_at && ff->ops >= o->fail_at && ff->ops - o->fail_at < MAX(o->fail_count, 1U))
		return o->fail_error ? o->fail_error : -EIO;
	return 0;
}

static int check_space(const struct faultfile *ff, uint64_t end)
{
	assert(end <= CAPACITY);
	if (!ff->opts.space || end <= ff->opts.space)
		return 0;
	return ff->opts.space_error ? ff->opts.space_error : -ENOSPC;
}

/* The bytes before the error that ends it. */
static void write_part(struct faultfile *ff, uint64_t off, const void *buf, uint64_t len)
{
	len = align_down(rnd(ff) % len, SECTOR);
	if (len) {
		change_add(ff, CHANGE_WRITE, off, len, buf)->seen = true;
		state_write(&ff->now, off, buf, len);
	}
}

static int do_write(struct faultfile *ff, uint64_t off, const void *buf, uint64_t len,
		    struct change **out)
{
	int r = check_space(ff, off + len);

	if (!r)
		r = count_op(ff);
	if (r && !ff->cut)
		write_part(ff, off, buf, len);
	if (r)
		return r;
	*out = change_add(ff, CHANGE_WRITE, off, len, buf);
	state_write(&ff->now, off, buf, len);
	return 0;
}

static int do_change(struct faultfile *ff, enum change_kind kind, uint64_t off, uint64_t len,
		     struct change **out)
{
	int r = kind == CHANGE_GROW ? check_space(ff, off + len) : 0;

	if (!r)
		r = count_op(ff);
	if (r)
		return r;
	*out = change_add(ff, kind, off, len, NULL);
	state_apply(&ff->now, *out);
	if (kind == CHANGE_PUNCH)
		ff->punched += len;
	return 0;
}

static uint64_t sync_begin(struct faultfile *ff)
{
	uint64_t id = ++ff->syncs;
	struct list *pos;

	list_for_each (pos, &ff->changes) {
		struct change *c = list_entry(pos, struct change, node);

		if (c->seen && !c->sync)
			c->sync = id;
	}
	return id;
}

/* A sync covers what was complete when it began, and what earlier syncs cover. */
static int sync_end(struct faultfile *ff, uint64_t id)
{
	int r = count_op(ff);
	struct list *pos, *tmp;

	if (ff->cut)
		return r;
	list_for_each_safe (pos, tmp, &ff->changes) {
		struct change *c = list_entry(pos, struct change, node);

		if (!c->sync || c->sync > id)
			continue;
		if (r) { /* nobody knows what became of it */
			c->sync = 0;
			continue;
		}
		state_apply(&ff->durable, c);
		change_free(c);
	}
	return r;
}

static ssize_t do_read(struct faultfile *ff, void *buf, size_t len, uint64_t off)
{
	size_t n = off < ff->now.size ? MIN(len, ff->now.size - off) : 0;

	if (ff->cut || ++ff->reads == ff->opts.fail_read_at)
		return -EIO;
	memcpy(buf, ff->now.bytes + off, n);
	return n;
}

static int carry_out(struct faultfile *ff, struct pending *p)
{
	struct file_op *op = p->op;
	int r;

	switch (op->kind) {
	case FILE_OP_READ:
		return do_read(ff, op->buf, op->len, op->off);
	case FILE_OP_WRITE:
		r = do_write(ff, op->off, op->buf, op->len, &p->change);
		return r ? r : (int)op->len;
	case FILE_OP_DATASYNC:
		return sync_end(ff, p->sync);
	case FILE_OP_ALLOCATE:
		return do_change(ff, CHANGE_GROW, op->off, op->len, &p->change);
	case FILE_OP_PUNCH:
		return do_change(ff, CHANGE_PUNCH, op->off, op->len, &p->change);
	}
	return -EINVAL;
}

/* --- asynchronous --------------------------------------------------------------------------- */

static void fault_done(struct ring_op *ring_op, int res)
{
	struct file_op *op = container_of(ring_op, struct file_op, ring);
	struct faultfile *ff = to_fault(op->file);
	struct list *pos;

	list_for_each (pos, &ff->pending) {
		struct pending *p = list_entry(pos, struct pending, node);

		if (p->op != op)
			continue;
		if (p->change)
			p->change->seen = true;
		list_del(&p->node);
		free(p);
		break;
	}
	op->done(op, res);
}

static struct pending *pick_due(struct faultfile *ff)
{
	struct pending *picked = NULL;
	unsigned n = 0;
	struct list *pos;

	list_for_each (pos, &ff->pending) {
		struct pending *p = list_entry(pos, struct pending, node);

		if (!p->carried_out && !p->wait && rnd(ff) % ++n == 0)
			picked = p;
	}
	return picked;
}

static void fault_start_tick(struct faultfile *ff)
{
	if (!ff->ticking)
		ring_post(ff->file.ring, &ff->tick, 0);
	ff->ticking = true;
}

static void fault_tick(struct ring_op *ring_op, int res)
{
	struct faultfile *ff = container_of(ring_op, struct faultfile, tick);
	struct pending *p;
	struct list *pos;
	bool more = false;

	(void)res;
	ff->ticking = false;
	while ((p = pick_due(ff))) {
		p->res = carry_out(ff, p);
		p->carried_out = true;
		p->op->ring.done = fault_done;
		ring_post(ff->file.ring, &p->op->ring, p->res);
	}
	list_for_each (pos, &ff->pending) {
		p = list_entry(pos, struct pending, node);
		if (p->carried_out)
			continue;
		p->wait--;
		more = true;
	}
	if (more)
		fault_start_tick(ff);
}

static void fault_submit(struct file *file, struct file_op *op)
{
	struct faultfile *ff = to_fault(file);
	struct pending *p = calloc(1, sizeof(*p));

	assert(p && file->ring);
	p->op = op;
	p->wait = rnd(ff) % (ff->opts.delay + 1) + ff->opts.slow[op->kind];
	if (op->kind == FILE_OP_DATASYNC)
		p->sync = sync_begin(ff);
	list_add_tail(&ff->pending, &p->node);
	fault_start_tick(ff);
}

/* --- blocking ------------------------------------------------------------------------------- */

static ssize_t fault_pread(struct file *file, void *buf, size_t len, uint64_t off)
{
	return do_read(to_fault(file), buf, len, off);
}

/* What a blocking call is doing when the power fails may survive as well. */
static void before_cut(struct faultfile *ff, enum change_kind kind, uint64_t off, uint64_t len,
		       const void *data)
{
	if (!ff->cut && ff->ops + 1 == ff->opts.cut_at)
		change_add(ff, kind, off, len, data);
}

static int fault_pwrite(struct file *file, const void *buf, size_t len, uint64_t off)
{
	struct change *c;
	int r;

	before_cut(to_fault(file), CHANGE_WRITE, off, len, buf);
	r = do_write(to_fault(file), off, buf, len, &c);
	if (!r)
		c->seen = true;
	return r;
}

static int fault_datasync(struct file *file)
{
	return sync_end(to_fault(file), sync_begin(to_fault(file)));
}

static int fault_change(struct file *file, enum change_kind kind, uint64_t off, uint64_t len)
{
	struct change *c;
	int r;

	before_cut(to_fault(file), kind, off, len, NULL);
	r = do_change(to_fault(file), kind, off, len, &c);
	if (!r)
		c->seen = true;
	return r;
}

static int fault_truncate(struct file *file, uint64_t size)
{
	return fault_change(file, CHANGE_TRUNCATE, 0, size);
}

static int fault_punch(struct file *file, uint64_t off, uint64_t len)
{
	return fault_change(file, CHANGE_PUNCH, off, len);
}

static int64_t fault_size(struct file *file)
{
	return to_fault(file)->now.size;
}

static void fault_close(struct file *file)
{
	struct faultfile *ff = to_fault(file);

	assert(list_empty(&ff->pending) && !ff->ticking);
	ff->open = false;
}

static const struct file_ops fault_ops = {
	.submit = fault_submit,
	.pread = fault_pread,
	.pwrite = fault_pwrite,
	.datasync = fault_datasync,
	.truncate = fault_truncate,
	.punch = fault_punch,
	.size = fault_size,
	.close = fault_close,
};

/* --- making one ----------------------------------------------------------------------------- */

/* Mappings to use again, zeroed: the page faults of fresh ones cost more than all else. */
static unsigned char *spare[4];
static unsigned spares;

static void state_init(struct state *s)
{
	if (spares) {
		s->bytes = spare[--spares];
		return;
	}
	s->bytes = mmap(NULL, CAPACITY, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert(s->bytes != MAP_FAILED);
}

static void state_deinit(struct state *s)
{
	if (spares == ARRAY_SIZE(spare)) {
		munmap(s->bytes, CAPACITY);
		return;
	}
	memset(s->bytes, 0, s->size);
	spare[spares++] = s->bytes;
}

struct faultfile *faultfile_new(const struct faultfile_opts *opts)
{
	struct faultfile *ff = calloc(1, sizeof(*ff));

	assert(ff);
	ff->opts = *opts;
	ff->rng = (opts->seed + opts->cut_at + 1) * 0x9e3779b97f4a7c15ULL | 1;
	ff->file.ops = &fault_ops;
	ff->tick.done = fault_tick;
	list_init(&ff->changes);
	list_init(&ff->pending);
	state_init(&ff->now);
	state_init(&ff->durable);
	return ff;
}

void faultfile_free(struct faultfile *ff)
{
	struct list *node;

	if (!ff)
		return;
	assert(!ff->open);
	while ((node = list_pop(&ff->changes)))
		change_free(list_entry(node, struct change, node));
	state_deinit(&ff->now);
	state_deinit(&ff->durable);
	free(ff);
}

struct file *faultfile_wrap(struct file *file, void *arg)
{
	struct faultfile *ff = arg;
	int64_t size = file_size(file);

	assert(!ff->open && size >= 0 && (uint64_t)size <= CAPACITY);
	if (file_pread(file, ff->now.bytes, size, 0) != size)
		abort();
	memcpy(ff->durable.bytes, ff->now.bytes, size);
	ff->now.size = ff->durable.size = size;
	ff->open = true;
	file_close(file);
	return &ff->file;
}

uint64_t faultfile_ops(const struct faultfile *ff)
{
	return ff->ops;
}

uint64_t faultfile_reads(const struct faultfile *ff)
{
	return ff->reads;
}

bool faultfile_is_cut(const struct faultfile *ff)
{
	return ff->cut;
}

uint64_t faultfile_punched(const struct faultfile *ff)
{
	return ff->punched;
}

int faultfile_dump(struct faultfile *ff, const char *path, unsigned outcome)
{
	const struct state *left;
	uint64_t off, n;
	int fd, r = 0;

	assert(ff->cut);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	left = what_is_left(ff, outcome);
	if (ftruncate(fd, left->size))
		r = -errno;
	for (off = 0; !r && off < left->size; off += n) {
		n = MIN(left->size - off, 64 * KIB);
		if (!bytes_all_zero(left->bytes + off, n) &&
		    pwrite(fd, left->bytes + off, n, off) != (ssize_t)n)
			r = errno ? -errno : -EIO;
	}
	close(fd);
	return r;
}
