/*
 * audit_log: what was done and what was refused, for good. Entries are added and read, never
 * changed.
 *
 * Entries are numbered 1, 2, 3, ... without a gap. Each carries a hash over itself and the hash of
 * the one before it (docs/catalog.md says over which bytes), so that a changed, removed, inserted
 * or moved entry shows, and which one it is. What a chain cannot show by itself is that its end was
 * cut off, or that everything from some entry on was written anew: for that a hub remembers,
 * outside the database, the last entry it wrote (an anchor, hub/audit.h).
 */
#ifndef CATALOG_AUDIT_H
#define CATALOG_AUDIT_H

#include "base/sha256.h"
#include "catalog/catalog.h"

enum catalog_audit_outcome {
	CATALOG_AUDIT_ALLOWED, /* and done */
	CATALOG_AUDIT_DENIED,
	CATALOG_AUDIT_FAILED, /* allowed, but it did not work */
};

const char *catalog_audit_outcome_name(enum catalog_audit_outcome outcome);
bool catalog_audit_outcome_parse(const char *name, enum catalog_audit_outcome *out);

#define CATALOG_AUDIT_ACTION_SIZE 65
#define CATALOG_AUDIT_DETAIL_SIZE 1024

struct catalog_audit {
	int64_t id;
	int64_t created_at_us;
	char user_name[CATALOG_NAME_SIZE]; /* or "(what else it was)" */
	char action[CATALOG_AUDIT_ACTION_SIZE];
	char object[CATALOG_NAME_SIZE];
	enum catalog_audit_outcome outcome;
	char remote[CATALOG_NAME_SIZE]; /* address it came from */
	char detail[CATALOG_AUDIT_DETAIL_SIZE];
	char previous_hash[SHA256_HEX_SIZE];
	char entry_hash[SHA256_HEX_SIZE];
};

/* Adds @entry behind the last one; writes back id, created_at_us and the hashes. CATALOG_E_INVALID:
 * no action. */
int catalog_audit_add(struct catalog *cat, struct catalog_audit *entry, struct err *err);

struct catalog_audit_filter {
	const char *user_name; /* NULL or "": any, as for the others */
	const char *object;
	const char *outcome;
	const char *action_like; /* a pattern of SQL's LIKE */
	int64_t limit;		 /* 0: no limit */
	int64_t offset;
};

/* Newest first; *@total (may be NULL) counts all matches, whatever the limit. */
int catalog_audit_list(struct catalog *cat, const struct catalog_audit_filter *filter,
		       struct catalog_audit **rows, size_t *n, int64_t *total, struct err *err);

/* An entry known to have been there. */
struct catalog_audit_anchor {
	int64_t id; /* 0: none is known */
	char hash[SHA256_HEX_SIZE];
};

#define CATALOG_AUDIT_FINDINGS_MAX 100

struct catalog_audit_report {
	int64_t entries;
	int64_t last_id;
	char last_hash[SHA256_HEX_SIZE];
	int64_t finding_count; /* 0: the log is whole; may be more than are kept below */
	struct {
		int64_t id; /* the entry it is about */
		char problem[CATALOG_REASON_SIZE];
	} findings[CATALOG_AUDIT_FINDINGS_MAX];
};

/* Goes through the whole log. What is wrong with it is in @out, not in the result. @anchors: every
 * one of them must be there still. */
int catalog_audit_verify(struct catalog *cat, const struct catalog_audit_anchor *anchors,
			 size_t anchor_count, struct catalog_audit_report *out, struct err *err);

#endif
