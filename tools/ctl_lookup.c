#include "tools/ctl_lookup.h"

#include <string.h>

#include "base/bytes.h"
#include "tools/ctl_human.h"

const char *ctl_text(const json_t *object, const char *field)
{
	const char *text = json_string_value(json_object_get(object, field));

	return text ? text : "";
}

uint64_t ctl_number(const json_t *object, const char *field)
{
	json_int_t value = json_integer_value(json_object_get(object, field));

	return value > 0 ? (uint64_t)value : 0;
}

void ctl_print_json(const json_t *reply)
{
	json_dumpf(reply, stdout, JSON_INDENT(2));
	putchar('\n');
}

int ctl_find_vm(struct ctl *ctl, const char *name, json_t **list, const json_t **row,
		struct err *err)
{
	const struct ctl_query query[] = {{"vm_name", name}, {NULL, NULL}};
	const json_t *found = NULL;
	json_t *vm;
	size_t i;
	int res = ctl_rest_get(ctl->rest, "/api/v1/vm-contexts", NULL, NULL, query, list, err);

	if (res)
		return res;
	json_array_foreach (json_object_get(*list, "vm_contexts"), i, vm) {
		if (strcmp(ctl_text(vm, "vm_name"), name) != 0)
			continue;
		if (found)
			return err_set(err, CTL_CONFLICT,
				       "there is a VM called \"%s\" in %s and another in %s", name,
				       ctl_text(found, "vcenter_host"),
				       ctl_text(vm, "vcenter_host"));
		found = vm;
	}
	if (!found)
		return err_set(err, CTL_NOT_FOUND,
			       "the hub knows no VM called \"%s\"; add it with: sendense-ctl vm "
			       "add \"%s\"",
			       name, name);
	*row = found;
	return CTL_OK;
}

/* "daily, offsite" from the rows' names, cut to fit. */
static void join_names(const json_t *rows, char *buf, size_t size)
{
	json_t *row;
	size_t i;

	buf[0] = '\0';
	json_array_foreach (rows, i, row) {
		strncat(buf, i ? ", " : "", size - strlen(buf) - 1);
		strncat(buf, ctl_text(row, "name"), size - strlen(buf) - 1);
	}
}

static int no_repository(const json_t *rows, const char *name, struct err *err)
{
	char names[200];

	if (!json_array_size(rows))
		return err_set(err, CTL_NOT_FOUND,
			       "the hub has no repository yet; make one with: sendense-ctl repo "
			       "add NAME --path DIR");
	join_names(rows, names, sizeof(names));
	if (!name)
		return err_set(err, CTL_USAGE, "--repo is missing; there are: %s", names);
	return err_set(err, CTL_NOT_FOUND, "no repository \"%s\"; there are: %s", name, names);
}

int ctl_find_repository(struct ctl *ctl, const char *name, json_t **list, const json_t **row,
			struct err *err)
{
	const json_t *rows;
	json_t *repo;
	size_t i;
	int res = ctl_rest_get(ctl->rest, "/api/v1/repositories", NULL, NULL, NULL, list, err);

	if (res)
		return res;
	rows = json_object_get(*list, "repositories");
	json_array_foreach (rows, i, repo) {
		bool wanted = name ? strcmp(ctl_text(repo, "id"), name) == 0 ||
					      strcmp(ctl_text(repo, "name"), name) == 0
				   : json_array_size(rows) == 1;

		if (wanted) {
			*row = repo;
			return CTL_OK;
		}
	}
	return no_repository(rows, name, err);
}
