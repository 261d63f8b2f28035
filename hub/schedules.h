/*
 * Schedules: backups without anybody asking. A thread looks what is due, claims it in the catalog
 * (so that of several hubs on one database one runs it), and starts the backups of one VM, or of
 * all VMs that have the schedule's policy, one after the other.
 *
 * A run that was missed, because no hub was up, is made up for once. A VM whose backup is still
 * running is left out, with a line in the log. A hub that dies in a run loses its claim after some
 * minutes, and the run begins anew.
 */
#ifndef HUB_SCHEDULES_H
#define HUB_SCHEDULES_H

#include "catalog/schedules.h"
#include "hub/hub.h"

/* As catalog_schedule_create() and _update(), which see; next_run_at_us is worked out from the cron
 * expression (hub/cron.h) and the time zone. HUB_E_INVALID: also those. */
int hub_schedule_create(struct hub *hub, struct catalog_schedule *row, struct err *err);
int hub_schedule_update(struct hub *hub, struct catalog_schedule *row, struct err *err);

/* Makes it due now. HUB_E_NOT_FOUND; HUB_E_STATE: it is disabled. */
int hub_schedule_run_now(struct hub *hub, const char *id, struct err *err);

#endif
