#include "catalog/idempotency.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "catalog/session.h"

struct idem_begin {
	const struct catalog_idem *call;
	struct catalog_idem_answer *out;
};

/* What the key was used for; CATALOG_IDEM_NEW when it is free. */
static int idem_look(struct db *db, const struct catalog_idem *call,
		     struct catalog_idem_answer *out, struct err *err)
{
	_cleanup_(db_releasep) struct db_stmt *st = NULL;
	int r = db_query(db,
			 "SELECT request_hash, status, answer FROM idempotency_keys"
			 " WHERE caller = ? AND idem_key = ?",
			 DB_ARGS(DB_TEXT(call->caller), DB_TEXT(call->key)), &st, err);

	if (r)
		return r;
	r = db_step(st, err);
	if (r != DB_ROW)
		return r;
	if (strcmp(db_col_text(st, 0, NULL), call->request_hash)) {
		out->state = CATALOG_IDEM_OTHER;
	} else if (db_is_null(st, 1)) {
		out->state = CATALOG_IDEM_RUNNING;
	} else {
		out->state = CATALOG_IDEM_DONE;
		out->status = (int)db_col_i64(st, 1);
		out->text = strdup(db_col_text(st, 2, NULL) ?: "");
		if (!out->text)
			return err_sys(err, -ENOMEM, "the stored answer");
	}
	return 0;
}

static int idem_begin_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct idem_begin *begin = arg;
	const struct catalog_idem *call = begin->call;
	struct db *db = catalog_db(tx);
	int64_t now = catalog_now_us();
	int r = db_run(db, "DELETE FROM idempotency_keys WHERE expires_at <= ?",
		       DB_ARGS(DB_I64(now)), NULL, err);

	free(begin->out->text); /* of a run before this one */
	*begin->out = (struct catalog_idem_answer){.state = CATALOG_IDEM_NEW};
	if (!r)
		r = idem_look(db, call, begin->out, err);
	if (r || begin->out->state != CATALOG_IDEM_NEW)
		return r;
	return db_run(db,
		      "INSERT INTO idempotency_keys (caller, idem_key, request_hash, owner,"
		      " created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)",
		      DB_ARGS(DB_TEXT(call->caller), DB_TEXT(call->key),
			      DB_TEXT(call->request_hash), DB_TEXT(call->owner), DB_I64(now),
			      DB_I64(now + CATALOG_IDEM_RUNNING_US)),
		      NULL, err);
}

int catalog_idem_begin(struct catalog *cat, const struct catalog_idem *call,
		       struct catalog_idem_answer *out, struct err *err)
{
	struct idem_begin begin = {.call = call, .out = out};
	int r;

	*out = (struct catalog_idem_answer){.text = NULL};
	r = catalog_tx(cat, idem_begin_tx, &begin, err);
	if (r) {
		free(out->text);
		out->text = NULL;
	}
	return r;
}

struct idem_finish {
	const struct catalog_idem *call;
	int status;
	const char *text;
};

static int idem_finish_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct idem_finish *finish = arg;
	const struct catalog_idem *call = finish->call;
	int64_t changed = 0;
	int r = db_run(catalog_db(tx),
		       "UPDATE idempotency_keys SET status = ?, answer = ?, expires_at = ?"
		       " WHERE caller = ? AND idem_key = ? AND owner = ? AND status IS NULL",
		       DB_ARGS(DB_I64(finish->status), DB_TEXT(finish->text),
			       DB_I64(catalog_now_us() + CATALOG_IDEM_ANSWER_US),
			       DB_TEXT(call->caller), DB_TEXT(call->key), DB_TEXT(call->owner)),
		       &changed, err);

	if (!r && !changed)
		r = err_set(err, CATALOG_E_NOT_FOUND, "the idempotency key %s is gone", call->key);
	return r;
}

int catalog_idem_finish(struct catalog *cat, const struct catalog_idem *call, int status,
			const char *text, struct err *err)
{
	struct idem_finish finish = {.call = call, .status = status, .text = text};

	return catalog_tx(cat, idem_finish_tx, &finish, err);
}

static int idem_forget_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct catalog_idem *call = arg;

	return db_run(catalog_db(tx),
		      "DELETE FROM idempotency_keys"
		      " WHERE caller = ? AND idem_key = ? AND owner = ? AND status IS NULL",
		      DB_ARGS(DB_TEXT(call->caller), DB_TEXT(call->key), DB_TEXT(call->owner)),
		      NULL, err);
}

int catalog_idem_forget(struct catalog *cat, const struct catalog_idem *call, struct err *err)
{
	return catalog_tx(cat, idem_forget_tx, (void *)call, err);
}

static int idem_recover_tx(struct catalog *tx, void *arg, struct err *err)
{
	return db_run(catalog_db(tx),
		      "DELETE FROM idempotency_keys WHERE owner = ? AND status IS NULL",
		      DB_ARGS(DB_TEXT(arg)), NULL, err);
}

int catalog_idem_recover(struct catalog *cat, const char *owner, struct err *err)
{
	return catalog_tx(cat, idem_recover_tx, (void *)owner, err);
}
