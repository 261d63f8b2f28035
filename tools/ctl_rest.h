/*
 * The hub's REST API as a client sees it: one request, one JSON answer, one sentence when it fails.
 *
 * Calls return CTL_OK, or the CTL_* value the HTTP status stands for with the hub's own words in
 * @err: 401 and 403 CTL_DENIED, 404 CTL_NOT_FOUND, 409 CTL_CONFLICT, anything else outside 200-299
 * CTL_FAILED; no answer at all CTL_UNREACHABLE. Blocking; one thread.
 */
#ifndef TOOLS_CTL_REST_H
#define TOOLS_CTL_REST_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/cleanup.h"
#include "base/err.h"

struct ctl_rest;

/* @hub_url: "http://HOST:PORT", with or without a slash at the end; copied, as is @token, which
 * goes to that hub alone; "": none. */
int ctl_rest_open(struct ctl_rest **out, const char *hub_url, const char *token, struct err *err);
void ctl_rest_close(struct ctl_rest *rest);
DEFINE_CLEANUP(struct ctl_rest *, ctl_rest_close)

/* Ended by a row with key NULL; rows with value NULL are left out. Values need no escaping. */
struct ctl_query {
	const char *key, *value;
};

/*
 * GET <path>/<name><tail>?<query>. @name is a path segment that comes from the user and gets
 * escaped; @name, @tail and @query may be NULL. @reply is the caller's.
 */
int ctl_rest_get(struct ctl_rest *rest, const char *path, const char *name, const char *tail,
		 const struct ctl_query *query, json_t **reply, struct err *err);

/* GET of a list, page by page: *@reply is as if all rows had come in one answer, in its array
 * @rows. */
int ctl_rest_list(struct ctl_rest *rest, const char *path, const char *rows,
		  const struct ctl_query *query, json_t **reply, struct err *err);

/* POST; @body is consumed, also on failure; NULL (out of memory while building it) is an error. */
int ctl_rest_post(struct ctl_rest *rest, const char *path, json_t *body, json_t **reply,
		  struct err *err);

/* POST <path>/<name><tail>, otherwise as ctl_rest_post(). */
int ctl_rest_post_to(struct ctl_rest *rest, const char *path, const char *name, const char *tail,
		     json_t *body, json_t **reply, struct err *err);

/* @method <path>/<name><tail>, otherwise as ctl_rest_post(); a DELETE has no @body: NULL. *@reply
 * is NULL when the hub answers without a body (204). */
int ctl_rest_send(struct ctl_rest *rest, const char *method, const char *path, const char *name,
		  const char *tail, json_t *body, json_t **reply, struct err *err);

/* Takes a piece of an answer; not 0 ends it. */
typedef int ctl_rest_sink(void *arg, const void *data, size_t len);

/*
 * GET as ctl_rest_get(), of an answer that is no JSON and of any length: it goes to @sink as it
 * comes. @range: "0-99", or NULL for all. An answer that breaks off is CTL_UNREACHABLE, one that
 * @sink ended CTL_FAILED. There is no time-out but for a minute without a byte.
 */
int ctl_rest_fetch(struct ctl_rest *rest, const char *path, const char *name, const char *tail,
		   const struct ctl_query *query, const char *range, ctl_rest_sink *sink, void *arg,
		   struct err *err);

/* Seconds for a whole call instead of five minutes, and for what ctl_rest_fetch() waits for. */
void ctl_rest_set_timeout(struct ctl_rest *rest, long seconds);

/* What ctl_rest_fetch() asks while it waits: true ends it. */
void ctl_rest_set_stop(struct ctl_rest *rest, bool (*stop)(void));

#endif
