/* The verbs of "hub": who runs backups, when several hubs share one catalog. */
#include "tools/ctl.h"
#include "tools/ctl_args.h"
#include "tools/ctl_human.h"
#include "tools/ctl_lookup.h"
#include "tools/ctl_rest.h"
#include "tools/ctl_table.h"

static int hub_list(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	static const char *const columns[] = {"HUB",	 "STATE",   ">BACKUPS", "LEASE UNTIL",
					      "STARTED", "VERSION", "ID",	NULL};
	_cleanup_(ctl_table_freep) struct ctl_table *table = ctl_table_new(columns);
	_cleanup_(json_decrefp) json_t *reply = NULL;
	char text[HUMAN_MAX];
	const json_t *row;
	size_t i;
	int res = ctl_rest_get(ctl->rest, "/api/v1/hubs", NULL, NULL, NULL, &reply, err);

	(void)args;
	if (!res && ctl->json)
		ctl_print_json(reply);
	if (res || ctl->json)
		return res;
	json_array_foreach (json_object_get(reply, "hubs"), i, row) {
		ctl_table_add(table, ctl_text(row, "name"));
		ctl_table_add(table, ctl_text(row, "state"));
		ctl_table_addf(table, "%llu",
			       (unsigned long long)ctl_number(row, "running_backups"));
		ctl_table_add(table, human_time(text, ctl_text(row, "lease_until")));
		ctl_table_add(table, human_time(text, ctl_text(row, "started_at")));
		ctl_table_add(table, ctl_text(row, "version"));
		ctl_table_add(table, ctl_text(row, "id"));
	}
	return ctl_table_print(table, stdout, err);
}

const struct ctl_verb ctl_hub_verbs[] = {
	{
		.noun = "hub",
		.name = "list",
		.operands = "",
		.summary = "list the hubs of this catalog, and whether they live",
		.detail = "A version is known of the hub that answers alone.",
		.example = "sendense-ctl hub list",
		.run = hub_list,
	},
	{0},
};
