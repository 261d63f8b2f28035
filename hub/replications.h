/*
 * Replications: a VM is copied to another platform by the agent and an engine beside the hub. The
 * hub keeps the job, lends it the VM's disk rows (mission M7), and answers and keeps change ids.
 */
#ifndef HUB_REPLICATIONS_H
#define HUB_REPLICATIONS_H

#include "catalog/replications.h"
#include "hub/hub.h"

/*
 * A job for the VM called @vm_name, or with the id @vm_context_id. One that is not in the
 * inventory, or is there without disks, is asked for from the agent (mission M6). HUB_E_NOT_FOUND,
 * HUB_E_BUSY (one of the VM has not ended), HUB_E_INVALID, HUB_E_AGENT.
 */
int hub_replication_create(struct hub *hub, const char *vm_name, const char *vm_context_id,
			   enum catalog_replication_type type, struct catalog_replication *out,
			   struct err *err);

#endif
