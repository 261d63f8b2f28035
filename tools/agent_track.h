/*
 * Change tracking of one disk over its backups: which point the hub names, whether this agent still
 * knows how the disk looked then, and what to call the new point.
 *
 * A change id is "UUID/sequence". The UUID names a lineage: it begins with a full copy and each
 * incremental adds a sequence number. Every full begins a new lineage, so that a change id never
 * names two states, not even when this agent's state folder was put back from an old copy, or when
 * one VM is backed up into two repositories.
 *
 * The state folder holds a directory a disk, with one index (agent_index.h) a point:
 *
 *   <vm id, %-encoded>/disk-<key>/<UUID>-<sequence>.pending   sealed; the hub may have its point
 *   <vm id, %-encoded>/disk-<key>/<UUID>-<sequence>.idx       the hub has answered 200 to complete
 *
 * The new index is sealed as pending *before* complete is posted and renamed after the answer. A
 * crash in between loses nothing: when the hub next names that sequence, the pending file is there.
 * Sealing drops other pending files, and a commit drops all but the newest few: the hub names an
 * older point when a newer one was deleted, or when it belongs to another repository.
 */
#ifndef TOOLS_AGENT_TRACK_H
#define TOOLS_AGENT_TRACK_H

#include <stdbool.h>

#include "tools/agent_index.h"

#define AGENT_TRACK_NAME 96

struct agent_track_want {
	int state_fd; /* the state folder */
	const char *vm_id;
	int64_t disk_key;
	uint64_t disk_size;
	const char *source;	   /* part of a bitmap's identity */
	const char *bitmap;	   /* NULL: hash index */
	bool bitmap_served;	   /* the source does export it */
	const char *hub_change_id; /* what the hub answered; NULL: it could not be asked */
};

struct agent_track {
	bool incremental;
	char reason[600]; /* for people: why the copy is full, or since when it is incremental */
	char change_id[AGENT_CHANGE_SIZE]; /* of the new point */
	struct agent_index base;	   /* open when incremental */
	struct agent_index next;
	int dir_fd;
	char base_name[AGENT_TRACK_NAME], next_name[AGENT_TRACK_NAME];
	char pending_name[AGENT_TRACK_NAME];
	bool sealed;
};

/* 0 with @t filled, or -errno with a sentence: the state folder cannot be used. */
int agent_track_begin(struct agent_track *t, const struct agent_track_want *want, struct err *err);

/* The disk is copied: makes the new index durable as pending. */
int agent_track_seal(struct agent_track *t, struct err *err);

/* The hub has the point. Keeps it, its base, and the newest others up to @keep in all. */
int agent_track_commit(struct agent_track *t, unsigned keep, struct err *err);

/* The hub has refused the point: its pending index goes. */
void agent_track_refused(struct agent_track *t);

/* Whether the disk has an index, kept or pending, of the point "UUID-sequence". */
bool agent_track_has(const struct agent_track *t, const char *point);

void agent_track_end(struct agent_track *t);

#define AGENT_TRACK_INIT                                                                           \
	((struct agent_track){.base = AGENT_INDEX_INIT, .next = AGENT_INDEX_INIT, .dir_fd = -1})

/* Parses "UUID/sequence". -EINVAL for anything else. */
int agent_change_id_parse(const char *text, uint8_t uuid[16], uint64_t *sequence);
void agent_change_id_format(const uint8_t uuid[16], uint64_t sequence, char sep,
			    char out[AGENT_CHANGE_SIZE]);

#endif
