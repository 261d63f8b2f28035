#include "catalog/appliances.h"

#include <openssl/crypto.h>
#include <string.h>

#include "base/bytes.h"
#include "catalog/row.h"
#include "catalog/session.h"

#define P struct catalog_pairing
#define E struct catalog_enrollment

static const char *const status_names[] = {
	"pending_verification", "awaiting_approval", "approved", "rejected", "revoked", "expired"};
static const struct row_words statuses = {status_names, ARRAY_SIZE(status_names)};

static const struct row_field pairing_fields[] = {
	TEXT_COL(P, id, "id"),
	TEXT_COL(P, code_hash, "code_hash"),
	TEXT_COL(P, created_by, "created_by"),
	TIME_COL(P, created_at_us, "created_at"),
	TIME_COL(P, expires_at_us, "expires_at"),
	TIME_COL(P, used_at_us, "used_at", ROW_OPT),
};
static const struct row_map pairing_map = ROW_MAP(P, "appliance_pairings", "p", "", pairing_fields);

static const struct row_field fields[] = {
	TEXT_COL(E, id, "id"),
	TEXT_COL(E, pairing_id, "pairing_id"),
	TEXT_COL(E, name, "name"),
	TEXT_COL(E, version, "version"),
	TEXT_COL(E, public_key, "public_key"),
	TEXT_COL(E, fingerprint, "fingerprint"),
	TEXT_COL(E, challenge, "challenge"),
	ENUM_COL(E, status, "status", &statuses),
	TEXT_COL(E, remote, "remote"),
	TIME_COL(E, created_at_us, "created_at"),
	TIME_COL(E, updated_at_us, "updated_at"),
	TIME_COL(E, expires_at_us, "expires_at"),
	TIME_COL(E, decided_at_us, "decided_at", ROW_OPT),
	TEXT_COL(E, decided_by, "decided_by"),
	TEXT_COL(E, reason, "reason"),
};
static const struct row_map map = ROW_MAP(E, "appliance_enrollments", "e", "", fields);

const char *catalog_enrollment_status_name(enum catalog_enrollment_status status)
{
	return status_names[status];
}

static bool undecided(const E *row)
{
	return row->status == CATALOG_ENROLLMENT_PENDING ||
	       row->status == CATALOG_ENROLLMENT_AWAITING;
}

static void note_expired(E *row)
{
	if (undecided(row) && row->expires_at_us <= catalog_now_us())
		row->status = CATALOG_ENROLLMENT_EXPIRED;
}

/* --- pairing ---------------------------------------------------------------------------------- */

static int pairing_tx(struct catalog *tx, void *arg, struct err *err)
{
	P row = *(P *)arg;
	int r;

	catalog_new_id(row.id, "pair-");
	row.created_at_us = catalog_now_us();
	row.used_at_us = 0;
	r = row_insert(catalog_db(tx), &pairing_map, &row, err);
	if (r == DB_E_UNIQUE)
		return err_set(err, CATALOG_E_EXISTS, "this pairing code was given before");
	if (!r)
		*(P *)arg = row;
	return r;
}

int catalog_pairing_create(struct catalog *cat, struct catalog_pairing *pairing, struct err *err)
{
	if (strlen(pairing->code_hash) != SHA256_HEX_SIZE - 1 || !*pairing->created_by)
		return err_set(err, CATALOG_E_INVALID,
			       "a pairing needs the hash of its code and somebody who made it");
	return catalog_tx(cat, pairing_tx, pairing, err);
}

/* --- beginning -------------------------------------------------------------------------------- */

struct begin {
	const char *code_hash;
	E *row;
};

/* What the index finds tells of hashes only; the comparison that counts takes as long whatever it
 * finds. */
static int find_pairing(struct db *db, const char *code_hash, int64_t now, P *pairing,
			struct err *err)
{
	int r = row_get(db, &pairing_map, "WHERE p.code_hash = ?", DB_ARGS(DB_TEXT(code_hash)),
			pairing, err);

	if (r != DB_DONE && r != DB_ROW)
		return r;
	if (r == DB_DONE || CRYPTO_memcmp(pairing->code_hash, code_hash, SHA256_HEX_SIZE) ||
	    pairing->used_at_us || pairing->expires_at_us <= now)
		return err_set(err, CATALOG_E_NOT_FOUND,
			       "this pairing code was never given, or was used, or has expired: "
			       "have a new one made");
	return 0;
}

bool catalog_pairing_is_open(struct catalog *cat, const char *code_hash)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	P pairing;

	return !catalog_lease(cat, &l, NULL) &&
	       !find_pairing(l.db, code_hash, catalog_now_us(), &pairing, NULL);
}

static int use_pairing(struct db *db, const char *code_hash, P *pairing, struct err *err)
{
	int64_t now = catalog_now_us();
	int r = find_pairing(db, code_hash, now, pairing, err);

	if (r)
		return r;
	return db_run(db, "UPDATE appliance_pairings SET used_at = ? WHERE id = ?",
		      DB_ARGS(DB_I64(now), DB_TEXT(pairing->id)), NULL, err);
}

static int begin_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct begin *b = arg;
	struct db *db = catalog_db(tx);
	E row = *b->row;
	P pairing;
	int r = use_pairing(db, b->code_hash, &pairing, err);

	if (r)
		return r;
	catalog_new_id(row.id, "enroll-");
	strcpy(row.pairing_id, pairing.id);
	row.status = CATALOG_ENROLLMENT_PENDING;
	row.created_at_us = row.updated_at_us = catalog_now_us();
	row.decided_at_us = 0;
	row.decided_by[0] = row.reason[0] = '\0';
	r = row_insert(db, &map, &row, err);
	if (!r)
		*b->row = row;
	return r;
}

int catalog_enrollment_begin(struct catalog *cat, const char *code_hash,
			     struct catalog_enrollment *row, struct err *err)
{
	struct begin b = {code_hash, row};

	if (strlen(code_hash) != SHA256_HEX_SIZE - 1)
		return err_set(err, CATALOG_E_INVALID, "that is no hash of a pairing code");
	if (!*row->name || !*row->public_key || !*row->fingerprint || !*row->challenge)
		return err_set(
			err, CATALOG_E_INVALID,
			"an enrollment needs a name, a key, its fingerprint and a challenge");
	return catalog_tx(cat, begin_tx, &b, err);
}

/* --- read ------------------------------------------------------------------------------------- */

int catalog_enrollment_get(struct catalog *cat, const char *id, struct catalog_enrollment *out,
			   struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_get(l.db, &map, "WHERE e.id = ?", DB_ARGS(DB_TEXT(id)), out, err);
	if (r == DB_ROW)
		note_expired(out);
	return catalog_found(cat, r, err, "there is no enrollment %s", id);
}

static int list_rows(struct db *db, const enum catalog_enrollment_status *status, E **rows,
		     size_t *n, struct err *err)
{
	struct row_where w = {0};
	E *list = NULL;
	size_t got = 0, kept = 0;
	int r;

	/* All that may have expired, too: by their times only the rows tell. */
	row_where_text(&w, "e.status = ?",
		       status && *status != CATALOG_ENROLLMENT_EXPIRED ? status_names[*status]
								       : NULL);
	row_where_tail(&w, "ORDER BY e.id");
	r = row_list(db, &map, w.sql, w.args, w.n, (void **)&list, &got, err);
	for (size_t i = 0; !r && i < got; i++) {
		note_expired(&list[i]);
		if (!status || list[i].status == *status)
			list[kept++] = list[i];
	}
	if (!r) {
		*rows = list;
		*n = kept;
	}
	return r;
}

int catalog_enrollments_list(struct catalog *cat, const enum catalog_enrollment_status *status,
			     struct catalog_enrollment **rows, size_t *n, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = list_rows(l.db, status, rows, n, err);
	return catalog_result(cat, r);
}

/* --- change ----------------------------------------------------------------------------------- */

static int get_one(struct db *db, const char *id, E *row, struct err *err)
{
	int r = row_get(db, &map, "WHERE e.id = ?", DB_ARGS(DB_TEXT(id)), row, err);

	if (r == DB_DONE)
		return err_set(err, CATALOG_E_NOT_FOUND, "there is no enrollment %s", id);
	if (r != DB_ROW)
		return r;
	note_expired(row);
	return 0;
}

static int store_status(struct db *db, const E *row, struct err *err)
{
	const bool approved = row->status == CATALOG_ENROLLMENT_APPROVED;

	return db_run(db,
		      "UPDATE appliance_enrollments SET status = ?, updated_at = ?, decided_at = ?,"
		      " decided_by = ?, reason = ?, approved_key = ? WHERE id = ?",
		      DB_ARGS(DB_TEXT(status_names[row->status]), DB_I64(row->updated_at_us),
			      row->decided_at_us ? DB_I64(row->decided_at_us) : DB_NULL,
			      DB_TEXT(row->decided_by), DB_TEXT(row->reason),
			      DB_OPT(approved ? row->public_key : NULL), DB_TEXT(row->id)),
		      NULL, err);
}

static int verified_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct db *db = catalog_db(tx);
	E row;
	int r = get_one(db, arg, &row, err);

	if (r)
		return r;
	if (row.status != CATALOG_ENROLLMENT_PENDING)
		return err_set(err, CATALOG_E_STATE,
			       "enrollment %s is %s: its challenge is not open any more", row.id,
			       status_names[row.status]);
	row.status = CATALOG_ENROLLMENT_AWAITING;
	row.updated_at_us = catalog_now_us();
	return store_status(db, &row, err);
}

int catalog_enrollment_verified(struct catalog *cat, const char *id, struct err *err)
{
	return catalog_tx(cat, verified_tx, (void *)id, err);
}

struct decide {
	const char *id;
	const struct catalog_decision *decision;
	E *out;
};

static bool may_become(const E *row, enum catalog_enrollment_status to)
{
	switch (to) {
	case CATALOG_ENROLLMENT_APPROVED:
		return row->status == CATALOG_ENROLLMENT_AWAITING;
	case CATALOG_ENROLLMENT_REJECTED:
		return undecided(row);
	case CATALOG_ENROLLMENT_REVOKED:
		return row->status == CATALOG_ENROLLMENT_APPROVED;
	default:
		return false;
	}
}

/* Of another enrollment that is approved. */
static int check_key(struct db *db, const E *row, struct err *err)
{
	E other;
	int r = row_get(db, &map, "WHERE e.approved_key = ? AND e.id <> ?",
			DB_ARGS(DB_TEXT(row->public_key), DB_TEXT(row->id)), &other, err);

	if (r == DB_ROW)
		return err_set(err, CATALOG_E_IN_USE,
			       "the key of enrollment %s is approved already, in enrollment %s "
			       "(%s): revoke that one first",
			       row->id, other.id, other.name);
	return r == DB_DONE ? 0 : r;
}

static int decide_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct decide *d = arg;
	const enum catalog_enrollment_status to = d->decision->to;
	struct db *db = catalog_db(tx);
	E row;
	int r = get_one(db, d->id, &row, err);

	if (!r && !may_become(&row, to))
		r = err_set(err, CATALOG_E_STATE, "enrollment %s is %s: it cannot be %s", row.id,
			    status_names[row.status], status_names[to]);
	if (!r && to == CATALOG_ENROLLMENT_APPROVED)
		r = check_key(db, &row, err);
	if (r)
		return r;
	row.status = to;
	row.updated_at_us = row.decided_at_us = catalog_now_us();
	if (!CATALOG_TEXT(row.decided_by, d->decision->by) ||
	    !CATALOG_TEXT(row.reason, d->decision->reason))
		return err_set(err, CATALOG_E_INVALID, "the reason is longer than %zu bytes",
			       sizeof(row.reason) - 1);
	r = store_status(db, &row, err);
	if (!r && d->out)
		*d->out = row;
	return r;
}

int catalog_enrollment_decide(struct catalog *cat, const char *id,
			      const struct catalog_decision *decision,
			      struct catalog_enrollment *out, struct err *err)
{
	struct decide d = {id, decision, out};

	return catalog_tx(cat, decide_tx, &d, err);
}
