#include "hub/credentials.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/bytes.h"
#include "hub/job.h"
#include "hub/secrets.h"

_Static_assert(SECRETS_SEALED_SIZE <= CATALOG_SECRET_SIZE, "a sealed secret fits its column");
_Static_assert(SECRETS_KEY_ID_SIZE <= CATALOG_ID_SIZE, "a key id fits its column");

#define CONTEXT_SIZE (2 * CATALOG_NAME_SIZE + 64)

/* For whom a password is. No member can hold a line feed: see credential_check(). */
static void credential_context(const struct catalog_credential *row, char context[CONTEXT_SIZE])
{
	snprintf(context, CONTEXT_SIZE, "sendense credential\n%s\n%s\n%s",
		 catalog_credential_kind_name(row->kind), row->host, row->username);
}

static bool credential_is_line(const char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < 0x20 || *text == 0x7f)
			return false;
	return true;
}

static int credential_check(const struct catalog_credential *row, struct err *err)
{
	if (!row->name[0] || !row->username[0])
		return err_set(err, HUB_E_INVALID, "%s is missing",
			       row->name[0] ? "username" : "name");
	if (!credential_is_line(row->name) || !credential_is_line(row->host) ||
	    !credential_is_line(row->username) || !credential_is_line(row->datacenter))
		return err_set(err, HUB_E_INVALID,
			       "name, vcenter_host, username and datacenter must be single lines "
			       "of text");
	return 0;
}

static int credential_check_password(const char *password, struct err *err)
{
	if (!password || !password[0])
		return err_set(err, HUB_E_INVALID, "password is missing");
	if (strlen(password) >= HUB_PASSWORD_SIZE)
		return err_set(err, HUB_E_INVALID, "password is longer than %d bytes",
			       HUB_PASSWORD_SIZE - 1);
	return 0;
}

/* --- sealing, inside a transaction ------------------------------------------------------------
 *
 * The database's write lock is held from reading the key file to storing what was sealed with it,
 * so that no change of keys on another hub comes between.
 */

/* A key may be made only when nothing waits for one that is lost. */
static int credential_none_yet(struct catalog *tx, bool *none, struct err *err)
{
	_cleanup_(freep) struct catalog_credential *rows = NULL;
	size_t n = 0;
	int rc = catalog_credentials_list(tx, &rows, &n, err);

	*none = n == 0;
	return rc;
}

static int credential_seal(struct catalog *tx, struct secrets *secrets,
			   struct catalog_credential *row, const char *password, struct err *err)
{
	char context[CONTEXT_SIZE];
	bool none;
	int rc = credential_none_yet(tx, &none, err);

	if (rc)
		return rc;
	credential_context(row, context);
	return secrets_seal(secrets, none, context, password, row->secret, row->key_id, err);
}

static int credential_open(struct secrets *secrets, const struct catalog_credential *row,
			   char password[HUB_PASSWORD_SIZE], struct err *err)
{
	char context[CONTEXT_SIZE];
	int rc;

	credential_context(row, context);
	rc = secrets_open(secrets, context, row->secret, row->key_id, password, HUB_PASSWORD_SIZE,
			  err);
	return rc ? err_prefix(err, rc, "credential %" PRId64 " (\"%s\")", row->id, row->name) : 0;
}

/* --- create, change ------------------------------------------------------------------------- */

struct credential_write {
	struct hub *hub;
	struct catalog_credential *row;
	int64_t id;
	const struct hub_credential_change *change;
	const char *password;
};

static int credential_create_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct credential_write *w = arg;
	struct catalog_credential row = *w->row;
	int rc = credential_seal(tx, w->hub->secrets, &row, w->password, err);

	if (!rc)
		rc = catalog_credential_create(tx, &row, err);
	if (!rc)
		*w->row = row;
	return rc;
}

int hub_credential_create(struct hub *hub, struct catalog_credential *row, const char *password,
			  struct err *err)
{
	struct credential_write w = {.hub = hub, .row = row, .password = password};
	int rc = credential_check(row, err);

	if (!rc)
		rc = credential_check_password(password, err);
	if (!rc)
		rc = hub_from_catalog(catalog_tx(hub->catalog, credential_create_tx, &w, err));
	if (!rc)
		log_info(&hub->log, "credential %" PRId64 " \"%s\": %s at \"%s\"", row->id,
			 row->name, row->username, row->host);
	return rc;
}

static bool credential_take(char *to, size_t size, const char *from)
{
	return !from || catalog_text_copy(to, size, from);
}

static int credential_update_tx(struct catalog *tx, void *arg, struct err *err)
{
	const struct credential_write *w = arg;
	const struct hub_credential_change *c = w->change;
	struct catalog_credential_change out = {c->name, c->host, c->username, c->datacenter};
	struct catalog_credential row, old;
	int rc = catalog_credential_get(tx, w->id, &old, err);

	if (rc)
		return rc;
	row = old;
	if (!credential_take(row.name, sizeof(row.name), c->name) ||
	    !credential_take(row.host, sizeof(row.host), c->host) ||
	    !credential_take(row.username, sizeof(row.username), c->username) ||
	    !credential_take(row.datacenter, sizeof(row.datacenter), c->datacenter))
		return err_set(err, CATALOG_E_INVALID, "a text is too long");
	if (credential_check(&row, err))
		return CATALOG_E_INVALID;
	if (!c->password && (strcmp(row.host, old.host) || strcmp(row.username, old.username)))
		return err_set(err, CATALOG_E_INVALID,
			       "password is missing: it is needed when the host or the user name "
			       "changes");
	if (c->password) {
		rc = credential_seal(tx, w->hub->secrets, &row, c->password, err);
		out.secret = row.secret;
		out.key_id = row.key_id;
	}
	return rc ? rc : catalog_credential_update(tx, w->id, &out, err);
}

int hub_credential_update(struct hub *hub, int64_t id, const struct hub_credential_change *change,
			  struct err *err)
{
	struct credential_write w = {.hub = hub, .id = id, .change = change};
	int rc = change->password ? credential_check_password(change->password, err) : 0;

	if (!rc)
		rc = hub_from_catalog(catalog_tx(hub->catalog, credential_update_tx, &w, err));
	if (!rc)
		log_info(&hub->log, "credential %" PRId64 " was changed%s", id,
			 change->password ? ", its password too" : "");
	return rc;
}

/* --- logging in ----------------------------------------------------------------------------- */

void hub_login_wipe(struct hub_login *login)
{
	explicit_bzero(login, sizeof(*login));
}

static const char *login_or_local(const char *text)
{
	return text[0] ? text : "local";
}

static void login_configured(struct hub *hub, struct hub_login *out)
{
	*out = (struct hub_login){.credential_id = CATALOG_NONE};
	CATALOG_TEXT(out->username, login_or_local(hub->vcenter_user));
	CATALOG_TEXT(out->password, login_or_local(hub->vcenter_password));
}

static bool login_is_for(const struct catalog_credential *row, const char *host)
{
	return !host[0] || !row->host[0] || !strcasecmp(row->host, host);
}

int hub_login_choose(struct hub *hub, int64_t id, const char *host, struct hub_login *out,
		     struct err *err)
{
	bool named = id > 0;
	struct catalog_credential row;
	int rc = named ? catalog_credential_get(hub->catalog, id, &row, err)
		       : catalog_credential_get_default(hub->catalog, &row, err);

	if (!named && (rc == CATALOG_E_NOT_FOUND || (!rc && !login_is_for(&row, host)))) {
		login_configured(hub, out);
		return 0;
	}
	if (rc)
		return hub_from_catalog(rc);
	if (row.kind != CATALOG_CREDENTIAL_VCENTER)
		return err_set(err, HUB_E_INVALID,
			       "credential %" PRId64 " is no login to a vCenter", row.id);
	if (!login_is_for(&row, host))
		return err_set(err, HUB_E_INVALID,
			       "credential %" PRId64 " (\"%s\") is for \"%s\", not for \"%s\"",
			       row.id, row.name, row.host, host);
	*out = (struct hub_login){.credential_id = row.id};
	CATALOG_TEXT(out->host, row.host);
	CATALOG_TEXT(out->username, row.username);
	CATALOG_TEXT(out->datacenter, row.datacenter);
	return credential_open(hub->secrets, &row, out->password, err);
}

/* --- change of keys ------------------------------------------------------------------------- */

struct rekey {
	struct hub *hub;
	bool new_key; /* else only what is not sealed with the first key, if any */
	size_t count;
};

static int rekey_row(struct catalog *tx, struct secrets *secrets, struct catalog_credential *row,
		     struct err *err)
{
	struct catalog_credential_change change = {.secret = row->secret, .key_id = row->key_id};
	char password[HUB_PASSWORD_SIZE];
	int rc = credential_open(secrets, row, password, err);

	if (!rc)
		rc = credential_seal(tx, secrets, row, password, err);
	explicit_bzero(password, sizeof(password));
	return rc ? rc : catalog_credential_update(tx, row->id, &change, err);
}

/* May run again when the database was busy: another key more, which goes with the old ones. */
static int rekey_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct rekey *k = arg;
	struct secrets *secrets = k->hub->secrets;
	_cleanup_(freep) struct catalog_credential *rows = NULL;
	char first[SECRETS_KEY_ID_SIZE], password[HUB_PASSWORD_SIZE];
	size_t n = 0;
	int rc = catalog_credentials_list(tx, &rows, &n, err);

	k->count = 0;
	/* First of all, whether it can be done. */
	for (size_t i = 0; !rc && i < n; i++)
		rc = credential_open(secrets, &rows[i], password, err);
	explicit_bzero(password, sizeof(password));
	if (!rc)
		rc = k->new_key ? secrets_add_key(secrets, err) : secrets_load(secrets, err);
	secrets_count(secrets, first);
	for (size_t i = 0; !rc && i < n; i++) {
		if (!strcmp(rows[i].key_id, first))
			continue;
		rc = rekey_row(tx, secrets, &rows[i], err);
		k->count++;
	}
	return rc;
}

struct used_keys {
	const struct catalog_credential *rows;
	size_t n;
};

static bool key_is_used(void *arg, const char *key_id)
{
	const struct used_keys *used = arg;

	for (size_t i = 0; i < used->n; i++)
		if (!strcmp(used->rows[i].key_id, key_id))
			return true;
	return false;
}

/* What the database has now is what a crash leaves: only after it is committed may keys go. */
static int drop_keys_tx(struct catalog *tx, void *arg, struct err *err)
{
	struct secrets *secrets = arg;
	_cleanup_(freep) struct catalog_credential *rows = NULL;
	struct used_keys used = {.n = 0};
	int rc = catalog_credentials_list(tx, &rows, &used.n, err);

	used.rows = rows;
	return rc ? rc : secrets_drop_keys(secrets, key_is_used, &used, err);
}

static int rekey(struct rekey *k, struct err *err)
{
	int rc = catalog_tx(k->hub->catalog, rekey_tx, k, err);

	if (!rc)
		rc = catalog_tx(k->hub->catalog, drop_keys_tx, k->hub->secrets, err);
	return hub_from_catalog(rc);
}

int hub_credentials_rekey(struct hub *hub, size_t *count, char key_id[CATALOG_ID_SIZE],
			  struct err *err)
{
	struct rekey k = {.hub = hub, .new_key = true};
	int rc = secrets_load(hub->secrets, err);

	if (rc == -ENOENT)
		return err_set(err, HUB_E_STATE,
			       "there is no key file %s: no credential was ever stored",
			       secrets_path(hub->secrets));
	if (!rc)
		rc = rekey(&k, err);
	if (rc)
		return rc;
	*count = k.count;
	secrets_count(hub->secrets, key_id);
	log_info(&hub->log, "%zu credentials are encrypted with the new key %s; copy %s anew",
		 *count, key_id, secrets_path(hub->secrets));
	return 0;
}

void hub_credentials_settle(struct hub *hub)
{
	_cleanup_(freep) struct catalog_credential *rows = NULL;
	char first[SECRETS_KEY_ID_SIZE], password[HUB_PASSWORD_SIZE];
	struct rekey k = {.hub = hub};
	struct err err = ERR_INIT;
	size_t n = 0, bad = 0;

	secrets_sweep(hub->secrets);
	if (catalog_credentials_list(hub->catalog, &rows, &n, &err))
		return;
	for (size_t i = 0; i < n; i++) {
		if (!credential_open(hub->secrets, &rows[i], password, &err))
			continue;
		log_error(&hub->log, "%s", err.text);
		bad++;
	}
	explicit_bzero(password, sizeof(password));
	if (bad || secrets_count(hub->secrets, first) < 2)
		return;
	if (rekey(&k, &err))
		log_error(&hub->log, "ending the change of keys that was cut off: %s", err.text);
	else
		log_warn(&hub->log, "a change of keys was cut off, and is done now: copy %s anew",
			 secrets_path(hub->secrets));
}
