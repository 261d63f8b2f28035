#include "hub/ready.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bytes.h"
#include "hub/job.h"

#define READY_GREETING_S 1

static void check_says(struct hub_check *check, bool ok, const char *detail)
{
	check->ok = ok;
	snprintf(check->detail, sizeof(check->detail), "%.*s", (int)sizeof(check->detail) - 1,
		 ok ? "" : detail);
}

/* --- NBD -------------------------------------------------------------------------------------- */

static int ready_dial_unix(const char *path)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	int fd;

	if (strlen(path) >= sizeof(to.sun_path))
		return -ENAMETOOLONG;
	strcpy(to.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0)
		return fd < 0 ? -errno : fd;
	close(fd);
	return -ECONNREFUSED;
}

/* "ADDR:PORT", "[v6]:PORT" as nbd_server_listen() says it. */
static int ready_dial_tcp(const char *address)
{
	const struct addrinfo hints = {
		.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
		.ai_socktype = SOCK_STREAM,
	};
	const char *colon = strrchr(address, ':');
	struct addrinfo *to = NULL;
	char host[256];
	size_t n = colon ? (size_t)(colon - address) : 0;
	bool bracket = n > 2 && address[0] == '[';
	int fd;

	if (!n || n >= sizeof(host))
		return -EINVAL;
	snprintf(host, sizeof(host), "%.*s", (int)(bracket ? n - 2 : n), address + bracket);
	if (getaddrinfo(host, colon + 1, &hints, &to))
		return -EINVAL;
	fd = socket(to->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, to->ai_addr, to->ai_addrlen)) {
		close(fd);
		fd = -1;
		errno = ECONNREFUSED;
	}
	freeaddrinfo(to);
	return fd < 0 ? -errno : fd;
}

/* The server speaks first, whatever its policy for TLS. */
static void ready_check_nbd(struct hub *hub, struct hub_check *check)
{
	static const char greeting[] = "NBDMAGICIHAVEOPT";
	const struct timeval patience = {.tv_sec = READY_GREETING_S};
	const struct hub_address advertised = hub_advertised(hub);
	const char *at = advertised.text;
	_cleanup_(closep) int fd =
		strncmp(at, "unix:", 5) == 0 ? ready_dial_unix(at + 5) : ready_dial_tcp(at);
	char got[sizeof(greeting) - 1];

	strcpy(check->kind, "nbd");
	if (fd < 0) {
		check_says(check, false, "nobody listens");
		return;
	}
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	check_says(check,
		   recv(fd, got, sizeof(got), MSG_WAITALL) == (ssize_t)sizeof(got) &&
			   !memcmp(got, greeting, sizeof(got)),
		   "the server does not greet");
}

/* --- catalog, repositories ------------------------------------------------------------------- */

static void ready_check_repository(const struct catalog_repository *row,
				   const struct hub_look *look, struct hub_check *check)
{
	strcpy(check->kind, "repository");
	strcpy(check->name, row->name);
	/* Who asks may be anybody: no paths. */
	check_says(check, !look->rc, look->rc == -ETIMEDOUT ? look->err.text : "out of reach");
}

/* Those in use, to the front; how many. */
static size_t ready_enabled(struct catalog_repository *rows, size_t n)
{
	size_t kept = 0;

	for (size_t i = 0; i < n; i++)
		if (rows[i].enabled)
			rows[kept++] = rows[i];
	return kept;
}

static struct hub_check *ready_run(struct hub *hub, const struct catalog_repository *rows,
				   size_t rows_n, bool catalog_ok, size_t *n)
{
	_cleanup_(freep) struct hub_look *looks = calloc(rows_n + 1, sizeof(*looks));
	struct hub_check *checks = looks ? calloc(rows_n + 2, sizeof(*checks)) : NULL;

	if (!checks)
		return NULL;
	strcpy(checks[0].kind, "catalog");
	check_says(&checks[0], catalog_ok, "the database does not answer");
	ready_check_nbd(hub, &checks[1]);
	*n = 2;
	hub_look(hub->looks, rows, rows_n, looks);
	for (size_t i = 0; i < rows_n; i++)
		ready_check_repository(&rows[i], &looks[i], &checks[(*n)++]);
	return checks;
}

bool hub_ready(struct hub *hub, struct hub_check **checks, size_t *n)
{
	_cleanup_(freep) struct catalog_repository *rows = NULL;
	size_t rows_n = 0, reached = 0;
	bool catalog_ok = !catalog_repositories_list(hub->catalog, &rows, &rows_n, NULL);

	*checks = ready_run(hub, rows, ready_enabled(rows, rows_n), catalog_ok, n);
	if (!*checks)
		return false;
	for (size_t i = 2; i < *n; i++)
		reached += (*checks)[i].ok;
	return (*checks)[0].ok && (*checks)[1].ok && (*n == 2 || reached) && !hub_is_stopping(hub);
}
