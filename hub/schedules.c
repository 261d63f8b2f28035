#include "hub/schedules.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "catalog/policies.h"
#include "hub/cron.h"
#include "hub/job.h"

#define SECOND_US      1000000LL
#define CLAIM_SPARE_MS 60000

/* --- when ----------------------------------------------------------------------------------- */

/* The next moment after @after_us; 0: none within the next years. */
static int schedule_next(const struct catalog_schedule *row, int64_t after_us, int64_t *next_us,
			 struct err *err)
{
	_cleanup_(zone_closep) struct zone *zone = NULL;
	struct cron cron;
	int64_t next = 0;
	int rc = cron_parse(&cron, row->cron_expression, err);

	if (!rc)
		rc = zone_open(&zone, row->timezone, err);
	if (rc)
		return rc == -EINVAL ? HUB_E_INVALID : rc;
	*next_us = cron_next(&cron, zone, after_us / SECOND_US, &next) ? next * SECOND_US : 0;
	return 0;
}

static int schedule_settle(struct catalog_schedule *row, struct err *err)
{
	int rc = schedule_next(row, catalog_now_us(), &row->next_run_at_us, err);

	if (!rc && !row->next_run_at_us)
		rc = err_set(err, HUB_E_INVALID,
			     "cron expression \"%s\" names no day of the next ten years",
			     row->cron_expression);
	if (!row->enabled)
		row->next_run_at_us = 0;
	return rc;
}

int hub_schedule_create(struct hub *hub, struct catalog_schedule *row, struct err *err)
{
	int rc = schedule_settle(row, err);

	return rc ? rc : hub_from_catalog(catalog_schedule_create(hub->catalog, row, err));
}

int hub_schedule_update(struct hub *hub, struct catalog_schedule *row, struct err *err)
{
	int rc = schedule_settle(row, err);

	return rc ? rc : hub_from_catalog(catalog_schedule_update(hub->catalog, row, err));
}

int hub_schedule_run_now(struct hub *hub, const char *id, struct err *err)
{
	struct catalog_schedule row;
	int rc = catalog_schedule_get(hub->catalog, id, &row, err);

	if (!rc && !row.enabled)
		return err_set(err, HUB_E_STATE, "schedule \"%s\" is disabled", row.name);
	row.next_run_at_us = catalog_now_us();
	if (!rc)
		rc = catalog_schedule_update(hub->catalog, &row, err);
	return hub_from_catalog(rc);
}

/* --- a run ---------------------------------------------------------------------------------- */

struct run {
	struct hub *hub;
	char me[CATALOG_ID_SIZE];
	struct catalog_schedule row;
	struct catalog_policy policy;
	unsigned started, skipped, failed;
};

/* Long enough for the start of one backup, whatever the agent takes. */
static int64_t claim_until(struct hub *hub)
{
	return catalog_now_us() +
	       (2 * (int64_t)hub_config_now(hub).agent_timeout_ms + CLAIM_SPARE_MS) * 1000;
}

static bool run_stopping(const struct run *run)
{
	return atomic_load(&run->hub->stopping);
}

/* Waits until there is room for one more backup. False: the run is no longer this hub's. */
static bool run_may_go_on(struct run *run)
{
	struct hub *hub = run->hub;
	struct err err = ERR_INIT;

	do {
		if (run_stopping(run))
			return false;
		if (catalog_schedule_renew(hub->catalog, run->row.id, run->me, claim_until(hub),
					   &err)) {
			log_warn(&hub->log, "schedule \"%s\": its run ends here: %s", run->row.name,
				 err.text);
			return false;
		}
		if (hub_running_backups(hub) < hub_config_now(hub).schedule_max_running)
			return true;
	} while (hub_tick(hub, hub_config_now(hub).tick_ms));
	return false;
}

static void run_vm(struct run *run, const char *vm_context_id, const char *vm_name)
{
	struct hub *hub = run->hub;
	const struct hub_start_request req = {
		.vm_context_id = vm_context_id,
		.repository_id = run->policy.primary_repository_id,
		.backup_type = run->row.backup_type,
		.policy_id = run->policy.id,
	};
	struct hub_started started;
	struct err err = ERR_INIT;
	int rc = hub_backup_start(hub, &req, &started, &err);

	free(started.nbd_targets);
	if (!rc) {
		run->started++;
		log_info(&hub->log, "schedule \"%s\": %s of VM \"%s\"", run->row.name,
			 started.backup_id, vm_name);
	} else if (rc == HUB_E_BUSY) {
		run->skipped++;
		log_warn(&hub->log, "schedule \"%s\": VM \"%s\" is left out of this run: %s",
			 run->row.name, vm_name, err.text);
	} else {
		run->failed++;
		log_error(&hub->log, "schedule \"%s\": VM \"%s\": %s", run->row.name, vm_name,
			  err.text);
	}
}

static int run_find_vms(struct run *run, struct catalog_vm_context **rows, size_t *n,
			struct err *err)
{
	const struct catalog_vm_filter of_policy = {.policy_id = run->policy.id};
	int rc;

	if (!run->row.vm_context_id[0])
		return catalog_vm_contexts_list(run->hub->catalog, &of_policy, rows, n, NULL, err);
	*rows = calloc(1, sizeof(**rows));
	if (!*rows)
		return err_sys(err, -ENOMEM, "schedule");
	rc = catalog_vm_context_get(run->hub->catalog, run->row.vm_context_id, *rows, err);
	*n = !rc;
	return rc;
}

/* False: it could not be run to its end, and is not over. */
static bool run_all(struct run *run)
{
	_cleanup_(freep) struct catalog_vm_context *vms = NULL;
	struct hub *hub = run->hub;
	struct err err = ERR_INIT;
	size_t n = 0;
	int rc = catalog_policy_get(hub->catalog, run->row.policy_id, &run->policy, &err);

	if (!rc)
		rc = run_find_vms(run, &vms, &n, &err);
	if (rc) {
		log_error(&hub->log, "schedule \"%s\": %s", run->row.name, err.text);
		return false;
	}
	for (size_t i = 0; i < n; i++) {
		if (!run_may_go_on(run))
			return false;
		run_vm(run, vms[i].context_id, vms[i].vm_name);
	}
	if (!n)
		log_warn(&hub->log, "schedule \"%s\": no VM has policy \"%s\"", run->row.name,
			 run->policy.name);
	return !run_stopping(run);
}

static void run_end(struct run *run, int64_t began_us)
{
	struct hub *hub = run->hub;
	struct err err = ERR_INIT;
	int64_t next_us = 0;
	int rc = schedule_next(&run->row, MAX(catalog_now_us(), run->row.next_run_at_us), &next_us,
			       &err);

	if (rc) /* no longer understood by this hub's system: never again until it is changed */
		log_error(&hub->log, "schedule \"%s\": %s", run->row.name, err.text);
	if (catalog_schedule_done(hub->catalog, run->row.id, run->me, began_us, next_us, &err))
		log_warn(&hub->log, "schedule \"%s\": %s", run->row.name, err.text);
	else
		log_info(&hub->log, "schedule \"%s\": %u backups started, %u left out, %u failed",
			 run->row.name, run->started, run->skipped, run->failed);
}

/* --- the thread ----------------------------------------------------------------------------- */

static bool run_one_due(struct hub *hub, const char *me)
{
	struct run run = {.hub = hub};
	int64_t began_us = catalog_now_us();

	CATALOG_TEXT(run.me, me);
	if (catalog_schedule_claim(hub->catalog, me, began_us, claim_until(hub), &run.row, NULL))
		return false;
	if (began_us - run.row.next_run_at_us > 60 * SECOND_US)
		log_info(&hub->log, "schedule \"%s\": a run was missed, and is made up for",
			 run.row.name);
	if (run_all(&run))
		run_end(&run, began_us);
	return true;
}

static void *scheduler_main(void *arg)
{
	struct hub *hub = arg;
	char me[CATALOG_ID_SIZE];

	catalog_new_id(me, "hub-");
	do {
		while (!atomic_load(&hub->stopping) && run_one_due(hub, me))
			;
	} while (hub_tick(hub, hub_config_now(hub).tick_ms));
	return NULL;
}

int hub_scheduler_start(struct hub *hub, struct err *err)
{
	int rc = pthread_create(&hub->scheduler, NULL, scheduler_main, hub);

	if (rc)
		return err_sys(err, -rc, "starting the scheduler's thread");
	hub->scheduler_runs = true;
	return 0;
}
