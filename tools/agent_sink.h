/*
 * The hub's export of one disk, written over one or more NBD connections. Commands are queued by
 * the caller and complete inside agent_sink_dispatch(); the caller's own bound on how many it
 * queues is the bound on what is in flight.
 *
 * A sink belongs to one thread. Buffers stay the caller's and must live until done, or until
 * agent_sink_close(), after which no command comes back.
 */
#ifndef TOOLS_AGENT_SINK_H
#define TOOLS_AGENT_SINK_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "tools/agent_stop.h"

#define AGENT_SINK_CONNECTIONS_MAX 16u
#define AGENT_SINK_REQUEST_MIN	   (64u << 10) /* an export that takes less at once is refused */
#define AGENT_SINK_REQUEST_MAX	   (32u << 20) /* of a write and of a zero, as hubs promise to take */

enum agent_cmd_kind { AGENT_CMD_WRITE, AGENT_CMD_ZERO, AGENT_CMD_FLUSH };

struct agent_sink;

/* The caller owns it and keeps it where it is until done() ran. */
struct agent_cmd {
	void (*done)(struct agent_cmd *cmd, int error); /* 0 or -errno; must not use the sink */
	enum agent_cmd_kind kind;
	uint64_t off;
	uint32_t len;
	struct agent_sink *sink; /* from here on the sink's */
	unsigned conn;
};

/* Strings and stop must outlive the sink. */
struct agent_sink_config {
	const char *uri;
	const char *export;   /* for messages */
	uint64_t disk_size;   /* an export smaller than that is refused */
	unsigned connections; /* wanted; one unless the server says they are coherent */
	const struct agent_stop *stop;
};

int agent_sink_open(struct agent_sink **out, const struct agent_sink_config *config,
		    struct err *err);
void agent_sink_close(struct agent_sink *sink); /* NULL is fine */

unsigned agent_sink_connections(const struct agent_sink *sink);
/* Bytes one write may have, a multiple of AGENT_SINK_REQUEST_MIN; a zero may have
 * AGENT_SINK_REQUEST_MAX when can_zero. */
uint32_t agent_sink_write_max(const struct agent_sink *sink);
bool agent_sink_can_zero(const struct agent_sink *sink);
bool agent_sink_can_flush(const struct agent_sink *sink);

/* @cmd has done, kind, off and len. 0: done() will run; -errno: it will not. */
int agent_sink_submit(struct agent_sink *sink, struct agent_cmd *cmd, const void *buf);

/*
 * Lost connections. A server that can tell what it received (sendense:received) can be gone on
 * with: agent_sink_reconnect() drops every connection and makes new ones, trying for @wait_ms.
 * Commands under way do not come back. 0, -ECANCELED: stopped, or the last attempt's -errno.
 */
bool agent_sink_can_resume(const struct agent_sink *sink);
bool agent_sink_is_lost(const struct agent_sink *sink);
int agent_sink_reconnect(struct agent_sink *sink, unsigned wait_ms, struct err *err);

/* held[i] says whether all of the i-th block of 64 KiB from @off on (a multiple of that) has been
 * received; @blocks of them, at most AGENT_SINK_ASK_BLOCKS. Waits for the answer; no command may be
 * under way. */
#define AGENT_SINK_ASK_BLOCKS 65535u
int agent_sink_received(struct agent_sink *sink, uint64_t off, uint32_t blocks, bool *held,
			struct err *err);

/* For the poll loop: at most AGENT_SINK_CONNECTIONS_MAX entries. A lost connection is an error of
 * agent_sink_dispatch(), after its commands came back with theirs. */
size_t agent_sink_prepare(struct agent_sink *sink, struct pollfd *pfd);
int agent_sink_dispatch(struct agent_sink *sink, const struct pollfd *pfd, struct err *err);

DEFINE_CLEANUP(struct agent_sink *, agent_sink_close)

#endif
