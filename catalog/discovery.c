/*
 * Storing what discovery found: one transaction a VM, so that a VM never stands in the inventory
 * without the disks it was seen with (K12).
 *
 * Disks keep the index they first got. A new one takes, in this order: the index its backups
 * already use (the VM was deleted from the inventory and is back), or the lowest above every index
 * this VM ever had, in the inventory or in a backup. So no index is ever shared by two disks, and
 * directories and chains of one disk never continue with another's data.
 */
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "catalog/inventory.h"
#include "catalog/session.h"

#define NETWORKS_MAX (256 * KIB)

struct upsert {
	struct catalog_vm_context *vm;
	struct catalog_vm_disk *disks;
	size_t n;
	const char *networks;
	int64_t now;
};

/* --- the VM ----------------------------------------------------------------------------------- */

static int update_vm(struct db *db, const struct upsert *u, const char *context_id, struct err *err)
{
	const struct catalog_vm_context *vm = u->vm;

	/* SET one list for MariaDB and SQLite; COALESCE keeps what the caller has no word about. */
	return db_run(
		db,
		"UPDATE vm_replication_contexts SET vm_name = ?, vm_path = ?, datacenter = ?,"
		" power_state = ?, os_type = ?, vmx_version = ?, cpu_count = ?, memory_mb = ?,"
		" credential_id = COALESCE(?, credential_id),"
		" networks = COALESCE(?, networks), updated_at = ?, last_discovered_at = ?"
		" WHERE context_id = ?",
		DB_ARGS(DB_TEXT(vm->vm_name), DB_TEXT(vm->vm_path), DB_TEXT(vm->datacenter),
			DB_TEXT(vm->power_state), DB_TEXT(vm->os_type), DB_TEXT(vm->vmx_version),
			DB_I64(vm->cpu_count), DB_I64(vm->memory_mb),
			vm->credential_id == CATALOG_NONE ? DB_NULL : DB_I64(vm->credential_id),
			DB_OPT(u->networks), DB_I64(u->now), DB_I64(u->now), DB_TEXT(context_id)),
		NULL, err);
}

static int check_credential(struct db *db, int64_t id, struct err *err)
{
	int64_t n = 1;
	int r = 0;

	if (id != CATALOG_NONE)
		r = db_query_i64(db, "SELECT COUNT(*) FROM credentials WHERE id = ?",
				 DB_ARGS(DB_I64(id)), 0, &n, err);
	if (!r && !n)
		r = err_set(err, CATALOG_E_INVALID, "there is no credential %" PRId64, id);
	return r;
}

static int store_vm(struct db *db, const struct upsert *u, char context_id[CATALOG_ID_SIZE],
		    struct err *err)
{
	struct catalog_vm_context row;
	int r = check_credential(db, u->vm->credential_id, err);

	if (r)
		return r;
	r = row_get(db, &catalog_vm_context_map, "WHERE v.vcenter_host = ? AND v.vmware_vm_id = ?",
		    DB_ARGS(DB_TEXT(u->vm->vcenter_host), DB_TEXT(u->vm->vmware_vm_id)), &row, err);

	if (r == DB_DONE) {
		row = *u->vm;
		catalog_new_id(row.context_id, "ctx-");
		row.created_at_us = row.updated_at_us = row.last_discovered_at_us = u->now;
		r = row_insert(db, &catalog_vm_context_map, &row, err);
	} else if (r == DB_ROW) {
		r = 0;
	}
	if (r)
		return r;
	memcpy(context_id, row.context_id, CATALOG_ID_SIZE);
	return update_vm(db, u, context_id, err);
}

/* --- its disks -------------------------------------------------------------------------------- */

/* The index this disk has in the VM's backups, or CATALOG_NONE. */
static int index_in_backups(struct db *db, const struct upsert *u, const char *disk_id,
			    int64_t *index, struct err *err)
{
	return db_query_i64(db,
			    "SELECT MAX(b.disk_index) FROM vm_backup_contexts c"
			    " JOIN backup_disks b ON b.vm_backup_context_id = c.context_id"
			    " WHERE c.vcenter_host = ? AND c.vmware_vm_id = ? AND b.disk_id = ?",
			    DB_ARGS(DB_TEXT(u->vm->vcenter_host), DB_TEXT(u->vm->vmware_vm_id),
				    DB_TEXT(disk_id)),
			    CATALOG_NONE, index, err);
}

/* One above the highest index the VM ever had. */
static int free_index(struct db *db, const struct upsert *u, const char *context_id, int64_t *index,
		      struct err *err)
{
	int64_t in_inventory, in_backups;
	int r;

	r = db_query_i64(db, "SELECT MAX(disk_index) FROM vm_disks WHERE vm_context_id = ?",
			 DB_ARGS(DB_TEXT(context_id)), CATALOG_NONE, &in_inventory, err);
	if (r)
		return r;
	r = db_query_i64(db,
			 "SELECT MAX(b.disk_index) FROM vm_backup_contexts c"
			 " JOIN backup_disks b ON b.vm_backup_context_id = c.context_id"
			 " WHERE c.vcenter_host = ? AND c.vmware_vm_id = ?",
			 DB_ARGS(DB_TEXT(u->vm->vcenter_host), DB_TEXT(u->vm->vmware_vm_id)),
			 CATALOG_NONE, &in_backups, err);
	*index = MAX(in_inventory, in_backups) + 1;
	return r;
}

static int insert_disk(struct db *db, const struct upsert *u, const char *context_id,
		       struct catalog_vm_disk row, struct err *err)
{
	int64_t index, taken;
	int r = index_in_backups(db, u, row.disk_id, &index, err);

	if (r)
		return r;
	r = db_query_i64(db,
			 "SELECT COUNT(*) FROM vm_disks WHERE vm_context_id = ? AND disk_index = ?",
			 DB_ARGS(DB_TEXT(context_id), DB_I64(index)), 0, &taken, err);
	if (!r && (index == CATALOG_NONE || taken))
		r = free_index(db, u, context_id, &index, err);
	if (r)
		return r;
	row.disk_index = (int)index;
	row.job_id[0] = 0;
	row.created_at_us = row.updated_at_us = u->now;
	CATALOG_TEXT(row.vm_context_id, context_id);
	return row_insert(db, &catalog_vm_disk_map, &row, err);
}

static int update_disk(struct db *db, const struct upsert *u, const char *context_id,
		       const struct catalog_vm_disk *d, int64_t *changed, struct err *err)
{
	return db_run(
		db,
		"UPDATE vm_disks SET hardware_order = ?, vmware_disk_key = ?, label = ?,"
		" path = ?, datastore = ?, capacity_bytes = ?, size_gb = ?, unit_number = ?,"
		" provisioning_type = ?, controller = ?, missing = 0, updated_at = ?"
		" WHERE vm_context_id = ? AND disk_id = ?",
		DB_ARGS(DB_I64(d->hardware_order),
			d->vmware_disk_key == CATALOG_NONE ? DB_NULL : DB_I64(d->vmware_disk_key),
			DB_TEXT(d->label), DB_TEXT(d->path), DB_TEXT(d->datastore),
			DB_I64(d->capacity_bytes), DB_I64(d->size_gb),
			d->unit_number == CATALOG_NONE ? DB_NULL : DB_I64(d->unit_number),
			DB_TEXT(d->provisioning_type), DB_TEXT(d->controller), DB_I64(u->now),
			DB_TEXT(context_id), DB_TEXT(d->disk_id)),
		changed, err);
}

static int store_disks(struct db *db, const struct upsert *u, const char *context_id,
		       struct err *err)
{
	int r = db_run(db, "UPDATE vm_disks SET missing = 1 WHERE vm_context_id = ?",
		       DB_ARGS(DB_TEXT(context_id)), NULL, err);

	for (size_t i = 0; !r && i < u->n; i++) {
		struct catalog_vm_disk row = u->disks[i];
		int64_t changed = 0;

		row.hardware_order = (int)i;
		row.missing = false;
		r = update_disk(db, u, context_id, &row, &changed, err);
		if (!r && !changed)
			r = insert_disk(db, u, context_id, row, err);
	}
	return r;
}

/* --- the whole -------------------------------------------------------------------------------- */

static int read_back(struct db *db, const struct upsert *u, const char *context_id, struct err *err)
{
	int r = row_get(db, &catalog_vm_context_map, "WHERE v.context_id = ?",
			DB_ARGS(DB_TEXT(context_id)), u->vm, err);

	for (size_t i = 0; r == DB_ROW && i < u->n; i++)
		r = row_get(db, &catalog_vm_disk_map, "WHERE d.vm_context_id = ? AND d.disk_id = ?",
			    DB_ARGS(DB_TEXT(context_id), DB_TEXT(u->disks[i].disk_id)),
			    &u->disks[i], err);
	return r == DB_ROW ? 0 : r;
}

static int upsert_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct upsert *u = arg;
	char context_id[CATALOG_ID_SIZE];
	int r = store_vm(catalog_db(tx), u, context_id, err);

	if (!r)
		r = store_disks(catalog_db(tx), u, context_id, err);
	return r ? r : read_back(catalog_db(tx), u, context_id, err);
}

static int check_disks(const struct upsert *u, struct err *err)
{
	for (size_t i = 0; i < u->n; i++) {
		const struct catalog_vm_disk *d = &u->disks[i];

		if (!*d->disk_id)
			return err_set(err, CATALOG_E_INVALID, "disk %zu of VM %s has no id", i,
				       u->vm->vm_name);
		if (d->capacity_bytes <= 0)
			return err_set(err, CATALOG_E_INVALID,
				       "disk %s of VM %s has no size: capacity_bytes is %" PRId64,
				       d->disk_id, u->vm->vm_name, d->capacity_bytes);
		for (size_t j = 0; j < i; j++)
			if (!strcmp(u->disks[j].disk_id, d->disk_id))
				return err_set(err, CATALOG_E_INVALID,
					       "VM %s has two disks with the id %s", u->vm->vm_name,
					       d->disk_id);
	}
	return 0;
}

static int check(const struct upsert *u, struct err *err)
{
	const struct catalog_vm_context *vm = u->vm;

	if (!*vm->vm_name || !*vm->vmware_vm_id || !*vm->vm_path || !*vm->vcenter_host)
		return err_set(err, CATALOG_E_INVALID,
			       "VM \"%s\" (id \"%s\") cannot be stored: name, id, inventory path "
			       "and vCenter host must be known",
			       vm->vm_name, vm->vmware_vm_id);
	if (u->n > 4096)
		return err_set(err, CATALOG_E_INVALID, "VM %s has %zu disks: more than any VM can",
			       vm->vm_name, u->n);
	if (u->networks && strlen(u->networks) > NETWORKS_MAX)
		return err_set(err, CATALOG_E_INVALID,
			       "the networks of VM %s are more than 256 KiB of text", vm->vm_name);
	return check_disks(u, err);
}

int catalog_vm_context_upsert(struct catalog *cat, struct catalog_vm_context *vm,
			      struct catalog_vm_disk *disks, size_t n, const char *networks_json,
			      struct err *err)
{
	struct upsert u = {vm, disks, n, networks_json, catalog_now_us()};
	int r = check(&u, err);

	return r ? r : catalog_tx(cat, upsert_tx, &u, err);
}
