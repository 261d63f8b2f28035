/*
 * Any bytes as an image file, and as the parent of one: describe, check, map, read, then write and
 * close. Whatever they are,
 * the engine answers with an error or with data; it never crashes, hangs, or asks for memory the
 * file does not justify.
 */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/file.h"
#include "kit.h"
#include "qcow2/convert.h"
#include "qcow2/session.h"

#define READ_MAX (4 * MIB)
#define EXTENTS	 256

static const char *image, *child; /* child: a sound overlay of whatever image is */
static struct qcow2_session session;
static unsigned char *buffer;

static void set_up(void)
{
	struct qcow2_create_opts overlay = {
		.size = MIB, .cluster_size = 4096, .backing = "a.qcow2"};

	if (buffer)
		return;
	buffer = aligned_alloc(FILE_ALIGN, READ_MAX);
	image = strdup(kit_path("a.qcow2"));
	child = strdup(kit_path("b.qcow2"));
	KIT_CHECK(buffer && image && child);
	KIT_CHECK(!qcow2_session_init(&session, QCOW2_BATCHES_MIN, NULL));
	KIT_CHECK(!qcow2_create(child, &overlay, NULL));
}

static void look(void)
{
	struct qcow2_check_result result;
	struct qcow2_file_info *files;
	unsigned count;

	if (!qcow2_describe(image, NULL, &files, &count, NULL))
		qcow2_describe_free(files, count);
	qcow2_check(image, false, &result, NULL);
}

/* Both ends of the disk; a fuzzer makes it 64 TiB at once. */
static void read_all(const char *path)
{
	struct qcow2_open_opts opts = {.writable = false};
	struct qcow2_extent extents[EXTENTS];
	struct qcow2_info info;
	unsigned count;

	if (qcow2_session_open(&session, path, &opts, NULL))
		return;
	qcow2_get_info(session.img, &info);
	if (info.size) {
		uint64_t len = MIN(info.size, READ_MAX);

		qcow2_session_extents(&session, 0, info.size, extents, EXTENTS, &count);
		qcow2_session_read(&session, 0, buffer, len);
		qcow2_session_read(&session, info.size - len, buffer, len);
	}
	qcow2_session_drop(&session);
}

static void write_some(void)
{
	struct qcow2_open_opts opts = {.writable = true};
	struct qcow2_check_result result;
	struct qcow2_info info;

	if (qcow2_session_open(&session, image, &opts, NULL))
		return;
	qcow2_get_info(session.img, &info);
	memset(buffer, 0xa5, 8192);
	if (info.size) {
		qcow2_session_write(&session, 0, buffer, MIN(info.size, 8192));
		qcow2_session_zero(&session, info.size / 2, info.size - info.size / 2);
	}
	/* What the engine agrees to write and closes cleanly is an image without faults. */
	if (!qcow2_session_close(&session, NULL))
		KIT_CHECK(!qcow2_check(image, false, &result, NULL) && !result.corruptions &&
			  !result.leaks && !result.refcount_errors && !result.dirty);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	set_up();
	kit_store("a.qcow2", data, size);
	look();
	read_all(image);
	read_all(child);
	write_some();
	return 0;
}
