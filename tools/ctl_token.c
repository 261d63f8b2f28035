#include "tools/ctl_token.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "tools/ctl.h"

/* What a header can hold: no space, no control character. */
static bool is_token(const char *text)
{
	size_t n = strlen(text);

	for (size_t i = 0; i < n; i++)
		if (text[i] <= ' ' || text[i] >= 0x7f)
			return false;
	return n > 0;
}

static int read_file(const char *path, char token[CTL_TOKEN_MAX], struct err *err)
{
	FILE *f = fopen(path, "re");
	bool ok = f && fgets(token, CTL_TOKEN_MAX, f);

	if (!f)
		return err_set(err, CTL_USAGE, "the token file %s cannot be read: %s", path,
			       strerror(errno));
	fclose(f);
	/* What does not fit is no token, and neither is its beginning. */
	ok = ok && strlen(token) < CTL_TOKEN_MAX - 1;
	if (ok)
		token[strcspn(token, "\r\n")] = '\0';
	if (ok && is_token(token))
		return CTL_OK;
	token[0] = '\0';
	return err_set(err, CTL_USAGE, "the first line of %s is no token", path);
}

bool ctl_token_is_local(const char *hub_url)
{
	CURLU *url = curl_url();
	char *host = NULL;
	bool yes = false;

	/* By the parser that makes the connection, so that both mean the same host. */
	if (url && !curl_url_set(url, CURLUPART_URL, hub_url, 0) &&
	    !curl_url_get(url, CURLUPART_HOST, &host, 0)) {
		struct in_addr v4;

		yes = !strcasecmp(host, "localhost") || !strcmp(host, "[::1]") ||
		      (inet_pton(AF_INET, host, &v4) == 1 &&
		       ntohl(v4.s_addr) >> 24 == IN_LOOPBACKNET);
	}
	curl_free(host);
	curl_url_cleanup(url);
	return yes;
}

int ctl_token_find(const char *file, const char *hub_url, char token[CTL_TOKEN_MAX],
		   struct err *err)
{
	const char *env = getenv("SENDENSE_TOKEN");

	token[0] = '\0';
	if (file)
		return read_file(file, token, err);
	if (env && *env) {
		if (strlen(env) >= CTL_TOKEN_MAX || !is_token(env))
			return err_set(err, CTL_USAGE, "SENDENSE_TOKEN holds no token");
		strcpy(token, env);
		return CTL_OK;
	}
	if (ctl_token_is_local(hub_url))
		read_file(CTL_TOKEN_FILE, token, NULL);
	return CTL_OK;
}
