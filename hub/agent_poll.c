/*
 * Asking the agent how it sees its jobs. An agent that says "failed" there saves the timeouts, and
 * its words go onto the job. An agent without such words, or out of reach, changes nothing: the
 * watch-dog's rules do not depend on this thread, which is its own because an agent may take its
 * time to answer.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hub/job.h"

/* "error" as text or as {"message"}, or "error_message". */
static const char *poll_error_text(const json_t *answer)
{
	const json_t *error = json_object_get(answer, "error");

	if (json_is_object(error) && hub_json_text(error, "message")[0])
		return hub_json_text(error, "message");
	if (hub_json_text(answer, "error")[0])
		return hub_json_text(answer, "error");
	return hub_json_text(answer, "error_message");
}

static void poll_note(struct hub_job *job, const char *text)
{
	pthread_mutex_lock(&job->face);
	snprintf(job->agent_error, sizeof(job->agent_error), "%s", text);
	pthread_mutex_unlock(&job->face);
}

/* A step under way decides by itself; what the agent said stays noted for it. */
static void poll_fail(struct hub *hub, struct hub_job *job, const char *text)
{
	char reason[CATALOG_ERROR_SIZE];

	if (pthread_mutex_trylock(&job->work))
		return;
	if (job->state == HUB_JOB_RUNNING) {
		snprintf(reason, sizeof(reason), "the agent reports: %.400s",
			 text[0] ? text : "failed, without a reason");
		hub_job_fail(hub, job, CATALOG_JOB_FAILED, reason);
	}
	pthread_mutex_unlock(&job->work);
}

static void poll_job(struct hub *hub, struct hub_job *job)
{
	char id[CATALOG_ID_SIZE];
	json_t *answer = NULL;
	bool running;

	pthread_mutex_lock(&job->face);
	running = job->state == HUB_JOB_RUNNING;
	strcpy(id, job->row.id);
	pthread_mutex_unlock(&job->face);
	if (!running || hub_agent_progress(hub->agent, id, &answer, NULL))
		return;
	poll_note(job, poll_error_text(answer));
	if (!strcmp(hub_json_text(answer, "status"), "failed"))
		poll_fail(hub, job, poll_error_text(answer));
	json_decref(answer);
}

static void *poller_main(void *arg)
{
	struct hub *hub = arg;

	while (hub_tick(hub, hub_config_now(hub).progress_poll_ms)) {
		size_t n;
		struct hub_job **jobs = hub_jobs_snapshot(hub, &n);

		for (size_t i = 0; i < n; i++) {
			if (!atomic_load(&hub->stopping))
				poll_job(hub, jobs[i]);
			hub_job_unref(hub, jobs[i]);
		}
		free(jobs);
	}
	return NULL;
}

int hub_poller_start(struct hub *hub, struct err *err)
{
	int rc = pthread_create(&hub->poller, NULL, poller_main, hub);

	if (rc)
		return err_sys(err, -rc, "starting the agent's poll thread");
	hub->poller_runs = true;
	return 0;
}
