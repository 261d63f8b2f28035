#include "hub/agent.h"

#include <curl/curl.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "hub/hub.h"

#define AGENT_CONNECT_MS    5000
#define AGENT_PROGRESS_MS   5000
#define AGENT_ANSWER_MAX    (1U << 20)
#define AGENT_DISCOVERY_MAX (64U << 20) /* ten thousand VMs take about 20 MiB */
#define AGENT_REFUSAL_MAX   200		/* of an error answer, what goes into the sentence */
#define AGENT_URL_MAX	    512

struct hub_agent {
	const atomic_bool *stop;
	pthread_mutex_t lock;	  /* what hub_agent_reconfigure() changes */
	char base[AGENT_URL_MAX]; /* ends in "/api/v1" */
	unsigned timeout_ms, discovery_timeout_ms;
};

/* One call: what is asked, and what came. */
struct agent_call {
	const atomic_bool *stop; /* may be NULL, as the next */
	const atomic_bool *cancel;
	char base[AGENT_URL_MAX];
	const char *path;
	char *request;	    /* JSON text, or NULL: GET */
	const char *secret; /* the password in it, or NULL */
	unsigned timeout_ms;
	size_t answer_max;
	long status;
	char *answer; /* NUL-terminated once something came */
	size_t answer_len;
	bool too_long;
};

static int agent_parse_url(const char *url, char base[AGENT_URL_MAX], struct err *err)
{
	size_t n, suffix = strlen("/api/v1");

	if (!url || (strncmp(url, "http://", 7) != 0 && strncmp(url, "https://", 8) != 0))
		return err_set(err, HUB_E_INVALID, "agent URL \"%s\" is not http://HOST:PORT",
			       url ? url : "");
	n = strlen(url);
	while (n && url[n - 1] == '/')
		n--;
	if (n > suffix && strncmp(url + n - suffix, "/api/v1", suffix) == 0)
		n -= suffix;
	if (n + suffix >= AGENT_URL_MAX)
		return err_set(err, HUB_E_INVALID, "agent URL is longer than %d bytes",
			       AGENT_URL_MAX);
	snprintf(base, AGENT_URL_MAX, "%.*s/api/v1", (int)n, url);
	return 0;
}

int hub_agent_check_url(const char *url, struct err *err)
{
	char base[AGENT_URL_MAX];

	return agent_parse_url(url, base, err);
}

int hub_agent_reconfigure(struct hub_agent *agent, const struct hub_agent_config *config,
			  struct err *err)
{
	char base[AGENT_URL_MAX];
	int rc = agent_parse_url(config->url, base, err);

	if (rc)
		return rc;
	pthread_mutex_lock(&agent->lock);
	strcpy(agent->base, base);
	agent->timeout_ms = config->timeout_ms;
	agent->discovery_timeout_ms = config->discovery_timeout_ms;
	pthread_mutex_unlock(&agent->lock);
	return 0;
}

int hub_agent_new(struct hub_agent **out, const struct hub_agent_config *config, struct err *err)
{
	struct hub_agent *agent = calloc(1, sizeof(*agent));
	int rc;

	if (!agent)
		return err_sys(err, -ENOMEM, "agent client");
	pthread_mutex_init(&agent->lock, NULL);
	agent->stop = config->stop;
	rc = hub_agent_reconfigure(agent, config, err);
	if (rc) {
		hub_agent_free(agent);
		return rc;
	}
	*out = agent;
	return 0;
}

void hub_agent_free(struct hub_agent *agent)
{
	if (!agent)
		return;
	pthread_mutex_destroy(&agent->lock);
	free(agent);
}

/* --- one call ------------------------------------------------------------------------------- */

/* Where the agent is now; @discovery: the longer patience. */
static void agent_call_aim(struct agent_call *call, struct hub_agent *agent, bool discovery)
{
	pthread_mutex_lock(&agent->lock);
	strcpy(call->base, agent->base);
	if (!call->timeout_ms)
		call->timeout_ms = discovery ? agent->discovery_timeout_ms : agent->timeout_ms;
	pthread_mutex_unlock(&agent->lock);
	call->stop = agent->stop;
}

static void agent_call_deinit(struct agent_call *call)
{
	/* The request may hold a password: it does not stay in freed memory. */
	if (call->request)
		explicit_bzero(call->request, strlen(call->request));
	free(call->request);
	free(call->answer);
}

static size_t agent_on_data(char *data, size_t size, size_t n, void *arg)
{
	struct agent_call *call = arg;
	size_t len = size * n;
	char *grown;

	if (len > call->answer_max - call->answer_len) {
		call->too_long = true;
		return 0; /* ends the transfer */
	}
	grown = realloc(call->answer, call->answer_len + len + 1);
	if (!grown)
		return 0;
	memcpy(grown + call->answer_len, data, len);
	call->answer = grown;
	call->answer_len += len;
	grown[call->answer_len] = '\0';
	return len;
}

static int agent_on_tick(void *arg, curl_off_t dltotal, curl_off_t dlnow, curl_off_t ultotal,
			 curl_off_t ulnow)
{
	struct agent_call *call = arg;

	(void)dltotal, (void)dlnow, (void)ultotal, (void)ulnow;
	return (call->stop && atomic_load(call->stop)) ||
	       (call->cancel && atomic_load(call->cancel));
}

static void agent_prepare(struct agent_call *call, CURL *curl, struct curl_slist *headers,
			  const char *url, char *curl_error)
{
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(curl, CURLOPT_PROXY, ""); /* the agent is never behind one */
	curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)AGENT_CONNECT_MS);
	curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)call->timeout_ms);
	curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
	curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, agent_on_tick);
	curl_easy_setopt(curl, CURLOPT_XFERINFODATA, call);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, agent_on_data);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, call);
	curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, curl_error);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(curl, CURLOPT_USERAGENT, "sendense-hub/" SENDENSE_VERSION);
	if (call->request) {
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, call->request);
		curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, (long)strlen(call->request));
	}
}

static int agent_transfer_error(struct agent_call *call, CURLcode code, const char *detail,
				struct err *err)
{
	if (code == CURLE_ABORTED_BY_CALLBACK && call->cancel && atomic_load(call->cancel))
		return err_set(err, -ECANCELED, "the backup was cancelled");
	if (code == CURLE_ABORTED_BY_CALLBACK)
		return err_set(err, HUB_E_STOPPING, "the hub is stopping");
	if (call->too_long)
		return err_set(err, HUB_E_AGENT, "agent at %s: %s answers more than %zu bytes",
			       call->base, call->path, call->answer_max);
	if (code == CURLE_COULDNT_CONNECT)
		return err_set(err, HUB_E_AGENT,
			       "capture agent at %s cannot be reached (%s): is it running, and is "
			       "its tunnel up?",
			       call->base, detail);
	return err_set(err, HUB_E_AGENT, "agent at %s: %s: %s", call->base, call->path, detail);
}

static int agent_perform(struct agent_call *call, struct err *err)
{
	char url[AGENT_URL_MAX + 256], detail[CURL_ERROR_SIZE] = "";
	struct curl_slist *headers = NULL;
	CURL *curl = curl_easy_init();
	CURLcode code = CURLE_OUT_OF_MEMORY;

	snprintf(url, sizeof(url), "%s%s", call->base, call->path);
	headers = curl_slist_append(NULL, "Content-Type: application/json");
	if (curl && headers) {
		agent_prepare(call, curl, headers, url, detail);
		code = curl_easy_perform(curl);
		curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &call->status);
	}
	curl_easy_cleanup(curl);
	curl_slist_free_all(headers);
	if (code)
		return agent_transfer_error(call, code,
					    detail[0] ? detail : curl_easy_strerror(code), err);
	return 0;
}

/* An agent that repeats what it was told must not make the hub repeat it. */
static void agent_hide(char *text, const char *secret)
{
	size_t len = secret ? strlen(secret) : 0;

	for (char *p = text; len && (p = strstr(p, secret)); p += len)
		memset(p, '*', len);
}

/* The agent answers plain text or JSON when it refuses; a line of it helps whoever reads. */
static int agent_refused(struct agent_call *call, struct err *err)
{
	char text[AGENT_REFUSAL_MAX + 1] = "";
	size_t n = MIN(call->answer_len, (size_t)AGENT_REFUSAL_MAX);

	if (n) {
		agent_hide(call->answer, call->secret); /* whole, before it is cut */
		memcpy(text, call->answer, n);
	}
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < 0x20)
			*p = ' ';
	while (n && text[n - 1] == ' ')
		text[--n] = '\0';
	return err_set(err, HUB_E_AGENT, "agent at %s answers %ld to %s%s%s", call->base,
		       call->status, call->path, n ? ": " : "", text);
}

static int agent_parse(struct agent_call *call, json_t **out, struct err *err)
{
	json_error_t jerr = {.text = "empty answer"};
	json_t *v = call->answer ? json_loadb(call->answer, call->answer_len, 0, &jerr) : NULL;

	if (!json_is_object(v)) {
		json_decref(v);
		return err_set(err, HUB_E_AGENT, "agent at %s: answer to %s is no JSON object: %s",
			       call->base, call->path, jerr.text);
	}
	*out = v;
	return 0;
}

/* --- the calls ------------------------------------------------------------------------------ */

int hub_agent_start(struct hub_agent *agent, const struct hub_agent_job *job, struct err *err)
{
	_cleanup_(agent_call_deinit) struct agent_call call = {
		.path = "/backup/start",
		.cancel = job->cancel,
		.secret = job->vcenter_password,
		.answer_max = AGENT_ANSWER_MAX,
	};
	json_t *body = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:s*}", "job_id", job->job_id,
				 "vm_name", job->vm_name, "vcenter_host", job->vcenter_host,
				 "vcenter_user", job->vcenter_user, "vcenter_password",
				 job->vcenter_password, "vm_path", job->vm_path, "nbd_targets",
				 job->nbd_targets, "backup_type", job->backup_type,
				 "previous_change_id", job->previous_change_id);
	int rc;

	call.request = body ? json_dumps(body, JSON_COMPACT) : NULL;
	json_decref(body);
	agent_call_aim(&call, agent, false);
	if (!call.request)
		return err_set(err, HUB_E_INVALID,
			       "VM \"%s\" has a name or path that is not UTF-8 text", job->vm_name);
	rc = agent_perform(&call, err);
	if (rc)
		return rc;
	return call.status == 200 ? 0 : agent_refused(&call, err);
}

int hub_agent_discover(struct hub_agent *agent, const json_t *body, const char *secret,
		       json_t **out, struct err *err)
{
	_cleanup_(agent_call_deinit) struct agent_call call = {
		.path = "/discover",
		.secret = secret,
		.request = json_dumps(body, JSON_COMPACT),
		.answer_max = AGENT_DISCOVERY_MAX,
	};
	int rc;

	if (!call.request)
		return err_sys(err, -ENOMEM, "discovery request");
	agent_call_aim(&call, agent, true);
	rc = agent_perform(&call, err);
	if (rc)
		return rc;
	return call.status == 200 ? agent_parse(&call, out, err) : agent_refused(&call, err);
}

int hub_agent_progress(struct hub_agent *agent, const char *job_id, json_t **out, struct err *err)
{
	char path[128];
	_cleanup_(agent_call_deinit) struct agent_call call = {
		.path = path,
		.timeout_ms = AGENT_PROGRESS_MS,
		.answer_max = AGENT_ANSWER_MAX,
	};
	int rc;

	agent_call_aim(&call, agent, false);
	snprintf(path, sizeof(path), "/progress/%s", job_id); /* ids are URL-safe by contract */
	rc = agent_perform(&call, err);
	if (rc)
		return rc;
	if (call.status == 404)
		return err_set(err, HUB_E_NOT_FOUND, "agent at %s says nothing about %s yet",
			       call.base, job_id);
	return call.status == 200 ? agent_parse(&call, out, err) : agent_refused(&call, err);
}

/* --- reading what it said ------------------------------------------------------------------- */

const char *hub_json_text(const json_t *obj, const char *key)
{
	const char *s = json_string_value(json_object_get(obj, key));

	return s ? s : "";
}

int64_t hub_json_i64(const json_t *obj, const char *key, int64_t none)
{
	const json_t *v = json_object_get(obj, key);
	double d;

	if (json_is_integer(v))
		return json_integer_value(v);
	if (!json_is_real(v))
		return none;
	d = json_real_value(v);
	return d > -9e18 && d < 9e18 ? (int64_t)d : none;
}
