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

/* To the version before this migration, wherever it stands among them. */
static void migrate_below(const struct fx *fx, const char *name)
{
	int64_t version =
		tmpdb_i64(&fx->t, "SELECT version FROM schema_version WHERE name = '%s'", name);

	assert_true(version > 0);
	migrate_to(fx, version - 1);
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

/* One row in each table no function writes yet. */
static void add_other_rows(const struct fx *fx)
{
	tmpdb_sql(
		&fx->t,
		"INSERT INTO backup_policies (id, name, primary_repository_id, created_at,"
		" updated_at) SELECT 'pol-1', 'daily', id, 1, 1 FROM backup_repositories;"
		"INSERT INTO backup_copy_rules (id, policy_id, repository_id, created_at,"
		" updated_at) SELECT 'rule-1', 'pol-1', id, 1, 1 FROM backup_repositories;"
		"INSERT INTO backup_copies (id, backup_job_id, repository_id, copy_rule_id, status,"
		" created_at) SELECT 'copy-1', MIN(id), MIN(repository_id), 'rule-1', 'pending', 1"
		" FROM backup_jobs;"
		"INSERT INTO backup_copy_disks (copy_id, disk_index, qcow2_path, part_path,"
		" bytes_total) VALUES ('copy-1', 0, 'a', 'b', 5);"
		"UPDATE backup_copies SET hub_token = 7, task = 'verify', claim = 5;"
		"INSERT INTO schedules (id, name, policy_id, vm_context_id, backup_type,"
		" cron_expression, created_at, updated_at) SELECT 'sch-1', 'nightly', 'pol-1',"
		" context_id, 'full', '0 3 * * *', 1, 1 FROM vm_replication_contexts;"
		"INSERT INTO job_log (backup_job_id, level, message, created_at) SELECT id, 'info',"
		" 'x', 1 FROM backup_jobs;"
		"INSERT INTO restore_mounts (id, backup_disk_id, status, created_at, last_used_at)"
		" SELECT 'mnt-1', MIN(id), 'mounted', 1, 1 FROM backup_disks;"
		"INSERT INTO users (id, name, role, created_at, updated_at) VALUES ('usr-1', 'ann',"
		" 'admin', 1, 1);"
		"INSERT INTO api_tokens (id, user_id, name, token_hash, created_at) VALUES"
		" ('tok-1', 'usr-1', 'cli', 'abc', 1);"
		"INSERT INTO credentials (name, kind, username, secret, key_id, created_at,"
		" updated_at) VALUES ('vc', 'vcenter', 'u', 'sealed', 'k1', 1, 1);"
		"INSERT INTO audit_log (created_at, user_name, action, outcome, detail,"
		" previous_hash, entry_hash) VALUES (1, 'ann', 'login', 'allowed', '', '', 'h1');"
		"INSERT INTO hubs (token, id, name, instance, started_at, heartbeat_at,"
		" steady_since, lease_until) VALUES (7, 'hub-7', 'h', 'data-7', 1, 1, 1, 1);"
		"UPDATE backup_jobs SET hub_token = 7;"
		"INSERT INTO idempotency_keys (caller, idem_key, request_hash, owner, created_at,"
		" expires_at) VALUES ('ann', 'k1', 'h', 'hub', 1, 1);"
		"INSERT INTO appliance_pairings (id, code_hash, created_by, created_at, expires_at)"
		" VALUES ('pair-1', 'h1', 'ann', 1, 1);"
		"INSERT INTO appliance_enrollments (id, pairing_id, name, public_key, fingerprint,"
		" challenge, status, created_at, updated_at, expires_at, approved_key) VALUES"
		" ('enr-1', 'pair-1', 'vma', 'k1', 'f', 'c', 'approved', 1, 1, 1, 'k1');"
		"INSERT INTO backup_deletions (backup_id, vm_name, repository_id, backup_type,"
		" backup_created_at, created_at, retry_at) SELECT 'backup-gone', 'vm', id, 'full',"
		" 1, 1, 1 FROM backup_repositories;"
		"INSERT INTO backup_deletion_files (deletion_id, qcow2_path, committed)"
		" SELECT id, 'x.qcow2', 1 FROM backup_deletions");
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
	add_other_rows(fx);
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
	int64_t lines;

	open_with_data(fx);
	close_catalog(fx);
	lines = tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM job_log");
	tmpdb_sql(&fx->t, "INSERT INTO api_tokens (id, user_id, name, token_hash, created_at,"
			  " parent_id) VALUES ('tok-2', 'usr-1', 'session', 'def', 1, 'tok-1')");
	migrate_below(fx, "014_appliances");
	assert_false(tmpdb_has_table(&fx->t, "appliance_enrollments"));
	/* Without what makes it a session it would be a token by itself. */
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM api_tokens"), 1);
	tmpdb_assert_sound(&fx->t);
	migrate_below(fx, "013_copies");
	assert_false(tmpdb_has_table(&fx->t, "backup_copy_disks"));
	assert_int_not_equal(tmpdb_try(&fx->t, "SELECT task FROM backup_copies"), 0);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_copies"), 1);
	tmpdb_assert_sound(&fx->t);
	migrate_below(fx, "008_hubs");
	assert_false(tmpdb_has_table(&fx->t, "hubs"));
	assert_int_not_equal(tmpdb_try(&fx->t, "SELECT hub_token FROM backup_jobs"), 0);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_jobs"), 3);
	tmpdb_assert_sound(&fx->t);
	migrate_below(fx, "007_idempotency");
	assert_false(tmpdb_has_table(&fx->t, "idempotency_keys"));
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM users"), 1);
	migrate_to(fx, 5);
	assert_false(tmpdb_has_table(&fx->t, "users"));
	assert_true(lines >= 3 && tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM job_log") == lines);
	migrate_to(fx, 4);
	assert_false(tmpdb_has_table(&fx->t, "job_log"));
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_copies"), 1);
	migrate_to(fx, 3);
	assert_false(tmpdb_has_table(&fx->t, "backup_policies"));
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_disks"), 6);
	tmpdb_assert_sound(&fx->t);
	migrate_to(fx, 2);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_repositories"), 1);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM vm_disks"), 2);
	assert_false(tmpdb_has_table(&fx->t, "backup_jobs"));
	migrate_to(fx, 1);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM vm_disks"), 2);
	migrate_to(fx, 0);
	assert_int_equal(tmpdb_count_tables(&fx->t), 1); /* schema_version */
	migrate_to(fx, 1);
	migrate_to(fx, catalog_schema_latest());
	tmpdb_assert_sound(&fx->t);
	open_with_data(fx);
}

/* A database that an older program left is brought up to date with everything it had. */
static void every_older_schema_comes_up_with_data_in(void **state)
{
	struct fx *fx = *state;

	for (int64_t v = catalog_schema_latest() - 1; v >= 1; v--) {
		_cleanup_(freep) char *before = NULL;
		_cleanup_(freep) char *after = NULL;

		open_with_data(fx);
		close_catalog(fx);
		migrate_to(fx, v);
		before = tmpdb_dump(&fx->t, "schema_version");
		OK(catalog_open(fx->t.url, NULL, &fx->cat, &err));
		close_catalog(fx);
		tmpdb_assert_sound(&fx->t);
		migrate_to(fx, v);
		after = tmpdb_dump(&fx->t, "schema_version");
		assert_string_equal(before, after);
		tmpdb_deinit(&fx->t);
		tmpdb_init(&fx->t);
	}
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
	_cleanup_(freep) char *schema_before = NULL;
	_cleanup_(freep) char *schema_now = NULL;
	_cleanup_(freep) char *before = NULL;
	_cleanup_(freep) char *now = NULL;
	struct stat st;
	char path[512];
	glob_t g;

	open_with_data(fx);
	close_catalog(fx);
	tmpdb_sql(&fx->t, "UPDATE backup_jobs SET error_message = ' it''s \\n \"x\" \n \xc3\xa4 '");
	before = tmpdb_dump(&fx->t, NULL);
	schema_before = tmpdb_schema(&fx->t);
	migrate_to(fx, 1);
	snprintf(path, sizeof(path), "%" PRId64 "-*Z.*", catalog_schema_latest());
	assert_int_equal(copies(fx, path), 1);
	OK(catalog_open(fx->t.url, &opt, &fx->cat, &err));
	assert_int_equal(copies(fx, "1-*Z.*"), 1);
	assert_int_equal(copies(fx, "*"), 2);
	close_catalog(fx);

	/* The copy is private, whole, and is the way back: here with texts a careless one would
	 * break.
	 */
	snprintf(path, sizeof(path), "%s.schema-%" PRId64 "-*", fx->t.path,
		 catalog_schema_latest());
	assert_int_equal(glob(path, 0, NULL, &g), 0);
	assert_int_equal(stat(g.gl_pathv[0], &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	restore(fx, g.gl_pathv[0]);
	globfree(&g);
	now = tmpdb_dump(&fx->t, NULL);
	assert_string_equal(now, before);
	schema_now = tmpdb_schema(&fx->t);
	assert_string_equal(schema_now, schema_before);
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

static pid_t start_migrating(const struct fx *fx)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		struct catalog *cat;

		_exit(catalog_open(fx->t.url, NULL, &cat, NULL) ? 1 : 0);
	}
	return pid;
}

/* What migrating a new database takes on this machine, as busy as it is. */
static int64_t migration_us(struct fx *fx)
{
	int64_t began = catalog_now_us();
	pid_t pid = start_migrating(fx);
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	began = catalog_now_us() - began;
	tmpdb_deinit(&fx->t);
	tmpdb_init(&fx->t);
	return began;
}

/* A program that migrates a new database is killed, a little later each time: at as many moments on
 * a slow disk as on a fast one. */
static void a_kill_between_two_migrations_is_recovered_by_migrating_again(void **state)
{
	struct fx *fx = *state;
	const int64_t step_us = MAX(migration_us(fx) / tmpdb_either(60, 25), 500);
	bool finished = false;

	for (int64_t delay_us = 0; !finished; delay_us += step_us) {
		pid_t pid = start_migrating(fx);
		int status;

		usleep((useconds_t)delay_us);
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		finished = WIFEXITED(status);
		assert_true(!finished || WEXITSTATUS(status) == 0);
		open_with_data(fx);
		assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM schema_version"),
				 catalog_schema_latest());
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
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM schema_version"),
			 catalog_schema_latest());
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
	/* An odd step takes statements done and not done in turn. */
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
	int hubs, deletions, with_copies, old_columns;

	OK(catalog_open(fx->t.url, NULL, &fx->cat, &err));
	close_catalog(fx);
	clean = tmpdb_schema(&fx->t);
	recover_from_crashes(fx, "003_backups.up", 3, true, 7, clean);
	recover_from_crashes(fx, "006_access.up", 6, true, 1, clean);
	recover_from_crashes(fx, "006_access.down", 6, false, 1, clean);
	hubs = (int)tmpdb_i64(&fx->t, "SELECT version FROM schema_version WHERE name ="
				      " '008_hubs'");
	recover_from_crashes(fx, "008_hubs.up", hubs, true, 1, clean);
	recover_from_crashes(fx, "008_hubs.down", hubs, false, 1, clean);
	deletions = (int)tmpdb_i64(&fx->t, "SELECT version FROM schema_version WHERE name ="
					   " '012_deletions'");
	recover_from_crashes(fx, "012_deletions.up", deletions, true, 1, clean);
	recover_from_crashes(fx, "012_deletions.down", deletions, false, 1, clean);
	with_copies = (int)tmpdb_i64(&fx->t, "SELECT version FROM schema_version WHERE name ="
					     " '013_copies'");
	recover_from_crashes(fx, "013_copies.up", with_copies, true, 1, clean);
	recover_from_crashes(fx, "013_copies.down", with_copies, false, 1, clean);
	old_columns = (int)tmpdb_i64(&fx->t, "SELECT version FROM schema_version WHERE name ="
					     " '015_old_columns'");
	recover_from_crashes(fx, "015_old_columns.up", old_columns, true, 1, clean);
	recover_from_crashes(fx, "015_old_columns.down", old_columns, false, 1, clean);
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

/* What mission and schema promise of these tables: what goes with what, and what may not be. */
static void rows_of_the_later_tables_keep_their_rules(void **state)
{
	static const char *const refused[] = {
		"INSERT INTO backup_policies SELECT 'pol-2', 'daily', 1, primary_repository_id, 0, "
		"0,"
		" 0, 0, 0, 0, 1, 1 FROM backup_policies",
		"UPDATE backup_policies SET keep_last = -1",
		"UPDATE backup_copies SET status = 'completed'",
		"UPDATE schedules SET backup_type = 'differential'",
		"UPDATE users SET role = 'root'",
		"UPDATE api_tokens SET scopes = 'all'",
		"UPDATE restore_mounts SET users = -1",
		"INSERT INTO api_tokens (id, user_id, name, token_hash, created_at) VALUES "
		"('tok-2',"
		" 'usr-1', 'x', 'abc', 1)",
		"INSERT INTO audit_log (created_at, user_name, action, outcome, detail,"
		" previous_hash, entry_hash) VALUES (1, 'eve', 'x', 'allowed', '', '', 'h2')",
		"INSERT INTO restore_mounts (id, backup_disk_id, status, created_at, last_used_at)"
		" SELECT 'mnt-2', MIN(id), 'mounted', 1, 1 FROM backup_disks",
		"DELETE FROM backup_repositories",
		"DELETE FROM appliance_pairings",
		"UPDATE appliance_enrollments SET status = 'expired'",
		"INSERT INTO appliance_enrollments (id, pairing_id, name, public_key, fingerprint,"
		" challenge, status, created_at, updated_at, expires_at) VALUES ('enr-2', 'pair-1',"
		" 'vma', 'k2', 'f', 'c', 'approved', 1, 1, 1)",
	};
	struct fx *fx = *state;

	open_with_data(fx);
	for (size_t i = 0; i < ARRAY_SIZE(refused); i++)
		if (!tmpdb_try(&fx->t, refused[i]))
			fail_msg("accepted: %s", refused[i]);
	tmpdb_sql(&fx->t, "DELETE FROM backup_copy_rules");
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_copies"
					   " WHERE copy_rule_id IS NULL"),
			 1);
	tmpdb_sql(&fx->t, "DELETE FROM users");
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM api_tokens"), 0);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM audit_log"), 1);
	tmpdb_sql(&fx->t, "DELETE FROM vm_backup_contexts");
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM job_log"), 0);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM restore_mounts"), 0);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_copies"), 0);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM schedules"), 1);
	tmpdb_sql(&fx->t, "DELETE FROM vm_replication_contexts");
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM schedules"), 0);
	tmpdb_assert_sound(&fx->t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		MIGRATE_TEST(a_new_database_gets_every_migration_and_no_copy),
		MIGRATE_TEST(opening_again_changes_nothing),
		MIGRATE_TEST(every_step_down_and_up_works_with_data_in),
		MIGRATE_TEST(every_older_schema_comes_up_with_data_in),
		MIGRATE_TEST(rows_of_the_later_tables_keep_their_rules),
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
