/* Back to an older program's schema: what is told to go is what goes, a copy is put aside, and no
 * hub is cut off from its catalog. */
#include "tests/catalog/fixture.h"

#include <glob.h>

#include "catalog/downgrade.h"
#include "catalog/hubs.h"

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
		FX_TEST(versions_that_make_no_sense_change_nothing),
	};

	return tmpdb_run_tests("catalog/downgrade", tests, NULL, NULL);
}
