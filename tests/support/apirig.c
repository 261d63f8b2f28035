#include "tests/support/apirig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

struct hubrig rig;
struct api *api;
struct rig_vm vm;

/* --- start and stop ------------------------------------------------------------------------- */

int apirig_try_listen(struct api_config config, struct err *err)
{
	config.listen = "127.0.0.1:0";
	return api_start(&api, rig.hub, &config, err);
}

void apirig_listen(struct api_config config)
{
	struct err err = ERR_INIT;

	rig_must(apirig_try_listen(config, &err), &err, "api_start");
}

void apirig_start(void)
{
	hubrig_start(&rig);
	apirig_listen((struct api_config){.listen = NULL});
}

void apirig_stop(void)
{
	if (rig.hub)
		hub_interrupt(rig.hub);
	api_stop(steal(&api));
	hubrig_stop(&rig);
}

int apirig_setup_hub(void **state)
{
	(void)state;
	vm = (struct rig_vm){
		.name = "pgtest1", .id = "vm-1", .disk_count = 2, .size = {2 * MI, MI + 512}};
	rig_vm_init(&vm);
	hubrig_init(&rig);
	hubrig_start(&rig);
	return 0;
}

int apirig_setup(void **state)
{
	apirig_setup_hub(state);
	apirig_listen((struct api_config){.listen = NULL});
	return 0;
}

int apirig_setup_vm(void **state)
{
	apirig_setup(state);
	hubrig_add_repository(&rig);
	hubrig_add_vm(&rig, &vm);
	return 0;
}

int apirig_teardown(void **state)
{
	(void)state;
	apirig_stop();
	hubrig_deinit(&rig);
	rig_vm_deinit(&vm);
	return 0;
}

/* --- calls ---------------------------------------------------------------------------------- */

void apirig_bearer(const char *path, char line[APIRIG_BEARER_SIZE])
{
	char token[HUB_TOKEN_SIZE];

	rig_token(&rig, path, token);
	snprintf(line, APIRIG_BEARER_SIZE, "Authorization: Bearer %s", token);
}

void apirig_run(const char *method, const char *path, const char *body, const char *const *headers,
		struct apiclient_reply *reply)
{
	char base[128], bearer[APIRIG_BEARER_SIZE];
	const char *usual[] = {bearer, NULL};
	const struct apiclient_call asked = {.base = base,
					     .method = method,
					     .path = path,
					     .body = body,
					     .headers = headers ? headers : usual};

	snprintf(base, sizeof(base), "http://%s", api_address(api));
	if (!headers)
		apirig_bearer(path, bearer);
	apiclient_run(&asked, reply);
}

static json_t *json_of(const struct apiclient_reply *reply)
{
	json_t *body = json_loadb(reply->text, reply->len, 0, NULL);

	if (!body && reply->status != 204)
		fail_msg("status %ld without JSON: \"%s\"", reply->status, reply->text);
	return body;
}

long call(const char *method, const char *path, const char *body, json_t **reply)
{
	struct apiclient_reply got;

	apirig_run(method, path, body, NULL, &got);
	if (reply)
		*reply = json_of(&got);
	apiclient_deinit(&got);
	return got.status;
}

json_t *ask(const char *method, const char *path, const char *body, long status)
{
	struct apiclient_reply got;
	json_t *reply;

	apirig_run(method, path, body, NULL, &got);
	if (got.status != status)
		fail_msg("%s %s: %ld: %s", method, path, got.status, got.text);
	reply = json_of(&got);
	apiclient_deinit(&got);
	return reply;
}

void just(const char *method, const char *path, const char *body, long status)
{
	json_decref(ask(method, path, body, status));
}

void refuse(const char *method, const char *path, const char *body, long status,
	    const char *sentence)
{
	json_t *reply = ask(method, path, body, status);

	if (!strstr(text_of(reply, "error"), sentence))
		fail_msg("\"%s\" is not in \"%s\"", sentence, text_of(reply, "error"));
	assert_true(json_is_string(json_object_get(reply, "details")));
	assert_true(json_is_string(json_object_get(reply, "timestamp")));
	assert_string_equal(text_of(reply, "detail"), text_of(reply, "error"));
	assert_int_equal(number_of(reply, "status"), status);
	assert_int_equal(
		strncmp(path, text_of(reply, "instance"), strlen(text_of(reply, "instance"))), 0);
	json_decref(reply);
}

const char *text_of(const json_t *obj, const char *key)
{
	const char *s = json_string_value(json_object_get(obj, key));

	return s ? s : "(no text)";
}

json_int_t number_of(const json_t *obj, const char *key)
{
	const json_t *v = json_object_get(obj, key);

	return json_is_integer(v) ? json_integer_value(v) : -12345;
}
