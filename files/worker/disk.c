#include "files/worker/disk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "files/worker/wire.h"

/* 32 MiB: the metadata of what is being looked at, and what a stream has read ahead. */
#define LINE	  (64U << 10)
#define WAYS	  8U
#define SETS	  64U
#define AHEAD_MAX (PROTO_DATA_MAX / LINE) /* lines a request asks for */
#define STREAMS	  4U
#define NO_LINE	  UINT64_MAX

struct line {
	uint64_t number; /* NO_LINE: empty */
	uint64_t used;	 /* when; 0: never */
	unsigned char *data;
};

/* Somebody who reads on: each miss that follows the last doubles what is asked for. */
struct stream {
	uint64_t next;
	unsigned ahead;
};

struct disk {
	int fd;
	uint64_t size, clock;
	struct line lines[SETS][WAYS];
	struct stream streams[STREAMS];
	unsigned next_stream;
	unsigned char *arrival; /* PROTO_DATA_MAX */
};

struct disk *disk_new(int fd, uint64_t size)
{
	struct disk *d = calloc(1, sizeof(*d));
	unsigned char *data = malloc((size_t)SETS * WAYS * LINE);
	unsigned i;

	if (!d || !data || !(d->arrival = malloc(PROTO_DATA_MAX))) {
		free(d);
		free(data);
		return NULL;
	}
	d->fd = fd;
	d->size = size;
	for (i = 0; i < SETS * WAYS; i++)
		d->lines[i / WAYS][i % WAYS] =
			(struct line){.number = NO_LINE, .data = data + (size_t)i * LINE};
	for (i = 0; i < STREAMS; i++)
		d->streams[i].next = NO_LINE;
	return d;
}

uint64_t disk_size(const struct disk *d)
{
	return d->size;
}

/* --- the cache ------------------------------------------------------------------------------ */

static struct line *set_of(struct disk *d, uint64_t number)
{
	return d->lines[number % SETS];
}

static struct line *find(struct disk *d, uint64_t number)
{
	struct line *set = set_of(d, number);
	unsigned i;

	for (i = 0; i < WAYS; i++)
		if (set[i].number == number)
			return &set[i];
	return NULL;
}

/* The line that holds @number, else the one unused for longest; an empty one was never used. */
static struct line *place_for(struct disk *d, uint64_t number)
{
	struct line *set = set_of(d, number), *place = find(d, number);
	unsigned i;

	if (place)
		return place;
	for (i = 1, place = set; i < WAYS; i++)
		if (set[i].used < place->used)
			place = &set[i];
	return place;
}

static void store(struct disk *d, uint64_t number, const unsigned char *data, size_t len)
{
	struct line *line = place_for(d, number);

	line->number = number;
	line->used = ++d->clock;
	memcpy(line->data, data, len);
	memset(line->data + len, 0, LINE - len);
}

/* --- asking --------------------------------------------------------------------------------- */

static unsigned lines_to_ask(struct disk *d, uint64_t number)
{
	struct stream *s;
	unsigned i;

	for (i = 0; i < STREAMS; i++) {
		s = &d->streams[i];
		if (s->next != number)
			continue;
		s->ahead = MIN(s->ahead * 2, AHEAD_MAX);
		s->next = number + s->ahead;
		return s->ahead;
	}
	s = &d->streams[d->next_stream++ % STREAMS];
	*s = (struct stream){.next = number + 1, .ahead = 1};
	return 1;
}

static int ask(struct disk *d, uint64_t off, uint32_t len)
{
	struct proto_block_request req = {.off = off, .len = len};
	struct proto_block_answer ans;

	wire_send(d->fd, &req, sizeof(req));
	wire_recv(d->fd, &ans, sizeof(ans));
	if (ans.status)
		return -EIO;
	wire_recv(d->fd, d->arrival, len);
	return 0;
}

static int fill(struct disk *d, uint64_t number)
{
	uint64_t off = number * LINE, len;
	unsigned count = lines_to_ask(d, number), i;
	int r;

	len = MIN((uint64_t)count * LINE, d->size - off);
	r = ask(d, off, (uint32_t)len);
	if (r && len > LINE) { /* what is damaged may lie in what was asked for ahead */
		len = LINE;
		r = ask(d, off, LINE);
	}
	for (i = 0; !r && (uint64_t)i * LINE < len; i++)
		store(d, number + i, d->arrival + (size_t)i * LINE,
		      MIN(LINE, len - (uint64_t)i * LINE));
	return r;
}

int disk_read(struct disk *d, uint64_t off, void *buf, size_t len)
{
	struct line *line;
	size_t from, n;
	int r;

	if (!range_inside(off, len, d->size))
		return -EIO;
	for (; len; off += n, len -= n, buf = (char *)buf + n) {
		line = find(d, off / LINE);
		if (!line) {
			r = fill(d, off / LINE);
			if (r)
				return r;
			line = find(d, off / LINE);
		}
		line->used = ++d->clock;
		from = off % LINE;
		n = MIN(LINE - from, len);
		memcpy(buf, line->data + from, n);
	}
	return 0;
}
