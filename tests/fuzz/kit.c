#include "kit.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "qcow2/session.h"

void kit_fail(const char *file, int line, const char *what)
{
	fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
	abort();
}

/* --- files ---------------------------------------------------------------------------------- */

#define PATHS 8

static char folder[64];

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static void remove_folder(void)
{
	nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

const char *kit_folder(void)
{
	const char *tmp = getenv("TMPDIR");

	if (folder[0])
		return folder;
	snprintf(folder, sizeof(folder), "%s/sendense-fuzz-XXXXXX", tmp ? tmp : "/tmp");
	KIT_CHECK(mkdtemp(folder));
	atexit(remove_folder);
	return folder;
}

const char *kit_path(const char *name)
{
	static char paths[PATHS][128];
	static unsigned next;
	char *path = paths[next++ % PATHS];

	snprintf(path, sizeof(paths[0]), "%s/%s", kit_folder(), name);
	return path;
}

void kit_store(const char *name, const void *data, size_t size, uint64_t file_size)
{
	_cleanup_(fclosep) FILE *f = fopen(kit_path(name), "wb");

	KIT_CHECK(f && fwrite(data, 1, size, f) == size && !fflush(f));
	KIT_CHECK(file_size <= size || !ftruncate(fileno(f), file_size));
}

/* --- inputs that describe something --------------------------------------------------------- */

uint64_t kit_take(struct kit_input *in, unsigned bytes)
{
	uint64_t value = 0;

	while (bytes--)
		value = value << 8 | (in->p < in->end ? *in->p++ : 0);
	return value;
}

const uint8_t *kit_take_bytes(struct kit_input *in, size_t max, size_t *len)
{
	const uint8_t *p = in->p;

	*len = MIN(max, (size_t)(in->end - in->p));
	in->p += *len;
	return p;
}

/* --- images --------------------------------------------------------------------------------- */

struct qcow2_session *kit_session(void)
{
	static struct qcow2_session session;
	static bool ready;

	if (!ready)
		KIT_CHECK(!qcow2_session_init(&session, QCOW2_BATCHES_MIN, NULL));
	ready = true;
	return &session;
}

static uint32_t look_at(struct qcow2_session *s, uint64_t from, uint64_t len, unsigned char *buf)
{
	uint32_t bad = 0;
	uint64_t off;

	for (off = 0; off < len; off += KIT_VIEW_PIECE) {
		uint64_t n = MIN(len - off, KIT_VIEW_PIECE);
		int r = qcow2_session_read(s, from + off, buf + off, n);

		KIT_CHECK(!r || r == -EIO);
		if (!r)
			continue;
		bad |= 1U << (off / KIT_VIEW_PIECE);
		memset(buf + off, 0, n);
	}
	return bad;
}

void kit_look(struct kit_view *view, const char *path, const char *repository)
{
	struct qcow2_open_opts opts = {.repository = repository};
	struct qcow2_session *s = kit_session();
	struct qcow2_info info;
	uint64_t n;

	memset(view, 0, sizeof(*view));
	if (qcow2_session_open(s, path, &opts, NULL))
		return;
	qcow2_get_info(s->img, &info);
	n = MIN(info.size, KIT_VIEW_BYTES);
	view->opened = true;
	view->size = info.size;
	view->tail_off = info.size - n;
	view->head = aligned_alloc(FILE_ALIGN, KIT_VIEW_BYTES);
	view->tail = aligned_alloc(FILE_ALIGN, KIT_VIEW_BYTES);
	KIT_CHECK(view->head && view->tail);
	view->head_bad = look_at(s, 0, n, view->head);
	view->tail_bad = look_at(s, view->tail_off, n, view->tail);
	qcow2_session_drop(s);
}

void kit_view_free(struct kit_view *view)
{
	free(view->head);
	free(view->tail);
	memset(view, 0, sizeof(*view));
}

static void write_end(unsigned char *buf, uint64_t start, uint64_t size, uint64_t off, uint64_t len,
		      unsigned char value)
{
	uint64_t from = MAX(off, start), to = MIN(off + len, start + MIN(size, KIT_VIEW_BYTES));

	if (from < to)
		memset(buf + (from - start), value, to - from);
}

void kit_view_write(struct kit_view *view, uint64_t off, uint64_t len, unsigned char value)
{
	write_end(view->head, 0, view->size, off, len, value);
	write_end(view->tail, view->tail_off, view->size, off, len, value);
}

static void compare_end(const unsigned char *a, const unsigned char *b, uint32_t bad, uint64_t size)
{
	uint64_t off, n = MIN(size, KIT_VIEW_BYTES);

	for (off = 0; off < n; off += KIT_VIEW_PIECE)
		if (!(bad >> (off / KIT_VIEW_PIECE) & 1))
			KIT_CHECK(!memcmp(a + off, b + off, MIN(n - off, KIT_VIEW_PIECE)));
}

void kit_view_compare(const struct kit_view *before, const struct kit_view *after)
{
	if (!before->opened)
		return;
	KIT_CHECK(after->opened && after->size == before->size);
	KIT_CHECK(!(after->head_bad & ~before->head_bad) && !(after->tail_bad & ~before->tail_bad));
	compare_end(before->head, after->head, before->head_bad, before->size);
	compare_end(before->tail, after->tail, before->tail_bad, before->size);
}
