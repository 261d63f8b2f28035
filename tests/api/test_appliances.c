/* Capture appliances over the API: pairing, enrollment with real Ed25519 keys in every state it can
 * be in, the tunnel's keys, login and inventory. */
#include <curl/curl.h>
#include <openssl/evp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/base64.h"
#include "hub/appliances.h"
#include "hub/tunnel.h"
#include "tests/support/apirig.h"

#define ENROLL "/api/v1/vma/enroll"
#define VERIFY "/api/v1/vma/enroll/verify"
#define ADMIN  "/api/v1/admin/vma"

static const char *const no_headers[] = {NULL};

/* --- an appliance ----------------------------------------------------------------------------- */

struct appliance {
	EVP_PKEY *pkey;
	char key[SSH_KEY_TEXT_SIZE]; /* as it stands in a .pub file, without the comment */
	char id[CATALOG_ID_SIZE], challenge[CATALOG_ID_SIZE];
};

static void appliance_make(struct appliance *a)
{
	uint8_t blob[51] = "\0\0\0\013ssh-ed25519\0\0\0\040";
	size_t len = SSH_KEY_BYTES;

	memset(a, 0, sizeof(*a));
	a->pkey = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
	assert_non_null(a->pkey);
	assert_int_equal(EVP_PKEY_get_raw_public_key(a->pkey, blob + 19, &len), 1);
	base64_encode(blob, sizeof(blob), stpcpy(a->key, "ssh-ed25519 "));
}

static void appliance_free(struct appliance *a)
{
	EVP_PKEY_free(a->pkey);
}

/* Of the bytes behind @base64. */
static void sign_text(const struct appliance *a, const char *base64, char out[100])
{
	uint8_t bytes[HUB_CHALLENGE_BYTES], signature[SSH_SIGNATURE_BYTES];
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	size_t len = sizeof(signature);

	assert_int_equal(base64_decode(base64, strlen(base64), bytes, sizeof(bytes)),
			 sizeof(bytes));
	assert_int_equal(EVP_DigestSignInit(ctx, NULL, NULL, NULL, a->pkey), 1);
	assert_int_equal(EVP_DigestSign(ctx, signature, &len, bytes, sizeof(bytes)), 1);
	EVP_MD_CTX_free(ctx);
	base64_encode(signature, sizeof(signature), out);
}

/* As a stranger: without a token. The answer is the caller's. */
static json_t *stranger(const char *method, const char *path, const char *body, long status)
{
	struct apiclient_reply got;
	json_t *reply;

	apirig_run(method, path, body, no_headers, &got);
	if (got.status != status)
		fail_msg("%s %s: %ld, not %ld: %s", method, path, got.status, status, got.text);
	reply = json_loadb(got.text, got.len, 0, NULL);
	apiclient_deinit(&got);
	return reply;
}

static void stranger_refused(const char *method, const char *path, const char *body, long status,
			     const char *sentence)
{
	json_t *reply = stranger(method, path, body, status);

	if (!strstr(text_of(reply, "error"), sentence))
		fail_msg("\"%s\" is not in \"%s\"", sentence, text_of(reply, "error"));
	json_decref(reply);
}

static void pairing_code(const char *body, char code[HUB_PAIRING_CODE_SIZE])
{
	json_t *reply = ask("POST", ADMIN "/pairing-code", body, 200);

	assert_int_equal(strlen(text_of(reply, "pairing_code")), HUB_PAIRING_CODE_SIZE - 1);
	snprintf(code, HUB_PAIRING_CODE_SIZE, "%s", text_of(reply, "pairing_code"));
	json_decref(reply);
}

static char *enroll_body(const char *code, const char *key, const char *name)
{
	json_t *body = json_pack("{s:s,s:s,s:s,s:s,s:s}", "pairing_code", code, "vma_public_key",
				 key, "vma_name", name, "vma_version", "v2.20.1", "vma_fingerprint",
				 "SHA256:of-another-key");
	char *text = json_dumps(body, 0);

	json_decref(body);
	return text;
}

static json_t *try_enroll(const char *code, const char *key, const char *name, long status)
{
	char *body = enroll_body(code, key, name);
	json_t *reply = stranger("POST", ENROLL, body, status);

	free(body);
	return reply;
}

static void enroll(struct appliance *a, const char *name)
{
	char code[HUB_PAIRING_CODE_SIZE], line[200];
	json_t *reply;

	pairing_code(NULL, code);
	snprintf(line, sizeof(line), "%s vma@%s\n", a->key, name);
	reply = try_enroll(code, line, name, 200);
	assert_string_equal(text_of(reply, "status"), "pending_verification");
	snprintf(a->id, sizeof(a->id), "%s", text_of(reply, "enrollment_id"));
	snprintf(a->challenge, sizeof(a->challenge), "%s", text_of(reply, "challenge"));
	json_decref(reply);
}

static void verify_with(const char *id, const char *signature, long status, const char *said)
{
	char body[400];
	json_t *reply;

	snprintf(body, sizeof(body), "{\"enrollment_id\":\"%s\",\"signature\":\"%s\"}", id,
		 signature);
	reply = stranger("POST", VERIFY, body, status);
	if (!strstr(text_of(reply, status == 200 ? "status" : "error"), said))
		fail_msg("verify: %s", text_of(reply, "error"));
	json_decref(reply);
}

static void verify(const struct appliance *a)
{
	char signature[100];

	sign_text(a, a->challenge, signature);
	verify_with(a->id, signature, 200, "awaiting_approval");
}

static void decide(const char *what, const char *id, long status, const char *sentence)
{
	char path[200];

	snprintf(path, sizeof(path), ADMIN "/%s/%s", what, id);
	if (status == 200)
		just("POST", path, "{\"reason\":\"so be it\"}", status);
	else
		refuse("POST", path, NULL, status, sentence);
}

/* The answer is the caller's. */
static json_t *result(const char *id, const char *status)
{
	char path[200];
	json_t *reply;

	snprintf(path, sizeof(path), ENROLL "/result?enrollment_id=%s", id);
	reply = stranger("GET", path, NULL, 200);
	if (strcmp(text_of(reply, "status"), status))
		fail_msg("%s is %s, not %s", id, text_of(reply, "status"), status);
	return reply;
}

static void is_now(const char *id, const char *status)
{
	json_decref(result(id, status));
}

/* --- the tunnel's keys ------------------------------------------------------------------------ */

static const char *keys_path(void)
{
	static char path[400];

	snprintf(path, sizeof(path), "%s/data/tunnel/authorized_keys", rig.dir);
	return path;
}

static const char *keys_text(void)
{
	static char text[8192];
	FILE *f = fopen(keys_path(), "r");
	size_t n;

	assert_non_null(f);
	n = fread(text, 1, sizeof(text) - 1, f);
	text[n] = '\0';
	fclose(f);
	return text;
}

static int setup(void **state)
{
	apirig_setup(state);
	hub_tunnel_open(rig.hub, "127.0.0.1:8082");
	return 0;
}

/* --- the good way ----------------------------------------------------------------------------- */

static void an_appliance_is_let_in(void **state)
{
	struct appliance a;
	struct stat st;
	json_t *reply, *row;
	char expected[400];
	const char *nbd = strrchr(rig.nbd, ':') + 1;

	(void)state;
	assert_null(strstr(keys_text(), "ssh-ed25519"));
	appliance_make(&a);
	enroll(&a, "vma 1");
	reply = result(a.id, "pending_verification");
	assert_string_equal(text_of(reply, "ssh_user"), "");
	assert_string_equal(text_of(reply, "ssh_options"), "");
	json_decref(reply);
	reply = ask("GET", ADMIN "/pending", NULL, 200);
	assert_int_equal(number_of(reply, "count"), 0);
	json_decref(reply);
	verify(&a);
	is_now(a.id, "awaiting_approval");
	reply = ask("GET", ADMIN "/pending", NULL, 200);
	row = json_array_get(json_object_get(reply, "enrollments"), 0);
	assert_string_equal(text_of(row, "id"), a.id);
	assert_string_equal(text_of(row, "vma_name"), "vma 1");
	assert_string_equal(text_of(row, "vma_version"), "v2.20.1");
	assert_string_equal(text_of(row, "vma_public_key"), a.key);
	assert_string_equal(text_of(row, "vma_ip_address"), "127.0.0.1");
	/* The hub's own, whatever the appliance said. */
	assert_int_equal(strlen(text_of(row, "vma_fingerprint")), SSH_FINGERPRINT_SIZE - 1);
	json_decref(reply);
	assert_null(strstr(keys_text(), "ssh-ed25519"));

	decide("approve", a.id, 200, "");
	reply = result(a.id, "approved");
	assert_string_equal(text_of(reply, "ssh_user"), "vma_tunnel");
	assert_non_null(strstr(text_of(reply, "ssh_options"), "-p 443 -N -o Compression=no"));
	assert_non_null(strstr(text_of(reply, "ssh_options"), "-L 127.0.0.1:8082:127.0.0.1:8082"));
	assert_non_null(strstr(text_of(reply, "ssh_options"), "-R 127.0.0.1:"));
	json_decref(reply);
	snprintf(expected, sizeof(expected),
		 "\nrestrict,port-forwarding,command=\"/usr/sbin/"
		 "nologin\",permitopen=\"127.0.0.1:8082\",permitopen=\"localhost:"
		 "8082\",permitopen=\"127.0.0.1:%s\",permitopen=\"localhost:%s\",permitlisten=\"",
		 nbd, nbd);
	if (!strstr(keys_text(), expected))
		fail_msg("%s is not in %s", expected, keys_text());
	snprintf(expected, sizeof(expected), "\" %s %s\n", a.key, a.id);
	assert_non_null(strstr(keys_text(), expected));
	assert_int_equal(stat(keys_path(), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	/* sshd's own tools read it. */
	assert_int_equal(scratch_run("ssh-keygen -lf '%s' >/dev/null", keys_path()), 0);
	reply = ask("GET", ADMIN "/active", NULL, 200);
	assert_int_equal(number_of(reply, "count"), 1);
	json_decref(reply);

	decide("revoke", a.id, 200, "");
	is_now(a.id, "revoked");
	assert_null(strstr(keys_text(), "ssh-ed25519"));
	reply = ask("GET", ADMIN "/active", NULL, 200);
	assert_int_equal(number_of(reply, "count"), 0);
	json_decref(reply);
	appliance_free(&a);
}

/* --- codes ------------------------------------------------------------------------------------ */

static void a_code_that_is_not_good_is_refused(void **state)
{
	char code[HUB_PAIRING_CODE_SIZE], other[HUB_PAIRING_CODE_SIZE], *dump;
	struct appliance a;
	json_t *reply;

	(void)state;
	appliance_make(&a);
	json_decref(try_enroll("", a.key, "vma", 400));
	json_decref(try_enroll("ABCD-EFGH-JKMN", a.key, "vma", 401));
	json_decref(try_enroll("ABCD-EFGH-JKM", a.key, "vma", 401));
	json_decref(try_enroll("ABCD-EFGH-JKMNP", a.key, "vma", 401));
	json_decref(try_enroll("' OR 1=1 --", a.key, "vma", 401));
	pairing_code("{\"valid_for\":10}", code);
	pairing_code(NULL, other);
	assert_string_not_equal(code, other);
	dump = tmpdb_dump(&rig.db, NULL);
	assert_null(strstr(dump, code));
	free(dump);
	tmpdb_sql(&rig.db, "UPDATE appliance_pairings SET expires_at = created_at WHERE"
			   " expires_at - created_at < 300000000");
	reply = try_enroll(code, a.key, "vma", 401);
	assert_non_null(strstr(text_of(reply, "error"), "has expired"));
	json_decref(reply);
	/* As somebody types it. */
	for (char *p = other; *p; p++)
		*p = *p >= 'A' && *p <= 'Z' ? (char)(*p - 'A' + 'a') : *p;
	memmove(other + 4, other + 5, strlen(other + 5) + 1);
	json_decref(try_enroll(other, a.key, "vma", 200));
	reply = try_enroll(other, a.key, "vma", 401);
	assert_non_null(strstr(text_of(reply, "error"), "was used"));
	json_decref(reply);
	refuse("POST", ADMIN "/pairing-code", "{\"valid_for\":9}", 400, "10 to 86400");
	refuse("POST", ADMIN "/pairing-code", "{\"valid_for\":86401}", 400, "10 to 86400");
	refuse("POST", ADMIN "/pairing-code", "{\"valid_for\":\"1\"}", 400, "valid_for");
	appliance_free(&a);
}

static void what_is_refused_for_another_reason_uses_no_code_up(void **state)
{
	char code[HUB_PAIRING_CODE_SIZE], line[400], name[66];
	struct appliance a;
	json_t *reply;

	(void)state;
	appliance_make(&a);
	pairing_code(NULL, code);
	snprintf(line, sizeof(line), "command=\"sh\" %s", a.key);
	json_decref(try_enroll(code, line, "vma", 400));
	snprintf(line, sizeof(line), "%s x\nssh-rsa AAAA", a.key);
	json_decref(try_enroll(code, line, "vma", 400));
	json_decref(try_enroll(code, "ssh-rsa AAAA", "vma", 400));
	json_decref(try_enroll(code, a.key, "vma\nvma", 400));
	memset(name, 'x', sizeof(name));
	name[65] = '\0';
	json_decref(try_enroll(code, a.key, name, 400));
	stranger_refused("POST", ENROLL, "{}", 400, "pairing_code is missing");
	stranger_refused("POST", ENROLL, "{\"pairing_code\":7}", 400, "pairing_code");
	stranger_refused("POST", ENROLL, "[]", 400, "object");
	name[64] = '\0';
	/* Nothing of a comment is kept. */
	snprintf(line, sizeof(line), "%s \",command=\"sh\" #", a.key);
	reply = try_enroll(code, line, name, 200);
	snprintf(a.id, sizeof(a.id), "%s", text_of(reply, "enrollment_id"));
	snprintf(a.challenge, sizeof(a.challenge), "%s", text_of(reply, "challenge"));
	json_decref(reply);
	verify(&a);
	decide("approve", a.id, 200, "");
	assert_null(strstr(keys_text(), "\"sh\""));
	appliance_free(&a);
}

/* A guess a second comes free: none is left at the end, but for who was held up after it. */
static void use_up_guesses(void)
{
	struct apiclient_reply got;
	bool refused = false;

	while (!refused) {
		apirig_run("POST", VERIFY, "{}", no_headers, &got);
		refused = got.status == 429;
		if (!refused)
			assert_int_equal(got.status, 400);
		else if (!strstr(got.text, "too many enrollments"))
			fail_msg("%s", got.text);
		apiclient_deinit(&got);
	}
}

static void guesses_are_slowed_down(void **state)
{
	struct apiclient_reply got;
	char header[100], *body = enroll_body("ABCD-EFGH-JKMN", "x", "vma");
	bool refused = false;
	struct appliance a;

	(void)state;
	appliance_make(&a);
	for (int i = 0; i < 100 && !refused; i++) {
		apirig_run("POST", ENROLL, body, no_headers, &got);
		refused = got.status == 429;
		if (refused)
			assert_string_equal(
				apiclient_header(&got, "Retry-After", header, sizeof(header)), "1");
		else
			assert_int_equal(got.status, 400);
		apiclient_deinit(&got);
	}
	free(body);
	assert_true(refused);
	use_up_guesses();
	/* Who asks what became of it is not in the way, nor is an administrator. */
	stranger_refused("GET", ENROLL "/result?enrollment_id=x", NULL, 404, "no enrollment x");
	just("GET", ADMIN "/pending", NULL, 200);
	/* Nor does it keep anybody out who has a code, from the same address. */
	use_up_guesses();
	enroll(&a, "vma");
	use_up_guesses();
	verify(&a);
	appliance_free(&a);
}

/* --- signatures ------------------------------------------------------------------------------- */

static void a_key_must_be_the_appliances_own(void **state)
{
	char own[100], others[100], first[100], damaged[100];
	struct appliance a, eve;

	(void)state;
	appliance_make(&a);
	appliance_make(&eve);
	enroll(&a, "vma");
	enroll(&eve, "eve");
	assert_string_not_equal(a.challenge, eve.challenge);
	sign_text(&a, a.challenge, own);
	sign_text(&eve, a.challenge, others);
	sign_text(&a, eve.challenge, first);
	strcpy(damaged, own);
	damaged[10] = damaged[10] == 'A' ? 'B' : 'A';
	verify_with(a.id, others, 401, "was not signed with key");
	verify_with(a.id, first, 401, "was not signed with key");
	verify_with(a.id, damaged, 401, "was not signed with key");
	verify_with(a.id, "simulated_signature", 400, "64 bytes in base64");
	verify_with(a.id, a.challenge, 400, "64 bytes in base64");
	verify_with("enroll-none", own, 404, "no enrollment");
	stranger_refused("POST", VERIFY, "{\"signature\":\"x\"}", 400, "enrollment_id");
	is_now(a.id, "pending_verification");
	verify_with(a.id, own, 200, "awaiting_approval");
	/* Once is enough: the same signature again is a replay. */
	verify_with(a.id, own, 409, "not open any more");
	/* And for another enrollment of the same key it is worth nothing. */
	enroll(&a, "vma again");
	verify_with(a.id, own, 401, "was not signed with key");
	appliance_free(&a);
	appliance_free(&eve);
}

/* --- decisions -------------------------------------------------------------------------------- */

static void decisions_come_in_their_order(void **state)
{
	struct appliance a, b;
	char signature[100], path[200];

	(void)state;
	appliance_make(&a);
	appliance_make(&b);
	enroll(&a, "a");
	decide("approve", a.id, 409, "is pending_verification: it cannot be approved");
	decide("revoke", a.id, 409, "cannot be revoked");
	decide("reject", a.id, 200, "");
	is_now(a.id, "rejected");
	sign_text(&a, a.challenge, signature);
	verify_with(a.id, signature, 409, "is rejected");
	decide("approve", a.id, 409, "is rejected");
	assert_null(strstr(keys_text(), "ssh-ed25519"));
	decide("approve", "enroll-none", 404, "no enrollment");

	enroll(&b, "b");
	verify(&b);
	tmpdb_sql(&rig.db, "UPDATE appliance_enrollments SET expires_at = 1 WHERE id = '%s'", b.id);
	is_now(b.id, "expired");
	decide("approve", b.id, 409, "is expired");
	enroll(&b, "b");
	verify(&b);
	decide("approve", b.id, 200, "");
	decide("approve", b.id, 409, "is approved");
	decide("reject", b.id, 409, "cannot be rejected");
	/* The same key is approved once. */
	strcpy(a.id, b.id);
	enroll(&b, "b again");
	verify(&b);
	decide("approve", b.id, 409, a.id);
	snprintf(path, sizeof(path), ADMIN "/revoke/%s", a.id);
	just("DELETE", path, NULL, 200);
	assert_null(strstr(keys_text(), "ssh-ed25519"));
	decide("approve", b.id, 200, "");
	assert_non_null(strstr(keys_text(), b.id));
	refuse("POST", path, "{\"reason\":\"two\\nlines\"}", 400, "a line");
	stranger_refused("GET", ENROLL "/result", NULL, 400, "enrollment_id is missing");
	appliance_free(&a);
	appliance_free(&b);
}

static void the_file_is_made_of_the_catalog(void **state)
{
	struct appliance a, b;
	struct err err = ERR_INIT;

	(void)state;
	appliance_make(&a);
	appliance_make(&b);
	enroll(&a, "a");
	verify(&a);
	decide("approve", a.id, 200, "");
	enroll(&b, "b");
	verify(&b);
	decide("approve", b.id, 200, "");
	assert_int_equal(scratch_run("echo 'ssh-ed25519 AAAA intruder' >>'%s'", keys_path()), 0);
	rig_must(hub_tunnel_sync(rig.hub, &err), &err, "sync");
	assert_null(strstr(keys_text(), "intruder"));
	assert_int_equal(scratch_run("chmod 644 '%s'", keys_path()), 0);
	rig_must(hub_tunnel_sync(rig.hub, &err), &err, "sync");
	assert_int_equal(scratch_run("test $(stat -c %%a '%s') = 600", keys_path()), 0);
	assert_int_equal(scratch_run("rm '%s'", keys_path()), 0);
	/* A key that was damaged in the catalog lets nobody in, and the others still. */
	tmpdb_sql(&rig.db,
		  "UPDATE appliance_enrollments SET public_key = 'ssh-rsa AAAA', approved_key = 'x'"
		  " WHERE id = '%s'",
		  a.id);
	rig_must(hub_tunnel_sync(rig.hub, &err), &err, "sync");
	assert_null(strstr(keys_text(), a.id));
	assert_non_null(strstr(keys_text(), b.id));
	/* And there again after a restart, before anybody asks. */
	apirig_stop();
	assert_int_equal(scratch_run("rm '%s'", keys_path()), 0);
	apirig_start();
	hub_tunnel_open(rig.hub, "127.0.0.1:8082");
	assert_non_null(strstr(keys_text(), b.id));
	/* What cannot be written is said, and the decision stands. */
	assert_int_equal(scratch_run("mv '%s' '%s.kept' && mkdir -p '%s/x'", keys_path(),
				     keys_path(), keys_path()),
			 0);
	decide("revoke", b.id, 500, "could not be written");
	is_now(b.id, "revoked");
	assert_int_equal(scratch_run("rm -r '%s'", keys_path()), 0);
	rig_must(hub_tunnel_sync(rig.hub, &err), &err, "sync");
	assert_null(strstr(keys_text(), b.id));
	appliance_free(&a);
	appliance_free(&b);
}

/* --- the record ------------------------------------------------------------------------------- */

static void all_of_it_is_in_the_audit_log(void **state)
{
	struct appliance a;
	json_t *reply, *entry;

	(void)state;
	appliance_make(&a);
	enroll(&a, "vma");
	verify(&a);
	decide("approve", a.id, 200, "");
	json_decref(try_enroll("ABCD-EFGH-JKMN", a.key, "vma", 401));
	just("POST", "/api/v1/users", "{\"name\":\"ann\",\"role\":\"viewer\"}", 201);
	reply = ask("GET", ADMIN "/audit", NULL, 200);
	assert_int_equal(number_of(reply, "total"), 5);
	entry = json_array_get(json_object_get(reply, "entries"), 0);
	assert_string_equal(text_of(entry, "action"), "POST " ENROLL);
	assert_string_equal(text_of(entry, "outcome"), "denied");
	assert_string_equal(text_of(entry, "user_name"), "(appliance at 127.0.0.1)");
	entry = json_array_get(json_object_get(reply, "entries"), 1);
	assert_string_equal(text_of(entry, "action"), "POST " ADMIN "/approve/{enrollment_id}");
	assert_string_equal(text_of(entry, "user_name"), "admin");
	entry = json_array_get(json_object_get(reply, "entries"), 3);
	assert_string_equal(text_of(entry, "action"), "POST " ENROLL);
	assert_string_equal(text_of(entry, "outcome"), "allowed");
	assert_string_equal(text_of(json_object_get(entry, "detail"), "id"), a.id);
	json_decref(reply);
	reply = ask("GET", ADMIN "/audit?outcome=denied", NULL, 200);
	assert_int_equal(number_of(reply, "total"), 1);
	json_decref(reply);
	assert_int_equal(tmpdb_i64(&rig.db, "SELECT COUNT(*) FROM audit_log WHERE detail LIKE"
					    " '%%ABCD-EFGH%%'"),
			 0);
	appliance_free(&a);
}

/* --- login ------------------------------------------------------------------------------------ */

static void login_body(const char *appliance, const char *token, char body[400])
{
	snprintf(body, 400, "{\"appliance_id\":\"%s\",\"token\":\"%s\",\"version\":\"1.0.0\"}",
		 appliance, token);
}

static void refuse_login(const char *appliance, const char *token, const char *sentence)
{
	char body[400];

	login_body(appliance, token, body);
	stranger_refused("POST", "/api/v1/auth/login", body, 401, sentence);
}

static void log_in(const char *appliance, const char *token, char session[HUB_TOKEN_SIZE])
{
	char body[400];
	json_t *reply;

	login_body(appliance, token, body);
	reply = stranger("POST", "/api/v1/auth/login", body, 200);
	assert_true(json_is_true(json_object_get(reply, "success")));
	assert_int_equal(strlen(text_of(reply, "session_token")), HUB_TOKEN_SIZE - 1);
	assert_int_equal(strncmp(text_of(reply, "expires_at"), "20", 2), 0);
	snprintf(session, HUB_TOKEN_SIZE, "%s", text_of(reply, "session_token"));
	json_decref(reply);
}

/* The status of a call with this token. */
static long call_with(const char *token, const char *method, const char *path, const char *body,
		      json_t **out)
{
	char line[APIRIG_BEARER_SIZE];
	const char *headers[] = {line, NULL};
	struct apiclient_reply got;
	long status;

	snprintf(line, sizeof(line), "Authorization: Bearer %s", token);
	apirig_run(method, path, body, headers, &got);
	if (out)
		*out = json_loadb(got.text, got.len, 0, NULL);
	status = got.status;
	apiclient_deinit(&got);
	return status;
}

#define INVENTORY "/api/v1/vms/inventory"
#define NO_VMS	  "{\"vcenter\":{\"host\":\"vc1\"},\"vms\":[]}"

static void an_appliance_logs_in(void **state)
{
	char token[HUB_TOKEN_SIZE], viewer[HUB_TOKEN_SIZE], session[HUB_TOKEN_SIZE];
	char path[200];

	(void)state;
	rig_make_token(&rig, "vma-001", CATALOG_ROLE_AGENT, "", token);
	rig_make_token(&rig, "vma-002", CATALOG_ROLE_VIEWER, "", viewer);
	refuse_login("vma-001", "sdn_guess", "no token of a hub");
	refuse_login("vma-009", token, "is that of appliance vma-001");
	refuse_login("vma-002", viewer, "has the role viewer");
	stranger_refused("POST", "/api/v1/auth/login", "{\"appliance_id\":\"vma-001\"}", 400,
			 "token is missing");
	log_in("vma-001", token, session);
	assert_int_equal(call_with(session, "POST", INVENTORY, NO_VMS, NULL), 200);
	assert_int_equal(call_with(session, "GET", "/api/v1/vm-contexts", NULL, NULL), 403);
	refuse_login("vma-001", session, "a session logs nobody in");
	/* It is a token that expires, ... */
	assert_int_equal(tmpdb_i64(&rig.db, "SELECT COUNT(*) FROM api_tokens WHERE parent_id IS NOT"
					    " NULL AND expires_at - created_at BETWEEN"
					    " 86100000000 AND 86401000000"),
			 1);
	tmpdb_sql(&rig.db, "UPDATE api_tokens SET expires_at = 1 WHERE parent_id IS NOT NULL");
	assert_int_equal(call_with(session, "POST", INVENTORY, NO_VMS, NULL), 401);
	/* ... and with the token it was made with. */
	log_in("vma-001", token, session);
	assert_int_equal(call_with(session, "POST", INVENTORY, NO_VMS, NULL), 200);
	snprintf(path, sizeof(path), "/api/v1/tokens/%s",
		 tmpdb_text(&rig.db, "SELECT parent_id FROM api_tokens WHERE parent_id IS NOT"
				     " NULL"));
	just("DELETE", path, NULL, 200);
	assert_int_equal(call_with(session, "POST", INVENTORY, NO_VMS, NULL), 401);
	refuse_login("vma-001", token, "was revoked");
}

/* A token that is good is none to fill the catalog with. */
static void logging_in_is_slowed_down(void **state)
{
	char token[HUB_TOKEN_SIZE], other[HUB_TOKEN_SIZE], session[HUB_TOKEN_SIZE], body[200];
	int64_t made;
	int refused = 0;

	(void)state;
	rig_make_token(&rig, "vma-001", CATALOG_ROLE_AGENT, "", token);
	rig_make_token(&rig, "vma-002", CATALOG_ROLE_AGENT, "", other);
	snprintf(body, sizeof(body), "{\"appliance_id\":\"vma-001\",\"token\":\"%s\"}", token);
	for (int i = 0; i < 400 && !refused; i++)
		refused = call_with("", "POST", "/api/v1/auth/login", body, NULL) == 429;
	assert_true(refused);
	made = tmpdb_i64(&rig.db, "SELECT COUNT(*) FROM audit_log WHERE outcome = 'allowed' AND"
				  " action = 'POST /api/v1/auth/login'");
	assert_true(made >= 30);
	log_in("vma-002", other, session);
	assert_int_equal(call_with(session, "POST", INVENTORY, NO_VMS, NULL), 200);
}

static void a_session_lasts_no_longer_than_its_token(void **state)
{
	char token[HUB_TOKEN_SIZE], session[HUB_TOKEN_SIZE];

	(void)state;
	rig_make_token(&rig, "vma-001", CATALOG_ROLE_AGENT, "[\"agent:vms\"]", token);
	tmpdb_sql(&rig.db,
		  "UPDATE api_tokens SET expires_at = created_at + 60000000 WHERE user_id ="
		  " (SELECT id FROM users WHERE name = 'vma-001')");
	log_in("vma-001", token, session);
	assert_int_equal(tmpdb_i64(&rig.db, "SELECT COUNT(*) FROM api_tokens s JOIN api_tokens p ON"
					    " p.id = s.parent_id AND p.expires_at = s.expires_at"),
			 1);
	/* Nor may it do more. */
	assert_int_equal(call_with(session, "POST", INVENTORY, NO_VMS, NULL), 200);
	assert_int_equal(call_with(session, "POST", "/api/v1/replications", "{}", NULL), 403);
}

static void agents_keep_their_replications(void **state)
{
	char token[HUB_TOKEN_SIZE], session[HUB_TOKEN_SIZE], path[200];
	json_t *job;

	(void)state;
	hubrig_add_repository(&rig);
	hubrig_add_vm(&rig, &vm);
	rig_make_token(&rig, "vma-001", CATALOG_ROLE_AGENT, "", token);
	log_in("vma-001", token, session);
	assert_int_equal(call_with(session, "POST", "/api/v1/replications",
				   "{\"vm_name\":\"pgtest1\"}", &job),
			 201);
	snprintf(path, sizeof(path), "/api/v1/replications/%s", text_of(job, "id"));
	json_decref(job);
	assert_int_equal(call_with(session, "PUT", path, "{\"status\":\"completed\"}", NULL), 200);
	assert_int_equal(call_with(session, "DELETE", path, NULL, NULL), 200);
	assert_int_equal(call_with(session, "GET", path, NULL, NULL), 403);
	assert_int_equal(tmpdb_i64(&rig.db, "SELECT COUNT(*) FROM audit_log WHERE user_name ="
					    " 'vma-001' AND action = 'POST /api/v1/replications'"),
			 1);
}

/* --- inventory -------------------------------------------------------------------------------- */

static void an_inventory_refreshes_what_is_known_and_adds_nothing(void **state)
{
	char token[HUB_TOKEN_SIZE], session[HUB_TOKEN_SIZE], *text;
	json_t *reply, *known, *fresh, *bare, *odd, *body;

	(void)state;
	hubrig_add_repository(&rig);
	hubrig_add_vm(&rig, &vm);
	rig_make_token(&rig, "vma-001", CATALOG_ROLE_AGENT, "", token);
	log_in("vma-001", token, session);
	known = rig_describe(&vm);
	json_object_set_new(known, "name", json_string("renamed"));
	json_object_del(known, "num_cpu");
	json_object_set_new(known, "cpus", json_integer(6));
	fresh = json_deep_copy(known);
	json_object_set_new(fresh, "id", json_string("vm-999"));
	body = json_pack("{s:s,s:s,s:{s:s,s:s},s:[O,o],s:s}", "appliance_id", "vma-001",
			 "datacenter", "dc1", "vcenter", "host", "vc1", "datacenter", "dc1", "vms",
			 known, fresh, "timestamp", "2026-01-01T00:00:00Z");
	text = json_dumps(body, 0);
	assert_int_equal(call_with(session, "POST", INVENTORY, text, &reply), 200);
	free(text);
	assert_int_equal(number_of(reply, "vm_count"), 2);
	assert_int_equal(number_of(reply, "refreshed"), 1);
	assert_int_equal(number_of(reply, "unknown"), 1);
	assert_int_equal(number_of(reply, "failed"), 0);
	json_decref(reply);
	assert_int_equal(tmpdb_i64(&rig.db, "SELECT COUNT(*) FROM vm_replication_contexts"), 1);
	assert_int_equal(tmpdb_i64(&rig.db, "SELECT COUNT(*) FROM vm_replication_contexts WHERE"
					    " vm_name = 'renamed' AND cpu_count = 6"),
			 1);
	assert_int_equal(tmpdb_i64(&rig.db, "SELECT COUNT(*) FROM vm_disks WHERE missing = 0"), 2);

	/* One without disks loses none, one that is odd is left alone; neither spoils the rest. */
	bare = json_deep_copy(known);
	json_object_set_new(bare, "disks", json_null());
	odd = json_deep_copy(known);
	json_object_set_new(json_array_get(json_object_get(odd, "disks"), 0), "id",
			    json_string("2000"));
	json_object_set_new(body, "vms", json_pack("[o,o,n]", bare, odd));
	text = json_dumps(body, 0);
	assert_int_equal(call_with(session, "POST", INVENTORY, text, &reply), 200);
	free(text);
	assert_int_equal(number_of(reply, "failed"), 2);
	assert_int_equal(number_of(reply, "unknown"), 1);
	assert_non_null(strstr(text_of(reply, "message"), "without disks"));
	json_decref(reply);
	assert_int_equal(tmpdb_i64(&rig.db, "SELECT COUNT(*) FROM vm_disks WHERE missing = 0"), 2);

	/* A list as long as it may be stores a VM once. */
	bare = json_deep_copy(known);
	json_object_set_new(bare, "cpus", json_integer(8));
	json_object_set_new(body, "vms", json_pack("[o,o]", known, bare));
	text = json_dumps(body, 0);
	assert_int_equal(call_with(session, "POST", INVENTORY, text, &reply), 200);
	free(text);
	assert_int_equal(number_of(reply, "refreshed"), 1);
	assert_int_equal(number_of(reply, "failed"), 1);
	assert_non_null(strstr(text_of(reply, "message"), "more than once"));
	json_decref(reply);
	assert_int_equal(tmpdb_i64(&rig.db, "SELECT COUNT(*) FROM vm_replication_contexts WHERE"
					    " cpu_count = 6"),
			 1);

	json_object_set_new(body, "appliance_id", json_string("vma-002"));
	text = json_dumps(body, 0);
	assert_int_equal(call_with(session, "POST", INVENTORY, text, NULL), 400);
	free(text);
	json_decref(body);
	assert_int_equal(call_with(session, "POST", INVENTORY, "{\"vcenter\":{},\"vms\":[]}", NULL),
			 400);
	assert_int_equal(call_with(session, "POST", INVENTORY,
				   "{\"vcenter\":{\"host\":\"vc1\"},\"vms\":7}", NULL),
			 400);
	refuse("POST", INVENTORY, NO_VMS, 403, "needs the role agent");
}

/* --- the agents' listener --------------------------------------------------------------------- */

static long by_agents(struct api *agents, const char *token, const char *path, const char *body)
{
	char base[128], line[APIRIG_BEARER_SIZE];
	const char *headers[] = {token ? line : NULL, NULL};
	struct apiclient_call asked = {
		.base = base, .method = "POST", .path = path, .body = body, .headers = headers};
	struct apiclient_reply got;

	snprintf(base, sizeof(base), "http://%s", api_address(agents));
	snprintf(line, sizeof(line), "Authorization: Bearer %s", token ? token : "");
	apiclient_run(&asked, &got);
	apiclient_deinit(&got);
	return got.status;
}

/* The appliance has no other way than its tunnel, which ends there. */
static void behind_the_tunnel_an_appliance_needs_its_token(void **state)
{
	const struct api_config config = {.listen = "127.0.0.1:0", .for_agents = true};
	char token[HUB_TOKEN_SIZE], session[HUB_TOKEN_SIZE], admin[HUB_TOKEN_SIZE], body[400];
	struct err err = ERR_INIT;
	struct api *agents = NULL;

	(void)state;
	rig_make_token(&rig, "vma-001", CATALOG_ROLE_AGENT, "", token);
	rig_token(&rig, "/", admin);
	rig_must(api_start(&agents, rig.hub, &config, &err), &err, "agents");
	login_body("vma-001", token, body);
	assert_int_equal(by_agents(agents, NULL, "/api/v1/auth/login", body), 200);
	log_in("vma-001", token, session);
	assert_int_equal(by_agents(agents, session, INVENTORY, NO_VMS), 200);
	assert_int_equal(by_agents(agents, NULL, INVENTORY, NO_VMS), 401);
	assert_int_equal(by_agents(agents, NULL, "/api/v1/replications", "{}"), 401);
	assert_int_equal(by_agents(agents, session, "/api/v1/replications", "{}"), 400);
	/* An administrator is none there. */
	assert_int_equal(by_agents(agents, admin, "/api/v1/replications", "{}"), 403);
	/* Who is behind it is enrolled. */
	assert_int_equal(by_agents(agents, NULL, ENROLL, "{}"), 404);
	api_stop(agents);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, apirig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(an_appliance_is_let_in),
		T(a_code_that_is_not_good_is_refused),
		T(what_is_refused_for_another_reason_uses_no_code_up),
		T(guesses_are_slowed_down),
		T(a_key_must_be_the_appliances_own),
		T(decisions_come_in_their_order),
		T(the_file_is_made_of_the_catalog),
		T(all_of_it_is_in_the_audit_log),
		T(an_appliance_logs_in),
		T(logging_in_is_slowed_down),
		T(a_session_lasts_no_longer_than_its_token),
		T(agents_keep_their_replications),
		T(an_inventory_refreshes_what_is_known_and_adds_nothing),
		T(behind_the_tunnel_an_appliance_needs_its_token),
	};

	curl_global_init(CURL_GLOBAL_DEFAULT);
	return tmpdb_run_tests("api/appliances", tests, NULL, NULL);
}
