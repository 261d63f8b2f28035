/*
 * Any bytes as a whole image, for what lies behind the header: L1, L2, refcounts, snapshots,
 * compressed streams. Whatever they are, mapping and reading end with data or an I/O error; a
 * repair leaves an image without faults and never changes what a reader sees; what the engine
 * agrees to write holds what was written, and nothing else has changed.
 */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "kit.h"
#include "qcow2/format.h"
#include "qcow2/session.h"

#define EXTENTS	  256
#define MAP_CALLS 64
#define IMAGE	  kit_path("a.qcow2")

/* --- mutations that know where entries are -------------------------------------------------- */

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

/* An entry somewhere that points to a cluster somewhere, with flags that may make sense. */
static void set_entry(uint8_t *data, size_t size, unsigned seed)
{
	static const uint64_t flags[] = {0, QCOW2_ENTRY_COPIED,
					 QCOW2_ENTRY_COPIED | QCOW2_ENTRY_ZERO, QCOW2_ENTRY_ZERO,
					 QCOW2_ENTRY_COMPRESSED};
	unsigned bits = 9 + (data[QCOW2_H_CLUSTER_BITS + 3] - 9U) % 13;
	uint64_t clusters = (size >> bits) + 2, value;
	unsigned long long state[2] = {seed * 0x9e3779b97f4a7c15ULL, seed * 0xc2b2ae3d27d4eb4fULL};
	size_t at = (state[0] >> 20) % (size / 8) * 8;

	value = (state[1] >> 20) % clusters << bits;
	value |= flags[(state[1] >> 40) % ARRAY_SIZE(flags)];
	if (!(state[0] >> 60)) /* a refcount, or a part of anything */
		value = state[1] >> 56;
	store_be64(data + at, value);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
	if (size < QCOW2_H_OUR_LENGTH || seed % 3 == 0)
		return LLVMFuzzerMutate(data, size, max_size);
	set_entry(data, size, seed);
	return size;
}

/* --- what is asked of it -------------------------------------------------------------------- */

static void map_all(void)
{
	struct qcow2_open_opts opts = {.writable = false};
	struct qcow2_session *s = kit_session();
	struct qcow2_extent extent[EXTENTS];
	struct qcow2_info info;
	unsigned count, i, calls;
	uint64_t off = 0;

	if (qcow2_session_open(s, IMAGE, &opts, NULL))
		return;
	qcow2_get_info(s->img, &info);
	for (calls = 0; off < info.size && calls < MAP_CALLS; calls++) {
		int r = qcow2_session_extents(s, off, info.size - off, extent, EXTENTS, &count);

		KIT_CHECK(!r || r == -EIO);
		if (r)
			break;
		KIT_CHECK(count && count <= EXTENTS);
		for (i = 0; i < count; i++) {
			KIT_CHECK(extent[i].len && extent[i].len <= info.size - off);
			off += extent[i].len;
		}
	}
	qcow2_session_drop(s);
}

/* True when the image has no fault that a check knows. */
static bool sound(void)
{
	struct qcow2_check_result c;

	return !qcow2_check(IMAGE, false, &c, NULL) && !c.corruptions && !c.leaks &&
	       !c.refcount_errors && !c.copied_errors && !c.dirty;
}

static void repair(const struct kit_view *before)
{
	struct qcow2_check_result c;
	struct kit_view after;

	if (!qcow2_check(IMAGE, true, &c, NULL) && !c.corruptions)
		KIT_CHECK(sound());
	kit_look(&after, IMAGE, NULL);
	kit_view_compare(before, &after);
	kit_view_free(&after);
}

static void write_some(struct kit_view *view, uint64_t where)
{
	struct qcow2_open_opts opts = {.writable = true};
	struct qcow2_session *s = kit_session();
	uint64_t off, len;

	if (qcow2_session_open(s, IMAGE, &opts, NULL))
		return;
	if (view->size) {
		unsigned char data[9000];

		off = where % view->size;
		len = MIN(view->size - off, sizeof(data));
		memset(data, 0xa5, sizeof(data));
		/* a cluster that cannot be read cannot be written in part either */
		if (!qcow2_session_write(s, off, data, len))
			kit_view_write(view, off, len, 0xa5);
		off = view->size / 2;
		len = (view->size - off) / 2;
		if (!qcow2_session_zero(s, off, len))
			kit_view_write(view, off, len, 0);
	}
	if (!qcow2_session_close(s, NULL)) {
		struct kit_view after;

		KIT_CHECK(sound());
		kit_look(&after, IMAGE, NULL);
		kit_view_compare(view, &after);
		kit_view_free(&after);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct kit_view view;

	kit_store("a.qcow2", data, size, size);
	kit_look(&view, IMAGE, NULL);
	map_all();
	repair(&view);
	kit_store("a.qcow2", data, size, size);
	write_some(&view, size ? data[size - 1] * 4099ULL : 0);
	kit_view_free(&view);
	return 0;
}
