/* The tables of the repository types, one a file; repo_types.c lists them. */
#ifndef HUB_REPO_REPO_TYPES_H
#define HUB_REPO_REPO_TYPES_H

#include "hub/repo/repo.h"

extern const struct repo_ops repo_local_ops; /* a folder of this machine */

#endif
