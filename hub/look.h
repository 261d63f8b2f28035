/*
 * A look at repositories that ends in time: is each there, how much space has it? A network file
 * system that hangs holds whoever touches it, for hours if need be, so the touching is done by
 * threads of its own. One that hangs stays behind until its file system answers or the process
 * ends; a repository has no second one meanwhile, so that they do not pile up.
 */
#ifndef HUB_LOOK_H
#define HUB_LOOK_H

#include "base/err.h"
#include "catalog/repositories.h"
#include "hub/repo/repo.h"

struct hub_looks; /* what is being looked at */

#define HUB_LOOK_MS 2000

struct hub_look {
	int rc; /* 0; -ETIMEDOUT: it has not answered; else why it cannot be used */
	struct repo_storage storage;
	struct err err; /* with a result other than 0 */
};

struct hub_looks *hub_looks_new(void); /* NULL: no memory */

/* Does not wait for looks that hang. Accepts NULL. */
void hub_looks_free(struct hub_looks *looks);

/*
 * Looks at all of @rows at once, into @out, and returns when all have answered, or after
 * HUB_LOOK_MS. One that was asked before and has not answered for so long is not waited for again.
 * Any thread.
 */
void hub_look(struct hub_looks *looks, const struct catalog_repository *rows, size_t n,
	      struct hub_look *out);

#endif
