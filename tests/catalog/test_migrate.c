#include "tests/catalog/fixture.h"

#include <errno.h>
#include <glob.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "catalog/db.h"
#include "catalog/migrate.h"

static int setup(void **state)
{
	struct fx *fx = calloc(1, sizeof(*fx));

	tmpdb_init(&fx->t);
	*state = fx;
	return 0;
}

#define MIGRATE_TEST(f) cmocka_unit_test_setup_teardown(f, setup, fx_teardown)

static void migrate_to(const struct fx *fx, int64_t version)
{
	_cleanup_(db_closep) struct db *db = NULL;

	OK(db_open(fx->t.url, 5000, &db, &err));
	OK(catalog_schema_migrate(db, version, &err));
}

static size_t copies(const struct fx *fx, const char *what)
{
	char pattern[512];
	glob_t g;
	size_t n;

	snprintf(pattern, sizeof(pattern), "%s.schema-%s", fx->t.path, what);
	n = glob(pattern, 0, NULL, &g) ? 0 : g.gl_pathc;
	if (n)
		globfree(&g);
	return n;
}

static void open_with_data(struct fx *fx)
{
	struct fx_ready r;
	struct fx_job j;

	OK(catalog_open(fx->t.url, NULL, &fx->cat, &err));
	fx_ready(fx, &r, "pgtest1", 2);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &j);
	fx_backup(fx, &r, CATALOG_BACKUP_INCREMENTAL, "b", &j);
	fx_start(fx, &r, CATALOG_BACKUP_INCREMENTAL, &j);
	tmpdb_sql(&fx->t,
		  "INSERT INTO replication_jobs (id, vm_context_id, replication_type, status,"
		  " created_at, updated_at) SELECT 'job-1', context_id, 'initial', 'running', 1, 1"
		  " FROM vm_replication_contexts; UPDATE vm_disks SET job_id = 'job-1'");
}

static void close_catalog(struct fx *fx)
{
	catalog_close(fx->cat);
	fx->cat = NULL;
}

static void a_new_database_gets_every_migration_and_no_copy(void **state)
{
	struct fx *fx = *state;

	OK(catalog_open(fx->t.url, NULL, &fx->cat, &err));
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT MAX(version) FROM schema_version"),
			 catalog_schema_latest());
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM schema_version"),
			 catalog_schema_latest());
	assert_string_equal(tmpdb_text(&fx->t, "SELECT name FROM schema_version ORDER BY version"),
			    "001_inventory");
	assert_int_equal(copies(fx, "*"), 0);
}

static void opening_again_changes_nothing(void **state)
{
	struct fx *fx = *state;

	open_with_data(fx);
	close_catalog(fx);
	OK(catalog_open(fx->t.url, NULL, &fx->cat, &err));
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_disks"), 6);
	assert_int_equal(copies(fx, "*"), 0);
}

static void every_step_down_and_up_works_with_data_in(void **state)
{
	struct fx *fx = *state;

	open_with_data(fx);
	close_catalog(fx);
	migrate_to(fx, 2);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_repositories"), 1);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM vm_disks"), 2);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM sqlite_master"
					   " WHERE name LIKE 'backup_jobs%%'"),
			 0);
	migrate_to(fx, 1);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM vm_disks"), 2);
	migrate_to(fx, 0);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table'"
					   " AND name NOT LIKE 'sqlite_%%'"),
			 1);
	migrate_to(fx, 1);
	migrate_to(fx, 3);
	assert_string_equal(tmpdb_text(&fx->t, "PRAGMA integrity_check"), "ok");
	open_with_data(fx);
}

static void a_database_is_copied_aside_before_its_schema_changes(void **state)
{
	struct fx *fx = *state;
	struct stat st;
	char path[512];
	glob_t g;

	open_with_data(fx);
	close_catalog(fx);
	migrate_to(fx, 1);
	assert_int_equal(copies(fx, "3-*Z.bak"), 1);
	OK(catalog_open(fx->t.url, NULL, &fx->cat, &err));
	assert_int_equal(copies(fx, "1-*Z.bak"), 1);
	assert_int_equal(copies(fx, "*"), 2);
	close_catalog(fx);

	/* The copy is private, whole, and is the way back. */
	snprintf(path, sizeof(path), "%s.schema-3-*", fx->t.path);
	assert_int_equal(glob(path, 0, NULL, &g), 0);
	assert_int_equal(stat(g.gl_pathv[0], &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(rename(g.gl_pathv[0], fx->t.path), 0);
	globfree(&g);
	OK(catalog_open(fx->t.url, NULL, &fx->cat, &err));
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_disks"), 6);
}

static void a_newer_schema_is_refused_and_left_alone(void **state)
{
	struct fx *fx = *state;

	OK(catalog_open(fx->t.url, NULL, &fx->cat, &err));
	close_catalog(fx);
	tmpdb_sql(&fx->t, "INSERT INTO schema_version VALUES (4711, '4711_future', 1)");
	EXPECT_TEXT(CATALOG_E_SCHEMA, "schema 4711", catalog_open(fx->t.url, NULL, &fx->cat, &err));
	assert_null(fx->cat);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT MAX(version) FROM schema_version"), 4711);
	assert_int_equal(copies(fx, "*"), 0);
}

static void a_schema_that_does_not_exist_cannot_be_asked_for(void **state)
{
	struct fx *fx = *state;
	_cleanup_(db_closep) struct db *db = NULL;

	OK(db_open(fx->t.url, 1000, &db, &err));
	EXPECT(CATALOG_E_INVALID, catalog_schema_migrate(db, 99, &err));
	EXPECT(CATALOG_E_INVALID, catalog_schema_migrate(db, -1, &err));
}

static void a_migration_that_fails_half_way_leaves_the_version_before_it(void **state)
{
	struct fx *fx = *state;

	/* The third migration's last table cannot be made while a view has its name. */
	migrate_to(fx, 2);
	tmpdb_sql(&fx->t, "CREATE VIEW backup_disks AS SELECT 1 AS one");
	EXPECT_TEXT(-EIO, "schema migration 003_backups up",
		    catalog_open(fx->t.url, NULL, &fx->cat, &err));
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT MAX(version) FROM schema_version"), 2);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM sqlite_master"
					   " WHERE name = 'backup_jobs'"),
			 0);
	tmpdb_sql(&fx->t, "DROP VIEW backup_disks");
	open_with_data(fx);
}

/* A program that migrates a new database is killed, a little later each time. */
static void a_kill_between_two_migrations_is_recovered_by_migrating_again(void **state)
{
	struct fx *fx = *state;
	bool finished = false;

	for (int delay_us = 0; !finished; delay_us += 1000) {
		pid_t pid = fork();
		int status;

		assert_true(pid >= 0);
		if (pid == 0) {
			struct catalog *cat;

			_exit(catalog_open(fx->t.url, NULL, &cat, NULL) ? 1 : 0);
		}
		usleep((useconds_t)delay_us);
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		finished = WIFEXITED(status);
		assert_true(!finished || WEXITSTATUS(status) == 0);
		open_with_data(fx);
		assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM schema_version"), 3);
		assert_string_equal(tmpdb_text(&fx->t, "PRAGMA integrity_check"), "ok");
		close_catalog(fx);
		tmpdb_deinit(&fx->t);
		tmpdb_init(&fx->t);
	}
}

static void programs_that_start_at_once_migrate_once(void **state)
{
	struct fx *fx = *state;
	pid_t pids[6];

	for (size_t i = 0; i < ARRAY_SIZE(pids); i++) {
		pids[i] = fork();
		if (pids[i] == 0) {
			struct err err = ERR_INIT;
			struct catalog *cat;
			int r = catalog_open(fx->t.url, NULL, &cat, &err);

			if (r)
				fprintf(stderr, "open: %s\n", err.text);
			_exit(r != 0);
		}
	}
	for (size_t i = 0; i < ARRAY_SIZE(pids); i++) {
		int status;

		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	}
	open_with_data(fx);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM schema_version"), 3);
}

/* Rows that lost their parent are found before a migration is called done. */
static void an_orphan_row_stops_a_migration(void **state)
{
	struct fx *fx = *state;

	migrate_to(fx, 1);
	tmpdb_sql(&fx->t, "PRAGMA foreign_keys=OFF; INSERT INTO replication_jobs VALUES"
			  " ('j', 'no-such-context', 'initial', 'running', NULL, 1, 1, NULL)");
	EXPECT_TEXT(-EUCLEAN, "replication_jobs", catalog_open(fx->t.url, NULL, &fx->cat, &err));
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT MAX(version) FROM schema_version"), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		MIGRATE_TEST(a_new_database_gets_every_migration_and_no_copy),
		MIGRATE_TEST(opening_again_changes_nothing),
		MIGRATE_TEST(every_step_down_and_up_works_with_data_in),
		MIGRATE_TEST(a_database_is_copied_aside_before_its_schema_changes),
		MIGRATE_TEST(a_newer_schema_is_refused_and_left_alone),
		MIGRATE_TEST(a_schema_that_does_not_exist_cannot_be_asked_for),
		MIGRATE_TEST(a_migration_that_fails_half_way_leaves_the_version_before_it),
		MIGRATE_TEST(a_kill_between_two_migrations_is_recovered_by_migrating_again),
		MIGRATE_TEST(programs_that_start_at_once_migrate_once),
		MIGRATE_TEST(an_orphan_row_stops_a_migration),
	};

	return cmocka_run_group_tests_name("catalog/migrate", tests, NULL, NULL);
}
