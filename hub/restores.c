/*
 * Mounts and who uses them.
 *
 * `lock` guards the list, states and counts; it is held for moments. A mount is MOUNTING while its
 * images are opened, without the lock; whoever wants the same disk meanwhile waits. One that has
 * ENDED is off the list; its session is closed once the last call in it has returned, its memory
 * goes with the last who holds it.
 */
#include "hub/restores.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "hub/job.h"

#define RESTORE_PATH	"/api/v1/restore/"
#define RESTORE_TELL_S	15 /* how often the catalog hears of use */
#define RESTORE_SWEEP_S 5  /* how often mounts of hubs that are gone are looked for */

enum restore_state { RESTORE_MOUNTING, RESTORE_MOUNTED, RESTORE_ENDED };

struct hub_restores {
	struct hub *hub;
	pthread_mutex_t lock;
	pthread_cond_t changed; /* a state, or a count of calls */
	struct list mounts;	/* struct hub_restore; not the ended ones */
	bool catalog_behind;	/* a row could not be removed */
	unsigned archives;	/* being made */
	int64_t cleaned, last_look_at_us;
	bool runs;
	pthread_t thread;
};

struct hub_restore {
	struct list node;
	struct hub_restores *all;
	enum restore_state state;
	unsigned refs;	/* the list's, and who holds it */
	unsigned calls; /* in `files`, now */
	char backup_id[CATALOG_ID_SIZE];
	int disk_index;
	struct catalog_mount row; /* `users` and `last_used_at_us` are kept here */
	int64_t used_ns, told_ns;
	struct files *files; /* constant while MOUNTED; NULL before and after */
};

/* --- life of a mount ------------------------------------------------------------------------ */

/* `lock` held. */
static void restore_unref(struct hub_restore *m)
{
	if (!--m->refs)
		free(m);
}

static void restore_use(struct hub_restore *m)
{
	m->used_ns = hub_now_ns();
	m->row.last_used_at_us = catalog_now_us();
}

/* `lock` held; NULL: none. */
static struct hub_restore *restore_find(struct hub_restores *all, const char *mount_id)
{
	struct list *pos;

	list_for_each (pos, &all->mounts) {
		struct hub_restore *m = list_entry(pos, struct hub_restore, node);

		if (m->state == RESTORE_MOUNTED && !strcmp(m->row.id, mount_id))
			return m;
	}
	return NULL;
}

static struct hub_restore *restore_find_disk(struct hub_restores *all, const char *backup_id,
					     int disk_index)
{
	struct list *pos;

	list_for_each (pos, &all->mounts) {
		struct hub_restore *m = list_entry(pos, struct hub_restore, node);

		if (m->disk_index == disk_index && !strcmp(m->backup_id, backup_id))
			return m;
	}
	return NULL;
}

static unsigned restore_count(struct hub_restores *all)
{
	struct list *pos;
	unsigned n = 0;

	list_for_each (pos, &all->mounts)
		n++;
	return n;
}

/* Takes the mount off the list and closes its session. `lock` held, let go of meanwhile; the
 * caller's reference stays. */
static void restore_close(struct hub_restore *m)
{
	struct hub_restores *all = m->all;
	struct files *files;

	m->state = RESTORE_ENDED;
	list_del(&m->node);
	while (m->calls)
		pthread_cond_wait(&all->changed, &all->lock);
	files = steal(&m->files);
	pthread_cond_broadcast(&all->changed);
	pthread_mutex_unlock(&all->lock);
	files_close(files);
	pthread_mutex_lock(&all->lock);
	restore_unref(m); /* the list's */
}

/* The catalog's row of a mount that has ended. It is removed later if it cannot be now. */
static int restore_forget(struct hub_restore *m, struct err *err)
{
	struct hub_restores *all = m->all;
	int rc = catalog_mount_end(all->hub->catalog, m->row.id, err);

	if (rc) {
		pthread_mutex_lock(&all->lock);
		all->catalog_behind = true;
		pthread_mutex_unlock(&all->lock);
	}
	return hub_from_catalog(rc);
}

/* Ends a mount if nobody did. */
static int restore_end(struct hub_restore *m, struct err *err)
{
	struct hub_restores *all = m->all;
	bool ended;

	pthread_mutex_lock(&all->lock);
	ended = m->state == RESTORE_ENDED;
	if (!ended)
		restore_close(m);
	pthread_mutex_unlock(&all->lock);
	return ended ? 0 : restore_forget(m, err);
}

static bool restore_is_idle(const struct hub_restore *m, int64_t idle_ms)
{
	return m->state == RESTORE_MOUNTED && !m->calls &&
	       hub_now_ns() - m->used_ns >= idle_ms * 1000000;
}

/* Ends it unless somebody has asked for it meanwhile. */
static bool restore_end_idle(struct hub_restore *m, int64_t idle_ms)
{
	struct hub_restores *all = m->all;
	bool idle;

	pthread_mutex_lock(&all->lock);
	idle = restore_is_idle(m, idle_ms);
	if (idle) {
		all->cleaned++;
		restore_close(m);
	}
	pthread_mutex_unlock(&all->lock);
	if (idle)
		restore_forget(m, NULL);
	return idle;
}

/* --- telling -------------------------------------------------------------------------------- */

void hub_mount_deinit(struct hub_mount *mount)
{
	free(steal(&mount->partitions));
}

void hub_mounts_free(struct hub_mount *rows, size_t n)
{
	for (size_t i = 0; rows && i < n; i++)
		hub_mount_deinit(&rows[i]);
	free(rows);
}

/* `lock` held, the mount is MOUNTED. */
static int restore_view(const struct hub_restore *m, int64_t idle_ms, struct hub_mount *out,
			struct err *err)
{
	unsigned n = 0;
	const struct files_partition *parts = files_partitions(m->files, &n);
	uint64_t largest = 0;

	*out = (struct hub_mount){.row = m->row, .here = true};
	out->expires_at_us = m->row.last_used_at_us + idle_ms * 1000;
	CATALOG_TEXT(out->table, files_table(m->files));
	strcpy(out->filesystem_type, "unknown");
	out->partitions = calloc(n + 1, sizeof(*parts));
	if (!out->partitions)
		return err_sys(err, -ENOMEM, "mount %s", m->row.id);
	out->partition_count = n;
	for (unsigned i = 0; i < n; i++) {
		out->partitions[i] = parts[i];
		if (!parts[i].readable || parts[i].size < largest)
			continue;
		largest = parts[i].size;
		memcpy(out->filesystem_type, parts[i].type, sizeof(out->filesystem_type));
	}
	return 0;
}

int hub_restore_mounts(struct hub *hub, struct hub_mount **rows, size_t *n, struct err *err)
{
	_cleanup_(freep) struct catalog_mount *known = NULL;
	const int64_t idle_ms = hub_config_now(hub).restore_idle_ms;
	struct hub_mount *out;
	int rc = hub_from_catalog(catalog_mounts_list(hub->catalog, &known, n, err));

	if (rc)
		return rc;
	out = calloc(*n + 1, sizeof(*out));
	if (!out)
		return err_sys(err, -ENOMEM, "mounts");
	pthread_mutex_lock(&hub->restores->lock);
	for (size_t i = 0; !rc && i < *n; i++) {
		const struct hub_restore *m = restore_find(hub->restores, known[i].id);

		out[i].row = known[i];
		if (m)
			rc = restore_view(m, idle_ms, &out[i], err);
	}
	pthread_mutex_unlock(&hub->restores->lock);
	if (rc)
		hub_mounts_free(out, *n);
	else
		*rows = out;
	return rc;
}

void hub_restore_state(struct hub *hub, struct hub_restore_state *out)
{
	const struct hub_config config = hub_config_now(hub);
	struct hub_restores *all = hub->restores;

	pthread_mutex_lock(&all->lock);
	*out = (struct hub_restore_state){
		.mounted = restore_count(all),
		.max_mounts = config.restore_max_mounts,
		.idle_s = config.restore_idle_ms / 1000,
		.interval_s = MAX(config.tick_ms / 1000, 1U),
		.cleaned = all->cleaned,
		.last_look_at_us = all->last_look_at_us,
	};
	pthread_mutex_unlock(&all->lock);
}

/* --- mounting ------------------------------------------------------------------------------- */

/* The image of the row's disk, and the folder its chain must stay in. */
static int restore_open_files(struct hub_restore *m, struct files **out, struct err *err)
{
	struct hub *hub = m->all->hub;
	_cleanup_(repo_closep) struct repo *repo = NULL;
	struct catalog_repository row;
	struct catalog_backup_disk disk;
	struct catalog_backup job;
	struct files_opts opts;
	int rc = hub_from_catalog(catalog_backup_get(hub->catalog, m->backup_id, &job, err));

	if (!rc)
		rc = hub_from_catalog(catalog_backup_disk_get(hub->catalog, m->backup_id,
							      m->disk_index, &disk, err));
	if (!rc)
		rc = hub_from_catalog(
			catalog_repository_get(hub->catalog, job.repository_id, &row, err));
	if (!rc)
		rc = repo_open(&repo, &row, false, err);
	if (rc)
		return rc;
	opts = (struct files_opts){
		.image = disk.qcow2_path,
		.repository = repo->root,
		.worker = hub->files_worker[0] ? hub->files_worker : NULL,
	};
	rc = files_open(out, &opts, err);
	return rc <= 0 ? rc
		       : err_prefix(err, -EIO, "disk %d of backup %s", m->disk_index, m->backup_id);
}

/* A row that no session stands behind: its end was not written, or not heard of. */
static int restore_begin_row(struct hub_restore *m, struct err *err)
{
	struct hub *hub = m->all->hub;
	struct catalog_mount row;
	int64_t swept;
	int rc = catalog_mount_begin(hub->catalog, m->backup_id, m->disk_index, RESTORE_PATH, &row,
				     err);

	if (rc == CATALOG_E_EXISTS || rc == CATALOG_E_IN_USE) {
		int again = rc == CATALOG_E_EXISTS
				    ? catalog_mount_end(hub->catalog, row.id, NULL)
				    : catalog_mounts_sweep(hub->catalog, &swept, NULL);

		if (!again)
			rc = catalog_mount_begin(hub->catalog, m->backup_id, m->disk_index,
						 RESTORE_PATH, &row, err);
	}
	if (!rc)
		m->row = row;
	return hub_from_catalog(rc);
}

static int restore_open(struct hub_restore *m, struct files **out, struct err *err)
{
	struct hub *hub = m->all->hub;
	struct files_sandbox box;
	int rc = restore_begin_row(m, err);

	if (rc)
		return rc;
	rc = restore_open_files(m, out, err);
	if (!rc)
		rc = hub_from_catalog(catalog_mount_set_mounted(hub->catalog, m->row.id, err));
	if (rc) {
		files_close(steal(out));
		restore_forget(m, NULL);
		return rc;
	}
	files_sandbox(*out, &box);
	log_info(&hub->log, "%s: disk %d of %s is mounted, read by process %d%s%s", m->row.id,
		 m->disk_index, m->backup_id, box.pid, box.landlock ? "" : ", without landlock",
		 box.own_uid ? "" : ", as the hub's user");
	return 0;
}

/* A new mount on the list, with a reference of the caller's. `lock` held. */
static struct hub_restore *restore_reserve(struct hub_restores *all, const char *backup_id,
					   int disk_index)
{
	struct hub_restore *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	m->all = all;
	m->refs = 2;
	m->disk_index = disk_index;
	CATALOG_TEXT(m->backup_id, backup_id);
	list_add_tail(&all->mounts, &m->node);
	return m;
}

static int restore_mount_new(struct hub_restore *m, int64_t idle_ms, struct hub_mount *out,
			     struct err *err)
{
	struct hub_restores *all = m->all;
	struct files *files = NULL;
	int rc = restore_open(m, &files, err);

	pthread_mutex_lock(&all->lock);
	if (!rc) {
		m->files = files;
		m->state = RESTORE_MOUNTED;
		m->row.status = CATALOG_MOUNT_MOUNTED;
		m->told_ns = hub_now_ns();
		restore_use(m);
		rc = restore_view(m, idle_ms, out, err);
	} else {
		m->state = RESTORE_ENDED;
		list_del(&m->node);
		restore_unref(m);
	}
	pthread_cond_broadcast(&all->changed);
	restore_unref(m);
	pthread_mutex_unlock(&all->lock);
	return rc;
}

/* One more user of a mount that is there. CATALOG_E_NOT_FOUND: it is not, any more. */
static int restore_mount_again(struct hub_restore *m, int64_t idle_ms, struct hub_mount *out,
			       struct err *err)
{
	struct hub_restores *all = m->all;
	int rc, users;

	/* lock held, and m->refs counts the caller */
	m->row.users++;
	restore_use(m);
	users = m->row.users;
	rc = restore_view(m, idle_ms, out, err);
	pthread_mutex_unlock(&all->lock);
	if (!rc)
		rc = catalog_mount_set_used(all->hub->catalog, out->row.id, users,
					    out->row.last_used_at_us, err);
	if (rc) {
		hub_mount_deinit(out);
		pthread_mutex_lock(&all->lock);
		m->row.users--;
		pthread_mutex_unlock(&all->lock);
	}
	if (rc == CATALOG_E_NOT_FOUND)
		restore_end(m, NULL);
	pthread_mutex_lock(&all->lock);
	restore_unref(m);
	pthread_mutex_unlock(&all->lock);
	return rc;
}

static int restore_refuse_more(unsigned max, struct err *err)
{
	return err_set(err, HUB_E_LIMIT,
		       "%u disks are mounted for restores, which is restore_max_mounts: unmount "
		       "one (GET /api/v1/restore/mounts lists them), or set more",
		       max);
}

int hub_restore_mount(struct hub *hub, const char *backup_id, int disk_index, struct hub_mount *out,
		      struct err *err)
{
	const struct hub_config config = hub_config_now(hub);
	struct hub_restores *all = hub->restores;
	struct hub_restore *m;

	if (strlen(backup_id) >= CATALOG_ID_SIZE)
		return err_set(err, HUB_E_NOT_FOUND, "there is no backup %.80s...", backup_id);
	for (;;) {
		int rc;

		pthread_mutex_lock(&all->lock);
		while ((m = restore_find_disk(all, backup_id, disk_index)) &&
		       m->state == RESTORE_MOUNTING && !hub_is_stopping(hub))
			pthread_cond_wait(&all->changed, &all->lock);
		if (hub_is_stopping(hub) ||
		    (!m && restore_count(all) >= config.restore_max_mounts)) {
			pthread_mutex_unlock(&all->lock);
			return hub_is_stopping(hub)
				       ? err_set(err, HUB_E_STOPPING, "the hub is going down")
				       : restore_refuse_more(config.restore_max_mounts, err);
		}
		if (!m) {
			m = restore_reserve(all, backup_id, disk_index);
			pthread_mutex_unlock(&all->lock);
			return m ? restore_mount_new(m, config.restore_idle_ms, out, err)
				 : err_sys(err, -ENOMEM, "mount");
		}
		m->refs++;
		rc = restore_mount_again(m, config.restore_idle_ms, out, err);
		/* Not this hub's any more: it lost its lease meanwhile. */
		if (rc != CATALOG_E_NOT_FOUND)
			return hub_from_catalog(rc);
	}
}

/* --- holding -------------------------------------------------------------------------------- */

static int restore_not_here(struct hub *hub, const char *mount_id, struct err *err)
{
	struct catalog_mount row;
	int rc = catalog_mount_get(hub->catalog, mount_id, &row, err);

	if (!rc && row.hub_token == hub->self.token && row.status == CATALOG_MOUNT_MOUNTING)
		return err_set(err, HUB_E_STATE, "mount %s is being made: try again in a moment",
			       mount_id);
	if (!rc && row.hub_name[0] && row.hub_token != hub->self.token)
		return err_set(err, HUB_E_STATE, "mount %s is held by hub \"%s\": ask there",
			       mount_id, row.hub_name);
	if (rc && rc != CATALOG_E_NOT_FOUND)
		return hub_from_catalog(rc);
	return err_set(err, HUB_E_NOT_FOUND,
		       "there is no mount %s: it was unmounted, or nobody used it for a while; "
		       "mount the backup again",
		       mount_id);
}

int hub_restore_hold(struct hub *hub, const char *mount_id, struct hub_restore **out,
		     struct err *err)
{
	struct hub_restores *all = hub->restores;
	struct hub_restore *m;

	pthread_mutex_lock(&all->lock);
	m = restore_find(all, mount_id);
	if (m) {
		m->refs++;
		restore_use(m);
	}
	pthread_mutex_unlock(&all->lock);
	if (!m)
		return restore_not_here(hub, mount_id, err);
	*out = m;
	return 0;
}

void hub_restore_release(struct hub_restore *m)
{
	struct hub_restores *all;

	if (!m)
		return;
	all = m->all;
	pthread_mutex_lock(&all->lock);
	restore_unref(m);
	pthread_mutex_unlock(&all->lock);
}

int64_t hub_restore_disk_id(const struct hub_restore *m)
{
	return m->row.backup_disk_id;
}

int hub_restore_unmount(struct hub *hub, const char *mount_id, struct err *err)
{
	_cleanup_(hub_restore_releasep) struct hub_restore *m = NULL;
	struct hub_restores *all = hub->restores;
	int64_t used_us;
	bool last;
	int users, rc = hub_restore_hold(hub, mount_id, &m, err);

	if (rc)
		return rc;
	pthread_mutex_lock(&all->lock);
	users = m->row.users > 0 ? --m->row.users : 0;
	used_us = m->row.last_used_at_us;
	last = !users && m->state == RESTORE_MOUNTED;
	if (last)
		restore_close(m);
	pthread_mutex_unlock(&all->lock);
	if (last) {
		log_info(&hub->log, "%s: disk %d of %s is unmounted", m->row.id, m->disk_index,
			 m->backup_id);
		return restore_forget(m, err);
	}
	if (!users)
		return 0; /* somebody else did */
	rc = catalog_mount_set_used(hub->catalog, m->row.id, users, used_us, err);
	return rc == CATALOG_E_NOT_FOUND ? restore_end(m, err) : hub_from_catalog(rc);
}

bool hub_restore_archive_enter(struct hub_restore *m)
{
	bool may;

	pthread_mutex_lock(&m->all->lock);
	may = m->all->archives < HUB_ARCHIVES_MAX;
	m->all->archives += may;
	pthread_mutex_unlock(&m->all->lock);
	return may;
}

void hub_restore_archive_leave(struct hub_restore *m)
{
	pthread_mutex_lock(&m->all->lock);
	m->all->archives--;
	pthread_mutex_unlock(&m->all->lock);
}

/* --- reading -------------------------------------------------------------------------------- */

static int restore_enter(struct hub_restore *m, struct err *err)
{
	struct hub_restores *all = m->all;
	bool there;

	/* Walks and archives may go on for long. */
	if (hub_is_stopping(all->hub))
		return err_set(err, HUB_E_STOPPING, "the hub is going down");
	pthread_mutex_lock(&all->lock);
	there = m->state == RESTORE_MOUNTED;
	if (there) {
		m->calls++;
		restore_use(m);
	}
	pthread_mutex_unlock(&all->lock);
	return there ? 0
		     : err_set(err, HUB_E_NOT_FOUND, "mount %s was unmounted meanwhile", m->row.id);
}

/* The hub's result for one of files/. */
static int restore_leave(struct hub_restore *m, const char *path, int rc, struct err *err)
{
	static const int map[] = {
		[FILES_E_NOT_FOUND] = HUB_E_NOT_FOUND, [FILES_E_PATH] = HUB_E_INVALID,
		[FILES_E_KIND] = HUB_E_INVALID,	       [FILES_E_UNSUPPORTED] = HUB_E_STATE,
		[FILES_E_DAMAGED] = HUB_E_STATE,       [FILES_E_LOST] = HUB_E_STATE,
	};
	struct hub_restores *all = m->all;

	pthread_mutex_lock(&all->lock);
	m->calls--;
	pthread_cond_broadcast(&all->changed);
	pthread_mutex_unlock(&all->lock);
	if (rc == FILES_E_LOST) {
		err_prefix(err, rc, "mount %s is over, mount the backup again", m->row.id);
		log_error(&all->hub->log, "%s", err->text);
		restore_end(m, NULL);
	} else if (rc)
		err_prefix(err, rc, "%.200s", path);
	return rc > 0 && (size_t)rc < ARRAY_SIZE(map) ? map[rc] : rc;
}

int hub_restore_stat(struct hub_restore *m, const char *path, struct files_entry *out,
		     struct err *err)
{
	int rc = restore_enter(m, err);

	return rc ? rc : restore_leave(m, path, files_stat(m->files, path, out, err), err);
}

int hub_restore_readlink(struct hub_restore *m, const char *path, char *target, size_t size,
			 struct err *err)
{
	int rc = restore_enter(m, err);

	return rc ? rc
		  : restore_leave(m, path, files_readlink(m->files, path, target, size, err), err);
}

int hub_restore_list(struct hub_restore *m, const char *path, struct files_list *list,
		     struct err *err)
{
	int rc = restore_enter(m, err);

	return rc ? rc : restore_leave(m, path, files_list(m->files, path, list, err), err);
}

int64_t hub_restore_read(struct hub_restore *m, const char *path, uint64_t off, void *buf,
			 size_t len, struct err *err)
{
	int64_t n;

	if (restore_enter(m, err))
		return -EIO;
	n = files_read(m->files, path, off, buf, len, err);
	restore_leave(m, path, n < 0 && err->code == FILES_E_LOST ? FILES_E_LOST : 0, err);
	return n;
}

/* --- idle ones ------------------------------------------------------------------------------ */

/* The next mount that is to be looked at, held: idle for too long, or used since the catalog heard
 * of it. */
static struct hub_restore *restore_due(struct hub_restores *all, int64_t idle_ms, bool *idle)
{
	int64_t now = hub_now_ns();
	struct hub_restore *due = NULL;
	struct list *pos;

	pthread_mutex_lock(&all->lock);
	list_for_each (pos, &all->mounts) {
		struct hub_restore *m = list_entry(pos, struct hub_restore, node);

		if (m->state != RESTORE_MOUNTED)
			continue;
		*idle = restore_is_idle(m, idle_ms);
		if (!*idle &&
		    (m->used_ns <= m->told_ns || now - m->told_ns < RESTORE_TELL_S * 1000000000LL))
			continue;
		due = m;
		m->refs++;
		m->told_ns = now;
		break;
	}
	pthread_mutex_unlock(&all->lock);
	return due;
}

static void restore_look(struct hub_restores *all, struct hub_restore *m, int64_t idle_ms,
			 bool idle)
{
	int64_t used_us;
	int users;

	if (idle) {
		if (restore_end_idle(m, idle_ms))
			log_info(&all->hub->log,
				 "%s: nobody has used it for a while: disk %d of %s is unmounted",
				 m->row.id, m->disk_index, m->backup_id);
		return;
	}
	pthread_mutex_lock(&all->lock);
	users = m->row.users;
	used_us = m->row.last_used_at_us;
	pthread_mutex_unlock(&all->lock);
	/* Swept: this hub was not heard of for longer than its lease. */
	if (catalog_mount_set_used(all->hub->catalog, m->row.id, users, used_us, NULL) ==
	    CATALOG_E_NOT_FOUND)
		restore_end(m, NULL);
}

/* Rows of this hub's that no mount stands behind. */
static void restore_catch_up(struct hub_restores *all)
{
	_cleanup_(freep) struct catalog_mount *rows = NULL;
	struct catalog *cat = all->hub->catalog;
	size_t n = 0;
	bool behind;

	pthread_mutex_lock(&all->lock);
	behind = all->catalog_behind;
	pthread_mutex_unlock(&all->lock);
	if (!behind || catalog_mounts_list(cat, &rows, &n, NULL))
		return;
	behind = false;
	for (size_t i = 0; i < n; i++) {
		bool here;

		pthread_mutex_lock(&all->lock);
		here = restore_find_disk(all, rows[i].backup_id, rows[i].disk_index);
		pthread_mutex_unlock(&all->lock);
		if (!here && rows[i].hub_token == all->hub->self.token)
			behind |= catalog_mount_end(cat, rows[i].id, NULL) != 0;
	}
	pthread_mutex_lock(&all->lock);
	all->catalog_behind = behind;
	pthread_mutex_unlock(&all->lock);
}

/* Mounts of another hub that is gone: they keep points from being deleted. */
static void restore_sweep(struct hub_restores *all, int64_t *swept_ns)
{
	int64_t now = hub_now_ns(), n = 0;

	if (now - *swept_ns < RESTORE_SWEEP_S * 1000000000LL)
		return;
	*swept_ns = now;
	if (!catalog_mounts_sweep(all->hub->catalog, &n, NULL) && n)
		log_info(&all->hub->log, "%lld mounts of hubs that are gone were forgotten",
			 (long long)n);
}

static void *restores_main(void *arg)
{
	struct hub_restores *all = arg;
	int64_t swept_ns = hub_now_ns();
	struct hub_restore *m;
	bool idle;

	do {
		const int64_t idle_ms = hub_config_now(all->hub).restore_idle_ms;

		while ((m = restore_due(all, idle_ms, &idle))) {
			restore_look(all, m, idle_ms, idle);
			hub_restore_release(m);
		}
		restore_catch_up(all);
		restore_sweep(all, &swept_ns);
		pthread_mutex_lock(&all->lock);
		all->last_look_at_us = catalog_now_us();
		pthread_mutex_unlock(&all->lock);
	} while (hub_tick(all->hub, hub_config_now(all->hub).tick_ms));
	return NULL;
}

/* --- start and stop ------------------------------------------------------------------------- */

int hub_restores_start(struct hub *hub, struct err *err)
{
	struct hub_restores *all = calloc(1, sizeof(*all));
	int64_t swept = 0;
	int rc;

	if (!all)
		return err_sys(err, -ENOMEM, "mounts");
	all->hub = hub;
	list_init(&all->mounts);
	pthread_mutex_init(&all->lock, NULL);
	pthread_cond_init(&all->changed, NULL);
	hub->restores = all;
	rc = hub_from_catalog(catalog_mounts_sweep(hub->catalog, &swept, err));
	if (rc)
		return rc;
	if (swept)
		log_info(&hub->log, "%lld mounts of hubs that are gone were forgotten",
			 (long long)swept);
	rc = pthread_create(&all->thread, NULL, restores_main, all);
	all->runs = !rc;
	return rc ? err_sys(err, -rc, "starting the thread that looks after mounts") : 0;
}

void hub_restores_stop(struct hub *hub)
{
	struct hub_restores *all = hub->restores;

	if (all && all->runs)
		pthread_join(all->thread, NULL);
	if (all)
		all->runs = false;
}

void hub_restores_free(struct hub *hub)
{
	struct hub_restores *all = steal(&hub->restores);
	struct list *pos, *next;

	if (!all)
		return;
	list_for_each_safe (pos, next, &all->mounts) {
		struct hub_restore *m = list_entry(pos, struct hub_restore, node);

		m->refs++;
		restore_end(m, NULL);
		restore_unref(m);
	}
	pthread_mutex_destroy(&all->lock);
	pthread_cond_destroy(&all->changed);
	free(all);
}
