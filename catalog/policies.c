#include "catalog/policies.h"

#include <inttypes.h>

#include "base/bytes.h"
#include "catalog/row.h"
#include "catalog/session.h"

#define P struct catalog_policy
#define R struct catalog_copy_rule

static const struct row_field policy_fields[] = {
	TEXT_COL(P, id, "id"),
	TEXT_COL(P, name, "name"),
	BOOL_COL(P, enabled, "enabled"),
	TEXT_COL(P, primary_repository_id, "primary_repository_id"),
	I64_COL(P, keep_days, "keep_days"),
	I64_COL(P, keep_last, "keep_last"),
	I64_COL(P, keep_daily, "keep_daily"),
	I64_COL(P, keep_weekly, "keep_weekly"),
	I64_COL(P, keep_monthly, "keep_monthly"),
	I64_COL(P, keep_yearly, "keep_yearly"),
	TIME_COL(P, created_at_us, "created_at"),
	TIME_COL(P, updated_at_us, "updated_at"),
	I64_COL(P, vm_count,
		"(SELECT COUNT(*) FROM vm_replication_contexts v WHERE v.policy_id = p.id)",
		ROW_DERIVED),
	I64_COL(P, schedule_count, "(SELECT COUNT(*) FROM schedules s WHERE s.policy_id = p.id)",
		ROW_DERIVED),
};

static const struct row_map policy_map = ROW_MAP(P, "backup_policies", "p", "", policy_fields);

static const char *const mode_names[] = {"immediate", "scheduled", "manual"};
static const struct row_words modes = {mode_names, ARRAY_SIZE(mode_names)};

static const struct row_field rule_fields[] = {
	TEXT_COL(R, id, "id"),
	TEXT_COL(R, policy_id, "policy_id"),
	TEXT_COL(R, repository_id, "repository_id"),
	ENUM_COL(R, copy_mode, "copy_mode", &modes),
	BOOL_COL(R, enabled, "enabled"),
	INT_COL(R, priority, "priority"),
	BOOL_COL(R, verify_after_copy, "verify_after_copy"),
	TIME_COL(R, created_at_us, "created_at"),
	TIME_COL(R, updated_at_us, "updated_at"),
};

static const struct row_map rule_map = ROW_MAP(R, "backup_copy_rules", "r", "", rule_fields);

const char *catalog_copy_mode_name(enum catalog_copy_mode mode)
{
	return mode_names[mode];
}

bool catalog_copy_mode_parse(const char *name, enum catalog_copy_mode *out)
{
	int i = row_word_find(&modes, name ? name : "");

	if (i < 0)
		return false;
	*out = (enum catalog_copy_mode)i;
	return true;
}

/* --- read ------------------------------------------------------------------------------------- */

int catalog_policy_get(struct catalog *cat, const char *id, struct catalog_policy *out,
		       struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_get(l.db, &policy_map, "WHERE p.id = ?", DB_ARGS(DB_TEXT(id)), out, err);
	return catalog_found(cat, r, err, "there is no policy %s", id);
}

int catalog_policies_list(struct catalog *cat, struct catalog_policy **rows, size_t *n,
			  struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	int r = catalog_lease(cat, &l, err);

	if (!r)
		r = row_list(l.db, &policy_map, "ORDER BY p.name", DB_NO_ARGS, (void **)rows, n,
			     err);
	return catalog_result(cat, r);
}

int catalog_copy_rules_list(struct catalog *cat, const char *policy_id,
			    struct catalog_copy_rule **rows, size_t *n, struct err *err)
{
	_cleanup_(catalog_lease_end) struct catalog_lease l = {0};
	struct row_where w = {.n = 0};
	int r = catalog_lease(cat, &l, err);

	row_where_text(&w, "r.policy_id = ?", policy_id);
	row_where_tail(&w, "ORDER BY r.policy_id, r.priority, r.id");
	if (!r)
		r = row_list(l.db, &rule_map, w.sql, w.args, w.n, (void **)rows, n, err);
	return catalog_result(cat, r);
}

/* --- write ------------------------------------------------------------------------------------ */

struct policy_write {
	struct catalog_policy *row;
	struct catalog_copy_rule *rules; /* NULL: as they are */
	size_t n;
	bool create;
};

static int repository_exists(struct db *db, const char *id, struct err *err)
{
	int64_t n = 0;
	int r = db_query_i64(db, "SELECT COUNT(*) FROM backup_repositories WHERE id = ?",
			     DB_ARGS(DB_TEXT(id)), 0, &n, err);

	if (!r && !n)
		r = err_set(err, CATALOG_E_INVALID, "there is no repository %s", id);
	return r;
}

static int check_rules(struct db *db, const struct catalog_policy *policy,
		       const struct catalog_copy_rule *rules, size_t n, struct err *err)
{
	int r = 0;

	for (size_t i = 0; !r && i < n; i++) {
		if (!strcmp(rules[i].repository_id, policy->primary_repository_id))
			return err_set(err, CATALOG_E_INVALID,
				       "a copy rule goes to repository %s, where the backups of "
				       "policy \"%s\" are already",
				       rules[i].repository_id, policy->name);
		for (size_t k = 0; k < i; k++)
			if (!strcmp(rules[i].repository_id, rules[k].repository_id))
				return err_set(err, CATALOG_E_INVALID,
					       "two copy rules go to repository %s",
					       rules[i].repository_id);
		if (rules[i].priority < 1)
			return err_set(err, CATALOG_E_INVALID,
				       "the priority of a copy rule is 1 or more");
		r = repository_exists(db, rules[i].repository_id, err);
	}
	return r;
}

/* The rules as they shall be: those that were there keep their ids, copies point to them. */
static int store_rules(struct db *db, const struct policy_write *w, int64_t now, struct err *err)
{
	_cleanup_(freep) struct catalog_copy_rule *old = NULL;
	size_t n_old = 0;
	int r = row_list(db, &rule_map, "WHERE r.policy_id = ?", DB_ARGS(DB_TEXT(w->row->id)),
			 (void **)&old, &n_old, err);

	for (size_t i = 0; !r && i < w->n; i++) {
		struct catalog_copy_rule *rule = &w->rules[i];

		catalog_new_id(rule->id, "rule-");
		rule->created_at_us = rule->updated_at_us = now;
		CATALOG_TEXT(rule->policy_id, w->row->id);
		for (size_t k = 0; k < n_old; k++) {
			if (strcmp(old[k].repository_id, rule->repository_id))
				continue;
			CATALOG_TEXT(rule->id, old[k].id);
			rule->created_at_us = old[k].created_at_us;
			old[k].id[0] = '\0'; /* stays */
		}
	}
	for (size_t k = 0; !r && k < n_old; k++)
		if (old[k].id[0])
			r = db_run(db, "DELETE FROM backup_copy_rules WHERE id = ?",
				   DB_ARGS(DB_TEXT(old[k].id)), NULL, err);
	for (size_t i = 0; !r && i < w->n; i++) {
		const struct catalog_copy_rule *rule = &w->rules[i];
		int64_t there = 0;

		r = db_run(db,
			   "UPDATE backup_copy_rules SET copy_mode = ?, enabled = ?, priority = ?,"
			   " verify_after_copy = ?, updated_at = ? WHERE id = ?",
			   DB_ARGS(DB_TEXT(mode_names[rule->copy_mode]), DB_I64(rule->enabled),
				   DB_I64(rule->priority), DB_I64(rule->verify_after_copy),
				   DB_I64(now), DB_TEXT(rule->id)),
			   &there, err);
		if (!r && !there)
			r = row_insert(db, &rule_map, rule, err);
	}
	return r;
}

static int update_row(struct db *db, const struct catalog_policy *p, struct err *err)
{
	int64_t changed = 0;
	int r = db_run(db,
		       "UPDATE backup_policies SET name = ?, enabled = ?,"
		       " primary_repository_id = ?, keep_days = ?, keep_last = ?, keep_daily = ?,"
		       " keep_weekly = ?, keep_monthly = ?, keep_yearly = ?, updated_at = ?"
		       " WHERE id = ?",
		       DB_ARGS(DB_TEXT(p->name), DB_I64(p->enabled),
			       DB_TEXT(p->primary_repository_id), DB_I64(p->keep_days),
			       DB_I64(p->keep_last), DB_I64(p->keep_daily), DB_I64(p->keep_weekly),
			       DB_I64(p->keep_monthly), DB_I64(p->keep_yearly),
			       DB_I64(p->updated_at_us), DB_TEXT(p->id)),
		       &changed, err);

	if (!r && !changed)
		r = err_set(err, CATALOG_E_NOT_FOUND, "there is no policy %s", p->id);
	return r;
}

/* With the stored rules when @w brings none: the primary repository may be another now. */
static int check_write(struct catalog *tx, const struct policy_write *w, struct err *err)
{
	struct db *db = catalog_db(tx);
	_cleanup_(freep) struct catalog_copy_rule *stored = NULL;
	size_t n = 0;
	int r = repository_exists(db, w->row->primary_repository_id, err);

	if (!r && !w->rules)
		r = catalog_copy_rules_list(tx, w->row->id, &stored, &n, err);
	return r ? r : check_rules(db, w->row, stored ? stored : w->rules, stored ? n : w->n, err);
}

static int write_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct policy_write *w = arg;
	struct db *db = catalog_db(tx);
	struct catalog_policy *row = w->row;
	int64_t now = catalog_now_us();
	int r = check_write(tx, w, err);

	if (r)
		return r;
	row->updated_at_us = now;
	if (w->create)
		row->created_at_us = now;
	r = w->create ? row_insert(db, &policy_map, row, err) : update_row(db, row, err);
	if (r == DB_E_UNIQUE)
		return err_set(err, CATALOG_E_EXISTS,
			       "a policy named \"%s\" exists: choose another name", row->name);
	if (r == DB_E_CHECK)
		return err_set(err, CATALOG_E_INVALID,
			       "policy \"%s\": the keep numbers are 0 or more", row->name);
	if (!r && w->rules)
		r = store_rules(db, w, now, err);
	return r ? r : catalog_policy_get(tx, row->id, row, err);
}

static int policy_write(struct catalog *cat, struct policy_write *w, struct err *err)
{
	if (!*w->row->name)
		return err_set(err, CATALOG_E_INVALID, "a policy needs a name");
	if (w->n > CATALOG_COPY_RULES_MAX)
		return err_set(err, CATALOG_E_INVALID, "a policy has at most %d copy rules",
			       CATALOG_COPY_RULES_MAX);
	return catalog_tx(cat, write_tx, w, err);
}

int catalog_policy_create(struct catalog *cat, struct catalog_policy *row,
			  struct catalog_copy_rule *rules, size_t n, struct err *err)
{
	struct catalog_copy_rule none;
	struct policy_write w = {row, rules ? rules : &none, n, .create = true};

	if (!*row->id)
		catalog_new_id(row->id, "policy-");
	return policy_write(cat, &w, err);
}

int catalog_policy_update(struct catalog *cat, struct catalog_policy *row,
			  struct catalog_copy_rule *rules, size_t n, struct err *err)
{
	struct policy_write w = {row, rules, n, .create = false};

	return policy_write(cat, &w, err);
}

static int delete_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct db *db = catalog_db(tx);
	struct catalog_policy row;
	int r = catalog_policy_get(tx, arg, &row, err);

	if (r)
		return r;
	if (row.vm_count || row.schedule_count)
		return err_set(err, CATALOG_E_IN_USE,
			       "policy \"%s\" is used by %" PRId64 " VMs and %" PRId64
			       " schedules: change those first",
			       row.name, row.vm_count, row.schedule_count);
	return db_run(db, "DELETE FROM backup_policies WHERE id = ?", DB_ARGS(DB_TEXT(row.id)),
		      NULL, err);
}

int catalog_policy_delete(struct catalog *cat, const char *id, struct err *err)
{
	return catalog_tx(cat, delete_tx, (void *)id, err);
}
