/*
 * The thread a session runs on this side: it owns the image, starts the worker, and answers the
 * worker's requests for blocks until the socket ends. The worker dies with it.
 */
#ifndef FILES_HOST_H
#define FILES_HOST_H

#include <sys/types.h>

#include "files/files.h"

struct files_host;

/* Opens the image and starts the worker; *@call_fd (the caller's) is the other socket. */
int files_host_start(struct files_host **out, const struct files_opts *opts, int *call_fd,
		     struct err *err);
void files_host_stop(struct files_host *host); /* accepts NULL; kills and reaps the worker */

uint64_t files_host_size(const struct files_host *host); /* bytes of the disk */
pid_t files_host_pid(const struct files_host *host);	 /* not reaped before files_host_stop() */

#endif
