/* Schedules: backups start by themselves, once, where they should, and say when they do not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "catalog/policies.h"
#include "hub/schedules.h"
#include "tests/hub/rig.h"

#define MI (1U << 20)

static struct hubrig rig;
static struct rig_vm vms[3];
static struct catalog_policy policy;

static int setup(void **state)
{
	static const char *const names[] = {"one", "two", "three"}, *const ids[] = {"vm-1", "vm-2",
										    "vm-3"};

	(void)state;
	hubrig_init(&rig);
	hubrig_start(&rig);
	hubrig_add_repository(&rig);
	policy = (struct catalog_policy){.name = "gold", .enabled = true};
	CATALOG_TEXT(policy.primary_repository_id, rig.repository);
	OK(catalog_policy_create(hub_catalog(rig.hub), &policy, NULL, 0, &err));
	for (int i = 0; i < 3; i++) {
		vms[i] = (struct rig_vm){
			.name = names[i], .id = ids[i], .disk_count = 1, .size = {MI}};
		rig_vm_init(&vms[i]);
		hubrig_add_vm(&rig, &vms[i]);
	}
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	hubrig_deinit(&rig);
	for (int i = 0; i < 3; i++)
		rig_vm_deinit(&vms[i]);
	return 0;
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

/* --- helpers -------------------------------------------------------------------------------- */

static void context_of(const char *vm_name, char id[CATALOG_ID_SIZE])
{
	struct catalog_vm_context vm;

	OK(catalog_vm_context_find(hub_catalog(rig.hub), vm_name, NULL, &vm, &err));
	strcpy(id, vm.context_id);
}

static void give_policy(const char *vm_name)
{
	const struct catalog_vm_change change = {.policy_id = policy.id};
	char id[CATALOG_ID_SIZE];

	context_of(vm_name, id);
	OK(catalog_vm_context_change(hub_catalog(rig.hub), id, &change, &err));
}

/* @vm_name NULL: all of the policy. Its own time is far away. */
static void add_schedule(struct catalog_schedule *s, const char *name, const char *vm_name)
{
	*s = (struct catalog_schedule){.enabled = true, .backup_type = CATALOG_BACKUP_INCREMENTAL};
	CATALOG_TEXT(s->name, name);
	CATALOG_TEXT(s->policy_id, policy.id);
	CATALOG_TEXT(s->cron_expression, "0 0 1 1 *");
	CATALOG_TEXT(s->timezone, "Europe/Berlin");
	if (vm_name)
		context_of(vm_name, s->vm_context_id);
	OK(hub_schedule_create(rig.hub, s, &err));
	assert_true(s->next_run_at_us > catalog_now_us());
}

static int64_t backups(const char *where)
{
	return tmpdb_i64(&rig.db, "SELECT COUNT(*) FROM backup_jobs WHERE %s", where);
}

static void nap(void)
{
	nanosleep(&(struct timespec){.tv_nsec = 10 * 1000000L}, NULL);
}

/* Until the schedule has run after @after_us; the row as it is then. */
static void await_run(struct catalog_schedule *s, int64_t after_us)
{
	for (int i = 0; i < 6000; i++) {
		OK(catalog_schedule_get(hub_catalog(rig.hub), s->id, s, &err));
		if (s->last_run_at_us > after_us)
			return;
		nap();
	}
	fail_msg("schedule %s did not run", s->name);
}

static void end_all_backups(void)
{
	struct hub_backup_view *rows;
	const struct catalog_backup_filter running = {
		.status = &(enum catalog_job_status){CATALOG_JOB_RUNNING}};
	int64_t total;
	size_t n;

	OK(hub_backups_list(rig.hub, &running, &rows, &n, &total, &err));
	for (size_t i = 0; i < n; i++) {
		struct hub_backup_view view;

		OK(hub_backup_get(rig.hub, rows[i].job.id, &view, &err));
		for (int v = 0; v < 3; v++)
			if (!strcmp(vms[v].name, view.job.vm_name))
				rig_finish(&rig, &vms[v], &view, 1);
		hub_backup_view_deinit(&view);
	}
	free(rows);
}

/* --- tests ---------------------------------------------------------------------------------- */

static void all_vms_of_the_policy_are_backed_up(void **state)
{
	struct catalog_schedule s;

	(void)state;
	give_policy("one");
	give_policy("three");
	add_schedule(&s, "nightly", NULL);
	OK(hub_schedule_run_now(rig.hub, s.id, &err));
	await_run(&s, 0);
	assert_int_equal(backups("status = 'running'"), 2);
	assert_int_equal(backups("vm_name = 'two'"), 0);
	assert_int_equal(tmpdb_i64(&rig.db,
				   "SELECT COUNT(*) FROM backup_jobs WHERE policy_id = '%s'"
				   " AND backup_type = 'incremental'",
				   policy.id),
			 2);
	assert_true(s.next_run_at_us > catalog_now_us() && !s.claimed_by[0]);
	end_all_backups();
	assert_int_equal(backups("status = 'completed'"), 2);
}

static void one_vm_may_have_a_schedule_of_its_own(void **state)
{
	struct catalog_schedule s;

	(void)state;
	add_schedule(&s, "nightly", "two");
	OK(hub_schedule_run_now(rig.hub, s.id, &err));
	await_run(&s, 0);
	assert_int_equal(backups("1 = 1"), 1);
	assert_int_equal(backups("vm_name = 'two'"), 1);
	/* Still running at the next run: left out, and the one after that takes it again. */
	OK(hub_schedule_run_now(rig.hub, s.id, &err));
	await_run(&s, s.last_run_at_us);
	assert_int_equal(backups("1 = 1"), 1);
	end_all_backups();
	OK(hub_schedule_run_now(rig.hub, s.id, &err));
	await_run(&s, s.last_run_at_us);
	assert_int_equal(backups("1 = 1"), 2);
	end_all_backups();
}

static void missed_runs_are_made_up_for_once(void **state)
{
	struct catalog_schedule s;

	(void)state;
	add_schedule(&s, "nightly", "one");
	hubrig_stop(&rig);
	/* A week of runs went by. No hub is there while it is said: the next minute may begin. */
	tmpdb_sql(&rig.db, "UPDATE schedules SET cron_expression = '* * * * *', next_run_at = %lld",
		  (long long)(catalog_now_us() - 7 * 24 * 3600 * 1000000LL));
	hubrig_start(&rig);
	await_run(&s, 0);
	assert_int_equal(backups("1 = 1"), 1);
	assert_true(s.next_run_at_us > s.last_run_at_us);
	/* The next after the run's end, which may be in another minute than its beginning. */
	assert_true(s.next_run_at_us <= catalog_now_us() + 60 * 1000000LL);
}

static void what_is_disabled_does_not_run(void **state)
{
	struct catalog_schedule s, other;

	(void)state;
	add_schedule(&s, "off", "one");
	add_schedule(&other, "on", "two");
	s.enabled = false;
	OK(hub_schedule_update(rig.hub, &s, &err));
	assert_int_equal(s.next_run_at_us, 0);
	REFUSED(HUB_E_STATE, "disabled", hub_schedule_run_now(rig.hub, s.id, &err));
	REFUSED(HUB_E_NOT_FOUND, "schedule-x", hub_schedule_run_now(rig.hub, "schedule-x", &err));
	OK(hub_schedule_run_now(rig.hub, other.id, &err));
	await_run(&other, 0);
	assert_int_equal(backups("vm_name = 'one'"), 0);
	s.enabled = true;
	OK(hub_schedule_update(rig.hub, &s, &err));
	assert_true(s.next_run_at_us > 0);
}

static void only_so_many_backups_are_started_at_a_time(void **state)
{
	struct catalog_schedule s;

	(void)state;
	for (int i = 0; i < 3; i++)
		give_policy(vms[i].name);
	add_schedule(&s, "nightly", NULL);
	hubrig_stop(&rig);
	rig.config.schedule_max_running = 2;
	hubrig_start(&rig);
	OK(hub_schedule_run_now(rig.hub, s.id, &err));
	for (int i = 0; i < 6000 && backups("status = 'running'") < 2; i++)
		nap();
	for (int i = 0; i < 20; i++) { /* as long as those run there are two */
		assert_int_equal(backups("1 = 1"), 2);
		nap();
	}
	OK(catalog_schedule_get(hub_catalog(rig.hub), s.id, &s, &err));
	assert_true(s.claimed_by[0] && !s.last_run_at_us);
	end_all_backups();
	await_run(&s, 0);
	assert_int_equal(backups("1 = 1"), 3);
	end_all_backups();
}

static void a_start_that_fails_ends_no_run(void **state)
{
	struct catalog_schedule s;

	(void)state;
	give_policy("one");
	give_policy("two");
	add_schedule(&s, "nightly", NULL);
	agentpeer_set_start(rig.peer, 500, "no vCenter");
	OK(hub_schedule_run_now(rig.hub, s.id, &err));
	await_run(&s, 0);
	assert_int_equal(backups("status = 'failed' AND error_message LIKE '%no vCenter%'"), 2);
	assert_true(s.next_run_at_us > catalog_now_us());
}

/* Another hub claims it first: this one keeps its hands off until that one is gone. */
static void what_another_hub_claimed_is_left_to_it(void **state)
{
	struct catalog_schedule s, got;
	int64_t now = catalog_now_us();

	(void)state;
	add_schedule(&s, "nightly", "one");
	hubrig_stop(&rig);
	tmpdb_sql(&rig.db,
		  "UPDATE schedules SET next_run_at = 1, claimed_by = 'hub-other',"
		  " claimed_until = %lld",
		  (long long)(now + 3600 * 1000000LL));
	hubrig_start(&rig);
	for (int i = 0; i < 20; i++)
		nap();
	assert_int_equal(backups("1 = 1"), 0);
	OK(catalog_schedule_get(hub_catalog(rig.hub), s.id, &got, &err));
	assert_string_equal(got.claimed_by, "hub-other");
	tmpdb_sql(&rig.db, "UPDATE schedules SET claimed_until = 1");
	await_run(&s, 0);
	assert_int_equal(backups("1 = 1"), 1);
}

static void what_makes_no_sense_is_refused(void **state)
{
	struct catalog_schedule s = {.enabled = true};

	(void)state;
	CATALOG_TEXT(s.name, "x");
	CATALOG_TEXT(s.policy_id, policy.id);
	CATALOG_TEXT(s.timezone, "UTC");
	CATALOG_TEXT(s.cron_expression, "0 25 * * *");
	REFUSED(HUB_E_INVALID, "no hour", hub_schedule_create(rig.hub, &s, &err));
	CATALOG_TEXT(s.cron_expression, "0 0 31 2 *");
	REFUSED(HUB_E_INVALID, "no day", hub_schedule_create(rig.hub, &s, &err));
	CATALOG_TEXT(s.cron_expression, "0 0 * * *");
	CATALOG_TEXT(s.timezone, "Berlin");
	REFUSED(HUB_E_INVALID, "no time zone \"Berlin\"", hub_schedule_create(rig.hub, &s, &err));
	CATALOG_TEXT(s.timezone, "Europe/Berlin");
	CATALOG_TEXT(s.policy_id, "policy-x");
	REFUSED(HUB_E_INVALID, "policy-x", hub_schedule_create(rig.hub, &s, &err));
}

static void a_backup_may_name_a_policy(void **state)
{
	struct hub_start_request req = {
		.vm_name = "one", .backup_type = CATALOG_BACKUP_FULL, .policy_id = "policy-x"};
	struct hub_started started;

	(void)state;
	REFUSED(HUB_E_NOT_FOUND, "policy-x", hub_backup_start(rig.hub, &req, &started, &err));
	req.policy_id = policy.id; /* and goes to its repository */
	OK(hub_backup_start(rig.hub, &req, &started, &err));
	free(started.nbd_targets);
	assert_int_equal(tmpdb_i64(&rig.db,
				   "SELECT COUNT(*) FROM backup_jobs WHERE"
				   " policy_id = '%s' AND repository_id = '%s'",
				   policy.id, rig.repository),
			 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(all_vms_of_the_policy_are_backed_up),
		T(one_vm_may_have_a_schedule_of_its_own),
		T(missed_runs_are_made_up_for_once),
		T(what_is_disabled_does_not_run),
		T(only_so_many_backups_are_started_at_a_time),
		T(a_start_that_fails_ends_no_run),
		T(what_another_hub_claimed_is_left_to_it),
		T(what_makes_no_sense_is_refused),
		T(a_backup_may_name_a_policy),
	};

	return tmpdb_run_tests("hub/schedules", tests, NULL, NULL);
}
