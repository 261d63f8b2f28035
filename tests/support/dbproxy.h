/*
 * A bad network between a client and a database server: passes everything on between two unix
 * sockets, until it is told to cut a connection at a certain query.
 */
#ifndef TESTS_SUPPORT_DBPROXY_H
#define TESTS_SUPPORT_DBPROXY_H

#include <stdbool.h>

struct dbproxy;

enum dbproxy_cut {
	DBPROXY_BEFORE, /* the query does not reach the server */
	DBPROXY_AFTER,	/* the server has carried it out; its answer does not reach the client */
	DBPROXY_HOLD,	/* nothing is cut: it waits for dbproxy_go_on() on its way to the server */
};

/* Listens at @sock, connects to @server_sock. Aborts on trouble. */
struct dbproxy *dbproxy_start(const char *sock, const char *server_sock);
/* When no connection is open any more. */
void dbproxy_stop(struct dbproxy *p);

/* Cuts the connection on which the @nth query from now (1: the next) of just this text comes, once.
 * With @then_refuse nothing gets through from then on: new connections are cut at once, others at
 * their next query. */
void dbproxy_cut_at(struct dbproxy *p, const char *query, int nth, enum dbproxy_cut when,
		    bool then_refuse);
void dbproxy_refuse(struct dbproxy *p, bool refuse);
/* Returns when a query is held; lets it go on. */
void dbproxy_await_held(struct dbproxy *p);
void dbproxy_go_on(struct dbproxy *p);
/* Whether it has cut since dbproxy_cut_at(). */
bool dbproxy_has_cut(struct dbproxy *p);

#endif
