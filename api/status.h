/*
 * The only map from a result of hub/ to an HTTP status, and the only shape of an error answer: a
 * problem of RFC 9457, with the members of the mirrored API (error, details, timestamp) beside its
 * own.
 */
#ifndef API_STATUS_H
#define API_STATUS_H

#include <jansson.h>

#include "api/json.h"

#define API_PROBLEM_TYPE "application/problem+json"

/* 200 for 0, 500 for what has no status of its own. */
int api_status_of(int rc);

/* "urn:sendense:problem:busy": which of the conditions of one status it is; "about:blank" when the
 * status says it all. */
const char *api_problem_type(int rc);

struct api_problem {
	const char *type; /* api_problem_type() */
	int status;
	const char *error;    /* a sentence */
	const char *details;  /* more, or "" */
	const char *instance; /* the target of the request; what follows a '?' is left out */
};

/* NULL: no memory. */
json_t *api_problem_body(const struct api_problem *problem);
extern const struct api_shape api_problem_shape;

#endif
