#include "catalog/legacy.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "catalog/backup_rows.h"
#include "catalog/contexts.h"
#include "catalog/inventory.h"
#include "catalog/repositories.h"
#include "catalog/session.h"

#define DISK_INDEX_MAX 4096
#define INTERRUPTED    "was running when the old catalog was imported"
#define NO_CHANGE_ID                                                                               \
	"completed in the old catalog without a change id: the file is kept, no backup can lean "  \
	"on it"

/* The old tables as they were read; texts as long as ours allow. */
struct old_repository {
	char id[CATALOG_ID_SIZE];
	char type[CATALOG_ID_SIZE];
	struct catalog_repository row;
};

struct old_vm {
	char context_id[CATALOG_NAME_SIZE];
	struct catalog_vm_context row;
};

struct old_disk {
	char context_id[CATALOG_NAME_SIZE];
	struct catalog_vm_disk row;
};

struct old_job {
	char context_id[CATALOG_NAME_SIZE]; /* of the VM; "": unknown */
	char type[CATALOG_ID_SIZE], status[CATALOG_ID_SIZE];
	char change_id[CATALOG_CHANGE_ID_SIZE];
	char parent_id[CATALOG_ID_SIZE];
	int disk_index; /* from its path; CATALOG_NONE: not one disk's */
	struct catalog_backup row;
};

struct old {
	struct db *db;
	struct old_repository *repositories;
	struct old_vm *vms;
	struct old_disk *disks;
	struct old_job *jobs;
	size_t n_repositories, n_vms, n_disks, n_jobs;
};

/* --- reading the old database ----------------------------------------------------------------- */

/* A column to read: what to write where it exists, and where it does not. */
struct old_column {
	const char *name;
	const char *sql; /* NULL: the name itself */
	const char *none;
};

#define MICROSECONDS(c) "CAST(UNIX_TIMESTAMP(" c ") * 1000000 AS SIGNED)"

static int has_column(struct db *db, const char *table, const char *column, bool *has,
		      struct err *err)
{
	int64_t n = 0;
	int r = db_query_i64(db,
			     "SELECT COUNT(*) FROM information_schema.columns WHERE"
			     " table_schema = DATABASE() AND table_name = ? AND column_name = ?",
			     DB_ARGS(DB_TEXT(table), DB_TEXT(column)), 0, &n, err);

	*has = n > 0;
	return r;
}

/* "SELECT a, NULL, c FROM table ORDER BY ...": databases of different ages have different columns.
 */
static int old_select(struct db *db, const char *table, const struct old_column *cols, size_t n,
		      const char *order, char *sql, size_t cap, struct err *err)
{
	size_t used = (size_t)snprintf(sql, cap, "SELECT ");

	for (size_t i = 0; i < n; i++) {
		const struct old_column *c = &cols[i];
		bool has;
		int r = has_column(db, table, c->name, &has, err);

		if (r)
			return r;
		if (!has && !c->none)
			return err_set(err, CATALOG_E_SCHEMA,
				       "this is no database of the old layout: table %s has no "
				       "column %s",
				       table, c->name);
		used += (size_t)snprintf(sql + used, cap - used, "%s%s", i ? ", " : "",
					 !has	  ? c->none
					 : c->sql ? c->sql
						  : c->name);
		if (used >= cap)
			return -E2BIG;
	}
	used += (size_t)snprintf(sql + used, cap - used, " FROM %s ORDER BY %s", table, order);
	return used < cap ? 0 : -E2BIG;
}

/* The texts and numbers of a row, one after the other. */
struct old_row {
	struct db_stmt *st;
	const char *table;
	int col;
	bool cut; /* a text did not fit */
};

static void take_text(struct old_row *row, char *dst, size_t cap)
{
	size_t len = 0;
	const char *text = db_col_text(row->st, row->col++, &len);

	if (!text)
		text = "";
	if (strlen(text) != len || !catalog_text_copy(dst, cap, text))
		row->cut = true;
}
#define TAKE(row, member) take_text((row), (member), sizeof(member))

/* As much of a sentence as fits. */
static void take_sentence(struct old_row *row, char *dst, size_t cap)
{
	catalog_text_cut(dst, cap, db_col_text(row->st, row->col++, NULL));
}

static int64_t take_i64(struct old_row *row, int64_t none)
{
	int64_t v = db_is_null(row->st, row->col) ? none : db_col_i64(row->st, row->col);

	row->col++;
	return v;
}

typedef void old_take_fn(struct old_row *row, void *to);

static int old_read(struct old *old, const char *table, const struct old_column *cols, size_t n,
		    const char *order, old_take_fn *take, size_t size, void **rows, size_t *count,
		    struct err *err)
{
	_cleanup_(db_releasep) struct db_stmt *st = NULL;
	char sql[2048];
	size_t cap = 0;
	int r = old_select(old->db, table, cols, n, order, sql, sizeof(sql), err);

	if (!r)
		r = db_query(old->db, sql, DB_NO_ARGS, &st, err);
	while (!r && (r = db_step(st, err)) == DB_ROW) {
		struct old_row row = {.st = st, .table = table};

		if (*count == cap) {
			void *more = realloc(*rows, (cap = cap ? 2 * cap : 64) * size);

			if (!more)
				return err_sys(err, -ENOMEM, "reading old table %s", table);
			*rows = more;
		}
		memset((char *)*rows + *count * size, 0, size);
		take(&row, (char *)*rows + *count * size);
		if (row.cut)
			return err_set(err, CATALOG_E_CONFLICT,
				       "row %zu of old table %s has a text that is too long",
				       *count + 1, table);
		(*count)++;
		r = 0;
	}
	return r;
}

static void take_repository(struct old_row *row, void *to)
{
	struct old_repository *o = to;

	TAKE(row, o->id);
	TAKE(row, o->row.name);
	TAKE(row, o->type);
	TAKE(row, o->row.config);
	o->row.enabled = take_i64(row, 1) != 0;
	memcpy(o->row.id, o->id, sizeof(o->id));
}

static void take_vm(struct old_row *row, void *to)
{
	struct old_vm *o = to;

	TAKE(row, o->context_id);
	TAKE(row, o->row.vm_name);
	TAKE(row, o->row.vmware_vm_id);
	TAKE(row, o->row.vm_path);
	TAKE(row, o->row.vcenter_host);
	TAKE(row, o->row.datacenter);
	TAKE(row, o->row.power_state);
	TAKE(row, o->row.os_type);
	o->row.cpu_count = take_i64(row, 0);
	o->row.memory_mb = take_i64(row, 0);
	o->row.credential_id = CATALOG_NONE;
}

/* "disk-2000" is the device with key 2000. */
static int64_t key_of(const char *disk_id)
{
	const char *digits = disk_id + strlen("disk-");

	if (strncmp(disk_id, "disk-", strlen("disk-")) || !*digits || strlen(digits) > 9 ||
	    strspn(digits, "0123456789") != strlen(digits))
		return CATALOG_NONE;
	return strtoll(digits, NULL, 10);
}

static void take_disk(struct old_row *row, void *to)
{
	struct old_disk *o = to;

	TAKE(row, o->context_id);
	TAKE(row, o->row.disk_id);
	o->row.size_gb = take_i64(row, 0);
	o->row.capacity_bytes = take_i64(row, 0);
	o->row.unit_number = (int)take_i64(row, CATALOG_NONE);
	TAKE(row, o->row.label);
	TAKE(row, o->row.path);
	TAKE(row, o->row.datastore);
	TAKE(row, o->row.provisioning_type);
	o->row.vmware_disk_key = key_of(o->row.disk_id);
	if (o->row.capacity_bytes <= 0)
		o->row.capacity_bytes = o->row.size_gb * (int64_t)GIB;
}

/* N of ".../disk-N/FILE"; the last one counts. */
static int index_of_path(const char *path)
{
	static const char folder[] = "/disk-";
	int index = CATALOG_NONE;

	for (const char *p = path; (p = strstr(p, folder)); p++) {
		const char *digits = p + strlen(folder);
		size_t n = strspn(digits, "0123456789");

		if (n && n < 6 && digits[n] == '/' && strtol(digits, NULL, 10) < DISK_INDEX_MAX)
			index = (int)strtol(digits, NULL, 10);
	}
	return index;
}

static void take_job(struct old_row *row, void *to)
{
	struct old_job *o = to;

	TAKE(row, o->row.id);
	TAKE(row, o->context_id);
	TAKE(row, o->row.vm_name);
	TAKE(row, o->row.repository_id);
	TAKE(row, o->type);
	TAKE(row, o->status);
	TAKE(row, o->row.repository_path);
	TAKE(row, o->parent_id);
	TAKE(row, o->change_id);
	o->row.bytes_transferred = take_i64(row, 0);
	o->row.total_bytes = take_i64(row, 0);
	o->row.compression_enabled = take_i64(row, 0) != 0;
	take_sentence(row, o->row.error_message, sizeof(o->row.error_message));
	o->row.created_at_us = take_i64(row, 0);
	o->row.started_at_us = take_i64(row, 0);
	o->row.completed_at_us = take_i64(row, 0);
	o->disk_index = index_of_path(o->row.repository_path);
}

static int read_inventory(struct old *old, struct err *err)
{
	static const struct old_column repository[] = {
		{"id"}, {"name"}, {"repository_type"}, {"config"}, {"enabled", .none = "1"}};
	static const struct old_column vm[] = {{"context_id"},
					       {"vm_name"},
					       {"vmware_vm_id", .none = "NULL"},
					       {"vm_path", .none = "NULL"},
					       {"vcenter_host", .none = "NULL"},
					       {"datacenter", .none = "NULL"},
					       {"power_state", .none = "NULL"},
					       {"os_type", .none = "NULL"},
					       {"cpu_count", .none = "NULL"},
					       {"memory_mb", .none = "NULL"}};
	static const struct old_column disk[] = {{"vm_context_id"},
						 {"disk_id"},
						 {"size_gb", .none = "NULL"},
						 {"capacity_bytes", .none = "NULL"},
						 {"unit_number", .none = "NULL"},
						 {"label", .none = "NULL"},
						 {"path", .none = "NULL"},
						 {"datastore", .none = "NULL"},
						 {"provisioning_type", .none = "NULL"}};
	int r = old_read(old, "backup_repositories", repository, ARRAY_SIZE(repository), "id",
			 take_repository, sizeof(*old->repositories), (void **)&old->repositories,
			 &old->n_repositories, err);

	if (!r)
		r = old_read(old, "vm_replication_contexts", vm, ARRAY_SIZE(vm), "context_id",
			     take_vm, sizeof(*old->vms), (void **)&old->vms, &old->n_vms, err);
	if (!r)
		r = old_read(old, "vm_disks", disk, ARRAY_SIZE(disk), "vm_context_id, id",
			     take_disk, sizeof(*old->disks), (void **)&old->disks, &old->n_disks,
			     err);
	return r;
}

/* Oldest first: what "latest" means here is the order of insertion. */
static int read_jobs(struct old *old, struct err *err)
{
	static const struct old_column job[] = {
		{"id"},
		{"vm_context_id", .none = "NULL"},
		{"vm_name"},
		{"repository_id"},
		{"backup_type"},
		{"status"},
		{"repository_path"},
		{"parent_backup_id", .none = "NULL"},
		{"change_id", .none = "NULL"},
		{"bytes_transferred", .none = "NULL"},
		{"total_bytes", .none = "NULL"},
		{"compression_enabled", .none = "NULL"},
		{"error_message", .none = "NULL"},
		{"created_at", MICROSECONDS("created_at"), NULL},
		{"started_at", MICROSECONDS("started_at"), "NULL"},
		{"completed_at", MICROSECONDS("completed_at"), "NULL"},
	};

	return old_read(old, "backup_jobs", job, ARRAY_SIZE(job), "created_at, id", take_job,
			sizeof(*old->jobs), (void **)&old->jobs, &old->n_jobs, err);
}

/* A catalog of ours has tables of the same names. */
static int check_layout(struct db *db, struct err *err)
{
	bool ours = false;
	int r = has_column(db, "schema_version", "version", &ours, err);

	if (!r && ours)
		r = err_set(err, CATALOG_E_SCHEMA,
			    "this is no database of the old layout: it is a catalog of this "
			    "program");
	return r;
}

static void old_deinit(struct old *old)
{
	free(old->repositories);
	free(old->vms);
	free(old->disks);
	free(old->jobs);
	db_close(old->db);
}

static int old_open(struct old *old, const char *source, struct err *err)
{
	int r;

	if (strncmp(source, "mariadb:", strlen("mariadb:")) || !catalog_url_valid(source, err))
		return err_set(err, CATALOG_E_URL,
			       "the old database must be named by a MariaDB URL: "
			       "mariadb://USER@HOST[:PORT]/NAME[?socket=PATH&password-file=PATH]");
	r = db_open(source, 10000, &old->db, err);
	if (!r)
		r = check_layout(old->db, err);
	if (!r)
		r = read_inventory(old, err);
	return r ? r : read_jobs(old, err);
}

/* --- where an old job belongs ----------------------------------------------------------------- */

struct import {
	const struct old *old;
	struct catalog_legacy *out;
	struct catalog *tx;
	struct db *db;
};

static int contradiction(struct err *err, const struct old_job *job, const char *what,
			 const char *name)
{
	return err_set(err, CATALOG_E_CONFLICT, "old backup %s: %s \"%s\"", job->row.id, what,
		       name);
}

static const struct old_vm *old_vm_of(const struct old *old, const struct old_job *job)
{
	const struct old_vm *by_name = NULL;

	for (size_t i = 0; i < old->n_vms; i++) {
		if (*job->context_id && !strcmp(old->vms[i].context_id, job->context_id))
			return &old->vms[i];
		if (!strcmp(old->vms[i].row.vm_name, job->row.vm_name))
			by_name = &old->vms[i];
	}
	return by_name;
}

/* The N-th disk of the VM in the order the old program had them. */
static const struct old_disk *old_disk_of(const struct old *old, const struct old_vm *vm, int n)
{
	for (size_t i = 0; vm && i < old->n_disks; i++)
		if (!strcmp(old->disks[i].context_id, vm->context_id) && n-- == 0)
			return &old->disks[i];
	return NULL;
}

static int import_repository(struct import *im, const struct old_job *job,
			     struct catalog_repository *out, struct err *err)
{
	const struct old_repository *o = NULL;
	int r;

	for (size_t i = 0; i < im->old->n_repositories; i++)
		if (!strcmp(im->old->repositories[i].id, job->row.repository_id))
			o = &im->old->repositories[i];
	if (!o)
		return contradiction(err, job, "there is no repository", job->row.repository_id);
	*out = o->row;
	if (!catalog_repository_type_parse(o->type, &out->type))
		return contradiction(err, job, "its repository has the unknown type", o->type);
	r = catalog_repository_get(im->tx, o->id, out, err);
	if (r == CATALOG_E_NOT_FOUND)
		r = catalog_repository_get_by_name(im->tx, o->row.name, out, err);
	if (r == CATALOG_E_NOT_FOUND) {
		im->out->repositories++;
		return catalog_repository_create(im->tx, out, err);
	}
	if (!r && (strcmp(out->name, o->row.name) ||
		   strcmp(catalog_repository_type_name(out->type), o->type)))
		r = contradiction(err, job, "this catalog has another repository called",
				  out->name);
	return r;
}

/* VM and disks as the old inventory has them, unless this one knows the VM. */
static int import_vm(struct import *im, const struct old_vm *o, char vm_context_id[CATALOG_ID_SIZE],
		     struct err *err)
{
	_cleanup_(freep) struct catalog_vm_disk *disks = NULL;
	struct catalog_vm_context vm = o->row;
	size_t n = 0;
	int r = row_get(
		im->db, &catalog_vm_context_map, "WHERE v.vcenter_host = ? AND v.vmware_vm_id = ?",
		DB_ARGS(DB_TEXT(o->row.vcenter_host), DB_TEXT(o->row.vmware_vm_id)), &vm, err);

	memcpy(vm_context_id, vm.context_id, CATALOG_ID_SIZE);
	if (r != DB_DONE)
		return r == DB_ROW ? 0 : r;
	disks = calloc(im->old->n_disks + 1, sizeof(*disks));
	if (!disks)
		return err_sys(err, -ENOMEM, "importing VM %s", vm.vm_name);
	for (size_t i = 0; i < im->old->n_disks; i++)
		if (!strcmp(im->old->disks[i].context_id, o->context_id) &&
		    im->old->disks[i].row.capacity_bytes > 0)
			disks[n++] = im->old->disks[i].row;
	r = catalog_vm_context_upsert(im->tx, &vm, disks, n, NULL, err);
	memcpy(vm_context_id, vm.context_id, CATALOG_ID_SIZE);
	im->out->vms++;
	return r;
}

/* A VM that left the old inventory too: its name is all that is known of it. */
static void nameless_vm(const struct old_job *job, struct catalog_backup_context *ctx)
{
	CATALOG_TEXT(ctx->vm_name, job->row.vm_name);
	catalog_text_cut(ctx->vmware_vm_id, sizeof(ctx->vmware_vm_id), job->row.vm_name);
}

static void known_vm(const struct catalog_vm_context *vm, struct catalog_backup_context *ctx)
{
	CATALOG_TEXT(ctx->vm_name, vm->vm_name);
	CATALOG_TEXT(ctx->vmware_vm_id, vm->vmware_vm_id);
	CATALOG_TEXT(ctx->vm_path, vm->vm_path);
	CATALOG_TEXT(ctx->vcenter_host, vm->vcenter_host);
	CATALOG_TEXT(ctx->datacenter, vm->datacenter);
}

static int import_context(struct import *im, const struct old_job *job, const struct old_vm *o,
			  const char *repository_id, struct catalog_backup_context *ctx,
			  struct err *err)
{
	int r = 0;

	memset(ctx, 0, sizeof(*ctx));
	if (o && *o->row.vmware_vm_id && *o->row.vcenter_host && *o->row.vm_path) {
		r = import_vm(im, o, ctx->vm_context_id, err);
		known_vm(&o->row, ctx);
	} else
		nameless_vm(job, ctx);
	CATALOG_TEXT(ctx->repository_id, repository_id);
	if (r)
		return r;
	r = row_get(im->db, &catalog_backup_context_map,
		    "WHERE c.vcenter_host = ? AND c.vmware_vm_id = ? AND c.repository_id = ?",
		    DB_ARGS(DB_TEXT(ctx->vcenter_host), DB_TEXT(ctx->vmware_vm_id),
			    DB_TEXT(repository_id)),
		    ctx, err);
	if (r != DB_DONE)
		return r == DB_ROW ? 0 : r;
	catalog_new_id(ctx->context_id, "bctx-");
	ctx->created_at_us = ctx->updated_at_us = job->row.created_at_us;
	im->out->contexts++;
	return row_insert(im->db, &catalog_backup_context_map, ctx, err);
}

/* --- one old job ------------------------------------------------------------------------------ */

/* What is to become of a job, and of its disk if it has one. */
static int judge(struct import *im, const struct old_job *o, struct catalog_backup *job,
		 struct err *err)
{
	if (!catalog_backup_type_parse(o->type, &job->backup_type))
		return contradiction(err, o, "its type is unknown:", o->type);
	if (!catalog_job_status_parse(o->status, &job->status))
		return contradiction(err, o, "its status is unknown:", o->status);
	if (!*job->id || !*job->vm_name)
		return contradiction(err, o, "it has no id, or no VM:", job->vm_name);
	if (job->status == CATALOG_JOB_PENDING || job->status == CATALOG_JOB_RUNNING) {
		job->status = CATALOG_JOB_FAILED;
		CATALOG_TEXT(job->error_message, INTERRUPTED);
	} else if (job->status == CATALOG_JOB_COMPLETED && o->disk_index != CATALOG_NONE &&
		   !*o->change_id) {
		job->status = CATALOG_JOB_FAILED;
		CATALOG_TEXT(job->error_message, NO_CHANGE_ID);
		im->out->unusable++;
	}
	job->disk_count = o->disk_index != CATALOG_NONE;
	if (!job->completed_at_us)
		job->completed_at_us = job->created_at_us;
	return 0;
}

static int insert_job(struct import *im, const struct catalog_backup *job, const char *type,
		      struct err *err)
{
	return db_run(im->db,
		      "INSERT INTO backup_jobs (id, vm_context_id, vm_backup_context_id, vm_name,"
		      " repository_id, repository_type, repository_path, backup_type, status,"
		      " parent_backup_id, disk_count, total_bytes, bytes_transferred,"
		      " compression_enabled, error_message, created_at, started_at, completed_at)"
		      " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		      DB_ARGS(DB_TEXT(job->id), DB_OPT(job->vm_context_id),
			      DB_TEXT(job->vm_backup_context_id), DB_TEXT(job->vm_name),
			      DB_TEXT(job->repository_id), DB_TEXT(type),
			      DB_TEXT(job->repository_path),
			      DB_TEXT(catalog_backup_type_name(job->backup_type)),
			      DB_TEXT(catalog_job_status_name(job->status)),
			      DB_OPT(job->parent_backup_id), DB_I64(job->disk_count),
			      DB_I64(job->total_bytes), DB_I64(job->bytes_transferred),
			      DB_I64(job->compression_enabled), DB_OPT(job->error_message),
			      DB_I64(job->created_at_us),
			      job->started_at_us ? DB_I64(job->started_at_us) : DB_NULL,
			      DB_I64(job->completed_at_us)),
		      NULL, err);
}

/* Whether the old parent is the disk's latest point here: then the new point goes behind it. */
static int find_parent(struct import *im, const struct old_job *o, struct catalog_backup_disk *disk,
		       struct err *err)
{
	struct catalog_backup_disk latest;
	int r = catalog_point_latest_row(im->db, disk->vm_backup_context_id, disk->disk_id, &latest,
					 err);

	if (r == DB_ROW && *o->parent_id && !strcmp(latest.backup_job_id, o->parent_id))
		disk->parent_disk_id = latest.id;
	return r == DB_ROW || r == DB_DONE ? 0 : r;
}

static void fill_disk(const struct import *im, const struct old_job *o, const struct old_vm *vm,
		      const struct catalog_backup *job, struct catalog_backup_disk *disk)
{
	const struct old_disk *od = old_disk_of(im->old, vm, o->disk_index);

	*disk = (struct catalog_backup_disk){.disk_index = o->disk_index,
					     .hardware_order = o->disk_index,
					     .vmware_disk_key = CATALOG_NONE,
					     .unit_number = CATALOG_NONE,
					     .parent_disk_id = CATALOG_NONE,
					     .mode = job->backup_type == CATALOG_BACKUP_FULL
							     ? CATALOG_BACKUP_FULL
							     : CATALOG_BACKUP_INCREMENTAL,
					     .created_at_us = job->created_at_us,
					     .started_at_us = job->started_at_us,
					     .completed_at_us = job->completed_at_us};
	CATALOG_TEXT(disk->vm_backup_context_id, job->vm_backup_context_id);
	CATALOG_TEXT(disk->backup_job_id, job->id);
	CATALOG_TEXT(disk->qcow2_path, job->repository_path);
	CATALOG_TEXT(disk->error_message, job->error_message);
	disk->bytes.bytes_transferred = job->bytes_transferred;
	disk->status =
		job->status == CATALOG_JOB_COMPLETED ? CATALOG_DISK_COMPLETED : CATALOG_DISK_FAILED;
	if (disk->status == CATALOG_DISK_COMPLETED)
		CATALOG_TEXT(disk->change_id, o->change_id);
	if (od && *od->row.disk_id) {
		CATALOG_TEXT(disk->disk_id, od->row.disk_id);
		disk->vmware_disk_key = od->row.vmware_disk_key;
		disk->unit_number = od->row.unit_number;
		disk->virtual_size_bytes = od->row.capacity_bytes;
		disk->size_gb = od->row.size_gb;
	} else
		snprintf(disk->disk_id, sizeof(disk->disk_id), "legacy-%d", o->disk_index);
	if (disk->virtual_size_bytes > 0)
		return;
	/* No disk is of this size, so that nothing will lean on the point. */
	CATALOG_TEXT(disk->reason, "the old catalog does not know the disk's size");
	disk->virtual_size_bytes = 1;
}

static int enter_chain(struct import *im, struct catalog_backup_disk *disk, struct err *err)
{
	/* A point whose parent is not known begins a chain; what it leans on is in its file. */
	if (disk->parent_disk_id == CATALOG_NONE)
		disk->mode = CATALOG_BACKUP_FULL;
	im->out->points++;
	return catalog_chains_extend(im->db, disk, 1, disk->completed_at_us, err);
}

static int import_disk(struct import *im, const struct old_job *o, const struct old_vm *vm,
		       const struct catalog_backup *job, struct err *err)
{
	struct catalog_backup_disk disk;
	int r;

	fill_disk(im, o, vm, job, &disk);
	r = disk.mode == CATALOG_BACKUP_FULL ? 0 : find_parent(im, o, &disk, err);
	if (!r)
		r = row_insert(im->db, &catalog_backup_disk_map, &disk, err);
	if (r)
		return r;
	disk.id = db_insert_id(im->db);
	im->out->disks++;
	return disk.status == CATALOG_DISK_COMPLETED ? enter_chain(im, &disk, err) : 0;
}

static int job_is_here(struct import *im, const char *id, bool *here, struct err *err)
{
	int64_t n = 0;
	int r = db_query_i64(im->db, "SELECT COUNT(*) FROM backup_jobs WHERE id = ?",
			     DB_ARGS(DB_TEXT(id)), 0, &n, err);

	*here = n > 0;
	return r;
}

static int count_run(struct import *im, const struct catalog_backup *job, bool point,
		     struct err *err)
{
	const bool good = job->status == CATALOG_JOB_COMPLETED;
	int r = db_run(im->db,
		       "UPDATE vm_backup_contexts SET total_backups_run = total_backups_run + 1,"
		       " successful_backups = successful_backups + ?,"
		       " failed_backups = failed_backups + ?, updated_at = ? WHERE context_id = ?",
		       DB_ARGS(DB_I64(good), DB_I64(!good), DB_I64(job->completed_at_us),
			       DB_TEXT(job->vm_backup_context_id)),
		       NULL, err);

	if (r || !good || !point)
		return r;
	return db_run(im->db,
		      "UPDATE vm_backup_contexts SET last_backup_id = ?, last_backup_type = ?,"
		      " last_backup_at = ? WHERE context_id = ?",
		      DB_ARGS(DB_TEXT(job->id), DB_TEXT(catalog_backup_type_name(job->backup_type)),
			      DB_I64(job->completed_at_us), DB_TEXT(job->vm_backup_context_id)),
		      NULL, err);
}

static int place_job(struct import *im, const struct old_job *o, const struct old_vm *vm,
		     struct catalog_backup *job, struct catalog_repository *repo, struct err *err)
{
	struct catalog_backup_context ctx;
	bool here = false;
	int r = import_repository(im, o, repo, err);

	if (!r)
		r = import_context(im, o, vm, repo->id, &ctx, err);
	if (!r && *o->parent_id)
		r = job_is_here(im, o->parent_id, &here, err);
	if (r)
		return r;
	CATALOG_TEXT(job->vm_backup_context_id, ctx.context_id);
	CATALOG_TEXT(job->vm_context_id, ctx.vm_context_id);
	CATALOG_TEXT(job->repository_id, repo->id);
	CATALOG_TEXT(job->parent_backup_id, here ? o->parent_id : "");
	return 0;
}

static int import_job(struct import *im, const struct old_job *o, struct err *err)
{
	const struct old_vm *vm = old_vm_of(im->old, o);
	struct catalog_backup job = o->row;
	struct catalog_repository repo;
	bool here = false;
	int r = job_is_here(im, job.id, &here, err);

	if (r)
		return r;
	if (here) {
		im->out->present++;
		return 0;
	}
	r = judge(im, o, &job, err);
	if (!r)
		r = place_job(im, o, vm, &job, &repo, err);
	if (!r)
		r = insert_job(im, &job, catalog_repository_type_name(repo.type), err);
	if (!r && o->disk_index != CATALOG_NONE)
		r = import_disk(im, o, vm, &job, err);
	if (!r)
		r = count_run(im, &job, o->disk_index != CATALOG_NONE, err);
	im->out->jobs++;
	return r;
}

/* --- all of them ------------------------------------------------------------------------------ */

static int import_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct import *im = arg;
	int r = 0;

	im->tx = tx;
	im->db = catalog_db(tx);
	*im->out = (struct catalog_legacy){0};
	for (size_t i = 0; !r && i < im->old->n_jobs; i++) {
		r = import_job(im, &im->old->jobs[i], err);
		if (r)
			err_prefix(err, r, "importing old backup %s", im->old->jobs[i].row.id);
	}
	return r ? r : db_check(im->db, err);
}

int catalog_import_legacy(struct catalog *cat, const char *source, struct catalog_legacy *out,
			  struct err *err)
{
	struct catalog_legacy result;
	struct old old = {.db = NULL};
	struct import im = {.old = &old, .out = &result};
	int r = old_open(&old, source, err);

	if (!r)
		r = catalog_tx(cat, import_tx, &im, err);
	else if (r >= DB_E_BUSY)
		r = -EIO;
	old_deinit(&old);
	if (!r)
		*out = result;
	return r;
}
