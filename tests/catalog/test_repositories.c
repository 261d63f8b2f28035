#include "tests/catalog/fixture.h"

#include "catalog/deletions.h"

static void a_repository_is_created_and_found_by_id_and_name(void **state)
{
	struct fx *fx = *state;
	struct catalog_repository repo = {.type = CATALOG_REPOSITORY_NFS,
					  .enabled = true,
					  .is_immutable = true,
					  .min_retention_days = 14};
	struct catalog_repository got;

	CATALOG_TEXT(repo.name, "nas");
	CATALOG_TEXT(repo.config, "{\"server\":\"nas\",\"export_path\":\"/b\"}");
	OK(catalog_repository_create(fx->cat, &repo, &err));
	assert_memory_equal(repo.id, "repo-", 5);
	OK(catalog_repository_get(fx->cat, repo.id, &got, &err));
	assert_memory_equal(&got, &repo, sizeof(got));
	OK(catalog_repository_get_by_name(fx->cat, "nas", &got, &err));
	assert_memory_equal(&got, &repo, sizeof(got));
	assert_int_equal(got.type, CATALOG_REPOSITORY_NFS);
	assert_string_equal(got.config, "{\"server\":\"nas\",\"export_path\":\"/b\"}");
	assert_true(got.enabled && got.is_immutable && got.created_at_us > 0);
	assert_int_equal(got.min_retention_days, 14);
	assert_int_equal(got.last_check_at_us, 0);
	EXPECT(CATALOG_E_NOT_FOUND, catalog_repository_get(fx->cat, "nas", &got, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_repository_get_by_name(fx->cat, "NAS", &got, &err));
}

static void names_are_unique_and_values_are_checked(void **state)
{
	struct fx *fx = *state;
	struct catalog_repository repo, again;

	fx_add_repository(fx, &repo, "main");
	again = (struct catalog_repository){.name = "main", .config = "{}"};
	EXPECT_TEXT(CATALOG_E_EXISTS, "main", catalog_repository_create(fx->cat, &again, &err));
	again = (struct catalog_repository){.name = "other", .config = "{"};
	EXPECT_TEXT(CATALOG_E_INVALID, "JSON", catalog_repository_create(fx->cat, &again, &err));
	again = (struct catalog_repository){.config = "{}"};
	EXPECT(CATALOG_E_INVALID, catalog_repository_create(fx->cat, &again, &err));
	again = (struct catalog_repository){.name = "x", .config = "{}", .type = 99};
	EXPECT(CATALOG_E_INVALID, catalog_repository_create(fx->cat, &again, &err));
	again = (struct catalog_repository){.name = "x", .config = "{}", .min_retention_days = -1};
	EXPECT(CATALOG_E_INVALID, catalog_repository_create(fx->cat, &again, &err));
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM backup_repositories"), 1);
}

static void a_given_id_is_kept(void **state)
{
	struct fx *fx = *state;
	struct catalog_repository repo = {.id = "repo-local-1759776641", .name = "a"};

	CATALOG_TEXT(repo.config, "{}");
	OK(catalog_repository_create(fx->cat, &repo, &err));
	assert_string_equal(repo.id, "repo-local-1759776641");
	CATALOG_TEXT(repo.name, "b");
	EXPECT(CATALOG_E_EXISTS, catalog_repository_create(fx->cat, &repo, &err));
}

static void types_have_words_and_smb_means_cifs(void **state)
{
	static const char *const words[] = {"local", "nfs", "cifs", "s3", "azure"};
	enum catalog_repository_type type;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		assert_true(catalog_repository_type_parse(words[i], &type));
		assert_int_equal(type, i);
		assert_string_equal(catalog_repository_type_name(type), words[i]);
	}
	assert_true(catalog_repository_type_parse("smb", &type));
	assert_int_equal(type, CATALOG_REPOSITORY_CIFS);
	assert_false(catalog_repository_type_parse("Local", &type));
	assert_false(catalog_repository_type_parse("", &type));
	assert_false(catalog_repository_type_parse(NULL, &type));
}

static void sizes_and_enabling_are_updated(void **state)
{
	struct fx *fx = *state;
	struct catalog_repository repo, got;

	fx_add_repository(fx, &repo, "main");
	OK(catalog_repository_set_sizes(fx->cat, repo.id, 100 * TIB, 60 * TIB, 40 * TIB, &err));
	OK(catalog_repository_set_enabled(fx->cat, repo.id, false, &err));
	OK(catalog_repository_get(fx->cat, repo.id, &got, &err));
	assert_true(got.total_size_bytes == (int64_t)(100 * TIB) &&
		    got.used_size_bytes == (int64_t)(60 * TIB) &&
		    got.available_size_bytes == (int64_t)(40 * TIB));
	assert_true(got.last_check_at_us >= repo.created_at_us);
	assert_false(got.enabled);
	EXPECT(CATALOG_E_INVALID, catalog_repository_set_sizes(fx->cat, repo.id, -1, 0, 0, &err));
	EXPECT(CATALOG_E_NOT_FOUND,
	       catalog_repository_set_sizes(fx->cat, "repo-none", 1, 1, 0, &err));
	EXPECT(CATALOG_E_NOT_FOUND,
	       catalog_repository_set_enabled(fx->cat, "repo-none", true, &err));
}

static void the_list_is_ordered_and_counts_backups(void **state)
{
	struct fx *fx = *state;
	struct catalog_repository repo, *rows;
	struct fx_ready r;
	struct fx_job j;
	size_t n;

	fx_add_repository(fx, &repo, "zz");
	fx_ready(fx, &r, "pgtest1", 1);
	fx_add_repository(fx, &repo, "aa");
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "a", &j);
	fx_backup(fx, &r, CATALOG_BACKUP_FULL, "b", &j);
	OK(catalog_repositories_list(fx->cat, &rows, &n, &err));
	assert_int_equal(n, 3);
	assert_string_equal(rows[0].name, "aa");
	assert_string_equal(rows[1].name, "main");
	assert_string_equal(rows[2].name, "zz");
	assert_int_equal(rows[1].backup_count, 2);
	assert_int_equal(rows[0].backup_count, 0);
	free(rows);
}

static void a_repository_with_backups_cannot_be_deleted(void **state)
{
	struct fx *fx = *state;
	struct catalog_deletion *rows = NULL;
	size_t n = 0;
	struct fx_ready r;
	struct fx_job j;

	fx_ready(fx, &r, "pgtest1", 1);
	fx_start(fx, &r, CATALOG_BACKUP_FULL, &j);
	EXPECT_TEXT(CATALOG_E_IN_USE, "1 backups",
		    catalog_repository_delete(fx->cat, r.repo.id, &err));
	OK(catalog_backup_fail(fx->cat, j.job.id, CATALOG_JOB_FAILED, "x", &err));
	EXPECT(CATALOG_E_IN_USE, catalog_repository_delete(fx->cat, r.repo.id, &err));
	/* Nor behind the program's back. */
	assert_int_not_equal(tmpdb_try(&fx->t, "DELETE FROM backup_repositories"), 0);
	OK(catalog_backup_delete(fx->cat, j.job.id, false, &rows, &n, &err));
	EXPECT_TEXT(CATALOG_E_IN_USE, "files of 1 deleted backups",
		    catalog_repository_delete(fx->cat, r.repo.id, &err));
	OK(catalog_deletion_done(fx->cat, rows[0].id, &err));
	free(rows);
	OK(catalog_repository_delete(fx->cat, r.repo.id, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_repository_delete(fx->cat, r.repo.id, &err));
}

static void a_context_without_backups_goes_with_its_repository(void **state)
{
	struct fx *fx = *state;
	struct fx_ready r;

	fx_ready(fx, &r, "pgtest1", 1);
	OK(catalog_repository_delete(fx->cat, r.repo.id, &err));
	EXPECT(CATALOG_E_NOT_FOUND,
	       catalog_backup_context_get(fx->cat, r.ctx.context_id, &r.ctx, &err));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FX_TEST(a_repository_is_created_and_found_by_id_and_name),
		FX_TEST(names_are_unique_and_values_are_checked),
		FX_TEST(a_given_id_is_kept),
		cmocka_unit_test(types_have_words_and_smb_means_cifs),
		FX_TEST(sizes_and_enabling_are_updated),
		FX_TEST(the_list_is_ordered_and_counts_backups),
		FX_TEST(a_repository_with_backups_cannot_be_deleted),
		FX_TEST(a_context_without_backups_goes_with_its_repository),
	};

	return tmpdb_run_tests("catalog/repositories", tests, NULL, NULL);
}
