/*
 * Lists: pages and order are the same for all of them.
 *
 *	GET ...?limit=50&offset=100&sort=-created_at,...
 *
 * `sort` is a member of the rows, '-' before it means descending; each list says which it takes.
 * `total` counts all that match; where there is more, a Link header leads to the next page.
 *
 * A list that the catalog pages: the row has `.list = &things_list`, the handler calls
 * api_list_take(), gives the page to the catalog, and ends with api_list_answer(). A short one, of
 * which all rows are at hand: api_list_whole() does it all.
 */
#ifndef API_LIST_H
#define API_LIST_H

#include "api/routes.h"

#define API_LIST_MAX 1000 /* rows in an answer */

struct api_list {
	const char *sorts; /* "vm_name|created_at"; the first unless said otherwise */
	bool descending;   /* that first one */
};

struct api_page {
	int64_t limit, offset; /* limit: at least 1 */
	char sort[64];	       /* one of the list's */
	bool descending;
};

/* Reads limit, offset and sort as the route's list allows. HUB_E_INVALID. */
int api_list_take(const struct api_request *req, struct api_page *page, struct err *err);

/* {"@name": @rows, "total": @total} and the Link. @rows is given away. */
int api_list_answer(struct api_request *req, const struct api_page *page, const char *name,
		    json_t *rows, int64_t total, struct err *err);

/* All three for rows in memory: sorts and cuts @rows, objects that have the list's members. @rows
 * is given away. */
int api_list_whole(struct api_request *req, const char *name, json_t *rows, struct err *err);

#endif
