#include "catalog/chains.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "catalog/backup_rows.h"
#include "catalog/session.h"

/* --- a job was completed ---------------------------------------------------------------------- */

static int close_active(struct db *db, const struct catalog_backup_disk *d, struct err *err)
{
	return db_run(db,
		      "UPDATE backup_chains SET active = NULL"
		      " WHERE vm_backup_context_id = ? AND disk_id = ? AND active = 1",
		      DB_ARGS(DB_TEXT(d->vm_backup_context_id), DB_TEXT(d->disk_id)), NULL, err);
}

static int open_chain(struct db *db, const struct catalog_backup_disk *d, int64_t now,
		      char chain_id[CATALOG_ID_SIZE], struct err *err)
{
	struct catalog_chain chain = {
		.disk_index = d->disk_index,
		.total_backups = 1,
		.total_size_bytes = d->bytes.bytes_stored,
		.active = true,
		.created_at_us = now,
		.updated_at_us = now,
	};
	int r = close_active(db, d, err);

	if (r)
		return r;
	catalog_new_id(chain.id, "chain-");
	CATALOG_TEXT(chain.vm_backup_context_id, d->vm_backup_context_id);
	CATALOG_TEXT(chain.disk_id, d->disk_id);
	CATALOG_TEXT(chain.full_backup_id, d->backup_job_id);
	CATALOG_TEXT(chain.latest_backup_id, d->backup_job_id);
	memcpy(chain_id, chain.id, CATALOG_ID_SIZE);
	return row_insert(db, &catalog_chain_map, &chain, err);
}

/* The parent was checked at the start to be the latest point of its disk, and only this job could
 * have added one since: so its chain is the active one and the point goes to its end. */
static int join_chain(struct db *db, const struct catalog_backup_disk *d, int64_t now,
		      char chain_id[CATALOG_ID_SIZE], struct err *err)
{
	struct catalog_chain chain;
	int64_t changed = 0;
	int r = row_get(db, &catalog_chain_map,
			"JOIN backup_disks p ON p.chain_id = ch.id WHERE p.id = ?",
			DB_ARGS(DB_I64(d->parent_disk_id)), &chain, err);

	if (r != DB_ROW)
		return r == DB_DONE ? err_set(err, -EUCLEAN,
					      "the parent of disk %d of backup job %s is in no "
					      "chain: the catalog is damaged",
					      d->disk_index, d->backup_job_id)
				    : r;
	memcpy(chain_id, chain.id, CATALOG_ID_SIZE);
	r = db_run(db,
		   "UPDATE backup_chains SET latest_backup_id = ?,"
		   " total_backups = total_backups + 1, total_size_bytes = total_size_bytes + ?,"
		   " updated_at = ? WHERE id = ? AND active = 1",
		   DB_ARGS(DB_TEXT(d->backup_job_id), DB_I64(d->bytes.bytes_stored), DB_I64(now),
			   DB_TEXT(chain.id)),
		   &changed, err);
	if (!r && !changed)
		r = err_set(err, -EUCLEAN,
			    "chain %s of the parent of disk %d is not the active one: the catalog "
			    "is damaged",
			    chain.id, d->disk_index);
	return r;
}

int catalog_chains_extend(struct db *db, const struct catalog_backup_disk *disks, size_t n,
			  int64_t now_us, struct err *err)
{
	int r = 0;

	for (size_t i = 0; !r && i < n; i++) {
		const struct catalog_backup_disk *d = &disks[i];
		char chain_id[CATALOG_ID_SIZE] = "";

		r = d->mode == CATALOG_BACKUP_FULL ? open_chain(db, d, now_us, chain_id, err)
						   : join_chain(db, d, now_us, chain_id, err);
		if (!r)
			r = db_run(db, "UPDATE backup_disks SET chain_id = ? WHERE id = ?",
				   DB_ARGS(DB_TEXT(chain_id), DB_I64(d->id)), NULL, err);
	}
	return r;
}

/* --- reading ---------------------------------------------------------------------------------- */

int catalog_chains_list(struct catalog *cat, const struct catalog_chain_filter *filter,
			struct catalog_chain **rows, size_t *n, struct err *err)
{
	static const struct catalog_chain_filter any = {.disk_index = CATALOG_NONE};
	const struct catalog_chain_filter *f = filter ? filter : &any;
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	struct row_where w = {0};
	int r = catalog_lease(cat, &l, err);

	row_where_text(&w, "c.vm_name = ?", f->vm_name);
	row_where_text(&w, "c.vm_context_id = ?", f->vm_context_id);
	row_where_text(&w, "ch.vm_backup_context_id = ?", f->vm_backup_context_id);
	row_where_text(&w, "c.repository_id = ?", f->repository_id);
	if (f->disk_index != CATALOG_NONE)
		row_where_i64(&w, "ch.disk_index = ?", f->disk_index);
	if (f->active_only)
		row_where_i64(&w, "ch.active = ?", 1);
	row_where_tail(&w, "ORDER BY c.vm_name, ch.vm_backup_context_id, ch.disk_index,"
			   " ch.created_at, ch.id");
	if (!r)
		r = row_list(l.db, &catalog_chain_map, w.sql, w.args, w.n, (void **)rows, n, err);
	return catalog_result(cat, r);
}

int catalog_chain_get(struct catalog *cat, const char *chain_id, struct catalog_chain *out,
		      struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_get(l.db, &catalog_chain_map, "WHERE ch.id = ?", DB_ARGS(DB_TEXT(chain_id)),
			    out, err);
	return catalog_found(cat, r, err, "there is no chain %s", chain_id);
}

int catalog_chain_points(struct catalog *cat, const char *chain_id,
			 struct catalog_backup_disk **rows, size_t *n, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_list(l.db, &catalog_backup_disk_map, "WHERE d.chain_id = ? ORDER BY d.id",
			     DB_ARGS(DB_TEXT(chain_id)), (void **)rows, n, err);
	return catalog_result(cat, r);
}
