#include "hub/appliances.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/base64.h"
#include "base/bytes.h"
#include "hub/job.h"
#include "hub/tunnel.h"

/* No I, L, O, U, 0, 1: nobody mistakes one for another. */
#define CODE_DIGITS "ABCDEFGHJKMNPQRSTVWXYZ23456789"
#define CODE_BASE   (sizeof(CODE_DIGITS) - 1)
#define CODE_LENGTH 12

/* --- pairing codes ---------------------------------------------------------------------------- */

static int random_digit(char *out, struct err *err)
{
	uint8_t byte;

	do {
		if (getrandom(&byte, 1, 0) != 1)
			return err_sys(err, -errno, "no random bytes for a pairing code");
	} while (byte >= 256 / CODE_BASE * CODE_BASE);
	*out = CODE_DIGITS[byte % CODE_BASE];
	return 0;
}

static int make_code(char code[HUB_PAIRING_CODE_SIZE], struct err *err)
{
	char *out = code;
	int rc = 0;

	for (int i = 0; !rc && i < CODE_LENGTH; i++) {
		if (i && i % 4 == 0)
			*out++ = '-';
		rc = random_digit(out++, err);
	}
	*out = '\0';
	return rc;
}

/* Of a code as somebody typed it: its digits alone, in upper case. False: it is none. */
static bool code_hash(const char *typed, char hash[SHA256_HEX_SIZE])
{
	char digits[CODE_LENGTH];
	size_t n = 0;

	for (const char *p = typed; *p; p++) {
		char c = *p >= 'a' && *p <= 'z' ? (char)(*p - 'a' + 'A') : *p;

		if (c == '-' || c == ' ')
			continue;
		if (n == CODE_LENGTH || !strchr(CODE_DIGITS, c))
			return false;
		digits[n++] = c;
	}
	return n == CODE_LENGTH && sha256_hex(digits, n, hash);
}

int hub_pairing_create(struct hub *hub, const char *by, int64_t valid_for_s,
		       struct hub_pairing *out, struct err *err)
{
	struct catalog_pairing row = {.created_at_us = catalog_now_us()};
	int rc;

	*out = (struct hub_pairing){.valid_for_s =
					    valid_for_s ? valid_for_s : hub->config.pairing_code_s};
	if (out->valid_for_s < HUB_PAIRING_MIN_S || out->valid_for_s > HUB_PAIRING_MAX_S)
		return err_set(err, HUB_E_INVALID, "a pairing code is valid for %d to %d seconds",
			       HUB_PAIRING_MIN_S, HUB_PAIRING_MAX_S);
	out->expires_at_us = row.expires_at_us = row.created_at_us + out->valid_for_s * 1000000;
	CATALOG_TEXT(row.created_by, by);
	rc = make_code(out->code, err);
	if (!rc && !code_hash(out->code, row.code_hash))
		rc = err_sys(err, -EIO, "the pairing code could not be hashed");
	if (!rc)
		rc = hub_from_catalog(catalog_pairing_create(hub->catalog, &row, err));
	if (rc)
		explicit_bzero(out, sizeof(*out));
	else
		strcpy(out->id, row.id);
	return rc;
}

bool hub_pairing_is_open(struct hub *hub, const char *code)
{
	char hash[SHA256_HEX_SIZE];

	return code_hash(code, hash) && catalog_pairing_is_open(hub->catalog, hash);
}

/* --- enrollment ------------------------------------------------------------------------------- */

static bool is_text(const char *text, size_t max)
{
	size_t len = strnlen(text, max + 1);

	for (size_t i = 0; i < len; i++)
		if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
			return false;
	return len <= max;
}

static int make_challenge(char out[CATALOG_ID_SIZE], struct err *err)
{
	uint8_t bytes[HUB_CHALLENGE_BYTES];

	if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
		return err_sys(err, -errno, "no random bytes for a challenge");
	base64_encode(bytes, sizeof(bytes), out);
	return 0;
}

static bool decode_exactly(const char *text, uint8_t *out, size_t len)
{
	return base64_decode(text, strlen(text), out, len) == len;
}

static int take_appliance(const struct hub_enroll *asked, struct catalog_enrollment *row,
			  struct err *err)
{
	struct ssh_key key;
	int rc;

	if (!asked->name[0] || !is_text(asked->name, HUB_APPLIANCE_NAME_MAX) ||
	    !is_text(asked->version, HUB_APPLIANCE_NAME_MAX))
		return err_set(err, HUB_E_INVALID,
			       "vma_name must be, and vma_version may be, a line of at most %d "
			       "bytes",
			       HUB_APPLIANCE_NAME_MAX);
	rc = ssh_key_parse(asked->public_key, &key, err);
	if (rc)
		return rc;
	CATALOG_TEXT(row->name, asked->name);
	CATALOG_TEXT(row->version, asked->version);
	CATALOG_TEXT(row->remote, asked->remote);
	CATALOG_TEXT(row->public_key, key.text);
	CATALOG_TEXT(row->fingerprint, key.fingerprint);
	return 0;
}

int hub_enroll_begin(struct hub *hub, const struct hub_enroll *asked,
		     struct catalog_enrollment *out, struct err *err)
{
	char hash[SHA256_HEX_SIZE];
	int rc;

	memset(out, 0, sizeof(*out));
	rc = take_appliance(asked, out, err);
	if (!rc)
		rc = make_challenge(out->challenge, err);
	if (rc)
		return rc;
	if (!code_hash(asked->pairing_code, hash))
		return err_set(err, HUB_E_TOKEN,
			       "that is no pairing code: it has the form XXXX-XXXX-XXXX; have one "
			       "made with "
			       "sendense-ctl appliance pair");
	out->expires_at_us = catalog_now_us() + hub->config.enrollment_s * 1000000LL;
	rc = catalog_enrollment_begin(hub->catalog, hash, out, err);
	if (!rc)
		log_info(&hub->log, "appliance %s asks to be enrolled (%s) with key %s", out->name,
			 out->id, out->fingerprint);
	return rc == CATALOG_E_NOT_FOUND ? HUB_E_TOKEN : hub_from_catalog(rc);
}

bool hub_enroll_is_open(struct hub *hub, const char *id)
{
	struct catalog_enrollment row;

	return !catalog_enrollment_get(hub->catalog, id, &row, NULL) &&
	       row.status == CATALOG_ENROLLMENT_PENDING;
}

int hub_enroll_verify(struct hub *hub, const char *id, const char *signature, struct err *err)
{
	uint8_t challenge[HUB_CHALLENGE_BYTES], signed_with[SSH_SIGNATURE_BYTES];
	struct catalog_enrollment row;
	struct ssh_key key;
	int rc = hub_from_catalog(catalog_enrollment_get(hub->catalog, id, &row, err));

	if (rc)
		return rc;
	if (row.status != CATALOG_ENROLLMENT_PENDING)
		return err_set(err, HUB_E_STATE,
			       "enrollment %s is %s: its challenge is not open any more", row.id,
			       catalog_enrollment_status_name(row.status));
	if (!decode_exactly(signature, signed_with, sizeof(signed_with)))
		return err_set(err, HUB_E_INVALID, "signature must be %d bytes in base64",
			       SSH_SIGNATURE_BYTES);
	rc = ssh_key_parse(row.public_key, &key, err);
	if (rc || !decode_exactly(row.challenge, challenge, sizeof(challenge)))
		return err_set(err, -EUCLEAN, "enrollment %s is damaged in the catalog", row.id);
	if (!ssh_key_verify(&key, challenge, sizeof(challenge), signed_with))
		return err_set(err, HUB_E_TOKEN,
			       "the challenge of enrollment %s was not signed with key %s", row.id,
			       row.fingerprint);
	return hub_from_catalog(catalog_enrollment_verified(hub->catalog, id, err));
}

int hub_enroll_decide(struct hub *hub, const char *id, const struct catalog_decision *decision,
		      struct catalog_enrollment *out, struct err *err)
{
	const char *word = catalog_enrollment_status_name(decision->to);
	int rc;

	if (!is_text(decision->reason, CATALOG_REASON_SIZE - 1))
		return err_set(err, HUB_E_INVALID, "the reason must be a line of at most %d bytes",
			       CATALOG_REASON_SIZE - 1);
	rc = hub_from_catalog(catalog_enrollment_decide(hub->catalog, id, decision, out, err));
	if (rc)
		return rc;
	log_info(&hub->log, "appliance %s (%s, key %s) was %s by %s", out->name, out->id,
		 out->fingerprint, word, decision->by);
	rc = hub_tunnel_sync(hub, err);
	return rc ? err_prefix(err, rc,
			       "enrollment %s is %s, but the tunnel's keys could not be written, "
			       "which is tried again every %d s",
			       out->id, word, HUB_TUNNEL_PERIOD_S)
		  : 0;
}

/* --- login ------------------------------------------------------------------------------------ */

static int check_appliance(const struct hub_caller *caller, const char *appliance,
			   const struct catalog_token *token, struct err *err)
{
	if (caller->role != CATALOG_ROLE_AGENT)
		return err_set(err, HUB_E_TOKEN,
			       "appliances log in with a token of a user with the role agent, and "
			       "user %s has the role %s",
			       caller->user_name, catalog_role_name(caller->role));
	if (strcmp(caller->user_name, appliance) != 0)
		return err_set(err, HUB_E_TOKEN, "this token is that of appliance %s",
			       caller->user_name);
	if (token->parent_id[0])
		return err_set(err, HUB_E_TOKEN, "a session logs nobody in: use the token %s",
			       token->parent_id);
	return 0;
}

int hub_session_create(struct hub *hub, const char *appliance, const char *token,
		       struct catalog_token *session, char text[HUB_TOKEN_SIZE], struct err *err)
{
	struct catalog_token parent;
	struct hub_caller caller;
	int rc = hub_access_authenticate(hub, token, &caller, err);

	if (!rc)
		rc = hub_from_catalog(
			catalog_token_get(hub->catalog, caller.token_id, &parent, err));
	if (!rc)
		rc = check_appliance(&caller, appliance, &parent, err);
	if (rc)
		return rc;
	if (!hub_access_guess(hub, parent.id))
		return err_set(err, HUB_E_OFTEN,
			       "appliance %s logs in too often: a session lasts, wait a second",
			       appliance);
	*session = (struct catalog_token){.expires_at_us = catalog_now_us() +
							   hub->config.session_s * 1000000LL};
	if (parent.expires_at_us && parent.expires_at_us < session->expires_at_us)
		session->expires_at_us = parent.expires_at_us;
	strcpy(session->user_id, parent.user_id);
	strcpy(session->parent_id, parent.id);
	strcpy(session->scopes, parent.scopes);
	snprintf(session->name, sizeof(session->name), "session of %.200s", parent.name);
	return hub_token_create(hub, session, text, err);
}
