#include "tests/support/agentpeer.h"

#include <arpa/inet.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct agentpeer {
	struct MHD_Daemon *daemon;
	char url[64];
	pthread_mutex_t lock;
	pthread_cond_t released;
	bool held;
	json_t *discovery, *progress;
	json_t *last_start, *last_discovery;
	int start_status;
	char start_text[256];
};

struct body {
	char text[65536];
	size_t len;
};

static enum MHD_Result reply(struct MHD_Connection *mhd, int status, const char *text)
{
	struct MHD_Response *r =
		MHD_create_response_from_buffer(strlen(text), (void *)text, MHD_RESPMEM_MUST_COPY);
	enum MHD_Result res = MHD_queue_response(mhd, (unsigned)status, r);

	MHD_destroy_response(r);
	return res;
}

static enum MHD_Result reply_json(struct MHD_Connection *mhd, const json_t *answer)
{
	char *text = answer ? json_dumps(answer, 0) : NULL;
	enum MHD_Result res = reply(mhd, text ? 200 : 404, text ? text : "nothing yet");

	free(text);
	return res;
}

static enum MHD_Result answer(struct agentpeer *peer, struct MHD_Connection *mhd, const char *url,
			      struct body *body)
{
	enum MHD_Result res;

	pthread_mutex_lock(&peer->lock);
	if (!strcmp(url, "/api/v1/discover")) {
		json_decref(peer->last_discovery);
		peer->last_discovery = json_loadb(body->text, body->len, 0, NULL);
		res = reply_json(mhd, peer->discovery);
	} else if (!strcmp(url, "/api/v1/backup/start")) {
		json_decref(peer->last_start);
		peer->last_start = json_loadb(body->text, body->len, 0, NULL);
		while (peer->held)
			pthread_cond_wait(&peer->released, &peer->lock);
		res = reply(mhd, peer->start_status, peer->start_text);
	} else if (!strncmp(url, "/api/v1/progress/", 17)) {
		res = reply_json(mhd, peer->progress);
	} else {
		res = reply(mhd, 404, "no such path");
	}
	pthread_mutex_unlock(&peer->lock);
	return res;
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *mhd, const char *url,
				  const char *method, const char *version, const char *data,
				  size_t *data_len, void **context)
{
	struct body *body = *context;

	(void)method, (void)version;
	if (!body) {
		*context = calloc(1, sizeof(*body));
		return MHD_YES;
	}
	if (*data_len) {
		if (*data_len > sizeof(body->text) - body->len)
			return MHD_NO;
		memcpy(body->text + body->len, data, *data_len);
		body->len += *data_len;
		*data_len = 0;
		return MHD_YES;
	}
	return answer(arg, mhd, url, body);
}

static void on_completed(void *arg, struct MHD_Connection *mhd, void **context,
			 enum MHD_RequestTerminationCode why)
{
	(void)arg, (void)mhd, (void)why;
	free(*context);
	*context = NULL;
}

struct agentpeer *agentpeer_start(void)
{
	struct sockaddr_in addr = {.sin_family = AF_INET};
	struct agentpeer *peer = calloc(1, sizeof(*peer));

	if (!peer)
		abort();
	pthread_mutex_init(&peer->lock, NULL);
	pthread_cond_init(&peer->released, NULL);
	agentpeer_set_start(peer, 200, "{\"status\":\"started\"}");
	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	peer->daemon = MHD_start_daemon(
		MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL_INTERNAL_THREAD, 0, NULL, NULL,
		on_request, peer, MHD_OPTION_SOCK_ADDR, (struct sockaddr *)&addr,
		MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL, MHD_OPTION_END);
	if (!peer->daemon)
		abort();
	snprintf(peer->url, sizeof(peer->url), "http://127.0.0.1:%u",
		 MHD_get_daemon_info(peer->daemon, MHD_DAEMON_INFO_BIND_PORT)->port);
	return peer;
}

void agentpeer_stop(struct agentpeer *peer)
{
	agentpeer_release(peer);
	MHD_stop_daemon(peer->daemon);
	json_decref(peer->discovery);
	json_decref(peer->progress);
	json_decref(peer->last_start);
	json_decref(peer->last_discovery);
	pthread_mutex_destroy(&peer->lock);
	pthread_cond_destroy(&peer->released);
	free(peer);
}

const char *agentpeer_url(const struct agentpeer *peer)
{
	return peer->url;
}

static void replace(struct agentpeer *peer, json_t **what, json_t *with)
{
	pthread_mutex_lock(&peer->lock);
	json_decref(*what);
	*what = with;
	pthread_mutex_unlock(&peer->lock);
}

void agentpeer_set_discovery(struct agentpeer *peer, json_t *discovery)
{
	replace(peer, &peer->discovery, discovery);
}

void agentpeer_set_progress(struct agentpeer *peer, json_t *progress)
{
	replace(peer, &peer->progress, progress);
}

void agentpeer_set_start(struct agentpeer *peer, int status, const char *text)
{
	pthread_mutex_lock(&peer->lock);
	peer->start_status = status;
	snprintf(peer->start_text, sizeof(peer->start_text), "%s", text);
	pthread_mutex_unlock(&peer->lock);
}

void agentpeer_hold(struct agentpeer *peer)
{
	pthread_mutex_lock(&peer->lock);
	peer->held = true;
	pthread_mutex_unlock(&peer->lock);
}

void agentpeer_release(struct agentpeer *peer)
{
	pthread_mutex_lock(&peer->lock);
	peer->held = false;
	pthread_cond_broadcast(&peer->released);
	pthread_mutex_unlock(&peer->lock);
}

static json_t *copy_of(struct agentpeer *peer, json_t *const *what)
{
	json_t *copy;

	pthread_mutex_lock(&peer->lock);
	copy = json_deep_copy(*what);
	pthread_mutex_unlock(&peer->lock);
	return copy;
}

json_t *agentpeer_last_start(struct agentpeer *peer)
{
	return copy_of(peer, &peer->last_start);
}

json_t *agentpeer_last_discovery(struct agentpeer *peer)
{
	return copy_of(peer, &peer->last_discovery);
}
