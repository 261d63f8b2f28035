/* Who may call what, asked of the real program over HTTP: every route of the table with every role,
 * tokens that are worth nothing, the agents' listener, and the audit log of all of it. */
#include <curl/curl.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "api/routes.h"
#include "tests/hub/rig.h"
#include "tests/support/apiclient.h"

#define MI (1U << 20)

enum { NOBODY, VIEWER, OPERATOR, ADMIN, AGENT, CALLERS };

static const char *const caller_names[CALLERS] = {"", "viewer", "operator", "admin", "agent"};

static struct hubrig rig; /* its hub is a program: rig.hub is NULL */
static struct rig_vm vm;
static pid_t hub;
static char control[100], agents[100];
static char tokens[CALLERS][HUB_TOKEN_SIZE];

/* --- HTTP ------------------------------------------------------------------------------------- */

struct answer {
	long status;
	char text[65536], headers[4096];
	json_t *json; /* NULL: it is none; the caller's to json_decref() */
};

/* @authorization: a header's value, or NULL. */
static void call(struct answer *a, const char *address, const char *method, const char *path,
		 const char *authorization, const char *body)
{
	char base[128], line[600];
	const char *headers[] = {authorization ? line : NULL, NULL};
	const struct apiclient_call asked = {
		.base = base, .method = method, .path = path, .body = body, .headers = headers};
	struct apiclient_reply got;

	snprintf(base, sizeof(base), "http://%s", address);
	/* With a semicolon curl sends a header without a value. */
	snprintf(line, sizeof(line), "Authorization%s%s",
		 authorization && !*authorization ? ";" : ": ", authorization ? authorization : "");
	apiclient_run(&asked, &got);
	memset(a, 0, sizeof(*a));
	a->status = got.status;
	snprintf(a->text, sizeof(a->text), "%s", got.text);
	snprintf(a->headers, sizeof(a->headers), "%s", got.head);
	a->json = json_loadb(got.text, got.len, 0, NULL);
	apiclient_deinit(&got);
	/* A token is told by the one call that makes it. */
	if (a->status != 201 && strstr(a->text, "sdn_"))
		fail_msg("%s %s tells a token: %s", method, path, a->text);
}

static void call_as(struct answer *a, const char *token, const char *method, const char *path,
		    const char *body)
{
	char bearer[100];

	snprintf(bearer, sizeof(bearer), "Bearer %s", token);
	call(a, control, method, path, token[0] ? bearer : NULL, body);
}

static const char *text_of(const json_t *obj, const char *key)
{
	const char *s = json_string_value(json_object_get(obj, key));

	return s ? s : "(no text)";
}

/* As the administrator; the answer is the caller's to json_decref(). */
static json_t *ask(const char *method, const char *path, const char *body, long status)
{
	struct answer a;

	call_as(&a, tokens[ADMIN], method, path, body);
	if (a.status != status)
		fail_msg("%s %s: %ld: %s", method, path, a.status, a.text);
	return a.json;
}

static void expect_status(const char *token, const char *method, const char *path, const char *body,
			  long status)
{
	struct answer a;

	call_as(&a, token, method, path, body);
	if (a.status != status)
		fail_msg("%s %s: %ld, not %ld: %s", method, path, a.status, status, a.text);
	json_decref(a.json);
}

/* --- the program ------------------------------------------------------------------------------ */

static void run_hub(int out, int log)
{
	const char *build = getenv("BUILD");
	char program[500], data[300];
	const char *argv[] = {program,
			      "--data-dir",
			      data,
			      "--db",
			      rig.db.url,
			      "--http",
			      "127.0.0.1:0",
			      "--agent-listen",
			      "127.0.0.1:0",
			      "--nbd",
			      "127.0.0.1:0",
			      "--agent-url",
			      agentpeer_url(rig.peer),
			      NULL};

	snprintf(program, sizeof(program), "%s/bin/sendense-hub", build ? build : "build");
	snprintf(data, sizeof(data), "%s/data", rig.dir);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	dup2(out, STDOUT_FILENO);
	dup2(log, STDERR_FILENO);
	execv(program, (char *const *)argv);
	_exit(127);
}

static void start_hub(void)
{
	char line[1024], path[300];
	int fds[2], log;
	FILE *in;

	snprintf(path, sizeof(path), "%s/hub.err", rig.dir);
	log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	hub = fork();
	if (!hub)
		run_hub(fds[1], log);
	close(fds[1]);
	close(log);
	in = fdopen(fds[0], "r");
	assert_non_null(fgets(line, sizeof(line), in));
	fclose(in);
	assert_int_equal(sscanf(line, "sendense-hub ready http=%99s agent=%99s nbd=%63s", control,
				agents, rig.nbd),
			 3);
}

static void stop_hub(void)
{
	int status = -1;

	kill(hub, SIGTERM);
	waitpid(hub, &status, 0);
	assert_int_equal(status, 0);
}

/* --- users ------------------------------------------------------------------------------------ */

static void make_user(const char *name, const char *role, char id[CATALOG_ID_SIZE])
{
	char body[300];
	json_t *reply;

	snprintf(body, sizeof(body), "{\"name\":\"%s\",\"role\":\"%s\"}", name, role);
	reply = ask("POST", "/api/v1/users", body, 201);
	snprintf(id, CATALOG_ID_SIZE, "%s", text_of(reply, "id"));
	json_decref(reply);
}

/* @more: further members, ",..."; the token's id in @id. */
static void make_token(const char *user_id, const char *more, char text[HUB_TOKEN_SIZE],
		       char id[CATALOG_ID_SIZE])
{
	char path[200], body[400];
	json_t *reply;

	snprintf(path, sizeof(path), "/api/v1/users/%s/tokens", user_id);
	snprintf(body, sizeof(body), "{\"name\":\"test\"%s}", more);
	reply = ask("POST", path, body, 201);
	snprintf(text, HUB_TOKEN_SIZE, "%s", text_of(reply, "token"));
	snprintf(id, CATALOG_ID_SIZE, "%s", text_of(reply, "id"));
	assert_int_equal(strlen(text), HUB_TOKEN_SIZE - 1);
	json_decref(reply);
}

static int setup(void **state)
{
	char id[CATALOG_ID_SIZE];

	(void)state;
	vm = (struct rig_vm){.name = "pgtest1", .id = "vm-1", .disk_count = 1, .size = {MI}};
	rig_vm_init(&vm);
	hubrig_init(&rig);
	start_hub();
	rig_token(&rig, "/", tokens[ADMIN]);
	for (int i = VIEWER; i < CALLERS; i++) {
		if (i == ADMIN)
			continue;
		make_user(caller_names[i], caller_names[i], id);
		make_token(id, "", tokens[i], id);
	}
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	stop_hub();
	/* What a hub is told in confidence is in no log of its own. */
	assert_int_equal(scratch_run("! grep -r sdn_ '%s/hub.err'", rig.dir), 0);
	assert_int_equal(
		scratch_run("! grep -rl sdn_ '%s' | grep -v '/data/admin-token$'", rig.dir), 0);
	hubrig_deinit(&rig);
	rig_vm_deinit(&vm);
	return 0;
}

/* --- every route with every role -------------------------------------------------------------- */

/* "/api/v1/users/{user_id}" with something that is not there. */
static void fill_path(const char *path, char *out, size_t size)
{
	size_t n = 0;

	while (*path && n + 16 < size) {
		if (*path == '{') {
			n += (size_t)snprintf(out + n, size - n, "none-such");
			path += strcspn(path, "}") + 1;
		} else {
			out[n++] = *path++;
		}
	}
	out[n] = '\0';
}

static bool may(int caller, const struct api_route *route)
{
	if (caller == AGENT && route->agents_too)
		return true;
	switch (route->role) {
	case API_PUBLIC:
		return true;
	case API_AGENT:
		return caller == AGENT;
	case API_VIEWER:
		return caller == VIEWER || caller == OPERATOR || caller == ADMIN;
	case API_OPERATOR:
		return caller == OPERATOR || caller == ADMIN;
	default:
		return caller == ADMIN;
	}
}

static void try_route(const struct api_route *route, int caller)
{
	const char *body =
		strcmp(route->method, "GET") && strcmp(route->method, "DELETE") ? "{}" : NULL;
	struct answer a;
	char path[300];

	fill_path(route->path, path, sizeof(path));
	call_as(&a, tokens[caller], route->method, path, body);
	if (!a.status || a.status == 429)
		fail_msg("%s %s as %s: %ld", route->method, path, caller_names[caller], a.status);
	if (may(caller, route)) {
		/* What a login lacks is not a token to come in with. */
		if ((a.status == 401 && route->role != API_PUBLIC) || a.status == 403)
			fail_msg("%s %s refused %s: %s", route->method, path, caller_names[caller],
				 a.text);
	} else if (a.status != (caller == NOBODY ? 401 : 403)) {
		fail_msg("%s %s as %s: %ld: %s", route->method, path, caller_names[caller],
			 a.status, a.text);
	} else {
		assert_non_null(strstr(a.headers, "WWW-Authenticate: Bearer"));
		assert_true(json_is_string(json_object_get(a.json, "error")));
	}
	if (caller != NOBODY && a.status == 403 && !strstr(a.text, "needs the role"))
		fail_msg("%s %s does not say which role: %s", route->method, path, a.text);
	json_decref(a.json);
}

static void every_route_admits_exactly_its_roles(void **state)
{
	int routes = 0;

	(void)state;
	for (size_t n = 0; api_nouns[n]; n++)
		for (size_t i = 0; i < api_nouns[n]->route_count; i++, routes++)
			for (int caller = 0; caller < CALLERS; caller++)
				try_route(&api_nouns[n]->routes[i], caller);
	assert_true(routes > 20);
	/* The strangers are in the log, and the log is whole. */
	assert_true(tmpdb_i64(&rig.db,
			      "SELECT COUNT(*) FROM audit_log WHERE outcome = 'denied' AND"
			      " user_name = 'viewer' AND action = 'POST /api/v1/users'") == 1);
	assert_true(tmpdb_i64(&rig.db, "SELECT COUNT(*) FROM audit_log WHERE outcome = 'denied' AND"
				       " user_name = '(nobody)' AND remote = '127.0.0.1'") > 20);
}

/* --- tokens ----------------------------------------------------------------------------------- */

static void expect_401(const char *authorization, const char *why)
{
	struct answer a;

	call(&a, control, "GET", "/api/v1/vm-contexts", authorization, NULL);
	assert_int_equal(a.status, 401);
	assert_non_null(strstr(a.headers, "WWW-Authenticate: Bearer"));
	if (!strstr(text_of(a.json, "error"), why))
		fail_msg("\"%s\" is not in \"%s\"", why, text_of(a.json, "error"));
	json_decref(a.json);
}

static void expect_401_token(const char *token, const char *why)
{
	char bearer[600];

	snprintf(bearer, sizeof(bearer), "Bearer %s", token);
	expect_401(bearer, why);
}

static void a_token_that_is_none_is_refused(void **state)
{
	char text[HUB_TOKEN_SIZE + 2];

	(void)state;
	expect_401(NULL, "needs a token");
	expect_401("", "needs a token");
	expect_401("Basic YWRtaW46YWRtaW4=", "needs a token");
	expect_401("Bearer", "needs a token");
	expect_401_token("", "no token");
	expect_401_token("garbage", "no token");
	expect_401_token("\xff\xfe", "no token");
	snprintf(text, sizeof(text), "%.*s", HUB_TOKEN_SIZE - 2, tokens[ADMIN]);
	expect_401_token(text, "no token");
	snprintf(text, sizeof(text), "%s0", tokens[ADMIN]);
	expect_401_token(text, "no token");
	snprintf(text, sizeof(text), "%s", tokens[ADMIN]);
	text[20] = text[20] == 'x' ? 'y' : 'x';
	expect_401_token(text, "no such token");
	/* The scheme is one in any case of letters (RFC 9110). */
	snprintf(text, sizeof(text), "%s", tokens[VIEWER]);
	struct answer a;
	char odd[100];

	snprintf(odd, sizeof(odd), "bEARER   %s", text);
	call(&a, control, "GET", "/api/v1/vm-contexts", odd, NULL);
	assert_int_equal(a.status, 200);
	json_decref(a.json);
}

static void a_token_ends_by_time_by_revocation_and_with_its_user(void **state)
{
	char user[CATALOG_ID_SIZE], id[CATALOG_ID_SIZE], text[HUB_TOKEN_SIZE], path[200];
	json_t *reply;

	(void)state;
	make_user("ann", "operator", user);
	make_token(user, ",\"expires_in_s\":3600", text, id);
	expect_status(text, "GET", "/api/v1/vm-contexts", NULL, 200);
	tmpdb_sql(&rig.db, "UPDATE api_tokens SET expires_at = created_at WHERE id = '%s'", id);
	expect_401_token(text, "has expired");

	make_token(user, "", text, id);
	expect_status(text, "GET", "/api/v1/vm-contexts", NULL, 200);
	snprintf(path, sizeof(path), "/api/v1/tokens/%s", id);
	json_decref(ask("DELETE", path, NULL, 200));
	expect_401_token(text, "was revoked");
	json_decref(ask("DELETE", path, NULL, 200));

	make_token(user, "", text, id);
	snprintf(path, sizeof(path), "/api/v1/users/%s", user);
	json_decref(ask("PATCH", path, "{\"enabled\":false}", 200));
	expect_401_token(text, "ann is disabled");
	json_decref(ask("PATCH", path, "{\"enabled\":true,\"role\":\"viewer\"}", 200));
	expect_status(text, "GET", "/api/v1/vm-contexts", NULL, 200);
	expect_status(text, "POST", "/api/v1/backups", "{}", 403);
	json_decref(ask("DELETE", path, NULL, 200));
	expect_401_token(text, "no such token");

	/* The last administrator stays. */
	reply = ask("GET", "/api/v1/auth/whoami", NULL, 200);
	assert_string_equal(text_of(reply, "user_name"), "admin");
	snprintf(path, sizeof(path), "/api/v1/users/%s", text_of(reply, "user_id"));
	json_decref(reply);
	json_decref(ask("PATCH", path, "{\"enabled\":false}", 409));
	json_decref(ask("DELETE", path, NULL, 409));
}

static void a_token_is_told_once(void **state)
{
	char user[CATALOG_ID_SIZE], id[CATALOG_ID_SIZE], text[HUB_TOKEN_SIZE], path[200];
	json_t *reply, *row;
	char *dump;

	(void)state;
	make_user("ann", "operator", user);
	make_token(user, ",\"scopes\":[\"viewer\",\"operator:backups\"]", text, id);
	snprintf(path, sizeof(path), "/api/v1/users/%s/tokens", user);
	reply = ask("GET", path, NULL, 200);
	row = json_array_get(json_object_get(reply, "tokens"), 0);
	assert_string_equal(text_of(row, "id"), id);
	assert_string_equal(text_of(row, "state"), "valid");
	assert_int_equal(json_array_size(json_object_get(row, "scopes")), 2);
	assert_null(json_object_get(row, "token"));
	assert_null(json_object_get(row, "token_hash"));
	json_decref(reply);
	dump = tmpdb_dump(&rig.db, NULL);
	assert_null(strstr(dump, text + 4));
	assert_null(strstr(dump, tokens[ADMIN] + 4));
	free(dump);
}

static void scopes_narrow_a_token_down(void **state)
{
	char user[CATALOG_ID_SIZE], id[CATALOG_ID_SIZE], text[HUB_TOKEN_SIZE];
	struct answer a;

	(void)state;
	make_user("ann", "admin", user);
	make_token(user, ",\"scopes\":[\"viewer\",\"operator:backups\",\"admin:users\"]", text, id);
	expect_status(text, "GET", "/api/v1/repositories", NULL, 200);
	expect_status(text, "POST", "/api/v1/backups", "{}", 400);
	expect_status(text, "POST", "/api/v1/discovery/add-vms", "{}", 403);
	expect_status(text, "POST", "/api/v1/repositories", "{}", 403);
	expect_status(text, "GET", "/api/v1/users", NULL, 200);
	/* Or it could make itself a wider one. */
	call_as(&a, text, "POST", "/api/v1/users", "{\"name\":\"eve\",\"role\":\"admin\"}");
	assert_int_equal(a.status, 403);
	assert_non_null(strstr(text_of(a.json, "error"), "token with scopes"));
	json_decref(a.json);
	call_as(&a, text, "POST", "/api/v1/repositories", "{}");
	assert_non_null(strstr(text_of(a.json, "error"), "admin:repositories"));
	json_decref(a.json);
}

/* --- the agents' listener --------------------------------------------------------------------- */

static long agent_call(const char *method, const char *path, const char *body, char said[600])
{
	struct answer a;

	call(&a, agents, method, path, NULL, body);
	snprintf(said, 600, "%.599s", a.text);
	json_decref(a.json);
	return a.status;
}

static void expect_agent(const char *method, const char *path, const char *body, long status,
			 const char *sentence)
{
	char said[600];
	long got = agent_call(method, path, body, said);

	if (got != status || !strstr(said, sentence))
		fail_msg("%s %s: %ld: %s", method, path, got, said);
}

/* Adds VM and repository, starts a full backup; its description, to be json_decref()ed. */
static json_t *start_backup(void)
{
	char body[600];

	hubrig_show(&rig, &vm, 1);
	json_decref(ask("POST", "/api/v1/discovery/add-vms", "{\"vm_names\":[\"pgtest1\"]}", 200));
	snprintf(body, sizeof(body),
		 "{\"name\":\"local1\",\"type\":\"local\",\"config\":{\"path\":\"%s/repo\"}}",
		 rig.dir);
	json_decref(ask("POST", "/api/v1/repositories", body, 201));
	return ask("POST", "/api/v1/backups",
		   "{\"vm_name\":\"pgtest1\",\"repository\":\"local1\",\"backup_type\":\"full\"}",
		   200);
}

static void send_disk(const json_t *started)
{
	const json_t *d = json_array_get(json_object_get(started, "disk_results"), 0);
	struct hub_disk_view view = {.row = {.hardware_order = 0}};

	snprintf(view.row.export_name, sizeof(view.row.export_name), "%s",
		 text_of(d, "nbd_export_name"));
	assert_int_equal(rig_send(&rig, &vm, &view, 0, vm.size[0]), 0);
}

#define CHANGE_ID "/api/v1/backups/changeid?vm_name=pgtest1&disk_id=0"

static void without_a_token_agents_speak_of_running_backups_alone(void **state)
{
	const char *id;
	char complete[200], telemetry[200], body[] = "{\"change_id\":\"52 66/1\",\"disk_id\":0}";
	json_t *started;

	(void)state;
	expect_agent("GET", CHANGE_ID, NULL, 409, "no backup of a VM named");
	started = start_backup();
	id = text_of(started, "backup_id");
	snprintf(complete, sizeof(complete), "/api/v1/backups/%s/complete", id);
	snprintf(telemetry, sizeof(telemetry), "/api/v1/telemetry/backup/%s", id);
	expect_agent("GET", CHANGE_ID, NULL, 200, "\"change_id\":\"\"");
	expect_agent("POST", telemetry, "{}", 200, "ok");
	expect_agent("POST", telemetry, "{}", 200, "ok");
	expect_status(tokens[AGENT], "POST", telemetry, "{}", 200);
	expect_status(tokens[AGENT], "POST", telemetry, "{}", 200);
	send_disk(started);
	expect_agent("POST", complete, body, 200, "completed");
	/* Its last words come after the end. */
	expect_agent("POST", telemetry, "{}", 200, "ok");
	expect_agent("POST", complete, body, 200, "\"already\":true");
	expect_agent("GET", CHANGE_ID, NULL, 409, "no backup of a VM named");

	tmpdb_sql(&rig.db, "UPDATE backup_jobs SET completed_at = completed_at - 301000000");
	expect_agent("POST", telemetry, "{}", 409, "does not run: it is completed");
	expect_agent("POST", complete, body, 409, "does not run: it is completed");
	expect_agent("POST", "/api/v1/telemetry/backup/backup-none", "{}", 404, "backup-none");
	expect_agent("POST", "/api/v1/backups/backup-none/complete", body, 404, "backup-none");
	json_decref(started);

	/* One entry tells that there was telemetry, one each of what was done and refused. */
	assert_int_equal(tmpdb_i64(&rig.db,
				   "SELECT COUNT(*) FROM audit_log WHERE object = '%s' AND"
				   " outcome = 'allowed' AND user_name LIKE '(agent%%'",
				   telemetry),
			 1);
	assert_int_equal(tmpdb_i64(&rig.db,
				   "SELECT COUNT(*) FROM audit_log WHERE object = '%s' AND"
				   " outcome = 'allowed' AND user_name = 'agent'",
				   telemetry),
			 1);
	assert_int_equal(tmpdb_i64(&rig.db,
				   "SELECT COUNT(*) FROM audit_log WHERE object = '%s' AND"
				   " outcome = 'denied'",
				   telemetry),
			 1);
	assert_int_equal(tmpdb_i64(&rig.db,
				   "SELECT COUNT(*) FROM audit_log WHERE object = '%s' AND"
				   " outcome = 'allowed'",
				   complete),
			 2);
}

static void the_agents_listener_has_nothing_else(void **state)
{
	struct answer a;
	char path[300], bearer[100];
	int64_t denied;

	(void)state;
	snprintf(bearer, sizeof(bearer), "Bearer %s", tokens[ADMIN]);
	for (size_t n = 0; api_nouns[n]; n++) {
		for (size_t i = 0; i < api_nouns[n]->route_count; i++) {
			const struct api_route *route = &api_nouns[n]->routes[i];

			if (route->role == API_AGENT || route->agents_too)
				continue;
			fill_path(route->path, path, sizeof(path));
			/* A token changes nothing. */
			call(&a, agents, route->method, path, bearer,
			     strcmp(route->method, "GET") ? "{}" : NULL);
			if (a.status != 404 && a.status != 405)
				fail_msg("%s %s: %ld: %s", route->method, path, a.status, a.text);
			json_decref(a.json);
		}
	}
	denied = tmpdb_i64(&rig.db, "SELECT COUNT(*) FROM audit_log WHERE outcome = 'denied' AND"
				    " action LIKE '%%(no such path)'");
	assert_true(denied > 10);
}

static void who_asks_too_often_is_told_to_wait(void **state)
{
	bool refused = false;
	struct answer a;
	json_t *started;

	(void)state;
	started = start_backup();
	for (int i = 0; i < 5000 && !refused; i++) {
		call(&a, agents, "GET", CHANGE_ID, NULL, NULL);
		refused = a.status == 429;
		if (!refused)
			assert_int_equal(a.status, 200);
		json_decref(a.json);
	}
	assert_true(refused);
	assert_non_null(strstr(a.headers, "Retry-After: 1"));
	/* Telemetry has a measure of its own. */
	send_disk(started);
	json_decref(started);
}

/* Strangers are told to wait, who has a token is let in all the same, and the log is not flooded.
 */
static void guessing_is_slowed_down(void **state)
{
	bool refused = false;
	struct answer a;
	int64_t rows;

	(void)state;
	for (int i = 0; i < 5000 && !refused; i++) {
		call(&a, control, "GET", "/api/v1/users", "Bearer guess", NULL);
		refused = a.status == 429;
		json_decref(a.json);
	}
	assert_true(refused);
	for (int i = 0; i < 200; i++) {
		call(&a, control, "GET", "/api/v1/users", "Bearer guess", NULL);
		json_decref(a.json);
	}
	expect_status(tokens[VIEWER], "GET", "/api/v1/vm-contexts", NULL, 200);
	rows = tmpdb_i64(&rig.db, "SELECT COUNT(*) FROM audit_log WHERE outcome = 'denied'");
	assert_true(rows > 100 && rows < 2000);
	expect_status(tokens[VIEWER], "GET", "/api/v1/users", NULL, 403);
	/* By this one, or by one of the guesses that was listed again meanwhile. */
	assert_true(tmpdb_i64(&rig.db, "SELECT COUNT(*) FROM audit_log WHERE detail LIKE"
				       " '%%refusals_not_listed%%'") >= 1);
}

/* --- the audit log ---------------------------------------------------------------------------- */

static void the_audit_log_tells_what_was_done_and_that_it_is_whole(void **state)
{
	char user[CATALOG_ID_SIZE], secret[] = "s3cret-in-a-body";
	json_t *reply, *entry;

	(void)state;
	make_user("ann", "operator", user);
	expect_status(tokens[ADMIN], "POST", "/api/v1/users?password=in-a-query",
		      "{\"name\":\"ann\",\"role\":\"admin\",\"x\":\"s3cret-in-a-body\"}", 409);
	reply = ask("GET", "/api/v1/audit?limit=2", NULL, 200);
	entry = json_array_get(json_object_get(reply, "entries"), 1);
	assert_string_equal(text_of(entry, "user_name"), "admin");
	assert_string_equal(text_of(entry, "action"), "POST /api/v1/users");
	assert_string_equal(text_of(entry, "outcome"), "allowed");
	assert_string_equal(text_of(entry, "remote"), "127.0.0.1");
	assert_string_equal(text_of(json_object_get(entry, "detail"), "id"), user);
	entry = json_array_get(json_object_get(reply, "entries"), 0);
	assert_string_equal(text_of(entry, "outcome"), "failed");
	assert_string_equal(text_of(entry, "object"), "/api/v1/users");
	assert_int_equal(
		json_integer_value(json_object_get(json_object_get(entry, "detail"), "status")),
		409);
	json_decref(reply);
	assert_int_equal(tmpdb_i64(&rig.db,
				   "SELECT COUNT(*) FROM audit_log WHERE detail LIKE"
				   " '%%%s%%' OR object LIKE '%%in-a-query%%'",
				   secret),
			 0);
	expect_status(tokens[ADMIN], "GET", "/api/v1/audit?outcome=maybe", NULL, 400);

	reply = ask("GET", "/api/v1/audit/verify", NULL, 200);
	assert_true(json_is_true(json_object_get(reply, "ok")));
	json_decref(reply);
	tmpdb_sql(&rig.db, "UPDATE audit_log SET user_name = 'eve' WHERE id = 3");
	reply = ask("GET", "/api/v1/audit/verify", NULL, 200);
	assert_true(json_is_false(json_object_get(reply, "ok")));
	entry = json_array_get(json_object_get(reply, "findings"), 0);
	assert_int_equal(json_integer_value(json_object_get(entry, "id")), 3);
	json_decref(reply);
}

static int64_t entries(const char *outcome)
{
	return tmpdb_i64(&rig.db,
			 "SELECT COUNT(*) FROM audit_log WHERE action = 'POST /api/v1/users'"
			 " AND outcome = '%s'",
			 outcome);
}

static void what_the_log_refused_is_in_it_as_soon_as_it_takes_entries(void **state)
{
	int64_t before = entries("allowed");
	json_t *reply, *entry;
	char *left;

	(void)state;
	tmpdb_sql(&rig.db, "CREATE TRIGGER refuse BEFORE INSERT ON audit_log %s",
		  tmpdb_either("BEGIN SELECT RAISE(ABORT, 'refused by the test'); END",
			       "FOR EACH ROW SIGNAL SQLSTATE '45000'"));
	json_decref(ask("POST", "/api/v1/users", "{\"name\":\"ann\",\"role\":\"viewer\"}", 201));
	expect_status(tokens[ADMIN], "POST", "/api/v1/users",
		      "{\"name\":\"ann\",\"role\":\"viewer\"}", 409);
	assert_int_equal(entries("allowed"), before);
	tmpdb_sql(&rig.db, "DROP TRIGGER refuse");

	json_decref(ask("POST", "/api/v1/users", "{\"name\":\"bea\",\"role\":\"viewer\"}", 201));
	assert_int_equal(entries("allowed"), before + 2);
	assert_int_equal(entries("failed"), 1);
	reply = ask("GET", "/api/v1/audit?outcome=failed&limit=1", NULL, 200);
	entry = json_array_get(json_object_get(reply, "entries"), 0);
	assert_string_equal(text_of(entry, "user_name"), "admin");
	entry = json_object_get(entry, "detail");
	assert_int_equal(json_integer_value(json_object_get(entry, "status")), 409);
	assert_non_null(strstr(text_of(entry, "error"), "did not take"));
	json_decref(reply);
	/* Nothing is noted any more that would be told again at the next start. */
	left = scratch_output("grep -c users '%s/data/audit-pending'", rig.dir);
	assert_string_equal(left, "0\n");
	free(left);
	reply = ask("GET", "/api/v1/audit/verify", NULL, 200);
	assert_true(json_is_true(json_object_get(reply, "ok")));
	json_decref(reply);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(every_route_admits_exactly_its_roles),
		T(a_token_that_is_none_is_refused),
		T(a_token_ends_by_time_by_revocation_and_with_its_user),
		T(a_token_is_told_once),
		T(scopes_narrow_a_token_down),
		T(without_a_token_agents_speak_of_running_backups_alone),
		T(the_agents_listener_has_nothing_else),
		T(who_asks_too_often_is_told_to_wait),
		T(guessing_is_slowed_down),
		T(the_audit_log_tells_what_was_done_and_that_it_is_whole),
		T(what_the_log_refused_is_in_it_as_soon_as_it_takes_entries),
	};

	curl_global_init(CURL_GLOBAL_DEFAULT);
	return tmpdb_run_tests("api/access", tests, NULL, NULL);
}
