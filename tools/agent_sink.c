#include "tools/agent_sink.h"

#include <errno.h>
#include <libnbd.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "tools/agent_index.h"
#include "tools/agent_nbd.h"

#define SINK_CONNECT_MS	 30000
#define SINK_RETRY_MS	 500
#define META_RECEIVED	 "sendense:received"
#define META_RECEIVED_IS (1u << 0)

/* What agent_sink_received() asked. */
struct sink_query {
	bool *held;
	uint64_t off, end, at; /* answered up to here */
	bool busy;
	int error;
};

struct agent_sink {
	struct agent_sink_config config;
	struct sink_query query;
	char export[80];
	struct nbd_handle *conn[AGENT_SINK_CONNECTIONS_MAX];
	uint64_t queued[AGENT_SINK_CONNECTIONS_MAX]; /* bytes on their way, for balance */
	unsigned conn_count;
	uint32_t write_max;
	bool can_zero, can_flush, can_resume;
};

/* --- open, close ---------------------------------------------------------------------------- */

static int sink_connect(struct agent_sink *s, const struct agent_sink_config *config,
			struct err *err)
{
	struct agent_nbd_peer peer = {
		.uri = config->uri,
		.meta = {META_RECEIVED},
		.stop = config->stop,
		.timeout_ms = SINK_CONNECT_MS,
	};
	int rc = agent_nbd_connect(&s->conn[s->conn_count], &peer, err);

	if (!rc)
		s->conn_count++;
	return rc;
}

static int sink_describe(struct agent_sink *s, const struct agent_sink_config *config,
			 struct err *err)
{
	struct nbd_handle *h = s->conn[0];
	int64_t size = nbd_get_size(h), max = nbd_get_block_size(h, LIBNBD_SIZE_MAXIMUM);

	if (size < 0)
		return err_set(err, agent_nbd_errno(), "export %s: %s", s->export, nbd_get_error());
	if ((uint64_t)size < config->disk_size)
		return err_set(
			err, -ENOSPC,
			"export %s has %lld bytes and the disk %llu: run discovery again, the "
			"hub does not know that the disk has grown",
			s->export, (long long)size, (unsigned long long)config->disk_size);
	if (nbd_is_read_only(h) > 0)
		return err_set(err, -EROFS, "export %s is read-only", s->export);
	s->write_max = AGENT_SINK_REQUEST_MAX;
	if (max > 0 && max < s->write_max)
		s->write_max = (uint32_t)align_down((uint64_t)max, AGENT_SINK_REQUEST_MIN);
	if (!s->write_max)
		return err_set(err, -EINVAL, "export %s takes only %lld bytes a write", s->export,
			       (long long)max);
	s->can_zero = nbd_can_zero(h) > 0;
	s->can_flush = nbd_can_flush(h) > 0;
	s->can_resume = nbd_can_meta_context(h, META_RECEIVED) > 0;
	return 0;
}

static int sink_connect_all(struct agent_sink *s, struct err *err)
{
	const struct agent_sink_config *config = &s->config;
	unsigned want = MIN(config->connections, AGENT_SINK_CONNECTIONS_MAX);
	int rc = sink_connect(s, config, err);

	if (!rc)
		rc = sink_describe(s, config, err);
	if (!rc && nbd_can_multi_conn(s->conn[0]) > 0)
		while (s->conn_count < want && sink_connect(s, config, NULL) == 0)
			continue; /* a server that takes fewer is written over fewer */
	return rc;
}

int agent_sink_open(struct agent_sink **out, const struct agent_sink_config *config,
		    struct err *err)
{
	_cleanup_(agent_sink_closep) struct agent_sink *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return err_sys(err, -ENOMEM, "export %s", config->export);
	s->config = *config;
	snprintf(s->export, sizeof(s->export), "%s", config->export);
	rc = sink_connect_all(s, err);
	if (rc)
		return rc;
	*out = steal(&s);
	return 0;
}

/* An orderly DISC where nothing is under way; else the socket just closes. */
static void sink_disconnect(struct agent_sink *s)
{
	for (unsigned i = 0; i < s->conn_count; i++) {
		if (nbd_aio_is_ready(s->conn[i]) > 0 && nbd_aio_in_flight(s->conn[i]) == 0)
			nbd_aio_disconnect(s->conn[i], 0);
		nbd_close(s->conn[i]);
		s->queued[i] = 0;
	}
	s->conn_count = 0;
}

void agent_sink_close(struct agent_sink *s)
{
	if (!s)
		return;
	sink_disconnect(s);
	free(s);
}

unsigned agent_sink_connections(const struct agent_sink *s)
{
	return s->conn_count;
}

uint32_t agent_sink_write_max(const struct agent_sink *s)
{
	return s->write_max;
}

bool agent_sink_can_zero(const struct agent_sink *s)
{
	return s->can_zero;
}

bool agent_sink_can_flush(const struct agent_sink *s)
{
	return s->can_flush;
}

/* --- commands ------------------------------------------------------------------------------- */

static uint64_t cmd_weight(const struct agent_cmd *cmd)
{
	return cmd->kind == AGENT_CMD_WRITE ? cmd->len : 512;
}

static int sink_done(void *user_data, int *error)
{
	struct agent_cmd *cmd = user_data;

	cmd->sink->queued[cmd->conn] -= cmd_weight(cmd);
	cmd->done(cmd, -*error);
	return 1;
}

static unsigned least_queued(const struct agent_sink *s)
{
	unsigned best = 0;

	for (unsigned i = 1; i < s->conn_count; i++)
		if (s->queued[i] < s->queued[best])
			best = i;
	return best;
}

int agent_sink_submit(struct agent_sink *s, struct agent_cmd *cmd, const void *buf)
{
	nbd_completion_callback done = {.callback = sink_done, .user_data = cmd};
	struct nbd_handle *h;
	int64_t r = -1;

	cmd->sink = s;
	cmd->conn = least_queued(s);
	h = s->conn[cmd->conn];
	/* Counted before: the command may be done before the call returns. */
	s->queued[cmd->conn] += cmd_weight(cmd);
	switch (cmd->kind) {
	case AGENT_CMD_WRITE:
		r = nbd_aio_pwrite(h, buf, cmd->len, cmd->off, done, 0);
		break;
	case AGENT_CMD_ZERO:
		r = nbd_aio_zero(h, cmd->len, cmd->off, done, 0);
		break;
	case AGENT_CMD_FLUSH:
		r = nbd_aio_flush(h, done, 0);
		break;
	}
	if (r >= 0)
		return 0;
	s->queued[cmd->conn] -= cmd_weight(cmd);
	return agent_nbd_errno();
}

size_t agent_sink_prepare(struct agent_sink *s, struct pollfd *pfd)
{
	for (unsigned i = 0; i < s->conn_count; i++)
		agent_nbd_prepare(s->conn[i], &pfd[i]);
	return s->conn_count;
}

int agent_sink_dispatch(struct agent_sink *s, const struct pollfd *pfd, struct err *err)
{
	for (unsigned i = 0; i < s->conn_count; i++) {
		int rc = pfd[i].revents ? agent_nbd_dispatch(s->conn[i], &pfd[i]) : 0;

		if (rc)
			return err_set(err, rc, "export %s: connection lost: %s", s->export,
				       nbd_get_error() ? nbd_get_error() : "closed by the hub");
	}
	return 0;
}

/* --- going on after a lost connection ------------------------------------------------------- */

bool agent_sink_can_resume(const struct agent_sink *s)
{
	return s->can_resume;
}

bool agent_sink_is_lost(const struct agent_sink *s)
{
	for (unsigned i = 0; i < s->conn_count; i++)
		if (nbd_aio_is_dead(s->conn[i]) > 0 || nbd_aio_is_closed(s->conn[i]) > 0)
			return true;
	return false;
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* False when the job was stopped meanwhile. */
static bool sink_pause(struct agent_sink *s, int ms)
{
	struct pollfd pfd = {.fd = s->config.stop->fd, .events = POLLIN};

	poll(&pfd, 1, ms);
	return !agent_stop_asked(s->config.stop);
}

/* "No such export" may as well come from a server that is on its way back. */
int agent_sink_reconnect(struct agent_sink *s, unsigned wait_ms, struct err *err)
{
	int64_t deadline = now_ms() + wait_ms;
	int rc;

	for (;;) {
		sink_disconnect(s);
		if (!sink_pause(s, SINK_RETRY_MS))
			return err_set(err, -ECANCELED, "the job was stopped");
		rc = sink_connect_all(s, err);
		if (!rc && !agent_sink_can_resume(s))
			rc = err_set(err, -EPROTO, "export %s cannot say any more what it received",
				     s->export);
		if (!rc || rc == -ECANCELED || rc == -EPROTO || now_ms() >= deadline)
			return rc;
	}
}

/* Blocks that are received in part are not held: only those that lie in one extent are set. */
static int query_extents(void *user_data, const char *meta, uint64_t off, uint32_t *entries,
			 size_t nr_entries, int *error)
{
	struct sink_query *q = user_data;

	(void)error;
	if (strcmp(meta, META_RECEIVED) != 0)
		return 0;
	for (size_t i = 0; i + 1 < nr_entries && off < q->end; i += 2) {
		uint64_t end = MIN(off + entries[i], q->end);
		uint64_t first = div_up(off - q->off, AGENT_BLOCK);
		uint64_t last = end == q->end ? div_up(end - q->off, AGENT_BLOCK)
					      : (end - q->off) / AGENT_BLOCK;

		if (entries[i + 1] & META_RECEIVED_IS && last > first)
			memset(q->held + first, true, last - first);
		off = end;
	}
	q->at = off;
	return 0;
}

static int query_done(void *user_data, int *error)
{
	struct sink_query *q = user_data;

	q->busy = false;
	q->error = -*error;
	return 1;
}

/* One BLOCK_STATUS, waited for. */
static int query_step(struct agent_sink *s)
{
	nbd_extent_callback extents = {.callback = query_extents, .user_data = &s->query};
	nbd_completion_callback done = {.callback = query_done, .user_data = &s->query};
	struct sink_query *q = &s->query;
	int64_t deadline = now_ms() + SINK_CONNECT_MS;
	uint64_t from = q->at;

	q->busy = true;
	if (nbd_aio_block_status(s->conn[0], q->end - q->at, q->at, extents, done, 0) < 0)
		return agent_nbd_errno();
	while (q->busy) {
		struct pollfd pfd[2] = {{.fd = s->config.stop->fd, .events = POLLIN}};
		int rc;

		agent_nbd_prepare(s->conn[0], &pfd[1]);
		if (poll(pfd, 2, 1000) < 0 && errno != EINTR)
			return -errno;
		if (agent_stop_asked(s->config.stop))
			return -ECANCELED;
		rc = agent_nbd_dispatch(s->conn[0], &pfd[1]);
		if (rc)
			return rc;
		if (now_ms() > deadline)
			return -ETIMEDOUT;
	}
	/* An answer that does not get us on would be for ever. */
	return q->error || q->at > from ? q->error : -EPROTO;
}

int agent_sink_received(struct agent_sink *s, uint64_t off, uint32_t blocks, bool *held,
			struct err *err)
{
	uint64_t end =
		MIN(off + (uint64_t)blocks * AGENT_BLOCK, (uint64_t)nbd_get_size(s->conn[0]));
	char why[128];
	int rc = 0;

	memset(held, false, blocks * sizeof(*held));
	s->query = (struct sink_query){.held = held, .off = off, .end = end, .at = off};
	while (!rc && s->query.at < end)
		rc = query_step(s);
	return rc ? err_set(err, rc, "export %s does not say what it received: %s", s->export,
			    agent_errno_text(rc, why, sizeof(why)))
		  : 0;
}
