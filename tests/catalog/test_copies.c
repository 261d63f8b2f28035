/*
 * Copies of backups as the catalog keeps them: who asks for them, which hub makes them, and that a
 * hub which is gone, or only thought to be, neither loses one nor makes it twice. Two handles are
 * two hubs.
 */
#include <pthread.h>

#include "catalog/copies.h"
#include "catalog/hubs.h"
#include "catalog/job_log.h"
#include "catalog/policies.h"
#include "tests/catalog/fixture.h"

struct two {
	struct fx fx; /* hub "a"'s handle */
	struct catalog *b;
	struct catalog_hub hub_a, hub_b;
	struct fx_ready r;
	struct catalog_repository far, farther;
};

static int setup(void **state)
{
	struct two *t = calloc(1, sizeof(*t));

	tmpdb_init(&t->fx.t);
	OK(catalog_open(t->fx.t.url, NULL, &t->fx.cat, &err));
	OK(catalog_open(t->fx.t.url, NULL, &t->b, &err));
	fx_join(t->fx.cat, &t->hub_a, "a");
	fx_join(t->b, &t->hub_b, "b");
	fx_ready(&t->fx, &t->r, "pgtest1", 2);
	fx_add_repository(&t->fx, &t->far, "far");
	fx_add_repository(&t->fx, &t->farther, "farther");
	*state = t;
	return 0;
}

static int teardown(void **state)
{
	struct two *t = *state;

	tmpdb_assert_sound(&t->fx.t);
	catalog_close(t->b);
	catalog_close(t->fx.cat);
	tmpdb_deinit(&t->fx.t);
	free(t);
	return 0;
}

#define COPY_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

/* --- helpers -------------------------------------------------------------------------------- */

static void ask(struct two *t, const char *job_id, const struct catalog_repository *repo,
		struct catalog_copy *copy)
{
	*copy = (struct catalog_copy){.verify_after_copy = true};
	CATALOG_TEXT(copy->backup_job_id, job_id);
	CATALOG_TEXT(copy->repository_id, repo->id);
	OK(catalog_copy_request(t->fx.cat, copy, &err));
}

static void completed_backup(struct two *t, struct fx_job *j)
{
	static int n;
	char tag[32];

	snprintf(tag, sizeof(tag), "c%d", n++);
	fx_backup(&t->fx, &t->r, CATALOG_BACKUP_FULL, tag, j);
}

static void set_rules(struct two *t, struct catalog_policy *p, struct catalog_copy_rule *rules,
		      size_t n)
{
	*p = (struct catalog_policy){.enabled = true};
	CATALOG_TEXT(p->name, "gold");
	CATALOG_TEXT(p->primary_repository_id, t->r.repo.id);
	OK(catalog_policy_create(t->fx.cat, p, rules, n, &err));
}

static struct catalog_copy_rule rule(const struct catalog_repository *to,
				     enum catalog_copy_mode mode, int priority)
{
	struct catalog_copy_rule r = {.enabled = true,
				      .copy_mode = mode,
				      .priority = priority,
				      .verify_after_copy = true};

	CATALOG_TEXT(r.repository_id, to->id);
	return r;
}

static struct catalog_copy got(struct two *t, const char *id)
{
	struct catalog_copy c;

	OK(catalog_copy_get(t->fx.cat, id, &c, &err));
	return c;
}

static void nothing_to_do(struct catalog *cat)
{
	struct catalog_copy c;

	EXPECT(CATALOG_E_NOT_FOUND, catalog_copy_claim(cat, &c, &err));
}

static size_t take_over(struct catalog *cat, struct catalog_copy *first)
{
	_cleanup_(freep) struct catalog_copy *rows = NULL;
	size_t n = 0;

	OK(catalog_copies_take_over(cat, &rows, &n, &err));
	if (n && first)
		*first = rows[0];
	return n;
}

static void plan_files(const struct catalog_copy *c, struct catalog_copy_disk disks[2])
{
	for (int i = 0; i < 2; i++) {
		disks[i] = (struct catalog_copy_disk){
			.disk_index = i, .bytes_total = 1000, .bytes_stored = 77};
		CATALOG_TEXT(disks[i].copy_id, c->id);
		snprintf(disks[i].qcow2_path, sizeof(disks[i].qcow2_path), "/far/disk-%d", i);
		snprintf(disks[i].part_path, sizeof(disks[i].part_path), "/far/disk-%d.part", i);
	}
}

/* Every way for who holds a copy to write it is refused, and not a byte changes. */
static void cannot_write(struct two *t, struct catalog *cat, const struct catalog_copy *c)
{
	const struct catalog_copy_failure failure = {.reason = "x"};
	_cleanup_(freep) char *before = tmpdb_dump(&t->fx.t, NULL);
	_cleanup_(freep) char *after = NULL;
	struct catalog_copy_disk disks[2];
	bool remove;

	plan_files(c, disks);
	EXPECT(CATALOG_E_FENCED, catalog_copy_set_disks(cat, c, disks, 2, &err));
	EXPECT(CATALOG_E_FENCED, catalog_copy_progress(cat, c, 5, &remove, &err));
	EXPECT(CATALOG_E_FENCED, catalog_copy_set_verifying(cat, c, &err));
	EXPECT(CATALOG_E_FENCED, catalog_copy_complete(cat, c, disks, 2, true, &err));
	EXPECT(CATALOG_E_FENCED, catalog_copy_fail(cat, c, &failure, &err));
	EXPECT(CATALOG_E_FENCED, catalog_copy_keep(cat, c, "x", &err));
	EXPECT(CATALOG_E_FENCED, catalog_copy_release(cat, c, &err));
	EXPECT(CATALOG_E_FENCED, catalog_copy_remove(cat, c, &err));
	after = tmpdb_dump(&t->fx.t, NULL);
	assert_string_equal(before, after);
}

static void assert_told(struct two *t, const char *job_id, const char *what)
{
	assert_int_equal(tmpdb_i64(&t->fx.t,
				   "SELECT COUNT(*) FROM job_log WHERE backup_job_id = '%s' AND"
				   " phase = 'copy' AND message LIKE '%%%s%%'",
				   job_id, what),
			 1);
}

/* --- asking --------------------------------------------------------------------------------- */

static void a_rules_copies_are_there_as_soon_as_the_backup_is_completed(void **state)
{
	struct two *t = *state;
	struct catalog_copy_rule rules[] = {rule(&t->far, CATALOG_COPY_SCHEDULED, 2),
					    rule(&t->farther, CATALOG_COPY_IMMEDIATE, 5)};
	struct catalog_copy *rows;
	struct catalog_policy p;
	int64_t total;
	struct fx_job j;
	size_t n;

	rules[1].verify_after_copy = false;
	set_rules(t, &p, rules, 2);
	fx_plan(&t->fx, &t->r, CATALOG_BACKUP_FULL, &j);
	CATALOG_TEXT(j.job.policy_id, p.id);
	OK(catalog_backup_start(t->fx.cat, &j.job, j.disks, j.n, NULL, &err));
	OK(fx_complete(&t->fx, j.job.id, 0, "r/0", NULL, &err));
	assert_int_equal(tmpdb_i64(&t->fx.t, "SELECT COUNT(*) FROM backup_copies"), 0);
	OK(fx_complete(&t->fx, j.job.id, 1, "r/1", NULL, &err));

	OK(catalog_copies_list(
		t->fx.cat,
		&(struct catalog_copy_filter){.backup_job_id = j.job.id, .sort = "created_at"},
		&rows, &n, &total, &err));
	assert_int_equal(n, 2);
	assert_int_equal(total, 2);
	for (size_t i = 0; i < 2; i++) {
		bool far = !strcmp(rows[i].repository_id, t->far.id);

		assert_int_equal(rows[i].status, CATALOG_COPY_PENDING);
		assert_int_equal(rows[i].verification, CATALOG_COPY_UNVERIFIED);
		assert_int_equal(rows[i].when_idle, far);
		assert_int_equal(rows[i].verify_after_copy, far);
		assert_int_equal(rows[i].priority, far ? 2 : 5);
		assert_string_equal(rows[i].copy_rule_id, rules[far ? 0 : 1].id);
		assert_string_equal(rows[i].repository_name, far ? "far" : "farther");
		assert_string_equal(rows[i].vm_name, "pgtest1");
		assert_int_equal(rows[i].bytes_total, 3 * (int64_t)GIB);
		assert_int_equal(rows[i].hub_token, CATALOG_NONE);
	}
	free(rows);
	assert_told(t, j.job.id, "to be made now");
	/* Completing once more makes none twice. */
	OK(fx_complete(&t->fx, j.job.id, 1, "r/1", NULL, &err));
	assert_int_equal(tmpdb_i64(&t->fx.t, "SELECT COUNT(*) FROM backup_copies"), 2);
}

static void rules_that_do_not_apply_make_no_copy(void **state)
{
	struct two *t = *state;
	struct catalog_copy_rule rules[] = {rule(&t->far, CATALOG_COPY_MANUAL, 1),
					    rule(&t->farther, CATALOG_COPY_IMMEDIATE, 1)};
	struct catalog_policy p;
	struct fx_job j;

	rules[1].enabled = false;
	set_rules(t, &p, rules, 2);
	for (int i = 0; i < 3; i++) {
		if (i == 1) { /* a policy that is switched off */
			rules[1].enabled = true;
			p.enabled = false;
			OK(catalog_policy_update(t->fx.cat, &p, rules, 2, &err));
		}
		fx_plan(&t->fx, &t->r, CATALOG_BACKUP_FULL, &j);
		CATALOG_TEXT(j.job.policy_id, i == 2 ? "policy-gone" : p.id);
		OK(catalog_backup_start(t->fx.cat, &j.job, j.disks, j.n, NULL, &err));
		fx_complete_all(&t->fx, &j, i == 0 ? "a" : i == 1 ? "b" : "c");
	}
	/* Nor does a failed backup. */
	p.enabled = true;
	OK(catalog_policy_update(t->fx.cat, &p, NULL, 0, &err));
	fx_plan(&t->fx, &t->r, CATALOG_BACKUP_FULL, &j);
	CATALOG_TEXT(j.job.policy_id, p.id);
	OK(catalog_backup_start(t->fx.cat, &j.job, j.disks, j.n, NULL, &err));
	OK(catalog_backup_fail(t->fx.cat, j.job.id, CATALOG_JOB_FAILED, "x", &err));
	assert_int_equal(tmpdb_i64(&t->fx.t, "SELECT COUNT(*) FROM backup_copies"), 0);
}

static void what_cannot_be_copied_is_refused_with_the_reason(void **state)
{
	struct two *t = *state;
	struct catalog_copy c = {.priority = 0}, first;
	struct fx_job j, running;

	CATALOG_TEXT(c.backup_job_id, "backup-none");
	CATALOG_TEXT(c.repository_id, t->far.id);
	EXPECT_TEXT(CATALOG_E_NOT_FOUND, "backup-none", catalog_copy_request(t->fx.cat, &c, &err));
	completed_backup(t, &j);
	CATALOG_TEXT(c.backup_job_id, j.job.id);
	CATALOG_TEXT(c.repository_id, "repo-none");
	EXPECT_TEXT(CATALOG_E_NOT_FOUND, "repo-none", catalog_copy_request(t->fx.cat, &c, &err));
	CATALOG_TEXT(c.repository_id, t->r.repo.id);
	EXPECT_TEXT(CATALOG_E_STATE, "\"main\" itself", catalog_copy_request(t->fx.cat, &c, &err));
	ask(t, j.job.id, &t->far, &first);
	assert_int_equal(first.priority, 1);
	CATALOG_TEXT(c.repository_id, t->far.id);
	EXPECT_TEXT(CATALOG_E_EXISTS, first.id, catalog_copy_request(t->fx.cat, &c, &err));
	assert_string_equal(c.id, first.id);
	fx_start(&t->fx, &t->r, CATALOG_BACKUP_INCREMENTAL, &running);
	CATALOG_TEXT(c.backup_job_id, running.job.id);
	EXPECT_TEXT(CATALOG_E_STATE, "only a completed backup",
		    catalog_copy_request(t->fx.cat, &c, &err));
}

/* --- taking --------------------------------------------------------------------------------- */

static void one_hub_takes_a_copy_and_no_other_writes_it(void **state)
{
	struct two *t = *state;
	struct catalog_copy asked, mine, as_b;
	struct catalog_copy_disk disks[2], *stored;
	struct fx_job j;
	bool remove;
	size_t n;

	completed_backup(t, &j);
	ask(t, j.job.id, &t->far, &asked);
	OK(catalog_copy_claim(t->fx.cat, &mine, &err));
	assert_string_equal(mine.id, asked.id);
	assert_int_equal(mine.status, CATALOG_COPY_COPYING);
	assert_int_equal(mine.hub_token, t->hub_a.token);
	nothing_to_do(t->b);
	nothing_to_do(t->fx.cat);
	assert_int_equal(take_over(t->b, NULL), 0);
	as_b = mine;
	as_b.claim++;
	cannot_write(t, t->b, &as_b);

	plan_files(&mine, disks);
	OK(catalog_copy_set_disks(t->fx.cat, &mine, disks, 2, &err));
	OK(catalog_copy_progress(t->fx.cat, &mine, 1500, &remove, &err));
	assert_false(remove);
	assert_int_equal(got(t, mine.id).bytes_copied, 1500);
	assert_int_equal(got(t, mine.id).bytes_total, 2000);
	OK(catalog_copy_set_verifying(t->fx.cat, &mine, &err));
	assert_int_equal(got(t, mine.id).status, CATALOG_COPY_VERIFYING);
	CATALOG_TEXT(disks[1].sha256, "abc");
	OK(catalog_copy_complete(t->fx.cat, &mine, disks, 2, true, &err));
	OK(catalog_copy_complete(t->fx.cat, &mine, disks, 2, true, &err)); /* asked again */
	mine = got(t, mine.id);
	assert_int_equal(mine.status, CATALOG_COPY_COMPLETED);
	assert_int_equal(mine.verification, CATALOG_COPY_PASSED);
	assert_true(mine.completed_at_us && mine.verified_at_us);
	assert_int_equal(mine.hub_token, CATALOG_NONE);
	OK(catalog_copy_disks_list(t->b, mine.id, &stored, &n, &err));
	assert_int_equal(n, 2);
	assert_string_equal(stored[1].sha256, "abc");
	assert_int_equal(stored[0].bytes_stored, 77);
	free(stored);
	assert_told(t, j.job.id, "completed and verified");
	nothing_to_do(t->b);
}

#define MANY 24

struct taker {
	struct catalog *cat;
	int taken;
	pthread_t thread;
};

static void *taker_main(void *arg)
{
	struct taker *taker = arg;
	struct catalog_copy c;

	while (!catalog_copy_claim(taker->cat, &c, NULL)) {
		struct catalog_copy_disk disks[2];

		plan_files(&c, disks);
		if (catalog_copy_complete(taker->cat, &c, disks, 2, false, NULL))
			abort();
		taker->taken++;
	}
	return NULL;
}

static void hubs_in_a_race_make_every_copy_once(void **state)
{
	struct two *t = *state;
	struct taker takers[4];
	int taken = 0;

	for (int i = 0; i < MANY / 2; i++) {
		struct catalog_copy c;
		struct fx_job j;

		completed_backup(t, &j);
		ask(t, j.job.id, &t->far, &c);
		ask(t, j.job.id, &t->farther, &c);
	}
	for (int i = 0; i < 4; i++) {
		takers[i] = (struct taker){.cat = i % 2 ? t->b : t->fx.cat};
		assert_int_equal(pthread_create(&takers[i].thread, NULL, taker_main, &takers[i]),
				 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(takers[i].thread, NULL);
		taken += takers[i].taken;
	}
	assert_int_equal(taken, MANY);
	assert_int_equal(tmpdb_i64(&t->fx.t, "SELECT COUNT(*) FROM backup_copies WHERE status ="
					     " 'completed' AND attempts = 1"),
			 MANY);
}

static void the_lower_number_goes_first(void **state)
{
	struct two *t = *state;
	struct catalog_copy a, b, c;
	struct fx_job j;

	completed_backup(t, &j);
	ask(t, j.job.id, &t->far, &a);
	ask(t, j.job.id, &t->farther, &b);
	tmpdb_sql(&t->fx.t, "UPDATE backup_copies SET priority = 9 WHERE id = '%s'", a.id);
	OK(catalog_copy_claim(t->fx.cat, &c, &err));
	assert_string_equal(c.id, b.id);
	OK(catalog_copy_claim(t->fx.cat, &c, &err));
	assert_string_equal(c.id, a.id);
}

static void what_is_for_idle_times_waits_for_backups_and_copies(void **state)
{
	struct two *t = *state;
	struct catalog_copy idle, other, c;
	struct catalog_copy_disk disks[2];
	struct fx_job j, running;

	completed_backup(t, &j);
	ask(t, j.job.id, &t->far, &idle);
	tmpdb_sql(&t->fx.t, "UPDATE backup_copies SET when_idle = 1");
	fx_start(&t->fx, &t->r, CATALOG_BACKUP_INCREMENTAL, &running);
	nothing_to_do(t->fx.cat);
	OK(catalog_backup_fail(t->fx.cat, running.job.id, CATALOG_JOB_FAILED, "x", &err));
	ask(t, j.job.id, &t->farther, &other);
	tmpdb_sql(&t->fx.t, "UPDATE backup_copies SET priority = 2 WHERE when_idle = 1");
	OK(catalog_copy_claim(t->fx.cat, &c, &err));
	assert_string_equal(c.id, other.id);
	nothing_to_do(t->b);
	plan_files(&c, disks);
	OK(catalog_copy_complete(t->fx.cat, &c, disks, 2, false, &err));
	OK(catalog_copy_claim(t->b, &c, &err));
	assert_string_equal(c.id, idle.id);
}

static void a_repository_that_is_disabled_is_waited_for(void **state)
{
	struct two *t = *state;
	struct catalog_copy asked, c;
	struct fx_job j;

	completed_backup(t, &j);
	ask(t, j.job.id, &t->far, &asked);
	OK(catalog_repository_set_enabled(t->fx.cat, t->far.id, false, &err));
	nothing_to_do(t->fx.cat);
	OK(catalog_repository_set_enabled(t->fx.cat, t->far.id, true, &err));
	OK(catalog_copy_claim(t->fx.cat, &c, &err));
}

static void a_backup_that_is_no_longer_completed_is_not_copied(void **state)
{
	struct two *t = *state;
	struct catalog_copy gone, there, c;
	struct fx_job j, k;

	completed_backup(t, &j);
	completed_backup(t, &k);
	ask(t, j.job.id, &t->far, &gone);
	ask(t, k.job.id, &t->far, &there);
	tmpdb_sql(&t->fx.t, "UPDATE backup_jobs SET status = 'failed' WHERE id = '%s'", j.job.id);
	OK(catalog_copy_claim(t->fx.cat, &c, &err));
	assert_string_equal(c.id, there.id);
	c = got(t, gone.id);
	assert_int_equal(c.status, CATALOG_COPY_FAILED);
	assert_non_null(strstr(c.error_message, "not completed any more"));
}

/* --- hubs that go --------------------------------------------------------------------------- */

static void a_copy_of_a_hub_that_is_gone_begins_anew_elsewhere(void **state)
{
	struct two *t = *state;
	struct catalog_copy asked, a, b, again;
	struct catalog_copy_disk disks[2];
	struct fx_job j;
	bool remove;

	completed_backup(t, &j);
	ask(t, j.job.id, &t->far, &asked);
	OK(catalog_copy_claim(t->fx.cat, &a, &err));
	plan_files(&a, disks);
	OK(catalog_copy_set_disks(t->fx.cat, &a, disks, 2, &err));
	OK(catalog_copy_progress(t->fx.cat, &a, 1234, &remove, &err));

	/* The lease is over, and the hubs' own housekeeping notices. */
	tmpdb_sql(&t->fx.t, "UPDATE hubs SET lease_until = 1 WHERE name = 'a'");
	tmpdb_sql(&t->fx.t, "UPDATE hubs SET steady_since = 1");
	assert_int_equal(take_over(t->b, NULL), 0);
	{
		_cleanup_(freep) struct catalog_backup *jobs = NULL;
		size_t n;

		OK(catalog_hub_take_over(t->b, &jobs, &n, &err));
	}
	assert_int_equal(take_over(t->b, &b), 1);
	assert_string_equal(b.id, a.id);
	nothing_to_do(t->b); /* not before what was left is cleared away */
	cannot_write(t, t->fx.cat, &a);
	OK(catalog_copy_release(t->b, &b, &err));
	again = got(t, a.id);
	assert_int_equal(again.status, CATALOG_COPY_PENDING);
	assert_int_equal(again.bytes_copied, 0);
	assert_int_equal(again.attempts, 0);
	OK(catalog_copy_claim(t->b, &b, &err));
	assert_string_equal(b.id, a.id);
	cannot_write(t, t->fx.cat, &a); /* nor now, with the same token or another */
	cannot_write(t, t->b, &a);
}

/* --- how it goes ---------------------------------------------------------------------------- */

static void a_failed_attempt_is_followed_by_others_until_there_are_no_more(void **state)
{
	struct two *t = *state;
	struct catalog_copy c;
	struct fx_job j;

	completed_backup(t, &j);
	ask(t, j.job.id, &t->far, &c);
	OK(catalog_copy_claim(t->fx.cat, &c, &err));
	OK(catalog_copy_fail(
		t->fx.cat, &c,
		&(struct catalog_copy_failure){.reason = "cable",
					       .retry_at_us = catalog_now_us() + 3600 * 1000000LL},
		&err));
	c = got(t, c.id);
	assert_int_equal(c.status, CATALOG_COPY_PENDING);
	assert_string_equal(c.error_message, "cable");
	assert_told(t, j.job.id, "attempt 1 failed: cable");
	nothing_to_do(t->fx.cat);
	OK(catalog_copy_retry(t->fx.cat, c.id, &err)); /* not to wait so long */
	OK(catalog_copy_claim(t->fx.cat, &c, &err));
	EXPECT_TEXT(CATALOG_E_STATE, "copying", catalog_copy_retry(t->fx.cat, c.id, &err));
	OK(catalog_copy_fail(t->fx.cat, &c, &(struct catalog_copy_failure){.reason = "fire"},
			     &err));
	assert_int_equal(got(t, c.id).status, CATALOG_COPY_FAILED);
	nothing_to_do(t->fx.cat);
	OK(catalog_copy_retry(t->fx.cat, c.id, &err));
	OK(catalog_copy_claim(t->b, &c, &err));
	assert_int_equal(c.attempts, 1);
	EXPECT(CATALOG_E_NOT_FOUND, catalog_copy_retry(t->fx.cat, "copy-none", &err));
}

static void a_completed_copy_can_be_verified_again(void **state)
{
	struct two *t = *state;
	struct catalog_copy_disk disks[2];
	struct catalog_copy c;
	struct fx_job j;

	completed_backup(t, &j);
	ask(t, j.job.id, &t->far, &c);
	EXPECT(CATALOG_E_STATE, catalog_copy_verify(t->fx.cat, c.id, &err));
	OK(catalog_copy_claim(t->fx.cat, &c, &err));
	plan_files(&c, disks);
	OK(catalog_copy_complete(t->fx.cat, &c, disks, 2, false, &err));
	assert_int_equal(got(t, c.id).verification, CATALOG_COPY_UNVERIFIED);
	OK(catalog_copy_verify(t->fx.cat, c.id, &err));
	OK(catalog_copy_claim(t->b, &c, &err));
	assert_int_equal(c.task, CATALOG_COPY_VERIFY);
	assert_int_equal(c.status, CATALOG_COPY_VERIFYING);
	OK(catalog_copy_keep(t->b, &c, "the disk is away", &err));
	assert_int_equal(got(t, c.id).status, CATALOG_COPY_COMPLETED);
	assert_string_equal(got(t, c.id).error_message, "the disk is away");
	OK(catalog_copy_verify(t->fx.cat, c.id, &err));
	OK(catalog_copy_claim(t->b, &c, &err));
	OK(catalog_copy_release(t->b, &c, &err)); /* the hub stops: not to be made anew */
	OK(catalog_copy_claim(t->fx.cat, &c, &err));
	assert_int_equal(c.task, CATALOG_COPY_VERIFY);
	OK(catalog_copy_fail(
		t->fx.cat, &c,
		&(struct catalog_copy_failure){.reason = "a bit flipped", .differs = true}, &err));
	c = got(t, c.id);
	assert_int_equal(c.status, CATALOG_COPY_FAILED);
	assert_int_equal(c.verification, CATALOG_COPY_DIFFERS);
	OK(catalog_copy_retry(t->fx.cat, c.id, &err));
	OK(catalog_copy_claim(t->b, &c, &err));
	assert_int_equal(c.task, CATALOG_COPY_MAKE);
}

static void a_copy_goes_at_once_or_when_who_is_at_it_has_stopped(void **state)
{
	struct two *t = *state;
	struct catalog_copy c, r;
	struct fx_job j;
	bool held, remove;

	completed_backup(t, &j);
	ask(t, j.job.id, &t->far, &c);
	OK(catalog_copy_begin_remove(t->fx.cat, c.id, &r, &held, &err));
	assert_false(held);
	nothing_to_do(t->b);
	OK(catalog_copy_remove(t->fx.cat, &r, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_copy_get(t->fx.cat, c.id, &r, &err));
	cannot_write(t, t->fx.cat, &c);

	ask(t, j.job.id, &t->far, &c);
	OK(catalog_copy_claim(t->fx.cat, &c, &err));
	OK(catalog_copy_begin_remove(t->b, c.id, &r, &held, &err));
	assert_true(held);
	OK(catalog_copy_progress(t->fx.cat, &c, 1, &remove, &err));
	assert_true(remove);
	/* It stops, and goes with it: nothing is made of it any more. */
	OK(catalog_copy_release(t->fx.cat, &c, &err));
	EXPECT(CATALOG_E_STATE, catalog_copy_retry(t->fx.cat, c.id, &err));
	OK(catalog_copy_claim(t->b, &r, &err));
	assert_int_equal(r.task, CATALOG_COPY_REMOVE);
	OK(catalog_copy_remove(t->b, &r, &err));
	assert_int_equal(tmpdb_i64(&t->fx.t, "SELECT COUNT(*) FROM backup_copies"), 0);
}

static void a_repository_with_copies_stays_and_names_them(void **state)
{
	struct two *t = *state;
	struct catalog_repository repo;
	struct catalog_copy c;
	struct fx_job j;

	completed_backup(t, &j);
	ask(t, j.job.id, &t->far, &c);
	OK(catalog_repository_get(t->fx.cat, t->far.id, &repo, &err));
	assert_int_equal(repo.copy_count, 1);
	EXPECT_TEXT(CATALOG_E_IN_USE, c.id, catalog_repository_delete(t->fx.cat, t->far.id, &err));
	OK(catalog_repository_delete(t->fx.cat, t->farther.id, &err));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		COPY_TEST(a_rules_copies_are_there_as_soon_as_the_backup_is_completed),
		COPY_TEST(rules_that_do_not_apply_make_no_copy),
		COPY_TEST(what_cannot_be_copied_is_refused_with_the_reason),
		COPY_TEST(one_hub_takes_a_copy_and_no_other_writes_it),
		COPY_TEST(hubs_in_a_race_make_every_copy_once),
		COPY_TEST(the_lower_number_goes_first),
		COPY_TEST(what_is_for_idle_times_waits_for_backups_and_copies),
		COPY_TEST(a_repository_that_is_disabled_is_waited_for),
		COPY_TEST(a_backup_that_is_no_longer_completed_is_not_copied),
		COPY_TEST(a_copy_of_a_hub_that_is_gone_begins_anew_elsewhere),
		COPY_TEST(a_failed_attempt_is_followed_by_others_until_there_are_no_more),
		COPY_TEST(a_completed_copy_can_be_verified_again),
		COPY_TEST(a_copy_goes_at_once_or_when_who_is_at_it_has_stopped),
		COPY_TEST(a_repository_with_copies_stays_and_names_them),
	};

	return tmpdb_run_tests("copies", tests, NULL, NULL);
}
