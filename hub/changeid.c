/*
 * The agent's question "since when?" (agent contract 1.4, hub rules a to e).
 *
 * The deciding calls of every disk say disk 0, because the agent has not seen the export's name
 * yet. So 0 means "the disk you are at": the first in hardware order that is not completed. A wrong
 * guess costs a full copy into an overlay, never a wrong point: change ids carry the disk's UUID.
 *
 * What is answered for a disk is on its row since the backup started, so it cannot change while the
 * backup runs.
 */
#include <string.h>

#include "hub/job.h"

/* `face` held. NULL: no such disk, or none open. */
static const struct hub_disk *change_id_disk(const struct hub_job *job, int disk_index)
{
	for (size_t i = 0; i < job->disk_count; i++) {
		const struct hub_disk *disk = &job->disks[i];

		if (disk_index > 0 ? disk->row.disk_index == disk_index
				   : disk->state == HUB_DISK_OPEN)
			return disk;
	}
	return NULL;
}

/* Rules b to d: a full backup, a disk without a usable parent, and an unknown disk have nothing. */
static void change_id_of_job(struct hub_job *job, int disk_index, struct hub_change_id *out)
{
	const struct hub_disk *disk;

	pthread_mutex_lock(&job->face);
	strcpy(out->job_id, job->row.id);
	disk = change_id_disk(job, disk_index);
	if (disk) {
		out->disk_index = disk->row.disk_index;
		if (job->row.backup_type != CATALOG_BACKUP_FULL &&
		    disk->row.mode == CATALOG_BACKUP_INCREMENTAL)
			strcpy(out->change_id, disk->row.parent_change_id);
	}
	pthread_mutex_unlock(&job->face);
}

int hub_backup_change_id(struct hub *hub, const char *vm_name, int disk_index,
			 struct hub_change_id *out, struct err *err)
{
	struct hub_job *job = hub_job_find_vm(hub, vm_name);
	struct catalog_backup_disk point;
	int rc;

	*out = (struct hub_change_id){.disk_index = disk_index};
	if (job) {
		change_id_of_job(job, disk_index, out);
		hub_job_unref(hub, job);
		return 0;
	}
	rc = catalog_point_latest_of_vm(hub->catalog, vm_name, disk_index, &point, err);
	if (rc && rc != CATALOG_E_NOT_FOUND)
		return hub_from_catalog(rc);
	if (!rc)
		strcpy(out->change_id, point.change_id);
	return 0;
}
