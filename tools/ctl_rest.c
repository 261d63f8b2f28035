#include "tools/ctl_rest.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "tools/ctl.h"

#define REPLY_MAX	  (256 * MIB)
#define CONNECT_TIMEOUT_S 5L
/* Discovery asks a vCenter through an agent, which may take minutes. */
#define REQUEST_TIMEOUT_S 300L
#define SILENCE_TIMEOUT_S 60L

struct ctl_rest {
	CURL *curl;
	char *hub;
	char *authorization; /* the header; NULL: no token */
	char error[CURL_ERROR_SIZE];
	FILE *reply; /* memory stream of the answer being received */
	size_t received;
	long timeout_s; /* of a call; 0: the usual */
	bool (*stop)(void);
	ctl_rest_sink *sink; /* of ctl_rest_fetch() */
	void *sink_arg;
	bool sunk; /* it ended the answer */
};

int ctl_rest_open(struct ctl_rest **out, const char *hub_url, const char *token, struct err *err)
{
	_cleanup_(ctl_rest_closep) struct ctl_rest *rest = calloc(1, sizeof(*rest));
	size_t len = strlen(hub_url);

	if (strncmp(hub_url, "http://", 7) != 0 && strncmp(hub_url, "https://", 8) != 0)
		return err_set(err, CTL_USAGE,
			       "the hub's address must look like " CTL_DEFAULT_HUB ", not \"%s\"",
			       hub_url);
	while (len > 0 && hub_url[len - 1] == '/')
		len--;
	if (!rest || !(rest->hub = strndup(hub_url, len)) || !(rest->curl = curl_easy_init()) ||
	    (*token && asprintf(&rest->authorization, "Authorization: Bearer %s", token) < 0))
		return err_set(err, -ENOMEM, "out of memory while preparing to ask the hub");
	*out = steal(&rest);
	return CTL_OK;
}

void ctl_rest_close(struct ctl_rest *rest)
{
	if (!rest)
		return;
	if (rest->curl)
		curl_easy_cleanup(rest->curl);
	if (rest->authorization)
		explicit_bzero(rest->authorization, strlen(rest->authorization));
	free(rest->authorization);
	free(rest->hub);
	free(rest);
}

/* --- building the address ------------------------------------------------------------------- */

static void put_escaped(CURL *curl, FILE *url, const char *text)
{
	char *escaped = curl_easy_escape(curl, text, 0);

	if (escaped)
		fputs(escaped, url);
	curl_free(escaped);
}

/* The address as a string the caller frees, or NULL. */
static char *make_url(struct ctl_rest *rest, const char *path, const char *name, const char *tail,
		      const struct ctl_query *query)
{
	char *text = NULL, mark = '?';
	size_t size = 0;
	FILE *url = open_memstream(&text, &size);

	if (!url)
		return NULL;
	fprintf(url, "%s%s", rest->hub, path);
	if (name) {
		fputc('/', url);
		put_escaped(rest->curl, url, name);
	}
	fputs(tail ? tail : "", url);
	for (; query && query->key; query++) {
		if (!query->value)
			continue;
		fprintf(url, "%c%s=", mark, query->key);
		put_escaped(rest->curl, url, query->value);
		mark = '&';
	}
	fclose(url);
	return text;
}

/* --- the exchange --------------------------------------------------------------------------- */

static size_t on_data(char *data, size_t size, size_t count, void *arg)
{
	struct ctl_rest *rest = arg;

	rest->received += size * count;
	if (rest->received > REPLY_MAX)
		return 0;
	return fwrite(data, 1, size * count, rest->reply);
}

/* What a request is, besides where it goes; @method NULL: POST with a body, else GET. */
struct outgoing {
	const char *method, *body;
};

static void set_options(struct ctl_rest *rest, const char *url, const struct outgoing *out,
			struct curl_slist *headers)
{
	CURL *curl = rest->curl;

	curl_easy_reset(curl);
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
	/* The hub is addressed directly: a proxy meant for the web has no way to a loopback. */
	curl_easy_setopt(curl, CURLOPT_PROXY, "");
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, CONNECT_TIMEOUT_S);
	curl_easy_setopt(curl, CURLOPT_TIMEOUT,
			 rest->timeout_s ? rest->timeout_s : REQUEST_TIMEOUT_S);
	curl_easy_setopt(curl, CURLOPT_USERAGENT, "sendense-ctl/" SENDENSE_VERSION);
	curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, rest->error);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, rest);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
	if (out->body)
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, out->body);
	if (out->method)
		curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, out->method);
}

/* Receives the answer's body into a string the caller frees. */
static CURLcode exchange(struct ctl_rest *rest, const char *url, const struct outgoing *out,
			 char **text)
{
	struct curl_slist *headers = curl_slist_append(NULL, "Accept: application/json");
	CURLcode code = CURLE_OUT_OF_MEMORY;
	size_t size = 0;

	if (rest->authorization)
		headers = curl_slist_append(headers, rest->authorization);
	if (out->body)
		headers = curl_slist_append(headers, "Content-Type: application/json");
	rest->received = 0;
	rest->error[0] = '\0';
	rest->reply = open_memstream(text, &size);
	if (rest->reply) {
		set_options(rest, url, out, headers);
		code = curl_easy_perform(rest->curl);
		fclose(rest->reply);
	}
	curl_slist_free_all(headers);
	return code;
}

static int no_answer(struct ctl_rest *rest, CURLcode code, struct err *err)
{
	const char *why = rest->error[0] ? rest->error : curl_easy_strerror(code);

	if (code == CURLE_WRITE_ERROR)
		return err_set(err, CTL_FAILED, "the hub at %s sent more than %llu MiB", rest->hub,
			       REPLY_MAX / MIB);
	return err_set(err, CTL_UNREACHABLE,
		       "no answer from the hub at %s: %s; start sendense-hub there, or name "
		       "another with --hub URL or SENDENSE_HUB",
		       rest->hub, why);
}

/* --- the answer ----------------------------------------------------------------------------- */

static int code_of_status(long status)
{
	switch (status) {
	case 401:
	case 403:
		return CTL_DENIED;
	case 404:
		return CTL_NOT_FOUND;
	case 409:
		return CTL_CONFLICT;
	default:
		return CTL_FAILED;
	}
}

/* The hub's own words: {"error": ..., "details": ...}. */
static int refused(struct ctl_rest *rest, long status, const json_t *answer, struct err *err)
{
	const char *what = json_string_value(json_object_get(answer, "error"));
	const char *details = json_string_value(json_object_get(answer, "details"));
	int code = code_of_status(status);

	if (!what)
		return err_set(err, code, "the hub at %s answered HTTP %ld without saying why",
			       rest->hub, status);
	if (status == 401)
		return err_set(err, code,
			       "%s; name a file with a valid one by --token-file, or set "
			       "SENDENSE_TOKEN",
			       what);
	if (!details || !*details || strcmp(details, what) == 0)
		return err_set(err, code, "%s", what);
	return err_set(err, code, "%s: %s", what, details);
}

static int take_answer(struct ctl_rest *rest, const char *text, json_t **reply, struct err *err)
{
	_cleanup_(json_decrefp) json_t *answer = json_loads(text, 0, NULL);
	long status = 0;

	curl_easy_getinfo(rest->curl, CURLINFO_RESPONSE_CODE, &status);
	if (status < 200 || status > 299)
		return refused(rest, status, answer, err);
	if (!answer && status != 204)
		return err_set(err, CTL_FAILED,
			       "what answers at %s does not speak JSON; is it a sendense hub?",
			       rest->hub);
	*reply = steal(&answer);
	return CTL_OK;
}

static int request(struct ctl_rest *rest, const char *url, const struct outgoing *out,
		   json_t **reply, struct err *err)
{
	_cleanup_(freep) char *text = NULL;
	CURLcode code;

	if (!url)
		return err_set(err, -ENOMEM, "out of memory while asking the hub");
	code = exchange(rest, url, out, &text);
	if (code != CURLE_OK)
		return no_answer(rest, code, err);
	return take_answer(rest, text, reply, err);
}

int ctl_rest_get(struct ctl_rest *rest, const char *path, const char *name, const char *tail,
		 const struct ctl_query *query, json_t **reply, struct err *err)
{
	_cleanup_(freep) char *url = make_url(rest, path, name, tail, query);

	return request(rest, url, &(struct outgoing){NULL}, reply, err);
}

/* --- answers of any length ------------------------------------------------------------------ */

void ctl_rest_set_timeout(struct ctl_rest *rest, long seconds)
{
	rest->timeout_s = seconds;
}

void ctl_rest_set_stop(struct ctl_rest *rest, bool (*stop)(void))
{
	rest->stop = stop;
}

/* What the hub has to say about a refusal is gathered as ever. */
static size_t on_piece(char *data, size_t size, size_t count, void *arg)
{
	struct ctl_rest *rest = arg;
	long status = 0;

	curl_easy_getinfo(rest->curl, CURLINFO_RESPONSE_CODE, &status);
	if (status < 200 || status > 299)
		return on_data(data, size, count, arg);
	rest->sunk = rest->sink(rest->sink_arg, data, size * count) != 0;
	return rest->sunk ? 0 : size * count;
}

static int on_wait(void *arg, curl_off_t total, curl_off_t now, curl_off_t up_total, curl_off_t up)
{
	struct ctl_rest *rest = arg;

	(void)total, (void)now, (void)up_total, (void)up;
	return rest->stop && rest->stop();
}

static void set_fetch_options(struct ctl_rest *rest, const char *range)
{
	CURL *curl = rest->curl;

	curl_easy_setopt(curl, CURLOPT_TIMEOUT, 0L);
	curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
	curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME,
			 rest->timeout_s ? rest->timeout_s : SILENCE_TIMEOUT_S);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_piece);
	curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
	curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_wait);
	curl_easy_setopt(curl, CURLOPT_XFERINFODATA, rest);
	if (range)
		curl_easy_setopt(curl, CURLOPT_RANGE, range);
}

static CURLcode fetch(struct ctl_rest *rest, const char *url, const char *range, char **text)
{
	struct curl_slist *headers = NULL;
	CURLcode code = CURLE_OUT_OF_MEMORY;
	size_t size = 0;

	if (rest->authorization)
		headers = curl_slist_append(headers, rest->authorization);
	rest->received = 0;
	rest->error[0] = '\0';
	rest->reply = open_memstream(text, &size);
	if (rest->reply) {
		set_options(rest, url, &(struct outgoing){NULL}, headers);
		set_fetch_options(rest, range);
		code = curl_easy_perform(rest->curl);
		fclose(rest->reply);
	}
	curl_slist_free_all(headers);
	return code;
}

int ctl_rest_fetch(struct ctl_rest *rest, const char *path, const char *name, const char *tail,
		   const struct ctl_query *query, const char *range, ctl_rest_sink *sink, void *arg,
		   struct err *err)
{
	_cleanup_(freep) char *url = make_url(rest, path, name, tail, query);
	_cleanup_(json_decrefp) json_t *answer = NULL;
	_cleanup_(freep) char *text = NULL;
	long status = 0;
	CURLcode code;

	if (!url)
		return err_set(err, -ENOMEM, "out of memory while asking the hub");
	rest->sink = sink;
	rest->sink_arg = arg;
	rest->sunk = false;
	code = fetch(rest, url, range, &text);
	curl_easy_getinfo(rest->curl, CURLINFO_RESPONSE_CODE, &status);
	if (rest->sunk || code == CURLE_ABORTED_BY_CALLBACK)
		return err_set(err, CTL_FAILED, "the answer was not taken to its end");
	if (code != CURLE_OK)
		return no_answer(rest, code, err);
	if (status >= 200 && status <= 299)
		return CTL_OK;
	answer = json_loads(text ? text : "", 0, NULL);
	return refused(rest, status, answer, err);
}

/* --- lists ---------------------------------------------------------------------------------- */

#define LIST_QUERY_MAX 8

/* The next page of a list: rows are added to @all; @more: there are others behind them. */
static int list_page(struct ctl_rest *rest, const char *path, const char *rows,
		     const struct ctl_query *query, json_t *all, bool *more, struct err *err)
{
	struct ctl_query with[LIST_QUERY_MAX + 2] = {{NULL, NULL}};
	_cleanup_(json_decrefp) json_t *page = NULL;
	json_t *have = json_object_get(all, rows), *got;
	char offset[24];
	size_t n = 0;
	int res;

	snprintf(offset, sizeof(offset), "%zu", json_array_size(have));
	for (; query && query[n].key && n < LIST_QUERY_MAX; n++)
		with[n] = query[n];
	with[n] = (struct ctl_query){"offset", offset};
	res = ctl_rest_get(rest, path, NULL, NULL, with, &page, err);
	if (res)
		return res;
	got = json_object_get(page, rows);
	if (json_array_extend(have, got))
		return err_set(err, CTL_FAILED, "out of memory");
	*more = json_array_size(got) && (json_int_t)json_array_size(have) <
						json_integer_value(json_object_get(page, "total"));
	return CTL_OK;
}

int ctl_rest_list(struct ctl_rest *rest, const char *path, const char *rows,
		  const struct ctl_query *query, json_t **reply, struct err *err)
{
	_cleanup_(json_decrefp) json_t *all = NULL;
	bool more;
	int res = ctl_rest_get(rest, path, NULL, NULL, query, &all, err);

	if (res)
		return res;
	more = json_array_size(json_object_get(all, rows)) &&
	       (json_int_t)json_array_size(json_object_get(all, rows)) <
		       json_integer_value(json_object_get(all, "total"));
	while (!res && more)
		res = list_page(rest, path, rows, query, all, &more, err);
	if (!res)
		*reply = steal(&all);
	return res;
}

int ctl_rest_post(struct ctl_rest *rest, const char *path, json_t *body, json_t **reply,
		  struct err *err)
{
	return ctl_rest_post_to(rest, path, NULL, NULL, body, reply, err);
}

int ctl_rest_post_to(struct ctl_rest *rest, const char *path, const char *name, const char *tail,
		     json_t *body, json_t **reply, struct err *err)
{
	return ctl_rest_send(rest, "POST", path, name, tail, body, reply, err);
}

int ctl_rest_send(struct ctl_rest *rest, const char *method, const char *path, const char *name,
		  const char *tail, json_t *body, json_t **reply, struct err *err)
{
	_cleanup_(freep) char *url = make_url(rest, path, name, tail, NULL);
	_cleanup_(freep) char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;

	json_decref(body);
	if (!text && strcmp(method, "DELETE") != 0)
		return err_set(err, CTL_USAGE, "a name given is not valid UTF-8");
	return request(rest, url, &(struct outgoing){method, text}, reply, err);
}
