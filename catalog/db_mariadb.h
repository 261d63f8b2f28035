/*
 * What the files of the MariaDB backend share: db_mariadb.c (connection, transactions, statements),
 * db_mariadb_url.c (where, as whom, how), db_mariadb_copy.c (the whole database: copy and check).
 */
#ifndef CATALOG_DB_MARIADB_H
#define CATALOG_DB_MARIADB_H

#include <mysql.h>
/* Macros of its own list, which base/list.h has functions for. */
#undef list_pop
#undef list_push
#undef list_rest

#include "catalog/db_backend.h"

enum maria_tls {
	MARIA_TLS_OFF,
	MARIA_TLS_ON,	  /* encrypted; whoever answers is believed */
	MARIA_TLS_VERIFY, /* encrypted; the server's certificate must be good and name the host */
};

#define MARIA_HOSTS 8

struct maria_host {
	char name[256];
	unsigned int port;
};

/* A URL taken apart. An empty text is one that was not given. */
struct maria_url {
	char user[129];
	struct maria_host hosts[MARIA_HOSTS]; /* one: "localhost" when a socket is given */
	unsigned int host_count;
	char name[65]; /* of the database */
	char socket[108];
	char password_file[512];
	enum maria_tls tls;
	char tls_ca[512], tls_cert[512], tls_key[512];
	unsigned int timeout_s; /* an answer is waited for; not counting locks */
	char shown[512];	/* for sentences: "mariadb://user@host:port/name" */
};

#define MARIA_PASSWORD_ENV  "SENDENSE_DB_PASSWORD"
#define MARIA_PASSWORD_SIZE 512

/* @rest is what follows "mariadb:". @out may be NULL: only judge. */
int maria_url_parse(const char *rest, struct maria_url *out, struct err *err);

/* The password from the URL's file, else from the environment, else "". The caller wipes it. */
int maria_password(const struct maria_url *url, char password[MARIA_PASSWORD_SIZE],
		   struct err *err);

struct maria_db {
	struct db base;
	struct maria_url url;
	unsigned int busy_timeout_ms;
	MYSQL *h;	     /* NULL: not connected */
	unsigned int host;   /* of url.hosts: in use, or to be tried next */
	bool cluster;	     /* it is a node of one */
	bool started;	     /* the open transaction has: what waits now waits for a row */
	uint64_t connection; /* counts connections: a statement of another one is prepared anew */
	uint64_t locked_on;  /* the one that holds the schema lock, or 0 */
	char ticket[18];     /* what this transaction left in catalog_writer: 16 digits, a space */
	int64_t turn;	     /* and its number there */
	int64_t changed, inserted;
};

/* Turns the connection's last error into a result; what it ended is taken note of. */
int maria_fail(struct maria_db *m, struct err *err);

/* Runs one statement without rows. */
int maria_exec(struct maria_db *m, const char *sql, struct err *err);

int maria_backup(struct db *db, int64_t schema_version, const char *dir, struct err *err);
int maria_check(struct db *db, struct err *err);

#endif
