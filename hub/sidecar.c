/*
 * The sidecar beside each point: all the catalog knows of it, so that the catalog can be rebuilt
 * from sidecars alone (mission M43). File names are relative to the repository, for it may move.
 *
 * A point counts only when all disks of its backup are there: `backup.disks` lists their indexes.
 */
#include <stdlib.h>
#include <string.h>

#include "catalog/chains.h"
#include "hub/job.h"

#define SIDECAR_FORMAT 1

static const char *sidecar_relative(const struct hub_job *job, const char *path)
{
	return repo_contains(job->repo, path) ? path + strlen(job->repo->root) + 1 : path;
}

static json_t *sidecar_vm(const struct hub_job *job)
{
	return json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s}", "name", job->vm_name, "vm_context_id",
			 job->vm.context_id, "vm_backup_context_id", job->context.context_id,
			 "vmware_vm_id", job->vm.vmware_vm_id, "vm_path", job->vm.vm_path,
			 "vcenter_host", job->vm.vcenter_host, "datacenter", job->vm.datacenter);
}

static json_t *sidecar_backup(const struct hub_job *job)
{
	json_t *disks = json_array();

	for (size_t i = 0; disks && i < job->disk_count; i++)
		json_array_append_new(disks, json_integer(job->disks[i].row.disk_index));
	return json_pack("{s:s,s:s,s:I,s:o}", "id", job->row.id, "type",
			 catalog_backup_type_name(job->row.backup_type), "created_at_us",
			 (json_int_t)job->row.created_at_us, "disks", disks);
}

static json_t *sidecar_disk(const struct catalog_backup_disk *row, const char *label)
{
	return json_pack("{s:i,s:i,s:s,s:I,s:i,s:s,s:I,s:I}", "index", row->disk_index,
			 "hardware_order", row->hardware_order, "id", row->disk_id, "key",
			 (json_int_t)row->vmware_disk_key, "unit_number", row->unit_number, "label",
			 label, "virtual_size_bytes", (json_int_t)row->virtual_size_bytes,
			 "size_gb", (json_int_t)row->size_gb);
}

/* The full a chain begins with: this backup, or the one the parent's chain begins with. */
static json_t *sidecar_chain(struct hub *hub, const struct hub_job *job,
			     const struct hub_disk *disk)
{
	struct catalog_backup_disk parent;
	struct catalog_chain chain;
	const struct catalog_backup_disk *row = &disk->row;

	if (row->mode == CATALOG_BACKUP_FULL)
		return json_pack("{s:s}", "full_backup_id", job->row.id);
	if (catalog_backup_disk_get(hub->catalog, row->parent_backup_id, row->disk_index, &parent,
				    NULL) ||
	    catalog_chain_get(hub->catalog, parent.chain_id, &chain, NULL))
		return json_object();
	return json_pack("{s:s,s:s}", "id", chain.id, "full_backup_id", chain.full_backup_id);
}

static json_t *sidecar_parent(const struct hub_job *job, const struct hub_disk *disk)
{
	if (disk->row.mode == CATALOG_BACKUP_FULL)
		return json_null();
	return json_pack("{s:s,s:s,s:s}", "backup_id", disk->row.parent_backup_id, "file",
			 sidecar_relative(job, disk->row.parent_qcow2_path), "change_id",
			 disk->row.parent_change_id);
}

char *hub_sidecar_text(struct hub *hub, struct hub_job *job, const struct hub_disk *disk,
		       const char *change_id, const struct catalog_counters *bytes,
		       int64_t completed_at_us)
{
	json_t *doc = json_pack(
		"{s:i,s:s,s:s,s:s,s:s,s:s,s:o,s:o,s:o,s:o,s:o,s:{s:s,s:s},s:{s:I,s:I,s:I,s:I},s:I}",
		"format", SIDECAR_FORMAT, "tool", "sendense-hub " SENDENSE_VERSION, "file",
		sidecar_relative(job, disk->point.path), "mode",
		catalog_backup_type_name(disk->row.mode), "reason", disk->row.reason, "change_id",
		change_id, "vm", sidecar_vm(job), "backup", sidecar_backup(job), "disk",
		sidecar_disk(&disk->row, disk->label), "chain", sidecar_chain(hub, job, disk),
		"parent", sidecar_parent(job, disk), "repository", "id", job->repo->id, "name",
		job->repo->name, "bytes", "transferred", (json_int_t)bytes->bytes_transferred,
		"zero", (json_int_t)bytes->bytes_zero, "unchanged",
		(json_int_t)bytes->bytes_unchanged, "stored", (json_int_t)bytes->bytes_stored,
		"completed_at_us", (json_int_t)completed_at_us);
	char *text = doc ? json_dumps(doc, JSON_INDENT(2)) : NULL;

	json_decref(doc);
	return text;
}

/* --- copies --------------------------------------------------------------------------------- */

static const char *sidecar_below(const struct repo *repo, const char *path)
{
	return repo_contains(repo, path) ? path + strlen(repo->root) + 1 : path;
}

static json_t *sidecar_vm_of(const struct catalog_backup_context *vm)
{
	return json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s}", "name", vm->vm_name, "vm_context_id",
			 vm->vm_context_id, "vm_backup_context_id", vm->context_id, "vmware_vm_id",
			 vm->vmware_vm_id, "vm_path", vm->vm_path, "vcenter_host", vm->vcenter_host,
			 "datacenter", vm->datacenter);
}

static json_t *sidecar_backup_of(const struct hub_backup_view *view)
{
	json_t *disks = json_array();

	for (size_t i = 0; disks && i < view->disk_count; i++)
		json_array_append_new(disks, json_integer(view->disks[i].row.disk_index));
	return json_pack("{s:s,s:s,s:I,s:o}", "id", view->job.id, "type",
			 catalog_backup_type_name(view->job.backup_type), "created_at_us",
			 (json_int_t)view->job.created_at_us, "disks", disks);
}

/* What it is a copy of: the point is found there under this name. */
static json_t *sidecar_copy_of(const struct catalog_copy *copy,
			       const struct catalog_backup_disk *row, const struct repo *from)
{
	return json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:I}", "copy_id", copy->id, "backup_id",
			 copy->backup_job_id, "repository_id", from->id, "repository", from->name,
			 "file", sidecar_below(from, row->qcow2_path), "mode",
			 catalog_backup_type_name(row->mode), "completed_at_us",
			 (json_int_t)row->completed_at_us);
}

char *hub_sidecar_of_copy(struct hub *hub, const struct catalog_copy *copy,
			  const struct catalog_copy_disk *disk, const struct hub_backup_view *view,
			  size_t i, const struct repo *from, const struct repo *to)
{
	const struct catalog_backup_disk *row = &view->disks[i].row;
	struct catalog_backup_context vm;
	json_t *doc;
	char *text;

	if (catalog_backup_context_get(hub->catalog, view->job.vm_backup_context_id, &vm, NULL))
		return NULL;
	doc = json_pack(
		"{s:i,s:s,s:s,s:s,s:s,s:s,s:o,s:o,s:o,s:{s:s},s:n,s:{s:s,s:s},s:o,s:{s:I},s:s,s:I}",
		"format", SIDECAR_FORMAT, "tool", "sendense-hub " SENDENSE_VERSION, "file",
		sidecar_below(to, disk->qcow2_path), "mode", "full", "reason", "copy", "change_id",
		row->change_id, "vm", sidecar_vm_of(&vm), "backup", sidecar_backup_of(view), "disk",
		sidecar_disk(row, view->disks[i].label), "chain", "full_backup_id", view->job.id,
		"parent", "repository", "id", to->id, "name", to->name, "copy_of",
		sidecar_copy_of(copy, row, from), "bytes", "stored", (json_int_t)disk->bytes_stored,
		"sha256", disk->sha256, "completed_at_us", (json_int_t)catalog_now_us());
	text = doc ? json_dumps(doc, JSON_INDENT(2)) : NULL;
	json_decref(doc);
	return text;
}
