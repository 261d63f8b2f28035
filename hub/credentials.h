/*
 * Credentials: what the hub logs in to a vCenter with, kept so that nobody has to send passwords
 * with every call (mission M10). The password is sealed before it reaches the catalog (secrets.h)
 * and opened for the capture agent alone: no answer, log line or error holds it.
 *
 * It is sealed together with kind, host and user name: what was entered for one vCenter can not be
 * sent to another by changing the row; changing host or user takes the password again.
 */
#ifndef HUB_CREDENTIALS_H
#define HUB_CREDENTIALS_H

#include "catalog/credentials.h"
#include "hub/hub.h"

#define HUB_PASSWORD_SIZE 256

/* Read from @row: name, kind, host, username (not empty), datacenter, is_default. Written back: the
 * rest. HUB_E_INVALID, HUB_E_EXISTS, -ENOKEY and other errors of secrets_seal(). */
int hub_credential_create(struct hub *hub, struct catalog_credential *row, const char *password,
			  struct err *err);

/* NULL keeps what there is. As above; HUB_E_NOT_FOUND. */
struct hub_credential_change {
	const char *name, *host, *username, *datacenter, *password;
};

int hub_credential_update(struct hub *hub, int64_t id, const struct hub_credential_change *change,
			  struct err *err);

/* A login, as the agent gets it. Wipe it after use: hub_login_wipe(). */
struct hub_login {
	int64_t credential_id; /* or CATALOG_NONE: the hub's configuration, or the request's own */
	char host[CATALOG_NAME_SIZE]; /* empty: the credential is for any */
	char username[CATALOG_NAME_SIZE];
	char datacenter[CATALOG_NAME_SIZE];
	char password[HUB_PASSWORD_SIZE];
};

void hub_login_wipe(struct hub_login *login);

/*
 * The login to use for @host (empty: whichever): the credential @id; without one (id <= 0) the
 * default credential if it is for that host; without one, what the hub's configuration has, else
 * "local". HUB_E_NOT_FOUND; HUB_E_INVALID: @id is for another host; -ENOKEY, -EBADMSG.
 */
int hub_login_choose(struct hub *hub, int64_t id, const char *host, struct hub_login *out,
		     struct err *err);

/* Logs in with it by asking the agent what it sees there. *@vms is how many VMs. HUB_E_NOT_FOUND,
 * HUB_E_AGENT: the agent's words; as hub_login_choose(). */
int hub_credential_test(struct hub *hub, int64_t id, size_t *vms, struct err *err);

/*
 * Makes a new key, seals every secret with it, and takes the old keys out of the key file. A crash
 * at any point leaves every secret readable; the next start, or the next call, ends what was begun.
 * *@count is how many secrets were sealed anew. -ENOKEY, -EBADMSG: one could not be opened, and
 * nothing was changed.
 */
int hub_credentials_rekey(struct hub *hub, size_t *count, char key_id[CATALOG_ID_SIZE],
			  struct err *err);

/* At the start of a hub: ends a change of keys that was cut off, and says in the log which
 * credentials cannot be opened. */
void hub_credentials_settle(struct hub *hub);

#endif
