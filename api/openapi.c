#include "api/openapi.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/list.h"
#include "catalog/idempotency.h"
#include "api/routes.h"
#include "api/status.h"
#include "base/bytes.h"

#define SHAPES_MAX 512

/* A shape is a schema for what comes in, another for what goes out. */
struct openapi {
	json_t *schemas;
	struct {
		const struct api_shape *shape;
		bool in;
	} done[SHAPES_MAX];
	size_t done_count;
	int rc;
	struct err *err;
};

static json_t *openapi_ref(struct openapi *o, const struct api_shape *shape, bool in);

/* --- schemas -------------------------------------------------------------------------------- */

static json_t *type_or_null(const char *type, bool nullable)
{
	return nullable ? json_pack("{s:[ss]}", "type", type, "null")
			: json_pack("{s:s}", "type", type);
}

static json_t *words_schema(const struct api_json_member *m)
{
	json_t *list = json_array();

	for (int i = 0; i < m->word_count; i++)
		json_array_append_new(list, json_string(m->word(i)));
	return json_pack("{s:s,s:o}", "type", "string", "enum", list);
}

static json_t *choice(const char *words)
{
	json_t *list = json_array();

	for (size_t n; *words; words += n + (words[n] == '|')) {
		n = strcspn(words, "|");
		json_array_append_new(list, json_stringn(words, n));
	}
	return list;
}

static json_t *text_schema(const struct api_json_member *m, bool in)
{
	json_t *schema = type_or_null("string", m->nullable && !in);

	if (m->one_of)
		json_object_set_new(schema, "enum", choice(m->one_of));
	else if (in && m->size != API_BY_HAND_SIZE)
		json_object_set_new(schema, "maxLength", json_integer((json_int_t)m->size - 1));
	if (in && m->required && !m->one_of)
		json_object_set_new(schema, "minLength", json_integer(1));
	return schema;
}

static json_t *scalar_schema(enum api_json_kind kind, bool nullable)
{
	json_t *schema;

	switch (kind) {
	case API_JSON_INT:
	case API_JSON_I64:
		schema = type_or_null("integer", nullable);
		json_object_set_new(schema, "format",
				    json_string(kind == API_JSON_INT ? "int32" : "int64"));
		return schema;
	case API_JSON_REAL:
		return type_or_null("number", nullable);
	case API_JSON_BOOL:
		return type_or_null("boolean", nullable);
	case API_JSON_TIME:
		schema = type_or_null("string", nullable);
		json_object_set_new(schema, "format", json_string("date-time"));
		return schema;
	case API_JSON_TEXT:
		return type_or_null("string", nullable);
	default:
		return json_object();
	}
}

/* What a struct does not know is null in the answer. */
static bool may_be_null(const struct api_json_member *m, bool in)
{
	bool unknown =
		m->kind == API_JSON_INT || m->kind == API_JSON_I64 || m->kind == API_JSON_TIME;

	return !in && (m->nullable || (unknown && m->size != API_BY_HAND_SIZE));
}

static json_t *list_schema(struct openapi *o, const struct api_json_member *m, bool in)
{
	json_t *items = m->shape ? openapi_ref(o, m->shape, in) : scalar_schema(m->item, false);

	return json_pack("{s:s,s:o}", "type", "array", "items", items);
}

static json_t *object_schema(struct openapi *o, const struct api_json_member *m, bool in)
{
	json_t *ref = openapi_ref(o, m->shape, in);

	return m->nullable && !in ? json_pack("{s:[o,{s:s}]}", "anyOf", ref, "type", "null") : ref;
}

static json_t *member_schema(struct openapi *o, const struct api_json_member *m, bool in)
{
	json_t *schema;

	if (m->kind == API_JSON_TEXT)
		schema = text_schema(m, in);
	else if (m->kind == API_JSON_WORD)
		schema = words_schema(m);
	else if (m->kind == API_JSON_LIST)
		schema = list_schema(o, m, in);
	else if (m->kind == API_JSON_OBJECT)
		schema = object_schema(o, m, in);
	else
		schema = scalar_schema(m->kind, may_be_null(m, in));
	if (m->what)
		json_object_set_new(schema, "description", json_string(m->what));
	return schema;
}

/* Members of the base first; a member of the same name replaces the base's. */
static void add_members(struct openapi *o, const struct api_shape *shape, bool in,
			json_t *properties, json_t *required)
{
	if (shape->base)
		add_members(o, shape->base, in, properties, required);
	for (size_t i = 0; i < shape->member_count; i++) {
		const struct api_json_member *m = &shape->members[i];
		bool known = json_object_get(properties, m->name) != NULL;

		json_object_set_new(properties, m->name, member_schema(o, m, in));
		if (!known && (in ? m->required : !m->optional))
			json_array_append_new(required, json_string(m->name));
	}
}

static bool shape_is_open(const struct api_shape *shape)
{
	return shape && (shape->open || shape_is_open(shape->base));
}

static json_t *shape_schema(struct openapi *o, const struct api_shape *shape, bool in)
{
	json_t *properties = json_object(), *required = json_array();
	json_t *schema = json_pack("{s:s,s:o}", "type", "object", "properties", properties);

	add_members(o, shape, in, properties, required);
	if (json_array_size(required))
		json_object_set(schema, "required", required);
	json_decref(required);
	if (!in && !shape_is_open(shape))
		json_object_set_new(schema, "additionalProperties", json_false());
	return schema;
}

static void openapi_name(const struct api_shape *shape, bool in, char *out, size_t size)
{
	snprintf(out, size, "%s%s", shape->name, in ? "Request" : "");
}

/* True when it is there already. Marked before its members are looked at: they may name it. */
static bool openapi_mark(struct openapi *o, const struct api_shape *shape, bool in)
{
	for (size_t i = 0; i < o->done_count; i++) {
		if (o->done[i].shape == shape && o->done[i].in == in)
			return true;
		if (!strcmp(o->done[i].shape->name, shape->name) && o->done[i].in == in)
			o->rc = err_set(o->err, -EINVAL, "two shapes are called %s", shape->name);
	}
	if (o->done_count == SHAPES_MAX) {
		o->rc = err_set(o->err, -EINVAL, "more than %d shapes", SHAPES_MAX);
		return true;
	}
	o->done[o->done_count].shape = shape;
	o->done[o->done_count++].in = in;
	return false;
}

static json_t *openapi_ref(struct openapi *o, const struct api_shape *shape, bool in)
{
	char name[128];

	openapi_name(shape, in, name, sizeof(name));
	if (!openapi_mark(o, shape, in))
		json_object_set_new(o->schemas, name, shape_schema(o, shape, in));
	return json_pack("{s:o}", "$ref", json_sprintf("#/components/schemas/%s", name));
}

/* --- operations ----------------------------------------------------------------------------- */

static json_t *parameter(const char *name, const char *in, bool required, const char *what,
			 json_t *schema)
{
	return json_pack("{s:s,s:s,s:b,s:s*,s:o}", "name", name, "in", in, "required", required,
			 "description", what, "schema", schema);
}

static void add_path_parameters(json_t *list, const char *path)
{
	for (const char *p = strchr(path, '{'); p; p = strchr(p, '{')) {
		size_t n = strcspn(++p, "}");
		char *name = strndup(p, n);

		if (name)
			json_array_append_new(list,
					      parameter(name, "path", true, NULL,
							json_pack("{s:s}", "type", "string")));
		free(name);
	}
}

static void add_query_parameters(json_t *list, const struct api_param *p)
{
	for (; p && p->name; p++) {
		json_t *schema = scalar_schema(p->kind, false);

		if (p->one_of)
			json_object_set_new(schema, "enum", choice(p->one_of));
		json_array_append_new(list,
				      parameter(p->name, "query", p->required, p->what, schema));
	}
}

/* Each way to sort, up and down. */
static json_t *sort_schema(const struct api_list *list)
{
	json_t *up = choice(list->sorts), *both = json_array(), *word;
	size_t i;

	json_array_foreach (up, i, word) {
		json_array_append(both, word);
		json_array_append_new(both, json_sprintf("-%s", json_string_value(word)));
	}
	json_decref(up);
	return json_pack("{s:s,s:o}", "type", "string", "enum", both);
}

static void add_list_parameters(json_t *out, const struct api_list *list)
{
	char what[160];

	json_array_append_new(
		out, parameter("limit", "query", false, "at most so many rows",
			       json_pack("{s:s,s:i,s:i,s:i}", "type", "integer", "minimum", 1,
					 "maximum", API_LIST_MAX, "default", API_LIST_MAX)));
	json_array_append_new(out,
			      parameter("offset", "query", false, "without the first so many",
					json_pack("{s:s,s:i}", "type", "integer", "minimum", 0)));
	snprintf(what, sizeof(what), "by this member, '-': descending; by %s%.*s unless said",
		 list->descending ? "-" : "", (int)strcspn(list->sorts, "|"), list->sorts);
	json_array_append_new(out, parameter("sort", "query", false, what, sort_schema(list)));
}

static json_t *parameters(const struct api_route *r)
{
	json_t *list = json_array();

	add_path_parameters(list, r->path);
	add_query_parameters(list, r->query);
	if (r->list)
		add_list_parameters(list, r->list);
	if (r->ranges)
		json_array_append_new(list, parameter("Range", "header", false,
						      "bytes=FROM-TO: a part of it",
						      json_pack("{s:s}", "type", "string")));
	if (r->creates)
		json_array_append_new(
			list, parameter("Idempotency-Key", "header", false,
					"the same call again under the same key has the answer of "
					"the first",
					json_pack("{s:s,s:i,s:i}", "type", "string", "minLength", 1,
						  "maxLength", CATALOG_IDEM_KEY_SIZE - 1)));
	return list;
}

static json_t *content(const char *type, json_t *schema)
{
	return json_pack("{s:{s:o}}", type, "schema", schema);
}

static json_t *plain_schema(const char *content_type)
{
	return json_pack("{s:s}", "type", strstr(content_type, "json") ? "object" : "string");
}

/* What an answer that is no JSON may be. */
static json_t *contents(const char *types)
{
	json_t *of = json_object();

	for (size_t n; *types; types += n + (types[n] == '|')) {
		char type[80];

		n = strcspn(types, "|");
		snprintf(type, sizeof(type), "%.*s", (int)n, types);
		json_object_set_new(of, type, json_pack("{s:o}", "schema", plain_schema(type)));
	}
	return of;
}

static json_t *link_header(void)
{
	return json_pack("{s:{s:s,s:{s:s}}}", "Link", "description",
			 "<URL>; rel=\"next\": the next page, where there is one", "schema", "type",
			 "string");
}

static json_t *success(struct openapi *o, const struct api_route *r)
{
	json_t *of = NULL;

	if (r->gives)
		of = content("application/json", openapi_ref(o, r->gives, false));
	else if (r->content_type)
		of = contents(r->content_type);
	return json_pack("{s:s,s:o*,s:o*}", "description", "Success", "content", of, "headers",
			 r->list ? link_header() : NULL);
}

static json_t *responses(struct openapi *o, const struct api_route *r)
{
	json_t *list = json_object();
	char status[8];

	snprintf(status, sizeof(status), "%d", r->status ? r->status : 200);
	json_object_set_new(list, status, success(o, r));
	if (r->ranges)
		json_object_set_new(list, "206",
				    json_pack("{s:s,s:o}", "description",
					      "The part that was asked for", "content",
					      contents(r->content_type)));
	if (r->later)
		json_object_set_new(
			list, "202",
			json_pack("{s:s,s:o}", "description", "Not over yet", "content",
				  content("application/json", openapi_ref(o, r->later, false))));
	json_object_set_new(list, "default",
			    json_pack("{s:s}", "$ref", "#/components/responses/Problem"));
	return list;
}

static json_t *security(const struct api_route *r)
{
	return r->role == API_PUBLIC || (r->role == API_AGENT && !r->agents_too)
		       ? json_array()
		       : json_pack("[{s:[]}]", "bearer");
}

static const char *role_name(enum api_role role)
{
	static const char *const names[] = {"unset",	"public", "viewer",
					    "operator", "admin",  "agent"};

	return names[role];
}

/* "get_api_v1_backups_by_backup_id": unique, because method and path are. */
static json_t *operation_id(const struct api_route *r)
{
	char id[256];
	size_t n = 0;

	for (const char *p = r->method; *p && n < sizeof(id) - 4; p++)
		id[n++] = (char)tolower((unsigned char)*p);
	for (const char *p = r->path; *p && n < sizeof(id) - 4; p++) {
		if (*p == '{') {
			memcpy(id + n, "by_", 3);
			n += 3;
		} else if (isalnum((unsigned char)*p)) {
			id[n++] = *p;
		} else if (*p != '}') {
			id[n++] = '_';
		}
	}
	id[n] = '\0';
	return json_string(id);
}

static json_t *operation(struct openapi *o, const struct api_noun *noun, const struct api_route *r)
{
	json_t *op = json_pack("{s:[s],s:s,s:s*,s:o,s:s,s:o,s:o}", "tags", noun->tag, "summary",
			       r->summary, "description", r->details, "operationId",
			       operation_id(r), "x-role", role_name(r->role), "security",
			       security(r), "parameters", parameters(r));

	if (r->agents_too)
		json_object_set_new(op, "x-agents-too", json_true());
	if (r->instead) {
		json_object_set_new(op, "deprecated", json_true());
		json_object_set_new(op, "description",
				    json_sprintf("In its place: %s", r->instead));
	}
	if (r->takes)
		json_object_set_new(
			op, "requestBody",
			json_pack("{s:b,s:o}", "required", !r->may_be_bare, "content",
				  content("application/json", openapi_ref(o, r->takes, true))));
	json_object_set_new(op, "responses", responses(o, r));
	return op;
}

static void add_noun(struct openapi *o, const struct api_noun *noun, json_t *tags, json_t *paths)
{
	json_array_append_new(
		tags, json_pack("{s:s,s:s*}", "name", noun->tag, "description", noun->what));
	for (size_t i = 0; i < noun->route_count; i++) {
		const struct api_route *r = &noun->routes[i];
		json_t *item = json_object_get(paths, r->path);
		char method[16] = "";

		if (!item) {
			item = json_object();
			json_object_set_new(paths, r->path, item);
		}
		for (size_t k = 0; r->method[k] && k < sizeof(method) - 1; k++)
			method[k] = (char)tolower((unsigned char)r->method[k]);
		json_object_set_new(item, method, operation(o, noun, r));
	}
}

/* --- the document --------------------------------------------------------------------------- */

static json_t *components(struct openapi *o)
{
	json_t *problem = openapi_ref(o, &api_problem_shape, false);

	return json_pack("{s:O,s:{s:o},s:{s:{s:s,s:s}}}", "schemas", o->schemas, "responses",
			 "Problem",
			 json_pack("{s:s,s:o}", "description", "What went wrong (RFC 9457)",
				   "content", content("application/problem+json", problem)),
			 "securitySchemes", "bearer", "type", "http", "scheme", "bearer");
}

int api_openapi(json_t **out, struct err *err)
{
	struct openapi *o = calloc(1, sizeof(*o));
	json_t *tags = json_array(), *paths = json_object();
	int rc;

	if (!o)
		return err_sys(err, -ENOMEM, "OpenAPI document");
	o->err = err;
	o->schemas = json_object();
	for (size_t i = 0; api_nouns[i]; i++)
		add_noun(o, api_nouns[i], tags, paths);
	*out = json_pack("{s:s,s:{s:s,s:s,s:s},s:o,s:o,s:o}", "openapi", "3.1.0", "info", "title",
			 "Sendense hub", "version", SENDENSE_VERSION, "description",
			 "VM backups: inventory, repositories, backups and what surrounds them.",
			 "tags", tags, "paths", paths, "components", components(o));
	rc = o->rc;
	if (!rc && !*out)
		rc = err_sys(err, -ENOMEM, "OpenAPI document");
	if (rc)
		json_decref(*out);
	json_decref(o->schemas);
	free(o);
	return rc;
}
