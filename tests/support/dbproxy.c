#include "tests/support/dbproxy.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* A packet of the protocol: 3 bytes length, 1 byte number, then for a query: */
#define HEADER	  4
#define COM_QUERY 3

struct dbproxy {
	char sock[108], server[108];
	int listener;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t idle;
	unsigned int open; /* connections */
	const char *query; /* to cut at; NULL: none */
	int nth;	   /* of them */
	enum dbproxy_cut when;
	bool then_refuse, refuse, has_cut, holds;
};

struct pair {
	struct dbproxy *p;
	int client, server;
};

static void address(struct sockaddr_un *a, const char *path)
{
	*a = (struct sockaddr_un){.sun_family = AF_UNIX};
	snprintf(a->sun_path, sizeof(a->sun_path), "%s", path);
}

/* Takes the order to cut, if this is the query. */
static bool is_the_one(struct dbproxy *p, const char *buf, size_t n, enum dbproxy_cut *when)
{
	bool yes;

	pthread_mutex_lock(&p->lock);
	yes = p->query && n == HEADER + 1 + strlen(p->query) && buf[HEADER] == COM_QUERY &&
	      !memcmp(buf + HEADER + 1, p->query, strlen(p->query));
	yes = yes && --p->nth == 0;
	*when = p->when;
	if (yes) {
		p->query = NULL;
		p->has_cut = true;
		p->refuse |= p->then_refuse;
	}
	pthread_mutex_unlock(&p->lock);
	return yes;
}

/* False when the connection is over. */
static bool pass(int from, int to, char *buf, size_t cap, size_t *n)
{
	ssize_t got = read(from, buf, cap);

	*n = got > 0 ? (size_t)got : 0;
	return got > 0 && (to < 0 || write(to, buf, *n) == got);
}

/* Until somebody says go on. */
static void hold(struct dbproxy *p)
{
	pthread_mutex_lock(&p->lock);
	p->holds = true;
	pthread_cond_broadcast(&p->idle);
	while (p->holds)
		pthread_cond_wait(&p->idle, &p->lock);
	pthread_mutex_unlock(&p->lock);
}

static bool refuses_now(struct dbproxy *p)
{
	bool yes;

	pthread_mutex_lock(&p->lock);
	yes = p->refuse;
	pthread_mutex_unlock(&p->lock);
	return yes;
}

static bool pass_query(struct pair *c, char *buf, size_t cap)
{
	enum dbproxy_cut when;
	bool found;
	size_t n;

	if (!pass(c->client, -1, buf, cap, &n))
		return false;
	found = is_the_one(c->p, buf, n, &when);
	if (found && when == DBPROXY_HOLD)
		hold(c->p);
	if (!found && refuses_now(c->p))
		return false;
	if (!found || when == DBPROXY_HOLD)
		return write(c->server, buf, n) == (ssize_t)n;
	if (when == DBPROXY_AFTER && write(c->server, buf, n) == (ssize_t)n)
		pass(c->server, -1, buf, cap, &n);
	return false;
}

static void *carry(void *arg)
{
	struct pair *c = arg;
	struct pollfd fds[] = {{c->client, POLLIN, 0}, {c->server, POLLIN, 0}};
	char *buf = malloc(1 << 20);
	bool go_on = true;
	size_t n;

	while (go_on && poll(fds, 2, -1) > 0) {
		if (fds[0].revents)
			go_on = pass_query(c, buf, 1 << 20);
		if (go_on && fds[1].revents)
			go_on = pass(c->server, c->client, buf, 1 << 20, &n);
	}
	close(c->client);
	close(c->server);
	pthread_mutex_lock(&c->p->lock);
	if (--c->p->open == 0)
		pthread_cond_broadcast(&c->p->idle);
	pthread_mutex_unlock(&c->p->lock);
	free(buf);
	free(c);
	return NULL;
}

static bool refuses(struct dbproxy *p)
{
	bool yes;

	pthread_mutex_lock(&p->lock);
	yes = p->refuse;
	p->open += !yes;
	pthread_mutex_unlock(&p->lock);
	return yes;
}

static void *listen_main(void *arg)
{
	struct dbproxy *p = arg;
	int client;

	while ((client = accept(p->listener, NULL, NULL)) >= 0) {
		struct pair *c = malloc(sizeof(*c));
		struct sockaddr_un a;
		pthread_t thread;

		*c = (struct pair){p, client, socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
		address(&a, p->server);
		if (refuses(p)) {
			close(c->client);
			close(c->server);
			free(c);
			continue;
		}
		/* A server that is not there ends the connection at its first byte. */
		if (connect(c->server, (struct sockaddr *)&a, sizeof(a)))
			shutdown(c->client, SHUT_RDWR);
		if (pthread_create(&thread, NULL, carry, c))
			abort();
		pthread_detach(thread);
	}
	return NULL;
}

struct dbproxy *dbproxy_start(const char *sock, const char *server_sock)
{
	struct dbproxy *p = calloc(1, sizeof(*p));
	struct sockaddr_un a;

	snprintf(p->sock, sizeof(p->sock), "%s", sock);
	snprintf(p->server, sizeof(p->server), "%s", server_sock);
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->idle, NULL);
	address(&a, sock);
	p->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(p->listener, (struct sockaddr *)&a, sizeof(a)) || listen(p->listener, 64) ||
	    pthread_create(&p->thread, NULL, listen_main, p))
		abort();
	return p;
}

void dbproxy_stop(struct dbproxy *p)
{
	shutdown(p->listener, SHUT_RDWR);
	pthread_join(p->thread, NULL);
	close(p->listener);
	pthread_mutex_lock(&p->lock);
	while (p->open)
		pthread_cond_wait(&p->idle, &p->lock);
	pthread_mutex_unlock(&p->lock);
	unlink(p->sock);
	pthread_cond_destroy(&p->idle);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

void dbproxy_cut_at(struct dbproxy *p, const char *query, int nth, enum dbproxy_cut when,
		    bool then_refuse)
{
	pthread_mutex_lock(&p->lock);
	p->query = query;
	p->nth = nth;
	p->when = when;
	p->then_refuse = then_refuse;
	p->has_cut = false;
	pthread_mutex_unlock(&p->lock);
}

void dbproxy_refuse(struct dbproxy *p, bool refuse)
{
	pthread_mutex_lock(&p->lock);
	p->refuse = refuse;
	pthread_mutex_unlock(&p->lock);
}

void dbproxy_await_held(struct dbproxy *p)
{
	pthread_mutex_lock(&p->lock);
	while (!p->holds)
		pthread_cond_wait(&p->idle, &p->lock);
	pthread_mutex_unlock(&p->lock);
}

void dbproxy_go_on(struct dbproxy *p)
{
	pthread_mutex_lock(&p->lock);
	p->holds = false;
	pthread_cond_broadcast(&p->idle);
	pthread_mutex_unlock(&p->lock);
}

bool dbproxy_has_cut(struct dbproxy *p)
{
	bool yes;

	pthread_mutex_lock(&p->lock);
	yes = p->has_cut;
	pthread_mutex_unlock(&p->lock);
	return yes;
}
