/* Idempotency-Key over HTTP: once, the same answer again, also after a restart. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/support/apirig.h"

static const char *other_token; /* NULL: the administrator's */

/* POST under a key; the answer's text is the caller's. */
static long post(const char *path, const char *key, const char *body, char **text, bool *replayed)
{
	struct apiclient_reply reply;
	char header[600], value[64], bearer[APIRIG_BEARER_SIZE];
	const char *headers[] = {header, bearer, NULL};

	snprintf(header, sizeof(header), "Idempotency-Key: %s", key);
	if (other_token)
		snprintf(bearer, sizeof(bearer), "Authorization: Bearer %s", other_token);
	else
		apirig_bearer(path, bearer);
	apirig_run("POST", path, body, headers, &reply);
	if (replayed)
		*replayed = !strcmp(
			apiclient_header(&reply, "Idempotency-Replayed", value, sizeof(value)),
			"true");
	if (text)
		*text = strdup(reply.text);
	apiclient_deinit(&reply);
	return reply.status;
}

static const char full[] =
	"{\"vm_name\":\"pgtest1\",\"repository\":\"local1\",\"backup_type\":\"full\"}";

static int64_t backups(void)
{
	return tmpdb_i64(&rig.db, "SELECT COUNT(*) FROM backup_jobs");
}

static void the_same_call_again_has_the_same_answer(void **state)
{
	char *first, *second;
	bool replayed;

	(void)state;
	assert_int_equal(post("/api/v1/backups", "start-1", full, &first, &replayed), 200);
	assert_false(replayed);
	assert_int_equal(post("/api/v1/backups", "start-1", full, &second, &replayed), 200);
	assert_true(replayed);
	assert_string_equal(first, second);
	assert_int_equal(backups(), 1);
	free(first);
	free(second);
	/* Without it, the VM is busy. */
	assert_int_equal(post("/api/v1/backups", "start-2", full, NULL, NULL), 409);
}

static void another_call_under_the_key_is_422(void **state)
{
	(void)state;
	assert_int_equal(post("/api/v1/backups", "k", full, NULL, NULL), 200);
	assert_int_equal(post("/api/v1/backups", "k", "{\"vm_name\":\"pg\"}", NULL, NULL), 422);
	assert_int_equal(post("/api/v1/repositories", "k", full, NULL, NULL), 422);
	assert_int_equal(post("/api/v1/backups?x=1", "k", full, NULL, NULL), 422);
}

static void what_failed_may_be_tried_again(void **state)
{
	char body[600];
	bool replayed;

	(void)state;
	snprintf(body, sizeof(body),
		 "{\"name\":\"r\",\"type\":\"local\",\"config\":{\"path\":\"%s/file/sub\"}}",
		 rig.dir);
	assert_int_equal(scratch_run("touch '%s/file'", rig.dir), 0);
	assert_int_not_equal(post("/api/v1/repositories", "r", body, NULL, NULL), 201);
	assert_int_equal(scratch_run("rm '%s/file'", rig.dir), 0);
	assert_int_equal(scratch_run("mkdir '%s/file'", rig.dir), 0);
	assert_int_equal(post("/api/v1/repositories", "r", body, NULL, &replayed), 201);
	assert_false(replayed);
	assert_int_equal(post("/api/v1/repositories", "r", body, NULL, &replayed), 201);
	assert_true(replayed);
}

static void an_answer_survives_a_restart_of_the_hub(void **state)
{
	char *first, *second;
	bool replayed;

	(void)state;
	assert_int_equal(post("/api/v1/backups", "k", full, &first, NULL), 200);
	apirig_stop();
	apirig_start();
	assert_int_equal(post("/api/v1/backups", "k", full, &second, &replayed), 200);
	assert_true(replayed);
	assert_string_equal(first, second);
	assert_int_equal(backups(), 1);
	free(first);
	free(second);
}

static void *start_backup(void *arg)
{
	*(long *)arg = post("/api/v1/backups", "k", full, NULL, NULL);
	return NULL;
}

/* While the first waits for its agent; then the hub stops under it, and the key is free. */
static void while_it_runs_the_same_call_is_409(void **state)
{
	pthread_t t;
	long status = 0;

	(void)state;
	agentpeer_hold(rig.peer);
	pthread_create(&t, NULL, start_backup, &status);
	while (!backups())
		nanosleep(&(struct timespec){.tv_nsec = 10 * 1000000L}, NULL);
	assert_int_equal(post("/api/v1/backups", "k", full, NULL, NULL), 409);
	hub_interrupt(rig.hub);
	pthread_join(t, NULL);
	assert_int_equal(status, 503);
	agentpeer_release(rig.peer);
	apirig_stop();
	apirig_start();
	assert_int_equal(post("/api/v1/backups", "k", full, NULL, NULL), 200);
}

/* A hub that was killed did not say how its call ended. */
static void a_key_that_a_crash_left_is_free_after_the_restart(void **state)
{
	(void)state;
	assert_int_equal(post("/api/v1/backups", "k", full, NULL, NULL), 200);
	apirig_stop();
	tmpdb_sql(&rig.db, "UPDATE idempotency_keys SET status = NULL, answer = NULL");
	apirig_start();
	assert_int_equal(post("/api/v1/backups", "k", full, NULL, NULL), 200);
	assert_int_equal(backups(), 2);
}

static void a_key_is_its_callers_alone(void **state)
{
	char token[HUB_TOKEN_SIZE];

	(void)state;
	rig_make_token(&rig, "ann", CATALOG_ROLE_OPERATOR, "", token);
	assert_int_equal(post("/api/v1/backups", "k", full, NULL, NULL), 200);
	other_token = token;
	assert_int_equal(post("/api/v1/backups", "k", full, NULL, NULL), 409); /* busy */
	/* Who may not call it gets no answer of before either. */
	other_token = "sdn_none";
	assert_int_equal(post("/api/v1/backups", "k", full, NULL, NULL), 401);
	other_token = NULL;
}

static void keys_are_bounded_and_printable(void **state)
{
	char key[300];

	(void)state;
	memset(key, 'k', sizeof(key));
	key[256] = '\0';
	assert_int_equal(post("/api/v1/backups", key, full, NULL, NULL), 400);
	key[255] = '\0';
	assert_int_equal(post("/api/v1/backups", "two words", full, NULL, NULL), 400);
	assert_int_equal(post("/api/v1/backups", "\xc3\xa4", full, NULL, NULL), 400);
	assert_int_equal(backups(), 0);
	assert_int_equal(post("/api/v1/backups", key, full, NULL, NULL), 200);
}

/* Of what is created, only what is told once: such answers are not kept. */
static bool holds_a_secret(const char *path)
{
	return strstr(path, "/tokens") || strstr(path, "/pairing-code");
}

static bool takes_a_key(const json_t *operation)
{
	const json_t *parameters = json_object_get(operation, "parameters"), *parameter;
	size_t i;

	json_array_foreach (parameters, i, parameter)
		if (!strcmp(json_string_value(json_object_get(parameter, "name")),
			    "Idempotency-Key"))
			return true;
	return false;
}

static void every_call_that_creates_takes_a_key(void **state)
{
	struct apiclient_reply reply;
	const char *path;
	json_t *document, *item;
	unsigned creating = 0;

	(void)state;
	apirig_run("GET", "/openapi.json", NULL, NULL, &reply);
	document = json_loads(reply.text, 0, NULL);
	json_object_foreach (json_object_get(document, "paths"), path, item) {
		const json_t *post = json_object_get(item, "post");
		const json_t *created = json_object_get(json_object_get(post, "responses"), "201");

		if (!created)
			continue;
		creating++;
		if (takes_a_key(post) == holds_a_secret(path))
			fail_msg("POST %s: Idempotency-Key", path);
	}
	assert_true(creating >= 7);
	json_decref(document);
	apiclient_deinit(&reply);
}

/* What is kept of a request must be nothing to try passwords on. */
static void a_password_is_no_part_of_what_is_compared(void **state)
{
	static const char form[] = "{\"name\":\"%s\",\"vcenter_host\":\"vc\",\"username\":\"u\","
				   "\"password\":\"%s\"}";
	const char *path = "/api/v1/vmware-credentials";
	char body[200];
	bool replayed;

	(void)state;
	snprintf(body, sizeof(body), form, "one", "secret");
	assert_int_equal(post(path, "c", body, NULL, &replayed), 201);
	assert_false(replayed);
	snprintf(body, sizeof(body), form, "one", "other");
	assert_int_equal(post(path, "c", body, NULL, &replayed), 201);
	assert_true(replayed);
	assert_int_equal(tmpdb_i64(&rig.db, "SELECT COUNT(*) FROM credentials"), 1);
	snprintf(body, sizeof(body), form, "two", "secret");
	assert_int_equal(post(path, "c", body, NULL, NULL), 422);
}

#define T(name) cmocka_unit_test_setup_teardown(name, apirig_setup_vm, apirig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(the_same_call_again_has_the_same_answer),
		T(another_call_under_the_key_is_422),
		T(what_failed_may_be_tried_again),
		T(an_answer_survives_a_restart_of_the_hub),
		T(while_it_runs_the_same_call_is_409),
		T(a_key_that_a_crash_left_is_free_after_the_restart),
		T(a_key_is_its_callers_alone),
		T(keys_are_bounded_and_printable),
		T(every_call_that_creates_takes_a_key),
		T(a_password_is_no_part_of_what_is_compared),
	};

	return tmpdb_run_tests("api/idempotency", tests, NULL, NULL);
}
