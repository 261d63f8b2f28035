/*
 * Several hubs on one catalog: two handles that are two hubs. Their leases are ended by writing the
 * database, not by waiting.
 */
#include "tests/catalog/fixture.h"

#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

#include "catalog/hubs.h"

#define HUB_TEST(f) cmocka_unit_test_setup_teardown(f, fx_two_setup, fx_two_teardown)

/* As if it had been long ago that this one was heard of, and that the others joined. */
static void end_lease(struct fx_two *t, const char *name)
{
	tmpdb_sql(&t->fx.t, "UPDATE hubs SET lease_until = 1 WHERE name = '%s'", name);
	tmpdb_sql(&t->fx.t, "UPDATE hubs SET steady_since = 1");
}

static size_t take_over(struct catalog *cat, struct catalog_backup *first)
{
	struct catalog_backup *jobs = NULL;
	size_t n = 0;

	OK(catalog_hub_take_over(cat, &jobs, &n, &err));
	if (n && first)
		*first = jobs[0];
	free(jobs);
	return n;
}

static int64_t holder(struct fx_two *t, const char *job_id)
{
	return tmpdb_i64(&t->fx.t, "SELECT hub_token FROM backup_jobs WHERE id = '%s'", job_id);
}

/* Every way to write a job is refused, and not a byte of the database changes. */
static void cannot_write(struct fx_two *t, struct catalog *cat, const char *job_id)
{
	const struct catalog_counters bytes = {1, 2, 3, 4};
	struct fx as = {.cat = cat};
	_cleanup_(freep) char *before = tmpdb_dump(&t->fx.t, NULL);
	_cleanup_(freep) char *after = NULL;

	EXPECT(CATALOG_E_FENCED, catalog_backup_set_running(cat, job_id, &err));
	EXPECT(CATALOG_E_FENCED, catalog_backup_note_telemetry(cat, job_id, "x", &err));
	EXPECT(CATALOG_E_FENCED, catalog_backup_disk_set_running(cat, job_id, 0, &err));
	EXPECT(CATALOG_E_FENCED, catalog_backup_disk_progress(cat, job_id, 0, &bytes, &err));
	EXPECT(CATALOG_E_FENCED, fx_complete(&as, job_id, 0, "c/0", NULL, &err));
	EXPECT(CATALOG_E_FENCED, catalog_backup_disk_fail(cat, job_id, 0, "x", NULL, &err));
	EXPECT(CATALOG_E_FENCED, catalog_backup_fail(cat, job_id, CATALOG_JOB_FAILED, "x", &err));
	EXPECT(CATALOG_E_FENCED,
	       catalog_backup_fail(cat, job_id, CATALOG_JOB_CANCELLED, "x", &err));
	after = tmpdb_dump(&t->fx.t, NULL);
	assert_string_equal(before, after);
}

static void tokens_only_grow_and_are_never_given_twice(void **state)
{
	struct fx_two *t = *state;
	int64_t last = t->hub_b.token;

	assert_true(t->hub_a.token > 0 && t->hub_b.token > t->hub_a.token);
	for (int i = 0; i < 5; i++) {
		struct catalog_hub again;

		OK(catalog_hub_leave(t->b, &err));
		fx_join(t->b, &again, "b");
		assert_true(again.token > last);
		assert_string_not_equal(again.id, t->hub_b.id);
		last = again.token;
	}
	assert_int_equal(tmpdb_i64(&t->fx.t, "SELECT COUNT(*) FROM hubs"), 2);
}

static void a_hub_without_a_name_is_refused(void **state)
{
	struct fx_two *t = *state;
	struct catalog_hub nobody = {.name = ""};

	EXPECT(CATALOG_E_INVALID, catalog_hub_join(t->b, &nobody, FX_LEASE_MS, &err));
}

static void a_job_is_its_hubs_and_nobody_elses(void **state)
{
	struct fx_two *t = *state;
	struct fx_job j;
	struct catalog_backup row;

	fx_start(&t->fx, &t->r, CATALOG_BACKUP_FULL, &j);
	assert_int_equal(j.job.hub_token, t->hub_a.token);
	assert_int_equal(take_over(t->b, NULL), 0);
	cannot_write(t, t->b, j.job.id);
	EXPECT_TEXT(CATALOG_E_FENCED, "held by hub \"a\"",
		    catalog_backup_fail(t->b, j.job.id, CATALOG_JOB_FAILED, "x", &err));
	OK(catalog_backup_get(t->b, j.job.id, &row, &err));
	assert_int_equal(row.hub_token, t->hub_a.token);
	OK(catalog_backup_set_running(t->fx.cat, j.job.id, &err));
	fx_complete_all(&t->fx, &j, "c");
	/* What has ended is known to all, and repeating a completion hurts nobody. */
	fx_complete_all(&(struct fx){.cat = t->b}, &j, "c");
}

static void two_hubs_never_run_one_vm(void **state)
{
	struct fx_two *t = *state;
	char busy[CATALOG_ID_SIZE] = "";
	struct fx as_b = {.cat = t->b};
	struct fx_job a, b;

	fx_plan(&as_b, &t->r, CATALOG_BACKUP_FULL, &b);
	fx_start(&t->fx, &t->r, CATALOG_BACKUP_FULL, &a);
	EXPECT(CATALOG_E_BUSY, catalog_backup_start(t->b, &b.job, b.disks, b.n, busy, &err));
	assert_string_equal(busy, a.job.id);
	/* Not by looking alone: the database itself refuses. */
	assert_int_not_equal(tmpdb_try(&t->fx.t,
				       "INSERT INTO backup_jobs (id, vm_backup_context_id, vm_name,"
				       " repository_id, repository_type, repository_path,"
				       " backup_type, status, running_vm_name,"
				       " running_vm_context_id, disk_count, created_at)"
				       " SELECT 'backup-second', vm_backup_context_id, vm_name,"
				       " repository_id, 'local', '/', 'full', 'pending',"
				       " running_vm_name, 'other', 1, 1 FROM backup_jobs"),
			     0);
	assert_int_equal(tmpdb_i64(&t->fx.t, "SELECT COUNT(*) FROM backup_jobs"), 1);
}

static void jobs_of_a_hub_that_is_gone_are_taken_over_once(void **state)
{
	struct fx_two *t = *state;
	struct catalog_backup taken;
	struct fx_job j, next;
	struct catalog *c;
	struct catalog_hub hub_c;

	fx_start(&t->fx, &t->r, CATALOG_BACKUP_FULL, &j);
	OK(catalog_open(t->fx.t.url, NULL, &c, &err));
	fx_join(c, &hub_c, "c");
	end_lease(t, "a");
	assert_int_equal(take_over(t->b, &taken), 1);
	assert_string_equal(taken.id, j.job.id);
	assert_int_equal(taken.hub_token, t->hub_a.token);
	assert_int_equal(holder(t, j.job.id), t->hub_b.token);
	assert_int_equal(take_over(c, NULL), 0);
	catalog_close(c);

	/* The hub that was taken for dead wakes up: it can neither write nor start. */
	cannot_write(t, t->fx.cat, j.job.id);
	EXPECT(CATALOG_E_FENCED, catalog_hub_renew(t->fx.cat, FX_LEASE_MS, &err));
	OK(catalog_backup_fail(t->b, j.job.id, CATALOG_JOB_FAILED, "its hub is gone", &err));
	EXPECT(CATALOG_E_STATE, fx_complete(&t->fx, j.job.id, 0, "late/0", NULL, &err));
	fx_plan(&t->fx, &t->r, CATALOG_BACKUP_FULL, &next);
	EXPECT(CATALOG_E_FENCED,
	       catalog_backup_start(t->fx.cat, &next.job, next.disks, next.n, NULL, &err));
	assert_int_equal(tmpdb_i64(&t->fx.t, "SELECT COUNT(*) FROM backup_jobs"), 1);
	assert_int_equal(tmpdb_i64(&t->fx.t, "SELECT failed_backups FROM vm_backup_contexts"), 1);

	/* With a new token it is a hub like any other, and the old job is not its own again. */
	fx_join(t->fx.cat, &t->hub_a, "a");
	assert_true(t->hub_a.token > hub_c.token);
	fx_backup(&t->fx, &t->r, CATALOG_BACKUP_FULL, "again", &next);
}

static void who_was_away_himself_gives_others_time(void **state)
{
	struct fx_two *t = *state;
	struct catalog_hub *hubs = NULL;
	struct fx_job j;
	size_t n = 0;

	fx_start(&t->fx, &t->r, CATALOG_BACKUP_FULL, &j);
	/* It has only just come. */
	tmpdb_sql(&t->fx.t, "UPDATE hubs SET lease_until = 1 WHERE name = 'a'");
	assert_int_equal(take_over(t->b, NULL), 0);
	/* The database was away: nobody could renew. */
	end_lease(t, "b");
	assert_int_equal(take_over(t->b, NULL), 0);
	OK(catalog_hub_renew(t->b, FX_LEASE_MS, &err));
	assert_int_equal(take_over(t->b, NULL), 0);
	OK(catalog_hubs_list(t->b, &hubs, &n, &err));
	assert_int_equal(hubs[1].steady_since_us, hubs[1].heartbeat_at_us);
	free(hubs);
	/* A while later, and renewed all the time. */
	tmpdb_sql(&t->fx.t, "UPDATE hubs SET steady_since = steady_since - %d WHERE name = 'b'",
		  FX_LEASE_MS * 1000);
	OK(catalog_hub_renew(t->b, FX_LEASE_MS, &err));
	assert_int_equal(take_over(t->b, NULL), 1);
}

static void a_job_taken_over_by_one_that_dies_too_goes_to_the_next(void **state)
{
	struct fx_two *t = *state;
	struct fx_job j;
	struct catalog_backup taken;

	fx_start(&t->fx, &t->r, CATALOG_BACKUP_FULL, &j);
	end_lease(t, "a");
	assert_int_equal(take_over(t->b, NULL), 1);
	fx_join(t->fx.cat, &t->hub_a, "a");
	end_lease(t, "b");
	assert_int_equal(take_over(t->fx.cat, &taken), 1);
	assert_int_equal(taken.hub_token, t->hub_b.token);
	cannot_write(t, t->b, j.job.id);
	OK(catalog_backup_fail(t->fx.cat, j.job.id, CATALOG_JOB_FAILED, "x", &err));
}

static void a_lease_that_is_over_and_was_not_noticed_goes_on(void **state)
{
	struct fx_two *t = *state;
	struct catalog_hub_status *told = NULL;
	struct catalog_hub *hubs = NULL;
	struct fx_job j;
	size_t n = 0;

	fx_start(&t->fx, &t->r, CATALOG_BACKUP_FULL, &j);
	end_lease(t, "a");
	OK(catalog_hubs_status(t->b, &told, &n, &err));
	assert_int_equal(n, 2);
	assert_true(!told[0].live && !told[0].self && told[0].running_jobs == 1);
	assert_true(told[1].live && told[1].self && told[1].running_jobs == 0);
	free(told);
	OK(catalog_hub_renew(t->fx.cat, FX_LEASE_MS, &err));
	assert_int_equal(take_over(t->b, NULL), 0);
	fx_complete_all(&t->fx, &j, "c");
	OK(catalog_hubs_list(t->b, &hubs, &n, &err));
	assert_int_equal(n, 2);
	assert_string_equal(hubs[0].name, "a");
	assert_int_equal(hubs[0].lease_until_us - hubs[0].heartbeat_at_us, FX_LEASE_MS * 1000);
	/* The database's clock is one of this machine. */
	assert_in_range(llabs(hubs[0].heartbeat_at_us - catalog_now_us()), 0, 60 * 1000000);
	free(hubs);
}

static void the_next_run_on_a_data_folder_does_not_wait_for_the_lease(void **state)
{
	struct fx_two *t = *state;
	struct catalog_hub again;
	struct fx_job j;

	fx_start(&t->fx, &t->r, CATALOG_BACKUP_FULL, &j);
	fx_join(t->b, &again, "a");
	assert_int_equal(take_over(t->b, NULL), 1);
	assert_int_equal(holder(t, j.job.id), again.token);
}

static void a_hub_that_leaves_with_a_job_in_hand_is_noticed(void **state)
{
	struct fx_two *t = *state;
	struct fx_job j;

	fx_start(&t->fx, &t->r, CATALOG_BACKUP_FULL, &j);
	OK(catalog_hub_leave(t->fx.cat, &err));
	assert_int_equal(tmpdb_i64(&t->fx.t, "SELECT COUNT(*) FROM hubs"), 2);
	assert_int_equal(take_over(t->b, NULL), 0);
	end_lease(t, "a");
	assert_int_equal(take_over(t->b, NULL), 1);
	assert_int_equal(tmpdb_i64(&t->fx.t, "SELECT COUNT(*) FROM hubs"), 1);
	OK(catalog_hub_leave(t->b, &err));
}

static void jobs_of_before_there_were_hubs_are_taken_over(void **state)
{
	struct fx_two *t = *state;
	struct catalog_backup taken;
	struct catalog *plain;
	struct fx_job j;

	OK(catalog_open(t->fx.t.url, NULL, &plain, &err));
	fx_plan(&t->fx, &t->r, CATALOG_BACKUP_FULL, &j);
	OK(catalog_backup_start(plain, &j.job, j.disks, j.n, NULL, &err));
	cannot_write(t, t->fx.cat, j.job.id);
	assert_int_equal(take_over(t->fx.cat, &taken), 1);
	assert_int_equal(taken.hub_token, CATALOG_NONE);
	cannot_write(t, plain, j.job.id);
	catalog_close(plain);
}

/* --- many programs at once -------------------------------------------------------------------- */

/* A hub that tries to start a backup of the VM, and dies without a word when it has one. */
static int try_to_start(const struct fx_two *t, int i)
{
	struct fx fx = {.t = t->fx.t};
	struct catalog_hub hub;
	struct fx_job j;
	struct err err = ERR_INIT;
	char name[16];
	int r;

	if (catalog_open(t->fx.t.url, NULL, &fx.cat, &err))
		return 2;
	snprintf(name, sizeof(name), "p%d", i);
	fx_join(fx.cat, &hub, name);
	fx_plan(&fx, &t->r, CATALOG_BACKUP_FULL, &j);
	r = catalog_backup_start(fx.cat, &j.job, j.disks, j.n, NULL, &err);
	if (r && r != CATALOG_E_BUSY)
		fprintf(stderr, "start: %d %s\n", r, err.text);
	return r == 0 ? 0 : r == CATALOG_E_BUSY ? 1 : 2;
}

static void of_many_programs_that_start_one_vm_one_does(void **state)
{
	struct fx_two *t = *state;
	int started = 0;
	pid_t pids[8];

	for (size_t i = 0; i < ARRAY_SIZE(pids); i++) {
		pids[i] = fork();
		assert_true(pids[i] >= 0);
		if (pids[i] == 0)
			_exit(try_to_start(t, (int)i));
	}
	for (size_t i = 0; i < ARRAY_SIZE(pids); i++) {
		int status;

		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_true(WIFEXITED(status) && WEXITSTATUS(status) <= 1);
		started += WEXITSTATUS(status) == 0;
	}
	assert_int_equal(started, 1);
	assert_int_equal(tmpdb_i64(&t->fx.t, "SELECT COUNT(*) FROM backup_jobs"), 1);
	tmpdb_sql(&t->fx.t, "UPDATE hubs SET lease_until = 1 WHERE name LIKE 'p%%';"
			    " UPDATE hubs SET steady_since = 1");
	assert_int_equal(take_over(t->b, NULL), 1);
	assert_int_equal(take_over(t->fx.cat, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		HUB_TEST(tokens_only_grow_and_are_never_given_twice),
		HUB_TEST(a_hub_without_a_name_is_refused),
		HUB_TEST(a_job_is_its_hubs_and_nobody_elses),
		HUB_TEST(two_hubs_never_run_one_vm),
		HUB_TEST(jobs_of_a_hub_that_is_gone_are_taken_over_once),
		HUB_TEST(who_was_away_himself_gives_others_time),
		HUB_TEST(a_job_taken_over_by_one_that_dies_too_goes_to_the_next),
		HUB_TEST(a_lease_that_is_over_and_was_not_noticed_goes_on),
		HUB_TEST(the_next_run_on_a_data_folder_does_not_wait_for_the_lease),
		HUB_TEST(a_hub_that_leaves_with_a_job_in_hand_is_noticed),
		HUB_TEST(jobs_of_before_there_were_hubs_are_taken_over),
		HUB_TEST(of_many_programs_that_start_one_vm_one_does),
	};

	return tmpdb_run_tests("catalog/hubs", tests, NULL, NULL);
}
