#include "api/uri.h"

#include <stdbool.h>
#include <string.h>

#include "hub/hub.h"

static int uri_hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* In place. @plus: '+' is a space, as in queries. */
static bool uri_decode(char *s, bool plus)
{
	char *to = s;

	for (; *s; s++) {
		int high, low;

		if (*s != '%') {
			*to++ = plus && *s == '+' ? ' ' : *s;
			continue;
		}
		high = uri_hex(s[1]);
		low = high < 0 ? -1 : uri_hex(s[2]);
		if (low < 0 || (!high && !low))
			return false;
		*to++ = (char)(high * 16 + low);
		s += 2;
	}
	*to = '\0';
	return true;
}

static int uri_bad(struct err *err)
{
	return err_set(err, HUB_E_INVALID, "the URL has a bad %%-escape, or too many parts");
}

static int uri_parse_path(struct api_uri *uri, char *path, struct err *err)
{
	char *save, *part;

	for (part = strtok_r(path, "/", &save); part; part = strtok_r(NULL, "/", &save)) {
		if (uri->segment_count == API_SEGMENTS_MAX || !uri_decode(part, false))
			return uri_bad(err);
		uri->segments[uri->segment_count++] = part;
	}
	return 0;
}

static int uri_parse_query(struct api_uri *uri, char *query, struct err *err)
{
	char *save, *part;

	for (part = strtok_r(query, "&", &save); part; part = strtok_r(NULL, "&", &save)) {
		char *value = strchr(part, '=');

		if (value)
			*value++ = '\0';
		if (uri->query_count == API_QUERY_MAX || !uri_decode(part, true) ||
		    (value && !uri_decode(value, true)))
			return uri_bad(err);
		uri->query[uri->query_count].name = part;
		uri->query[uri->query_count++].value = value ? value : "";
	}
	return 0;
}

int api_uri_parse(struct api_uri *uri, const char *target, struct err *err)
{
	size_t n = strlen(target);
	char *query;
	int rc;

	uri->segment_count = uri->query_count = 0;
	if (n >= sizeof(uri->text))
		return err_set(err, HUB_E_INVALID, "the URL is longer than %d bytes",
			       API_URI_MAX - 1);
	memcpy(uri->text, target, n + 1);
	query = strchr(uri->text, '?');
	if (query)
		*query++ = '\0';
	rc = uri_parse_path(uri, uri->text, err);
	return rc || !query ? rc : uri_parse_query(uri, query, err);
}

const char *api_uri_query(const struct api_uri *uri, const char *name)
{
	for (size_t i = 0; i < uri->query_count; i++)
		if (!strcmp(uri->query[i].name, name))
			return uri->query[i].value;
	return "";
}
