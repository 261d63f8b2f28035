/*
 * Discovery: which VMs the capture agent can see, and taking some of them under management with
 * their disks (mission M1-M6, M17, M18). The agent is asked once; what it says is stored in one
 * transaction a VM, so that a VM is never without its disks.
 */
#ifndef HUB_DISCOVERY_H
#define HUB_DISCOVERY_H

#include <jansson.h>

#include "catalog/contexts.h"
#include "hub/hub.h"

/*
 * Where to look, and as whom: with username and password of the request's own, or with a
 * credential, or (neither) as hub_login_choose() finds. vcenter and datacenter, when empty, are the
 * credential's, else "local". The credential used is the one the VMs added have.
 */
struct hub_discovery {
	char vcenter[CATALOG_NAME_SIZE];
	char username[CATALOG_NAME_SIZE];
	char password[CATALOG_NAME_SIZE];
	char datacenter[CATALOG_NAME_SIZE];
	char filter[CATALOG_NAME_SIZE]; /* the agent's own business */
	int64_t credential_id;		/* <= 0: none; excludes username and password */
};

/*
 * What the agent sees now, in its own words: *@out is {"vcenter":{...},"vms":[...]}, each VM with
 * "context_id" added ("" when not under management). The caller json_decref()s it.
 * HUB_E_AGENT, HUB_E_INVALID, HUB_E_NOT_FOUND (the credential), as hub_login_choose().
 */
int hub_discover(struct hub *hub, const struct hub_discovery *where, json_t **out, struct err *err);

struct hub_added_vm {
	struct catalog_vm_context vm; /* vm_name alone when @error is not empty */
	char error[256];	      /* why this VM was not added; empty: it was */
};

/*
 * Adds VMs by name (or by the agent's VM id), or refreshes those that are known. *@rows has one row
 * per name, in the order given; free() it. 0 when at least one was added. HUB_E_AGENT,
 * HUB_E_INVALID (no names), HUB_E_NOT_FOUND (none could be added; @err has the first reason).
 */
int hub_add_vms(struct hub *hub, const struct hub_discovery *where, const char *const *names,
		size_t n, struct hub_added_vm **rows, struct err *err);

/* --- what an appliance posts by itself -------------------------------------------------------- */

struct hub_inventory {
	size_t seen, refreshed, unknown, failed; /* VMs; seen is the sum of the others */
};

/*
 * Refreshes, of the VMs in @inventory ({"vcenter":{"host":...},"vms":[...]}, each VM as in the
 * agent's discovery), those that are under management; the others are counted and left alone. One
 * without disks, listed before, or with what cannot be stored, counts as failed and stays as it
 * was; the first reason is in @why. HUB_E_INVALID: no vCenter, no list.
 */
int hub_inventory_take(struct hub *hub, const json_t *inventory, struct hub_inventory *out,
		       char why[256], struct err *err);

#endif
