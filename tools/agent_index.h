/*
 * One file that says how a disk looked when a point of it was taken: a sealed record of identity
 * (lineage UUID, sequence, disk size) and, for kind HASH, one 128-bit hash per 64 KiB block. Kind
 * BITMAP has no hashes: it remembers only that the point exists, for the source's own dirty bitmap
 * tells what changed since.
 *
 * Life of a file: agent_index_create() opens a nameless one (O_TMPFILE, or a .tmp name where the
 * file system has none), blocks are put in any order, agent_index_seal() makes it durable under its
 * name: checksum, fsync, rename, fsync of the folder. So a name stands for a whole file; the
 * checksums are for what disks do later. A sealed file never changes.
 *
 * Layout, big-endian:
 *      0  "SDNSIDX1"       8  header bytes (4096)     12  kind
 *     16  block bytes     20  zero                    24  disk bytes        32  blocks
 *     40  sequence        48  generation              56  hash seed         64  UUID
 *     80  XXH3-128 of the bitmap's name (BITMAP)      96  XXH3-128 of all hashes
 *    112  XXH3-128 of bytes 0..111                    then zeroes to 4096
 *   4096  16 bytes a block: its XXH3-128 under the seed; all zero for a block of zeroes
 *
 * The seed is random, one a lineage, so that nobody can prepare two blocks that hash alike.
 * Get and put may be called from any thread at once, for different blocks.
 */
#ifndef TOOLS_AGENT_INDEX_H
#define TOOLS_AGENT_INDEX_H

#include <stdint.h>

#include "base/cleanup.h"
#include "base/err.h"

#define AGENT_BLOCK	  65536u
#define AGENT_UUID_SIZE	  37
#define AGENT_CHANGE_SIZE 64 /* "UUID/sequence" */

enum agent_index_kind { AGENT_INDEX_HASH = 1, AGENT_INDEX_BITMAP = 2 };

/* Named condition: the file exists and is not a whole, sound index. */
enum agent_index_cond { AGENT_INDEX_E_DAMAGED = 1 };

struct agent_hash {
	uint8_t bytes[16];
};

struct agent_index_id {
	uint32_t kind;
	uint64_t disk_size;
	uint64_t sequence;
	uint64_t generation; /* rises with every file of a disk; orders files of all lineages */
	uint64_t seed;
	uint8_t uuid[16];
	struct agent_hash bitmap;
};

struct agent_index {
	struct agent_index_id id;
	uint64_t blocks;
	int dir_fd; /* borrowed */
	int fd;
	char tmp_name[64]; /* empty: nameless, or sealed */
};

#define AGENT_INDEX_INIT ((struct agent_index){.dir_fd = -1, .fd = -1})

/* Reads the identity only. -ENOENT, AGENT_INDEX_E_DAMAGED, -errno. */
int agent_index_peek(int dir_fd, const char *name, struct agent_index_id *out);

/* Opens and reads all of it once against its checksum. Conditions as above. */
int agent_index_open(struct agent_index *ix, int dir_fd, const char *name, struct err *err);

/* A new one; every block counts as zeroes until put. @dir_fd must outlive it. */
int agent_index_create(struct agent_index *ix, int dir_fd, const struct agent_index_id *id,
		       struct err *err);

/* Blocks [first, first + n). Out of range is a caller's mistake. 0 or -errno. */
int agent_index_get(const struct agent_index *ix, uint64_t first, uint32_t n,
		    struct agent_hash *out);
int agent_index_put(struct agent_index *ix, uint64_t first, uint32_t n,
		    const struct agent_hash *in);

int agent_index_seal(struct agent_index *ix, const char *name, struct err *err);

/* An unsealed file vanishes. Accepts AGENT_INDEX_INIT. */
void agent_index_close(struct agent_index *ix);

/* The hash of one block; all zero bytes in @data give the all-zero hash. */
struct agent_hash agent_index_hash(uint64_t seed, const void *data, size_t len);

#endif
