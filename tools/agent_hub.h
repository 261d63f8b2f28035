/*
 * The hub as this agent calls it (agent contract 1.4): since when, done, and how it goes. Plain
 * HTTP without authentication, one connection a call, in the calling thread; any thread may call.
 */
#ifndef TOOLS_AGENT_HUB_H
#define TOOLS_AGENT_HUB_H

#include <jansson.h>
#include <stdint.h>

#include "base/err.h"
#include "tools/agent_stop.h"

#define AGENT_HUB_URL_MAX    400
#define AGENT_HUB_CHANGE_MAX 256

/* Named condition: the hub said no (4xx), and will not say yes to the same later. Any other failure
 * is -errno and leaves open whether the hub did it. */
enum agent_hub_cond { AGENT_HUB_E_REFUSED = 1 };

struct agent_hub {
	char base[AGENT_HUB_URL_MAX + 16]; /* ends in /api/v1 */
};

/* -EINVAL: not http://HOST:PORT or https://. */
int agent_hub_init(struct agent_hub *hub, const char *url, struct err *err);

/* What the hub has of that disk: "" for nothing. An answer that is no flat object of texts is an
 * error, as any other status than 200 is. */
int agent_hub_change_id(const struct agent_hub *hub, const struct agent_stop *stop,
			const char *vm_name, int disk_index, char out[AGENT_HUB_CHANGE_MAX],
			struct err *err);

/* Returns when the hub has made the point durable; asks again, a few times, when no answer came. */
int agent_hub_complete(const struct agent_hub *hub, const struct agent_stop *stop,
		       const char *job_id, int disk_index, const char *change_id,
		       uint64_t bytes_sent, struct err *err);

/* @body is borrowed. */
int agent_hub_telemetry(const struct agent_hub *hub, const struct agent_stop *stop,
			const char *job_id, const json_t *body, struct err *err);

#endif
