#include "api/list.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"

/* --- what is asked -------------------------------------------------------------------------- */

static bool list_has(const char *words, const char *word)
{
	size_t len = strlen(word);

	for (size_t n; *words; words += n + (words[n] == '|')) {
		n = strcspn(words, "|");
		if (n == len && !memcmp(words, word, n))
			return true;
	}
	return false;
}

static int take_sort(const struct api_request *req, struct api_page *page, struct err *err)
{
	const struct api_list *list = req->route->list;
	const char *asked = api_uri_query(&req->uri, "sort");
	bool descending = asked[0] == '-';

	if (!asked[0]) {
		snprintf(page->sort, sizeof(page->sort), "%.*s", (int)strcspn(list->sorts, "|"),
			 list->sorts);
		page->descending = list->descending;
		return 0;
	}
	asked += descending;
	if (strlen(asked) >= sizeof(page->sort) || !list_has(list->sorts, asked))
		return err_set(err, HUB_E_INVALID,
			       "sort must be one of %s, with a - in front for the other way round, "
			       "not \"%.40s\"",
			       list->sorts, asked);
	snprintf(page->sort, sizeof(page->sort), "%s", asked);
	page->descending = descending;
	return 0;
}

int api_list_take(const struct api_request *req, struct api_page *page, struct err *err)
{
	int rc;

	*page = (struct api_page){.limit = API_LIST_MAX};
	rc = api_query_int(req, "limit", 1, API_LIST_MAX, &page->limit, err);
	if (!rc)
		rc = api_query_int(req, "offset", 0, INT64_MAX / 2, &page->offset, err);
	return rc ? rc : take_sort(req, page, err);
}

/* --- what is answered ----------------------------------------------------------------------- */

/* The target with another offset, as it came otherwise; NULL when it cannot stand in a header. */
static char *next_target(const char *target, int64_t offset)
{
	size_t path = strcspn(target, "?"), len = strlen(target);
	char *out = malloc(len + 40), *to = out;

	if (!out || strpbrk(target, "<>")) {
		free(out);
		return NULL;
	}
	to = mempcpy(to, target, path);
	*to++ = '?';
	for (const char *p = target + path + (path < len); *p;) {
		size_t n = strcspn(p, "&");

		if (n && strncmp(p, "offset=", 7)) {
			to = mempcpy(to, p, n);
			*to++ = '&';
		}
		p += n + (p[n] == '&');
	}
	sprintf(to, "offset=%lld", (long long)offset);
	return out;
}

static void add_link(struct api_request *req, const struct api_page *page, size_t shown,
		     int64_t total)
{
	int64_t next = page->offset + (int64_t)shown;
	_cleanup_(freep) char *target = NULL;

	if (!shown || next >= total)
		return;
	target = next_target(req->out->target, next);
	if (target)
		api_reply_header(req, "Link", "<%s>; rel=\"next\"", target);
}

int api_list_answer(struct api_request *req, const struct api_page *page, const char *name,
		    json_t *rows, int64_t total, struct err *err)
{
	if (!rows)
		return err_sys(err, -ENOMEM, "%s", name);
	add_link(req, page, json_array_size(rows), total);
	req->answer = json_pack("{s:o,s:I}", name, rows, "total", (json_int_t)total);
	return req->answer ? 0 : err_sys(err, -ENOMEM, "%s", name);
}

/* --- lists in memory ------------------------------------------------------------------------ */

struct sorted {
	json_t *row;
	const json_t *key;
	size_t at;
};

/* Unknown before numbers before texts. */
static int key_rank(const json_t *v)
{
	return json_is_number(v) ? 1 : json_is_boolean(v) ? 2 : json_is_string(v) ? 3 : 0;
}

static int compare_keys(const json_t *a, const json_t *b)
{
	int rank = key_rank(a);

	if (rank != key_rank(b))
		return rank < key_rank(b) ? -1 : 1;
	if (rank == 1 && json_is_integer(a) && json_is_integer(b))
		return (json_integer_value(a) > json_integer_value(b)) -
		       (json_integer_value(a) < json_integer_value(b));
	if (rank == 1)
		return (json_number_value(a) > json_number_value(b)) -
		       (json_number_value(a) < json_number_value(b));
	if (rank == 2)
		return json_is_true(a) - json_is_true(b);
	return rank == 3 ? strcmp(json_string_value(a), json_string_value(b)) : 0;
}

static int compare_up(const void *a, const void *b)
{
	const struct sorted *x = a, *y = b;
	int c = compare_keys(x->key, y->key);

	return c ? c : (x->at > y->at) - (x->at < y->at);
}

/* Equal ones stay as they came. */
static int compare_down(const void *a, const void *b)
{
	const struct sorted *x = a, *y = b;
	int c = compare_keys(y->key, x->key);

	return c ? c : (x->at > y->at) - (x->at < y->at);
}

/* The page's part of @rows, in its order; NULL: no memory. */
static json_t *cut(const json_t *rows, const struct api_page *page)
{
	size_t n = json_array_size(rows);
	_cleanup_(freep) struct sorted *all = calloc(MAX(n, (size_t)1), sizeof(*all));
	json_t *out = json_array();

	if (!all || !out) {
		json_decref(out);
		return NULL;
	}
	for (size_t i = 0; i < n; i++) {
		all[i].row = json_array_get(rows, i);
		all[i].key = json_object_get(all[i].row, page->sort);
		all[i].at = i;
	}
	qsort(all, n, sizeof(*all), page->descending ? compare_down : compare_up);
	for (size_t i = (size_t)MIN(page->offset, (int64_t)n);
	     i < n && json_array_size(out) < (size_t)page->limit; i++)
		json_array_append(out, all[i].row);
	return out;
}

int api_list_whole(struct api_request *req, const char *name, json_t *rows, struct err *err)
{
	struct api_page page;
	int64_t total = (int64_t)json_array_size(rows);
	int rc = api_list_take(req, &page, err);

	if (!rc)
		rc = api_list_answer(req, &page, name, rows ? cut(rows, &page) : NULL, total, err);
	json_decref(rows);
	return rc;
}
