/*
 * Progress of a running backup on a terminal or in a log.
 *
 * Fed with the hub's description of the job (GET /api/v1/backups/{id}) and the time it was asked;
 * from two of those come rate and time to go, smoothed so that the figures can be read. On a
 * terminal there is one line a disk, redrawn in place; anywhere else a line when a disk changes its
 * state or has gained a tenth.
 */
#ifndef TOOLS_CTL_PROGRESS_H
#define TOOLS_CTL_PROGRESS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define PROGRESS_DISKS_MAX 64
#define PROGRESS_LINE_MAX  512 /* bytes */

struct progress_disk {
	int index;
	char label[64];
	char status[16];   /* pending, running, completed, failed */
	uint64_t received; /* bytes of data the agent has sent */
	double percent;	   /* how far the copy is; < 0: nobody knows how much it will be */
	double rate;	   /* bytes per second, smoothed; < 0: not known yet */
	double pace;	   /* per cent per second, smoothed; < 0: not known yet */
	/* what was last printed, for plain lines */
	char told_status[16];
	unsigned told_tenth;
};

struct ctl_progress {
	struct progress_disk disk[PROGRESS_DISKS_MAX];
	unsigned count;
	double last_update; /* 0: none yet */
	unsigned drawn;	    /* lines on the terminal to draw over */
};

/* @job is what the hub answered, @now any clock in seconds that only goes forward. */
void ctl_progress_update(struct ctl_progress *progress, const json_t *job, double now);

/* Seconds to go at the present pace, or -1. */
double ctl_progress_eta(const struct progress_disk *disk);

/* One disk as one line of at most @columns columns, without newline. */
void ctl_progress_line(const struct progress_disk *disk, unsigned columns,
		       char buf[PROGRESS_LINE_MAX]);

/* Redraws all lines in place (a terminal of @columns). */
void ctl_progress_draw(struct ctl_progress *progress, unsigned columns, FILE *out);

/* Prints what changed since the last call, one line each. */
void ctl_progress_tell(struct ctl_progress *progress, FILE *out);

#endif
