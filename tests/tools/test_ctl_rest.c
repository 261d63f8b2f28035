/* sendense-ctl's way to the hub, against a server that answers as told over real HTTP. */
#include <curl/curl.h>
#include <microhttpd.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "tools/ctl.h"
#include "tools/ctl_rest.h"

/* What the server answers next, and what it was asked last (as sent, before any unescaping). */
static struct {
	unsigned status;
	const char *text;
	const char *next; /* for what asks with an offset; NULL: the same text */
	char asked[512];
	char body[512];
} script;

static struct ctl_rest *rest;
static struct MHD_Daemon *server;

static void *on_uri(void *arg, const char *uri, struct MHD_Connection *connection)
{
	(void)arg, (void)connection;
	snprintf(script.asked, sizeof(script.asked), "%s", uri);
	return NULL;
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *url,
				  const char *method, const char *version, const char *data,
				  size_t *size, void **state)
{
	static int begun;
	struct MHD_Response *response;
	const char *text;
	enum MHD_Result res;

	(void)arg, (void)url, (void)method, (void)version;
	if (!*state) {
		*state = &begun;
		script.body[0] = '\0';
		return MHD_YES;
	}
	if (*size) {
		strncat(script.body, data, MIN(*size, sizeof(script.body) - 1));
		*size = 0;
		return MHD_YES;
	}
	text = script.next && strstr(script.asked, "offset=") ? script.next : script.text;
	response =
		MHD_create_response_from_buffer(strlen(text), (char *)text, MHD_RESPMEM_PERSISTENT);
	res = MHD_queue_response(connection, script.status, response);
	MHD_destroy_response(response);
	return res;
}

static int set_up(void **state)
{
	char url[64];

	(void)state;
	server = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD, 0, NULL, NULL, on_request, NULL,
				  MHD_OPTION_URI_LOG_CALLBACK, on_uri, NULL, MHD_OPTION_END);
	assert_non_null(server);
	snprintf(url, sizeof(url), "http://127.0.0.1:%u//",
		 MHD_get_daemon_info(server, MHD_DAEMON_INFO_BIND_PORT)->port);
	return ctl_rest_open(&rest, url, "", NULL);
}

static int tear_down(void **state)
{
	(void)state;
	ctl_rest_close(rest);
	MHD_stop_daemon(server);
	return 0;
}

static int ask(unsigned status, const char *text, struct err *err)
{
	json_t *reply = NULL;
	int res;

	script.status = status;
	script.text = text;
	*err = ERR_INIT;
	res = ctl_rest_get(rest, "/api/v1/backups", NULL, NULL, NULL, &reply, err);
	json_decref(reply);
	return res;
}

static void statuses_become_exit_statuses_with_the_hubs_own_words(void **state)
{
	static const struct {
		unsigned status;
		const char *text;
		int res;
		const char *says;
	} cases[] = {
		{200, "{}", CTL_OK, ""},
		{201, "{\"id\":\"x\"}", CTL_OK, ""},
		{401, "{\"error\":\"no token\"}", CTL_DENIED,
		 "no token; name a file with a valid one by --token-file, or set SENDENSE_TOKEN"},
		{403, "{\"error\":\"needs admin\"}", CTL_DENIED, "needs admin"},
		{404, "{\"error\":\"no such backup\"}", CTL_NOT_FOUND, "no such backup"},
		{409, "{\"error\":\"VM is busy\",\"details\":\"backup-1\"}", CTL_CONFLICT,
		 "VM is busy: backup-1"},
		{400, "{\"error\":\"bad\",\"details\":\"bad\"}", CTL_FAILED, "bad"},
		{500, "{\"error\":\"broken\",\"details\":\"\"}", CTL_FAILED, "broken"},
	};
	struct err err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_int_equal(ask(cases[i].status, cases[i].text, &err), cases[i].res);
		assert_string_equal(err.text, cases[i].says);
	}
}

static void an_answer_that_is_no_hubs_is_called_so(void **state)
{
	struct err err;

	(void)state;
	assert_int_equal(ask(200, "<html>", &err), CTL_FAILED);
	assert_non_null(strstr(err.text, "is it a sendense hub?"));
	assert_int_equal(ask(200, "", &err), CTL_FAILED);
	assert_int_equal(ask(502, "<html>", &err), CTL_FAILED);
	assert_non_null(strstr(err.text, "HTTP 502"));
	assert_int_equal(ask(500, "{\"error\":7}", &err), CTL_FAILED);
}

static void names_are_escaped_wherever_they_stand(void **state)
{
	const struct ctl_query query[] = {
		{"vm_name", "a&b=c d\xc3\xbc"}, {"skipped", NULL}, {"disk_id", "0"}, {NULL, NULL}};
	struct err err = ERR_INIT;
	json_t *reply = NULL;

	(void)state;
	script.status = 200;
	script.text = "{}";
	assert_int_equal(ctl_rest_get(rest, "/x", "../a/b?c", "/disks", query, &reply, &err),
			 CTL_OK);
	assert_string_equal(script.asked,
			    "/x/..%2Fa%2Fb%3Fc/disks?vm_name=a%26b%3Dc%20d%C3%BC&disk_id=0");
	json_decref(reply);
}

static void a_body_is_sent_as_json_and_consumed(void **state)
{
	struct err err = ERR_INIT;
	json_t *reply = NULL;

	(void)state;
	script.status = 200;
	script.text = "{\"ok\":true}";
	assert_int_equal(
		ctl_rest_post(rest, "/x", json_pack("{s:s}", "vm_name", "a\"b"), &reply, &err),
		CTL_OK);
	assert_string_equal(script.body, "{\"vm_name\":\"a\\\"b\"}");
	assert_true(json_is_true(json_object_get(reply, "ok")));
	json_decref(reply);
	/* json_pack() gives NULL for a name that is not UTF-8. */
	assert_int_equal(
		ctl_rest_post(rest, "/x", json_pack("{s:s}", "vm_name", "\xff"), &reply, &err),
		CTL_USAGE);
}

static void nobody_there_is_told_apart_from_a_refusal(void **state)
{
	struct ctl_rest *nobody = NULL;
	struct err err = ERR_INIT;
	json_t *reply = NULL;

	(void)state;
	assert_int_equal(ctl_rest_open(&nobody, "http://127.0.0.1:1", "", &err), CTL_OK);
	assert_int_equal(ctl_rest_get(nobody, "/health", NULL, NULL, NULL, &reply, &err),
			 CTL_UNREACHABLE);
	assert_non_null(strstr(err.text, "--hub"));
	assert_null(reply);
	ctl_rest_close(nobody);
	assert_int_equal(ctl_rest_open(&nobody, "hub:8082", "", &err), CTL_USAGE);
	assert_int_equal(ctl_rest_open(&nobody, "file:///etc/passwd", "", &err), CTL_USAGE);
}

static void a_list_is_read_to_its_end(void **state)
{
	const struct ctl_query query[] = {{"vm_name", "a"}, {NULL, NULL}};
	struct err err = ERR_INIT;
	json_t *reply = NULL;

	(void)state;
	script.status = 200;
	script.text = "{\"rows\":[1,2],\"total\":3}";
	script.next = "{\"rows\":[3],\"total\":3}";
	assert_int_equal(ctl_rest_list(rest, "/x", "rows", query, &reply, &err), CTL_OK);
	assert_int_equal(json_array_size(json_object_get(reply, "rows")), 3);
	assert_string_equal(script.asked, "/x?vm_name=a&offset=2");
	json_decref(reply);
	/* Rows went away meanwhile. */
	script.next = "{\"rows\":[],\"total\":3}";
	assert_int_equal(ctl_rest_list(rest, "/x", "rows", NULL, &reply, &err), CTL_OK);
	assert_int_equal(json_array_size(json_object_get(reply, "rows")), 2);
	json_decref(reply);
	script.next = "{\"error\":\"no\"}";
	script.text = "{\"rows\":[],\"total\":0}";
	assert_int_equal(ctl_rest_list(rest, "/x", "rows", NULL, &reply, &err), CTL_OK);
	json_decref(reply);
	script.next = NULL;
}

struct taken {
	char text[100];
	size_t len, room; /* more than room is refused */
};

static int take(void *arg, const void *data, size_t len)
{
	struct taken *t = arg;

	if (len > t->room - t->len)
		return -1;
	memcpy(t->text + t->len, data, len);
	t->len += len;
	return 0;
}

static int fetch(unsigned status, const char *text, struct taken *t, struct err *err)
{
	static const struct ctl_query query[] = {{"path", "/a b"}, {NULL, NULL}};

	script.status = status;
	script.text = text;
	*err = ERR_INIT;
	return ctl_rest_fetch(rest, "/api/v1/restore", "mount-1", "/download", query, "0-9", take,
			      t, err);
}

static bool stop_at_once(void)
{
	return true;
}

static void what_is_fetched_goes_to_its_sink_and_errors_do_not(void **state)
{
	struct taken t = {.room = sizeof(t.text)};
	struct err err;

	(void)state;
	assert_int_equal(fetch(206, "some bytes", &t, &err), CTL_OK);
	assert_int_equal(t.len, 10);
	assert_memory_equal(t.text, "some bytes", 10);
	assert_string_equal(script.asked, "/api/v1/restore/mount-1/download?path=%2Fa%20b");
	assert_int_equal(fetch(404, "{\"error\":\"there is no mount\"}", &t, &err), CTL_NOT_FOUND);
	assert_string_equal(err.text, "there is no mount");
	assert_int_equal(t.len, 10);
	assert_int_equal(fetch(500, "no JSON", &t, &err), CTL_FAILED);
	assert_int_equal(fetch(200, "", &t, &err), CTL_OK);
	/* The sink has had enough, or somebody has. */
	t = (struct taken){.room = 3};
	assert_int_equal(fetch(200, "some bytes", &t, &err), CTL_FAILED);
	t = (struct taken){.room = sizeof(t.text)};
	ctl_rest_set_stop(rest, stop_at_once);
	assert_int_equal(fetch(200, "some bytes", &t, &err), CTL_FAILED);
	ctl_rest_set_stop(rest, NULL);
	assert_int_equal(fetch(200, "some bytes", &t, &err), CTL_OK);
	/* Other calls are as before. */
	assert_int_equal(ask(200, "{}", &err), CTL_OK);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(statuses_become_exit_statuses_with_the_hubs_own_words),
		cmocka_unit_test(an_answer_that_is_no_hubs_is_called_so),
		cmocka_unit_test(names_are_escaped_wherever_they_stand),
		cmocka_unit_test(a_list_is_read_to_its_end),
		cmocka_unit_test(what_is_fetched_goes_to_its_sink_and_errors_do_not),
		cmocka_unit_test(a_body_is_sent_as_json_and_consumed),
		cmocka_unit_test(nobody_there_is_told_apart_from_a_refusal),
	};

	curl_global_init(CURL_GLOBAL_DEFAULT);
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
