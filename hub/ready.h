/*
 * Is the hub ready for work? Each thing it needs is tried, not remembered: the catalog is asked,
 * the NBD listener greets, the repositories are looked at.
 */
#ifndef HUB_READY_H
#define HUB_READY_H

#include "catalog/catalog.h"
#include "hub/hub.h"

struct hub_check {
	char kind[16];		      /* "catalog", "nbd", "repository" */
	char name[CATALOG_NAME_SIZE]; /* of the repository; else empty */
	bool ok;
	char detail[256]; /* what is wrong; empty when nothing is */
};

/* True when a backup could start now: the catalog answers, the NBD server greets, and at least one
 * of the enabled repositories, if there are any, can be reached. *@checks is the caller's to free;
 * NULL: no memory, and not ready. Takes a second when the NBD listener is silent, two when a
 * storage hangs (look.h), and as long as the catalog takes. */
bool hub_ready(struct hub *hub, struct hub_check **checks, size_t *n);

#endif
