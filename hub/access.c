#include "hub/access.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"
#include "hub/audit.h"
#include "hub/job.h"
#include "hub/limiter.h"

#define TOKEN_PREFIX  "sdn_"
#define TOKEN_BYTES   32
#define TOKEN_DIGITS  "0123456789abcdefghjkmnpqrstvwxyz"
#define USED_GRAIN_US (10 * 60 * 1000000LL)
#define AGENT_LAST_US (5 * 60 * 1000000LL)
#define FIRST_USER    "admin"
#define SCOPES_MAX    16

/* --- the text of a token ------------------------------------------------------------------------
 */

/* Base 32, the last digit with the one bit that is left. */
static void token_format(const uint8_t bytes[TOKEN_BYTES], char text[HUB_TOKEN_SIZE])
{
	char *out = stpcpy(text, TOKEN_PREFIX);
	unsigned acc = 0, bits = 0;

	for (int i = 0; i < TOKEN_BYTES; i++) {
		acc = acc << 8 | bytes[i];
		for (bits += 8; bits >= 5; bits -= 5)
			*out++ = TOKEN_DIGITS[acc >> (bits - 5) & 31];
	}
	*out++ = TOKEN_DIGITS[acc << (5 - bits) & 31];
	*out = '\0';
}

static int token_make(char text[HUB_TOKEN_SIZE], struct err *err)
{
	uint8_t bytes[TOKEN_BYTES];

	if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
		return err_sys(err, -errno, "no random bytes for a token");
	token_format(bytes, text);
	explicit_bzero(bytes, sizeof(bytes));
	return 0;
}

static bool token_is_one(const char *text)
{
	size_t len = strnlen(text, HUB_TOKEN_SIZE);

	return len == HUB_TOKEN_SIZE - 1 && !strncmp(text, TOKEN_PREFIX, strlen(TOKEN_PREFIX)) &&
	       strspn(text + strlen(TOKEN_PREFIX), TOKEN_DIGITS) == len - strlen(TOKEN_PREFIX);
}

/* --- scopes -------------------------------------------------------------------------------------
 */

static bool scope_parse(const char *text, enum catalog_role *role, const char **noun)
{
	const char *colon = strchr(text, ':');
	char word[16];

	if ((colon ? (size_t)(colon - text) : strlen(text)) >= sizeof(word))
		return false;
	snprintf(word, sizeof(word), "%.*s", colon ? (int)(colon - text) : (int)strlen(text), text);
	*noun = colon ? colon + 1 : NULL;
	if (colon && (!colon[1] || strlen(colon + 1) > 40 ||
		      colon[1 + strspn(colon + 1, "abcdefghijklmnopqrstuvwxyz-")]))
		return false;
	return catalog_role_parse(word, role);
}

static int scopes_check(const char *scopes, struct err *err)
{
	json_t *list = json_loads(*scopes ? scopes : "[]", JSON_REJECT_DUPLICATES, NULL);
	enum catalog_role role;
	const char *noun;
	const json_t *one;
	size_t i;
	int rc = 0;

	if (!json_is_array(list) || json_array_size(list) > SCOPES_MAX)
		rc = err_set(err, HUB_E_INVALID, "scopes must be a list of at most %d texts",
			     SCOPES_MAX);
	json_array_foreach (list, i, one) {
		if (!rc &&
		    (!json_is_string(one) || !scope_parse(json_string_value(one), &role, &noun)))
			rc = err_set(
				err, HUB_E_INVALID,
				"scope %zu is neither ROLE nor ROLE:NOUN, like \"viewer\" or "
				"\"operator:backups\"; roles are viewer, operator, admin, agent",
				i + 1);
	}
	json_decref(list);
	return rc;
}

bool hub_role_covers(enum catalog_role has, enum catalog_role needed)
{
	if (has == CATALOG_ROLE_AGENT || needed == CATALOG_ROLE_AGENT)
		return has == needed;
	return has >= needed;
}

/* What cannot be read allows nothing. */
static bool scopes_cover(const char *scopes, enum catalog_role needed, const char *asked)
{
	json_t *list = json_loads(scopes, 0, NULL);
	bool yes = json_is_array(list) && !json_array_size(list);
	const json_t *one;
	size_t i;

	json_array_foreach (list, i, one) {
		enum catalog_role role;
		const char *noun;

		if (json_is_string(one) && scope_parse(json_string_value(one), &role, &noun) &&
		    hub_role_covers(role, needed) && (!noun || !strcmp(noun, asked)))
			yes = true;
	}
	json_decref(list);
	return yes;
}

bool hub_caller_may(const struct hub_caller *caller, enum catalog_role needed, const char *noun)
{
	return hub_role_covers(caller->role, needed) && scopes_cover(caller->scopes, needed, noun);
}

/* --- authenticating -----------------------------------------------------------------------------
 */

static int check_token(const struct catalog_token *t, int64_t now, struct err *err)
{
	if (t->revoked_at_us)
		return err_set(err, HUB_E_TOKEN, "this token (%s) was revoked", t->id);
	if (t->parent_revoked_at_us)
		return err_set(err, HUB_E_TOKEN,
			       "the token that this session (%s) was logged in to with was revoked",
			       t->id);
	if (t->expires_at_us && t->expires_at_us <= now)
		return err_set(err, HUB_E_TOKEN, "this token (%s) has expired", t->id);
	if (!t->user_enabled)
		return err_set(err, HUB_E_TOKEN, "user %s is disabled", t->user_name);
	return 0;
}

static void note_use(struct hub *hub, const struct catalog_token *t, int64_t now)
{
	struct err err = ERR_INIT;

	if (t->last_used_at_us && now - t->last_used_at_us < USED_GRAIN_US)
		return;
	if (catalog_token_used(hub->catalog, t->id, now, USED_GRAIN_US, &err))
		log_warn(&hub->log, "the use of token %s was not noted: %s", t->id, err.text);
}

int hub_access_authenticate(struct hub *hub, const char *token, struct hub_caller *out,
			    struct err *err)
{
	int64_t now = catalog_now_us();
	char hash[SHA256_HEX_SIZE];
	struct catalog_token t;
	int rc;

	if (!token_is_one(token))
		return err_set(err, HUB_E_TOKEN, "that is no token of a hub");
	if (!sha256_hex(token, strlen(token), hash))
		return err_sys(err, -EIO, "the token could not be hashed");
	rc = catalog_token_get_by_hash(hub->catalog, hash, &t, err);
	/* What the index finds tells of hashes only; the comparison that counts takes as long
	 * whatever it finds. */
	if (rc == CATALOG_E_NOT_FOUND || (!rc && CRYPTO_memcmp(hash, t.token_hash, sizeof(hash))))
		return err_set(err, HUB_E_TOKEN, "this hub knows no such token");
	if (rc)
		return hub_from_catalog(rc);
	rc = check_token(&t, now, err);
	if (rc)
		return rc;
	note_use(hub, &t, now);
	*out = (struct hub_caller){.role = t.user_role, .expires_at_us = t.expires_at_us};
	strcpy(out->user_id, t.user_id);
	strcpy(out->user_name, t.user_name);
	strcpy(out->token_id, t.id);
	strcpy(out->token_name, t.name);
	strcpy(out->scopes, t.scopes);
	return 0;
}

int hub_access_again(struct hub *hub, struct hub_caller *caller, struct err *err)
{
	struct catalog_token t;
	int rc = catalog_token_get(hub->catalog, caller->token_id, &t, err);

	if (rc == CATALOG_E_NOT_FOUND)
		return err_set(err, HUB_E_TOKEN, "this hub knows token %s no more",
			       caller->token_id);
	if (rc)
		return hub_from_catalog(rc);
	caller->role = t.user_role;
	return check_token(&t, catalog_now_us(), err);
}

/* --- users and tokens ---------------------------------------------------------------------------
 */

int hub_user_create(struct hub *hub, struct catalog_user *user, struct err *err)
{
	return hub_from_catalog(catalog_user_create(hub->catalog, user, err));
}

int hub_user_update(struct hub *hub, const char *id, const enum catalog_role *role,
		    const bool *enabled, struct catalog_user *out, struct err *err)
{
	return hub_from_catalog(catalog_user_update(hub->catalog, id, role, enabled, out, err));
}

int hub_user_delete(struct hub *hub, const char *id, struct err *err)
{
	return hub_from_catalog(catalog_user_delete(hub->catalog, id, err));
}

static int token_store(struct catalog *cat, struct catalog_token *token, const char *text,
		       struct err *err)
{
	if (!sha256_hex(text, strlen(text), token->token_hash))
		return err_sys(err, -EIO, "the token could not be hashed");
	return catalog_token_create(cat, token, err);
}

int hub_token_create(struct hub *hub, struct catalog_token *token, char text[HUB_TOKEN_SIZE],
		     struct err *err)
{
	int rc = scopes_check(token->scopes, err);

	if (!rc && token->expires_at_us && token->expires_at_us <= catalog_now_us())
		rc = err_set(err, HUB_E_INVALID, "the token would have expired before it exists");
	if (!rc)
		rc = token_make(text, err);
	if (!rc)
		rc = hub_from_catalog(token_store(hub->catalog, token, text, err));
	if (rc)
		explicit_bzero(text, HUB_TOKEN_SIZE);
	return rc;
}

int hub_token_revoke(struct hub *hub, const char *id, struct err *err)
{
	int rc = catalog_token_revoke(hub->catalog, id, err);

	return rc == CATALOG_E_ALREADY ? 0 : hub_from_catalog(rc);
}

/* --- the first run ------------------------------------------------------------------------------
 * The file is complete and durable before there is a user: a start that was cut short leaves a file
 * without one, and the next start begins again.
 */

static int write_token_file(const char *path, const char *text, struct err *err)
{
	_cleanup_(closep) int fd = -1;
	char line[HUB_TOKEN_SIZE + 1];
	int n = snprintf(line, sizeof(line), "%s\n", text), rc = 0;

	if (unlink(path) < 0 && errno != ENOENT)
		return err_sys(err, -errno, "removing the old %s", path);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_sys(err, -errno, "creating %s", path);
	if (fchmod(fd, 0600) < 0 || write(fd, line, (size_t)n) != n || fsync(fd) < 0)
		rc = err_sys(err, errno ? -errno : -EIO, "writing %s", path);
	explicit_bzero(line, sizeof(line));
	if (!rc && file_sync_dir_of(path) < 0)
		rc = err_sys(err, -EIO, "writing %s", path);
	return rc;
}

static int count_users(struct catalog *cat, int64_t *n, struct err *err)
{
	struct catalog_user *rows = NULL;
	size_t got;
	int rc = catalog_users_list(cat, 1, 0, &rows, &got, n, err);

	free(rows);
	return rc;
}

/* @user as it must be: enabled, and an administrator. */
static int ensure_admin(struct catalog *tx, struct catalog_user *user, struct err *err)
{
	const enum catalog_role role = CATALOG_ROLE_ADMIN;
	const bool enabled = true;
	int rc = catalog_user_get_by_name(tx, FIRST_USER, user, err);

	if (!rc)
		return catalog_user_update(tx, user->id, &role, &enabled, user, err);
	if (rc != CATALOG_E_NOT_FOUND)
		return rc;
	*user = (struct catalog_user){.name = FIRST_USER, .role = role, .enabled = enabled};
	return catalog_user_create(tx, user, err);
}

struct first_user {
	const char *text;
	bool always;
};

static int first_user_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct first_user *first = arg;
	struct catalog_token token = {.name = ""};
	struct catalog_user user;
	int64_t n;
	int rc = count_users(tx, &n, err);

	if (!rc && n && !first->always)
		return CATALOG_E_ALREADY;
	if (!rc)
		rc = ensure_admin(tx, &user, err);
	if (rc)
		return rc;
	strcpy(token.user_id, user.id);
	strcpy(token.name, first->always ? "made anew" : "first run");
	return token_store(tx, &token, first->text, err);
}

static void audit_first_user(struct hub *hub, bool always)
{
	struct catalog_audit e = {.user_name = "(hub)",
				  .object = "user " FIRST_USER,
				  .outcome = CATALOG_AUDIT_ALLOWED};

	strcpy(e.action, always ? "new administrator's token" : "first run");
	hub_audit_add(hub, &e);
}

static int make_first_user(struct hub *hub, const char *path, bool always, struct err *err)
{
	char text[HUB_TOKEN_SIZE];
	struct first_user first = {text, always};
	int rc = token_make(text, err);

	if (!rc)
		rc = write_token_file(path, text, err);
	if (!rc) {
		rc = catalog_tx(hub->catalog, first_user_tx, &first, err);
		/* Another hub on the same database was first. */
		if (rc) {
			unlink(path);
		} else {
			strcpy(hub->new_token_path, path);
			audit_first_user(hub, always);
		}
		rc = rc == CATALOG_E_ALREADY ? 0 : hub_from_catalog(rc);
	}
	explicit_bzero(text, sizeof(text));
	return rc;
}

static int first_run(struct hub *hub, bool always, struct err *err)
{
	char path[sizeof(hub->new_token_path)];
	int64_t n;
	int rc = hub_from_catalog(count_users(hub->catalog, &n, err));

	if (rc || (n && !always))
		return rc;
	snprintf(path, sizeof(path), "%s/admin-token", hub->data_dir);
	return make_first_user(hub, path, always, err);
}

/* --- how often ----------------------------------------------------------------------------------
 * All agents come from one address when they come through tunnels, and each may be at a hundred
 * disks: these numbers are far from what they do, and far below what would hurt.
 */

struct hub_limits {
	struct hub_limiter *refusals, *calls, *guesses;
	atomic_uint unlisted;
};

int hub_access_start(struct hub *hub, bool new_admin_token, struct err *err)
{
	struct hub_limits *l = calloc(1, sizeof(*l));

	hub->limits = l;
	if (l) {
		l->refusals = hub_limiter_new(20, 200, 1024);
		l->calls = hub_limiter_new(20, 400, 4096);
		/* An appliance that enrolls makes two. */
		l->guesses = hub_limiter_new(1, 30, 1024);
	}
	if (!l || !l->refusals || !l->calls || !l->guesses)
		return err_sys(err, -ENOMEM, "limits");
	return first_run(hub, new_admin_token, err);
}

void hub_access_stop(struct hub *hub)
{
	struct hub_limits *l = hub->limits;

	if (!l)
		return;
	hub_limiter_free(l->refusals);
	hub_limiter_free(l->calls);
	hub_limiter_free(l->guesses);
	free(l);
	hub->limits = NULL;
}

bool hub_access_refusal(struct hub *hub, const char *who)
{
	if (hub_limiter_take(hub->limits->refusals, who, NULL))
		return true;
	atomic_fetch_add(&hub->limits->unlisted, 1);
	return false;
}

unsigned hub_access_unlisted(struct hub *hub)
{
	return atomic_exchange(&hub->limits->unlisted, 0);
}

bool hub_access_guess(struct hub *hub, const char *who)
{
	return hub_limiter_take(hub->limits->guesses, who, NULL);
}

bool hub_access_agent_call(struct hub *hub, const char *about, bool *first)
{
	return hub_limiter_take(hub->limits->calls, about, first);
}

const char *hub_access_new_token_path(const struct hub *hub)
{
	return hub->new_token_path[0] ? hub->new_token_path : NULL;
}

/* --- the capture agent --------------------------------------------------------------------------
 */

int hub_access_agent_backup(struct hub *hub, const char *backup_id, struct err *err)
{
	struct hub_job *job = hub_job_find(hub, backup_id);
	struct catalog_backup row;
	int rc;

	hub_job_unref(hub, job);
	if (job)
		return 0;
	rc = hub_from_catalog(catalog_backup_get(hub->catalog, backup_id, &row, err));
	if (rc)
		return rc;
	/* Its last telemetry comes after its last `complete`. */
	if (row.completed_at_us && catalog_now_us() - row.completed_at_us < AGENT_LAST_US)
		return 0;
	if (row.status == CATALOG_JOB_RUNNING || row.status == CATALOG_JOB_PENDING)
		return err_set(err, HUB_E_STATE, "backup %s does not run in this hub", backup_id);
	return err_set(err, HUB_E_STATE, "backup %s does not run: it is %s", backup_id,
		       catalog_job_status_name(row.status));
}

int hub_access_agent_vm(struct hub *hub, const char *vm_name, struct err *err)
{
	struct hub_job *job = hub_job_find_vm(hub, vm_name);

	hub_job_unref(hub, job);
	return job ? 0
		   : err_set(err, HUB_E_STATE, "no backup of a VM named \"%.100s\" runs", vm_name);
}
