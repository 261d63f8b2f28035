/*
 * The cage the worker locks itself into before it has seen a byte of a guest's disk. What is left
 * to it: memory, clocks, and reading and writing the descriptors it has. It cannot open a file or
 * a socket, start a program or a thread, signal or look at another process.
 */
#ifndef FILES_WORKER_SANDBOX_H
#define FILES_WORKER_SANDBOX_H

#include <stdbool.h>

#include "base/err.h"

struct sandbox_state {
	bool landlock; /* the kernel has it: a second wall behind seccomp */
	bool own_uid;  /* was root, is nobody */
};

/*
 * For good. In order: nobody's uid if it was root's, no_new_privs, Landlock, limits (1 GiB of
 * memory, an hour of processor time, no new files, no core), seccomp. What the kernel does not have
 * is reported if it is Landlock and an error otherwise. 0 or -errno.
 */
int sandbox_enter(struct sandbox_state *state, struct err *err);

#endif
