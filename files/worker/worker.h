/*
 * The program `sendense-files`: answers the calls of one session (files/proto.h) until its socket
 * ends. Has PROTO_CALL_FD and PROTO_BLOCK_FD open.
 */
#ifndef FILES_WORKER_WORKER_H
#define FILES_WORKER_WORKER_H

void worker_run(void); /* does not return before the end */

#endif
