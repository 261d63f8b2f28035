/*
 * Starting a backup, in this order, each step undone by hub_job_fail() if a later one fails:
 *
 *   reserve the VM -> backup context -> plan -> catalog: job row, disk rows -> images -> exports
 *   -> agent says yes -> catalog: running
 *
 * Rows come before files, so that whatever a crash leaves on disk has a row that leads to it
 * (hub/recover.c). The agent is called last: from its yes on, its questions find everything ready.
 * They may arrive before the catalog says "running", and are answered; its `complete` waits until
 * this step is over.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "catalog/disks.h"
#include "catalog/policies.h"
#include "hub/credentials.h"
#include "hub/job.h"
#include "hub/repositories.h"
#include "nbd/export_qcow2.h"

#define START_PLANS    5
#define START_FOLDERS  5
#define START_PAUSE_NS (400 * 1000000L)

/* --- what is asked for ---------------------------------------------------------------------- */

static int start_find_vm(struct hub *hub, const struct hub_start_request *req,
			 struct catalog_vm_context *vm, struct err *err)
{
	bool by_id = req->vm_context_id && req->vm_context_id[0];
	bool by_name = req->vm_name && req->vm_name[0];
	int rc;

	if (!by_id && !by_name)
		return err_set(err, HUB_E_INVALID, "vm_name is missing");
	if (by_id)
		rc = catalog_vm_context_get(hub->catalog, req->vm_context_id, vm, err);
	else
		rc = catalog_vm_context_find(hub->catalog, req->vm_name, NULL, vm, err);
	if (rc)
		return hub_from_catalog(rc);
	if (by_id && by_name && strcmp(vm->vm_name, req->vm_name))
		return err_set(err, HUB_E_INVALID, "vm_context_id %s is VM \"%s\", not \"%s\"",
			       req->vm_context_id, vm->vm_name, req->vm_name);
	return 0;
}

static int start_find_disks(struct hub *hub, const struct catalog_vm_context *vm,
			    struct catalog_vm_disk **disks, size_t *n, struct err *err)
{
	int rc = catalog_vm_disks_list(hub->catalog, vm->context_id, false, disks, n, err);

	if (rc)
		return hub_from_catalog(rc);
	return *n ? 0 : err_set(err, HUB_E_INVALID, HUB_NO_DISKS_TEXT);
}

static int start_find_repository(struct hub *hub, const struct hub_start_request *req,
				 struct catalog_repository *row, struct err *err)
{
	bool named = (req->repository_id && req->repository_id[0]) ||
		     (req->repository && req->repository[0]);
	const char *id = req->repository_id;
	struct catalog_policy policy;
	int rc = 0;

	if (req->policy_id && req->policy_id[0])
		rc = hub_from_catalog(
			catalog_policy_get(hub->catalog, req->policy_id, &policy, err));
	if (!rc && !named && req->policy_id && req->policy_id[0])
		id = policy.primary_repository_id;
	if (!rc)
		rc = hub_repository_resolve(hub, id, req->repository, row, err);
	return rc;
}

/* --- catalog -------------------------------------------------------------------------------- */

static void start_fill_row(struct hub_job *job, const struct hub_start_request *req,
			   const struct catalog_repository *repository)
{
	struct catalog_backup *row = &job->row;

	CATALOG_TEXT(row->vm_backup_context_id, job->context.context_id);
	CATALOG_TEXT(row->repository_type, catalog_repository_type_name(repository->type));
	CATALOG_TEXT(row->repository_path, job->repo->root);
	CATALOG_TEXT(row->policy_id, req->policy_id);
	CATALOG_TEXT(row->tags, req->tags);
	CATALOG_TEXT(row->current_phase, "starting");
	row->backup_type = req->backup_type;
	row->compression_enabled = job->zstd_level;
}

/* The job exists from here on. A result of the catalog's. */
static int start_insert_rows(struct hub *hub, struct hub_job *job, char busy_id[CATALOG_ID_SIZE],
			     struct err *err)
{
	struct catalog_backup row = job->row;
	struct catalog_backup_disk *rows = calloc(job->disk_count, sizeof(*rows));
	int rc;

	if (!rows)
		return err_sys(err, -ENOMEM, "backup of \"%s\"", job->vm_name);
	for (size_t i = 0; i < job->disk_count; i++)
		rows[i] = job->disks[i].row;
	rc = catalog_backup_start(hub->catalog, &row, rows, job->disk_count, busy_id, err);
	if (!rc) {
		pthread_mutex_lock(&job->face);
		job->row = row;
		for (size_t i = 0; i < job->disk_count; i++)
			job->disks[i].row = rows[i];
		pthread_mutex_unlock(&job->face);
		log_scope_init(&job->log, "%s", row.id);
	}
	free(rows);
	return rc;
}

/* A parent that was chosen may be gone or no longer the latest by the time the rows go in: another
 * hub has made a point, or somebody has deleted one. What is there now is planned with then. A name
 * that is still being deleted is another one in the next second. */
static int start_plan(struct hub *hub, struct hub_job *job, const struct catalog_vm_disk *vm_disks,
		      size_t n, enum catalog_backup_type type, char busy_id[CATALOG_ID_SIZE],
		      struct err *err)
{
	int rc = CATALOG_E_CONFLICT;

	for (int i = 0; rc == CATALOG_E_CONFLICT && i < START_PLANS; i++) {
		if (i)
			log_info(&job->log, "planning again: %s", err->text);
		if (i > 1)
			nanosleep(&(struct timespec){.tv_nsec = START_PAUSE_NS}, NULL);
		rc = hub_plan(hub, job, vm_disks, n, type, err);
		if (rc)
			return rc;
		rc = start_insert_rows(hub, job, busy_id, err);
	}
	return hub_from_catalog(rc);
}

/* --- images and exports --------------------------------------------------------------------- */

/* A folder that was empty when the backup was planned may be gone with the last point that was
 * deleted in it; with a file in it, it stays. */
static int start_create_file(struct hub_job *job, struct hub_disk *disk,
			     const struct qcow2_create_opts *opts, struct err *err)
{
	int rc = -ENOENT;

	for (int i = 0; rc == -ENOENT && i < START_FOLDERS; i++) {
		rc = job->repo->ops->make_folder(job->repo, &disk->point, err);
		if (!rc)
			rc = qcow2_create(disk->point.part, opts, err);
	}
	return rc;
}

static int start_make_image(struct hub_job *job, struct hub_disk *disk, struct err *err)
{
	char backing[CATALOG_PATH_SIZE];
	struct qcow2_create_opts opts = {
		.size = (uint64_t)disk->row.virtual_size_bytes,
		.zstd = job->zstd_level,
	};
	struct qcow2_open_opts open_opts = {
		.writable = true,
		.repository = job->repo->root,
		.suppress_unchanged = disk->row.mode == CATALOG_BACKUP_INCREMENTAL,
		.sums = true,
		.source_size = (uint64_t)disk->row.virtual_size_bytes,
		.zstd_level = job->zstd_level,
	};
	struct qcow2_image *img = NULL;
	struct qcow2_info info;
	int rc;

	if (disk->row.mode == CATALOG_BACKUP_INCREMENTAL) {
		if (!repo_relative(job->repo, disk->point.path, disk->row.parent_qcow2_path,
				   backing, sizeof(backing)))
			return err_set(err, -ENAMETOOLONG, "relative name of parent %s",
				       disk->row.parent_qcow2_path);
		opts.backing = backing;
	}
	rc = start_create_file(job, disk, &opts, err);
	if (!rc)
		rc = qcow2_open(&img, disk->point.part, &open_opts, err);
	if (rc)
		return rc < 0 ? rc : -EIO;
	qcow2_get_info(img, &info);
	pthread_mutex_lock(&job->face);
	disk->img = img;
	disk->export_size = info.size;
	pthread_mutex_unlock(&job->face);
	return 0;
}

static int start_export(struct hub *hub, struct hub_job *job, struct hub_disk *disk,
			struct err *err)
{
	char name[CATALOG_EXPORT_SIZE], alias[HUB_ALIAS_SIZE];
	char description[CATALOG_NAME_SIZE + 64];
	struct nbd_export *export;
	struct qcow2_info info;
	struct nbd_export_config config = {
		.name = disk->row.export_name,
		.alias = alias,
		.description = description,
		.size = disk->export_size,
	};
	int rc;

	qcow2_get_info(disk->img, &info);
	config.preferred_block = info.cluster_size;
	hub_export_names(job, &disk->row, name, alias);
	snprintf(description, sizeof(description), "%s disk %d", job->vm_name,
		 disk->row.disk_index);
	rc = nbd_export_add(hub->nbd, &config, &nbd_export_qcow2_ops, disk->img, &export, err);
	if (rc)
		return rc < 0 ? rc : -EIO;
	pthread_mutex_lock(&job->face);
	disk->export = export;
	pthread_mutex_unlock(&job->face);
	return 0;
}

static int start_disk(struct hub *hub, struct hub_job *job, struct hub_disk *disk, struct err *err)
{
	int rc = start_make_image(job, disk, err);

	if (!rc)
		rc = start_export(hub, job, disk, err);
	if (rc) {
		err_prefix(err, rc, "disk %d in repository \"%s\" at %s", disk->row.disk_index,
			   job->repo->name, job->repo->root);
		return rc;
	}
	log_info(&job->log, "disk %d: %s of %lld bytes into %s%s%s", disk->row.disk_index,
		 catalog_backup_type_name(disk->row.mode), (long long)disk->row.virtual_size_bytes,
		 disk->point.path, disk->row.reason[0] ? ", because " : "", disk->row.reason);
	return 0;
}

/* --- the agent ------------------------------------------------------------------------------ */

static const char *start_or_local(const char *text)
{
	return text && text[0] ? text : "local";
}

/* The agent wants some text for an incremental and never uses it: it asks per disk. */
static const char *start_previous_change_id(const struct hub_job *job)
{
	if (job->row.backup_type == CATALOG_BACKUP_FULL)
		return NULL;
	for (size_t i = 0; i < job->disk_count; i++)
		if (job->disks[i].row.parent_change_id[0])
			return job->disks[i].row.parent_change_id;
	return "none";
}

/* A credential that is named goes to its own host, whatever the agent calls that one; the default
 * one only to VMs of that host. */
static int start_login(struct hub *hub, const struct hub_start_request *req,
		       const struct catalog_vm_context *vm, struct hub_login *login,
		       struct err *err)
{
	int64_t id = req->credential_id > 0 ? req->credential_id : vm->credential_id;
	int rc = hub_login_choose(hub, id, id > 0 ? "" : vm->vcenter_host, login, err);

	if (!rc && !login->host[0])
		CATALOG_TEXT(login->host, start_or_local(vm->vcenter_host));
	return rc;
}

static int start_call_agent(struct hub *hub, struct hub_job *job, const char *targets,
			    const struct hub_login *login, struct err *err)
{
	struct hub_agent_job call = {
		.job_id = job->row.id,
		.vm_name = job->vm_name,
		.vm_path = job->vm.vm_path,
		.vcenter_host = login->host,
		.vcenter_user = login->username,
		.vcenter_password = login->password,
		.nbd_targets = targets,
		.backup_type = catalog_backup_type_name(job->row.backup_type),
		.previous_change_id = start_previous_change_id(job),
		.cancel = &job->cancel_asked,
	};
	int rc;

	rc = hub_agent_start(hub->agent, &call, err);
	if (rc)
		return rc;
	rc = catalog_backup_set_running(hub->catalog, job->row.id, err);
	if (rc && rc != CATALOG_E_ALREADY)
		return hub_from_catalog(rc);
	pthread_mutex_lock(&job->face);
	job->accepted_ns = job->touched_ns = hub_now_ns();
	job->state = HUB_JOB_RUNNING;
	pthread_mutex_unlock(&job->face);
	return 0;
}

/* --- all of it ------------------------------------------------------------------------------ */

/* What the words of the request stand for. */
struct start_found {
	struct catalog_repository repository;
	struct catalog_vm_disk *vm_disks;
	size_t n;
	struct hub_login login;
};

/* Up to the job row: a failure here leaves nothing but a free VM. */
static int start_prepare(struct hub *hub, struct hub_job *job, const struct hub_start_request *req,
			 const struct start_found *found, char busy_id[CATALOG_ID_SIZE],
			 struct err *err)
{
	const struct catalog_repository *repository = &found->repository;
	int rc = repo_open(&job->repo, repository, false, err);

	if (rc)
		return rc;
	rc = catalog_backup_context_ensure(hub->catalog, job->vm.context_id, repository->id,
					   &job->context, err);
	if (rc)
		return hub_from_catalog(rc);
	job->zstd_level = job->repo->zstd_level;
	if (req->compression && req->compression[0])
		qcow2_parse_compression(req->compression, &job->zstd_level);
	start_fill_row(job, req, repository);
	return start_plan(hub, job, found->vm_disks, found->n, req->backup_type, busy_id, err);
}

static int start_run(struct hub *hub, struct hub_job *job, const struct hub_login *login,
		     struct hub_started *out, struct err *err)
{
	int rc = 0;

	for (size_t i = 0; !rc && i < job->disk_count; i++)
		rc = start_disk(hub, job, &job->disks[i], err);
	if (rc)
		return rc;
	out->nbd_port = hub_advertised(hub).port;
	out->nbd_targets = hub_nbd_targets(hub, job);
	if (!out->nbd_targets)
		return err_sys(err, -ENOMEM, "backup of \"%s\"", job->vm_name);
	return start_call_agent(hub, job, out->nbd_targets, login, err);
}

static int start_undo(struct hub *hub, struct hub_job *job, struct hub_started *out, int rc,
		      struct err *err)
{
	free(steal(&out->nbd_targets));
	if (!atomic_load(&job->cancel_asked)) {
		hub_job_fail_with(hub, job, err);
		return rc;
	}
	hub_job_cancel(hub, job);
	return err_set(err, HUB_E_STATE, "backup %s was cancelled while it started", job->row.id);
}

/* With the VM reserved. */
static int start_job(struct hub *hub, struct hub_job *job, const struct hub_start_request *req,
		     const struct start_found *found, struct hub_started *out, struct err *err)
{
	int rc = start_prepare(hub, job, req, found, out->backup_id, err);

	if (rc == -ECONNABORTED) /* its rows may be there: it ends when the catalog can be told */
		hub_job_fail_with(hub, job, err);
	else if (rc)
		hub_job_end(hub, job);
	if (rc)
		return rc;
	strcpy(out->backup_id, job->row.id);
	rc = start_run(hub, job, &found->login, out, err);
	if (rc)
		return start_undo(hub, job, out, rc, err);
	log_info(&job->log, "%s backup of VM \"%s\" runs: %zu disks, %lld bytes, repository \"%s\"",
		 catalog_backup_type_name(job->row.backup_type), job->vm_name, job->disk_count,
		 (long long)job->row.total_bytes, job->repo->name);
	return 0;
}

int hub_backup_start(struct hub *hub, const struct hub_start_request *req, struct hub_started *out,
		     struct err *err)
{
	struct start_found found = {.n = 0};
	struct catalog_vm_context vm;
	struct hub_job *job;
	int rc, level;

	*out = (struct hub_started){.nbd_targets = NULL};
	if (req->compression && !qcow2_parse_compression(req->compression, &level))
		return err_set(err, HUB_E_INVALID,
			       "compression must be \"none\", \"zstd\" or \"zstd:LEVEL\" with "
			       "LEVEL 1 to 19, not \"%s\"",
			       req->compression);
	if (req->backup_type == CATALOG_BACKUP_DIFFERENTIAL)
		return err_set(err, HUB_E_INVALID,
			       "backup_type \"differential\" is not supported: "
			       "use \"full\" or \"incremental\"");
	rc = start_find_vm(hub, req, &vm, err);
	if (!rc)
		rc = start_find_disks(hub, &vm, &found.vm_disks, &found.n, err);
	if (!rc)
		rc = start_find_repository(hub, req, &found.repository, err);
	if (!rc)
		rc = start_login(hub, req, &vm, &found.login, err);
	if (!rc)
		rc = hub_job_reserve(hub, &vm, &job, out->backup_id, err);
	if (!rc) {
		rc = start_job(hub, job, req, &found, out, err);
		pthread_mutex_unlock(&job->work);
		hub_job_unref(hub, job);
	}
	hub_login_wipe(&found.login);
	free(found.vm_disks);
	return rc;
}
