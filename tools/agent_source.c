#include "tools/agent_source.h"

#include <string.h>

#include "base/bytes.h"

int agent_source_open(struct agent_source **out, const struct agent_disk *disk,
		      const struct agent_source_config *config, struct err *err)
{
	struct agent_source *src = NULL;
	int rc = disk->format == AGENT_FORMAT_RAW ? agent_source_open_file(&src, disk, config, err)
						  : agent_source_open_nbd(&src, disk, config, err);

	if (rc)
		return rc;
	if (src->real_size == 0 || src->real_size > AGENT_DISK_BYTES) {
		agent_source_close(src);
		return err_set(err, -EINVAL, "%s is empty or larger than this agent can copy",
			       disk->source);
	}
	src->size = align_up(src->real_size, AGENT_SECTOR);
	*out = src;
	return 0;
}

void agent_source_close(struct agent_source *src)
{
	if (src)
		src->ops->close(src);
}

static int probe_nbd(const struct agent_disk *disk, const struct agent_stop *stop, uint64_t *size,
		     struct err *err)
{
	struct agent_source_config config = {.connections = 1, .stop = stop};
	_cleanup_(agent_source_closep) struct agent_source *src = NULL;
	int rc = agent_source_open(&src, disk, &config, err);

	if (!rc) {
		*size = src->size;
		return 0;
	}
	if (!disk->capacity_bytes)
		return rc;
	*size = (uint64_t)disk->capacity_bytes;
	return 0;
}

int agent_source_probe(const struct agent_disk *disk, const struct agent_stop *stop, uint64_t *size,
		       struct err *err)
{
	if (disk->format == AGENT_FORMAT_NBD)
		return probe_nbd(disk, stop, size, err);
	return agent_source_probe_file(disk, size, err);
}

int agent_source_start(struct agent_source *src, agent_work_fn work, void *ctx, struct err *err)
{
	src->work = work;
	src->work_ctx = ctx;
	return src->ops->start(src, err);
}

int agent_source_map(struct agent_source *src, struct agent_map *map, struct err *err)
{
	map->ready = false;
	return src->ops->map(src, map, err);
}

void agent_source_read(struct agent_source *src, struct agent_read *rd)
{
	rd->source = src;
	rd->error = 0;
	src->ops->read(src, rd);
}

size_t agent_source_prepare(struct agent_source *src, struct pollfd *pfd)
{
	return src->ops->prepare(src, pfd);
}

int agent_source_dispatch(struct agent_source *src, const struct pollfd *pfd, struct err *err)
{
	return src->ops->dispatch(src, pfd, err);
}

void agent_source_reap(struct agent_source *src, struct list *out)
{
	src->ops->reap(src, out);
}

int agent_source_check(struct agent_source *src, struct err *err)
{
	return src->ops->check(src, err);
}

void agent_map_mark(struct agent_map *map, uint8_t *marks, uint64_t off, uint64_t len)
{
	uint64_t map_end = map->off + (uint64_t)map->blocks * AGENT_BLOCK;
	uint64_t end = MIN(len <= map_end ? off + len : map_end, map_end);

	off = MAX(off, map->off);
	if (off >= end)
		return;
	off = (off - map->off) / AGENT_BLOCK;
	end = div_up(end - map->off, AGENT_BLOCK);
	memset(marks + off, 1, end - off);
}
