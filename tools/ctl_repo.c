/* The verbs of "repo": where backups are kept. */
#include <limits.h>
#include <stdlib.h>

#include "tools/ctl.h"
#include "tools/ctl_args.h"
#include "tools/ctl_human.h"
#include "tools/ctl_lookup.h"
#include "tools/ctl_rest.h"
#include "tools/ctl_table.h"

static int repo_add(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(json_decrefp) json_t *reply = NULL;
	const char *path = ctl_option(args, "path");
	char name[200];
	json_t *body;
	int res;

	if (path[0] != '/')
		return err_set(err, CTL_USAGE,
			       "--path takes an absolute path on the hub's machine, not \"%s\"",
			       path);
	body = json_pack("{s:s, s:s, s:b, s:{s:s, s:s*}}", "name", args->argv[0], "type", "local",
			 "enabled", 1, "config", "path", path, "compression",
			 ctl_option(args, "compress"));
	res = ctl_rest_post(ctl->rest, "/api/v1/repositories", body, &reply, err);
	if (res)
		return res;
	if (ctl->json)
		ctl_print_json(reply);
	else
		printf("repository %s added: %s\n",
		       human_printable(name, sizeof(name), args->argv[0]), ctl_text(reply, "id"));
	return CTL_OK;
}

static int repo_list(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	static const char *const columns[] = {"REPOSITORY", "ID",      "TYPE", ">BACKUPS", ">FREE",
					      ">SIZE",	    "ENABLED", "PATH", NULL};
	_cleanup_(ctl_table_freep) struct ctl_table *table = NULL;
	_cleanup_(json_decrefp) json_t *reply = NULL;
	char text[HUMAN_MAX];
	json_t *repo;
	size_t i;
	int res =
		ctl_rest_list(ctl->rest, "/api/v1/repositories", "repositories", NULL, &reply, err);

	(void)args;
	if (res)
		return res;
	if (ctl->json) {
		ctl_print_json(reply);
		return CTL_OK;
	}
	table = ctl_table_new(columns);
	json_array_foreach (json_object_get(reply, "repositories"), i, repo) {
		const json_t *storage = json_object_get(repo, "storage_info");

		ctl_table_add(table, ctl_text(repo, "name"));
		ctl_table_add(table, ctl_text(repo, "id"));
		ctl_table_add(table, ctl_text(repo, "type"));
		ctl_table_addf(table, "%llu",
			       (unsigned long long)ctl_number(storage, "backup_count"));
		ctl_table_add(table, human_bytes(text, ctl_number(storage, "available_bytes")));
		ctl_table_add(table, human_bytes(text, ctl_number(storage, "total_bytes")));
		ctl_table_add(table,
			      json_is_false(json_object_get(repo, "enabled")) ? "no" : "yes");
		ctl_table_add(table, ctl_text(json_object_get(repo, "config"), "path"));
	}
	return ctl_table_print(table, stdout, err);
}

const struct ctl_verb ctl_repo_verbs[] = {
	{
		.noun = "repo",
		.name = "add",
		.operands = "NAME",
		.min_args = 1,
		.max_args = 1,
		.summary = "make a folder of the hub's machine a repository",
		.example = "sendense-ctl repo add daily --path /var/lib/sendense/backups",
		.options = {{"path", "DIR", "absolute path on the hub's machine", true},
			    {"compress", "zstd[:LEVEL]", "compress new backups (default: none)",
			     false}},
		.run = repo_add,
	},
	{
		.noun = "repo",
		.name = "list",
		.operands = "",
		.summary = "list the repositories, with the space they have",
		.example = "sendense-ctl repo list",
		.run = repo_list,
	},
	{0},
};
