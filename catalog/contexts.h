/*
 * vm_replication_contexts: the VMs under management ("VM contexts" in the API).
 *
 * A VM is (vcenter_host, vmware_vm_id): that pair is unique, a name is an attribute which may
 * change and may occur in two vCenters. Backups outlive their VM: deleting a VM context removes its
 * disks from the inventory, and leaves backup contexts, jobs and points with an empty
 * vm_context_id.
 */
#ifndef CATALOG_CONTEXTS_H
#define CATALOG_CONTEXTS_H

#include "catalog/catalog.h"
#include "catalog/disks.h"

#define CATALOG_NOTES_SIZE 1025

struct catalog_vm_context {
	char context_id[CATALOG_ID_SIZE]; /* "ctx-..." */
	char vm_name[CATALOG_NAME_SIZE];
	char vmware_vm_id[CATALOG_NAME_SIZE]; /* the agent's VM id */
	char vm_path[CATALOG_VM_PATH_SIZE];   /* inventory path */
	char vcenter_host[CATALOG_NAME_SIZE];
	char datacenter[CATALOG_NAME_SIZE];
	char power_state[CATALOG_ID_SIZE];
	char os_type[CATALOG_NAME_SIZE]; /* the agent's guest_os */
	char vmx_version[CATALOG_ID_SIZE];
	int64_t cpu_count;
	int64_t memory_mb;
	int64_t credential_id;		 /* or CATALOG_NONE */
	char policy_id[CATALOG_ID_SIZE]; /* may be empty */
	char notes[CATALOG_NOTES_SIZE];
	int64_t created_at_us;
	int64_t updated_at_us;
	int64_t last_discovered_at_us;
	int64_t disk_count;	      /* derived: disks not missing */
	int64_t total_capacity_bytes; /* derived: their capacity (M9) */
};

/*
 * Stores what discovery found, VM and disks in one transaction (M1, M5): inserts the VM, or updates
 * the one with the same vcenter_host and vmware_vm_id; inserts new disks, updates known ones, marks
 * as missing those that @disks no longer has. @disks is in hardware order; @n may be 0.
 * @networks_json is the agent's networks array as text, or NULL.
 *
 * Read from @vm: vm_name, vmware_vm_id, vm_path, vcenter_host (all non-empty), datacenter,
 * power_state, os_type, vmx_version, cpu_count, memory_mb, credential_id (CATALOG_NONE keeps a
 * stored one, one that does not exist is refused). Read from each disk: disk_id (non-empty, no two
 * alike), vmware_disk_key, label, path, datastore, capacity_bytes (> 0), size_gb, unit_number,
 * provisioning_type, controller. Written back to @vm and @disks: everything else, so context_id, id
 * and disk_index. CATALOG_E_INVALID.
 */
int catalog_vm_context_upsert(struct catalog *cat, struct catalog_vm_context *vm,
			      struct catalog_vm_disk *disks, size_t n, const char *networks_json,
			      struct err *err);

/* CATALOG_E_NOT_FOUND. */
int catalog_vm_context_get(struct catalog *cat, const char *context_id,
			   struct catalog_vm_context *out, struct err *err);

/* By name; @vcenter_host NULL or "" searches all vCenters. CATALOG_E_NOT_FOUND,
 * CATALOG_E_AMBIGUOUS. */
int catalog_vm_context_find(struct catalog *cat, const char *vm_name, const char *vcenter_host,
			    struct catalog_vm_context *out, struct err *err);

enum catalog_vm_order {
	CATALOG_VM_BY_NAME,
	CATALOG_VM_BY_CAPACITY,
	CATALOG_VM_BY_CREATED,
	CATALOG_VM_BY_DISCOVERED,
};

struct catalog_vm_filter {
	const char *vm_name;	  /* exact; NULL or "": any */
	const char *vcenter_host; /* the same */
	const char *policy_id;	  /* the same */
	const char *search;	  /* part of the name, whatever its case; the same */
	int64_t credential_id;	  /* 0: any; CATALOG_NONE: those without */
	bool without_policy; /* only VMs that no policy and no schedule of their own cares for */
	enum catalog_vm_order order;
	bool descending;
	int64_t limit; /* 0: no limit */
	int64_t offset;
};

/* In the filter's order. @filter and @total may be NULL; *@total counts all matches, whatever the
 * limit.
 */
int catalog_vm_contexts_list(struct catalog *cat, const struct catalog_vm_filter *filter,
			     struct catalog_vm_context **rows, size_t *n, int64_t *total,
			     struct err *err);

/* The stored networks array, "[]" when discovery gave none. The caller free()s *@json.
 * CATALOG_E_NOT_FOUND. */
int catalog_vm_context_networks(struct catalog *cat, const char *context_id, char **json,
				struct err *err);

/* What people decide about a VM. NULL keeps what is stored; an empty policy_id, and a credential_id
 * of CATALOG_NONE, takes it away. */
struct catalog_vm_change {
	const char *notes, *policy_id;
	const int64_t *credential_id;
};

/* CATALOG_E_NOT_FOUND; CATALOG_E_INVALID: no such policy or credential, notes too long. */
int catalog_vm_context_change(struct catalog *cat, const char *context_id,
			      const struct catalog_vm_change *change, struct err *err);

/* Removes the VM and its disks from the inventory; its backups stay. CATALOG_E_NOT_FOUND;
 * CATALOG_E_BUSY while a backup of it runs. */
int catalog_vm_context_delete(struct catalog *cat, const char *context_id, struct err *err);

#endif
