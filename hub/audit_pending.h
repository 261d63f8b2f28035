/*
 * What is about to be done, until the audit log has it. The entry of a call is written when it is
 * known what came of it, after the change itself: a hub that dies in between would have changed
 * something nobody finds in the log. So DATA-DIR/audit-pending has a line for each changing call
 * under way, on disk before the call begins; those found at the next start become entries that say
 * so. So do, as soon as the log takes entries again, those whose entry it refused.
 */
#ifndef HUB_AUDIT_PENDING_H
#define HUB_AUDIT_PENDING_H

#include "catalog/audit.h"

struct hub_audit_pending;

/* Opens the file. */
int hub_pending_open(struct hub_audit_pending **out, const char *data_dir, struct err *err);
void hub_pending_close(struct hub_audit_pending *pending); /* accepts NULL */

/* The next one the last run has left, from *@at on, which it moves; false: there is no more. */
bool hub_pending_left(struct hub_audit_pending *pending, size_t *at, struct catalog_audit *out);

/* Forgets all of them. */
int hub_pending_clear(struct hub_audit_pending *pending, struct err *err);

/* Notes @entry (user_name, action, object, remote) durably. Its number for hub_pending_end(); -1
 * and @err: it could not be noted. Any thread. */
int hub_pending_begin(struct hub_audit_pending *pending, const struct catalog_audit *entry,
		      struct err *err);

/* It is over, and the log has it. */
void hub_pending_end(struct hub_audit_pending *pending, int number);

/* It is over, with this HTTP status, and the log does not have it: it stays noted. */
void hub_pending_keep(struct hub_audit_pending *pending, int number,
		      enum catalog_audit_outcome outcome, int status);

/* One of those that were kept, as an entry for the log: its number for hub_pending_end(), or -1.
 * One thread at a time. */
int hub_pending_kept(struct hub_audit_pending *pending, struct catalog_audit *out);

#endif
