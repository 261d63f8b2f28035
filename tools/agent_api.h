/*
 * The agent's HTTP face, as hubs know it (agent contract 1.2): start, discover, progress, status,
 * cleanup, health under /api/v1. No authentication: it listens on the loopback, or behind a tunnel.
 * Credentials in requests are not for this agent: they are neither used, kept nor logged.
 */
#ifndef TOOLS_AGENT_API_H
#define TOOLS_AGENT_API_H

#include "tools/agent_job.h"

struct agent_api;

/* @listen is ADDR:PORT, ADDR an IP address; port 0 takes a free one. @jobs is borrowed. */
int agent_api_start(struct agent_api **out, const char *listen, const char *inventory,
		    struct agent_jobs *jobs, struct err *err);

/* "127.0.0.1:9081", with the port that was taken. */
const char *agent_api_address(const struct agent_api *api);

/* No request is running when it returns. NULL is fine. */
void agent_api_stop(struct agent_api *api);

#endif
