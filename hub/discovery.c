#include "hub/discovery.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "hub/credentials.h"
#include "hub/job.h"

#define DISCOVERY_DISKS_MAX 1024 /* far above what a VM can have */

/* --- asking --------------------------------------------------------------------------------- */

static const char *discovery_text(const char *asked, const char *known)
{
	return asked[0] ? asked : known[0] ? known : "local";
}

static int discovery_login(struct hub *hub, const struct hub_discovery *where,
			   struct hub_login *login, struct err *err)
{
	bool own = where->username[0] || where->password[0];

	if (!own)
		return hub_login_choose(hub, where->credential_id, where->vcenter, login, err);
	if (where->credential_id > 0)
		return err_set(err, HUB_E_INVALID,
			       "say either credential_id or username and password, not both");
	*login = (struct hub_login){.credential_id = CATALOG_NONE};
	CATALOG_TEXT(login->username, discovery_text(where->username, hub->vcenter_user));
	CATALOG_TEXT(login->password, discovery_text(where->password, hub->vcenter_password));
	return 0;
}

/* The request as the agent gets it; what was not said in @where is filled in. */
static int discovery_call(struct hub *hub, struct hub_discovery *where,
			  const struct hub_login *login, json_t **out, struct err *err)
{
	json_t *body, *password = json_string(login->password);
	int rc;

	CATALOG_TEXT(where->vcenter, discovery_text(where->vcenter, login->host));
	CATALOG_TEXT(where->datacenter, discovery_text(where->datacenter, login->datacenter));
	where->credential_id = login->credential_id;
	body = json_pack("{s:s,s:s,s:o,s:s,s:s*}", "vcenter", where->vcenter, "username",
			 login->username, "password", password, "datacenter", where->datacenter,
			 "filter", where->filter[0] ? where->filter : NULL);
	if (!body)
		return err_set(err, HUB_E_INVALID, "the discovery request is not UTF-8 text");
	rc = hub_agent_discover(hub->agent, body, login->password, out, err);
	json_decref(body);
	return rc;
}

static int discovery_ask(struct hub *hub, struct hub_discovery *where, json_t **out,
			 struct err *err)
{
	struct hub_login login;
	json_t *answer = NULL;
	int rc = discovery_login(hub, where, &login, err);

	if (!rc)
		rc = discovery_call(hub, where, &login, &answer, err);
	hub_login_wipe(&login);
	if (rc)
		return rc;
	/* An agent that found nothing may say null. */
	if (json_is_null(json_object_get(answer, "vms")) || !json_object_get(answer, "vms"))
		json_object_set_new(answer, "vms", json_array());
	if (!json_is_array(json_object_get(answer, "vms"))) {
		json_decref(answer);
		return err_set(err, HUB_E_AGENT,
			       "the agent's discovery answer has no list \"vms\"");
	}
	*out = answer;
	return 0;
}

/* The vCenter's name as the agent gives it, else as it was asked for. */
static const char *discovery_vcenter(const json_t *answer, const struct hub_discovery *where)
{
	const char *host = hub_json_text(json_object_get(answer, "vcenter"), "host");

	return host[0] ? host : where->vcenter;
}

static void discovery_mark_known(struct hub *hub, json_t *answer, const char *vcenter)
{
	_cleanup_(freep) struct catalog_vm_context *rows = NULL;
	struct catalog_vm_filter filter = {.vcenter_host = vcenter};
	size_t n = 0, i;
	json_t *vm;

	catalog_vm_contexts_list(hub->catalog, &filter, &rows, &n, NULL, NULL);
	json_array_foreach (json_object_get(answer, "vms"), i, vm) {
		const char *known = "";

		for (size_t k = 0; k < n; k++)
			if (!strcmp(rows[k].vmware_vm_id, hub_json_text(vm, "id")))
				known = rows[k].context_id;
		json_object_set_new(vm, "context_id", json_string(known));
	}
}

int hub_discover(struct hub *hub, const struct hub_discovery *where, json_t **out, struct err *err)
{
	struct hub_discovery asked = *where;
	int rc = discovery_ask(hub, &asked, out, err);

	if (!rc)
		discovery_mark_known(hub, *out, discovery_vcenter(*out, &asked));
	explicit_bzero(&asked, sizeof(asked));
	return rc;
}

int hub_credential_test(struct hub *hub, int64_t id, size_t *vms, struct err *err)
{
	struct hub_discovery where = {.credential_id = id};
	json_t *answer = NULL;
	int rc = discovery_ask(hub, &where, &answer, err);

	if (rc)
		return rc;
	*vms = json_array_size(json_object_get(answer, "vms"));
	json_decref(answer);
	return 0;
}

/* --- what it said of one VM ----------------------------------------------------------------- */

/* "disk-2000" -> 2000. The key is what the agent finds the disk by: read, never guessed. */
static bool discovery_disk_key(const char *id, int64_t *key)
{
	size_t digits;

	if (strncmp(id, "disk-", 5) != 0)
		return false;
	digits = strspn(id + 5, "0123456789");
	if (!digits || digits > 9 || id[5 + digits])
		return false;
	*key = atoll(id + 5);
	return true;
}

static int discovery_disk(const json_t *from, struct catalog_vm_disk *to, struct err *err)
{
	const char *id = hub_json_text(from, "id");
	const char *vmdk = hub_json_text(from, "vmdk_path");
	bool fits;

	*to = (struct catalog_vm_disk){
		.capacity_bytes = hub_json_i64(from, "capacity_bytes", 0),
		.size_gb = hub_json_i64(from, "size_gb", 0),
		.unit_number = (int)hub_json_i64(from, "unit_number", CATALOG_NONE),
	};
	fits = CATALOG_TEXT(to->disk_id, id) &&
	       CATALOG_TEXT(to->label, hub_json_text(from, "label")) &&
	       CATALOG_TEXT(to->path, vmdk[0] ? vmdk : hub_json_text(from, "path")) &&
	       CATALOG_TEXT(to->datastore, hub_json_text(from, "datastore")) &&
	       CATALOG_TEXT(to->provisioning_type, hub_json_text(from, "provisioning_type")) &&
	       CATALOG_TEXT(to->controller, hub_json_text(from, "controller"));
	if (!fits)
		return err_set(err, HUB_E_AGENT, "disk \"%.40s\" has a text that is too long", id);
	if (!discovery_disk_key(id, &to->vmware_disk_key))
		return err_set(err, HUB_E_AGENT,
			       "disk id \"%.40s\" is not of the form disk-<device key>", id);
	if (to->capacity_bytes <= 0)
		return err_set(err, HUB_E_AGENT, "disk \"%.40s\" has no capacity_bytes", id);
	return 0;
}

static int discovery_by_key(const void *a, const void *b)
{
	const struct catalog_vm_disk *x = a, *y = b;

	return (x->vmware_disk_key > y->vmware_disk_key) -
	       (x->vmware_disk_key < y->vmware_disk_key);
}

/* In hardware order: by device key, which is what the agent's own order follows. */
static int discovery_disks(const json_t *vm, struct catalog_vm_disk **out, size_t *n,
			   struct err *err)
{
	const json_t *list = json_object_get(vm, "disks"), *disk;
	_cleanup_(freep) struct catalog_vm_disk *rows = NULL;
	size_t count = json_array_size(list), i;
	int rc = 0;

	if (count > DISCOVERY_DISKS_MAX)
		return err_set(err, HUB_E_AGENT, "the agent names %zu disks", count);
	rows = calloc(MAX(count, (size_t)1), sizeof(*rows));
	if (!rows)
		return err_sys(err, -ENOMEM, "disks");
	json_array_foreach (list, i, disk) {
		rc = discovery_disk(disk, &rows[i], err);
		if (rc)
			return rc;
	}
	qsort(rows, count, sizeof(*rows), discovery_by_key);
	*out = steal(&rows);
	*n = count;
	return 0;
}

/* Some fields arrive under one of several names (mission K33), some as zero values. */
static int discovery_vm(const json_t *answer, const json_t *from, const struct hub_discovery *where,
			struct catalog_vm_context *to, struct err *err)
{
	const char *dc = hub_json_text(from, "datacenter");
	const char *guest = hub_json_text(from, "guest_os");
	static const char *const cpu_keys[] = {"num_cpu", "cpu_count", "cpus"};
	int64_t cpus = 0;
	bool fits;

	for (size_t i = 0; !cpus && i < ARRAY_SIZE(cpu_keys); i++)
		cpus = hub_json_i64(from, cpu_keys[i], 0);
	if (!dc[0])
		dc = hub_json_text(json_object_get(answer, "vcenter"), "datacenter");
	*to = (struct catalog_vm_context){
		.cpu_count = cpus,
		.memory_mb = hub_json_i64(from, "memory_mb", 0),
		.credential_id = where->credential_id,
	};
	fits = CATALOG_TEXT(to->vm_name, hub_json_text(from, "name")) &&
	       CATALOG_TEXT(to->vmware_vm_id, hub_json_text(from, "id")) &&
	       CATALOG_TEXT(to->vm_path, hub_json_text(from, "path")) &&
	       CATALOG_TEXT(to->vcenter_host, discovery_vcenter(answer, where)) &&
	       CATALOG_TEXT(to->datacenter, dc) &&
	       CATALOG_TEXT(to->power_state, hub_json_text(from, "power_state")) &&
	       CATALOG_TEXT(to->os_type, guest[0] ? guest : hub_json_text(from, "os_type")) &&
	       CATALOG_TEXT(to->vmx_version, hub_json_text(from, "vmx_version"));
	return fits ? 0 : err_set(err, HUB_E_AGENT, "the agent gives a text that is too long");
}

/* --- adding --------------------------------------------------------------------------------- */

static const json_t *discovery_find(const json_t *answer, const char *name, struct err *err)
{
	const json_t *vm, *found = NULL;
	size_t i, n = 0;

	json_array_foreach (json_object_get(answer, "vms"), i, vm) {
		if (!strcmp(hub_json_text(vm, "id"), name))
			return vm;
		if (!strcmp(hub_json_text(vm, "name"), name)) {
			found = vm;
			n++;
		}
	}
	if (n == 1)
		return found;
	if (!n)
		err_set(err, HUB_E_NOT_FOUND, "the agent sees no VM called \"%s\"", name);
	else
		err_set(err, HUB_E_INVALID, "%zu VMs are called \"%s\": use the agent's VM id", n,
			name);
	return NULL;
}

static int discovery_store(struct hub *hub, const struct hub_discovery *where, const json_t *answer,
			   const json_t *vm, struct catalog_vm_context *out, struct err *err)
{
	_cleanup_(freep) struct catalog_vm_disk *disks = NULL;
	_cleanup_(freep) char *networks = NULL;
	size_t n = 0;
	int rc = discovery_vm(answer, vm, where, out, err);

	if (!rc)
		rc = discovery_disks(vm, &disks, &n, err);
	if (rc)
		return err_prefix(err, rc, "VM \"%.200s\"", hub_json_text(vm, "name"));
	if (json_is_array(json_object_get(vm, "networks")))
		networks = json_dumps(json_object_get(vm, "networks"), JSON_COMPACT);
	rc = catalog_vm_context_upsert(hub->catalog, out, disks, n, networks, err);
	if (rc)
		return hub_from_catalog(rc);
	log_info(&hub->log, "VM \"%s\" (%s): %zu disks, %lld bytes", out->vm_name, out->context_id,
		 n, (long long)out->total_capacity_bytes);
	return 0;
}

static int discovery_add(struct hub *hub, const struct hub_discovery *where, const json_t *answer,
			 const char *name, struct catalog_vm_context *out, struct err *err)
{
	const json_t *vm = discovery_find(answer, name, err);

	return vm ? discovery_store(hub, where, answer, vm, out, err) : err->code;
}

static void discovery_add_row(struct hub *hub, const struct hub_discovery *where,
			      const json_t *answer, const char *name, struct hub_added_vm *row)
{
	struct err err = ERR_INIT;

	if (!discovery_add(hub, where, answer, name, &row->vm, &err))
		return;
	row->vm = (struct catalog_vm_context){.credential_id = CATALOG_NONE};
	CATALOG_TEXT(row->vm.vm_name, name);
	snprintf(row->error, sizeof(row->error), "%.*s", (int)sizeof(row->error) - 1, err.text);
}

int hub_add_vms(struct hub *hub, const struct hub_discovery *where, const char *const *names,
		size_t n, struct hub_added_vm **rows, struct err *err)
{
	_cleanup_(freep) struct hub_added_vm *out = NULL;
	struct hub_discovery asked = *where;
	json_t *answer = NULL;
	size_t added = 0;
	int rc;

	if (!n)
		return err_set(err, HUB_E_INVALID, "vm_names is empty");
	out = calloc(n, sizeof(*out));
	if (!out)
		return err_sys(err, -ENOMEM, "discovery");
	rc = discovery_ask(hub, &asked, &answer, err);
	explicit_bzero(asked.password, sizeof(asked.password));
	if (rc)
		return rc;
	for (size_t i = 0; i < n; i++) {
		discovery_add_row(hub, &asked, answer, names[i], &out[i]);
		added += !out[i].error[0];
	}
	json_decref(answer);
	if (!added)
		return err_set(err, HUB_E_NOT_FOUND, "no VM was added: %s", out[0].error);
	*rows = steal(&out);
	return 0;
}

/* --- what an appliance posts by itself -------------------------------------------------------- */

struct inventory_known {
	struct catalog_vm_context *rows;
	bool *met; /* of each: it was stored out of this list */
	size_t n;
};

/* Its number; known->n: it is not under management. */
static size_t inventory_find(const struct inventory_known *known, const char *vm_id)
{
	for (size_t i = 0; vm_id[0] && i < known->n; i++)
		if (!strcmp(known->rows[i].vmware_vm_id, vm_id))
			return i;
	return known->n;
}

/* The appliance names what it does not know with zero values: a VM without disks would lose all of
 * those it is known with. */
static int inventory_refresh(struct hub *hub, const json_t *inventory, const json_t *vm,
			     struct err *err)
{
	const struct hub_discovery where = {.credential_id = CATALOG_NONE};
	struct catalog_vm_context row;

	if (!json_array_size(json_object_get(vm, "disks")))
		return err_set(err, HUB_E_INVALID, "VM \"%.200s\" is listed without disks",
			       hub_json_text(vm, "name"));
	return discovery_store(hub, &where, inventory, vm, &row, err);
}

/* A list can name one VM as often as it has room for: stored once, however long it is. */
static void inventory_vm(struct hub *hub, const json_t *inventory, const json_t *vm, bool *met,
			 struct hub_inventory *out, char why[256])
{
	struct err err = ERR_INIT;
	int rc = *met ? err_set(&err, HUB_E_INVALID, "VM \"%.200s\" is listed more than once",
				hub_json_text(vm, "name"))
		      : inventory_refresh(hub, inventory, vm, &err);

	if (!rc) {
		*met = true;
		out->refreshed++;
	} else if (!out->failed++) {
		snprintf(why, 256, "%.255s", err.text);
	}
}

static void inventory_take_all(struct hub *hub, const json_t *inventory,
			       const struct inventory_known *known, struct hub_inventory *out,
			       char why[256])
{
	const json_t *vm;
	size_t i;

	json_array_foreach (json_object_get(inventory, "vms"), i, vm) {
		size_t at = inventory_find(known, hub_json_text(vm, "id"));

		out->seen++;
		if (at < known->n)
			inventory_vm(hub, inventory, vm, &known->met[at], out, why);
		else
			out->unknown++;
	}
	if (out->failed)
		log_warn(&hub->log, "inventory: %zu VMs could not be refreshed, the first: %s",
			 out->failed, why);
}

int hub_inventory_take(struct hub *hub, const json_t *inventory, struct hub_inventory *out,
		       char why[256], struct err *err)
{
	const char *host = hub_json_text(json_object_get(inventory, "vcenter"), "host");
	_cleanup_(freep) struct catalog_vm_context *rows = NULL;
	_cleanup_(freep) bool *met = NULL;
	struct catalog_vm_filter filter = {.vcenter_host = host};
	size_t n = 0;
	int rc;

	*out = (struct hub_inventory){0};
	why[0] = '\0';
	if (!host[0])
		return err_set(err, HUB_E_INVALID, "vcenter.host is missing");
	if (!json_is_array(json_object_get(inventory, "vms")))
		return err_set(err, HUB_E_INVALID, "vms must be a list");
	rc = hub_from_catalog(
		catalog_vm_contexts_list(hub->catalog, &filter, &rows, &n, NULL, err));
	if (rc)
		return rc;
	met = calloc(n + 1, sizeof(*met));
	if (!met)
		return err_sys(err, -ENOMEM, "inventory");
	inventory_take_all(hub, inventory, &(struct inventory_known){rows, met, n}, out, why);
	return 0;
}
