/*
 * Repositories: where points are kept. Creating one makes and probes the storage first and stores
 * the row after, so that a repository in the catalog was usable at least once.
 */
#ifndef HUB_REPOSITORIES_H
#define HUB_REPOSITORIES_H

#include "catalog/repositories.h"
#include "hub/hub.h"

/*
 * Read from @repo: name, type, config (JSON object), enabled, is_immutable, min_retention_days.
 * The storage is opened, created when it may be, and probed by write, read and delete. Written
 * back: the whole row, sizes included. HUB_E_INVALID, HUB_E_EXISTS.
 */
int hub_repository_create(struct hub *hub, struct catalog_repository *repo, struct err *err);

/* With fresh sizes where the storage answers in time (look.h); else as last seen. HUB_E_NOT_FOUND.
 */
int hub_repository_get(struct hub *hub, const char *id, struct catalog_repository *out,
		       struct err *err);
int hub_repositories_list(struct hub *hub, struct catalog_repository **rows, size_t *n,
			  struct err *err);

/*
 * Finds a repository the way a request names it (mission K3): @id, or @name by name, else by type
 * when one repository has that type. Both given and different: HUB_E_INVALID. HUB_E_NOT_FOUND.
 * HUB_E_STATE: it is disabled, and takes nothing new.
 */
int hub_repository_resolve(struct hub *hub, const char *id, const char *name,
			   struct catalog_repository *out, struct err *err);

/* NULL keeps what is stored. */
struct hub_repository_change {
	const char *name;
	const char *config; /* JSON text, whole */
	const bool *enabled;
	const int64_t *min_retention_days;
};

/* A configuration must work before it is stored, and may name another place only while the
 * repository holds no backups. HUB_E_NOT_FOUND, HUB_E_INVALID, HUB_E_EXISTS, HUB_E_STATE. */
int hub_repository_update(struct hub *hub, const char *id,
			  const struct hub_repository_change *change, struct err *err);

/* Writes, reads and deletes a file there. @row need not be stored: what POST would create. 0, or
 * why it does not work: HUB_E_INVALID, -errno. */
int hub_repository_test(struct hub *hub, const struct catalog_repository *row, struct err *err);

/* Looks how much space there is, now, and stores it. HUB_E_NOT_FOUND; HUB_E_STATE: out of reach,
 * or no answer in time. */
int hub_repository_storage(struct hub *hub, const char *id, struct catalog_repository *out,
			   struct err *err);

#endif
