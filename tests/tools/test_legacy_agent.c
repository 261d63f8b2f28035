/*
 * An unmodified capture agent of the upstream system, replayed against a real sendense-hub: the
 * order of its calls, its defects and its habits on the NBD wire.
 *
 *  - it asks for the change id twice per disk before it connects, always as disk 0, and once more
 *    with the right index for an incremental; it takes nothing but strings in the answers;
 *  - it holds an idle connection A open per disk; a full goes over B with base:allocation, an
 *    incremental over a second plain connection;
 *  - one request at a time, up to 32 MiB, WRITE and WRITE_ZEROES only; no FLUSH, and no DISC;
 *  - after each disk it reports the whole job `completed` by telemetry;
 *  - it posts `complete` with zero bytes transferred, while A is open, and wants exactly 200.
 *
 * The disks are files; qemu-img compares each point with the disk as it was.
 */
#include <ctype.h>
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <libnbd.h>
#include <microhttpd.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "tools/ctl.h"
#include "tools/ctl_lookup.h"
#include "tests/support/apispec.h"
#include "tools/ctl_rest.h"
#include "tools/ctl_token.h"

#define VM_NAME	 "pg one"
#define DISKLESS "appliance" /* a VM whose disks nobody has told the hub about */
#define CHUNK	 (32U << 20) /* the agent's largest request */
#define DISKS	 2
#define HOUR_US	 (3600LL * 1000000)
#define PATH_LEN 512

/* Sizes no power of two divides much, keys on two controllers: index 1 is not key 2001. */
static const struct {
	const char *id;
	long key;
	uint64_t size;
} disks[DISKS] = {
	{"disk-2000", 2000, 96 * MIB + 512},
	{"disk-2016", 2016, 40 * MIB + 33 * 512},
};

struct fixture {
	char dir[PATH_LEN / 2];
	pid_t hub;
	char hub_url[128];   /* where people ask */
	char agent_url[128]; /* where it asks, and shows no token */
	struct ctl_rest *rest;
	struct ctl_rest *asking; /* as the agent */
	char authorization[CTL_TOKEN_MAX + 32];
	char repository_id[64];
	/* the agent's API */
	struct MHD_Daemon *api;
	pthread_mutex_t lock;
	json_t *start;			/* body of the last /backup/start */
	unsigned sequence;		/* of change ids */
	char last_change_id[DISKS][64]; /* of the last backup that completed */
};

static struct fixture fx = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* --- the agent's API -------------------------------------------------------------------------- */

static json_t *discovered_vm(const char *id, const char *name, const char *path, json_t *vm_disks)
{
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:s, s:o, s:[]}", "id", id,
			 "name", name, "path", path, "datacenter", "dc1", "power_state",
			 "poweredOn", "guest_os", "debian12_64Guest", "memory_mb", 4096, "num_cpu",
			 2, "vmx_version", "vmx-19", "disks", vm_disks, "networks");
}

static json_t *discovered(void)
{
	json_t *list = json_array();

	for (int i = 0; i < DISKS; i++)
		json_array_append_new(
			list, json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:s, s:i}", "id",
					disks[i].id, "label", i ? "Hard disk 2" : "Hard disk 1",
					"path", "[ds1] pg/pg.vmdk", "datastore", "ds1", "size_gb",
					(json_int_t)1, "capacity_bytes", (json_int_t)disks[i].size,
					"provisioning_type", "thin", "unit_number", i));
	return json_pack("{s:{s:s, s:s}, s:[o, o]}", "vcenter", "host", "vc1", "datacenter", "dc1",
			 "vms", discovered_vm("vm-101", VM_NAME, "/dc1/vm/" VM_NAME, list),
			 discovered_vm("vm-102", DISKLESS, "/dc1/vm/" DISKLESS, json_array()));
}

static json_t *started(json_t *request)
{
	json_t *answer =
		json_pack("{s:O, s:s, s:s, s:i}", "job_id", json_object_get(request, "job_id"),
			  "status", "started", "started_at", "2025-10-05T12:00:00Z", "pid", 4711);

	pthread_mutex_lock(&fx.lock);
	json_decref(fx.start);
	fx.start = request;
	pthread_mutex_unlock(&fx.lock);
	return answer;
}

static enum MHD_Result answer(struct MHD_Connection *connection, json_t *body)
{
	unsigned status = body ? MHD_HTTP_OK : MHD_HTTP_NOT_FOUND;
	char *text = body ? json_dumps(body, 0) : strdup("404 page not found\n");
	struct MHD_Response *response =
		MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
	enum MHD_Result res = MHD_queue_response(connection, status, response);

	MHD_destroy_response(response);
	json_decref(body);
	return res;
}

/* A request's body, gathered over several calls. */
struct upload {
	char text[65536];
	size_t len;
};

static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *url,
				  const char *method, const char *version, const char *data,
				  size_t *size, void **state)
{
	struct upload *upload = *state;
	json_t *request;

	(void)arg, (void)method, (void)version;
	if (!upload) {
		*state = calloc(1, sizeof(*upload));
		return *state ? MHD_YES : MHD_NO;
	}
	if (*size) {
		if (*size > sizeof(upload->text) - upload->len)
			return MHD_NO;
		memcpy(upload->text + upload->len, data, *size);
		upload->len += *size;
		*size = 0;
		return MHD_YES;
	}
	if (strcmp(url, "/api/v1/discover") == 0)
		return answer(connection, discovered());
	if (strcmp(url, "/api/v1/health") == 0)
		return answer(connection, json_pack("{s:s}", "status", "healthy"));
	request = json_loadb(upload->text, upload->len, 0, NULL);
	if (strcmp(url, "/api/v1/backup/start") == 0 && request)
		return answer(connection, started(request));
	json_decref(request);
	return answer(connection, NULL); /* /progress/{job_id}: 404 until the first update */
}

static void on_request_end(void *arg, struct MHD_Connection *connection, void **state,
			   enum MHD_RequestTerminationCode code)
{
	(void)arg, (void)connection, (void)code;
	free(*state);
}

static unsigned start_api(void)
{
	const union MHD_DaemonInfo *info;

	fx.api =
		MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD, 0, NULL, NULL, on_request, NULL,
				 MHD_OPTION_NOTIFY_COMPLETED, on_request_end, NULL, MHD_OPTION_END);
	assert_non_null(fx.api);
	info = MHD_get_daemon_info(fx.api, MHD_DAEMON_INFO_BIND_PORT);
	assert_non_null(info);
	return info->port;
}

/* --- the hub ---------------------------------------------------------------------------------- */

/* Starts the program; its stdout is the returned descriptor. It dies with this one. */
static int spawn(char *const argv[], pid_t *pid)
{
	int fds[2];

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	*pid = fork();
	assert_true(*pid >= 0);
	if (*pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(fds[1], STDOUT_FILENO);
		execv(argv[0], argv);
		_exit(127);
	}
	close(fds[1]);
	return fds[0];
}

/* "... http=127.0.0.1:PORT agent=127.0.0.1:PORT ..." in the line the hub prints when it is ready.
 */
static void read_ready_line(int fd)
{
	_cleanup_(fclosep) FILE *in = fdopen(fd, "r");
	char line[1024], http[100], agent[100], *at;

	assert_non_null(in);
	assert_non_null(fgets(line, sizeof(line), in));
	at = strstr(line, "http=");
	assert_non_null(at);
	assert_int_equal(sscanf(at, "http=%99s agent=%99s", http, agent), 2);
	snprintf(fx.hub_url, sizeof(fx.hub_url), "http://%s", http);
	snprintf(fx.agent_url, sizeof(fx.agent_url), "http://%s", agent);
}

static void start_hub(unsigned agent_port)
{
	const char *build = getenv("BUILD");
	char program[PATH_LEN], data[PATH_LEN], agent[64];
	char *argv[] = {program,       "--data-dir",	 data,		"--http",
			"127.0.0.1:0", "--agent-listen", "127.0.0.1:0", "--nbd",
			"127.0.0.1:0", "--agent-url",	 agent,		NULL};

	snprintf(program, sizeof(program), "%s/bin/sendense-hub", build ? build : "build");
	snprintf(data, sizeof(data), "%s/hub", fx.dir);
	snprintf(agent, sizeof(agent), "http://127.0.0.1:%u", agent_port);
	read_ready_line(spawn(argv, &fx.hub));
}

static json_t *post_to(struct ctl_rest *rest, const char *path, json_t *body)
{
	struct err err = ERR_INIT;
	json_t *reply = NULL;

	if (ctl_rest_post(rest, path, body, &reply, &err))
		fail_msg("POST %s: %s", path, err.text);
	return reply;
}

static json_t *post(const char *path, json_t *body)
{
	return post_to(fx.rest, path, body);
}

static json_t *get(const char *path, const char *name)
{
	struct err err = ERR_INIT;
	json_t *reply = NULL;

	if (ctl_rest_get(fx.rest, path, name, NULL, NULL, &reply, &err))
		fail_msg("GET %s/%s: %s", path, name, err.text);
	return reply;
}

static void add_vm_and_repository(void)
{
	char path[PATH_LEN];
	json_t *reply;

	json_decref(post("/api/v1/discovery/add-vms",
			 json_pack("{s:[ss]}", "vm_names", VM_NAME, DISKLESS)));
	snprintf(path, sizeof(path), "%s/repo", fx.dir);
	assert_int_equal(mkdir(path, 0700), 0);
	reply = post("/api/v1/repositories",
		     json_pack("{s:s, s:s, s:b, s:{s:s}}", "name", "local", "type", "local",
			       "enabled", 1, "config", "path", path));
	snprintf(fx.repository_id, sizeof(fx.repository_id), "%s", ctl_text(reply, "id"));
	json_decref(reply);
}

/* --- the source disks ------------------------------------------------------------------------- */

static void source_path(int disk, char path[PATH_LEN])
{
	snprintf(path, PATH_LEN, "%s/disk%d.raw", fx.dir, disk);
}

static int open_source(int disk)
{
	char path[PATH_LEN];
	int fd;

	source_path(disk, path);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	return fd;
}

/* Noise that depends on @seed, not on where it is. */
static void fill(unsigned char *buf, size_t len, uint64_t seed)
{
	for (size_t i = 0; i < len; i++) {
		seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
		buf[i] = (unsigned char)(seed >> 56);
	}
}

static void put(int disk, uint64_t off, size_t len, uint64_t seed)
{
	_cleanup_(freep) unsigned char *buf = calloc(1, len);
	_cleanup_(closep) int fd = open_source(disk);

	assert_non_null(buf);
	if (seed)
		fill(buf, len, seed);
	assert_int_equal(pwrite(fd, buf, len, (off_t)off), (ssize_t)len);
}

static void make_sources(void)
{
	for (int i = 0; i < DISKS; i++) {
		_cleanup_(closep) int fd = open_source(i);

		assert_int_equal(ftruncate(fd, (off_t)disks[i].size), 0);
		put(i, 0, 24 * MIB, 11 + (uint64_t)i);
		put(i, 32 * MIB + 4096, 3 * MIB, 21 + (uint64_t)i);
		put(i, disks[i].size - 70000, 70000, 31 + (uint64_t)i);
	}
}

/* --- the agent at work ------------------------------------------------------------------------ */

struct run {
	char job_id[65];
	char targets[2048];
	bool slow_complete;	      /* the backup looks 48 h old when its disks complete */
	unsigned fulls, incrementals; /* disks copied each way */
	char change_id[DISKS][64];    /* what this run's snapshot gave */
};

/* Change ids carry a UUID per disk; the hub hands them back byte for byte, blanks and slash too. */
static void snapshot(struct run *run)
{
	fx.sequence++;
	for (int i = 0; i < DISKS; i++)
		snprintf(run->change_id[i], sizeof(run->change_id[i]),
			 "52 66 8c 1f 0%d e2 4b-9a 00 2c 7d/%u", i, fx.sequence);
}

static bool same_uuid(const char *a, const char *b)
{
	size_t n = strcspn(a, "/");

	return n == strcspn(b, "/") && memcmp(a, b, n) == 0;
}

/* What the agent makes of an answer: a flat object of strings, or it copies in full. */
static void ask_change_id(int disk, char out[256])
{
	char number[12];
	const struct ctl_query query[] = {{"vm_name", VM_NAME}, {"disk_id", number}, {NULL, NULL}};
	struct err err = ERR_INIT;
	json_t *reply = NULL, *value;
	const char *key;

	snprintf(number, sizeof(number), "%d", disk);
	if (ctl_rest_get(fx.asking, "/api/v1/backups/changeid", NULL, NULL, query, &reply, &err))
		fail_msg("changeid: %s", err.text);
	json_object_foreach (reply, key, value)
		assert_true(json_is_string(value));
	snprintf(out, 256, "%s", ctl_text(reply, "change_id"));
	json_decref(reply);
}

/* The URI for a disk's real key in "2000:nbd://...,2016:nbd://...". */
static void find_target(const struct run *run, long key, char uri[512])
{
	char copy[sizeof(run->targets)], wanted[24], *save = NULL;

	snprintf(copy, sizeof(copy), "%s", run->targets);
	snprintf(wanted, sizeof(wanted), "%ld:", key);
	for (char *t = strtok_r(copy, ",", &save); t; t = strtok_r(NULL, ",", &save)) {
		if (strncmp(t, wanted, strlen(wanted)) == 0) {
			snprintf(uri, 512, "%s", t + strlen(wanted));
			return;
		}
	}
	fail_msg("no target for key %ld in %s", key, run->targets);
}

/* disk(\d+)$ */
static int index_in_name(const char *uri)
{
	const char *p = uri + strlen(uri);

	while (p > uri && isdigit((unsigned char)p[-1]))
		p--;
	assert_true(*p && p - uri > 4 && memcmp(p - 4, "disk", 4) == 0);
	return atoi(p);
}

static struct nbd_handle *connect_to(const char *uri, bool with_allocation)
{
	struct nbd_handle *nbd = nbd_create();

	assert_non_null(nbd);
	nbd_set_tls(nbd, LIBNBD_TLS_DISABLE);
	if (with_allocation)
		nbd_add_meta_context(nbd, LIBNBD_CONTEXT_BASE_ALLOCATION);
	if (nbd_connect_uri(nbd, uri))
		fail_msg("%s: %s", uri, nbd_get_error());
	return nbd;
}

static void copy_range(struct nbd_handle *nbd, int fd, uint64_t off, size_t len)
{
	_cleanup_(freep) unsigned char *buf = malloc(len);
	int res;

	assert_non_null(buf);
	assert_int_equal(pread(fd, buf, len, (off_t)off), (ssize_t)len);
	if (bytes_all_zero(buf, len))
		res = nbd_zero(nbd, len, off, 0);
	else
		res = nbd_pwrite(nbd, buf, len, off, 0);
	if (res)
		fail_msg("write of %zu at %llu: %s", len, (unsigned long long)off, nbd_get_error());
}

static void copy_full(const char *uri, int disk)
{
	struct nbd_handle *b = connect_to(uri, true);
	_cleanup_(closep) int fd = open_source(disk);

	for (uint64_t off = 0; off < disks[disk].size; off += CHUNK)
		copy_range(b, fd, off, (size_t)MIN((uint64_t)CHUNK, disks[disk].size - off));
	nbd_close(b); /* no DISC: the socket just closes */
}

/* Areas of 512-byte granularity, as change tracking gives them. */
struct area {
	uint64_t off;
	size_t len;
	uint64_t seed; /* 0: zeroes */
};

static void copy_changes(const char *uri, int disk, const struct area *areas)
{
	_cleanup_(closep) int fd = -1;
	struct nbd_handle *second;

	if (!areas || !areas[0].len)
		return;
	fd = open_source(disk);
	second = connect_to(uri, false);
	for (; areas->len; areas++)
		copy_range(second, fd, areas->off, areas->len);
	nbd_close(second);
}

static void send_telemetry(const struct run *run)
{
	char path[128];
	json_t *body = json_pack(
		"{s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:[], s:s}", "job_id", run->job_id,
		"job_type", "backup", "status", "completed", "current_phase", "completed",
		"bytes_transferred", 0, "total_bytes", 0, "transfer_speed_bps", 0, "eta_seconds", 0,
		"progress_percent", 100, "disks", "timestamp", "2025-10-05T12:00:00Z");

	snprintf(path, sizeof(path), "/api/v1/telemetry/backup/%s", run->job_id);
	json_decref(post_to(fx.asking, path, body));
}

/* POST with the status as it came, and the answer's text. */
static long post_raw(const char *base, const char *path, const char *body, char text[1024])
{
	struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
	CURL *curl = curl_easy_init();
	FILE *out = fmemopen(text, 1024, "w");
	char url[512];
	long status = 0;

	assert_non_null(out);
	text[0] = '\0';
	snprintf(url, sizeof(url), "%s%s", base, path);
	if (base == fx.hub_url)
		headers = curl_slist_append(headers, fx.authorization);
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_PROXY, "");
	curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, out);
	assert_int_equal(curl_easy_perform(curl), CURLE_OK);
	curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
	curl_easy_cleanup(curl);
	curl_slist_free_all(headers);
	fclose(out);
	apispec_check("POST", path, status, NULL, text, strlen(text));
	return status;
}

/* Exactly 200 or the agent gives up. */
static long post_complete(const char *job_id, int disk, const char *change_id)
{
	char path[128], body[256], text[1024];

	snprintf(path, sizeof(path), "/api/v1/backups/%s/complete", job_id);
	snprintf(body, sizeof(body),
		 "{\"change_id\":\"%s\",\"disk_id\":%d,\"bytes_transferred\":0}", change_id, disk);
	return post_raw(fx.agent_url, path, body, text);
}

/* Makes the running backup look two days old, as if the disks had taken that long. */
static void age_backup(const char *job_id)
{
	char path[PATH_LEN], sql[512], *message = NULL;
	sqlite3 *db = NULL;

	snprintf(path, sizeof(path), "%s/hub/catalog.db", fx.dir);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	sqlite3_busy_timeout(db, 10000);
	for (int i = 0; i < 2; i++) {
		snprintf(sql, sizeof(sql),
			 "UPDATE %s SET created_at = created_at - %lld, started_at = started_at - "
			 "%lld WHERE %s = '%s'",
			 i ? "backup_disks" : "backup_jobs", 48 * HOUR_US, 48 * HOUR_US,
			 i ? "backup_job_id" : "id", job_id);
		if (sqlite3_exec(db, sql, NULL, NULL, &message))
			fail_msg("%s: %s", sql, message);
		assert_true(sqlite3_changes(db) >= 1);
	}
	sqlite3_close(db);
}

static void copy_disk(struct run *run, int disk, const struct area *areas)
{
	char change_id[256], uri[512];
	struct nbd_handle *a;
	int index;

	ask_change_id(0, change_id);
	ask_change_id(0, change_id);
	find_target(run, disks[disk].key, uri);
	index = index_in_name(uri);
	a = connect_to(uri, false);
	if (*change_id && same_uuid(change_id, run->change_id[disk])) {
		run->incrementals++;
		ask_change_id(index, change_id);
		assert_string_equal(change_id, fx.last_change_id[disk]);
		copy_changes(uri, disk, areas);
	} else {
		run->fulls++;
		copy_full(uri, disk);
	}
	if (run->slow_complete && disk == 0)
		age_backup(run->job_id);
	assert_int_equal(post_complete(run->job_id, index, run->change_id[disk]), 200);
	send_telemetry(run);
	nbd_close(a);
}

static void take_start(struct run *run, const char *type)
{
	json_t *reply = post("/api/v1/backups",
			     json_pack("{s:s, s:s, s:s}", "vm_name", VM_NAME, "backup_type", type,
				       "repository_id", fx.repository_id));

	json_decref(reply);
	pthread_mutex_lock(&fx.lock);
	assert_non_null(fx.start);
	snprintf(run->job_id, sizeof(run->job_id), "%s", ctl_text(fx.start, "job_id"));
	snprintf(run->targets, sizeof(run->targets), "%s", ctl_text(fx.start, "nbd_targets"));
	assert_string_equal(ctl_text(fx.start, "backup_type"), type);
	/* The agent refuses a start with an empty field. */
	static const char *const required[] = {"vm_name", "vcenter_host", "vcenter_user",
					       "vcenter_password", "vm_path"};
	for (size_t i = 0; i < ARRAY_SIZE(required); i++)
		assert_true(*ctl_text(fx.start, required[i]));
	if (strcmp(type, "incremental") == 0)
		assert_true(*ctl_text(fx.start, "previous_change_id"));
	pthread_mutex_unlock(&fx.lock);
}

static void assert_status(const char *job_id, const char *status)
{
	json_t *job = get("/api/v1/backups", job_id);

	assert_string_equal(ctl_text(job, "status"), status);
	json_decref(job);
}

/* One whole run as the agent does it; @areas of each disk are what changed since the last. */
static void back_up(struct run *run, const char *type, const struct area *const areas[DISKS])
{
	take_start(run, type);
	snapshot(run);
	for (int i = 0; i < DISKS; i++) {
		assert_status(run->job_id, "running"); /* whatever telemetry said about disk 0 */
		copy_disk(run, i, areas ? areas[i] : NULL);
	}
	assert_status(run->job_id, "completed");
	memcpy(fx.last_change_id, run->change_id, sizeof(fx.last_change_id));
}

/* --- looking at the result -------------------------------------------------------------------- */

static void point_path(const char *job_id, int index, char path[PATH_LEN])
{
	json_t *job = get("/api/v1/backups", job_id), *disk;
	size_t i;

	path[0] = '\0';
	json_array_foreach (json_object_get(job, "disks"), i, disk) {
		if (json_integer_value(json_object_get(disk, "disk_index")) == index)
			snprintf(path, PATH_LEN, "%s", ctl_text(disk, "qcow2_path"));
	}
	assert_true(*path);
	json_decref(job);
}

static void run_tool(const char *fmt, ...)
{
	char command[4 * PATH_LEN];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(command, sizeof(command), fmt, ap);
	va_end(ap);
	assert_int_equal(system(command), 0);
}

static void assert_points_equal_sources(const struct run *run)
{
	char path[PATH_LEN], source[PATH_LEN];

	for (int i = 0; i < DISKS; i++) {
		point_path(run->job_id, i, path);
		source_path(i, source);
		run_tool("qemu-img check -q -f qcow2 '%s'", path);
		run_tool("qemu-img compare -q -f raw -F qcow2 '%s' '%s'", source, path);
		run_tool("test $(qemu-img info --output=json '%s' | jq '.\"virtual-size\"') = %llu",
			 path, (unsigned long long)disks[i].size);
	}
}

static void change_sources(const struct area *const areas[DISKS])
{
	for (int i = 0; i < DISKS; i++) {
		for (const struct area *a = areas[i]; a->len; a++)
			put(i, a->off, a->len, a->seed);
	}
}

/* --- the tests -------------------------------------------------------------------------------- */

static int set_up(void **state)
{
	const char *tmp = getenv("TMPDIR");
	char token_file[PATH_LEN], token[CTL_TOKEN_MAX];
	struct err err = ERR_INIT;

	(void)state;
	snprintf(fx.dir, sizeof(fx.dir), "%s/legacy.XXXXXX", tmp ? tmp : "/tmp");
	assert_non_null(mkdtemp(fx.dir));
	curl_global_init(CURL_GLOBAL_DEFAULT);
	start_hub(start_api());
	snprintf(token_file, sizeof(token_file), "%s/hub/admin-token", fx.dir);
	assert_int_equal(ctl_token_find(token_file, fx.hub_url, token, &err), 0);
	snprintf(fx.authorization, sizeof(fx.authorization), "Authorization: Bearer %s", token);
	assert_int_equal(ctl_rest_open(&fx.rest, fx.hub_url, token, &err), 0);
	assert_int_equal(ctl_rest_open(&fx.asking, fx.agent_url, "", &err), 0);
	add_vm_and_repository();
	make_sources();
	return 0;
}

static int tear_down(void **state)
{
	int status = -1;

	(void)state;
	if (fx.hub > 0) {
		kill(fx.hub, SIGTERM);
		waitpid(fx.hub, &status, 0);
	}
	ctl_rest_close(fx.rest);
	ctl_rest_close(fx.asking);
	if (fx.api)
		MHD_stop_daemon(fx.api);
	json_decref(fx.start);
	run_tool("rm -rf '%s'", fx.dir);
	return status; /* the hub stops in order: exit 0 */
}

static void its_full_of_two_disks_is_byte_equal(void **state)
{
	struct run run = {0};

	(void)state;
	back_up(&run, "full", NULL);
	assert_int_equal(run.fulls, 2);
	assert_points_equal_sources(&run);
}

static void its_deciding_calls_as_disk_0_lead_every_disk_to_its_own_change_id(void **state)
{
	static const struct area first[] = {
		{512, 1024, 41}, {5 * MIB + 512, 700 * 512, 42}, {24 * MIB - 512, 2048, 43}, {0}};
	static const struct area second[] = {
		{8 * MIB, 4 * MIB, 0}, {20 * MIB + 3 * 512, 512, 44}, {0}};
	static const struct area *const areas[DISKS] = {first, second};
	struct run run = {0};

	(void)state;
	change_sources(areas);
	back_up(&run, "incremental", areas);
	assert_int_equal(run.incrementals, 2);
	assert_points_equal_sources(&run);
}

static void a_complete_two_days_after_the_start_is_as_good_as_any(void **state)
{
	static const struct area first[] = {{60 * MIB, 65536, 51}, {0}};
	static const struct area second[] = {{39 * MIB, 512, 52}, {0}};
	static const struct area *const areas[DISKS] = {first, second};
	struct run run = {.slow_complete = true};

	(void)state;
	change_sources(areas);
	back_up(&run, "incremental", areas);
	assert_int_equal(run.incrementals, 2);
	assert_points_equal_sources(&run);
}

static void an_incremental_without_changes_sends_nothing_and_is_a_point(void **state)
{
	struct run run = {0};

	(void)state;
	back_up(&run, "incremental", NULL);
	assert_int_equal(run.incrementals, 2);
	assert_points_equal_sources(&run);
}

static void complete_may_be_repeated_with_the_same_change_id_only(void **state)
{
	struct run run = {0};

	(void)state;
	back_up(&run, "incremental", NULL);
	assert_int_equal(post_complete(run.job_id, 1, run.change_id[1]), 200);
	assert_int_equal(post_complete(run.job_id, 1, "52 66/999"), 409);
	assert_int_equal(post_complete(run.job_id, 7, run.change_id[1]), 404);
	assert_int_equal(post_complete("backup-unknown", 0, run.change_id[1]), 404);
}

static void a_vm_without_disk_rows_is_refused_in_the_contracts_words(void **state)
{
	char body[512], text[1024];
	json_t *answer;

	(void)state;
	snprintf(body, sizeof(body),
		 "{\"vm_name\":\"" DISKLESS "\",\"backup_type\":\"full\",\"repository_id\":\"%s\"}",
		 fx.repository_id);
	assert_int_equal(post_raw(fx.hub_url, "/api/v1/backups", body, text), 400);
	answer = json_loads(text, 0, NULL);
	assert_string_equal(ctl_text(answer, "error"),
			    "VM disk information not available - run discovery first");
	json_decref(answer);
}

static void a_full_asked_for_is_copied_in_full_whatever_came_before(void **state)
{
	struct run run = {0};

	(void)state;
	back_up(&run, "full", NULL);
	assert_int_equal(run.fulls, 2);
	assert_points_equal_sources(&run);
}

int main(void)
{
	/* In order: each is the next run of the same VM. */
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(its_full_of_two_disks_is_byte_equal),
		cmocka_unit_test(its_deciding_calls_as_disk_0_lead_every_disk_to_its_own_change_id),
		cmocka_unit_test(a_complete_two_days_after_the_start_is_as_good_as_any),
		cmocka_unit_test(an_incremental_without_changes_sends_nothing_and_is_a_point),
		cmocka_unit_test(complete_may_be_repeated_with_the_same_change_id_only),
		cmocka_unit_test(a_vm_without_disk_rows_is_refused_in_the_contracts_words),
		cmocka_unit_test(a_full_asked_for_is_copied_in_full_whatever_came_before),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
