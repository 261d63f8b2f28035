#include "catalog/restores.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "catalog/row.h"
#include "catalog/session.h"

#define M struct catalog_mount

static const char *const status_names[] = {"mounting", "mounted", "unmounting", "failed"};
static const struct row_words statuses = {status_names, ARRAY_SIZE(status_names)};

static const struct row_field fields[] = {
	TEXT_COL(M, id, "id"),
	I64_COL(M, backup_disk_id, "backup_disk_id"),
	ENUM_COL(M, status, "status", &statuses),
	TEXT_COL(M, mount_path, "mount_path"),
	INT_COL(M, users, "users"),
	TEXT_COL(M, error_message, "error_message", ROW_OPT),
	TIME_COL(M, created_at_us, "created_at"),
	TIME_COL(M, last_used_at_us, "last_used_at"),
	I64_COL(M, hub_token, "hub_token"),
	TEXT_COL(M, backup_id, "d.backup_job_id", ROW_DERIVED),
	INT_COL(M, disk_index, "d.disk_index", ROW_DERIVED),
	TEXT_COL(M, vm_name, "j.vm_name", ROW_DERIVED),
	TEXT_COL(M, hub_name, "h.name", ROW_DERIVED, ROW_OPT),
};

#define JOINS                                                                                      \
	"JOIN backup_disks d ON d.id = m.backup_disk_id"                                           \
	" JOIN backup_jobs j ON j.id = d.backup_job_id"                                            \
	" LEFT JOIN hubs h ON h.token = m.hub_token"

static const struct row_map map = ROW_MAP(M, "restore_mounts", "m", JOINS, fields);

const char *catalog_mount_status_name(enum catalog_mount_status status)
{
	return status_names[status];
}

/* --- reading ---------------------------------------------------------------------------------- */

int catalog_mount_get(struct catalog *cat, const char *id, struct catalog_mount *out,
		      struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_get(l.db, &map, "WHERE m.id = ?", DB_ARGS(DB_TEXT(id)), out, err);
	return catalog_found(cat, r, err, "there is no mount %s", id);
}

int catalog_mounts_list(struct catalog *cat, struct catalog_mount **rows, size_t *n,
			struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_list(l.db, &map, "ORDER BY m.created_at, m.id", DB_NO_ARGS, (void **)rows,
			     n, err);
	return catalog_result(cat, r);
}

/* --- mounting --------------------------------------------------------------------------------- */

struct begin {
	const char *backup_id;
	int disk_index;
	const char *path_prefix;
	struct catalog_mount row;
};

static int find_point(struct catalog *tx, const struct begin *b, struct catalog_backup_disk *disk,
		      struct err *err)
{
	struct catalog_backup job;
	int r = catalog_backup_get(tx, b->backup_id, &job, err);

	if (!r)
		r = catalog_backup_disk_get(tx, b->backup_id, b->disk_index, disk, err);
	if (r)
		return r;
	if (job.status != CATALOG_JOB_COMPLETED)
		return err_set(err, CATALOG_E_STATE,
			       "backup %s is %s: only a completed backup can be mounted", job.id,
			       catalog_job_status_name(job.status));
	if (disk->status != CATALOG_DISK_COMPLETED)
		return err_set(err, CATALOG_E_STATE,
			       "disk %d of backup %s is %s: there is nothing to mount",
			       disk->disk_index, job.id, catalog_disk_status_name(disk->status));
	return 0;
}

static int refuse_mounted(const struct begin *b, int64_t token, struct err *err)
{
	const struct catalog_mount *m = &b->row;

	if (m->hub_token == token)
		return err_set(err, CATALOG_E_EXISTS, "disk %d of backup %s is mounted already: %s",
			       m->disk_index, m->backup_id, m->id);
	if (!m->hub_name[0])
		return err_set(err, CATALOG_E_IN_USE,
			       "disk %d of backup %s was mounted by a hub that is gone: try again "
			       "in a moment",
			       m->disk_index, m->backup_id);
	return err_set(err, CATALOG_E_IN_USE,
		       "disk %d of backup %s is mounted by hub \"%s\": restore there, or unmount "
		       "it there first",
		       m->disk_index, m->backup_id, m->hub_name);
}

static int begin_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct begin *b = arg;
	struct catalog_mount *m = &b->row;
	struct catalog_backup_disk disk;
	const int64_t token = catalog_hub_token(tx);
	int r = catalog_hub_check(tx, err);

	if (!r)
		r = find_point(tx, b, &disk, err);
	if (r)
		return r;
	r = row_get(catalog_db(tx), &map, "WHERE m.backup_disk_id = ?", DB_ARGS(DB_I64(disk.id)), m,
		    err);
	if (r != DB_DONE)
		return r == DB_ROW ? refuse_mounted(b, token, err) : r;
	*m = (struct catalog_mount){
		.backup_disk_id = disk.id,
		.status = CATALOG_MOUNT_MOUNTING,
		.users = 1,
		.created_at_us = catalog_now_us(),
		.hub_token = token,
	};
	m->last_used_at_us = m->created_at_us;
	catalog_new_id(m->id, "mount-");
	snprintf(m->mount_path, sizeof(m->mount_path), "%s%s", b->path_prefix, m->id);
	r = row_insert(catalog_db(tx), &map, m, err);
	return r ? r : catalog_mount_get(tx, m->id, m, err);
}

int catalog_mount_begin(struct catalog *cat, const char *backup_id, int disk_index,
			const char *path_prefix, struct catalog_mount *out, struct err *err)
{
	struct begin b = {
		.backup_id = backup_id, .disk_index = disk_index, .path_prefix = path_prefix};
	int r = catalog_tx(cat, begin_tx, &b, err);

	if (!r || r == CATALOG_E_EXISTS)
		*out = b.row;
	return r;
}

/* --- while it is mounted ---------------------------------------------------------------------- */

struct held {
	const char *id;
	int users;
	int64_t last_used_at_us, n;
};

static int held(int r, int64_t changed, const char *id, struct err *err)
{
	return r || changed ? r
			    : err_set(err, CATALOG_E_NOT_FOUND,
				      "mount %s is not this hub's any more", id);
}

static int set_mounted_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct held *h = arg;
	int64_t n = 0;
	int r = db_run(catalog_db(tx),
		       "UPDATE restore_mounts SET status = 'mounted' WHERE id = ?"
		       " AND hub_token = ?",
		       DB_ARGS(DB_TEXT(h->id), DB_I64(catalog_hub_token(tx))), &n, err);

	return held(r, n, h->id, err);
}

int catalog_mount_set_mounted(struct catalog *cat, const char *id, struct err *err)
{
	struct held h = {.id = id};

	return catalog_tx(cat, set_mounted_tx, &h, err);
}

static int set_used_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct held *h = arg;
	int64_t n = 0;
	int r = db_run(catalog_db(tx),
		       "UPDATE restore_mounts SET users = ?, last_used_at = ? WHERE id = ?"
		       " AND hub_token = ?",
		       DB_ARGS(DB_I64(h->users), DB_I64(h->last_used_at_us), DB_TEXT(h->id),
			       DB_I64(catalog_hub_token(tx))),
		       &n, err);

	return held(r, n, h->id, err);
}

int catalog_mount_set_used(struct catalog *cat, const char *id, int users, int64_t last_used_at_us,
			   struct err *err)
{
	struct held h = {.id = id, .users = users, .last_used_at_us = last_used_at_us};

	return catalog_tx(cat, set_used_tx, &h, err);
}

/* --- its end ---------------------------------------------------------------------------------- */

static int end_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct held *h = arg;

	return db_run(catalog_db(tx), "DELETE FROM restore_mounts WHERE id = ? AND hub_token = ?",
		      DB_ARGS(DB_TEXT(h->id), DB_I64(catalog_hub_token(tx))), NULL, err);
}

int catalog_mount_end(struct catalog *cat, const char *id, struct err *err)
{
	struct held h = {.id = id};

	return catalog_tx(cat, end_tx, &h, err);
}

/* Takes this hub's token: a handle that never joined has 0, as its mounts have. */
#define HUB_IS_GONE                                                                                \
	"hub_token <> ? AND NOT EXISTS"                                                            \
	" (SELECT 1 FROM hubs h WHERE h.token = restore_mounts.hub_token)"

static int sweep_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct held *h = arg;
	int r = catalog_hub_check(tx, err);

	h->n = 0;
	return r ? r
		 : db_run(catalog_db(tx), "DELETE FROM restore_mounts WHERE " HUB_IS_GONE,
			  DB_ARGS(DB_I64(catalog_hub_token(tx))), &h->n, err);
}

/* Looking costs no lock; mostly there is nothing. */
static int any_is_gone(struct catalog *cat, bool *any, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int64_t n = 0;
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = db_query_i64(l.db, "SELECT COUNT(*) FROM restore_mounts WHERE " HUB_IS_GONE,
				 DB_ARGS(DB_I64(catalog_hub_token(cat))), 0, &n, err);
	*any = n > 0;
	return catalog_result(cat, r);
}

int catalog_mounts_sweep(struct catalog *cat, int64_t *n, struct err *err)
{
	struct held h = {.n = 0};
	bool any = false;
	int r = any_is_gone(cat, &any, err);

	if (!r && any)
		r = catalog_tx(cat, sweep_tx, &h, err);
	*n = r ? 0 : h.n;
	return r;
}
