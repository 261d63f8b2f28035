/*
 * From what people type to what the API wants: names to ids; and short accessors into the hub's
 * answers, for fields that may be absent.
 */
#ifndef TOOLS_CTL_LOOKUP_H
#define TOOLS_CTL_LOOKUP_H

#include <jansson.h>
#include <stdint.h>

#include "tools/ctl.h"
#include "tools/ctl_rest.h"

/* The text of a field, "" when absent or no text; borrowed from @object. */
const char *ctl_text(const json_t *object, const char *field);

/* The number in a field; 0 when absent, negative or no number. */
uint64_t ctl_number(const json_t *object, const char *field);

#define CTL_TEXT_MAX 512 /* bytes of a free text shown */

/* Prints @reply as the hub sent it, for --json. */
void ctl_print_json(const json_t *reply);

/* The row of the VM called @name; @row is borrowed from @list, which the caller frees.
 * CTL_NOT_FOUND; CTL_CONFLICT when VMs of that name exist in two vCenters. */
int ctl_find_vm(struct ctl *ctl, const char *name, json_t **list, const json_t **row,
		struct err *err);

/* The repository whose id or name is @name; NULL means the only one there is. As ctl_find_vm(). */
int ctl_find_repository(struct ctl *ctl, const char *name, json_t **list, const json_t **row,
			struct err *err);

#endif
