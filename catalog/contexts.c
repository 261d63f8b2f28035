#include "catalog/contexts.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "catalog/inventory.h"
#include "catalog/session.h"

#define V struct catalog_vm_context

static const struct row_field fields[] = {
	TEXT_COL(V, context_id, "context_id"),
	TEXT_COL(V, vm_name, "vm_name"),
	TEXT_COL(V, vmware_vm_id, "vmware_vm_id"),
	TEXT_COL(V, vm_path, "vm_path"),
	TEXT_COL(V, vcenter_host, "vcenter_host"),
	TEXT_COL(V, datacenter, "datacenter"),
	TEXT_COL(V, power_state, "power_state"),
	TEXT_COL(V, os_type, "os_type"),
	TEXT_COL(V, vmx_version, "vmx_version"),
	I64_COL(V, cpu_count, "cpu_count"),
	I64_COL(V, memory_mb, "memory_mb"),
	I64_COL(V, credential_id, "credential_id", ROW_OPT),
	TEXT_COL(V, policy_id, "policy_id", ROW_OPT),
	TEXT_COL(V, notes, "notes"),
	TIME_COL(V, created_at_us, "created_at"),
	TIME_COL(V, updated_at_us, "updated_at"),
	TIME_COL(V, last_discovered_at_us, "last_discovered_at", ROW_OPT),
	I64_COL(V, disk_count,
		"(SELECT COUNT(*) FROM vm_disks d"
		" WHERE d.vm_context_id = v.context_id AND d.missing = 0)",
		ROW_DERIVED),
	I64_COL(V, total_capacity_bytes,
		"(SELECT COALESCE(SUM(d.capacity_bytes), 0) FROM vm_disks d"
		" WHERE d.vm_context_id = v.context_id AND d.missing = 0)",
		ROW_DERIVED),
};

const struct row_map catalog_vm_context_map =
	ROW_MAP(V, "vm_replication_contexts", "v", "", fields);

int catalog_vm_context_get(struct catalog *cat, const char *context_id,
			   struct catalog_vm_context *out, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_get(l.db, &catalog_vm_context_map, "WHERE v.context_id = ?",
			    DB_ARGS(DB_TEXT(context_id)), out, err);
	return catalog_found(cat, r, err, "there is no VM context %s", context_id);
}

int catalog_vm_context_find(struct catalog *cat, const char *vm_name, const char *vcenter_host,
			    struct catalog_vm_context *out, struct err *err)
{
	const struct catalog_vm_filter filter = {
		.vm_name = vm_name, .vcenter_host = vcenter_host, .limit = 2};
	_cleanup_(freep) struct catalog_vm_context *rows = NULL;
	size_t n;
	int r;

	if (!vm_name || !*vm_name)
		return err_set(err, CATALOG_E_NOT_FOUND, "a VM without a name cannot be found");
	r = catalog_vm_contexts_list(cat, &filter, &rows, &n, NULL, err);
	if (r)
		return r;
	if (n == 0)
		return err_set(err, CATALOG_E_NOT_FOUND,
			       "VM %s is not in the inventory: run discovery first", vm_name);
	if (n > 1)
		return err_set(err, CATALOG_E_AMBIGUOUS,
			       "there are several VMs named %s, in %s and %s: say which by its "
			       "context id",
			       vm_name, rows[0].vcenter_host, rows[1].vcenter_host);
	*out = rows[0];
	return 0;
}

static const char *const orders[] = {
	[CATALOG_VM_BY_NAME] = "v.vm_name",
	[CATALOG_VM_BY_CAPACITY] = "(SELECT COALESCE(SUM(d.capacity_bytes), 0) FROM vm_disks d"
				   " WHERE d.vm_context_id = v.context_id AND d.missing = 0)",
	[CATALOG_VM_BY_CREATED] = "v.created_at",
	[CATALOG_VM_BY_DISCOVERED] = "v.last_discovered_at",
};

static void where_vm(struct row_where *w, const struct catalog_vm_filter *f, char *pattern,
		     size_t size)
{
	row_where_text(w, "v.vm_name = ?", f->vm_name);
	row_where_text(w, "v.vcenter_host = ?", f->vcenter_host);
	row_where_text(w, "v.policy_id = ?", f->policy_id);
	if (f->credential_id > 0)
		row_where_i64(w, "v.credential_id = ?", f->credential_id);
	if (f->credential_id == CATALOG_NONE)
		row_where_i64(w, "COALESCE(v.credential_id, 0) = ?", 0);
	if (f->without_policy)
		row_where_i64(w,
			      "v.policy_id IS NULL AND (SELECT COUNT(*) FROM schedules s"
			      " WHERE s.vm_context_id = v.context_id) = ?",
			      0);
	if (f->search && *f->search) {
		snprintf(pattern, size, "%s", f->search);
		row_where_text(w, "INSTR(LOWER(v.vm_name), LOWER(?)) > 0", pattern);
	}
}

static int list_contexts(struct db *db, const struct catalog_vm_filter *f,
			 struct catalog_vm_context **rows, size_t *n, int64_t *total,
			 struct err *err)
{
	struct row_where w = {0};
	struct row_where count = {.sql = "SELECT COUNT(*) FROM vm_replication_contexts v"};
	char search[CATALOG_NAME_SIZE], order[256];
	int r = 0;

	where_vm(&w, f, search, sizeof(search));
	if (total) {
		row_where_tail(&count, w.sql);
		r = db_query_i64(db, count.sql, w.args, w.n, 0, total, err);
	}
	if (r)
		return r;
	snprintf(order, sizeof(order), "ORDER BY %s%s, v.vm_name, v.context_id", orders[f->order],
		 f->descending ? " DESC" : "");
	row_where_tail(&w, order);
	row_where_limit(&w, f->limit, f->offset);
	return row_list(db, &catalog_vm_context_map, w.sql, w.args, w.n, (void **)rows, n, err);
}

int catalog_vm_contexts_list(struct catalog *cat, const struct catalog_vm_filter *filter,
			     struct catalog_vm_context **rows, size_t *n, int64_t *total,
			     struct err *err)
{
	static const struct catalog_vm_filter any = {0};
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = list_contexts(l.db, filter ? filter : &any, rows, n, total, err);
	return catalog_result(cat, r);
}

static int networks(struct db *db, const char *context_id, char **json, struct err *err)
{
	_cleanup_(db_releasep) struct db_stmt *st = NULL;
	int r = db_query(db, "SELECT networks FROM vm_replication_contexts WHERE context_id = ?",
			 DB_ARGS(DB_TEXT(context_id)), &st, err);

	if (r)
		return r;
	r = db_step(st, err);
	if (r != DB_ROW)
		return r;
	*json = strdup(db_col_text(st, 0, NULL) ?: "[]");
	return *json ? DB_ROW : err_sys(err, -ENOMEM, "cannot read the networks of a VM");
}

int catalog_vm_context_networks(struct catalog *cat, const char *context_id, char **json,
				struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = networks(l.db, context_id, json, err);
	return catalog_found(cat, r, err, "there is no VM context %s", context_id);
}

struct change {
	const char *context_id;
	const struct catalog_vm_change *c;
};

static int there_is(struct db *db, const char *sql, struct db_arg id, const char *what,
		    struct err *err)
{
	int64_t n = 0;
	int r = db_query_i64(db, sql, &id, 1, 0, &n, err);

	if (!r && !n)
		r = err_set(err, CATALOG_E_INVALID, "there is no such %s", what);
	return r;
}

static int change_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct change *u = arg;
	const struct catalog_vm_change *c = u->c;
	struct db *db = catalog_db(tx);
	struct catalog_vm_context row;
	int r = catalog_vm_context_get(tx, u->context_id, &row, err);

	if (!r && c->policy_id && *c->policy_id)
		r = there_is(db, "SELECT COUNT(*) FROM backup_policies WHERE id = ?",
			     DB_TEXT(c->policy_id), "policy", err);
	if (!r && c->credential_id && *c->credential_id != CATALOG_NONE)
		r = there_is(db, "SELECT COUNT(*) FROM credentials WHERE id = ?",
			     DB_I64(*c->credential_id), "credential", err);
	if (r)
		return r;
	if ((c->notes && !CATALOG_TEXT(row.notes, c->notes)) ||
	    (c->policy_id && !CATALOG_TEXT(row.policy_id, c->policy_id)))
		return err_set(err, CATALOG_E_INVALID, "notes have at most %d bytes",
			       CATALOG_NOTES_SIZE - 1);
	if (c->credential_id)
		row.credential_id = *c->credential_id;
	return db_run(
		db,
		"UPDATE vm_replication_contexts SET notes = ?, policy_id = ?,"
		" credential_id = ?, updated_at = ? WHERE context_id = ?",
		DB_ARGS(DB_TEXT(row.notes), DB_OPT(row.policy_id),
			row.credential_id == CATALOG_NONE ? DB_NULL : DB_I64(row.credential_id),
			DB_I64(catalog_now_us()), DB_TEXT(u->context_id)),
		NULL, err);
}

int catalog_vm_context_change(struct catalog *cat, const char *context_id,
			      const struct catalog_vm_change *change, struct err *err)
{
	struct change u = {context_id, change};

	return catalog_tx(cat, change_tx, &u, err);
}

static int delete_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct db *db = catalog_db(tx);
	const char *context_id = arg;
	int64_t n;
	int r;

	r = db_query_i64(db, "SELECT COUNT(*) FROM backup_jobs WHERE running_vm_context_id = ?",
			 DB_ARGS(DB_TEXT(context_id)), 0, &n, err);
	if (r)
		return r;
	if (n)
		return err_set(err, CATALOG_E_BUSY,
			       "a backup of the VM (context %s) is running: wait for its end",
			       context_id);
	r = db_run(db, "DELETE FROM vm_replication_contexts WHERE context_id = ?",
		   DB_ARGS(DB_TEXT(context_id)), &n, err);
	if (!r && n == 0)
		r = err_set(err, CATALOG_E_NOT_FOUND, "there is no VM context %s", context_id);
	return r;
}

int catalog_vm_context_delete(struct catalog *cat, const char *context_id, struct err *err)
{
	return catalog_tx(cat, delete_tx, (void *)context_id, err);
}
