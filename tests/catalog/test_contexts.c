#include "tests/catalog/fixture.h"

#include <errno.h>

static void discovery_stores_the_vm_and_its_disks_without_a_job(void **state)
{
	struct fx *fx = *state;
	struct catalog_vm_context got;
	struct catalog_vm_disk *disks;
	struct fx_vm v;
	size_t n;

	fx_add_vm(fx, &v, "pgtest1", 2);
	OK(catalog_vm_context_get(fx->cat, v.vm.context_id, &got, &err));
	assert_string_equal(got.vm_name, "pgtest1");
	assert_string_equal(got.vmware_vm_id, "id-of-pgtest1");
	assert_string_equal(got.vm_path, "/DC1/vm/pgtest1");
	assert_string_equal(got.vcenter_host, "vc1.example");
	assert_string_equal(got.datacenter, "DC1");
	assert_string_equal(got.power_state, "poweredOn");
	assert_string_equal(got.os_type, "debian12_64Guest");
	assert_string_equal(got.vmx_version, "vmx-19");
	assert_int_equal(got.cpu_count, 4);
	assert_int_equal(got.memory_mb, 8192);
	assert_int_equal(got.credential_id, CATALOG_NONE);
	assert_true(got.created_at_us > 0 && got.last_discovered_at_us >= got.created_at_us);
	assert_int_equal(got.disk_count, 2);
	assert_int_equal(got.total_capacity_bytes, 3 * GIB);

	OK(catalog_vm_disks_list(fx->cat, v.vm.context_id, false, &disks, &n, &err));
	assert_int_equal(n, 2);
	assert_string_equal(disks[1].disk_id, "disk-2001");
	assert_string_equal(disks[1].job_id, "");
	assert_int_equal(disks[1].disk_index, 1);
	assert_int_equal(disks[1].vmware_disk_key, 2001);
	assert_string_equal(disks[1].label, "Hard disk 2");
	assert_string_equal(disks[1].path, "[ds1] pgtest1/pgtest1_1.vmdk");
	assert_string_equal(disks[1].datastore, "ds1");
	assert_int_equal(disks[1].capacity_bytes, 2 * GIB);
	assert_int_equal(disks[1].size_gb, 2);
	assert_int_equal(disks[1].unit_number, 1);
	assert_string_equal(disks[1].provisioning_type, "thin");
	assert_string_equal(disks[1].controller, "SCSI controller 0");
	assert_false(disks[1].missing);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM vm_disks WHERE job_id IS NULL"),
			 2);
	assert_memory_equal(&disks[0], &v.disks[0], sizeof(disks[0]));
	free(disks);
}

static void adding_a_vm_twice_duplicates_nothing(void **state)
{
	struct fx *fx = *state;
	struct fx_vm v, again;

	fx_add_vm(fx, &v, "pgtest1", 2);
	fx_add_vm(fx, &again, "pgtest1", 2);
	assert_string_equal(again.vm.context_id, v.vm.context_id);
	assert_int_equal(again.vm.created_at_us, v.vm.created_at_us);
	assert_int_equal(again.disks[1].id, v.disks[1].id);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM vm_replication_contexts"), 1);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM vm_disks"), 2);
}

static void discovering_again_updates_adds_and_marks_missing(void **state)
{
	struct fx *fx = *state;
	struct catalog_vm_context got;
	struct catalog_vm_disk *disks;
	struct fx_vm v;
	size_t n;

	fx_add_vm(fx, &v, "pgtest1", 3);
	/* disk-2001 is gone, disk-2000 has grown, a new disk sits before disk-2002. */
	v.disks[0].capacity_bytes = 10 * GIB;
	CATALOG_TEXT(v.disks[0].label, "grown");
	CATALOG_TEXT(v.disks[0].datastore, "ds2");
	CATALOG_TEXT(v.disks[1].disk_id, "disk-2016");
	CATALOG_TEXT(v.vm.vm_name, "renamed");
	v.vm.memory_mb = 1;
	OK(catalog_vm_context_upsert(fx->cat, &v.vm, v.disks, 3, NULL, &err));
	assert_string_equal(v.vm.vm_name, "renamed");
	assert_int_equal(v.disks[1].disk_index, 3);
	assert_int_equal(v.disks[2].disk_index, 2);

	OK(catalog_vm_disks_list(fx->cat, v.vm.context_id, true, &disks, &n, &err));
	assert_int_equal(n, 4);
	assert_string_equal(disks[0].label, "grown");
	assert_string_equal(disks[0].datastore, "ds2");
	assert_int_equal(disks[0].capacity_bytes, 10 * GIB);
	assert_string_equal(disks[1].disk_id, "disk-2016");
	assert_string_equal(disks[2].disk_id, "disk-2002");
	assert_string_equal(disks[3].disk_id, "disk-2001");
	assert_true(disks[3].missing);
	assert_int_equal(disks[3].disk_index, 1);
	free(disks);
	OK(catalog_vm_disks_list(fx->cat, v.vm.context_id, false, &disks, &n, &err));
	assert_int_equal(n, 3);
	free(disks);
	OK(catalog_vm_context_get(fx->cat, v.vm.context_id, &got, &err));
	assert_int_equal(got.disk_count, 3);
	assert_int_equal(got.total_capacity_bytes, 15 * GIB);
	assert_int_equal(got.memory_mb, 1);
}

static void a_missing_disk_that_returns_keeps_its_index(void **state)
{
	struct fx *fx = *state;
	struct catalog_vm_disk d;
	struct fx_vm v, less;

	fx_add_vm(fx, &v, "pgtest1", 2);
	fx_add_vm(fx, &less, "pgtest1", 0);
	OK(catalog_vm_disk_get(fx->cat, v.vm.context_id, "disk-2001", &d, &err));
	assert_true(d.missing);
	fx_add_vm(fx, &v, "pgtest1", 2);
	assert_int_equal(v.disks[1].id, d.id);
	assert_int_equal(v.disks[1].disk_index, 1);
	assert_false(v.disks[1].missing);
}

static void credential_and_networks_stay_when_discovery_has_no_word_about_them(void **state)
{
	static const char nets[] = "[{\"label\":\"Network adapter 1\",\"connected\":true}]";
	struct fx *fx = *state;
	char *json = NULL;
	struct fx_vm v;

	tmpdb_sql(&fx->t,
		  "INSERT INTO credentials (id, name, kind, username, secret, key_id,"
		  " created_at, updated_at) VALUES (7, 'x', 'vcenter', 'u', 's', 'k', 1, 1)");
	fx_describe_vm(&v, "pgtest1", "vc1", 1);
	v.vm.credential_id = 7;
	OK(catalog_vm_context_upsert(fx->cat, &v.vm, v.disks, 1, nets, &err));
	v.vm.credential_id = CATALOG_NONE;
	OK(catalog_vm_context_upsert(fx->cat, &v.vm, v.disks, 1, NULL, &err));
	assert_int_equal(v.vm.credential_id, 7);
	OK(catalog_vm_context_networks(fx->cat, v.vm.context_id, &json, &err));
	assert_string_equal(json, nets);
	free(json);
	EXPECT(CATALOG_E_NOT_FOUND, catalog_vm_context_networks(fx->cat, "ctx-none", &json, &err));
	EXPECT(CATALOG_E_INVALID,
	       catalog_vm_context_upsert(fx->cat, &v.vm, v.disks, 1, "[not json", &err));
}

static void what_cannot_be_a_vm_is_refused(void **state)
{
	struct fx *fx = *state;
	struct fx_vm v;

	fx_describe_vm(&v, "pgtest1", "vc1", 2);
	v.disks[1].capacity_bytes = 0;
	EXPECT_TEXT(CATALOG_E_INVALID, "disk-2001",
		    catalog_vm_context_upsert(fx->cat, &v.vm, v.disks, 2, NULL, &err));
	fx_describe_vm(&v, "pgtest1", "vc1", 2);
	CATALOG_TEXT(v.disks[1].disk_id, "disk-2000");
	EXPECT_TEXT(CATALOG_E_INVALID, "two disks",
		    catalog_vm_context_upsert(fx->cat, &v.vm, v.disks, 2, NULL, &err));
	v.disks[1].disk_id[0] = 0;
	EXPECT_TEXT(CATALOG_E_INVALID, "no id",
		    catalog_vm_context_upsert(fx->cat, &v.vm, v.disks, 2, NULL, &err));
	fx_describe_vm(&v, "", "vc1", 1);
	EXPECT(CATALOG_E_INVALID,
	       catalog_vm_context_upsert(fx->cat, &v.vm, v.disks, 1, NULL, &err));
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM vm_replication_contexts"), 0);
}

static void a_disk_that_cannot_be_stored_takes_the_vm_back_too(void **state)
{
	struct fx *fx = *state;
	struct fx_vm v;

	tmpdb_add_fault(&fx->t, "vm_disks", false);
	tmpdb_arm(&fx->t, 2); /* the second disk's row */
	fx_describe_vm(&v, "pgtest1", "vc1", 2);
	EXPECT_TEXT(-EIO, "injected",
		    catalog_vm_context_upsert(fx->cat, &v.vm, v.disks, 2, NULL, &err));
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM vm_replication_contexts"), 0);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM vm_disks"), 0);
	tmpdb_arm(&fx->t, 0);
	OK(catalog_vm_context_upsert(fx->cat, &v.vm, v.disks, 2, NULL, &err));
}

static void one_name_in_two_vcenters_must_be_told_apart(void **state)
{
	struct fx *fx = *state;
	struct catalog_vm_context got;
	struct fx_vm one, two;

	fx_describe_vm(&one, "web", "vc1", 1);
	fx_describe_vm(&two, "web", "vc2", 1);
	OK(catalog_vm_context_upsert(fx->cat, &one.vm, one.disks, 1, NULL, &err));
	OK(catalog_vm_context_find(fx->cat, "web", NULL, &got, &err));
	OK(catalog_vm_context_upsert(fx->cat, &two.vm, two.disks, 1, NULL, &err));
	assert_string_not_equal(one.vm.context_id, two.vm.context_id);
	EXPECT_TEXT(CATALOG_E_AMBIGUOUS, "vc2",
		    catalog_vm_context_find(fx->cat, "web", NULL, &got, &err));
	OK(catalog_vm_context_find(fx->cat, "web", "vc2", &got, &err));
	assert_string_equal(got.context_id, two.vm.context_id);
	EXPECT_TEXT(CATALOG_E_NOT_FOUND, "run discovery first",
		    catalog_vm_context_find(fx->cat, "nobody", "", &got, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_vm_context_find(fx->cat, "", NULL, &got, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_vm_context_get(fx->cat, "ctx-none", &got, &err));
}

static void lists_filter_page_and_count(void **state)
{
	struct fx *fx = *state;
	struct catalog_vm_context *rows;
	struct catalog_vm_filter filter = {.limit = 2, .offset = 1};
	int64_t total;
	struct fx_vm v;
	size_t n;

	OK(catalog_vm_contexts_list(fx->cat, NULL, &rows, &n, &total, &err));
	assert_null(rows);
	assert_int_equal(n + (size_t)total, 0);
	fx_add_vm(fx, &v, "c", 1);
	fx_add_vm(fx, &v, "a", 1);
	fx_add_vm(fx, &v, "d", 1);
	fx_add_vm(fx, &v, "b", 1);
	OK(catalog_vm_contexts_list(fx->cat, &filter, &rows, &n, &total, &err));
	assert_int_equal(total, 4);
	assert_int_equal(n, 2);
	assert_string_equal(rows[0].vm_name, "b");
	assert_string_equal(rows[1].vm_name, "c");
	free(rows);
	filter = (struct catalog_vm_filter){.vm_name = "d", .vcenter_host = "vc1.example"};
	OK(catalog_vm_contexts_list(fx->cat, &filter, &rows, &n, &total, &err));
	assert_int_equal(n, 1);
	assert_int_equal(total, 1);
	free(rows);
}

static void names_are_compared_byte_for_byte(void **state)
{
	struct fx *fx = *state;
	struct catalog_vm_context got;
	struct fx_vm v;

	fx_add_vm(fx, &v, "Web'; DROP TABLE vm_disks; --", 1);
	OK(catalog_vm_context_find(fx->cat, "Web'; DROP TABLE vm_disks; --", NULL, &got, &err));
	EXPECT(CATALOG_E_NOT_FOUND,
	       catalog_vm_context_find(fx->cat, "web'; DROP TABLE vm_disks; --", NULL, &got, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_vm_context_find(fx->cat, "%", NULL, &got, &err));
}

static void deleting_a_vm_takes_its_disks_and_keeps_its_backups(void **state)
{
	struct fx *fx = *state;
	struct catalog_backup_context ctx;
	struct catalog_backup job;
	struct fx_ready r;
	struct fx_job j;

	fx_ready(fx, &r, "pgtest1", 2);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &j);
	OK(catalog_vm_context_delete(fx->cat, r.v.vm.context_id, &err));
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM vm_disks"), 0);
	OK(catalog_backup_get(fx->cat, j.job.id, &job, &err));
	assert_string_equal(job.vm_context_id, "");
	OK(catalog_backup_context_get(fx->cat, r.ctx.context_id, &ctx, &err));
	assert_string_equal(ctx.vm_context_id, "");
	EXPECT(CATALOG_E_NOT_FOUND, catalog_vm_context_delete(fx->cat, r.v.vm.context_id, &err));
}

static void a_vm_that_comes_back_continues_with_its_backups_and_indexes(void **state)
{
	struct fx *fx = *state;
	struct fx_ready r, back;
	struct catalog_vm_disk only;
	struct fx_job j;

	fx_ready(fx, &r, "pgtest1", 2);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &j);
	OK(catalog_vm_context_delete(fx->cat, r.v.vm.context_id, &err));

	/* Only what was the second disk is there now, and a new one. */
	fx_describe_vm(&back.v, "pgtest1", "vc1.example", 3);
	only = back.v.disks[1];
	back.v.disks[1] = back.v.disks[2];
	back.v.disks[0] = only;
	back.v.n = 2;
	OK(catalog_vm_context_upsert(fx->cat, &back.v.vm, back.v.disks, 2, NULL, &err));
	assert_string_not_equal(back.v.vm.context_id, r.v.vm.context_id);
	assert_int_equal(back.v.disks[0].disk_index, 1);
	assert_int_equal(back.v.disks[1].disk_index, 2);
	OK(catalog_backup_context_ensure(fx->cat, back.v.vm.context_id, r.repo.id, &back.ctx,
					 &err));
	assert_string_equal(back.ctx.context_id, r.ctx.context_id);
	assert_string_equal(back.ctx.vm_context_id, back.v.vm.context_id);
	fx_start(fx, &back, CATALOG_BACKUP_INCREMENTAL, &j);
	assert_int_equal(j.disks[0].mode, CATALOG_BACKUP_INCREMENTAL);
	assert_string_equal(j.disks[0].parent_change_id, "a/1");
	assert_int_equal(j.disks[1].mode, CATALOG_BACKUP_FULL);
}

static void a_vm_being_backed_up_cannot_be_deleted(void **state)
{
	struct fx *fx = *state;
	struct fx_ready r;
	struct fx_job j;

	fx_ready(fx, &r, "pgtest1", 1);
	fx_start(fx, &r, CATALOG_BACKUP_FULL, &j);
	EXPECT(CATALOG_E_BUSY, catalog_vm_context_delete(fx->cat, r.v.vm.context_id, &err));
	fx_complete_all(fx, &j, "a");
	OK(catalog_vm_context_delete(fx->cat, r.v.vm.context_id, &err));
}

static void deleting_a_replication_job_keeps_the_disks(void **state)
{
	struct fx *fx = *state;
	struct catalog_vm_disk d;
	struct fx_vm v;

	fx_add_vm(fx, &v, "pgtest1", 2);
	tmpdb_sql(&fx->t,
		  "INSERT INTO replication_jobs (id, vm_context_id, replication_type, status,"
		  " created_at, updated_at) SELECT 'job-1', context_id, 'initial', 'running', 1, 1"
		  " FROM vm_replication_contexts; UPDATE vm_disks SET job_id = 'job-1'");
	OK(catalog_vm_disk_get(fx->cat, v.vm.context_id, "disk-2000", &d, &err));
	assert_string_equal(d.job_id, "job-1");
	fx_add_vm(fx, &v, "pgtest1", 2); /* discovery leaves the job's hold alone */
	assert_string_equal(v.disks[0].job_id, "job-1");
	tmpdb_sql(&fx->t, "DELETE FROM replication_jobs");
	OK(catalog_vm_disk_get(fx->cat, v.vm.context_id, "disk-2000", &d, &err));
	assert_string_equal(d.job_id, "");
	EXPECT(CATALOG_E_NOT_FOUND,
	       catalog_vm_disk_get(fx->cat, v.vm.context_id, "disk-1", &d, &err));
	assert_int_not_equal(tmpdb_try(&fx->t, "UPDATE vm_disks SET job_id = 'nobody'"), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FX_TEST(discovery_stores_the_vm_and_its_disks_without_a_job),
		FX_TEST(adding_a_vm_twice_duplicates_nothing),
		FX_TEST(discovering_again_updates_adds_and_marks_missing),
		FX_TEST(a_missing_disk_that_returns_keeps_its_index),
		FX_TEST(credential_and_networks_stay_when_discovery_has_no_word_about_them),
		FX_TEST(what_cannot_be_a_vm_is_refused),
		FX_TEST(a_disk_that_cannot_be_stored_takes_the_vm_back_too),
		FX_TEST(one_name_in_two_vcenters_must_be_told_apart),
		FX_TEST(lists_filter_page_and_count),
		FX_TEST(names_are_compared_byte_for_byte),
		FX_TEST(deleting_a_vm_takes_its_disks_and_keeps_its_backups),
		FX_TEST(a_vm_that_comes_back_continues_with_its_backups_and_indexes),
		FX_TEST(a_vm_being_backed_up_cannot_be_deleted),
		FX_TEST(deleting_a_replication_job_keeps_the_disks),
	};

	return tmpdb_run_tests("catalog/contexts", tests, NULL, NULL);
}
