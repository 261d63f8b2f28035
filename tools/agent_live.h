/*
 * A VM that runs under QEMU, backed up as it is at one instant: all disks in one transaction, while
 * the guest goes on.
 *
 *   open      clear away what a killed run left; read the nodes' sizes and bitmaps
 *   snapshot  per disk a scratch qcow2 over the node, then in one transaction: backup job to it
 * with sync=none (a block about to be overwritten is first copied there), a new bitmap that records
 * from now on, and a still copy of the bitmap that recorded since the last point; then read-only
 * NBD exports of the scratch files, which show the disk of that instant close     exports, jobs,
 * nodes, NBD server, scratch files and bitmaps of forgotten points go
 *
 * A bitmap is called after the point it records since ("sendense-<UUID>-<sequence>") and records
 * until the point is forgotten, so that a failed or killed backup changes nothing for the next. On
 * qcow2 nodes it is persistent and survives the VM's stop.
 *
 * Everything made in QEMU starts with "sendense-", and nothing else there is touched. The monitor
 * is held for open, snapshot and close only. One thread.
 */
#ifndef TOOLS_AGENT_LIVE_H
#define TOOLS_AGENT_LIVE_H

#include "tools/agent_index.h"
#include "tools/agent_inventory.h"
#include "tools/agent_stop.h"

#define AGENT_LIVE_BITMAP "sendense-frozen" /* the still copy, in the export */
#define AGENT_LIVE_URI	  700

struct agent_live_disk {
	uint64_t size;
	char uri[AGENT_LIVE_URI]; /* after the snapshot */
	/* Set between open and snapshot: */
	char next[AGENT_CHANGE_SIZE];  /* the new point's change id */
	char since[AGENT_CHANGE_SIZE]; /* the change id to tell changes since; empty: none */
};

struct agent_live;

/* @scratch is an absolute folder QEMU can write to. @vm must outlive it. */
int agent_live_open(struct agent_live **out, const struct agent_vm *vm, const char *scratch,
		    const struct agent_stop *stop, struct err *err);

/* In the inventory's order. */
struct agent_live_disk *agent_live_disk(struct agent_live *live, size_t i);

/* Whether QEMU has recorded all changes of disk @i since that point. */
bool agent_live_knows(const struct agent_live *live, size_t i, const char *change_id);

/* Whether disk @i has the point "UUID-sequence" on record; bitmaps since others are dropped. */
struct agent_live_points {
	bool (*known)(void *ctx, size_t i, const char *point);
	void *ctx;
};

int agent_live_snapshot(struct agent_live *live, const struct agent_live_points *points,
			const struct agent_stop *stop, struct err *err);

/* Clears away, forgotten bitmaps included. What cannot be cleared (-errno or AGENT_QMP_E_REFUSED,
 * with a sentence) is left to the next open. Frees. NULL is fine. */
int agent_live_close(struct agent_live *live, const struct agent_live_points *points,
		     struct err *err);

/* Whether the scratch folder shows that a snapshot of @vm was not closed; and closes it. */
bool agent_live_left(const struct agent_vm *vm, const char *scratch);
int agent_live_clear(const struct agent_vm *vm, const char *scratch, struct err *err);

/* Sizes of all disks, for discovery: the monitor is asked and left alone. */
int agent_live_sizes(const struct agent_vm *vm, const struct agent_stop *stop, uint64_t *sizes,
		     struct err *err);

#endif
