/*
 * The second half of a deletion: files, then the journal's entry. Every step may be the last one of
 * this run, and every step may be done again:
 *
 *   claim -> each image with what lies beside it, its folder synced -> files_gone
 *         -> empty folders -> done
 *
 * A folder is looked for only once files_gone is in the catalog: until then its absence means that
 * the repository is away, afterwards that another deletion has taken it.
 */
#include "hub/backup_delete.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "hub/job.h"

/* A call works off so many entries itself; the rest of a VM with years of backups is the thread's.
 */
#define DELETE_AT_ONCE 32
/* It waits so long for its turn. */
#define DELETE_WAIT_MS 2000
#define DELETE_LOOK_MS 10

/* --- one entry ------------------------------------------------------------------------------ */

/* Goes on after one that cannot be removed: the space of the others is wanted. The first error
 * counts. */
static int delete_files(struct repo *repo, const struct catalog_deletion_file *files, size_t n,
			struct err *err)
{
	int rc = 0;

	for (size_t i = 0; i < n; i++) {
		struct err why = ERR_INIT;
		int r = files[i].committed
				? repo->ops->remove_point(repo, files[i].qcow2_path, &why)
				: 0;

		if (r && !rc) {
			rc = r;
			*err = why;
		}
	}
	return rc;
}

/* While an entry is not known to have no files, its folder is what tells that the repository is
 * there: it is left to that one. */
static int delete_folders(struct hub *hub, struct repo *repo, const struct catalog_deletion *row,
			  const struct catalog_deletion_file *files, size_t n, struct err *why)
{
	bool others = false;
	int rc = catalog_deletion_has_others(hub->catalog, row, &others, why);

	if (rc || others)
		return rc;
	for (size_t i = 0; i < n; i++) {
		struct err err = ERR_INIT;

		if (repo->ops->remove_folders(repo, files[i].qcow2_path, &err))
			log_warn(&hub->log, "%s", err.text);
	}
	return 0;
}

static int delete_steps(struct hub *hub, const struct catalog_deletion *row, struct err *err)
{
	_cleanup_(freep) struct catalog_deletion_file *files = NULL;
	_cleanup_(repo_closep) struct repo *repo = NULL;
	struct catalog_repository where;
	size_t n = 0;
	int rc = catalog_repository_get(hub->catalog, row->repository_id, &where, err);

	if (!rc)
		rc = catalog_deletion_files(hub->catalog, row->id, &files, &n, err);
	if (!rc)
		rc = repo_open(&repo, &where, false, err);
	if (!rc && !row->files_gone) {
		rc = delete_files(repo, files, n, err);
		if (!rc)
			rc = catalog_deletion_files_gone(hub->catalog, row->id, err);
	}
	if (rc)
		return rc;
	rc = delete_folders(hub, repo, row, files, n, err);
	return rc ? rc : catalog_deletion_done(hub->catalog, row->id, err);
}

/* It is told once, and again when the reason is another. */
static void delete_failed(struct hub *hub, const struct catalog_deletion *row,
			  const struct err *why)
{
	struct err err = ERR_INIT;

	if (strcmp(row->error_message, why->text))
		log_error(&hub->log, "files of the deleted backup %s of VM \"%s\" remain: %s",
			  row->backup_id, row->vm_name, why->text);
	if (catalog_deletion_failed(hub->catalog, row->id, why->text, HUB_DELETE_RETRY_MS, &err))
		log_warn(&hub->log, "%s", err.text);
}

/* With hub->deleting held. 0: its files are gone. CATALOG_E_BUSY, CATALOG_E_NOT_FOUND: it is
 * another hub's; somebody has done it. Else why not, and the journal has it. */
static int delete_one(struct hub *hub, const char *backup_id, struct err *err)
{
	struct catalog_deletion row;
	int rc = catalog_deletion_claim(hub->catalog, backup_id, HUB_DELETE_RETRY_MS, &row, err);

	if (rc)
		return rc;
	rc = delete_steps(hub, &row, err);
	if (!rc)
		log_info(&hub->log, "backup %s of VM \"%s\" is deleted: %lld images, %lld bytes",
			 row.backup_id, row.vm_name, (long long)row.image_count,
			 (long long)row.size_bytes);
	else if (rc != CATALOG_E_FENCED)
		delete_failed(hub, &row, err);
	return rc;
}

/* For a call. -EAGAIN: another deletion has been at it for long, maybe in storage that hangs; the
 * thread comes back to this one. */
static int delete_locked(struct hub *hub, const char *backup_id, struct err *err)
{
	int rc = pthread_mutex_trylock(&hub->deleting);

	/* Not pthread_mutex_clocklock(): ThreadSanitizer does not know it. */
	for (int waited = 0; rc && waited < DELETE_WAIT_MS; waited += DELETE_LOOK_MS) {
		nanosleep(&(struct timespec){.tv_nsec = DELETE_LOOK_MS * 1000000L}, NULL);
		rc = pthread_mutex_trylock(&hub->deleting);
	}
	if (rc)
		return -EAGAIN;
	rc = delete_one(hub, backup_id, err);
	pthread_mutex_unlock(&hub->deleting);
	return rc;
}

/* --- calls ---------------------------------------------------------------------------------- */

void hub_deleted_deinit(struct hub_deleted *deleted)
{
	free(steal(&deleted->entries));
	deleted->n = deleted->gone = 0;
}

/* Removes the files of what was deleted, and says how far that came. */
static int delete_rest(struct hub *hub, const struct catalog_deletion *rows, size_t n,
		       struct hub_deleted *out, struct err *err)
{
	bool at_once = true;

	out->entries = calloc(MAX(n, (size_t)1), sizeof(*out->entries));
	if (!out->entries)
		return err_sys(err, -ENOMEM, "deleted backups");
	out->n = n;
	for (size_t i = 0; i < n; i++) {
		struct hub_deletion *e = &out->entries[i];
		struct err why = ERR_INIT;
		int rc = -EAGAIN;

		e->row = rows[i];
		if (at_once && i < DELETE_AT_ONCE && !hub_is_stopping(hub)) {
			rc = delete_locked(hub, e->row.backup_id, &why);
			at_once = rc != -EAGAIN;
		}
		e->gone = !rc || rc == CATALOG_E_NOT_FOUND;
		out->gone += e->gone;
		if (!e->gone && rc != -EAGAIN)
			catalog_deletion_get(hub->catalog, rows[i].backup_id, &e->row, NULL);
	}
	return 0;
}

/* Deleted before, with files left. */
static int delete_again(struct hub *hub, const char *backup_id, struct hub_deleted *out,
			struct err *err)
{
	struct catalog_deletion row;
	struct err none = ERR_INIT;
	int rc = catalog_deletion_get(hub->catalog, backup_id, &row, &none);

	if (rc == CATALOG_E_NOT_FOUND)
		return err_set(err, HUB_E_NOT_FOUND, "there is no backup %s", backup_id);
	if (rc) {
		*err = none;
		return hub_from_catalog(rc);
	}
	return delete_rest(hub, &row, 1, out, err);
}

/* It has ended in the catalog, and this hub has yet to let go of it. */
static int check_let_go(struct hub *hub, const char *backup_id, struct err *err)
{
	struct hub_job *job = hub_job_find(hub, backup_id);

	if (!job)
		return 0;
	hub_job_unref(hub, job);
	return err_set(err, HUB_E_BUSY, "backup %s runs: cancel it first, or wait for its end",
		       backup_id);
}

int hub_backup_delete(struct hub *hub, const char *backup_id, bool cascade, struct hub_deleted *out,
		      struct err *err)
{
	_cleanup_(freep) struct catalog_deletion *rows = NULL;
	size_t n = 0;
	int rc = check_let_go(hub, backup_id, err);

	*out = (struct hub_deleted){.n = 0};
	if (rc)
		return rc;
	rc = catalog_backup_delete(hub->catalog, backup_id, cascade, &rows, &n, err);
	if (rc == CATALOG_E_NOT_FOUND)
		return delete_again(hub, backup_id, out, err);
	if (rc)
		return hub_from_catalog(rc);
	log_info(&hub->log, "backup %s is deleted on request%s; %zu backups go", backup_id,
		 cascade ? ", with what leans on it" : "", n);
	return delete_rest(hub, rows, n, out, err);
}

int hub_vm_delete_all(struct hub *hub, const char *vm_context_id, struct hub_deleted *out,
		      struct err *err)
{
	_cleanup_(freep) struct catalog_deletion *rows = NULL;
	size_t n = 0;
	int rc;

	*out = (struct hub_deleted){.n = 0};
	rc = catalog_vm_context_delete_all(hub->catalog, vm_context_id, &rows, &n, err);
	if (rc)
		return hub_from_catalog(rc);
	log_info(&hub->log, "VM context %s is deleted on request; %zu backups go with it",
		 vm_context_id, n);
	return delete_rest(hub, rows, n, out, err);
}

/* --- what is left over ---------------------------------------------------------------------- */

/* One after the other until nothing is due: what fails is due again only after a while. One that is
 * due all the same could not even be claimed: that is for the next tick. */
static int delete_due(struct hub *hub, struct err *err)
{
	int64_t last = CATALOG_NONE;
	int rc = 0;

	while (!rc && !hub_is_stopping(hub)) {
		struct catalog_deletion row;
		struct err why = ERR_INIT;

		pthread_mutex_lock(&hub->deleting);
		rc = catalog_deletion_due(hub->catalog, &row, err);
		if (!rc && row.id != last)
			delete_one(hub, row.backup_id, &why);
		pthread_mutex_unlock(&hub->deleting);
		if (!rc && row.id == last)
			break;
		last = row.id;
	}
	return rc == CATALOG_E_NOT_FOUND ? 0 : rc;
}

static void *deleter_main(void *arg)
{
	struct hub *hub = arg;
	bool told = false;

	do {
		struct err err = ERR_INIT;
		int rc = delete_due(hub, &err);

		if (rc && !told)
			log_warn(&hub->log, "looking for deletions to finish: %s", err.text);
		told = rc;
	} while (hub_tick(hub, hub_config_now(hub).tick_ms));
	return NULL;
}

int hub_deleter_start(struct hub *hub, struct err *err)
{
	int rc = pthread_create(&hub->deleter, NULL, deleter_main, hub);

	hub->deleter_runs = !rc;
	return rc ? err_sys(err, -rc, "starting the thread that finishes deletions") : 0;
}
