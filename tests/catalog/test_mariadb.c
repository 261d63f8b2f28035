/*
 * What only a database server can do to a catalog: refuse a log-in, go away between two calls, in
 * the midst of one, or at its commit, and come back.
 */
#include "tests/catalog/fixture.h"

#include <errno.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catalog/db_mariadb.h"
#include "tests/support/dbproxy.h"

/* --- URLs ------------------------------------------------------------------------------------- */

static struct maria_url parsed(const char *rest)
{
	struct maria_url u;

	OK(maria_url_parse(rest, &u, &err));
	return u;
}

static void urls_say_where_and_as_whom(void **state)
{
	struct maria_url u = parsed("//hub@db.example:3307/sendense?timeout=5");

	(void)state;
	assert_string_equal(u.user, "hub");
	assert_string_equal(u.hosts[0].name, "db.example");
	assert_int_equal(u.hosts[0].port, 3307);
	assert_string_equal(u.name, "sendense");
	assert_int_equal(u.timeout_s, 5);
	assert_string_equal(u.socket, "");
	u = parsed("//h%40b@[fd00::1]/n%2Fm");
	assert_string_equal(u.user, "h@b");
	assert_string_equal(u.hosts[0].name, "fd00::1");
	assert_int_equal(u.hosts[0].port, 3306);
	assert_string_equal(u.name, "n/m");
	u = parsed("//hub@[::1]:1/n");
	assert_int_equal(u.hosts[0].port, 1);
	u = parsed("//hub@db1,db2:3307,[fd00::1]:3308/n");
	assert_int_equal(u.host_count, 3);
	assert_string_equal(u.hosts[0].name, "db1");
	assert_int_equal(u.hosts[0].port, 3306);
	assert_string_equal(u.hosts[1].name, "db2");
	assert_int_equal(u.hosts[1].port, 3307);
	assert_string_equal(u.hosts[2].name, "fd00::1");
	assert_int_equal(u.hosts[2].port, 3308);
	assert_string_equal(u.shown, "mariadb://hub@db1:3306,db2:3307,fd00::1:3308/n");
	u = parsed("//hub@/n?socket=/run/%6dysqld.sock&password-file=/etc/p%26w");
	assert_string_equal(u.socket, "/run/mysqld.sock");
	assert_string_equal(u.password_file, "/etc/p&w");
}

static void another_machine_is_spoken_to_in_private(void **state)
{
	(void)state;
	assert_int_equal(parsed("//hub@db.example/n").tls, MARIA_TLS_VERIFY);
	assert_int_equal(parsed("//hub@10.0.0.1/n").tls, MARIA_TLS_VERIFY);
	assert_int_equal(parsed("//hub@localhost/n").tls, MARIA_TLS_OFF);
	assert_int_equal(parsed("//hub@127.0.0.1:3306/n").tls, MARIA_TLS_OFF);
	assert_int_equal(parsed("//hub@[::1]/n").tls, MARIA_TLS_OFF);
	assert_int_equal(parsed("//hub@127.0.0.1:1,localhost:2/n").tls, MARIA_TLS_OFF);
	assert_int_equal(parsed("//hub@localhost,db.example/n").tls, MARIA_TLS_VERIFY);
	assert_int_equal(parsed("//hub@/n?socket=/x").tls, MARIA_TLS_OFF);
	assert_int_equal(parsed("//hub@db.example/n?tls=off").tls, MARIA_TLS_OFF);
	assert_int_equal(parsed("//hub@db.example/n?tls=on").tls, MARIA_TLS_ON);
	assert_int_equal(parsed("//hub@localhost/n?tls=verify&tls-ca=/ca.pem").tls,
			 MARIA_TLS_VERIFY);
}

static void urls_not_understood_are_refused(void **state)
{
	static const char *const bad[] = {
		"mariadb:",
		"mariadb:hub@h/n",
		"mariadb://h/n",
		"mariadb://@h/n",
		"mariadb://hub@h",
		"mariadb://hub@h/",
		"mariadb://hub@/n",
		"mariadb://hub@h:0/n",
		"mariadb://hub@h:65536/n",
		"mariadb://hub@h:x/n",
		"mariadb://hub@h:/n",
		"mariadb://hub@[::1/n",
		"mariadb://hub@[::1]x/n",
		"mariadb://hub@h,/n",
		"mariadb://hub@,h/n",
		"mariadb://hub@h,,h/n",
		"mariadb://hub@h,h:0/n",
		"mariadb://hub@a,b,c,d,e,f,g,h,i/n",
		"mariadb://hub@h/n?x=1",
		"mariadb://hub@h/n?socket",
		"mariadb://hub@h/n?socket=",
		"mariadb://hub@h/n?tls=maybe",
		"mariadb://hub@h/n?tls=off&tls-ca=/x",
		"mariadb://hub@localhost/n?tls-ca=/x",
		"mariadb://hub@h/n?timeout=0",
		"mariadb://hub@h/n?timeout=1s",
		"mariadb://hub%@h/n",
		"mariadb://hub%0@h/n",
		"mariadb://hub%00@h/n",
		"mariadb://hub%zz@h/n",
	};
	static const char *const parts[][2] = {{"mariadb://", "@h/n"},
					       {"mariadb://u@", "/n"},
					       {"mariadb://u@h/", ""},
					       {"mariadb://u@h/n?socket=", ""}};
	char long_url[2048];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (catalog_url_valid(bad[i], NULL))
			fail_msg("%s is accepted", bad[i]);
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		snprintf(long_url, sizeof(long_url), "%s%01500d%s", parts[i][0], 0, parts[i][1]);
		assert_false(catalog_url_valid(long_url, NULL));
	}
}

static void a_password_in_a_url_is_refused_and_not_repeated(void **state)
{
	static const char *const urls[] = {
		"mariadb://hub:opensesame@h/n", "mariadb://hub:opensesame@h",
		"mariadb://hub@h/n?password=opensesame", "mariadb://hub@h:opensesame/n",
		"mysql://hub:opensesame@h/n"};
	struct err err = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(urls); i++) {
		assert_false(catalog_url_valid(urls[i], &err));
		assert_int_equal(err.code, CATALOG_E_URL);
		assert_null(strstr(err.text, "opensesame"));
	}
	assert_false(catalog_url_valid(urls[0], &err));
	assert_non_null(strstr(err.text, "password-file="));
}

/* --- log-in ----------------------------------------------------------------------------------- */

static void write_password(const struct fx *fx, const char *text, mode_t mode)
{
	char path[300];
	FILE *f;

	snprintf(path, sizeof(path), "%s/password", fx->t.dir);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
	assert_int_equal(chmod(path, mode), 0);
}

static void make_user(const struct fx *fx, const char *extra)
{
	tmpdb_sql(&fx->t,
		  "CREATE OR REPLACE USER hub@localhost IDENTIFIED BY 'open sesame' %s;"
		  " GRANT ALL ON %s.* TO hub@localhost",
		  extra, fx->t.name);
}

static void log_in(struct fx *fx, int result, const char *text, const char *options)
{
	/* Nothing here is worth another attempt: this is the time there is for a connection. */
	const struct catalog_options patient = {.busy_timeout_ms = 30000};
	struct catalog *cat = NULL;
	char url[700];

	snprintf(url, sizeof(url), "mariadb://hub@localhost/%s?socket=%s%s", fx->t.name,
		 tmpdb_server()->sock, options);
	EXPECT_TEXT(result, text, catalog_open(url, &patient, &cat, &err));
	catalog_close(cat);
}

static void the_password_comes_from_a_file_or_the_environment(void **state)
{
	struct fx *fx = *state;
	char file[400], missing[400];

	make_user(fx, "");
	snprintf(file, sizeof(file), "&password-file=%s/password", fx->t.dir);
	snprintf(missing, sizeof(missing), "&password-file=%s/missing", fx->t.dir);
	log_in(fx, -EACCES, "Access denied for user 'hub'", "");
	log_in(fx, -ENOENT, "missing", missing);
	write_password(fx, "open sesame\n", 0600);
	log_in(fx, 0, "", file);
	write_password(fx, "open sesame\r\nsecond line\n", 0640);
	log_in(fx, 0, "", file);
	write_password(fx, "open sesame", 0644);
	log_in(fx, -EACCES, "chmod 600", file);
	write_password(fx, "wrong", 0600);
	log_in(fx, -EACCES, "Access denied", file);
	log_in(fx, -EINVAL, "not a regular file", "&password-file=/dev/null");

	setenv(MARIA_PASSWORD_ENV, "open sesame", 1);
	log_in(fx, 0, "", "");
	log_in(fx, -EACCES, "Access denied", file); /* the file goes before */
	setenv(MARIA_PASSWORD_ENV, "wrong", 1);
	log_in(fx, -EACCES, "Access denied", "");
	unsetenv(MARIA_PASSWORD_ENV);
	tmpdb_sql(&fx->t, "DROP USER hub@localhost");
}

static void sentences_name_the_database_and_no_secret(void **state)
{
	struct err e = ERR_INIT;
	struct catalog *cat;
	char url[700];

	(void)state;
	setenv(MARIA_PASSWORD_ENV, "opensesame", 1);
	snprintf(url, sizeof(url), "mariadb://root@localhost/nowhere?socket=%s",
		 tmpdb_server()->sock);
	assert_int_equal(catalog_open(url, NULL, &cat, &e), -EACCES);
	assert_non_null(strstr(e.text, "mariadb://root@localhost/nowhere"));
	assert_null(strstr(e.text, "opensesame"));
	unsetenv(MARIA_PASSWORD_ENV);
	EXPECT_TEXT(-ENOENT, "nowhere", catalog_open(url, NULL, &cat, &err));
}

/* --- a server that goes away ------------------------------------------------------------------ */

static int create(struct catalog *cat, const char *name, struct err *err)
{
	struct catalog_repository repo = {.enabled = true, .config = "{}"};

	CATALOG_TEXT(repo.name, name);
	return catalog_repository_create(cat, &repo, err);
}

static int64_t count_named(const struct fx *fx, const char *name)
{
	return tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_repositories WHERE name = '%s'",
			 name);
}

static void kill_connections(const struct fx *fx)
{
	char sql[4096] = "";
	MYSQL *h = mariadbd_connect(tmpdb_server(), fx->t.name);
	MYSQL_RES *res;
	MYSQL_ROW row;

	assert_int_equal(mysql_query(h, "SELECT id FROM information_schema.processlist"
					" WHERE db = DATABASE() AND id <> CONNECTION_ID()"),
			 0);
	res = mysql_store_result(h);
	while ((row = mysql_fetch_row(res))) {
		snprintf(sql, sizeof(sql), "KILL %s", row[0]);
		mysql_query(h, sql);
	}
	mysql_free_result(res);
	mysql_close(h);
}

static void a_statement_that_could_not_be_prepared_anew_is_prepared_later(void **state)
{
	struct fx *fx = *state;
	struct catalog_repository repo;

	fx_add_repository(fx, &repo, "main");
	OK(catalog_repository_get(fx->cat, repo.id, &repo, &err));
	kill_connections(fx);
	tmpdb_sql(&fx->t, "RENAME TABLE backup_repositories TO away");
	EXPECT_TEXT(-EIO, "backup_repositories",
		    catalog_repository_get(fx->cat, repo.id, &repo, &err));
	tmpdb_sql(&fx->t, "RENAME TABLE away TO backup_repositories");
	OK(catalog_repository_get(fx->cat, repo.id, &repo, &err));
	assert_string_equal(repo.name, "main");
}

static void a_connection_the_server_closed_is_made_anew(void **state)
{
	struct catalog_repository repo;
	struct fx *fx = *state;

	OK(create(fx->cat, "one", &err));
	kill_connections(fx);
	OK(catalog_repository_get_by_name(fx->cat, "one", &repo, &err));
	kill_connections(fx);
	OK(create(fx->cat, "two", &err));
	kill_connections(fx);
	EXPECT(CATALOG_E_EXISTS, create(fx->cat, "two", &err));
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_repositories"), 2);
}

static void a_server_killed_and_started_again_has_lost_nothing(void **state)
{
	struct catalog_repository repo;
	struct fx *fx = *state;

	OK(create(fx->cat, "one", &err));
	mariadbd_kill(tmpdb_server());
	mariadbd_start(tmpdb_server());
	OK(create(fx->cat, "two", &err));
	mariadbd_kill(tmpdb_server());
	mariadbd_start(tmpdb_server());
	OK(catalog_repository_get_by_name(fx->cat, "one", &repo, &err));
	OK(catalog_repository_get_by_name(fx->cat, "two", &repo, &err));
}

static void without_a_server_calls_fail_after_the_wait(void **state)
{
	const struct catalog_options quick = {.busy_timeout_ms = 2000};
	struct catalog_repository repo;
	struct fx *fx = *state;
	struct catalog *cat, *other;

	OK(catalog_open(fx->t.url, &quick, &cat, &err));
	OK(create(cat, "one", &err));
	mariadbd_kill(tmpdb_server());
	EXPECT_TEXT(-ENOTCONN, "cannot connect", create(cat, "two", &err));
	EXPECT_TEXT(-ENOTCONN, "cannot connect",
		    catalog_repository_get_by_name(cat, "one", &repo, &err));
	EXPECT(-ENOTCONN, catalog_open(fx->t.url, &quick, &other, &err));
	mariadbd_start(tmpdb_server());
	OK(create(cat, "two", &err));
	OK(catalog_repository_get_by_name(cat, "one", &repo, &err));
	catalog_close(cat);
}

static void *create_one(void *cat)
{
	struct catalog_repository repo;

	OK(catalog_repository_get_by_name(cat, "zero", &repo, &err));
	OK(create(cat, "one", &err));
	return NULL;
}

static void a_server_that_comes_back_in_time_is_waited_for(void **state)
{
	const struct catalog_options patient = {.busy_timeout_ms = 60000};
	struct fx *fx = *state;
	struct catalog *cat;
	pthread_t thread;

	OK(catalog_open(fx->t.url, &patient, &cat, &err));
	OK(create(cat, "zero", &err));
	mariadbd_kill(tmpdb_server());
	pthread_create(&thread, NULL, create_one, cat);
	usleep(300 * 1000);
	mariadbd_start(tmpdb_server());
	pthread_join(thread, NULL);
	assert_int_equal(count_named(fx, "one"), 1);
	catalog_close(cat);
}

struct interrupted {
	struct fx *fx;
	int runs;
};

static int write_twice(struct catalog *tx, void *arg, struct err *err)
{
	struct interrupted *i = arg;
	int r = create(tx, "one", err);

	if (!r && i->runs++ == 0)
		kill_connections(i->fx);
	return r ? r : create(tx, "two", err);
}

/* The function that made a call which failed may think what it likes of it. */
static int write_on(struct catalog *tx, void *arg, struct err *err)
{
	struct interrupted *i = arg;

	create(tx, "one", err);
	if (i->runs++ == 0)
		kill_connections(i->fx);
	create(tx, "two", NULL);
	create(tx, "three", NULL);
	return 0;
}

static void a_transaction_that_broke_is_run_again_whole(void **state)
{
	struct fx *fx = *state;
	struct interrupted i = {fx, 0};

	OK(catalog_tx(fx->cat, write_twice, &i, &err));
	assert_int_equal(i.runs, 2);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_repositories"), 2);
	tmpdb_sql(&fx->t, "DELETE FROM backup_repositories");
	i.runs = 0;
	OK(catalog_tx(fx->cat, write_on, &i, &err));
	assert_int_equal(i.runs, 2);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_repositories"), 3);
}

/* --- deadlock --------------------------------------------------------------------------------- */

struct deadlock {
	struct fx *fx;
	MYSQL *other;
	pthread_t thread;
	int runs, other_result;
};

static int set_size(struct catalog *tx, const char *name, struct err *err)
{
	struct catalog_repository repo;
	int r = catalog_repository_get_by_name(tx, name, &repo, err);

	return r ? r : catalog_repository_set_sizes(tx, repo.id, 3, 2, 1, err);
}

/* Waits for our transaction's lock on "one"... */
static void *other_side(void *arg)
{
	struct deadlock *d = arg;

	d->other_result = mysql_query(d->other, "UPDATE backup_repositories SET enabled = 0 WHERE"
						" name = 'one'") ||
			  mysql_query(d->other, "COMMIT");
	return NULL;
}

/* InnoDB shows a copy, which it renews only when nobody has looked for 100 ms. */
static void wait_until_it_waits(struct fx *fx)
{
	while (!tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM information_schema.innodb_lock_waits"))
		usleep(200 * 1000);
}

/* ...while we wait for its lock on "two". It has changed more than we, so it is we who are told. */
static int our_side(struct catalog *tx, void *arg, struct err *err)
{
	struct deadlock *d = arg;
	int r = set_size(tx, "one", err);

	if (!r && d->runs++ == 0) {
		pthread_create(&d->thread, NULL, other_side, d);
		wait_until_it_waits(d->fx);
	}
	return r ? r : set_size(tx, "two", err);
}

static void the_loser_of_a_deadlock_runs_again(void **state)
{
	struct fx *fx = *state;
	struct deadlock d = {.fx = fx};

	OK(create(fx->cat, "one", &err));
	OK(create(fx->cat, "two", &err));
	for (int i = 0; i < 20; i++) {
		char name[16];

		snprintf(name, sizeof(name), "more %d", i);
		OK(create(fx->cat, name, &err));
	}
	d.other = mariadbd_connect(tmpdb_server(), fx->t.name);
	/* Without this it would lock what it only looks at. */
	assert_int_equal(mysql_query(d.other, "SET SESSION TRANSACTION ISOLATION LEVEL READ"
					      " COMMITTED"),
			 0);
	assert_int_equal(mysql_query(d.other, "BEGIN"), 0);
	assert_int_equal(mysql_query(d.other, "UPDATE backup_repositories SET updated_at ="
					      " updated_at + 1 WHERE name <> 'one'"),
			 0);
	OK(catalog_tx(fx->cat, our_side, &d, &err));
	pthread_join(d.thread, NULL);
	assert_int_equal(d.other_result, 0);
	mysql_close(d.other);
	assert_int_equal(d.runs, 2);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_repositories WHERE"
					   " total_size_bytes = 3"),
			 2);
}

/* --- a commit whose answer is lost ------------------------------------------------------------ */

struct lossy {
	struct dbproxy *proxy;
	struct catalog *cat;
};

static struct lossy lossy_open(const struct fx *fx, unsigned int busy_timeout_ms)
{
	const struct catalog_options opt = {.busy_timeout_ms = busy_timeout_ms};
	struct lossy l;
	char sock[300], url[700];

	snprintf(sock, sizeof(sock), "%s/proxy", fx->t.dir);
	l.proxy = dbproxy_start(sock, tmpdb_server()->sock);
	snprintf(url, sizeof(url), "mariadb://root@localhost/%s?socket=%s", fx->t.name, sock);
	OK(catalog_open(url, &opt, &l.cat, &err));
	return l;
}

static void lossy_close(struct lossy *l)
{
	catalog_close(l->cat);
	dbproxy_stop(l->proxy);
}

static int count_runs(struct catalog *tx, void *arg, struct err *err)
{
	(*(int *)arg)++;
	return create(tx, "one", err);
}

static void a_commit_that_never_arrived_is_run_again(void **state)
{
	struct fx *fx = *state;
	struct lossy l = lossy_open(fx, 10000);
	int runs = 0;

	dbproxy_cut_at(l.proxy, "COMMIT", 1, DBPROXY_BEFORE, false);
	OK(catalog_tx(l.cat, count_runs, &runs, &err));
	assert_true(dbproxy_has_cut(l.proxy));
	assert_int_equal(runs, 2);
	assert_int_equal(count_named(fx, "one"), 1);
	lossy_close(&l);
}

static void a_commit_whose_answer_is_lost_is_found_done(void **state)
{
	struct fx *fx = *state;
	struct lossy l = lossy_open(fx, 10000);
	int runs = 0;

	dbproxy_cut_at(l.proxy, "COMMIT", 1, DBPROXY_AFTER, false);
	OK(catalog_tx(l.cat, count_runs, &runs, &err));
	assert_true(dbproxy_has_cut(l.proxy));
	assert_int_equal(runs, 1);
	assert_int_equal(count_named(fx, "one"), 1);
	OK(create(l.cat, "two", &err));
	lossy_close(&l);
}

static void a_commit_that_cannot_be_asked_about_is_called_unknown(void **state)
{
	struct fx *fx = *state;
	struct lossy l = lossy_open(fx, 2000);

	dbproxy_cut_at(l.proxy, "COMMIT", 1, DBPROXY_AFTER, true);
	EXPECT_TEXT(-ECONNABORTED, "not known", create(l.cat, "one", &err));
	assert_int_equal(count_named(fx, "one"), 1);
	dbproxy_refuse(l.proxy, false);
	EXPECT(CATALOG_E_EXISTS, create(l.cat, "one", &err));
	dbproxy_cut_at(l.proxy, "COMMIT", 1, DBPROXY_BEFORE, true);
	EXPECT_TEXT(-ECONNABORTED, "not known", create(l.cat, "two", &err));
	assert_int_equal(count_named(fx, "two"), 0);
	dbproxy_refuse(l.proxy, false);
	OK(create(l.cat, "two", &err));
	lossy_close(&l);
}

struct others {
	struct fx *fx;
	struct dbproxy *proxy;
	int n;
};

/* Others write between the lost answer and the question. */
static void *others_write(void *arg)
{
	struct others *o = arg;

	while (!dbproxy_has_cut(o->proxy))
		usleep(1000);
	for (int i = 0; i < o->n; i++) {
		char name[32];

		snprintf(name, sizeof(name), "other %d %d", o->n, i);
		OK(create(o->fx->cat, name, &err));
	}
	dbproxy_refuse(o->proxy, false);
	return NULL;
}

static int write_while_others_do(struct fx *fx, struct lossy *l, const char *name, int others,
				 enum dbproxy_cut when)
{
	struct others o = {fx, l->proxy, others};
	pthread_t thread;
	int r;

	dbproxy_cut_at(l->proxy, "COMMIT", 1, when, true);
	pthread_create(&thread, NULL, others_write, &o);
	r = create(l->cat, name, NULL);
	pthread_join(thread, NULL);
	return r;
}

static void a_ticket_is_remembered_for_a_while_and_no_longer(void **state)
{
	struct fx *fx = *state;
	struct lossy l = lossy_open(fx, 60000);

	assert_int_equal(write_while_others_do(fx, &l, "a", 60, DBPROXY_AFTER), 0);
	assert_int_equal(count_named(fx, "a"), 1);
	assert_int_equal(write_while_others_do(fx, &l, "b", 61, DBPROXY_BEFORE), 0);
	assert_int_equal(count_named(fx, "b"), 1);
	assert_int_equal(write_while_others_do(fx, &l, "c", 70, DBPROXY_AFTER), -ECONNABORTED);
	assert_int_equal(count_named(fx, "c"), 1);
	assert_int_equal(write_while_others_do(fx, &l, "d", 71, DBPROXY_BEFORE), -ECONNABORTED);
	assert_int_equal(count_named(fx, "d"), 0);
	lossy_close(&l);
}

/* --- load ------------------------------------------------------------------------------------- */

#define WRITERS	  12
#define KILLS	  3
#define NAME_SIZE 32

struct writer {
	pthread_t thread;
	struct catalog *cat;
	int number, done, failed, unknown;
	bool *stop;
	int *results; /* one a name */
	int cap;
};

static void *write_on_and_on(void *arg)
{
	struct writer *w = arg;

	while (!__atomic_load_n(w->stop, __ATOMIC_RELAXED) && w->done < w->cap) {
		struct catalog_repository *all;
		char name[NAME_SIZE];
		size_t n;
		int r;

		snprintf(name, sizeof(name), "w%d %d", w->number, w->done);
		r = create(w->cat, name, NULL);
		w->results[w->done] = r;
		w->failed += r != 0 && r != -ECONNABORTED;
		w->unknown += r == -ECONNABORTED;
		__atomic_store_n(&w->done, w->done + 1, __ATOMIC_RELAXED);
		if (w->done % 16 == 0 && !catalog_repositories_list(w->cat, &all, &n, NULL))
			free(all);
	}
	return NULL;
}

static int writes_done(const struct writer *w)
{
	int n = 0;

	for (int i = 0; i < WRITERS; i++)
		n += __atomic_load_n(&w[i].done, __ATOMIC_RELAXED);
	return n;
}

static void wait_for_writes(const struct writer *w, int more)
{
	const int until = writes_done(w) + more;

	while (writes_done(w) < until)
		usleep(1000);
}

static void check_writes(struct fx *fx, const struct writer *w)
{
	for (int i = 0; i < w->done; i++) {
		char name[NAME_SIZE];
		struct catalog_repository repo;
		int there;

		snprintf(name, sizeof(name), "w%d %d", w->number, i);
		there = catalog_repository_get_by_name(fx->cat, name, &repo, NULL);
		assert_true(there == 0 || there == CATALOG_E_NOT_FOUND);
		if (w->results[i] != -ECONNABORTED && (w->results[i] == 0) != (there == 0))
			fail_msg("%s: the write gave %d, the look %d", name, w->results[i], there);
	}
}

static void a_server_killed_under_load_loses_nothing_that_was_reported(void **state)
{
	const struct catalog_options patient = {.busy_timeout_ms = 60000};
	struct fx *fx = *state;
	struct writer w[WRITERS] = {0};
	struct catalog *cat;
	bool stop = false;
	int total = 0;

	OK(catalog_open(fx->t.url, &patient, &cat, &err));
	for (int i = 0; i < WRITERS; i++) {
		w[i] = (struct writer){.cat = cat, .number = i, .stop = &stop, .cap = 5000};
		w[i].results = calloc((size_t)w[i].cap, sizeof(int));
		assert_int_equal(pthread_create(&w[i].thread, NULL, write_on_and_on, &w[i]), 0);
	}
	for (int i = 0; i < KILLS; i++) {
		wait_for_writes(w, 100);
		assert_in_range(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM"
						  " information_schema.processlist WHERE db ="
						  " DATABASE() AND id <> CONNECTION_ID()"),
				1, 9); /* eight of ours, one of the fixture's */
		mariadbd_kill(tmpdb_server());
		mariadbd_start(tmpdb_server());
	}
	wait_for_writes(w, 100);
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (int i = 0; i < WRITERS; i++) {
		pthread_join(w[i].thread, NULL);
		assert_int_equal(w[i].failed, 0);
		assert_int_equal(w[i].unknown, 0);
		check_writes(fx, &w[i]);
		total += w[i].done;
		free(w[i].results);
	}
	catalog_close(cat);
	tmpdb_assert_sound(&fx->t);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_repositories"), total);
	print_message("%d writes, %d kills\n", total, KILLS);
}

/* --- TLS -------------------------------------------------------------------------------------- */

/* A server reached by TCP, with certificates for "localhost" and for nobody else. */
static struct mariadbd tls_server;

static void shell(const char *command)
{
	if (system(command))
		fail_msg("failed: %s", command);
}

static int tls_setup(void **state)
{
	static const char *const users[] = {"CREATE DATABASE tls", "CREATE USER plain",
					    "CREATE USER crypt REQUIRE SSL",
					    "CREATE USER cert REQUIRE SUBJECT '/CN=hub'",
					    "GRANT ALL ON tls.* TO plain, crypt, cert"};
	static char ca[300], cert[300], key[300];
	static const char script[] =
		"set -e; exec >openssl.log 2>&1\n"
		"ca() { openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=$1 -keyout "
		"$1.key"
		" -out $1.pem; }\n"
		"leaf() { openssl req -newkey rsa:2048 -nodes -subj /CN=$1 -keyout $1.key -out "
		"$1.csr;"
		" printf 'subjectAltName=DNS:%s' $1 >ext;"
		" openssl x509 -req -days 2 -in $1.csr -CA ca.pem -CAkey ca.key -CAcreateserial"
		" -extfile ext -out $1.pem; }\n"
		"ca ca; ca stranger; leaf localhost; leaf hub\n";
	char command[1024];
	MYSQL *h;

	(void)state;
	mariadbd_init(&tls_server, 1);
	snprintf(command, sizeof(command), "cd '%s' && sh -c \"$SCRIPT\"", tls_server.dir);
	setenv("SCRIPT", script, 1);
	shell(command);
	unsetenv("SCRIPT");
	snprintf(ca, sizeof(ca), "--ssl-ca=%s/ca.pem", tls_server.dir);
	snprintf(cert, sizeof(cert), "--ssl-cert=%s/localhost.pem", tls_server.dir);
	snprintf(key, sizeof(key), "--ssl-key=%s/localhost.key", tls_server.dir);
	tls_server.options[0] = ca;
	tls_server.options[1] = cert;
	tls_server.options[2] = key;
	mariadbd_start(&tls_server);
	h = mariadbd_connect(&tls_server, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(users); i++)
		if (mysql_query(h, users[i]))
			fail_msg("%s", mysql_error(h));
	mysql_close(h);
	return 0;
}

static int tls_teardown(void **state)
{
	(void)state;
	mariadbd_deinit(&tls_server);
	return 0;
}

/* In @options a space stands for "&", and "~" for the server's folder. */
static void tls_open(const char *who_where, const char *options, int result, const char *text)
{
	const struct catalog_options patient = {.busy_timeout_ms = 30000};
	struct catalog *cat = NULL;
	char url[2048];
	int n = snprintf(url, sizeof(url), "mariadb://%s:%u/tls?", who_where, tls_server.port);

	for (const char *p = options; *p; p++)
		n += snprintf(url + n, sizeof(url) - (size_t)n, *p == '~' ? "%s" : "%.1s",
			      *p == '~'	  ? tls_server.dir
			      : *p == ' ' ? "&"
					  : p);
	EXPECT_TEXT(result, text, catalog_open(url, &patient, &cat, &err));
	catalog_close(cat);
}

static void a_connection_is_encrypted_when_asked_for(void **state)
{
	(void)state;
	tls_open("plain@localhost", "timeout=30", 0, "");
	tls_open("crypt@localhost", "timeout=30", -EACCES, "Access denied");
	tls_open("crypt@localhost", "tls=on", 0, "");
	tls_open("crypt@127.0.0.1", "tls=on", 0, "");
}

static void the_servers_certificate_is_verified_when_asked_for(void **state)
{
	(void)state;
	tls_open("crypt@localhost", "tls=verify tls-ca=~/ca.pem", 0, "");
	tls_open("crypt@localhost", "tls=verify tls-ca=~/stranger.pem", -EPROTO, "TLS");
	tls_open("crypt@localhost", "tls=verify", -EPROTO, "TLS");
	tls_open("crypt@127.0.0.1", "tls=verify tls-ca=~/ca.pem", -EPROTO, "TLS");
	tls_open("crypt@localhost", "tls=verify tls-ca=~/missing.pem", -EPROTO, "TLS");
}

static void a_certificate_of_our_own_is_shown(void **state)
{
	(void)state;
	tls_open("cert@localhost", "tls=verify tls-ca=~/ca.pem", -EACCES, "Access denied");
	tls_open("cert@localhost",
		 "tls=verify tls-ca=~/ca.pem tls-cert=~/hub.pem tls-key=~/hub.key", 0, "");
}

/* Encryption asked for is never given up silently. */
static void a_server_without_tls_is_refused_where_tls_is_asked_for(void **state)
{
	const struct catalog_options patient = {.busy_timeout_ms = 30000};
	struct fx *fx = *state;
	struct catalog *cat = NULL;
	char url[800];

	snprintf(url, sizeof(url), "%s&tls=on", fx->t.url);
	EXPECT_TEXT(-EPROTO, "TLS", catalog_open(url, &patient, &cat, &err));
	snprintf(url, sizeof(url), "%s&tls=verify", fx->t.url);
	EXPECT_TEXT(-EPROTO, "TLS", catalog_open(url, &patient, &cat, &err));
}

int main(void)
{
	const struct CMUnitTest url_tests[] = {
		cmocka_unit_test(urls_say_where_and_as_whom),
		cmocka_unit_test(another_machine_is_spoken_to_in_private),
		cmocka_unit_test(urls_not_understood_are_refused),
		cmocka_unit_test(a_password_in_a_url_is_refused_and_not_repeated),
	};
	const struct CMUnitTest tests[] = {
		FX_TEST(the_password_comes_from_a_file_or_the_environment),
		FX_TEST(sentences_name_the_database_and_no_secret),
		FX_TEST(a_server_without_tls_is_refused_where_tls_is_asked_for),
		FX_TEST(a_connection_the_server_closed_is_made_anew),
		FX_TEST(a_statement_that_could_not_be_prepared_anew_is_prepared_later),
		FX_TEST(a_server_killed_and_started_again_has_lost_nothing),
		FX_TEST(without_a_server_calls_fail_after_the_wait),
		FX_TEST(a_server_that_comes_back_in_time_is_waited_for),
		FX_TEST(a_transaction_that_broke_is_run_again_whole),
		FX_TEST(the_loser_of_a_deadlock_runs_again),
		FX_TEST(a_commit_that_never_arrived_is_run_again),
		FX_TEST(a_commit_whose_answer_is_lost_is_found_done),
		FX_TEST(a_commit_that_cannot_be_asked_about_is_called_unknown),
		FX_TEST(a_ticket_is_remembered_for_a_while_and_no_longer),
		FX_TEST(a_server_killed_under_load_loses_nothing_that_was_reported),
	};

	const struct CMUnitTest tls_tests[] = {
		cmocka_unit_test(a_connection_is_encrypted_when_asked_for),
		cmocka_unit_test(the_servers_certificate_is_verified_when_asked_for),
		cmocka_unit_test(a_certificate_of_our_own_is_shown),
	};

	return cmocka_run_group_tests_name("catalog/mariadb urls", url_tests, NULL, NULL) +
	       cmocka_run_group_tests_name("catalog/mariadb tls", tls_tests, tls_setup,
					   tls_teardown) +
	       tmpdb_run_tests_on("mariadb", "catalog/mariadb", tests, NULL, NULL);
}
