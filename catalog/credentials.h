/*
 * credentials: what the hub logs in with. The catalog stores the secret as the text it is given,
 * which is encrypted, with the id of the key that opens it (hub/secrets.h); it understands neither.
 *
 * A VM context names a credential by its id; ids are never used again.
 */
#ifndef CATALOG_CREDENTIALS_H
#define CATALOG_CREDENTIALS_H

#include "catalog/catalog.h"

#define CATALOG_SECRET_SIZE 1024

enum catalog_credential_kind {
	CATALOG_CREDENTIAL_VCENTER,
	CATALOG_CREDENTIAL_CIFS,
	CATALOG_CREDENTIAL_S3,
	CATALOG_CREDENTIAL_AZURE,
};

/* "vcenter", "cifs", "s3", "azure". */
const char *catalog_credential_kind_name(enum catalog_credential_kind kind);

struct catalog_credential {
	int64_t id;
	char name[CATALOG_NAME_SIZE];
	enum catalog_credential_kind kind;
	char host[CATALOG_NAME_SIZE]; /* may be empty: any */
	char username[CATALOG_NAME_SIZE];
	char datacenter[CATALOG_NAME_SIZE]; /* may be empty */
	char secret[CATALOG_SECRET_SIZE];   /* encrypted */
	char key_id[CATALOG_ID_SIZE];
	bool is_default; /* at most one is */
	int64_t created_at_us;
	int64_t updated_at_us;
	int64_t vm_count; /* derived: VM contexts that name it */
};

/* Read from @row: name, kind, host, username, datacenter, secret, key_id, is_default (which takes
 * it from the one that has it). Written back: the rest. CATALOG_E_EXISTS (name), CATALOG_E_INVALID.
 */
int catalog_credential_create(struct catalog *cat, struct catalog_credential *row, struct err *err);

/* CATALOG_E_NOT_FOUND. */
int catalog_credential_get(struct catalog *cat, int64_t id, struct catalog_credential *out,
			   struct err *err);
int catalog_credential_get_default(struct catalog *cat, struct catalog_credential *out,
				   struct err *err);

/* All of them, ordered by name; a hub has tens, not thousands. */
int catalog_credentials_list(struct catalog *cat, struct catalog_credential **rows, size_t *n,
			     struct err *err);

/* NULL keeps what is stored. `secret` and `key_id` go together. */
struct catalog_credential_change {
	const char *name, *host, *username, *datacenter, *secret, *key_id;
};

/* CATALOG_E_NOT_FOUND, CATALOG_E_EXISTS, CATALOG_E_INVALID. */
int catalog_credential_update(struct catalog *cat, int64_t id,
			      const struct catalog_credential_change *change, struct err *err);

/* Makes it the default, in the place of the one that was; @on false takes that away from it.
 * CATALOG_E_NOT_FOUND. */
int catalog_credential_set_default(struct catalog *cat, int64_t id, bool on, struct err *err);

/* CATALOG_E_NOT_FOUND; CATALOG_E_IN_USE while a VM context names it. */
int catalog_credential_delete(struct catalog *cat, int64_t id, struct err *err);

#endif
