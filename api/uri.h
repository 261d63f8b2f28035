/* The target of a request, taken apart: path segments and query parameters, each percent-decoded
 * after the split, so that an encoded '/' or '&' stays inside its part. */
#ifndef API_URI_H
#define API_URI_H

#include <stddef.h>

#include "base/err.h"

#define API_URI_MAX	 8192 /* bytes */
#define API_SEGMENTS_MAX 12
#define API_QUERY_MAX	 32

struct api_uri {
	const char *segments[API_SEGMENTS_MAX];
	size_t segment_count;
	struct {
		const char *name, *value;
	} query[API_QUERY_MAX];
	size_t query_count;
	char text[API_URI_MAX]; /* what the pointers point into */
};

/* HUB_E_INVALID: too long, too many parts, a bad escape or an encoded NUL. */
int api_uri_parse(struct api_uri *uri, const char *target, struct err *err);

/* The first parameter of that name; "" when there is none. */
const char *api_uri_query(const struct api_uri *uri, const char *name);

#endif
