/*
 * Capture appliances: pairing, enrollment, login (agent contract 1.4, 5 and 6; docs/tunnel.md).
 *
 * An administrator has a pairing code made and tells it to who installs the appliance. The
 * appliance sends the code with its public key, and signs the challenge it is given: so the key is
 * its own. Once an administrator has approved, the key opens the SSH tunnel (hub/tunnel.h).
 *
 * A code is 12 characters of 30, 58 bits, is told once and kept as its SHA-256. Everything that
 * comes from an appliance is a stranger's.
 */
#ifndef HUB_APPLIANCES_H
#define HUB_APPLIANCES_H

#include "catalog/appliances.h"
#include "hub/access.h"
#include "hub/hub.h"
#include "hub/ssh_key.h"

#define HUB_PAIRING_CODE_SIZE  15 /* "XXXX-XXXX-XXXX" */
#define HUB_PAIRING_MIN_S      10
#define HUB_PAIRING_MAX_S      (24 * 3600)
#define HUB_APPLIANCE_NAME_MAX 64
#define HUB_CHALLENGE_BYTES    32

struct hub_pairing {
	char id[CATALOG_ID_SIZE];
	char code[HUB_PAIRING_CODE_SIZE]; /* nowhere else */
	int64_t valid_for_s;
	int64_t expires_at_us;
};

/* @valid_for_s 0: as configured. HUB_E_INVALID. */
int hub_pairing_create(struct hub *hub, const char *by, int64_t valid_for_s,
		       struct hub_pairing *out, struct err *err);

struct hub_enroll {
	const char *pairing_code; /* letters in either case, with or without its dashes */
	const char *public_key;
	const char *name, *version;
	const char *remote; /* the address it comes from */
};

/* Is that a code that was given and is good still; is that an enrollment whose challenge is open?
 * Nobody knows of one who has no business with it. Any thread. */
bool hub_pairing_is_open(struct hub *hub, const char *code);
bool hub_enroll_is_open(struct hub *hub, const char *id);

/* HUB_E_TOKEN: the code; HUB_E_INVALID: anything else of it, and the code is still good. */
int hub_enroll_begin(struct hub *hub, const struct hub_enroll *asked,
		     struct catalog_enrollment *out, struct err *err);
/* @signature: base64, of the challenge's bytes. HUB_E_TOKEN: it is not the key's; HUB_E_STATE,
 * HUB_E_NOT_FOUND, HUB_E_INVALID. */
int hub_enroll_verify(struct hub *hub, const char *id, const char *signature, struct err *err);

/* As catalog_enrollment_decide(), and the tunnel's keys with it: an error after the decision is in
 * the catalog says so. */
int hub_enroll_decide(struct hub *hub, const char *id, const struct catalog_decision *decision,
		      struct catalog_enrollment *out, struct err *err);

/*
 * Logs an appliance in: @token must be one of a user with the role agent who is called @appliance.
 * The session is a token that expires with that one, and as configured; its text is written to
 * @text and nowhere else. HUB_E_TOKEN; HUB_E_OFTEN: more than one a second, 30 at once.
 */
int hub_session_create(struct hub *hub, const char *appliance, const char *token,
		       struct catalog_token *session, char text[HUB_TOKEN_SIZE], struct err *err);

#endif
