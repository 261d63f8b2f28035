/*
 * The capture agent's habits against the hub's HTTP and NBD faces, written from the agent contract:
 * the run as it goes, each way in which a disk differs from last time, each way in which an agent
 * fails. On both databases. (tests/tools/test_legacy_agent replays the good run against the
 * program, with libnbd as the agent has it.)
 */
#include <ctype.h>
#include <curl/curl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/support/apirig.h"

#define CHUNK (32U << 20) /* its largest request */

static unsigned snapshot; /* N of the change ids: "UUID/N" */
static const char *uuid[HUBRIG_DISKS];

static void start_face(void)
{
	apirig_listen((struct api_config){.for_agents = true});
}

static void start_hub(void)
{
	hubrig_start(&rig);
	hubrig_add_repository(&rig);
	hubrig_add_vm(&rig, &vm);
	start_face();
}

static int setup(void **state)
{
	(void)state;
	vm = (struct rig_vm){.name = "pg one",
			     .id = "vm-1",
			     .disk_count = 2,
			     .size = {40 * MI + 512, 3 * MI + 1536},
			     .key = {2000, 2016}};
	rig_vm_init(&vm);
	snapshot = 0;
	uuid[0] = "52 66 8c 1f 00 e2 4b-9a 00 2c 7d";
	uuid[1] = "52 66 8c 1f 01 e2 4b-9a 00 2c 7d";
	uuid[2] = "52 66 8c 1f 02 e2 4b-9a 00 2c 7d";
	hubrig_init(&rig);
	return 0;
}

/* --- its HTTP: no credentials, no header but the type ---------------------------------------- */

struct text {
	char s[16384];
	size_t len;
};

static size_t on_data(char *data, size_t size, size_t n, void *arg)
{
	struct text *t = arg;

	if (size * n >= sizeof(t->s) - t->len)
		return 0;
	memcpy(t->s + t->len, data, size * n);
	t->len += size * n;
	return size * n;
}

/* @body NULL: GET. */
static long post_or_get(const char *path, const char *body, struct text *answer)
{
	struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
	CURL *curl = curl_easy_init();
	char url[1024];
	long status = 0;

	memset(answer, 0, sizeof(*answer));
	snprintf(url, sizeof(url), "http://%s%s", api_address(api), path);
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_PROXY, "");
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, answer);
	if (body)
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
	if (curl_easy_perform(curl) == CURLE_OK)
		curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
	curl_easy_cleanup(curl);
	curl_slist_free_all(headers);
	return status;
}

/* A flat object whose values are all texts; anything else and the agent copies in full. */
static void ask_change_id(int disk, char out[CATALOG_CHANGE_ID_SIZE])
{
	char path[300];
	struct text answer;
	json_t *reply, *value;
	const char *key;

	snprintf(path, sizeof(path), "/api/v1/backups/changeid?vm_name=pg%%20one&disk_id=%d", disk);
	assert_int_equal(post_or_get(path, NULL, &answer), 200);
	reply = json_loadb(answer.s, answer.len, 0, NULL);
	assert_true(json_is_object(reply));
	json_object_foreach (reply, key, value)
		assert_true(json_is_string(value));
	snprintf(out, CATALOG_CHANGE_ID_SIZE, "%s",
		 json_string_value(json_object_get(reply, "change_id")));
	json_decref(reply);
}

static long post_complete(const char *job, int disk, const char *change_id)
{
	char path[200], body[400];
	struct text answer;

	snprintf(path, sizeof(path), "/api/v1/backups/%s/complete", job);
	snprintf(body, sizeof(body),
		 "{\"change_id\":\"%s\",\"disk_id\":%d,\"bytes_transferred\":0}", change_id, disk);
	return post_or_get(path, body, &answer);
}

/* What it sends after each disk, and means of the whole job. */
static long post_telemetry(const char *job, const char *status)
{
	char path[200], body[600];
	struct text answer;

	snprintf(path, sizeof(path), "/api/v1/telemetry/backup/%s", job);
	snprintf(body, sizeof(body),
		 "{\"job_id\":\"%s\",\"job_type\":\"backup\",\"status\":\"%s\",\"current_phase\":"
		 "\"%s\",\"bytes_transferred\":0,\"total_bytes\":0,\"transfer_speed_bps\":0,"
		 "\"eta_seconds\":0,\"progress_percent\":100,\"disks\":[],"
		 "\"timestamp\":\"2025-10-05T12:00:00Z\"}",
		 job, status, status);
	return post_or_get(path, body, &answer);
}

/* --- its NBD: depth 1, up to 32 MiB, WRITE and WRITE_ZEROES; no FLUSH, no DISC ---------------- */

struct run {
	struct hub_backup_view view;
	bool refuse_zeroes; /* as if WRITE_ZEROES had failed: the bytes are sent */
	unsigned fulls, incrementals;
};

static void take_start(struct run *run, enum catalog_backup_type type)
{
	struct err err = ERR_INIT;

	rig_must(hubrig_backup(&rig, vm.name, type, &run->view, &err), &err, "start");
	snapshot++;
}

static void change_id_of(size_t at, char out[CATALOG_CHANGE_ID_SIZE])
{
	snprintf(out, CATALOG_CHANGE_ID_SIZE, "%s/%u", uuid[at], snapshot);
}

static const struct hub_disk_view *disk_at(const struct run *run, size_t at)
{
	for (size_t i = 0; i < run->view.disk_count; i++)
		if ((size_t)run->view.disks[i].row.hardware_order == at)
			return &run->view.disks[i];
	fail();
	return NULL;
}

/* disk(\d+)$ */
static int index_in(const char *export_name)
{
	const char *p = export_name + strlen(export_name);

	while (isdigit((unsigned char)p[-1]))
		p--;
	assert_int_equal(memcmp(p - 4, "disk", 4), 0);
	return atoi(p);
}

static void send_range(const struct run *run, struct nbdsend *c, size_t at, size_t off, size_t end)
{
	while (off < end) {
		uint32_t n = (uint32_t)MIN(end - off, (size_t)CHUNK);
		const unsigned char *p = vm.content[at] + off;
		bool zero = bytes_all_zero(p, n) && !run->refuse_zeroes;

		assert_int_equal(zero ? nbdsend_zero(c, off, n) : nbdsend_write(c, off, p, n), 0);
		off += n;
	}
}

/* What changed since the last snapshot; len 0: nothing. */
struct area {
	size_t off, len;
};

static void copy_disk(struct run *run, size_t at, struct area area)
{
	const struct hub_disk_view *disk = disk_at(run, at);
	int index = index_in(disk->row.export_name);
	char asked[CATALOG_CHANGE_ID_SIZE], own[CATALOG_CHANGE_ID_SIZE];
	struct nbdsend a, data;
	bool incremental;

	change_id_of(at, own);
	ask_change_id(0, asked);
	ask_change_id(0, asked);
	nbdsend_connect(&a, rig.nbd, disk->row.export_name); /* idle for the whole disk */
	incremental = asked[0] && !strncmp(asked, uuid[at], strlen(uuid[at]));
	if (incremental) {
		run->incrementals++;
		ask_change_id(index, asked);
		assert_true(asked[0]);
	} else {
		run->fulls++;
		area = (struct area){0, vm.size[at]};
	}
	if (area.len) {
		nbdsend_connect(&data, rig.nbd, disk->row.export_name);
		send_range(run, &data, at, area.off, area.off + area.len);
	}
	assert_int_equal(post_complete(run->view.job.id, index, own), 200);
	assert_int_equal(post_telemetry(run->view.job.id, "completed"), 200);
	if (area.len)
		nbdsend_drop(&data);
	nbdsend_drop(&a);
}

static enum catalog_job_status status_of(const struct run *run)
{
	struct catalog_backup row;

	assert_int_equal(catalog_backup_get(hub_catalog(rig.hub), run->view.job.id, &row, NULL), 0);
	return row.status;
}

/* One whole run; the points equal the disks. */
static void back_up(struct run *run, enum catalog_backup_type type, const struct area *areas)
{
	take_start(run, type);
	for (size_t i = 0; i < vm.disk_count; i++) {
		assert_int_equal(status_of(run), CATALOG_JOB_RUNNING);
		copy_disk(run, i, areas ? areas[i] : (struct area){0, 0});
	}
	assert_int_equal(status_of(run), CATALOG_JOB_COMPLETED);
	for (size_t i = 0; i < vm.disk_count; i++)
		assert_true(rig_point_equals(&rig, disk_at(run, i)->row.qcow2_path, &vm, (int)i));
}

static void back_up_full(void)
{
	struct run run = {.fulls = 0};

	back_up(&run, CATALOG_BACKUP_FULL, NULL);
	assert_int_equal(run.fulls, vm.disk_count);
	hub_backup_view_deinit(&run.view);
}

/* --- good runs ------------------------------------------------------------------------------- */

static void a_full_then_incrementals_then_one_without_changes(void **state)
{
	static const struct area areas[] = {{5 * MI + 512, 3 * 512}, {MI, 4096}};
	struct run run = {.fulls = 0}, idle = {.fulls = 0};

	(void)state;
	start_hub();
	back_up_full();
	for (int i = 0; i < 2; i++)
		rig_vm_change(&vm, i, areas[i].off, areas[i].len);
	back_up(&run, CATALOG_BACKUP_INCREMENTAL, areas);
	assert_int_equal(run.incrementals, 2);
	back_up(&idle, CATALOG_BACKUP_INCREMENTAL, NULL);
	assert_int_equal(idle.incrementals, 2);
	hub_backup_view_deinit(&run.view);
	hub_backup_view_deinit(&idle.view);
}

static void a_new_disk_is_copied_in_full_beside_the_others(void **state)
{
	struct run run = {.fulls = 0};

	(void)state;
	start_hub();
	back_up_full();
	vm.disk_count = 3;
	vm.size[2] = MI + 512;
	vm.key[2] = 2032;
	vm.content[2] = calloc(1, vm.size[2]);
	rig_fill(vm.content[2], MI / 2);
	hubrig_add_vm(&rig, &vm);
	back_up(&run, CATALOG_BACKUP_INCREMENTAL, NULL);
	assert_int_equal(run.incrementals, 2);
	assert_int_equal(run.fulls, 1);
	assert_string_equal(disk_at(&run, 2)->row.reason, "disk is new");
	hub_backup_view_deinit(&run.view);
}

static void a_resized_disk_is_copied_in_full(void **state)
{
	struct run run = {.fulls = 0};

	(void)state;
	start_hub();
	back_up_full();
	vm.content[1] = realloc(vm.content[1], 5 * MI);
	rig_fill(vm.content[1] + vm.size[1], 5 * MI - vm.size[1]);
	vm.size[1] = 5 * MI;
	hubrig_add_vm(&rig, &vm);
	back_up(&run, CATALOG_BACKUP_INCREMENTAL, NULL);
	assert_int_equal(run.incrementals, 1);
	assert_int_equal(run.fulls, 1);
	assert_non_null(strstr(disk_at(&run, 1)->row.reason, "disk resized"));
	hub_backup_view_deinit(&run.view);
}

/* The deciding calls name the old UUID: the agent falls back to a full copy of that disk. */
static void a_reset_of_change_tracking_is_copied_in_full_and_said(void **state)
{
	struct run run = {.fulls = 0};
	struct hub_backup_view after;
	struct err err = ERR_INIT;

	(void)state;
	start_hub();
	back_up_full();
	uuid[0] = "00 11 22 33 44 55 66 77-88 99 aa bb";
	rig_vm_change(&vm, 0, 0, vm.size[0]);
	back_up(&run, CATALOG_BACKUP_INCREMENTAL, NULL);
	assert_int_equal(run.fulls, 1);
	assert_int_equal(run.incrementals, 1);
	assert_int_equal(hub_backup_get(rig.hub, run.view.job.id, &after, &err), 0);
	assert_non_null(strstr(after.disks[0].row.reason, "tracking was reset"));
	hub_backup_view_deinit(&after);
	hub_backup_view_deinit(&run.view);
}

/* 32 MiB of zero bytes as data: over a parent with data they must hide it all the same. */
static void zeroes_that_come_as_data_hide_what_was_there(void **state)
{
	static const struct area areas[] = {{0, CHUNK}, {0, 2 * MI}};
	struct run run = {.refuse_zeroes = true};

	(void)state;
	start_hub();
	for (int i = 0; i < 2; i++)
		rig_vm_change(&vm, i, 0, vm.size[i]);
	back_up_full();
	memset(vm.content[0], 0, CHUNK);
	memset(vm.content[1], 0, 2 * MI);
	back_up(&run, CATALOG_BACKUP_INCREMENTAL, areas);
	assert_int_equal(run.incrementals, 2);
	hub_backup_view_deinit(&run.view);
}

/* --- runs that fail --------------------------------------------------------------------------- */

/* The run has failed for @reason, what it left cannot be completed, and the next one works. */
static void expect_failed_and_the_next_works(struct run *run, const char *reason)
{
	static const struct area areas[] = {{MI, 512}, {0, 0}};
	char why[CATALOG_ERROR_SIZE], own[CATALOG_CHANGE_ID_SIZE];
	struct run next = {.fulls = 0};

	assert_true(rig_await(&rig, run->view.job.id, CATALOG_JOB_FAILED, why));
	if (!strstr(why, reason))
		fail_msg("\"%s\" is not in \"%s\"", reason, why);
	change_id_of(1, own);
	assert_int_equal(post_complete(run->view.job.id, disk_at(run, 1)->row.disk_index, own),
			 409);
	assert_int_equal(post_telemetry(run->view.job.id, "completed"), 200);
	assert_int_equal(status_of(run), CATALOG_JOB_FAILED);
	hub_backup_view_deinit(&run->view);
	assert_true(rig_await_idle(&rig));
	rig_vm_change(&vm, 0, areas[0].off, areas[0].len);
	back_up(&next, CATALOG_BACKUP_INCREMENTAL, areas);
	assert_int_equal(next.incrementals, 2);
	hub_backup_view_deinit(&next.view);
}

/* The times are short for the run that is to fail, and long again for those that are not. */
static void set_times(unsigned start_ms, unsigned grace_ms, unsigned silence_ms)
{
	struct hub_config config = rig.config;
	struct err err = ERR_INIT;

	config.agent_url = agentpeer_url(rig.peer);
	config.start_timeout_ms = start_ms ? start_ms : config.start_timeout_ms;
	config.disconnect_grace_ms = grace_ms ? grace_ms : config.disconnect_grace_ms;
	config.silence_timeout_ms = silence_ms ? silence_ms : config.silence_timeout_ms;
	rig_must(hub_reconfigure(rig.hub, &config, &err), &err, "times");
}

static void it_refuses_the_start(void **state)
{
	struct hub_backup_view view;
	struct run run = {.fulls = 0};
	struct err err = ERR_INIT;

	(void)state;
	start_hub();
	back_up_full();
	agentpeer_set_start(rig.peer, 500, "cannot reach vCenter");
	assert_int_equal(hubrig_backup(&rig, vm.name, CATALOG_BACKUP_INCREMENTAL, &view, &err),
			 HUB_E_AGENT);
	assert_non_null(strstr(err.text, "cannot reach vCenter"));
	agentpeer_set_start(rig.peer, 200, "{}");
	back_up(&run, CATALOG_BACKUP_INCREMENTAL, NULL);
	assert_int_equal(run.incrementals, 2);
	hub_backup_view_deinit(&run.view);
}

static void it_never_connects(void **state)
{
	struct run run = {.fulls = 0};
	char asked[CATALOG_CHANGE_ID_SIZE];

	(void)state;
	start_hub();
	back_up_full();
	take_start(&run, CATALOG_BACKUP_INCREMENTAL);
	ask_change_id(0, asked);
	set_times(100, 0, 0);
	assert_true(rig_await(&rig, run.view.job.id, CATALOG_JOB_FAILED, NULL));
	set_times(0, 0, 0);
	expect_failed_and_the_next_works(&run, "did not connect");
}

/* Its sockets are gone with it, in the middle of a disk. */
static void it_dies_midway(void **state)
{
	struct run run = {.fulls = 0};
	struct nbdsend a, b;

	(void)state;
	start_hub();
	back_up_full();
	take_start(&run, CATALOG_BACKUP_INCREMENTAL);
	copy_disk(&run, 0, (struct area){0, 0});
	nbdsend_connect(&a, rig.nbd, disk_at(&run, 1)->row.export_name);
	nbdsend_connect(&b, rig.nbd, disk_at(&run, 1)->row.export_name);
	assert_int_equal(nbdsend_write(&b, 0, vm.content[1], MI), 0);
	nbdsend_drop(&b);
	nbdsend_drop(&a);
	set_times(0, 100, 0);
	assert_true(rig_await(&rig, run.view.job.id, CATALOG_JOB_FAILED, NULL));
	set_times(0, 0, 0);
	expect_failed_and_the_next_works(&run, "closed all connections");
}

/* A disk it had completed before is answered as before. */
static void a_disk_completed_before_the_failure_may_be_completed_again(void **state)
{
	struct run run = {.fulls = 0};
	struct hub_cancel_request cancel = {.reason = "test"};
	struct err err = ERR_INIT;
	char own[CATALOG_CHANGE_ID_SIZE];
	bool already;

	(void)state;
	start_hub();
	back_up_full();
	take_start(&run, CATALOG_BACKUP_INCREMENTAL);
	copy_disk(&run, 0, (struct area){0, 0});
	assert_int_equal(hub_backup_cancel(rig.hub, run.view.job.id, &cancel, &already, &err), 0);
	change_id_of(0, own);
	assert_int_equal(post_complete(run.view.job.id, 0, own), 200);
	change_id_of(1, own);
	assert_int_equal(post_complete(run.view.job.id, 1, own), 409);
	hub_backup_view_deinit(&run.view);
}

/* Connected, and then nothing more: neither data nor telemetry. */
static void it_falls_silent(void **state)
{
	struct run run = {.fulls = 0};
	struct nbdsend a;

	(void)state;
	start_hub();
	back_up_full();
	take_start(&run, CATALOG_BACKUP_INCREMENTAL);
	nbdsend_connect(&a, rig.nbd, disk_at(&run, 0)->row.export_name);
	set_times(0, 0, 200);
	assert_true(rig_await(&rig, run.view.job.id, CATALOG_JOB_FAILED, NULL));
	set_times(0, 0, 0);
	assert_int_not_equal(nbdsend_write(&a, 0, vm.content[0], 512), 0);
	nbdsend_drop(&a);
	expect_failed_and_the_next_works(&run, "neither data nor telemetry");
}

/* It completes each disk twice, and once more when all is over. */
static void it_completes_twice(void **state)
{
	struct run run = {.fulls = 0};
	char own[CATALOG_CHANGE_ID_SIZE];

	(void)state;
	start_hub();
	back_up_full();
	take_start(&run, CATALOG_BACKUP_INCREMENTAL);
	for (size_t i = 0; i < 2; i++) {
		copy_disk(&run, i, (struct area){0, 0});
		change_id_of(i, own);
		assert_int_equal(
			post_complete(run.view.job.id, disk_at(&run, i)->row.disk_index, own), 200);
	}
	assert_int_equal(status_of(&run), CATALOG_JOB_COMPLETED);
	change_id_of(0, own);
	assert_int_equal(post_complete(run.view.job.id, 0, own), 200);
	assert_int_equal(post_complete(run.view.job.id, 0, "another/1"), 409);
	assert_int_equal(post_complete(run.view.job.id, 9, own), 404);
	assert_int_equal(post_complete("backup-unknown", 0, own), 404);
	hub_backup_view_deinit(&run.view);
}

/* The hub is started anew while the agent copies: its connections are gone, its late complete is
 * refused, the committed disk is not lost. */
static void the_hub_is_restarted_meanwhile(void **state)
{
	struct run run = {.fulls = 0};

	(void)state;
	start_hub();
	back_up_full();
	take_start(&run, CATALOG_BACKUP_INCREMENTAL);
	copy_disk(&run, 0, (struct area){0, 0});
	apirig_stop();
	hubrig_start(&rig);
	start_face();
	expect_failed_and_the_next_works(&run, "hub was stopped");
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, apirig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_full_then_incrementals_then_one_without_changes),
		T(a_new_disk_is_copied_in_full_beside_the_others),
		T(a_resized_disk_is_copied_in_full),
		T(a_reset_of_change_tracking_is_copied_in_full_and_said),
		T(zeroes_that_come_as_data_hide_what_was_there),
		T(it_refuses_the_start),
		T(it_never_connects),
		T(it_dies_midway),
		T(a_disk_completed_before_the_failure_may_be_completed_again),
		T(it_falls_silent),
		T(it_completes_twice),
		T(the_hub_is_restarted_meanwhile),
	};

	return tmpdb_run_tests("api/agent_replay", tests, NULL, NULL);
}
