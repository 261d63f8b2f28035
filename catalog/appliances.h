/*
 * appliance_pairings and appliance_enrollments: which capture appliances asked to be let in with
 * which key, and what an administrator said. A pairing code is nowhere in the catalog, only its
 * SHA-256; it begins one enrollment.
 *
 *	pending_verification -> awaiting_approval -> approved -> revoked
 *	          |                    |
 *	          +--------------------+-> rejected; expired, once its time is over
 *
 * A key is approved in one enrollment at a time.
 */
#ifndef CATALOG_APPLIANCES_H
#define CATALOG_APPLIANCES_H

#include "base/sha256.h"
#include "catalog/catalog.h"

struct catalog_pairing {
	char id[CATALOG_ID_SIZE]; /* "pair-..." */
	char code_hash[SHA256_HEX_SIZE];
	char created_by[CATALOG_NAME_SIZE]; /* a user's name */
	int64_t created_at_us;
	int64_t expires_at_us;
	int64_t used_at_us; /* 0: it was not */
};

enum catalog_enrollment_status {
	CATALOG_ENROLLMENT_PENDING, /* has not shown yet that the key is its own */
	CATALOG_ENROLLMENT_AWAITING,
	CATALOG_ENROLLMENT_APPROVED,
	CATALOG_ENROLLMENT_REJECTED,
	CATALOG_ENROLLMENT_REVOKED,
	CATALOG_ENROLLMENT_EXPIRED, /* not stored: undecided, and expires_at is over */
};

const char *catalog_enrollment_status_name(enum catalog_enrollment_status status);

struct catalog_enrollment {
	char id[CATALOG_ID_SIZE]; /* "enroll-..." */
	char pairing_id[CATALOG_ID_SIZE];
	char name[CATALOG_NAME_SIZE]; /* as it calls itself */
	char version[CATALOG_NAME_SIZE];
	char public_key[CATALOG_NAME_SIZE]; /* "ssh-ed25519 BASE64" */
	char fingerprint[CATALOG_NAME_SIZE];
	char challenge[CATALOG_ID_SIZE]; /* base64 */
	enum catalog_enrollment_status status;
	char remote[CATALOG_NAME_SIZE]; /* the address it asked from */
	int64_t created_at_us;
	int64_t updated_at_us;
	int64_t expires_at_us;		    /* of an undecided one */
	int64_t decided_at_us;		    /* the latest decision; 0: none */
	char decided_by[CATALOG_NAME_SIZE]; /* a user's name */
	char reason[CATALOG_REASON_SIZE];   /* of that decision */
};

/* Stores code_hash, created_by and expires_at of @pairing; writes back the rest. CATALOG_E_INVALID;
 * CATALOG_E_EXISTS: the hash. */
int catalog_pairing_create(struct catalog *cat, struct catalog_pairing *pairing, struct err *err);

/* Would catalog_enrollment_begin() take this hash now? Not when it cannot be known. */
bool catalog_pairing_is_open(struct catalog *cat, const char *code_hash);

/* Uses up the pairing with this hash and begins an enrollment with it, both or neither: stores
 * name, version, public_key, fingerprint, challenge, remote and expires_at of @row, writes back the
 * rest. CATALOG_E_NOT_FOUND: no such pairing, or used before, or expired: one sentence for all
 * three. CATALOG_E_INVALID. */
int catalog_enrollment_begin(struct catalog *cat, const char *code_hash,
			     struct catalog_enrollment *row, struct err *err);

/* CATALOG_E_NOT_FOUND. */
int catalog_enrollment_get(struct catalog *cat, const char *id, struct catalog_enrollment *out,
			   struct err *err);

/* pending_verification -> awaiting_approval. CATALOG_E_NOT_FOUND; CATALOG_E_STATE: it is something
 * else. */
int catalog_enrollment_verified(struct catalog *cat, const char *id, struct err *err);

struct catalog_decision {
	enum catalog_enrollment_status to; /* APPROVED, REJECTED or REVOKED */
	const char *by;			   /* a user's name */
	const char *reason;		   /* may be "" */
};

/* @out (may be NULL) is the enrollment afterwards. CATALOG_E_NOT_FOUND; CATALOG_E_STATE: it cannot
 * become that from what it is; CATALOG_E_IN_USE: its key is approved in another enrollment, which
 * the sentence names. */
int catalog_enrollment_decide(struct catalog *cat, const char *id,
			      const struct catalog_decision *decision,
			      struct catalog_enrollment *out, struct err *err);

/* Of one state, or NULL: all; oldest first. */
int catalog_enrollments_list(struct catalog *cat, const enum catalog_enrollment_status *status,
			     struct catalog_enrollment **rows, size_t *n, struct err *err);

#endif
