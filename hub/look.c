#include "hub/look.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "base/list.h"

struct hub_looks {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct list running; /* struct look */
	unsigned refs;	     /* the hub's, and one of each thread */
};

struct look {
	struct list node; /* looks->running, while it runs */
	struct hub_looks *looks;
	unsigned refs; /* its thread's, and those who wait; looks->lock */
	struct catalog_repository row;
	int64_t since_ns;
	bool done;
	struct hub_look result;
};

static int64_t look_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

/* --- the list of them ------------------------------------------------------------------------ */

struct hub_looks *hub_looks_new(void)
{
	struct hub_looks *looks = calloc(1, sizeof(*looks));
	pthread_condattr_t attr;

	if (!looks)
		return NULL;
	looks->refs = 1;
	list_init(&looks->running);
	pthread_mutex_init(&looks->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&looks->cond, &attr);
	pthread_condattr_destroy(&attr);
	return looks;
}

/* Unlocks; frees with the last reference. */
static void looks_unref(struct hub_looks *looks)
{
	bool last = !--looks->refs;

	pthread_mutex_unlock(&looks->lock);
	if (!last)
		return;
	pthread_mutex_destroy(&looks->lock);
	pthread_cond_destroy(&looks->cond);
	free(looks);
}

void hub_looks_free(struct hub_looks *looks)
{
	if (!looks)
		return;
	pthread_mutex_lock(&looks->lock);
	looks_unref(looks);
}

/* `lock` held, as for what follows. */
static void look_unref(struct look *look)
{
	if (!--look->refs)
		free(look);
}

/* --- one look -------------------------------------------------------------------------------- */

static void look_at(const struct catalog_repository *row, struct hub_look *out)
{
	_cleanup_(repo_closep) struct repo *repo = NULL;

	out->rc = repo_open(&repo, row, false, &out->err);
	if (!out->rc)
		out->rc = repo->ops->storage(repo, &out->storage, &out->err);
}

static void *look_main(void *arg)
{
	struct look *look = arg;
	struct hub_looks *looks = look->looks;
	struct hub_look result = {.rc = 0};

	look_at(&look->row, &result);
	pthread_mutex_lock(&looks->lock);
	look->result = result;
	look->done = true;
	list_del(&look->node);
	look_unref(look);
	pthread_cond_broadcast(&looks->cond);
	looks_unref(looks);
	return NULL;
}

static int look_start(struct look *look)
{
	pthread_attr_t attr;
	pthread_t thread;
	int rc;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	rc = pthread_create(&thread, &attr, look_main, look);
	pthread_attr_destroy(&attr);
	return rc;
}

/* A place that was changed is another one. */
static struct look *look_find(struct hub_looks *looks, const struct catalog_repository *row)
{
	struct list *node;

	list_for_each (node, &looks->running) {
		struct look *look = list_entry(node, struct look, node);

		if (!strcmp(look->row.id, row->id) && !strcmp(look->row.config, row->config))
			return look;
	}
	return NULL;
}

/* Referenced for the caller; NULL: it cannot be looked. */
static struct look *look_get(struct hub_looks *looks, const struct catalog_repository *row)
{
	struct look *look = look_find(looks, row);

	if (look) {
		look->refs++;
		return look;
	}
	look = calloc(1, sizeof(*look));
	if (!look)
		return NULL;
	look->looks = looks;
	look->refs = 2;
	look->row = *row;
	look->since_ns = look_now_ns();
	list_add_tail(&looks->running, &look->node);
	looks->refs++;
	if (!look_start(look))
		return look;
	looks->refs--;
	list_del(&look->node);
	free(look);
	return NULL;
}

/* --- all of them ----------------------------------------------------------------------------- */

/* When each has had its time: the youngest is waited for longest. */
static int64_t last_deadline(struct look *const *mine, size_t n)
{
	int64_t deadline = 0;

	for (size_t i = 0; i < n; i++)
		if (mine[i] && !mine[i]->done)
			deadline = MAX(deadline, mine[i]->since_ns + HUB_LOOK_MS * 1000000LL);
	return deadline;
}

static void await(struct hub_looks *looks, struct look *const *mine, size_t n)
{
	int64_t deadline;

	while ((deadline = last_deadline(mine, n)) > look_now_ns()) {
		const struct timespec until = {.tv_sec = deadline / 1000000000LL,
					       .tv_nsec = deadline % 1000000000LL};

		pthread_cond_timedwait(&looks->cond, &looks->lock, &until);
	}
}

static void take(const struct look *look, const char *name, struct hub_look *out)
{
	*out = (struct hub_look){.rc = 0};
	if (!look)
		out->rc = err_set(&out->err, -EAGAIN,
				  "repository \"%s\" was not looked at: no memory or no thread",
				  name);
	else if (look->done)
		*out = look->result;
	else
		out->rc =
			err_set(&out->err, -ETIMEDOUT,
				"the storage of repository \"%s\" has not answered for %lld s",
				name, (long long)((look_now_ns() - look->since_ns) / 1000000000LL));
}

void hub_look(struct hub_looks *looks, const struct catalog_repository *rows, size_t n,
	      struct hub_look *out)
{
	struct look **mine = calloc(n + 1, sizeof(struct look *));

	pthread_mutex_lock(&looks->lock);
	for (size_t i = 0; mine && i < n; i++)
		mine[i] = look_get(looks, &rows[i]);
	if (mine)
		await(looks, mine, n);
	for (size_t i = 0; i < n; i++) {
		take(mine ? mine[i] : NULL, rows[i].name, &out[i]);
		if (mine && mine[i])
			look_unref(mine[i]);
	}
	pthread_mutex_unlock(&looks->lock);
	free(mine);
}
