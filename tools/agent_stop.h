/*
 * A stop request that a poll loop can wait for: a flag for code that looks, an eventfd for code
 * that sleeps. Once asked it stays asked. Any thread may ask or look.
 */
#ifndef TOOLS_AGENT_STOP_H
#define TOOLS_AGENT_STOP_H

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct agent_stop {
	atomic_bool asked;
	int fd; /* readable for ever once asked */
};

static inline int agent_stop_init(struct agent_stop *stop)
{
	atomic_init(&stop->asked, false);
	stop->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return stop->fd < 0 ? -errno : 0;
}

static inline void agent_stop_deinit(struct agent_stop *stop)
{
	if (stop->fd >= 0)
		close(stop->fd);
	stop->fd = -1;
}

static inline bool agent_stop_asked(const struct agent_stop *stop)
{
	return atomic_load(&stop->asked);
}

/* The eventfd can only refuse a second request, which changes nothing. */
static inline void agent_stop_ask(struct agent_stop *stop)
{
	uint64_t one = 1;

	atomic_store(&stop->asked, true);
	if (write(stop->fd, &one, sizeof(one)) < 0)
		return;
}

#endif
