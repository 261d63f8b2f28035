/*
 * backup_jobs.disk_id and change_id, as programs of the flat layout read them (M31): the database
 * keeps them beside what the catalog writes, and the catalog does without them.
 */
#include "tests/catalog/fixture.h"

#include <errno.h>

#include "catalog/db.h"
#include "catalog/migrate.h"

#define NAME "015_old_columns"

static int64_t version_of(const struct fx *fx)
{
	return tmpdb_i64(&fx->t, "SELECT version FROM schema_version WHERE name = '" NAME "'");
}

static void close_catalog(struct fx *fx)
{
	catalog_close(fx->cat);
	fx->cat = NULL;
}

static int migrate(const struct fx *fx, int64_t version, struct err *err)
{
	_cleanup_(db_closep) struct db *db = NULL;
	int r = db_open(fx->t.url, 5000, &db, err);

	return r ? r : catalog_schema_migrate(db, version, NULL, err);
}

/* What an old client sees of a job; @change_id "": NULL. */
static void shows(const struct fx *fx, const char *job_id, int64_t disk_id, const char *change_id)
{
	assert_int_equal(
		tmpdb_i64(&fx->t, "SELECT disk_id FROM backup_jobs WHERE id = '%s'", job_id),
		disk_id);
	assert_string_equal(
		tmpdb_text(&fx->t, "SELECT change_id FROM backup_jobs WHERE id = '%s'", job_id),
		change_id);
	assert_int_equal(tmpdb_i64(&fx->t,
				   "SELECT COUNT(*) FROM backup_jobs WHERE id = '%s'"
				   " AND change_id IS NULL",
				   job_id),
			 !*change_id);
}

#define ID0 "52 66 8c 2d a7 c5 c5 68-c5 d2 8d 04 79 f5 fd 7d/5531"
#define ID1 "52 ed 45 cf 23 2c 6a f0-a5 26 59 71 b7 9f 1f b3/4523"

static void a_job_shows_its_first_disk(void **state)
{
	struct fx *fx = *state;
	struct fx_job full, next;
	struct fx_ready r;

	fx_ready(fx, &r, "pgtest1", 2);
	fx_start(fx, &r, CATALOG_BACKUP_FULL, &full);
	shows(fx, full.job.id, 0, "");
	/* The other disk first: never its change id under another disk's number. */
	OK(fx_complete(fx, full.job.id, 1, ID1, NULL, &err));
	shows(fx, full.job.id, 0, "");
	OK(fx_complete(fx, full.job.id, 0, ID0, NULL, &err));
	shows(fx, full.job.id, 0, ID0);
	fx_start(fx, &r, CATALOG_BACKUP_INCREMENTAL, &next);
	shows(fx, next.job.id, 0, "");
	OK(fx_complete(fx, next.job.id, 0, "52 66/6000", NULL, &err));
	shows(fx, next.job.id, 0, "52 66/6000");
	OK(catalog_backup_disk_fail(fx->cat, next.job.id, 1, "cut", NULL, &err));
	shows(fx, next.job.id, 0, "52 66/6000");
	shows(fx, full.job.id, 0, ID0);

	/* What an old client asks: the latest of disk 0. */
	assert_string_equal(tmpdb_text(&fx->t,
				       "SELECT change_id FROM backup_jobs WHERE vm_name = 'pgtest1'"
				       " AND disk_id = 0 AND status = 'completed'"
				       " ORDER BY created_at DESC LIMIT 1"),
			    ID0);
}

static void the_first_disk_may_have_any_index_and_come_in_any_order(void **state)
{
	struct fx *fx = *state;
	struct fx_ready r;
	struct fx_job j;

	fx_ready(fx, &r, "pgtest1", 3);
	fx_plan(fx, &r, CATALOG_BACKUP_FULL, &j);
	/* Disk 0 is none of this job's, and the rows are not written in the order of their index.
	 */
	j.n = 2;
	j.disks[0] = j.disks[2];
	OK(catalog_backup_start(fx->cat, &j.job, j.disks, j.n, NULL, &err));
	shows(fx, j.job.id, 1, "");
	OK(fx_complete(fx, j.job.id, 2, "two", NULL, &err));
	shows(fx, j.job.id, 1, "");
	OK(fx_complete(fx, j.job.id, 1, "one", NULL, &err));
	shows(fx, j.job.id, 1, "one");
}

static void old_jobs_are_filled_by_the_migration_and_kept_by_the_way_back(void **state)
{
	_cleanup_(freep) char *before = NULL;
	_cleanup_(freep) char *older = NULL;
	_cleanup_(freep) char *after = NULL;
	struct fx *fx = *state;
	struct fx_job full, running, none;
	struct fx_ready r, s;
	int64_t version = version_of(fx);

	fx_ready(fx, &r, "pgtest1", 2);
	fx_ready(fx, &s, "pgtest2", 1);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &full);
	fx_start(fx, &r, CATALOG_BACKUP_INCREMENTAL, &running);
	OK(fx_complete(fx, running.job.id, 1, "b/1", NULL, &err));
	/* A run of the flat layout has no disks of its own. */
	fx_backup(fx, &s, CATALOG_BACKUP_FULL, "c", &none);
	tmpdb_sql(&fx->t,
		  "DELETE FROM backup_disks WHERE backup_job_id = '%s';"
		  "UPDATE backup_jobs SET change_id = NULL WHERE id = '%s'",
		  none.job.id, none.job.id);
	close_catalog(fx);
	before = tmpdb_dump(&fx->t, "schema_version");

	OK(migrate(fx, version - 1, &err));
	assert_int_not_equal(tmpdb_try(&fx->t, "SELECT disk_id FROM backup_jobs"), 0);
	assert_int_not_equal(tmpdb_try(&fx->t, "SELECT change_id FROM backup_jobs"), 0);
	older = tmpdb_schema(&fx->t);
	assert_null(strstr(older, "old_columns"));
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_jobs"), 3);
	tmpdb_assert_sound(&fx->t);

	/* What an older program does meanwhile is there as well. */
	tmpdb_sql(&fx->t,
		  "UPDATE backup_disks SET disk_change_id = 'b/0' WHERE disk_index = 0"
		  " AND backup_job_id = '%s'",
		  running.job.id);
	OK(catalog_open(fx->t.url, NULL, &fx->cat, &err));
	shows(fx, full.job.id, 0, "a/0");
	shows(fx, running.job.id, 0, "b/0");
	shows(fx, none.job.id, 0, "");
	tmpdb_sql(&fx->t,
		  "UPDATE backup_disks SET disk_change_id = NULL WHERE disk_index = 0"
		  " AND backup_job_id = '%s'",
		  running.job.id);
	shows(fx, running.job.id, 0, "");
	after = tmpdb_dump(&fx->t, "schema_version");
	assert_string_equal(after, before);
	OK(fx_complete(fx, running.job.id, 0, "b/0", NULL, &err));
	shows(fx, running.job.id, 0, "b/0");
	tmpdb_assert_sound(&fx->t);
}

/* A later migration will take the columns away: nothing else changes. */
static void the_catalog_does_without_them(void **state)
{
	struct fx *fx = *state;
	struct catalog_backup got;
	struct fx_ready r;
	struct fx_job j;

	fx_ready(fx, &r, "pgtest1", 2);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &j);
	tmpdb_sql(&fx->t, "DROP TRIGGER old_columns_insert; DROP TRIGGER old_columns_update;"
			  "ALTER TABLE backup_jobs DROP COLUMN disk_id;"
			  "ALTER TABLE backup_jobs DROP COLUMN change_id");
	fx_backup(fx, &r, CATALOG_BACKUP_INCREMENTAL, "b", &j);
	OK(catalog_backup_get(fx->cat, j.job.id, &got, &err));
	assert_int_equal(got.status, CATALOG_JOB_COMPLETED);
	fx_start(fx, &r, CATALOG_BACKUP_INCREMENTAL, &j);
	OK(catalog_backup_fail(fx->cat, j.job.id, CATALOG_JOB_FAILED, "cut", &err));
	close_catalog(fx);
	OK(catalog_open(fx->t.url, NULL, &fx->cat, &err));
	tmpdb_sql(&fx->t, "DELETE FROM vm_backup_contexts");
	tmpdb_assert_sound(&fx->t);
}

/* --- a server with a binary log ----------------------------------------------------------------
 */

static struct mariadbd logging;

/* A server as one that is replicated, and the user that docs/catalog.md makes. */
static int logging_setup(void **state)
{
	static const char *const users[] = {"CREATE USER hub@localhost IDENTIFIED BY 'pw'",
					    "GRANT ALL ON `cat%`.* TO hub@localhost"};
	MYSQL *h;

	(void)state;
	mariadbd_init(&logging, 0);
	logging.options[0] = "--log-bin=binlog";
	logging.options[1] = "--server-id=1";
	mariadbd_start(&logging);
	h = mariadbd_connect(&logging, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(users); i++)
		if (mysql_query(h, users[i]))
			fail_msg("%s", mysql_error(h));
	mysql_close(h);
	setenv("SENDENSE_DB_PASSWORD", "pw", 1);
	return 0;
}

static int logging_teardown(void **state)
{
	(void)state;
	unsetenv("SENDENSE_DB_PASSWORD");
	mariadbd_deinit(&logging);
	return 0;
}

static int64_t ask(const char *database, const char *sql)
{
	MYSQL *h = mariadbd_connect(&logging, database);
	int64_t v = -1;
	MYSQL_RES *res;
	MYSQL_ROW row;

	if (mysql_query(h, sql))
		fail_msg("%s: %s", sql, mysql_error(h));
	res = mysql_store_result(h);
	if (res) {
		row = mysql_fetch_row(res);
		v = row && row[0] ? atoll(row[0]) : -1;
		mysql_free_result(res);
	}
	mysql_close(h);
	return v;
}

#define TRIGGERS                                                                                   \
	"SELECT COUNT(*) FROM information_schema.triggers WHERE trigger_schema = DATABASE()"
#define FILLED "SELECT COUNT(*) FROM backup_jobs WHERE change_id LIKE '%/0'"

static void new_catalog(const char *name, char url[512])
{
	char sql[64];

	snprintf(sql, sizeof(sql), "CREATE DATABASE %s", name);
	ask(NULL, sql);
	snprintf(url, 512, "mariadb://hub@localhost/%s?socket=%s", name, logging.sock);
}

static void back_up(struct fx *fx, enum catalog_backup_type type)
{
	struct fx_ready r;
	struct fx_job j;

	fx_ready(fx, &r, "pgtest1", 2);
	fx_backup(fx, &r, type, "a", &j);
}

static int go_to(const char *url, int64_t version, struct err *err)
{
	_cleanup_(db_closep) struct db *db = NULL;
	int r = db_open(url, 5000, &db, err);

	return r ? r : catalog_schema_migrate(db, version, NULL, err);
}

static void a_server_that_refuses_triggers_has_the_catalog_without_them(void **state)
{
	struct fx fx = {0};
	char url[512];
	int64_t version;

	(void)state;
	new_catalog("cat_refused", url);
	OK(catalog_open(url, NULL, &fx.cat, &err));
	assert_int_equal(ask("cat_refused", TRIGGERS), 0);
	back_up(&fx, CATALOG_BACKUP_FULL);
	assert_int_equal(ask("cat_refused", FILLED), 0);
	close_catalog(&fx);

	/* What there is to fill is filled, and the way back is open. */
	version = ask("cat_refused", "SELECT version FROM schema_version WHERE name = '" NAME "'");
	OK(go_to(url, version - 1, &err));
	OK(go_to(url, version, &err));
	assert_int_equal(ask("cat_refused", FILLED), 1);

	/* Allowed for the time of an upgrade: it stays. */
	OK(go_to(url, version - 1, &err));
	ask(NULL, "SET GLOBAL log_bin_trust_function_creators = 1");
	OK(go_to(url, version, &err));
	ask(NULL, "SET GLOBAL log_bin_trust_function_creators = 0");
	OK(catalog_open(url, NULL, &fx.cat, &err));
	assert_int_equal(ask("cat_refused", TRIGGERS), 2);
	back_up(&fx, CATALOG_BACKUP_INCREMENTAL);
	assert_int_equal(ask("cat_refused", FILLED), 2);
	close_catalog(&fx);
}

static void triggers_that_cannot_be_dropped_keep_their_columns(void **state)
{
	struct fx fx = {0};
	char url[512];
	int64_t version;

	(void)state;
	ask(NULL, "SET GLOBAL log_bin_trust_function_creators = 1");
	new_catalog("cat_kept", url);
	OK(catalog_open(url, NULL, &fx.cat, &err));
	back_up(&fx, CATALOG_BACKUP_FULL);
	close_catalog(&fx);
	ask(NULL, "SET GLOBAL log_bin_trust_function_creators = 0");
	version = ask("cat_kept", "SELECT version FROM schema_version WHERE name = '" NAME "'");
	EXPECT_TEXT(-EPERM, "log_bin_trust_function_creators = 1", go_to(url, version - 1, &err));
	assert_int_equal(ask("cat_kept", TRIGGERS), 2);
	assert_int_equal(ask("cat_kept", FILLED), 1);
	/* Done by the administrator, or allowed: on it goes. */
	ask("cat_kept", "DROP TRIGGER old_columns_update");
	ask("cat_kept", "DROP TRIGGER old_columns_insert");
	OK(go_to(url, version - 1, &err));
	OK(catalog_open(url, NULL, &fx.cat, &err));
	back_up(&fx, CATALOG_BACKUP_INCREMENTAL);
	close_catalog(&fx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FX_TEST(a_job_shows_its_first_disk),
		FX_TEST(the_first_disk_may_have_any_index_and_come_in_any_order),
		FX_TEST(old_jobs_are_filled_by_the_migration_and_kept_by_the_way_back),
		FX_TEST(the_catalog_does_without_them),
	};
	const struct CMUnitTest logging_tests[] = {
		cmocka_unit_test(a_server_that_refuses_triggers_has_the_catalog_without_them),
		cmocka_unit_test(triggers_that_cannot_be_dropped_keep_their_columns),
	};

	return tmpdb_run_tests("catalog/old columns", tests, NULL, NULL) +
	       tmpdb_run_tests_on("mariadb", "catalog/old columns, binary log", logging_tests,
				  logging_setup, logging_teardown);
}
