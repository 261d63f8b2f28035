#include "tools/agent_sink.h"

#include <libnbd.h>
#include <string.h>

#include "base/bytes.h"
#include "tools/agent_nbd.h"

#define SINK_CONNECT_MS 30000

struct agent_sink {
	char export[80];
	struct nbd_handle *conn[AGENT_SINK_CONNECTIONS_MAX];
	uint64_t queued[AGENT_SINK_CONNECTIONS_MAX]; /* bytes on their way, for balance */
	unsigned conn_count;
	uint32_t write_max;
	bool can_zero, can_flush;
};

/* --- open, close ---------------------------------------------------------------------------- */

static int sink_connect(struct agent_sink *s, const struct agent_sink_config *config,
			struct err *err)
{
	struct agent_nbd_peer peer = {
		.uri = config->uri,
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
	return 0;
}

int agent_sink_open(struct agent_sink **out, const struct agent_sink_config *config,
		    struct err *err)
{
	_cleanup_(agent_sink_closep) struct agent_sink *s = calloc(1, sizeof(*s));
	unsigned want = MIN(config->connections, AGENT_SINK_CONNECTIONS_MAX);
	int rc;

	if (!s)
		return err_sys(err, -ENOMEM, "export %s", config->export);
	snprintf(s->export, sizeof(s->export), "%s", config->export);
	rc = sink_connect(s, config, err);
	if (!rc)
		rc = sink_describe(s, config, err);
	if (rc)
		return rc;
	if (nbd_can_multi_conn(s->conn[0]) > 0)
		while (s->conn_count < want && sink_connect(s, config, NULL) == 0)
			continue; /* a server that takes fewer is written over fewer */
	*out = steal(&s);
	return 0;
}

/* An orderly DISC where nothing is under way; else the socket just closes. */
void agent_sink_close(struct agent_sink *s)
{
	if (!s)
		return;
	for (unsigned i = 0; i < s->conn_count; i++) {
		if (nbd_aio_is_ready(s->conn[i]) > 0 && nbd_aio_in_flight(s->conn[i]) == 0)
			nbd_aio_disconnect(s->conn[i], 0);
		nbd_close(s->conn[i]);
	}
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
