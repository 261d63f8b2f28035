/* Who is let in: the first run, tokens in all their states, scopes, the anchor of the audit log,
 * and how often somebody may try. */
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "hub/access.h"
#include "hub/audit.h"
#include "hub/limiter.h"
#include "tests/hub/rig.h"

static struct hubrig rig;

static int setup(void **state)
{
	(void)state;
	hubrig_init(&rig);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	hubrig_deinit(&rig);
	return 0;
}

/* Without its newline. */
static void read_file(const char *name, char *text, size_t size)
{
	char path[400];
	FILE *f;

	snprintf(path, sizeof(path), "%s/data/%s", rig.dir, name);
	f = fopen(path, "r");
	assert_non_null(f);
	assert_non_null(fgets(text, (int)size, f));
	fclose(f);
	text[strcspn(text, "\n")] = '\0';
}

static void refused(const char *token, const char *why)
{
	struct hub_caller caller;
	struct err err = ERR_INIT;

	assert_int_equal(hub_access_authenticate(rig.hub, token, &caller, &err), HUB_E_TOKEN);
	if (!strstr(err.text, why))
		fail_msg("\"%s\" is not in \"%s\"", why, err.text);
	assert_null(strstr(err.text, "sdn_"));
}

static void make_user(const char *name, enum catalog_role role, struct catalog_user *user)
{
	*user = (struct catalog_user){.role = role, .enabled = true};
	strcpy(user->name, name);
	OK(hub_user_create(rig.hub, user, &err));
}

static void make_token(const struct catalog_user *user, const char *scopes, int64_t expires_at_us,
		       struct catalog_token *token, char text[HUB_TOKEN_SIZE])
{
	*token = (struct catalog_token){.name = "t", .expires_at_us = expires_at_us};
	strcpy(token->user_id, user->id);
	strcpy(token->scopes, scopes);
	OK(hub_token_create(rig.hub, token, text, &err));
}

/* --- the first run ---------------------------------------------------------------------------- */

static void the_first_run_makes_an_administrator(void **state)
{
	char text[100], again[100], path[400];
	struct hub_caller caller;
	struct stat st;

	(void)state;
	hubrig_start(&rig);
	snprintf(path, sizeof(path), "%s/data/admin-token", rig.dir);
	assert_string_equal(hub_access_new_token_path(rig.hub), path);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode, S_IFREG | 0600);
	read_file("admin-token", text, sizeof(text));
	assert_int_equal(strlen(text), HUB_TOKEN_SIZE - 1);
	OK(hub_access_authenticate(rig.hub, text, &caller, &err));
	assert_string_equal(caller.user_name, "admin");
	assert_int_equal(caller.role, CATALOG_ROLE_ADMIN);
	hubrig_stop(&rig);

	hubrig_start(&rig);
	assert_null(hub_access_new_token_path(rig.hub));
	read_file("admin-token", again, sizeof(again));
	assert_string_equal(again, text);
	OK(hub_access_authenticate(rig.hub, text, &caller, &err));
	assert_int_equal(tmpdb_i64(&rig.db, "SELECT COUNT(*) FROM users"), 1);
}

/* Nor does a link somebody left there lead the token elsewhere. */
static void a_first_run_cut_short_begins_again(void **state)
{
	char text[100], path[400];
	struct hub_caller caller;
	struct stat st;

	(void)state;
	assert_int_equal(scratch_run("mkdir '%s/data' && echo old > '%s/elsewhere' && "
				     "ln -s ../elsewhere '%s/data/admin-token'",
				     rig.dir, rig.dir, rig.dir),
			 0);
	hubrig_start(&rig);
	snprintf(path, sizeof(path), "%s/data/admin-token", rig.dir);
	assert_int_equal(lstat(path, &st), 0);
	assert_true(S_ISREG(st.st_mode));
	read_file("admin-token", text, sizeof(text));
	OK(hub_access_authenticate(rig.hub, text, &caller, &err));
	read_file("../elsewhere", text, sizeof(text));
	assert_string_equal(text, "old");
}

static void a_hub_on_a_catalog_with_users_makes_no_administrator(void **state)
{
	char path[400];

	(void)state;
	hubrig_start(&rig);
	hubrig_stop(&rig);
	assert_int_equal(scratch_run("rm -r '%s/data'", rig.dir), 0);
	hubrig_start(&rig);
	snprintf(path, sizeof(path), "%s/data/admin-token", rig.dir);
	assert_int_not_equal(access(path, F_OK), 0);
	assert_null(hub_access_new_token_path(rig.hub));
}

/* For who lost the last token, or disabled the wrong user in the database. */
static void a_new_token_is_made_when_asked_for(void **state)
{
	char old[100], text[100];
	struct hub_caller caller;

	(void)state;
	hubrig_start(&rig);
	read_file("admin-token", old, sizeof(old));
	hubrig_stop(&rig);
	tmpdb_sql(&rig.db, "UPDATE users SET enabled = 0, role = 'viewer'");
	rig.config.new_admin_token = true;
	hubrig_start(&rig);
	read_file("admin-token", text, sizeof(text));
	assert_string_not_equal(text, old);
	OK(hub_access_authenticate(rig.hub, text, &caller, &err));
	assert_string_equal(caller.user_name, "admin");
	assert_int_equal(caller.role, CATALOG_ROLE_ADMIN);
	OK(hub_access_authenticate(rig.hub, old, &caller, &err));
	assert_int_equal(tmpdb_i64(&rig.db, "SELECT COUNT(*) FROM audit_log WHERE action ="
					    " 'new administrator''s token'"),
			 1);
}

/* --- tokens ----------------------------------------------------------------------------------- */

static void a_token_lets_its_user_in_until_it_ends(void **state)
{
	struct catalog_user user;
	struct catalog_token token;
	struct hub_caller caller;
	char text[HUB_TOKEN_SIZE], other[HUB_TOKEN_SIZE];
	const bool off = false, on = true;

	(void)state;
	hubrig_start(&rig);
	make_user("ann", CATALOG_ROLE_OPERATOR, &user);
	make_token(&user, "", 0, &token, text);
	make_token(&user, "", 0, &token, other);
	assert_string_not_equal(text, other);
	OK(hub_access_authenticate(rig.hub, other, &caller, &err));
	assert_string_equal(caller.user_name, "ann");
	assert_string_equal(caller.token_id, token.id);
	assert_int_equal(caller.role, CATALOG_ROLE_OPERATOR);

	tmpdb_sql(&rig.db, "UPDATE api_tokens SET expires_at = 1 WHERE id = '%s'", token.id);
	refused(other, "has expired");
	tmpdb_sql(&rig.db, "UPDATE api_tokens SET expires_at = NULL WHERE id = '%s'", token.id);
	OK(hub_user_update(rig.hub, user.id, NULL, &off, NULL, &err));
	refused(other, "ann is disabled");
	OK(hub_user_update(rig.hub, user.id, NULL, &on, NULL, &err));
	OK(hub_access_authenticate(rig.hub, other, &caller, &err));
	OK(hub_token_revoke(rig.hub, token.id, &err));
	OK(hub_token_revoke(rig.hub, token.id, &err));
	refused(other, "was revoked");
	OK(hub_access_authenticate(rig.hub, text, &caller, &err));
	OK(hub_user_delete(rig.hub, user.id, &err));
	refused(text, "no such token");
}

static void what_is_no_token_is_refused(void **state)
{
	char text[HUB_TOKEN_SIZE], bad[400];

	(void)state;
	hubrig_start(&rig);
	read_file("admin-token", text, sizeof(text));
	refused("", "no token");
	refused("sdn_", "no token");
	strcpy(bad, text);
	bad[HUB_TOKEN_SIZE - 2] = '\0';
	refused(bad, "no token");
	snprintf(bad, sizeof(bad), "%s0", text);
	refused(bad, "no token");
	strcpy(bad, text);
	bad[10] = bad[10] == '0' ? '1' : '0';
	refused(bad, "no such token");
	strcpy(bad, text);
	bad[10] = 'U';
	refused(bad, "no token");
	memset(bad, 'x', sizeof(bad) - 1);
	bad[sizeof(bad) - 1] = '\0';
	refused(bad, "no token");
	refused("sdn_' OR 1=1; --aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "no token");
}

static void use_is_noted_rarely(void **state)
{
	struct hub_caller caller;
	char text[100];
	int64_t first;

	(void)state;
	hubrig_start(&rig);
	read_file("admin-token", text, sizeof(text));
	OK(hub_access_authenticate(rig.hub, text, &caller, &err));
	first = tmpdb_i64(&rig.db, "SELECT last_used_at FROM api_tokens");
	assert_true(first > 0);
	OK(hub_access_authenticate(rig.hub, text, &caller, &err));
	assert_true(first == tmpdb_i64(&rig.db, "SELECT last_used_at FROM api_tokens"));
	tmpdb_sql(&rig.db, "UPDATE api_tokens SET last_used_at = last_used_at - 601000000");
	OK(hub_access_authenticate(rig.hub, text, &caller, &err));
	assert_true(first <= tmpdb_i64(&rig.db, "SELECT last_used_at FROM api_tokens"));
}

static void scopes_narrow_a_token_down(void **state)
{
	static const struct {
		enum catalog_role role;
		const char *scopes;
		enum catalog_role needed;
		const char *noun;
		bool yes;
	} cases[] = {
		{CATALOG_ROLE_VIEWER, "[]", CATALOG_ROLE_VIEWER, "backups", true},
		{CATALOG_ROLE_VIEWER, "[]", CATALOG_ROLE_OPERATOR, "backups", false},
		{CATALOG_ROLE_VIEWER, "[]", CATALOG_ROLE_AGENT, "backups", false},
		{CATALOG_ROLE_OPERATOR, "[]", CATALOG_ROLE_VIEWER, "backups", true},
		{CATALOG_ROLE_OPERATOR, "[]", CATALOG_ROLE_ADMIN, "backups", false},
		{CATALOG_ROLE_ADMIN, "[]", CATALOG_ROLE_ADMIN, "users", true},
		{CATALOG_ROLE_ADMIN, "[]", CATALOG_ROLE_AGENT, "backups", false},
		{CATALOG_ROLE_AGENT, "[]", CATALOG_ROLE_AGENT, "backups", true},
		{CATALOG_ROLE_AGENT, "[]", CATALOG_ROLE_VIEWER, "backups", false},
		{CATALOG_ROLE_ADMIN, "[\"viewer\"]", CATALOG_ROLE_VIEWER, "backups", true},
		{CATALOG_ROLE_ADMIN, "[\"viewer\"]", CATALOG_ROLE_OPERATOR, "backups", false},
		{CATALOG_ROLE_ADMIN, "[\"viewer\",\"operator:backups\"]", CATALOG_ROLE_OPERATOR,
		 "backups", true},
		{CATALOG_ROLE_ADMIN, "[\"viewer\",\"operator:backups\"]", CATALOG_ROLE_OPERATOR,
		 "discovery", false},
		{CATALOG_ROLE_ADMIN, "[\"viewer\",\"operator:backups\"]", CATALOG_ROLE_VIEWER,
		 "discovery", true},
		{CATALOG_ROLE_ADMIN, "[\"operator:backup\"]", CATALOG_ROLE_OPERATOR, "backups",
		 false},
		/* A scope adds nothing to the role. */
		{CATALOG_ROLE_VIEWER, "[\"admin\"]", CATALOG_ROLE_OPERATOR, "backups", false},
		{CATALOG_ROLE_VIEWER, "[\"agent\"]", CATALOG_ROLE_AGENT, "backups", false},
		/* Damage. */
		{CATALOG_ROLE_ADMIN, "{}", CATALOG_ROLE_VIEWER, "backups", false},
		{CATALOG_ROLE_ADMIN, "", CATALOG_ROLE_VIEWER, "backups", false},
		{CATALOG_ROLE_ADMIN, "[7]", CATALOG_ROLE_VIEWER, "backups", false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct hub_caller caller = {.role = cases[i].role};

		strcpy(caller.scopes, cases[i].scopes);
		if (hub_caller_may(&caller, cases[i].needed, cases[i].noun) != cases[i].yes)
			fail_msg("case %zu: %s", i, cases[i].scopes);
	}
}

static void scopes_and_expiry_are_checked_when_a_token_is_made(void **state)
{
	static const char *const bad[] = {
		"{}",
		"[7]",
		"[\"root\"]",
		"[\"viewer:\"]",
		"[\"viewer:Backups\"]",
		"[\"viewer:a/b\"]",
		"[\":backups\"]",
		"[\"\"]",
		"\"viewer\"",
		"[",
		"[\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\","
		"\"\"]",
	};
	struct catalog_user user;
	struct catalog_token token;
	struct err err = ERR_INIT;
	char text[HUB_TOKEN_SIZE];

	(void)state;
	hubrig_start(&rig);
	make_user("ann", CATALOG_ROLE_OPERATOR, &user);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		token = (struct catalog_token){.name = "t"};
		strcpy(token.user_id, user.id);
		strcpy(token.scopes, bad[i]);
		if (hub_token_create(rig.hub, &token, text, &err) != HUB_E_INVALID)
			fail_msg("%s passed", bad[i]);
	}
	token = (struct catalog_token){.name = "t", .expires_at_us = 5};
	strcpy(token.user_id, user.id);
	assert_int_equal(hub_token_create(rig.hub, &token, text, &err), HUB_E_INVALID);
	token = (struct catalog_token){.name = "t", .user_id = "user-none"};
	assert_int_equal(hub_token_create(rig.hub, &token, text, &err), HUB_E_NOT_FOUND);
	assert_int_equal(tmpdb_i64(&rig.db, "SELECT COUNT(*) FROM api_tokens"), 1);
}

/* --- the anchor of the audit log ----------------------------------------------------------------
 */

static void note(const char *action)
{
	struct catalog_audit e = {.user_name = "ann", .outcome = CATALOG_AUDIT_ALLOWED};

	strcpy(e.action, action);
	hub_audit_add(rig.hub, &e);
}

static int64_t findings(struct catalog_audit_report *report)
{
	OK(hub_audit_verify(rig.hub, report, &err));
	return report->finding_count;
}

static void a_cut_end_of_the_audit_log_is_remembered(void **state)
{
	struct catalog_audit_report report;
	char anchor[200], path[400];

	(void)state;
	hubrig_start(&rig); /* entry 1 */
	for (int i = 0; i < 5; i++)
		note("POST /x");
	assert_int_equal(findings(&report), 0);
	assert_int_equal(report.entries, 6);
	hubrig_stop(&rig);
	read_file("audit-anchor", anchor, sizeof(anchor));
	assert_int_equal(strncmp(anchor, "00000000000000000006 ", 21), 0);
	assert_string_equal(anchor + 21, report.last_hash);

	tmpdb_sql(&rig.db, "DELETE FROM audit_log WHERE id > 3");
	hubrig_start(&rig);
	assert_int_equal(findings(&report), 1);
	assert_int_equal(report.findings[0].id, 4);
	assert_non_null(strstr(report.findings[0].problem, "entries 4 to 6 are missing"));

	/* What comes after does not cover it up, here or after a restart. */
	note("POST /y");
	assert_int_equal(
		tmpdb_i64(&rig.db, "SELECT id FROM audit_log WHERE action LIKE '%%shorter%%'"), 5);
	for (int i = 0; i < 3; i++)
		note("POST /z");
	assert_int_equal(findings(&report), 1);
	assert_int_equal(report.findings[0].id, 6);
	hubrig_stop(&rig);
	hubrig_start(&rig);
	assert_int_equal(findings(&report), 1);
	hubrig_stop(&rig);

	/* Until somebody who knows why says that it is well. */
	snprintf(path, sizeof(path), "%s/data/audit-anchor", rig.dir);
	assert_int_equal(unlink(path), 0);
	hubrig_start(&rig);
	assert_int_equal(findings(&report), 0);
}

static void a_damaged_anchor_is_refused(void **state)
{
	struct err err = ERR_INIT;
	char data[300];

	(void)state;
	hubrig_start(&rig);
	hubrig_stop(&rig);
	assert_int_equal(scratch_run("printf x >> '%s/data/audit-anchor'", rig.dir), 0);
	snprintf(data, sizeof(data), "%s/data", rig.dir);
	rig.config.data_dir = data;
	assert_int_equal(hub_start(&rig.hub, &rig.config, &err), -EUCLEAN);
	assert_non_null(strstr(err.text, "audit-anchor"));
	rig.hub = NULL;
}

/* --- how often -------------------------------------------------------------------------------- */

static void each_key_has_a_bucket_of_its_own(void **state)
{
	struct hub_limiter *l = hub_limiter_new(0, 3, 64);
	bool fresh;

	(void)state;
	assert_non_null(l);
	for (int i = 0; i < 3; i++) {
		assert_true(hub_limiter_take(l, "a", &fresh));
		assert_int_equal(fresh, i == 0);
	}
	assert_false(hub_limiter_take(l, "a", &fresh));
	assert_true(hub_limiter_take(l, "b", NULL));
	assert_false(hub_limiter_take(l, "a", NULL));
	hub_limiter_free(l);
}

/* Thousands of strangers do not make the table forget who was too fast. */
static void a_full_table_keeps_the_emptiest_buckets(void **state)
{
	struct hub_limiter *l = hub_limiter_new(0, 50, 64);

	(void)state;
	assert_non_null(l);
	for (int i = 0; i < 50; i++)
		assert_true(hub_limiter_take(l, "greedy", NULL));
	for (int i = 0; i < 5000; i++) {
		char key[32];

		snprintf(key, sizeof(key), "stranger %d", i);
		hub_limiter_take(l, key, NULL);
	}
	assert_false(hub_limiter_take(l, "greedy", NULL));
	hub_limiter_free(l);
}

static void a_bucket_fills_again(void **state)
{
	struct hub_limiter *l = hub_limiter_new(100, 1, 8);
	bool again = false;

	(void)state;
	assert_true(hub_limiter_take(l, "a", NULL));
	for (int i = 0; i < 2000 && !again; i++) {
		nanosleep(&(struct timespec){.tv_nsec = 5 * 1000000L}, NULL);
		again = hub_limiter_take(l, "a", NULL);
	}
	assert_true(again);
	hub_limiter_free(l);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(the_first_run_makes_an_administrator),
		T(a_first_run_cut_short_begins_again),
		T(a_hub_on_a_catalog_with_users_makes_no_administrator),
		T(a_new_token_is_made_when_asked_for),
		T(a_token_lets_its_user_in_until_it_ends),
		T(what_is_no_token_is_refused),
		T(use_is_noted_rarely),
		cmocka_unit_test(scopes_narrow_a_token_down),
		T(scopes_and_expiry_are_checked_when_a_token_is_made),
		T(a_cut_end_of_the_audit_log_is_remembered),
		T(a_damaged_anchor_is_refused),
		cmocka_unit_test(each_key_has_a_bucket_of_its_own),
		cmocka_unit_test(a_full_table_keeps_the_emptiest_buckets),
		cmocka_unit_test(a_bucket_fills_again),
	};

	return tmpdb_run_tests("hub/access", tests, NULL, NULL);
}
