/*
 * A scripted capture agent: serves the three calls the hub makes (agent contract 1.2) on a port of
 * its own and remembers what was asked. The copying is the test's business.
 */
#ifndef TESTS_SUPPORT_AGENTPEER_H
#define TESTS_SUPPORT_AGENTPEER_H

#include <jansson.h>

struct agentpeer;

struct agentpeer *agentpeer_start(void); /* fails the test */
void agentpeer_stop(struct agentpeer *peer);
const char *agentpeer_url(const struct agentpeer *peer);

/* What /discover answers: {"vcenter":...,"vms":[...]}. Stolen. */
void agentpeer_set_discovery(struct agentpeer *peer, json_t *answer);
/* Status and text with which /backup/start answers; the default is 200. */
void agentpeer_set_start(struct agentpeer *peer, int status, const char *text);
/* From now on /backup/start waits until agentpeer_release(); calls already waiting go on then. */
void agentpeer_hold(struct agentpeer *peer);
void agentpeer_release(struct agentpeer *peer);
/* What /progress/{job} answers; NULL: 404. Stolen. */
void agentpeer_set_progress(struct agentpeer *peer, json_t *answer);

/* Body of the last /backup/start and /discover; NULL: none came. The caller json_decref()s. */
json_t *agentpeer_last_start(struct agentpeer *peer);
json_t *agentpeer_last_discovery(struct agentpeer *peer);

#endif
