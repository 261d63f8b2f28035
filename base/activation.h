/*
 * Socket activation: listening sockets that the service manager made and passed on, as
 * sd_listen_fds(3) describes it (LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES; descriptors from 3 on).
 * They outlive the program: while it is restarted, clients queue up instead of being refused.
 */
#ifndef BASE_ACTIVATION_H
#define BASE_ACTIVATION_H

#include "base/err.h"

#define ACTIVATION_MAX 32

struct activation {
	unsigned count; /* 0: nothing was passed to this process */
	struct activation_fd {
		int fd;		/* listening stream socket, close-on-exec, non-blocking */
		char name[256]; /* FileDescriptorName=; "unknown" when there is none */
	} fds[ACTIVATION_MAX];
};

/*
 * Takes what was passed, and the variables out of the environment, so that no child believes they
 * are meant for it. By main(), before threads start, once. -EINVAL: what was passed is no set of
 * listening stream sockets; nothing is taken then.
 */
int activation_take(struct activation *out, struct err *err);

#endif
