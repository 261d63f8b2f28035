/*
 * The catalog: what the hub knows, kept in one database.
 *
 * Handles and threads. `struct catalog` may be used from any thread at any time. It owns a small
 * pool of database connections; a call takes one, works, and gives it back. Reads run side by side;
 * writes queue behind each other in the order they came. A call returns after its change is
 * durable.
 *
 * Transactions. Every function of the noun headers is one transaction of its own. To make several
 * calls one transaction, put them in a function and run it with catalog_tx(): inside, use the
 * handle it is given (never the outer one), so that all calls land on the same connection. The
 * function may be run again from the start when the database was busy, so it must not change
 * anything outside the database before it returns. Nested catalog_tx() calls join the outer
 * transaction.
 *
 * Rows. A row is a flat struct: char arrays, integers, enums; no pointers, nothing to free. An
 * empty string or (where the struct says so) CATALOG_NONE stands for SQL NULL. Times are
 * microseconds since 1970 UTC, 0 for "not yet". A list function returns an array of rows in one
 * malloc(): free() it.
 *
 * Results. 0, -errno, or a condition below; with anything but 0 @err holds a sentence (@err may be
 * NULL) and output parameters are untouched unless the function says otherwise. The database's own
 * failures are -EIO, -ENOSPC (disk full), -EROFS, -EUCLEAN (damaged database), -EBUSY (still locked
 * by another process after the busy timeout and the retries), -ENOTCONN (no server for as long as
 * that), -ENOMEM. After all of these nothing was changed. Only -ECONNABORTED leaves it open: the
 * server went away in the middle of a commit and did not come back to be asked; look before you
 * repeat.
 *
 * No time window: nothing in the catalog finds a row by comparing times. Rows are found by their
 * keys, "latest" means the highest row id; times are for people to read.
 */
#ifndef CATALOG_CATALOG_H
#define CATALOG_CATALOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/err.h"

/* Named conditions of all catalog functions; each prototype lists the ones it can return. */
enum catalog_cond {
	CATALOG_E_NOT_FOUND = 1, /* no such row; the sentence names the key */
	CATALOG_E_BUSY,		 /* a backup of this VM is running; see the function for its id */
	CATALOG_E_EXISTS,	 /* a row with this name exists */
	CATALOG_E_IN_USE,	 /* other rows need this one; the sentence says which */
	CATALOG_E_STATE,     /* the job's state forbids it (completing a disk of a failed job) */
	CATALOG_E_CONFLICT,  /* it was done before, with other content */
	CATALOG_E_ALREADY,   /* it was done before; nothing changed, nothing is wrong */
	CATALOG_E_AMBIGUOUS, /* the name fits several rows; the sentence says what to add */
	CATALOG_E_INVALID,   /* a value of the caller's is refused: empty, too long, unknown */
	CATALOG_E_SCHEMA,    /* the database was written by a newer program */
	CATALOG_E_URL,	     /* the database URL names no backend of this program */
	CATALOG_E_FENCED,    /* the job is another hub's, or this hub is none any more (hubs.h) */
};

/* Sizes of text members, terminator included; the schema's VARCHAR lengths plus one. */
#define CATALOG_ID_SIZE	       65  /* ids of ours: jobs, contexts, chains, repositories */
#define CATALOG_NAME_SIZE      256 /* names, hosts, agent ids, labels */
#define CATALOG_VM_PATH_SIZE   501
#define CATALOG_PATH_SIZE      513 /* files and repositories */
#define CATALOG_CHANGE_ID_SIZE 256
#define CATALOG_EXPORT_SIZE    64
#define CATALOG_REASON_SIZE    256
#define CATALOG_ERROR_SIZE     512
#define CATALOG_TAGS_SIZE      2048
#define CATALOG_CONFIG_SIZE    4096

/* SQL NULL in an integer member whose comment says "or CATALOG_NONE". */
#define CATALOG_NONE (-1)

struct catalog;

struct catalog_options {
	unsigned int max_connections; /* 0: 8 */
	unsigned int busy_timeout_ms; /* wait for others' locks, and for the server; 0: 10 000 */
	unsigned int max_attempts;    /* at a transaction while the database is busy; 0: 12 */
	const char *copy_dir;	      /* for the copy of a MariaDB database; NULL: none is made */
};

/*
 * Opens the database at @url and brings its schema up to this program's, one migration after the
 * other; before the first one an existing database is copied aside. @opt may be NULL. The caller
 * closes *@out. CATALOG_E_URL, CATALOG_E_SCHEMA.
 *
 * "sqlite:PATH": a file, created with mode 0600 when absent; copied to
 * PATH.schema-<version>-<time>.bak.
 * "mariadb://USER@HOST[:PORT]/NAME[?...]": a database that exists (options:
 * catalog/db_mariadb_url.c); copied to COPY_DIR/catalog.schema-<version>-<time>.sql.
 */
int catalog_open(const char *url, const struct catalog_options *opt, struct catalog **out,
		 struct err *err);

/* After the last call of every thread returned. NULL is fine. */
void catalog_close(struct catalog *cat);
DEFINE_CLEANUP(struct catalog *, catalog_close)

/* Connections to the database; never waits for one. */
struct catalog_pool_stats {
	unsigned open, busy, max;
	unsigned queued; /* writers that wait for their turn */
};
void catalog_get_pool_stats(struct catalog *cat, struct catalog_pool_stats *out);

/* The schema version this program's queries are written for. */
int64_t catalog_schema_latest(void);

/* True when @url has a form catalog_open() accepts; for checking a configuration. */
bool catalog_url_valid(const char *url, struct err *err);

/*
 * Runs @fn(tx, @arg, @err) in one write transaction. @fn returning 0 commits; anything else rolls
 * back and is returned. When the database was busy the whole is run again, a bounded number of
 * times.
 */
typedef int catalog_tx_fn(struct catalog *tx, void *arg, struct err *err);
int catalog_tx(struct catalog *cat, catalog_tx_fn *fn, void *arg, struct err *err);

/* Writes "<prefix><26 characters>" to @id: lower case, time-ordered, unique without asking anyone.
 * Job ids take the prefix CATALOG_JOB_PREFIX, which the agent requires (agent contract 1.3). */
#define CATALOG_JOB_PREFIX "backup-"
void catalog_new_id(char id[CATALOG_ID_SIZE], const char *prefix);

/* Microseconds since 1970, UTC. */
int64_t catalog_now_us(void);

/* Copies a string into a row's char array: `if (!CATALOG_TEXT(vm.vm_name, name)) ...too long`.
 * NULL counts as "". When it does not fit the member becomes "" and the result is false: a cut name
 * would be another name. */
bool catalog_text_copy(char *dst, size_t cap, const char *src);
#define CATALOG_TEXT(dst, src) catalog_text_copy((dst), sizeof(dst), (src))

#endif
