/* Policies with their copy rules, schedules and who runs them, on both databases. */
#include <pthread.h>

#include "catalog/policies.h"
#include "catalog/schedules.h"
#include "tests/catalog/fixture.h"

static void add_policy(struct fx *fx, struct catalog_policy *p, const char *name,
		       const char *repository)
{
	*p = (struct catalog_policy){.enabled = true, .keep_days = 30};
	CATALOG_TEXT(p->name, name);
	CATALOG_TEXT(p->primary_repository_id, repository);
	OK(catalog_policy_create(fx->cat, p, NULL, 0, &err));
}

static struct catalog_copy_rule rule_to(const struct catalog_repository *repo, int priority)
{
	struct catalog_copy_rule rule = {
		.enabled = true, .priority = priority, .copy_mode = CATALOG_COPY_SCHEDULED};

	CATALOG_TEXT(rule.repository_id, repo->id);
	return rule;
}

static void a_policy_and_its_rules_are_written_together(void **state)
{
	struct fx *fx = *state;
	struct catalog_repository main_repo, a, b;
	struct catalog_copy_rule rules[2], *got, *again;
	struct catalog_policy p = {.enabled = true, .keep_last = 3, .keep_yearly = 2}, read, *all;
	size_t n;

	fx_add_repository(fx, &main_repo, "main");
	fx_add_repository(fx, &a, "a");
	fx_add_repository(fx, &b, "b");
	CATALOG_TEXT(p.name, "gold");
	CATALOG_TEXT(p.primary_repository_id, main_repo.id);
	rules[0] = rule_to(&a, 2);
	rules[1] = rule_to(&b, 1);
	OK(catalog_policy_create(fx->cat, &p, rules, 2, &err));
	assert_memory_equal(p.id, "policy-", 7);
	OK(catalog_policy_get(fx->cat, p.id, &read, &err));
	assert_memory_equal(&read, &p, sizeof(read));
	OK(catalog_copy_rules_list(fx->cat, p.id, &got, &n, &err));
	assert_int_equal(n, 2);
	assert_string_equal(got[0].repository_id, b.id); /* by priority */
	assert_int_equal(got[0].copy_mode, CATALOG_COPY_SCHEDULED);
	assert_true(got[0].enabled && !got[0].verify_after_copy);

	/* One rule stays under its id, one goes. */
	rules[0] = rule_to(&b, 7);
	rules[0].copy_mode = CATALOG_COPY_MANUAL;
	CATALOG_TEXT(p.name, "golden");
	p.keep_last = 0;
	OK(catalog_policy_update(fx->cat, &p, rules, 1, &err));
	OK(catalog_copy_rules_list(fx->cat, NULL, &again, &n, &err));
	assert_int_equal(n, 1);
	assert_string_equal(again[0].id, got[0].id);
	assert_int_equal(again[0].priority, 7);
	assert_int_equal(again[0].copy_mode, CATALOG_COPY_MANUAL);
	free(again);
	/* Not a word about rules: they stay. */
	OK(catalog_policy_update(fx->cat, &p, NULL, 0, &err));
	OK(catalog_copy_rules_list(fx->cat, p.id, &again, &n, &err));
	assert_int_equal(n, 1);
	free(again);
	free(got);
	OK(catalog_policies_list(fx->cat, &all, &n, &err));
	assert_int_equal(n, 1);
	assert_string_equal(all[0].name, "golden");
	assert_true(all[0].keep_last == 0 && all[0].keep_yearly == 2);
	free(all);
	OK(catalog_policy_delete(fx->cat, p.id, &err));
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_copy_rules"), 0);
	EXPECT(CATALOG_E_NOT_FOUND, catalog_policy_get(fx->cat, p.id, &read, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_policy_delete(fx->cat, p.id, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_policy_update(fx->cat, &p, NULL, 0, &err));
}

static void policies_that_make_no_sense_are_refused_whole(void **state)
{
	struct fx *fx = *state;
	struct catalog_repository main_repo, a;
	struct catalog_copy_rule rules[CATALOG_COPY_RULES_MAX + 1];
	struct catalog_policy p, q;
	enum catalog_copy_mode mode;

	fx_add_repository(fx, &main_repo, "main");
	fx_add_repository(fx, &a, "a");
	add_policy(fx, &p, "gold", main_repo.id);
	q = p;
	q.id[0] = '\0';
	EXPECT_TEXT(CATALOG_E_EXISTS, "gold", catalog_policy_create(fx->cat, &q, NULL, 0, &err));
	CATALOG_TEXT(q.name, "");
	EXPECT(CATALOG_E_INVALID, catalog_policy_create(fx->cat, &q, NULL, 0, &err));
	CATALOG_TEXT(q.name, "q");
	q.id[0] = '\0';
	q.keep_weekly = -1;
	EXPECT_TEXT(CATALOG_E_INVALID, "0 or more",
		    catalog_policy_create(fx->cat, &q, NULL, 0, &err));
	q.keep_weekly = 0;
	CATALOG_TEXT(q.primary_repository_id, "repo-none");
	EXPECT_TEXT(CATALOG_E_INVALID, "repo-none",
		    catalog_policy_create(fx->cat, &q, NULL, 0, &err));
	CATALOG_TEXT(q.primary_repository_id, main_repo.id);
	rules[0] = rule_to(&main_repo, 1);
	EXPECT_TEXT(CATALOG_E_INVALID, "already",
		    catalog_policy_create(fx->cat, &q, rules, 1, &err));
	rules[0] = rules[1] = rule_to(&a, 1);
	EXPECT_TEXT(CATALOG_E_INVALID, "two copy rules",
		    catalog_policy_create(fx->cat, &q, rules, 2, &err));
	rules[0] = rule_to(&a, 0);
	EXPECT_TEXT(CATALOG_E_INVALID, "priority",
		    catalog_policy_create(fx->cat, &q, rules, 1, &err));
	CATALOG_TEXT(rules[0].repository_id, "repo-none");
	rules[0].priority = 1;
	EXPECT_TEXT(CATALOG_E_INVALID, "repo-none",
		    catalog_policy_create(fx->cat, &q, rules, 1, &err));
	EXPECT_TEXT(CATALOG_E_INVALID, "at most",
		    catalog_policy_create(fx->cat, &q, rules, CATALOG_COPY_RULES_MAX + 1, &err));
	/* Moving the policy to where a rule goes. */
	rules[0] = rule_to(&a, 1);
	OK(catalog_policy_update(fx->cat, &p, rules, 1, &err));
	CATALOG_TEXT(p.primary_repository_id, a.id);
	EXPECT_TEXT(CATALOG_E_INVALID, "already",
		    catalog_policy_update(fx->cat, &p, NULL, 0, &err));
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_policies"), 1);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_copy_rules"), 1);
	assert_false(catalog_copy_mode_parse("never", &mode));
	assert_false(catalog_copy_mode_parse(NULL, &mode));
	assert_true(catalog_copy_mode_parse("manual", &mode) && mode == CATALOG_COPY_MANUAL);
	assert_string_equal(catalog_copy_mode_name(CATALOG_COPY_IMMEDIATE), "immediate");
}

/* --- VMs of a policy -------------------------------------------------------------------------- */

static void a_policy_in_use_stays(void **state)
{
	struct catalog_schedule s = {.enabled = true, .next_run_at_us = 5};
	struct catalog_vm_filter filter = {.limit = 0};
	struct catalog_vm_change change;
	struct catalog_vm_context *rows;
	struct catalog_repository repo;
	struct catalog_policy p, got;
	struct fx *fx = *state;
	struct fx_vm v, w;
	int64_t total;
	size_t n;

	fx_add_repository(fx, &repo, "main");
	add_policy(fx, &p, "gold", repo.id);
	fx_add_vm(fx, &v, "pgtest1", 1);
	fx_add_vm(fx, &w, "Web2", 2);
	change = (struct catalog_vm_change){.policy_id = p.id, .notes = "the \"big\" one"};
	OK(catalog_vm_context_change(fx->cat, v.vm.context_id, &change, &err));
	OK(catalog_policy_get(fx->cat, p.id, &got, &err));
	assert_int_equal(got.vm_count, 1);
	EXPECT_TEXT(CATALOG_E_IN_USE, "1 VMs", catalog_policy_delete(fx->cat, p.id, &err));
	/* Discovery does not take it away. */
	fx_add_vm(fx, &v, "pgtest1", 1);
	assert_string_equal(v.vm.policy_id, p.id);
	assert_string_equal(v.vm.notes, "the \"big\" one");

	filter.policy_id = p.id;
	OK(catalog_vm_contexts_list(fx->cat, &filter, &rows, &n, &total, &err));
	assert_true(n == 1 && total == 1 && !strcmp(rows[0].vm_name, "pgtest1"));
	free(rows);
	filter = (struct catalog_vm_filter){.without_policy = true};
	OK(catalog_vm_contexts_list(fx->cat, &filter, &rows, &n, &total, &err));
	assert_true(n == 1 && total == 1 && !strcmp(rows[0].vm_name, "Web2"));
	free(rows);
	CATALOG_TEXT(s.name, "web");
	CATALOG_TEXT(s.policy_id, p.id);
	CATALOG_TEXT(s.vm_context_id, w.vm.context_id);
	CATALOG_TEXT(s.cron_expression, "@daily");
	CATALOG_TEXT(s.timezone, "UTC");
	OK(catalog_schedule_create(fx->cat, &s, &err));
	OK(catalog_vm_contexts_list(fx->cat, &filter, &rows, &n, &total, &err));
	assert_true(n == 0 && total == 0);
	OK(catalog_schedule_delete(fx->cat, s.id, &err));

	filter = (struct catalog_vm_filter){.search = "wEB", .credential_id = CATALOG_NONE};
	OK(catalog_vm_contexts_list(fx->cat, &filter, &rows, &n, &total, &err));
	assert_true(n == 1 && !strcmp(rows[0].vm_name, "Web2"));
	free(rows);
	filter = (struct catalog_vm_filter){.search = "%"};
	OK(catalog_vm_contexts_list(fx->cat, &filter, &rows, &n, &total, &err));
	assert_int_equal(n, 0);
	filter = (struct catalog_vm_filter){.order = CATALOG_VM_BY_CAPACITY, .descending = true};
	OK(catalog_vm_contexts_list(fx->cat, &filter, &rows, &n, &total, &err));
	assert_true(n == 2 && !strcmp(rows[0].vm_name, "Web2"));
	free(rows);

	change = (struct catalog_vm_change){.policy_id = "policy-none"};
	EXPECT_TEXT(CATALOG_E_INVALID, "no such policy",
		    catalog_vm_context_change(fx->cat, v.vm.context_id, &change, &err));
	change = (struct catalog_vm_change){.credential_id = &(int64_t){99}};
	EXPECT_TEXT(CATALOG_E_INVALID, "no such credential",
		    catalog_vm_context_change(fx->cat, v.vm.context_id, &change, &err));
	change = (struct catalog_vm_change){.policy_id = "",
					    .credential_id = &(int64_t){CATALOG_NONE}};
	OK(catalog_vm_context_change(fx->cat, v.vm.context_id, &change, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_vm_context_change(fx->cat, "ctx-x", &change, &err));
	OK(catalog_policy_delete(fx->cat, p.id, &err));
}

/* --- schedules -------------------------------------------------------------------------------- */

static void add_schedule(struct fx *fx, struct catalog_schedule *s, const char *name,
			 const struct catalog_policy *p, int64_t next)
{
	*s = (struct catalog_schedule){.enabled = true, .next_run_at_us = next};
	CATALOG_TEXT(s->name, name);
	CATALOG_TEXT(s->policy_id, p->id);
	CATALOG_TEXT(s->cron_expression, "0 3 * * *");
	CATALOG_TEXT(s->timezone, "Europe/Berlin");
	OK(catalog_schedule_create(fx->cat, s, &err));
}

static void a_schedule_is_created_changed_and_deleted(void **state)
{
	struct fx *fx = *state;
	struct catalog_repository repo;
	struct catalog_schedule s, got, *rows;
	struct catalog_policy p, q;
	struct fx_vm v;
	size_t n;

	fx_add_repository(fx, &repo, "main");
	fx_add_vm(fx, &v, "pgtest1", 1);
	add_policy(fx, &p, "gold", repo.id);
	add_policy(fx, &q, "silver", repo.id);
	add_schedule(fx, &s, "nightly", &p, 1000);
	assert_memory_equal(s.id, "schedule-", 9);
	OK(catalog_schedule_get(fx->cat, s.id, &got, &err));
	assert_memory_equal(&got, &s, sizeof(got));
	EXPECT_TEXT(CATALOG_E_IN_USE, "1 schedules", catalog_policy_delete(fx->cat, p.id, &err));
	CATALOG_TEXT(s.policy_id, q.id);
	CATALOG_TEXT(s.vm_context_id, v.vm.context_id);
	s.backup_type = CATALOG_BACKUP_INCREMENTAL;
	s.next_run_at_us = 2000;
	OK(catalog_schedule_update(fx->cat, &s, &err));
	OK(catalog_schedules_list(fx->cat, q.id, &rows, &n, &err));
	assert_int_equal(n, 1);
	assert_true(rows[0].next_run_at_us == 2000 && rows[0].last_run_at_us == 0);
	assert_int_equal(rows[0].backup_type, CATALOG_BACKUP_INCREMENTAL);
	free(rows);
	got = s;
	got.id[0] = '\0';
	EXPECT_TEXT(CATALOG_E_EXISTS, "nightly", catalog_schedule_create(fx->cat, &got, &err));
	CATALOG_TEXT(got.name, "");
	EXPECT(CATALOG_E_INVALID, catalog_schedule_create(fx->cat, &got, &err));
	CATALOG_TEXT(got.name, "x");
	got.backup_type = CATALOG_BACKUP_DIFFERENTIAL;
	EXPECT(CATALOG_E_INVALID, catalog_schedule_create(fx->cat, &got, &err));
	got.backup_type = CATALOG_BACKUP_FULL;
	CATALOG_TEXT(got.policy_id, "policy-x");
	EXPECT_TEXT(CATALOG_E_INVALID, "policy-x", catalog_schedule_create(fx->cat, &got, &err));
	CATALOG_TEXT(got.policy_id, p.id);
	CATALOG_TEXT(got.vm_context_id, "ctx-x");
	EXPECT_TEXT(CATALOG_E_INVALID, "ctx-x", catalog_schedule_create(fx->cat, &got, &err));
	CATALOG_TEXT(got.vm_context_id, "");
	CATALOG_TEXT(got.id, "schedule-x");
	EXPECT(CATALOG_E_NOT_FOUND, catalog_schedule_update(fx->cat, &got, &err));
	/* A schedule of a VM goes with it. */
	OK(catalog_vm_context_delete(fx->cat, v.vm.context_id, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_schedule_get(fx->cat, s.id, &got, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_schedule_delete(fx->cat, s.id, &err));
}

static void what_is_due_is_claimed_once(void **state)
{
	struct fx *fx = *state;
	struct catalog_repository repo;
	struct catalog_schedule early, late, off, got;
	struct catalog_policy p;

	fx_add_repository(fx, &repo, "main");
	add_policy(fx, &p, "gold", repo.id);
	add_schedule(fx, &late, "late", &p, 900);
	add_schedule(fx, &early, "early", &p, 500);
	add_schedule(fx, &off, "off", &p, 100);
	off.enabled = false;
	OK(catalog_schedule_update(fx->cat, &off, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_schedule_claim(fx->cat, "a", 499, 2000, &got, &err));
	OK(catalog_schedule_claim(fx->cat, "a", 1000, 2000, &got, &err));
	assert_string_equal(got.name, "early"); /* due longest */
	assert_string_equal(got.claimed_by, "a");
	OK(catalog_schedule_claim(fx->cat, "b", 1000, 2000, &got, &err));
	assert_string_equal(got.name, "late");
	EXPECT(CATALOG_E_NOT_FOUND, catalog_schedule_claim(fx->cat, "c", 1999, 3000, &got, &err));

	/* One keeps its claim, the other's hub is gone. */
	OK(catalog_schedule_renew(fx->cat, early.id, "a", 9000, &err));
	OK(catalog_schedule_claim(fx->cat, "c", 2000, 9000, &got, &err));
	assert_string_equal(got.name, "late");
	EXPECT_TEXT(CATALOG_E_STATE, late.id,
		    catalog_schedule_renew(fx->cat, late.id, "b", 9000, &err));
	EXPECT(CATALOG_E_STATE, catalog_schedule_done(fx->cat, late.id, "b", 2000, 5000, &err));
	OK(catalog_schedule_done(fx->cat, late.id, "c", 2000, 5000, &err));
	OK(catalog_schedule_get(fx->cat, late.id, &got, &err));
	assert_true(got.last_run_at_us == 2000 && got.next_run_at_us == 5000 &&
		    !got.claimed_by[0] && !got.claimed_until_us);

	/* Changed in the middle of its run: what the change says stays. */
	OK(catalog_schedule_get(fx->cat, early.id, &early, &err));
	early.next_run_at_us = 7777;
	OK(catalog_schedule_update(fx->cat, &early, &err));
	EXPECT(CATALOG_E_STATE, catalog_schedule_done(fx->cat, early.id, "a", 1, 2, &err));
	OK(catalog_schedule_get(fx->cat, early.id, &got, &err));
	assert_int_equal(got.next_run_at_us, 7777);

	p.enabled = false;
	OK(catalog_policy_update(fx->cat, &p, NULL, 0, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_schedule_claim(fx->cat, "a", 10000, 20000, &got, &err));
}

#define HUBS 6

struct claimant {
	const char *url;
	int claims;
};

/* A hub of its own: another catalog handle on the same database. */
static void *claim_all(void *arg)
{
	struct claimant *c = arg;
	struct catalog_schedule got;
	struct catalog *cat;
	char me[CATALOG_ID_SIZE];
	struct err err = ERR_INIT;
	int r = catalog_open(c->url, NULL, &cat, &err);

	catalog_new_id(me, "hub-");
	while (!r && !(r = catalog_schedule_claim(cat, me, 1000, 5000, &got, &err)))
		c->claims++;
	if (r != CATALOG_E_NOT_FOUND)
		c->claims = -1000;
	catalog_close(cat);
	return NULL;
}

static void of_several_hubs_one_gets_it(void **state)
{
	struct claimant hubs[HUBS];
	struct catalog_repository repo;
	struct catalog_policy p;
	struct fx *fx = *state;
	pthread_t threads[HUBS];
	int sum = 0;

	fx_add_repository(fx, &repo, "main");
	add_policy(fx, &p, "gold", repo.id);
	for (int i = 0; i < 20; i++) {
		struct catalog_schedule s;
		char name[16];

		snprintf(name, sizeof(name), "s%d", i);
		add_schedule(fx, &s, name, &p, 1 + i);
	}
	for (int i = 0; i < HUBS; i++) {
		hubs[i] = (struct claimant){fx->t.url, 0};
		assert_int_equal(pthread_create(&threads[i], NULL, claim_all, &hubs[i]), 0);
	}
	for (int i = 0; i < HUBS; i++) {
		pthread_join(threads[i], NULL);
		sum += hubs[i].claims;
	}
	assert_int_equal(sum, 20);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM schedules WHERE claimed_by LIKE"
					   " 'hub-%%'"),
			 20);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FX_TEST(a_policy_and_its_rules_are_written_together),
		FX_TEST(policies_that_make_no_sense_are_refused_whole),
		FX_TEST(a_policy_in_use_stays),
		FX_TEST(a_schedule_is_created_changed_and_deleted),
		FX_TEST(what_is_due_is_claimed_once),
		FX_TEST(of_several_hubs_one_gets_it),
	};

	return tmpdb_run_tests("catalog/policies", tests, NULL, NULL);
}
