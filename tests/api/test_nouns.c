/* The nouns over real HTTP: credentials, policies, schedules, repositories, VMs, replications.
 * Every answer is held against the OpenAPI document (apiclient.h). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/support/apirig.h"

static int setup(void **state)
{
	apirig_setup(state);
	hubrig_add_repository(&rig);
	hubrig_show(&rig, &vm, 1);
	return 0;
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, apirig_teardown)

/* Creates something and keeps its id. */
static json_t *make(const char *path, const char *body, char id[CATALOG_ID_SIZE])
{
	json_t *reply = ask("POST", path, body, 201);

	snprintf(id, CATALOG_ID_SIZE, "%s", text_of(reply, "id"));
	return reply;
}

/* --- credentials ---------------------------------------------------------------------------- */

#define CREDENTIALS "/api/v1/vmware-credentials"

static void credentials_come_in_and_passwords_never_go_out(void **state)
{
	struct apiclient_reply all;
	json_t *reply;

	(void)state;
	reply = ask("POST", CREDENTIALS,
		    "{\"credential_name\":\"main\",\"vcenter_host\":\"vc1\",\"username\":\"u\","
		    "\"password\":\"hunter2\",\"is_default\":true}",
		    201);
	assert_int_equal(number_of(reply, "id"), 1);
	assert_string_equal(text_of(reply, "name"), "main");
	assert_true(json_is_true(json_object_get(reply, "is_default")));
	assert_null(json_object_get(reply, "password"));
	json_decref(reply);
	just("POST", CREDENTIALS,
	     "{\"name\":\"other\",\"username\":\"v\",\"password\":\"hunter3\"}", 201);
	apirig_run("GET", CREDENTIALS, NULL, NULL, &all);
	assert_int_equal(all.status, 200);
	assert_null(strstr(all.text, "hunter"));
	assert_null(strstr(all.text, "v1:"));
	assert_non_null(strstr(all.text, "\"total\":2"));
	apiclient_deinit(&all);

	reply = ask("GET", CREDENTIALS "/default", NULL, 200);
	assert_int_equal(number_of(reply, "id"), 1);
	json_decref(reply);
	just("PUT", CREDENTIALS "/2/set-default", NULL, 200);
	reply = ask("GET", CREDENTIALS "/1", NULL, 200);
	assert_true(json_is_false(json_object_get(reply, "is_default")));
	json_decref(reply);
	just("PATCH", CREDENTIALS "/2", "{\"is_default\":false}", 200);
	refuse("GET", CREDENTIALS "/default", NULL, 404, "no credential");

	reply = ask("PATCH", CREDENTIALS "/1", "{\"datacenter\":\"DC1\",\"name\":\"first\"}", 200);
	assert_string_equal(text_of(reply, "datacenter"), "DC1");
	assert_string_equal(text_of(reply, "username"), "u");
	json_decref(reply);
	refuse("PATCH", CREDENTIALS "/1", "{\"vcenter_host\":\"evil\"}", 400,
	       "password is missing");
	just("PUT", CREDENTIALS "/1",
	     "{\"vcenter_host\":\"vc2\",\"username\":\"w\",\"password\":\"hunter4\"}", 200);
	just("DELETE", CREDENTIALS "/2", NULL, 204);
	refuse("DELETE", CREDENTIALS "/2", NULL, 404, "2");
	refuse("GET", CREDENTIALS "/two", NULL, 404, "two");
	refuse("POST", CREDENTIALS, "{\"name\":\"x\",\"username\":\"u\"}", 400, "password");
	refuse("POST", CREDENTIALS, "{\"username\":\"u\",\"password\":\"p\"}", 400,
	       "name is missing");
	refuse("POST", CREDENTIALS, "{\"name\":\"first\",\"username\":\"u\",\"password\":\"p\"}",
	       409, "first");
}

static void a_credential_is_tested_used_and_then_kept(void **state)
{
	json_t *reply, *asked;

	(void)state;
	just("POST", CREDENTIALS,
	     "{\"name\":\"main\",\"vcenter_host\":\"vc1\",\"username\":\"u\","
	     "\"password\":\"hunter2\"}",
	     201);
	reply = ask("POST", CREDENTIALS "/1/test", NULL, 200);
	assert_int_equal(number_of(reply, "vms_seen"), 1);
	json_decref(reply);
	asked = agentpeer_last_discovery(rig.peer);
	assert_string_equal(text_of(asked, "password"), "hunter2");
	json_decref(asked);
	just("POST", "/api/v1/discovery/add-vms",
	     "{\"credential_id\":1,\"vm_names\":[\"pgtest1\"]}", 200);
	refuse("DELETE", CREDENTIALS "/1", NULL, 409, "1 VMs");
	refuse("POST", "/api/v1/discovery/add-vms",
	       "{\"credential_id\":7,\"vm_names\":[\"pgtest1\"]}", 404, "no credential 7");
	reply = ask("POST", CREDENTIALS "/rekey", NULL, 200);
	assert_int_equal(number_of(reply, "credentials"), 1);
	json_decref(reply);
	just("POST", CREDENTIALS "/1/test", NULL, 200);
	agentpeer_set_discovery(rig.peer, NULL);
	refuse("POST", CREDENTIALS "/1/test", NULL, 502, "404");
}

/* --- policies ------------------------------------------------------------------------------- */

static void add_repository(const char *name, char id[CATALOG_ID_SIZE])
{
	char body[600];

	snprintf(body, sizeof(body),
		 "{\"name\":\"%s\",\"type\":\"local\",\"config\":{\"path\":\"%s/%s\"}}", name,
		 rig.dir, name);
	json_decref(make("/api/v1/repositories", body, id));
}

static void a_policy_with_copy_rules_is_created_and_changed(void **state)
{
	char second[CATALOG_ID_SIZE], id[CATALOG_ID_SIZE], body[700], path[200];
	json_t *reply, *rule;

	(void)state;
	add_repository("second", second);
	snprintf(
		body, sizeof(body),
		"{\"name\":\"gold\",\"primary_repository_id\":\"%s\",\"keep_daily\":7,"
		"\"copy_rules\":[{\"destination_repository_id\":\"%s\",\"copy_mode\":\"manual\"}]}",
		rig.repository, second);
	reply = make("/api/v1/policies", body, id);
	assert_int_equal(number_of(reply, "keep_days"), 0); /* something else was said */
	assert_int_equal(number_of(reply, "keep_daily"), 7);
	rule = json_array_get(json_object_get(reply, "copy_rules"), 0);
	assert_string_equal(text_of(rule, "destination_repository_id"), second);
	assert_string_equal(text_of(rule, "copy_mode"), "manual");
	assert_int_equal(number_of(rule, "priority"), 1);
	assert_true(json_is_true(json_object_get(rule, "verify_after_copy")));
	json_decref(reply);
	refuse("POST", "/api/v1/policies", body, 409, "gold");

	snprintf(path, sizeof(path), "/api/v1/policies/%s", id);
	reply = ask("PATCH", path, "{\"retention_days\":90,\"enabled\":false}", 200);
	assert_int_equal(number_of(reply, "keep_days"), 90);
	assert_int_equal(number_of(reply, "retention_days"), 90);
	assert_int_equal(json_array_size(json_object_get(reply, "copy_rules")), 1);
	json_decref(reply);
	reply = ask("PUT", path, "{\"copy_rules\":[]}", 200);
	assert_int_equal(json_array_size(json_object_get(reply, "copy_rules")), 0);
	json_decref(reply);
	refuse("PATCH", path, "{\"copy_rules\":{}}", 400, "must be a list");
	refuse("PATCH", path, "{\"copy_rules\":[7]}", 400, "JSON objects");
	refuse("PATCH", path, "{\"keep_last\":-1}", 400, "0 or more");
	refuse("PATCH", path, "{\"copy_rules\":[{\"copy_mode\":\"manual\"}]}", 400,
	       "destination_repository_id");
	snprintf(body, sizeof(body),
		 "{\"copy_rules\":[{\"destination_repository_id\":\"%s\",\"copy_mode\":\"x\"}]}",
		 second);
	refuse("PATCH", path, body, 400, "copy_mode must be");
	snprintf(body, sizeof(body), "{\"name\":\"plain\",\"primary_repository_id\":\"%s\"}",
		 rig.repository);
	reply = ask("POST", "/api/v1/policies", body, 201);
	assert_int_equal(number_of(reply, "retention_days"), 30);
	json_decref(reply);
	reply = ask("GET", "/api/v1/policies", NULL, 200);
	assert_int_equal(number_of(reply, "total"), 2);
	json_decref(reply);
	just("GET", path, NULL, 200);
	just("DELETE", path, NULL, 204);
	refuse("GET", path, NULL, 404, id);
	refuse("POST", "/api/v1/policies",
	       "{\"name\":\"x\",\"primary_repository_id\":\"repo-none\"}", 400, "repo-none");
}

/* --- schedules ------------------------------------------------------------------------------ */

static void a_schedule_is_created_changed_and_run(void **state)
{
	char policy[CATALOG_ID_SIZE], id[CATALOG_ID_SIZE], body[400], path[200], run[220];
	json_t *reply, *vms;

	(void)state;
	just("POST", "/api/v1/discovery/add-vms", "{\"vm_names\":[\"pgtest1\"]}", 200);
	snprintf(body, sizeof(body), "{\"name\":\"gold\",\"primary_repository_id\":\"%s\"}",
		 rig.repository);
	json_decref(make("/api/v1/policies", body, policy));
	vms = ask("GET", "/api/v1/vm-contexts", NULL, 200);
	snprintf(body, sizeof(body),
		 "{\"name\":\"nightly\",\"policy_id\":\"%s\",\"vm_context_id\":\"%s\","
		 "\"cron_expression\":\"30 2 1 1 *\",\"timezone\":\"Europe/Berlin\"}",
		 policy,
		 text_of(json_array_get(json_object_get(vms, "vm_contexts"), 0), "context_id"));
	json_decref(vms);
	reply = make("/api/v1/schedules", body, id);
	assert_string_equal(text_of(reply, "backup_type"), "incremental");
	assert_non_null(strstr(text_of(reply, "next_run_at"), "-01-01T01:30:00"));
	assert_true(json_is_null(json_object_get(reply, "last_run_at")));
	json_decref(reply);
	snprintf(path, sizeof(path), "/api/v1/schedules/%s", id);
	snprintf(run, sizeof(run), "%s/run", path);

	reply = ask("PATCH", path, "{\"timezone\":\"UTC\",\"backup_type\":\"full\"}", 200);
	assert_non_null(strstr(text_of(reply, "next_run_at"), "-01-01T02:30:00"));
	json_decref(reply);
	reply = ask("PUT", path, "{\"enabled\":false}", 200);
	assert_true(json_is_null(json_object_get(reply, "next_run_at")));
	json_decref(reply);
	refuse("POST", run, NULL, 409, "disabled");
	just("PATCH", path, "{\"enabled\":true}", 200);
	just("POST", run, NULL, 202);
	for (int i = 0;; i++) {
		reply = ask("GET", "/api/v1/backups?backup_type=full", NULL, 200);
		if (number_of(reply, "total") == 1)
			break;
		assert_true(i < 2000);
		json_decref(reply);
		nanosleep(&(struct timespec){.tv_nsec = 10 * 1000000L}, NULL);
	}
	assert_string_equal(
		text_of(json_array_get(json_object_get(reply, "backups"), 0), "policy_id"), policy);
	json_decref(reply);
	refuse("PATCH", path, "{\"cron_expression\":\"* * *\"}", 400, "five fields");
	refuse("PATCH", path, "{\"timezone\":\"Nowhere\"}", 400, "Nowhere");
	refuse("PATCH", path, "{\"backup_type\":\"differential\"}", 400, "backup_type must be");
	snprintf(body, sizeof(body), "/api/v1/policies/%s", policy);
	refuse("DELETE", body, NULL, 409, "1 schedules");
	snprintf(body, sizeof(body), "/api/v1/schedules?policy_id=%s", policy);
	reply = ask("GET", body, NULL, 200);
	assert_int_equal(number_of(reply, "total"), 1);
	json_decref(reply);
	just("DELETE", path, NULL, 204);
	refuse("GET", path, NULL, 404, id);
}

/* --- repositories --------------------------------------------------------------------------- */

static void a_repository_is_changed_tested_and_deleted(void **state)
{
	char id[CATALOG_ID_SIZE], path[200], sub[220], body[700];
	json_t *reply;

	(void)state;
	add_repository("second", id);
	snprintf(path, sizeof(path), "/api/v1/repositories/%s", id);
	reply = ask("PATCH", path, "{\"name\":\"renamed\",\"enabled\":false}", 200);
	assert_string_equal(text_of(reply, "name"), "renamed");
	assert_true(json_is_false(json_object_get(reply, "enabled")));
	json_decref(reply);
	snprintf(body, sizeof(body),
		 "{\"config\":{\"path\":\"%s/second/\",\"compression\":\"zstd\"}}", rig.dir);
	reply = ask("PATCH", path, body, 200);
	assert_string_equal(text_of(json_object_get(reply, "config"), "compression"), "zstd");
	json_decref(reply);
	/* Elsewhere, as long as it is empty; never where another one is. */
	snprintf(body, sizeof(body), "{\"config\":{\"path\":\"%s/third\"}}", rig.dir);
	just("PATCH", path, body, 200);
	snprintf(body, sizeof(body), "{\"config\":{\"path\":\"%s/repo\"}}", rig.dir);
	refuse("PATCH", path, body, 409, "local1");
	refuse("PATCH", path, "{\"config\":{\"path\":\"relative\"}}", 400, "absolute");
	refuse("PATCH", path, "{\"name\":\"local1\"}", 409, "local1");
	refuse("PATCH", path, "{\"name\":\"\"}", 400, "name is empty");
	refuse("PATCH", path, "{\"type\":\"nfs\"}", 400, "cannot be changed");
	refuse("PATCH", path, "{\"is_immutable\":true}", 400, "not supported");
	refuse("PATCH", "/api/v1/repositories/repo-x", "{}", 404, "repo-x");

	snprintf(sub, sizeof(sub), "%s/test", path);
	reply = ask("POST", sub, NULL, 200);
	assert_true(json_is_true(json_object_get(reply, "success")));
	json_decref(reply);
	snprintf(sub, sizeof(sub), "%s/storage", path);
	reply = ask("GET", sub, NULL, 200);
	assert_true(number_of(reply, "available_bytes") > 0);
	json_decref(reply);
	assert_int_equal(scratch_run("rm -rf '%s/third'", rig.dir), 0);
	refuse("GET", sub, NULL, 409, "/third");
	snprintf(sub, sizeof(sub), "%s/test", path);
	reply = ask("POST", sub, NULL, 200);
	assert_true(json_is_false(json_object_get(reply, "success")));
	assert_non_null(strstr(text_of(reply, "error"), "/third"));
	json_decref(reply);

	snprintf(body, sizeof(body), "{\"type\":\"local\",\"config\":{\"path\":\"%s\"}}", rig.dir);
	reply = ask("POST", "/api/v1/repositories/test", body, 200);
	assert_true(json_is_true(json_object_get(reply, "success")));
	assert_true(json_is_null(json_object_get(reply, "id")));
	json_decref(reply);
	reply = ask("POST", "/api/v1/repositories/test", "{\"type\":\"nfs\",\"config\":{}}", 200);
	assert_non_null(strstr(text_of(reply, "error"), "use type \"local\""));
	json_decref(reply);
	refuse("POST", "/api/v1/repositories", "{\"name\":\"x\",\"type\":\"s3\",\"config\":{}}",
	       400, "use type \"local\"");
	reply = ask("POST", "/api/v1/repositories/refresh-storage", NULL, 200);
	assert_int_equal(number_of(reply, "total"), 2);
	json_decref(reply);
	just("DELETE", path, NULL, 204);
	refuse("DELETE", path, NULL, 404, id);
}

static void a_repository_in_use_stays_where_it_is(void **state)
{
	char path[200], body[700], policy[CATALOG_ID_SIZE], id[CATALOG_ID_SIZE];

	(void)state;
	snprintf(path, sizeof(path), "/api/v1/repositories/%s", rig.repository);
	snprintf(body, sizeof(body), "{\"name\":\"gold\",\"primary_repository_id\":\"%s\"}",
		 rig.repository);
	json_decref(make("/api/v1/policies", body, policy));
	refuse("DELETE", path, NULL, 409, "1 policies");
	hubrig_add_vm(&rig, &vm);
	rig_full(&rig, &vm, 1, id);
	refuse("DELETE", path, NULL, 409, "1 backups");
	assert_int_equal(scratch_run("mkdir '%s/other'", rig.dir), 0);
	snprintf(body, sizeof(body), "{\"config\":{\"path\":\"%s/other\"}}", rig.dir);
	refuse("PATCH", path, body, 409, "1 backups");
	snprintf(body, sizeof(body),
		 "{\"config\":{\"path\":\"%s/repo\",\"compression\":\"zstd:3\"}}", rig.dir);
	just("PATCH", path, body, 200);
}

/* --- VMs ------------------------------------------------------------------------------------ */

static void the_vm(char path[200])
{
	json_t *reply = ask("GET", "/api/v1/vm-contexts?search=PGTEST", NULL, 200);

	assert_int_equal(number_of(reply, "total"), 1);
	snprintf(path, 200, "/api/v1/vm-contexts/%s",
		 text_of(json_array_get(json_object_get(reply, "vm_contexts"), 0), "context_id"));
	json_decref(reply);
}

static void a_vm_is_annotated_grouped_and_taken_out(void **state)
{
	char path[200], keep[230], body[300], policy[CATALOG_ID_SIZE], id[CATALOG_ID_SIZE];
	json_t *reply;

	(void)state;
	reply = ask("POST", "/api/v1/discovery/preview", "{}", 200);
	assert_int_equal(number_of(reply, "new"), 1);
	assert_int_equal(
		number_of(json_array_get(json_object_get(reply, "vms"), 0), "total_capacity_bytes"),
		3 * MI + 512);
	json_decref(reply);
	just("POST", "/api/v1/discovery/bulk-add", "{\"vm_names\":[\"pgtest1\"]}", 200);
	reply = ask("POST", "/api/v1/discovery/preview", "{}", 200);
	assert_int_equal(number_of(reply, "new"), 0);
	json_decref(reply);
	reply = ask("GET", "/api/v1/discovery/ungrouped-vms", NULL, 200);
	assert_int_equal(number_of(reply, "total"), 1);
	json_decref(reply);

	the_vm(path);
	snprintf(body, sizeof(body), "{\"name\":\"gold\",\"primary_repository_id\":\"%s\"}",
		 rig.repository);
	json_decref(make("/api/v1/policies", body, policy));
	just("POST", CREDENTIALS, "{\"name\":\"c\",\"username\":\"u\",\"password\":\"p\"}", 201);
	snprintf(body, sizeof(body),
		 "{\"notes\":\"the big one\",\"policy_id\":\"%s\",\"credential_id\":1}", policy);
	reply = ask("PATCH", path, body, 200);
	assert_string_equal(text_of(reply, "notes"), "the big one");
	assert_string_equal(text_of(reply, "policy_id"), policy);
	assert_int_equal(number_of(reply, "credential_id"), 1);
	json_decref(reply);
	reply = ask("GET", "/api/v1/discovery/ungrouped-vms", NULL, 200);
	assert_int_equal(number_of(reply, "total"), 0);
	json_decref(reply);
	reply = ask("GET", "/api/v1/vm-contexts?credential_id=1&sort=-capacity&limit=5", NULL, 200);
	assert_int_equal(number_of(reply, "total"), 1);
	json_decref(reply);
	refuse("GET", "/api/v1/vm-contexts?sort=colour", NULL, 400, "sort must be");
	refuse("PATCH", path, "{\"policy_id\":\"policy-x\"}", 400, "no such policy");
	refuse("PATCH", path, "{\"credential_id\":9}", 400, "no such credential");
	refuse("PATCH", "/api/v1/vm-contexts/ctx-x", "{}", 404, "ctx-x");
	reply = ask("PATCH", path, "{\"credential_id\":null,\"policy_id\":null}", 200);
	assert_true(json_is_null(json_object_get(reply, "credential_id")));
	assert_string_equal(text_of(reply, "notes"), "the big one");
	json_decref(reply);

	rig_full(&rig, &vm, 1, id);
	refuse("DELETE", path, NULL, 409, "1 completed backups");
	snprintf(keep, sizeof(keep), "%s?backups=keep", path);
	just("DELETE", keep, NULL, 204);
	refuse("DELETE", keep, NULL, 404, "ctx-");
	snprintf(body, sizeof(body), "/api/v1/backups/%s", id);
	reply = ask("GET", body, NULL, 200);
	assert_string_equal(text_of(reply, "status"), "completed");
	json_decref(reply);
}

/* --- replications --------------------------------------------------------------------------- */

static void a_replication_uses_what_discovery_found(void **state)
{
	char id[CATALOG_ID_SIZE], path[200], sub[220];
	json_t *reply, *disks;
	const char *key;
	json_t *value;

	(void)state;
	/* Not in the inventory yet: the agent is asked. */
	reply = make("/api/v1/replications",
		     "{\"vm_name\":\"pgtest1\",\"replication_type\":\"initial\"}", id);
	assert_int_equal(number_of(reply, "disk_count"), 2);
	assert_string_equal(text_of(reply, "status"), "pending");
	json_decref(reply);
	the_vm(path);
	snprintf(sub, sizeof(sub), "%s/disks", path);
	disks = ask("GET", sub, NULL, 200);
	assert_int_equal(number_of(disks, "total"), 2);
	assert_string_equal(text_of(json_array_get(json_object_get(disks, "disks"), 1), "job_id"),
			    id);
	json_decref(disks);
	refuse("POST", "/api/v1/replications", "{\"vm_name\":\"pgtest1\"}", 409, id);
	refuse("POST", "/api/v1/replications", "{\"vm_name\":\"ghost\"}", 404, "ghost");
	refuse("POST", "/api/v1/replications", "{}", 400, "vm_name is missing");
	refuse("POST", "/api/v1/replications",
	       "{\"vm_name\":\"pgtest1\",\"replication_type\":\"x\"}", 400,
	       "replication_type must be");

	snprintf(path, sizeof(path), "/api/v1/replications/%s", id);
	snprintf(sub, sizeof(sub), "%s/changeid", path);
	just("POST", sub, "{\"change_id\":\"52 66/1\",\"disk_id\":\"disk-2000\"}", 200);
	refuse("POST", sub, "{\"change_id\":\"52 66/1\",\"disk_id\":\"disk-7\"}", 404, "disk-7");
	refuse("POST", sub, "{\"disk_id\":\"disk-2000\"}", 400, "change_id is missing");
	just("PUT", path, "{\"status\":\"running\"}", 200);
	refuse("DELETE", path, NULL, 409, "runs");
	refuse("PUT", path, "{\"status\":\"odd\"}", 400, "status must be");
	just("PUT", path, "{\"status\":\"completed\"}", 200);
	refuse("PUT", path, "{\"status\":\"running\"}", 409, "completed");
	reply = ask("GET",
		    "/api/v1/replications/changeid?vm_path=%2Fdc%2Fvm%2Fpgtest1&disk_id=disk-2000",
		    NULL, 200);
	assert_string_equal(text_of(reply, "change_id"), "52 66/1");
	json_object_foreach (reply, key, value)
		assert_true(json_is_string(value));
	json_decref(reply);
	refuse("GET", "/api/v1/replications/changeid?disk_id=disk-2000", NULL, 400, "vm_path");
	reply = ask("GET", "/api/v1/replications?vm_name=pgtest1&status=completed&limit=3", NULL,
		    200);
	assert_int_equal(number_of(reply, "total"), 1);
	json_decref(reply);
	refuse("GET", "/api/v1/replications?status=odd", NULL, 400, "status must be");
	just("DELETE", path, NULL, 200);
	refuse("GET", path, NULL, 404, id);
	the_vm(path);
	snprintf(sub, sizeof(sub), "%s/disks", path);
	disks = ask("GET", sub, NULL, 200);
	assert_int_equal(number_of(disks, "total"), 2);
	assert_string_equal(text_of(json_array_get(json_object_get(disks, "disks"), 1), "job_id"),
			    "");
	json_decref(disks);
}

/* Both kinds in one list, newest first. */
static void a_vm_tells_of_its_latest_jobs(void **state)
{
	char backup[CATALOG_ID_SIZE], replication[CATALOG_ID_SIZE], path[200], sub[230];
	json_t *reply, *jobs;

	(void)state;
	just("POST", "/api/v1/discovery/add-vms", "{\"vm_names\":[\"pgtest1\"]}", 200);
	the_vm(path);
	snprintf(sub, sizeof(sub), "%s/recent-jobs", path);
	reply = ask("GET", sub, NULL, 200);
	assert_int_equal(number_of(reply, "total"), 0);
	assert_string_equal(text_of(reply, "vm_name"), "pgtest1");
	json_decref(reply);
	rig_full(&rig, &vm, 1, backup);
	json_decref(make("/api/v1/replications", "{\"vm_name\":\"pgtest1\"}", replication));
	rig_full(&rig, &vm, 2, backup);
	reply = ask("GET", sub, NULL, 200);
	jobs = json_object_get(reply, "jobs");
	assert_int_equal(number_of(reply, "total"), 3);
	assert_int_equal(json_array_size(jobs), 3);
	assert_string_equal(text_of(json_array_get(jobs, 0), "id"), backup);
	assert_string_equal(text_of(json_array_get(jobs, 0), "kind"), "backup");
	assert_string_equal(text_of(json_array_get(jobs, 0), "type"), "full");
	assert_string_equal(text_of(json_array_get(jobs, 0), "status"), "completed");
	assert_string_equal(text_of(json_array_get(jobs, 1), "id"), replication);
	assert_string_equal(text_of(json_array_get(jobs, 1), "kind"), "replication");
	assert_string_equal(text_of(json_array_get(jobs, 1), "type"), "initial");
	assert_string_equal(text_of(json_array_get(jobs, 1), "status"), "pending");
	assert_true(json_is_null(json_object_get(json_array_get(jobs, 1), "completed_at")));
	json_decref(reply);
	snprintf(sub, sizeof(sub), "%s/recent-jobs?limit=2", path);
	reply = ask("GET", sub, NULL, 200);
	assert_int_equal(number_of(reply, "total"), 3);
	assert_int_equal(json_array_size(json_object_get(reply, "jobs")), 2);
	json_decref(reply);
	snprintf(sub, sizeof(sub), "%s/recent-jobs?limit=0", path);
	refuse("GET", sub, NULL, 400, "limit");
	refuse("GET", "/api/v1/vm-contexts/ctx-x/recent-jobs", NULL, 404, "ctx-x");
}

static void hubs_are_listed_with_what_they_run(void **state)
{
	json_t *reply = ask("GET", "/api/v1/hubs", NULL, 200), *row;

	(void)state;
	assert_int_equal(number_of(reply, "total"), 1);
	row = json_array_get(json_object_get(reply, "hubs"), 0);
	assert_string_equal(text_of(row, "state"), "live");
	assert_true(json_is_true(json_object_get(row, "this")));
	assert_string_equal(text_of(row, "version"), SENDENSE_VERSION);
	assert_int_equal(number_of(row, "running_backups"), 0);
	assert_true(strncmp(text_of(row, "id"), "hub-", 4) == 0);
	json_decref(reply);
}

/* Mission M6: by its id in the agent, whatever its name is by now. */
static void a_vm_without_disk_rows_is_asked_for_again(void **state)
{
	struct rig_vm bare = {.name = "bare", .id = "vm-7"};
	struct rig_vm now = {.name = "renamed", .id = "vm-7", .disk_count = 1, .size = {MI}};
	char id[CATALOG_ID_SIZE], body[200];
	json_t *vms, *reply;

	(void)state;
	hubrig_show(&rig, &bare, 1);
	just("POST", "/api/v1/discovery/add-vms", "{\"vm_names\":[\"bare\"]}", 200);
	vms = ask("GET", "/api/v1/vm-contexts?vm_name=bare", NULL, 200);
	snprintf(body, sizeof(body), "{\"vm_context_id\":\"%s\"}",
		 text_of(json_array_get(json_object_get(vms, "vm_contexts"), 0), "context_id"));
	json_decref(vms);
	refuse("POST", "/api/v1/replications", body, 400, "no disks");
	rig_vm_init(&now);
	hubrig_show(&rig, &now, 1);
	reply = make("/api/v1/replications", body, id);
	assert_int_equal(number_of(reply, "disk_count"), 1);
	assert_string_equal(text_of(reply, "vm_name"), "renamed");
	json_decref(reply);
	rig_vm_deinit(&now);
	refuse("POST", "/api/v1/replications", "{\"vm_context_id\":\"ctx-x\"}", 404, "ctx-x");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(credentials_come_in_and_passwords_never_go_out),
		T(a_credential_is_tested_used_and_then_kept),
		T(a_policy_with_copy_rules_is_created_and_changed),
		T(a_schedule_is_created_changed_and_run),
		T(a_repository_is_changed_tested_and_deleted),
		T(a_repository_in_use_stays_where_it_is),
		T(a_vm_is_annotated_grouped_and_taken_out),
		T(a_replication_uses_what_discovery_found),
		T(a_vm_without_disk_rows_is_asked_for_again),
		T(a_vm_tells_of_its_latest_jobs),
		T(hubs_are_listed_with_what_they_run),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
