/*
 * schedules: when to back up one VM, or all VMs that have a policy.
 *
 * A schedule that is due is claimed by one hub, which nobody else touches until `claimed_until`; a
 * hub that dies with a claim loses it by that. This is the one place where the catalog finds rows
 * by the time: it is what schedules are about.
 */
#ifndef CATALOG_SCHEDULES_H
#define CATALOG_SCHEDULES_H

#include "catalog/backups.h"
#include "catalog/catalog.h"

#define CATALOG_ZONE_SIZE 65

struct catalog_schedule {
	char id[CATALOG_ID_SIZE]; /* "schedule-..." */
	char name[CATALOG_NAME_SIZE];
	bool enabled;
	char policy_id[CATALOG_ID_SIZE];
	char vm_context_id[CATALOG_ID_SIZE]; /* empty: all VMs of the policy */
	enum catalog_backup_type backup_type;
	char cron_expression[CATALOG_NAME_SIZE];
	char timezone[CATALOG_ZONE_SIZE];
	int64_t next_run_at_us; /* 0: never */
	int64_t last_run_at_us; /* 0: never yet */
	char claimed_by[CATALOG_ID_SIZE];
	int64_t claimed_until_us;
	int64_t created_at_us;
	int64_t updated_at_us;
};

/* Read from @row: name, enabled, policy_id, vm_context_id, backup_type, cron_expression, timezone,
 * next_run_at_us; id when given. Written back: the rest. CATALOG_E_EXISTS (name), CATALOG_E_INVALID
 * (no such policy or VM). */
int catalog_schedule_create(struct catalog *cat, struct catalog_schedule *row, struct err *err);

/* Replaces what create reads of the row with this id; takes a claim away, so that a run under way
 * does not set the next time over the new one. CATALOG_E_NOT_FOUND, and as above. */
int catalog_schedule_update(struct catalog *cat, struct catalog_schedule *row, struct err *err);

/* CATALOG_E_NOT_FOUND. */
int catalog_schedule_get(struct catalog *cat, const char *id, struct catalog_schedule *out,
			 struct err *err);
/* Ordered by name; of a policy, or (NULL) all. */
int catalog_schedules_list(struct catalog *cat, const char *policy_id,
			   struct catalog_schedule **rows, size_t *n, struct err *err);
int catalog_schedule_delete(struct catalog *cat, const char *id, struct err *err);

/* Claims the schedule that is due longest, enabled, with an enabled policy, and claimed by nobody.
 * CATALOG_E_NOT_FOUND: none is. */
int catalog_schedule_claim(struct catalog *cat, const char *hub, int64_t now_us, int64_t until_us,
			   struct catalog_schedule *out, struct err *err);
/* Keeps the claim for longer. CATALOG_E_STATE: it is another's, or the schedule was changed. */
int catalog_schedule_renew(struct catalog *cat, const char *id, const char *hub, int64_t until_us,
			   struct err *err);
/* The run is over: sets when it was and when the next one is (0: never), and lets go of it. As
 * above. */
int catalog_schedule_done(struct catalog *cat, const char *id, const char *hub, int64_t ran_at_us,
			  int64_t next_at_us, struct err *err);

#endif
