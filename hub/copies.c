/* Asking for copies, removing them, and the threads that make them (hub/backup_copy.c). */
#include "hub/copies.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "hub/job.h"
#include "hub/repositories.h"

/* --- asking --------------------------------------------------------------------------------- */

int hub_copy_request(struct hub *hub, const char *backup_id, const char *repository_id,
		     const char *repository, bool verify, struct catalog_copy *out, struct err *err)
{
	_cleanup_(repo_closep) struct repo *repo = NULL;
	struct catalog_repository row;
	struct catalog_backup job;
	int rc = hub_from_catalog(catalog_backup_get(hub->catalog, backup_id, &job, err));

	if (!rc)
		rc = hub_repository_resolve(hub, repository_id, repository, &row, err);
	if (rc)
		return rc;
	if (repo_open(&repo, &row, false, err))
		return HUB_E_STATE;
	/* Before anything else is said: a copy that is there, or cannot be, needs no room. */
	*out = (struct catalog_copy){.verify_after_copy = verify};
	CATALOG_TEXT(out->backup_job_id, job.id);
	CATALOG_TEXT(out->repository_id, row.id);
	rc = hub_from_catalog(catalog_copy_check(hub->catalog, out, err));
	if (!rc)
		rc = hub_copy_check_room(hub, job.id, repo, err);
	return rc ? rc : hub_from_catalog(catalog_copy_request(hub->catalog, out, err));
}

/* --- removing ------------------------------------------------------------------------------- */

int hub_copy_remove(struct hub *hub, const char *id, struct err *err)
{
	struct catalog_copy copy;
	bool held = false;
	int rc = hub_from_catalog(catalog_copy_begin_remove(hub->catalog, id, &copy, &held, err));

	return rc || held ? rc : hub_copy_delete(hub, &copy, err);
}

/* --- the threads ---------------------------------------------------------------------------- */

void hub_copies_take_over(struct hub *hub)
{
	_cleanup_(freep) struct catalog_copy *rows = NULL;
	size_t n = 0;

	/* A catalog that is away: the next round looks again. */
	if (catalog_copies_take_over(hub->catalog, &rows, &n, NULL))
		return;
	for (size_t i = 0; i < n; i++)
		hub_copy_clear(hub, &rows[i]);
}

static bool copies_one(struct hub *hub)
{
	struct catalog_copy copy;

	hub_copies_take_over(hub);
	if (catalog_copy_claim(hub->catalog, &copy, NULL))
		return false;
	hub_copy_run(hub, &copy);
	return true;
}

static void *copies_main(void *arg)
{
	struct hub *hub = arg;

	do {
		while (!hub_is_stopping(hub) && copies_one(hub))
			;
	} while (hub_tick(hub, hub_config_now(hub).tick_ms));
	return NULL;
}

int hub_copies_start(struct hub *hub, struct err *err)
{
	while (hub->copier_count < MIN(hub->config.copy_max_running, (unsigned)HUB_COPIERS_MAX)) {
		int rc = pthread_create(&hub->copiers[hub->copier_count], NULL, copies_main, hub);

		if (rc)
			return err_sys(err, -rc, "starting a thread that copies backups");
		hub->copier_count++;
	}
	return 0;
}

void hub_copies_stop(struct hub *hub)
{
	while (hub->copier_count)
		pthread_join(hub->copiers[--hub->copier_count], NULL);
}
