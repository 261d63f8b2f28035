/* The only map from a result of hub/ to an HTTP status, and the only shape of an error answer:
 * {"error": sentence, "details": more or "", "timestamp": RFC 3339}. */
#ifndef API_STATUS_H
#define API_STATUS_H

#include <jansson.h>

int api_status_of(int rc);

/* NULL: no memory. */
json_t *api_error_body(const char *error, const char *details);

#endif
