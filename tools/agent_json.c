#include "tools/agent_json.h"

#include <stddef.h>
#include <time.h>

json_t *agent_text_json(const char *text)
{
	json_t *v = json_string(text);
	char plain[1024];
	size_t i;

	if (v)
		return v;
	for (i = 0; text[i] && i < sizeof(plain) - 1; i++)
		plain[i] = (unsigned char)text[i] < 0x80 ? text[i] : '?';
	plain[i] = '\0';
	return json_string(plain);
}

int64_t agent_now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

const char *agent_time_text(int64_t us, char out[AGENT_TIME_SIZE])
{
	time_t s = us / 1000000;
	struct tm tm;

	gmtime_r(&s, &tm);
	strftime(out, AGENT_TIME_SIZE, "%Y-%m-%dT%H:%M:%SZ", &tm);
	return out;
}
