#include "tests/support/apispec.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/openapi.h"
#include "base/bytes.h"

static json_t *apispec_doc;
static pthread_once_t apispec_once = PTHREAD_ONCE_INIT;

static void apispec_load(void)
{
	struct err err = ERR_INIT;

	if (api_openapi(&apispec_doc, &err)) {
		fprintf(stderr, "openapi: %s\n", err.text);
		abort();
	}
}

/* --- schemas -------------------------------------------------------------------------------- */

struct place {
	const json_t *doc;
	char *why;
	size_t size;
};

static bool wrong(const struct place *in, const char *at, const char *what, const char *which)
{
	snprintf(in->why, in->size, "%s: %s%s", at, what, which ? which : "");
	return false;
}

static const json_t *find_ref(const json_t *doc, const char *ref)
{
	char path[256], *save, *part;

	if (strncmp(ref, "#/", 2) || strlen(ref) >= sizeof(path))
		return NULL;
	strcpy(path, ref + 2);
	for (part = strtok_r(path, "/", &save); part; part = strtok_r(NULL, "/", &save))
		doc = json_object_get(doc, part);
	return doc;
}

static bool type_is(const char *type, const json_t *v)
{
	return (!strcmp(type, "string") && json_is_string(v)) ||
	       (!strcmp(type, "integer") && json_is_integer(v)) ||
	       (!strcmp(type, "number") && json_is_number(v)) ||
	       (!strcmp(type, "boolean") && json_is_boolean(v)) ||
	       (!strcmp(type, "null") && json_is_null(v)) ||
	       (!strcmp(type, "array") && json_is_array(v)) ||
	       (!strcmp(type, "object") && json_is_object(v));
}

static bool types_allow(const json_t *types, const json_t *v)
{
	const json_t *type;
	size_t i;

	if (json_is_string(types))
		return type_is(json_string_value(types), v);
	json_array_foreach (types, i, type)
		if (type_is(json_string_value(type), v))
			return true;
	return false;
}

static bool enum_allows(const json_t *words, const json_t *v)
{
	const json_t *word;
	size_t i;

	json_array_foreach (words, i, word)
		if (json_equal((json_t *)word, (json_t *)v))
			return true;
	return false;
}

static bool is_date_time(const char *text)
{
	struct tm tm = {0};
	const char *end = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);

	if (end && *end == '.')
		end += 1 + strspn(end + 1, "0123456789");
	return end && !strcmp(end, "Z");
}

static bool text_fits(const json_t *schema, const json_t *v)
{
	const json_t *min = json_object_get(schema, "minLength");
	const json_t *max = json_object_get(schema, "maxLength");
	const char *format = json_string_value(json_object_get(schema, "format"));
	json_int_t n = (json_int_t)json_string_length(v);

	return (!min || n >= json_integer_value(min)) && (!max || n <= json_integer_value(max)) &&
	       (!format || strcmp(format, "date-time") || is_date_time(json_string_value(v)));
}

static bool valid(const struct place *in, const json_t *schema, const json_t *v, const char *at);

static bool members_valid(const struct place *in, const json_t *schema, const json_t *v,
			  const char *at)
{
	const json_t *properties = json_object_get(schema, "properties"), *name;
	bool closed = json_is_false(json_object_get(schema, "additionalProperties"));
	const char *key;
	json_t *member;
	size_t i;

	json_array_foreach (json_object_get(schema, "required"), i, name)
		if (!json_object_get(v, json_string_value(name)))
			return wrong(in, at, "has no ", json_string_value(name));
	json_object_foreach ((json_t *)v, key, member) {
		const json_t *of = json_object_get(properties, key);
		char below[256];

		if (!of && closed)
			return wrong(in, at, "has an unknown member ", key);
		snprintf(below, sizeof(below), "%s.%s", at, key);
		if (of && !valid(in, of, member, below))
			return false;
	}
	return true;
}

static bool items_valid(const struct place *in, const json_t *schema, const json_t *v,
			const char *at)
{
	const json_t *of = json_object_get(schema, "items"), *item;
	size_t i;

	json_array_foreach (v, i, item) {
		char below[256];

		snprintf(below, sizeof(below), "%s[%zu]", at, i);
		if (of && !valid(in, of, item, below))
			return false;
	}
	return true;
}

static bool one_valid(const struct place *in, const json_t *choices, const json_t *v,
		      const char *at)
{
	const json_t *of;
	size_t i;

	json_array_foreach (choices, i, of)
		if (valid(in, of, v, at))
			return true;
	return false;
}

static bool words_known(const struct place *in, const json_t *schema, const char *at)
{
	static const char *const known[] = {
		"type",	 "enum",       "format",     "minLength", "maxLength",
		"anyOf", "items",      "properties", "required",  "additionalProperties",
		"$ref",	 "description"};
	const char *word;
	json_t *v;

	json_object_foreach ((json_t *)schema, word, v) {
		size_t i = 0;

		while (i < ARRAY_SIZE(known) && strcmp(known[i], word))
			i++;
		if (i == ARRAY_SIZE(known))
			return wrong(in, at, "its schema says what this does not know: ", word);
	}
	return true;
}

static bool valid(const struct place *in, const json_t *schema, const json_t *v, const char *at)
{
	const char *ref = json_string_value(json_object_get(schema, "$ref"));
	const json_t *types = json_object_get(schema, "type"), *words, *choices;

	if (!json_is_object(schema))
		return wrong(in, at, "has no schema", NULL);
	if (!words_known(in, schema, at))
		return false;
	if (ref && !valid(in, find_ref(in->doc, ref), v, at))
		return false;
	if (types && !types_allow(types, v))
		return wrong(in, at, "is of a wrong type", NULL);
	words = json_object_get(schema, "enum");
	if (words && !enum_allows(words, v))
		return wrong(in, at, "is none of the values it may have", NULL);
	choices = json_object_get(schema, "anyOf");
	if (choices && !one_valid(in, choices, v, at))
		return false;
	if (json_is_string(v) && !text_fits(schema, v))
		return wrong(in, at, "has a wrong length or format", NULL);
	if (json_is_object(v) && !members_valid(in, schema, v, at))
		return false;
	return !json_is_array(v) || items_valid(in, schema, v, at);
}

bool apispec_valid(const json_t *doc, const json_t *schema, const json_t *value, const char *at,
		   char *why, size_t size)
{
	const struct place in = {.doc = doc, .why = why, .size = size};

	return valid(&in, schema, value, at);
}

/* --- answers -------------------------------------------------------------------------------- */

/* How many of a template's segments are words, plus one; 0: it is another path. */
static int template_fit(const char *template, const char *path)
{
	int fit = 1;

	while (*template == '/' && *path == '/') {
		size_t n = strcspn(++template, "/"), m = strcspn(++path, "/");

		if (template[0] != '{' && (n != m || memcmp(template, path, n)))
			return 0;
		if (!m)
			return 0;
		fit += template[0] != '{';
		template += n;
		path += m;
	}
	return !*template && !*path ? fit : 0;
}

static const json_t *find_operation(const char *method, const char *target)
{
	char path[4096], verb[16] = "";
	const json_t *best = NULL;
	const char *template;
	json_t *item;
	int fit = 0;

	snprintf(path, sizeof(path), "%.*s", (int)strcspn(target, "?"), target);
	for (size_t i = 0; method[i] && i < sizeof(verb) - 1; i++)
		verb[i] = (char)(method[i] | 0x20);
	json_object_foreach (json_object_get(apispec_doc, "paths"), template, item) {
		const json_t *op = json_object_get(item, verb);
		int f = op ? template_fit(template, path) : 0;

		if (f > fit) {
			fit = f;
			best = op;
		}
	}
	return best;
}

static const json_t *find_response(const json_t *op, long status)
{
	const json_t *all = json_object_get(op, "responses"), *found;
	const char *ref;
	char number[24];

	snprintf(number, sizeof(number), "%ld", status);
	found = json_object_get(all, number);
	if (!found && status >= 400)
		found = json_object_get(all, "default");
	ref = json_string_value(json_object_get(found, "$ref"));
	return ref ? find_ref(apispec_doc, ref) : found;
}

/* Errors of paths that are not in the document have the shape of all errors. */
static const json_t *response_of(const char *method, const char *target, long status)
{
	const json_t *op = find_operation(method, target);

	if (!op && status >= 400)
		return find_ref(apispec_doc, "#/components/responses/Problem");
	return op ? find_response(op, status) : NULL;
}

static bool body_valid(const struct place *in, const char *type, const json_t *schema,
		       const char *body, size_t len)
{
	json_t *v;
	bool ok;

	if (!strstr(type, "json"))
		return true;
	v = json_loadb(body, len, JSON_DECODE_ANY, NULL);
	if (!v)
		return wrong(in, "body", "is not JSON", NULL);
	ok = valid(in, schema, v, "body");
	json_decref(v);
	return ok;
}

bool apispec_allows(const char *method, const char *target, long status, const char *content_type,
		    const char *body, size_t len, char *why, size_t size)
{
	struct place here = {.why = why, .size = size};
	const json_t *response, *content;
	const char *type;

	pthread_once(&apispec_once, apispec_load);
	here.doc = apispec_doc;
	if (!strcmp(method, "HEAD"))
		return true;
	response = response_of(method, target, status);
	if (!response)
		return wrong(&here, "status", "is not in the document", NULL);
	content = json_object_get(response, "content");
	type = content ? json_object_iter_key(json_object_iter((json_t *)content)) : NULL;
	if (!type)
		return len ? wrong(&here, "body", "is not in the document", NULL) : true;
	if (content_type && json_object_get(content, content_type))
		type = content_type;
	if (content_type && strcmp(content_type, type))
		return wrong(&here, "content type", "is ", content_type);
	return body_valid(&here, type, json_object_get(json_object_get(content, type), "schema"),
			  body, len);
}

void apispec_check(const char *method, const char *target, long status, const char *content_type,
		   const char *body, size_t len)
{
	char why[512];

	if (apispec_allows(method, target, status, content_type, body, len, why, sizeof(why)))
		return;
	fprintf(stderr, "%s %s: %ld is not as documented: %s\n%.*s\n", method, target, status, why,
		(int)MIN(len, (size_t)2000), body);
	abort();
}
