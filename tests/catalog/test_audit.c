/* The audit log: its chain, and what of tampering it tells. Tampering is raw SQL beside the
 * catalog, by somebody who knows how the hashes are made. */
#include <pthread.h>

#include "catalog/audit.h"
#include "tests/catalog/fixture.h"

static void add(struct fx *fx, const char *user, const char *action, const char *detail)
{
	struct catalog_audit e = {.outcome = CATALOG_AUDIT_ALLOWED};

	CATALOG_TEXT(e.user_name, user);
	CATALOG_TEXT(e.action, action);
	CATALOG_TEXT(e.object, "/api/v1/things/1");
	CATALOG_TEXT(e.remote, "127.0.0.1");
	CATALOG_TEXT(e.detail, detail);
	OK(catalog_audit_add(fx->cat, &e, &err));
}

static void add_many(struct fx *fx, int n)
{
	for (int i = 0; i < n; i++) {
		char detail[40];

		snprintf(detail, sizeof(detail), "{\"n\":%d}", i);
		add(fx, "ann", "POST /api/v1/things", detail);
	}
}

static struct catalog_audit_report verify(struct fx *fx, const struct catalog_audit_anchor *anchor)
{
	struct catalog_audit_report r;

	OK(catalog_audit_verify(fx->cat, anchor, anchor ? 1 : 0, &r, &err));
	return r;
}

/* Exactly this one finding. */
static void expect_finding(struct fx *fx, const struct catalog_audit_anchor *anchor, int64_t id,
			   const char *problem)
{
	struct catalog_audit_report r = verify(fx, anchor);

	if (r.finding_count != 1 || r.findings[0].id != id ||
	    !strstr(r.findings[0].problem, problem))
		fail_msg("%d findings, the first: entry %d: %s", (int)r.finding_count,
			 (int)r.findings[0].id, r.findings[0].problem);
}

static void entries_are_numbered_and_chained(void **state)
{
	struct fx *fx = *state;
	struct catalog_audit *rows;
	struct catalog_audit_report r = verify(fx, NULL);
	int64_t total;
	size_t n;

	assert_int_equal(r.finding_count, 0);
	assert_int_equal(r.entries, 0);
	add_many(fx, 3);
	OK(catalog_audit_list(fx->cat, NULL, &rows, &n, &total, &err));
	assert_int_equal(n, 3);
	assert_int_equal(total, 3);
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(rows[i].id, 3 - i);
	assert_string_equal(rows[0].previous_hash, rows[1].entry_hash);
	assert_string_equal(rows[1].previous_hash, rows[2].entry_hash);
	r = verify(fx, NULL);
	assert_int_equal(r.finding_count, 0);
	assert_int_equal(r.entries, 3);
	assert_int_equal(r.last_id, 3);
	assert_string_equal(r.last_hash, rows[0].entry_hash);
	free(rows);
}

/* What docs/catalog.md says, done by another program: the hash can be checked without this one. */
static void the_hash_is_the_documented_one(void **state)
{
	struct fx *fx = *state;
	struct catalog_audit e = {.outcome = CATALOG_AUDIT_DENIED};
	char text[1024], hex[SHA256_HEX_SIZE], us[24];

	CATALOG_TEXT(e.user_name, "ann");
	CATALOG_TEXT(e.action, "DELETE /x");
	CATALOG_TEXT(e.detail, "d\xc3\xa9tail");
	OK(catalog_audit_add(fx->cat, &e, &err));
	snprintf(us, sizeof(us), "%" PRId64, e.created_at_us);
	snprintf(text, sizeof(text),
		 "1:1,%zu:%s,3:ann,9:DELETE /x,0:,6:denied,0:,7:d\xc3\xa9tail,"
		 "64:%064d,",
		 strlen(us), us, 0);
	assert_true(sha256_hex(text, strlen(text), hex));
	assert_string_equal(hex, e.entry_hash);
}

static void lists_are_filtered_and_paged(void **state)
{
	struct catalog_audit_filter f = {.user_name = "bob"};
	struct fx *fx = *state;
	struct catalog_audit *rows;
	int64_t total;
	size_t n;

	add_many(fx, 4);
	add(fx, "bob", "DELETE /api/v1/things/{}", "");
	OK(catalog_audit_list(fx->cat, &f, &rows, &n, &total, &err));
	assert_int_equal(n, 1);
	assert_string_equal(rows[0].action, "DELETE /api/v1/things/{}");
	free(rows);
	f = (struct catalog_audit_filter){.outcome = "denied"};
	OK(catalog_audit_list(fx->cat, &f, &rows, &n, &total, &err));
	assert_int_equal(total, 0);
	free(rows);
	f = (struct catalog_audit_filter){.object = "/api/v1/things/1", .limit = 2, .offset = 1};
	OK(catalog_audit_list(fx->cat, &f, &rows, &n, &total, &err));
	assert_int_equal(n, 2);
	assert_int_equal(total, 5);
	assert_int_equal(rows[0].id, 4);
	free(rows);
}

static void an_entry_without_action_is_refused(void **state)
{
	struct catalog_audit e = {.user_name = "ann"};
	struct fx *fx = *state;

	EXPECT(CATALOG_E_INVALID, catalog_audit_add(fx->cat, &e, &err));
	CATALOG_TEXT(e.action, "x");
	e.outcome = 7;
	EXPECT(CATALOG_E_INVALID, catalog_audit_add(fx->cat, &e, &err));
}

/* --- at the same time --------------------------------------------------------------------------
 */

#define WRITERS 6
#define EACH	15

struct writer {
	struct catalog *cat;
	int r;
};

static void *write_some(void *arg)
{
	struct writer *w = arg;

	for (int i = 0; i < EACH && !w->r; i++) {
		struct catalog_audit e = {.user_name = "w", .action = "POST /x"};

		w->r = catalog_audit_add(w->cat, &e, NULL);
	}
	return NULL;
}

/* Two programs, each with its pool of connections, and several threads in each. */
static void writers_side_by_side_make_one_chain(void **state)
{
	struct fx *fx = *state;
	struct writer w[WRITERS];
	struct catalog_audit_report r;
	struct catalog *other;
	pthread_t t[WRITERS];

	OK(catalog_open(fx->t.url, NULL, &other, &err));
	for (int i = 0; i < WRITERS; i++) {
		w[i] = (struct writer){i % 2 ? other : fx->cat, 0};
		assert_int_equal(pthread_create(&t[i], NULL, write_some, &w[i]), 0);
	}
	for (int i = 0; i < WRITERS; i++) {
		pthread_join(t[i], NULL);
		assert_int_equal(w[i].r, 0);
	}
	catalog_close(other);
	r = verify(fx, NULL);
	assert_int_equal(r.entries, WRITERS * EACH);
	assert_int_equal(r.last_id, WRITERS * EACH);
	assert_int_equal(r.finding_count, 0);
}

/* --- tampering -------------------------------------------------------------------------------- */

static void a_changed_entry_is_named(void **state)
{
	static const char *const changes[] = {
		"user_name = 'eve'",	       "action = 'GET /x'", "object = ''",
		"outcome = 'denied'",	       "remote = '::1'",    "detail = '{}'",
		"created_at = created_at + 1",
	};
	struct fx *fx = *state;

	add_many(fx, 7);
	for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
		char id[2] = {(char)('1' + i), 0};
		struct catalog_audit_report r;

		tmpdb_sql(&fx->t, "UPDATE audit_log SET %s WHERE id = %s", changes[i], id);
		r = verify(fx, NULL);
		assert_int_equal(r.finding_count, i + 1);
		assert_int_equal(r.findings[i].id, i + 1);
		assert_non_null(strstr(r.findings[i].problem, "was changed"));
	}
}

static void a_removed_entry_is_named(void **state)
{
	struct fx *fx = *state;

	add_many(fx, 6);
	tmpdb_sql(&fx->t, "DELETE FROM audit_log WHERE id = 4");
	expect_finding(fx, NULL, 4, "entry 4 is missing");
	tmpdb_sql(&fx->t, "DELETE FROM audit_log WHERE id = 3");
	expect_finding(fx, NULL, 3, "entries 3 to 4 are missing");
}

static void a_missing_beginning_is_named(void **state)
{
	struct fx *fx = *state;

	add_many(fx, 5);
	tmpdb_sql(&fx->t, "DELETE FROM audit_log WHERE id < 3");
	expect_finding(fx, NULL, 1, "entries 1 to 2 are missing");
}

static void entries_that_changed_places_are_named(void **state)
{
	struct fx *fx = *state;
	struct catalog_audit_report r;

	add_many(fx, 5);
	tmpdb_sql(&fx->t, "UPDATE audit_log SET id = 100 WHERE id = 2");
	tmpdb_sql(&fx->t, "UPDATE audit_log SET id = 2 WHERE id = 3");
	tmpdb_sql(&fx->t, "UPDATE audit_log SET id = 3 WHERE id = 100");
	r = verify(fx, NULL);
	assert_true(r.finding_count >= 2);
	assert_int_equal(r.findings[0].id, 2);
	for (int i = 0; i < r.finding_count; i++)
		assert_true(r.findings[i].id >= 2 && r.findings[i].id <= 4);
}

/* Whoever changes an entry and its hash breaks the link of the next. */
static void a_replaced_entry_is_named_by_the_next(void **state)
{
	struct fx *fx = *state;
	char text[600], hex[SHA256_HEX_SIZE];
	const char *us;

	add_many(fx, 4);
	us = tmpdb_text(&fx->t, "SELECT created_at FROM audit_log WHERE id = 1");
	snprintf(text, sizeof(text),
		 "1:1,%zu:%s,3:eve,19:POST /api/v1/things,16:/api/v1/things/1,7:allowed,"
		 "9:127.0.0.1,7:{\"n\":0},64:%064d,",
		 strlen(us), us, 0);
	assert_true(sha256_hex(text, strlen(text), hex));
	tmpdb_sql(&fx->t, "UPDATE audit_log SET user_name = 'eve', entry_hash = '%s' WHERE id = 1",
		  hex);
	expect_finding(fx, NULL, 2, "does not follow");
}

static void an_inserted_entry_is_named(void **state)
{
	struct fx *fx = *state;

	add_many(fx, 3);
	tmpdb_sql(&fx->t,
		  "INSERT INTO audit_log (id, created_at, user_name, action, outcome, detail,"
		  " previous_hash, entry_hash) VALUES (-7, 1, 'eve', 'x', 'allowed', '',"
		  " 'p', 'e')");
	assert_int_equal(verify(fx, NULL).findings[0].id, -7);
}

static void a_cut_end_shows_by_the_anchor(void **state)
{
	struct fx *fx = *state;
	struct catalog_audit_anchor anchor = {.id = 5};

	add_many(fx, 5);
	strcpy(anchor.hash, verify(fx, NULL).last_hash);
	assert_int_equal(verify(fx, &anchor).finding_count, 0);
	tmpdb_sql(&fx->t, "DELETE FROM audit_log WHERE id > 3");
	assert_int_equal(verify(fx, NULL).finding_count, 0);
	expect_finding(fx, &anchor, 4, "entries 4 to 5 are missing from the end");
	/* Nor does it help to write others in their place. */
	add_many(fx, 4);
	expect_finding(fx, &anchor, 5, "not the one this hub wrote");
	tmpdb_sql(&fx->t, "DELETE FROM audit_log");
	expect_finding(fx, &anchor, 1, "entries 1 to 5 are missing from the end");
}

static void findings_beyond_the_limit_are_counted(void **state)
{
	struct fx *fx = *state;
	struct catalog_audit_report r;

	add_many(fx, CATALOG_AUDIT_FINDINGS_MAX + 5);
	tmpdb_sql(&fx->t, "UPDATE audit_log SET user_name = 'eve'");
	r = verify(fx, NULL);
	assert_int_equal(r.finding_count, CATALOG_AUDIT_FINDINGS_MAX + 5);
	assert_int_equal(r.findings[CATALOG_AUDIT_FINDINGS_MAX - 1].id, CATALOG_AUDIT_FINDINGS_MAX);
}

/* The log goes on behind damage, and the damage stays visible. */
static void damage_does_not_stop_the_log(void **state)
{
	struct fx *fx = *state;

	add_many(fx, 3);
	tmpdb_sql(&fx->t, "UPDATE audit_log SET entry_hash = '%100d' WHERE id = 3", 7);
	add_many(fx, 2);
	assert_int_equal(verify(fx, NULL).findings[0].id, 3);
	assert_int_equal(verify(fx, NULL).entries, 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FX_TEST(entries_are_numbered_and_chained),
		FX_TEST(the_hash_is_the_documented_one),
		FX_TEST(lists_are_filtered_and_paged),
		FX_TEST(an_entry_without_action_is_refused),
		FX_TEST(writers_side_by_side_make_one_chain),
		FX_TEST(a_changed_entry_is_named),
		FX_TEST(a_removed_entry_is_named),
		FX_TEST(a_missing_beginning_is_named),
		FX_TEST(entries_that_changed_places_are_named),
		FX_TEST(a_replaced_entry_is_named_by_the_next),
		FX_TEST(an_inserted_entry_is_named),
		FX_TEST(a_cut_end_shows_by_the_anchor),
		FX_TEST(findings_beyond_the_limit_are_counted),
		FX_TEST(damage_does_not_stop_the_log),
	};

	return tmpdb_run_tests("catalog/audit", tests, NULL, NULL);
}
