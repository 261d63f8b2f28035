/* Users and their tokens, as the catalog keeps them. */
#include <pthread.h>

#include "catalog/tokens.h"
#include "catalog/users.h"
#include "tests/catalog/fixture.h"

static void add_user(struct fx *fx, struct catalog_user *user, const char *name,
		     enum catalog_role role)
{
	*user = (struct catalog_user){.role = role, .enabled = true};
	CATALOG_TEXT(user->name, name);
	OK(catalog_user_create(fx->cat, user, &err));
}

static void add_token(struct fx *fx, struct catalog_token *token, const struct catalog_user *user,
		      const char *text)
{
	*token = (struct catalog_token){.name = "test"};
	CATALOG_TEXT(token->user_id, user->id);
	assert_true(sha256_hex(text, strlen(text), token->token_hash));
	OK(catalog_token_create(fx->cat, token, &err));
}

/* --- users ------------------------------------------------------------------------------------ */

static void a_user_is_created_and_found(void **state)
{
	struct fx *fx = *state;
	struct catalog_user user, got, *rows;
	int64_t total;
	size_t n;

	add_user(fx, &user, "zoe", CATALOG_ROLE_OPERATOR);
	assert_memory_equal(user.id, "user-", 5);
	assert_true(user.created_at_us > 0 && user.enabled && !user.last_login_at_us);
	OK(catalog_user_get(fx->cat, user.id, &got, &err));
	assert_memory_equal(&got, &user, sizeof(got));
	OK(catalog_user_get_by_name(fx->cat, "zoe", &got, &err));
	assert_memory_equal(&got, &user, sizeof(got));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_user_get(fx->cat, "zoe", &got, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_user_get_by_name(fx->cat, "Zoe", &got, &err));

	add_user(fx, &user, "adam@example.org", CATALOG_ROLE_ADMIN);
	OK(catalog_users_list(fx->cat, 0, 0, &rows, &n, &total, &err));
	assert_int_equal(n, 2);
	assert_int_equal(total, 2);
	assert_string_equal(rows[0].name, "adam@example.org");
	assert_int_equal(rows[0].role, CATALOG_ROLE_ADMIN);
	free(rows);
	OK(catalog_users_list(fx->cat, 1, 1, &rows, &n, &total, &err));
	assert_int_equal(n, 1);
	assert_int_equal(total, 2);
	assert_string_equal(rows[0].name, "zoe");
	free(rows);
}

static void names_and_roles_are_checked(void **state)
{
	static const char *const bad[] = {"",	 "-x",	     ".x",	   "a b",
					  "a/b", "(nobody)", "\xc3\xa9va", "a\n"};
	struct fx *fx = *state;
	struct catalog_user user;
	char name[80];

	add_user(fx, &user, "ann", CATALOG_ROLE_VIEWER);
	user = (struct catalog_user){.name = "ann"};
	EXPECT_TEXT(CATALOG_E_EXISTS, "ann", catalog_user_create(fx->cat, &user, &err));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		CATALOG_TEXT(user.name, bad[i]);
		EXPECT(CATALOG_E_INVALID, catalog_user_create(fx->cat, &user, &err));
	}
	memset(name, 'x', sizeof(name));
	name[65] = '\0';
	assert_false(catalog_user_name_valid(name));
	name[64] = '\0';
	assert_true(catalog_user_name_valid(name));
	user = (struct catalog_user){.name = "bob", .role = 99};
	EXPECT(CATALOG_E_INVALID, catalog_user_create(fx->cat, &user, &err));
}

static void roles_have_words(void **state)
{
	static const char *const words[] = {"viewer", "operator", "admin", "agent"};
	enum catalog_role role;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		assert_true(catalog_role_parse(words[i], &role));
		assert_int_equal(role, i);
		assert_string_equal(catalog_role_name(role), words[i]);
	}
	assert_false(catalog_role_parse("root", &role));
	assert_false(catalog_role_parse(NULL, &role));
}

static void the_last_administrator_stays_one(void **state)
{
	const enum catalog_role viewer = CATALOG_ROLE_VIEWER, admin = CATALOG_ROLE_ADMIN;
	const bool off = false, on = true;
	struct fx *fx = *state;
	struct catalog_user one, two, got;

	add_user(fx, &one, "one", CATALOG_ROLE_ADMIN);
	add_user(fx, &two, "two", CATALOG_ROLE_OPERATOR);
	EXPECT_TEXT(CATALOG_E_IN_USE, "last enabled administrator",
		    catalog_user_update(fx->cat, one.id, NULL, &off, NULL, &err));
	EXPECT(CATALOG_E_IN_USE, catalog_user_update(fx->cat, one.id, &viewer, NULL, NULL, &err));
	EXPECT(CATALOG_E_IN_USE, catalog_user_delete(fx->cat, one.id, &err));
	OK(catalog_user_update(fx->cat, two.id, &admin, NULL, &got, &err));
	assert_int_equal(got.role, CATALOG_ROLE_ADMIN);
	OK(catalog_user_update(fx->cat, two.id, NULL, &off, &got, &err));
	assert_false(got.enabled);
	/* One who is disabled does not count. */
	EXPECT(CATALOG_E_IN_USE, catalog_user_delete(fx->cat, one.id, &err));
	OK(catalog_user_update(fx->cat, two.id, NULL, &on, NULL, &err));
	OK(catalog_user_delete(fx->cat, one.id, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_user_delete(fx->cat, one.id, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_user_update(fx->cat, one.id, NULL, &on, NULL, &err));
	EXPECT(CATALOG_E_IN_USE, catalog_user_delete(fx->cat, two.id, &err));
}

/* Two administrators disable each other at the same moment: one of them stays. */
struct duel {
	struct fx *fx;
	const char *other;
	int r;
};

static void *disable_the_other(void *arg)
{
	struct duel *d = arg;
	const bool off = false;

	d->r = catalog_user_update(d->fx->cat, d->other, NULL, &off, NULL, NULL);
	return NULL;
}

static void two_administrators_cannot_disable_each_other(void **state)
{
	struct fx *fx = *state;
	const bool on = true;
	struct catalog_user one, two;

	add_user(fx, &one, "one", CATALOG_ROLE_ADMIN);
	add_user(fx, &two, "two", CATALOG_ROLE_ADMIN);
	for (int i = 0; i < 20; i++) {
		struct duel a = {fx, two.id, 0}, b = {fx, one.id, 0};
		pthread_t t;

		assert_int_equal(pthread_create(&t, NULL, disable_the_other, &a), 0);
		disable_the_other(&b);
		pthread_join(t, NULL);
		assert_true((a.r == 0 && b.r == CATALOG_E_IN_USE) ||
			    (b.r == 0 && a.r == CATALOG_E_IN_USE));
		OK(catalog_user_update(fx->cat, one.id, NULL, &on, NULL, &err));
		OK(catalog_user_update(fx->cat, two.id, NULL, &on, NULL, &err));
	}
}

/* --- tokens ----------------------------------------------------------------------------------- */

static void a_token_is_found_by_its_hash_alone(void **state)
{
	struct fx *fx = *state;
	struct catalog_user user;
	struct catalog_token token, got;
	char *dump;

	add_user(fx, &user, "ann", CATALOG_ROLE_OPERATOR);
	add_token(fx, &token, &user, "sdn_open-sesame");
	assert_memory_equal(token.id, "token-", 6);
	assert_string_equal(token.scopes, "[]");
	assert_string_equal(token.user_name, "ann");
	assert_int_equal(token.user_role, CATALOG_ROLE_OPERATOR);
	assert_true(token.user_enabled);
	OK(catalog_token_get_by_hash(fx->cat, token.token_hash, &got, &err));
	assert_memory_equal(&got, &token, sizeof(got));
	OK(catalog_token_get(fx->cat, token.id, &got, &err));
	assert_memory_equal(&got, &token, sizeof(got));
	EXPECT(CATALOG_E_NOT_FOUND,
	       catalog_token_get_by_hash(fx->cat, "sdn_open-sesame", &got, &err));
	dump = tmpdb_dump(&fx->t, NULL);
	assert_non_null(strstr(dump, token.token_hash));
	assert_null(strstr(dump, "open-sesame"));
	free(dump);
	OK(catalog_user_get(fx->cat, user.id, &user, &err));
	assert_int_equal(user.token_count, 1);
}

static void tokens_are_checked(void **state)
{
	struct fx *fx = *state;
	struct catalog_user user;
	struct catalog_token token, again;

	add_user(fx, &user, "ann", CATALOG_ROLE_OPERATOR);
	add_token(fx, &token, &user, "x");
	again = token;
	EXPECT(CATALOG_E_EXISTS, catalog_token_create(fx->cat, &again, &err));
	again.name[0] = '\0';
	EXPECT_TEXT(CATALOG_E_INVALID, "name", catalog_token_create(fx->cat, &again, &err));
	again = token;
	again.token_hash[5] = '\0';
	EXPECT_TEXT(CATALOG_E_INVALID, "hash", catalog_token_create(fx->cat, &again, &err));
	again = token;
	again.token_hash[5] = '!';
	CATALOG_TEXT(again.scopes, "[");
	EXPECT_TEXT(CATALOG_E_INVALID, "JSON", catalog_token_create(fx->cat, &again, &err));
	CATALOG_TEXT(again.scopes, "[\"viewer\"]");
	CATALOG_TEXT(again.user_id, "user-none");
	EXPECT_TEXT(CATALOG_E_NOT_FOUND, "user-none", catalog_token_create(fx->cat, &again, &err));
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM api_tokens"), 1);
}

static void a_revoked_token_says_so_and_stays(void **state)
{
	struct fx *fx = *state;
	struct catalog_user ann, bob;
	struct catalog_token one, two, *rows;
	size_t n;

	add_user(fx, &ann, "ann", CATALOG_ROLE_OPERATOR);
	add_user(fx, &bob, "bob", CATALOG_ROLE_OPERATOR);
	add_token(fx, &one, &ann, "1");
	add_token(fx, &two, &bob, "2");
	OK(catalog_token_revoke(fx->cat, one.id, &err));
	EXPECT(CATALOG_E_ALREADY, catalog_token_revoke(fx->cat, one.id, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_token_revoke(fx->cat, "token-none", &err));
	OK(catalog_token_get_by_hash(fx->cat, one.token_hash, &one, &err));
	assert_true(one.revoked_at_us >= one.created_at_us);
	OK(catalog_tokens_list(fx->cat, ann.id, &rows, &n, &err));
	assert_int_equal(n, 1);
	assert_string_equal(rows[0].id, one.id);
	free(rows);
	OK(catalog_tokens_list(fx->cat, NULL, &rows, &n, &err));
	assert_int_equal(n, 2);
	free(rows);
	OK(catalog_user_get(fx->cat, ann.id, &ann, &err));
	assert_int_equal(ann.token_count, 0);
	/* They go with their user. */
	OK(catalog_user_delete(fx->cat, ann.id, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_token_get(fx->cat, one.id, &one, &err));
}

static void use_is_noted_once_in_a_while(void **state)
{
	const int64_t minute = 60 * 1000000LL;
	struct fx *fx = *state;
	struct catalog_user user;
	struct catalog_token token;
	int64_t t0 = catalog_now_us();

	add_user(fx, &user, "ann", CATALOG_ROLE_OPERATOR);
	add_token(fx, &token, &user, "x");
	OK(catalog_token_used(fx->cat, token.id, t0, 10 * minute, &err));
	OK(catalog_token_used(fx->cat, token.id, t0 + minute, 10 * minute, &err));
	OK(catalog_token_get(fx->cat, token.id, &token, &err));
	assert_int_equal(token.last_used_at_us, t0);
	OK(catalog_user_get(fx->cat, user.id, &user, &err));
	assert_int_equal(user.last_login_at_us, t0);
	OK(catalog_token_used(fx->cat, token.id, t0 + 11 * minute, 10 * minute, &err));
	OK(catalog_token_get(fx->cat, token.id, &token, &err));
	assert_int_equal(token.last_used_at_us, t0 + 11 * minute);
	OK(catalog_token_used(fx->cat, "token-none", t0, minute, &err));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FX_TEST(a_user_is_created_and_found),
		FX_TEST(names_and_roles_are_checked),
		cmocka_unit_test(roles_have_words),
		FX_TEST(the_last_administrator_stays_one),
		FX_TEST(two_administrators_cannot_disable_each_other),
		FX_TEST(a_token_is_found_by_its_hash_alone),
		FX_TEST(tokens_are_checked),
		FX_TEST(a_revoked_token_says_so_and_stays),
		FX_TEST(use_is_noted_once_in_a_while),
	};

	return tmpdb_run_tests("catalog/access", tests, NULL, NULL);
}
