/* Credentials: who gets which password, that nobody else sees it, and changing the keys. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "hub/credentials.h"
#include "hub/secrets.h"
#include "tests/hub/rig.h"

#define MI (1U << 20)

static struct hubrig rig;
static struct rig_vm vm;

static int setup(void **state)
{
	(void)state;
	vm = (struct rig_vm){.name = "pgtest1", .id = "vm-1", .disk_count = 1, .size = {MI}};
	rig_vm_init(&vm);
	hubrig_init(&rig);
	hubrig_start(&rig);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	hubrig_deinit(&rig);
	rig_vm_deinit(&vm);
	return 0;
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

static int64_t add(const char *name, const char *host, const char *password, bool is_default)
{
	struct catalog_credential row = {.is_default = is_default};

	CATALOG_TEXT(row.name, name);
	CATALOG_TEXT(row.host, host);
	CATALOG_TEXT(row.username, "backup@vsphere.local");
	OK(hub_credential_create(rig.hub, &row, password, &err));
	assert_true(row.id > 0 && row.key_id[0]);
	return row.id;
}

static void password_is(int64_t id, const char *host, const char *password)
{
	struct hub_login login;

	OK(hub_login_choose(rig.hub, id, host, &login, &err));
	assert_string_equal(login.password, password);
	hub_login_wipe(&login);
	assert_true(bytes_all_zero(&login, sizeof(login)));
}

static void key_file(char path[320])
{
	snprintf(path, 320, "%s/data/credentials.key", rig.dir);
}

/* Nothing in the data folder, the repository or (on SQLite) the database holds the text. */
static void nowhere_on_disk(const char *text)
{
	assert_int_equal(scratch_run("! grep -rl '%s' '%s'", text, rig.dir), 0);
}

static void the_default_the_named_and_the_configured_login(void **state)
{
	int64_t a, b;

	(void)state;
	password_is(CATALOG_NONE, "", "local");
	a = add("one", "vc1.example", "hunter-one", true);
	b = add("two", "", "hunter-two", false);
	password_is(CATALOG_NONE, "", "hunter-one");
	password_is(0, "VC1.example", "hunter-one");
	password_is(CATALOG_NONE, "vc2.example", "local"); /* not to a stranger */
	password_is(a, "vc1.example", "hunter-one");
	password_is(b, "vc2.example", "hunter-two");
	REFUSED(HUB_E_INVALID, "not for \"vc2.example\"",
		hub_login_choose(rig.hub, a, "vc2.example", &(struct hub_login){0}, &err));
	REFUSED(HUB_E_NOT_FOUND, "no credential 99",
		hub_login_choose(rig.hub, 99, "", &(struct hub_login){0}, &err));
	nowhere_on_disk("hunter");
	assert_int_equal(
		scratch_run("test $(stat -c %%a '%s/data/credentials.key') = 600", rig.dir), 0);
}

static void what_makes_no_sense_is_refused(void **state)
{
	struct catalog_credential row = {.name = ""};
	char longest[HUB_PASSWORD_SIZE + 1];

	(void)state;
	memset(longest, 'x', HUB_PASSWORD_SIZE);
	longest[HUB_PASSWORD_SIZE] = '\0';
	REFUSED(HUB_E_INVALID, "name is missing", hub_credential_create(rig.hub, &row, "p", &err));
	CATALOG_TEXT(row.name, "x");
	REFUSED(HUB_E_INVALID, "username is missing",
		hub_credential_create(rig.hub, &row, "p", &err));
	CATALOG_TEXT(row.username, "u\nv");
	REFUSED(HUB_E_INVALID, "single lines", hub_credential_create(rig.hub, &row, "p", &err));
	CATALOG_TEXT(row.username, "u");
	REFUSED(HUB_E_INVALID, "password is missing",
		hub_credential_create(rig.hub, &row, "", &err));
	REFUSED(HUB_E_INVALID, "longer than", hub_credential_create(rig.hub, &row, longest, &err));
	longest[HUB_PASSWORD_SIZE - 1] = '\0';
	OK(hub_credential_create(rig.hub, &row, longest, &err));
	password_is(row.id, "", longest);
	REFUSED(HUB_E_EXISTS, "\"x\"", hub_credential_create(rig.hub, &row, "p", &err));
}

static void changing_where_it_goes_takes_the_password_again(void **state)
{
	struct hub_credential_change change = {.host = "evil.example"};
	int64_t id = add("one", "vc1.example", "hunter-one", false);

	(void)state;
	REFUSED(HUB_E_INVALID, "password is missing",
		hub_credential_update(rig.hub, id, &change, &err));
	change = (struct hub_credential_change){.username = "other"};
	REFUSED(HUB_E_INVALID, "password is missing",
		hub_credential_update(rig.hub, id, &change, &err));
	change = (struct hub_credential_change){.name = "renamed", .datacenter = "DC2"};
	OK(hub_credential_update(rig.hub, id, &change, &err));
	password_is(id, "vc1.example", "hunter-one");
	change = (struct hub_credential_change){.host = "vc2.example", .password = "hunter-two"};
	OK(hub_credential_update(rig.hub, id, &change, &err));
	password_is(id, "vc2.example", "hunter-two");
	change = (struct hub_credential_change){.password = ""};
	REFUSED(HUB_E_INVALID, "password is missing",
		hub_credential_update(rig.hub, id, &change, &err));
	change = (struct hub_credential_change){.name = ""};
	REFUSED(HUB_E_INVALID, "name is missing",
		hub_credential_update(rig.hub, id, &change, &err));
	REFUSED(HUB_E_NOT_FOUND, "99", hub_credential_update(rig.hub, 99, &change, &err));
	/* Nor does changing the row: the secret is sealed for one host and user. */
	tmpdb_sql(&rig.db, "UPDATE credentials SET host = 'evil.example'");
	REFUSED(-EBADMSG, "renamed",
		hub_login_choose(rig.hub, id, "", &(struct hub_login){0}, &err));
}

static const char *told(json_t *asked, const char *key)
{
	const char *s = json_string_value(json_object_get(asked, key));

	return s ? s : "(none)";
}

static void the_agent_alone_is_told(void **state)
{
	int64_t id = add("one", "vc1", "hunter-one", false);
	struct hub_discovery where = {.credential_id = id, .datacenter = "DC7"};
	struct hub_backup_view view;
	struct hub_added_vm *rows;
	json_t *asked;
	size_t n;

	(void)state;
	hubrig_add_repository(&rig);
	hubrig_show(&rig, &vm, 1);
	OK(hub_add_vms(rig.hub, &where, &vm.name, 1, &rows, &err));
	assert_int_equal(rows[0].vm.credential_id, id);
	free(rows);
	asked = agentpeer_last_discovery(rig.peer);
	assert_string_equal(told(asked, "vcenter"), "vc1");
	assert_string_equal(told(asked, "username"), "backup@vsphere.local");
	assert_string_equal(told(asked, "password"), "hunter-one");
	assert_string_equal(told(asked, "datacenter"), "DC7");
	json_decref(asked);
	OK(hubrig_backup(&rig, vm.name, CATALOG_BACKUP_FULL, &view, &err));
	asked = agentpeer_last_start(rig.peer);
	assert_string_equal(told(asked, "vcenter_host"), "vc1");
	assert_string_equal(told(asked, "vcenter_password"), "hunter-one");
	json_decref(asked);
	rig_finish(&rig, &vm, &view, 1);
	hub_backup_view_deinit(&view);
	nowhere_on_disk("hunter");
	REFUSED(HUB_E_STATE, "1 VMs",
		hub_from_catalog(catalog_credential_delete(hub_catalog(rig.hub), id, &err)));
	OK(hub_credential_test(rig.hub, id, &n, &err));
	assert_int_equal(n, 1);
	snprintf(where.username, sizeof(where.username), "me");
	REFUSED(HUB_E_INVALID, "not both", hub_add_vms(rig.hub, &where, &vm.name, 1, &rows, &err));
}

static void an_agent_that_repeats_the_password_is_not_repeated(void **state)
{
	int64_t id = add("one", "vc1", "hunter-one", true);
	struct hub_backup_view view;
	struct err why = ERR_INIT;

	(void)state;
	hubrig_add_repository(&rig);
	hubrig_add_vm(&rig, &vm);
	agentpeer_set_start(rig.peer, 500, "login backup:hunter-one failed for hunter-one");
	assert_int_equal(hubrig_backup(&rig, vm.name, CATALOG_BACKUP_FULL, &view, &why),
			 HUB_E_AGENT);
	assert_non_null(strstr(why.text, "login backup:********** failed for **********"));
	assert_null(strstr(why.text, "hunter"));
	nowhere_on_disk("hunter");
	agentpeer_set_discovery(rig.peer, NULL);
	REFUSED(HUB_E_AGENT, "404", hub_credential_test(rig.hub, id, &(size_t){0}, &err));
}

/* --- keys ------------------------------------------------------------------------------------- */

static void a_new_key_seals_everything_anew(void **state)
{
	char key[CATALOG_ID_SIZE], path[320];
	int64_t a, b;
	size_t n;

	(void)state;
	key_file(path);
	REFUSED(HUB_E_STATE, path, hub_credentials_rekey(rig.hub, &n, key, &err));
	a = add("one", "vc1", "hunter-one", false);
	b = add("two", "vc2", "hunter-two", false);
	assert_int_equal(scratch_run("cp '%s' '%s/old'", path, rig.dir), 0);
	OK(hub_credentials_rekey(rig.hub, &n, key, &err));
	assert_int_equal(n, 2);
	password_is(a, "", "hunter-one");
	password_is(b, "", "hunter-two");
	assert_int_equal(scratch_run("test $(grep -c ^k- '%s') = 1", path), 0);
	assert_int_equal(scratch_run("grep -q '^%s ' '%s'", key, path), 0);
	/* The old file opens nothing. */
	hubrig_stop(&rig);
	assert_int_equal(scratch_run("mv '%s/old' '%s'", rig.dir, path), 0);
	hubrig_start(&rig);
	REFUSED(-ENOKEY, key, hub_login_choose(rig.hub, a, "", &(struct hub_login){0}, &err));
	REFUSED(-ENOKEY, key, hub_credentials_rekey(rig.hub, &n, key, &err));
}

static void a_lost_key_file_is_said_and_not_made_anew(void **state)
{
	struct catalog_credential row = {.name = "two", .username = "u"};
	char path[320], kept[340];
	int64_t id;

	(void)state;
	key_file(path);
	snprintf(kept, sizeof(kept), "%s.kept", path);
	id = add("one", "vc1", "hunter-one", false);
	hubrig_stop(&rig);
	assert_int_equal(rename(path, kept), 0);
	hubrig_start(&rig);
	REFUSED(-ENOKEY, path, hub_login_choose(rig.hub, id, "", &(struct hub_login){0}, &err));
	REFUSED(-ENOKEY, "restore it", hub_credential_create(rig.hub, &row, "p", &err));
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(rename(kept, path), 0);
	password_is(id, "", "hunter-one");
}

static void put_a_new_key_in_front(const char *path)
{
	struct secrets *s = secrets_new(path);

	OK(secrets_load(s, &err));
	OK(secrets_add_key(s, &err));
	secrets_free(s);
}

/* What a crash may leave: the new key in the file, and none or some of the secrets sealed with it.
 */
static void a_change_of_keys_that_was_cut_off_is_ended_by_the_next_start(void **state)
{
	char path[320];
	int64_t a, b;

	(void)state;
	key_file(path);
	a = add("one", "vc1", "hunter-one", false);
	put_a_new_key_in_front(path);
	hubrig_stop(&rig);
	hubrig_start(&rig);
	assert_int_equal(scratch_run("test $(grep -c ^k- '%s') = 1", path), 0);
	password_is(a, "", "hunter-one");

	put_a_new_key_in_front(path);
	b = add("two", "vc2", "hunter-two", false);
	assert_int_equal(tmpdb_i64(&rig.db, "SELECT COUNT(DISTINCT key_id) FROM credentials"), 2);
	password_is(a, "", "hunter-one");
	hubrig_stop(&rig);
	hubrig_start(&rig);
	assert_int_equal(tmpdb_i64(&rig.db, "SELECT COUNT(DISTINCT key_id) FROM credentials"), 1);
	assert_int_equal(scratch_run("test $(grep -c ^k- '%s') = 1", path), 0);
	password_is(a, "", "hunter-one");
	password_is(b, "", "hunter-two");
}

static void the_key_file_may_be_elsewhere(void **state)
{
	char path[320];

	(void)state;
	hubrig_stop(&rig);
	snprintf(path, sizeof(path), "%s/elsewhere.key", rig.dir);
	rig.config.credentials_key = path;
	hubrig_start(&rig);
	password_is(add("one", "vc1", "hunter-one", false), "", "hunter-one");
	assert_int_equal(access(path, F_OK), 0);
	key_file(path);
	assert_int_equal(access(path, F_OK), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(the_default_the_named_and_the_configured_login),
		T(what_makes_no_sense_is_refused),
		T(changing_where_it_goes_takes_the_password_again),
		T(the_agent_alone_is_told),
		T(an_agent_that_repeats_the_password_is_not_repeated),
		T(a_new_key_seals_everything_anew),
		T(a_lost_key_file_is_said_and_not_made_anew),
		T(a_change_of_keys_that_was_cut_off_is_ended_by_the_next_start),
		T(the_key_file_may_be_elsewhere),
	};

	return tmpdb_run_tests("hub/credentials", tests, NULL, NULL);
}
