#include "catalog/audit.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "catalog/row.h"
#include "catalog/session.h"

#define A struct catalog_audit

#define VERIFY_BATCH 1000

/* What the first entry follows. */
static const char no_hash[SHA256_HEX_SIZE] =
	"0000000000000000000000000000000000000000000000000000000000000000";

static const char *const outcome_names[] = {"allowed", "denied", "failed"};
static const struct row_words outcomes = {outcome_names, ARRAY_SIZE(outcome_names)};

static const struct row_field fields[] = {
	I64_COL(A, id, "id"),
	TIME_COL(A, created_at_us, "created_at"),
	TEXT_COL(A, user_name, "user_name"),
	TEXT_COL(A, action, "action"),
	TEXT_COL(A, object, "object"),
	ENUM_COL(A, outcome, "outcome", &outcomes),
	TEXT_COL(A, remote, "remote"),
	TEXT_COL(A, detail, "detail"),
	TEXT_COL(A, previous_hash, "previous_hash"),
	TEXT_COL(A, entry_hash, "entry_hash"),
};

static const struct row_map map = ROW_MAP(A, "audit_log", "a", "", fields);

const char *catalog_audit_outcome_name(enum catalog_audit_outcome outcome)
{
	return outcome_names[outcome];
}

bool catalog_audit_outcome_parse(const char *name, enum catalog_audit_outcome *out)
{
	int i = row_word_find(&outcomes, name);

	if (i < 0)
		return false;
	*out = (enum catalog_audit_outcome)i;
	return true;
}

/* --- the hash of an entry ----------------------------------------------------------------------
 * Over nine netstrings ("<length>:<bytes>,"): id, created_at, user_name, action, object, outcome,
 * remote, detail, previous_hash; numbers in decimal. Lengths keep fields from running together.
 */

static void hash_field(struct sha256 *h, const char *text, size_t len)
{
	char head[24];

	sha256_add(h, head, (size_t)snprintf(head, sizeof(head), "%zu:", len));
	sha256_add(h, text, len);
	sha256_add(h, ",", 1);
}

static void hash_text(struct sha256 *h, const char *text)
{
	hash_field(h, text, strlen(text));
}

static void hash_i64(struct sha256 *h, int64_t v)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRId64, v);
	hash_text(h, text);
}

static bool hash_entry(A *e)
{
	struct sha256 h;

	if (!sha256_begin(&h))
		return false;
	hash_i64(&h, e->id);
	hash_i64(&h, e->created_at_us);
	hash_text(&h, e->user_name);
	hash_text(&h, e->action);
	hash_text(&h, e->object);
	hash_text(&h, outcome_names[e->outcome]);
	hash_text(&h, e->remote);
	hash_text(&h, e->detail);
	hash_text(&h, e->previous_hash);
	return sha256_end(&h, e->entry_hash);
}

/* --- add -------------------------------------------------------------------------------------- */

/* The write lock is held: nobody adds beside this. */
static int take_last(struct db *db, A *next, struct err *err)
{
	_cleanup_(db_releasep) struct db_stmt *st = NULL;
	int r = db_query(db, "SELECT id, entry_hash FROM audit_log ORDER BY id DESC LIMIT 1",
			 DB_NO_ARGS, &st, err);

	if (!r)
		r = db_step(st, err);
	if (r != DB_ROW && r != DB_DONE)
		return r;
	next->id = 1;
	strcpy(next->previous_hash, no_hash);
	if (r == DB_DONE)
		return 0;
	next->id = db_col_i64(st, 0);
	if (next->id == INT64_MAX)
		return err_set(err, -EUCLEAN,
			       "the audit log has an entry with the highest number there is, which "
			       "no program wrote: remove it");
	next->id = MAX(next->id, 0) + 1;
	/* One that was tampered with is followed as well as can be: verify tells. */
	snprintf(next->previous_hash, sizeof(next->previous_hash), "%s",
		 db_col_text(st, 1, NULL) ?: "");
	return 0;
}

static int add_tx(struct catalog *tx, void *arg, struct err *err)
{
	A row = *(A *)arg;
	struct db *db = catalog_db(tx);
	int r = take_last(db, &row, err);

	if (r)
		return r;
	row.created_at_us = catalog_now_us();
	if (!hash_entry(&row))
		return err_set(err, -EIO, "an audit entry could not be hashed");
	r = row_insert(db, &map, &row, err);
	if (!r)
		*(A *)arg = row;
	return r;
}

int catalog_audit_add(struct catalog *cat, struct catalog_audit *entry, struct err *err)
{
	if (!*entry->action || (unsigned int)entry->outcome >= ARRAY_SIZE(outcome_names))
		return err_set(err, CATALOG_E_INVALID,
			       "an audit entry needs an action and an outcome");
	return catalog_tx(cat, add_tx, entry, err);
}

/* --- list ------------------------------------------------------------------------------------- */

static int list_entries(struct db *db, const struct catalog_audit_filter *f,
			struct catalog_audit **rows, size_t *n, int64_t *total, struct err *err)
{
	struct row_where w = {0};
	struct row_where count = {.sql = "SELECT COUNT(*) FROM audit_log a"};
	int r = 0;

	row_where_text(&w, "a.user_name = ?", f->user_name);
	row_where_text(&w, "a.object = ?", f->object);
	row_where_text(&w, "a.outcome = ?", f->outcome);
	row_where_text(&w, "a.action LIKE ?", f->action_like);
	if (total) {
		row_where_tail(&count, w.sql);
		r = db_query_i64(db, count.sql, w.args, w.n, 0, total, err);
	}
	if (r)
		return r;
	row_where_tail(&w, "ORDER BY a.id DESC");
	row_where_limit(&w, f->limit, f->offset);
	return row_list(db, &map, w.sql, w.args, w.n, (void **)rows, n, err);
}

int catalog_audit_list(struct catalog *cat, const struct catalog_audit_filter *filter,
		       struct catalog_audit **rows, size_t *n, int64_t *total, struct err *err)
{
	static const struct catalog_audit_filter any = {0};
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = list_entries(l.db, filter ? filter : &any, rows, n, total, err);
	return catalog_result(cat, r);
}

/* --- verify ----------------------------------------------------------------------------------- */

struct verify {
	const struct catalog_audit_anchor *anchors;
	size_t anchor_count;
	struct catalog_audit_report *out;
	int64_t expected; /* id of the next entry */
	int64_t at;	  /* read up to here */
	char hash[129];	  /* of the entry before; "": not known, for it is missing */
};

static void __attribute__((format(printf, 3, 4)))
report(struct catalog_audit_report *out, int64_t id, const char *fmt, ...)
{
	va_list ap;

	if (out->finding_count++ >= CATALOG_AUDIT_FINDINGS_MAX)
		return;
	va_start(ap, fmt);
	out->findings[out->finding_count - 1].id = id;
	vsnprintf(out->findings[out->finding_count - 1].problem, sizeof(out->findings[0].problem),
		  fmt, ap);
	va_end(ap);
}

static void report_missing(struct catalog_audit_report *out, int64_t from, int64_t to,
			   const char *where)
{
	if (from == to)
		report(out, from, "entry %" PRId64 " is missing%s", from, where);
	else
		report(out, from, "entries %" PRId64 " to %" PRId64 " are missing%s", from, to,
		       where);
}

/* Of a row as it is stored, whatever somebody put there. */
static bool hash_stored(struct db_stmt *st, char hex[SHA256_HEX_SIZE])
{
	struct sha256 h;

	if (!sha256_begin(&h))
		return false;
	hash_i64(&h, db_col_i64(st, 0));
	hash_i64(&h, db_col_i64(st, 1));
	for (int col = 2; col < 9; col++) {
		size_t len = 0;
		const char *text = db_col_text(st, col, &len);

		hash_field(&h, text ?: "", text ? len : 0);
	}
	return sha256_end(&h, hex);
}

static void check_anchors(struct verify *v, int64_t id, const char *hash)
{
	for (size_t i = 0; i < v->anchor_count; i++)
		if (v->anchors[i].id == id && strcmp(v->anchors[i].hash, hash))
			report(v->out, id,
			       "entry %" PRId64 " is not the one this hub wrote: the log was "
			       "written anew from there or from before",
			       id);
}

static int check_entry(struct verify *v, struct db_stmt *st, struct err *err)
{
	int64_t id = db_col_i64(st, 0);
	char hash[SHA256_HEX_SIZE];
	char previous[sizeof(v->hash)], stored[sizeof(v->hash)];

	if (!hash_stored(st, hash))
		return err_set(err, -EIO, "an audit entry could not be hashed");
	snprintf(previous, sizeof(previous), "%s", db_col_text(st, 8, NULL) ?: "");
	snprintf(stored, sizeof(stored), "%s", db_col_text(st, 9, NULL) ?: "");
	if (id < v->expected)
		report(v->out, id, "entry %" PRId64 " has a number no entry has", id);
	if (id > v->expected) {
		report_missing(v->out, v->expected, id - 1, "");
		v->hash[0] = '\0';
	}
	if (strcmp(hash, stored))
		report(v->out, id, "entry %" PRId64 " was changed", id);
	if (v->hash[0] && strcmp(v->hash, previous))
		report(v->out, id,
		       "entry %" PRId64 " does not follow the entry before it: one of them was "
		       "replaced",
		       id);
	check_anchors(v, id, stored);
	strcpy(v->hash, stored);
	snprintf(v->out->last_hash, sizeof(v->out->last_hash), "%.64s", stored);
	v->out->entries++;
	v->out->last_id = v->at = id;
	v->expected = id == INT64_MAX ? id : MAX(id, 0) + 1;
	return 0;
}

/* DB_ROW: there may be more. */
static int verify_batch(struct db *db, struct verify *v, struct err *err)
{
	_cleanup_(db_releasep) struct db_stmt *st = NULL;
	int64_t n = 0;
	int r = db_query(db,
			 "SELECT id, created_at, user_name, action, object, outcome, remote,"
			 " detail, previous_hash, entry_hash FROM audit_log WHERE id > ?"
			 " ORDER BY id LIMIT ?",
			 DB_ARGS(DB_I64(v->at), DB_I64(VERIFY_BATCH)), &st, err);

	while (!r) {
		r = db_step(st, err);
		if (r != DB_ROW)
			return r ? r : n == VERIFY_BATCH ? DB_ROW : DB_DONE;
		r = check_entry(v, st, err);
		n++;
	}
	return r;
}

static int verify_all(struct db *db, struct verify *v, struct err *err)
{
	int64_t known = 0;
	int r;

	do {
		r = verify_batch(db, v, err);
	} while (r == DB_ROW);
	for (size_t i = 0; i < v->anchor_count; i++)
		known = MAX(known, v->anchors[i].id);
	if (!r && known >= v->expected)
		report_missing(v->out, v->expected, known,
			       " from the end, which this hub wrote: it was cut off, or the "
			       "catalog is an older copy");
	return r;
}

int catalog_audit_verify(struct catalog *cat, const struct catalog_audit_anchor *anchors,
			 size_t anchor_count, struct catalog_audit_report *out, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	struct verify v = {
		.anchors = anchors,
		.anchor_count = anchor_count,
		.out = out,
		.expected = 1,
		.at = INT64_MIN,
	};
	int r = catalog_lease(cat, &l, err);

	memset(out, 0, sizeof(*out));
	strcpy(v.hash, no_hash);
	strcpy(out->last_hash, no_hash);
	if (!r)
		r = verify_all(l.db, &v, err);
	return catalog_result(cat, r);
}
