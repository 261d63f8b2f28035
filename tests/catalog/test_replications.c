/* Replication jobs: they borrow the disks that discovery found, and remember change ids. */
#include "catalog/replications.h"
#include "tests/catalog/fixture.h"

static void start(struct fx *fx, struct catalog_replication *row, const struct fx_vm *v,
		  enum catalog_replication_type type)
{
	*row = (struct catalog_replication){.type = type};
	CATALOG_TEXT(row->vm_context_id, v->vm.context_id);
	OK(catalog_replication_create(fx->cat, row, &err));
}

static void change_id_is(struct fx *fx, const struct fx_vm *v, const char *disk,
			 const char *change_id)
{
	char got[CATALOG_CHANGE_ID_SIZE] = "?";

	OK(catalog_replication_change_id(fx->cat, v->vm.vm_path, disk, got, &err));
	assert_string_equal(got, change_id);
}

static void a_job_borrows_the_rows_there_are(void **state)
{
	struct fx *fx = *state;
	struct catalog_replication row, got, *rows;
	struct catalog_replication_filter filter = {.vm_name = "pgtest1"};
	struct catalog_vm_disk *disks;
	struct fx_vm v, other;
	int64_t total;
	size_t n;

	fx_add_vm(fx, &v, "pgtest1", 2);
	fx_add_vm(fx, &other, "other", 1);
	start(fx, &row, &v, CATALOG_REPLICATION_INITIAL);
	assert_memory_equal(row.id, "repl-", 5);
	assert_int_equal(row.status, CATALOG_JOB_PENDING);
	assert_int_equal(row.disk_count, 2);
	assert_string_equal(row.vm_name, "pgtest1");
	OK(catalog_vm_disks_list(fx->cat, v.vm.context_id, true, &disks, &n, &err));
	assert_int_equal(n, 2);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(disks[i].id, v.disks[i].id);
		assert_string_equal(disks[i].job_id, row.id);
	}
	free(disks);
	OK(catalog_replication_get(fx->cat, row.id, &got, &err));
	assert_memory_equal(&got, &row, sizeof(got));
	got = (struct catalog_replication){.type = CATALOG_REPLICATION_INCREMENTAL};
	CATALOG_TEXT(got.vm_context_id, v.vm.context_id);
	EXPECT_TEXT(CATALOG_E_BUSY, row.id, catalog_replication_create(fx->cat, &got, &err));
	OK(catalog_replications_list(fx->cat, &filter, &rows, &n, &total, &err));
	assert_true(n == 1 && total == 1);
	free(rows);
	filter.status = &(enum catalog_job_status){CATALOG_JOB_RUNNING};
	OK(catalog_replications_list(fx->cat, &filter, &rows, &n, &total, &err));
	assert_true(n == 0 && total == 0);

	/* Deleting the job leaves the disks. */
	OK(catalog_replication_delete(fx->cat, row.id, &err));
	OK(catalog_vm_disks_list(fx->cat, v.vm.context_id, true, &disks, &n, &err));
	assert_true(n == 2 && disks[0].id == v.disks[0].id && !disks[0].job_id[0]);
	free(disks);
}

static void what_cannot_be_is_refused(void **state)
{
	struct fx *fx = *state;
	struct catalog_replication row = {.type = CATALOG_REPLICATION_INITIAL};
	enum catalog_replication_type type;
	struct fx_vm v;

	CATALOG_TEXT(row.vm_context_id, "ctx-x");
	EXPECT(CATALOG_E_NOT_FOUND, catalog_replication_create(fx->cat, &row, &err));
	fx_add_vm(fx, &v, "bare", 0);
	CATALOG_TEXT(row.vm_context_id, v.vm.context_id);
	EXPECT_TEXT(CATALOG_E_INVALID, "no disks", catalog_replication_create(fx->cat, &row, &err));
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM replication_jobs"), 0);
	row.type = 9;
	EXPECT(CATALOG_E_INVALID, catalog_replication_create(fx->cat, &row, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_replication_get(fx->cat, "repl-x", &row, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_replication_delete(fx->cat, "repl-x", &err));
	EXPECT(CATALOG_E_NOT_FOUND,
	       catalog_replication_set_status(fx->cat, "repl-x", CATALOG_JOB_RUNNING, "", &err));
	EXPECT(CATALOG_E_INVALID, catalog_replication_set_status(fx->cat, "repl-x", 77, "", &err));
	assert_true(catalog_replication_type_parse("incremental", &type));
	assert_false(catalog_replication_type_parse("full", &type));
	assert_false(catalog_replication_type_parse(NULL, &type));
	assert_string_equal(catalog_replication_type_name(CATALOG_REPLICATION_INITIAL), "initial");
}

static void change_ids_are_kept_for_each_disk(void **state)
{
	static const char id0[] = "52 66 8c 01 d2 8e 5f 2b-4a 9c 7d/5531";
	struct catalog_replication row, next;
	struct fx *fx = *state;
	struct fx_vm v, twin;
	char longest[CATALOG_CHANGE_ID_SIZE + 1];

	fx_add_vm(fx, &v, "pgtest1", 2);
	change_id_is(fx, &v, "disk-2000", "");
	start(fx, &row, &v, CATALOG_REPLICATION_INITIAL);
	OK(catalog_replication_set_change_id(fx->cat, row.id, "disk-2000", id0, &err));
	OK(catalog_replication_set_change_id(fx->cat, row.id, "disk-2001", "b/1", &err));
	change_id_is(fx, &v, "disk-2000", ""); /* a copy of everything is under way */
	OK(catalog_replication_set_status(fx->cat, row.id, CATALOG_JOB_RUNNING, NULL, &err));
	EXPECT_TEXT(CATALOG_E_STATE, "runs", catalog_replication_delete(fx->cat, row.id, &err));
	OK(catalog_replication_set_status(fx->cat, row.id, CATALOG_JOB_FAILED, "no route", &err));
	OK(catalog_replication_set_status(fx->cat, row.id, CATALOG_JOB_FAILED, NULL, &err));
	EXPECT_TEXT(CATALOG_E_STATE, "failed",
		    catalog_replication_set_status(fx->cat, row.id, CATALOG_JOB_RUNNING, "", &err));
	OK(catalog_replication_get(fx->cat, row.id, &row, &err));
	assert_string_equal(row.error_message, "no route");
	assert_true(row.completed_at_us > 0);
	change_id_is(fx, &v, "disk-2000", id0);
	change_id_is(fx, &v, "disk-2001", "b/1");
	change_id_is(fx, &v, "disk-2002", "");
	start(fx, &next, &v, CATALOG_REPLICATION_INCREMENTAL);
	change_id_is(fx, &v, "disk-2000", id0);
	/* The earlier job has no disks any more. */
	EXPECT(CATALOG_E_NOT_FOUND,
	       catalog_replication_set_change_id(fx->cat, row.id, "disk-2000", "x/1", &err));
	EXPECT_TEXT(CATALOG_E_NOT_FOUND, "disk-7",
		    catalog_replication_set_change_id(fx->cat, next.id, "disk-7", "x/1", &err));
	EXPECT(CATALOG_E_INVALID,
	       catalog_replication_set_change_id(fx->cat, next.id, "disk-2000", "", &err));
	memset(longest, 'x', sizeof(longest));
	longest[sizeof(longest) - 1] = '\0';
	EXPECT(CATALOG_E_INVALID,
	       catalog_replication_set_change_id(fx->cat, next.id, "disk-2000", longest, &err));
	/* Discovery leaves it. Two VMs at one path: nobody can tell which is meant. */
	fx_add_vm(fx, &v, "pgtest1", 2);
	change_id_is(fx, &v, "disk-2000", id0);
	fx_describe_vm(&twin, "pgtest1", "vc2.example", 2);
	OK(catalog_vm_context_upsert(fx->cat, &twin.vm, twin.disks, 2, NULL, &err));
	change_id_is(fx, &v, "disk-2000", "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FX_TEST(a_job_borrows_the_rows_there_are),
		FX_TEST(what_cannot_be_is_refused),
		FX_TEST(change_ids_are_kept_for_each_disk),
	};

	return tmpdb_run_tests("catalog/replications", tests, NULL, NULL);
}
