/* The REST face over real HTTP: shapes, statuses, the agent's calls as it makes them, and clients
 * that behave badly. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "tests/support/apirig.h"

static void add_vm_and_repository(void)
{
	char body[600];
	json_t *reply;

	hubrig_show(&rig, &vm, 1);
	json_decref(ask("POST", "/api/v1/discovery/add-vms", "{\"vm_names\":[\"pgtest1\"]}", 200));
	snprintf(body, sizeof(body),
		 "{\"name\":\"local1\",\"type\":\"local\",\"config\":{\"path\":\"%s/repo\"}}",
		 rig.dir);
	reply = ask("POST", "/api/v1/repositories", body, 201);
	snprintf(rig.repository, sizeof(rig.repository), "%s", text_of(reply, "id"));
	json_decref(reply);
}

/* Sends a disk as the reply to start names it, and completes it over HTTP: the status. */
static long send_and_complete(const json_t *started, int disk, const char *change_id)
{
	const json_t *d = json_array_get(json_object_get(started, "disks"), (size_t)disk);
	struct hub_disk_view view = {.row = {.hardware_order = disk}};
	char path[200], body[600];

	snprintf(view.row.export_name, sizeof(view.row.export_name), "%s",
		 text_of(d, "export_name"));
	assert_int_equal(rig_send(&rig, &vm, &view, 0, vm.size[disk]), 0);
	snprintf(path, sizeof(path), "/api/v1/backups/%s/complete", text_of(started, "backup_id"));
	snprintf(body, sizeof(body),
		 "{\"change_id\":\"%s\",\"disk_id\":%d,\"bytes_transferred\":0}", change_id, disk);
	return call("POST", path, body, NULL);
}

/* --- the story ------------------------------------------------------------------------------ */

static void the_whole_story_over_http(void **state)
{
	json_t *started, *reply, *disk;
	char path[300];

	(void)state;
	add_vm_and_repository();
	started = ask("POST", "/api/v1/backups",
		      "{\"vm_name\":\"pgtest1\",\"repository\":\"local1\",\"backup_type\":\"full\","
		      "\"tags\":{\"why\":\"test\"}}",
		      200);
	assert_string_equal(text_of(started, "status"), "started");
	assert_int_equal(json_array_size(json_object_get(started, "disk_results")), 2);
	assert_non_null(strstr(text_of(started, "nbd_targets_string"), "2000:nbd://127.0.0.1:"));
	refuse("POST", "/api/v1/backups",
	       "{\"vm_name\":\"pgtest1\",\"repository\":\"local1\",\"backup_type\":\"full\"}", 409,
	       text_of(started, "backup_id"));
	assert_int_equal(send_and_complete(started, 0, "52 66 8c/1"), 200);
	assert_int_equal(send_and_complete(started, 1, "52 ed 45/1"), 200);

	snprintf(path, sizeof(path), "/api/v1/backups/%s", text_of(started, "backup_id"));
	reply = ask("GET", path, NULL, 200);
	assert_string_equal(text_of(reply, "status"), "completed");
	assert_string_equal(text_of(json_object_get(reply, "tags"), "why"), "test");
	disk = json_array_get(json_object_get(reply, "disks"), 1);
	assert_string_equal(text_of(disk, "change_id"), "52 ed 45/1");
	assert_int_equal(json_integer_value(json_object_get(disk, "virtual_size_bytes")), MI + 512);
	assert_true(rig_point_equals(&rig, text_of(disk, "qcow2_path"), &vm, 1));
	json_decref(reply);

	reply = ask("GET", "/api/v1/backups?vm_name=pgtest1&status=completed", NULL, 200);
	assert_int_equal(json_integer_value(json_object_get(reply, "total")), 1);
	json_decref(reply);
	reply = ask("GET", "/api/v1/backups?status=failed", NULL, 200);
	assert_int_equal(json_array_size(json_object_get(reply, "backups")), 0);
	json_decref(reply);
	reply = ask("GET", "/api/v1/backups/chain?vm_name=pgtest1&disk_id=1", NULL, 200);
	assert_int_equal(json_integer_value(json_object_get(reply, "backup_count")), 1);
	assert_int_equal(json_integer_value(json_object_get(reply, "disk_id")), 1);
	json_decref(reply);
	reply = ask("GET", "/api/v1/backups/pgtest1/chain", NULL, 200);
	assert_string_equal(text_of(reply, "full_backup_id"), text_of(started, "backup_id"));
	json_decref(reply);
	json_decref(started);
}

static void the_change_id_answer_is_flat_and_all_strings(void **state)
{
	json_t *reply, *value, *started;
	const char *key;

	(void)state;
	add_vm_and_repository();
	reply = ask("GET", "/api/v1/backups/changeid?vm_name=pg%20test%2F1&disk_id=0", NULL, 200);
	assert_string_equal(text_of(reply, "vm_name"), "pg test/1");
	assert_string_equal(text_of(reply, "disk_id"), "0");
	assert_string_equal(text_of(reply, "change_id"), "");
	assert_string_equal(text_of(reply, "message"), "No previous backup found");
	json_object_foreach (reply, key, value)
		assert_true(json_is_string(value));
	json_decref(reply);

	started = ask("POST", "/api/v1/backups",
		      "{\"vm_name\":\"pgtest1\",\"repository\":\"local\",\"backup_type\":\"full\"}",
		      200);
	assert_int_equal(send_and_complete(started, 0, "a b/1"), 200);
	assert_int_equal(send_and_complete(started, 1, "c d/1"), 200);
	json_decref(started);
	reply = ask("GET", "/api/v1/backups/changeid?vm_name=pgtest1&disk_id=1", NULL, 200);
	assert_string_equal(text_of(reply, "change_id"), "c d/1");
	assert_string_equal(text_of(reply, "message"), "Previous change_id found");
	json_decref(reply);
	refuse("GET", "/api/v1/backups/changeid?disk_id=0", NULL, 400, "vm_name is missing");
	refuse("GET", "/api/v1/backups/changeid?vm_name=a&disk_id=x", NULL, 400, "disk_id must be");
}

static void telemetry_is_taken_from_an_agent_that_says_anything(void **state)
{
	char path[200];
	json_t *started;

	(void)state;
	add_vm_and_repository();
	started = ask("POST", "/api/v1/backups",
		      "{\"vm_name\":\"pgtest1\",\"repository\":\"local\",\"backup_type\":\"full\"}",
		      200);
	snprintf(path, sizeof(path), "/api/v1/telemetry/backup/%s", text_of(started, "backup_id"));
	json_decref(ask("POST", path,
			"{\"status\":\"completed\",\"current_phase\":\"completed\",\"disks\":[],"
			"\"bytes_transferred\":0,\"total_bytes\":0}",
			200));
	json_decref(ask("POST", path, "{\"current_phase\":7,\"total_bytes\":\"x\"}", 200));
	json_decref(started);
	refuse("POST", "/api/v1/telemetry/backup/backup-none", "{}", 404, "backup-none");
}

/* --- the life of a backup ------------------------------------------------------------------- */

static void progress_log_and_cancel_over_http(void **state)
{
	char path[300], id[CATALOG_ID_SIZE];
	json_t *reply, *lines;
	json_int_t next;

	(void)state;
	add_vm_and_repository();
	reply = ask("POST", "/api/v1/backups",
		    "{\"vm_name\":\"pgtest1\",\"repository\":\"local\",\"backup_type\":\"full\"}",
		    200);
	snprintf(id, sizeof(id), "%s", text_of(reply, "backup_id"));
	assert_int_equal(send_and_complete(reply, 0, "a/1"), 200);
	json_decref(reply);

	snprintf(path, sizeof(path), "/api/v1/backups/%s/progress", id);
	reply = ask("GET", path, NULL, 200);
	assert_string_equal(text_of(reply, "status"), "running");
	assert_true(json_real_value(json_object_get(reply, "progress_percent")) > 50);
	assert_string_equal(text_of(json_array_get(json_object_get(reply, "disks"), 0), "status"),
			    "completed");
	json_decref(reply);

	snprintf(path, sizeof(path), "/api/v1/backups/%s/log?limit=2", id);
	reply = ask("GET", path, NULL, 200);
	lines = json_object_get(reply, "lines");
	assert_int_equal(json_array_size(lines), 2);
	assert_non_null(strstr(text_of(json_array_get(lines, 0), "message"), "full backup of VM"));
	assert_true(json_is_null(json_object_get(json_array_get(lines, 0), "disk_index")));
	next = json_integer_value(json_object_get(reply, "next"));
	json_decref(reply);

	snprintf(path, sizeof(path), "/api/v1/backups/%s/cancel", id);
	refuse("POST", path, "{\"reason\":3}", 400, "reason must be a string");
	reply = ask("POST", path, "{\"reason\":\"enough\"}", 200);
	assert_string_equal(text_of(reply, "status"), "cancelled");
	assert_true(json_is_false(json_object_get(reply, "already")));
	json_decref(reply);
	reply = ask("POST", path, NULL, 200);
	assert_true(json_is_true(json_object_get(reply, "already")));
	json_decref(reply);
	refuse("POST", "/api/v1/backups/backup-none/cancel", NULL, 404, "backup-none");

	snprintf(path, sizeof(path), "/api/v1/backups/%s/log?after=%lld", id, (long long)next);
	reply = ask("GET", path, NULL, 200);
	lines = json_object_get(reply, "lines");
	assert_non_null(
		strstr(text_of(json_array_get(lines, json_array_size(lines) - 1), "message"),
		       "cancelled on request: enough"));
	json_decref(reply);
	refuse("GET", "/api/v1/backups/backup-none/log", NULL, 404, "backup-none");

	reply = ask("GET", "/api/v1/backups/stats?vm_name=pgtest1", NULL, 200);
	assert_int_equal(json_integer_value(json_object_get(reply, "total_backups")), 1);
	assert_int_equal(json_integer_value(json_object_get(reply, "cancelled_backups")), 1);
	assert_int_equal(json_integer_value(json_object_get(reply, "full_backups")), 1);
	assert_true(json_integer_value(json_object_get(reply, "bytes_transferred")) > 0);
	assert_int_equal(json_integer_value(json_object_get(reply, "bytes_stored")), 0);
	json_decref(reply);
	reply = ask("GET", "/api/v1/backups/stats?vm_name=other", NULL, 200);
	assert_int_equal(json_integer_value(json_object_get(reply, "total_backups")), 0);
	json_decref(reply);
}

/* --- the early routes ----------------------------------------------------------------------- */

static void early_routes_do_the_same_and_say_what_to_call(void **state)
{
	struct apiclient_reply got;
	json_t *started, *reply;
	char path[200], value[256];

	(void)state;
	add_vm_and_repository();
	refuse("POST", "/api/v1/backup/start",
	       "{\"vm_name\":\"pgtest1\",\"repository\":\"local\",\"backup_type\":\"full\","
	       "\"disk_id\":\"7\"}",
	       404, "no such disk");
	refuse("POST", "/api/v1/backup/start",
	       "{\"vm_name\":\"nobody\",\"repository\":\"local\",\"backup_type\":\"full\","
	       "\"disk_id\":\"0\"}",
	       404, "nobody");
	refuse("POST", "/api/v1/backup/start",
	       "{\"vm_name\":\"pgtest1\",\"repository\":\"local\",\"backup_type\":\"full\","
	       "\"disk_id\":[]}",
	       400, "disk_id");
	started = ask("POST", "/api/v1/backup/start",
		      "{\"vm_name\":\"pgtest1\",\"repository\":\"local\",\"backup_type\":"
		      "\"full\",\"disk_id\":\"1\"}",
		      200);
	assert_int_equal(json_array_size(json_object_get(started, "disk_results")), 2);
	assert_non_null(strstr(text_of(started, "message"), "all disks"));
	assert_int_equal(send_and_complete(started, 0, "a/1"), 200);
	assert_int_equal(send_and_complete(started, 1, "b/1"), 200);
	reply = ask("GET", "/api/v1/backup/list?vm_name=pgtest1", NULL, 200);
	assert_int_equal(json_integer_value(json_object_get(reply, "total")), 1);
	json_decref(reply);
	snprintf(path, sizeof(path), "/api/v1/backup/%s", text_of(started, "backup_id"));
	reply = ask("GET", path, NULL, 200);
	assert_string_equal(text_of(reply, "status"), "completed");
	json_decref(reply);
	reply = ask("GET", "/api/v1/backup/chain?vm_name=pgtest1&disk_id=1", NULL, 200);
	assert_string_equal(text_of(reply, "full_backup_id"), text_of(started, "backup_id"));
	json_decref(reply);
	json_decref(started);

	apirig_run("GET", "/api/v1/backup/list", NULL, NULL, &got);
	assert_string_equal(apiclient_header(&got, "Deprecation", value, sizeof(value)),
			    "@1759622400");
	assert_string_equal(apiclient_header(&got, "Link", value, sizeof(value)),
			    "</api/v1/backups>; rel=\"successor-version\"");
	apiclient_deinit(&got);
	apirig_run("GET", "/api/v1/backups", NULL, NULL, &got);
	assert_string_equal(apiclient_header(&got, "Deprecation", value, sizeof(value)), "");
	apiclient_deinit(&got);
}

/* --- refusals ------------------------------------------------------------------------------- */

static void what_is_not_there_is_404_and_the_wrong_method_405(void **state)
{
	(void)state;
	refuse("GET", "/", NULL, 404, "no such path");
	refuse("GET", "/api/v1/backups/x/y/z", NULL, 404, "no such path");
	refuse("DELETE", "/api/v1/backups", NULL, 405, "does not take");
	refuse("POST", "/health", "{}", 405, "does not take");
	refuse("GET", "/api/v1/backups/backup-x", NULL, 404, "backup-x");
	refuse("GET", "/api/v1/repositories/repo-x", NULL, 404, "repo-x");
	refuse("GET", "/api/v1/vm-contexts/ctx-x/disks", NULL, 404, "ctx-x");
	refuse("GET", "/api/v1/backups/nobody/chain", NULL, 404, "nobody");
	refuse("POST", "/api/v1/backups/backup-x/complete", "{\"change_id\":\"a\",\"disk_id\":3}",
	       404, "job_id=backup-x disk_index=3");
	assert_int_equal(call("HEAD", "/health", NULL, NULL), 200);
}

static void bodies_that_make_no_sense_are_400_with_the_member(void **state)
{
	(void)state;
	add_vm_and_repository();
	refuse("POST", "/api/v1/backups", "", 400, "not JSON");
	refuse("POST", "/api/v1/backups", "{", 400, "not JSON");
	refuse("POST", "/api/v1/backups", "[]", 400, "must be a JSON object");
	refuse("POST", "/api/v1/backups", "{\"vm_name\":\"a\",\"vm_name\":\"b\"}", 400, "not JSON");
	refuse("POST", "/api/v1/backups", "{\"vm_name\":7,\"backup_type\":\"full\"}", 400,
	       "vm_name must be a string");
	refuse("POST", "/api/v1/backups", "{\"vm_name\":\"pgtest1\"}", 400,
	       "backup_type is missing");
	refuse("POST", "/api/v1/backups",
	       "{\"vm_name\":\"pgtest1\",\"repository\":\"local\",\"backup_type\":\"weekly\"}", 400,
	       "weekly");
	refuse("POST", "/api/v1/backups",
	       "{\"vm_name\":\"pgtest1\",\"repository\":\"local\",\"backup_type\":\"full\","
	       "\"disk_id\":0}",
	       400, "disk_id is not accepted");
	refuse("POST", "/api/v1/backups",
	       "{\"vm_name\":\"pgtest1\",\"repository\":\"nowhere\",\"backup_type\":\"full\"}", 404,
	       "nowhere");
	refuse("POST", "/api/v1/backups", "{\"vm_name\":\"pgtest1\",\"backup_type\":\"full\"}", 400,
	       "repository_id");
	refuse("POST", "/api/v1/backups/x/complete", "{\"disk_id\":0}", 400,
	       "change_id is missing");
	refuse("POST", "/api/v1/backups/x/complete", "{\"disk_id\":\"0\",\"change_id\":\"a\"}", 400,
	       "disk_id must be an integer");
	refuse("POST", "/api/v1/discovery/add-vms", "{\"vm_names\":[]}", 400, "vm_names");
	refuse("POST", "/api/v1/discovery/add-vms", "{\"vm_names\":[1]}", 400, "vm_names");
	refuse("POST", "/api/v1/discovery/add-vms", "{\"vm_names\":[\"ghost\"]}", 404, "ghost");
	refuse("POST", "/api/v1/repositories", "{\"name\":\"x\",\"type\":\"tape\",\"config\":{}}",
	       400, "type must be");
	refuse("POST", "/api/v1/repositories",
	       "{\"name\":\"x\",\"type\":\"local\",\"config\":{\"path\":\"/proc/nothing\"}}", 400,
	       "/proc/nothing");
	refuse("GET", "/api/v1/backups?limit=-1", NULL, 400, "limit");
	refuse("GET", "/api/v1/backups?status=odd", NULL, 400, "status");
}

static void a_vm_without_disks_is_refused_with_the_exact_sentence(void **state)
{
	struct rig_vm bare = {.name = "bare", .id = "vm-7"};
	json_t *reply;

	(void)state;
	add_vm_and_repository();
	hubrig_show(&rig, &bare, 1);
	json_decref(ask("POST", "/api/v1/discovery/add-vms", "{\"vm_names\":[\"bare\"]}", 200));
	assert_int_equal(call("POST", "/api/v1/backups",
			      "{\"vm_name\":\"bare\",\"repository\":\"local\","
			      "\"backup_type\":\"full\"}",
			      &reply),
			 400);
	assert_string_equal(text_of(reply, "error"),
			    "VM disk information not available - run discovery first");
	json_decref(reply);
}

static void an_agent_that_fails_is_502(void **state)
{
	(void)state;
	agentpeer_set_discovery(rig.peer, NULL);
	refuse("POST", "/api/v1/discovery/discover-vms", "{}", 502, "404");
}

/* --- inventory and repositories ------------------------------------------------------------- */

static void discovery_stores_vm_and_disks_and_may_be_repeated(void **state)
{
	json_t *reply, *row, *disks;
	char path[200];

	(void)state;
	add_vm_and_repository();
	json_decref(ask("POST", "/api/v1/discovery/add-vms", "{\"vm_names\":[\"pgtest1\"]}", 200));
	reply = ask("GET", "/api/v1/vm-contexts", NULL, 200);
	assert_int_equal(json_integer_value(json_object_get(reply, "total")), 1);
	row = json_array_get(json_object_get(reply, "vm_contexts"), 0);
	assert_int_equal(json_integer_value(json_object_get(row, "disk_count")), 2);
	assert_int_equal(json_integer_value(json_object_get(row, "total_capacity_bytes")),
			 3 * MI + 512);
	snprintf(path, sizeof(path), "/api/v1/vm-contexts/%s/disks", text_of(row, "context_id"));
	json_decref(reply);
	reply = ask("GET", path, NULL, 200);
	disks = json_object_get(reply, "disks");
	assert_int_equal(json_array_size(disks), 2);
	row = json_array_get(disks, 1);
	assert_int_equal(json_integer_value(json_object_get(row, "vmware_disk_key")), 2001);
	assert_int_equal(json_integer_value(json_object_get(row, "capacity_bytes")), MI + 512);
	json_decref(reply);
	*strstr(path, "/disks") = '\0';
	reply = ask("GET", path, NULL, 200);
	assert_int_equal(json_array_size(json_object_get(reply, "disks")), 2);
	assert_true(json_is_array(json_object_get(reply, "networks")));
	json_decref(reply);
	reply = ask("POST", "/api/v1/discovery/discover-vms", "{}", 200);
	row = json_array_get(json_object_get(reply, "vms"), 0);
	assert_true(text_of(row, "context_id")[0]);
	json_decref(reply);
}

static void no_answer_or_stored_row_holds_a_password(void **state)
{
	json_t *asked;

	(void)state;
	hubrig_show(&rig, &vm, 1);
	json_decref(ask("POST", "/api/v1/discovery/add-vms",
			"{\"vcenter\":\"vc\",\"username\":\"u\",\"password\":\"hunter2\","
			"\"datacenter\":\"d\",\"vm_names\":[\"pgtest1\"]}",
			200));
	asked = agentpeer_last_discovery(rig.peer);
	assert_string_equal(text_of(asked, "password"), "hunter2");
	json_decref(asked);
	assert_int_equal(scratch_run("! grep -rl hunter2 '%s'", rig.dir), 0);
}

static void a_repository_is_listed_with_its_sizes(void **state)
{
	char path[200], body[600];
	json_t *reply, *row, *storage;

	(void)state;
	add_vm_and_repository();
	reply = ask("GET", "/api/v1/repositories", NULL, 200);
	row = json_array_get(json_object_get(reply, "repositories"), 0);
	storage = json_object_get(row, "storage_info");
	assert_true(json_integer_value(json_object_get(storage, "available_bytes")) > 0);
	assert_string_equal(text_of(row, "type"), "local");
	json_decref(reply);
	snprintf(path, sizeof(path), "/api/v1/repositories/%s", rig.repository);
	reply = ask("GET", path, NULL, 200);
	assert_string_equal(text_of(reply, "name"), "local1");
	json_decref(reply);
	snprintf(body, sizeof(body),
		 "{\"name\":\"other\",\"type\":\"local\",\"config\":{\"path\":\"%s/repo/\"}}",
		 rig.dir);
	refuse("POST", "/api/v1/repositories", body, 409, "local1");
}

/* --- clients that behave badly -------------------------------------------------------------- */

static int dial(void)
{
	struct sockaddr_in to = {.sin_family = AF_INET};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	to.sin_port = htons((uint16_t)atoi(strrchr(api_address(api), ':') + 1));
	assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	return fd;
}

static void a_body_too_large_is_413(void **state)
{
	size_t n = 2 * MI;
	char *body = malloc(n + 1);

	(void)state;
	memset(body, 'x', n);
	body[n] = '\0';
	refuse("POST", "/api/v1/backups", body, 413, "1 MiB");
	free(body);
	json_decref(ask("GET", "/health", NULL, 200));
}

static void a_client_that_drips_is_cut_off(void **state)
{
	static const char head[] = "POST /api/v1/backups HTTP/1.1\r\nHost: x\r\n"
				   "Content-Length: 1000\r\n\r\n";
	int fd, cut = 0;
	char c;

	(void)state;
	api_stop(api);
	apirig_listen((struct api_config){.io_timeout_ms = 300});
	fd = dial();
	assert_true(send(fd, head, sizeof(head) - 1, 0) > 0);
	for (int i = 0; i < 1000 && !cut; i++) {
		nanosleep(&(struct timespec){.tv_nsec = 50 * 1000000L}, NULL);
		cut = send(fd, "x", 1, MSG_NOSIGNAL) < 0 || recv(fd, &c, 1, MSG_DONTWAIT) == 0;
	}
	assert_true(cut);
	close(fd);
	json_decref(ask("GET", "/health", NULL, 200));
}

static void *start_backup(void *arg)
{
	*(long *)arg = call("POST", "/api/v1/backups",
			    "{\"vm_name\":\"pgtest1\",\"repository\":\"local\","
			    "\"backup_type\":\"full\"}",
			    NULL);
	return NULL;
}

/* One of several starts at once wins; the others are told so. */
static void of_many_starts_at_once_one_wins(void **state)
{
	pthread_t t[6];
	long status[6];
	int won = 0;

	(void)state;
	add_vm_and_repository();
	for (int i = 0; i < 6; i++)
		pthread_create(&t[i], NULL, start_backup, &status[i]);
	for (int i = 0; i < 6; i++) {
		pthread_join(t[i], NULL);
		won += status[i] == 200;
		assert_true(status[i] == 200 || status[i] == 409);
	}
	assert_int_equal(won, 1);
}

/* A start that waits for its agent holds up neither reads nor other VMs; a stop does not wait for
 * it. */
static void a_slow_agent_holds_up_its_own_backup_alone(void **state)
{
	struct rig_vm other = {.name = "other", .id = "vm-2", .disk_count = 1, .size = {MI}};
	const struct rig_vm both[] = {vm, other};
	json_t *started, *list;
	pthread_t t;
	long status = 0;
	int running = 0;

	(void)state;
	add_vm_and_repository();
	hubrig_show(&rig, both, 2);
	json_decref(ask("POST", "/api/v1/discovery/add-vms", "{\"vm_names\":[\"other\"]}", 200));
	started = ask("POST", "/api/v1/backups",
		      "{\"vm_name\":\"other\",\"repository\":\"local\",\"backup_type\":\"full\"}",
		      200);
	agentpeer_hold(rig.peer);
	pthread_create(&t, NULL, start_backup, &status);
	for (int i = 0; i < 6000 && running < 2; i++) {
		list = ask("GET", "/health", NULL, 200);
		running = (int)json_integer_value(json_object_get(list, "running_backups"));
		json_decref(list);
		nanosleep(&(struct timespec){.tv_nsec = 10 * 1000000L}, NULL);
	}
	assert_int_equal(running, 2);
	rig_vm_init(&other);
	vm = other; /* what send_and_complete() sends */
	assert_int_equal(send_and_complete(started, 0, "a/1"), 200);
	json_decref(started);
	hub_interrupt(rig.hub);
	pthread_join(t, NULL);
	assert_int_equal(status, 503);
	agentpeer_release(rig.peer);
	free(both[0].content[0]);
	free(both[0].content[1]);
}

#define T(name) cmocka_unit_test_setup_teardown(name, apirig_setup, apirig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(the_whole_story_over_http),
		T(early_routes_do_the_same_and_say_what_to_call),
		T(the_change_id_answer_is_flat_and_all_strings),
		T(telemetry_is_taken_from_an_agent_that_says_anything),
		T(progress_log_and_cancel_over_http),
		T(what_is_not_there_is_404_and_the_wrong_method_405),
		T(bodies_that_make_no_sense_are_400_with_the_member),
		T(a_vm_without_disks_is_refused_with_the_exact_sentence),
		T(an_agent_that_fails_is_502),
		T(discovery_stores_vm_and_disks_and_may_be_repeated),
		T(no_answer_or_stored_row_holds_a_password),
		T(a_repository_is_listed_with_its_sizes),
		T(a_body_too_large_is_413),
		T(a_client_that_drips_is_cut_off),
		T(of_many_starts_at_once_one_wins),
		T(a_slow_agent_holds_up_its_own_backup_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
