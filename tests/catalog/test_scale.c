/*
 * A big catalog: 1,000 VMs with 2 disks and 50 backups each, so 100,000 disk rows (CATALOG_SCALE=10
 * makes it 10,000 VMs and 1,000,000 rows). No statement of the lookups on the agent's path may walk
 * a table, and none may take 10 ms.
 *
 * What a call takes is the least of many: whatever else this machine does adds to a call and never
 * takes away from it, and says nothing about the catalog. A call that takes too long takes it each
 * time.
 *
 * The statements are not copied here: the database tells which it ran. SQLite by a trace, which is
 * put on each connection as it opens; MariaDB by its general log. Each one seen is explained
 * afterwards.
 */
#include "tests/catalog/fixture.h"

#include <sqlite3.h>
#include <time.h>

#include "catalog/hubs.h"

static struct {
	bool on;
	char *seen[4096];
	size_t n;
} trace;

static void note_statement(const char *text)
{
	for (size_t i = 0; i < trace.n; i++)
		if (!strcmp(trace.seen[i], text))
			return;
	if (trace.n < ARRAY_SIZE(trace.seen))
		trace.seen[trace.n++] = strdup(text);
}

static int on_statement(unsigned int type, void *ctx, void *st, void *text)
{
	(void)type;
	(void)ctx;
	(void)st;
	if (trace.on && strncmp(text, "--", 2))
		note_statement(text);
	return 0;
}

static int on_open(sqlite3 *h, char **err, const void *api)
{
	(void)err;
	(void)api;
	return sqlite3_trace_v2(h, SQLITE_TRACE_STMT, on_statement, NULL);
}

/* Connections that are to be traced open after this. */
static void trace_start(struct fx *fx)
{
	while (trace.n) /* of a run that failed */
		free(trace.seen[--trace.n]);
	if (tmpdb_on_mariadb())
		tmpdb_sql(&fx->t, "SET GLOBAL log_output = 'TABLE'; SET GLOBAL general_log = ON");
	else
		sqlite3_auto_extension((void (*)(void))on_open);
	trace.on = true;
}

/* The log costs more than the statements: off while they are timed. */
static void trace_pause(struct fx *fx, bool pause)
{
	if (tmpdb_on_mariadb())
		tmpdb_sql(&fx->t, "SET GLOBAL general_log = %s", pause ? "OFF" : "ON");
}

static void trace_stop(struct fx *fx)
{
	MYSQL *h;
	MYSQL_RES *res;
	MYSQL_ROW row;

	trace.on = false;
	trace_pause(fx, true);
	sqlite3_reset_auto_extension();
	if (!tmpdb_on_mariadb())
		return;
	h = mariadbd_connect(tmpdb_server(), fx->t.name);
	assert_int_equal(mysql_query(h, "SELECT argument FROM mysql.general_log"
					" WHERE command_type = 'Execute'"),
			 0);
	res = mysql_store_result(h);
	while ((row = mysql_fetch_row(res)))
		note_statement(row[0]);
	mysql_free_result(res);
	mysql_close(h);
}

static int scale(void)
{
	const char *s = getenv("CATALOG_SCALE");

	return s && atoi(s) > 0 ? atoi(s) : 1;
}

/* Bulk rows; each VM's are like what 50 backups of it leave behind. */
static void fill(struct fx *fx, int vms)
{
	tmpdb_sql(
		&fx->t,
		"%s BEGIN;"
		"CREATE TEMPORARY TABLE vm AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT"
		" i + 1 FROM n WHERE i < %d) SELECT i FROM n;"
		"CREATE TEMPORARY TABLE run AS WITH RECURSIVE n(k) AS (SELECT 1 UNION ALL SELECT"
		" k + 1 FROM n WHERE k < 50) SELECT k FROM n;"
		"CREATE TEMPORARY TABLE dk AS SELECT 0 AS d UNION ALL SELECT 1;"
		"INSERT INTO vm_replication_contexts SELECT 'ctx-' || i, 'vm' || i, 'id' || i,"
		" '/DC/vm/vm' || i, 'vc', 'DC', 'on', 'linux', '19', 1, 1, '[]', NULL, 1, 1, 1"
		", '', NULL FROM vm;"
		"INSERT INTO vm_disks SELECT NULL, 'ctx-' || i, NULL, 'disk-' || (2000 + d), d, d,"
		" 2000 + d, 'l', 'p', 'ds', 1073741824, 1, d, 'thin', 'c', 0, 1, 1, '' FROM vm, dk;"
		"INSERT INTO vm_backup_contexts SELECT 'bctx-' || i, 'ctx-' || i, 'vm' || i,"
		" 'id' || i, '/DC/vm/vm' || i, 'vc', 'DC', (SELECT id FROM backup_repositories),"
		" 50, 50, 0, NULL, NULL, NULL, 1, 1 FROM vm;"
		"INSERT INTO backup_jobs SELECT 'backup-' || i || '-' || k, 'ctx-' || i,"
		" 'bctx-' || i, 'vm' || i, (SELECT id FROM backup_repositories), 'local', '/r',"
		" CASE k WHEN 1 THEN 'full' ELSE 'incremental' END, 'completed', NULL, NULL, NULL, "
		"NULL, NULL,"
		" 2, 1, 1, 0, '', NULL, NULL, NULL, k, k, k, NULL, 0, NULL FROM run, vm;"
		"INSERT INTO backup_chains SELECT 'chain-' || i || '-' || d, 'bctx-' || i, d,"
		" 'disk-' || (2000 + d), 'backup-' || i || '-1', 'backup-' || i || '-50', 50, 1,"
		" 1, 1, 1 FROM vm, dk;"
		"INSERT INTO backup_disks SELECT NULL, 'bctx-' || i, 'backup-' || i || '-' || k,"
		" d, d, 'disk-' || (2000 + d), 2000 + d, d, 1073741824, 1,"
		" CASE k WHEN 1 THEN 'full' ELSE 'incremental' END, '', NULL, 'chain-' || i || '-' "
		"|| d, 'e',"
		" 'q', 'p', 'change/' || i || '/' || k || '/' || d, 1, 1, 1, 1, 'completed', NULL,"
		" k, k, k FROM run, vm, dk ORDER BY k, i, d;"
		"COMMIT",
		tmpdb_either("PRAGMA foreign_keys = OFF;",
			     "SET SESSION foreign_key_checks = 0, SESSION unique_checks = 0,"
			     " SESSION max_recursive_iterations = 1000000;"),
		vms);
}

static void explain_in_sqlite(struct fx *fx, const char *sql)
{
	char *text = sqlite3_mprintf("EXPLAIN QUERY PLAN %s", sql);
	sqlite3_stmt *st = NULL;
	sqlite3 *h;

	assert_int_equal(sqlite3_open_v2(fx->t.path, &h, SQLITE_OPEN_READONLY, NULL), 0);
	if (sqlite3_prepare_v2(h, text, -1, &st, NULL))
		fail_msg("%s: %s", text, sqlite3_errmsg(h));
	while (sqlite3_step(st) == SQLITE_ROW) {
		const char *step = (const char *)sqlite3_column_text(st, 3);

		/* There are a few hubs at most. */
		if (!strncmp(step, "SCAN", 4) && strcmp(step, "SCAN CONSTANT ROW") &&
		    strcmp(step, "SCAN hubs"))
			fail_msg("%s\nwalks a table: %s", sql, step);
	}
	sqlite3_finalize(st);
	sqlite3_close(h);
	sqlite3_free(text);
}

/* A table of a few rows is rightly read as a whole. */
static void explain_in_mariadb(MYSQL *h, const char *sql)
{
	char text[8192];
	MYSQL_RES *res;
	MYSQL_ROW row;

	snprintf(text, sizeof(text), "EXPLAIN %s", sql);
	if (mysql_query(h, text))
		fail_msg("%s: %s", text, mysql_error(h));
	res = mysql_store_result(h);
	while ((row = mysql_fetch_row(res)))
		if (row[3] && (!strcmp(row[3], "ALL") || !strcmp(row[3], "index")) && row[8] &&
		    atoll(row[8]) > 20)
			fail_msg("%s\nwalks %s: %s of %s rows", sql, row[2], row[3], row[8]);
	mysql_free_result(res);
}

static void explain_all(struct fx *fx)
{
	static const char *const verbs[] = {"SELECT", "UPDATE", "DELETE"};

	MYSQL *h = tmpdb_on_mariadb() ? mariadbd_connect(tmpdb_server(), fx->t.name) : NULL;

	for (size_t i = 0; i < trace.n; i++) {
		for (size_t k = 0; k < ARRAY_SIZE(verbs); k++) {
			if (strncmp(trace.seen[i], verbs[k], strlen(verbs[k])))
				continue;
			if (h)
				explain_in_mariadb(h, trace.seen[i]);
			else
				explain_in_sqlite(fx, trace.seen[i]);
		}
	}
	if (h)
		mysql_close(h);
}

/* Of a clock nobody sets. */
static int64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000LL + ts.tv_nsec / 1000;
}

#define LIMIT_US 10000
#define ROUNDS	 21  /* at least */
#define MOST	 500 /* rounds, on a machine that is busy all the time */
#define LEAST_US(call)                                                                             \
	({                                                                                         \
		int64_t least = INT64_MAX;                                                         \
		for (int i_ = 0; i_ < ROUNDS || (least >= LIMIT_US && i_ < MOST); i_++) {          \
			int64_t began = now_us();                                                  \
			OK(call);                                                                  \
			least = MIN(least, now_us() - began);                                      \
		}                                                                                  \
		least;                                                                             \
	})
#define FAST(call)                                                                                 \
	do {                                                                                       \
		int64_t us = LEAST_US(call);                                                       \
		print_message("%8" PRId64 " us  %s\n", us, #call);                                 \
		assert_in_range(us, 0, LIMIT_US - 1);                                              \
	} while (0)

/* A commit that changes one column: what the disk's cache flush takes, and little else. */
static int64_t commit_us(struct fx *fx, const char *job_id)
{
	int64_t began = now_us();

	OK(catalog_backup_note_telemetry(fx->cat, job_id, "copying", &err));
	return now_us() - began;
}

static int64_t renew_us(struct fx *fx)
{
	int64_t began = now_us();

	OK(catalog_hub_renew(fx->cat, 60000, &err));
	return now_us() - began;
}

static int64_t complete_us(struct fx *fx, const char *job_id, int disk, int round)
{
	char change_id[32];
	int64_t began;

	snprintf(change_id, sizeof(change_id), "round %d/%d", round, disk);
	began = now_us();
	OK(fx_complete(fx, job_id, disk, change_id, NULL, &err));
	return now_us() - began;
}

/* What writes takes what the disk's cache flush takes, which the catalog cannot help: it is
 * measured against a plain commit, and what is more than that must stay below 10 ms. Of backups
 * that follow each other: `complete` of each disk, some 25 statements, each a wait for another
 * process on MariaDB; and the renewal of the lease. */
static void writes_are_fast(struct fx *fx, const struct fx_ready *r)
{
	static const char *const names[] = {"complete of disk 0", "complete of disk 1",
					    "renewal of the lease"};
	int64_t least[] = {INT64_MAX, INT64_MAX, INT64_MAX}, plain = INT64_MAX, worst = INT64_MAX;

	for (int i = 0; i < ROUNDS || (worst - plain >= LIMIT_US && i < MOST); i++) {
		struct fx_job j;

		fx_start(fx, r, CATALOG_BACKUP_INCREMENTAL, &j);
		plain = MIN(plain, commit_us(fx, j.job.id));
		least[0] = MIN(least[0], complete_us(fx, j.job.id, 0, i));
		least[1] = MIN(least[1], complete_us(fx, j.job.id, 1, i));
		least[2] = MIN(least[2], renew_us(fx));
		worst = MAX(MAX(least[0], least[1]), least[2]);
	}
	print_message("%8" PRId64 " us  a plain commit\n", plain);
	for (size_t k = 0; k < ARRAY_SIZE(least); k++) {
		print_message("%8" PRId64 " us  %s\n", least[k], names[k]);
		assert_in_range(MAX(least[k] - plain, 0), 0, LIMIT_US - 1);
	}
}

static void lookups_on_the_agents_path_use_indexes_and_are_fast(void **state)
{
	struct fx *fx = *state;
	struct catalog_vm_disk *vm_disks = NULL;
	struct catalog_vm_context vm;
	struct catalog_backup_disk p;
	struct catalog_backup job;
	struct catalog_repository repo;
	struct catalog_hub hub = {.name = "h", .instance = "data-1"};
	struct catalog_backup *taken = NULL;
	struct fx_ready r;
	struct fx_job j;
	size_t n;

	fx_add_repository(fx, &repo, "main");
	fill(fx, 1000 * scale());
	/* The connections are opened anew, so that they know of the trace. */
	catalog_close(fx->cat);
	trace_start(fx);
	OK(catalog_open(fx->t.url, NULL, &fx->cat, &err));

	OK(catalog_hub_join(fx->cat, &hub, 60000, &err));
	OK(catalog_hub_renew(fx->cat, 60000, &err));
	FAST(catalog_hub_take_over(fx->cat, &taken, &n, &err));
	FAST(catalog_backups_running(fx->cat, &taken, &n, &err));
	FAST(catalog_vm_context_find(fx->cat, "vm500", NULL, &vm, &err));
	FAST((free(vm_disks),
	      catalog_vm_disks_list(fx->cat, "ctx-500", false, &vm_disks, &n, &err)));
	assert_int_equal(n, 2);
	free(vm_disks);
	FAST(catalog_point_latest(fx->cat, "bctx-500", "disk-2001", &p, &err));
	assert_string_equal(p.change_id, "change/500/50/1");
	FAST(catalog_point_latest_of_vm(fx->cat, "vm500", 1, &p, &err));
	assert_string_equal(p.change_id, "change/500/50/1");

	/* One backup of one VM among them: discovery, start, the agent's questions, completion. */
	memset(&r, 0, sizeof(r));
	fx_describe_vm(&r.v, "vm7", "vc", 2);
	CATALOG_TEXT(r.v.vm.vmware_vm_id, "id7");
	OK(catalog_vm_context_upsert(fx->cat, &r.v.vm, r.v.disks, 2, NULL, &err));
	assert_string_equal(r.v.vm.context_id, "ctx-7");
	OK(catalog_backup_context_ensure(fx->cat, "ctx-7", repo.id, &r.ctx, &err));
	assert_string_equal(r.ctx.context_id, "bctx-7");
	fx_start(fx, &r, CATALOG_BACKUP_INCREMENTAL, &j);
	assert_string_equal(j.disks[1].parent_change_id, "change/7/50/1");
	FAST(catalog_backup_find_running(fx->cat, "vm7", &job, &err));
	FAST(catalog_backup_disk_next_open(fx->cat, job.id, &p, &err));
	FAST(catalog_backup_disk_get(fx->cat, job.id, 1, &p, &err));
	OK(catalog_backup_note_telemetry(fx->cat, job.id, "copying", &err));
	OK(catalog_backup_set_running(fx->cat, job.id, &err));
	OK(catalog_backup_disk_progress(fx->cat, job.id, 0, &(struct catalog_counters){1}, &err));
	fx_complete_all(fx, &j, "new");
	trace_pause(fx, true);
	writes_are_fast(fx, &r);
	trace_pause(fx, false);
	fx_start(fx, &r, CATALOG_BACKUP_INCREMENTAL, &j);
	OK(catalog_backup_disk_fail(fx->cat, j.job.id, 0, "x", NULL, &err));
	OK(catalog_backup_fail(fx->cat, j.job.id, CATALOG_JOB_FAILED, "x", &err));
	fx_start(fx, &r, CATALOG_BACKUP_INCREMENTAL, &j);
	hub.token = 0;
	OK(catalog_hub_join(fx->cat, &hub, 60000, &err)); /* as after a crash */
	OK(catalog_hub_take_over(fx->cat, &taken, &n, &err));
	assert_int_equal(n, 1);
	free(taken);
	OK(catalog_backup_fail(fx->cat, j.job.id, CATALOG_JOB_FAILED, "x", &err));
	OK(catalog_hub_leave(fx->cat, &err));
	trace_stop(fx);

	assert_in_range(trace.n, 20, ARRAY_SIZE(trace.seen) - 1);
	explain_all(fx);
	tmpdb_sql(&fx->t, tmpdb_either("ANALYZE", "ANALYZE TABLE vm_replication_contexts, vm_disks,"
						  " vm_backup_contexts, backup_jobs,"
						  " backup_chains, backup_disks"));
	explain_all(fx);
	while (trace.n)
		free(trace.seen[--trace.n]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FX_TEST(lookups_on_the_agents_path_use_indexes_and_are_fast),
	};

	return tmpdb_run_tests("catalog/scale", tests, NULL, NULL);
}
