/* Start, stream, ask, complete: the good path of backups through the hub's public face, with the
 * points judged by qemu-img. */
#include <pthread.h>
#include <regex.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "qcow2/sums.h"
#include "catalog/job_log.h"
#include "tests/hub/rig.h"

#define MI (1U << 20)

static struct hubrig rig;

static int setup(void **state)
{
	(void)state;
	hubrig_init(&rig);
	hubrig_start(&rig);
	hubrig_add_repository(&rig);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	hubrig_deinit(&rig);
	return 0;
}

static bool matches(const char *text, const char *pattern)
{
	regex_t re;
	bool yes;

	assert_int_equal(regcomp(&re, pattern, REG_EXTENDED | REG_NOSUB), 0);
	yes = regexec(&re, text, 0, NULL, 0) == 0;
	regfree(&re);
	return yes;
}

static struct rig_vm two_disks(const char *name)
{
	struct rig_vm vm = {
		.name = name,
		.id = "vm-1",
		.disk_count = 2,
		.size = {8 * MI, 3 * MI + 1536}, /* the second is no multiple of a cluster */
	};

	rig_vm_init(&vm);
	return vm;
}

static const char *asked(const char *vm_name, int disk)
{
	static struct hub_change_id answer;
	struct err err = ERR_INIT;

	assert_int_equal(hub_backup_change_id(rig.hub, vm_name, disk, &answer, &err), 0);
	return answer.change_id;
}

static int complete(const char *id, int disk, const char *change_id, struct err *err)
{
	struct catalog_completed done;

	return hub_backup_complete(rig.hub, id, disk, change_id, &done, err);
}

/* --- full ----------------------------------------------------------------------------------- */

static void a_full_of_two_disks_equals_what_was_streamed(void **state)
{
	struct rig_vm vm = two_disks("pgtest1");
	struct hub_backup_view view, after;
	struct err err = ERR_INIT;

	(void)state;
	hubrig_add_vm(&rig, &vm);
	assert_int_equal(hubrig_backup(&rig, "pgtest1", CATALOG_BACKUP_FULL, &view, &err), 0);
	assert_int_equal(view.disk_count, 2);
	assert_int_equal(view.job.total_bytes, 11 * MI + 1536);
	rig_finish(&rig, &vm, &view, 1);

	assert_int_equal(hub_backup_get(rig.hub, view.job.id, &after, &err), 0);
	assert_int_equal(after.job.status, CATALOG_JOB_COMPLETED);
	for (int i = 0; i < 2; i++) {
		const struct catalog_backup_disk *row = &after.disks[i].row;

		assert_int_equal(row->status, CATALOG_DISK_COMPLETED);
		assert_true(rig_point_equals(&rig, row->qcow2_path, &vm, i));
		assert_true(row->bytes.bytes_transferred > 0);
		assert_int_equal(row->bytes.bytes_transferred + row->bytes.bytes_zero, vm.size[i]);
		assert_true(row->bytes.bytes_stored >= (int64_t)vm.size[i] / 3);
		assert_true(
			matches(row->qcow2_path,
				"/repo/ctx-[a-z0-9]+/disk-[01]/full-[0-9]{8}-[0-9]{6}\\.qcow2$"));
	}
	assert_string_equal(after.disks[0].row.change_id, "disk-2000/1");
	assert_string_equal(after.disks[1].row.change_id, "disk-2001/1");
	hub_backup_view_deinit(&view);
	hub_backup_view_deinit(&after);
	rig_vm_deinit(&vm);
}

static void the_agent_gets_what_it_insists_on(void **state)
{
	static const char *const texts[] = {"job_id",	    "vm_name",		"vcenter_host",
					    "vcenter_user", "vcenter_password", "vm_path",
					    "nbd_targets",  "backup_type"};
	struct rig_vm vm = two_disks("SQL disk2 (old), äöü/with a very long name indeed");
	struct hub_backup_view view;
	struct err err = ERR_INIT;
	json_t *start;
	const char *targets;
	char wanted[400];

	(void)state;
	vm.key[1] = 2016; /* a second controller: no 2000 + index */
	hubrig_add_vm(&rig, &vm);
	assert_int_equal(hubrig_backup(&rig, vm.name, CATALOG_BACKUP_FULL, &view, &err), 0);
	start = agentpeer_last_start(rig.peer);
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		assert_true(json_string_length(json_object_get(start, texts[i])) > 0);
	assert_string_equal(json_string_value(json_object_get(start, "backup_type")), "full");
	assert_true(matches(view.job.id, "^backup-[0-9a-z]{26}$"));
	targets = json_string_value(json_object_get(start, "nbd_targets"));
	snprintf(wanted, sizeof(wanted), "2000:nbd://%s/%s,2016:nbd://%s/%s", rig.nbd,
		 view.disks[0].row.export_name, rig.nbd, view.disks[1].row.export_name);
	assert_string_equal(targets, wanted);
	for (int i = 0; i < 2; i++) {
		const char *name = view.disks[i].row.export_name;

		assert_true(strlen(name) <= 63);
		assert_true(matches(
			name, i ? "^backup-[a-z0-9-]+-[0-9a-f]{8}-f-[0-9]{8}T[0-9]{6}-disk1$"
				: "^backup-[a-z0-9-]+-[0-9a-f]{8}-f-[0-9]{8}T[0-9]{6}-disk0$"));
	}
	json_decref(start);
	hub_backup_view_deinit(&view);
	rig_vm_deinit(&vm);
}

static void the_seeds_export_name_is_an_alias(void **state)
{
	struct rig_vm vm = two_disks("pgtest1");
	struct hub_backup_view view;
	struct err err = ERR_INIT;
	struct nbdsend c;
	char alias[200], when[32];

	(void)state;
	hubrig_add_vm(&rig, &vm);
	assert_int_equal(hubrig_backup(&rig, vm.name, CATALOG_BACKUP_FULL, &view, &err), 0);
	snprintf(when, sizeof(when), "%.15s", strstr(view.disks[1].row.export_name, "-f-") + 3);
	snprintf(alias, sizeof(alias), "backup-%s-disk1-full-%s", view.job.vm_context_id, when);
	nbdsend_connect(&c, rig.nbd, alias);
	assert_int_equal(c.size, 3 * MI + 1536);
	nbdsend_drop(&c);
	hub_backup_view_deinit(&view);
	rig_vm_deinit(&vm);
}

static void a_full_never_tells_an_old_change_id(void **state)
{
	struct rig_vm vm = two_disks("pgtest1");
	struct hub_backup_view view;
	struct err err = ERR_INIT;
	char id[CATALOG_ID_SIZE];

	(void)state;
	hubrig_add_vm(&rig, &vm);
	assert_string_equal(asked("pgtest1", 0), "");
	rig_full(&rig, &vm, 1, id);
	assert_string_equal(asked("pgtest1", 0), "disk-2000/1"); /* no job: the latest */
	assert_string_equal(asked("pgtest1", 1), "disk-2001/1");
	assert_int_equal(hubrig_backup(&rig, vm.name, CATALOG_BACKUP_FULL, &view, &err), 0);
	assert_string_equal(asked("pgtest1", 0), "");
	assert_string_equal(asked("pgtest1", 1), "");
	hub_backup_view_deinit(&view);
	rig_vm_deinit(&vm);
}

static void every_point_has_a_sidecar_that_tells_what_it_is(void **state)
{
	struct rig_vm vm = two_disks("pgtest1");
	struct hub_backup_view view;
	struct err err = ERR_INIT;
	char id[CATALOG_ID_SIZE], path[CATALOG_PATH_SIZE];
	json_t *doc;

	(void)state;
	hubrig_add_vm(&rig, &vm);
	rig_full(&rig, &vm, 7, id);
	assert_int_equal(hub_backup_get(rig.hub, id, &view, &err), 0);
	strcpy(path, view.disks[1].row.qcow2_path);
	strcpy(strrchr(path, '.'), ".json");
	doc = json_load_file(path, 0, NULL);
	assert_non_null(doc);
	assert_string_equal(json_string_value(json_object_get(doc, "change_id")), "disk-2001/7");
	assert_string_equal(
		json_string_value(json_object_get(json_object_get(doc, "backup"), "id")), id);
	assert_int_equal(json_integer_value(json_object_get(json_object_get(doc, "disk"),
							    "virtual_size_bytes")),
			 3 * MI + 1536);
	json_decref(doc);
	hub_backup_view_deinit(&view);
	rig_vm_deinit(&vm);
}

/* --- incremental ---------------------------------------------------------------------------- */

static void an_incremental_leans_on_the_last_point_and_stores_what_changed(void **state)
{
	struct rig_vm vm = two_disks("pgtest1");
	struct hub_backup_view full, view, after;
	struct err err = ERR_INIT;
	char id[CATALOG_ID_SIZE];

	(void)state;
	hubrig_add_vm(&rig, &vm);
	rig_full(&rig, &vm, 1, id);
	assert_int_equal(hub_backup_get(rig.hub, id, &full, &err), 0);

	rig_vm_change(&vm, 0, 5 * MI + 512, 3 * 512);
	assert_int_equal(hubrig_backup(&rig, vm.name, CATALOG_BACKUP_INCREMENTAL, &view, &err), 0);
	assert_int_equal(view.disks[0].row.mode, CATALOG_BACKUP_INCREMENTAL);
	assert_string_equal(view.job.parent_backup_id, id);

	/* Both deciding calls of disk 0, then the one after connect; the same answer each time. */
	assert_string_equal(asked("pgtest1", 0), "disk-2000/1");
	assert_string_equal(asked("pgtest1", 0), "disk-2000/1");
	assert_int_equal(rig_send(&rig, &vm, &view.disks[0], 5 * MI + 512, 3 * 512), 0);
	assert_string_equal(asked("pgtest1", 0), "disk-2000/1");
	assert_int_equal(complete(view.job.id, 0, "disk-2000/2", &err), 0);

	/* Disk 1's deciding calls say disk 0 as well; nothing changed there. */
	assert_string_equal(asked("pgtest1", 0), "disk-2001/1");
	assert_string_equal(asked("pgtest1", 1), "disk-2001/1");
	assert_int_equal(rig_send(&rig, &vm, &view.disks[1], 0, 0), 0);
	assert_int_equal(complete(view.job.id, 1, "disk-2001/2", &err), 0);

	assert_int_equal(hub_backup_get(rig.hub, view.job.id, &after, &err), 0);
	assert_int_equal(after.job.status, CATALOG_JOB_COMPLETED);
	for (int i = 0; i < 2; i++) {
		assert_true(rig_point_equals(&rig, after.disks[i].row.qcow2_path, &vm, i));
		assert_true(after.disks[i].row.bytes.bytes_stored * 5 <
			    full.disks[i].row.bytes.bytes_stored);
	}
	hub_backup_view_deinit(&full);
	hub_backup_view_deinit(&view);
	hub_backup_view_deinit(&after);
	rig_vm_deinit(&vm);
}

static void a_chain_reads_back_at_every_point_and_survives_a_move(void **state)
{
	struct rig_vm vm = two_disks("pgtest1"), then[4];
	char id[CATALOG_ID_SIZE], paths[4][CATALOG_PATH_SIZE], moved[CATALOG_PATH_SIZE + 32];
	struct hub_backup_view view;
	struct err err = ERR_INIT;

	(void)state;
	hubrig_add_vm(&rig, &vm);
	for (int n = 0; n < 4; n++) {
		rig_vm_change(&vm, 0, (size_t)n * MI + 4096, 70000);
		if (n == 3) /* data becomes zeroes: they must hide the parent's */
			memset(vm.content[0], 0, MI);
		assert_int_equal(hubrig_backup(&rig, vm.name,
					       n ? CATALOG_BACKUP_INCREMENTAL : CATALOG_BACKUP_FULL,
					       &view, &err),
				 0);
		rig_finish(&rig, &vm, &view, n);
		strcpy(paths[n], view.disks[0].row.qcow2_path);
		hub_backup_view_deinit(&view);
		then[n] = vm;
		then[n].content[0] = memcpy(malloc(vm.size[0]), vm.content[0], vm.size[0]);
		strcpy(id, view.job.id);
	}
	for (int n = 0; n < 4; n++)
		assert_true(rig_point_equals(&rig, paths[n], &then[n], 0));
	assert_int_equal(scratch_run("mv '%s/repo' '%s/elsewhere'", rig.dir, rig.dir), 0);
	snprintf(moved, sizeof(moved), "%s/elsewhere%s", rig.dir,
		 paths[3] + strlen(rig.dir) + strlen("/repo"));
	assert_true(rig_point_equals(&rig, moved, &then[3], 0));
	for (int n = 0; n < 4; n++)
		free(then[n].content[0]);
	rig_vm_deinit(&vm);
}

static void what_equals_the_parent_is_not_stored_again(void **state)
{
	struct rig_vm vm = two_disks("pgtest1");
	struct hub_backup_view view, after;
	struct err err = ERR_INIT;
	char id[CATALOG_ID_SIZE];

	(void)state;
	hubrig_add_vm(&rig, &vm);
	rig_full(&rig, &vm, 1, id);
	assert_int_equal(hubrig_backup(&rig, vm.name, CATALOG_BACKUP_INCREMENTAL, &view, &err), 0);
	rig_finish(&rig, &vm, &view, 2); /* an agent that fell back to a full copy */
	assert_int_equal(hub_backup_get(rig.hub, view.job.id, &after, &err), 0);
	assert_true(after.disks[0].row.bytes.bytes_unchanged >= (int64_t)vm.size[0] / 4);
	assert_true(after.disks[0].row.bytes.bytes_stored < MI);
	assert_true(rig_point_equals(&rig, after.disks[0].row.qcow2_path, &vm, 0));
	hub_backup_view_deinit(&view);
	hub_backup_view_deinit(&after);
	rig_vm_deinit(&vm);
}

/* Mismatches are counted by the result; where they are is of no interest here. */
static void ignore(void *arg, uint64_t off, uint64_t len, int res)
{
	(void)arg, (void)off, (void)len, (void)res;
}

static void every_point_verifies_against_its_checksums(void **state)
{
	static const struct qcow2_verify_ops ops = {.differs = ignore};
	struct rig_vm vm = two_disks("pgtest1");
	struct hub_backup_view view;
	struct err err = ERR_INIT;
	uint64_t differing = 1;
	char root[300];

	(void)state;
	snprintf(root, sizeof(root), "%s/repo", rig.dir);
	hubrig_add_vm(&rig, &vm);
	for (int n = 0; n < 2; n++) {
		rig_vm_change(&vm, 1, MI, 100000);
		assert_int_equal(hubrig_backup(&rig, vm.name,
					       n ? CATALOG_BACKUP_INCREMENTAL : CATALOG_BACKUP_FULL,
					       &view, &err),
				 0);
		rig_finish(&rig, &vm, &view, n);
		for (int i = 0; i < 2; i++) {
			assert_int_equal(qcow2_verify(view.disks[i].row.qcow2_path, root, &ops,
						      NULL, &differing, &err),
					 0);
			assert_int_equal(differing, 0);
		}
		hub_backup_view_deinit(&view);
	}
	assert_int_equal(scratch_run("test -z \"$(find '%s' -name '*.part*')\"", root), 0);
	rig_vm_deinit(&vm);
}

/* --- fulls inside an incremental ------------------------------------------------------------ */

/* Runs an incremental; disk 0 has to be @mode for a reason that contains @reason. */
static void expect_mode(struct rig_vm *vm, enum catalog_backup_type mode, const char *reason)
{
	struct hub_backup_view view;
	struct err err = ERR_INIT;

	assert_int_equal(hubrig_backup(&rig, vm->name, CATALOG_BACKUP_INCREMENTAL, &view, &err), 0);
	assert_int_equal(view.disks[0].row.mode, mode);
	assert_non_null(strstr(view.disks[0].row.reason, reason));
	assert_string_equal(asked(vm->name, 0),
			    mode == CATALOG_BACKUP_FULL ? "" : view.disks[0].row.parent_change_id);
	assert_int_equal(view.disks[1].row.mode, CATALOG_BACKUP_INCREMENTAL);
	assert_string_equal(asked(vm->name, 1), view.disks[1].row.parent_change_id);
	rig_finish(&rig, vm, &view, 99);
	for (int i = 0; i < 2; i++)
		assert_true(rig_point_equals(&rig, view.disks[i].row.qcow2_path, vm, i));
	hub_backup_view_deinit(&view);
}

static void compressed_points_are_smaller_and_equal_the_disk(void **state)
{
	struct rig_vm vm = two_disks("packed");
	char id[CATALOG_ID_SIZE];
	struct hub_backup_view view;
	struct err err = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < vm.size[0]; i++)
		vm.content[0][i] = "the quick brown fox "[i / 7 % 20];
	hubrig_add_vm(&rig, &vm);
	rig.compression = "zstd:3";
	rig_full(&rig, &vm, 1, id);
	assert_int_equal(hub_backup_get(rig.hub, id, &view, &err), 0);
	assert_true(view.job.compression_enabled);
	assert_true(view.disks[0].row.bytes.bytes_stored < (int64_t)vm.size[0] / 4);
	for (int i = 0; i < 2; i++)
		assert_true(rig_point_equals(&rig, view.disks[i].row.qcow2_path, &vm, i));
	hub_backup_view_deinit(&view);

	/* plain points and packed ones may follow each other in a chain */
	rig.compression = NULL;
	rig_vm_change(&vm, 0, 70000, 3);
	assert_int_equal(hubrig_backup(&rig, vm.name, CATALOG_BACKUP_INCREMENTAL, &view, &err), 0);
	assert_false(view.job.compression_enabled);
	rig_finish(&rig, &vm, &view, 2);
	for (int i = 0; i < 2; i++)
		assert_true(rig_point_equals(&rig, view.disks[i].row.qcow2_path, &vm, i));
	hub_backup_view_deinit(&view);
	rig.compression = "gzip";
	assert_int_equal(hubrig_backup(&rig, vm.name, CATALOG_BACKUP_FULL, &view, &err),
			 HUB_E_INVALID);
	rig.compression = NULL;
	rig_vm_deinit(&vm);
}

static void a_first_incremental_is_full_for_want_of_a_point(void **state)
{
	struct rig_vm vm = two_disks("pgtest1");
	struct hub_backup_view view;
	struct err err = ERR_INIT;

	(void)state;
	hubrig_add_vm(&rig, &vm);
	assert_int_equal(hubrig_backup(&rig, vm.name, CATALOG_BACKUP_INCREMENTAL, &view, &err), 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(view.disks[i].row.mode, CATALOG_BACKUP_FULL);
		assert_string_equal(view.disks[i].row.reason, "no previous point");
	}
	rig_finish(&rig, &vm, &view, 1);
	hub_backup_view_deinit(&view);
	rig_vm_deinit(&vm);
}

static void a_resized_disk_is_copied_in_full(void **state)
{
	struct rig_vm vm = two_disks("pgtest1");
	char id[CATALOG_ID_SIZE];

	(void)state;
	hubrig_add_vm(&rig, &vm);
	rig_full(&rig, &vm, 1, id);
	vm.content[0] = realloc(vm.content[0], 9 * MI);
	memset(vm.content[0] + 8 * MI, 0x5a, MI);
	vm.size[0] = 9 * MI;
	hubrig_add_vm(&rig, &vm);
	expect_mode(&vm, CATALOG_BACKUP_FULL, "disk resized from 8388608 to 9437184 bytes");
	expect_mode(&vm, CATALOG_BACKUP_INCREMENTAL, "");
	rig_vm_deinit(&vm);
}

static void a_damaged_or_missing_parent_is_not_leaned_on(void **state)
{
	struct rig_vm vm = two_disks("pgtest1");
	struct hub_backup_view view;
	struct err err = ERR_INIT;
	char id[CATALOG_ID_SIZE];

	(void)state;
	hubrig_add_vm(&rig, &vm);
	rig_full(&rig, &vm, 1, id);
	assert_int_equal(hub_backup_get(rig.hub, id, &view, &err), 0);
	assert_int_equal(scratch_run("printf XXXX | dd of='%s' conv=notrunc status=none",
				     view.disks[0].row.qcow2_path),
			 0);
	hub_backup_view_deinit(&view);
	expect_mode(&vm, CATALOG_BACKUP_FULL, "missing or damaged");

	assert_int_equal(scratch_run("rm '%s'/repo/*/disk-0/full-*.qcow2 "
				     "'%s'/repo/*/disk-0/incr-*.qcow2 2>/dev/null; true",
				     rig.dir, rig.dir),
			 0);
	expect_mode(&vm, CATALOG_BACKUP_FULL, "missing or damaged");
	expect_mode(&vm, CATALOG_BACKUP_INCREMENTAL, "");
	rig_vm_deinit(&vm);
}

static void a_new_disk_is_copied_in_full_beside_the_others(void **state)
{
	struct rig_vm vm = two_disks("pgtest1");
	struct hub_backup_view view;
	struct err err = ERR_INIT;
	char id[CATALOG_ID_SIZE];

	(void)state;
	hubrig_add_vm(&rig, &vm);
	rig_full(&rig, &vm, 1, id);
	vm.disk_count = 3;
	vm.size[2] = MI;
	vm.key[2] = 2002;
	vm.content[2] = calloc(1, MI);
	hubrig_add_vm(&rig, &vm);
	assert_int_equal(hubrig_backup(&rig, vm.name, CATALOG_BACKUP_INCREMENTAL, &view, &err), 0);
	assert_int_equal(view.disks[1].row.mode, CATALOG_BACKUP_INCREMENTAL);
	assert_int_equal(view.disks[2].row.mode, CATALOG_BACKUP_FULL);
	assert_string_equal(view.disks[2].row.reason, "disk is new");
	assert_string_equal(asked("pgtest1", 2), "");
	rig_finish(&rig, &vm, &view, 2);
	hub_backup_view_deinit(&view);
	rig_vm_deinit(&vm);
}

/* The agent finds that tracking began anew and copies the disk whole, into the overlay it was
 * given: the new change id tells. */
static void a_reset_of_change_tracking_is_on_the_row_with_its_reason(void **state)
{
	struct rig_vm vm = two_disks("pgtest1");
	struct hub_backup_view view, after;
	struct err err = ERR_INIT;
	char id[CATALOG_ID_SIZE];

	(void)state;
	hubrig_add_vm(&rig, &vm);
	rig_full(&rig, &vm, 1, id);
	rig_vm_change(&vm, 0, MI, MI);
	assert_int_equal(hubrig_backup(&rig, vm.name, CATALOG_BACKUP_INCREMENTAL, &view, &err), 0);
	assert_int_equal(rig_send(&rig, &vm, &view.disks[0], 0, vm.size[0]), 0);
	assert_int_equal(complete(view.job.id, 0, "another-uuid/1", &err), 0);
	assert_int_equal(rig_send(&rig, &vm, &view.disks[1], 0, 0), 0);
	assert_int_equal(complete(view.job.id, 1, "disk-2001/2", &err), 0);
	assert_int_equal(hub_backup_get(rig.hub, view.job.id, &after, &err), 0);
	assert_string_equal(after.disks[0].row.reason,
			    "changed block tracking was reset: the agent copied the disk in full");
	assert_string_equal(after.disks[1].row.reason, "");
	for (int i = 0; i < 2; i++)
		assert_true(rig_point_equals(&rig, after.disks[i].row.qcow2_path, &vm, i));
	assert_string_equal(asked(vm.name, 0), "another-uuid/1");
	hub_backup_view_deinit(&after);
	hub_backup_view_deinit(&view);
	expect_mode(&vm, CATALOG_BACKUP_INCREMENTAL, "");
	rig_vm_deinit(&vm);
}

/* --- complete ------------------------------------------------------------------------------- */

static void complete_twice_is_one_completion(void **state)
{
	struct rig_vm vm = two_disks("pgtest1");
	struct hub_backup_view view;
	struct err err = ERR_INIT;
	struct catalog_completed done;

	(void)state;
	hubrig_add_vm(&rig, &vm);
	assert_int_equal(hubrig_backup(&rig, vm.name, CATALOG_BACKUP_FULL, &view, &err), 0);
	assert_int_equal(complete(view.job.id, 0, "a/1", &err), 0);
	assert_int_equal(hub_backup_complete(rig.hub, view.job.id, 0, "a/1", &done, &err), 0);
	assert_true(done.already);
	assert_int_equal(complete(view.job.id, 0, "a/2", &err), HUB_E_STATE);
	assert_int_equal(complete(view.job.id, 1, "b/1", &err), 0);
	/* the job is over: still the same answer */
	assert_int_equal(hub_backup_complete(rig.hub, view.job.id, 1, "b/1", &done, &err), 0);
	assert_true(done.already);
	assert_int_equal(done.job_status, CATALOG_JOB_COMPLETED);
	assert_int_equal(complete(view.job.id, 1, "b/2", &err), HUB_E_STATE);
	hub_backup_view_deinit(&view);
	rig_vm_deinit(&vm);
}

static void *complete_disk_0(void *id)
{
	struct err err = ERR_INIT;

	return (void *)(intptr_t)complete(id, 0, "a/1", &err);
}

static void two_completes_at_once_both_succeed(void **state)
{
	struct rig_vm vm = two_disks("pgtest1");
	struct hub_backup_view view;
	struct err err = ERR_INIT;
	pthread_t t[4];
	void *rc;

	(void)state;
	hubrig_add_vm(&rig, &vm);
	assert_int_equal(hubrig_backup(&rig, vm.name, CATALOG_BACKUP_FULL, &view, &err), 0);
	assert_int_equal(rig_send(&rig, &vm, &view.disks[0], 0, vm.size[0]), 0);
	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, complete_disk_0, view.job.id);
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], &rc);
		assert_int_equal((intptr_t)rc, 0);
	}
	assert_true(rig_point_equals(&rig, view.disks[0].row.qcow2_path, &vm, 0));
	hub_backup_view_deinit(&view);
	rig_vm_deinit(&vm);
}

static void complete_refuses_what_makes_no_sense(void **state)
{
	struct rig_vm vm = two_disks("pgtest1");
	struct hub_backup_view view;
	struct err err = ERR_INIT;
	char longest[300];

	(void)state;
	memset(longest, 'x', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0';
	hubrig_add_vm(&rig, &vm);
	assert_int_equal(hubrig_backup(&rig, vm.name, CATALOG_BACKUP_FULL, &view, &err), 0);
	assert_int_equal(complete(view.job.id, 0, "", &err), HUB_E_INVALID);
	assert_int_equal(complete(view.job.id, 0, longest, &err), HUB_E_INVALID);
	assert_int_equal(complete(view.job.id, CATALOG_NONE, "a/1", &err), HUB_E_INVALID);
	assert_int_equal(complete(view.job.id, 7, "a/1", &err), HUB_E_NOT_FOUND);
	assert_non_null(strstr(err.text, view.job.id));
	assert_non_null(strstr(err.text, "disk_index=7"));
	assert_int_equal(complete("backup-unknown", 0, "a/1", &err), HUB_E_NOT_FOUND);
	assert_non_null(strstr(err.text, "job_id=backup-unknown disk_index=0"));
	longest[255] = '\0'; /* the longest there is, with what vSphere writes */
	memcpy(longest, "52 66 8c 2d a7 c5 c5 68-c5 d2 8d 04 79 f5 fd 7d/5531", 52);
	assert_int_equal(complete(view.job.id, 0, longest, &err), 0);
	hub_backup_view_deinit(&view);
	assert_int_equal(hub_backup_get(rig.hub, view.job.id, &view, &err), 0);
	assert_string_equal(view.disks[0].row.change_id, longest);
	hub_backup_view_deinit(&view);
	rig_vm_deinit(&vm);
}

static void without_a_disk_id_the_only_disk_is_meant(void **state)
{
	struct rig_vm vm = {.name = "one", .id = "vm-9", .disk_count = 1, .size = {MI}};
	struct hub_backup_view view;
	struct err err = ERR_INIT;

	(void)state;
	rig_vm_init(&vm);
	hubrig_add_vm(&rig, &vm);
	assert_int_equal(hubrig_backup(&rig, vm.name, CATALOG_BACKUP_FULL, &view, &err), 0);
	assert_int_equal(complete(view.job.id, CATALOG_NONE, "a/1", &err), 0);
	assert_int_equal(complete(view.job.id, CATALOG_NONE, "a/1", &err), 0);
	hub_backup_view_deinit(&view);
	rig_vm_deinit(&vm);
}

static void complete_is_valid_two_days_later(void **state)
{
	struct rig_vm vm = two_disks("pgtest1");
	struct hub_backup_view view;
	struct err err = ERR_INIT;

	(void)state;
	hubrig_add_vm(&rig, &vm);
	assert_int_equal(hubrig_backup(&rig, vm.name, CATALOG_BACKUP_FULL, &view, &err), 0);
	assert_int_equal(rig_send(&rig, &vm, &view.disks[0], 0, vm.size[0]), 0);
	tmpdb_sql(&rig.db, "UPDATE backup_jobs SET created_at = created_at - 172800000000,"
			   " started_at = started_at - 172800000000");
	assert_int_equal(complete(view.job.id, 0, "a/1", &err), 0);
	assert_int_equal(complete(view.job.id, 1, "b/1", &err), 0);
	assert_true(rig_await(&rig, view.job.id, CATALOG_JOB_COMPLETED, NULL));
	assert_true(rig_point_equals(&rig, view.disks[0].row.qcow2_path, &vm, 0));
	hub_backup_view_deinit(&view);
	rig_vm_deinit(&vm);
}

/* --- what does not look right ---------------------------------------------------------------- */

/* Whether the log of a backup has a warning about this disk with @part in it. */
static bool is_warned(const char *id, int disk_index, const char *part)
{
	struct catalog_job_line *rows = NULL;
	struct err err = ERR_INIT;
	bool yes = false;
	size_t n = 0;

	rig_must(catalog_job_log_list(hub_catalog(rig.hub), id, 0, 1000, &rows, &n, &err), &err,
		 "log");
	for (size_t i = 0; i < n; i++)
		yes |= rows[i].level == CATALOG_LOG_WARNING && rows[i].disk_index == disk_index &&
		       strstr(rows[i].message, part);
	free(rows);
	return yes;
}

/* Agents cut disks (agent contract 1.7), and copy more than has changed (mission K32). */
static void a_full_that_ends_early_and_an_incremental_of_much_are_warned_of(void **state)
{
	struct rig_vm vm = two_disks("pgtest1");
	struct hub_backup_view view;
	struct err err = ERR_INIT;

	(void)state;
	hubrig_add_vm(&rig, &vm);
	assert_int_equal(hubrig_backup(&rig, vm.name, CATALOG_BACKUP_FULL, &view, &err), 0);
	assert_int_equal(rig_send(&rig, &vm, &view.disks[0], 0, MI), 0);
	assert_int_equal(rig_send(&rig, &vm, &view.disks[1], 0, vm.size[1]), 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(complete(view.job.id, i, "a/1", &err), 0);
	assert_true(
		is_warned(view.job.id, 0, "nothing was written behind byte 1048576 of 8388608"));
	assert_false(is_warned(view.job.id, 1, ""));
	hub_backup_view_deinit(&view);

	assert_int_equal(hubrig_backup(&rig, vm.name, CATALOG_BACKUP_INCREMENTAL, &view, &err), 0);
	assert_int_equal(rig_send(&rig, &vm, &view.disks[0], 0, MI), 0);
	assert_int_equal(rig_send(&rig, &vm, &view.disks[1], 0, MI), 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(complete(view.job.id, i, "a/2", &err), 0);
	assert_false(is_warned(view.job.id, 0, ""));
	assert_true(is_warned(view.job.id, 1, "an incremental moved 1048576 of 3147264 bytes"));
	hub_backup_view_deinit(&view);
	rig_vm_deinit(&vm);
}

/* --- one at a time -------------------------------------------------------------------------- */

static void a_second_start_names_the_running_backup(void **state)
{
	struct rig_vm vm = two_disks("pgtest1"), namesake = two_disks("pgtest1");
	struct hub_start_request req = {.backup_type = CATALOG_BACKUP_FULL};
	struct hub_backup_view view, second;
	struct hub_started started;
	struct catalog_vm_context *rows;
	struct err err = ERR_INIT;
	size_t n;

	(void)state;
	hubrig_add_vm(&rig, &vm);
	namesake.id = "vm-2"; /* another VM of that name: the agent could not tell them apart */
	hubrig_add_vm(&rig, &namesake);
	assert_int_equal(
		catalog_vm_contexts_list(hub_catalog(rig.hub), NULL, &rows, &n, NULL, &err), 0);
	assert_int_equal(n, 2);
	assert_int_equal(hubrig_backup(&rig, "pgtest1", CATALOG_BACKUP_FULL, &view, &err),
			 HUB_E_INVALID);
	req.vm_context_id = rows[0].context_id;
	req.repository_id = rig.repository;
	assert_int_equal(hub_backup_start(rig.hub, &req, &started, &err), 0);
	free(started.nbd_targets);
	assert_int_equal(hub_backup_get(rig.hub, started.backup_id, &view, &err), 0);
	for (size_t i = 0; i < 2; i++) {
		req.vm_context_id = rows[i].context_id;
		assert_int_equal(hub_backup_start(rig.hub, &req, &started, &err), HUB_E_BUSY);
		assert_string_equal(started.backup_id, view.job.id);
		assert_non_null(strstr(err.text, view.job.id));
	}
	second = view;
	rig_finish(&rig, &vm, &second, 1);
	assert_int_equal(hub_backup_start(rig.hub, &req, &started, &err), 0);
	free(started.nbd_targets);
	free(rows);
	hub_backup_view_deinit(&view);
	rig_vm_deinit(&vm);
	rig_vm_deinit(&namesake);
}

static void starts_that_make_no_sense_are_refused_with_the_reason(void **state)
{
	struct rig_vm vm = {.name = "empty", .id = "vm-3"};
	struct hub_backup_view view;
	struct hub_start_request req = {.vm_name = "empty", .repository = "nowhere"};
	struct hub_started started;
	struct err err = ERR_INIT;

	(void)state;
	hubrig_add_vm(&rig, &vm);
	assert_int_equal(hubrig_backup(&rig, "empty", CATALOG_BACKUP_FULL, &view, &err),
			 HUB_E_INVALID);
	assert_string_equal(err.text, "VM disk information not available - run discovery first");
	assert_int_equal(hubrig_backup(&rig, "nobody", CATALOG_BACKUP_FULL, &view, &err),
			 HUB_E_NOT_FOUND);
	assert_int_equal(hubrig_backup(&rig, "empty", CATALOG_BACKUP_DIFFERENTIAL, &view, &err),
			 HUB_E_INVALID);
	vm.disk_count = 1;
	vm.size[0] = MI;
	rig_vm_init(&vm);
	hubrig_add_vm(&rig, &vm);
	assert_int_equal(hub_backup_start(rig.hub, &req, &started, &err), HUB_E_NOT_FOUND);
	req.repository = "local"; /* by type: there is one */
	assert_int_equal(hub_backup_start(rig.hub, &req, &started, &err), 0);
	free(started.nbd_targets);
	rig_vm_deinit(&vm);
}

static void backups_of_several_vms_do_not_mix(void **state)
{
	struct rig_vm vms[3] = {two_disks("vm-a"), two_disks("vm-b"), two_disks("vm-c")};
	struct hub_backup_view views[3];
	struct err err = ERR_INIT;

	(void)state;
	vms[1].id = "vm-2", vms[2].id = "vm-3";
	for (int i = 0; i < 3; i++) {
		hubrig_add_vm(&rig, &vms[i]);
		assert_int_equal(
			hubrig_backup(&rig, vms[i].name, CATALOG_BACKUP_FULL, &views[i], &err), 0);
	}
	for (size_t off = 0; off < 3 * MI; off += MI / 2)
		for (int i = 2; i >= 0; i--)
			for (int d = 1; d >= 0; d--)
				assert_int_equal(
					rig_send(&rig, &vms[i], &views[i].disks[d], off, MI / 2),
					0);
	for (int i = 0; i < 3; i++) {
		rig_finish(&rig, &vms[i], &views[i], 1);
		for (int d = 0; d < 2; d++)
			assert_true(rig_point_equals(&rig, views[i].disks[d].row.qcow2_path,
						     &vms[i], d));
		hub_backup_view_deinit(&views[i]);
		rig_vm_deinit(&vms[i]);
	}
}

static void progress_is_live_and_telemetry_decides_nothing(void **state)
{
	struct rig_vm vm = two_disks("pgtest1");
	struct hub_telemetry t = {.current_phase = "completed"};
	struct hub_backup_view view, now;
	struct err err = ERR_INIT;

	(void)state;
	hubrig_add_vm(&rig, &vm);
	assert_int_equal(hubrig_backup(&rig, vm.name, CATALOG_BACKUP_FULL, &view, &err), 0);
	assert_int_equal(rig_send(&rig, &vm, &view.disks[0], 0, 4 * MI), 0);
	assert_int_equal(hub_backup_telemetry(rig.hub, view.job.id, &t, &err), 0);
	assert_int_equal(hub_backup_get(rig.hub, view.job.id, &now, &err), 0);
	assert_int_equal(now.job.status, CATALOG_JOB_RUNNING);
	assert_string_equal(now.job.current_phase, "completed");
	assert_int_equal(now.disks[0].row.bytes.bytes_transferred +
				 now.disks[0].row.bytes.bytes_zero,
			 4 * MI);
	assert_true(now.disks[0].percent > 49 && now.disks[0].percent < 51);
	assert_int_equal(now.disks[0].row.status, CATALOG_DISK_RUNNING);
	assert_int_equal(now.disks[1].row.status, CATALOG_DISK_PENDING);
	assert_int_equal(hub_backup_telemetry(rig.hub, "backup-x", &t, &err), HUB_E_NOT_FOUND);
	hub_backup_view_deinit(&now);
	rig_finish(&rig, &vm, &view, 1);
	assert_int_equal(hub_backup_telemetry(rig.hub, view.job.id, &t, &err), 0);
	hub_backup_view_deinit(&view);
	rig_vm_deinit(&vm);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_full_of_two_disks_equals_what_was_streamed),
		T(the_agent_gets_what_it_insists_on),
		T(the_seeds_export_name_is_an_alias),
		T(a_full_never_tells_an_old_change_id),
		T(every_point_has_a_sidecar_that_tells_what_it_is),
		T(an_incremental_leans_on_the_last_point_and_stores_what_changed),
		T(a_chain_reads_back_at_every_point_and_survives_a_move),
		T(what_equals_the_parent_is_not_stored_again),
		T(every_point_verifies_against_its_checksums),
		T(compressed_points_are_smaller_and_equal_the_disk),
		T(a_first_incremental_is_full_for_want_of_a_point),
		T(a_resized_disk_is_copied_in_full),
		T(a_damaged_or_missing_parent_is_not_leaned_on),
		T(a_new_disk_is_copied_in_full_beside_the_others),
		T(a_reset_of_change_tracking_is_on_the_row_with_its_reason),
		T(complete_twice_is_one_completion),
		T(two_completes_at_once_both_succeed),
		T(complete_refuses_what_makes_no_sense),
		T(without_a_disk_id_the_only_disk_is_meant),
		T(complete_is_valid_two_days_later),
		T(a_full_that_ends_early_and_an_incremental_of_much_are_warned_of),
		T(a_second_start_names_the_running_backup),
		T(starts_that_make_no_sense_are_refused_with_the_reason),
		T(backups_of_several_vms_do_not_mix),
		T(progress_is_live_and_telemetry_decides_nothing),
	};

	return tmpdb_run_tests("hub/backup", tests, NULL, NULL);
}
