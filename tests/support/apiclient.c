#include "tests/support/apiclient.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "tests/support/apispec.h"

struct text {
	char *p;
	size_t len;
};

static size_t text_add(char *data, size_t size, size_t n, void *arg)
{
	struct text *t = arg;
	char *grown = realloc(t->p, t->len + size * n + 1);

	if (!grown)
		abort();
	memcpy(grown + t->len, data, size * n);
	t->p = grown;
	t->len += size * n;
	t->p[t->len] = '\0';
	return size * n;
}

static struct curl_slist *header_list(const char *const *headers)
{
	struct curl_slist *list = NULL;

	for (; headers && *headers; headers++)
		list = curl_slist_append(list, *headers);
	return list;
}

static void perform(CURL *curl, struct apiclient_reply *out)
{
	const char *type = NULL;

	if (curl_easy_perform(curl) != CURLE_OK)
		return;
	curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &out->status);
	curl_easy_getinfo(curl, CURLINFO_CONTENT_TYPE, &type);
	snprintf(out->content_type, sizeof(out->content_type), "%s", type ? type : "");
}

void apiclient_run(const struct apiclient_call *call, struct apiclient_reply *out)
{
	struct text body = {.p = strdup("")}, head = {.p = strdup("")};
	struct curl_slist *headers = header_list(call->headers);
	CURL *curl = curl_easy_init();
	char url[8192];

	memset(out, 0, sizeof(*out));
	if (!curl || !body.p || !head.p)
		abort();
	snprintf(url, sizeof(url), "%s%s", call->base, call->path);
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_PROXY, "");
	curl_easy_setopt(curl, CURLOPT_TIMEOUT, 120L);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, text_add);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, &body);
	curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, text_add);
	curl_easy_setopt(curl, CURLOPT_HEADERDATA, &head);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
	if (call->ca_file)
		curl_easy_setopt(curl, CURLOPT_CAINFO, call->ca_file);
	if (call->body) {
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, call->body);
		curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, (long)strlen(call->body));
	}
	curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, call->method);
	curl_easy_setopt(curl, CURLOPT_NOBODY, !strcmp(call->method, "HEAD") ? 1L : 0L);
	perform(curl, out);
	curl_easy_cleanup(curl);
	curl_slist_free_all(headers);
	out->text = body.p;
	out->len = body.len;
	out->head = head.p;
	if (out->status)
		apispec_check(call->method, call->path, out->status, out->content_type, out->text,
			      out->len);
}

void apiclient_deinit(struct apiclient_reply *reply)
{
	free(reply->text);
	free(reply->head);
}

const char *apiclient_header(const struct apiclient_reply *reply, const char *name, char *buf,
			     size_t size)
{
	size_t n = strlen(name);

	buf[0] = '\0';
	for (const char *line = reply->head; line && *line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (!strncasecmp(line, name, n) && line[n] == ':') {
			line += n + 1 + strspn(line + n + 1, " ");
			snprintf(buf, size, "%.*s", (int)strcspn(line, "\r\n"), line);
		}
		if (!*line)
			break;
	}
	return buf;
}
