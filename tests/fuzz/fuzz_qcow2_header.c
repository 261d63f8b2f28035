/*
 * Any bytes as the front of an image: the header, its extensions, and opening the file as one
 * layer. A header that is accepted keeps the bounds everybody behind it relies on, and survives
 * being written again.
 */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "kit.h"
#include "qcow2/convert.h"
#include "qcow2/header.h"
#include "qcow2/layer.h"
#include "qcow2/qcow2.h"

#define SPARSE (48 * MIB) /* tables far behind the input lie in the file's hole */

static void check_bounds(const struct qcow2_header *h, uint64_t file_size)
{
	uint64_t cluster = 1ULL << h->cluster_bits;

	KIT_CHECK(h->version == 2 || h->version == 3);
	KIT_CHECK(h->cluster_bits >= 9 && h->cluster_bits <= 21);
	KIT_CHECK(h->size <= QCOW2_SIZE_MAX && h->refcount_order <= 6);
	KIT_CHECK(h->l1_entries * 8ULL <= QCOW2_L1_BYTES_MAX);
	KIT_CHECK(!h->l1_entries || range_inside(h->l1_off, h->l1_entries * 8ULL, file_size));
	KIT_CHECK(h->reftable_clusters * cluster <= QCOW2_REFTABLE_BYTES_MAX);
	KIT_CHECK(!(h->incompatible & ~QCOW2_INCOMPAT_KNOWN));
	KIT_CHECK(memchr(h->backing, 0, sizeof(h->backing)));
	KIT_CHECK(memchr(h->backing_format, 0, sizeof(h->backing_format)));
}

/* What a writer does with it: patches the fields it may change, or encodes a header anew. */
static void write_again(const struct qcow2_header *h, const unsigned char *bytes, size_t len,
			uint64_t file_size)
{
	_cleanup_(freep) unsigned char *patched = malloc(len),
				       *made = calloc(1, 1 << h->cluster_bits);
	struct qcow2_header again;

	KIT_CHECK(patched && made);
	memcpy(patched, bytes, len);
	if (h->version == 3) {
		qcow2_header_patch(h, patched);
		KIT_CHECK(!memcmp(patched, bytes, len));
	}
	if (qcow2_header_encode(h, made))
		return;
	KIT_CHECK(!qcow2_header_decode(&again, made, 1 << h->cluster_bits, file_size, NULL));
	KIT_CHECK(again.size == h->size && again.l1_off == h->l1_off &&
		  again.l1_entries == h->l1_entries && again.reftable_off == h->reftable_off &&
		  again.reftable_clusters == h->reftable_clusters &&
		  again.incompatible == h->incompatible && again.compatible == h->compatible &&
		  again.autoclear == h->autoclear && again.refcount_order == h->refcount_order &&
		  again.compression == h->compression && !strcmp(again.backing, h->backing) &&
		  !strcmp(again.backing_format, h->backing_format));
}

static void decode(const uint8_t *data, size_t size, uint64_t file_size)
{
	_cleanup_(freep) unsigned char *bytes = NULL;
	struct err err = ERR_INIT;
	struct qcow2_header h;
	unsigned bits;
	size_t len;

	if (qcow2_header_probe(data, MIN(size, QCOW2_HEADER_PROBE), &bits, &err)) {
		KIT_CHECK(err.text[0]);
		return;
	}
	len = MIN(size, 1ULL << bits);
	bytes = malloc(len); /* of its own, so that a step over its end is seen */
	KIT_CHECK(bytes);
	memcpy(bytes, data, len);
	if (qcow2_header_decode(&h, bytes, len, file_size, &err)) {
		KIT_CHECK(err.text[0]);
		return;
	}
	check_bounds(&h, file_size);
	write_again(&h, bytes, len, file_size);
}

static void open_it(const uint8_t *data, size_t size, uint64_t file_size)
{
	struct qcow2_check_result result;
	struct qcow2_file_info *files;
	struct qcow2_layer *layer;
	struct err err = ERR_INIT;
	struct file *file;
	unsigned count;
	int r;

	kit_store("a.qcow2", data, size, file_size);
	KIT_CHECK(!file_open(&file, kit_path("a.qcow2"), FILE_RDONLY, NULL));
	r = qcow2_layer_open(&layer, file, "a.qcow2", &err);
	KIT_CHECK(!r || err.text[0]);
	if (!r)
		qcow2_layer_free(layer);
	if (!qcow2_describe(kit_path("a.qcow2"), NULL, &files, &count, NULL))
		qcow2_describe_free(files, count);
	qcow2_check(kit_path("a.qcow2"), false, &result, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	bool sparse = size && data[size - 1] & 1;

	decode(data, size, size);
	decode(data, size, UINT64_MAX);
	open_it(data, size, sparse ? SPARSE : size);
	return 0;
}
