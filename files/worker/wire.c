#include "files/worker/wire.h"

#include <errno.h>
#include <unistd.h>

/* SIGPIPE is ignored (sandbox.c). */
void wire_send(int fd, const void *buf, size_t len)
{
	while (len) {
		ssize_t n = write(fd, buf, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			_exit(0);
		buf = (const char *)buf + n;
		len -= (size_t)n;
	}
}

void wire_recv(int fd, void *buf, size_t len)
{
	while (len) {
		ssize_t n = read(fd, buf, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			_exit(0);
		buf = (char *)buf + n;
		len -= (size_t)n;
	}
}

void wire_answer(enum proto_answer answer, const void *a, size_t a_len, const void *b, size_t b_len)
{
	struct proto_head head = {.answer = answer, .len = (uint32_t)(a_len + b_len)};

	wire_send(PROTO_CALL_FD, &head, sizeof(head));
	wire_send(PROTO_CALL_FD, a, a_len);
	wire_send(PROTO_CALL_FD, b, b_len);
}
