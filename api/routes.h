/*
 * From a request to a handler and back. A route is one row of the table in routes.c; a handler is
 * one function that reads a `struct api_request`, calls hub/, and leaves an answer in it.
 *
 * Handlers may block: each connection has its thread (http.c).
 */
#ifndef API_ROUTES_H
#define API_ROUTES_H

#include <jansson.h>

#include "api/uri.h"
#include "base/err.h"
#include "hub/hub.h"

#define API_ARGS_MAX 4

struct api_request {
	struct hub *hub;
	const char *method;
	struct api_uri uri;
	const char *args[API_ARGS_MAX]; /* what stands for each {} of the route, decoded */
	const json_t *body; /* an object; NULL on routes without one, or when it may be absent */

	/* the handler's answer */
	json_t *answer;	   /* with result 0; given away */
	int status;	   /* with result 0; 200 unless set */
	char details[512]; /* with an error: more than its sentence says */
};

/* 0 with an answer, or a result of hub/ with @err; api/status.c makes a status of it. */
typedef int api_handler(struct api_request *req, struct err *err);

/* What came in and what goes out, without HTTP around it. */
struct api_exchange {
	const char *method, *target, *body;
	size_t body_len;

	int status;
	char *text;	/* JSON; the caller free()s; NULL: no memory */
	char allow[64]; /* 405: the methods there are */
};

/* Always leaves an answer, whatever happened. */
void api_dispatch(struct hub *hub, struct api_exchange *x);

/* --- reading parameters --------------------------------------------------------------------- */

/* An integer parameter within [min, max]; *@out keeps its value when absent. HUB_E_INVALID. */
int api_query_int(const struct api_request *req, const char *name, int64_t min, int64_t max,
		  int64_t *out, struct err *err);

/* --- the handlers, h_<noun>.c --------------------------------------------------------------- */

api_handler api_get_health;
api_handler api_post_add_vms, api_post_discover_vms;
api_handler api_get_vm_contexts, api_get_vm_context, api_get_vm_context_disks;
api_handler api_post_repository, api_get_repositories, api_get_repository;
api_handler api_post_backup, api_get_backups, api_get_backup;
api_handler api_get_progress, api_get_log, api_post_cancel, api_get_stats;
api_handler api_get_chain, api_get_vm_chain;
api_handler api_get_change_id, api_post_complete, api_post_telemetry;

#endif
