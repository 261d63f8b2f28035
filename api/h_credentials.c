/* Credentials of vCenters: kept by the hub, named by id, never shown. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "api/json.h"
#include "api/routes.h"
#include "base/bytes.h"
#include "hub/credentials.h"

#define CRED struct catalog_credential
static const struct api_json_member credential_members[] = {
	API_I64(CRED, id),
	API_TEXT(CRED, name),
	API_AS("vcenter_host", TEXT, CRED, host, .what = "empty: for any"),
	API_TEXT(CRED, username),
	API_TEXT(CRED, datacenter),
	API_BOOL(CRED, is_default),
	API_TEXT(CRED, key_id, .what = "the key its password is encrypted with"),
	API_I64(CRED, vm_count, .what = "VM contexts that use it"),
	API_AS("created_at", TIME, CRED, created_at_us),
	API_AS("updated_at", TIME, CRED, updated_at_us),
};
static const struct api_shape credential_shape = API_SHAPE("Credential", credential_members);

struct credential_body {
	char name[CATALOG_NAME_SIZE];
	char credential_name[CATALOG_NAME_SIZE];
	char vcenter_host[CATALOG_NAME_SIZE];
	char username[CATALOG_NAME_SIZE];
	char password[HUB_PASSWORD_SIZE];
	char datacenter[CATALOG_NAME_SIZE];
	bool is_default;
};

#define BODY struct credential_body
static const struct api_json_member create_members[] = {
	API_TEXT(BODY, name),
	API_TEXT(BODY, credential_name, .what = "another word for name"),
	API_TEXT(BODY, vcenter_host),
	API_TEXT(BODY, username, .required = true),
	API_TEXT(BODY, password, .required = true),
	API_TEXT(BODY, datacenter),
	API_BOOL(BODY, is_default),
};
static const struct api_shape create_shape = API_SHAPE("CredentialCreate", create_members);

static const struct api_json_member change_members[] = {
	API_TEXT(BODY, name),
	API_TEXT(BODY, credential_name, .what = "another word for name"),
	API_TEXT(BODY, vcenter_host),
	API_TEXT(BODY, username),
	API_TEXT(BODY, password, .what = "needed when vcenter_host or username changes"),
	API_TEXT(BODY, datacenter),
	API_BOOL(BODY, is_default),
};
static const struct api_shape change_shape = API_SHAPE("CredentialChange", change_members);

static int take_body(const struct api_request *req, const struct api_shape *shape, BODY *body,
		     struct err *err)
{
	int rc;

	*body = (BODY){.name = ""};
	rc = api_json_decode(req->body, shape->members, shape->member_count, body, err);
	if (!rc && !body->name[0])
		strcpy(body->name, body->credential_name);
	return rc;
}

static int take_id(const struct api_request *req, int64_t *id, struct err *err)
{
	const char *text = req->args[0];
	char *end;

	errno = 0;
	*id = strtoll(text, &end, 10);
	if (*end || errno || *id < 1)
		return err_set(err, HUB_E_NOT_FOUND, "there is no credential \"%.40s\"", text);
	return 0;
}

static int answer_credential(struct api_request *req, int64_t id, struct err *err)
{
	struct catalog_credential row;
	int rc = hub_from_catalog(catalog_credential_get(hub_catalog(req->hub), id, &row, err));

	if (!rc)
		req->answer =
			api_json_encode(credential_members, ARRAY_SIZE(credential_members), &row);
	return rc;
}

/* --- create, list, get ---------------------------------------------------------------------- */

static int post_credential(struct api_request *req, struct err *err)
{
	struct catalog_credential row = {.id = 0};
	BODY body;
	int rc = take_body(req, &create_shape, &body, err);

	if (!rc) {
		CATALOG_TEXT(row.name, body.name);
		CATALOG_TEXT(row.host, body.vcenter_host);
		CATALOG_TEXT(row.username, body.username);
		CATALOG_TEXT(row.datacenter, body.datacenter);
		row.is_default = body.is_default;
		rc = hub_credential_create(req->hub, &row, body.password, err);
	}
	explicit_bzero(&body, sizeof(body));
	return rc ? rc : answer_credential(req, row.id, err);
}

static int get_credentials(struct api_request *req, struct err *err)
{
	_cleanup_(freep) struct catalog_credential *rows = NULL;
	json_t *list;
	size_t n = 0;
	int rc = catalog_credentials_list(hub_catalog(req->hub), &rows, &n, err);

	if (rc)
		return hub_from_catalog(rc);
	list = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(list,
				      api_json_encode(credential_members,
						      ARRAY_SIZE(credential_members), &rows[i]));
	req->answer = json_pack("{s:o,s:I}", "credentials", list, "total", (json_int_t)n);
	return 0;
}

static int get_credential(struct api_request *req, struct err *err)
{
	int64_t id;
	int rc = take_id(req, &id, err);

	return rc ? rc : answer_credential(req, id, err);
}

static int get_default(struct api_request *req, struct err *err)
{
	struct catalog_credential row;
	int rc = hub_from_catalog(catalog_credential_get_default(hub_catalog(req->hub), &row, err));

	return rc ? rc : answer_credential(req, row.id, err);
}

/* --- change --------------------------------------------------------------------------------- */

/* What the body names; a text that is there and empty is a change, too. */
static const char *named(const json_t *body, const char *member, const char *value)
{
	return json_is_string(json_object_get(body, member)) ? value : NULL;
}

static int set_default(struct api_request *req, int64_t id, bool on, struct err *err)
{
	return hub_from_catalog(catalog_credential_set_default(hub_catalog(req->hub), id, on, err));
}

static int patch_credential(struct api_request *req, struct err *err)
{
	struct hub_credential_change change;
	int64_t id = 0;
	BODY body;
	int rc = take_body(req, &change_shape, &body, err);

	if (!rc)
		rc = take_id(req, &id, err);
	change = (struct hub_credential_change){
		.name = named(req->body, "name", body.name)
				?: named(req->body, "credential_name", body.name),
		.host = named(req->body, "vcenter_host", body.vcenter_host),
		.username = named(req->body, "username", body.username),
		.datacenter = named(req->body, "datacenter", body.datacenter),
		.password = named(req->body, "password", body.password),
	};
	if (!rc)
		rc = hub_credential_update(req->hub, id, &change, err);
	if (!rc && json_is_boolean(json_object_get(req->body, "is_default")))
		rc = set_default(req, id, body.is_default, err);
	explicit_bzero(&body, sizeof(body));
	return rc ? rc : answer_credential(req, id, err);
}

static int put_default(struct api_request *req, struct err *err)
{
	int64_t id;
	int rc = take_id(req, &id, err);

	if (!rc)
		rc = set_default(req, id, true, err);
	return rc ? rc : answer_credential(req, id, err);
}

static int delete_credential(struct api_request *req, struct err *err)
{
	int64_t id;
	int rc = take_id(req, &id, err);

	if (!rc)
		rc = hub_from_catalog(catalog_credential_delete(hub_catalog(req->hub), id, err));
	if (!rc)
		req->status = API_NO_CONTENT;
	return rc;
}

static int post_test(struct api_request *req, struct err *err)
{
	size_t vms = 0;
	int64_t id;
	int rc = take_id(req, &id, err);

	if (!rc)
		rc = hub_credential_test(req->hub, id, &vms, err);
	if (!rc)
		req->answer = json_pack("{s:b,s:I,s:I}", "success", 1, "id", (json_int_t)id,
					"vms_seen", (json_int_t)vms);
	return rc;
}

static int post_rekey(struct api_request *req, struct err *err)
{
	char key_id[CATALOG_ID_SIZE];
	size_t count = 0;
	int rc = hub_credentials_rekey(req->hub, &count, key_id, err);

	if (!rc)
		req->answer =
			json_pack("{s:s,s:I}", "key_id", key_id, "credentials", (json_int_t)count);
	return rc;
}

/* --- routes --------------------------------------------------------------------------------- */

static const struct api_json_member list_members[] = {
	API_LIST("credentials", &credential_shape),
	API_BY_HAND("total", I64),
};
static const struct api_shape list_shape = API_SHAPE("CredentialList", list_members);

static const struct api_json_member tested_members[] = {
	API_BY_HAND("success", BOOL),
	API_BY_HAND("id", I64),
	API_BY_HAND("vms_seen", I64),
};
static const struct api_shape tested_shape = API_SHAPE("CredentialTested", tested_members);

static const struct api_json_member rekeyed_members[] = {
	API_BY_HAND("key_id", TEXT),
	API_BY_HAND("credentials", I64, .what = "how many were encrypted anew"),
};
static const struct api_shape rekeyed_shape = API_SHAPE("CredentialsRekeyed", rekeyed_members);

#define ONE "/api/v1/vmware-credentials/{credential_id}"

static const struct api_route credential_routes[] = {
	API_ROUTE(POST, "/api/v1/vmware-credentials", post_credential, ADMIN,
		  "Store a login; its password is encrypted and never shown again", .creates = true,
		  .takes = &create_shape, .gives = &credential_shape, .status = 201),
	API_ROUTE(GET, "/api/v1/vmware-credentials", get_credentials, OPERATOR,
		  "List logins, without their passwords", .gives = &list_shape),
	API_ROUTE(GET, "/api/v1/vmware-credentials/default", get_default, OPERATOR,
		  "The login used where none is named", .gives = &credential_shape),
	API_ROUTE(POST, "/api/v1/vmware-credentials/rekey", post_rekey, ADMIN,
		  "Make a new key and encrypt all passwords with it", .gives = &rekeyed_shape),
	API_ROUTE(GET, ONE, get_credential, OPERATOR, "One login", .gives = &credential_shape),
	API_ROUTE(PATCH, ONE, patch_credential, ADMIN, "Change what is named of a login",
		  .takes = &change_shape, .gives = &credential_shape),
	API_ROUTE(PUT, ONE, patch_credential, ADMIN, "The same as PATCH", .takes = &change_shape,
		  .gives = &credential_shape),
	API_ROUTE(DELETE, ONE, delete_credential, ADMIN, "Delete a login that no VM uses",
		  .status = API_NO_CONTENT),
	API_ROUTE(PUT, ONE "/set-default", put_default, ADMIN,
		  "Make it the one used where none is named", .gives = &credential_shape),
	API_ROUTE(POST, ONE "/set-default", put_default, ADMIN, "The same as PUT",
		  .gives = &credential_shape),
	API_ROUTE(POST, ONE "/test", post_test, OPERATOR,
		  "Log in with it: the agent is asked what it sees", .gives = &tested_shape),
};
const struct api_noun api_credentials_noun =
	API_NOUN("Credentials", "Logins to vCenters.", credential_routes);
