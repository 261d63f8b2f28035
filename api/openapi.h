/*
 * The routes table as an OpenAPI 3.1 document (https://spec.openapis.org/oas/v3.1.0), and a page
 * that shows it: GET /openapi.json, GET /docs.
 *
 * Requests may hold members nobody here knows (they are ignored), answers may not: their schemas
 * are closed, so that an answer that grew a member without the table is noticed.
 */
#ifndef API_OPENAPI_H
#define API_OPENAPI_H

#include <jansson.h>

#include "base/err.h"

/* The caller json_decref()s *@out. -EINVAL: two shapes of one name, naming it; -ENOMEM. */
int api_openapi(json_t **out, struct err *err);

#endif
