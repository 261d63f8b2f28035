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

	/* By hand always: the handler sets and reads them, the document tells of them. */
	API_JSON_LIST,	 /* of @shape, or of @item */
	API_JSON_OBJECT, /* @shape */
	API_JSON_ANY,	 /* whatever JSON there is */
};

/* The size of a member that the handler sets and reads by itself: encoding and decoding pass over
 * it, api_json_decode() looks that it is there when it must be. */
#define API_BY_HAND_SIZE 0

struct api_json_member {
	const char *name;
	enum api_json_kind kind;
	size_t off, size;
	bool required; /* in: present, not null, not "" */
	const char *(*word)(int value);
	int word_count; /* a WORD's values are [0, this) */

	/* What the document says besides (openapi.c). */
	const struct api_shape *shape;
	enum api_json_kind item;
	bool optional; /* out: may be absent */
	bool nullable; /* out, by hand: may be null; numbers and times of a struct always may */
	const char *one_of; /* "full|incremental": the texts there are */
	const char *what;   /* a sentence, where the name does not say it */
};

/* A JSON object that comes in or goes out. The name is that of its schema in the document. */
struct api_shape {
	const char *name;
	const struct api_json_member *members;
	size_t member_count;
	const struct api_shape *base; /* its members are there as well */
	bool open;		      /* out: others may be there that nobody here knows */
};

#define API_SHAPE(json_name, table, ...)                                                           \
	{                                                                                          \
		.name = json_name, .members = table,                                               \
		.member_count = sizeof(table) / sizeof((table)[0]), __VA_ARGS__                    \
	}

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
/* The name function of an enum (API_WORD_FN) and its last value: API_AS("status", WORD, struct x,
 * status, API_WORDS(job_status_name_int, JOB_CANCELLED)). */
#define API_WORDS(fn, last) .word = fn, .word_count = (int)(last) + 1

/* What the handler sets and reads by itself: API_BY_HAND("message", TEXT), API_OBJECT("storage",
 * &storage_shape), API_LIST("disks", &disk_shape, .optional = true), API_TEXTS("vm_names"). */
#define API_BY_HAND(json_name, json_kind, ...)                                                     \
	{                                                                                          \
		.name = json_name, .kind = API_JSON_##json_kind, .size = API_BY_HAND_SIZE,         \
		__VA_ARGS__                                                                        \
	}
#define API_OBJECT(json_name, of, ...) API_BY_HAND(json_name, OBJECT, .shape = of, __VA_ARGS__)
#define API_LIST(json_name, of, ...)   API_BY_HAND(json_name, LIST, .shape = of, __VA_ARGS__)
#define API_TEXTS(json_name, ...)      API_BY_HAND(json_name, LIST, .item = API_JSON_TEXT, __VA_ARGS__)

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
