#include "catalog/job_log.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/bytes.h"
#include "catalog/backup_rows.h"
#include "catalog/session.h"

static const char *const level_names[] = {"error", "warning", "info"};
static const struct row_words level_words = {level_names, ARRAY_SIZE(level_names)};

#define LINE struct catalog_job_line
static const struct row_field line_fields[] = {
	I64_COL(LINE, id, "id", ROW_DERIVED),
	TEXT_COL(LINE, backup_job_id, "backup_job_id"),
	INT_COL(LINE, disk_index, "disk_index", ROW_OPT),
	ENUM_COL(LINE, level, "level", &level_words),
	TEXT_COL(LINE, phase, "phase"),
	TEXT_COL(LINE, message, "message"),
	TIME_COL(LINE, created_at_us, "created_at"),
};
static const struct row_map line_map = ROW_MAP(LINE, "job_log", "l", "", line_fields);

const char *catalog_log_level_name(enum catalog_log_level level)
{
	return (unsigned)level < ARRAY_SIZE(level_names) ? level_names[level] : "info";
}

int catalog_job_log_put(struct db *db, const struct catalog_job_at *at, int64_t now_us,
			struct err *err, const char *fmt, ...)
{
	struct catalog_job_line line = {
		.disk_index = at->disk_index,
		.level = at->level,
		.created_at_us = now_us,
	};
	char text[2 * CATALOG_LOG_MESSAGE_SIZE];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	CATALOG_TEXT(line.backup_job_id, at->job_id);
	CATALOG_TEXT(line.phase, at->phase);
	catalog_text_cut(line.message, sizeof(line.message), text);
	return row_insert(db, &line_map, &line, err);
}

static int add_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct catalog_job_line *line = arg;
	const struct catalog_job_at at = {line->backup_job_id, line->disk_index, line->level,
					  line->phase};
	int r = catalog_job_log_put(catalog_db(tx), &at, catalog_now_us(), err, "%s",
				    line->message);

	if (r == DB_E_FOREIGN)
		return err_set(err, CATALOG_E_NOT_FOUND, "there is no backup job %s",
			       line->backup_job_id);
	return r;
}

int catalog_job_log_add(struct catalog *cat, const struct catalog_job_line *line, struct err *err)
{
	return catalog_tx(cat, add_tx, (void *)line, err);
}

int catalog_job_log_list(struct catalog *cat, const char *job_id, int64_t after, int64_t limit,
			 struct catalog_job_line **rows, size_t *n, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r;

	limit = MAX((int64_t)1, MIN(limit, (int64_t)CATALOG_LOG_LINES_MAX));
	r = catalog_lease(cat, &l, err);
	if (!r)
		r = row_list(l.db, &line_map,
			     "WHERE l.backup_job_id = ? AND l.id > ? ORDER BY l.id LIMIT ?",
			     DB_ARGS(DB_TEXT(job_id), DB_I64(after), DB_I64(limit)), (void **)rows,
			     n, err);
	return catalog_result(cat, r);
}
