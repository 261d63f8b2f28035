#include "hub/hub.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/bytes.h"
#include "catalog/idempotency.h"
#include "catalog/legacy.h"
#include "hub/access.h"
#include "hub/audit.h"
#include "hub/credentials.h"
#include "hub/job.h"
#include "hub/tunnel.h"

/* --- configuration -------------------------------------------------------------------------- */

static int hub_take_config(struct hub *hub, const struct hub_config *config, struct err *err)
{
	const char *dir = config->data_dir ? config->data_dir : "";
	size_t n = strlen(dir);

	if (!n || n > sizeof(hub->data_dir) - 64)
		return err_set(err, HUB_E_INVALID, "data folder \"%s\" is empty or too long", dir);
	if (!config->nbd_listen_count || config->nbd_listen_count > HUB_LISTENERS_MAX)
		return err_set(err, HUB_E_INVALID, "between 1 and %d NBD addresses are needed",
			       HUB_LISTENERS_MAX);
	if (!CATALOG_TEXT(hub->vcenter_user, config->vcenter_user) ||
	    !CATALOG_TEXT(hub->vcenter_password, config->vcenter_password))
		return err_set(err, HUB_E_INVALID, "vcenter_user or vcenter_password is too long");
	if (!CATALOG_TEXT(hub->files_worker, config->files_worker))
		return err_set(err, HUB_E_INVALID, "files_worker is too long");
	if (!CATALOG_TEXT(hub->self.name, config->name))
		return err_set(err, HUB_E_INVALID, "the hub's name is too long");
	hub->config = *config;
	/* Texts of the caller's that are not kept. */
	hub->config.db_url = hub->config.agent_url = hub->config.credentials_key = NULL;
	hub->config.tunnel_keys = hub->config.tunnel_user = hub->config.tunnel_host_key = NULL;
	hub->config.files_worker = NULL;
	hub->config.nbd_listen = NULL;
	hub->config.nbd_listen_tls = NULL;
	hub->config.nbd_tls = (struct nbd_tls_config){0};
	hub->config.name = hub->self.name;
	/* Absolute, so that what is stored means the same from everywhere. */
	if (dir[0] != '/') {
		if (!getcwd(hub->data_dir, sizeof(hub->data_dir) - 64) ||
		    strlen(hub->data_dir) + n + 2 > sizeof(hub->data_dir) - 64)
			return err_set(err, HUB_E_INVALID, "data folder \"%s\": path too long",
				       dir);
		strcat(strcat(hub->data_dir, "/"), dir);
	} else
		strcpy(hub->data_dir, dir);
	hub->config.data_dir = hub->data_dir;
	hub->config.vcenter_user = hub->vcenter_user;
	hub->config.vcenter_password = hub->vcenter_password;
	return 0;
}

/* --- steps of the start, each with its undoing in hub_free() -----------------------------------
 */

/* Machine and data folder: the lock in there keeps a second hub out. */
static int hub_make_identity(struct hub *hub, struct err *err)
{
	char host[256] = "";
	struct sha256 h;

	gethostname(host, sizeof(host) - 1);
	if (!sha256_begin(&h))
		return err_sys(err, -ENOMEM, "hub's identity");
	sha256_add(&h, host, strlen(host) + 1);
	sha256_add(&h, hub->data_dir, strlen(hub->data_dir));
	return sha256_end(&h, hub->identity) ? 0 : err_sys(err, -EIO, "hub's identity");
}

/* Calls of the API that the last run did not end: their keys are free again. */
static int hub_forget_calls(struct hub *hub, struct err *err)
{
	int rc = hub_make_identity(hub, err);

	return rc ? rc : hub_from_catalog(catalog_idem_recover(hub->catalog, hub->identity, err));
}

static int hub_lock_data(struct hub *hub, struct err *err)
{
	char path[CATALOG_PATH_SIZE];
	int rc = repo_dir_make(hub->data_dir, err);

	if (rc)
		return rc;
	snprintf(path, sizeof(path), "%.*s/hub.lock", (int)sizeof(path) - 16, hub->data_dir);
	hub->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (hub->lock_fd < 0)
		return err_sys(err, -errno, "lock file %s", path);
	if (flock(hub->lock_fd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	if (errno != EWOULDBLOCK)
		return err_sys(err, -errno, "locking %s", path);
	return err_set(err, HUB_E_EXISTS, "another hub runs on data folder %s", hub->data_dir);
}

#define CATALOG_URL_SIZE (CATALOG_PATH_SIZE + 32)

/* @configured, or that of our own database, in @own. */
static const char *hub_catalog_url(const struct hub *hub, const char *configured,
				   char own[CATALOG_URL_SIZE])
{
	snprintf(own, CATALOG_URL_SIZE, "sqlite:%s/catalog.db", hub->data_dir);
	return configured && configured[0] ? configured : own;
}

static int hub_open_catalog(struct hub *hub, const char *db_url, struct err *err)
{
	const struct catalog_options opt = {.copy_dir = hub->data_dir};
	char own[CATALOG_URL_SIZE];

	return hub_from_catalog(
		catalog_open(hub_catalog_url(hub, db_url, own), &opt, &hub->catalog, err));
}

static int hub_open_secrets(struct hub *hub, const char *key_file, struct err *err)
{
	char own[CATALOG_PATH_SIZE + 32];

	snprintf(own, sizeof(own), "%s/credentials.key", hub->data_dir);
	hub->secrets = secrets_new(key_file && key_file[0] ? key_file : own);
	return hub->secrets ? 0 : err_sys(err, -ENOMEM, "hub");
}

static int hub_make_agent(struct hub *hub, const char *url, struct err *err)
{
	struct hub_agent_config config = {
		.url = url,
		.timeout_ms = hub->config.agent_timeout_ms,
		.discovery_timeout_ms = hub->config.discovery_timeout_ms,
		.stop = &hub->stopping,
	};

	return hub_agent_new(&hub->agent, &config, err);
}

/* What the @i-th listener of @config is to do. */
static struct nbd_listen_config hub_listener_config(const struct hub_config *config, size_t i)
{
	struct nbd_listen_config listener = {.tls = config->nbd_tls};

	listener.tls.policy = config->nbd_listen_tls ? config->nbd_listen_tls[i] : NBD_TLS_OFF;
	return listener;
}

static int hub_listen_one(struct hub *hub, const struct hub_config *config, size_t i,
			  struct err *err)
{
	const struct nbd_listen_config listener = hub_listener_config(config, i);
	struct hub_listener *l = &hub->listeners[i];
	int rc;

	if (!CATALOG_TEXT(l->given, config->nbd_listen[i]))
		return err_set(err, HUB_E_INVALID, "an NBD address is too long");
	l->tls = listener.tls.policy;
	rc = nbd_server_listen(hub->nbd, l->given, &listener, l->bound, sizeof(l->bound), err);
	if (!rc)
		hub->listener_count++;
	return rc > 0 ? -EIO : rc;
}

static int hub_listen(struct hub *hub, const struct hub_config *config, struct err *err)
{
	size_t used = 0;
	int rc = 0;

	for (size_t i = 0; !rc && i < config->nbd_listen_count; i++) {
		rc = hub_listen_one(hub, config, i, err);
		if (rc)
			return rc;
		used += (size_t)snprintf(hub->nbd_addresses + used,
					 sizeof(hub->nbd_addresses) - used, "%s%s", i ? "," : "",
					 hub->listeners[i].bound);
		if (used >= sizeof(hub->nbd_addresses))
			return err_set(err, HUB_E_INVALID, "the NBD addresses are too long");
	}
	hub_choose_advertised(hub);
	return rc;
}

static int hub_start_nbd(struct hub *hub, const struct hub_config *config, struct err *err)
{
	int rc = nbd_server_start(&hub->nbd, &config->nbd, err);

	if (rc)
		return rc < 0 ? rc : -EIO;
	return hub_listen(hub, config, err);
}

/* --- life ----------------------------------------------------------------------------------- */

static struct hub *hub_new(void)
{
	struct hub *hub = calloc(1, sizeof(*hub));
	pthread_condattr_t attr;

	if (!hub)
		return NULL;
	hub->lock_fd = -1;
	hub->started_ns = hub_now_ns();
	hub->looks = hub_looks_new();
	if (!hub->looks) {
		free(hub);
		return NULL;
	}
	list_init(&hub->jobs);
	log_scope_init(&hub->log, "hub");
	pthread_mutex_init(&hub->lock, NULL);
	pthread_mutex_init(&hub->tick_lock, NULL);
	pthread_mutex_init(&hub->deleting, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&hub->tick_cond, &attr);
	pthread_condattr_destroy(&attr);
	return hub;
}

static void hub_free(struct hub *hub)
{
	hub_threads_stop(hub);
	hub_restores_free(hub);
	nbd_server_stop(hub->nbd);
	hub_agent_free(hub->agent);
	hub_tunnel_free(hub);
	hub_access_stop(hub);
	hub_audit_stop(hub);
	secrets_free(hub->secrets);
	hub_looks_free(hub->looks);
	hub_lease_leave(hub);
	catalog_close(hub->catalog);
	free(hub->taken);
	if (hub->lock_fd >= 0)
		close(hub->lock_fd);
	pthread_mutex_destroy(&hub->lock);
	pthread_mutex_destroy(&hub->tick_lock);
	pthread_mutex_destroy(&hub->deleting);
	pthread_cond_destroy(&hub->tick_cond);
	explicit_bzero(hub->vcenter_password, sizeof(hub->vcenter_password));
	free(hub);
}

static int hub_start_steps(struct hub *hub, const struct hub_config *config, struct err *err)
{
	int rc = hub_take_config(hub, config, err);

	if (!rc)
		rc = hub_tunnel_init(hub, config, err);
	if (!rc)
		rc = hub_lock_data(hub, err);
	if (!rc)
		rc = hub_open_catalog(hub, config->db_url, err);
	if (!rc)
		rc = hub_audit_start(hub, err);
	if (!rc)
		rc = hub_access_start(hub, config->new_admin_token, err);
	if (!rc)
		rc = hub_open_secrets(hub, config->credentials_key, err);
	if (!rc)
		rc = hub_make_agent(hub, config->agent_url, err);
	if (!rc)
		rc = hub_lease_join(hub, err);
	if (!rc)
		rc = hub_lease_start(hub, err);
	if (!rc)
		rc = hub_recover(hub, err);
	if (!rc)
		rc = hub_forget_calls(hub, err);
	if (!rc)
		hub_credentials_settle(hub);
	if (!rc)
		rc = hub_start_nbd(hub, config, err);
	if (!rc)
		rc = hub_takeover_start(hub, err);
	if (!rc)
		rc = hub_deleter_start(hub, err);
	if (!rc)
		rc = hub_watchdog_start(hub, err);
	if (!rc)
		rc = hub_poller_start(hub, err);
	if (!rc)
		rc = hub_scheduler_start(hub, err);
	if (!rc)
		rc = hub_copies_start(hub, err);
	if (!rc)
		rc = hub_restores_start(hub, err);
	return rc;
}

int hub_start(struct hub **out, const struct hub_config *config, struct err *err)
{
	struct hub *hub = hub_new();
	int rc;

	if (!hub)
		return err_sys(err, -ENOMEM, "hub");
	curl_global_init(CURL_GLOBAL_DEFAULT);
	rc = hub_start_steps(hub, config, err);
	if (rc) {
		hub_free(hub);
		return rc;
	}
	*out = hub;
	return 0;
}

struct hub_config hub_config_now(struct hub *hub)
{
	struct hub_config now;

	pthread_mutex_lock(&hub->lock);
	now = hub->config;
	pthread_mutex_unlock(&hub->lock);
	return now;
}

/* --- settings, and settings again ----------------------------------------------------------- */

struct hub_change {
	struct hub_config config; /* numbers alone; its texts are not ours */
	char *agent_url;
	struct nbd_change *nbd;
	int tls[HUB_LISTENERS_MAX]; /* of hub->listeners; -1: stays */
};

void hub_change_free(struct hub_change *change)
{
	if (!change)
		return;
	nbd_change_free(change->nbd);
	free(change->agent_url);
	free(change);
}

DEFINE_CLEANUP(struct hub_change *, hub_change_free)

/* Which of @config's addresses is the @listener-th of the hub: as nbd_server_prepare() finds it,
 * the first of that text for the first, the second for the second. */
static int hub_find_listener(const struct hub *hub, const struct hub_config *config,
			     size_t listener)
{
	const char *given = hub->listeners[listener].given;
	size_t before = 0;

	for (size_t i = 0; i < listener; i++)
		before += !strcmp(hub->listeners[i].given, given);
	for (size_t i = 0; i < config->nbd_listen_count; i++)
		if (!strcmp(config->nbd_listen[i], given) && !before--)
			return (int)i;
	return -1;
}

static int hub_prepare_nbd(struct hub *hub, const struct hub_config *config,
			   struct hub_change *change, struct err *err)
{
	struct nbd_listen_config listeners[HUB_LISTENERS_MAX];
	size_t n = config->nbd_listen_count;
	int rc;

	if (n > HUB_LISTENERS_MAX)
		return err_set(err, HUB_E_INVALID, "more than %d NBD addresses", HUB_LISTENERS_MAX);
	for (size_t i = 0; i < n; i++)
		listeners[i] = hub_listener_config(config, i);
	for (size_t i = 0; i < hub->listener_count; i++) {
		int at = hub_find_listener(hub, config, i);

		change->tls[i] = at < 0 ? -1 : (int)listeners[at].tls.policy;
	}
	rc = nbd_server_prepare(hub->nbd, &config->nbd, config->nbd_listen, listeners, n,
				&change->nbd, err);
	return rc > 0 ? -EIO : rc;
}

int hub_prepare(struct hub *hub, const struct hub_config *config, struct hub_change **out,
		struct err *err)
{
	_cleanup_(hub_change_freep) struct hub_change *change = calloc(1, sizeof(*change));
	int rc = hub_agent_check_url(config->agent_url, err);

	if (rc)
		return rc;
	if (change)
		change->agent_url = strdup(config->agent_url);
	if (!change || !change->agent_url)
		return err_sys(err, -ENOMEM, "the hub's settings");
	change->config = *config;
	rc = hub_prepare_nbd(hub, config, change, err);
	if (!rc)
		*out = steal(&change);
	return rc;
}

/* `lock` held. */
static void hub_apply_policies(struct hub *hub, const struct hub_change *change)
{
	bool other = false;

	for (size_t i = 0; i < hub->listener_count; i++) {
		if (change->tls[i] < 0 || (int)hub->listeners[i].tls == change->tls[i])
			continue;
		hub->listeners[i].tls = change->tls[i];
		other = true;
	}
	if (other)
		hub_choose_advertised(hub);
}

void hub_apply(struct hub *hub, struct hub_change *change)
{
	const struct hub_config *config = &change->config;
	const struct hub_agent_config agent = {
		.url = change->agent_url,
		.timeout_ms = config->agent_timeout_ms,
		.discovery_timeout_ms = config->discovery_timeout_ms,
	};
	struct hub_config *now = &hub->config;

	hub_agent_reconfigure(hub->agent, &agent, NULL);
	nbd_server_apply(hub->nbd, steal(&change->nbd));
	pthread_mutex_lock(&hub->lock);
	now->agent_timeout_ms = config->agent_timeout_ms;
	now->cancel_keeps_partial = config->cancel_keeps_partial;
	now->start_timeout_ms = config->start_timeout_ms;
	now->disconnect_grace_ms = config->disconnect_grace_ms;
	now->silence_timeout_ms = config->silence_timeout_ms;
	now->stall_warning_ms = config->stall_warning_ms;
	now->schedule_max_running = config->schedule_max_running;
	now->copy_retry_ms = config->copy_retry_ms;
	now->restore_max_mounts = config->restore_max_mounts;
	now->restore_idle_ms = config->restore_idle_ms;
	now->tick_ms = config->tick_ms;
	now->progress_poll_ms = config->progress_poll_ms;
	hub_apply_policies(hub, change);
	pthread_mutex_unlock(&hub->lock);
	hub_tunnel_agent_url(hub, change->agent_url);
	hub_change_free(change);
}

int hub_reconfigure(struct hub *hub, const struct hub_config *config, struct err *err)
{
	struct hub_change *change;
	int rc = hub_prepare(hub, config, &change, err);

	if (!rc)
		hub_apply(hub, change);
	return rc;
}

/* --- what is done to a catalog while no hub runs -------------------------------------------- */

/* A hub that does not start, and whose data folder is locked. */
static int hub_hold(struct hub **out, const struct hub_config *config, struct err *err)
{
	struct hub *hub = hub_new();
	int rc;

	if (!hub)
		return err_sys(err, -ENOMEM, "hub");
	rc = hub_take_config(hub, config, err);
	if (!rc)
		rc = hub_lock_data(hub, err);
	if (rc)
		hub_free(hub);
	else
		*out = hub;
	return rc;
}

int hub_import_legacy(const struct hub_config *config, const char *source,
		      struct catalog_legacy *out, struct err *err)
{
	struct hub *hub;
	int rc = hub_hold(&hub, config, err);

	if (rc)
		return rc;
	rc = hub_open_catalog(hub, config->db_url, err);
	if (!rc)
		rc = hub_from_catalog(catalog_import_legacy(hub->catalog, source, out, err));
	hub_free(hub);
	return rc;
}

int hub_migrate_down(const struct hub_config *config, int64_t version, catalog_tell_fn *tell,
		     void *arg, struct err *err)
{
	char own[CATALOG_URL_SIZE];
	struct hub *hub;
	int rc = hub_hold(&hub, config, err);

	if (rc)
		return rc;
	rc = hub_from_catalog(catalog_downgrade(hub_catalog_url(hub, config->db_url, own),
						hub->data_dir, version, tell, arg, err));
	hub_free(hub);
	return rc;
}

/* --- stop ----------------------------------------------------------------------------------- */

void hub_interrupt(struct hub *hub)
{
	pthread_mutex_lock(&hub->lock);
	atomic_store(&hub->stopping, true);
	pthread_mutex_unlock(&hub->lock);
	nbd_server_shutdown(hub->nbd);
}

static void hub_fail_running(struct hub *hub, const char *reason)
{
	size_t n;
	struct hub_job **jobs = hub_jobs_snapshot(hub, &n);

	for (size_t i = 0; i < n; i++) {
		pthread_mutex_lock(&jobs[i]->work);
		hub_job_fail(hub, jobs[i], CATALOG_JOB_FAILED, reason);
		/* One that the catalog would not hear of is found by the next start. */
		hub_job_end(hub, jobs[i]);
		pthread_mutex_unlock(&jobs[i]->work);
		hub_job_unref(hub, jobs[i]);
	}
	free(jobs);
}

void hub_stop(struct hub *hub, const char *reason)
{
	if (!hub)
		return;
	hub_interrupt(hub);
	hub_threads_stop(hub);
	hub_fail_running(hub, reason ? reason : "hub was stopped");
	hub_free(hub);
}

/* --- what it is ----------------------------------------------------------------------------- */

const char *hub_nbd_addresses(const struct hub *hub)
{
	return hub->nbd_addresses;
}

const char *hub_identity(const struct hub *hub)
{
	return hub->identity;
}

struct catalog *hub_catalog(struct hub *hub)
{
	return hub->catalog;
}

bool hub_is_stopping(const struct hub *hub)
{
	return atomic_load(&hub->stopping);
}

bool hub_follower_enter(struct hub *hub)
{
	if (atomic_fetch_add(&hub->followers, 1) < HUB_FOLLOWERS_MAX)
		return true;
	hub_follower_leave(hub);
	return false;
}

void hub_follower_leave(struct hub *hub)
{
	atomic_fetch_sub(&hub->followers, 1);
}

int64_t hub_uptime_s(const struct hub *hub)
{
	return (hub_now_ns() - hub->started_ns) / 1000000000LL;
}

unsigned hub_running_backups(struct hub *hub)
{
	struct list *pos;
	unsigned n = 0;

	pthread_mutex_lock(&hub->lock);
	list_for_each (pos, &hub->jobs)
		n++;
	pthread_mutex_unlock(&hub->lock);
	return n;
}
