/*
 * JSON in and out by description: a table of struct members instead of a page of calls. jansson
 * does the text; this file knows members, and its users know nouns.
 *
 * Decoding is strict about what it knows (a wrong type or a text that does not fit names the
 * member) and blind to what it does not: agents of other versions send more.
 */
#ifndef API_JSON_H
#define API_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum api_json_kind {
	API_JSON_TEXT, /* char[] */
	API_JSON_INT,  /* int; CATALOG_NONE is null */
	API_JSON_I64,  /* int64_t; the same */
	API_JSON_REAL, /* double; out only, two decimals */
	API_JSON_BOOL, /* bool */
	API_JSON_TIME, /* int64_t microseconds since 1970; RFC 3339, 0 is null; out only */
	API_JSON_WORD, /* enum, by its name function; out only */
	API_JSON_RAW,  /* char[] that holds JSON text; empty is null; out only */
};

struct api_json_member {
	const char *name;
	enum api_json_kind kind;
	size_t off, size;
	bool required; /* in: present, not null, not "" */
	const char *(*word)(int value);
};

/* A member under a name of its own, with what else the row says: API_AS("id", TEXT, struct x, id,
 * .required = true). */
#define API_AS(json_name, json_kind, type, member, ...)                                            \
	{                                                                                          \
		.name = json_name, .kind = API_JSON_##json_kind, .off = offsetof(type, member),    \
		.size = sizeof(((type *)0)->member), __VA_ARGS__                                   \
	}
#define API_TEXT(type, member, ...) API_AS(#member, TEXT, type, member, __VA_ARGS__)
#define API_INT(type, member, ...)  API_AS(#member, INT, type, member, __VA_ARGS__)
#define API_I64(type, member, ...)  API_AS(#member, I64, type, member, __VA_ARGS__)
#define API_BOOL(type, member, ...) API_AS(#member, BOOL, type, member, __VA_ARGS__)

/* Fills members of *@out that @obj has; absent and null ones keep what is there. HUB_E_INVALID,
 * naming the member. */
int api_json_decode(const json_t *obj, const struct api_json_member *members, size_t n, void *out,
		    struct err *err);

/* A new object with all members of *@in; or adds them to @obj. NULL, false: no memory. */
json_t *api_json_encode(const struct api_json_member *members, size_t n, const void *in);
bool api_json_encode_into(json_t *obj, const struct api_json_member *members, size_t n,
			  const void *in);

/* A JSON string of whatever bytes: what is not UTF-8 becomes '?'. */
json_t *api_json_text(const char *text);
json_t *api_json_time(int64_t us);

/* Keeps an enum's name function where a WORD wants int. */
#define API_WORD_FN(fn, type)                                                                      \
	static const char *fn##_int(int value)                                                     \
	{                                                                                          \
		return fn((type)value);                                                            \
	}

#endif
