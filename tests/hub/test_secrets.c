/* Sealing texts with keys from a file: what opens, what does not, and files that are not right. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "hub/secrets.h"
#include "tests/support/scratch.h"

#define FILE_NAME "credentials.key"

static int setup(void **state)
{
	*state = secrets_new(FILE_NAME);
	unlink(FILE_NAME);
	return *state ? 0 : -1;
}

static int teardown(void **state)
{
	secrets_free(*state);
	return 0;
}

struct sealed {
	char text[SECRETS_SEALED_SIZE], key[SECRETS_KEY_ID_SIZE];
};

static void seal(struct secrets *s, const char *context, const char *plain, struct sealed *out)
{
	struct err err = ERR_INIT;

	if (secrets_seal(s, true, context, plain, out->text, out->key, &err))
		fail_msg("%s", err.text);
}

static void opens_to(struct secrets *s, const char *context, const struct sealed *in,
		     const char *plain)
{
	struct err err = ERR_INIT;
	char got[SECRETS_PLAIN_MAX + 1];

	if (secrets_open(s, context, in->text, in->key, got, sizeof(got), &err))
		fail_msg("%s", err.text);
	assert_string_equal(got, plain);
}

static void opens_not(struct secrets *s, const char *context, const struct sealed *in, int rc,
		      const char *why)
{
	struct err err = ERR_INIT;
	char got[SECRETS_PLAIN_MAX + 1];

	assert_int_equal(secrets_open(s, context, in->text, in->key, got, sizeof(got), &err), rc);
	if (!strstr(err.text, why))
		fail_msg("\"%s\" is not in \"%s\"", why, err.text);
}

static void what_is_sealed_opens_again_in_another_process_too(void **state)
{
	_cleanup_(secrets_freep) struct secrets *later = secrets_new(FILE_NAME);
	char longest[SECRETS_PLAIN_MAX + 2];
	struct sealed a, b, c;
	struct err err = ERR_INIT;
	struct stat st;

	memset(longest, 'x', sizeof(longest));
	longest[SECRETS_PLAIN_MAX] = '\0';
	seal(*state, "for a", "hunter2 \xc3\xa4 \"'\\", &a);
	seal(*state, "for a", "hunter2 \xc3\xa4 \"'\\", &b);
	seal(*state, "for c", longest, &c);
	assert_string_not_equal(a.text, b.text); /* another nonce each time */
	assert_null(strstr(a.text, "hunter2"));
	opens_to(*state, "for a", &a, "hunter2 \xc3\xa4 \"'\\");
	opens_to(later, "for a", &b, "hunter2 \xc3\xa4 \"'\\");
	opens_to(later, "for c", &c, longest);
	assert_int_equal(stat(FILE_NAME, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(scratch_run("test $(ls | grep -c '^%s') = 1", FILE_NAME), 0);
	longest[SECRETS_PLAIN_MAX] = 'x';
	longest[SECRETS_PLAIN_MAX + 1] = '\0';
	assert_int_equal(secrets_seal(*state, true, "", longest, a.text, a.key, &err), -EINVAL);
	assert_int_equal(secrets_seal(*state, true, "", "", a.text, a.key, &err), -EINVAL);
}

static void nothing_opens_what_was_changed_or_moved(void **state)
{
	struct sealed a, bad;

	seal(*state, "vcenter\nvc1\nbackup", "hunter2", &a);
	opens_not(*state, "vcenter\nevil\nbackup", &a, -EBADMSG, "set it again");
	for (size_t i = 0; i < strlen(a.text); i++) {
		bad = a;
		bad.text[i] = bad.text[i] == 'A' ? 'B' : 'A';
		opens_not(*state, "vcenter\nvc1\nbackup", &bad, -EBADMSG, "damaged");
	}
	for (size_t i = 0; i < strlen(a.text); i++) {
		bad = a;
		bad.text[i] = '\0';
		opens_not(*state, "vcenter\nvc1\nbackup", &bad, -EBADMSG, "damaged");
	}
	memset(bad.text, 'A', sizeof(bad.text) - 1);
	bad.text[sizeof(bad.text) - 1] = '\0';
	memcpy(bad.text, "v1:", 3);
	opens_not(*state, "x", &bad, -EBADMSG, "damaged");
}

static void a_lost_or_foreign_key_file_is_named(void **state)
{
	char other[SECRETS_SEALED_SIZE], key[SECRETS_KEY_ID_SIZE];
	_cleanup_(secrets_freep) struct secrets *later = secrets_new(FILE_NAME);
	struct err err = ERR_INIT;
	struct sealed a;

	seal(*state, "x", "hunter2", &a);
	assert_int_equal(rename(FILE_NAME, "kept"), 0);
	opens_not(later, "x", &a, -ENOKEY, FILE_NAME);
	assert_int_equal(secrets_seal(later, false, "x", "y", other, key, &err), -ENOKEY);
	assert_non_null(strstr(err.text, "restore it from a copy"));
	assert_int_equal(access(FILE_NAME, F_OK), -1); /* and none was made in its place */
	seal(later, "x", "z", &(struct sealed){""});
	opens_not(later, "x", &a, -ENOKEY, a.key);
	assert_int_equal(rename("kept", FILE_NAME), 0);
	opens_to(later, "x", &a, "hunter2"); /* found without a restart */
}

static void files_that_are_not_right_are_refused(void **state)
{
	static const struct {
		const char *make, *says;
		int rc;
	} cases[] = {
		{"chmod 640 " FILE_NAME, "chmod 600", -EACCES},
		{"mv " FILE_NAME " real; ln -s real " FILE_NAME, FILE_NAME, -ELOOP},
		{"rm -f " FILE_NAME "; mkfifo -m 600 " FILE_NAME, "chmod 600", -EACCES},
		{"rm -f " FILE_NAME "; mkdir -m 700 " FILE_NAME, "chmod 600", -EACCES},
		{"rmdir " FILE_NAME "; (umask 077; : >" FILE_NAME ")", "no key", -EINVAL},
		{"echo 'k-00 12' >" FILE_NAME, "line 1", -EINVAL},
		{"printf '# x\\nk-0000000000000000 %064d\\n' 0 >" FILE_NAME, "line 2", -EINVAL},
		{"printf '# x\\nk-0000000000000000 %064x\\n' 0 | tr 0 g >" FILE_NAME, "line 2",
		 -EINVAL},
		{"printf 'k-0\\0000' >" FILE_NAME, "no key file", -EINVAL},
		{"head -c 9000 /dev/zero | tr '\\0' '#' >" FILE_NAME, "no key file", -EINVAL},
	};
	struct sealed a;

	seal(*state, "x", "hunter2", &a);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct err err = ERR_INIT;

		assert_int_equal(scratch_run("%s", cases[i].make), 0);
		if (secrets_load(*state, &err) != cases[i].rc || !strstr(err.text, cases[i].says))
			fail_msg("%s: %d %s", cases[i].make, err.code, err.text);
	}
	/* What was read before is still known. */
	opens_to(*state, "x", &a, "hunter2");
}

static bool is_first(void *arg, const char *key_id)
{
	return !strcmp(arg, key_id);
}

static bool is_none(void *arg, const char *key_id)
{
	(void)arg, (void)key_id;
	return false;
}

static void keys_are_added_in_front_and_taken_out(void **state)
{
	_cleanup_(secrets_freep) struct secrets *later = secrets_new(FILE_NAME);
	struct err err = ERR_INIT;
	struct sealed a, b, c;
	char first[SECRETS_KEY_ID_SIZE];

	assert_int_equal(secrets_add_key(*state, &err), -ENOENT);
	seal(*state, "x", "one", &a);
	seal(later, "x", "one more", &c);
	assert_int_equal(secrets_add_key(*state, &err), 0);
	seal(*state, "x", "two", &b);
	assert_string_not_equal(a.key, b.key);
	assert_int_equal(secrets_count(*state, first), 2);
	assert_string_equal(first, b.key);
	opens_to(*state, "x", &a, "one");
	opens_to(later, "x", &b, "two");
	seal(later, "x", "three", &c); /* one that had read the file before uses the new key, too */
	assert_string_equal(c.key, b.key);
	assert_int_equal(secrets_drop_keys(*state, is_first, a.key, &err), 0);
	assert_int_equal(secrets_count(*state, first), 2);
	assert_int_equal(secrets_drop_keys(*state, is_none, NULL, &err), 0);
	assert_int_equal(secrets_count(*state, first), 1);
	opens_to(*state, "x", &b, "two");
	opens_not(*state, "x", &a, -ENOKEY, a.key);
	for (int i = 0; i < 15; i++)
		assert_int_equal(secrets_add_key(*state, &err), 0);
	assert_int_equal(secrets_add_key(*state, &err), -ENOSPC);
}

static void *seal_one(void *arg)
{
	_cleanup_(secrets_freep) struct secrets *s = secrets_new(FILE_NAME);

	seal(s, "x", "hunter2", arg);
	return NULL;
}

/* Several hubs with one file: the first secret of each is sealed with the same key. */
static void of_many_first_keys_one_is_made(void **state)
{
	struct sealed out[8];
	pthread_t threads[8];

	for (size_t i = 0; i < 8; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, seal_one, &out[i]), 0);
	for (size_t i = 0; i < 8; i++)
		pthread_join(threads[i], NULL);
	for (size_t i = 0; i < 8; i++)
		opens_to(*state, "x", &out[i], "hunter2");
}

static void a_folder_that_takes_no_file_is_named(void **state)
{
	_cleanup_(secrets_freep) struct secrets *s = secrets_new("no/such/folder/" FILE_NAME);
	struct err err = ERR_INIT;
	struct sealed a;

	(void)state;
	assert_int_equal(secrets_seal(s, true, "x", "y", a.text, a.key, &err), -ENOENT);
	assert_non_null(strstr(err.text, "no/such/folder/" FILE_NAME));
	assert_string_equal(secrets_path(s), "no/such/folder/" FILE_NAME);
}

static void what_a_killed_hub_left_is_removed(void **state)
{
	_cleanup_(secrets_freep) struct secrets *absolute = NULL;
	char path[4096];
	struct sealed a;

	seal(*state, "x", "hunter2", &a);
	assert_int_equal(
		scratch_run("umask 077; touch -d '2 minutes ago' %s.abcdef %s.ABC123; touch"
			    " %s.young1; touch -d '2 minutes ago' %s.old x%s.abcdef;"
			    " (umask 022; touch -d '2 minutes ago' %s.others)",
			    FILE_NAME, FILE_NAME, FILE_NAME, FILE_NAME, FILE_NAME, FILE_NAME),
		0);
	secrets_sweep(*state);
	assert_int_equal(access(FILE_NAME ".abcdef", F_OK), -1);
	assert_int_equal(access(FILE_NAME ".ABC123", F_OK), -1);
	assert_int_equal(access(FILE_NAME ".young1", F_OK), 0);
	assert_int_equal(access(FILE_NAME ".old", F_OK), 0);
	assert_int_equal(access(FILE_NAME ".others", F_OK), 0);
	assert_int_equal(access("x" FILE_NAME ".abcdef", F_OK), 0);
	opens_to(*state, "x", &a, "hunter2");

	assert_non_null(getcwd(path, sizeof(path) - 32));
	strcat(path, "/" FILE_NAME);
	absolute = secrets_new(path);
	assert_int_equal(scratch_run("touch -d '2 minutes ago' %s.young1", FILE_NAME), 0);
	secrets_sweep(absolute);
	assert_int_equal(access(FILE_NAME ".young1", F_OK), -1);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(what_is_sealed_opens_again_in_another_process_too),
		T(nothing_opens_what_was_changed_or_moved),
		T(a_lost_or_foreign_key_file_is_named),
		T(files_that_are_not_right_are_refused),
		T(keys_are_added_in_front_and_taken_out),
		T(of_many_first_keys_one_is_made),
		T(a_folder_that_takes_no_file_is_named),
		T(what_a_killed_hub_left_is_removed),
	};

	return cmocka_run_group_tests_name("hub/secrets", tests, scratch_setup, scratch_teardown);
}
