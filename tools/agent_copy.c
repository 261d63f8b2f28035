#include "tools/agent_copy.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/bytes.h"
#include "tools/agent_nbd.h"

/* Slots: as many as fill the pool, within bounds. Two thirds may be writing (16 of 24 at 1 MiB),
 * so that reads never wait for all of the writes. */
#define COPY_POOL      (32 * MIB)
#define COPY_SLOTS_MAX 24u
#define COPY_SLOTS_MIN 4u

/* A hub busy with its disks may be slow; one that says nothing this long is gone. */
#define COPY_STALL_MS (10 * 60 * 1000)

struct copy_slot;

struct copy_cmd {
	struct agent_cmd cmd;
	struct copy_slot *slot;
};

struct copy_slot {
	struct agent_read rd; /* its node is the slot's */
	struct agent_copy *copy;
	uint32_t blocks;
	uint8_t *block; /* enum agent_block of each, once read */
	struct agent_hash *hash, *old;
	struct copy_cmd *cmds; /* one a block at most */
	unsigned pending;
	int index_error;
	bool zeroes; /* of the map: nothing was read */
	bool again;  /* dealt with once before */
};

struct agent_copy {
	struct agent_copy_config config;
	uint64_t size;
	unsigned slot_count, depth;
	struct copy_slot *slots;
	unsigned char *pool; /* slot_count buffers, and one of zeroes */
	size_t pool_size;
	struct list idle, read, writing; /* reading ones are the source's */
	unsigned reading, writing_count;

	struct agent_map *map;
	uint32_t map_at;   /* first block of the map that has no slot yet */
	uint64_t map_next; /* where the next map starts */
	bool map_busy;
	struct agent_hash *map_old;

	bool lost;	 /* a connection of the sink's */
	int64_t lost_ms; /* since when, with nothing acknowledged meanwhile; 0: never */
	uint8_t *acked;	 /* a bit a block: written or zeroed, and acknowledged; NULL: no resuming */
	uint8_t *redo;	 /* of those: not there any more */
	uint64_t redo_at; /* none before this block */
	bool *held;	  /* AGENT_SINK_ASK_BLOCKS, for the sink's answers */

	bool moved; /* something came back since the last poll() */
	bool flushed;
	struct copy_cmd flush;
	struct err *err; /* of agent_copy_run() */
	int failed;	 /* first error, with its sentence in *err */
};

/* --- new, free ------------------------------------------------------------------------------ */

static int copy_alloc_slots(struct agent_copy *c)
{
	uint32_t blocks = c->config.request_size / AGENT_BLOCK;

	c->slots = calloc(c->slot_count, sizeof(*c->slots));
	for (unsigned i = 0; c->slots && i < c->slot_count; i++) {
		struct copy_slot *s = &c->slots[i];

		s->copy = c;
		s->rd.buf = c->pool + (size_t)i * c->config.request_size;
		s->block = calloc(blocks, sizeof(*s->block));
		s->hash = calloc(blocks, sizeof(*s->hash));
		s->old = calloc(blocks, sizeof(*s->old));
		s->cmds = calloc(blocks, sizeof(*s->cmds));
		if (!s->block || !s->hash || !s->old || !s->cmds)
			return -ENOMEM;
		list_add_tail(&c->idle, &s->rd.node);
	}
	return c->slots ? 0 : -ENOMEM;
}

static uint64_t copy_blocks(const struct agent_copy *c)
{
	return div_up(c->size, AGENT_BLOCK);
}

static int copy_alloc(struct agent_copy *c)
{
	c->slot_count = (unsigned)MIN(MAX(COPY_POOL / c->config.request_size, COPY_SLOTS_MIN),
				      COPY_SLOTS_MAX);
	c->depth = c->slot_count * 2 / 3;
	c->pool_size = (size_t)(c->slot_count + 1) * c->config.request_size;
	c->pool = mmap(NULL, c->pool_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		       0);
	if (c->pool == MAP_FAILED) {
		c->pool = NULL;
		return -ENOMEM;
	}
	c->map = calloc(1, sizeof(*c->map));
	c->map_old = calloc(AGENT_MAP_BLOCKS, sizeof(*c->map_old));
	if (!c->map || !c->map_old)
		return -ENOMEM;
	if (c->config.resume_ms && agent_sink_can_resume(c->config.sink)) {
		c->acked = calloc(1, div_up(copy_blocks(c), 8));
		c->redo = calloc(1, div_up(copy_blocks(c), 8));
		c->held = calloc(AGENT_SINK_ASK_BLOCKS, sizeof(*c->held));
		if (!c->acked || !c->redo || !c->held)
			return -ENOMEM;
	}
	return copy_alloc_slots(c);
}

int agent_copy_new(struct agent_copy **out, const struct agent_copy_config *config, struct err *err)
{
	_cleanup_(agent_copy_freep) struct agent_copy *c = calloc(1, sizeof(*c));
	int rc = -ENOMEM;

	assert(is_aligned(config->request_size, AGENT_BLOCK));
	if (c) {
		c->config = *config;
		c->size = config->source->size;
		c->redo_at = UINT64_MAX;
		list_init(&c->idle);
		list_init(&c->read);
		list_init(&c->writing);
		rc = copy_alloc(c);
	}
	if (rc)
		return err_sys(err, rc, "copy buffers");
	*out = steal(&c);
	return 0;
}

void agent_copy_free(struct agent_copy *c)
{
	if (!c)
		return;
	for (unsigned i = 0; c->slots && i < c->slot_count; i++) {
		free(c->slots[i].block);
		free(c->slots[i].hash);
		free(c->slots[i].old);
		free(c->slots[i].cmds);
	}
	free(c->slots);
	free(c->map);
	free(c->map_old);
	free(c->acked);
	free(c->redo);
	free(c->held);
	if (c->pool)
		munmap(c->pool, c->pool_size);
	free(c);
}

/* --- small helpers -------------------------------------------------------------------------- */

static struct copy_slot *slot_of(struct list *node)
{
	return list_entry(node, struct copy_slot, rd.node);
}

/* The first failure is the one that is told. */
static void copy_fail(struct agent_copy *c, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static void copy_fail(struct agent_copy *c, int code, const char *fmt, ...)
{
	char text[500];
	va_list ap;

	if (c->failed)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	c->failed = err_set(c->err, code, "%s", text);
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void add(atomic_uint_fast64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* Bytes of @n blocks from @off; the disk's last block may be short. */
static uint64_t blocks_len(const struct agent_copy *c, uint64_t off, uint32_t n)
{
	return MIN((uint64_t)n * AGENT_BLOCK, c->size - off);
}

static void slot_release(struct copy_slot *s)
{
	struct agent_copy *c = s->copy;

	if (!s->again)
		add(&c->config.counters->done, s->rd.len);
	list_add_tail(&c->idle, &s->rd.node);
	c->moved = true;
}

/* --- what a read block is ------------------------------------------------------------------- */

static enum agent_block judge_block(const struct agent_copy *c, struct copy_slot *s, uint32_t i)
{
	const unsigned char *p = (unsigned char *)s->rd.buf + (size_t)i * AGENT_BLOCK;
	size_t len = MIN(AGENT_BLOCK, s->rd.len - (size_t)i * AGENT_BLOCK);
	bool zero;

	if (c->config.next) {
		s->hash[i] = agent_index_hash(c->config.next->id.seed, p, len);
		zero = bytes_all_zero(s->hash[i].bytes, sizeof(s->hash[i].bytes));
	} else {
		zero = bytes_all_zero(p, len);
	}
	if (c->config.base && memcmp(&s->hash[i], &s->old[i], sizeof(s->hash[i])) == 0)
		return AGENT_BLOCK_CLEAN;
	if (!zero)
		return AGENT_BLOCK_DATA;
	return c->config.skip_zeroes ? AGENT_BLOCK_CLEAN : AGENT_BLOCK_ZERO;
}

/* Runs where the read ended, possibly in several threads for several slots. */
static void copy_work(void *ctx, struct agent_read *rd)
{
	struct agent_copy *c = ctx;
	struct copy_slot *s = slot_of(&rd->node);
	uint64_t first = rd->off / AGENT_BLOCK;

	if (c->config.base)
		s->index_error = agent_index_get(c->config.base, first, s->blocks, s->old);
	for (uint32_t i = 0; i < s->blocks; i++)
		s->block[i] = judge_block(c, s, i);
	if (c->config.next && !s->index_error)
		s->index_error = agent_index_put(c->config.next, first, s->blocks, s->hash);
}

/* --- map ------------------------------------------------------------------------------------ */

/* A hole needs no word where the target has zeroes already: it is empty, or its last point has
 * them. Blocks of zeroes are all-zero hashes, in the new index too: there they are never put. */
static int refine_zeroes(struct agent_copy *c)
{
	struct agent_map *m = c->map;
	int rc = 0;

	if (!c->config.base && !c->config.skip_zeroes)
		return 0;
	if (c->config.base && memchr(m->block, AGENT_BLOCK_ZERO, m->blocks))
		rc = agent_index_get(c->config.base, m->off / AGENT_BLOCK, m->blocks, c->map_old);
	for (uint32_t i = 0; !rc && i < m->blocks; i++)
		if (m->block[i] == AGENT_BLOCK_ZERO &&
		    (!c->config.base ||
		     bytes_all_zero(c->map_old[i].bytes, sizeof(c->map_old[i].bytes))))
			m->block[i] = AGENT_BLOCK_CLEAN;
	return rc;
}

static void map_arrived(struct agent_copy *c)
{
	int rc = refine_zeroes(c);

	c->map_busy = false;
	c->moved = true;
	if (rc)
		copy_fail(c, rc, "the index of the last backup cannot be read: %s", strerror(-rc));
}

static void map_request(struct agent_copy *c)
{
	uint64_t left = div_up(c->size - c->map_next, AGENT_BLOCK);

	c->map->off = c->map_next;
	c->map->blocks = (uint32_t)MIN(left, AGENT_MAP_BLOCKS);
	c->map->dirty = c->config.dirty;
	c->map_at = 0;
	c->map_next += blocks_len(c, c->map_next, c->map->blocks);
	c->map_busy = true;
	c->failed = agent_source_map(c->config.source, c->map, c->err);
}

/* --- slots: from the map to reads and zeroes ------------------------------------------------ */

static bool bit_get(const uint8_t *bits, uint64_t i)
{
	return bits[i / 8] >> i % 8 & 1;
}

static void bit_set(uint8_t *bits, uint64_t i)
{
	bits[i / 8] |= 1u << i % 8;
}

static void bit_clear(uint8_t *bits, uint64_t i)
{
	bits[i / 8] &= ~(1u << i % 8);
}

/* An error that is the connection's end and not the sink's word, where that can be mended. Then
 * nothing comes of the slot until copy_resume() takes it up. */
static bool is_lost(struct agent_copy *c, int error)
{
	if (c->acked && error == -ENOTCONN)
		c->lost = c->moved = true;
	return c->lost;
}

static void note_acked(struct agent_copy *c, const struct agent_cmd *cmd)
{
	uint64_t block = cmd->off / AGENT_BLOCK, end = div_up(cmd->off + cmd->len, AGENT_BLOCK);

	c->lost_ms = 0;
	for (; c->acked && block < end; block++)
		bit_set(c->acked, block);
}

static void cmd_done(struct agent_cmd *cmd, int error)
{
	struct copy_cmd *cc = container_of(cmd, struct copy_cmd, cmd);
	static const char *const verb[] = {"write", "zeroing"};
	struct agent_copy *c = cc->slot->copy;
	char why[128];

	if (!error)
		note_acked(c, cmd);
	if (error && is_lost(c, error))
		return;
	if (error)
		copy_fail(c, error, "%s of %u bytes at offset %llu: %s", verb[cmd->kind], cmd->len,
			  (unsigned long long)cmd->off, agent_errno_text(error, why, sizeof(why)));
	else
		add(cmd->kind == AGENT_CMD_WRITE ? &c->config.counters->sent
						 : &c->config.counters->zeroed,
		    cmd->len);
	if (--cc->slot->pending)
		return;
	list_del(&cc->slot->rd.node);
	c->writing_count--;
	slot_release(cc->slot);
}

static void slot_submit(struct copy_slot *s, struct copy_cmd *cc, enum agent_cmd_kind kind,
			uint64_t off, uint32_t len, const void *buf)
{
	struct agent_copy *c = s->copy;
	char why[128];
	int rc;

	*cc = (struct copy_cmd){
		.cmd = {.done = cmd_done, .kind = kind, .off = off, .len = len},
		.slot = s,
	};
	s->pending++;
	rc = c->lost ? -ENOTCONN : agent_sink_submit(c->config.sink, &cc->cmd, buf);
	if (!rc)
		return;
	if (rc != -ENOTCONN && c->acked && agent_sink_is_lost(c->config.sink))
		rc = -ENOTCONN;
	if (is_lost(c, rc))
		return;
	s->pending--;
	copy_fail(c, rc, "%u bytes at offset %llu cannot be sent: %s", len, (unsigned long long)off,
		  agent_errno_text(rc, why, sizeof(why)));
}

/* The caller holds one of `pending`, so that a slot is not done before all of it is sent. */
static void slot_write_begin(struct copy_slot *s)
{
	s->pending = 1;
	s->copy->writing_count++;
	list_add_tail(&s->copy->writing, &s->rd.node);
}

static void slot_write_end(struct copy_slot *s)
{
	if (--s->pending)
		return;
	list_del(&s->rd.node);
	s->copy->writing_count--;
	slot_release(s);
}

static const void *zero_buffer(const struct agent_copy *c)
{
	return c->pool + (size_t)c->slot_count * c->config.request_size;
}

static void slot_zero(struct copy_slot *s)
{
	struct agent_copy *c = s->copy;
	uint32_t max = agent_sink_write_max(c->config.sink), at = 0;
	struct copy_cmd *cc = s->cmds;

	s->zeroes = true;
	slot_write_begin(s);
	if (agent_sink_can_zero(c->config.sink))
		slot_submit(s, cc, AGENT_CMD_ZERO, s->rd.off, s->rd.len, NULL);
	else
		for (; at < s->rd.len && !c->failed; at += cc++->cmd.len)
			slot_submit(s, cc, AGENT_CMD_WRITE, s->rd.off + at,
				    MIN(max, s->rd.len - at), zero_buffer(c));
	slot_write_end(s);
}

static struct copy_slot *slot_take(struct agent_copy *c, uint64_t off, uint32_t blocks)
{
	struct copy_slot *s = slot_of(list_pop(&c->idle));

	s->rd.off = off;
	s->rd.len = (uint32_t)blocks_len(c, off, blocks);
	s->blocks = blocks;
	s->index_error = 0;
	s->zeroes = s->again = false;
	return s;
}

/* The run of like blocks at the map's cursor, at most @max long. */
static uint32_t map_run(const struct agent_copy *c, uint32_t max)
{
	const struct agent_map *m = c->map;
	uint32_t n = 1;

	max = MIN(max, m->blocks - c->map_at);
	while (n < max && m->block[c->map_at + n] == m->block[c->map_at])
		n++;
	return n;
}

static uint32_t run_max(const struct agent_copy *c, uint8_t block)
{
	if (block == AGENT_BLOCK_CLEAN)
		return AGENT_MAP_BLOCKS;
	if (block == AGENT_BLOCK_ZERO && agent_sink_can_zero(c->config.sink))
		return AGENT_SINK_REQUEST_MAX / AGENT_BLOCK;
	return c->config.request_size / AGENT_BLOCK;
}

/* One run of the map becomes a slot, or nothing. False: no slot is free. */
static bool plan_run(struct agent_copy *c)
{
	uint64_t off = c->map->off + (uint64_t)c->map_at * AGENT_BLOCK;
	uint8_t block = c->map->block[c->map_at];
	uint32_t n = map_run(c, run_max(c, block));
	struct copy_slot *s;

	if (block == AGENT_BLOCK_CLEAN) {
		add(&c->config.counters->done, blocks_len(c, off, n));
	} else if (list_empty(&c->idle) ||
		   (block == AGENT_BLOCK_ZERO && c->writing_count >= c->depth)) {
		return false;
	} else {
		s = slot_take(c, off, n);
		if (block == AGENT_BLOCK_ZERO) {
			slot_zero(s);
		} else {
			c->reading++;
			agent_source_read(c->config.source, &s->rd);
		}
	}
	c->map_at += n;
	return true;
}

/* The next blocks that are not there any more are read once more. False: no slot is free. */
static bool plan_redo(struct agent_copy *c)
{
	uint64_t end = copy_blocks(c), first = c->redo_at;
	uint32_t n = 0, max = c->config.request_size / AGENT_BLOCK;
	struct copy_slot *s;

	while (first < end && !bit_get(c->redo, first))
		first++;
	c->redo_at = first;
	if (first == end)
		return true;
	if (list_empty(&c->idle))
		return false;
	for (; n < max && first + n < end && bit_get(c->redo, first + n); n++)
		bit_clear(c->redo, first + n);
	s = slot_take(c, first * AGENT_BLOCK, n);
	s->again = true;
	c->reading++;
	agent_source_read(c->config.source, &s->rd);
	return true;
}

static void copy_plan(struct agent_copy *c)
{
	while (!c->failed) {
		if (c->map_busy && c->map->ready)
			map_arrived(c);
		if (c->map_busy || c->failed)
			return;
		if (c->map_at < c->map->blocks) {
			if (!plan_run(c))
				return;
		} else if (c->map_next < c->size) {
			map_request(c);
		} else if (c->redo_at < copy_blocks(c)) {
			if (!plan_redo(c))
				return;
		} else {
			return;
		}
	}
}

/* --- slots: from reads to writes ------------------------------------------------------------ */

/* Zeroes go as zeroes; a server without them gets the bytes, which are in the buffer anyway. */
static void slot_write_run(struct copy_slot *s, uint32_t first, uint32_t n)
{
	struct agent_copy *c = s->copy;
	bool zero = s->block[first] == AGENT_BLOCK_ZERO && agent_sink_can_zero(c->config.sink);
	uint32_t max = zero ? AGENT_SINK_REQUEST_MAX : agent_sink_write_max(c->config.sink);
	uint32_t at = first * AGENT_BLOCK, end = MIN((first + n) * AGENT_BLOCK, s->rd.len);

	for (; at < end && !c->failed; first++) {
		uint32_t len = MIN(max, end - at);

		slot_submit(s, &s->cmds[first], zero ? AGENT_CMD_ZERO : AGENT_CMD_WRITE,
			    s->rd.off + at, len, (char *)s->rd.buf + at);
		at += len;
	}
}

static void slot_write(struct copy_slot *s)
{
	uint32_t n;

	slot_write_begin(s);
	for (uint32_t i = 0; i < s->blocks && !s->copy->failed; i += n) {
		for (n = 1; i + n < s->blocks && s->block[i + n] == s->block[i]; n++)
			continue;
		if (s->block[i] != AGENT_BLOCK_CLEAN)
			slot_write_run(s, i, n);
	}
	slot_write_end(s);
}

static bool slot_read_ok(struct copy_slot *s)
{
	struct agent_copy *c = s->copy;
	char why[128];

	if (s->rd.error)
		copy_fail(c, s->rd.error, "reading %u bytes of the source at offset %llu: %s",
			  s->rd.len, (unsigned long long)s->rd.off,
			  agent_errno_text(s->rd.error, why, sizeof(why)));
	else if (s->index_error)
		copy_fail(c, s->index_error, "the disk's index in the state folder: %s",
			  agent_errno_text(s->index_error, why, sizeof(why)));
	return !c->failed;
}

static void copy_collect(struct agent_copy *c)
{
	struct list arrived, *node;

	list_init(&arrived);
	agent_source_reap(c->config.source, &arrived);
	while ((node = list_pop(&arrived))) {
		c->reading--;
		list_add_tail(&c->read, node);
		slot_read_ok(slot_of(node));
	}
	while (!c->failed && !c->lost && c->writing_count < c->depth && (node = list_pop(&c->read)))
		slot_write(slot_of(node));
}

/* --- going on after a lost connection ------------------------------------------------------- */

/* Of @n blocks from @first on: what was acknowledged and is not there any more. A server that was
 * killed has lost what it had not flushed. */
static int ask_held(struct agent_copy *c, uint64_t first, uint32_t n, struct err *err)
{
	uint32_t i = 0;
	int rc;

	while (i < n && !bit_get(c->acked, first + i))
		i++;
	if (i == n)
		return 0;
	rc = agent_sink_received(c->config.sink, first * AGENT_BLOCK, n, c->held, err);
	for (; !rc && i < n; i++) {
		if (!bit_get(c->acked, first + i) || c->held[i])
			continue;
		bit_clear(c->acked, first + i);
		bit_set(c->redo, first + i);
		c->redo_at = MIN(c->redo_at, first + i);
	}
	return rc;
}

static int copy_ask_held(struct agent_copy *c, struct err *err)
{
	uint64_t first, total = copy_blocks(c);
	int rc = 0;

	for (first = 0; !rc && first < total; first += AGENT_SINK_ASK_BLOCKS)
		rc = ask_held(c, first, (uint32_t)MIN(total - first, AGENT_SINK_ASK_BLOCKS), err);
	return rc;
}

/* Writes again what of the slot was not acknowledged. */
static void slot_again(struct copy_slot *s)
{
	struct agent_copy *c = s->copy;
	uint64_t first = s->rd.off / AGENT_BLOCK;

	for (uint32_t i = 0; i < s->blocks; i++) {
		bit_clear(c->redo, first + i);
		if (!s->zeroes && bit_get(c->acked, first + i))
			s->block[i] = AGENT_BLOCK_CLEAN;
	}
	if (s->zeroes)
		slot_zero(s);
	else
		slot_write(s);
}

static void copy_submit_again(struct agent_copy *c)
{
	struct list again, *node;

	c->lost = false;
	c->flush.cmd.done = NULL; /* not answered: ask again */
	c->writing_count = 0;
	list_init(&again);
	list_splice(&again, &c->writing);
	while (!c->lost && (node = list_pop(&again)))
		slot_again(slot_of(node));
	while ((node = list_pop(&again))) { /* lost again already */
		list_add_tail(&c->writing, node);
		c->writing_count++;
	}
}

/* A connection was lost. Reaching the sink again and again without getting anything acknowledged
 * has its end, too. */
static void copy_resume(struct agent_copy *c)
{
	struct err err = ERR_INIT;
	int64_t left;
	int rc = 0;

	if (!c->lost_ms)
		c->lost_ms = now_ms();
	left = c->lost_ms + c->config.resume_ms - now_ms();
	if (left <= 0)
		rc = err_set(&err, -ENOTCONN, "the connection to the hub is lost time and again");
	if (!rc)
		rc = agent_sink_reconnect(c->config.sink, (unsigned)left, &err);
	if (!rc)
		rc = copy_ask_held(c, &err);
	if (!rc)
		log_warn(c->config.log, "the connection to the hub was lost; goes on");
	if (!rc)
		copy_submit_again(c);
	else if (rc == -ECANCELED || left <= 0 || !agent_sink_is_lost(c->config.sink))
		copy_fail(c, rc, "%s", err.text);
	c->moved = true;
}

/* --- the loop ------------------------------------------------------------------------------- */

static void flush_done(struct agent_cmd *cmd, int error)
{
	struct copy_cmd *cc = container_of(cmd, struct copy_cmd, cmd);
	struct agent_copy *c = container_of(cc, struct agent_copy, flush);
	char why[128];

	if (error && is_lost(c, error))
		return;
	c->flushed = true;
	c->moved = true;
	if (error)
		copy_fail(c, error, "flush: %s", agent_errno_text(error, why, sizeof(why)));
}

static bool copy_all_written(const struct agent_copy *c)
{
	return !c->map_busy && c->map_next >= c->size && c->map_at >= c->map->blocks &&
	       !c->reading && list_empty(&c->read) && !c->writing_count &&
	       c->redo_at >= copy_blocks(c);
}

static void copy_flush(struct agent_copy *c)
{
	int rc;

	if (c->flush.cmd.done)
		return; /* under way */
	c->flush.cmd.done = flush_done;
	c->flush.cmd.kind = AGENT_CMD_FLUSH;
	if (!agent_sink_can_flush(c->config.sink)) {
		flush_done(&c->flush.cmd, 0);
		return;
	}
	rc = agent_sink_submit(c->config.sink, &c->flush.cmd, NULL);
	if (rc && c->acked && agent_sink_is_lost(c->config.sink))
		rc = -ENOTCONN;
	if (rc)
		flush_done(&c->flush.cmd, rc);
}

static void copy_wait(struct agent_copy *c, int64_t *last_move)
{
	struct pollfd pfd[1 + AGENT_CONNECTIONS_MAX + AGENT_SINK_CONNECTIONS_MAX];
	size_t n = 1, source_n;
	struct err lost = ERR_INIT;
	int64_t now = now_ms();
	int rc;

	pfd[0] = (struct pollfd){.fd = c->config.stop->fd, .events = POLLIN};
	source_n = agent_source_prepare(c->config.source, pfd + n);
	n += source_n;
	n += agent_sink_prepare(c->config.sink, pfd + n);
	if (c->moved)
		*last_move = now;
	rc = poll(pfd, n, c->moved ? 0 : 1000);
	c->moved = false;
	if (agent_stop_asked(c->config.stop))
		copy_fail(c, -ECANCELED, "the job was stopped");
	if (now - *last_move > COPY_STALL_MS)
		copy_fail(c, -ETIMEDOUT, "neither source nor hub has moved for %d minutes",
			  COPY_STALL_MS / 60000);
	if (rc < 0 && errno != EINTR)
		copy_fail(c, -errno, "poll: %s", strerror(errno));
	if (rc <= 0 || c->failed)
		return;
	/* A command that came back with an error has told more than its connection can. */
	rc = agent_sink_dispatch(c->config.sink, pfd + 1 + source_n, &lost);
	if (rc && c->acked && agent_sink_is_lost(c->config.sink)) {
		c->lost = c->moved = true;
		rc = 0;
	}
	if (!rc)
		rc = agent_source_dispatch(c->config.source, pfd + 1, &lost);
	if (rc)
		copy_fail(c, rc, "%s", lost.text);
}

int agent_copy_run(struct agent_copy *c, struct err *err)
{
	struct err own = ERR_INIT;
	int64_t last_move = now_ms();

	c->err = &own;
	c->failed = agent_source_start(c->config.source, copy_work, c, &own);
	while (!c->failed) {
		if (c->lost)
			copy_resume(c);
		copy_plan(c);
		copy_collect(c);
		if (!c->failed && !c->lost && copy_all_written(c))
			copy_flush(c);
		if (c->failed || c->flushed)
			break;
		copy_wait(c, &last_move);
	}
	if (!c->failed)
		c->failed = agent_source_check(c->config.source, &own);
	c->err = NULL;
	if (c->failed && err)
		*err = own;
	return c->failed;
}
