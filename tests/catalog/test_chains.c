#include "tests/catalog/fixture.h"

#include <errno.h>

static size_t list(struct fx *fx, const struct catalog_chain_filter *f, struct catalog_chain *first)
{
	struct catalog_chain *rows;
	size_t n;

	OK(catalog_chains_list(fx->cat, f, &rows, &n, &err));
	if (n)
		*first = rows[0];
	free(rows);
	return n;
}

static void each_disk_has_a_chain_of_its_own(void **state)
{
	struct fx *fx = *state;
	struct catalog_backup_disk *points;
	struct catalog_chain *rows, got;
	struct fx_ready r;
	struct fx_job full, i1, i2;
	size_t n;

	fx_ready(fx, &r, "pgtest1", 2);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &full);
	fx_backup(fx, &r, CATALOG_BACKUP_INCREMENTAL, "b", &i1);
	fx_backup(fx, &r, CATALOG_BACKUP_INCREMENTAL, "c", &i2);
	OK(catalog_chains_list(fx->cat, NULL, &rows, &n, &err));
	assert_int_equal(n, 2);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(rows[i].disk_index, i);
		assert_string_equal(rows[i].disk_id, i ? "disk-2001" : "disk-2000");
		assert_string_equal(rows[i].full_backup_id, full.job.id);
		assert_string_equal(rows[i].latest_backup_id, i2.job.id);
		assert_int_equal(rows[i].total_backups, 3);
		assert_int_equal(rows[i].total_size_bytes, 1500);
		assert_true(rows[i].active);
		assert_string_equal(rows[i].vm_name, "pgtest1");
		assert_string_equal(rows[i].vm_context_id, r.v.vm.context_id);
		assert_string_equal(rows[i].repository_id, r.repo.id);
		OK(catalog_chain_points(fx->cat, rows[i].id, &points, &n, &err));
		assert_int_equal(n, 3);
		assert_string_equal(points[0].backup_job_id, full.job.id);
		assert_string_equal(points[1].backup_job_id, i1.job.id);
		assert_string_equal(points[2].backup_job_id, i2.job.id);
		assert_int_equal(points[1].parent_disk_id, points[0].id);
		assert_int_equal(points[2].parent_disk_id, points[1].id);
		assert_int_equal(points[2].disk_index, i);
		free(points);
	}
	OK(catalog_chain_get(fx->cat, rows[1].id, &got, &err));
	assert_memory_equal(&got, &rows[1], sizeof(got));
	free(rows);
	EXPECT(CATALOG_E_NOT_FOUND, catalog_chain_get(fx->cat, "chain-none", &got, &err));
	OK(catalog_chain_points(fx->cat, "chain-none", &points, &n, &err));
	assert_null(points);
	assert_int_equal(n, 0);
}

static void a_second_full_opens_a_second_chain_and_makes_it_active(void **state)
{
	struct fx *fx = *state;
	struct catalog_chain *rows;
	struct fx_ready r;
	struct fx_job first, second, incr;
	size_t n;

	fx_ready(fx, &r, "pgtest1", 1);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &first);
	fx_backup(fx, &r, CATALOG_BACKUP_INCREMENTAL, "b", &incr);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "c", &second);
	fx_backup(fx, &r, CATALOG_BACKUP_INCREMENTAL, "d", &incr);
	OK(catalog_chains_list(fx->cat, NULL, &rows, &n, &err));
	assert_int_equal(n, 2);
	assert_string_equal(rows[0].full_backup_id, first.job.id);
	assert_false(rows[0].active);
	assert_int_equal(rows[0].total_backups, 2);
	assert_string_equal(rows[1].full_backup_id, second.job.id);
	assert_string_equal(rows[1].latest_backup_id, incr.job.id);
	assert_true(rows[1].active);
	assert_int_equal(rows[1].total_backups, 2);
	free(rows);
	/* The schema allows no second active chain of a disk. */
	assert_int_not_equal(tmpdb_try(&fx->t, "UPDATE backup_chains SET active = 1"), 0);
	assert_int_not_equal(tmpdb_try(&fx->t, "UPDATE backup_chains SET active = 0"), 0);
}

static void only_the_disk_that_needed_a_full_opens_a_chain(void **state)
{
	struct fx *fx = *state;
	struct catalog_chain_filter disk1 = {.disk_index = 1};
	struct catalog_chain_filter active = {.disk_index = CATALOG_NONE, .active_only = true};
	struct catalog_chain chain;
	struct fx_ready r;
	struct fx_job j;

	fx_ready(fx, &r, "pgtest1", 2);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &j);
	fx_plan(fx, &r, CATALOG_BACKUP_INCREMENTAL, &j);
	j.disks[1].mode = CATALOG_BACKUP_FULL;
	j.disks[1].parent_disk_id = CATALOG_NONE;
	CATALOG_TEXT(j.disks[1].reason, "disk was resized");
	OK(catalog_backup_start(fx->cat, &j.job, j.disks, j.n, NULL, &err));
	fx_complete_all(fx, &j, "b");
	assert_int_equal(list(fx, NULL, &chain), 3);
	assert_int_equal(list(fx, &disk1, &chain), 2);
	assert_int_equal(list(fx, &active, &chain), 2);
}

static void a_job_that_failed_touches_no_chain(void **state)
{
	struct fx *fx = *state;
	struct catalog_chain chain;
	struct fx_ready r;
	struct fx_job full, j;

	fx_ready(fx, &r, "pgtest1", 2);
	fx_start(fx, &r, CATALOG_BACKUP_FULL, &full);
	OK(fx_complete(fx, full.job.id, 0, "x/0", NULL, &err));
	OK(catalog_backup_fail(fx->cat, full.job.id, CATALOG_JOB_FAILED, "cut", &err));
	assert_int_equal(list(fx, NULL, &chain), 0);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &full);
	fx_start(fx, &r, CATALOG_BACKUP_FULL, &j);
	OK(fx_complete(fx, j.job.id, 0, "b/0", NULL, &err));
	OK(catalog_backup_disk_fail(fx->cat, j.job.id, 1, "bad", NULL, &err));
	assert_int_equal(list(fx, NULL, &chain), 2);
	assert_string_equal(chain.latest_backup_id, full.job.id);
	assert_true(chain.active);
}

static void chains_are_filtered(void **state)
{
	struct fx *fx = *state;
	struct catalog_chain chain;
	struct fx_ready a, b;
	struct fx_job j;

	fx_ready(fx, &a, "a", 2);
	fx_ready(fx, &b, "b", 1);
	fx_backup(fx, &a, CATALOG_BACKUP_FULL, "a", &j);
	fx_backup(fx, &b, CATALOG_BACKUP_FULL, "b", &j);
#define LIST(...) list(fx, &(const struct catalog_chain_filter){__VA_ARGS__}, &chain)
	assert_int_equal(LIST(.vm_name = "a", .disk_index = CATALOG_NONE), 2);
	assert_int_equal(LIST(.vm_name = "a"), 1);
	assert_int_equal(LIST(.vm_context_id = b.v.vm.context_id, .disk_index = CATALOG_NONE), 1);
	assert_string_equal(chain.vm_name, "b");
	assert_int_equal(LIST(.vm_backup_context_id = a.ctx.context_id, .disk_index = 1), 1);
	assert_int_equal(LIST(.repository_id = a.repo.id, .disk_index = CATALOG_NONE), 3);
	assert_int_equal(LIST(.repository_id = "repo-none", .disk_index = CATALOG_NONE), 0);
#undef LIST
}

static void a_catalog_whose_chains_were_tampered_with_is_called_damaged(void **state)
{
	struct fx *fx = *state;
	struct fx_ready r;
	struct fx_job j;

	fx_ready(fx, &r, "pgtest1", 1);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &j);
	fx_start(fx, &r, CATALOG_BACKUP_INCREMENTAL, &j);
	tmpdb_sql(&fx->t, "UPDATE backup_chains SET active = NULL");
	EXPECT_TEXT(-EUCLEAN, "damaged", fx_complete(fx, j.job.id, 0, "b/0", NULL, &err));
	tmpdb_sql(&fx->t, "DELETE FROM backup_chains");
	EXPECT_TEXT(-EUCLEAN, "damaged", fx_complete(fx, j.job.id, 0, "b/0", NULL, &err));
	/* The disk is open still: the job can be failed, and a full starts anew. */
	OK(catalog_backup_fail(fx->cat, j.job.id, CATALOG_JOB_FAILED, "damaged catalog", &err));
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "c", &j);
	fx_backup(fx, &r, CATALOG_BACKUP_INCREMENTAL, "d", &j);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FX_TEST(each_disk_has_a_chain_of_its_own),
		FX_TEST(a_second_full_opens_a_second_chain_and_makes_it_active),
		FX_TEST(only_the_disk_that_needed_a_full_opens_a_chain),
		FX_TEST(a_job_that_failed_touches_no_chain),
		FX_TEST(chains_are_filtered),
		FX_TEST(a_catalog_whose_chains_were_tampered_with_is_called_damaged),
	};

	return tmpdb_run_tests("catalog/chains", tests, NULL, NULL);
}
