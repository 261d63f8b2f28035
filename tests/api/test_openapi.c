/* The OpenAPI document: served, sound by the judgement of a JSON Schema validator, complete; and
 * that answers are really held against it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "api/openapi.h"
#include "api/routes.h"
#include "tests/support/apirig.h"
#include "tests/support/apispec.h"

/* Without a token. */
static void get(const char *path, struct apiclient_reply *reply)
{
	apirig_run("GET", path, NULL, (const char *[]){NULL}, reply);
}

static json_t *document(void)
{
	struct apiclient_reply reply;
	json_t *doc;

	get("/openapi.json", &reply);
	assert_int_equal(reply.status, 200);
	assert_string_equal(reply.content_type, "application/json");
	doc = json_loads(reply.text, 0, NULL);
	assert_non_null(doc);
	apiclient_deinit(&reply);
	return doc;
}

static void it_is_a_sound_openapi_document(void **state)
{
	json_t *doc = document();
	char path[300];

	(void)state;
	snprintf(path, sizeof(path), "%s/openapi.json", rig.dir);
	assert_int_equal(json_dump_file(doc, path, 0), 0);
	json_decref(doc);
	assert_int_equal(scratch_run("/usr/bin/python3 tests/api/openapi.py '%s'", path), 0);
}

/* A validator that accepts everything would accept these. */
static void an_unsound_document_is_noticed(void **state)
{
	static const char *const spoil[] = {
		"del(.info.version)",
		".openapi = \"3.0.0\"",
		".paths[\"/health\"].get.responses = {}",
		".paths[\"/health\"].get.tags = \"Health\"",
		".paths[\"/api/v1/backups/{backup_id}\"].get.parameters = []",
		".paths[\"/docs\"].get.operationId = .paths[\"/health\"].get.operationId",
		".paths[\"/api/v1/backups\"].get.parameters[0].in = \"body\"",
		".components.schemas.Health.type = \"strange\"",
		".components.schemas.Backup.properties.status.enum = \"running\"",
		"del(.components.schemas.Chain)",
	};
	json_t *doc = document();
	char path[300];

	(void)state;
	snprintf(path, sizeof(path), "%s/openapi.json", rig.dir);
	assert_int_equal(json_dump_file(doc, path, 0), 0);
	json_decref(doc);
	for (size_t i = 0; i < ARRAY_SIZE(spoil); i++) {
		assert_int_equal(scratch_run("jq '%s' '%s' >'%s.bad'", spoil[i], path, path), 0);
		if (!scratch_run("/usr/bin/python3 tests/api/openapi.py '%s.bad' 2>/dev/null",
				 path))
			fail_msg("not noticed: %s", spoil[i]);
	}
}

static void every_route_is_in_it_and_says_who_may(void **state)
{
	json_t *doc = document(), *paths = json_object_get(doc, "paths");
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(api_routes_check(&err), 0);
	for (size_t n = 0; api_nouns[n]; n++)
		for (size_t i = 0; i < api_nouns[n]->route_count; i++) {
			const struct api_route *r = &api_nouns[n]->routes[i];
			char method[16] = "";
			json_t *op;

			for (size_t k = 0; r->method[k]; k++)
				method[k] = (char)(r->method[k] | 0x20);
			op = json_object_get(json_object_get(paths, r->path), method);
			if (!json_is_string(json_object_get(op, "x-role")))
				fail_msg("%s %s is not documented", r->method, r->path);
			assert_int_not_equal(r->role, API_ROLE_UNSET);
			assert_int_equal(json_array_size(json_object_get(op, "security")),
					 r->role != API_PUBLIC &&
						 (r->role != API_AGENT || r->agents_too));
			assert_int_equal(json_is_true(json_object_get(op, "x-agents-too")),
					 r->agents_too);
		}
	json_decref(doc);
}

static void the_page_shows_it_with_nothing_from_elsewhere(void **state)
{
	struct apiclient_reply reply;
	char header[512];

	(void)state;
	get("/docs", &reply);
	assert_int_equal(reply.status, 200);
	assert_string_equal(reply.content_type, "text/html; charset=utf-8");
	assert_non_null(strstr(reply.text, "fetch(\"openapi.json\")"));
	assert_null(strstr(reply.text, "http://"));
	assert_null(strstr(reply.text, "https://"));
	assert_non_null(strstr(reply.text, "</html>"));
	apiclient_header(&reply, "Content-Security-Policy", header, sizeof(header));
	assert_non_null(strstr(header, "default-src 'none'"));
	apiclient_deinit(&reply);
}

/* --- the judge itself ----------------------------------------------------------------------- */

static bool allowed(const char *method, const char *target, long status, const char *type,
		    const char *body)
{
	char why[512];

	return apispec_allows(method, target, status, type, body, strlen(body), why, sizeof(why));
}

static const char good_health[] =
	"{\"status\":\"healthy\",\"version\":\"1\",\"uptime_seconds\":1,\"running_backups\":0,"
	"\"timestamp\":\"2025-10-05T12:00:00.000001Z\"}";

static const char good_problem[] =
	"{\"type\":\"about:blank\",\"title\":\"t\",\"status\":404,\"detail\":\"d\","
	"\"instance\":\"/x\",\"error\":\"d\",\"details\":\"\","
	"\"timestamp\":\"2025-10-05T12:00:00Z\"}";

static bool health_allowed(const char *from, const char *to)
{
	char body[1024];
	const char *at = strstr(good_health, from);

	assert_non_null(at);
	snprintf(body, sizeof(body), "%.*s%s%s", (int)(at - good_health), good_health, to,
		 at + strlen(from));
	return allowed("GET", "/health", 200, "application/json", body);
}

static void the_judge_notices_what_is_not_as_documented(void **state)
{
	(void)state;
	assert_true(health_allowed("healthy", "healthy"));
	assert_false(health_allowed("healthy", "sick"));
	assert_false(health_allowed("\"status\":\"healthy\",", ""));
	assert_false(health_allowed("\"version\"", "\"more\":1,\"version\""));
	assert_false(health_allowed("\"uptime_seconds\":1", "\"uptime_seconds\":\"1\""));
	assert_false(health_allowed("\"uptime_seconds\":1", "\"uptime_seconds\":1.5"));
	assert_false(health_allowed("\"uptime_seconds\":1", "\"uptime_seconds\":null"));
	assert_false(health_allowed("12:00:00.000001Z", "noon"));
	assert_false(allowed("GET", "/health", 200, "text/plain", good_health));
	assert_false(allowed("GET", "/health", 201, "application/json", good_health));
	assert_false(allowed("GET", "/health", 200, "application/json", "{"));
	assert_false(allowed("GET", "/nowhere", 200, "application/json", good_health));
	assert_true(allowed("GET", "/nowhere", 404, "application/problem+json", good_problem));
	assert_true(allowed("GET", "/health", 503, "application/problem+json", good_problem));
	assert_false(allowed("GET", "/health", 503, "application/json", good_problem));
	assert_false(allowed("GET", "/health", 503, "application/problem+json", good_health));
	/* Lists and what is in them. */
	assert_true(allowed("GET", "/api/v1/repositories?x=1", 200, "application/json",
			    "{\"repositories\":[],\"total\":0}"));
	assert_false(allowed("GET", "/api/v1/repositories", 200, "application/json",
			     "{\"repositories\":{},\"total\":0}"));
	assert_false(allowed("GET", "/api/v1/repositories", 200, "application/json",
			     "{\"repositories\":[{\"id\":\"x\"}],\"total\":0}"));
	/* "chain" is a word before it is a backup's name. */
	assert_false(allowed("GET", "/api/v1/backups/chain", 200, "application/json",
			     "{\"backup_id\":\"x\"}"));
}

static void the_judge_refuses_schemas_it_does_not_understand(void **state)
{
	json_t *schema = json_pack("{s:s,s:i}", "type", "integer", "maximum", 3);
	json_t *value = json_integer(7);
	char why[256];

	(void)state;
	assert_false(apispec_valid(schema, schema, value, "v", why, sizeof(why)));
	assert_non_null(strstr(why, "maximum"));
	json_decref(schema);
	json_decref(value);
}

#define T(name) cmocka_unit_test_setup_teardown(name, apirig_setup, apirig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(it_is_a_sound_openapi_document),
		T(an_unsound_document_is_noticed),
		T(every_route_is_in_it_and_says_who_may),
		T(the_page_shows_it_with_nothing_from_elsewhere),
		cmocka_unit_test(the_judge_notices_what_is_not_as_documented),
		cmocka_unit_test(the_judge_refuses_schemas_it_does_not_understand),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
