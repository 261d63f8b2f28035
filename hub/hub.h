/*
 * The hub: catalog, NBD server, repositories and capture agent tied into one handle. What the
 * product does with them (the use cases) is in the headers beside this one: discovery.h,
 * repositories.h, backup.h.
 *
 * Start: data folder and its lock, catalog, recovery of what the last run left, NBD server and its
 * listeners, housekeeping. Stop is the reverse; running backups fail with the reason before the
 * server goes.
 *
 * Every function of the use-case headers may be called from any thread between hub_start() and
 * hub_stop(). They may block for as long as their disks do; a long one holds up nothing but other
 * calls for the same backup.
 */
#ifndef HUB_HUB_H
#define HUB_HUB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "catalog/downgrade.h"
#include "nbd/server.h"

struct hub;
struct catalog;

/* Named conditions of all hub functions. Anything else is -errno. */
enum hub_cond {
	HUB_E_INVALID = 1, /* the request makes no sense; the sentence says what to change */
	HUB_E_NOT_FOUND,   /* no such object; the sentence names it */
	HUB_E_BUSY,	   /* the VM is being backed up; the sentence names the running backup */
	HUB_E_EXISTS,	   /* the name is taken */
	HUB_E_STATE,	   /* the object's state forbids it: completing a failed backup, ... */
	HUB_E_AGENT,	   /* the capture agent could not be reached, or refused */
	HUB_E_STOPPING,	   /* the hub is going down */
	HUB_E_LIMIT,	   /* there are as many as may be; the sentence says how many */
	HUB_E_TOKEN,	   /* nobody is let in with that token; the sentence says why */
	HUB_E_OFTEN,	   /* allowed, but not so often */
};

struct hub_config {
	const char *data_dir; /* made when absent; holds the lock and the default database */
	const char *db_url;   /* as for catalog_open(); NULL: catalog.db in data_dir */
	const char *name; /* among several hubs on one database; NULL or "": the machine's name */
	const char *agent_url;	       /* "http://127.0.0.1:9081" */
	bool new_admin_token;	       /* make one although there are users (hub/access.h) */
	const char *const *nbd_listen; /* as for nbd_server_listen(); at least one */
	const enum nbd_tls_policy *nbd_listen_tls; /* of each of them; NULL: all off */
	size_t nbd_listen_count;
	struct nbd_tls_config nbd_tls; /* credentials for those that are not off */
	struct nbd_server_config nbd;  /* its limits */
	/* Given to the agent where no credential is (hub/credentials.h); NULL or "": "local".
	 * Never shown or logged. */
	const char *vcenter_user, *vcenter_password;
	const char *credentials_key; /* file; NULL or "": credentials.key in data_dir */

	/* Of the tunnel of capture appliances (hub/tunnel.h); NULL or "" is the default. */
	const char *tunnel_keys;     /* file; tunnel/authorized_keys in data_dir. "off": none */
	const char *tunnel_user;     /* who logs in; "vma_tunnel" */
	const char *tunnel_host_key; /* sshd's public key; /etc/ssh/ssh_host_ed25519_key.pub */
	unsigned tunnel_port;	     /* sshd's */
	unsigned pairing_code_s;     /* for how long a pairing code is good, if nothing is said */
	unsigned enrollment_s;	     /* within which an enrollment must be decided */
	unsigned session_s;	     /* for how long an appliance is logged in */

	/* The program that reads guests' files (files/files.h); NULL or "": sendense-files, beside
	 * the running one. */
	const char *files_worker;

	bool cancel_keeps_partial; /* what a cancelled backup has written goes to the quarantine */

	unsigned start_timeout_ms;     /* from the agent's yes to the first NBD connection */
	unsigned disconnect_grace_ms;  /* all connections closed, no `complete`, no telemetry */
	unsigned silence_timeout_ms;   /* neither NBD nor telemetry */
	unsigned stall_warning_ms;     /* the same, for a line in the log; 0: none */
	unsigned schedule_max_running; /* a schedule starts no backup while so many run */
	unsigned copy_max_running;     /* copies of backups made at once, by this hub */
	unsigned copy_retry_ms;	       /* pause before a copy is tried again; it grows */
	unsigned restore_max_mounts;   /* disks open for their files at once, by this hub */
	unsigned restore_idle_ms;      /* a mount that nobody uses for so long goes */
	unsigned tick_ms;	       /* how often running backups are looked at */
	unsigned progress_poll_ms;     /* how often the agent is asked for its own view */
	unsigned agent_timeout_ms;     /* one call, discovery excepted */
	unsigned discovery_timeout_ms; /* one discovery */
	unsigned lease_ms; /* after so long without a sign of life others take its jobs over */
};

#define HUB_CONFIG_INIT                                                                            \
	((struct hub_config){                                                                      \
		.agent_url = "http://127.0.0.1:9081",                                              \
		.start_timeout_ms = 15 * 60 * 1000,                                                \
		.disconnect_grace_ms = 60 * 1000,                                                  \
		.silence_timeout_ms = 10 * 60 * 1000,                                              \
		.stall_warning_ms = 60 * 1000,                                                     \
		.schedule_max_running = 4,                                                         \
		.copy_max_running = 1,                                                             \
		.copy_retry_ms = 60 * 1000,                                                        \
		.restore_max_mounts = 8,                                                           \
		.restore_idle_ms = 60 * 60 * 1000,                                                 \
		.tick_ms = 1000,                                                                   \
		.progress_poll_ms = 3000,                                                          \
		.agent_timeout_ms = 60 * 1000,                                                     \
		.discovery_timeout_ms = 5 * 60 * 1000,                                             \
		.lease_ms = 30 * 1000,                                                             \
		.tunnel_port = 443,                                                                \
		.pairing_code_s = 600,                                                             \
		.enrollment_s = 3600,                                                              \
		.session_s = 24 * 3600,                                                            \
	})

/* The texts of @config are copied. HUB_E_INVALID, HUB_E_EXISTS: another hub holds the data folder.
 */
int hub_start(struct hub **out, const struct hub_config *config, struct err *err);

/* Imports an old database into the catalog of a hub that is not running, and ends
 * (catalog/legacy.h). HUB_E_EXISTS: it runs. */
struct catalog_legacy;
int hub_import_legacy(const struct hub_config *config, const char *source,
		      struct catalog_legacy *out, struct err *err);

/* Takes the catalog of a hub that is not running down to an older schema, and ends
 * (catalog/downgrade.h). HUB_E_EXISTS: it runs. */
int hub_migrate_down(const struct hub_config *config, int64_t version, catalog_tell_fn *tell,
		     void *arg, struct err *err);

/* Calls that wait for the agent return HUB_E_STOPPING from now on, no backup starts and no NBD
 * client comes in: lets the threads of the API come home before hub_stop(). */
void hub_interrupt(struct hub *hub);

/*
 * Takes over from @config what can change while the hub runs: the timeouts, the rhythm, the agent's
 * address, cancel_keeps_partial, schedule_max_running; NBD limits, and certificates, keys and TLS
 * policy of the NBD listeners that are there (nbd/server.h: nbd_server_prepare()). The rest is left
 * alone. In two steps, of which only the first can fail, with nothing changed: HUB_E_INVALID,
 * -errno. The second frees @change.
 */
struct hub_change;
int hub_prepare(struct hub *hub, const struct hub_config *config, struct hub_change **out,
		struct err *err);
void hub_apply(struct hub *hub, struct hub_change *change);
void hub_change_free(struct hub_change *change); /* one that is not applied; accepts NULL */

/* Both at once. */
int hub_reconfigure(struct hub *hub, const struct hub_config *config, struct err *err);

/* No other call may be running. Running backups fail with @reason. NULL is fine. */
void hub_stop(struct hub *hub, const char *reason);

/* The addresses of the NBD listeners as they came out, joined with ','. */
const char *hub_nbd_addresses(const struct hub *hub);

/* For reading lists that need nothing but the catalog. Borrowed. */
struct catalog *hub_catalog(struct hub *hub);

/* The hub's condition for a catalog result; -errno and 0 as they are. */
int hub_from_catalog(int rc);

/* A text that is this hub's in every run of it, and no other's on the same catalog. Borrowed. */
const char *hub_identity(const struct hub *hub);

/* True once hub_interrupt() was called: who waits for something of the hub's may go home. */
bool hub_is_stopping(const struct hub *hub);

/* One more who follows a backup; false: there are HUB_FOLLOWERS_MAX. */
#define HUB_FOLLOWERS_MAX 64
bool hub_follower_enter(struct hub *hub);
void hub_follower_leave(struct hub *hub);

/* Seconds since hub_start(), and backups running now. */
int64_t hub_uptime_s(const struct hub *hub);
unsigned hub_running_backups(struct hub *hub);

#endif
