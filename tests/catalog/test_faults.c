/*
 * Every operation is broken at every row it writes, one after the other, and must leave the
 * database exactly as it was; then it is let through. The database itself breaks it: triggers count
 * down and refuse the k-th change, either failing the statement (as a constraint does) or ending
 * the whole transaction (as a full disk does, or a server that goes away).
 */
#include "tests/catalog/fixture.h"

#include <errno.h>

#include "catalog/deletions.h"
#include "catalog/hubs.h"
#include "catalog/job_log.h"

static const char *const tables[] = {"vm_replication_contexts",
				     "replication_jobs",
				     "vm_disks",
				     "backup_repositories",
				     "vm_backup_contexts",
				     "backup_jobs",
				     "backup_chains",
				     "backup_disks",
				     "job_log",
				     "backup_deletions",
				     "backup_deletion_files",
				     "hubs",
				     "hub_tokens"};

/* What an operation broken in this way gives. */
static struct {
	int result;
	const char *text;
} broken;

static void install(struct fx *fx, bool whole_transaction)
{
	for (size_t i = 0; i < ARRAY_SIZE(tables); i++)
		tmpdb_add_fault(&fx->t, tables[i], whole_transaction);
	broken.result = -EIO;
	broken.text = "injected";
	if (!whole_transaction || !tmpdb_on_mariadb())
		return;
	/* The transaction is run again on a new connection, which is killed as well, and so on. */
	catalog_close(fx->cat);
	OK(catalog_open(fx->t.url, &(struct catalog_options){.max_attempts = 3}, &fx->cat, &err));
	broken.result = -EBUSY;
	broken.text = "Connection was killed";
}

typedef int op_fn(struct fx *fx, void *arg, struct err *err);

/* Breaks @op at its first row, its second, ... until it gets through; returns how many it writes.
 */
static int torture(struct fx *fx, op_fn *op, void *arg)
{
	_cleanup_(freep) char *before = tmpdb_dump(&fx->t, "fault");
	_cleanup_(freep) char *after = NULL;
	struct err err = ERR_INIT;
	int k = 1, r;

	for (;; k++) {
		tmpdb_arm(&fx->t, k);
		r = op(fx, arg, &err);
		tmpdb_arm(&fx->t, 0);
		if (r == 0)
			break;
		if (r != broken.result || !strstr(err.text, broken.text))
			fail_msg("broken at row %d it gave %d: %s", k, r, err.text);
		free(after);
		after = tmpdb_dump(&fx->t, "fault");
		assert_string_equal(before, after);
	}
	free(after);
	after = tmpdb_dump(&fx->t, "fault");
	assert_string_not_equal(before, after);
	return k - 1;
}

/* --- the operations --------------------------------------------------------------------------- */

static int op_discover(struct fx *fx, void *arg, struct err *err)
{
	struct fx_vm *v = arg;

	return catalog_vm_context_upsert(fx->cat, &v->vm, v->disks, v->n, NULL, err);
}

static int op_repository(struct fx *fx, void *arg, struct err *err)
{
	return catalog_repository_create(fx->cat, arg, err);
}

static int op_ensure(struct fx *fx, void *arg, struct err *err)
{
	struct fx_ready *r = arg;

	return catalog_backup_context_ensure(fx->cat, r->v.vm.context_id, r->repo.id, &r->ctx, err);
}

static int op_start(struct fx *fx, void *arg, struct err *err)
{
	struct fx_job *j = arg;

	return catalog_backup_start(fx->cat, &j->job, j->disks, j->n, NULL, err);
}

static int op_running(struct fx *fx, void *arg, struct err *err)
{
	return catalog_backup_set_running(fx->cat, ((struct fx_job *)arg)->job.id, err);
}

static int op_telemetry(struct fx *fx, void *arg, struct err *err)
{
	return catalog_backup_note_telemetry(fx->cat, ((struct fx_job *)arg)->job.id, "copying",
					     err);
}

static int op_disk_running(struct fx *fx, void *arg, struct err *err)
{
	return catalog_backup_disk_set_running(fx->cat, ((struct fx_job *)arg)->job.id, 1, err);
}

static int op_cancel(struct fx *fx, void *arg, struct err *err)
{
	return catalog_backup_fail(fx->cat, ((struct fx_job *)arg)->job.id, CATALOG_JOB_CANCELLED,
				   "because", err);
}

static int op_say(struct fx *fx, void *arg, struct err *err)
{
	struct catalog_job_line line = {.disk_index = CATALOG_NONE, .message = "something"};

	CATALOG_TEXT(line.backup_job_id, ((struct fx_job *)arg)->job.id);
	return catalog_job_log_add(fx->cat, &line, err);
}

static int op_progress(struct fx *fx, void *arg, struct err *err)
{
	const struct catalog_counters bytes = {1, 2, 3, 4};
	struct fx_job *j = arg;

	return catalog_backup_disk_progress(fx->cat, j->job.id, 0, &bytes, err);
}

static int op_complete_0(struct fx *fx, void *arg, struct err *err)
{
	return fx_complete(fx, ((struct fx_job *)arg)->job.id, 0, "c/0", NULL, err);
}

static int op_complete_1(struct fx *fx, void *arg, struct err *err)
{
	return fx_complete(fx, ((struct fx_job *)arg)->job.id, 1, "c/1", NULL, err);
}

static int op_fail(struct fx *fx, void *arg, struct err *err)
{
	return catalog_backup_fail(fx->cat, ((struct fx_job *)arg)->job.id, CATALOG_JOB_FAILED,
				   "because", err);
}

static int op_fail_disk(struct fx *fx, void *arg, struct err *err)
{
	return catalog_backup_disk_fail(fx->cat, ((struct fx_job *)arg)->job.id, 1, "because", NULL,
					err);
}

static int op_delete_vm(struct fx *fx, void *arg, struct err *err)
{
	return catalog_vm_context_delete(fx->cat, ((struct fx_ready *)arg)->v.vm.context_id, err);
}

static int op_delete_repository(struct fx *fx, void *arg, struct err *err)
{
	return catalog_repository_delete(fx->cat, ((struct fx_ready *)arg)->repo.id, err);
}

/* --- deletions -------------------------------------------------------------------------------- */

static int op_delete_backup(struct fx *fx, void *arg, struct err *err)
{
	struct catalog_deletion *rows = NULL;
	size_t n = 0;
	int r = catalog_backup_delete(fx->cat, ((struct fx_job *)arg)->job.id, true, &rows, &n,
				      err);

	free(rows);
	return r;
}

static int op_delete_all(struct fx *fx, void *arg, struct err *err)
{
	struct catalog_deletion *rows = NULL;
	size_t n = 0;
	int r = catalog_vm_context_delete_all(fx->cat, ((struct fx_ready *)arg)->v.vm.context_id,
					      &rows, &n, err);

	free(rows);
	return r;
}

static int op_claim(struct fx *fx, void *arg, struct err *err)
{
	struct catalog_deletion entry;

	return catalog_deletion_claim(fx->cat, ((struct fx_job *)arg)->job.id, 0, &entry, err);
}

static int op_give_back(struct fx *fx, void *arg, struct err *err)
{
	return catalog_deletion_failed(fx->cat, *(int64_t *)arg, "because", 0, err);
}

static int op_files_gone(struct fx *fx, void *arg, struct err *err)
{
	return catalog_deletion_files_gone(fx->cat, *(int64_t *)arg, err);
}

static int op_done(struct fx *fx, void *arg, struct err *err)
{
	return catalog_deletion_done(fx->cat, *(int64_t *)arg, err);
}

/* The k-th row that an operation writes is refused; so are, on SQLite, those that foreign keys take
 * along. */
static void delete_things(struct fx *fx, bool whole_transaction)
{
	struct fx_job full, first, second;
	struct catalog_deletion entry;
	struct fx_ready r;

	fx_ready(fx, &r, "pgtest1", 2);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &full);
	fx_backup(fx, &r, CATALOG_BACKUP_INCREMENTAL, "b", &first);
	fx_backup(fx, &r, CATALOG_BACKUP_INCREMENTAL, "c", &second);
	install(fx, whole_transaction);
	/* Each of two: an entry, two files, two chains, the job, the context. */
	assert_true(torture(fx, op_delete_backup, &first) >= 14);
	assert_int_equal(torture(fx, op_claim, &second), 1);
	OK(catalog_deletion_get(fx->cat, second.job.id, &entry, &err));
	assert_int_equal(torture(fx, op_give_back, &entry.id), 1);
	assert_int_equal(torture(fx, op_claim, &second), 1);
	assert_int_equal(torture(fx, op_files_gone, &entry.id), 1);
	assert_true(torture(fx, op_done, &entry.id) >= tmpdb_either(3, 1));
	/* An entry and two files; the context; the VM. */
	assert_true(torture(fx, op_delete_all, &r) >= 5);
}

static void a_deletion_that_fails_anywhere_did_not_happen(void **state)
{
	delete_things(*state, false);
}

static void a_deletion_whose_transaction_breaks_did_not_happen(void **state)
{
	delete_things(*state, true);
}

/* --- hubs ------------------------------------------------------------------------------------- */

static int op_join(struct fx *fx, void *arg, struct err *err)
{
	return catalog_hub_join(fx->cat, arg, 60000, err);
}

static int op_renew(struct fx *fx, void *arg, struct err *err)
{
	(void)arg;
	return catalog_hub_renew(fx->cat, 60000, err);
}

static int op_take_over(struct fx *fx, void *arg, struct err *err)
{
	struct catalog_backup *jobs = NULL;
	size_t *n = arg;
	int r = catalog_hub_take_over(fx->cat, &jobs, n, err);

	free(jobs);
	return r;
}

static int op_leave(struct fx *fx, void *arg, struct err *err)
{
	(void)arg;
	return catalog_hub_leave(fx->cat, err);
}

static void live_among_hubs(struct fx *fx, bool whole_transaction)
{
	struct catalog_hub old = {.name = "old", .instance = "data-1"}, hub = old;
	struct catalog_hub other = {.name = "other", .instance = "data-2"};
	struct fx_ready r[3];
	struct fx_job j;
	size_t n = 0;

	OK(catalog_hub_join(fx->cat, &other, 60000, &err));
	for (size_t i = 0; i < ARRAY_SIZE(r); i++) {
		char name[8];

		snprintf(name, sizeof(name), "vm%zu", i);
		fx_ready(fx, &r[i], name, 1);
		fx_start(fx, &r[i], CATALOG_BACKUP_FULL, &j);
	}
	OK(catalog_hub_join(fx->cat, &old, 60000, &err));
	install(fx, whole_transaction);
	assert_int_equal(torture(fx, op_join, &hub), 3);
	assert_true(hub.token > old.token);
	assert_int_equal(torture(fx, op_renew, NULL), 1);
	tmpdb_sql(&fx->t, "UPDATE hubs SET lease_until = 1 WHERE name = 'other';"
			  " UPDATE hubs SET steady_since = 1");
	assert_int_equal(torture(fx, op_take_over, &n), 4);
	assert_int_equal(n, 3);
	OK(op_take_over(fx, &n, NULL));
	assert_int_equal(n, 0);
	tmpdb_sql(&fx->t, "DELETE FROM vm_backup_contexts");
	assert_int_equal(torture(fx, op_leave, NULL), 1);
}

static void hubs_come_and_go_whole_or_not_at_all(void **state)
{
	live_among_hubs(*state, false);
}

static void hubs_survive_transactions_that_break(void **state)
{
	live_among_hubs(*state, true);
}

/* --- backups ---------------------------------------------------------------------------------- */

/* A whole life, every step broken everywhere. The counts say that the steps were really cut up; the
 * first disk of a job makes one more each time, which is the job's old columns. */
static void live(struct fx *fx, bool whole_transaction)
{
	struct fx_ready r;
	struct fx_job full, incr, failed;

	install(fx, whole_transaction);
	fx_describe_vm(&r.v, "pgtest1", "vc1", 2);
	assert_true(torture(fx, op_discover, &r.v) >= 4);
	r.v.disks[0].size_gb = 77;
	assert_true(torture(fx, op_discover, &r.v) >= 5);
	r.repo = (struct catalog_repository){.name = "main", .config = "{}"};
	assert_int_equal(torture(fx, op_repository, &r.repo), 1);
	assert_int_equal(torture(fx, op_ensure, &r), 1);

	fx_plan(fx, &r, CATALOG_BACKUP_FULL, &full);
	assert_int_equal(torture(fx, op_start, &full), 8);
	assert_int_equal(torture(fx, op_running, &full), 2);
	assert_int_equal(torture(fx, op_telemetry, &full), 1);
	assert_int_equal(torture(fx, op_progress, &full), 3);
	assert_int_equal(torture(fx, op_disk_running, &full), 3);
	assert_int_equal(torture(fx, op_say, &full), 1);
	assert_int_equal(torture(fx, op_complete_0, &full), 4);
	assert_int_equal(torture(fx, op_complete_1, &full), 10);

	fx_plan(fx, &r, CATALOG_BACKUP_INCREMENTAL, &incr);
	assert_int_equal(torture(fx, op_start, &incr), 8);
	assert_int_equal(torture(fx, op_complete_1, &incr), 3);
	assert_int_equal(torture(fx, op_complete_0, &incr), 11);

	fx_plan(fx, &r, CATALOG_BACKUP_INCREMENTAL, &failed);
	assert_int_equal(torture(fx, op_start, &failed), 8);
	assert_int_equal(torture(fx, op_fail, &failed), 5);
	fx_plan(fx, &r, CATALOG_BACKUP_INCREMENTAL, &failed);
	assert_int_equal(torture(fx, op_start, &failed), 8);
	assert_int_equal(torture(fx, op_complete_0, &failed), 4);
	assert_int_equal(torture(fx, op_fail_disk, &failed), 6);

	fx_plan(fx, &r, CATALOG_BACKUP_INCREMENTAL, &failed);
	assert_int_equal(torture(fx, op_start, &failed), 8);
	assert_int_equal(torture(fx, op_cancel, &failed), 5);

	/* MariaDB does not tell triggers of what foreign keys take along. */
	assert_true(torture(fx, op_delete_vm, &r) >= tmpdb_either(3, 1));

	r.repo = (struct catalog_repository){.name = "empty", .config = "{}"};
	assert_int_equal(torture(fx, op_repository, &r.repo), 1);
	assert_int_equal(torture(fx, op_delete_repository, &r), 1);
}

static void a_statement_that_fails_anywhere_undoes_its_operation(void **state)
{
	live(*state, false);
}

static void a_transaction_that_breaks_anywhere_undoes_its_operation(void **state)
{
	live(*state, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FX_TEST(a_statement_that_fails_anywhere_undoes_its_operation),
		FX_TEST(a_transaction_that_breaks_anywhere_undoes_its_operation),
		FX_TEST(a_deletion_that_fails_anywhere_did_not_happen),
		FX_TEST(a_deletion_whose_transaction_breaks_did_not_happen),
		FX_TEST(hubs_come_and_go_whole_or_not_at_all),
		FX_TEST(hubs_survive_transactions_that_break),
	};

	return tmpdb_run_tests("catalog/faults", tests, NULL, NULL);
}
