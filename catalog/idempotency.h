/*
 * idempotency_keys: answers of calls that create something, under the key their caller chose, so
 * that a call repeated after a lost answer does nothing twice. They outlive the hub.
 */
#ifndef CATALOG_IDEMPOTENCY_H
#define CATALOG_IDEMPOTENCY_H

#include "catalog/catalog.h"

#define CATALOG_IDEM_CALLER_SIZE 80
#define CATALOG_IDEM_KEY_SIZE	 256

#define CATALOG_IDEM_ANSWER_US	(24LL * 3600 * 1000000) /* how long an answer is kept */
#define CATALOG_IDEM_RUNNING_US (3600LL * 1000000)	/* how long a call may run at most */

struct catalog_idem {
	const char *caller, *key; /* keys of different callers have nothing to do with each other */
	const char *request_hash; /* of method, path and body */
	const char *owner;	  /* the hub that runs the call */
};

enum catalog_idem_state {
	CATALOG_IDEM_NEW,     /* the key is this call's now: catalog_idem_finish() or _forget() */
	CATALOG_IDEM_DONE,    /* here is the answer */
	CATALOG_IDEM_RUNNING, /* the same call runs */
	CATALOG_IDEM_OTHER,   /* the key was used for another call */
};

struct catalog_idem_answer {
	enum catalog_idem_state state;
	int status;
	char *text; /* the caller free()s; with DONE */
};

/* Takes the key, or says what it was used for. Expired ones are deleted on the way. */
int catalog_idem_begin(struct catalog *cat, const struct catalog_idem *call,
		       struct catalog_idem_answer *out, struct err *err);

/* Keeps the answer of the call that began. CATALOG_E_NOT_FOUND: its key is gone. */
int catalog_idem_finish(struct catalog *cat, const struct catalog_idem *call, int status,
			const char *text, struct err *err);

/* The call failed: its key is free again. */
int catalog_idem_forget(struct catalog *cat, const struct catalog_idem *call, struct err *err);

/* A hub that starts frees the keys of calls that its last run did not end. */
int catalog_idem_recover(struct catalog *cat, const char *owner, struct err *err);

#endif
