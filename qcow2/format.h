/*
 * The bytes of a qcow2 file, as QEMU's docs/interop/qcow2 defines them. All integers are
 * big-endian. Nothing but constants here; header.c reads and writes the header, the tables are
 * arrays of 64-bit entries.
 */
#ifndef QCOW2_FORMAT_H
#define QCOW2_FORMAT_H

#include <stdint.h>

#define QCOW2_MAGIC 0x514649fbU /* "QFI\xfb" */

/* Header fields: byte offsets. Version 2 ends at 72, version 3 at header_length (>= 104). */
enum {
	QCOW2_H_MAGIC = 0,
	QCOW2_H_VERSION = 4,
	QCOW2_H_BACKING_OFFSET = 8,
	QCOW2_H_BACKING_SIZE = 16,
	QCOW2_H_CLUSTER_BITS = 20,
	QCOW2_H_SIZE = 24,
	QCOW2_H_CRYPT_METHOD = 32,
	QCOW2_H_L1_SIZE = 36,
	QCOW2_H_L1_OFFSET = 40,
	QCOW2_H_REFTABLE_OFFSET = 48,
	QCOW2_H_REFTABLE_CLUSTERS = 56,
	QCOW2_H_SNAPSHOTS = 60,
	QCOW2_H_SNAPSHOTS_OFFSET = 64,
	QCOW2_H_V2_LENGTH = 72,
	QCOW2_H_INCOMPATIBLE = 72,
	QCOW2_H_COMPATIBLE = 80,
	QCOW2_H_AUTOCLEAR = 88,
	QCOW2_H_REFCOUNT_ORDER = 96,
	QCOW2_H_HEADER_LENGTH = 100,
	QCOW2_H_V3_LENGTH = 104,
	QCOW2_H_COMPRESSION_TYPE = 104,
	QCOW2_H_OUR_LENGTH = 112,
};

#define QCOW2_INCOMPAT_DIRTY	    (1ULL << 0)
#define QCOW2_INCOMPAT_CORRUPT	    (1ULL << 1)
#define QCOW2_INCOMPAT_DATA_FILE    (1ULL << 2)
#define QCOW2_INCOMPAT_COMPRESSION  (1ULL << 3)
#define QCOW2_INCOMPAT_EXTENDED_L2  (1ULL << 4)
#define QCOW2_INCOMPAT_KNOWN	    0x1fULL
#define QCOW2_COMPAT_LAZY_REFCOUNTS (1ULL << 0)
#define QCOW2_AUTOCLEAR_BITMAPS	    (1ULL << 0)

/* Header extensions: type, length, data padded to 8. */
#define QCOW2_EXT_END		 0x00000000U
#define QCOW2_EXT_BACKING_FORMAT 0xe2792acaU
#define QCOW2_EXT_FEATURE_NAMES	 0x6803f857U
#define QCOW2_EXT_BITMAPS	 0x23852875U
#define QCOW2_EXT_BITMAPS_LENGTH 24U /* count, reserved, bytes and offset of the directory */
/* Ours: an image being written; COPIED tells whole clusters from others. See received.c. */
#define QCOW2_EXT_WHOLE		0x5e9d3a17U
#define QCOW2_FEATURE_NAME_SIZE 48U

enum { QCOW2_COMPRESSION_ZLIB = 0, QCOW2_COMPRESSION_ZSTD = 1 };

/* L1 and L2 entries. */
#define QCOW2_ENTRY_COPIED     (1ULL << 63)
#define QCOW2_ENTRY_COMPRESSED (1ULL << 62)
#define QCOW2_ENTRY_ZERO       (1ULL << 0)
#define QCOW2_ENTRY_OFFSET     0x00fffffffffffe00ULL
#define QCOW2_L1_RESERVED      0x7f000000000001ffULL
#define QCOW2_L2_RESERVED      0x3f000000000001feULL

#define QCOW2_REFTABLE_OFFSET	0xfffffffffffffe00ULL
#define QCOW2_REFTABLE_RESERVED 0x1ffULL

/* Bounds checked before anything is allocated for a file that claims more. */
#define QCOW2_L1_BYTES_MAX	 (32ULL << 20)
#define QCOW2_REFTABLE_BYTES_MAX (8ULL << 20)
#define QCOW2_BACKING_NAME_MAX	 1023
#define QCOW2_SUBCLUSTERS	 32

#endif
