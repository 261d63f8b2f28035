/* Deleting backups: what goes, what may not, what the rows that stay say afterwards, and the
 * journal that leads to the files. */
#include "tests/catalog/fixture.h"

#include <errno.h>
#include <pthread.h>

#include "catalog/deletions.h"
#include "catalog/hubs.h"

/* Deletes and says how many entries the journal got. */
static size_t gone(struct fx *fx, const char *id, bool cascade)
{
	struct catalog_deletion *rows = NULL;
	size_t n = 0;

	OK(catalog_backup_delete(fx->cat, id, cascade, &rows, &n, &err));
	free(rows);
	return n;
}

static int refused(struct fx *fx, const char *id, bool cascade, struct err *err)
{
	struct catalog_deletion *rows = NULL;
	size_t n = 0;

	return catalog_backup_delete(fx->cat, id, cascade, &rows, &n, err);
}

static struct catalog_backup_context context_of(struct fx *fx, const struct fx_ready *r)
{
	struct catalog_backup_context ctx;

	OK(catalog_backup_context_get(fx->cat, r->ctx.context_id, &ctx, &err));
	return ctx;
}

/* The chains of a disk index, oldest first. */
static size_t chains_of(struct fx *fx, int disk_index, struct catalog_chain *out, size_t max)
{
	const struct catalog_chain_filter f = {.disk_index = disk_index};
	struct catalog_chain *rows;
	size_t n;

	OK(catalog_chains_list(fx->cat, &f, &rows, &n, &err));
	if (n)
		memcpy(out, rows, MIN(n, max) * sizeof(*rows));
	free(rows);
	return n;
}

static const char *change_id(struct fx *fx, int disk_index)
{
	static struct catalog_backup_disk point;

	if (catalog_point_latest_of_vm(fx->cat, "pgtest1", disk_index, &point, NULL))
		return "";
	return point.change_id;
}

/* --- what goes -------------------------------------------------------------------------------- */

static void the_latest_goes_and_the_one_before_is_the_latest_again(void **state)
{
	struct fx *fx = *state;
	struct catalog_deletion_file *files;
	struct catalog_deletion entry, *rows;
	struct catalog_backup_context ctx;
	struct catalog_chain chain[2];
	struct fx_job full, incr, last, next;
	struct catalog_backup got;
	struct fx_ready r;
	size_t n;

	fx_ready(fx, &r, "pgtest1", 2);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &full);
	fx_backup(fx, &r, CATALOG_BACKUP_INCREMENTAL, "b", &incr);
	fx_backup(fx, &r, CATALOG_BACKUP_INCREMENTAL, "c", &last);
	assert_string_equal(change_id(fx, 1), "c/1");

	OK(catalog_backup_delete(fx->cat, last.job.id, false, &rows, &n, &err));
	assert_int_equal(n, 1);
	assert_string_equal(rows[0].backup_id, last.job.id);
	assert_string_equal(rows[0].vm_name, "pgtest1");
	assert_string_equal(rows[0].repository_id, r.repo.id);
	assert_int_equal(rows[0].size_bytes, 1000);
	assert_int_equal(rows[0].image_count, 2);
	OK(catalog_deletion_files(fx->cat, rows[0].id, &files, &n, &err));
	assert_int_equal(n, 2);
	for (size_t i = 0; i < n; i++) {
		assert_string_equal(files[i].qcow2_path, last.disks[i].qcow2_path);
		assert_true(files[i].committed);
	}
	free(files);
	OK(catalog_deletion_get(fx->cat, last.job.id, &entry, &err));
	assert_int_equal(entry.id, rows[0].id);
	free(rows);

	EXPECT(CATALOG_E_NOT_FOUND, catalog_backup_get(fx->cat, last.job.id, &got, &err));
	assert_string_equal(change_id(fx, 0), "b/0");
	assert_string_equal(change_id(fx, 1), "b/1");
	ctx = context_of(fx, &r);
	assert_string_equal(ctx.last_backup_id, incr.job.id);
	assert_int_equal(ctx.last_backup_type, CATALOG_BACKUP_INCREMENTAL);
	OK(catalog_backup_get(fx->cat, incr.job.id, &got, &err));
	assert_int_equal(ctx.last_backup_at_us, got.completed_at_us);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(chains_of(fx, i, chain, 1), 1);
		assert_string_equal(chain[0].latest_backup_id, incr.job.id);
		assert_int_equal(chain[0].total_backups, 2);
		assert_int_equal(chain[0].total_size_bytes, 1000);
		assert_true(chain[0].active);
	}

	fx_backup(fx, &r, CATALOG_BACKUP_INCREMENTAL, "d", &next);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(next.disks[i].parent_disk_id, incr.disks[i].id);
		assert_int_equal(chains_of(fx, i, chain, 1), 1);
		assert_string_equal(chain[0].latest_backup_id, next.job.id);
		assert_int_equal(chain[0].total_backups, 3);
	}
	EXPECT(CATALOG_E_NOT_FOUND, refused(fx, last.job.id, false, &err));
}

static void the_only_backup_goes_and_the_next_is_a_full(void **state)
{
	struct fx *fx = *state;
	struct catalog_backup_context ctx;
	struct catalog_chain chain[1];
	struct catalog_backup_stats stats;
	struct fx_job full, next;
	struct fx_ready r;

	fx_ready(fx, &r, "pgtest1", 2);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &full);
	assert_int_equal(gone(fx, full.job.id, false), 1);
	assert_int_equal(chains_of(fx, 0, chain, 1), 0);
	assert_string_equal(change_id(fx, 0), "");
	ctx = context_of(fx, &r);
	assert_string_equal(ctx.last_backup_id, "");
	assert_int_equal(ctx.last_backup_at_us, 0);
	OK(catalog_backup_get_stats(fx->cat, NULL, &stats, &err));
	assert_int_equal(stats.jobs[CATALOG_JOB_COMPLETED], 0);
	assert_int_equal(stats.bytes_stored, 0);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_disks"), 0);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM job_log"), 0);
	fx_backup(fx, &r, CATALOG_BACKUP_INCREMENTAL, "b", &next);
	assert_int_equal(next.disks[0].mode, CATALOG_BACKUP_FULL);
}

static void without_the_newer_full_the_older_chain_is_active_again(void **state)
{
	struct fx *fx = *state;
	struct fx_job first, incr, second, next;
	struct catalog_chain chain[2];
	struct fx_ready r;

	fx_ready(fx, &r, "pgtest1", 1);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &first);
	fx_backup(fx, &r, CATALOG_BACKUP_INCREMENTAL, "b", &incr);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "c", &second);
	assert_int_equal(gone(fx, second.job.id, false), 1);
	assert_int_equal(chains_of(fx, 0, chain, 2), 1);
	assert_string_equal(chain[0].full_backup_id, first.job.id);
	assert_true(chain[0].active);
	fx_backup(fx, &r, CATALOG_BACKUP_INCREMENTAL, "d", &next);
	assert_int_equal(next.disks[0].parent_disk_id, incr.disks[0].id);
	assert_int_equal(chains_of(fx, 0, chain, 2), 1);
	assert_int_equal(chain[0].total_backups, 3);
}

static void an_older_chain_goes_and_the_active_one_is_as_it_was(void **state)
{
	struct fx *fx = *state;
	struct fx_job first, incr, second;
	struct catalog_chain chain[2];
	struct fx_ready r;

	fx_ready(fx, &r, "pgtest1", 1);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &first);
	fx_backup(fx, &r, CATALOG_BACKUP_INCREMENTAL, "b", &incr);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "c", &second);
	EXPECT_TEXT(CATALOG_E_IN_USE, incr.job.id, refused(fx, first.job.id, false, &err));
	assert_int_equal(gone(fx, first.job.id, true), 2);
	assert_int_equal(chains_of(fx, 0, chain, 2), 1);
	assert_string_equal(chain[0].full_backup_id, second.job.id);
	assert_true(chain[0].active);
	assert_string_equal(context_of(fx, &r).last_backup_id, second.job.id);
	assert_string_equal(change_id(fx, 0), "c/0");
}

/* --- who leans on it -------------------------------------------------------------------------- */

static void what_others_lean_on_stays_and_they_are_named(void **state)
{
	struct fx *fx = *state;
	struct catalog_deletion *rows;
	struct fx_job full, i1, i2;
	struct catalog_chain chain[1];
	struct fx_ready r;
	size_t n;

	fx_ready(fx, &r, "pgtest1", 2);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &full);
	fx_backup(fx, &r, CATALOG_BACKUP_INCREMENTAL, "b", &i1);
	fx_backup(fx, &r, CATALOG_BACKUP_INCREMENTAL, "c", &i2);
	EXPECT_TEXT(CATALOG_E_IN_USE, i1.job.id, refused(fx, full.job.id, false, &err));
	EXPECT_TEXT(CATALOG_E_IN_USE, i2.job.id, refused(fx, full.job.id, false, &err));
	EXPECT_TEXT(CATALOG_E_IN_USE, i2.job.id, refused(fx, i1.job.id, false, &err));
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_deletions"), 0);

	OK(catalog_backup_delete(fx->cat, i1.job.id, true, &rows, &n, &err));
	assert_int_equal(n, 2); /* newest first */
	assert_string_equal(rows[0].backup_id, i2.job.id);
	assert_string_equal(rows[1].backup_id, i1.job.id);
	free(rows);
	assert_int_equal(chains_of(fx, 1, chain, 1), 1);
	assert_string_equal(chain[0].latest_backup_id, full.job.id);
	assert_int_equal(chain[0].total_backups, 1);
	assert_string_equal(context_of(fx, &r).last_backup_id, full.job.id);
}

static void each_disk_counts_for_itself(void **state)
{
	struct fx *fx = *state;
	struct fx_job full, mixed, last;
	struct catalog_chain chain[2];
	struct fx_ready r;

	fx_ready(fx, &r, "pgtest1", 2);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &full);
	fx_plan(fx, &r, CATALOG_BACKUP_INCREMENTAL, &mixed);
	mixed.disks[1].mode = CATALOG_BACKUP_FULL;
	mixed.disks[1].parent_disk_id = CATALOG_NONE;
	OK(catalog_backup_start(fx->cat, &mixed.job, mixed.disks, mixed.n, NULL, &err));
	fx_complete_all(fx, &mixed, "b");
	fx_plan(fx, &r, CATALOG_BACKUP_INCREMENTAL, &last);
	last.disks[0].mode = CATALOG_BACKUP_FULL;
	last.disks[0].parent_disk_id = CATALOG_NONE;
	OK(catalog_backup_start(fx->cat, &last.job, last.disks, last.n, NULL, &err));
	fx_complete_all(fx, &last, "c");

	/* Disk 0 of `mixed` leans on `full`, disk 1 of `last` on `mixed`. */
	EXPECT_TEXT(CATALOG_E_IN_USE, mixed.job.id, refused(fx, full.job.id, false, &err));
	EXPECT_TEXT(CATALOG_E_IN_USE, last.job.id, refused(fx, mixed.job.id, false, &err));
	assert_int_equal(gone(fx, last.job.id, false), 1);
	assert_int_equal(chains_of(fx, 0, chain, 2), 1);
	assert_true(chain[0].active);
	assert_string_equal(chain[0].latest_backup_id, mixed.job.id);
	assert_int_equal(gone(fx, mixed.job.id, false), 1);
	assert_int_equal(chains_of(fx, 1, chain, 2), 1);
	assert_string_equal(chain[0].full_backup_id, full.job.id);
	assert_true(chain[0].active);
	assert_string_equal(change_id(fx, 1), "a/1");
	assert_int_equal(gone(fx, full.job.id, false), 1);
}

static void what_was_never_offered_holds_nothing(void **state)
{
	struct fx *fx = *state;
	struct catalog_deletion_file *files;
	struct catalog_deletion entry;
	struct fx_job full, failed, cancelled;
	struct catalog_backup_disk d;
	struct fx_ready r;
	size_t n;

	fx_ready(fx, &r, "pgtest1", 2);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &full);
	fx_start(fx, &r, CATALOG_BACKUP_INCREMENTAL, &failed);
	OK(fx_complete(fx, failed.job.id, 0, "b/0", NULL, &err));
	OK(catalog_backup_fail(fx->cat, failed.job.id, CATALOG_JOB_FAILED, "x", &err));
	fx_start(fx, &r, CATALOG_BACKUP_INCREMENTAL, &cancelled);
	OK(catalog_backup_fail(fx->cat, cancelled.job.id, CATALOG_JOB_CANCELLED, "x", &err));
	assert_int_equal(gone(fx, full.job.id, false), 1);
	OK(catalog_backup_disk_get(fx->cat, failed.job.id, 0, &d, &err));
	assert_int_equal(d.parent_disk_id, CATALOG_NONE);

	/* Its committed image goes with it; of the other disk there is none. */
	assert_int_equal(gone(fx, failed.job.id, false), 1);
	OK(catalog_deletion_get(fx->cat, failed.job.id, &entry, &err));
	assert_int_equal(entry.image_count, 1);
	OK(catalog_deletion_files(fx->cat, entry.id, &files, &n, &err));
	assert_int_equal(n, 2);
	assert_true(files[0].committed);
	assert_false(files[1].committed);
	free(files);
	assert_int_equal(gone(fx, cancelled.job.id, false), 1);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_jobs"), 0);
}

static void what_runs_is_not_deleted_and_nor_is_what_it_leans_on(void **state)
{
	struct fx *fx = *state;
	struct fx_job full, running;
	struct fx_ready r;

	fx_ready(fx, &r, "pgtest1", 1);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &full);
	fx_start(fx, &r, CATALOG_BACKUP_INCREMENTAL, &running);
	EXPECT_TEXT(CATALOG_E_BUSY, "cancel", refused(fx, running.job.id, false, &err));
	EXPECT_TEXT(CATALOG_E_IN_USE, running.job.id, refused(fx, full.job.id, false, &err));
	EXPECT_TEXT(CATALOG_E_BUSY, running.job.id, refused(fx, full.job.id, true, &err));
	fx_complete_all(fx, &running, "b");
	assert_int_equal(gone(fx, full.job.id, true), 2);
}

/* --- what may not go -------------------------------------------------------------------------- */

static void a_repository_keeps_what_it_must(void **state)
{
	struct fx *fx = *state;
	struct fx_job full, incr, failed;
	struct fx_ready r;

	fx_ready(fx, &r, "pgtest1", 1);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &full);
	fx_backup(fx, &r, CATALOG_BACKUP_INCREMENTAL, "b", &incr);
	fx_start(fx, &r, CATALOG_BACKUP_INCREMENTAL, &failed);
	OK(catalog_backup_fail(fx->cat, failed.job.id, CATALOG_JOB_FAILED, "x", &err));

	tmpdb_sql(&fx->t, "UPDATE backup_repositories SET is_immutable = 1");
	EXPECT_TEXT(CATALOG_E_STATE, "immutable", refused(fx, incr.job.id, false, &err));
	EXPECT_TEXT(CATALOG_E_STATE, "immutable", refused(fx, full.job.id, true, &err));

	tmpdb_sql(&fx->t, "UPDATE backup_repositories SET is_immutable = 0,"
			  " min_retention_days = 14");
	/* 2001-09-09, and 14 days later. */
	tmpdb_sql(&fx->t, "UPDATE backup_jobs SET completed_at = 1000000000000000 WHERE id = '%s'",
		  full.job.id);
	EXPECT_TEXT(CATALOG_E_STATE, "until 20", refused(fx, incr.job.id, false, &err));
	/* All or nothing: the full's time is over, its child's is not. */
	EXPECT_TEXT(CATALOG_E_STATE, incr.job.id, refused(fx, full.job.id, true, &err));
	tmpdb_sql(&fx->t, "UPDATE backup_repositories SET min_retention_days = 9000000000000000");
	EXPECT_TEXT(CATALOG_E_STATE, "for good", refused(fx, incr.job.id, false, &err));
	assert_int_equal(gone(fx, failed.job.id, false), 1); /* no point, nothing to keep */

	tmpdb_sql(&fx->t, "UPDATE backup_repositories SET min_retention_days = 14,"
			  " is_immutable = 1");
	tmpdb_sql(&fx->t, "UPDATE backup_jobs SET completed_at = 1000000000000000");
	assert_int_equal(gone(fx, full.job.id, true), 2);
}

static void what_is_mounted_or_being_copied_stays(void **state)
{
	static const char *const mounts[] = {"mounting", "mounted", "unmounting"};
	static const char *const copies[] = {"pending", "copying", "verifying"};
	struct catalog_repository other;
	struct fx_job full;
	struct fx_ready r;

	struct fx *fx = *state;
	fx_ready(fx, &r, "pgtest1", 2);
	fx_add_repository(fx, &other, "other");
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &full);
	tmpdb_sql(&fx->t,
		  "INSERT INTO restore_mounts (id, backup_disk_id, status, created_at,"
		  " last_used_at) VALUES ('m', %" PRId64 ", 'failed', 1, 1)",
		  full.disks[1].id);
	for (size_t i = 0; i < ARRAY_SIZE(mounts); i++) {
		tmpdb_sql(&fx->t, "UPDATE restore_mounts SET status = '%s'", mounts[i]);
		EXPECT_TEXT(CATALOG_E_IN_USE, "mounted", refused(fx, full.job.id, true, &err));
	}
	tmpdb_sql(&fx->t, "UPDATE restore_mounts SET status = 'failed'");
	tmpdb_sql(&fx->t,
		  "INSERT INTO backup_copies (id, backup_job_id, repository_id, status,"
		  " created_at, completed_at) VALUES ('c', '%s', '%s', 'pending', 1, 1)",
		  full.job.id, other.id);
	for (size_t i = 0; i < ARRAY_SIZE(copies); i++) {
		tmpdb_sql(&fx->t, "UPDATE backup_copies SET status = '%s'", copies[i]);
		EXPECT_TEXT(CATALOG_E_IN_USE, "a copy", refused(fx, full.job.id, false, &err));
	}
	tmpdb_sql(&fx->t, "UPDATE backup_copies SET status = 'completed'");
	EXPECT_TEXT(CATALOG_E_IN_USE, "copies", refused(fx, full.job.id, false, &err));
	tmpdb_sql(&fx->t, "UPDATE backup_copies SET status = 'failed'");
	assert_int_equal(gone(fx, full.job.id, false), 1);
}

/* --- a VM ------------------------------------------------------------------------------------- */

static void a_vm_goes_with_all_its_backups_everywhere(void **state)
{
	struct fx *fx = *state;
	struct catalog_deletion *rows;
	struct fx_ready r, there, other;
	struct fx_job full, incr, failed, j;
	size_t n;

	fx_ready(fx, &other, "other", 1);
	fx_backup(fx, &other, CATALOG_BACKUP_FULL, "o", &j);
	fx_ready(fx, &r, "pgtest1", 2);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &full);
	fx_backup(fx, &r, CATALOG_BACKUP_INCREMENTAL, "b", &incr);
	there = r;
	fx_add_repository(fx, &there.repo, "second");
	OK(catalog_backup_context_ensure(fx->cat, r.v.vm.context_id, there.repo.id, &there.ctx,
					 &err));
	fx_start(fx, &there, CATALOG_BACKUP_FULL, &failed);
	EXPECT(CATALOG_E_BUSY,
	       catalog_vm_context_delete_all(fx->cat, r.v.vm.context_id, &rows, &n, &err));
	OK(fx_complete(fx, failed.job.id, 0, "c/0", NULL, &err));
	OK(catalog_backup_fail(fx->cat, failed.job.id, CATALOG_JOB_FAILED, "x", &err));
	tmpdb_sql(&fx->t, "UPDATE backup_repositories SET is_immutable = 1 WHERE name = 'main'");
	EXPECT(CATALOG_E_STATE,
	       catalog_vm_context_delete_all(fx->cat, r.v.vm.context_id, &rows, &n, &err));
	tmpdb_sql(&fx->t, "UPDATE backup_repositories SET is_immutable = 0");
	/* Two rows that name one file, as an old database may have: it is listed once. */
	tmpdb_sql(&fx->t,
		  "UPDATE backup_disks SET qcow2_path = 'shared' WHERE disk_index = 0"
		  " AND backup_job_id IN ('%s', '%s')",
		  full.job.id, incr.job.id);

	OK(catalog_vm_context_delete_all(fx->cat, r.v.vm.context_id, &rows, &n, &err));
	assert_int_equal(n, 3);
	assert_string_equal(rows[0].backup_id, failed.job.id);
	assert_string_equal(rows[0].repository_id, there.repo.id);
	assert_string_equal(rows[1].backup_id, incr.job.id);
	assert_string_equal(rows[2].backup_id, full.job.id);
	assert_int_equal(rows[1].image_count + rows[2].image_count, 3);
	free(rows);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_jobs"), 1);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM vm_backup_contexts"), 1);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM vm_disks"), 1);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_chains"), 1);
	EXPECT(CATALOG_E_NOT_FOUND,
	       catalog_vm_context_delete_all(fx->cat, r.v.vm.context_id, &rows, &n, &err));
	OK(catalog_vm_context_delete_all(fx->cat, other.v.vm.context_id, &rows, &n, &err));
	assert_int_equal(n, 1);
	free(rows);
}

static void a_vm_without_backups_goes_too(void **state)
{
	struct fx *fx = *state;
	struct catalog_deletion *rows = NULL;
	struct fx_ready r;
	size_t n = 7;

	fx_ready(fx, &r, "pgtest1", 1);
	OK(catalog_vm_context_delete_all(fx->cat, r.v.vm.context_id, &rows, &n, &err));
	assert_int_equal(n, 0);
	assert_null(rows);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM vm_backup_contexts"), 0);
}

/* --- the journal ------------------------------------------------------------------------------ */

static void the_journal_is_worked_off_entry_by_entry(void **state)
{
	struct fx *fx = *state;
	struct catalog_deletion entry;
	struct fx_job full, incr;
	struct fx_ready r;

	fx_ready(fx, &r, "pgtest1", 1);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &full);
	fx_backup(fx, &r, CATALOG_BACKUP_INCREMENTAL, "b", &incr);
	EXPECT(CATALOG_E_NOT_FOUND, catalog_deletion_due(fx->cat, &entry, &err));
	assert_int_equal(gone(fx, full.job.id, true), 2);
	OK(catalog_deletion_due(fx->cat, &entry, &err));
	assert_string_equal(entry.backup_id, incr.job.id);
	OK(catalog_deletion_claim(fx->cat, incr.job.id, 3600000, &entry, &err));
	assert_int_equal(entry.attempts, 1);
	OK(catalog_deletion_failed(fx->cat, entry.id, "the disk is gone", 3600000, &err));
	OK(catalog_deletion_get(fx->cat, incr.job.id, &entry, &err));
	assert_string_equal(entry.error_message, "the disk is gone");
	/* It waits, the next one does not. */
	OK(catalog_deletion_due(fx->cat, &entry, &err));
	assert_string_equal(entry.backup_id, full.job.id);
	OK(catalog_deletion_claim(fx->cat, full.job.id, 3600000, &entry, &err));
	OK(catalog_deletion_files_gone(fx->cat, entry.id, &err));
	OK(catalog_deletion_done(fx->cat, entry.id, &err));
	EXPECT(CATALOG_E_FENCED, catalog_deletion_done(fx->cat, entry.id, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_deletion_due(fx->cat, &entry, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_deletion_get(fx->cat, full.job.id, &entry, &err));

	/* Whoever asks for it by name need not wait; nor when its time has come. */
	OK(catalog_deletion_claim(fx->cat, incr.job.id, 0, &entry, &err));
	assert_int_equal(entry.attempts, 2);
	OK(catalog_deletion_due(fx->cat, &entry, &err));
	EXPECT_TEXT(CATALOG_E_IN_USE, "could not be removed",
		    catalog_repository_delete(fx->cat, r.repo.id, &err));
	OK(catalog_deletion_done(fx->cat, entry.id, &err));
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_deletion_files"), 0);
	OK(catalog_repository_delete(fx->cat, r.repo.id, &err));
}

static void an_entry_is_one_hubs_until_that_hub_is_gone(void **state)
{
	struct fx *fx = *state;
	struct catalog_hub mine = {.name = "a", .instance = "data-a"};
	struct catalog_hub other = {.name = "b", .instance = "data-b"};
	_cleanup_(catalog_closep) struct catalog *second = NULL;
	struct catalog_deletion entry;
	struct fx_ready r;
	struct fx_job full;

	OK(catalog_open(fx->t.url, NULL, &second, &err));
	OK(catalog_hub_join(fx->cat, &mine, 60000, &err));
	OK(catalog_hub_join(second, &other, 60000, &err));
	fx_ready(fx, &r, "pgtest1", 1);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &full);
	assert_int_equal(gone(fx, full.job.id, false), 1);
	/* From the first moment on: no time in which both are at it. */
	EXPECT(CATALOG_E_NOT_FOUND, catalog_deletion_due(second, &entry, &err));
	EXPECT(CATALOG_E_BUSY, catalog_deletion_claim(second, full.job.id, 0, &entry, &err));
	OK(catalog_deletion_claim(fx->cat, full.job.id, 3600000, &entry, &err));
	EXPECT(CATALOG_E_BUSY, catalog_deletion_claim(second, full.job.id, 0, &entry, &err));
	EXPECT(CATALOG_E_FENCED, catalog_deletion_done(second, entry.id, &err));

	tmpdb_sql(&fx->t, "DELETE FROM hubs WHERE name = 'a'");
	OK(catalog_deletion_due(second, &entry, &err)); /* though an hour has not gone by */
	OK(catalog_deletion_claim(second, full.job.id, 3600000, &entry, &err));
	EXPECT(CATALOG_E_FENCED, catalog_deletion_files_gone(fx->cat, entry.id, &err));
	EXPECT(CATALOG_E_FENCED, catalog_deletion_failed(fx->cat, entry.id, "x", 0, &err));
	EXPECT(CATALOG_E_FENCED, catalog_deletion_done(fx->cat, entry.id, &err));
	EXPECT(CATALOG_E_FENCED, refused(fx, full.job.id, false, &err)); /* it is no hub */

	/* Given back it is anybody's. */
	OK(catalog_deletion_failed(second, entry.id, "not from here", 0, &err));
	OK(catalog_hub_join(fx->cat, &mine, 60000, &err));
	OK(catalog_deletion_due(fx->cat, &entry, &err));
	OK(catalog_deletion_claim(fx->cat, full.job.id, 0, &entry, &err));
	OK(catalog_deletion_files_gone(fx->cat, entry.id, &err));
	OK(catalog_deletion_done(fx->cat, entry.id, &err));
}

static void a_name_that_is_being_deleted_is_not_given_again(void **state)
{
	struct fx *fx = *state;
	struct catalog_deletion entry;
	struct fx_ready r;
	struct fx_job full, next;

	fx_ready(fx, &r, "pgtest1", 1);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &full);
	assert_int_equal(gone(fx, full.job.id, false), 1);
	fx_plan(fx, &r, CATALOG_BACKUP_FULL, &next);
	CATALOG_TEXT(next.disks[0].qcow2_path, full.disks[0].qcow2_path);
	EXPECT_TEXT(CATALOG_E_CONFLICT, "being deleted",
		    catalog_backup_start(fx->cat, &next.job, next.disks, 1, NULL, &err));
	OK(catalog_deletion_claim(fx->cat, full.job.id, 0, &entry, &err));
	OK(catalog_deletion_done(fx->cat, entry.id, &err));
	OK(catalog_backup_start(fx->cat, &next.job, next.disks, 1, NULL, &err));
}

/* --- side by side ----------------------------------------------------------------------------- */

#define ROUNDS 40

struct racer {
	struct fx *fx;
	const struct fx_ready *r;
	char id[CATALOG_ID_SIZE]; /* to delete */
	int result;
};

static void *race_to_delete(void *arg)
{
	struct racer *racer = arg;
	struct catalog_deletion *rows = NULL;
	size_t n = 0;

	racer->result = catalog_backup_delete(racer->fx->cat, racer->id, false, &rows, &n, NULL);
	free(rows);
	return NULL;
}

/* A backup is planned on the latest point while that point is deleted: one of the two is refused.
 */
static void a_backup_never_starts_on_what_is_being_deleted(void **state)
{
	struct fx *fx = *state;
	struct racer racer = {.fx = fx};
	int won = 0, lost = 0;
	struct fx_job j, next;
	struct fx_ready r;

	fx_ready(fx, &r, "pgtest1", 1);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &j);
	for (int i = 0; i < ROUNDS; i++) {
		pthread_t thread;
		int rc;

		fx_backup(fx, &r, CATALOG_BACKUP_INCREMENTAL, "b", &j);
		strcpy(racer.id, j.job.id);
		fx_plan(fx, &r, CATALOG_BACKUP_INCREMENTAL, &next);
		if (i % 2) /* either may be the first */
			sched_yield();
		assert_int_equal(pthread_create(&thread, NULL, race_to_delete, &racer), 0);
		rc = catalog_backup_start(fx->cat, &next.job, next.disks, 1, NULL, NULL);
		pthread_join(thread, NULL);
		assert_true(rc == 0 || rc == CATALOG_E_CONFLICT);
		assert_int_equal(racer.result, rc ? 0 : CATALOG_E_IN_USE);
		won += !rc;
		lost += !!rc;
		if (!rc) {
			assert_string_equal(next.disks[0].parent_backup_id, j.job.id);
			fx_complete_all(fx, &next, "c");
		}
	}
	assert_int_equal(won + lost, ROUNDS);
	assert_int_equal(tmpdb_i64(&fx->t,
				   "SELECT COUNT(*) FROM backup_disks"
				   " WHERE mode = 'incremental' AND parent_disk_id IS NULL"),
			 0);
	tmpdb_assert_sound(&fx->t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FX_TEST(the_latest_goes_and_the_one_before_is_the_latest_again),
		FX_TEST(the_only_backup_goes_and_the_next_is_a_full),
		FX_TEST(without_the_newer_full_the_older_chain_is_active_again),
		FX_TEST(an_older_chain_goes_and_the_active_one_is_as_it_was),
		FX_TEST(what_others_lean_on_stays_and_they_are_named),
		FX_TEST(each_disk_counts_for_itself),
		FX_TEST(what_was_never_offered_holds_nothing),
		FX_TEST(what_runs_is_not_deleted_and_nor_is_what_it_leans_on),
		FX_TEST(a_repository_keeps_what_it_must),
		FX_TEST(what_is_mounted_or_being_copied_stays),
		FX_TEST(a_vm_goes_with_all_its_backups_everywhere),
		FX_TEST(a_vm_without_backups_goes_too),
		FX_TEST(the_journal_is_worked_off_entry_by_entry),
		FX_TEST(an_entry_is_one_hubs_until_that_hub_is_gone),
		FX_TEST(a_name_that_is_being_deleted_is_not_given_again),
		FX_TEST(a_backup_never_starts_on_what_is_being_deleted),
	};

	return tmpdb_run_tests("catalog/deletions", tests, NULL, NULL);
}
