/*
 * One copy, from the claim to its end. In this order:
 *
 *   what an earlier attempt left goes -> room? -> names into the catalog -> each disk: image
 * written to .part and synced, its checksums compared with the backup's -> each disk read back ->
 * each disk renamed, sidecar -> catalog
 *
 * Whatever ends it before the last step takes the files away again; after a crash
 * catalog_copy_disks tell which. The one exception is an image that was read back and differs: it
 * goes to the quarantine, because it says something about the disk it lay on.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "base/file.h"
#include "hub/copies.h"
#include "hub/job.h"
#include "qcow2/convert.h"
#include "qcow2/sums.h"

#define COPY_ATTEMPTS	  5
#define COPY_FOLDERS	  5
#define COPY_PAUSE_MAX_US (6LL * 3600 * 1000000)
#define COPY_HASH_PIECE	  (1U << 20)
#define COPY_ZSTD_BEST	  10 /* nobody should hope for more */

enum copy_stop {
	COPY_GOES_ON,
	COPY_HUB_STOPS,
	COPY_TO_REMOVE, /* somebody wants it gone */
	COPY_TAKEN,	/* another hub has it */
};

struct copy_run {
	struct hub *hub;
	struct catalog_copy row;
	struct hub_backup_view view; /* of the backup */
	struct repo *from, *to;
	struct catalog_copy_disk *disks; /* as many as the view has */
	size_t n;
	size_t at;    /* the disk being copied or read back */
	int64_t base; /* guest bytes of the disks before it */
	int64_t told_ns;
	unsigned tick_ms;
	enum copy_stop stop;
	bool differs;	/* what was written is not what was backed up: not to be tried again */
	bool lies;	/* the repository does not give back what was written */
	struct err why; /* of a difference, as it is found */
};

/* --- looking up, now and then --------------------------------------------------------------- */

static bool copy_may_go_on(struct copy_run *run, int64_t bytes)
{
	int64_t now = hub_now_ns();
	bool remove = false;

	if (hub_is_stopping(run->hub))
		run->stop = COPY_HUB_STOPS;
	if (run->stop != COPY_GOES_ON || now - run->told_ns < (int64_t)run->tick_ms * 1000000)
		return run->stop == COPY_GOES_ON;
	run->told_ns = now;
	/* A catalog that does not answer is no reason to stop: the end waits for it. */
	if (catalog_copy_progress(run->hub->catalog, &run->row, bytes, &remove, NULL) ==
	    CATALOG_E_FENCED)
		run->stop = COPY_TAKEN;
	else if (remove)
		run->stop = COPY_TO_REMOVE;
	return run->stop == COPY_GOES_ON;
}

static bool copy_progress(void *arg, uint64_t done, uint64_t total)
{
	struct copy_run *run = arg;

	(void)total;
	return copy_may_go_on(run, run->base + (int64_t)done);
}

/* Copied it is: reading back moves nothing. */
static bool copy_verify_progress(void *arg, uint64_t done, uint64_t total)
{
	struct copy_run *run = arg;

	(void)done, (void)total;
	return copy_may_go_on(run, run->row.bytes_total);
}

/* The result of a write to the catalog. */
static int copy_written(struct copy_run *run, int rc)
{
	if (rc == CATALOG_E_FENCED)
		run->stop = COPY_TAKEN;
	return hub_from_catalog(rc);
}

/* The catalog is away: once more? A hub that goes down leaves it to the next start. */
static bool copy_again(struct copy_run *run, int rc)
{
	return rc < 0 && !hub_is_stopping(run->hub) && hub_tick(run->hub, run->tick_ms);
}

/* --- files ---------------------------------------------------------------------------------- */

/* Ours alone, whatever they are called by now: names are never used twice. */
static int copy_delete_files(struct repo *repo, const struct catalog_copy_disk *disks, size_t n,
			     struct err *err)
{
	int rc = 0;

	for (size_t i = 0; !rc && i < n; i++) {
		rc = repo->ops->remove_point(repo, disks[i].part_path, err);
		if (!rc)
			rc = repo->ops->remove_point(repo, disks[i].qcow2_path, err);
	}
	return rc;
}

/* Folders go once the catalog knows of no file: while it does, their absence means that the
 * repository is away. */
static int copy_forget_files(struct hub *hub, const struct catalog_copy *copy, struct repo *repo,
			     const struct catalog_copy_disk *disks, size_t n, struct err *err)
{
	struct err why = ERR_INIT;
	int rc = catalog_copy_set_disks(hub->catalog, copy, NULL, 0, err);

	for (size_t i = 0; !rc && i < n; i++)
		if (repo->ops->remove_folders(repo, disks[i].qcow2_path, &why))
			log_warn(&hub->log, "copy %s: %s", copy->id, why.text);
	return hub_from_catalog(rc);
}

static int copy_quarantine(struct copy_run *run, const struct catalog_copy_disk *disk)
{
	struct repo_point point;
	struct err err = ERR_INIT;
	int64_t bytes = 0;
	int rc;

	CATALOG_TEXT(point.path, disk->qcow2_path);
	CATALOG_TEXT(point.part, disk->part_path);
	rc = run->to->ops->quarantine(run->to, &point, REPO_KEEP, &bytes, &err);
	if (rc)
		log_error(&run->hub->log, "copy %s: %s", run->row.id, err.text);
	else
		log_warn(&run->hub->log, "copy %s: %lld bytes of %s are in the quarantine",
			 run->row.id, (long long)bytes, disk->qcow2_path);
	return rc;
}

/* Another hub has it, and clears away what the catalog names. What has its final name may be
 * completed, if this hub did not hear of that; a .part made since is nobody's. */
static void copy_discard_parts(struct copy_run *run)
{
	for (size_t i = 0; run->to && i < run->n; i++)
		run->to->ops->remove_point(run->to, run->disks[i].part_path, NULL);
}

/* A finished copy that turns out bad goes to the quarantine whole: it may be all there is. */
static void copy_discard(struct copy_run *run)
{
	struct err err = ERR_INIT;
	bool finished = run->row.task == CATALOG_COPY_VERIFY;
	int rc = 0;

	if (run->stop == COPY_TAKEN) {
		copy_discard_parts(run);
		return;
	}
	if (!run->to || !run->n || (finished && !run->lies))
		return;
	for (size_t i = 0; run->lies && i < run->n; i++)
		if ((finished || i == run->at) && copy_quarantine(run, &run->disks[i]))
			rc = -EIO; /* told */
	if (!finished && !rc)
		rc = copy_delete_files(run->to, run->disks, run->n, &err);
	if (!rc)
		rc = copy_forget_files(run->hub, &run->row, run->to, run->disks, run->n, &err);
	if (rc)
		log_warn(&run->hub->log, "copy %s: what there is of it is left for later: %s",
			 run->row.id, err.text);
}

static int copy_open_repo(struct hub *hub, const char *id, struct repo **out, struct err *err)
{
	struct catalog_repository row;
	int rc = hub_from_catalog(catalog_repository_get(hub->catalog, id, &row, err));

	return rc ? rc : repo_open(out, &row, false, err);
}

/* What the row says of files: of an attempt that a crash ended, or of the finished copy. */
static int copy_delete_known(struct hub *hub, const struct catalog_copy *copy, struct err *err)
{
	_cleanup_(freep) struct catalog_copy_disk *disks = NULL;
	_cleanup_(repo_closep) struct repo *repo = NULL;
	size_t n = 0;
	int rc = hub_from_catalog(catalog_copy_disks_list(hub->catalog, copy->id, &disks, &n, err));

	if (rc || !n)
		return rc;
	rc = copy_open_repo(hub, copy->repository_id, &repo, err);
	if (!rc)
		rc = copy_delete_files(repo, disks, n, err);
	return rc ? rc : copy_forget_files(hub, copy, repo, disks, n, err);
}

/* --- room ----------------------------------------------------------------------------------- */

/* What a disk takes when it stands alone, uncompressed: its checksums know. Without any: as much as
 * its files, or as it can be. */
static int copy_disk_bytes(const struct repo *from, const struct catalog_backup_disk *disk,
			   uint64_t *bytes, struct err *err)
{
	char sums[CATALOG_PATH_SIZE + 16];
	struct qcow2_file_info *files;
	unsigned count;
	int rc;

	if (qcow2_sums_path(disk->qcow2_path, sums, sizeof(sums)) &&
	    !qcow2_sums_data(sums, bytes, NULL))
		return 0;
	rc = qcow2_describe(disk->qcow2_path, from->root, &files, &count, err);
	if (rc)
		return rc;
	*bytes = 0;
	for (unsigned i = 0; i < count; i++)
		*bytes += files[i].file_size;
	*bytes = MIN(*bytes, (uint64_t)disk->virtual_size_bytes);
	qcow2_describe_free(files, count);
	return 0;
}

static int copy_check_room(const struct hub_backup_view *view, const struct repo *from,
			   struct repo *to, struct err *err)
{
	struct repo_storage storage;
	uint64_t need = 0, bytes;
	int rc = to->ops->storage(to, &storage, err);

	for (size_t i = 0; !rc && i < view->disk_count; i++) {
		rc = copy_disk_bytes(from, &view->disks[i].row, &bytes, err);
		need += rc ? 0 : bytes;
	}
	if (rc)
		return rc < 0 ? rc : -EIO;
	if (to->zstd_level)
		need /= COPY_ZSTD_BEST;
	if (need > (uint64_t)MAX(storage.available_bytes, 0))
		return err_set(err, -ENOSPC,
			       "repository \"%s\" has room for %lld bytes; the copy needs %s%llu: "
			       "make room, or copy to another one",
			       to->name, (long long)storage.available_bytes,
			       to->zstd_level ? "at least " : "", (unsigned long long)need);
	return 0;
}

/* --- beginning ------------------------------------------------------------------------------ */

/* The VM's folder, as it is called where the backup is. */
static void copy_vm_folder(const struct copy_run *run, const char *path, char out[CATALOG_ID_SIZE])
{
	size_t n = 0;

	if (repo_contains(run->from, path)) {
		path += strlen(run->from->root) + 1;
		n = strcspn(path, "/");
	}
	if (n && n < CATALOG_ID_SIZE && path[n])
		snprintf(out, CATALOG_ID_SIZE, "%.*s", (int)n, path);
	else
		catalog_text_copy(out, CATALOG_ID_SIZE, run->view.job.vm_backup_context_id);
}

/* The time is the backup's; the rest makes it a name no other attempt has, on any hub. */
static void copy_stamp(const struct copy_run *run, char *out, size_t size)
{
	char unique[CATALOG_ID_SIZE], time[HUB_STAMP_SIZE];

	catalog_new_id(unique, "");
	hub_stamp(run->view.job.created_at_us, time);
	snprintf(out, size, "%s-%s", time, unique + strlen(unique) - 10);
}

static int copy_name_files(struct copy_run *run, struct err *err)
{
	char stamp[CATALOG_ID_SIZE], folder[CATALOG_ID_SIZE];
	struct repo_point point;
	int rc = 0;

	copy_stamp(run, stamp, sizeof(stamp));
	for (size_t i = 0; !rc && i < run->view.disk_count; i++) {
		const struct catalog_backup_disk *from = &run->view.disks[i].row;
		struct catalog_copy_disk *disk = &run->disks[i];
		const struct repo_point_key key = {
			.vm = folder,
			.disk_index = from->disk_index,
			.mode = CATALOG_BACKUP_FULL,
			.stamp = stamp,
		};

		copy_vm_folder(run, from->qcow2_path, folder);
		rc = run->to->ops->new_point(run->to, &key, &point, err);
		if (rc)
			break;
		*disk = (struct catalog_copy_disk){.disk_index = from->disk_index,
						   .bytes_total = from->virtual_size_bytes};
		CATALOG_TEXT(disk->copy_id, run->row.id);
		CATALOG_TEXT(disk->qcow2_path, point.path);
		CATALOG_TEXT(disk->part_path, point.part);
		run->row.bytes_total += disk->bytes_total;
	}
	return rc;
}

static int copy_open(struct copy_run *run, struct err *err)
{
	int rc = hub_backup_get(run->hub, run->row.backup_job_id, &run->view, err);

	if (!rc)
		rc = copy_open_repo(run->hub, run->view.job.repository_id, &run->from, err);
	if (!rc)
		rc = copy_open_repo(run->hub, run->row.repository_id, &run->to, err);
	if (!rc)
		rc = copy_delete_known(run->hub, &run->row, err);
	if (!rc)
		rc = copy_check_room(&run->view, run->from, run->to, err);
	if (rc)
		return rc;
	run->disks = calloc(run->view.disk_count, sizeof(*run->disks));
	if (!run->disks)
		return err_sys(err, -ENOMEM, "copy %s", run->row.id);
	run->row.bytes_total = 0;
	rc = copy_name_files(run, err);
	if (!rc)
		rc = copy_written(run,
				  catalog_copy_set_disks(run->hub->catalog, &run->row, run->disks,
							 run->view.disk_count, err));
	if (!rc)
		run->n = run->view.disk_count; /* from here on there may be files */
	return rc;
}

/* --- the copying ---------------------------------------------------------------------------- */

static int copy_cluster_size(const struct copy_run *run, const char *path, uint32_t *out,
			     struct err *err)
{
	struct qcow2_file_info *files;
	unsigned count;
	int rc = qcow2_describe(path, run->from->root, &files, &count, err);

	if (rc)
		return rc;
	*out = files[0].cluster_size;
	qcow2_describe_free(files, count);
	return 0;
}

/* What was read now, against what was backed up then. A backup of before there were checksums has
 * none: its copy then has those of what was read. */
static int copy_compare(struct copy_run *run, const struct catalog_backup_disk *from,
			const struct catalog_copy_disk *disk, struct err *err)
{
	char theirs[CATALOG_PATH_SIZE + 16], ours[CATALOG_PATH_SIZE + 16];
	struct qcow2_sums_difference d;
	struct stat st;
	int rc;

	if (!qcow2_sums_path(from->qcow2_path, theirs, sizeof(theirs)) ||
	    !qcow2_sums_path(disk->part_path, ours, sizeof(ours)))
		return err_set(err, -ENAMETOOLONG, "checksums of %s", disk->part_path);
	if (stat(theirs, &st) && errno == ENOENT) {
		log_warn(&run->hub->log, "copy %s: disk %d of %s has no checksums to compare with",
			 run->row.id, disk->disk_index, run->row.backup_job_id);
		return 0;
	}
	rc = qcow2_sums_compare(theirs, ours, &d, err);
	if (rc || !d.clusters)
		return rc;
	run->differs = true;
	return err_set(
		err, -EBADMSG,
		"disk %d of backup %s does not read as it was backed up: %llu clusters "
		"differ from its checksums, the first at guest byte %llu: its image %s, or one "
		"below it, is damaged",
		disk->disk_index, run->row.backup_job_id, (unsigned long long)d.clusters,
		(unsigned long long)d.first, from->qcow2_path);
}

/* The folder may be gone with the last point that was deleted in it: disks before this one may have
 * taken hours. */
static int copy_convert(struct copy_run *run, const char *from,
			const struct catalog_copy_disk *disk, const struct qcow2_convert_opts *opts,
			struct err *err)
{
	struct repo_point point = {.path = ""};
	int rc = -ENOENT;

	CATALOG_TEXT(point.path, disk->qcow2_path);
	for (int i = 0; rc == -ENOENT && i < COPY_FOLDERS; i++) {
		rc = run->to->ops->make_folder(run->to, &point, err);
		if (!rc)
			rc = qcow2_convert(from, run->from->root, disk->part_path, opts, err);
	}
	return rc;
}

static int copy_disk(struct copy_run *run, struct err *err)
{
	const struct catalog_backup_disk *from = &run->view.disks[run->at].row;
	struct catalog_copy_disk *disk = &run->disks[run->at];
	struct qcow2_convert_opts opts = {
		.sums = true,
		.zstd_level = run->to->zstd_level,
		.progress = copy_progress,
		.arg = run,
	};
	int rc = copy_cluster_size(run, from->qcow2_path, &opts.cluster_size, err);

	if (!rc)
		rc = copy_convert(run, from->qcow2_path, disk, &opts, err);
	if (!rc)
		rc = copy_compare(run, from, disk, err);
	run->base += disk->bytes_total;
	return rc;
}

/* --- reading back --------------------------------------------------------------------------- */

static void copy_differs(void *arg, uint64_t off, uint64_t len, int res)
{
	struct copy_run *run = arg;
	const struct catalog_copy_disk *disk = &run->disks[run->at];

	if (run->why.code) /* the first says enough */
		return;
	err_set(&run->why, -EBADMSG,
		"disk %d of the copy in repository \"%s\" is not what was written: guest bytes "
		"%llu to %llu %s%s; it is in the quarantine",
		disk->disk_index, run->to->name, (unsigned long long)off,
		(unsigned long long)(off + len), res ? "cannot be read: " : "differ",
		res ? strerror(-res) : "");
}

/* The file's own, as sha256sum(1) gives it. */
static int copy_hash(struct copy_run *run, const char *path, char hex[SHA256_HEX_SIZE],
		     struct err *err)
{
	_cleanup_(freep) void *buf = NULL;
	struct file *file = NULL;
	struct sha256 h;
	uint64_t off = 0;
	ssize_t n = 0;
	int rc = file_open(&file, path, FILE_RDONLY, err);

	if (rc)
		return rc;
	if (posix_memalign(&buf, FILE_ALIGN, COPY_HASH_PIECE) || !sha256_begin(&h)) {
		file_close(file);
		return err_sys(err, -ENOMEM, "checksum of %s", path);
	}
	while ((n = file_pread(file, buf, COPY_HASH_PIECE, off)) > 0) {
		sha256_add(&h, buf, (size_t)n);
		off += (uint64_t)n;
		if (!copy_verify_progress(run, 0, 0)) {
			n = -ECANCELED;
			break;
		}
	}
	file_close(file);
	if (!sha256_end(&h, hex) && n >= 0)
		n = -EIO;
	return n < 0 ? err_sys(err, (int)n, "reading %s", path) : 0;
}

/* A file of a finished copy is gone, or all of its repository is just now. One that was being made
 * begins anew. */
static int copy_is_missing(struct copy_run *run, const char *path, int rc, struct err *err)
{
	struct err away = ERR_INIT;

	if (run->row.task != CATALOG_COPY_VERIFY)
		return rc;
	if (!run->to->ops->check_there(run->to, path, &away)) {
		run->lies = true;
		return rc;
	}
	*err = away;
	return away.code;
}

/* The checksums are the backup's (copy_compare()), the data comes from the disk: the engine reads
 * past the page cache. */
static int copy_read_back(struct copy_run *run, const char *path, struct err *err)
{
	static const struct qcow2_verify_ops ops = {.differs = copy_differs,
						    .progress = copy_verify_progress};
	struct catalog_copy_disk *disk = &run->disks[run->at];
	char before[SHA256_HEX_SIZE];
	uint64_t differing = 0;
	int rc = qcow2_verify(path, run->to->root, &ops, run, &differing, err);

	if (rc == -ENOENT)
		return copy_is_missing(run, path, rc, err);
	if (rc == -EBADMSG || rc > 0)
		run->lies = true;
	if (!rc && differing) {
		run->lies = true;
		*err = run->why;
		rc = run->why.code;
	}
	if (rc)
		return rc;
	CATALOG_TEXT(before, disk->sha256);
	rc = copy_hash(run, path, disk->sha256, err);
	if (!rc && before[0] && strcmp(before, disk->sha256)) {
		run->lies = true;
		rc = err_set(err, -EBADMSG,
			     "the file of disk %d of the copy in repository \"%s\" was changed: "
			     "its SHA-256 is another; it is in the quarantine",
			     disk->disk_index, run->to->name);
	}
	return rc;
}

static int copy_read_back_all(struct copy_run *run, bool final, struct err *err)
{
	for (run->at = 0; run->at < run->n; run->at++) {
		const struct catalog_copy_disk *disk = &run->disks[run->at];
		int rc = copy_read_back(run, final ? disk->qcow2_path : disk->part_path, err);

		if (rc)
			return rc;
	}
	return 0;
}

/* --- the end -------------------------------------------------------------------------------- */

static int copy_settle_disk(struct copy_run *run, size_t i, struct err *err)
{
	struct catalog_copy_disk *disk = &run->disks[i];
	_cleanup_(freep) char *text = NULL;
	struct repo_point point;
	int rc;

	CATALOG_TEXT(point.path, disk->qcow2_path);
	CATALOG_TEXT(point.part, disk->part_path);
	rc = run->to->ops->commit(run->to, &point, err);
	if (rc)
		return rc;
	disk->bytes_stored = run->to->ops->stored_size(run->to, disk->qcow2_path);
	text = hub_sidecar_of_copy(run->hub, &run->row, disk, &run->view, i, run->from, run->to);
	if (!text)
		return err_sys(err, -ENOMEM, "sidecar of %s", disk->qcow2_path);
	return run->to->ops->put_sidecar(run->to, disk->qcow2_path, text, strlen(text), err);
}

/* Until the catalog has heard it, one way or the other. */
static int copy_complete(struct copy_run *run, bool verified, struct err *err)
{
	int rc;

	do
		rc = catalog_copy_complete(run->hub->catalog, &run->row, run->disks, run->n,
					   verified, err);
	while (copy_again(run, rc));
	if (rc < 0) /* nobody knows: the files stay, and the next start looks */
		run->n = 0;
	return copy_written(run, rc);
}

static int copy_make(struct copy_run *run, struct err *err)
{
	bool verify = run->row.verify_after_copy;
	int rc = copy_open(run, err);

	for (run->at = 0; !rc && run->at < run->n; run->at++)
		rc = copy_disk(run, err);
	if (!rc && verify)
		rc = copy_written(run,
				  catalog_copy_set_verifying(run->hub->catalog, &run->row, err));
	if (!rc && verify)
		rc = copy_read_back_all(run, false, err);
	/* Not under a name it keeps, if somebody else is at it by now: asked once more. */
	run->told_ns = 0;
	if (!rc && !copy_may_go_on(run, run->row.bytes_total))
		rc = -ECANCELED;
	for (size_t i = 0; !rc && i < run->n; i++)
		rc = copy_settle_disk(run, i, err);
	return rc ? rc : copy_complete(run, verify, err);
}

static int copy_verify_again(struct copy_run *run, struct err *err)
{
	int rc = copy_open_repo(run->hub, run->row.repository_id, &run->to, err);

	if (!rc)
		rc = hub_from_catalog(catalog_copy_disks_list(run->hub->catalog, run->row.id,
							      &run->disks, &run->n, err));
	if (!rc)
		rc = copy_read_back_all(run, true, err);
	return rc ? rc : copy_complete(run, true, err);
}

static void copy_count(struct copy_run *run, bool completed)
{
	struct hub *hub = run->hub;

	pthread_mutex_lock(&hub->lock);
	hub->totals.copies[completed ? HUB_COPY_COMPLETED : HUB_COPY_FAILED]++;
	for (size_t i = 0; completed && i < run->n; i++)
		hub->totals.copied_bytes += (uint64_t)run->disks[i].bytes_stored;
	pthread_mutex_unlock(&hub->lock);
}

static int64_t copy_next_attempt(const struct copy_run *run)
{
	int64_t pause_us = (int64_t)hub_config_now(run->hub).copy_retry_ms * 1000;
	int attempts = run->row.attempts;

	if (run->differs || run->lies)
		return 0;
	if (run->row.task != CATALOG_COPY_REMOVE && attempts >= COPY_ATTEMPTS)
		return 0;
	for (int i = 1; i < MIN(attempts, COPY_ATTEMPTS); i++)
		pause_us *= 4;
	return catalog_now_us() + MIN(pause_us, COPY_PAUSE_MAX_US);
}

/* Tells the catalog of an end that is none: by itself, or with the reason. A hub that goes down
 * before it could leaves it to the next start. */
static void copy_tell(struct copy_run *run, const struct err *why)
{
	const struct catalog_copy_failure failure = {
		.reason = why->text, .differs = run->lies, .retry_at_us = copy_next_attempt(run)};
	struct catalog *cat = run->hub->catalog;
	int rc;

	do {
		if (run->stop == COPY_HUB_STOPS)
			rc = catalog_copy_release(cat, &run->row, NULL);
		else if (run->row.task == CATALOG_COPY_VERIFY && !run->lies)
			rc = catalog_copy_keep(cat, &run->row, why->text, NULL);
		else
			rc = catalog_copy_fail(cat, &run->row, &failure, NULL);
	} while (copy_again(run, rc));
}

static void copy_ended_badly(struct copy_run *run, const struct err *why)
{
	struct hub *hub = run->hub;

	copy_discard(run);
	switch (run->stop) {
	case COPY_TAKEN:
		log_warn(&hub->log, "copy %s was taken over by another hub", run->row.id);
		return;
	case COPY_TO_REMOVE:
		run->row.task = CATALOG_COPY_REMOVE;
		hub_copy_delete(hub, &run->row, NULL);
		return;
	case COPY_HUB_STOPS:
		log_info(&hub->log, "copy %s begins anew when a hub runs again", run->row.id);
		break;
	case COPY_GOES_ON:
		copy_count(run, false);
		log_error(&hub->log, "copy %s of %s to repository \"%s\": %s", run->row.id,
			  run->row.backup_job_id, run->row.repository_name, why->text);
		break;
	}
	copy_tell(run, why);
}

int hub_copy_delete(struct hub *hub, const struct catalog_copy *copy, struct err *err)
{
	struct copy_run run = {.hub = hub, .row = *copy, .tick_ms = hub_config_now(hub).tick_ms};
	struct err why = ERR_INIT;
	int rc = copy_delete_known(hub, copy, &why);

	if (rc < 0 && rc != -EBUSY && rc != -ENOTCONN) /* of files; these two are the catalog's */
		rc = HUB_E_STATE;
	if (!rc)
		rc = hub_from_catalog(catalog_copy_remove(hub->catalog, copy, &why));
	if (!rc) {
		log_info(&hub->log, "copy %s of %s in repository \"%s\" is removed", copy->id,
			 copy->backup_job_id, copy->repository_name);
		return 0;
	}
	log_error(&hub->log, "copy %s cannot be removed: %s", copy->id, why.text);
	copy_tell(&run, &why);
	return err_set(err, rc, "%s; it is tried again later", why.text);
}

void hub_copy_clear(struct hub *hub, const struct catalog_copy *copy)
{
	struct err err = ERR_INIT;

	log_warn(&hub->log, "copy %s of %s: the hub that was at it is gone: it begins anew",
		 copy->id, copy->backup_job_id);
	if (copy->task != CATALOG_COPY_VERIFY && copy_delete_known(hub, copy, &err))
		log_warn(&hub->log, "copy %s: what was half made is left for later: %s", copy->id,
			 err.text);
	if (catalog_copy_release(hub->catalog, copy, &err))
		log_warn(&hub->log, "copy %s: %s", copy->id, err.text);
}

void hub_copy_run(struct hub *hub, const struct catalog_copy *copy)
{
	struct copy_run run = {.hub = hub, .row = *copy, .tick_ms = hub_config_now(hub).tick_ms};
	struct err err = ERR_INIT;
	int rc;

	if (copy->task == CATALOG_COPY_REMOVE) {
		hub_copy_delete(hub, copy, NULL);
		return;
	}
	log_info(&hub->log, "copy %s of %s to repository \"%s\": %s", copy->id, copy->backup_job_id,
		 copy->repository_name,
		 copy->task == CATALOG_COPY_VERIFY ? "is read back" : "begins");
	rc = copy->task == CATALOG_COPY_VERIFY ? copy_verify_again(&run, &err)
					       : copy_make(&run, &err);
	if (rc)
		copy_ended_badly(&run, &err);
	else {
		if (copy->task == CATALOG_COPY_MAKE)
			copy_count(&run, true);
		log_info(&hub->log, "copy %s of %s to repository \"%s\" is %s", copy->id,
			 copy->backup_job_id, copy->repository_name,
			 copy->task == CATALOG_COPY_VERIFY ? "verified" : "completed");
	}
	repo_close(run.from);
	repo_close(run.to);
	free(run.disks);
	hub_backup_view_deinit(&run.view);
}

int hub_copy_check_room(struct hub *hub, const char *backup_id, struct repo *to, struct err *err)
{
	_cleanup_(hub_backup_view_deinit) struct hub_backup_view view = {.disks = NULL};
	_cleanup_(repo_closep) struct repo *from = NULL;
	int rc = hub_backup_get(hub, backup_id, &view, err);

	if (!rc)
		rc = copy_open_repo(hub, view.job.repository_id, &from, err);
	return rc ? rc : copy_check_room(&view, from, to, err);
}
