/* The verbs of "user", "token", "audit" and "whoami": who may do what, and what was done. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "tools/ctl.h"
#include "tools/ctl_args.h"
#include "tools/ctl_human.h"
#include "tools/ctl_lookup.h"
#include "tools/ctl_rest.h"
#include "tools/ctl_table.h"

#define USERS	   "/api/v1/users"
#define DAY_S	   (24L * 3600)
#define ROLES_HELP "viewer, operator, admin or agent"

/* --- users ------------------------------------------------------------------------------------ */

static int list_users(struct ctl *ctl, json_t **reply, struct err *err)
{
	const struct ctl_query query[] = {{"limit", "1000"}, {0}};

	return ctl_rest_get(ctl->rest, USERS, NULL, NULL, query, reply, err);
}

/* The id of the user called @name; borrowed from @list, which the caller frees. */
static int find_user(struct ctl *ctl, const char *name, json_t **list, const char **id,
		     struct err *err)
{
	const json_t *user;
	size_t i;
	int res = list_users(ctl, list, err);

	if (res)
		return res;
	json_array_foreach (json_object_get(*list, "users"), i, user) {
		if (strcmp(ctl_text(user, "name"), name) == 0 ||
		    strcmp(ctl_text(user, "id"), name) == 0) {
			*id = ctl_text(user, "id");
			return CTL_OK;
		}
	}
	return err_set(err, CTL_NOT_FOUND, "there is no user %s; see: sendense-ctl user list",
		       name);
}

static void say_user(const struct ctl *ctl, const json_t *reply, const char *what)
{
	char name[200];

	if (ctl->json)
		ctl_print_json(reply);
	else
		printf("user %s %s: %s, %s\n",
		       human_printable(name, sizeof(name), ctl_text(reply, "name")), what,
		       ctl_text(reply, "role"),
		       json_is_true(json_object_get(reply, "enabled")) ? "enabled" : "disabled");
}

static int user_add(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(json_decrefp) json_t *reply = NULL;
	json_t *body =
		json_pack("{s:s, s:s}", "name", args->argv[0], "role", ctl_option(args, "role"));
	int res = ctl_rest_post(ctl->rest, USERS, body, &reply, err);

	if (!res)
		say_user(ctl, reply, "added");
	return res;
}

static int user_list(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	static const char *const columns[] = {"USER",	  "ROLE", "ENABLED", ">TOKENS",
					      "LAST USE", "ID",	  NULL};
	_cleanup_(ctl_table_freep) struct ctl_table *table = ctl_table_new(columns);
	_cleanup_(json_decrefp) json_t *reply = NULL;
	const json_t *user;
	char text[HUMAN_MAX];
	size_t i;
	int res = list_users(ctl, &reply, err);

	(void)args;
	if (res)
		return res;
	if (ctl->json) {
		ctl_print_json(reply);
		return CTL_OK;
	}
	json_array_foreach (json_object_get(reply, "users"), i, user) {
		ctl_table_add(table, ctl_text(user, "name"));
		ctl_table_add(table, ctl_text(user, "role"));
		ctl_table_add(table, json_is_true(json_object_get(user, "enabled")) ? "yes" : "no");
		ctl_table_addf(table, "%" PRIu64, ctl_number(user, "token_count"));
		ctl_table_add(table, human_time(text, ctl_text(user, "last_login_at")));
		ctl_table_add(table, ctl_text(user, "id"));
	}
	return ctl_table_print(table, stdout, err);
}

static int change_user(struct ctl *ctl, const char *name, json_t *body, const char *what,
		       struct err *err)
{
	_cleanup_(json_decrefp) json_t *list = NULL, *reply = NULL;
	const char *id;
	int res = find_user(ctl, name, &list, &id, err);

	if (res)
		json_decref(body);
	else
		res = ctl_rest_send(ctl->rest, "PATCH", USERS, id, NULL, body, &reply, err);
	if (!res)
		say_user(ctl, reply, what);
	return res;
}

static int user_enable(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	return change_user(ctl, args->argv[0], json_pack("{s:b}", "enabled", 1), "enabled", err);
}

static int user_disable(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	return change_user(ctl, args->argv[0], json_pack("{s:b}", "enabled", 0), "disabled", err);
}

static int user_role(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	return change_user(ctl, args->argv[0], json_pack("{s:s}", "role", args->argv[1]), "changed",
			   err);
}

static int user_delete(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(json_decrefp) json_t *list = NULL, *reply = NULL;
	char name[200];
	const char *id;
	int res = find_user(ctl, args->argv[0], &list, &id, err);

	if (!res)
		res = ctl_rest_send(ctl->rest, "DELETE", USERS, id, NULL, NULL, &reply, err);
	if (res)
		return res;
	if (ctl->json)
		ctl_print_json(reply);
	else
		printf("user %s deleted, with all tokens\n",
		       human_printable(name, sizeof(name), args->argv[0]));
	return CTL_OK;
}

const struct ctl_verb ctl_user_verbs[] = {
	{
		.noun = "user",
		.name = "add",
		.operands = "NAME",
		.min_args = 1,
		.max_args = 1,
		.summary = "add a user",
		.detail =
			"A viewer may look, an operator may run backups as well, an admin may do\n"
			"all of it; an agent may do what a capture agent does.",
		.example = "sendense-ctl user add ann --role operator",
		.options = {{"role", "ROLE", ROLES_HELP, true}},
		.run = user_add,
	},
	{
		.noun = "user",
		.name = "list",
		.operands = "",
		.summary = "list the users",
		.example = "sendense-ctl user list",
		.run = user_list,
	},
	{
		.noun = "user",
		.name = "disable",
		.operands = "NAME",
		.min_args = 1,
		.max_args = 1,
		.summary = "make a user's tokens worth nothing, until enabled",
		.example = "sendense-ctl user disable ann",
		.run = user_disable,
	},
	{
		.noun = "user",
		.name = "enable",
		.operands = "NAME",
		.min_args = 1,
		.max_args = 1,
		.summary = "let a disabled user in again",
		.example = "sendense-ctl user enable ann",
		.run = user_enable,
	},
	{
		.noun = "user",
		.name = "role",
		.operands = "NAME ROLE",
		.min_args = 2,
		.max_args = 2,
		.summary = "give a user another role",
		.detail = "ROLE is " ROLES_HELP ".",
		.example = "sendense-ctl user role ann viewer",
		.run = user_role,
	},
	{
		.noun = "user",
		.name = "delete",
		.operands = "NAME",
		.min_args = 1,
		.max_args = 1,
		.summary = "delete a user, with all tokens",
		.example = "sendense-ctl user delete ann",
		.run = user_delete,
	},
	{0},
};

/* --- tokens ----------------------------------------------------------------------------------- */

/* "viewer,operator:backups" as a list; NULL: no memory, or not UTF-8. */
static json_t *scope_list(const char *text)
{
	json_t *list = json_array();

	while (text && *text) {
		size_t len = strcspn(text, ",");

		if (json_array_append_new(list, json_stringn(text, len))) {
			json_decref(list);
			return NULL;
		}
		text += len + (text[len] == ',');
	}
	return list;
}

/* A file nobody else can read, and that was not there. */
static int write_token(const char *path, const char *token, struct err *err)
{
	_cleanup_(closep) int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	size_t len = strlen(token);

	if (fd >= 0 && write(fd, token, len) == (ssize_t)len && write(fd, "\n", 1) == 1)
		return CTL_OK;
	return err_set(err, CTL_FAILED,
		       "the token exists, but could not be written to %s (%s): revoke it, make "
		       "another",
		       path, strerror(errno));
}

static int token_create(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(json_decrefp) json_t *list = NULL, *reply = NULL;
	const char *path = ctl_option(args, "output"), *id;
	unsigned long days = 0;
	json_t *body;
	int res = ctl_option_number(args, "expires-days", 36600, &days, err);

	if (!res && path && access(path, F_OK) == 0)
		res = err_set(err, CTL_USAGE, "%s exists: name another file with --output", path);
	if (!res)
		res = find_user(ctl, ctl_option(args, "user"), &list, &id, err);
	if (res)
		return res;
	body = json_pack("{s:s, s:o}", "name", ctl_option(args, "name"), "scopes",
			 scope_list(ctl_option(args, "scopes")));
	if (body && days)
		json_object_set_new(body, "expires_in_s", json_integer((json_int_t)days * DAY_S));
	res = ctl_rest_post_to(ctl->rest, USERS, id, "/tokens", body, &reply, err);
	if (!res && path)
		res = write_token(path, ctl_text(reply, "token"), err);
	if (res)
		return res;
	if (path)
		json_object_del(reply, "token");
	if (ctl->json) {
		ctl_print_json(reply);
	} else {
		fprintf(stderr, "token %s made; the hub does not tell it again\n",
			ctl_text(reply, "id"));
		if (!path)
			printf("%s\n", ctl_text(reply, "token"));
	}
	return CTL_OK;
}

static void add_scopes(struct ctl_table *table, const json_t *token)
{
	const json_t *scopes = json_object_get(token, "scopes"), *one;
	char text[CTL_TEXT_MAX] = "";
	size_t i;

	json_array_foreach (scopes, i, one) {
		size_t used = strlen(text);

		snprintf(text + used, sizeof(text) - used, "%s%s", i ? "," : "",
			 json_string_value(one) ? json_string_value(one) : "?");
	}
	ctl_table_add_cut(table, text, 40);
}

static int token_list(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	static const char *const columns[] = {"ID",	 "NAME",     "STATE", "SCOPES",
					      "EXPIRES", "LAST USE", NULL};
	_cleanup_(ctl_table_freep) struct ctl_table *table = ctl_table_new(columns);
	_cleanup_(json_decrefp) json_t *list = NULL, *reply = NULL;
	const json_t *token;
	char text[HUMAN_MAX];
	const char *id;
	size_t i;
	int res = find_user(ctl, ctl_option(args, "user"), &list, &id, err);

	if (!res)
		res = ctl_rest_get(ctl->rest, USERS, id, "/tokens", NULL, &reply, err);
	if (res)
		return res;
	if (ctl->json) {
		ctl_print_json(reply);
		return CTL_OK;
	}
	json_array_foreach (json_object_get(reply, "tokens"), i, token) {
		ctl_table_add(table, ctl_text(token, "id"));
		ctl_table_add_cut(table, ctl_text(token, "name"), 30);
		ctl_table_add(table, ctl_text(token, "state"));
		add_scopes(table, token);
		ctl_table_add(table, human_time(text, ctl_text(token, "expires_at")));
		ctl_table_add(table, human_time(text, ctl_text(token, "last_used_at")));
	}
	return ctl_table_print(table, stdout, err);
}

static int token_revoke(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(json_decrefp) json_t *reply = NULL;
	int res = ctl_rest_send(ctl->rest, "DELETE", "/api/v1/tokens", args->argv[0], NULL, NULL,
				&reply, err);

	if (res)
		return res;
	if (ctl->json)
		ctl_print_json(reply);
	else
		printf("token %s of user %s is revoked\n", ctl_text(reply, "id"),
		       ctl_text(reply, "user_name"));
	return CTL_OK;
}

const struct ctl_verb ctl_token_verbs[] = {
	{
		.noun = "token",
		.name = "create",
		.operands = "",
		.summary = "make a token for a user, and tell it this once",
		.detail = "Scopes narrow a token down: ROLE or ROLE:NOUN, the noun being the word\n"
			  "behind /api/v1/ in a path. Without scopes it may do what its user may.",
		.example = "sendense-ctl token create --user ann --name nightly --scopes "
			   "viewer,operator:backups --output nightly.token",
		.options = {{"user", "NAME", "whose token", true},
			    {"name", "TEXT", "what it is for", true},
			    {"scopes", "LIST", "what it may do at most, with commas between",
			     false},
			    {"expires-days", "DAYS", "when it ends (default: never)", false},
			    {"output", "FILE", "write it there, mode 0600, and not to stdout",
			     false}},
		.run = token_create,
	},
	{
		.noun = "token",
		.name = "list",
		.operands = "",
		.summary = "list a user's tokens",
		.example = "sendense-ctl token list --user ann",
		.options = {{"user", "NAME", "whose tokens", true}},
		.run = token_list,
	},
	{
		.noun = "token",
		.name = "revoke",
		.operands = "TOKEN-ID",
		.min_args = 1,
		.max_args = 1,
		.summary = "make a token worth nothing",
		.example = "sendense-ctl token revoke token-01k...",
		.run = token_revoke,
	},
	{0},
};

/* --- audit ------------------------------------------------------------------------------------ */

static int audit_list(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	static const char *const columns[] = {">ENTRY", "TIME",	  "USER",   "OUTCOME",
					      "ACTION", "OBJECT", "REMOTE", NULL};
	_cleanup_(ctl_table_freep) struct ctl_table *table = ctl_table_new(columns);
	_cleanup_(json_decrefp) json_t *reply = NULL;
	unsigned long limit = 50;
	char text[HUMAN_MAX], count[24];
	const json_t *entry;
	size_t i;
	int res = ctl_option_number(args, "limit", 1000, &limit, err);

	if (!res) {
		const struct ctl_query query[] = {{"user_name", ctl_option(args, "user")},
						  {"outcome", ctl_option(args, "outcome")},
						  {"limit", count},
						  {0}};

		snprintf(count, sizeof(count), "%lu", limit);
		res = ctl_rest_get(ctl->rest, "/api/v1/audit", NULL, NULL, query, &reply, err);
	}
	if (res)
		return res;
	if (ctl->json) {
		ctl_print_json(reply);
		return CTL_OK;
	}
	json_array_foreach (json_object_get(reply, "entries"), i, entry) {
		ctl_table_addf(table, "%" PRIu64, ctl_number(entry, "id"));
		ctl_table_add(table, human_time(text, ctl_text(entry, "created_at")));
		ctl_table_add_cut(table, ctl_text(entry, "user_name"), 30);
		ctl_table_add(table, ctl_text(entry, "outcome"));
		ctl_table_add(table, ctl_text(entry, "action"));
		ctl_table_add_cut(table, ctl_text(entry, "object"), 60);
		ctl_table_add(table, ctl_text(entry, "remote"));
	}
	return ctl_table_print(table, stdout, err);
}

static int audit_verify(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(json_decrefp) json_t *reply = NULL;
	const json_t *finding;
	uint64_t count;
	size_t i;
	int res = ctl_rest_get(ctl->rest, "/api/v1/audit/verify", NULL, NULL, NULL, &reply, err);

	(void)args;
	if (res)
		return res;
	count = ctl_number(reply, "finding_count");
	if (ctl->json)
		ctl_print_json(reply);
	else if (!count)
		printf("the audit log is whole: %" PRIu64 " entries, the last hash is %s\n",
		       ctl_number(reply, "entries"), ctl_text(reply, "last_hash"));
	else
		json_array_foreach (json_object_get(reply, "findings"), i, finding)
			printf("%s\n", ctl_text(finding, "problem"));
	if (!count)
		return CTL_OK;
	return err_set(err, CTL_DAMAGED, "the audit log was tampered with: %" PRIu64 " findings",
		       count);
}

const struct ctl_verb ctl_audit_verbs[] = {
	{
		.noun = "audit",
		.name = "list",
		.operands = "",
		.summary = "what was done and what was refused, newest first",
		.example = "sendense-ctl audit list --outcome denied",
		.options = {{"user", "NAME", "of this user alone", false},
			    {"outcome", "WORD", "allowed, denied or failed", false},
			    {"limit", "COUNT", "at most so many (default: 50)", false}},
		.run = audit_list,
	},
	{
		.noun = "audit",
		.name = "verify",
		.operands = "",
		.summary = "check that no entry was changed, removed or moved",
		.detail = "Exit status 6 when something is wrong: each finding names its entry.",
		.example = "sendense-ctl audit verify",
		.run = audit_verify,
	},
	{0},
};

/* --- whoami ----------------------------------------------------------------------------------- */

static int whoami(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(json_decrefp) json_t *reply = NULL;
	int res = ctl_rest_get(ctl->rest, "/api/v1/auth/whoami", NULL, NULL, NULL, &reply, err);

	(void)args;
	if (res)
		return res;
	if (ctl->json)
		ctl_print_json(reply);
	else
		printf("user %s, role %s, by token %s (%s)\n", ctl_text(reply, "user_name"),
		       ctl_text(reply, "role"), ctl_text(reply, "token_id"),
		       ctl_text(reply, "token_name"));
	return CTL_OK;
}

const struct ctl_verb ctl_whoami_verbs[] = {
	{
		.noun = "whoami",
		.operands = "",
		.summary = "whose token this is",
		.example = "sendense-ctl whoami",
		.run = whoami,
	},
	{0},
};
