/*
 * A disk behind NBD: somebody's server, or for a qcow2 file a qemu-nbd of our own. That child reads
 * the *source*; it is handed a listening socket, takes one connection, and dies with it.
 *
 * Reads go round robin over the connections. The map comes from block status: of base:allocation
 * what reads as zeroes, of the dirty bitmap what has changed. One query is under way at a time and
 * the next starts where the shorter of its answers ended. A server without either context is all
 * data, and all changed.
 *
 * Callbacks of libnbd run inside agent_nbd_dispatch() and must not call libnbd: they fill the map
 * and leave the next query to nbd_dispatch() below.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <fcntl.h>

#include "base/bytes.h"
#include "tools/agent_nbd.h"
#include "tools/agent_source.h"

#define NBD_CONNECT_MS	30000
#define META_ALLOCATION "base:allocation"
#define META_BITMAP	"qemu:dirty-bitmap:"

struct nbd_source {
	struct agent_source base;
	char *name; /* the inventory's source, for messages */
	char meta_bitmap[sizeof(META_BITMAP) + 256];
	struct nbd_handle *conn[AGENT_CONNECTIONS_MAX];
	unsigned conn_count, next_conn;
	bool has_allocation;
	struct list done;

	/* The map under way; blocks marked here are data, or dirty. */
	struct agent_map *map;
	uint64_t map_at, map_end;	  /* known so far, and to be known */
	uint64_t allocation_at, dirty_at; /* how far each context of the answer went */
	bool query_busy;
	int query_error;
	uint8_t data[AGENT_MAP_BLOCKS], dirty[AGENT_MAP_BLOCKS];
};

/* --- reads ---------------------------------------------------------------------------------- */

static int nbd_read_done(void *user_data, int *error)
{
	struct agent_read *rd = user_data;
	struct nbd_source *n = container_of(rd->source, struct nbd_source, base);

	rd->error = -*error;
	if (!rd->error)
		n->base.work(n->base.work_ctx, rd);
	list_add_tail(&n->done, &rd->node);
	return 1; /* nothing is left to ask about this command */
}

static void nbd_read(struct agent_source *src, struct agent_read *rd)
{
	struct nbd_source *n = container_of(src, struct nbd_source, base);
	struct nbd_handle *h = n->conn[n->next_conn++ % n->conn_count];
	uint64_t len = MIN(rd->len, src->real_size - rd->off);
	nbd_completion_callback done = {.callback = nbd_read_done, .user_data = rd};

	if (len < rd->len)
		memset((char *)rd->buf + len, 0, rd->len - len);
	if (nbd_aio_pread(h, rd->buf, len, rd->off, done, 0) < 0) {
		rd->error = agent_nbd_errno();
		list_add_tail(&n->done, &rd->node);
	}
}

static void nbd_reap(struct agent_source *src, struct list *out)
{
	list_splice(out, &container_of(src, struct nbd_source, base)->done);
}

/* --- map ------------------------------------------------------------------------------------ */

static int nbd_extents(void *user_data, const char *meta, uint64_t off, uint32_t *entries,
		       size_t nr_entries, int *error)
{
	struct nbd_source *n = user_data;
	bool allocation = strcmp(meta, META_ALLOCATION) == 0;

	(void)error;
	if (!allocation && strcmp(meta, n->meta_bitmap) != 0)
		return 0;
	for (size_t i = 0; i + 1 < nr_entries && off < n->map_end; i += 2) {
		uint32_t len = entries[i], flags = entries[i + 1];

		if (allocation && !(flags & AGENT_NBD_ZERO))
			agent_map_mark(n->map, n->data, off, len);
		if (!allocation && flags & AGENT_NBD_DIRTY)
			agent_map_mark(n->map, n->dirty, off, len);
		off += len;
	}
	*(allocation ? &n->allocation_at : &n->dirty_at) = off;
	return 0;
}

static int nbd_query_done(void *user_data, int *error)
{
	struct nbd_source *n = user_data;
	uint64_t at = n->map_end;

	n->query_busy = false;
	n->query_error = -*error;
	if (n->has_allocation)
		at = MIN(at, n->allocation_at);
	if (n->map->dirty)
		at = MIN(at, n->dirty_at);
	if (at <= n->map_at && !n->query_error)
		n->query_error = -EPROTO; /* an answer that does not get us on would be for ever */
	n->map_at = at;
	return 1;
}

static void nbd_map_finish(struct nbd_source *n)
{
	struct agent_map *map = n->map;

	for (uint32_t i = 0; i < map->blocks; i++)
		map->block[i] = map->dirty && !n->dirty[i] ? AGENT_BLOCK_CLEAN
				: n->data[i]		   ? AGENT_BLOCK_DATA
							   : AGENT_BLOCK_ZERO;
	map->ready = true;
	n->map = NULL;
}

static int nbd_map_step(struct nbd_source *n, struct err *err)
{
	nbd_extent_callback extents = {.callback = nbd_extents, .user_data = n};
	nbd_completion_callback done = {.callback = nbd_query_done, .user_data = n};
	char why[128];

	if (!n->map || n->query_busy)
		return 0;
	if (n->query_error)
		return err_set(err, n->query_error, "%s: block status at offset %llu: %s", n->name,
			       (unsigned long long)n->map_at,
			       agent_errno_text(n->query_error, why, sizeof(why)));
	if (n->map_at >= n->map_end) {
		nbd_map_finish(n);
		return 0;
	}
	n->allocation_at = n->dirty_at = n->map_at;
	n->query_busy = true;
	if (nbd_aio_block_status(n->conn[0], n->map_end - n->map_at, n->map_at, extents, done, 0) <
	    0)
		return err_set(err, agent_nbd_errno(), "%s: %s", n->name, nbd_get_error());
	return 0;
}

static int nbd_map(struct agent_source *src, struct agent_map *map, struct err *err)
{
	struct nbd_source *n = container_of(src, struct nbd_source, base);

	n->map = map;
	n->map_at = map->off;
	n->map_end = MIN(map->off + (uint64_t)map->blocks * AGENT_BLOCK, src->real_size);
	n->query_error = 0;
	memset(n->data, !n->has_allocation, map->blocks);
	memset(n->dirty, 0, map->blocks);
	if (!n->has_allocation && !map->dirty)
		n->map_at = n->map_end; /* nothing to ask */
	return nbd_map_step(n, err);
}

/* --- the poll loop -------------------------------------------------------------------------- */

static size_t nbd_prepare(struct agent_source *src, struct pollfd *pfd)
{
	struct nbd_source *n = container_of(src, struct nbd_source, base);

	for (unsigned i = 0; i < n->conn_count; i++)
		agent_nbd_prepare(n->conn[i], &pfd[i]);
	return n->conn_count;
}

static int nbd_dispatch(struct agent_source *src, const struct pollfd *pfd, struct err *err)
{
	struct nbd_source *n = container_of(src, struct nbd_source, base);

	for (unsigned i = 0; i < n->conn_count; i++) {
		int rc = pfd[i].revents ? agent_nbd_dispatch(n->conn[i], &pfd[i]) : 0;

		if (rc)
			return err_set(err, rc, "%s: %s", n->name,
				       nbd_get_error() ? nbd_get_error() : "connection lost");
	}
	return nbd_map_step(n, err);
}

static int nbd_start(struct agent_source *src, struct err *err)
{
	(void)src;
	(void)err;
	return 0;
}

/* What a server shows is its own promise; there is no time of change to look at. */
static int nbd_check(struct agent_source *src, struct err *err)
{
	(void)src;
	(void)err;
	return 0;
}

static void nbd_source_close(struct agent_source *src)
{
	struct nbd_source *n = container_of(src, struct nbd_source, base);

	for (unsigned i = 0; i < n->conn_count; i++) {
		if (nbd_aio_is_ready(n->conn[i]) > 0)
			nbd_aio_disconnect(n->conn[i], 0);
		nbd_close(n->conn[i]);
	}
	free(n->name);
	free(n);
}

static const struct agent_source_ops nbd_ops = {
	.map = nbd_map,
	.read = nbd_read,
	.prepare = nbd_prepare,
	.dispatch = nbd_dispatch,
	.reap = nbd_reap,
	.start = nbd_start,
	.check = nbd_check,
	.close = nbd_source_close,
};

/* --- open ----------------------------------------------------------------------------------- */

static int nbd_connect_one(struct nbd_source *n, const struct agent_nbd_peer *peer, struct err *err)
{
	int rc = agent_nbd_connect(&n->conn[n->conn_count], peer, err);

	if (!rc)
		n->conn_count++;
	return rc;
}

/* More connections than one only where the server says that they see the same disk; a server that
 * takes no more of them is read over those it took. */
static void nbd_connect_more(struct nbd_source *n, const struct agent_nbd_peer *peer, unsigned want)
{
	if (nbd_can_multi_conn(n->conn[0]) <= 0)
		return;
	while (n->conn_count < want && nbd_connect_one(n, peer, NULL) == 0)
		continue;
}

static int nbd_connect_uri_source(struct nbd_source *n, const struct agent_disk *disk,
				  const struct agent_source_config *config, struct err *err)
{
	struct agent_nbd_peer peer = {
		.uri = disk->source,
		.meta = {META_ALLOCATION, disk->bitmap ? n->meta_bitmap : NULL},
		.stop = config->stop,
		.timeout_ms = NBD_CONNECT_MS,
	};
	int rc = nbd_connect_one(n, &peer, err);

	if (!rc)
		nbd_connect_more(n, &peer, config->connections);
	return rc;
}

/* Whether the file can be read past the page cache, which qemu-nbd must know beforehand. */
static bool takes_direct(const char *path)
{
	_cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_DIRECT);

	return fd >= 0;
}

static int nbd_connect_qcow2(struct nbd_source *n, const struct agent_disk *disk,
			     const struct agent_source_config *config, struct err *err)
{
	char bitmap[300];
	char *argv[10] = {"qemu-nbd", "--read-only", "--format=qcow2"};
	struct agent_nbd_peer peer = {
		.argv = argv,
		.meta = {META_ALLOCATION, disk->bitmap ? n->meta_bitmap : NULL},
		.stop = config->stop,
		.timeout_ms = NBD_CONNECT_MS,
	};
	unsigned i = 3;
	int rc;

	if (access(disk->source, R_OK) < 0)
		return err_sys(err, -errno, "%s cannot be opened for reading", disk->source);
	if (disk->bitmap) {
		snprintf(bitmap, sizeof(bitmap), "--bitmap=%s", disk->bitmap);
		argv[i++] = bitmap;
	}
	if (takes_direct(disk->source)) {
		argv[i++] = "--cache=none";
		argv[i++] = "--aio=native";
	}
	argv[i++] = "--";
	argv[i] = (char *)disk->source;
	rc = nbd_connect_one(n, &peer, err);
	if (rc && rc != -ECANCELED)
		return err_prefix(err, rc,
				  "%s: qemu-nbd cannot serve it (is the VM running? what qemu-nbd "
				  "said is in the agent's log)",
				  disk->source);
	return rc;
}

static int nbd_describe(struct nbd_source *n, const struct agent_disk *disk, struct err *err)
{
	int64_t size = nbd_get_size(n->conn[0]);

	if (size < 0)
		return err_set(err, agent_nbd_errno(), "%s: %s", n->name, nbd_get_error());
	n->base.real_size = (uint64_t)size;
	n->has_allocation = nbd_can_meta_context(n->conn[0], META_ALLOCATION) > 0;
	n->base.has_bitmap = disk->bitmap && nbd_can_meta_context(n->conn[0], n->meta_bitmap) > 0;
	return 0;
}

int agent_source_open_nbd(struct agent_source **out, const struct agent_disk *disk,
			  const struct agent_source_config *config, struct err *err)
{
	struct nbd_source *n = calloc(1, sizeof(*n));
	int rc;

	if (!n)
		return err_sys(err, -ENOMEM, "%s", disk->source);
	n->base.ops = &nbd_ops;
	list_init(&n->done);
	n->name = strdup(disk->source);
	snprintf(n->meta_bitmap, sizeof(n->meta_bitmap), "%s%s", META_BITMAP,
		 disk->bitmap ? disk->bitmap : "");
	rc = n->name ? 0 : err_sys(err, -ENOMEM, "%s", disk->source);
	if (!rc)
		rc = disk->format == AGENT_FORMAT_QCOW2
			     ? nbd_connect_qcow2(n, disk, config, err)
			     : nbd_connect_uri_source(n, disk, config, err);
	if (!rc)
		rc = nbd_describe(n, disk, err);
	if (rc) {
		nbd_source_close(&n->base);
		return rc;
	}
	*out = &n->base;
	return 0;
}
