/*
 * The agent as a program: started, called over HTTP as a hub calls it, pushing disks into real NBD
 * servers. The hub's three calls are answered by a scripted peer in this file, built from the agent
 * contract: it gives out the change id of the last `complete` it said yes to, disk by disk. What a
 * backup left in the target is compared with the source byte for byte.
 */
#include <curl/curl.h>
#include <jansson.h>
#include <netinet/in.h>
#include <microhttpd.h>
#include <pthread.h>

#include "tests/tools/agent_kit.h"
#include "tools/agent_qmp.h"

#define DISKS	   2
#define CHANGE_MAX 128

static const char vm_name[] = "pg test";
static const char vm_path[] = "/dc/vm/db/pg test";

/* --- the hub ---------------------------------------------------------------------------------- */

/* What the hub does at the next complete. */
enum hub_mood {
	HUB_SAYS_YES,
	HUB_SAYS_NO,	       /* 409 */
	HUB_COMMITS_AND_KILLS, /* the point is kept, and the agent is gone before it hears so */
	HUB_KILLS,	       /* the agent is gone, the point is not kept */
	HUB_NOT_STRINGS,       /* change id questions are answered with a number in it */
};

static struct {
	struct MHD_Daemon *daemon;
	unsigned port;
	pthread_mutex_t lock;
	enum hub_mood mood;
	bool full;			/* the running job is a full: no change id is told */
	char change[DISKS][CHANGE_MAX]; /* of the last point of each disk */
	int asked[DISKS], completed[DISKS];
	json_int_t sent[DISKS];
	char last_job[80];
	json_t *last_telemetry;
	pid_t agent; /* to be killed */
} hub;

struct hub_body {
	char text[16384];
	size_t len;
};

static enum MHD_Result hub_answer(struct MHD_Connection *conn, unsigned status, json_t *obj)
{
	char *text = json_dumps(obj, JSON_COMPACT);
	struct MHD_Response *r =
		MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
	enum MHD_Result rc = MHD_queue_response(conn, status, r);

	MHD_destroy_response(r);
	json_decref(obj);
	return rc;
}

/* Hub rules a to e of the contract, for the one VM there is. */
static enum MHD_Result hub_change_id(struct MHD_Connection *conn)
{
	const char *name = MHD_lookup_connection_value(conn, MHD_GET_ARGUMENT_KIND, "vm_name");
	const char *disk = MHD_lookup_connection_value(conn, MHD_GET_ARGUMENT_KIND, "disk_id");
	int n = disk ? atoi(disk) : -1;

	if (!name || strcmp(name, vm_name) != 0 || n < 0 || n >= DISKS)
		return hub_answer(conn, 404, json_pack("{s:s}", "error", "unknown disk"));
	hub.asked[n]++;
	if (hub.mood == HUB_NOT_STRINGS)
		return hub_answer(conn, 200,
				  json_pack("{s:s,s:i}", "change_id", hub.change[n], "disk_id", n));
	return hub_answer(conn, 200,
			  json_pack("{s:s,s:s,s:s,s:s}", "vm_name", name, "disk_id", disk,
				    "change_id", hub.full ? "" : hub.change[n], "message", "m"));
}

static enum MHD_Result hub_complete(struct MHD_Connection *conn, const char *url, json_t *body)
{
	const char *id = json_string_value(json_object_get(body, "change_id"));
	json_int_t n = json_integer_value(json_object_get(body, "disk_id"));

	sscanf(url, "/api/v1/backups/%79[^/]/complete", hub.last_job);
	if (!id || !id[0] || strlen(id) >= CHANGE_MAX || n < 0 || n >= DISKS ||
	    !json_is_integer(json_object_get(body, "disk_id")))
		return hub_answer(conn, 400, json_pack("{s:s}", "error", "bad complete"));
	if (hub.mood == HUB_SAYS_NO)
		return hub_answer(conn, 409, json_pack("{s:s}", "error", "the disk has failed"));
	if (hub.mood != HUB_KILLS) {
		strcpy(hub.change[n], id);
		hub.sent[n] = json_integer_value(json_object_get(body, "bytes_transferred"));
		hub.completed[n]++;
	}
	if (hub.mood == HUB_KILLS || hub.mood == HUB_COMMITS_AND_KILLS)
		kill(hub.agent, SIGKILL);
	return hub_answer(conn, 200, json_pack("{s:s}", "status", "completed"));
}

static enum MHD_Result hub_route(struct MHD_Connection *conn, const char *method, const char *url,
				 json_t *body)
{
	if (strcmp(method, "GET") == 0 && strcmp(url, "/api/v1/backups/changeid") == 0)
		return hub_change_id(conn);
	if (strcmp(method, "POST") == 0 && strstr(url, "/complete"))
		return hub_complete(conn, url, body);
	if (strcmp(method, "POST") == 0 && strncmp(url, "/api/v1/telemetry/backup/", 25) == 0) {
		json_decref(hub.last_telemetry);
		hub.last_telemetry = json_incref(body);
		return hub_answer(conn, 200, json_pack("{s:s}", "status", "ok"));
	}
	return hub_answer(conn, 404, json_pack("{s:s}", "error", "no such call"));
}

static enum MHD_Result hub_on_request(void *cls, struct MHD_Connection *conn, const char *url,
				      const char *method, const char *version, const char *upload,
				      size_t *upload_len, void **state)
{
	struct hub_body *b = *state;
	enum MHD_Result rc;
	json_t *body;

	(void)cls, (void)version;
	if (!b) {
		*state = calloc(1, sizeof(*b));
		return MHD_YES;
	}
	if (*upload_len) {
		if (*upload_len > sizeof(b->text) - b->len)
			return MHD_NO;
		memcpy(b->text + b->len, upload, *upload_len);
		b->len += *upload_len;
		*upload_len = 0;
		return MHD_YES;
	}
	body = json_loadb(b->text, b->len, 0, NULL);
	pthread_mutex_lock(&hub.lock);
	rc = hub_route(conn, method, url, body);
	json_decref(body);
	pthread_mutex_unlock(&hub.lock);
	return rc;
}

static void hub_on_completed(void *cls, struct MHD_Connection *conn, void **state,
			     enum MHD_RequestTerminationCode code)
{
	(void)cls, (void)conn, (void)code;
	free(*state);
}

static void hub_start(void)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

	pthread_mutex_init(&hub.lock, NULL);
	hub.daemon = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL, 0, NULL, NULL,
				      hub_on_request, NULL, MHD_OPTION_SOCK_ADDR, &sa,
				      MHD_OPTION_NOTIFY_COMPLETED, hub_on_completed, NULL,
				      MHD_OPTION_END);
	assert_non_null(hub.daemon);
	hub.port = MHD_get_daemon_info(hub.daemon, MHD_DAEMON_INFO_BIND_PORT)->port;
}

/* What the hub's thread has done is seen from here on, and it sees what this thread did: the other
 * process in between is no order between the two. */
static void hub_sync(void)
{
	pthread_mutex_lock(&hub.lock);
	pthread_mutex_unlock(&hub.lock);
}

static bool hub_heard_status(const char *status)
{
	bool heard;

	pthread_mutex_lock(&hub.lock);
	heard = hub.last_telemetry &&
		strcmp(json_string_value(json_object_get(hub.last_telemetry, "status")), status) ==
			0;
	pthread_mutex_unlock(&hub.lock);
	return heard;
}

static bool hub_heard_phase(const char *phase)
{
	bool heard;

	pthread_mutex_lock(&hub.lock);
	heard = hub.last_telemetry &&
		strcmp(json_string_value(json_object_get(hub.last_telemetry, "current_phase")),
		       phase) == 0;
	pthread_mutex_unlock(&hub.lock);
	return heard;
}

static void hub_forget(void)
{
	hub.mood = HUB_SAYS_YES;
	hub.full = false;
	memset(hub.change, 0, sizeof(hub.change));
	memset(hub.asked, 0, sizeof(hub.asked));
	memset(hub.completed, 0, sizeof(hub.completed));
	memset(hub.sent, 0, sizeof(hub.sent));
	json_decref(hub.last_telemetry);
	hub.last_telemetry = NULL;
}

/* --- the agent -------------------------------------------------------------------------------- */

static struct {
	pid_t pid;
	char url[64];
	const char *parallel; /* --parallel-disks */
} agent = {.parallel = "1"};

static const char *agent_program(char buf[500])
{
	const char *build = getenv("BUILD");

	assert_non_null(build);
	snprintf(buf, 500, "%s/bin/sendense-agent", build);
	return buf;
}

static void agent_start(void)
{
	char program[500], hub_url[64], line[128] = "";
	char *argv[] = {(char *)agent_program(program),
			"--inventory",
			"inventory.json",
			"--listen",
			"127.0.0.1:0",
			"--hub-url",
			hub_url,
			"--state-dir",
			"state",
			"--parallel-disks",
			(char *)agent.parallel,
			NULL};
	int out[2];
	FILE *f;

	snprintf(hub_url, sizeof(hub_url), "http://127.0.0.1:%u/", hub.port);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	agent.pid = kit_spawn(argv, out[1]);
	close(out[1]);
	f = fdopen(out[0], "r");
	assert_non_null(fgets(line, sizeof(line), f));
	fclose(f);
	assert_int_equal(sscanf(line, "sendense-agent ready on %63s", agent.url), 1);
	hub.agent = agent.pid;
}

static void agent_end(void)
{
	if (agent.pid)
		assert_int_equal(kit_kill(agent.pid, SIGTERM), 0);
	hub_sync();
	agent.pid = 0;
}

struct answer {
	long status;
	char *text; /* NUL-terminated */
	size_t len;
	json_t *json; /* NULL: none */
};

static size_t on_data(char *data, size_t size, size_t n, void *arg)
{
	struct answer *a = arg;

	a->text = realloc(a->text, a->len + size * n + 1);
	memcpy(a->text + a->len, data, size * n);
	a->len += size * n;
	a->text[a->len] = '\0';
	return size * n;
}

static void answer_free(struct answer *a)
{
	free(a->text);
	json_decref(a->json);
}

/* @body NULL: GET. */
static struct answer call(const char *path, const char *body)
{
	struct answer a = {0};
	CURL *curl = curl_easy_init();
	char url[300];

	hub_sync();
	snprintf(url, sizeof(url), "%s%s", agent.url, path);
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_PROXY, "");
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, &a);
	if (body)
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
	if (curl_easy_perform(curl) == CURLE_OK)
		curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &a.status);
	curl_easy_cleanup(curl);
	hub_sync();
	a.json = a.text ? json_loads(a.text, 0, NULL) : NULL;
	return a;
}

/* --- the VM, its targets, a backup ------------------------------------------------------------ */

static char target_sock[32];
static pid_t target_pid;

static void write_text(const char *name, const char *text)
{
	unlink(name);
	kit_write(name, 0, text, strlen(text));
}

/* Two disks; @disks is the JSON between the brackets, with %s for the folder. */
static void write_inventory(const char *disks)
{
	_cleanup_(freep) char *text = NULL;
	char cwd[400];
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);

	assert_non_null(getcwd(cwd, sizeof(cwd)));
	fprintf(f,
		"{\"vms\":[{\"name\":\"%s\",\"id\":\"uuid-1\",\"path\":\"%s\",\"guest_os\":\"deb\","
		"\"memory_mb\":512,\"num_cpu\":2,\"datacenter\":\"dc\",\"disks\":[",
		vm_name, vm_path);
	for (; *disks; disks++) {
		if (*disks == '@')
			fputs(cwd, f);
		else
			fputc(*disks, f);
	}
	fputs("]}]}", f);
	fclose(f);
	write_text("inventory.json", text);
}

static const char two_raw_disks[] =
	"{\"key\":2000,\"label\":\"root\",\"source\":\"@/a.raw\",\"format\":\"raw\"},"
	"{\"key\":2016,\"label\":\"data\",\"source\":\"@/b.raw\",\"format\":\"raw\"}";

static void make_disks(void)
{
	kit_make("a.raw", 24 * MIB + 512);
	kit_random("a.raw", 0, 6 * MIB, 1);
	kit_random("a.raw", 20 * MIB, MIB, 2);
	kit_make("b.raw", 5 * MIB + 33 * 512);
	kit_random("b.raw", 3 * MIB, 2 * MIB + 33 * 512, 3);
}

/* One server for both exports: nbdkit serves the files of a folder by name. */
static void targets_start(char *const filters[])
{
	char *argv[16] = {"nbdkit", "-f", "-U", target_sock};
	size_t n = 4;
	static unsigned nr;

	snprintf(target_sock, sizeof(target_sock), "t%u", ++nr);
	for (size_t i = 0; filters && filters[i] && filters[i][0] == '-'; i++)
		argv[n++] = filters[i];
	argv[n++] = "file";
	argv[n++] = "dir=targets";
	for (size_t i = 0; filters && filters[i]; i++)
		if (filters[i][0] != '-')
			argv[n++] = filters[i];
	target_pid = kit_server(target_sock, argv);
}

static void targets_tell(char command)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX, .sun_path = "control"};
	_cleanup_(closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char said;

	assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(write(fd, &command, 1), 1);
	assert_int_equal(read(fd, &said, 1), 1);
	assert_int_equal(said, command - 'a' + 'A');
}

/* Servers that take requests and do nothing until they are told to go on. */
static void targets_start_paused(void)
{
	char path[500], control[600];
	char *filters[] = {"--filter=pause", control, NULL};

	unlink("control");
	snprintf(control, sizeof(control), "pause-control=%s",
		 kit_path("control", path, sizeof(path)));
	targets_start(filters);
	targets_tell('p');
}

/* A paused server does not end by SIGTERM. */
static void targets_stop(void)
{
	if (target_pid)
		kit_kill(target_pid, SIGKILL);
	target_pid = 0;
}

static void targets_empty(void)
{
	kit_make("targets/backup-disk0", 24 * MIB + 512);
	kit_make("targets/backup-disk1", 5 * MIB + 33 * 512);
}

/* What a hub sends with a start. @change replaces one member (NULL: taken out). */
static char *start_body(const char *job, const char *type, const char *member, const char *change)
{
	char uri0[600], uri1[600], targets[1300];
	json_t *body;
	char *text;

	kit_uri(target_sock, "backup-disk0", uri0, sizeof(uri0));
	kit_uri(target_sock, "backup-disk1", uri1, sizeof(uri1));
	snprintf(targets, sizeof(targets), "2016:%s,2000:%s", uri1, uri0);
	body = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:s}", "job_id", job, "vm_name", vm_name,
			 "vcenter_host", "vc", "vcenter_user", "root", "vcenter_password",
			 "hunter2", "vm_path", vm_path, "nbd_targets", targets, "backup_type", type,
			 "previous_change_id", "PLACEHOLDER");
	if (member && change)
		json_object_set_new(body, member, json_string(change));
	else if (member)
		json_object_del(body, member);
	text = json_dumps(body, 0);
	json_decref(body);
	return text;
}

static void assert_started(const char *job, const char *type)
{
	_cleanup_(freep) char *body = start_body(job, type, NULL, NULL);
	_cleanup_(answer_free) struct answer a = call("/api/v1/backup/start", body);

	if (a.status != 200)
		fail_msg("start: %ld %s", a.status, a.text);
	assert_string_equal(json_string_value(json_object_get(a.json, "job_id")), job);
	assert_string_equal(json_string_value(json_object_get(a.json, "status")), "started");
	assert_int_equal(json_integer_value(json_object_get(a.json, "pid")), agent.pid);
}

/* The job's /progress once it has ended; the caller frees it. */
static struct answer job_end(const char *job)
{
	int64_t deadline = kit_now_ms() + KIT_DEADLINE_MS;
	char path[200];

	snprintf(path, sizeof(path), "/api/v1/progress/%s", job);
	for (;;) {
		struct answer a = call(path, NULL);
		const char *status = json_string_value(json_object_get(a.json, "status"));

		if (!status || strcmp(status, "running") != 0)
			return a;
		answer_free(&a);
		if (kit_now_ms() > deadline)
			fail_msg("job %s does not end", job);
		poll(NULL, 0, 10);
	}
}

static const char *text_at(json_t *obj, const char *key)
{
	const char *s = json_string_value(json_object_get(obj, key));

	return s ? s : "";
}

static json_t *disk_of(const struct answer *a, int n)
{
	return json_array_get(json_object_get(a->json, "disk_progresses"), (size_t)n);
}

/* Runs a backup to its end; each disk must have been copied as @how0 and @how1 say. */
static void backup_kinds(const char *job, const char *type, const char *how0, const char *how1)
{
	_cleanup_(answer_free) struct answer a = {0};

	hub.full = strcmp(type, "full") == 0;
	assert_started(job, type);
	a = job_end(job);
	if (strcmp(text_at(a.json, "status"), "completed") != 0)
		fail_msg("job %s: %s", job, a.text);
	assert_string_equal(text_at(disk_of(&a, 0), "sync_type"), how0);
	assert_string_equal(text_at(disk_of(&a, 1), "sync_type"), how1);
	assert_true(json_number_value(json_object_get(a.json, "percentage")) == 100);
	assert_string_equal(hub.last_job, job);
}

static void backup(const char *job, const char *type)
{
	backup_kinds(job, type, type, type);
}

static void assert_targets_equal_sources(void)
{
	kit_assert_equal_files("a.raw", "targets/backup-disk0");
	kit_assert_equal_files("b.raw", "targets/backup-disk1");
}

/* The job must fail; the sentence must contain @says, here and in telemetry. */
static void assert_job_fails(const char *job, const char *says)
{
	_cleanup_(answer_free) struct answer a = job_end(job);
	const char *message = text_at(json_object_get(a.json, "error"), "message");

	if (strcmp(text_at(a.json, "status"), "failed") != 0 || !strstr(message, says))
		fail_msg("job %s does not say \"%s\": %s", job, says, a.text);
	kit_wait_until(hub_heard_status("failed"));
	assert_string_equal(text_at(json_object_get(hub.last_telemetry, "error"), "message"),
			    message);
}

static json_t *discovered(struct answer *a, const char *body)
{
	*a = call("/api/v1/discover", body);
	assert_int_equal(a->status, 200);
	return json_object_get(a->json, "vms");
}

static uint64_t sequence_of(const char *change)
{
	return strtoull(strchr(change, '/') + 1, NULL, 10);
}

/* Two disks, fresh targets, and an agent that knows nothing. */
static int world_setup(void **state)
{
	(void)state;
	hub_forget();
	assert_int_equal(scratch_run("rm -rf state targets && mkdir targets"), 0);
	agent.parallel = "1";
	make_disks();
	write_inventory(two_raw_disks);
	targets_empty();
	targets_start(NULL);
	agent_start();
	return 0;
}

static int world_teardown(void **state)
{
	(void)state;
	agent_end();
	targets_stop();
	return 0;
}

/* --- backups ---------------------------------------------------------------------------------- */

static void a_full_and_incrementals_equal_the_disks(void **state)
{
	char first[DISKS][CHANGE_MAX];

	(void)state;
	backup("backup-1", "full");
	assert_targets_equal_sources();
	assert_int_equal(hub.sent[0], 7 * MIB);
	memcpy(first, hub.change, sizeof(first));
	assert_string_not_equal(first[0], first[1]);
	for (int i = 2; i < 7; i++) {
		char job[32];

		snprintf(job, sizeof(job), "backup-%d", i);
		kit_random("a.raw", (uint64_t)i * MIB + 512, 512, (uint64_t)i);
		kit_punch("a.raw", (uint64_t)(i - 2) * MIB, 128 * KIB);
		if (i % 2)
			kit_random("b.raw", 5 * MIB + 32 * 512, 512, (uint64_t)i);
		backup(job, "incremental");
		assert_targets_equal_sources();
		assert_in_range(hub.sent[0], 512, 4 * 65536);
		assert_int_equal(hub.sent[1], i % 2 ? 33 * 512 : 0);
		assert_int_equal(sequence_of(hub.change[0]), i);
		assert_memory_equal(hub.change[0], first[0], 36);
		assert_memory_equal(hub.change[1], first[1], 36);
	}
	/* Each disk asked once, by its own number. */
	assert_int_equal(hub.asked[0], 6);
	assert_int_equal(hub.asked[1], 6);
}

static void disks_can_be_copied_at_once(void **state)
{
	(void)state;
	agent_end();
	agent.parallel = "4";
	agent_start();
	backup("backup-1", "full");
	assert_targets_equal_sources();
	kit_random("b.raw", 0, 4096, 9);
	backup("backup-2", "incremental");
	assert_targets_equal_sources();
}

static void a_restarted_agent_goes_on_with_incrementals(void **state)
{
	(void)state;
	backup("backup-1", "full");
	agent_end();
	agent_start();
	kit_random("a.raw", 10 * MIB, 4096, 9);
	backup("backup-2", "incremental");
	assert_targets_equal_sources();
	assert_int_equal(hub.sent[0], 65536);
}

static void agent_killed_by_hub(const char *job, enum hub_mood mood)
{
	hub.mood = mood;
	hub.full = false;
	assert_started(job, "incremental");
	assert_int_equal(kit_reap(agent.pid), 128 + SIGKILL);
	hub_sync();
	agent.pid = 0;
	hub.mood = HUB_SAYS_YES;
	agent_start();
}

static void an_agent_killed_around_complete_loses_no_change(void **state)
{
	(void)state;
	backup("backup-1", "full");
	kit_random("a.raw", 10 * MIB, 4096, 9);
	agent_killed_by_hub("backup-2", HUB_COMMITS_AND_KILLS);
	assert_int_equal(hub.completed[0], 2);
	kit_random("a.raw", 12 * MIB, 4096, 10);
	backup("backup-3", "incremental");
	assert_targets_equal_sources();
	assert_int_equal(hub.sent[0], 65536); /* nothing of backup-2 again */

	/* The other way round: the hub does not have the point, and its image is thrown away. */
	kit_random("a.raw", 14 * MIB, 4096, 11);
	assert_int_equal(scratch_run("cp --sparse=always targets/backup-disk0 saved"), 0);
	agent_killed_by_hub("backup-4", HUB_KILLS);
	assert_int_equal(scratch_run("cp --sparse=always saved targets/backup-disk0"), 0);
	backup("backup-5", "incremental");
	assert_targets_equal_sources();
	assert_int_equal(hub.sent[0], 65536);
}

static void a_copy_over_an_unknown_point_covers_all_of_it(void **state)
{
	(void)state;
	backup("backup-1", "full");
	agent_end();
	assert_int_equal(scratch_run("rm -r state"), 0);
	agent_start();
	/* What the parent point has where the disk has holes must not shine through. */
	kit_random("targets/backup-disk0", 0, 24 * MIB, 70);
	kit_random("targets/backup-disk1", 0, 5 * MIB, 71);
	backup_kinds("backup-2", "incremental", "full", "full");
	assert_targets_equal_sources();
	assert_int_equal(sequence_of(hub.change[0]), 1);
}

static void an_answer_with_a_number_means_a_full_copy(void **state)
{
	(void)state;
	backup("backup-1", "full");
	hub.mood = HUB_NOT_STRINGS;
	backup_kinds("backup-2", "incremental", "full", "full");
	assert_targets_equal_sources();
}

static void qcow2_files_and_bitmaps_are_backed_up(void **state)
{
	(void)state;
	assert_int_equal(scratch_run("qemu-img convert -f raw -O qcow2 a.raw a.qcow2 && "
				     "qemu-img convert -f raw -O qcow2 b.raw b.qcow2 && "
				     "qemu-img bitmap --add -g 65536 b.qcow2 b0"),
			 0);
	write_inventory("{\"key\":2000,\"source\":\"@/a.qcow2\",\"format\":\"qcow2\"},"
			"{\"key\":2016,\"source\":\"@/b.qcow2\",\"format\":\"qcow2\","
			"\"bitmap\":\"b0\"}");
	backup("backup-1", "full");
	assert_targets_equal_sources();
	assert_int_equal(scratch_run("qemu-io -c 'write -P 5 1M 64k' a.qcow2 && "
				     "qemu-io -c 'write -P 6 64k 64k' -c 'write -z 4M 64k' "
				     "b.qcow2 && qemu-img convert -O raw a.qcow2 a.raw && "
				     "qemu-img convert -O raw b.qcow2 b.raw"),
			 0);
	backup("backup-2", "incremental");
	assert_targets_equal_sources();
	assert_int_equal(hub.sent[0], 65536);
	assert_int_equal(hub.sent[1], 65536);
}

/* --- a running VM ----------------------------------------------------------------------------- */

/*
 * The VM is a qemu-storage-daemon: the block layer, jobs and monitor of QEMU without a CPU. Its
 * guest writes through FUSE. What the guest writes goes to the raw files here too, as the truth.
 */
static pid_t qemu_pid;

static void qemu_start(void)
{
	char *argv[] = {"qemu-storage-daemon",
			"--blockdev",
			"driver=file,node-name=file0,filename=vm0.qcow2",
			"--blockdev",
			"driver=qcow2,node-name=disk0,file=file0,discard=unmap",
			"--blockdev",
			"driver=file,node-name=disk1,filename=vm1.raw",
			"--chardev",
			"socket,id=qmp,path=qmp.sock,server=on,wait=off",
			"--monitor",
			"qmp",
			"--export",
			"fuse,id=g0,node-name=disk0,mountpoint=guest0,writable=on,growable=off",
			"--export",
			"fuse,id=g1,node-name=disk1,mountpoint=guest1,writable=on,growable=off",
			NULL};
	struct stat st;

	kit_make("guest0", 0);
	kit_make("guest1", 0);
	unlink("qmp.sock");
	qemu_pid = kit_spawn(argv, -1);
	kit_wait_until(stat("guest1", &st) == 0 && st.st_size > 0 && access("qmp.sock", F_OK) == 0);
}

static void qemu_stop(int sig)
{
	if (qemu_pid)
		kit_kill(qemu_pid, sig);
	qemu_pid = 0;
	assert_int_equal(scratch_run("umount -l guest0 guest1 2>/dev/null; true"), 0);
}

static int live_setup(void **state)
{
	world_setup(state);
	assert_int_equal(scratch_run("qemu-img convert -f raw -O qcow2 a.raw vm0.qcow2 && "
				     "cp --sparse=always b.raw vm1.raw"),
			 0);
	write_text("inventory.json", "");
	write_inventory("{\"key\":2000,\"label\":\"root\",\"source\":\"qemu:disk0\"},"
			"{\"key\":2016,\"label\":\"data\",\"source\":\"qemu:disk1\"}");
	assert_int_equal(scratch_run("sed -i 's|\"id\":\"uuid-1\"|&,\"qmp\":\"'$PWD'/qmp.sock\"|' "
				     "inventory.json"),
			 0);
	return 0;
}

static int live_teardown(void **state)
{
	qemu_stop(SIGKILL);
	return world_teardown(state);
}

/* FUSE needs privileges not every machine gives a test. */
#define NEEDS_FUSE()                                                                               \
	do {                                                                                       \
		if (access("/dev/fuse", R_OK | W_OK) < 0 || geteuid() != 0 ||                      \
		    system("command -v qemu-storage-daemon >/dev/null") != 0)                      \
			skip();                                                                    \
		qemu_start();                                                                      \
	} while (0)

/* Nothing of the agent's is in QEMU or in the scratch folder, but bitmaps. */
static void assert_nothing_left(void)
{
	static const char *const queries[] = {"query-jobs", "query-block-exports",
					      "query-named-block-nodes"};
	_cleanup_(freep) char *files = scratch_output("ls state/.scratch");
	struct agent_qmp *q = NULL;
	struct err err = ERR_INIT;

	assert_string_equal(files, "");
	if (agent_qmp_open(&q, "qmp.sock", NULL, &err))
		fail_msg("%s", err.text);
	for (size_t i = 0; i < ARRAY_SIZE(queries); i++) {
		_cleanup_(freep) char *text = NULL;
		json_t *answer = NULL, *entry;
		size_t k;

		assert_int_equal(agent_qmp_call(q, queries[i], NULL, &answer, NULL), 0);
		json_array_foreach(answer, k, entry)
		{
			json_object_del(entry, "dirty-bitmaps");
			json_object_del(entry, "image");
		}
		text = json_dumps(answer, 0);
		json_decref(answer);
		if (strstr(text, "sendense-"))
			fail_msg("%s: %s", queries[i], text);
	}
	agent_qmp_close(q);
}

static void a_running_vm_is_backed_up_as_of_one_instant(void **state)
{
	_cleanup_(answer_free) struct answer a = {0};

	(void)state;
	NEEDS_FUSE();
	targets_stop();
	targets_start_paused();
	hub.full = true;
	assert_started("backup-1", "full");
	kit_wait_until(hub_heard_phase("transferring"));
	/* From here on nothing the guest does belongs to the point. */
	kit_random("guest0", 2 * MIB, 128 * KIB, 80);
	kit_random("guest1", 3 * MIB, 512, 81);
	kit_random("guest0", 15 * MIB, 4096, 82);
	targets_tell('r');
	a = job_end("backup-1");
	assert_string_equal(text_at(a.json, "status"), "completed");
	assert_targets_equal_sources();
	assert_nothing_left();

	kit_random("a.raw", 2 * MIB, 128 * KIB, 80);
	kit_random("b.raw", 3 * MIB, 512, 81);
	kit_random("a.raw", 15 * MIB, 4096, 82);
	backup("backup-2", "incremental");
	assert_targets_equal_sources();
	assert_int_equal(hub.sent[0], 3 * 65536);
	assert_int_equal(hub.sent[1], 65536);
	backup("backup-3", "incremental");
	assert_targets_equal_sources();
	assert_int_equal(hub.sent[0] + hub.sent[1], 0);
	assert_nothing_left();
}

static void guest_writes(uint64_t off, uint64_t seed)
{
	kit_random("guest0", off, 4096, seed);
	kit_random("a.raw", off, 4096, seed);
}

static void a_failed_live_backup_costs_the_next_nothing(void **state)
{
	(void)state;
	NEEDS_FUSE();
	backup("backup-1", "full");
	guest_writes(10 * MIB, 90);
	hub.mood = HUB_SAYS_NO;
	hub.full = false;
	assert_started("backup-2", "incremental");
	assert_job_fails("backup-2", "409");
	assert_nothing_left();
	hub.mood = HUB_SAYS_YES;
	guest_writes(12 * MIB, 91);
	/* What the failed one wrote into its overlay is thrown away with it. */
	kit_zeroes("targets/backup-disk0", 10 * MIB, 65536);
	backup("backup-3", "incremental");
	assert_targets_equal_sources();
	assert_int_equal(hub.sent[0], 2 * 65536);
}

static void a_killed_agent_clears_the_vm_at_its_next_start(void **state)
{
	(void)state;
	NEEDS_FUSE();
	backup("backup-1", "full");
	guest_writes(10 * MIB, 90);
	agent_killed_by_hub("backup-2", HUB_COMMITS_AND_KILLS);
	assert_nothing_left();
	guest_writes(12 * MIB, 91);
	backup("backup-3", "incremental");
	assert_targets_equal_sources();
	assert_int_equal(hub.sent[0], 65536); /* backup-2 has the first */
}

static void bitmaps_of_qcow2_disks_survive_the_vms_stop(void **state)
{
	(void)state;
	NEEDS_FUSE();
	backup("backup-1", "full");
	guest_writes(10 * MIB, 90);
	qemu_stop(SIGTERM);
	qemu_start();
	guest_writes(12 * MIB, 91);
	/* The raw disk's bitmap is gone with the process: that disk is copied in full. */
	backup_kinds("backup-2", "incremental", "incremental", "full");
	assert_targets_equal_sources();
	assert_int_equal(hub.sent[0], 2 * 65536);
	backup("backup-3", "incremental");
}

static void a_vm_that_is_off_is_said(void **state)
{
	_cleanup_(answer_free) struct answer a = {0};

	(void)state;
	hub.full = true;
	assert_started("backup-1", "full");
	assert_job_fails("backup-1", "is the VM running?");
	assert_int_equal(json_array_size(discovered(&a, "{}")), 0);
	assert_non_null(strstr(a.text, "qmp.sock"));
}

/* --- failures --------------------------------------------------------------------------------- */

static void a_refused_complete_fails_the_job_and_spares_the_other_disk(void **state)
{
	(void)state;
	hub.mood = HUB_SAYS_NO;
	hub.full = true;
	assert_started("backup-1", "full");
	assert_job_fails("backup-1", "disk 0 (key 2000");
	assert_int_equal(hub.completed[1], 0);
	hub.mood = HUB_SAYS_YES;
	backup("backup-2", "full");
	assert_targets_equal_sources();
}

static void a_failing_target_fails_the_job_with_the_reason(void **state)
{
	char *filters[] = {"--filter=error", "error-pwrite=ENOSPC", "error-pwrite-rate=100%", NULL};

	(void)state;
	backup("backup-1", "full");
	kit_random("a.raw", 10 * MIB, 4096, 9);
	targets_stop();
	targets_start(filters);
	hub.full = false;
	assert_started("backup-2", "incremental");
	assert_job_fails("backup-2", "write of 65536 bytes at offset 10485760: ENOSPC (No space "
				     "left on device)");
	targets_stop();
	targets_start(NULL);
	backup("backup-3", "incremental");
	assert_targets_equal_sources();
}

static void a_hub_that_goes_away_mid_copy_fails_the_job(void **state)
{
	(void)state;
	targets_stop();
	targets_start_paused();
	hub.full = true;
	assert_started("backup-1", "full");
	kit_wait_until(hub_heard_phase("transferring"));
	kit_kill(target_pid, SIGKILL);
	target_pid = 0;
	assert_job_fails("backup-1", "disk 0");
	targets_start(NULL);
	targets_empty();
	backup("backup-2", "full");
	assert_targets_equal_sources();
}

static void sigterm_mid_copy_fails_the_job_and_ends_in_order(void **state)
{
	(void)state;
	targets_stop();
	targets_start_paused();
	hub.full = true;
	assert_started("backup-1", "full");
	kit_wait_until(hub_heard_phase("transferring"));
	agent_end();
	assert_string_equal(text_at(hub.last_telemetry, "status"), "failed");
	assert_non_null(strstr(text_at(json_object_get(hub.last_telemetry, "error"), "message"),
			       "stopped"));
	agent_start();
}

static void two_backups_of_one_vm_do_not_run_at_once(void **state)
{
	_cleanup_(freep) char *same = NULL, *other = NULL;
	_cleanup_(answer_free) struct answer a = {0}, b = {0}, end = {0}, c = {0};

	(void)state;
	targets_stop();
	targets_start_paused();
	hub.full = true;
	assert_started("backup-1", "full");
	same = start_body("backup-1", "full", NULL, NULL);
	other = start_body("backup-2", "full", NULL, NULL);
	a = call("/api/v1/backup/start", same);
	assert_int_equal(a.status, 409);
	b = call("/api/v1/backup/start", other);
	assert_int_equal(b.status, 409);
	assert_non_null(strstr(text_at(b.json, "error"), "backup-1"));
	targets_tell('r');
	end = job_end("backup-1");
	assert_string_equal(text_at(end.json, "status"), "completed");
	c = call("/api/v1/backup/start", same);
	assert_int_equal(c.status, 409);
}

/* --- the API ---------------------------------------------------------------------------------- */

static const struct {
	const char *member, *value, *says;
} refusals[] = {
	{"job_id", NULL, "job_id is required"},
	{"job_id", "", "job_id is required"},
	{"job_id", "replication-1", "must start with \"backup-\""},
	{"job_id", "backup-../../x", "must start with \"backup-\""},
	{"vm_name", NULL, "vm_name is required"},
	{"vcenter_host", NULL, "vcenter_host is required"},
	{"vcenter_password", NULL, "vcenter_password is required"},
	{"vm_path", "/dc/vm/other", "not in this agent's inventory"},
	{"nbd_targets", NULL, "nbd_targets is required"},
	{"nbd_targets", "2000:nbd://127.0.0.1:1/backup-disk0", "no entry for disk 2016"},
	{"nbd_targets", "2000:nbd://127.0.0.1:1/backup", "must end in \"disk<N>\""},
	{"backup_type", "differential", "\"full\" or \"incremental\""},
	{"previous_change_id", NULL, "previous_change_id is required"},
};

static void a_bad_start_is_refused_in_plain_text(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(refusals); i++) {
		_cleanup_(freep) char *body = start_body("backup-x", "incremental",
							 refusals[i].member, refusals[i].value);
		_cleanup_(answer_free) struct answer a = call("/api/v1/backup/start", body);

		assert_int_equal(a.status, 400);
		assert_null(a.json);
		if (!strstr(a.text, refusals[i].says))
			fail_msg("\"%s\" does not say \"%s\"", a.text, refusals[i].says);
		assert_null(strstr(a.text, "hunter2"));
	}
}

static const struct {
	const char *path, *body;
	long status;
} calls[] = {
	{"/api/v1/health", NULL, 200},
	{"/health", NULL, 200},
	{"/api/v1/progress/backup-none", NULL, 404},
	{"/api/v1/progress/", NULL, 404},
	{"/api/v1/status/backup-none", NULL, 404},
	{"/api/v1/cleanup", "{\"job_id\":\"x\",\"action\":\"cleanup_all\"}", 200},
	{"/api/v1/cleanup", "{\"job_id\":\"x\",\"action\":\"delete_snapshot\"}", 500},
	{"/api/v1/cleanup", "{}", 400},
	{"/api/v1/backup/start", "", 400},
	{"/api/v1/backup/start", "[]", 400},
	{"/api/v1/backup/start", "{\"job_id\":", 400},
	{"/api/v1/backup/start", NULL, 405},
	{"/api/v1/discover", "no json", 400},
	{"/api/v1/replicate", "{}", 501},
	{"/api/v1/vms/dc/vm/x/cbt-status?vcenter=v", NULL, 501},
	{"/api/v1/enrollment/enroll", "{}", 501},
	{"/api/v1/other", NULL, 404},
	{"/", NULL, 404},
};

static void every_call_has_its_polite_answer(void **state)
{
	_cleanup_(freep) char *big = malloc(400 * KIB);
	_cleanup_(answer_free) struct answer b = {0};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
		_cleanup_(answer_free) struct answer a = call(calls[i].path, calls[i].body);

		if (a.status != calls[i].status)
			fail_msg("%s: %ld instead of %ld", calls[i].path, a.status,
				 calls[i].status);
		assert_true(json_is_object(a.json));
		if (a.status >= 400)
			assert_true(text_at(a.json, "error")[0]);
	}
	memset(big, ' ', 400 * KIB);
	big[400 * KIB - 1] = '\0';
	b = call("/api/v1/discover", big);
	assert_int_equal(b.status, 413);
}

static void discovery_tells_real_sizes_and_sees_new_disks(void **state)
{
	static const char ask[] = "{\"vcenter\":\"vc\",\"username\":\"u\",\"password\":\"hunter2\","
				  "\"datacenter\":\"dc\"}";
	_cleanup_(answer_free) struct answer a = {0}, b = {0}, c = {0}, d = {0}, e = {0};
	json_t *vm, *disk;

	(void)state;
	vm = json_array_get(discovered(&a, ask), 0);
	assert_string_equal(text_at(vm, "name"), vm_name);
	assert_string_equal(text_at(vm, "path"), vm_path);
	assert_string_equal(text_at(json_object_get(a.json, "vcenter"), "host"), "vc");
	assert_int_equal(json_integer_value(json_object_get(vm, "num_cpu")), 2);
	assert_int_equal(json_array_size(json_object_get(vm, "disks")), 2);
	disk = json_array_get(json_object_get(vm, "disks"), 1);
	assert_string_equal(text_at(disk, "id"), "disk-2016");
	assert_string_equal(text_at(disk, "label"), "data");
	assert_int_equal(json_integer_value(json_object_get(disk, "capacity_bytes")),
			 5 * MIB + 33 * 512);
	assert_int_equal(json_integer_value(json_object_get(disk, "size_gb")), 1);
	assert_null(strstr(a.text, "hunter2"));

	assert_int_equal(json_array_size(discovered(&b, "{\"filter\":\"PG\"}")), 1);
	assert_int_equal(json_array_size(discovered(&c, "{\"filter\":\"web\"}")), 0);
	assert_int_equal(json_array_size(discovered(&d, "{\"datacenter\":\"other\"}")), 0);

	/* A third disk, of odd bytes: its guest sees whole sectors. */
	kit_make("c.raw", 1000);
	write_inventory("{\"key\":1,\"source\":\"@/a.raw\",\"format\":\"raw\"},"
			"{\"key\":2,\"source\":\"@/b.raw\",\"format\":\"raw\"},"
			"{\"key\":3,\"source\":\"@/c.raw\",\"format\":\"raw\"}");
	vm = json_array_get(discovered(&e, ask), 0);
	disk = json_array_get(json_object_get(vm, "disks"), 2);
	assert_int_equal(json_integer_value(json_object_get(disk, "capacity_bytes")), 1024);
}

static void a_vm_with_a_missing_disk_is_left_out_and_named(void **state)
{
	_cleanup_(answer_free) struct answer a = {0}, b = {0};

	(void)state;
	assert_int_equal(unlink("b.raw"), 0);
	assert_int_equal(json_array_size(discovered(&a, "{}")), 0);
	assert_non_null(strstr(a.text, "b.raw"));
	write_text("inventory.json", "{\"vms\":[{\"name\":\"x\"}]}");
	b = call("/api/v1/discover", "{}");
	assert_int_equal(b.status, 500);
	assert_non_null(strstr(text_at(b.json, "error"), "VM \"x\""));
}

static void progress_and_telemetry_tell_how_far_it_is(void **state)
{
	_cleanup_(answer_free) struct answer a = {0}, s = {0}, end = {0};
	json_t *t;

	(void)state;
	targets_stop();
	targets_start_paused();
	hub.full = true;
	assert_started("backup-1", "full");
	kit_wait_until(hub_heard_phase("transferring"));
	a = call("/api/v1/progress/backup-1", NULL);
	assert_string_equal(text_at(a.json, "status"), "running");
	assert_string_equal(text_at(a.json, "phase"), "transferring");
	assert_int_equal(json_integer_value(json_object_get(a.json, "total_bytes")),
			 29 * MIB + 34 * 512);
	assert_true(json_is_number(
		json_object_get(json_object_get(a.json, "throughput"), "current_mbps")));
	assert_true(
		json_is_integer(json_object_get(json_object_get(a.json, "timing"), "eta_seconds")));
	assert_string_equal(text_at(disk_of(&a, 0), "label"), "root");
	s = call("/api/v1/status/backup-1", NULL);
	assert_string_equal(text_at(s.json, "status"), "running");
	targets_tell('r');
	end = job_end("backup-1");
	kit_wait_until(hub_heard_status("completed"));
	t = hub.last_telemetry;
	assert_string_equal(text_at(t, "job_id"), "backup-1");
	assert_string_equal(text_at(t, "job_type"), "backup");
	assert_int_equal(json_integer_value(json_object_get(t, "bytes_transferred")),
			 json_integer_value(json_object_get(end.json, "bytes_transferred")));
	assert_true(json_number_value(json_object_get(t, "progress_percent")) == 100);
	assert_int_equal(json_array_size(json_object_get(t, "disks")), 2);
}

/* --- the program ------------------------------------------------------------------------------ */

static void wrong_options_are_said_and_end_with_1(void **state)
{
	static const struct {
		const char *args, *says;
	} bad[] = {
		{"", "--inventory FILE is missing"},
		{"--inventory none.json", "none.json"},
		{"--inventory inventory.json --listen nowhere", "not ADDR:PORT"},
		{"--inventory inventory.json --listen localhost:1", "not an IP address"},
		{"--inventory inventory.json --hub-url ftp://h", "not http://"},
		{"--inventory inventory.json --threads 0", "--threads"},
		{"--inventory inventory.json --request-size 100000", "multiple of 64K"},
		{"--inventory inventory.json --request-size 64M", "--request-size"},
		{"--inventory inventory.json --state-dir state", "in use by another agent"},
		{"--inventory inventory.json --state-dir inventory.json", "state folder"},
		{"--inventory inventory.json surplus", "surplus"},
		{"--what", "--help"},
	};
	char program[500];

	(void)state;
	agent_program(program);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		_cleanup_(freep) char *out = scratch_output(
			"%s --state-dir state-2 --listen 127.0.0.1:0 %s 2>&1; echo \"exit $?\"",
			program, bad[i].args);

		if (!strstr(out, bad[i].says) || !strstr(out, "exit 1"))
			fail_msg("\"%s\": \"%s\" does not say \"%s\"", bad[i].args, out,
				 bad[i].says);
	}
	assert_int_equal(scratch_run("%s --help | grep -q -- --parallel-disks", program), 0);
	assert_int_equal(scratch_run("%s --version | grep -q '^sendense-agent [0-9]'", program), 0);
}

static void a_taken_port_is_said(void **state)
{
	char program[500];
	_cleanup_(freep) char *out = NULL;

	(void)state;
	out = scratch_output("%s --inventory inventory.json --state-dir state-3 --listen %s 2>&1; "
			     "echo \"exit $?\"",
			     agent_program(program), agent.url + strlen("http://"));
	assert_non_null(strstr(out, "cannot listen on"));
	assert_non_null(strstr(out, "exit 1"));
}

static int group_setup(void **state)
{
	curl_global_init(CURL_GLOBAL_DEFAULT);
	if (scratch_setup(state))
		return -1;
	hub_start();
	return 0;
}

static int group_teardown(void **state)
{
	MHD_stop_daemon(hub.daemon);
	hub_forget();
	curl_global_cleanup();
	return scratch_teardown(state);
}

#define live_test(f)  cmocka_unit_test_setup_teardown(f, live_setup, live_teardown)
#define world_test(f) cmocka_unit_test_setup_teardown(f, world_setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		world_test(a_full_and_incrementals_equal_the_disks),
		world_test(disks_can_be_copied_at_once),
		world_test(a_restarted_agent_goes_on_with_incrementals),
		world_test(an_agent_killed_around_complete_loses_no_change),
		world_test(a_copy_over_an_unknown_point_covers_all_of_it),
		world_test(an_answer_with_a_number_means_a_full_copy),
		world_test(qcow2_files_and_bitmaps_are_backed_up),
		live_test(a_running_vm_is_backed_up_as_of_one_instant),
		live_test(a_failed_live_backup_costs_the_next_nothing),
		live_test(a_killed_agent_clears_the_vm_at_its_next_start),
		live_test(bitmaps_of_qcow2_disks_survive_the_vms_stop),
		live_test(a_vm_that_is_off_is_said),
		world_test(a_refused_complete_fails_the_job_and_spares_the_other_disk),
		world_test(a_failing_target_fails_the_job_with_the_reason),
		world_test(a_hub_that_goes_away_mid_copy_fails_the_job),
		world_test(sigterm_mid_copy_fails_the_job_and_ends_in_order),
		world_test(two_backups_of_one_vm_do_not_run_at_once),
		world_test(a_bad_start_is_refused_in_plain_text),
		world_test(every_call_has_its_polite_answer),
		world_test(discovery_tells_real_sizes_and_sees_new_disks),
		world_test(a_vm_with_a_missing_disk_is_left_out_and_named),
		world_test(progress_and_telemetry_tell_how_far_it_is),
		world_test(wrong_options_are_said_and_end_with_1),
		world_test(a_taken_port_is_said),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
