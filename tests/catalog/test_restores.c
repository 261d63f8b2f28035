/*
 * Mounts for restores as the catalog keeps them: what may be mounted, by whom, and that nothing is
 * deleted under a mount, nor kept for one whose hub is gone. Two handles are two hubs.
 */
#include "catalog/deletions.h"
#include "catalog/restores.h"
#include "tests/catalog/fixture.h"

#define MOUNT_TEST(f) cmocka_unit_test_setup_teardown(f, fx_two_setup, fx_two_teardown)
#define PREFIX	      "/api/v1/restore/"

static void begin(struct catalog *cat, const struct fx_job *j, int disk, struct catalog_mount *m)
{
	OK(catalog_mount_begin(cat, j->job.id, disk, PREFIX, m, &err));
}

static int delete_backup(struct catalog *cat, const char *id, struct err *err)
{
	_cleanup_(freep) struct catalog_deletion *rows = NULL;
	size_t n = 0;

	return catalog_backup_delete(cat, id, true, &rows, &n, err);
}

static size_t mounts_seen(struct catalog *cat, struct catalog_mount *first)
{
	_cleanup_(freep) struct catalog_mount *rows = NULL;
	size_t n = 0;

	OK(catalog_mounts_list(cat, &rows, &n, &err));
	if (n && first)
		*first = rows[0];
	return n;
}

/* --- tests ---------------------------------------------------------------------------------- */

static void a_mount_is_told_as_it_is(void **state)
{
	struct fx_two *t = *state;
	struct catalog_mount m, seen;
	struct fx_job j;

	fx_backup(&t->fx, &t->r, CATALOG_BACKUP_FULL, "a", &j);
	begin(t->fx.cat, &j, 1, &m);
	assert_int_equal(m.status, CATALOG_MOUNT_MOUNTING);
	assert_string_equal(m.backup_id, j.job.id);
	assert_int_equal(m.backup_disk_id, j.disks[1].id);
	assert_int_equal(m.disk_index, 1);
	assert_string_equal(m.vm_name, "pgtest1");
	assert_string_equal(m.hub_name, "a");
	assert_int_equal(m.users, 1);
	assert_memory_equal(m.mount_path, PREFIX "mount-", strlen(PREFIX "mount-"));

	OK(catalog_mount_set_mounted(t->fx.cat, m.id, &err));
	OK(catalog_mount_set_used(t->fx.cat, m.id, 3, 77000000, &err));
	OK(catalog_mount_get(t->b, m.id, &seen, &err));
	assert_int_equal(seen.status, CATALOG_MOUNT_MOUNTED);
	assert_int_equal(seen.users, 3);
	assert_int_equal(seen.last_used_at_us, 77000000);
	assert_int_equal(mounts_seen(t->b, &seen), 1);
	assert_string_equal(seen.id, m.id);

	OK(catalog_mount_end(t->fx.cat, m.id, &err));
	OK(catalog_mount_end(t->fx.cat, m.id, &err));
	EXPECT_TEXT(CATALOG_E_NOT_FOUND, m.id, catalog_mount_get(t->fx.cat, m.id, &seen, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_mount_set_mounted(t->fx.cat, m.id, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_mount_set_used(t->fx.cat, m.id, 1, 1, &err));
	assert_int_equal(mounts_seen(t->fx.cat, NULL), 0);
}

static void what_is_not_offered_cannot_be_mounted(void **state)
{
	struct fx_two *t = *state;
	struct catalog_mount m;
	struct fx_job j;

	EXPECT_TEXT(CATALOG_E_NOT_FOUND, "backup-none",
		    catalog_mount_begin(t->fx.cat, "backup-none", 0, PREFIX, &m, &err));
	fx_start(&t->fx, &t->r, CATALOG_BACKUP_FULL, &j);
	OK(fx_complete(&t->fx, j.job.id, 0, "x", NULL, &err));
	/* That disk is done, its backup is not. */
	EXPECT_TEXT(CATALOG_E_STATE, "only a completed backup",
		    catalog_mount_begin(t->fx.cat, j.job.id, 0, PREFIX, &m, &err));
	OK(catalog_backup_fail(t->fx.cat, j.job.id, CATALOG_JOB_FAILED, "x", &err));
	EXPECT_TEXT(CATALOG_E_STATE, "failed",
		    catalog_mount_begin(t->fx.cat, j.job.id, 0, PREFIX, &m, &err));

	fx_backup(&t->fx, &t->r, CATALOG_BACKUP_FULL, "b", &j);
	EXPECT_TEXT(CATALOG_E_NOT_FOUND, "7",
		    catalog_mount_begin(t->fx.cat, j.job.id, 7, PREFIX, &m, &err));
	assert_int_equal(mounts_seen(t->fx.cat, NULL), 0);
}

static void a_disk_is_mounted_once_and_by_one_hub(void **state)
{
	struct fx_two *t = *state;
	struct catalog_mount m, again = {.id = ""}, other;
	struct fx_job j;

	fx_backup(&t->fx, &t->r, CATALOG_BACKUP_FULL, "a", &j);
	begin(t->fx.cat, &j, 0, &m);
	EXPECT_TEXT(CATALOG_E_EXISTS, m.id,
		    catalog_mount_begin(t->fx.cat, j.job.id, 0, PREFIX, &again, &err));
	assert_string_equal(again.id, m.id);
	EXPECT_TEXT(CATALOG_E_IN_USE, "hub \"a\"",
		    catalog_mount_begin(t->b, j.job.id, 0, PREFIX, &other, &err));
	begin(t->b, &j, 1, &other);

	/* Each its own. */
	EXPECT(CATALOG_E_NOT_FOUND, catalog_mount_set_mounted(t->b, m.id, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_mount_set_used(t->b, m.id, 9, 9, &err));
	OK(catalog_mount_end(t->b, m.id, &err));
	assert_int_equal(mounts_seen(t->b, NULL), 2);
	OK(catalog_mount_end(t->fx.cat, m.id, &err));
	begin(t->b, &j, 0, &other);
}

static void a_mounted_point_stays_and_an_unmounted_one_goes(void **state)
{
	struct fx_two *t = *state;
	struct catalog_mount m;
	struct fx_job full, incr;

	fx_backup(&t->fx, &t->r, CATALOG_BACKUP_FULL, "a", &full);
	fx_backup(&t->fx, &t->r, CATALOG_BACKUP_INCREMENTAL, "b", &incr);
	begin(t->fx.cat, &incr, 1, &m);
	EXPECT_TEXT(CATALOG_E_IN_USE, "mounted", delete_backup(t->b, incr.job.id, &err));
	/* Nor what it leans on. */
	EXPECT_TEXT(CATALOG_E_IN_USE, "mounted", delete_backup(t->b, full.job.id, &err));
	OK(catalog_mount_end(t->fx.cat, m.id, &err));
	OK(delete_backup(t->b, full.job.id, &err));
	EXPECT(CATALOG_E_NOT_FOUND,
	       catalog_mount_begin(t->fx.cat, incr.job.id, 1, PREFIX, &m, &err));
}

static void mounts_of_a_hub_that_is_gone_are_swept_and_no_others(void **state)
{
	struct fx_two *t = *state;
	struct catalog_mount of_a, of_b, left;
	struct fx_job j;
	int64_t n = 0;

	fx_backup(&t->fx, &t->r, CATALOG_BACKUP_FULL, "a", &j);
	begin(t->fx.cat, &j, 0, &of_a);
	begin(t->b, &j, 1, &of_b);
	OK(catalog_mounts_sweep(t->b, &n, &err));
	assert_int_equal(n, 0);

	/* Killed, and started again on its data folder. */
	OK(catalog_hub_join(t->fx.cat, &t->hub_a, FX_LEASE_MS, &err));
	EXPECT_TEXT(CATALOG_E_IN_USE, "gone",
		    catalog_mount_begin(t->b, j.job.id, 0, PREFIX, &left, &err));
	OK(catalog_mounts_sweep(t->fx.cat, &n, &err));
	assert_int_equal(n, 1);
	assert_int_equal(mounts_seen(t->b, &left), 1);
	assert_string_equal(left.id, of_b.id);

	/* One that comes from before hubs had tokens in here. */
	tmpdb_sql(&t->fx.t, "UPDATE restore_mounts SET hub_token = 0");
	OK(catalog_mounts_sweep(t->fx.cat, &n, &err));
	assert_int_equal(n, 1);
	assert_int_equal(mounts_seen(t->b, NULL), 0);

	/* A hub that lost its place neither mounts nor sweeps. */
	tmpdb_sql(&t->fx.t, "DELETE FROM hubs WHERE name = 'b'");
	begin(t->fx.cat, &j, 0, &of_a);
	tmpdb_sql(&t->fx.t, "UPDATE restore_mounts SET hub_token = 4711");
	EXPECT(CATALOG_E_FENCED, catalog_mounts_sweep(t->b, &n, &err));
	EXPECT(CATALOG_E_FENCED, catalog_mount_begin(t->b, j.job.id, 1, PREFIX, &of_b, &err));
}

static void a_mount_goes_with_its_disk(void **state)
{
	struct fx_two *t = *state;
	struct catalog_mount m;
	struct fx_job j;

	fx_backup(&t->fx, &t->r, CATALOG_BACKUP_FULL, "a", &j);
	begin(t->fx.cat, &j, 0, &m);
	tmpdb_sql(&t->fx.t, "DELETE FROM vm_backup_contexts");
	assert_int_equal(mounts_seen(t->fx.cat, NULL), 0);
	EXPECT(CATALOG_E_NOT_FOUND, catalog_mount_set_used(t->fx.cat, m.id, 1, 1, &err));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		MOUNT_TEST(a_mount_is_told_as_it_is),
		MOUNT_TEST(what_is_not_offered_cannot_be_mounted),
		MOUNT_TEST(a_disk_is_mounted_once_and_by_one_hub),
		MOUNT_TEST(a_mounted_point_stays_and_an_unmounted_one_goes),
		MOUNT_TEST(mounts_of_a_hub_that_is_gone_are_swept_and_no_others),
		MOUNT_TEST(a_mount_goes_with_its_disk),
	};

	return tmpdb_run_tests("restores", tests, NULL, NULL);
}
