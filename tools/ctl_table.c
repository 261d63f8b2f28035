#include "tools/ctl_table.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "tools/ctl_human.h"

#define CELL_MAX    512 /* bytes; longer cells are cut */
#define COLUMNS_MAX 16
#define GAP	    2 /* blanks between columns */

struct ctl_table {
	size_t columns;
	bool right[COLUMNS_MAX];
	size_t width[COLUMNS_MAX];
	char **cells;
	size_t count, room;
	bool no_memory;
};

struct ctl_table *ctl_table_new(const char *const *columns)
{
	struct ctl_table *table = calloc(1, sizeof(*table));

	if (!table)
		return NULL;
	for (size_t i = 0; columns[i] && i < COLUMNS_MAX; i++)
		table->columns++;
	for (size_t i = 0; i < table->columns; i++) {
		table->right[i] = columns[i][0] == '>';
		ctl_table_add(table, columns[i] + table->right[i]);
	}
	return table;
}

void ctl_table_free(struct ctl_table *table)
{
	if (!table)
		return;
	for (size_t i = 0; i < table->count; i++)
		free(table->cells[i]);
	free(table->cells);
	free(table);
}

static bool make_room(struct ctl_table *table)
{
	size_t room = table->room ? 2 * table->room : 64;
	char **cells;

	if (table->count < table->room)
		return true;
	cells = realloc(table->cells, room * sizeof(*cells));
	if (!cells)
		return false;
	table->cells = cells;
	table->room = room;
	return true;
}

void ctl_table_add(struct ctl_table *table, const char *cell)
{
	char text[CELL_MAX], *copy;
	size_t column;

	if (!table || table->no_memory)
		return;
	human_printable(text, sizeof(text), cell && *cell ? cell : "-");
	copy = make_room(table) ? strdup(text) : NULL;
	if (!copy) {
		table->no_memory = true;
		return;
	}
	column = table->count % table->columns;
	table->cells[table->count++] = copy;
	table->width[column] = MAX(table->width[column], human_width(text));
}

void ctl_table_add_cut(struct ctl_table *table, const char *cell, size_t columns)
{
	char text[CELL_MAX];
	size_t len;

	human_printable(text, sizeof(text) - 3, cell);
	if (human_width(text) <= columns) {
		ctl_table_add(table, text);
		return;
	}
	for (len = strlen(text); human_width(text) > columns - 3;) {
		/* Back over one character, not into it. */
		while (len > 0 && (text[--len] & 0xc0) == 0x80)
			;
		text[len] = '\0';
	}
	ctl_table_add(table, strcat(text, "..."));
}

void ctl_table_addf(struct ctl_table *table, const char *fmt, ...)
{
	char text[CELL_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	ctl_table_add(table, text);
}

static void print_cell(const struct ctl_table *table, size_t i, FILE *out)
{
	size_t column = i % table->columns;
	bool last = column + 1 == table->columns;
	int pad = (int)(table->width[column] - human_width(table->cells[i]));

	fprintf(out, "%*s%s", table->right[column] ? pad : 0, "", table->cells[i]);
	if (last)
		fputc('\n', out);
	else
		fprintf(out, "%*s", (table->right[column] ? 0 : pad) + GAP, "");
}

int ctl_table_print(const struct ctl_table *table, FILE *out, struct err *err)
{
	if (!table || table->no_memory)
		return err_set(err, -ENOMEM, "out of memory while laying out the table");
	for (size_t i = 0; i < table->count; i++)
		print_cell(table, i, out);
	return 0;
}
