/*
 * Discovery: the inventory in the words a hub expects (agent contract 1.2), with every disk's real
 * size looked up.
 */
#ifndef TOOLS_AGENT_DISCOVER_H
#define TOOLS_AGENT_DISCOVER_H

#include <jansson.h>

#include "tools/agent_inventory.h"
#include "tools/agent_stop.h"

struct agent_discover {
	const char *vcenter;	/* echoed */
	const char *datacenter; /* "": any. A VM without one is in all */
	const char *filter;	/* part of a VM's name, in any case of letters; "": all */
};

/*
 * {"vcenter":{...},"vms":[...],"errors":[{"vm","message"}]}; the caller json_decref()s it. A VM
 * with a disk whose size cannot be told is left out and named in "errors": half a VM must not be
 * taken for a whole one.
 */
int agent_discover(const struct agent_inventory *inv, const struct agent_discover *what,
		   const struct agent_stop *stop, json_t **out, struct err *err);

#endif
