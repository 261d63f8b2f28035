#include "tools/agent_discover.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/log.h"
#include "tools/agent_json.h"
#include "tools/agent_live.h"
#include "tools/agent_source.h"

static const struct log_scope discover_log = {"discover"};

/* The folder of a file; a hub shows it as the disk's datastore. */
static json_t *datastore(const struct agent_disk *disk)
{
	const char *slash = strrchr(disk->source, '/');

	if (disk->format == AGENT_FORMAT_NBD || disk->format == AGENT_FORMAT_LIVE)
		return json_string(disk->format == AGENT_FORMAT_NBD ? "nbd" : "qemu");
	return json_stringn(disk->source,
			    slash > disk->source ? (size_t)(slash - disk->source) : 1);
}

static json_t *disk_json(const struct agent_disk *disk, size_t nr, uint64_t size)
{
	char id[32], label[32];

	snprintf(id, sizeof(id), "disk-%lld", (long long)disk->key);
	snprintf(label, sizeof(label), "Hard disk %zu", nr + 1);
	return json_pack("{s:s,s:I,s:s,s:s,s:s,s:I,s:I,s:o,s:s,s:I}", "id", id, "key",
			 (json_int_t)disk->key, "label", disk->label[0] ? disk->label : label,
			 "path", disk->source, "vmdk_path", disk->source, "size_gb",
			 (json_int_t)div_up(size, GIB), "capacity_bytes", (json_int_t)size,
			 "datastore", datastore(disk), "provisioning_type",
			 disk->format == AGENT_FORMAT_QCOW2 ? "thin" : "", "unit_number",
			 (json_int_t)disk->unit_number);
}

/* While its VM is off, a disk of QEMU's has the size the inventory gives it. */
static int live_sizes(const struct agent_vm *vm, const struct agent_stop *stop, uint64_t *sizes,
		      struct err *err)
{
	int rc = agent_live_sizes(vm, stop, sizes, err);

	if (!rc)
		return 0;
	for (size_t i = 0; i < vm->disk_count; i++) {
		sizes[i] = (uint64_t)vm->disks[i].capacity_bytes;
		if (!sizes[i])
			return rc;
	}
	return 0;
}

static int disk_sizes(const struct agent_vm *vm, const struct agent_stop *stop, uint64_t *sizes,
		      struct err *err)
{
	if (vm->qmp)
		return live_sizes(vm, stop, sizes, err);
	for (size_t i = 0; i < vm->disk_count; i++) {
		int rc = agent_source_probe(&vm->disks[i], stop, &sizes[i], err);

		if (rc)
			return err_prefix(err, rc, "disk %lld", (long long)vm->disks[i].key);
	}
	return 0;
}

static int disks_json(const struct agent_vm *vm, const struct agent_stop *stop, json_t *list,
		      struct err *err)
{
	uint64_t sizes[AGENT_DISKS_MAX];
	int rc = disk_sizes(vm, stop, sizes, err);

	if (rc)
		return rc;
	for (size_t i = 0; i < vm->disk_count; i++) {
		if (json_array_append_new(list, disk_json(&vm->disks[i], i, sizes[i])))
			return err_sys(err, -ENOMEM, "disk %lld", (long long)vm->disks[i].key);
	}
	return 0;
}

static json_t *vm_json(const struct agent_vm *vm, json_t *disks)
{
	return json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:I,s:I,s:s,s:s,s:s,s:s,s:s,s:o,s:[]}", "id",
			 vm->id, "name", vm->name, "path", vm->path, "datacenter", vm->datacenter,
			 "power_state", vm->power_state, "guest_os", vm->guest_os, "memory_mb",
			 (json_int_t)vm->memory_mb, "num_cpu", (json_int_t)vm->num_cpu,
			 "vmx_version", "", "folder_path", vm->folder_path, "annotation",
			 vm->annotation, "vmware_tools_status", "", "vmware_tools_version", "",
			 "disks", disks, "networks");
}

static bool wanted(const struct agent_vm *vm, const struct agent_discover *what)
{
	if (what->datacenter[0] && vm->datacenter[0] &&
	    strcmp(what->datacenter, vm->datacenter) != 0)
		return false;
	return !what->filter[0] || strcasestr(vm->name, what->filter);
}

static void add_vm(const struct agent_vm *vm, const struct agent_stop *stop, json_t *vms,
		   json_t *errors)
{
	struct err err = ERR_INIT;
	json_t *disks = json_array();

	if (disks_json(vm, stop, disks, &err) == 0) {
		json_array_append_new(vms, vm_json(vm, disks));
		return;
	}
	json_decref(disks);
	log_error(&discover_log, "VM \"%s\" is left out: %s", vm->name, err.text);
	json_array_append_new(errors, json_pack("{s:s,s:o}", "vm", vm->name, "message",
						agent_text_json(err.text)));
}

int agent_discover(const struct agent_inventory *inv, const struct agent_discover *what,
		   const struct agent_stop *stop, json_t **out, struct err *err)
{
	json_t *vms = json_array(), *errors = json_array();

	for (size_t i = 0; i < agent_inventory_count(inv); i++) {
		const struct agent_vm *vm = agent_inventory_vm(inv, i);

		if (wanted(vm, what))
			add_vm(vm, stop, vms, errors);
	}
	*out = json_pack("{s:{s:s,s:s},s:o,s:o}", "vcenter", "host", what->vcenter, "datacenter",
			 what->datacenter, "vms", vms, "errors", errors);
	return *out ? 0 : err_sys(err, -ENOMEM, "discovery");
}
