/* Where the tunnel's keys are kept, what they may reach, and what changes under a running hub. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "hub/appliances.h"
#include "hub/tunnel.h"
#include "tests/hub/rig.h"

#define KEY "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"

static struct hubrig rig;
static char keys[400], custom[400];

static int setup(void **state)
{
	(void)state;
	hubrig_init(&rig);
	snprintf(keys, sizeof(keys), "%s/data/tunnel/authorized_keys", rig.dir);
	snprintf(custom, sizeof(custom), "%s/elsewhere/keys", rig.dir);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	hubrig_deinit(&rig);
	return 0;
}

static bool has(const char *path, const char *part)
{
	char text[4096];
	FILE *f = fopen(path, "r");
	size_t n = f ? fread(text, 1, sizeof(text) - 1, f) : 0;

	text[n] = '\0';
	if (f)
		fclose(f);
	return strstr(text, part) != NULL;
}

/* An approved enrollment, as if its appliance had signed. */
static void approve(char id[CATALOG_ID_SIZE])
{
	const struct catalog_decision decision = {CATALOG_ENROLLMENT_APPROVED, "ann", ""};
	struct catalog_enrollment row;
	struct hub_pairing pairing;
	struct err err = ERR_INIT;
	struct hub_enroll asked = {.public_key = KEY, .name = "vma", .version = "", .remote = ""};

	rig_must(hub_pairing_create(rig.hub, "ann", 0, &pairing, &err), &err, "pairing");
	asked.pairing_code = pairing.code;
	rig_must(hub_enroll_begin(rig.hub, &asked, &row, &err), &err, "enroll");
	rig_must(catalog_enrollment_verified(hub_catalog(rig.hub), row.id, &err), &err, "verified");
	rig_must(hub_enroll_decide(rig.hub, row.id, &decision, &row, &err), &err, "approve");
	strcpy(id, row.id);
}

static void the_file_is_where_it_is_configured_to_be(void **state)
{
	char id[CATALOG_ID_SIZE];

	(void)state;
	rig.config.tunnel_keys = custom;
	hubrig_start(&rig);
	/* Before the listeners are known there is nothing to permit, and no file. */
	approve(id);
	assert_int_not_equal(access(custom, F_OK), 0);
	hub_tunnel_open(rig.hub, "127.0.0.1:8082");
	assert_true(has(custom, KEY));
	assert_int_not_equal(access(keys, F_OK), 0);
}

static void it_can_be_off(void **state)
{
	char id[CATALOG_ID_SIZE];

	(void)state;
	rig.config.tunnel_keys = "off";
	hubrig_start(&rig);
	hub_tunnel_open(rig.hub, "127.0.0.1:8082");
	approve(id);
	assert_int_not_equal(access(keys, F_OK), 0);
}

static void what_makes_no_sense_is_refused_at_the_start(void **state)
{
	static const char *const listen[] = {"127.0.0.1:0"};
	char data[300];
	struct hub_config config;
	struct err err = ERR_INIT;

	(void)state;
	snprintf(data, sizeof(data), "%s/data", rig.dir);
	rig.config.data_dir = data;
	rig.config.nbd_listen = listen;
	rig.config.nbd_listen_count = 1;
	config = rig.config;
	config.tunnel_keys = "keys";
	assert_int_equal(hub_start(&rig.hub, &config, &err), HUB_E_INVALID);
	assert_non_null(strstr(err.text, "absolute path"));
	config = rig.config;
	config.tunnel_user = "vma tunnel -o ProxyCommand=x";
	assert_int_equal(hub_start(&rig.hub, &config, &err), HUB_E_INVALID);
	assert_non_null(strstr(err.text, "tunnel_user"));
	rig.hub = NULL;
}

static void targets_are_named_as_they_are_asked_for(void **state)
{
	struct hub_tunnel_info info;
	char id[CATALOG_ID_SIZE];

	(void)state;
	hubrig_start(&rig);
	hub_tunnel_open(rig.hub, "0.0.0.0:8082,[::1]:8083,unix:/run/x,here:8084,127.0.0.1:0,"
				 "127.0.0.1\":1,127.0.0.1:65536");
	approve(id);
	assert_true(has(keys, "permitopen=\"127.0.0.1:8082\",permitopen=\"localhost:8082\","
			      "permitopen=\"[::1]:8083\",permitopen=\"127.0.0.1:"));
	assert_false(has(keys, "here:8084"));
	assert_false(has(keys, "unix"));
	assert_false(has(keys, "127.0.0.1:0\""));
	assert_false(has(keys, "65536"));
	assert_int_equal(scratch_run("ssh-keygen -lf '%s' >/dev/null", keys), 0);
	hub_tunnel_describe(rig.hub, &info);
	assert_non_null(strstr(info.options, "-L 127.0.0.1:8082:127.0.0.1:8082"));
	assert_non_null(strstr(info.options, "-L 127.0.0.1:8083:[::1]:8083"));
}

static void appliances_are_told_the_hosts_key(void **state)
{
	char path[400], said[200];
	struct hub_tunnel_info info;
	FILE *f;

	(void)state;
	snprintf(path, sizeof(path), "%s/host.pub", rig.dir);
	assert_int_equal(scratch_run("ssh-keygen -q -t ecdsa -N '' -f '%s/host' && ssh-keygen -lf "
				     "'%s/host' | cut -d' ' -f2 >'%s/said'",
				     rig.dir, rig.dir, rig.dir),
			 0);
	rig.config.tunnel_host_key = path;
	rig.config.tunnel_user = "backup";
	rig.config.tunnel_port = 2222;
	hubrig_start(&rig);
	hub_tunnel_describe(rig.hub, &info);
	snprintf(path, sizeof(path), "%s/said", rig.dir);
	f = fopen(path, "r");
	assert_non_null(fgets(said, sizeof(said), f));
	fclose(f);
	said[strcspn(said, "\n")] = '\0';
	assert_string_equal(info.host_key_hash, said);
	assert_string_equal(info.user, "backup");
	assert_int_equal(strncmp(info.options, "-p 2222 ", 8), 0);
	assert_int_equal(scratch_run("rm '%s/host.pub'", rig.dir), 0);
	hub_tunnel_describe(rig.hub, &info);
	assert_string_equal(info.host_key_hash, "");
}

static bool comes_to_have(const char *part)
{
	for (int i = 0; i < 6000 && !has(keys, part); i++)
		nanosleep(&(struct timespec){.tv_nsec = 10 * 1000000L}, NULL);
	return has(keys, part);
}

static void another_agent_url_is_another_port(void **state)
{
	struct hub_config config;
	char id[CATALOG_ID_SIZE];
	struct err err = ERR_INIT;

	(void)state;
	hubrig_start(&rig);
	hub_tunnel_open(rig.hub, "127.0.0.1:8082");
	approve(id);
	config = rig.config;
	config.agent_url = "http://127.0.0.1:19081/api/v1";
	rig_must(hub_reconfigure(rig.hub, &config, &err), &err, "reconfigure");
	/* The watch-dog writes it. */
	assert_true(comes_to_have("permitlisten=\"19081\" " KEY));
}

/* A hub that did not hear of it is told by the catalog. */
static void what_another_hub_revoked_goes_too(void **state)
{
	char id[CATALOG_ID_SIZE];
	struct err err = ERR_INIT;

	(void)state;
	hubrig_start(&rig);
	hub_tunnel_open(rig.hub, "127.0.0.1:8082");
	approve(id);
	assert_true(has(keys, id));
	tmpdb_sql(&rig.db,
		  "UPDATE appliance_enrollments SET status = 'revoked', approved_key = NULL");
	rig_must(hub_tunnel_sync(rig.hub, &err), &err, "sync");
	assert_false(has(keys, id));
}

/* Whoever looks at the file would wait for a writer, and backups with the watch-dog. */
static void what_is_no_file_is_replaced(void **state)
{
	struct hub_tunnel_info info;
	char id[CATALOG_ID_SIZE], host_key[400];
	struct err err = ERR_INIT;

	(void)state;
	snprintf(host_key, sizeof(host_key), "%s/host.pub", rig.dir);
	assert_int_equal(mkfifo(host_key, 0600), 0);
	rig.config.tunnel_host_key = host_key;
	hubrig_start(&rig);
	hub_tunnel_open(rig.hub, "127.0.0.1:8082");
	approve(id);
	assert_int_equal(unlink(keys), 0);
	assert_int_equal(mkfifo(keys, 0600), 0);
	alarm(60);
	rig_must(hub_tunnel_sync(rig.hub, &err), &err, "sync");
	hub_tunnel_describe(rig.hub, &info);
	alarm(0);
	assert_true(has(keys, id));
	assert_string_equal(info.host_key_hash, "");
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(the_file_is_where_it_is_configured_to_be),
		T(it_can_be_off),
		T(what_makes_no_sense_is_refused_at_the_start),
		T(targets_are_named_as_they_are_asked_for),
		T(appliances_are_told_the_hosts_key),
		T(another_agent_url_is_another_port),
		T(what_another_hub_revoked_goes_too),
		T(what_is_no_file_is_replaced),
	};

	return tmpdb_run_tests("hub/tunnel", tests, NULL, NULL);
}
