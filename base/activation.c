#include "base/activation.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define FIRST_FD 3

/* Digits only; -1: anything else, or more than INT_MAX. */
static long parse_number(const char *text)
{
	char *end;
	long n;

	if (!text || *text < '0' || *text > '9')
		return -1;
	errno = 0;
	n = strtol(text, &end, 10);
	return errno || *end || n > 0x7fffffffL ? -1 : n;
}

static bool listens(int fd)
{
	int type = 0, listening = 0;
	socklen_t type_len = sizeof(type), listening_len = sizeof(listening);

	return !getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_len) && type == SOCK_STREAM &&
	       !getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &listening_len) && listening;
}

static int socket_take(struct activation_fd *s, int fd, struct err *err)
{
	int flags;

	if (!listens(fd))
		return err_set(
			err, -EINVAL,
			"descriptor %d, passed by the service manager, is no listening stream "
			"socket: its unit needs ListenStream=, and Accept=no",
			fd);
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) || fcntl(fd, F_SETFD, FD_CLOEXEC))
		return err_sys(err, -errno, "passed descriptor %d", fd);
	s->fd = fd;
	return 0;
}

/* One name for each socket, with ':' between them; no names at all are in order, too. */
static int take_names(struct activation *a, const char *names, struct err *err)
{
	unsigned i;

	for (i = 0; i < a->count; i++)
		strcpy(a->fds[i].name, "unknown");
	if (!names)
		return 0;
	for (i = 0; i < a->count; i++) {
		size_t n = strcspn(names, ":");

		if (n >= sizeof(a->fds[i].name) || !names[n] != (i + 1 == a->count))
			return err_set(err, -EINVAL,
				       "LISTEN_FDNAMES does not have one name for each of the %u "
				       "sockets that were passed",
				       a->count);
		memcpy(a->fds[i].name, names, n);
		a->fds[i].name[n] = '\0';
		names += n + 1;
	}
	return 0;
}

static int take(struct activation *out, struct err *err)
{
	const char *fds = getenv("LISTEN_FDS");
	long count = parse_number(fds), i;
	int r;

	if (!fds || parse_number(getenv("LISTEN_PID")) != getpid())
		return 0; /* none, or meant for another process */
	if (count < 0 || count > ACTIVATION_MAX)
		return err_set(err, -EINVAL, "LISTEN_FDS must be a number from 0 to %d",
			       ACTIVATION_MAX);
	out->count = count;
	r = take_names(out, getenv("LISTEN_FDNAMES"), err);
	for (i = 0; !r && i < count; i++)
		r = socket_take(&out->fds[i], FIRST_FD + i, err);
	return r;
}

int activation_take(struct activation *out, struct err *err)
{
	int r;

	memset(out, 0, sizeof(*out));
	r = take(out, err);
	if (r)
		out->count = 0;
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	return r;
}
