/* How backups fail, and what a failure leaves: earlier points as they were, the partial in the
 * quarantine, the reason on the job, the VM free. */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "catalog/job_log.h"
#include "tests/hub/rig.h"
#include "tests/support/dbproxy.h"

#define MI (1U << 20)

static struct hubrig rig;
static struct rig_vm vm;

static void make_vm(void)
{
	vm = (struct rig_vm){
		.name = "pgtest1", .id = "vm-1", .disk_count = 2, .size = {8 * MI, 3 * MI + 1536}};
	rig_vm_init(&vm);
}

static int setup(void **state)
{
	(void)state;
	make_vm();
	hubrig_init(&rig);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	hubrig_deinit(&rig);
	rig_vm_deinit(&vm);
	return 0;
}

static void start_hub(void)
{
	hubrig_start(&rig);
	hubrig_add_repository(&rig);
	hubrig_add_vm(&rig, &vm);
}

static void start_backup(enum catalog_backup_type type, struct hub_backup_view *view)
{
	struct err err = ERR_INIT;

	rig_must(hubrig_backup(&rig, vm.name, type, view, &err), &err, "start");
}

/* Files below the repository whose path has @part, and that lie in the quarantine or not. */
static int count_files(const char *part, bool quarantined)
{
	char *out = scratch_output("find '%s/repo' -type f -name '*%s*' %s -path '*/quarantine/*' "
				   "| wc -l",
				   rig.dir, part, quarantined ? "" : "-not");
	int n = atoi(out);

	free(out);
	return n;
}

/* The backup has failed for @reason; nothing of it is left but quarantine; @points files of earlier
 * points are there. */
static void expect_failed(const struct hub_backup_view *view, const char *reason, int points)
{
	char why[CATALOG_ERROR_SIZE];
	struct err err = ERR_INIT;
	struct catalog_completed done;

	assert_true(rig_await(&rig, view->job.id, CATALOG_JOB_FAILED, why));
	if (!strstr(why, reason))
		fail_msg("\"%s\" is not in \"%s\"", reason, why);
	assert_true(rig_await_idle(&rig));
	assert_int_equal(count_files(".part", false), 0);
	assert_int_equal(count_files(".qcow2", false), points);
	assert_true(count_files(".part", true) > 0);
	assert_int_equal(hub_backup_complete(rig.hub, view->job.id, 1, "late/1", &done, &err),
			 HUB_E_STATE);
	assert_non_null(strstr(err.text, "quarantine"));
}

/* An incremental works, and leans on @parent. */
static void expect_next_works(const char *parent)
{
	struct hub_backup_view view;

	agentpeer_set_progress(rig.peer, NULL);
	start_backup(CATALOG_BACKUP_INCREMENTAL, &view);
	assert_string_equal(view.job.parent_backup_id, parent);
	assert_string_equal(view.disks[0].row.parent_change_id, "disk-2000/1");
	rig_finish(&rig, &vm, &view, 5);
	for (int i = 0; i < 2; i++)
		assert_true(rig_point_equals(&rig, view.disks[i].row.qcow2_path, &vm, i));
	hub_backup_view_deinit(&view);
}

/* --- what the log tells --------------------------------------------------------------------- */

/* The messages of a backup's log, one a line. */
static void read_story(const char *id, char *out, size_t size)
{
	struct catalog_job_line *rows = NULL;
	struct err err = ERR_INIT;
	size_t n = 0;

	rig_must(catalog_job_log_list(hub_catalog(rig.hub), id, 0, 1000, &rows, &n, &err), &err,
		 "log");
	out[0] = '\0';
	for (size_t i = 0; i < n; i++)
		snprintf(out + strlen(out), size - strlen(out), "%s %d %s: %s\n",
			 catalog_log_level_name(rows[i].level), rows[i].disk_index, rows[i].phase,
			 rows[i].message);
	free(rows);
}

static void expect_in_order(const char *text, const char *const *parts)
{
	for (; *parts; parts++) {
		const char *at = strstr(text, *parts);

		if (!at)
			fail_msg("\"%s\" does not follow in:\n%s", *parts, text);
		text = at + strlen(*parts);
	}
}

/* --- the agent ------------------------------------------------------------------------------ */

static void an_agent_that_refuses_fails_the_backup_with_its_words(void **state)
{
	struct hub_backup_view view;
	struct catalog_backup *rows;
	struct err err = ERR_INIT;
	char id[CATALOG_ID_SIZE];
	size_t n;

	(void)state;
	start_hub();
	rig_full(&rig, &vm, 1, id);
	agentpeer_set_start(rig.peer, 400, "vm_path is required");
	assert_int_equal(hubrig_backup(&rig, vm.name, CATALOG_BACKUP_FULL, &view, &err),
			 HUB_E_AGENT);
	assert_non_null(strstr(err.text, "vm_path is required"));
	assert_int_equal(catalog_backups_list(hub_catalog(rig.hub), NULL, &rows, &n, NULL, &err),
			 0);
	assert_int_equal(rows[0].status, CATALOG_JOB_FAILED);
	assert_non_null(strstr(rows[0].error_message, "vm_path is required"));
	assert_int_equal(count_files(".part", false), 0);
	free(rows);
	agentpeer_set_start(rig.peer, 200, "{}");
	expect_next_works(id);
}

static void an_agent_out_of_reach_is_named(void **state)
{
	struct hub_backup_view view;
	struct err err = ERR_INIT;

	(void)state;
	start_hub();
	agentpeer_stop(rig.peer);
	assert_int_equal(hubrig_backup(&rig, vm.name, CATALOG_BACKUP_FULL, &view, &err),
			 HUB_E_AGENT);
	assert_non_null(strstr(err.text, "cannot be reached"));
	rig.peer = agentpeer_start();
}

static void nobody_connects_within_the_start_timeout(void **state)
{
	struct hub_backup_view view;

	(void)state;
	start_hub();
	start_backup(CATALOG_BACKUP_FULL, &view);
	rig.config.start_timeout_ms = 150;
	hubrig_retime(&rig);
	expect_failed(&view, "did not connect", 0);
	hub_backup_view_deinit(&view);
}

static void connections_closed_without_complete_fail_after_the_grace(void **state)
{
	struct hub_backup_view view;
	char id[CATALOG_ID_SIZE];

	(void)state;
	start_hub();
	rig_full(&rig, &vm, 1, id);
	start_backup(CATALOG_BACKUP_INCREMENTAL, &view);
	assert_int_equal(rig_send(&rig, &vm, &view.disks[0], 0, MI), 0);
	rig.config.disconnect_grace_ms = 200;
	hubrig_retime(&rig);
	expect_failed(&view, "closed all connections", 2);
	rig.config.disconnect_grace_ms = 60000;
	hub_backup_view_deinit(&view);
	hubrig_stop(&rig);
	hubrig_start(&rig);
	expect_next_works(id);
}

#define GRACE_MS 1000

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

/* Reports for three times the grace, often enough: true when the backup ran all the while. *@gap_ms
 * is the longest the hub may have been without word: whoever was not let run for so long as the
 * grace has kept nothing alive, and has shown nothing. */
static bool runs_while_it_reports(const char *id, int64_t *gap_ms)
{
	const struct hub_telemetry t = {.current_phase = "transferring"};
	const int64_t began = now_ms();
	int64_t last = began, before = began;
	struct catalog_backup row;
	struct err err = ERR_INIT;
	int rc = hub_backup_telemetry(rig.hub, id, &t, &err);

	*gap_ms = 0;
	rig.config.disconnect_grace_ms = GRACE_MS;
	hubrig_retime(&rig);
	while (before - began < 3 * GRACE_MS) {
		nanosleep(&(struct timespec){.tv_nsec = 50 * 1000000L}, NULL);
		before = now_ms();
		rc |= hub_backup_telemetry(rig.hub, id, &t, &err);
		*gap_ms = MAX(*gap_ms, now_ms() - last);
		last = before;
	}
	rc |= catalog_backup_get(hub_catalog(rig.hub), id, &row, &err);
	*gap_ms = MAX(*gap_ms, now_ms() - last);
	return !rc && row.status == CATALOG_JOB_RUNNING;
}

static void telemetry_keeps_a_backup_alive(void **state)
{
	struct hub_backup_view view;
	int64_t gap_ms = GRACE_MS;
	bool runs = false;

	(void)state;
	start_hub();
	for (int i = 0; i < 10 && gap_ms >= GRACE_MS; i++) {
		start_backup(CATALOG_BACKUP_FULL, &view);
		assert_int_equal(rig_send(&rig, &vm, &view.disks[0], 0, MI), 0);
		runs = runs_while_it_reports(view.job.id, &gap_ms);
		if (gap_ms < GRACE_MS)
			continue;
		assert_true(rig_await(&rig, view.job.id, CATALOG_JOB_FAILED, NULL));
		assert_true(rig_await_idle(&rig));
		rig.config.disconnect_grace_ms = 60000;
		hubrig_retime(&rig);
		hub_backup_view_deinit(&view);
	}
	if (gap_ms >= GRACE_MS)
		fail_msg("this machine never let a test run for %d ms", GRACE_MS);
	assert_true(runs);
	expect_failed(&view, "closed all connections", 0);
	hub_backup_view_deinit(&view);
}

static void silence_with_open_connections_fails_too(void **state)
{
	struct hub_backup_view view;
	struct nbdsend c;

	(void)state;
	start_hub();
	start_backup(CATALOG_BACKUP_FULL, &view);
	nbdsend_connect(&c, rig.nbd, view.disks[0].row.export_name);
	rig.config.silence_timeout_ms = 250;
	hubrig_retime(&rig);
	expect_failed(&view, "neither data nor telemetry", 0);
	assert_int_equal(nbdsend_write(&c, 0, vm.content[0], 4096), -1); /* cut off */
	nbdsend_drop(&c);
	hub_backup_view_deinit(&view);
}

static void between_two_disks_only_silence_counts(void **state)
{
	struct hub_backup_view view;
	struct catalog_completed done;
	struct catalog_backup row;
	struct err err = ERR_INIT;

	(void)state;
	start_hub();
	start_backup(CATALOG_BACKUP_FULL, &view);
	assert_int_equal(rig_send(&rig, &vm, &view.disks[0], 0, vm.size[0]), 0);
	assert_int_equal(hub_backup_complete(rig.hub, view.job.id, 0, "a/1", &done, &err), 0);
	rig.config.disconnect_grace_ms = 100;
	hubrig_retime(&rig);
	nanosleep(&(struct timespec){.tv_nsec = 500 * 1000000L}, NULL);
	assert_int_equal(catalog_backup_get(hub_catalog(rig.hub), view.job.id, &row, &err), 0);
	assert_int_equal(row.status, CATALOG_JOB_RUNNING);
	hub_backup_view_deinit(&view);
}

static void what_the_agent_reports_is_the_reason(void **state)
{
	struct hub_backup_view view;

	(void)state;
	start_hub();
	start_backup(CATALOG_BACKUP_FULL, &view);
	agentpeer_set_progress(rig.peer, json_pack("{s:s}", "status", "running"));
	assert_int_equal(rig_send(&rig, &vm, &view.disks[0], 0, MI), 0);
	agentpeer_set_progress(rig.peer, json_pack("{s:s,s:s}", "status", "failed", "error",
						   "reading the source: Input/output error"));
	expect_failed(&view, "agent reports: reading the source: Input/output error", 0);
	hub_backup_view_deinit(&view);
}

/* Silence is told before it is a failure, and told once. */
static void silence_is_told_before_it_fails(void **state)
{
	static const char *const told[] = {
		"warning -1 copy: neither data nor telemetry from the agent for 0 s", NULL};
	struct hub_backup_view view;
	struct nbdsend c;
	char text[8192] = "";

	(void)state;
	start_hub();
	start_backup(CATALOG_BACKUP_FULL, &view);
	nbdsend_connect(&c, rig.nbd, view.disks[0].row.export_name);
	rig.config.stall_warning_ms = 50;
	hubrig_retime(&rig);
	for (int i = 0; i < 6000 && !strstr(text, "warning"); i++) {
		nanosleep(&(struct timespec){.tv_nsec = 10 * 1000000L}, NULL);
		read_story(view.job.id, text, sizeof(text));
	}
	nanosleep(&(struct timespec){.tv_nsec = 200 * 1000000L}, NULL);
	read_story(view.job.id, text, sizeof(text));
	expect_in_order(text, told);
	assert_null(strstr(strstr(text, "warning") + 1, "warning"));
	assert_int_equal(nbdsend_write(&c, 0, vm.content[0], 4096), 0);
	nbdsend_drop(&c);
	hub_backup_view_deinit(&view);
}

/* The times and the agent's address change under a running hub. */
static void what_can_change_changes_while_backups_run(void **state)
{
	struct agentpeer *other = agentpeer_start();
	struct hub_config config;
	struct hub_backup_view view;
	struct err err = ERR_INIT;
	json_t *asked;

	(void)state;
	start_hub();
	start_backup(CATALOG_BACKUP_FULL, &view);
	config = rig.config;
	config.agent_url = "here";
	config.start_timeout_ms = 1;
	assert_int_equal(hub_reconfigure(rig.hub, &config, &err), HUB_E_INVALID);
	nanosleep(&(struct timespec){.tv_nsec = 100 * 1000000L}, NULL);
	assert_int_equal(hub_running_backups(rig.hub), 1);
	config.agent_url = agentpeer_url(other);
	assert_int_equal(hub_reconfigure(rig.hub, &config, &err), 0);
	expect_failed(&view, "did not connect", 0);
	hub_backup_view_deinit(&view);
	start_backup(CATALOG_BACKUP_FULL, &view);
	asked = agentpeer_last_start(other);
	assert_string_equal(json_string_value(json_object_get(asked, "job_id")), view.job.id);
	json_decref(asked);
	hub_backup_view_deinit(&view);
	hubrig_stop(&rig);
	agentpeer_stop(other);
}

/* --- cancelling ----------------------------------------------------------------------------- */

static int cancel(const char *id, const char *reason, bool *already, struct err *err)
{
	const struct hub_cancel_request req = {.reason = reason};

	return hub_backup_cancel(rig.hub, id, &req, already, err);
}

static struct catalog_backup_context context_of(const struct hub_backup_view *view)
{
	struct catalog_backup_context ctx;
	struct err err = ERR_INIT;

	rig_must(catalog_backup_context_get(hub_catalog(rig.hub), view->job.vm_backup_context_id,
					    &ctx, &err),
		 &err, "context");
	return ctx;
}

static void a_cancelled_backup_cuts_its_clients_and_leaves_nothing(void **state)
{
	struct hub_backup_view view, after;
	struct err err = ERR_INIT;
	char id[CATALOG_ID_SIZE];
	struct nbdsend c;
	bool already;

	(void)state;
	start_hub();
	rig_full(&rig, &vm, 1, id);
	start_backup(CATALOG_BACKUP_INCREMENTAL, &view);
	nbdsend_connect(&c, rig.nbd, view.disks[0].row.export_name);
	assert_int_equal(nbdsend_write(&c, 0, vm.content[0], RIG_CHUNK), 0);
	assert_int_equal(cancel(view.job.id, "wrong VM", &already, &err), 0);
	assert_false(already);
	assert_int_not_equal(nbdsend_write(&c, 0, vm.content[0], RIG_CHUNK), 0);
	nbdsend_drop(&c);

	assert_int_equal(hub_backup_get(rig.hub, view.job.id, &after, &err), 0);
	assert_int_equal(after.job.status, CATALOG_JOB_CANCELLED);
	assert_string_equal(after.job.error_message, "cancelled on request: wrong VM");
	assert_int_equal(after.disks[0].row.status, CATALOG_DISK_FAILED);
	assert_int_equal(hub_running_backups(rig.hub), 0);
	assert_int_equal(count_files(".part", false), 0);
	assert_int_equal(count_files("", true), 0);
	assert_int_equal(count_files(".qcow2", false), 2);

	assert_int_equal(cancel(view.job.id, "again", &already, &err), 0);
	assert_true(already);
	assert_int_equal(context_of(&view).total_backups_run, 2);
	assert_int_equal(context_of(&view).failed_backups, 1);
	assert_int_equal(context_of(&view).successful_backups, 1);
	assert_int_equal(cancel(id, NULL, &already, &err), HUB_E_STATE);
	assert_non_null(strstr(err.text, "completed"));
	assert_int_equal(cancel("backup-none", NULL, &already, &err), HUB_E_NOT_FOUND);
	hub_backup_view_deinit(&after);
	hub_backup_view_deinit(&view);
	expect_next_works(id);
}

static void a_cancelled_backup_keeps_its_partial_when_told_to(void **state)
{
	const bool keep = true;
	const struct hub_cancel_request req = {.keep_partial = &keep};
	struct hub_backup_view view;
	struct catalog_completed done;
	struct err err = ERR_INIT;
	bool already;

	(void)state;
	start_hub();
	start_backup(CATALOG_BACKUP_FULL, &view);
	assert_int_equal(rig_send(&rig, &vm, &view.disks[0], 0, MI), 0);
	assert_int_equal(hub_backup_cancel(rig.hub, view.job.id, &req, &already, &err), 0);
	assert_true(count_files(".part", true) > 0);
	assert_int_equal(count_files(".part", false), 0);
	/* the agent did not hear of it */
	assert_int_equal(hub_backup_complete(rig.hub, view.job.id, 0, "late/1", &done, &err),
			 HUB_E_STATE);
	assert_non_null(strstr(err.text, "cancelled on request"));
	hub_backup_view_deinit(&view);
}

static void the_setting_decides_what_a_cancel_leaves(void **state)
{
	struct hub_backup_view view;
	struct err err = ERR_INIT;
	bool already;

	(void)state;
	rig.config.cancel_keeps_partial = true;
	start_hub();
	start_backup(CATALOG_BACKUP_FULL, &view);
	assert_int_equal(rig_send(&rig, &vm, &view.disks[0], 0, MI), 0);
	assert_int_equal(cancel(view.job.id, NULL, &already, &err), 0);
	assert_true(count_files(".part", true) > 0);
	hub_backup_view_deinit(&view);
}

struct starter {
	int rc;
	struct err err;
};

static void *start_in_thread(void *arg)
{
	struct starter *s = arg;
	struct hub_backup_view view;

	s->rc = hubrig_backup(&rig, vm.name, CATALOG_BACKUP_FULL, &view, &s->err);
	return NULL;
}

/* The id of the backup that waits for its agent. */
static void await_pending(char id[CATALOG_ID_SIZE])
{
	struct catalog_backup *rows = NULL;
	size_t n = 0;

	for (int i = 0; i < 6000 && !n; i++) {
		assert_int_equal(catalog_backups_running(hub_catalog(rig.hub), &rows, &n, NULL), 0);
		if (n)
			strcpy(id, rows[0].id);
		free(rows);
		nanosleep(&(struct timespec){.tv_nsec = 10 * 1000000L}, NULL);
	}
	assert_int_equal(n, 1);
}

static void a_start_that_waits_for_its_agent_is_cancelled_at_once(void **state)
{
	struct starter s = {.rc = -1};
	struct err err = ERR_INIT;
	char id[CATALOG_ID_SIZE];
	bool already;
	pthread_t t;

	(void)state;
	start_hub();
	agentpeer_hold(rig.peer);
	pthread_create(&t, NULL, start_in_thread, &s);
	await_pending(id);
	assert_int_equal(cancel(id, "not now", &already, &err), 0);
	pthread_join(t, NULL);
	assert_int_equal(s.rc, HUB_E_STATE);
	assert_non_null(strstr(s.err.text, "cancelled"));
	agentpeer_release(rig.peer);
	assert_true(rig_await(&rig, id, CATALOG_JOB_CANCELLED, NULL));
	assert_int_equal(count_files(".part", false), 0);
}

struct completer {
	const char *id;
	int rc;
	struct catalog_completed done;
};

static void *complete_in_thread(void *arg)
{
	struct completer *c = arg;
	struct err err = ERR_INIT;

	c->rc = hub_backup_complete(rig.hub, c->id, 1, "b/1", &c->done, &err);
	return NULL;
}

/* Of a cancel and the last disk's complete one wins, and both are told the same. */
static void a_cancel_that_meets_the_last_complete_has_one_outcome(void **state)
{
	int completed = 0, cancelled = 0;

	(void)state;
	start_hub();
	for (int round = 0; round < 12; round++) {
		struct completer c = {.rc = -1};
		struct hub_backup_view view, after;
		struct catalog_completed done;
		struct err err = ERR_INIT;
		struct timespec head_start = {.tv_nsec = (round % 6) * 400000L};
		bool already;
		pthread_t t;
		int rc;

		start_backup(CATALOG_BACKUP_FULL, &view);
		assert_int_equal(hub_backup_complete(rig.hub, view.job.id, 0, "a/1", &done, &err),
				 0);
		c.id = view.job.id;
		pthread_create(&t, NULL, complete_in_thread, &c);
		nanosleep(&head_start, NULL);
		rc = cancel(view.job.id, NULL, &already, &err);
		pthread_join(t, NULL);
		assert_int_equal(hub_backup_get(rig.hub, view.job.id, &after, &err), 0);
		if (after.job.status == CATALOG_JOB_COMPLETED) {
			assert_int_equal(c.rc, 0);
			assert_int_equal(rc, HUB_E_STATE);
			completed++;
		} else {
			assert_int_equal(after.job.status, CATALOG_JOB_CANCELLED);
			assert_int_equal(c.rc, HUB_E_STATE);
			assert_int_equal(rc, 0);
			cancelled++;
		}
		assert_int_equal(context_of(&view).successful_backups, completed);
		assert_int_equal(context_of(&view).failed_backups, cancelled);
		hub_backup_view_deinit(&after);
		hub_backup_view_deinit(&view);
	}
}

/* Stopped at once; recorded as soon as the catalog answers. */
static void a_cancel_the_catalog_refuses_is_recorded_later(void **state)
{
	struct hub_backup_view view;
	struct err err = ERR_INIT;
	char why[CATALOG_ERROR_SIZE];
	struct nbdsend c;
	bool already;

	(void)state;
	start_hub();
	start_backup(CATALOG_BACKUP_FULL, &view);
	nbdsend_connect(&c, rig.nbd, view.disks[0].row.export_name);
	tmpdb_sql(&rig.db, "CREATE TRIGGER refuse BEFORE UPDATE ON backup_jobs %s",
		  tmpdb_either("BEGIN SELECT RAISE(ABORT, 'refused by the test'); END",
			       "FOR EACH ROW SIGNAL SQLSTATE '45000'"));
	assert_int_equal(cancel(view.job.id, "now", &already, &err), -EBUSY);
	assert_int_not_equal(nbdsend_write(&c, 0, vm.content[0], 4096), 0);
	nbdsend_drop(&c);
	assert_int_equal(cancel(view.job.id, "now", &already, &err), -EBUSY);
	tmpdb_sql(&rig.db, "DROP TRIGGER refuse");
	assert_true(rig_await(&rig, view.job.id, CATALOG_JOB_CANCELLED, why));
	assert_string_equal(why, "cancelled on request: now");
	hub_backup_view_deinit(&view);
}

/* --- the story ------------------------------------------------------------------------------ */

static void every_step_is_in_the_log_with_the_reason_of_every_full(void **state)
{
	static const char *const good[] = {
		"info -1 start: incremental backup of VM \"pgtest1\" begins: 2 disks",
		"info 0 start: full of 8388608 bytes, because no previous point",
		"info 1 start: full of",
		"info -1 running: the capture agent accepted",
		"info 0 commit: committed: ",
		"info 1 commit: committed: ",
		"info -1 end: backup completed",
		NULL};
	static const char *const bad[] = {"info 0 start: incremental of 8388608 bytes",
					  "warning -1 end: backup cancelled: cancelled on request",
					  NULL};
	struct hub_backup_view view;
	struct err err = ERR_INIT;
	char text[8192];
	bool already;

	(void)state;
	start_hub();
	start_backup(CATALOG_BACKUP_INCREMENTAL, &view);
	rig_finish(&rig, &vm, &view, 1);
	read_story(view.job.id, text, sizeof(text));
	expect_in_order(text, good);
	hub_backup_view_deinit(&view);
	start_backup(CATALOG_BACKUP_INCREMENTAL, &view);
	assert_int_equal(cancel(view.job.id, NULL, &already, &err), 0);
	read_story(view.job.id, text, sizeof(text));
	expect_in_order(text, bad);
	hub_backup_view_deinit(&view);
}

/* --- the repository ------------------------------------------------------------------------- */

/* A file size limit stands in for a full disk: the write behind fails, after it was acknowledged.
 */
static void a_disk_error_behind_the_ack_fails_the_backup_with_its_name(void **state)
{
	struct rlimit old, limit;
	struct hub_backup_view view;
	char id[CATALOG_ID_SIZE];

	(void)state;
	start_hub();
	rig_full(&rig, &vm, 1, id);
	start_backup(CATALOG_BACKUP_INCREMENTAL, &view);
	rig_vm_change(&vm, 0, 0, vm.size[0]);
	getrlimit(RLIMIT_FSIZE, &old);
	limit = old;
	limit.rlim_cur = 2 * MI;
	signal(SIGXFSZ, SIG_IGN);
	setrlimit(RLIMIT_FSIZE, &limit);
	rig_send(&rig, &vm, &view.disks[0], 0, vm.size[0]);
	expect_failed(&view, "File too large", 2);
	setrlimit(RLIMIT_FSIZE, &old);
	hub_backup_view_deinit(&view);
	expect_next_works(id);
}

static void a_failed_backup_keeps_its_committed_disk_but_offers_nothing(void **state)
{
	struct hub_backup_view view, after;
	struct catalog_completed done;
	struct hub_change_id asked;
	struct err err = ERR_INIT;
	char id[CATALOG_ID_SIZE];

	(void)state;
	start_hub();
	rig_full(&rig, &vm, 1, id);
	start_backup(CATALOG_BACKUP_INCREMENTAL, &view);
	assert_int_equal(rig_send(&rig, &vm, &view.disks[0], 0, vm.size[0]), 0);
	assert_int_equal(hub_backup_complete(rig.hub, view.job.id, 0, "disk-2000/2", &done, &err),
			 0);
	assert_int_equal(rig_send(&rig, &vm, &view.disks[1], 0, 512), 0);
	rig.config.disconnect_grace_ms = 200;
	hubrig_retime(&rig);
	expect_failed(&view, "closed all connections", 3);
	assert_int_equal(hub_backup_get(rig.hub, view.job.id, &after, &err), 0);
	assert_int_equal(after.disks[0].row.status, CATALOG_DISK_COMPLETED);
	assert_int_equal(after.disks[1].row.status, CATALOG_DISK_FAILED);
	assert_int_equal(hub_backup_change_id(rig.hub, vm.name, 0, &asked, &err), 0);
	assert_string_equal(asked.change_id, "disk-2000/1");
	hub_backup_view_deinit(&view);
	hub_backup_view_deinit(&after);
	hubrig_stop(&rig);
	rig.config.disconnect_grace_ms = 60000;
	hubrig_start(&rig);
	expect_next_works(id);
}

/* --- the catalog ---------------------------------------------------------------------------- */

/* The commit transaction fails, and so does the one that would record the failure, for a while. */
static void a_catalog_that_refuses_a_commit_is_told_of_the_failure_later(void **state)
{
	struct hub_backup_view view, second;
	struct catalog_completed done;
	struct catalog_backup row;
	struct err err = ERR_INIT;
	char id[CATALOG_ID_SIZE];

	(void)state;
	start_hub();
	rig_full(&rig, &vm, 1, id);
	start_backup(CATALOG_BACKUP_INCREMENTAL, &view);
	assert_int_equal(rig_send(&rig, &vm, &view.disks[0], 0, vm.size[0]), 0);
	tmpdb_sql(&rig.db, "CREATE TRIGGER refuse BEFORE UPDATE ON backup_disks %s",
		  tmpdb_either("BEGIN SELECT RAISE(ABORT, 'refused by the test'); END",
			       "FOR EACH ROW SIGNAL SQLSTATE '45000'"));
	assert_int_not_equal(
		hub_backup_complete(rig.hub, view.job.id, 0, "disk-2000/2", &done, &err), 0);
	assert_int_equal(catalog_backup_get(hub_catalog(rig.hub), view.job.id, &row, &err), 0);
	assert_int_equal(row.status, CATALOG_JOB_RUNNING);
	assert_int_equal(hubrig_backup(&rig, vm.name, CATALOG_BACKUP_FULL, &second, &err),
			 HUB_E_BUSY);
	tmpdb_sql(&rig.db, "DROP TRIGGER refuse");
	expect_failed(&view, "", 2);
	hub_backup_view_deinit(&view);
	expect_next_works(id);
}

/* A hub whose way to its database goes through a proxy. */
static struct dbproxy *start_hub_behind_proxy(void)
{
	struct dbproxy *proxy;
	char sock[300];

	snprintf(sock, sizeof(sock), "%s/proxy", rig.db.dir);
	proxy = dbproxy_start(sock, tmpdb_server()->sock);
	snprintf(rig.db.url, sizeof(rig.db.url), "mariadb://root@localhost/%s?socket=%s",
		 rig.db.name, sock);
	start_hub();
	return proxy;
}

/* The rows of the job may be there or not, and the database is silent for long. */
static void a_start_whose_outcome_is_unknown_takes_the_vm_until_it_is_known(void **state)
{
	struct dbproxy *proxy = start_hub_behind_proxy();
	struct hub_backup_view view;
	struct err err = ERR_INIT;
	char id[CATALOG_ID_SIZE];

	(void)state;
	rig_full(&rig, &vm, 1, id);
	/* The first commit makes the context, the second the job. */
	dbproxy_cut_at(proxy, "COMMIT", 2, DBPROXY_AFTER, true);
	assert_int_equal(hubrig_backup(&rig, vm.name, CATALOG_BACKUP_INCREMENTAL, &view, &err),
			 -ECONNABORTED);
	assert_int_equal(tmpdb_i64(&rig.db, "SELECT COUNT(*) FROM backup_jobs"), 2);
	dbproxy_refuse(proxy, false);
	for (int i = 0; i < 6000; i++) {
		if (!tmpdb_i64(&rig.db, "SELECT COUNT(*) FROM backup_jobs WHERE status NOT IN"
					" ('completed', 'failed')"))
			break;
		nanosleep(&(struct timespec){.tv_nsec = 10 * 1000000L}, NULL);
	}
	assert_int_equal(tmpdb_i64(&rig.db, "SELECT COUNT(*) FROM backup_jobs WHERE status ="
					    " 'failed'"),
			 1);
	expect_next_works(id);
	hubrig_stop(&rig);
	dbproxy_stop(proxy);
}

struct incremental {
	int rc;
	struct hub_backup_view view;
	struct err err;
};

static void *incremental_in_thread(void *arg)
{
	struct incremental *s = arg;

	s->rc = hubrig_backup(&rig, vm.name, CATALOG_BACKUP_INCREMENTAL, &s->view, &s->err);
	return NULL;
}

/* Between the plan and the job's rows the point that was chosen is taken away. */
static void a_parent_lost_while_a_start_is_planned_is_planned_again(void **state)
{
	struct dbproxy *proxy = start_hub_behind_proxy();
	struct incremental s = {.err = ERR_INIT};
	struct hub_backup_view view;
	char id[CATALOG_ID_SIZE];
	pthread_t t;

	(void)state;
	rig_full(&rig, &vm, 1, id);
	start_backup(CATALOG_BACKUP_INCREMENTAL, &view);
	rig_finish(&rig, &vm, &view, 2);
	/* The first transaction looks after the context, the second makes the job. */
	dbproxy_cut_at(proxy, "START TRANSACTION", 2, DBPROXY_HOLD, false);
	pthread_create(&t, NULL, incremental_in_thread, &s);
	dbproxy_await_held(proxy);
	tmpdb_sql(&rig.db, "UPDATE backup_jobs SET status = 'failed' WHERE id = '%s'", view.job.id);
	dbproxy_go_on(proxy);
	pthread_join(t, NULL);
	assert_int_equal(s.rc, 0);
	assert_string_equal(s.view.job.parent_backup_id, id);
	assert_string_equal(s.view.disks[1].row.parent_change_id, "disk-2001/1");
	rig_finish(&rig, &vm, &s.view, 3);
	for (int i = 0; i < 2; i++)
		assert_true(rig_point_equals(&rig, s.view.disks[i].row.qcow2_path, &vm, i));
	hub_backup_view_deinit(&s.view);
	hub_backup_view_deinit(&view);
	hubrig_stop(&rig);
	dbproxy_stop(proxy);
}

/* The disk's image is final under its name when the answer to the commit is lost. */
static void a_commit_whose_answer_is_lost_is_a_point_all_the_same(void **state)
{
	struct dbproxy *proxy = start_hub_behind_proxy();
	struct catalog_completed done;
	struct hub_backup_view view;
	struct err err = ERR_INIT;

	(void)state;
	start_backup(CATALOG_BACKUP_FULL, &view);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(rig_send(&rig, &vm, &view.disks[i], 0, vm.size[i]), 0);
		dbproxy_cut_at(proxy, "COMMIT", 1, i ? DBPROXY_AFTER : DBPROXY_BEFORE, false);
		assert_int_equal(hub_backup_complete(rig.hub, view.job.id, i, "x/1", &done, &err),
				 0);
		assert_true(dbproxy_has_cut(proxy));
	}
	assert_int_equal(done.job_status, CATALOG_JOB_COMPLETED);
	assert_true(rig_point_equals(&rig, view.disks[1].row.qcow2_path, &vm, 1));
	hub_backup_view_deinit(&view);
	hubrig_stop(&rig);
	dbproxy_stop(proxy);
}

/* The commit of disk 0 is in doubt, and when the database answers again another hub has the backup:
 * what is known then decides about the image under its final name. */
static void lose_the_backup_while_a_commit_is_in_doubt(enum dbproxy_cut when)
{
	struct dbproxy *proxy = start_hub_behind_proxy();
	struct catalog_completed done;
	struct hub_backup_view view;
	struct err err = ERR_INIT;
	char id[CATALOG_ID_SIZE];

	rig_full(&rig, &vm, 1, id);
	start_backup(CATALOG_BACKUP_INCREMENTAL, &view);
	/* So little that nothing else is said of it, and written to the log. */
	assert_int_equal(rig_send(&rig, &vm, &view.disks[0], 0, MI), 0);
	dbproxy_cut_at(proxy, "COMMIT", 1, when, true);
	assert_int_not_equal(
		hub_backup_complete(rig.hub, view.job.id, 0, "disk-2000/2", &done, &err), 0);
	assert_true(dbproxy_has_cut(proxy));
	assert_int_equal(count_files(".qcow2", false), 3);
	tmpdb_sql(&rig.db,
		  "INSERT INTO hubs (token, id, name, instance, started_at, heartbeat_at,"
		  " steady_since, lease_until) VALUES (1000, 'hub-other', 'other', 'data-other', 1,"
		  " 1, 1, 9000000000000000);"
		  "UPDATE backup_jobs SET hub_token = 1000 WHERE id = '%s'",
		  view.job.id);
	dbproxy_refuse(proxy, false);
	for (int i = 0; i < 2000 && hub_running_backups(rig.hub); i++)
		nanosleep(&(struct timespec){.tv_nsec = 10 * 1000000L}, NULL);
	assert_int_equal(hub_running_backups(rig.hub), 0);

	/* It wrote nothing of the other's, and left no partial image. */
	assert_int_equal(tmpdb_i64(&rig.db,
				   "SELECT COUNT(*) FROM backup_jobs WHERE id = '%s'"
				   " AND status = 'running'",
				   view.job.id),
			 1);
	assert_int_equal(count_files(".part", false), 0);
	assert_int_equal(count_files(".qcow2", false), when == DBPROXY_AFTER ? 3 : 2);
	assert_int_equal(count_files(".qcow2", true), when == DBPROXY_AFTER ? 1 : 2);
	if (when == DBPROXY_AFTER)
		assert_true(rig_point_equals(&rig, view.disks[0].row.qcow2_path, &vm, 0));
	hub_backup_view_deinit(&view);
	hubrig_stop(&rig);
	dbproxy_stop(proxy);
}

static void a_commit_in_doubt_that_was_none_leaves_no_image_to_the_next_hub(void **state)
{
	(void)state;
	lose_the_backup_while_a_commit_is_in_doubt(DBPROXY_BEFORE);
}

static void a_commit_in_doubt_that_was_one_keeps_its_image(void **state)
{
	(void)state;
	lose_the_backup_while_a_commit_is_in_doubt(DBPROXY_AFTER);
}

static void a_database_killed_in_mid_backup_and_started_again_costs_nothing(void **state)
{
	struct catalog_completed done;
	struct hub_backup_view view;
	struct err err = ERR_INIT;

	(void)state;
	start_hub();
	start_backup(CATALOG_BACKUP_FULL, &view);
	assert_int_equal(rig_send(&rig, &vm, &view.disks[0], 0, vm.size[0]), 0);
	mariadbd_kill(tmpdb_server());
	assert_int_equal(rig_send(&rig, &vm, &view.disks[1], 0, vm.size[1]), 0);
	mariadbd_start(tmpdb_server());
	for (int i = 0; i < 2; i++)
		assert_int_equal(hub_backup_complete(rig.hub, view.job.id, i, "x/1", &done, &err),
				 0);
	assert_int_equal(done.job_status, CATALOG_JOB_COMPLETED);
	assert_true(rig_point_equals(&rig, view.disks[0].row.qcow2_path, &vm, 0));
	hub_backup_view_deinit(&view);
}

/* --- the hub's own end ---------------------------------------------------------------------- */

static void a_hub_that_stops_fails_what_runs(void **state)
{
	struct hub_backup_view view;

	(void)state;
	start_hub();
	start_backup(CATALOG_BACKUP_FULL, &view);
	assert_int_equal(rig_send(&rig, &vm, &view.disks[0], 0, MI), 0);
	hubrig_stop(&rig);
	hubrig_start(&rig);
	expect_failed(&view, "hub was stopped", 0);
	hub_backup_view_deinit(&view);
}

static void a_second_hub_on_the_same_data_is_refused(void **state)
{
	static const char *const listen[] = {"127.0.0.1:0"};
	struct hub_config config;
	struct hub *second;
	struct err err = ERR_INIT;
	char data[300];

	(void)state;
	start_hub();
	snprintf(data, sizeof(data), "%s/data", rig.dir);
	config = rig.config;
	config.data_dir = data;
	config.agent_url = agentpeer_url(rig.peer);
	config.nbd_listen = listen;
	assert_int_equal(hub_start(&second, &config, &err), HUB_E_EXISTS);
	assert_non_null(strstr(err.text, "another hub"));
}

struct crash_note {
	char full[CATALOG_ID_SIZE], id[CATALOG_ID_SIZE];
	char part[CATALOG_PATH_SIZE + 8], path[CATALOG_PATH_SIZE];
};

/* Another process, on this test's folder and database: a full; an incremental whose disk 0 is
 * committed and whose disk 1 is under way; and then nothing any more, as after SIGKILL. */
static int crash_main(const char *dir, const char *db_url)
{
	struct hub_backup_view view;
	struct catalog_completed done;
	struct crash_note note;
	struct err err = ERR_INIT;

	snprintf(rig.dir, sizeof(rig.dir), "%s", dir);
	snprintf(rig.db.url, sizeof(rig.db.url), "%s", db_url);
	hubrig_equip(&rig);
	make_vm();
	start_hub();
	rig_full(&rig, &vm, 1, note.full);
	start_backup(CATALOG_BACKUP_INCREMENTAL, &view);
	if (rig_send(&rig, &vm, &view.disks[0], 0, vm.size[0]) ||
	    rig_send(&rig, &vm, &view.disks[1], 0, MI))
		_exit(2);
	rig_must(hub_backup_complete(rig.hub, view.job.id, 0, "disk-2000/2", &done, &err), &err,
		 "complete");
	strcpy(note.id, view.job.id);
	strcpy(note.path, view.disks[1].row.qcow2_path);
	snprintf(note.part, sizeof(note.part), "%s.part", note.path);
	_exit(write(STDOUT_FILENO, &note, sizeof(note)) == sizeof(note) ? 0 : 3);
}

static void crash(struct crash_note *note)
{
	int fds[2], status;
	ssize_t n;
	pid_t pid;

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		dup2(fds[1], STDOUT_FILENO);
		execl("/proc/self/exe", "test_failure", "--crash", rig.dir, rig.db.url, NULL);
		_exit(127);
	}
	close(fds[1]);
	n = read(fds[0], note, sizeof(*note));
	close(fds[0]);
	waitpid(pid, &status, 0);
	assert_int_equal(status, 0);
	assert_int_equal(n, sizeof(*note));
	hubrig_show(&rig, &vm, 1);
}

/* @left is how far `complete` of disk 1 had come. */
static void crash_and_recover(int left)
{
	struct crash_note note;
	struct catalog_repository *repos;
	struct hub_backup_view view;
	struct err err = ERR_INIT;
	char sidecar[CATALOG_PATH_SIZE + 8];
	struct stat st;
	size_t n;

	crash(&note);
	snprintf(sidecar, sizeof(sidecar), "%.*s.json", (int)strlen(note.path) - 6, note.path);
	assert_int_equal(stat(note.part, &st), 0);
	if (left >= 1)
		assert_int_equal(rename(note.part, note.path), 0);
	if (left >= 2)
		assert_int_equal(scratch_run("echo '{}' > '%s'", sidecar), 0);

	hubrig_start(&rig);
	assert_int_equal(catalog_repositories_list(hub_catalog(rig.hub), &repos, &n, &err), 0);
	strcpy(rig.repository, repos[0].id);
	free(repos);
	assert_int_equal(hub_backup_get(rig.hub, note.id, &view, &err), 0);
	assert_int_equal(view.job.status, CATALOG_JOB_FAILED);
	assert_non_null(strstr(view.job.error_message, "hub was restarted"));
	assert_int_not_equal(stat(note.part, &st), 0);
	assert_int_not_equal(stat(note.path, &st), 0);
	assert_int_not_equal(stat(sidecar, &st), 0);
	assert_int_equal(count_files("disk-1_incr", true), left >= 2 ? 2 : 1);
	assert_int_equal(count_files(".qcow2", false), 3);
	hub_backup_view_deinit(&view);
	expect_next_works(note.full);
}

static void after_a_crash_mid_copy_the_next_backup_works(void **state)
{
	(void)state;
	crash_and_recover(0);
}

static void after_a_crash_behind_the_rename_nothing_is_offered(void **state)
{
	(void)state;
	crash_and_recover(1);
}

static void after_a_crash_behind_the_sidecar_nothing_is_offered(void **state)
{
	(void)state;
	crash_and_recover(2);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(after_a_crash_mid_copy_the_next_backup_works),
		T(after_a_crash_behind_the_rename_nothing_is_offered),
		T(after_a_crash_behind_the_sidecar_nothing_is_offered),
		T(an_agent_that_refuses_fails_the_backup_with_its_words),
		T(an_agent_out_of_reach_is_named),
		T(nobody_connects_within_the_start_timeout),
		T(connections_closed_without_complete_fail_after_the_grace),
		T(telemetry_keeps_a_backup_alive),
		T(silence_with_open_connections_fails_too),
		T(between_two_disks_only_silence_counts),
		T(what_the_agent_reports_is_the_reason),
		T(silence_is_told_before_it_fails),
		T(what_can_change_changes_while_backups_run),
		T(a_cancelled_backup_cuts_its_clients_and_leaves_nothing),
		T(a_cancelled_backup_keeps_its_partial_when_told_to),
		T(the_setting_decides_what_a_cancel_leaves),
		T(a_start_that_waits_for_its_agent_is_cancelled_at_once),
		T(a_cancel_that_meets_the_last_complete_has_one_outcome),
		T(a_cancel_the_catalog_refuses_is_recorded_later),
		T(every_step_is_in_the_log_with_the_reason_of_every_full),
		T(a_disk_error_behind_the_ack_fails_the_backup_with_its_name),
		T(a_failed_backup_keeps_its_committed_disk_but_offers_nothing),
		T(a_catalog_that_refuses_a_commit_is_told_of_the_failure_later),
		T(a_hub_that_stops_fails_what_runs),
		T(a_second_hub_on_the_same_data_is_refused),
	};

	const struct CMUnitTest server_tests[] = {
		T(a_start_whose_outcome_is_unknown_takes_the_vm_until_it_is_known),
		T(a_parent_lost_while_a_start_is_planned_is_planned_again),
		T(a_commit_whose_answer_is_lost_is_a_point_all_the_same),
		T(a_commit_in_doubt_that_was_none_leaves_no_image_to_the_next_hub),
		T(a_commit_in_doubt_that_was_one_keeps_its_image),
		T(a_database_killed_in_mid_backup_and_started_again_costs_nothing),
	};

	if (argc == 4 && !strcmp(argv[1], "--crash"))
		return crash_main(argv[2], argv[3]);
	return tmpdb_run_tests("hub/failure", tests, NULL, NULL) +
	       tmpdb_run_tests_on("mariadb", "hub/failure of the server", server_tests, NULL, NULL);
}
