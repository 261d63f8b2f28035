/*
 * A hub of the test's own (tests/hub/rig.h) with its REST API, and calls of that. One at a time in
 * a test program: what stands here is that one's. Every answer is held against the OpenAPI document
 * (apiclient.h). Whatever goes wrong fails the test.
 */
#ifndef TESTS_SUPPORT_APIRIG_H
#define TESTS_SUPPORT_APIRIG_H

#include "api/api.h"
#include "tests/hub/rig.h"
#include "tests/support/apiclient.h"

#define MI (1U << 20)

extern struct hubrig rig;
extern struct api *api;	 /* NULL: not started */
extern struct rig_vm vm; /* "pgtest1", two disks of 2 MiB and 1 MiB + 512 */

/* Set-ups of cmocka: a hub alone; with its API; and with a repository and the VM in its catalog. */
int apirig_setup_hub(void **state);
int apirig_setup(void **state);
int apirig_setup_vm(void **state);
int apirig_teardown(void **state);

/* Starts the API of a hub that runs, on a free port of 127.0.0.1. */
void apirig_listen(struct api_config config);
int apirig_try_listen(struct api_config config, struct err *err);

/* The hub and its API; what is stopped may be started again. */
void apirig_start(void);
void apirig_stop(void);

/* One call. @headers: NULL for the token of whoever makes such calls (rig_token()), else all there
 * are to be. */
void apirig_run(const char *method, const char *path, const char *body, const char *const *headers,
		struct apiclient_reply *reply);

#define APIRIG_BEARER_SIZE (HUB_TOKEN_SIZE + 32)

/* "Authorization: Bearer ...", for that call. */
void apirig_bearer(const char *path, char line[APIRIG_BEARER_SIZE]);

/* The status; *@reply (may be NULL) is the caller's: JSON, or NULL with 204. */
long call(const char *method, const char *path, const char *body, json_t **reply);

/* The same, when the status is to be @status. */
json_t *ask(const char *method, const char *path, const char *body, long status);
void just(const char *method, const char *path, const char *body, long status);

/* The request is refused with @status and a problem whose sentence contains @sentence. */
void refuse(const char *method, const char *path, const char *body, long status,
	    const char *sentence);

/* A member; "(no text)" or -12345 when there is none of that type. */
const char *text_of(const json_t *obj, const char *key);
json_int_t number_of(const json_t *obj, const char *key);

#endif
