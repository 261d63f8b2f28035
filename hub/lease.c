/*
 * This hub among others on the same catalog (catalog/hubs.h).
 *
 * One thread renews the lease and does nothing else, so that no slow disk keeps it from it. Should
 * the lease be lost all the same (the process was stopped, or cut off from the database, for longer
 * than it lasts), every backup in hand is ended: exports go, files go to the quarantine, and the
 * catalog is not written, because it refuses. Only when the last is gone a new token is fetched.
 *
 * A database that does not answer is no lost lease: while nobody can reach it nobody takes anything
 * over, and backups go on.
 *
 * Another thread looks for hubs that are gone, and ends what they left.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "hub/job.h"

#define LEASE_LOST                                                                                 \
	"this hub was not heard of for longer than its lease: others took its backups over"

/* --- who this is ---------------------------------------------------------------------------- */

static int instance_read(const char *path, char out[CATALOG_ID_SIZE], struct err *err)
{
	_cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
	char text[CATALOG_ID_SIZE + 1];
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (n < 0)
		return errno == ENOENT ? -ENOENT : err_sys(err, -errno, "reading %s", path);
	text[n] = '\0';
	text[strcspn(text, "\n")] = '\0';
	if (!text[0] || strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-") != strlen(text) ||
	    !catalog_text_copy(out, CATALOG_ID_SIZE, text))
		return err_set(err, HUB_E_INVALID,
			       "%s does not hold the id of a data folder: remove it", path);
	return 0;
}

static int instance_write(const char *path, const char *id, struct err *err)
{
	char tmp[CATALOG_PATH_SIZE + 32], text[CATALOG_ID_SIZE + 1];
	int n = snprintf(text, sizeof(text), "%s\n", id), rc = 0;
	int fd;

	snprintf(tmp, sizeof(tmp), "%s.new", path);
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_sys(err, -errno, "writing %s", tmp);
	if (write(fd, text, (size_t)n) != n || fsync(fd))
		rc = errno ? -errno : -EIO;
	close(fd);
	if (!rc && rename(tmp, path))
		rc = -errno;
	return rc ? err_sys(err, rc, "writing %s", path) : 0;
}

/* The data folder's own id, made once. The folder is locked. */
static int lease_instance(struct hub *hub, struct err *err)
{
	char path[CATALOG_PATH_SIZE + 16];
	int rc;

	snprintf(path, sizeof(path), "%s/hub-id", hub->data_dir);
	rc = instance_read(path, hub->self.instance, err);
	if (rc != -ENOENT)
		return rc;
	catalog_new_id(hub->self.instance, "data-");
	return instance_write(path, hub->self.instance, err);
}

static void lease_name(struct hub *hub)
{
	if (!hub->self.name[0] && gethostname(hub->self.name, sizeof(hub->self.name) - 1))
		strcpy(hub->self.name, "hub");
	if (!hub->self.name[0])
		strcpy(hub->self.name, "hub");
}

/* Whose jobs are those of the last run here. */
static int lease_previous(struct hub *hub, struct err *err)
{
	_cleanup_(freep) struct catalog_hub *hubs = NULL;
	size_t n = 0;
	int rc = catalog_hubs_list(hub->catalog, &hubs, &n, err);

	hub->previous_token = CATALOG_NONE;
	for (size_t i = 0; !rc && i < n; i++)
		if (!strcmp(hubs[i].instance, hub->self.instance))
			hub->previous_token = hubs[i].token;
	return rc;
}

int hub_lease_join(struct hub *hub, struct err *err)
{
	int rc = lease_instance(hub, err);

	if (rc)
		return rc;
	lease_name(hub);
	rc = lease_previous(hub, err);
	if (!rc)
		rc = catalog_hub_join(hub->catalog, &hub->self, hub->config.lease_ms, err);
	if (!rc)
		log_info(&hub->log, "hub \"%s\" has token %lld in the catalog", hub->self.name,
			 (long long)hub->self.token);
	return hub_from_catalog(rc);
}

void hub_lease_leave(struct hub *hub)
{
	struct err err = ERR_INIT;

	if (hub->catalog && hub->self.token && catalog_hub_leave(hub->catalog, &err))
		log_warn(&hub->log, "leaving the catalog: %s", err.text);
}

/* --- staying -------------------------------------------------------------------------------- */

/* True when no backup is left. */
static bool lease_let_go(struct hub *hub)
{
	size_t n;
	struct hub_job **jobs = hub_jobs_snapshot(hub, &n);

	for (size_t i = 0; i < n; i++) {
		pthread_mutex_lock(&jobs[i]->work);
		hub_job_fail(hub, jobs[i], CATALOG_JOB_FAILED, LEASE_LOST);
		hub_job_fail_retry(hub, jobs[i]);
		pthread_mutex_unlock(&jobs[i]->work);
		hub_job_unref(hub, jobs[i]);
	}
	free(jobs);
	return hub_running_backups(hub) == 0;
}

static void lease_lost(struct hub *hub, unsigned period_ms)
{
	struct err err = ERR_INIT;

	log_error(&hub->log, "%s; what it has in hand is given up", LEASE_LOST);
	do {
		if (lease_let_go(hub) && !hub_lease_join(hub, &err))
			return;
	} while (hub_tick(hub, MIN(period_ms, 1000U)));
}

static void *lease_main(void *arg)
{
	struct hub *hub = arg;
	const unsigned period_ms = MAX(hub->config.lease_ms / 3, 1U);
	bool told = false;

	while (hub_tick(hub, period_ms)) {
		struct err err = ERR_INIT;
		int rc = catalog_hub_renew(hub->catalog, hub->config.lease_ms, &err);

		if (rc == CATALOG_E_FENCED)
			lease_lost(hub, period_ms);
		else if (rc && !told)
			log_warn(&hub->log, "the lease cannot be renewed: %s", err.text);
		told = rc && rc != CATALOG_E_FENCED;
	}
	return NULL;
}

static void *takeover_main(void *arg)
{
	struct hub *hub = arg;
	const unsigned period_ms = MAX(hub->config.lease_ms / 3, 1U);
	bool told = false;

	while (hub_tick(hub, period_ms)) {
		struct err err = ERR_INIT;
		/* Fenced: the other thread deals with it. */
		int rc = hub_take_over(hub, &err);

		if (rc < 0 && !told)
			log_warn(&hub->log, "looking for hubs that are gone: %s", err.text);
		told = rc < 0;
	}
	return NULL;
}

int hub_lease_start(struct hub *hub, struct err *err)
{
	int rc = pthread_create(&hub->lease, NULL, lease_main, hub);

	hub->lease_runs = !rc;
	return rc ? err_sys(err, -rc, "starting the thread of the lease") : 0;
}

int hub_takeover_start(struct hub *hub, struct err *err)
{
	int rc = pthread_create(&hub->takeover, NULL, takeover_main, hub);

	hub->takeover_runs = !rc;
	return rc ? err_sys(err, -rc, "starting the thread that looks for hubs that are gone") : 0;
}
