/* Good clients: libnbd's, several connections each, eight requests in flight. They know what their
 * part of the disk holds and believe nothing else. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <libnbd.h>

#include "tests/soak/soak.h"

#define SLOTS	     8 /* requests in flight, each in a part of its own */
#define CONNECTIONS  2
#define LENGTH_MAX   (512 * KIB)
#define PATIENCE_S   120 /* this long for anything: whoever is slower has stopped */
#define VERIFY_EVERY 64	 /* batches */

struct slot {
	struct client *c;
	uint64_t off, len;
	unsigned char *buf; /* READ: LENGTH_MAX bytes */
	bool reading;
	int error;
	bool done;
};

struct client {
	struct soak_thread *t;
	struct soak *soak;
	struct soak_disk *disk;
	uint64_t random;
	struct nbd_handle *h[CONNECTIONS];
	struct slot slots[SLOTS];
};

static int64_t now_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec;
}

static uint64_t below(struct client *c, uint64_t n)
{
	return soak_random(&c->random) % n;
}

static bool going(const struct client *c)
{
	return !atomic_load(&c->soak->stop);
}

/* --- connections ------------------------------------------------------------------------------ */

static struct nbd_handle *try_connect(struct client *c)
{
	struct nbd_handle *h = nbd_create();
	bool tcp = below(c, 2), tls = tcp && below(c, 2);
	char uri[256], keys[256];

	if (!h)
		return NULL;
	if (tcp)
		snprintf(uri, sizeof(uri), "nbd%s://127.0.0.1:%u/%s", tls ? "s" : "", c->soak->port,
			 c->disk->name);
	else
		snprintf(uri, sizeof(uri), "nbd+unix:///%s?socket=%s", c->disk->name,
			 c->soak->socket);
	snprintf(keys, sizeof(keys), "%s/keys.psk", c->soak->dir);
	nbd_set_tls_psk_file(h, keys);
	nbd_set_tls_username(h, "good");
	nbd_set_request_structured_replies(h, below(c, 3) > 0);
	nbd_add_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION);
	if (nbd_connect_uri(h, uri) == 0)
		return h;
	nbd_close(h);
	return NULL;
}

/* Bad clients may fill the house for a while; NULL: the round is over. */
static struct nbd_handle *connect_to(struct client *c)
{
	int64_t end = now_s() + PATIENCE_S;
	struct nbd_handle *h;

	while (going(c)) {
		h = try_connect(c);
		if (h) {
			soak_count(c->soak, SOAK_CONNECTS, 1);
			return h;
		}
		soak_count(c->soak, SOAK_REFUSED, 1);
		if (now_s() > end) {
			soak_violation(c->soak, "a good client cannot connect to '%s': %s",
				       c->disk->name, nbd_get_error());
			return NULL;
		}
		usleep(20000);
	}
	return NULL;
}

static void disconnect(struct client *c, unsigned i)
{
	if (!c->h[i])
		return;
	if (below(c, 2))
		nbd_shutdown(c->h[i], 0);
	nbd_close(c->h[i]);
	c->h[i] = NULL;
}

static bool connect_all(struct client *c)
{
	unsigned i;

	for (i = 0; i < CONNECTIONS; i++) {
		if (!c->h[i])
			c->h[i] = connect_to(c);
		if (!c->h[i])
			return false;
	}
	return true;
}

/* --- one batch -------------------------------------------------------------------------------- */

static void choose_range(struct client *c, unsigned i)
{
	static const uint64_t most[] = {1, 512, 4096, 70000, LENGTH_MAX};
	uint64_t part = (c->t->end - c->t->start) / SLOTS;
	struct slot *s = &c->slots[i];

	s->len = 1 + below(c, MIN(most[below(c, ARRAY_SIZE(most))], part));
	s->off = c->t->start + i * part + below(c, part - s->len + 1);
}

static void fill(struct client *c, uint64_t off, uint64_t len)
{
	unsigned char *p = c->disk->model + off;
	/* Some of it compresses, and some is what the parent holds already. */
	uint64_t seed = below(c, 4) ? soak_random(&c->random) : 42, i;

	for (i = 0; i < len; i++)
		p[i] = (seed >> (i % 8 * 8)) + (i >> 6);
}

static int completed(void *user_data, int *error)
{
	struct slot *s = user_data;

	s->error = *error;
	s->done = true;
	return 1;
}

/* Starts one request and puts what it does into the model. */
static int64_t submit(struct client *c, unsigned i)
{
	struct slot *s = &c->slots[i];
	struct nbd_handle *h = c->h[i % CONNECTIONS];
	nbd_completion_callback done = {.callback = completed, .user_data = s};
	uint32_t fua = below(c, 8) ? 0 : LIBNBD_CMD_FLAG_FUA;
	unsigned char *p;
	unsigned what = below(c, 16);

	choose_range(c, i);
	p = c->disk->model + s->off;
	s->done = s->reading = false;
	if (what < 6) {
		s->reading = true;
		return nbd_aio_pread(h, s->buf, s->len, s->off, done, 0);
	}
	if (what < 13) {
		fill(c, s->off, s->len);
		soak_count(c->soak, SOAK_WRITTEN, s->len);
		return nbd_aio_pwrite(h, p, s->len, s->off, done, fua);
	}
	memset(p, 0, s->len);
	soak_count(c->soak, SOAK_ZEROED, s->len);
	if (what == 13)
		return nbd_aio_trim(h, s->len, s->off, done, fua);
	return nbd_aio_zero(h, s->len, s->off, done, fua);
}

static bool all_done(const struct client *c)
{
	unsigned i;

	for (i = 0; i < SLOTS; i++)
		if (!c->slots[i].done)
			return false;
	return true;
}

static bool await_all(struct client *c)
{
	int64_t end = now_s() + PATIENCE_S;
	unsigned i;

	while (!all_done(c)) {
		for (i = 0; i < CONNECTIONS; i++)
			if (nbd_aio_in_flight(c->h[i]) > 0 && nbd_poll(c->h[i], 10) < 0) {
				soak_violation(c->soak,
					       "a good client of '%s' lost its connection: %s",
					       c->disk->name, nbd_get_error());
				return false;
			}
		if (now_s() > end) {
			soak_violation(c->soak, "'%s': no reply for %d s", c->disk->name,
				       PATIENCE_S);
			return false;
		}
	}
	return true;
}

static bool check_slot(struct client *c, const struct slot *s)
{
	if (s->error) {
		soak_violation(c->soak, "'%s': a request at %llu of %llu bytes failed: %s",
			       c->disk->name, (unsigned long long)s->off,
			       (unsigned long long)s->len, strerror(s->error));
		return false;
	}
	if (!s->reading)
		return true;
	soak_count(c->soak, SOAK_READ, s->len);
	if (memcmp(s->buf, c->disk->model + s->off, s->len) == 0)
		return true;
	soak_violation(c->soak, "'%s': %llu bytes at %llu are not what was written", c->disk->name,
		       (unsigned long long)s->len, (unsigned long long)s->off);
	return false;
}

static bool batch(struct client *c)
{
	unsigned i;

	for (i = 0; i < SLOTS; i++)
		if (submit(c, i) < 0) {
			soak_violation(c->soak, "a request to '%s' cannot be sent: %s",
				       c->disk->name, nbd_get_error());
			return false;
		}
	if (!await_all(c))
		return false;
	soak_count(c->soak, SOAK_OPERATIONS, SLOTS);
	for (i = 0; i < SLOTS; i++)
		if (!check_slot(c, &c->slots[i]))
			return false;
	return true;
}

/* --- the map ---------------------------------------------------------------------------------- */

struct map_check {
	struct client *c;
	uint64_t off;
};

/* What is announced to read as zeroes holds zeroes. */
static int map_extents(void *user_data, const char *context, uint64_t offset, uint32_t *entries,
		       size_t count, int *error)
{
	struct map_check *m = user_data;
	const struct client *c = m->c;
	uint64_t off = offset;
	size_t i, k;

	(void)context;
	(void)error;
	for (i = 0; i + 1 < count; off += entries[i], i += 2)
		for (k = 0; entries[i + 1] & 2 && k < entries[i] && off + k < c->t->end; k++)
			if (c->disk->model[off + k])
				soak_violation(c->soak, "'%s': byte %llu is announced as zero",
					       c->disk->name, (unsigned long long)(off + k));
	return 0;
}

static bool map(struct client *c)
{
	struct map_check m = {.c = c};
	nbd_extent_callback extents = {.callback = map_extents, .user_data = &m};
	struct nbd_handle *h = c->h[0];

	if (nbd_can_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION) != 1)
		return true;
	if (nbd_block_status(h, c->t->end - c->t->start, c->t->start, extents, 0) == 0)
		return true;
	soak_violation(c->soak, "BLOCK_STATUS of '%s': %s", c->disk->name, nbd_get_error());
	return false;
}

/* --- threads ---------------------------------------------------------------------------------- */

/* All of [start, end) once, by a connection that has written nothing. */
static bool verify(struct client *c, uint64_t start, uint64_t end)
{
	struct nbd_handle *h = connect_to(c);
	uint64_t off, len;
	bool ok = h;

	for (off = start; ok && off < end; off += len) {
		struct slot s = {.off = off, .buf = c->slots[0].buf, .reading = true};

		len = s.len = MIN(end - off, LENGTH_MAX);
		if (nbd_pread(h, s.buf, s.len, s.off, 0) < 0)
			s.error = nbd_get_errno() ? nbd_get_errno() : EIO;
		ok = check_slot(c, &s);
	}
	if (h)
		nbd_close(h);
	return ok;
}

static bool client_init(struct client *c, struct soak_thread *t)
{
	unsigned i;
	bool ok = true;

	memset(c, 0, sizeof(*c));
	c->t = t;
	c->soak = t->soak;
	c->disk = &t->soak->disks[t->disk];
	c->random = t->seed;
	for (i = 0; i < SLOTS; i++) {
		c->slots[i].c = c;
		c->slots[i].buf = malloc(LENGTH_MAX);
		ok = ok && c->slots[i].buf;
	}
	return ok;
}

static void client_deinit(struct client *c)
{
	unsigned i;

	for (i = 0; i < CONNECTIONS; i++)
		disconnect(c, i);
	for (i = 0; i < SLOTS; i++)
		free(c->slots[i].buf);
}

void *soak_writer(void *arg)
{
	struct client c;
	unsigned i;
	bool ok = client_init(&c, arg);

	for (i = 1; ok && going(&c) && connect_all(&c); i++) {
		ok = batch(&c);
		if (ok && i % 4 == 0 && nbd_flush(c.h[0], 0) < 0) {
			soak_violation(c.soak, "FLUSH of '%s': %s", c.disk->name, nbd_get_error());
			ok = false;
		}
		if (ok && i % 16 == 0)
			ok = map(&c);
		if (ok && i % VERIFY_EVERY == 0)
			ok = verify(&c, c.t->start, c.t->end) || !going(&c);
		if (below(&c, 24) == 0)
			disconnect(&c, below(&c, CONNECTIONS));
	}
	client_deinit(&c);
	return NULL;
}

/* Of a disk that does not change: all of it, again and again. */
void *soak_reader(void *arg)
{
	struct client c;
	bool ok = client_init(&c, arg);

	while (ok && going(&c))
		ok = verify(&c, c.t->start, c.t->end) || !going(&c);
	client_deinit(&c);
	return NULL;
}

static void verify_scratch(struct client *c)
{
	struct soak_disk *disk = c->disk;
	uint64_t start = disk->size - SOAK_SCRATCH, off, i;
	struct nbd_handle *h = connect_to(c);

	for (off = start; h && off < disk->size; off += LENGTH_MAX) {
		uint64_t len = MIN(disk->size - off, LENGTH_MAX);
		unsigned char *p = disk->model + off;

		if (nbd_pread(h, p, len, off, 0) < 0)
			soak_violation(c->soak, "'%s': %s", disk->name, nbd_get_error());
		for (i = 0; i < len; i++)
			if (p[i] && p[i] != SOAK_JUNK) {
				soak_violation(c->soak, "'%s': byte %llu was written by nobody",
					       disk->name, (unsigned long long)(off + i));
				break;
			}
	}
	if (h)
		nbd_close(h);
}

void soak_verify(struct soak *soak, unsigned disk)
{
	struct soak_thread t = {
		.soak = soak, .seed = disk + 1, .disk = disk, .end = soak->disks[disk].size};
	struct client c;

	if (!soak->disks[disk].read_only)
		t.end -= SOAK_SCRATCH;
	if (client_init(&c, &t) && verify(&c, 0, t.end) && !c.disk->read_only)
		verify_scratch(&c);
	client_deinit(&c);
}
