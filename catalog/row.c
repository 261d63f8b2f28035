#include "catalog/row.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "catalog/catalog.h"

#define SQL_SIZE    4096
#define FIELDS_MAX  48
#define INT64_LIMIT INT64_MAX

/* --- SQL text --------------------------------------------------------------------------------- */

/* Appends to @buf; false once it is full, and every time after. */
static bool __attribute__((format(printf, 3, 4)))
append(char *buf, size_t cap, const char *fmt, ...)
{
	size_t used = strnlen(buf, cap);
	va_list ap;
	int n;

	if (used >= cap)
		return false;
	va_start(ap, fmt);
	n = vsnprintf(buf + used, cap - used, fmt, ap);
	va_end(ap);
	return n >= 0 && (size_t)n < cap - used;
}

bool row_select_sql(char *buf, size_t cap, const struct row_map *map, const char *tail)
{
	bool ok = true;

	snprintf(buf, cap, "SELECT ");
	for (size_t i = 0; i < map->n; i++) {
		const struct row_field *f = &map->fields[i];

		ok = append(buf, cap, "%s%s%s%s", i ? ", " : "", f->derived ? "" : map->alias,
			    f->derived ? "" : ".", f->column) &&
		     ok;
	}
	return append(buf, cap, " FROM %s %s %s %s", map->table, map->alias, map->joins, tail) &&
	       ok;
}

static bool insert_sql(char *buf, size_t cap, const struct row_map *map)
{
	bool ok = true;
	size_t n = 0;

	snprintf(buf, cap, "INSERT INTO %s (", map->table);
	for (size_t i = 0; i < map->n; i++)
		if (!map->fields[i].derived)
			ok = append(buf, cap, "%s%s", n++ ? ", " : "", map->fields[i].column) && ok;
	ok = append(buf, cap, ") VALUES (") && ok;
	for (size_t i = 0; i < n; i++)
		ok = append(buf, cap, "%s", i ? ", ?" : "?") && ok;
	return append(buf, cap, ")") && ok;
}

static void where_add(struct row_where *w, const char *condition, struct db_arg arg)
{
	append(w->sql, sizeof(w->sql), " %s %s", w->n ? "AND" : "WHERE", condition);
	if (w->n < ARRAY_SIZE(w->args))
		w->args[w->n++] = arg;
}

void row_where_text(struct row_where *w, const char *condition, const char *value)
{
	if (value && *value)
		where_add(w, condition, DB_TEXT(value));
}

void row_where_i64(struct row_where *w, const char *condition, int64_t value)
{
	where_add(w, condition, DB_I64(value));
}

void row_where_tail(struct row_where *w, const char *sql)
{
	append(w->sql, sizeof(w->sql), " %s", sql);
}

int row_where_order(struct row_where *w, const struct row_sort *sorts, size_t n, const char *sort,
		    bool descending, const char *id, struct err *err)
{
	const char *way = descending ? "DESC" : "ASC";
	char sql[160];
	size_t i = 0;

	while (sort && *sort && i < n && strcmp(sorts[i].name, sort))
		i++;
	if (i == n)
		return err_set(err, CATALOG_E_INVALID, "the list cannot be sorted by \"%.40s\"",
			       sort);
	snprintf(sql, sizeof(sql), "ORDER BY %s %s, %s %s", sorts[i].column, way, id, way);
	row_where_tail(w, sql);
	return 0;
}

void row_where_limit(struct row_where *w, int64_t limit, int64_t offset)
{
	if (limit <= 0 && offset <= 0)
		return;
	row_where_tail(w, "LIMIT ? OFFSET ?");
	if (w->n + 2 > ARRAY_SIZE(w->args))
		return;
	w->args[w->n++] = DB_I64(limit > 0 ? limit : INT64_LIMIT);
	w->args[w->n++] = DB_I64(MAX(offset, 0));
}

/* --- struct to values ------------------------------------------------------------------------- */

int row_word_find(const struct row_words *words, const char *name)
{
	for (int i = 0; name && i < words->n; i++)
		if (!strcmp(words->names[i], name))
			return i;
	return -1;
}

static int64_t load_int(const struct row_field *f, const void *p)
{
	if (f->type == ROW_BOOL)
		return *(const bool *)p;
	if (f->size == sizeof(int64_t))
		return *(const int64_t *)p;
	return *(const int *)p;
}

static struct db_arg field_arg(const struct row_field *f, const void *row)
{
	const void *p = (const char *)row + f->off;
	int64_t v;

	if (f->type == ROW_TEXT)
		return f->optional ? DB_OPT((const char *)p) : DB_TEXT((const char *)p);
	v = load_int(f, p);
	if (f->type == ROW_ENUM)
		return v >= 0 && v < f->words->n ? DB_TEXT(f->words->names[v]) : DB_NULL;
	if (f->optional && v == (f->type == ROW_TIME ? 0 : CATALOG_NONE))
		return DB_NULL;
	return DB_I64(v);
}

int row_insert(struct db *db, const struct row_map *map, const void *row, struct err *err)
{
	struct db_arg args[FIELDS_MAX];
	char sql[SQL_SIZE];
	size_t n = 0;

	if (map->n > FIELDS_MAX || !insert_sql(sql, sizeof(sql), map))
		return err_set(err, -E2BIG, "the map of table %s is too large", map->table);
	for (size_t i = 0; i < map->n; i++)
		if (!map->fields[i].derived)
			args[n++] = field_arg(&map->fields[i], row);
	return db_run(db, sql, args, n, NULL, err);
}

/* --- values to struct ------------------------------------------------------------------------- */

static bool store_text(struct db_stmt *st, int col, const struct row_field *f, char *p)
{
	size_t len;
	const char *text = db_col_text(st, col, &len);

	if (!text || len >= f->size || memchr(text, 0, len))
		return false;
	memcpy(p, text, len);
	p[len] = 0;
	return true;
}

static bool store_int(const struct row_field *f, int64_t v, void *p)
{
	if (f->type == ROW_BOOL) {
		*(bool *)p = v != 0;
		return v == 0 || v == 1;
	}
	if (f->size == sizeof(int64_t)) {
		*(int64_t *)p = v;
		return true;
	}
	*(int *)p = (int)v;
	return v >= INT_MIN && v <= INT_MAX;
}

static bool store_null(const struct row_field *f, void *p)
{
	if (f->type == ROW_TEXT) {
		*(char *)p = 0;
		return f->optional;
	}
	return store_int(f, f->type == ROW_I64 || f->type == ROW_INT ? CATALOG_NONE : 0, p) &&
	       f->optional;
}

static bool store_field(struct db_stmt *st, int col, const struct row_field *f, void *p)
{
	int word;

	if (db_is_null(st, col))
		return store_null(f, p);
	if (f->type == ROW_TEXT)
		return store_text(st, col, f, p);
	if (f->type != ROW_ENUM)
		return store_int(f, db_col_i64(st, col), p);
	word = row_word_find(f->words, db_col_text(st, col, NULL));
	return word >= 0 && store_int(f, word, p);
}

static int store_row(struct db_stmt *st, const struct row_map *map, void *row, struct err *err)
{
	memset(row, 0, map->size);
	for (size_t i = 0; i < map->n; i++) {
		const struct row_field *f = &map->fields[i];

		if (!store_field(st, (int)i, f, (char *)row + f->off))
			return err_set(err, -EUCLEAN,
				       "catalog table %s: a row's %s is not what this program "
				       "writes: restore the catalog from a copy, or repair the row",
				       map->table, f->column);
	}
	return 0;
}

static int query(struct db *db, const struct row_map *map, const char *tail,
		 const struct db_arg *args, size_t n, struct db_stmt **st, struct err *err)
{
	char sql[SQL_SIZE];

	if (!row_select_sql(sql, sizeof(sql), map, tail))
		return err_set(err, -E2BIG, "the query on table %s is too large", map->table);
	return db_query(db, sql, args, n, st, err);
}

int row_get(struct db *db, const struct row_map *map, const char *tail, const struct db_arg *args,
	    size_t n, void *row, struct err *err)
{
	_cleanup_(db_releasep) struct db_stmt *st = NULL;
	_cleanup_(freep) void *copy = malloc(map->size);
	int r;

	if (!copy)
		return err_sys(err, -ENOMEM, "cannot read a row of %s", map->table);
	r = query(db, map, tail, args, n, &st, err);
	if (r)
		return r;
	r = db_step(st, err);
	if (r != DB_ROW)
		return r;
	r = store_row(st, map, copy, err);
	if (r)
		return r;
	memcpy(row, copy, map->size);
	return DB_ROW;
}

struct growing {
	char *rows;
	size_t n, cap;
};

static int grow(struct growing *g, size_t row_size)
{
	size_t cap = g->cap ? g->cap * 2 : 16;
	char *rows;

	if (g->n < g->cap)
		return 0;
	rows = reallocarray(g->rows, cap, row_size);
	if (!rows)
		return -ENOMEM;
	g->rows = rows;
	g->cap = cap;
	return 0;
}

int row_list(struct db *db, const struct row_map *map, const char *tail, const struct db_arg *args,
	     size_t n, void **rows, size_t *count, struct err *err)
{
	_cleanup_(db_releasep) struct db_stmt *st = NULL;
	struct growing g = {0};
	int r = query(db, map, tail, args, n, &st, err);

	while (!r) {
		r = db_step(st, err);
		if (r != DB_ROW)
			break;
		r = grow(&g, map->size);
		if (r) {
			err_sys(err, r, "cannot list %s", map->table);
			break;
		}
		r = store_row(st, map, g.rows + g.n * map->size, err);
		g.n++;
	}
	if (r) {
		free(g.rows);
		return r;
	}
	*rows = g.rows;
	*count = g.n;
	return 0;
}
