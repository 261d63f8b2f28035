/*
 * Cancelling a backup. It takes its turn like any step of the job's life (job->work), so of a
 * cancel and a `complete` that meet one wins, and whoever comes second is told how the job ended. A
 * start that waits for its agent is not waited for: the flag ends its call.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "hub/job.h"

void hub_job_cancel(struct hub *hub, struct hub_job *job)
{
	char reason[CATALOG_ERROR_SIZE];

	pthread_mutex_lock(&job->face);
	snprintf(reason, sizeof(reason), "cancelled on request%s%s",
		 job->cancel_reason[0] ? ": " : "", job->cancel_reason);
	pthread_mutex_unlock(&job->face);
	hub_job_fail(hub, job, CATALOG_JOB_CANCELLED, reason);
}

/* What the catalog says of a job that does not run here. */
static int cancel_from_catalog(struct hub *hub, const char *job_id, bool *already, struct err *err)
{
	struct catalog_backup row;
	int rc = catalog_backup_get(hub->catalog, job_id, &row, err);

	if (rc)
		return hub_from_catalog(rc);
	switch (row.status) {
	case CATALOG_JOB_CANCELLED:
		*already = true;
		return 0;
	case CATALOG_JOB_COMPLETED:
		return err_set(err, HUB_E_STATE,
			       "backup %s is completed and cannot be cancelled any more", job_id);
	case CATALOG_JOB_FAILED:
		return err_set(err, HUB_E_STATE, "backup %s has failed before: %s", job_id,
			       row.error_message);
	default:
		return err_set(err, HUB_E_STATE,
			       "backup %s does not run on this hub: cancel it where it runs",
			       job_id);
	}
}

/* `work` held. True: the job has ended by this call. */
static bool cancel_running(struct hub *hub, struct hub_job *job,
			   const struct hub_cancel_request *req)
{
	if (job->state != HUB_JOB_RUNNING)
		return false;
	job->cancel_keep =
		req->keep_partial ? *req->keep_partial : hub_config_now(hub).cancel_keeps_partial;
	hub_job_cancel(hub, job);
	return true;
}

/* With the reason noted, whoever has `work` may end the job by it. */
static void cancel_ask(struct hub_job *job, const struct hub_cancel_request *req)
{
	pthread_mutex_lock(&job->face);
	if (!atomic_load(&job->cancel_asked))
		snprintf(job->cancel_reason, sizeof(job->cancel_reason), "%s",
			 req->reason ? req->reason : "");
	pthread_mutex_unlock(&job->face);
	atomic_store(&job->cancel_asked, true);
}

int hub_backup_cancel(struct hub *hub, const char *job_id, const struct hub_cancel_request *req,
		      bool *already, struct err *err)
{
	struct hub_job *job = hub_job_find(hub, job_id);
	bool ours, untold;

	*already = false;
	if (!job)
		return cancel_from_catalog(hub, job_id, already, err);
	cancel_ask(job, req);
	pthread_mutex_lock(&job->work);
	ours = cancel_running(hub, job, req);
	untold = job->state == HUB_JOB_FAILING;
	pthread_mutex_unlock(&job->work);
	hub_job_unref(hub, job);
	if (untold)
		return err_set(
			err, -EBUSY,
			"backup %s is stopped, but the catalog cannot record it yet: it will "
			"be told as soon as it answers",
			job_id);
	return ours ? 0 : cancel_from_catalog(hub, job_id, already, err);
}
