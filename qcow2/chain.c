#include "qcow2/chain.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2/qcow2.h"

#define CHAIN_WINDOWS  64 /* 64 x 32 MiB of a disk with 64 KiB clusters */
#define WINDOW_BUCKETS 128
#define CHAIN_LOADS    4  /* windows being read at once; half of them may be reading ahead */
#define CHAIN_AHEAD    2  /* windows a stream is kept ahead of */
#define LOAD_PIECES    32 /* read at once, from layers that follow each other */
/* 512 entries of 16 bytes are the most a window reads from one layer at once. */
#define LOAD_READ_MAX (QCOW2_WINDOW_UNITS * 16)

struct unit {
	uint64_t host;
	uint16_t layer;
	uint8_t kind;
};

enum window_state { WINDOW_EMPTY, WINDOW_LOADING, WINDOW_READY };

/* A stretch of a window as one layer has it. */
struct piece {
	struct load *load;
	struct file_op read;
	uint64_t from, to; /* guest bytes */
	unsigned layer;
	enum qcow2_kind kind; /* of all of it; NONE: as the entries in @buf say */
	int res;	      /* of the read: bytes or -errno */
	unsigned char *buf;   /* LOAD_READ_MAX */
};

struct window {
	struct qcow2_chain *chain;
	uint64_t start, end; /* guest bytes covered; end is cut at the chain's size */
	enum window_state state;
	bool stream; /* the one before it is known too: who asks first will ask for the next */
	struct list lru;
	struct window *hash_next;
	struct list waiters;
	struct unit unit[QCOW2_WINDOW_UNITS];
};

/* What it takes to fill a window. */
struct load {
	struct list node; /* chain->loads, while idle */
	struct window *window;
	unsigned open;	/* units not found yet */
	unsigned layer; /* with @scan, guest bytes: where the next piece begins */
	uint64_t scan;
	unsigned width;		  /* pieces of the next round */
	unsigned pieces, pending; /* of the round under way; reads not back yet */
	struct piece piece[LOAD_PIECES];
};

struct qcow2_chain {
	unsigned depth;
	struct qcow2_layer **layer; /* [0] is the top */
	uint64_t *limit;
	unsigned unit_bits;
	uint64_t size;
	/* while attached */
	struct window *windows;
	struct load *load_mem;
	unsigned char *bufs;
	struct list loads; /* idle ones */
	unsigned loading;
	struct window *bucket[WINDOW_BUCKETS];
	struct list lru;     /* oldest first; all windows */
	struct list stalled; /* waiters that found every load busy */
	struct list idle;    /* waiters for the end of all loads */
};

/* --- opening -------------------------------------------------------------------------------- */

/* QEMU takes "word:" for a protocol unless a slash comes first. */
static bool names_a_protocol(const char *name)
{
	size_t n = strcspn(name, ":/");

	return name[n] == ':';
}

/* The path of backing file @name of the image at @child, both relative to the repository. */
static int backing_path(char *out, size_t out_size, const char *child, const char *name,
			struct err *err)
{
	const char *slash = strrchr(child, '/');
	int dir_len = slash ? (int)(slash - child) + 1 : 0;

	if (names_a_protocol(name))
		return err_set(err, QCOW2_E_CHAIN,
			       "backing file '%s' of '%s' is not a plain file name; refused", name,
			       child);
	if (name[0] == '/')
		return err_set(err, QCOW2_E_CHAIN,
			       "backing file '%s' of '%s' is an absolute path; only names relative "
			       "to the image are accepted",
			       name, child);
	if (snprintf(out, out_size, "%.*s%s", dir_len, child, name) >= (int)out_size)
		return err_set(err, QCOW2_E_CHAIN, "the path of backing file '%s' is too long",
			       name);
	return 0;
}

static int open_layer(struct qcow2_layer **out, int root_fd, const char *path, struct err *err)
{
	struct file *file;
	int r = file_open_beneath(&file, root_fd, path, FILE_RDONLY, err);

	return r ? r : qcow2_layer_open(out, file, path, err);
}

static int open_backing(struct qcow2_layer **out, int root_fd, const struct qcow2_layer *child,
			struct err *err)
{
	const char *format = child->header.backing_format;
	char path[PATH_MAX];
	int r;

	if (format[0] && strcmp(format, "qcow2"))
		return err_set(err, QCOW2_E_UNSUPPORTED,
			       "'%s' has a backing file of format %s; only qcow2 is supported",
			       child->path, format);
	r = backing_path(path, sizeof(path), child->path, child->header.backing, err);
	if (!r)
		r = open_layer(out, root_fd, path, err);
	if (r == -ENOENT)
		return err_set(err, QCOW2_E_CHAIN,
			       "'%s', the backing file of '%s', is missing from the repository",
			       path, child->path);
	/* leaves the repository, is no regular file, a circle of links, nothing that can be */
	if (r == -EXDEV || r == -EINVAL || r == -ELOOP || r == -ENOTDIR || r == -ENAMETOOLONG)
		return QCOW2_E_CHAIN;
	if (!r && (*out)->header.incompatible & QCOW2_INCOMPAT_CORRUPT) {
		r = err_set(err, QCOW2_E_CORRUPT, "'%s' is marked corrupt", (*out)->path);
		qcow2_layer_free(*out);
	}
	return r;
}

static bool same_file(const struct qcow2_layer *a, const struct qcow2_layer *b)
{
	return a->ino && a->dev == b->dev && a->ino == b->ino;
}

/* Takes @layer over, also on failure. */
static int chain_push(struct qcow2_chain *chain, struct qcow2_layer *layer, struct err *err)
{
	_cleanup_(qcow2_layer_freep) struct qcow2_layer *owned = layer;
	struct qcow2_layer **grown;
	unsigned i;

	if (chain->depth == QCOW2_CHAIN_MAX)
		return err_set(err, QCOW2_E_CHAIN, "the chain is longer than %u images",
			       QCOW2_CHAIN_MAX);
	for (i = 0; i < chain->depth; i++)
		if (same_file(chain->layer[i], layer))
			return err_set(err, QCOW2_E_CHAIN,
				       "'%s' is its own backing file, directly or through others",
				       layer->path);
	grown = realloc(chain->layer, (chain->depth + 1) * sizeof(*grown));
	if (!grown)
		return err_set(err, -ENOMEM, "no memory for the chain");
	chain->layer = grown;
	chain->layer[chain->depth++] = steal(&owned);
	return 0;
}

/* Follows backing files from @child down. */
static int chain_follow(struct qcow2_chain *chain, int root_fd, const struct qcow2_layer *child,
			struct err *err)
{
	int r;

	while (child->header.backing[0]) {
		struct qcow2_layer *layer;

		r = open_backing(&layer, root_fd, child, err);
		if (r)
			return r;
		r = chain_push(chain, layer, err);
		if (r)
			return r;
		child = layer;
	}
	return 0;
}

static int chain_measure(struct qcow2_chain *chain, struct err *err)
{
	unsigned i;

	chain->limit = calloc(chain->depth, sizeof(*chain->limit));
	if (!chain->limit)
		return err_set(err, -ENOMEM, "no memory for the chain");
	chain->unit_bits = chain->layer[0]->geom.unit_bits;
	chain->size = chain->layer[0]->geom.size;
	for (i = 0; i < chain->depth; i++) {
		const struct qcow2_geom *g = &chain->layer[i]->geom;

		chain->limit[i] = i ? MIN(chain->limit[i - 1], g->size) : g->size;
		chain->unit_bits = MIN(chain->unit_bits, g->unit_bits);
	}
	return 0;
}

DEFINE_CLEANUP(struct qcow2_chain *, qcow2_chain_free)

int qcow2_chain_open(struct qcow2_chain **out, int root_fd, const char *path, struct err *err)
{
	_cleanup_(qcow2_chain_freep) struct qcow2_chain *chain = calloc(1, sizeof(*chain));
	struct qcow2_layer *top;
	int r;

	if (!chain)
		return err_set(err, -ENOMEM, "no memory for the chain");
	r = open_layer(&top, root_fd, path, err);
	if (r)
		return r;
	if ((r = chain_push(chain, top, err)) || (r = chain_follow(chain, root_fd, top, err)) ||
	    (r = chain_measure(chain, err)))
		return r;
	*out = steal(&chain);
	return 0;
}

int qcow2_chain_open_backing(struct qcow2_chain **out, int root_fd,
			     const struct qcow2_layer *overlay, struct err *err)
{
	_cleanup_(qcow2_chain_freep) struct qcow2_chain *chain = NULL;
	unsigned i;
	int r;

	*out = NULL;
	if (!overlay->header.backing[0])
		return 0;
	chain = calloc(1, sizeof(*chain));
	if (!chain)
		return err_set(err, -ENOMEM, "no memory for the chain");
	if ((r = chain_follow(chain, root_fd, overlay, err)) || (r = chain_measure(chain, err)))
		return r;
	for (i = 0; i < chain->depth; i++)
		if (same_file(chain->layer[i], overlay))
			return err_set(err, QCOW2_E_CHAIN, "'%s' is its own backing file",
				       overlay->path);
	*out = steal(&chain);
	return 0;
}

void qcow2_chain_free(struct qcow2_chain *chain)
{
	unsigned i;

	if (!chain)
		return;
	assert(!chain->windows);
	for (i = 0; i < chain->depth; i++)
		qcow2_layer_free(chain->layer[i]);
	free(chain->layer);
	free(chain->limit);
	free(chain);
}

unsigned qcow2_chain_depth(const struct qcow2_chain *chain)
{
	return chain ? chain->depth : 0;
}

const struct qcow2_layer *qcow2_chain_layer(const struct qcow2_chain *chain, unsigned i)
{
	return chain->layer[i];
}

static void chain_lay_out(struct qcow2_chain *chain)
{
	unsigned i, k;

	for (i = 0; i < CHAIN_WINDOWS; i++) {
		struct window *w = &chain->windows[i];

		w->chain = chain;
		list_init(&w->waiters);
		list_init(&w->lru);
		list_add_tail(&chain->lru, &w->lru);
	}
	for (i = 0; i < CHAIN_LOADS; i++) {
		struct load *l = &chain->load_mem[i];

		for (k = 0; k < LOAD_PIECES; k++) {
			l->piece[k].load = l;
			l->piece[k].buf =
				chain->bufs + ((size_t)i * LOAD_PIECES + k) * LOAD_READ_MAX;
		}
		list_init(&l->node);
		list_add_tail(&chain->loads, &l->node);
	}
}

int qcow2_chain_attach(struct qcow2_chain *chain, struct ring *ring, struct err *err)
{
	unsigned i;

	list_init(&chain->lru);
	list_init(&chain->loads);
	list_init(&chain->stalled);
	list_init(&chain->idle);
	memset(chain->bucket, 0, sizeof(chain->bucket));
	chain->windows = calloc(CHAIN_WINDOWS, sizeof(*chain->windows));
	chain->load_mem = calloc(CHAIN_LOADS, sizeof(*chain->load_mem));
	chain->bufs = aligned_alloc(4096, CHAIN_LOADS * LOAD_PIECES * LOAD_READ_MAX);
	if (!chain->windows || !chain->load_mem || !chain->bufs) {
		qcow2_chain_detach(chain);
		return err_set(err, -ENOMEM, "no memory for the chain's map");
	}
	chain_lay_out(chain);
	for (i = 0; i < chain->depth; i++)
		file_bind(chain->layer[i]->file, ring);
	return 0;
}

void qcow2_chain_detach(struct qcow2_chain *chain)
{
	unsigned i;

	assert(!chain->loading);
	free(chain->windows);
	free(chain->load_mem);
	free(chain->bufs);
	chain->windows = NULL;
	chain->load_mem = NULL;
	chain->bufs = NULL;
	for (i = 0; i < chain->depth; i++)
		file_bind(chain->layer[i]->file, NULL);
}

/* --- the window cache ----------------------------------------------------------------------- */

static uint64_t window_span(const struct qcow2_chain *chain)
{
	return (uint64_t)QCOW2_WINDOW_UNITS << chain->unit_bits;
}

static struct window **window_bucket(struct qcow2_chain *chain, uint64_t start)
{
	return &chain->bucket[start / window_span(chain) % WINDOW_BUCKETS];
}

static struct window *window_lookup(struct qcow2_chain *chain, uint64_t start)
{
	struct window *w = *window_bucket(chain, start);

	while (w && w->start != start)
		w = w->hash_next;
	return w;
}

static void window_unhash(struct window *w)
{
	struct window **p = window_bucket(w->chain, w->start);

	while (*p != w)
		p = &(*p)->hash_next;
	*p = w->hash_next;
}

/* The least recently used window that is not loading; NULL: all are. */
static struct window *window_evict(struct qcow2_chain *chain)
{
	struct list *pos;

	list_for_each (pos, &chain->lru) {
		struct window *w = list_entry(pos, struct window, lru);

		if (w->state == WINDOW_LOADING)
			continue;
		if (w->state == WINDOW_READY)
			window_unhash(w);
		w->state = WINDOW_EMPTY;
		return w;
	}
	return NULL;
}

static void wake_all(struct list *waiters)
{
	struct list woken, *node;

	list_init(&woken);
	list_splice(&woken, waiters);
	while ((node = list_pop(&woken))) {
		struct pool_waiter *waiter = list_entry(node, struct pool_waiter, node);

		waiter->wake(waiter);
	}
}

/* --- loading a window ------------------------------------------------------------------------
 *
 * Rounds of: plan the next pieces, top down; read them all at once; apply them in order. The first
 * round is one piece, since the top often has everything; each further one is four times as wide,
 * so that a deep chain costs few turns of the disk.
 */

static void load_step(struct load *l);

/* What the entries in @p->buf say about the unit at @off. */
static enum qcow2_kind piece_entry(const struct piece *p, uint64_t off, uint64_t *host)
{
	const struct qcow2_layer *layer = p->load->window->chain->layer[p->layer];
	const struct qcow2_geom *g = &layer->geom;
	uint64_t index = (off >> g->cluster_bits) - (p->from >> g->cluster_bits);
	uint64_t in_cluster = off & (g->cluster_size - 1), bitmap = 0;
	const unsigned char *entry = p->buf + index * g->entry_size;
	enum qcow2_kind kind;
	unsigned sub = 0;

	if (p->res < 0 || (index + 1) * g->entry_size > (uint64_t)p->res)
		return QCOW2_KIND_BAD;
	if (g->entry_size == 8 && !load_be64(entry)) /* nearly all that an incremental has */
		return QCOW2_KIND_NONE;
	if (g->entry_size == 16) {
		bitmap = load_be64(entry + 8);
		sub = in_cluster >> g->unit_bits;
	}
	kind = qcow2_layer_entry(layer, load_be64(entry), bitmap, sub, host);
	if (kind == QCOW2_KIND_DATA)
		*host += in_cluster;
	return kind;
}

/* Fills the units that no layer above has. */
static void piece_apply(struct piece *p)
{
	struct window *w = p->load->window;
	unsigned bits = w->chain->unit_bits;
	struct unit *u = &w->unit[(p->from - w->start) >> bits];
	uint64_t off;

	for (off = p->from; off < p->to; off += 1ULL << bits, u++) {
		uint64_t host = 0;
		enum qcow2_kind kind = p->kind;

		if (u->kind != QCOW2_KIND_NONE)
			continue;
		if (kind == QCOW2_KIND_NONE)
			kind = piece_entry(p, off, &host);
		if (kind == QCOW2_KIND_NONE)
			continue;
		*u = (struct unit){.host = host, .layer = p->layer, .kind = kind};
		p->load->open--;
	}
}

static void load_apply(struct load *l)
{
	unsigned i;

	for (i = 0; i < l->pieces; i++)
		piece_apply(&l->piece[i]);
	l->pieces = 0;
}

/* The window is complete: the load is free for another. */
static void load_end(struct load *l)
{
	struct qcow2_chain *chain = l->window->chain;

	l->window->state = WINDOW_READY;
	list_add_tail(&chain->loads, &l->node);
	chain->loading--;
}

static void load_read_done(struct file_op *op, int res)
{
	struct piece *p = container_of(op, struct piece, read);
	struct load *l = p->load;
	struct window *w = l->window;
	struct qcow2_chain *chain = w->chain;

	p->res = res;
	if (--l->pending)
		return;
	load_apply(l);
	load_step(l);
	if (w->state != WINDOW_READY)
		return;
	/* Only here, never while somebody asks: a woken reader may reuse windows. */
	wake_all(&w->waiters);
	wake_all(&chain->stalled);
	if (!chain->loading)
		wake_all(&chain->idle);
}

static struct piece *load_add(struct load *l, uint64_t to, enum qcow2_kind kind)
{
	struct piece *p = &l->piece[l->pieces++];

	p->layer = l->layer;
	p->from = l->scan;
	p->to = to;
	p->kind = kind;
	return p;
}

/* Plans the piece at l->scan: up to where one L2 table ends, or the layer, or the window. */
static void load_plan_table(struct load *l, const struct qcow2_layer *layer)
{
	const struct qcow2_geom *g = &layer->geom;
	const struct window *w = l->window;
	uint64_t l1_index = qcow2_l1_index(g, l->scan), table, first, last;
	uint64_t to = MIN(MIN(w->end, align_up(g->size, 1ULL << w->chain->unit_bits)),
			  (l1_index + 1) << (g->cluster_bits + g->l2_bits));

	if (qcow2_layer_l2_table(layer, l1_index, &table)) {
		load_add(l, to, QCOW2_KIND_BAD);
	} else if (table) {
		struct piece *p = load_add(l, to, QCOW2_KIND_NONE);

		first = qcow2_l2_index(g, l->scan);
		last = qcow2_l2_index(g, to - 1);
		p->read = (struct file_op){
			.kind = FILE_OP_READ,
			.cached = true,
			.buf = p->buf,
			.off = table + first * g->entry_size,
			.len = (last - first + 1) * g->entry_size,
			.done = load_read_done,
		};
		l->pending++;
	}
	l->scan = to;
}

static void load_plan(struct load *l)
{
	const struct window *w = l->window;

	while (l->pieces < l->width && l->layer < w->chain->depth) {
		const struct qcow2_layer *layer = w->chain->layer[l->layer];

		if (l->scan < w->end && l->scan < layer->geom.size) {
			load_plan_table(l, layer);
			continue;
		}
		/* This layer ends here, and with it all below: zeroes from its end on. */
		if (l->scan < w->end)
			load_add(l, w->end, QCOW2_KIND_ZERO);
		l->layer++;
		l->scan = w->start;
	}
	l->width = MIN(l->width * 4, LOAD_PIECES);
}

/* Goes on until reads are under way or the window is complete. */
static void load_step(struct load *l)
{
	struct qcow2_chain *chain = l->window->chain;
	unsigned i;

	while (l->layer < chain->depth && l->open) {
		load_plan(l);
		for (i = 0; i < l->pieces; i++) {
			struct piece *p = &l->piece[i];

			if (p->kind == QCOW2_KIND_NONE)
				file_submit(chain->layer[p->layer]->file, &p->read);
		}
		if (l->pending)
			return;
		load_apply(l);
	}
	load_end(l);
}

/* NULL: everything that could take it is loading. */
static struct window *window_load(struct qcow2_chain *chain, uint64_t start, bool stream)
{
	struct window *w, **bucket;
	struct load *l;

	if (list_empty(&chain->loads) || !(w = window_evict(chain)))
		return NULL;
	w->start = start;
	w->end = MIN(start + window_span(chain), align_up(chain->size, 1ULL << chain->unit_bits));
	w->state = WINDOW_LOADING;
	w->stream = stream;
	memset(w->unit, 0, sizeof(w->unit));
	bucket = window_bucket(chain, start);
	w->hash_next = *bucket;
	*bucket = w;

	l = list_entry(list_pop(&chain->loads), struct load, node);
	chain->loading++;
	l->window = w;
	l->layer = 0;
	l->scan = start;
	l->width = 1;
	l->open = (w->end - w->start) >> chain->unit_bits;
	load_step(l);
	return w;
}

/* Somebody reads on from @w: what comes next is loaded before it is asked for. */
static void read_ahead(struct qcow2_chain *chain, const struct window *w)
{
	uint64_t span = window_span(chain), start = w->start;
	unsigned i;

	for (i = 0; i < CHAIN_AHEAD && chain->loading < CHAIN_LOADS / 2; i++) {
		start += span;
		if (start >= chain->size)
			return;
		if (!window_lookup(chain, start))
			window_load(chain, start, true);
	}
}

/* --- finding -------------------------------------------------------------------------------- */

static bool unit_continues(const struct unit *a, const struct unit *b, uint64_t bytes)
{
	if (a->kind != b->kind || a->layer != b->layer)
		return false;
	if (a->kind == QCOW2_KIND_DATA)
		return b->host == a->host + bytes;
	return a->kind != QCOW2_KIND_PACKED || a->host == b->host;
}

/* The longest run at @off inside @w whose units lie together. */
static void window_find(const struct window *w, uint64_t off, uint64_t max, struct qcow2_run *run)
{
	const struct qcow2_chain *chain = w->chain;
	uint64_t unit = 1ULL << chain->unit_bits, in_unit = off & (unit - 1);
	unsigned first = (off - w->start) >> chain->unit_bits, i = first;
	unsigned count = (w->end - w->start) >> chain->unit_bits;
	const struct unit *u = &w->unit[first];
	uint64_t len = unit - in_unit, limit = chain->limit[u->layer];

	while (len < max && ++i < count &&
	       unit_continues(u, &w->unit[i], (uint64_t)(i - first) * unit))
		len += unit;
	*run = (struct qcow2_run){
		.kind = u->kind,
		.layer = chain->layer[u->layer],
		.host = u->kind == QCOW2_KIND_DATA ? u->host + in_unit : u->host,
		.len = MIN(len, max),
	};
	if (u->kind ==
	    QCOW2_KIND_PACKED) { /* two clusters may claim one stream: never both at once */
		uint64_t cs = run->layer->geom.cluster_size;

		run->len = MIN(run->len, cs - (off & (cs - 1)));
	}
	if (off >= limit)
		run->kind = QCOW2_KIND_ZERO;
	else
		run->len = MIN(run->len, limit - off);
}

/* Where the first L2 table at or behind @off is, if before @end. */
static uint64_t next_table(const struct qcow2_layer *layer, uint64_t off, uint64_t end)
{
	const struct qcow2_geom *g = &layer->geom;
	unsigned bits = g->cluster_bits + g->l2_bits;
	uint64_t i = qcow2_l1_index(g, off);

	while (i << bits < end && i < layer->header.l1_entries && !layer->l1[i])
		i++;
	return MAX(MIN(i << bits, end), off);
}

/* True when the L1s in memory already say that no layer has anything at @off. Windows are as small
 * as the smallest clusters of the chain: a huge and empty disk would need millions of them. */
static bool find_nothing(const struct qcow2_chain *chain, uint64_t off, uint64_t max,
			 struct qcow2_run *run)
{
	uint64_t end = off + MIN(max, chain->size - off);
	enum qcow2_kind kind = QCOW2_KIND_NONE;
	unsigned k;

	for (k = 0; k < chain->depth; k++) {
		const struct qcow2_layer *layer = chain->layer[k];

		if (off >= layer->geom.size) { /* this hides what is below */
			kind = QCOW2_KIND_ZERO;
			break;
		}
		end = next_table(layer, off, MIN(end, layer->geom.size));
		if (end == off)
			return false;
	}
	*run = (struct qcow2_run){.kind = kind, .len = end - off};
	return true;
}

int qcow2_chain_find(struct qcow2_chain *chain, uint64_t off, uint64_t max,
		     struct pool_waiter *waiter, struct qcow2_run *run)
{
	struct window *w;
	uint64_t start;

	if (!chain || off >= chain->size) {
		*run = (struct qcow2_run){.kind = QCOW2_KIND_NONE, .len = max};
		return 0;
	}
	start = align_down(off, window_span(chain));
	w = window_lookup(chain, start);
	if (!w && find_nothing(chain, off, max, run))
		return 0;
	if (!w)
		w = window_load(chain, start,
				!start || window_lookup(chain, start - window_span(chain)));
	if (!w || w->state == WINDOW_LOADING) {
		pool_cancel(waiter);
		list_add_tail(w ? &w->waiters : &chain->stalled, &waiter->node);
		return -EAGAIN;
	}
	list_del(&w->lru);
	list_add_tail(&chain->lru, &w->lru);
	window_find(w, off, max, run);
	if (w->stream) {
		w->stream = false;
		read_ahead(chain, w);
	}
	return 0;
}

bool qcow2_chain_busy(struct qcow2_chain *chain, struct pool_waiter *waiter)
{
	if (!chain || !chain->loading)
		return false;
	pool_cancel(waiter);
	list_add_tail(&chain->idle, &waiter->node);
	return true;
}
