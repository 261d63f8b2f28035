#include "tests/catalog/fixture.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

static struct catalog_backup get_job(struct fx *fx, const char *id)
{
	struct catalog_backup job;

	OK(catalog_backup_get(fx->cat, id, &job, &err));
	return job;
}

static struct catalog_backup_disk get_disk(struct fx *fx, const char *job_id, int index)
{
	struct catalog_backup_disk disk;

	OK(catalog_backup_disk_get(fx->cat, job_id, index, &disk, &err));
	return disk;
}

static struct catalog_backup_context get_context(struct fx *fx, const struct fx_ready *r)
{
	struct catalog_backup_context ctx;

	OK(catalog_backup_context_get(fx->cat, r->ctx.context_id, &ctx, &err));
	return ctx;
}

static void assert_counts(struct fx *fx, const struct fx_ready *r, int total, int good, int failed)
{
	struct catalog_backup_context ctx = get_context(fx, r);

	assert_int_equal(ctx.total_backups_run, total);
	assert_int_equal(ctx.successful_backups, good);
	assert_int_equal(ctx.failed_backups, failed);
}

static int start(struct fx *fx, struct fx_job *j, char *busy, struct err *err)
{
	return catalog_backup_start(fx->cat, &j->job, j->disks, j->n, busy, err);
}

/* --- contexts --------------------------------------------------------------------------------- */

static void a_vm_has_one_context_per_repository(void **state)
{
	struct fx *fx = *state;
	struct catalog_backup_context again, other, *rows;
	struct catalog_repository second;
	struct fx_ready r;
	size_t n;

	fx_ready(fx, &r, "pgtest1", 1);
	fx_add_repository(fx, &second, "second");
	OK(catalog_backup_context_ensure(fx->cat, r.v.vm.context_id, r.repo.id, &again, &err));
	assert_string_equal(again.context_id, r.ctx.context_id);
	OK(catalog_backup_context_ensure(fx->cat, r.v.vm.context_id, second.id, &other, &err));
	assert_string_not_equal(other.context_id, r.ctx.context_id);
	assert_string_equal(other.vmware_vm_id, "id-of-pgtest1");
	assert_string_equal(other.vcenter_host, "vc1.example");
	assert_string_equal(other.vm_path, "/DC1/vm/pgtest1");
	assert_string_equal(other.vm_context_id, r.v.vm.context_id);
	OK(catalog_backup_contexts_list(fx->cat, "pgtest1", NULL, &rows, &n, &err));
	assert_int_equal(n, 2);
	free(rows);
	OK(catalog_backup_contexts_list(fx->cat, NULL, second.id, &rows, &n, &err));
	assert_int_equal(n, 1);
	assert_string_equal(rows[0].context_id, other.context_id);
	free(rows);
	EXPECT_TEXT(CATALOG_E_NOT_FOUND, "ctx-none",
		    catalog_backup_context_ensure(fx->cat, "ctx-none", second.id, &other, &err));
	EXPECT_TEXT(CATALOG_E_NOT_FOUND, "repo-none",
		    catalog_backup_context_ensure(fx->cat, r.v.vm.context_id, "repo-none", &other,
						  &err));
}

static void a_renamed_vm_keeps_its_context(void **state)
{
	struct fx *fx = *state;
	struct catalog_backup_context again;
	struct fx_ready r;

	fx_ready(fx, &r, "pgtest1", 1);
	CATALOG_TEXT(r.v.vm.vm_name, "renamed");
	OK(catalog_vm_context_upsert(fx->cat, &r.v.vm, r.v.disks, 1, NULL, &err));
	OK(catalog_backup_context_ensure(fx->cat, r.v.vm.context_id, r.repo.id, &again, &err));
	assert_string_equal(again.context_id, r.ctx.context_id);
	assert_string_equal(again.vm_name, "renamed");
}

static void one_name_in_two_vcenters_has_two_contexts_in_a_repository(void **state)
{
	struct fx *fx = *state;
	struct catalog_backup_context other;
	struct fx_ready r;
	struct fx_vm v;

	fx_ready(fx, &r, "web", 1);
	fx_describe_vm(&v, "web", "vc2", 1);
	OK(catalog_vm_context_upsert(fx->cat, &v.vm, v.disks, 1, NULL, &err));
	OK(catalog_backup_context_ensure(fx->cat, v.vm.context_id, r.repo.id, &other, &err));
	assert_string_not_equal(other.context_id, r.ctx.context_id);
}

/* --- start ------------------------------------------------------------------------------------ */

static void a_start_stores_the_job_and_every_disk(void **state)
{
	struct fx *fx = *state;
	struct catalog_backup_disk *disks;
	struct catalog_backup job;
	struct fx_ready r;
	struct fx_job j;
	size_t n;

	fx_ready(fx, &r, "pgtest1", 2);
	fx_plan(fx, &r, CATALOG_BACKUP_FULL, &j);
	CATALOG_TEXT(j.job.policy_id, "policy-1");
	CATALOG_TEXT(j.job.tags, "{\"owner\":\"db team\"}");
	OK(start(fx, &j, NULL, &err));
	job = get_job(fx, j.job.id);
	assert_memory_equal(&job, &j.job, sizeof(job));
	assert_string_equal(job.vm_name, "pgtest1");
	assert_string_equal(job.vm_context_id, r.v.vm.context_id);
	assert_string_equal(job.repository_id, r.repo.id);
	assert_string_equal(job.repository_type, "local");
	assert_string_equal(job.repository_path, "/srv/backups");
	assert_string_equal(job.policy_id, "policy-1");
	assert_string_equal(job.tags, "{\"owner\":\"db team\"}");
	assert_int_equal(job.status, CATALOG_JOB_PENDING);
	assert_int_equal(job.backup_type, CATALOG_BACKUP_FULL);
	assert_int_equal(job.disk_count, 2);
	assert_int_equal(job.total_bytes, 3 * GIB);
	assert_string_equal(job.parent_backup_id, "");
	assert_false(job.compression_enabled);
	assert_int_equal(job.started_at_us + job.completed_at_us, 0);
	OK(catalog_backup_disks_list(fx->cat, job.id, &disks, &n, &err));
	assert_int_equal(n, 2);
	assert_memory_equal(&disks[1], &j.disks[1], sizeof(disks[1]));
	assert_int_equal(disks[1].status, CATALOG_DISK_PENDING);
	assert_int_equal(disks[1].virtual_size_bytes, 2 * GIB);
	assert_int_equal(disks[1].vmware_disk_key, 2001);
	assert_string_equal(disks[1].change_id, "");
	assert_string_equal(disks[1].chain_id, "");
	assert_int_equal(disks[1].parent_disk_id, CATALOG_NONE);
	free(disks);
	assert_counts(fx, &r, 1, 0, 0);
	EXPECT(CATALOG_E_NOT_FOUND,
	       catalog_backup_disks_list(fx->cat, "backup-none", &disks, &n, &err));
}

static void an_id_is_made_when_none_is_given(void **state)
{
	struct fx *fx = *state;
	struct fx_ready r;
	struct fx_job j;

	fx_ready(fx, &r, "pgtest1", 1);
	fx_plan(fx, &r, CATALOG_BACKUP_FULL, &j);
	j.job.id[0] = 0;
	OK(start(fx, &j, NULL, &err));
	assert_memory_equal(j.job.id, "backup-", 7);
	assert_string_equal(j.disks[0].backup_job_id, j.job.id);
}

static void ids_the_agent_would_misread_are_refused(void **state)
{
	static const char *const bad[] = {"job-1",
					  "backup-",
					  "backup-Upper",
					  "backup-a_b",
					  "backup-a/b",
					  "backup-sql-disk2-old",
					  "backup-x-disk-disk10-y"};
	static const char *const good[] = {"backup-pgtest1-1759946759", "backup-disk2",
					   "backup-x-disk-y", "backup-x-diskette-1"};
	struct fx *fx = *state;
	struct fx_ready r;
	struct fx_job j;

	fx_ready(fx, &r, "pgtest1", 1);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		fx_plan(fx, &r, CATALOG_BACKUP_FULL, &j);
		CATALOG_TEXT(j.job.id, bad[i]);
		EXPECT_TEXT(CATALOG_E_INVALID, bad[i], start(fx, &j, NULL, &err));
	}
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		fx_plan(fx, &r, CATALOG_BACKUP_FULL, &j);
		CATALOG_TEXT(j.job.id, good[i]);
		OK(start(fx, &j, NULL, &err));
		OK(catalog_backup_fail(fx->cat, good[i], CATALOG_JOB_FAILED, "next", &err));
	}
	CATALOG_TEXT(j.job.id, good[0]);
	EXPECT_TEXT(CATALOG_E_EXISTS, good[0], start(fx, &j, NULL, &err));
}

static void plans_that_make_no_sense_are_refused(void **state)
{
	struct fx *fx = *state;
	struct fx_ready r;
	struct fx_job good, j;

	fx_ready(fx, &r, "pgtest1", 2);
	fx_plan(fx, &r, CATALOG_BACKUP_FULL, &good);
#define REFUSED(part, change)                                                                      \
	do {                                                                                       \
		j = good;                                                                          \
		change;                                                                            \
		EXPECT_TEXT(CATALOG_E_INVALID, part, start(fx, &j, NULL, &err));                   \
	} while (0)
	REFUSED("0 disks", j.n = 0);
	REFUSED("repeat", j.disks[1].disk_index = 0);
	REFUSED("repeat", CATALOG_TEXT(j.disks[1].disk_id, "disk-2000"));
	REFUSED("repeat", CATALOG_TEXT(j.disks[1].qcow2_path, j.disks[0].qcow2_path));
	REFUSED("repeat", CATALOG_TEXT(j.disks[1].export_name, j.disks[0].export_name));
	REFUSED("no size", j.disks[1].virtual_size_bytes = 0);
	REFUSED("counted", j.disks[1].virtual_size_bytes = INT64_MAX);
	REFUSED("negative", j.disks[1].disk_index = -1);
	REFUSED("no id", j.disks[1].disk_id[0] = 0);
	REFUSED("export name", j.disks[1].export_name[0] = 0);
	REFUSED("export name", j.disks[1].qcow2_path[0] = 0);
	REFUSED("needs a parent", j.disks[1].mode = CATALOG_BACKUP_INCREMENTAL);
	REFUSED("no parent", j.disks[1].parent_disk_id = 1);
	REFUSED("mode", j.disks[1].mode = CATALOG_BACKUP_DIFFERENTIAL);
	REFUSED("type", j.job.backup_type = 17);
	REFUSED("JSON", CATALOG_TEXT(j.job.tags, "{nope"));
#undef REFUSED
	j = good;
	CATALOG_TEXT(j.job.vm_backup_context_id, "bctx-none");
	EXPECT(CATALOG_E_NOT_FOUND, start(fx, &j, NULL, &err));
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_jobs"), 0);
	assert_counts(fx, &r, 0, 0, 0);
	OK(catalog_vm_context_delete(fx->cat, r.v.vm.context_id, &err));
	EXPECT_TEXT(CATALOG_E_INVALID, "run discovery first", start(fx, &good, NULL, &err));
}

/* --- one running job per VM ------------------------------------------------------------------- */

static void a_second_start_is_told_the_running_job(void **state)
{
	struct fx *fx = *state;
	char busy[CATALOG_ID_SIZE] = "";
	struct fx_ready r;
	struct fx_job one, two;

	fx_ready(fx, &r, "pgtest1", 1);
	fx_start(fx, &r, CATALOG_BACKUP_FULL, &one);
	fx_plan(fx, &r, CATALOG_BACKUP_FULL, &two);
	EXPECT_TEXT(CATALOG_E_BUSY, one.job.id, start(fx, &two, busy, &err));
	assert_string_equal(busy, one.job.id);
	OK(catalog_backup_set_running(fx->cat, one.job.id, &err));
	EXPECT(CATALOG_E_BUSY, start(fx, &two, NULL, &err));
	assert_counts(fx, &r, 1, 0, 0);
	fx_complete_all(fx, &one, "a");
	OK(start(fx, &two, busy, &err));
}

static void the_guard_goes_by_name_over_all_vcenters_and_repositories(void **state)
{
	struct fx *fx = *state;
	char busy[CATALOG_ID_SIZE] = "";
	struct catalog_repository second;
	struct fx_ready r, elsewhere;
	struct fx_job one, two;

	fx_ready(fx, &r, "web", 1);
	fx_start(fx, &r, CATALOG_BACKUP_FULL, &one);
	fx_describe_vm(&elsewhere.v, "web", "vc2", 1);
	OK(catalog_vm_context_upsert(fx->cat, &elsewhere.v.vm, elsewhere.v.disks, 1, NULL, &err));
	fx_add_repository(fx, &second, "second");
	OK(catalog_backup_context_ensure(fx->cat, elsewhere.v.vm.context_id, second.id,
					 &elsewhere.ctx, &err));
	fx_plan(fx, &elsewhere, CATALOG_BACKUP_FULL, &two);
	EXPECT(CATALOG_E_BUSY, start(fx, &two, busy, &err));
	assert_string_equal(busy, one.job.id);
}

static void the_guard_also_knows_a_vm_renamed_meanwhile(void **state)
{
	struct fx *fx = *state;
	struct fx_ready r;
	struct fx_job one, two;

	fx_ready(fx, &r, "before", 1);
	fx_start(fx, &r, CATALOG_BACKUP_FULL, &one);
	CATALOG_TEXT(r.v.vm.vm_name, "after");
	OK(catalog_vm_context_upsert(fx->cat, &r.v.vm, r.v.disks, 1, NULL, &err));
	OK(catalog_backup_context_ensure(fx->cat, r.v.vm.context_id, r.repo.id, &r.ctx, &err));
	assert_string_equal(r.ctx.vm_name, "after");
	fx_plan(fx, &r, CATALOG_BACKUP_FULL, &two);
	EXPECT_TEXT(CATALOG_E_BUSY, one.job.id, start(fx, &two, NULL, &err));
}

static void the_database_itself_refuses_a_second_running_job(void **state)
{
	struct fx *fx = *state;
	struct fx_ready r;
	struct fx_job j;

	fx_ready(fx, &r, "pgtest1", 1);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &j);
	fx_start(fx, &r, CATALOG_BACKUP_FULL, &j);
	/* Back to running, with and without taking the VM. */
	assert_int_not_equal(tmpdb_try(&fx->t, "UPDATE backup_jobs SET status = 'running'"
					       " WHERE status = 'completed'"),
			     0);
	assert_int_not_equal(
		tmpdb_try(&fx->t,
			  "UPDATE backup_jobs SET status = 'running', completed_at = NULL,"
			  " running_vm_name = vm_name, running_vm_context_id = vm_context_id"
			  " WHERE status = 'completed'"),
		0);
}

struct racer {
	struct fx *fx;
	struct fx_job j;
	char busy[CATALOG_ID_SIZE];
	int result;
};

static void *race(void *arg)
{
	struct racer *x = arg;

	x->result = start(x->fx, &x->j, x->busy, NULL);
	return NULL;
}

static void of_many_starts_at_once_one_wins(void **state)
{
	struct fx *fx = *state;
	struct racer racers[8];
	pthread_t threads[8];
	const char *winner = NULL;
	struct fx_ready r;

	fx_ready(fx, &r, "pgtest1", 2);
	for (int i = 0; i < 8; i++) {
		racers[i] = (struct racer){.fx = fx};
		fx_plan(fx, &r, CATALOG_BACKUP_FULL, &racers[i].j);
	}
	for (int i = 0; i < 8; i++)
		pthread_create(&threads[i], NULL, race, &racers[i]);
	for (int i = 0; i < 8; i++) {
		pthread_join(threads[i], NULL);
		if (racers[i].result == 0) {
			assert_null(winner);
			winner = racers[i].j.job.id;
		}
	}
	assert_non_null(winner);
	for (int i = 0; i < 8; i++) {
		if (racers[i].result == 0)
			continue;
		assert_int_equal(racers[i].result, CATALOG_E_BUSY);
		assert_string_equal(racers[i].busy, winner);
	}
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_disks"), 2);
	assert_counts(fx, &r, 1, 0, 0);
}

static void the_running_job_is_found_by_vm_name(void **state)
{
	struct fx *fx = *state;
	struct catalog_backup job, *rows;
	struct fx_ready a, b;
	struct fx_job ja, jb;
	size_t n;

	fx_ready(fx, &a, "a", 1);
	fx_ready(fx, &b, "b", 1);
	EXPECT_TEXT(CATALOG_E_NOT_FOUND, "a",
		    catalog_backup_find_running(fx->cat, "a", &job, &err));
	fx_start(fx, &a, CATALOG_BACKUP_FULL, &ja);
	fx_start(fx, &b, CATALOG_BACKUP_FULL, &jb);
	OK(catalog_backup_set_running(fx->cat, jb.job.id, &err));
	OK(catalog_backup_find_running(fx->cat, "a", &job, &err));
	assert_string_equal(job.id, ja.job.id);
	OK(catalog_backup_find_running(fx->cat, "b", &job, &err));
	assert_string_equal(job.id, jb.job.id);
	OK(catalog_backups_running(fx->cat, &rows, &n, &err));
	assert_int_equal(n, 2);
	assert_string_equal(rows[0].id, ja.job.id);
	free(rows);
	fx_complete_all(fx, &ja, "x");
	EXPECT(CATALOG_E_NOT_FOUND, catalog_backup_find_running(fx->cat, "a", &job, &err));
	OK(catalog_backups_running(fx->cat, &rows, &n, &err));
	assert_int_equal(n, 1);
	free(rows);
}

/* --- on the way ------------------------------------------------------------------------------- */

static void states_and_progress_are_kept(void **state)
{
	const struct catalog_counters bytes = {5000, 600, 70, 8};
	struct fx *fx = *state;
	struct catalog_backup_disk d;
	struct catalog_backup job;
	struct fx_ready r;
	struct fx_job j;

	fx_ready(fx, &r, "pgtest1", 2);
	fx_start(fx, &r, CATALOG_BACKUP_FULL, &j);
	OK(catalog_backup_set_running(fx->cat, j.job.id, &err));
	EXPECT(CATALOG_E_ALREADY, catalog_backup_set_running(fx->cat, j.job.id, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_backup_set_running(fx->cat, "backup-none", &err));
	OK(catalog_backup_note_telemetry(fx->cat, j.job.id, "copying disk 0", &err));
	OK(catalog_backup_note_telemetry(fx->cat, j.job.id, NULL, &err));
	OK(catalog_backup_disk_set_running(fx->cat, j.job.id, 0, &err));
	EXPECT(CATALOG_E_ALREADY, catalog_backup_disk_set_running(fx->cat, j.job.id, 0, &err));
	OK(catalog_backup_disk_progress(fx->cat, j.job.id, 0, &bytes, &err));
	OK(catalog_backup_disk_progress(fx->cat, j.job.id, 1, &bytes, &err));
	job = get_job(fx, j.job.id);
	assert_int_equal(job.status, CATALOG_JOB_RUNNING);
	assert_int_equal(job.bytes_transferred, 10000);
	assert_string_equal(job.current_phase, "copying disk 0");
	assert_true(job.started_at_us > 0 && job.last_telemetry_at_us > 0);
	assert_true(job.last_progress_at_us >= job.started_at_us);
	d = get_disk(fx, j.job.id, 1);
	assert_int_equal(d.status, CATALOG_DISK_RUNNING);
	assert_memory_equal(&d.bytes, &bytes, sizeof(bytes));
	assert_true(d.started_at_us > 0);
	EXPECT_TEXT(CATALOG_E_NOT_FOUND, "no disk 7",
		    catalog_backup_disk_progress(fx->cat, j.job.id, 7, &bytes, &err));
	OK(catalog_backup_fail(fx->cat, j.job.id, CATALOG_JOB_FAILED, "silent", &err));
	EXPECT_TEXT(CATALOG_E_STATE, "silent",
		    catalog_backup_disk_progress(fx->cat, j.job.id, 0, &bytes, &err));
	EXPECT(CATALOG_E_STATE,
	       catalog_backup_note_telemetry(fx->cat, j.job.id, "completed", &err));
	EXPECT(CATALOG_E_STATE, catalog_backup_set_running(fx->cat, j.job.id, &err));
	EXPECT(CATALOG_E_NOT_FOUND,
	       catalog_backup_note_telemetry(fx->cat, "backup-none", "x", &err));
}

static void telemetry_that_says_completed_ends_nothing(void **state)
{
	struct fx *fx = *state;
	struct fx_ready r;
	struct fx_job j;

	fx_ready(fx, &r, "pgtest1", 2);
	fx_start(fx, &r, CATALOG_BACKUP_FULL, &j);
	OK(fx_complete(fx, j.job.id, 0, "c/0", NULL, &err));
	OK(catalog_backup_note_telemetry(fx->cat, j.job.id, "completed", &err));
	assert_int_equal(get_job(fx, j.job.id).status, CATALOG_JOB_RUNNING);
}

static void the_open_disk_follows_the_hardware_order(void **state)
{
	struct fx *fx = *state;
	struct catalog_backup_disk d;
	struct fx_ready r;
	struct fx_job j;

	fx_ready(fx, &r, "pgtest1", 3);
	fx_plan(fx, &r, CATALOG_BACKUP_FULL, &j);
	j.disks[2].hardware_order = 0; /* index 2 sits first, 0 second, 1 last */
	j.disks[0].hardware_order = 1;
	j.disks[1].hardware_order = 2;
	OK(start(fx, &j, NULL, &err));
	OK(catalog_backup_disk_next_open(fx->cat, j.job.id, &d, &err));
	assert_int_equal(d.disk_index, 2);
	OK(fx_complete(fx, j.job.id, 2, "c/2", NULL, &err));
	OK(catalog_backup_disk_next_open(fx->cat, j.job.id, &d, &err));
	assert_int_equal(d.disk_index, 0);
	OK(catalog_backup_disk_fail(fx->cat, j.job.id, 0, "bad", NULL, &err));
	OK(catalog_backup_disk_next_open(fx->cat, j.job.id, &d, &err));
	assert_int_equal(d.disk_index, 1);
	OK(fx_complete(fx, j.job.id, 1, "c/1", NULL, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_backup_disk_next_open(fx->cat, j.job.id, &d, &err));
}

/* --- complete --------------------------------------------------------------------------------- */

static void the_last_disk_completes_the_job(void **state)
{
	struct fx *fx = *state;
	struct catalog_completed done;
	struct catalog_backup_context ctx;
	struct catalog_backup_disk d;
	struct catalog_backup job;
	struct fx_ready r;
	struct fx_job j;

	fx_ready(fx, &r, "pgtest1", 2);
	fx_start(fx, &r, CATALOG_BACKUP_FULL, &j);
	OK(fx_complete(fx, j.job.id, 1, "c/1", &done, &err));
	assert_false(done.already);
	assert_int_equal(done.job_status, CATALOG_JOB_RUNNING);
	assert_int_equal(get_job(fx, j.job.id).status, CATALOG_JOB_RUNNING);
	assert_counts(fx, &r, 1, 0, 0);
	assert_string_equal(get_disk(fx, j.job.id, 1).chain_id, "");
	OK(fx_complete(fx, j.job.id, 0, "c/0", &done, &err));
	assert_int_equal(done.job_status, CATALOG_JOB_COMPLETED);
	job = get_job(fx, j.job.id);
	assert_int_equal(job.status, CATALOG_JOB_COMPLETED);
	assert_true(job.completed_at_us >= job.started_at_us && job.started_at_us > 0);
	assert_int_equal(job.bytes_transferred, 2001);
	assert_string_equal(job.error_message, "");
	d = get_disk(fx, j.job.id, 0);
	assert_int_equal(d.status, CATALOG_DISK_COMPLETED);
	assert_string_equal(d.change_id, "c/0");
	assert_string_equal(d.qcow2_path, j.disks[0].qcow2_path);
	assert_int_equal(d.bytes.bytes_transferred, 1000);
	assert_int_equal(d.bytes.bytes_zero, 200);
	assert_int_equal(d.bytes.bytes_unchanged, 30);
	assert_int_equal(d.bytes.bytes_stored, 500);
	assert_true(d.completed_at_us >= d.started_at_us && d.started_at_us > 0);
	ctx = get_context(fx, &r);
	assert_counts(fx, &r, 1, 1, 0);
	assert_string_equal(ctx.last_backup_id, j.job.id);
	assert_int_equal(ctx.last_backup_type, CATALOG_BACKUP_FULL);
	assert_int_equal(ctx.last_backup_at_us, job.completed_at_us);
}

static void change_ids_are_kept_byte_for_byte_each_disk_its_own(void **state)
{
	static const char a[] = "52 66 8c 9d 1e a0 37 c4-8b 5e 21 f7 0a 6d 93 7d/5531";
	static const char b[] = " 52 0f  .. '%s' \"\\\xc3\xa4;--\t/0 ";
	struct fx *fx = *state;
	char longest[CATALOG_CHANGE_ID_SIZE + 1];
	struct fx_ready r;
	struct fx_job j;

	fx_ready(fx, &r, "pgtest1", 3);
	fx_start(fx, &r, CATALOG_BACKUP_FULL, &j);
	memset(longest, 'z', sizeof(longest));
	longest[CATALOG_CHANGE_ID_SIZE] = 0;
	EXPECT_TEXT(CATALOG_E_INVALID, "255", fx_complete(fx, j.job.id, 2, longest, NULL, &err));
	longest[CATALOG_CHANGE_ID_SIZE - 1] = 0;
	OK(fx_complete(fx, j.job.id, 0, a, NULL, &err));
	OK(fx_complete(fx, j.job.id, 1, b, NULL, &err));
	OK(fx_complete(fx, j.job.id, 2, longest, NULL, &err));
	assert_string_equal(get_disk(fx, j.job.id, 0).change_id, a);
	assert_string_equal(get_disk(fx, j.job.id, 1).change_id, b);
	assert_string_equal(get_disk(fx, j.job.id, 2).change_id, longest);
}

static void completing_again_with_the_same_change_id_changes_nothing(void **state)
{
	struct fx *fx = *state;
	struct catalog_completed done;
	struct fx_ready r;
	struct fx_job j;

	fx_ready(fx, &r, "pgtest1", 2);
	fx_start(fx, &r, CATALOG_BACKUP_FULL, &j);
	OK(fx_complete(fx, j.job.id, 0, "c/0", &done, &err));
	OK(fx_complete(fx, j.job.id, 0, "c/0", &done, &err));
	assert_true(done.already);
	assert_int_equal(done.job_status, CATALOG_JOB_RUNNING);
	EXPECT_TEXT(CATALOG_E_CONFLICT, "c/0", fx_complete(fx, j.job.id, 0, "other", &done, &err));
	OK(fx_complete(fx, j.job.id, 1, "c/1", &done, &err));
	OK(fx_complete(fx, j.job.id, 1, "c/1", &done, &err));
	assert_true(done.already);
	assert_int_equal(done.job_status, CATALOG_JOB_COMPLETED);
	OK(fx_complete(fx, j.job.id, 0, "c/0", &done, &err));
	assert_true(done.already);
	EXPECT(CATALOG_E_CONFLICT, fx_complete(fx, j.job.id, 1, "other", &done, &err));
	assert_counts(fx, &r, 1, 1, 0);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_chains"), 2);
	assert_string_equal(get_disk(fx, j.job.id, 0).change_id, "c/0");
}

static void unknown_jobs_and_disks_are_named(void **state)
{
	struct fx *fx = *state;
	struct fx_ready r;
	struct fx_job j;

	fx_ready(fx, &r, "pgtest1", 1);
	fx_start(fx, &r, CATALOG_BACKUP_FULL, &j);
	EXPECT_TEXT(CATALOG_E_NOT_FOUND, "disk 5", fx_complete(fx, j.job.id, 5, "c", NULL, &err));
	EXPECT_TEXT(CATALOG_E_NOT_FOUND, j.job.id, fx_complete(fx, j.job.id, 5, "c", NULL, &err));
	EXPECT_TEXT(CATALOG_E_NOT_FOUND, "backup-none",
		    fx_complete(fx, "backup-none", 0, "c", NULL, &err));
	EXPECT(CATALOG_E_NOT_FOUND,
	       catalog_backup_disk_fail(fx->cat, j.job.id, 9, "x", NULL, &err));
	EXPECT_TEXT(CATALOG_E_INVALID, "without a change id",
		    fx_complete(fx, j.job.id, 0, "", NULL, &err));
	EXPECT(CATALOG_E_INVALID, fx_complete(fx, j.job.id, 0, NULL, NULL, &err));
	assert_int_equal(get_disk(fx, j.job.id, 0).status, CATALOG_DISK_PENDING);
}

static void a_disk_completes_days_after_its_job_began(void **state)
{
	struct fx *fx = *state;
	struct catalog_completed done;
	struct catalog_backup_disk p;
	struct fx_ready r;
	struct fx_job j, next;

	fx_ready(fx, &r, "pgtest1", 2);
	fx_start(fx, &r, CATALOG_BACKUP_FULL, &j);
	tmpdb_sql(&fx->t, "UPDATE backup_jobs SET created_at = created_at - 48 * 3600 * 1000000;"
			  "UPDATE backup_disks SET created_at = created_at - 48 * 3600 * 1000000");
	OK(fx_complete(fx, j.job.id, 0, "c/0", &done, &err));
	OK(fx_complete(fx, j.job.id, 1, "c/1", &done, &err));
	assert_int_equal(done.job_status, CATALOG_JOB_COMPLETED);
	OK(catalog_point_latest(fx->cat, r.ctx.context_id, "disk-2001", &p, &err));
	assert_string_equal(p.change_id, "c/1");
	/* And with a clock that went back two days: the later job is the later one. */
	fx_backup(fx, &r, CATALOG_BACKUP_INCREMENTAL, "d", &next);
	tmpdb_sql(&fx->t, "UPDATE backup_jobs SET created_at = 1, started_at = 1,"
			  " completed_at = 2 WHERE backup_type = 'incremental';"
			  " UPDATE backup_disks SET created_at = 1, completed_at = 1"
			  " WHERE mode = 'incremental'");
	OK(catalog_point_latest(fx->cat, r.ctx.context_id, "disk-2001", &p, &err));
	assert_string_equal(p.change_id, "d/1");
}

static void two_disks_completing_at_once_complete_the_job_once(void **state)
{
	struct fx *fx = *state;

	for (int round = 0; round < 10; round++) {
		struct fx_ready r;
		struct fx_job j;
		char name[16];
		pid_t pids[4];

		snprintf(name, sizeof(name), "vm%d", round);
		fx_ready(fx, &r, name, 4);
		fx_start(fx, &r, CATALOG_BACKUP_FULL, &j);
		catalog_close(fx->cat);
		for (int i = 0; i < 4; i++) {
			pids[i] = fork();
			if (pids[i] == 0) {
				if (catalog_open(fx->t.url, NULL, &fx->cat, NULL))
					_exit(2);
				_exit(fx_complete(fx, j.job.id, i, "c", NULL, NULL) != 0);
			}
		}
		for (int i = 0; i < 4; i++) {
			int status;

			waitpid(pids[i], &status, 0);
			assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
		}
		OK(catalog_open(fx->t.url, NULL, &fx->cat, &err));
		assert_int_equal(get_job(fx, j.job.id).status, CATALOG_JOB_COMPLETED);
		assert_counts(fx, &r, 1, 1, 0);
	}
}

/* --- fail and cancel -------------------------------------------------------------------------- */

static void a_failed_job_fails_its_open_disks_with_the_reason(void **state)
{
	struct fx *fx = *state;
	struct catalog_backup_context ctx;
	struct catalog_backup job;
	struct fx_ready r;
	struct fx_job j;

	fx_ready(fx, &r, "pgtest1", 3);
	fx_start(fx, &r, CATALOG_BACKUP_FULL, &j);
	OK(fx_complete(fx, j.job.id, 0, "c/0", NULL, &err));
	OK(catalog_backup_disk_set_running(fx->cat, j.job.id, 1, &err));
	OK(catalog_backup_fail(fx->cat, j.job.id, CATALOG_JOB_FAILED, "agent silent for 600 s",
			       &err));
	job = get_job(fx, j.job.id);
	assert_int_equal(job.status, CATALOG_JOB_FAILED);
	assert_string_equal(job.error_message, "agent silent for 600 s");
	assert_true(job.completed_at_us > 0);
	assert_int_equal(get_disk(fx, j.job.id, 0).status, CATALOG_DISK_COMPLETED);
	assert_int_equal(get_disk(fx, j.job.id, 1).status, CATALOG_DISK_FAILED);
	assert_string_equal(get_disk(fx, j.job.id, 2).error_message, "agent silent for 600 s");
	assert_string_equal(get_disk(fx, j.job.id, 0).error_message, "");
	assert_counts(fx, &r, 1, 0, 1);
	ctx = get_context(fx, &r);
	assert_string_equal(ctx.last_backup_id, "");
	EXPECT_TEXT(CATALOG_E_ALREADY, "agent silent",
		    catalog_backup_fail(fx->cat, j.job.id, CATALOG_JOB_CANCELLED, "no", &err));
	EXPECT_TEXT(CATALOG_E_STATE, "agent silent",
		    fx_complete(fx, j.job.id, 1, "c/1", NULL, &err));
	EXPECT(CATALOG_E_STATE, fx_complete(fx, j.job.id, 0, "c/0", NULL, &err));
	assert_counts(fx, &r, 1, 0, 1);
	EXPECT(CATALOG_E_NOT_FOUND,
	       catalog_backup_fail(fx->cat, "backup-none", CATALOG_JOB_FAILED, "x", &err));
}

static void a_cancelled_job_counts_as_failed_and_frees_the_vm(void **state)
{
	struct fx *fx = *state;
	struct fx_ready r;
	struct fx_job j;

	fx_ready(fx, &r, "pgtest1", 1);
	fx_start(fx, &r, CATALOG_BACKUP_FULL, &j);
	EXPECT(CATALOG_E_INVALID,
	       catalog_backup_fail(fx->cat, j.job.id, CATALOG_JOB_COMPLETED, "x", &err));
	OK(catalog_backup_fail(fx->cat, j.job.id, CATALOG_JOB_CANCELLED, "cancelled by admin",
			       &err));
	assert_int_equal(get_job(fx, j.job.id).status, CATALOG_JOB_CANCELLED);
	assert_counts(fx, &r, 1, 0, 1);
	fx_start(fx, &r, CATALOG_BACKUP_FULL, &j);
	fx_complete_all(fx, &j, "a");
	assert_counts(fx, &r, 2, 1, 1);
	EXPECT(CATALOG_E_STATE,
	       catalog_backup_fail(fx->cat, j.job.id, CATALOG_JOB_CANCELLED, "late", &err));
	assert_counts(fx, &r, 2, 1, 1);
}

static void a_reason_that_is_no_text_is_made_one(void **state)
{
	struct fx *fx = *state;
	struct catalog_backup job;
	struct fx_ready r;
	struct fx_job j;

	fx_ready(fx, &r, "pgtest1", 1);
	fx_start(fx, &r, CATALOG_BACKUP_FULL, &j);
	OK(catalog_backup_fail(
		fx->cat, j.job.id, CATALOG_JOB_FAILED,
		"a\xff\xc3\xa4\xc3(\xed\xa0\x80|\xc0\x80\xf0\x9f\x92\xbe\xf4\x90\x80\x80\xe2\x82",
		&err));
	OK(catalog_backup_get(fx->cat, j.job.id, &job, &err));
	assert_string_equal(job.error_message, "a?\xc3\xa4?(???|??\xf0\x9f\x92\xbe??????");
}

static void a_long_reason_is_cut_between_characters(void **state)
{
	struct fx *fx = *state;
	char reason[1200] = "x";
	struct catalog_backup job;
	struct fx_ready r;
	struct fx_job j;
	size_t len;

	for (int i = 0; i < 400; i++)
		strcat(reason, "\xc3\xa4");
	fx_ready(fx, &r, "pgtest1", 1);
	fx_start(fx, &r, CATALOG_BACKUP_FULL, &j);
	OK(catalog_backup_fail(fx->cat, j.job.id, CATALOG_JOB_FAILED, reason, &err));
	job = get_job(fx, j.job.id);
	len = strlen(job.error_message);
	assert_in_range(len, CATALOG_ERROR_SIZE - 4, CATALOG_ERROR_SIZE - 1);
	assert_int_equal(len % 2, 1);
	assert_memory_equal(job.error_message, reason, len);
}

static void a_job_with_a_failed_disk_ends_failed_with_its_last_disk(void **state)
{
	struct fx *fx = *state;
	enum catalog_job_status status;
	struct catalog_completed done;
	struct fx_ready r;
	struct fx_job j;

	fx_ready(fx, &r, "pgtest1", 3);
	fx_start(fx, &r, CATALOG_BACKUP_FULL, &j);
	OK(catalog_backup_disk_fail(fx->cat, j.job.id, 1, "no space left", &status, &err));
	assert_int_equal(status, CATALOG_JOB_RUNNING);
	EXPECT_TEXT(CATALOG_E_ALREADY, "no space left",
		    catalog_backup_disk_fail(fx->cat, j.job.id, 1, "again", &status, &err));
	EXPECT(CATALOG_E_STATE, fx_complete(fx, j.job.id, 1, "c/1", NULL, &err));
	OK(fx_complete(fx, j.job.id, 0, "c/0", &done, &err));
	assert_int_equal(done.job_status, CATALOG_JOB_RUNNING);
	EXPECT(CATALOG_E_STATE,
	       catalog_backup_disk_fail(fx->cat, j.job.id, 0, "too late", &status, &err));
	OK(fx_complete(fx, j.job.id, 2, "c/2", &done, &err));
	assert_int_equal(done.job_status, CATALOG_JOB_FAILED);
	assert_string_equal(get_job(fx, j.job.id).error_message, "disk 1: no space left");
	assert_counts(fx, &r, 1, 0, 1);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_chains"), 0);

	fx_start(fx, &r, CATALOG_BACKUP_FULL, &j);
	OK(fx_complete(fx, j.job.id, 0, "c/0", NULL, &err));
	OK(fx_complete(fx, j.job.id, 1, "c/1", NULL, &err));
	OK(catalog_backup_disk_fail(fx->cat, j.job.id, 2, "boom", &status, &err));
	assert_int_equal(status, CATALOG_JOB_FAILED);
	assert_counts(fx, &r, 2, 0, 2);
}

/* --- points and parents ----------------------------------------------------------------------- */

static void an_incremental_leans_on_the_latest_point_of_each_disk(void **state)
{
	struct fx *fx = *state;
	struct fx_ready r;
	struct fx_job full, incr, incr2;

	fx_ready(fx, &r, "pgtest1", 2);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &full);
	fx_backup(fx, &r, CATALOG_BACKUP_INCREMENTAL, "b", &incr);
	assert_string_equal(incr.job.parent_backup_id, full.job.id);
	assert_string_equal(incr.disks[1].parent_backup_id, full.job.id);
	assert_string_equal(incr.disks[1].parent_change_id, "a/1");
	assert_string_equal(incr.disks[1].parent_qcow2_path, full.disks[1].qcow2_path);
	fx_start(fx, &r, CATALOG_BACKUP_INCREMENTAL, &incr2);
	assert_string_equal(incr2.job.parent_backup_id, incr.job.id);
	assert_string_equal(incr2.disks[0].parent_change_id, "b/0");
}

static void a_point_is_offered_only_when_the_whole_job_is_completed(void **state)
{
	struct fx *fx = *state;
	struct catalog_backup_disk p;
	struct fx_ready r;
	struct fx_job j;

	fx_ready(fx, &r, "pgtest1", 2);
	fx_start(fx, &r, CATALOG_BACKUP_FULL, &j);
	OK(fx_complete(fx, j.job.id, 0, "a/0", NULL, &err));
	EXPECT(CATALOG_E_NOT_FOUND,
	       catalog_point_latest(fx->cat, r.ctx.context_id, "disk-2000", &p, &err));
	OK(fx_complete(fx, j.job.id, 1, "a/1", NULL, &err));
	OK(catalog_point_latest(fx->cat, r.ctx.context_id, "disk-2000", &p, &err));
	assert_string_equal(p.backup_job_id, j.job.id);
}

static void a_completed_disk_of_a_failed_job_is_nobodys_parent(void **state)
{
	struct fx *fx = *state;
	struct catalog_backup_disk p, lost;
	struct fx_ready r;
	struct fx_job full, failed, next;

	fx_ready(fx, &r, "pgtest1", 2);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &full);
	fx_start(fx, &r, CATALOG_BACKUP_INCREMENTAL, &failed);
	OK(fx_complete(fx, failed.job.id, 0, "b/0", NULL, &err));
	OK(catalog_backup_fail(fx->cat, failed.job.id, CATALOG_JOB_FAILED, "cut", &err));
	OK(catalog_point_latest(fx->cat, r.ctx.context_id, "disk-2000", &p, &err));
	assert_string_equal(p.change_id, "a/0");
	lost = get_disk(fx, failed.job.id, 0);
	assert_int_equal(lost.status, CATALOG_DISK_COMPLETED);
	assert_string_equal(lost.change_id, "b/0");
	assert_string_equal(lost.chain_id, "");
	fx_plan(fx, &r, CATALOG_BACKUP_INCREMENTAL, &next);
	next.disks[0].parent_disk_id = lost.id;
	EXPECT(CATALOG_E_CONFLICT, start(fx, &next, NULL, &err));
	fx_start(fx, &r, CATALOG_BACKUP_INCREMENTAL, &next);
	assert_string_equal(next.disks[0].parent_change_id, "a/0");
}

static void a_parent_that_is_not_the_latest_point_is_refused(void **state)
{
	struct fx *fx = *state;
	struct fx_ready r, other;
	struct fx_job full, incr, stale;

	fx_ready(fx, &r, "pgtest1", 2);
	fx_ready(fx, &other, "pgtest2", 2);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &full);
	fx_plan(fx, &r, CATALOG_BACKUP_INCREMENTAL, &stale);
	fx_backup(fx, &r, CATALOG_BACKUP_INCREMENTAL, "b", &incr);
	EXPECT_TEXT(CATALOG_E_CONFLICT, "plan the backup again", start(fx, &stale, NULL, &err));
	/* Another disk's point, another VM's point, no point at all. */
	fx_plan(fx, &r, CATALOG_BACKUP_INCREMENTAL, &stale);
	stale.disks[0].parent_disk_id = stale.disks[1].parent_disk_id;
	EXPECT(CATALOG_E_CONFLICT, start(fx, &stale, NULL, &err));
	fx_plan(fx, &other, CATALOG_BACKUP_INCREMENTAL, &stale);
	assert_int_equal(stale.disks[0].mode, CATALOG_BACKUP_FULL);
	stale.disks[0].mode = CATALOG_BACKUP_INCREMENTAL;
	stale.disks[0].parent_disk_id = incr.disks[0].id;
	EXPECT(CATALOG_E_CONFLICT, start(fx, &stale, NULL, &err));
	stale.disks[0].parent_disk_id = 123456;
	EXPECT(CATALOG_E_CONFLICT, start(fx, &stale, NULL, &err));
	assert_counts(fx, &other, 0, 0, 0);
}

static void a_new_disk_gets_a_full_with_a_reason_inside_an_incremental(void **state)
{
	struct fx *fx = *state;
	struct catalog_backup_disk d;
	struct fx_ready r;
	struct fx_job j;

	fx_ready(fx, &r, "pgtest1", 1);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &j);
	fx_add_vm(fx, &r.v, "pgtest1", 2);
	fx_backup(fx, &r, CATALOG_BACKUP_INCREMENTAL, "b", &j);
	d = get_disk(fx, j.job.id, 1);
	assert_int_equal(d.mode, CATALOG_BACKUP_FULL);
	assert_string_equal(d.reason, "new disk: it has no earlier point");
	assert_int_equal(get_disk(fx, j.job.id, 0).mode, CATALOG_BACKUP_INCREMENTAL);
	assert_int_equal(get_job(fx, j.job.id).backup_type, CATALOG_BACKUP_INCREMENTAL);
}

static void points_of_other_repositories_do_not_mix(void **state)
{
	struct fx *fx = *state;
	struct catalog_backup_disk p;
	struct fx_ready r, second;
	struct fx_job j;

	fx_ready(fx, &r, "pgtest1", 1);
	second = r;
	fx_add_repository(fx, &second.repo, "second");
	OK(catalog_backup_context_ensure(fx->cat, r.v.vm.context_id, second.repo.id, &second.ctx,
					 &err));
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "main", &j);
	fx_backup(fx, &second, CATALOG_BACKUP_FULL, "second", &j);
	OK(catalog_point_latest(fx->cat, r.ctx.context_id, "disk-2000", &p, &err));
	assert_string_equal(p.change_id, "main/0");
	OK(catalog_point_latest(fx->cat, second.ctx.context_id, "disk-2000", &p, &err));
	assert_string_equal(p.change_id, "second/0");
	/* Without a repository the question is for the latest anywhere. */
	OK(catalog_point_latest_of_vm(fx->cat, "pgtest1", 0, &p, &err));
	assert_string_equal(p.change_id, "second/0");
	EXPECT(CATALOG_E_NOT_FOUND, catalog_point_latest_of_vm(fx->cat, "pgtest1", 1, &p, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_point_latest_of_vm(fx->cat, "pgtest9", 0, &p, &err));
}

static void more_than_ten_disks_and_jobs_keep_their_parents_apart(void **state)
{
	struct fx *fx = *state;
	struct fx_ready r;
	struct fx_job j;

	fx_ready(fx, &r, "pgtest1", 8);
	for (int i = 0; i < 12; i++) {
		char tag[16], want[32];

		snprintf(tag, sizeof(tag), "t%d", i);
		fx_backup(fx, &r, i ? CATALOG_BACKUP_INCREMENTAL : CATALOG_BACKUP_FULL, tag, &j);
		for (int k = 0; i && k < 8; k++) {
			snprintf(want, sizeof(want), "t%d/%d", i - 1, k);
			assert_string_equal(j.disks[k].parent_change_id, want);
		}
	}
}

/* --- lists and deletion ----------------------------------------------------------------------- */

static size_t list(struct fx *fx, const struct catalog_backup_filter *f,
		   char first[CATALOG_ID_SIZE], int64_t *total)
{
	struct catalog_backup *rows;
	size_t n;

	OK(catalog_backups_list(fx->cat, f, &rows, &n, total, &err));
	if (n)
		memcpy(first, rows[0].id, CATALOG_ID_SIZE);
	free(rows);
	return n;
}

static void lists_filter_page_and_count(void **state)
{
	const enum catalog_job_status failed = CATALOG_JOB_FAILED, done = CATALOG_JOB_COMPLETED;
	const enum catalog_backup_type incr = CATALOG_BACKUP_INCREMENTAL;
	struct fx *fx = *state;
	char first[CATALOG_ID_SIZE];
	struct fx_ready a, b;
	struct fx_job full, incremental, bad, other;
	int64_t total;

	fx_ready(fx, &a, "a", 1);
	fx_ready(fx, &b, "b", 1);
	fx_backup(fx, &a, CATALOG_BACKUP_FULL, "1", &full);
	fx_backup(fx, &a, CATALOG_BACKUP_INCREMENTAL, "2", &incremental);
	fx_start(fx, &a, CATALOG_BACKUP_INCREMENTAL, &bad);
	OK(catalog_backup_fail(fx->cat, bad.job.id, CATALOG_JOB_FAILED, "x", &err));
	fx_start(fx, &b, CATALOG_BACKUP_FULL, &other);

#define LIST(...) list(fx, &(const struct catalog_backup_filter){__VA_ARGS__}, first, &total)
	assert_int_equal(list(fx, NULL, first, &total), 4);
	assert_string_equal(first, other.job.id);
	assert_int_equal(LIST(.vm_name = "a"), 3);
	assert_string_equal(first, bad.job.id);
	assert_int_equal(LIST(.vm_context_id = b.v.vm.context_id), 1);
	assert_int_equal(LIST(.vm_backup_context_id = a.ctx.context_id), 3);
	assert_int_equal(LIST(.repository_id = a.repo.id), 4);
	assert_int_equal(LIST(.repository_id = "repo-none"), 0);
	assert_int_equal(LIST(.status = &failed), 1);
	assert_string_equal(first, bad.job.id);
	assert_int_equal(LIST(.backup_type = &incr), 2);
	assert_int_equal(LIST(.backup_type = &incr, .status = &done, .vm_name = "a",
			      .repository_id = a.repo.id, .vm_context_id = a.v.vm.context_id,
			      .vm_backup_context_id = a.ctx.context_id),
			 1);
	assert_string_equal(first, incremental.job.id);
	assert_int_equal(LIST(.limit = 2), 2);
	assert_int_equal(total, 4);
	assert_int_equal(LIST(.limit = 2, .offset = 3), 1);
	assert_string_equal(first, full.job.id);
	assert_int_equal(LIST(.offset = 1), 3);
	assert_int_equal(LIST(.limit = 5, .offset = 100), 0);
	assert_int_equal(total, 4);
#undef LIST
}

static void the_cascade_is_the_schemas_own(void **state)
{
	struct fx *fx = *state;
	struct fx_ready r;
	struct fx_job j;

	fx_ready(fx, &r, "pgtest1", 2);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &j);
	fx_backup(fx, &r, CATALOG_BACKUP_INCREMENTAL, "b", &j);
	tmpdb_sql(&fx->t, "DELETE FROM vm_backup_contexts");
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT (SELECT COUNT(*) FROM backup_jobs)"
					   " + (SELECT COUNT(*) FROM backup_disks)"
					   " + (SELECT COUNT(*) FROM backup_chains)"),
			 0);
}

static void words_of_states_and_types_are_the_apis(void **state)
{
	static const char *const job_words[] = {"pending", "running", "completed", "failed",
						"cancelled"};
	static const char *const type_words[] = {"full", "incremental", "differential"};
	enum catalog_job_status status;
	enum catalog_backup_type type;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(job_words); i++) {
		assert_true(catalog_job_status_parse(job_words[i], &status));
		assert_string_equal(catalog_job_status_name(status), job_words[i]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(type_words); i++) {
		assert_true(catalog_backup_type_parse(type_words[i], &type));
		assert_string_equal(catalog_backup_type_name(type), type_words[i]);
	}
	assert_false(catalog_job_status_parse("Running", &status));
	assert_false(catalog_backup_type_parse("", &type));
	assert_string_equal(catalog_disk_status_name(CATALOG_DISK_FAILED), "failed");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FX_TEST(a_vm_has_one_context_per_repository),
		FX_TEST(a_renamed_vm_keeps_its_context),
		FX_TEST(one_name_in_two_vcenters_has_two_contexts_in_a_repository),
		FX_TEST(a_start_stores_the_job_and_every_disk),
		FX_TEST(an_id_is_made_when_none_is_given),
		FX_TEST(ids_the_agent_would_misread_are_refused),
		FX_TEST(plans_that_make_no_sense_are_refused),
		FX_TEST(a_second_start_is_told_the_running_job),
		FX_TEST(the_guard_goes_by_name_over_all_vcenters_and_repositories),
		FX_TEST(the_guard_also_knows_a_vm_renamed_meanwhile),
		FX_TEST(the_database_itself_refuses_a_second_running_job),
		FX_TEST(of_many_starts_at_once_one_wins),
		FX_TEST(the_running_job_is_found_by_vm_name),
		FX_TEST(states_and_progress_are_kept),
		FX_TEST(telemetry_that_says_completed_ends_nothing),
		FX_TEST(the_open_disk_follows_the_hardware_order),
		FX_TEST(the_last_disk_completes_the_job),
		FX_TEST(change_ids_are_kept_byte_for_byte_each_disk_its_own),
		FX_TEST(completing_again_with_the_same_change_id_changes_nothing),
		FX_TEST(unknown_jobs_and_disks_are_named),
		FX_TEST(a_disk_completes_days_after_its_job_began),
		FX_TEST(two_disks_completing_at_once_complete_the_job_once),
		FX_TEST(a_failed_job_fails_its_open_disks_with_the_reason),
		FX_TEST(a_cancelled_job_counts_as_failed_and_frees_the_vm),
		FX_TEST(a_reason_that_is_no_text_is_made_one),
		FX_TEST(a_long_reason_is_cut_between_characters),
		FX_TEST(a_job_with_a_failed_disk_ends_failed_with_its_last_disk),
		FX_TEST(an_incremental_leans_on_the_latest_point_of_each_disk),
		FX_TEST(a_point_is_offered_only_when_the_whole_job_is_completed),
		FX_TEST(a_completed_disk_of_a_failed_job_is_nobodys_parent),
		FX_TEST(a_parent_that_is_not_the_latest_point_is_refused),
		FX_TEST(a_new_disk_gets_a_full_with_a_reason_inside_an_incremental),
		FX_TEST(points_of_other_repositories_do_not_mix),
		FX_TEST(more_than_ten_disks_and_jobs_keep_their_parents_apart),
		FX_TEST(lists_filter_page_and_count),
		FX_TEST(the_cascade_is_the_schemas_own),
		cmocka_unit_test(words_of_states_and_types_are_the_apis),
	};

	return tmpdb_run_tests("catalog/backups", tests, NULL, NULL);
}
