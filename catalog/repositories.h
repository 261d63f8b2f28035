/*
 * backup_repositories: where backups are kept. The catalog stores the configuration as JSON text
 * and understands none of it; secrets do not belong there, only references to them.
 */
#ifndef CATALOG_REPOSITORIES_H
#define CATALOG_REPOSITORIES_H

#include "catalog/catalog.h"

enum catalog_repository_type {
	CATALOG_REPOSITORY_LOCAL,
	CATALOG_REPOSITORY_NFS,
	CATALOG_REPOSITORY_CIFS,
	CATALOG_REPOSITORY_S3,
	CATALOG_REPOSITORY_AZURE,
};

/* "local", "nfs", "cifs", "s3", "azure". */
const char *catalog_repository_type_name(enum catalog_repository_type type);
/* The reverse; "smb" is read as CIFS. False for anything else. */
bool catalog_repository_type_parse(const char *name, enum catalog_repository_type *out);

struct catalog_repository {
	char id[CATALOG_ID_SIZE]; /* "repo-..." */
	char name[CATALOG_NAME_SIZE];
	enum catalog_repository_type type;
	char config[CATALOG_CONFIG_SIZE]; /* JSON object */
	bool enabled;
	bool is_immutable;
	int64_t min_retention_days;
	int64_t total_size_bytes; /* the last three as of last_check_at_us */
	int64_t used_size_bytes;
	int64_t available_size_bytes;
	int64_t last_check_at_us; /* 0: never looked */
	int64_t created_at_us;
	int64_t updated_at_us;
	int64_t backup_count; /* derived: jobs, whatever their state */
	int64_t copy_count;   /* derived: copies of backups of other repositories, the same */
};

/* Read from @repo: name (non-empty), type, config (JSON), enabled, is_immutable,
 * min_retention_days; id when given, else one is made. Written back: the rest. CATALOG_E_EXISTS
 * (name or id taken), CATALOG_E_INVALID. */
int catalog_repository_create(struct catalog *cat, struct catalog_repository *repo,
			      struct err *err);

/* CATALOG_E_NOT_FOUND. */
int catalog_repository_get(struct catalog *cat, const char *id, struct catalog_repository *out,
			   struct err *err);
int catalog_repository_get_by_name(struct catalog *cat, const char *name,
				   struct catalog_repository *out, struct err *err);

/* All of them, ordered by name; a hub has tens, not thousands. */
int catalog_repositories_list(struct catalog *cat, struct catalog_repository **rows, size_t *n,
			      struct err *err);

/* What a look at the storage found; sets last_check. CATALOG_E_NOT_FOUND. */
int catalog_repository_set_sizes(struct catalog *cat, const char *id, int64_t total_bytes,
				 int64_t used_bytes, int64_t available_bytes, struct err *err);

/* CATALOG_E_NOT_FOUND. */
int catalog_repository_set_enabled(struct catalog *cat, const char *id, bool enabled,
				   struct err *err);

/* NULL keeps what is stored. */
struct catalog_repository_change {
	const char *name, *config;
	const bool *enabled;
	const int64_t *min_retention_days;
};

/* CATALOG_E_NOT_FOUND, CATALOG_E_EXISTS (name), CATALOG_E_INVALID. */
int catalog_repository_update(struct catalog *cat, const char *id,
			      const struct catalog_repository_change *change, struct err *err);

/* Refused while a policy or copy rule names it, and while a backup job of it or a copy in it is in
 * the catalog, whatever the state (M65). CATALOG_E_NOT_FOUND, CATALOG_E_IN_USE. */
int catalog_repository_delete(struct catalog *cat, const char *id, struct err *err);

#endif
