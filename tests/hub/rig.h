/*
 * A hub of a test's own: real catalog (on the database of the present run), real NBD server, real
 * repository folder, scripted agent; and VMs whose disks are buffers in memory, streamed to the hub
 * as an agent would.
 */
#ifndef TESTS_HUB_RIG_H
#define TESTS_HUB_RIG_H

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "hub/access.h"
#include "hub/backup.h"
#include "hub/discovery.h"
#include "hub/repositories.h"
#include "tests/support/agentpeer.h"
#include "tests/support/nbdsend.h"
#include "tests/support/scratch.h"
#include "tests/support/tmpdb.h"

struct hubrig {
	char dir[256]; /* data, repo, and whatever the test makes */
	struct agentpeer *peer;
	struct tmpdb db;
	struct hub *hub; /* NULL while stopped */
	struct hub_config config;
	char repository[CATALOG_ID_SIZE];
	char nbd[64];			  /* "127.0.0.1:PORT" */
	const char *compression;	  /* of the backups to come; NULL: the repository's */
	char agent_token[HUB_TOKEN_SIZE]; /* rig_token(); "": not made yet */
};

#define HUBRIG_DISKS 4

struct rig_vm {
	const char *name, *id;
	size_t disk_count;
	size_t size[HUBRIG_DISKS];
	int key[HUBRIG_DISKS]; /* 0: 2000 + position */
	unsigned char *content[HUBRIG_DISKS];
};

#define RIG_CHUNK (64U << 10)

static inline void rig_must(int rc, const struct err *err, const char *what)
{
	if (!rc)
		return;
	fprintf(stderr, "%s: %d: %s\n", what, rc, err->text);
	abort();
}

/* Runs a call that ends in `&err`: it does well, or is refused with a sentence that has @part. */
#define OK(call)                                                                                   \
	do {                                                                                       \
		struct err err = ERR_INIT;                                                         \
		rig_must(call, &err, #call);                                                       \
	} while (0)

#define REFUSED(result, part, call)                                                                \
	do {                                                                                       \
		struct err err = ERR_INIT;                                                         \
		int got = (call);                                                                  \
		if (got != (result) || !strstr(err.text, part))                                    \
			fail_msg("%s gave %d: %s", #call, got, err.text);                          \
	} while (0)

/* --- the hub -------------------------------------------------------------------------------- */

/* The agent, and how the hub is to be: long timeouts, a short tick. */
static inline void hubrig_equip(struct hubrig *rig)
{
	rig->peer = agentpeer_start();
	rig->config = HUB_CONFIG_INIT;
	rig->config.db_url = rig->db.url;
	rig->config.tick_ms = 20;
	rig->config.progress_poll_ms = 50;
	rig->config.nbd.workers = 1;
}

/* Makes the folder and an empty database; hubrig_equip(). */
static inline void hubrig_init(struct hubrig *rig)
{
	const char *tmp = getenv("TMPDIR");

	memset(rig, 0, sizeof(*rig));
	snprintf(rig->dir, sizeof(rig->dir), "%s/hubrig-XXXXXX", tmp ? tmp : "/tmp");
	if (!mkdtemp(rig->dir))
		abort();
	tmpdb_init(&rig->db);
	hubrig_equip(rig);
}

/* fails the test */
static inline void hubrig_start(struct hubrig *rig)
{
	static const char *const listen[] = {"127.0.0.1:0"};
	char data[300];
	struct err err = ERR_INIT;

	snprintf(data, sizeof(data), "%s/data", rig->dir);
	rig->config.data_dir = data;
	rig->config.agent_url = agentpeer_url(rig->peer);
	rig->config.nbd_listen = listen;
	rig->config.nbd_listen_count = 1;
	rig_must(hub_start(&rig->hub, &rig->config, &err), &err, "hub_start");
	snprintf(rig->nbd, sizeof(rig->nbd), "%s", hub_nbd_addresses(rig->hub));
}

/* What was changed in rig->config of that which a running hub takes over. A short time is set only
 * once what must not be late for it is done. */
static inline void hubrig_retime(struct hubrig *rig)
{
	struct hub_config config = rig->config;
	struct err err = ERR_INIT;

	config.agent_url = agentpeer_url(rig->peer);
	rig_must(hub_reconfigure(rig->hub, &config, &err), &err, "times");
}

static inline void hubrig_stop(struct hubrig *rig)
{
	hub_stop(steal(&rig->hub), NULL);
}

/* stops the hub as well */
static inline void hubrig_deinit(struct hubrig *rig)
{
	hubrig_stop(rig);
	agentpeer_stop(rig->peer);
	tmpdb_deinit(&rig->db);
	scratch_run("rm -rf '%s'", rig->dir);
}

/* A token of a new user with this role. */
static inline void rig_make_token(struct hubrig *rig, const char *name, enum catalog_role role,
				  const char *scopes, char text[HUB_TOKEN_SIZE])
{
	struct catalog_user user = {.role = role, .enabled = true};
	struct catalog_token token = {.name = "test"};
	struct err err = ERR_INIT;

	strcpy(user.name, name);
	rig_must(hub_user_create(rig->hub, &user, &err), &err, "user");
	strcpy(token.user_id, user.id);
	strcpy(token.scopes, scopes);
	rig_must(hub_token_create(rig->hub, &token, text, &err), &err, "token");
}

/* Who calls @path of the API: a capture agent, or the administrator. */
static inline void rig_token(struct hubrig *rig, const char *path, char text[HUB_TOKEN_SIZE])
{
	char file[300];
	FILE *f;

	if (strstr(path, "/changeid") || strstr(path, "/complete") || strstr(path, "/telemetry/")) {
		if (!rig->agent_token[0])
			rig_make_token(rig, "capture", CATALOG_ROLE_AGENT, "", rig->agent_token);
		strcpy(text, rig->agent_token);
		return;
	}
	snprintf(file, sizeof(file), "%s/data/admin-token", rig->dir);
	f = fopen(file, "r");
	if (!f || !fgets(text, HUB_TOKEN_SIZE, f))
		abort();
	fclose(f);
}

/* A repository at {dir}/repo, its id in rig->repository. */
static inline void hubrig_add_repository(struct hubrig *rig)
{
	struct catalog_repository repo = {.name = "local1", .enabled = true};
	struct err err = ERR_INIT;

	snprintf(repo.config, sizeof(repo.config), "{\"path\":\"%s/repo\"}", rig->dir);
	rig_must(hub_repository_create(rig->hub, &repo, &err), &err, "repository");
	strcpy(rig->repository, repo.id);
}

/* --- VMs ------------------------------------------------------------------------------------ */

/* Never zero, never the same twice: what was changed differs from what was there. */
static inline void rig_fill(unsigned char *p, size_t len)
{
	static uint64_t x = 88172645463325252ULL;

	for (size_t i = 0; i < len; i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		p[i] = (unsigned char)(x | 1);
	}
}

/* Gives disks content of data, zeroes and holes. */
static inline void rig_vm_init(struct rig_vm *vm)
{
	for (size_t i = 0; i < vm->disk_count; i++) {
		vm->content[i] = calloc(1, vm->size[i]);
		if (!vm->content[i])
			abort();
		if (!vm->key[i])
			vm->key[i] = 2000 + (int)i;
		rig_fill(vm->content[i], vm->size[i] / 3);
		rig_fill(vm->content[i] + vm->size[i] - 512, 512);
	}
}

static inline void rig_vm_deinit(struct rig_vm *vm)
{
	for (size_t i = 0; i < vm->disk_count; i++)
		free(vm->content[i]);
}

/* Writes @len other bytes into the content. */
static inline void rig_vm_change(struct rig_vm *vm, int disk, size_t off, size_t len)
{
	rig_fill(vm->content[disk] + off, len);
}

static inline json_t *rig_describe(const struct rig_vm *vm)
{
	json_t *disks = json_array();

	for (size_t i = 0; i < vm->disk_count; i++) {
		char id[32], label[32];

		snprintf(id, sizeof(id), "disk-%d", vm->key[i]);
		snprintf(label, sizeof(label), "Hard disk %zu", i + 1);
		json_array_append_new(disks,
				      json_pack("{s:s,s:s,s:s,s:i,s:I,s:s,s:i}", "id", id, "label",
						label, "path", "[ds1] x.vmdk", "size_gb", 1,
						"capacity_bytes", (json_int_t)vm->size[i],
						"datastore", "ds1", "unit_number", (int)i));
	}
	return json_pack("{s:s,s:s,s:o,s:o,s:s,s:i,s:i,s:o,s:n}", "id", vm->id, "name", vm->name,
			 "path", json_sprintf("/dc/vm/%s", vm->name), "power_state",
			 json_string("poweredOn"), "guest_os", "linux", "memory_mb", 1024,
			 "num_cpu", 2, "disks", disks, "networks");
}

/* Lets the agent see these VMs and nothing else. */
static inline void hubrig_show(struct hubrig *rig, const struct rig_vm *vms, size_t n)
{
	json_t *list = json_array();

	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, rig_describe(&vms[i]));
	agentpeer_set_discovery(rig->peer, json_pack("{s:{s:s,s:s},s:o}", "vcenter", "host", "vc1",
						     "datacenter", "dc1", "vms", list));
}

/* hubrig_show() and add-vms. */
static inline void hubrig_add_vm(struct hubrig *rig, const struct rig_vm *vm)
{
	struct hub_discovery where = {.credential_id = CATALOG_NONE};
	struct hub_added_vm *rows = NULL;
	struct err err = ERR_INIT;

	hubrig_show(rig, vm, 1);
	rig_must(hub_add_vms(rig->hub, &where, &vm->name, 1, &rows, &err), &err, "add-vms");
	free(rows);
}

/* --- backups -------------------------------------------------------------------------------- */

/* Starts a backup; the view is the caller's to deinit. The result of hub_backup_start(). */
static inline int hubrig_backup(struct hubrig *rig, const char *vm_name,
				enum catalog_backup_type type, struct hub_backup_view *view,
				struct err *err)
{
	struct hub_start_request req = {
		.vm_name = vm_name,
		.repository_id = rig->repository,
		.backup_type = type,
		.compression = rig->compression,
	};
	struct hub_started started;
	int rc = hub_backup_start(rig->hub, &req, &started, err);

	*view = (struct hub_backup_view){.disks = NULL};
	if (!rc)
		rig_must(hub_backup_get(rig->hub, started.backup_id, view, err), err, "get");
	free(started.nbd_targets);
	return rc;
}

static inline int rig_send_chunk(struct nbdsend *c, const unsigned char *content, size_t off,
				 uint32_t len)
{
	if (bytes_all_zero(content + off, len))
		return nbdsend_zero(c, off, len);
	return nbdsend_write(c, off, content + off, len);
}

/* Sends [off, off + len) of a disk over one connection, zeroes as WRITE_ZEROES, while another
 * idles: as the agent does. NBD error of the first request that fails, or 0. */
static inline int rig_send(struct hubrig *rig, const struct rig_vm *vm,
			   const struct hub_disk_view *disk, size_t off, size_t len)
{
	size_t at = (size_t)disk->row.hardware_order, end = off + len;
	struct nbdsend idle, data;
	int rc = 0;

	nbdsend_connect(&idle, rig->nbd, disk->row.export_name);
	nbdsend_connect(&data, rig->nbd, disk->row.export_name);
	while (!rc && off < end) {
		uint32_t n = (uint32_t)MIN(end - off, (size_t)RIG_CHUNK);

		rc = rig_send_chunk(&data, vm->content[at], off, n);
		off += n;
	}
	nbdsend_drop(&data);
	nbdsend_drop(&idle);
	return rc;
}

/* rig_send() of all disks in full and `complete` with "<disk id>/<n>": fails the test on trouble.
 */
static inline void rig_finish(struct hubrig *rig, const struct rig_vm *vm,
			      const struct hub_backup_view *view, int n)
{
	for (size_t i = 0; i < view->disk_count; i++) {
		const struct hub_disk_view *disk = &view->disks[i];
		struct catalog_completed done;
		struct err err = ERR_INIT;
		char change_id[300];

		if (rig_send(rig, vm, disk, 0, vm->size[disk->row.hardware_order]))
			abort();
		snprintf(change_id, sizeof(change_id), "%s/%d", disk->row.disk_id, n);
		rig_must(hub_backup_complete(rig->hub, view->job.id, disk->row.disk_index,
					     change_id, &done, &err),
			 &err, "complete");
	}
}

/* Starts, sends all of every disk, completes. The backup id in @id. */
static inline void rig_full(struct hubrig *rig, const struct rig_vm *vm, int n,
			    char id[CATALOG_ID_SIZE])
{
	struct hub_backup_view view;
	struct err err = ERR_INIT;

	rig_must(hubrig_backup(rig, vm->name, CATALOG_BACKUP_FULL, &view, &err), &err,
		 "full backup");
	rig_finish(rig, vm, &view, n);
	strcpy(id, view.job.id);
	hub_backup_view_deinit(&view);
}

/* True when the point is a sound qcow2 image that equals the disk's content now. */
static inline bool rig_point_equals(struct hubrig *rig, const char *qcow2_path,
				    const struct rig_vm *vm, int disk)
{
	char raw[300];
	FILE *f;

	snprintf(raw, sizeof(raw), "%s/expected.raw", rig->dir);
	f = fopen(raw, "w");
	if (!f || fwrite(vm->content[disk], 1, vm->size[disk], f) != vm->size[disk] || fclose(f))
		abort();
	return !scratch_run("qemu-img check -q -f qcow2 '%s'", qcow2_path) &&
	       !scratch_run("qemu-img compare -q -f raw -F qcow2 '%s' '%s'", raw, qcow2_path);
}

/* Polls until no backup runs, for 60 s. */
static inline bool rig_await_idle(struct hubrig *rig)
{
	for (int i = 0; i < 6000 && hub_running_backups(rig->hub); i++)
		nanosleep(&(struct timespec){.tv_nsec = 10 * 1000000L}, NULL);
	return hub_running_backups(rig->hub) == 0;
}

/* Polls until the backup is in @status, for 60 s; its error message in @why (may be NULL). */
static inline bool rig_await(struct hubrig *rig, const char *id, enum catalog_job_status status,
			     char why[CATALOG_ERROR_SIZE])
{
	for (int i = 0; i < 6000; i++) {
		struct catalog_backup row;

		if (!catalog_backup_get(hub_catalog(rig->hub), id, &row, NULL) &&
		    row.status == status) {
			if (why)
				strcpy(why, row.error_message);
			return true;
		}
		nanosleep(&(struct timespec){.tv_nsec = 10 * 1000000L}, NULL);
	}
	return false;
}

#endif
