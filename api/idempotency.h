/*
 * Idempotency-Key: a call that creates something (`.creates` of its row) and carries this header
 * does so once. The same call again gets the answer of the first, also after a restart of the hub,
 * for 24 hours; while the first runs: 409; another call under the key: 422. Keys belong to their
 * caller. Only answers of success are kept: after an error the key is free, so that a call may be
 * tried again as it is.
 *
 * Answers are stored as they went out: not for routes whose answer holds a secret.
 */
#ifndef API_IDEMPOTENCY_H
#define API_IDEMPOTENCY_H

#include "api/routes.h"
#include "base/sha256.h"
#include "catalog/idempotency.h"

struct api_idem {
	bool begun; /* api_idem_end() is due */
	struct catalog_idem call;
	char hash[SHA256_HEX_SIZE];
};

/* Before the handler. *@replayed: the answer is there already, the handler is not to run.
 * HUB_E_INVALID (the key), API_STATUS(409), API_STATUS(422), or the catalog's trouble. */
int api_idem_begin(struct api_request *req, struct api_idem *idem, bool *replayed, struct err *err);

/* When the answer is in req->out. */
void api_idem_end(struct api_request *req, struct api_idem *idem);

#endif
