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
	OK(catalog_schema_migrate(db, version, fx->t.dir, &err));
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
	assert_false(tmpdb_has_table(&fx->t, "backup_jobs"));
	migrate_to(fx, 1);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM vm_disks"), 2);
	migrate_to(fx, 0);
	assert_int_equal(tmpdb_count_tables(&fx->t), 1); /* schema_version */
	migrate_to(fx, 1);
	migrate_to(fx, 3);
	tmpdb_assert_sound(&fx->t);
	open_with_data(fx);
}

/* As docs/catalog.md tells. */
static void restore(const struct fx *fx, const char *copy)
{
	char cmd[1024];

	if (!tmpdb_on_mariadb()) {
		assert_int_equal(rename(copy, fx->t.path), 0);
		return;
	}
	tmpdb_sql(&fx->t, "DROP DATABASE %s; CREATE DATABASE %s", fx->t.name, fx->t.name);
	snprintf(cmd, sizeof(cmd), "mariadb --no-defaults -S '%s' -u root %s <'%s'",
		 tmpdb_server()->sock, fx->t.name, copy);
	assert_int_equal(system(cmd), 0);
}

static void a_database_is_copied_aside_before_its_schema_changes(void **state)
{
	struct fx *fx = *state;
	const struct catalog_options opt = {.copy_dir = fx->t.dir};
	_cleanup_(freep) char *before = NULL;
	_cleanup_(freep) char *now = NULL;
	struct stat st;
	char path[512];
	glob_t g;

	open_with_data(fx);
	close_catalog(fx);
	tmpdb_sql(&fx->t, "UPDATE backup_jobs SET error_message = ' it''s \\n \"x\" \n \xc3\xa4 '");
	before = tmpdb_dump(&fx->t, NULL);
	migrate_to(fx, 1);
	assert_int_equal(copies(fx, "3-*Z.*"), 1);
	OK(catalog_open(fx->t.url, &opt, &fx->cat, &err));
	assert_int_equal(copies(fx, "1-*Z.*"), 1);
	assert_int_equal(copies(fx, "*"), 2);
	close_catalog(fx);

	/* The copy is private, whole, and is the way back: here with texts a careless one would
	 * break.
	 */
	snprintf(path, sizeof(path), "%s.schema-3-*", fx->t.path);
	assert_int_equal(glob(path, 0, NULL, &g), 0);
	assert_int_equal(stat(g.gl_pathv[0], &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	restore(fx, g.gl_pathv[0]);
	globfree(&g);
	now = tmpdb_dump(&fx->t, NULL);
	assert_string_equal(now, before);
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

static void a_change_that_a_newer_program_began_is_refused_too(void **state)
{
	struct fx *fx = *state;

	OK(catalog_open(fx->t.url, NULL, &fx->cat, &err));
	close_catalog(fx);
	tmpdb_sql(&fx->t, "INSERT INTO schema_step VALUES (1, 4711, 1, 2, 1)");
	EXPECT_TEXT(CATALOG_E_SCHEMA, "schema 4711", catalog_open(fx->t.url, NULL, &fx->cat, &err));
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT done FROM schema_step"), 2);
}

static void a_schema_that_does_not_exist_cannot_be_asked_for(void **state)
{
	struct fx *fx = *state;
	_cleanup_(db_closep) struct db *db = NULL;

	OK(db_open(fx->t.url, 1000, &db, &err));
	EXPECT(CATALOG_E_INVALID, catalog_schema_migrate(db, 99, NULL, &err));
	EXPECT(CATALOG_E_INVALID, catalog_schema_migrate(db, -1, NULL, &err));
}

static void a_migration_that_fails_half_way_leaves_the_version_before_it(void **state)
{
	struct fx *fx = *state;

	/* The third migration's last table cannot be made while a view has its name. Where tables
	 * cannot be taken back, those before it stay, and the next attempt goes on behind them. */
	migrate_to(fx, 2);
	tmpdb_sql(&fx->t, "CREATE VIEW backup_disks AS SELECT 1 AS one");
	EXPECT_TEXT(-EIO, "schema migration 003_backups up",
		    catalog_open(fx->t.url, NULL, &fx->cat, &err));
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT MAX(version) FROM schema_version"), 2);
	assert_int_equal(tmpdb_has_table(&fx->t, "backup_jobs"), tmpdb_on_mariadb());
	EXPECT_TEXT(-EIO, "schema migration 003_backups up",
		    catalog_open(fx->t.url, NULL, &fx->cat, &err));
	tmpdb_sql(&fx->t, "DROP VIEW backup_disks");
	open_with_data(fx);
}

/* A program that migrates a new database is killed, a little later each time. */
static void a_kill_between_two_migrations_is_recovered_by_migrating_again(void **state)
{
	struct fx *fx = *state;
	bool finished = false;

	for (int delay_us = 0; !finished; delay_us += tmpdb_either(1000, 60000)) {
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
		tmpdb_assert_sound(&fx->t);
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
	tmpdb_force(&fx->t, "INSERT INTO replication_jobs VALUES ('j', 'no-such-context',"
			    " 'initial', 'running', NULL, 1, 1, NULL)");
	EXPECT_TEXT(-EUCLEAN, "replication_jobs", catalog_open(fx->t.url, NULL, &fx->cat, &err));
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT MAX(version) FROM schema_version"), 1);
	tmpdb_sql(&fx->t, "DELETE FROM replication_jobs");
	open_with_data(fx);
}

/* --- crashes between two statements of one migration ------------------------------------------ */

static char *read_script(const char *name)
{
	char path[128], *text = calloc(1, 65536);
	FILE *f;

	snprintf(path, sizeof(path), "catalog/schema/%s.sql", name);
	f = fopen(path, "r");
	if (!f)
		fail_msg("cannot read %s: run the tests from the repository's root folder", path);
	assert_true(fread(text, 1, 65535, f) > 0);
	fclose(f);
	return text;
}

static int count_statements(const char *script)
{
	const char *statement;
	size_t len;
	int n = 0;

	while (db_script_next(&script, &statement, &len))
		n++;
	return n;
}

/* Leaves the database as a crash would: the first @done statements of a migration done and noted,
 * the next one begun, and done or not. */
static void crash_at(const struct fx *fx, int version, bool up, const char *script, int done,
		     bool next_done)
{
	_cleanup_(db_closep) struct db *db = NULL;
	const char *statement;
	size_t len;

	OK(db_open(fx->t.url, 1000, &db, &err));
	for (int i = 0; i < done + next_done; i++) {
		assert_true(db_script_next(&script, &statement, &len));
		OK(db_statement(db, statement, len, &err));
	}
	tmpdb_sql(&fx->t, "INSERT INTO schema_step VALUES (1, %d, %d, %d, 1)", version, up, done);
}

static void recover_from_crashes(struct fx *fx, const char *name, int version, bool up, int step,
				 const char *clean)
{
	_cleanup_(freep) char *script = read_script(name);
	const int n = count_statements(script);

	assert_true(n >= 1);
	/* A step of 3 takes all statements but each third, done and not done in turn. */
	for (int i = 0; i < 2 * n; i += step) {
		_cleanup_(freep) char *schema = NULL;

		migrate_to(fx, up ? version - 1 : version);
		crash_at(fx, version, up, script, i / 2, i % 2);
		OK(catalog_open(fx->t.url, NULL, &fx->cat, &err));
		close_catalog(fx);
		schema = tmpdb_schema(&fx->t);
		assert_string_equal(schema, clean);
		assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM schema_version"),
				 catalog_schema_latest());
		assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM schema_step"), 0);
	}
}

static void a_crash_at_any_statement_is_recovered(void **state)
{
	_cleanup_(freep) char *clean = NULL;
	struct fx *fx = *state;

	OK(catalog_open(fx->t.url, NULL, &fx->cat, &err));
	close_catalog(fx);
	clean = tmpdb_schema(&fx->t);
	recover_from_crashes(fx, "002_repositories.up", 2, true, 1, clean);
	recover_from_crashes(fx, "003_backups.up", 3, true, 3, clean);
	recover_from_crashes(fx, "003_backups.down", 3, false, 1, clean);
}

/* What a statement finds in its way is taken for its own work only where it was begun before. */
static void a_table_that_is_in_the_way_is_not_taken_for_a_migrations_own(void **state)
{
	struct fx *fx = *state;

	migrate_to(fx, 2);
	tmpdb_sql(&fx->t, "CREATE TABLE backup_chains (id INT)");
	for (int i = 0; i < 2; i++) {
		EXPECT_TEXT(-EIO, "backup_chains", catalog_open(fx->t.url, NULL, &fx->cat, &err));
		assert_int_equal(tmpdb_i64(&fx->t, "SELECT MAX(version) FROM schema_version"), 2);
	}
	tmpdb_sql(&fx->t, "DROP TABLE backup_chains");
	open_with_data(fx);
}

/* The server is killed while a program migrates, and started again. */
static void a_server_killed_in_mid_migration_is_recovered(void **state)
{
	_cleanup_(freep) char *clean = NULL;
	struct fx *fx = *state;

	OK(catalog_open(fx->t.url, NULL, &fx->cat, &err));
	close_catalog(fx);
	clean = tmpdb_schema(&fx->t);
	for (int delay_us = 5000; delay_us < 200000; delay_us += 30000) {
		_cleanup_(freep) char *schema = NULL;
		pid_t pid;
		int status;

		migrate_to(fx, 0);
		pid = fork();
		assert_true(pid >= 0);
		if (pid == 0) {
			const struct catalog_options quick = {.busy_timeout_ms = 100};
			struct catalog *cat;

			_exit(catalog_open(fx->t.url, &quick, &cat, NULL) ? 1 : 0);
		}
		usleep((useconds_t)delay_us);
		mariadbd_kill(tmpdb_server());
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFEXITED(status));
		mariadbd_start(tmpdb_server());
		OK(catalog_open(fx->t.url, NULL, &fx->cat, &err));
		close_catalog(fx);
		schema = tmpdb_schema(&fx->t);
		assert_string_equal(schema, clean);
	}
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
		MIGRATE_TEST(a_table_that_is_in_the_way_is_not_taken_for_a_migrations_own),
	};
	/* Where every statement that changes the schema commits by itself. */
	const struct CMUnitTest mariadb_tests[] = {
		MIGRATE_TEST(a_change_that_a_newer_program_began_is_refused_too),
		MIGRATE_TEST(a_crash_at_any_statement_is_recovered),
		MIGRATE_TEST(a_server_killed_in_mid_migration_is_recovered),
	};

	return tmpdb_run_tests("catalog/migrate", tests, NULL, NULL) +
	       tmpdb_run_tests_on("mariadb", "catalog/migrate in steps", mariadb_tests, NULL, NULL);
}
