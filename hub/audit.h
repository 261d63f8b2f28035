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

/* Adds an entry, and those that were kept. False: it could not be written, which is logged; the hub
 * goes on. */
bool hub_audit_add(struct hub *hub, struct catalog_audit *entry);

/* A call that changes something is about to begin (audit_pending.h): a number for hub_audit_end(),
 * which the caller calls when the log has its entry, or needs none. -1: it could not be noted,
 * which is logged. */
int hub_audit_begin(struct hub *hub, const struct catalog_audit *entry);
void hub_audit_end(struct hub *hub, int number);

/* Instead of hub_audit_end(), when the log did not take the entry: it does so later. */
void hub_audit_keep(struct hub *hub, int number, enum catalog_audit_outcome outcome, int status);

/* Goes through the log, against all anchors. */
int hub_audit_verify(struct hub *hub, struct catalog_audit_report *out, struct err *err);

/* Reads the anchors, and writes entries for what the last run has left pending; before anything
 * else is added. */
int hub_audit_start(struct hub *hub, struct err *err);
void hub_audit_stop(struct hub *hub); /* after hub_audit_start() failed, too */

#endif
