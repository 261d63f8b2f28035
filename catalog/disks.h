/*
 * vm_disks: the disks of a VM as discovery saw them, whether or not anything was ever copied.
 *
 * A disk is known by the agent's own id text ("disk-2000"), unique within its VM context.
 * `disk_index` is ours: 0, 1, 2... given in hardware order when the disk is first seen and then its
 * own for life, so that "disk-1/" in a repository and "...disk1" in an export name always mean the
 * same disk. A disk added later takes an index never used before in this VM, wherever it sits in
 * the hardware; where it sits at present is `hardware_order`. A VM deleted from the inventory and
 * added again gets the indexes its backups used.
 */
#ifndef CATALOG_DISKS_H
#define CATALOG_DISKS_H

#include "catalog/catalog.h"

struct catalog_vm_disk {
	int64_t id;
	char vm_context_id[CATALOG_ID_SIZE];
	char job_id[CATALOG_ID_SIZE];	 /* replication job that uses the row; usually empty */
	char disk_id[CATALOG_NAME_SIZE]; /* the agent's id, byte for byte */
	int disk_index;			 /* stable; see above */
	int hardware_order;		 /* position at the latest discovery, 0 first */
	int64_t vmware_disk_key;	 /* from "disk-<key>", or CATALOG_NONE: never estimated */
	char label[CATALOG_NAME_SIZE];	 /* "Hard disk 1" */
	char path[CATALOG_PATH_SIZE];	 /* VMDK path */
	char datastore[CATALOG_NAME_SIZE];
	int64_t capacity_bytes; /* exact; every computation uses this one */
	int64_t size_gb;	/* as the agent said it, for display only */
	int unit_number;	/* or CATALOG_NONE */
	char provisioning_type[CATALOG_ID_SIZE];
	char controller[CATALOG_NAME_SIZE];
	bool missing; /* absent from the latest discovery; not backed up */
	int64_t created_at_us;
	int64_t updated_at_us;
};

/* Disks of a VM in hardware order; missing ones, when @with_missing, come last. An unknown VM has
 * no disks. Frees nothing; the caller free()s *@rows (NULL when *@n is 0). */
int catalog_vm_disks_list(struct catalog *cat, const char *vm_context_id, bool with_missing,
			  struct catalog_vm_disk **rows, size_t *n, struct err *err);

/* One disk by the agent's id. CATALOG_E_NOT_FOUND. */
int catalog_vm_disk_get(struct catalog *cat, const char *vm_context_id, const char *disk_id,
			struct catalog_vm_disk *out, struct err *err);

#endif
