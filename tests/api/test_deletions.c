/* Deleting over real HTTP: codes, answers, the list of what is left, the audit log. Every answer is
 * held against the OpenAPI document (apiclient.h). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/support/apirig.h"

static json_t *of_backup(const char *method, const char *id, const char *tail, long status)
{
	char path[200];

	snprintf(path, sizeof(path), "/api/v1/backups/%s%s", id, tail);
	return ask(method, path, NULL, status);
}

static void refuse_backup(const char *method, const char *id, const char *tail, long status,
			  const char *sentence)
{
	char path[200];

	snprintf(path, sizeof(path), "/api/v1/backups/%s%s", id, tail);
	refuse(method, path, NULL, status, sentence);
}

static const json_t *first(const json_t *reply)
{
	return json_array_get(json_object_get(reply, "deletions"), 0);
}

static void full_and_incremental(char full[CATALOG_ID_SIZE], char incr[CATALOG_ID_SIZE])
{
	struct hub_backup_view view;
	struct err err = ERR_INIT;

	rig_full(&rig, &vm, 1, full);
	rig_must(hubrig_backup(&rig, vm.name, CATALOG_BACKUP_INCREMENTAL, &view, &err), &err,
		 "incremental");
	rig_finish(&rig, &vm, &view, 2);
	strcpy(incr, view.job.id);
	hub_backup_view_deinit(&view);
}

static void hide_repository(bool hide)
{
	assert_int_equal(scratch_run(hide ? "mv '%s/repo' '%s/away'" : "mv '%s/away' '%s/repo'",
				     rig.dir, rig.dir),
			 0);
}

/* --- backups -------------------------------------------------------------------------------- */

static void a_backup_is_deleted_with_what_leans_on_it_if_that_is_said(void **state)
{
	char full[CATALOG_ID_SIZE], incr[CATALOG_ID_SIZE];
	const json_t *entry;
	json_t *reply;

	(void)state;
	full_and_incremental(full, incr);
	refuse_backup("DELETE", full, "", 409, incr);
	refuse_backup("DELETE", full, "?cascade=false", 409, incr);
	refuse_backup("DELETE", full, "?cascade=maybe", 400, "true or false");
	refuse_backup("DELETE", "backup-none", "", 404, "backup-none");
	reply = of_backup("DELETE", full, "?cascade=true", 200);
	assert_string_equal(text_of(reply, "status"), "deleted");
	assert_int_equal(number_of(reply, "total"), 2);
	assert_int_equal(number_of(reply, "remaining"), 0);
	assert_string_equal(text_of(first(reply), "backup_id"), incr);
	assert_string_equal(text_of(first(reply), "status"), "deleted");
	json_decref(reply);
	refuse_backup("DELETE", full, "", 404, full);
	refuse_backup("GET", incr, "", 404, incr);
	reply = ask("GET", "/api/v1/backups", NULL, 200);
	assert_int_equal(number_of(reply, "total"), 0);
	json_decref(reply);
	reply = ask("GET", "/api/v1/audit?outcome=allowed", NULL, 200);
	entry = json_array_get(json_object_get(reply, "entries"), 0);
	assert_string_equal(text_of(entry, "action"), "DELETE /api/v1/backups/{backup_id}");
	assert_non_null(strstr(text_of(entry, "object"), full));
	json_decref(reply);
}

static void what_is_kept_says_until_when(void **state)
{
	char full[CATALOG_ID_SIZE];

	(void)state;
	rig_full(&rig, &vm, 1, full);
	tmpdb_sql(&rig.db, "UPDATE backup_repositories SET min_retention_days = 3");
	refuse_backup("DELETE", full, "", 409, "until 20");
	tmpdb_sql(&rig.db, "UPDATE backup_repositories SET min_retention_days = 0");
	json_decref(of_backup("DELETE", full, "", 200));
}

static void metrics_say(const char *line)
{
	struct apiclient_reply all;

	apirig_run("GET", "/metrics", NULL, NULL, &all);
	assert_int_equal(all.status, 200);
	assert_non_null(strstr(all.text, line));
	apiclient_deinit(&all);
}

static void files_that_remain_are_202_and_listed_with_the_reason(void **state)
{
	char full[CATALOG_ID_SIZE], incr[CATALOG_ID_SIZE];
	json_t *reply;

	(void)state;
	full_and_incremental(full, incr);
	metrics_say("sendense_deletions_unfinished 0\n");
	hide_repository(true);
	for (int i = 0; i < 2; i++) { /* the second call tries once more */
		reply = of_backup("DELETE", incr, "", 202);
		assert_string_equal(text_of(reply, "status"), "deleting");
		assert_int_equal(number_of(reply, "remaining"), 1);
		assert_int_equal(number_of(first(reply), "attempts"), i + 1);
		assert_non_null(strstr(text_of(first(reply), "error_message"), "local1"));
		json_decref(reply);
	}
	refuse_backup("GET", incr, "", 404, "files of it remain: ");
	metrics_say("sendense_deletions_unfinished 1\n");
	metrics_say("sendense_deletions_failing 1\n");
	reply = ask("GET", "/api/v1/deletions?sort=-requested_at", NULL, 200);
	assert_int_equal(number_of(reply, "total"), 1);
	assert_string_equal(text_of(first(reply), "backup_id"), incr);
	assert_string_equal(text_of(first(reply), "vm_name"), "pgtest1");
	assert_string_equal(text_of(first(reply), "status"), "deleting");
	json_decref(reply);
	reply = ask("GET", "/api/v1/deletions?repository_id=other", NULL, 200);
	assert_int_equal(number_of(reply, "total"), 0);
	json_decref(reply);
	hide_repository(false);
	json_decref(of_backup("DELETE", incr, "", 200));
	metrics_say("sendense_deletions_unfinished 0\n");
	metrics_say("sendense_deletions_failing 0\n");
	reply = ask("GET", "/api/v1/deletions", NULL, 200);
	assert_int_equal(number_of(reply, "total"), 0);
	json_decref(reply);
	refuse_backup("DELETE", incr, "", 404, incr);
}

/* --- VMs ------------------------------------------------------------------------------------ */

static void a_vm_goes_with_its_backups_if_that_is_said(void **state)
{
	char full[CATALOG_ID_SIZE], incr[CATALOG_ID_SIZE], path[200], asked[240];
	struct catalog_vm_context row;
	struct err err = ERR_INIT;
	json_t *reply;

	(void)state;
	full_and_incremental(full, incr);
	rig_must(catalog_vm_context_find(hub_catalog(rig.hub), vm.name, NULL, &row, &err), &err,
		 "vm");
	snprintf(path, sizeof(path), "/api/v1/vm-contexts/%s", row.context_id);
	reply = ask("DELETE", path, NULL, 409);
	assert_non_null(strstr(text_of(reply, "error"), "?backups=keep"));
	assert_non_null(strstr(text_of(reply, "error"), "?backups=delete"));
	json_decref(reply);
	snprintf(asked, sizeof(asked), "%s?backups=burn", path);
	just("DELETE", asked, NULL, 400);
	snprintf(asked, sizeof(asked), "%s?backups=delete", path);
	hide_repository(true);
	reply = ask("DELETE", asked, NULL, 202);
	assert_int_equal(number_of(reply, "total"), 2);
	assert_int_equal(number_of(reply, "remaining"), 2);
	json_decref(reply);
	just("DELETE", asked, NULL, 404);
	hide_repository(false);
	json_decref(of_backup("DELETE", full, "", 200));
	json_decref(of_backup("DELETE", incr, "", 200));

	hubrig_add_vm(&rig, &vm);
	rig_full(&rig, &vm, 3, full);
	rig_must(catalog_vm_context_find(hub_catalog(rig.hub), vm.name, NULL, &row, &err), &err,
		 "vm");
	snprintf(asked, sizeof(asked), "/api/v1/vm-contexts/%s?backups=delete", row.context_id);
	assert_null(ask("DELETE", asked, NULL, 204));
	refuse_backup("GET", full, "", 404, full);
}

#define T(name) cmocka_unit_test_setup_teardown(name, apirig_setup_vm, apirig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_backup_is_deleted_with_what_leans_on_it_if_that_is_said),
		T(what_is_kept_says_until_when),
		T(files_that_remain_are_202_and_listed_with_the_reason),
		T(a_vm_goes_with_its_backups_if_that_is_said),
	};

	return tmpdb_run_tests("api/deletions", tests, NULL, NULL);
}
