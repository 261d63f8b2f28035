/*
 * One disk's copy: source to sink through a fixed set of buffers, in one poll loop.
 *
 *   map (1 GiB of blocks) -> refine -> slots: free -> reading -> read -> writing -> free
 *
 * The map says block by block whether there is data, zeroes or nothing new; refining takes away the
 * zeroes that need no word: those of an empty target, and those the last point had too. What is
 * left becomes slots. A slot is a buffer and the run of blocks it stands for; it is on one list,
 * and the list is its state. Where a read ends (a reader thread, for files) each block is hashed or
 * looked at for zeroes, and the slot knows which parts are to be written, zeroed or left out. Reads
 * go on while earlier slots are being written; the number of slots bounds both, and memory.
 *
 * When the connection to a sink is lost that can tell what it received, the copy reaches it again
 * and goes on: slots that were being written are written again, and of what was acknowledged only
 * what is not there any more (a server that was killed may have lost it) is read and sent again.
 */
#ifndef TOOLS_AGENT_COPY_H
#define TOOLS_AGENT_COPY_H

#include <stdatomic.h>

#include "base/log.h"
#include "tools/agent_index.h"
#include "tools/agent_sink.h"
#include "tools/agent_source.h"

#define AGENT_REQUEST_MIN AGENT_BLOCK
#define AGENT_REQUEST_MAX AGENT_SINK_REQUEST_MAX

/* Written by the copying thread, read by whoever shows progress. */
struct agent_counters {
	atomic_uint_fast64_t done;   /* bytes of the disk that are dealt with */
	atomic_uint_fast64_t sent;   /* bytes of data the hub has acknowledged */
	atomic_uint_fast64_t zeroed; /* bytes sent as zeroes, without data */
};

struct agent_copy_config {
	struct agent_source *source;
	struct agent_sink *sink;
	struct agent_index *next;	/* gets every block's hash; NULL: none are kept */
	const struct agent_index *base; /* blocks that hash the same are left out; NULL: none */
	bool dirty;			/* only what the source's bitmap calls dirty */
	bool skip_zeroes;		/* the target is empty: zeroes are there already */
	uint32_t request_size;		/* a multiple of AGENT_BLOCK, MIN..MAX above */
	/* How long to try to reach a sink again that was lost, until it acknowledges something; 0:
	 * not at all. */
	unsigned resume_ms;
	struct agent_counters *counters;
	const struct agent_stop *stop;
	const struct log_scope *log; /* hears of lost connections */
};

struct agent_copy;

int agent_copy_new(struct agent_copy **out, const struct agent_copy_config *config,
		   struct err *err);

/* Copies, flushes, and checks that the source has not moved. -ECANCELED when stopped. Once. */
int agent_copy_run(struct agent_copy *copy, struct err *err);

/* Buffers may be in use until source and sink are closed: close them before. NULL is fine. */
void agent_copy_free(struct agent_copy *copy);

DEFINE_CLEANUP(struct agent_copy *, agent_copy_free)

#endif
