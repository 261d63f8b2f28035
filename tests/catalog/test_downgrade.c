/* Back to an older program's schema: what is told to go is what goes, a copy is put aside, and no
 * hub is cut off from its catalog. */
#include "tests/catalog/fixture.h"

#include <glob.h>

#include "catalog/downgrade.h"
#include "catalog/hubs.h"
#include "catalog/migrate.h"

static char told[65536];

static void tell(void *arg, const char *line)
{
	(void)arg;
	snprintf(told + strlen(told), sizeof(told) - strlen(told), "%s\n", line);
}

static int downgrade(const struct fx *fx, int64_t version, struct err *err)
{
	told[0] = '\0';
	return catalog_downgrade(fx->t.url, fx->t.dir, version, tell, NULL, err);
}

static void close_catalog(struct fx *fx)
{
	catalog_close(fx->cat);
	fx->cat = NULL;
}

static size_t copies(const struct fx *fx)
{
	char pattern[512];
	glob_t g;
	size_t n;

	snprintf(pattern, sizeof(pattern), "%s/*.schema-*", fx->t.dir);
	n = glob(pattern, 0, NULL, &g) ? 0 : g.gl_pathc;
	if (n)
		globfree(&g);
	return n;
}

static void is_told(const char *line)
{
	if (!strstr(told, line))
		fail_msg("\"%s\" is not in:\n%s", line, told);
}

/* A table was told exactly if it is gone. */
static void every_table_that_went_was_told(const char *const *tables, size_t n, const struct fx *fx)
{
	for (size_t i = 0; i < n; i++) {
		char line[128];

		snprintf(line, sizeof(line), ": table %s with ", tables[i]);
		assert_true(tmpdb_has_table(&fx->t, tables[i]) == !strstr(told, line));
	}
}

static void what_goes_is_told_first_and_the_rest_stays(void **state)
{
	static const char *const tables[] = {"vm_disks",	   "vm_replication_contexts",
					     "replication_jobs",   "backup_jobs",
					     "backup_disks",	   "backup_chains",
					     "backup_policies",	   "backup_copies",
					     "schedules",	   "job_log",
					     "restore_mounts",	   "users",
					     "api_tokens",	   "credentials",
					     "audit_log",	   "hubs",
					     "idempotency_keys",   "hub_tokens",
					     "backup_repositories"};
	struct fx *fx = *state;
	struct fx_ready r;
	struct fx_job j;
	int64_t version;

	fx_ready(fx, &r, "pgtest1", 2);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &j);
	tmpdb_sql(&fx->t, "INSERT INTO users (id, name, role, created_at, updated_at)"
			  " VALUES ('usr-1', 'ann', 'admin', 1, 1);"
			  "UPDATE vm_replication_contexts SET notes = 'of the accounts'");
	close_catalog(fx);
	version = tmpdb_i64(&fx->t,
			    "SELECT version FROM schema_version WHERE name = '005_operations'");
	OK(downgrade(fx, version, &err));
	is_told("010_nouns: column notes of vm_replication_contexts with 1 values\n");
	is_told("008_hubs: table hubs with 0 rows\n");
	is_told("006_access: table users with 1 rows\n");
	every_table_that_went_was_told(tables, ARRAY_SIZE(tables), fx);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT MAX(version) FROM schema_version"), version);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_disks"), 2);
	assert_int_equal(copies(fx), 1);
	tmpdb_assert_sound(&fx->t);

	/* And up again, as the newer program does at its start. */
	OK(catalog_open(fx->t.url, &(struct catalog_options){.copy_dir = fx->t.dir}, &fx->cat,
			&err));
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT MAX(version) FROM schema_version"),
			 catalog_schema_latest());
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM users"), 0);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_disks"), 2);
}

static void every_version_can_be_gone_back_to(void **state)
{
	struct fx *fx = *state;

	for (int64_t v = catalog_schema_latest() - 1; v >= 1; v--) {
		close_catalog(fx);
		OK(downgrade(fx, v, &err));
		assert_true(told[0]);
		OK(catalog_open(fx->t.url, NULL, &fx->cat, &err));
	}
}

static void a_hub_whose_lease_lasts_is_in_the_way(void **state)
{
	struct catalog_hub hub = {.name = "north", .instance = "data-1"};
	struct fx *fx = *state;
	char *before, *after;

	OK(catalog_hub_join(fx->cat, &hub, 3600 * 1000, &err));
	before = tmpdb_dump(&fx->t, NULL);
	EXPECT_TEXT(CATALOG_E_BUSY, "hub \"north\" uses this catalog",
		    downgrade(fx, catalog_schema_latest() - 1, &err));
	after = tmpdb_dump(&fx->t, NULL);
	assert_string_equal(before, after);
	assert_string_equal(told, "");
	free(before);
	free(after);
	OK(catalog_hub_leave(fx->cat, &err));
	close_catalog(fx);
	OK(downgrade(fx, catalog_schema_latest() - 1, &err));
}

/* Joins while it is told what goes: after the first look, and before anything went. */
static void tell_and_join(void *arg, const char *line)
{
	static struct catalog_hub hub;

	if (!told[0]) {
		hub = (struct catalog_hub){.name = "late", .instance = "data-2"};
		OK(catalog_hub_join(arg, &hub, 3600 * 1000, &err));
	}
	tell(NULL, line);
}

static void a_hub_that_comes_meanwhile_is_in_the_way_too(void **state)
{
	struct fx *fx = *state;
	int64_t before = catalog_schema_latest();

	told[0] = '\0';
	EXPECT_TEXT(
		CATALOG_E_BUSY, "hub \"late\" uses this catalog",
		catalog_downgrade(fx->t.url, fx->t.dir, before - 1, tell_and_join, fx->cat, &err));
	assert_true(told[0]);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT MAX(version) FROM schema_version"), before);
	OK(catalog_hub_renew(fx->cat, 60000, &err));
	OK(catalog_hub_leave(fx->cat, &err));
	OK(downgrade(fx, before - 1, &err));
}

static void a_hub_that_comes_afterwards_is_not_let_in(void **state)
{
	struct catalog_hub hub = {.name = "north", .instance = "data-1"};
	struct fx *fx = *state;

	OK(downgrade(fx, catalog_schema_latest() - 1, &err));
	EXPECT_TEXT(CATALOG_E_SCHEMA, "goes back to an older schema",
		    catalog_hub_join(fx->cat, &hub, 60000, &err));
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM hubs"), 0);
	close_catalog(fx);
	OK(catalog_open(fx->t.url, NULL, &fx->cat, &err));
	OK(catalog_hub_join(fx->cat, &hub, 60000, &err));
}

/* Where each statement commits: any step that was cut off before its last statement. */
static void what_was_cut_off_goes_on_and_lets_no_hub_in_before(void **state)
{
	struct catalog_hub hub = {.name = "north", .instance = "data-1"};
	struct fx *fx = *state;

	for (int64_t v = catalog_schema_latest(); v > 1; v--) {
		_cleanup_(db_closep) struct db *db = NULL;
		const char *script = catalog_schema_down(v), *statement;
		size_t len;

		OK(db_open(fx->t.url, 5000, &db, &err));
		OK(catalog_schema_migrate(db, v, NULL, &err));
		tmpdb_sql(&fx->t, "INSERT INTO schema_step VALUES (1, %" PRId64 ", 0, 0, 0)", v);
		if (v == catalog_schema_latest())
			EXPECT(CATALOG_E_SCHEMA, catalog_hub_join(fx->cat, &hub, 60000, &err));
		for (int done = 1;
		     db_script_next(&script, &statement, &len) && script[strspn(script, "\n")];
		     done++) {
			OK(db_statement(db, statement, len, &err));
			tmpdb_sql(&fx->t, "UPDATE schema_step SET done = %d", done);
		}
		OK(downgrade(fx, v - 1, &err));
		assert_int_equal(tmpdb_i64(&fx->t, "SELECT MAX(version) FROM schema_version"),
				 v - 1);
		assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM schema_step"), 0);
	}
}

static void versions_that_make_no_sense_change_nothing(void **state)
{
	struct fx *fx = *state;
	int64_t latest = catalog_schema_latest();

	close_catalog(fx);
	EXPECT_TEXT(CATALOG_E_INVALID, "there is no schema 0", downgrade(fx, 0, &err));
	EXPECT_TEXT(CATALOG_E_INVALID, "there is no schema -3", downgrade(fx, -3, &err));
	EXPECT_TEXT(CATALOG_E_ALREADY, "nothing to undo", downgrade(fx, latest, &err));
	EXPECT_TEXT(CATALOG_E_ALREADY, "nothing to undo", downgrade(fx, latest + 5, &err));
	tmpdb_sql(&fx->t, "INSERT INTO schema_version (version, name, applied_at)"
			  " VALUES (999, 'of later', 1)");
	EXPECT_TEXT(CATALOG_E_SCHEMA, "--migrate-down-to", downgrade(fx, latest - 1, &err));
	assert_int_equal(copies(fx), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FX_TEST(what_goes_is_told_first_and_the_rest_stays),
		FX_TEST(every_version_can_be_gone_back_to),
		FX_TEST(a_hub_whose_lease_lasts_is_in_the_way),
		FX_TEST(a_hub_that_comes_meanwhile_is_in_the_way_too),
		FX_TEST(a_hub_that_comes_afterwards_is_not_let_in),
		FX_TEST(versions_that_make_no_sense_change_nothing),
	};
	const struct CMUnitTest mariadb_tests[] = {
		FX_TEST(what_was_cut_off_goes_on_and_lets_no_hub_in_before),
	};

	return tmpdb_run_tests("catalog/downgrade", tests, NULL, NULL) +
	       tmpdb_run_tests_on("mariadb", "catalog/downgrade in steps", mariadb_tests, NULL,
				  NULL);
}
