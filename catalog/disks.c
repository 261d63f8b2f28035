#include "catalog/disks.h"

#include "base/bytes.h"
#include "catalog/inventory.h"
#include "catalog/session.h"

#define D struct catalog_vm_disk

static const struct row_field fields[] = {
	I64_COL(D, id, "d.id", ROW_DERIVED),
	TEXT_COL(D, vm_context_id, "vm_context_id"),
	TEXT_COL(D, job_id, "job_id", ROW_OPT),
	TEXT_COL(D, disk_id, "disk_id"),
	INT_COL(D, disk_index, "disk_index"),
	INT_COL(D, hardware_order, "hardware_order"),
	I64_COL(D, vmware_disk_key, "vmware_disk_key", ROW_OPT),
	TEXT_COL(D, label, "label"),
	TEXT_COL(D, path, "path"),
	TEXT_COL(D, datastore, "datastore"),
	I64_COL(D, capacity_bytes, "capacity_bytes"),
	I64_COL(D, size_gb, "size_gb"),
	INT_COL(D, unit_number, "unit_number", ROW_OPT),
	TEXT_COL(D, provisioning_type, "provisioning_type"),
	TEXT_COL(D, controller, "controller"),
	BOOL_COL(D, missing, "missing"),
	TIME_COL(D, created_at_us, "created_at"),
	TIME_COL(D, updated_at_us, "updated_at"),
};

const struct row_map catalog_vm_disk_map = ROW_MAP(D, "vm_disks", "d", "", fields);

int catalog_vm_disks_list(struct catalog *cat, const char *vm_context_id, bool with_missing,
			  struct catalog_vm_disk **rows, size_t *n, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_list(l.db, &catalog_vm_disk_map,
			     "WHERE d.vm_context_id = ? AND d.missing <= ?"
			     " ORDER BY d.missing, d.hardware_order, d.disk_index",
			     DB_ARGS(DB_TEXT(vm_context_id), DB_I64(with_missing)), (void **)rows,
			     n, err);
	return catalog_result(cat, r);
}

int catalog_vm_disk_get(struct catalog *cat, const char *vm_context_id, const char *disk_id,
			struct catalog_vm_disk *out, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_get(l.db, &catalog_vm_disk_map,
			    "WHERE d.vm_context_id = ? AND d.disk_id = ?",
			    DB_ARGS(DB_TEXT(vm_context_id), DB_TEXT(disk_id)), out, err);
	return catalog_found(cat, r, err, "VM context %s has no disk %s", vm_context_id, disk_id);
}
