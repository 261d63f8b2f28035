/*
 * Capture appliances (agent contract 1.4, 5 and 6): what they call to be let in, to log in, and to
 * post what they see; what administrators decide about them.
 *
 * Who enrolls is a stranger: its routes are public, look at the code or the signature themselves,
 * and are limited for each address before they look at anything.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/json.h"
#include "api/routes.h"
#include "base/bytes.h"
#include "hub/appliances.h"
#include "hub/discovery.h"
#include "hub/tunnel.h"

API_WORD_FN(catalog_enrollment_status_name, enum catalog_enrollment_status)

#define STATUS_WORDS	    API_WORDS(catalog_enrollment_status_name_int, CATALOG_ENROLLMENT_EXPIRED)
#define SIGNATURE_TEXT_SIZE 256
#define CODE_TEXT_SIZE	    64

/* --- enrolling -------------------------------------------------------------------------------- */

struct enroll_body {
	char pairing_code[CODE_TEXT_SIZE];
	char vma_public_key[SSH_KEY_LINE_MAX + 1];
	char vma_name[CATALOG_NAME_SIZE];
	char vma_version[CATALOG_NAME_SIZE];
	char vma_fingerprint[CATALOG_NAME_SIZE];
};

#define ENROLL struct enroll_body
static const struct api_json_member enroll_members[] = {
	API_TEXT(ENROLL, pairing_code, .required = true, .what = "XXXX-XXXX-XXXX"),
	API_TEXT(ENROLL, vma_public_key, .required = true,
		 .what = "ssh-ed25519 AAAA... comment, one line"),
	API_TEXT(ENROLL, vma_name, .required = true, .what = "a line of at most 64 bytes"),
	API_TEXT(ENROLL, vma_version, .what = "a line of at most 64 bytes"),
	API_TEXT(ENROLL, vma_fingerprint, .what = "not believed: the hub computes its own"),
};
static const struct api_shape enroll_shape = API_SHAPE("Enroll", enroll_members);

static const struct api_json_member enrolled_members[] = {
	API_BY_HAND("enrollment_id", TEXT),
	API_BY_HAND("challenge", TEXT, .what = "base64; its bytes are what is to be signed"),
	API_BY_HAND("status", TEXT, .one_of = "pending_verification"),
	API_BY_HAND("message", TEXT),
};
static const struct api_shape enrolled_shape = API_SHAPE("Enrolled", enrolled_members);

/* Right or wrong, before it is known which. All who come through one proxy have one address: who
 * knows what cannot be guessed is let through although others have used it up (@is_open of the text
 * @member). */
static int admit_guess(struct api_request *req, const char *member,
		       bool (*is_open)(struct hub *hub, const char *text), struct err *err)
{
	const char *known = json_string_value(json_object_get(req->body, member));

	snprintf(req->caller, sizeof(req->caller), "(appliance at %s)", req->out->peer);
	if (hub_access_guess(req->hub, req->out->peer) || (known && is_open(req->hub, known)))
		return 0;
	req->denied = true;
	req->unlisted = !hub_access_refusal(req->hub, req->out->peer);
	api_reply_header(req, "Retry-After", "1");
	return err_set(err, API_STATUS(429), "too many enrollments come from %s: wait a second",
		       req->out->peer);
}

/* A secret that is not the right one, or a name of nothing, is a stranger's. */
static int told_stranger(struct api_request *req, int rc, struct err *err)
{
	if (rc == HUB_E_TOKEN)
		return api_refuse_stranger(req, API_STATUS(401), err);
	return rc == HUB_E_NOT_FOUND ? api_refuse_stranger(req, rc, err) : rc;
}

static int post_enroll(struct api_request *req, struct err *err)
{
	ENROLL body = {.pairing_code = ""};
	const struct hub_enroll asked = {body.pairing_code, body.vma_public_key, body.vma_name,
					 body.vma_version, req->out->peer};
	struct catalog_enrollment row;
	int rc = admit_guess(req, "pairing_code", hub_pairing_is_open, err);

	if (!rc)
		rc = api_json_decode(req->body, enroll_members, ARRAY_SIZE(enroll_members), &body,
				     err);
	if (!rc)
		rc = told_stranger(req, hub_enroll_begin(req->hub, &asked, &row, err), err);
	explicit_bzero(body.pairing_code, sizeof(body.pairing_code));
	if (rc)
		return rc;
	req->answer =
		json_pack("{s:s,s:s,s:s,s:s}", "enrollment_id", row.id, "challenge", row.challenge,
			  "status", catalog_enrollment_status_name(row.status), "message",
			  "Sign the challenge with the key, and send the signature");
	return 0;
}

struct verify_body {
	char enrollment_id[CATALOG_ID_SIZE];
	char signature[SIGNATURE_TEXT_SIZE];
};

static const struct api_json_member verify_members[] = {
	API_TEXT(struct verify_body, enrollment_id, .required = true),
	API_TEXT(struct verify_body, signature, .required = true,
		 .what = "base64 of the 64 bytes of an Ed25519 signature"),
};
static const struct api_shape verify_shape = API_SHAPE("EnrollVerify", verify_members);

static const struct api_json_member verified_members[] = {
	API_BY_HAND("status", TEXT, .one_of = "awaiting_approval"),
	API_BY_HAND("message", TEXT),
};
static const struct api_shape verified_shape = API_SHAPE("EnrollVerified", verified_members);

static int post_verify(struct api_request *req, struct err *err)
{
	struct verify_body body = {.signature = ""};
	int rc = admit_guess(req, "enrollment_id", hub_enroll_is_open, err);

	if (!rc)
		rc = api_json_decode(req->body, verify_members, ARRAY_SIZE(verify_members), &body,
				     err);
	if (!rc)
		rc = told_stranger(
			req, hub_enroll_verify(req->hub, body.enrollment_id, body.signature, err),
			err);
	if (!rc)
		req->answer = json_pack("{s:s,s:s}", "status", "awaiting_approval", "message",
					"The key is the appliance's own; an administrator decides");
	return rc;
}

static const struct api_json_member result_members[] = {
	API_BY_HAND("status", WORD, STATUS_WORDS),
	API_BY_HAND("ssh_user", TEXT, .what = "empty unless approved, as the next two"),
	API_BY_HAND("ssh_options", TEXT, .what = "for ssh's command line"),
	API_BY_HAND("host_key_hash", TEXT, .what = "SHA256:..., or empty where it is not known"),
	API_BY_HAND("message", TEXT),
};
static const struct api_shape result_shape = API_SHAPE("EnrollResult", result_members);

static const char *result_message(enum catalog_enrollment_status status)
{
	static const char *const messages[] = {
		"The challenge is to be signed", "An administrator is to decide",
		"The key opens the tunnel",	 "An administrator has refused",
		"The key was taken back",	 "Nobody has decided in time: enroll anew",
	};

	return messages[status];
}

static int get_result(struct api_request *req, struct err *err)
{
	const char *id = api_uri_query(&req->uri, "enrollment_id");
	struct hub_tunnel_info tunnel = {.user = ""};
	struct catalog_enrollment row;
	int rc;

	if (!id[0])
		return err_set(err, HUB_E_INVALID, "enrollment_id is missing");
	rc = hub_from_catalog(catalog_enrollment_get(hub_catalog(req->hub), id, &row, err));
	if (rc)
		return told_stranger(req, rc, err);
	if (row.status == CATALOG_ENROLLMENT_APPROVED)
		hub_tunnel_describe(req->hub, &tunnel);
	req->answer = json_pack("{s:s,s:s,s:s,s:s,s:s}", "status",
				catalog_enrollment_status_name(row.status), "ssh_user", tunnel.user,
				"ssh_options", tunnel.options, "host_key_hash",
				tunnel.host_key_hash, "message", result_message(row.status));
	return 0;
}

/* --- deciding --------------------------------------------------------------------------------- */

#define ROW struct catalog_enrollment
static const struct api_json_member row_members[] = {
	API_TEXT(ROW, id),
	API_AS("vma_name", TEXT, ROW, name, .what = "as it calls itself"),
	API_AS("vma_version", TEXT, ROW, version),
	API_AS("vma_public_key", TEXT, ROW, public_key),
	API_AS("vma_fingerprint", TEXT, ROW, fingerprint,
	       .what = "SHA256:..., of the key: compare it with the appliance's"),
	API_AS("vma_ip_address", TEXT, ROW, remote),
	API_AS("status", WORD, ROW, status, STATUS_WORDS),
	API_AS("created_at", TIME, ROW, created_at_us),
	API_AS("expires_at", TIME, ROW, expires_at_us, .what = "of one that nobody has decided"),
	API_AS("decided_at", TIME, ROW, decided_at_us, .what = "the latest decision"),
	API_TEXT(ROW, decided_by),
	API_TEXT(ROW, reason),
};
static const struct api_shape row_shape = API_SHAPE("Enrollment", row_members);

static const struct api_json_member pair_asked[] = {
	API_BY_HAND("valid_for", I64, .what = "seconds, 10 to 86400; pairing_code_s unless said"),
};
static const struct api_shape pair_shape = API_SHAPE("PairingCodeCreate", pair_asked);

static const struct api_json_member paired_members[] = {
	API_BY_HAND("id", TEXT),
	API_BY_HAND("pairing_code", TEXT, .what = "told this once; good for one enrollment"),
	API_BY_HAND("expires_at", TIME),
	API_BY_HAND("valid_for", I64, .what = "seconds"),
};
static const struct api_shape paired_shape = API_SHAPE("PairingCode", paired_members);

static int post_pairing_code(struct api_request *req, struct err *err)
{
	const json_t *asked = json_object_get(req->body, "valid_for");
	struct hub_pairing pairing;
	int rc = 0;

	if (asked && !json_is_null(asked) &&
	    (!json_is_integer(asked) || json_integer_value(asked) < 1))
		rc = err_set(err, HUB_E_INVALID, "valid_for must be a number of seconds");
	if (!rc)
		rc = hub_pairing_create(req->hub, req->user.user_name, json_integer_value(asked),
					&pairing, err);
	if (rc)
		return rc;
	req->answer = json_pack("{s:s,s:s,s:o,s:I}", "id", pairing.id, "pairing_code", pairing.code,
				"expires_at", api_json_time(pairing.expires_at_us), "valid_for",
				(json_int_t)pairing.valid_for_s);
	explicit_bzero(&pairing, sizeof(pairing));
	return 0;
}

static int list_of(struct api_request *req, enum catalog_enrollment_status status,
		   const char *member, struct err *err)
{
	_cleanup_(freep) ROW *rows = NULL;
	json_t *list;
	size_t n = 0;
	int rc = hub_from_catalog(
		catalog_enrollments_list(hub_catalog(req->hub), &status, &rows, &n, err));

	if (rc)
		return rc;
	list = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(
			list, api_json_encode(row_members, ARRAY_SIZE(row_members), &rows[i]));
	req->answer = json_pack("{s:o,s:I}", member, list, "count", (json_int_t)n);
	return 0;
}

static const struct api_json_member pending_members[] = {
	API_LIST("enrollments", &row_shape),
	API_BY_HAND("count", I64),
};
static const struct api_shape pending_shape = API_SHAPE("EnrollmentsPending", pending_members);

static int get_pending(struct api_request *req, struct err *err)
{
	return list_of(req, CATALOG_ENROLLMENT_AWAITING, "enrollments", err);
}

static const struct api_json_member active_members[] = {
	API_LIST("connections", &row_shape),
	API_BY_HAND("count", I64),
};
static const struct api_shape active_shape = API_SHAPE("EnrollmentsActive", active_members);

static int get_active(struct api_request *req, struct err *err)
{
	return list_of(req, CATALOG_ENROLLMENT_APPROVED, "connections", err);
}

struct decide_body {
	char reason[CATALOG_REASON_SIZE], notes[CATALOG_REASON_SIZE];
};

static const struct api_json_member decide_asked[] = {
	API_TEXT(struct decide_body, reason, .what = "a line"),
	API_TEXT(struct decide_body, notes, .what = "the same as reason"),
};
static const struct api_shape decide_shape = API_SHAPE("EnrollmentDecide", decide_asked);

static const struct api_json_member decided_members[] = {
	API_BY_HAND("success", BOOL),
	API_BY_HAND("message", TEXT),
	API_BY_HAND("ssh_user", TEXT),
};
static const struct api_shape decided_shape =
	API_SHAPE("EnrollmentDecided", decided_members, .base = &row_shape);

/* Who revokes may think that it is over: sshd looks at keys when somebody connects. */
static const char *decided_message(enum catalog_enrollment_status status)
{
	return status == CATALOG_ENROLLMENT_REVOKED
		       ? "The key lets nobody in any more; a connection that is open stays until "
			 "it is ended at the hub: pkill -u with the tunnel's user"
		       : result_message(status);
}

static int decide(struct api_request *req, enum catalog_enrollment_status to, struct err *err)
{
	struct decide_body body = {.reason = ""};
	struct catalog_decision decision = {to, req->user.user_name, body.reason};
	struct hub_tunnel_info tunnel;
	ROW row;
	int rc = 0;

	if (req->body)
		rc = api_json_decode(req->body, decide_asked, ARRAY_SIZE(decide_asked), &body, err);
	if (!rc && !body.reason[0])
		decision.reason = body.notes;
	if (!rc)
		rc = hub_enroll_decide(req->hub, req->args[0], &decision, &row, err);
	if (rc)
		return rc;
	hub_tunnel_describe(req->hub, &tunnel);
	req->answer = json_pack("{s:b,s:s,s:s}", "success", 1, "message",
				decided_message(row.status), "ssh_user", tunnel.user);
	api_json_encode_into(req->answer, row_members, ARRAY_SIZE(row_members), &row);
	return 0;
}

static int post_approve(struct api_request *req, struct err *err)
{
	return decide(req, CATALOG_ENROLLMENT_APPROVED, err);
}

static int post_reject(struct api_request *req, struct err *err)
{
	return decide(req, CATALOG_ENROLLMENT_REJECTED, err);
}

static int post_revoke(struct api_request *req, struct err *err)
{
	return decide(req, CATALOG_ENROLLMENT_REVOKED, err);
}

/* --- logging in ------------------------------------------------------------------------------- */

struct login_body {
	char appliance_id[CATALOG_NAME_SIZE], token[CATALOG_NAME_SIZE], version[CATALOG_NAME_SIZE];
};

static const struct api_json_member login_members[] = {
	API_TEXT(struct login_body, appliance_id, .required = true,
		 .what = "the name of a user with the role agent"),
	API_TEXT(struct login_body, token, .required = true, .what = "one of that user's"),
	API_TEXT(struct login_body, version),
};
static const struct api_shape login_shape = API_SHAPE("Login", login_members);

static const struct api_json_member session_members[] = {
	API_BY_HAND("success", BOOL),
	API_BY_HAND("session_token", TEXT, .what = "told this once"),
	API_BY_HAND("expires_at", TIME),
};
static const struct api_shape session_shape = API_SHAPE("Session", session_members);

/* Who knows a token may not fill the catalog and its log with sessions all the same. */
static int told_often(struct api_request *req, int rc)
{
	if (rc != HUB_E_OFTEN)
		return rc;
	req->denied = true;
	req->unlisted = !hub_access_refusal(req->hub, req->out->peer);
	api_reply_header(req, "Retry-After", "1");
	return rc;
}

static int post_login(struct api_request *req, struct err *err)
{
	struct login_body body = {.token = ""};
	char text[HUB_TOKEN_SIZE] = "";
	struct catalog_token session;
	int rc = api_json_decode(req->body, login_members, ARRAY_SIZE(login_members), &body, err);

	if (!rc)
		rc = told_stranger(req,
				   hub_session_create(req->hub, body.appliance_id, body.token,
						      &session, text, err),
				   err);
	explicit_bzero(body.token, sizeof(body.token));
	if (rc)
		return told_often(req, rc);
	snprintf(req->caller, sizeof(req->caller), "%.*s", (int)sizeof(req->caller) - 1,
		 session.user_name);
	strcpy(req->user.token_id, session.parent_id);
	req->answer = json_pack("{s:b,s:s,s:o}", "success", 1, "session_token", text, "expires_at",
				api_json_time(session.expires_at_us));
	explicit_bzero(text, sizeof(text));
	return 0;
}

/* --- what it sees ----------------------------------------------------------------------------- */

static const struct api_json_member inventory_asked[] = {
	API_BY_HAND("appliance_id", TEXT, .what = "the caller's, if it is said"),
	API_BY_HAND("datacenter", TEXT),
	API_BY_HAND("vcenter", ANY, .required = true, .what = "{host, datacenter}"),
	API_BY_HAND("vms", ANY, .required = true,
		    .what = "a list of VMs as the capture agent's discovery describes them"),
	API_BY_HAND("timestamp", TEXT),
};
static const struct api_shape inventory_shape = API_SHAPE("Inventory", inventory_asked);

static const struct api_json_member taken_members[] = {
	API_BY_HAND("message", TEXT, .what = "with the first reason, if some failed"),
	API_BY_HAND("vm_count", I64),
	API_BY_HAND("refreshed", I64, .what = "VMs under management that are stored anew"),
	API_BY_HAND("unknown", I64, .what = "not under management, and left alone"),
	API_BY_HAND("failed", I64),
	API_BY_HAND("timestamp", TIME),
};
static const struct api_shape taken_shape = API_SHAPE("InventoryTaken", taken_members);

static int post_inventory(struct api_request *req, struct err *err)
{
	const char *appliance = json_string_value(json_object_get(req->body, "appliance_id"));
	struct hub_inventory got;
	char why[256];
	int rc = 0;

	if (appliance && appliance[0] && strcmp(appliance, req->user.user_name) != 0)
		rc = err_set(err, HUB_E_INVALID,
			     "appliance_id is \"%.60s\", but the token is that of %s", appliance,
			     req->user.user_name);
	if (!rc)
		rc = hub_inventory_take(req->hub, req->body, &got, why, err);
	if (rc)
		return rc;
	req->answer =
		json_pack("{s:o,s:I,s:I,s:I,s:I,s:o}", "message",
			  api_json_text(got.failed ? why : "VM inventory received"), "vm_count",
			  (json_int_t)got.seen, "refreshed", (json_int_t)got.refreshed, "unknown",
			  (json_int_t)got.unknown, "failed", (json_int_t)got.failed, "timestamp",
			  api_json_time(catalog_now_us()));
	return 0;
}

/* --- routes ----------------------------------------------------------------------------------- */

#define ADMIN "/api/v1/admin/vma"

static const struct api_route appliance_routes[] = {
	API_ROUTE(POST, "/api/v1/vma/enroll", post_enroll, PUBLIC,
		  "Ask to be let in, with a pairing code and a public key", .takes = &enroll_shape,
		  .gives = &enrolled_shape,
		  .details = "401: the code. Limited to one a second from an address, 30 at once, "
			     "but for a code that is good."),
	API_ROUTE(POST, "/api/v1/vma/enroll/verify", post_verify, PUBLIC,
		  "Show that the key is one's own", .takes = &verify_shape,
		  .gives = &verified_shape,
		  .details = "401: it is not. Limited as enroll is, but for an id that is."),
	API_ROUTE(GET, "/api/v1/vma/enroll/result", get_result, PUBLIC, "What was decided",
		  .query = API_PARAMS({"enrollment_id", API_JSON_TEXT, "of enroll", NULL, true}),
		  .gives = &result_shape),
	API_ROUTE(POST, ADMIN "/pairing-code", post_pairing_code, ADMIN,
		  "Make a pairing code: it is in this answer and never told again",
		  .takes = &pair_shape, .may_be_bare = true, .gives = &paired_shape),
	API_ROUTE(GET, ADMIN "/pending", get_pending, ADMIN, "Enrollments that wait for a decision",
		  .gives = &pending_shape),
	API_ROUTE(GET, ADMIN "/active", get_active, ADMIN, "Enrollments that are approved",
		  .gives = &active_shape),
	API_ROUTE(POST, ADMIN "/approve/{enrollment_id}", post_approve, ADMIN,
		  "Let the appliance's key open the tunnel", .takes = &decide_shape,
		  .may_be_bare = true, .gives = &decided_shape),
	API_ROUTE(POST, ADMIN "/reject/{enrollment_id}", post_reject, ADMIN, "Refuse an enrollment",
		  .takes = &decide_shape, .may_be_bare = true, .gives = &decided_shape),
	API_ROUTE(POST, ADMIN "/revoke/{enrollment_id}", post_revoke, ADMIN,
		  "Take an approved key back: no new connection is let in with it",
		  .takes = &decide_shape, .may_be_bare = true, .gives = &decided_shape),
	API_ROUTE(DELETE, ADMIN "/revoke/{enrollment_id}", post_revoke, ADMIN,
		  "The same as POST, without a reason", .gives = &decided_shape),
	API_ROUTE(POST, "/api/v1/auth/login", post_login, PUBLIC,
		  "An appliance logs in with its token: a session that expires",
		  .takes = &login_shape, .gives = &session_shape, .agents_too = true),
	API_ROUTE(POST, "/api/v1/vms/inventory", post_inventory, AGENT,
		  "What an appliance sees: VMs under management are refreshed, none is added",
		  .takes = &inventory_shape, .gives = &taken_shape, .agents_too = true),
};
const struct api_noun api_appliances_noun = API_NOUN(
	"Appliances", "Capture appliances: enrollment, login, inventory.", appliance_routes);
