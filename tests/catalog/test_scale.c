/*
 * A big catalog: 1,000 VMs with 2 disks and 50 backups each, so 100,000 disk rows (CATALOG_SCALE=10
 * makes it 10,000 VMs and 1,000,000 rows). No statement of the lookups on the agent's path may walk
 * a table, and none may take 10 ms.
 *
 * The statements are not copied here: SQLite tells every connection's statements to a trace, which
 * is put on each connection as it opens, and each one seen is explained afterwards.
 */
#include "tests/catalog/fixture.h"

#include <sqlite3.h>

static struct {
	bool on;
	char *seen[256];
	size_t n;
} trace;

static int on_statement(unsigned int type, void *ctx, void *st, void *text)
{
	(void)type;
	(void)ctx;
	(void)st;
	if (!trace.on || !strncmp(text, "--", 2))
		return 0;
	for (size_t i = 0; i < trace.n; i++)
		if (!strcmp(trace.seen[i], text))
			return 0;
	if (trace.n < ARRAY_SIZE(trace.seen))
		trace.seen[trace.n++] = strdup(text);
	return 0;
}

static int on_open(sqlite3 *h, char **err, const void *api)
{
	(void)err;
	(void)api;
	return sqlite3_trace_v2(h, SQLITE_TRACE_STMT, on_statement, NULL);
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
		"PRAGMA foreign_keys = OFF; BEGIN;"
		"CREATE TEMP TABLE vm AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1"
		" FROM n WHERE i < %d) SELECT i FROM n;"
		"CREATE TEMP TABLE run AS WITH RECURSIVE n(k) AS (SELECT 1 UNION ALL SELECT k + 1"
		" FROM n WHERE k < 50) SELECT k FROM n;"
		"CREATE TEMP TABLE dk AS SELECT 0 AS d UNION ALL SELECT 1;"
		"INSERT INTO vm_replication_contexts SELECT 'ctx-' || i, 'vm' || i, 'id' || i,"
		" '/DC/vm/vm' || i, 'vc', 'DC', 'on', 'linux', '19', 1, 1, '[]', NULL, 1, 1, 1"
		" FROM vm;"
		"INSERT INTO vm_disks SELECT NULL, 'ctx-' || i, NULL, 'disk-' || (2000 + d), d, d,"
		" 2000 + d, 'l', 'p', 'ds', 1073741824, 1, d, 'thin', 'c', 0, 1, 1 FROM vm, dk;"
		"INSERT INTO vm_backup_contexts SELECT 'bctx-' || i, 'ctx-' || i, 'vm' || i,"
		" 'id' || i, '/DC/vm/vm' || i, 'vc', 'DC', (SELECT id FROM backup_repositories),"
		" 50, 50, 0, NULL, NULL, NULL, 1, 1 FROM vm;"
		"INSERT INTO backup_jobs SELECT 'backup-' || i || '-' || k, 'ctx-' || i,"
		" 'bctx-' || i, 'vm' || i, (SELECT id FROM backup_repositories), 'local', '/r',"
		" iif(k = 1, 'full', 'incremental'), 'completed', NULL, NULL, NULL, NULL, NULL,"
		" 2, 1, 1, 0, '', NULL, NULL, NULL, k, k, k FROM run, vm;"
		"INSERT INTO backup_chains SELECT 'chain-' || i || '-' || d, 'bctx-' || i, d,"
		" 'disk-' || (2000 + d), 'backup-' || i || '-1', 'backup-' || i || '-50', 50, 1,"
		" 1, 1, 1 FROM vm, dk;"
		"INSERT INTO backup_disks SELECT NULL, 'bctx-' || i, 'backup-' || i || '-' || k,"
		" d, d, 'disk-' || (2000 + d), 2000 + d, d, 1073741824, 1,"
		" iif(k = 1, 'full', 'incremental'), '', NULL, 'chain-' || i || '-' || d, 'e',"
		" 'q', 'p', 'change/' || i || '/' || k || '/' || d, 1, 1, 1, 1, 'completed', NULL,"
		" k, k, k FROM run, vm, dk;"
		"COMMIT",
		vms);
}

static void explain(struct fx *fx, const char *sql)
{
	char *text = sqlite3_mprintf("EXPLAIN QUERY PLAN %s", sql);
	sqlite3_stmt *st = NULL;
	sqlite3 *h;

	assert_int_equal(sqlite3_open_v2(fx->t.path, &h, SQLITE_OPEN_READONLY, NULL), 0);
	if (sqlite3_prepare_v2(h, text, -1, &st, NULL))
		fail_msg("%s: %s", text, sqlite3_errmsg(h));
	while (sqlite3_step(st) == SQLITE_ROW) {
		const char *step = (const char *)sqlite3_column_text(st, 3);

		if (!strncmp(step, "SCAN", 4) && strcmp(step, "SCAN CONSTANT ROW"))
			fail_msg("%s\nwalks a table: %s", sql, step);
	}
	sqlite3_finalize(st);
	sqlite3_close(h);
	sqlite3_free(text);
}

static void explain_all(struct fx *fx)
{
	static const char *const verbs[] = {"SELECT", "UPDATE", "DELETE"};

	for (size_t i = 0; i < trace.n; i++)
		for (size_t k = 0; k < ARRAY_SIZE(verbs); k++)
			if (!strncmp(trace.seen[i], verbs[k], strlen(verbs[k])))
				explain(fx, trace.seen[i]);
}

static int64_t median_us(int64_t *v, int n)
{
	for (int i = 1; i < n; i++)
		for (int k = i; k > 0 && v[k] < v[k - 1]; k--) {
			int64_t t = v[k];

			v[k] = v[k - 1];
			v[k - 1] = t;
		}
	return v[n / 2];
}

#define TIMES 51
#define MEDIAN_US(call)                                                                            \
	({                                                                                         \
		int64_t took[TIMES];                                                               \
		for (int time_i = 0; time_i < TIMES; time_i++) {                                   \
			took[time_i] = catalog_now_us();                                           \
			OK(call);                                                                  \
			took[time_i] = catalog_now_us() - took[time_i];                            \
		}                                                                                  \
		median_us(took, TIMES);                                                            \
	})
#define FAST(call)                                                                                 \
	do {                                                                                       \
		int64_t us = MEDIAN_US(call);                                                      \
		print_message("%8" PRId64 " us  %s\n", us, #call);                                 \
		assert_in_range(us, 0, 9999);                                                      \
	} while (0)

static void lookups_on_the_agents_path_use_indexes_and_are_fast(void **state)
{
	struct fx *fx = *state;
	struct catalog_vm_disk *vm_disks = NULL;
	struct catalog_vm_context vm;
	struct catalog_backup_disk p;
	struct catalog_backup job;
	struct catalog_repository repo;
	struct fx_ready r;
	struct fx_job j;
	size_t n;

	fx_add_repository(fx, &repo, "main");
	fill(fx, 1000 * scale());
	/* The connections are opened anew, so that they know of the trace. */
	catalog_close(fx->cat);
	sqlite3_auto_extension((void (*)(void))on_open);
	OK(catalog_open(fx->t.url, NULL, &fx->cat, &err));
	trace.on = true;

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
	print_message("%8" PRId64 " us  a durable write\n",
		      MEDIAN_US(catalog_backup_note_telemetry(fx->cat, job.id, "copying", &err)));
	OK(catalog_backup_set_running(fx->cat, job.id, &err));
	OK(catalog_backup_disk_progress(fx->cat, job.id, 0, &(struct catalog_counters){1}, &err));
	fx_complete_all(fx, &j, "new");
	fx_start(fx, &r, CATALOG_BACKUP_INCREMENTAL, &j);
	OK(catalog_backup_disk_fail(fx->cat, j.job.id, 0, "x", NULL, &err));
	OK(catalog_backup_fail(fx->cat, j.job.id, CATALOG_JOB_FAILED, "x", &err));
	trace.on = false;

	assert_in_range(trace.n, 20, ARRAY_SIZE(trace.seen) - 1);
	explain_all(fx);
	tmpdb_sql(&fx->t, "ANALYZE");
	explain_all(fx);
	while (trace.n)
		free(trace.seen[--trace.n]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FX_TEST(lookups_on_the_agents_path_use_indexes_and_are_fast),
	};

	return cmocka_run_group_tests_name("catalog/scale", tests, NULL, NULL);
}
