/* Credentials: rows with a secret the catalog does not understand, one default, used by VMs. */
#include "catalog/credentials.h"
#include "tests/catalog/fixture.h"

static void add(struct fx *fx, struct catalog_credential *row, const char *name, bool is_default)
{
	*row = (struct catalog_credential){.is_default = is_default};
	CATALOG_TEXT(row->name, name);
	CATALOG_TEXT(row->host, "vc1.example");
	CATALOG_TEXT(row->username, "backup@vsphere.local");
	CATALOG_TEXT(row->datacenter, "DC1");
	CATALOG_TEXT(row->secret, "v1:sealed");
	CATALOG_TEXT(row->key_id, "k-1");
	OK(catalog_credential_create(fx->cat, row, &err));
}

static void a_credential_is_created_and_read_back(void **state)
{
	struct fx *fx = *state;
	struct catalog_credential a, b, got, *rows;
	size_t n;

	add(fx, &b, "second", false);
	add(fx, &a, "first", true);
	assert_true(a.id > b.id && a.created_at_us > 0 && a.is_default && a.vm_count == 0);
	OK(catalog_credential_get(fx->cat, a.id, &got, &err));
	assert_memory_equal(&got, &a, sizeof(got));
	assert_string_equal(got.secret, "v1:sealed");
	OK(catalog_credentials_list(fx->cat, &rows, &n, &err));
	assert_int_equal(n, 2);
	assert_string_equal(rows[0].name, "first");
	assert_string_equal(rows[1].name, "second");
	free(rows);
	EXPECT_TEXT(CATALOG_E_NOT_FOUND, "no credential 99",
		    catalog_credential_get(fx->cat, 99, &got, &err));
	assert_string_equal(catalog_credential_kind_name(CATALOG_CREDENTIAL_AZURE), "azure");
}

static void what_makes_no_sense_is_refused(void **state)
{
	struct fx *fx = *state;
	struct catalog_credential row, again;

	add(fx, &row, "main", false);
	again = row;
	EXPECT_TEXT(CATALOG_E_EXISTS, "\"main\"", catalog_credential_create(fx->cat, &again, &err));
	CATALOG_TEXT(again.name, "");
	EXPECT(CATALOG_E_INVALID, catalog_credential_create(fx->cat, &again, &err));
	CATALOG_TEXT(again.name, "x");
	again.kind = 9;
	EXPECT(CATALOG_E_INVALID, catalog_credential_create(fx->cat, &again, &err));
	again.kind = 0;
	again.secret[0] = '\0';
	EXPECT(CATALOG_E_INVALID, catalog_credential_create(fx->cat, &again, &err));
	assert_int_equal(tmpdb_i64(&fx->t, "SELECT COUNT(*) FROM credentials"), 1);
}

static void there_is_at_most_one_default(void **state)
{
	struct fx *fx = *state;
	struct catalog_credential a, b, got;

	EXPECT(CATALOG_E_NOT_FOUND, catalog_credential_get_default(fx->cat, &got, &err));
	add(fx, &a, "a", true);
	add(fx, &b, "b", true);
	OK(catalog_credential_get_default(fx->cat, &got, &err));
	assert_int_equal(got.id, b.id);
	OK(catalog_credential_set_default(fx->cat, a.id, true, &err));
	OK(catalog_credential_get_default(fx->cat, &got, &err));
	assert_int_equal(got.id, a.id);
	/* One that does not exist takes it from nobody. */
	EXPECT(CATALOG_E_NOT_FOUND, catalog_credential_set_default(fx->cat, 99, true, &err));
	OK(catalog_credential_get_default(fx->cat, &got, &err));
	assert_int_equal(got.id, a.id);
	OK(catalog_credential_set_default(fx->cat, a.id, false, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_credential_get_default(fx->cat, &got, &err));
}

static void a_change_keeps_what_it_does_not_name(void **state)
{
	struct fx *fx = *state;
	struct catalog_credential row, other, got;
	struct catalog_credential_change change = {.name = "new", .datacenter = ""};

	add(fx, &row, "old", true);
	add(fx, &other, "other", false);
	OK(catalog_credential_update(fx->cat, row.id, &change, &err));
	OK(catalog_credential_get(fx->cat, row.id, &got, &err));
	assert_string_equal(got.name, "new");
	assert_string_equal(got.datacenter, "");
	assert_string_equal(got.host, "vc1.example");
	assert_string_equal(got.secret, "v1:sealed");
	assert_true(got.is_default && got.updated_at_us >= row.updated_at_us);
	change = (struct catalog_credential_change){.secret = "v1:other", .key_id = "k-2"};
	OK(catalog_credential_update(fx->cat, row.id, &change, &err));
	OK(catalog_credential_get(fx->cat, row.id, &got, &err));
	assert_string_equal(got.secret, "v1:other");
	assert_string_equal(got.key_id, "k-2");
	change = (struct catalog_credential_change){.name = "other"};
	EXPECT(CATALOG_E_EXISTS, catalog_credential_update(fx->cat, row.id, &change, &err));
	change = (struct catalog_credential_change){.name = ""};
	EXPECT(CATALOG_E_INVALID, catalog_credential_update(fx->cat, row.id, &change, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_credential_update(fx->cat, 99, &change, &err));
}

static void one_that_a_vm_uses_stays(void **state)
{
	struct fx *fx = *state;
	struct catalog_credential row, got;
	struct fx_vm v;

	add(fx, &row, "main", false);
	fx_describe_vm(&v, "pgtest1", "vc1.example", 1);
	v.vm.credential_id = row.id + 1;
	EXPECT_TEXT(CATALOG_E_INVALID, "no credential",
		    catalog_vm_context_upsert(fx->cat, &v.vm, v.disks, v.n, NULL, &err));
	v.vm.credential_id = row.id;
	OK(catalog_vm_context_upsert(fx->cat, &v.vm, v.disks, v.n, NULL, &err));
	OK(catalog_credential_get(fx->cat, row.id, &got, &err));
	assert_int_equal(got.vm_count, 1);
	EXPECT_TEXT(CATALOG_E_IN_USE, "1 VMs", catalog_credential_delete(fx->cat, row.id, &err));
	OK(catalog_vm_context_delete(fx->cat, v.vm.context_id, &err));
	OK(catalog_credential_delete(fx->cat, row.id, &err));
	EXPECT(CATALOG_E_NOT_FOUND, catalog_credential_delete(fx->cat, row.id, &err));
	/* Its number is not given to another one. */
	add(fx, &got, "next", false);
	assert_true(got.id > row.id);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FX_TEST(a_credential_is_created_and_read_back),
		FX_TEST(what_makes_no_sense_is_refused),
		FX_TEST(there_is_at_most_one_default),
		FX_TEST(a_change_keeps_what_it_does_not_name),
		FX_TEST(one_that_a_vm_uses_stays),
	};

	return tmpdb_run_tests("catalog/credentials", tests, NULL, NULL);
}
