/*
 * The handle: a pool of connections, and transactions with retry.
 *
 * Connections are opened when first needed, up to a bound, and kept. The database takes one
 * writer at a time, so write transactions queue on a ticket lock before they take a connection:
 * waiting threads then hold nothing, are served in order, and do not poll the database's lock.
 * Programs besides this one still meet at the database, which is what the busy timeout and the
 * retry are for.
 *
 * A transaction's handle is another `struct catalog`, on the stack of catalog_tx(), bound to one
 * connection. It is passed along explicitly; nothing hides in thread-local storage.
 */
#include "catalog/catalog.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "catalog/migrate.h"
#include "catalog/session.h"

#define DEFAULT_CONNECTIONS	8
#define DEFAULT_BUSY_TIMEOUT_MS 10000
#define DEFAULT_ATTEMPTS	12
#define TX_PAUSE_MS		200 /* at most, before the next attempt */

struct catalog {
	struct catalog *pool; /* itself, or whose transaction this is */

	/* A transaction's handle. */
	struct db *tx;
	bool must_retry;

	/* The pool; under @lock. */
	char *url;
	unsigned int busy_timeout_ms, max_attempts;
	_Atomic int64_t hub_token; /* not under @lock */
	pthread_mutex_t lock;
	pthread_cond_t returned; /* a connection came back, or could not be opened */
	pthread_cond_t served;	 /* the ticket lock moved on */
	struct db **idle;
	unsigned int n_idle, n_open, max_open;
	uint64_t next_ticket, now_serving;
	pthread_t writer; /* whose ticket is served, while @writing */
	bool writing;
};

/* --- open and close --------------------------------------------------------------------------- */

bool catalog_url_valid(const char *url, struct err *err)
{
	if (db_url_valid(url, err))
		return true;
	if (err)
		err->code = CATALOG_E_URL;
	return false;
}

static struct catalog *pool_new(const char *url, const struct catalog_options *opt)
{
	struct catalog *cat = calloc(1, sizeof(*cat));

	if (!cat)
		return NULL;
	cat->pool = cat;
	cat->max_open = opt && opt->max_connections ? opt->max_connections : DEFAULT_CONNECTIONS;
	cat->busy_timeout_ms =
		opt && opt->busy_timeout_ms ? opt->busy_timeout_ms : DEFAULT_BUSY_TIMEOUT_MS;
	cat->max_attempts = opt && opt->max_attempts ? opt->max_attempts : DEFAULT_ATTEMPTS;
	cat->url = strdup(url);
	cat->idle = calloc(cat->max_open, sizeof(cat->idle[0]));
	pthread_mutex_init(&cat->lock, NULL);
	pthread_cond_init(&cat->returned, NULL);
	pthread_cond_init(&cat->served, NULL);
	if (!cat->url || !cat->idle) {
		catalog_close(cat);
		return NULL;
	}
	return cat;
}

int catalog_open(const char *url, const struct catalog_options *opt, struct catalog **out,
		 struct err *err)
{
	_cleanup_(catalog_closep) struct catalog *cat = NULL;
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r;

	if (!catalog_url_valid(url, err))
		return CATALOG_E_URL;
	cat = pool_new(url, opt);
	if (!cat)
		return err_sys(err, -ENOMEM, "cannot open the catalog");
	r = catalog_lease(cat, &l, err);
	if (r)
		return r;
	r = catalog_schema_migrate(l.db, catalog_schema_latest(), opt ? opt->copy_dir : NULL, err);
	if (r)
		return catalog_result(cat, r);
	*out = steal(&cat);
	return 0;
}

void catalog_close(struct catalog *cat)
{
	if (!cat)
		return;
	assert(cat->pool == cat && cat->n_idle == cat->n_open);
	while (cat->n_idle)
		db_close(cat->idle[--cat->n_idle]);
	pthread_cond_destroy(&cat->served);
	pthread_cond_destroy(&cat->returned);
	pthread_mutex_destroy(&cat->lock);
	free(cat->idle);
	free(cat->url);
	free(cat);
}

/* --- connections ------------------------------------------------------------------------------ */

static int pool_take(struct catalog *pool, struct db **db, struct err *err)
{
	int r = 0;

	*db = NULL;
	pthread_mutex_lock(&pool->lock);
	while (!pool->n_idle && pool->n_open == pool->max_open)
		pthread_cond_wait(&pool->returned, &pool->lock);
	if (pool->n_idle)
		*db = pool->idle[--pool->n_idle];
	else
		pool->n_open++;
	pthread_mutex_unlock(&pool->lock);
	if (*db)
		return 0;
	r = db_open(pool->url, pool->busy_timeout_ms, db, err);
	if (r) {
		pthread_mutex_lock(&pool->lock);
		pool->n_open--;
		pthread_cond_signal(&pool->returned);
		pthread_mutex_unlock(&pool->lock);
	}
	return r;
}

static void pool_put(struct catalog *pool, struct db *db)
{
	pthread_mutex_lock(&pool->lock);
	pool->idle[pool->n_idle++] = db;
	pthread_cond_signal(&pool->returned);
	pthread_mutex_unlock(&pool->lock);
}

void catalog_get_pool_stats(struct catalog *cat, struct catalog_pool_stats *out)
{
	struct catalog *pool = cat->pool;
	uint64_t ahead;

	pthread_mutex_lock(&pool->lock);
	ahead = pool->next_ticket - pool->now_serving;
	*out = (struct catalog_pool_stats){
		.open = pool->n_open,
		.busy = pool->n_open - pool->n_idle,
		.max = pool->max_open,
		.queued = (unsigned)(ahead ? ahead - 1 : 0),
	};
	pthread_mutex_unlock(&pool->lock);
}

int catalog_lease(struct catalog *cat, struct catalog_lease *l, struct err *err)
{
	int r;

	if (cat->tx) {
		l->db = cat->tx;
		return 0;
	}
	r = pool_take(cat->pool, &l->db, err);
	if (!r)
		l->pool = cat->pool;
	return r;
}

void catalog_lease_end(struct catalog_lease *l)
{
	if (l->pool)
		pool_put(l->pool, l->db);
	*l = (struct catalog_lease){0};
}

struct db *catalog_db(struct catalog *tx)
{
	assert(tx->tx);
	return tx->tx;
}

int64_t catalog_hub_token(struct catalog *cat)
{
	return cat->pool->hub_token;
}

void catalog_set_hub_token(struct catalog *cat, int64_t token)
{
	cat->pool->hub_token = token;
}

/* --- results ---------------------------------------------------------------------------------- */

int catalog_result(struct catalog *cat, int r)
{
	switch (r) {
	case DB_E_BUSY:
		cat->must_retry = cat->tx != NULL;
		return -EBUSY;
	case DB_E_UNIQUE:
		return CATALOG_E_EXISTS;
	case DB_E_FOREIGN:
		return CATALOG_E_IN_USE;
	case DB_E_CHECK:
		return CATALOG_E_INVALID;
	case DB_E_ALREADY:
		return -EIO;
	default:
		return r;
	}
}

int catalog_found(struct catalog *cat, int r, struct err *err, const char *fmt, ...)
{
	char text[sizeof(err->text)];
	va_list ap;

	if (r == DB_ROW)
		return 0;
	if (r != DB_DONE)
		return catalog_result(cat, r);
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return err_set(err, CATALOG_E_NOT_FOUND, "%s", text);
}

/* --- transactions ----------------------------------------------------------------------------- */

static void writer_enter(struct catalog *pool)
{
	uint64_t ticket;

	pthread_mutex_lock(&pool->lock);
	/* The outer handle used for writing inside its own transaction would wait for itself. */
	assert(!pool->writing || !pthread_equal(pool->writer, pthread_self()));
	ticket = pool->next_ticket++;
	while (ticket != pool->now_serving)
		pthread_cond_wait(&pool->served, &pool->lock);
	pool->writer = pthread_self();
	pool->writing = true;
	pthread_mutex_unlock(&pool->lock);
}

static void writer_leave(struct catalog *pool)
{
	pthread_mutex_lock(&pool->lock);
	pool->now_serving++;
	pool->writing = false;
	pthread_cond_broadcast(&pool->served);
	pthread_mutex_unlock(&pool->lock);
}

static int tx_run(struct catalog *pool, struct db *db, catalog_tx_fn *fn, void *arg,
		  struct err *err)
{
	struct catalog tx = {.pool = pool, .tx = db};
	int r = db_begin(db, err);

	if (r)
		return r;
	r = fn(&tx, arg, err);
	if (tx.must_retry)
		r = DB_E_BUSY;
	if (!r)
		r = db_commit(db, err);
	if (r)
		db_rollback(db);
	return r;
}

static int tx_once(struct catalog *pool, catalog_tx_fn *fn, void *arg, struct err *err)
{
	struct catalog_lease l = {0};
	int r;

	writer_enter(pool);
	r = catalog_lease(pool, &l, err);
	if (!r)
		r = tx_run(pool, l.db, fn, arg, err);
	catalog_lease_end(&l);
	writer_leave(pool);
	return r;
}

/* A call that is a transaction of its own, made inside another: it happens whole or not at all
 * there too, whatever the outer function makes of its result. */
static int tx_nested(struct catalog *tx, catalog_tx_fn *fn, void *arg, struct err *err)
{
	int r = db_savepoint(tx->tx, err);

	if (r)
		return r;
	r = fn(tx, arg, err);
	if (!r)
		r = db_savepoint_release(tx->tx, err);
	if (r)
		db_savepoint_rollback(tx->tx);
	return r;
}

static void random_bytes(uint8_t *p, size_t n)
{
	ssize_t got = getrandom(p, n, 0);

	/* Up to 256 bytes come whole once the kernel's generator is up, which getrandom() awaits.
	 */
	assert(got == (ssize_t)n);
}

/* Those who met on different nodes of a cluster should not meet again. */
static void tx_pause(unsigned int attempt)
{
	struct timespec ts = {0};
	uint32_t v = 0;

	random_bytes((uint8_t *)&v, sizeof(v));
	ts.tv_nsec = v % MIN(10U << MIN(attempt, 10U), (unsigned int)TX_PAUSE_MS) * 1000000L;
	nanosleep(&ts, NULL);
}

int catalog_tx(struct catalog *cat, catalog_tx_fn *fn, void *arg, struct err *err)
{
	int r = DB_E_BUSY;

	if (cat->tx)
		return catalog_result(cat, tx_nested(cat, fn, arg, err));
	for (unsigned int i = 0; i < cat->max_attempts && r == DB_E_BUSY; i++) {
		if (i)
			tx_pause(i - 1);
		r = tx_once(cat, fn, arg, err);
	}
	if (!r && err)
		*err = ERR_INIT;
	return catalog_result(cat, r);
}

/* --- small things ----------------------------------------------------------------------------- */

int64_t catalog_now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

void catalog_new_id(char id[CATALOG_ID_SIZE], const char *prefix)
{
	static const char digits[] = "0123456789abcdefghjkmnpqrstvwxyz";
	uint64_t ms = (uint64_t)catalog_now_us() / 1000;
	uint8_t rnd[16];
	char text[27];

	random_bytes(rnd, sizeof(rnd));
	for (int i = 0; i < 10; i++)
		text[i] = digits[ms >> (45 - 5 * i) & 31];
	for (int i = 0; i < 16; i++)
		text[10 + i] = digits[rnd[i] & 31];
	text[26] = 0;
	snprintf(id, CATALOG_ID_SIZE, "%s%s", prefix, text);
}

bool catalog_text_copy(char *dst, size_t cap, const char *src)
{
	size_t len = src ? strlen(src) : 0;

	if (len >= cap) {
		dst[0] = 0;
		return false;
	}
	memcpy(dst, src ? src : "", len + 1);
	return true;
}
