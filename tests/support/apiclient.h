/*
 * One call of the REST API over real HTTP. Every answer is held against the OpenAPI document
 * (apispec.h): one that is not as documented aborts the test.
 */
#ifndef TESTS_SUPPORT_APICLIENT_H
#define TESTS_SUPPORT_APICLIENT_H

#include <jansson.h>
#include <stddef.h>

struct apiclient_reply {
	long status; /* 0: no answer came */
	char content_type[128];
	char *text; /* never NULL */
	size_t len;
	char *head; /* the header lines as they came */
};

struct apiclient_call {
	const char *base; /* "http://127.0.0.1:8082", "https://..." */
	const char *method, *path;
	const char *body;	    /* may be NULL */
	const char *const *headers; /* "Name: value", ends with NULL; may be NULL */
	const char *ca_file;	    /* https: who must have signed */
};

void apiclient_run(const struct apiclient_call *call, struct apiclient_reply *out);
void apiclient_deinit(struct apiclient_reply *reply);

/* The value of a header, in @buf; "" when there is none. */
const char *apiclient_header(const struct apiclient_reply *reply, const char *name, char *buf,
			     size_t size);

#endif
