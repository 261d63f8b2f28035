/*
 * The life of an export: added while others stream, flushed on behalf of the program, taken away
 * without waiting for any client.
 *
 * Removal, on the owner's thread: out of the registry -> draining (late requests get ESHUTDOWN,
 * what has not started is refused, half-received WRITEs are forgotten) -> the last running
 * operation returns -> flush -> detach -> connections are told to end -> the remover is answered.
 * What a connection has sent already by then, it gets an answer to: ESHUTDOWN (nbd_conn_end()).
 */
#include "nbd/export_priv.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "nbd/conn.h"
#include "nbd/handshake.h"
#include "nbd/metactx.h"
#include "nbd/request.h"
#include "nbd/server_priv.h"

#define DEFAULT_PREFERRED_BLOCK 4096U
#define MIN_PREFERRED_BLOCK	512U

struct nbd_export *nbd_export_ref(struct nbd_export *export)
{
	atomic_fetch_add_explicit(&export->refs, 1, memory_order_relaxed);
	return export;
}

void nbd_export_unref(struct nbd_export *export)
{
	if (atomic_fetch_sub_explicit(&export->refs, 1, memory_order_acq_rel) != 1)
		return;
	free(export->name);
	free(export->alias);
	free(export->description);
	free(export);
}

uint32_t nbd_export_contexts(const struct nbd_export *export)
{
	bool received = export->ops->received && !export->read_only;

	return NBD_META_BIT(NBD_META_ALLOCATION) | (received ? NBD_META_BIT(NBD_META_RECEIVED) : 0);
}

uint16_t nbd_export_flags(const struct nbd_export *export, const struct nbd_conn *conn)
{
	uint16_t flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA |
			 NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_CAN_MULTI_CONN |
			 NBD_FLAG_SEND_CACHE | NBD_FLAG_SEND_FAST_ZERO;

	if (export->read_only)
		flags |= NBD_FLAG_READ_ONLY;
	if (conn->structured)
		flags |= NBD_FLAG_SEND_DF;
	if (conn->extended && nbd_handshake_contexts(conn, export))
		flags |= NBD_FLAG_BLOCK_STATUS_PAYLOAD;
	return flags;
}

/* --- adding ----------------------------------------------------------------------------------- */

static int config_check(const struct nbd_export_config *c, struct err *err)
{
	uint32_t block = c->preferred_block;

	if (strlen(c->name) > NBD_EXPORT_NAME_MAX ||
	    (c->alias && strlen(c->alias) > NBD_EXPORT_NAME_MAX))
		return err_set(err, -ENAMETOOLONG,
			       "an export name has at most %d bytes: '%.40s...'",
			       NBD_EXPORT_NAME_MAX, c->name);
	if (!nbd_string_valid(c->name) || (c->alias && !nbd_string_valid(c->alias)))
		return err_set(err, -EINVAL, "the name of export '%s' is not UTF-8 text", c->name);
	if (c->description && !nbd_string_valid(c->description))
		return err_set(err, -EINVAL,
			       "the description of export '%s' is not UTF-8 text of at most %u "
			       "bytes",
			       c->name, NBD_STRING_MAX);
	if (c->size > INT64_MAX)
		return err_set(err, -EFBIG, "export '%s' is larger than 2^63 bytes", c->name);
	if (block &&
	    (!is_power_of_2(block) || block < MIN_PREFERRED_BLOCK || block > NBD_MAX_PAYLOAD))
		return err_set(
			err, -EINVAL,
			"export '%s': the preferred block must be a power of two from %u to %u",
			c->name, MIN_PREFERRED_BLOCK, NBD_MAX_PAYLOAD);
	return 0;
}

static char *dup_or_null(const char *s, bool *failed)
{
	char *copy = s ? strdup(s) : NULL;

	*failed |= s && !copy;
	return copy;
}

static struct nbd_export *export_new(struct nbd_server *server, const struct nbd_export_config *c,
				     const struct nbd_export_ops *ops, void *target)
{
	struct nbd_export *export = calloc(1, sizeof(*export));
	bool failed = false;

	if (!export)
		return NULL;
	export->server = server;
	export->name = dup_or_null(c->name, &failed);
	export->alias = dup_or_null(c->alias, &failed);
	export->description = dup_or_null(c->description, &failed);
	export->size = c->size;
	export->preferred_block = c->preferred_block ? c->preferred_block : DEFAULT_PREFERRED_BLOCK;
	export->read_only = c->read_only;
	export->ops = ops;
	export->target = target;
	log_scope_init(&export->log, "nbd export '%s'", c->name);
	list_init(&export->node);
	list_init(&export->owned);
	list_init(&export->conns);
	export->refs = 1;
	if (failed) {
		nbd_export_unref(export);
		return NULL;
	}
	return export;
}

struct add_call {
	struct nbd_call call;
	struct nbd_export *export;
};

static void worker_add_export(struct nbd_worker *worker, struct nbd_mail *mail)
{
	struct add_call *add = container_of(mail, struct add_call, call.mail);
	struct nbd_export *export = add->export;
	int r = export->ops->attach(export->target, &worker->io, add->call.err);

	export->state = r ? NBD_EXPORT_GONE : NBD_EXPORT_LIVE;
	if (!r)
		list_add_tail(&worker->exports, &export->owned);
	nbd_call_answer(worker, &add->call, r);
}

int nbd_export_add(struct nbd_server *server, const struct nbd_export_config *config,
		   const struct nbd_export_ops *ops, void *target, struct nbd_export **out,
		   struct err *err)
{
	struct add_call add = {.call = {.mail.open = worker_add_export, .err = err}};
	int r = config_check(config, err);

	if (r)
		return r;
	add.export = export_new(server, config, ops, target);
	if (!add.export)
		return err_set(err, -ENOMEM, "no memory for export '%s'", config->name);
	r = nbd_server_register(server, add.export, err);
	if (r) {
		nbd_export_unref(add.export);
		return r;
	}
	r = nbd_worker_call(add.export->worker, &add.call);
	if (r) {
		nbd_server_unregister(server, add.export);
		nbd_export_unref(add.export);
		return r;
	}
	*out = add.export;
	return 0;
}

/* --- flushing --------------------------------------------------------------------------------- */

struct flush_call {
	struct nbd_call call;
	struct nbd_export *export;
	struct nbd_io io;
};

static void flushed(struct nbd_io *io, int res)
{
	struct flush_call *flush = container_of(io, struct flush_call, io);
	struct nbd_export *export = flush->export;

	nbd_call_answer(export->worker, &flush->call, res);
	nbd_export_op_done(export);
}

static void worker_flush_export(struct nbd_worker *worker, struct nbd_mail *mail)
{
	struct flush_call *flush = container_of(mail, struct flush_call, call.mail);
	struct nbd_export *export = flush->export;

	if (export->read_only) {
		nbd_call_answer(worker, &flush->call, 0);
		return;
	}
	flush->io.done = flushed;
	export->running++;
	export->ops->flush(export->target, &flush->io);
}

int nbd_export_flush(struct nbd_export *export)
{
	struct flush_call flush = {.call.mail.open = worker_flush_export, .export = export};

	return nbd_worker_call(export->worker, &flush.call);
}

/* --- removing --------------------------------------------------------------------------------- */

struct remove_call {
	struct nbd_call call;
	struct nbd_export *export;
	bool abandon, flushed;
	struct nbd_io io;
};

/* Nothing of the export is running: let go of the target, end the connections. */
static void export_end(struct nbd_export *export, int result)
{
	struct nbd_worker *worker = export->worker;
	struct nbd_call *call = export->removal;
	struct list *node, *next;

	export->ops->detach(export->target);
	export->state = NBD_EXPORT_GONE;
	export->removal = NULL;
	list_del(&export->owned);
	list_for_each_safe (node, next, &export->conns) {
		struct nbd_conn *conn = list_entry(node, struct nbd_conn, export_node);

		nbd_conn_end(conn);
	}
	nbd_call_answer(worker, call, result);
}

static void removal_flushed(struct nbd_io *io, int res)
{
	struct remove_call *rm = container_of(io, struct remove_call, io);

	rm->export->running--;
	export_end(rm->export, rm->abandon ? 0 : res);
}

static void export_drained(struct nbd_export *export)
{
	struct remove_call *rm = container_of(export->removal, struct remove_call, call);

	if (rm->flushed)
		return;
	rm->flushed = true;
	if (rm->abandon && !export->ops->abandon) {
		export_end(export, 0);
		return;
	}
	rm->io.done = removal_flushed;
	export->running++;
	export->ops->flush(export->target, &rm->io);
}

void nbd_export_op_done(struct nbd_export *export)
{
	assert(export->running > 0);
	if (--export->running == 0 && export->state == NBD_EXPORT_DRAINING)
		export_drained(export);
}

static void worker_remove_export(struct nbd_worker *worker, struct nbd_mail *mail)
{
	struct remove_call *rm = container_of(mail, struct remove_call, call.mail);
	struct nbd_export *export = rm->export;
	struct list *node, *next;

	(void)worker;
	export->state = NBD_EXPORT_DRAINING;
	export->removal = &rm->call;
	list_for_each_safe (node, next, &export->conns) {
		struct nbd_conn *conn = list_entry(node, struct nbd_conn, export_node);

		nbd_requests_shutdown(conn);
		nbd_conn_settle(conn);
	}
	if (rm->abandon && export->ops->abandon)
		export->ops->abandon(export->target);
	if (!export->running)
		export_drained(export);
}

int nbd_export_remove(struct nbd_export *export, bool abandon)
{
	struct remove_call rm = {
		.call.mail.open = worker_remove_export,
		.export = export,
		.abandon = abandon,
	};
	int r;

	nbd_server_unregister(export->server, export);
	r = nbd_worker_call(export->worker, &rm.call);
	nbd_export_unref(export);
	return r;
}

/* --- counters --------------------------------------------------------------------------------- */

static struct nbd_command_counters *counters_of(struct nbd_export *export, uint16_t type)
{
	return &export->counters.commands[MIN(type, NBD_STATS_COMMANDS - 1)];
}

void nbd_export_count_begin(struct nbd_export *export, uint16_t type, int64_t now_ns)
{
	struct nbd_export_counters *c = &export->counters;
	unsigned depth = atomic_load_explicit(&c->depth, memory_order_relaxed) + 1;

	atomic_store_explicit(&c->depth, depth, memory_order_relaxed);
	if (depth > atomic_load_explicit(&c->depth_peak, memory_order_relaxed))
		atomic_store_explicit(&c->depth_peak, depth, memory_order_relaxed);
	atomic_store_explicit(&c->last_active_ns, now_ns, memory_order_relaxed);
	nbd_count(&counters_of(export, type)->requests, 1);
}

static unsigned latency_bucket(int64_t ns)
{
	uint64_t us = ns > 0 ? ns / 1000 : 0;
	unsigned bits = us ? 64 - __builtin_clzll(us) : 0;

	return MIN(bits, NBD_LATENCY_BUCKETS - 1);
}

void nbd_export_count_answer(struct nbd_export *export, const struct nbd_request *rq, int res,
			     int64_t took_ns)
{
	struct nbd_command_counters *c = counters_of(export, rq->type);

	if (res)
		nbd_count(&c->errors, 1);
	else
		nbd_count(&c->bytes, rq->len);
	nbd_count(&c->took_ns, MAX(took_ns, 0));
	nbd_count(&c->latency[latency_bucket(took_ns)], 1);
}

void nbd_export_count_end(struct nbd_export *export)
{
	struct nbd_export_counters *c = &export->counters;
	unsigned depth = atomic_load_explicit(&c->depth, memory_order_relaxed);

	assert(depth > 0);
	atomic_store_explicit(&c->depth, depth - 1, memory_order_relaxed);
}

const char *nbd_stats_command(unsigned row)
{
	static const char *const names[NBD_STATS_COMMANDS] = {
		[NBD_CMD_READ] = "read",
		[NBD_CMD_WRITE] = "write",
		[NBD_CMD_DISC] = "disc",
		[NBD_CMD_FLUSH] = "flush",
		[NBD_CMD_TRIM] = "trim",
		[NBD_CMD_CACHE] = "cache",
		[NBD_CMD_WRITE_ZEROES] = "write_zeroes",
		[NBD_CMD_BLOCK_STATUS] = "block_status",
		[NBD_STATS_COMMANDS - 1] = "other",
	};

	return names[row];
}

static void command_stats(const struct nbd_command_counters *c, struct nbd_command_stats *out)
{
	unsigned i;

	out->requests = atomic_load_explicit(&c->requests, memory_order_relaxed);
	out->errors = atomic_load_explicit(&c->errors, memory_order_relaxed);
	out->bytes = atomic_load_explicit(&c->bytes, memory_order_relaxed);
	out->took_ns = atomic_load_explicit(&c->took_ns, memory_order_relaxed);
	for (i = 0; i < NBD_LATENCY_BUCKETS; i++)
		out->latency[i] = atomic_load_explicit(&c->latency[i], memory_order_relaxed);
}

void nbd_export_get_stats(const struct nbd_export *export, struct nbd_export_stats *stats)
{
	const struct nbd_export_counters *c = &export->counters;
	struct nbd_command_stats *commands = stats->commands;
	unsigned i;

	memset(stats, 0, sizeof(*stats));
	stats->connections = atomic_load_explicit(&c->connections, memory_order_relaxed);
	stats->connections_total =
		atomic_load_explicit(&c->connections_total, memory_order_relaxed);
	stats->depth = atomic_load_explicit(&c->depth, memory_order_relaxed);
	stats->depth_peak = atomic_load_explicit(&c->depth_peak, memory_order_relaxed);
	stats->last_active_ns = atomic_load_explicit(&c->last_active_ns, memory_order_relaxed);
	stats->last_disconnect_ns =
		atomic_load_explicit(&c->last_disconnect_ns, memory_order_relaxed);
	for (i = 0; i < NBD_STATS_COMMANDS; i++) {
		command_stats(&c->commands[i], &commands[i]);
		stats->requests += commands[i].requests;
		stats->errors += commands[i].errors;
	}
	stats->bytes_read = commands[NBD_CMD_READ].bytes;
	stats->bytes_written = commands[NBD_CMD_WRITE].bytes;
	stats->bytes_zeroed = commands[NBD_CMD_WRITE_ZEROES].bytes + commands[NBD_CMD_TRIM].bytes;
}
