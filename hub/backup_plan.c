/*
 * How each disk of a VM is copied, and where to.
 *
 * A disk of an incremental backup leans on its latest offered point, if that point can carry it:
 * same size, every file of its chain there and sound. A disk that cannot gets a full of its own
 * inside the incremental backup, with the reason on its row; the agent, told no change id for it,
 * copies it whole.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "hub/job.h"

/* The parent's chain as a reader sees it: every link opens, nothing is half written. */
static int plan_check_parent_file(struct hub_job *job, const struct catalog_backup_disk *parent,
				  uint64_t size, struct err *err)
{
	struct qcow2_open_opts opts = {.repository = job->repo->root};
	struct qcow2_image *img;
	struct qcow2_info info;
	int rc = qcow2_open(&img, parent->qcow2_path, &opts, err);

	if (rc)
		return rc;
	qcow2_get_info(img, &info);
	qcow2_close(img);
	if (info.dirty)
		return err_set(err, QCOW2_E_CORRUPT, "it was never finished");
	if (info.size != align_up(size, 512))
		return err_set(err, QCOW2_E_CORRUPT, "it holds %llu bytes, the disk %llu",
			       (unsigned long long)info.size, (unsigned long long)size);
	if (info.depth >= QCOW2_CHAIN_MAX)
		return err_set(err, QCOW2_E_CHAIN, "its chain is %u images long", info.depth);
	return 0;
}

/* True when @parent can carry the disk; else the row says why not. */
static bool plan_parent_usable(struct hub_job *job, const struct catalog_backup_disk *parent,
			       struct catalog_backup_disk *row)
{
	const char *name = strrchr(parent->qcow2_path, '/');
	struct err why = ERR_INIT;

	if (parent->virtual_size_bytes != row->virtual_size_bytes) {
		snprintf(row->reason, sizeof(row->reason), "disk resized from %lld to %lld bytes",
			 (long long)parent->virtual_size_bytes, (long long)row->virtual_size_bytes);
		return false;
	}
	if (!parent->change_id[0]) {
		snprintf(row->reason, sizeof(row->reason), "previous point has no change id");
		return false;
	}
	if (!repo_contains(job->repo, parent->qcow2_path)) {
		snprintf(row->reason, sizeof(row->reason),
			 "parent file %.200s is not in the repository", parent->qcow2_path);
		return false;
	}
	if (plan_check_parent_file(job, parent, (uint64_t)row->virtual_size_bytes, &why)) {
		snprintf(row->reason, sizeof(row->reason),
			 "parent file %.80s missing or damaged: %.140s", name ? name + 1 : "",
			 why.text);
		return false;
	}
	return true;
}

/* Fills mode, reason and parent of a row of an incremental backup. */
static int plan_incremental(struct hub *hub, struct hub_job *job, struct catalog_backup_disk *row,
			    struct err *err)
{
	struct catalog_backup_disk parent;
	int rc = catalog_point_latest(hub->catalog, job->context.context_id, row->disk_id, &parent,
				      err);

	if (rc && rc != CATALOG_E_NOT_FOUND)
		return hub_from_catalog(rc);
	if (rc) {
		CATALOG_TEXT(row->reason,
			     job->context.last_backup_id[0] ? "disk is new" : "no previous point");
		return 0;
	}
	if (!plan_parent_usable(job, &parent, row))
		return 0;
	row->mode = CATALOG_BACKUP_INCREMENTAL;
	row->parent_disk_id = parent.id;
	CATALOG_TEXT(row->parent_backup_id, parent.backup_job_id);
	CATALOG_TEXT(row->parent_change_id, parent.change_id);
	CATALOG_TEXT(row->parent_qcow2_path, parent.qcow2_path);
	return 0;
}

static void plan_row_of(const struct catalog_vm_disk *vd, struct catalog_backup_disk *row)
{
	*row = (struct catalog_backup_disk){
		.disk_index = vd->disk_index,
		.hardware_order = vd->hardware_order,
		.vmware_disk_key = vd->vmware_disk_key,
		.unit_number = vd->unit_number,
		.virtual_size_bytes = vd->capacity_bytes,
		.size_gb = vd->size_gb,
		.mode = CATALOG_BACKUP_FULL,
		.parent_disk_id = CATALOG_NONE,
	};
	CATALOG_TEXT(row->disk_id, vd->disk_id);
}

static int plan_place(struct hub_job *job, struct hub_disk *disk, struct err *err)
{
	struct repo_point_key key = {
		.vm = job->vm.context_id,
		.disk_index = disk->row.disk_index,
		.mode = disk->row.mode,
		.stamp = job->stamp,
	};
	char alias[HUB_ALIAS_SIZE];
	int rc = job->repo->ops->new_point(job->repo, &key, &disk->point, err);

	if (rc)
		return rc;
	CATALOG_TEXT(disk->row.qcow2_path, disk->point.path);
	CATALOG_TEXT(disk->row.part_path, disk->point.part);
	hub_export_names(job, &disk->row, disk->row.export_name, alias);
	return 0;
}

static int plan_disk(struct hub *hub, struct hub_job *job, const struct catalog_vm_disk *vd,
		     enum catalog_backup_type type, struct hub_disk *disk, struct err *err)
{
	int rc = 0;

	if (vd->vmware_disk_key == CATALOG_NONE)
		return err_set(err, HUB_E_INVALID,
			       "disk \"%s\" of VM \"%s\" has no device key: run discovery again",
			       vd->disk_id, job->vm_name);
	if (vd->capacity_bytes <= 0 || (uint64_t)vd->capacity_bytes > QCOW2_SIZE_MAX)
		return err_set(
			err, HUB_E_INVALID,
			"disk \"%s\" of VM \"%s\" has %lld bytes: outside what a point holds",
			vd->disk_id, job->vm_name, (long long)vd->capacity_bytes);
	plan_row_of(vd, &disk->row);
	CATALOG_TEXT(disk->label, vd->label);
	if (type == CATALOG_BACKUP_INCREMENTAL)
		rc = plan_incremental(hub, job, &disk->row, err);
	return rc ? rc : plan_place(job, disk, err);
}

int hub_plan(struct hub *hub, struct hub_job *job, const struct catalog_vm_disk *vm_disks, size_t n,
	     enum catalog_backup_type type, struct err *err)
{
	struct hub_disk *disks = calloc(n, sizeof(*disks));
	int rc = 0;

	if (!disks)
		return err_sys(err, -ENOMEM, "backup of \"%s\"", job->vm_name);
	hub_stamp(catalog_now_us(), job->stamp);
	for (size_t i = 0; !rc && i < n; i++)
		rc = plan_disk(hub, job, &vm_disks[i], type, &disks[i], err);
	if (rc) {
		free(disks);
		return rc;
	}
	pthread_mutex_lock(&job->face);
	free(job->disks);
	job->disks = disks;
	job->disk_count = n;
	pthread_mutex_unlock(&job->face);
	return 0;
}
