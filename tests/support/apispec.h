/*
 * Answers of the REST API held against its OpenAPI document: whoever has a client of its own in a
 * test calls this with every answer. Thread-safe.
 */
#ifndef TESTS_SUPPORT_APISPEC_H
#define TESTS_SUPPORT_APISPEC_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* True when the document says that this call may have this answer; else the reason in @why.
 * @content_type may be NULL: not looked at. */
bool apispec_allows(const char *method, const char *target, long status, const char *content_type,
		    const char *body, size_t len, char *why, size_t size);

/* The same, and aborts with the reason. */
void apispec_check(const char *method, const char *target, long status, const char *content_type,
		   const char *body, size_t len);

/* A value against a schema of @doc: type, enum, format date-time, minLength, maxLength, anyOf,
 * items, properties, required, additionalProperties, $ref; a schema with another word in it is
 * refused. @at is where the value stands, for the reason. */
bool apispec_valid(const json_t *doc, const json_t *schema, const json_t *value, const char *at,
		   char *why, size_t size);

#endif
