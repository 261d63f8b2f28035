/*
 * What contexts.c, disks.c and discovery.c share: inside the folder only.
 */
#ifndef CATALOG_INVENTORY_H
#define CATALOG_INVENTORY_H

#include "catalog/contexts.h"
#include "catalog/row.h"

extern const struct row_map catalog_vm_context_map;
extern const struct row_map catalog_vm_disk_map;

#endif
