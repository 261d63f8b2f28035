#include "hub/replications.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "hub/discovery.h"
#include "hub/job.h"

/* By name or by the agent's id, from the agent, into the inventory. */
static int replication_discover(struct hub *hub, const char *name,
				const struct catalog_vm_context *known,
				struct catalog_vm_context *out, struct err *err)
{
	_cleanup_(freep) struct hub_added_vm *rows = NULL;
	struct hub_discovery where = {.credential_id = CATALOG_NONE};
	int rc;

	if (known) {
		where.credential_id = known->credential_id;
		if (known->credential_id <= 0)
			CATALOG_TEXT(where.vcenter, known->vcenter_host);
		name = known->vmware_vm_id;
	}
	rc = hub_add_vms(hub, &where, &name, 1, &rows, err);
	if (!rc)
		*out = rows[0].vm;
	return rc;
}

static int replication_find_vm(struct hub *hub, const char *vm_name, const char *vm_context_id,
			       struct catalog_vm_context *vm, struct err *err)
{
	bool by_id = vm_context_id && vm_context_id[0];
	int rc;

	if (!by_id && (!vm_name || !vm_name[0]))
		return err_set(err, HUB_E_INVALID, "vm_name is missing");
	rc = by_id ? catalog_vm_context_get(hub->catalog, vm_context_id, vm, err)
		   : catalog_vm_context_find(hub->catalog, vm_name, NULL, vm, err);
	if (rc == CATALOG_E_NOT_FOUND && !by_id)
		return replication_discover(hub, vm_name, NULL, vm, err);
	if (!rc && !vm->disk_count) {
		const struct catalog_vm_context known = *vm;

		return replication_discover(hub, NULL, &known, vm, err);
	}
	return hub_from_catalog(rc);
}

int hub_replication_create(struct hub *hub, const char *vm_name, const char *vm_context_id,
			   enum catalog_replication_type type, struct catalog_replication *out,
			   struct err *err)
{
	struct catalog_replication row = {.type = type};
	struct catalog_vm_context vm;
	int rc = replication_find_vm(hub, vm_name, vm_context_id, &vm, err);

	if (rc)
		return rc;
	CATALOG_TEXT(row.vm_context_id, vm.context_id);
	rc = hub_from_catalog(catalog_replication_create(hub->catalog, &row, err));
	if (rc)
		return rc;
	log_info(&hub->log, "replication %s of VM \"%s\": %s, %lld disks", row.id, row.vm_name,
		 catalog_replication_type_name(row.type), (long long)row.disk_count);
	*out = row;
	return 0;
}
