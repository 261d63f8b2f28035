/*
 * Starts a program as a service manager does that has made its sockets. Fails the test on trouble.
 */
#ifndef TESTS_SUPPORT_ACTIVATE_H
#define TESTS_SUPPORT_ACTIVATE_H

#include <stddef.h>
#include <sys/types.h>

/* A listening socket; "127.0.0.1:PORT" into @address. */
int activate_tcp(char *address, size_t size);
int activate_unix(const char *path);

/*
 * Runs argv[0], found by its path, with @fds passed to it as @names ("nbd:http", or NULL: without
 * names) and its first line on stdout in @line; "" when it ended before. stderr goes to @log. The
 * sockets stay the caller's as well.
 */
pid_t activate(const char *const *argv, const int *fds, unsigned count, const char *names,
	       char *line, size_t size, const char *log);

/* SIGTERM, and its exit status. */
int activate_end(pid_t pid);

#endif
