#include "tests/catalog/fixture.h"

#include <errno.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "catalog/db.h"

struct box {
	struct tmpdb t;
	struct db *db;
};

static int setup(void **state)
{
	struct box *b = calloc(1, sizeof(*b));

	tmpdb_init(&b->t);
	OK(db_open(b->t.url, 200, &b->db, &err));
	OK(db_script(b->db,
		     "CREATE TABLE a (id $AUTO_ID, name VARCHAR(500), n BIGINT CHECK (n >= 0),"
		     " CONSTRAINT uk UNIQUE (name)) $OPTIONS;\n"
		     "CREATE TABLE b (a_id BIGINT, long_text MEDIUMTEXT, CONSTRAINT fk FOREIGN KEY"
		     " (a_id) REFERENCES a (id) ON DELETE RESTRICT) $OPTIONS;\n",
		     &err));
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct box *b = *state;

	db_close(b->db);
	tmpdb_deinit(&b->t);
	free(b);
	return 0;
}

#define DB_TEST(f)    cmocka_unit_test_setup_teardown(f, setup, teardown)
#define RUN(sql, ...) db_run(b->db, sql, DB_ARGS(__VA_ARGS__), NULL, &err)

static void a_step_tells_row_end_and_failure_apart(void **state)
{
	struct box *b = *state;
	struct db_stmt *st;

	OK(RUN("INSERT INTO a (id, name) VALUES (?, ?)", DB_I64(1), DB_TEXT("x")));
	OK(db_query(b->db, "SELECT name FROM a WHERE id = ?", DB_ARGS(DB_I64(1)), &st, &err));
	EXPECT(DB_ROW, db_step(st, &err));
	assert_string_equal(db_col_text(st, 0, NULL), "x");
	EXPECT(DB_DONE, db_step(st, &err));
	db_release(st);
	OK(db_query(b->db, "SELECT name FROM a WHERE id = ?", DB_ARGS(DB_I64(2)), &st, &err));
	EXPECT(DB_DONE, db_step(st, &err));
	db_release(st);
	OK(db_query(b->db, "INSERT INTO a (id) VALUES (?)", DB_ARGS(DB_I64(1)), &st, &err));
	EXPECT(DB_E_UNIQUE, db_step(st, &err));
	db_release(st);
	EXPECT_TEXT(-EIO, tmpdb_either("no such table", "doesn't exist"),
		    db_run(b->db, "SELECT * FROM nowhere", DB_NO_ARGS, NULL, &err));
}

static void broken_constraints_have_names(void **state)
{
	struct box *b = *state;

	OK(RUN("INSERT INTO a (id, name) VALUES (1, ?)", DB_TEXT("x")));
	EXPECT(DB_E_UNIQUE, RUN("INSERT INTO a (id, name) VALUES (2, ?)", DB_TEXT("x")));
	EXPECT(DB_E_CHECK, RUN("INSERT INTO a (id, n) VALUES (3, ?)", DB_I64(-1)));
	EXPECT(DB_E_FOREIGN, RUN("INSERT INTO b (a_id) VALUES (?)", DB_I64(77)));
	OK(RUN("INSERT INTO b (a_id) VALUES (?)", DB_I64(1)));
	EXPECT(DB_E_FOREIGN, RUN("DELETE FROM a WHERE id = ?", DB_I64(1)));
}

static void what_the_schema_does_not_allow_is_refused_not_bent(void **state)
{
	struct box *b = *state;

	OK(db_script(b->db, "CREATE TABLE c (word VARCHAR(3) NOT NULL, n INT) $OPTIONS;\n", &err));
	EXPECT(DB_E_CHECK, RUN("INSERT INTO c (word) VALUES (?)", DB_NULL));
	if (!tmpdb_on_mariadb())
		return; /* SQLite knows no lengths and no sizes: the row structs bound both */
	EXPECT(DB_E_CHECK, RUN("INSERT INTO c (word) VALUES (?)", DB_TEXT("four")));
	EXPECT(DB_E_CHECK, RUN("INSERT INTO c (word, n) VALUES ('x', ?)", DB_I64(1LL << 40)));
	EXPECT(DB_E_CHECK, RUN("INSERT INTO c (word) VALUES (?)", DB_TEXT("\xff")));
	EXPECT(DB_E_CHECK, RUN("INSERT INTO c (n) VALUES (?)", DB_I64(1)));
}

static void a_triggers_refusal_is_not_taken_for_a_foreign_key(void **state)
{
	struct box *b = *state;

	tmpdb_add_fault(&b->t, "a", false);
	tmpdb_arm(&b->t, 1);
	EXPECT_TEXT(-EIO, "injected", RUN("INSERT INTO a (id) VALUES (?)", DB_I64(1)));
}

static void values_of_all_types_come_back_as_they_went(void **state)
{
	struct box *b = *state;
	struct db_stmt *st;
	size_t len;

	OK(RUN("INSERT INTO a (id, name, n) VALUES (?, ?, ?)", DB_I64(1),
	       DB_TEXT("\xc3\xa4 / 'quoted' \"x\" \x7f"), DB_I64(INT64_MAX)));
	OK(RUN("INSERT INTO a (id, name, n) VALUES (?, ?, ?)", DB_I64(INT64_MIN), DB_OPT(""),
	       DB_NULL));
	OK(db_query(b->db, "SELECT name, n FROM a ORDER BY id DESC", DB_NO_ARGS, &st, &err));
	EXPECT(DB_ROW, db_step(st, &err));
	assert_string_equal(db_col_text(st, 0, &len), "\xc3\xa4 / 'quoted' \"x\" \x7f");
	assert_int_equal(len, strlen("\xc3\xa4 / 'quoted' \"x\" \x7f"));
	assert_true(db_col_i64(st, 1) == INT64_MAX);
	EXPECT(DB_ROW, db_step(st, &err));
	assert_true(db_is_null(st, 0) && db_is_null(st, 1));
	db_release(st);
}

static void texts_are_compared_byte_by_byte(void **state)
{
	static const char *const alike[] = {"x",	"X",	     "x ",	"x  ",
					    "\xc3\xa4", "a\xcc\x88", "\xc3\x84"};
	struct box *b = *state;
	int64_t n;

	for (size_t i = 0; i < ARRAY_SIZE(alike); i++)
		OK(RUN("INSERT INTO a (name) VALUES (?)", DB_TEXT(alike[i])));
	for (size_t i = 0; i < ARRAY_SIZE(alike); i++) {
		OK(db_query_i64(b->db, "SELECT COUNT(*) FROM a WHERE name = ?",
				DB_ARGS(DB_TEXT(alike[i])), 0, &n, &err));
		assert_int_equal(n, 1);
	}
	OK(db_query_i64(b->db, "SELECT COUNT(*) FROM a WHERE name = 'X' OR name = 'x '", DB_NO_ARGS,
			0, &n, &err));
	assert_int_equal(n, 2);
	OK(db_query_i64(b->db, "SELECT id FROM a ORDER BY name LIMIT 1", DB_NO_ARGS, 0, &n, &err));
	assert_int_equal(n, 2);
}

static void a_backslash_and_two_bars_mean_the_same_everywhere(void **state)
{
	struct box *b = *state;
	struct db_stmt *st;

	OK(db_query(b->db, "SELECT 'a\\nb' || '%' || ?", DB_ARGS(DB_TEXT("c\\")), &st, &err));
	EXPECT(DB_ROW, db_step(st, &err));
	assert_string_equal(db_col_text(st, 0, NULL), "a\\nb%c\\");
	db_release(st);
}

static void texts_of_any_length_come_back_whole(void **state)
{
	static char text[300000];
	struct box *b = *state;
	struct db_stmt *st;
	size_t len;

	for (size_t i = 0; i < sizeof(text) - 1; i++)
		text[i] = (char)('a' + i % 26);
	OK(RUN("INSERT INTO b (a_id, long_text) VALUES (NULL, ?), (NULL, 'short')",
	       DB_TEXT(text + 100)));
	OK(RUN("INSERT INTO b (a_id, long_text) VALUES (NULL, ?)", DB_TEXT(text)));
	OK(db_query(b->db, "SELECT long_text FROM b ORDER BY LENGTH(long_text)", DB_NO_ARGS, &st,
		    &err));
	EXPECT(DB_ROW, db_step(st, &err));
	assert_string_equal(db_col_text(st, 0, NULL), "short");
	EXPECT(DB_ROW, db_step(st, &err));
	assert_true(!strcmp(db_col_text(st, 0, &len), text + 100));
	assert_int_equal(len, sizeof(text) - 101);
	EXPECT(DB_ROW, db_step(st, &err));
	assert_true(!strcmp(db_col_text(st, 0, &len), text));
	assert_int_equal(len, sizeof(text) - 1);
	EXPECT(DB_DONE, db_step(st, &err));
	db_release(st);
}

static void numbers_and_texts_are_read_as_either(void **state)
{
	struct box *b = *state;
	struct db_stmt *st;
	size_t len;

	OK(RUN("INSERT INTO a (id, name) VALUES (?, '42')", DB_I64(-7)));
	OK(db_query(b->db, "SELECT id, name, SUM(id), COUNT(*), NULL FROM a GROUP BY id, name",
		    DB_NO_ARGS, &st, &err));
	EXPECT(DB_ROW, db_step(st, &err));
	assert_string_equal(db_col_text(st, 0, &len), "-7");
	assert_int_equal(len, 2);
	assert_int_equal(db_col_i64(st, 1), 42);
	assert_int_equal(db_col_i64(st, 2), -7);
	assert_int_equal(db_col_i64(st, 3), 1);
	assert_true(db_is_null(st, 4));
	assert_null(db_col_text(st, 4, &len));
	assert_int_equal(db_col_i64(st, 4), 0);
	db_release(st);
}

static void a_statement_can_be_walked_twice_at_once(void **state)
{
	static const char sql[] = "SELECT id FROM a ORDER BY id";
	struct box *b = *state;
	struct db_stmt *one, *two;

	OK(RUN("INSERT INTO a (id) VALUES (?), (2)", DB_I64(1)));
	OK(db_query(b->db, sql, DB_NO_ARGS, &one, &err));
	EXPECT(DB_ROW, db_step(one, &err));
	OK(db_query(b->db, sql, DB_NO_ARGS, &two, &err));
	EXPECT(DB_ROW, db_step(two, &err));
	assert_int_equal(db_col_i64(two, 0), 1);
	EXPECT(DB_ROW, db_step(one, &err));
	assert_int_equal(db_col_i64(one, 0), 2);
	db_release(two);
	db_release(one);
}

static void the_statement_cache_is_bounded(void **state)
{
	struct box *b = *state;

	for (int i = 0; i < 1000; i++) {
		char sql[64];
		int64_t v;

		snprintf(sql, sizeof(sql), "SELECT %d", i);
		OK(db_query_i64(b->db, sql, DB_NO_ARGS, -1, &v, &err));
		assert_int_equal(v, i);
	}
	if (tmpdb_on_mariadb())
		assert_in_range(strtoll(tmpdb_text(&b->t, "SELECT variable_value FROM"
							  " information_schema.global_status WHERE"
							  " variable_name = 'Prepared_stmt_count'"),
					NULL, 10),
				1, 200);
	else
		assert_in_range(sqlite3_memory_used(), 0, 8 * MIB);
}

static void changes_count_matched_rows_and_ids_are_told(void **state)
{
	struct box *b = *state;
	int64_t n;

	OK(RUN("INSERT INTO a (name) VALUES (?)", DB_TEXT("x")));
	assert_int_equal(db_insert_id(b->db), 1);
	OK(db_run(b->db, "UPDATE a SET name = ?", DB_ARGS(DB_TEXT("x")), &n, &err));
	assert_int_equal(n, 1);
	OK(db_run(b->db, "DELETE FROM a WHERE id = ?", DB_ARGS(DB_I64(9)), &n, &err));
	assert_int_equal(n, 0);
}

static void a_savepoint_undoes_its_own_part_only(void **state)
{
	struct box *b = *state;
	int64_t n;

	OK(db_begin(b->db, &err));
	OK(RUN("INSERT INTO a (id) VALUES (?)", DB_I64(1)));
	OK(db_savepoint(b->db, &err));
	OK(RUN("INSERT INTO a (id) VALUES (?)", DB_I64(2)));
	OK(db_savepoint(b->db, &err));
	OK(RUN("INSERT INTO a (id) VALUES (?)", DB_I64(3)));
	OK(db_savepoint_release(b->db, &err));
	db_savepoint_rollback(b->db);
	OK(db_savepoint(b->db, &err));
	OK(RUN("INSERT INTO a (id) VALUES (?)", DB_I64(4)));
	OK(db_savepoint_release(b->db, &err));
	OK(db_commit(b->db, &err));
	OK(db_query_i64(b->db, "SELECT SUM(id) FROM a", DB_NO_ARGS, 0, &n, &err));
	assert_int_equal(n, 5);
}

/* What the database has ended by itself must not go on statement by statement. */
static void nothing_slips_out_of_a_transaction_that_is_gone(void **state)
{
	const int gone = tmpdb_either(-EIO, DB_E_BUSY);
	struct box *b = *state;
	int64_t n;

	tmpdb_add_fault(&b->t, "a", true);
	tmpdb_arm(&b->t, 2);
	OK(db_begin(b->db, &err));
	OK(RUN("INSERT INTO a (id) VALUES (?)", DB_I64(1)));
	EXPECT(gone, RUN("INSERT INTO a (id) VALUES (?)", DB_I64(2)));
	EXPECT(gone, RUN("INSERT INTO a (id) VALUES (?)", DB_I64(3)));
	EXPECT(gone, RUN("INSERT INTO a (id) VALUES (4)", DB_NULL));
	EXPECT(gone, db_script(b->db, "INSERT INTO a (id) VALUES (5);\n", &err));
	EXPECT(gone, db_savepoint(b->db, &err));
	EXPECT(gone, db_query_i64(b->db, "SELECT COUNT(*) FROM a", DB_NO_ARGS, 0, &n, &err));
	EXPECT(gone, db_commit(b->db, &err));
	db_rollback(b->db);
	tmpdb_arm(&b->t, 0);
	OK(db_query_i64(b->db, "SELECT COUNT(*) FROM a", DB_NO_ARGS, 0, &n, &err));
	assert_int_equal(n, 0);
	OK(db_begin(b->db, &err));
	OK(RUN("INSERT INTO a (id) VALUES (?)", DB_I64(6)));
	OK(db_commit(b->db, &err));
	assert_int_equal(tmpdb_i64(&b->t, "SELECT SUM(id) FROM a"), 6);
}

static void a_second_writer_is_told_busy_after_the_timeout(void **state)
{
	struct box *b = *state;
	struct db *other;

	OK(db_open(b->t.url, 50, &other, &err));
	OK(db_begin(b->db, &err));
	EXPECT(DB_E_BUSY, db_begin(other, &err));
	OK(db_commit(b->db, &err));
	OK(db_begin(other, &err));
	db_rollback(other);
	db_rollback(other);
	db_close(other);
}

static void a_reader_does_not_wait_for_the_writer(void **state)
{
	struct box *b = *state;
	struct db *other;
	int64_t n;

	OK(db_open(b->t.url, 50, &other, &err));
	OK(db_begin(b->db, &err));
	OK(RUN("INSERT INTO a (id) VALUES (?)", DB_I64(1)));
	OK(db_query_i64(other, "SELECT COUNT(*) FROM a", DB_NO_ARGS, 0, &n, &err));
	assert_int_equal(n, 0);
	OK(db_commit(b->db, &err));
	OK(db_query_i64(other, "SELECT COUNT(*) FROM a", DB_NO_ARGS, 0, &n, &err));
	assert_int_equal(n, 1);
	db_close(other);
}

static void the_file_is_private_durable_and_checks_foreign_keys(void **state)
{
	static const char *const files[] = {"", "-wal", "-shm"};
	struct box *b = *state;
	int64_t v;

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		char path[400];
		struct stat st;

		snprintf(path, sizeof(path), "%s%s", b->t.path, files[i]);
		assert_int_equal(stat(path, &st), 0);
		assert_int_equal(st.st_mode & 0777, 0600);
	}
	OK(db_query_i64(b->db, "PRAGMA synchronous", DB_NO_ARGS, -1, &v, &err));
	assert_int_equal(v, 2);
	OK(db_query_i64(b->db, "PRAGMA foreign_keys", DB_NO_ARGS, -1, &v, &err));
	assert_int_equal(v, 1);
	assert_string_equal(tmpdb_text(&b->t, "PRAGMA journal_mode"), "wal");
}

static void urls_of_other_databases_are_refused_by_name(void **state)
{
	struct db *db = NULL;

	(void)state;
	EXPECT_TEXT(-EINVAL, "\"postgres\" is not supported",
		    db_open("postgres://u@h/x", 100, &db, &err));
	EXPECT_TEXT(-EINVAL, "sqlite:PATH", db_open("/var/lib/x.db", 100, &db, &err));
	EXPECT(-EINVAL, db_open("sqlite:", 100, &db, &err));
	EXPECT(-EINVAL, db_open("", 100, &db, &err));
	EXPECT(-EINVAL, db_open(NULL, 100, &db, &err));
	EXPECT(-EINVAL, db_open("sqlit:x", 100, &db, &err));
	EXPECT(-EINVAL, db_open("sqlite3:x", 100, &db, &err));
	assert_null(db);
}

static void paths_that_cannot_be_a_database_are_refused(void **state)
{
	struct box *b = *state;
	struct db *db = NULL;
	char url[400];
	FILE *f;

	snprintf(url, sizeof(url), "sqlite:%s", b->t.dir);
	EXPECT(-EINVAL, db_open(url, 100, &db, &err));
	snprintf(url, sizeof(url), "sqlite:%s/no/such/dir.db", b->t.dir);
	EXPECT_TEXT(-ENOENT, "no/such/dir.db", db_open(url, 100, &db, &err));
	EXPECT_TEXT(-EINVAL, "regular", db_open("sqlite:/dev/null", 100, &db, &err));
	snprintf(url, sizeof(url), "sqlite:%s/text", b->t.dir);
	f = fopen(url + 7, "w");
	for (int i = 0; i < 1000; i++)
		fputs("this is no database\n", f);
	fclose(f);
	EXPECT(-EUCLEAN, db_open(url, 100, &db, &err));
	assert_null(db);
}

/* A limit on the file's size looks to SQLite like a full disk. */
static void a_full_disk_is_named_and_leaves_the_database_usable(void **state)
{
	static char big[65536];
	struct box *b = *state;
	struct rlimit old, small;
	int64_t n;
	int r = 0;

	memset(big, 'x', sizeof(big) - 1);
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &old);
	small = (struct rlimit){512 * KIB, old.rlim_max};
	setrlimit(RLIMIT_FSIZE, &small);
	for (int i = 0; !r && i < 100; i++) {
		big[0] = (char)('0' + i);
		r = db_run(b->db, "INSERT INTO a (name) VALUES (?)", DB_ARGS(DB_TEXT(big)), NULL,
			   NULL);
	}
	setrlimit(RLIMIT_FSIZE, &old);
	assert_true(r == -EIO || r == -ENOSPC);
	OK(RUN("INSERT INTO a (id, name) VALUES (?, 'fits')", DB_I64(1000)));
	OK(db_query_i64(b->db, "SELECT id FROM a WHERE name = 'fits'", DB_NO_ARGS, 0, &n, &err));
	assert_int_equal(n, 1000);
	assert_string_equal(tmpdb_text(&b->t, "PRAGMA integrity_check"), "ok");
}

/* Another program: opens the file, looks, and closes it. */
static int look(const char *path)
{
	sqlite3 *h;
	int r = sqlite3_open_v2(path, &h, SQLITE_OPEN_READWRITE, NULL);

	if (!r)
		r = sqlite3_exec(h, "SELECT COUNT(*) FROM a", NULL, NULL, NULL);
	sqlite3_close(h);
	return r;
}

static void another_program_looks(const char *path)
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (!pid) {
		execl("/proc/self/exe", "test_db", "--look", path, NULL);
		_exit(127);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* Who closes a database last removes its log. Locks say who is there, and a process that closes a
 * file loses all locks it has on it, whatever it opened the file for. */
static void another_program_that_looks_leaves_the_log_alone(void **state)
{
	struct box *b = *state;
	struct db *second;
	char wal[sizeof(b->t.path) + 8];

	OK(RUN("INSERT INTO a (name) VALUES ('one')"));
	OK(db_open(b->t.url, 200, &second, &err)); /* as a pool does, when it needs one more */
	OK(RUN("INSERT INTO a (name) VALUES ('two')"));
	another_program_looks(b->t.path);
	snprintf(wal, sizeof(wal), "%s-wal", b->t.path);
	assert_int_equal(access(wal, F_OK), 0);
	OK(RUN("INSERT INTO a (name) VALUES ('three')"));
	db_close(second);
	db_close(b->db);
	OK(db_open(b->t.url, 200, &b->db, &err));
	assert_int_equal(tmpdb_i64(&b->t, "SELECT COUNT(*) FROM a"), 3);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		DB_TEST(a_step_tells_row_end_and_failure_apart),
		DB_TEST(broken_constraints_have_names),
		DB_TEST(what_the_schema_does_not_allow_is_refused_not_bent),
		DB_TEST(a_triggers_refusal_is_not_taken_for_a_foreign_key),
		DB_TEST(values_of_all_types_come_back_as_they_went),
		DB_TEST(texts_are_compared_byte_by_byte),
		DB_TEST(a_backslash_and_two_bars_mean_the_same_everywhere),
		DB_TEST(texts_of_any_length_come_back_whole),
		DB_TEST(numbers_and_texts_are_read_as_either),
		DB_TEST(a_statement_can_be_walked_twice_at_once),
		DB_TEST(the_statement_cache_is_bounded),
		DB_TEST(changes_count_matched_rows_and_ids_are_told),
		DB_TEST(a_savepoint_undoes_its_own_part_only),
		DB_TEST(nothing_slips_out_of_a_transaction_that_is_gone),
		DB_TEST(a_second_writer_is_told_busy_after_the_timeout),
		DB_TEST(a_reader_does_not_wait_for_the_writer),
	};
	const struct CMUnitTest sqlite_tests[] = {
		DB_TEST(the_file_is_private_durable_and_checks_foreign_keys),
		DB_TEST(paths_that_cannot_be_a_database_are_refused),
		DB_TEST(a_full_disk_is_named_and_leaves_the_database_usable),
		DB_TEST(another_program_that_looks_leaves_the_log_alone),
	};
	const struct CMUnitTest url_tests[] = {
		cmocka_unit_test(urls_of_other_databases_are_refused_by_name),
	};

	if (argc == 3 && !strcmp(argv[1], "--look"))
		return look(argv[2]);
	return cmocka_run_group_tests_name("catalog/db urls", url_tests, NULL, NULL) +
	       tmpdb_run_tests("catalog/db", tests, NULL, NULL) +
	       tmpdb_run_tests_on("sqlite", "catalog/db files", sqlite_tests, NULL, NULL);
}
