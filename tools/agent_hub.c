#include "tools/agent_hub.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/bytes.h"
#include "base/cleanup.h"

#define HUB_CONNECT_MS	 10000L
#define HUB_ASK_MS	 30000L
#define HUB_TELEMETRY_MS 10000L
#define HUB_COMPLETE_MS	 (60 * 60 * 1000L) /* a commit syncs and writes tables; it may be long */
#define HUB_ANSWER_MAX	 (256 * KIB)
#define HUB_TRIES	 4

struct hub_call {
	const struct agent_hub *hub;
	const struct agent_stop *stop;
	const char *what; /* for messages */
	char url[1200];
	char *body; /* NULL: GET */
	long timeout_ms;
	long status;
	char *answer;
	size_t answer_len;
};

int agent_hub_init(struct agent_hub *hub, const char *url, struct err *err)
{
	static const char suffix[] = "/api/v1";
	size_t n = strlen(url), m = strlen(suffix);

	if (strncmp(url, "http://", 7) != 0 && strncmp(url, "https://", 8) != 0)
		return err_set(err, -EINVAL, "hub URL \"%s\" is not http://HOST:PORT", url);
	while (n && url[n - 1] == '/')
		n--;
	if (n > m && strncmp(url + n - m, suffix, m) == 0)
		n -= m;
	if (n > AGENT_HUB_URL_MAX)
		return err_set(err, -EINVAL, "hub URL is longer than %d bytes", AGENT_HUB_URL_MAX);
	snprintf(hub->base, sizeof(hub->base), "%.*s%s", (int)n, url, suffix);
	return 0;
}

/* --- one call ------------------------------------------------------------------------------- */

static void call_deinit(struct hub_call *call)
{
	free(call->body);
	free(call->answer);
}

static size_t on_data(char *data, size_t size, size_t n, void *arg)
{
	struct hub_call *call = arg;
	size_t len = size * n;
	char *grown;

	if (len > HUB_ANSWER_MAX - call->answer_len)
		return 0; /* ends the transfer */
	grown = realloc(call->answer, call->answer_len + len + 1);
	if (!grown)
		return 0;
	memcpy(grown + call->answer_len, data, len);
	call->answer = grown;
	call->answer_len += len;
	grown[call->answer_len] = '\0';
	return len;
}

static int on_tick(void *arg, curl_off_t dltotal, curl_off_t dlnow, curl_off_t ultotal,
		   curl_off_t ulnow)
{
	const struct hub_call *call = arg;

	(void)dltotal, (void)dlnow, (void)ultotal, (void)ulnow;
	return agent_stop_asked(call->stop);
}

/* A qemu-nbd child started meanwhile must not inherit the connection. */
static curl_socket_t on_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *a)
{
	(void)arg, (void)purpose;
	return socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
}

static void call_prepare(struct hub_call *call, CURL *curl, struct curl_slist *headers,
			 char *detail)
{
	curl_easy_setopt(curl, CURLOPT_URL, call->url);
	curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(curl, CURLOPT_PROXY, "");
	curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_FORBID_REUSE, 1L);
	curl_easy_setopt(curl, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(curl, CURLOPT_OPENSOCKETFUNCTION, on_socket);
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, HUB_CONNECT_MS);
	curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, call->timeout_ms);
	curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
	curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_tick);
	curl_easy_setopt(curl, CURLOPT_XFERINFODATA, call);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, call);
	curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, detail);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(curl, CURLOPT_USERAGENT, "sendense-agent/" SENDENSE_VERSION);
	if (call->body)
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, call->body);
}

static int call_transfer_error(const struct hub_call *call, CURLcode code, const char *detail,
			       struct err *err)
{
	if (code == CURLE_ABORTED_BY_CALLBACK)
		return err_set(err, -ECANCELED, "the job was stopped");
	return err_set(err, code == CURLE_OPERATION_TIMEDOUT ? -ETIMEDOUT : -ECOMM,
		       "hub at %s: %s: %s", call->hub->base, call->what,
		       detail[0] ? detail : curl_easy_strerror(code));
}

static int call_perform(struct hub_call *call, struct err *err)
{
	char detail[CURL_ERROR_SIZE] = "";
	struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
	CURL *curl = curl_easy_init();
	CURLcode code = CURLE_OUT_OF_MEMORY;

	if (curl && headers) {
		call_prepare(call, curl, headers, detail);
		code = curl_easy_perform(curl);
		curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &call->status);
	}
	curl_easy_cleanup(curl);
	curl_slist_free_all(headers);
	return code ? call_transfer_error(call, code, detail, err) : 0;
}

static int call_refused(const struct hub_call *call, struct err *err)
{
	int code = call->status >= 400 && call->status < 500 ? AGENT_HUB_E_REFUSED : -EREMOTEIO;

	return err_set(err, code, "hub at %s: %s: answer %ld: %.200s", call->hub->base, call->what,
		       call->status, call->answer ? call->answer : "(empty)");
}

/* --- the three calls ------------------------------------------------------------------------ */

/* All values of the answer must be texts: contract, and a cheap sign that a hub answered. */
static int change_id_decode(const struct hub_call *call, char out[AGENT_HUB_CHANGE_MAX],
			    struct err *err)
{
	json_t *root = call->answer ? json_loadb(call->answer, call->answer_len, 0, NULL) : NULL;
	const char *key, *id = NULL;
	int rc = json_is_object(root) ? 0 : -EPROTO;
	json_t *v;

	json_object_foreach (root, key, v) {
		if (!json_is_string(v))
			rc = -EPROTO;
	}
	if (!rc)
		id = json_string_value(json_object_get(root, "change_id"));
	if (!id || strlen(id) >= AGENT_HUB_CHANGE_MAX)
		rc = err_set(err, -EPROTO,
			     "hub at %s: %s: the answer is no object of texts with a "
			     "change_id",
			     call->hub->base, call->what);
	else
		strcpy(out, id);
	json_decref(root);
	return rc;
}

int agent_hub_change_id(const struct agent_hub *hub, const struct agent_stop *stop,
			const char *vm_name, int disk_index, char out[AGENT_HUB_CHANGE_MAX],
			struct err *err)
{
	_cleanup_(call_deinit) struct hub_call call = {
		.hub = hub,
		.stop = stop,
		.what = "change id",
		.timeout_ms = HUB_ASK_MS,
	};
	char *escaped = curl_easy_escape(NULL, vm_name, 0);
	int rc;

	if (!escaped)
		return err_sys(err, -ENOMEM, "VM \"%s\"", vm_name);
	snprintf(call.url, sizeof(call.url), "%s/backups/changeid?vm_name=%s&disk_id=%d", hub->base,
		 escaped, disk_index);
	curl_free(escaped);
	rc = call_perform(&call, err);
	if (rc)
		return rc;
	if (call.status != 200)
		return call_refused(&call, err);
	return change_id_decode(&call, out, err);
}

static int complete_once(const struct agent_hub *hub, const struct agent_stop *stop,
			 const char *job_id, const char *body, struct err *err)
{
	_cleanup_(call_deinit) struct hub_call call = {
		.hub = hub,
		.stop = stop,
		.what = "complete",
		.body = strdup(body),
		.timeout_ms = HUB_COMPLETE_MS,
	};
	int rc;

	if (!call.body)
		return err_sys(err, -ENOMEM, "complete");
	snprintf(call.url, sizeof(call.url), "%s/backups/%s/complete", hub->base, job_id);
	rc = call_perform(&call, err);
	if (rc)
		return rc;
	return call.status == 200 ? 0 : call_refused(&call, err);
}

/* True when the time passed without a stop. */
static bool pause_s(const struct agent_stop *stop, int s)
{
	struct pollfd pfd = {.fd = stop->fd, .events = POLLIN};

	poll(&pfd, 1, s * 1000);
	return !agent_stop_asked(stop);
}

int agent_hub_complete(const struct agent_hub *hub, const struct agent_stop *stop,
		       const char *job_id, int disk_index, const char *change_id,
		       uint64_t bytes_sent, struct err *err)
{
	json_t *obj = json_pack("{s:s,s:i,s:I}", "change_id", change_id, "disk_id", disk_index,
				"bytes_transferred", (json_int_t)bytes_sent);
	_cleanup_(freep) char *body = obj ? json_dumps(obj, JSON_COMPACT) : NULL;
	int rc = -ENOMEM;

	json_decref(obj);
	if (!body)
		return err_sys(err, rc, "complete");
	for (int try = 0; try < HUB_TRIES; try++) {
		rc = complete_once(hub, stop, job_id, body, err);
		/* Repeating is harmless: the hub takes the same change id twice. */
		if (rc == 0 || rc == AGENT_HUB_E_REFUSED || rc == -EREMOTEIO || rc == -ECANCELED ||
		    !pause_s(stop, 1 << try))
			break;
	}
	return rc;
}

int agent_hub_telemetry(const struct agent_hub *hub, const struct agent_stop *stop,
			const char *job_id, const json_t *body, struct err *err)
{
	_cleanup_(call_deinit) struct hub_call call = {
		.hub = hub,
		.stop = stop,
		.what = "telemetry",
		.body = json_dumps(body, JSON_COMPACT),
		.timeout_ms = HUB_TELEMETRY_MS,
	};
	int rc;

	if (!call.body)
		return err_sys(err, -ENOMEM, "telemetry");
	snprintf(call.url, sizeof(call.url), "%s/telemetry/backup/%s", hub->base, job_id);
	rc = call_perform(&call, err);
	if (rc)
		return rc;
	return call.status < 400 ? 0 : call_refused(&call, err);
}
