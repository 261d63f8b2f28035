/*
 * job_log: the story of a backup job, line by line, for people. The steps of a job
 * (catalog/backups.h) write their own line in their own transaction, so that no step goes untold
 * and none is told that did not happen; whoever has more to say adds it here.
 *
 * The line's id is its place in the story: it grows, with gaps, and a reader that has seen line N
 * asks for what comes after N.
 */
#ifndef CATALOG_JOB_LOG_H
#define CATALOG_JOB_LOG_H

#include "catalog/catalog.h"

#define CATALOG_LOG_MESSAGE_SIZE 1024
#define CATALOG_LOG_LINES_MAX	 1000 /* of one answer */

enum catalog_log_level {
	CATALOG_LOG_ERROR,
	CATALOG_LOG_WARNING,
	CATALOG_LOG_INFO,
};

/* "error", "warning", "info". */
const char *catalog_log_level_name(enum catalog_log_level level);

struct catalog_job_line {
	int64_t id;
	char backup_job_id[CATALOG_ID_SIZE];
	int disk_index; /* or CATALOG_NONE: the whole job */
	enum catalog_log_level level;
	char phase[CATALOG_ID_SIZE]; /* start, running, copy, commit, end, ... */
	char message[CATALOG_LOG_MESSAGE_SIZE];
	int64_t created_at_us;
};

/* Adds a line: job id, disk index, level, phase and message are read; the message is cut to fit,
 * and what is not UTF-8 in it becomes '?'. CATALOG_E_NOT_FOUND: no such job. */
int catalog_job_log_add(struct catalog *cat, const struct catalog_job_line *line, struct err *err);

/* Lines with an id above @after, oldest first, at most @limit (1 to CATALOG_LOG_LINES_MAX). No line
 * is no error, nor is a job that does not exist. */
int catalog_job_log_list(struct catalog *cat, const char *job_id, int64_t after, int64_t limit,
			 struct catalog_job_line **rows, size_t *n, struct err *err);

#endif
