/*
 * backup_policies and backup_copy_rules: where backups of a policy go, how long they are kept,
 * where they are copied to. A policy and its rules are written in one transaction.
 */
#ifndef CATALOG_POLICIES_H
#define CATALOG_POLICIES_H

#include "catalog/catalog.h"

#define CATALOG_COPY_RULES_MAX 16

enum catalog_copy_mode {
	CATALOG_COPY_IMMEDIATE, /* when a backup completes */
	CATALOG_COPY_SCHEDULED,
	CATALOG_COPY_MANUAL,
};

/* "immediate", "scheduled", "manual". */
const char *catalog_copy_mode_name(enum catalog_copy_mode mode);
bool catalog_copy_mode_parse(const char *name, enum catalog_copy_mode *out);

struct catalog_policy {
	char id[CATALOG_ID_SIZE]; /* "policy-..." */
	char name[CATALOG_NAME_SIZE];
	bool enabled;
	char primary_repository_id[CATALOG_ID_SIZE];
	int64_t keep_days; /* points of the last so many days; these six are 0: not for this reason
			    */
	int64_t keep_last;
	int64_t keep_daily, keep_weekly, keep_monthly, keep_yearly;
	int64_t created_at_us;
	int64_t updated_at_us;
	int64_t vm_count;	/* derived: VM contexts that have it */
	int64_t schedule_count; /* derived */
};

struct catalog_copy_rule {
	char id[CATALOG_ID_SIZE]; /* "rule-..." */
	char policy_id[CATALOG_ID_SIZE];
	char repository_id[CATALOG_ID_SIZE]; /* where to; never the policy's own */
	enum catalog_copy_mode copy_mode;
	bool enabled;
	int priority; /* >= 1; 1 goes first */
	bool verify_after_copy;
	int64_t created_at_us;
	int64_t updated_at_us;
};

/* Read from @row: all but the times and counts; id when given, else one is made. Read from @rules:
 * all but id, policy_id and times. Both are written back. CATALOG_E_EXISTS (name);
 * CATALOG_E_INVALID: no such repository, two rules to one, one to the policy's own, a negative
 * number. */
int catalog_policy_create(struct catalog *cat, struct catalog_policy *row,
			  struct catalog_copy_rule *rules, size_t n, struct err *err);

/* Replaces what create reads of the row with this id; @rules NULL keeps the stored rules, a rule to
 * the same repository keeps its id. CATALOG_E_NOT_FOUND, and as above. */
int catalog_policy_update(struct catalog *cat, struct catalog_policy *row,
			  struct catalog_copy_rule *rules, size_t n, struct err *err);

/* CATALOG_E_NOT_FOUND. */
int catalog_policy_get(struct catalog *cat, const char *id, struct catalog_policy *out,
		       struct err *err);
/* Ordered by name. */
int catalog_policies_list(struct catalog *cat, struct catalog_policy **rows, size_t *n,
			  struct err *err);
/* Of a policy, or (NULL) all; by priority. */
int catalog_copy_rules_list(struct catalog *cat, const char *policy_id,
			    struct catalog_copy_rule **rows, size_t *n, struct err *err);

/* CATALOG_E_NOT_FOUND; CATALOG_E_IN_USE while VMs or schedules have it. Backups made with it stay.
 */
int catalog_policy_delete(struct catalog *cat, const char *id, struct err *err);

#endif
