/* What every answer and report of the agent needs: texts that are valid JSON, and times. */
#ifndef TOOLS_AGENT_JSON_H
#define TOOLS_AGENT_JSON_H

#include <jansson.h>
#include <stdint.h>

#define AGENT_TIME_SIZE 32

/* A JSON text of a sentence that may quote bytes which are no UTF-8, or be cut inside a character:
 * those become '?'. New reference. */
json_t *agent_text_json(const char *text);

int64_t agent_now_us(void); /* wall clock, since 1970 */
/* "2026-01-31T12:00:00Z"; returns @out. */
const char *agent_time_text(int64_t us, char out[AGENT_TIME_SIZE]);

#endif
