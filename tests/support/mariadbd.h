/*
 * A MariaDB server of a test program's own: data and socket in a folder under ${TMPDIR:-/tmp}. It
 * dies with the thread that started it, however that ends: start it from the main one, in the
 * repository's root folder.
 */
#ifndef TESTS_SUPPORT_MARIADBD_H
#define TESTS_SUPPORT_MARIADBD_H

#include <mysql.h>
#include <sys/types.h>

struct mariadbd {
	char dir[256];
	char sock[300];
	pid_t pid;		/* 0: not running */
	unsigned int port;	/* 0: the socket alone */
	const char *options[8]; /* mariadbd's, to be set before a start; the last is NULL */
};

/* Makes the folder. With @tcp a port of 127.0.0.1 is chosen. */
void mariadbd_init(struct mariadbd *s, int tcp);
/* Starts the server, the first time or again, and waits until it answers; aborts when it does not.
 */
void mariadbd_start(struct mariadbd *s);
/* Kills it in mid-air. */
void mariadbd_kill(struct mariadbd *s);
/* Stops it if it runs and removes the folder. */
void mariadbd_deinit(struct mariadbd *s);

/* A connection as root to @database (NULL: none), speaking SQL as the catalog does; mysql_close()
 * it. Aborts when there is none. */
MYSQL *mariadbd_connect(const struct mariadbd *s, const char *database);

#endif
