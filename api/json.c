#include "api/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "catalog/catalog.h"
#include "hub/hub.h"

/* --- in ------------------------------------------------------------------------------------- */

static int json_wrong_type(const struct api_json_member *m, const char *wanted, struct err *err)
{
	return err_set(err, HUB_E_INVALID, "%s must be %s", m->name, wanted);
}

static int json_take_text(const struct api_json_member *m, const json_t *v, void *to,
			  struct err *err)
{
	if (!json_is_string(v))
		return json_wrong_type(m, "a string", err);
	if (json_string_length(v) >= m->size)
		return err_set(err, HUB_E_INVALID, "%s is longer than %zu bytes", m->name,
			       m->size - 1);
	strcpy(to, json_string_value(v));
	return 0;
}

static int json_take_integer(const struct api_json_member *m, const json_t *v, void *to,
			     struct err *err)
{
	int64_t n;

	if (!json_is_integer(v))
		return json_wrong_type(m, "an integer", err);
	n = json_integer_value(v);
	if (m->kind == API_JSON_I64)
		*(int64_t *)to = n;
	else if (n < INT32_MIN || n > INT32_MAX)
		return err_set(err, HUB_E_INVALID, "%s is out of range", m->name);
	else
		*(int *)to = (int)n;
	return 0;
}

static int json_take(const struct api_json_member *m, const json_t *v, void *to, struct err *err)
{
	switch (m->kind) {
	case API_JSON_TEXT:
		return json_take_text(m, v, to, err);
	case API_JSON_INT:
	case API_JSON_I64:
		return json_take_integer(m, v, to, err);
	case API_JSON_BOOL:
		if (!json_is_boolean(v))
			return json_wrong_type(m, "true or false", err);
		*(bool *)to = json_is_true(v);
		return 0;
	default:
		return err_set(err, HUB_E_INVALID, "%s cannot be set", m->name);
	}
}

int api_json_decode(const json_t *obj, const struct api_json_member *members, size_t n, void *out,
		    struct err *err)
{
	for (size_t i = 0; i < n; i++) {
		const struct api_json_member *m = &members[i];
		const json_t *v = json_object_get(obj, m->name);
		bool empty = !v || json_is_null(v) || (json_is_string(v) && !json_string_length(v));
		int rc;

		if (m->required && empty)
			return err_set(err, HUB_E_INVALID, "%s is missing", m->name);
		if (!v || json_is_null(v) || m->size == API_BY_HAND_SIZE)
			continue;
		rc = json_take(m, v, (char *)out + m->off, err);
		if (rc)
			return rc;
	}
	return 0;
}

/* --- out ------------------------------------------------------------------------------------ */

json_t *api_json_text(const char *text)
{
	json_t *v = json_string(text);
	_cleanup_(freep) char *copy = NULL;

	if (v)
		return v;
	copy = strdup(text);
	if (!copy)
		return NULL;
	for (char *p = copy; *p; p++)
		if ((unsigned char)*p >= 0x80)
			*p = '?';
	return json_string(copy);
}

json_t *api_json_time(int64_t us)
{
	time_t s = us / 1000000;
	char text[48];
	struct tm tm;
	size_t n;

	if (us <= 0)
		return json_null();
	gmtime_r(&s, &tm);
	n = strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(text + n, sizeof(text) - n, ".%06dZ", (int)(us % 1000000));
	return json_string(text);
}

static json_t *json_raw(const char *text)
{
	json_t *v = text[0] ? json_loads(text, JSON_DECODE_ANY, NULL) : NULL;

	return v ? v : json_null();
}

static json_t *json_number(int64_t n)
{
	return n == CATALOG_NONE ? json_null() : json_integer(n);
}

static json_t *json_give(const struct api_json_member *m, const void *from)
{
	switch (m->kind) {
	case API_JSON_TEXT:
		return api_json_text(from);
	case API_JSON_INT:
		return json_number(*(const int *)from);
	case API_JSON_I64:
		return json_number(*(const int64_t *)from);
	case API_JSON_REAL:
		return json_real(round(*(const double *)from * 100) / 100);
	case API_JSON_BOOL:
		return json_boolean(*(const bool *)from);
	case API_JSON_TIME:
		return api_json_time(*(const int64_t *)from);
	case API_JSON_WORD:
		return json_string(m->word(*(const int *)from));
	case API_JSON_RAW:
		return json_raw(from);
	default:
		return NULL;
	}
}

bool api_json_encode_into(json_t *obj, const struct api_json_member *members, size_t n,
			  const void *in)
{
	for (size_t i = 0; i < n; i++) {
		const struct api_json_member *m = &members[i];

		if (m->size != API_BY_HAND_SIZE &&
		    json_object_set_new(obj, m->name, json_give(m, (const char *)in + m->off)) < 0)
			return false;
	}
	return true;
}

json_t *api_json_encode(const struct api_json_member *members, size_t n, const void *in)
{
	json_t *obj = json_object();

	if (obj && !api_json_encode_into(obj, members, n, in)) {
		json_decref(obj);
		return NULL;
	}
	return obj;
}
