/* Repositories of a local folder: names, commit, sidecars, quarantine. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "hub/repo/repo.h"
#include "tests/support/scratch.h"

static char root[400];

static struct repo *open_repo(bool create)
{
	struct catalog_repository row = {.name = "r", .type = CATALOG_REPOSITORY_LOCAL};
	struct err err = ERR_INIT;
	struct repo *repo;
	char cwd[300];

	assert_non_null(getcwd(cwd, sizeof(cwd)));
	snprintf(root, sizeof(root), "%s/deep/repo", cwd);
	snprintf(row.config, sizeof(row.config), "{\"path\":\"%s//\"}", root);
	assert_int_equal(repo_open(&repo, &row, create, &err), 0);
	assert_string_equal(repo->root, root);
	return repo;
}

static int refused(const char *config)
{
	struct catalog_repository row = {.name = "r", .type = CATALOG_REPOSITORY_LOCAL};
	struct err err = ERR_INIT;
	struct repo *repo;
	int rc;

	strcpy(row.config, config);
	rc = repo_open(&repo, &row, false, &err);
	if (rc)
		assert_true(err.text[0]);
	else
		repo_close(repo);
	return rc;
}

static void put(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static bool is_there(const char *path)
{
	struct stat st;

	return !lstat(path, &st);
}

static const struct repo_point_key key = {
	.vm = "ctx-1", .disk_index = 2, .mode = CATALOG_BACKUP_FULL, .stamp = "20251008-120000"};

static void a_configuration_that_makes_no_sense_is_refused_by_name(void **state)
{
	(void)state;
	assert_int_equal(refused("{"), -EINVAL);
	assert_int_equal(refused("[]"), -EINVAL);
	assert_int_equal(refused("{}"), -EINVAL);
	assert_int_equal(refused("{\"path\":\"relative\"}"), -EINVAL);
	assert_int_equal(refused("{\"path\":\"/\"}"), -EINVAL);
	assert_int_equal(refused("{\"path\":\"/tmp/../etc\"}"), -EINVAL);
	assert_int_equal(refused("{\"path\":\"/tmp/..\"}"), -EINVAL);
	assert_int_equal(refused("{\"path\":\"/tmp\",\"pth\":1}"), -EINVAL);
	assert_int_equal(refused("{\"path\":\"/tmp\",\"auto_mount\":true}"), -EINVAL);
	assert_int_equal(refused("{\"path\":\"/proc/1/nothing/here\"}"), -ENOENT);
	assert_int_equal(refused("{\"path\":\"/dev/null\"}"), -ENOTDIR);
}

static void creating_makes_the_folder_and_the_probe_leaves_nothing(void **state)
{
	struct repo *repo = open_repo(true);
	struct repo_storage storage;
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(repo->ops->probe(repo, &err), 0);
	assert_int_equal(scratch_run("test \"$(ls -A '%s')\" = quarantine", root), 0);
	assert_int_equal(repo->ops->storage(repo, &storage, &err), 0);
	assert_true(storage.total_bytes >= storage.used_bytes);
	assert_true(storage.available_bytes > 0);
	repo_close(repo);
}

static void points_of_one_second_have_names_of_their_own(void **state)
{
	struct repo *repo = open_repo(true);
	struct repo_point a, b, c;
	struct err err = ERR_INIT;
	char wanted[600];

	(void)state;
	assert_int_equal(repo->ops->new_point(repo, &key, &a, &err), 0);
	snprintf(wanted, sizeof(wanted), "%s/ctx-1/disk-2/full-20251008-120000.qcow2", root);
	assert_string_equal(a.path, wanted);
	put(a.part, "x");
	assert_int_equal(repo->ops->new_point(repo, &key, &b, &err), 0);
	assert_string_not_equal(b.path, a.path);
	put(b.path, "y");
	assert_int_equal(repo->ops->new_point(repo, &key, &c, &err), 0);
	assert_string_not_equal(c.path, a.path);
	assert_string_not_equal(c.path, b.path);
	repo_close(repo);
}

static void a_vm_folder_cannot_lead_out_of_the_repository(void **state)
{
	static const char *const names[] = {"", ".", "..", "../x", "a/b", "quarantine", ".hidden"};
	struct repo *repo = open_repo(true);
	struct repo_point point;
	struct err err = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct repo_point_key bad = key;

		bad.vm = names[i];
		assert_int_equal(repo->ops->new_point(repo, &bad, &point, &err), -EINVAL);
	}
	repo_close(repo);
}

static void commit_never_overwrites(void **state)
{
	struct repo *repo = open_repo(true);
	struct repo_point point;
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(repo->ops->new_point(repo, &key, &point, &err), 0);
	put(point.part, "new");
	put(point.path, "old");
	assert_int_equal(repo->ops->commit(repo, &point, &err), -EEXIST);
	assert_int_equal(scratch_run("test \"$(cat '%s')\" = old", point.path), 0);
	assert_int_equal(unlink(point.path), 0);
	assert_int_equal(repo->ops->commit(repo, &point, &err), 0);
	assert_int_equal(scratch_run("test \"$(cat '%s')\" = new", point.path), 0);
	assert_false(is_there(point.part));
	repo_close(repo);
}

static void a_sidecar_is_replaced_whole(void **state)
{
	struct repo *repo = open_repo(true);
	struct repo_point point;
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(repo->ops->new_point(repo, &key, &point, &err), 0);
	assert_int_equal(repo->ops->put_sidecar(repo, point.path, "{\"a\":1}", 7, &err), 0);
	assert_int_equal(repo->ops->put_sidecar(repo, point.path, "{}", 2, &err), 0);
	assert_int_equal(scratch_run("test \"$(cat '%.*s.json')\" = '{}'",
				     (int)strlen(point.path) - (int)strlen(".qcow2"), point.path),
			 0);
	assert_int_equal(scratch_run("test -z \"$(find '%s' -name '*.tmp')\"", root), 0);
	repo_close(repo);
}

static void the_quarantine_takes_all_of_a_point_and_tells_its_size(void **state)
{
	struct repo *repo = open_repo(true);
	struct repo_point point;
	struct err err = ERR_INIT;
	int64_t moved = -1;

	(void)state;
	assert_int_equal(repo->ops->new_point(repo, &key, &point, &err), 0);
	assert_int_equal(repo->ops->quarantine(repo, &point, REPO_KEEP, &moved, &err), 0);
	assert_int_equal(moved, 0); /* nothing there: nothing wrong */
	put(point.path, "image");
	assert_int_equal(repo->ops->put_sidecar(repo, point.path, "{}", 2, &err), 0);
	assert_int_equal(scratch_run("head -c 100000 /dev/urandom > '%s'; sync '%s'", point.part,
				     point.part),
			 0);
	assert_int_equal(repo->ops->quarantine(repo, &point, REPO_KEEP, &moved, &err), 0);
	assert_true(moved >= 100000);
	assert_int_equal(scratch_run("test -z \"$(find '%s/ctx-1' -type f)\"", root), 0);
	assert_int_equal(
		scratch_run("test \"$(find '%s/quarantine' -name 'ctx-1_disk-2_full-*' | wc -l)\" "
			    "-eq 3",
			    root),
		0);
	/* The same names again: nothing of the first is lost. */
	put(point.part, "again");
	assert_int_equal(repo->ops->quarantine(repo, &point, REPO_KEEP, &moved, &err), 0);
	assert_int_equal(
		scratch_run("test \"$(find '%s/quarantine' -type f | wc -l)\" -eq 4", root), 0);
	repo_close(repo);
}

static void on_a_full_disk_the_quarantine_gives_the_space_back(void **state)
{
	struct repo *repo = open_repo(true);
	struct repo_point point;
	struct err err = ERR_INIT;
	int64_t moved = 0;

	(void)state;
	assert_int_equal(repo->ops->new_point(repo, &key, &point, &err), 0);
	assert_int_equal(scratch_run("head -c 100000 /dev/urandom > '%s'; sync '%s'", point.part,
				     point.part),
			 0);
	assert_int_equal(repo->ops->quarantine(repo, &point, REPO_EMPTY, &moved, &err), 0);
	assert_true(moved >= 100000);
	assert_int_equal(scratch_run("test -z \"$(find '%s/quarantine' -type f -size +0)\"", root),
			 0);
	assert_int_equal(scratch_run("test -n \"$(find '%s/quarantine' -type f -size 0)\"", root),
			 0);
	repo_close(repo);
}

static void nothing_outside_the_repository_is_quarantined(void **state)
{
	struct repo *repo = open_repo(true);
	struct repo_point point = {.path = "/etc/hostname", .part = ""};
	struct err err = ERR_INIT;
	int64_t moved;

	(void)state;
	assert_int_equal(repo->ops->quarantine(repo, &point, REPO_KEEP, &moved, &err), -EINVAL);
	snprintf(point.path, sizeof(point.path), "%s/../x", root);
	put(point.path, "x");
	assert_int_equal(repo->ops->quarantine(repo, &point, REPO_KEEP, &moved, &err), -EINVAL);
	assert_true(is_there(point.path));
	repo_close(repo);
}

static void the_sweep_takes_partials_and_nothing_else(void **state)
{
	struct repo *repo = open_repo(true);
	struct repo_point mine, other, orphan;
	struct file *open_elsewhere;
	struct err err = ERR_INIT;
	unsigned count;
	int64_t bytes;

	(void)state;
	assert_int_equal(repo->ops->new_point(repo, &key, &mine, &err), 0);
	put(mine.part, "partial");
	assert_int_equal(repo->ops->new_point(repo, &key, &orphan, &err), 0);
	put(orphan.path, "a point whose catalog was lost");
	assert_int_equal(repo->ops->new_point(repo, &key, &other, &err), 0);
	assert_int_equal(file_open(&open_elsewhere, other.part,
				   FILE_RDWR | FILE_CREATE | FILE_BUFFERED, &err),
			 0);
	assert_int_equal(repo->ops->sweep(repo, &count, &bytes, &err), 0);
	assert_int_equal(count, 1);
	assert_false(is_there(mine.part));
	assert_true(is_there(orphan.path));
	assert_true(is_there(other.part));
	file_close(open_elsewhere);
	repo_close(repo);
}

static void a_parents_name_is_relative_wherever_it_lies(void **state)
{
	struct repo repo = {.root = "/r"};
	char out[200], tiny[8];

	(void)state;
	assert_true(repo_relative(&repo, "/r/v/disk-0/b", "/r/v/disk-0/a", out, sizeof(out)));
	assert_string_equal(out, "a");
	assert_true(repo_relative(&repo, "/r/v/disk-0/b", "/r/v/disk-01/a", out, sizeof(out)));
	assert_string_equal(out, "../disk-01/a");
	assert_true(repo_relative(&repo, "/r/v/disk-0/b", "/r/w/disk-0/a", out, sizeof(out)));
	assert_string_equal(out, "../../w/disk-0/a");
	assert_false(repo_relative(&repo, "/r/v/b", "/elsewhere/a", out, sizeof(out)));
	assert_false(repo_relative(&repo, "/r/v/b", "/r/../etc/passwd", out, sizeof(out)));
	assert_false(repo_relative(&repo, "/r/v/b", "/rr/a", out, sizeof(out)));
	assert_false(repo_relative(&repo, "/r/v/disk-0/b", "/r/w/disk-0/a", tiny, sizeof(tiny)));
}

#define T(name) cmocka_unit_test_setup_teardown(name, scratch_setup, scratch_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_configuration_that_makes_no_sense_is_refused_by_name),
		T(creating_makes_the_folder_and_the_probe_leaves_nothing),
		T(points_of_one_second_have_names_of_their_own),
		T(a_vm_folder_cannot_lead_out_of_the_repository),
		T(commit_never_overwrites),
		T(a_sidecar_is_replaced_whole),
		T(the_quarantine_takes_all_of_a_point_and_tells_its_size),
		T(on_a_full_disk_the_quarantine_gives_the_space_back),
		T(nothing_outside_the_repository_is_quarantined),
		T(the_sweep_takes_partials_and_nothing_else),
		T(a_parents_name_is_relative_wherever_it_lies),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
