#include "tests/catalog/fixture.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "catalog/db.h"

static void urls_are_judged_without_opening_them(void **state)
{
	struct catalog *cat = NULL;

	(void)state;
	assert_true(catalog_url_valid("sqlite:/var/lib/x.db", NULL));
	assert_false(catalog_url_valid("postgres://x", NULL));
	EXPECT_TEXT(CATALOG_E_URL, "postgres", catalog_open("postgres://x", NULL, &cat, &err));
	EXPECT(CATALOG_E_URL, catalog_open("sqlite:", NULL, &cat, &err));
	EXPECT_TEXT(-ENOENT, "/no/such/dir",
		    catalog_open("sqlite:/no/such/dir/x.db", NULL, &cat, &err));
	assert_null(cat);
}

static void ids_are_unique_ordered_and_fit_for_the_agent(void **state)
{
	char id[CATALOG_ID_SIZE], last[CATALOG_ID_SIZE] = "";

	(void)state;
	for (int i = 0; i < 10000; i++) {
		catalog_new_id(id, CATALOG_JOB_PREFIX);
		assert_int_equal(strlen(id), strlen(CATALOG_JOB_PREFIX) + 26);
		assert_int_equal(strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789-"), strlen(id));
		assert_int_not_equal(strcmp(id, last), 0);
		/* The first ten characters are the time. */
		assert_true(strncmp(id, last, strlen(CATALOG_JOB_PREFIX) + 10) >= 0);
		memcpy(last, id, sizeof(id));
	}
}

static void text_that_does_not_fit_is_refused_not_cut(void **state)
{
	char small[4] = "x";

	(void)state;
	assert_true(CATALOG_TEXT(small, "abc"));
	assert_string_equal(small, "abc");
	assert_false(CATALOG_TEXT(small, "abcd"));
	assert_string_equal(small, "");
	assert_true(CATALOG_TEXT(small, NULL));
	assert_string_equal(small, "");
}

/* --- transactions ----------------------------------------------------------------------------- */

struct two {
	struct fx *fx;
	int result; /* what the function returns after both inserts */
	int runs;
};

static void name_repository(struct catalog_repository *repo, const char *name)
{
	*repo = (struct catalog_repository){.enabled = true, .config = "{}"};
	CATALOG_TEXT(repo->name, name);
}

static int insert_two(struct catalog *tx, void *arg, struct err *err)
{
	struct two *t = arg;
	struct catalog_repository repo;
	int r;

	t->runs++;
	name_repository(&repo, "one");
	r = catalog_repository_create(tx, &repo, err);
	if (r)
		return r;
	name_repository(&repo, "two");
	r = catalog_repository_create(tx, &repo, err);
	return r ? r : t->result ? err_set(err, t->result, "changed my mind") : 0;
}

static int64_t count_repositories(struct fx *fx)
{
	return tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_repositories");
}

static void several_calls_commit_together(void **state)
{
	struct fx *fx = *state;
	struct two t = {.fx = fx};

	OK(catalog_tx(fx->cat, insert_two, &t, &err));
	assert_int_equal(count_repositories(fx), 2);
	assert_int_equal(t.runs, 1);
}

static void several_calls_roll_back_together(void **state)
{
	struct fx *fx = *state;
	struct two t = {.fx = fx, .result = CATALOG_E_STATE};

	EXPECT_TEXT(CATALOG_E_STATE, "changed my mind", catalog_tx(fx->cat, insert_two, &t, &err));
	assert_int_equal(count_repositories(fx), 0);
	t.result = -ECANCELED;
	EXPECT(-ECANCELED, catalog_tx(fx->cat, insert_two, &t, &err));
	assert_int_equal(count_repositories(fx), 0);
}

/* The second call fails; its transaction goes on without it. */
static int swallow_a_failure(struct catalog *tx, void *arg, struct err *err)
{
	struct two inner = {.result = CATALOG_E_STATE};
	struct catalog_repository repo;
	int r;

	(void)arg;
	name_repository(&repo, "three");
	r = catalog_repository_create(tx, &repo, err);
	assert_int_equal(catalog_tx(tx, insert_two, &inner, NULL), CATALOG_E_STATE);
	return r;
}

static void a_failed_call_inside_a_transaction_leaves_nothing_behind(void **state)
{
	struct fx *fx = *state;

	OK(catalog_tx(fx->cat, swallow_a_failure, NULL, &err));
	assert_int_equal(count_repositories(fx), 1);
	assert_string_equal(tmpdb_text(&fx->t, "SELECT name FROM backup_repositories"), "three");
}

static int read_own_write(struct catalog *tx, void *arg, struct err *err)
{
	struct fx *fx = arg;
	struct catalog_repository repo;
	int r;

	name_repository(&repo, "mine");
	r = catalog_repository_create(tx, &repo, err);
	if (r)
		return r;
	assert_int_equal(catalog_repository_get_by_name(fx->cat, "mine", &repo, NULL),
			 CATALOG_E_NOT_FOUND);
	return catalog_repository_get_by_name(tx, "mine", &repo, err);
}

static void a_transaction_sees_its_own_changes_and_others_do_not(void **state)
{
	struct fx *fx = *state;

	OK(catalog_tx(fx->cat, read_own_write, fx, &err));
}

static void a_success_leaves_no_error_behind(void **state)
{
	struct fx *fx = *state;
	struct err e = ERR_INIT;

	assert_int_equal(catalog_tx(fx->cat, swallow_a_failure, NULL, &e), 0);
	assert_int_equal(e.code, 0);
	assert_string_equal(e.text, "");
}

/* --- other programs --------------------------------------------------------------------------- */

static struct db *lock_from_outside(struct fx *fx)
{
	struct db *db;

	OK(db_open(fx->t.url, 1000, &db, &err));
	OK(db_begin(db, &err));
	return db;
}

static void a_lock_held_for_ever_ends_in_ebusy(void **state)
{
	struct fx *fx = *state;
	const struct catalog_options quick = {.busy_timeout_ms = 20};
	struct catalog *cat;
	struct two t = {.fx = fx};
	struct db *other;

	OK(catalog_open(fx->t.url, &quick, &cat, &err));
	other = lock_from_outside(fx);
	EXPECT_TEXT(-EBUSY, tmpdb_either("locked", "Lock wait"),
		    catalog_tx(cat, insert_two, &t, &err));
	assert_int_equal(t.runs, 0);
	db_close(other);
	OK(catalog_tx(cat, insert_two, &t, &err));
	catalog_close(cat);
}

static void *unlock_later(void *arg)
{
	usleep(150 * 1000);
	assert_int_equal(db_commit(arg, NULL), 0);
	return NULL;
}

static void a_lock_let_go_after_several_timeouts_is_waited_out(void **state)
{
	struct fx *fx = *state;
	/* As many attempts as it takes, should the other be held up. */
	const struct catalog_options quick = {.busy_timeout_ms = 60, .max_attempts = 500};
	struct catalog *cat;
	struct two t = {.fx = fx};
	pthread_t thread;
	struct db *other;

	OK(catalog_open(fx->t.url, &quick, &cat, &err));
	other = lock_from_outside(fx);
	pthread_create(&thread, NULL, unlock_later, other);
	OK(catalog_tx(cat, insert_two, &t, &err));
	pthread_join(thread, NULL);
	db_close(other);
	catalog_close(cat);
}

/* --- threads ---------------------------------------------------------------------------------- */

#define THREADS	   12
#define PER_THREAD 20

struct worker {
	struct fx *fx;
	struct catalog *cat;
	int number;
	int failures;
};

static void *work(void *arg)
{
	struct worker *w = arg;

	for (int i = 0; i < PER_THREAD; i++) {
		struct catalog_repository repo, again, *all;
		char name[64];
		size_t n;

		snprintf(name, sizeof(name), "repo %d %d", w->number, i);
		name_repository(&repo, name);
		w->failures += catalog_repository_create(w->cat, &repo, NULL) != 0;
		w->failures += catalog_repository_get(w->cat, repo.id, &again, NULL) != 0;
		w->failures += strcmp(again.name, name) != 0;
		w->failures += catalog_repositories_list(w->cat, &all, &n, NULL) != 0;
		w->failures += n < (size_t)i + 1;
		free(all);
	}
	return NULL;
}

static void many_threads_share_few_connections(void **state)
{
	struct fx *fx = *state;
	const struct catalog_options few = {.max_connections = 3};
	struct worker workers[THREADS];
	pthread_t threads[THREADS];
	struct catalog *cat;

	OK(catalog_open(fx->t.url, &few, &cat, &err));
	for (int i = 0; i < THREADS; i++) {
		workers[i] = (struct worker){fx, cat, i, 0};
		assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
	}
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(workers[i].failures, 0);
	}
	assert_int_equal(count_repositories(fx), THREADS * PER_THREAD);
	catalog_close(cat);
}

/* No connection may be carried through a fork: the child opens its own, the parent opens again. */
static pid_t fork_closed(struct fx *fx)
{
	pid_t pid;

	catalog_close(fx->cat);
	fx->cat = NULL;
	pid = fork();
	assert_true(pid >= 0);
	if (pid)
		OK(catalog_open(fx->t.url, NULL, &fx->cat, &err));
	return pid;
}

static void two_programs_write_at_once(void **state)
{
	struct fx *fx = *state;
	int status;
	pid_t pid = fork_closed(fx);

	if (pid == 0) {
		struct worker w = {.number = 100};

		if (catalog_open(fx->t.url, NULL, &w.cat, NULL))
			_exit(1);
		work(&w);
		catalog_close(w.cat);
		_exit(w.failures != 0);
	}
	struct worker w = {.cat = fx->cat, .number = 200};
	work(&w);
	assert_int_equal(w.failures, 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	assert_int_equal(count_repositories(fx), 2 * PER_THREAD);
}

/* --- crashes and damage ----------------------------------------------------------------------- */

/* The child writes one name a transaction and reports each through a pipe once it is committed. */
static void what_was_reported_done_survives_a_kill(void **state)
{
	struct fx *fx = *state;
	int pipe_fd[2], status, last = -1, i;
	pid_t pid;

	assert_int_equal(pipe(pipe_fd), 0);
	pid = fork_closed(fx);
	if (pid == 0) {
		struct catalog *cat;

		if (catalog_open(fx->t.url, NULL, &cat, NULL))
			_exit(1);
		for (i = 0;; i++) {
			struct catalog_repository repo;
			char name[32];

			snprintf(name, sizeof(name), "r%d", i);
			name_repository(&repo, name);
			if (catalog_repository_create(cat, &repo, NULL) ||
			    write(pipe_fd[1], &i, sizeof(i)) != sizeof(i))
				_exit(1);
		}
	}
	close(pipe_fd[1]);
	while (last < 30 && read(pipe_fd[0], &i, sizeof(i)) == sizeof(i))
		last = i;
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	while (read(pipe_fd[0], &i, sizeof(i)) == sizeof(i))
		last = i;
	close(pipe_fd[0]);
	assert_true(last >= 30);
	for (i = 0; i <= last; i++) {
		struct catalog_repository repo;
		char name[32];

		snprintf(name, sizeof(name), "r%d", i);
		OK(catalog_repository_get_by_name(fx->cat, name, &repo, &err));
	}
	tmpdb_assert_sound(&fx->t);
}

static void a_row_this_program_never_wrote_is_damage_not_a_guess(void **state)
{
	struct fx *fx = *state;
	struct catalog_repository repo, *all;
	size_t n;

	fx_add_repository(fx, &repo, "main");
	if (tmpdb_on_mariadb())
		tmpdb_sql(&fx->t, "ALTER TABLE backup_repositories MODIFY name VARCHAR(400)");
	tmpdb_sql(&fx->t, "UPDATE backup_repositories SET name = '%0300d'", 0);
	EXPECT_TEXT(-EUCLEAN, "name", catalog_repository_get(fx->cat, repo.id, &repo, &err));
	EXPECT(-EUCLEAN, catalog_repositories_list(fx->cat, &all, &n, &err));
	tmpdb_sql(&fx->t, "UPDATE backup_repositories SET name = 'a' || char(0) || 'b'");
	EXPECT_TEXT(-EUCLEAN, "name", catalog_repository_get(fx->cat, repo.id, &repo, &err));
	tmpdb_force(&fx->t,
		    "UPDATE backup_repositories SET name = 'main', repository_type = 'tape'");
	EXPECT_TEXT(-EUCLEAN, "repository_type",
		    catalog_repository_get(fx->cat, repo.id, &repo, &err));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(urls_are_judged_without_opening_them),
		cmocka_unit_test(ids_are_unique_ordered_and_fit_for_the_agent),
		cmocka_unit_test(text_that_does_not_fit_is_refused_not_cut),
		FX_TEST(several_calls_commit_together),
		FX_TEST(several_calls_roll_back_together),
		FX_TEST(a_failed_call_inside_a_transaction_leaves_nothing_behind),
		FX_TEST(a_transaction_sees_its_own_changes_and_others_do_not),
		FX_TEST(a_success_leaves_no_error_behind),
		FX_TEST(a_lock_held_for_ever_ends_in_ebusy),
		FX_TEST(a_lock_let_go_after_several_timeouts_is_waited_out),
		FX_TEST(many_threads_share_few_connections),
		FX_TEST(two_programs_write_at_once),
		FX_TEST(what_was_reported_done_survives_a_kill),
		FX_TEST(a_row_this_program_never_wrote_is_damage_not_a_guess),
	};

	return tmpdb_run_tests("catalog/catalog", tests, NULL, NULL);
}
