/*
 * Row structs described as tables: which member is which column. A noun's file declares one map per
 * struct; reading, listing and inserting are then the same few functions for all of them, and a
 * column list is written down once.
 *
 * NULL: an optional text is NULL when empty, an optional integer when CATALOG_NONE, an optional
 * time when 0. A row that does not fit its struct (text too long or with a NUL inside, unknown
 * word, integer out of range) is damage and reads as -EUCLEAN, never as something shorter or
 * smaller.
 */
#ifndef CATALOG_ROW_H
#define CATALOG_ROW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "catalog/db.h"

/* The words of an enum column, in enum order. */
struct row_words {
	const char *const *names;
	int n;
};

/* Index of @name, or -1. */
int row_word_find(const struct row_words *words, const char *name);

enum row_type { ROW_TEXT, ROW_I64, ROW_INT, ROW_BOOL, ROW_TIME, ROW_ENUM };

struct row_field {
	const char *column; /* a column of the map's table; with `derived` any SQL expression */
	enum row_type type;
	bool optional; /* may be NULL */
	bool derived;  /* read, never inserted: made by the database or joined */
	size_t off, size;
	const struct row_words *words; /* ROW_ENUM */
};

#define ROW_FIELD(s, m, t, ...)                                                                    \
	{                                                                                          \
		.type = (t), .off = offsetof(s, m), .size = sizeof(((s *)0)->m), __VA_ARGS__       \
	}
#define TEXT_COL(s, m, col, ...) ROW_FIELD(s, m, ROW_TEXT, .column = (col), ##__VA_ARGS__)
#define I64_COL(s, m, col, ...)	 ROW_FIELD(s, m, ROW_I64, .column = (col), ##__VA_ARGS__)
#define INT_COL(s, m, col, ...)	 ROW_FIELD(s, m, ROW_INT, .column = (col), ##__VA_ARGS__)
#define BOOL_COL(s, m, col, ...) ROW_FIELD(s, m, ROW_BOOL, .column = (col), ##__VA_ARGS__)
#define TIME_COL(s, m, col, ...) ROW_FIELD(s, m, ROW_TIME, .column = (col), ##__VA_ARGS__)
#define ENUM_COL(s, m, col, w, ...)                                                                \
	ROW_FIELD(s, m, ROW_ENUM, .column = (col), .words = (w), ##__VA_ARGS__)
#define ROW_OPT	    .optional = true
#define ROW_DERIVED .derived = true

struct row_map {
	const char *table;
	const char *alias; /* short name of the table in SELECT, for joins and derived fields */
	const char *joins; /* what follows "FROM table alias", or "" */
	const struct row_field *fields;
	size_t n, size; /* fields; bytes of the struct */
};

#define ROW_MAP(s, t, a, j, f)                                                                     \
	{                                                                                          \
		.table = (t), .alias = (a), .joins = (j), .fields = (f), .n = ARRAY_SIZE(f),       \
		.size = sizeof(s)                                                                  \
	}

/* A WHERE clause put together from the filters that are set. Conditions are SQL with one `?`. */
struct row_where {
	char sql[1024];
	struct db_arg args[12];
	size_t n;
};

void row_where_text(struct row_where *w, const char *condition, const char *value);
void row_where_i64(struct row_where *w, const char *condition, int64_t value);
/* Adds text as it is, without a condition: ORDER BY ... */
void row_where_tail(struct row_where *w, const char *sql);
/* What a list may be ordered by: the name callers use, the column behind it. */
struct row_sort {
	const char *name, *column;
};

/* Adds ORDER BY the column of @sort (NULL or "": the first one's), and then by @id, so that pages
 * are stable. CATALOG_E_INVALID: no such name. */
int row_where_order(struct row_where *w, const struct row_sort *sorts, size_t n, const char *sort,
		    bool descending, const char *id, struct err *err);
/* Adds LIMIT and OFFSET; @limit 0 is none. */
void row_where_limit(struct row_where *w, int64_t limit, int64_t offset);

/* Inserts all fields that are not derived. */
int row_insert(struct db *db, const struct row_map *map, const void *row, struct err *err);

/* Reads the first row of "SELECT fields FROM table alias joins @tail" to @row. DB_ROW, DB_DONE (no
 * row; @row untouched), or an error. */
int row_get(struct db *db, const struct row_map *map, const char *tail, const struct db_arg *args,
	    size_t n, void *row, struct err *err);

/* Reads all rows to one array, which the caller free()s. *@rows is NULL when there is none. */
int row_list(struct db *db, const struct row_map *map, const char *tail, const struct db_arg *args,
	     size_t n, void **rows, size_t *count, struct err *err);

/* The text row_get() and row_list() run; false if it does not fit. */
bool row_select_sql(char *buf, size_t cap, const struct row_map *map, const char *tail);

#endif
