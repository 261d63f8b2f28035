/*
 * Deleting backups with their files, through the hub's public face. The remaining chain is judged
 * by qemu-img.
 *
 * The hub is killed in a deletion at every step that reaches the disk or the database server: this
 * program runs itself once more as a hub that deletes, and there its calls to unlinkat(), fsync(),
 * fdatasync(), pwrite() and send() come here first.
 */
#include <dirent.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "hub/backup_delete.h"
#include "hub/repositories.h"
#include "tests/hub/rig.h"

#define MI	(1U << 20)
#define WHY_MAX 512

/* --- steps ---------------------------------------------------------------------------------- */

static atomic_int steps_left; /* 0: none is counted */

static void step(void)
{
	if (atomic_load(&steps_left) > 0 && atomic_fetch_sub(&steps_left, 1) == 1)
		kill(getpid(), SIGKILL);
}

/* Storage that does not answer: in here until it does. */
static atomic_bool hangs;
static atomic_int hanging;

int unlinkat(int dir, const char *name, int flags)
{
	step();
	if (atomic_load(&hangs)) {
		atomic_fetch_add(&hanging, 1);
		while (atomic_load(&hangs))
			nanosleep(&(struct timespec){.tv_nsec = 5 * 1000000L}, NULL);
	}
	return (int)syscall(SYS_unlinkat, dir, name, flags);
}

int fsync(int fd)
{
	step();
	return (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd)
{
	step();
	return (int)syscall(SYS_fdatasync, fd);
}

/* The pages of SQLite's journal. */
ssize_t pwrite(int fd, const void *buf, size_t len, off_t off)
{
	step();
	return syscall(SYS_pwrite64, fd, buf, len, off);
}

ssize_t send(int fd, const void *buf, size_t len, int flags)
{
	step();
	return syscall(SYS_sendto, fd, buf, len, flags, NULL, 0);
}

/* --- rig ------------------------------------------------------------------------------------ */

static struct hubrig rig;
static struct rig_vm vm;

static int setup(void **state)
{
	(void)state;
	hubrig_init(&rig);
	hubrig_start(&rig);
	hubrig_add_repository(&rig);
	vm = (struct rig_vm){
		.name = "pgtest1", .id = "vm-1", .disk_count = 2, .size = {2 * MI, MI + 1536}};
	rig_vm_init(&vm);
	hubrig_add_vm(&rig, &vm);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	rig_vm_deinit(&vm);
	hubrig_deinit(&rig);
	return 0;
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

struct made {
	char id[CATALOG_ID_SIZE];
	char path[HUBRIG_DISKS][CATALOG_PATH_SIZE];
	int64_t parent[HUBRIG_DISKS], row[HUBRIG_DISKS];
	enum catalog_backup_type mode;
};

static int change_number;

static struct made make(enum catalog_backup_type type)
{
	struct hub_backup_view view;
	struct err err = ERR_INIT;
	struct made m = {.id = ""};

	for (int i = 0; i < (int)vm.disk_count; i++)
		rig_vm_change(&vm, i, 64 << 10, 1 << 10);
	rig_must(hubrig_backup(&rig, vm.name, type, &view, &err), &err, "backup");
	rig_finish(&rig, &vm, &view, ++change_number);
	strcpy(m.id, view.job.id);
	m.mode = view.disks[0].row.mode;
	for (size_t i = 0; i < view.disk_count; i++) {
		strcpy(m.path[i], view.disks[i].row.qcow2_path);
		m.parent[i] = view.disks[i].row.parent_disk_id;
		m.row[i] = view.disks[i].row.id;
	}
	hub_backup_view_deinit(&view);
	return m;
}

static void beside(const char *image, const char *suffix, char out[CATALOG_PATH_SIZE])
{
	snprintf(out, CATALOG_PATH_SIZE, "%.*s%s", (int)(strlen(image) - strlen(".qcow2")), image,
		 suffix);
}

static bool there(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0;
}

/* How many of a point's files are there: image, sidecar, checksums, of both disks. */
static int files_of(const struct made *m)
{
	static const char *const suffixes[] = {".qcow2", ".json", ".sums"};
	int n = 0;

	for (size_t i = 0; i < vm.disk_count; i++)
		for (size_t k = 0; k < ARRAY_SIZE(suffixes); k++) {
			char path[CATALOG_PATH_SIZE];

			beside(m->path[i], suffixes[k], path);
			n += there(path);
		}
	return n;
}

static bool has_rows(const struct made *m)
{
	struct catalog_backup row;

	return !catalog_backup_get(hub_catalog(rig.hub), m->id, &row, NULL);
}

static size_t journal(void)
{
	struct catalog_deletion *rows = NULL;
	size_t n = 99;
	struct err err = ERR_INIT;

	rig_must(catalog_deletions_list(hub_catalog(rig.hub), NULL, &rows, &n, &err), &err, "list");
	free(rows);
	return n;
}

static void await_empty_journal(void)
{
	for (int i = 0; i < 6000 && journal(); i++)
		nanosleep(&(struct timespec){.tv_nsec = 10 * 1000000L}, NULL);
	assert_int_equal(journal(), 0);
}

/* Deletes; how many of how many backups are gone for good, as 100 * gone + n. */
static int delete (const char *id, bool cascade)
{
	struct hub_deleted out;
	struct err err = ERR_INIT;
	int rc = hub_backup_delete(rig.hub, id, cascade, &out, &err), n;

	rig_must(rc, &err, "delete");
	n = (int)(100 * out.gone + out.n);
	hub_deleted_deinit(&out);
	return n;
}

static int refused(const char *id, bool cascade, char why[WHY_MAX])
{
	struct hub_deleted out;
	struct err err = ERR_INIT;
	int rc = hub_backup_delete(rig.hub, id, cascade, &out, &err);

	snprintf(why, WHY_MAX, "%s", err.text);
	hub_deleted_deinit(&out);
	return rc;
}

static const char *reason_of(const char *id)
{
	static struct catalog_deletion row;

	if (catalog_deletion_get(hub_catalog(rig.hub), id, &row, NULL))
		return "(no entry)";
	return row.error_message;
}

static const char *asked(int disk)
{
	static struct hub_change_id answer;
	struct err err = ERR_INIT;

	assert_int_equal(hub_backup_change_id(rig.hub, vm.name, disk, &answer, &err), 0);
	return answer.change_id;
}

static void assert_sound(const struct made *m)
{
	for (size_t i = 0; i < vm.disk_count; i++)
		assert_int_equal(scratch_run("qemu-img check -q -f qcow2 '%s'", m->path[i]), 0);
}

/* --- files ---------------------------------------------------------------------------------- */

static void the_latest_goes_with_its_files_and_the_chain_goes_on(void **state)
{
	struct made full = make(CATALOG_BACKUP_FULL), incr = make(CATALOG_BACKUP_INCREMENTAL), next;
	char before[CATALOG_CHANGE_ID_SIZE], why[WHY_MAX];

	(void)state;
	strcpy(before, asked(1));
	next = make(CATALOG_BACKUP_INCREMENTAL);
	assert_int_equal(files_of(&next), 6);
	assert_int_equal(refused(full.id, false, why), HUB_E_STATE);
	assert_non_null(strstr(why, incr.id));
	assert_non_null(strstr(why, next.id));
	assert_int_equal(delete (next.id, false), 101);
	assert_false(has_rows(&next));
	assert_int_equal(files_of(&next), 0);
	assert_int_equal(files_of(&incr), 6);
	assert_int_equal(journal(), 0);
	assert_string_equal(asked(1), before);
	assert_int_equal(refused(next.id, false, why), HUB_E_NOT_FOUND);

	next = make(CATALOG_BACKUP_INCREMENTAL);
	assert_int_equal(next.parent[0], incr.row[0]);
	for (int i = 0; i < 2; i++)
		assert_true(rig_point_equals(&rig, next.path[i], &vm, i));

	assert_int_equal(delete (full.id, true), 303);
	assert_int_equal(files_of(&full) + files_of(&incr) + files_of(&next), 0);
	assert_string_equal(asked(0), "");
	next = make(CATALOG_BACKUP_INCREMENTAL);
	assert_int_equal(next.mode, CATALOG_BACKUP_FULL);
}

static void the_last_point_takes_its_folders_along(void **state)
{
	struct made full = make(CATALOG_BACKUP_FULL);
	char folder[CATALOG_PATH_SIZE], other[CATALOG_PATH_SIZE + 32];

	(void)state;
	snprintf(folder, sizeof(folder), "%.*s",
		 (int)(strstr(full.path[0], "/disk-") - full.path[0]), full.path[0]);
	assert_int_equal(delete (full.id, false), 101);
	assert_false(there(folder));

	/* Unless somebody else has put something there. */
	full = make(CATALOG_BACKUP_FULL);
	snprintf(other, sizeof(other), "%s/disk-0/notes.txt", folder);
	assert_int_equal(scratch_run("touch '%s'", other), 0);
	assert_int_equal(delete (full.id, false), 101);
	assert_true(there(other));
	snprintf(other, sizeof(other), "%s/disk-1", folder);
	assert_false(there(other));
}

static void of_a_failed_backup_the_committed_disk_goes(void **state)
{
	struct hub_backup_view view;
	struct catalog_completed done;
	struct err err = ERR_INIT;
	struct made m = {.id = ""};
	bool already;
	char why[WHY_MAX];

	(void)state;
	rig_must(hubrig_backup(&rig, vm.name, CATALOG_BACKUP_FULL, &view, &err), &err, "backup");
	strcpy(m.id, view.job.id);
	for (int i = 0; i < 2; i++)
		strcpy(m.path[i], view.disks[i].row.qcow2_path);
	assert_int_equal(rig_send(&rig, &vm, &view.disks[0], 0, vm.size[0]), 0);
	rig_must(hub_backup_complete(rig.hub, m.id, 0, "c/1", &done, &err), &err, "complete");
	assert_int_equal(files_of(&m), 3);
	assert_int_equal(refused(m.id, true, why), HUB_E_BUSY);
	assert_non_null(strstr(why, "cancel"));
	rig_must(hub_backup_cancel(rig.hub, m.id, &(struct hub_cancel_request){.reason = "x"},
				   &already, &err),
		 &err, "cancel");
	assert_int_equal(files_of(&m), 3);
	assert_int_equal(delete (m.id, false), 101);
	assert_int_equal(files_of(&m), 0);
	assert_false(has_rows(&m));
	hub_backup_view_deinit(&view);
}

static void a_vm_goes_with_everything(void **state)
{
	struct made full = make(CATALOG_BACKUP_FULL), incr = make(CATALOG_BACKUP_INCREMENTAL);
	struct catalog_vm_context row;
	struct hub_deleted out;
	struct err err = ERR_INIT;
	char folder[CATALOG_PATH_SIZE];

	(void)state;
	rig_must(catalog_vm_context_find(hub_catalog(rig.hub), vm.name, NULL, &row, &err), &err,
		 "vm");
	snprintf(folder, sizeof(folder), "%s/repo/%s", rig.dir, row.context_id);
	assert_true(there(folder));
	rig_must(hub_vm_delete_all(rig.hub, row.context_id, &out, &err), &err, "delete");
	assert_int_equal(out.n, 2);
	assert_int_equal(out.gone, 2);
	hub_deleted_deinit(&out);
	assert_int_equal(files_of(&full) + files_of(&incr), 0);
	assert_false(there(folder));
	assert_int_equal(hub_vm_delete_all(rig.hub, row.context_id, &out, &err), HUB_E_NOT_FOUND);
	hubrig_add_vm(&rig, &vm);
	full = make(CATALOG_BACKUP_INCREMENTAL);
	assert_int_equal(full.mode, CATALOG_BACKUP_FULL);
}

/* --- what cannot be removed ----------------------------------------------------------------- */

static void a_repository_that_is_away_is_tried_again(void **state)
{
	struct made full = make(CATALOG_BACKUP_FULL), incr = make(CATALOG_BACKUP_INCREMENTAL);
	struct hub_repository_change move = {.config = NULL};
	struct err err = ERR_INIT;
	char config[400];

	(void)state;
	assert_int_equal(scratch_run("mv '%s/repo' '%s/away'", rig.dir, rig.dir), 0);
	assert_int_equal(delete (incr.id, false), 1);
	assert_false(has_rows(&incr));
	assert_non_null(strstr(reason_of(incr.id), "repo"));
	assert_int_equal(delete (incr.id, false), 1); /* the same, and tried again */

	/* The bare mount point of what is away: nothing is known of the files. */
	assert_int_equal(scratch_run("mkdir -p '%s/repo/quarantine'", rig.dir), 0);
	assert_int_equal(delete (incr.id, false), 1);
	assert_non_null(strstr(reason_of(incr.id), "mounted"));
	assert_int_equal(delete (full.id, false), 1); /* nothing leans on it any more */
	snprintf(config, sizeof(config), "{\"path\":\"%s/elsewhere\"}", rig.dir);
	move.config = config;
	assert_int_equal(hub_repository_update(rig.hub, rig.repository, &move, &err), HUB_E_STATE);
	assert_non_null(strstr(err.text, "could not be removed"));
	assert_int_equal(catalog_repository_delete(hub_catalog(rig.hub), rig.repository, &err),
			 CATALOG_E_IN_USE);

	/* A hub that is started anew does not forget it; when it is time, it tries by itself. */
	hubrig_stop(&rig);
	hubrig_start(&rig);
	assert_int_equal(journal(), 2);
	assert_int_equal(
		scratch_run("rm -r '%s/repo'; mv '%s/away' '%s/repo'", rig.dir, rig.dir, rig.dir),
		0);
	assert_int_equal(files_of(&full) + files_of(&incr), 12);
	tmpdb_sql(&rig.db, "UPDATE backup_deletions SET retry_at = 1");
	await_empty_journal();
	assert_int_equal(files_of(&full) + files_of(&incr), 0);
}

/* The files of one are gone, which its hub could not note. That the VM's folder is not there must
 * not look like a repository that is away, when it comes back to it. */
static void folders_wait_for_what_is_not_known_to_be_gone(void **state)
{
	struct made full = make(CATALOG_BACKUP_FULL), other = make(CATALOG_BACKUP_FULL);
	char folder[CATALOG_PATH_SIZE];

	(void)state;
	snprintf(folder, sizeof(folder), "%.*s",
		 (int)(strstr(full.path[0], "/disk-") - full.path[0]), full.path[0]);
	assert_int_equal(scratch_run("mv '%s/repo' '%s/away'", rig.dir, rig.dir), 0);
	assert_int_equal(delete (full.id, false), 1);
	assert_int_equal(scratch_run("mv '%s/away' '%s/repo'", rig.dir, rig.dir), 0);
	for (size_t i = 0; i < vm.disk_count; i++)
		assert_int_equal(
			scratch_run("rm '%.*s'*", (int)strlen(full.path[i]) - 6, full.path[i]), 0);
	assert_int_equal(delete (other.id, false), 101);
	assert_true(there(folder));
	assert_int_equal(delete (full.id, false), 101);
	assert_false(there(folder));
}

static void one_file_that_stays_is_told_and_the_others_go(void **state)
{
	struct made full = make(CATALOG_BACKUP_FULL);
	char path[CATALOG_PATH_SIZE];

	(void)state;
	beside(full.path[0], ".json", path);
	assert_int_equal(scratch_run("rm '%s'; mkdir '%s'", path, path), 0);
	assert_int_equal(delete (full.id, false), 1);
	assert_non_null(strstr(reason_of(full.id), "no regular file"));
	assert_true(there(full.path[0]));
	assert_false(there(full.path[1]));
	assert_int_equal(scratch_run("rmdir '%s'", path), 0);
	assert_int_equal(delete (full.id, false), 101);
	assert_int_equal(files_of(&full), 0);
	assert_int_equal(journal(), 0);
}

/* Links in the repository lead to files that have the very names. */
static void no_link_leads_out_of_the_repository(void **state)
{
	struct made full = make(CATALOG_BACKUP_FULL), incr = make(CATALOG_BACKUP_INCREMENTAL);
	char folder[CATALOG_PATH_SIZE], outside[CATALOG_PATH_SIZE];

	(void)state;
	snprintf(folder, sizeof(folder), "%.*s", (int)(strrchr(incr.path[0], '/') - incr.path[0]),
		 incr.path[0]);
	assert_int_equal(scratch_run("mv '%s' '%s/outside' && ln -s '%s/outside' '%s'", folder,
				     rig.dir, rig.dir, folder),
			 0);
	assert_int_equal(delete (incr.id, false), 1);
	assert_non_null(strstr(reason_of(incr.id), "a link?"));
	snprintf(outside, sizeof(outside), "%s/outside%s", rig.dir, strrchr(incr.path[0], '/'));
	assert_true(there(outside));
	assert_int_equal(scratch_run("rm '%s' && mv '%s/outside' '%s'", folder, rig.dir, folder),
			 0);

	/* The image itself. */
	assert_int_equal(scratch_run("mv '%s' '%s/kept' && ln -s '%s/kept' '%s'", incr.path[0],
				     rig.dir, rig.dir, incr.path[0]),
			 0);
	assert_int_equal(delete (incr.id, false), 1);
	assert_non_null(strstr(reason_of(incr.id), "no regular file"));
	snprintf(outside, sizeof(outside), "%s/kept", rig.dir);
	assert_true(there(outside));
	assert_int_equal(scratch_run("mv '%s/kept' '%s'", rig.dir, incr.path[0]), 0);
	assert_int_equal(delete (incr.id, false), 101);
	assert_int_equal(files_of(&full), 6);
	assert_sound(&full);
}

static void a_path_that_leads_out_of_the_repository_is_left_alone(void **state)
{
	static const char *const forms[] = {"", "/repo/..", "/repo/x/../.."};
	char victim[CATALOG_PATH_SIZE], form[CATALOG_PATH_SIZE];

	(void)state;
	snprintf(victim, sizeof(victim), "%s/victim.qcow2", rig.dir);
	for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
		struct made full = make(CATALOG_BACKUP_FULL);

		assert_int_equal(scratch_run("touch '%s'; mkdir -p '%s/repo/x'", victim, rig.dir),
				 0);
		snprintf(form, sizeof(form), "%s%s/victim.qcow2", rig.dir, forms[i]);
		tmpdb_sql(&rig.db,
			  "UPDATE backup_disks SET qcow2_path = '%s' WHERE backup_job_id = '%s'"
			  " AND disk_index = 0",
			  form, full.id);
		assert_int_equal(delete (full.id, false), 1);
		assert_true(there(victim));
		assert_false(there(full.path[1]));
		if (i)
			continue;
		/* Gone is gone. */
		assert_int_equal(unlink(victim), 0);
		assert_int_equal(delete (full.id, false), 101);
	}
}

/* --- side by side --------------------------------------------------------------------------- */

static void *delete_in_a_thread(void *arg)
{
	struct hub_deleted out;

	hub_backup_delete(rig.hub, arg, true, &out, NULL);
	hub_deleted_deinit(&out);
	return NULL;
}

/* The last point goes, and its folders with it, while the next one is made in them. */
static void a_backup_that_starts_meanwhile_finds_its_folder(void **state)
{
	struct made full = make(CATALOG_BACKUP_FULL);

	(void)state;
	for (int i = 0; i < 12; i++) {
		char doomed[CATALOG_ID_SIZE];
		pthread_t thread;

		strcpy(doomed, full.id);
		assert_int_equal(pthread_create(&thread, NULL, delete_in_a_thread, doomed), 0);
		full = make(i % 2 ? CATALOG_BACKUP_FULL : CATALOG_BACKUP_INCREMENTAL);
		pthread_join(thread, NULL);
		await_empty_journal();
		/* It leaned on the other, which stayed then; or went with it, being completed. */
		if (!has_rows(&full)) {
			assert_int_equal(files_of(&full), 0);
			full = make(CATALOG_BACKUP_FULL);
		}
		assert_int_equal(files_of(&full), 6);
		assert_sound(&full);
	}
}

struct other_delete {
	const char *id;
	struct hub_deleted out;
	atomic_bool ended;
};

static void *delete_other(void *arg)
{
	struct other_delete *d = arg;

	hub_backup_delete(rig.hub, d->id, false, &d->out, NULL);
	atomic_store(&d->ended, true);
	return NULL;
}

static bool await_true(const atomic_bool *what)
{
	for (int i = 0; i < 6000 && !atomic_load(what); i++)
		nanosleep(&(struct timespec){.tv_nsec = 10 * 1000000L}, NULL);
	return atomic_load(what);
}

/* The call leaves its files to the thread that comes back to them. */
static void a_deletion_that_hangs_holds_up_no_other_call(void **state)
{
	struct made full = make(CATALOG_BACKUP_FULL), other = make(CATALOG_BACKUP_FULL);
	struct other_delete d = {.id = other.id};
	pthread_t thread, second;
	bool ended;

	(void)state;
	atomic_store(&hanging, 0);
	atomic_store(&hangs, true);
	assert_int_equal(pthread_create(&thread, NULL, delete_in_a_thread, full.id), 0);
	for (int i = 0; i < 6000 && !atomic_load(&hanging); i++)
		nanosleep(&(struct timespec){.tv_nsec = 10 * 1000000L}, NULL);
	assert_int_equal(pthread_create(&second, NULL, delete_other, &d), 0);
	ended = await_true(&d.ended);
	atomic_store(&hangs, false);
	pthread_join(thread, NULL);
	pthread_join(second, NULL);
	assert_true(ended);
	assert_int_equal(d.out.n, 1);
	assert_int_equal(d.out.gone, 0);
	assert_false(has_rows(&other));
	hub_deleted_deinit(&d.out);
	await_empty_journal();
	assert_int_equal(files_of(&full) + files_of(&other), 0);
}

/* --- killed --------------------------------------------------------------------------------- */

extern char **environ;

/* What the child does: DATA-DIR DATABASE AGENT BACKUP STEP LEASE-MS. */
static int run_as_hub(char **argv)
{
	static const char *const listen[] = {"127.0.0.1:0"};
	struct hub_config config = HUB_CONFIG_INIT;
	struct hub_deleted out;
	struct hub *hub = NULL;
	struct err err = ERR_INIT;

	config.data_dir = argv[0];
	config.db_url = argv[1];
	config.agent_url = argv[2];
	config.nbd_listen = listen;
	config.nbd_listen_count = 1;
	config.nbd.workers = 1;
	config.tick_ms = 3600 * 1000;
	config.lease_ms = (unsigned)atoi(argv[5]);
	rig_must(hub_start(&hub, &config, &err), &err, "hub_start");
	atomic_store(&steps_left, atoi(argv[4]));
	rig_must(hub_backup_delete(hub, argv[3], true, &out, &err), &err, "delete");
	atomic_store(&steps_left, 0);
	hub_deleted_deinit(&out);
	hub_stop(hub, NULL);
	return 0;
}

/* True when it was killed, false when it came to its end. */
static bool killed_as_hub(const char *data, const char *id, int k, unsigned lease_ms)
{
	char dir[300], step_text[16], lease_text[16], me[] = "hub", as_hub[] = "--hub";
	char *argv[] = {
		me,	    as_hub,    dir,	   rig.db.url, (char *)agentpeer_url(rig.peer),
		(char *)id, step_text, lease_text, NULL};
	int status;
	pid_t pid;

	snprintf(dir, sizeof(dir), "%s/%s", rig.dir, data);
	snprintf(step_text, sizeof(step_text), "%d", k);
	snprintf(lease_text, sizeof(lease_text), "%u", lease_ms);
	assert_int_equal(posix_spawn(&pid, "/proc/self/exe", NULL, NULL, argv, environ), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
		return true;
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	return false;
}

/* The same hub: it is started again. */
static bool kill_in_deletion(const char *id, int k)
{
	bool killed;

	hubrig_stop(&rig);
	killed = killed_as_hub("data", id, k, 3600 * 1000);
	hubrig_start(&rig);
	return killed;
}

/* Whether both are there, with all files, or both gone, with all files. */
static bool both_are_there(const struct made *a, const struct made *b)
{
	const bool rows = has_rows(a);

	await_empty_journal();
	assert_int_equal(has_rows(b), rows);
	assert_int_equal(files_of(a), rows ? 6 : 0);
	assert_int_equal(files_of(b), rows ? 6 : 0);
	return rows;
}

static void killed_at_any_step_it_is_all_there_or_all_gone(void **state)
{
	struct made full = make(CATALOG_BACKUP_FULL), a = make(CATALOG_BACKUP_INCREMENTAL),
		    b = make(CATALOG_BACKUP_INCREMENTAL);
	const int stride = tmpdb_either(1, 5); /* every statement is a step there */
	int k = 1, stayed = 0, went = 0;

	(void)state;
	while (kill_in_deletion(a.id, k)) {
		if (both_are_there(&a, &b)) {
			stayed++;
			assert_sound(&b);
		} else {
			went++;
			assert_sound(&full);
			a = make(CATALOG_BACKUP_INCREMENTAL);
			assert_int_equal(a.parent[0], full.row[0]);
			b = make(CATALOG_BACKUP_INCREMENTAL);
		}
		k += stride;
	}
	assert_false(both_are_there(&a, &b));
	assert_int_equal(files_of(&full), 6);
	assert_sound(&full);
	a = make(CATALOG_BACKUP_INCREMENTAL);
	for (int i = 0; i < 2; i++)
		assert_true(rig_point_equals(&rig, a.path[i], &vm, i));
	print_message("killed %d times before it was deleted, %d times after\n", stayed, went);
	assert_true(stayed >= 1);
	assert_true(went >= tmpdb_either(16, 8)); /* 12 files, 4 folders synced */
	tmpdb_assert_sound(&rig.db);
}

/* Another hub deletes, and dies over it; this one runs all the time. */
static void what_a_hub_died_over_another_one_finishes(void **state)
{
	struct made full = make(CATALOG_BACKUP_FULL), a, b;
	int went = 0;

	(void)state;
	hubrig_stop(&rig);
	rig.config.lease_ms = 500;
	hubrig_start(&rig);
	/* The other's lease is ended by writing the database: no pause of one of them, however
	 * long, makes it look dead while it lives. */
	for (int k = tmpdb_either(100, 60); went < 3; k += tmpdb_either(13, 23)) {
		a = make(CATALOG_BACKUP_INCREMENTAL);
		b = make(CATALOG_BACKUP_INCREMENTAL);
		if (!killed_as_hub("data2", a.id, k, 3600 * 1000))
			break; /* it came to its end before step k */
		tmpdb_sql(&rig.db, "UPDATE hubs SET lease_until = 1 WHERE token ="
				   " (SELECT last_token FROM hub_tokens)");
		if (both_are_there(&a, &b))
			assert_int_equal(delete (a.id, true), 202);
		else
			went++;
		assert_int_equal(files_of(&a) + files_of(&b), 0);
		assert_sound(&full);
	}
	assert_true(went >= 1);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(the_latest_goes_with_its_files_and_the_chain_goes_on),
		T(the_last_point_takes_its_folders_along),
		T(of_a_failed_backup_the_committed_disk_goes),
		T(a_vm_goes_with_everything),
		T(a_repository_that_is_away_is_tried_again),
		T(folders_wait_for_what_is_not_known_to_be_gone),
		T(one_file_that_stays_is_told_and_the_others_go),
		T(no_link_leads_out_of_the_repository),
		T(a_path_that_leads_out_of_the_repository_is_left_alone),
		T(a_backup_that_starts_meanwhile_finds_its_folder),
		T(a_deletion_that_hangs_holds_up_no_other_call),
		T(killed_at_any_step_it_is_all_there_or_all_gone),
		T(what_a_hub_died_over_another_one_finishes),
	};

	if (argc == 8 && !strcmp(argv[1], "--hub"))
		return run_as_hub(argv + 2);
	return tmpdb_run_tests("hub/delete", tests, NULL, NULL);
}
