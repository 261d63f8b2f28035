/*
 * How often somebody may do something: token buckets, one a key, in a table of fixed size. A bucket
 * holds up to `burst` and gets `per_s` a second; each act takes one. When the table is full the
 * bucket that is nearest to full goes, which forgets the least. Any thread.
 */
#ifndef HUB_LIMITER_H
#define HUB_LIMITER_H

#include <stdbool.h>
#include <stddef.h>

struct hub_limiter;

/* @keys: about how many are told apart at a time. NULL: no memory. */
struct hub_limiter *hub_limiter_new(unsigned per_s, unsigned burst, size_t keys);
void hub_limiter_free(struct hub_limiter *l); /* accepts NULL */

/* False: not now. *@fresh (may be NULL): the key was not in the table. */
bool hub_limiter_take(struct hub_limiter *l, const char *key, bool *fresh);

/* Seconds after which an empty bucket holds one again, at least 1. */
unsigned hub_limiter_wait_s(const struct hub_limiter *l);

#endif
