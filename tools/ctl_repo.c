/* The verbs of "repo": where backups are kept. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* --- change, remove --------------------------------------------------------------------------- */

#define DAYS_MAX 36500UL

/* The whole configuration as it is, with another compression: the API takes it whole. */
static json_t *config_with(const json_t *repo, const char *compression)
{
	json_t *config = json_copy(json_object_get(repo, "config"));

	if (config && !strcmp(compression, "none"))
		json_object_del(config, "compression");
	else if (config)
		json_object_set_new(config, "compression", json_string(compression));
	return config;
}

static int repo_changes(const struct ctl_args *args, const json_t *repo, json_t **out,
			struct err *err)
{
	const char *name = ctl_option(args, "name"), *compress = ctl_option(args, "compress");
	bool enable = ctl_option(args, "enable"), disable = ctl_option(args, "disable");
	unsigned long days = 0;
	int res = ctl_option_number(args, "min-retention-days", DAYS_MAX, &days, err);

	if (!res && enable && disable)
		res = err_set(err, CTL_USAGE, "--enable and --disable exclude each other");
	if (res)
		return res;
	*out = json_object();
	if (name)
		json_object_set_new(*out, "name", json_string(name));
	if (enable || disable)
		json_object_set_new(*out, "enabled", json_boolean(enable));
	if (ctl_option(args, "min-retention-days"))
		json_object_set_new(*out, "min_retention_days", json_integer((json_int_t)days));
	if (compress)
		json_object_set_new(*out, "config", config_with(repo, compress));
	if (json_object_size(*out))
		return CTL_OK;
	json_decref(*out);
	return err_set(err, CTL_USAGE, "nothing is to be changed: say what");
}

static int repo_set(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(json_decrefp) json_t *list = NULL, *reply = NULL;
	const json_t *repo;
	char name[200];
	json_t *body;
	int res = ctl_find_repository(ctl, args->argv[0], &list, &repo, err);

	if (!res)
		res = repo_changes(args, repo, &body, err);
	if (!res)
		res = ctl_rest_send(ctl->rest, "PATCH", "/api/v1/repositories",
				    ctl_text(repo, "id"), NULL, body, &reply, err);
	if (res)
		return res;
	if (ctl->json)
		ctl_print_json(reply);
	else
		printf("repository %s changed\n",
		       human_printable(name, sizeof(name), ctl_text(reply, "name")));
	return CTL_OK;
}

static int repo_remove(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(json_decrefp) json_t *list = NULL, *reply = NULL;
	const json_t *repo;
	char name[200];
	int res = ctl_find_repository(ctl, args->argv[0], &list, &repo, err);

	if (!res)
		res = ctl_rest_send(ctl->rest, "DELETE", "/api/v1/repositories",
				    ctl_text(repo, "id"), NULL, NULL, &reply, err);
	if (!res && !ctl->json)
		printf("repository %s removed; its files stay where they are\n",
		       human_printable(name, sizeof(name), args->argv[0]));
	return res;
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
	{
		.noun = "repo",
		.name = "set",
		.operands = "NAME",
		.min_args = 1,
		.max_args = 1,
		.summary = "change a repository: name, use, compression, retention",
		.detail =
			"One that is disabled takes no new backups; those in it stay. Compression "
			"is for backups to come.",
		.example = "sendense-ctl repo set daily --compress zstd:3 --min-retention-days 14",
		.options = {{"name", "NEW-NAME", "call it that from now on", false},
			    {"enable", NULL, "take new backups", false},
			    {"disable", NULL, "take no new backups", false},
			    {"compress", "zstd[:LEVEL]|none", "compress new backups", false},
			    {"min-retention-days", "N", "keep every point at least so long; 0: no",
			     false}},
		.run = repo_set,
	},
	{
		.noun = "repo",
		.name = "remove",
		.operands = "NAME",
		.min_args = 1,
		.max_args = 1,
		.summary = "forget a repository that has no backups",
		.example = "sendense-ctl repo remove daily",
		.run = repo_remove,
	},
	{0},
};
