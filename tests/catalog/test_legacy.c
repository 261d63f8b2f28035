/*
 * Old databases (catalog/legacy.h): tests/support/legacy.sql is loaded into a MariaDB server of
 * this test's own and imported into a catalog on either database.
 */
#include "tests/catalog/fixture.h"

#include <errno.h>

#include "catalog/hubs.h"
#include "catalog/legacy.h"

static struct mariadbd old_server;

/* What came with the fixture. */
#define OLD_JOBS  27
#define OLD_DISKS 21

struct lg {
	struct fx fx;
	char name[32], source[800];
};

static void old_sql(const struct lg *lg, const char *sql)
{
	MYSQL *h = mariadbd_connect(&old_server, lg ? lg->name : NULL);
	int more = mysql_query(h, sql);

	while (more == 0) {
		mysql_free_result(mysql_store_result(h));
		more = mysql_next_result(h);
	}
	if (mysql_errno(h))
		fail_msg("%.200s: %s", sql, mysql_error(h));
	mysql_close(h);
}

static char *read_fixture(void)
{
	char *text = calloc(1, 65536);
	FILE *f = fopen("tests/support/legacy.sql", "r");

	if (!f)
		fail_msg("run the tests from the repository's root folder");
	assert_true(fread(text, 1, 65535, f) > 0);
	fclose(f);
	return text;
}

static int setup(void **state)
{
	static int serial;
	struct lg *lg = calloc(1, sizeof(*lg));
	_cleanup_(freep) char *fixture = read_fixture();
	char sql[128];

	tmpdb_init(&lg->fx.t);
	OK(catalog_open(lg->fx.t.url, NULL, &lg->fx.cat, &err));
	snprintf(lg->name, sizeof(lg->name), "old%d", ++serial);
	snprintf(lg->source, sizeof(lg->source), "mariadb://root@localhost/%s?socket=%s", lg->name,
		 old_server.sock);
	snprintf(sql, sizeof(sql), "CREATE DATABASE %s CHARACTER SET utf8mb4", lg->name);
	old_sql(NULL, sql);
	old_sql(lg, fixture);
	*state = lg;
	return 0;
}

static int teardown(void **state)
{
	struct lg *lg = *state;

	catalog_close(lg->fx.cat);
	tmpdb_deinit(&lg->fx.t);
	free(lg);
	return 0;
}

#define LEGACY_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

static struct catalog_legacy import(struct lg *lg)
{
	struct catalog_legacy out;

	OK(catalog_import_legacy(lg->fx.cat, lg->source, &out, &err));
	return out;
}

/* The import fails with this, and leaves the catalog as it was. */
static void import_fails(struct lg *lg, int result, const char *part)
{
	_cleanup_(freep) char *before = tmpdb_dump(&lg->fx.t, NULL);
	_cleanup_(freep) char *after = NULL;
	struct catalog_legacy out;

	EXPECT_TEXT(result, part, catalog_import_legacy(lg->fx.cat, lg->source, &out, &err));
	after = tmpdb_dump(&lg->fx.t, NULL);
	assert_string_equal(before, after);
}

static int64_t count(const struct lg *lg, const char *what)
{
	return tmpdb_i64(&lg->fx.t, "SELECT COUNT(*) FROM %s", what);
}

/* --- the data set ----------------------------------------------------------------------------- */

static void one_context_21_disks_and_27_jobs_come_over(void **state)
{
	struct lg *lg = *state;
	struct catalog_legacy out = import(lg);

	assert_int_equal(out.contexts, 1);
	assert_int_equal(out.disks, OLD_DISKS);
	assert_int_equal(out.jobs, OLD_JOBS);
	assert_int_equal(out.points, 20);
	assert_int_equal(out.vms, 1);
	assert_int_equal(out.repositories, 1);
	assert_int_equal(out.present, 0);
	assert_int_equal(out.unusable, 0);
	assert_int_equal(count(lg, "vm_backup_contexts"), 1);
	assert_int_equal(count(lg, "backup_disks"), OLD_DISKS);
	assert_int_equal(count(lg, "backup_jobs j JOIN vm_backup_contexts c"
				   " ON c.context_id = j.vm_backup_context_id"),
			 OLD_JOBS);
	/* By the path, not by disk_id, which is 0 for many that are no disk 0. */
	assert_int_equal(count(lg, "backup_disks WHERE disk_index = 0"), 11);
	assert_int_equal(count(lg, "backup_disks WHERE disk_index = 1"), 10);
	assert_int_equal(count(lg, "backup_jobs WHERE disk_count = 0"), OLD_JOBS - OLD_DISKS);
	/* As the old program kept it: a job's disk and its change id. */
	assert_int_equal(count(lg, "backup_jobs WHERE disk_id = 1"), 10);
	assert_string_equal(tmpdb_text(&lg->fx.t, "SELECT change_id FROM backup_jobs WHERE id ="
						  " 'backup-pgtest1-disk1-20251007-100000'"),
			    "52 ed 45 cf 23 2c 6a f0-a5 26 59 71 b7 9f 1f b3/5502");
	tmpdb_assert_sound(&lg->fx.t);
}

static void nothing_is_estimated(void **state)
{
	struct lg *lg = *state;
	struct catalog_vm_context vm;
	struct catalog_backup_disk d;
	struct catalog_backup job;

	import(lg);
	OK(catalog_vm_context_find(lg->fx.cat, "pgtest1", NULL, &vm, &err));
	assert_string_equal(vm.vmware_vm_id, "420570c7-f61f-a930-77c5-1e876786cb3c");
	assert_int_equal(vm.disk_count, 2);
	OK(catalog_backup_disk_get(lg->fx.cat, "backup-pgtest1-disk1-20251007-160000", 1, &d,
				   &err));
	assert_string_equal(d.disk_id, "disk-2001");
	assert_int_equal(d.vmware_disk_key, 2001);
	assert_int_equal(d.virtual_size_bytes, 5368709120);
	assert_string_equal(d.change_id, "52 ed 45 cf 23 2c 6a f0-a5 26 59 71 b7 9f 1f b3/5508");
	assert_int_equal(d.bytes.bytes_transferred, 8001);
	assert_string_equal(d.qcow2_path, "/srv/old/ctx-pgtest1-20251006-201320/disk-1/"
					  "backup-pgtest1-disk1-20251007-160000.qcow2");
	OK(catalog_backup_get(lg->fx.cat, "backup-pgtest1-disk1-20251007-160000", &job, &err));
	assert_int_equal(job.created_at_us, 1759852802000000);
	assert_int_equal(job.completed_at_us, 1759854000000000);
	assert_string_equal(job.repository_type, "local");
	OK(catalog_backup_get(lg->fx.cat, "backup-pgtest1-1759882400", &job, &err));
	assert_int_equal(job.status, CATALOG_JOB_FAILED);
	assert_string_equal(job.error_message, "was running when the old catalog was imported");
}

static void counters_and_states_agree(void **state)
{
	struct lg *lg = *state;
	struct catalog_backup_context *ctx = NULL;
	size_t n;

	import(lg);
	OK(catalog_backup_contexts_list(lg->fx.cat, "pgtest1", NULL, &ctx, &n, &err));
	assert_int_equal(n, 1);
	assert_int_equal(ctx->total_backups_run, OLD_JOBS);
	assert_int_equal(ctx->successful_backups,
			 count(lg, "backup_jobs WHERE status = 'completed'"));
	assert_int_equal(ctx->failed_backups, 3);
	assert_int_equal(ctx->total_backups_run, ctx->successful_backups + ctx->failed_backups);
	assert_string_equal(ctx->last_backup_id, "backup-pgtest1-disk1-20251007-180000");
	assert_int_equal(ctx->last_backup_type, CATALOG_BACKUP_INCREMENTAL);
	free(ctx);
}

/* Two fulls of two disks, and incrementals behind each. */
static void chains_are_those_of_the_old_parents(void **state)
{
	struct lg *lg = *state;
	struct catalog_chain_filter active = {.disk_index = 1, .active_only = true};
	struct catalog_chain *chains = NULL;
	struct catalog_backup_disk *points = NULL;
	size_t n;

	import(lg);
	assert_int_equal(count(lg, "backup_chains"), 4);
	OK(catalog_chains_list(lg->fx.cat, &active, &chains, &n, &err));
	assert_int_equal(n, 1);
	assert_int_equal(chains[0].total_backups, 5);
	assert_string_equal(chains[0].full_backup_id, "backup-pgtest1-disk1-20251007-140000");
	assert_string_equal(chains[0].latest_backup_id, "backup-pgtest1-disk1-20251007-180000");
	OK(catalog_chain_points(lg->fx.cat, chains[0].id, &points, &n, &err));
	assert_int_equal(n, 5);
	assert_int_equal(points[0].parent_disk_id, CATALOG_NONE);
	for (size_t i = 1; i < n; i++)
		assert_int_equal(points[i].parent_disk_id, points[i - 1].id);
	free(points);
	free(chains);
}

/* The VM as discovery knows it now: the same disks. */
static void ready(struct lg *lg, struct fx_ready *r)
{
	memset(r, 0, sizeof(*r));
	fx_describe_vm(&r->v, "pgtest1", "vc1.example", 2);
	CATALOG_TEXT(r->v.vm.vmware_vm_id, "420570c7-f61f-a930-77c5-1e876786cb3c");
	r->v.disks[0].capacity_bytes = 109521666048;
	r->v.disks[1].capacity_bytes = 5368709120;
	OK(catalog_vm_context_upsert(lg->fx.cat, &r->v.vm, r->v.disks, 2, NULL, &err));
	OK(catalog_repository_get(lg->fx.cat, "repo-local-1759776641", &r->repo, &err));
	OK(catalog_backup_context_ensure(lg->fx.cat, r->v.vm.context_id, r->repo.id, &r->ctx,
					 &err));
}

static void the_next_incremental_leans_on_the_old_points(void **state)
{
	struct lg *lg = *state;
	struct fx_ready r;
	struct fx_job j;

	import(lg);
	ready(lg, &r);
	assert_int_equal(count(lg, "vm_backup_contexts"), 1);
	fx_start(&lg->fx, &r, CATALOG_BACKUP_INCREMENTAL, &j);
	assert_string_equal(j.disks[0].parent_change_id,
			    "52 66 8c 2d a7 c5 c5 68-c5 d2 8d 04 79 f5 fd 7d/5510");
	assert_string_equal(j.disks[1].parent_change_id,
			    "52 ed 45 cf 23 2c 6a f0-a5 26 59 71 b7 9f 1f b3/5510");
	fx_complete_all(&lg->fx, &j, "new");
	assert_int_equal(count(lg, "backup_chains"), 4);
	assert_int_equal(count(lg, "backup_chains WHERE active = 1 AND total_backups = 6"), 2);
}

/* --- again, and beside what is there ---------------------------------------------------------- */

static void importing_again_changes_nothing(void **state)
{
	struct lg *lg = *state;
	_cleanup_(freep) char *before = NULL;
	_cleanup_(freep) char *after = NULL;
	struct catalog_legacy out;

	import(lg);
	before = tmpdb_dump(&lg->fx.t, NULL);
	out = import(lg);
	after = tmpdb_dump(&lg->fx.t, NULL);
	assert_string_equal(before, after);
	assert_int_equal(out.present, OLD_JOBS);
	assert_int_equal(out.jobs + out.disks + out.contexts + out.vms + out.repositories, 0);
}

static void importing_again_adds_what_is_new(void **state)
{
	struct lg *lg = *state;
	struct catalog_legacy out;

	import(lg);
	old_sql(lg,
		"INSERT INTO backup_jobs (id, vm_context_id, vm_name, repository_id,"
		" backup_type, status, repository_path, parent_backup_id, change_id,"
		" created_at, completed_at) SELECT 'backup-late', vm_context_id, vm_name,"
		" repository_id, 'incremental', 'completed', '/srv/old/x/disk-1/late.qcow2', id,"
		" 'late/1', '2025-10-09', '2025-10-09' FROM backup_jobs"
		" WHERE id = 'backup-pgtest1-disk1-20251007-180000'");
	out = import(lg);
	assert_int_equal(out.jobs, 1);
	assert_int_equal(out.points, 1);
	assert_int_equal(out.present, OLD_JOBS);
	assert_int_equal(tmpdb_i64(&lg->fx.t, "SELECT total_backups_run FROM vm_backup_contexts"),
			 OLD_JOBS + 1);
	assert_int_equal(count(lg, "backup_chains WHERE latest_backup_id = 'backup-late'"
				   " AND total_backups = 6"),
			 1);
}

static void what_the_catalog_knows_already_is_used(void **state)
{
	struct lg *lg = *state;
	struct catalog_repository repo;
	struct catalog_legacy out;
	struct fx_vm v;

	fx_add_repository(&lg->fx, &repo, "local-storage");
	fx_describe_vm(&v, "renamed", "vc1.example", 3);
	CATALOG_TEXT(v.vm.vmware_vm_id, "420570c7-f61f-a930-77c5-1e876786cb3c");
	OK(catalog_vm_context_upsert(lg->fx.cat, &v.vm, v.disks, 3, NULL, &err));
	out = import(lg);
	assert_int_equal(out.vms + out.repositories, 0);
	assert_int_equal(count(lg, "vm_disks WHERE missing = 0"), 3);
	assert_string_equal(tmpdb_text(&lg->fx.t, "SELECT repository_id FROM vm_backup_contexts"),
			    repo.id);
	assert_string_equal(tmpdb_text(&lg->fx.t, "SELECT vm_context_id FROM vm_backup_contexts"),
			    v.vm.context_id);
}

/* --- what is missing -------------------------------------------------------------------------- */

static void a_point_without_a_change_id_is_no_point(void **state)
{
	struct lg *lg = *state;
	struct catalog_legacy out;
	struct catalog_backup job;

	old_sql(lg, "UPDATE backup_jobs SET change_id = NULL"
		    " WHERE id = 'backup-pgtest1-disk0-20251007-180000'");
	out = import(lg);
	assert_int_equal(out.unusable, 1);
	assert_int_equal(out.points, 19);
	OK(catalog_backup_get(lg->fx.cat, "backup-pgtest1-disk0-20251007-180000", &job, &err));
	assert_int_equal(job.status, CATALOG_JOB_FAILED);
	assert_non_null(strstr(job.error_message, "without a change id"));
}

static void a_point_whose_parent_is_gone_begins_a_chain(void **state)
{
	struct lg *lg = *state;

	old_sql(lg, "UPDATE backup_jobs SET parent_backup_id = NULL"
		    " WHERE id = 'backup-pgtest1-disk0-20251007-170000'");
	assert_int_equal(import(lg).points, 20);
	assert_int_equal(count(lg, "backup_chains"), 5);
	assert_int_equal(count(lg, "backup_chains WHERE active = 1"), 2);
	assert_int_equal(count(lg, "backup_chains WHERE active = 1 AND disk_index = 0"
				   " AND total_backups = 2"),
			 1);
}

static void a_vm_nobody_knows_any_more_keeps_its_backups(void **state)
{
	struct lg *lg = *state;
	struct catalog_legacy out;

	old_sql(lg, "SET foreign_key_checks = 0; DELETE FROM vm_replication_contexts;"
		    " DELETE FROM vm_disks");
	out = import(lg);
	assert_int_equal(out.vms, 0);
	assert_int_equal(out.contexts, 1);
	assert_int_equal(out.points, 20);
	assert_string_equal(tmpdb_text(&lg->fx.t, "SELECT vm_name FROM vm_backup_contexts"),
			    "pgtest1");
	assert_int_equal(count(lg, "backup_disks WHERE reason LIKE '%%size%%' AND disk_id LIKE"
				   " 'legacy-%%'"),
			 OLD_DISKS);
	assert_int_equal(count(lg, "backup_chains"), 4);
}

static void two_vms_of_one_name_are_two(void **state)
{
	struct lg *lg = *state;

	old_sql(lg, "INSERT INTO vm_replication_contexts (context_id, vm_name, vmware_vm_id,"
		    " vm_path, vcenter_host, datacenter) VALUES ('ctx-2', 'pgtest1', 'other',"
		    " '/DC2/vm/pgtest1', 'vc2.example', 'DC2'); UPDATE backup_jobs SET"
		    " vm_context_id = 'ctx-2' WHERE id = 'backup-pgtest1-disk0-20251007-190000'");
	assert_int_equal(import(lg).contexts, 2);
}

/* --- what is wrong ---------------------------------------------------------------------------- */

static void an_old_database_that_contradicts_itself_is_refused_whole(void **state)
{
	struct lg *lg = *state;

	old_sql(lg, "ALTER TABLE backup_jobs MODIFY status VARCHAR(32); UPDATE backup_jobs"
		    " SET status = 'odd' WHERE id = 'backup-pgtest1-disk0-20251007-180000'");
	import_fails(lg, CATALOG_E_CONFLICT,
		     "backup-pgtest1-disk0-20251007-180000: its status is unknown: \"odd\"");
	old_sql(lg, "UPDATE backup_jobs SET status = 'completed'; UPDATE backup_jobs SET"
		    " repository_id = 'nowhere' WHERE id = 'backup-pgtest1-1759871600'");
	import_fails(lg, CATALOG_E_CONFLICT, "there is no repository \"nowhere\"");
	old_sql(lg, "DELETE FROM backup_jobs WHERE repository_id = 'nowhere'; ALTER TABLE"
		    " backup_jobs MODIFY vm_name TEXT; UPDATE backup_jobs SET vm_name ="
		    " REPEAT('x', 300) WHERE id = 'backup-pgtest1-disk0-20251007-180000'");
	import_fails(lg, CATALOG_E_CONFLICT, "too long");
	old_sql(lg, "UPDATE backup_jobs SET vm_name = 'pgtest1', backup_type = 'full';"
		    " ALTER TABLE backup_jobs DROP COLUMN repository_path");
	import_fails(lg, CATALOG_E_SCHEMA, "repository_path");
}

static void other_databases_are_refused(void **state)
{
	struct lg *lg = *state;

	if (tmpdb_on_mariadb()) {
		snprintf(lg->source, sizeof(lg->source), "%s", lg->fx.t.url);
		import_fails(lg, CATALOG_E_SCHEMA, "it is a catalog of this program");
	}
	snprintf(lg->source, sizeof(lg->source), "sqlite:%s", lg->fx.t.path);
	import_fails(lg, CATALOG_E_URL, "mariadb://");
	snprintf(lg->source, sizeof(lg->source), "mariadb://root@localhost/nowhere?socket=%s",
		 old_server.sock);
	import_fails(lg, -ENOENT, "nowhere");
}

/* --- broken at every row it writes ------------------------------------------------------------ */

static void broken_anywhere_it_leaves_nothing_behind(void **state)
{
	static const char *const tables[] = {"backup_repositories",
					     "vm_replication_contexts",
					     "vm_disks",
					     "vm_backup_contexts",
					     "backup_jobs",
					     "backup_disks",
					     "backup_chains"};
	struct lg *lg = *state;
	_cleanup_(freep) char *before = NULL;
	struct catalog_legacy out;
	struct err err = ERR_INIT;
	int k = 1;

	for (size_t i = 0; i < ARRAY_SIZE(tables); i++)
		tmpdb_add_fault(&lg->fx.t, tables[i], false);
	before = tmpdb_dump(&lg->fx.t, "fault");
	for (;; k++) {
		_cleanup_(freep) char *after = NULL;
		int r;

		tmpdb_arm(&lg->fx.t, k);
		r = catalog_import_legacy(lg->fx.cat, lg->source, &out, &err);
		tmpdb_arm(&lg->fx.t, 0);
		if (r == 0)
			break;
		if (r != -EIO || !strstr(err.text, "injected"))
			fail_msg("broken at row %d it gave %d: %s", k, r, err.text);
		after = tmpdb_dump(&lg->fx.t, "fault");
		assert_string_equal(before, after);
	}
	/* A job each, a disk each, a chain's row and a point's each, counters. */
	assert_true(k > OLD_JOBS + OLD_DISKS + 20 + 20 + OLD_JOBS);
	assert_int_equal(out.jobs, OLD_JOBS);
	assert_int_equal(out.disks, OLD_DISKS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEGACY_TEST(one_context_21_disks_and_27_jobs_come_over),
		LEGACY_TEST(nothing_is_estimated),
		LEGACY_TEST(counters_and_states_agree),
		LEGACY_TEST(chains_are_those_of_the_old_parents),
		LEGACY_TEST(the_next_incremental_leans_on_the_old_points),
		LEGACY_TEST(importing_again_changes_nothing),
		LEGACY_TEST(importing_again_adds_what_is_new),
		LEGACY_TEST(what_the_catalog_knows_already_is_used),
		LEGACY_TEST(a_point_without_a_change_id_is_no_point),
		LEGACY_TEST(a_point_whose_parent_is_gone_begins_a_chain),
		LEGACY_TEST(a_vm_nobody_knows_any_more_keeps_its_backups),
		LEGACY_TEST(two_vms_of_one_name_are_two),
		LEGACY_TEST(an_old_database_that_contradicts_itself_is_refused_whole),
		LEGACY_TEST(other_databases_are_refused),
		LEGACY_TEST(broken_anywhere_it_leaves_nothing_behind),
	};
	int failed;

	mariadbd_init(&old_server, 0);
	mariadbd_start(&old_server);
	failed = tmpdb_run_tests("catalog/legacy", tests, NULL, NULL);
	mariadbd_deinit(&old_server);
	return failed;
}
