/*
 * The worker's two sockets. Whole messages, blocking; when the other side is gone the process ends,
 * for there is nobody left to tell.
 */
#ifndef FILES_WORKER_WIRE_H
#define FILES_WORKER_WIRE_H

#include "files/proto.h"

void wire_send(int fd, const void *buf, size_t len);
void wire_recv(int fd, void *buf, size_t len);

/* One message on the call socket: @a and @b one behind the other; either may be empty. */
void wire_answer(enum proto_answer answer, const void *a, size_t a_len, const void *b,
		 size_t b_len);

#endif
