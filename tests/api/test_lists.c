/* Pages, order and filters: the same for every list. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "api/list.h"
#include "tests/support/apirig.h"

/* The rows' names, joined; the next page in @next ("": none) when it is not NULL. */
static long names(const char *path, const char *list, const char *member, char *out, size_t size,
		  char *next, int64_t *total)
{
	struct apiclient_reply reply;
	char link[1024];
	json_t *body, *row;
	long status;
	size_t i;

	apirig_run("GET", path, NULL, NULL, &reply);
	body = json_loads(reply.text, 0, NULL);
	out[0] = '\0';
	json_array_foreach (json_object_get(body, list), i, row)
		snprintf(out + strlen(out), size - strlen(out), "%s%s", i ? " " : "",
			 json_string_value(json_object_get(row, member)));
	if (total)
		*total = json_integer_value(json_object_get(body, "total"));
	if (next) {
		apiclient_header(&reply, "Link", link, sizeof(link));
		next[0] = '\0';
		if (link[0])
			assert_int_equal(sscanf(link, "<%1000[^>]>; rel=\"next\"", next), 1);
	}
	json_decref(body);
	status = reply.status;
	apiclient_deinit(&reply);
	return status;
}

static void expect(const char *path, const char *list, const char *member, const char *wanted)
{
	char got[1024];

	assert_int_equal(names(path, list, member, got, sizeof(got), NULL, NULL), 200);
	if (strcmp(got, wanted))
		fail_msg("%s: wanted \"%s\", got \"%s\"", path, wanted, got);
}

static void refuse_list(const char *path)
{
	char got[1024];

	if (names(path, "x", "x", got, sizeof(got), NULL, NULL) != 400)
		fail_msg("%s was not refused", path);
}

static void add_repository(const char *name)
{
	struct catalog_repository repo = {.enabled = true};
	struct err err = ERR_INIT;

	CATALOG_TEXT(repo.name, name);
	snprintf(repo.config, sizeof(repo.config), "{\"path\":\"%s/%s\"}", rig.dir, name);
	rig_must(hub_repository_create(rig.hub, &repo, &err), &err, "repository");
}

static void a_short_list_is_sorted_and_cut(void **state)
{
	(void)state;
	add_repository("b");
	add_repository("c");
	add_repository("a");
#define REPOS(query) "/api/v1/repositories" query, "repositories", "name"
	expect(REPOS(""), "a b c");
	expect(REPOS("?sort=-name"), "c b a");
	expect(REPOS("?sort=created_at"), "b c a");
	expect(REPOS("?sort=-created_at"), "a c b");
	expect(REPOS("?sort=enabled"), "a b c");
	expect(REPOS("?limit=2"), "a b");
	expect(REPOS("?limit=2&offset=2"), "c");
	expect(REPOS("?offset=7"), "");
	refuse_list("/api/v1/repositories?sort=config");
	refuse_list("/api/v1/repositories?sort=name%2Cid");
	refuse_list("/api/v1/repositories?limit=0");
	refuse_list("/api/v1/repositories?limit=1001");
	refuse_list("/api/v1/repositories?offset=-1");
}

static void add_vms(const char *const *vm_names, size_t n)
{
	struct hub_discovery where = {.credential_id = CATALOG_NONE};
	struct hub_added_vm *rows = NULL;
	struct rig_vm vms[8] = {{.name = NULL}};
	char ids[8][16];
	struct err err = ERR_INIT;

	for (size_t i = 0; i < n; i++) {
		snprintf(ids[i], sizeof(ids[i]), "vm-%zu", i);
		vms[i] = (struct rig_vm){
			.name = vm_names[i], .id = ids[i], .disk_count = 1, .size = {1 << 20}};
		vms[i].key[0] = 2000;
	}
	hubrig_show(&rig, vms, n);
	rig_must(hub_add_vms(rig.hub, &where, vm_names, n, &rows, &err), &err, "add-vms");
	free(rows);
}

/* Pages lead from one to the next, keep what was asked besides, and end. */
static void pages_lead_through_the_whole_list(void **state)
{
	static const char *const vms[] = {"delta", "alpha", "echo", "bravo", "charlie"};
	char got[1024], next[1024], all[2048] = "";
	int64_t total;
	int pages = 0;

	(void)state;
	add_vms(vms, ARRAY_SIZE(vms));
	strcpy(next, "/api/v1/vm-contexts?sort=-name&limit=2&vcenter_host=vc1");
	while (next[0]) {
		char path[1024];

		strcpy(path, next);
		assert_int_equal(
			names(path, "vm_contexts", "vm_name", got, sizeof(got), next, &total), 200);
		assert_int_equal(total, 5);
		strcat(strcat(all, got), "|");
		assert_true(++pages < 10);
	}
	assert_string_equal(all, "echo delta|charlie bravo|alpha|");
#define VMS(query) "/api/v1/vm-contexts" query, "vm_contexts", "vm_name"
	expect(VMS(""), "alpha bravo charlie delta echo");
	expect(VMS("?vm_name=echo"), "echo");
	expect(VMS("?vcenter_host=elsewhere"), "");
	expect(VMS("?sort=created_at&limit=1"), "delta");
	refuse_list("/api/v1/vm-contexts?sort=networks");
}

static void backups_are_sorted_filtered_and_cut(void **state)
{
	char ids[3][CATALOG_ID_SIZE], wanted[300];

	(void)state;
	hubrig_add_repository(&rig);
	hubrig_add_vm(&rig, &vm);
	for (int i = 0; i < 3; i++)
		rig_full(&rig, &vm, i + 1, ids[i]);
#define BACKUPS(query) "/api/v1/backups" query, "backups", "backup_id"
	snprintf(wanted, sizeof(wanted), "%s %s %s", ids[2], ids[1], ids[0]);
	expect(BACKUPS(""), wanted);
	expect(BACKUPS("?sort=-started_at&status=completed"), wanted);
	expect(BACKUPS("?limit=1&offset=1"), ids[1]);
	snprintf(wanted, sizeof(wanted), "%s %s %s", ids[0], ids[1], ids[2]);
	expect(BACKUPS("?sort=created_at&vm_name=pgtest1"), wanted);
	expect(BACKUPS("?sort=completed_at&backup_type=full"), wanted);
	expect(BACKUPS("?backup_type=incremental"), "");
	refuse_list("/api/v1/backups?sort=tags");
	refuse_list("/api/v1/backups?limit=many");
}

/* An offset that came twice, or with other letters around it, is not carried on. */
static void the_next_page_replaces_the_offset(void **state)
{
	char got[1024], next[1024];

	(void)state;
	add_repository("a");
	add_repository("b");
	add_repository("c");
	names("/api/v1/repositories?offset=1&limit=1&offset=1&sort=name", "repositories", "name",
	      got, sizeof(got), next, NULL);
	assert_string_equal(got, "b");
	assert_string_equal(next, "/api/v1/repositories?limit=1&sort=name&offset=2");
	names("/api/v1/repositories?limit=1&x=%3E", "repositories", "name", got, sizeof(got), next,
	      NULL);
	assert_string_equal(next, "/api/v1/repositories?limit=1&x=%3E&offset=1");
}

#define T(name) cmocka_unit_test_setup_teardown(name, apirig_setup, apirig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_short_list_is_sorted_and_cut),
		T(pages_lead_through_the_whole_list),
		T(backups_are_sorted_filtered_and_cut),
		T(the_next_page_replaces_the_offset),
	};

	return tmpdb_run_tests("api/lists", tests, NULL, NULL);
}
