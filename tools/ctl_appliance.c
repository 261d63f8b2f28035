/* The verbs of "appliance": capture appliances that ask to be let in (docs/tunnel.md). */
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "tools/ctl.h"
#include "tools/ctl_args.h"
#include "tools/ctl_human.h"
#include "tools/ctl_lookup.h"
#include "tools/ctl_rest.h"
#include "tools/ctl_table.h"

#define ADMIN	      "/api/v1/admin/vma"
#define VALID_FOR_MAX 86400UL

static int appliance_pair(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(json_decrefp) json_t *reply = NULL;
	unsigned long valid_for = 0;
	json_t *body = json_object();
	char text[HUMAN_MAX];
	int res = ctl_option_number(args, "valid-for", VALID_FOR_MAX, &valid_for, err);

	if (res) {
		json_decref(body);
		return res;
	}
	if (ctl_option(args, "valid-for"))
		json_object_set_new(body, "valid_for", json_integer((json_int_t)valid_for));
	res = ctl_rest_post(ctl->rest, ADMIN "/pairing-code", body, &reply, err);
	if (res)
		return res;
	if (ctl->json) {
		ctl_print_json(reply);
		return CTL_OK;
	}
	fprintf(stderr, "good once, until %s; the hub does not tell it again\n",
		human_time(text, ctl_text(reply, "expires_at")));
	printf("%s\n", ctl_text(reply, "pairing_code"));
	return CTL_OK;
}

static void add_rows(struct ctl_table *table, const json_t *list)
{
	char text[HUMAN_MAX];
	const json_t *row;
	size_t i;

	json_array_foreach (list, i, row) {
		ctl_table_add(table, ctl_text(row, "id"));
		ctl_table_add_cut(table, ctl_text(row, "vma_name"), 30);
		ctl_table_add(table, ctl_text(row, "status"));
		ctl_table_add(table, ctl_text(row, "vma_fingerprint"));
		ctl_table_add(table, ctl_text(row, "vma_ip_address"));
		ctl_table_add(table, human_time(text, ctl_text(row, "created_at")));
		ctl_table_add_cut(table, ctl_text(row, "decided_by"), 30);
	}
}

static int appliance_list(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	static const char *const columns[] = {"ID",   "APPLIANCE", "STATUS",	 "KEY",
					      "FROM", "ASKED",	   "DECIDED BY", NULL};
	_cleanup_(ctl_table_freep) struct ctl_table *table = ctl_table_new(columns);
	_cleanup_(json_decrefp) json_t *pending = NULL, *active = NULL;
	int res = ctl_rest_get(ctl->rest, ADMIN "/pending", NULL, NULL, NULL, &pending, err);

	(void)args;
	if (!res)
		res = ctl_rest_get(ctl->rest, ADMIN "/active", NULL, NULL, NULL, &active, err);
	if (res)
		return res;
	if (ctl->json) {
		json_object_update_missing(active, pending);
		json_object_del(active, "count");
		ctl_print_json(active);
		return CTL_OK;
	}
	add_rows(table, json_object_get(pending, "enrollments"));
	add_rows(table, json_object_get(active, "connections"));
	return ctl_table_print(table, stdout, err);
}

static int decide(struct ctl *ctl, const struct ctl_args *args, const char *path, struct err *err)
{
	_cleanup_(json_decrefp) json_t *reply = NULL;
	char name[200], said[300];
	int res = ctl_rest_post_to(ctl->rest, path, args->argv[0], NULL,
				   json_pack("{s:s*}", "reason", ctl_option(args, "reason")),
				   &reply, err);

	if (res)
		return res;
	if (ctl->json)
		ctl_print_json(reply);
	else
		printf("appliance %s, key %s: %s\n",
		       human_printable(name, sizeof(name), ctl_text(reply, "vma_name")),
		       ctl_text(reply, "vma_fingerprint"), ctl_text(reply, "status"));
	fprintf(stderr, "%s\n", human_printable(said, sizeof(said), ctl_text(reply, "message")));
	return CTL_OK;
}

static int appliance_approve(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	return decide(ctl, args, ADMIN "/approve", err);
}

static int appliance_reject(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	return decide(ctl, args, ADMIN "/reject", err);
}

static int appliance_revoke(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	return decide(ctl, args, ADMIN "/revoke", err);
}

#define REASON                                                                                     \
	{                                                                                          \
		"reason", "TEXT", "a line for the record", false                                   \
	}

const struct ctl_verb ctl_appliance_verbs[] = {
	{
		.noun = "appliance",
		.name = "pair",
		.operands = "",
		.summary = "make a pairing code for a capture appliance",
		.example = "sendense-ctl appliance pair",
		.options = {{"valid-for", "SECONDS", "10 to 86400 (default: as the hub is set up)",
			     false}},
		.run = appliance_pair,
	},
	{
		.noun = "appliance",
		.name = "list",
		.operands = "",
		.summary = "list appliances that wait for a decision, and those that are approved",
		.example = "sendense-ctl appliance list",
		.run = appliance_list,
	},
	{
		.noun = "appliance",
		.name = "approve",
		.operands = "ENROLLMENT-ID",
		.min_args = 1,
		.max_args = 1,
		.summary = "let an appliance's key open the tunnel",
		.detail = "Compare the key's fingerprint with the one the appliance shows first.",
		.example = "sendense-ctl appliance approve enroll-01k...",
		.options = {REASON},
		.run = appliance_approve,
	},
	{
		.noun = "appliance",
		.name = "reject",
		.operands = "ENROLLMENT-ID",
		.min_args = 1,
		.max_args = 1,
		.summary = "refuse an appliance",
		.example = "sendense-ctl appliance reject enroll-01k...",
		.options = {REASON},
		.run = appliance_reject,
	},
	{
		.noun = "appliance",
		.name = "revoke",
		.operands = "ENROLLMENT-ID",
		.min_args = 1,
		.max_args = 1,
		.summary = "take an approved key back",
		.detail =
			"No new connection is let in with it. One that is open stays until sshd or "
			"the appliance ends it: docs/tunnel.md says how to end it.",
		.example = "sendense-ctl appliance revoke enroll-01k...",
		.options = {REASON},
		.run = appliance_revoke,
	},
	{0},
};
