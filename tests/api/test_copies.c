/*
 * Copies of backups in other repositories, over real HTTP and with real images, which qemu-img
 * judges. Every answer is held against the OpenAPI document (apiclient.h).
 */
#include <fcntl.h>
#include <glob.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "catalog/copies.h"
#include "tests/support/apirig.h"

static char far[CATALOG_ID_SIZE];

static void add_repository(const char *name, const char *more, char id[CATALOG_ID_SIZE])
{
	char body[600];
	json_t *reply;

	snprintf(body, sizeof(body),
		 "{\"name\":\"%s\",\"type\":\"local\",\"config\":{\"path\":\"%s/%s\"%s}}", name,
		 rig.dir, name, more);
	reply = ask("POST", "/api/v1/repositories", body, 201);
	snprintf(id, CATALOG_ID_SIZE, "%s", text_of(reply, "id"));
	json_decref(reply);
}

static int setup(void **state)
{
	apirig_setup_vm(state);
	add_repository("far", "", far);
	return 0;
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, apirig_teardown)

/* --- helpers -------------------------------------------------------------------------------- */

/* The next point of the chain, of what the VM holds now. */
static void incremental(int n, char id[CATALOG_ID_SIZE])
{
	struct hub_backup_view view;
	struct err err = ERR_INIT;

	rig_vm_change(&vm, 0, (size_t)n * 65536, 5000);
	rig_vm_change(&vm, 1, 512 * (size_t)n, 512);
	rig_must(hubrig_backup(&rig, vm.name, CATALOG_BACKUP_INCREMENTAL, &view, &err), &err,
		 "incremental");
	assert_int_equal(view.disks[0].row.mode, CATALOG_BACKUP_INCREMENTAL);
	rig_finish(&rig, &vm, &view, n);
	strcpy(id, view.job.id);
	hub_backup_view_deinit(&view);
}

__attribute__((format(printf, 1, 2))) static const char *path_of(const char *format, ...)
{
	static char path[200];
	va_list ap;

	va_start(ap, format);
	vsnprintf(path, sizeof(path), format, ap);
	va_end(ap);
	return path;
}

static void copy_to(const char *backup, const char *repository, char id[CATALOG_ID_SIZE])
{
	char body[200];
	json_t *reply;

	snprintf(body, sizeof(body), "{\"repository_id\":\"%s\"}", repository);
	reply = ask("POST", path_of("/api/v1/backups/%s/copy", backup), body, 202);
	assert_string_equal(text_of(reply, "status"), "pending");
	snprintf(id, CATALOG_ID_SIZE, "%s", text_of(reply, "id"));
	json_decref(reply);
}

/* Until it is in this state, for a minute; the caller's. */
static json_t *await(const char *id, const char *status)
{
	json_t *copy = NULL;

	for (int i = 0; i < 6000; i++) {
		json_decref(copy);
		copy = ask("GET", path_of("/api/v1/copies/%s", id), NULL, 200);
		if (!strcmp(text_of(copy, "status"), status))
			return copy;
		nanosleep(&(struct timespec){.tv_nsec = 10 * 1000000L}, NULL);
	}
	fail_msg("copy is %s, not %s: %s", text_of(copy, "status"), status,
		 text_of(copy, "error_message"));
	return NULL;
}

static const json_t *disk_of(const json_t *copy, size_t i)
{
	return json_array_get(json_object_get(copy, "disks"), i);
}

static void source_path(const char *backup, int disk, char path[CATALOG_PATH_SIZE])
{
	struct catalog_backup_disk row;
	struct err err = ERR_INIT;

	rig_must(catalog_backup_disk_get(hub_catalog(rig.hub), backup, disk, &row, &err), &err,
		 "disk");
	strcpy(path, row.qcow2_path);
}

/* Files below {dir}/@folder, whatever they are called. */
static int files_in(const char *folder)
{
	char *text = scratch_output("find '%s/%s' -type f | wc -l", rig.dir, folder);
	int n = atoi(text);

	free(text);
	return n;
}

/* Flips a bit of what the image file holds at guest byte 0. */
static void flip_bit(const char *path)
{
	char *map = scratch_output("qemu-img map --output=json -U '%s'", path);
	json_t *extents = json_loads(map, 0, NULL);
	json_int_t off = json_integer_value(json_object_get(json_array_get(extents, 0), "offset"));
	unsigned char byte;
	int fd = open(path, O_RDWR);

	assert_true(fd >= 0 && off > 0);
	assert_int_equal(pread(fd, &byte, 1, off), 1);
	byte ^= 4;
	assert_int_equal(pwrite(fd, &byte, 1, off), 1);
	assert_int_equal(fsync(fd), 0);
	close(fd);
	json_decref(extents);
	free(map);
}

static bool is_told(const char *backup, const char *what)
{
	json_t *log = ask("GET", path_of("/api/v1/backups/%s/log", backup), NULL, 200), *line;
	bool found = false;
	size_t i;

	json_array_foreach (json_object_get(log, "lines"), i, line) {
		found |= strstr(text_of(line, "message"), what) != NULL;
	}
	json_decref(log);
	return found;
}

/* --- what a copy is ------------------------------------------------------------------------- */

static void assert_copy_of(const char *backup, const json_t *copy)
{
	struct catalog_backup_disk row;
	struct err err = ERR_INIT;

	for (int i = 0; i < 2; i++) {
		const char *path = text_of(disk_of(copy, (size_t)i), "qcow2_path");
		char *sum = scratch_output("sha256sum '%s'", path);

		rig_must(catalog_backup_disk_get(hub_catalog(rig.hub), backup, i, &row, &err), &err,
			 "disk");
		assert_int_equal(scratch_run("qemu-img compare -q -U -f qcow2 -F qcow2 '%s' "
					     "'%s'",
					     row.qcow2_path, path),
				 0);
		assert_int_equal(scratch_run("qemu-img check -q -f qcow2 '%s'", path), 0);
		assert_int_not_equal(
			scratch_run("qemu-img info -U '%s' | grep -q 'backing file'", path), 0);
		assert_memory_equal(sum, text_of(disk_of(copy, (size_t)i), "sha256"), 64);
		assert_true(number_of(disk_of(copy, (size_t)i), "bytes_stored") > 0);
		free(sum);
	}
}

static void assert_sidecar(const char *backup, const json_t *copy)
{
	const char *path = text_of(disk_of(copy, 0), "qcow2_path");
	char name[CATALOG_PATH_SIZE];
	const json_t *of;
	json_t *doc;

	snprintf(name, sizeof(name), "%.*s.json", (int)(strlen(path) - strlen(".qcow2")), path);
	doc = json_load_file(name, 0, NULL);
	of = json_object_get(doc, "copy_of");
	assert_string_equal(text_of(of, "backup_id"), backup);
	assert_string_equal(text_of(of, "copy_id"), text_of(copy, "id"));
	assert_string_equal(text_of(of, "repository"), "local1");
	assert_string_equal(text_of(doc, "mode"), "full");
	assert_true(json_is_null(json_object_get(doc, "parent")));
	assert_string_equal(text_of(json_object_get(doc, "repository"), "name"), "far");
	assert_string_equal(text_of(json_object_get(doc, "vm"), "name"), "pgtest1");
	assert_string_equal(text_of(json_object_get(doc, "disk"), "label"), "Hard disk 1");
	assert_true(!strncmp(path, rig.dir, strlen(rig.dir)) &&
		    strstr(path, text_of(doc, "file")) != NULL);
	json_decref(doc);
}

static void a_copy_of_any_point_of_a_chain_stands_by_itself(void **state)
{
	char points[3][CATALOG_ID_SIZE], id[CATALOG_ID_SIZE], path[CATALOG_PATH_SIZE];
	json_t *copy;

	(void)state;
	rig_full(&rig, &vm, 0, points[0]);
	incremental(1, points[1]);
	incremental(2, points[2]);
	for (int i = 2; i >= 1; i--) {
		copy_to(points[i], far, id);
		copy = await(id, "completed");
		assert_string_equal(text_of(copy, "verification"), "passed");
		assert_int_equal(number_of(copy, "bytes_copied"), 3 * MI + 512);
		assert_int_equal(number_of(copy, "bytes_total"), 3 * MI + 512);
		assert_string_equal(text_of(copy, "vm_name"), "pgtest1");
		assert_copy_of(points[i], copy);
		assert_sidecar(points[i], copy);
		assert_true(is_told(points[i], "completed and verified"));
		json_decref(copy);
	}
	assert_int_equal(files_in("far"), 2 * 2 * 3); /* image, .sums, .json */

	/* Nothing of the first repository is needed: the newest point is read without it. */
	copy_to(points[0], far, id);
	json_decref(await(id, "completed"));
	copy = ask("GET", path_of("/api/v1/backups/%s/copies", points[2]), NULL, 200);
	assert_int_equal(number_of(copy, "total"), 1);
	snprintf(path, sizeof(path), "%s",
		 text_of(disk_of(json_array_get(json_object_get(copy, "copies"), 0), 0),
			 "qcow2_path"));
	json_decref(copy);
	assert_int_equal(scratch_run("mv '%s/repo' '%s/gone'", rig.dir, rig.dir), 0);
	assert_true(rig_point_equals(&rig, path, &vm, 0));
	assert_int_equal(scratch_run("'%s/bin/sendense-ctl' image verify '%s' >/dev/null",
				     getenv("BUILD") ? getenv("BUILD") : "build", path),
			 0);
	assert_int_equal(scratch_run("mv '%s/gone' '%s/repo'", rig.dir, rig.dir), 0);
}

static void a_copy_is_compressed_as_its_repository_says(void **state)
{
	char backup[CATALOG_ID_SIZE], id[CATALOG_ID_SIZE], packed[CATALOG_ID_SIZE];
	json_t *copy;

	(void)state;
	add_repository("packed", ",\"compression\":\"zstd\"", packed);
	memset(vm.content[0], 'x', vm.size[0] / 2);
	rig_full(&rig, &vm, 0, backup);
	copy_to(backup, packed, id);
	copy = await(id, "completed");
	assert_copy_of(backup, copy);
	assert_int_equal(scratch_run("qemu-img check --output=json '%s' | jq -e "
				     "'.\"compressed-clusters\" > 0' >/dev/null",
				     text_of(disk_of(copy, 0), "qcow2_path")),
			 0);
	json_decref(copy);
}

/* --- asking --------------------------------------------------------------------------------- */

static void what_cannot_be_copied_is_refused(void **state)
{
	char backup[CATALOG_ID_SIZE], id[CATALOG_ID_SIZE], running[200];
	struct hub_backup_view view;
	struct err err = ERR_INIT;

	(void)state;
	rig_full(&rig, &vm, 0, backup);
	refuse("POST", "/api/v1/backups/backup-none/copy", "{\"repository\":\"far\"}", 404,
	       "backup-none");
	refuse("POST", path_of("/api/v1/backups/%s/copy", backup), "{\"repository\":\"none\"}", 404,
	       "none");
	refuse("POST", path_of("/api/v1/backups/%s/copy", backup), "{}", 400, "repository_id");
	refuse("POST", path_of("/api/v1/backups/%s/copy", backup), "{\"repository\":\"local1\"}",
	       409, "local1");
	rig_must(hubrig_backup(&rig, vm.name, CATALOG_BACKUP_INCREMENTAL, &view, &err), &err,
		 "incremental");
	snprintf(running, sizeof(running), "/api/v1/backups/%s/copy", view.job.id);
	refuse("POST", running, "{\"repository\":\"far\"}", 409, "only a completed backup");
	rig_finish(&rig, &vm, &view, 1);
	hub_backup_view_deinit(&view);

	copy_to(backup, far, id);
	refuse("POST", path_of("/api/v1/backups/%s/copy", backup), "{\"repository\":\"far\"}", 409,
	       id);
	json_decref(await(id, "completed"));
	refuse("POST", path_of("/api/v1/backups/%s/copy", backup), "{\"repository\":\"far\"}", 409,
	       id);
	refuse("POST", path_of("/api/v1/copies/%s/retry", id), NULL, 409, "completed");
	refuse("GET", "/api/v1/backups/backup-none/copies", NULL, 404, "backup-none");
	refuse("GET", "/api/v1/copies/copy-none", NULL, 404, "copy-none");
	refuse("POST", "/api/v1/copies/copy-none/verify", NULL, 404, "copy-none");
	refuse("DELETE", "/api/v1/copies/copy-none", NULL, 404, "copy-none");
	refuse("GET", "/api/v1/copies?status=odd", NULL, 400, "status");
}

/* The same request with the same key is the same copy. */
static void asking_again_with_the_same_key_makes_no_second_copy(void **state)
{
	char backup[CATALOG_ID_SIZE], path[200], bearer[APIRIG_BEARER_SIZE];
	const char *const headers[] = {bearer, "Content-Type: application/json",
				       "Idempotency-Key: once", NULL};
	struct apiclient_reply first, second;

	(void)state;
	rig_full(&rig, &vm, 0, backup);
	snprintf(path, sizeof(path), "/api/v1/backups/%s/copy", backup);
	apirig_bearer(path, bearer);
	apirig_run("POST", path, "{\"repository\":\"far\"}", headers, &first);
	apirig_run("POST", path, "{\"repository\":\"far\"}", headers, &second);
	assert_int_equal(first.status, 202);
	assert_int_equal(second.status, 202);
	assert_string_equal(first.text, second.text);
	apiclient_deinit(&first);
	apiclient_deinit(&second);
}

static void a_backup_with_copies_is_not_deleted_before_them(void **state)
{
	char backup[CATALOG_ID_SIZE], id[CATALOG_ID_SIZE], path[CATALOG_PATH_SIZE];

	(void)state;
	rig_full(&rig, &vm, 0, backup);
	copy_to(backup, far, id);
	refuse("DELETE", path_of("/api/v1/backups/%s", backup), NULL, 409, "cop");
	json_decref(await(id, "completed"));
	refuse("DELETE", path_of("/api/v1/backups/%s", backup), NULL, 409,
	       "copies in other repositories");
	source_path(backup, 0, path);
	assert_int_equal(access(path, R_OK), 0);
	/* One that failed, and whose files could not be removed: nobody else knows of them. */
	tmpdb_sql(&rig.db, "UPDATE backup_copies SET status = 'failed'");
	refuse("DELETE", path_of("/api/v1/backups/%s", backup), NULL, 409,
	       "copies in other repositories");
	just("DELETE", path_of("/api/v1/copies/%s", id), NULL, 204);
	assert_int_equal(files_in("far"), 0);
	json_decref(ask("DELETE", path_of("/api/v1/backups/%s", backup), NULL, 200));
	assert_int_not_equal(access(path, R_OK), 0);
}

static void lists_have_pages_and_filters(void **state)
{
	char backups[3][CATALOG_ID_SIZE], id[CATALOG_ID_SIZE], path[200];
	json_t *list;

	(void)state;
	for (int i = 0; i < 3; i++) {
		rig_full(&rig, &vm, i, backups[i]);
		copy_to(backups[i], far, id);
		json_decref(await(id, "completed"));
	}
	list = ask("GET", "/api/v1/copies?limit=2&sort=created_at", NULL, 200);
	assert_int_equal(number_of(list, "total"), 3);
	assert_int_equal(json_array_size(json_object_get(list, "copies")), 2);
	assert_string_equal(
		text_of(json_array_get(json_object_get(list, "copies"), 0), "backup_id"),
		backups[0]);
	json_decref(list);
	snprintf(path, sizeof(path),
		 "/api/v1/copies?backup_id=%s&repository_id=%s&status=completed", backups[1], far);
	list = ask("GET", path, NULL, 200);
	assert_int_equal(number_of(list, "total"), 1);
	json_decref(list);
	list = ask("GET", "/api/v1/copies?status=failed", NULL, 200);
	assert_int_equal(number_of(list, "total"), 0);
	json_decref(list);
}

/* --- what goes wrong ------------------------------------------------------------------------ */

static void a_backup_that_has_rotted_is_not_copied_as_if_it_were_whole(void **state)
{
	char backup[CATALOG_ID_SIZE], id[CATALOG_ID_SIZE], path[CATALOG_PATH_SIZE];
	json_t *copy;

	(void)state;
	rig_full(&rig, &vm, 0, backup);
	incremental(3, id); /* leans on the rotten one */
	source_path(backup, 0, path);
	flip_bit(path);
	copy_to(id, far, id);
	copy = await(id, "failed");
	assert_non_null(
		strstr(text_of(copy, "error_message"), "does not read as it was backed up"));
	assert_non_null(strstr(text_of(copy, "error_message"), "guest byte 0"));
	assert_int_equal(number_of(copy, "attempts"), 1);
	assert_int_equal(files_in("far"), 0);
	flip_bit(path); /* put right again */
	json_decref(ask("POST", path_of("/api/v1/copies/%s/retry", id), NULL, 202));
	json_decref(copy);
	copy = await(id, "completed");
	assert_copy_of(text_of(copy, "backup_id"), copy);
	assert_string_equal(text_of(copy, "error_message"), "");
	json_decref(copy);
}

static void a_bit_that_flips_in_the_copy_is_found_and_the_file_set_aside(void **state)
{
	char backup[CATALOG_ID_SIZE], id[CATALOG_ID_SIZE];
	json_t *copy;

	(void)state;
	rig_full(&rig, &vm, 0, backup);
	copy_to(backup, far, id);
	copy = await(id, "completed");
	json_decref(ask("POST", path_of("/api/v1/copies/%s/verify", id), NULL, 202));
	json_decref(await(id, "completed"));
	assert_int_equal(files_in("far/quarantine"), 0);
	assert_int_equal(scratch_run("mv '%s/far' '%s/away'", rig.dir, rig.dir), 0);
	json_decref(ask("POST", path_of("/api/v1/copies/%s/verify", id), NULL, 202));
	json_decref(copy);
	copy = await(id, "completed"); /* that it cannot be read now says nothing about it */
	assert_int_equal(scratch_run("mv '%s/away' '%s/far'", rig.dir, rig.dir), 0);
	assert_string_equal(text_of(copy, "verification"), "pending");
	assert_non_null(strstr(text_of(copy, "error_message"), "far"));

	flip_bit(text_of(disk_of(copy, 0), "qcow2_path"));
	json_decref(ask("POST", path_of("/api/v1/copies/%s/verify", id), NULL, 202));
	json_decref(copy);
	copy = await(id, "failed");
	assert_string_equal(text_of(copy, "verification"), "failed");
	assert_non_null(strstr(text_of(copy, "error_message"), "guest bytes 0 to"));
	assert_true(is_told(backup, "in the quarantine"));
	assert_int_equal(files_in("far"), files_in("far/quarantine"));
	assert_true(files_in("far/quarantine") >= 2);
	refuse("POST", path_of("/api/v1/copies/%s/verify", id), NULL, 409, "failed");
	json_decref(copy);
	json_decref(ask("POST", path_of("/api/v1/copies/%s/retry", id), NULL, 202));
	copy = await(id, "completed");
	assert_copy_of(backup, copy);
	json_decref(copy);
}

static void a_repository_out_of_reach_is_tried_again_by_itself(void **state)
{
	char backup[CATALOG_ID_SIZE], id[CATALOG_ID_SIZE];
	json_t *copy = NULL;

	(void)state;
	apirig_stop();
	/* The fifth attempt and last is 42 s after the first: enough to bring it back. */
	rig.config.copy_retry_ms = 500;
	apirig_start();
	rig_full(&rig, &vm, 0, backup);
	/* Asked for while it was there. */
	tmpdb_sql(&rig.db, "UPDATE backup_repositories SET enabled = 0 WHERE id = '%s'", far);
	refuse("POST", path_of("/api/v1/backups/%s/copy", backup), "{\"repository\":\"far\"}", 409,
	       "disabled");
	tmpdb_sql(&rig.db, "UPDATE backup_repositories SET enabled = 1 WHERE id = '%s'", far);
	{
		struct catalog_copy row = {.verify_after_copy = true};
		struct err err = ERR_INIT;

		assert_int_equal(scratch_run("mv '%s/far' '%s/away'", rig.dir, rig.dir), 0);
		CATALOG_TEXT(row.backup_job_id, backup);
		CATALOG_TEXT(row.repository_id, far);
		rig_must(catalog_copy_request(hub_catalog(rig.hub), &row, &err), &err, "request");
		strcpy(id, row.id);
	}
	for (int i = 0; i < 6000; i++) {
		json_decref(copy);
		copy = ask("GET", path_of("/api/v1/copies/%s", id), NULL, 200);
		if (number_of(copy, "attempts") >= 2)
			break;
		nanosleep(&(struct timespec){.tv_nsec = 10 * 1000000L}, NULL);
	}
	assert_true(number_of(copy, "attempts") >= 2);
	assert_non_null(strstr(text_of(copy, "error_message"), "far"));
	json_decref(copy);
	assert_int_equal(scratch_run("mv '%s/away' '%s/far'", rig.dir, rig.dir), 0);
	json_decref(await(id, "completed"));
	assert_true(is_told(backup, "attempt 1 failed"));
}

/* --- removing ------------------------------------------------------------------------------- */

static void deleting_a_copy_leaves_no_file_and_frees_its_repository(void **state)
{
	char backup[CATALOG_ID_SIZE], id[CATALOG_ID_SIZE], path[CATALOG_PATH_SIZE];

	(void)state;
	rig_full(&rig, &vm, 0, backup);
	copy_to(backup, far, id);
	json_decref(await(id, "completed"));
	refuse("DELETE", path_of("/api/v1/repositories/%s", far), NULL, 409, id);
	just("DELETE", path_of("/api/v1/copies/%s", id), NULL, 204);
	assert_int_equal(files_in("far"), 0);
	assert_int_equal(
		scratch_run("test -z \"$(ls '%s/far' | grep -v '^quarantine$')\"", rig.dir),
		0); /* nor a folder */
	refuse("GET", path_of("/api/v1/copies/%s", id), NULL, 404, id);
	just("DELETE", path_of("/api/v1/repositories/%s", far), NULL, 204);
	source_path(backup, 0, path);
	assert_true(rig_point_equals(&rig, path, &vm, 0));
}

static void an_immutable_repository_keeps_its_copies(void **state)
{
	char backup[CATALOG_ID_SIZE], id[CATALOG_ID_SIZE];

	(void)state;
	rig_full(&rig, &vm, 0, backup);
	copy_to(backup, far, id);
	json_decref(await(id, "completed"));
	tmpdb_sql(&rig.db,
		  "UPDATE backup_repositories SET is_immutable = 1, min_retention_days = 2 WHERE"
		  " id = '%s'",
		  far);
	refuse("DELETE", path_of("/api/v1/copies/%s", id), NULL, 409, "is kept by");
	tmpdb_sql(&rig.db, "UPDATE backup_copies SET completed_at = completed_at - 172800000000");
	just("DELETE", path_of("/api/v1/copies/%s", id), NULL, 204);
}

/* Whether it may go is asked of what it is, not of what is done with it just now. */
static void a_copy_is_kept_while_it_is_read_back(void **state)
{
	char backup[CATALOG_ID_SIZE], id[CATALOG_ID_SIZE];

	(void)state;
	rig_full(&rig, &vm, 0, backup);
	copy_to(backup, far, id);
	json_decref(await(id, "completed"));
	tmpdb_sql(&rig.db,
		  "UPDATE backup_repositories SET is_immutable = 1, min_retention_days = 2 WHERE"
		  " id = '%s'",
		  far);
	/* As it stands between being asked for and a thread's taking it. */
	tmpdb_sql(&rig.db, "UPDATE backup_copies SET status = 'verifying', task = 'verify',"
			   " retry_at = 9000000000000000");
	refuse("DELETE", path_of("/api/v1/copies/%s", id), NULL, 409, "is kept by");
	/* No number of days is for good, and one that cannot be added up is no short time. */
	tmpdb_sql(&rig.db, "UPDATE backup_repositories SET min_retention_days = 0");
	refuse("DELETE", path_of("/api/v1/copies/%s", id), NULL, 409, "for good");
	tmpdb_sql(&rig.db, "UPDATE backup_copies SET status = 'completed'");
	refuse("DELETE", path_of("/api/v1/copies/%s", id), NULL, 409, "for good");
	tmpdb_sql(&rig.db, "UPDATE backup_repositories SET min_retention_days = 213503982334602");
	refuse("DELETE", path_of("/api/v1/copies/%s", id), NULL, 409, "for good");
	assert_int_equal(files_in("far"), 2 * 3);
}

/* The folder that something is mounted on is there, and what was mounted is not. */
static void nothing_is_known_of_files_on_a_mount_that_is_gone(void **state)
{
	char backup[CATALOG_ID_SIZE], id[CATALOG_ID_SIZE];
	json_t *copy;

	(void)state;
	apirig_stop();
	rig.config.copy_retry_ms = 50;
	apirig_start();
	rig_full(&rig, &vm, 0, backup);
	copy_to(backup, far, id);
	json_decref(await(id, "completed"));
	assert_int_equal(
		scratch_run("mv '%s/far' '%s/away' && mkdir '%s/far'", rig.dir, rig.dir, rig.dir),
		0);
	json_decref(ask("POST", path_of("/api/v1/copies/%s/verify", id), NULL, 202));
	copy = await(id, "completed"); /* not bad: not there */
	assert_string_equal(text_of(copy, "verification"), "pending");
	assert_non_null(strstr(text_of(copy, "error_message"), "mounted?"));
	json_decref(copy);
	refuse("DELETE", path_of("/api/v1/copies/%s", id), NULL, 409, "mounted?");
	json_decref(ask("GET", path_of("/api/v1/copies/%s", id), NULL, 200));
	assert_int_equal(files_in("away"), 2 * 3);
	assert_int_equal(
		scratch_run("rm -r '%s/far' && mv '%s/away' '%s/far'", rig.dir, rig.dir, rig.dir),
		0);
	for (int i = 0; i < 6000 && files_in("far"); i++) /* by itself */
		nanosleep(&(struct timespec){.tv_nsec = 10 * 1000000L}, NULL);
	assert_int_equal(files_in("far"), 0);
}

/* A path in the catalog that leads out of the repository, by dots or by a link. */
static void a_copy_takes_no_file_with_it_that_is_not_its_own(void **state)
{
	char backup[CATALOG_ID_SIZE], id[CATALOG_ID_SIZE], path[CATALOG_PATH_SIZE];

	(void)state;
	rig_full(&rig, &vm, 0, backup);
	source_path(backup, 0, path);
	copy_to(backup, far, id);
	json_decref(await(id, "completed"));
	tmpdb_sql(&rig.db,
		  "UPDATE backup_copy_disks SET qcow2_path = '%s/far/../%s' WHERE disk_index = 0",
		  rig.dir, path + strlen(rig.dir) + 1);
	refuse("DELETE", path_of("/api/v1/copies/%s", id), NULL, 409, "is not below");
	assert_int_equal(access(path, R_OK), 0);
	assert_int_equal(scratch_run("ln -s '%s/repo' '%s/far/link'", rig.dir, rig.dir), 0);
	tmpdb_sql(&rig.db,
		  "UPDATE backup_copy_disks SET qcow2_path = '%s/far/link/%s'"
		  " WHERE disk_index = 0",
		  rig.dir, path + strlen(rig.dir) + strlen("/repo/"));
	tmpdb_sql(&rig.db, "UPDATE backup_copies SET retry_at = 9000000000000000");
	refuse("DELETE", path_of("/api/v1/copies/%s", id), NULL, 409, "link");
	assert_int_equal(access(path, R_OK), 0);
	assert_true(rig_point_equals(&rig, path, &vm, 0));
}

struct folder {
	char path[300];
	atomic_bool gone;
};

static void *remove_folder_once(void *arg)
{
	struct folder *f = arg;

	for (int i = 0; i < 6000000 && !atomic_load(&f->gone); i++)
		if (!rmdir(f->path))
			atomic_store(&f->gone, true);
	return NULL;
}

/* As the deletion of another point does, the last one that was in it. */
static void a_copy_makes_its_folder_again(void **state)
{
	char backup[CATALOG_ID_SIZE], id[CATALOG_ID_SIZE], path[CATALOG_PATH_SIZE];
	struct folder f = {.gone = false};
	pthread_t thread;
	json_t *copy;

	(void)state;
	rig_full(&rig, &vm, 0, backup);
	source_path(backup, 1, path);
	snprintf(f.path, sizeof(f.path), "%s/far%.*s", rig.dir,
		 (int)(strrchr(path, '/') - path - (long)strlen(rig.dir) - (long)strlen("/repo")),
		 path + strlen(rig.dir) + strlen("/repo"));
	assert_int_equal(pthread_create(&thread, NULL, remove_folder_once, &f), 0);
	copy_to(backup, far, id);
	copy = await(id, "completed");
	atomic_store(&f.gone, true);
	pthread_join(thread, NULL);
	assert_int_equal(number_of(copy, "attempts"), 1);
	assert_copy_of(backup, copy);
	json_decref(copy);
}

/* --- by themselves -------------------------------------------------------------------------- */

static void start_with_policy(const char *policy, struct hub_backup_view *view)
{
	struct hub_start_request req = {.vm_name = vm.name, .policy_id = policy};
	struct hub_started started;
	struct err err = ERR_INIT;

	rig_must(hub_backup_start(rig.hub, &req, &started, &err), &err, "start");
	rig_must(hub_backup_get(rig.hub, started.backup_id, view, &err), &err, "get");
	free(started.nbd_targets);
}

/* Where the row of the copy stands when nobody is there to make it: the hub is stopped right after
 * the backup completed. */
static void a_policys_backup_is_copied_also_if_the_hub_goes_in_between(void **state)
{
	char body[600], policy[CATALOG_ID_SIZE], other[CATALOG_ID_SIZE];
	struct hub_backup_view view;
	json_t *reply, *list;

	(void)state;
	add_repository("other", "", other);
	snprintf(body, sizeof(body),
		 "{\"name\":\"gold\",\"primary_repository_id\":\"%s\",\"copy_rules\":["
		 "{\"destination_repository_id\":\"%s\",\"copy_mode\":\"immediate\"},"
		 "{\"destination_repository_id\":\"%s\",\"copy_mode\":\"scheduled\","
		 "\"verify_after_copy\":false,\"priority\":2}]}",
		 rig.repository, far, other);
	reply = ask("POST", "/api/v1/policies", body, 201);
	snprintf(policy, sizeof(policy), "%s", text_of(reply, "id"));
	json_decref(reply);
	start_with_policy(policy, &view);
	rig_finish(&rig, &vm, &view, 1);
	apirig_stop();
	rig.config.copy_max_running = 3;
	assert_int_equal(tmpdb_i64(&rig.db, "SELECT COUNT(*) FROM backup_copies"), 2);
	apirig_start();
	for (int i = 0; i < 6000; i++) {
		if (tmpdb_i64(&rig.db, "SELECT COUNT(*) FROM backup_copies WHERE status ="
				       " 'completed'") == 2)
			break;
		nanosleep(&(struct timespec){.tv_nsec = 10 * 1000000L}, NULL);
	}
	list = ask("GET", path_of("/api/v1/backups/%s/copies?sort=created_at", view.job.id), NULL,
		   200);
	assert_int_equal(number_of(list, "total"), 2);
	for (size_t i = 0; i < 2; i++) {
		const json_t *copy = json_array_get(json_object_get(list, "copies"), i);
		bool to_far = !strcmp(text_of(copy, "repository_id"), far);

		assert_string_equal(text_of(copy, "status"), "completed");
		assert_string_equal(text_of(copy, "verification"), to_far ? "passed" : "pending");
		assert_true(json_is_boolean(json_object_get(copy, "when_idle")) &&
			    json_is_true(json_object_get(copy, "when_idle")) == !to_far);
		assert_memory_equal(text_of(copy, "copy_rule_id"), "rule-", 5);
		if (to_far)
			assert_copy_of(view.job.id, copy);
	}
	json_decref(list);
	hub_backup_view_deinit(&view);
}

static void copies_are_counted(void **state)
{
	char backup[CATALOG_ID_SIZE], id[CATALOG_ID_SIZE];
	struct apiclient_reply all;

	(void)state;
	rig_full(&rig, &vm, 0, backup);
	copy_to(backup, far, id);
	json_decref(await(id, "completed"));
	for (int i = 0;; i++) { /* the row is there a moment before the count */
		apirig_run("GET", "/metrics", NULL, NULL, &all);
		if (strstr(all.text, "sendense_copies_ended_total{outcome=\"completed\"} 1\n"))
			break;
		assert_true(i < 6000);
		apiclient_deinit(&all);
		nanosleep(&(struct timespec){.tv_nsec = 10 * 1000000L}, NULL);
	}
	assert_non_null(strstr(all.text, "sendense_copies_ended_total{outcome=\"failed\"} 0\n"));
	assert_null(strstr(all.text, "sendense_copied_bytes_total 0\n"));
	apiclient_deinit(&all);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_copy_of_any_point_of_a_chain_stands_by_itself),
		T(a_copy_is_compressed_as_its_repository_says),
		T(what_cannot_be_copied_is_refused),
		T(asking_again_with_the_same_key_makes_no_second_copy),
		T(a_backup_with_copies_is_not_deleted_before_them),
		T(lists_have_pages_and_filters),
		T(a_backup_that_has_rotted_is_not_copied_as_if_it_were_whole),
		T(a_bit_that_flips_in_the_copy_is_found_and_the_file_set_aside),
		T(a_repository_out_of_reach_is_tried_again_by_itself),
		T(deleting_a_copy_leaves_no_file_and_frees_its_repository),
		T(an_immutable_repository_keeps_its_copies),
		T(a_copy_is_kept_while_it_is_read_back),
		T(a_copy_makes_its_folder_again),
		T(nothing_is_known_of_files_on_a_mount_that_is_gone),
		T(a_copy_takes_no_file_with_it_that_is_not_its_own),
		T(a_policys_backup_is_copied_also_if_the_hub_goes_in_between),
		T(copies_are_counted),
	};

	return tmpdb_run_tests("copies", tests, NULL, NULL);
}
