/*
 * Files out of backups, over real HTTP: a disk that mke2fs made, backed up over NBD, mounted,
 * listed and downloaded; unzip's and tar's own readers judge the archives. Every answer is held
 * against the OpenAPI document (apiclient.h).
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <glob.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "tests/support/apirig.h"

#define DISK_SIZE (24U << 20)
#define FS_AT	  (1U << 20)
#define FS_SIZE	  (20U << 20)
#define BIG_SIZE  (9U << 20)
#define MOUNT	  "/api/v1/restore/mount"
#define MOUNTS	  "/api/v1/restore/mounts"

static char tree[400];		     /* what is on the first disk, on this machine */
static char latest[CATALOG_ID_SIZE]; /* the backup */

/* --- the disk ------------------------------------------------------------------------------- */

static void make(const char *cmd)
{
	if (scratch_run("cd '%s' && { %s; } >/dev/null 2>&1", tree, cmd))
		fail_msg("cannot make the tree: %s", cmd);
}

static void make_tree(void)
{
	snprintf(tree, sizeof(tree), "%s/tree", rig.dir);
	assert_int_equal(mkdir(tree, 0755), 0);
	make("mkdir -p var/www many deep/er/still; echo '<?php' >var/www/index.php; : >empty");
	make("for i in $(seq 150); do echo $i >many/$i; done; echo low >deep/er/still/low");
	make("ln -s ../../../../../etc/passwd outside; ln -s var/www site; mkfifo pipe");
	make("echo snow >'Schnee \xe2\x98\x83.txt'; echo latin >\"$(printf 'caf\\351')\"");
	make("head -c 9437184 /dev/urandom >big; chmod 640 big");
}

/* GPT with one ext4 partition, into the VM's first disk. */
static void put_tree_on_disk(void)
{
	char raw[300];
	FILE *f;

	snprintf(raw, sizeof(raw), "%s/disk.raw", rig.dir);
	if (scratch_run("cd '%s' && rm -f fs disk.raw && truncate -s %u fs &&"
			" /sbin/mke2fs -q -F -t ext4 -b 4096 -d tree fs &&"
			" /sbin/debugfs -w -R 'mknod sda b 8 0' fs 2>&1 &&"
			" truncate -s %u disk.raw &&"
			" echo 'start=2048, size=%u' | /sbin/sfdisk -q --label gpt disk.raw &&"
			" dd if=fs of=disk.raw bs=1M seek=1 conv=notrunc status=none",
			rig.dir, FS_SIZE, DISK_SIZE, FS_SIZE / 512))
		fail_msg("cannot make the disk");
	f = fopen(raw, "r");
	if (!f || fread(vm.content[0], 1, DISK_SIZE, f) != DISK_SIZE)
		fail_msg("cannot read the disk");
	fclose(f);
}

static void backup(enum catalog_backup_type type, int n, char id[CATALOG_ID_SIZE])
{
	struct hub_backup_view view;
	struct err err = ERR_INIT;

	rig_must(hubrig_backup(&rig, vm.name, type, &view, &err), &err, "backup");
	rig_finish(&rig, &vm, &view, n);
	strcpy(id, view.job.id);
	hub_backup_view_deinit(&view);
}

static void start(void)
{
	static char worker[600];
	const char *build = getenv("BUILD");

	if (!build)
		fail_msg("BUILD is not set: run by make test");
	snprintf(worker, sizeof(worker), "%s/bin/sendense-files", build);
	rig.config.files_worker = worker;
	apirig_start();
}

static int setup(void **state)
{
	(void)state;
	vm = (struct rig_vm){
		.name = "pgtest1", .id = "vm-1", .disk_count = 2, .size = {DISK_SIZE, 1 << 20}};
	rig_vm_init(&vm);
	hubrig_init(&rig);
	make_tree();
	put_tree_on_disk();
	memset(vm.content[1], 0, vm.size[1]);
	start();
	hubrig_add_repository(&rig);
	hubrig_add_vm(&rig, &vm);
	backup(CATALOG_BACKUP_FULL, 1, latest);
	return 0;
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, apirig_teardown)

/* --- helpers -------------------------------------------------------------------------------- */

__attribute__((format(printf, 1, 2))) static const char *text(const char *format, ...)
{
	static char out[4][6000];
	static int turn;
	va_list ap;

	turn = (turn + 1) % 4;
	va_start(ap, format);
	vsnprintf(out[turn], sizeof(out[turn]), format, ap);
	va_end(ap);
	return out[turn];
}

static const char *body_for(const char *backup_id, int disk)
{
	return text("{\"backup_id\":\"%s\",\"disk_index\":%d,\"mode\":\"read-only\"}", backup_id,
		    disk);
}

static void mount_disk(const char *backup_id, int disk, char id[CATALOG_ID_SIZE])
{
	json_t *reply = ask("POST", MOUNT, body_for(backup_id, disk), 201);

	snprintf(id, CATALOG_ID_SIZE, "%s", text_of(reply, "mount_id"));
	json_decref(reply);
}

static void unmount(const char *id)
{
	just("DELETE", text("/api/v1/restore/%s", id), NULL, 204);
}

static json_int_t mounts_seen(void)
{
	json_t *reply = ask("GET", MOUNTS, NULL, 200);
	json_int_t n = number_of(reply, "total");

	json_decref(reply);
	return n;
}

static const char *of(const char *id, const char *what, const char *path)
{
	return text("/api/v1/restore/%s/%s?path=%s", id, what, path);
}

#define P1 "/partition-1"

/* The caller's to deinit. */
static void get(const char *path, const char *header, struct apiclient_reply *reply)
{
	char bearer[APIRIG_BEARER_SIZE];
	const char *headers[] = {bearer, header, NULL};

	apirig_bearer(path, bearer);
	apirig_run("GET", path, NULL, headers, reply);
}

static char *local_file(const char *name, size_t *len)
{
	char *buf = malloc(BIG_SIZE + 1);
	FILE *f = fopen(text("%s/%s", tree, name), "r");

	assert_non_null(buf);
	assert_non_null(f);
	*len = fread(buf, 1, BIG_SIZE + 1, f);
	fclose(f);
	return buf;
}

static void header_is(const struct apiclient_reply *reply, const char *name, const char *wanted)
{
	char buf[300];

	assert_string_equal(apiclient_header(reply, name, buf, sizeof(buf)), wanted);
}

/* --- mounts --------------------------------------------------------------------------------- */

static void a_mount_tells_what_there_is(void **state)
{
	json_t *mount = ask("POST", MOUNT, body_for(latest, 0), 201), *list, *p;
	char id[CATALOG_ID_SIZE];

	(void)state;
	snprintf(id, sizeof(id), "%s", text_of(mount, "mount_id"));
	assert_string_equal(text_of(mount, "backup_id"), latest);
	assert_string_equal(text_of(mount, "vm_name"), "pgtest1");
	assert_string_equal(text_of(mount, "status"), "mounted");
	assert_string_equal(text_of(mount, "filesystem_type"), "ext4");
	assert_string_equal(text_of(mount, "partition_table"), "gpt");
	assert_string_equal(text_of(mount, "nbd_device"), "");
	assert_string_equal(text_of(mount, "mount_path"), text("/api/v1/restore/%s", id));
	assert_int_equal(number_of(mount, "disk_index"), 0);
	assert_int_equal(number_of(mount, "users"), 1);
	assert_true(strcmp(text_of(mount, "expires_at"), text_of(mount, "created_at")) > 0);
	p = json_array_get(json_object_get(mount, "partitions"), 0);
	assert_string_equal(text_of(p, "path"), P1);
	assert_int_equal(number_of(p, "offset_bytes"), FS_AT);
	assert_int_equal(number_of(p, "size_bytes"), FS_SIZE);
	assert_true(json_is_true(json_object_get(p, "readable")));
	json_decref(mount);

	list = ask("GET", MOUNTS, NULL, 200);
	assert_int_equal(number_of(list, "total"), 1);
	p = json_array_get(json_object_get(list, "mounts"), 0);
	assert_string_equal(text_of(p, "mount_id"), id);
	assert_true(json_is_true(json_object_get(p, "here")));
	json_decref(list);
	list = ask("GET", "/api/v1/restore/resources", NULL, 200);
	assert_int_equal(number_of(list, "active_mounts"), 1);
	assert_int_equal(number_of(list, "max_mounts"), 8);
	assert_int_equal(number_of(list, "available_slots"), 7);
	json_decref(list);
	unmount(id);
	refuse("DELETE", text("/api/v1/restore/%s", id), NULL, 404, "mount the backup again");
	refuse("GET", text("/api/v1/restore/%s/files", id), NULL, 404, id);
	assert_int_equal(mounts_seen(), 0);
}

static void what_cannot_be_mounted_is_refused(void **state)
{
	struct hub_backup_view view;
	struct err err = ERR_INIT;

	(void)state;
	refuse("POST", MOUNT, "{}", 400, "backup_id");
	refuse("POST", MOUNT, text("{\"backup_id\":\"%s\",\"mode\":\"read-write\"}", latest), 400,
	       "read-only");
	refuse("POST", MOUNT, text("{\"backup_id\":\"%s\",\"disk_index\":\"0\"}", latest), 400,
	       "integer");
	refuse("POST", MOUNT, body_for(latest, -1), 400, "disk_index");
	refuse("POST", MOUNT, body_for(latest, 7), 404, "7");
	refuse("POST", MOUNT, body_for("backup-none", 0), 404, "backup-none");
	rig_must(hubrig_backup(&rig, vm.name, CATALOG_BACKUP_FULL, &view, &err), &err, "backup");
	refuse("POST", MOUNT, body_for(view.job.id, 0), 409, "completed");
	hub_backup_view_deinit(&view);
	assert_int_equal(mounts_seen(), 0);
}

static void a_disk_is_mounted_once_and_counted(void **state)
{
	char first[CATALOG_ID_SIZE], again[CATALOG_ID_SIZE], other[CATALOG_ID_SIZE];
	json_t *list;

	(void)state;
	mount_disk(latest, 0, first);
	mount_disk(latest, 0, again);
	assert_string_equal(first, again);
	mount_disk(latest, 1, other);
	assert_string_not_equal(first, other);
	assert_int_equal(mounts_seen(), 2);
	list = ask("GET", MOUNTS "?sort=created_at", NULL, 200);
	assert_int_equal(number_of(json_array_get(json_object_get(list, "mounts"), 0), "users"), 2);
	json_decref(list);
	unmount(first);
	just("GET", of(first, "file-info", P1), NULL, 200);
	unmount(first);
	refuse("GET", of(first, "file-info", P1), NULL, 404, first);
	just("GET", of(other, "file-info", "/"), NULL, 200);
}

static void there_are_so_many_mounts_and_no_more(void **state)
{
	char first[CATALOG_ID_SIZE], second[CATALOG_ID_SIZE], third[CATALOG_ID_SIZE];

	(void)state;
	apirig_stop();
	rig.config.restore_max_mounts = 2;
	start();
	mount_disk(latest, 0, first);
	mount_disk(latest, 1, second);
	mount_disk(latest, 1, third); /* not one more */
	backup(CATALOG_BACKUP_INCREMENTAL, 2, latest);
	refuse("POST", MOUNT, body_for(latest, 0), 429, "restore_max_mounts");
	unmount(first);
	mount_disk(latest, 0, first);
}

static void a_mounted_point_is_not_deleted(void **state)
{
	char id[CATALOG_ID_SIZE];

	(void)state;
	mount_disk(latest, 1, id);
	refuse("DELETE", text("/api/v1/backups/%s", latest), NULL, 409, "mounted");
	unmount(id);
	assert_true(call("DELETE", text("/api/v1/backups/%s", latest), NULL, NULL) / 100 == 2);
}

static void nobody_uses_it_and_it_goes(void **state)
{
	struct timespec nap = {.tv_nsec = 100 * 1000000L};
	char used[CATALOG_ID_SIZE], idle[CATALOG_ID_SIZE];
	json_t *reply;

	(void)state;
	apirig_stop();
	rig.config.restore_idle_ms = 8000;
	start();
	mount_disk(latest, 0, used);
	mount_disk(latest, 1, idle);
	/* Asked for something all the time, and so there for as long as it takes the other to go.
	 */
	for (int i = 0; i < 900 && mounts_seen() == 2; i++) {
		just("GET", of(used, "file-info", P1), NULL, 200);
		nanosleep(&nap, NULL);
	}
	assert_int_equal(mounts_seen(), 1);
	just("GET", of(used, "file-info", P1), NULL, 200);
	refuse("GET", of(idle, "file-info", P1), NULL, 404, idle);
	reply = ask("GET", "/api/v1/restore/cleanup-status", NULL, 200);
	assert_int_equal(number_of(reply, "total_cleaned"), 1);
	assert_int_equal(number_of(reply, "idle_timeout_seconds"), 8);
	assert_int_equal(number_of(reply, "active_mounts"), 1);
	json_decref(reply);
}

/* As a hub that was killed would have left it. */
static void leave_a_mount(void)
{
	tmpdb_sql(&rig.db, "INSERT INTO restore_mounts (id, backup_disk_id, status, created_at,"
			   " last_used_at, hub_token) SELECT 'mount-left', MAX(id), 'mounted', 1,"
			   " 1, 1 FROM backup_disks");
}

static void a_hub_that_is_gone_leaves_no_mounts(void **state)
{
	(void)state;
	apirig_stop();
	start(); /* token 1 is gone */
	leave_a_mount();
	for (int i = 0; i < 3000 && mounts_seen(); i++)
		nanosleep(&(struct timespec){.tv_nsec = 10 * 1000000L}, NULL);
	assert_int_equal(mounts_seen(), 0);
	assert_true(call("DELETE", text("/api/v1/backups/%s", latest), NULL, NULL) / 100 == 2);
}

static void a_restart_leaves_no_mounts(void **state)
{
	char id[CATALOG_ID_SIZE];

	(void)state;
	mount_disk(latest, 0, id);
	apirig_stop();
	assert_int_equal(tmpdb_i64(&rig.db, "SELECT COUNT(*) FROM restore_mounts"), 0);
	leave_a_mount();
	start();
	assert_int_equal(mounts_seen(), 0);
	mount_disk(latest, 0, id);
}

static void an_idempotent_mount_has_one_user(void **state)
{
	char bearer[APIRIG_BEARER_SIZE];
	const char *headers[] = {bearer, "Idempotency-Key: once", NULL};
	struct apiclient_reply first, second;
	json_t *list;

	(void)state;
	apirig_bearer(MOUNT, bearer);
	apirig_run("POST", MOUNT, body_for(latest, 0), headers, &first);
	apirig_run("POST", MOUNT, body_for(latest, 0), headers, &second);
	assert_int_equal(second.status, 201);
	assert_string_equal(first.text, second.text);
	list = ask("GET", MOUNTS, NULL, 200);
	assert_int_equal(number_of(json_array_get(json_object_get(list, "mounts"), 0), "users"), 1);
	json_decref(list);
	apiclient_deinit(&first);
	apiclient_deinit(&second);
}

/* --- folders -------------------------------------------------------------------------------- */

static json_t *file_called(const json_t *list, const char *name)
{
	json_t *file;
	size_t i;

	json_array_foreach (json_object_get(list, "files"), i, file)
		if (!strcmp(text_of(file, "name"), name))
			return file;
	fail_msg("there is no %s", name);
	return NULL;
}

static void folders_are_listed(void **state)
{
	char id[CATALOG_ID_SIZE];
	json_t *list;

	(void)state;
	mount_disk(latest, 0, id);
	list = ask("GET", text("/api/v1/restore/%s/files", id), NULL, 200);
	assert_string_equal(text_of(file_called(list, "partition-1"), "type"), "directory");
	json_decref(list);
	list = ask("GET", of(id, "files", P1), NULL, 200);
	assert_string_equal(text_of(file_called(list, "var"), "type"), "directory");
	assert_string_equal(text_of(file_called(list, "outside"), "type"), "symlink");
	assert_string_equal(text_of(file_called(list, "sda"), "type"), "other");
	assert_string_equal(text_of(file_called(list, "pipe"), "type"), "other");
	assert_string_equal(text_of(file_called(list, "big"), "mode"), "0640");
	assert_int_equal(number_of(file_called(list, "big"), "size"), BIG_SIZE);
	assert_string_equal(text_of(file_called(list, "Schnee \xe2\x98\x83.txt"), "path"),
			    P1 "/Schnee \xe2\x98\x83.txt");
	assert_true(json_is_false(json_object_get(list, "more")));
	json_decref(list);

	list = ask("GET", of(id, "file-info", P1 "/outside"), NULL, 200);
	assert_string_equal(text_of(list, "target"), "../../../../../etc/passwd");
	json_decref(list);
	list = ask("GET", of(id, "file-info", P1 "/var/www/index.php"), NULL, 200);
	assert_string_equal(text_of(list, "name"), "index.php");
	assert_int_equal(number_of(list, "size"), 6);
	json_decref(list);
}

/* All names of a folder, page by page: each once. */
static size_t count_pages(const char *id, const char *path, const char *more)
{
	size_t seen = 0, n;
	bool going = true;

	while (going) {
		json_t *list = ask("GET",
				   text("/api/v1/restore/%s/files?path=%s%s&limit=40&offset=%zu",
					id, path, more, seen),
				   NULL, 200);

		n = json_array_size(json_object_get(list, "files"));
		going = json_is_true(json_object_get(list, "more"));
		assert_true(n == 40 || !going);
		seen += n;
		json_decref(list);
	}
	return seen;
}

static void long_lists_come_in_pages(void **state)
{
	char id[CATALOG_ID_SIZE];
	json_t *list, *file;
	bool low = false;
	size_t i;

	(void)state;
	mount_disk(latest, 0, id);
	assert_int_equal(count_pages(id, P1 "/many", ""), 150);
	/* many with 150, deep/er/still/low, var/www/index.php, lost+found, and eight more on top.
	 */
	assert_int_equal(count_pages(id, P1, "&recursive=true"), 151 + 4 + 3 + 1 + 8);
	list = ask("GET", of(id, "files", P1 "/deep&recursive=true"), NULL, 200);
	assert_int_equal(json_array_size(json_object_get(list, "files")), 3);
	json_array_foreach (json_object_get(list, "files"), i, file)
		low |= !strcmp(text_of(file, "path"), P1 "/deep/er/still/low");
	assert_true(low);
	json_decref(list);
}

static void paths_lead_nowhere_else(void **state)
{
	static const char *const not_paths[] = {"partition-1", P1 "/../etc", "/..",
						P1 "//etc",    P1 "/./var",  P1 "/%2e%2e/etc"};
	static const char *const nothing[] = {P1 "/none",   "/partition-2",	  "/partition-01",
					      "/etc",	    P1 "/site/index.php", P1 "/outside/x",
					      P1 "/empty/x"};
	static const char *const calls[] = {"files", "file-info", "download", "download-directory"};
	char id[CATALOG_ID_SIZE];

	(void)state;
	mount_disk(latest, 0, id);
	for (size_t c = 0; c < ARRAY_SIZE(calls); c++) {
		for (size_t i = 0; i < ARRAY_SIZE(not_paths); i++)
			assert_int_equal(call("GET", of(id, calls[c], not_paths[i]), NULL, NULL),
					 400);
		for (size_t i = 0; i < ARRAY_SIZE(nothing); i++)
			assert_int_equal(call("GET", of(id, calls[c], nothing[i]), NULL, NULL),
					 404);
	}
	refuse("GET", text("/api/v1/restore/%s/file-info", id), NULL, 400, "path is missing");
	refuse("GET", text("/api/v1/restore/%s/download", id), NULL, 400, "path is missing");
	refuse("GET", of(id, "files", P1 "&recursive=yes"), NULL, 400, "recursive");
	refuse("GET", of(id, "files", P1 "&limit=0"), NULL, 400, "limit");
	refuse("GET", of(id, "files", P1 "/empty"), NULL, 400, "empty");
	refuse("GET", of(id, "download", P1 "/site"), NULL, 400, "symbolic link");
	refuse("GET", of(id, "download", P1 "/sda"), NULL, 400, "device");
	refuse("GET", of(id, "download", P1 "/pipe"), NULL, 400, "pipe");
	refuse("GET", of(id, "download-directory", P1 "/empty"), NULL, 400, "no folder");
	refuse("GET", of(id, "download-directory", P1 "&format=rar"), NULL, 400, "tar.gz");
}

/* --- downloads ------------------------------------------------------------------------------ */

static void a_download_is_the_file(void **state)
{
	struct apiclient_reply reply;
	char id[CATALOG_ID_SIZE], etag[100];
	size_t len;
	char *big = local_file("big", &len);

	(void)state;
	mount_disk(latest, 0, id);
	get(of(id, "download", P1 "/big"), NULL, &reply);
	assert_int_equal(reply.status, 200);
	assert_int_equal(reply.len, len);
	assert_memory_equal(reply.text, big, len);
	header_is(&reply, "Content-Length", text("%zu", len));
	header_is(&reply, "Accept-Ranges", "bytes");
	header_is(&reply, "Content-Disposition",
		  "attachment; filename=\"big\"; filename*=UTF-8''big");
	apiclient_header(&reply, "ETag", etag, sizeof(etag));
	assert_true(etag[0] == '"');
	apiclient_deinit(&reply);

	get(of(id, "download", P1 "/empty"), NULL, &reply);
	assert_int_equal(reply.status, 200);
	assert_int_equal(reply.len, 0);
	apiclient_deinit(&reply);
	/* A name that is no UTF-8, as the list shows it. */
	get(of(id, "download", P1 "/caf%EE%BF%A9"), NULL, &reply);
	assert_int_equal(reply.status, 200);
	assert_string_equal(reply.text, "latin\n");
	apiclient_deinit(&reply);

	get(of(id, "download", P1 "/big"), text("If-Range: %s", etag), &reply);
	assert_int_equal(reply.status, 200);
	apiclient_deinit(&reply);
	free(big);
}

static void a_part_is_that_part(void **state)
{
	static const struct {
		const char *range;
		long status;
		size_t from, to;
	} parts[] = {
		{"bytes=0-0", 206, 0, 1},
		{"bytes=100-299", 206, 100, 300},
		{"bytes=1048000-3000000", 206, 1048000, 3000001},
		{"bytes=9437000-", 206, 9437000, BIG_SIZE},
		{"bytes=9437000-99999999999", 206, 9437000, BIG_SIZE},
		{"bytes=-5", 206, BIG_SIZE - 5, BIG_SIZE},
		{"bytes=-99999999999", 206, 0, BIG_SIZE},
		{"bytes=0-1,5-6", 200, 0, BIG_SIZE},
		{"bytes=5-1", 200, 0, BIG_SIZE},
		{"bytes=x", 200, 0, BIG_SIZE},
		{"bytes=99999999999999999999999-", 200, 0, BIG_SIZE},
		{"lines=1-2", 200, 0, BIG_SIZE},
		{"bytes=9437184-", 416, 0, 0},
		{"bytes=-0", 416, 0, 0},
	};
	char id[CATALOG_ID_SIZE];
	size_t len;
	char *big = local_file("big", &len);

	(void)state;
	mount_disk(latest, 0, id);
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		struct apiclient_reply reply;

		get(of(id, "download", P1 "/big"), text("Range: %s", parts[i].range), &reply);
		if (reply.status != parts[i].status)
			fail_msg("%s: %ld", parts[i].range, reply.status);
		if (reply.status == 416) {
			header_is(&reply, "Content-Range", "bytes */9437184");
		} else {
			assert_int_equal(reply.len, parts[i].to - parts[i].from);
			assert_memory_equal(reply.text, big + parts[i].from, reply.len);
		}
		if (reply.status == 206)
			header_is(
				&reply, "Content-Range",
				text("bytes %zu-%zu/%u", parts[i].from, parts[i].to - 1, BIG_SIZE));
		apiclient_deinit(&reply);
	}
	free(big);
}

/* A part, if it is still the same file; else all of it. */
static void a_part_of_another_file_is_not_given(void **state)
{
	char id[CATALOG_ID_SIZE], etag[100], bearer[APIRIG_BEARER_SIZE];
	const char *headers[] = {bearer, "Range: bytes=0-9", NULL, NULL};
	struct apiclient_reply reply;
	const char *path;

	(void)state;
	mount_disk(latest, 0, id);
	path = of(id, "download", P1 "/var/www/index.php");
	apirig_bearer(path, bearer);
	apirig_run("GET", path, NULL, headers, &reply);
	assert_int_equal(reply.status, 206);
	apiclient_header(&reply, "ETag", etag, sizeof(etag));
	apiclient_deinit(&reply);
	headers[2] = text("If-Range: %s", etag);
	apirig_run("GET", path, NULL, headers, &reply);
	assert_int_equal(reply.status, 206);
	apiclient_deinit(&reply);
	headers[2] = "If-Range: \"another\"";
	apirig_run("GET", path, NULL, headers, &reply);
	assert_int_equal(reply.status, 200);
	apiclient_deinit(&reply);
}

static void save(const struct apiclient_reply *reply, const char *name)
{
	FILE *f = fopen(text("%s/%s", rig.dir, name), "w");

	assert_non_null(f);
	assert_int_equal(fwrite(reply->text, 1, reply->len, f), reply->len);
	assert_int_equal(fclose(f), 0);
}

/* Without what has no content: the local tree is made as the archive should be. */
static void unpack_and_compare(const char *how, const char *inside, const char *wanted)
{
	if (scratch_run("cd '%s' && rm -rf out && mkdir out && %s && rm -rf out/%s/lost+found &&"
			" diff -r --no-dereference '%s' out/%s 2>&1",
			rig.dir, how, inside, wanted, inside))
		fail_msg("%s: not what was backed up", how);
}

static void a_folder_is_an_archive(void **state)
{
	static const char unzip[] = "python3 -c 'import zipfile; z = zipfile.ZipFile(\"a.zip\"); "
				    "assert z.testzip() is None;"
				    " z.extractall(\"out\")'";
	struct apiclient_reply reply;
	char id[CATALOG_ID_SIZE];

	(void)state;
	mount_disk(latest, 0, id);
	make("rm pipe"); /* is left out */
	get(of(id, "download-directory", P1 "&format=tar.gz"), NULL, &reply);
	assert_int_equal(reply.status, 200);
	header_is(&reply, "Content-Type", "application/gzip");
	save(&reply, "a.tar.gz");
	apiclient_deinit(&reply);
	unpack_and_compare("tar -C out -xzf a.tar.gz", "partition-1", tree);

	/* python's zip makes files of links: of a folder without any. */
	get(of(id, "download", P1 "/many"), NULL, &reply);
	assert_int_equal(reply.status, 200);
	header_is(&reply, "Content-Type", "application/zip");
	header_is(&reply, "Content-Disposition",
		  "attachment; filename=\"many.zip\"; filename*=UTF-8''many.zip");
	save(&reply, "a.zip");
	apiclient_deinit(&reply);
	unpack_and_compare(unzip, "many", text("%s/many", tree));
	get(of(id, "download-directory", P1 "/deep&format=zip"), NULL, &reply);
	save(&reply, "a.zip");
	apiclient_deinit(&reply);
	unpack_and_compare(unzip, "deep", text("%s/deep", tree));
	/* A whole disk. */
	get(of(id, "download-directory", "/"), NULL, &reply);
	save(&reply, "a.zip");
	apiclient_deinit(&reply);
	if (scratch_run("cd '%s' && rm -rf out && %s && cmp out/partition-1/big '%s/big'", rig.dir,
			unzip, tree))
		fail_msg("the whole disk as a zip");
}

/* Unpacked on Windows it would lead out of the folder. */
static void a_zip_has_no_backslashes(void **state)
{
	char id[CATALOG_ID_SIZE], incremental[CATALOG_ID_SIZE];
	struct apiclient_reply reply;

	(void)state;
	make("mkdir odd; echo out >'odd/..\\..\\evil'");
	put_tree_on_disk();
	backup(CATALOG_BACKUP_INCREMENTAL, 2, incremental);
	mount_disk(incremental, 0, id);
	get(of(id, "download", P1 "/odd"), NULL, &reply);
	assert_int_equal(reply.status, 200);
	save(&reply, "a.zip");
	apiclient_deinit(&reply);
	if (scratch_run("cd '%s' && python3 -c 'import zipfile; z = zipfile.ZipFile(\"a.zip\");"
			" n = \"odd/..\\uef5c..\\uef5cevil\";"
			" assert n in z.namelist(), z.namelist(); assert z.read(n) == b\"out\\n\"'",
			rig.dir))
		fail_msg("names in a zip");
	get(of(id, "download-directory", P1 "/odd&format=tar.gz"), NULL, &reply);
	save(&reply, "a.tar.gz");
	apiclient_deinit(&reply);
	unpack_and_compare("tar -C out -xzf a.tar.gz", "odd", text("%s/odd", tree));
}

static void an_incremental_has_the_files_of_its_time(void **state)
{
	char incremental[CATALOG_ID_SIZE], before[CATALOG_ID_SIZE], after[CATALOG_ID_SIZE];
	struct apiclient_reply reply;

	(void)state;
	make("echo new >var/www/new.php; echo '<?php //' >var/www/index.php; rm empty");
	put_tree_on_disk();
	backup(CATALOG_BACKUP_INCREMENTAL, 2, incremental);
	mount_disk(latest, 0, before);
	mount_disk(incremental, 0, after);
	refuse("GET", of(before, "file-info", P1 "/var/www/new.php"), NULL, 404, "new.php");
	just("GET", of(before, "file-info", P1 "/empty"), NULL, 200);
	just("GET", of(after, "file-info", P1 "/var/www/new.php"), NULL, 200);
	refuse("GET", of(after, "file-info", P1 "/empty"), NULL, 404, "empty");
	get(of(after, "download", P1 "/var/www/index.php"), NULL, &reply);
	assert_string_equal(reply.text, "<?php //\n");
	apiclient_deinit(&reply);
	get(of(before, "download", P1 "/var/www/index.php"), NULL, &reply);
	assert_string_equal(reply.text, "<?php\n");
	apiclient_deinit(&reply);
}

/* --- bad company ---------------------------------------------------------------------------- */

/* Asks for the big file and takes nothing of it. */
static int slow_reader(const char *id)
{
	struct sockaddr_in addr = {.sin_family = AF_INET,
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), small = 4096;
	const char *path = of(id, "download", P1 "/big");
	char bearer[APIRIG_BEARER_SIZE], head[1200];

	apirig_bearer(path, bearer);
	addr.sin_port = htons((uint16_t)atoi(strrchr(api_address(api), ':') + 1));
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	snprintf(head, sizeof(head), "GET %s HTTP/1.1\r\nHost: hub\r\n%s\r\n\r\n", path, bearer);
	assert_int_equal(send(fd, head, strlen(head), 0), strlen(head));
	assert_int_equal(recv(fd, head, 12, MSG_WAITALL), 12); /* it has begun */
	assert_memory_equal(head, "HTTP/1.1 200", 12);
	return fd;
}

static void who_reads_slowly_holds_up_nobody(void **state)
{
	char id[CATALOG_ID_SIZE], buf[65536];
	struct apiclient_reply reply;
	size_t got = 0;
	ssize_t n;
	int fd;

	(void)state;
	mount_disk(latest, 0, id);
	fd = slow_reader(id);
	get(of(id, "download", P1 "/big"), NULL, &reply);
	assert_int_equal(reply.len, BIG_SIZE);
	apiclient_deinit(&reply);
	/* Unmounted under its hands: it is told by a connection that breaks off. */
	unmount(id);
	assert_true(call("DELETE", text("/api/v1/backups/%s", latest), NULL, NULL) / 100 == 2);
	while ((n = recv(fd, buf, sizeof(buf), 0)) > 0)
		got += (size_t)n;
	assert_true(got < BIG_SIZE);
	close(fd);
}

/* Processes the hub has started in here: the readers. */
static int kill_readers(void)
{
	int killed = 0;
	glob_t found;

	if (glob("/proc/self/task/*/children", 0, NULL, &found))
		return 0;
	for (size_t i = 0; i < found.gl_pathc; i++) {
		FILE *f = fopen(found.gl_pathv[i], "r");
		char exe[300], path[64];
		int pid;

		while (f && fscanf(f, "%d", &pid) == 1) {
			ssize_t n;

			snprintf(path, sizeof(path), "/proc/%d/exe", pid);
			n = readlink(path, exe, sizeof(exe) - 1);
			exe[n > 0 ? n : 0] = '\0';
			killed += strstr(exe, "sendense-files") && !kill(pid, SIGKILL);
		}
		if (f)
			fclose(f);
	}
	globfree(&found);
	return killed;
}

static void a_reader_that_dies_takes_its_mount_along_and_no_more(void **state)
{
	char id[CATALOG_ID_SIZE], again[CATALOG_ID_SIZE];

	(void)state;
	mount_disk(latest, 0, id);
	assert_int_equal(kill_readers(), 1);
	refuse("GET", of(id, "file-info", P1 "/big"), NULL, 409, "mount the backup again");
	assert_int_equal(mounts_seen(), 0);
	mount_disk(latest, 0, again);
	just("GET", of(again, "file-info", P1 "/big"), NULL, 200);
	assert_string_not_equal(id, again);
}

/* However long the walk would be. */
static void a_hub_that_stops_reads_no_more(void **state)
{
	char id[CATALOG_ID_SIZE];

	(void)state;
	mount_disk(latest, 0, id);
	just("GET", of(id, "files", P1 "&recursive=true"), NULL, 200);
	hub_interrupt(rig.hub);
	refuse("GET", of(id, "files", P1 "&recursive=true"), NULL, 503, "going down");
	refuse("GET", of(id, "files", P1), NULL, 503, "going down");
}

static void *mount_in_a_race(void *arg)
{
	mount_disk(latest, 0, arg);
	return NULL;
}

static void many_at_once_share_one_mount(void **state)
{
	char ids[6][CATALOG_ID_SIZE];
	pthread_t threads[6];
	json_t *list;

	(void)state;
	for (int i = 0; i < 6; i++)
		pthread_create(&threads[i], NULL, mount_in_a_race, ids[i]);
	for (int i = 0; i < 6; i++)
		pthread_join(threads[i], NULL);
	for (int i = 1; i < 6; i++)
		assert_string_equal(ids[i], ids[0]);
	list = ask("GET", MOUNTS, NULL, 200);
	assert_int_equal(number_of(json_array_get(json_object_get(list, "mounts"), 0), "users"), 6);
	json_decref(list);
	for (int i = 0; i < 6; i++)
		unmount(ids[i]);
	assert_int_equal(mounts_seen(), 0);
}

static void who_may_not_does_not_and_what_is_read_is_written_down(void **state)
{
	char token[HUB_TOKEN_SIZE], id[CATALOG_ID_SIZE];
	const char *headers[] = {NULL, NULL};
	struct apiclient_reply reply;

	(void)state;
	mount_disk(latest, 0, id);
	rig_make_token(&rig, "eve", CATALOG_ROLE_VIEWER, "", token);
	headers[0] = text("Authorization: Bearer %s", token);
	apirig_run("GET", MOUNTS, NULL, headers, &reply);
	assert_int_equal(reply.status, 200);
	apiclient_deinit(&reply);
	apirig_run("GET", of(id, "download", P1 "/big"), NULL, headers, &reply);
	assert_int_equal(reply.status, 403);
	apiclient_deinit(&reply);
	apirig_run("POST", MOUNT, body_for(latest, 0), headers, &reply);
	assert_int_equal(reply.status, 403);
	apiclient_deinit(&reply);

	get(of(id, "download", P1 "/var/www/index.php"), NULL, &reply);
	apiclient_deinit(&reply);
	unmount(id);
	assert_int_equal(tmpdb_i64(&rig.db,
				   "SELECT COUNT(*) FROM audit_log WHERE outcome = 'allowed' AND"
				   " action = 'POST " MOUNT "' AND detail LIKE '%%%s%%'",
				   id),
			 1);
	assert_int_equal(tmpdb_i64(&rig.db,
				   "SELECT COUNT(*) FROM audit_log WHERE outcome = 'allowed' AND"
				   " action LIKE 'GET %%/download' AND detail LIKE"
				   " '%%/partition-1/var/www/index.php%%'"),
			 1);
	assert_int_equal(tmpdb_i64(&rig.db, "SELECT COUNT(*) FROM audit_log WHERE"
					    " action LIKE 'DELETE /api/v1/restore%%'"),
			 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_mount_tells_what_there_is),
		T(what_cannot_be_mounted_is_refused),
		T(a_disk_is_mounted_once_and_counted),
		T(there_are_so_many_mounts_and_no_more),
		T(a_mounted_point_is_not_deleted),
		T(nobody_uses_it_and_it_goes),
		T(a_restart_leaves_no_mounts),
		T(a_hub_that_is_gone_leaves_no_mounts),
		T(an_idempotent_mount_has_one_user),
		T(folders_are_listed),
		T(long_lists_come_in_pages),
		T(paths_lead_nowhere_else),
		T(a_download_is_the_file),
		T(a_part_is_that_part),
		T(a_part_of_another_file_is_not_given),
		T(a_folder_is_an_archive),
		T(a_zip_has_no_backslashes),
		T(an_incremental_has_the_files_of_its_time),
		T(who_reads_slowly_holds_up_nobody),
		T(a_reader_that_dies_takes_its_mount_along_and_no_more),
		T(a_hub_that_stops_reads_no_more),
		T(many_at_once_share_one_mount),
		T(who_may_not_does_not_and_what_is_read_is_written_down),
	};

	return tmpdb_run_tests("api/restore", tests, NULL, NULL);
}
