/*
 * Who may do what: users, their tokens, and the check of a token.
 *
 * A token is 256 random bits, written "sdn_" and 52 letters and digits. The catalog has its SHA-256
 * alone; the text is told once, by the call that makes it.
 *
 * Scopes narrow a token down to less than its user may do. Each is "ROLE" or "ROLE:NOUN", NOUN
 * being the word behind /api/v1/ in a path: "viewer", "operator:backups". With scopes, a request
 * must fit one of them, besides what the user's role allows. Without, the role decides.
 *
 * The first start on a catalog without users makes the user "admin" with a token, which is kept in
 * DATA-DIR/admin-token, readable to the hub's own user alone.
 */
#ifndef HUB_ACCESS_H
#define HUB_ACCESS_H

#include "catalog/tokens.h"
#include "catalog/users.h"
#include "hub/hub.h"

#define HUB_TOKEN_SIZE 57 /* with its terminator */

/* Who a request comes from. */
struct hub_caller {
	char user_id[CATALOG_ID_SIZE];
	char user_name[CATALOG_NAME_SIZE];
	char token_id[CATALOG_ID_SIZE];
	char token_name[CATALOG_NAME_SIZE];
	char scopes[CATALOG_SCOPES_SIZE]; /* JSON; "[]": none */
	enum catalog_role role;
	int64_t expires_at_us; /* 0: never */
};

/* HUB_E_TOKEN: unknown, expired, revoked, or of a user who is disabled; the sentence says which, to
 * nobody but who has the token. */
int hub_access_authenticate(struct hub *hub, const char *token, struct hub_caller *out,
			    struct err *err);

/* What @caller, let in a while ago, is worth now: its role is read again. HUB_E_TOKEN: nothing any
 * more. */
int hub_access_again(struct hub *hub, struct hub_caller *caller, struct err *err);

/* True when a user with the role @has may do what @needed may. */
bool hub_role_covers(enum catalog_role has, enum catalog_role needed);

/* True when @caller may do what @needed may, to @noun. An agent may do what agents may and nothing
 * else; nobody else may do that. */
bool hub_caller_may(const struct hub_caller *caller, enum catalog_role needed, const char *noun);

/* --- users and tokens ------------------------------------------------------------------------- */

/* As the functions of catalog/users.h. HUB_E_INVALID, HUB_E_EXISTS, HUB_E_NOT_FOUND; HUB_E_STATE:
 * the last administrator. */
int hub_user_create(struct hub *hub, struct catalog_user *user, struct err *err);
int hub_user_update(struct hub *hub, const char *id, const enum catalog_role *role,
		    const bool *enabled, struct catalog_user *out, struct err *err);
int hub_user_delete(struct hub *hub, const char *id, struct err *err);

/* Read from @token: user_id, name, scopes, expires_at_us (0, or to come). Its text is written to
 * @text and nowhere else. HUB_E_INVALID, HUB_E_NOT_FOUND. */
int hub_token_create(struct hub *hub, struct catalog_token *token, char text[HUB_TOKEN_SIZE],
		     struct err *err);
/* HUB_E_NOT_FOUND. One that was revoked before stays so: 0. */
int hub_token_revoke(struct hub *hub, const char *id, struct err *err);

/* --- the first run ---------------------------------------------------------------------------- */

/* Makes "admin" when there is no user at all; with @new_admin_token, and a new token, in any case:
 * who lost the last one but has the machine gets in again. After hub_audit_start(). */
int hub_access_start(struct hub *hub, bool new_admin_token, struct err *err);
void hub_access_stop(struct hub *hub); /* after hub_access_start() failed, too */

/* Where this start has left the first administrator's token; NULL: it made none. */
const char *hub_access_new_token_path(const struct hub *hub);

/* --- how often -------------------------------------------------------------------------------- */

/* One more refused request of @who. False: there were so many of late that this one need not be
 * told about; it is counted. */
bool hub_access_refusal(struct hub *hub, const char *who);
/* How many were counted since it was asked last. */
unsigned hub_access_unlisted(struct hub *hub);

/* One more guess at a pairing code, or at a challenge, of @who, right or wrong; or one more login
 * with a token. False: too many. */
bool hub_access_guess(struct hub *hub, const char *who);

/* False: too many calls of an agent about one thing. *@first: there was none for a while. */
bool hub_access_agent_call(struct hub *hub, const char *about, bool *first);

/* --- the capture agent, which brings no token --------------------------------------------------
 */

/* Is that backup running, or did it end so lately that its agent may still have a word to say?
 * HUB_E_NOT_FOUND, HUB_E_STATE. */
int hub_access_agent_backup(struct hub *hub, const char *backup_id, struct err *err);
/* Is a VM of that name, as an agent says it, being backed up? HUB_E_STATE. */
int hub_access_agent_vm(struct hub *hub, const char *vm_name, struct err *err);

#endif
