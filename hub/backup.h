/*
 * Backups: start, what the agent asks and says meanwhile, complete, and how it stands.
 *
 * A backup is one job for all disks of a VM, from one snapshot. Start decides for each disk whether
 * it is copied in full or as an overlay of its latest point, makes the images, exports them over
 * NBD and calls the agent. The agent then copies disk after disk and posts `complete` for each: the
 * commit point. Whatever else happens is a failure, and the hub's own to notice (hub/watchdog.c).
 *
 * Rules of the agent contract live here: one running backup per VM name, answers to change id
 * questions that are fixed when the backup starts, `complete` idempotent and valid at any later
 * time, nothing matched by time.
 */
#ifndef HUB_BACKUP_H
#define HUB_BACKUP_H

#include "catalog/backups.h"
#include "catalog/repositories.h"
#include "hub/hub.h"

/* The agent contract's sentence for a VM without disk rows (mission M6); exact. */
#define HUB_NO_DISKS_TEXT "VM disk information not available - run discovery first"

struct hub_start_request {
	const char *vm_name;	   /* or */
	const char *vm_context_id; /* which also tells two VMs of one name apart */
	const char *repository_id; /* or */
	const char *repository;	   /* by name, or by type if unique */
	enum catalog_backup_type backup_type;
	const char *policy_id;	 /* may be NULL; its repository, when none is named */
	const char *compression; /* as qcow2_parse_compression(); NULL or empty: the repository's */
	const char *tags;	 /* JSON text; may be NULL */
	int64_t credential_id;	 /* <= 0: the VM's, else as hub_login_choose() */
};

struct hub_started {
	char backup_id[CATALOG_ID_SIZE]; /* also set with HUB_E_BUSY: the running one */
	int nbd_port;			 /* 0: a unix socket */
	char *nbd_targets;		 /* as the agent got them; the caller free()s */
};

/*
 * Returns when the agent has accepted the job. On failure everything made for it is undone and, if
 * a job row existed by then, the reason is on it. HUB_E_INVALID (HUB_NO_DISKS_TEXT among others),
 * HUB_E_NOT_FOUND, HUB_E_BUSY, HUB_E_AGENT, HUB_E_STOPPING, -errno.
 */
int hub_backup_start(struct hub *hub, const struct hub_start_request *req, struct hub_started *out,
		     struct err *err);

/*
 * What to answer the agent's "since when?" for @disk_index of a VM, by name (the last part of its
 * inventory path). Empty: copy in full. *@job_id is the running backup, or empty. Always 0 unless
 * the catalog fails.
 */
struct hub_change_id {
	char change_id[CATALOG_CHANGE_ID_SIZE];
	char job_id[CATALOG_ID_SIZE];
	int disk_index; /* whose change id it is: another than asked for in deciding calls */
};

int hub_backup_change_id(struct hub *hub, const char *vm_name, int disk_index,
			 struct hub_change_id *out, struct err *err);

/*
 * Commits one disk; returns when the point is durable and in the catalog. @disk_index CATALOG_NONE:
 * the VM's only disk (HUB_E_INVALID if it has several). Repeating it with the same change id
 * succeeds. HUB_E_INVALID, HUB_E_NOT_FOUND (naming job and disk), HUB_E_STATE (failed, or completed
 * with another change id), -errno: the backup has failed now.
 */
int hub_backup_complete(struct hub *hub, const char *job_id, int disk_index, const char *change_id,
			struct catalog_completed *out, struct err *err);

struct hub_cancel_request {
	const char *reason;	  /* goes onto the job; NULL or empty: none given */
	const bool *keep_partial; /* NULL: as the hub is configured */
};

/*
 * Stops a backup: its connections are cut, writes under way fail, disks that are not committed
 * fail, the job is `cancelled`. What was half written is deleted, or kept in the quarantine. The
 * capture agent has no call to be told by; it learns from its writes.
 *
 * Returns when the catalog has it. A commit under way is waited for: when it was the last disk's,
 * the backup is completed, and cancelling it HUB_E_STATE. Cancelling a cancelled backup succeeds
 * with *@already. HUB_E_NOT_FOUND; HUB_E_STATE: it ended otherwise, the sentence says how; -EBUSY:
 * stopped, but the catalog could not be told yet.
 */
int hub_backup_cancel(struct hub *hub, const char *job_id, const struct hub_cancel_request *req,
		      bool *already, struct err *err);

/* Telemetry: a sign of life and numbers for people. States never change by it. */
struct hub_telemetry {
	char current_phase[CATALOG_ID_SIZE];
	int64_t total_bytes; /* of the disk the agent is at; 0: unknown */
};

/* HUB_E_NOT_FOUND: no such backup. One that ended accepts and ignores it. */
int hub_backup_telemetry(struct hub *hub, const char *job_id, const struct hub_telemetry *t,
			 struct err *err);

/* A disk as it stands. While it is being copied `row.bytes` is live. */
struct hub_disk_view {
	struct catalog_backup_disk row;
	char label[CATALOG_NAME_SIZE]; /* from the inventory; may be empty */
	int64_t bytes_total;	       /* what is expected to arrive; 0: unknown (an incremental) */
	double percent;
	int64_t speed_bps;    /* bytes per second, smoothed; 0 when it is not copied */
	int64_t eta_seconds;  /* CATALOG_NONE: unknown */
	unsigned connections; /* of NBD, now */
};

struct hub_backup_view {
	struct catalog_backup job; /* bytes_transferred is live while it runs */
	int64_t bytes_total;	   /* sum over the disks where known */
	double percent;
	int64_t speed_bps;	     /* bytes per second, smoothed; 0 when it does not run */
	int64_t eta_seconds;	     /* CATALOG_NONE: unknown */
	struct hub_disk_view *disks; /* hardware order; NULL in lists */
	size_t disk_count;
};

void hub_backup_view_deinit(struct hub_backup_view *view); /* accepts a zeroed one */

/* HUB_E_NOT_FOUND. */
int hub_backup_get(struct hub *hub, const char *job_id, struct hub_backup_view *out,
		   struct err *err);

/* Newest first; views without disks. The caller free()s *@rows. */
int hub_backups_list(struct hub *hub, const struct catalog_backup_filter *filter,
		     struct hub_backup_view **rows, size_t *n, int64_t *total, struct err *err);

#endif
