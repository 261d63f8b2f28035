/* The verbs of "vm" and "health": what the hub has under management. */
#include <string.h>

#include "tools/ctl.h"
#include "tools/ctl_args.h"
#include "tools/ctl_confirm.h"
#include "tools/ctl_deleted.h"
#include "tools/ctl_human.h"
#include "tools/ctl_lookup.h"
#include "tools/ctl_rest.h"
#include "tools/ctl_table.h"

#define CREDENTIAL_MAX 1000000000UL

/* --- vm add --------------------------------------------------------------------------------- */

/* Names of every VM the agent sees. */
static int discover_names(struct ctl *ctl, unsigned long credential, json_t **names,
			  struct err *err)
{
	_cleanup_(json_decrefp) json_t *reply = NULL;
	json_t *body = json_pack("{s:I}", "credential_id", (json_int_t)credential);
	json_t *vm;
	size_t i;
	int res = ctl_rest_post(ctl->rest, "/api/v1/discovery/discover-vms", body, &reply, err);

	if (res)
		return res;
	*names = json_array();
	json_array_foreach (json_object_get(reply, "vms"), i, vm)
		json_array_append(*names, json_object_get(vm, "name"));
	if (!json_array_size(*names))
		return err_set(err, CTL_NOT_FOUND, "the agent sees no VM");
	return CTL_OK;
}

static int names_from_args(const struct ctl_args *args, json_t **names)
{
	*names = json_array();
	for (int i = 0; i < args->argc; i++)
		json_array_append_new(*names, json_string(args->argv[i]));
	return CTL_OK;
}

static int print_added(const json_t *reply, struct err *err)
{
	static const char *const columns[] = {"VM", ">DISKS", ">CAPACITY", "RESULT", NULL};
	_cleanup_(ctl_table_freep) struct ctl_table *table = ctl_table_new(columns);
	char text[HUMAN_MAX];
	json_t *vm;
	size_t i;

	json_array_foreach (json_object_get(reply, "added_vms"), i, vm) {
		const char *error = ctl_text(vm, "error");

		ctl_table_add(table, ctl_text(vm, "vm_name"));
		ctl_table_addf(table, "%llu", (unsigned long long)ctl_number(vm, "disk_count"));
		ctl_table_add(table, human_bytes(text, ctl_number(vm, "total_capacity_bytes")));
		ctl_table_add(table, *error ? error : ctl_text(vm, "status"));
	}
	return ctl_table_print(table, stdout, err);
}

/* The hub answers 200 when it could add some; whoever asked for all wants to know. */
static int check_added(const json_t *reply, struct err *err)
{
	unsigned long long failed = ctl_number(reply, "failed");

	if (!failed)
		return CTL_OK;
	return err_set(err, CTL_FAILED, "%llu of %zu VMs could not be added", failed,
		       json_array_size(json_object_get(reply, "added_vms")));
}

static int vm_add(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(json_decrefp) json_t *names = NULL;
	_cleanup_(json_decrefp) json_t *reply = NULL;
	unsigned long credential = 0; /* none: the default one, or what the hub has */
	bool all = ctl_option(args, "all");
	int res = ctl_option_number(args, "credential", CREDENTIAL_MAX, &credential, err);

	if (res)
		return res;
	if (all == (args->argc > 0))
		return err_set(err, CTL_USAGE, "give either names of VMs or --all");
	res = all ? discover_names(ctl, credential, &names, err) : names_from_args(args, &names);
	if (res)
		return res;
	res = ctl_rest_post(
		ctl->rest, "/api/v1/discovery/add-vms",
		json_pack("{s:I, s:O}", "credential_id", (json_int_t)credential, "vm_names", names),
		&reply, err);
	if (res)
		return res;
	if (ctl->json)
		ctl_print_json(reply);
	else
		res = print_added(reply, err);
	return res ? res : check_added(reply, err);
}

/* --- vm list, vm disks ---------------------------------------------------------------------- */

static int vm_list(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	static const char *const columns[] = {"VM",	   "POWER", ">CPUS",   ">MEMORY", ">DISKS",
					      ">CAPACITY", "GUEST", "VCENTER", NULL};
	_cleanup_(ctl_table_freep) struct ctl_table *table = NULL;
	_cleanup_(json_decrefp) json_t *reply = NULL;
	char text[HUMAN_MAX];
	json_t *vm;
	size_t i;
	int res = ctl_rest_list(ctl->rest, "/api/v1/vm-contexts", "vm_contexts", NULL, &reply, err);

	(void)args;
	if (res)
		return res;
	if (ctl->json) {
		ctl_print_json(reply);
		return CTL_OK;
	}
	table = ctl_table_new(columns);
	json_array_foreach (json_object_get(reply, "vm_contexts"), i, vm) {
		ctl_table_add(table, ctl_text(vm, "vm_name"));
		ctl_table_add(table, ctl_text(vm, "power_state"));
		ctl_table_addf(table, "%llu", (unsigned long long)ctl_number(vm, "cpu_count"));
		ctl_table_add(table, human_bytes(text, ctl_number(vm, "memory_mb") << 20));
		ctl_table_addf(table, "%llu", (unsigned long long)ctl_number(vm, "disk_count"));
		ctl_table_add(table, human_bytes(text, ctl_number(vm, "total_capacity_bytes")));
		ctl_table_add(table, ctl_text(vm, "os_type"));
		ctl_table_add(table, ctl_text(vm, "vcenter_host"));
	}
	return ctl_table_print(table, stdout, err);
}

static int print_disks(const json_t *reply, struct err *err)
{
	static const char *const columns[] = {">DISK", "ID",	    "LABEL", ">SIZE", ">BYTES",
					      "STATE", "DATASTORE", "PATH",  NULL};
	_cleanup_(ctl_table_freep) struct ctl_table *table = ctl_table_new(columns);
	char text[HUMAN_MAX];
	json_t *disk;
	size_t i;

	json_array_foreach (json_object_get(reply, "disks"), i, disk) {
		uint64_t size = ctl_number(disk, "capacity_bytes");

		ctl_table_addf(table, "%llu", (unsigned long long)ctl_number(disk, "disk_index"));
		ctl_table_add(table, ctl_text(disk, "disk_id"));
		ctl_table_add(table, ctl_text(disk, "label"));
		ctl_table_add(table, human_bytes(text, size));
		ctl_table_addf(table, "%llu", (unsigned long long)size);
		ctl_table_add(table, json_is_true(json_object_get(disk, "missing")) ? "missing"
										    : "present");
		ctl_table_add(table, ctl_text(disk, "datastore"));
		ctl_table_add(table, ctl_text(disk, "path"));
	}
	return ctl_table_print(table, stdout, err);
}

static int vm_disks(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(json_decrefp) json_t *list = NULL;
	_cleanup_(json_decrefp) json_t *reply = NULL;
	const json_t *vm;
	int res = ctl_find_vm(ctl, args->argv[0], &list, &vm, err);

	if (res)
		return res;
	res = ctl_rest_get(ctl->rest, "/api/v1/vm-contexts", ctl_text(vm, "context_id"), "/disks",
			   NULL, &reply, err);
	if (res)
		return res;
	if (ctl->json) {
		ctl_print_json(reply);
		return CTL_OK;
	}
	return print_disks(reply, err);
}

/* --- vm set --------------------------------------------------------------------------------- */

/* The id of the policy called @name; "" and "none" are none. */
static int find_policy(struct ctl *ctl, const char *name, json_t *body, struct err *err)
{
	_cleanup_(json_decrefp) json_t *list = NULL;
	const json_t *row;
	size_t i;
	int res;

	if (!*name || !strcmp(name, "none")) {
		json_object_set_new(body, "policy_id", json_null());
		return CTL_OK;
	}
	res = ctl_rest_get(ctl->rest, "/api/v1/policies", NULL, NULL, NULL, &list, err);
	if (res)
		return res;
	json_array_foreach (json_object_get(list, "policies"), i, row) {
		if (strcmp(ctl_text(row, "name"), name) && strcmp(ctl_text(row, "id"), name))
			continue;
		json_object_set(body, "policy_id", json_object_get(row, "id"));
		return CTL_OK;
	}
	return err_set(err, CTL_NOT_FOUND,
		       "there is no policy \"%s\"; see: sendense-ctl policy list", name);
}

static int take_settings(struct ctl *ctl, const struct ctl_args *args, json_t *body,
			 struct err *err)
{
	const char *policy = ctl_option(args, "policy"), *notes = ctl_option(args, "notes");
	unsigned long credential = 0;
	int res = ctl_option_number(args, "credential", CREDENTIAL_MAX, &credential, err);

	if (!res && ctl_option(args, "credential"))
		json_object_set_new(body, "credential_id", json_integer((json_int_t)credential));
	if (!res && notes)
		json_object_set_new(body, "notes", json_string(notes));
	if (!res && policy)
		res = find_policy(ctl, policy, body, err);
	if (!res && !json_object_size(body))
		res = err_set(err, CTL_USAGE, "give --policy, --credential or --notes");
	return res;
}

static int vm_set(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(json_decrefp) json_t *list = NULL, *reply = NULL, *body = json_object();
	const json_t *vm;
	char name[200];
	int res = take_settings(ctl, args, body, err);

	if (!res)
		res = ctl_find_vm(ctl, args->argv[0], &list, &vm, err);
	if (!res)
		res = ctl_rest_send(ctl->rest, "PATCH", "/api/v1/vm-contexts",
				    ctl_text(vm, "context_id"), NULL, steal(&body), &reply, err);
	if (res)
		return res;
	if (ctl->json)
		ctl_print_json(reply);
	else
		printf("VM %s changed\n", human_printable(name, sizeof(name), args->argv[0]));
	return CTL_OK;
}

/* --- vm remove ------------------------------------------------------------------------------ */

static int ask_remove(const struct ctl_args *args, const char *backups, struct err *err)
{
	char question[CTL_TEXT_MAX], vm[128];
	const char *what = !strcmp(backups, "delete") ? " and DELETE ALL ITS BACKUPS, everywhere"
			   : !strcmp(backups, "keep") ? "; its backups stay"
						      : "";

	snprintf(question, sizeof(question), "Take VM %s out of management%s",
		 human_printable(vm, sizeof(vm), args->argv[0]), what);
	return ctl_confirm(args, question, err);
}

static int vm_remove(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(json_decrefp) json_t *list = NULL, *reply = NULL;
	const char *backups = ctl_option(args, "backups") ?: "";
	const json_t *vm;
	char tail[32] = "", name[200];
	int res;

	if (*backups && strcmp(backups, "keep") && strcmp(backups, "delete"))
		return err_set(err, CTL_USAGE, "--backups is keep or delete, not \"%s\"", backups);
	if (*backups)
		snprintf(tail, sizeof(tail), "?backups=%s", backups);
	res = ctl_find_vm(ctl, args->argv[0], &list, &vm, err);
	if (!res)
		res = ask_remove(args, backups, err);
	if (!res)
		res = ctl_rest_send(ctl->rest, "DELETE", "/api/v1/vm-contexts",
				    ctl_text(vm, "context_id"), tail, NULL, &reply, err);
	if (!res)
		ctl_tell_deleted(ctl, reply, human_printable(name, sizeof(name), args->argv[0]));
	return res;
}

/* --- health --------------------------------------------------------------------------------- */

static int health(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(json_decrefp) json_t *reply = NULL;
	const char *key;
	json_t *value;
	int res = ctl_rest_get(ctl->rest, "/health", NULL, NULL, NULL, &reply, err);

	(void)args;
	if (res)
		return res;
	if (ctl->json) {
		ctl_print_json(reply);
		return CTL_OK;
	}
	json_object_foreach (reply, key, value) {
		char text[200];

		if (json_is_string(value))
			printf("%-16s %s\n", key,
			       human_printable(text, sizeof(text), json_string_value(value)));
		else if (json_is_integer(value))
			printf("%-16s %lld\n", key, (long long)json_integer_value(value));
	}
	return CTL_OK;
}

const struct ctl_verb ctl_vm_verbs[] = {
	{
		.noun = "vm",
		.name = "add",
		.operands = "[NAME...]",
		.max_args = CTL_ARGS_ANY,
		.summary = "take VMs under management, with their disks",
		.detail = "Asks the capture agent for the VMs and stores them with their disks.\n"
			  "Adding a VM again brings its stored disks up to date.",
		.example = "sendense-ctl vm add pgtest1 pgtest2",
		.options = {{"all", NULL, "every VM the agent sees", false},
			    {"credential", "ID", "vCenter credential (default: the default one)",
			     false}},
		.run = vm_add,
	},
	{
		.noun = "vm",
		.name = "list",
		.operands = "",
		.summary = "list the VMs under management",
		.example = "sendense-ctl vm list",
		.run = vm_list,
	},
	{
		.noun = "vm",
		.name = "disks",
		.operands = "NAME",
		.min_args = 1,
		.max_args = 1,
		.summary = "list the disks of a VM",
		.example = "sendense-ctl vm disks pgtest1",
		.run = vm_disks,
	},
	{
		.noun = "vm",
		.name = "set",
		.operands = "NAME",
		.min_args = 1,
		.max_args = 1,
		.summary = "give a VM a policy, a credential, or notes",
		.example = "sendense-ctl vm set pgtest1 --policy gold",
		.options = {{"policy", "NAME", "none: take it away", false},
			    {"credential", "ID", "0: take it away", false},
			    {"notes", "TEXT", "what there is to say", false}},
		.run = vm_set,
	},
	{
		.noun = "vm",
		.name = "remove",
		.operands = "NAME",
		.min_args = 1,
		.max_args = 1,
		.summary = "take a VM out of management",
		.detail = "Its disks and its own schedules go. One with backups is refused unless\n"
			  "--backups says what becomes of them.",
		.example = "sendense-ctl vm remove pgtest1 --backups keep",
		.options = {{"backups", "keep|delete", "keep them, or delete them with their files",
			     false},
			    CTL_YES_OPTION},
		.run = vm_remove,
	},
	{0},
};

const struct ctl_verb ctl_health_verbs[] = {
	{
		.noun = "health",
		.operands = "",
		.summary = "ask the hub how it is",
		.example = "sendense-ctl --hub http://hub:8080 health",
		.run = health,
	},
	{0},
};
