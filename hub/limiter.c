#include "hub/limiter.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/bytes.h"
#include "base/xxh3.h"
#include "hub/job.h"

#define LIMITER_WAYS 8

struct bucket {
	uint64_t key; /* hash; 0: free */
	int64_t seen_ns;
	double left;
};

struct hub_limiter {
	pthread_mutex_t lock;
	unsigned per_s, burst;
	uint64_t seed; /* so that nobody can choose keys that share a bucket */
	size_t sets;
	struct bucket buckets[][LIMITER_WAYS];
};

struct hub_limiter *hub_limiter_new(unsigned per_s, unsigned burst, size_t keys)
{
	size_t sets = MAX(div_up(keys, LIMITER_WAYS), 1);
	struct hub_limiter *l = calloc(1, sizeof(*l) + sets * sizeof(l->buckets[0]));

	if (!l)
		return NULL;
	pthread_mutex_init(&l->lock, NULL);
	l->per_s = per_s;
	l->burst = burst;
	l->sets = sets;
	if (getrandom(&l->seed, sizeof(l->seed), 0) != (ssize_t)sizeof(l->seed))
		l->seed = (uint64_t)hub_now_ns();
	return l;
}

void hub_limiter_free(struct hub_limiter *l)
{
	if (!l)
		return;
	pthread_mutex_destroy(&l->lock);
	free(l);
}

unsigned hub_limiter_wait_s(const struct hub_limiter *l)
{
	return l->per_s ? 1 : 60;
}

static double filled(const struct hub_limiter *l, const struct bucket *b, int64_t now)
{
	double left = b->left + (double)(now - b->seen_ns) / 1e9 * l->per_s;

	return MIN(left, (double)l->burst);
}

/* `lock` held. */
static struct bucket *find(struct hub_limiter *l, uint64_t key, int64_t now, bool *fresh)
{
	struct bucket *set = l->buckets[key % l->sets], *fullest = &set[0];

	*fresh = false;
	for (int i = 0; i < LIMITER_WAYS; i++) {
		if (set[i].key == key)
			return &set[i];
		if (fullest->key &&
		    (!set[i].key || filled(l, &set[i], now) > filled(l, fullest, now)))
			fullest = &set[i];
	}
	*fresh = true;
	*fullest = (struct bucket){.key = key, .seen_ns = now, .left = l->burst};
	return fullest;
}

bool hub_limiter_take(struct hub_limiter *l, const char *key, bool *fresh)
{
	uint64_t hash = XXH3_64bits_withSeed(key, strlen(key), l->seed);
	int64_t now = hub_now_ns();
	struct bucket *b;
	bool is_fresh, yes;

	pthread_mutex_lock(&l->lock);
	b = find(l, hash ? hash : 1, now, &is_fresh);
	b->left = filled(l, b, now);
	b->seen_ns = now;
	yes = b->left >= 1;
	if (yes)
		b->left -= 1;
	pthread_mutex_unlock(&l->lock);
	if (fresh)
		*fresh = is_fresh;
	return yes;
}
