/*
 * users: who may ask the hub for anything, each with one role.
 *
 * One user can always manage the others: the last enabled administrator can be neither disabled nor
 * deleted nor given another role, whoever asks at the same time.
 */
#ifndef CATALOG_USERS_H
#define CATALOG_USERS_H

#include "catalog/catalog.h"

/* Each of the first three may do what the one before may. An agent may do what agents do alone. */
enum catalog_role {
	CATALOG_ROLE_VIEWER,
	CATALOG_ROLE_OPERATOR,
	CATALOG_ROLE_ADMIN,
	CATALOG_ROLE_AGENT,
};

const char *catalog_role_name(enum catalog_role role);
bool catalog_role_parse(const char *name, enum catalog_role *out);

struct catalog_user {
	char id[CATALOG_ID_SIZE]; /* "user-..." */
	char name[CATALOG_NAME_SIZE];
	enum catalog_role role;
	bool enabled;
	int64_t created_at_us;
	int64_t updated_at_us;
	int64_t last_login_at_us; /* when a token of the user's was last seen used */
	int64_t token_count;	  /* derived: those not revoked, without sessions */
};

/* 1 to 64 of A-Z a-z 0-9 . _ @ -, beginning with a letter or digit. */
bool catalog_user_name_valid(const char *name);

/* Stores name, role and enabled of @user; writes back the rest. CATALOG_E_INVALID,
 * CATALOG_E_EXISTS. */
int catalog_user_create(struct catalog *cat, struct catalog_user *user, struct err *err);

/* CATALOG_E_NOT_FOUND. */
int catalog_user_get(struct catalog *cat, const char *id, struct catalog_user *out,
		     struct err *err);
int catalog_user_get_by_name(struct catalog *cat, const char *name, struct catalog_user *out,
			     struct err *err);

/* Ordered by name; *@total (may be NULL) counts all of them. @limit 0: no limit. */
int catalog_users_list(struct catalog *cat, int64_t limit, int64_t offset,
		       struct catalog_user **rows, size_t *n, int64_t *total, struct err *err);

/* Sets what is not NULL. @out (may be NULL) is the user afterwards. CATALOG_E_NOT_FOUND;
 * CATALOG_E_IN_USE: the last enabled administrator. */
int catalog_user_update(struct catalog *cat, const char *id, const enum catalog_role *role,
			const bool *enabled, struct catalog_user *out, struct err *err);

/* With all its tokens. CATALOG_E_NOT_FOUND, CATALOG_E_IN_USE as above. */
int catalog_user_delete(struct catalog *cat, const char *id, struct err *err);

#endif
