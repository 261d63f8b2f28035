/*
 * The audit log as the hub keeps it: entries go to the catalog (catalog/audit.h), and the number
 * and hash of the last one to DATA-DIR/audit-anchor, so that a cut end is noticed. When the log
 * turns out to be shorter than the hub remembers, that is written to the log as well, and the old
 * anchor stays beside the new one: `verify` tells of it until somebody removes the file.
 */
#ifndef HUB_AUDIT_H
#define HUB_AUDIT_H

#include "catalog/audit.h"
#include "hub/hub.h"

/* Adds an entry. There is no result: what could not be written is logged, and the hub goes on. */
void hub_audit_add(struct hub *hub, struct catalog_audit *entry);

/* Goes through the log, against all anchors. */
int hub_audit_verify(struct hub *hub, struct catalog_audit_report *out, struct err *err);

/* Reads the anchors; before anything is added. */
int hub_audit_start(struct hub *hub, struct err *err);
void hub_audit_stop(struct hub *hub); /* after hub_audit_start() failed, too */

#endif
