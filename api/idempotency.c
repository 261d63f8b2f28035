#include "api/idempotency.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

static const struct log_scope idem_log = {.name = "api"};

/* What the body says, in one order. Without its password: a hash that is kept would be something to
 * try passwords on. */
static char *body_text(const struct api_request *req)
{
	json_t *body = req->body ? json_deep_copy(req->body) : json_object();
	char *text;

	json_object_del(body, "password");
	text = json_dumps(body, JSON_COMPACT | JSON_SORT_KEYS);
	json_decref(body);
	return text;
}

static int idem_hash(const struct api_request *req, char hex[SHA256_HEX_SIZE], struct err *err)
{
	const struct api_exchange *x = req->out;
	char *text = body_text(req);
	struct sha256 h;
	bool hashed = text && sha256_begin(&h);

	if (hashed) {
		sha256_add(&h, x->method, strlen(x->method) + 1);
		sha256_add(&h, x->target, strlen(x->target) + 1);
		sha256_add(&h, text, strlen(text));
		hashed = sha256_end(&h, hex);
	}
	free(text);
	return hashed ? 0 : err_sys(err, -ENOMEM, "hash of the request");
}

static bool key_is_sound(const char *key)
{
	size_t n = 0;

	for (; key[n]; n++)
		if (key[n] < 0x21 || key[n] > 0x7e)
			return false;
	return n && n < CATALOG_IDEM_KEY_SIZE;
}

static int idem_prepare(struct api_request *req, struct api_idem *idem, const char *key,
			struct err *err)
{
	if (!key_is_sound(key))
		return err_set(err, HUB_E_INVALID,
			       "Idempotency-Key must be 1 to %d printable ASCII characters without "
			       "spaces",
			       CATALOG_IDEM_KEY_SIZE - 1);
	idem->call = (struct catalog_idem){.caller = req->user.user_id,
					   .key = key,
					   .request_hash = idem->hash,
					   .owner = hub_identity(req->hub)};
	return idem_hash(req, idem->hash, err);
}

static int idem_replay(struct api_request *req, struct catalog_idem_answer *answer)
{
	struct api_exchange *x = req->out;

	req->status = answer->status;
	x->text = answer->text;
	x->text_len = strlen(answer->text);
	api_reply_header(req, "Idempotency-Replayed", "true");
	return 0;
}

int api_idem_begin(struct api_request *req, struct api_idem *idem, bool *replayed, struct err *err)
{
	const char *key = api_request_header(req, "Idempotency-Key");
	struct catalog_idem_answer answer;
	int rc;

	if (!key)
		return 0;
	rc = idem_prepare(req, idem, key, err);
	if (!rc)
		rc = hub_from_catalog(
			catalog_idem_begin(hub_catalog(req->hub), &idem->call, &answer, err));
	if (rc)
		return rc;
	switch (answer.state) {
	case CATALOG_IDEM_DONE:
		*replayed = true;
		return idem_replay(req, &answer);
	case CATALOG_IDEM_RUNNING:
		api_reply_header(req, "Retry-After", "1");
		return err_set(err, API_STATUS(409),
			       "the call with the Idempotency-Key %s is still running", key);
	case CATALOG_IDEM_OTHER:
		return err_set(err, API_STATUS(422),
			       "the Idempotency-Key %s was used for another call: take a new one",
			       key);
	default:
		idem->begun = true;
		return 0;
	}
}

void api_idem_end(struct api_request *req, struct api_idem *idem)
{
	const struct api_exchange *x = req->out;
	struct err err = ERR_INIT;
	int rc;

	if (!idem->begun)
		return;
	if (x->status >= 200 && x->status < 300 && x->text)
		rc = catalog_idem_finish(hub_catalog(req->hub), &idem->call, x->status, x->text,
					 &err);
	else
		rc = catalog_idem_forget(hub_catalog(req->hub), &idem->call, &err);
	if (rc)
		log_warn(&idem_log, "%s %s: its Idempotency-Key stays taken for a while: %s",
			 x->method, x->target, err.text);
}
