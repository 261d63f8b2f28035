/*
 * api_tokens: what a user shows to be let in. A token itself is nowhere in the catalog, only its
 * SHA-256: whoever reads the database cannot use it. A revoked one stays, for the audit log to
 * name.
 */
#ifndef CATALOG_TOKENS_H
#define CATALOG_TOKENS_H

#include "base/sha256.h"
#include "catalog/catalog.h"
#include "catalog/users.h"

#define CATALOG_SCOPES_SIZE 1024

struct catalog_token {
	char id[CATALOG_ID_SIZE]; /* "token-..." */
	char user_id[CATALOG_ID_SIZE];
	char name[CATALOG_NAME_SIZE];	  /* what it is for */
	char token_hash[SHA256_HEX_SIZE]; /* of its text */
	char scopes[CATALOG_SCOPES_SIZE]; /* JSON list of texts; "[]": all its user may do */
	int64_t created_at_us;
	int64_t expires_at_us;	 /* 0: never */
	int64_t revoked_at_us;	 /* 0: it was not */
	int64_t last_used_at_us; /* roughly; see catalog_token_used() */
	/* Of a session: the token it was logged in to with, revoked with which it is worth nothing
	 * either. "": a token by itself. */
	char parent_id[CATALOG_ID_SIZE];
	/* derived, of its user */
	char user_name[CATALOG_NAME_SIZE];
	enum catalog_role user_role;
	bool user_enabled;
	int64_t parent_revoked_at_us; /* derived, of the parent; 0: not, or there is none */
};

/* Sessions of one token; the oldest goes when there is one more. */
#define CATALOG_SESSIONS_MAX 16

/* Stores user_id, name, token_hash, scopes ("" is "[]"), expires_at and parent_id of @token; writes
 * back the rest. Sessions of the same parent that have expired go. CATALOG_E_INVALID;
 * CATALOG_E_NOT_FOUND: no such user; CATALOG_E_EXISTS: the hash. */
int catalog_token_create(struct catalog *cat, struct catalog_token *token, struct err *err);

/* Whatever its state: expired and revoked ones are found as well. CATALOG_E_NOT_FOUND. */
int catalog_token_get(struct catalog *cat, const char *id, struct catalog_token *out,
		      struct err *err);
int catalog_token_get_by_hash(struct catalog *cat, const char *token_hash,
			      struct catalog_token *out, struct err *err);

/* Oldest first; @user_id NULL: everybody's. */
int catalog_tokens_list(struct catalog *cat, const char *user_id, struct catalog_token **rows,
			size_t *n, struct err *err);

/* From now on it is worth nothing. CATALOG_E_NOT_FOUND; CATALOG_E_ALREADY: it was before. */
int catalog_token_revoke(struct catalog *cat, const char *id, struct err *err);

/* Notes that it was used at @at_us, and its user with it, unless the note there is is younger than
 * @at_us - @grain_us. */
int catalog_token_used(struct catalog *cat, const char *id, int64_t at_us, int64_t grain_us,
		       struct err *err);

#endif
