/*
 * vm_backup_contexts: a VM in a repository. The VM's identity finds it, so a VM that left the
 * inventory and came back under a new context id continues with its old backups.
 */
#include "catalog/backup_rows.h"
#include "catalog/contexts.h"
#include "catalog/repositories.h"
#include "catalog/session.h"

struct ensure {
	const char *vm_context_id;
	const char *repository_id;
	struct catalog_backup_context *out;
};

static int insert_context(struct db *db, const struct catalog_vm_context *vm,
			  const char *repository_id, int64_t now, struct err *err)
{
	struct catalog_backup_context row = {.created_at_us = now, .updated_at_us = now};

	catalog_new_id(row.context_id, "bctx-");
	CATALOG_TEXT(row.vm_context_id, vm->context_id);
	CATALOG_TEXT(row.vm_name, vm->vm_name);
	CATALOG_TEXT(row.vmware_vm_id, vm->vmware_vm_id);
	CATALOG_TEXT(row.vm_path, vm->vm_path);
	CATALOG_TEXT(row.vcenter_host, vm->vcenter_host);
	CATALOG_TEXT(row.datacenter, vm->datacenter);
	CATALOG_TEXT(row.repository_id, repository_id);
	return row_insert(db, &catalog_backup_context_map, &row, err);
}

static int update_context(struct db *db, const struct catalog_vm_context *vm,
			  const char *repository_id, int64_t now, int64_t *changed, struct err *err)
{
	return db_run(db,
		      "UPDATE vm_backup_contexts SET vm_context_id = ?, vm_name = ?, vm_path = ?,"
		      " datacenter = ?, updated_at = ?"
		      " WHERE vcenter_host = ? AND vmware_vm_id = ? AND repository_id = ?",
		      DB_ARGS(DB_TEXT(vm->context_id), DB_TEXT(vm->vm_name), DB_TEXT(vm->vm_path),
			      DB_TEXT(vm->datacenter), DB_I64(now), DB_TEXT(vm->vcenter_host),
			      DB_TEXT(vm->vmware_vm_id), DB_TEXT(repository_id)),
		      changed, err);
}

static int ensure_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct ensure *e = arg;
	struct db *db = catalog_db(tx);
	struct catalog_repository repo;
	struct catalog_vm_context vm;
	int64_t now = catalog_now_us(), changed = 0;
	int r = catalog_vm_context_get(tx, e->vm_context_id, &vm, err);

	if (!r)
		r = catalog_repository_get(tx, e->repository_id, &repo, err);
	if (!r)
		r = update_context(db, &vm, repo.id, now, &changed, err);
	if (!r && !changed)
		r = insert_context(db, &vm, repo.id, now, err);
	if (r)
		return r;
	r = row_get(db, &catalog_backup_context_map,
		    "WHERE c.vcenter_host = ? AND c.vmware_vm_id = ? AND c.repository_id = ?",
		    DB_ARGS(DB_TEXT(vm.vcenter_host), DB_TEXT(vm.vmware_vm_id), DB_TEXT(repo.id)),
		    e->out, err);
	return r == DB_ROW ? 0 : r;
}

int catalog_backup_context_ensure(struct catalog *cat, const char *vm_context_id,
				  const char *repository_id, struct catalog_backup_context *out,
				  struct err *err)
{
	struct ensure e = {vm_context_id, repository_id, out};

	return catalog_tx(cat, ensure_tx, &e, err);
}

int catalog_backup_context_get(struct catalog *cat, const char *context_id,
			       struct catalog_backup_context *out, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_get(l.db, &catalog_backup_context_map, "WHERE c.context_id = ?",
			    DB_ARGS(DB_TEXT(context_id)), out, err);
	return catalog_found(cat, r, err, "there is no backup context %s", context_id);
}

int catalog_backup_contexts_list(struct catalog *cat, const char *vm_name,
				 const char *repository_id, struct catalog_backup_context **rows,
				 size_t *n, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	struct row_where w = {0};
	int r = catalog_lease(cat, &l, err);

	row_where_text(&w, "c.vm_name = ?", vm_name);
	row_where_text(&w, "c.repository_id = ?", repository_id);
	row_where_tail(&w, "ORDER BY c.vm_name, c.context_id");
	if (!r)
		r = row_list(l.db, &catalog_backup_context_map, w.sql, w.args, w.n, (void **)rows,
			     n, err);
	return catalog_result(cat, r);
}
