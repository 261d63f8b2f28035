/*
 * Two tables say which fields a VM and a disk have, of which type, within which bounds; one walker
 * fills the structs from them and names the field that is wrong. A field nobody knows is refused:
 * in a file written by hand it is a typing error, and ignoring "bitmpa" would mean a full read
 * every night. What no table can say (sources, duplicates) follows in functions of its own.
 */
#include "tools/agent_inventory.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bytes.h"

#define INVENTORY_FILE_MAX (64 * MIB)
#define INVENTORY_VMS_MAX  100000

struct agent_inventory {
	json_t *root; /* owns every text */
	struct agent_vm *vms;
	size_t vm_count;
};

enum field_type { FIELD_TEXT, FIELD_INT, FIELD_OTHER };

struct field {
	const char *name;
	enum field_type type;
	bool required;
	size_t offset;	    /* of the member it fills; unused for FIELD_OTHER */
	int64_t min, max;   /* of a number, or of a text's length */
	const char *absent; /* a text's value when it is not given */
};

#define VM(member)   offsetof(struct agent_vm, member)
#define DISK(member) offsetof(struct agent_disk, member)

static const struct field vm_fields[] = {
	{"name", FIELD_TEXT, true, VM(name), 1, 200, NULL},
	{"id", FIELD_TEXT, true, VM(id), 1, 80, NULL},
	{"path", FIELD_TEXT, false, VM(path), 1, 500, NULL},
	{"guest_os", FIELD_TEXT, false, VM(guest_os), 0, AGENT_NAME_MAX, ""},
	{"datacenter", FIELD_TEXT, false, VM(datacenter), 0, AGENT_NAME_MAX, ""},
	{"power_state", FIELD_TEXT, false, VM(power_state), 0, AGENT_NAME_MAX, "unknown"},
	{"folder_path", FIELD_TEXT, false, VM(folder_path), 0, 500, ""},
	{"annotation", FIELD_TEXT, false, VM(annotation), 0, 4096, ""},
	{"qmp", FIELD_TEXT, false, VM(qmp), 1, 107, NULL},
	{"memory_mb", FIELD_INT, false, VM(memory_mb), 0, INT32_MAX, NULL},
	{"num_cpu", FIELD_INT, false, VM(num_cpu), 0, 65536, NULL},
	{"disks", FIELD_OTHER, true, 0, 0, 0, NULL},
};

static const struct field disk_fields[] = {
	{"key", FIELD_INT, true, DISK(key), 0, INT32_MAX, NULL},
	{"label", FIELD_TEXT, false, DISK(label), 0, AGENT_NAME_MAX, ""},
	{"source", FIELD_TEXT, true, DISK(source), 1, 4000, NULL},
	{"format", FIELD_OTHER, false, 0, 0, 0, NULL},
	{"bitmap", FIELD_TEXT, false, DISK(bitmap), 1, 200, NULL},
	{"unit_number", FIELD_INT, false, DISK(unit_number), 0, 65535, NULL},
	{"capacity_bytes", FIELD_INT, false, DISK(capacity_bytes), AGENT_SECTOR, AGENT_DISK_BYTES,
	 NULL},
};

static const struct field root_fields[] = {
	{"vms", FIELD_OTHER, true, 0, 0, 0, NULL},
};

static const char *type_word(enum field_type type)
{
	return type == FIELD_TEXT ? "a text" : "a whole number";
}

static int field_text(const struct field *f, const json_t *v, char *base, const char *where,
		      struct err *err)
{
	const char *s = json_string_value(v);
	size_t n = json_string_length(v);

	if (n != strlen(s))
		return err_set(err, -EINVAL, "%s: field \"%s\" contains a NUL character", where,
			       f->name);
	if (n < (size_t)f->min || n > (size_t)f->max)
		return err_set(err, -EINVAL, "%s: field \"%s\" must have %lld to %lld bytes", where,
			       f->name, (long long)f->min, (long long)f->max);
	*(const char **)(base + f->offset) = s;
	return 0;
}

static int field_int(const struct field *f, const json_t *v, char *base, const char *where,
		     struct err *err)
{
	int64_t n = json_integer_value(v);

	if (n < f->min || n > f->max)
		return err_set(err, -EINVAL, "%s: field \"%s\" must be %lld to %lld", where,
			       f->name, (long long)f->min, (long long)f->max);
	*(int64_t *)(base + f->offset) = n;
	return 0;
}

static int field_fill(const struct field *f, const json_t *v, char *base, const char *where,
		      struct err *err)
{
	if (!v && f->required)
		return err_set(err, -EINVAL, "%s: field \"%s\" is missing", where, f->name);
	if (f->type == FIELD_OTHER)
		return 0;
	if (!v) {
		if (f->type == FIELD_TEXT)
			*(const char **)(base + f->offset) = f->absent;
		return 0;
	}
	if (f->type == FIELD_TEXT ? !json_is_string(v) : !json_is_integer(v))
		return err_set(err, -EINVAL, "%s: field \"%s\" must be %s", where, f->name,
			       type_word(f->type));
	return f->type == FIELD_TEXT ? field_text(f, v, base, where, err)
				     : field_int(f, v, base, where, err);
}

static bool field_known(const struct field *fields, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(fields[i].name, name) == 0)
			return true;
	return false;
}

static int fields_fill(const struct field *fields, size_t n, json_t *obj, void *base,
		       const char *where, struct err *err)
{
	const char *key;
	json_t *v;
	int rc;

	if (!json_is_object(obj))
		return err_set(err, -EINVAL, "%s must be a JSON object", where);
	json_object_foreach (obj, key, v) {
		if (!field_known(fields, n, key))
			return err_set(err, -EINVAL, "%s: field \"%s\" is not known", where, key);
	}
	for (size_t i = 0; i < n; i++) {
		rc = field_fill(&fields[i], json_object_get(obj, fields[i].name), base, where, err);
		if (rc)
			return rc;
	}
	return 0;
}

/* --- disks ---------------------------------------------------------------------------------- */

static bool source_is_uri(const char *source)
{
	return strstr(source, "://") != NULL;
}

static int disk_nbd_source(const struct agent_disk *disk, const json_t *format, const char *where,
			   struct err *err)
{
	if (strncmp(disk->source, "nbd://", 6) != 0 &&
	    strncmp(disk->source, "nbd+unix://", 11) != 0)
		return err_set(err, -EINVAL,
			       "%s: field \"source\" must be an absolute path, nbd://, "
			       "nbd+unix:// or qemu:NODE",
			       where);
	if (format)
		return err_set(err, -EINVAL,
			       "%s: field \"format\" belongs to files: an NBD source has none",
			       where);
	return 0;
}

static int disk_file_source(struct agent_disk *disk, const json_t *format, const char *where,
			    struct err *err)
{
	const char *s = json_string_value(format);

	if (disk->source[0] != '/')
		return err_set(err, -EINVAL,
			       "%s: field \"source\" must be an absolute path, nbd://, "
			       "nbd+unix:// or qemu:NODE",
			       where);
	/* Never probed: a guest could write a qcow2 header into its raw disk. */
	if (!s || (strcmp(s, "raw") != 0 && strcmp(s, "qcow2") != 0))
		return err_set(err, -EINVAL, "%s: field \"format\" must be \"raw\" or \"qcow2\"",
			       where);
	disk->format = s[0] == 'r' ? AGENT_FORMAT_RAW : AGENT_FORMAT_QCOW2;
	if (disk->bitmap && disk->format == AGENT_FORMAT_RAW)
		return err_set(err, -EINVAL,
			       "%s: field \"bitmap\" needs a qcow2 or NBD source: raw has none",
			       where);
	if (disk->capacity_bytes)
		return err_set(err, -EINVAL,
			       "%s: field \"capacity_bytes\" belongs to NBD sources: a file has "
			       "its own size",
			       where);
	return 0;
}

/* A node the operator has named: names QEMU makes up ("#block123") are others at every start. */
static int disk_live_source(struct agent_disk *disk, const json_t *format, const char *where,
			    struct err *err)
{
	static const char plain[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
	const char *node = disk->source + strlen(AGENT_QEMU_PREFIX);

	disk->format = AGENT_FORMAT_LIVE;
	if (!node[0] || strlen(node) > 31 || node[strspn(node, plain)])
		return err_set(err, -EINVAL,
			       "%s: field \"source\": a node's name has 1 to 31 of A-Z a-z 0-9 . "
			       "_ -",
			       where);
	if (format || disk->bitmap)
		return err_set(err, -EINVAL, "%s: field \"%s\" is not for a node of a running QEMU",
			       where, format ? "format" : "bitmap");
	return 0;
}

static int disk_parse(struct agent_disk *disk, json_t *obj, const char *vm, size_t nr,
		      struct err *err)
{
	const json_t *format = json_object_get(obj, "format");
	const json_t *key = json_object_get(obj, "key");
	char where[512];
	int rc;

	if (json_is_integer(key))
		snprintf(where, sizeof(where), "%s, disk %lld", vm,
			 (long long)json_integer_value(key));
	else
		snprintf(where, sizeof(where), "%s, disk number %zu", vm, nr + 1);
	rc = fields_fill(disk_fields, ARRAY_SIZE(disk_fields), obj, disk, where, err);
	if (rc)
		return rc;
	if (disk->capacity_bytes % AGENT_SECTOR)
		return err_set(err, -EINVAL,
			       "%s: field \"capacity_bytes\" must be a multiple of %u", where,
			       AGENT_SECTOR);
	if (strncmp(disk->source, AGENT_QEMU_PREFIX, strlen(AGENT_QEMU_PREFIX)) == 0)
		return disk_live_source(disk, format, where, err);
	if (!source_is_uri(disk->source) || disk->source[0] == '/')
		return disk_file_source(disk, format, where, err);
	disk->format = AGENT_FORMAT_NBD;
	return disk_nbd_source(disk, format, where, err);
}

static int disks_unique(const struct agent_vm *vm, const char *where, struct err *err)
{
	for (size_t i = 0; i < vm->disk_count; i++)
		for (size_t j = 0; j < i; j++)
			if (vm->disks[i].key == vm->disks[j].key)
				return err_set(err, -EINVAL,
					       "%s, disk %lld: field \"key\" is used twice", where,
					       (long long)vm->disks[i].key);
	return 0;
}

/* One snapshot is for all disks of a VM: they are all QEMU's, or none is. */
static int disks_agree(const struct agent_vm *vm, const char *where, struct err *err)
{
	for (size_t i = 0; i < vm->disk_count; i++) {
		bool live = vm->disks[i].format == AGENT_FORMAT_LIVE;

		if (live && !vm->qmp)
			return err_set(err, -EINVAL,
				       "%s, disk %lld: field \"source\" is qemu:NODE, which needs "
				       "the VM's field \"qmp\"",
				       where, (long long)vm->disks[i].key);
		if (!live && vm->qmp)
			return err_set(err, -EINVAL,
				       "%s, disk %lld: field \"source\" must be qemu:NODE, as the "
				       "VM has a field \"qmp\"",
				       where, (long long)vm->disks[i].key);
	}
	return 0;
}

static int disks_parse(struct agent_vm *vm, json_t *list, const char *where, struct err *err)
{
	size_t n = json_array_size(list);

	if (!n || n > AGENT_DISKS_MAX)
		return err_set(err, -EINVAL, "%s: field \"disks\" must be a list of 1 to %d disks",
			       where, AGENT_DISKS_MAX);
	vm->disks = calloc(n, sizeof(*vm->disks));
	if (!vm->disks)
		return err_sys(err, -ENOMEM, "%s", where);
	for (; vm->disk_count < n; vm->disk_count++) {
		int rc =
			disk_parse(&vm->disks[vm->disk_count], json_array_get(list, vm->disk_count),
				   where, vm->disk_count, err);
		if (rc)
			return rc;
	}
	return disks_agree(vm, where, err) ? -EINVAL : disks_unique(vm, where, err);
}

/* --- VMs ------------------------------------------------------------------------------------ */

/* The hub is asked for the last part of the path, and finds the job by the name: one text. */
static int vm_path(struct agent_vm *vm, const char *where, struct err *err)
{
	const char *last;

	if (strchr(vm->name, '/'))
		return err_set(err, -EINVAL, "%s: field \"name\" must not contain \"/\"", where);
	if (vm->qmp && vm->qmp[0] != '/')
		return err_set(err, -EINVAL, "%s: field \"qmp\" must be an absolute path", where);
	if (!vm->path) {
		snprintf(vm->default_path, sizeof(vm->default_path), "/%s/vm/%s",
			 vm->datacenter[0] ? vm->datacenter : "local", vm->name);
		vm->path = vm->default_path;
	}
	last = strrchr(vm->path, '/');
	if (vm->path[0] != '/' || strcmp(last + 1, vm->name) != 0)
		return err_set(err, -EINVAL,
			       "%s: field \"path\" must start with \"/\" and end in \"/%s\"", where,
			       vm->name);
	return 0;
}

static int vm_parse(struct agent_vm *vm, json_t *obj, const char *file, size_t nr, struct err *err)
{
	const char *name = json_string_value(json_object_get(obj, "name"));
	char where[400];
	int rc;

	if (name)
		snprintf(where, sizeof(where), "%s: VM \"%s\"", file, name);
	else
		snprintf(where, sizeof(where), "%s: VM number %zu", file, nr + 1);
	rc = fields_fill(vm_fields, ARRAY_SIZE(vm_fields), obj, vm, where, err);
	if (!rc)
		rc = vm_path(vm, where, err);
	if (!rc)
		rc = disks_parse(vm, json_object_get(obj, "disks"), where, err);
	return rc;
}

/* A set of the texts seen so far; json objects are hash tables already. */
static int texts_unique(const struct agent_inventory *inv, const char *file, const char *field,
			size_t offset, struct err *err)
{
	json_t *seen = json_object();
	int rc = seen ? 0 : err_sys(err, -ENOMEM, "%s", file);

	for (size_t i = 0; !rc && i < inv->vm_count; i++) {
		const char *s = *(const char **)((char *)&inv->vms[i] + offset);

		if (json_object_get(seen, s))
			rc = err_set(err, -EINVAL,
				     "%s: VM \"%s\": field \"%s\" is another VM's too: \"%s\"",
				     file, inv->vms[i].name, field, s);
		else if (json_object_set_new(seen, s, json_true()))
			rc = err_sys(err, -ENOMEM, "%s", file);
	}
	json_decref(seen);
	return rc;
}

/* A hub asks for change ids by VM name, so two VMs of one name cannot be told apart. */
static int vms_unique(const struct agent_inventory *inv, const char *file, struct err *err)
{
	int rc = texts_unique(inv, file, "name", VM(name), err);

	if (!rc)
		rc = texts_unique(inv, file, "id", VM(id), err);
	return rc ? rc : texts_unique(inv, file, "path", VM(path), err);
}

static int vms_parse(struct agent_inventory *inv, const char *file, struct err *err)
{
	json_t *list;
	size_t n;
	int rc;

	rc = fields_fill(root_fields, ARRAY_SIZE(root_fields), inv->root, NULL, file, err);
	if (rc)
		return rc;
	list = json_object_get(inv->root, "vms");
	n = json_array_size(list);
	if (!json_is_array(list) || n > INVENTORY_VMS_MAX)
		return err_set(err, -EINVAL, "%s: field \"vms\" must be a list of at most %d VMs",
			       file, INVENTORY_VMS_MAX);
	inv->vms = calloc(n + 1, sizeof(*inv->vms));
	if (!inv->vms)
		return err_sys(err, -ENOMEM, "%s", file);
	while (inv->vm_count < n) {
		size_t i = inv->vm_count++; /* counted first: free() then sees half a VM too */

		rc = vm_parse(&inv->vms[i], json_array_get(list, i), file, i, err);
		if (rc)
			return rc;
	}
	return vms_unique(inv, file, err);
}

int agent_inventory_parse(struct agent_inventory **out, const char *text, size_t len,
			  const char *name, struct err *err)
{
	_cleanup_(agent_inventory_freep) struct agent_inventory *inv = calloc(1, sizeof(*inv));
	json_error_t jerr;
	int rc;

	if (!inv)
		return err_sys(err, -ENOMEM, "%s", name);
	inv->root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &jerr);
	if (!inv->root)
		return err_set(err, -EINVAL, "%s: line %d: %s", name, jerr.line, jerr.text);
	rc = vms_parse(inv, name, err);
	if (rc)
		return rc;
	*out = steal(&inv);
	return 0;
}

static int inventory_read(int fd, char *text, size_t size, const char *file, struct err *err)
{
	size_t got = 0;

	while (got < size) {
		ssize_t n = read(fd, text + got, size - got);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_sys(err, -errno, "inventory %s cannot be read", file);
		if (n == 0)
			return err_set(err, -EAGAIN, "inventory %s changed while it was read",
				       file);
		got += (size_t)n;
	}
	return 0;
}

int agent_inventory_load(struct agent_inventory **out, const char *file, struct err *err)
{
	_cleanup_(closep) int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	_cleanup_(freep) char *text = NULL;
	struct stat st;
	int rc;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(err, -errno, "inventory %s cannot be opened", file);
	if (!S_ISREG(st.st_mode) || st.st_size > (off_t)INVENTORY_FILE_MAX)
		return err_set(err, -EINVAL, "inventory %s is no file of at most %llu MiB", file,
			       INVENTORY_FILE_MAX / MIB);
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return err_sys(err, -ENOMEM, "inventory %s", file);
	rc = inventory_read(fd, text, (size_t)st.st_size, file, err);
	if (rc)
		return rc;
	return agent_inventory_parse(out, text, (size_t)st.st_size, file, err);
}

void agent_inventory_free(struct agent_inventory *inv)
{
	if (!inv)
		return;
	for (size_t i = 0; i < inv->vm_count; i++)
		free(inv->vms[i].disks);
	free(inv->vms);
	json_decref(inv->root);
	free(inv);
}

size_t agent_inventory_count(const struct agent_inventory *inv)
{
	return inv->vm_count;
}

const struct agent_vm *agent_inventory_vm(const struct agent_inventory *inv, size_t i)
{
	return i < inv->vm_count ? &inv->vms[i] : NULL;
}

const struct agent_vm *agent_inventory_find(const struct agent_inventory *inv, const char *path)
{
	for (size_t i = 0; i < inv->vm_count; i++)
		if (strcmp(inv->vms[i].path, path) == 0)
			return &inv->vms[i];
	return NULL;
}
