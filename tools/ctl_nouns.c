/* The verbs of "credential", "policy" and "schedule": logins, where backups go, and when. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "tools/ctl.h"
#include "tools/ctl_args.h"
#include "tools/ctl_human.h"
#include "tools/ctl_lookup.h"
#include "tools/ctl_rest.h"
#include "tools/ctl_table.h"

#define CREDENTIALS "/api/v1/vmware-credentials"
#define POLICIES    "/api/v1/policies"
#define SCHEDULES   "/api/v1/schedules"

#define PASSWORD_MAX 256
#define NUMBER_MAX   1000000UL

/* --- what they share -------------------------------------------------------------------------- */

static void say(const struct ctl *ctl, const json_t *reply, const char *noun, const char *name,
		const char *what)
{
	char text[200];

	if (ctl->json && reply)
		ctl_print_json(reply);
	else if (!ctl->json)
		printf("%s %s %s\n", noun, human_printable(text, sizeof(text), name), what);
}

/* The id of the object in the list @member of @path whose id or name is @name, as text. */
static int find_id(struct ctl *ctl, const char *path, const char *member, const char *name,
		   char id[80], struct err *err)
{
	_cleanup_(json_decrefp) json_t *list = NULL;
	const json_t *row;
	size_t i;
	int res = ctl_rest_get(ctl->rest, path, NULL, NULL, NULL, &list, err);

	if (res)
		return res;
	json_array_foreach (json_object_get(list, member), i, row) {
		const json_t *its = json_object_get(row, "id");

		if (json_is_integer(its))
			snprintf(id, 80, "%lld", (long long)json_integer_value(its));
		else
			snprintf(id, 80, "%s", ctl_text(row, "id"));
		if (!strcmp(id, name) || !strcmp(ctl_text(row, "name"), name))
			return CTL_OK;
	}
	return err_set(err, CTL_NOT_FOUND, "there is none of the %s called \"%s\"", member, name);
}

struct noun {
	const char *path, *member, *word;
};

static const struct noun credential_noun = {CREDENTIALS, "credentials", "credential"};
static const struct noun policy_noun = {POLICIES, "policies", "policy"};
static const struct noun schedule_noun = {SCHEDULES, "schedules", "schedule"};

static int send_to(struct ctl *ctl, const struct noun *noun, const char *method, const char *name,
		   const char *tail, json_t **reply, struct err *err)
{
	char id[80];
	int res = find_id(ctl, noun->path, noun->member, name, id, err);

	return res ? res
		   : ctl_rest_send(ctl->rest, method, noun->path, id, tail,
				   strcmp(method, "DELETE") != 0 ? json_object() : NULL, reply,
				   err);
}

static int remove_one(struct ctl *ctl, const struct noun *noun, const char *name, struct err *err)
{
	_cleanup_(json_decrefp) json_t *reply = NULL;
	int res = send_to(ctl, noun, "DELETE", name, NULL, &reply, err);

	if (!res)
		say(ctl, NULL, noun->word, name, "removed");
	return res;
}

/* --- credentials ------------------------------------------------------------------------------ */

/* The first line of @file, "-": stdin. A password has no business among the arguments, where every
 * user of the machine sees it. */
static int read_password(const char *file, char password[PASSWORD_MAX], struct err *err)
{
	bool own = strcmp(file, "-") != 0;
	FILE *f = own ? fopen(file, "re") : stdin;
	bool got;

	if (!f)
		return err_set(err, CTL_USAGE, "password file %s: %s", file, strerror(errno));
	got = fgets(password, PASSWORD_MAX, f);
	if (own)
		fclose(f);
	if (!got || strlen(password) == PASSWORD_MAX - 1)
		return err_set(err, CTL_USAGE,
			       "password file %s is empty, or its line is longer than %d bytes",
			       file, PASSWORD_MAX - 2);
	password[strcspn(password, "\r\n")] = '\0';
	return CTL_OK;
}

static int credential_add(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(json_decrefp) json_t *reply = NULL;
	char password[PASSWORD_MAX];
	json_t *body;
	int res = read_password(ctl_option(args, "password-file"), password, err);

	if (res)
		return res;
	body = json_pack("{s:s, s:s, s:s, s:s*, s:s*, s:b}", "name", args->argv[0], "username",
			 ctl_option(args, "user"), "password", password, "vcenter_host",
			 ctl_option(args, "vcenter"), "datacenter", ctl_option(args, "datacenter"),
			 "is_default", ctl_option(args, "default") != NULL);
	explicit_bzero(password, sizeof(password));
	res = ctl_rest_post(ctl->rest, CREDENTIALS, body, &reply, err);
	if (!res)
		say(ctl, reply, "credential", args->argv[0], "added");
	return res;
}

static int credential_list(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	static const char *const columns[] = {">ID",	    "CREDENTIAL", "VCENTER", "USER",
					      "DATACENTER", "DEFAULT",	  ">VMS",    NULL};
	_cleanup_(ctl_table_freep) struct ctl_table *table = ctl_table_new(columns);
	_cleanup_(json_decrefp) json_t *reply = NULL;
	const json_t *row;
	size_t i;
	int res = ctl_rest_get(ctl->rest, CREDENTIALS, NULL, NULL, NULL, &reply, err);

	(void)args;
	if (!res && ctl->json)
		ctl_print_json(reply);
	if (res || ctl->json)
		return res;
	json_array_foreach (json_object_get(reply, "credentials"), i, row) {
		ctl_table_addf(table, "%llu", (unsigned long long)ctl_number(row, "id"));
		ctl_table_add(table, ctl_text(row, "name"));
		ctl_table_add(table, ctl_text(row, "vcenter_host"));
		ctl_table_add(table, ctl_text(row, "username"));
		ctl_table_add(table, ctl_text(row, "datacenter"));
		ctl_table_add(table,
			      json_is_true(json_object_get(row, "is_default")) ? "yes" : "no");
		ctl_table_addf(table, "%llu", (unsigned long long)ctl_number(row, "vm_count"));
	}
	return ctl_table_print(table, stdout, err);
}

static int credential_remove(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	return remove_one(ctl, &credential_noun, args->argv[0], err);
}

static int credential_test(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(json_decrefp) json_t *reply = NULL;
	int res = send_to(ctl, &credential_noun, "POST", args->argv[0], "/test", &reply, err);

	if (!res)
		say(ctl, reply, "credential", args->argv[0], "works");
	return res;
}

static int credential_rekey(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(json_decrefp) json_t *reply = NULL;
	int res = ctl_rest_post(ctl->rest, CREDENTIALS "/rekey", json_object(), &reply, err);

	(void)args;
	if (!res && ctl->json)
		ctl_print_json(reply);
	else if (!res)
		printf("%llu credentials are encrypted with key %s; copy the key file anew\n",
		       (unsigned long long)ctl_number(reply, "credentials"),
		       ctl_text(reply, "key_id"));
	return res;
}

const struct ctl_verb ctl_credential_verbs[] = {
	{
		.noun = "credential",
		.name = "add",
		.operands = "NAME",
		.min_args = 1,
		.max_args = 1,
		.summary = "store a login to a vCenter; the password is encrypted",
		.example = "sendense-ctl credential add main --vcenter vc1.example --user backup "
			   "--password-file - <secret",
		.options = {{"user", "NAME", "user name", true},
			    {"password-file", "FILE", "the password is its first line; -: stdin",
			     true},
			    {"vcenter", "HOST", "for this vCenter (default: any)", false},
			    {"datacenter", "NAME", "datacenter to look in", false},
			    {"default", NULL, "use it where none is named", false}},
		.run = credential_add,
	},
	{
		.noun = "credential",
		.name = "list",
		.operands = "",
		.summary = "list the logins, without their passwords",
		.example = "sendense-ctl credential list",
		.run = credential_list,
	},
	{
		.noun = "credential",
		.name = "test",
		.operands = "NAME",
		.min_args = 1,
		.max_args = 1,
		.summary = "let the agent log in with it",
		.example = "sendense-ctl credential test main",
		.run = credential_test,
	},
	{
		.noun = "credential",
		.name = "remove",
		.operands = "NAME",
		.min_args = 1,
		.max_args = 1,
		.summary = "remove a login that no VM uses",
		.example = "sendense-ctl credential remove main",
		.run = credential_remove,
	},
	{
		.noun = "credential",
		.name = "rekey",
		.operands = "",
		.summary = "make a new key and encrypt all passwords with it",
		.example = "sendense-ctl credential rekey",
		.run = credential_rekey,
	},
	{0},
};

/* --- policies --------------------------------------------------------------------------------- */

static int set_number(const struct ctl_args *args, const char *option, json_t *body,
		      const char *member, struct err *err)
{
	unsigned long value = 0;
	int res = ctl_option_number(args, option, NUMBER_MAX, &value, err);

	if (!res && ctl_option(args, option))
		json_object_set_new(body, member, json_integer((json_int_t)value));
	return res;
}

static int policy_add(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	static const struct {
		const char *option, *member;
	} keeps[] = {{"keep-days", "keep_days"},       {"keep-last", "keep_last"},
		     {"keep-daily", "keep_daily"},     {"keep-weekly", "keep_weekly"},
		     {"keep-monthly", "keep_monthly"}, {"keep-yearly", "keep_yearly"}};
	_cleanup_(json_decrefp) json_t *list = NULL, *reply = NULL;
	const json_t *repo;
	json_t *body;
	int res = ctl_find_repository(ctl, ctl_option(args, "repo"), &list, &repo, err);

	if (res)
		return res;
	body = json_pack("{s:s, s:s}", "name", args->argv[0], "primary_repository_id",
			 ctl_text(repo, "id"));
	for (size_t i = 0; !res && i < sizeof(keeps) / sizeof(keeps[0]); i++)
		res = set_number(args, keeps[i].option, body, keeps[i].member, err);
	if (res)
		json_decref(body);
	else
		res = ctl_rest_post(ctl->rest, POLICIES, body, &reply, err);
	if (!res)
		say(ctl, reply, "policy", args->argv[0], "added");
	return res;
}

static int policy_list(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	static const char *const columns[] = {"POLICY",	 "ENABLED", ">DAYS",	">LAST",
					      ">DAILY",	 ">WEEKLY", ">MONTHLY", ">YEARLY",
					      ">COPIES", ">VMS",    "ID",	NULL};
	static const char *const numbers[] = {"keep_days",   "keep_last",    "keep_daily",
					      "keep_weekly", "keep_monthly", "keep_yearly"};
	_cleanup_(ctl_table_freep) struct ctl_table *table = ctl_table_new(columns);
	_cleanup_(json_decrefp) json_t *reply = NULL;
	const json_t *row;
	size_t i;
	int res = ctl_rest_get(ctl->rest, POLICIES, NULL, NULL, NULL, &reply, err);

	(void)args;
	if (!res && ctl->json)
		ctl_print_json(reply);
	if (res || ctl->json)
		return res;
	json_array_foreach (json_object_get(reply, "policies"), i, row) {
		ctl_table_add(table, ctl_text(row, "name"));
		ctl_table_add(table, json_is_true(json_object_get(row, "enabled")) ? "yes" : "no");
		for (size_t k = 0; k < sizeof(numbers) / sizeof(numbers[0]); k++)
			ctl_table_addf(table, "%llu",
				       (unsigned long long)ctl_number(row, numbers[k]));
		ctl_table_addf(table, "%zu", json_array_size(json_object_get(row, "copy_rules")));
		ctl_table_addf(table, "%llu", (unsigned long long)ctl_number(row, "vm_count"));
		ctl_table_add(table, ctl_text(row, "id"));
	}
	return ctl_table_print(table, stdout, err);
}

static int policy_remove(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	return remove_one(ctl, &policy_noun, args->argv[0], err);
}

/* --- copy rules ------------------------------------------------------------------------------- */

/* The policy called @name with its rules. *@reply is the caller's, as *@rules, which are those of a
 * request: what the hub has added of its own is left out. */
static int get_rules(struct ctl *ctl, const char *name, char id[80], json_t **reply, json_t **rules,
		     struct err *err)
{
	static const char *const members[] = {"destination_repository_id", "copy_mode", "priority",
					      "enabled", "verify_after_copy"};
	const json_t *row;
	size_t i;
	int res = find_id(ctl, POLICIES, "policies", name, id, err);

	if (!res)
		res = ctl_rest_get(ctl->rest, POLICIES, id, NULL, NULL, reply, err);
	if (res)
		return res;
	*rules = json_array();
	json_array_foreach (json_object_get(*reply, "copy_rules"), i, row) {
		json_t *rule = json_object();

		for (size_t k = 0; k < sizeof(members) / sizeof(members[0]); k++)
			json_object_set(rule, members[k], json_object_get(row, members[k]));
		json_array_append_new(*rules, rule);
	}
	return CTL_OK;
}

/* Where in @rules the repository is the destination; their number: nowhere. */
static size_t rule_to(const json_t *rules, const char *repository)
{
	const json_t *rule;
	size_t i;

	json_array_foreach (rules, i, rule)
		if (!strcmp(ctl_text(rule, "destination_repository_id"), repository))
			return i;
	return json_array_size(rules);
}

/* All rules go back to the hub, which takes them whole. */
static int put_rules(struct ctl *ctl, const char *id, json_t *rules, const char *policy,
		     const char *what, struct err *err)
{
	_cleanup_(json_decrefp) json_t *reply = NULL;
	int res = ctl_rest_send(ctl->rest, "PATCH", POLICIES, id, NULL,
				json_pack("{s:O}", "copy_rules", rules), &reply, err);

	if (!res)
		say(ctl, reply, "policy", policy, what);
	return res;
}

static int copy_add(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(json_decrefp) json_t *list = NULL, *reply = NULL, *rules = NULL;
	const char *to = args->argv[1];
	unsigned long priority = 1;
	const json_t *repo;
	char id[80];
	int res = ctl_option_number(args, "priority", NUMBER_MAX, &priority, err);

	if (!res)
		res = ctl_find_repository(ctl, to, &list, &repo, err);
	if (!res)
		res = get_rules(ctl, args->argv[0], id, &reply, &rules, err);
	if (res)
		return res;
	if (rule_to(rules, ctl_text(repo, "id")) < json_array_size(rules))
		return err_set(err, CTL_CONFLICT, "policy \"%s\" copies to \"%s\" already",
			       args->argv[0], to);
	json_array_append_new(
		rules, json_pack("{s:s, s:s, s:i, s:b, s:b}", "destination_repository_id",
				 ctl_text(repo, "id"), "copy_mode",
				 ctl_option(args, "mode") ? ctl_option(args, "mode") : "immediate",
				 "priority", (int)priority, "enabled", 1, "verify_after_copy",
				 ctl_option(args, "no-verify") == NULL));
	return put_rules(ctl, id, rules, args->argv[0], "has another copy rule", err);
}

static int copy_remove(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(json_decrefp) json_t *list = NULL, *reply = NULL, *rules = NULL;
	const json_t *repo;
	char id[80];
	size_t at;
	int res = ctl_find_repository(ctl, args->argv[1], &list, &repo, err);

	if (!res)
		res = get_rules(ctl, args->argv[0], id, &reply, &rules, err);
	if (res)
		return res;
	at = rule_to(rules, ctl_text(repo, "id"));
	if (at == json_array_size(rules))
		return err_set(err, CTL_NOT_FOUND, "policy \"%s\" does not copy to \"%s\"",
			       args->argv[0], args->argv[1]);
	json_array_remove(rules, at);
	return put_rules(ctl, id, rules, args->argv[0], "has one copy rule less", err);
}

static const char *name_of(const json_t *repositories, const char *id)
{
	const json_t *row;
	size_t i;

	json_array_foreach (json_object_get(repositories, "repositories"), i, row)
		if (!strcmp(ctl_text(row, "id"), id))
			return ctl_text(row, "name");
	return id;
}

static int copy_list(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	static const char *const columns[] = {"TO", "MODE", ">PRIORITY", "ENABLED", "VERIFY", NULL};
	_cleanup_(ctl_table_freep) struct ctl_table *table = ctl_table_new(columns);
	_cleanup_(json_decrefp) json_t *list = NULL, *reply = NULL, *rules = NULL;
	const json_t *row;
	char id[80];
	size_t i;
	int res = get_rules(ctl, args->argv[0], id, &reply, &rules, err);

	if (!res && ctl->json)
		ctl_print_json(reply);
	if (!res && !ctl->json)
		res = ctl_rest_list(ctl->rest, "/api/v1/repositories", "repositories", NULL, &list,
				    err);
	if (res || ctl->json)
		return res;
	json_array_foreach (rules, i, row) {
		ctl_table_add(table, name_of(list, ctl_text(row, "destination_repository_id")));
		ctl_table_add(table, ctl_text(row, "copy_mode"));
		ctl_table_addf(table, "%llu", (unsigned long long)ctl_number(row, "priority"));
		ctl_table_add(table, json_is_true(json_object_get(row, "enabled")) ? "yes" : "no");
		ctl_table_add(table, json_is_true(json_object_get(row, "verify_after_copy"))
					     ? "yes"
					     : "no");
	}
	return ctl_table_print(table, stdout, err);
}

const struct ctl_verb ctl_policy_verbs[] = {
	{
		.noun = "policy",
		.name = "add",
		.operands = "NAME",
		.min_args = 1,
		.max_args = 1,
		.summary = "say where backups go and how long they are kept",
		.example =
			"sendense-ctl policy add gold --repo daily --keep-daily 7 --keep-weekly 4",
		.options = {{"repo", "NAME", "repository (default: the only one)", false},
			    {"keep-days", "N",
			     "all points of so many days (default: 30, if no "
			     "other is given)",
			     false},
			    {"keep-last", "N", "so many of the newest points", false},
			    {"keep-daily", "N", "the newest point of so many days", false},
			    {"keep-weekly", "N", "of so many weeks", false},
			    {"keep-monthly", "N", "of so many months", false},
			    {"keep-yearly", "N", "of so many years", false}},
		.run = policy_add,
	},
	{
		.noun = "policy",
		.name = "list",
		.operands = "",
		.summary = "list the policies",
		.example = "sendense-ctl policy list",
		.run = policy_list,
	},
	{
		.noun = "policy",
		.name = "remove",
		.operands = "NAME",
		.min_args = 1,
		.max_args = 1,
		.summary = "remove a policy that no VM and no schedule has",
		.example = "sendense-ctl policy remove gold",
		.run = policy_remove,
	},
	{
		.noun = "policy",
		.name = "copy-add",
		.operands = "POLICY REPOSITORY",
		.min_args = 2,
		.max_args = 2,
		.summary = "copy what a policy backs up to another repository, too",
		.example = "sendense-ctl policy copy-add gold offsite --mode immediate",
		.options = {{"mode", "immediate|scheduled|manual", "when (default: immediate)",
			     false},
			    {"priority", "N", "1 goes first (default: 1)", false},
			    {"no-verify", NULL, "do not read the copy back", false}},
		.run = copy_add,
	},
	{
		.noun = "policy",
		.name = "copy-list",
		.operands = "POLICY",
		.min_args = 1,
		.max_args = 1,
		.summary = "list where a policy copies to",
		.example = "sendense-ctl policy copy-list gold",
		.run = copy_list,
	},
	{
		.noun = "policy",
		.name = "copy-remove",
		.operands = "POLICY REPOSITORY",
		.min_args = 2,
		.max_args = 2,
		.summary = "copy no more to that repository",
		.example = "sendense-ctl policy copy-remove gold offsite",
		.run = copy_remove,
	},
	{0},
};

/* --- schedules -------------------------------------------------------------------------------- */

static int schedule_add(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(json_decrefp) json_t *list = NULL, *reply = NULL;
	const char *vm_name = ctl_option(args, "vm");
	const json_t *vm = NULL;
	char policy[80];
	int res = find_id(ctl, POLICIES, "policies", ctl_option(args, "policy"), policy, err);

	if (!res && vm_name)
		res = ctl_find_vm(ctl, vm_name, &list, &vm, err);
	if (res)
		return res;
	res = ctl_rest_post(
		ctl->rest, SCHEDULES,
		json_pack("{s:s, s:s, s:s, s:s*, s:s*, s:s*}", "name", args->argv[0], "policy_id",
			  policy, "cron_expression", ctl_option(args, "cron"), "timezone",
			  ctl_option(args, "timezone"), "backup_type", ctl_option(args, "type"),
			  "vm_context_id", vm ? ctl_text(vm, "context_id") : NULL),
		&reply, err);
	if (!res)
		say(ctl, reply, "schedule", args->argv[0], "added");
	return res;
}

static int schedule_list(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	static const char *const columns[] = {"SCHEDULE", "ENABLED",  "CRON", "ZONE", "TYPE",
					      "NEXT RUN", "LAST RUN", "ID",   NULL};
	_cleanup_(ctl_table_freep) struct ctl_table *table = ctl_table_new(columns);
	_cleanup_(json_decrefp) json_t *reply = NULL;
	char text[HUMAN_MAX];
	const json_t *row;
	size_t i;
	int res = ctl_rest_get(ctl->rest, SCHEDULES, NULL, NULL, NULL, &reply, err);

	(void)args;
	if (!res && ctl->json)
		ctl_print_json(reply);
	if (res || ctl->json)
		return res;
	json_array_foreach (json_object_get(reply, "schedules"), i, row) {
		ctl_table_add(table, ctl_text(row, "name"));
		ctl_table_add(table, json_is_true(json_object_get(row, "enabled")) ? "yes" : "no");
		ctl_table_add(table, ctl_text(row, "cron_expression"));
		ctl_table_add(table, ctl_text(row, "timezone"));
		ctl_table_add(table, ctl_text(row, "backup_type"));
		ctl_table_add(table, human_time(text, ctl_text(row, "next_run_at")));
		ctl_table_add(table, human_time(text, ctl_text(row, "last_run_at")));
		ctl_table_add(table, ctl_text(row, "id"));
	}
	return ctl_table_print(table, stdout, err);
}

static int schedule_run(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(json_decrefp) json_t *reply = NULL;
	int res = send_to(ctl, &schedule_noun, "POST", args->argv[0], "/run", &reply, err);

	if (!res)
		say(ctl, reply, "schedule", args->argv[0], "runs now");
	return res;
}

static int schedule_remove(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	return remove_one(ctl, &schedule_noun, args->argv[0], err);
}

const struct ctl_verb ctl_schedule_verbs[] = {
	{
		.noun = "schedule",
		.name = "add",
		.operands = "NAME",
		.min_args = 1,
		.max_args = 1,
		.summary = "back up a VM, or all VMs of a policy, at times",
		.example = "sendense-ctl schedule add nightly --policy gold --cron '0 2 * * *' "
			   "--timezone Europe/Berlin",
		.options = {{"policy", "NAME", "whose repository, and whose VMs", true},
			    {"cron", "EXPRESSION", "minute hour day month weekday, or @daily",
			     true},
			    {"timezone", "NAME", "default: UTC", false},
			    {"vm", "NAME", "this VM alone", false},
			    {"type", "full|incremental", "default: incremental", false}},
		.run = schedule_add,
	},
	{
		.noun = "schedule",
		.name = "list",
		.operands = "",
		.summary = "list the schedules, and when they run",
		.example = "sendense-ctl schedule list",
		.run = schedule_list,
	},
	{
		.noun = "schedule",
		.name = "run",
		.operands = "NAME",
		.min_args = 1,
		.max_args = 1,
		.summary = "run it now, whatever its time",
		.example = "sendense-ctl schedule run nightly",
		.run = schedule_run,
	},
	{
		.noun = "schedule",
		.name = "remove",
		.operands = "NAME",
		.min_args = 1,
		.max_args = 1,
		.summary = "remove a schedule",
		.example = "sendense-ctl schedule remove nightly",
		.run = schedule_remove,
	},
	{0},
};
