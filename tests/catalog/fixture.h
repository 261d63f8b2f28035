/*
 * What the catalog's tests start from: an open catalog on a real file, VMs with disks, a
 * repository, and jobs planned the way the hub plans them.
 */
#ifndef TESTS_CATALOG_FIXTURE_H
#define TESTS_CATALOG_FIXTURE_H

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "catalog/backups.h"
#include "catalog/catalog.h"
#include "catalog/chains.h"
#include "catalog/contexts.h"
#include "catalog/disks.h"
#include "catalog/hubs.h"
#include "catalog/repositories.h"
#include "tests/support/tmpdb.h"

#define FX_DISKS_MAX 8

/* Runs a call that ends in `&err` and expects its result. */
#define EXPECT(result, call)                                                                       \
	do {                                                                                       \
		struct err err = ERR_INIT;                                                         \
		int expect_r = (call);                                                             \
		if (expect_r != (result))                                                          \
			fail_msg("%s gave %d, not %d: %s", #call, expect_r, (int)(result),         \
				 err.text);                                                        \
	} while (0)
#define OK(call) EXPECT(0, call)

/* The same, and the sentence must contain @part. */
#define EXPECT_TEXT(result, part, call)                                                            \
	do {                                                                                       \
		struct err err = ERR_INIT;                                                         \
		int expect_r = (call);                                                             \
		if (expect_r != (result) || !strstr(err.text, part))                               \
			fail_msg("%s gave %d, not %d with \"%s\": %s", #call, expect_r,            \
				 (int)(result), part, err.text);                                   \
	} while (0)

struct fx {
	struct tmpdb t;
	struct catalog *cat;
};

static inline int fx_setup(void **state)
{
	struct fx *fx = calloc(1, sizeof(*fx));

	tmpdb_init(&fx->t);
	OK(catalog_open(fx->t.url, NULL, &fx->cat, &err));
	*state = fx;
	return 0;
}

static inline int fx_teardown(void **state)
{
	struct fx *fx = *state;

	catalog_close(fx->cat);
	tmpdb_deinit(&fx->t);
	free(fx);
	return 0;
}

#define FX_TEST(f) cmocka_unit_test_setup_teardown(f, fx_setup, fx_teardown)

/* A VM as discovery would hand it over: disks "disk-2000", "disk-2001", ... of (i + 1) GiB. */
struct fx_vm {
	struct catalog_vm_context vm;
	struct catalog_vm_disk disks[FX_DISKS_MAX];
	size_t n;
};

static inline void fx_describe_vm(struct fx_vm *v, const char *name, const char *host, size_t n)
{
	memset(v, 0, sizeof(*v));
	v->n = n;
	v->vm = (struct catalog_vm_context){
		.cpu_count = 4, .memory_mb = 8192, .credential_id = CATALOG_NONE};
	CATALOG_TEXT(v->vm.vm_name, name);
	snprintf(v->vm.vmware_vm_id, sizeof(v->vm.vmware_vm_id), "id-of-%s", name);
	snprintf(v->vm.vm_path, sizeof(v->vm.vm_path), "/DC1/vm/%s", name);
	CATALOG_TEXT(v->vm.vcenter_host, host);
	CATALOG_TEXT(v->vm.datacenter, "DC1");
	CATALOG_TEXT(v->vm.power_state, "poweredOn");
	CATALOG_TEXT(v->vm.os_type, "debian12_64Guest");
	CATALOG_TEXT(v->vm.vmx_version, "vmx-19");
	for (size_t i = 0; i < n; i++) {
		struct catalog_vm_disk *d = &v->disks[i];

		*d = (struct catalog_vm_disk){.vmware_disk_key = 2000 + (int64_t)i,
					      .unit_number = (int)i,
					      .capacity_bytes = (int64_t)((i + 1) * GIB),
					      .size_gb = (int64_t)i + 1};
		snprintf(d->disk_id, sizeof(d->disk_id), "disk-%zu", 2000 + i);
		snprintf(d->label, sizeof(d->label), "Hard disk %zu", i + 1);
		snprintf(d->path, sizeof(d->path), "[ds1] %s/%s_%zu.vmdk", name, name, i);
		CATALOG_TEXT(d->datastore, "ds1");
		CATALOG_TEXT(d->provisioning_type, "thin");
		CATALOG_TEXT(d->controller, "SCSI controller 0");
	}
}

static inline void fx_add_vm(struct fx *fx, struct fx_vm *v, const char *name, size_t n)
{
	fx_describe_vm(v, name, "vc1.example", n);
	OK(catalog_vm_context_upsert(fx->cat, &v->vm, v->disks, n, NULL, &err));
}

static inline void fx_add_repository(struct fx *fx, struct catalog_repository *repo,
				     const char *name)
{
	*repo = (struct catalog_repository){.enabled = true};
	CATALOG_TEXT(repo->name, name);
	CATALOG_TEXT(repo->config, "{\"path\":\"/srv/backups\"}");
	OK(catalog_repository_create(fx->cat, repo, &err));
}

#define FX_LEASE_MS 60000

/* Makes @cat that of the hub @name, with a data folder of its own. */
static inline void fx_join(struct catalog *cat, struct catalog_hub *hub, const char *name)
{
	memset(hub, 0, sizeof(*hub));
	CATALOG_TEXT(hub->name, name);
	snprintf(hub->instance, sizeof(hub->instance), "data-%s", name);
	OK(catalog_hub_join(cat, hub, FX_LEASE_MS, &err));
}

/* A VM of @n disks and its backup context in a repository called "main". */
struct fx_ready {
	struct fx_vm v;
	struct catalog_repository repo;
	struct catalog_backup_context ctx;
};

static inline void fx_ready(struct fx *fx, struct fx_ready *r, const char *vm_name, size_t n)
{
	fx_add_vm(fx, &r->v, vm_name, n);
	if (catalog_repository_get_by_name(fx->cat, "main", &r->repo, NULL))
		fx_add_repository(fx, &r->repo, "main");
	OK(catalog_backup_context_ensure(fx->cat, r->v.vm.context_id, r->repo.id, &r->ctx, &err));
}

/* Two hubs on one catalog, and a VM of two disks that is ready. */
struct fx_two {
	struct fx fx; /* hub "a"'s handle */
	struct catalog *b;
	struct catalog_hub hub_a, hub_b;
	struct fx_ready r;
};

static inline int fx_two_setup(void **state)
{
	struct fx_two *t = calloc(1, sizeof(*t));

	tmpdb_init(&t->fx.t);
	OK(catalog_open(t->fx.t.url, NULL, &t->fx.cat, &err));
	OK(catalog_open(t->fx.t.url, NULL, &t->b, &err));
	fx_join(t->fx.cat, &t->hub_a, "a");
	fx_join(t->b, &t->hub_b, "b");
	fx_ready(&t->fx, &t->r, "pgtest1", 2);
	*state = t;
	return 0;
}

static inline int fx_two_teardown(void **state)
{
	struct fx_two *t = *state;

	tmpdb_assert_sound(&t->fx.t);
	catalog_close(t->b);
	catalog_close(t->fx.cat);
	tmpdb_deinit(&t->fx.t);
	free(t);
	return 0;
}

struct fx_job {
	struct catalog_backup job;
	struct catalog_backup_disk disks[FX_DISKS_MAX];
	size_t n;
};

/* What the hub does before it starts a job: each disk leans on its latest point, if it has one. */
static inline void fx_plan(struct fx *fx, const struct fx_ready *r, enum catalog_backup_type type,
			   struct fx_job *j)
{
	memset(j, 0, sizeof(*j));
	j->n = r->v.n;
	j->job.backup_type = type;
	CATALOG_TEXT(j->job.vm_backup_context_id, r->ctx.context_id);
	CATALOG_TEXT(j->job.repository_type, "local");
	CATALOG_TEXT(j->job.repository_path, "/srv/backups");
	catalog_new_id(j->job.id, CATALOG_JOB_PREFIX);
	for (size_t i = 0; i < j->n; i++) {
		const struct catalog_vm_disk *vd = &r->v.disks[i];
		struct catalog_backup_disk *d = &j->disks[i];
		struct catalog_backup_disk latest;

		*d = (struct catalog_backup_disk){.disk_index = vd->disk_index,
						  .hardware_order = vd->hardware_order,
						  .vmware_disk_key = vd->vmware_disk_key,
						  .unit_number = vd->unit_number,
						  .virtual_size_bytes = vd->capacity_bytes,
						  .size_gb = vd->size_gb,
						  .mode = CATALOG_BACKUP_FULL,
						  .parent_disk_id = CATALOG_NONE};
		CATALOG_TEXT(d->disk_id, vd->disk_id);
		snprintf(d->export_name, sizeof(d->export_name), "backup-x-%.20s-disk%d",
			 j->job.id + strlen(j->job.id) - 16, vd->disk_index);
		snprintf(d->qcow2_path, sizeof(d->qcow2_path), "vm/disk-%d/%.30s.qcow2",
			 vd->disk_index, j->job.id + 7);
		snprintf(d->part_path, sizeof(d->part_path), "vm/disk-%d/%.30s.qcow2.part",
			 vd->disk_index, j->job.id + 7);
		if (type == CATALOG_BACKUP_FULL)
			continue;
		if (catalog_point_latest(fx->cat, r->ctx.context_id, d->disk_id, &latest, NULL)) {
			CATALOG_TEXT(d->reason, "new disk: it has no earlier point");
			continue;
		}
		d->mode = CATALOG_BACKUP_INCREMENTAL;
		d->parent_disk_id = latest.id;
	}
}

static inline void fx_start(struct fx *fx, const struct fx_ready *r, enum catalog_backup_type type,
			    struct fx_job *j)
{
	fx_plan(fx, r, type, j);
	OK(catalog_backup_start(fx->cat, &j->job, j->disks, j->n, NULL, &err));
}

static inline int fx_complete(struct fx *fx, const char *job_id, int disk_index,
			      const char *change_id, struct catalog_completed *out, struct err *err)
{
	const struct catalog_completion point = {
		.change_id = change_id,
		.bytes = {.bytes_transferred = 1000 + disk_index,
			  .bytes_zero = 200,
			  .bytes_unchanged = 30,
			  .bytes_stored = 500},
	};

	return catalog_backup_disk_complete(fx->cat, job_id, disk_index, &point, out, err);
}

/* Completes all disks of a job with change ids "<tag>/<disk index>". */
static inline void fx_complete_all(struct fx *fx, const struct fx_job *j, const char *tag)
{
	for (size_t i = 0; i < j->n; i++) {
		char change_id[64];

		snprintf(change_id, sizeof(change_id), "%s/%d", tag, j->disks[i].disk_index);
		OK(fx_complete(fx, j->job.id, j->disks[i].disk_index, change_id, NULL, &err));
	}
}

static inline void fx_backup(struct fx *fx, const struct fx_ready *r, enum catalog_backup_type type,
			     const char *tag, struct fx_job *j)
{
	fx_start(fx, r, type, j);
	fx_complete_all(fx, j, tag);
}

#endif
