#include "tools/agent_live.h"

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/xxh3.h"
#include "tools/agent_qmp.h"
#include "tools/agent_track.h"

#define PREFIX	      "sendense-"
#define NAME_SIZE     96
#define PATH_SIZE     600
#define GONE_MS	      10
#define GONE_TRIES    1000
#define GRANULARITY   ((json_int_t)AGENT_BLOCK)
#define SOCKET_LENGTH 107 /* sun_path */

struct live_disk {
	struct agent_live_disk face;
	const char *node;
	json_t *bitmaps; /* as QEMU lists them; owned; NULL: none */
	bool persistent; /* the node can keep bitmaps */
	char scratch[PATH_SIZE];
};

struct agent_live {
	const struct agent_vm *vm;
	char socket[PATH_SIZE];
	struct live_disk *disks;
};

static const char *text(const json_t *obj, const char *key)
{
	const char *s = json_string_value(json_object_get(obj, key));

	return s ? s : "";
}

static bool ours(const char *name)
{
	return strncmp(name, PREFIX, strlen(PREFIX)) == 0;
}

static const char *name_of(char buf[NAME_SIZE], const char *what, size_t i)
{
	snprintf(buf, NAME_SIZE, PREFIX "%s-%zu", what, i);
	return buf;
}

/* "sendense-UUID-7" of "UUID/7"; an empty name for what is no change id. */
static const char *bitmap_of(char buf[NAME_SIZE], const char *change_id)
{
	char point[AGENT_CHANGE_SIZE];
	uint64_t sequence;
	uint8_t uuid[16];

	buf[0] = '\0';
	if (agent_change_id_parse(change_id, uuid, &sequence))
		return buf;
	agent_change_id_format(uuid, sequence, '-', point);
	snprintf(buf, NAME_SIZE, PREFIX "%s", point);
	return buf;
}

/* --- what QEMU has -------------------------------------------------------------------------- */

static int query_nodes(struct agent_qmp *q, json_t **nodes, struct err *err)
{
	return agent_qmp_call(q, "query-named-block-nodes", json_pack("{s:b}", "flat", 1), nodes,
			      err);
}

static const json_t *find_node(const json_t *nodes, const char *name)
{
	json_t *node;
	size_t i;

	json_array_foreach (nodes, i, node) {
		if (strcmp(text(node, "node-name"), name) == 0)
			return node;
	}
	return NULL;
}

static int node_size(const json_t *node, const struct agent_vm *vm, const char *name,
		     uint64_t *size, struct err *err)
{
	json_int_t n =
		json_integer_value(json_object_get(json_object_get(node, "image"), "virtual-size"));

	if (!node)
		return err_set(err, -ENODEV, "QEMU at %s has no block node \"%s\"", vm->qmp, name);
	if (n <= 0 || (uint64_t)n > AGENT_DISK_BYTES)
		return err_set(err, -EINVAL, "QEMU at %s: node \"%s\" is empty or too large",
			       vm->qmp, name);
	*size = align_up((uint64_t)n, AGENT_SECTOR);
	return 0;
}

/* Bitmaps can be kept in qcow2 files of version 3. */
static bool node_persistent(const json_t *node)
{
	const json_t *data = json_object_get(
		json_object_get(json_object_get(node, "image"), "format-specific"), "data");

	return strcmp(text(node, "drv"), "qcow2") == 0 && strcmp(text(data, "compat"), "1.1") == 0;
}

static int read_nodes(struct agent_live *live, struct agent_qmp *q, struct err *err)
{
	json_t *nodes = NULL;
	int rc = query_nodes(q, &nodes, err);

	for (size_t i = 0; !rc && i < live->vm->disk_count; i++) {
		struct live_disk *d = &live->disks[i];
		const json_t *node = find_node(nodes, d->node);

		rc = node_size(node, live->vm, d->node, &d->face.size, err);
		if (rc)
			break;
		json_decref(d->bitmaps);
		d->bitmaps = json_incref(json_object_get(node, "dirty-bitmaps"));
		d->persistent = node_persistent(node);
	}
	json_decref(nodes);
	return rc;
}

int agent_live_sizes(const struct agent_vm *vm, const struct agent_stop *stop, uint64_t *sizes,
		     struct err *err)
{
	_cleanup_(agent_qmp_closep) struct agent_qmp *q = NULL;
	json_t *nodes = NULL;
	int rc = agent_qmp_open(&q, vm->qmp, stop, err);

	if (!rc)
		rc = query_nodes(q, &nodes, err);
	for (size_t i = 0; !rc && i < vm->disk_count; i++) {
		const char *name = vm->disks[i].source + strlen(AGENT_QEMU_PREFIX);

		rc = node_size(find_node(nodes, name), vm, name, &sizes[i], err);
	}
	json_decref(nodes);
	return rc;
}

/* --- clearing away -------------------------------------------------------------------------- */

/* How many NBD exports there are, and how many of them are ours. */
static int count_exports(struct agent_qmp *q, size_t *all, size_t *mine, json_t **list,
			 struct err *err)
{
	json_t *exports = NULL, *e;
	int rc = agent_qmp_call(q, "query-block-exports", NULL, &exports, err);
	size_t i;

	*all = *mine = 0;
	json_array_foreach (exports, i, e) {
		*all += strcmp(text(e, "type"), "nbd") == 0;
		*mine += ours(text(e, "id"));
	}
	if (list)
		*list = exports;
	else
		json_decref(exports);
	return rc;
}

static int wait_exports_gone(struct agent_qmp *q, size_t *others, struct err *err)
{
	size_t mine;

	for (int try = 0; try < GONE_TRIES; try++) {
		int rc = count_exports(q, others, &mine, NULL, err);

		if (rc || !mine)
			return rc;
		poll(NULL, 0, GONE_MS);
	}
	return err_set(err, -ETIMEDOUT, "QEMU does not end an export");
}

/* The NBD server goes with our exports, unless somebody else has put one there too. */
static int clear_exports(struct agent_qmp *q, struct err *err)
{
	size_t all, mine, others, i;
	json_t *list = NULL, *e;
	int rc = count_exports(q, &all, &mine, &list, err);

	json_array_foreach (list, i, e) {
		if (!rc && ours(text(e, "id")))
			rc = agent_qmp_call(
				q, "block-export-del",
				json_pack("{s:s,s:s}", "id", text(e, "id"), "mode", "hard"), NULL,
				err);
	}
	json_decref(list);
	if (rc || !mine)
		return rc;
	rc = wait_exports_gone(q, &others, err);
	return rc || others ? rc : agent_qmp_call(q, "nbd-server-stop", NULL, NULL, err);
}

static int clear_jobs(struct agent_qmp *q, struct err *err)
{
	json_t *jobs = NULL, *job;
	int rc = agent_qmp_call(q, "query-jobs", NULL, &jobs, err);
	size_t i;

	json_array_foreach (jobs, i, job) {
		const char *id = text(job, "id");

		if (rc || !ours(id))
			continue;
		/* Refused when it has just ended, which is as good. */
		rc = agent_qmp_call(q, "job-cancel", json_pack("{s:s}", "id", id), NULL, NULL);
		if (rc >= 0)
			rc = agent_qmp_wait_job(q, id, err);
	}
	json_decref(jobs);
	return rc;
}

static int delete_nodes(struct agent_qmp *q, const json_t *nodes, const char *prefix,
			struct err *err)
{
	json_t *node;
	size_t i;
	int rc = 0;

	json_array_foreach (nodes, i, node) {
		const char *name = text(node, "node-name");

		if (!rc && strncmp(name, prefix, strlen(prefix)) == 0)
			rc = agent_qmp_call(q, "blockdev-del",
					    json_pack("{s:s}", "node-name", name), NULL, err);
	}
	return rc;
}

static int clear_nodes(struct agent_qmp *q, struct err *err)
{
	json_t *nodes = NULL;
	int rc = query_nodes(q, &nodes, err);

	if (!rc)
		rc = delete_nodes(q, nodes, PREFIX "fleece-", err);
	if (!rc)
		rc = delete_nodes(q, nodes, PREFIX "file-", err);
	json_decref(nodes);
	return rc;
}

static int remove_bitmap(struct agent_qmp *q, const char *node, const char *name, struct err *err)
{
	return agent_qmp_call(q, "block-dirty-bitmap-remove",
			      json_pack("{s:s,s:s}", "node", node, "name", name), NULL, err);
}

static int clear_frozen(struct agent_live *live, struct agent_qmp *q, struct err *err)
{
	int rc = 0;

	for (size_t i = 0; !rc && i < live->vm->disk_count; i++) {
		json_t *bitmap;
		size_t k;

		json_array_foreach (live->disks[i].bitmaps, k, bitmap) {
			if (!rc && strcmp(text(bitmap, "name"), AGENT_LIVE_BITMAP) == 0)
				rc = remove_bitmap(q, live->disks[i].node, AGENT_LIVE_BITMAP, err);
		}
	}
	return rc;
}

/* In this order: an export holds its node, a job holds its target. Leaves the nodes read anew. */
static int clear_all(struct agent_live *live, struct agent_qmp *q, struct err *err)
{
	int rc = clear_exports(q, err);

	if (!rc)
		rc = clear_jobs(q, err);
	if (!rc)
		rc = clear_nodes(q, err);
	if (!rc)
		rc = read_nodes(live, q, err);
	if (!rc)
		rc = clear_frozen(live, q, err);
	if (rc)
		return rc;
	for (size_t i = 0; i < live->vm->disk_count; i++)
		unlink(live->disks[i].scratch);
	unlink(live->socket);
	return 0;
}

static int prune_bitmaps(struct agent_live *live, struct agent_qmp *q, size_t i,
			 const struct agent_live_points *points, struct err *err)
{
	struct live_disk *d = &live->disks[i];
	json_t *bitmap;
	size_t k;
	int rc = 0;

	json_array_foreach (d->bitmaps, k, bitmap) {
		const char *name = text(bitmap, "name");

		if (rc || !ours(name) || strcmp(name, AGENT_LIVE_BITMAP) == 0 ||
		    points->known(points->ctx, i, name + strlen(PREFIX)))
			continue;
		rc = remove_bitmap(q, d->node, name, err);
	}
	return rc;
}

/* --- open ----------------------------------------------------------------------------------- */

static void live_free(struct agent_live *live)
{
	if (!live)
		return;
	for (size_t i = 0; live->disks && i < live->vm->disk_count; i++)
		json_decref(live->disks[i].bitmaps);
	free(live->disks);
	free(live);
}

DEFINE_CLEANUP(struct agent_live *, live_free)

/* Names in the scratch folder are short and a VM's own, whatever its id looks like. */
static int live_names(struct agent_live *live, const char *scratch, struct err *err)
{
	unsigned long long vm = XXH3_64bits(live->vm->id, strlen(live->vm->id));
	int n = snprintf(live->socket, sizeof(live->socket), "%s/live-%016llx.sock", scratch, vm);

	if (n > SOCKET_LENGTH)
		return err_set(err, -ENAMETOOLONG,
			       "scratch folder %s: the path is too long for a socket", scratch);
	for (size_t i = 0; i < live->vm->disk_count; i++) {
		struct live_disk *d = &live->disks[i];

		d->node = live->vm->disks[i].source + strlen(AGENT_QEMU_PREFIX);
		snprintf(d->scratch, sizeof(d->scratch), "%s/live-%016llx-%zu.qcow2", scratch, vm,
			 i);
	}
	return 0;
}

static int live_new(struct agent_live **out, const struct agent_vm *vm, const char *scratch,
		    struct err *err)
{
	_cleanup_(live_freep) struct agent_live *live = calloc(1, sizeof(*live));
	int rc;

	if (!live)
		return err_sys(err, -ENOMEM, "VM \"%s\"", vm->name);
	live->vm = vm;
	live->disks = calloc(vm->disk_count, sizeof(*live->disks));
	if (!live->disks)
		return err_sys(err, -ENOMEM, "VM \"%s\"", vm->name);
	rc = live_names(live, scratch, err);
	if (rc)
		return rc;
	*out = steal(&live);
	return 0;
}

int agent_live_open(struct agent_live **out, const struct agent_vm *vm, const char *scratch,
		    const struct agent_stop *stop, struct err *err)
{
	_cleanup_(live_freep) struct agent_live *live = NULL;
	_cleanup_(agent_qmp_closep) struct agent_qmp *q = NULL;
	int rc = live_new(&live, vm, scratch, err);

	if (!rc)
		rc = agent_qmp_open(&q, vm->qmp, stop, err);
	if (!rc)
		rc = clear_all(live, q, err);
	if (rc)
		return rc;
	*out = steal(&live);
	return 0;
}

struct agent_live_disk *agent_live_disk(struct agent_live *live, size_t i)
{
	return &live->disks[i].face;
}

/* One that is not recording, or that a crash of QEMU left inconsistent, does not know. */
bool agent_live_knows(const struct agent_live *live, size_t i, const char *change_id)
{
	char name[NAME_SIZE];
	json_t *bitmap;
	size_t k;

	bitmap_of(name, change_id);
	json_array_foreach (live->disks[i].bitmaps, k, bitmap) {
		if (strcmp(text(bitmap, "name"), name) == 0)
			return json_is_true(json_object_get(bitmap, "recording")) &&
			       !json_is_true(json_object_get(bitmap, "inconsistent"));
	}
	return false;
}

/* --- snapshot ------------------------------------------------------------------------------- */

/* QEMU makes the file itself: it is QEMU that must be able to use it. */
static int create_job(struct agent_qmp *q, json_t *options, struct err *err)
{
	int rc = agent_qmp_call(
		q, "blockdev-create",
		json_pack("{s:s,s:o}", "job-id", PREFIX "create", "options", options), NULL, err);

	return rc ? rc : agent_qmp_wait_job(q, PREFIX "create", err);
}

static int make_scratch(struct agent_qmp *q, struct live_disk *d, size_t i, struct err *err)
{
	char file[NAME_SIZE], fleece[NAME_SIZE];
	int rc;

	name_of(file, "file", i);
	name_of(fleece, "fleece", i);
	rc = create_job(
		q, json_pack("{s:s,s:s,s:i}", "driver", "file", "filename", d->scratch, "size", 0),
		err);
	if (!rc)
		rc = agent_qmp_call(q, "blockdev-add",
				    json_pack("{s:s,s:s,s:s}", "driver", "file", "node-name", file,
					      "filename", d->scratch),
				    NULL, err);
	if (!rc)
		rc = create_job(q,
				json_pack("{s:s,s:s,s:I}", "driver", "qcow2", "file", file, "size",
					  (json_int_t)d->face.size),
				err);
	if (!rc)
		rc = agent_qmp_call(q, "blockdev-add",
				    json_pack("{s:s,s:s,s:s,s:s}", "driver", "qcow2", "node-name",
					      fleece, "file", file, "backing", d->node),
				    NULL, err);
	return rc;
}

/* A server that runs without any export is what a run left that was killed just here. */
static int start_server(struct agent_live *live, struct agent_qmp *q, struct err *err)
{
	json_t *args = json_pack("{s:{s:s,s:{s:s}}}", "addr", "type", "unix", "data", "path",
				 live->socket);
	size_t all, mine;
	int rc = agent_qmp_call(q, "nbd-server-start", json_incref(args), NULL, err);

	if (rc == AGENT_QMP_E_REFUSED && !count_exports(q, &all, &mine, NULL, NULL) && !all &&
	    !agent_qmp_call(q, "nbd-server-stop", NULL, NULL, NULL))
		rc = agent_qmp_call(q, "nbd-server-start", json_incref(args), NULL, err);
	json_decref(args);
	return rc;
}

static void add_action(json_t *actions, const char *type, json_t *data)
{
	json_array_append_new(actions, json_pack("{s:s,s:o}", "type", type, "data", data));
}

static void disk_actions(json_t *actions, const struct live_disk *d, size_t i)
{
	char since[NAME_SIZE], next[NAME_SIZE], job[NAME_SIZE], fleece[NAME_SIZE];

	if (d->face.since[0]) {
		add_action(actions, "block-dirty-bitmap-add",
			   json_pack("{s:s,s:s,s:I,s:b}", "node", d->node, "name",
				     AGENT_LIVE_BITMAP, "granularity", GRANULARITY, "disabled", 1));
		add_action(actions, "block-dirty-bitmap-merge",
			   json_pack("{s:s,s:s,s:[s]}", "node", d->node, "target",
				     AGENT_LIVE_BITMAP, "bitmaps",
				     bitmap_of(since, d->face.since)));
	}
	add_action(actions, "block-dirty-bitmap-add",
		   json_pack("{s:s,s:s,s:I,s:b}", "node", d->node, "name",
			     bitmap_of(next, d->face.next), "granularity", GRANULARITY,
			     "persistent", (int)d->persistent));
	add_action(actions, "blockdev-backup",
		   json_pack("{s:s,s:s,s:s,s:s}", "job-id", name_of(job, "backup", i), "device",
			     d->node, "target", name_of(fleece, "fleece", i), "sync", "none"));
}

static int take_snapshot(struct agent_live *live, struct agent_qmp *q, struct err *err)
{
	json_t *actions = json_array();

	for (size_t i = 0; i < live->vm->disk_count; i++)
		disk_actions(actions, &live->disks[i], i);
	return agent_qmp_call(q, "transaction", json_pack("{s:o}", "actions", actions), NULL, err);
}

/* A path in a URI's query: everything but plain characters is %-encoded. */
static void encode_path(const char *path, char *out, size_t size)
{
	static const char plain[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._-";
	size_t n = 0;

	for (; *path && n + 4 < size; path++) {
		if (strchr(plain, *path))
			out[n++] = *path;
		else
			n += (size_t)snprintf(out + n, 4, "%%%02X", (unsigned char)*path);
	}
	out[n] = '\0';
}

static int add_export(struct agent_live *live, struct agent_qmp *q, size_t i, struct err *err)
{
	struct live_disk *d = &live->disks[i];
	char id[NAME_SIZE], fleece[NAME_SIZE], path[3 * SOCKET_LENGTH + 4];
	json_t *args =
		json_pack("{s:s,s:s,s:s,s:s,s:b}", "type", "nbd", "id", name_of(id, "export", i),
			  "node-name", name_of(fleece, "fleece", i), "name", id, "writable", 0);

	if (d->face.since[0])
		json_object_set_new(args, "bitmaps", json_pack("[s]", AGENT_LIVE_BITMAP));
	encode_path(live->socket, path, sizeof(path));
	snprintf(d->face.uri, sizeof(d->face.uri), "nbd+unix:///%s?socket=%s", id, path);
	return agent_qmp_call(q, "block-export-add", args, NULL, err);
}

int agent_live_snapshot(struct agent_live *live, const struct agent_live_points *points,
			const struct agent_stop *stop, struct err *err)
{
	_cleanup_(agent_qmp_closep) struct agent_qmp *q = NULL;
	int rc = agent_qmp_open(&q, live->vm->qmp, stop, err);

	/* A run that was killed may have left a bitmap of the very name a new point gets. */
	for (size_t i = 0; !rc && i < live->vm->disk_count; i++)
		rc = prune_bitmaps(live, q, i, points, err);
	for (size_t i = 0; !rc && i < live->vm->disk_count; i++)
		rc = make_scratch(q, &live->disks[i], i, err);
	if (!rc)
		rc = start_server(live, q, err);
	if (!rc)
		rc = take_snapshot(live, q, err);
	for (size_t i = 0; !rc && i < live->vm->disk_count; i++)
		rc = add_export(live, q, i, err);
	return rc;
}

/* --- close ---------------------------------------------------------------------------------- */

int agent_live_close(struct agent_live *live, const struct agent_live_points *points,
		     struct err *err)
{
	_cleanup_(agent_qmp_closep) struct agent_qmp *q = NULL;
	_cleanup_(live_freep) struct agent_live *owned = live;
	int rc;

	if (!live)
		return 0;
	rc = agent_qmp_open(&q, live->vm->qmp, NULL, err);
	if (!rc)
		rc = clear_all(live, q, err);
	for (size_t i = 0; !rc && i < live->vm->disk_count; i++)
		rc = prune_bitmaps(live, q, i, points, err);
	return rc;
}

bool agent_live_left(const struct agent_vm *vm, const char *scratch)
{
	_cleanup_(live_freep) struct agent_live *live = NULL;

	if (live_new(&live, vm, scratch, NULL))
		return false;
	for (size_t i = 0; i < vm->disk_count; i++)
		if (access(live->disks[i].scratch, F_OK) == 0)
			return true;
	return access(live->socket, F_OK) == 0;
}

int agent_live_clear(const struct agent_vm *vm, const char *scratch, struct err *err)
{
	_cleanup_(live_freep) struct agent_live *live = NULL;

	return agent_live_open(&live, vm, scratch, NULL, err); /* opening clears */
}
