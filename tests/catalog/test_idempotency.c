/* Idempotency keys: taken once, answered again, freed, expired, and kept over a restart. */
#include <pthread.h>

#include "catalog/idempotency.h"
#include "tests/catalog/fixture.h"

static const struct catalog_idem call = {
	.caller = "alice", .key = "k1", .request_hash = "aa", .owner = "hub-a"};

static enum catalog_idem_state begin(struct fx *fx, const struct catalog_idem *c)
{
	struct catalog_idem_answer answer;

	OK(catalog_idem_begin(fx->cat, c, &answer, &err));
	assert_int_equal(answer.text != NULL, answer.state == CATALOG_IDEM_DONE);
	free(answer.text);
	return answer.state;
}

static void a_key_is_taken_once_and_then_answered(void **state)
{
	struct fx *fx = *state;
	struct catalog_idem_answer answer;
	struct catalog_idem other = call;

	assert_int_equal(begin(fx, &call), CATALOG_IDEM_NEW);
	assert_int_equal(begin(fx, &call), CATALOG_IDEM_RUNNING);
	other.request_hash = "bb";
	assert_int_equal(begin(fx, &other), CATALOG_IDEM_OTHER);
	OK(catalog_idem_finish(fx->cat, &call, 201, "{\"id\":\"\xc3\xa4\"}", &err));
	OK(catalog_idem_begin(fx->cat, &call, &answer, &err));
	assert_int_equal(answer.state, CATALOG_IDEM_DONE);
	assert_int_equal(answer.status, 201);
	assert_string_equal(answer.text, "{\"id\":\"\xc3\xa4\"}");
	free(answer.text);
	assert_int_equal(begin(fx, &other), CATALOG_IDEM_OTHER);
	/* An answer is not changed, and not freed. */
	EXPECT(CATALOG_E_NOT_FOUND, catalog_idem_finish(fx->cat, &call, 200, "{}", &err));
	OK(catalog_idem_forget(fx->cat, &call, &err));
	assert_int_equal(begin(fx, &call), CATALOG_IDEM_DONE);
}

static void keys_belong_to_their_callers_and_are_exact(void **state)
{
	struct fx *fx = *state;
	struct catalog_idem other = call;

	assert_int_equal(begin(fx, &call), CATALOG_IDEM_NEW);
	other.caller = "bob";
	assert_int_equal(begin(fx, &other), CATALOG_IDEM_NEW);
	other.caller = "";
	assert_int_equal(begin(fx, &other), CATALOG_IDEM_NEW);
	other = call;
	other.key = "K1";
	assert_int_equal(begin(fx, &other), CATALOG_IDEM_NEW);
}

static void a_failed_call_frees_its_key(void **state)
{
	struct fx *fx = *state;
	struct catalog_idem other = call;

	assert_int_equal(begin(fx, &call), CATALOG_IDEM_NEW);
	other.owner = "hub-b"; /* not its to free, or to end */
	OK(catalog_idem_forget(fx->cat, &other, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_idem_finish(fx->cat, &other, 200, "{}", &err));
	assert_int_equal(begin(fx, &call), CATALOG_IDEM_RUNNING);
	OK(catalog_idem_forget(fx->cat, &call, &err));
	assert_int_equal(begin(fx, &call), CATALOG_IDEM_NEW);
}

static void answers_survive_a_restart_and_calls_that_did_not_end_do_not(void **state)
{
	struct fx *fx = *state;
	struct catalog_idem ended = call, elsewhere = call;

	ended.key = "ended";
	elsewhere.key = "elsewhere";
	elsewhere.owner = "hub-b";
	assert_int_equal(begin(fx, &call), CATALOG_IDEM_NEW);
	assert_int_equal(begin(fx, &ended), CATALOG_IDEM_NEW);
	assert_int_equal(begin(fx, &elsewhere), CATALOG_IDEM_NEW);
	OK(catalog_idem_finish(fx->cat, &ended, 200, "{}", &err));
	catalog_close(fx->cat);
	OK(catalog_open(fx->t.url, NULL, &fx->cat, &err));
	OK(catalog_idem_recover(fx->cat, "hub-a", &err));
	assert_int_equal(begin(fx, &call), CATALOG_IDEM_NEW);
	assert_int_equal(begin(fx, &ended), CATALOG_IDEM_DONE);
	assert_int_equal(begin(fx, &elsewhere), CATALOG_IDEM_RUNNING);
}

static void what_expired_is_gone(void **state)
{
	struct fx *fx = *state;

	assert_int_equal(begin(fx, &call), CATALOG_IDEM_NEW);
	OK(catalog_idem_finish(fx->cat, &call, 200, "{}", &err));
	assert_true(tmpdb_i64(&fx->t, "SELECT expires_at - created_at FROM idempotency_keys") >=
		    CATALOG_IDEM_ANSWER_US);
	tmpdb_sql(&fx->t, "UPDATE idempotency_keys SET expires_at = 1");
	assert_int_equal(begin(fx, &call), CATALOG_IDEM_NEW);
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM idempotency_keys"), 1);
}

static void an_answer_may_be_large(void **state)
{
	struct fx *fx = *state;
	struct catalog_idem_answer answer;
	size_t n = 3U << 20;
	char *text = malloc(n + 1);

	memset(text, 'x', n);
	text[n] = '\0';
	assert_int_equal(begin(fx, &call), CATALOG_IDEM_NEW);
	OK(catalog_idem_finish(fx->cat, &call, 200, text, &err));
	OK(catalog_idem_begin(fx->cat, &call, &answer, &err));
	assert_string_equal(answer.text, text);
	free(answer.text);
	free(text);
}

struct racer {
	struct fx *fx;
	enum catalog_idem_state state;
};

static void *race(void *arg)
{
	struct racer *r = arg;
	struct catalog_idem_answer answer = {.state = CATALOG_IDEM_OTHER};

	if (!catalog_idem_begin(r->fx->cat, &call, &answer, NULL))
		r->state = answer.state;
	return NULL;
}

static void of_many_at_once_one_gets_the_key(void **state)
{
	struct racer racers[8];
	pthread_t threads[8];
	int taken = 0;

	for (int i = 0; i < 8; i++) {
		racers[i] = (struct racer){.fx = *state, .state = CATALOG_IDEM_OTHER};
		pthread_create(&threads[i], NULL, race, &racers[i]);
	}
	for (int i = 0; i < 8; i++) {
		pthread_join(threads[i], NULL);
		taken += racers[i].state == CATALOG_IDEM_NEW;
		assert_true(racers[i].state == CATALOG_IDEM_NEW ||
			    racers[i].state == CATALOG_IDEM_RUNNING);
	}
	assert_int_equal(taken, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FX_TEST(a_key_is_taken_once_and_then_answered),
		FX_TEST(keys_belong_to_their_callers_and_are_exact),
		FX_TEST(a_failed_call_frees_its_key),
		FX_TEST(answers_survive_a_restart_and_calls_that_did_not_end_do_not),
		FX_TEST(what_expired_is_gone),
		FX_TEST(an_answer_may_be_large),
		FX_TEST(of_many_at_once_one_gets_the_key),
	};

	return tmpdb_run_tests("catalog/idempotency", tests, NULL, NULL);
}
