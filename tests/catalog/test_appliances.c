/* Pairing codes, enrollments and sessions, as the catalog keeps them. */
#include <pthread.h>

#include "catalog/appliances.h"
#include "catalog/audit.h"
#include "catalog/tokens.h"
#include "tests/catalog/fixture.h"

#define MINUTE (60 * 1000000LL)

static void hash_of(const char *text, char hash[SHA256_HEX_SIZE])
{
	assert_true(sha256_hex(text, strlen(text), hash));
}

static void pair_until(struct fx *fx, const char *code, int64_t expires_at_us,
		       struct catalog_pairing *out)
{
	*out = (struct catalog_pairing){.created_by = "ann", .expires_at_us = expires_at_us};
	hash_of(code, out->code_hash);
	OK(catalog_pairing_create(fx->cat, out, &err));
}

static void describe(struct catalog_enrollment *row, const char *key)
{
	*row = (struct catalog_enrollment){.name = "vma-1",
					   .version = "v1.2.3",
					   .fingerprint = "SHA256:x",
					   .challenge = "Y2hhbGxlbmdl",
					   .remote = "192.0.2.1",
					   .expires_at_us = catalog_now_us() + 10 * MINUTE};
	CATALOG_TEXT(row->public_key, key);
}

/* An enrollment of its own pairing. */
static void enroll(struct fx *fx, struct catalog_enrollment *row, const char *code, const char *key)
{
	struct catalog_pairing pairing;
	char hash[SHA256_HEX_SIZE];

	pair_until(fx, code, catalog_now_us() + MINUTE, &pairing);
	hash_of(code, hash);
	describe(row, key);
	OK(catalog_enrollment_begin(fx->cat, hash, row, &err));
}

static int decide(struct fx *fx, const char *id, enum catalog_enrollment_status to,
		  struct catalog_enrollment *out, struct err *err)
{
	const struct catalog_decision decision = {to, "ann", "because"};

	return catalog_enrollment_decide(fx->cat, id, &decision, out, err);
}

/* --- pairing ---------------------------------------------------------------------------------- */

static void a_code_begins_one_enrollment(void **state)
{
	struct fx *fx = *state;
	struct catalog_pairing pairing;
	struct catalog_enrollment row, got;
	char hash[SHA256_HEX_SIZE], *dump;

	pair_until(fx, "ABCD-EFGH", catalog_now_us() + MINUTE, &pairing);
	assert_memory_equal(pairing.id, "pair-", 5);
	assert_true(pairing.created_at_us > 0 && !pairing.used_at_us);
	hash_of("ABCD-EFGJ", hash);
	describe(&row, "ssh-ed25519 AAAA");
	EXPECT_TEXT(CATALOG_E_NOT_FOUND, "never given",
		    catalog_enrollment_begin(fx->cat, hash, &row, &err));
	hash_of("ABCD-EFGH", hash);
	OK(catalog_enrollment_begin(fx->cat, hash, &row, &err));
	assert_memory_equal(row.id, "enroll-", 7);
	assert_string_equal(row.pairing_id, pairing.id);
	assert_int_equal(row.status, CATALOG_ENROLLMENT_PENDING);
	OK(catalog_enrollment_get(fx->cat, row.id, &got, &err));
	assert_memory_equal(&got, &row, sizeof(got));
	EXPECT_TEXT(CATALOG_E_NOT_FOUND, "was used",
		    catalog_enrollment_begin(fx->cat, hash, &row, &err));
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM appliance_enrollments"), 1);
	dump = tmpdb_dump(&fx->t, NULL);
	assert_null(strstr(dump, "ABCD-EFGH"));
	free(dump);
}

static void a_code_expires(void **state)
{
	struct fx *fx = *state;
	struct catalog_pairing pairing;
	struct catalog_enrollment row;

	pair_until(fx, "old", catalog_now_us(), &pairing);
	describe(&row, "ssh-ed25519 AAAA");
	EXPECT_TEXT(CATALOG_E_NOT_FOUND, "has expired",
		    catalog_enrollment_begin(fx->cat, pairing.code_hash, &row, &err));
	/* Refused, it is not used up: nothing was changed. */
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM appliance_pairings"
					   " WHERE used_at IS NOT NULL"),
			 0);
}

static void what_is_incomplete_uses_no_code_up(void **state)
{
	struct fx *fx = *state;
	struct catalog_pairing pairing, again;
	struct catalog_enrollment row;

	pair_until(fx, "code", catalog_now_us() + MINUTE, &pairing);
	again = pairing;
	EXPECT(CATALOG_E_EXISTS, catalog_pairing_create(fx->cat, &again, &err));
	again.created_by[0] = '\0';
	EXPECT(CATALOG_E_INVALID, catalog_pairing_create(fx->cat, &again, &err));
	describe(&row, "");
	EXPECT(CATALOG_E_INVALID, catalog_enrollment_begin(fx->cat, pairing.code_hash, &row, &err));
	describe(&row, "ssh-ed25519 AAAA");
	EXPECT(CATALOG_E_INVALID, catalog_enrollment_begin(fx->cat, "code", &row, &err));
	OK(catalog_enrollment_begin(fx->cat, pairing.code_hash, &row, &err));
}

/* Two appliances with one code at the same moment: one of them is let in. */
struct race {
	struct fx *fx;
	const char *hash;
	int r;
};

static void *race_run(void *arg)
{
	struct race *race = arg;
	struct catalog_enrollment row;

	describe(&row, "ssh-ed25519 AAAA");
	race->r = catalog_enrollment_begin(race->fx->cat, race->hash, &row, NULL);
	return NULL;
}

static void two_at_once_do_not_share_a_code(void **state)
{
	struct fx *fx = *state;

	for (int i = 0; i < 20; i++) {
		struct catalog_pairing pairing;
		struct race a, b;
		char code[16];
		pthread_t t;

		snprintf(code, sizeof(code), "code %d", i);
		pair_until(fx, code, catalog_now_us() + MINUTE, &pairing);
		a = b = (struct race){fx, pairing.code_hash, 0};
		assert_int_equal(pthread_create(&t, NULL, race_run, &a), 0);
		race_run(&b);
		pthread_join(t, NULL);
		assert_true((a.r == 0 && b.r == CATALOG_E_NOT_FOUND) ||
			    (b.r == 0 && a.r == CATALOG_E_NOT_FOUND));
	}
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM appliance_enrollments"), 20);
}

/* --- deciding --------------------------------------------------------------------------------- */

static void an_enrollment_goes_its_way_and_no_other(void **state)
{
	struct fx *fx = *state;
	struct catalog_enrollment row, other;

	enroll(fx, &row, "1", "ssh-ed25519 AAAA");
	EXPECT_TEXT(CATALOG_E_STATE, "is pending_verification: it cannot be approved",
		    decide(fx, row.id, CATALOG_ENROLLMENT_APPROVED, NULL, &err));
	EXPECT(CATALOG_E_STATE, decide(fx, row.id, CATALOG_ENROLLMENT_REVOKED, NULL, &err));
	EXPECT(CATALOG_E_STATE, decide(fx, row.id, CATALOG_ENROLLMENT_AWAITING, NULL, &err));
	OK(catalog_enrollment_verified(fx->cat, row.id, &err));
	EXPECT_TEXT(CATALOG_E_STATE, "awaiting_approval",
		    catalog_enrollment_verified(fx->cat, row.id, &err));
	OK(decide(fx, row.id, CATALOG_ENROLLMENT_APPROVED, &row, &err));
	assert_int_equal(row.status, CATALOG_ENROLLMENT_APPROVED);
	assert_string_equal(row.decided_by, "ann");
	assert_string_equal(row.reason, "because");
	assert_true(row.decided_at_us >= row.created_at_us);
	EXPECT(CATALOG_E_STATE, decide(fx, row.id, CATALOG_ENROLLMENT_APPROVED, NULL, &err));
	EXPECT(CATALOG_E_STATE, decide(fx, row.id, CATALOG_ENROLLMENT_REJECTED, NULL, &err));
	OK(decide(fx, row.id, CATALOG_ENROLLMENT_REVOKED, &row, &err));
	assert_int_equal(row.status, CATALOG_ENROLLMENT_REVOKED);
	EXPECT(CATALOG_E_STATE, decide(fx, row.id, CATALOG_ENROLLMENT_APPROVED, NULL, &err));

	enroll(fx, &other, "2", "ssh-ed25519 BBBB");
	OK(decide(fx, other.id, CATALOG_ENROLLMENT_REJECTED, &other, &err));
	EXPECT(CATALOG_E_STATE, catalog_enrollment_verified(fx->cat, other.id, &err));
	EXPECT(CATALOG_E_NOT_FOUND,
	       decide(fx, "enroll-none", CATALOG_ENROLLMENT_APPROVED, NULL, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_enrollment_verified(fx->cat, "enroll-none", &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_enrollment_get(fx->cat, "enroll-none", &row, &err));
}

static void an_undecided_one_expires(void **state)
{
	const enum catalog_enrollment_status awaiting = CATALOG_ENROLLMENT_AWAITING,
					     expired = CATALOG_ENROLLMENT_EXPIRED;
	struct fx *fx = *state;
	struct catalog_enrollment row, kept, *rows;
	size_t n;

	enroll(fx, &kept, "0", "ssh-ed25519 CCCC");
	OK(catalog_enrollment_verified(fx->cat, kept.id, &err));
	enroll(fx, &row, "1", "ssh-ed25519 AAAA");
	OK(catalog_enrollment_verified(fx->cat, row.id, &err));
	tmpdb_sql(&fx->t, "UPDATE appliance_enrollments SET expires_at = 1 WHERE id = '%s'",
		  row.id);
	OK(catalog_enrollment_get(fx->cat, row.id, &row, &err));
	assert_int_equal(row.status, CATALOG_ENROLLMENT_EXPIRED);
	assert_string_equal(catalog_enrollment_status_name(row.status), "expired");
	EXPECT_TEXT(CATALOG_E_STATE, "is expired: it cannot be approved",
		    decide(fx, row.id, CATALOG_ENROLLMENT_APPROVED, NULL, &err));
	OK(catalog_enrollments_list(fx->cat, &awaiting, &rows, &n, &err));
	assert_int_equal(n, 1);
	assert_string_equal(rows[0].id, kept.id);
	free(rows);
	OK(catalog_enrollments_list(fx->cat, &expired, &rows, &n, &err));
	assert_int_equal(n, 1);
	assert_string_equal(rows[0].id, row.id);
	free(rows);
	/* What was decided stays decided. */
	OK(decide(fx, kept.id, CATALOG_ENROLLMENT_APPROVED, NULL, &err));
	tmpdb_sql(&fx->t, "UPDATE appliance_enrollments SET expires_at = 1");
	OK(catalog_enrollment_get(fx->cat, kept.id, &row, &err));
	assert_int_equal(row.status, CATALOG_ENROLLMENT_APPROVED);
	OK(catalog_enrollments_list(fx->cat, NULL, &rows, &n, &err));
	assert_int_equal(n, 2);
	free(rows);
}

static void a_key_is_approved_in_one_enrollment(void **state)
{
	struct fx *fx = *state;
	struct catalog_enrollment one, two;

	enroll(fx, &one, "1", "ssh-ed25519 AAAA");
	enroll(fx, &two, "2", "ssh-ed25519 AAAA");
	OK(catalog_enrollment_verified(fx->cat, one.id, &err));
	OK(catalog_enrollment_verified(fx->cat, two.id, &err));
	OK(decide(fx, one.id, CATALOG_ENROLLMENT_APPROVED, NULL, &err));
	EXPECT_TEXT(CATALOG_E_IN_USE, one.id,
		    decide(fx, two.id, CATALOG_ENROLLMENT_APPROVED, NULL, &err));
	OK(decide(fx, one.id, CATALOG_ENROLLMENT_REVOKED, NULL, &err));
	OK(decide(fx, two.id, CATALOG_ENROLLMENT_APPROVED, NULL, &err));
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM appliance_enrollments"
					   " WHERE approved_key IS NOT NULL"),
			 1);
}

static void a_reason_that_is_too_long_decides_nothing(void **state)
{
	struct fx *fx = *state;
	struct catalog_enrollment row;
	char reason[CATALOG_REASON_SIZE + 1];
	struct catalog_decision decision = {CATALOG_ENROLLMENT_REJECTED, "ann", reason};

	memset(reason, 'x', sizeof(reason));
	reason[sizeof(reason) - 1] = '\0';
	enroll(fx, &row, "1", "ssh-ed25519 AAAA");
	EXPECT(CATALOG_E_INVALID,
	       catalog_enrollment_decide(fx->cat, row.id, &decision, NULL, &err));
	OK(catalog_enrollment_get(fx->cat, row.id, &row, &err));
	assert_int_equal(row.status, CATALOG_ENROLLMENT_PENDING);
}

/* --- sessions --------------------------------------------------------------------------------- */

static void add_token(struct fx *fx, struct catalog_token *token, const char *user_id,
		      const char *parent_id, const char *text)
{
	*token = (struct catalog_token){.name = "test"};
	CATALOG_TEXT(token->user_id, user_id);
	CATALOG_TEXT(token->parent_id, parent_id);
	if (*parent_id)
		token->expires_at_us = catalog_now_us() + MINUTE;
	hash_of(text, token->token_hash);
	OK(catalog_token_create(fx->cat, token, &err));
}

static void a_session_knows_what_became_of_its_token(void **state)
{
	struct fx *fx = *state;
	struct catalog_user user = {.name = "vma-1", .role = CATALOG_ROLE_AGENT, .enabled = true};
	struct catalog_token token, session;

	OK(catalog_user_create(fx->cat, &user, &err));
	add_token(fx, &token, user.id, "", "token");
	add_token(fx, &session, user.id, token.id, "session");
	assert_string_equal(session.parent_id, token.id);
	assert_int_equal(session.parent_revoked_at_us, 0);
	OK(catalog_user_get(fx->cat, user.id, &user, &err));
	assert_int_equal(user.token_count, 1);
	OK(catalog_token_revoke(fx->cat, token.id, &err));
	OK(catalog_token_get(fx->cat, session.id, &session, &err));
	assert_true(session.parent_revoked_at_us > 0 && !session.revoked_at_us);
}

static void sessions_do_not_pile_up(void **state)
{
	struct fx *fx = *state;
	struct catalog_user user = {.name = "vma-1", .role = CATALOG_ROLE_AGENT, .enabled = true};
	struct catalog_token token, other, first, second, last;
	char text[32];

	OK(catalog_user_create(fx->cat, &user, &err));
	add_token(fx, &token, user.id, "", "token");
	add_token(fx, &other, user.id, "", "other");
	add_token(fx, &last, user.id, other.id, "session of the other");
	add_token(fx, &first, user.id, token.id, "first");
	add_token(fx, &second, user.id, token.id, "second");
	for (int i = 0; i < CATALOG_SESSIONS_MAX - 1; i++) {
		snprintf(text, sizeof(text), "session %d", i);
		add_token(fx, &last, user.id, token.id, text);
	}
	EXPECT(CATALOG_E_NOT_FOUND, catalog_token_get(fx->cat, first.id, &first, &err));
	OK(catalog_token_get(fx->cat, second.id, &second, &err));
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM api_tokens WHERE parent_id = '%s'",
				   token.id),
			 CATALOG_SESSIONS_MAX);
	tmpdb_sql(&fx->t, "UPDATE api_tokens SET expires_at = 1 WHERE parent_id = '%s'", token.id);
	add_token(fx, &last, user.id, token.id, "one more");
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM api_tokens WHERE parent_id = '%s'",
				   token.id),
			 1);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM api_tokens"), 4);
}

/* --- their part of the audit log -------------------------------------------------------------- */

static void entries_are_listed_by_what_was_called(void **state)
{
	struct fx *fx = *state;
	const struct catalog_audit_filter filter = {.action_like = "%/vma/%"};
	struct catalog_audit e = {.user_name = "ann", .action = "POST /api/v1/vma/enroll"}, *rows;
	int64_t total;
	size_t n;

	OK(catalog_audit_add(fx->cat, &e, &err));
	e = (struct catalog_audit){.user_name = "ann", .action = "POST /api/v1/users"};
	OK(catalog_audit_add(fx->cat, &e, &err));
	OK(catalog_audit_list(fx->cat, &filter, &rows, &n, &total, &err));
	assert_int_equal(n, 1);
	assert_int_equal(total, 1);
	assert_string_equal(rows[0].action, "POST /api/v1/vma/enroll");
	free(rows);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FX_TEST(a_code_begins_one_enrollment),
		FX_TEST(a_code_expires),
		FX_TEST(what_is_incomplete_uses_no_code_up),
		FX_TEST(two_at_once_do_not_share_a_code),
		FX_TEST(an_enrollment_goes_its_way_and_no_other),
		FX_TEST(an_undecided_one_expires),
		FX_TEST(a_key_is_approved_in_one_enrollment),
		FX_TEST(a_reason_that_is_too_long_decides_nothing),
		FX_TEST(a_session_knows_what_became_of_its_token),
		FX_TEST(sessions_do_not_pile_up),
		FX_TEST(entries_are_listed_by_what_was_called),
	};

	return tmpdb_run_tests("catalog/appliances", tests, NULL, NULL);
}
