/*
 * Where a disk is read from: a file or block device, or an NBD server (one of the inventory's, or a
 * qemu-nbd child in front of a qcow2 file). What a copy needs from it is two things: a map that
 * says of each 64 KiB block whether it has data, and reads; both may be under way while the caller
 * does something else.
 *
 * A source belongs to the thread that drives its poll loop. Reads are done by threads of its own
 * (files) or inside agent_source_dispatch() (NBD); the work function runs where the read ended.
 *
 * The size is rounded up to whole sectors; the bytes behind a file's odd end read as zeroes.
 */
#ifndef TOOLS_AGENT_SOURCE_H
#define TOOLS_AGENT_SOURCE_H

#include <poll.h>

#include "base/list.h"
#include "tools/agent_index.h"
#include "tools/agent_inventory.h"
#include "tools/agent_stop.h"

#define AGENT_MAP_BLOCKS      16384u /* 1 GiB of disk a map */
#define AGENT_CONNECTIONS_MAX 16u
#define AGENT_READERS	      4u

/* Of a block: any byte of it makes it DATA; ZERO reads as zeroes; CLEAN is unchanged (dirty maps
 * only). */
enum agent_block { AGENT_BLOCK_CLEAN, AGENT_BLOCK_ZERO, AGENT_BLOCK_DATA };

struct agent_map {
	uint64_t off;	 /* of the first block; a multiple of AGENT_BLOCK */
	uint32_t blocks; /* at most AGENT_MAP_BLOCKS */
	bool dirty;	 /* asked: of the bitmap too */
	bool ready;	 /* set by the source, in agent_source_map() or _dispatch() */
	uint8_t block[AGENT_MAP_BLOCKS];
};

struct agent_read {
	struct list node; /* the source's until agent_source_reap() hands it back */
	struct agent_source *source;
	uint64_t off;
	uint32_t len;
	void *buf; /* aligned to 4096 */
	int error; /* 0 or -errno */
};

typedef void (*agent_work_fn)(void *ctx, struct agent_read *rd);

struct agent_source_config {
	unsigned connections; /* to an NBD server that allows it; 1..AGENT_CONNECTIONS_MAX */
	const struct agent_stop *stop;
};

struct agent_source_ops {
	int (*map)(struct agent_source *src, struct agent_map *map, struct err *err);
	void (*read)(struct agent_source *src, struct agent_read *rd);
	size_t (*prepare)(struct agent_source *src, struct pollfd *pfd);
	int (*dispatch)(struct agent_source *src, const struct pollfd *pfd, struct err *err);
	void (*reap)(struct agent_source *src, struct list *out);
	int (*start)(struct agent_source *src, struct err *err);
	int (*check)(struct agent_source *src, struct err *err);
	void (*close)(struct agent_source *src);
};

struct agent_source {
	const struct agent_source_ops *ops;
	uint64_t size;	    /* whole sectors */
	uint64_t real_size; /* bytes that exist */
	bool has_bitmap;    /* the inventory's bitmap is exported */
	agent_work_fn work;
	void *work_ctx;
};

/* Opens what @disk describes, and keeps a VM under QEMU from starting on it meanwhile where it can
 * be kept (files). The sentence names the source. */
int agent_source_open(struct agent_source **out, const struct agent_disk *disk,
		      const struct agent_source_config *config, struct err *err);
void agent_source_close(struct agent_source *src); /* no read comes back after it; NULL is fine */

/* The size a hub is told at discovery, without keeping anything open. */
int agent_source_probe(const struct agent_disk *disk, const struct agent_stop *stop, uint64_t *size,
		       struct err *err);

/* Before the first read: @work runs for every finished read without error. */
int agent_source_start(struct agent_source *src, agent_work_fn work, void *ctx, struct err *err);

/* Fills @map->block for off, blocks and dirty as set; one at a time. Done when @map->ready. */
int agent_source_map(struct agent_source *src, struct agent_map *map, struct err *err);

void agent_source_read(struct agent_source *src, struct agent_read *rd);

/* For the poll loop: at most AGENT_CONNECTIONS_MAX entries, the number is returned. */
size_t agent_source_prepare(struct agent_source *src, struct pollfd *pfd);
int agent_source_dispatch(struct agent_source *src, const struct pollfd *pfd, struct err *err);

/* Moves finished reads to the tail of @out. */
void agent_source_reap(struct agent_source *src, struct list *out);

/* After the last read: the source is what it was at open. -ESTALE with a sentence if it is not. */
int agent_source_check(struct agent_source *src, struct err *err);

/* --- for the implementations ---------------------------------------------------------------- */

int agent_source_open_file(struct agent_source **out, const struct agent_disk *disk,
			   const struct agent_source_config *config, struct err *err);
int agent_source_open_nbd(struct agent_source **out, const struct agent_disk *disk,
			  const struct agent_source_config *config, struct err *err);
int agent_source_probe_file(const struct agent_disk *disk, uint64_t *size, struct err *err);

/* Marks the blocks [off, off + len) touches, as far as they are in the map. */
void agent_map_mark(struct agent_map *map, uint8_t *marks, uint64_t off, uint64_t len);

DEFINE_CLEANUP(struct agent_source *, agent_source_close)

#endif
