/*
 * A table on a terminal: cells are collected row by row and printed with aligned columns. The first
 * row is the heading. Cells are copied, and made printable (human_printable()). Running out of
 * memory is remembered and reported by the print, so that filling a table needs no checks.
 */
#ifndef TOOLS_CTL_TABLE_H
#define TOOLS_CTL_TABLE_H

#include <stdio.h>

#include "base/err.h"
#include "base/cleanup.h"

struct ctl_table;

/* @columns: one heading each, ended by NULL; a leading '>' aligns the column to the right. */
struct ctl_table *ctl_table_new(const char *const *columns);
void ctl_table_free(struct ctl_table *table); /* this and all below accept NULL */
DEFINE_CLEANUP(struct ctl_table *, ctl_table_free)

/* The next cell, left to right, top to bottom; NULL or "" shows as "-". */
void ctl_table_add(struct ctl_table *table, const char *cell);
/* As ctl_table_add(), cut to @columns and marked with "..." when longer. */
void ctl_table_add_cut(struct ctl_table *table, const char *cell, size_t columns);
void ctl_table_addf(struct ctl_table *table, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

int ctl_table_print(const struct ctl_table *table, FILE *out, struct err *err); /* 0 or -ENOMEM */

#endif
