/*
 * Client of the capture agent's HTTP API (agent contract 1.2). One request, one answer, in the
 * calling thread; no connection is kept. Answers are bounded and never trusted: what a caller reads
 * from them it reads through hub_json_text() and its like, which take any type for absent.
 */
#ifndef HUB_AGENT_H
#define HUB_AGENT_H

#include <jansson.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "base/cleanup.h"
#include "base/err.h"

struct hub_agent;

struct hub_agent_config {
	const char *url; /* "http://HOST:PORT", with or without "/api/v1" behind */
	unsigned timeout_ms;
	unsigned discovery_timeout_ms;
	const atomic_bool *stop; /* calls end with HUB_E_STOPPING once it is set; borrowed */
};

/* HUB_E_INVALID: the URL. */
int hub_agent_new(struct hub_agent **out, const struct hub_agent_config *config, struct err *err);
void hub_agent_free(struct hub_agent *agent); /* accepts NULL */
/* HUB_E_INVALID. */
int hub_agent_check_url(const char *url, struct err *err);
/* Calls from now on go there and take so long; `stop` stays as it is. HUB_E_INVALID: the URL. */
int hub_agent_reconfigure(struct hub_agent *agent, const struct hub_agent_config *config,
			  struct err *err);

/* What the agent needs to start a backup. All texts non-empty, the agent refuses otherwise. */
struct hub_agent_job {
	const char *job_id, *vm_name, *vm_path;
	const char *vcenter_host, *vcenter_user, *vcenter_password;
	const char *nbd_targets;
	const char *backup_type;	/* "full", "incremental" */
	const char *previous_change_id; /* incremental: any text; NULL otherwise */
	const atomic_bool *cancel;	/* the call ends with -ECANCELED once it is set */
};

/* 0 once the agent has accepted. HUB_E_AGENT, HUB_E_STOPPING, -ECANCELED. */
int hub_agent_start(struct hub_agent *agent, const struct hub_agent_job *job, struct err *err);

/* @body is borrowed; @secret is what of it must not come back in an error. *@out is an object; the
 * caller json_decref()s it. HUB_E_AGENT, HUB_E_STOPPING. */
int hub_agent_discover(struct hub_agent *agent, const json_t *body, const char *secret,
		       json_t **out, struct err *err);

/* The agent's own view of a job, in a moment or not at all: HUB_E_NOT_FOUND before its first
 * word; HUB_E_AGENT, HUB_E_STOPPING. */
int hub_agent_progress(struct hub_agent *agent, const char *job_id, json_t **out, struct err *err);

/* --- reading what it said ------------------------------------------------------------------- */

/* The member's text, or "" when it is absent, null, or no text. Borrowed from @obj. */
const char *hub_json_text(const json_t *obj, const char *key);
/* The member's value, or @none; a number with a fraction is cut. */
int64_t hub_json_i64(const json_t *obj, const char *key, int64_t none);

#endif
